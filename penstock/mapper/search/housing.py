"""Where the tensors of one combination live best: exact, by branch and bound.

Moving a tensor inward can only be barred by room, so that most combinations never come here.
Excluded: everything but memories.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from penstock.mapper.search.combine import Single, Spot, reaches
from penstock.mapper.search.residency import Where
from penstock.mapper.search.space import Place

__all__ = ["Housing", "Key", "better", "house", "house_all", "promising"]

Key = tuple[float, float, float]
"""What a point is judged by: objective, bytes of the outermost memory, energy."""

MAX_NODES = 20_000
MORE_NODES = 2_000
SAME = 1e-12


def better(first: Key, second: Key | None) -> bool:
    """Whether a point is better: by its objective, then by bytes, then by energy."""
    if second is None:
        return True
    for one, other in zip(first, second, strict=True):
        if abs(one - other) > SAME * max(abs(one), abs(other)):
            return one < other
    return False


def promising(bound: Key, beat: Key | None) -> bool:
    """Whether a point with this lower bound may have a smaller objective, or equal and fewer bytes.

    Less energy alone is no reason to look further.
    """
    return beat is None or better((*bound[:2], 0.0), (*beat[:2], 0.0))


@dataclass(frozen=True)
class Housing:
    """The best residency of a combination: its key, and tensor → place.

    ``found`` is None if none is better than the one to beat. ``points`` were costed, in ``nodes``
    steps; ``complete`` says whether all others are shown to be no better.
    """

    found: tuple[Key, Mapping[str, Place]] | None
    points: int
    nodes: int
    complete: bool


def house(combination: Single, objective: str, beat: Key | None) -> Housing:
    """Find the best residency that is better than `beat`.

    Args:
        combination: whose tensors.
        objective: ``latency``, ``energy`` or ``edp``.
        beat: the key to beat, None for any.
    """
    search = _Search(combination, objective, beat)
    search.begin()
    complete = search.nodes <= MAX_NODES
    if search.found is not None and complete:  # the same cost with less energy, as far as is quick
        search.by_energy, search.nodes = True, MAX_NODES - MORE_NODES
        search.begin()
    return Housing(search.found, search.points, search.nodes, complete)


def house_all(
    combination: Single,
    worth: Callable[[float, float], bool],
    take: Callable[[Key, Mapping[str, Place]], None],
) -> tuple[int, int, bool]:
    """Show every residency of a combination that `worth` does not rule out to `take`.

    Args:
        combination: whose tensors.
        worth: whether a point with at least this latency and energy is wanted; may change.
        take: is given the key, of latency, and tensor → place.

    Returns:
        What `Housing` calls points, nodes and complete.
    """
    search = _Every(combination, "latency", None, wanted=worth, given=take)
    search.begin()
    return search.points, search.nodes, search.nodes <= MAX_NODES


@dataclass
class _Search:
    """The state of one branch and bound; lives only inside `house`."""

    combination: Single
    objective: str
    beat: Key | None
    found: tuple[Key, Mapping[str, Place]] | None = None
    points: int = 0
    nodes: int = 0
    by_energy: bool = False
    used: dict[tuple[str, Where], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.schedule = self.combination.schedule
        self.base_at, self.base_energy = self.combination.fixed
        self.whole = self.combination.whole
        self.dram, self.bodies = self.whole.dram, self.whole.bodies
        self.rest_bytes = self.whole.costs.rest_bytes
        self.used = {
            (memory, body): self.rest_bytes if memory == self.dram else 0.0
            for memory, bodies in self.bodies.items()
            for body in bodies
        }
        options = {tensor: list(self.combination.spots(tensor)) for tensor in self.whole.choices}
        self.order = sorted(options, key=lambda name: _weight(options[name]), reverse=True)
        self.options = [options[name] for name in self.order]
        self.rest = [(0.0, 0.0)]
        for choices in reversed(self.options):
            moved, energy = self.rest[0]
            least = min(each.at.get(self.dram, 0.0) for each in choices)
            self.rest.insert(0, (moved + least, energy + min(each.energy_pj for each in choices)))

    def begin(self) -> None:
        """Search everything, if what is not kept has room."""
        if self.rest_bytes <= self.whole.room(self.dram):
            self.descend(0, dict(self.base_at), self.base_energy, {})

    def key(self, at: Mapping[str, float], energy: float) -> Key:
        """Return what costs amount to."""
        latency = self.schedule
        for memory in self.whole.target.memories:
            if memory.name in at and math.isfinite(memory.bytes_per_cycle):
                speed = memory.bytes_per_cycle * memory.instances
                latency = max(latency, at[memory.name] / speed)
        cost = {"latency": latency, "energy": energy, "edp": latency * energy}[self.objective]
        return cost, at.get(self.dram, 0.0), energy

    def descend(
        self, number: int, at: dict[str, float], energy: float, kept: dict[str, Place]
    ) -> None:
        """Choose the memory of one tensor after the other."""
        self.nodes += 1
        if self.nodes > MAX_NODES:
            return
        moved, more = self.rest[number]
        bound = self.key({**at, self.dram: at.get(self.dram, 0.0) + moved}, energy + more)
        if not self.worth(bound):
            return
        if number == len(self.order):
            self.points += 1
            self.take(bound, dict(kept))
            return
        tensor = self.order[number]
        for option in self.options[number]:
            if self._room(option, 1.0):
                inner = dict(at)
                for name, count in option.at.items():
                    inner[name] = inner.get(name, 0.0) + count
                here = {**kept, tensor: option.place}
                self.descend(number + 1, inner, energy + option.energy_pj, here)
            self._room(option, -1.0)

    def worth(self, bound: Key) -> bool:
        """Whether what costs at least `bound` is worth a look."""
        beat = self.found[0] if self.found else self.beat
        return better(bound, beat) if self.by_energy else promising(bound, beat)

    def take(self, key: Key, kept: Mapping[str, Place]) -> None:
        """Keep a residency that is worth it."""
        self.found = (key, kept)

    def _room(self, option: Spot, sign: float) -> bool:
        """Use room, or give it back; return whether there is enough."""
        fits = True
        for place, size in zip(option.place.all, (option.size, option.cached), strict=False):
            memory = place.memory
            for body in self.bodies[memory]:
                if reaches(place, body):
                    self.used[memory, body] += sign * size
                    fits = fits and self.used[memory, body] <= self.whole.room(memory)
        return fits


@dataclass
class _Every(_Search):
    """A branch and bound with its caller's idea of what is worth it."""

    wanted: Callable[[float, float], bool] = field(kw_only=True)
    given: Callable[[Key, Mapping[str, Place]], None] = field(kw_only=True)

    def worth(self, bound: Key) -> bool:
        return self.wanted(bound[0], bound[2])

    def take(self, key: Key, kept: Mapping[str, Place]) -> None:
        self.given(key, kept)


def _weight(choices: list[Spot]) -> float:
    """Return the most room that a tensor may take inside: large ones are placed first."""
    return max((each.size for each in choices if each.place.home is not None), default=0.0)

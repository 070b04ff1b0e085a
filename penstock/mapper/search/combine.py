"""The costs of all combinations of a skeleton's options at once, as numpy arrays.

Each site with several options is an axis. What depends on few sites is a small array that
broadcasts; sums over all sites are the only large ones. Excluded: what is best (`explore.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.mapper.leaf import reads_back, threads_own
from penstock.mapper.model.interval import Task, Wait, initiation_interval
from penstock.mapper.resources import LIMITED
from penstock.mapper.search.costs import Costs, Moves, Tabulator
from penstock.mapper.search.residency import Home, Where
from penstock.mapper.search.space import Place, in_time, stages_of
from penstock.targets.base import Target

__all__ = ["Choice", "Combinations", "Single", "Spot", "Totals", "capped", "reaches", "sliced"]

MAX_COMBINATIONS = 1 << 18
"""Combinations of one skeleton that are kept in memory; beyond, the smallest sites are fixed."""

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Choice:
    """One memory for one tensor, over all combinations.

    Args:
        place: the memory, and the body from which inward the tensor lives there.
        allowed: where all readers reach it and the tensor alone has room in it.
        size: bytes that it takes there.
        at: memory → bytes that the tensor moves there.
        energy_pj: of these.
        cached: bytes that it takes in the cache around the place.
    """

    place: Place
    allowed: Flags
    size: Floats
    at: Mapping[str, Floats]
    energy_pj: Floats
    cached: float = 0.0


@dataclass(frozen=True)
class Totals:
    """Costs of combinations, one entry for each: of one residency, or least ones of any.

    ``fits`` says whether all memories have room.
    """

    latency: Floats
    dram_bytes: Floats
    energy_pj: Floats
    fits: Flags

    def objective(self, name: str) -> Floats:
        """Return what is to be made small."""
        if name == "latency":
            return self.latency
        return self.energy_pj if name == "energy" else self.latency * self.energy_pj


def reaches(place: Place, body: Where) -> bool:
    """Whether what lives in a place is there while a body runs."""
    return place.home is None or body[: len(place.home.body)] == place.home.body


def sliced(costs: Costs, parts: Sequence[NDArray[np.int64]]) -> Costs:
    """Return the costs with part of each site's options, by position, left."""
    sites = []
    for site, part in zip(costs.sites, parts, strict=True):
        moves = {
            key: Moves({m: a[part] for m, a in each.at.items()}, each.energy_pj[part])
            for key, each in site.moves.items()
        }
        sites.append(
            replace(
                site,
                picks=tuple(site.picks[pick] for pick in part),
                arrays=site.arrays[part],
                cycles=site.cycles[part],
                init_cycles=site.init_cycles[part],
                late_cycles=site.late_cycles[part],
                energy_pj=site.energy_pj[part],
                moves=moves,
                shares={key: each[part] for key, each in site.shares.items()},
                parts=site.parts[part],
                layouts={key: each[part] for key, each in site.layouts.items()},
            )
        )
    return replace(costs, sites=tuple(sites))


class Combinations:
    """All combinations of the options of a skeleton's sites.

    Args:
        costs: of the skeleton.
        tab: that counted them.
    """

    def __init__(self, costs: Costs, tab: Tabulator) -> None:
        self.costs, self.tab, self.target = costs, tab, tab.target
        self.counts = [len(site.picks) for site in costs.sites]
        self.axes = [number for number, count in enumerate(self.counts) if count > 1]
        self.shape = tuple(self.counts[number] for number in self.axes) or (1,)
        self.one = tuple(1 for _ in self.shape)
        self.arrays = [self.along(n, site.arrays) for n, site in enumerate(costs.sites)]
        self.order = {site.site.einsum: number for number, site in enumerate(costs.sites)}
        self.dram = self.target.dram.name

    @property
    def size(self) -> int:
        """The number of combinations."""
        return math.prod(self.counts)

    def picks(self, flat: int) -> tuple[int, ...]:
        """Return each site's option in a combination."""
        found = dict(zip(self.axes, np.unravel_index(flat, self.shape), strict=False))
        return tuple(int(found.get(number, 0)) for number in range(len(self.counts)))

    def along(self, site: int, values: NDArray[Any]) -> NDArray[Any]:
        """Lay one value for each option of a site along its axis."""
        shape = list(self.one)
        if site in self.axes:
            shape[self.axes.index(site)] = len(values)
        return values.reshape(shape)

    def flat(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return one value for each combination."""
        return np.broadcast_to(values, self.shape).reshape(-1)

    # -- schedule --------------------------------------------------------------------------

    @cached_property
    def stages(self) -> list[NDArray[np.int64]]:
        """The stage of each site."""
        return stages_of([costs.site for costs in self.costs.sites], self.arrays)

    @cached_property
    def legal(self) -> Flags:
        """Which combinations are points of the space."""
        sites = [costs.site for costs in self.costs.sites]
        return in_time(sites, self.arrays, self.stages) & self._fits_part()

    def _fits_part(self) -> Flags:
        """Return where a part has the operators of all sites."""
        fits = np.ones(1, dtype=bool)
        has = dict(self.target.resources)
        for column, name in enumerate(LIMITED):
            if name in has:
                needed = np.zeros(1)
                for number, site in enumerate(self.costs.sites):
                    needed = needed + self.along(number, site.parts[:, column])
                fits = fits & (needed <= has[name])
        return fits

    @cached_property
    def schedule(self) -> Floats:
        """Cycles of the schedule: leaves one after another, pipelined loops by busiest array.

        Exact unless the skeleton is recurrent, for then every consumer on another array works a
        stage later, and no circle of waits is longer than an array's own list.
        """
        total = np.zeros(self.one)
        loops: dict[int, dict[int, Floats]] = {}
        for number, costs in enumerate(self.costs.sites):
            total = total + self.along(number, costs.init_cycles)
            if costs.site.pipeline < 0:
                total = total + self.along(number, costs.cycles)
                continue
            loads = loops.setdefault(costs.site.pipeline, {})
            for array in np.unique(costs.arrays):
                mine = np.where(costs.arrays == array, costs.cycles, 0.0)
                loads[int(array)] = loads.get(int(array), np.zeros(1)) + self.along(number, mine)
        for loads in loops.values():
            busiest = np.zeros(1)
            for load in loads.values():
                busiest = np.maximum(busiest, load)
            total = total + busiest
        return total

    # -- tensors ---------------------------------------------------------------------------

    @cached_property
    def choices(self) -> dict[str, list[Choice]]:
        """Tensor → the memories in which it may live, innermost first."""
        return {
            each.tensor: [self._choice(each.tensor, place) for place in each.places]
            for each in self.costs.skeleton.residents
        }

    def _choice(self, tensor: str, place: Place) -> Choice:
        memory = place.memory
        allowed = np.ones(self.one, dtype=bool)
        moved = self._moved(tensor, place)
        if place.home is None:
            inside = tensor not in self.tab.facts.inputs | self.tab.facts.outputs
            size = np.full(1, self.costs.whole_bytes[tensor] if inside else 0.0)
            return Choice(place, allowed, size, moved.at, moved.energy_pj)
        owner = self.tab.owners[memory]
        if owner:
            allowed, size = self._owned(tensor, memory, owner)
        else:
            size = np.full(1, self.costs.sizes[tensor, place])
        size = size * self._copies(tensor, place.home)
        allowed = allowed & (size <= self.room(memory))
        cached = self.costs.sizes[tensor, place.around] if place.around else 0.0
        if place.around is not None:
            allowed = allowed & (cached <= self.room(place.around.memory))
        return Choice(place, allowed, size, moved.at, moved.energy_pj, cached)

    def room(self, memory: str) -> float:
        """Return the bytes that may be kept in a memory, in one place of a spread one."""
        found = self.target.memory(memory)
        pooled = self.target.spread(found) is None and not found.along
        return found.total_bytes if pooled else found.capacity_bytes

    def _readers(self, tensor: str) -> list[int]:
        """Return the sites that read a tensor; partial sums are read by their own Einsum."""
        steps = self.tab.facts.steps
        return [
            number
            for name, number in self.order.items()
            if any(use.tensor == tensor for use in steps[name].reads)
            or (
                name == tensor
                and reads_back(steps[name].einsum, self.costs.sites[number].site.nests)
            )
        ]

    def _owned(self, tensor: str, memory: str, owner: str) -> tuple[Flags, Floats]:
        """Return where all readers are on the memory's array, and the fullest place's bytes."""
        mine = [array.name for array in self.target.arrays].index(owner)
        readers = self._readers(tensor)
        allowed = np.full(self.one, bool(readers))
        size = np.zeros(1)
        for number in readers:
            allowed = allowed & (self.arrays[number] == mine)
        for number, costs in enumerate(self.costs.sites):
            share = costs.shares.get((tensor, memory))
            if share is not None:
                size = np.maximum(size, self.along(number, share))
        if threads_own(self.target.memory(memory), self.target):
            allowed = allowed & self._alike(tensor, mine, readers)
        return allowed, size

    def _alike(self, tensor: str, mine: int, readers: list[int]) -> Flags:
        """Return where all who use a tensor on an array lay it along threads in one way."""
        alike: Flags = np.ones(self.one, dtype=bool)
        first = self.along(readers[0], self.costs.sites[readers[0]].layouts[tensor])
        for number in [*readers[1:], *(self.order[t] for t in (tensor,) if t in self.order)]:
            layout = self.along(number, self.costs.sites[number].layouts[tensor])
            alike = alike & ((layout == first) | (self.arrays[number] != mine))
        return alike

    def _copies(self, tensor: str, home: Home) -> NDArray[np.int64]:
        """Return the copies of a tensor that iterations in flight need."""
        maker = self.order.get(tensor)
        if maker is None or not any(nest.pipelined for nest in home.nests):
            return np.ones(1, dtype=np.int64)
        stages = [self.stages[each] for each in (maker, *self._readers(tensor))]
        most, least = stages[0], stages[0]
        for stage in stages[1:]:
            most, least = np.maximum(most, stage), np.minimum(least, stage)
        return most - least + 1

    def _moved(self, tensor: str, place: Place) -> Moves:
        """Return the traffic of a tensor with all sites, and of copying it in."""
        at: dict[str, Floats] = {}
        energy = np.zeros(1)
        parts: list[tuple[int, Moves]] = [
            (number, costs.moves[tensor, place.memory])
            for number, costs in enumerate(self.costs.sites)
            if (tensor, place.memory) in costs.moves
        ]
        copied = self.costs.copies.get((tensor, place))
        if copied is not None:
            parts.append((-1, copied))
        for number, moves in parts:
            for name, count in moves.at.items():
                at[name] = at.get(name, np.zeros(1)) + self.along(number, count)
            energy = energy + self.along(number, moves.energy_pj)
        return Moves(at, energy)

    @cached_property
    def fixed(self) -> Moves:
        """Traffic of the tensors that always live in the outermost memory; all operations."""
        at: dict[str, Floats] = {}
        energy = np.zeros(1)
        tensors = {tensor for costs in self.costs.sites for tensor, _ in costs.moves}
        for tensor in sorted(tensors - self.choices.keys()):
            moved = self._moved(tensor, Place(self.dram, None))
            energy = energy + moved.energy_pj
            for name, count in moved.at.items():
                at[name] = at.get(name, np.zeros(1)) + count
        for number, costs in enumerate(self.costs.sites):
            energy = energy + self.along(number, costs.energy_pj)
        return Moves(at, energy)

    # -- totals ----------------------------------------------------------------------------

    def innermost(self) -> Totals:
        """Return the costs with every tensor in the first memory that allows it."""
        at = dict(self.fixed.at)
        energy = self.fixed.energy_pj
        held: list[tuple[Place, Floats]] = []
        for resident in self.costs.skeleton.residents:
            left = np.ones(self.one, dtype=bool)
            for choice in self.choices[resident.tensor]:
                here = left & choice.allowed
                left = left & ~choice.allowed
                energy = energy + np.where(here, choice.energy_pj, 0.0)
                for name, count in choice.at.items():
                    at[name] = at.get(name, np.zeros(1)) + np.where(here, count, 0.0)
                taken = np.where(here, choice.size, 0.0)
                held.append((choice.place, taken))
                if choice.place.around is not None:
                    held.append((choice.place.around, np.where(here, choice.cached, 0.0)))
        return self._totals(at, energy, self._fits(held) & self.legal)

    def least(self) -> Totals:
        """Return bounds on the costs of any residency; `fits` leaves room aside."""
        at = {self.dram: self.fixed.at.get(self.dram, np.zeros(1))}
        energy = self.fixed.energy_pj
        for choices in self.choices.values():
            bytes_, energies = np.full(1, np.inf), np.full(1, np.inf)
            for choice in choices:
                count = choice.at.get(self.dram, np.zeros(1))
                bytes_ = np.minimum(bytes_, np.where(choice.allowed, count, np.inf))
                energies = np.minimum(energies, np.where(choice.allowed, choice.energy_pj, np.inf))
            at[self.dram] = at[self.dram] + bytes_
            energy = energy + energies
        return self._totals(at, energy, self.legal)

    def _totals(self, at: Mapping[str, Floats], energy: Floats, fits: Flags) -> Totals:
        latency = self.schedule
        for memory in self.target.memories:
            if memory.name in at and math.isfinite(memory.bytes_per_cycle):
                speed = memory.bytes_per_cycle * memory.instances
                latency = np.maximum(latency, at[memory.name] / speed)
        return Totals(
            self.flat(latency),
            self.flat(at.get(self.dram, np.zeros(1))),
            self.flat(energy),
            self.flat(fits),
        )

    def _fits(self, held: Sequence[tuple[Place, Floats]]) -> Flags:
        """Return where every memory has room on every way from the outermost body inward."""
        fits = np.ones(1, dtype=bool)
        for memory, bodies in self.bodies.items():
            base = self.costs.rest_bytes if memory == self.dram else 0.0
            for body in bodies:
                total = np.full(1, base)
                for place, size in held:
                    if place.memory == memory and reaches(place, body):
                        total = total + size
                fits = fits & (total <= self.room(memory))
        return fits

    @cached_property
    def bodies(self) -> dict[str, list[Where]]:
        """Return memory → the bodies in which it may be fullest."""
        found: dict[str, set[Where]] = {self.dram: {()}}
        for resident in self.costs.skeleton.residents:
            for place in (one for each in resident.places for one in each.all):
                if place.home is not None:
                    found.setdefault(place.memory, set()).add(place.home.body)
        return {memory: sorted(bodies) for memory, bodies in found.items()}


@dataclass(frozen=True)
class Spot:
    """One memory for one tensor of a single combination: a `Choice` that it allows, in numbers."""

    place: Place
    size: float
    at: Mapping[str, float]
    energy_pj: float
    cached: float = 0.0


class Single:
    """One of many combinations.

    Args:
        whole: all of them.
        flat: its number.
    """

    def __init__(self, whole: Combinations, flat: int) -> None:
        self.whole, self.picks = whole, whole.picks(flat)
        self._index = np.unravel_index(flat, whole.shape)

    def value(self, values: NDArray[Any]) -> float:
        """Return what is this combination's of values that broadcast over all."""
        return float(np.broadcast_to(values, self.whole.shape)[self._index])

    @property
    def fixed(self) -> tuple[dict[str, float], float]:
        """Bytes at each memory, and picojoules, of what does not depend on the residency."""
        fixed = self.whole.fixed
        return {name: self.value(count) for name, count in fixed.at.items()}, self.value(
            fixed.energy_pj
        )

    def spots(self, tensor: str) -> Iterator[Spot]:
        """Yield the places where a tensor may live, innermost first."""
        for each in self.whole.choices[tensor]:
            if self.value(each.allowed):
                at = {name: self.value(count) for name, count in each.at.items()}
                size, energy = self.value(each.size), self.value(each.energy_pj)
                yield Spot(each.place, size, at, energy, each.cached)

    @property
    def schedule(self) -> float:
        """Cycles of the schedule, with what iterations of a loop wait for."""
        costs = self.whole.costs
        if not costs.skeleton.recurrent:
            return self.value(self.whole.schedule)
        total = 0.0
        loops: dict[int, list[int]] = {}
        for number, (site, pick) in enumerate(zip(costs.sites, self.picks, strict=True)):
            total += float(site.init_cycles[pick])
            if site.site.pipeline < 0:
                total += float(site.cycles[pick])
            else:
                loops.setdefault(site.site.pipeline, []).append(number)
        return total + sum(self._interval(members) for members in loops.values())

    def _interval(self, members: list[int]) -> float:
        """Return the cycles of a pipelined loop: its interval, for all iterations together."""
        place = {number: index for index, number in enumerate(members)}
        sites = self.whole.costs.sites
        tasks, waits = [], []
        for number in members:
            costs, pick = sites[number], self.picks[number]
            array = self.whole.target.arrays[int(costs.arrays[pick])].name
            stage = int(self.value(self.whole.stages[number]))
            cycles, late = float(costs.cycles[pick]), float(costs.late_cycles[pick])
            tasks.append(Task(costs.site.einsum, array, stage, cycles, late=late))
            waits += [
                Wait(place[maker], place[number], lag)
                for maker, lag in costs.site.waits
                if costs.site.direct and sites[maker].site.direct
            ]
        return initiation_interval(tasks, tuple(waits)).cycles


def capped(costs: Costs, target: Target) -> tuple[Costs, bool]:
    """Leave one option to the sites that matter least, until all combinations fit in memory."""
    counts = [len(site.picks) for site in costs.sites]
    least = sorted(range(len(counts)), key=lambda number: float(costs.sites[number].cycles.min()))
    picks = affordable(costs, target)
    keep = [np.arange(count) for count in counts]
    whole = True
    for number in least:
        if math.prod(counts) <= MAX_COMBINATIONS:
            break
        if counts[number] > 1:
            keep[number], counts[number], whole = np.array([picks[number]]), 1, False
    return (costs if whole else sliced(costs, keep)), whole


def affordable(costs: Costs, target: Target) -> list[int]:
    """Return the fastest option of each site, or slower ones where a part has no room for these.

    The option that frees most of what is missing for each cycle lost is exchanged first.
    """
    picks = [int(site.cycles.argmin()) for site in costs.sites]
    limits = np.array([dict(target.resources).get(name, math.inf) for name in LIMITED])
    total = np.sum(
        [site.parts[pick] for site, pick in zip(costs.sites, picks, strict=True)], axis=0
    )
    while any(total > limits):
        missing = np.maximum(total / limits - 1, 0).sum()
        best = (0.0, 0, 0)
        for number, site in enumerate(costs.sites):
            others = total - site.parts[picks[number]] + site.parts
            freed = missing - np.maximum(others / limits - 1, 0).sum(axis=1)
            lost = np.maximum(site.cycles - site.cycles[picks[number]], 0) + 1
            pick = int((freed / lost).argmax())
            best = max(best, (float(freed[pick] / lost[pick]), number, pick))
        gain, number, pick = best
        if gain <= 0:
            break
        total = total + costs.sites[number].parts[pick] - costs.sites[number].parts[picks[number]]
        picks[number] = pick
    return picks

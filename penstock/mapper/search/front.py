"""The Pareto front of latency and energy over a whole space: every point covered, none sampled.

The same space, costs and bounds as in `explore.py`, with "no better in both" in the place of "no
better". Excluded: what a point costs (`model/`), fronts over machines (`sweep`).
"""

from __future__ import annotations

import bisect
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock import metrics
from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.shapes import Bound
from penstock.errors import MappingError
from penstock.mapper import nodes
from penstock.mapper.check import check
from penstock.mapper.model.evaluate import Evaluation, evaluate
from penstock.mapper.search.build import default_mapping
from penstock.mapper.search.combine import Combinations, Single, capped
from penstock.mapper.search.costs import Tabulator
from penstock.mapper.search.explore import (
    MAX_WORK,
    SAME,
    SETUP,
    Coverage,
    Point,
    Progress,
    built,
    innermost,
    point_of,
)
from penstock.mapper.search.housing import Key, house_all
from penstock.mapper.search.space import Place, Skeleton, skeletons
from penstock.targets.base import Target

__all__ = ["Front", "FrontPoint", "explore_front"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FrontPoint:
    """A mapping than which none of the space is better in latency and no worse in energy."""

    mapping: nodes.Mapping
    evaluation: Evaluation


@dataclass(frozen=True)
class Front(Coverage):
    """The Pareto front of latency and energy, the fastest first.

    Args:
        members: one mapping for each point of the front; ``optimal`` says that the front is that
            of the space.
    """

    members: tuple[FrontPoint, ...]

    def summary(self) -> str:
        """Return one sentence on how the front was found."""
        claim = "the front of this space" if self.optimal else "the front of those evaluated"
        rest = "ruled out by bounds or capacity" if self.optimal else "not"
        early = "interrupted; " if self.interrupted else ""
        return (
            f"{early}{claim}, {len(self.members)} of {metrics.number(self.points)} mappings: "
            f"{self.evaluated:,} evaluated, {metrics.number(self.ruled_out)} {rest}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the front as a JSON object."""
        return {
            **self.counts(),
            "front": [
                {
                    "latency_cycles": each.evaluation.latency_cycles,
                    "energy_pj": each.evaluation.energy_pj,
                    "dram_bytes": each.evaluation.dram_bytes,
                    "mapping": str(each.mapping),
                }
                for each in self.members
            ],
        }


def explore_front(
    bound: Bound, target: Target, fmt: Format, *, progress: Progress | None = None
) -> Front:
    """Find the mappings of a space that none beats in latency without losing in energy.

    Of mappings with equal latency and energy the first found is given.

    Args:
        bound: the cascade with its extents.
        target: the machine.
        fmt: number format of all tensors.
        progress: called with (mappings covered, mappings in all, least latency so far).

    Raises:
        MappingError: an operator exists on no array, or nothing fits the machine.
        TargetError: the machine has no energies.
        KeyboardInterrupt: Ctrl-C was pressed before anything was found; later it ends the search.
    """
    started = time.perf_counter()
    target.check_energies("front")
    target = target.in_format(fmt.name)
    space = list(skeletons(bound, target, fmt))
    search = _Search(bound, target, fmt)
    points, covered = 1 + sum(each.size for each in space), 1
    interrupted = False
    try:
        for size in search.steps(space):
            covered += size
            if progress is not None:
                progress(covered, points, search.latency[0] if search.latency else math.inf)
    except KeyboardInterrupt:
        interrupted = True
        if not search.found:
            raise
    members = search.members()
    return Front(
        members,
        points=points,
        evaluated=search.evaluated,
        optimal=search.complete and not interrupted,
        seconds=time.perf_counter() - started,
        interrupted=interrupted,
    )


@dataclass(frozen=True)
class _Open:
    """Combinations of which the best residencies are not known; bounds and positions."""

    combinations: Combinations
    latency: Floats
    energy: Floats
    flat: NDArray[np.int64]


@dataclass
class _Search:
    """The front so far, by latency (rising) and energy (falling)."""

    bound: Bound
    target: Target
    fmt: Format
    latency: list[float] = field(default_factory=list)
    energy: list[float] = field(default_factory=list)
    found: list[Point] = field(default_factory=list)
    evaluated: int = 0
    complete: bool = True
    broken: MappingError | None = None
    open: list[_Open] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tab = Tabulator(self.bound, self.target, self.fmt, "edp")

    def worth(self, latency: float, energy: float) -> bool:
        """Whether nothing of the front is as good as this in both."""
        place = bisect.bisect_right(self.latency, latency * (1 + SAME))
        return not place or self.energy[place - 1] > energy * (1 + SAME)

    def offer(self, latency: float, energy: float, point: Point) -> None:
        """Take a point into the front, and those out that it beats."""
        if not self.worth(latency, energy):
            return
        keep = [
            number
            for number in range(len(self.found))
            if self.latency[number] < latency * (1 - SAME)
            or self.energy[number] < energy * (1 - SAME)
        ]
        rows = [(self.latency[each], self.energy[each], self.found[each]) for each in keep]
        rows.append((latency, energy, point))
        rows.sort(key=lambda row: row[:2])
        self.latency, self.energy, self.found = (list(each) for each in zip(*rows, strict=True))

    def steps(self, space: Sequence[Skeleton]) -> Iterator[int]:
        """Search the space; yield now and then how many points more are covered."""
        self.start()
        floors = [self.tab.floor(each) for each in space]
        for number in sorted(range(len(space)), key=lambda number: floors[number]):
            self.cover(space[number], floors[number])
            yield space[number].size
        yield from self.finish()

    def start(self) -> None:
        """Begin with the default mapping."""
        self.evaluated = 1
        try:
            self.default = default_mapping(self.bound, self.target, self.fmt)
        except MappingError as error:
            self.broken = error
            return
        found = evaluate(self.default, self.bound, self.target, self.fmt)
        self.offer(found.latency_cycles, found.energy_pj, Point(None))

    def undominated(self, latency: Floats, energy: Floats) -> NDArray[np.bool_]:
        """Return where nothing of the front is as good in both (`worth`, for many)."""
        place = np.searchsorted(self.latency, latency * (1 + SAME), side="right")
        least = np.array([math.inf, *self.energy])
        return least[place] > energy * (1 + SAME)

    def cover(self, skeleton: Skeleton, floor: tuple[float, float]) -> None:
        """Cost all combinations of a skeleton; leave open what may be better than it looks."""
        if not self.worth(*floor):
            return
        costs, whole = capped(self.tab.costs(skeleton), self.target)
        self.complete = self.complete and whole
        combinations = Combinations(costs, self.tab)
        inner, least = combinations.innermost(), combinations.least()
        self.evaluated += combinations.size
        fits = np.flatnonzero(inner.fits)
        if len(fits) and not skeleton.recurrent:
            self._offer_all(combinations, inner.latency, inner.energy_pj, fits)
        settled = inner.fits & (inner.latency <= least.latency * (1 + SAME))
        settled &= inner.energy_pj <= least.energy_pj * (1 + SAME)
        left = least.fits & self.undominated(least.latency, least.energy_pj)
        if not skeleton.recurrent:
            left &= ~settled
        flat = np.flatnonzero(left)
        if len(flat):
            bounds = least.latency[flat], least.energy_pj[flat]
            self.open.append(_Open(combinations, *bounds, flat))

    def _offer_all(
        self, combinations: Combinations, latency: Floats, energy: Floats, fits: NDArray[np.int64]
    ) -> None:
        """Offer the combinations that no other one beats."""
        order = fits[np.lexsort((energy[fits], latency[fits]))]
        before = np.minimum.accumulate(np.concatenate(([math.inf], energy[order])))[:-1]
        for flat in order[energy[order] < before]:
            if self.worth(latency[flat], energy[flat]):
                self.offer(latency[flat], energy[flat], innermost(combinations, int(flat)))

    def finish(self) -> Iterator[int]:
        """Search the residencies of what is open, the most promising first; yield after each."""
        rows = [
            (float(latency * energy), number, int(flat), float(latency), float(energy))
            for number, each in enumerate(self.open)
            for latency, energy, flat in zip(each.latency, each.energy, each.flat, strict=True)
            if self.worth(latency, energy)
        ]
        work = 0
        for _, number, flat, latency, energy in sorted(rows):
            if not self.worth(latency, energy):
                continue
            if work > MAX_WORK:
                self.complete = False
                return
            one = Single(self.open[number].combinations, flat)

            def take(key: Key, kept: Mapping[str, Place], one: Single = one) -> None:
                self.offer(key[0], key[2], point_of(one, kept))

            counted, steps, whole = house_all(one, self.worth, take)
            work += steps + SETUP
            self.evaluated += counted
            self.complete = self.complete and whole
            yield 0

    def members(self) -> tuple[FrontPoint, ...]:
        """Return the front's mappings, evaluated by the model and checked."""
        if not self.found:
            assert self.broken is not None
            raise self.broken
        made = []
        for latency, energy, point in zip(self.latency, self.energy, self.found, strict=True):
            mapping = built(point, self.tab, self.bound) if point.skeleton else self.default
            check(mapping, self.bound, self.target, self.fmt)
            counted = evaluate(mapping, self.bound, self.target, self.fmt)
            for believed, said in (
                (latency, counted.latency_cycles),
                (energy, counted.energy_pj),
            ):
                assert math.isclose(believed, said, rel_tol=SAME, abs_tol=SAME), (point, counted)
            made.append(FrontPoint(mapping, counted))
        return tuple(made)

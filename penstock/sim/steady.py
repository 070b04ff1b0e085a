"""Long runs: a shorter one is simulated in full, and what repeats in it is multiplied.

For each loop that may be made shorter (`shorten.py`) a few steps are kept. If the machine comes
back to a state in every run of the loop (`periods.py`), the steps that were taken away fit in
there; if not, more are kept, in the end all. Loops inside such a loop are multiplied by both. The
result is that of the whole run, not an estimate. Excluded: values.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.sim.engine import Progress, Schedule, schedule
from penstock.sim.periods import EPSILON, Period, Recorder, period
from penstock.sim.plan import Plan, planned
from penstock.sim.shorten import Chain, Stretch, chains, shortened, stretches
from penstock.sim.tasks import Lap, Row, Trace
from penstock.sim.walk import walked

__all__ = ["Known", "Longer", "Run", "steady", "whole"]

KEPT = 3
"""Steps of a loop that are kept at first: one to begin, one that may repeat, the last."""
REMEMBERED = 3
"""Shorter runs that are kept."""
INNERMOST = 8
"""The same for loops that no other such loop is inside of."""


@dataclass(frozen=True)
class Longer:
    """A period, how often it comes beyond the first time, and the cycles that this adds."""

    period: Period
    times: int
    cycles: float


@dataclass(frozen=True)
class Run:
    """A schedule with what has to be put into it.

    Args:
        trace, timed: the shorter run, all of it.
        longer: what repeats, inner ones first; what is inside another repeats with it.
    """

    trace: Trace
    timed: Schedule
    longer: tuple[Longer, ...] = ()

    @property
    def cycles(self) -> float:
        """Cycles of the whole run."""
        return self.at(self.timed.cycles)

    def at(self, moment: float) -> float:
        """Return when a moment of the shorter run comes in the whole one."""
        return moment + sum(each.cycles for each in self.longer if each.period.end <= moment)

    def between(self, begin: float, end: float) -> float:
        """Return the cycles from one moment to another, with what repeats while they last."""
        span = Period(begin, end, 0)
        return end - begin + sum(e.cycles for e in self.longer if _holds(span, e.period))

    def times(self) -> list[int]:
        """Return how often each event happens in the whole run."""
        began = self._starts()
        numbers = [event.task.number for event in self.timed.events]
        return [int(times) for times in self._weights(began)[numbers]]

    def _starts(self) -> NDArray[Any]:
        """Return when each task begins; what streams for it belongs to it."""
        found = np.zeros(len(self.trace.tasks))
        for event in self.timed.events:
            if event.task.kind != "stream":
                found[event.task.number] = event.start
        return found

    def _weights(self, starts: NDArray[Any]) -> NDArray[Any]:
        found = np.ones(len(starts), dtype=np.int64)
        for each in self.longer:
            inside = (starts >= each.period.begin - EPSILON) & (starts < each.period.end - EPSILON)
            found[inside] *= 1 + each.times
        return found

    def traffic(self) -> dict[Row, float]:
        """Return the bytes through each memory's port, by tensor and direction."""
        kinds = np.array(self.trace.moved, dtype=np.int64)
        times = np.zeros(len(self.trace.loads), dtype=np.int64)
        np.add.at(times, kinds, self._weights(self._starts()))
        found: dict[Row, float] = defaultdict(float)
        for rows, count in zip(self.trace.loads, times.tolist(), strict=True):
            for row, size in rows if count else ():
                found[row] += count * size
        return dict(found)


def whole(plan: Plan, progress: Progress | None = None) -> Run:
    """Run a plan in full.

    Raises:
        MappingError: units wait for each other in a circle, or there is too much to do.
    """
    traced = walked(plan)
    return Run(traced, schedule(traced, progress))


Known = dict[tuple[object, ...], tuple[Trace, Schedule]]
"""Shorter runs that have been simulated: designs that differ in length only have the same ones."""


def steady(plan: Plan, progress: Progress | None = None, known: Known | None = None) -> Run:
    """Run a plan, as little of it as tells the rest.

    Args:
        plan: the design.
        progress: called with (tasks done, tasks in all).
        known: is read, and filled.

    Raises:
        MappingError: units wait for each other in a circle; what does not repeat is too long.
    """
    every = stretches(plan)
    free = {name for each in every for name in each.takes}
    parts = [part for chain in chains(plan) for part in chain.parts()]
    free |= {each.variables[0] for each in parts if each.steps(plan.bound.extents) == 1}
    groups = tuple(
        part
        for chain in chains(plan)  # steps of a loop that may not be shorter need not be alike
        for part in ((chain,) if free.issuperset(chain.variables) else chain.parts())
    )
    kept = _few(every, groups)
    while True:
        units = {each: _removed(each, kept[each], plan) for each in every}
        units = {each: count for each, count in units.items() if count > 0}
        short = plan
        if units:
            bound = shortened(plan.bound, units)
            short = planned(plan.mapping, bound, plan.target, plan.format)
        if not units:
            return whole(plan, progress)
        trace, timed = _simulated(short, progress, {} if known is None else known)
        seen, extents = Recorder(trace, timed), (plan.bound.extents, short.bound.extents)
        found: list[tuple[Period, int]] = []
        wanting: dict[Chain, int] = {}
        for chain in groups:
            more = _repeats(seen, trace.laps, chain, extents, found)
            if more is not None:
                wanting[chain] = more
        if not wanting and any(_crosses(one, other) for one, _ in found for other, _ in found):
            wanting = dict.fromkeys(groups, 0)
        if not wanting:
            return Run(trace, timed, _nested(found))
        groups = _keep_more(kept, groups, wanting, units)


def _simulated(plan: Plan, progress: Progress | None, known: Known) -> tuple[Trace, Schedule]:
    extents = tuple(sorted(plan.bound.extents.items()))
    key = (plan.bound.cascade, plan.mapping, plan.target, plan.format, extents)
    if key not in known:
        if len(known) >= REMEMBERED:
            known.pop(next(iter(known)))
        trace = walked(plan)
        known[key] = trace, schedule(trace, progress)
    return known[key]


def _few(every: Sequence[Stretch], groups: Sequence[Chain]) -> dict[Stretch, int]:
    """Return how many steps of the loops of each stretch are kept at first."""
    last = {chain.variables[-1]: KEPT if chain.inside else INNERMOST for chain in groups}
    last |= {chain.variables[-1]: 2 for chain in groups if len(chain.numbers) > 2 and chain.inside}
    return {each: max(last.get(name, 2) for name in each.takes) for each in every}


def _removed(stretch: Stretch, kept: int, plan: Plan) -> int:
    """Return the units to take away so that each loop keeps so many steps."""
    extents = plan.bound.extents
    return min(
        max(0, (extents[name] - 1) // size - kept + 1) for name, size in stretch.takes.items()
    )


def _repeats(
    seen: Recorder,
    laps: Sequence[Lap],
    chain: Chain,
    extents: tuple[Mapping[str, int], Mapping[str, int]],
    found: list[tuple[Period, int]],
) -> int | None:
    """Add what repeats in all runs of a chain; if it does not, return how many steps are missing.

    0 if that is not known.
    """
    steps, kept = (chain.steps(each) for each in extents)
    if steps == kept:
        return None
    for lap in _runs(laps, chain):
        chained = len(chain.numbers) > 1
        here = period(seen, lap, uniform=chained)
        if here is None or (chained and len(lap.starts) != kept + 1):
            return 0
        runs, rest = divmod(steps - kept, here.steps)
        if rest:
            return rest
        found.append((here, runs))
    return None


def _runs(laps: Sequence[Lap], chain: Chain) -> list[Lap]:
    """Return the runs of a chain: the steps of its last loop, through all of the others."""
    outer = [lap for lap in laps if lap.number == chain.numbers[0]]
    starts = sorted({at for lap in laps if lap.number == chain.numbers[-1] for at in lap.starts})
    return [
        Lap(chain.numbers[-1], tuple(at for at in starts if lap.starts[0] <= at <= lap.starts[-1]))
        for lap in outer
    ]


def _keep_more(
    kept: dict[Stretch, int],
    groups: Sequence[Chain],
    wanting: Mapping[Chain, int],
    units: Mapping[Stretch, int],
) -> tuple[Chain, ...]:
    """Keep more of the innermost chains that did not repeat, or take them apart."""
    numbers = {number for chain in wanting for number in chain.numbers}
    left: list[Chain] = []
    for chain in groups:
        if chain not in wanting or chain.inside & numbers:
            left.append(chain)
            continue
        mine = [each for each in units if chain.variables[-1] in each.takes]
        if len(chain.numbers) > 1 and (not mine or any(kept[each] > KEPT for each in mine)):
            left += chain.parts()
            continue
        left.append(chain)
        mine = mine or [each for each in units if set(chain.variables) & set(each.takes)]
        for each in mine:
            kept[each] += wanting[chain] or (kept[each] + 1) // 2
    return tuple(left)


def _holds(outer: Period, inner: Period) -> bool:
    return outer.begin <= inner.begin + EPSILON and inner.end <= outer.end + EPSILON


def _crosses(one: Period, other: Period) -> bool:
    apart = one.end <= other.begin + EPSILON or other.end <= one.begin + EPSILON
    return not (apart or _holds(one, other) or _holds(other, one))


def _nested(found: Sequence[tuple[Period, int]]) -> tuple[Longer, ...]:
    """Return the periods with the cycles that they add, inner ones first."""
    made: list[Longer] = []
    for here, times in sorted(found, key=lambda each: each[0].end - each[0].begin):
        inside = sum(each.cycles for each in made if _holds(here, each.period))
        made.append(Longer(here, times, times * (here.end - here.begin + inside)))
    return tuple(made)

"""Where a schedule repeats: two steps of a loop at whose beginning the machine is in one state.

The state at a moment is all that what comes after can depend on: the tasks of this loop that have
begun and are not done, with the time that they have left; which tasks ahead have begun; since or
until when each unit is taken; and the phase of what recurs by itself. All counted from the moment
and from the step. If it is the same at the beginnings of steps i and i + q, and the steps ask for
the same, then so do any number of steps put in between, and each q of them take as long.
Excluded: which loops may be longer (`shorten.py`), and what the whole run comes to (`steady.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.sim.engine import Schedule
from penstock.sim.tasks import Lap, Trace

__all__ = ["Period", "Recorder", "period"]

Numbers = NDArray[Any]

EPSILON = 1e-6
"""Cycles; times that differ by less are equal (bytes over bandwidth are no whole numbers)."""


@dataclass(frozen=True)
class Period:
    """What repeats: from `begin` to `end`, in cycles, `steps` steps of the loop."""

    begin: float
    end: float
    steps: int


class Recorder:
    """A trace and its schedule as columns, one row for each task.

    Args:
        trace: the tasks.
        timed: when they ran.
    """

    def __init__(self, trace: Trace, timed: Schedule) -> None:
        count = len(trace.tasks)
        kinds: dict[object, int] = {}
        self.what = np.empty(count, dtype=np.int64)
        self.computes = np.empty(count, dtype=bool)
        self.turn = np.empty((count, 2), dtype=np.int64)
        for n, task in enumerate(trace.tasks):
            what = (task.kind, task.unit, task.name, task.cycles, task.latency, task.stage)
            kind = (*what, task.bytes, task.ports, len(task.needs), len(task.frees))
            self.what[n] = kinds.setdefault(kind, len(kinds))
            self.computes[n] = task.computes
            self.turn[n] = task.phase, task.epoch
        waits = [(*task.needs, *task.frees) for task in trace.tasks]
        self.first = np.cumsum([0, *(len(each) for each in waits)])
        self.waits = np.array([other for each in waits for other in each], dtype=np.int64)
        self.start, self.end, self.ready = np.zeros((3, count))
        units = {name: n for n, name in enumerate(sorted({e.task.unit for e in timed.events}))}
        self.uses = np.empty((len(timed.events), 3))  # unit, task, end
        for n, event in enumerate(timed.events):
            number = event.task.number
            self.uses[n] = units[event.task.unit], number, event.end
            if event.task.kind != "stream":
                self.start[number], self.end[number] = event.start, event.end
                self.ready[number] = event.ready
        self.units = len(units)
        self.cycles = [every for every, _ in trace.stops.values()]
        self.began = self.start[self.uses[:, 1].astype(np.int64)]  # of the task, for each use


def period(seen: Recorder, lap: Lap, *, uniform: bool = False) -> Period | None:
    """Return the first period of a run of a loop, None if it never repeats.

    Args:
        seen: the schedule.
        lap: the run.
        uniform: every step has to ask for the same as the one before it, however many of them
            it takes until the state is the same again.
    """
    count = len(lap.starts) - 1
    cuts = [_cut(seen, lap, step) for step in range(count)]
    for apart in range(1, max(1, count // 2)):
        for step in range(1, count - 1 - apart):
            begin, end = cuts[step], cuts[step + apart]
            if begin is None or end is None or not begin < end:
                continue
            oldest = _same(seen, lap, step, apart, begin, end)
            if oldest and _alike(seen, lap, oldest, 1 if uniform else apart):
                return Period(begin, end, apart)
    return None


def _cut(seen: Recorder, lap: Lap, step: int) -> float | None:
    """Return when the first computing task of a step begins."""
    low, high = lap.starts[step], lap.starts[step + 1]
    places = np.flatnonzero(seen.computes[low:high])
    return float(seen.start[low + places[0]]) if len(places) else None


def _same(seen: Recorder, lap: Lap, step: int, apart: int, begin: float, end: float) -> int:
    """Return the first step that matters for the states at two moments, 0 if they differ."""
    first = _state(seen, lap, lap.starts[step], begin)
    other = _state(seen, lap, lap.starts[step + apart], end)
    if first is None or other is None:
        return 0
    if not np.array_equal(first.ahead, other.ahead) or first.later != other.later:
        return 0
    if not _close(first.left, other.left):
        return 0
    if not _close(*(_taken(seen, at, begin, end) for at in (begin, end))):
        return 0
    if any(abs((end - begin + every / 2) % every - every / 2) > EPSILON for every in seen.cycles):
        return 0
    reached = int(other.ahead.max(initial=0)) + lap.starts[step + apart]
    if reached >= lap.starts[-2]:
        return 0
    lowest = int(min(first.ahead.min(initial=0), 0)) + lap.starts[step]
    return max(n for n, start in enumerate(lap.starts) if start <= lowest)


@dataclass(frozen=True)
class _State:
    """Tasks, counted from the first of a step, and (end, ready) that they have left.

    Those before the step that are not done, with times of -1 if they have not begun, and those
    after it that have begun. ``later`` tasks after the loop have begun, and are done.
    """

    ahead: Numbers
    left: Numbers
    later: int


def _state(seen: Recorder, lap: Lap, origin: int, now: float) -> _State | None:
    """Return the state at a moment, None if something outside the loop is under way."""
    if lap.starts[0] and seen.ready[: lap.starts[0]].max() > now + EPSILON:
        return None
    after = seen.start[lap.starts[-1] :] < now - EPSILON
    if (seen.ready[lap.starts[-1] :][after] > now + EPSILON).any():
        return None
    low, high = lap.starts[0], lap.starts[-1]
    begun = seen.start[low:high] < now - EPSILON
    done = begun & (seen.ready[low:high] <= now + EPSILON) & (seen.end[low:high] <= now + EPSILON)
    numbers = np.arange(low, high)
    shown = np.flatnonzero(((numbers < origin) & ~done) | ((numbers >= origin) & begun))
    left = np.stack([seen.end[low:high][shown], seen.ready[low:high][shown]]) - now
    left = np.where(begun[shown], np.maximum(left, 0), -1)
    return _State(numbers[shown] - origin, left, int(after.sum()))


def _taken(seen: Recorder, now: float, begin: float, end: float) -> Numbers:
    """Return how long each unit is still taken, or since when it is not, if it works at all."""
    found = np.full(seen.units, -np.inf)
    before = seen.began < now - EPSILON
    np.maximum.at(found, seen.uses[before, 0].astype(np.int64), seen.uses[before, 2] - now)
    works = (seen.began >= begin - EPSILON) & (seen.began < end - EPSILON)
    mine = np.unique(seen.uses[works, 0].astype(np.int64))
    rest = np.setdiff1d(np.arange(seen.units), mine)
    found[rest] = np.where(found[rest] > EPSILON, found[rest], 0.0)
    return found


def _close(one: Numbers, other: Numbers) -> bool:
    return one.shape == other.shape and bool(np.allclose(one, other, rtol=0, atol=EPSILON))


def _alike(seen: Recorder, lap: Lap, oldest: int, apart: int) -> bool:
    """Whether the steps from one on, without the last, are the same, `apart` of them apart."""
    last = len(lap.starts) - 2
    low, high = lap.starts[oldest], lap.starts[last]
    shift = lap.starts[oldest + apart] - low
    if oldest + apart >= last:
        return False
    starts = np.array(lap.starts[oldest : last + 1])
    if (starts[apart:] - starts[:-apart] != shift).any():
        return False
    if (seen.what[low : high - shift] != seen.what[low + shift : high]).any():
        return False
    rows = slice(low, high - shift), slice(low + shift, high)
    turns = seen.turn[rows[1]] - seen.turn[rows[0]]
    turns = turns[seen.computes[rows[0]]]
    inside = seen.turn[rows[0]][seen.computes[rows[0]]][:, 1] > 0  # others have no epoch
    epochs = turns[inside, 1]
    if (turns[:, 0] != turns[:1, 0]).any() or (epochs != epochs[:1]).any():
        return False
    one = seen.waits[seen.first[low] : seen.first[high - shift]]
    other = seen.waits[seen.first[low + shift] : seen.first[high]]
    outside = (one < lap.starts[0]) & (other < lap.starts[0])
    return bool(((other - one == shift) | outside).all())

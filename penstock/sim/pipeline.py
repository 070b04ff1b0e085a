"""A task pipeline in time: rigid processes that pass tokens through streams of finite depth.

A *process* has a schedule of its own, `steps` long, that says at which step it reads and writes
each token. It may be held up, but then as a whole. With ``T[s]`` the cycle of step ``s``::

    T[s] >= T[s-1] + 1
    T[s] >= cycle in which the token that it reads was written + 1
    T[s] >= cycle in which the token that made room for what it writes was read + 1

and ``T[0]`` is one cycle after the start, or two after the last of the processes whose arrays it
reads has ended (one to hand them over). All are taken with equality: every step is as early as it
can be. That is how Vitis HLS runs a ``DATAFLOW`` region; docs/hls_timing.md compares it with
co-simulations of AMD's.

These equations are first solved from below, process by process and again until nothing changes,
each time with a few numpy operations over all of its tokens: a chain settles in as many sweeps as
waits pass through it. Where that is too many (bursts through small streams, feedback) or never ends
(a deadlock), each process is advanced step by step as far as the known times reach instead; what
cannot advance any more is deadlocked. Both give the same cycles.

Excluded: values, and why a process has its schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from operator import itemgetter
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.errors import MappingError

__all__ = ["Network", "PipelineRun", "Process", "Stall", "minimal_depths", "run_pipeline"]

Steps = NDArray[np.int64]

START_CYCLES = 1  # from the start of the region to the first step of a process
HAND_OVER_CYCLES = 1  # more, after the end of a process whose array it reads
SWEEPS = 32

Stall = tuple[str, Literal["empty", "full"]]
"""A stream, and what it is while a process waits for it."""


@dataclass(frozen=True, eq=False)
class Process:
    """What one process does at which of its steps.

    Args:
        name: unique in a network.
        steps: length of its schedule, in cycles without waiting.
        reads, writes: stream → step of each token, in order.
        after: processes that must have ended before it starts: it reads their arrays.
    """

    name: str
    steps: int
    reads: Mapping[str, Steps] = field(default_factory=dict)
    writes: Mapping[str, Steps] = field(default_factory=dict)
    after: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Network:
    """Processes and the streams between them; one process writes a stream and one reads it.

    Raises:
        MappingError: a stream without exactly one of each, or with different numbers of tokens
            at its ends; an unknown process; a step outside of a schedule.
    """

    processes: tuple[Process, ...]

    def __post_init__(self) -> None:
        names = [process.name for process in self.processes]
        for process in self.processes:
            _check_schedule(process)
            unknown = [name for name in process.after if name not in names]
            if unknown or names.count(process.name) > 1:
                raise MappingError(
                    f"process {process.name} starts after {unknown[0]}, which there is not"
                    if unknown
                    else f"there are {names.count(process.name)} processes named {process.name}",
                    fix="give every process a name of its own, and wait for those",
                )
        for stream in sorted(
            {name for each in self.processes for name in each.reads} | {*self.writer}
        ):
            self._check_stream(stream)

    def _check_stream(self, stream: str) -> None:
        ends = [[p.name for p in self.processes if stream in side(p)] for side in (_writes, _reads)]
        if [len(end) for end in ends] != [1, 1]:
            raise MappingError(
                f"stream {stream} is written by {', '.join(ends[0]) or 'nothing'} and read by "
                f"{', '.join(ends[1]) or 'nothing'}",
                fix="give it one process at each end",
            )
        written = len(self.writer[stream].writes[stream])
        read = len(self.reader[stream].reads[stream])
        if written != read:
            raise MappingError(
                f"{ends[0][0]} writes {written} tokens to {stream}, {ends[1][0]} reads {read}",
                fix="make the two ends agree",
            )

    @cached_property
    def writer(self) -> Mapping[str, Process]:
        """Stream → the process that writes it."""
        return {stream: each for each in self.processes for stream in each.writes}

    @cached_property
    def reader(self) -> Mapping[str, Process]:
        """Stream → the process that reads it."""
        return {stream: each for each in self.processes for stream in each.reads}


def _reads(process: Process) -> Mapping[str, Steps]:
    return process.reads


def _writes(process: Process) -> Mapping[str, Steps]:
    return process.writes


def _check_schedule(process: Process) -> None:
    for stream, steps in (*process.reads.items(), *process.writes.items()):
        if len(steps) and (
            steps[0] < 0 or steps[-1] >= process.steps or bool((np.diff(steps) < 0).any())
        ):
            raise MappingError(
                f"process {process.name} uses stream {stream} out of order or outside of its "
                f"{process.steps} steps",
                fix="list the step of each token in order, from 0 on",
            )


@dataclass(frozen=True, eq=False)
class PipelineRun:
    """A network in time.

    Args:
        cycles: until the last process has ended.
        ends: process → the cycle in which it has ended.
        stalls: process → (stream, empty or full) → cycles that it waited for that.
        peaks: stream → tokens in it at most; a depth that changes nothing.
        written, read: stream → cycle in which each token was.
    """

    cycles: int
    ends: Mapping[str, int]
    stalls: Mapping[str, Mapping[Stall, int]]
    peaks: Mapping[str, int]
    written: Mapping[str, Steps]
    read: Mapping[str, Steps]


def run_pipeline(network: Network, depths: Mapping[str, int] | None = None) -> PipelineRun:
    """Run every process as early as it can.

    Args:
        network: the processes.
        depths: stream → tokens that it holds; unlimited where it is not named.

    Raises:
        MappingError: processes wait for each other in a circle; it names the streams in it.
    """
    machine, stuck = _solved(network, depths or {})
    if stuck:
        raise _deadlock(machine, stuck)
    return PipelineRun(
        machine.cycles,
        machine.ends,
        machine.stalls,
        {stream: _peak(machine.written[stream], machine.read[stream]) for stream in network.writer},
        machine.written,
        machine.read,
    )


def minimal_depths(network: Network, *, cycles: float | None = None) -> dict[str, int]:
    """Return depths of which none can be made smaller without a deadlock.

    Streams grow where they must. Where there was a choice, or time counts, each stream in turn gets
    the smallest depth that still works, given the others; as a deeper stream never hurts, none of
    them can be lowered in the end. There may be other such depths, with a smaller sum.

    Args:
        network: the processes.
        cycles: what the run may take at most; None for any time. With the cycles of the run
            with unlimited depths, the result is the least for full throughput.

    Raises:
        MappingError: it deadlocks at any depth, or never is that fast.
    """
    depths, forced = _grown(network)
    if cycles is None and forced:
        return depths
    free = run_pipeline(network)
    limit = np.inf if cycles is None else cycles
    if free.cycles > limit:
        raise MappingError(
            f"the pipeline takes {free.cycles:,} cycles with streams of any depth, not {limit:,}",
            fix=f"allow {free.cycles:,}",
        )
    if cycles is not None:
        depths = {stream: max(1, peak) for stream, peak in free.peaks.items()}

    def works(trial: Mapping[str, int]) -> bool:
        machine, stuck = _solved(network, trial)
        return not stuck and machine.cycles <= limit

    def alone(stream: str, depth: int) -> bool:
        return works({**depths, stream: depth})

    least = dict.fromkeys(depths, 1)
    if works(least):
        return least
    for stream in [each for each, depth in depths.items() if depth > 1]:
        depths[stream] = _least(depths[stream], partial(alone, stream))
    return depths


def _grown(network: Network) -> tuple[dict[str, int], bool]:
    """Return depths without a deadlock, and whether each token of room in them is necessary.

    All begin at 1. Where processes wait in a circle, one of the full streams in it must be deeper,
    whatever the others are; where only one is full, there is no choice. What has been done with
    less room can be done with more, so the run goes on from there.

    Raises:
        MappingError: a circle without a full stream: it deadlocks at any depth.
    """
    depths = dict.fromkeys(network.writer, 1)
    machine, forced = _Machine(network, depths), True
    run = machine.advance(machine.blank())
    while left := next(run):
        full = [each.stream for each in _circle(machine, left) if each.side == "full"]
        if not full:
            raise _deadlock(machine, left)
        depths[full[0]] += 1
        forced = forced and len(full) == 1
    return depths, forced


def _least(high: int, works: Callable[[int], bool]) -> int:
    """Return the smallest number from 1 on that works; `high` does, and all above one that does."""
    low, probe = 1, 1
    while probe < high and not works(probe):
        low, probe = probe + 1, 2 * probe
    high = min(probe, high)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if works(middle) else (middle + 1, high)
    return low


def _peak(written: Steps, read: Steps) -> int:
    """Return the depth that would not have held up these writes."""
    gone = np.searchsorted(read, written, side="left")
    return int((np.arange(1, len(written) + 1) - gone).max(initial=0))


def _solved(network: Network, depths: Mapping[str, int]) -> tuple[_Machine, list[Process]]:
    """Return a network in time, and the processes that never end."""
    machine = _Machine(network, depths)
    if machine.settle():
        return machine, []
    machine = _Machine(network, depths)
    return machine, machine.advance_all()


_Side = Literal["empty", "full"]


_Step = tuple[int, list[tuple[str, int, _Side]]]
"""A step, and the tokens that it reads (from what may be empty) and writes (full)."""


class _Times(NamedTuple):
    """Stream → cycle of each token, as lists: one after the other they are faster than arrays."""

    written: dict[str, list[int]]
    read: dict[str, list[int]]


def _events(process: Process) -> list[_Step]:
    """Return the steps of a process that use a stream, the last one first."""
    found: dict[int, list[tuple[str, int, _Side]]] = {}
    sides: tuple[tuple[Mapping[str, Steps], _Side], ...]
    sides = ((process.reads, "empty"), (process.writes, "full"))
    for streams, side in sides:
        for stream, steps in streams.items():
            for token, step in enumerate(steps.tolist()):
                found.setdefault(step, []).append((stream, token, side))
    return sorted(found.items(), reverse=True, key=itemgetter(0))


class _Machine:
    """How far each process is; lives only inside ``_solved` and what calls it."""

    def __init__(self, network: Network, depths: Mapping[str, int]) -> None:
        self.network, self.depths = network, depths
        sizes = {stream: len(each.writes[stream]) for stream, each in network.writer.items()}
        self.written = {stream: np.zeros(size, np.int64) for stream, size in sizes.items()}
        self.read = {stream: np.zeros(size, np.int64) for stream, size in sizes.items()}
        self.put = dict.fromkeys(sizes, 0)
        self.got = dict.fromkeys(sizes, 0)
        self.lag: dict[str, int] = {}
        self.ends: dict[str, int] = {}
        self.stalls: dict[str, dict[Stall, int]] = {each.name: {} for each in network.processes}
        self.moved = False

    @property
    def cycles(self) -> int:
        """When the last process has ended."""
        return max(self.ends.values(), default=0)

    def settle(self) -> bool:
        """Solve for all times from below; return whether a sweep came that changed nothing."""
        total = -1
        for _ in range(SWEEPS):
            for process in self.network.processes:
                self.stalls[process.name].clear()
                self._begin(process)
                self._pass(process)
                self.ends[process.name] = process.steps + self.lag[process.name]
            times = (self.written, self.read)
            before, total = total, sum(int(each.sum()) for kind in times for each in kind.values())
            total += sum(self.ends.values())
            if total == before:
                return True
        return False

    def blank(self) -> _Times:
        """Return a place for the cycles of all tokens."""
        return _Times(
            {stream: [0] * len(each) for stream, each in self.written.items()},
            {stream: [0] * len(each) for stream, each in self.read.items()},
        )

    def advance_all(self) -> list[Process]:
        """Advance every process as far as it goes; return those that cannot end."""
        times = self.blank()
        waiting = next(self.advance(times))
        self.written = {s: np.array(each, np.int64) for s, each in times.written.items()}
        self.read = {s: np.array(each, np.int64) for s, each in times.read.items()}
        return waiting

    def advance(self, times: _Times) -> Iterator[list[Process]]:
        """Advance every process as far as it goes, and yield those that wait; again if asked."""
        events = {each.name: _events(each) for each in self.network.processes}
        waiting = list(self.network.processes)
        while True:
            self.moved = True
            while waiting and self.moved:
                self.moved = False
                waiting = [
                    each for each in waiting if not self._advance(each, events[each.name], times)
                ]
            yield waiting

    def blocks(self, process: Process) -> tuple[int, list[Stall]]:
        """Return the step that a process cannot reach yet, and for which streams."""
        limit, causes = process.steps, list[Stall]()
        for stream, steps, known, side in self._ends(process):
            if known < len(steps) and steps[known] <= limit:
                if steps[known] < limit:
                    limit, causes = int(steps[known]), []
                causes.append((stream, side))
        return limit, causes

    def _ends(self, process: Process) -> list[tuple[str, Steps, int, _Side]]:
        """Return for each end of a stream the tokens that may be passed now."""
        found: list[tuple[str, Steps, int, _Side]] = [
            (stream, steps, self.put[stream], "empty") for stream, steps in process.reads.items()
        ]
        for stream, steps in process.writes.items():
            if stream in self.depths:
                found.append((stream, steps, self.got[stream] + self.depths[stream], "full"))
        return found

    def _advance(self, process: Process, events: list[_Step], times: _Times) -> bool:
        """Let a process run as far as it can; return whether it has ended."""
        name = process.name
        if name not in self.lag:
            if any(other not in self.ends for other in process.after):
                return False
            self._begin(process)
        lag, stalls = self.lag[name], self.stalls[name]
        while events and self._can(events[-1]):
            step, tokens = events.pop()
            for stream, token, side in tokens:
                need = self._needs(stream, token, side, times) - step
                if need > lag:
                    stalls[stream, side] = stalls.get((stream, side), 0) + need - lag
                    lag = need
            for stream, token, side in tokens:
                passed, count = (
                    (times.read, self.got) if side == "empty" else (times.written, self.put)
                )
                passed[stream][token] = step + lag
                count[stream] = token + 1
            self.moved = True
        self.lag[name] = lag
        if events:
            return False
        self.ends[name] = process.steps + lag
        self.moved = True
        return True

    def _can(self, event: _Step) -> bool:
        """Whether everything that a step waits for has a time."""
        for stream, token, side in event[1]:
            if side == "empty":
                if token >= self.put[stream]:
                    return False
            elif token - self.depths.get(stream, token + 1) >= self.got[stream]:
                return False
        return True

    def _needs(self, stream: str, token: int, side: _Side, times: _Times) -> int:
        """Return the first cycle in which a token can pass."""
        if side == "empty":
            return times.written[stream][token] + 1
        before = token - self.depths.get(stream, token + 1)
        return times.read[stream][before] + 1 if before >= 0 else 0

    def _begin(self, process: Process) -> None:
        over = [self.ends.get(other, 0) + HAND_OVER_CYCLES for other in process.after]
        self.lag[process.name] = max(over, default=0) + START_CYCLES
        self.moved = True

    def _pass(self, process: Process) -> None:
        """Give every token of a process its cycle, with the times that the others have now."""
        parts: list[tuple[Steps, Steps, Steps, Stall]] = [
            (steps, self.written[stream] + 1 - steps, self.read[stream], (stream, "empty"))
            for stream, steps in process.reads.items()
        ]
        parts += [
            (steps, self._room(stream) - steps, self.written[stream], (stream, "full"))
            for stream, steps in process.writes.items()
        ]
        if any(len(steps) for steps, *_ in parts):
            self._time(process.name, parts)

    def _room(self, stream: str) -> Steps:
        """Return the first cycle in which each token finds room."""
        read = self.read[stream]
        room = np.zeros(len(read), np.int64)
        depth = self.depths.get(stream, len(read))
        room[depth:] = read[: max(0, len(read) - depth)] + 1
        return room

    def _time(self, name: str, parts: list[tuple[Steps, Steps, Steps, Stall]]) -> None:
        """Set the cycles of tokens: their steps, and what the process was held up until then."""
        steps = np.concatenate([here for here, _, _, _ in parts])
        order = np.argsort(steps, kind="stable")
        lags = np.concatenate([needs for _, needs, _, _ in parts])[order]
        before = self.lag[name]
        lags = np.maximum(np.maximum.accumulate(lags), before)
        self.lag[name] = int(lags[-1])
        ranked = steps[order]
        for here, _, cycles, _ in parts:
            cycles[:] = here + lags[np.searchsorted(ranked, here, side="right") - 1]
        if self.lag[name] > before:
            self._blame(name, np.diff(lags, prepend=before), order, parts)

    def _blame(
        self,
        name: str,
        waits: Steps,
        order: NDArray[np.intp],
        parts: list[tuple[Steps, Steps, Steps, Stall]],
    ) -> None:
        """Add what a process waited to the streams that it waited for."""
        labels = np.repeat(np.arange(len(parts)), [len(here) for here, _, _, _ in parts])[order]
        sums = np.bincount(labels, weights=waits, minlength=len(parts))
        mine = self.stalls[name]
        for (_, _, _, stall), cycles in zip(parts, sums.tolist(), strict=True):
            if cycles:
                mine[stall] = mine.get(stall, 0) + int(cycles)


class _Wait(NamedTuple):
    """What one process of a circle waits for: another's end (no stream), a token, or room."""

    process: Process
    other: Process
    stream: str = ""
    side: _Side = "empty"


def _circle(machine: _Machine, left: list[Process]) -> list[_Wait]:
    """Return a circle of processes that wait for each other, among those that cannot go on."""
    network = machine.network
    process, path = left[0], dict[str, _Wait]()
    while process.name not in path:
        unended = [name for name in process.after if name not in machine.ends]
        if process.name not in machine.lag and unended:
            other = next(each for each in network.processes if each.name == unended[0])
            path[process.name] = _Wait(process, other)
        else:
            stream, side = machine.blocks(process)[1][0]
            other = (network.writer if side == "empty" else network.reader)[stream]
            path[process.name] = _Wait(process, other, stream, side)
        process = other
    return list(path.values())[list(path).index(process.name) :]


def _deadlock(machine: _Machine, left: list[Process]) -> MappingError:
    """Name the streams of a circle of waiting processes."""
    circle = _circle(machine, left)
    told = []
    for process, other, stream, side in circle:
        if not stream:
            told.append(f"{process.name} starts after {other.name}")
            continue
        held = f"full ({machine.depths[stream]})" if side == "full" else "empty"
        told.append(f"{process.name} waits for {other.name}: {stream} is {held}")
    full = any(each.side == "full" for each in circle)
    return MappingError(
        "the task pipeline deadlocks: " + "; ".join(told),
        fix="make a full one deeper" if full else "let one of them write before it reads",
    )

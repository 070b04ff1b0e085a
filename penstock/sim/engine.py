"""When each task runs: arrays take theirs in order, ports whichever is ready first.

Each array has its own sequencer. It takes its tasks in the order (phase, epoch, older iteration
first, program order) and starts one as soon as the array is free, the task's operands are ready,
its buffer is free and the phases before it are done. The port of a memory makes one transfer
after another, of those that can start the first in program order; operands that stream through it
while an array computes are served in order of request, and hold the array up if the port is late.
Time advances from event to event; nothing is skipped or averaged. Excluded: values.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

from penstock.errors import MappingError
from penstock.sim.tasks import Task, Trace, collection_paused

__all__ = ["Event", "Progress", "Schedule", "schedule"]

Progress = Callable[[int, int], None]
"""Called with (tasks done, tasks in all)."""

PROGRESS_STEP = 1024


class Event(NamedTuple):
    """One task in time: the unit is taken from `start` to `end`, results are ready at `ready`.

    ``stall_cycles`` is how long the unit stood idle before, and ``cause`` what for. ``held`` is
    the memory whose port made the task take longer than its own cycles, "" if none did.
    """

    task: Task
    start: float
    end: float
    ready: float
    stall_cycles: float
    cause: str
    held: str = ""


@dataclass(frozen=True)
class Schedule:
    """Every task in time, in order of start, and the cycle in which the last result is ready."""

    events: tuple[Event, ...]
    cycles: float


def schedule(trace: Trace, progress: Progress | None = None) -> Schedule:
    """Run the sequencers.

    Args:
        trace: the tasks.
        progress: called now and then.

    Raises:
        MappingError: units wait for each other in a circle.
    """
    with collection_paused():
        machine = _Machine(trace)
        machine.run(progress)
    if machine.done < len(trace.tasks):
        raise _deadlock(machine, trace)
    events = tuple(sorted(machine.events, key=lambda event: (event.start, event.task.number)))
    return Schedule(events, max((event.ready for event in events), default=0.0))


@dataclass
class _Unit:
    """An array (tasks in the order of `queue`) or a port (those of `enabled`, lowest first)."""

    name: str
    queue: deque[int] = field(default_factory=deque)
    enabled: list[int] = field(default_factory=list)
    port: bool = False
    busy: bool = False
    free: float = 0.0  # since when, or from when on, nothing uses it

    def head(self) -> int:
        """Return the task that is next in turn, -1 if there is none."""
        if self.port:
            return self.enabled[0] if self.enabled else -1
        return self.queue[0] if self.queue else -1


_READY, _FREE, _NEAR = 0, 1, 2


class _Machine:
    """What has run, and when; lives only inside `schedule`."""

    def __init__(self, trace: Trace) -> None:
        self.tasks = trace.tasks
        self.events: list[Event] = []
        self.done = 0
        self.time = 0.0
        self.calendar: list[tuple[float, int, int]] = []  # (time, what, task)
        self.units: dict[str, _Unit] = {}
        self.missing = [len(task.needs) + len(task.frees) for task in self.tasks]
        self.enabled_by: list[tuple[float, int]] = [(0.0, -1)] * len(self.tasks)
        self.later: list[list[int]] = [[] for _ in self.tasks]
        self.near: dict[int, list[int]] = {}  # those that take the results in the same places
        self.stops = trace.stops
        self.left: dict[int, int] = defaultdict(int)
        self.phases: deque[int] = deque()
        self.barrier = 0.0
        self._connect()

    def _connect(self) -> None:
        """Put tasks into queues, in order, and make each known to those that it waits for."""
        for task in self.tasks:
            for number in (*task.needs, *task.frees):
                if number in task.near:
                    self.near.setdefault(number, []).append(task.number)
                else:
                    self.later[number].append(task.number)
            unit = self._unit(task.unit, port=not task.computes)
            for memory, _ in task.ports:
                self._unit(memory, port=True)
            if task.computes:
                unit.queue.append(task.number)
                self.left[task.phase] += 1
            elif not self.missing[task.number]:
                heapq.heappush(unit.enabled, task.number)
        for unit in self.units.values():
            unit.queue = deque(sorted(unit.queue, key=lambda number: _order(self.tasks[number])))
        self.phases.extend(sorted(self.left))

    def _unit(self, name: str, *, port: bool) -> _Unit:
        if name not in self.units:
            self.units[name] = _Unit(name, port=port)
        return self.units[name]

    def run(self, progress: Progress | None) -> None:
        """Advance from event to event until nothing more can happen."""
        self._start(set(self.units))
        told = 0
        while self.calendar:
            self.time = self.calendar[0][0]
            touched: set[str] = set()
            while self.calendar and self.calendar[0][0] == self.time:
                _, what, number = heapq.heappop(self.calendar)
                unit = self.units[self.tasks[number].unit]
                if what == _FREE:
                    unit.busy = False
                    touched.add(unit.name)
                elif what == _NEAR:
                    self._enable(self.near[number], number, touched)
                else:
                    self._finish(number, touched)
            self._start(touched)
            if progress is not None and self.done - told >= PROGRESS_STEP:
                told = self.done
                progress(self.done, len(self.tasks))

    def _finish(self, number: int, touched: set[str]) -> None:
        """Make the results of a task known to those that wait for them."""
        self._enable(self.later[number], number, touched)
        task = self.tasks[number]
        if task.computes:
            self.left[task.phase] -= 1
            while self.phases and not self.left[self.phases[0]]:
                self.phases.popleft()
                self.barrier = self.time
                touched.update(self.units)

    def _enable(self, waiting: list[int], number: int, touched: set[str]) -> None:
        for later in waiting:
            self.missing[later] -= 1
            if not self.missing[later]:
                self.enabled_by[later] = (self.time, number)
                unit = self.units[self.tasks[later].unit]
                touched.add(unit.name)
                if unit.port:
                    heapq.heappush(unit.enabled, later)

    def _start(self, names: set[str]) -> None:
        """Start what can start now on some units, in program order."""
        idle = [self.units[name] for name in names if not self.units[name].busy]
        heads = [(unit.head(), unit) for unit in idle]
        if len(heads) > 1:
            heads.sort(key=itemgetter(0))
        for number, unit in heads:
            if number >= 0 and self._may_start(number):
                if unit.port:
                    heapq.heappop(unit.enabled)
                else:
                    unit.queue.popleft()
                self._place(self.tasks[number], unit)

    def _may_start(self, number: int) -> bool:
        task = self.tasks[number]
        if self.missing[number]:
            return False
        return not (task.computes and self.phases and task.phase > self.phases[0])

    def _place(self, task: Task, unit: _Unit) -> None:
        """Let a unit begin a task, and reserve the ports that it needs."""
        start = max(self.time, unit.free) if unit.port else self.time
        served, held = self._served(task.unit, start, task.cycles), ""
        for memory, cycles in task.ports:
            end = self._stream(task, memory, cycles, start)
            if end > served:
                served, held = end, memory
        stall = start - unit.free
        end = self._served(task.unit, start, task.cycles) if unit.port else served
        ready = served + task.latency
        cause = self._cause(task) if stall else ""
        self.events.append(Event(task, start, end, ready, stall, cause, held))
        unit.busy, unit.free = True, end
        heapq.heappush(self.calendar, (served if unit.port else end, _FREE, task.number))
        heapq.heappush(self.calendar, (ready, _READY, task.number))
        if task.number in self.near:
            heapq.heappush(self.calendar, (served + task.near_latency, _NEAR, task.number))
        self.done += 1

    def _served(self, unit: str, start: float, cycles: float) -> float:
        """Return when a unit that stops now and then has worked for so many cycles."""
        if unit not in self.stops:
            return start + cycles
        every, length = self.stops[unit]
        here = max(start, start // every * every + length) if start >= every else start
        while True:
            stop = (here // every + 1) * every
            if here + cycles <= stop:
                return here + cycles
            cycles, here = cycles - (stop - here), stop + length

    def _stream(self, task: Task, memory: str, cycles: float, start: float) -> float:
        """Reserve a port for what a task moves through it while it runs; return the end."""
        port = self.units[memory]
        begin = max(start, port.free)
        stall, end = begin - port.free, self._served(memory, begin, cycles)
        part = Task(task.number, "stream", memory, task.name, task.box, cycles)
        cause = "no request" if stall else ""
        self.events.append(Event(part, begin, end, end, stall, cause))
        port.free = end
        return end

    def _cause(self, task: Task) -> str:
        """Say what came last of all that a task waited for."""
        when, number = self.enabled_by[task.number]
        if task.computes and (number < 0 or self.barrier > when):
            return "drain"
        if number < 0:
            return "no request"
        return _reason(task, self.tasks[number])


def _reason(task: Task, other: Task) -> str:
    if other.number not in task.needs:
        return "buffer full"
    return f"load of {other.name}" if other.kind == "load" else f"result of {other.name}"


def _order(task: Task) -> tuple[int, int, int, int]:
    return task.phase, task.epoch, -task.stage, task.number


def _deadlock(machine: _Machine, trace: Trace) -> MappingError:
    """Name the task that each array cannot start, and what that waits for."""
    finished = {event.task.number for event in machine.events if event.task.kind != "stream"}
    reasons: list[str] = []
    waiting: list[str] = []
    for unit in machine.units.values():
        number = unit.head()
        if unit.port or number < 0:
            continue
        task = trace.tasks[number]
        missing = [each for each in (*task.needs, *task.frees) if each not in finished]
        reason = _reason(task, trace.tasks[missing[0]]) if missing else "drain"
        reasons.append(reason)
        waiting.append(f"{unit.name} cannot start {task.name}: {reason}")
    fix = "give what makes a tensor a stage that is not after what reads it"
    if "buffer full" in reasons:
        fix = "keep the tensors between them with more buffers, as in 'keep T in MEM x2'"
    return MappingError(f"the design deadlocks: {'; '.join(waiting)}", fix=fix)

"""The initiation interval of a pipelined loop: the heaviest cycle of what waits for what.

In an interval every array takes its tasks in a fixed order: older iterations (higher stages) first,
then program order. A task waits for the one before it on its array, for its operands, and, in the
next interval, for the last task of this one. The interval is the largest ratio of cycles to
intervals over all circles of such waits. One circle is an array's own list: its work is a lower
bound that nothing else need reach. `heaviest_circle` is also what the loops of generated code are
scheduled with (`codegen/timing/schedule.py`). Excluded: filling, draining and finite buffers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = [
    "Edge",
    "Interval",
    "Task",
    "Wait",
    "heaviest_circle",
    "initiation_interval",
    "phased_interval",
    "phased_starts",
    "starts",
]


@dataclass(frozen=True, slots=True)
class Task:
    """What one array does for one Einsum during one interval.

    ``drain`` is how many cycles after its last the result is there for others, ``late`` how many
    more where those are what it waits for itself (`recurrence.result_cycles`; one Einsum's own
    recurrence is in its cycles).
    """

    name: str
    array: str
    stage: int
    cycles: float
    drain: float = 0.0
    late: float = 0.0


@dataclass(frozen=True, slots=True)
class Wait:
    """`later` (of `iterations` iterations on) needs the result of `earlier`."""

    earlier: int
    later: int
    iterations: int


@dataclass(frozen=True, slots=True)
class Interval:
    """The initiation interval in cycles, and what it follows from."""

    cycles: float
    binding: str
    array_cycles: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Edge:
    """`end` starts at the earliest `cycles` after `start` of `intervals` intervals before."""

    start: int
    end: int
    cycles: float
    intervals: int


def phased_interval(tasks: Sequence[Task], phases: int) -> Interval:
    """Return the interval of tasks in phases, each as long as its busiest array and its drains."""
    loads: dict[str, float] = {}
    total, binding = 0.0, []
    for phase in range(phases):
        mine = [task for task in tasks if task.stage % phases == phase]
        here: dict[str, float] = {}
        for task in mine:
            here[task.array] = here.get(task.array, 0.0) + task.cycles
            loads[task.array] = loads.get(task.array, 0.0) + task.cycles
        if here:
            binding.append(max(here, key=lambda name: here[name]))
            total += max(here.values()) + max(task.drain for task in mine)
    return Interval(total, f"phases {' -> '.join(binding)}", loads)


def initiation_interval(tasks: Sequence[Task], waits: Sequence[Wait]) -> Interval:
    """Return the initiation interval of tasks in program order."""
    loads: dict[str, float] = {}
    for task in tasks:
        loads[task.array] = loads.get(task.array, 0.0) + task.cycles
    busiest = max(loads, key=lambda name: loads[name])
    best, circle = heaviest_circle(len(tasks), _edges(tasks, waits), loads[busiest])
    if not circle:
        return Interval(best, f"array {busiest}", loads)
    names = [tasks[edge.start].name for edge in circle]
    return Interval(best, f"recurrence {' -> '.join([*names, names[0]])}", loads)


def starts(tasks: Sequence[Task], waits: Sequence[Wait], interval: float) -> tuple[float, ...]:
    """Return when each task starts in the modulo schedule, at the earliest.

    A task of stage s works in interval k on iteration k - s; its cycle is counted from the start of
    interval k, and may lie in the next one.

    Args:
        tasks: in program order.
        waits: what waits for what.
        interval: `initiation_interval` of them, or more.
    """
    slack = 1e-9 * max(1.0, interval)
    found, edges = [0.0] * len(tasks), _edges(tasks, waits)
    for _ in tasks:
        for edge in edges:
            reached = found[edge.start] + edge.cycles - interval * edge.intervals
            if reached > found[edge.end] + slack:
                found[edge.end] = reached
    return tuple(found)


def phased_starts(tasks: Sequence[Task], phases: int) -> tuple[float, ...]:
    """Return when each task starts where an interval is phases (`phased_interval`)."""
    found, begin = [0.0] * len(tasks), 0.0
    for phase in range(phases):
        mine = [n for n, task in enumerate(tasks) if task.stage % phases == phase]
        free: dict[str, float] = {}
        for number in mine:
            task = tasks[number]
            found[number] = free.get(task.array, begin)
            free[task.array] = found[number] + task.cycles
        drains = max((tasks[number].drain for number in mine), default=0.0)
        begin = max(free.values(), default=begin) + drains
    return tuple(found)


def heaviest_circle(
    nodes: int, edges: Sequence[Edge], at_least: float
) -> tuple[float, tuple[Edge, ...]]:
    """Return the largest ratio of cycles to intervals over all circles, and such a circle.

    Args:
        nodes: how many there are; edges name them by number.
        edges: what waits for what.
        at_least: what the ratio is without any circle, which is then empty.
    """
    best, worst = at_least, tuple[Edge, ...]()
    while True:
        circle = _heavier(nodes, edges, best)
        laps = sum(edge.intervals for edge in circle)
        if laps <= 0:  # none, or one that waits across intervals instead
            return best, worst
        best, worst = sum(edge.cycles for edge in circle) / laps, tuple(circle)


def _edges(tasks: Sequence[Task], waits: Sequence[Wait]) -> tuple[Edge, ...]:
    after = _after(len(tasks), waits)
    edges = []
    for wait in waits:
        first, last = tasks[wait.earlier], tasks[wait.later]
        circle = wait.earlier != wait.later and wait.earlier in after[wait.later]
        cycles = first.cycles + first.drain + (first.late if circle else 0.0)
        edges.append(
            Edge(wait.earlier, wait.later, cycles, wait.iterations + last.stage - first.stage)
        )
    lists: dict[str, list[int]] = {}
    for number, task in enumerate(tasks):
        lists.setdefault(task.array, []).append(number)
    for mine in lists.values():
        mine.sort(key=lambda number: (-tasks[number].stage, number))
        edges += [Edge(a, b, tasks[a].cycles, 0) for a, b in pairwise(mine)]
        edges.append(Edge(mine[-1], mine[0], tasks[mine[-1]].cycles, 1))
    return tuple(edge for edge in edges if edge.intervals >= 0)


def _after(nodes: int, waits: Sequence[Wait]) -> list[set[int]]:
    """Return for each task those that wait for it, others in between or not."""
    found: list[set[int]] = [set() for _ in range(nodes)]
    changed = True
    while changed:
        changed = False
        for wait in waits:
            more = {wait.later} | found[wait.later]
            changed = changed or not more <= found[wait.earlier]
            found[wait.earlier] |= more
    return found


def _heavier(nodes: int, edges: Sequence[Edge], interval: float) -> list[Edge]:
    """Return a circle that needs more than `interval` cycles for each interval, if there is one."""
    slack = 1e-9 * max(1.0, interval)
    far = [0.0] * nodes
    via: list[Edge | None] = [None] * nodes
    changed = -1
    for _ in range(nodes + 1):
        changed = -1
        for edge in edges:
            reached = far[edge.start] + edge.cycles - interval * edge.intervals
            if reached > far[edge.end] + slack:
                far[edge.end], via[edge.end], changed = reached, edge, edge.end
        if changed < 0:
            return []
    return _circle(changed, via)


def _circle(start: int, via: Sequence[Edge | None]) -> list[Edge]:
    """Follow the chain of predecessors into its circle."""
    node = start
    for _ in via:
        edge = via[node]
        assert edge is not None
        node = edge.start
    circle: list[Edge] = []
    first = node
    while True:
        edge = via[node]
        assert edge is not None
        circle.append(edge)
        node = edge.start
        if node == first:
            return circle[::-1]

"""The initiation interval of a pipelined loop: the heaviest cycle of what waits for what.

In an interval every array takes its tasks in a fixed order: older iterations (higher stages)
first, then program order. A task waits for the one before it on its array, for its operands, and,
in the next interval, for the last task of this one. The interval is the largest ratio of
cycles to intervals over all circles of such waits. One circle is an array's own list: its work is
a lower bound that nothing else need reach. Excluded: filling, draining and finite buffers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Interval", "Task", "Wait", "initiation_interval", "phased_interval"]


@dataclass(frozen=True, slots=True)
class Task:
    """What one array does for one Einsum during one interval.

    ``drain`` is how many cycles after its last the result is there for others.
    """

    name: str
    array: str
    stage: int
    cycles: float
    drain: float = 0.0


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
class _Edge:
    start: int
    end: int
    intervals: int
    drain: float = 0.0


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
    best, binding = loads[busiest], f"array {busiest}"
    edges = _edges(tasks, waits)
    while True:
        circle = _heavier(tasks, edges, best)
        if circle is None:
            return Interval(best, binding, loads)
        cycles = sum(tasks[edge.start].cycles + edge.drain for edge in circle)
        laps = sum(edge.intervals for edge in circle)
        if laps <= 0:  # cannot be met in this order: tasks wait across intervals instead
            return Interval(best, binding, loads)
        best = cycles / laps
        names = [tasks[edge.start].name for edge in circle]
        binding = f"recurrence {' -> '.join([*names, names[0]])}"


def _edges(tasks: Sequence[Task], waits: Sequence[Wait]) -> tuple[_Edge, ...]:
    edges = [
        _Edge(
            wait.earlier,
            wait.later,
            wait.iterations + tasks[wait.later].stage - tasks[wait.earlier].stage,
            tasks[wait.earlier].drain,
        )
        for wait in waits
    ]
    lists: dict[str, list[int]] = {}
    for number, task in enumerate(tasks):
        lists.setdefault(task.array, []).append(number)
    for mine in lists.values():
        mine.sort(key=lambda number: (-tasks[number].stage, number))
        edges += [_Edge(a, b, 0) for a, b in pairwise(mine)]
        edges.append(_Edge(mine[-1], mine[0], 1))
    return tuple(edge for edge in edges if edge.intervals >= 0)


def _heavier(tasks: Sequence[Task], edges: Sequence[_Edge], interval: float) -> list[_Edge] | None:
    """Return a circle that needs more than `interval` cycles for each interval, or None."""
    slack = 1e-9 * max(1.0, interval)
    far = [0.0] * len(tasks)
    via: list[_Edge | None] = [None] * len(tasks)
    changed = -1
    for _ in range(len(tasks) + 1):
        changed = -1
        for edge in edges:
            cycles = tasks[edge.start].cycles + edge.drain
            reached = far[edge.start] + cycles - interval * edge.intervals
            if reached > far[edge.end] + slack:
                far[edge.end], via[edge.end], changed = reached, edge, edge.end
        if changed < 0:
            return None
    return _circle(changed, via)


def _circle(start: int, via: Sequence[_Edge | None]) -> list[_Edge]:
    """Follow the chain of predecessors into its circle."""
    node = start
    for _ in via:
        edge = via[node]
        assert edge is not None
        node = edge.start
    circle: list[_Edge] = []
    first = node
    while True:
        edge = via[node]
        assert edge is not None
        circle.append(edge)
        node = edge.start
        if node == first:
            return circle[::-1]

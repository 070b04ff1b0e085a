"""What the simulated machine has to do: `Task`, one thing on one unit, and `Trace`, all of them.

Excluded: how a mapping becomes tasks (`walk.py`) and when each runs (`engine.py`).
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

__all__ = [
    "Box",
    "Direction",
    "Kind",
    "Lap",
    "Row",
    "Skip",
    "Task",
    "Trace",
    "Traffic",
    "collection_paused",
]

Box = tuple[tuple[str, tuple[int, int]], ...]
"""(rank variable, (start, stop)) pairs, half open."""

Direction = Literal["read", "write"]
Row = tuple[str, str, Direction]
"""Memory, tensor, direction."""

Traffic = Mapping[Row, float]
"""Bytes through the ports of memories."""

Kind = Literal["compute", "init", "load", "store", "stream"]


class Task(NamedTuple):
    """One thing that one unit does without interruption.

    A named tuple, because there are so many.

    Args:
        number: position in program order.
        kind: a tile of an Einsum, the first coordinate of an iterative tensor, a transfer into
            or out of a kept tile, or the operands of a tile passing through a memory's port.
        unit: the array that computes, or the memory whose port is used.
        name: the Einsum, or the tensor that is moved.
        box: the coordinates of a computing task.
        cycles: how long the unit is needed.
        latency: cycles from the end until the results can be read.
        needs: tasks whose results it reads.
        frees: tasks that must have finished before it may overwrite their buffer.
        phase: computing tasks of a phase start only when those of earlier phases have finished.
        epoch: within a phase, the initiation interval in which it works.
        stage: within an epoch, older iterations (higher stages) come first.
        bytes: what a transfer moves.
        ports: (memory, cycles) pairs: other ports that it occupies while it runs.
        near: those of `needs` and `frees` that it follows place by place, on the same array.
        near_latency: cycles from the end until tasks that have it in `near` can read the results.
    """

    number: int
    kind: Kind
    unit: str
    name: str
    box: Box = ()
    cycles: float = 0.0
    latency: int = 0
    needs: tuple[int, ...] = ()
    frees: tuple[int, ...] = ()
    phase: int = 0
    epoch: int = 0
    stage: int = 0
    bytes: float = 0.0
    ports: tuple[tuple[str, float], ...] = ()
    near: tuple[int, ...] = ()
    near_latency: int = 0

    @property
    def computes(self) -> bool:
        """Whether it runs on an array."""
        return self.kind in ("compute", "init")


class Skip(NamedTuple):
    """A tile without any effect: it takes no time, and what it would define is absent there.

    ``after`` is the task after which that is so (a state passes on its previous coordinate), -1
    for the beginning.
    """

    name: str
    box: Box
    after: int


class Lap(NamedTuple):
    """One run of loop `number` of the plan, which no other over its variable is around.

    ``starts`` has the number of the first task of each step, and of the first one after the loop.
    """

    number: int
    starts: tuple[int, ...]


@dataclass(frozen=True)
class Trace:
    """The tasks of one run, in program order.

    Args:
        tasks: all of them; ``tasks[n].number == n``.
        skips: tiles that predicates make empty.
        laps: every run of a loop.
        loads: kinds of tasks by the bytes that they move through which memory's port.
        moved: for each task its number in `loads`.
        stops: memory → (cycles, cycles): how often, and how long, its port stops.
    """

    tasks: tuple[Task, ...]
    skips: tuple[Skip, ...]
    laps: tuple[Lap, ...] = ()
    loads: tuple[tuple[tuple[Row, float], ...], ...] = ()
    moved: tuple[int, ...] = ()
    stops: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@contextmanager
def collection_paused() -> Iterator[None]:
    """Pause the search for garbage in cycles, which looks at every task again and again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()

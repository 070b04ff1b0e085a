"""A program on a clocked machine, cycle for cycle: the rules of docs/rtl.md, event by event.

Every unit works through its ops in order; the only ways in which units meet are the counts of ops
that are done and the words in FIFOs. What happens in a unit between two of those takes a number of
cycles that the op's shape fixes, so that time is computed op by op and step by step, never
cycle by cycle. Nothing here reads the RTL or knows its registers. Excluded: values.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

from penstock.errors import MappingError
from penstock.machine.hardware import Hardware
from penstock.machine.program import Op, Operand, Program, Shape, Transfer
from penstock.metrics import Metric

__all__ = ["Clocked", "run_clocked"]

Pattern = Sequence[bool]
"""For each cycle, again and again: whether a stream would move."""


@dataclass(frozen=True)
class Clocked:
    """What a program did.

    Args:
        cycles: until every op is done and the FIFO out is empty.
        busy: for each unit, cycles at work; of a stream, beats.
        drained: for each core, cycles in which results leave the places; 0 for streams.
        done: for each unit, the cycle in which others see that an op is done.
        started: for each unit, the cycle in which an op's waits were met.
    """

    cycles: int
    busy: tuple[int, ...]
    drained: tuple[int, ...]
    done: tuple[tuple[int, ...], ...]
    started: tuple[tuple[int, ...], ...]

    def metrics(self, hardware: Hardware, clock_hz: float) -> tuple[Metric, ...]:
        """Return latency and the units' shares of it, with evidence ``simulation``."""
        rows = [
            Metric("latency", self.cycles, "cycles", "simulation"),
            Metric("latency_s", self.cycles / clock_hz, "s", "simulation"),
        ]
        for what, counts in (("busy", self.busy), ("drain", self.drained)):
            rows += [
                Metric(f"{what}_{unit}", count / self.cycles, "of cycles", "simulation")
                for unit, count in zip(hardware.units, counts, strict=True)
                if count
            ]
        return tuple(rows)


def run_clocked(program: Program, offers: Pattern = (True,), takes: Pattern = (True,)) -> Clocked:
    """Run a program.

    Args:
        program: of a design.
        offers: when the outside offers data; once offered, data stays until it is taken.
        takes: when the outside takes data.

    Raises:
        MappingError: units wait for each other in a circle, or a stream never moves.
    """
    if not any(offers) or not any(takes):
        raise MappingError("a stream never moves", fix="let the pattern have a cycle that is true")
    units: list[_Unit] = [
        _Reader(program, offers),
        _Writer(program, takes),
        *(_Core(queue) for queue in program.queues[2:]),
    ]
    done: list[list[int]] = [each.done for each in units]
    moved = True
    while moved:
        moved = False
        for unit, queue in zip(units, program.queues, strict=True):
            while len(unit.done) < len(queue):
                met = _met(queue[len(unit.done)], done)
                if met is None:
                    break
                unit.op(queue[len(unit.done)], met)
                moved = True
    for name, unit, queue in zip(program.hardware.units, units, program.queues, strict=True):
        if len(unit.done) < len(queue):
            raise MappingError(
                f"{name} waits for ever before op {len(unit.done)}", fix="report it: a deadlock"
            )
    ends = [each[-1] for each in done if each]
    writer = units[1]
    assert isinstance(writer, _Writer)
    return Clocked(
        max([*ends, writer.empty, 0]),
        tuple(unit.busy for unit in units),
        tuple(unit.drained for unit in units),
        tuple(tuple(each) for each in done),
        tuple(tuple(unit.started) for unit in units),
    )


def _met(op: Op, done: Sequence[Sequence[int]]) -> int | None:
    """Return the first cycle in which all that an op waits for is seen, None if not known yet."""
    cycle = 0
    for count, ends in zip(op.waits, done, strict=True):
        if count > len(ends):
            return None
        if count:
            cycle = max(cycle, ends[count - 1])
    return cycle


@dataclass
class _Unit:
    """Loads an op in the cycle `load`, looks at what it waits for from the next cycle on."""

    done: list[int] = field(default_factory=list)
    started: list[int] = field(default_factory=list)
    load: int = 0
    busy: int = 0
    drained: int = 0

    def begin(self, met: int) -> int:
        """Return the cycle in which an op's first beat stands in front."""
        start = max(met, self.load + 1)
        self.started.append(start)
        return start + 1

    def op(self, op: Op, met: int) -> None:
        """Do an op whose waits are met in a cycle."""
        raise NotImplementedError


class _Core(_Unit):
    """Fetch, data, execute, drain."""

    def __init__(self, queue: Sequence[Op]) -> None:
        super().__init__()
        self.queue = queue
        self.fired = -1  # when the last step began to execute: the cycle before its first
        self.free = 0  # the first cycle in which a step may fire after it
        self.handed = -1  # when the last group's results were handed to the drain
        self.beats = 0  # that the drain takes for it

    def op(self, op: Op, met: int) -> None:
        shape = op.shape
        assert isinstance(shape, Shape)
        front = self.begin(met)
        executing, draining = shape.point_cycles, _drain_beats(shape)
        data = max(front + 1, self.fired + 1)  # its first beat is in D
        for beats, group in _steps(shape):
            last_beat = data + beats - 1
            self.fired = max(last_beat, self.free)
            self.free = self.fired + executing
            self.busy += executing
            if group:
                self.handed = max(self.free + 1, self.handed + self.beats)
                self.beats = draining
                self.drained += draining
                self.free = max(self.free, self.handed - 1)
            data = self.fired + 1
        self.load = last_beat
        self.done.append(self.handed + self.beats + 1)


@cache
def _drain_beats(shape: Shape) -> int:
    lanes = 1
    if not shape.write.over_cols and _clash(shape.write.col, shape.cols):
        lanes = shape.cols
    return shape.rows + lanes if shape.write.over_rows else shape.rows * lanes


def _clash(stride: int, lanes: int) -> bool:
    return lanes > 1 and stride % 2 == 0


def _operand_beats(operand: Operand, shape: Shape) -> int:
    """Return the beats that an operand takes: one for each row that differs, more if banks meet."""
    by_row = operand.row != 0 and shape.rows > 1
    by_col = operand.col != 0 and shape.cols > 1
    if by_col:
        across = shape.cols if _clash(operand.col, shape.cols) else 1
        return across * shape.rows if by_row else across
    if by_row:
        return shape.rows if _clash(operand.row, shape.rows) else 1
    return 1


@cache
def _kinds(shape: Shape) -> tuple[int, ...]:
    """Return the beats of a step in which loop n steps (and those inside begin anew), by n.

    The last entry is the op's first step, which fetches all operands.
    """
    found = []
    for outermost in range(len(shape.counts) + 1):
        ports = [0, 0]
        for operand in shape.operands:
            moved = any(
                stride and count > 1
                for stride, count in zip(
                    operand.strides[outermost:], shape.counts[outermost:], strict=True
                )
            )
            if moved or outermost == len(shape.counts):
                ports[operand.port] += _operand_beats(operand, shape)
        found.append(max(1, *ports))
    return tuple(found)


def _steps(shape: Shape) -> Iterator[tuple[int, bool]]:
    """Yield the beats of each step, and whether it ends a group."""
    kinds, counts = _kinds(shape), shape.counts
    outer = len(counts) - shape.reduced
    at = [0] * len(counts)
    beats = kinds[-1]
    while True:
        yield (
            beats,
            all(n + 1 == count for n, count in zip(at[outer:], counts[outer:], strict=True)),
        )
        loop = len(counts) - 1
        while loop >= 0 and at[loop] + 1 == counts[loop]:
            at[loop] = 0
            loop -= 1
        if loop < 0:
            return
        at[loop] += 1
        beats = kinds[loop]


class _Reader(_Unit):
    """Beats from outside pass the FIFO and are written, one a cycle."""

    def __init__(self, program: Program, offers: Pattern) -> None:
        super().__init__()
        self.offers, self.depth = offers, program.fifo_in
        self.pushed = -1  # when the last beat entered the FIFO
        self.popped: deque[int] = deque(maxlen=self.depth)

    def op(self, op: Op, met: int) -> None:
        shape = op.shape
        assert isinstance(shape, Transfer)
        cycle = self.begin(met)
        for _ in range(math.prod(shape.counts)):
            offered = _next(self.offers, self.pushed + 1)
            room = self.popped[0] + 1 if len(self.popped) == self.depth else 0
            self.pushed = max(offered, room)
            cycle = max(cycle, self.pushed + 1)
            self.popped.append(cycle)
            self.busy += 1
            cycle += 1
        self.load = cycle
        self.done.append(cycle)


class _Writer(_Unit):
    """Words are read, a cycle later enter the FIFO, and leave when the outside takes them."""

    def __init__(self, program: Program, takes: Pattern) -> None:
        super().__init__()
        self.takes, self.depth = takes, program.fifo_out
        self.pushed = -1
        self.popped: deque[int] = deque(maxlen=self.depth)
        self.empty = 0

    def op(self, op: Op, met: int) -> None:
        shape = op.shape
        assert isinstance(shape, Transfer)
        cycle = self.begin(met)
        for _ in range(math.prod(shape.counts)):
            read = max(cycle, self.pushed)  # when the word before moves on, at the earliest
            room = self.popped[0] + 1 if len(self.popped) == self.depth else 0
            self.pushed = max(read + 1, room)
            last = self.popped[-1] if self.popped else -1
            popped = _next(self.takes, max(self.pushed, last) + 1)
            self.popped.append(popped)
            self.empty = popped + 1
            self.busy += 1
            cycle = read + 1
        self.load = cycle
        self.done.append(self.pushed + 1)


def _next(pattern: Pattern, cycle: int) -> int:
    """Return the first cycle, from one on, in which a stream would move."""
    while not pattern[cycle % len(pattern)]:
        cycle += 1
    return cycle

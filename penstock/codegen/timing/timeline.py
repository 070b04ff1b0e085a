"""When a task reads and writes its streams: the schedule of its loops, one after another.

A task is a list of loops and straight code. A pipelined loop (the innermost one in time, with the
loops around it that contain nothing else) takes ``(steps - 1) * II + latency``, as csynth reports
it; what is around it runs its parts one after another, with a cycle to go from one to the next
and one to go round (UG1399: a cycle into a loop that is not flattened, and one out of it).
Extents and conditions that depend on loops around are computed, not bounded. A condition on data
is taken to hold, unless a stream is used under it.

The result is what `sim.pipeline.Process` wants; the two do not know each other.
Excluded: waiting.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from penstock.codegen.hls.loops import has_serial, is_serial
from penstock.codegen.loops.nodes import (
    Alloc,
    Block,
    Const,
    For,
    If,
    LoopExpr,
    LoopStmt,
    walk_statements,
)
from penstock.codegen.loops.walk import elements, names
from penstock.codegen.lower.index import has_load
from penstock.codegen.timing.addresses import Values, evaluate
from penstock.codegen.timing.schedule import Hardware, Pipelined, pipelined
from penstock.errors import MappingError

__all__ = ["LoopTime", "Timeline", "perfect", "timeline"]

SWITCH_CYCLES = 1

Steps = NDArray[np.int64]


@dataclass(frozen=True)
class LoopTime:
    """One pipelined loop in the whole run of a task.

    Args:
        loop: its variables, outermost first.
        entries: how often it is entered.
        steps: iterations in all.
        cycles: in all.
        pipelined: interval, latency and what sets it.
    """

    loop: str
    entries: int
    steps: int
    cycles: int
    pipelined: Pipelined


@dataclass(frozen=True)
class Timeline:
    """The schedule of a task.

    Args:
        steps: cycles that it takes if nothing holds it up.
        reads: stream → step of each token that is read.
        writes: stream → step of each token that is written.
        loops: the pipelined loops.
    """

    steps: int
    reads: Mapping[str, Steps] = field(default_factory=dict)
    writes: Mapping[str, Steps] = field(default_factory=dict)
    loops: tuple[LoopTime, ...] = ()


def timeline(body: LoopStmt, hardware: Hardware) -> Timeline:
    """Schedule a task.

    Args:
        body: spatial loops inside those in time (`hls.loops.sink_spatial`).
        hardware: what it runs on.

    Raises:
        MappingError: whether a stream is used depends on data.
    """
    timer = _Timer(hardware)
    whole = _normal(body)  # schedules are known by the identity of its parts
    found = timer.line(whole, {})
    return replace(found, loops=_sums(found.loops))


def _sums(loops: Sequence[LoopTime]) -> tuple[LoopTime, ...]:
    """Return one row for each loop."""
    sums: dict[str, LoopTime] = {}
    for each in loops:
        old = sums.get(each.loop)
        sums[each.loop] = each if old is None else _both(old, each)
    return tuple(sums.values())


def _both(one: LoopTime, two: LoopTime) -> LoopTime:
    return replace(
        one,
        entries=one.entries + two.entries,
        steps=one.steps + two.steps,
        cycles=one.cycles + two.cycles,
    )


class _Timer:
    """What has been scheduled; lives only inside `timeline`."""

    def __init__(self, hardware: Hardware) -> None:
        self.hardware = hardware
        self.known: dict[tuple[int, tuple[tuple[str, int], ...]], Timeline] = {}
        self.scheduled: dict[int, Pipelined] = {}
        self.bounds: dict[int, tuple[str, ...]] = {}

    def line(self, stmt: LoopStmt, at: Values) -> Timeline:
        """Return the schedule of a statement with these values of the loops around."""
        mine = self._deciding(stmt)
        key = (id(stmt), tuple((name, int(at[name])) for name in mine if name in at))
        if key not in self.known:
            self.known[key] = self._line(stmt, at)
        return self.known[key]

    def _deciding(self, stmt: LoopStmt) -> tuple[str, ...]:
        """Return the variables that decide how long a statement takes."""
        if id(stmt) not in self.bounds:
            exprs = list[LoopExpr]()
            for each in walk_statements(stmt):
                if isinstance(each, For):
                    exprs.append(each.extent)
                elif isinstance(each, If):
                    exprs.append(each.condition)
            self.bounds[id(stmt)] = names(*exprs)
        return self.bounds[id(stmt)]

    def _line(self, stmt: LoopStmt, at: Values) -> Timeline:
        if not has_serial(stmt):
            return self._once(stmt, at)
        match stmt:
            case Block(parts):
                return _joined([self.line(part, at) for part in parts])
            case Alloc(_, body):
                return self.line(body, at)
            case If(condition, body):
                if _unknown(condition):
                    self._refuse_streams(body)
                elif not evaluate(condition, at):
                    return Timeline(0)
                return self.line(body, at)
            case For():
                return self._loop(stmt, at)
            case _:
                raise AssertionError("a store contains no loop")

    def _loop(self, loop: For, at: Values) -> Timeline:
        chain = perfect(loop)
        extents = [int(evaluate(each.extent, at)) for each in chain]
        body = chain[-1].body
        if not has_serial(body):
            return self._pipelined(chain, extents, body, at)
        if chain[0].variable not in self._deciding(loop.body):
            once = self.line(loop.body, {**at, loop.variable: 0})
            return _repeated(once, int(evaluate(loop.extent, at)))
        count = int(evaluate(loop.extent, at))
        return _joined([self.line(loop.body, {**at, loop.variable: n}) for n in range(count)])

    def _schedule(self, body: LoopStmt, loops: Mapping[str, int]) -> Pipelined:
        if id(body) not in self.scheduled:
            self.scheduled[id(body)] = pipelined(body, loops, self.hardware)
        return self.scheduled[id(body)]

    def _once(self, stmt: LoopStmt, at: Values) -> Timeline:
        """Straight code: it ends when its longest chain does."""
        depth = self._schedule(stmt, {}).latency
        reads, writes = self._tokens(stmt, at, 1, 1, depth)
        return Timeline(depth, reads, writes)

    def _pipelined(
        self, chain: Sequence[For], extents: Sequence[int], body: LoopStmt, at: Values
    ) -> Timeline:
        loops = {each.variable: size for each, size in zip(chain, extents, strict=True)}
        steps = math.prod(extents)
        if not steps:
            return Timeline(0)
        found = self._schedule(body, loops)
        cycles = (steps - 1) * found.interval + found.latency
        grid = np.indices(tuple(extents)).reshape(len(extents), -1)
        here = {**at, **dict(zip(loops, grid, strict=True))}
        reads, writes = self._tokens(body, here, steps, found.interval, found.latency)
        row = LoopTime(", ".join(loops), 1, steps, cycles, found)
        return Timeline(cycles, reads, writes, (row,))

    def _tokens(
        self, body: LoopStmt, at: Values, steps: int, interval: int, latency: int
    ) -> tuple[dict[str, Steps], dict[str, Steps]]:
        """Return when streams are read (as a step begins) and written (as it ends)."""
        sides: tuple[dict[str, list[Steps]], dict[str, list[Steps]]] = ({}, {})
        for stmt, conditions in _leaves(body, ()):
            for each in elements(stmt):
                if each.buffer not in self.hardware.streams:
                    continue
                if any(_unknown(condition) for condition in conditions):
                    raise _data_dependent(each.buffer)
                on = np.ones(steps, bool)
                for condition in conditions:
                    on = on & np.broadcast_to(np.asarray(evaluate(condition, at), bool), steps)
                begin = np.flatnonzero(on) * interval
                late = latency - 1 if each.written else 0
                sides[each.written].setdefault(each.buffer, []).append(begin + late)
        merged = [{s: np.sort(np.concatenate(t)) for s, t in side.items()} for side in sides]
        return merged[0], merged[1]

    def _refuse_streams(self, body: LoopStmt) -> None:
        for each in elements(body):
            if each.buffer in self.hardware.streams:
                raise _data_dependent(each.buffer)


def _data_dependent(stream: str) -> MappingError:
    return MappingError(
        f"whether {stream} is used depends on data, so that its schedule is not known",
        fix="send the condition through the stream as well",
    )


def _leaves(
    stmt: LoopStmt, conditions: tuple[LoopExpr, ...]
) -> list[tuple[LoopStmt, tuple[LoopExpr, ...]]]:
    """Return the stores and the conditions themselves, each with what must hold for it."""
    match stmt:
        case Block(parts):
            return [leaf for part in parts for leaf in _leaves(part, conditions)]
        case If(condition, body):
            test = If(condition, Block(()))
            return [(test, conditions), *_leaves(body, (*conditions, condition))]
        case For() | Alloc():
            return _leaves(stmt.body, conditions)
        case _:
            return [(stmt, conditions)]


def _unknown(expr: LoopExpr) -> bool:
    return has_load(expr)


def _normal(stmt: LoopStmt) -> LoopStmt:
    """Put neighbours without loops in time together, everywhere: they run as one."""
    match stmt:
        case Block(parts) if has_serial(stmt):
            found = list[LoopStmt]()
            together = list[LoopStmt]()
            for part in parts:
                if has_serial(part):
                    found += [Block(tuple(together))] if together else []
                    found.append(_normal(part))
                    together = []
                else:
                    together.append(part)
            return Block((*found, *([Block(tuple(together))] if together else [])))
        case For() | If() | Alloc() if has_serial(stmt):
            return replace(stmt, body=_normal(stmt.body))
        case _:
            return stmt


def perfect(loop: For) -> list[For]:
    """Return a loop and those inside that it contains and nothing else: they become one."""
    chain = [loop]
    while is_serial(inner := _only(chain[-1].body)) and isinstance(inner, For):
        if not isinstance(inner.extent, Const):
            break
        chain.append(inner)
    return chain if not has_serial(chain[-1].body) else [loop]


def _only(stmt: LoopStmt) -> LoopStmt:
    while isinstance(stmt, Block) and len(stmt.body) == 1:
        stmt = stmt.body[0]
    return stmt


def _joined(lines: Sequence[Timeline]) -> Timeline:
    """Return schedules one after another."""
    lengths = [line.steps + SWITCH_CYCLES for line in lines if line.steps]
    lines = [line for line in lines if line.steps]
    starts = list(itertools.accumulate(lengths, initial=0))
    sides = list[dict[str, Steps]]()
    for written in (False, True):
        parts: dict[str, list[Steps]] = {}
        for start, line in zip(starts, lines, strict=False):
            for stream, steps in (line.writes if written else line.reads).items():
                parts.setdefault(stream, []).append(steps + start)
        sides.append({stream: np.concatenate(steps) for stream, steps in parts.items()})
    loops = _sums([each for line in lines for each in line.loops])
    total = max(0, starts[-1] - SWITCH_CYCLES)
    return Timeline(total, sides[0], sides[1], loops)


def _repeated(line: Timeline, count: int) -> Timeline:
    """Return a schedule `count` times."""
    each_round = line.steps + SWITCH_CYCLES
    starts = np.arange(count)[:, None] * each_round
    sides = [
        {stream: (steps[None, :] + starts).ravel() for stream, steps in side.items()}
        for side in (line.reads, line.writes)
    ]
    loops = tuple(
        replace(
            each, entries=each.entries * count, steps=each.steps * count, cycles=each.cycles * count
        )
        for each in line.loops
    )
    total = max(0, each_round * count - SWITCH_CYCLES)
    return Timeline(total, sides[0], sides[1], loops)

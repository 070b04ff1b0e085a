"""When each iteration of a pipelined loop starts and ends, from its operators, before any tool ran.

The initiation interval of a loop is the largest of

* its recurrences: what an iteration needs of an earlier one, cycles over iterations between them
  (`dependence.py`, `mapper.interval.heaviest_circle`),
* its ports: reads and writes of one bank of a memory, over the ports that it has,
* its streams: tokens of one stream, one a cycle.

Its iteration latency is the longest chain of operators: two stages for a load, ``latency + 1`` for
an operator with registers (`targets/cores.py`), operators without any share a stage as far as it
goes, one for a store to memory. Measured against the reports of Vitis HLS: docs/hls_timing.md.

Excluded: loops around (`timeline.py`); resources.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from penstock.codegen.hls.loops import UNROLLED
from penstock.codegen.loops.nodes import (
    Alloc,
    Block,
    Const,
    For,
    If,
    Load,
    LoopExpr,
    LoopStmt,
    Name,
    Op,
    Store,
    walk_statements,
)
from penstock.codegen.loops.walk import names
from penstock.codegen.timing.addresses import Split, addresses
from penstock.codegen.timing.dependence import affine, distance
from penstock.mapper.model.interval import Edge, heaviest_circle
from penstock.targets.cores import Cost, Number, core, usable_ns

__all__ = ["Hardware", "Pipelined", "Split", "pipelined"]

LOAD_STAGES = 2  # the address in one, the data in the next: iteration latency 3 of a copy
FORWARD_STAGES = 1  # from a store to a load of the same iteration
STREAM_STAGES = 1  # iteration latency 2 of a copy; an operator starts in the next stage
AXI_CYCLES = 64  # default latency of m_axi in Vitis (UG1399, config_interface -m_axi_latency)
AXI_BITS = 512  # what a port carries in a cycle when neighbours are asked for together
PORTS = 2  # of one bank of BRAM, URAM or LUT RAM (type=ram_2p)
IN_FLIP_FLOPS = 2  # stages that a value waits in them; the rest of a long wait is shift registers
SHIFTED = 32  # stages in one LUT (SRL32E, UG574)


@dataclass(frozen=True)
class Hardware:
    """What a schedule needs beside the loops.

    Args:
        number: what values are computed with.
        clock_hz: of the part.
        shapes: buffer → extents.
        splits: buffer → how each dimension is split, for those that are.
        axi: buffers in the outer memory: each has a port of its own.
        streams: buffers that are streams.
        bits: buffer in the outer memory → of one element there; 32 if it is not named.
        reassociates: whether sums of floats may be taken in another order
            (config_compile -unsafe_math_optimizations).
    """

    number: Number
    clock_hz: float
    shapes: Mapping[str, tuple[int, ...]]
    splits: Mapping[str, tuple[Split, ...]] = field(default_factory=dict)
    axi: frozenset[str] = frozenset()
    streams: frozenset[str] = frozenset()
    bits: Mapping[str, int] = field(default_factory=dict)
    reassociates: bool = False

    def kept(self, buffer: str) -> bool:
        """Whether a buffer is registers: all of its elements can be used in a cycle."""
        shape = self.shapes.get(buffer, ())
        parts = self.splits.get(buffer, (None,) * len(shape))
        whole = all(n == 1 or (how and how[1] >= n) for n, how in zip(shape, parts, strict=True))
        return whole and buffer not in self.axi and buffer not in self.streams


@dataclass(frozen=True)
class Pipelined:
    """One pipelined loop.

    Args:
        interval: cycles between two iterations.
        latency: cycles of one iteration.
        cause: what sets the interval, with the numbers.
        registers: of values between the stages.
    """

    interval: int
    latency: int
    cause: str
    registers: Cost = field(default_factory=Cost)


@dataclass(frozen=True)
class Step:
    """One store of a loop body: the places that do it side by side, and its conditions.

    ``shared`` are the places that use one and the same buffer, those inside its allocation.
    """

    store: Store
    places: Mapping[str, int]
    shared: frozenset[str]
    conditions: tuple[LoopExpr, ...] = ()


def pipelined(body: LoopStmt, loops: Mapping[str, int], hardware: Hardware) -> Pipelined:
    """Schedule the body of a loop, or with no loops what is done once.

    Args:
        body: without loops that run step by step.
        loops: variable → extent of the loop, and of those around it that are one with it.
        hardware: what it runs on.
    """
    return _Body(body, loops, hardware).result()


def steps_of(body: LoopStmt) -> tuple[Step, ...]:
    """Return the stores of a loop body in order."""
    return tuple(_steps(body, {}, (), {}))


def _steps(
    stmt: LoopStmt,
    places: Mapping[str, int],
    conditions: tuple[LoopExpr, ...],
    outside: Mapping[str, frozenset[str]],
) -> Iterator[Step]:
    match stmt:
        case Store(buffer):
            shared = frozenset(places) - outside.get(buffer, frozenset())
            yield Step(stmt, places, shared, conditions)
        case Block(parts):
            for part in parts:
                yield from _steps(part, places, conditions, outside)
        case For() if stmt.kind in UNROLLED:
            assert isinstance(stmt.extent, Const), "a spatial loop has a constant extent"
            inner = {**places, stmt.variable: int(stmt.extent.value)}
            yield from _steps(stmt.body, inner, conditions, outside)
        case If(condition, inside):
            yield from _steps(inside, places, (*conditions, condition), outside)
        case Alloc(buffer, inside):
            around = {**outside, buffer.name: frozenset(places)}
            yield from _steps(inside, places, conditions, around)
        case For():
            raise AssertionError("the body of a pipelined loop has no loop in time")


def loads(expr: LoopExpr) -> Iterator[Load]:
    """Yield the loads whose values go into an expression (not those of its addresses)."""
    match expr:
        case Load():
            yield expr
        case Op(_, args):
            for arg in args:
                yield from loads(arg)
        case _:
            return


class _Body:
    """One loop body; lives only inside `pipelined`."""

    def __init__(self, body: LoopStmt, loops: Mapping[str, int], hardware: Hardware) -> None:
        self.loops, self.hardware = dict(loops), hardware
        self.steps = steps_of(body)
        self.private = {
            each.buffer.name for each in walk_statements(body) if isinstance(each, Alloc)
        }
        self.waits: dict[tuple[LoopExpr, int], tuple[int, int]] = {}

    def result(self) -> Pipelined:
        bounds = [(1.0, "a step each cycle"), *self._recurrences(), *self._ports()]
        cycles, cause = max(bounds, key=lambda each: each[0])
        interval = math.ceil(cycles - 1e-9)
        return Pipelined(interval, self._latency(), cause, self._registers(interval))

    @cached_property
    def _usable(self) -> float:
        return usable_ns(self.hardware.clock_hz)

    # -- the longest chain ---------------------------------------------------------------------

    def _latency(self) -> int:
        ready: dict[str, float] = {}
        last = 1.0
        for step in self.steps:
            name = step.store.buffer
            start = max((self._arrival(each, ready, step) for each in step.conditions), default=0.0)
            done = self._arrival(step.store.value, ready, step)
            done = max(start, done)
            done = self._chained(step, done)
            ready[name] = max(ready.get(name, 0.0), done)
            if not self.hardware.kept(name):
                self._wait(step.store.value, done, done, step)
                done = math.ceil(done) + 1 + (AXI_CYCLES if name in self.hardware.axi else 0)
            last = max(last, done)
        return math.ceil(last)

    def _arrival(self, expr: LoopExpr, ready: Mapping[str, float], step: Step) -> float:
        """Return the stage after which a value is there."""
        match expr:
            case Load(buffer, indices):
                inner = (load for index in indices for load in loads(index))
                begin = max((self._arrival(load, ready, step) for load in inner), default=0.0)
                stored = ready.get(buffer, -1.0)
                if self.hardware.kept(buffer):
                    return max(begin, stored)
                if buffer in self.hardware.streams:
                    return math.ceil(begin) + STREAM_STAGES
                if stored >= 0:
                    return max(math.ceil(begin) + LOAD_STAGES, math.ceil(stored) + FORWARD_STAGES)
                return math.ceil(begin) + LOAD_STAGES + AXI_CYCLES * (buffer in self.hardware.axi)
            case Op(op, args):
                there = [self._operand(arg, ready, step) for arg in args]
                cost = core(op, self.hardware.number)
                begin = self._begin(max(there, default=0.0), cost)
                for arg, since in zip(args, there, strict=True):
                    self._wait(arg, since, begin, step)
                return self._end(begin, cost)
            case _:
                return 0.0

    def _operand(self, expr: LoopExpr, ready: Mapping[str, float], step: Step) -> float:
        """Return the stage in which an operator can use a value: a token in the one after."""
        token = isinstance(expr, Load) and expr.buffer in self.hardware.streams
        return self._arrival(expr, ready, step) + token

    def _begin(self, there: float, cost: Cost) -> float:
        """Return when an operator starts whose operands are there."""
        share, room = cost.delay_ns / self._usable, math.ceil(there) - there or 1.0
        return math.ceil(there) if cost.latency or share > room else there

    def _end(self, begin: float, cost: Cost) -> float:
        return begin + (cost.latency + 1 if cost.latency else 0) + cost.delay_ns / self._usable

    def _chained(self, step: Step, done: float) -> float:
        """Add what the other places take that add to the same element, one after another."""
        ops = self._own_path(step)
        count = self._in_chain(step)
        if ops is None or count == 1:
            return done
        first, tree = done, self._balanced(ops)
        cost = core("+", self.hardware.number) if tree else _sum(ops)
        others = math.prod(step.places.values()) // count
        for number in range(1, 1 + math.ceil(math.log2(count)) if tree else count):
            begin = self._begin(done, cost)
            values, since = (-(-count >> number), done) if tree else (1, first)
            self._hold((step.store.value, number), others * values, since, begin)
            done = self._end(begin, cost)
        return done

    # -- what waits between the stages -----------------------------------------------------------

    def _wait(self, expr: LoopExpr, since: float, until: float, step: Step) -> None:
        """Note that a value that is there after stage `since` is used after stage `until`."""
        match expr:
            case Const() | Name():
                return
            case Load(buffer) if self.hardware.kept(buffer) and buffer not in self.private:
                return
            case Op(op) if (cost := core(op, self.hardware.number)).dsp and not cost.ff:
                since += 1  # the multiplier's own output register
        used = set(names(expr))
        places = math.prod(count for name, count in step.places.items() if name in used)
        self._hold((expr, 0), places, since, until)

    def _hold(self, value: tuple[LoopExpr, int], places: int, since: float, until: float) -> None:
        stages = math.floor(until) + 1 - math.ceil(since)
        self.waits[value] = (places, max(stages, self.waits.get(value, (0, 0))[1]))

    def _registers(self, interval: int) -> Cost:
        """Return what the values take that wait, a new one in every interval."""
        found = Cost()
        for places, stages in self.waits.values():
            copies, bits = -(-stages // interval), places * self.hardware.number.bits
            shifted = max(0, copies - IN_FLIP_FLOPS)
            shifts = Cost(ff=bits * (copies - shifted), lut=bits * -(-shifted // SHIFTED))
            found += shifts
        return found

    def _balanced(self, ops: tuple[Cost, ...]) -> bool:
        """Whether a chain may become a tree: additions in any order (expression_balance)."""
        free = self.hardware.number.kind == "fixed" or self.hardware.reassociates
        return free and all(op == core("+", self.hardware.number) for op in ops)

    def _in_chain(self, step: Step) -> int:
        """Return how many places write the same element."""
        used = set(names(*step.store.indices))
        return math.prod(step.places[name] for name in step.shared - used)

    def _own_path(self, step: Step) -> tuple[Cost, ...] | None:
        """Return the operators from a store's own element back to it."""
        return self._path(step.store.value, step.store.buffer)

    def _path(self, expr: LoopExpr, buffer: str) -> tuple[Cost, ...] | None:
        """Return the operators on the longest way of a buffer's value through an expression."""
        match expr:
            case Load(name):
                return () if name == buffer else None
            case Op(op, args):
                below = [way for arg in args if (way := self._path(arg, buffer)) is not None]
                if not below:
                    return None
                longest = max(below, key=lambda way: self._weight(way, memory=False))
                return (*longest, core(op, self.hardware.number))
            case _:
                return None

    # -- recurrences ---------------------------------------------------------------------------

    def _weight(self, ops: tuple[Cost, ...], *, memory: bool) -> float:
        """Return the cycles from a load to the next load of what was stored."""
        parts = [op.in_loop(self._usable) for op in ops]
        cycles, share = sum(whole for whole, _ in parts), sum(part for _, part in parts)
        return cycles + (1 + max(1, math.ceil(share)) if memory else share)

    def _recurrences(self) -> list[tuple[float, str]]:
        edges = []
        for late, step in enumerate(self.steps):
            for early, other in enumerate(self.steps):
                edge = self._edge(early, other, late, step)
                if edge:
                    edges.append(edge)
        cycles, circle = heaviest_circle(len(self.steps), edges, 0.0)
        if not circle:
            return []
        through = " -> ".join(self.steps[edge.end].store.buffer for edge in circle)
        length = sum(edge.cycles for edge in circle)
        laps = sum(edge.intervals for edge in circle)
        return [(cycles, f"recurrence of {through}: {length:.2g} cycles in {laps} steps")]

    def _edge(self, early: int, other: Step, late: int, step: Step) -> Edge | None:
        """Return how `step` waits for what `other` stored, in this step or an earlier one."""
        buffer = other.store.buffer
        if buffer in self.hardware.streams:
            return None
        found = list[int]()
        for load in (each for expr in (step.store.value, *step.conditions) for each in loads(expr)):
            if load.buffer == buffer:
                steps = self._steps_between(early, other, late, step, load)
                found += [] if steps is None else [steps]
        if not found:
            return None
        ways = [self._path(expr, buffer) for expr in (step.store.value, *step.conditions)]
        memory = not self.hardware.kept(buffer) and not self._held(step, buffer)
        weight = max(self._weight(way, memory=memory) for way in ways if way is not None)
        own = self._own_path(step) if early == late else None
        if own is not None and not self._balanced(own):
            weight *= self._in_chain(step)
        return Edge(early, late, weight, min(found))

    def _held(self, step: Step, buffer: str) -> bool:
        """Whether a step's own element is the same in the next one: then a register holds it."""
        inner = next((n for n, extent in reversed(self.loops.items()) if extent > 1), "")
        mine = [load for load in loads(step.store.value) if load.buffer == buffer]
        return step.store.buffer == buffer and all(
            affine(index) is not None
            and affine(index) == affine(other)
            and inner not in names(index)
            for load in mine
            for index, other in zip(step.store.indices, load.indices, strict=True)
        )

    def _steps_between(
        self, early: int, other: Step, late: int, step: Step, load: Load
    ) -> int | None:
        if self._renewed(late, load):
            return 0 if early < late else None
        places = {**other.places, **step.places}
        steps = distance(other.store.indices, load.indices, self.loops, places, same=early < late)
        return None if load.buffer in self.private and steps != 0 else steps

    def _renewed(self, late: int, load: Load) -> bool:
        """Whether the element was stored without condition earlier in the same step."""
        if load.buffer in self.private:
            return True
        reach = len(load.indices)
        return any(
            other.store.buffer == load.buffer
            and not other.conditions
            and _alike(other, self.steps[late], load, reach)
            for other in self.steps[:late]
        )

    # -- ports ---------------------------------------------------------------------------------

    def _ports(self) -> Iterator[tuple[float, str]]:
        used: dict[str, list[tuple[Step, tuple[LoopExpr, ...], bool]]] = {}
        for step in self.steps:
            used.setdefault(step.store.buffer, []).append((step, step.store.indices, True))
            for expr in (step.store.value, *step.conditions, *step.store.indices):
                for load in loads(expr):
                    used.setdefault(load.buffer, []).append((step, load.indices, False))
        for buffer, accesses in used.items():
            if buffer in self.hardware.streams:
                tokens = max(sum(w for *_, w in accesses), sum(not w for *_, w in accesses))
                yield tokens, f"stream {buffer}: {tokens} tokens, one a cycle"
            elif buffer in self.hardware.axi:
                count = max(self._words(accesses, buffer, way) for way in (True, False))
                yield count, f"port of {buffer}: {count} words of {AXI_BITS} bits, one a cycle"
            elif not self.hardware.kept(buffer):
                count = self._in_bank(accesses, buffer)
                text = f"bank of {buffer}: {count} reads and writes, {PORTS} ports"
                yield count / PORTS, text

    def _addresses(
        self, step: Step, indices: tuple[LoopExpr, ...], buffer: str
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        shape = self.hardware.shapes[buffer]
        splits = self.hardware.splits.get(buffer, (None,) * len(shape))
        return addresses(indices, shape, splits, step.places)

    def _in_bank(self, accesses: list[tuple[Step, tuple[LoopExpr, ...], bool]], buffer: str) -> int:
        """Return the accesses of the busiest bank; places that read the same element share one."""
        banks: dict[int, int] = {}
        seen = set[tuple[tuple[LoopExpr, ...], bool]]()
        for step, indices, written in accesses:
            if (indices, written) in seen:
                continue
            seen.add((indices, written))
            bank, address = self._addresses(step, indices, buffer)
            pairs = np.unique(np.stack([bank, address]), axis=1)
            for number, count in zip(*np.unique(pairs[0], return_counts=True), strict=True):
                banks[int(number)] = banks.get(int(number), 0) + int(count)
        return max(banks.values(), default=0)

    def _words(
        self, accesses: list[tuple[Step, tuple[LoopExpr, ...], bool]], buffer: str, written: bool
    ) -> int:
        """Return the words of a port that one step moves in one direction."""
        total, bits = 0, self.hardware.bits.get(buffer, 32)
        for step, indices, way in accesses:
            if way == written:
                _, address = self._addresses(step, indices, buffer)
                total += len(np.unique(address * bits // AXI_BITS))
        return total


def _sum(ops: tuple[Cost, ...]) -> Cost:
    return sum(ops, start=Cost())


def _alike(one: Step, two: Step, load: Load, reach: int) -> bool:
    """Whether a store and a load name the same element at each place."""
    first, second = list(one.places), list(two.places)
    rename = dict(zip(first, second, strict=False))
    same_places = list(one.places.values()) == list(two.places.values())[: len(first)]
    return same_places and all(
        _alike_index(one.store.indices[n], load.indices[n], rename) for n in range(reach)
    )


def _alike_index(one: LoopExpr, two: LoopExpr, rename: Mapping[str, str]) -> bool:
    first, second = affine(one), affine(two)
    if first is None or second is None:
        return False
    return ({rename.get(n, n): c for n, c in first[0].items()}, first[1]) == second

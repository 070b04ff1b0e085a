"""What a generated task takes of a part: its operators, buffers, streams and ports, each by name.

An operator is there once for each place that does it side by side, and once less often where a
loop starts a step only every II cycles: ``ceil(places / II)`` of those with registers, as Vitis HLS
shares them. Buffers are counted bank by bank; what lies in registers takes flip-flops. Values that
wait in a pipeline take a flip-flop for each bit and cycle.

Excluded: what multiplexers and state machines take (some LUTs; see docs/hls_timing.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from penstock.codegen.hls.loops import has_serial, is_serial
from penstock.codegen.loops.nodes import (
    Alloc,
    Block,
    Buffer,
    Const,
    For,
    If,
    LoopExpr,
    LoopStmt,
    Op,
    walk_statements,
)
from penstock.codegen.timing.schedule import (
    Hardware,
    Step,
    loads,
    pipelined,
    steps_of,
)
from penstock.codegen.timing.timeline import perfect
from penstock.targets.cores import Cost, core, core_in_loop, memory, storage

__all__ = ["Construct", "buffer_constructs", "operator_constructs"]

_FREE = ("float", "index")
_SHARED = 1
"""Cycles from which on Vitis HLS shares an operator between the steps of an interval."""


@dataclass(frozen=True, slots=True)
class Construct:
    """Something that a task consists of: ``Construct("compute", "operator", "mac", 256, cost)``."""

    task: str
    kind: str
    name: str
    count: int
    cost: Cost


def operator_constructs(task: str, body: LoopStmt, hardware: Hardware) -> tuple[Construct, ...]:
    """Return the operators of a task, one row for each kind.

    Args:
        task: its name.
        body: of it, spatial loops inside those in time.
        hardware: what it runs on.
    """
    counts: dict[tuple[str, Cost], int] = {}
    waits = Cost()
    for part, loops in _parts(body):
        found = pipelined(part, loops, hardware)
        waits += found.registers
        for step in steps_of(part):
            places = math.prod(step.places.values())
            waiting = found.interval > 1 and _carried(step)
            for op in _of(step.store.value, fuses=hardware.number.kind == "fixed"):
                cost = (core_in_loop if waiting else core)(op, hardware.number)
                shared = cost.latency >= _SHARED and loops
                side_by_side = math.ceil(places / found.interval) if shared else places
                counts[op, cost] = counts.get((op, cost), 0) + side_by_side
    rows = [
        Construct(task, "operator", op, count, cost.times(count))
        for (op, cost), count in counts.items()
    ]
    if waits.ff:
        rows.append(Construct(task, "pipeline registers", "", round(waits.ff), waits))
    return tuple(rows)


def _carried(step: Step) -> bool:
    """Whether a step reads what it writes."""
    return any(load.buffer == step.store.buffer for load in loads(step.store.value))


def _parts(stmt: LoopStmt) -> Iterator[tuple[LoopStmt, dict[str, int]]]:
    """Yield the bodies of pipelined loops, and the straight code between them."""
    if not has_serial(stmt):
        yield stmt, {}
        return
    match stmt:
        case For() if is_serial(stmt):
            chain = perfect(stmt)
            inside = chain[-1].body
            if has_serial(inside):
                yield from _parts(inside)
            else:
                yield inside, {each.variable: _extent(each) for each in chain}
        case Block(parts):
            for part in parts:
                yield from _parts(part)
        case For() | If() | Alloc():
            yield from _parts(stmt.body)
        case _:
            return


def _extent(loop: For) -> int:
    """Return a loop's extent; 2 if it depends on loops around, so that distances stay small."""
    return int(loop.extent.value) if isinstance(loop.extent, Const) else 2


def _of(expr: LoopExpr, *, fuses: bool) -> Iterator[str]:
    """Yield the operators of a value; those of addresses and counters are left out.

    In fixed point a product that is added to something is one multiply-add of a DSP block.
    """
    match expr:
        case Op("+", (other, Op("*", args))) | Op("+", (Op("*", args), other)) if fuses:
            yield "mac"
            yield from _of(other, fuses=fuses)
        case Op(op, args):
            if op not in _FREE:
                yield op
        case _:
            return
    for arg in args:
        yield from _of(arg, fuses=fuses)


def buffer_constructs(
    task: str, body: LoopStmt, hardware: Hardware, bits: Mapping[str, int]
) -> tuple[Construct, ...]:
    """Return the buffers of a task.

    Args:
        task: its name.
        body: of it.
        hardware: how buffers are split.
        bits: buffer → bits of an element.
    """
    found = (each.buffer for each in walk_statements(body) if isinstance(each, Alloc))
    return tuple(_buffer(task, each, hardware, bits[each.name]) for each in found)


def _buffer(task: str, buffer: Buffer, hardware: Hardware, bits: int) -> Construct:
    size = math.prod(buffer.shape)
    if hardware.kept(buffer.name):
        return Construct(task, "registers", buffer.name, size, Cost(ff=size * bits))
    splits = hardware.splits.get(buffer.name, (None,) * len(buffer.shape))
    banks = math.prod(how[1] for how in splits if how)
    words = math.prod(
        -(-extent // how[1]) if how else extent
        for extent, how in zip(buffer.shape, splits, strict=True)
    )
    kind = next((each for each in ("bram", "uram", "lutram") if each in buffer.memory), "")
    kind = (
        "lutram" if words * bits <= 1024 else storage(words, bits, kind)
    )  # small: the tool's rule
    cost = memory(words, bits, kind).times(banks)
    return Construct(task, kind or "memory", buffer.name, banks, cost)

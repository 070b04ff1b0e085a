"""Where elements lie, so that vector lanes meet neighbours: two rewrites for CPUs.

* `relaid`: the dimension of an intermediate along which lanes run becomes its last one, and loops
  that fill a buffer run in the order of memory.
* `packed`: elements that lanes would gather from far apart, again and again, are first copied into
  a buffer of their own in which they are neighbours (the transposed tile of keys): one for each
  point of the loops, or, where indices are clamped or overlap, all that can be met.

Before and after compute the same values. Excluded on purpose: parameters keep their layout; which
loops are lanes (`tvm/plan.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal

from penstock.codegen.loops.nodes import (
    Alloc,
    Buffer,
    Const,
    For,
    Load,
    LoopExpr,
    LoopStmt,
    Name,
    Op,
    Program,
    Store,
    inside,
    walk_statements,
)
from penstock.codegen.loops.rewrite import map_bodies, map_expressions, map_indices, map_leaves
from penstock.codegen.loops.walk import expressions, loads, touched
from penstock.codegen.tvm.kernels import extent_of, race_free
from penstock.codegen.tvm.ranges import Ranges, interval, names, stride
from penstock.codegen.tvm.script import ranges_inside

__all__ = ["LANE_KINDS", "PACK_ELEMENTS", "REUSE", "packed", "ranges_of", "relaid"]

LANE_KINDS = frozenset(("simd", "thread", "pe"))

PACK_ELEMENTS = 1 << 18
"""Most elements of a packed copy: 1 MiB of fp32, what a core's second-level cache holds."""

SHORT = 16
"""Rows below this length are not worth lanes along them if there are longer columns."""

REUSE = 4
"""A copy is made only if the loop around it reads it at least this often."""


def relaid(program: Program) -> Program:
    """Move the dimension that lanes run along to the end, in every buffer but the parameters."""
    own = {
        each.buffer.name: len(each.buffer.shape)
        for each in walk_statements(program.body)
        if isinstance(each, Alloc) and len(each.buffer.shape) > 1
    }
    votes: dict[str, list[float]] = {name: [0.0] * rank for name, rank in own.items()}
    for weight, lane, name, indices in _accesses(program.body, "", 1.0):
        if name in own:
            steps = [stride(index, lane) for index in indices]
            moving = [place for place, step in enumerate(steps) if step != 0]
            if len(moving) == 1 and steps[moving[0]] == 1:
                votes[name][moving[0]] += weight
    orders: dict[str, tuple[int, ...]] = {}
    for name, counts in votes.items():
        last = max(reversed(range(len(counts))), key=counts.__getitem__)
        if counts[last] > 0 and last != len(counts) - 1:
            orders[name] = (*(n for n in range(len(counts)) if n != last), last)
    body = _reordered(program.body, orders) if orders else program.body
    return replace(program, body=_in_order(body))


def _in_order(stmt: LoopStmt) -> LoopStmt:
    """Let nests that fill or copy run through what they write in order, lanes along its rows."""
    loops: list[For] = []
    inner = stmt
    while isinstance(inner, For) and isinstance(inner.extent, Const):
        loops.append(inner)
        inner = inner.body
    lanes = [each for each in loops if each.kind]
    if len(loops) < 2 or not isinstance(inner, Store) or len(lanes) > 1:
        return map_bodies(stmt, _in_order)
    places = {name: at for at, index in enumerate(inner.indices) for name in names(index)}
    read = {load.buffer for load in loads(inner.value)}
    last = max(loops, key=lambda each: places.get(each.variable, -1))
    other = lanes[0] if lanes else last
    free = all(race_free(each, {}) for each in loops) and inner.buffer not in read
    short = extent_of(last) < min(extent_of(other), SHORT)
    if not free or short or other.kind not in LANE_KINDS | {""}:
        return stmt
    made: LoopStmt = inner
    for each in sorted(loops, key=lambda each: -places.get(each.variable, -1)):
        made = replace(each, body=made)
        if lanes and each in (last, other) and last is not other:
            said = each.comment.split("@")[0]
            said = f"{said}@lanes, as {inner.buffer} lies in memory" if each is last else said
            like = other if each is last else last
            made = replace(made, kind=like.kind, axis=like.axis, comment=said)
    return made


def _accesses(
    stmt: LoopStmt, lane: str, weight: float
) -> Iterator[tuple[float, str, str, tuple[LoopExpr, ...]]]:
    """Yield (weight, variable of the lanes, buffer, indices) of every access inside lanes."""
    if isinstance(stmt, For):
        lane = stmt.variable if stmt.kind in LANE_KINDS else lane
        weight *= 8
    if lane:
        for expr in expressions(stmt):
            for each in loads(expr):
                yield weight, lane, each.buffer, each.indices
        if isinstance(stmt, Store):
            yield weight, lane, stmt.buffer, stmt.indices
    for inner in inside(stmt):
        yield from _accesses(inner, lane, weight)


def _reordered(stmt: LoopStmt, orders: Mapping[str, tuple[int, ...]]) -> LoopStmt:
    def indices(name: str, given: tuple[LoopExpr, ...]) -> tuple[LoopExpr, ...]:
        return tuple(given[n] for n in orders[name]) if name in orders else given

    def allocations(inner: LoopStmt) -> LoopStmt:
        match map_bodies(inner, allocations):
            case Alloc(buffer, body) if buffer.name in orders:
                shape = tuple(buffer.shape[n] for n in orders[buffer.name])
                return Alloc(replace(buffer, shape=shape), body)
            case other:
                return other

    return allocations(map_indices(stmt, indices))


def packed(
    loop: For, ranges: Ranges, buffers: Mapping[str, Buffer], tag: str
) -> tuple[tuple[Buffer, ...], tuple[LoopStmt, ...], For]:
    """Copy what the lanes inside a loop would gather in each of its iterations.

    Args:
        loop: around the lanes; the elements must not depend on it, nor be written in it.
        ranges: of the variables around the loop.
        buffers: every buffer by name.
        tag: ending for new names.

    Returns:
        The new buffers, the loops that fill them (to run before the loop), and the loop.
    """
    trips = interval(loop.extent, ranges)
    often = trips is not None and trips[1] >= REUSE
    inner = ranges_of(loop, ranges)
    written = touched(loop.body)[1]
    made: dict[Load, Load] = {}
    new: list[Buffer] = []
    fills: list[LoopStmt] = []
    for lane, load, times in _gathers(loop, "", 1):
        if load in made or load.buffer in written or any(_indirect(load)):
            continue
        ending = f"{tag}_{len(new)}"
        if often and not _moves_with(load, loop, inner):
            copy = _copy(load, lane, inner, buffers, ending, loop)
        else:
            copy = _slab(load, lane, inner, buffers, ending, loop, times)
        if copy is not None:
            new.append(copy[0])
            fills.append(copy[1])
            made[load] = copy[2]
    if not made:
        return (), (), loop

    def leaf(expr: Name | Load) -> LoopExpr:
        return made.get(expr, expr) if isinstance(expr, Load) else expr

    body = map_expressions(loop.body, lambda expr: map_leaves(expr, leaf))
    return tuple(new), tuple(fills), replace(loop, body=body)


def ranges_of(loop: For, ranges: Ranges) -> dict[str, tuple[int, int]]:
    """Return the ranges of the variables inside a loop, those of all loops in it included."""
    known = dict(ranges_inside(loop, ranges))
    for each in walk_statements(loop.body):
        if isinstance(each, For):
            known = dict(ranges_inside(each, known))
    return known


def _indirect(load: Load) -> Iterator[bool]:
    """Yield True for each load inside the indices of one."""
    return (True for index in load.indices for _ in loads(index))


def _moves_with(load: Load, loop: For, inner: Ranges) -> bool:
    """Whether the element depends on the loop, or on a variable without bounds."""
    used = frozenset().union(*(names(index) for index in load.indices))
    return loop.variable in used or not used <= inner.keys()


def _gathers(stmt: LoopStmt, lane: str, times: int) -> Iterator[tuple[str, Load, int]]:
    """Yield (variable, load, how often) for the loads that lanes along the variable would gather.

    How often is counted in loops of constant extent only.
    """
    if isinstance(stmt, For):
        lane = stmt.variable if stmt.kind in LANE_KINDS else lane
        times *= int(stmt.extent.value) if isinstance(stmt.extent, Const) else 1
    if lane:
        for expr in expressions(stmt):
            for each in loads(expr):
                steps = [stride(index, lane) for index in each.indices]
                if any(steps) and (any(steps[:-1]) or steps[-1] not in (0, 1)):
                    yield lane, each, times
    for inner in inside(stmt):
        yield from _gathers(inner, lane, times)


def _slab(
    load: Load,
    lane: str,
    inner: Ranges,
    buffers: Mapping[str, Buffer],
    tag: str,
    loop: For,
    times: int,
) -> tuple[Buffer, LoopStmt, Load] | None:
    """Copy all that a load can meet in a loop, the dimension of the lanes last.

    Unlike `_copy`, which has an element for each point of the loops: here indices may be clamped
    or overlap. Returns as `_copy`; None if there is no reuse, or an index may lie outside.
    """
    source = buffers[load.buffer]
    inside = {each.variable for each in walk_statements(loop) if isinstance(each, For)}
    moving: dict[int, tuple[int, int]] = {}
    for place, index in enumerate(load.indices):
        if names(index) & inside:
            bounds = interval(index, inner)
            if bounds is None or bounds[0] < 0 or bounds[1] >= source.shape[place]:
                return None
            moving[place] = bounds
    steps = {n: stride(index, lane) for n, index in enumerate(load.indices)}
    along = [n for n, step in steps.items() if step != 0]
    size = math.prod(high - low + 1 for low, high in moving.values())
    if len(along) != 1 or steps[along[0]] != 1 or size > PACK_ELEMENTS or times < REUSE * size:
        return None
    order = (*(n for n in moving if n != along[0]), along[0])
    at = {n: Name(f"i{n}_k{tag}") for n in order}
    extents = {n: moving[n][1] - moving[n][0] + 1 for n in order}
    lanes = inner[lane][1] + 1
    extents[along[0]] += (1 << (lanes - 1).bit_length()) - lanes  # a whole vector at the last one
    shape = tuple(extents[n] for n in order)
    buffer = replace(source, name=f"{source.name}_packed{tag}", shape=shape)
    low = {n: Const(moving[n][0], True) for n in order}
    high = {n: Const(moving[n][1], True) for n in order}

    def taken(n: int) -> LoopExpr:
        place = at[n] if low[n] == Const(0, True) else Op("+", (at[n], low[n]))
        exists = extents[n] == moving[n][1] - moving[n][0] + 1
        return place if exists else Op("min", (place, high[n]))

    read = tuple(taken(n) if n in at else index for n, index in enumerate(load.indices))
    fill: LoopStmt = Store(buffer.name, tuple(at[n] for n in order), Load(source.name, read))
    for n in reversed(order):
        kind: Literal["simd", ""] = "simd" if n == along[0] else ""
        fill = For(at[n].name, Const(extents[n], True), fill, kind)
    shifted = tuple(Op("-", (load.indices[n], low[n])) for n in order)
    return buffer, fill, Load(buffer.name, shifted)


def _copy(
    load: Load, lane: str, inner: Ranges, buffers: Mapping[str, Buffer], tag: str, loop: For
) -> tuple[Buffer, LoopStmt, Load] | None:
    """Return the buffer, the loops that fill it, and what replaces the load."""
    source = buffers[load.buffer]
    inside = {each.variable for each in walk_statements(loop.body) if isinstance(each, For)}
    used = [
        each for index in load.indices for each in sorted(names(index) & inside) if each != lane
    ]
    order = (*dict.fromkeys(used), lane)
    extents = [inner[each][1] + 1 for each in order]
    size = 1
    for extent in extents:
        size *= extent
    if size > PACK_ELEMENTS:
        return None
    buffer = replace(source, name=f"{load.buffer}_packed{tag}", shape=tuple(extents))
    spelled = {each: Name(f"{each}_k{tag}") for each in order}
    indices = tuple(
        _clamped(map_leaves(index, lambda e: _spelled(e, spelled)), index, inner, extent)
        for index, extent in zip(load.indices, source.shape, strict=True)
    )
    fill: LoopStmt = Store(
        buffer.name, tuple(spelled[each] for each in order), Load(source.name, indices)
    )
    for each, extent in reversed(list(zip(order, extents, strict=True))):
        kind: Literal["simd", ""] = "simd" if each == lane else ""
        fill = For(f"{each}_k{tag}", Const(extent, True), fill, kind)
    return buffer, fill, Load(buffer.name, tuple(Name(each) for each in order))


def _spelled(expr: Name | Load, spelled: Mapping[str, Name]) -> LoopExpr:
    return spelled.get(expr.name, expr) if isinstance(expr, Name) else expr


def _clamped(index: LoopExpr, original: LoopExpr, inner: Ranges, extent: int) -> LoopExpr:
    """Keep an index inside its buffer: what lies outside is copied from the edge, never used."""
    bounds = interval(original, inner)
    if bounds is None or bounds[0] < 0:
        index = Op("max", (index, Const(0, True)))
    if bounds is None or bounds[1] >= extent:
        index = Op("min", (index, Const(extent - 1, True)))
    return index

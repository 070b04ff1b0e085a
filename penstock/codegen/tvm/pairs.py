"""Products of bf16 numbers two at a time, where a machine has an instruction for it.

AVX-512's ``vdpbf16ps`` adds to each fp32 lane the products of two pairs of bf16 numbers (Intel's
manual, volume 2: ``VDPBF16PS``): twice the multiply-adds of fp32 (docs/tvm.md). A register tile
(`tvm/tiles.py`) of which both factors are bf16 takes the steps of its innermost reduced loop two
at a time. The factor along the lanes is copied, before a loop in which it does not change, into
words of 32 bits that hold the elements of two steps::

    for m by 4: for e: for m0: for p@lanes: S[m0, p] += Q[p, e] * K[m0, e]
    →  for e2: for p@lanes: QP[e2, p] = pair(Q[p, 2*e2], Q[p, 2*e2 + 1])
       for m by 4: for e: for m0: for p@lanes: S[m0, p] += half(QP[e//2, p], e%2) * K[m0, e]

and `tvm/tiles.py` makes of the last ``S[m0, p] = dot2(S[m0, p], QP[e2, p], pair(K.., K..))``. Both
mean the same to the interpreter of loops. The instruction takes subnormal bf16 numbers for 0.

Excluded on purpose: which tensors are bf16 (the cascade's formats, `runtime/halves.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

from penstock.codegen.loops.nodes import (
    Buffer,
    Const,
    For,
    Load,
    LoopExpr,
    LoopStmt,
    Name,
    Op,
    Store,
    walk_statements,
)
from penstock.codegen.loops.rewrite import map_expressions, map_leaves, substituted
from penstock.codegen.loops.walk import loads, touched
from penstock.codegen.tvm.layout import PACK_ELEMENTS, REUSE, ranges_of
from penstock.codegen.tvm.ranges import Ranges, interval, names
from penstock.codegen.tvm.tiles import Tile, factored, whole_vectors
from penstock.einsum_ir.formats import Format

__all__ = ["in_pairs"]


def in_pairs(
    loop: For,
    ranges: Ranges,
    buffers: Mapping[str, Buffer],
    fmt: Format,
    lanes: int,
    tile_at: Callable[[LoopStmt, Ranges], Tile | None],
    tag: str,
) -> tuple[tuple[Buffer, ...], tuple[LoopStmt, ...], For]:
    """Copy what the register tiles inside a loop multiply along their lanes, in pairs.

    Args:
        loop: around the tiles; what is copied does not depend on it, nor is written in it.
        ranges: of the variables around the loop.
        buffers: every buffer by name.
        fmt: of the buffers without a format of their own.
        lanes: elements of a vector.
        tile_at: returns a statement as a register tile, or None.
        tag: ending for new names.

    Returns:
        The new buffers, the loops that fill them (to run before the loop), and the loop.
    """
    trips = interval(loop.extent, ranges)
    if trips is None or trips[1] < REUSE:
        return (), (), loop
    inner, written = ranges_of(loop, ranges), touched(loop.body)[1]
    made: dict[Load, LoopExpr] = {}
    new: list[Buffer] = []
    fills: list[LoopStmt] = []
    for each in walk_statements(loop.body):
        tile = tile_at(each, inner) if isinstance(each, For) else None
        found = None if tile is None else _factor(tile, buffers, fmt, lanes)
        if tile is None or found is None or found[0] in made:
            continue
        load, over = found
        if load.buffer in written or loop.variable in _names(load):
            continue
        copy = _copy(load, over, tile, inner, loop, f"{tag}_{len(new)}")
        if copy is not None:
            new.append(copy[0])
            fills.append(copy[1])
            made[load] = copy[2]

    def leaf(expr: Name | Load) -> LoopExpr:
        return made.get(expr, expr) if isinstance(expr, Load) else expr

    body = map_expressions(loop.body, lambda expr: map_leaves(expr, leaf))
    return tuple(new), tuple(fills), replace(loop, body=body) if made else loop


def _factor(
    tile: Tile, buffers: Mapping[str, Buffer], fmt: Format, lanes: int
) -> tuple[Load, For] | None:
    """Return the factor along the lanes and the loop whose steps are paired; None without."""
    over = [each for each in tile.around if isinstance(each, For)][-1]
    match factored(tile.rest)[0]:
        case Op("*", (Load() as left, Load() as right)) if tile.op == "+":
            pass
        case _:
            return None
    if not whole_vectors(tile, lanes) or not all(_halves(e, buffers, fmt) for e in (left, right)):
        return None
    lane = tile.lanes.variable
    used = [_names(each) for each in (left, right)]
    if any(over.variable not in each for each in used) or sum(lane in each for each in used) != 1:
        return None
    return (left if lane in used[0] else right), over


def _names(load: Load) -> frozenset[str]:
    return frozenset[str]().union(*(names(index) for index in load.indices))


def _halves(load: Load, buffers: Mapping[str, Buffer], fmt: Format) -> bool:
    buffer = buffers[load.buffer]
    plain = not any(True for index in load.indices for _ in loads(index))
    return plain and buffer.kind == "data" and (buffer.own or fmt).name == "bf16"


def _copy(
    load: Load, over: For, tile: Tile, inner: Ranges, loop: For, tag: str
) -> tuple[Buffer, LoopStmt, LoopExpr] | None:
    """Return the buffer, the loops that fill it, and what replaces the load."""
    lane, step = tile.lanes.variable, over.variable
    inside = {each.variable for each in walk_statements(loop.body) if isinstance(each, For)}
    used = _names(load)
    if not used & inside <= inner.keys():
        return None
    others = sorted((used & inside) - {lane, step})
    extents = {each: inner[each][1] + 1 for each in (*others, step, lane)}
    last = extents[step] - 1
    extents[step] = -(-extents[step] // 2)
    if 2 * math.prod(extents.values()) > PACK_ELEMENTS:
        return None
    buffer = Buffer(f"{load.buffer}_pairs{tag}", tuple(extents.values()), "pair")
    spelled: dict[str, LoopExpr] = {each: Name(f"{each}_k{tag}") for each in extents}
    first: LoopExpr = Op("*", (Const(2, True), spelled[step]))
    second: LoopExpr = Op("+", (first, Const(1, True)))
    if last % 2 == 0:
        second = Op("min", (second, Const(last, True)))
    halves = tuple(substituted(load, {**spelled, step: each}) for each in (first, second))
    fill: LoopStmt = Store(buffer.name, tuple(spelled.values()), Op("pair", halves))
    for name, extent in reversed(extents.items()):
        kind: Literal["simd", ""] = "simd" if name == lane else ""
        fill = For(f"{name}_k{tag}", Const(extent, True), fill, kind)
    at: tuple[LoopExpr, ...] = (
        *map(Name, others),
        Op("//", (Name(step), Const(2, True))),
        Name(lane),
    )
    which = Op("%", (Name(step), Const(2, True)))
    return buffer, fill, Op("half", (Load(buffer.name, at), which))

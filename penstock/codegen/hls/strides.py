"""Dimensions that places reach in strides, cut in two so that each place has its banks.

::

    K[1024, 64]                                   K[16, 64, 64]
    i@cols, u@rows: K[i*64 + u*8 + ux, e]    →    K[i, u*8 + ux, e]

As one dimension all 1024 rows would need a bank of their own: banks are every n-th row or blocks of
rows, and neither serves strides of 64 and of 1 at once. Excluded: how many banks (`banks.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from penstock.codegen.hls.cpp import workspace
from penstock.codegen.hls.loops import UNROLLED
from penstock.codegen.loops.nodes import (
    Alloc,
    Const,
    For,
    LoopExpr,
    LoopStmt,
    Name,
    Op,
    Program,
    walk_statements,
)
from penstock.codegen.loops.rewrite import map_bodies, map_indices
from penstock.codegen.loops.walk import elements, names
from penstock.codegen.lower.index import (
    Lin,
    Ranges,
    atom,
    floor_divide,
    integer,
    modulo,
    range_of,
    to_expr,
)
from penstock.codegen.lower.index import constant as number
from penstock.codegen.timing.dependence import affine

__all__ = ["cut_strides"]

Cuts = dict[tuple[str, int], int]
"""(buffer, dimension) → stride at which it is cut."""


def cut_strides(program: Program) -> Program:
    """Return the program with local buffers whose dimensions are cut where places stride."""
    outside = {each.name for each in workspace(program)}
    statements = tuple(walk_statements(program.body))
    shapes = {
        each.buffer.name: each.buffer.shape
        for each in statements
        if isinstance(each, Alloc) and each.buffer.name not in outside
    }
    ranges: dict[str, tuple[int, int]] = {}
    lanes: dict[str, int] = {}
    for each in statements:
        if isinstance(each, For):
            _, high = range_of(atom(each.extent), ranges)
            ranges[each.variable] = (0, max(0, int(high) - 1))
            if each.kind in UNROLLED and isinstance(each.extent, Const):
                lanes[each.variable] = int(each.extent.value)
    found: dict[tuple[str, int], list[LoopExpr]] = {}
    for element in elements(program.body):
        for place, index in enumerate(element.indices):
            found.setdefault((element.buffer, place), []).append(index)
    cuts: Cuts = {}
    for (name, place), indices in found.items():
        stride = _stride(indices, shapes[name][place], lanes, ranges) if name in shapes else 0
        if stride:
            cuts[name, place] = stride

    def parts(name: str, indices: tuple[LoopExpr, ...]) -> tuple[LoopExpr, ...]:
        return tuple(
            part
            for place, index in enumerate(indices)
            for part in _cut(index, cuts.get((name, place), 0), ranges)
        )

    return replace(program, body=_reshaped(map_indices(program.body, parts), cuts))


def _reshaped(stmt: LoopStmt, cuts: Cuts) -> LoopStmt:
    stmt = map_bodies(stmt, lambda each: _reshaped(each, cuts))
    if not isinstance(stmt, Alloc):
        return stmt
    shape = list[int]()
    for place, extent in enumerate(stmt.buffer.shape):
        stride = cuts.get((stmt.buffer.name, place), 0)
        shape += [extent // stride, stride] if stride else [extent]
    return Alloc(replace(stmt.buffer, shape=tuple(shape)), stmt.body)


def _stride(indices: list[LoopExpr], extent: int, lanes: Mapping[str, int], ranges: Ranges) -> int:
    """Return where a dimension is to be cut, 0 for not at all."""
    for stride in dict.fromkeys(
        each for index in indices for each in _strides(index, extent, lanes)
    ):
        halves = [part for index in indices for part in _cut(index, stride, ranges)]
        used = (part for part in halves if any(name in lanes for name in names(part)))
        if extent % stride == 0 and all(affine(part) is not None for part in used):
            return stride
    return 0


def _strides(index: LoopExpr, extent: int, lanes: Mapping[str, int]) -> Iterator[int]:
    """Yield the strides of places beyond what the places inside them reach together.

    A stride that alone reaches the end of the dimension is served by blocks of it.
    """
    form = affine(index)
    if form is None:
        return
    steps = sorted(
        (abs(form[0].get(name, 0)), lanes[name]) for name in names(index) if name in lanes
    )
    reach = 1
    for step, places in steps:
        if step > reach and (len(steps) > 1 or step * places < extent):
            yield step
        reach = step * places


def _cut(index: LoopExpr, stride: int, ranges: Ranges) -> tuple[LoopExpr, ...]:
    """Return the index of the part and that in it; with no stride the index itself."""
    if not stride:
        return (index,)
    form = affine(index)
    if form is None:
        return Op("//", (index, integer(stride))), Op("%", (index, integer(stride)))
    whole = Lin(tuple((Name(name), factor) for name, factor in form[0].items()), form[1])
    by = number(stride)
    return to_expr(floor_divide(whole, by, ranges)), to_expr(modulo(whole, by, ranges))

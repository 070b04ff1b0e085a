"""Register tiles: what a reduction accumulates in a small block of elements stays in registers.

Before → after, where the mapping says ``BQK on vector: m0 by 8, e, m0, p@lanes``::

    for e: for m0 in 0..8: for p@lanes: X[m0, p] += A[p, e] * B[m0, e]
    →  acc[8, lanes] = X[..];  for e: (unrolled) acc[m0, p] += ..;  X[..] = acc[8, lanes]

A fill of the same elements that stands before it is where `acc` starts. Conditions that tell the
elements of a tile apart are tested once for the whole tile: if they hold everywhere, the tile runs
without them. Otherwise one that does not depend on what is reduced decides, at the end, which
elements are stored, and the others choose in each step; loads that may then lie outside a buffer
are clamped, their values unused.

Excluded on purpose: choosing tiles (the mapping's business), other uses of lanes (`tvm/plan.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from penstock.codegen.loops.nodes import (
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
)
from penstock.codegen.loops.rewrite import substituted
from penstock.codegen.loops.walk import loads
from penstock.codegen.tvm.fuse import pointwise
from penstock.codegen.tvm.lanes import accumulated, only
from penstock.codegen.tvm.layout import LANE_KINDS
from penstock.codegen.tvm.ranges import Ranges, interval, names, stride

__all__ = ["Start", "Tile", "count_of", "divided", "factored", "filled", "find_tile", "finished"]
__all__ += ["scaled", "whole_vectors"]


@dataclass(frozen=True, slots=True)
class Tile:
    """A reduction into a block of elements that is small enough for registers.

    Args:
        store: ``X[..] = op(X[..], rest)``.
        op: what accumulates.
        rest: what is accumulated.
        scale: a constant by which the sum is multiplied in the end, as every term was before.
        around: loops over what is reduced, with the conditions between them, outermost first.
        rows: loops over the elements, all but the last; their extents may be bounds only.
        lanes: the loop over neighbouring elements.
        telling: conditions that tell elements apart.
        limits: conditions that keep a row inside its loop, where its extent is not constant.
        finish: what is stored instead of the elements, if something is: it reads one of them.
        provided: conditions of that store.
    """

    store: Store
    op: str
    rest: LoopExpr
    around: tuple[For | If, ...]
    rows: tuple[For, ...]
    lanes: For
    telling: tuple[LoopExpr, ...]
    limits: tuple[LoopExpr, ...]
    scale: Const | None = None
    finish: Store | None = None
    provided: tuple[LoopExpr, ...] = ()

    @property
    def loops(self) -> tuple[For, ...]:
        """The loops over the elements, outermost first."""
        return (*self.rows, self.lanes)

    @property
    def box(self) -> dict[str, tuple[int, int]]:
        """The ranges of the variables of the elements."""
        return {each.variable: (0, count_of(each) - 1) for each in self.loops}


def find_tile(stmt: LoopStmt, ranges: Ranges, vectors: int, lanes: int) -> Tile | None:
    """Return a statement as a register tile, or None.

    Args:
        stmt: any.
        ranges: of the variables around it.
        vectors: most vectors that what is accumulated may take.
        lanes: elements of a vector.
    """
    chain: list[For | If] = []
    inner: LoopStmt | None = stmt
    while isinstance(inner, For | If):
        chain.append(inner)
        inner = only(inner.body)
    if not isinstance(inner, Store) or not isinstance(stmt, For):
        return None
    found = accumulated(inner)
    if found is None:
        return None
    kept = frozenset[str]().union(*(names(each) for each in inner.indices))
    loops = [each for each in chain if isinstance(each, For)]
    tiled = [each for each in loops if each.variable in kept]
    reduced = [each for each in loops if each.variable not in kept]
    if not tiled or not reduced or loops != [*reduced, *tiled]:
        return None
    if any(each.kind for each in (*reduced, *tiled[:-1])) or tiled[-1].kind not in LANE_KINDS:
        return None
    bounded = _bounded(tiled, ranges)
    if bounded is None or not _distinct(inner, bounded):
        return None
    size = -(-count_of(bounded[-1]) // lanes)
    for each in bounded[:-1]:
        size *= count_of(each)
    if size > vectors:
        return None
    limits = tuple(
        Op("<", (Name(each.variable), each.extent))
        for each in tiled
        if not isinstance(each.extent, Const)
    )
    own = {each.variable for each in tiled}
    tests = [each.condition for each in chain if isinstance(each, If)]
    telling = tuple(dict.fromkeys(each for each in tests if names(each) & own))
    if any(load.buffer == inner.buffer for test in tests for load in loads(test)):
        return None
    around = [each for each in chain if not (isinstance(each, For) and each in tiled)]
    rest = tuple(e for e in around if isinstance(e, For) or not names(e.condition) & own)
    return Tile(inner, *found, rest, tuple(bounded[:-1]), bounded[-1], telling, limits)


def scaled(tile: Tile) -> Tile:
    """Take a constant factor out of a sum that starts at 0."""
    rest, scale = factored(tile.rest) if tile.op == "+" else (tile.rest, None)
    return replace(tile, rest=rest, scale=scale)


def factored(expr: LoopExpr) -> tuple[LoopExpr, Const | None]:
    """Return a product without its constant factor, and that; None if it has not just one."""
    terms, factors = [expr], []
    for each in terms:
        match each:
            case Op("*", (left, right)):
                terms += [left, right]
            case _:
                factors.append(each)
    scales = [each for each in factors if isinstance(each, Const) and not each.integer]
    others = [each for each in factors if each not in scales]
    if len(scales) != 1 or not others:
        return expr, None
    rest = others[0]
    for each in others[1:]:
        rest = Op("*", (rest, each))
    return rest, scales[0]


def _bounded(tiled: list[For], ranges: Ranges) -> list[For] | None:
    """Give loops whose extent is not constant the largest one it can have; None if unknown."""
    made: list[For] = []
    for each in tiled:
        bounds = interval(each.extent, ranges)
        if bounds is None or bounds[1] < 1:
            return None
        if not isinstance(each.extent, Const) and each is tiled[-1]:
            return None
        made.append(replace(each, extent=Const(bounds[1], True)))
    return made


def _distinct(store: Store, loops: list[For]) -> bool:
    """Whether different values of the variables are different elements."""
    own = {each.variable for each in loops}
    moving = [names(index) & own for index in store.indices]
    if any(len(each) > 1 for each in moving):
        return False
    return all(
        any(stride(index, name) for index in store.indices if name in names(index)) for name in own
    )


def count_of(loop: For) -> int:
    """Return the constant extent of a loop."""
    assert isinstance(loop.extent, Const)
    return int(loop.extent.value)


@dataclass(frozen=True, slots=True)
class Start:
    """What the elements of a tile are at first, those for which the conditions hold."""

    value: Const
    given: tuple[LoopExpr, ...] = ()


def filled(stmt: LoopStmt, tile: Tile) -> Start | None:
    """Return what a statement fills the elements of a tile with; None if it is no such fill."""
    loops: dict[str, LoopExpr] = {}
    inner: LoopStmt | None = only(stmt) if isinstance(stmt, Block) else stmt
    while isinstance(inner, For):
        loops[inner.variable] = inner.extent
        inner = only(inner.body)
    if not isinstance(inner, Store) or not isinstance(inner.value, Const):
        return None
    if inner.buffer != tile.store.buffer or len(loops) != len(tile.loops):
        return None
    limits = {each.args[0]: each.args[1] for each in tile.limits if isinstance(each, Op)}
    extents = {each.variable: limits.get(Name(each.variable), each.extent) for each in tile.loops}
    same: dict[str, LoopExpr] = {}
    given: list[LoopExpr] = []
    for mine, theirs in zip(inner.indices, tile.store.indices, strict=True):
        for name in names(mine) & loops.keys():
            for other in names(theirs) & extents.keys():
                if loops[name] == extents[other]:
                    same[name] = Name(other)
                elif _at_most(loops[name], extents[other]):
                    same[name] = Name(other)
                    given.append(Op("<", (Name(other), loops[name])))
    spelled = tuple(substituted(each, same) for each in inner.indices)
    if spelled != tile.store.indices or len(same) != len(loops):
        return None
    return Start(inner.value, tuple(given))


def _at_most(extent: LoopExpr, most: LoopExpr) -> bool:
    """Whether an extent is the least of several, one of them a given constant."""
    match extent:
        case Op("min", sides):
            return isinstance(most, Const) and most in sides
        case _:
            return False


def finished(tile: Tile, stmt: LoopStmt, unused: bool) -> Tile | None:
    """Return a tile whose elements go straight into the nest behind it; None if they cannot.

    Args:
        tile: what is computed.
        stmt: the nest; it reads each element once.
        unused: whether nothing else reads them.
    """
    reader = pointwise(stmt)
    element = Load(tile.store.buffer, tile.store.indices)
    if reader is None or not unused or tile.limits or len(reader.loops) != len(tile.loops):
        return None
    load = next((e for e in loads(reader.store.value) if e.buffer == element.buffer), None)
    if load is None:
        return None
    own = {each.variable: each.extent for each in reader.loops}
    extents = {each.variable: each.extent for each in tile.loops}
    values: dict[str, LoopExpr] = {}
    for mine, theirs in zip(load.indices, element.indices, strict=True):
        for name in names(mine) & own.keys():
            for other in names(theirs) & extents.keys():
                if own[name] == extents[other]:
                    values[name] = Name(other)
    reader = reader.mapped(values)
    if len(values) != len(own) or element not in loads(reader.store.value):
        return None
    return replace(tile, finish=reader.store, provided=reader.tests)


def whole_vectors(tile: Tile, lanes: int) -> bool:
    """Whether the lanes of a tile are whole vectors."""
    return count_of(tile.lanes) % lanes == 0


def divided(extent: LoopExpr, width: int) -> tuple[LoopExpr, LoopExpr]:
    """Return how often a width goes into an extent, and what is left."""
    if isinstance(extent, Const):
        whole, rest = divmod(int(extent.value), width)
        return Const(whole, True), Const(rest, True)
    by = Const(width, True)
    return Op("//", (extent, by)), Op("%", (extent, by))

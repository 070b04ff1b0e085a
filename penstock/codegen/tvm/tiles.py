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

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from penstock.codegen.loops.nodes import (
    Alloc,
    Block,
    Buffer,
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
from penstock.codegen.loops.rewrite import map_bodies, placed, substituted
from penstock.codegen.loops.walk import loads
from penstock.codegen.tvm.expr import safe
from penstock.codegen.tvm.fuse import pointwise, replaced
from penstock.codegen.tvm.lanes import accumulated, only
from penstock.codegen.tvm.layout import LANE_KINDS
from penstock.codegen.tvm.ranges import Ranges, holds, interval, names, never, stride
from penstock.codegen.tvm.rewrite import clamped, joined
from penstock.codegen.tvm.script import LoopKind

__all__ = ["Emitted", "Start", "Tile", "emitted", "filled", "find_tile", "finished", "scaled"]


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
        return {each.variable: (0, _count(each) - 1) for each in self.loops}


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
    size = -(-_count(bounded[-1]) // lanes)
    for each in bounded[:-1]:
        size *= _count(each)
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
    terms, factors = [tile.rest], []
    for each in terms:
        match each:
            case Op("*", (left, right)):
                terms += [left, right]
            case _:
                factors.append(each)
    scales = [each for each in factors if isinstance(each, Const) and not each.integer]
    others = [each for each in factors if each not in scales]
    if tile.op != "+" or len(scales) != 1 or not others:
        return tile
    rest = others[0]
    for each in others[1:]:
        rest = Op("*", (rest, each))
    return replace(tile, rest=rest, scale=scales[0])


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


def _count(loop: For) -> int:
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


@dataclass(frozen=True, slots=True)
class Emitted:
    """A tile as statements: for when no condition tells elements apart, and for when some do."""

    free: LoopStmt
    partial: LoopStmt | None


@dataclass(frozen=True, slots=True)
class _Strip:
    """Some of the lanes: ``start .. start + width - 1``, and where they accumulate.

    ``total`` may have more lanes than `width`, up to a power of 2: a vector of another length
    would be loaded in pieces.
    """

    start: int
    width: int
    total: Buffer


def emitted(
    tile: Tile,
    start: Start | None,
    ranges: Ranges,
    buffers: dict[str, Buffer],
    lanes: int,
    fresh: Callable[[str, LoopKind], str],
    sure: frozenset[LoopExpr],
    meaning: Callable[[LoopExpr], LoopExpr],
) -> Emitted:
    """Return the statements of a tile.

    Args:
        tile: what is computed.
        start: what its elements are at first; None: what is in the buffer.
        ranges: of the variables around it.
        buffers: every buffer by name; new ones are added.
        lanes: elements of a vector.
        fresh: gives a new variable, for a name and the kind of its loop.
        sure: conditions around the elements that hold wherever none tells elements apart.
        meaning: returns a condition with what its masks stand for.
    """
    known = {**ranges, **tile.box}
    for each in tile.around:
        bounds = interval(each.extent, known) if isinstance(each, For) else None
        if bounds is not None and isinstance(each, For):
            known[each.variable] = (0, max(bounds[1] - 1, 0))
    writer = _Writer(tile, start, known, buffers, lanes, fresh, meaning)
    around = tuple(e for e in tile.around if not (isinstance(e, If) and e.condition in sure))
    free = replace(writer, tile=replace(tile, around=around)).all(telling=False)
    assert free is not None
    partial = tile.telling or tile.limits or tile.provided
    return Emitted(free, writer.all(telling=True) if partial else None)


@dataclass(frozen=True, slots=True)
class _Writer:
    tile: Tile
    start: Start | None
    ranges: Ranges
    buffers: dict[str, Buffer]
    lanes: int
    fresh: Callable[[str, LoopKind], str]
    meaning: Callable[[LoopExpr], LoopExpr]

    def all(self, *, telling: bool) -> LoopStmt | None:
        """Return the whole tile; None if elements that a condition excludes cannot be touched."""
        tile, store = self.tile, self.tile.store
        reduced = {each.variable for each in tile.around if isinstance(each, For)}
        inner = [each for each in tile.telling if names(each) & reduced]
        outer = [each for each in tile.telling if each not in inner]
        if not telling:
            inner, outer = [], []
        limits = tile.limits if telling else ()
        rest = clamped(tile.rest, self.buffers, self.ranges) if telling else tile.rest
        found = [clamped(each, self.buffers, self.ranges) for each in (*inner, *outer)]
        tests = [each for each in found if each is not None]
        ending = self._ending(telling)
        if rest is None or len(tests) < len(found) or ending is None:
            return None
        if telling and not self._within(limits):
            return None
        element = Load(store.buffer, store.indices)
        first: LoopExpr = element if self.start is None else self.start.value
        limit = None if self.start is None or tile.finish else joined(self.start.given)
        kept = first if limit is None else Op("where", (limit, first, element))
        step = joined(tests[: len(inner)])
        last = joined(tests[len(inner) :])
        before: list[LoopStmt] = []
        steps: list[LoopStmt] = []
        after: list[LoopStmt] = []
        strips = self._strips((rest, *tests[: len(inner)]))
        for strip in strips:
            at = (*(Name(each.variable) for each in tile.rows), Name(tile.lanes.variable))
            total = Load(strip.total.name, at)
            made = total if tile.scale is None else Op("*", (total, tile.scale))
            end: LoopExpr = made if last is None else Op("where", (last, made, kept))
            before.append(self._over(strip, Store(total.buffer, at, first), limits))
            added = Store(total.buffer, at, Op(tile.op, (total, rest)))
            steps.append(
                self._step(strip, added, step) if telling else self._over(strip, added, ())
            )
            value = replaced(ending.value, element, end)
            after.append(self._over(strip, replace(ending, value=value), limits))
        stmt: LoopStmt = Block(tuple(steps))
        for each in reversed(tile.around):
            stmt = replace(each, body=stmt)
        stmt = Block((*before, stmt, *after))
        for strip in strips:
            stmt = Alloc(strip.total, stmt)
        return self._renamed(stmt)

    def _step(self, strip: _Strip, new: Store, step: LoopExpr | None) -> LoopStmt:
        """Return what each step adds to a strip, where `step` holds.

        Steps that conditions exclude from the whole strip are left out, and where all of it is
        known to be present nothing is chosen.
        """
        free, box = self._over(strip, new, ()), self.tile.box
        box[self.tile.lanes.variable] = (strip.start, strip.start + strip.width - 1)
        told = [self.meaning(each) for each in self.tile.telling]
        every = free
        if step is not None:
            old = Load(new.buffer, new.indices)
            chosen = self._over(strip, replace(new, value=Op("where", (step, new.value, old))), ())
            full = [holds(each, box, frozenset()) for each in told]
            sure = joined([each for each in full if each is not None])
            every = chosen
            if sure is not None and None not in full:
                every = Block((If(sure, free), If(Op("not", (sure,)), chosen)))
        for none in (never(each, box) for each in told):
            every = every if none is None else If(Op("not", (none,)), every)
        return every

    def _ending(self, telling: bool) -> Store | None:
        """Return what is stored at the end, in terms of an element; None if that is not safe."""
        tile, element = self.tile, Load(self.tile.store.buffer, self.tile.store.indices)
        if tile.finish is None:
            return replace(tile.store, value=element)
        test = joined(tile.provided)
        if test is None or not telling:
            return tile.finish
        kept = Load(tile.finish.buffer, tile.finish.indices)
        parts = [clamped(e, self.buffers, self.ranges) for e in (test, tile.finish.value)]
        given = [each for each in parts if each is not None]
        if len(given) < len(parts) or not safe(kept, self.buffers, self.ranges):
            return None
        return replace(tile.finish, value=Op("where", (*given, kept)))

    def _within(self, limits: tuple[LoopExpr, ...]) -> bool:
        """Whether the elements exist, those beyond a limit apart."""
        known = dict(self.ranges)
        for each in self.tile.rows:
            if any(
                Name(each.variable) == limit.args[0] for limit in limits if isinstance(limit, Op)
            ):
                known[each.variable] = (0, 0)
        store = self.tile.store
        return safe(Load(store.buffer, store.indices), self.buffers, known)

    def _strips(self, read: tuple[LoopExpr, ...]) -> list[_Strip]:
        """Return the strips, given what is evaluated in each step."""
        extent = _count(self.tile.lanes)
        rows = tuple(_count(each) for each in self.tile.rows)
        made: list[_Strip] = []
        for start in range(0, extent, self.lanes):
            width = min(self.lanes, extent - start)
            wide = 1 << (width - 1).bit_length()
            known = {**self.ranges, self.tile.lanes.variable: (0, start + wide - 1)}
            if self.start is None or not all(safe(e, self.buffers, known) for e in read):
                wide = width
            name = self.fresh(f"{self.tile.store.buffer}_tile", "serial")
            buffer = Buffer(name, (*rows, wide), "acc")
            self.buffers[name] = buffer
            made.append(_Strip(start, width, buffer))
        return made

    def _over(self, strip: _Strip, store: Store, limits: tuple[LoopExpr, ...]) -> LoopStmt:
        """Return a statement for all elements of a strip: rows unrolled, lanes as a vector."""
        tile = self.tile
        lane = self.fresh(tile.lanes.variable, "vectorized")
        own = store.buffer == strip.total.name
        place: LoopExpr = Name(lane)
        moved = Op("+", (place, Const(strip.start, True))) if strip.start else place
        values: dict[str, LoopExpr] = {tile.lanes.variable: moved}
        indices = tuple(substituted(each, values) for each in store.indices)
        if own:
            indices = (*store.indices[:-1], place)
        value = _in_strip(store.value, strip, values, place)
        stmt: LoopStmt = Store(store.buffer, indices, value)
        width = strip.total.shape[-1] if own else strip.width
        stmt = replace(tile.lanes, variable=lane, extent=Const(width, True), body=stmt)
        for limit in limits:
            stmt = If(limit, stmt)
        for each in reversed(tile.rows):
            row = self.fresh(each.variable, "unroll")
            stmt = replace(each, variable=row, body=placed(stmt, {each.variable: Name(row)}))
        return stmt

    def _renamed(self, stmt: LoopStmt) -> LoopStmt:
        """Give the loops over what is reduced variables of their own."""
        for each in self.tile.around:
            if isinstance(each, For):
                new = self.fresh(each.variable, "serial")
                stmt = _respelled(stmt, each.variable, new)
        return stmt


def _in_strip(
    expr: LoopExpr, strip: _Strip, values: Mapping[str, LoopExpr], place: LoopExpr
) -> LoopExpr:
    """Substitute the lane; the tile's own elements are counted from the start of the strip."""
    match expr:
        case Load(name, indices) if name == strip.total.name:
            return Load(name, (*indices[:-1], place))
        case Load(name, indices):
            return Load(name, tuple(_in_strip(each, strip, values, place) for each in indices))
        case Op(op, args):
            return Op(op, tuple(_in_strip(each, strip, values, place) for each in args))
        case _:
            return substituted(expr, values)


def _respelled(stmt: LoopStmt, old: str, new: str) -> LoopStmt:
    def visit(inner: LoopStmt) -> LoopStmt:
        inner = map_bodies(inner, visit)
        return (
            replace(inner, variable=new)
            if isinstance(inner, For) and inner.variable == old
            else inner
        )

    return placed(visit(stmt), {old: Name(new)})

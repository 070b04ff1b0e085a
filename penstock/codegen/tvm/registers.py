"""Register tiles as statements: accumulators, the loops over what is reduced, and what is stored.

`emitted` gives a tile (`tvm/tiles.py`) twice: for when no condition tells its elements apart, and
for when some do. The lanes are cut into strips, one vector each, with an accumulator for each row;
a strip that a condition excludes is skipped. A tile whose factor along the lanes lies in pairs
(`tvm/pairs.py`) takes two steps at a time.

Excluded on purpose: which statements are tiles (`tvm/tiles.py`), when to test (`tvm/plan.py`).
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
from penstock.codegen.tvm.expr import safe
from penstock.codegen.tvm.fuse import replaced
from penstock.codegen.tvm.ranges import Ranges, holds, interval, names, never
from penstock.codegen.tvm.rewrite import clamped, joined
from penstock.codegen.tvm.script import LoopKind
from penstock.codegen.tvm.tiles import Start, Tile, count_of, divided, whole_vectors

__all__ = ["Emitted", "emitted"]


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
        after: list[LoopStmt] = []
        strips = self._strips((rest, *tests[: len(inner)]))
        steps: list[tuple[_Strip, Store]] = []
        for strip in strips:
            at = (*(Name(each.variable) for each in tile.rows), Name(tile.lanes.variable))
            total = Load(strip.total.name, at)
            made = total if tile.scale is None else Op("*", (total, tile.scale))
            end: LoopExpr = made if last is None else Op("where", (last, made, kept))
            before.append(self._over(strip, Store(total.buffer, at, first), limits))
            steps.append((strip, Store(total.buffer, at, Op(tile.op, (total, rest)))))
            value = replaced(ending.value, element, end)
            after.append(self._over(strip, replace(ending, value=value), limits))
        stmt: LoopStmt = Block((*before, self._reduced(steps, step, telling), *after))
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

    def _reduced(
        self, steps: list[tuple[_Strip, Store]], step: LoopExpr | None, telling: bool
    ) -> LoopStmt:
        """Return the loops over what is reduced around the steps of all strips."""
        pair = _paired(self.tile, self.lanes)
        if pair is not None:
            return self._in_pairs(pair, steps, step, telling)
        made = [self._step(*e, step) if telling else self._over(*e, ()) for e in steps]
        return _around(self.tile.around, Block(tuple(made)))

    def _in_pairs(
        self,
        pair: _Pair,
        steps: list[tuple[_Strip, Store]],
        step: LoopExpr | None,
        telling: bool,
    ) -> LoopStmt:
        """Return the loops over what is reduced, two steps of the innermost one at a time.

        Two steps that a condition tells apart, or that tell elements apart, are taken one by one.
        """
        place = self.tile.around.index(pair.over)
        tests = tuple(self.tile.around[place + 1 :])
        name, extent = pair.over.variable, pair.over.extent
        first: LoopExpr = Op("*", (Const(2, True), Name(name)))
        both = (first, Op("+", (first, Const(1, True))))
        box = self.tile.box
        every = [e.condition for e in tests if isinstance(e, If)]

        def plain(strip: _Strip, new: Store, at: LoopExpr) -> LoopStmt:
            made = self._step(strip, new, step) if telling else self._over(strip, new, ())
            return placed(_around(tests, made), {name: at})

        pairs: list[LoopStmt] = []
        single: list[LoopStmt] = []
        for strip, new in steps:
            two = Store(new.buffer, new.indices, pair.sum(Load(new.buffer, new.indices)))
            dots = self._over(strip, two, ())
            box[self.tile.lanes.variable] = (strip.start, strip.start + strip.width - 1)
            told = [self.meaning(each) for each in self.tile.telling if telling]
            inner = [each for each in told if name in names(each)] if step is not None else []
            full = [holds(each, box, frozenset()) for each in inner]
            known = [*every, *(each for each in full if each is not None)]
            sure = joined([substituted(each, {name: at}) for each in known for at in both])
            if None in full:
                dots = Block(tuple(plain(strip, new, at) for at in both))
            elif sure is not None:
                one = Block(tuple(plain(strip, new, at) for at in both))
                dots = Block((If(sure, dots), If(Op("not", (sure,)), one)))
            else:
                for none in (never(each, box) for each in told):
                    dots = dots if none is None else If(Op("not", (none,)), dots)
            pairs.append(dots)
            single.append(plain(strip, new, Op("-", (extent, Const(1, True)))))
        half, left = divided(extent, 2)
        stmt: LoopStmt = replace(pair.over, extent=half, body=Block(tuple(pairs)))
        if left != Const(0, True):
            odd = Op("==", (left, Const(1, True)))
            rest: LoopStmt = Block(tuple(single))
            stmt = Block((stmt, rest if left == Const(1, True) else If(odd, rest)))
        return _around(self.tile.around[:place], stmt)

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
        extent = count_of(self.tile.lanes)
        rows = tuple(count_of(each) for each in self.tile.rows)
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


@dataclass(frozen=True, slots=True)
class _Pair:
    """A tile that adds two products at a time: the loop, and the factors of two of its steps."""

    over: For
    lanes: Load
    other: Load

    def sum(self, total: LoopExpr) -> LoopExpr:
        """Return what two steps make of an element; the loop's variable counts pairs."""
        step: LoopExpr = Name(self.over.variable)
        first: LoopExpr = Op("*", (Const(2, True), step))
        both = (first, Op("+", (first, Const(1, True))))
        halves = tuple(substituted(self.other, {self.over.variable: each}) for each in both)
        at = tuple(step if each == _half_of(step) else each for each in self.lanes.indices)
        return Op("dot2", (total, Load(self.lanes.buffer, at), Op("pair", halves)))


def _half_of(step: LoopExpr) -> LoopExpr:
    return Op("//", (step, Const(2, True)))


def _paired(tile: Tile, lanes: int) -> _Pair | None:
    """Return how a tile adds two products at a time (`tvm/pairs.py`); None if it does not."""
    loops = [each for each in tile.around if isinstance(each, For)]
    match tile.rest:
        case Op("*", (Op("half", (Load() as pair, _)), Load() as other)):
            pass
        case Op("*", (Load() as other, Op("half", (Load() as pair, _)))):
            pass
        case _:
            return None
    whole = whole_vectors(tile, lanes) and _half_of(Name(loops[-1].variable)) in pair.indices
    return _Pair(loops[-1], pair, other) if whole else None


def _around(around: tuple[For | If, ...], stmt: LoopStmt) -> LoopStmt:
    for each in reversed(around):
        stmt = replace(each, body=stmt)
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

"""Values that are used once are not stored: two rewrites of blocks of nests of loops.

Before → after, where O is a running value and T what a tile adds to it::

    for f: for p: P[f, p] = O[f, p] * C[p]
    for f: for p: O[f, p] = T[f, p] + P[f, p]
    →  for f: for p: O[f, p] = T[f, p] + O[f, p] * C[p]

    for f by 4: T[..] = 0; for m: for f: for p: T[f, p] += S[m, p] * V[m, f]
    for f: for p: O[f, p] = T[f, p] + ..
    →  for f by 4: T[..] = 0; for m: ..; for f: for p: O[f, p] = T[f, p] + ..

The second puts the nest that reads a reduction behind it, inside the loops over its tiles, where
the register tile of the reduction (`tvm/tiles.py`) goes straight into it and T is not stored.

Excluded on purpose: values that are read in two places, or that a format would round.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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
from penstock.codegen.loops.rewrite import map_bodies, map_leaves, substituted
from penstock.codegen.loops.walk import expressions, loads, touched
from penstock.codegen.tvm.kernels import extent_of
from penstock.codegen.tvm.lanes import only
from penstock.codegen.tvm.ranges import names, stride

__all__ = ["Pointwise", "fused", "pointwise", "read_counts", "replaced", "tile_of", "used"]


@dataclass(frozen=True, slots=True)
class Pointwise:
    """A nest that stores each element once: loops of constant extent, conditions, and the store."""

    loops: tuple[For, ...]
    tests: tuple[LoopExpr, ...]
    store: Store

    def nest(self) -> LoopStmt:
        """Return it as a statement, with the conditions inside the loops."""
        made: LoopStmt = self.store
        for test in reversed(self.tests):
            made = If(test, made)
        for each in reversed(self.loops):
            made = replace(each, body=made)
        return made

    def mapped(self, values: Mapping[str, LoopExpr]) -> Pointwise:
        """Return it with other loop variables."""
        store = self.store
        indices = tuple(substituted(each, values) for each in store.indices)
        tests = tuple(substituted(each, values) for each in self.tests)
        return replace(
            self, tests=tests, store=Store(store.buffer, indices, substituted(store.value, values))
        )


def pointwise(stmt: LoopStmt) -> Pointwise | None:
    """Return a statement as a nest that stores each element once; None if it is none."""
    loops: list[For] = []
    tests: list[LoopExpr] = []
    inner: LoopStmt | None = only(stmt)
    while isinstance(inner, For | If):
        if isinstance(inner, If):
            tests.append(inner.condition)
        elif isinstance(inner.extent, Const):
            loops.append(inner)
        else:
            return None
        inner = only(inner.body)
    if not isinstance(inner, Store) or not loops:
        return None
    own = {each.variable for each in loops}
    moving = {name: index for index in inner.indices for name in names(index) & own}
    if len(set(moving.values())) != len(own) or not all(
        stride(index, name) for name, index in moving.items()
    ):
        return None
    return Pointwise(tuple(loops), tuple(tests), inner)


def fused(body: LoopStmt, exact: frozenset[str]) -> LoopStmt:
    """Return a whole body with what is used once not stored.

    Args:
        body: of a program.
        exact: kinds of the buffers that keep a value as it is computed.
    """
    counts = read_counts(body)
    found = [each.buffer for each in walk_statements(body) if isinstance(each, Alloc)]
    own = [each.name for each in found if each.kind in exact]
    once = {name for name in own if counts[name] == 1}
    twice = {name for name in own if counts[name] == 2}

    def visit(stmt: LoopStmt) -> LoopStmt:
        stmt = map_bodies(stmt, visit)
        if not isinstance(stmt, Block):
            return stmt
        made = _sunk(_inlined(stmt.body, once), twice)
        return replace(stmt, body=made)

    return used(visit(body))


def read_counts(stmt: LoopStmt) -> Counter[str]:
    """Return how often each buffer is read in the text of a statement."""
    return Counter(
        load.buffer
        for each in walk_statements(stmt)
        for expr in expressions(each)
        for load in loads(expr)
    )


def used(stmt: LoopStmt) -> LoopStmt:
    """Return a statement without the buffers that nothing touches."""
    seen = {load.buffer for e in walk_statements(stmt) for x in expressions(e) for load in loads(x)}
    seen |= {each.buffer for each in walk_statements(stmt) if isinstance(each, Store)}

    def visit(inner: LoopStmt) -> LoopStmt:
        inner = map_bodies(inner, visit)
        return inner.body if isinstance(inner, Alloc) and inner.buffer.name not in seen else inner

    return visit(stmt)


# A pointwise nest into the one that reads it.


def _inlined(body: tuple[LoopStmt, ...], once: set[str]) -> tuple[LoopStmt, ...]:
    left = list(body)
    place = 0
    while place < len(left):
        made = _into_reader(left, place, once)
        if made is None:
            place += 1
        else:
            at, stmt = made
            left[at] = stmt
            del left[place]
    return tuple(left)


def _into_reader(
    body: Sequence[LoopStmt], place: int, once: set[str]
) -> tuple[int, LoopStmt] | None:
    source = pointwise(body[place])
    if source is None or source.store.buffer not in once:
        return None
    name = source.store.buffer
    for at in range(place + 1, len(body)):
        read, _ = touched(body[at])
        if name not in read:
            continue
        reader = pointwise(body[at])
        between = frozenset[str]().union(*(touched(each)[1] for each in body[place + 1 : at]))
        if reader is None or between & touched(body[place])[0]:
            return None
        made = _composed(source, reader)
        return None if made is None else (at, _said(made.nest(), body[place], body[at]))
    return None


def _composed(source: Pointwise, reader: Pointwise) -> Pointwise | None:
    """Return the reader with the source's value in place of its element."""
    store = reader.store
    load = next((each for each in loads(store.value) if each.buffer == source.store.buffer), None)
    if load is None:
        return None  # it is read in a condition or an index
    values = _matched(source.store.indices, load.indices, source.loops, reader.loops)
    if values is None:
        return None
    source = source.mapped(values)
    own = Load(store.buffer, store.indices)
    if any(each.buffer == store.buffer and each != own for each in loads(source.store.value)):
        return None
    if not set(source.tests) <= set(reader.tests):
        return None
    value = replaced(store.value, load, source.store.value)
    return replace(reader, store=replace(store, value=value))


def _matched(
    mine: Sequence[LoopExpr], theirs: Sequence[LoopExpr], own: Sequence[For], other: Sequence[For]
) -> dict[str, LoopExpr] | None:
    """Return values of my variables with which my indices are theirs, one for one; or None."""
    extents = {each.variable: each.extent for each in own}
    given = {each.variable: each.extent for each in other}
    values: dict[str, LoopExpr] = {}
    for left, right in zip(mine, theirs, strict=True):
        if isinstance(left, Name) and left.name in extents:
            if not isinstance(right, Name) or given.get(right.name) != extents[left.name]:
                return None
            values[left.name] = right
        elif left != right:
            return None
    if len(values) != len(own) or len(own) != len(other) or len(set(values.values())) != len(own):
        return None
    return values


def replaced(expr: LoopExpr, load: Load, value: LoopExpr) -> LoopExpr:
    """Return an expression with a value in place of a load."""
    return map_leaves(expr, lambda each: value if each == load else each)


def _said(stmt: LoopStmt, *sources: LoopStmt) -> LoopStmt:
    """Return a statement under the comments of those that it was made of."""
    found = [each.comment for each in sources if isinstance(each, Block) and each.comment]
    return Block((stmt,), ", ".join(dict.fromkeys(found))) if found else stmt


# A pointwise nest behind the reduction that it reads.


def _sunk(body: tuple[LoopStmt, ...], twice: set[str]) -> tuple[LoopStmt, ...]:
    left = list(body)
    place = 0
    while place < len(left):
        made = _behind(left, place, twice)
        if made is not None:
            at, stmt = made
            left[place] = stmt
            del left[at]
        place += 1
    return tuple(left)


def _behind(body: Sequence[LoopStmt], place: int, twice: set[str]) -> tuple[int, LoopStmt] | None:
    found = _reduction(body[place])
    if found is None or found[1].buffer not in twice:
        return None
    outer, fill = found
    read, written = touched(body[place])
    for at in range(place + 1, len(body)):
        seen, made = touched(body[at])
        if fill.buffer in seen:
            reader = pointwise(body[at])
            if reader is None or made & (read | written) or seen & (written - {fill.buffer}):
                return None
            tiled = _tiled(reader, fill, outer)
            if tiled is None:
                return None
            return at, _said(_appended(body[place], tiled.nest()), body[place], body[at])
        read, written = read | seen, written | made
    return None


def _reduction(stmt: LoopStmt) -> tuple[tuple[For, ...], Store] | None:
    """Return the loops over the tiles of a reduction and the store of its fill, or None."""
    outer: list[For] = []
    inner: LoopStmt | None = stmt
    while not (isinstance(inner, Block) and len(inner.body) == 2):
        inner = only(inner) if isinstance(inner, Block) else inner
        if not isinstance(inner, For) or not isinstance(inner.extent, Const) or inner.kind:
            return None
        outer.append(inner)
        inner = inner.body
    fill = tile_of(inner)
    return None if fill is None else (tuple(outer), fill)


def tile_of(block: Block) -> Store | None:
    """Return the store of the fill of a block that is a fill, a reduction and what reads it."""
    if len(block.body) not in {2, 3}:
        return None
    fill, steps = block.body[:2]
    while isinstance(fill, For):
        fill = fill.body
    if not isinstance(fill, Store) or not isinstance(fill.value, Const):
        return None
    return fill if touched(steps)[1] == {fill.buffer} else None


def _tiled(reader: Pointwise, fill: Store, outer: Sequence[For]) -> Pointwise | None:
    """Return the part of a reader that belongs to one tile; None if there is no such part."""
    load = next((each for each in loads(reader.store.value) if each.buffer == fill.buffer), None)
    if load is None:
        return None
    own = {each.variable: each for each in reader.loops}
    over = {each.variable: extent_of(each) for each in outer}
    values: dict[str, LoopExpr] = {}
    for mine, theirs in zip(load.indices, fill.indices, strict=True):
        if not isinstance(mine, Name) or mine.name not in own:
            if mine != theirs:
                return None
            continue
        match theirs:
            case Name(tile) if tile in over and over[tile] == extent_of(own[mine.name]):
                del over[tile]
                values[mine.name] = theirs
                del own[mine.name]
            case Op("+", (Op("*", (Name(tile), Const(size, True) as by)), Name())) if tile in over:
                if over.pop(tile) * int(size) != extent_of(own[mine.name]):
                    return None
                values[mine.name] = Op("+", (Op("*", (Name(tile), by)), mine))
                own[mine.name] = replace(own[mine.name], extent=by)
            case Name(tile) if tile not in over:
                values[mine.name] = mine
            case _:
                return None
    if over or len(values) != len(reader.loops):
        return None
    loops = tuple(own[each.variable] for each in reader.loops if each.variable in own)
    return replace(reader.mapped(values), loops=loops)


def _appended(stmt: LoopStmt, last: LoopStmt) -> LoopStmt:
    """Return a reduction with a statement behind it, inside the loops over its tiles."""
    if isinstance(stmt, Block) and len(stmt.body) == 2:
        return Block((*stmt.body, last))
    return map_bodies(stmt, lambda each: _appended(each, last))

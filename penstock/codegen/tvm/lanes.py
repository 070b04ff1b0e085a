"""Three rewrites of what runs in vector lanes, each with the same values as before.

* `lanes_outside`: ``for r: for v@lanes: X[v] += ..`` → ``for v@lanes: for r: X[v] += ..``:
  each vector of lanes goes through r once, with what it accumulates in a register.
* `in_register`: ``for r: X[v] += ..`` → ``acc = X[v]; for r: acc += ..; X[v] = acc``.
* `predicated`: ``if c: X[v] = e`` → ``X[v] = where(c, e, X[v])``, so that lanes that a condition
  tells apart still run side by side.

Excluded on purpose: when to use them (`tvm/plan.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from penstock.codegen.loops.nodes import (
    Alloc,
    Block,
    Buffer,
    For,
    If,
    Load,
    LoopExpr,
    LoopStmt,
    Op,
    Store,
    walk_statements,
)
from penstock.codegen.loops.rewrite import map_bodies
from penstock.codegen.loops.walk import expressions, loads
from penstock.codegen.tvm.expr import safe
from penstock.codegen.tvm.kernels import race_free
from penstock.codegen.tvm.layout import LANE_KINDS
from penstock.codegen.tvm.ranges import Ranges, names
from penstock.codegen.tvm.script import ranges_inside

__all__ = ["FOLDS", "accumulated", "in_register", "lanes_outside", "only", "predicated"]

FOLDS = {"+": 0.0, "max": float("-inf"), "min": float("inf"), "*": 1.0}
"""Operators that accumulate, with what changes nothing."""


def only(stmt: LoopStmt) -> LoopStmt | None:
    """Return the one statement that a block consists of; None if there are more or none."""
    while isinstance(stmt, Block):
        if len(stmt.body) != 1:
            return None
        stmt = stmt.body[0]
    return stmt


def accumulated(store: Store) -> tuple[str, LoopExpr] | None:
    """Return (operator, what is added) of ``X[..] = op(X[..], rest)``; None if it is not that."""
    own = Load(store.buffer, store.indices)
    match store.value:
        case Op(op, (left, right)) if op in FOLDS and own in (left, right):
            rest = right if left == own else left
            if all(load.buffer != store.buffer for load in loads(rest)):
                return op, rest
        case _:
            pass
    return None


def lanes_outside(loop: For) -> For | None:
    """Swap a serial loop with the loop over lanes that is all it holds; None if it may not be.

    It may if every element that is written belongs to one lane, and only that lane reads it.
    """
    between: list[If] = []
    inner = only(loop.body)
    while isinstance(inner, If):
        between.append(inner)
        inner = only(inner.body)
    if loop.kind or not isinstance(inner, For) or inner.kind not in LANE_KINDS:
        return None
    if not race_free(replace(inner, body=replace(loop, body=inner.body)), {}):
        return None
    if loop.variable in names(inner.extent) or not _keeps_to_its_lane(inner.body):
        return None
    if inner.variable in names(loop.extent):
        return None
    body: LoopStmt = inner.body
    for each in reversed(between):
        body = If(each.condition, body)
    return replace(inner, body=replace(loop, body=body))


def _keeps_to_its_lane(body: LoopStmt) -> bool:
    """Whether each buffer that is written is accessed at one place only."""
    places: dict[str, set[tuple[LoopExpr, ...]]] = {}
    for each in walk_statements(body):
        if isinstance(each, Store):
            places.setdefault(each.buffer, set()).add(each.indices)
    own = {each.buffer.name for each in walk_statements(body) if isinstance(each, Alloc)}
    for each in walk_statements(body):
        for expr in expressions(each):
            for load in loads(expr):
                if load.buffer in places:
                    places[load.buffer].add(load.indices)
    return all(len(found) == 1 for name, found in places.items() if name not in own)


def in_register(
    stmt: LoopStmt, ranges: Ranges, buffers: dict[str, Buffer], kinds: frozenset[str], tag: str
) -> LoopStmt:
    """Accumulate in a scalar what a serial loop accumulates in one element.

    Args:
        stmt: what one lane does.
        ranges: of the variables around it.
        buffers: every buffer by name; the scalars are added.
        kinds: of the buffers that accumulate as precisely as a scalar would.
        tag: ending for new names.
    """
    found = _chain(stmt) if isinstance(stmt, For) and not stmt.kind else None
    if found is None or not isinstance(stmt, For):
        inner = ranges_inside(stmt, ranges) if isinstance(stmt, For) else ranges
        return map_bodies(stmt, lambda each: in_register(each, inner, buffers, kinds, tag))
    store, loops = found
    element = Load(store.buffer, store.indices)
    moved = frozenset(each.variable for each in loops)
    if (
        buffers[store.buffer].kind not in kinds
        or accumulated(store) is None
        or any(names(index) & moved for index in store.indices)
        or not safe(element, buffers, ranges)
        or not store.indices
    ):
        return stmt
    scalar = Buffer(f"{store.buffer}_sum{tag}_{len(buffers)}", (), "acc")
    buffers[scalar.name] = scalar
    body = _redirected(stmt, store, scalar)
    begin, end = Store(scalar.name, (), element), Load(scalar.name, ())
    return Alloc(scalar, Block((begin, body, Store(store.buffer, store.indices, end))))


def _chain(loop: For) -> tuple[Store, tuple[For, ...]] | None:
    """Return the one store inside serial loops and conditions, with the loops."""
    loops: list[For] = [loop]
    inner = only(loop.body)
    while isinstance(inner, For | If):
        if isinstance(inner, For):
            if inner.kind:
                return None
            loops.append(inner)
        inner = only(inner.body)
    return (inner, tuple(loops)) if isinstance(inner, Store) else None


def _redirected(stmt: LoopStmt, store: Store, scalar: Buffer) -> LoopStmt:
    if stmt == store:
        found = accumulated(store)
        assert found is not None
        return Store(scalar.name, (), Op(found[0], (Load(scalar.name, ()), found[1])))
    return map_bodies(stmt, lambda each: _redirected(each, store, scalar))


def predicated(
    stmt: LoopStmt, ranges: Ranges, buffers: Mapping[str, Buffer], tests: tuple[LoopExpr, ...]
) -> LoopStmt | None:
    """Turn the given conditions into choices of values; None if that would not be safe.

    Args:
        stmt: what one lane does.
        ranges: of the variables around it.
        buffers: every buffer by name.
        tests: the conditions to turn.
    """
    return _predicated(stmt, ranges, buffers, tests, None)


def _predicated(
    stmt: LoopStmt,
    ranges: Ranges,
    buffers: Mapping[str, Buffer],
    tests: tuple[LoopExpr, ...],
    under: LoopExpr | None,
) -> LoopStmt | None:
    match stmt:
        case Store(name, indices, value) if under is not None:
            element = Load(name, indices)
            if not all(safe(each, buffers, ranges) for each in (element, value, under)):
                return None
            return Store(name, indices, Op("where", (under, value, element)))
        case Store():
            return stmt
        case Block(body):
            done = tuple(_predicated(each, ranges, buffers, tests, under) for each in body)
            made = tuple(each for each in done if each is not None)
            return replace(stmt, body=made) if len(made) == len(done) else None
        case If(condition, body) if condition in tests:
            both = condition if under is None else Op("and", (under, condition))
            return _predicated(body, ranges, buffers, tests, both)
        case For() | If() | Alloc():
            inner_ranges = ranges_inside(stmt, ranges) if isinstance(stmt, For) else ranges
            inner = _predicated(stmt.body, inner_ranges, buffers, tests, under)
            return None if inner is None else replace(stmt, body=inner)

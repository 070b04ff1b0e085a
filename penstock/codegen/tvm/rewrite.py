"""Small rewrites of statements that the plans for TVM are made of: rename, privatise, clamp.

Each returns a new statement with the same meaning, except where its docstring says otherwise.
Excluded on purpose: when to apply them (`tvm/plan.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

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
    walk_statements,
)
from penstock.codegen.loops.rewrite import map_bodies, map_expressions, map_leaves, unused
from penstock.codegen.loops.walk import loads
from penstock.codegen.tvm.ranges import Ranges, interval

__all__ = ["clamped", "conditions", "hoisted", "joined", "privatised", "renamed"]
__all__ += ["unnested", "without_ifs"]


STACK = 1024
"""Bytes from which on TVM allocates on the heap; elements have at most 8."""


def joined(conditions: Sequence[LoopExpr]) -> LoopExpr | None:
    """Return the conjunction of conditions; None of none."""
    result: LoopExpr | None = None
    for each in dict.fromkeys(conditions):
        result = each if result is None else Op("and", (result, each))
    return result


def clamped(expr: LoopExpr, buffers: Mapping[str, Buffer], ranges: Ranges) -> LoopExpr | None:
    """Keep every load inside its buffer, so that an expression can be evaluated in vain.

    Returns:
        The expression with the same value wherever its loads were inside; None if it may divide an
        integer by 0.
    """
    match expr:
        case Load(name, indices):
            made: list[LoopExpr] = []
            for index, extent in zip(indices, buffers[name].shape, strict=True):
                inner = clamped(index, buffers, ranges)
                if inner is None:
                    return None
                made.append(_inside(inner, extent, ranges))
            return Load(name, tuple(made))
        case Op("//" | "%", (_, right)) if not _nonzero(right, ranges):
            return None
        case Op(op, args):
            done = [clamped(each, buffers, ranges) for each in args]
            known = tuple(each for each in done if each is not None)
            return Op(op, known) if len(known) == len(done) else None
        case _:
            return expr


def _inside(index: LoopExpr, extent: int, ranges: Ranges) -> LoopExpr:
    bounds = interval(index, ranges)
    if bounds is None or bounds[1] >= extent:
        index = Op("min", (index, Const(extent - 1, True)))
    if bounds is None or bounds[0] < 0:
        index = Op("max", (index, Const(0, True)))
    return index


def _nonzero(expr: LoopExpr, ranges: Ranges) -> bool:
    bounds = interval(expr, ranges)
    return bounds is not None and not bounds[0] <= 0 <= bounds[1]


def renamed(stmt: LoopStmt, suffix: str) -> LoopStmt:
    """Return a copy whose loop variables and allocations have names of their own."""
    inside = list(walk_statements(stmt))
    spelled = {each.variable: each.variable + suffix for each in inside if isinstance(each, For)}
    spelled |= {
        each.buffer.name: each.buffer.name + suffix for each in inside if isinstance(each, Alloc)
    }

    def new(name: str) -> str:
        return spelled.get(name, name)

    def leaf(expr: Name | Load) -> LoopExpr:
        if isinstance(expr, Name):
            return Name(new(expr.name))
        return Load(new(expr.buffer), expr.indices)

    def statement(inner: LoopStmt) -> LoopStmt:
        inner = map_bodies(inner, statement)
        match inner:
            case For():
                return replace(inner, variable=new(inner.variable))
            case Alloc(buffer, body):
                return Alloc(replace(buffer, name=new(buffer.name)), body)
            case Store(name, indices, value):
                return Store(new(name), indices, value)
            case _:
                return inner

    return statement(map_expressions(stmt, lambda expr: map_leaves(expr, leaf)))


def privatised(loop: For, lanes: int) -> tuple[tuple[Buffer, ...], For]:
    """Give every buffer allocated inside a loop one element for each iteration.

    Returns:
        The buffers, to be allocated around the loop, and the loop without allocations.
    """
    own = {
        each.buffer.name: replace(each.buffer, shape=(*each.buffer.shape, lanes))
        for each in walk_statements(loop.body)
        if isinstance(each, Alloc)
    }
    lane = Name(loop.variable)

    def leaf(expr: Name | Load) -> LoopExpr:
        if isinstance(expr, Load) and expr.buffer in own:
            return Load(expr.buffer, (*expr.indices, lane))
        return expr

    def statement(stmt: LoopStmt) -> LoopStmt:
        stmt = map_bodies(stmt, statement)
        match stmt:
            case Alloc(_, body):
                return body
            case Store(name, indices, value) if name in own:
                return Store(name, (*indices, lane), value)
            case _:
                return stmt

    body = statement(map_expressions(loop.body, lambda expr: map_leaves(expr, leaf)))
    return tuple(own.values()), replace(loop, body=body)


def hoisted(stmt: LoopStmt, kinds: Mapping[str, str]) -> LoopStmt:
    """Allocate the buffers that are too large for a stack once for each iteration of a thread.

    Args:
        stmt: a whole body.
        kinds: of its loops; nothing leaves a parallel one.
    """
    found: list[Buffer] = []

    def visit(inner: LoopStmt) -> LoopStmt:
        match inner:
            case For(variable) if kinds.get(variable) == "parallel":
                return replace(inner, body=hoisted(inner.body, kinds))
            case Alloc(buffer, body) if math.prod(buffer.shape) * 8 >= STACK:
                found.append(buffer)
                return visit(body)
            case _:
                return map_bodies(inner, visit)

    stmt = visit(stmt)
    for each in reversed(found):
        stmt = Alloc(each, stmt)
    return stmt


def unnested(
    stmt: LoopStmt, functions: frozenset[str], rounded: frozenset[str], taken: set[str]
) -> LoopStmt:
    """Store functions of coordinates that stand inside functions: ``t = exp2(h); X = sq(t)``.

    What TVM binds in an expression (`tvm/math.py`) it wants to have one value in all copies of it,
    but for what reads a buffer: a copy for h = 0 and one for h = 1 of ``sq(exp2(h))`` conflict.

    Args:
        stmt: any.
        functions: the operators that TVM binds something in.
        rounded: buffers that such a function rounds for.
        taken: names of the program; new ones are added.
    """
    stmt = map_bodies(stmt, lambda each: unnested(each, functions, rounded, taken))
    if not isinstance(stmt, Store):
        return stmt
    inner = dict.fromkeys(_nested(stmt.value, functions, inside=stmt.buffer in rounded))
    names = {each: unused(f"{stmt.buffer}_of", taken) for each in inner}
    made: LoopStmt = replace(stmt, value=_named(stmt.value, names))
    for each, name in names.items():
        first = unnested(Store(name, (), each), functions, rounded, taken)
        made = Alloc(Buffer(name, (), "acc"), Block((first, made)))
    return made


def _nested(expr: LoopExpr, functions: frozenset[str], *, inside: bool) -> Iterator[LoopExpr]:
    if not isinstance(expr, Op):
        return
    own = expr.op in functions
    if own and inside and next(loads(expr), None) is None:
        yield expr
        return
    for each in expr.args:
        yield from _nested(each, functions, inside=inside or own)


def _named(expr: LoopExpr, names: Mapping[LoopExpr, str]) -> LoopExpr:
    if expr in names:
        return Load(names[expr], ())
    if isinstance(expr, Op):
        return Op(expr.op, tuple(_named(each, names) for each in expr.args))
    return expr


def conditions(stmt: LoopStmt) -> Iterator[LoopExpr]:
    """Yield the condition of every `If` in a statement."""
    for each in walk_statements(stmt):
        if isinstance(each, If):
            yield each.condition


def without_ifs(stmt: LoopStmt, drop: Callable[[LoopExpr], bool]) -> LoopStmt:
    """Drop the tests of conditions that are known to hold (the caller vouches for it)."""
    stmt = map_bodies(stmt, lambda each: without_ifs(each, drop))
    return stmt.body if isinstance(stmt, If) and drop(stmt.condition) else stmt

"""Small rewrites of statements that the plans for TVM are made of: substitute, rename, privatise.

Each returns a new statement with the same meaning, except where its docstring says otherwise.
Excluded on purpose: when to apply them (`tvm_plan.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from penstock.codegen.loops import (
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

__all__ = ["conditions", "map_bodies", "map_expressions", "privatised", "renamed", "substituted"]
__all__ += ["without_ifs"]


def map_bodies(stmt: LoopStmt, change: Callable[[LoopStmt], LoopStmt]) -> LoopStmt:
    """Apply a function to the statements directly inside a statement."""
    match stmt:
        case Block(body):
            return replace(stmt, body=tuple(change(each) for each in body))
        case For() | If() | Alloc():
            return replace(stmt, body=change(stmt.body))
        case Store():
            return stmt


def map_expressions(stmt: LoopStmt, change: Callable[[LoopExpr], LoopExpr]) -> LoopStmt:
    """Apply a function to every outermost expression of a statement and of those inside it."""
    stmt = map_bodies(stmt, lambda each: map_expressions(each, change))
    match stmt:
        case For():
            return replace(stmt, extent=change(stmt.extent))
        case If(condition, body):
            return If(change(condition), body)
        case Store(name, indices, value):
            return Store(name, tuple(change(each) for each in indices), change(value))
        case _:
            return stmt


def map_leaves(expr: LoopExpr, change: Callable[[Name | Load], LoopExpr]) -> LoopExpr:
    """Apply a function to every variable and, after its indices, every load."""
    match expr:
        case Name():
            return change(expr)
        case Load(name, indices):
            return change(Load(name, tuple(map_leaves(each, change) for each in indices)))
        case Op(op, args):
            return Op(op, tuple(map_leaves(each, change) for each in args))
        case Const():
            return expr


def substituted(expr: LoopExpr, values: Mapping[str, LoopExpr]) -> LoopExpr:
    """Replace loop variables in an expression."""
    return map_leaves(
        expr, lambda each: values.get(each.name, each) if isinstance(each, Name) else each
    )


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


def conditions(stmt: LoopStmt) -> Iterator[LoopExpr]:
    """Yield the condition of every `If` in a statement."""
    for each in walk_statements(stmt):
        if isinstance(each, If):
            yield each.condition


def without_ifs(stmt: LoopStmt, drop: Callable[[LoopExpr], bool]) -> LoopStmt:
    """Drop the tests of conditions that are known to hold (the caller vouches for it)."""
    stmt = map_bodies(stmt, lambda each: without_ifs(each, drop))
    return stmt.body if isinstance(stmt, If) and drop(stmt.condition) else stmt

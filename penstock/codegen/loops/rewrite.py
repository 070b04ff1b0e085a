"""Rewrites of the statement IR that everything is made of: one function over all that is inside.

Each returns a new statement or expression. Excluded: what to change (the generators).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

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
)

__all__ = ["map_bodies", "map_expressions", "map_indices", "map_leaves", "placed", "substituted"]
__all__ += ["unused"]

Indices = tuple[LoopExpr, ...]


def unused(base: str, taken: set[str], number: int = 1) -> str:
    """Return a name that nothing has, numbered from `number` on, and note that it is taken."""
    name = base
    while name in taken:
        name, number = f"{base}_{number}", number + 1
    taken.add(name)
    return name


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


def placed(stmt: LoopStmt, values: Mapping[str, LoopExpr]) -> LoopStmt:
    """Replace loop variables in a statement; loops keep theirs."""
    return map_expressions(stmt, lambda each: substituted(each, values))


def map_indices(stmt: LoopStmt, change: Callable[[str, Indices], Indices]) -> LoopStmt:
    """Apply a function of buffer and indices to the indices of all elements, read and written."""

    def leaf(each: Name | Load) -> LoopExpr:
        if isinstance(each, Load):
            return Load(each.buffer, change(each.buffer, each.indices))
        return each

    def stores(each: LoopStmt) -> LoopStmt:
        match map_bodies(each, stores):
            case Store(name, indices, value):
                return Store(name, change(name, indices), value)
            case other:
                return other

    return stores(map_expressions(stmt, lambda expr: map_leaves(expr, leaf)))

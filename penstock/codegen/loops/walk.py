"""Walks over expressions of the statement IR, and who reads and writes which buffer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
    Program,
    Store,
    walk_statements,
)

__all__ = ["Element", "all_buffers", "elements", "expressions", "loads", "names", "touched"]
__all__ += ["walk_expression"]


def all_buffers(program: Program) -> Iterator[Buffer]:
    """Yield parameters, then allocations in program order."""
    yield from (*program.inputs, *program.outputs)
    for each in walk_statements(program.body):
        if isinstance(each, Alloc):
            yield each.buffer


@dataclass(frozen=True, slots=True)
class Element:
    """One place in a program that reads or writes an element of a buffer."""

    buffer: str
    indices: tuple[LoopExpr, ...]
    written: bool


def walk_expression(expr: LoopExpr) -> Iterator[LoopExpr]:
    """Yield `expr` and everything below it, indices included, outermost first."""
    yield expr
    match expr:
        case Load(_, parts) | Op(_, parts):
            for part in parts:
                yield from walk_expression(part)
        case Const() | Name():
            pass


def loads(expr: LoopExpr) -> Iterator[Load]:
    """Yield every load in an expression, those inside indices included."""
    return (each for each in walk_expression(expr) if isinstance(each, Load))


def names(*exprs: LoopExpr) -> tuple[str, ...]:
    """Return the loop variables of the expressions, in order of first appearance."""
    nodes = (node for expr in exprs for node in walk_expression(expr))
    return tuple(dict.fromkeys(node.name for node in nodes if isinstance(node, Name)))


def expressions(stmt: LoopStmt) -> tuple[LoopExpr, ...]:
    """Return the expressions of one statement, not of those below it."""
    match stmt:
        case Store():
            return (*stmt.indices, stmt.value)
        case If():
            return (stmt.condition,)
        case For():
            return (stmt.extent,)
        case Alloc() | Block():
            return ()


def elements(body: LoopStmt) -> Iterator[Element]:
    """Yield every element that a statement, or one below it, reads or writes."""
    for stmt in walk_statements(body):
        if isinstance(stmt, Store):
            yield Element(stmt.buffer, stmt.indices, written=True)
        for expr in expressions(stmt):
            for node in walk_expression(expr):
                if isinstance(node, Load):
                    yield Element(node.buffer, node.indices, written=False)


def touched(stmt: LoopStmt) -> tuple[frozenset[str], frozenset[str]]:
    """Return the buffers that a statement reads and those that it writes."""
    found = list(elements(stmt))
    read, written = ([each for each in found if each.written == which] for which in (False, True))
    return frozenset(each.buffer for each in read), frozenset(each.buffer for each in written)

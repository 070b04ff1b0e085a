"""Buffers on the chip as a person would declare them: no dimensions of one element, all at the top.

::

    for h:                              new S[64]
      new S[1, 64, 1]             →     for h:
      ... S[0, m, 0] ...                  ... S[m] ...

A buffer's first contents are undefined, so that where it is declared changes nothing; but loops
that contain nothing else can then become one.

Excluded on purpose: buffers of one step of a pipelined loop (registers of that step), those in the
outer memory, which the host allocates.
"""

from __future__ import annotations

from dataclasses import replace

from penstock.codegen.hls.cpp import workspace
from penstock.codegen.hls.loops import has_serial
from penstock.codegen.loops.nodes import (
    Alloc,
    Block,
    Buffer,
    For,
    If,
    LoopExpr,
    LoopStmt,
    Program,
    walk_statements,
)
from penstock.codegen.loops.rewrite import map_bodies, map_indices

__all__ = ["hoisted", "without_units"]

Kept = dict[str, tuple[int, ...]]
"""Buffer → the dimensions that stay."""


def without_units(program: Program) -> Program:
    """Return the program with local buffers that have no dimension of one element."""
    outside = {each.name for each in workspace(program)}
    kept = {
        each.buffer.name: tuple(n for n, extent in enumerate(each.buffer.shape) if extent > 1)
        for each in walk_statements(program.body)
        if isinstance(each, Alloc) and each.buffer.name not in outside
    }

    def indices(name: str, given: tuple[LoopExpr, ...]) -> tuple[LoopExpr, ...]:
        return tuple(given[n] for n in kept.get(name, range(len(given))))

    return replace(program, body=_narrowed(map_indices(program.body, indices), kept))


def _narrowed(stmt: LoopStmt, kept: Kept) -> LoopStmt:
    stmt = map_bodies(stmt, lambda each: _narrowed(each, kept))
    if not isinstance(stmt, Alloc) or stmt.buffer.name not in kept:
        return stmt
    buffer = stmt.buffer
    shape = tuple(buffer.shape[n] for n in kept[buffer.name])
    return Alloc(replace(buffer, shape=shape, memory=buffer.memory if shape else ""), stmt.body)


def hoisted(program: Program) -> Program:
    """Return the program with its local buffers declared first, those of a memory together."""
    found: list[Buffer] = []
    body = _lifted(program.body, found)
    order = {memory: n for n, memory in enumerate(dict.fromkeys(e.memory for e in found))}
    together = sorted(found, key=lambda each: order[each.memory])
    for buffer in reversed(together):
        body = Alloc(buffer, body)
    return replace(program, body=body)


def _lifted(stmt: LoopStmt, found: list[Buffer]) -> LoopStmt:
    match stmt:
        case Alloc(buffer, body) if has_serial(body) or buffer.copies > 1:
            found.append(buffer)
            return _lifted(body, found)
        case Block(body):
            return replace(stmt, body=tuple(_flat(body, found)))
        case For() | If() if has_serial(stmt):
            return replace(stmt, body=_lifted(stmt.body, found))
        case _:
            return stmt


def _flat(body: tuple[LoopStmt, ...], found: list[Buffer]) -> list[LoopStmt]:
    """Lift what is in a block; a block in it without a name becomes a part of it."""
    result: list[LoopStmt] = []
    for each in body:
        match _lifted(each, found):
            case Block(inner, "", None):
                result += inner
            case other:
                result.append(other)
    return result

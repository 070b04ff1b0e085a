"""Blocks with one row: a loop of one step over it, and a dimension of 1 for what the block keeps.

One query of a head that has keys of its own leaves a block a single row. Its products waste the
other rows of a matrix instruction, but what such a block waits for is memory, and a tile kernel
brings keys as memory likes it: in the background, 16 bytes or a box at a time, tiles ahead.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
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
    Store,
    walk_statements,
)
from penstock.codegen.loops.rewrite import map_bodies, map_expressions, map_leaves
from penstock.codegen.tvm.kernels import Kernel

__all__ = ["with_row"]


def with_row(kernel: Kernel) -> Kernel:
    """Return a launch in which every statement of a block goes over one row.

    Args:
        kernel: a launch with all its block loops in the grid, and private buffers.
    """
    copied = {
        store.buffer
        for each in walk_statements(kernel.body)
        if isinstance(each, For) and each.comment.startswith("copy ")
        for store in walk_statements(each)
        if isinstance(store, Store)
    }
    kept = {name for name in _own(kernel.body) if name not in copied}
    return replace(kernel, body=_Rows(kept).inside(kernel.body))


def _own(stmt: LoopStmt) -> Iterator[str]:
    """Yield the buffers of the block itself, not those inside a statement over its elements."""
    match stmt:
        case Alloc(buffer, body):
            if buffer.shape:
                yield buffer.name
            yield from _own(body)
        case Block(body, "", _):
            for each in body:
                yield from _own(each)
        case For() | If() if _holds_leaves(stmt):
            yield from _own(stmt.body)
        case _:
            pass


def _holds_leaves(stmt: LoopStmt) -> bool:
    return any(isinstance(each, Block) and each.comment for each in walk_statements(stmt))


class _Rows:
    def __init__(self, kept: set[str]) -> None:
        self.kept = kept
        self.numbers = itertools.count()

    def inside(self, stmt: LoopStmt) -> LoopStmt:
        """Return what a block does, with rows."""
        match stmt:
            case Alloc(buffer, body) if buffer.name in self.kept:
                wider = replace(buffer, shape=(1, *buffer.shape))
                return Alloc(wider, self.inside(body))
            case Alloc(_, body):
                return replace(stmt, body=self.inside(body))
            case Block(body, "", _):
                return replace(stmt, body=tuple(self.inside(each) for each in body))
            case Block(body):
                return replace(stmt, body=(self.row(Block(body)),))
            case For() if stmt.comment.startswith("copy "):
                return stmt
            case For() | If() if _holds_leaves(stmt):
                return replace(stmt, body=self.inside(stmt.body))
            case _:
                return self.row(stmt)

    def row(self, stmt: LoopStmt) -> LoopStmt:
        """Return a statement in a loop over the row."""
        name = f"row_{next(self.numbers)}"
        return For(name, Const(1, True), self._at(stmt, Name(name)))

    def _at(self, stmt: LoopStmt, row: Name) -> LoopStmt:
        def element(each: Name | Load) -> LoopExpr:
            if isinstance(each, Load) and each.buffer in self.kept:
                return Load(each.buffer, (row, *each.indices))
            return each

        def stores(each: LoopStmt) -> LoopStmt:
            if isinstance(each, Store) and each.buffer in self.kept:
                return replace(each, indices=(row, *each.indices))
            return map_bodies(each, stores)

        return stores(map_expressions(stmt, lambda expr: map_leaves(expr, element)))

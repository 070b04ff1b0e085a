"""Copies to and from the outer memory in words of its port, instead of element by element.

::

    for e in 0..64:                       for e in 0..2:                      (a word each cycle)
      KB[m, e] = K[m, e]          →         for w in 0..32 side by side:
                                              KB[m, e*32 + w] = K[m, e*32 + w]

A word holds as many neighbouring elements as divide the row and fit 512 bits, so that a row whose
length is prime is copied element by element.

Excluded on purpose: words that go over the end of a row; anything but a copy or a fill.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from penstock.codegen.hls.data import bits_of
from penstock.codegen.hls.loops import is_serial
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
from penstock.codegen.loops.rewrite import placed
from penstock.codegen.loops.walk import names
from penstock.codegen.lower.index import integer
from penstock.einsum_ir.formats import Format

__all__ = ["PORT_BITS", "WORD", "widen", "word_lanes"]

PORT_BITS = 512
"""Data width of an AXI port of the memory controllers (AMD UG1399, max_widen_bitwidth)."""

WORD = "word"
"""The axis of a loop over the elements of a word."""


def widen(program: Program) -> Program:
    """Return the program with copies of words where a row of the outer memory is copied."""
    outer = {each.name: each for each in (*program.inputs, *program.outputs)}
    taken = {each.variable for each in walk_statements(program.body) if isinstance(each, For)}
    return replace(program, body=_Widen(outer, program.format, taken).statement(program.body))


def word_lanes(extent: int, bits: int) -> int:
    """Return the largest divisor of a row's length that fits a word of the port, in elements."""
    return next(n for n in range(min(extent, max(1, PORT_BITS // bits)), 0, -1) if extent % n == 0)


@dataclass(frozen=True)
class _Widen:
    """Rebuilds one program; `taken` are the loop variables that exist."""

    outer: dict[str, Buffer]
    format: Format
    taken: set[str]

    def statement(self, stmt: LoopStmt) -> LoopStmt:
        """Return a statement with its copies in words."""
        match stmt:
            case Block(body):
                return replace(stmt, body=tuple(self.statement(each) for each in body))
            case For() if is_serial(stmt) and (rows := self.copied_rows(stmt)):
                bits = max(bits_of(each.kind, each.own, self.format) for each in rows)
                return self.widened(stmt, bits)
            case For() | If() | Alloc():
                return replace(stmt, body=self.statement(stmt.body))
            case Store():
                return stmt

    def copied_rows(self, loop: For) -> tuple[Buffer, ...]:
        """Return in whose rows a loop moves along, if it does nothing else; outer memory only."""
        store: LoopStmt = loop.body
        while isinstance(store, If):
            store = store.body
        if not isinstance(store, Store) or not isinstance(loop.extent, Const):
            return ()
        sides = [Load(store.buffer, store.indices), store.value]
        if not isinstance(store.value, Load | Const):
            return ()
        outside = [each for each in sides if isinstance(each, Load) and each.buffer in self.outer]
        if not all(_along(each.indices, loop.variable) for each in outside):
            return ()
        return tuple(self.outer[each.buffer] for each in outside)

    def widened(self, loop: For, bits: int) -> LoopStmt:
        """Return the loop as one over words, or over the one word that the row is."""
        assert isinstance(loop.extent, Const)
        extent = int(loop.extent.value)
        lanes = word_lanes(extent, bits)
        if lanes == 1:
            return loop
        lane = f"{loop.variable}_w"
        while lane in self.taken:
            lane += "w"
        self.taken.add(lane)
        here = Name(loop.variable)
        place: LoopExpr = Name(lane)
        if lanes < extent:
            place = Op("+", (Op("*", (here, integer(lanes))), place))
        body = placed(loop.body, {loop.variable: place})
        inner = For(lane, integer(lanes), body, "pe", WORD)
        if lanes == extent:
            return replace(inner, comment=loop.comment)
        return replace(loop, extent=integer(extent // lanes), body=inner)


def _along(indices: tuple[LoopExpr, ...], variable: str) -> bool:
    """Return whether a loop's steps go to neighbouring elements of a row."""
    if not indices or variable in names(*indices[:-1]):
        return False
    match indices[-1]:
        case Name(name):
            return name == variable
        case Op("+", (left, right)):
            return _along((left,), variable) != _along((right,), variable) and (
                variable not in names(left) or variable not in names(right)
            )
        case _:
            return False

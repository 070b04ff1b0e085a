"""Tiles that the mapping keeps twice are filled in several words a cycle.

::

    for h:                                 for h:
      for i in 0..64:                        for i in 0..8:
        for w in 0..32 side by side:    →      for b in 0..8 side by side:
          KB[i, w] = K[h, i, w]                  for w in 0..32 side by side:
      ... 64 steps that use KB ...                 KB[i*8 + b, w] = K[h, i*8 + b, w]

A port gives one word a cycle, but the next tile waits in its stream while this one is used
(``keep .. x2``): going from one to the other then takes 8 cycles instead of 64. Words are put
together until the fill takes a sixteenth of the longest loop beside it.

Excluded on purpose: fills of what is kept once, which have nothing to wait for; anything else that
takes part in a fill.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from penstock.codegen.hls.data import bits_of
from penstock.codegen.hls.loops import has_serial, is_serial, outermost, steps
from penstock.codegen.hls.words import PORT_BITS, WORD
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
    Program,
    Store,
    walk_statements,
)
from penstock.codegen.loops.rewrite import placed, unused
from penstock.codegen.lower.index import integer
from penstock.codegen.timing.timeline import perfect

__all__ = ["BURST_WORDS", "in_bursts"]

BURST_WORDS = 8
"""Words of a port in one token, at most: 4,096 bits, the widest ``hls::vector`` (UG1399)."""

SHARE = 16
"""A fill takes at most this part of the steps of the longest loop beside it, if it can."""


def in_bursts(program: Program) -> Program:
    """Return the program with its double-buffered tiles filled in few steps."""
    statements = tuple(walk_statements(program.body))
    twice = {e.buffer.name for e in statements if isinstance(e, Alloc) and e.buffer.copies > 1}
    taken = {each.variable for each in statements if isinstance(each, For)}
    inputs = {each.name for each in program.inputs}
    bits = max((bits_of(e.kind, e.own, program.format) for e in program.inputs), default=1)
    maker = _Bursts(frozenset(twice), frozenset(inputs), bits, taken)
    return replace(program, body=maker.statement(program.body, 0))


@dataclass(frozen=True)
class _Bursts:
    """Rebuilds one program; `taken` are the loop variables that exist."""

    twice: frozenset[str]
    inputs: frozenset[str]
    bits: int
    taken: set[str]

    def statement(self, stmt: LoopStmt, beside: int) -> LoopStmt:
        """Return a statement with its fills in bursts; `beside` is the longest loop with it."""
        match stmt:
            case Block(body):
                return replace(stmt, body=tuple(self.statement(each, beside) for each in body))
            case For() if is_serial(stmt) and self.fills(stmt):
                return self.burst(stmt, beside)
            case For() if is_serial(stmt) and has_serial(stmt.body):
                others = (each for each in outermost(stmt.body) if not self.fills(each))
                inside = max(map(steps, others), default=0)
                return replace(stmt, body=self.statement(stmt.body, inside))
            case For() | If() | Alloc() if has_serial(stmt):
                return replace(stmt, body=self.statement(stmt.body, beside))
            case _:
                return stmt

    def fills(self, loop: For) -> bool:
        """Whether loops do nothing but bring a tile of an input, word by word."""
        chain = perfect(loop)
        if has_serial(chain[-1].body) or not all(isinstance(e.extent, Const) for e in chain):
            return False
        inner, wide = chain[-1].body, False
        while isinstance(inner, For | If):
            wide = wide or isinstance(inner, For)
            inner = inner.body
        return (
            wide
            and isinstance(inner, Store)
            and inner.buffer in self.twice
            and isinstance(inner.value, Load)
            and inner.value.buffer in self.inputs
        )

    def burst(self, loop: For, beside: int) -> LoopStmt:
        """Return the loops with some of their steps side by side."""
        chain = perfect(loop)
        count, most = 1, steps(loop)
        room = min(BURST_WORDS, BURST_WORDS * PORT_BITS // (self.bits * _lanes(chain[-1].body)))
        while 2 * count <= room and most > count * (beside // SHARE):
            count *= 2
        return loop if count == 1 else self.side_by_side(chain, count)

    def side_by_side(self, chain: list[For], count: int) -> LoopStmt:
        """Return loops with so many of their last steps, or as many as divide them, in one."""
        body, heads, lanes = chain[-1].body, list[For](), list[For]()
        for each in reversed(chain):
            assert isinstance(each.extent, Const)
            extent = int(each.extent.value)
            places = math.gcd(extent, count)
            count = count // places if places == extent else 1
            here: LoopExpr = integer(0)
            if places < extent:
                heads.append(replace(each, extent=integer(extent // places)))
                here = Name(each.variable)
            if places > 1:
                name = unused(f"{each.variable}_b", self.taken, 2)
                lanes.append(For(name, integer(places), body, "pe", WORD))
                whole = Op("*", (here, integer(places)))
                here = Name(name) if places == extent else Op("+", (whole, Name(name)))
                body = placed(body, {each.variable: here})
        for each in (*lanes, *heads):
            body = replace(each, body=body)
        assert isinstance(body, For)
        return replace(body, comment=chain[0].comment)


def _lanes(stmt: LoopStmt) -> int:
    loops = (each for each in walk_statements(stmt) if isinstance(each, For))
    return math.prod(int(e.extent.value) for e in loops if isinstance(e.extent, Const))

"""Compute units side by side: an axis whose places take turns becomes turns around its places.

::

    for h in 0..12 on units (8 of them):       for h in 0..2:
      body                                 →     for h_u in 0..6 side by side on units:
                                                   body with h*6 + h_u for h

An HLS tool knows serial loops and unrolled ones only, so that a machine of several units would be
one unit otherwise. As few places are made as the same number of turns needs.

Excluded on purpose: axes whose places do not take turns (`hls/loops.py` sinks them as they are).
"""

from __future__ import annotations

from dataclasses import replace

from penstock.codegen.loops.nodes import (
    Alloc,
    Block,
    Const,
    For,
    If,
    LoopExpr,
    LoopStmt,
    Name,
    Op,
    Program,
    Store,
    walk_statements,
)
from penstock.codegen.loops.rewrite import placed
from penstock.codegen.lower.index import integer

__all__ = ["unroll_units"]


def unroll_units(program: Program) -> Program:
    """Return the program with the places of folding axes side by side, in turns."""
    taken = {each.variable for each in walk_statements(program.body) if isinstance(each, For)}
    return replace(program, body=_unrolled(program.body, taken))


def _unrolled(stmt: LoopStmt, taken: set[str]) -> LoopStmt:
    match stmt:
        case Block(body):
            return replace(stmt, body=tuple(_unrolled(each, taken) for each in body))
        case For() if stmt.places > 1 and isinstance(stmt.extent, Const):
            inner = replace(stmt, body=_unrolled(stmt.body, taken))
            return _in_turns(inner, int(stmt.extent.value), taken)
        case For() | If() | Alloc():
            return replace(stmt, body=_unrolled(stmt.body, taken))
        case Store():
            return stmt


def _in_turns(loop: For, steps: int, taken: set[str]) -> For:
    turns = -(-steps // loop.places)
    places = -(-steps // turns)
    beside = replace(loop, extent=integer(places), kind="pe", places=0)
    if turns == 1:
        return beside
    name = f"{loop.variable}_u"
    while name in taken:
        name += "u"
    taken.add(name)
    here: LoopExpr = Op("+", (Op("*", (Name(loop.variable), integer(places))), Name(name)))
    body = placed(loop.body, {loop.variable: here})
    if turns * places > steps:
        body = If(Op("<", (here, integer(steps))), body)
    inner = replace(beside, variable=name, body=body, pipelined=False)
    return For(loop.variable, integer(turns), inner, comment=loop.comment, pipelined=loop.pipelined)

"""Local buffers are filled and copied in as many places at once as they have banks.

::

    for p in 0..64:                     for p in 0..4:
      for f in 0..32:             →       for p_b in 0..16 side by side:
        R[p, f] = 0                         for f_b in 0..32 side by side:
                                              R[p*16 + p_b, f_b] = 0

where the rest of the program has split R into 16 banks along p and 32 along f. The start of a
state, and its step to the next one, are such loops.

Excluded on purpose: anything that the outer memory takes part in (`words.py`), or that computes.
"""

from __future__ import annotations

import math
from dataclasses import replace

from penstock.codegen.hls.banks import Split, partitions
from penstock.codegen.hls.loops import has_serial, is_serial
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
from penstock.codegen.loops.rewrite import placed
from penstock.codegen.loops.walk import elements, names
from penstock.codegen.lower.index import integer

__all__ = ["BANKS", "spread_fills"]

BANKS = "banks"
"""The axis of a loop over the banks of a buffer."""


def spread_fills(program: Program) -> Program:
    """Return the program with its local fills and copies side by side."""
    return replace(program, body=_Spread(program).statement(program.body))


class _Spread:
    """Rebuilds one program; `taken` are the loop variables that exist."""

    def __init__(self, program: Program) -> None:
        self.splits = partitions(program)
        statements = tuple(walk_statements(program.body))
        self.local = {each.buffer.name for each in statements if isinstance(each, Alloc)}
        self.taken = {each.variable for each in statements if isinstance(each, For)}

    def statement(self, stmt: LoopStmt) -> LoopStmt:
        """Return a statement with its fills side by side."""
        match stmt:
            case Block(body):
                return replace(stmt, body=tuple(self.statement(each) for each in body))
            case For() if is_serial(stmt) and (inner := self.moved(stmt)) is not None:
                return self.nest(stmt, inner)
            case For() | If() | Alloc() if has_serial(stmt):
                return replace(stmt, body=self.statement(stmt.body))
            case _:
                return stmt

    def moved(self, loop: For) -> LoopStmt | None:
        """Return what a nest of loops moves between local buffers, None if it does more."""
        body: LoopStmt = loop
        while is_serial(body) and isinstance(body, For) and isinstance(body.extent, Const):
            body = body.body
        inside = tuple(walk_statements(body))
        stores = [each for each in inside if isinstance(each, Store)]
        plain = all(isinstance(each.value, Const | Load) for each in stores)
        local = all(each.buffer in self.local for each in elements(body))
        alone = not has_serial(body) and not any(isinstance(e, Alloc | If) for e in inside)
        return body if plain and local and alone else None

    def nest(self, loop: For, body: LoopStmt) -> LoopStmt:
        """Return the loops around `body`, each over as many places as all buffers have banks."""
        chain: list[For] = []
        stmt: LoopStmt = loop
        while stmt is not body:
            assert isinstance(stmt, For)
            chain.append(stmt)
            stmt = stmt.body
        inner: list[For] = []
        renamed: dict[str, LoopExpr] = {}
        outer: list[For] = []
        for each in chain:
            assert isinstance(each.extent, Const)
            extent = int(each.extent.value)
            places = self.places(each.variable, extent, body)
            if places == extent:
                inner.append(replace(each, kind="pe", axis=BANKS))
                continue
            outer.append(replace(each, extent=integer(extent // places)))
            if places > 1:
                name = self.fresh(each.variable)
                inner.append(For(name, integer(places), body, "pe", BANKS))
                here = Op("*", (Name(each.variable), integer(places)))
                renamed[each.variable] = Op("+", (here, Name(name)))
        result = placed(body, renamed)
        for each in reversed((*outer, *inner)):
            result = replace(each, body=result)
        return result

    def places(self, variable: str, extent: int, body: LoopStmt) -> int:
        """Return how many steps of a loop can be done at once."""
        found = 0
        for each in elements(body):
            if variable not in names(*each.indices):
                return 1
            splits = self.splits.get(each.buffer, (None,) * len(each.indices))
            for index, how in zip(each.indices, splits, strict=True):
                if variable in names(index):
                    found = math.gcd(found, _banks(index, variable, how))
        return math.gcd(found, extent)

    def fresh(self, variable: str) -> str:
        """Return a name that nothing has."""
        name = f"{variable}_b"
        while name in self.taken:
            name += "b"
        self.taken.add(name)
        return name


def _banks(index: LoopExpr, variable: str, how: Split | None) -> int:
    plain = index == Name(variable) and how is not None and how.kind != "block"
    return how.factor if plain and how is not None else 1

"""Conditions that the loops and conditions around imply are left out: no hardware, no text.

::

    for m in 0..p + 1:                          for m in 0..p + 1:
      for u in 0..8 side by side:         →       for u in 0..8 side by side:
        if m*64 <= p*64 + 63:                       if m*64 + u <= p*64:
          if m*64 + u <= p*64: ...                    ...

Excluded on purpose: anything but comparisons of sums of multiples of loop variables.
"""

from __future__ import annotations

import math
from dataclasses import replace

from penstock.codegen.hls.loops import conjuncts
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
)
from penstock.codegen.timing.dependence import below

__all__ = ["without_implied"]

Fact = tuple[tuple[tuple[str, int], ...], int]
"""Multiples of loop variables, and a constant: their sum is not positive."""

Facts = frozenset[Fact]


def without_implied(program: Program) -> Program:
    """Return the program without the conditions that hold anyway."""
    return replace(program, body=_needed(program.body, frozenset()))


def _needed(stmt: LoopStmt, known: Facts) -> LoopStmt:
    match stmt:
        case Block(body):
            return replace(stmt, body=tuple(_needed(each, known) for each in body))
        case For():
            return replace(stmt, body=_needed(stmt.body, known | _of_loop(stmt)))
        case If(condition, body):
            rest: LoopExpr | None = None
            inside = known
            for test in conjuncts(condition):
                fact = _fact(test)
                if fact is None or not _implied(fact, inside):
                    rest = test if rest is None else Op("and", (rest, test))
                inside |= frozenset() if fact is None else {fact}
            inner = _needed(body, inside)
            return inner if rest is None else If(rest, inner)
        case Alloc():
            return replace(stmt, body=_needed(stmt.body, known))
        case Store():
            return stmt


def _of_loop(loop: For) -> Facts:
    """Return what holds in a loop: its variable is below each of the parts of its end."""
    facts: set[Fact] = set()
    ends = [loop.extent]
    while ends:
        match ends.pop():
            case Op("min", args):
                ends += args
            case Op("max", (end, Const(0))):
                ends.append(end)  # a loop to max(end, 0) has no step where end is not positive
            case end:
                fact = _fact(Op("<", (Name(loop.variable), end)))
                facts |= set() if fact is None else {fact}
    return frozenset(facts)


def _fact(test: LoopExpr) -> Fact | None:
    """Return a comparison in its normal form, None if it has none."""
    sides = below(test)
    if sides is None:
        return None
    left, right, strict = sides
    terms = {n: left[0].get(n, 0) - right[0].get(n, 0) for n in {**left[0], **right[0]}}
    terms = {name: factor for name, factor in terms.items() if factor}
    rest = left[1] - right[1] + strict
    divisor = math.gcd(*terms.values()) or 1
    ordered = tuple(sorted((name, factor // divisor) for name, factor in terms.items()))
    return ordered, -(-rest // divisor)


def _implied(fact: Fact, known: Facts) -> bool:
    terms, rest = fact
    return any(terms == each and rest <= constant for each, constant in known)

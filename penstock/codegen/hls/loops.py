"""Loops as hardware wants them: what lies side by side goes inside what runs step by step.

A leaf of a mapping lists its loops outermost first, spatial ones often before the temporal ones::

    for p side by side:               acc[p] = 0, for all p side by side
      acc = 0                         for e:                                  (pipelined)
      for e:                    →       for p side by side:                   (unrolled)
        acc += Q[p, e] * K[e]             acc[p] += Q[p, e] * K[e]
      S[p] = acc                      S[p] = acc[p], for all p side by side

Both compute the same: places do not depend on each other, and what several of them add to one
element may be added in any order (exactly in fixed point). But only the second one is an array of
places for an HLS tool, which runs several serial loops of one function one after the other.

A serial loop whose number of steps differs from place to place stays where it is, and so does one
under a condition that it changes.

Excluded on purpose: any other change of order; other backends (they have threads or vectors).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

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
from penstock.codegen.loops.rewrite import map_indices, placed, substituted
from penstock.codegen.loops.walk import elements, names, walk_expression
from penstock.codegen.lower.index import Lin, add, atom, constant, range_of, to_expr
from penstock.codegen.timing.dependence import affine

__all__ = ["UNROLLED", "conjuncts", "has_serial", "is_serial", "one_of", "outermost"]
__all__ += ["sink_spatial", "steps"]

UNROLLED = ("pe", "simd")
"""Kinds of axes whose places are hardware side by side."""

Around = tuple[For | If, ...]
"""The spatial loops and the conditions inside them, outermost first, that wait to be sunk."""


def is_serial(stmt: LoopStmt) -> bool:
    """Return whether a statement is a loop whose steps run one after the other."""
    return isinstance(stmt, For) and stmt.kind not in UNROLLED


def has_serial(stmt: LoopStmt) -> bool:
    """Return whether there is such a loop in a statement."""
    return any(is_serial(each) for each in walk_statements(stmt))


def outermost(stmt: LoopStmt) -> list[For]:
    """Return the outermost loops in time."""
    match stmt:
        case For() if is_serial(stmt):
            return [stmt]
        case Block(body):
            return [loop for each in body for loop in outermost(each)]
        case For() | If() | Alloc():
            return outermost(stmt.body)
        case Store():
            return []


def steps(loop: For) -> int:
    """Return the steps of a loop with those in it, one after another, of the longest of these."""
    _, most = range_of(atom(loop.extent), {})
    inner = max((steps(each) for each in outermost(loop.body)), default=1)
    return int(most) * inner if math.isfinite(most) else inner


def one_of(stmts: list[LoopStmt]) -> LoopStmt:
    """Return statements in order as one."""
    return stmts[0] if len(stmts) == 1 else Block(tuple(stmts))


def sink_spatial(program: Program) -> Program:
    """Return the program with spatial loops inside the serial loops that they contained."""
    taken = {each.variable for each in walk_statements(program.body) if isinstance(each, For)}
    return replace(program, body=_Sink(taken).one(program.body, ()))


@dataclass
class _Sink:
    """Rebuilds one program; `taken` are the loop variables that exist."""

    taken: set[str]
    used: set[str] = field(default_factory=set)

    def one(self, stmt: LoopStmt, around: Around) -> LoopStmt:
        parts = tuple(self.sink(stmt, around))
        return parts[0] if len(parts) == 1 else Block(parts)

    def sink(self, stmt: LoopStmt, around: Around) -> Iterator[LoopStmt]:
        """Yield statements that do what `stmt` does at every place of `around`."""
        if not has_serial(stmt) or _stays(stmt, around):
            yield self.wrapped(stmt, around)
            return
        match stmt:
            case For() if is_serial(stmt):
                yield replace(stmt, body=self.one(stmt.body, around))
            case If() if not around:
                yield replace(stmt, body=self.one(stmt.body, ()))
            case If(condition, body):
                inner = one_of(list(self.sink(body, (*around, stmt))))
                anywhere = _somewhere(condition, around)
                same = isinstance(inner, If) and inner.condition == anywhere
                yield inner if same or anywhere is None else If(anywhere, inner)
            case For():
                yield from self.sink(stmt.body, (*around, stmt))
            case Alloc():
                yield self.expanded(stmt, around)
            case Block(body):
                yield replace(stmt, body=tuple(self.groups(body, around)))
            case Store():
                raise AssertionError("a store contains no loop")

    def groups(self, body: tuple[LoopStmt, ...], around: Around) -> Iterator[LoopStmt]:
        """Sink statements in order; neighbours without serial loops share their places."""
        together: list[LoopStmt] = []
        for stmt in body:
            if not has_serial(stmt):
                together.append(stmt)
                continue
            if together:
                yield self.wrapped(one_of(together), around)
                together = []
            yield from self.sink(stmt, around)
        if together:
            yield self.wrapped(one_of(together), around)

    def expanded(self, stmt: Alloc, around: Around) -> Alloc:
        """Give every place its own copy of a buffer that was local to it."""
        loops = [each for each in around if isinstance(each, For)]
        if not loops:
            return replace(stmt, body=self.one(stmt.body, around))
        own = stmt.buffer
        extents = tuple(int(_constant(each.extent)) for each in loops)
        memory = own.memory if own.shape else ""  # a register of each place
        buffer = replace(own, shape=(*extents, *own.shape), memory=memory)
        place = tuple(Name(each.variable) for each in loops)

        def indices(name: str, given: tuple[LoopExpr, ...]) -> tuple[LoopExpr, ...]:
            return (*place, *given) if name == own.name else given

        return Alloc(buffer, self.one(map_indices(stmt.body, indices), around))

    def wrapped(self, stmt: LoopStmt, around: Around) -> LoopStmt:
        """Put a statement back into its places, under loop variables of their own."""
        fresh = {
            each.variable: Name(self.fresh(each.variable))
            for each in around
            if isinstance(each, For)
        }
        stmt = placed(stmt, fresh)
        for place, each in reversed(list(enumerate(around))):
            if isinstance(each, If):
                inside = around[place + 1 :]
                if not any(isinstance(e, If) and _follows(each, e, inside) for e in inside):
                    stmt = If(substituted(each.condition, fresh), stmt)
            else:
                stmt = replace(each, variable=fresh[each.variable].name, body=stmt)
        return stmt

    def fresh(self, variable: str) -> str:
        """Return the variable itself the first time, then names that nothing has."""
        if variable not in self.used:
            self.used.add(variable)
            return variable
        number = 2
        while (name := f"{variable}_{number}") in self.taken:
            number += 1
        self.taken.add(name)
        return name


def _stays(stmt: LoopStmt, around: Around) -> bool:
    """Return whether what `stmt` does at one place cannot be told apart into steps of all."""
    match stmt:
        case For():
            places = {each.variable for each in around if isinstance(each, For)}
            return is_serial(stmt) and not places.isdisjoint(names(stmt.extent))
        case If(condition, body):
            written = {each.buffer for each in elements(body) if each.written}
            read = {n.buffer for n in walk_expression(condition) if isinstance(n, Load)}
            return bool(around) and not written.isdisjoint(read)
        case _:
            return False


def _constant(extent: LoopExpr) -> float:
    assert isinstance(extent, Const), "a spatial loop has a constant extent"
    return extent.value


def _follows(outer: If, inner: If, between: Around) -> bool:
    """Whether a condition holds wherever one inside does, at whichever of the places between."""
    return outer.condition == _somewhere(inner.condition, between)


def _somewhere(condition: LoopExpr, around: Around) -> LoopExpr | None:
    """Return a condition that holds wherever the given one does at some place, if there is one.

    What no place does need not be stepped through; each place still tests its own condition.
    """
    places = {
        each.variable: int(_constant(each.extent)) for each in around if isinstance(each, For)
    }
    result: LoopExpr | None = None
    for test in conjuncts(condition):
        weak = _weakest(test, places)
        if weak is not None:
            result = weak if result is None else Op("and", (result, weak))
    return result


def _weakest(test: LoopExpr, places: Mapping[str, int]) -> LoopExpr | None:
    """Return a comparison as it is at the place where it holds the longest."""
    if places.keys().isdisjoint(names(test)):
        return test
    if not isinstance(test, Op) or test.op not in ("<", "<=", ">", ">="):
        return None
    left, right = (affine(each) for each in test.args)
    if left is None or right is None or any(isinstance(e, Load) for e in walk_expression(test)):
        return None
    if test.op in (">", ">="):
        left, right = right, left
    ends = [
        (factor if side else -factor) * (places[name] - 1)
        for side, form in enumerate((left, right))
        for name, factor in form[0].items()
        if name in places
    ]
    terms = [
        Lin(tuple((Name(n), c) for n, c in form[0].items() if n not in places), form[1])
        for form in (left, right)
    ]
    more = sum(end for end in ends if end > 0)
    op = "<" if test.op in ("<", ">") else "<="
    return Op(op, (to_expr(terms[0]), to_expr(add(terms[1], constant(more)))))


def conjuncts(expr: LoopExpr) -> Iterator[LoopExpr]:
    """Yield the conditions that all hold where `expr` does."""
    match expr:
        case Op("and", (left, right)):
            yield from conjuncts(left)
            yield from conjuncts(right)
        case _:
            yield expr

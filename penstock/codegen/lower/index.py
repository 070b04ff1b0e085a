"""Index arithmetic of the lowering in a normal form: sums of atoms, so that offsets cancel.

``p0*256 + p1*16 + p2`` less its tile's start ``p0*256`` is ``p1*16 + p2``: subtraction of two
`Lin` does it, and no pattern is ever matched. What is not a sum (``h // 4``, ``max(i, 0)``, an
element of an index tensor) is an atom, after all simplification that the ranges of the loop
variables allow. Excluded: values, tensors, statements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from penstock.codegen.loops.nodes import Const, Load, LoopExpr, Name, Op
from penstock.einsum_ir.intervals import UNKNOWN, bounds_of

__all__ = [
    "Cond",
    "Lin",
    "Ranges",
    "add",
    "atom",
    "compare",
    "conjunction",
    "constant",
    "floor_divide",
    "has_load",
    "integer",
    "maximum",
    "minimum",
    "modulo",
    "multiply",
    "negation",
    "range_of",
    "scale",
    "subtract",
    "to_expr",
]

Ranges = Mapping[str, tuple[int, int]]
"""Loop variable → lowest and highest value, both included."""

Cond = LoopExpr | bool
"""A condition; a bool where it is decided."""


@dataclass(frozen=True, slots=True)
class Lin:
    """``sum(factor * atom) + constant``: an integer that the generated program computes.

    Factors are not 0 and atoms are distinct; an atom is never a `Const`, a sum or a multiple.
    """

    terms: tuple[tuple[LoopExpr, int], ...]
    constant: int = 0

    @property
    def fixed(self) -> bool:
        """Whether it is a known number."""
        return not self.terms


def constant(value: int) -> Lin:
    """Return a known number."""
    return Lin((), value)


def atom(expr: LoopExpr) -> Lin:
    """Return an expression that is not looked into further."""
    if isinstance(expr, Const):
        return constant(int(expr.value))
    return Lin(((expr, 1),))


def add(left: Lin, right: Lin) -> Lin:
    """Return the sum."""
    total = dict(left.terms)
    for expr, factor in right.terms:
        total[expr] = total.get(expr, 0) + factor
    kept = tuple((expr, factor) for expr, factor in total.items() if factor)
    return Lin(kept, left.constant + right.constant)


def scale(value: Lin, factor: int) -> Lin:
    """Return ``value * factor``."""
    if factor == 0:
        return constant(0)
    return Lin(tuple((expr, each * factor) for expr, each in value.terms), value.constant * factor)


def subtract(left: Lin, right: Lin) -> Lin:
    """Return the difference."""
    return add(left, scale(right, -1))


def multiply(left: Lin, right: Lin) -> Lin:
    """Return the product; an atom if neither is known."""
    if left.fixed:
        return scale(right, left.constant)
    if right.fixed:
        return scale(left, right.constant)
    return atom(Op("*", (to_expr(left), to_expr(right))))


def range_of(value: Lin, ranges: Ranges) -> tuple[float, float]:
    """Return bounds of the value (both included; infinite where nothing is known)."""
    low = high = float(value.constant)
    for expr, factor in value.terms:
        first, last = _range(expr, ranges)
        ends = sorted((first * factor, last * factor))
        low, high = low + ends[0], high + ends[1]
    return low, high


def _range(expr: LoopExpr, ranges: Ranges) -> tuple[float, float]:
    match expr:
        case Const(value):
            return value, value
        case Name(name) if name in ranges:
            low, high = ranges[name]
            return low, high
        case Op(op, args):
            return bounds_of(op, [_range(arg, ranges) for arg in args])
        case _:
            return UNKNOWN


def floor_divide(left: Lin, right: Lin, ranges: Ranges) -> Lin:
    """Return ``left // right``, with what divides taken out of the division."""
    if left.fixed and right.fixed and right.constant:
        return constant(left.constant // right.constant)
    if not right.fixed or right.constant <= 0:
        return atom(Op("//", (to_expr(left), to_expr(right))))
    whole, rest = _split(left, right.constant)
    low, high = range_of(rest, ranges)
    if math.isfinite(low) and low // right.constant == high // right.constant:
        return add(whole, constant(int(low // right.constant)))
    return add(whole, atom(Op("//", (to_expr(rest), integer(right.constant)))))


def modulo(left: Lin, right: Lin, ranges: Ranges) -> Lin:
    """Return ``left % right``, with what divides left out."""
    if left.fixed and right.fixed and right.constant:
        return constant(left.constant % right.constant)
    if not right.fixed or right.constant <= 0:
        return atom(Op("%", (to_expr(left), to_expr(right))))
    _, rest = _split(left, right.constant)
    low, high = range_of(rest, ranges)
    if math.isfinite(low) and low // right.constant == high // right.constant:
        return add(rest, constant(-int(low // right.constant) * right.constant))
    return atom(Op("%", (to_expr(rest), integer(right.constant))))


def _split(value: Lin, divisor: int) -> tuple[Lin, Lin]:
    """Return (q, r) with ``value = divisor * q + r``, all multiples of the divisor in q."""
    whole = tuple((expr, f // divisor) for expr, f in value.terms if f % divisor == 0)
    rest = tuple((expr, f) for expr, f in value.terms if f % divisor)
    return Lin(whole, value.constant // divisor), Lin(rest, value.constant % divisor)


def minimum(left: Lin, right: Lin, ranges: Ranges) -> Lin:
    """Return the smaller, decided if the ranges decide."""
    low, high = range_of(subtract(left, right), ranges)
    if high <= 0:
        return left
    return right if low >= 0 else atom(Op("min", (to_expr(left), to_expr(right))))


def maximum(left: Lin, right: Lin, ranges: Ranges) -> Lin:
    """Return the larger, decided if the ranges decide."""
    low, high = range_of(subtract(left, right), ranges)
    if low >= 0:
        return left
    return right if high <= 0 else atom(Op("max", (to_expr(left), to_expr(right))))


def integer(value: int) -> Const:
    """Return an integer literal."""
    return Const(value, integer=True)


def to_expr(value: Lin) -> LoopExpr:
    """Return the expression that computes the value: positive parts, then negative ones."""
    ordered = _sorted(value)
    positive = [(expr, factor) for expr, factor in ordered if factor > 0]
    negative = [(expr, factor) for expr, factor in ordered if factor < 0]
    rest = value.constant
    parts = [*positive, *negative]
    result: LoopExpr | None = None
    if not positive and rest > 0:
        result, rest = integer(rest), 0
    for expr, factor in parts:
        part = expr if abs(factor) == 1 else Op("*", (expr, integer(abs(factor))))
        if result is None:
            result = part if factor > 0 else Op("neg", (part,))
        else:
            result = Op("+" if factor > 0 else "-", (result, part))
    if result is None:
        return integer(rest)
    return Op("+" if rest > 0 else "-", (result, integer(abs(rest)))) if rest else result


_HOLDS = {
    "<": lambda low, high: True if high < 0 else False if low >= 0 else None,
    "<=": lambda low, high: True if high <= 0 else False if low > 0 else None,
    ">": lambda low, high: True if low > 0 else False if high <= 0 else None,
    ">=": lambda low, high: True if low >= 0 else False if high < 0 else None,
    "==": lambda low, high: True if low == high == 0 else False if low > 0 or high < 0 else None,
    "!=": lambda low, high: False if low == high == 0 else True if low > 0 or high < 0 else None,
}


def compare(op: str, left: Lin, right: Lin, ranges: Ranges) -> Cond:
    """Return a comparison of integers, decided if the ranges decide.

    Equal conditions come out as equal expressions, whichever way they were written.
    """
    difference = subtract(left, right)
    decided: bool | None = _HOLDS[op](*range_of(difference, ranges))
    if decided is not None:
        return decided
    if op in (">", ">="):
        difference, op = scale(difference, -1), "<" if op == ">" else "<="
    if op == "<":
        difference, op = add(difference, constant(1)), "<="
    if op in ("==", "!=") and _sorted(difference)[0][1] < 0:
        difference = scale(difference, -1)
    positive = Lin(tuple(term for term in difference.terms if term[1] > 0))
    negative = Lin(tuple((expr, -factor) for expr, factor in difference.terms if factor < 0))
    return _balanced(op, positive, negative, difference.constant)


def _balanced(op: str, positive: Lin, negative: Lin, rest: int) -> Cond:
    """Return ``positive + rest op negative`` with the constant where it reads best."""
    if op == "<=" and positive.fixed:
        return Op(">=", (to_expr(negative), integer(rest)))
    if op == "<=" and negative.fixed:
        return Op("<", (to_expr(positive), integer(1 - rest)))
    left = add(positive, constant(max(rest, 0)))
    return Op(op, (to_expr(left), to_expr(add(negative, constant(max(-rest, 0))))))


def _sorted(value: Lin) -> list[tuple[LoopExpr, int]]:
    """Return the terms, large strides first."""
    return sorted(value.terms, key=lambda term: (-abs(term[1]), _text(term[0])))


def _text(expr: LoopExpr) -> str:
    return expr.name if isinstance(expr, Name) else f"~{expr}"


def conjunction(*conds: Cond) -> Cond:
    """Return the conjunction, without what is decided or stands twice."""
    if any(cond is False for cond in conds):
        return False
    result: Cond = True
    for cond in dict.fromkeys(each for each in conds if not isinstance(each, bool)):
        result = cond if isinstance(result, bool) else Op("and", (result, cond))
    return result


def negation(cond: Cond) -> Cond:
    """Return ``not cond``."""
    return not cond if isinstance(cond, bool) else Op("not", (cond,))


def has_load(expr: LoopExpr) -> bool:
    """Whether evaluating the expression reads a buffer."""
    match expr:
        case Load():
            return True
        case Op(_, args):
            return any(has_load(arg) for arg in args)
        case _:
            return False

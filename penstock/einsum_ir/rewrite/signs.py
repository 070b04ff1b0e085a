"""Which sign an expression surely has: what makes a factor pass a maximum, or a root.

Before → after: ``exp(QK - GM)`` → `POSITIVE`; ``sq(X)`` → `AT_LEAST_0`; ``X`` → `ANY`.
Excluded: bounds other than 0 (`bounds.py` has those of coordinates).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from penstock.einsum_ir.nodes import Access, Apply, Expr, Num, Sym, Var

__all__ = ["Sign", "Signs", "sign"]


class Sign(Enum):
    """What is known of a number's sign."""

    POSITIVE = "> 0"
    AT_LEAST_0 = ">= 0"
    NEGATIVE = "< 0"
    AT_MOST_0 = "<= 0"
    ANY = "any"

    @property
    def up(self) -> bool:
        """Whether the number is surely not negative."""
        return self in (Sign.POSITIVE, Sign.AT_LEAST_0)

    @property
    def down(self) -> bool:
        """Whether the number is surely not positive."""
        return self in (Sign.NEGATIVE, Sign.AT_MOST_0)

    @property
    def strict(self) -> bool:
        """Whether the number is surely not 0."""
        return self in (Sign.POSITIVE, Sign.NEGATIVE)


Signs = Callable[[Expr], Sign]
"""The sign of a leaf: an access, a scalar or a coordinate."""

_FLIPPED = {
    Sign.POSITIVE: Sign.NEGATIVE,
    Sign.NEGATIVE: Sign.POSITIVE,
    Sign.AT_LEAST_0: Sign.AT_MOST_0,
    Sign.AT_MOST_0: Sign.AT_LEAST_0,
    Sign.ANY: Sign.ANY,
}


def sign(expr: Expr, leaf: Signs) -> Sign:
    """Return what is known of the sign of an expression.

    Args:
        expr: any expression.
        leaf: the signs of accesses, scalars and coordinates.
    """
    match expr:
        case Num(value):
            return _number(value)
        case Access() | Sym() | Var():
            return leaf(expr)
        case Apply("exp" | "exp2" | "sigmoid" | "softplus" | "rsqrt", _):
            return Sign.POSITIVE
        case Apply("sq" | "abs" | "sqrt", (inner,)):
            return Sign.POSITIVE if sign(inner, leaf).strict else Sign.AT_LEAST_0
        case Apply("relu" | "step", _):
            return Sign.AT_LEAST_0
        case Apply("tanh" | "erf" | "sign" | "silu" | "gelu", (inner,)):
            return sign(inner, leaf)
        case Apply("neg", (inner,)):
            return _FLIPPED[sign(inner, leaf)]
        case Apply(op, args):
            return _binary(op, [sign(each, leaf) for each in args])


def _number(value: float) -> Sign:
    if value == 0:
        return Sign.AT_LEAST_0
    return Sign.POSITIVE if value > 0 else Sign.NEGATIVE


def _binary(op: str, found: list[Sign]) -> Sign:
    if op == "-":
        return _sum(found[0], _FLIPPED[found[1]])
    if op == "+":
        return _sum(*found)
    if op in ("*", "/"):
        return _product(*found)
    if op == "**" and found[0].up:
        return found[0]
    if op == "max":
        return _largest(*found)
    if op == "min":
        return _FLIPPED[_largest(*(_FLIPPED[each] for each in found))]
    if op in ("where", "fill"):
        return found[-1] if found[-2] == found[-1] else Sign.ANY
    return Sign.ANY


def _largest(*found: Sign) -> Sign:
    if any(each.up for each in found):
        return Sign.POSITIVE if Sign.POSITIVE in found else Sign.AT_LEAST_0
    if all(each.down for each in found):
        return Sign.NEGATIVE if all(each.strict for each in found) else Sign.AT_MOST_0
    return Sign.ANY


def _sum(left: Sign, right: Sign) -> Sign:
    if left.up and right.up:
        return Sign.POSITIVE if left.strict or right.strict else Sign.AT_LEAST_0
    if left.down and right.down:
        return Sign.NEGATIVE if left.strict or right.strict else Sign.AT_MOST_0
    return Sign.ANY


def _product(left: Sign, right: Sign) -> Sign:
    if Sign.ANY in (left, right):
        return Sign.ANY
    strict = left.strict and right.strict
    if left.up == right.up:
        return Sign.POSITIVE if strict else Sign.AT_LEAST_0
    return Sign.NEGATIVE if strict else Sign.AT_MOST_0

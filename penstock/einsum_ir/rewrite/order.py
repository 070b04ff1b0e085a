"""Maxima and minima of what a whole value moves: peeled, carried, or split into several.

Before → after, with u a value of the whole rank::

    max exp(x - u) / d   ->  exp(max(x) - u) / d                monotone maps are peeled (d > 0)
    max abs(x - u)       ->  max(max(x) - u, -(min(x) - u))     tropical sum: two accumulators
    max x - u + v        ->  S = max(x - u + v), carried as S + (u' - u)
    max exp(x - u) * v   ->  S = max(exp(x - u) * v), carried as S * exp(u' - u)

Excluded: non-monotone maps (``max sq(x - u)``), which are refused, though a maximum and a minimum
would do for some.
"""

from __future__ import annotations

from collections.abc import Callable

from penstock.einsum_ir.nodes import Apply, Expr, Num, walk
from penstock.einsum_ir.rewrite.separate import NotSeparableError, Separator
from penstock.einsum_ir.rewrite.signs import sign
from penstock.einsum_ir.rewrite.terms import rebuilt

__all__ = ["FLIP", "ordered", "peel"]

FLIP = {"max": "min", "min": "max"}

_RISING = {"exp", "exp2", "log", "log2", "sqrt", "tanh", "sigmoid", "softplus", "relu", "erf"}
_RISING |= {"step", "floor", "round", "sign"}

Leaf = Callable[[str, Expr], Expr]
"""(operator, expression) → what stands for its reduction."""


STRICT = frozenset(("exp", "exp2", "log", "log2", "sqrt", "tanh", "sigmoid", "softplus", "neg"))
"""Functions that keep different numbers different, beside ``+ - * /``."""


def ordered(expr: Expr, separator: Separator) -> Expr:
    """Return an expression without whole values that orders elements as `expr` does.

    Before → after: ``exp(x - u) / d`` → ``x`` (d > 0); ``u - x`` → ``-x``. Equal ones stay equal,
    so that a selection picks the same coordinates.

    Raises:
        NotSeparableError: some part is not strictly monotone.
    """
    found: list[tuple[str, Expr]] = []

    def leaf(op: str, expr: Expr) -> Expr:
        found.append((op, expr))
        return expr

    kept = peel("max", expr, separator, leaf)
    inner = set(walk(found[0][1])) if len(found) == 1 else set()
    outside = (n for n in walk(kept) if n not in inner and isinstance(n, Apply))
    moving = (n for n in outside if separator.varies(n))
    plain = all(n.op in STRICT or n.op in ("+", "-", "*", "/") for n in moving)
    if len(found) != 1 or not plain or separator.moves(found[0][1]):
        raise NotSeparableError(f"'{expr}' does not order elements by themselves")
    op, inside = found[0]
    return inside if op == "max" else rebuilt("neg", (inside,))


def peel(op: str, expr: Expr, separator: Separator, leaf: Leaf) -> Expr:
    """Return a maximum or minimum as an expression of others, none of which need whole values.

    Args:
        op: ``max`` or ``min``.
        expr: what is reduced.
        separator: knows what varies and what moves.
        leaf: called for each reduction that remains.

    Raises:
        NotSeparableError: by `leaf`, if it cannot do what remains.
    """
    if not separator.varies(expr):
        return expr
    if separator.moves(expr) and isinstance(expr, Apply):
        found = _peeled(op, expr, separator, leaf)
        if found is not None:
            return found
    return leaf(op, expr)


def _peeled(op: str, expr: Apply, separator: Separator, leaf: Leaf) -> Expr | None:
    """Return the reduction of an operator by those of its operands, or None."""

    def inner(op: str, each: Expr) -> Expr:
        return peel(op, each, separator, leaf)

    first, others = expr.args[0], expr.args[1:]
    fixed = not any(separator.varies(each) for each in others)
    if expr.op in ("max", "min") and (fixed or not separator.varies(first) or expr.op == op):
        return rebuilt(expr.op, tuple(inner(op, each) for each in expr.args))
    if expr.op == "abs" and op == "max":
        return Apply("max", (inner("max", first), Apply("neg", (inner("min", first),))))
    if expr.op in ("neg", "rsqrt"):
        return rebuilt(expr.op, (inner(FLIP[op], first),))
    if expr.op in _RISING or (expr.op == "clamp" and fixed):
        return rebuilt(expr.op, (inner(op, first), *others))
    if expr.op in ("+", "-", "*", "/"):
        return _binary(op, expr, separator, leaf)
    up = expr.op == "**" and isinstance(others[0], Num) and others[0].value > 0
    if up and sign(first, separator.signs).up:
        return rebuilt("**", (inner(op, first), *others))
    return None


def _binary(op: str, expr: Apply, separator: Separator, leaf: Leaf) -> Expr | None:
    """Peel what does not vary: a summand, or a factor of known sign."""
    left, right = expr.args
    if separator.varies(left) and separator.varies(right):
        return None
    moving, fixed = (left, right) if separator.varies(left) else (right, left)
    below = moving is right
    if expr.op in ("+", "-"):
        flipped = expr.op == "-" and below
    else:
        known = sign(fixed, separator.signs)
        divides = expr.op == "/" and below
        if not (known.up or known.down) or (divides and not sign(moving, separator.signs).strict):
            return None
        separator.need(f"{fixed} {known.value}")
        flipped = known.up == divides
    inner = peel(FLIP[op] if flipped else op, moving, separator, leaf)
    return rebuilt(expr.op, (left, inner) if below else (inner, right))

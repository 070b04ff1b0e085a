"""Whether a condition holds somewhere, everywhere or nowhere in a box of coordinates.

Interval arithmetic over index expressions, written once for any `Algebra`: with numpy arrays it
decides many boxes at a time (`box_status`), with expressions it gives the test that a generated
program makes before it enters a tile (`possible`). The two sides of a comparison are subtracted
first (`linear.py`), so that a single affine comparison is decided exactly, shared variables and
all; ``//``, ``%``, ``min``, ``max``, ``clamp``, ``abs`` and ``where`` are bounded. Excluded: data.
A condition that reads a tensor may hold anywhere and holds nowhere for sure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from penstock.einsum_ir.nodes import Access, Apply, Expr, Num, Sym, Var
from penstock.einsum_ir.ops import OPERATORS
from penstock.einsum_ir.regions.algebra import Algebra, NumpyAlgebra
from penstock.einsum_ir.regions.linear import Form, linear

__all__ = ["box_status", "interval", "may_be_absent", "possible"]

T = TypeVar("T")
B = TypeVar("B")

SLACK = 1e-6
"""By how much an interval with factors that are no integers is widened, for rounding."""


def interval(
    expr: Expr,
    ranges: Mapping[str, tuple[T, T]],
    algebra: Algebra[T, B],
    symbols: Mapping[str, float],
) -> tuple[T, T] | None:
    """Return bounds of an expression over a box, both included; None if nothing is known.

    Args:
        expr: an expression over rank variables.
        ranges: variable → (lowest, highest); one that is left out is not bounded.
        algebra: of the bounds.
        symbols: upper-case name → value.
    """
    return _Box(ranges, algebra, symbols).expr(expr)


class _Box(Generic[T, B]):
    """Bounds of expressions and conditions over one box (or many, in the algebra)."""

    def __init__(
        self,
        ranges: Mapping[str, tuple[T, T]],
        algebra: Algebra[T, B],
        symbols: Mapping[str, float],
    ) -> None:
        self.ranges, self.algebra, self.symbols = ranges, algebra, symbols

    # --- numbers ------------------------------------------------------------------------------

    def form(self, form: Form) -> tuple[T, T] | None:
        algebra = self.algebra
        low = high = algebra.number(form.constant)
        for atom, factor in form.terms:
            found = self.atom(atom)
            if found is None:
                return None
            ends = [algebra.scale(end, factor) for end in found]
            first, last = ends if factor > 0 else reversed(ends)
            low, high = algebra.add(low, first), algebra.add(high, last)
        numbers = (form.constant, *(factor for _, factor in form.terms))
        if all(float(each).is_integer() for each in numbers):
            return low, high
        return algebra.add(low, algebra.number(-SLACK)), algebra.add(high, algebra.number(SLACK))

    def expr(self, expr: Expr) -> tuple[T, T] | None:
        return self.form(linear(expr, self.symbols))

    def atom(self, atom: Expr) -> tuple[T, T] | None:
        match atom:
            case Var(name):
                return self.ranges.get(name)
            case Apply("//" | "%", (value, Num(divisor))) if divisor > 0 and divisor == int(
                divisor
            ):
                return self._divided(atom.op, self.expr(value), int(divisor))
            case Apply("where", (condition, then, otherwise)):
                return self._chosen(condition, then, otherwise)
            case Apply(op, args):
                ends = [self.expr(arg) for arg in args]
                known = [each for each in ends if each is not None]
                return self._applied(op, known) if len(known) == len(ends) else None
            case Num() | Sym() | Access():
                return None

    def _divided(self, op: str, value: tuple[T, T] | None, divisor: int) -> tuple[T, T] | None:
        algebra = self.algebra
        if op == "%" and value is None:
            return algebra.number(0), algebra.number(divisor)
        if value is None:
            return None
        low, high = value
        first, last = (algebra.floor_divide(end, divisor) for end in value)
        if op == "//":
            return first, last
        same = algebra.at_most(last, first)
        base = algebra.scale(first, -divisor)
        return (
            algebra.select(same, algebra.add(low, base), algebra.number(0)),
            algebra.select(same, algebra.add(high, base), algebra.number(divisor - 1)),
        )

    def _chosen(self, condition: Expr, then: Expr, otherwise: Expr) -> tuple[T, T] | None:
        yes, no = self.expr(then), self.expr(otherwise)
        if yes is None or no is None:
            return None
        holds, fails = self.status(condition)
        algebra = self.algebra
        low, high = self._hull(yes, no)
        low = algebra.select(holds, yes[0], algebra.select(fails, no[0], low))
        high = algebra.select(holds, yes[1], algebra.select(fails, no[1], high))
        return low, high

    def _hull(self, a: tuple[T, T], b: tuple[T, T]) -> tuple[T, T]:
        return self.algebra.minimum(a[0], b[0]), self.algebra.maximum(a[1], b[1])

    def _applied(self, op: str, args: list[tuple[T, T]]) -> tuple[T, T] | None:
        algebra = self.algebra
        match op, args:
            case "max", [a, b]:
                return algebra.maximum(a[0], b[0]), algebra.maximum(a[1], b[1])
            case "min", [a, b]:
                return algebra.minimum(a[0], b[0]), algebra.minimum(a[1], b[1])
            case "clamp", [x, a, b]:
                raised = (algebra.maximum(x[0], a[0]), algebra.maximum(x[1], a[1]))
                return algebra.minimum(raised[0], b[0]), algebra.minimum(raised[1], b[1])
            case "abs", [a]:
                return self._magnitude(a)
            case "sq", [a]:
                return self._product(self._magnitude(a), self._magnitude(a))
            case "*", [a, b]:
                return self._product(a, b)
            case "fill", [a, b]:
                return self._hull(a, b)
            case _:
                return None

    def _magnitude(self, a: tuple[T, T]) -> tuple[T, T]:
        algebra = self.algebra
        low, high = a[0], algebra.scale(a[1], -1)  # |a| is at least a, -a and 0
        least = algebra.maximum(algebra.number(0), algebra.maximum(low, high))
        return least, algebra.maximum(algebra.scale(a[0], -1), a[1])

    def _product(self, a: tuple[T, T], b: tuple[T, T]) -> tuple[T, T]:
        algebra = self.algebra
        corners = [algebra.multiply(x, y) for x in a for y in b]
        low = high = corners[0]
        for corner in corners[1:]:
            low, high = algebra.minimum(low, corner), algebra.maximum(high, corner)
        return low, high

    # --- conditions ---------------------------------------------------------------------------

    def status(self, expr: Expr) -> tuple[B, B]:
        """Return where a condition surely holds, and where it surely does not."""
        algebra = self.algebra
        match expr:
            case Apply("and", (left, right)):
                (t1, f1), (t2, f2) = self.status(left), self.status(right)
                return algebra.conjunction(t1, t2), algebra.disjunction(f1, f2)
            case Apply("or", (left, right)):
                (t1, f1), (t2, f2) = self.status(left), self.status(right)
                return algebra.disjunction(t1, t2), algebra.conjunction(f1, f2)
            case Apply("not", (inner,)):
                holds, fails = self.status(inner)
                return fails, holds
            case Apply(op, (left, right)) if OPERATORS[op].kind == "comparison":
                form = linear(Apply("-", (left, right)), self.symbols)
                return self._compared(op, form)
            case _:
                return self._compared("!=", linear(expr, self.symbols))

    def _compared(self, op: str, form: Form) -> tuple[B, B]:
        algebra = self.algebra
        unknown = algebra.truth(value=False), algebra.truth(value=False)
        if op in ("==", "!=") and _never_zero(form):
            never = algebra.truth(value=False), algebra.truth(value=True)
            return never if op == "==" else (never[1], never[0])
        ends = self.form(form)
        if ends is None:
            return unknown
        low, high = ends
        zero = algebra.number(0)
        match op:
            case "<":
                return algebra.less(high, zero), algebra.at_most(zero, low)
            case "<=":
                return algebra.at_most(high, zero), algebra.less(zero, low)
            case ">":
                return algebra.less(zero, low), algebra.at_most(high, zero)
            case ">=":
                return algebra.at_most(zero, low), algebra.less(high, zero)
            case _:
                return self._equal(op, low, high)

    def _equal(self, op: str, low: T, high: T) -> tuple[B, B]:
        algebra, zero = self.algebra, self.algebra.number(0)
        both = algebra.conjunction(algebra.at_most(zero, low), algebra.at_most(high, zero))
        apart = algebra.disjunction(algebra.less(zero, low), algebra.less(high, zero))
        return (both, apart) if op == "==" else (apart, both)


def _never_zero(form: Form) -> bool:
    """Whether no integers make the form 0, because of a common factor (``2*m - 2*p + 1``)."""
    if not form.terms or not form.whole:
        return False
    common = math.gcd(*(int(factor) for _, factor in form.terms))
    return not float(form.constant).is_integer() or int(form.constant) % common != 0


def may_be_absent(expr: Expr, symbols: Mapping[str, float]) -> bool:
    """Whether the value may be absent at some point: it reads a tensor, or divides by zero."""
    match expr:
        case Num() | Var() | Sym():
            return False
        case Access():
            return True
        case Apply("fill", (inner, instead)):
            return may_be_absent(inner, symbols) and may_be_absent(instead, symbols)
        case Apply("//" | "%", (value, divisor)):
            form = linear(divisor, symbols)
            return bool(form.terms) or not form.constant or may_be_absent(value, symbols)
        case Apply(_, args):
            return any(may_be_absent(arg, symbols) for arg in args)


_NUMPY: Algebra[Any, Any] = NumpyAlgebra()


def box_status(
    pred: Expr,
    low: Mapping[str, NDArray[Any]],
    high: Mapping[str, NDArray[Any]],
    symbols: Mapping[str, float],
) -> NDArray[np.int8]:
    """Decide a condition over many boxes at a time.

    Args:
        pred: a condition over rank variables. If it reads a tensor it is never full.
        low: variable → lowest coordinate of each box; all arrays broadcast together. A variable
            that is left out is not bounded.
        high: variable → highest coordinate of each box, included.
        symbols: upper-case name → value.

    Returns:
        For each box -1 if the condition holds at none of its points, 1 if it holds at all of
        them, else 0. 0 also where that is unsure; a single affine comparison is always sure. A
        box that has no points is -1.
    """
    shape = np.broadcast_shapes(*(np.shape(each) for each in (*low.values(), *high.values())))
    ranges = {name: (np.asarray(low[name]), np.asarray(high[name])) for name in low}
    holds, fails = _Box(ranges, _NUMPY, symbols).status(pred)
    if may_be_absent(pred, symbols):
        holds = np.asarray(False)
    for first, last in ranges.values():
        fails = fails | (first > last)
    status = np.where(fails, -1, np.where(holds, 1, 0)).astype(np.int8)
    return np.array(np.broadcast_to(status, shape))


def possible(
    pred: Expr,
    ranges: Mapping[str, tuple[T, T]],
    algebra: Algebra[T, B],
    symbols: Mapping[str, float],
) -> B:
    """Return a test that is true unless a condition holds nowhere in a box.

    Args:
        pred: a condition over rank variables.
        ranges: variable → (lowest, highest coordinate, included) of the box, as values of the
            algebra. A variable that is left out is not bounded.
        algebra: in which the test is computed: `ExprAlgebra` for an expression over whatever
            variables the ranges mention.
        symbols: upper-case name → value.
    """
    _, fails = _Box(ranges, algebra, symbols).status(pred)
    return algebra.negation(fails)

"""The numbers in which bounds are computed: a protocol, numpy arrays, and expressions.

Excluded: what is computed in them (`bounds.py`).
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import numpy as np

from penstock.einsum_ir.nodes import Apply, Expr, Num
from penstock.einsum_ir.regions.linear import Form, add, linear, scale, to_expr

__all__ = ["Algebra", "ExprAlgebra", "NumpyAlgebra"]

T = TypeVar("T")
B = TypeVar("B")


class Algebra(Protocol[T, B]):
    """Numbers ``T`` and truth values ``B`` in which bounds are computed."""

    def number(self, value: float) -> T:
        """Return a known number."""

    def add(self, left: T, right: T) -> T:
        """Return the sum."""

    def scale(self, value: T, factor: float) -> T:
        """Return ``value * factor``."""

    def multiply(self, left: T, right: T) -> T:
        """Return the product."""

    def minimum(self, left: T, right: T) -> T:
        """Return the smaller."""

    def maximum(self, left: T, right: T) -> T:
        """Return the larger."""

    def floor_divide(self, value: T, divisor: int) -> T:
        """Return ``value // divisor``, rounded down; the divisor is positive."""

    def select(self, condition: B, then: T, otherwise: T) -> T:
        """Return one of the two."""

    def at_most(self, left: T, right: T) -> B:
        """Return whether ``left <= right``."""

    def less(self, left: T, right: T) -> B:
        """Return whether ``left < right``."""

    def truth(self, value: bool) -> B:
        """Return a known truth value."""

    def conjunction(self, left: B, right: B) -> B:
        """Return ``left and right``."""

    def disjunction(self, left: B, right: B) -> B:
        """Return ``left or right``."""

    def negation(self, value: B) -> B:
        """Return ``not value``."""


class NumpyAlgebra:
    """Numbers are numpy arrays (or scalars), one element for each box."""

    def number(self, value: float) -> Any:
        """Return a known number."""
        return np.asarray(value)

    def add(self, left: Any, right: Any) -> Any:
        """Return the sum."""
        return left + right

    def scale(self, value: Any, factor: float) -> Any:
        """Return ``value * factor``."""
        return value * factor

    def multiply(self, left: Any, right: Any) -> Any:
        """Return the product."""
        return left * right

    def minimum(self, left: Any, right: Any) -> Any:
        """Return the smaller."""
        return np.minimum(left, right)

    def maximum(self, left: Any, right: Any) -> Any:
        """Return the larger."""
        return np.maximum(left, right)

    def floor_divide(self, value: Any, divisor: int) -> Any:
        """Return ``value // divisor``, rounded down."""
        return value // divisor

    def select(self, condition: Any, then: Any, otherwise: Any) -> Any:
        """Return one of the two."""
        return np.where(condition, then, otherwise)

    def at_most(self, left: Any, right: Any) -> Any:
        """Return whether ``left <= right``."""
        return np.asarray(left <= right)

    def less(self, left: Any, right: Any) -> Any:
        """Return whether ``left < right``."""
        return np.asarray(left < right)

    def truth(self, value: bool) -> Any:
        """Return a known truth value."""
        return np.asarray(value)

    def conjunction(self, left: Any, right: Any) -> Any:
        """Return ``left and right``."""
        return left & right

    def disjunction(self, left: Any, right: Any) -> Any:
        """Return ``left or right``."""
        return left | right

    def negation(self, value: Any) -> Any:
        """Return ``not value``."""
        return ~value


class ExprAlgebra:
    """Numbers are expressions, truth values conditions; what is known is a `Num` (1 is true)."""

    def number(self, value: float) -> Expr:
        """Return a known number."""
        return Num(value)

    def add(self, left: Expr, right: Expr) -> Expr:
        """Return the sum."""
        return to_expr(add(linear(left, {}), linear(right, {})))

    def scale(self, value: Expr, factor: float) -> Expr:
        """Return ``value * factor``."""
        return to_expr(scale(linear(value, {}), factor))

    def multiply(self, left: Expr, right: Expr) -> Expr:
        """Return the product."""
        return to_expr(linear(Apply("*", (left, right)), {}))

    def minimum(self, left: Expr, right: Expr) -> Expr:
        """Return the smaller."""
        return self._either("min", left, right)

    def maximum(self, left: Expr, right: Expr) -> Expr:
        """Return the larger."""
        return self._either("max", left, right)

    def _either(self, op: str, left: Expr, right: Expr) -> Expr:
        return left if left == right else to_expr(linear(Apply(op, (left, right)), {}))

    def floor_divide(self, value: Expr, divisor: int) -> Expr:
        """Return ``value // divisor``, rounded down."""
        return to_expr(linear(Apply("//", (value, Num(divisor))), {}))

    def select(self, condition: Expr, then: Expr, otherwise: Expr) -> Expr:
        """Return one of the two."""
        if isinstance(condition, Num):
            return then if condition.value else otherwise
        return then if then == otherwise else Apply("where", (condition, then, otherwise))

    def at_most(self, left: Expr, right: Expr) -> Expr:
        """Return whether ``left <= right``."""
        return self._compare("<=", left, right)

    def less(self, left: Expr, right: Expr) -> Expr:
        """Return whether ``left < right``."""
        return self._compare("<", left, right)

    def _compare(self, op: str, left: Expr, right: Expr) -> Expr:
        form = linear(Apply("-", (left, right)), {})
        if not form.terms:
            return Num(int(form.constant <= 0 if op == "<=" else form.constant < 0))
        positive = Form(tuple(term for term in form.terms if term[1] > 0), max(form.constant, 0))
        negative = Form(tuple(term for term in form.terms if term[1] < 0), min(form.constant, 0))
        return Apply(op, (to_expr(positive), to_expr(scale(negative, -1))))

    def truth(self, value: bool) -> Expr:
        """Return a known truth value."""
        return Num(int(value))

    def conjunction(self, left: Expr, right: Expr) -> Expr:
        """Return ``left and right``."""
        return self.negation(self.disjunction(self.negation(left), self.negation(right)))

    def disjunction(self, left: Expr, right: Expr) -> Expr:
        """Return ``left or right``."""
        if isinstance(left, Num):
            return left if left.value else right
        if isinstance(right, Num):
            return right if right.value else left
        return left if left == right else Apply("or", (left, right))

    def negation(self, value: Expr) -> Expr:
        """Return ``not value``."""
        match value:
            case Num(known):
                return Num(int(not known))
            case Apply("not", (inner,)):
                return inner
            case Apply("<=", (left, right)):
                return self.less(right, left)
            case Apply("<", (left, right)):
                return self.at_most(right, left)
            case Apply("and" | "or", (left, right)):
                dual = "or" if value.op == "and" else "and"
                return Apply(dual, (self.negation(left), self.negation(right)))
            case _:
                return Apply("not", (value,))

"""Tests that keep empty tiles from being run: interval arithmetic on `Lin`.

`skip_test` asks `einsum_ir.bounds` whether a condition can hold anywhere in what loops leave, and
gives the test as a condition of the loops IR. Excluded: what the conditions are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.codegen.loops.nodes import Op
from penstock.codegen.lower.expr import as_cond, either
from penstock.codegen.lower.index import (
    Cond,
    Lin,
    Ranges,
    add,
    atom,
    compare,
    conjunction,
    constant,
    floor_divide,
    maximum,
    minimum,
    multiply,
    range_of,
    scale,
    subtract,
    to_expr,
)
from penstock.codegen.lower.tree import Env
from penstock.einsum_ir.nodes import Expr
from penstock.einsum_ir.regions.bounds import possible

__all__ = ["conjuncts", "skip_test"]


class _FractionError(Exception):
    """A bound that is no integer: the generated program could not compute it exactly."""


@dataclass(frozen=True, slots=True)
class _AtMostZero:
    """``value <= 0``."""

    value: Lin


@dataclass(frozen=True, slots=True)
class _Join:
    """Both of two tests, or either."""

    both: bool
    left: _Test
    right: _Test


_Test = bool | _AtMostZero | _Join


class _LinAlgebra:
    """Numbers are `Lin`, truth values `_Test`; what the ranges decide is decided."""

    def __init__(self, ranges: Ranges) -> None:
        self.ranges = ranges

    def number(self, value: float) -> Lin:
        """Return a known number."""
        if not float(value).is_integer():
            raise _FractionError
        return constant(int(value))

    def add(self, left: Lin, right: Lin) -> Lin:
        """Return the sum."""
        return add(left, right)

    def scale(self, value: Lin, factor: float) -> Lin:
        """Return ``value * factor``."""
        if not float(factor).is_integer():
            raise _FractionError
        return scale(value, int(factor))

    def multiply(self, left: Lin, right: Lin) -> Lin:
        """Return the product."""
        return multiply(left, right)

    def minimum(self, left: Lin, right: Lin) -> Lin:
        """Return the smaller."""
        return minimum(left, right, self.ranges)

    def maximum(self, left: Lin, right: Lin) -> Lin:
        """Return the larger."""
        return maximum(left, right, self.ranges)

    def floor_divide(self, value: Lin, divisor: int) -> Lin:
        """Return ``value // divisor``, rounded down."""
        return floor_divide(value, constant(divisor), self.ranges)

    def select(self, condition: _Test, then: Lin, otherwise: Lin) -> Lin:
        """Return one of the two."""
        if isinstance(condition, bool):
            return then if condition else otherwise
        if then == otherwise:
            return then
        test = as_cond(self.cond(condition))
        return atom(Op("where", (test, to_expr(then), to_expr(otherwise))))

    def at_most(self, left: Lin, right: Lin) -> _Test:
        """Return whether ``left <= right``."""
        difference = subtract(left, right)
        low, high = range_of(difference, self.ranges)
        if high <= 0 or low > 0:
            return high <= 0
        return _AtMostZero(difference)

    def less(self, left: Lin, right: Lin) -> _Test:
        """Return whether ``left < right``."""
        return self.at_most(add(left, constant(1)), right)

    def truth(self, value: bool) -> _Test:
        """Return a known truth value."""
        return value

    def conjunction(self, left: _Test, right: _Test) -> _Test:
        """Return ``left and right``."""
        if isinstance(left, bool):
            return right if left else False
        if isinstance(right, bool):
            return left if right else False
        return left if left == right else _Join(True, left, right)

    def disjunction(self, left: _Test, right: _Test) -> _Test:
        """Return ``left or right``."""
        if isinstance(left, bool):
            return True if left else right
        if isinstance(right, bool):
            return True if right else left
        return left if left == right else _Join(False, left, right)

    def negation(self, value: _Test) -> _Test:
        """Return ``not value``, inside out."""
        match value:
            case bool():
                return not value
            case _AtMostZero(inner):
                return _AtMostZero(add(scale(inner, -1), constant(1)))
            case _Join(both, left, right):
                return _Join(not both, self.negation(left), self.negation(right))

    def cond(self, test: _Test) -> Cond:
        """Return a test as a condition."""
        match test:
            case bool():
                return test
            case _AtMostZero(value):
                return compare("<=", value, constant(0), self.ranges)
            case _Join(both, left, right):
                join = conjunction if both else either
                return join(self.cond(left), self.cond(right))


def skip_test(condition: Expr, env: Env, ranges: Ranges, symbols: Mapping[str, float]) -> Cond:
    """Return a test that is true unless a condition holds nowhere in what loops leave.

    Args:
        condition: over rank variables.
        env: what is left of them.
        ranges: of the loop variables.
        symbols: upper-case name → value.
    """
    algebra = _LinAlgebra(ranges)
    box: dict[str, tuple[Lin, Lin]] = {}
    for name, left in env.items():
        last = constant(left.size - 1)
        for limit in left.limits:
            last = minimum(last, subtract(limit, constant(1)), ranges)
        box[name] = (left.start, add(left.start, last))
    try:
        return algebra.cond(possible(condition, box, algebra, symbols))
    except _FractionError:
        return True


def conjuncts(cond: Cond) -> tuple[Cond, ...]:
    """Return the conditions that a condition is the conjunction of."""
    match cond:
        case Op("and", (left, right)):
            return (*conjuncts(left), *conjuncts(right))
        case _:
            return (cond,)

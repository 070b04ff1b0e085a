"""Expressions of an Einsum → expressions of the loops IR, with presence.

The rules are those of `einsum_ir.evaluate`, point by point: coordinates and whole literals are
exact integers; a literal that meets a value is a value; an index, and a comparison that reads no
tensor, is decided exactly. A `Val` says of which kind an expression is, and under which conditions
it is present. Conditions are in an order in which each may be evaluated if those before
it hold: a load never comes before the condition that its indices are in range.

Excluded on purpose: where a tensor lives (a `Reader` knows), statements, reductions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from typing import Protocol

from penstock.codegen.loops.nodes import Const, LoopExpr, Op
from penstock.codegen.lower.index import (
    Cond,
    Lin,
    Ranges,
    add,
    atom,
    compare,
    constant,
    floor_divide,
    has_load,
    integer,
    maximum,
    minimum,
    modulo,
    multiply,
    range_of,
    scale,
    subtract,
    to_expr,
)
from penstock.einsum_ir.affine import affine
from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.nodes import Access, Apply, Expr, Num, Sym, Var, accesses
from penstock.einsum_ir.ops import OPERATORS
from penstock.einsum_ir.powers import as_products
from penstock.errors import DataError

__all__ = ["Present", "Reader", "Translator", "Val", "as_cond", "both", "joined"]

Present = tuple[Cond, ...]
"""Conditions, in order, all of which must hold; none means present everywhere."""


class Reader(Protocol):
    """Knows where the elements of tensors are."""

    def dims(self, tensor: str) -> tuple[int, ...]:
        """Return the extents of a tensor."""

    def whole(self, tensor: str) -> bool:
        """Whether the elements are coordinates (whole numbers kept as they are given)."""

    def load(self, tensor: str, indices: tuple[Lin, ...]) -> LoopExpr:
        """Return the element at indices that are in range."""

    def present(self, tensor: str, indices: tuple[Lin, ...]) -> Present:
        """Return when the element at indices that are in range is present."""


@dataclass(frozen=True, slots=True)
class Val:
    """An expression: an integer (`lin`), a truth value (`cond`) or a value (`real`).

    ``literal`` integers were written by the user; they become what they meet.
    """

    lin: Lin | None = None
    cond: Cond | None = None
    real: LoopExpr | None = None
    literal: bool = False
    present: Present = ()


def both(*parts: Present) -> Present:
    """Return the conditions of all parts, in order, each once."""
    found = dict.fromkeys(cond for part in parts for cond in part if cond is not True)
    return (False,) if False in found else tuple(found)


def as_cond(cond: Cond) -> LoopExpr:
    """Return a condition as an expression."""
    return integer(int(cond)) if isinstance(cond, bool) else cond


def joined(present: Present) -> Cond:
    """Return one condition that is all of them, and evaluates a load only where it may."""
    result: Cond = True
    for cond in reversed(both(present)):
        if result is True or cond is False:
            result = cond
        elif result is not False:
            first, rest = as_cond(cond), as_cond(result)
            lazy = has_load(rest)
            result = Op("where", (first, rest, first)) if lazy else Op("and", (first, rest))
    return result


def either(left: Cond, right: Cond) -> Cond:
    """Return whether one holds; the right one is evaluated only where the left one does not."""
    if isinstance(left, bool):
        return left or right
    if isinstance(right, bool):
        return True if right else left
    lazy = has_load(right)
    return Op("where", (left, left, right)) if lazy else Op("or", (left, right))


_INTEGER: dict[str, Callable[..., Lin]] = {
    "+": lambda r, a, b: add(a, b),
    "-": lambda r, a, b: subtract(a, b),
    "*": lambda r, a, b: multiply(a, b),
    "neg": lambda r, a: scale(a, -1),
    "//": lambda r, a, b: floor_divide(a, b, r),
    "%": lambda r, a, b: modulo(a, b, r),
    "max": lambda r, a, b: maximum(a, b, r),
    "min": lambda r, a, b: minimum(a, b, r),
    "clamp": lambda r, a, low, high: minimum(maximum(a, low, r), high, r),
    "abs": lambda r, a: _absolute(a, r),
    "sq": lambda r, a: multiply(a, a),
    "relu": lambda r, a: maximum(a, constant(0), r),
    "step": lambda r, a: _as_number(compare(">=", a, constant(0), r)),
    "sign": lambda r, a: subtract(
        _as_number(compare(">", a, constant(0), r)), _as_number(compare("<", a, constant(0), r))
    ),
    "floor": lambda r, a: a,
    "round": lambda r, a: a,
    "bitlen": lambda r, a: _bit_length(_absolute(a, r), r),
}


def _as_number(cond: Cond) -> Lin:
    return constant(int(cond)) if isinstance(cond, bool) else atom(cond)


def _absolute(value: Lin, ranges: Ranges) -> Lin:
    low, high = range_of(value, ranges)
    if low >= 0:
        return value
    return scale(value, -1) if high <= 0 else atom(Op("abs", (to_expr(value),)))


def _bit_length(value: Lin, ranges: Ranges) -> Lin:
    """Count the powers of two that a number which is not negative reaches."""
    _, high = range_of(value, ranges)
    bits = 63 if math.isinf(high) else int(high).bit_length()
    reached = (compare(">=", value, constant(1 << bit), ranges) for bit in range(bits))
    return reduce(add, (_as_number(each) for each in reached), constant(0))


@dataclass(frozen=True)
class Translator:
    """Translates the expressions of one Einsum at one point.

    Args:
        coordinates: rank variable → its coordinate.
        ranges: of the loop variables around the point.
        symbols: upper-case name → value.
        reader: where tensors are.
        fmt: of the values.
        extents: of the rank variables, which the coordinates never leave.
    """

    coordinates: Mapping[str, Lin]
    ranges: Ranges
    symbols: Mapping[str, float]
    reader: Reader
    fmt: Format
    extents: Mapping[str, int]

    def predicate(self, expr: Expr) -> Present:
        """Return when a predicate holds; where it reads an absent element it does not."""
        value = self.value(expr)
        return both(value.present, self._conjuncts(expr, value))

    def _conjuncts(self, expr: Expr, value: Val) -> Present:
        match expr:
            case Apply("and", (left, right)):
                sides = (self.value(left), self.value(right))
                parts = [self._conjuncts(e, v) for e, v in zip((left, right), sides, strict=True)]
                return both(*parts)
            case _:
                return (self.truth(value),)

    def value(self, expr: Expr) -> Val:
        """Translate any expression."""
        match expr:
            case Num(number):
                return self._number(number)
            case Sym(name):
                return self._number(self.symbols[name])
            case Var(name):
                return Val(lin=self.coordinates[name])
            case Access(tensor, indices):
                return self._access(tensor, indices)
            case Apply("where", (condition, then, otherwise)):
                return self._where(self.value(condition), self.value(then), self.value(otherwise))
            case Apply("fill", (inner, instead)):
                return self._fill(self.value(inner), self.value(instead))
            case Apply() if (products := as_products(expr)) is not None:
                return self.value(products)
            case Apply(op, args):
                return self._apply(expr, op, [self.value(arg) for arg in args])

    def indices(self, exprs: Sequence[Expr]) -> tuple[tuple[Lin, ...], Present]:
        """Return integer expressions as `Lin`, and when they are present."""
        values = [self.value(each) for each in exprs]
        present = both(*(each.present for each in values))
        found: list[Lin] = []
        for value in values:
            index, whole = self._index(value)
            found.append(index)
            present = both(present, whole)
        return tuple(found), present

    def _index(self, value: Val) -> tuple[Lin, Present]:
        if value.real is None:
            return self.integer(value), ()
        return atom(value.real), (Op("==", (value.real, Op("floor", (value.real,)))),)

    def integer(self, value: Val) -> Lin:
        """Return a coordinate or truth value as an integer."""
        if value.lin is not None:
            return value.lin
        return _as_number(self.truth(value))

    def truth(self, value: Val) -> Cond:
        """Return whether a value is not zero."""
        if value.cond is not None:
            return value.cond
        if value.lin is not None:
            return compare("!=", value.lin, constant(0), self.ranges)
        return Op("!=", (self.real(value), Const(0.0)))

    def real(self, value: Val) -> LoopExpr:
        """Return an expression in the compute type."""
        if value.real is not None:
            return value.real
        if value.lin is not None and value.literal:
            return Const(float(value.lin.constant))
        return Op("float", (to_expr(self.integer(value)),))

    def _number(self, number: float) -> Val:
        if float(number).is_integer() and abs(number) < 2**62:
            return Val(lin=constant(int(number)), literal=True)
        return Val(real=Const(float(number)))

    # -- accesses --------------------------------------------------------------------------

    def _access(self, tensor: str, exprs: tuple[Expr, ...]) -> Val:
        indices, present = self.indices(exprs)
        dims = self.reader.dims(tensor)
        inside = [self._inside(*each) for each in zip(exprs, indices, dims, strict=True)]
        present = both(present, *inside)
        if False in present:
            return Val(lin=constant(0), present=(False,))
        present = both(present, self.reader.present(tensor, indices))
        load = self.reader.load(tensor, indices)
        if self.reader.whole(tensor):
            return Val(lin=atom(load), present=present)
        return Val(real=load, present=present)

    def _inside(self, expr: Expr, index: Lin, dim: int) -> Present:
        """Return when an index is a coordinate of a dimension."""
        form = affine(expr, self.symbols)
        low, high = -math.inf, math.inf
        if form is not None and all(name in self.extents for name, _ in form.coefficients):
            low, high = form.minimum(self.extents), form.maximum(self.extents)
        first = low >= 0 or compare(">=", index, constant(0), self.ranges)
        last = high < dim or compare("<", index, constant(dim), self.ranges)
        return (first, last)

    # -- operators -------------------------------------------------------------------------

    def _apply(self, expr: Apply, op: str, args: list[Val]) -> Val:
        present = both(*(arg.present for arg in args))
        kind = OPERATORS[op].kind
        if kind == "logic":
            return Val(cond=_logic(op, [self.truth(arg) for arg in args]), present=present)
        exact = all(arg.real is None for arg in args)
        if kind == "comparison":
            return Val(cond=self._compare(expr, op, args, exact=exact), present=present)
        if exact and op == "**" and args[1].literal and args[1].lin is not None:
            return self._power(args[0], args[1].lin.constant, present)
        if exact and op in _INTEGER:
            return self._integers(op, args, present)
        if op == "bitlen":
            raise DataError(
                f"'{expr}' takes the bits of a value that is computed",
                span=expr.span,
                fix="generated code has bitlen of coordinates, shapes and index tensors only",
            )
        return Val(real=Op(op, tuple(self.real(arg) for arg in args)), present=present)

    def _integers(self, op: str, args: list[Val], present: Present) -> Val:
        numbers = [self.integer(arg) for arg in args]
        if op in ("//", "%"):
            nonzero = compare("!=", numbers[1], constant(0), self.ranges)
            present = both(present, (nonzero,))
            if nonzero is False:
                return Val(lin=constant(0), present=(False,))
        literal = all(arg.literal for arg in args)
        return Val(lin=_INTEGER[op](self.ranges, *numbers), literal=literal, present=present)

    def _power(self, base: Val, exponent: int, present: Present) -> Val:
        if exponent < 0:
            args = (self.real(base), Const(float(exponent)))
            return Val(real=Op("**", args), present=present)
        result = constant(1)
        for _ in range(exponent):
            result = multiply(result, self.integer(base))
        return Val(lin=result, literal=base.literal, present=present)

    def _compare(self, expr: Apply, op: str, args: list[Val], *, exact: bool) -> Cond:
        if exact:
            left, right = (self.integer(arg) for arg in args)
            return compare(op, left, right, self.ranges)
        if not accesses(expr):
            found = self._rational(expr.args[0]), self._rational(expr.args[1])
            if found[0] is not None and found[1] is not None:
                (left, a), (right, b) = found[0], found[1]
                return compare(op, scale(left, b), scale(right, a), self.ranges)
            if self.fmt.exact:
                raise DataError(
                    f"the comparison '{expr}' is not one of whole numbers or fractions of them, "
                    f"and {self.fmt} cannot decide it",
                    span=expr.span,
                    fix="compare sums and multiples of rank variables, or use fp32",
                )
        return Op(op, tuple(self.real(arg) for arg in args))

    def _rational(self, expr: Expr) -> tuple[Lin, int] | None:
        """Return (numerator, denominator) of an expression of coordinates and constants."""
        match expr:
            case Num(number):
                return _fraction(number)
            case Sym(name):
                return _fraction(self.symbols[name])
            case Apply("+" | "-" | "*" | "/" | "neg" as op, args):
                parts = [self._rational(arg) for arg in args]
                known = [part for part in parts if part is not None]
                return _combined(op, known) if len(known) == len(parts) else None
            case _:
                value = self.value(expr)
                return (self.integer(value), 1) if value.real is None else None

    def _select(self, condition: Cond, then: Val, otherwise: Val) -> Val:
        if condition is True or condition is False:
            return then if condition else otherwise
        test = as_cond(condition)
        if then.real is None and otherwise.real is None:
            sides = (to_expr(self.integer(then)), to_expr(self.integer(otherwise)))
            return Val(lin=atom(Op("where", (test, *sides))))
        return Val(real=Op("where", (test, self.real(then), self.real(otherwise))))

    def _where(self, condition: Val, then: Val, otherwise: Val) -> Val:
        test = self.truth(condition)
        chosen = self._select(test, then, otherwise)
        if isinstance(test, bool):
            side = then if test else otherwise
            return _with_present(chosen, both(condition.present, side.present))
        if not then.present and not otherwise.present:
            return _with_present(chosen, condition.present)
        sides = (as_cond(joined(then.present)), as_cond(joined(otherwise.present)))
        return _with_present(chosen, both(condition.present, (Op("where", (test, *sides)),)))

    def _fill(self, inner: Val, instead: Val) -> Val:
        if not inner.present:
            return inner
        there = joined(inner.present)
        chosen = self._select(there, inner, instead)
        if not instead.present:
            return _with_present(chosen, ())
        return _with_present(chosen, (either(there, joined(instead.present)),))


def _with_present(value: Val, present: Present) -> Val:
    return Val(value.lin, value.cond, value.real, literal=False, present=both(present))


def _logic(op: str, args: list[Cond]) -> Cond:
    if op == "not":
        only = args[0]
        return not only if isinstance(only, bool) else Op("not", (only,))
    left, right = args
    stops = op == "or"  # the value of one side that decides
    if isinstance(left, bool):
        return stops if left is stops else right
    if isinstance(right, bool):
        return stops if right is stops else left
    return Op(op, (left, right))


_DENOMINATOR = 2**16
"""Largest denominator with which a fraction is compared exactly in machine words."""


def _fraction(number: float) -> tuple[Lin, int] | None:
    try:
        exact = Fraction(number)
    except (OverflowError, ValueError):  # infinite, NaN
        return None
    if exact.denominator > _DENOMINATOR or abs(exact.numerator) > 2**40:
        return None
    return constant(exact.numerator), exact.denominator


def _combined(op: str, parts: list[tuple[Lin, int]]) -> tuple[Lin, int] | None:
    a, b = parts[0]
    if op == "neg":
        return scale(a, -1), b
    c, d = parts[1]
    match op:
        case "*":
            return _bounded(multiply(a, c), b * d)
        case "/":
            if not c.fixed or c.constant == 0:
                return None
            sign = 1 if c.constant > 0 else -1
            return _bounded(scale(a, d * sign), b * abs(c.constant))
        case _:
            right = scale(c, b)
            return _bounded((add if op == "+" else subtract)(scale(a, d), right), b * d)


def _bounded(numerator: Lin, denominator: int) -> tuple[Lin, int] | None:
    return (numerator, denominator) if denominator <= _DENOMINATOR else None

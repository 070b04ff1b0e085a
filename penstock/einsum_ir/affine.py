"""Integer expressions over rank variables: affine form and interval bounds.

Used to infer shapes, to prove accesses in range, and to decide tiles. Knows no tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from penstock.einsum_ir.nodes import Access, Apply, Expr, Num, Sym, Var, format_number
from penstock.errors import CascadeError

__all__ = ["Affine", "affine", "evaluate_scalar"]


@dataclass(frozen=True, slots=True)
class Affine:
    """``sum(coefficient * variable) + constant``; variables with coefficient 0 are left out."""

    coefficients: tuple[tuple[str, int], ...]
    constant: int

    def minimum(self, extents: Mapping[str, int]) -> int:
        """Return the smallest value when each variable ranges over ``0 .. extent - 1``."""
        return self.constant + sum(
            min(0, factor * (extents[name] - 1)) for name, factor in self.coefficients
        )

    def maximum(self, extents: Mapping[str, int]) -> int:
        """Return the largest value when each variable ranges over ``0 .. extent - 1``."""
        return self.constant + sum(
            max(0, factor * (extents[name] - 1)) for name, factor in self.coefficients
        )


def affine(expr: Expr, symbols: Mapping[str, float]) -> Affine | None:
    """Return the affine form of an index expression, or None if it has none.

    Args:
        expr: an integer expression over rank variables.
        symbols: values of the upper-case names (shapes and constants).
    """
    match expr:
        case Num(value) if float(value).is_integer():
            return Affine((), int(value))
        case Var(name):
            return Affine(((name, 1),), 0)
        case Sym(name) if name in symbols and float(symbols[name]).is_integer():
            return Affine((), int(symbols[name]))
        case Apply("+" | "-" | "*" | "neg", args):
            parts = [affine(arg, symbols) for arg in args]
            known = [part for part in parts if part is not None]
            return _combine(expr.op, known) if len(known) == len(parts) else None
        case Apply("//" | "%" | "max" | "min"):
            found = evaluate_scalar(expr, symbols)  # as W // 2: a number without variables
            if found is None or not float(found).is_integer():
                return None
            return Affine((), int(found))
        case _:
            return None


def _combine(op: str, parts: list[Affine]) -> Affine | None:
    if op == "neg":
        return _scale(parts[0], -1)
    left, right = parts
    if op == "*":
        if not left.coefficients:
            return _scale(right, left.constant)
        return _scale(left, right.constant) if not right.coefficients else None
    return _add(left, _scale(right, -1) if op == "-" else right)


def _scale(part: Affine, factor: int) -> Affine:
    if factor == 0:
        return Affine((), 0)
    scaled = tuple((name, each * factor) for name, each in part.coefficients)
    return Affine(scaled, part.constant * factor)


def _add(left: Affine, right: Affine) -> Affine:
    total = dict(left.coefficients)
    for name, factor in right.coefficients:
        total[name] = total.get(name, 0) + factor
    kept = tuple((name, factor) for name, factor in total.items() if factor)
    return Affine(kept, left.constant + right.constant)


def _power(base: float, exponent: float) -> float:
    value = math.pow(base, exponent)
    exact = value.is_integer() and abs(value) < 1e15
    return int(value) if exact and isinstance(base, int) else value


_SCALAR: dict[str, Callable[..., float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "**": _power,
    "neg": lambda a: -a,
    "==": lambda a, b: int(a == b),
    "!=": lambda a, b: int(a != b),
    "<": lambda a, b: int(a < b),
    "<=": lambda a, b: int(a <= b),
    ">": lambda a, b: int(a > b),
    ">=": lambda a, b: int(a >= b),
    "and": lambda a, b: int(bool(a) and bool(b)),
    "or": lambda a, b: int(bool(a) or bool(b)),
    "not": lambda a: int(not a),
    "max": max,
    "min": min,
    "clamp": lambda a, low, high: min(max(a, low), high),
    "where": lambda condition, then, otherwise: then if condition else otherwise,
    "abs": abs,
    "sign": lambda a: (a > 0) - (a < 0),
    "bitlen": lambda a: int(abs(a)).bit_length(),
    "step": lambda a: int(a >= 0),
    "floor": math.floor,
    "round": lambda a: math.floor(a + 0.5),
    "sq": lambda a: a * a,
    "sqrt": math.sqrt,
    "rsqrt": lambda a: 1 / math.sqrt(a),
    "log": math.log,
    "log2": math.log2,
    "exp": math.exp,
    "exp2": lambda a: math.pow(2.0, a),
    "sin": math.sin,
    "cos": math.cos,
    "tanh": math.tanh,
    "erf": math.erf,
}


def evaluate_scalar(expr: Expr, symbols: Mapping[str, float]) -> float | None:
    """Return the value of an expression of numbers and named scalars, or None if one is unknown.

    None as well for tensors, rank variables and the operators of neural networks (``relu`` ...).

    Raises:
        CascadeError: it has no value, as ``1 / 0`` or ``sqrt(-1)``.
    """
    match expr:
        case Num(value):
            return value
        case Sym(name):
            return symbols.get(name)
        case Apply(op, args) if op in _SCALAR:
            values = [evaluate_scalar(arg, symbols) for arg in args]
            known = [value for value in values if value is not None]
            return _apply(expr, known) if len(known) == len(values) else None
        case Var() | Access() | Apply():
            return None


def _apply(expr: Apply, values: list[float]) -> float:
    try:
        result = _SCALAR[expr.op](*values)
    except (ZeroDivisionError, OverflowError, ValueError):
        result = math.nan
    if math.isnan(result):
        operands = ", ".join(format_number(value) for value in values)
        raise CascadeError(
            f"'{expr}' has no value: {expr.op} of {operands}",
            span=expr.span,
            fix="change the constants or shapes that it is made of",
        )
    return result

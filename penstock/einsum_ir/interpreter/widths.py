"""How wide an exact fixed-point value can become: the ap_fixed type that holds it.

The bounds follow from the expression and the extents, not from data, and are those by which
hardware must be built. ``Width(integer, fraction)`` holds ``n / 2^fraction`` with
``-2^(integer-1) <= n / 2^fraction <= 2^(integer-1) - 2^-fraction``: ``ap_fixed<integer + fraction,
integer>``.

Excluded on purpose: arrays, and intervals tighter than a power of two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from penstock.einsum_ir.affine import affine
from penstock.einsum_ir.formats import Format, tensor_formats
from penstock.einsum_ir.interpreter.rounding import (
    check_formats,
    grid,
    stripped,
    to_fixed,
    unsupported,
)
from penstock.einsum_ir.nodes import Access, Apply, Einsum, Expr, Num, Sym, Var
from penstock.einsum_ir.ops import OPERATORS
from penstock.einsum_ir.shapes import Bound
from penstock.errors import DataError

__all__ = ["Width", "accumulator_bits", "value_width"]


@dataclass(frozen=True, slots=True)
class Width:
    """Integer bits (sign included) and fraction bits."""

    integer: int
    fraction: int

    @property
    def bits(self) -> int:
        """Bits in all."""
        return self.integer + self.fraction


BIT = Width(2, 0)

FUNCTIONS = frozenset(
    ("/", "exp", "exp2", "log", "log2", "sqrt", "rsqrt", "sigmoid", "silu", "tanh")
)
"""The operators whose result is a number of the format (`numerics.py`)."""


def accumulator_bits(einsum: Einsum, bound: Bound, fmt: Format) -> tuple[int, int]:
    """Return the ap_fixed width that makes the reduction of an Einsum exact.

    Args:
        einsum: of the cascade; one without reduction gives the width of its body.
        bound: the cascade with its extents.
        fmt: a fixed format.

    Returns:
        (W, I) of the ``ap_fixed<W, I>`` that holds every partial sum, product or extremum, and
        the format of the tensor itself.

    Raises:
        DataError: a float format, or an operator that fixed point does not have.
    """
    if not fmt.exact:
        raise DataError(
            f"{einsum.name} has no accumulator width in {fmt}", fix="give a format fixed<W,I>"
        )
    width = value_width(einsum.body, bound, fmt)
    if einsum.reduce is not None:
        points = math.prod(bound.extents[name] for name in einsum.reduce.over)
        match einsum.reduce.op:
            case "sum" | "mean":
                width = Width(width.integer + (points - 1).bit_length(), width.fraction)
            case "prod":
                width = Width(width.integer * points, width.fraction * points)
            case _:
                pass
    joined = _widest(width, _element(einsum.name, bound, fmt))
    return joined.bits, joined.integer


def value_width(expr: Expr, bound: Bound, fmt: Format) -> Width:
    """Return the width of an expression's exact value in a fixed format.

    Raises:
        DataError: an operator that fixed point does not have.
    """
    form = affine(expr, bound.symbols)
    if form is not None and form.coefficients:
        low, high = form.minimum(bound.extents), form.maximum(bound.extents)
        return _holding(low, high)
    match expr:
        case Num(value):
            return _constant(value, fmt)
        case Sym(name):
            return _constant(bound.symbols[name], fmt)
        case Var(name):
            return _holding(0, bound.extents[name] - 1)
        case Access(tensor):
            return _element(tensor, bound, fmt)
        case Apply(op, args):
            return _applied(op, args, bound, fmt)


def _element(tensor: str, bound: Bound, fmt: Format) -> Width:
    """Return the width of an element of a tensor in a run in `fmt`."""
    own = tensor_formats(bound.cascade.formats).get(tensor, fmt)
    if own.kind != "float" and own.signed:
        return Width(own.integer_bits, own.fraction_bits)
    check_formats({tensor: own}, fmt)
    found = grid(own)
    assert found is not None
    fraction, bits = found
    return Width(bits - fraction + 1, fraction)


def _holding(low: int, high: int) -> Width:
    return Width(max((-low - 1).bit_length() if low < 0 else 0, high.bit_length()) + 1, 0)


def _constant(value: float, fmt: Format) -> Width:
    whole = int(to_fixed(np.asarray(value), fmt))
    integer, fraction = stripped(whole, fmt.fraction_bits)
    bits = (-integer - 1 if integer < 0 else integer).bit_length() + 1
    return Width(max(bits - fraction, 1), fraction)


def _widest(*widths: Width) -> Width:
    return Width(max(each.integer for each in widths), max(each.fraction for each in widths))


def _applied(op: str, args: tuple[Expr, ...], bound: Bound, fmt: Format) -> Width:
    if OPERATORS[op].kind in ("comparison", "logic"):
        return BIT
    if op in FUNCTIONS:
        return Width(fmt.integer_bits, fmt.fraction_bits)
    if op == "**":
        return _power(args, bound, fmt)
    values = args[1:] if op == "where" else args
    return _exact(op, [value_width(arg, bound, fmt) for arg in values], fmt)


def _exact(op: str, widths: list[Width], fmt: Format) -> Width:
    """Return the width of an exact operator's result."""
    first, widest = widths[0], _widest(*widths)
    match op:
        case "+" | "-":
            return Width(widest.integer + 1, widest.fraction)
        case "*":
            second = widths[1]
            return Width(first.integer + second.integer, first.fraction + second.fraction)
        case "sq":
            return Width(2 * first.integer, 2 * first.fraction)
        case "neg" | "abs":
            return Width(first.integer + 1, first.fraction)
        case "max" | "min" | "clamp" | "where" | "fill" | "%" | "relu":
            return widest
        case "//":
            return _widest(first, Width(fmt.integer_bits, fmt.fraction_bits))
        case "sign" | "step":
            return BIT
        case "bitlen":
            return Width(7, 0)
        case "floor" | "round":
            return Width(first.integer + 1, 0)
        case _:
            raise unsupported(op, fmt)


def _power(args: tuple[Expr, ...], bound: Bound, fmt: Format) -> Width:
    form = affine(args[1], bound.symbols)
    if form is None or form.coefficients or form.constant < 0:
        raise unsupported("**", fmt)
    base = value_width(args[0], bound, fmt)
    return Width(max(base.integer * form.constant, 2), base.fraction * form.constant)

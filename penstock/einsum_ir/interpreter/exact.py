"""Fixed point inside an Einsum: exact sums and products of integers of any width.

A value is ``n / 2^f``: `Number.data` holds the n (int64, or Python's integers where 62 bits do not
suffice), `Number.fraction` the f of the whole array. ``+ - * max min
clamp abs neg sq relu sign step floor round %``, comparisons, ``**`` by a whole constant, and sums
and products over ranks are exact. Every other operator gives a number of the format, by the
integer algorithms of `numerics.py`. Stored elements are int64 with the format's fraction bits;
those of a tensor in a float format have the fraction bits of its `grid`.

Sums of products go through BLAS in float64 where 53 bits suffice, and in pieces where not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.interpreter.arithmetic import Number
from penstock.einsum_ir.interpreter.numerics import (
    FIXED_FUNCTIONS,
    divide_fixed,
    floor_divide_exact,
)
from penstock.einsum_ir.interpreter.rounding import (
    WORD,
    Array,
    as_wide,
    from_fixed,
    grid,
    needs_bits,
    quantise,
    round_fixed,
    round_half_up,
    stripped,
    to_fixed,
    unsupported,
)
from penstock.errors import DataError

__all__ = ["FixedArithmetic"]

MANTISSA = 53
"""Integers of at most this many bits are exact in float64."""


def _tight(number: Number) -> Number:
    """Look at the data where the bound on its width would need more than a machine word."""
    if number.bits <= WORD:
        return number
    bits = needs_bits(number.data)
    return replace(number, data=as_wide(number.data, bits), bits=bits)


def _aligned(*numbers: Number) -> tuple[list[Array], int, int]:
    """Return the integers of all at the largest fraction, that fraction, and their bits."""
    fraction = max(each.fraction for each in numbers)
    bits = max(each.bits + fraction - each.fraction for each in numbers)
    if bits >= WORD:
        numbers = tuple(replace(each, bits=needs_bits(each.data)) for each in numbers)
        bits = max(each.bits + fraction - each.fraction for each in numbers)
    wide = [as_wide(each.data, bits + 1) << (fraction - each.fraction) for each in numbers]
    return wide, fraction, bits


def _add(a: Number, b: Number) -> Number:
    (x, y), fraction, bits = _aligned(a, b)
    return Number(np.asarray(x + y), "real", fraction, bits + 1)


def _subtract(a: Number, b: Number) -> Number:
    (x, y), fraction, bits = _aligned(a, b)
    return Number(np.asarray(x - y), "real", fraction, bits + 1)


def _multiply(a: Number, b: Number) -> Number:
    if a.bits + b.bits > WORD:
        a, b = (replace(each, bits=needs_bits(each.data)) for each in (a, b))
    bits = a.bits + b.bits
    data = as_wide(a.data, bits) * as_wide(b.data, bits)
    return Number(np.asarray(data), "real", a.fraction + b.fraction, bits)


def _choose(choice: Callable[..., Any]) -> Callable[..., Number]:
    def apply(*numbers: Number) -> Number:
        wide, fraction, bits = _aligned(*numbers)
        return Number(np.asarray(choice(*wide)), "real", fraction, bits)

    return apply


def _compare(ufunc: Callable[..., Any]) -> Callable[..., Number]:
    def apply(a: Number, b: Number) -> Number:
        (x, y), _, _ = _aligned(a, b)
        return Number(np.asarray(ufunc(x, y), dtype=np.bool_), "integer")

    return apply


def _same(function: Callable[[Array], Any]) -> Callable[[Number], Number]:
    def apply(number: Number) -> Number:
        return replace(number, data=np.asarray(function(number.data)))

    return apply


def _whole(data: Array, bits: int) -> Number:
    return _tight(Number(np.asarray(data), "real", 0, bits))


def _bit_length(data: Array) -> Array:
    return np.asarray(np.frexp(data.astype(np.float64))[1].astype(np.int64))


def _modulo(a: Number, b: Number) -> Number:
    """Return ``a - b * floor(a / b)``, 0 where b is 0."""
    floor = floor_divide_exact(a.data, a.fraction, b.data, b.fraction)
    rest = _subtract(a, _multiply(b, _whole(floor, needs_bits(floor))))
    return replace(rest, data=np.asarray(np.where(b.data == 0, 0, rest.data)))


_EXACT: dict[str, Callable[..., Number]] = {
    "+": _add,
    "-": _subtract,
    "*": _multiply,
    "%": _modulo,
    "sq": lambda a: _multiply(a, a),
    "max": _choose(np.maximum),
    "min": _choose(np.minimum),
    "clamp": _choose(lambda x, low, high: np.minimum(np.maximum(x, low), high)),
    "neg": _same(np.negative),
    "abs": _same(np.abs),
    "relu": _same(lambda x: np.maximum(x, 0)),
    "sign": lambda a: _whole((a.data > 0).astype(np.int64) - (a.data < 0), 1),
    "bitlen": lambda a: _whole(_bit_length(np.abs(a.data) >> a.fraction), 7),
    "step": lambda a: _whole((a.data >= 0).astype(np.int64), 1),
    "floor": lambda a: _whole(a.data >> a.fraction, a.bits),
    "round": lambda a: _whole(round_half_up(a.data, a.fraction), a.bits + 1),
    "==": _compare(np.equal),
    "!=": _compare(np.not_equal),
    "<": _compare(np.less),
    "<=": _compare(np.less_equal),
    ">": _compare(np.greater),
    ">=": _compare(np.greater_equal),
}

_FOLDS: dict[str, Any] = {"max": np.maximum.reduce, "min": np.minimum.reduce}


def _on_grid(data: Array, fmt: Format) -> Array:
    """Return the integers of numbers rounded to a float format."""
    rounded = quantise(data, fmt).astype(np.float64)
    missing = int(np.count_nonzero(~np.isfinite(rounded)))
    if missing:
        raise DataError(
            f"{missing} of {rounded.size} numbers are NaN or infinite in {fmt}, and fixed point "
            "has no such numbers",
            fix="replace or scale them, or run it in fp32",
        )
    return np.ldexp(rounded, _grid(fmt)[0]).astype(np.int64)


def _grid(fmt: Format) -> tuple[int, int]:
    found = grid(fmt)
    assert found is not None  # check_formats
    return found


def _narrowed(number: Number) -> Array:
    """Return values as float64, those that exceed it rounded to odd, so that none is rounded twice.

    Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", IEEE TC 2008.
    """
    shift = max(needs_bits(number.data) - MANTISSA, 0)
    kept = number.data >> shift
    odd = np.where(kept << shift == number.data, kept, kept | 1)
    return np.asarray(np.ldexp(odd.astype(np.float64), shift - number.fraction))


@dataclass(frozen=True, slots=True)
class FixedArithmetic:
    """Exact arithmetic on numbers of a fixed format."""

    fmt: Format

    def _result(self, data: Array) -> Number:
        return Number(data, "real", self.fmt.fraction_bits, self.fmt.bits)

    def constant(self, value: float) -> Number:
        """Return a constant rounded to the format; NaN is an error."""
        integer = int(to_fixed(np.asarray(value), self.fmt))
        integer, fraction = stripped(integer, self.fmt.fraction_bits)
        return Number(np.asarray(integer), "real", fraction, integer.bit_length())

    def integers(self, data: Array) -> Number:
        """Return integers, which are exact."""
        whole = data.astype(np.int64)
        return Number(whole, "real", 0, needs_bits(whole))

    def encode(self, data: Array, fmt: Format | None = None) -> Array:
        """Return the integers of an input array rounded to the format."""
        fmt = fmt or self.fmt
        return _on_grid(data, fmt) if fmt.kind == "float" else to_fixed(data, fmt)

    def load(self, stored: Array, fmt: Format | None = None) -> Number:
        """Return stored elements."""
        return Number(stored, "real", *_grid(fmt or self.fmt))

    def store(self, number: Number, fmt: Format | None = None) -> Array:
        """Round as the format does."""
        fmt = fmt or self.fmt
        if fmt.kind == "float":
            return _on_grid(_narrowed(number), fmt)
        return round_fixed(number.data, number.fraction, fmt)

    def decode(self, stored: Array, fmt: Format | None = None) -> Array:
        """Return the values in the type that `quantise` returns."""
        fmt = fmt or self.fmt
        if fmt.kind == "float":
            return quantise(np.ldexp(stored.astype(np.float64), -_grid(fmt)[0]), fmt)
        return from_fixed(stored, fmt)

    def apply(self, op: str, args: Sequence[Number]) -> Number:
        """Apply an operator exactly, or by its integer algorithm.

        Raises:
            DataError: the operator has no fixed-point form.
        """
        if op in _EXACT:
            return _EXACT[op](*(_tight(each) for each in args))
        if op in FIXED_FUNCTIONS:
            return self._result(FIXED_FUNCTIONS[op](args[0].data, args[0].fraction, self.fmt))
        if op in ("/", "//"):
            return self._divide(op, *args)
        if op == "**":
            return self._power(*args)
        raise unsupported(op, self.fmt)

    def _divide(self, op: str, a: Number, b: Number) -> Number:
        quotient = divide_fixed(a.data, a.fraction, b.data, b.fraction, self.fmt)
        if op == "//":
            floor = floor_divide_exact(a.data, a.fraction, b.data, b.fraction)
            rounded = round_fixed(floor, 0, self.fmt)
            quotient = np.where(b.data == 0, quotient, rounded).astype(np.int64)
        return self._result(quotient)

    def _power(self, base: Number, exponent: Number) -> Number:
        whole, fraction = exponent.data, exponent.fraction
        if whole.size != 1 or fraction or int(whole.reshape(-1)[0]) < 0:
            raise unsupported("**", self.fmt)
        result = self.integers(np.ones((1,) * base.data.ndim, dtype=np.int64))
        for _ in range(int(whole.reshape(-1)[0])):
            result = _multiply(_tight(result), base)
        return result

    def select(self, condition: Array, then: Number, otherwise: Number) -> Number:
        """Choose point by point."""
        (x, y), fraction, bits = _aligned(then, otherwise)
        return Number(np.where(condition, x, y), "real", fraction, bits)

    def aligned(self, numbers: Sequence[Number]) -> list[Number]:
        """Return the same numbers at the largest of their fractions."""
        if all(each.fraction == numbers[0].fraction for each in numbers):
            return list(numbers)
        wide, fraction, bits = _aligned(*numbers)
        return [Number(each, "real", fraction, bits) for each in wide]

    def fold(self, op: str, number: Number, axes: tuple[int, ...]) -> Number:
        """Fold exactly."""
        if op in _FOLDS:
            return replace(number, data=_FOLDS[op](number.data, axis=axes, keepdims=True))
        if op == "*":
            return self._product(number, axes)
        bits = number.bits + _log2(_points(number.data, axes))
        if bits > WORD:
            bits = needs_bits(number.data) + _log2(_points(number.data, axes))
        data = np.add.reduce(as_wide(number.data, bits), axis=axes, keepdims=True)
        return _tight(replace(number, data=data, bits=bits))

    def _product(self, number: Number, axes: tuple[int, ...]) -> Number:
        for axis in axes:
            parts = [
                replace(number, data=number.data.take([place], axis=axis))
                for place in range(number.data.shape[axis])
            ]
            number = parts[0]
            for part in parts[1:]:
                number = _multiply(_tight(number), part)
        return number

    def matmul(self, left: Number, right: Number) -> Number:
        """Multiply exactly, with BLAS in pieces that float64 holds."""
        bits = left.bits + right.bits + _log2(left.data.shape[-1])
        if bits > MANTISSA:
            left, right = (replace(each, bits=needs_bits(each.data)) for each in (left, right))
            bits = left.bits + right.bits + _log2(left.data.shape[-1])
        data = _exact_matmul(left.data, right.data, left.bits, right.bits)
        return Number(data, "real", left.fraction + right.fraction, bits)

    def mean(self, total: Number, count: Array) -> Number:
        """Divide exactly, rounded half up to the format."""
        return self._result(divide_fixed(total.data, total.fraction, count, 0, self.fmt))

    def neutral(self, reduction: str, like: Number) -> Number:
        """Return what changes no fold of numbers within the bounds of `like`."""
        match reduction:
            case "max" | "min":
                huge = (-1 if reduction == "max" else 1) << like.bits
                data = np.asarray(huge, dtype=np.int64 if like.bits < WORD else object)
                return Number(data, "real", like.fraction, like.bits + 1)
            case "prod":
                return Number(np.asarray(1), "real", 0, 1)
            case _:
                return Number(np.asarray(0), "real", 0, 0)


def _points(data: Array, axes: tuple[int, ...]) -> int:
    return int(np.prod([data.shape[axis] for axis in axes], dtype=np.int64))


def _log2(count: int) -> int:
    return max(count - 1, 0).bit_length()


def _exact_matmul(left: Array, right: Array, left_bits: int, right_bits: int) -> Array:
    if left_bits + right_bits + _log2(left.shape[-1]) <= MANTISSA:
        product = np.matmul(left.astype(np.float64), right.astype(np.float64))
        return np.asarray(product.astype(np.int64))
    if left_bits < right_bits:
        swapped = _exact_matmul(
            right.swapaxes(-1, -2), left.swapaxes(-1, -2), right_bits, left_bits
        )
        return np.asarray(swapped.swapaxes(-1, -2))
    half = (left_bits + 1) // 2
    upper = _exact_matmul(left >> half, right, left_bits - half, right_bits)
    lower = _exact_matmul(left & ((1 << half) - 1), right, half, right_bits)
    bits = left_bits + right_bits + _log2(left.shape[-1])
    return np.asarray((as_wide(upper, bits) << half) + as_wide(lower, bits))

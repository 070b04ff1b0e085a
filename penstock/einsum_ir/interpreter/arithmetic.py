"""What the operators compute: on coordinates (integers), in floating point, in a wider float.

A `Number` is an array of values of one kind: ``integer`` (coordinates and what is made of them,
exact), ``literal`` (an integer that the user wrote: it becomes what it meets), or ``real`` (values
of the format that an `Arithmetic` computes in). `FloatArithmetic` is here, `FixedArithmetic` in
`exact.py`. Both know nothing of presence: that is `evaluate.py`.

Conventions: comparisons and ``and or not`` give 0 or 1; ``max`` and ``min`` pass NaN on; ``//`` and
``%`` floor; ``round`` rounds half up; ``step(x)`` is 1 for x >= 0, else 0; ``sign(0)`` is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.interpreter.rounding import Array, compute_type, quantise
from penstock.einsum_ir.ops import OPERATORS, REDUCTIONS

__all__ = [
    "Arithmetic",
    "FloatArithmetic",
    "Number",
    "apply_operator",
    "integer_number",
    "literal_number",
    "real",
    "truth",
]


@dataclass(frozen=True, slots=True)
class Number:
    """An array of values: ``data / 2^fraction``.

    Args:
        data: integers of kind ``integer`` and ``literal`` and in fixed point, else floats.
        kind: see the module docstring.
        fraction: fraction bits, in fixed point.
        bits: upper bound on the bits of any magnitude in `data`, in fixed point.
    """

    data: Array
    kind: Literal["real", "integer", "literal"] = "real"
    fraction: int = 0
    bits: int = 0


class Arithmetic(Protocol):
    """How real numbers are made, combined, summed and rounded in one number format.

    What stores and loads elements takes the format of a single tensor; None: that of the run.
    """

    def constant(self, value: float) -> Number:
        """Return a constant."""

    def integers(self, data: Array) -> Number:
        """Return integers or booleans as real numbers."""

    def encode(self, data: Array, fmt: Format | None = None) -> Array:
        """Return an input array as it is stored: rounded to the format."""

    def load(self, stored: Array, fmt: Format | None = None) -> Number:
        """Return stored elements as real numbers."""

    def store(self, number: Number, fmt: Format | None = None) -> Array:
        """Round to the format, as elements are stored."""

    def decode(self, stored: Array, fmt: Format | None = None) -> Array:
        """Return stored elements as an array of their values."""

    def apply(self, op: str, args: Sequence[Number]) -> Number:
        """Apply a point-wise operator to real numbers."""

    def select(self, condition: Array, then: Number, otherwise: Number) -> Number:
        """Return `then` where `condition` holds, else `otherwise`."""

    def aligned(self, numbers: Sequence[Number]) -> list[Number]:
        """Return the same numbers, all with the same fraction."""

    def fold(self, op: str, number: Number, axes: tuple[int, ...]) -> Number:
        """Fold with ``+``, ``*``, ``max`` or ``min`` over axes, which stay with size 1."""

    def matmul(self, left: Number, right: Number) -> Number:
        """Return the stacked matrix products."""

    def mean(self, total: Number, count: Array) -> Number:
        """Divide by how many points were summed; `count` is at least 1."""

    def neutral(self, reduction: str, like: Number) -> Number:
        """Return what changes no fold of such numbers with this reduction."""


def integer_number(data: Array) -> Number:
    """Return exact integers (int64) or truth values (bool)."""
    return Number(data, "integer")


def literal_number(value: int) -> Number:
    """Return an integer that the user wrote."""
    return Number(np.asarray(value, dtype=np.int64), "literal")


def truth(number: Number) -> Array:
    """Return where the number is not zero."""
    return number.data if number.data.dtype == np.bool_ else np.asarray(number.data != 0)


def real(arithmetic: Arithmetic, number: Number) -> Number:
    """Return the number as a real one: literals are rounded to the format, integers are not."""
    match number.kind:
        case "real":
            return number
        case "literal":
            return arithmetic.constant(float(number.data))
        case "integer":
            return arithmetic.integers(number.data)


def apply_operator(arithmetic: Arithmetic, op: str, args: Sequence[Number]) -> Number:
    """Apply any operator but ``where`` and ``fill`` to numbers of any kind.

    Integers stay integers where the operator allows it. A zero divisor of integers must have
    been replaced before.
    """
    if OPERATORS[op].kind == "logic":
        return integer_number(_LOGIC[op](*(truth(each) for each in args)))
    if op in _INTEGER and all(each.kind != "real" for each in args) and _closed(op, args):
        data = _INTEGER[op](*(_as_integers(each.data) for each in args))
        literal = all(each.kind == "literal" for each in args) and data.dtype != np.bool_
        return Number(data, "literal" if literal else "integer")
    return arithmetic.apply(op, [real(arithmetic, each) for each in args])


def _closed(op: str, args: Sequence[Number]) -> bool:
    return op != "**" or bool(np.all(args[1].data >= 0))


def _as_integers(data: Array) -> Array:
    return data.astype(np.int64) if data.dtype == np.bool_ else data


_LOGIC: dict[str, Callable[..., Array]] = {
    "and": np.logical_and,
    "or": np.logical_or,
    "not": np.logical_not,
}

_COMPARISONS: dict[str, Callable[..., Array]] = {
    "==": np.equal,
    "!=": np.not_equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}


def clamp(x: Array, low: Array, high: Array) -> Array:
    """Return ``min(max(x, low), high)``."""
    return np.asarray(np.minimum(np.maximum(x, low), high))


_EXACT: dict[str, Callable[..., Array]] = {
    **_COMPARISONS,
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "//": np.floor_divide,
    "%": np.mod,
    "**": np.power,
    "neg": np.negative,
    "abs": np.abs,
    "sq": np.square,
    "max": np.maximum,
    "min": np.minimum,
    "clamp": clamp,
    "sign": np.sign,
    "bitlen": lambda x: np.frexp(np.floor(np.abs(x)))[1].astype(x.dtype),
}
"""Operators that NumPy defines alike on integers and floats."""

_INTEGER: dict[str, Callable[..., Array]] = {
    **_EXACT,
    "relu": lambda x: np.maximum(x, 0),
    "step": lambda x: (x >= 0).astype(np.int64),
    "floor": lambda x: x,
    "round": lambda x: x,
}


def _round_half_up(x: Array) -> Array:
    floor = np.floor(x)
    return np.asarray(floor + (x - floor >= 0.5).astype(x.dtype))


_ERF = np.frompyfunc(math.erf, 1, 1)


def _erf(x: Array) -> Array:
    return np.asarray(_ERF(x)).astype(x.dtype)


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _gelu(x: Array) -> Array:
    return np.asarray(x * (1 + _erf(x * x.dtype.type(math.sqrt(0.5)))) / 2)


_FLOAT: dict[str, Callable[..., Array]] = {
    **_EXACT,
    "/": np.true_divide,
    "exp": np.exp,
    "exp2": np.exp2,
    "log": np.log,
    "log2": np.log2,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
    "erf": _erf,
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "gelu": _gelu,
    "softplus": lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
    "relu": lambda x: np.maximum(x, 0),
    "step": lambda x: (x >= 0).astype(x.dtype),
    "floor": np.floor,
    "round": _round_half_up,
}

_FOLDS: dict[str, Any] = {
    "+": np.add.reduce,
    "*": np.multiply.reduce,
    "max": np.maximum.reduce,
    "min": np.minimum.reduce,
}


@dataclass(frozen=True, slots=True)
class FloatArithmetic:
    """Floating point: computed in fp32 (fp64 for fp64), rounded to the format when stored."""

    fmt: Format

    def _cast(self, data: Array) -> Array:
        return np.asarray(data, dtype=compute_type(self.fmt))

    def constant(self, value: float) -> Number:
        """Return a constant, in the compute type."""
        return Number(self._cast(np.asarray(value)))

    def integers(self, data: Array) -> Number:
        """Return integers in the compute type."""
        return Number(self._cast(data))

    def encode(self, data: Array, fmt: Format | None = None) -> Array:
        """Return an input array rounded to the format, in the compute type."""
        return self._cast(quantise(data, fmt or self.fmt))

    def load(self, stored: Array, fmt: Format | None = None) -> Number:
        """Return stored elements, which have the compute type."""
        return Number(stored)

    def store(self, number: Number, fmt: Format | None = None) -> Array:
        """Round to the format, in the compute type."""
        if fmt is None and self.fmt.bits >= 32:
            return number.data
        return self._cast(quantise(number.data, fmt or self.fmt))

    def decode(self, stored: Array, fmt: Format | None = None) -> Array:
        """Return stored elements in the type that `quantise` returns."""
        return quantise(stored, fmt or self.fmt)

    def apply(self, op: str, args: Sequence[Number]) -> Number:
        """Apply an operator with NumPy, in the compute type."""
        data = np.asarray(_FLOAT[op](*(each.data for each in args)))
        return Number(data, "integer" if op in _COMPARISONS else "real")

    def select(self, condition: Array, then: Number, otherwise: Number) -> Number:
        """Choose point by point."""
        return Number(np.where(condition, then.data, otherwise.data))

    def aligned(self, numbers: Sequence[Number]) -> list[Number]:
        """Return the numbers: floats have no fraction."""
        return list(numbers)

    def fold(self, op: str, number: Number, axes: tuple[int, ...]) -> Number:
        """Fold in the compute type (NumPy sums pairwise)."""
        return Number(_FOLDS[op](number.data, axis=axes, keepdims=True))

    def matmul(self, left: Number, right: Number) -> Number:
        """Multiply with BLAS."""
        return Number(np.matmul(left.data, right.data))

    def mean(self, total: Number, count: Array) -> Number:
        """Divide in the compute type."""
        return Number(np.asarray(total.data / self._cast(count)))

    def neutral(self, reduction: str, like: Number) -> Number:
        """Return the identity of the fold."""
        return self.constant(REDUCTIONS[reduction].identity)

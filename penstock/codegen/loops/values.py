"""The scalar operators that translated programs (`loops/python.py`) call, one value at a time.

Floats are NumPy scalars of the compute type; fixed-point values Python integers. Conventions are
those of `einsum_ir.arithmetic` and `einsum_ir.numerics`. Excluded: text.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from penstock.codegen.loops.nodes import Kind, Program
from penstock.einsum_ir.formats import Format, parse_format
from penstock.einsum_ir.interpreter.numerics import (
    FIXED_FUNCTIONS,
    divide_fixed,
    floor_divide_exact,
)
from penstock.einsum_ir.interpreter.rounding import compute_type, limits, quantise

__all__ = ["FLOAT_FUNCTIONS", "Unset", "runtime"]


class Unset:
    """What is in a mask before anything is stored there: asking for its truth is an error."""

    def __bool__(self) -> bool:
        raise ValueError("a mask is read before it is set")

    @staticmethod
    def value(kind: Kind, fmt: Format) -> Any:
        """Return the first contents of a buffer."""
        if kind == "mask":
            return Unset()
        if fmt.exact:
            return limits(fmt)[0]
        return _scalar(fmt)(math.nan)


def _scalar(fmt: Format) -> type[Any]:
    """Return the type of one value."""
    scalar: type[Any] = np.dtype(compute_type(fmt)).type
    return scalar


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _erf(x: Any) -> Any:
    return type(x)(math.erf(x))


def _round(x: Any) -> Any:
    floor = np.floor(x)
    return floor + type(x)(x - floor >= 0.5)


FLOAT_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": np.abs,
    "clamp": lambda x, low, high: np.minimum(np.maximum(x, low), high),
    "cos": np.cos,
    "erf": _erf,
    "exp": np.exp,
    "exp2": np.exp2,
    "floor": np.floor,
    "gelu": lambda x: x * (1 + _erf(x * type(x)(math.sqrt(0.5)))) / 2,
    "log": np.log,
    "log2": np.log2,
    "max": np.maximum,
    "min": np.minimum,
    "relu": lambda x: np.maximum(x, type(x)(0)),
    "round": _round,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sigmoid": _sigmoid,
    "sign": np.sign,
    "silu": lambda x: x * _sigmoid(x),
    "sin": np.sin,
    "softplus": lambda x: np.maximum(x, type(x)(0)) + np.log1p(np.exp(-np.abs(x))),
    "sq": lambda x: x * x,
    "sqrt": np.sqrt,
    "step": lambda x: type(x)(x >= 0),
    "tanh": np.tanh,
    "**": np.power,
    "//": np.floor_divide,
    "%": np.mod,
    "pair": lambda first, second: (first, second),
    "half": lambda pair, which: pair[int(which)],
    "dot2": lambda total, x, y: total + x[0] * y[0] + x[1] * y[1],
}
"""Operators of floats that Python's own signs do not give."""


def _integer_power(base: int, exponent: int) -> int:
    if exponent < 0:
        raise ValueError(f"{base} ** {exponent} is no integer")
    return int(base**exponent)


def _check(inside: bool, buffer: str, at: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Raise if an access is out of bounds."""
    if not inside:
        raise IndexError(f"{buffer}{list(at)} is outside its shape {list(shape)}")


def runtime(program: Program) -> dict[str, Any]:
    """Return the names that a translated program uses."""
    fmt = program.format
    scope: dict[str, Any] = {"check": _check, "ipow": _integer_power, "Unset": Unset}
    scope |= _fixed(fmt) if fmt.exact else _float(fmt)
    return scope


def _float(fmt: Format) -> dict[str, Any]:
    scalar = _scalar(fmt)
    scope: dict[str, Any] = {f"f_{_identifier(n)}": f for n, f in FLOAT_FUNCTIONS.items()}
    scope |= {"real": scalar, "nan": scalar(math.nan), "inf": scalar(math.inf), "rnd": scalar}
    scope["rounded_to"] = lambda name, x: scalar(quantise(x, parse_format(name)))
    if fmt.name == "fp16":
        scope["rnd"] = lambda x: np.float32(np.float16(x))
    elif fmt.name == "bf16":
        scope["rnd"] = lambda x: np.float32(quantise(np.float32(x), fmt))
    return scope


def _identifier(op: str) -> str:
    return {"**": "pow", "//": "floordiv", "%": "mod"}.get(op, op)


def _fixed(fmt: Format) -> dict[str, Any]:
    places = fmt.fraction_bits

    @lru_cache(maxsize=1 << 16)
    def function(op: str, n: int, fraction: int) -> int:
        return int(FIXED_FUNCTIONS[op](np.asarray(n), fraction, fmt))

    @lru_cache(maxsize=1 << 16)
    def divide(a: int, a_fraction: int, b: int, b_fraction: int) -> int:
        return int(divide_fixed(np.asarray(a), a_fraction, np.asarray(b), b_fraction, fmt))

    def floor_divide(a: int, a_fraction: int, b: int, b_fraction: int) -> int:
        if b == 0:
            return divide(a, a_fraction, b, b_fraction)
        return rounded(_floor(a, a_fraction, b, b_fraction), 0)

    def whole(value: float) -> int:  # an element of an index buffer: a fraction is of the format
        return int(value * (1 << places))

    rounded = _rounding(fmt)
    return {
        "rounded": rounded,
        "rounded_to": lambda name, n, fraction: _rounding(parse_format(name))(n, fraction),
        "exactly": _exactly,
        "function": function,
        "divide": divide,
        "floor_divide": floor_divide,
        "modulo": lambda a, b: a % b if b else 0,  # both with the same fraction bits
        "whole": whole,
        "low": limits(fmt)[0],
    }


@lru_cache
def _rounding(fmt: Format) -> Callable[[int, int], int]:
    low, high = limits(fmt)
    places, even = fmt.fraction_bits, fmt.kind == "int"

    def rounded(n: int, fraction: int) -> int:
        shift = fraction - places
        tie = even and shift > 0 and n % (1 << shift) == 1 << (shift - 1)
        n = (n + (1 << (shift - 1))) >> shift if shift > 0 else n << -shift
        return min(max(n - (n & 1) if tie else n, low), high)

    return rounded


def _exactly(n: int, fraction: int, wanted: int) -> int:
    """Return ``n / 2^fraction`` with `wanted` fraction bits, which must hold it."""
    if fraction <= wanted:
        return n << (wanted - fraction)
    shift = fraction - wanted
    if n & ((1 << shift) - 1):
        raise ValueError(f"an accumulator of {wanted} fraction bits cannot hold {n}/2^{fraction}")
    return n >> shift


def _floor(a: int, a_fraction: int, b: int, b_fraction: int) -> int:
    return int(floor_divide_exact(np.asarray(a), a_fraction, np.asarray(b), b_fraction))

"""Rounding arrays to a number format, and integers of any width.

Every format: `quantise`. Fixed formats in integers: `to_fixed`, `round_fixed`, `from_fixed`.
Excluded on purpose: functions (`numerics.py`) and expressions (`widths.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.einsum_ir.formats import Format
from penstock.errors import DataError

__all__ = [
    "WORD",
    "Array",
    "as_wide",
    "clamped",
    "compute_type",
    "from_fixed",
    "limits",
    "needs_bits",
    "quantise",
    "round_fixed",
    "round_half_up",
    "shifted_left",
    "stripped",
    "to_fixed",
    "unsupported",
]

Array = npt.NDArray[Any]

WORD = 62
"""Integers of at most this many bits (sign not counted) are held in int64."""


# --- rounding to a format ---------------------------------------------------------------------


def compute_type(fmt: Format) -> npt.DTypeLike:
    """Return the NumPy type that an Einsum is computed in; int64 for fixed (`exact.py`)."""
    if fmt.exact:
        return np.dtype(np.int64)
    return np.dtype(np.float64) if fmt.name == "fp64" else np.dtype(np.float32)


def quantise(array: npt.ArrayLike, fmt: Format) -> Array:
    """Round every element to the format.

    Args:
        array: numbers of any type.
        fmt: any format.

    Returns:
        The rounded numbers, same shape: float64 for fp64 and fixed, float32 for fp32 and bf16
        (NumPy has no bf16), float16 for fp16. Floats round to nearest even and overflow to inf;
        fixed rounds half up and saturates (inf too).

    Raises:
        DataError: NaN in a fixed format, which has none.
    """
    source = np.asarray(array)
    if fmt.exact:
        return from_fixed(to_fixed(source, fmt), fmt)
    with np.errstate(all="ignore"):
        if fmt.name == "bf16":
            return _to_bf16(source)
        return source.astype({"fp64": np.float64, "fp32": np.float32}.get(fmt.name, np.float16))


def _to_bf16(source: Array) -> Array:
    """Round once to 8 significant bits, to nearest even, also from float64."""
    single = np.array(source, dtype=np.float32)
    wide = source if source.dtype == np.float64 else source.astype(np.float64)
    bits = single.view(np.uint32)
    # What float64 -> float32 rounded *to* a tie was not one: move it to its own side.
    tie = (bits & 0xFFFF) == 0x8000
    away = tie & (np.abs(single) < np.abs(wide))
    back = tie & (np.abs(single) > np.abs(wide))
    bits = bits + away.astype(np.uint32) - back.astype(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    nearest = np.where(np.isnan(single), bits | 0x00400000, rounded).astype(np.uint32)
    return np.asarray(nearest & np.uint32(0xFFFF0000)).view(np.float32)


def limits(fmt: Format) -> tuple[int, int]:
    """Return LOW and HIGH, the smallest and largest integer of a fixed format."""
    return -(1 << (fmt.bits - 1)), (1 << (fmt.bits - 1)) - 1


def to_fixed(array: npt.ArrayLike, fmt: Format) -> Array:
    """Round to a fixed format: int64 ``n`` with value ``n / 2^F``, half up, saturated.

    Raises:
        DataError: an element is NaN.
    """
    source = np.asarray(array)
    low, high = limits(fmt)
    with np.errstate(all="ignore"):
        value = np.ldexp(source.astype(np.float64), fmt.fraction_bits)
        missing = int(np.count_nonzero(np.isnan(value)))
        if missing:
            raise DataError(
                f"{missing} of {value.size} numbers are NaN, which {fmt} cannot hold",
                fix="replace them, or run it in fp32",
            )
        value = np.clip(value, low - 1.0, high + 1.0)
    floor = np.floor(value)
    nearest = floor.astype(np.int64) + (value - floor >= 0.5)
    return np.clip(nearest, low, high)


def from_fixed(integers: Array, fmt: Format) -> Array:
    """Return ``n / 2^F`` as float64, which holds every number of a fixed format exactly."""
    return np.asarray(np.ldexp(integers.astype(np.float64), -fmt.fraction_bits))


# --- integers of any width --------------------------------------------------------------------


def needs_bits(integers: Array) -> int:
    """Return the bits of the largest magnitude among the integers, sign not counted."""
    if integers.size == 0:
        return 0
    low, high = int(integers.min()), int(integers.max())
    return max((-low).bit_length(), high.bit_length())


def as_wide(integers: Array, bits: int) -> Array:
    """Return the integers in a type that holds `bits` bits: int64, or Python's integers."""
    if bits > WORD:
        return integers if integers.dtype == object else integers.astype(object)
    return integers if integers.dtype == np.int64 else integers.astype(np.int64)


def shifted_left(integers: Array, shift: int) -> Array:
    """Return ``n << shift``, in a type that holds it."""
    return np.asarray(as_wide(integers, needs_bits(integers) + shift) << shift)


def round_half_up(integers: Array, shift: int) -> Array:
    """Return ``floor(n / 2^shift + 1/2)``; a negative shift multiplies."""
    if shift <= 0:
        return shifted_left(integers, -shift)
    half = 1 << (shift - 1)
    return np.asarray((as_wide(integers, max(needs_bits(integers), shift) + 1) + half) >> shift)


def round_fixed(integers: Array, fraction: int, fmt: Format) -> Array:
    """Round exact values ``n / 2^fraction`` to integers of the format: half up, saturated."""
    return clamped(round_half_up(integers, fraction - fmt.fraction_bits), fmt)


def clamped(integers: Array, fmt: Format) -> Array:
    """Saturate integers of any width to the format: int64."""
    low, high = limits(fmt)
    return np.asarray(np.clip(integers, low, high)).astype(np.int64)


def stripped(value: int, fraction: int) -> tuple[int, int]:
    """Return the same ``value / 2^fraction`` without trailing zero bits."""
    while fraction and value % 2 == 0:
        value, fraction = value // 2, fraction - 1
    return value, fraction


def unsupported(op: str, fmt: Format) -> DataError:
    """Return the error for an operator that fixed point does not have."""
    return DataError(f"operator '{op}' has no fixed-point form ({fmt})", fix="run it in fp32")

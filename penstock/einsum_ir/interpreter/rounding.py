"""Rounding arrays to a number format, and integers of any width.

Every format: `quantise`. Fixed and integer formats in integers: `to_fixed`, `round_fixed`,
`from_fixed`; others whose numbers are multiples of one power of two: `grid`.
Excluded on purpose: functions (`numerics.py`) and expressions (`widths.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.einsum_ir.formats import Format
from penstock.errors import DataError

__all__ = [
    "FLOAT_STEPS",
    "WORD",
    "Array",
    "as_wide",
    "check_formats",
    "clamped",
    "compute_type",
    "from_fixed",
    "grid",
    "limits",
    "needs_bits",
    "quantise",
    "round_fixed",
    "round_half_even",
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
    return np.dtype({"fp64": np.float64, "extended": np.longdouble}.get(fmt.name, np.float32))


def quantise(array: npt.ArrayLike, fmt: Format) -> Array:
    """Round every element to the format.

    Args:
        array: numbers of any type.
        fmt: any format.

    Returns:
        The rounded numbers, same shape: float64 for fp64 and fixed, float32 for fp32, bf16 and
        fp8 (NumPy has no such types), float16 for fp16; for integers the NumPy type of that name,
        or the next wider one. Floats round to nearest even and overflow to inf, but fp8_e4m3 to
        +-448 (inf too). fixed rounds half up and saturates, integers round half to even and
        saturate (inf too).

    Raises:
        DataError: NaN in a fixed or integer format, which has none.
    """
    source = np.asarray(array)
    if fmt.kind != "float":
        return from_fixed(to_fixed(source, fmt), fmt)
    with np.errstate(all="ignore"):
        if fmt.name == "bf16":
            return _to_bf16(source)
        if fmt.name.startswith("fp8"):
            return _to_fp8(source, *FLOAT_STEPS[fmt.name])
        if fmt.name == "extended":
            return source.astype(np.longdouble)
        return source.astype({"fp64": np.float64, "fp32": np.float32}.get(fmt.name, np.float16))


FLOAT_STEPS = {
    "fp8_e4m3": (3, -6, 448.0, 448.0),
    "fp8_e5m2": (2, -14, 57344.0, np.inf),
    "fp16": (10, -14, 65504.0, np.inf),
    "bf16": (7, -126, float.fromhex("0x1.fep127"), np.inf),
}
"""Fraction bits, exponent of the smallest normal number, largest number, what exceeds it becomes
(OFP8 1.0, tables 1 and 2; IEEE 754 and its upper half)."""


def _to_fp8(source: Array, places: int, smallest: int, largest: float, beyond: float) -> Array:
    """Round once, to nearest even: float64 holds halves of all steps."""
    wide = source.astype(np.float64)
    step = np.maximum(np.frexp(wide)[1] - 1, smallest) - places
    rounded = np.ldexp(np.rint(np.ldexp(wide, -step)), step)
    limited = np.where(np.abs(rounded) > largest, np.copysign(beyond, rounded), rounded)
    return np.asarray(limited, dtype=np.float32)


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
    """Return LOW and HIGH, the smallest and largest integer of a fixed or integer format."""
    if not fmt.signed:
        return 0, (1 << fmt.bits) - 1
    return -(1 << (fmt.bits - 1)), (1 << (fmt.bits - 1)) - 1


def to_fixed(array: npt.ArrayLike, fmt: Format) -> Array:
    """Round to a fixed or integer format: int64 ``n`` with value ``n / 2^F``, saturated.

    Half up if fixed, half to even if integer (F = 0).

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
                fix="replace them, or run it in fp32"
                if fmt.exact
                else "replace them, or give the tensor a float format",
            )
        value = np.clip(value, low - 1.0, high + 1.0)
    if fmt.kind == "int":
        return np.clip(np.rint(value).astype(np.int64), low, high)
    floor = np.floor(value)
    nearest = floor.astype(np.int64) + (value - floor >= 0.5)
    return np.clip(nearest, low, high)


def from_fixed(integers: Array, fmt: Format) -> Array:
    """Return ``n / 2^F`` exactly: float64 for a fixed format, else the integers (`quantise`)."""
    if fmt.kind == "int":
        held = next(bits for bits in (8, 16, 32) if bits >= fmt.bits)
        return integers.astype(f"{'' if fmt.signed else 'u'}int{held}")
    return np.asarray(np.ldexp(integers.astype(np.float64), -fmt.fraction_bits))


# --- formats of single tensors ----------------------------------------------------------------

_GRIDS = {"fp16": (24, 40), "fp8_e4m3": (9, 18), "fp8_e5m2": (16, 32)}


def grid(fmt: Format) -> tuple[int, int] | None:
    """Return F and B: each finite number is ``n / 2^F``, where n has B bits (sign not counted).

    None for formats with more than 5 bits of exponent, whose n would be too wide.
    """
    if fmt.kind == "float":
        return _GRIDS.get(fmt.name)
    return fmt.fraction_bits, fmt.bits


def check_formats(formats: Mapping[str, Format], run: Format) -> None:
    """Check that a run computes with every number of the formats of single tensors exactly.

    Raises:
        DataError: it does not; the message names the tensor.
    """
    for tensor, fmt in formats.items():
        if run.exact and grid(fmt) is None:
            raise DataError(
                f"tensor {tensor} has format {fmt}, and fixed point cannot hold all its numbers",
                fix=f"give {tensor} another of the formats, or run it in fp32",
            )
        wide = fmt.name == "fp64" or (fmt.kind != "float" and fmt.bits - fmt.signed > 24)
        if wide and compute_type(run) == np.float32:
            raise DataError(
                f"tensor {tensor} has format {fmt}, and a run in {run} computes in fp32, which "
                "cannot hold all its numbers",
                fix=f"run it in fp64, or give {tensor} a format of fewer bits",
            )


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


def round_half_even(integers: Array, shift: int) -> Array:
    """Return ``n / 2^shift`` rounded to nearest, ties to even; a negative shift multiplies."""
    if shift <= 0:
        return shifted_left(integers, -shift)
    wide = as_wide(integers, max(needs_bits(integers), shift) + 1)
    up = round_half_up(wide, shift)
    tie = (wide & ((1 << shift) - 1)) == 1 << (shift - 1)
    return np.asarray(np.where(tie, up - (up & 1), up))


def round_fixed(integers: Array, fraction: int, fmt: Format) -> Array:
    """Round exact values ``n / 2^fraction`` to integers of the format, saturated.

    Half up if it is fixed, half to even if it is integer.
    """
    nearest = round_half_even if fmt.kind == "int" else round_half_up
    return clamped(nearest(integers, fraction - fmt.fraction_bits), fmt)


def clamped(integers: Array, fmt: Format) -> Array:
    """Saturate integers of any width to a fixed or integer format: int64."""
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

"""Number formats: fp64, fp32, fp16, bf16, fp8, fixed<W,I> and integers, and what each means.

One rule for every format, so that all backends can be compared bit for bit or by a bound:
each element of a tensor is rounded to its format when it is written, and what happens inside
one Einsum is computed in the compute type of the run's format (fp16, bf16 and fp8: fp32; fp32 and
fp64: themselves; fixed: exactly, see `Format.exact`). A tensor is in the run's format unless the
cascade says otherwise (``format K8 = int8``).

Excluded here: arrays. rounding an array to a format is in `rounding.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from penstock.errors import DataError

__all__ = ["EXTENDED", "Format", "parse_format", "run_format", "tensor_formats"]


@dataclass(frozen=True, slots=True)
class Format:
    """A number format.

    ``fp8_e4m3`` and ``fp8_e5m2`` are those of the OCP 8-bit floating point specification (OFP8,
    revision 1.0, section 5); a number too large becomes +-448 in the first (its saturating
    conversion, as ONNX Cast; it has no infinity) and an infinity in the second (IEEE 754, its
    non-saturating conversion).

    ``fixed<W,I>`` is AMD's ``ap_fixed<W, I, AP_RND, AP_SAT>``: W bits in all, I of them
    integer (sign included), rounded half up, saturated. In it ``+ - * max min abs`` and sums are
    exact within an Einsum (so their order does not matter) and ``exp`` and ``/`` are the integer
    algorithms of `numerics.py`. ``fixed<W,I,poly>`` takes powers of two by a polynomial of degree 5
    and no table, ``fixed<W,I,newton>`` quotients by a reciprocal of three Newton steps
    (`algorithms`); what is left out is done by a table, and exactly.

    ``int8`` and its like round half to even and saturate (ONNX QuantizeLinear). They are for single
    tensors: no run is in them. An ``int4`` takes half a byte.
    """

    name: str
    kind: Literal["float", "fixed", "int"]
    bits: int
    integer_bits: int = 0
    algorithms: tuple[str, ...] = ()

    @property
    def bytes(self) -> float:
        """Bytes of one element in a memory."""
        return self.bits / 8

    @property
    def fraction_bits(self) -> int:
        """Bits after the point of a fixed format."""
        return self.bits - self.integer_bits

    @property
    def signed(self) -> bool:
        """Whether it has negative numbers."""
        return not self.name.startswith("u")

    @property
    def exact(self) -> bool:
        """Whether sums are exact, so that every order of summation gives the same bits."""
        return self.kind == "fixed"

    def __str__(self) -> str:
        return self.name


EXTENDED = Format("extended", "float", 80)
"""What NumPy has beyond fp64 (64 bits of mantissa on x86), for references only: it has no name."""

_FLOATS = {"fp64": 64, "fp32": 32, "fp16": 16, "bf16": 16, "fp8_e4m3": 8, "fp8_e5m2": 8}
_INTEGERS = {f"{sign}int{bits}": bits for sign in ("", "u") for bits in (4, 8, 16, 24, 32)}
POLYNOMIAL_BITS = 24
"""Of the widest format whose powers of two the polynomial of degree 5 is right for."""

_FIXED = re.compile(r"fixed<\s*(\d+)\s*,\s*(\d+)\s*((?:,\s*(?:poly|newton)\s*)*)>")


def parse_format(text: str) -> Format:
    """Return the format with this name: ``fp32``, ``int8``, ``fixed<16,6>`` and so on.

    Raises:
        DataError: there is no such format, or its widths are impossible.
    """
    if text in _FLOATS:
        return Format(text, "float", _FLOATS[text])
    if text in _INTEGERS:
        return Format(text, "int", _INTEGERS[text], _INTEGERS[text])
    match = _FIXED.fullmatch(text)
    if match is None:
        raise DataError(
            f"unknown number format '{text}'",
            fix=f"use {', '.join(_FLOATS)}, int8 or uint8 (4 to 32 bits), or fixed<16,6>",
        )
    width, integer = int(match[1]), int(match[2])
    if not 2 <= width <= 32 or not 1 <= integer <= width:
        raise DataError(
            f"format '{text}' has {width} bits, {integer} of them integer",
            fix="use 2 to 32 bits, and 1 to all of them integer",
        )
    if "poly" in match[3] and width > POLYNOMIAL_BITS:
        raise DataError(
            f"format '{text}' has {width} bits, but 'poly' is right to 23 bits only",
            fix=f"use at most {POLYNOMIAL_BITS} bits, or leave out 'poly': a table is right to 37",
        )
    algorithms = tuple(each for each in ("poly", "newton") if each in match[3])
    name = ",".join((str(width), str(integer), *algorithms))
    return Format(f"fixed<{name}>", "fixed", width, integer, algorithms)


def run_format(fmt: Format) -> Format:
    """Return the format if a whole run can be in it.

    Raises:
        DataError: a format of integers, which only single tensors have.
    """
    if fmt.kind != "int":
        return fmt
    raise DataError(
        f"a run cannot be in {fmt}: it has no fractions to compute with",
        fix=f"write 'format X = {fmt}' for each tensor X in the cascade, and run it in fp32 or "
        "fixed<W,I>",
    )


def tensor_formats(pairs: Iterable[tuple[str, str]]) -> dict[str, Format]:
    """Return tensor → its own format, from ``Cascade.formats``."""
    return {tensor: parse_format(kind) for tensor, kind in pairs}

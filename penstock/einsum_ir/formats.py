"""Number formats: fp64, fp32, fp16, bf16 and fixed<W,I>, and what each means.

One rule for every format, so that all backends can be compared bit for bit or by a bound:
each element of a tensor is rounded to the format when it is written, and what happens inside
one Einsum is computed in the format's compute type (fp16 and bf16: fp32; fp32 and fp64:
themselves; fixed: exactly, see `Format.exact`).

Excluded here: arrays. rounding an array to a format is in `numerics.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from penstock.errors import DataError

__all__ = ["Format", "parse_format"]


@dataclass(frozen=True, slots=True)
class Format:
    """A number format.

    ``fixed<W,I>`` is AMD's ``ap_fixed<W, I, AP_RND, AP_SAT>``: W bits in all, I of them
    integer (sign included), rounded half up, saturated. In it ``+ - * max min abs`` and sums are
    exact within an Einsum (so their order does not matter) and ``exp`` and ``/`` are the integer
    algorithms of `numerics.py`.
    """

    name: str
    kind: Literal["float", "fixed"]
    bits: int
    integer_bits: int = 0

    @property
    def bytes(self) -> float:
        """Bytes of one element in a memory."""
        return self.bits / 8

    @property
    def fraction_bits(self) -> int:
        """Bits after the point of a fixed format."""
        return self.bits - self.integer_bits

    @property
    def exact(self) -> bool:
        """Whether sums are exact, so that every order of summation gives the same bits."""
        return self.kind == "fixed"

    def __str__(self) -> str:
        return self.name


_FLOATS = {"fp64": 64, "fp32": 32, "fp16": 16, "bf16": 16}
_FIXED = re.compile(r"fixed<\s*(\d+)\s*,\s*(\d+)\s*>")


def parse_format(text: str) -> Format:
    """Return the format with this name: ``fp32``, ``fixed<16,6>`` and so on.

    Raises:
        DataError: there is no such format, or its widths are impossible.
    """
    if text in _FLOATS:
        return Format(text, "float", _FLOATS[text])
    match = _FIXED.fullmatch(text)
    if match is None:
        raise DataError(
            f"unknown number format '{text}'",
            fix=f"use one of {', '.join(_FLOATS)}, or fixed<W,I> as in fixed<16,6>",
        )
    width, integer = int(match[1]), int(match[2])
    if not 2 <= width <= 32 or not 1 <= integer <= width:
        raise DataError(
            f"format '{text}' has {width} bits, {integer} of them integer",
            fix="use 2 to 32 bits, and 1 to all of them integer",
        )
    return Format(f"fixed<{width},{integer}>", "fixed", width, integer)

"""How the numbers of a format are written: types of C++, elements of a ``.bin`` file.

Excluded: which files there are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.codegen.loops.nodes import Buffer
from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.interpreter.rounding import from_fixed, quantise, to_fixed
from penstock.errors import DataError

__all__ = [
    "FLOATS",
    "bits_of",
    "decode",
    "described",
    "element",
    "encode",
    "file_type",
    "memory_type",
    "own_type",
    "tolerance",
    "type_name",
]


@dataclass(frozen=True, slots=True)
class Float:
    """How a float format is written in C++ and in a file, and how closely outputs must agree.

    ``tolerance`` is relative to the largest expected magnitude of a tensor.
    """

    storage: str
    compute: str
    described: str
    file: str
    tolerance: float


FLOATS = {
    "fp64": Float("double", "double", "64-bit floats", "<f8", 1e-12),
    "fp32": Float("float", "float", "32-bit floats", "<f4", 1e-5),
    "fp16": Float("pk::float16", "float", "16-bit floats", "<f2", 4e-3),
    "bf16": Float("pk::bfloat16", "float", "bfloat16: upper halves of 32-bit floats", "", 3e-2),
}


def encode(array: npt.ArrayLike, buffer: Buffer, fmt: Format) -> bytes:
    """Return the elements as a ``.bin`` file holds them, rounded to the format.

    Args:
        array: numbers of any type.
        buffer: that they are for; ``index`` elements are int32, ``mask`` ones bytes.
        fmt: of ``data`` elements that have none of their own: fixed formats and integers give
            int32 n with value ``n / 2^F``; fp16 and bf16 their 16 bits.

    Raises:
        DataError: an element of an ``index`` buffer is no whole number of 32 bits; NaN in a
            fixed format.
    """
    if buffer.kind == "index":
        return _whole_numbers(np.asarray(array), buffer.name).astype("<i4").tobytes()
    if buffer.kind == "mask":
        return np.asarray(array).astype(np.bool_).astype(np.uint8).tobytes()
    fmt = buffer.own or fmt
    if fmt.kind != "float":
        return to_fixed(array, fmt).astype("<i4").tobytes()  # uint32 wraps around
    rounded = quantise(array, fmt)
    if fmt.name == "bf16":
        return (rounded.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return rounded.astype(FLOATS[fmt.name].file).tobytes()


def decode(content: bytes, buffer: Buffer, fmt: Format) -> npt.NDArray[Any]:
    """Return the array that a ``.bin`` file holds, in the type that `quantise` returns."""
    if buffer.kind == "index":
        return np.frombuffer(content, "<i4").astype(np.int64).reshape(buffer.shape)
    if buffer.kind == "mask":
        return np.frombuffer(content, np.uint8).astype(np.bool_).reshape(buffer.shape)
    fmt = buffer.own or fmt
    if fmt.kind != "float":
        integers = np.frombuffer(content, "<i4" if fmt.signed else "<u4").astype(np.int64)
        return from_fixed(integers, fmt).reshape(buffer.shape)
    if fmt.name == "bf16":
        bits = np.frombuffer(content, "<u2").astype(np.uint32) << 16
        return bits.view(np.float32).reshape(buffer.shape)
    kind = np.dtype(FLOATS[fmt.name].file)
    return np.frombuffer(content, kind).astype(kind.newbyteorder("=")).reshape(buffer.shape)


def _whole_numbers(array: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    wrong = array[(array != np.floor(array)) | (np.abs(array) >= 2.0**31)]
    if wrong.size:
        raise DataError(
            f"input {name} holds {wrong.flat[0]:g}, but its elements are used as indices",
            fix="give whole numbers below 2**31",
        )
    return array


def described(fmt: Format) -> str:
    """Return a format in words."""
    if fmt.exact:
        return (
            f"{fmt}: {fmt.bits} bits, {fmt.integer_bits} of them integer; rounds half up, saturates"
        )
    return f"{fmt}: {FLOATS[fmt.name].described}"


def element(fmt: Format) -> str:
    """Return in words what a file holds for each element."""
    if fmt.exact:
        return f"32-bit integers n with value n / 2^{fmt.fraction_bits}"
    return FLOATS[fmt.name].described


def tolerance(fmt: Format) -> float:
    """Return how far outputs may be off, relative to the largest expected magnitude."""
    return 0.0 if fmt.exact else FLOATS[fmt.name].tolerance


def file_type(buffer: Buffer, fmt: Format) -> tuple[str, str]:
    """Return the type of an element in a ``.bin`` file, in C++ and in NumPy."""
    if buffer.kind == "mask":
        return "std::uint8_t", "u1"
    if buffer.kind == "index" or (buffer.own or fmt).kind != "float":
        return "std::int32_t", "<i4"
    return {"fp64": ("double", "<f8"), "fp32": ("float", "<f4")}.get(
        (buffer.own or fmt).name, ("std::uint16_t", "<u2")
    )


def memory_type(buffer: Buffer, fmt: Format) -> tuple[str, str]:
    """Return the type of an element in the memory behind a port, in C++ and in NumPy.

    A fixed-point number takes the next power of two of its bits (AMD UG1399, interfaces of
    arbitrary precision types).
    """
    fmt = buffer.own or fmt
    if buffer.kind in ("mask", "index") or fmt.kind == "float":
        return file_type(buffer, fmt)
    bits, sign = _whole_bits(fmt), "" if fmt.signed else "u"
    return f"std::{sign}int{bits}_t", f"<{sign or 'i'}{bits // 8}"


def _whole_bits(fmt: Format) -> int:
    return max(8, 1 << (fmt.bits - 1).bit_length())


def type_name(kind: str, own: Format | None) -> str:
    """Return the C++ name of the type of elements of this kind and format."""
    if own is None or kind != "data":
        return f"{kind}_t"
    return f"data_{re.sub(r'[^a-z0-9]+', '_', own.name).strip('_')}_t"


def own_type(own: Format, fmt: Format) -> str:
    """Return the C++ type of elements in a format of their own, in a run in `fmt`.

    It rounds and saturates what is stored, and converts to the type that is computed in.

    Raises:
        DataError: fp8, which has no type here.
    """
    if own.kind == "float":
        if own.name not in FLOATS:
            raise DataError(
                f"HLS code has no {own}", fix="give the tensor fp16, bf16, fixed<W,I> or int8"
            )
        return FLOATS[own.name].storage
    if fmt.exact:
        rounding = "AP_RND_CONV" if own.kind == "int" else "AP_RND"
        name = "ap_fixed" if own.signed else "ap_ufixed"
        return f"{name}<{own.bits}, {own.integer_bits}, {rounding}, AP_SAT>"
    raw = f"std::{'' if own.signed else 'u'}int{_whole_bits(own)}_t"
    even = "true" if own.kind == "int" else "false"
    compute = FLOATS[fmt.name].compute
    return f"pk::scaled<{compute}, {raw}, {own.bits}, {own.fraction_bits}, {even}>"


def bits_of(kind: str, own: Format | None, fmt: Format) -> int:
    """Return the bits of an element that is stored."""
    return {"mask": 1, "index": 32}.get(kind, (own or fmt).bits)

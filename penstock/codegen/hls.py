"""Program → Vitis HLS project: kernel, number types, testbench, scripts, README.

The files are templates of ``penstock/hls_templates`` filled strictly (`fill`); headers are copied
as they are. The kernel's loops come from `cpp.py`, its pragmas from `hls_pragmas.py`.

Excluded on purpose: streams and ``DATAFLOW`` (one kernel function, loops in mapping order), host
programs, running any tool (`csim.py` runs g++).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import jinja2
import jinja2.meta
import numpy as np
import numpy.typing as npt

import penstock
from penstock.codegen.backends import Golden, Provenance
from penstock.codegen.base import Artifact
from penstock.codegen.cpp import CppText, print_cpp, top_name
from penstock.codegen.hls_loops import sink_spatial
from penstock.codegen.hls_pragmas import HlsNotes, bundles, interface
from penstock.codegen.loops import Alloc, Buffer, Program, walk_statements
from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.interpreter.rounding import quantise
from penstock.errors import DataError, TargetError
from penstock.targets.base import Target

__all__ = ["decode", "encode", "fill", "generate", "sources"]


@dataclass(frozen=True, slots=True)
class _Float:
    """How a float format is written in C++ and in a file, and how closely outputs must agree.

    ``tolerance`` is relative to the largest expected magnitude of a tensor.
    """

    storage: str
    compute: str
    described: str
    file: str
    tolerance: float


_FLOATS = {
    "fp64": _Float("double", "double", "64-bit floats", "<f8", 1e-12),
    "fp32": _Float("float", "float", "32-bit floats", "<f4", 1e-5),
    "fp16": _Float("pk::float16", "float", "16-bit floats", "<f2", 4e-3),
    "bf16": _Float("pk::bfloat16", "float", "bfloat16: upper halves of 32-bit floats", "", 3e-2),
}


def generate(
    program: Program, target: Target, source: Provenance, golden: Golden | None = None
) -> Artifact:
    """Return a project folder for Vitis HLS that plain g++ compiles and runs as well.

    Args:
        program: what `lower` made of the design.
        target: an FPGA.
        source: what every file names as its origin.
        golden: inputs and expected outputs; they become ``golden/NAME.bin``.

    Raises:
        TargetError: the target is no FPGA.
    """
    if target.family != "fpga" or not target.part:
        raise TargetError(
            f"target {target.name} ({target.family}) is no FPGA with a part name",
            fix="map the design to an FPGA, e.g. --target u280",
        )
    contents: dict[str, str | bytes] = dict(sources(program, source))
    data = {} if golden is None else {**golden[0], **golden[1]}
    headers = sorted(name for name in contents if name.endswith((".h", ".hpp")))
    project = {
        "top": top_name(program),
        "part": target.part,
        "period": f"{1e9 / target.clock_hz:.3f}",
        "golden": bool(data),
    }
    for name in ("run_hls.tcl", "hls_config.cfg"):
        contents[name] = _filled(name, source, "# ", **project)
    contents["Makefile"] = _filled(
        "Makefile",
        source,
        "# ",
        top=top_name(program),
        headers=headers,
        fixed=program.format.exact,
    )
    contents["README.md"] = _readme(program, target, source, bool(data))
    for buffer in (*program.inputs, *program.outputs):
        if buffer.name in data:
            contents[f"golden/{buffer.name}.bin"] = encode(
                data[buffer.name], buffer, program.format
            )
    return Artifact(contents)


def sources(program: Program, source: Provenance) -> dict[str, str]:
    """Return the C++ files of a program: all that a C simulation needs."""
    program = sink_spatial(program)
    text = print_cpp(program, HlsNotes(program))
    fmt = program.format
    header = _header(fmt)
    result = {name: _read(name) for name in _included(header)}
    result["config.hpp"] = _filled(
        "config.hpp", source, "// ", header=header, format=_described(fmt), **_types(program)
    )
    common = {"top": top_name(program), "parameters": text.parameters}
    result["kernel.h"] = _filled("kernel.h", source, "// ", **common)
    result["kernel.cpp"] = _filled(
        "kernel.cpp",
        source,
        "// ",
        constants=text.constants,
        interface=interface(program, text.names),
        body=text.body,
        **common,
    )
    ports = _ports(program, text)
    result["tb.cpp"] = _filled(
        "tb.cpp",
        source,
        "// ",
        top=top_name(program),
        ports=ports,
        arguments=", ".join(f"data::{port.name}" for port in ports),
        tolerance=_tolerance(fmt),
    )
    return result


def fill(name: str, /, **values: Any) -> str:
    """Fill a template of ``hls_templates``.

    Args:
        name: of the file that results; the template is ``name.in``.
        values: one for each placeholder.

    Raises:
        ValueError: a placeholder has no value, or a value no placeholder.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    text = _read(f"{name}.in")
    wanted = jinja2.meta.find_undeclared_variables(environment.parse(text))
    if wanted != values.keys():
        missing, unused = sorted(wanted - values.keys()), sorted(values.keys() - wanted)
        raise ValueError(f"template {name}.in: no value for {missing}, no place for {unused}")
    return environment.from_string(text).render(**values)


def encode(array: npt.ArrayLike, buffer: Buffer, fmt: Format) -> bytes:
    """Return the elements as a ``.bin`` file holds them, rounded to the format.

    Args:
        array: numbers of any type.
        buffer: that they are for; ``index`` elements are int32, ``mask`` ones bytes.
        fmt: of ``data`` elements: fixed formats give int32 n with value ``n / 2^F``; fp16 and
            bf16 their 16 bits.

    Raises:
        DataError: an element of an ``index`` buffer is no whole number of 32 bits; NaN in a
            fixed format.
    """
    if buffer.kind == "index":
        return _whole_numbers(np.asarray(array), buffer.name).astype("<i4").tobytes()
    if buffer.kind == "mask":
        return np.asarray(array).astype(np.bool_).astype(np.uint8).tobytes()
    rounded = quantise(array, fmt)
    if fmt.exact:
        return np.ldexp(rounded, fmt.fraction_bits).astype("<i4").tobytes()
    if fmt.name == "bf16":
        return (rounded.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return rounded.astype(_FLOATS[fmt.name].file).tobytes()


def decode(content: bytes, buffer: Buffer, fmt: Format) -> npt.NDArray[Any]:
    """Return the array that a ``.bin`` file holds, in the type that `quantise` returns."""
    if buffer.kind == "index":
        return np.frombuffer(content, "<i4").astype(np.int64).reshape(buffer.shape)
    if buffer.kind == "mask":
        return np.frombuffer(content, np.uint8).astype(np.bool_).reshape(buffer.shape)
    if fmt.exact:
        integers = np.frombuffer(content, "<i4").astype(np.float64)
        return np.ldexp(integers, -fmt.fraction_bits).reshape(buffer.shape)
    if fmt.name == "bf16":
        bits = np.frombuffer(content, "<u2").astype(np.uint32) << 16
        return bits.view(np.float32).reshape(buffer.shape)
    kind = np.dtype(_FLOATS[fmt.name].file)
    return np.frombuffer(content, kind).astype(kind.newbyteorder("=")).reshape(buffer.shape)


def _whole_numbers(array: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    wrong = array[(array != np.floor(array)) | (np.abs(array) >= 2.0**31)]
    if wrong.size:
        raise DataError(
            f"input {name} holds {wrong.flat[0]:g}, but its elements are used as indices",
            fix="give whole numbers below 2**31",
        )
    return array


# --- parts of the files -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Port:
    """One pointer of the kernel, as the testbench and the README name it."""

    name: str
    file: str
    type: str
    dims: str
    shape: str
    role: str
    bundle: str


def _ports(program: Program, text: CppText) -> tuple[_Port, ...]:
    return tuple(
        _Port(
            name=text.names[buffer.name],
            file=buffer.name,
            type=f"{buffer.kind}_t",
            dims="".join(f"[{extent}]" for extent in buffer.shape) or "[1]",
            shape=_shape(buffer),
            role=role,
            bundle=bundle,
        )
        for buffer, role, bundle in bundles(program)
    )


def _shape(buffer: Buffer) -> str:
    return " x ".join(str(extent) for extent in buffer.shape) or "scalar"


def _read(name: str) -> str:
    return (files("penstock.hls_templates") / name).read_text(encoding="utf-8")


def _filled(name: str, source: Provenance, mark: str, **values: Any) -> str:
    """Fill a template that starts with what made it."""
    lines = [f"{source.name}: made by penstock {penstock.__version__}, design {source.digest}"]
    lines += source.command.splitlines()
    return fill(name, banner="\n".join(mark + line for line in lines), **values)


def _header(fmt: Format) -> str:
    if fmt.exact:
        return "penstock_fixed.hpp"
    return "penstock_half.hpp" if fmt.bits < 32 else "penstock_float.hpp"


def _included(header: str) -> tuple[str, ...]:
    below = ("penstock_float.hpp",) if header == "penstock_half.hpp" else ()
    return (header, *below, "penstock_math.hpp", "penstock_tb.hpp")


def _types(program: Program) -> dict[str, str]:
    fmt = program.format
    if not fmt.exact:
        kind = _FLOATS[fmt.name]
        return {"data": kind.storage, "accumulator": kind.compute, "compute": kind.compute}
    width, integer = program.accumulator_bits
    data = f"ap_fixed<{fmt.bits}, {fmt.integer_bits}, AP_RND, AP_SAT>"
    accumulator = f"ap_fixed<{width}, {integer}>" if width else "data_t"
    return {"data": data, "accumulator": accumulator, "compute": "data_t"}


def _described(fmt: Format) -> str:
    if fmt.exact:
        return (
            f"{fmt}: {fmt.bits} bits, {fmt.integer_bits} of them integer; rounds half up, saturates"
        )
    return f"{fmt}: {_FLOATS[fmt.name].described}"


def _element(fmt: Format) -> str:
    if fmt.exact:
        return f"32-bit integers n with value n / 2^{fmt.fraction_bits}"
    return _FLOATS[fmt.name].described


def _tolerance(fmt: Format) -> float:
    return 0.0 if fmt.exact else _FLOATS[fmt.name].tolerance


def _readme(program: Program, target: Target, source: Provenance, golden: bool) -> str:
    program = sink_spatial(program)
    text = print_cpp(program)
    values: Mapping[str, Any] = {
        "name": source.name,
        "top": top_name(program),
        "target": target.name,
        "part": target.part,
        "clock": f"{target.clock_hz / 1e6:g}",
        "format": str(program.format),
        "version": penstock.__version__,
        "digest": source.digest,
        "command": source.command or "(from Python)",
        "fixed": program.format.exact,
        "golden": golden,
        "outer": target.dram.name,
        "ports": _ports(program, text),
        "element": _element(program.format),
        "buffers": _buffers(program, text),
        "tolerance": _tolerance(program.format),
    }
    return fill("README.md", **values)


def _buffers(program: Program, text: CppText) -> list[dict[str, str | int]]:
    """Return a row for each array on the chip."""
    outer = {buffer.name for buffer, _, _ in bundles(program)}
    found = (each.buffer for each in walk_statements(program.body) if isinstance(each, Alloc))
    return [
        {
            "name": text.names[buffer.name],
            "shape": _shape(buffer),
            "type": f"{buffer.kind}_t",
            "memory": buffer.memory or "-",
            "bits": math.prod(buffer.shape) * _bits(buffer, program),
        }
        for buffer in found
        if buffer.shape and buffer.name not in outer
    ]


def _bits(buffer: Buffer, program: Program) -> int:
    if buffer.kind == "mask":
        return 1
    wide = program.accumulator_bits[0] or program.format.bits
    if not program.format.exact:
        wide = max(program.format.bits, 32)
    return wide if buffer.kind == "acc" else program.format.bits

"""SystemVerilog of a clocked machine, from its `Hardware`: pure, same machine, same bytes.

The machine is programmable: what a design does is its `Program`, whose words `machine/encode.py`
lays out and `rtl/run.py` loads. The constants of exponentials are those of the interpreter.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import jinja2

from penstock.codegen.backends import Provenance
from penstock.codegen.base import Artifact
from penstock.einsum_ir.interpreter import numerics
from penstock.machine import encode
from penstock.machine.body import FACTOR_BITS
from penstock.machine.hardware import Hardware
from penstock.machine.program import Program

__all__ = ["PARTS", "artifact", "file_of", "machine_files"]

PARTS = ("place", "fifo", "stream", "part", "buffer", "core", "")
"""The source files, in the order in which they are compiled."""


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("penstock", "rtl_templates"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )


def _field(word: str, layout: encode.Layout, name: str, bits: int = 0) -> str:
    low, size = layout.fields[name]
    return f"{word}[{low} +: {bits or size}]"


def _repeated(times: int, text: str) -> str:
    return f"{{{times}{{{text}}}}}"


def _bits(count: int) -> int:
    return max((count - 1).bit_length(), 1)


def parameters(hw: Hardware) -> dict[str, Any]:
    """Return what the templates know of a machine."""
    work = hw.work_bits
    op, shape, uop = encode.core_op(hw), encode.core_shape(hw), encode.core_uop(hw)
    sop, sshape = encode.stream_op(hw), encode.stream_shape(hw)
    widest = max(each.bits for each in (op, shape, uop, sop, sshape))
    chunks = -(-widest // 32)
    return {
        "name": hw.name,
        "cores": hw.cores,
        "f": _field,
        "rep": _repeated,
        "tail": encode.core_tail(hw),
        "tail_low": shape.fields["uop"][0],
        "result": encode.core_result(hw),
        "result_low": encode.core_tail(hw).fields["rows"][0],
        **dict(zip(("uop_low", "uop_size"), encode.core_tail(hw).fields["uop"], strict=True)),
        "core_config": max(each.bits for each in (op, shape, uop)),
        "stream_config": max(each.bits for each in (sop, sshape)),
        "op": op,
        "shape": shape,
        "uop": uop,
        "sop": sop,
        "sshape": sshape,
        "chunks": chunks,
        "config": widest,
        "units": len(hw.units),
        "bits": hw.bits,
        "acc": hw.acc_bits,
        "high": (1 << (hw.bits - 1)) - 1,
        "operands": hw.operands,
        "conditions": hw.conditions,
        "indices": hw.indices,
        "loops": hw.loops,
        "index": encode.INDEX_BITS,
        "address": hw.address_bits,
        "banks": hw.banks,
        "bank_bits": _bits(hw.banks),
        "words": hw.words,
        "row": _bits(hw.words),
        "parts": len(hw.cores) + 1,
        "readers": 2 * len(hw.cores) + 1,
        "tasks": hw.tasks,
        "task_bits": _bits(hw.tasks),
        "uops": hw.uops,
        "templates": hw.templates,
        "template_bits": _bits(hw.templates),
        "uop_bits": _bits(hw.uops),
        "fifo_depth": hw.fifo_depth,
        "fifo_bits": _bits(hw.fifo_depth),
        "opcodes": encode.OPCODES,
        "factor": FACTOR_BITS,
        "work": work,
        "log2_e": numerics.scale(numerics.LOG2_E, work + 4),
        "roots": [numerics.scale(each, work) for each in numerics.ROOTS],
        "polynomial": [numerics.scale(each, work) for each in numerics.POLYNOMIAL],
    }


def file_of(hw: Hardware, part: str) -> str:
    """Return the name of a source file: that of its module."""
    return f"{hw.name}_{part}.sv" if part else f"{hw.name}.sv"


def machine_files(hw: Hardware, banner: str) -> dict[str, str]:
    """Return the source files of a machine: SystemVerilog, and C++ that drives it.

    Args:
        hw: its parameters.
        banner: comment lines for the top of each file, with ``//``.
    """
    values = {**parameters(hw), "banner": banner}
    render = _environment().get_template
    files = {file_of(hw, part): render(f"{part or 'top'}.sv.j2").render(values) for part in PARTS}
    return {**files, "harness.cpp": render("harness.cpp.j2").render(values)}


def artifact(program: Program, source: Provenance) -> Artifact:
    """Return the machine of a program, and the words of its memories.

    Args:
        program: of a design.
        source: what every file names.
    """
    told = [f"{source.name}, design {source.digest}", *([source.command] if source.command else [])]
    banner = "\n".join(f"// {line}" for line in told)
    lines = [f"# {line}" for line in told]
    lines += [
        f"# fraction bits {program.fraction_bits}, FIFOs {program.fifo_in} and {program.fifo_out}",
        "# unit (the order of the machine's units), memory, address: word",
    ]
    for unit, words in zip(program.hardware.units, encode.encoded(program), strict=True):
        for memory, each in (("op", words.ops), ("shape", words.shapes), ("uop", words.uops)):
            lines += [f"{unit} {memory} {address}: {word:x}" for address, word in enumerate(each)]
    files = machine_files(program.hardware, banner)
    return Artifact({**files, "program.txt": "\n".join(lines) + "\n"})

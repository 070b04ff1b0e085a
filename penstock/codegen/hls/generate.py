"""Program → Vitis HLS project: kernel, number types, testbench, scripts, README.

`tasks_of` rewrites the program into tasks and streams of a ``DATAFLOW`` region, one small rewrite
of statements after the other. The files are templates of ``penstock/hls_templates`` filled strictly
(`fill`); headers are copied as they are. The kernel's text comes from `print.py`, its pragmas from
`hls/pragmas.py`.

Excluded on purpose: running any tool (`csim.py` runs g++).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib.resources import files
from typing import Any

import jinja2
import jinja2.meta

import penstock
from penstock.codegen.backends import Golden, Provenance, Timing
from penstock.codegen.base import Artifact
from penstock.codegen.hls.buffers import hoisted, without_units
from penstock.codegen.hls.bursts import in_bursts
from penstock.codegen.hls.cpp import WIDTH, together, top_name, workspace, wrapped
from penstock.codegen.hls.data import (
    FLOATS,
    decode,
    described,
    element,
    encode,
    own_type,
    tolerance,
    type_name,
)
from penstock.codegen.hls.facts import without_implied
from penstock.codegen.hls.fills import spread_fills
from penstock.codegen.hls.loops import sink_spatial
from penstock.codegen.hls.nests import merged, received
from penstock.codegen.hls.pragmas import CLOCK_HZ, HlsNotes, interface
from penstock.codegen.hls.pragmas import streams as stream_pragmas
from penstock.codegen.hls.print import KernelText, print_kernel
from penstock.codegen.hls.project import (
    depths,
    described_tasks,
    local_buffers,
    longest,
    ports,
    report,
    streams,
)
from penstock.codegen.hls.resources import (
    NAMES,
    Use,
    exceeded,
    in_words,
    kernel_constructs,
    uses,
)
from penstock.codegen.hls.rows import in_rows
from penstock.codegen.hls.split import Tasks, split, stages_in
from penstock.codegen.hls.strides import cut_strides
from penstock.codegen.hls.units import unroll_units
from penstock.codegen.hls.words import widen
from penstock.codegen.loops.nodes import Program
from penstock.codegen.loops.walk import all_buffers
from penstock.einsum_ir.formats import Format
from penstock.errors import TargetError
from penstock.targets.base import Target

__all__ = ["decode", "encode", "fill", "generate", "sources"]


WRITTEN = ("config.hpp", "kernel.h", "kernel.cpp")
"""The files of a kernel that a person reads."""


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
        TargetError: the target is no FPGA, has too few channels for the ports, or is too small and
            `source` does not say that it may be.
    """
    if target.family != "fpga" or not target.part:
        raise TargetError(
            f"target {target.name} ({target.family}) is no FPGA with a part name",
            fix="map the design to an FPGA, e.g. --target u280",
        )
    tasks = tasks_of(program, source.timing)
    notes = HlsNotes.of(tasks, target.clock_hz)
    text, used = print_kernel(tasks, notes), uses(kernel_constructs(tasks, notes))
    if not source.oversize:
        _check_fits(used, target)
    found = ports(tasks, text, target)
    contents: dict[str, str | bytes] = dict(_sources(tasks, text, source))
    data = {} if golden is None else {**golden[0], **golden[1]}
    fmt, top = program.format, top_name(program)
    emitted, least = depths(tasks, text, source)
    project = {
        "top": top,
        "part": target.part,
        "period": f"{1e9 / target.clock_hz:.3f}",
        "golden": bool(data),
    }
    for name in ("run_hls.tcl", "hls_config.cfg"):
        contents[name] = _filled(name, source, "# ", **project)
    headers = sorted(name for name in contents if name.endswith((".h", ".hpp")))
    build = {"headers": headers, "fixed": fmt.exact, "depths": emitted, "minimal": least}
    contents["Makefile"] = _filled("Makefile", source, "# ", top=top, **build)
    contents["link.cfg"] = _filled("link.cfg", source, "# ", top=top, ports=found)
    contents["host.cpp"] = _filled("host.cpp", source, "// ", top=top, ports=found, fixed=fmt.exact)
    contents["host.py"] = _filled("host.py", source, "# ", top=top, ports=found)
    lines = sum(len(str(contents[name]).splitlines()) for name in WRITTEN)
    contents["report.json"] = report(tasks, text, target, source, used, lines)
    contents["README.md"] = _readme(tasks, text, target, source, used, golden=bool(data))
    for buffer in (*program.inputs, *program.outputs):
        if buffer.name in data:
            contents[f"golden/{buffer.name}.bin"] = encode(data[buffer.name], buffer, fmt)
    return Artifact(contents)


def _check_fits(used: tuple[Use, ...], target: Target) -> None:
    """Refuse a kernel that takes more than the part has, in numbers."""
    has = dict(target.resources)
    too_many = exceeded(used, has)
    if not too_many:
        return
    name = next(iter(too_many))
    place = NAMES.index(name)
    most = sorted(used[:-1], key=lambda each: -each.counts[place])[:3]
    listed = ", ".join(f"{each.task} {each.counts[place]:,}" for each in most)
    raise TargetError(
        f"the project needs {', '.join(in_words(used, has))} that {target.name} has; "
        f"of {name} most take {listed}",
        fix="let 'penstock explore' find a design that fits, take a larger part, or write it all "
        "the same with --oversize",
    )


def tasks_of(program: Program, timing: Timing | None = None) -> Tasks:
    """Return the tasks that a program is printed as; `timing` says how deep their streams are."""
    program, tiles = shaped(program)
    tasks = split(program, _workspace(program), tiles)
    tasks = received(tasks, HlsNotes.of(tasks, CLOCK_HZ).hardware)
    return tasks if timing is None else tasks.with_depths(timing.depths)


def shaped(program: Program) -> tuple[Program, dict[str, str]]:
    """Return the program as nests of loops that an HLS tool makes pipelines of.

    With it come the tiles of outputs, as `split` takes them.
    """
    program = sink_spatial(widen(unroll_units(program)))
    program, tiles = in_rows(program)
    program = widen(program)
    program = cut_strides(spread_fills(in_bursts(hoisted(without_units(program)))))
    _, stages = stages_in(program, _workspace(program))
    hardware = HlsNotes(program).hardware
    program = merged(program, hardware, copies=len(stages.names) == 1)
    return without_implied(program), tiles


def _workspace(program: Program) -> frozenset[str]:
    return frozenset(each.name for each in workspace(program))


def sources(program: Program, source: Provenance) -> dict[str, str]:
    """Return the C++ files of a program: all that a C simulation needs."""
    tasks = tasks_of(program, source.timing)
    return _sources(tasks, print_kernel(tasks, HlsNotes.of(tasks, CLOCK_HZ)), source)


def _sources(tasks: Tasks, text: KernelText, source: Provenance) -> dict[str, str]:
    program, fmt = tasks.program, tasks.program.format
    own = _own_types(program)
    header = _header(fmt, own)
    result = {name: _read(name) for name in _included(header)}
    result["config.hpp"] = _filled(
        "config.hpp",
        source,
        "// ",
        header=header,
        format=described(fmt),
        algorithms=_algorithms(fmt),
        own=[
            (own_type(each, fmt), type_name("data", each), f"{', '.join(names)}: {each}")
            for each, names in own.items()
        ],
        **_types(program),
    )
    head = f'extern "C" void {top_name(program)}({", ".join(text.parameters)})'
    common = {"signature": tuple(wrapped(head, 0))}
    result["kernel.h"] = _filled("kernel.h", source, "// ", **common)
    result["kernel.cpp"] = _filled(
        "kernel.cpp",
        source,
        "// ",
        constants=text.constants,
        functions=text.functions,
        interface=interface(program, text.names),
        unused=text.unused,
        streams=stream_pragmas(tasks, text.names),
        calls=tuple(together([f"PK_TASK({call})" for call in text.calls], WIDTH - 2)),
        **common,
    )
    found = ports(tasks, text)
    result["tb.cpp"] = _filled(
        "tb.cpp",
        source,
        "// ",
        top=top_name(program),
        ports=found,
        arguments=", ".join(f"data::{port.name}" for port in found),
        tolerance=tolerance(fmt),
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


# --- parts of the files -----------------------------------------------------------------------


def _read(name: str) -> str:
    return (files("penstock.hls_templates") / name).read_text(encoding="utf-8")


def _filled(name: str, source: Provenance, mark: str, **values: Any) -> str:
    """Fill a template that starts with what made it."""
    lines = [f"{source.name}: made by penstock {penstock.__version__}, design {source.digest}"]
    lines += source.command.splitlines()
    return fill(name, banner="\n".join(mark + line for line in lines), **values)


def _header(fmt: Format, own: Collection[Format]) -> str:
    if fmt.exact:
        return "penstock_fixed.hpp"
    narrow = any(each.kind == "float" and each.bits < 32 for each in (fmt, *own))
    return "penstock_half.hpp" if narrow else "penstock_float.hpp"


def _own_types(program: Program) -> dict[Format, list[str]]:
    """Return format → the parameters, or else the buffer, that have it for themselves."""
    found: dict[Format, list[str]] = {}
    for each in all_buffers(program):
        if each.own is not None and each.kind == "data":
            found.setdefault(each.own, []).append(each.name)
    given = {each.name for each in (*program.inputs, *program.outputs)}
    return {
        own: [name for name in names if name in given] or [min(names, key=len)]
        for own, names in found.items()
    }


def _included(header: str) -> tuple[str, ...]:
    below = ("penstock_float.hpp",) if header == "penstock_half.hpp" else ()
    common = ("penstock_math.hpp", "penstock_loops.hpp", "penstock_stream.hpp", "penstock_tb.hpp")
    return (header, *below, *common)


def _algorithms(fmt: Format) -> tuple[str, ...]:
    """Return the lines that choose how functions of fixed point are computed."""
    if not fmt.exact:
        return ()
    power = ("a table of 16 roots and a polynomial of degree 4", "relative error below 2^-37")
    quotient = ("bit by bit", "exact, rounded half up")
    defines = []
    if "poly" in fmt.algorithms:
        defines.append("#define PK_POLYNOMIAL")
        power = ("a polynomial of degree 5", "relative error below 2^-23")
    if "newton" in fmt.algorithms:
        defines.append("#define PK_NEWTON")
        quotient = ("a reciprocal of three Newton steps", "relative error below 2^-29")
    said = f"// {fmt}: exp is a base-2 split and {power[0]}, {power[1]};"
    return (said, f"// quotients are taken by {quotient[0]}, {quotient[1]}.", *defines)


def _types(program: Program) -> dict[str, str]:
    fmt = program.format
    if not fmt.exact:
        kind = FLOATS[fmt.name]
        return {"data": kind.storage, "accumulator": kind.compute, "compute": kind.compute}
    width, integer = program.accumulator_bits
    data = f"ap_fixed<{fmt.bits}, {fmt.integer_bits}, AP_RND, AP_SAT>"
    accumulator = f"ap_fixed<{width}, {integer}>" if width else "data_t"
    return {"data": data, "accumulator": accumulator, "compute": "data_t"}


def _loops(text: KernelText, timing: Timing) -> list[tuple[str, str, int, str, int]]:
    """Return the pipelined loops, each by the label of its innermost one."""
    return [
        (task, text.names[loop.split(", ")[-1]], interval, why, steps)
        for task, loop, interval, why, steps in timing.loops
    ]


def _readme(
    tasks: Tasks,
    text: KernelText,
    target: Target,
    source: Provenance,
    used: tuple[Use, ...],
    *,
    golden: bool,
) -> str:
    fmt, timing = tasks.program.format, source.timing
    values: Mapping[str, Any] = {
        "name": source.name,
        "top": top_name(tasks.program),
        "target": target.name,
        "part": target.part,
        "clock": f"{target.clock_hz / 1e6:g}",
        "format": str(fmt),
        "version": penstock.__version__,
        "digest": source.digest,
        "command": source.command or "(from Python)",
        "fixed": fmt.exact,
        "golden": golden,
        "outer": target.dram.name,
        "ports": ports(tasks, text, target),
        "element": element(fmt),
        "buffers": local_buffers(tasks, text),
        "tolerance": tolerance(fmt),
        "metrics": source.metrics,
        "timing": timing,
        "bottleneck": longest(timing) if timing else "",
        "tasks": described_tasks(tasks, text, source),
        "direct": sorted(tasks.direct.items()),
        "streams": streams(tasks, text, source),
        "resources": NAMES,
        "uses": used,
        "exceeded": ", ".join(in_words(used, dict(target.resources))),
        "limits": [dict(target.resources).get(name) for name in NAMES],
        "loops": _loops(text, timing) if timing else (),
    }
    return fill("README.md", **values)

"""What the machine of a design becomes on an FPGA, and the section of the report on it.

The RTL is that of `generate --backend rtl`; `fit` makes its memories as small as the design's
program and tiles allow. Excluded: running the tools (`codegen/rtl/synth.py`).
"""

from __future__ import annotations

from penstock.codegen.rtl.generate import machine_files
from penstock.codegen.rtl.synth import Synthesis, synthesize
from penstock.design import Design
from penstock.report.data import Section, Table
from penstock.studies.cosim import program_of

__all__ = ["section", "synthesized"]


def synthesized(
    design: Design, family: str = "xcup", *, route: bool = False, fit: bool = False
) -> Synthesis:
    """Map the machine of a design to an FPGA.

    Args:
        design: on a small spatial array, in fixed point.
        family: one of `synth.FAMILIES`.
        route: place and route it too, for a clock; ECP5 only.
        fit: with memories as small as the design allows.

    Raises:
        MappingError: the machine cannot run the design.
        TargetError: no machine is generated for the target.
        ToolError: no yosys is installed, no nextpnr for `route`, or it refuses the text.
    """
    program = program_of(design)
    hardware = program.fitted() if fit else program.hardware
    files = machine_files(hardware, "// made by penstock")
    sources = {name: text for name, text in files.items() if name.endswith(".sv")}
    return synthesize(sources, hardware.name, family, route=route)


def section(design: Design, found: Synthesis) -> Section:
    """Return what synthesis counted as a section of the report."""
    hardware = program_of(design).hardware
    rows = tuple((each.name, f"{each.value:,.0f}", each.unit) for each in found.metrics())
    cores = ", ".join(f"{each.name} {each.rows} x {each.cols}" for each in hardware.cores)
    note = (
        f"The machine {hardware.name} ({cores}; words of {hardware.bits} bits; {hardware.banks} "
        f"banks of {hardware.words} words for each unit that writes), mapped by {found.tool} to "
        f"{found.family}, module by module. It is not Vivado: LUTs are indicative."
    )
    title = "RTL on an FPGA"
    table = Table("Cells", "evidence: synthesis", ("kind", "number", "unit"), rows)
    data = {"tool": found.tool, "family": found.family, "cells": dict(found.cells)}
    return Section(title, note, (table,), data)

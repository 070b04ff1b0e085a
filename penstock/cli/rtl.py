"""``synth``, ``verify --rtl``, ``simulate --clocked``: RTL on a fabric, in Verilator, its clock."""

from __future__ import annotations

import argparse
from pathlib import Path

from penstock.cli import output
from penstock.cli.sources import design_of
from penstock.codegen.rtl.synth import Synthesis, synthesize
from penstock.design import Design
from penstock.errors import FileError, PenstockError
from penstock.files import read_text
from penstock.metrics import Check
from penstock.sim.clock.clocked import run_clocked
from penstock.studies.cosim import check_of, cosimulate, program_of
from penstock.studies.synthesis import synthesized

__all__ = ["clocked", "synth", "verify_rtl"]


def synth(options: argparse.Namespace) -> None:
    """Count the cells of SystemVerilog files, or of a design's machine."""
    found = _synthesis(options)
    if options.json:
        metrics = [each.to_json() for each in found.metrics()]
        output.print_json({"tool": found.tool, "metrics": metrics, "cells": dict(found.cells)})
    else:
        output.print_metrics(found.metrics())


def _synthesis(options: argparse.Namespace) -> Synthesis:
    files: list[str] = options.file
    if any(name.endswith(".json") for name in files):
        if len(files) > 1 or options.top:
            raise PenstockError(
                "a design.json is synthesised alone, and its top module is known",
                fix="give one design.json, or SystemVerilog files with --top",
            )
        design = Design.load(files[0])
        return synthesized(design, options.family, route=options.route, fit=options.fit)
    if options.fit or not options.top:
        raise PenstockError(
            "SystemVerilog files need --top MODULE, and have no memories to --fit",
            fix="name the outermost module, or give a design.json",
        )
    texts = {f"{place}_{Path(name).name}": read_text(name) for place, name in enumerate(files)}
    return synthesize(texts, options.top, options.family, route=options.route)


def clocked(options: argparse.Namespace) -> None:
    """Run a design on the clock that the RTL of its machine was compared with."""
    if options.timing or options.full or options.inputs or options.trace:
        raise PenstockError(
            "--clocked counts the cycles of the design's RTL, and nothing else",
            fix="leave out --timing, --full, --inputs and --trace; 'verify --rtl' compares values",
        )
    design = design_of(options, "mesh4x4")
    program = program_of(design)
    run = run_clocked(program)
    metrics = run.metrics(program.hardware, design.target.clock_hz)
    if options.json:
        output.print_json({"metrics": [each.to_json() for each in metrics]})
    else:
        output.print_metrics((*metrics, *design.evaluate().metrics()[:1]))


def verify_rtl(options: argparse.Namespace) -> Check:
    """Run a design's RTL in Verilator beside the simulator, with random data and stalls."""
    design = design_of(options, "mesh4x4")
    sources = _sources(Path(options.rtl_dir)) if options.rtl_dir else None
    found = cosimulate(
        design, cases=options.cases, seed=options.seed, fit=options.fit, sources=sources
    )
    check = check_of(found)
    if options.json:
        cases = [each.to_json() for each in found]
        output.print_json({"checks": [check.to_json()], "cases": cases})
    else:
        output.print_checks([check])
    return check


def _sources(folder: Path) -> dict[str, str]:
    """Return the SystemVerilog files of a folder."""
    found = {each.name: read_text(str(each)) for each in sorted(folder.glob("*.sv"))}
    if not found:
        raise FileError(
            f"{folder} has no SystemVerilog files",
            fix="write them with 'penstock generate design.json --backend rtl -o FOLDER'",
        )
    return found

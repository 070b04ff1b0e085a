"""One section of the report for an FPGA person: what the HLS project of a design takes and does.

Resources by task and construct, cycles by task and loop, bandwidth by port, and what limits it, in
words. Everything is evidence *model*: nothing was synthesised. Excluded: drawing (`report`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.codegen.hls.constructs import Construct
from penstock.codegen.hls.generate import tasks_of
from penstock.codegen.hls.pragmas import HlsNotes
from penstock.codegen.hls.print import print_kernel
from penstock.codegen.hls.project import ports
from penstock.codegen.hls.resources import kernel_constructs
from penstock.codegen.timing.timeline import LoopTime, Timeline
from penstock.design import Design
from penstock.pipelines import kernel_network, kernel_timing
from penstock.report.data import Section, Table
from penstock.sim.pipeline import PipelineRun, run_pipeline
from penstock.targets.cores import Cost

__all__ = ["fpga_section"]

NAMES = ("LUT", "FF", "DSP", "BRAM", "URAM")
LOOPS = 8
"""Of the loops, those that take most cycles are listed."""


@dataclass(frozen=True)
class _Kernel:
    """What the tables are made of."""

    design: Design
    run: PipelineRun
    lines: Mapping[str, Timeline]
    constructs: tuple[Construct, ...]
    names: Mapping[str, str]

    def loops(self, loop: LoopTime) -> str:
        """Return the loops that are one pipeline, as the kernel calls them."""
        return ", ".join(self.names[each] for each in loop.loop.split(", "))


def fpga_section(design: Design) -> Section:
    """Return the section of a design's HLS project.

    Args:
        design: mapped to an FPGA.

    Raises:
        PenstockError: no HLS project can be made of it; says why.
    """
    program = design.program()
    tasks = tasks_of(program)
    notes = HlsNotes.of(tasks, design.target.clock_hz)
    network, lines = kernel_network(program, design.target.clock_hz)
    depths = kernel_timing(program, design.target.clock_hz).depths
    run = run_pipeline(network, depths)
    text = print_kernel(tasks, notes)
    constructs = kernel_constructs(tasks.with_depths(depths), notes)
    kernel = _Kernel(design, run, lines, constructs, text.names)
    channels = {
        port.file: port.channel or port.bundle for port in ports(tasks, text, design.target)
    }
    bound = _bottleneck(kernel)
    tables = (
        _resources(kernel),
        _constructs(kernel),
        _tasks(kernel),
        _loops(kernel),
        _bandwidth(kernel, channels),
    )
    data = {
        "evidence": "model",
        "digest": design.digest,
        "cycles": kernel.run.cycles,
        "bottleneck": bound,
        "tables": {table.title: [table.columns, *table.rows] for table in tables},
    }
    title = f"HLS project of {design.cascade.name} on {design.target.name}"
    cycles, clock = kernel.run.cycles, design.target.clock_hz
    note = (
        f"{cycles:,} cycles, {cycles / clock * 1e6:,.1f} us at {clock / 1e6:g} MHz (model; nothing "
        f"was synthesised). {bound}"
    )
    return Section(title, note, tables, data)


def _bottleneck(kernel: _Kernel) -> str:
    """Say what the cycles go to."""
    total = kernel.run.cycles
    task = max(kernel.lines, key=lambda name: kernel.lines[name].steps)
    line = kernel.lines[task]
    text = f"The bottleneck is task {task}: {line.steps:,} cycles ({_share(line.steps, total)})"
    if line.loops:
        loop = max(line.loops, key=lambda each: each.cycles)
        text += (
            f", of which loop {kernel.loops(loop)} takes {loop.cycles:,}, a step every "
            f"{loop.pipelined.interval} cycles ({loop.pipelined.cause})"
        )
    return f"{text}."


def _share(part: float, total: float) -> str:
    return f"{100 * part / total:.1f} %" if total else "-"


def _counts(costs: list[Cost]) -> tuple[float, ...]:
    parts = [cost.of_part() for cost in costs]
    return tuple(sum(part[name] for part in parts) for name in NAMES)


def _row(name: str, counts: tuple[float, ...]) -> tuple[str, ...]:
    return (name, *(f"{count:,.0f}" for count in counts))


def _resources(kernel: _Kernel) -> Table:
    names = dict.fromkeys(each.task for each in kernel.constructs)
    rows = [
        _row(name, _counts([e.cost for e in kernel.constructs if e.task == name])) for name in names
    ]
    total = _counts([each.cost for each in kernel.constructs])
    has = dict(kernel.design.target.resources)
    share = tuple(_share(count, has.get(name, 0)) for name, count in zip(NAMES, total, strict=True))
    rows += [_row("all", total), ("of the part", *share)]
    note = f"of {kernel.design.target.part}; BRAM in blocks of 36 Kbit; without control logic"
    return Table("Resources by task", note, ("task", *NAMES), tuple(rows))


def _constructs(kernel: _Kernel) -> Table:
    kinds: dict[tuple[str, str], list[Construct]] = {}
    for each in kernel.constructs:
        name = each.name if each.kind == "operator" else ""
        kinds.setdefault((each.kind, name), []).append(each)
    rows = []
    for (kind, name), found in kinds.items():
        counted = f"{sum(each.count for each in found):,}"
        rows.append(
            (f"{kind} {name}".strip(), counted, *_row("", _counts([e.cost for e in found]))[1:])
        )
    rows.sort(key=lambda row: -float(row[2].replace(",", "")))
    note = "operators side by side, elements or banks of buffers, tokens of streams"
    return Table("Resources by construct", note, ("construct", "count", *NAMES), tuple(rows))


def _tasks(kernel: _Kernel) -> Table:
    rows = []
    for name, line in kernel.lines.items():
        waits = kernel.run.stalls[name]
        worst = max(waits, key=lambda each: waits[each], default=None)
        why = "-" if worst is None else f"{worst[0]} is {worst[1]}: {waits[worst]:,}"
        cells = (line.steps, sum(waits.values()), kernel.run.ends[name])
        rows.append((name, *(f"{cycles:,}" for cycles in cells), why))
    columns = ("task", "own cycles", "waits", "ends at", "longest wait")
    note = "what each task takes by itself, and what it waits for its streams"
    return Table("Cycles by task", note, columns, tuple(rows))


def _loops(kernel: _Kernel) -> Table:
    found: list[tuple[str, LoopTime]] = [
        (task, loop) for task, line in kernel.lines.items() for loop in line.loops
    ]
    found.sort(key=lambda each: -each[1].cycles)
    rows = [
        (
            task,
            kernel.loops(loop),
            f"{loop.steps:,}",
            str(loop.pipelined.interval),
            str(loop.pipelined.latency),
            f"{loop.cycles:,}",
            loop.pipelined.cause,
        )
        for task, loop in found[:LOOPS]
    ]
    columns = ("task", "loop", "steps", "II", "latency", "cycles", "what sets II")
    note = f"the {len(rows)} that take most of {len(found)}"
    return Table("Cycles by pipelined loop", note, columns, tuple(rows))


def _bandwidth(kernel: _Kernel, channels: Mapping[str, str]) -> Table:
    design, said = kernel.design, kernel.design.evaluate()
    seconds = kernel.run.cycles / design.target.clock_hz
    dram = design.target.dram
    peak = dram.bytes_per_cycle * design.target.clock_hz / 1e9
    rows = []
    total = 0.0
    for name, channel in channels.items():
        moved = sum(
            (row.reads + row.writes) * said.element_bytes[row.tensor]
            for row in said.traffic
            if row.memory == dram.name and row.tensor == name
        )
        total += moved
        rows.append((name, channel, f"{moved:,.0f}", f"{moved / seconds / 1e9:.2f}"))
    rows.append(("all", dram.name, f"{total:,.0f}", f"{total / seconds / 1e9:.2f}"))
    note = (
        f"of {peak:,.1f} GB/s that {dram.name} has; {_share(total / seconds / 1e9, peak)} are used"
    )
    return Table("Bandwidth by port", note, ("tensor", "channel", "bytes", "GB/s"), tuple(rows))

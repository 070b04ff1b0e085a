"""One section of the report for a GPU person: how a design is launched, and where its time goes.

Launch, memories with their fill and bandwidth, Einsums by the unit that does them. Everything is
evidence *model*: nothing was run. Excluded: drawing (`report`).
"""

from __future__ import annotations

import math

from penstock.design import Design, choices
from penstock.mapper.model.evaluate import Evaluation
from penstock.metrics import number, quantity
from penstock.report.data import Section, Table

__all__ = ["gpu_section"]


def gpu_section(design: Design) -> Section:
    """Return the section of a design on a GPU."""
    made = design.evaluate()
    launch = choices(design)
    tables = (
        Table(
            "Launch",
            "What the mapping chose.",
            ("what", "value", "unit"),
            tuple((each.name.replace("_", " "), number(each.value), each.unit) for each in launch),
        ),
        _memories(design, made),
        _units(made),
    )
    data = {
        "evidence": "model",
        "digest": design.digest,
        "launch": {each.name: each.value for each in launch},
        "tables": {table.title: [table.columns, *table.rows] for table in tables},
    }
    title = f"Kernel of {design.cascade.name} on {design.target.name}"
    time = quantity(made.latency_s, "s")
    return Section(title, f"{time} (model; nothing was run). {_bottleneck(made)}", tables, data)


def _bottleneck(made: Evaluation) -> str:
    """Say what the cycles go to."""
    if made.binding != "schedule":
        return f"The bandwidth of {made.binding} sets the time."
    busy = made.busy()
    name = max(busy, key=lambda each: busy[each], default="")
    return f"{name} works in {100 * busy[name]:.0f} % of the cycles; no memory limits it."


def _memories(design: Design, made: Evaluation) -> Table:
    rows = []
    for memory in design.target.memories:
        needed = sum(e.needed_bytes for e in made.occupancy if e.memory == memory.name)
        finite = memory.capacity_bytes < math.inf
        full = f"{100 * needed / memory.capacity_bytes:.1f} %" if finite else "-"
        rate = memory.bytes_per_cycle * design.target.clock_hz
        cycles = made.memory_cycles.get(memory.name, 0.0)
        rows.append(
            (
                memory.name,
                quantity(memory.capacity_bytes, "B") if finite else "-",
                quantity(needed, "B"),
                full,
                quantity(made.bytes_at(memory.name), "B"),
                f"{quantity(rate, 'B')}/s" if rate < math.inf else "-",
                f"{100 * cycles / made.latency_cycles:.1f} %",
            )
        )
    return Table(
        "Memories",
        "One instance of each (a block's shared memory, a thread's registers); traffic is of all.",
        ("memory", "capacity", "needed", "full", "moved", "bandwidth", "busy"),
        tuple(rows),
    )


def _units(made: Evaluation) -> Table:
    leaves = sorted(made.leaves, key=lambda each: -each.cycles)
    rows = (
        (e.einsum, e.array, number(e.cycles), f"{100 * e.cycles / made.latency_cycles:.1f} %")
        for e in leaves
    )
    note = "The unit that does each Einsum (tensor: tensor cores), the longest first."
    return Table("Einsums by unit", note, ("Einsum", "unit", "cycles", "of the time"), tuple(rows))

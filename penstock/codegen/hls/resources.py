"""What a kernel takes of its part, task by task: evidence *model*.

Rows come from `resources` (operators, buffers) and `targets.cores` (streams, ports, control).
Excluded: what the platform around the kernel takes; whether it fits (`mapper.resources`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from penstock.codegen.hls.constructs import Construct, buffer_constructs, operator_constructs
from penstock.codegen.hls.data import bits_of
from penstock.codegen.hls.pragmas import HlsNotes, bundles, fifo_kind
from penstock.codegen.hls.split import Tasks
from penstock.codegen.hls.words import PORT_BITS
from penstock.codegen.loops.nodes import Alloc, Buffer, Program, walk_statements
from penstock.targets.cores import Cost, control, fifo, port

__all__ = ["NAMES", "Use", "element_bits", "exceeded", "in_words"]
__all__ += ["kernel_constructs", "uses"]

NAMES = ("LUT", "FF", "DSP", "BRAM", "URAM")


@dataclass(frozen=True, slots=True)
class Use:
    """What one task takes, in the order of `NAMES`; ``largest`` is its largest part, in words."""

    task: str
    counts: tuple[int, ...]
    largest: str


def element_bits(buffer: Buffer, program: Program) -> int:
    """Return the bits of an element on the chip."""
    if buffer.kind != "acc":
        return bits_of(buffer.kind, buffer.own, program.format)
    if not program.format.exact:
        return max(program.format.bits, 32)
    return program.accumulator_bits[0] or program.format.bits


def kernel_constructs(tasks: Tasks, notes: HlsNotes) -> tuple[Construct, ...]:
    """Return everything that a kernel consists of."""
    program, hardware = tasks.program, notes.hardware
    bits = {
        each.buffer.name: element_bits(each.buffer, program)
        for each in walk_statements(program.body)
        if isinstance(each, Alloc)
    }
    rows: list[Construct] = []
    for task in tasks.tasks:
        rows += operator_constructs(task.name, task.body, hardware)
        rows += buffer_constructs(task.name, task.body, hardware, bits)
    found = bundles(program)
    for each in tasks.streams.values():
        wide = each.lanes * bits_of(each.kind, each.own, program.format)
        cost = fifo(each.depth, wide, fifo_kind(each, program))
        rows.append(Construct("streams", "stream", each.name, each.depth, cost))
    rows += [Construct("ports", "port", each.name, 1, port(PORT_BITS)) for each, _, _ in found]
    rows.append(Construct("ports", "control", "s_axilite", len(found), control(len(found))))
    return tuple(rows)


def uses(constructs: tuple[Construct, ...]) -> tuple[Use, ...]:
    """Return a row for each task, and one for all of them."""
    names = dict.fromkeys(each.task for each in constructs)
    rows = [_use(name, [e for e in constructs if e.task == name]) for name in names]
    return (*rows, _use("all", list(constructs)))


def exceeded(used: tuple[Use, ...], has: Mapping[str, int]) -> dict[str, int]:
    """Return how many the kernel takes of what it takes more of than there is."""
    counts = zip(NAMES, used[-1].counts, strict=True)
    return {name: count for name, count in counts if name in has and count > has[name]}


def in_words(used: tuple[Use, ...], has: Mapping[str, int]) -> tuple[str, ...]:
    """Return what the kernel takes more of than there is as ``9,100 DSP of 9,024``."""
    found = exceeded(used, has).items()
    return tuple(f"{count:,} {name} of {has[name]:,}" for name, count in found)


def _use(name: str, constructs: list[Construct]) -> Use:
    total = sum((each.cost for each in constructs), start=Cost())
    largest = max(constructs, key=lambda each: each.cost.lut + 50 * each.cost.dsp)
    return Use(name, tuple(math.ceil(n) for n in _counts(total)), _words(largest))


def _counts(cost: Cost) -> Iterator[float]:
    yield from (cost.lut, cost.ff, cost.dsp, cost.bram, cost.uram)


def _words(construct: Construct) -> str:
    return f"{construct.count:,} {construct.kind} {construct.name}".rstrip()

"""Which HLS pragma stands where, and the mapping decision behind each.

Everything is read off the program: an array's axis gives ``UNROLL`` (nothing inside a pipelined
loop: ``PIPELINE`` unrolls all of its body), the innermost serial loop
``PIPELINE`` with the interval of `schedule`, a buffer that unrolled loops index
``ARRAY_PARTITION`` (``ARRAY_RESHAPE`` where only words of the port do), a buffer of some size
``BIND_STORAGE``, a parameter its ``INTERFACE``, a stream its ``STREAM``. Each kind of pragma is
written in one place here, the reason at the end of its line.

Excluded on purpose: ``DEPENDENCE`` (the tool proves those).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from penstock.codegen.hls.banks import Split, in_registers, partitions
from penstock.codegen.hls.cpp import WIDTH, Notes, identifiers, together, workspace
from penstock.codegen.hls.data import bits_of, type_name
from penstock.codegen.hls.loops import UNROLLED, has_serial, is_serial
from penstock.codegen.hls.split import Stream, Tasks
from penstock.codegen.loops.nodes import (
    Alloc,
    Buffer,
    For,
    Program,
    walk_statements,
)
from penstock.codegen.lower.index import atom, range_of
from penstock.codegen.timing.schedule import Hardware, pipelined
from penstock.codegen.timing.timeline import perfect
from penstock.targets.cores import Number, storage

__all__ = ["HlsNotes", "bundles", "fifo_kind", "interface", "streams"]

CLOCK_HZ = 300e6
"""Of a C simulation, which has none: AMD's cards (DS963)."""

BIND_BITS = 1024
"""Smaller buffers are left to the tool, which makes them registers or LUT RAM."""

FIFO_BITS = 18 * 1024
"""Smaller streams are left to the tool: one half of a block RAM (AMD UG573)."""

IMPLEMENTATIONS = ("bram", "uram", "lutram")
"""Memories of a target that BIND_STORAGE knows by name; others are ``auto``."""


def bundles(program: Program) -> tuple[tuple[Buffer, str, str], ...]:
    """Return every pointer of the kernel: its buffer, its direction, its AXI bundle."""
    groups = ((program.inputs, "in"), (program.outputs, "out"), (workspace(program), "workspace"))
    ports = [(buffer, role) for buffers, role in groups for buffer in buffers]
    return tuple((buffer, role, f"gmem{n}") for n, (buffer, role) in enumerate(ports))


def interface(program: Program, names: dict[str, str]) -> tuple[str, ...]:
    """Return the INTERFACE pragmas: a port of its own for every tensor in the outer memory."""
    each = [
        f"PK_PORT({names[buffer.name]}, {bundle}, {math.prod(buffer.shape)})"
        for buffer, _, bundle in bundles(program)
    ]
    said = "PK_CONTROL  // each tensor has a port; link.cfg says which channel it goes to"
    return (*together(each, WIDTH - 2), said)


def streams(tasks: Tasks, names: dict[str, str]) -> tuple[str, ...]:
    """Return the definitions of the streams, each with its depth and the reason for it."""
    found: dict[str, list[str]] = {}
    for each in tasks.streams.values():
        reason = each.reason.replace(f"keep {each.tensor} ", "keep .. ")
        name = names[each.name]
        text = f"PK_STREAM({name}, {each.depth}, {type_name(each.kind, each.own)}, {each.lanes})"
        if kind := fifo_kind(each, tasks.program):
            text += f" PK_KEEP_FIFO({name}, {kind})"
        found.setdefault(reason, []).append(text)
    return tuple(
        line
        for reason, parts in found.items()
        for line in _commented(list(together(parts, WIDTH - 2)), reason)
    )


def _commented(lines: list[str], said: str) -> Iterator[str]:
    """Yield lines with what they have in common beside the only one, or before them."""
    if len(lines) == 1 and len(lines[0]) + len(said) + 6 <= WIDTH:
        yield f"{lines[0]}  // {said}"
    else:
        yield f"// {said}"
        yield from lines


def fifo_kind(stream: Stream, program: Program) -> str:
    """Return the memory that a stream asks for, "" if the tool may choose."""
    bits = stream.depth * stream.lanes * bits_of(stream.kind, stream.own, program.format)
    return stream.memory if stream.memory in IMPLEMENTATIONS and bits >= FIFO_BITS else ""


@dataclass(frozen=True)
class HlsNotes(Notes):
    """The pragmas of one program's loops and buffers.

    Args:
        program: what is printed.
        streams: names of its streams.
        words: names of the buffers that hold one token of several elements.
        clock_hz: of the part.
    """

    program: Program
    streams: frozenset[str] = frozenset()
    words: frozenset[str] = frozenset()
    clock_hz: float = CLOCK_HZ

    @staticmethod
    def of(tasks: Tasks, clock_hz: float) -> HlsNotes:
        """Return the pragmas of a pipeline of tasks."""
        return HlsNotes(tasks.program, frozenset(tasks.streams), tasks.words, clock_hz)

    @cached_property
    def hardware(self) -> Hardware:
        """What the loops run on: their buffers as the pragmas split them, ports and streams."""
        fmt, statements = self.program.format, tuple(walk_statements(self.program.body))
        outer = {buffer.name: buffer for buffer, _, _ in bundles(self.program)}
        local = {each.buffer.name: each.buffer for each in statements if isinstance(each, Alloc)}
        splits: dict[str, tuple[tuple[str, int] | None, ...]] = {
            name: tuple((how.kind, how.factor) if how else None for how in dims)
            for name, dims in self._partitions.items()
        }
        splits |= {name: (("complete", local[name].shape[0]),) for name in self.words}
        bits = 64 if fmt.name == "fp64" else 32
        fixed = (fmt.bits, fmt.fraction_bits, fmt.algorithms)
        exact = Number("fixed", *fixed) if fmt.exact else None
        return Hardware(
            exact or Number("float", bits),
            self.clock_hz,
            {name: each.shape for name, each in {**local, **outer}.items()},
            splits,
            frozenset(outer),
            self.streams,
            {name: bits_of(each.kind, each.own, fmt) for name, each in outer.items()},
        )

    @cached_property
    def _nests(self) -> dict[str, dict[str, int]]:
        """Innermost serial loop → variable → extent of it and of the loops that are one with it."""
        ranges: dict[str, tuple[int, int]] = {}
        found: dict[str, dict[str, int]] = {}
        for each in walk_statements(self.program.body):
            if isinstance(each, For):
                _, high = range_of(atom(each.extent), ranges)
                ranges[each.variable] = (0, max(0, int(high) - 1))
                if is_serial(each):
                    chain = perfect(each)
                    found.setdefault(chain[-1].variable, {e.variable: 0 for e in chain})
        return {
            inner: {name: ranges[name][1] + 1 for name in nest} for inner, nest in found.items()
        }

    @cached_property
    def _names_of(self) -> dict[str, str]:
        return identifiers(self.program)

    def loop(self, loop: For) -> tuple[str, str]:
        """Return the pragma of a loop, and its reason beside the loop's own comment."""
        if loop.variable in self._inside:
            return "", ""  # PIPELINE unrolls it
        if loop.kind in UNROLLED:
            return "PK_UNROLL", "" if loop.comment else f"side by side on {loop.axis}"
        if has_serial(loop.body):
            return "", ""
        found = pipelined(loop.body, self._nests[loop.variable], self.hardware)
        return f"PK_PIPELINE({found.interval})", found.cause if found.interval > 1 else ""

    @cached_property
    def _inside(self) -> frozenset[str]:
        """Variables of the loops inside pipelined ones."""
        pipelined = [
            each.body
            for each in walk_statements(self.program.body)
            if isinstance(each, For) and is_serial(each) and not has_serial(each.body)
        ]
        loops = (each for body in pipelined for each in walk_statements(body))
        return frozenset(each.variable for each in loops if isinstance(each, For))

    def buffer(self, buffer: Buffer) -> tuple[tuple[str, ...], str]:
        """Return the banks of a local buffer, dimension by dimension, and further pragmas."""
        name, splits = self._names_of[buffer.name], self._partitions.get(buffer.name, ())
        banks, words = ["1"] * len(buffer.shape), math.prod(buffer.shape)
        parts: list[str] = []
        for place, (how, extent) in enumerate(zip(splits, buffer.shape, strict=False)):
            if how is None:
                continue
            count = extent if how.kind == "complete" else how.factor
            words = words // extent * -(-extent // count)
            if how.word:
                kind = "WORDS" if how.kind == "complete" else f"{how.kind.upper()}_WORDS"
                factor = "" if how.kind == "complete" else f", {how.factor}"
                parts.append(f"PK_{kind}({name}, {place + 1}{factor})")
            elif how.kind == "block":
                parts.append(f"PK_BLOCK({name}, {place + 1}, {how.factor})")
            else:
                banks[place] = str(count)
        if in_registers(splits, buffer.shape):
            return tuple(map(str, buffer.shape)), ""
        return tuple(banks), " ".join([*parts, *self._storage(buffer, name, words)])

    def _storage(self, buffer: Buffer, name: str, words: int) -> list[str]:
        """Return where a buffer lies, by the size of its banks in words."""
        bits = bits_of(buffer.kind, buffer.own, self.program.format)
        if words * bits < BIND_BITS:
            return []
        kind = buffer.memory if buffer.memory in IMPLEMENTATIONS else "auto"
        kind = storage(words, bits, kind)
        return [f"PK_KEEP({name}, {kind})"]

    @cached_property
    def _partitions(self) -> dict[str, tuple[Split | None, ...]]:
        return partitions(self.program)

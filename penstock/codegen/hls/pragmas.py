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
from dataclasses import dataclass
from functools import cached_property

from penstock.codegen.hls.cpp import Notes, identifiers, workspace
from penstock.codegen.hls.loops import UNROLLED, is_serial
from penstock.codegen.hls.print import token_type
from penstock.codegen.hls.split import Tasks
from penstock.codegen.hls.words import PORT_BITS, WORD
from penstock.codegen.loops.nodes import (
    Alloc,
    Buffer,
    Const,
    For,
    LoopExpr,
    Name,
    Op,
    Program,
    walk_statements,
)
from penstock.codegen.loops.walk import elements, names
from penstock.codegen.lower.index import atom, range_of
from penstock.codegen.timing.schedule import Hardware, pipelined
from penstock.codegen.timing.timeline import perfect
from penstock.targets.cores import Number

__all__ = ["HlsNotes", "bundles", "interface", "streams"]

CLOCK_HZ = 300e6
"""Of a C simulation, which has none: AMD's cards (DS963)."""

COMPLETE_LIMIT = 1024
"""Vitis HLS splits an array into at most this many registers or banks along one dimension."""

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
    lines = ["// Each tensor has its own AXI port; link.cfg says which memory channel it goes to."]
    for buffer, _, bundle in bundles(program):
        name, depth = names[buffer.name], math.prod(buffer.shape)
        lines.append(
            f"#pragma HLS INTERFACE mode=m_axi port={name} bundle={bundle} offset=slave "
            f"depth={depth} max_widen_bitwidth={PORT_BITS}"
        )
        lines.append(f"#pragma HLS INTERFACE mode=s_axilite port={name}")
    return (*lines, "#pragma HLS INTERFACE mode=s_axilite port=return")


def streams(tasks: Tasks, names: dict[str, str]) -> tuple[str, ...]:
    """Return the definitions of the streams, each with its depth and the reason for it."""
    lines: list[str] = []
    for each in tasks.streams.values():
        name = names[each.name]
        lines.append(f'hls::stream<{token_type(each)}> {name}("{name}");')
        reason = f"  // {each.reason}"
        lines.append(f"#pragma HLS STREAM variable={name} depth={each.depth}{reason}")
        bits = each.depth * each.lanes * tasks.program.format.bits
        if each.memory in IMPLEMENTATIONS and bits >= FIFO_BITS:
            where = f"variable={name} type=fifo impl={each.memory}"
            lines.append(f"#pragma HLS BIND_STORAGE {where}  // kept in {each.memory}")
    return tuple(lines)


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
        exact = Number("fixed", fmt.bits, fmt.fraction_bits) if fmt.exact else None
        return Hardware(
            exact or Number("float", bits),
            self.clock_hz,
            {name: each.shape for name, each in {**local, **outer}.items()},
            splits,
            frozenset(outer),
            self.streams,
            fmt.bits,
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

    def loop(self, loop: For) -> tuple[str, ...]:
        """Return the pragma of a loop, with its reason."""
        if loop.variable in self._inside:
            return ()  # PIPELINE unrolls it
        if loop.kind in UNROLLED:
            where = "a word of the port" if loop.axis == WORD else f"side by side on {loop.axis}"
            said = f"{loop.comment}: {where}" if loop.comment else where
            return (f"#pragma HLS UNROLL  // {said}",)
        if any(is_serial(each) for each in walk_statements(loop.body)):
            return ()
        found = pipelined(loop.body, self._nests[loop.variable], self.hardware)
        return (f"#pragma HLS PIPELINE II={found.interval}  // {found.cause}",)

    @cached_property
    def _inside(self) -> frozenset[str]:
        """Variables of the loops inside pipelined ones."""
        pipelined = [
            each.body
            for each in walk_statements(self.program.body)
            if isinstance(each, For)
            and is_serial(each)
            and not any(is_serial(inner) for inner in walk_statements(each.body))
        ]
        loops = (each for body in pipelined for each in walk_statements(body))
        return frozenset(each.variable for each in loops if isinstance(each, For))

    def buffer(self, buffer: Buffer) -> tuple[str, ...]:
        """Return the pragmas of a local buffer: partitions, then the storage."""
        if not buffer.shape:
            return ()
        lines: list[str] = []
        banks = 1
        name, splits = self._names_of[buffer.name], self._partitions.get(buffer.name, ())
        if _registers(splits, buffer.shape):
            where = f"variable={name} type=complete dim=0"
            return (f"#pragma HLS ARRAY_PARTITION {where}  // a register for each place",)
        for place, how in enumerate(splits):
            if how is None:
                continue
            extent = buffer.shape[place]
            banks *= extent if how.kind == "complete" else how.factor
            text = how.kind if how.kind == "complete" else f"{how.kind} factor={how.factor}"
            pragma = "ARRAY_RESHAPE" if how.word else "ARRAY_PARTITION"
            why = "words of the port" if how.word else "unrolled loops"
            lines.append(
                f"#pragma HLS {pragma} variable={name} type={text} dim={place + 1}  // {why}"
            )
        return (*lines, *self._storage(buffer, name, banks))

    def _storage(self, buffer: Buffer, name: str, banks: int) -> tuple[str, ...]:
        bits = 1 if buffer.kind == "mask" else self.program.format.bits
        if math.prod(buffer.shape) * bits < BIND_BITS * banks:
            return ()
        implementation = buffer.memory if buffer.memory in IMPLEMENTATIONS else "auto"
        where = f"variable={name} type=ram_2p impl={implementation}"
        kept = buffer.memory or "the innermost memory"
        return (f"#pragma HLS BIND_STORAGE {where}  // kept in {kept}",)

    @cached_property
    def _partitions(self) -> dict[str, tuple[Split | None, ...]]:
        """Buffer → for each dimension how it is split, None for not at all."""
        loops = [
            each
            for each in walk_statements(self.program.body)
            if isinstance(each, For) and each.kind in UNROLLED and isinstance(each.extent, Const)
        ]
        lanes = {e.variable: int(e.extent.value) for e in loops if isinstance(e.extent, Const)}
        words = frozenset(each.variable for each in loops if each.axis == WORD)
        buffers = {
            each.buffer.name: each.buffer
            for each in walk_statements(self.program.body)
            if isinstance(each, Alloc)
        }
        found: dict[str, list[Split | None]] = {}
        for element in elements(self.program.body):
            name, indices = element.buffer, element.indices
            if name in buffers and indices:
                kinds = found.setdefault(name, [None] * len(indices))
                for place, index in enumerate(indices):
                    how = _partition(index, buffers[name].shape[place], lanes, words)
                    kinds[place] = _both(kinds[place], how, buffers[name].shape[place])
        return {name: tuple(kinds) for name, kinds in found.items()}


@dataclass(frozen=True, slots=True)
class Split:
    """How a dimension of a buffer is split: ``word`` if only words of the port need it."""

    kind: str
    factor: int
    word: bool


def _registers(splits: tuple[Split | None, ...], shape: tuple[int, ...]) -> bool:
    """Return whether all dimensions are split into single elements."""
    return bool(splits) and all(
        extent == 1 or (how is not None and how.kind == "complete" and not how.word)
        for how, extent in zip(splits, shape, strict=True)
    )


def _both(one: Split | None, two: Split | None, extent: int) -> Split | None:
    """Return a split that serves two accesses."""
    if one is None or two is None or one == two:
        return one or two
    word = one.word and two.word
    if (one.kind, one.factor) == (two.kind, two.factor):
        return Split(one.kind, one.factor, word)
    return _complete(extent, math.lcm(one.factor, two.factor), word=word)


def _complete(extent: int, lanes: int, *, word: bool) -> Split:
    if extent <= COMPLETE_LIMIT:
        return Split("complete", extent, word)
    return Split("cyclic", min(lanes, COMPLETE_LIMIT), word)


def _partition(
    index: LoopExpr, extent: int, lanes: dict[str, int], words: frozenset[str]
) -> Split | None:
    """Return how a dimension must be split so that all lanes reach their element at once."""
    used = [name for name in names(index) if name in lanes]
    if not used or extent == 1:
        return None
    word = words.issuperset(used)
    together = math.prod(lanes[name] for name in used)
    factors = _coefficients(index)
    if factors is None or len(used) > 1 or together >= extent:
        return _complete(extent, together, word=word)
    step = abs(factors[used[0]])
    if step == 1:
        return Split("cyclic", together, word)
    if step * together >= extent and extent % step == 0:
        return Split("block", extent // step, word)
    return _complete(extent, together, word=word)


def _coefficients(expr: LoopExpr) -> dict[str, int] | None:
    """Return the coefficient of every loop variable of an affine index, None for others.

    A sum may name a variable twice: its coefficients add up.
    """
    match expr:
        case Const():
            return {}
        case Name(name):
            return {name: 1}
        case Op("+" | "-" as op, (left, right)):
            one, two = _coefficients(left), _coefficients(right)
            if one is None or two is None:
                return None
            sign = 1 if op == "+" else -1
            return {n: one.get(n, 0) + sign * two.get(n, 0) for n in {**one, **two}}
        case Op("*", (Const(value), other)) | Op("*", (other, Const(value))):
            inner = _coefficients(other)
            return inner and {name: int(value) * factor for name, factor in inner.items()}
        case _:
            return None

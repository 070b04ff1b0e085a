"""Which HLS pragma stands where, and the mapping decision behind each.

Everything is read off the program: an array's axis gives ``UNROLL``, the innermost serial loop
``PIPELINE``, a buffer that unrolled loops index ``ARRAY_PARTITION``, a buffer of some size
``BIND_STORAGE``, a parameter its ``INTERFACE``. Each kind of pragma is written in one place here.

Excluded on purpose: ``DATAFLOW`` and streams (a ``pipelined`` loop of the mapping whose body has
loops of its own runs its stages one after the other), ``DEPENDENCE`` (the tool proves those).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from penstock.codegen.cpp import Notes, identifiers, workspace
from penstock.codegen.hls_loops import UNROLLED, is_serial
from penstock.codegen.loops import (
    Alloc,
    Buffer,
    Const,
    For,
    Load,
    LoopExpr,
    Name,
    Op,
    Program,
    Store,
    walk_statements,
)
from penstock.codegen.loops_walk import elements, names, walk_expression

__all__ = ["HlsNotes", "bundles", "interface"]

COMPLETE_LIMIT = 1024
"""Vitis HLS splits an array into at most this many registers or banks along one dimension."""

BIND_BITS = 1024
"""Smaller buffers are left to the tool, which makes them registers or LUT RAM."""

IMPLEMENTATIONS = ("bram", "uram", "lutram")
"""Memories of a target that BIND_STORAGE knows by name; others are ``auto``."""

_CHEAP = frozenset({"+", "-", "*", "max", "min", "abs", "neg", "where", "fill"})
"""Operators that a fixed-point recurrence can finish in one cycle."""


def bundles(program: Program) -> tuple[tuple[Buffer, str, str], ...]:
    """Return every pointer of the kernel: its buffer, its direction, its AXI bundle."""
    groups = ((program.inputs, "in"), (program.outputs, "out"), (workspace(program), "workspace"))
    ports = [(buffer, role) for buffers, role in groups for buffer in buffers]
    return tuple((buffer, role, f"gmem{n}") for n, (buffer, role) in enumerate(ports))


def interface(program: Program, names: dict[str, str]) -> tuple[str, ...]:
    """Return the INTERFACE pragmas: a port of its own for every tensor in the outer memory."""
    lines = ["  // Each tensor has its own AXI port, so that their transfers overlap."]
    for buffer, _, bundle in bundles(program):
        depth = math.prod(buffer.shape)
        lines.append(
            f"#pragma HLS INTERFACE mode=m_axi port={names[buffer.name]} bundle={bundle} "
            f"offset=slave depth={depth} max_widen_bitwidth=512"
        )
    lines.append("  // Addresses, start and done, for the host.")
    lines += [
        f"#pragma HLS INTERFACE mode=s_axilite port={names[buffer.name]}"
        for buffer, _, _ in bundles(program)
    ]
    return (*lines, "#pragma HLS INTERFACE mode=s_axilite port=return")


@dataclass(frozen=True)
class HlsNotes(Notes):
    """The pragmas of one program's loops and buffers.

    Args:
        program: what is printed.
    """

    program: Program

    @cached_property
    def _names_of(self) -> dict[str, str]:
        return identifiers(self.program)

    def loop(self, loop: For) -> tuple[str, ...]:
        """Return the pragma of a loop, with its reason."""
        if loop.kind in UNROLLED:
            return ("#pragma HLS UNROLL",)  # the comment above the loop names the axis
        if any(is_serial(each) for each in walk_statements(loop.body)):
            return self._outer(loop)
        target = "" if _slow_recurrence(loop, self.program.format.exact) else " II=1"
        reason = "innermost serial loop, a step each cycle"
        if not target:
            reason = "innermost serial loop; a step waits for the last one's result"
        return (f"// mapping: {reason}", f"#pragma HLS PIPELINE{target}")

    def _outer(self, loop: For) -> tuple[str, ...]:
        if not loop.pipelined:
            return ()
        return ("// mapping: pipelined; in this version its stages run one after the other",)

    def buffer(self, buffer: Buffer) -> tuple[str, ...]:
        """Return the pragmas of a local buffer: partitions, then the storage."""
        if not buffer.shape:
            return ()
        lines: list[str] = []
        banks = 1
        name = self._names_of[buffer.name]
        for place, how in enumerate(self._partitions.get(buffer.name, ())):
            if how is None:
                continue
            kind, factor = how
            extent = buffer.shape[place]
            banks *= extent if kind == "complete" else factor
            text = kind if kind == "complete" else f"{kind} factor={factor}"
            lines.append(f"// mapping: unrolled loops use dimension {place + 1} side by side")
            lines.append(f"#pragma HLS ARRAY_PARTITION variable={name} type={text} dim={place + 1}")
        return (*lines, *self._storage(buffer, name, banks))

    def _storage(self, buffer: Buffer, name: str, banks: int) -> tuple[str, ...]:
        bits = 1 if buffer.kind == "mask" else self.program.format.bits
        if math.prod(buffer.shape) * bits < BIND_BITS * banks:
            return ()
        implementation = buffer.memory if buffer.memory in IMPLEMENTATIONS else "auto"
        return (
            f"// mapping: kept in {buffer.memory or 'the innermost memory'}",
            f"#pragma HLS BIND_STORAGE variable={name} type=ram_2p impl={implementation}",
        )

    @cached_property
    def _partitions(self) -> dict[str, tuple[tuple[str, int] | None, ...]]:
        """Buffer → for each dimension how it is split (kind, factor), None for not at all."""
        lanes = {
            each.variable: int(each.extent.value)
            for each in walk_statements(self.program.body)
            if isinstance(each, For) and each.kind in UNROLLED and isinstance(each.extent, Const)
        }
        buffers = {
            each.buffer.name: each.buffer
            for each in walk_statements(self.program.body)
            if isinstance(each, Alloc)
        }
        found: dict[str, list[tuple[str, int] | None]] = {}
        for element in elements(self.program.body):
            name, indices = element.buffer, element.indices
            if name in buffers:
                kinds = found.setdefault(name, [None] * len(indices))
                for place, index in enumerate(indices):
                    how = _partition(index, buffers[name].shape[place], lanes)
                    kinds[place] = _both(kinds[place], how, buffers[name].shape[place])
        return {name: tuple(kinds) for name, kinds in found.items()}


def _both(
    one: tuple[str, int] | None, two: tuple[str, int] | None, extent: int
) -> tuple[str, int] | None:
    """Return a partition that serves two accesses."""
    if one is None or two is None or one == two:
        return one or two
    return _complete(extent, math.lcm(one[1], two[1]))


def _complete(extent: int, lanes: int) -> tuple[str, int]:
    if extent <= COMPLETE_LIMIT:
        return "complete", extent
    return "cyclic", min(lanes, COMPLETE_LIMIT)


def _partition(index: LoopExpr, extent: int, lanes: dict[str, int]) -> tuple[str, int] | None:
    """Return how a dimension must be split so that all lanes reach their element at once."""
    used = [name for name in names(index) if name in lanes]
    if not used or extent == 1:
        return None
    together = math.prod(lanes[name] for name in used)
    factors = _coefficients(index)
    if factors is None or len(used) > 1 or together >= extent:
        return _complete(extent, together)
    step = abs(factors[used[0]])
    if step == 1:
        return "cyclic", together
    if step * together >= extent and extent % step == 0:
        return "block", extent // step
    return _complete(extent, together)


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


def _slow_recurrence(loop: For, exact: bool) -> bool:
    """Return whether a step reads what the step before wrote, through slow operators.

    In floating point an addition alone takes several cycles; in fixed point only functions do.
    """
    cheap = _CHEAP if exact else frozenset[str]()
    return any(
        isinstance(each, Store)
        and loop.variable not in names(*each.indices)
        and not _between(each.value, each.buffer) <= cheap
        for each in walk_statements(loop.body)
    )


def _between(expr: LoopExpr, buffer: str) -> frozenset[str]:
    """Return the operators that a value of `buffer` goes through on its way to the result."""
    match expr:
        case Op(op, args):
            below = [_between(arg, buffer) for arg in args if _loads(arg, buffer)]
            return frozenset({op}).union(*below) if below else frozenset()
        case _:
            return frozenset()


def _loads(expr: LoopExpr, buffer: str) -> bool:
    return any(isinstance(node, Load) and node.buffer == buffer for node in walk_expression(expr))

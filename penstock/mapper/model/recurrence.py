"""How often an FPGA can start a step of a loop whose steps need what earlier ones computed.

A sum in floating point takes as long as the adder, unless its loop visits other elements in between
(query rows in turn); so does a state that is rescaled for every key rather than for every tile.
Exact sums take one cycle. `codegen/timing/schedule.py` finds the same for generated loops; the
operators are those of `targets/cores.py` for both. Machines other than FPGAs say in their
descriptions what an operator costs, all included.

Recurrences through several Einsums of a pipelined loop (a sum that one rescales and another adds
to) are circles of waits in `interval.py`; `result_cycles` is what each of them takes.

Excluded: recurrences through Einsums in a loop that is not pipelined (the simulator has those).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.nodes import Access, Apply, Einsum, Expr
from penstock.einsum_ir.ops import REDUCTIONS
from penstock.mapper.nodes import Compute, Nest
from penstock.mapper.resources import number_of
from penstock.targets.base import Target
from penstock.targets.cores import Cost, Number, core, usable_ns

__all__ = ["result_cycles", "step_interval"]

MEMORY_CYCLES = 2  # to read a state from a memory and to write it back


def step_interval(
    compute: Compute,
    einsum: Einsum,
    nests: tuple[Nest, ...],
    extents: Mapping[str, int],
    target: Target,
    fmt: Format,
) -> int:
    """Return the cycles between two steps of a leaf, for operators that take one by themselves.

    Args:
        compute: the leaf.
        einsum: what it computes.
        nests: the loops around it.
        extents: variable → coordinates in all.
        target: the machine; 1 if it is no FPGA.
        fmt: the number format of the run.
    """
    if target.family != "fpga":
        return 1
    apart = _steps_apart(compute, einsum, nests, extents)
    ops = _on_the_way(einsum, number_of(fmt)) if apart else ()
    if not ops:
        return 1
    cycles = _cycles(ops, target) + MEMORY_CYCLES * (apart > 1)
    return max(1, math.ceil(cycles / apart - 1e-9))


def result_cycles(einsum: Einsum, target: Target, fmt: Format) -> float:
    """Return the cycles from the last operand of an element to its value; 0 if it is no FPGA.

    Operators are in the version that Vitis HLS takes in recurrences. A state goes through its
    memory: what chains of logic leave of a cycle is lost, and one more to read it.
    """
    if target.family != "fpga":
        return 0.0
    number = number_of(fmt)
    fold = (core(REDUCTIONS[einsum.reduce.op].fold, number),) if einsum.reduce else ()
    usable = usable_ns(target.clock_hz)
    parts = [op.in_loop(usable) for op in (*_longest(einsum.body, number), *fold)]
    whole, share = sum(part[0] for part in parts), math.fsum(part[1] for part in parts)
    cycles: float = whole + (1 + max(1.0, share) if einsum.iterative else share)
    return cycles


def _longest(expr: Expr, number: Number) -> tuple[Cost, ...]:
    """Return the operators on the way through an expression that has the most registers."""
    if not isinstance(expr, Apply):
        return ()
    ways = [_longest(arg, number) for arg in expr.args]
    return (*max(ways, key=_registers, default=()), core(expr.op, number))


def _registers(way: tuple[Cost, ...]) -> int:
    return sum(each.latency for each in way)


def _cycles(ops: tuple[Cost, ...], target: Target) -> float:
    """Return what operators of a recurrence take one after another."""
    usable = usable_ns(target.clock_hz)
    return sum(sum(op.in_loop(usable)) for op in ops)


def _steps_apart(
    compute: Compute, einsum: Einsum, nests: tuple[Nest, ...], extents: Mapping[str, int]
) -> int:
    """Return the steps between two that concern the same element, 0 if no two do."""
    carried = {einsum.iterative, *(einsum.reduce.over if einsum.reduce else ())}
    left, apart, found = dict(extents), 1, 0
    for nest in nests:
        left[nest.loop.variable] = min(left[nest.loop.variable], nest.loop.tile)
    for loop in compute.loops:
        steps = math.ceil(left[loop.variable] / loop.tile)
        left[loop.variable] = min(left[loop.variable], loop.tile)
        if loop.spatial or steps == 1:
            continue
        if loop.variable in carried:
            apart, found = 1, 1
        else:
            apart *= steps
    return apart if found else 0


def _on_the_way(einsum: Einsum, number: Number) -> tuple[Cost, ...]:
    """Return the operators from an element of the output to its next value."""
    if einsum.iterative:
        return _through(einsum.body, einsum.name, number) or ()
    if einsum.reduce is None or einsum.selects:
        return ()
    return (core(REDUCTIONS[einsum.reduce.op].fold, number),)


def _through(expr: Expr, tensor: str, number: Number) -> tuple[Cost, ...] | None:
    """Return the operators that a tensor's value goes through, None if it is not there."""
    match expr:
        case Access():
            return () if expr.tensor == tensor else None
        case Apply(op, args):
            ways = [way for arg in args if (way := _through(arg, tensor, number)) is not None]
            longest = max(ways, key=_registers, default=None)
            return None if longest is None else (*longest, core(op, number))
        case _:
            return None

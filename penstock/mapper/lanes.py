"""Leaves on a CPU core: which variable lies along the vector lanes, and the register tile.

A reduction into two kept variables, one of them along the lanes, is done in tiles whose elements
stay in vector registers: ``BQK on vector: p by 64, m0 by 4, e, m0, p@lanes`` accumulates 4 x 64
elements over e. With a rows and b vectors a step loads a + b operands for a * b multiply-adds, and
the tile, its b vectors and one broadcast operand must fit the registers.

Excluded: arrays without vector registers (`leaf.py`), shared loops (`plan.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from penstock.einsum_ir.nodes import Access, Apply, Einsum, Expr, Var, accesses, variables
from penstock.einsum_ir.shapes import Bound
from penstock.mapper.nodes import Loop
from penstock.targets.base import Array, Axis

__all__ = ["Assignment", "lane_axis", "lane_variable", "register_tile", "summed_loops"]
__all__ += ["tiled_loops"]

Assignment = tuple[tuple[str, str], ...]
"""(axis, variable) pairs: which variable lies along which axis."""

REUSE = 4
"""How often a copy whose elements lie along lanes must be read to be worth making."""

LOAD = 0.5
"""What a load costs beside a multiply-add: x86 cores do two loads for each (Agner Fog's tables)."""


def lane_axis(array: Array) -> Axis | None:
    """Return the axis of an array's vector lanes, if it has vector registers; else None."""
    axes = [axis for axis in array.axes if axis.kind == "simd"]
    return axes[0] if array.registers and axes else None


def lane_variable(
    einsum: Einsum, bound: Bound, array: Array, remaining: Mapping[str, int], order: Sequence[str]
) -> str:
    """Return the variable along which all Einsums of a nest should have their lanes, or "".

    It is the first of `order` that fills a vector, if the Einsum keeps it and reads no input at
    places that would have to be gathered each time: intermediates can be laid out as one likes.
    An output has its lanes along its last rank.
    """
    axis = None if einsum.selects else lane_axis(array)
    wide = [name for name in order if axis is not None and remaining.get(name, 1) >= axis.size]
    if einsum.name in {each.tensor for each in bound.cascade.outputs}:
        wide = [name for name in wide if einsum.output.indices[-1] == Var(name)]
    if not wide or Var(wide[0]) not in einsum.output.indices:
        return ""
    name = wide[0]
    inputs = {each.tensor for each in bound.cascade.inputs}
    read = [access for access in einsum.operands if access.tensor in inputs]
    return name if all(_cheap(access, name, einsum, remaining) for access in read) else ""


def _cheap(access: Access, name: str, einsum: Einsum, remaining: Mapping[str, int]) -> bool:
    """Whether elements along a variable are neighbours, the same, or worth a copy that is."""
    places = [place for place, index in enumerate(access.indices) if name in variables(index)]
    if not places or (access.indices[-1] == Var(name) and len(places) == 1):
        return True
    if len(places) > 1 or access.indices[places[0]] != Var(name):
        return False
    again = [other for other in einsum.variables if other not in variables(*access.indices)]
    return any(remaining[other] >= REUSE for other in again)


def summed_loops(
    einsum: Einsum, bound: Bound, array: Array, remaining: Mapping[str, int]
) -> tuple[Loop, ...] | None:
    """Return the loops of a reduction with lanes along what it reduces; None if that is no use.

    It is where that variable fills a vector, all that depends on it is read along its last rank,
    and none that is kept does: it is too short, or moves through an input in no even steps, as the
    queries do through windows of keys. Reading through a table is left out. What the lanes hold is
    added up at the end of each element.
    """
    axis = None if einsum.selects or einsum.iterative is not None else lane_axis(array)
    if axis is None or einsum.reduce is None or einsum.reduce.op != "sum":
        return None
    kept = [v for v in variables(einsum.output) if remaining[v] > 1]
    inputs = {each.tensor for each in bound.cascade.inputs}
    read = [access for access in einsum.operands if access.tensor in inputs]
    long = [v for v in kept if remaining[v] >= axis.size]
    tables = any(accesses(*access.indices) for access in einsum.operands)
    if not read or tables or any(all(_even(access, v) for access in read) for v in long):
        return None
    for name in einsum.reduce.over:
        moving = [each for each in einsum.operands if name in variables(*each.indices)]
        along = [
            each.indices[-1] == Var(name) and name not in variables(*each.indices[:-1])
            for each in moving
        ]
        if moving and all(along) and remaining[name] >= axis.size:
            others = [v for v in einsum.reduce.over if v != name and remaining[v] > 1]
            return (*(Loop(v) for v in (*kept, *others)), Loop(name, 1, axis.name))
    return None


def _even(access: Access, name: str) -> bool:
    """Whether an input is read at neighbouring places of one rank as a variable moves, or one."""
    moving = [index for index in access.indices if name in variables(index)]
    terms = [term for index in moving for term in _summands(index) if name in variables(term)]
    return not moving or (len(moving) == 1 and terms == [Var(name)])


def _summands(expr: Expr) -> tuple[Expr, ...]:
    match expr:
        case Apply("+", (left, right)):
            return (*_summands(left), *_summands(right))
        case Apply("-", (left, right)):
            return (*_summands(left), Apply("neg", (right,)))
        case _:
            return (expr,)


def register_tile(rows: int, vectors: int, registers: int) -> tuple[int, int]:
    """Return the rows and vectors of the register tile that loads the least for each product.

    Args:
        rows: coordinates of the variable that is not along the lanes.
        vectors: vectors that the variable along the lanes takes.
        registers: of a core.
    """
    best, cost = (1, 1), math.inf
    for b in range(1, vectors + 1):
        if vectors % b:
            continue
        for a in range(1, rows + 1):
            if a * b + b + 1 > registers:
                break
            waste = math.ceil(rows / a) * a / rows + (0.1 if rows % a else 0.0)
            new = waste * (a * b + LOAD * (a + b)) / (a * b)
            if new < cost:
                best, cost = (a, b), new
    return best


def tiled_loops(
    einsum: Einsum, array: Array, remaining: Mapping[str, int], assignment: Assignment
) -> tuple[Loop, ...] | None:
    """Return the loops of a reduction with lanes; None if it has no register tile.

    Args:
        einsum: any.
        array: any.
        remaining: variable → coordinates that the shared loops leave.
        assignment: what lies along which axis; beside the lanes, at most something along cores.
    """
    axis, along = lane_axis(array), dict(assignment)
    if axis is None or einsum.reduce is None or einsum.selects or einsum.iterative is not None:
        return None
    name = along.pop(axis.name, "")
    kept = [v for v in variables(einsum.output) if remaining[v] > 1 and v != name]
    reduced = [v for v in einsum.reduce.over if remaining[v] > 1]
    others = {array.axis(each).kind for each in along}
    if not name or not reduced or not kept or not others <= {"core"} or len(along) > 1:
        return None
    core, spread = next(iter(along.items()), ("", ""))
    row = max(kept, key=lambda v: remaining[v])
    a, b = register_tile(remaining[row], max(remaining[name] // axis.size, 1), array.registers)
    outer = [Loop(v, 1, core if v == spread else "") for v in kept if v != row]
    if remaining[row] > a or row == spread:
        outer.append(Loop(row, a, core if row == spread else ""))
    if remaining[name] > b * axis.size:
        outer.append(Loop(name, b * axis.size))
    outer.sort(key=lambda loop: not loop.spatial)
    inner = [Loop(row)] if a > 1 else []
    return (*outer, *(Loop(v) for v in reduced), *inner, Loop(name, 1, axis.name))

"""What a cascade has to do at least: operations by kind, bytes, and their ratio.

Numbers here need no mapping and no machine. What an operator costs is the target's business;
which loops repeat work, the mapper's.

Not counted as operations: index arithmetic and predicates, arithmetic of coordinates alone
(``p - m`` comes out of the loop counters), of constants alone (``1/sqrt(E)`` is computed once),
and ``fill``, which only says what an absent operand is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np

from penstock.einsum_ir.formats import Format, tensor_formats
from penstock.einsum_ir.nodes import (
    Access,
    Apply,
    Einsum,
    Expr,
    Num,
    Sym,
    Var,
    accesses,
    variables,
    walk,
)
from penstock.einsum_ir.ops import OPERATORS, REDUCTIONS
from penstock.einsum_ir.powers import multiplications
from penstock.einsum_ir.regions.conditions import (
    FALSE,
    TRUE,
    Condition,
    condition,
    conjunction,
    disjunction,
    exists,
    expression,
    simplified,
)
from penstock.einsum_ir.regions.counting import holds_at, values_at
from penstock.einsum_ir.regions.guards import Demand, guards
from penstock.einsum_ir.regions.linear import linear, to_expr
from penstock.einsum_ir.regions.tiling import classify
from penstock.einsum_ir.shapes import Bound

__all__ = [
    "bytes_read",
    "compulsory_bytes",
    "effective_points",
    "elements_read",
    "intensity",
    "op_counts",
    "output_ops",
    "output_points",
    "point_ops",
    "points",
    "present_points",
]

ENUMERATED = 1 << 22
"""Points up to which the elements that are read are enumerated, where no formula counts them."""

_COORDINATE = {"+", "-", "*", "//", "%", "neg", "abs", "max", "min", "clamp", "sq", "sign", "where"}
_COORDINATE.add("bitlen")
_COORDINATE |= {name for name, row in OPERATORS.items() if row.kind in ("comparison", "logic")}


def point_ops(einsum: Einsum) -> dict[str, int]:
    """Count the operators of one iteration point.

    A ``*`` whose result a sum (or mean) folds is one ``mac`` with that sum; any other reduced
    body costs one operator of the fold (``max``, ``+``, ...) a point, a selection one of its own
    (``topk``), which few machines have.

    Returns:
        Operator of `ops.OPERATORS`, or ``mac`` → how many of it; a plain copy has none.
    """
    found = Counter(_operators(einsum.body))
    if einsum.reduce is not None and einsum.selects:
        found[einsum.reduce.op] += 1
    elif einsum.reduce is not None:
        fold = REDUCTIONS[einsum.reduce.op].fold
        product = isinstance(einsum.body, Apply) and einsum.body.op == "*"
        if fold == "+" and product and not _free(einsum.body):
            found["*"] -= 1
            found["mac"] += 1
        else:
            found[fold] += 1
    return {name: count for name, count in found.items() if count}


def output_ops(einsum: Einsum) -> dict[str, int]:
    """Count the operators of one output element, beside those of its points.

    Only ``mean`` has any: the division by the number of present points.
    """
    mean = einsum.reduce is not None and einsum.reduce.op == "mean"
    return {"/": 1} if mean else {}


def _operators(expr: Expr) -> list[str]:
    match expr:
        case Apply("**", (base, _)) if multiplications(expr) and not _free(expr):
            return ["*"] * multiplications(expr) + _operators(base)
        case Apply(op, args) if not _free(expr):
            inner = [name for arg in args for name in _operators(arg)]
            return inner if op == "fill" else [op, *inner]
        case Num() | Var() | Sym() | Access() | Apply():
            return []


def _free(expr: Expr) -> bool:
    """Whether the value comes out of loop counters and constants alone."""
    nodes = list(walk(expr))
    if any(isinstance(node, Access) for node in nodes):
        return False
    constant = not any(isinstance(node, Var) for node in nodes)
    operators = {node.op for node in nodes if isinstance(node, Apply)}
    return constant or operators <= _COORDINATE


def points(bound: Bound, einsum: Einsum) -> int:
    """Return the number of iteration points of an Einsum, present or not."""
    return math.prod(bound.extents[name] for name in einsum.variables)


def output_points(bound: Bound, einsum: Einsum) -> int:
    """Return the number of elements that an Einsum writes, present or not."""
    return math.prod(bound.extents[name] for name in variables(einsum.output))


def present_points(bound: Bound, einsum: Einsum) -> int:
    """Return how many points satisfy the predicate and have all indices in range, exactly.

    What reads a tensor is taken to hold.
    """
    parts = [_in_range(bound, access) for access in einsum.operands]
    if einsum.where is not None:
        parts.append(condition(einsum.where, bound.symbols))
    space = _space(bound, einsum)
    return _count(simplified(conjunction(*parts), bound.extents), space)


def effective_points(bound: Bound) -> dict[str, int]:
    """Return for each Einsum how many points can have any effect (see `guards`), exactly."""
    found = guards(bound)
    return {
        each.name: classify(found[each.name], _space(bound, each), symbols=bound.symbols).points
        for each in bound.cascade.einsums
        if not each.init
    }


def op_counts(bound: Bound) -> dict[str, int]:
    """Count the operators of a whole cascade, at the points that can have any effect.

    Returns:
        Operator of `ops.OPERATORS`, or ``mac`` → how many, ``init`` Einsums included.
    """
    demand = Demand(bound)
    total: Counter[str] = Counter()
    for einsum in bound.cascade.einsums:
        guard = TRUE if einsum.init else demand.guard(einsum)
        number = _count(guard, _space(bound, einsum))
        total.update({name: count * number for name, count in point_ops(einsum).items()})
        if einsum.reduce is not None and output_ops(einsum):
            written = exists(guard, einsum.reduce.over, bound.extents)
            kept = {name: bound.extents[name] for name in variables(einsum.output)}
            elements = _count(written, kept)
            total.update({name: n * elements for name, n in output_ops(einsum).items()})
    return {name: count for name, count in total.items() if count}


def elements_read(bound: Bound) -> dict[str, int]:
    """Return for each input how many of its elements some point with an effect reads.

    Exact where indices are affine. What an index tensor picks is not known; such a dimension
    counts as one coordinate, so that the number stays a lower bound.
    """
    demand = Demand(bound)
    return {
        each.tensor: _elements_read(demand, each.tensor, bound.dims[each.tensor])
        for each in bound.cascade.inputs
    }


def _elements_read(demand: Demand, tensor: str, dims: tuple[int, ...]) -> int:
    extents = {f"{place}#": extent for place, extent in enumerate(dims)}
    direct, uses, most = FALSE, [], 0
    for consumer, access in demand.consumers.get(tensor, []):
        picked = {
            name for name, index in zip(extents, access.indices, strict=True) if accesses(index)
        }
        found = demand.use(extents, consumer, access)
        if not picked:
            direct = disjunction(direct, found)
            uses.append((consumer, access))
            continue
        kept = {name: extent for name, extent in extents.items() if name not in picked}
        most = max(most, _count(exists(found, picked, extents), kept))
    direct = simplified(direct, extents)
    marked = None if direct.exact else _marked(demand, dims, uses)
    return max(most, _count(direct, extents) if marked is None else marked)


def _marked(demand: Demand, dims: tuple[int, ...], uses: list[tuple[Einsum, Access]]) -> int | None:
    """Count the elements that accesses read by enumeration; None if there are too many points."""
    extents = demand.bound.extents
    conditions = [expression(demand.guard(consumer)) for consumer, _ in uses]
    spaces = [
        variables(*access.indices, *([guard] if guard else []))
        for (_, access), guard in zip(uses, conditions, strict=True)
    ]
    sizes = [math.prod(extents[name] for name in names) for names in spaces]
    if max([math.prod(dims), *sizes]) > ENUMERATED:
        return None
    read = np.zeros(dims, dtype=np.bool_)
    for (_, access), guard, names in zip(uses, conditions, spaces, strict=True):
        shape = [extents[name] for name in names]
        coordinates = dict(zip(names, np.indices(shape), strict=True))
        indices = [
            np.broadcast_to(values_at(to_expr(linear(i, demand.bound.symbols)), coordinates), shape)
            for i in access.indices
        ]
        held = np.ones(shape, dtype=np.bool_)
        if guard is not None:
            held = held & holds_at(guard, coordinates, {})
        for index, dim in zip(indices, dims, strict=True):
            held = held & (index >= 0) & (index < dim)
        read[tuple(index[held] for index in indices)] = True
    return int(read.sum())


def compulsory_bytes(bound: Bound, fmt: Format) -> float:
    """Return the bytes that must cross the outermost memory's port in any mapping.

    Every element of an input that is read (`elements_read`) comes in once; every element of an
    output goes out once. Each takes the bytes of its tensor's format, which is `fmt` by default.
    """
    written = {each.tensor: math.prod(bound.dims[each.tensor]) for each in bound.cascade.outputs}
    return bytes_read(bound, fmt) + _bytes(bound, fmt, written)


def bytes_read(bound: Bound, fmt: Format) -> float:
    """Return the part of `compulsory_bytes` that comes in."""
    return _bytes(bound, fmt, elements_read(bound))


def _bytes(bound: Bound, fmt: Format, elements: Mapping[str, int]) -> float:
    own = tensor_formats(bound.cascade.formats)
    return sum(count * own.get(tensor, fmt).bytes for tensor, count in elements.items())


def intensity(bound: Bound, fmt: Format) -> float:
    """Return operations per compulsory byte; a ``mac`` is two operations, all others are one."""
    counts = op_counts(bound)
    return (sum(counts.values()) + counts.get("mac", 0)) / compulsory_bytes(bound, fmt)


def _space(bound: Bound, einsum: Einsum) -> dict[str, int]:
    return {name: bound.extents[name] for name in einsum.variables}


def _count(found: Condition, space: Mapping[str, int]) -> int:
    return classify(expression(found), space).points


def _in_range(bound: Bound, access: Access) -> Condition:
    parts = [
        condition(Apply("and", (_compare(Num(0), index), _compare(index, Num(dim - 1)))), {})
        for index, dim in zip(
            (to_expr(linear(each, bound.symbols)) for each in access.indices),
            bound.dims[access.tensor],
            strict=True,
        )
    ]
    return conjunction(*parts)


def _compare(left: Expr, right: Expr) -> Expr:
    return Apply("<=", (left, right))

"""Which constructs of the notation a cascade needs, beside plain Einsums and operators.

Read off the Einsums as they are; short forms have been replaced before (`sugar.py`), so that
scattering, for one, is found as the predicate that it stands for. Excluded: what it costs.
"""

from __future__ import annotations

from collections.abc import Iterator

from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.nodes import (
    Access,
    Apply,
    Einsum,
    Expr,
    Group,
    Var,
    accesses,
    next_variable,
    variables,
    walk,
)

__all__ = ["CONSTRUCTS", "constructs"]

CONSTRUCTS = {
    "predicate": "points that exist only where a condition of coordinates holds",
    "data predicate": "points that exist only where a condition of tensors holds",
    "split": "indices with //, % or a product: blocks, groups, grids",
    "offset": "indices x + k: windows, halos, shifts, convolution",
    "gather": "indices that are read from tensors",
    "scatter": "elements written at computed places",
    "choice": "a value chosen by coordinates: concatenated ranks",
    "selection": "top-k, argsort, argmax, argmin",
    "iteration": "ranks that are computed step by step",
    "state": "tensors that go from call to call",
    "format": "tensors with a number format of their own",
}
"""Each construct in a few words, in the order in which `constructs` gives them."""


def constructs(cascade: Cascade) -> tuple[str, ...]:
    """Return the constructs that a cascade needs, keys of `CONSTRUCTS`, in their order."""
    found = {name for einsum in cascade.einsums for name in _of_einsum(einsum, cascade)}
    if any(isinstance(each, Group) for each in cascade.schedule):
        found.add("iteration")
    if cascade.states:
        found.add("state")
    if cascade.formats:
        found.add("format")
    return tuple(name for name in CONSTRUCTS if name in found)


def _of_einsum(einsum: Einsum, cascade: Cascade) -> Iterator[str]:
    if einsum.selects:
        yield "selection"
    for part in _conjuncts(einsum.where):
        if _places(part, einsum):
            yield "scatter"
        elif accesses(part):
            yield "data predicate"
        else:
            yield "predicate"
    for node in (n for e in (einsum.body, einsum.where) if e is not None for n in walk(e)):
        match node:
            case Apply("where", (condition, *_)) if not accesses(condition):
                yield "choice"
            case Access(tensor, indices):
                for place, index in enumerate(indices):
                    step = (next_variable(index), place) == cascade.iterative.get(tensor)
                    yield from () if step else _of_index(index)
            case _:
                pass


def _conjuncts(where: Expr | None) -> Iterator[Expr]:
    match where:
        case None:
            return
        case Apply("and", (left, right)):
            yield from _conjuncts(left)
            yield from _conjuncts(right)
        case _:
            yield where


def _places(part: Expr, einsum: Einsum) -> bool:
    """Whether a condition says where an element is written: ``r == x``, r on the left side only."""
    match part:
        case Apply("==", (Var(name), place)):
            read = variables(einsum.body, place)
            return (
                Var(name) in einsum.output.indices and name not in read and bool(variables(place))
            )
        case _:
            return False


def _of_index(index: Expr) -> Iterator[str]:
    if accesses(index):
        yield "gather"
    operators = {node.op for node in walk(index) if isinstance(node, Apply)}
    if operators & {"//", "%", "*"}:
        yield "split"
    elif operators:
        yield "offset"

"""Which inputs hold coordinates, so that a program may keep their elements as integers.

The interpreter keeps whole numbers exact in every input that only indices and predicates read
(`evaluate.coordinate_inputs`), as it sees them. A program is made before there are any: an input
is taken to hold coordinates if it stands in an index, or is compared with a coordinate or with
another such input (segment numbers, lengths). One that is compared with values or constants
(thresholds, flags) is an ordinary input, rounded to the format.
"""

from __future__ import annotations

from collections.abc import Iterator

from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.interpreter.evaluate import coordinate_inputs
from penstock.einsum_ir.nodes import Access, Apply, Expr, Var, accesses, walk
from penstock.einsum_ir.ops import OPERATORS

__all__ = ["whole_inputs"]


def whole_inputs(cascade: Cascade) -> frozenset[str]:
    """Return the inputs whose elements a program keeps as integers."""
    candidates = coordinate_inputs(cascade)
    found: set[str] = set()
    for einsum in cascade.einsums:
        for access in einsum.operands:
            found |= {each.tensor for index in access.indices for each in accesses(index)}
        if einsum.where is not None:
            found |= _compared(einsum.where, candidates)
    return candidates & found


def _compared(predicate: Expr, candidates: frozenset[str]) -> set[str]:
    """Return the candidates that a predicate compares with coordinates or with each other."""
    found: set[str] = set()
    for comparison in _comparisons(predicate):
        read = [node for node in _outer(comparison) if isinstance(node, Access | Var)]
        tensors = {node.tensor for node in read if isinstance(node, Access)}
        if tensors <= candidates and len(read) > 1:
            found |= tensors
    return found


def _comparisons(expr: Expr) -> Iterator[Apply]:
    for node in walk(expr):
        if isinstance(node, Apply) and OPERATORS[node.op].kind == "comparison":
            yield node


def _outer(expr: Expr) -> list[Expr]:
    """Return the nodes of an expression, without what stands in indices."""
    match expr:
        case Apply(_, args):
            return [node for arg in args for node in _outer(arg)]
        case _:
            return [expr]

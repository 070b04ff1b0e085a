"""Which inputs hold coordinates: their whole numbers stay exact, whatever the number format.

Of the inputs that only indices and predicates read (`evaluate.coordinate_inputs`), those that
stand in an index, or are compared with a coordinate or with another such input (segment numbers,
lengths). What is compared with values or constants (thresholds, flags) is an ordinary input,
rounded to the format where it comes as floats. A program, which is made before there are any
numbers, keeps them as integers.
"""

from __future__ import annotations

from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.interpreter.evaluate import compared_inputs, coordinate_inputs
from penstock.einsum_ir.nodes import accesses

__all__ = ["whole_inputs"]


def whole_inputs(cascade: Cascade) -> frozenset[str]:
    """Return the inputs that hold coordinates."""
    candidates = coordinate_inputs(cascade)
    found: set[str] = set()
    for einsum in cascade.einsums:
        for access in einsum.operands:
            found |= {each.tensor for index in access.indices for each in accesses(index)}
        if einsum.where is not None:
            found |= {n for _, names in compared_inputs(einsum.where, candidates) for n in names}
    return candidates & found

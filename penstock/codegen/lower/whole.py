"""Which inputs hold coordinates, so that a program may keep their elements as integers.

The interpreter keeps whole numbers exact in every input that only indices and predicates read
(`evaluate.coordinate_inputs`), as it sees them. A program is made before there are any: an input
is taken to hold coordinates if it stands in an index, or is compared with a coordinate or with
another such input (segment numbers, lengths). One that is compared with values or constants
(thresholds, flags) is an ordinary input, rounded to the format.
"""

from __future__ import annotations

from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.interpreter.evaluate import compared_inputs, coordinate_inputs
from penstock.einsum_ir.nodes import accesses

__all__ = ["whole_inputs"]


def whole_inputs(cascade: Cascade) -> frozenset[str]:
    """Return the inputs whose elements a program keeps as integers."""
    candidates = coordinate_inputs(cascade)
    found: set[str] = set()
    for einsum in cascade.einsums:
        for access in einsum.operands:
            found |= {each.tensor for index in access.indices for each in accesses(index)}
        if einsum.where is not None:
            found |= {n for _, names in compared_inputs(einsum.where, candidates) for n in names}
    return candidates & found

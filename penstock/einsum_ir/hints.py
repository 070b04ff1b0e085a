"""Notes for an author: what is right but seldom meant. Excluded: errors, which cannot be built."""

from __future__ import annotations

from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.nodes import Apply, Expr, variables

__all__ = ["hints"]


def hints(cascade: Cascade) -> tuple[str, ...]:
    """Return a note for each term that is added up over a variable it does not depend on.

    ``S[p, m] = Q[p, e] * K[m, e] - D[p, m]`` takes D away once for each e, not once.
    """
    found = []
    for einsum in cascade.einsums:
        if einsum.reduce is None or einsum.reduce.op != "sum":
            continue
        terms = _terms(einsum.body)
        for name in einsum.reduce.over:
            used = [name in variables(term) for term in terms]
            if any(used) and not all(used):
                term = terms[used.index(False)]
                found.append(
                    f"{einsum.name} adds up '{term}' once for each {name}, on which it does not "
                    "depend; to add it once, write it in an Einsum of its own"
                )
    return tuple(found)


def _terms(expr: Expr) -> list[Expr]:
    match expr:
        case Apply("+" | "-", (left, right)):
            return _terms(left) + _terms(right)
        case Apply("neg", (inner,)):
            return _terms(inner)
        case _:
            return [expr]

"""Prefix sums: totals of them as references, and when a tile may count from its own start.

Before → after: for ``C[m+1] = C[m] + G[m]``, ``DT = G :: sum[m]`` and a body ``exp(DT - C[m+1])``,
counted from the start of the tile, C is a local prefix sum, the new reference DT is the tile's
total and the old one 0, so that nothing large cancels (the recurrent form of gated attention)::

    S' = exp(sum_block G) S + sum_block exp(sum_block G - C_local) ...

That is allowed if each body and carry is the same when C and DT are shifted together; which is
checked at 40 digits.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from penstock.einsum_ir.nodes import Access, Expr, Sym
from penstock.einsum_ir.rewrite.closure import number, quantities
from penstock.einsum_ir.rewrite.fuse import Workshop
from penstock.einsum_ir.rewrite.plan import Accumulator, Fused
from penstock.einsum_ir.rewrite.separate import old
from penstock.einsum_ir.rewrite.terms import evaluate, key

__all__ = ["framed"]

_DIGITS = 40


def framed(workshop: Workshop, choice: Sequence[Fused]) -> frozenset[str]:
    """Return the references that are totals, if everything may be counted from a tile's start."""
    chain = workshop.chain
    if not chain.scans:
        return frozenset()
    steps = {key(scan.step) for scan in chain.scans.values()}
    totals = set()
    for value, reference in workshop.references.items():
        link = chain.links.get(value.tensor) if isinstance(value, Access) else None
        if link is not None and link.op == "sum" and key(link.body) in steps and not link.masks:
            totals.add(reference.name)
    accumulators = {a.name: a for each in choice for a in each.accumulators}
    shifted = frozenset(totals)
    if all(_invariant(workshop, each, shifted) for each in accumulators.values()):
        return shifted
    return frozenset()


def _invariant(workshop: Workshop, each: Accumulator, totals: frozenset[str]) -> bool:
    """Whether a shift of totals and prefix sums together changes neither body nor carry."""
    from mpmath import MPContext

    context = MPContext()
    context.dps = _DIGITS + 10
    generator = random.Random(11)
    shift = context.mpf("0.318")
    moving: set[Expr] = {make(name) for name in totals for make in (Sym, old)}
    for expr in (each.body, *(c for _, c in each.carry)):
        read = quantities(expr)
        values = {n: number(context, generator, n, workshop.sign) for n in read}
        later = {
            n: value + shift
            if n in moving or (isinstance(n, Access) and n.tensor in workshop.chain.scans)
            else value
            for n, value in values.items()
        }
        try:
            difference = evaluate(expr, values, context) - evaluate(expr, later, context)
        except (ValueError, ZeroDivisionError, TypeError, OverflowError):
            return False
        if abs(difference) > context.mpf(10) ** -_DIGITS:
            return False
    return True

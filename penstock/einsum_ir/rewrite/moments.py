"""Moments that are zero: ``sum (x - mean)``, which Welford's recurrence leaves out.

Before → after, where mu is the mean of the prefix, so that ``S = sum (x - mu)`` is 0::

    Q' = Q + 2 (mu' - mu) S + (mu' - mu)^2 N   ->   Q' = Q + (mu' - mu)^2 N

Exact in algebra, but not where the mean is rounded: both forms are offered. That a moment is zero
is found by evaluating the chain on random elements at 40 digits.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from penstock.einsum_ir.nodes import Access, Expr, Sym
from penstock.einsum_ir.rewrite.chain import Chain
from penstock.einsum_ir.rewrite.closure import number, quantities
from penstock.einsum_ir.rewrite.fuse import Workshop
from penstock.einsum_ir.rewrite.plan import Costs, Fused, accumulated
from penstock.einsum_ir.rewrite.terms import ZERO, evaluate, replaced, uses

__all__ = ["without_zero_moments"]

_DIGITS = 40
_LENGTH = 5


def without_zero_moments(workshop: Workshop, form: Fused) -> Fused | None:
    """Return a form without the accumulators that are always zero, or None if there are none."""
    own = workshop.chain.links[form.link].masks
    counted = own and workshop.shape in workshop.references  # not the number of present points
    others = any(each.masks != own for each in workshop.chain.links.values())
    if counted or others:
        return None
    sums = [each for each in form.accumulators if each.op == "sum" and each.references]
    if len(form.accumulators) < 2 or not sums or workshop.chain.scans:
        return None
    sample = _Sample(workshop)
    zero = {each.name for each in sums if sample.is_zero(each.body)}
    gone: dict[Expr, Expr] = {accumulated(name): ZERO for name in zero}
    epilogue = replaced(form.epilogue, gone)
    if not zero or epilogue == ZERO:
        return None
    kept = tuple(
        replace(each, carry=tuple((to, c) for to, c in each.carry if to not in zero))
        for each in form.accumulators
        if each.name not in zero
    )
    share = len(kept) / len(form.accumulators)
    costs = form.costs
    fewer = Costs(
        len(kept),
        round(costs.element_ops * share),
        round(costs.tile_ops * share),
        costs.final_ops,
        costs.hazards,
    )
    names = tuple(sorted(zero))
    return replace(
        form, accumulators=kept, epilogue=epilogue, dropped=names, costs=fewer, moved=None
    )


class _Sample:
    """The chain on a few random elements; kept ranks are taken at one point."""

    def __init__(self, workshop: Workshop) -> None:
        from mpmath import MPContext

        self.workshop, self.chain = workshop, workshop.chain
        self.context = MPContext()
        self.context.dps = _DIGITS + 20
        self.random = random.Random(3)
        self.rows: list[dict[Expr, Any]] = [{} for _ in range(_LENGTH)]
        self.fixed: dict[Expr, Any] = {workshop.shape: self.context.mpf(_LENGTH)}

    def is_zero(self, body: Expr) -> bool:
        """Whether the sum of a body at the final references is 0, though its parts are not."""
        try:
            parts = [self._value(body, row) for row in self.rows]
        except (ValueError, ZeroDivisionError, TypeError, OverflowError):
            return False
        size = sum(abs(each) for each in parts)
        return bool(size > 0 and abs(sum(parts)) < size * self.context.mpf(10) ** -_DIGITS)

    def _value(self, expr: Expr, row: dict[Expr, Any]) -> Any:
        values = {leaf: self._leaf(leaf, row) for leaf in quantities(expr)}
        return evaluate(expr, values, self.context)

    def _leaf(self, leaf: Expr, row: dict[Expr, Any]) -> Any:
        if uses(leaf, frozenset([self.chain.rank])):
            if leaf not in row:
                row[leaf] = number(self.context, self.random, leaf, self.workshop.sign)
            return row[leaf]
        if leaf not in self.fixed:
            self.fixed[leaf] = self._whole(leaf)
        return self.fixed[leaf]

    def _whole(self, leaf: Expr) -> Any:
        for value, reference in self.workshop.references.items():
            if leaf == Sym(reference.name):
                return self._value(value, {})
        if isinstance(leaf, Access):
            return self._tensor(leaf, self.chain)
        return number(self.context, self.random, leaf, self.workshop.sign)

    def _tensor(self, access: Access, chain: Chain) -> Any:
        link, made = chain.links.get(access.tensor), chain.outer.get(access.tensor)
        if link is not None and access == link.einsum.output:
            parts = [self._value(link.body, row) for row in self.rows]
            fold = {"sum": sum, "max": max, "min": min, "prod": self.context.fprod}
            if link.op not in fold:
                raise ValueError(link.op)
            return fold[link.op](parts)
        if made is not None and made.reduce is None and access == made.output:
            return self._value(made.body, {})
        return number(self.context, self.random, access, self.workshop.sign)

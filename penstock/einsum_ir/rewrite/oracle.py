"""The rank oracle: is there any finite separation at all? Only used to refuse with a certificate.

``f(x, u)`` sampled at n points x and n values u is a matrix whose rank is at most the number of
accumulators that any separation needs. So a rank above the limit proves that there is none for all
x and u (facts, such as x <= the running maximum, are not used: the certificate says no more).
"""

from __future__ import annotations

import random
from typing import Any

from penstock.einsum_ir.nodes import Expr, Sym, walk
from penstock.einsum_ir.rewrite.chain import Link
from penstock.einsum_ir.rewrite.closure import MOST, number, quantities
from penstock.einsum_ir.rewrite.fuse import Workshop
from penstock.einsum_ir.rewrite.terms import evaluate, uses

__all__ = ["sampled_rank"]

_POINTS = 20
_DIGITS = 120
_SPREADS = (1, 12)


def sampled_rank(workshop: Workshop, link: Link, live: frozenset[str]) -> int:
    """Return the rank of a sampled body if it is above `closure.MOST`, else 0.

    Args:
        workshop: knows the placeholders and signs.
        link: a sum; the order of maxima is no matter of rank.
        live: the whole values that move.
    """
    if link.op != "sum" or link.blocked:
        return 0
    body = workshop.placed(link.body, live)
    names = frozenset(each.name for each in workshop.references.values())
    return max(_rank(body, workshop, names, spread) for spread in _SPREADS)


def _rank(body: Expr, workshop: Workshop, names: frozenset[str], spread: int) -> int:
    from mpmath import MPContext

    context = MPContext()
    context.dps = _DIGITS
    generator = random.Random(spread)
    found = quantities(body)
    whole = [each for each in found if isinstance(each, Sym) and each.name in names]
    element = [each for each in found if each not in whole and _varies(each, workshop)]
    fixed: dict[Expr, Any] = {
        each: number(context, generator, each, workshop.sign)
        for each in found
        if each not in whole and each not in element
    }

    def draw(leaf: Expr) -> Any:
        return number(context, generator, leaf, workshop.sign) * spread

    rows: list[dict[Expr, Any]] = [{each: draw(each) for each in element} for _ in range(_POINTS)]
    columns: list[dict[Expr, Any]] = [{each: draw(each) for each in whole} for _ in range(_POINTS)]
    try:
        matrix = [
            [evaluate(body, {**fixed, **row, **column}, context) for column in columns]
            for row in rows
        ]
    except (ValueError, ZeroDivisionError, TypeError, OverflowError):
        return 0
    rank = _matrix_rank(matrix, context)
    return rank if rank > MOST else 0


def _varies(leaf: Expr, workshop: Workshop) -> bool:
    return any(uses(node, frozenset([workshop.chain.rank])) for node in walk(leaf))


def _matrix_rank(matrix: list[list[Any]], context: Any) -> int:
    """Return the numeric rank by elimination with full pivoting."""
    rows = [list(row) for row in matrix]
    size = len(rows)
    largest = max(abs(each) for row in rows for each in row)
    tiny = largest * context.mpf(10) ** (-_DIGITS // 2)
    for step in range(size):
        value, i, j = max(
            ((abs(rows[i][j]), i, j) for i in range(step, size) for j in range(step, size)),
            key=lambda each: each[0],
        )
        if value <= tiny:
            return step
        rows[step], rows[i] = rows[i], rows[step]
        for row in rows:
            row[step], row[j] = row[j], row[step]
        for other in rows[step + 1 :]:
            factor = other[step] / rows[step][step]
            for place in range(step, size):
                other[place] -= factor * rows[step][place]
    return size

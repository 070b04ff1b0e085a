"""Which rank passes can be saved over: the reduced ones with the most passes, as written.

Excluded: whether they can be saved (`reduce.py`).
"""

from __future__ import annotations

from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.passes import count_passes
from penstock.einsum_ir.rewrite.chain import ChainError, extract

__all__ = ["passes_over", "slow_ranks"]


def passes_over(cascade: Cascade, rank: str) -> int:
    """Return the passes over a rank variable, as written; at least 1.

    Raises:
        UnknownNameError: no Einsum has the rank.
    """
    try:
        return max(1, extract(cascade, rank).before)
    except ChainError:
        counts = [count_passes(cascade, e.tensor, rank) for e in cascade.inputs if rank in e.ranks]
        return max([1, *counts])


def slow_ranks(cascade: Cascade) -> tuple[str, ...]:
    """Return the rank variables that are reduced with the most passes; none if that is one.

    Example:
        Attention is slow over ``m``; windowed attention over both ranks of its window.
    """
    reduced = dict.fromkeys(
        name for each in cascade.einsums if each.reduce for name in each.reduce.over
    )
    counts = {name: passes_over(cascade, name) for name in reduced}
    most = max(counts.values(), default=1)
    return tuple(name for name, count in counts.items() if count == most > 1)

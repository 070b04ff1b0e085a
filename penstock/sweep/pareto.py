"""The Pareto front: which of many points no other beats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["front"]


def front(costs: Sequence[Sequence[float]]) -> tuple[int, ...]:
    """Return the positions of the points that no other point dominates, in order.

    A point dominates another if it is nowhere larger and somewhere smaller; of equal points, all
    stay. Points with an infinite cost are never on the front.

    Args:
        costs: one row for each point, smaller is better, all rows of one length.
    """
    table = np.array(costs, dtype=np.float64)
    usable = [n for n in range(len(table)) if np.isfinite(table[n]).all()]
    order = sorted(usable, key=lambda n: tuple(table[n]))
    kept: list[int] = []
    best = np.empty((0, table.shape[1] if len(table) else 0))
    for place in order:  # none that comes later dominates one that came before
        row = table[place]
        below = (best <= row).all(axis=1)
        if not (below & (best < row).any(axis=1)).any():
            kept.append(place)
            if not below.any():
                best = np.vstack((best, row))
    return tuple(sorted(kept))

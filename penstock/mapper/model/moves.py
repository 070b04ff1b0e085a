"""How many elements move into, or out of, a kept tile over a whole run.

The rule: a tile moves when it differs from the one that is there. So loops that do not concern
the tensor cost nothing, unless a loop inside them has changed the tile; a loop of one step
changes nothing; what the steps of a loop in lock step have in common moves once.

Exact: the sequence of tiles is put together loop by loop, from the innermost outward, as (elements
moved, first tile, last tile); where two sequences meet in the same tile, it moves once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.mapper.facts import Facts, Use
from penstock.mapper.model.regions import block_of
from penstock.mapper.model.tiles import Grid, Ints, Level

__all__ = ["moved"]

Flags = NDArray[Any]


@dataclass(frozen=True)
class _Run:
    """What the steps inside a point of the grid move, as arrays over the loops around.

    ``alive`` is False where nothing is used; ``head`` is the size of the first tile.
    """

    total: Ints
    first: Ints
    last: Ints
    head: Ints
    alive: Flags


def moved(
    uses: tuple[Use, ...], grid: Grid, facts: Facts, active: Flags | None, *, once: bool = False
) -> int:
    """Count the elements that move.

    Args:
        uses: accesses of one tensor inside the tile.
        grid: the loops above the tile; `uses`' placed variables and those of `active` are placed.
        facts: of the cascade.
        active: where the tile is used at all; None for everywhere.
        once: count each different tile once, as if loops that do not concern it were not there.
    """
    count, label = block_of(uses, grid, facts)
    relevant = frozenset(name for use in uses for name in use.relevant)
    alive = np.ones((1,) * grid.rank, dtype=bool) if active is None else active
    alive = alive & (count > 0)
    run = _Run(count, label, label, count, alive)
    for axis in range(grid.rank - 1, -1, -1):
        level = grid.levels[axis]
        concerns = level.pace.variable in relevant
        if level.placed:
            run = _placed(run, level, axis, concerns=concerns, once=once)
        else:
            run = _collected(run, level, axis, concerns=concerns, once=once)
    return int(run.total.sum()) if bool(run.alive.any()) else 0


def _placed(run: _Run, level: Level, axis: int, *, concerns: bool, once: bool) -> _Run:
    """Join the steps of a loop whose every step has an entry."""
    shape = np.broadcast_shapes(run.total.shape, run.alive.shape, level.weight.shape)
    total, first, last, head, alive = (
        np.broadcast_to(each, shape)
        for each in (run.total, run.first, run.last, run.head, run.alive & (level.weight > 0))
    )
    total = np.where(alive, total, 0)
    steps = np.arange(shape[axis]).reshape([-1 if k == axis else 1 for k in range(len(shape))])
    used = np.where(alive, steps, -1)
    latest = np.maximum.accumulate(used, axis=axis)
    opening = np.where(alive, steps, shape[axis]).min(axis=axis, keepdims=True)
    opening = np.minimum(opening, shape[axis] - 1)
    closing = np.maximum(latest.take([-1], axis=axis), 0)
    if not concerns and (once or level.pace.side == "shared"):
        summed = total.max(axis=axis, keepdims=True)
    else:
        summed = total.sum(axis=axis, keepdims=True)
        if level.pace.side != "apart":
            before = np.roll(latest, 1, axis=axis)
            met = alive & (before >= 0) & (steps > 0)
            earlier = np.take_along_axis(last, np.maximum(before, 0), axis=axis)
            again = met & (earlier == first)
            summed = summed - np.where(again, head, 0).sum(axis=axis, keepdims=True)
    return _Run(
        summed,
        np.take_along_axis(first, opening, axis=axis),
        np.take_along_axis(last, closing, axis=axis),
        np.take_along_axis(head, opening, axis=axis),
        np.asarray(alive.any(axis=axis, keepdims=True)),
    )


def _collected(run: _Run, level: Level, axis: int, *, concerns: bool, once: bool) -> _Run:
    """Join the steps of a loop that has one entry for each size of its steps."""
    entries = [
        (_at(run, axis, place), level.weight.take([min(place, level.weight.shape[axis] - 1)], axis))
        for place in range(level.weight.shape[axis])
    ]
    joined: _Run | None = None
    for each, weight in entries:
        repeated = _repeated(each, weight, level, axis, concerns=concerns, once=once)
        if joined is None:
            joined = repeated
        else:
            joined = _then(joined, repeated, level, concerns=concerns, once=once)
    assert joined is not None
    return joined


def _at(run: _Run, axis: int, place: int) -> _Run:
    arrays = [
        each.take([min(place, each.shape[axis] - 1)], axis)
        for each in (run.total, run.first, run.last, run.head)
    ]
    alive = run.alive.take([min(place, run.alive.shape[axis] - 1)], axis)
    return _Run(arrays[0], arrays[1], arrays[2], arrays[3], alive)


def _repeated(
    run: _Run, weight: Ints, level: Level, axis: int, *, concerns: bool, once: bool
) -> _Run:
    alive = run.alive & (weight > 0)
    if concerns:
        mark = np.int64(1_000_003 * (axis + 1))  # the position along this loop, in the label
        last = run.last + np.maximum(weight - 1, 0) * mark
        return _Run(np.where(alive, run.total * weight, 0), run.first, last, run.head, alive)
    if once or level.pace.side == "shared":
        return _Run(np.where(alive, run.total, 0), run.first, run.last, run.head, alive)
    total = run.total * weight
    if not level.pace.side:
        again = np.where(run.first == run.last, run.head, 0)
        total = total - again * np.maximum(weight - 1, 0)
    return _Run(np.where(alive, total, 0), run.first, run.last, run.head, alive)


def _then(left: _Run, right: _Run, level: Level, *, concerns: bool, once: bool) -> _Run:
    """Join full tiles and the remainder after them."""
    both = left.alive & right.alive
    if concerns:
        total = left.total + right.total
        mark = np.int64(7_368_787)  # another position than all full tiles
        last = right.last + np.where(both, mark, 0)
    elif once or level.pace.side == "shared":
        total, last = np.maximum(left.total, right.total), right.last
    else:
        again = both & (left.last == right.first) & (level.pace.side != "apart")
        total, last = left.total + right.total - np.where(again, right.head, 0), right.last
    return _Run(
        total,
        np.where(left.alive, left.first, right.first),
        np.where(right.alive, last, left.last),
        np.where(left.alive, left.head, right.head),
        left.alive | right.alive,
    )

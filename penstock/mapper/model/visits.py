"""How often a leaf is visited with which tile sizes, empty tiles of its guard left out.

Which tiles are empty is exact (`regions.occupied`). A visit computes a full tile: hardware does not
skip single absent points inside one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.einsum_ir.regions.occupied import occupied
from penstock.mapper.facts import Facts, Step, Use
from penstock.mapper.model.regions import points_in_range
from penstock.mapper.model.tiles import Grid, Pace, sizes

__all__ = ["Visits", "active_tiles", "share_in_range", "visits_of"]

Flags = NDArray[np.bool_]
Kind = tuple[tuple[str, int], ...]
"""(variable, coordinates) pairs: the sizes of a visit."""


@dataclass(frozen=True)
class Visits:
    """The visits of one leaf.

    Args:
        kinds: sizes → number of visits that have them.
        in_time: the same, where visits side by side count once; sizes → steps in time.
        skipped: visits that do not take place, because their tile is empty.
        started: output elements that some visit reduces into.
    """

    kinds: Mapping[Kind, int]
    in_time: Mapping[Kind, float]
    skipped: int
    started: int

    @property
    def count(self) -> int:
        """The visits that take place."""
        return sum(self.kinds.values())

    def total(self, each: Callable[[dict[str, int]], float]) -> float:
        """Sum a function of the sizes over the visits."""
        return sum(count * each(dict(kind)) for kind, count in self.kinds.items())


def active_tiles(step: Step, grid: Grid, facts: Facts) -> Flags | None:
    """Return which boxes of a grid have a point with an effect, exactly; None if all do.

    The guard's variables must be placed.
    """
    if step.guard is None:
        return None
    low, high = {}, {}
    for name in step.guarded:
        low[name] = grid.start_of(name)
        high[name] = low[name] + grid.size_of(name) - 1
    return occupied(step.guard, low, high, facts.symbols)


def share_in_range(step: Step, use: Use, paces: tuple[Pace, ...], facts: Facts) -> float:
    """Return the share of a leaf's accesses of a tensor that are in range.

    Args:
        step: its Einsum.
        use: the accesses.
        paces: the loops around the leaf, outermost first.
        facts: of the cascade; remembers the share.
    """
    if step.guard is None or use.inside == use.points:
        return use.inside / use.points
    names = use.placed | set(step.guarded)
    mine = tuple(pace for pace in paces if pace.variable in names)
    key = (step.einsum.name, use, mine)
    if key not in facts.visits:
        grid = Grid(mine, facts.extents, names)
        status = active_tiles(step, grid, facts)
        visited = grid.weight() if status is None else grid.weight() * status
        inside, points = visited.astype(np.float64), visited.astype(np.float64)
        for dim in use.dims:
            if dim.form is not None and not dim.plain:
                inside = inside * points_in_range(dim.form, dim.extent, grid)
                points = points * math.prod(grid.size_of(name) for name in dim.variables)
        facts.visits[key] = float(inside.sum() / max(points.sum(), 1.0))
    found: float = facts.visits[key]
    return found


def visits_of(step: Step, paces: tuple[Pace, ...], facts: Facts) -> Visits:
    """Count the visits of a leaf inside loops; once for the same loops.

    Args:
        step: its Einsum.
        paces: the loops around it, outermost first.
        facts: of the cascade; remembers them.
    """
    found: dict[tuple[str, tuple[Pace, ...]], Visits] = facts.visits
    key = (step.einsum.name, paces)
    if key not in found:
        found[key] = _visits_of(step, paces, facts)
    return found[key]


def _visits_of(step: Step, paces: tuple[Pace, ...], facts: Facts) -> Visits:
    chains = {
        name: tuple(pace for pace in paces if pace.variable == name)
        for name in step.einsum.variables
    }
    free = [name for name in chains if name not in step.guarded]
    joint, in_time, skipped, started = _guarded(step, paces, facts)
    plain = _combined({name: sizes(facts.extents[name], chains[name]) for name in free})
    paced = _combined(
        {name: sizes(facts.extents[name], chains[name], in_time=True) for name in free}
    )
    kept = {name for dim in step.write.dims for name in dim.variables}
    for name in free:
        started *= facts.extents[name] if name in kept else 1
    tiles = sum(plain.values())
    return Visits(
        {mine + other: a * b for mine, a in joint.items() for other, b in plain.items()},
        {mine + other: a * b for mine, a in in_time.items() for other, b in paced.items()},
        skipped * tiles,
        started,
    )


def _combined(kinds: Mapping[str, Mapping[int, int]]) -> dict[Kind, int]:
    found: dict[Kind, int] = {}
    for each in product(*(kind.items() for kind in kinds.values())):
        key = tuple(zip(kinds, (size for size, _ in each), strict=True))
        found[key] = math.prod(count for _, count in each)
    return found


def _guarded(
    step: Step, paces: tuple[Pace, ...], facts: Facts
) -> tuple[dict[Kind, int], dict[Kind, float], int, int]:
    """Count the tiles of the guard's variables: by size, by size in time, skipped, started."""
    mine = tuple(pace for pace in paces if pace.variable in step.guarded)
    if step.guard is None:
        return {(): 1}, {(): 1.0}, 0, 1
    grid = Grid(mine, facts.extents, frozenset(step.guarded))
    shape = [1] * grid.rank
    for axis, level in enumerate(grid.levels):
        shape[axis] = level.weight.shape[axis]
    exists = np.broadcast_to(grid.weight() > 0, shape)
    status = active_tiles(step, grid, facts)
    active = exists if status is None else exists & status
    wide = {name: np.broadcast_to(grid.size_of(name), shape) for name in step.guarded}
    split = _by_size(wide, active)
    kinds = {key: int(where.sum()) for key, where in split}
    skipped = int(exists.sum()) - int(active.sum())
    return kinds, _in_time(split, mine), skipped, _started(step, grid, active)


def _by_size(wide: Mapping[str, NDArray[np.int64]], active: Flags) -> list[tuple[Kind, Flags]]:
    """Split the active tiles by their sizes."""
    if not active.any():
        return []
    groups: list[tuple[Kind, Flags]] = [((), active)]
    for name, size in wide.items():
        values = np.unique(size[active]).tolist()
        if len(values) == 1:
            groups = [((*key, (name, values[0])), where) for key, where in groups]
            continue
        groups = [
            ((*key, (name, value)), where & (size == value))
            for key, where in groups
            for value in values
        ]
    return [(key, where) for key, where in groups if where.any()]


def _in_time(split: list[tuple[Kind, Flags]], paces: tuple[Pace, ...]) -> dict[Kind, float]:
    """Add up active tiles in time: side by side, the visits of the busiest place count.

    Busiest is the place with most points, of tiles of all sizes together.
    """
    if not split:
        return {}
    side_by_side = max((place for place, pace in enumerate(paces, 1) if pace.side), default=0)
    inner = tuple(range(side_by_side, len(paces)))
    work = np.stack([where.sum(axis=inner, keepdims=True) for _, where in split], dtype=np.float64)
    points = np.array([math.prod(size for _, size in key) for key, _ in split], dtype=np.float64)
    weights = points.reshape(-1, *(1 for _ in paces))
    for axis in range(side_by_side, 0, -1):
        pace = paces[axis - 1]
        if not pace.side:
            work = work.sum(axis=axis, keepdims=True)
            continue
        if pace.rounds:  # together with loops that are not here: what is typical of them
            work = work.mean(axis=axis, keepdims=True) * pace.rounds
            continue
        count = work.shape[axis]
        places = pace.places or count
        rounds = [
            work.take(range(first, min(first + places, count)), axis=axis)
            for first in range(0, count, places)
        ]
        work = sum((_busiest(each, weights, axis) for each in rounds), np.zeros(1))
    return {key: float(each.sum()) for (key, _), each in zip(split, work, strict=True)}


def _busiest(work: NDArray[Any], weights: NDArray[Any], axis: int) -> NDArray[Any]:
    """Return the work, by size, of the place along an axis that has most of all sizes."""
    total = (work * weights).sum(axis=0, keepdims=True)
    busiest = total.argmax(axis=axis, keepdims=True)
    return np.take_along_axis(work, np.repeat(busiest, len(work), axis=0), axis)


def _started(step: Step, grid: Grid, active: Flags) -> int:
    """Count the coordinates of guarded output variables that some active tile covers."""
    kept = {name for dim in step.write.dims for name in dim.variables}
    axes = tuple(axis for axis, level in enumerate(grid.levels) if level.pace.variable not in kept)
    some = active.any(axis=axes, keepdims=True) if axes else active
    count = some.astype(np.int64)
    for name in step.guarded:
        if name in kept:
            size = grid.size_of(name)
            count = count * size
    return int(count.sum())

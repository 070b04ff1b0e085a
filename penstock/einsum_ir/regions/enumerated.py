"""Tiles of a space decided by looking at points, for conditions that straight lines do not cut.

Small spaces are looked at as a whole. In large ones interval arithmetic decides boxes first, and
only what it leaves open is halved and, at last, enumerated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.einsum_ir.nodes import Expr
from penstock.einsum_ir.regions.bounds import box_status
from penstock.einsum_ir.regions.counting import holds_at
from penstock.einsum_ir.regions.runs import Runs, ragged, runs_of
from penstock.errors import DataError

__all__ = ["Part", "Space", "by_boxes", "dense"]

Ints = NDArray[np.int64]

WHOLE = 1 << 22
"""Points of a space that is looked at as a whole."""

LEAF = 1 << 12
"""Points of a box below which it is enumerated."""

MOST = 1 << 33
"""Points that are looked at before it is given up."""

BATCH = 1 << 15
"""Boxes that are decided at a time."""

CHUNK = 1 << 20
"""Points that are looked at at a time."""


@dataclass(frozen=True, eq=False)
class Space:
    """A box of coordinates in tiles: the variables' extents and tile sizes, outermost first."""

    extents: Mapping[str, int]
    tiles: Mapping[str, int]
    tables: Mapping[str, NDArray[Any]]

    @property
    def names(self) -> tuple[str, ...]:
        """The variables, outermost first."""
        return tuple(self.extents)

    @property
    def grid(self) -> tuple[int, ...]:
        """The number of tiles along each variable."""
        return tuple(-(-self.extents[name] // self.tiles[name]) for name in self.extents)

    @property
    def volume(self) -> int:
        """The number of points."""
        return math.prod(self.extents.values())

    def only(self, names: tuple[str, ...]) -> Space:
        """Return the space of some of the variables."""
        extents = {name: self.extents[name] for name in names}
        return Space(extents, {name: self.tiles[name] for name in names}, self.tables)


@dataclass(frozen=True, eq=False)
class Part:
    """What is known of a condition over some variables.

    Args:
        space: of these variables.
        points: at which it holds.
        some: tiles (row-major numbers) with a point at which it holds.
        lack: tiles with a point at which it does not.
    """

    space: Space
    points: int
    some: Runs
    lack: Runs


def dense(pred: Expr, space: Space) -> Part:
    """Look at every point."""
    rank = len(space.names)
    coordinates = {
        name: np.arange(extent).reshape([-1 if each == at else 1 for each in range(rank)])
        for at, (name, extent) in enumerate(space.extents.items())
    }
    held = holds_at(pred, coordinates, {}, space.tables)
    some: Any = held
    lack: Any = ~held
    for axis, name in enumerate(space.names):
        if space.tiles[name] > 1:
            starts = np.arange(0, space.extents[name], space.tiles[name])
            some = np.logical_or.reduceat(some, starts, axis=axis)
            lack = np.logical_or.reduceat(lack, starts, axis=axis)
    places = [np.flatnonzero(each) for each in (some, lack)]
    return Part(space, int(held.sum()), *(runs_of([(each, each)]) for each in places))


@dataclass(eq=False)
class _Found:
    points: int = 0
    looked: int = 0
    some: list[tuple[Ints, Ints]] = field(default_factory=list)
    lack: list[tuple[Ints, Ints]] = field(default_factory=list)


def by_boxes(pred: Expr, space: Space) -> Part:
    """Decide boxes, halve those that are open, and look at the points of the small ones.

    Raises:
        DataError: over 2^33 points would have to be looked at.
    """
    ends = np.array(list(space.extents.values()), dtype=np.int64)
    tiles = np.array(list(space.tiles.values()), dtype=np.int64)
    waiting = [(np.zeros((1, len(ends)), np.int64), ends[None] - 1)]
    found = _Found()
    while waiting:
        low, high = waiting.pop()
        if len(low) > BATCH:
            waiting += [(low[: len(low) // 2], high[: len(low) // 2])]
            low, high = low[len(low) // 2 :], high[len(low) // 2 :]
        volume = (high - low + 1).prod(axis=1)
        single = (low // tiles == high // tiles).all(axis=1)
        boxes = [{n: each[:, at] for at, n in enumerate(space.names)} for each in (low, high)]
        status = box_status(pred, boxes[0], boxes[1], {})
        status = np.where((status == 0) & single & (volume <= LEAF), 2, status)
        found.points += int(volume[status == 1].sum())
        for state, listed in ((1, found.some), (-1, found.lack)):
            listed.append(_tiles(low[status == state], high[status == state], space))
        _look(pred, low[status == 2], high[status == 2], space, found)
        if (status == 0).any():
            waiting += _halves(low[status == 0], high[status == 0], tiles)
    return Part(space, found.points, runs_of(found.some), runs_of(found.lack))


def _halves(low: Ints, high: Ints, tiles: Ints) -> list[tuple[Ints, Ints]]:
    """Cut boxes in two: between tiles while they have several, then anywhere."""
    cut_tiles = high // tiles - low // tiles
    several = np.asarray(cut_tiles.any(axis=1, keepdims=True))
    axis = np.where(several, cut_tiles, high - low).argmax(axis=1)
    rows = np.arange(len(low))
    first, last, tile = low[rows, axis], high[rows, axis], tiles[axis]
    middle = np.where(
        several[:, 0], ((first // tile + last // tile + 1) // 2) * tile - 1, (first + last) // 2
    )
    left, right = high.copy(), low.copy()
    left[rows, axis], right[rows, axis] = middle, middle + 1
    return [(low, left), (right, high)]


def _tiles(low: Ints, high: Ints, space: Space) -> tuple[Ints, Ints]:
    """Return the numbers of the tiles of boxes, as runs."""
    first = np.zeros(len(low), np.int64)
    owner = np.arange(len(low))
    for axis, (name, count) in enumerate(zip(space.names, space.grid, strict=True)):
        ends = [each[owner, axis] // space.tiles[name] for each in (low, high)]
        if axis == len(space.names) - 1:
            return first * count + ends[0], first * count + ends[1]
        mine, step = ragged(ends[1] - ends[0] + 1)
        first, owner = (first * count + ends[0])[mine] + step, owner[mine]
    return first, first


def _look(pred: Expr, low: Ints, high: Ints, space: Space, found: _Found) -> None:
    """Look at the points of boxes that are in one tile each."""
    volume = (high - low + 1).prod(axis=1)
    found.looked += int(volume.sum())
    if found.looked > MOST:
        raise DataError(
            f"{pred} has no bounds on over {MOST} points, which would have to be looked at",
            span=pred.span,
            fix="give a smaller space",
        )
    step = max(1, CHUNK // int(volume.max(initial=1)))
    for start in range(0, len(low), step):
        part = slice(start, start + step)
        shape = (high[part] - low[part] + 1).T
        owner, number = ragged(shape.prod(axis=0))
        coordinates = {}
        for axis in range(len(shape) - 1, -1, -1):
            length = shape[axis][owner]
            coordinates[space.names[axis]] = low[part][owner, axis] + number % length
            number = number // length
        held: Any = holds_at(pred, coordinates, {}, space.tables)
        count = np.bincount(owner, weights=held, minlength=shape.shape[1]).astype(np.int64)
        found.points += int(count.sum())
        for which, listed in ((count > 0, found.some), (count < shape.prod(axis=0), found.lack)):
            listed.append(_tiles(low[part][which], high[part][which], space))

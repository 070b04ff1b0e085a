"""The tiles that nested loops cut a box into: how many of each size, and where.

Each loop has an axis of numpy arrays. Along the axis of a *placed* variable stand all its steps,
with their first coordinates; along the others only the different sizes, with their numbers. So
remainders are exact and long loops cost nothing unless positions matter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Grid", "Pace", "Side", "Times", "sizes"]

Ints = NDArray[Any]

Side = Literal["", "shared", "apart"]
"""How the steps of a loop run: one after another; side by side in lock step, so that what they
have in common moves once; or side by side on their own (cores, thread blocks)."""


@dataclass(frozen=True, slots=True)
class Pace:
    """A loop as the counting sees it.

    Args:
        variable, tile: of the loop.
        side: how its steps run.
        places: of the axis of a loop that folds; 0 for one that does not.
        rounds: steps in time of all loops along one folding axis together, noted at the
            innermost of them (the others have `places` 0); 0 where there is only one.
    """

    variable: str
    tile: int
    side: Side = ""
    places: int = 0
    rounds: int = 0

    def in_time(self, steps: int) -> int:
        """Return the steps in time that so many steps take."""
        if not self.side:
            return steps
        if self.rounds:
            return self.rounds if steps else 0
        return -(-steps // self.places) if self.places else min(steps, 1)


Times = Mapping[int, int]
"""Size of a tile → number of such tiles."""


def sizes(extent: int, paces: tuple[Pace, ...], *, in_time: bool = False) -> dict[int, int]:
    """Return the sizes that loops over one variable leave, and how many tiles have each.

    Args:
        extent: of the variable, in coordinates.
        paces: the loops, outermost first.
        in_time: count steps in time: side by side is once, of the largest.
    """
    found = {extent: 1}
    for pace in paces:
        inner: dict[int, int] = {}
        for size, count in found.items():
            full, rest = divmod(size, pace.tile)
            if in_time and pace.side:
                largest = pace.tile if full else rest
                steps = full + (rest > 0)
                inner[largest] = inner.get(largest, 0) + count * pace.in_time(steps)
                continue
            if full:
                inner[pace.tile] = inner.get(pace.tile, 0) + count * full
            if rest:
                inner[rest] = inner.get(rest, 0) + count
        found = inner
    return found


@dataclass(frozen=True)
class Level:
    """The arrays of one loop; they broadcast over the axes of all loops.

    ``weight`` is the number of steps that an entry stands for, 0 for one that does not exist.
    """

    pace: Pace
    weight: Ints
    placed: bool


class Grid:
    """The tiles of nested loops.

    Args:
        paces: the loops, outermost first; each has an axis.
        extents: variable → coordinates.
        placed: the variables whose positions matter.
    """

    def __init__(
        self, paces: tuple[Pace, ...], extents: Mapping[str, int], placed: AbstractSet[str]
    ) -> None:
        self.paces, self.extents, self.placed = paces, extents, placed
        self.rank = len(paces)
        self.size: dict[str, Ints] = {}
        self.start: dict[str, Ints] = {}
        self.levels = tuple(self._level(axis, pace) for axis, pace in enumerate(paces))

    def _level(self, axis: int, pace: Pace) -> Level:
        name = pace.variable
        size = self.size_of(name)
        placed = name in self.placed
        if placed:
            count = max(1, math.ceil(int(size.max()) / pace.tile))
            offset = self._along(axis, np.arange(count, dtype=np.int64)) * pace.tile
            self.start[name] = self.start_of(name) + offset
            inner = np.clip(size - offset, 0, pace.tile)
            weight = (inner > 0).astype(np.int64)
        else:
            inner, weight = _kinds(size, pace.tile, axis)
        self.size[name] = inner
        return Level(pace, weight, placed)

    def _along(self, axis: int, values: Ints) -> Ints:
        shape = [1] * self.rank
        shape[axis] = len(values)
        return values.reshape(shape)

    def size_of(self, name: str) -> Ints:
        """Return the coordinates that the loops leave of a variable."""
        found = self.size.get(name)
        if found is None:
            found = np.full((1,) * self.rank, self.extents[name], dtype=np.int64)
        return found

    def start_of(self, name: str) -> Ints:
        """Return the first coordinate of a placed variable (0 without loops)."""
        found = self.start.get(name)
        return np.zeros((1,) * self.rank, dtype=np.int64) if found is None else found

    def weight(self) -> Ints:
        """Return how many steps each entry of the whole grid stands for."""
        total = np.ones((1,) * self.rank, dtype=np.int64)
        for level in self.levels:
            total = total * level.weight
        return total


def _kinds(size: Ints, tile: int, axis: int) -> tuple[Ints, Ints]:
    """Return sizes and numbers of full tiles and of remainders, side by side along the axis."""
    full, rest = size // tile, size % tile
    if not rest.any():
        return np.full_like(size, tile), full
    if not full.any():
        return rest, (rest > 0).astype(np.int64)
    inner = np.concatenate([np.full_like(size, tile), rest], axis=axis)
    return inner, np.concatenate([full, (rest > 0).astype(np.int64)], axis=axis)

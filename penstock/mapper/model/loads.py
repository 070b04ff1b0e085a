"""How fast a skeleton's schedule can be, and what an option may take in one that is fast enough.

Each Einsum counts with its fewest cycles on each array: these are few enough choices to look at
all together. Excluded: memories, and waits of iterations for each other, which only add to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Least", "Loads"]

Floats = NDArray[np.float64]

MAX_CHOICES = 1 << 14
"""Beyond, an Einsum counts as if it ran on the array where it is fastest, and nowhere."""


@dataclass(frozen=True)
class Least:
    """The least that an Einsum takes: cycles on each array, by its number, and of its ``init``."""

    cycles: Mapping[int, float]
    init_cycles: float


class Loads:
    """The schedules of all choices of arrays for the Einsums of a skeleton.

    Args:
        least: of each Einsum.
        pipelines: number of the pipelined loop around each; -1 = none.
    """

    def __init__(self, least: Sequence[Least], pipelines: Sequence[int]) -> None:
        self.least, self.pipelines = least, pipelines
        arrays = sorted({array for each in least for array in each.cycles})
        self.column = {array: number for number, array in enumerate(arrays)}
        self.fixed = sum(each.init_cycles for each in least)
        self.chosen: list[NDArray[np.int64] | None] = []
        self.loads: dict[int, Floats] = {-1: np.zeros((1, 1))}
        self.loads |= {each: np.zeros((1, len(arrays))) for each in pipelines if each >= 0}
        for each, pipeline in zip(least, pipelines, strict=True):
            self._add(each, pipeline)
        self.times = {name: rows.max(axis=1) for name, rows in self.loads.items()}
        self.total = self.fixed + sum(self.times.values(), np.zeros(1))
        self.fewest = float(self.total.min())

    @property
    def rows(self) -> int:
        """The number of choices looked at."""
        return len(self.loads[-1])

    def _add(self, each: Least, pipeline: int) -> None:
        names = [self.column[array] for array in each.cycles]
        if self.rows * len(names) > MAX_CHOICES:
            self.chosen.append(None)
            if pipeline < 0:
                self.loads[-1] = self.loads[-1] + min(each.cycles.values())
            return
        count = self.rows
        self.loads = {key: np.tile(mine, (len(names), 1)) for key, mine in self.loads.items()}
        self.chosen = [None if mine is None else np.tile(mine, len(names)) for mine in self.chosen]
        self.chosen.append(np.repeat(np.array(names), count))
        cycles = np.repeat(np.array(list(each.cycles.values())), count)
        columns = self.chosen[-1] if pipeline >= 0 else 0
        self.loads[pipeline][np.arange(self.rows), columns] += cycles

    def slack(self, number: int, most: float) -> dict[int, float]:
        """Return array → the cycles that an Einsum may take there in a schedule of `most`."""
        each, pipeline, chosen = self.least[number], self.pipelines[number], self.chosen[number]
        if chosen is None:
            return dict.fromkeys(each.cycles, math.inf)
        found = {}
        left = most - (self.total - self.times[pipeline])
        for array, cycles in each.cycles.items():
            here = np.flatnonzero(chosen == self.column[array])
            mine = self.loads[pipeline][here]
            if pipeline < 0:
                room = left[here] - mine[:, 0]
            else:
                room = left[here] - mine[:, self.column[array]]
                others = np.delete(mine, self.column[array], axis=1)
                late = others.max(axis=1, initial=0.0) > left[here]
                room = np.where(late, -math.inf, room)
            found[array] = cycles + float(room.max())
        return found

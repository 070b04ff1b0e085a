"""Sets of whole numbers as sorted runs, and how to make them from many small ones, vectorised."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Runs", "gaps", "ragged", "runs_of"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Runs:
    """The numbers ``first[i] .. last[i]``, last included; sorted, with gaps between them."""

    first: Ints
    last: Ints

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return int((self.last - self.first + 1).sum())

    def has(self, numbers: Ints) -> NDArray[np.bool_]:
        """Return which of the numbers are in the set."""
        if not len(self.first):
            return np.zeros(np.shape(numbers), dtype=np.bool_)
        place = np.searchsorted(self.first, numbers, side="right") - 1
        inside = numbers <= self.last[np.maximum(place, 0)]
        return np.asarray((place >= 0) & inside)


def runs_of(pairs: Iterable[tuple[Any, Any]]) -> Runs:
    """Return the union of runs, given as arrays (first, last) in any order."""
    listed = list(pairs)
    if not listed:
        return Runs(np.zeros(0, np.int64), np.zeros(0, np.int64))
    first = np.concatenate([np.asarray(each, np.int64).reshape(-1) for each, _ in listed])
    last = np.concatenate([np.asarray(each, np.int64).reshape(-1) for _, each in listed])
    first, last = first[first <= last], last[first <= last]
    if not len(first):
        return Runs(first, last)
    order = np.argsort(first, kind="stable")
    first, reached = first[order], np.maximum.accumulate(last[order])
    begins = np.concatenate([[True], first[1:] > reached[:-1] + 1])
    ends = np.concatenate([begins[1:], [True]])
    return Runs(first[begins], reached[ends])


def gaps(within: Runs, runs: Runs) -> Runs:
    """Return what runs leave of other runs in which they lie."""
    first = np.sort(np.concatenate([within.first, runs.last + 1]))
    last = np.sort(np.concatenate([runs.first - 1, within.last]))
    some = first <= last
    return Runs(first[some], last[some])


def ragged(counts: Ints) -> tuple[Ints, Ints]:
    """Return for lists of these lengths, one after another: whose each entry is, and its number."""
    owner = np.repeat(np.arange(len(counts)), counts)
    starts = np.cumsum(counts) - counts
    return owner, np.arange(len(owner)) - starts[owner]

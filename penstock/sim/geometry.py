"""Which elements of a tensor a box touches, one box at a time.

The rule is the model's (`mapper/model/regions.py`): a block is the product of what the indices
reach, dimension by dimension; elements out of range do not exist; where several different indices
reach into a dimension, what lies between them counts. It is found here independently, by
enumeration, so that the two can be compared. Excluded: order and time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.einsum_ir.affine import Affine, affine
from penstock.einsum_ir.nodes import Access, Expr, accesses, variables
from penstock.einsum_ir.regions.algebra import NumpyAlgebra
from penstock.einsum_ir.regions.bounds import interval
from penstock.einsum_ir.shapes import Bound

__all__ = ["Block", "Boxes", "Reach", "Span", "steps_of"]

Boxes = Mapping[str, tuple[int, int]]
"""Rank variable → (start, stop), half open."""

Span = tuple[int, int]

_NUMPY: Any = NumpyAlgebra()


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a tensor.

    Args:
        bounds: (start, stop) for each dimension, half open, in range.
        elements: how many elements of it are touched; with strides fewer than there are.
        label: equal for equal blocks; out-of-range coordinates count here.
        slices: the block as an index into the whole tensor.
    """

    bounds: tuple[Span, ...]
    elements: int
    label: tuple[Span, ...]
    slices: tuple[slice, ...]


class Reach:
    """What one or more accesses of a tensor touch over a box; remembers what it has found.

    Args:
        touched: accesses of one tensor.
        bound: the cascade with its extents.
    """

    def __init__(self, touched: Sequence[Access], bound: Bound) -> None:
        self.tensor = touched[0].tensor
        self.names = variables(*(index for access in touched for index in access.indices))
        columns = zip(*(access.indices for access in touched), strict=True)
        extents = bound.dims[self.tensor]
        self.dims = tuple(
            _Dim(tuple({str(index): index for index in column}.values()), extent, bound)
            for column, extent in zip(columns, extents, strict=True)
        )
        self._known: dict[tuple[Span, ...], Block] = {}

    def block(self, box: Boxes) -> Block:
        """Return what a box touches."""
        key = tuple([box[name] for name in self.names])
        found = self._known.get(key)
        if found is None:
            parts = [each.part(box) for each in self.dims]
            found = self._known[key] = Block(
                tuple([part[0] for part in parts]),
                math.prod([part[1] for part in parts]),
                tuple([part[2] for part in parts]),
                tuple([part[3] for part in parts]),
            )
        return found


_Part = tuple[Span, int, Span, slice]
"""In one dimension: the span in range, the coordinates touched in it, the span in or out of
range, and the first as a slice."""


class _Dim:
    """What the indices of one dimension reach."""

    def __init__(self, indices: tuple[Expr, ...], extent: int, bound: Bound) -> None:
        self.names = variables(*indices)
        self.indices, self.extent, self.symbols = indices, extent, bound.symbols
        self.forms = tuple(
            None if accesses(index) else affine(index, bound.symbols) for index in indices
        )
        self.known: dict[tuple[Span, ...], _Part] = {}

    def part(self, box: Boxes) -> _Part:
        key = tuple([box[name] for name in self.names])
        found = self.known.get(key)
        if found is None:
            low, high, count = self._reach(dict(zip(self.names, key, strict=True)))
            inside = (max(0, min(low, self.extent)), max(0, min(high, self.extent)))
            found = self.known[key] = (inside, count, (low, high), slice(*inside))
        return found

    def _reach(self, box: Boxes) -> tuple[int, int, int]:
        """Return first and last + 1 coordinate that are reached, and how many are in range."""
        form = self.forms[0]
        if len(self.forms) == 1 and form is not None:
            low, high = _ends(form, box)
            reached = _reached(form, box)
            return low, high + 1, int(((reached >= 0) & (reached < self.extent)).sum())
        ends = [self._hull(place, box) for place in range(len(self.indices))]
        low = max(0, min(first for first, _ in ends))
        high = min(self.extent, max(last for _, last in ends) + 1)
        return low, high, max(0, high - low)

    def _hull(self, place: int, box: Boxes) -> tuple[int, int]:
        form, index = self.forms[place], self.indices[place]
        if form is not None:
            return _ends(form, box)
        if accesses(index):  # data decides
            return 0, self.extent - 1
        ranges = {
            name: (np.asarray(start), np.asarray(stop - 1)) for name, (start, stop) in box.items()
        }
        found = interval(index, ranges, _NUMPY, self.symbols)
        if found is None:
            return 0, self.extent - 1
        return math.floor(float(found[0])), math.floor(float(found[1]))


def _ends(form: Affine, box: Boxes) -> tuple[int, int]:
    low = high = form.constant
    for name, factor in form.coefficients:
        start, stop = box[name]
        ends = (factor * start, factor * (stop - 1))
        low, high = low + min(ends), high + max(ends)
    return low, high


def _reached(form: Affine, box: Boxes) -> NDArray[np.int64]:
    """Return the different values of an affine index over a box, sorted."""
    values = np.array([form.constant], dtype=np.int64)
    for name, factor in form.coefficients:
        steps = factor * np.arange(*box[name], dtype=np.int64)
        values = np.unique(values[:, None] + steps)
    return values


def steps_of(extent: int, tiles: Sequence[int]) -> list[Span]:
    """Return the (start, stop) that nested loops over one variable step through, in order."""
    found = [(0, extent)]
    for tile in tiles:
        found = [
            (low, min(low + tile, stop))
            for start, stop in found
            for low in range(start, stop, tile)
        ]
    return found

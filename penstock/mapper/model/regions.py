"""Which elements of a tensor a box of the iteration space touches: how many, and which ones.

A block of a tensor is the product of what its indices reach, dimension by dimension; elements
out of range do not exist. Excluded: loops (`moves.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from penstock.einsum_ir.affine import Affine
from penstock.einsum_ir.regions.algebra import NumpyAlgebra
from penstock.einsum_ir.regions.bounds import interval
from penstock.mapper.facts import Dim, Facts, Use
from penstock.mapper.model.tiles import Grid, Ints

__all__ = ["block_of", "footprint", "offsets", "points_in_range", "reach"]

_NUMPY: Any = NumpyAlgebra()
_LABELS = 2**45 - 55
"""Labels of blocks are hashes below this prime: two that differ collide once in 10**13."""


@lru_cache(maxsize=4096)
def offsets(terms: tuple[tuple[int, int], ...]) -> Ints:
    """Return the different values of ``sum(factor * k)`` for all ``k < count``, sorted.

    Args:
        terms: (factor, count) pairs.
    """
    values = np.zeros(1, dtype=np.int64)
    for factor, count in sorted(terms, key=lambda term: abs(term[0])):
        if 0 < factor <= len(values) == values[-1] - values[0] + 1:  # no gap: steps overlap
            values = np.arange(values[0], values[-1] + factor * (count - 1) + 1, dtype=np.int64)
            continue
        steps = factor * np.arange(count, dtype=np.int64)
        values = np.unique(values[:, None] + steps)
    return values


def block_of(uses: tuple[Use, ...], grid: Grid, facts: Facts) -> tuple[Ints, Ints]:
    """Return for each box of a grid how many elements it touches, and a label of the block.

    Two boxes of the grid with the same label (and the same entry of every loop that is not
    placed) touch the same block.

    Args:
        uses: accesses of one tensor.
        grid: all variables of indices that are not plain must be placed.
        facts: of the cascade.
    """
    one = np.ones((1,) * grid.rank, dtype=np.int64)
    count, label = one, one * 0
    for place, extent in enumerate(facts.dims[uses[0].tensor]):
        dims = {use.dims[place].text: use.dims[place] for use in uses}
        number, mark = _dimension(tuple(dims.values()), extent, grid, facts)
        count = count * number
        label = (label * 65_599 + mark) % _LABELS
    return count, label


def _dimension(dims: tuple[Dim, ...], extent: int, grid: Grid, facts: Facts) -> tuple[Ints, Ints]:
    """Return the coordinates of one dimension that boxes touch, and a label for them."""
    first = dims[0]
    if len(dims) == 1 and first.plain:
        return grid.size_of(first.plain), grid.start_of(first.plain)
    if len(dims) == 1 and first.form is not None:
        return _affine(first, extent, grid)
    bounds = [_hull(dim, extent, grid, facts) for dim in dims]
    low, high = bounds[0]
    for other_low, other_high in bounds[1:]:
        low, high = np.minimum(low, other_low), np.maximum(high, other_high)
    low, high = np.clip(low, 0, extent), np.clip(high, -1, extent - 1)
    return np.maximum(high - low + 1, 0), low * np.int64(extent + 2) + high


def points_in_range(form: Affine, extent: int, grid: Grid) -> Ints:
    """Return for each box of a grid at how many of its points an affine index is a coordinate."""
    base = np.full((1,) * grid.rank, form.constant, dtype=np.int64)
    for name, factor in form.coefficients:
        base = base + factor * grid.start_of(name)
    sizes = [grid.size_of(name) for name, _ in form.coefficients]
    shape = np.broadcast_shapes(base.shape, *(each.shape for each in sizes))
    where = np.broadcast_to(base, shape)
    wide = [np.broadcast_to(each, shape) for each in sizes]
    count = np.zeros(shape, dtype=np.int64)
    for kind in set(zip(*(each.ravel().tolist() for each in wide), strict=True)):
        values = np.zeros(1, dtype=np.int64)
        for (_, factor), size in zip(form.coefficients, kind, strict=True):
            values = np.add.outer(values, factor * np.arange(size, dtype=np.int64)).ravel()
        values.sort()
        same = np.logical_and.reduce([each == size for each, size in zip(wide, kind, strict=True)])
        reached = np.searchsorted(values, [-where[same], extent - where[same]])
        count[same] = reached[1] - reached[0]
    return count


def _affine(dim: Dim, extent: int, grid: Grid) -> tuple[Ints, Ints]:
    """Count the coordinates in range that one affine index reaches; label them by their ends."""
    assert dim.form is not None
    base = np.full((1,) * grid.rank, dim.form.constant, dtype=np.int64)
    sizes = []
    for name, factor in dim.form.coefficients:
        base = base + factor * grid.start_of(name)
        sizes.append(grid.size_of(name))
    if not sizes:
        return ((base >= 0) & (base < extent)).astype(np.int64), base
    shape = np.broadcast_shapes(base.shape, *(each.shape for each in sizes))
    count = np.zeros(shape, dtype=np.int64)
    label = np.zeros(shape, dtype=np.int64)
    wide = [np.broadcast_to(each, shape) for each in sizes]
    where = np.broadcast_to(base, shape)
    factors = [factor for _, factor in dim.form.coefficients]
    for kind in set(zip(*(each.ravel().tolist() for each in wide), strict=True)):
        if 0 in kind:
            continue  # an entry that does not exist
        same = np.ones(shape, dtype=bool)
        for each, size in zip(wide, kind, strict=True):
            same &= each == size
        reached = offsets(tuple(zip(factors, kind, strict=True)))
        low = np.searchsorted(reached, -where[same])
        high = np.searchsorted(reached, extent - where[same])
        count[same] = high - low
        first = where[same] + reached[np.minimum(low, len(reached) - 1)]
        last = where[same] + reached[np.maximum(high - 1, 0)]
        label[same] = (first * (extent + 2) + last) * (extent + 2) + high - low
    return count, label


def _hull(dim: Dim, extent: int, grid: Grid, facts: Facts) -> tuple[Ints, Ints]:
    """Bound the coordinates that an index reaches."""
    ranges = {
        name: (grid.start_of(name), grid.start_of(name) + grid.size_of(name) - 1)
        for name in dim.variables
    }
    one = np.ones((1,) * grid.rank, dtype=np.int64)
    found = interval(dim.index, ranges, _NUMPY, facts.symbols) if dim.variables else None
    if dim.form is not None and not dim.variables:
        found = (one * dim.form.constant, one * dim.form.constant)
    if found is None:
        return one * 0, one * (extent - 1)
    low, high = (np.floor(np.asarray(each)).astype(np.int64) for each in found)
    return low * one, high * one


def reach(dim: Dim, box: Mapping[str, int], facts: Facts) -> int:
    """Return the most coordinates of a dimension that a box of these sizes can touch."""
    if dim.plain:
        return box[dim.plain]
    if dim.form is not None:
        terms = tuple((abs(factor), box[name]) for name, factor in dim.form.coefficients)
        return min(dim.extent, 1 + sum(factor * (count - 1) for factor, count in terms))
    if not dim.variables:
        return dim.extent
    total = 1
    for name in dim.variables:
        total *= box[name]
    return min(dim.extent, total)


def footprint(
    uses: tuple[Use, ...], box: Mapping[str, int], facts: Facts, window: tuple[int, int] | None
) -> int:
    """Return the elements of a tensor that have to be held for a box of these sizes.

    Args:
        uses: accesses of one tensor.
        box: variable → coordinates.
        facts: of the cascade.
        window: (dimension, coordinates alive at a time) of an iterative rank that a loop inside
            steps; None without one.
    """
    total = 1
    for place, extent in enumerate(facts.dims[uses[0].tensor]):
        dims = {use.dims[place].text: use.dims[place] for use in uses}
        if window is not None and window[0] == place:
            total *= min(extent, window[1])
        else:
            total *= min(extent, _together(tuple(dims.values()), box, facts))
    return total


def _together(dims: tuple[Dim, ...], box: Mapping[str, int], facts: Facts) -> int:
    widths = [reach(dim, box, facts) for dim in dims]
    forms = [dim.form for dim in dims if dim.form is not None]
    same = len(forms) == len(dims) and len({form.coefficients for form in forms}) == 1
    if same:
        constants = [form.constant for form in forms]
        return max(widths) + max(constants) - min(constants)
    return max(widths) if len(dims) == 1 else dims[0].extent

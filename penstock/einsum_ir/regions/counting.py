"""Conditions and expressions evaluated at given points, and what enumeration finds out.

Excluded: counting without looking at every point (`tiling.py`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.einsum_ir.interpreter.arithmetic import Number, integer_number, truth
from penstock.einsum_ir.interpreter.evaluate import FLOAT64, Scope, Value, both, whole
from penstock.einsum_ir.nodes import Access, Expr

__all__ = ["extremes", "holds_at", "values_at", "values_of"]

CHUNK = 1 << 20
"""Points that are enumerated at a time."""


@dataclass(frozen=True)
class _Points(Scope):
    """A scope in which each variable's coordinates are given, point by point."""

    coordinates: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    tables: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def _coordinates(self, name: str) -> NDArray[np.int64]:
        return self.coordinates[name]

    def _load(self, access: Access) -> Value:
        table, present = self.tables[access.tensor], None
        places = []
        for index, extent in zip(access.indices, table.shape, strict=True):
            place, valid = whole(self.value(index), extent)
            places.append(place)
            present = both(present, valid)
        data = np.asarray(table[tuple(places)])
        if data.dtype.kind == "f":
            return Value(Number(data.astype(np.float64)), present)
        return Value(integer_number(data.astype(np.int64)), present)


def holds_at(
    pred: Expr,
    coordinates: Mapping[str, NDArray[np.int64]],
    symbols: Mapping[str, float],
    tables: Mapping[str, NDArray[Any]] | None = None,
) -> NDArray[np.bool_]:
    """Evaluate a condition.

    Args:
        pred: over rank variables.
        coordinates: variable → coordinates; the arrays broadcast together.
        symbols: upper-case name → value.
        tables: tensor → its elements, of those that the condition reads.

    Returns:
        Whether it holds, in the shape that the coordinates broadcast to.
    """
    tables = {} if tables is None else tables
    scope = _Points({}, FLOAT64, symbols, {}, exact=True, coordinates=coordinates, tables=tables)
    value = scope.value(pred)
    holds = truth(value.number)
    if value.present is not None:
        holds = holds & value.present
    shape = np.broadcast_shapes(*(np.shape(each) for each in coordinates.values()))
    return np.broadcast_to(np.asarray(holds, dtype=np.bool_), shape)


def values_of(
    expr: Expr,
    coordinates: Mapping[str, NDArray[np.int64]],
    tables: Mapping[str, NDArray[Any]],
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Return the values of an expression, and where they are present (None: everywhere)."""
    scope = _Points({}, FLOAT64, {}, {}, exact=True, coordinates=coordinates, tables=tables)
    value = scope.value(expr)
    return value.number.data, value.present


def values_at(expr: Expr, coordinates: Mapping[str, NDArray[np.int64]]) -> NDArray[np.int64]:
    """Evaluate an integer expression that is present everywhere (see `holds_at`)."""
    scope = _Points({}, FLOAT64, {}, {}, exact=True, coordinates=coordinates)
    return np.asarray(scope.value(expr).number.data, dtype=np.int64)


def _grid(
    names: tuple[str, ...], box: Mapping[str, tuple[int, int]]
) -> dict[str, NDArray[np.int64]]:
    """Return the coordinates of a box's variables, one axis for each."""
    return {
        name: np.arange(*box[name]).reshape([-1 if each == name else 1 for each in names])
        for name in names
    }


def extremes(
    pred: Expr,
    kept: tuple[str, ...],
    reduced: tuple[str, ...],
    extents: Mapping[str, int],
    symbols: Mapping[str, float],
) -> tuple[bool, bool]:
    """Find out by enumeration whether a condition is met for every, and for any, kept point.

    Args:
        pred: a condition over the kept and the reduced variables.
        kept: variables of which each point is asked for.
        reduced: variables of which some coordinates are to meet it.
        extents: variable → number of coordinates.
        symbols: upper-case name → value.

    Returns:
        (whether at every kept point some reduced point meets it, whether at any).
    """
    inner_boxes = list(_boxes(reduced, extents, CHUNK))
    width = max(math.prod(high - low for low, high in box.values()) for box in inner_boxes)
    names = (*kept, *reduced)
    every, some = True, False
    for box in _boxes(kept, extents, max(1, CHUNK // width)):
        found: NDArray[np.bool_] = np.array(False)
        for inner in inner_boxes:
            held = holds_at(pred, _grid(names, {**box, **inner}), symbols)
            found = found | held.any(axis=tuple(range(len(kept), len(names))))
        every, some = every and bool(found.all()), some or bool(found.any())
    return every, some


def _boxes(
    names: tuple[str, ...], extents: Mapping[str, int], limit: int
) -> Iterator[dict[str, tuple[int, int]]]:
    """Yield boxes of at most `limit` points that cover the space of the variables."""
    size, cuts = 1, []
    for name in reversed(names):
        step = max(1, min(extents[name], limit // size))
        size *= step
        cuts.append([(a, min(a + step, extents[name])) for a in range(0, extents[name], step)])
    for parts in itertools.product(*reversed(cuts)):
        yield dict(zip(names, parts, strict=True))

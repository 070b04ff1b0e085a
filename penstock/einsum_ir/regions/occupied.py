"""Which boxes of an iteration space have a point at which a condition holds: exactly.

Interval arithmetic (`bounds.py`) decides most boxes, a point at a corner most of the others; what
is then still open is halved until it is decided, and looked at point by point in the end. Boxes
are any, not the tiles of one grid; `tiling.py` counts those, and what holds in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product

import numpy as np
from numpy.typing import NDArray

from penstock.einsum_ir.nodes import Apply, Expr, variables
from penstock.einsum_ir.regions.bounds import box_status
from penstock.einsum_ir.regions.counting import holds_at
from penstock.einsum_ir.regions.runs import ragged
from penstock.errors import DataError

__all__ = ["apart", "conjuncts", "occupied"]

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

LEAF = 1 << 10
"""Points of a box below which it is enumerated."""

BATCH = 1 << 14
"""Boxes that are decided at a time."""

MOST = 1 << 33
"""Points that are looked at before it is given up."""

CORNERS = 4
"""Variables of which both ends are tried in all combinations; of the others the lower one."""


def occupied(
    pred: Expr, low: Mapping[str, Ints], high: Mapping[str, Ints], symbols: Mapping[str, float]
) -> Flags:
    """Decide for many boxes at a time whether a condition holds anywhere in them.

    Args:
        pred: a condition over rank variables that reads no tensor.
        low: variable → lowest coordinate of each box; all arrays broadcast together.
        high: variable → highest coordinate of each box, included; a box may have no points.
        symbols: upper-case name → value.

    Raises:
        DataError: over 2^33 points would have to be looked at.
    """
    shape = np.broadcast_shapes(*(np.shape(each) for each in (*low.values(), *high.values())))
    found: Flags = np.ones((1,) * len(shape), dtype=bool)
    for name in low.keys() - set(variables(pred)):
        found = found & (np.asarray(low[name]) <= np.asarray(high[name]))
    for part in apart(list(conjuncts(pred)), "and"):  # parts share no variable: each by itself
        names = [name for name in low if name in variables(part)]
        ends = [{name: each[name] for name in names} for each in (low, high)]
        found = found & _part(part, ends[0], ends[1], symbols)
    return np.broadcast_to(found, shape)


def conjuncts(pred: Expr, op: str = "and") -> Iterator[Expr]:
    """Yield what is joined by ``and`` (or another operator)."""
    if isinstance(pred, Apply) and pred.op == op:
        for arg in pred.args:
            yield from conjuncts(arg, op)
    else:
        yield pred


def apart(exprs: list[Expr], op: str) -> list[Expr]:
    """Join the expressions that share variables."""
    found: list[Expr] = []
    for each in exprs:
        mine = set(variables(each))
        joined = each
        kept = []
        for other in found:
            if mine & set(variables(other)):
                joined = Apply(op, (other, joined))
                mine |= set(variables(other))
            else:
                kept.append(other)
        found = [*kept, joined]
    return found


def _part(
    pred: Expr, low: Mapping[str, Ints], high: Mapping[str, Ints], symbols: Mapping[str, float]
) -> Flags:
    status = box_status(pred, low, high, symbols)
    found = (status > 0).reshape(-1)
    unsure = np.flatnonzero(status.reshape(-1) == 0)
    flat = [
        np.stack([np.broadcast_to(each[n], status.shape).reshape(-1)[unsure] for n in low], axis=1)
        for each in (low, high)
        if len(unsure)
    ]
    if flat:
        found[unsure] = _decided(pred, tuple(low), flat[0], flat[1], symbols)
    return found.reshape(status.shape)


def _decided(
    pred: Expr, names: tuple[str, ...], low: Ints, high: Ints, symbols: Mapping[str, float]
) -> Flags:
    """Decide boxes, given as one row each: corners first, then halves."""
    found = np.zeros(len(low), dtype=bool)
    for ends in product((False, True), repeat=min(len(names), CORNERS)):
        at = low.copy()
        for axis, upper in enumerate(ends):
            at[:, axis] = (high if upper else low)[:, axis]
        todo = np.flatnonzero(~found)
        if len(todo):
            found[todo] = _holds(pred, names, at[todo], symbols)
    todo = np.flatnonzero(~found)
    starts = range(0, len(todo), BATCH)
    waiting = [(rows, low[rows], high[rows]) for rows in (todo[n : n + BATCH] for n in starts)]
    looked = 0
    while waiting:
        owner, least, most = waiting.pop()
        left = ~found[owner]
        owner, least, most = owner[left], least[left], most[left]
        status = _status(pred, names, least, most, symbols)
        found[owner[status > 0]] = True
        small = (status == 0) & ((most - least + 1).prod(axis=1) <= LEAF)
        looked += int((most - least + 1)[small].prod(axis=1).sum())
        if looked > MOST:
            raise DataError(
                f"{pred} has no bounds on over {MOST} points, which would have to be looked at",
                span=pred.span,
                fix="give a smaller space",
            )
        found[owner[small][_any(pred, names, least[small], most[small], symbols)]] = True
        large = np.flatnonzero((status == 0) & ~small)
        for first in range(0, len(large), BATCH):
            part = large[first : first + BATCH]
            waiting += _halves(owner[part], least[part], most[part])
    return found


def _holds(pred: Expr, names: tuple[str, ...], at: Ints, symbols: Mapping[str, float]) -> Flags:
    return holds_at(pred, {name: at[:, axis] for axis, name in enumerate(names)}, symbols)


def _status(
    pred: Expr, names: tuple[str, ...], low: Ints, high: Ints, symbols: Mapping[str, float]
) -> NDArray[np.int8]:
    ends = [{name: each[:, axis] for axis, name in enumerate(names)} for each in (low, high)]
    return box_status(pred, ends[0], ends[1], symbols)


def _halves(owner: Ints, low: Ints, high: Ints) -> list[tuple[Ints, Ints, Ints]]:
    """Cut each box in two along its longest side."""
    rows = np.arange(len(low))
    axis = (high - low).argmax(axis=1)
    middle = (low[rows, axis] + high[rows, axis]) // 2
    left, right = high.copy(), low.copy()
    left[rows, axis], right[rows, axis] = middle, middle + 1
    return [(owner, low, left), (owner, right, high)]


def _any(
    pred: Expr, names: tuple[str, ...], low: Ints, high: Ints, symbols: Mapping[str, float]
) -> Flags:
    """Look at all points of small boxes."""
    found = np.zeros(len(low), dtype=bool)
    for first in range(0, len(low), LEAF):
        part = slice(first, first + LEAF)
        shape = high[part] - low[part] + 1
        owner, number = ragged(shape.prod(axis=1))
        at = np.empty((len(owner), len(names)), dtype=np.int64)
        for axis in range(len(names) - 1, -1, -1):
            length = shape[owner, axis]
            at[:, axis] = low[part][owner, axis] + number % length
            number = number // length
        held = _holds(pred, names, at, symbols)
        found[part] = np.bincount(owner, weights=held, minlength=len(shape)) > 0
    return found

"""Selections: the coordinates of the largest or smallest present values (``topk``, ``argmax``).

Candidates come by value, equal ones by coordinate, NaN after every number; absent ones are no
candidates. Excluded: reductions to values (`reduce.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from penstock.einsum_ir.interpreter.arithmetic import Number
from penstock.einsum_ir.interpreter.evaluate import Range, Scope, both
from penstock.einsum_ir.interpreter.reduce import LIMIT, Partial
from penstock.einsum_ir.interpreter.rounding import Array
from penstock.einsum_ir.nodes import Einsum, variables
from penstock.einsum_ir.ops import SELECTIONS

__all__ = ["selected"]

Box = Mapping[str, Range]


def selected(einsum: Einsum, scope: Callable[[Box], Scope], box: Box) -> Partial:
    """Return the coordinates that a selection gives over a box of its left side.

    Args:
        einsum: a selection.
        scope: makes the scope of a box.
        box: variable → (start, stop), with the whole range of the reduced ones.

    Returns:
        Integers, with one axis for each variable of the Einsum; reduced ones have size 1.
    """
    assert einsum.reduce is not None
    reduced, into = einsum.reduce.over, einsum.reduce.into
    kept = [name for name in variables(einsum.output) if name != into]
    inner = {name: box[name] for name in (*kept, *reduced)}
    order, count = _parts(einsum, scope, inner, kept)
    start, stop = box[into] if into is not None else (0, 1)
    places = np.arange(start, stop)
    data = np.zeros((*order.shape[:-1], stop - start), dtype=np.int64)
    known = np.minimum(places, order.shape[-1] - 1)
    data[...] = order[..., known]
    present = places < count[..., None]
    data[~present] = 0
    if into is not None:
        axis = variables(einsum.output).index(into)
        data, present = np.moveaxis(data, -1, axis), np.moveaxis(present, -1, axis)
    else:
        data, present = data[..., 0], present[..., 0]
    shape = data.shape + (1,) * len(reduced)
    return Partial(Number(data.reshape(shape), "integer"), present.reshape(shape))


def _parts(
    einsum: Einsum, scope: Callable[[Box], Scope], box: Box, kept: list[str]
) -> tuple[Array, Array]:
    """Return candidates in order and how many there are, in parts where a box is too large."""
    sizes = {name: box[name][1] - box[name][0] for name in box}
    longest = max(kept, key=lambda name: sizes[name], default=None)
    if longest is None or sizes[longest] == 1 or math.prod(sizes.values()) <= LIMIT:
        return _ordered(einsum, scope(box), [sizes[name] for name in kept])
    start, stop = box[longest]
    middle = (start + stop) // 2
    halves = [
        _parts(einsum, scope, {**box, longest: part}, kept)
        for part in ((start, middle), (middle, stop))
    ]
    axis = kept.index(longest)
    orders, counts = zip(*halves, strict=True)
    return np.concatenate(orders, axis=axis), np.concatenate(counts, axis=axis)


def _ordered(einsum: Einsum, scope: Scope, lengths: list[int]) -> tuple[Array, Array]:
    assert einsum.reduce is not None
    value = scope.value(einsum.body)
    present = value.present
    if einsum.where is not None:
        present = both(present, scope.predicate(einsum.where))
    shape = tuple(stop - start for start, stop in scope.box.values())
    flat = (*lengths, math.prod(shape[len(lengths) :]))
    data = np.broadcast_to(scope.number(value).data, shape).reshape(flat)
    key = -data if SELECTIONS[einsum.reduce.op].largest else data
    order = np.argsort(key, axis=-1, kind="stable")
    if present is None:
        return order, np.full(flat[:-1], flat[-1])
    mask = np.broadcast_to(present, shape).reshape(flat)
    absent = np.take_along_axis(~mask, order, axis=-1)
    first = np.argsort(absent, axis=-1, kind="stable")
    return np.take_along_axis(order, first, axis=-1), mask.sum(axis=-1)

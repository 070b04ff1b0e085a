"""Which elements of a buffer the places of a step reach together, bank by bank.

Excluded: ports, and how many accesses they let through (`schedule.py`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.codegen.loops.nodes import Const, LoopExpr, Name, Op
from penstock.codegen.loops.walk import names
from penstock.codegen.timing.dependence import affine

__all__ = ["Split", "Values", "addresses", "evaluate"]

Values = Mapping[str, Any]
"""Loop variable → its number, or an array of numbers."""

Split = tuple[str, int] | None
"""How a dimension is split: ``cyclic``, ``block`` or ``complete``, and into how many banks."""


APART = 512
"""Elements between what two places may read anywhere: no word of a port has both."""


def addresses(
    indices: Sequence[LoopExpr],
    shape: Sequence[int],
    splits: Sequence[Split],
    places: Mapping[str, int],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (bank, address in it) for each place of a step, at its first iteration.

    An index that is read from memory may be anything: places that read different ones have
    different addresses in one bank, at worst.

    Args:
        indices: of the access.
        shape: of the buffer.
        splits: of each dimension.
        places: variable → extent of the loops side by side.
    """
    grid = np.indices(tuple(places.values()) or (1,)).reshape(max(1, len(places)), -1)
    lanes = dict(zip(places, grid, strict=False))
    bank = address = np.zeros(grid.shape[1], np.int64)
    for index, extent, how in zip(indices, shape, splits, strict=True):
        here = _known(index, lanes, grid.shape[1])
        if here is None:
            any_of = _told_apart(index, lanes, places)
            address = (address * (int(any_of.max()) + 1) + any_of) * APART
        elif how is None:
            address = address * extent + here
        else:
            kind, parts = how
            each = -(-extent // parts)
            part, rest = (
                (here // each, here % each) if kind == "block" else (here % parts, here // parts)
            )
            bank, address = bank * parts + part, address * each + rest
    return bank, address


def _known(index: LoopExpr, lanes: Values, count: int) -> NDArray[np.int64] | None:
    """Return an index in each place, other loops at 0; None if nobody knows it before it runs."""
    form = affine(index)
    if form is not None:
        terms = (c * lanes[n] for n, c in form[0].items() if n in lanes)
        return np.asarray(form[1] + sum(terms, start=np.zeros(count, np.int64)))
    try:
        found = evaluate(index, {**dict.fromkeys(names(index), 0), **lanes})
    except LookupError:
        return None
    return np.broadcast_to(np.asarray(found, np.int64), (count,))


def _told_apart(index: LoopExpr, lanes: Values, places: Mapping[str, int]) -> NDArray[np.int64]:
    """Return a number for each place, the same where an index depends on nothing that differs."""
    number = np.zeros_like(next(iter(lanes.values()), np.zeros(1, np.int64)))
    for name in dict.fromkeys(names(index)):
        if name in lanes:
            number = number * places[name] + lanes[name]
    return number


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.logical_and,
    "or": np.logical_or,
    "not": np.logical_not,
    "abs": np.abs,
    "neg": operator.neg,
    "where": np.where,
    "clamp": lambda x, low, high: np.minimum(np.maximum(x, low), high),
}
"""Of whole numbers, or of arrays of them."""


def evaluate(expr: LoopExpr, at: Values) -> Any:
    """Return what an expression of loop variables is.

    Raises:
        LookupError: part of it is read from memory, or an operator that indices rarely have.
    """
    match expr:
        case Const(value):
            return int(value) if value == int(value) else value
        case Name(name):
            return at[name]
        case Op(op, args):
            return _FUNCTIONS[op](*(evaluate(arg, at) for arg in args))
        case _:
            raise LookupError("what is read from memory is not known")

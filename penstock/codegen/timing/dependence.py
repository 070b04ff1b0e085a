"""How many steps of a loop lie between a store and a load of the same element, at least.

Excluded: what is stored; conditions (a store that may not happen counts as one that does).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, floor, prod

from penstock.codegen.loops.nodes import Const, LoopExpr, Name, Op

__all__ = ["Affine", "affine", "below", "distance"]

Affine = tuple[dict[str, int], int]
"""Coefficient of each loop variable, and a constant."""

Box = dict[str, tuple[int, int]]
"""Loop variable → by how much it differs between the two steps, at least and at most."""


def affine(expr: LoopExpr) -> Affine | None:
    """Return the coefficients of an index, None if it is no sum of multiples."""
    match expr:
        case Const(value, True):
            return {}, int(value)
        case Name(name):
            return {name: 1}, 0
        case Op("+" | "-" as op, (left, right)):
            one, two = affine(left), affine(right)
            if one is None or two is None:
                return None
            sign = 1 if op == "+" else -1
            terms = {n: one[0].get(n, 0) + sign * two[0].get(n, 0) for n in {**one[0], **two[0]}}
            return {n: c for n, c in terms.items() if c}, one[1] + sign * two[1]
        case Op("*", (Const(value, True), other)) | Op("*", (other, Const(value, True))):
            inner = affine(other)
            return inner and (
                {n: int(value) * c for n, c in inner[0].items()},
                int(value) * inner[1],
            )
        case _:
            return None


def below(test: LoopExpr) -> tuple[Affine, Affine, bool] | None:
    """Return the small side, the large side and whether they differ; None if it is no such test."""
    if not isinstance(test, Op) or test.op not in ("<", "<=", ">", ">="):
        return None
    left, right = (affine(each) for each in test.args)
    if left is None or right is None:
        return None
    strict = test.op in ("<", ">")
    return (right, left, strict) if test.op in (">", ">=") else (left, right, strict)


def distance(
    stored: Sequence[LoopExpr],
    loaded: Sequence[LoopExpr],
    loops: Mapping[str, int],
    places: Mapping[str, int],
    *,
    same: bool = False,
) -> int | None:
    """Return after how many steps at least an element that was stored is loaded.

    Args:
        stored: the indices of the store.
        loaded: those of the load.
        loops: variable → extent of the loops whose steps are counted, outermost first.
        places: variable → extent of the loops that are side by side in a step.
        same: whether the load comes after the store in a step, so that 0 steps are possible.

    Returns:
        The number of steps, None if there is no such load.
    """
    box: Box = {name: (1 - extent, extent - 1) for name, extent in loops.items()}
    for one, two in zip(stored, loaded, strict=True):
        narrowed = _narrowed(affine(one), affine(two), box, places)
        if narrowed is None:
            return None
        box = narrowed
    return _least(box, loops, same)


def _narrowed(
    one: Affine | None, two: Affine | None, box: Box, places: Mapping[str, int]
) -> Box | None:
    """Return how far steps can be apart that use one index alike, None if none do."""
    if one is None or two is None:
        return box
    serial = [{n: c for n, c in each[0].items() if n in box} for each in (one, two)]
    if serial[0] != serial[1]:
        return box
    low, high = one[1] - two[1], one[1] - two[1]
    for each, sign in ((one, 1), (two, -1)):
        for name, factor in each[0].items():
            if name not in box:  # one of the places, or a loop around that is the same for both
                reach = sign * factor * (places[name] - 1) if name in places else 0
                low, high = low + min(reach, 0), high + max(reach, 0)
    return _solved(serial[0], low, high, dict(box))


def _solved(factors: dict[str, int], low: int, high: int, box: Box) -> Box | None:
    """Narrow a box to where the sum of multiples lies between two numbers."""
    changed = True
    while changed:
        changed = False
        for name, factor in factors.items():
            ends = [sorted((c * box[n][0], c * box[n][1])) for n, c in factors.items() if n != name]
            rest = (sum(end[0] for end in ends), sum(end[1] for end in ends))
            first, last = sorted(((low - rest[1]) / factor, (high - rest[0]) / factor))
            now = (max(box[name][0], ceil(first)), min(box[name][1], floor(last)))
            if now[0] > now[1]:
                return None
            changed = changed or now != box[name]
            box[name] = now
    return box if factors or low <= 0 <= high else None


def _least(box: Box, loops: Mapping[str, int], same: bool) -> int | None:
    """Return the smallest number of steps in a box that is positive (or 0, if that may be)."""
    names, extents = list(loops), list(loops.values())
    strides = [prod(extents[place + 1 :]) for place in range(len(extents))]
    if same and all(low <= 0 <= high for low, high in box.values()):
        return 0
    found = []
    for place, name in enumerate(names):
        outer_alike = all(box[each][0] <= 0 <= box[each][1] for each in names[:place])
        if outer_alike and box[name][1] >= 1:
            inner = sum(
                box[n][0] * s for n, s in zip(names[place + 1 :], strides[place + 1 :], strict=True)
            )
            found.append(max(1, box[name][0]) * strides[place] + inner)
    return min(found) if found else None

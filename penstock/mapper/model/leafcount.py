"""What one visit of a leaf costs: steps in time, and operands read and results written.

The rule for operands: a processing element holds on to the operand it used last, so that the
innermost steps in time that do not concern an operand do not read it again; places side by side
that need the same element get it in one read (from the memory of the places, each reads its own).
Registers do not survive a visit. Results go the same way outward.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from penstock.mapper.facts import Use
from penstock.mapper.model.regions import offsets
from penstock.mapper.model.tiles import Pace, sizes

__all__ = ["elements", "steps_in_time"]

Sizes = Mapping[str, int]


def steps_in_time(paces: tuple[Pace, ...], size: Sizes, names: tuple[str, ...]) -> int:
    """Return the steps that one visit takes, for one operation each.

    Args:
        paces: the leaf's loops.
        size: variable → coordinates of the visit.
        names: the variables that are stepped.
    """
    total = 1
    for name in names:
        chain = tuple(pace for pace in paces if pace.variable == name)
        total *= sum(sizes(size[name], chain, in_time=True).values())
    return total


@dataclass(frozen=True)
class _Spot:
    """Steps side by side over one variable: `count` of them, `stride` coordinates apart."""

    variable: str
    stride: int
    count: int


def elements(
    use: Use, paces: tuple[Pace, ...], size: Sizes, apart: frozenset[int] = frozenset()
) -> int:
    """Return the elements that one visit reads (or writes) through one access.

    Args:
        use: the access.
        paces: the leaf's loops, outermost first.
        size: variable → coordinates of the visit.
        apart: loops, by number, along which each place has a memory of its own.
    """
    left = {name: size[name] for name in {pace.variable for pace in paces}}
    count, _ = _count(use, paces, 0, left, (), apart)
    return count


def _count(
    use: Use,
    paces: tuple[Pace, ...],
    number: int,
    left: Sizes,
    spots: tuple[_Spot, ...],
    apart: frozenset[int],
) -> tuple[int, bool]:
    """Return the elements of the loops from `number` on, and whether the operand changes."""
    if number == len(paces):
        return _side_by_side(use, spots), False
    pace = paces[number]
    full, rest = divmod(left[pace.variable], pace.tile)
    concerns = pace.variable in use.relevant
    if concerns and pace.side == "shared" and pace.variable in use.placed and not rest:
        spots = (*spots, _Spot(pace.variable, pace.tile, full))
        return _count(use, paces, number + 1, {**left, pace.variable: pace.tile}, spots, apart)
    kinds = [(pace.tile, full)] if full else []
    if rest:
        kinds.append((rest, 1))
    counts = [
        (*_count(use, paces, number + 1, {**left, pace.variable: tile}, spots, apart), times)
        for tile, times in kinds
    ]
    changes = any(each for _, each, _ in counts)
    if concerns:
        total = sum(count * times for count, _, times in counts)
        return total, changes or (not pace.side and full + bool(rest) > 1)
    everyone = number in apart or pace.side == "apart"
    if everyone or (changes and not pace.side):
        return sum(count * times for count, _, times in counts), changes
    return max(count for count, _, _ in counts), changes


def _side_by_side(use: Use, spots: tuple[_Spot, ...]) -> int:
    """Return the different elements that places side by side want at one time."""
    total = 1
    for dim in use.dims:
        if dim.plain or dim.form is None:
            total *= math.prod(spot.count for spot in spots if spot.variable in dim.variables)
            continue
        factors = dict(dim.form.coefficients)
        terms = tuple(
            (factors[spot.variable] * spot.stride, spot.count)
            for spot in spots
            if spot.variable in factors
        )
        total *= len(offsets(terms))
    return total

"""What the operators of a mapping take of an FPGA: LUT, FF and DSP of every Einsum.

An HLS tool gives each loop operators of its own: as many as places work side by side in it, of
every operator that one point needs. So the sum over Einsums counts, not the largest. Excluded:
memories (their capacity is in `occupancy.py`), and what a whole project takes beside operators,
streams and ports among it (`codegen/hls/resources.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from penstock.einsum_ir.formats import Format
from penstock.errors import MappingError
from penstock.mapper.scopes import Leaf
from penstock.targets.base import Target
from penstock.targets.cores import Cost, Number, core

__all__ = [
    "LIMITED",
    "Operators",
    "check_parts",
    "number_of",
    "operators_of",
    "parts_of",
    "taken",
]

LIMITED = ("LUT", "FF", "DSP")
"""What operators take of a part."""


@dataclass(frozen=True, slots=True)
class Operators:
    """The operators of one Einsum: ``places`` of each side by side."""

    einsum: str
    array: str
    places: int
    counts: Mapping[str, int]
    cost: Cost

    def __str__(self) -> str:
        listed = ", ".join(f"{count * self.places} {op}" for op, count in self.counts.items())
        return f"{self.einsum} on {self.array}: {listed}"


def number_of(fmt: Format) -> Number:
    """Return what operators compute with in a format: 16-bit floats are computed in 32 bits."""
    if fmt.exact:
        return Number("fixed", fmt.bits, fmt.fraction_bits, fmt.algorithms)
    return Number("float", max(fmt.bits, 32))


def operators_of(leaf: Leaf, extents: Mapping[str, int], fmt: Format) -> Operators:
    """Return the operators of a leaf.

    Args:
        leaf: on any array.
        extents: variable → coordinates in all.
        fmt: the number format of the run.
    """
    counts = {op: n for op, n in (*leaf.step.ops.items(), *leaf.step.output_ops.items()) if n}
    places = _places(leaf, extents)
    number = number_of(fmt)
    cost = sum((core(op, number).times(n * places) for op, n in counts.items()), start=Cost())
    values = sum(counts.values()) + (leaf.step.einsum.reduce is not None)
    cost += Cost(ff=fmt.bits * places * values)
    return Operators(leaf.name, leaf.array.name, places, counts, cost)


def _places(leaf: Leaf, extents: Mapping[str, int]) -> int:
    left, used = dict(extents), dict[str, int]()
    for loop in [*(nest.loop for nest in leaf.nests), *leaf.compute.loops]:
        steps = math.ceil(left[loop.variable] / loop.tile)
        left[loop.variable] = min(left[loop.variable], loop.tile)
        if loop.spatial:
            used[loop.axis] = used.get(loop.axis, 1) * steps
    return math.prod(min(leaf.array.axis(name).size, steps) for name, steps in used.items())


def parts_of(leaf: Leaf, extents: Mapping[str, int], fmt: Format) -> tuple[float, ...]:
    """Return LUT, FF and DSP of a leaf's operators."""
    found = operators_of(leaf, extents, fmt).cost.of_part()
    return tuple(found[name] for name in LIMITED)


def taken(leaves: Iterable[Leaf], extents: Mapping[str, int], fmt: Format) -> dict[str, float]:
    """Return what the operators of all leaves take together: LUT, FF and DSP."""
    rows = [parts_of(leaf, extents, fmt) for leaf in leaves]
    return dict(zip(LIMITED, map(sum, zip(*rows, strict=True)), strict=True))


def check_parts(
    leaves: Iterable[Leaf], extents: Mapping[str, int], target: Target, fmt: Format
) -> None:
    """Check that a part has the operators of all Einsums.

    Raises:
        MappingError: it has not; says of what, how many, and which Einsums take most.
    """
    if not target.resources:
        return
    rows = [operators_of(leaf, extents, fmt) for leaf in leaves]
    has = dict(target.resources)
    for name in LIMITED:
        needed = sum(row.cost.of_part()[name] for row in rows)
        if name in has and needed > has[name]:
            rows.sort(key=lambda row: -row.cost.of_part()[name])
            most = "; ".join(f"{row} ({row.cost.of_part()[name]:,.0f})" for row in rows[:3])
            raise MappingError(
                f"the operators need {needed:,.0f} {name}, {target.name} has {has[name]:,}; most "
                f"take {most}",
                fix="lay fewer steps side by side, or use fewer bits",
            )

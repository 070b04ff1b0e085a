"""What a ``loop`` group allows: to hold few steps of its tensors, and to be computed in blocks.

Decided from the equations and extents alone. Excluded on purpose: data, presence, evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from penstock.einsum_ir.affine import affine
from penstock.einsum_ir.interpreter.evaluate import Range
from penstock.einsum_ir.nodes import Access, Einsum, Group, Var, variables
from penstock.einsum_ir.shapes import Bound

__all__ = ["SMALL", "blocks", "held_steps"]

BLOCK = 1 << 21
"""Points of one Einsum, in one step of one block, that still fit a cache."""

SMALL = 1 << 14
"""Elements up to which it takes longer to find out what can be left out than to do it."""

ROWS = 512
"""Least extent to which a rank is cut for the sake of predicates."""


def held_steps(bound: Bound) -> dict[str, tuple[int, int]]:
    """Return which tensors need not be held whole while their groups advance.

    That is so where a group reads only the current step (``i``, or ``i`` and ``i + 1`` of an
    iterative tensor), and the rest of the cascade no more than the final coordinate.

    Args:
        bound: a cascade with its extents.

    Returns:
        Tensor → (the dimension along which it steps, 1 or 2 coordinates that must be held),
        other tensors, outputs and small ones left out.
    """
    if all(math.prod(dims) <= SMALL for dims in bound.dims.values()):
        return {}
    outputs = {each.tensor for each in bound.cascade.outputs}
    found: dict[str, tuple[int, int]] = {}
    for group in (each for each in bound.cascade.schedule if isinstance(each, Group)):
        for einsum in group.einsums:
            if einsum.name in outputs or math.prod(bound.dims[einsum.name]) <= SMALL:
                continue
            place = _place(einsum, group.variable)
            if _reads_latest(bound, group, einsum, place):
                found[einsum.name] = place, 1 if _in_place(group, einsum, place) else 2
    return found


def _place(einsum: Einsum, variable: str) -> int:
    indices = einsum.output.indices
    return next(place for place, each in enumerate(indices) if variable in variables(each))


def _reads_latest(bound: Bound, group: Group, maker: Einsum, place: int) -> bool:
    """Whether all reads are of the current step, or after the loop of the final one."""
    final = bound.dims[maker.name][place] - 1
    newest = 0 if maker.iterative is None else 1
    for einsum in bound.cascade.einsums:
        inside = not einsum.init and einsum in group.einsums
        for access in _reads(einsum, maker.name):
            form = affine(access.indices[place], bound.symbols)
            if form is None:
                return False
            factors = ((group.variable, 1),) if inside else ()
            latest = range(newest + 1) if inside else (final,)
            if form.coefficients != factors or form.constant not in latest:
                return False
    return True


def _in_place(group: Group, maker: Einsum, place: int) -> bool:
    """Whether nobody reads an element of the step before once the next has been written."""
    if maker.iterative is None:
        return True
    own = list(maker.output.indices)
    own[place] = Var(group.variable)
    later = group.einsums[group.einsums.index(maker) + 1 :]
    before = [access for each in later for access in _reads(each, maker.name)]
    return all(tuple(own) == access.indices for access in _reads(maker, maker.name)) and all(
        maker.output.indices[place] == access.indices[place] for access in before
    )


def _reads(einsum: Einsum, tensor: str) -> Iterator[Access]:
    return (access for access in einsum.operands if access.tensor == tensor)


def blocks(
    bound: Bound, group: Group, outer: Mapping[str, Range] | None = None
) -> list[dict[str, Range]]:
    """Return the boxes of a larger one that can be taken through all steps one after the other.

    They are cut along ranks that all tensors of the group have and that none of its Einsums
    reads across: first along those that predicates mention, so that whole boxes may be absent.

    Args:
        bound: a cascade with its extents.
        group: of the cascade.
        outer: variable → (start, stop); those left out have their whole range.

    Returns:
        Variable → (start, stop), for the variables of `outer` and those that are cut: in each step
        no Einsum has more than `BLOCK` points of its left side in a box, as far as is possible.
    """
    outer = dict(outer or {})
    ranges = {name: (0, extent) for name, extent in bound.extents.items()} | outer
    extents = {name: stop - start for name, (start, stop) in ranges.items()} | {group.variable: 1}
    if _points(group, extents) <= BLOCK:
        return [outer]
    apart = _apart(group)
    tested = {v for each in group.einsums if each.where for v in variables(each.where)}
    size = dict(extents)
    for name in sorted(apart, key=lambda each: each not in tested):
        least = ROWS if name in tested else 1
        while size[name] > least and _points(group, size) > BLOCK:
            size[name] = (size[name] + 1) // 2
    boxes: list[dict[str, Range]] = [outer]
    for name in apart:
        start, stop = ranges[name]
        cuts = [(a, min(a + size[name], stop)) for a in range(start, stop, size[name])]
        boxes = [{**box, name: cut} for box in boxes for cut in cuts]
    return boxes


def _points(group: Group, extents: dict[str, int]) -> int:
    return max(math.prod(extents[v] for v in variables(each.output)) for each in group.einsums)


def _apart(group: Group) -> list[str]:
    """Return the variables over which the steps of a group do not depend on one another."""
    makers = {each.name: each for each in group.einsums}
    shared = set.intersection(*(set(variables(each.output)) for each in group.einsums))
    return [
        name
        for name in variables(group.einsums[0].output)
        if name in shared - {group.variable}
        and all(
            access.indices[makers[access.tensor].output.indices.index(Var(name))] == Var(name)
            for each in group.einsums
            for access in each.operands
            if access.tensor in makers
        )
    ]

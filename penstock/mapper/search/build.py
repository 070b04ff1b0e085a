"""A sensible legal mapping of any cascade on any machine, from dependences alone.

`default_mapping` never fails on a cascade that binds, unless no array has an operator that it
needs. It shares the loops that most Einsums carry, steps iterative ranks around their groups,
keeps intermediates as far in as they fit, and leaves the rest in the outermost memory.
Excluded: choosing well (`explore.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from collections.abc import Mapping as MappingABC
from contextlib import suppress
from dataclasses import replace

from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.nodes import Einsum, variables
from penstock.einsum_ir.shapes import Bound
from penstock.errors import MappingError
from penstock.mapper.check import check
from penstock.mapper.facts import facts_of
from penstock.mapper.fusion import Flow, steps_of
from penstock.mapper.lanes import lane_axis, lane_variable, summed_loops
from penstock.mapper.leaf import (
    arrays_for,
    cycles_of_point,
    leaf_loops,
    operators,
    ranked_assignments,
    speedup,
)
from penstock.mapper.model.evaluate import evaluate
from penstock.mapper.model.occupancy import occupancies
from penstock.mapper.nodes import Compute, Keep, Mapping, Nest, Node, leaves
from penstock.mapper.scopes import tree_of
from penstock.mapper.search.plan import Planner, Recipe
from penstock.mapper.search.residency import Home, Where, homes, place
from penstock.targets.base import Array, Memory, Target

__all__ = [
    "bind_leaves",
    "build",
    "default_mapping",
    "home_memories",
    "popularity",
    "shared_array",
    "vector_leaf",
]

DIVISORS = (2, 4, 8, 16)
IDLE = 64


def default_mapping(bound: Bound, target: Target, fmt: Format, *, halves: bool = True) -> Mapping:
    """Return a legal mapping, good enough to generate code from.

    Tiles become smaller until intermediates fit on the chip. If they never do, or if what Einsums
    share leaves most of the machine idle, the model decides between the candidates.

    Args:
        bound: any cascade with its extents.
        target: any machine.
        fmt: number format of all tensors.
        halves: whether half of an array is used where a part has not the operators, and half of
            that.

    Raises:
        MappingError: an Einsum has an operator that no array of the machine has, or the tensors
            do not even fit the outermost memory.
    """
    target = target.in_format(fmt.name)
    legal: list[tuple[int, Mapping]] = []
    broken: MappingError | None = None
    flow = Flow(bound.cascade)
    for recipe in _recipes(_idle(bound, target, flow)):
        mapping, spilled = build(bound, target, fmt, flow, recipe)
        if legal and (mapping in [each for _, each in legal] or not recipe.keep):
            continue
        try:
            check(mapping, bound, target, fmt)
        except MappingError as error:
            broken = broken or error
            continue
        legal.append((len(spilled), mapping))
        if not spilled:
            break
    if not legal:
        assert broken is not None
        if not halves:
            raise broken
        return _on_less(bound, target, fmt, broken)
    fewest = min(legal, key=lambda each: each[0])
    candidates = list(dict.fromkeys((legal[0][1], fewest[1])))
    if len(candidates) == 1:
        return candidates[0]
    return min(candidates, key=lambda each: evaluate(each, bound, target, fmt).latency_cycles)


def _on_less(bound: Bound, target: Target, fmt: Format, broken: MappingError) -> Mapping:
    """Return the default mapping to a machine with half of its largest array."""
    sizes = [(axis.size, array.name, axis.name) for array in target.arrays for axis in array.axes]
    size, array, axis = max(sizes, key=lambda each: each[0])
    if target.resources and size > 1:
        with suppress(MappingError):
            return default_mapping(bound, target.override(f"{array}.{axis}", size // 2), fmt)
    raise broken


def _recipes(idle: bool) -> Iterator[Recipe]:
    """Yield what to try: smaller and smaller tiles, then without sharing, then without keeping."""
    if idle:
        yield Recipe(fuse=False)
    yield Recipe()
    for divisor in DIVISORS:
        yield Recipe(divisor=divisor)
    yield Recipe(fuse=False)
    yield Recipe(keep=False)
    yield Recipe(fuse=False, keep=False)


def _idle(bound: Bound, target: Target, flow: Flow) -> bool:
    """Whether shared parallel loops would use only a small part of a CPU or GPU."""
    if target.family not in ("cpu", "gpu"):
        return False
    names, *_ = flow.shared(steps_of(bound.cascade), bound.extents)
    points = math.prod(bound.extents[name] for name in names)
    return points * IDLE < max(array.places for array in target.arrays)


def build(
    bound: Bound, target: Target, fmt: Format, flow: Flow, recipe: Recipe
) -> tuple[Mapping, tuple[str, ...]]:
    """Return the mapping that a recipe gives, and the intermediates that did not fit inside.

    Raises:
        MappingError: an Einsum has an operator that no array of the machine has.
    """
    for einsum in flow.makers.values():
        arrays_for(einsum, bound, target)
    body = Planner(bound, target, flow, recipe).grow(steps_of(bound.cascade))
    body = bind_leaves(body, bound, target, flow)
    spilled: tuple[str, ...] = ()
    if recipe.keep:
        body, spilled = residents(body, bound, target, fmt, flow)
    return Mapping("default", bound.cascade.name, target.name, body), spilled


def bind_leaves(
    body: tuple[Node, ...],
    bound: Bound,
    target: Target,
    flow: Flow,
    remaining: MappingABC[str, int] | None = None,
    inside: Array | None = None,
    taken: tuple[str, ...] = (),
    order: tuple[str, ...] | None = None,
) -> tuple[Node, ...]:
    """Give each leaf its array and its loops.

    Args:
        body: nests and leaves without arrays.
        bound: the cascade with its extents.
        target: the machine.
        flow: the dependences.
        remaining: variable → coordinates that the nests around leave; None = all.
        inside: the array of the shared spatial loops around, None without any.
        taken: the axes of those loops.
        order: the variables, the one that most Einsums keep first; None = find out.
    """
    order = popularity(flow) if order is None else order
    left = dict(bound.extents) if remaining is None else dict(remaining)
    made: list[Node] = []
    for node in body:
        match node:
            case Nest(loop):
                array, axes = inside, taken
                if loop.spatial:
                    array = inside or shared_array(node, bound, target, flow)
                    axes = (*taken, loop.axis)
                inner = {**left, loop.variable: min(left[loop.variable], loop.tile)}
                below = bind_leaves(node.body, bound, target, flow, inner, array, axes, order)
                made.append(replace(node, body=below))
            case Compute():
                einsum = flow.makers[node.einsum]
                able = arrays_for(einsum, bound, target) if inside is None else (inside,)
                leaf = vector_leaf(einsum, able, bound, left, order) if taken else None
                made.append(leaf or best_leaf(einsum, able, left, taken, order))
            case Keep():
                made.append(node)
    return tuple(made)


def shared_array(nest: Nest, bound: Bound, target: Target, flow: Flow) -> Array:
    """Return the first array with the nest's axis on which everything below can run."""
    needed = {
        op for _, leaf in leaves((nest,)) for op in operators(flow.makers[leaf.einsum], bound)
    }
    return next(
        array
        for array in target.arrays
        if nest.loop.axis in [axis.name for axis in array.axes]
        and needed <= dict(array.cycles).keys()
    )


def best_leaf(
    einsum: Einsum,
    able: Sequence[Array],
    left: MappingABC[str, int],
    taken: Sequence[str],
    order: Sequence[str],
) -> Compute:
    """Return the leaf on the array, and with the axes, that takes the fewest cycles."""
    points = math.prod(left[name] for name in einsum.variables)
    choices: list[tuple[float, int, Compute]] = []
    for number, array in enumerate(able):
        lanes = ranked_assignments(einsum, array, left, taken, order)[0]
        cost = (
            points / speedup(lanes, array, left, taken) * max(cycles_of_point(einsum, array), 1.0)
        )
        loops = leaf_loops(einsum, array, left, lanes, taken)
        choices.append((cost, number, Compute(einsum.name, array.name, loops)))
    return min(choices, key=lambda each: each[:2])[2]


def vector_leaf(
    einsum: Einsum,
    able: Sequence[Array],
    bound: Bound,
    left: MappingABC[str, int],
    order: Sequence[str],
) -> Compute | None:
    """Return a leaf with the lanes that all Einsums of a core's nest share, or None.

    A reduction that would have to gather along any that it keeps has them along what it reduces.
    """
    for array in able:
        name = lane_variable(einsum, bound, array, left, order)
        axis = lane_axis(array)
        if name and axis is not None:
            loops = leaf_loops(einsum, array, left, ((axis.name, name),))
            return Compute(einsum.name, array.name, loops)
        summed = summed_loops(einsum, bound, array, left)
        if summed is not None:
            return Compute(einsum.name, array.name, summed)
    return None


def popularity(flow: Flow) -> tuple[str, ...]:
    """Return the variables, the one that most Einsums keep first."""
    counts: dict[str, int] = {}
    for einsum in flow.makers.values():
        for name in einsum.variables:
            counts[name] = counts.get(name, 0) + (name in variables(einsum.output))
    return tuple(sorted(counts, key=lambda name: -counts[name]))


def residents(
    body: tuple[Node, ...], bound: Bound, target: Target, fmt: Format, flow: Flow
) -> tuple[tuple[Node, ...], tuple[str, ...]]:
    """Keep intermediates and states as far in as they fit, then inputs where that is wanted.

    Returns:
        The forest with ``keep`` nodes, and the intermediates that stay outside.
    """
    found = homes(body, bound, flow)
    facts = facts_of(bound)
    outputs = {each.tensor for each in bound.cascade.outputs}
    wanted = [name for name in found if name in flow.makers and name not in outputs]
    if target.family in ("spatial", "fpga"):
        wanted += [name for name in found if name not in flow.makers]

    def fits(forest: tuple[Node, ...]) -> bool:
        mapping = Mapping("trial", bound.cascade.name, target.name, forest)
        rows = occupancies(tree_of(mapping, facts, target), facts, target, fmt)
        return all(row.needed_bytes <= row.capacity_bytes for row in rows[1:])

    places = {name: _places(found[name], target, flow) for name in wanted}
    made, left = place(body, places, fits)
    return made, tuple(name for name in left if name in flow.makers)


def _places(
    found: Sequence[Home], target: Target, flow: Flow
) -> tuple[tuple[Where, Memory, int], ...]:
    """Return where to try to keep a tensor: outer homes first, two buffers for what is reloaded."""
    places: list[tuple[Where, Memory, int]] = []
    for home in found:
        again = home.tensor not in flow.makers and any(not n.loop.spatial for n in home.nests)
        for count in (2, 1) if again else (1,):
            places += [
                (home.body, memory, count)
                for memory in home_memories(home, target, flow)
                if home.reachable(memory)
            ]
    return tuple(places)


def home_memories(home: Home, target: Target, flow: Flow) -> tuple[Memory, ...]:
    """Return the memories in which a tensor may be kept at its home, innermost first.

    Inputs are kept in memories that all arrays share; what threads make, in registers; what
    outlives the parallel loops of a CPU or GPU, nowhere that is private to a core. Hardware caches
    are for inputs.
    """
    inside = tuple(each for each in reversed(target.memories[1:]) if each.along not in home.split)
    if not home.private and target.family in ("cpu", "gpu"):
        inside = tuple(each for each in inside if each.instances == 1)
    if home.tensor not in flow.makers:
        return tuple(each for each in inside if not each.array)
    inside = tuple(each for each in inside if not each.cache)
    if _kinds(home, target) & {"thread"}:
        inside = tuple(each for each in inside if each.array)
    return inside


def _kinds(home: Home, target: Target) -> set[str]:
    """Return the kinds of the axes along which the loops around a home lie."""
    names = {nest.loop.axis for nest in home.nests}
    return {axis.kind for array in target.arrays for axis in array.axes if axis.name in names}

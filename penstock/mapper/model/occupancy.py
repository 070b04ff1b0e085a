"""How full each memory is at its fullest: what is kept there at one time, in bytes.

Of a memory that belongs to the places of an array the fullest place counts: what lies along the
array's axes is divided among the places, what does not is there in each of them. A tensor
between stages of a pipelined loop needs a copy for each iteration that is in flight between them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from penstock.einsum_ir.formats import Format
from penstock.mapper.facts import Facts, Use
from penstock.mapper.model.regions import footprint
from penstock.mapper.model.tiles import Pace
from penstock.mapper.nodes import Nest
from penstock.mapper.scopes import Leaf, Scope, Tree
from penstock.targets.base import Memory, Target

__all__ = ["Occupancy", "box_at", "bytes_held", "occupancies", "window_of"]


@dataclass(frozen=True)
class Occupancy:
    """The fullest moment of one memory.

    Args:
        memory: its name.
        needed_bytes: in one instance if `each`, else in all of it.
        capacity_bytes: of the same.
        each: the axes over which instances are spread, as ``rows x cols``; "" for one pool.
        tensors: (tensor, bytes) that make up the need, largest first.
    """

    memory: str
    needed_bytes: float
    capacity_bytes: float
    each: str
    tensors: tuple[tuple[str, float], ...]


def occupancies(tree: Tree, facts: Facts, target: Target, fmt: Format) -> tuple[Occupancy, ...]:
    """Return the fullest moment of every memory, the outermost first."""
    held = {id(scope): bytes_held(scope, facts, target, fmt) for scope in tree.scopes}
    worst: dict[str, dict[str, float]] = {memory.name: {} for memory in target.memories}
    alive: list[list[Scope]] = []
    for around, opened in tree.bodies:
        alive.append([*(alive[around] if around >= 0 else []), *opened])
        for name, most in worst.items():
            now: dict[str, float] = {}
            for scope in alive[-1] if opened else ():
                if scope.memory == name:
                    now[scope.tensor] = now.get(scope.tensor, 0.0) + held[id(scope)]
            if sum(now.values()) > sum(most.values()):
                worst[name] = now
    worst[target.dram.name] |= _at_rest(tree, facts, target, fmt)
    return tuple(_row(memory, worst[memory.name], target) for memory in target.memories)


def _row(memory: Memory, tensors: Mapping[str, float], target: Target) -> Occupancy:
    axes = target.spread(memory)
    ordered = sorted(tensors.items(), key=lambda each: (-each[1], each[0]))
    return Occupancy(
        memory.name,
        sum(tensors.values()),
        memory.total_bytes if axes is None and not memory.along else memory.capacity_bytes,
        " x ".join(axis.name for axis in axes) if axes else memory.along,
        tuple(ordered),
    )


def _at_rest(tree: Tree, facts: Facts, target: Target, fmt: Format) -> dict[str, float]:
    """What the outermost memory holds: inputs, outputs and what is kept nowhere."""
    kept = {scope.tensor for scope in tree.scopes}
    return {
        tensor: math.prod(extents) * facts.element_bytes(tensor, fmt)
        for tensor, extents in facts.dims.items()
        if tensor in facts.inputs or tensor in facts.outputs or tensor not in kept
    }


def uses_in(scope: Scope) -> tuple[Use, ...]:
    """Return every access of a scope's tensor inside it, each different one once."""
    found: dict[tuple[str, ...], Use] = {}
    for leaf in scope.leaves:
        for use in (*leaf.step.reads, leaf.step.write):
            if use.tensor == scope.tensor:
                found[tuple(dim.text for dim in use.dims)] = use
    return tuple(found.values())


def window_of(tensor: str, nests: tuple[Nest, ...], facts: Facts) -> tuple[int, int] | None:
    """Return (dimension, coordinates) of an iterative rank that is stepped inside the nests."""
    window = facts.rolling.get(tensor, 0)
    if not window:
        return None
    variable, place = facts.iterative[tensor]
    stepped = all(nest.loop.variable != variable for nest in nests)
    return (place, window) if stepped else None


def box_at(nests: tuple[Nest, ...], facts: Facts) -> dict[str, int]:
    """Return variable → coordinates that one iteration of the nests leaves, at most."""
    box = dict(facts.extents)
    for nest in nests:
        box[nest.loop.variable] = min(box[nest.loop.variable], nest.loop.tile)
    return box


def copies_of(scope: Scope, facts: Facts) -> int:
    """Return how many copies of a tile there are: buffers, or iterations in flight."""
    inside = any(nest.pipelined for nest in scope.nests)
    phases = max((nest.phases for nest in scope.nests), default=0) or 1
    made = [leaf for leaf in scope.leaves if leaf.name == scope.tensor]
    if not inside or not made:
        return scope.keep.buffers
    stages = [
        leaf.compute.stage // phases
        for leaf in scope.leaves
        if leaf.name == scope.tensor or any(u.tensor == scope.tensor for u in leaf.step.reads)
    ]
    return max(scope.keep.buffers, max(stages) - min(stages) + 1)


def bytes_held(scope: Scope, facts: Facts, target: Target, fmt: Format) -> float:
    """Return the bytes that a scope takes, in one instance of a spread memory."""
    memory = target.memory(scope.memory)
    uses = uses_in(scope)
    if not uses:
        return 0.0
    axes = target.spread(memory)
    window = window_of(scope.tensor, scope.nests, facts)
    box = box_at(scope.nests, facts)
    count: float = footprint(uses, box, facts, window)
    if axes is None:
        count *= _side_by_side(scope, facts, (memory.along,))
    else:
        names = tuple(axis.name for axis in axes)
        shares = [
            footprint(_own(leaf, scope), _share(leaf, scope, box, names), facts, window)
            for leaf in scope.leaves
            if leaf.array.name == memory.array and _own(leaf, scope)
        ]
        count = max(shares, default=math.ceil(count / memory.instances))
        count *= _side_by_side(scope, facts, names)
    share = float(1 - scope.keep.spill)
    return count * copies_of(scope, facts) * facts.element_bytes(scope.tensor, fmt) * share


def _own(leaf: Leaf, scope: Scope) -> tuple[Use, ...]:
    uses = (*leaf.step.reads, leaf.step.write)
    return tuple(use for use in uses if use.tensor == scope.tensor)


def _side_by_side(scope: Scope, facts: Facts, divided: tuple[str, ...]) -> int:
    """Return how many tiles of a scope there are at a time, because loops around it are spatial.

    Along the axes `divided` each tile has an instance of the memory to itself.
    """
    left = dict(facts.extents)
    along: dict[str, int] = {}
    for nest in scope.nests:
        name, tile, axis = nest.loop.variable, nest.loop.tile, nest.loop.axis
        if axis and axis not in divided:
            along[axis] = along.get(axis, 1) * -(-left[name] // tile)
        left[name] = min(left[name], tile)
    if scope.array is None:
        return 1
    return math.prod(min(scope.array.axis(axis).size, steps) for axis, steps in along.items())


def _share(
    leaf: Leaf, scope: Scope, box: Mapping[str, int], axes: tuple[str, ...]
) -> dict[str, int]:
    """Return the coordinates of each variable that one place has to do with."""
    depth = len(scope.nests)
    loops = [*(nest.loop for nest in leaf.nests[depth:]), *leaf.compute.loops]
    paces: list[Pace] = [*leaf.paces[depth:], *leaf.inner]
    share, left = dict.fromkeys(box, 1), dict(box)
    for loop, pace in zip(loops, paces, strict=True):
        steps = -(-left[loop.variable] // loop.tile)
        divided = loop.spatial and loop.axis in axes
        share[loop.variable] *= pace.in_time(steps) if divided else steps
        left[loop.variable] = min(left[loop.variable], loop.tile)
    return {name: min(box[name], count) for name, count in share.items()}

"""A mapping's tree, walked once: leaves with the loops and kept tensors around them.

Excluded: counting and legality. Both `check.py` and `model/` work on a `Tree`.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from penstock.mapper.facts import Facts, Step
from penstock.mapper.model.tiles import Pace, Side
from penstock.mapper.nodes import Compute, Keep, Loop, Mapping, Nest, Node
from penstock.targets.base import Array, Target

__all__ = ["Leaf", "Scope", "Tree", "paces_of", "tree_of"]


@dataclass(eq=False)
class Scope:
    """One tensor of one ``keep``: where it lives and who uses it there.

    ``outer`` is the scope of the same tensor around it, None for the outermost memory.
    """

    keep: Keep
    tensor: str
    nests: tuple[Nest, ...]
    outer: Scope | None
    array: Array | None
    leaves: list[Leaf] = field(default_factory=list)

    @property
    def memory(self) -> str:
        """The memory's name."""
        return self.keep.memory


@dataclass(eq=False)
class Leaf:
    """One Einsum with its place in the tree; `kept` is tensor → innermost scope."""

    compute: Compute
    step: Step
    array: Array
    nests: tuple[Nest, ...]
    kept: MappingABC[str, Scope]
    paces: tuple[Pace, ...]
    inner: tuple[Pace, ...]

    @property
    def name(self) -> str:
        """The Einsum's name."""
        return self.compute.einsum

    def pipelined(self) -> int:
        """Return the number of nests down to the pipelined one, 0 without any."""
        for depth, nest in enumerate(self.nests, 1):
            if nest.pipelined:
                return depth
        return 0


@dataclass(eq=False)
class Tree:
    """All leaves in program order, all scopes, outer ones first, and all bodies.

    A body is (number of the body around it or -1, scopes that it opens).
    """

    leaves: list[Leaf]
    scopes: list[Scope]
    bodies: list[tuple[int, tuple[Scope, ...]]]


def paces_of(
    loops: Sequence[Loop], array: Array | None, extents: MappingABC[str, int]
) -> tuple[Pace, ...]:
    """Return loops, outermost first, as the counting sees them.

    Args:
        loops: of one leaf, those of its nests included.
        array: the one whose axes they name.
        extents: variable → coordinates.
    """
    left = dict(extents)
    made: list[Pace] = []
    along: dict[str, tuple[int, int]] = {}  # folding axis → (steps so far, innermost loop)
    for number, loop in enumerate(loops):
        name = loop.variable
        steps = -(-left[name] // loop.tile)
        left[name] = min(left[name], loop.tile)
        if not loop.spatial or array is None:
            made.append(Pace(name, loop.tile))
            continue
        axis = array.axis(loop.axis)
        side: Side = "apart" if axis.kind in ("core", "block") else "shared"
        made.append(Pace(name, loop.tile, side, axis.size if axis.folds else 0))
        if axis.folds:
            before, outer = along.get(axis.name, (1, -1))
            along[axis.name] = (before * steps, number)
            if outer >= 0:
                made[outer] = replace(made[outer], places=0, rounds=0)
                rounds = -(-before * steps // axis.size)
                made[number] = replace(made[number], places=0, rounds=rounds)
    return tuple(made)


def tree_of(mapping: Mapping, facts: Facts, target: Target) -> Tree:
    """Walk a mapping whose names all exist."""
    tree = Tree([], [], [])
    _walk(mapping.body, (), {}, -1, tree, facts, target)
    return tree


def _walk(
    body: tuple[Node, ...],
    nests: tuple[Nest, ...],
    kept: MappingABC[str, Scope],
    around: int,
    tree: Tree,
    facts: Facts,
    target: Target,
) -> None:
    inside = dict(kept)
    opened: list[Scope] = []
    for node in body:
        if isinstance(node, Keep):
            for tensor in node.tensors:
                scope = Scope(node, tensor, nests, inside.get(tensor), None)
                inside[tensor] = scope
                opened.append(scope)
    tree.scopes += opened
    number = len(tree.bodies)
    tree.bodies.append((around, tuple(opened)))
    for node in body:
        match node:
            case Nest():
                _walk(node.body, (*nests, node), inside, number, tree, facts, target)
            case Compute():
                _add(node, nests, inside, tree, facts, target)
            case Keep():
                pass


def _add(
    compute: Compute,
    nests: tuple[Nest, ...],
    kept: MappingABC[str, Scope],
    tree: Tree,
    facts: Facts,
    target: Target,
) -> None:
    array = target.array(compute.array)
    paces = paces_of([*(nest.loop for nest in nests), *compute.loops], array, facts.extents)
    depth = len(nests)
    leaf = Leaf(
        compute, facts.steps[compute.einsum], array, nests, kept, paces[:depth], paces[depth:]
    )
    tree.leaves.append(leaf)
    for scope in kept.values():
        each: Scope | None = scope
        while each is not None:
            each.leaves.append(leaf)
            each.array = each.array or array
            each = each.outer

"""Where tensors live in a forest: which body uses a tensor, how much of it, and ``keep`` nodes.

A tensor is kept at the innermost body that holds all its uses (an iterative one: outside the
loop over its rank), in the innermost memory that its readers reach and that has room. Excluded:
what moves between the memories (`model/`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from penstock.einsum_ir.nodes import Access, Einsum, variables
from penstock.einsum_ir.shapes import Bound
from penstock.mapper.fusion import Flow
from penstock.mapper.nodes import Compute, Keep, Nest, Node
from penstock.targets.base import Memory

__all__ = ["Home", "Use", "Where", "homes", "keep_in", "place", "uses"]

Where = tuple[int, ...]
"""A body: the index of each node on the way to it; () is the outermost one."""


@dataclass(frozen=True, slots=True)
class Use:
    """One access of a tensor by a leaf.

    Args:
        body: where the leaf stands.
        access: the tensor at a point.
        array: where the leaf runs.
        reads: whether it reads (a state reads what it writes).
        spread: (axis, dimension) pairs: which dimension lies along which axis of the array.
    """

    body: Where
    access: Access
    array: str
    reads: bool
    spread: frozenset[tuple[str, int]] = frozenset()


@dataclass(frozen=True, slots=True)
class Home:
    """The innermost body in which a tensor can live.

    Args:
        tensor: its name.
        body: where a ``keep`` of it may stand.
        nests: the nests around that body, outermost first.
        uses: everything that touches it.
        split: axes along which shared loops further in, around some of its uses, lie.
    """

    tensor: str
    body: Where
    nests: tuple[Nest, ...]
    uses: tuple[Use, ...]
    split: frozenset[str] = frozenset()

    @property
    def private(self) -> bool:
        """Whether it is inside a shared spatial loop: each place then has its own."""
        return any(nest.loop.spatial for nest in self.nests)

    def reachable(self, memory: Memory) -> bool:
        """Whether every reader may read from the memory.

        The memory of an array's places holds only what lies along the array's axes in one way
        for all who use it there: no element has to move from place to place.
        """
        if not memory.array:
            return True
        mine = [use for use in self.uses if use.array == memory.array]
        drained = all(use in mine or not use.reads for use in self.uses)
        return drained and len({use.spread for use in mine}) <= 1


def uses(body: tuple[Node, ...], bound: Bound, flow: Flow) -> dict[str, list[Use]]:
    """Return every use of every tensor, in program order."""
    found: dict[str, list[Use]] = {}
    for where, nests, leaf in _leaves(body):
        einsum = flow.makers[leaf.einsum]
        back = einsum.iterative is not None  # where the step is absent, the state carries over
        entry = _entry(where, nests, einsum)
        touched = [(where, einsum.output, back)]
        touched += [(where, access, True) for access in einsum.operands]
        touched += [(entry, access, True) for access in flow.init_reads(einsum)]
        for body_of_use, access, reads in touched:
            use = Use(body_of_use, access, leaf.array, reads, _spread(access, leaf))
            found.setdefault(access.tensor, []).append(use)
    return found


def _spread(access: Access, leaf: Compute) -> frozenset[tuple[str, int]]:
    return frozenset(
        (loop.axis, place)
        for loop in leaf.loops
        if loop.spatial
        for place, index in enumerate(access.indices)
        if loop.variable in variables(index)
    )


def _entry(where: Where, nests: tuple[Nest, ...], einsum: Einsum) -> Where:
    """Return the body in which the ``init`` of an Einsum runs: around the loop over its rank."""
    for depth, nest in enumerate(nests):
        if nest.loop.variable == einsum.iterative:
            return where[:depth]
    return where


def _leaves(
    body: tuple[Node, ...], where: Where = (), nests: tuple[Nest, ...] = ()
) -> Iterator[tuple[Where, tuple[Nest, ...], Compute]]:
    for place, node in enumerate(body):
        match node:
            case Nest():
                yield from _leaves(node.body, (*where, place), (*nests, node))
            case Compute():
                yield where, nests, node
            case Keep():
                pass


def nests_to(body: tuple[Node, ...], where: Where) -> tuple[Nest, ...]:
    """Return the nests on the way to a body, outermost first."""
    nests: list[Nest] = []
    for place in where:
        node = body[place]
        assert isinstance(node, Nest)
        nests.append(node)
        body = node.body
    return tuple(nests)


def homes(body: tuple[Node, ...], bound: Bound, flow: Flow) -> dict[str, tuple[Home, ...]]:
    """Return the homes of every tensor that is used.

    What an Einsum defines has one, the innermost body with all its uses; an input, or an output
    that nothing reads, has one for each set of loops over which a copy can be reused, or partial
    sums wait, the outermost first.
    """
    found: dict[str, tuple[Home, ...]] = {}
    outputs = {each.tensor for each in bound.cascade.outputs}
    for tensor, mine in uses(body, bound, flow).items():
        where = _common([use.body for use in mine])
        final = tensor in outputs and not any(use.reads for use in mine)
        if tensor in flow.makers and not final:
            bodies = [_outside(tensor, where, body, bound)]
        else:
            bodies = _reused(where, body, [use.access for use in mine])
        found[tensor] = tuple(
            Home(tensor, each, nests_to(body, each), tuple(mine), _split(body, each, mine))
            for each in bodies
        )
    return found


def _split(body: tuple[Node, ...], where: Where, mine: Sequence[Use]) -> frozenset[str]:
    inner = (nest for use in mine for nest in nests_to(body, use.body)[len(where) :])
    return frozenset(nest.loop.axis for nest in inner if nest.loop.spatial)


def _common(places: list[Where]) -> Where:
    first, last = min(places), max(places)
    depth = 0
    while depth < min(len(first), len(last)) and first[depth] == last[depth]:
        depth += 1
    return first[:depth]


def _outside(tensor: str, where: Where, body: tuple[Node, ...], bound: Bound) -> Where:
    """Go outside the loop over the iterative rank of a state."""
    if tensor not in bound.cascade.iterative:
        return where
    variable, _ = bound.cascade.iterative[tensor]
    for depth, nest in enumerate(nests_to(body, where)):
        if nest.loop.variable == variable:
            return where[:depth]
    return where


def _reused(where: Where, body: tuple[Node, ...], reads: list[Access]) -> list[Where]:
    """Return the bodies outside one or more loops whose variable an input lacks."""
    mentioned = variables(*(index for access in reads for index in access.indices))
    nests = nests_to(body, where)
    found = []
    for depth in range(len(nests), -1, -1):
        inner_concerns = depth == len(nests) or nests[depth].loop.variable not in mentioned
        outer_concerns = depth == 0 or nests[depth - 1].loop.variable in mentioned
        if inner_concerns and outer_concerns:
            found.append(where[:depth])
    return found[::-1]


def keep_in(
    body: tuple[Node, ...], kept: Mapping[Where, Sequence[Keep]], where: Where = ()
) -> tuple[Node, ...]:
    """Return the forest with ``keep`` nodes at the head of their bodies."""
    inner = tuple(
        replace(node, body=keep_in(node.body, kept, (*where, place)))
        if isinstance(node, Nest)
        else node
        for place, node in enumerate(body)
    )
    return (*kept.get(where, ()), *inner)


def place(
    body: tuple[Node, ...],
    candidates: Mapping[str, Sequence[tuple[Where, Memory, int]]],
    fits: Callable[[tuple[Node, ...]], bool],
) -> tuple[tuple[Node, ...], tuple[str, ...]]:
    """Keep each tensor in the first of its candidate places that has room.

    Args:
        body: a forest without ``keep`` nodes.
        candidates: tensor → (body, memory, buffers), best first; the most important tensors first.
        fits: whether a forest with ``keep`` nodes has room in all memories.

    Returns:
        The forest with ``keep`` nodes, and the tensors that are kept nowhere.
    """
    chosen: dict[tuple[Where, str, int], tuple[str, ...]] = {}
    made, left = body, []
    for tensor, places in candidates.items():
        for where, memory, buffers in places:
            key = (where, memory.name, buffers)
            trial = {**chosen, key: (*chosen.get(key, ()), tensor)}
            forest = keep_in(body, _keeps(trial))
            if fits(forest):
                chosen, made = trial, forest
                break
        else:
            left.append(tensor)
    return made, tuple(left)


def _keeps(
    chosen: Mapping[tuple[Where, str, int], tuple[str, ...]],
) -> dict[Where, tuple[Keep, ...]]:
    kept: dict[Where, tuple[Keep, ...]] = {}
    for (where, memory, buffers), tensors in chosen.items():
        kept[where] = (*kept.get(where, ()), Keep(tensors, memory, buffers))
    return kept

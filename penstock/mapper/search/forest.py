"""The loop forest without machines: shared loops around the Einsums that may share them.

A `Level` is a choice (which variables, which tiles, which spatial axes); `forest` applies a list
of them where dependences allow and leaves the rest alone, so that every list of levels gives a
forest that respects the dependences. Excluded: arrays and loops of leaves (`leaf.py`),
residency (`residency.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from penstock.mapper.fusion import Cluster, Flow, Step, partition
from penstock.mapper.nodes import Compute, Loop, Nest, Node

__all__ = ["Level", "chain", "filled", "forest", "stepping"]


@dataclass(frozen=True, slots=True)
class Level:
    """Loops, nested directly, that are shared by every run of Einsums that may share them.

    Args:
        loops: outermost first; spatial ones name an axis of `array`.
        pipelined: whether iterations of the innermost one overlap.
        array: the array that runs everything below spatial loops, "" without any.
        steps: whether it steps an iterative rank: then it is shared by the groups of that rank
            and what can stand beside them, and by nothing else.
        folding: whether Einsums that reduce a variable of the loops share them, too.
    """

    loops: tuple[Loop, ...]
    pipelined: bool = False
    array: str = ""
    steps: bool = False
    folding: bool = False

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables of the loops, without repetition."""
        return tuple(dict.fromkeys(loop.variable for loop in self.loops))


def stepping(steps: Sequence[Step]) -> tuple[Level, ...]:
    """Return one level for each iterative rank of the groups: ``for m1``."""
    names = dict.fromkeys(step.variable for step in steps if step.variable)
    return tuple(Level((Loop(name),), steps=True) for name in names)


def forest(
    steps: Sequence[Step],
    levels: Sequence[Level],
    remaining: Mapping[str, int],
    flow: Flow,
) -> tuple[Node, ...]:
    """Return nests and leaves (without array and loops) in an order that respects `flow`.

    Args:
        steps: in order; each group's iterative variable must have a level.
        levels: outermost first.
        remaining: variable → coordinates that the loops around leave.
        flow: the dependences.
    """
    if not levels:
        if any(step.variable for step in steps):
            raise ValueError("a loop group has no level for its variable")
        return tuple(Compute(step.einsums[0].name, "") for step in steps)
    level, rest = levels[0], levels[1:]
    loops = level.loops if level.steps else _useful(level, remaining)
    if not loops:
        return forest(steps, rest, remaining, flow)
    body: list[Node] = []
    pending: list[Step] = []
    for cluster in partition(steps, level.variables, flow, folding=level.folding):
        if not _wraps(cluster, level):
            pending += cluster.steps
            continue
        body += forest(pending, rest, remaining, flow)
        pending = []
        opened = [each for step in cluster.steps for each in _opened(step, level.variables)]
        inner = {**remaining}
        for loop in loops:
            inner[loop.variable] = min(inner[loop.variable], loop.tile)
        overlaps = level.pipelined and not loops[-1].spatial
        body.append(chain(loops, forest(opened, rest, inner, flow), pipelined=overlaps))
    return (*body, *forest(pending, rest, remaining, flow))


def _useful(level: Level, remaining: Mapping[str, int]) -> tuple[Loop, ...]:
    """Leave out loops of one iteration."""
    left = dict(remaining)
    kept: list[Loop] = []
    for loop in level.loops:
        if left[loop.variable] > loop.tile:
            kept.append(loop)
            left[loop.variable] = loop.tile
    return tuple(kept)


def _wraps(cluster: Cluster, level: Level) -> bool:
    """Whether a loop around the cluster shares something, or steps a group."""
    grouped = any(cluster.holds_group(name) for name in level.variables)
    if level.steps or grouped:
        return level.steps and grouped
    return cluster.shared and cluster.worth_sharing


def _opened(step: Step, names: tuple[str, ...]) -> tuple[Step, ...]:
    """Take a group apart if the loop steps its variable."""
    if step.variable in names:
        return tuple(Step((einsum,)) for einsum in step.einsums)
    return (step,)


def chain(loops: Sequence[Loop], body: tuple[Node, ...], *, pipelined: bool = False) -> Nest:
    """Nest the loops directly around a body."""
    nest = Nest(loops[-1], body, pipelined)
    for loop in reversed(loops[:-1]):
        nest = Nest(loop, (nest,))
    return nest


def filled(body: tuple[Node, ...], leaves: Mapping[str, Node]) -> tuple[Node, ...]:
    """Replace each leaf by what `leaves` has for its Einsum."""
    return tuple(
        replace(node, body=filled(node.body, leaves))
        if isinstance(node, Nest)
        else leaves[node.einsum]
        if isinstance(node, Compute)
        else node
        for node in body
    )

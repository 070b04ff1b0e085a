"""The loops of a mapping as one tree: leaves' own loops included, each loop with its range.

`Step` is a loop, `Hold` the scope of a ``keep``, `Leaf` one point (or what spatial loops leave of
it) of one Einsum. Every part knows what the loops around it leave of each rank variable, as
expressions of the loop variables, which are named here. Excluded: tensors and statements.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from penstock.codegen.lower.ranges import Range, iterations, open_loop, whole
from penstock.einsum_ir.nodes import Einsum
from penstock.einsum_ir.shapes import Bound
from penstock.mapper.nodes import Compute, Keep, Loop, Nest, Node, leaves
from penstock.mapper.nodes import Mapping as LoopForest
from penstock.targets.base import AxisKind, Target

__all__ = ["Env", "Hold", "Leaf", "Part", "Path", "Step", "Tree", "build_tree"]

Env = Mapping[str, Range]
"""Rank variable → what is left of it."""


@dataclass(frozen=True, eq=False)
class Step:
    """A loop.

    Args:
        loop: of the mapping.
        name: of the loop variable.
        count: the most iterations; no loop is made for 1.
        outside: what is stepped through.
        env: what is left inside, of every rank variable.
        kind: of the axis, "" for a serial loop.
        axis: ``array.axis``.
        places: of an axis whose places take turns, else 0.
        pipelined: whether iterations overlap.
        leaf: the leaf whose own loop it is, None for a shared one.
        body: what runs.
    """

    loop: Loop
    name: str
    count: int
    outside: Range
    env: Env
    kind: AxisKind | None
    axis: str
    places: int
    pipelined: bool
    leaf: Compute | None
    body: tuple[Part, ...]


@dataclass(frozen=True, eq=False)
class Hold:
    """The rest of a body, in which some tensors are kept in a memory."""

    keep: Keep
    env: Env
    body: tuple[Part, ...]


@dataclass(frozen=True, eq=False)
class Leaf:
    """One point of an Einsum."""

    einsum: Einsum
    compute: Compute
    env: Env


Part = Step | Hold | Leaf
Path = tuple[Part, ...]


@dataclass(frozen=True)
class Tree:
    """A whole mapping.

    Args:
        body: the parts, in order.
        ranges: loop variable → lowest and highest value.
        paths: Einsum → the parts from the outermost down to its leaf, in program order.
    """

    body: tuple[Part, ...]
    ranges: Mapping[str, tuple[int, int]]
    paths: Mapping[str, Path]

    def below(self, part: Part) -> Iterator[Leaf]:
        """Yield the leaves below a part, in program order."""
        return _leaves(part)

    def order(self, einsum: str) -> int:
        """Return the position of an Einsum's leaf in program order."""
        return list(self.paths).index(einsum)


def _leaves(part: Part) -> Iterator[Leaf]:
    if isinstance(part, Leaf):
        yield part
        return
    for each in part.body:
        yield from _leaves(each)


def build_tree(bound: Bound, mapping: LoopForest, target: Target) -> Tree:
    """Return the tree of a legal mapping."""
    grower = _Grower(bound, target)
    env = {name: whole(extent) for name, extent in bound.extents.items()}
    body = grower.parts(mapping.body, env)
    paths = {path[-1].einsum.name: path for path in _paths(body) if isinstance(path[-1], Leaf)}
    return Tree(body, grower.ranges, paths)


def _paths(body: tuple[Part, ...], above: Path = ()) -> Iterator[Path]:
    for part in body:
        if isinstance(part, Leaf):
            yield (*above, part)
        else:
            yield from _paths(part.body, (*above, part))


@dataclass
class _Grower:
    """Names loop variables; lives only inside `build_tree`."""

    bound: Bound
    target: Target
    ranges: dict[str, tuple[int, int]] = field(default_factory=dict)

    def parts(self, body: tuple[Node, ...], env: Env) -> tuple[Part, ...]:
        grown: list[Part] = []
        for place, node in enumerate(body):
            match node:
                case Keep() if self.target.memory(node.memory).cache:
                    continue  # hardware copies by itself
                case Keep():
                    return (*grown, Hold(node, env, self.parts(body[place + 1 :], env)))
                case Nest():
                    array = next((leaf.array for _, leaf in leaves((node,))), "")
                    grown.append(self.step(node, array, env, None))
                case Compute():
                    grown.append(self.leaf(node, node.loops, env, node))
        return tuple(grown)

    def leaf(self, compute: Compute, loops: tuple[Loop, ...], env: Env, source: Compute) -> Part:
        if not loops:
            return Leaf(self.bound.cascade.einsum(compute.einsum), source, env)
        rest = replace(compute, loops=loops[1:])
        return self.step(Nest(loops[0], (rest,)), compute.array, env, source)

    def step(self, nest: Nest, array: str, env: Env, source: Compute | None) -> Step:
        loop = nest.loop
        outside = env[loop.variable]
        name = self.fresh(loop.variable)
        count, _ = iterations(outside, loop.tile, self.ranges)
        if count > 1:
            self.ranges[name] = (0, count - 1)
        left = open_loop(outside, loop.tile, name, self.ranges)
        inside = {**env, loop.variable: left}
        places = self.target.array(array).axis(loop.axis) if loop.spatial else None
        kind = places.kind if places is not None else None
        turns = places.size if places is not None and places.folds else 0
        axis = f"{array}.{loop.axis}" if loop.spatial else ""
        if source is not None:
            rest = next(node for node in nest.body if isinstance(node, Compute))
            body: tuple[Part, ...] = (self.leaf(rest, rest.loops, inside, source),)
        else:
            body = self.parts(nest.body, inside)
        own = (kind, axis, turns, nest.pipelined)
        return Step(loop, name, count, outside, inside, *own, source, body)

    def fresh(self, base: str) -> str:
        """Return a name that neither a loop nor (but for the first use) a rank variable has."""
        name, number = base, 1
        while name in self.ranges or (number > 1 and name in self.bound.extents):
            name, number = f"{base}_{number}", number + 1
        return name

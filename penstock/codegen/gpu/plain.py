"""A mapping with plain leaves: what a block computes stays as mapped, who computes it is left open.

A tensor-core kernel spreads the tile of a block over warps by the fragments of its matrix
instruction, so the loops inside a leaf, and loops over threads, say nothing to it. `plain` takes
them out and keeps what the kernel does follow: block loops, tiles, the loop over key tiles, what is
fused, stages, and buffers in shared memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping as MappingABC
from dataclasses import replace

from penstock.einsum_ir.shapes import Bound
from penstock.mapper.nodes import Compute, Keep, Loop, Mapping, Nest, Node, leaves
from penstock.targets.base import Target

__all__ = ["plain"]


def plain(mapping: Mapping, bound: Bound, target: Target) -> Mapping | None:
    """Return the mapping with plain leaves in its streaming nests; None if it has none.

    Args:
        mapping: legal for ``bound`` and ``target``.
        bound: the cascade with its extents.
        target: a GPU.
    """
    made = _Plain(bound, target)
    body = tuple(made.top(node) for node in mapping.body)
    return replace(mapping, body=body) if made.changed else None


class _Plain:
    def __init__(self, bound: Bound, target: Target) -> None:
        self.bound, self.changed = bound, False
        axes = [(axis.name, axis.kind) for array in target.arrays for axis in array.axes]
        self.blocks = {name for name, kind in axes if kind == "block"}
        self.memory = next(
            each.name for each in target.memories if each.along in self.blocks and not each.array
        )

    def top(self, node: Node) -> Node:
        """Return a node outside every grid."""
        if not isinstance(node, Nest) or not self._streams(node):
            return node
        self.changed = True
        return self._grid(node, {})

    def _streams(self, nest: Nest) -> bool:
        """Whether it is a grid around a loop over an iterative rank."""
        groups = {each.iterative for each in self.bound.cascade.einsums if each.iterative}
        inner = [above for above, _ in leaves((nest,))]
        stepped = any(loop.loop.variable in groups for above in inner for loop in above)
        return nest.loop.axis in self.blocks and stepped

    def _grid(self, nest: Nest, left: MappingABC[str, int]) -> Nest:
        left = {**left, nest.loop.variable: nest.loop.tile}
        parts = [each for each in nest.body if isinstance(each, Nest)]
        if len(parts) == 1 and parts[0].loop.axis in self.blocks:
            return replace(nest, body=(self._grid(parts[0], left),))
        body = self._unthreaded(nest.body)
        return replace(nest, body=self._kept(body, self._body(body, left), outermost=True))

    def _unthreaded(self, body: tuple[Node, ...]) -> tuple[Node, ...]:
        """Return a body without the loops that lie along threads."""
        found: list[Node] = []
        for node in body:
            if isinstance(node, Nest) and node.loop.axis:
                found += self._unthreaded(node.body)
            elif isinstance(node, Nest):
                found.append(replace(node, body=self._unthreaded(node.body)))
            else:
                found.append(node)
        return tuple(found)

    def _body(self, body: tuple[Node, ...], left: MappingABC[str, int]) -> tuple[Node, ...]:
        found: list[Node] = []
        for node in body:
            match node:
                case Nest():
                    inner = self._body(node.body, {**left, node.loop.variable: node.loop.tile})
                    found.append(replace(node, body=self._kept(node.body, inner, outermost=False)))
                case Compute():
                    found.append(self._leaf(node, left))
                case Keep():
                    pass
        return tuple(found)

    def _leaf(self, leaf: Compute, left: MappingABC[str, int]) -> Compute:
        einsum = self.bound.cascade.einsum(leaf.einsum)
        sizes = {name: left.get(name, self.bound.extents[name]) for name in einsum.variables}
        loops = tuple(Loop(name) for name, size in sizes.items() if size > 1)
        return replace(leaf, loops=loops)

    def _kept(
        self, old: tuple[Node, ...], body: tuple[Node, ...], *, outermost: bool
    ) -> tuple[Node, ...]:
        """Return a body with what lives in it kept in shared memory, inputs as they were."""
        here = tuple(dict.fromkeys(leaf.einsum for _, leaf in leaves(body)))
        deeper = {name for node in body if isinstance(node, Nest) for name in self._inside(node)}
        own = tuple(
            name
            for name in here
            if name not in deeper
            and not self._escapes(name, here)
            and (outermost or not self._state(name))
        )
        inputs = {each.tensor for each in self.bound.cascade.inputs}
        kept: list[Node] = [Keep(own, self.memory)] if own else []
        for each in old:
            names = each.tensors if isinstance(each, Keep) else ()
            given = tuple(name for name in names if name in inputs)
            if isinstance(each, Keep) and given:
                kept.append(Keep(given, self.memory, each.buffers))
        return (*kept, *body)

    def _inside(self, nest: Nest) -> Iterator[str]:
        """Yield what a nest makes for itself alone, and not from step to step."""
        here = tuple(leaf.einsum for _, leaf in leaves((nest,)))
        for name in here:
            if not self._state(name) and not self._escapes(name, here):
                yield name

    def _state(self, name: str) -> bool:
        return self.bound.cascade.einsum(name).iterative is not None

    def _escapes(self, name: str, here: tuple[str, ...]) -> bool:
        """Whether a tensor is an output, or read by other Einsums."""
        cascade = self.bound.cascade
        readers = {
            each.name
            for each in cascade.einsums
            if any(access.tensor == name for access in each.operands)
        }
        return bool(readers - set(here)) or name in {each.tensor for each in cascade.outputs}

"""Forests in which partial sums wait, and each Einsum has blocks of its own inside shared loops.

They move fewer bytes than those of `space.py` and overlap nothing, so that they can only be better
where a memory's bandwidth or energy is the limit. Shared are loops as there, in tiles of more
sizes, and perhaps one over a variable that one Einsum makes and another one reduces. In them every
Einsum has, of the blocks that fit a shared buffer beside the intermediates of the shared loops,
those that move the fewest bytes. Excluded: arrays, loops of leaves, residency (`space.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.nodes import Einsum
from penstock.mapper.facts import Facts, facts_of
from penstock.mapper.fusion import Step, folded, pointwise
from penstock.mapper.model.occupancy import box_at, window_of
from penstock.mapper.model.regions import footprint
from penstock.mapper.nodes import Loop, Nest, Node, leaves
from penstock.mapper.search.blocks import blockings, powers, tile_bytes, tiles
from penstock.mapper.search.forest import chain, filled
from penstock.mapper.search.plan import Planner, Recipe
from penstock.mapper.search.residency import Home, homes

__all__ = ["Streams"]

EQUAL_PARTS = 8
"""The longest shared variable is cut into so many equal tiles at most, beside those of an axis."""

LARGEST = 2
"""Tiles of a reduced variable that are tried: the largest ones with which everything fits."""

Forest = tuple[Recipe, tuple[Node, ...]]


@dataclass(frozen=True)
class Streams:
    """The forests for one list of shared variables.

    Args:
        planner: of the cascade and the machine; its recipe says which list.
        steps: of the cascade.
        fmt: number format of all tensors.
    """

    planner: Planner
    steps: Sequence[Step]
    fmt: Format

    @cached_property
    def facts(self) -> Facts:
        """Of the cascade."""
        return facts_of(self.planner.bound)

    @cached_property
    def axis(self) -> int:
        """Places of the longest axis."""
        return self.planner.axis_size(self.steps)

    def forests(self) -> Iterator[Forest]:
        """Yield recipes with their forests: without shared loops, then with larger tiles."""
        target = self.planner.target
        if target.buffer is None or target.family not in ("spatial", "fpga"):
            return
        yield from self._with(replace(self.planner.recipe, fuse=False))
        for outer in self._outer():
            recipe = replace(self.planner.recipe, outer=outer)
            yield from self._with(recipe)
            for name in self._reduced():
                for outside in (False, True):
                    yield from self._parts(replace(recipe, outside=outside), name)

    def _outer(self) -> tuple[int, ...]:
        """Return the tiles of the longest shared variable; 0 if none is shared."""
        extents = self.planner.bound.extents
        found = {
            tile
            for names, steps in self.planner.runs(self.steps)
            for tile in (self._sizes(extents[self.planner.longest(names)]) if names else ())
        }
        return tuple(sorted(found)) or (0,)

    def _sizes(self, extent: int) -> set[int]:
        equal = {math.ceil(extent / count) for count in range(1, EQUAL_PARTS + 1)}
        return equal | set(tiles(extent, self.axis))

    def _reduced(self) -> tuple[str, ...]:
        """Return the variables that one Einsum makes and another one reduces, if long enough."""
        flow, extents = self.planner.flow, self.planner.bound.extents
        shared = {name for names, _ in self.planner.runs(self.steps) for name in names}
        found = {
            name: None
            for einsum in flow.makers.values()
            for access in flow.reads(einsum)
            for name in einsum.variables
            if folded(einsum, name) and pointwise(flow.makers[access.tensor], access, name)
        }
        return tuple(name for name in found if name not in shared and extents[name] > self.axis)

    def _parts(self, recipe: Recipe, name: str) -> Iterator[Forest]:
        """Yield the forests with the largest tiles of a reduced variable."""
        sizes = list(powers(self.axis, self.planner.bound.extents[name] - 1))
        count = 0
        for size in reversed(sizes):
            for each in self._with(replace(recipe, part=Loop(name, size))):
                yield each
                count += 1
            if count == LARGEST:
                return

    def _with(self, recipe: Recipe) -> Iterator[Forest]:
        """Yield the forest of a recipe with blocks in it, if anything fits."""
        body = replace(self.planner, recipe=recipe).grow(self.steps)
        blocked = self.blocked(body)
        if blocked is not None:
            yield recipe, blocked

    # -- blocks inside shared loops ----------------------------------------------------------

    def blocked(self, body: tuple[Node, ...]) -> tuple[Node, ...] | None:
        """Put loops over blocks around each leaf; None if some Einsum has none that fit."""
        flow = self.planner.flow
        found = homes(body, self.planner.bound, flow)
        inside = flow.makers.keys() - self.facts.outputs
        kept = [each for name, (each, *_) in found.items() if name in inside and each.body]
        nodes: dict[str, Node] = {}
        for nests, leaf in leaves(body):
            einsum = flow.makers[leaf.einsum]
            around = [each for each in kept if each.nests == nests[: len(each.nests)]]
            loops = self._blocks(einsum, nests, around)
            if loops is None:
                return None
            nodes[leaf.einsum] = chain(loops, (leaf,)) if loops else leaf
        return filled(body, nodes)

    def _blocks(
        self, einsum: Einsum, nests: tuple[Nest, ...], kept: Sequence[Home]
    ) -> tuple[Loop, ...] | None:
        """Return the loops over the blocks that move the fewest bytes, beside what is kept."""
        if einsum.iterative is not None:
            return ()
        box, names = box_at(nests, self.facts), {each.tensor for each in kept}
        room = self._room(nests) - sum(self._held(each) for each in kept)
        whole = tile_bytes(einsum, box, self.facts, self.fmt, names)
        choices = blockings(
            einsum, box, self.facts, self.fmt, room=room, axis=self.axis, kept=names
        )
        return min(choices, key=lambda loops: self._cost(einsum, loops, box, whole), default=None)

    def _cost(
        self,
        einsum: Einsum,
        loops: Sequence[Loop],
        box: Mapping[str, int],
        whole: Mapping[str, float],
    ) -> tuple[float, int]:
        """Return the bytes that blocks move for one step of the shared loops, and their number."""
        trips = [math.ceil(box[loop.variable] / loop.tile) for loop in loops]
        step, moved = self.facts.steps[einsum.name], 0.0
        for use in (*step.reads, step.write):
            if use.tensor in whole:
                mine = [loop.variable in use.relevant for loop in loops]
                last = max((number for number, own in enumerate(mine) if own), default=-1)
                again = math.prod(
                    count for count, own in zip(trips[:last], mine, strict=False) if not own
                )
                back = again - 1 if use is step.write else 0  # partial sums are read, too
                moved += whole[use.tensor] * (again + back)
        return moved, math.prod(trips)

    def _room(self, nests: Sequence[Nest]) -> float:
        """Return the bytes that a body inside these loops may fill."""
        buffer = self.planner.target.buffer
        assert buffer is not None
        if buffer.along:
            return buffer.capacity_bytes
        side_by_side = math.prod(
            math.ceil(self.facts.extents[nest.loop.variable] / nest.loop.tile)
            for nest in nests
            if nest.loop.spatial
        )
        return buffer.total_bytes / side_by_side

    def _held(self, home: Home) -> float:
        """Return the bytes of a tensor at its home."""
        steps = self.facts.steps.values()
        uses = {
            tuple(dim.text for dim in use.dims): use
            for step in steps
            for use in (*step.reads, step.write)
            if use.tensor == home.tensor
        }
        window = window_of(home.tensor, home.nests, self.facts)
        count = footprint(tuple(uses.values()), box_at(home.nests, self.facts), self.facts, window)
        return count * self.facts.element_bytes(home.tensor, self.fmt)

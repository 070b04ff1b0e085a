"""Which loops a run of Einsums shares: one choice for each machine family, with free parameters.

A `Recipe` holds the parameters; `Planner.grow` turns steps into a forest without arrays. Excluded:
the leaves' arrays and loops (`build.py`, `space.py`), residency (`residency.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from penstock.einsum_ir.shapes import Bound
from penstock.mapper.fusion import Flow, Step, partition
from penstock.mapper.leaf import arrays_for, operators
from penstock.mapper.nodes import Compute, Loop, Node
from penstock.mapper.search.forest import Level, chain, forest, stepping
from penstock.targets.base import Array, Axis, Target

__all__ = ["Planner", "Recipe", "axis_of"]

CPU_TILE = 16
CPU_VECTORS = 4
"""Vectors of the longest shared variable in one tile: enough of them to hide latencies."""
WARP = 32


@dataclass(frozen=True, slots=True)
class Recipe:
    """The parameters of a forest.

    Args:
        fuse: whether Einsums share loops (iterative ranks are stepped in any case).
        keep: whether tensors are kept inside the outermost memory.
        divisor: by how much smaller the tiles of the longest shared variable are than is usual.
        outer: those tiles, in coordinates, instead; 0 = what is usual.
        inner: tiles of a second shared loop over that variable, inside the iterative ranks; 0 =
            no such loop. Spatial arrays and FPGAs only.
        pipelined: whether the iterations of the innermost of these loops overlap. Likewise.
        overlap: whether the steps of an iterative rank overlap, as far as they do not need each
            other. Only without `inner` and `pipelined`.
        fewer: which of the lists of shared variables it is, from the longest on.
        together: whether the threads of a block work on each Einsum together, each Einsum laid out
            in its own way, instead of each thread on coordinates of its own. GPUs only.
        least: Einsums share loops over a variable if that keeps a `least`-th of the accesses inside
            that the best one keeps; more than 2 for parts of a reduction, of which only some know.
        cut: with `together`, the variable that is cut into tiles of `outer`; "" = the longest.
        blocks: the loops over blocks of a cascade of one Einsum, and nothing else.
        part: a shared loop over what one Einsum makes and another one reduces, None without.
            Spatial arrays and FPGAs only; without `inner`, `pipelined` and `overlap`.
        outside: whether it stands outside the loop over the longest shared variable.
    """

    fuse: bool = True
    keep: bool = True
    divisor: int = 1
    outer: int = 0
    inner: int = 0
    pipelined: bool = False
    overlap: bool = False
    fewer: int = 0
    together: bool = False
    cut: str = ""
    least: int = 2
    blocks: tuple[Loop, ...] = ()
    part: Loop | None = None
    outside: bool = False


@dataclass(frozen=True)
class Planner:
    """Chooses shared loops for runs of steps."""

    bound: Bound
    target: Target
    flow: Flow
    recipe: Recipe

    def grow(self, steps: Sequence[Step]) -> tuple[Node, ...]:
        """Share loops over what most steps carry; then the same for the steps left over."""
        if self.recipe.blocks:
            return (chain(self.recipe.blocks, (Compute(steps[0].einsums[0].name, ""),)),)
        body: list[Node] = []
        for names, run in self.runs(steps):
            levels = self.levels(names, run) if names else self._parts()
            if not any(level.steps for level in levels):
                levels = (*levels, *self._stepping(run))
            body += forest(run, levels, self.bound.extents, self.flow)
        return tuple(body)

    def runs(self, steps: Sequence[Step]) -> Iterator[tuple[tuple[str, ...], Sequence[Step]]]:
        """Yield runs of steps, in order, with the variables over which each shares loops."""
        names: tuple[str, ...] = ()
        if self.recipe.fuse:
            lists = self.flow.shared(steps, self.bound.extents, self.recipe.least)
            names = lists[min(self.recipe.fewer, len(lists) - 1)]
        if not names:
            if steps:
                yield (), steps
            return
        pending: list[Step] = []
        for cluster in partition(steps, names, self.flow):
            if not (cluster.shared and cluster.worth_sharing):
                pending += cluster.steps
                continue
            yield from self.runs(pending)
            pending = []
            yield names, cluster.steps
        yield from self.runs(pending)

    def _stepping(self, steps: Sequence[Step]) -> tuple[Level, ...]:
        """Return the loops over iterative ranks; overlapping, if wanted and there is just one."""
        levels = stepping(steps)
        if self.recipe.overlap and len(levels) == 1:
            return (replace(levels[0], pipelined=True),)
        return levels

    def longest(self, names: Sequence[str]) -> str:
        """Return the variable of a run that is cut into tiles: the one with most coordinates."""
        return sorted(names, key=lambda name: self.bound.extents[name])[-1]

    def levels(self, names: Sequence[str], steps: Sequence[Step]) -> tuple[Level, ...]:
        """Return the shared levels of a run: one chain of loops."""
        longest = self.longest(names)
        others = [name for name in names if name != longest]
        match self.target.family:
            case "gpu":
                return self._gpu(longest, others, steps)
            case "cpu":
                return self._cpu(longest, others, steps)
            case "spatial" | "fpga":
                return self._spatial(longest, others, steps)

    def _spatial(
        self, longest: str, others: Sequence[str], steps: Sequence[Step]
    ) -> tuple[Level, ...]:
        outer, inner = self._tile(self.axis_size(steps)), self.recipe.inner
        loops = (*(Loop(name) for name in others), Loop(longest, outer))
        loops = self._over_units(loops, steps)
        if self.recipe.part is not None and self.recipe.outside:
            return (Level((*loops[:-1], self.recipe.part, loops[-1]), folding=True),)
        if self.recipe.part is not None:
            return (Level(loops), *stepping(steps), *self._parts())
        if not inner or inner >= outer:
            grouped = any(step.variable for step in steps)
            return (Level(loops, pipelined=self.recipe.pipelined and not grouped),)
        inside = Level((Loop(longest, inner),), pipelined=self.recipe.pipelined)
        return (Level(loops), *stepping(steps), inside)

    def _parts(self) -> tuple[Level, ...]:
        return (Level((self.recipe.part,), folding=True),) if self.recipe.part else ()

    def _over_units(self, loops: tuple[Loop, ...], steps: Sequence[Step]) -> tuple[Loop, ...]:
        """Share out over compute units, if there are several, the loop that keeps most busy."""
        array = self._common_array(steps, "core")
        units = axis_of(array, "core") if array is not None else None
        if units is None or units.size == 1:
            return loops
        busiest = max(loops, key=lambda loop: self._busy(loop, units))
        return tuple(
            replace(each, axis=units.name) if each is busiest else each
            for each in sorted(loops, key=lambda loop: loop is not busiest)
        )

    def _busy(self, loop: Loop, axis: Axis) -> float:
        """Return the share of an axis that a loop's steps keep busy."""
        count = math.ceil(self.bound.extents[loop.variable] / loop.tile)
        return count / (math.ceil(count / axis.size) * axis.size)

    def _tile(self, usual: int) -> int:
        return self.recipe.outer or max(1, usual // self.recipe.divisor)

    def axis_size(self, steps: Sequence[Step]) -> int:
        """Return the places of the longest axis that a variable of all steps can lie along."""
        arrays = {
            array.name: array
            for step in steps
            for einsum in step.einsums
            for array in arrays_for(einsum, self.bound, self.target)
        }
        return max((axis.size for each in arrays.values() for axis in each.axes), default=1)

    def _common_array(self, steps: Sequence[Step], kind: str) -> Array | None:
        """Return the array with an axis of that kind on which all of the steps can run."""
        needed = {
            op for step in steps for each in step.einsums for op in operators(each, self.bound)
        }
        able = [
            array
            for array in self.target.arrays
            if needed <= dict(array.cycles).keys() and axis_of(array, kind) is not None
        ]
        return able[0] if able else None

    def _gpu(self, longest: str, others: Sequence[str], steps: Sequence[Step]) -> tuple[Level, ...]:
        array = self._common_array(steps, "thread")
        blocks = axis_of(array, "block") if array is not None else None
        threads = axis_of(array, "thread") if array is not None else None
        if array is None or blocks is None or threads is None:
            return (Level((*(Loop(name) for name in others), Loop(longest))),)
        extent = self.bound.extents[longest]
        if self.recipe.together:
            cut = self.recipe.cut if self.recipe.cut in others else longest
            loops = [
                Loop(name, self.recipe.outer if name == cut else 1, blocks.name)
                for name in (*others, longest)
            ]
            return (Level(tuple(loops), array=array.name),)
        tile = min(max(self._tile(threads.size), WARP), threads.size)
        tile = min(tile, 1 << max(0, extent - 1).bit_length())
        loops = [Loop(name, 1, blocks.name) for name in others]
        loops += [Loop(longest, tile, blocks.name), Loop(longest, 1, threads.name)]
        return (Level(tuple(loops), array=array.name),)

    def _cpu(self, longest: str, others: Sequence[str], steps: Sequence[Step]) -> tuple[Level, ...]:
        array = self._common_array(steps, "core")
        cores = axis_of(array, "core") if array is not None else None
        lanes = axis_of(array, "simd") if array is not None else None
        wide = lanes.size if lanes is not None else 1
        tile = self._tile(max(CPU_TILE, CPU_VECTORS * wide))
        if array is None or cores is None:
            return (Level((*(Loop(name) for name in others), Loop(longest, tile))),)
        blocks = math.prod(self.bound.extents[name] for name in others)
        extent = self.bound.extents[longest]
        while blocks * math.ceil(extent / tile) < cores.size and tile > 1:
            tile = math.ceil(tile / 2)  # more, smaller tiles if cores would stand idle
        loops = [Loop(name, 1, cores.name) for name in others]
        return (Level((*loops, Loop(longest, tile, cores.name)), array=array.name),)


def axis_of(array: Array, kind: str) -> Axis | None:
    """Return the first axis of that kind, or None."""
    return next((axis for axis in array.axes if axis.kind == kind), None)

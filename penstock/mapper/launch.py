"""What a mapping chose, in the words of its machine: block tile, warps, split-K; PEs, channels.

All of it can be read off the mapping and the machine; the kinds of the machine's axes say which
of it there is. Excluded: what it costs (`model/`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.shapes import Bound
from penstock.mapper.facts import Facts, facts_of
from penstock.mapper.model.evaluate import Evaluation
from penstock.mapper.nodes import Keep, Loop, Mapping, Nest, Node, leaves
from penstock.mapper.resources import LIMITED, parts_of
from penstock.mapper.scopes import Leaf, tree_of
from penstock.metrics import Metric
from penstock.targets.base import Target

__all__ = ["WARP", "launch"]

WARP = 32
"""Threads that a GPU runs in lock step."""


def launch(
    mapping: Mapping, bound: Bound, target: Target, fmt: Format, evaluation: Evaluation
) -> tuple[Metric, ...]:
    """Return what a mapping chose on a machine with thread blocks, or to be built on an FPGA.

    Of each kernel of a GPU (a nest with loops along blocks): thread blocks, coordinates of each
    variable that a block works on at a time (its tile), warps, buffers of what is copied in
    (stages), and the parts of a reduction that blocks share, to be merged later (split-K). Of an
    FPGA: places along each axis, points side by side of each Einsum (unroll),
    channels of the outermost memory that are busy, and resources. () for other machines.
    """
    facts = facts_of(bound)
    found: list[Metric] = []
    kernels = list(_kernels(mapping.body, target))
    for number, node in enumerate(kernels, 1):
        name = f"kernel{number}_" if len(kernels) > 1 else ""
        found += _kernel(node, mapping, name, facts, target)
    if target.resources:
        found += _built(mapping, facts, target, fmt, evaluation)
    return tuple(found)


# -- GPUs --------------------------------------------------------------------------------------


def _kernels(body: tuple[Node, ...], target: Target) -> Iterator[Node]:
    """Yield the outermost nests and leaves that have loops along thread blocks."""
    for node in body:
        if isinstance(node, Keep):
            continue
        own = node.loop.axis if isinstance(node, Nest) else ""
        inner = () if isinstance(node, Nest) else node.loops
        blocks = _axes("block", target)
        if own in blocks or any(loop.axis in blocks for loop in inner):
            yield node
        elif isinstance(node, Nest):
            yield from _kernels(node.body, target)


def _axes(kind: str, target: Target) -> set[str]:
    return {axis.name for array in target.arrays for axis in array.axes if axis.kind == kind}


def _kernel(
    node: Node, mapping: Mapping, name: str, facts: Facts, target: Target
) -> Iterator[Metric]:
    inside = {id(leaf) for _, leaf in leaves((node,))}
    mine = [leaf for leaf in tree_of(mapping, facts, target).leaves if id(leaf.compute) in inside]
    grid, split = 1, 1
    tile: dict[str, int] = {}
    parts = _parts(mine, facts)
    for leaf in mine:
        steps = _steps(leaf, facts, _axes("block", target))
        grid = max(grid, math.prod(steps.values()))
        split = max(split, math.prod(steps.get(v, 1) for v in parts))
        for variable, size in _left(leaf, facts, target).items():
            tile[variable] = max(size, tile.get(variable, 1))
    yield Metric(f"{name}blocks", grid, "thread blocks", "model")
    for variable, size in tile.items():
        if size > 1:
            yield Metric(f"{name}block_tile_{variable}", size, "coordinates", "model")
    threads = max(math.prod(_steps(leaf, facts, _axes("thread", target)).values()) for leaf in mine)
    yield Metric(f"{name}warps", math.ceil(threads / WARP), "in a block", "model")
    stages = [n.buffers for n in _keeps(node) if target.memory(n.memory).along]
    yield Metric(f"{name}stages", max(stages, default=1), "buffers", "model")
    yield Metric(f"{name}split_k", split, "parts", "model")


def _parts(mine: list[Leaf], facts: Facts) -> set[str]:
    """Return the variables that count parts of a rank along which the leaves reduce.

    ``m1`` is one if ``K[m1*M0 + m0]`` is read, and something is reduced over ``m0``.
    """
    reduced = {v for leaf in mine for r in (leaf.step.einsum.reduce,) if r for v in r.over}
    found: set[str] = set()
    for use in (use for leaf in mine for use in leaf.step.reads if use.tensor in facts.inputs):
        for dim in use.dims:
            if reduced & set(dim.variables):
                found |= set(dim.variables) - reduced
    return found


def _loops(leaf: Leaf) -> tuple[Loop, ...]:
    return (*(nest.loop for nest in leaf.nests), *leaf.compute.loops)


def _steps(leaf: Leaf, facts: Facts, axes: set[str]) -> dict[str, int]:
    """Return variable → steps of a leaf's loops along some axes."""
    left = dict(facts.extents)
    found: dict[str, int] = {}
    for loop in _loops(leaf):
        count = -(-left[loop.variable] // loop.tile)
        left[loop.variable] = min(left[loop.variable], loop.tile)
        if loop.axis in axes:
            found[loop.variable] = found.get(loop.variable, 1) * count
    return found


def _left(leaf: Leaf, facts: Facts, target: Target) -> dict[str, int]:
    """Return what the loops around a leaf, and its loops along blocks, leave of its variables."""
    blocks, threads = _axes("block", target), _axes("thread", target)
    left = {name: facts.extents[name] for name in leaf.step.einsum.variables}
    around = len(leaf.nests)
    for number, loop in enumerate(_loops(leaf)):
        shared = loop.axis in blocks or (number < around and loop.axis not in threads)
        if shared and loop.variable in left:
            left[loop.variable] = min(left[loop.variable], loop.tile)
    return left


def _keeps(node: Node) -> Iterator[Keep]:
    if isinstance(node, Keep):
        yield node
    elif isinstance(node, Nest):
        for each in node.body:
            yield from _keeps(each)


# -- FPGAs -------------------------------------------------------------------------------------


def _built(
    mapping: Mapping, facts: Facts, target: Target, fmt: Format, evaluation: Evaluation
) -> Iterator[Metric]:
    for array in target.arrays:
        for axis in array.axes:
            yield Metric(f"{array.name}_{axis.name}", axis.size, "places", "model")
    for leaf in tree_of(mapping, facts, target).leaves:
        axes = {axis.name for axis in leaf.array.axes if axis.kind == "pe"}
        unroll = math.prod(_steps(leaf, facts, axes).values())
        yield Metric(f"unroll_{leaf.name}", unroll, "points side by side", "model")
    dram = target.dram
    if dram.channels > 1:
        busy = evaluation.dram_bytes / evaluation.latency_cycles / dram.bytes_per_cycle
        used = max(1, math.ceil(busy * dram.channels))
        yield Metric(f"{dram.name}_channels", used, f"of {dram.channels}", "model")
    needed = target.needed()
    for leaf in tree_of(mapping, facts, target).leaves:
        for name, count in zip(LIMITED, parts_of(leaf, facts.extents, fmt), strict=True):
            needed[name] = needed.get(name, 0.0) + count
    for name, count in target.resources:
        if name in needed:
            yield Metric(name, math.ceil(needed[name]), f"of {count:,}", "model")

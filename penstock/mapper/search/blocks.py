"""Blocks of a cascade of one Einsum: what a shared buffer holds at a time, and in which order.

Blocks that fit the buffer together, of which none can be doubled, and of the orders of the loops
over them one for each way to re-use operands: a loop re-uses what has no such index if it is the
innermost, or stands inside all loops that matter to it. Excluded: loops inside a block (`leaf.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations, product

from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.nodes import Einsum, variables
from penstock.einsum_ir.shapes import Bound
from penstock.mapper.facts import Facts, facts_of
from penstock.mapper.model.regions import footprint
from penstock.mapper.nodes import Loop
from penstock.targets.base import Memory, Target

__all__ = ["blockings"]

MOST_LOOPS = 4
"""Variables that are cut at most, those with the largest extents; the others stay whole."""


def blockings(
    einsum: Einsum, bound: Bound, target: Target, fmt: Format, axis: int
) -> Iterator[tuple[Loop, ...]]:
    """Yield the loops over blocks, outermost first.

    Args:
        einsum: the only one of its cascade.
        bound: the cascade with its extents.
        target: the machine.
        fmt: number format of all tensors.
        axis: blocks are this, doubled as often as one likes, or a whole extent.
    """
    buffer = next((each for each in target.memories[1:] if not each.array), None)
    if buffer is None or einsum.iterative is not None:
        return
    facts, extents = facts_of(bound), bound.extents
    everywhere = [set(variables(each)) for each in (einsum.output, *einsum.operands)]
    batch = [name for name in einsum.variables if all(name in each for each in everywhere)]
    rest = [name for name in einsum.variables if name not in batch and extents[name] > axis]
    cut = sorted(rest, key=lambda name: -extents[name])[:MOST_LOOPS]
    whole = {name: 1 if name in batch else extents[name] for name in einsum.variables}
    outside = tuple(Loop(name) for name in batch if extents[name] > 1)
    for sizes in _largest(einsum, cut, axis, whole, facts, buffer, fmt):
        cuts = [name for name, size in zip(cut, sizes, strict=True) if size < extents[name]]
        tile = dict(zip(cut, sizes, strict=True))
        for order in _orders(cuts, everywhere):
            yield (*outside, *(Loop(name, tile[name]) for name in order))


def _largest(
    einsum: Einsum,
    cut: Sequence[str],
    axis: int,
    whole: Mapping[str, int],
    facts: Facts,
    buffer: Memory,
    fmt: Format,
) -> Iterator[tuple[int, ...]]:
    """Yield the blocks that fit, but not if any of them is replaced by the next larger one."""
    sizes = [_doubled(axis, whole[name]) for name in cut]
    step = facts.steps[einsum.name]
    uses = {use.tensor: use for use in (*step.reads, step.write)}

    def fits(picks: Sequence[int]) -> bool:
        pairs = zip(cut, picks, sizes, strict=True)
        box = {**whole, **{name: mine[pick] for name, pick, mine in pairs}}
        taken = sum(
            footprint((use,), box, facts, None) * facts.element_bytes(tensor, fmt)
            for tensor, use in uses.items()
        )
        return taken <= buffer.total_bytes

    fitting = {picks for picks in product(*(range(len(mine)) for mine in sizes)) if fits(picks)}
    for picks in sorted(fitting):
        larger = ((*picks[:n], picks[n] + 1, *picks[n + 1 :]) for n in range(len(picks)))
        if not any(each in fitting for each in larger):
            yield tuple(mine[pick] for mine, pick in zip(sizes, picks, strict=True))


def _doubled(axis: int, extent: int) -> tuple[int, ...]:
    found = []
    while axis < extent:
        found.append(axis)
        axis *= 2
    return (*found, extent)


def _orders(names: Sequence[str], tensors: Sequence[set[str]]) -> Iterator[tuple[str, ...]]:
    """Yield one order of loops for each choice of the loops that reload each tensor."""
    seen: set[tuple[frozenset[str], ...]] = set()
    for order in permutations(names):
        reloads = tuple(
            frozenset(order[: 1 + max((n for n, v in enumerate(order) if v in mine), default=-1)])
            for mine in tensors
        )
        if reloads not in seen:
            seen.add(reloads)
            yield order

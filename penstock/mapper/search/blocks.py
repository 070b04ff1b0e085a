"""Blocks of one Einsum: what a shared buffer holds at a time, and in which order.

Blocks that fit the buffer together, of which none can be doubled, and of the orders of the loops
over them one for each way to re-use operands: a loop re-uses what has no such index if it is the
innermost, or stands inside all loops that matter to it. Excluded: loops inside a block (`leaf.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import permutations, product

from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.nodes import Einsum, variables
from penstock.mapper.facts import Facts
from penstock.mapper.model.regions import footprint
from penstock.mapper.nodes import Loop

__all__ = ["blockings", "powers", "tile_bytes", "tiles"]

MOST_LOOPS = 4
"""Variables that are cut at most, those with the largest extents; the others stay whole."""


def blockings(
    einsum: Einsum,
    extents: Mapping[str, int],
    facts: Facts,
    fmt: Format,
    *,
    room: float,
    axis: int,
    kept: Collection[str] = (),
) -> Iterator[tuple[Loop, ...]]:
    """Yield the loops over blocks, outermost first.

    Args:
        einsum: not of an iterative rank.
        extents: variable → coordinates that loops around it leave.
        facts: of the cascade.
        fmt: number format of all tensors.
        room: bytes for the blocks.
        axis: blocks are this, doubled as often as one likes, or a whole extent.
        kept: tensors of which the blocks take no room, because they are there anyway.
    """
    everywhere = [set(variables(each)) for each in (einsum.output, *einsum.operands)]
    batch = [name for name in einsum.variables if all(name in each for each in everywhere)]
    rest = [name for name in einsum.variables if name not in batch and extents[name] > axis]
    cut = sorted(rest, key=lambda name: -extents[name])[:MOST_LOOPS]
    whole = {name: 1 if name in batch else extents[name] for name in einsum.variables}
    outside = tuple(Loop(name) for name in batch if extents[name] > 1)
    sizes = [(*powers(axis, whole[name] - 1), whole[name]) for name in cut]

    def fits(picks: Sequence[int]) -> bool:
        pairs = zip(cut, picks, sizes, strict=True)
        box = {**whole, **{name: mine[pick] for name, pick, mine in pairs}}
        return sum(tile_bytes(einsum, box, facts, fmt, kept).values()) <= room

    for picks in _largest([len(mine) for mine in sizes], fits):
        tile = {name: mine[pick] for name, pick, mine in zip(cut, picks, sizes, strict=True)}
        cuts = [name for name in cut if tile[name] < extents[name]]
        for order in _orders(cuts, everywhere):
            yield (*outside, *(Loop(name, tile[name]) for name in order))


def tile_bytes(
    einsum: Einsum, box: Mapping[str, int], facts: Facts, fmt: Format, kept: Collection[str] = ()
) -> dict[str, float]:
    """Return the bytes of each tensor, but those in `kept`, that a box of an Einsum touches."""
    step = facts.steps[einsum.name]
    uses = {use.tensor: use for use in (*step.reads, step.write)}
    return {
        tensor: footprint((use,), box, facts, None) * facts.element_bytes(tensor, fmt)
        for tensor, use in uses.items()
        if tensor not in kept
    }


def _largest(
    counts: Sequence[int], fits: Callable[[Sequence[int]], bool]
) -> Iterator[tuple[int, ...]]:
    """Yield the picks that fit, but not if any of them is replaced by the next larger one."""
    fitting = {picks for picks in product(*(range(count) for count in counts)) if fits(picks)}
    for picks in sorted(fitting):
        larger = ((*picks[:n], picks[n] + 1, *picks[n + 1 :]) for n in range(len(picks)))
        if not any(each in fitting for each in larger):
            yield picks


def powers(first: int, last: int) -> Iterator[int]:
    """Yield `first`, doubled as often as it is at most `last`."""
    while first <= last:
        yield first
        first *= 2


def tiles(extent: int, axis: int) -> tuple[int, ...]:
    """Return the tiles worth trying: multiples of an axis of the array, up to the whole extent.

    Powers of two times the axis, all its multiples that divide the extent, and the extent.
    """
    found = {extent, *(tile for tile in powers(axis, extent))}
    found |= {
        axis * times for times in range(1, extent // axis + 1) if extent % (axis * times) == 0
    }
    return tuple(sorted(found))


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

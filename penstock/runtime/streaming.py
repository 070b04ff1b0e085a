"""Which of the equal forms of a cascade a kernel is made from: as few passes as there can be.

Excluded: what forms there are (`einsum_ir.rewrite`), the default mapping (`mapper`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.formats import Format, parse_format
from penstock.einsum_ir.interpreter.whole import whole_inputs
from penstock.einsum_ir.rewrite.places import placed
from penstock.einsum_ir.rewrite.plan import Refusal
from penstock.einsum_ir.rewrite.ranks import slow_ranks
from penstock.einsum_ir.rewrite.reduce import reduce_passes
from penstock.einsum_ir.rewrite.settle import settled
from penstock.einsum_ir.rewrite.views import inlined
from penstock.einsum_ir.shapes import Bound, bind
from penstock.errors import MappingError
from penstock.mapper.fusion import Flow
from penstock.mapper.nodes import Mapping as LoopForest
from penstock.mapper.search.build import build
from penstock.mapper.search.plan import Recipe
from penstock.runtime.halves import factors, unscaled
from penstock.runtime.tiles import Tiles
from penstock.targets.base import Target
from penstock.targets.cpu import adds_pairs

__all__ = ["blocked_mapping", "parted", "stored_in", "streamed", "tile_of", "tiled"]


def tile_of(extent: int, tiles: Tiles) -> int:
    """Return the size of a tile: the usual one, or a nearby multiple of 8 that divides the extent.

    Odd sizes cost more than a last tile that is not full (measured, docs/tvm.md).
    """
    divisors = [n for n in range(tiles.least, tiles.most + 1) if extent % n == 0 and n % 8 == 0]
    return min(divisors, key=lambda n: abs(n - tiles.usual), default=tiles.usual)


def streamed(
    cascade: Cascade,
    shapes: Mapping[str, int],
    constants: Mapping[str, float] | None = None,
    tiles: Tiles | None = None,
    *,
    always: bool = False,
) -> Bound:
    """Return the form with the fewest passes, if a rank with more than one is worth tiles.

    Args:
        cascade: any cascade.
        shapes: rank variable → extent.
        constants: upper-case name → value.
        tiles: sizes of tiles.
        always: also with one pass, over the longest rank that is reduced: its sums go over tiles.

    Raises:
        CascadeError: a shape is missing or no rank's.
    """
    sizes = tiles or Tiles()
    cascade = cascade.with_constants(**(constants or {}))
    bound = bind(cascade, shapes=shapes)
    if any(each.iterative for each in cascade.einsums):
        return settled(bound)
    ranks = slow_ranks(cascade)
    if always and not ranks:
        ranks = _longest(bound)
    for rank in ranks:
        extent = bound.extents[rank]
        if extent < 2 * sizes.usual:
            continue
        plan = reduce_passes(cascade, rank, size=tile_of(extent, sizes), always=always)
        if isinstance(plan, Refusal) or plan.after >= plan.before > 1:
            continue
        kept = {name: size for name, size in shapes.items() if name in _ranks(plan.cascade)}
        return inlined(settled(bind(plan.cascade, shapes=kept)))
    return bound


def parted(
    cascade: Cascade,
    shapes: Mapping[str, int],
    constants: Mapping[str, float] | None = None,
    tiles: Tiles | None = None,
    *,
    part: int,
) -> Bound:
    """Return the form with parts side by side, each streamed over, and a merge (split-K).

    Args:
        cascade: any cascade.
        shapes: rank variable → extent.
        constants: upper-case name → value.
        tiles: sizes of tiles.
        part: coordinates of a part.

    Raises:
        CascadeError: see `streamed`.
        MappingError: no rank has parts that can be merged.
    """
    cascade = cascade.with_constants(**(constants or {}))
    for rank in slow_ranks(cascade):
        plan = reduce_passes(cascade, rank, size=part)
        if not isinstance(plan, Refusal) and plan.tree is not None:
            return streamed(plan.tree, {**shapes, plan.split: part}, tiles=tiles)
    raise MappingError(
        f"{cascade.name} has no rank whose parts can be merged",
        fix="see `penstock rewrite`, which says why",
    )


def tiled(
    cascade: Cascade,
    shapes: Mapping[str, int],
    constants: Mapping[str, float] | None,
    machine: Target,
    tile: int,
    part: int,
) -> Bound:
    """Return a cascade, or its form that streams over tiles, of parts side by side if wanted.

    For a GPU, windows that are gathered are keys under a condition, which the rows of a tile share.

    Args:
        cascade: any cascade.
        shapes: rank variable → extent.
        constants: upper-case name → value.
        machine: that it is for.
        tile: coordinates of a tile; 0 for none.
        part: coordinates of a part; 0 for none.

    Raises:
        CascadeError, MappingError: see `streamed` and `parted`.
    """
    bound = bind(cascade.with_constants(**(constants or {})), shapes=shapes)
    if not tile:
        return bound
    if machine.family == "gpu" and (changed := placed(bound)) is not bound:
        cascade, shapes, constants = changed.cascade, {}, None
    tiles = Tiles(tile, tile, tile)
    if part:
        return parted(cascade, shapes, constants, tiles, part=part)
    return streamed(cascade, shapes, constants, tiles, always=True)


def _longest(bound: Bound) -> tuple[str, ...]:
    """Return the longest rank that is reduced."""
    reduced = [name for e in bound.cascade.einsums if e.reduce for name in e.reduce.over]
    return tuple(sorted(dict.fromkeys(reduced), key=lambda name: -bound.extents[name])[:1])


def blocked_mapping(bound: Bound, target: Target, fmt: Format, block: int) -> LoopForest:
    """Return the mapping of a form in which a core's block has `block` coordinates.

    Args:
        bound: the form.
        target: of the family ``cpu``.
        fmt: a float format.
        block: coordinates of the longest shared rank.
    """
    return build(bound, target, fmt, Flow(bound.cascade), Recipe(outer=block))[0]


def stored_in(bound: Bound, fmt: Format, target: Target | None = None) -> tuple[Bound, Format]:
    """Return a form for inputs and outputs of a format, and the format of all else.

    Those of 16 bits are read and written as they are; what is between is fp32, but for factors of
    products that the machine adds in pairs (`runtime/halves.py`).
    """
    if fmt.bits >= 32:
        return bound, fmt
    pairs = target is not None and adds_pairs(target, fmt.name)
    bound = unscaled(bound) if pairs else bound
    cascade = bound.cascade
    tensors = {each.tensor for each in (*cascade.inputs, *cascade.outputs)}
    tensors -= whole_inputs(cascade) | {each.name for each in cascade.einsums if each.selects}
    tensors |= factors(cascade) if pairs else frozenset()
    formats = {**dict.fromkeys(tensors, fmt.name), **dict(cascade.formats)}
    cascade = replace(cascade, formats=tuple(formats.items()))
    return replace(bound, cascade=cascade), parse_format("fp32")


def _ranks(cascade: Cascade) -> set[str]:
    declared = {rank for each in cascade.inputs for rank in each.ranks}
    return declared | {name for each in cascade.einsums for name in each.variables}

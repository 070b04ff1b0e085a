"""Equivalent cascades as part of the space: shapes for each, and tiles of open size.

A rewrite may cut a rank into tiles (``K[m1*M0 + m0]``) and leave the size of a tile, here that of
``m0``, to whoever maps the cascade. Excluded: which cascades are equivalent (`einsum_ir.rewrite`),
and choosing among them (`search.explore_variants`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.nodes import variables
from penstock.einsum_ir.passes import pass_table
from penstock.einsum_ir.rewrite.plan import PassPlan
from penstock.einsum_ir.rewrite.reduce import reduce_passes
from penstock.einsum_ir.shapes import Bound, bind
from penstock.errors import CascadeError, nearest
from penstock.targets.base import Target

__all__ = ["bind_variants", "derived", "open_tiles", "tile_sizes"]

USUAL_AXIS = 64
SMALLEST, LARGEST = 4, 8
"""Tiles are at least an axis, or of a shorter rank a SMALLEST-th, and at most an axis * LARGEST."""


def derived(cascade: Cascade, fmt: Format) -> tuple[Cascade, ...]:
    """Return the forms that need fewer passes over a rank: streaming, and as a tree of parts.

    Args:
        cascade: any.
        fmt: number format, in which the rewrite tries its forms; narrow floats, whose sums machines
            keep in more bits, are tried in fp32.

    Returns:
        For each rank that inputs are passed over more than once, the forms that the rewrite
        (`einsum_ir.rewrite`) offers; none where it refuses, or the cascade has tiles already.
    """
    if open_tiles(cascade, {}):
        return ()
    inputs = {each.tensor for each in cascade.inputs}
    tried = None if fmt.kind == "float" else fmt
    rows = [row for row in pass_table(cascade) if row.tensor in inputs and row.passes > 1]
    found: list[Cascade] = []
    known = {name for einsum in cascade.einsums for name in einsum.variables}
    for rank in dict.fromkeys(row.rank for row in rows if row.rank in known):
        plan = reduce_passes(cascade, rank, fmt=tried)
        if isinstance(plan, PassPlan):
            found += [each for each in (plan.cascade, plan.tree) if each is not None]
    return tuple(found)


def bind_variants(
    cascades: Sequence[Cascade],
    target: Target,
    *,
    shapes: Mapping[str, int] | None = None,
    constants: Mapping[str, float] | None = None,
) -> tuple[Bound, ...]:
    """Give every cascade its shapes; one with tiles of open size comes once for each size.

    Args:
        cascades: that compute the same; they have the same inputs.
        target: the machine; the tiles suit its arrays.
        shapes: rank variable → extent; each cascade takes those of its own ranks. A tile with an
            extent here has that one.
        constants: upper-case name → value; each cascade takes its own.

    Raises:
        CascadeError: inputs or outputs differ, or a shape is missing or of no cascade's rank.
    """
    given = dict(shapes or {})
    for each in cascades[1:]:
        _check_alike(cascades[0], each)
    cascades = [_with_constants(each, cascades, constants or {}) for each in cascades]
    known = {name for each in cascades for name in _ranks(each)}
    for name in given.keys() - known:
        near = nearest(name, known)
        raise CascadeError(
            f"shape {name}={given[name]} names no rank of {', '.join(c.name for c in cascades)}",
            fix=f"did you mean {near}?" if near else f"leave out {name}",
        )
    found: list[Bound] = []
    for each in cascades:
        mine = {name: given[name] for name in _ranks(each) if name in given}
        found += [bind(each, shapes={**mine, **sizes}) for sizes in _tilings(each, mine, target)]
    return tuple(found)


def _with_constants(
    cascade: Cascade, cascades: Sequence[Cascade], constants: Mapping[str, float]
) -> Cascade:
    mine = {name: value for name, value in constants.items() if _takes(cascade, name, value)}
    for name in constants.keys() - mine.keys():
        if not any(_takes(each, name, constants[name]) for each in cascades):
            cascade.check_constants({name: constants[name]})
    return cascade.with_constants(**mine) if mine else cascade


def _takes(cascade: Cascade, name: str, value: float) -> bool:
    try:
        cascade.check_constants({name: value})
    except CascadeError:
        return False
    return True


def _ranks(cascade: Cascade) -> tuple[str, ...]:
    ranks = [rank for each in cascade.inputs for rank in each.ranks]
    ranks += [name for einsum in cascade.einsums for name in einsum.variables]
    return tuple(dict.fromkeys(ranks))


def _check_alike(first: Cascade, other: Cascade) -> None:
    one, two = ({each.tensor: each.ranks for each in c.inputs} for c in (first, other))
    outputs = (sorted(each.ranks for each in c.outputs) for c in (first, other))
    if one == two and len({str(each) for each in outputs}) == 1:
        return
    inputs = (", ".join(str(each) for each in c.inputs) for c in (first, other))
    raise CascadeError(
        f"{other.name} is no variant of {first.name}: its inputs or outputs have other ranks "
        f"({' against '.join(reversed(list(inputs)))})",
        fix="give cascades that compute the same of the same inputs",
    )


def open_tiles(cascade: Cascade, shapes: Mapping[str, int]) -> dict[str, str]:
    """Return rank of a tile of open size → the input's rank that it cuts.

    It is open if the cascade has a size for it (``shape m0 = 64``), but `shapes` has none.
    """
    ranks = {each.tensor: each.ranks for each in cascade.inputs}
    taken = {name for each in (*cascade.inputs, *cascade.outputs) for name in each.ranks}
    found: dict[str, str] = {}
    for name in cascade.shape:
        if name in shapes or name in taken:
            continue
        for access in (access for einsum in cascade.einsums for access in einsum.operands):
            if access.tensor not in ranks:
                continue
            for rank, index in zip(ranks[access.tensor], access.indices, strict=True):
                if name in variables(index) and len(variables(index)) > 1:
                    found[name] = rank
    return found


def _tilings(
    cascade: Cascade, shapes: Mapping[str, int], target: Target
) -> Iterator[dict[str, int]]:
    """Yield the sizes of all open tiles; one empty choice without any."""
    whole = {**bind(cascade, shapes=shapes).extents, **shapes}
    opened = open_tiles(cascade, shapes)
    extents = [whole.get(rank, whole[name]) for name, rank in opened.items()]
    for sizes in product(*(tile_sizes(extent, target) for extent in extents)):
        yield dict(zip(opened, sizes, strict=True))


def tile_sizes(extent: int, target: Target) -> tuple[int, ...]:
    """Return the sizes of tiles of a rank that are worth trying, around the longest axis.

    Powers of two, divisors of the extent that are multiples of the axis, and the whole extent if
    it is not too large: beyond `LARGEST` axes what is done once for each tile no longer counts.
    """
    axis = USUAL_AXIS
    if target.family in ("spatial", "fpga"):
        axis = max(each.size for array in target.arrays for each in array.axes)
    least, most = min(axis, max(1, extent // SMALLEST)), min(extent, axis * LARGEST)
    found = {1 << power for power in range(most.bit_length())}
    found |= {size for size in range(axis, most + 1, axis) if extent % size == 0}
    return tuple(sorted(size for size in found | {most} if least <= size))

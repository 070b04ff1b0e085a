"""How finely the elements of a tensor have to be told apart to know who wrote which.

What Einsums write begins and ends at multiples of the tiles of the loops around them, so that
whole tiles have one writer. Excluded: what is read, which may begin anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

from penstock.einsum_ir.affine import affine
from penstock.einsum_ir.nodes import Access
from penstock.sim.plan import Leaf, Plan, Shared

__all__ = ["grains"]


def grains(plan: Plan) -> dict[str, tuple[int, ...]]:
    """Return, for each tensor and dimension, a length that divides where written blocks begin.

    0 stands for none but the beginning and the end of the dimension.
    """
    found = {name: [0] * len(dims) for name, dims in plan.bound.dims.items()}
    for leaf, tiles in _leaves(plan.body, {}):
        name = leaf.einsum.name
        mine, dims = found[name], plan.bound.dims[name]
        outputs = [(leaf.einsum.output, tiles)]
        if leaf.init is not None:  # its variables stand for those of the step
            names = leaf.init.names
            outputs.append((leaf.init.einsum.output, {n: tiles.get(names[n], 0) for n in names}))
        for output, along in outputs:
            for place, extent in enumerate(dims):
                mine[place] = gcd(mine[place], _grain(plan, output, place, extent, along))
        if leaf.stepped is not None:
            mine[leaf.stepped[1]] = 1
    return {
        name: tuple(
            grain or extent for grain, extent in zip(mine, plan.bound.dims[name], strict=True)
        )
        for name, mine in found.items()
    }


def _grain(plan: Plan, output: Access, place: int, extent: int, tiles: dict[str, int]) -> int:
    form = affine(output.indices[place], plan.bound.symbols)
    if form is None or len(form.coefficients) > 1:
        return 1
    if not form.coefficients:
        return gcd(form.constant, form.constant + 1)
    ((name, factor),) = form.coefficients
    if factor != 1:
        return 1
    stop = form.constant + plan.bound.extents[name]
    return gcd(tiles.get(name, 0), form.constant, 0 if stop == extent else stop)


def _leaves(
    body: Sequence[Shared | Leaf], tiles: dict[str, int]
) -> list[tuple[Leaf, dict[str, int]]]:
    found: list[tuple[Leaf, dict[str, int]]] = []
    for node in body:
        if isinstance(node, Shared):
            name = node.loop.variable
            inner = {**tiles, name: gcd(tiles.get(name, 0), node.loop.tile)}
            found += _leaves(node.body, inner)
        else:
            found.append((node, tiles))
    return found

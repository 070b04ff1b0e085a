"""Which loops of a design may be made shorter without changing anything but their length.

A *stretch* is a shape whose loops are long. Taking whole steps of them away, in the middle, leaves
a design that does the same as before in the steps that are left: no size, no distance between two
coordinates and no edge changes. `stretches` finds those for which this can be proved. Excluded:
what the shorter design does in time (`steady.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass

import numpy as np

from penstock.einsum_ir.affine import affine
from penstock.einsum_ir.nodes import Access, variables
from penstock.einsum_ir.regions.occupied import occupied
from penstock.einsum_ir.shapes import Bound, bind
from penstock.errors import CascadeError
from penstock.mapper.facts import facts_of
from penstock.sim.geometry import steps_of
from penstock.sim.plan import Hold, Leaf, Plan, Shared

__all__ = ["Chain", "Stretch", "chains", "shortened", "stretches"]

MAX_BOXES = 1 << 20
"""Tiles of a predicate that are looked at to prove that none is empty."""


@dataclass(frozen=True)
class Stretch:
    """A shape that can be made shorter.

    Args:
        rank: the shape's name.
        unit: coordinates of it that are taken away at a time.
        takes: variable → coordinates that go with a unit: whole steps of its outermost loops.
        spare: units that can go while each loop keeps one step.
    """

    rank: str
    unit: int
    takes: MappingABC[str, int]
    spare: int


def shortened(bound: Bound, units: MappingABC[Stretch, int]) -> Bound:
    """Return the cascade with shapes shorter by some units."""
    shapes = dict(bound.cascade.shape)
    for stretch, count in units.items():
        shapes[stretch.rank] -= stretch.unit * count
    return bind(bound.cascade, shapes=shapes)


def stretches(plan: Plan) -> tuple[Stretch, ...]:
    """Return the shapes whose loops can be made shorter."""
    bound = plan.bound
    tiles: dict[str, int] = {}
    for node, around in _loops(plan.body, ()):
        name = node.loop.variable
        if name not in around:
            tiles[name] = math.lcm(tiles.get(name, 1), node.loop.tile)
    fixed = {name for name in bound.extents if name not in tiles}
    fixed |= _outside(plan.holds, plan.body, frozenset())
    fixed |= _uneven(bound) | _guarded(plan)
    found = (_stretch(bound, rank, tiles, fixed) for rank in bound.cascade.shape)
    return tuple(each for each in found if each is not None)


@dataclass(frozen=True)
class Chain:
    """Loops that have nothing beside the next one in their bodies, by number, outermost first.

    ``inside`` are the numbers of the loops that the last one is around.
    """

    numbers: tuple[int, ...]
    variables: tuple[str, ...]
    tiles: tuple[int, ...]
    inside: frozenset[int]

    def steps(self, extents: MappingABC[str, int]) -> int:
        """Return the steps that all of them take together."""
        pairs = zip(self.variables, self.tiles, strict=True)
        return math.prod(-(-extents[name] // tile) for name, tile in pairs)

    def parts(self) -> tuple[Chain, ...]:
        """Return the loops one by one."""
        every = zip(self.numbers, self.variables, self.tiles, strict=True)
        return tuple(
            Chain((number,), (name,), (tile,), self.inside | set(self.numbers[place + 1 :]))
            for place, (number, name, tile) in enumerate(every)
        )


def chains(plan: Plan) -> tuple[Chain, ...]:
    """Return the loops that no other over their variable is around."""
    found: list[Chain] = []
    _chained(plan.body, found)
    return tuple(found)


def _chained(body: Sequence[Shared | Leaf], found: list[Chain]) -> frozenset[int]:
    """Add the chains of a body; return the numbers of all loops in it."""
    numbers: set[int] = set()
    for node in body:
        if not isinstance(node, Shared):
            continue
        links = [node]
        while node.number >= 0 and len(links[-1].body) == 1:
            inner = links[-1].body[0]
            if not isinstance(inner, Shared) or inner.number < 0:
                break
            links.append(inner)
        inside = _chained(links[-1].body, found)
        if node.number >= 0:
            mine = tuple(each.number for each in links)
            names = tuple(each.loop.variable for each in links)
            found.append(Chain(mine, names, tuple(each.loop.tile for each in links), inside))
            numbers.update(mine)
        numbers |= inside
    return frozenset(numbers)


def _stretch(
    bound: Bound, rank: str, tiles: MappingABC[str, int], fixed: set[str]
) -> Stretch | None:
    """Return the stretch of a shape, if all loops that depend on it can be made shorter."""
    unit = _unit(bound, rank, tiles)
    size = bound.cascade.shape[rank]
    if size <= unit:
        return None
    takes = _taken(bound, rank, unit)
    if not takes or set(takes) & fixed:
        return None
    if any(count <= 0 or count % tiles[name] for name, count in takes.items()):
        return None
    spare = min((bound.extents[name] - 1) // count for name, count in takes.items())
    spare = min(spare, (size - 1) // unit)
    if spare < 1 or _taken(bound, rank, unit * spare) != {n: c * spare for n, c in takes.items()}:
        return None
    return Stretch(rank, unit, _Frozen(takes), spare)


class _Frozen(dict[str, int]):
    """A dictionary that is not changed any more, and so has a hash."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))


def _unit(bound: Bound, rank: str, tiles: MappingABC[str, int]) -> int:
    """Return the fewest coordinates of a shape that may be whole steps of all its loops."""
    unit = tiles.get(rank, 1)
    for tensor in bound.cascade.inputs:
        for place, name in enumerate(tensor.ranks):
            if name != rank:
                continue
            mine = (each for each in _accesses(bound) if each.tensor == tensor.tensor)
            for access in mine:
                form = affine(access.indices[place], bound.symbols)
                for each, factor in form.coefficients if form is not None else ():
                    unit = math.lcm(unit, abs(factor) * tiles.get(each, 1))
    return unit


def _taken(bound: Bound, rank: str, count: int) -> dict[str, int]:
    """Return what variables lose when a shape loses some coordinates."""
    shapes = {**bound.cascade.shape, rank: bound.cascade.shape[rank] - count}
    try:
        other = bind(bound.cascade, shapes=shapes)
    except CascadeError:
        return {}
    used = dict.fromkeys(name for einsum in bound.cascade.einsums for name in einsum.variables)
    lost = {name: bound.extents[name] - other.extents[name] for name in used}
    return {name: size for name, size in lost.items() if size}


def _accesses(bound: Bound) -> Iterator[Access]:
    for einsum in bound.cascade.einsums:
        yield from (einsum.output, *einsum.operands)


def _loops(
    body: Sequence[Shared | Leaf], around: tuple[str, ...]
) -> Iterator[tuple[Shared, tuple[str, ...]]]:
    for node in body:
        if isinstance(node, Shared):
            yield node, around
            yield from _loops(node.body, (*around, node.loop.variable))


def _outside(
    holds: Sequence[Hold], body: Sequence[Shared | Leaf], around: frozenset[str]
) -> set[str]:
    """Return the variables of which something is used or moved as a whole."""
    moved = [hold for hold in holds if hold.role in ("fill", "drain")]
    found = {name for hold in moved for name in hold.reach.names} - around
    for node in body:
        if isinstance(node, Shared):
            found |= _outside(node.holds, node.body, around | {node.loop.variable})
            for leaf in node.inits:
                found |= _whole(leaf, around)
        else:
            found |= set(node.names) - around
            for read in node.reads:
                found |= set(read.reach.names) - around
            if node.enters:
                found |= _whole(node, around)
    return found


def _whole(leaf: Leaf, around: frozenset[str]) -> set[str]:
    """Return the variables of which an ``init`` takes all there is."""
    if leaf.init is None:
        return set()
    names = leaf.init.names
    every = {*leaf.init.einsum.variables, *variables(leaf.init.einsum.output)}
    return {names.get(name, name) for name in every} - around | (every - set(names))


def _uneven(bound: Bound) -> set[str]:
    """Return the variables of indices that are not affine or leave their dimension."""
    found: set[str] = set()
    for access in _accesses(bound):
        for index, extent in zip(access.indices, bound.dims[access.tensor], strict=True):
            form = affine(index, bound.symbols)
            if form is None:
                found |= set(variables(index))
            elif form.minimum(bound.extents) < 0 or form.maximum(bound.extents) >= extent:
                found |= {name for name, _ in form.coefficients}
    return found


def _guarded(plan: Plan) -> set[str]:
    """Return the variables of predicates that make a tile empty, or may."""
    found: set[str] = set()
    chains: dict[str, dict[str, tuple[int, ...]]] = {}
    _chains(plan.body, {}, chains)
    bound = plan.bound
    for name, step in facts_of(bound).steps.items():
        if step.guard is None:
            continue
        spans = [steps_of(bound.extents[each], chains[name].get(each, ())) for each in step.guarded]
        if math.prod(len(each) for each in spans) > MAX_BOXES:
            found |= set(step.guarded)
            continue
        ends = [np.array(each, dtype=np.int64).T for each in spans]
        grid = [np.meshgrid(*(each[side] for each in ends), indexing="ij") for side in (0, 1)]
        low = dict(zip(step.guarded, grid[0], strict=True))
        high = {each: stop - 1 for each, stop in zip(step.guarded, grid[1], strict=True)}
        if not occupied(step.guard, low, high, bound.symbols).all():
            found |= set(step.guarded)
    return found


def _chains(
    body: Sequence[Shared | Leaf],
    around: MappingABC[str, tuple[int, ...]],
    found: dict[str, dict[str, tuple[int, ...]]],
) -> None:
    for node in body:
        if isinstance(node, Shared):
            name = node.loop.variable
            inner = {**around, name: (*around.get(name, ()), node.loop.tile)}
            _chains(node.body, inner, found)
        else:
            found[node.einsum.name] = dict(around)

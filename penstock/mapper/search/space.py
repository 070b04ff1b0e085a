"""The mappings that the search chooses from.

A `Skeleton` fixes the shared loops: tiles of the longest shared variable, on one or two levels,
pipelined or not, or nothing shared; or those of `further.py`. In it each Einsum may run on each
array that has its operators, with any of its variables along each axis, and each tensor may live,
at its home, in each memory that its readers reach, or in the outermost one. A point is a skeleton
with one choice for everything. Stages of a pipelined loop follow from the arrays: a consumer on
another array than its producer works one stage later. Excluded: costs (`costs.py`), choosing
(`explore.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.einsum_ir.affine import affine
from penstock.einsum_ir.formats import Format, parse_format
from penstock.einsum_ir.nodes import Access
from penstock.einsum_ir.shapes import Bound
from penstock.mapper import nodes
from penstock.mapper.facts import facts_of
from penstock.mapper.fusion import Flow, Step, steps_of
from penstock.mapper.leaf import arrays_for, leaf_loops, ranked_assignments
from penstock.mapper.model.tiles import Pace, sizes
from penstock.mapper.nodes import Compute, Keep, Loop, Nest, Node
from penstock.mapper.search.blocks import blockings, powers, tiles
from penstock.mapper.search.build import home_memories, popularity
from penstock.mapper.search.forest import filled
from penstock.mapper.search.further import Streams
from penstock.mapper.search.plan import WARP, Planner, Recipe
from penstock.mapper.search.residency import Home, Where, homes, keep_in
from penstock.targets.base import Target

__all__ = [
    "Option",
    "Place",
    "Resident",
    "Site",
    "Skeleton",
    "Space",
    "arrays_of",
    "in_time",
    "mapping_at",
    "skeletons",
    "stages_of",
]

CPU_TILES = (1, 4, 16, 64, 256)
PARTS = 8
"""`Recipe.least` for blocks that each work on a part of a reduction."""


@dataclass(frozen=True, slots=True)
class Option:
    """One way to compute an Einsum: an array, and the loops of the leaf."""

    array: str
    loops: tuple[Loop, ...]


@dataclass(frozen=True)
class Site:
    """One leaf of a skeleton.

    Args:
        einsum: its name.
        nests: the loops around it, outermost first.
        options: how it may be computed, the preferred ones first.
        pipeline: number of the pipelined loop around it, -1 without one.
        waits: (site, lag) pairs: of which sites in that loop it reads what they computed so many
            iterations of the loop ago; 0 = in this one.
        older: the same where the element was made in an earlier step of a loop around that one.
        direct: whether it stands directly in that loop.
    """

    einsum: str
    nests: tuple[Nest, ...]
    options: tuple[Option, ...]
    pipeline: int
    waits: tuple[tuple[int, int], ...]
    older: tuple[tuple[int, int], ...]
    direct: bool


@dataclass(frozen=True, slots=True)
class Place:
    """A memory in which a tensor may live, and from which body inward; None = everywhere.

    ``around`` is a cache further out in which it stays as well, None without one.
    """

    memory: str
    home: Home | None
    around: Place | None = None

    @property
    def all(self) -> tuple[Place, ...]:
        """Itself and the one around it."""
        return (self,) if self.around is None else (self, self.around)


@dataclass(frozen=True)
class Resident:
    """A tensor that may be kept; its places, the preferred first, the outermost memory last."""

    tensor: str
    places: tuple[Place, ...]

    @property
    def memories(self) -> tuple[str, ...]:
        """The memories of the places, each once."""
        return tuple(dict.fromkeys(place.memory for place in self.places))


@dataclass(frozen=True)
class Skeleton:
    """Shared loops, and what is still to be chosen inside them."""

    recipe: Recipe
    body: tuple[Node, ...]
    sites: tuple[Site, ...]
    residents: tuple[Resident, ...]

    @property
    def recurrent(self) -> bool:
        """Whether iterations of a pipelined loop wait for each other."""
        return any(lag for site in self.sites for _, lag in site.waits)

    @property
    def size(self) -> int:
        """The number of points."""
        ways = math.prod(len(site.options) for site in self.sites)
        return ways * math.prod(len(each.places) for each in self.residents)


Known = dict[tuple[str, tuple[str, ...], tuple[str, ...], tuple[int, ...]], tuple[Option, ...]]
"""(Einsum, arrays, axes taken, coordinates left) → options."""


def skeletons(bound: Bound, target: Target, fmt: Format | None = None) -> Iterator[Skeleton]:
    """Yield every different skeleton of the space, in a fixed order; arguments as for `Space`."""
    space = Space(bound, target, fmt)
    yield from space.usual()
    yield from space.further()


class Space:
    """The skeletons of one cascade on one machine.

    Args:
        bound: the cascade with its extents.
        target: the machine.
        fmt: number format of all tensors, which says what fits a buffer; None = the machine's.
    """

    def __init__(self, bound: Bound, target: Target, fmt: Format | None = None) -> None:
        self.bound, self.target = bound, target
        self.fmt = fmt or parse_format(target.format)
        self.flow, self.steps = Flow(bound.cascade), steps_of(bound.cascade)
        self.planners = [
            Planner(bound, target, self.flow, Recipe(fewer=number))
            for number in range(len(self.flow.shared(self.steps, bound.extents)))
        ]
        self.order = popularity(self.flow)
        self.seen: set[tuple[Node, ...]] = set()
        self.known: Known = {}

    def usual(self) -> Iterator[Skeleton]:
        """Yield the skeletons in which nothing waits but what an Einsum has completed.

        Raises:
            MappingError: an Einsum has an operator that no array of the machine has.
        """
        recipes = [recipe for planner in self.planners for recipe in _recipes(planner)]
        recipes += _blocks(self.planners[0], self.steps, self.fmt)
        for recipe in recipes:
            planner = Planner(self.bound, self.target, self.flow, recipe)
            yield from self._new(recipe, planner.grow(self.steps))

    def further(self) -> Iterator[Skeleton]:
        """Yield those that move fewer bytes and overlap nothing; after `usual`, without these."""
        for planner in self.planners:
            for recipe, body in Streams(planner, self.steps, self.fmt).forests():
                yield from self._new(recipe, body)

    def _new(self, recipe: Recipe, body: tuple[Node, ...]) -> Iterator[Skeleton]:
        if body not in self.seen:
            self.seen.add(body)
            inside = _inside(body, self.bound, self.target, self.flow, self.order, self.known)
            yield Skeleton(recipe, body, *inside)


def _recipes(planner: Planner) -> Iterator[Recipe]:
    """Yield the parameters of all skeletons that share the planner's variables."""
    for recipe in _tilings(planner):
        yield replace(recipe, fewer=planner.recipe.fewer)


def _tilings(planner: Planner) -> Iterator[Recipe]:
    runs = [
        (planner.bound.extents[planner.longest(names)], planner.axis_size(steps))
        for names, steps in planner.runs(steps_of(planner.bound.cascade))
        if names
    ]
    longest = max((extent for extent, _ in runs), default=1)
    axis = max((size for _, size in runs), default=1)
    yield Recipe(fuse=False)
    match planner.target.family:
        case "gpu":
            for tile in powers(WARP, max(axis, WARP)):
                yield Recipe(outer=tile)
            yield from _together(planner, axis)
        case "cpu":
            for tile in (*(tile for tile in CPU_TILES if tile < longest), longest):
                yield Recipe(outer=tile)
        case "spatial" | "fpga":
            yield from _overlapping(longest, axis, len(planner.target.arrays) > 1)


def _together(planner: Planner, axis: int) -> Iterator[Recipe]:
    """Yield tiles of one shared variable for blocks whose threads work on each Einsum together."""
    overlaps = (False, True)[: len(planner.target.arrays)]
    for least in (2, PARTS):
        runs = replace(planner, recipe=replace(planner.recipe, least=least)).runs(
            steps_of(planner.bound.cascade)
        )
        for name in dict.fromkeys(name for shared, _ in runs for name in shared):
            extent = planner.bound.extents[name]
            for tile in powers(1, min(2 * axis, 1 << (extent - 1).bit_length())):
                for overlap in overlaps:
                    yield Recipe(outer=tile, together=True, overlap=overlap, cut=name, least=least)


def _blocks(planner: Planner, steps: Sequence[Step], fmt: Format) -> Iterator[Recipe]:
    """Yield the loops over blocks if there is only one Einsum; with more they share loops."""
    if len(steps) > 1 or steps[0].variable or planner.target.family not in ("spatial", "fpga"):
        return
    axis, (einsum,) = planner.axis_size(steps), steps[0].einsums
    buffer = planner.target.buffer
    if buffer is None or einsum.iterative is not None:
        return
    facts = facts_of(planner.bound)
    extents = planner.bound.extents
    for loops in blockings(einsum, extents, facts, fmt, room=buffer.total_bytes, axis=axis):
        if loops:
            yield Recipe(blocks=loops)


def _overlapping(longest: int, axis: int, several: bool) -> Iterator[Recipe]:
    """Yield tiles without overlap and, if there are several arrays to keep busy, with it."""
    if several:
        yield Recipe(fuse=False, overlap=True)
    for outer in tiles(longest, axis):
        for pipelined in (False, True)[: 1 + several]:
            yield Recipe(outer=outer, pipelined=pipelined)
            if axis < outer:
                yield Recipe(outer=outer, inner=axis, pipelined=pipelined)
        if several:
            yield Recipe(outer=outer, overlap=True)


def _inside(
    body: tuple[Node, ...],
    bound: Bound,
    target: Target,
    flow: Flow,
    order: tuple[str, ...],
    known: Known,
) -> tuple[tuple[Site, ...], tuple[Resident, ...]]:
    """Return the leaves of a skeleton, and the tensors that may be kept in it."""
    found = list(nodes.leaves(body))
    pipelined = [next((nest for nest in nests if nest.pipelined), None) for nests, _ in found]
    loops = list(dict.fromkeys(id(nest) for nest in pipelined if nest is not None))
    sites: list[Site] = []
    for (nests, leaf), loop in zip(found, pipelined, strict=True):
        options = _options(leaf.einsum, nests, bound, target, flow, order, known)
        if loop is None:
            sites.append(Site(leaf.einsum, nests, options, -1, (), (), False))
            continue
        mates = {
            other.einsum: place
            for place, ((_, other), its) in enumerate(zip(found, pipelined, strict=True))
            if its is loop and other.einsum != leaf.einsum
        }
        waits: dict[tuple[int, int], None] = {}
        older: dict[tuple[int, int], None] = {}
        for access in flow.makers[leaf.einsum].operands:
            if access.tensor in mates:
                place, lag = mates[access.tensor], _lag(access, nests, bound)
                stepped = bound.cascade.iterative.get(access.tensor, ("", 0))[0]
                if lag == 0 or stepped == loop.loop.variable:
                    waits[place, lag] = None
                else:
                    older[place, lag * _iterations(nests, loop, stepped, bound)] = None
        sites.append(
            Site(
                leaf.einsum,
                nests,
                options,
                loops.index(id(loop)),
                tuple(waits),
                tuple(older),
                nests[-1] is loop,
            )
        )
    return tuple(sites), _residents(body, bound, target, flow)


def _lag(access: Access, nests: Sequence[Nest], bound: Bound) -> int:
    """Return how many steps of an iterative rank ago the element read was written."""
    if access.tensor not in bound.cascade.iterative:
        return 0
    variable, place = bound.cascade.iterative[access.tensor]
    form = affine(access.indices[place], bound.symbols)
    inside = any(nest.loop.variable == variable for nest in nests)
    if form is None or form.coefficients != ((variable, 1),) or not inside:
        return 0
    return 1 - form.constant


def _iterations(nests: Sequence[Nest], loop: Nest, stepped: str, bound: Bound) -> int:
    """Return how often a pipelined loop comes round in one step of a loop around it, at least."""
    depth = next(place for place, nest in enumerate(nests) if nest.loop.variable == stepped)
    total = 1
    for place, nest in enumerate(nests):
        if place > depth and place <= nests.index(loop):
            name, tile = nest.loop.variable, nest.loop.tile
            chain = tuple(Pace(n.loop.variable, n.loop.tile) for n in nests[:place])
            left = sizes(bound.extents[name], tuple(p for p in chain if p.variable == name))
            total *= min(-(-size // tile) for size in left)
    return total


def _options(
    name: str,
    nests: Sequence[Nest],
    bound: Bound,
    target: Target,
    flow: Flow,
    order: tuple[str, ...],
    known: Known,
) -> tuple[Option, ...]:
    """Return every way to compute an Einsum inside these nests; the same object for the same."""
    einsum = flow.makers[name]
    left = dict(bound.extents)
    taken: list[str] = []
    for nest in nests:
        left[nest.loop.variable] = min(left[nest.loop.variable], nest.loop.tile)
        if nest.loop.spatial:
            taken.append(nest.loop.axis)
    able = tuple(
        array
        for array in arrays_for(einsum, bound, target)
        if set(taken) <= {axis.name for axis in array.axes}
    )
    arrays = tuple(array.name for array in able)
    key = (name, arrays, tuple(taken), tuple(left[each] for each in einsum.variables))
    if key not in known:
        found: dict[Option, None] = {}
        for array in able:
            for each in ranked_assignments(einsum, array, left, taken, order):
                found[Option(array.name, leaf_loops(einsum, array, left, each, taken))] = None
                if target.family == "fpga" and einsum.reduce is not None:
                    turns = leaf_loops(einsum, array, left, each, taken, in_turn=True)
                    found[Option(array.name, turns)] = None
        known[key] = tuple(found)
    return known[key]


def _residents(
    body: tuple[Node, ...], bound: Bound, target: Target, flow: Flow
) -> tuple[Resident, ...]:
    """Return what may be kept: intermediates and states, and inputs where the family wants it."""
    found = homes(body, bound, flow)
    outputs = {each.tensor for each in bound.cascade.outputs}
    wanted = [name for name in found if name in flow.makers and name not in outputs]
    wanted += [name for name in outputs if _partial(found[name])]
    wanted += [name for name in found if name not in flow.makers]
    made = []
    for name in wanted:
        places = [
            Place(memory.name, home)
            for home in (_partial(found[name]) if name in outputs else found[name])
            for memory in home_memories(home, target, flow)
            if name not in outputs or not memory.array
        ]
        if name not in flow.makers:
            places = _cached(places, target)
        made.append(Resident(name, (*places, Place(target.dram.name, None))))
    return tuple(each for each in made if len(each.places) > 1)


def _cached(places: list[Place], target: Target) -> list[Place]:
    """Add to the places of an input those in which it also stays in a cache around them."""
    caches = [each for each in places if target.memory(each.memory).cache]
    found: list[Place] = []
    for place in places:
        assert place.home is not None
        for cache in caches:
            assert cache.home is not None
            outside = len(cache.home.body) < len(place.home.body)
            if outside and not target.memory(place.memory).cache:
                found.append(replace(place, around=cache))
        found.append(place)
    return found


def _partial(found: Sequence[Home]) -> tuple[Home, ...]:
    """Return the homes of an output in which partial sums wait for more."""
    return tuple(home for home in found if any(home.body != use.body for use in home.uses))


def stages_of(sites: Sequence[Site], arrays: Sequence[NDArray[Any]]) -> list[NDArray[np.int64]]:
    """Return the stage of each site, from the arrays on which they run.

    A consumer works one stage after its producer if that is on another array, and at most as
    many stages before it as the element is steps old. Where this cannot be met, everything works
    in stage 0.

    Args:
        sites: of a skeleton.
        arrays: for each site, numbers of arrays in one or more combinations; they broadcast.
    """
    stages: list[NDArray[np.int64]] = [np.zeros_like(each, dtype=np.int64) for each in arrays]
    later: NDArray[np.bool_] = np.zeros(1, dtype=bool)
    for _ in range(len(sites) + 1):
        later = np.zeros(1, dtype=bool)
        for number, site in enumerate(sites):
            for maker, lag in site.waits:
                apart = (arrays[maker] != arrays[number]).astype(np.int64)
                least = stages[maker] - lag if lag else stages[maker] + apart
                later = later | (least > stages[number])
                stages[number] = np.maximum(stages[number], least)
        if not later.any():
            return stages
    return [np.where(later, 0, each) for each in stages]


def in_time(
    sites: Sequence[Site], arrays: Sequence[NDArray[Any]], stages: Sequence[NDArray[np.int64]]
) -> NDArray[np.bool_]:
    """Return where what an earlier step of an outer loop computes is there when it is read.

    With few iterations to a step, a producer in a high stage may come too late for a consumer in
    a low one; such combinations are no points of the space. Arguments as for `stages_of`.
    """
    met: NDArray[np.bool_] = np.ones(1, dtype=bool)
    for number, site in enumerate(sites):
        for maker, iterations in site.older:
            apart = (arrays[maker] != arrays[number]).astype(np.int64)
            met = met & (stages[number] + iterations - stages[maker] >= apart)
    return met


def arrays_of(skeleton: Skeleton, picks: Sequence[int], target: Target) -> list[NDArray[np.int64]]:
    """Return the number of the array of each site's option, for `stages_of`."""
    names = [array.name for array in target.arrays]
    return [
        np.array([names.index(site.options[pick].array)])
        for site, pick in zip(skeleton.sites, picks, strict=True)
    ]


def mapping_at(
    skeleton: Skeleton,
    picks: Sequence[int],
    kept: Mapping[str, tuple[Place, int]],
    bound: Bound,
    target: Target,
) -> nodes.Mapping:
    """Return the mapping of a point.

    Args:
        skeleton: the shared loops.
        picks: the number of each site's option.
        kept: tensor → (place, buffers); a tensor that is missing lives in the outermost memory.
        bound: the cascade with its extents.
        target: the machine.
    """
    options = [site.options[pick] for site, pick in zip(skeleton.sites, picks, strict=True)]
    stages = [
        int(each[0]) for each in stages_of(skeleton.sites, arrays_of(skeleton, picks, target))
    ]
    leaves = {
        site.einsum: Compute(site.einsum, option.array, option.loops, stage)
        for site, option, stage in zip(skeleton.sites, options, stages, strict=True)
    }
    grouped: dict[tuple[Where, str, int], tuple[str, ...]] = {}
    for each in skeleton.residents:
        chosen, buffers = kept.get(each.tensor, (each.places[-1], 1))
        for place in chosen.all:
            if place.home is not None:
                key = (place.home.body, place.memory, buffers if place is chosen else 1)
                grouped[key] = (*grouped.get(key, ()), each.tensor)
    keeps: dict[Where, tuple[Keep, ...]] = {}
    for (where, memory, buffers), tensors in grouped.items():
        keeps[where] = (*keeps.get(where, ()), Keep(tensors, memory, buffers))
    body = keep_in(filled(skeleton.body, leaves), keeps)
    return nodes.Mapping("explored", bound.cascade.name, target.name, body)

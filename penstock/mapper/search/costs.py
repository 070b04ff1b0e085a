"""What each choice in a skeleton costs by itself, counted with the model's own functions.

The cost of a mapping is a sum over its leaves and tensors once shared loops are fixed: a leaf's
cycles and operations depend on its own option, its traffic with a tensor on its option and on the
memory of that tensor, copies of inputs on that memory alone. Excluded: combining (`combine.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.shapes import Bound
from penstock.mapper.facts import Facts, facts_of
from penstock.mapper.leaf import layout_of, threads_own
from penstock.mapper.model.counting import LeafCount, Traffic, count_leaf, count_traffic
from penstock.mapper.model.loads import Least, Loads
from penstock.mapper.model.occupancy import box_at, bytes_held
from penstock.mapper.model.tiles import Pace
from penstock.mapper.model.visits import Visits, visits_of
from penstock.mapper.nodes import Compute, Keep
from penstock.mapper.resources import LIMITED, parts_of
from penstock.mapper.scopes import Leaf, Scope, Tree, paces_of
from penstock.mapper.search.space import Option, Place, Resident, Site, Skeleton
from penstock.targets.base import Target

__all__ = ["Costs", "Moves", "SiteCosts", "Tabulator"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Moves:
    """Traffic of one tensor: bytes at each memory, and picojoules; one entry for each option."""

    at: Mapping[str, Floats]
    energy_pj: Floats


@dataclass(frozen=True)
class SiteCosts:
    """What a site costs, one entry for each of the options that are worth trying.

    Args:
        site: itself.
        picks: the numbers of those options in the site's list.
        arrays: the number of each option's array in the target.
        cycles: that the array is taken; ``init_cycles`` more before its loop, ``late_cycles``
            after its visits until what they made is there.
        energy_pj: of the operations.
        moves: (tensor, memory) → traffic if the tensor lives there.
        layouts: tensor → a number for each way to lay it along threads.
        shares: (tensor, memory) → bytes in one place, for memories that the option's array owns.
        parts: LUT, FF and DSP of the operators; a row for each option.
    """

    site: Site
    picks: tuple[int, ...]
    arrays: NDArray[np.int64]
    cycles: Floats
    init_cycles: Floats
    late_cycles: Floats
    energy_pj: Floats
    moves: Mapping[tuple[str, str], Moves]
    shares: Mapping[tuple[str, str], Floats]
    parts: Floats
    layouts: Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Costs:
    """What everything in a skeleton costs.

    Args:
        skeleton: itself.
        sites: by site.
        copies: (input or output, place) → traffic of copying it in or out (one entry).
        sizes: (tensor, place) → bytes of one copy, in memories that no array's places own; caches
            around a place by themselves.
        rest_bytes: what the outermost memory holds in any case.
        whole_bytes: tensor → bytes of all of it.
    """

    skeleton: Skeleton
    sites: tuple[SiteCosts, ...]
    copies: Mapping[tuple[str, Place], Moves]
    sizes: Mapping[tuple[str, Place], float]
    rest_bytes: float
    whole_bytes: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Ways:
    """What the options of a site do, memories aside; one entry for each option.

    Args:
        options: themselves.
        tensors: that the Einsum reads or writes.
        arrays: the number of each option's array in the target.
        cycles: that the array is taken; ``init_cycles`` more before its loop, ``late_cycles``
            after its visits until what they made is there.
        energy_pj: of the operations.
        parts: LUT, FF and DSP of the operators, zeros where no part limits them.
        layouts: tensor → a number for each way to lay it along threads.
    """

    options: tuple[Option, ...]
    tensors: tuple[str, ...]
    arrays: NDArray[np.int64]
    cycles: Floats
    init_cycles: Floats
    late_cycles: Floats
    energy_pj: Floats
    parts: Floats
    layouts: Mapping[str, NDArray[np.int64]]

    @cached_property
    def least(self) -> Least:
        """The least that any option takes."""
        cycles = {
            int(array): float(self.cycles[self.arrays == array].min())
            for array in np.unique(self.arrays)
        }
        return Least(cycles, float(self.init_cycles.min()))


class Tabulator:
    """Counts the skeletons of one problem; remembers what many of them share."""

    def __init__(self, bound: Bound, target: Target, fmt: Format, objective: str) -> None:
        self.target, self.fmt, self.objective = target, fmt, objective
        self.facts: Facts = facts_of(bound)
        self.owners = {memory.name: memory.array for memory in target.memories}
        self.narrow = [m.name for m in target.memories if math.isfinite(m.bytes_per_cycle)]
        self.threaded = {m.array for m in target.memories if threads_own(m, target)}
        self.layouts: dict[frozenset[tuple[str, int]], int] = {}
        self._counts: dict[tuple[Any, ...], LeafCount] = {}
        self._traffic: dict[tuple[Any, ...], tuple[Traffic, ...]] = {}
        self._shares: dict[tuple[Any, ...], float] = {}
        self._sites: dict[int, tuple[Site, Ways]] = {}
        self._ways: dict[tuple[Any, ...], Ways] = {}
        self._loads: dict[tuple[Any, ...], Loads] = {}
        self.counted: dict[tuple[Any, ...], SiteCosts] = {}
        self.names = {name: step.einsum.variables for name, step in self.facts.steps.items()}

    def costs(self, skeleton: Skeleton, most: float = math.inf) -> Costs:
        """Count a skeleton, options aside that belong to no schedule of at most so many cycles."""
        limits = self.slack(skeleton, most)
        tight = self.tight(skeleton)
        sites = tuple(
            _Counter(self, site, skeleton.residents, limit, tight=tight).counted()
            for site, limit in zip(skeleton.sites, limits, strict=True)
        )
        leaves = [self.leaf(site, site.options[0], {}) for site in skeleton.sites]
        copies: dict[tuple[str, Place], Moves] = {}
        sizes: dict[tuple[str, Place], float] = {}
        for each in skeleton.residents:
            users = [leaf for leaf in leaves if each.tensor in _touched(leaf)]
            for place in each.places[:-1]:
                scope = _scope(each.tensor, place, users)
                scopes = [scope]
                if not self.owners[place.memory]:
                    sizes[each.tensor, place] = self.held(scope)
                if place.around is not None:
                    scope.outer = _scope(each.tensor, place.around, users)
                    sizes[each.tensor, place.around] = self.held(scope.outer)
                    scopes = [scope.outer, scope]
                if each.tensor in self.facts.inputs | self.facts.outputs:
                    rows = count_traffic(Tree([], scopes, []), (), self.facts, self.target)
                    copies[each.tensor, place] = self.moves([rows], each.tensor, writes=True)
        whole = {
            name: math.prod(dims) * self.facts.element_bytes(name, self.fmt)
            for name, dims in self.facts.dims.items()
        }
        movable = {each.tensor for each in skeleton.residents}
        movable -= self.facts.inputs | self.facts.outputs
        at_rest = sum(size for name, size in whole.items() if name not in movable)
        return Costs(skeleton, sites, copies, sizes, at_rest, whole)

    def held(self, scope: Scope) -> float:
        """Return the bytes that a scope takes."""
        return bytes_held(scope, self.facts, self.target, self.fmt)

    def leaf(self, site: Site, option: Option, homes: Mapping[str, Place]) -> Leaf:
        """Build the model's view of a leaf, with some tensors kept in some memories."""
        array = self.target.array(option.array)
        loops = [*(nest.loop for nest in site.nests), *option.loops]
        paces, depth = paces_of(loops, array, self.facts.extents), len(site.nests)
        kept: dict[str, Scope] = {}
        leaf = Leaf(
            Compute(site.einsum, option.array, option.loops),
            self.facts.steps[site.einsum],
            array,
            site.nests,
            kept,
            paces[:depth],
            paces[depth:],
        )
        kept |= {name: _scope(name, place, [leaf]) for name, place in homes.items()}
        return leaf

    def ways(self, site: Site) -> Ways:
        """Return what a site's options do; the same object for sites whose options do the same."""
        if id(site) not in self._sites:
            paces = paces_of([nest.loop for nest in site.nests], None, self.facts.extents)
            spatial = any(nest.loop.spatial for nest in site.nests)
            cut = site.nests if spatial else _cut(paces, self.names[site.einsum])
            key = (site.einsum, cut, id(site.options))
            if key not in self._ways:
                self._ways[key] = self._counted_ways(site)
            self._sites[id(site)] = (site, self._ways[key])
        return self._sites[id(site)][1]

    def _counted_ways(self, site: Site) -> Ways:
        leaves = [self.leaf(site, option, {}) for option in site.options]
        counts = [self.count(leaf) for leaf in leaves]
        numbers = {array.name: number for number, array in enumerate(self.target.arrays)}
        energy = [
            self._operations_pj(leaf, count) for leaf, count in zip(leaves, counts, strict=True)
        ]
        return Ways(
            site.options,
            tuple(sorted(_touched(leaves[0]))),
            np.array([numbers[each.array] for each in counts]),
            np.array([each.cycles for each in counts], dtype=np.float64),
            np.array([each.init_cycles for each in counts], dtype=np.float64),
            np.array([each.late_cycles for each in counts], dtype=np.float64),
            np.array(energy, dtype=np.float64),
            np.array([self._parts(leaf) for leaf in leaves]),
            {tensor: self._layouts(leaves, tensor) for tensor in sorted(_touched(leaves[0]))},
        )

    def _layouts(self, leaves: Sequence[Leaf], tensor: str) -> NDArray[np.int64]:
        """Number the ways in which leaves lay a tensor along threads."""
        ways = [
            layout_of(leaf.compute.loops, leaf.step, tensor, leaf.array)
            if leaf.array.name in self.threaded
            else frozenset()
            for leaf in leaves
        ]
        return np.array([self.layouts.setdefault(way, len(self.layouts)) for way in ways])

    def _parts(self, leaf: Leaf) -> tuple[float, ...]:
        if not self.target.resources:
            return tuple(0.0 for _ in LIMITED)
        return parts_of(leaf, self.facts.extents, self.fmt)

    def tight(self, skeleton: Skeleton) -> bool:
        """Whether some choice of options has more operators than the part."""
        has = dict(self.target.resources)
        most = np.zeros(len(LIMITED))
        for site in skeleton.sites if has else ():
            most += self.ways(site).parts.max(axis=0)
        return any(most[n] > has.get(name, math.inf) for n, name in enumerate(LIMITED))

    def alike(self, leaf: Leaf) -> tuple[Any, ...]:
        """Return what decides how often a leaf computes and moves what, homes aside."""
        axes = tuple(loop.axis for loop in leaf.compute.loops)
        return leaf.name, leaf.array.name, _cut(leaf.paces, self.names[leaf.name]), leaf.inner, axes

    def _visits(self, leaf: Leaf, alike: tuple[Any, ...]) -> Visits:
        _, _, cut, *_ = alike
        return visits_of(leaf.step, cut, self.facts)

    def count(self, leaf: Leaf) -> LeafCount:
        """Return what a leaf does."""
        key = self.alike(leaf)
        if key not in self._counts:
            self._counts[key] = count_leaf(
                leaf, self._visits(leaf, key), self.facts, self.target, self.fmt
            )
        return self._counts[key]

    def traffic(self, site: Site, pick: int, homes: Mapping[str, Place]) -> tuple[Traffic, ...]:
        """Return what an option moves with some tensors kept in some memories."""
        leaf = self.leaf(site, site.options[pick], homes)
        alike = self.alike(leaf)
        key = (alike, tuple((name, place.memory) for name, place in homes.items()))
        if key not in self._traffic:
            visits = self._visits(leaf, alike)
            self._traffic[key] = count_traffic(
                Tree([leaf], [], []), (visits,), self.facts, self.target
            )
        return self._traffic[key]

    def share(self, site: Site, pick: int, tensor: str, place: Place) -> float:
        """Return the bytes of a tensor in one place of the memory of an option's own array."""
        assert place.home is not None
        nests = place.home.nests
        box = box_at(nests, self.facts)
        key = (
            site.einsum,
            id(site.options),
            pick,
            tensor,
            place.memory,
            tuple(box[name] for name in self.names[site.einsum]),
            tuple(nest.loop for nest in site.nests[len(nests) :]),
            self.facts.iterative.get(tensor, ("", 0))[0] in {n.loop.variable for n in nests},
            tuple(nest.loop for nest in nests if any(n.loop.spatial for n in nests)),
        )
        if key not in self._shares:
            leaf = self.leaf(site, site.options[pick], {})
            self._shares[key] = self.held(_scope(tensor, place, [leaf]))
        return self._shares[key]

    def _operations_pj(self, leaf: Leaf, count: LeafCount) -> float:
        """Return the energy of a leaf's operations."""
        costs = dict(leaf.array.energy_pj)
        return sum(n * costs.get(op, 0.0) for op, n in count.operators.items())

    def floor(self, skeleton: Skeleton) -> tuple[float, float]:
        """Return cycles and picojoules that every point of a skeleton takes: of its leaves alone.

        The cycles are those of the arrays' loads, each Einsum on each array as fast as it can.
        """
        energy = sum(float(self.ways(site).energy_pj.min()) for site in skeleton.sites)
        return self.loads(skeleton).fewest, energy

    def loads(self, skeleton: Skeleton) -> Loads:
        """Return the schedules of a skeleton, by arrays."""
        key = tuple((id(self.ways(site)), site.pipeline) for site in skeleton.sites)
        if key not in self._loads:
            least = [self.ways(site).least for site in skeleton.sites]
            self._loads[key] = Loads(least, [site.pipeline for site in skeleton.sites])
        return self._loads[key]

    def slack(self, skeleton: Skeleton, most: float) -> list[Floats]:
        """Return for each site, and each array, the cycles that an option may take at most.

        With more, the schedule takes over `most` cycles, whatever the others do.
        """
        places = range(len(self.target.arrays))
        if math.isinf(most):
            return [np.full(len(places), math.inf) for _ in skeleton.sites]
        loads = self.loads(skeleton)
        found = (loads.slack(number, most) for number in range(len(skeleton.sites)))
        return [np.array([each.get(place, math.inf) for place in places]) for each in found]

    def moves(self, counts: Sequence[Iterable[Traffic]], tensor: str, *, writes: bool) -> Moves:
        """Add up what several options move of a tensor.

        ``writes`` is False for what only reads it: the zeros that `count_traffic` writes to every
        output are not its doing.
        """
        at = {memory.name: np.zeros(len(counts)) for memory in self.target.memories}
        energy = np.zeros(len(counts))
        size = self.facts.element_bytes(tensor, self.fmt)
        for number, rows in enumerate(counts):
            for row in rows:
                if row.tensor != tensor:
                    continue
                memory = self.target.memory(row.memory)
                read, written = row.reads * size, row.writes * size * writes
                at[row.memory][number] += read + written
                energy[number] += read * memory.read_pj_per_byte
                energy[number] += written * memory.write_pj_per_byte
        return Moves({name: each for name, each in at.items() if each.any()}, energy)


def _cut(paces: Sequence[Pace], names: Sequence[str]) -> tuple[Pace, ...]:
    """Return the loops over some variables but those whose tiles a loop inside cuts alike."""
    mine = [pace for pace in paces if pace.variable in names]
    return tuple(
        pace for number, pace in enumerate(mine) if not _cut_again(pace, mine[number + 1 :])
    )


def _cut_again(pace: Pace, inside: Sequence[Pace]) -> bool:
    """Whether the next loop over the variable makes the same tiles without this one."""
    following = next((each for each in inside if each.variable == pace.variable), None)
    if following is None or pace.side or following.side:
        return False
    return pace.tile % following.tile == 0


def _touched(leaf: Leaf) -> set[str]:
    uses = (*leaf.step.reads, leaf.step.write, *leaf.step.init_reads)
    return {use.tensor for use in uses}


def _scope(tensor: str, place: Place, leaves: list[Leaf]) -> Scope:
    assert place.home is not None
    keep = Keep((tensor,), place.memory)
    return Scope(keep, tensor, place.home.nests, None, leaves[0].array, leaves)


class _Counter:
    """Counts one site; lives only inside `Tabulator.costs`."""

    def __init__(
        self,
        tab: Tabulator,
        site: Site,
        residents: Sequence[Resident],
        limit: Floats,
        *,
        tight: bool,
    ) -> None:
        self.tab, self.site, self.tight = tab, site, tight
        self.ways = tab.ways(site)
        tensors = self.ways.tensors
        self.residents = {each.tensor: each for each in residents if each.tensor in tensors}
        fast = self.ways.cycles <= limit[self.ways.arrays]
        self.alive = np.flatnonzero(fast) if fast.any() else np.arange(1)
        rows = np.stack([self.ways.arrays, *(self.ways.layouts[n] for n in self.residents)], axis=1)
        self.kinds = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)

    def counted(self) -> SiteCosts:
        """Return the costs of the options that no other one makes pointless."""
        shares = self._shares()
        everywhere = {name: each.memories for name, each in self.residents.items()}
        room = tuple((place, each.tobytes()) for place, each in shares.items())
        key = (id(self.ways), self.tight, self.alive.tobytes(), tuple(everywhere.items()), room)
        if key not in self.tab.counted:
            self.tab.counted[key] = self._counted(shares, everywhere)
        return replace(self.tab.counted[key], site=self.site)

    def _counted(
        self,
        shares: Mapping[tuple[str, str], Floats],
        everywhere: Mapping[str, tuple[str, ...]],
    ) -> SiteCosts:
        inner = {memory for each in everywhere.values() for memory in each[:-1]}
        if self.tab.objective == "latency" and not inner.intersection(self.tab.narrow):
            outside = self._moves({name: each[-1:] for name, each in everywhere.items()})
            self._prune(outside, shares)
        moves = self._moves(everywhere)
        kept = self._prune(moves, shares)
        return SiteCosts(
            self.site,
            tuple(int(each) for each in self.alive),
            self.ways.arrays[self.alive],
            self.ways.cycles[self.alive],
            self.ways.init_cycles[self.alive],
            self.ways.late_cycles[self.alive],
            self.ways.energy_pj[self.alive],
            {
                key: Moves({m: a[kept] for m, a in each.at.items()}, each.energy_pj[kept])
                for key, each in moves.items()
            },
            {key: each[self.alive] for key, each in shares.items()},
            self.ways.parts[self.alive],
            {name: self.ways.layouts[name][self.alive] for name in self.residents},
        )

    def _shares(self) -> dict[tuple[str, str], Floats]:
        """Return the bytes that each option takes in a place of its own array's memories."""
        found: dict[tuple[str, str], Floats] = {}
        for tensor, resident in self.residents.items():
            for place in resident.places[:-1]:
                owner = self.tab.owners[place.memory]
                if owner:
                    shares = np.zeros(len(self.ways.cycles))
                    for pick in self.alive:
                        if self.site.options[pick].array == owner:
                            shares[pick] = self.tab.share(self.site, int(pick), tensor, place)
                    found[tensor, place.memory] = shares
        return found

    def _moves(self, memories: Mapping[str, tuple[str, ...]]) -> dict[tuple[str, str], Moves]:
        """Count the traffic of every option left with every tensor in each of its memories."""
        dram = self.tab.target.dram.name
        moves: dict[tuple[str, str], Moves] = {}
        for number in range(max((len(each) for each in memories.values()), default=1)):
            places = {name: each[min(number, len(each) - 1)] for name, each in memories.items()}
            homes = {
                name: next(each for each in self.residents[name].places if each.memory == memory)
                for name, memory in places.items()
                if memory != dram
            }
            rows = [self.tab.traffic(self.site, int(pick), homes) for pick in self.alive]
            for tensor in self.ways.tensors:
                key = (tensor, places.get(tensor, dram))
                if key not in moves:  # zeros of an output that is kept come with its copies
                    own = [[row for row in each if row.memory == key[1]] for each in rows]
                    moves[key] = self.tab.moves(own, tensor, writes=tensor == self.site.einsum)
        return moves

    def _prune(
        self, moves: Mapping[tuple[str, str], Moves], shares: Mapping[tuple[str, str], Floats]
    ) -> NDArray[np.int64]:
        """Leave out options that another one of the same kind equals or beats in everything.

        Of one kind are those on one array that lay all tensors along threads in the same way.

        What counts is what the objective, or room in a memory, can depend on. Returns the
        positions, among the options before, of those that are left.
        """
        columns = [each[self.alive] for each in shares.values()]
        if self.tight:
            columns += list(self.ways.parts[self.alive].T)
        if self.tab.objective != "energy":
            columns += [self.ways.cycles[self.alive], self.ways.init_cycles[self.alive]]
            if self.site.pipeline >= 0 and self.ways.late_cycles.any():
                columns.append((self.ways.cycles + self.ways.late_cycles)[self.alive])
            columns += [
                each.at[memory]
                for each in moves.values()
                for memory in self.tab.narrow
                if memory in each.at
            ]
        energy = self.ways.energy_pj[self.alive] + sum(each.energy_pj for each in moves.values())
        if self.tab.objective != "latency":
            columns += [
                self.ways.energy_pj[self.alive],
                *(each.energy_pj for each in moves.values()),
            ]
        table = np.stack(columns, axis=1) if columns else np.zeros((len(self.alive), 1))
        kept = _undominated(table, self.kinds[self.alive], energy)
        self.alive = self.alive[kept]
        return kept


def _undominated(table: Floats, kinds: NDArray[np.int64], energy: Floats) -> NDArray[np.int64]:
    """Return the rows that no other row of the same kind is at most equal to everywhere.

    Of equal rows the one with the least energy stays, then the first.
    """
    order = np.lexsort((np.arange(len(energy)), energy))
    kept: list[int] = []
    for row in order:
        others = [each for each in order if each != row and kinds[each] == kinds[row]]
        rank = {int(each): number for number, each in enumerate(order)}
        beaten = any(
            bool((table[each] <= table[row]).all())
            and (bool((table[each] < table[row]).any()) or rank[int(each)] < rank[int(row)])
            for each in others
        )
        if not beaten:
            kept.append(int(row))
    return np.array(sorted(kept), dtype=np.int64)

"""The best mapping of a space, and how it was found: every point is covered, none is sampled.

For each skeleton the costs of all combinations of its options are computed as arrays, with every
tensor as far in as it may live; where these fit and nothing can be cheaper, that is their best.
The others, the most promising first, are searched for their best residency until their lower
bounds cannot beat what was found. What wins is evaluated by the model, must cost what the search
believed, and is checked. Excluded: cost (`model/`), legality (`check.py`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from penstock import metrics
from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.shapes import Bound
from penstock.einsum_ir.work import effective_points
from penstock.errors import MappingError
from penstock.mapper import nodes
from penstock.mapper.check import check
from penstock.mapper.model.evaluate import Evaluation, evaluate
from penstock.mapper.model.occupancy import occupancies
from penstock.mapper.model.roofline import in_turn_bound, roofline
from penstock.mapper.resources import taken
from penstock.mapper.scopes import tree_of
from penstock.mapper.search.build import default_mapping
from penstock.mapper.search.combine import Combinations, Single, capped
from penstock.mapper.search.costs import Tabulator
from penstock.mapper.search.housing import Key, better, house, promising
from penstock.mapper.search.space import Place, Skeleton, Space, mapping_at
from penstock.targets.base import Target

__all__ = [
    "MAX_WORK",
    "SAME",
    "SETUP",
    "Coverage",
    "Objective",
    "Point",
    "Progress",
    "SearchResult",
    "built",
    "explore",
    "explore_variants",
    "innermost",
    "point_of",
]

MUCH = 0.5
"""Of a part: with less than that taken, twice as many places would have had room."""

Objective = Literal["latency", "energy", "edp"]
Progress = Callable[[int, int, float], None]


SETUP = 200
"""What taking up a combination counts as, in steps of a residency search."""

MAX_WORK = 300_000
"""Steps of residency searches in all, after which the rest is left open."""

SAME = 1e-9
"""Relative difference up to which the model's cost is what the search believed."""


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How much of a space was looked at.

    Args:
        points: mappings in the space.
        evaluated: of them, those of which the cost was computed.
        optimal: whether what was found is the best of the whole space, under the model.
        seconds: wall time.
        interrupted: whether Ctrl-C ended the search early.
    """

    points: int
    evaluated: int
    optimal: bool
    seconds: float
    interrupted: bool = False

    @property
    def ruled_out(self) -> int:
        """Mappings shown to be no better or not to fit; not looked at, if not ``optimal``.

        Equal or beaten in everything by another option, or bounded.
        """
        return self.points - self.evaluated

    def counts(self) -> dict[str, Any]:
        """Return the numbers as a JSON object."""
        return {
            "points": self.points,
            "evaluated": self.evaluated,
            "ruled_out": self.ruled_out,
            "optimal": self.optimal,
            "seconds": self.seconds,
            "interrupted": self.interrupted,
        }


@dataclass(frozen=True)
class SearchResult(Coverage):
    """The best mapping found, and how.

    Args:
        mapping: the best.
        evaluation: what the model says of it.
        bound: the cascade, with its extents, that it maps: the winner of several variants.
        target: the machine, in the size that is best of those that it may be built in.
        format: the number format that is best of those tried.
        formats: how many those are.
        variants: of how many the space consists.
    """

    mapping: nodes.Mapping
    evaluation: Evaluation
    bound: Bound
    target: Target
    format: Format
    variants: int = 1
    formats: int = 1

    @property
    def points_per_s(self) -> float:
        """The mappings of the space, evaluated or ruled out, per second of wall time."""
        return self.points / self.seconds

    def summary(self) -> str:
        """Return one sentence on how the mapping was found."""
        claim = "optimal in this space" if self.optimal else "the best of those evaluated"
        rest = "ruled out by bounds or capacity" if self.optimal else "not"
        of = f" of {self.variants} cascades" if self.variants > 1 else ""
        early = "interrupted; " if self.interrupted else ""
        tried = f" in {self.formats} formats" if self.formats > 1 else ""
        won = f"; {self.format} is best" if self.formats > 1 else ""
        return (
            f"{early}{claim}: {metrics.number(self.points)} mappings{of}{tried}, "
            f"{self.evaluated:,} evaluated, {metrics.number(self.ruled_out)} {rest}{won}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as a JSON object."""
        return {
            **self.counts(),
            "points_per_s": self.points_per_s,
            "variants": self.variants,
            "format": str(self.format),
        }


@dataclass(frozen=True)
class Point:
    """A point of the space: options by their numbers in the skeleton; None is the default one."""

    skeleton: Skeleton | None
    picks: tuple[int, ...] = ()
    kept: Mapping[str, Place] = field(default_factory=dict)


@dataclass(frozen=True)
class _Open:
    """Combinations of one skeleton whose best residency is not known; bounds and positions."""

    combinations: Combinations
    objective: NDArray[np.float64]
    dram_bytes: NDArray[np.float64]
    energy_pj: NDArray[np.float64]
    flat: NDArray[np.int64]


def explore(
    bound: Bound,
    target: Target,
    fmt: Format,
    *,
    objective: Objective = "latency",
    progress: Progress | None = None,
    limit: int | None = None,
) -> SearchResult:
    """Find the best mapping of a cascade to a machine.

    Ties go to fewer bytes of the outermost memory, then less energy, then the first.

    Args:
        bound: the cascade with its extents.
        target: the machine.
        fmt: number format of all tensors.
        objective: what is best: ``latency``, ``energy`` or their product.
        progress: called with (mappings covered, mappings in all, best objective so far).
        limit: mappings to evaluate at most, about; None = all that are not ruled out.

    Raises:
        MappingError: an operator exists on no array, or nothing fits the machine.
    """
    return explore_variants(
        (bound,), target, fmt, objective=objective, progress=progress, limit=limit
    )


def explore_variants(
    bounds: Sequence[Bound],
    target: Target,
    fmt: Format,
    *,
    objective: Objective = "latency",
    progress: Progress | None = None,
    limit: int | None = None,
    others: Sequence[Format] = (),
) -> SearchResult:
    """Find the best mapping of the best of several equivalent cascades.

    What one has reached, the others have to beat; the most promising by their rooflines come
    first. Ties go to the earlier in that order, and then in the order given. Ctrl-C ends the search
    with the best so far.

    Args:
        bounds: cascades that compute the same of the same inputs, with their extents.
        target: the machine.
        fmt: number format of all tensors.
        objective: as for `explore`.
        progress: likewise, of all together.
        limit: likewise, of all together.
        others: formats that win only where they are faster (or better in the objective); tried if
            their operators take less of what the best mapping takes most of a part.

    Raises:
        MappingError: no cascade can be mapped to the machine; says why the first cannot.
        TargetError: the objective needs energies, which the machine does not have.
        KeyboardInterrupt: Ctrl-C was pressed before anything was found.
    """
    started = time.perf_counter()
    target.check_energies(objective)
    machines = target.in_format(fmt.name).sized()
    effective = [effective_points(each) for each in bounds]

    def searches(used: Format) -> list[_Search]:
        pairs = product(zip(bounds, effective, strict=True), machines)
        made = [_Search(*pair, machine, used, objective, used != fmt) for pair, machine in pairs]
        return sorted(made, key=lambda search: search.floor)

    whole = _Whole(progress, limit)
    interrupted = False
    try:
        whole.search(searches(fmt))
        for other in others:
            if whole.winner is None or whole.winner.relieved_by(other):
                whole.search(searches(other))
    except KeyboardInterrupt:
        interrupted = True
        if whole.winner is None:
            raise
    found, winner = whole.ordered, whole.winner
    if winner is None:
        errors = (each.broken or each.refused for each in found)
        raise next(each for each in errors if each is not None)
    if progress is not None and not interrupted:
        progress(whole.points, whole.points, winner.best_objective)
    seconds = time.perf_counter() - started
    return _result(winner, found, len(bounds), seconds, interrupted=interrupted)


def _result(
    winner: _Search,
    found: Sequence[_Search],
    variants: int,
    seconds: float,
    *,
    interrupted: bool,
) -> SearchResult:
    """Return what the searches of all cascades and machines came to."""
    mapping, evaluation = winner.result()
    least = winner.best_objective * (1 - SAME)
    return SearchResult(
        mapping,
        evaluation,
        winner.bound,
        winner.machine,
        winner.fmt,
        variants,
        len({each.fmt for each in found}),
        points=sum(search.points for search in found),
        evaluated=sum(search.evaluated for search in found),
        optimal=not interrupted and all(each.left >= least for each in found),
        seconds=seconds,
        interrupted=interrupted,
    )


@dataclass
class _Whole:
    """The searches of all cascades and machines; what one has reached, the next have to beat."""

    progress: Progress | None
    limit: int | None
    winner: _Search | None = None
    ordered: list[_Search] = field(default_factory=list)

    @property
    def points(self) -> int:
        return sum(each.points for each in self.ordered)

    def search(self, some: Sequence[_Search]) -> None:
        """Search every usual space, and then what may be better still."""
        self.ordered += some
        for each in some:
            self._follow(each, each.steps())
        for each in some:
            self._follow(each, each.further_steps())

    def _follow(self, mine: _Search, steps: Iterator[None]) -> None:
        if self.winner is not mine:  # what it found itself, if anything, has been beaten
            mine.best, mine.beat = None, self.winner.to_beat if self.winner else None
        others = sum(each.evaluated for each in self.ordered if each is not mine)
        mine.limit = None if self.limit is None else max(0, self.limit - others)
        covered = sum(each.covered for each in self.ordered if each is not mine)
        try:
            for _ in steps:
                if self.progress is not None:
                    self.progress(covered + mine.covered, self.points, mine.best_objective)
        finally:
            if mine.best is not None:
                self.winner = mine
        mine.covered = mine.points


@dataclass
class _Search:
    """What is known so far of one cascade; lives only inside `explore_variants`.

    ``beat`` is what another cascade has reached; what is no better does not become ``best``.
    ``left`` is the least that a point may cost that was not looked at. ``spare``: wins no ties.
    """

    bound: Bound
    effective: Mapping[str, float]
    machine: Target
    fmt: Format
    objective: Objective
    spare: bool
    limit: int | None = None
    evaluated: int = 0
    covered: int = 0
    left: float = math.inf
    beat: Key | None = None
    best: tuple[Key, Point] | None = None
    broken: MappingError | None = None
    refused: MappingError | None = None
    open: list[_Open] = field(default_factory=list)

    def __post_init__(self) -> None:
        priced = self.machine.has_energies
        self.target = self.machine if priced else self.machine.without_energies()
        self.tab = Tabulator(self.bound, self.target, self.fmt, self.objective)
        self.space: list[Skeleton] = []
        self.least = {"latency": math.inf, "energy": math.inf}
        try:
            rows = roofline(self.bound, self.target, self.fmt, self.effective)
            self.skeletons = Space(self.bound, self.target, self.fmt)
            self.space = list(self.skeletons.usual())
        except MappingError as error:  # an operator that no array has
            self.broken = error
        else:
            self.least = {each.name: each.value for each in rows}
        self.floor = self.cost(self.least["latency"], self.least.get("energy", 0.0))
        self.points = 1 + sum(each.size for each in self.space)

    def cost(self, latency: float, energy: float) -> float:
        """Return what is to be made small."""
        return {"latency": latency, "energy": energy, "edp": latency * energy}[self.objective]

    @property
    def to_beat(self) -> Key | None:
        """What a point must be better than."""
        return self.best[0] if self.best else self.beat

    @property
    def best_objective(self) -> float:
        return self.to_beat[0] if self.to_beat else math.inf

    @property
    def exhausted(self) -> bool:
        return self.limit is not None and self.evaluated >= self.limit

    def offer(self, key: Key, point: Point) -> None:
        """Keep a point if it is the best so far."""
        if better(key, self.to_beat) and not (self.spare and self.hopeless(key[0])):
            self.best = (key, point)

    def steps(self) -> Iterator[None]:
        """Search the usual space; yield now and then."""
        if self.broken is not None or self.hopeless(self.floor):
            return
        self.start()
        yield from self.through(self.space)

    def further_steps(self) -> Iterator[None]:
        """Search the skeletons that move fewer bytes, if they may have a smaller objective."""
        if self.broken is not None or self.in_turn() >= self.best_objective * (1 - SAME):
            return
        more = list(self.skeletons.further())
        self.points += sum(each.size for each in more)
        yield from self.through(more)

    def in_turn(self) -> float:
        """Return what every mapping costs at least that computes one Einsum after the other."""
        cycles = in_turn_bound(self.bound, self.target, self.effective)
        return self.cost(max(self.least["latency"], cycles), self.least.get("energy", 0.0))

    def through(self, space: Sequence[Skeleton]) -> Iterator[None]:
        """Search some skeletons, the most promising first."""
        floors = [self.cost(*self.tab.floor(each)) for each in space]
        self.open = []
        for number in np.argsort(floors, kind="stable"):
            self.cover(space[number], floors[number])
            yield
        yield from self.finish()

    def hopeless(self, floor: float) -> bool:
        """Whether nothing that costs at least `floor` can win, not even by a tie."""
        return floor > self.best_objective * (1 - SAME if self.spare else 1 + SAME)

    def start(self) -> None:
        """Begin with the default mapping, which need not be a point of any skeleton.

        Where a part has not its operators, it is one to half of an array, or half of that, unless
        something better than nothing is known already.
        """
        self.covered = self.evaluated = 1
        first = self.to_beat is None
        try:
            self.default = default_mapping(self.bound, self.target, self.fmt, halves=first)
        except MappingError as error:
            self.refused = error
            return
        found = evaluate(self.default, self.bound, self.target, self.fmt)
        self.offer(self.key_of(found), Point(None))

    def key_of(self, found: Evaluation) -> Key:
        """Return what an evaluation amounts to."""
        latency, energy = found.latency_cycles, found.energy_pj
        return self.cost(latency, energy), found.dram_bytes, energy

    # -- all combinations at once ----------------------------------------------------------

    def cover(self, skeleton: Skeleton, least_cost: float) -> None:
        """Cost all combinations of a skeleton; leave open what may be better than it looks."""
        self.covered += skeleton.size
        if self.hopeless(least_cost):
            return
        if self.exhausted:
            self.left = min(self.left, least_cost)
            return
        most = self.best_objective * (1 + SAME) if self.objective == "latency" else math.inf
        costs, whole = capped(self.tab.costs(skeleton, most), self.target)
        self.left = self.left if whole else min(self.left, least_cost)
        combinations = Combinations(costs, self.tab)
        inner, least = combinations.innermost(), combinations.least()
        self.evaluated += combinations.size
        objective = inner.objective(self.objective)
        exact = not skeleton.recurrent
        fits = np.flatnonzero(inner.fits)
        if len(fits) and exact:
            order = np.lexsort((inner.energy_pj[fits], inner.dram_bytes[fits], objective[fits]))
            flat = int(fits[order[0]])
            key = (
                float(objective[flat]),
                float(inner.dram_bytes[flat]),
                float(inner.energy_pj[flat]),
            )
            self.offer(key, innermost(combinations, flat))
        floor = least.objective(self.objective)
        settled = exact & inner.fits & (objective <= floor * (1 + SAME))
        settled &= inner.dram_bytes <= least.dram_bytes * (1 + SAME)
        flat_open = np.flatnonzero(
            ~settled & least.fits & (floor <= self.best_objective * (1 + SAME))
        )
        if len(flat_open):
            rest = (least.dram_bytes[flat_open], least.energy_pj[flat_open], flat_open)
            self.open.append(_Open(combinations, floor[flat_open], *rest))

    # -- one combination after the other ---------------------------------------------------

    def finish(self) -> Iterator[None]:
        """Search the residencies of what is open, the most promising first; yield after each."""
        work = 0
        for floor, dram_bytes, each, flat in self._queue():
            beat = self.to_beat
            if not promising((floor, dram_bytes, 0.0), beat):
                if beat is not None and floor > beat[0]:
                    return
                continue
            if self.exhausted or work > MAX_WORK:
                self.left = min(self.left, floor)
                return
            one = Single(each.combinations, flat)
            found = house(one, self.objective, beat)
            work += found.nodes + SETUP
            self.evaluated += found.points
            self.left = self.left if found.complete else min(self.left, floor)
            if found.found is not None:
                key, kept = found.found
                self.offer(key, point_of(one, kept))
            yield

    def _queue(self) -> Iterator[tuple[float, float, _Open, int]]:
        if not self.open:
            return
        objective = np.concatenate([each.objective for each in self.open])
        dram_bytes = np.concatenate([each.dram_bytes for each in self.open])
        flat = np.concatenate([each.flat for each in self.open])
        owner = np.repeat(np.arange(len(self.open)), [len(each.flat) for each in self.open])
        energy = np.concatenate([each.energy_pj for each in self.open])
        for number in np.lexsort((energy, dram_bytes, objective)):
            yield (
                float(objective[number]),
                float(dram_bytes[number]),
                self.open[owner[number]],
                int(flat[number]),
            )

    # -- the winner ------------------------------------------------------------------------

    def relieved_by(self, other: Format) -> bool:
        """Whether the best mapping takes much of what its operators need less of in a format."""
        mapping, _ = self.result()
        facts, has = self.tab.facts, dict(self.target.resources)
        leaves = tree_of(mapping, facts, self.target).leaves
        mine, less = (taken(leaves, facts.extents, each) for each in (self.fmt, other))
        return any(less[n] < mine[n] and mine[n] > MUCH * has.get(n, math.inf) for n in mine)

    def result(self) -> tuple[nodes.Mapping, Evaluation]:
        """Return the best mapping, evaluated by the model and checked."""
        assert self.best is not None
        key, point = self.best
        mapping = built(point, self.tab, self.bound) if point.skeleton else self.default
        check(mapping, self.bound, self.target, self.fmt)
        found = evaluate(mapping, self.bound, self.target, self.fmt)
        for believed, counted in zip(key, self.key_of(found), strict=True):
            assert math.isclose(believed, counted, rel_tol=SAME, abs_tol=SAME), (key, found)
        return mapping, found


def built(point: Point, tab: Tabulator, bound: Bound) -> nodes.Mapping:
    """Build the mapping of a point; inputs get two buffers, the innermost first, where they fit."""
    assert point.skeleton is not None
    facts, target = tab.facts, tab.target
    kept = {tensor: (place, 1) for tensor, place in point.kept.items()}
    mapping = mapping_at(point.skeleton, point.picks, kept, bound, target)
    depth = {name: len(place.home.nests) for name, place in point.kept.items() if place.home}
    inputs = [name for name in depth if name in facts.inputs and depth[name]]
    for tensor in sorted(inputs, key=lambda name: -depth[name]):
        doubled = {**kept, tensor: (kept[tensor][0], 2)}
        trial = mapping_at(point.skeleton, point.picks, doubled, bound, target)
        rows = occupancies(tree_of(trial, facts, target), facts, target, tab.fmt)
        if all(row.needed_bytes <= row.capacity_bytes for row in rows):
            kept, mapping = doubled, trial
    return mapping


def innermost(combinations: Combinations, flat: int) -> Point:
    """Return the point of a combination with every tensor as far in as it may live."""
    one = Single(combinations, flat)
    return point_of(one, {name: next(one.spots(name)).place for name in combinations.choices})


def point_of(one: Single, kept: Mapping[str, Place]) -> Point:
    """Return a point of the space from a combination and tensor → place."""
    costs = one.whole.costs
    own = tuple(site.picks[pick] for site, pick in zip(costs.sites, one.picks, strict=True))
    inside = {tensor: place for tensor, place in kept.items() if place.home is not None}
    return Point(costs.skeleton, own, inside)

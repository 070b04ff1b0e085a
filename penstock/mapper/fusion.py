"""Which Einsums may share a loop: dependences, and maximal runs over given variables.

Everything follows from the index expressions, nothing from names. A loop over ``v`` may be
shared by a producer and its consumer if the consumer reads, in one iteration, only what that
iteration (or, for an iterative rank, an earlier one) has produced: index ``v`` on both sides.
Where that is wanted, the consumer may reduce ``v`` there: its partial sums wait from one iteration
to the next, and what reads it stands outside.
Excluded: machines, tiles and memories (`build.py`), cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.nodes import (
    Access,
    Einsum,
    Expr,
    Group,
    Var,
    next_variable,
    substitute,
    variables,
)

__all__ = [
    "Cluster",
    "Flow",
    "Step",
    "carried",
    "folded",
    "partition",
    "pointwise",
    "shared_edges",
    "shared_variables",
    "steps_of",
]


FOLDS = frozenset({"sum", "max", "min", "prod"})
"""Reductions of which a part can wait for the rest."""


@dataclass(frozen=True, slots=True)
class Step:
    """Einsums that are placed together: one, or a ``loop`` group that is not opened yet.

    ``variable`` is the iterative rank variable of a group, "" for a single Einsum.
    """

    einsums: tuple[Einsum, ...]
    variable: str = ""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Steps in order; ``shared`` says whether they may share one loop over the variable."""

    steps: tuple[Step, ...]
    shared: bool

    @property
    def worth_sharing(self) -> bool:
        """Whether there are two Einsums, or a group, that meet in a shared loop."""
        return len(self.steps) > 1 or any(step.variable for step in self.steps)

    def holds_group(self, variable: str) -> bool:
        """Whether one of the steps advances along `variable`."""
        return any(step.variable == variable for step in self.steps)


class Flow:
    """The accesses through which the Einsums of a cascade depend on each other.

    Reads of an ``init`` Einsum count as reads of its step, in the step's variables.
    """

    def __init__(self, cascade: Cascade) -> None:
        self.makers = {each.name: each for each in cascade.einsums if not each.init}
        self.clusters: dict[tuple[Any, ...], tuple[Cluster, ...]] = {}
        inits = {each.name: each for each in cascade.einsums if each.init}
        self._inits = {
            name: _renamed(inits.get(name), einsum) for name, einsum in self.makers.items()
        }
        self._reads = {
            name: (*einsum.operands, *self._inits[name]) for name, einsum in self.makers.items()
        }

        self._shared: dict[tuple[tuple[str, ...], int], tuple[tuple[str, ...], ...]] = {}

    def shared(
        self, steps: Sequence[Step], extents: Mapping[str, int], least: int = 2
    ) -> tuple[tuple[str, ...], ...]:
        """Return `shared_variables` of the steps; computed once for each list of steps."""
        key = tuple(einsum.name for step in steps for einsum in step.einsums), least
        if key not in self._shared:
            self._shared[key] = shared_variables(steps, extents, self, least)
        return self._shared[key]

    def reads(self, einsum: Einsum) -> tuple[Access, ...]:
        """Every access of an Einsum (its ``init`` included) to what another Einsum defines."""
        return tuple(each for each in self._reads[einsum.name] if each.tensor in self.makers)

    def init_reads(self, einsum: Einsum) -> tuple[Access, ...]:
        """Every access of the ``init`` Einsum of an Einsum, in the variables of the step."""
        return self._inits[einsum.name]

    def between(self, first: Step, second: Step) -> Iterator[tuple[Einsum, Access]]:
        """Yield (producer, access) for what `second` reads of what `first` defines."""
        made = {each.name: each for each in first.einsums}
        for einsum in second.einsums:
            for access in self.reads(einsum):
                if access.tensor in made:
                    yield made[access.tensor], access

    def ordered(self, first: Step, second: Step) -> bool:
        """Whether `second`, which stands after `first`, must stay behind it.

        It must if it reads what `first` defines, or defines what `first` reads of an earlier
        step of an iterative rank.
        """
        forward = next(self.between(first, second), None)
        return forward is not None or next(self.between(second, first), None) is not None


def _renamed(init: Einsum | None, step: Einsum) -> tuple[Access, ...]:
    """Return the reads of an ``init`` Einsum in the variables of its step."""
    if init is None:
        return ()
    names: dict[str, Expr] = {
        mine.name: theirs
        for mine, theirs in zip(init.output.indices, step.output.indices, strict=True)
        if isinstance(mine, Var) and isinstance(theirs, Var)
    }
    reads = tuple(substitute(each, names) for each in init.operands)
    return tuple(each for each in reads if isinstance(each, Access))


def steps_of(cascade: Cascade) -> tuple[Step, ...]:
    """Return the cascade's schedule as steps, ``init`` Einsums left out (they run with theirs)."""
    return tuple(
        Step(each.einsums, each.variable) if isinstance(each, Group) else Step((each,))
        for each in cascade.schedule
        if isinstance(each, Group) or not each.init
    )


def carried(einsum: Einsum, variable: str) -> int | None:
    """Return the one position at which the left side has `variable` (or ``variable + 1``)."""
    places = [
        place for place, index in enumerate(einsum.output.indices) if variable in variables(index)
    ]
    return places[0] if len(places) == 1 else None


def folded(einsum: Einsum, variable: str) -> bool:
    """Whether an Einsum reduces a variable, and may do so part by part."""
    reduce = einsum.reduce
    return reduce is not None and variable in reduce.over and reduce.op in FOLDS


def _joinable(step: Step, names: tuple[str, ...], flow: Flow, *, folding: bool) -> bool:
    """Whether a step may stand inside loops over these variables at all."""
    for name in names:
        if step.variable == name:
            continue
        if not all(_plain(each, name) or (folding and folded(each, name)) for each in step.einsums):
            return False
        inner = flow.between(step, step)
        if not all(pointwise(producer, access, name) for producer, access in inner):
            return False
    return True


def _plain(einsum: Einsum, name: str) -> bool:
    place = carried(einsum, name)
    whole = name == einsum.places  # all places of a selection are found together
    return place is not None and not whole and isinstance(einsum.output.indices[place], Var)


def pointwise(producer: Einsum, access: Access, variable: str) -> bool:
    """Whether an iteration over `variable` reads only what it, or an earlier step, produced."""
    place = carried(producer, variable)
    if place is None:
        return False
    written, read = producer.output.indices[place], access.indices[place]
    if isinstance(written, Var):
        return read == written
    return read == Var(variable) or next_variable(read) == variable


def partition(
    steps: Sequence[Step], names: tuple[str, ...], flow: Flow, *, folding: bool = False
) -> tuple[Cluster, ...]:
    """Order the steps in clusters of which each may share loops over these variables.

    Steps stay in order as far as dependences ask for it. A step joins the last cluster that it
    may join; one that cannot stand in such loops comes as early as it can, alone.

    Args:
        steps: in an order in which each finds its operands ready.
        names: rank variables.
        flow: the dependences of their cascade; remembers the clusters.
        folding: whether steps that reduce such a variable may share the loops, too.
    """
    each = tuple((tuple(e.name for e in step.einsums), step.variable) for step in steps)
    key = (names, folding, each)
    if key not in flow.clusters:
        flow.clusters[key] = _partition(steps, names, flow, folding=folding)
    return flow.clusters[key]


def _partition(
    steps: Sequence[Step], names: tuple[str, ...], flow: Flow, *, folding: bool
) -> tuple[Cluster, ...]:
    clusters: list[Cluster] = []
    for step in steps:
        floor = max(
            (
                place
                for place, cluster in enumerate(clusters)
                if any(flow.ordered(earlier, step) for earlier in cluster.steps)
            ),
            default=-1,
        )
        if not _joinable(step, names, flow, folding=folding):
            clusters.insert(floor + 1, Cluster((step,), shared=False))
            continue
        for place in range(len(clusters) - 1, max(floor, 0) - 1, -1):
            if _accepts(clusters[place], step, names, flow):
                grown = (*clusters[place].steps, step)
                clusters[place] = replace(clusters[place], steps=grown)
                break
        else:
            clusters.append(Cluster((step,), shared=True))
    return tuple(clusters)


def _accepts(cluster: Cluster, step: Step, names: tuple[str, ...], flow: Flow) -> bool:
    if not cluster.shared:
        return False
    return all(
        pointwise(producer, access, name)
        for earlier in cluster.steps
        for first, second in ((earlier, step), (step, earlier))
        for producer, access in flow.between(first, second)
        for name in names
    )


def shared_edges(steps: Sequence[Step], names: tuple[str, ...], flow: Flow) -> int:
    """Count the accesses that stay inside a cluster when loops over `names` are shared."""
    return sum(
        1
        for cluster in partition(steps, names, flow)
        if cluster.shared
        for first in cluster.steps
        for second in cluster.steps
        for _ in flow.between(first, second)
    )


def shared_variables(
    steps: Sequence[Step], extents: Mapping[str, int], flow: Flow, least: int = 2
) -> tuple[tuple[str, ...], ...]:
    """Return lists of variables that most of the steps can share loops over, the longest first.

    Greedy: the variable that keeps most accesses inside clusters, then the one that keeps most
    together with it, as long as that is at least half (a `least`-th) of the first. Where one more
    variable keeps fewer, the list without it is there too: fewer loops, shared by more Einsums.
    """
    names = [
        name
        for name in dict.fromkeys(
            index.name
            for step in steps
            for einsum in step.einsums
            for index in einsum.output.indices
            if isinstance(index, Var)
        )
        if extents[name] > 1 and all(name != step.variable for step in steps)
    ]
    chosen: tuple[str, ...] = ()
    found: list[tuple[str, ...]] = []
    kept: list[int] = []
    while names:
        counts = {name: shared_edges(steps, (*chosen, name), flow) for name in names}
        best = max(names, key=lambda name: counts[name])
        if counts[best] == 0 or (kept and least * counts[best] < kept[0]):
            break
        if kept and counts[best] < kept[-1]:
            found.append(chosen)
        chosen = (*chosen, best)
        kept.append(counts[best])
        names.remove(best)
    return (chosen, *reversed(found))

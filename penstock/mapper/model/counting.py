"""Counts of a mapping: what each leaf does, and what moves between memories.

Everything is counted over the loop nest, remainders and empty tiles included; nothing here knows
a cascade, a machine or a shape. The rules of reuse are in `moves.py` (kept tiles) and
`leafcount.py` (operands of one visit). Excluded: time of the whole, energy (`evaluate.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from penstock.einsum_ir.formats import Format
from penstock.mapper.facts import Facts, Use
from penstock.mapper.model.leafcount import elements, steps_in_time
from penstock.mapper.model.moves import moved
from penstock.mapper.model.recurrence import result_cycles, step_interval
from penstock.mapper.model.tiles import Grid, Pace, sizes
from penstock.mapper.model.visits import Visits, active_tiles, share_in_range, visits_of
from penstock.mapper.scopes import Leaf, Scope, Tree
from penstock.targets.base import Memory, Target

__all__ = ["LeafCount", "Traffic", "count_leaf", "count_leaves", "count_traffic"]


@dataclass(frozen=True)
class LeafCount:
    """What one leaf does in the whole run.

    Args:
        einsum, array: its names.
        visits: tiles that it computes; `skipped` more are empty.
        points: iteration points computed, absent ones inside partial tiles included.
        cycles: that the array is taken.
        place_cycles: of single places of the array, ``points`` x cycles of a point.
        operators: operator → how many.
        init_cycles: before its loop, of what starts a state.
        late_cycles: from the last steps of its visits until their results are there.
    """

    einsum: str
    array: str
    visits: int
    skipped: int
    points: int
    cycles: float
    place_cycles: float
    operators: Mapping[str, int]
    init_cycles: float = 0.0
    late_cycles: float = 0.0


@dataclass
class Traffic:
    """What one tensor moves at one memory, in elements.

    Args:
        reads: elements that leave the memory, for arrays, inner and outer memories alike; whole
            numbers but where a share of a tile is spilled.
        writes: elements that enter it.
        fills: of the writes, what comes in from the next outer memory.
        drains: of the reads, what goes out to it.
    """

    tensor: str
    memory: str
    reads: float = 0
    writes: float = 0
    fills: int = 0
    drains: int = 0


@dataclass
class _Counter:
    """Traffic by (tensor, memory) while it is being counted."""

    target: Target
    facts: Facts
    rows: dict[tuple[str, str], Traffic] = field(default_factory=dict)

    def at(self, tensor: str, scope: Scope | None) -> Traffic:
        """Return the row of a tensor in a scope's memory; the outermost without a scope."""
        memory = scope.memory if scope else self.target.dram.name
        key = (tensor, memory)
        if key not in self.rows:
            self.rows[key] = Traffic(tensor, memory)
        return self.rows[key]


def count_leaves(
    tree: Tree, facts: Facts, target: Target, fmt: Format
) -> tuple[tuple[LeafCount, Visits], ...]:
    """Count what each leaf does."""
    found = [(leaf, visits_of(leaf.step, leaf.paces, facts)) for leaf in tree.leaves]
    return tuple((count_leaf(leaf, visits, facts, target, fmt), visits) for leaf, visits in found)


def count_leaf(leaf: Leaf, visits: Visits, facts: Facts, target: Target, fmt: Format) -> LeafCount:
    """Count what a leaf does in its visits."""
    step, einsum = leaf.step, leaf.step.einsum
    costs = dict(leaf.array.cycles)
    point = sum(count * costs[op] for op, count in step.ops.items()) if step.ops else 1.0
    every = step_interval(leaf.compute, einsum, leaf.nests, facts.extents, target, fmt)
    late = result_cycles(einsum, target, fmt)
    late -= max(point, every) if late else 0.0
    names = einsum.variables
    steps = sum(
        count * steps_in_time(leaf.inner, dict(kind), names)
        for kind, count in visits.in_time.items()
    )
    points = sum(
        count * math.prod(size for _, size in kind) for kind, count in visits.kinds.items()
    )
    operators = {op: count * points for op, count in step.ops.items()}
    cycles, places = steps * max(point, every), points * point
    for op, count in step.output_ops.items():
        operators[op] = operators.get(op, 0) + count * visits.started
        kept = [name for name in names if einsum.reduce is None or name not in einsum.reduce.over]
        cycles += count * costs[op] * _whole_steps(leaf, facts, kept)
        places += count * costs[op] * visits.started
    started = _init(leaf, facts, operators)
    return LeafCount(
        einsum.name,
        leaf.array.name,
        visits.count,
        visits.skipped,
        points,
        cycles,
        places + started[1],
        operators,
        started[0],
        sum(visits.in_time.values()) * late,
    )


def _whole_steps(leaf: Leaf, facts: Facts, names: list[str]) -> int:
    """Return the steps in time over all coordinates of some variables, nests included."""
    total = 1
    for name in names:
        chain = tuple(pace for pace in (*leaf.paces, *leaf.inner) if pace.variable == name)
        total *= sum(sizes(facts.extents[name], chain, in_time=True).values())
    return total


def _init(leaf: Leaf, facts: Facts, operators: dict[str, int]) -> tuple[float, float]:
    """Return cycles and place cycles of the ``init`` Einsum; adds its operators.

    It runs with the loops of its step over the variables that both have. A constant or a copy
    takes no time: it is what the registers are reset to.
    """
    init, step = leaf.step.init, leaf.step
    if init is None or not facts.init_ops[init.name]:
        return 0.0, 0.0
    costs = dict(leaf.array.cycles)
    ops = facts.init_ops[init.name]
    names = facts.init_names[step.einsum.name]
    reduced = math.prod(facts.extents[name] for name in (init.reduce.over if init.reduce else ()))
    points = math.prod(facts.extents[name] for name in names) * reduced
    for op, count in ops.items():
        operators[op] = operators.get(op, 0) + count * points
    point = sum(count * costs[op] for op, count in ops.items())
    return _whole_steps(leaf, facts, list(names)) * reduced * point, points * point


def count_traffic(
    tree: Tree, visits: tuple[Visits, ...], facts: Facts, target: Target
) -> tuple[Traffic, ...]:
    """Count what moves at every memory, by tensor."""
    counter = _Counter(target, facts)
    for leaf, mine in zip(tree.leaves, visits, strict=True):
        _operands(leaf, mine, counter)
        _results(leaf, mine, counter)
        _initial(leaf, counter)
    for scope in tree.scopes:
        _tiles(scope, counter)
    for leaf in tree.leaves:
        if leaf.name in facts.outputs:  # what no tile computes is written as zeros
            row = counter.at(leaf.name, None)
            row.writes = max(row.writes, math.prod(facts.dims[leaf.name]))
    for scope in tree.scopes:
        _spill(scope, counter)
    rows = (row for row in counter.rows.values() if row.reads or row.writes)
    order = {memory.name: number for number, memory in enumerate(target.memories)}
    return tuple(sorted(rows, key=lambda row: (order[row.memory], row.tensor)))


def _apart(leaf: Leaf, memory: Memory, target: Target) -> frozenset[int]:
    """Return the leaf's loops along which each place has its own instance of a memory."""
    axes = target.spread(memory) if memory.array == leaf.array.name else None
    names = {axis.name for axis in axes or ()}
    return frozenset(number for number, loop in enumerate(leaf.compute.loops) if loop.axis in names)


def _operands(leaf: Leaf, visits: Visits, counter: _Counter) -> None:
    for use in leaf.step.reads:
        if use.tensor in leaf.compute.taking:
            continue
        scope = leaf.kept.get(use.tensor)
        memory = counter.target.memory(scope.memory) if scope else counter.target.dram
        apart = _apart(leaf, memory, counter.target)
        read = sum(
            count * elements(use, leaf.inner, dict(kind), apart)
            for kind, count in visits.kinds.items()
        )
        share = share_in_range(leaf.step, use, leaf.paces, counter.facts)
        counter.at(use.tensor, scope).reads += round(read * share) if share < 1 else read


def _results(leaf: Leaf, visits: Visits, counter: _Counter) -> None:
    """Count results written, and partial sums read back to be added to."""
    use = leaf.step.write
    row = counter.at(use.tensor, leaf.kept.get(use.tensor))
    written = sum(
        count * elements(use, leaf.inner, dict(kind)) for kind, count in visits.kinds.items()
    )
    row.writes += written
    row.reads += max(0, written - visits.started)


def _initial(leaf: Leaf, counter: _Counter) -> None:
    """Count what ``init`` reads and writes: each element once."""
    init, facts = leaf.step.init, counter.facts
    if init is None:
        return
    row = counter.at(init.name, leaf.kept.get(init.name))
    row.writes += math.prod(facts.extents[name] for name in facts.init_names[init.name])
    for use in leaf.step.init_reads:
        names = {name for dim in use.dims for name in dim.variables}
        counter.at(use.tensor, leaf.kept.get(use.tensor)).reads += math.prod(
            facts.extents[name] for name in names
        )


def _tiles(scope: Scope, counter: _Counter) -> None:
    """Count what is copied into and out of a kept tile."""
    facts = counter.facts
    made = [leaf for leaf in scope.leaves if leaf.name == scope.tensor]
    if made and scope.tensor not in facts.outputs:
        return
    readers = [
        leaf for leaf in scope.leaves if any(u.tensor == scope.tensor for u in leaf.step.reads)
    ]
    inner, outer = counter.at(scope.tensor, scope), counter.at(scope.tensor, scope.outer)
    if readers and not made:
        uses = [use for leaf in readers for use in leaf.step.reads if use.tensor == scope.tensor]
        count = _moved(scope, readers, tuple(uses), counter)
        _fill(inner, outer, count, _replicas(scope, readers, counter.target, facts))
    if made:
        uses = [leaf.step.write for leaf in made]
        drained = _moved(scope, made, tuple(uses), counter, skip=False)
        inner.reads += drained
        inner.drains += drained
        outer.writes += drained
        first = _moved(scope, made, tuple(uses), counter, skip=False, once=True)
        if drained > first:
            _fill(inner, outer, drained - first, 1)


def _spill(scope: Scope, counter: _Counter) -> None:
    """Count the accesses to the spilled share of a tile one memory further out, too.

    They pass through the tile's own memory; the share of an input is not copied in beforehand.
    """
    share = float(scope.keep.spill)
    if not share:
        return
    inner, outer = counter.at(scope.tensor, scope), counter.at(scope.tensor, scope.outer)
    outer.reads += (inner.reads - inner.fills) * share
    outer.writes += (inner.writes - inner.fills) * share


def _fill(inner: Traffic, outer: Traffic, count: int, replicas: int) -> None:
    outer.reads += count
    inner.writes += count * replicas
    inner.fills += count * replicas


def _moved(
    scope: Scope,
    leaves: list[Leaf],
    uses: tuple[Use, ...],
    counter: _Counter,
    *,
    skip: bool = True,
    once: bool = False,
) -> int:
    """Count the elements that a scope's tile moves for some of its leaves."""
    facts = counter.facts
    paces: tuple[Pace, ...] = leaves[0].paces[: len(scope.nests)]
    guarded = [leaf for leaf in leaves if leaf.step.guard is not None] if skip else []
    skipping = len(guarded) == len(leaves) and skip
    placed = {name for use in uses for name in use.placed}
    if skipping:
        placed |= {name for leaf in guarded for name in leaf.step.guarded}
    grid = Grid(paces, facts.extents, placed)
    active: NDArray[np.bool_] | None = None
    if skipping:
        flags = [active_tiles(leaf.step, grid, facts) for leaf in guarded]
        known = [each for each in flags if each is not None]
        active = known[0]
        for each in known[1:]:
            active = active | each
    return moved(uses, grid, facts, active, once=once)


def _replicas(scope: Scope, leaves: list[Leaf], target: Target, facts: Facts) -> int:
    """Return in how many places of its array each element of a tile is kept."""
    memory = target.memory(scope.memory)
    most = 1
    for leaf in leaves:
        apart = _apart(leaf, memory, target)
        relevant = {n for u in leaf.step.reads if u.tensor == scope.tensor for n in u.relevant}
        left = dict(facts.extents)
        for nest in leaf.nests:
            left[nest.loop.variable] = min(left[nest.loop.variable], nest.loop.tile)
        total = 1
        for number, loop in enumerate(leaf.compute.loops):
            if number in apart and loop.variable not in relevant:
                total *= min(leaf.array.axis(loop.axis).size, -(-left[loop.variable] // loop.tile))
            left[loop.variable] = min(left[loop.variable], loop.tile)
        most = max(most, total)
    return most

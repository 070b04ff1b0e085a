"""What passes through the register files of processing elements: operands in, results out.

For arrays whose places each have a register file (a memory of the target that is spread over all
axes of the array). Every operation reads its operands there and writes its result there. An operand
is brought in when it changes (the rule of `leafcount.py`), unless it lives there or the leaf takes
it from the places that computed it. A reduction reads back what it adds to, but not before its
first addition; partial sums that return from another memory are brought in and read too. `model/`
leaves all this out: it counts what kept tensors move. Excluded: energy.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from dataclasses import dataclass

from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.shapes import Bound
from penstock.mapper.facts import Facts, Use, facts_of
from penstock.mapper.model.counting import LeafCount, count_leaf
from penstock.mapper.model.leafcount import elements, steps_in_time
from penstock.mapper.model.visits import Visits, visits_of
from penstock.mapper.nodes import Mapping
from penstock.mapper.scopes import Leaf, tree_of
from penstock.targets.base import Memory, Target

__all__ = ["Registers", "register_traffic"]


@dataclass(frozen=True, slots=True)
class Registers:
    """What one Einsum moves at the register files of one array, in bytes of all places together.

    Args:
        einsum: its name.
        memory: the register files.
        reads, writes: by the array's own places.
        busy: places that work, on average.
        drained: bytes that the places of another array write into `memory`: the Einsum's result.
        fresh: bytes of results that a place begins anew: it reads nothing back for them.
    """

    einsum: str
    memory: str
    reads: float
    writes: float
    busy: float
    drained: float = 0.0
    fresh: float = 0.0


def register_traffic(
    mapping: Mapping, bound: Bound, target: Target, fmt: Format
) -> tuple[Registers, ...]:
    """Count what passes through register files, Einsum by Einsum."""
    facts = facts_of(bound)
    files = {}
    for memory in target.memories:
        axes = target.spread(memory) if memory.array else None
        if axes is not None and axes == target.array(memory.array).axes:
            files[memory.array] = memory
    rows: list[Registers] = []
    for leaf in tree_of(mapping, facts, target).leaves:
        visits = visits_of(leaf.step, leaf.paces, facts)
        count = count_leaf(leaf, visits, facts, target, fmt)
        if leaf.array.name in files:
            rows.append(_own(leaf, visits, count, files[leaf.array.name], facts, fmt))
        scope = leaf.kept.get(leaf.name)
        home = target.memory(scope.memory) if scope else target.dram
        if home.array not in ("", leaf.array.name) and home == files.get(home.array):
            words = _total(leaf.step.write, leaf, visits.kinds, apart=False)
            drained = words * facts.element_bytes(leaf.name, fmt)
            rows.append(Registers(leaf.name, home.name, 0.0, 0.0, 1.0, drained))
    return tuple(rows)


def _total(
    use: Use, leaf: Leaf, kinds: MappingABC[tuple[tuple[str, int], ...], int], *, apart: bool
) -> float:
    """Count the elements of an access in all visits, for each place by itself if `apart`."""
    alone = frozenset(n for n, pace in enumerate(leaf.inner) if pace.side) if apart else frozenset()
    return sum(n * elements(use, leaf.inner, dict(kind), alone) for kind, n in kinds.items())


def _brought(use: Use, leaf: Leaf, facts: Facts) -> float:
    """Count the operands that the places bring in: one place keeps what does not change.

    The innermost loops around the leaf count as its own, down to a pipelined one.
    """
    depth = leaf.pipelined() or len(leaf.nests)
    paces = (*leaf.paces[depth:], *leaf.inner)
    kinds = visits_of(leaf.step, leaf.paces[:depth], facts).kinds
    alone = frozenset(number for number, pace in enumerate(paces) if pace.side)
    return sum(n * elements(use, paces, dict(kind), alone) for kind, n in kinds.items())


def _own(
    leaf: Leaf, visits: Visits, count: LeafCount, memory: Memory, facts: Facts, fmt: Format
) -> Registers:
    points, size = float(count.points), facts.element_bytes(leaf.name, fmt)
    reads, writes = 0.0, points * size
    for use in leaf.step.reads:
        each = facts.element_bytes(use.tensor, fmt)
        reads += points * each
        scope = leaf.kept.get(use.tensor)
        there = scope is not None and scope.memory == memory.name
        if not there and use.tensor not in leaf.compute.taking:
            writes += _brought(use, leaf, facts) * each
    out = _total(leaf.step.write, leaf, visits.kinds, apart=True)
    written = _total(leaf.step.write, leaf, visits.kinds, apart=False)
    fresh = out * min(1.0, visits.started / written) if written else 0.0
    if leaf.step.einsum.reduce is not None:
        reads += (points - fresh) * size
        writes += (out - fresh) * size
    names = leaf.step.einsum.variables
    steps = sum(
        n * steps_in_time(leaf.inner, dict(kind), names) for kind, n in visits.in_time.items()
    )
    busy = points / steps if steps else 1.0
    return Registers(leaf.name, memory.name, reads, writes, busy, fresh=fresh * size)

"""Energy with register files, and what a published count leaves out or counts wrongly, as data.

`charge` turns a mapping's counts into energy: operations, accesses of shared memories, and what
passes through the register files of all places. `Accounting` says where a published model counted
otherwise; the default is the right count. Excluded: the counts themselves (`evaluate.py`,
`registers.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping as MappingABC
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from penstock.einsum_ir.shapes import Bound
from penstock.mapper.facts import Facts, facts_of
from penstock.mapper.model.evaluate import EnergyRow, Evaluation
from penstock.mapper.model.registers import Registers
from penstock.targets.base import Memory, Target

__all__ = ["Accounting", "Drain", "Wrap", "charge"]


@dataclass(frozen=True, slots=True)
class Wrap:
    """Results of which first additions are counted as reading back, where a counter overflows.

    The counter holds (elements written) x (elements of the tile that its memory holds) in `bits`.

    Args:
        tensor: whose results.
        tile: what the tile's size is the product of: variables (their extents) or numbers that
            the mapping names.
        bits: of the counter.
    """

    tensor: str
    tile: tuple[str, ...]
    bits: int = 64


@dataclass(frozen=True, slots=True)
class Drain:
    """How results that another array writes into a register file are read there.

    Args:
        tensor: the result.
        reads: ``none``, ``each`` once, or ``again``: as if the places that compute it and those
            that get it added it up over `over`.
        over: a variable.
        charged: whether the writes and reads there are charged at all.
    """

    tensor: str
    reads: Literal["none", "each", "again"]
    over: str = ""
    charged: bool = True


@dataclass(frozen=True)
class Accounting:
    """What is charged.

    Args:
        all_places: register files of all places; else those of one place of each array.
        initial: what ``init`` writes.
        copies_out: the reads of a memory when a tile is copied out of it.
        drains: None to charge each drained word's write; else what is charged is listed.
        wraps: first additions that read back.
    """

    all_places: bool = True
    initial: bool = True
    copies_out: bool = True
    drains: tuple[Drain, ...] | None = None
    wraps: tuple[Wrap, ...] = ()


def charge(
    found: Evaluation,
    registers: Sequence[Registers],
    bound: Bound,
    target: Target,
    accounting: Accounting,
    numbers: MappingABC[str, int],
) -> tuple[EnergyRow, ...]:
    """Return the energy of a mapping by component and action.

    Args:
        found: what `evaluate` says of the mapping on `target`.
        registers: what `register_traffic` says of it.
        bound: the cascade with its extents.
        target: the machine.
        accounting: what is charged.
        numbers: the mapping's named numbers, for the tiles of `accounting.wraps`.
    """
    arrays = {array.name for array in target.arrays}
    rows = [row for row in found.energy if row.component in arrays]
    lost = {each.tensor: _lost(each, bound, numbers) for each in accounting.wraps}
    for memory in target.memories:
        mine = [row for row in registers if row.memory == memory.name]
        if mine:
            reads, writes = _files(mine, bound, accounting, lost)
        else:
            reads, writes = _shared(memory, found, bound, accounting, lost)
        rows.append(EnergyRow(memory.name, "read", reads, reads * memory.read_pj_per_byte))
        rows.append(EnergyRow(memory.name, "write", writes, writes * memory.write_pj_per_byte))
    return tuple(row for row in rows if row.count)


def _files(
    rows: Sequence[Registers],
    bound: Bound,
    accounting: Accounting,
    lost: MappingABC[str, float],
) -> tuple[float, float]:
    """Return bytes read and written at the register files of one array."""
    reads = writes = 0.0
    listed = {each.tensor: each for each in accounting.drains or ()}
    for row in rows:
        drain = listed.get(row.einsum)
        share = 1.0 if accounting.all_places else 1 / row.busy
        again = lost.get(row.einsum, 0.0) * row.fresh
        if drain is not None and drain.reads == "again":
            again += row.fresh * _drain_reads(drain, bound)
        reads += (row.reads + again) * share
        writes += (row.writes + again) * share
        if row.drained and accounting.drains is None:
            writes += row.drained
        elif row.drained and drain is not None:
            writes += row.drained * drain.charged
            reads += row.drained * drain.charged * _drain_reads(drain, bound)
    return reads, writes


def _drain_reads(drain: Drain, bound: Bound) -> float:
    """Return how often each drained word is read."""
    match drain.reads:
        case "none":
            return 0.0
        case "each":
            return 1.0
        case "again":
            return 1.0 - 1 / bound.extents[drain.over]


def _shared(
    memory: Memory,
    found: Evaluation,
    bound: Bound,
    accounting: Accounting,
    lost: MappingABC[str, float],
) -> tuple[float, float]:
    """Return bytes read from and written to a memory that is no register file."""
    reads = writes = 0.0
    facts = facts_of(bound)
    outermost = memory.name == found.dram
    for row in found.traffic:
        if row.memory != memory.name:
            continue
        size = found.element_bytes[row.tensor]
        first = row.writes - (0.0 if accounting.initial else _initial(row.tensor, facts))
        again = 0.0 if outermost else lost.get(row.tensor, 0.0) * (first - row.fills)
        left = row.reads - (0 if accounting.copies_out or outermost else row.drains)
        reads += (left + again) * size
        writes += first * size
    return reads, writes


def _initial(tensor: str, facts: Facts) -> int:
    """Return the elements that ``init`` writes."""
    names = facts.init_names.get(tensor)
    return 0 if names is None else math.prod(facts.extents[name] for name in names)


def _lost(wrap: Wrap, bound: Bound, numbers: MappingABC[str, int]) -> float:
    """Return the share of first additions that an overflow makes read back."""
    facts = facts_of(bound)
    tile = math.prod(
        numbers[name] if name in numbers else bound.extents[name] for name in wrap.tile
    )
    written = math.prod(bound.extents[name] for name in facts.steps[wrap.tensor].write.relevant)
    held = written * tile
    return float(1 - held % 2**wrap.bits / held)

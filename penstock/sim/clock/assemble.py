"""From a design to the program of a clocked machine: addresses, conditions, waits.

Each task of the mapping's trace becomes one op for each rectangle of its visit (`record.py`).
A unit's ops stand in the order (phase, epoch, older iteration first, program order) of `engine.py`;
what a task needs or must leave alone becomes a count of ops for each unit. Kept tiles lie in the
partition of the unit that writes them; all strides are odd, so that places side by side find
their words in different banks. Excluded: bits and time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.nodes import Apply, Expr, accesses
from penstock.einsum_ir.nodes import variables as variables_of
from penstock.einsum_ir.regions.counting import holds_at
from penstock.einsum_ir.shapes import Bound
from penstock.errors import DataError, MappingError
from penstock.machine.hardware import Hardware, hardware_of
from penstock.machine.program import (
    Op,
    Program,
    Transfer,
)
from penstock.mapper.nodes import Keep, Nest, Node
from penstock.mapper.nodes import Mapping as LoopMapping
from penstock.sim.clock.opshape import Builder, Site
from penstock.sim.clock.record import Move, Piece, Recorder, Rect, Visit, recorded
from penstock.sim.plan import planned
from penstock.sim.tasks import Task, collection_paused
from penstock.targets.base import Target

__all__ = ["assemble", "housed"]

LD, ST = 0, 1

_Beats = tuple[str, tuple[tuple[int, ...], ...]]


def housed(mapping: LoopMapping, bound: Bound, target: Target) -> LoopMapping:
    """Return the mapping with every tensor kept on the machine, and once.

    What a mapping keeps nowhere is kept around all loops, in the first memory that all arrays
    reach; a further keep of the same tensor inside one is left out.
    """
    shared = [memory.name for memory in target.memories[1:] if not memory.array]
    if not shared:
        raise MappingError(
            f"{target.name} has no memory that all arrays reach",
            fix="give it one, as 'gb' of mesh4x4",
        )
    kept: set[str] = set()
    body = _once(mapping.body, kept, frozenset())
    names = {each.name for each in bound.cascade.einsums}
    names |= {each.tensor for each in bound.cascade.inputs}
    missing = tuple(sorted(names - kept))
    extra = (Keep(missing, shared[0]),) if missing else ()
    return replace(mapping, body=(*extra, *body))


def _once(body: tuple[Node, ...], kept: set[str], around: frozenset[str]) -> tuple[Node, ...]:
    found: list[Node] = []
    for node in body:
        if isinstance(node, Keep):
            tensors = tuple(name for name in node.tensors if name not in around)
            kept |= set(tensors)
            around |= set(tensors)
            if tensors:
                found.append(replace(node, tensors=tensors))
        elif isinstance(node, Nest):
            found.append(replace(node, body=_once(node.body, kept, around)))
        else:
            found.append(node)
    return tuple(found)


def assemble(
    mapping: LoopMapping,
    bound: Bound,
    target: Target,
    fmt: Format,
    *,
    hardware: Hardware | None = None,
    fifo_in: int = 0,
    fifo_out: int = 0,
) -> Program:
    """Return the program of a design.

    Args:
        mapping: legal, with every tensor kept (`housed`).
        bound: the cascade with its extents.
        target: a spatial array.
        fmt: a fixed format.
        hardware: the machine; that of the target if left out.
        fifo_in: entries of the FIFO of the stream in to use; all if 0.
        fifo_out: the same of the stream out.

    Raises:
        DataError: a tensor has a format of its own.
        MappingError: an operator, a pattern of access or a size that the machine does not have.
        TargetError: no machine is generated for the target.
    """
    for tensor, own in bound.cascade.formats:
        raise DataError(
            f"the RTL has one number format for all tensors, and {tensor} has its own: {own}",
            fix=f"leave out 'format {tensor} = {own}', or map it to an FPGA",
        )
    hw = hardware or hardware_of(target, fmt)
    with collection_paused():
        recorder = recorded(planned(mapping, bound, target, fmt))
    return _Assembler(recorder, bound, fmt, hw).program(
        fifo_in or hw.fifo_depth, fifo_out or hw.fifo_depth
    )


class _Assembler(Site):
    """Lives only inside `assemble`."""

    def __init__(self, recorder: Recorder, bound: Bound, fmt: Format, hw: Hardware) -> None:
        super().__init__(recorder, bound, fmt, hw)
        self.recorder = recorder
        self.units = {name: n for n, name in enumerate(hw.units)}
        self.position: dict[Piece, int] = {}

    def program(self, fifo_in: int, fifo_out: int) -> Program:
        """Return the program."""
        order = self._order()
        last: dict[int, tuple[int, int]] = {}  # task -> (unit, ops of the unit up to its end)
        queues: list[list[Op]] = [[] for _ in self.units]
        streams: tuple[list[_Beats], list[_Beats]] = ([], [])
        pieces = {number: self._pieces(number) for unit in order for number in unit}
        for unit, numbers in enumerate(order):
            count = 0
            for number in numbers:
                for each in pieces[number]:
                    count += 1
                    if isinstance(each, Piece):
                        self.position[each] = count
                last[number] = (unit, count)
        barriers = self._barriers(order, last)
        for unit, numbers in enumerate(order):
            for number in numbers:
                waits = self._waits(number, last, barriers)
                record = self.recorder.records[number]
                for each in pieces[number]:
                    if isinstance(record, Visit):
                        queues[unit].append(self._computing(number, record, each, waits))
                    else:
                        op, beats = self._moving(number, record, each, waits)
                        queues[unit].append(op)
                        streams[unit].append((op.name, beats))
        found = Program(
            self.hw,
            self.fmt.fraction_bits,
            tuple(tuple(queue) for queue in queues),
            tuple(streams[0]),
            tuple(streams[1]),
            fifo_in,
            fifo_out,
            self.words,
        )
        self._check(found)
        return found

    def _check(self, program: Program) -> None:
        for unit, queue, shapes in zip(self.hw.units, program.queues, program.shapes, strict=True):
            for what, need, limit in (
                ("ops", len(queue), self.hw.tasks - 1),
                ("shapes of ops", len(shapes), self.hw.templates),
                ("micro-operations", program.uops, self.hw.uops),
            ):
                if need > limit:
                    raise MappingError(
                        f"{unit} needs {need} {what}, and the machine has room for {limit}",
                        fix="take smaller shapes, or a machine with more program memory",
                    )

    # --- order and waits ------------------------------------------------------------------------

    def _order(self) -> list[list[int]]:
        """Return the tasks of each unit, in order."""
        found: list[list[int]] = [[] for _ in self.units]
        for number, record in enumerate(self.recorder.records):
            if isinstance(record, Visit):
                found[self.units[record.array]].append(number)
            else:
                found[LD if record.load else ST].append(number)
        for numbers in found:
            numbers.sort(key=lambda number: (self.recorder.turns[number], number))
        return found

    def _barriers(
        self, order: list[list[int]], last: Mapping[int, tuple[int, int]]
    ) -> dict[int, tuple[int, ...]]:
        """Return, for each phase, the ops of each unit that belong to phases before it."""
        tasks = self.recorder.tasks
        phases = sorted({task.phase for task in tasks})
        found: dict[int, list[int]] = {phase: [0] * len(order) for phase in phases}
        for unit, numbers in enumerate(order):
            if unit in (LD, ST):
                continue
            place, count = 0, 0
            for phase in phases:
                while place < len(numbers) and tasks[numbers[place]].phase < phase:
                    count = last[numbers[place]][1]
                    place += 1
                found[phase][unit] = count
        return {phase: tuple(counts) for phase, counts in found.items()}

    def _waits(
        self,
        number: int,
        last: Mapping[int, tuple[int, int]],
        barriers: Mapping[int, tuple[int, ...]],
    ) -> list[int]:
        task: Task = self.recorder.tasks[number]
        waits = list(barriers[task.phase]) if task.computes else [0] * len(self.units)
        for other in (*task.needs, *task.frees):
            unit, count = last[other]
            waits[unit] = max(waits[unit], count)
        return waits

    # --- transfers ------------------------------------------------------------------------------

    def _pieces(self, number: int) -> Sequence[Piece | tuple[int, int]]:
        """Return the pieces of a task; of a transfer (first, lanes) along the last dimension."""
        record = self.recorder.records[number]
        if isinstance(record, Visit):
            return record.pieces
        bounds = record.place.block.bounds
        width = bounds[-1][1] - bounds[-1][0] if bounds else 1
        full, rest = divmod(width, self.hw.banks)
        found = [(0, full * self.hw.banks)] if full else []
        return [*found, (full * self.hw.banks, rest)] if rest else found

    def _moving(
        self, number: int, record: Move, piece: object, waits: Sequence[int]
    ) -> tuple[Op, tuple[tuple[int, ...], ...]]:
        assert isinstance(piece, tuple)
        first, width = piece
        place, tensor = record.place, record.place.hold.tensor
        room = self.rooms[place.hold]
        lanes = min(width, self.hw.banks)
        bounds = place.block.bounds or ((0, 1),)
        strides = room.strides or (1,)
        counts = (*(stop - start for start, stop in bounds[:-1]), width // lanes)
        steps = (*strides[:-1], lanes)
        kept = [n for n, count in enumerate(counts) if count > 1]
        if len(kept) > self.hw.loops:
            raise self.too_many(tensor, "dimensions")
        shape = Transfer(
            tuple(counts[n] for n in kept), lanes, room.part, tuple(steps[n] for n in kept)
        )
        origin = room.start(place) + sum(
            low * stride for (low, _), stride in zip(bounds, strides, strict=True)
        )
        op = Op(number, tensor, shape, tuple(waits), (self.wrap(origin + first),))
        return op, self._beats(tensor, bounds, first, width, lanes)

    def _beats(
        self, tensor: str, bounds: Sequence[tuple[int, int]], first: int, width: int, lanes: int
    ) -> tuple[tuple[int, ...], ...]:
        """Return the elements of each beat, as places in the flat tensor."""
        dims = self.bound.dims[tensor] or (1,)
        outer = product(*(range(*span) for span in bounds[:-1]))
        start = bounds[-1][0] + first
        found = []
        for coordinates in outer:
            row = int(np.ravel_multi_index((*coordinates, start), dims))
            found += [tuple(range(row + low, row + low + lanes)) for low in range(0, width, lanes)]
        return tuple(found)

    # --- visits ---------------------------------------------------------------------------------

    def _computing(self, number: int, visit: Visit, piece: object, waits: Sequence[int]) -> Op:
        assert isinstance(piece, Piece)
        einsum, rect = visit.einsum, piece.rect
        unit = self.units[visit.array]
        waits = list(waits)
        if piece.before is not None:
            waits[unit] = max(waits[unit], self.position[piece.before])
        tests = self._tests(visit, rect)
        clear = visit.how == "clear" or tests is None
        builder = Builder(self, visit, einsum, piece)
        shape, bases = builder.build(tests or (), clear=clear)
        return Op(number, einsum.name, shape, tuple(waits), tuple(bases))

    def _tests(self, visit: Visit, rect: Rect) -> tuple[Expr, ...] | None:
        """Return the parts of the predicate that do not hold everywhere; None if one never does."""
        found = []
        spans = rect.spans()
        for part in _conjuncts(visit.einsum.where):
            if accesses(part):
                found.append(part)
                continue
            names = variables_of(part)
            grid = np.ix_(*(np.arange(*spans[name], dtype=np.int64) for name in names))
            held = holds_at(part, dict(zip(names, grid, strict=True)), self.bound.symbols)
            if not held.any():
                return None
            if not held.all():
                found.append(part)
        return tuple(found)


def _conjuncts(expr: Expr | None) -> list[Expr]:
    match expr:
        case None:
            return []
        case Apply("and", (left, right)):
            return [*_conjuncts(left), *_conjuncts(right)]
        case _:
            return [expr]

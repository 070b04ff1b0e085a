"""From a mapping to tasks: walks the loops once, as the hardware's sequencer would.

`trace` writes down one task for each visit of a leaf (a tile of one Einsum on one array) and for
each transfer of a kept tile, with what it has to wait for. What moves, and how much, follows the
rules of the model (`mapper/model/moves.py`, `mapper/model/counting.py`), found here visit by visit.
Excluded: time (`engine.py`) and values (`values.py`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from penstock.einsum_ir.formats import Format, tensor_formats
from penstock.einsum_ir.shapes import Bound
from penstock.errors import MappingError
from penstock.mapper.nodes import Mapping
from penstock.sim.buffers import Slots, Writers
from penstock.sim.geometry import Block, Boxes, Reach, Span
from penstock.sim.grains import grains
from penstock.sim.plan import Hold, Leaf, Plan, Read, Shared, init_box, planned
from penstock.sim.tasks import Box, Direction, Lap, Row, Skip, Task, Trace, collection_paused
from penstock.targets.base import Memory, Target

__all__ = ["MAX_TASKS", "trace", "walked"]

MAX_TASKS = 2_000_000


def trace(mapping: Mapping, bound: Bound, target: Target, fmt: Format) -> Trace:
    """Walk the loops of a mapping and return what the machine has to do, in program order.

    Raises:
        MappingError: a spatial loop is shared by several Einsums (GPU and CPU mappings), or there
            are more than `MAX_TASKS` tiles.
    """
    return walked(planned(mapping, bound, target, fmt))


def walked(plan: Plan) -> Trace:
    """Walk a plan, as `trace` does.

    Raises:
        MappingError: there are more than `MAX_TASKS` tiles.
    """
    if plan.visits > MAX_TASKS:
        raise MappingError(
            f"the design has {plan.visits:,} tile tasks, the simulator takes {MAX_TASKS:,}",
            fix="simulate a smaller instance, as in --shape p=16 --shape m=16",
        )
    walker = _Walker(plan)
    with collection_paused():
        walker.run()
    return Trace(
        tuple(walker.tasks),
        tuple(walker.skips),
        tuple(walker.laps),
        tuple(walker.loads),
        tuple(walker.moved),
        {
            name: (each.refresh_every_cycles, each.refresh_cycles)
            for each in plan.target.memories
            if each.refresh_every_cycles
            for name in port_names(each)
        },
    )


Turn = tuple[int, int, int, int]
"""Phase, epoch, less the stage, number: the order in which arrays take computing tasks."""

_FIRST: Turn = (-1, 0, 0, 0)


@dataclass(frozen=True, eq=False, slots=True)
class _Visit:
    """The costs of a visit of one size; `kind` is the number of what it moves."""

    cycles: float
    latency: int
    ports: tuple[tuple[str, float], ...]
    kind: int


class _Walker:
    """The sequencer's state while it walks the loops; lives only inside `trace`."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        own = tensor_formats(plan.bound.cascade.formats)
        self.bytes = {name: own.get(name, plan.format).bytes for name in plan.bound.dims}
        self.banked = any(each.banks > 1 for each in plan.target.memories)
        self.inputs = {each.tensor for each in plan.bound.cascade.inputs}
        self.outputs = {each.tensor for each in plan.bound.cascade.outputs}
        self.tasks: list[Task] = []
        self.turns: list[Turn] = []
        self.skips: list[Skip] = []
        self.laps: list[Lap] = []
        self.loads: dict[tuple[tuple[Row, float], ...], int] = {(): 0}  # what tasks move → a number
        self.moved: list[int] = []
        self.writers = Writers(plan.bound.dims, grains(plan))
        self.slots = Slots()
        self.first: dict[Hold, int] = {}  # banked tiles: the bank of the first copy
        self.visits: dict[tuple[Leaf, tuple[int, ...], bool, tuple[str, ...]], _Visit] = {}
        self.begun: dict[str, set[int | tuple[Span, ...]]] = defaultdict(set)
        self.phase = self.iteration = self.flows = 0
        self.flow = -1  # the one that the last computing task belongs to

    def run(self) -> None:
        """Walk everything, then write out the outputs that are still in kept tiles."""
        box = {name: (0, extent) for name, extent in self.plan.bound.extents.items()}
        self.walk(self.plan.holds, self.plan.body, box, -1)
        for hold in self.slots.outermost():
            self.drain(hold)
        self.zeros()

    def walk(
        self,
        holds: tuple[Hold, ...],
        body: tuple[Shared | Leaf, ...],
        box: dict[str, Span],
        flow: int,
    ) -> None:
        """Walk one iteration of a body; `flow` numbers the pipeline around it, -1 for none."""
        for hold in holds:
            self.open(hold, box)
        for node in body:
            if isinstance(node, Leaf):
                self.leaf(node, box, flow)
            else:
                self.loop(node, box, flow)

    def loop(self, node: Shared, box: dict[str, Span], flow: int) -> None:
        for leaf in node.inits:
            self.init(leaf, box)
        if not node.flows:
            flow = -1
        elif flow < 0:
            self.flows += 1
            flow = self.flows
        name, tile = node.loop.variable, node.loop.tile
        start, stop = box[name]
        starts = []
        for low in range(start, stop, tile):
            starts.append(len(self.tasks))
            self.iteration += node.pipelined
            inner = {**box, name: (low, min(low + tile, stop))}
            self.walk(node.holds, node.body, inner, flow)
        if node.number >= 0:
            self.laps.append(Lap(node.number, (*starts, len(self.tasks))))

    def add(self, task: Task, kind: int) -> None:
        """Append a task, with its turn: that of the last computing task that it has to follow."""
        if task.computes:
            turn = (task.phase, task.epoch, -task.stage, task.number)
        else:
            turn = self.last_turn((*task.needs, *task.frees))
        self.tasks.append(task)
        self.turns.append(turn)
        self.moved.append(kind)

    def kind(self, rows: Iterable[tuple[Row, float]]) -> int:
        """Return the number of what tasks of a kind move."""
        return self.loads.setdefault(tuple(rows), len(self.loads))

    def last_turn(self, numbers: tuple[int, ...]) -> Turn:
        """Return the turn of the task among these that comes last, as arrays order them."""
        return max([self.turns[number] for number in numbers], default=_FIRST)

    # --- kept tiles -----------------------------------------------------------------------------

    def open(self, hold: Hold, box: Boxes) -> None:
        """Make room for the tile of a hold, and fetch it, if it is not the one that is there."""
        if hold.role == "none" or not hold.used(box):
            return
        block = hold.reach.block(box)
        if hold.role == "local":
            made = (block.label, *(box[name] for name in hold.again))
            self.slots.expect(hold, made, block)
            return
        if not block.elements or self.slots.holds(hold, block.label):
            return
        if hold.role == "drain":
            self.drain(hold)
        seen = self.slots.turn(hold, block.label, block)
        if hold.role == "fill" or seen:
            self.load(hold, block, box)

    def load(self, hold: Hold, block: Block, box: Boxes) -> None:
        """Copy a tile in from the memory outside."""
        outer = hold.outer.memory if hold.outer else self.plan.target.dram
        needs = self.sources(hold.outer, hold.reach, box)
        number = len(self.tasks)
        frees = self.slots.claim(hold, outer.name)
        if hold.outer:
            self.slots.touch(hold.outer, (outer.name, "load"), number)
        self.slots.touch(hold, (outer.name, "load"), number)
        self.slots.loaded(hold, number)
        if hold.role == "drain":
            self.writers.put(hold.tensor, block, number)
        inner = block.elements * hold.replicas
        self.transfer("load", hold, outer, hold.memory, (block.elements, inner), needs, frees)

    def drain(self, hold: Hold) -> None:
        """Copy a tile out to the memory outside."""
        for inner in self.slots.inside(hold):
            self.drain(inner)
        block = self.slots.leaving(hold)
        if block is None:
            return
        outer = hold.outer.memory if hold.outer else self.plan.target.dram
        needs = self.writers.of(hold.tensor, block)
        number = len(self.tasks)
        self.slots.touch(hold, (outer.name, "store"), number)
        frees = self.slots.claim(hold.outer, outer.name) if hold.outer else ()
        if hold.outer:
            self.slots.touch(hold.outer, (outer.name, "store"), number)
        self.writers.put(hold.tensor, block, number)
        sizes = (block.elements, block.elements)
        self.transfer("store", hold, outer, hold.memory, sizes, needs, frees)

    def transfer(
        self,
        kind: Literal["load", "store"],
        hold: Hold,
        outer: Memory,
        inner: Memory,
        sizes: tuple[int, int],
        needs: tuple[int, ...],
        frees: tuple[int, ...],
    ) -> None:
        """Add a task that moves (outer, inner) elements through the ports of two memories."""
        size = self.bytes[hold.tensor]
        moved = (sizes[0] * size, sizes[1] * size)
        out: Direction = "read" if kind == "load" else "write"
        into: Direction = "write" if kind == "load" else "read"
        rows: list[tuple[Row, float]] = [
            ((outer.name, hold.tensor, out), moved[0]),
            ((inner.name, hold.tensor, into), moved[1]),
        ]
        cycles = _port_cycles(inner, moved[1], hold)
        inside = self.port(hold, inner)
        outside = self.port(hold.outer, outer)
        self.add(
            Task(
                len(self.tasks),
                kind,
                outside,
                hold.tensor,
                cycles=_port_cycles(outer, moved[0], hold.outer),
                latency=outer.latency_cycles,
                needs=needs,
                frees=frees,
                phase=self.phase,
                epoch=self.iteration,
                bytes=moved[0],
                ports=((inside, cycles),) if cycles and inside != outside else (),
            ),
            self.kind(rows),
        )

    def sources(self, hold: Hold | None, reach: Reach, box: Boxes) -> tuple[int, ...]:
        """Return the tasks that put a block where it is read from."""
        if hold is not None and hold.role == "fill":
            number = self.slots.load_of(hold)
            return (number,) if number >= 0 else ()
        return () if reach.tensor in self.inputs else self.writers.wrote(reach, box)

    # --- leaves ---------------------------------------------------------------------------------

    def leaf(self, leaf: Leaf, box: dict[str, Span], flow: int) -> None:
        """Add the task of one visit."""
        if leaf.init is not None and leaf.enters:
            self.init(leaf, box)
        name = leaf.einsum.name
        mine = tuple([(each, box[each]) for each in leaf.names])
        if leaf.guard.empty(box):
            self.skip(leaf, mine, box)
            return
        if flow < 0 or flow != self.flow:
            self.phase += 1
        self.flow = flow
        number, stage = len(self.tasks), leaf.compute.stage
        needs, near = self.needs(leaf, box)
        frees = self.buffers(leaf, number)
        visit = self.visit(leaf, mine, box)
        near = (*near, *self.vacated(leaf, needs, frees))
        epoch = self.iteration + stage if flow >= 0 else 0
        if self.last_turn((*needs, *frees)) > (self.phase, epoch, -stage, number):
            self.phase += 1  # what it waits for comes later in the pipeline: let that drain
        self.add(
            Task(
                number,
                "compute",
                leaf.compute.array,
                name,
                mine,
                visit.cycles,
                visit.latency,
                needs,
                frees,
                self.phase,
                epoch,
                stage,
                ports=visit.ports,
                near=near,
                near_latency=leaf.cost.near_latency,
            ),
            visit.kind,
        )
        self.writers.write(leaf.write, box, number)

    def needs(self, leaf: Leaf, box: Boxes) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the tasks whose results a visit reads, and those whose places it reads them in.

        Partial sums that the array's own memory holds stay in its last pipeline stage: the next
        visit, which comes later on the same array, adds to them without waiting.
        """
        found: set[int] = set()
        near: set[int] = set()
        for read in leaf.reads:
            (near if read.near else found).update(self.sources(read.hold, read.reach, box))
        if leaf.einsum.reduce is not None:
            for number in self.writers.wrote(leaf.write, box):
                if not leaf.accumulates or self.tasks[number].kind == "load":
                    found.add(number)
        if leaf.stepped is not None:  # an absent step carries the old state over
            found.update(self.writers.before(leaf.write, box, *leaf.stepped))
        near -= found
        return tuple(sorted(found | near)), tuple(sorted(near))

    def vacated(
        self, leaf: Leaf, needs: tuple[int, ...], frees: tuple[int, ...]
    ) -> tuple[int, ...]:
        """Return those that free a visit's buffer place by place, ahead of its wavefront."""
        array = leaf.cost.array
        if not array.chained or leaf.memory.array != array.name:
            return ()
        return tuple(n for n in frees if n not in needs and self.tasks[n].unit == array.name)

    def buffers(self, leaf: Leaf, number: int) -> tuple[int, ...]:
        """Note which kept tiles a visit uses; return who must have let go of its output's."""
        who = (leaf.compute.array, leaf.einsum.name)
        frees = self.slots.claim(leaf.hold, leaf.compute.array) if leaf.hold else ()
        for hold in leaf.holds:
            self.slots.touch(hold, who, number)
        return frees

    def skip(self, leaf: Leaf, mine: Box, box: Boxes) -> None:
        """Note a tile without effect; a state goes on being what it was."""
        after = -1
        if leaf.stepped is not None:
            variable, place = leaf.stepped
            for step in range(*box[variable]):
                now = leaf.write.block({**box, variable: (step, step + 1)})
                after = max(after, self.writers.carry(leaf.einsum.name, now, place))
        self.skips.append(Skip(leaf.einsum.name, mine, after))

    def init(self, leaf: Leaf, box: Boxes) -> None:
        """Add what gives an iterative tensor its first coordinate.

        A constant or a copy is a reset and takes an array no time, but passes a port.
        """
        init = leaf.init
        assert init is not None
        here = init_box(init, box, self.plan.bound.extents)
        block = init.write.block(here)
        needs = {
            number for read in init.reads for number in self.sources(read.hold, read.reach, here)
        }
        number = len(self.tasks)
        frees = self.slots.claim(leaf.hold, leaf.compute.array) if leaf.hold else ()
        sizes = {name: stop - start for name, (start, stop) in here.items()}
        reads = [(read, float(read.reach.block(here).elements)) for read in init.reads]
        rows = self.rows(reads, leaf, 0.0, float(block.elements))
        self.phase += 1
        self.flow = -1
        self.add(
            Task(
                number,
                "init",
                leaf.compute.array,
                leaf.einsum.name,
                tuple((name, here[name]) for name in init.einsum.variables),
                leaf.cost.init_cycles(init.einsum, init.names, sizes),
                leaf.cost.init_latency(init.einsum),
                tuple(sorted(needs)),
                frees,
                self.phase,
                ports=self.ports(rows, init.reads, leaf),
            ),
            self.kind(rows),
        )
        self.touch_all(leaf, init.reads, number)
        self.writers.put(leaf.einsum.name, block, number)

    def touch_all(self, leaf: Leaf, reads: tuple[Read, ...], number: int) -> None:
        for hold in (leaf.hold, *(read.hold for read in reads)):
            if hold is not None:
                self.slots.touch(hold, (leaf.compute.array, f"init {leaf.einsum.name}"), number)

    # --- costs ----------------------------------------------------------------------------------

    def visit(self, leaf: Leaf, mine: Box, box: Boxes) -> _Visit:
        """Count a visit and return its costs.

        They depend on its sizes, and on whether it is the first to its output elements.
        """
        begun = self.begun[leaf.einsum.name]
        spot = self.writers.spot(leaf.write, box)
        mark = spot if spot >= 0 else leaf.write.block(box).bounds
        opens = mark not in begun
        if opens:
            begun.add(mark)
        used = self.banks_of(leaf.reads, leaf) if self.banked else ()
        key = (leaf, tuple([stop - start for _, (start, stop) in mine]), opens, used)
        found = self.visits.get(key)
        if found is None:
            sizes = {name: stop - start for name, (start, stop) in mine}
            written = leaf.cost.written(leaf.use, sizes)
            back = max(0, written - (leaf.write.block(box).elements if opens else 0))
            reads = [(read, leaf.cost.read(read.use, read.memory, sizes)) for read in leaf.reads]
            rows = self.rows(reads, leaf, float(back), float(written))
            found = self.visits[key] = _Visit(
                leaf.cost.cycles(sizes, opens=opens),
                leaf.cost.latency(sizes),
                self.ports(rows, leaf.reads, leaf),
                self.kind(rows),
            )
        return found

    def rows(
        self, reads: list[tuple[Read, float]], leaf: Leaf, back: float, written: float
    ) -> list[tuple[Row, float]]:
        """Return what passes which memory's port, in bytes."""
        found: dict[Row, float] = defaultdict(float)
        for read, count in reads:
            tensor = read.reach.tensor
            found[read.memory.name, tensor, "read"] += count * self.bytes[tensor]
        size = self.bytes[leaf.einsum.name]
        found[leaf.memory.name, leaf.einsum.name, "read"] += back * size
        found[leaf.memory.name, leaf.einsum.name, "write"] += written * size
        return [(row, size) for row, size in found.items() if size]

    def ports(
        self, rows: list[tuple[Row, float]], reads: tuple[Read, ...], leaf: Leaf
    ) -> tuple[tuple[str, float], ...]:
        """Return the cycles that each memory's port needs for some bytes."""
        holds = {(read.memory.name, read.reach.tensor): read.hold for read in reads}
        holds[leaf.memory.name, leaf.einsum.name] = leaf.hold
        found: dict[str, float] = defaultdict(float)
        for (name, tensor, _), size in rows:
            memory = self.plan.target.memory(name)
            hold = holds[name, tensor]
            found[self.port(hold, memory)] += _port_cycles(memory, size, hold)
        return tuple((memory, cycles) for memory, cycles in found.items() if cycles)

    def port(self, hold: Hold | None, memory: Memory) -> str:
        """Return the name of the port at which the present tile of a hold lies.

        Kept tiles and their copies take the banks of a memory in turn.
        """
        if hold is None or memory.banks == 1:
            return memory.name
        if hold not in self.first:
            self.first[hold] = sum(each.copies for each in self.first if each.memory is hold.memory)
        copy = self.slots.turns(hold) % hold.copies
        return port_names(memory)[(self.first[hold] + copy) % memory.banks]

    def banks_of(self, reads: tuple[Read, ...], leaf: Leaf) -> tuple[str, ...]:
        """Return the ports that a visit uses."""
        return (
            *(self.port(read.hold, read.memory) for read in reads),
            self.port(leaf.hold, leaf.memory),
        )

    def zeros(self) -> None:
        """Write zeros where an output that is kept nowhere was never computed."""
        for tensor in sorted(self.outputs - self.slots.tensors()):
            missing = self.writers.unwritten(tensor)
            if not missing:
                continue
            dram, size = self.plan.target.dram, missing * self.bytes[tensor]
            cycles = _port_cycles(dram, size, None)
            self.add(
                Task(len(self.tasks), "store", dram.name, tensor, cycles=cycles, bytes=size),
                self.kind([((dram.name, tensor, "write"), size)]),
            )


def _port_cycles(memory: Memory, size: float, hold: Hold | None) -> float:
    """Return the cycles that bytes take a port: a kept tile's is that of its bank."""
    if memory.burst_bytes:
        size = math.ceil(size / memory.burst_bytes) * memory.burst_bytes
    share = memory.banks if hold is not None else 1
    return size * share / (memory.bytes_per_cycle * memory.instances)


def port_names(memory: Memory) -> tuple[str, ...]:
    """Return the names of a memory's ports: its own, or one for each bank."""
    if memory.banks == 1:
        return (memory.name,)
    return tuple(f"{memory.name}[{bank}]" for bank in range(memory.banks))

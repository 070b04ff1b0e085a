"""What the clocked machine has to know of each task: which tile is where, and how sums go on.

Walks a mapping as `walk.py` does and notes, for each task, the kept tiles that it uses (`Place`)
and the rectangular pieces (`Rect`) of its iteration space. What is skipped takes work here if
somebody reads it: a clearing visit writes that the elements are absent, and a state is copied from
its coordinate before. Excluded: addresses and micro-operations (`assemble.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from penstock.einsum_ir.nodes import Access, Einsum, Expr, Num, Var, variables
from penstock.errors import MappingError
from penstock.mapper.nodes import Loop
from penstock.sim.geometry import Block, Boxes, Span
from penstock.sim.plan import Hold, Leaf, Plan, Read, init_box
from penstock.sim.tasks import Box, Task
from penstock.sim.walk import _Walker
from penstock.targets.base import Array

__all__ = ["Level", "Move", "Piece", "Place", "Recorder", "Rect", "Visit", "earlier", "recorded"]


@dataclass(frozen=True, slots=True)
class Place:
    """The tile of a hold that a task uses: number `turn` (from 1), which is `block`."""

    hold: Hold
    turn: int
    block: Block


@dataclass(frozen=True, slots=True)
class Level:
    """Steps over one variable: in time, or along an axis of the array."""

    variable: str
    count: int
    stride: int
    axis: str


@dataclass(frozen=True, slots=True)
class Rect:
    """A rectangular piece of a visit: where variables start, and the loops over them."""

    starts: tuple[tuple[str, int], ...]
    levels: tuple[Level, ...]

    def spans(self) -> dict[str, Span]:
        """Return variable → (start, stop)."""
        sizes = {name: 1 for name, _ in self.starts}
        for level in self.levels:
            sizes[level.variable] *= level.count
        return {name: (start, start + sizes[name]) for name, start in self.starts}


@dataclass(eq=False, slots=True)
class Piece:
    """A rectangle, the piece before whose sum it goes on with, and whether nobody goes on."""

    rect: Rect
    before: Piece | None = None
    final: bool = True


@dataclass(frozen=True, eq=False, slots=True)
class Visit:
    """A task that computes: ``how`` says whether it does, clears, or copies a state."""

    einsum: Einsum
    array: str
    how: Literal["compute", "clear", "carry"]
    pieces: tuple[Piece, ...]
    reads: Mapping[str, Place]
    write: Place


@dataclass(frozen=True, eq=False, slots=True)
class Move:
    """A task that loads or stores a tile."""

    place: Place
    load: bool


def recorded(plan: Plan) -> Recorder:
    """Walk a plan, twice: first to find out which empty tiles are read by somebody.

    Raises:
        MappingError: a tensor is kept nowhere, or a partial output leaves the machine.
    """
    first = Recorder(plan, frozenset())
    first.run()
    if not first.wanted:
        return first
    second = Recorder(plan, frozenset(first.wanted))
    second.run()
    return second


class Recorder(_Walker):
    """A walk that notes what the clocked machine needs to know."""

    def __init__(self, plan: Plan, clears: frozenset[int]) -> None:
        super().__init__(plan)
        self.clears = clears
        self.wanted: set[int] = set()
        self.skipped = 0
        self.records: list[Visit | Move] = []
        self.sums: dict[tuple[object, ...], Piece] = {}
        self.empty: dict[str, NDArray[np.int64]] = {}
        self.flow_now = -1

    # --- transfers ------------------------------------------------------------------------------

    def load(self, hold: Hold, block: Block, box: Boxes) -> None:
        """Note a load, of an input."""
        if hold.role == "drain":
            raise MappingError(
                f"{hold.tensor} is written out in parts and read back, which would round its sums",
                fix=f"keep {hold.tensor} around the loops over what it sums",
            )
        self.records.append(Move(self._place(hold, hold.tensor), load=True))
        super().load(hold, block, box)

    def drain(self, hold: Hold) -> None:
        """Note a store, of an output."""
        before = len(self.tasks)
        place = self._place(hold, hold.tensor) if self.slots.holds_any(hold) else None
        super().drain(hold)
        if len(self.tasks) > before and place is not None:
            self.records.append(Move(place, load=False))
            self._read(hold.tensor, place.block)

    def zeros(self) -> None:
        """All outputs are kept; elements that nothing writes are 0 outside."""

    # --- visits ---------------------------------------------------------------------------------

    def leaf(self, leaf: Leaf, box: dict[str, Span], flow: int) -> None:
        """Note a visit."""
        self.flow_now = flow
        if leaf.stepped is not None and leaf.init is None:
            raise MappingError(
                f"{leaf.einsum.name} begins with nothing, and the RTL has to begin with something",
                span=leaf.einsum.span,
                fix=f"add a line 'init {leaf.einsum.name}[.., 0, ..] = 0'",
            )
        super().leaf(leaf, box, flow)
        if leaf.guard.empty(box):
            return
        for read in leaf.reads:
            self._read(read.reach.tensor, read.reach.block(box))
        block = leaf.write.block(box)
        self._table(leaf.einsum.name)[block.slices] = -1
        self.records.append(self._visit(leaf, box, "compute"))

    def skip(self, leaf: Leaf, mine: Box, box: Boxes) -> None:
        """Note a tile without effect, with what that takes."""
        number = self.skipped
        self.skipped += 1
        name, block = leaf.einsum.name, leaf.write.block(box)
        if leaf.stepped is not None:
            self._read(name, _before(leaf, box, block))
            self._extra(leaf, box, block, "carry")
            self._table(name)[block.slices] = -1
            return
        super().skip(leaf, mine, box)
        if leaf.einsum.reduce is not None and not _fresh(leaf.einsum, box, self.plan):
            return
        self._forget(leaf, box)
        self._table(name)[block.slices] = number
        if number in self.clears:
            self._extra(leaf, box, block, "clear")

    def init(self, leaf: Leaf, box: Boxes) -> None:
        """Note the visit that gives a state its first coordinate."""
        init = leaf.init
        assert init is not None
        here = init_box(init, box, self.plan.bound.extents)
        super().init(leaf, box)
        loops = _init_loops(leaf, self.plan.target.array(leaf.compute.array))
        for read in init.reads:
            self._read(read.reach.tensor, read.reach.block(here))
        pieces = tuple(Piece(rect) for rect in rectangles(loops, here, init.einsum.variables))
        pieces = _chained(pieces, init.einsum)
        places = self._places(init.reads, leaf)
        write = self._place(leaf.hold, leaf.einsum.name)
        self._table(leaf.einsum.name)[init.write.block(here).slices] = -1
        array = leaf.compute.array
        self.records.append(Visit(init.einsum, array, "compute", pieces, places, write))

    # --- notes ----------------------------------------------------------------------------------

    def _extra(self, leaf: Leaf, box: Boxes, block: Block, how: Literal["clear", "carry"]) -> None:
        """Add a task for a tile that is skipped."""
        flow, stage = self.flow_now, leaf.compute.stage
        if flow < 0 or flow != self.flow:
            self.phase += 1
        self.flow = flow
        number = len(self.tasks)
        name = leaf.einsum.name
        needs: tuple[int, ...] = ()
        if leaf.stepped is not None:
            needs = self.writers.before(leaf.write, box, *leaf.stepped)
        frees = self.buffers(leaf, number)
        epoch = self.iteration + stage if flow >= 0 else 0
        if self.last_turn((*needs, *frees)) > (self.phase, epoch, -stage, number):
            self.phase += 1
        task = Task(number, "compute", leaf.compute.array, name, tuple(box.items()))
        task = task._replace(needs=needs, frees=frees, phase=self.phase, epoch=epoch, stage=stage)
        self.add(task, self.kind(()))
        self.writers.put(name, block, number)
        self.records.append(self._visit(leaf, box, how))

    def _visit(self, leaf: Leaf, box: Boxes, how: Literal["compute", "clear", "carry"]) -> Visit:
        einsum = leaf.einsum
        if how != "compute":
            value: Expr = Num(0) if how == "clear" else earlier(einsum)
            einsum = Einsum(einsum.output, value)
        inside = [loop for loop in leaf.compute.loops if loop.variable in einsum.variables]
        pieces = tuple(Piece(rect) for rect in rectangles(tuple(inside), box, einsum.variables))
        write = self._place(leaf.hold, einsum.name)
        if einsum.reduce is not None:
            if _fresh(einsum, box, self.plan):
                self._forget(leaf, box)
            for piece in pieces:
                key = self._sum(einsum, piece.rect, write)
                piece.before = self.sums.get(key)
                if piece.before is not None:
                    piece.before.final = False
                self.sums[key] = piece
        places = self._places(leaf.reads if how == "compute" else (), leaf)
        return Visit(einsum, leaf.compute.array, how, pieces, places, write)

    def _forget(self, leaf: Leaf, box: Boxes) -> None:
        """Begin the sums of a tile anew."""
        if leaf.einsum.reduce is None or leaf.hold is None:
            return
        tile = leaf.write.block(box).bounds
        gone = [key for key in self.sums if key[0] == leaf.einsum.name and key[2] == tile]
        for key in gone:
            del self.sums[key]

    def _sum(self, einsum: Einsum, rect: Rect, write: Place) -> tuple[object, ...]:
        spans = rect.spans()
        kept = tuple(spans[name] for name in variables(einsum.output))
        tile = write.block.bounds
        return (einsum.name, write.turn, tile, kept)

    def _place(self, hold: Hold | None, tensor: str) -> Place:
        if hold is None:
            raise MappingError(
                f"{tensor} is kept nowhere, and the RTL's arrays reach no memory outside",
                fix=f"write 'keep {tensor} in ..' for a memory of the machine",
            )
        turn, block = self.slots.place(hold)
        stepped = self.plan.bound.cascade.iterative.get(tensor)
        return Place(hold, turn, block if stepped is None else _from_start(block, stepped[1]))

    def _places(self, reads: tuple[Read, ...], leaf: Leaf) -> dict[str, Place]:
        found = {each.use.tensor: self._place(each.hold, each.use.tensor) for each in reads}
        if leaf.hold is not None:
            found.setdefault(leaf.einsum.name, self._place(leaf.hold, leaf.einsum.name))
        return found

    def _table(self, tensor: str) -> NDArray[np.int64]:
        if tensor not in self.empty:
            self.empty[tensor] = np.full(self.plan.bound.dims[tensor], -1, dtype=np.int64)
        return self.empty[tensor]

    def _read(self, tensor: str, block: Block) -> None:
        if tensor not in self.inputs:
            found = np.unique(self._table(tensor)[block.slices]).tolist()
            self.wanted.update(number for number in found if number >= 0)


def _before(leaf: Leaf, box: Boxes, block: Block) -> Block:
    """Return the state's coordinates before those of a step."""
    assert leaf.stepped is not None
    variable, place = leaf.stepped
    span = box[variable]
    slices = (*block.slices[:place], slice(*span), *block.slices[place + 1 :])
    bounds = (*block.bounds[:place], span, *block.bounds[place + 1 :])
    return Block(bounds, block.elements, bounds, slices)


def _from_start(block: Block, place: int) -> Block:
    """Return a block of a state with the coordinate from which its first step starts."""
    low, high = block.bounds[place]
    span = (max(low - 1, 0), high)
    bounds = (*block.bounds[:place], span, *block.bounds[place + 1 :])
    slices = (*block.slices[:place], slice(*span), *block.slices[place + 1 :])
    return replace(block, bounds=bounds, label=bounds, slices=slices)


def earlier(einsum: Einsum) -> Access:
    """Return the element of a state from which a step starts."""
    name = einsum.iterative
    assert name is not None
    indices = tuple(
        Var(name) if variables(index) == (name,) else index for index in einsum.output.indices
    )
    return Access(einsum.name, indices)


def _fresh(einsum: Einsum, box: Boxes, plan: Plan) -> bool:
    """Whether a tile is the first, in the order of loops, that a reduction comes to."""
    assert einsum.reduce is not None
    return all(box[name][0] == 0 for name in einsum.reduce.over)


def _init_loops(leaf: Leaf, array: Array) -> tuple[Loop, ...]:
    """Return the step's loops with the names of the init's variables, then its own.

    The init may cover more coordinates than the step's visits: in several rounds on an axis.
    """
    init = leaf.init
    assert init is not None
    mine = {theirs: name for name, theirs in init.names.items()}
    loops: list[Loop] = []
    for loop in leaf.compute.loops:
        name = mine.get(loop.variable)
        if name is None:
            continue
        if loop.spatial:
            loops.append(Loop(name, loop.tile * array.axis(loop.axis).size))
        loops.append(replace(loop, variable=name))
    known = {loop.variable for loop in loops}
    return (*loops, *(Loop(name) for name in init.einsum.variables if name not in known))


def _chained(pieces: tuple[Piece, ...], einsum: Einsum) -> tuple[Piece, ...]:
    """Let pieces with the same output go on with each other's sums."""
    last: dict[object, Piece] = {}
    for piece in pieces:
        spans = piece.rect.spans()
        key = tuple(spans[name] for name in variables(einsum.output))
        if einsum.reduce is not None and key in last:
            piece.before, last[key].final = last[key], False
        last[key] = piece
    return pieces


def rectangles(loops: tuple[Loop, ...], box: Boxes, names: tuple[str, ...]) -> Iterator[Rect]:
    """Yield the rectangles that loops step through in a box: remainders apart, in order."""
    starts = {name: box[name][0] for name in names}
    sizes = {name: box[name][1] - box[name][0] for name in names}

    def split(
        number: int, starts: dict[str, int], sizes: dict[str, int], done: tuple[Level, ...]
    ) -> Iterator[Rect]:
        if number == len(loops):
            assert all(size == 1 for size in sizes.values()), (sizes, loops)
            yield Rect(tuple(starts.items()), done)
            return
        loop = loops[number]
        name, tile = loop.variable, loop.tile
        full, rest = divmod(sizes[name], tile)
        if full:
            level = Level(name, full, tile, loop.axis)
            yield from split(number + 1, starts, {**sizes, name: tile}, (*done, level))
        if rest:
            begin = {**starts, name: starts[name] + full * tile}
            yield from split(number + 1, begin, {**sizes, name: rest}, done)

    yield from split(0, starts, sizes, ())

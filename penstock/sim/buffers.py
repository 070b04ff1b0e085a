"""Who wrote what last, and who has used which copy of a kept tile: where waits come from.

Excluded: time.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.sim.geometry import Block, Boxes, Reach, Span
from penstock.sim.plan import Hold

__all__ = ["Slots", "Writers"]

NOBODY = -1

Label = tuple[object, ...] | None
"""Equal for equal tiles."""


class _Spots:
    """The cells of one reach, dimension by dimension."""

    def __init__(self, reach: Reach, grains: tuple[int, ...], shape: tuple[int, ...]) -> None:
        strides = [math.prod(shape[place + 1 :]) for place in range(len(shape))]
        known: list[dict[Any, int]] = [{} for _ in shape]
        self.columns = tuple(zip(reach.dims, grains, strides, known, strict=True))

    def of(self, box: Boxes) -> int:
        """Return the number of the cell over a box, -1 if there is more than one."""
        total = 0
        for dim, grain, stride, known in self.columns:
            names = dim.names
            key = box[names[0]] if len(names) == 1 else tuple([box[name] for name in names])
            cell = known.get(key)
            if cell is None:
                (start, stop), *_ = dim.part(box)
                one = start // grain == (stop - 1) // grain and start < stop
                cell = known[key] = start // grain * stride if one else -1
            if cell < 0:
                return -1
            total += cell
        return total


class Writers:
    """For each element of each tensor, the task that wrote it last.

    Args:
        dims: tensor → its extents.
        grains: tensor → for each dimension a length that divides every coordinate at which what
            is written begins or ends, the end of the dimension aside. A block of that size has
            one writer, and so takes one cell. 1 in the dimension of an iterative rank.
    """

    def __init__(
        self, dims: Mapping[str, tuple[int, ...]], grains: Mapping[str, tuple[int, ...]]
    ) -> None:
        self._dims, self._grains = dims, grains
        self._cells: dict[str, NDArray[np.int64]] = {}
        self._places: dict[tuple[str, tuple[Span, ...]], tuple[slice, ...] | int] = {}
        self._spots: dict[Reach, _Spots] = {}

    def _of(self, tensor: str) -> NDArray[np.int64]:
        if tensor not in self._cells:
            pairs = zip(self._dims[tensor], self._grains[tensor], strict=True)
            shape = [-(-extent // grain) for extent, grain in pairs]
            self._cells[tensor] = np.full(shape, NOBODY, dtype=np.int64)
        return self._cells[tensor]

    def _place(self, tensor: str, block: Block) -> tuple[slice, ...] | int:
        """Return the cells of a block: one, by its number, or slices."""
        found = self._places.get((tensor, block.bounds))
        if found is None:
            pairs = zip(block.bounds, self._grains[tensor], strict=True)
            spans = [(start // grain, -(-stop // grain)) for (start, stop), grain in pairs]
            found = tuple(slice(*span) for span in spans)
            if all(stop == start + 1 for start, stop in spans):
                shape = self._of(tensor).shape
                found = int(np.ravel_multi_index(tuple(start for start, _ in spans), shape))
            self._places[tensor, block.bounds] = found
        return found

    def put(self, tensor: str, block: Block, number: int) -> None:
        """Note that a task writes or moves a block."""
        cells, place = self._of(tensor), self._place(tensor, block)
        if isinstance(place, int):
            cells.flat[place] = number
        else:
            cells[place] = number

    def of(self, tensor: str, block: Block) -> tuple[int, ...]:
        """Return the tasks that wrote the elements of a block last."""
        cells, place = self._of(tensor), self._place(tensor, block)
        if isinstance(place, int):
            number = cells.item(place)
            return () if number == NOBODY else (number,)
        found = set(cells[place].ravel().tolist())
        found.discard(NOBODY)
        return tuple(sorted(found))

    def spot(self, reach: Reach, box: Boxes) -> int:
        """Return the number of the cell that a reach is over a box, -1 if it is several."""
        spots = self._spots.get(reach)
        if spots is None:
            shape, grain = self._of(reach.tensor).shape, self._grains[reach.tensor]
            spots = self._spots[reach] = _Spots(reach, grain, shape)
        return spots.of(box)

    def wrote(self, reach: Reach, box: Boxes) -> tuple[int, ...]:
        """Return the tasks that wrote what a reach is over a box last."""
        spot = self.spot(reach, box)
        if spot < 0:
            return self.of(reach.tensor, reach.block(box))
        number = self._cells[reach.tensor].item(spot)
        return () if number == NOBODY else (number,)

    def write(self, reach: Reach, box: Boxes, number: int) -> None:
        """Note that a task writes what a reach is over a box."""
        spot = self.spot(reach, box)
        if spot < 0:
            self.put(reach.tensor, reach.block(box), number)
        else:
            self._cells[reach.tensor].flat[spot] = number

    def before(self, reach: Reach, box: Boxes, variable: str, place: int) -> tuple[int, ...]:
        """Return the tasks that wrote the coordinates from which an iterative step starts.

        Args:
            reach: what the step writes.
            box: its coordinates.
            variable: the iterative rank's.
            place: its dimension.
        """
        span, spot = box[variable], self.spot(reach, box)
        if spot >= 0 and span[1] - span[0] == 1:
            cells = self._cells[reach.tensor]
            number = cells.item(spot - math.prod(cells.shape[place + 1 :]))
            return () if number == NOBODY else (number,)
        block = reach.block(box)
        bounds = (*block.bounds[:place], span, *block.bounds[place + 1 :])
        slices = (*block.slices[:place], slice(*span), *block.slices[place + 1 :])
        return self.of(reach.tensor, Block(bounds, block.elements, bounds, slices))

    def carry(self, tensor: str, block: Block, place: int) -> int:
        """Note that a block has the writers of the one before it along a dimension.

        Returns:
            The last of them, -1 if nothing wrote it.
        """
        found = self._place(tensor, block)
        cells = self._of(tensor)
        if isinstance(found, int):
            corner = np.unravel_index(found, cells.shape)
            found = tuple(slice(int(at), int(at) + 1) for at in corner)
        there = list(found)
        there[place] = slice(found[place].start - 1, found[place].stop - 1)
        cells[found] = cells[tuple(there)]
        return int(cells[found].max(initial=NOBODY))

    def unwritten(self, tensor: str) -> int:
        """Return how many elements of a tensor nothing wrote."""
        found = (self._of(tensor) == NOBODY).astype(np.int64)
        for extent, grain in zip(self._dims[tensor], self._grains[tensor], strict=True):
            sizes = np.minimum(grain, extent - np.arange(0, extent, grain))
            found = np.tensordot(found, sizes, axes=(0, 0))
        return int(found)


@dataclass
class _Slot:
    """The copies of one kept tile.

    ``history`` has, for each of the last tiles, user → the last task that used it; ``turns``
    counts the tiles so far.
    """

    hold: Hold
    history: deque[dict[tuple[str, str], int]]
    label: Label = None
    expected: Label = None
    block: Block | None = None
    claimed: set[str] = field(default_factory=set)
    seen: set[Label] = field(default_factory=set)
    load: int = NOBODY
    dirty: bool = False
    turns: int = 0


class Slots:
    """The tile that each hold has now, and who used the ones before it.

    Units work in order, so that of each unit and Einsum the last user is enough.
    """

    def __init__(self) -> None:
        self._slots: dict[Hold, _Slot] = {}

    def _slot(self, hold: Hold) -> _Slot:
        found = self._slots.get(hold)
        if found is None:
            found = self._slots[hold] = _Slot(hold, deque(maxlen=hold.copies + 1))
        return found

    def _turned(self, hold: Hold) -> _Slot:
        """Return the slot, with the tile that is expected."""
        slot = self._slot(hold)
        if not slot.history or slot.expected != slot.label:
            self._next(slot, slot.expected)
        return slot

    def _next(self, slot: _Slot, label: Label) -> None:
        slot.label = slot.expected = label
        slot.history.append({})
        slot.turns += 1
        slot.claimed.clear()
        slot.load = NOBODY

    def expect(self, hold: Hold, label: Label, block: Block) -> None:
        """Say which tile comes when somebody next uses the hold."""
        slot = self._slot(hold)
        slot.expected, slot.block = label, block

    def holds(self, hold: Hold, label: Label) -> bool:
        """Whether a tile is there."""
        slot = self._slot(hold)
        return bool(slot.history) and slot.label == label

    def holds_any(self, hold: Hold) -> bool:
        """Whether a hold has a tile."""
        return self._slot(hold).block is not None

    def turn(self, hold: Hold, label: Label, block: Block) -> bool:
        """Make a tile the present one; return whether it was there at any time before."""
        slot = self._slot(hold)
        self._next(slot, label)
        slot.block, slot.dirty = block, hold.role == "drain"
        again = label in slot.seen
        slot.seen.add(label)
        return again

    def claim(self, hold: Hold, unit: str) -> tuple[int, ...]:
        """Return the tasks that must end before a unit first writes to the present tile."""
        if hold.role == "none":
            return ()
        slot = self._turned(hold)
        slot.dirty = slot.dirty or hold.role == "drain"
        if unit in slot.claimed:
            return ()
        slot.claimed.add(unit)
        if len(slot.history) <= hold.copies:
            return ()
        return tuple(sorted(set(slot.history[0].values())))

    def touch(self, hold: Hold, who: tuple[str, str], number: int) -> None:
        """Note that a task uses the present tile."""
        if hold.role != "none":
            self._turned(hold).history[-1][who] = number

    def loaded(self, hold: Hold, number: int) -> None:
        """Note the task that fetched the present tile."""
        self._slot(hold).load = number

    def load_of(self, hold: Hold) -> int:
        """Return the task that fetched the present tile, -1 if none did."""
        return self._slot(hold).load

    def place(self, hold: Hold) -> tuple[int, Block]:
        """Return the number of the present tile, counted from 1, and the tile."""
        slot = self._slot(hold)
        assert slot.block is not None
        return slot.turns, slot.block

    def turns(self, hold: Hold) -> int:
        """Return the number of the present tile, counted from 1; 0 before the first."""
        return self._slot(hold).turns

    def leaving(self, hold: Hold) -> Block | None:
        """Return the present tile if it has to be written out; from then on it has not."""
        slot = self._slot(hold)
        if not slot.dirty:
            return None
        slot.dirty = False
        return slot.block

    def inside(self, hold: Hold) -> list[Hold]:
        """Return the holds of the same tensor directly inside one."""
        return [slot.hold for slot in self._slots.values() if slot.hold.outer is hold]

    def outermost(self) -> list[Hold]:
        """Return the holds that nothing but the outermost memory is around."""
        return [slot.hold for slot in self._slots.values() if slot.hold.outer is None]

    def tensors(self) -> set[str]:
        """Return the tensors that are kept somewhere."""
        return {slot.hold.tensor for slot in self._slots.values()}

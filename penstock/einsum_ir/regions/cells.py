"""Cells of a plane of coordinates on which a condition does not change: counted, and as tiles.

The plane of two variables x and y is cut by the lines of `lines.py`. A cell is a range of k with,
for each k, the q between two lines: its points are counted by an arithmetic series, and the tiles
that it touches are, in each row of tiles, one range of columns. So the cost goes with the number of
cells and of rows of tiles, not with the extents. One problem has many *rows*: planes that differ
in the values of other variables. Excluded: expressions (`lines.py`), what rows are (`tiling.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.einsum_ir.nodes import Expr
from penstock.einsum_ir.regions.bounds import box_status
from penstock.einsum_ir.regions.counting import holds_at
from penstock.einsum_ir.regions.lines import (
    BeyondError,
    Lattice,
    Lines,
    Piece,
    RefineError,
    lines_of,
)
from penstock.einsum_ir.regions.runs import gaps, ragged, runs_of

__all__ = ["Axis", "Cells", "Plane", "cells_of", "columns_beside", "columns_of", "rectangles"]

Ints = NDArray[np.int64]
Boxes = Mapping[str, tuple[Ints, Ints]]

ROWS = 1 << 18
"""Rows of a problem, residues included."""

ENTRIES = 1 << 23
"""Entries of the largest array."""

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Axis:
    """One of the two variables: its name ("" for none), its block, and the residues of blocks."""

    name: str
    block: int = 1
    residues: int = 1


@dataclass(frozen=True, eq=False)
class Plane:
    """Rows: the coordinates ``x0 .. x1`` and ``y0 .. y1`` (included), and the other variables."""

    x: str
    y: str
    x0: Ints
    x1: Ints
    y0: Ints
    y1: Ints
    others: Mapping[str, NDArray[Any]]

    def take(self, which: Any) -> Plane:
        """Return some of the rows."""
        x0, x1, y0, y1 = (each[which] for each in (self.x0, self.x1, self.y0, self.y1))
        others = {name: values[which] for name, values in self.others.items()}
        return Plane(self.x, self.y, x0, x1, y0, y1, others)


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells of a plane: k from `k0` to `k1`, q from `low0` to `high0` at k0, and so on at k1.

    Args:
        plane: the rows that `row` counts.
        x, y: how k and q become coordinates: ``block * (residues * k + rx)``.
        rx, ry: the residues of each cell.
        held, volume: points of each block, and how many of them satisfy the condition.
    """

    plane: Plane
    x: Axis
    y: Axis
    row: Ints
    rx: Ints
    ry: Ints
    k0: Ints
    k1: Ints
    low0: Ints
    high0: Ints
    low1: Ints
    high1: Ints
    held: Ints
    volume: Ints

    @property
    def points(self) -> int:
        """How many points satisfy the condition."""
        twice = (self.high0 - self.low0 + 1) + (self.high1 - self.low1 + 1)
        blocks = (self.k1 - self.k0 + 1) * twice // 2
        whole, rest = blocks >> 20, blocks & ((1 << 20) - 1)  # sums of products beyond 64 bits
        return (int((whole * self.held).sum()) << 20) + int((rest * self.held).sum())


def rectangles(plane: Plane, holds: NDArray[np.bool_]) -> Cells:
    """Return whole rows as cells, each with the same answer everywhere."""
    zero, one = np.zeros(len(holds), np.int64), np.ones(len(holds), np.int64)
    row = np.arange(len(holds))
    ends = (plane.x0, plane.x1, plane.y0, plane.y1, plane.y0, plane.y1)
    axes = Axis(plane.x), Axis(plane.y)
    return Cells(plane, *axes, row, zero, zero, *ends, holds.astype(np.int64), one)


def cells_of(pred: Expr, plane: Plane, blocks: tuple[int, int]) -> Cells:
    """Cut rows into cells and decide each.

    Args:
        pred: a condition over the plane's variables and numbers, present everywhere.
        plane: the rows.
        blocks: coordinates of a block along x and y.

    Raises:
        BeyondError: the condition is cut by too many lines, or by none that are straight.
    """
    x, y = Axis(plane.x, blocks[0]), Axis(plane.y, blocks[1])
    for _ in range(24):
        if len(plane.x0) * x.residues * y.residues > ROWS:
            raise BeyondError
        try:
            return _cut(pred, plane, x, y)
        except RefineError as more:
            x = replace(x, residues=x.residues * more.x)
            y = replace(y, residues=y.residues * more.y)
    raise BeyondError


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows with residues: which row of the plane, residues, and ranges of k and q."""

    row: Ints
    rx: Ints
    ry: Ints
    k0: Ints
    k1: Ints
    q0: Ints
    q1: Ints


def _rows(plane: Plane, x: Axis, y: Axis) -> _Rows:
    count = len(plane.x0)
    row, rx, ry = (
        each.reshape(-1)
        for each in np.meshgrid(
            np.arange(count), np.arange(x.residues), np.arange(y.residues), indexing="ij"
        )
    )
    k0, k1 = _range(x, rx, plane.x0[row], plane.x1[row])
    q0, q1 = _range(y, ry, plane.y0[row], plane.y1[row])
    some = (k0 <= k1) & (q0 <= q1)
    return _Rows(*(each[some] for each in (row, rx, ry, k0, k1, q0, q1)))


def _range(axis: Axis, rest: Ints, low: Ints, high: Ints) -> tuple[Ints, Ints]:
    """Return the first and the last number of the blocks that touch a range of coordinates."""
    first = -((rest - low // axis.block) // axis.residues)
    return first, (high // axis.block - rest) // axis.residues


def _whole(axis: Axis, rest: Ints, low: Ints, high: Ints) -> list[Ints]:
    """Return the numbers after which blocks are first, and no longer, whole."""
    if axis.block == 1:
        return []
    before = -(-low // axis.block) - 1
    last = (high + 1) // axis.block - 1
    return [(before - rest) // axis.residues, (last - rest) // axis.residues]


def _cut(pred: Expr, plane: Plane, x: Axis, y: Axis) -> Cells:
    rows = _rows(plane, x, y)
    if not len(rows.row):
        return _decided(pred, plane, x, y, rows, *(rows.row,) * 7)
    lines = lines_of(pred, _lattice(plane, x, y, rows))
    extra = _whole(y, rows.ry, plane.y0[rows.row], plane.y1[rows.row])
    steps = _whole(x, rows.rx, plane.x0[rows.row], plane.x1[rows.row])
    level = (rows.q0 - 1, rows.q1, *extra)
    slopes = np.array([*lines.slopes, *(0 for _ in level)], dtype=np.int64)
    shape = rows.row.shape
    offsets = np.stack([np.broadcast_to(each, shape) for each in (*lines.offsets, *level)], axis=1)
    owner, first, last = _pieces(rows, lines, steps, slopes, offsets)
    if len(owner) * len(slopes) > ENTRIES:
        raise BeyondError
    ends = [offsets[owner] + slopes * each[:, None] for each in (first, last)]
    order = np.argsort(ends[0] + ends[1], axis=1, kind="stable")
    start, end = (np.take_along_axis(each, order, axis=1) for each in ends)
    q0, q1 = rows.q0[owner][:, None], rows.q1[owner][:, None]
    inside = (np.minimum(start, end)[:, :-1] >= q0 - 1) & (np.maximum(start, end)[:, 1:] <= q1)
    some = (start[:, 1:] > start[:, :-1]) | (end[:, 1:] > end[:, :-1])
    piece, place = np.nonzero(inside & some)
    corners = [each[piece, place + side] + 1 - side for each in (start, end) for side in (0, 1)]
    return _decided(pred, plane, x, y, rows, owner[piece], first[piece], last[piece], *corners)


def _lattice(plane: Plane, x: Axis, y: Axis, rows: _Rows) -> Lattice:
    pieces = {}
    for name, values in plane.others.items():
        value = values[0] if (values == values[0]).all() else values[rows.row]
        pieces[name] = Piece(0, 0, value, value)
    for axis, rest, a, b in ((x, rows.rx, 1, 0), (y, rows.ry, 0, 1)):
        low: Any = axis.block * rest if axis.residues > 1 else 0
        pace = axis.block * axis.residues
        pieces[axis.name] = Piece(a * pace, b * pace, low, low + axis.block - 1)
    return Lattice(pieces, (int(np.abs(rows.k1).max()) + 1, int(np.abs(rows.q1).max()) + 1))


def _pieces(
    rows: _Rows, lines: Lines, steps: list[Ints], slopes: Ints, offsets: Ints
) -> tuple[Ints, Ints, Ints]:
    """Cut the k of each row where two lines cross; return (row, first k, last k) of the pieces."""
    one, two = np.triu_indices(len(slopes), 1)
    apart = slopes[one] != slopes[two]
    one, two = one[apart], two[apart]
    swap = slopes[one] < slopes[two]
    one, two = np.where(swap, two, one), np.where(swap, one, two)
    shape = rows.row.shape
    cuts = [np.broadcast_to(each, shape) for each in (*lines.breaks, *steps)]
    if (len(one) + len(cuts) + 2) * len(rows.row) > ENTRIES:
        raise BeyondError
    crossing = (offsets[:, two] - offsets[:, one]) // (slopes[one] - slopes[two])
    every = np.concatenate([crossing, *(each[:, None] for each in cuts)], axis=1)
    low, high = rows.k0[:, None], rows.k1[:, None]
    every = np.sort(np.clip(every, low - 1, high), axis=1)
    starts = np.concatenate([low, every + 1], axis=1)
    ends = np.concatenate([every, high], axis=1)
    owner, place = np.nonzero(starts <= ends)
    return owner, starts[owner, place], ends[owner, place]


def _decided(
    pred: Expr, plane: Plane, x: Axis, y: Axis, rows: _Rows, owner: Ints, *shape: Ints
) -> Cells:
    """Trim the ends of cells at which they have no point, and count in one block of each."""
    k0, k1, low0, high0, low1, high1 = shape
    length = np.maximum(k1 - k0, 1)
    up, over = (low1 - low0) // length, (high1 - high0) // length
    late, early = high0 < low0, high1 < low1
    k0, low0, high0 = k0 + late, low0 + up * late, high0 + over * late
    k1, low1, high1 = k1 - early, low1 - up * early, high1 - over * early
    row, rx, ry = rows.row[owner], rows.rx[owner], rows.ry[owner]
    boxes = {name: (values[row], values[row]) for name, values in plane.others.items()}
    volume = np.ones(len(row), np.int64)
    corner = ((x, rx, k0, plane.x0, plane.x1), (y, ry, low0, plane.y0, plane.y1))
    for axis, rest, number, low, high in corner:
        first = axis.block * (axis.residues * number + rest)
        ends = np.maximum(first, low[row]), np.minimum(first + axis.block - 1, high[row])
        boxes[axis.name] = ends
        volume = volume * (ends[1] - ends[0] + 1)
    held = _held(pred, boxes, volume)
    return Cells(plane, x, y, row, rx, ry, k0, k1, low0, high0, low1, high1, held, volume)


def _held(pred: Expr, boxes: Boxes, volume: Ints) -> Ints:
    """Return how many points of each box satisfy a condition."""
    low, high = ({name: ends[side] for name, ends in boxes.items()} for side in (0, 1))
    if not len(volume) or volume.max() == 1:
        return holds_at(pred, low, {}).astype(np.int64) if len(volume) else volume
    status = box_status(pred, low, high, {})
    held = np.where(status > 0, volume, 0)
    open_ = np.nonzero(status == 0)[0]
    if int(volume[open_].sum()) > ENTRIES * 4:
        raise BeyondError
    step = max(1, _CHUNK // int(volume.max()))
    for first in range(0, len(open_), step):
        some = open_[first : first + step]
        part = {name: (ends[0][some], ends[1][some]) for name, ends in boxes.items()}
        held[some] = tally(pred, part)
    return held


def tally(pred: Expr, boxes: Boxes) -> Ints:
    """Count, point by point, where a condition holds in each of many boxes of similar sizes."""
    rank = len(boxes)
    coordinates: dict[str, Any] = {}
    inside: Any = np.array(True)
    for place, (name, (low, high)) in enumerate(boxes.items()):
        shape = [1] * (rank + 1)
        shape[place + 1] = -1
        length = int((high - low).max()) + 1
        ends = [end.reshape(-1, *[1] * rank) for end in (low, high)]
        coordinates[name] = ends[0] + np.arange(length).reshape(shape) if length > 1 else ends[0]
        if length > 1:
            inside = inside & (coordinates[name] <= ends[1])
    held = holds_at(pred, coordinates, {}) & inside
    return np.asarray(held.reshape(held.shape[0], -1).sum(axis=1), dtype=np.int64)


# --- tiles --------------------------------------------------------------------------------------


def columns_of(cells: Cells, which: Ints, tiles: tuple[int, int]) -> tuple[Ints, Ints, Ints, Ints]:
    """Return the tiles that some cells touch, row by row of tiles.

    Args:
        cells: all of them.
        which: the numbers of those that are meant.
        tiles: coordinates of a tile along x and y; multiples of the blocks.

    Returns:
        (row of the plane, row of tiles, first and last column of tiles), each an array.
    """
    part, x, y = _columns(cells, which), cells.x, cells.y
    jump = y.block * y.residues
    steep = np.maximum(part["up"], -part["over"]) * jump > tiles[1]
    part = _each_k(part, (steep | (jump > tiles[1])) & (part["k1"] > part["k0"]))
    if jump > tiles[1]:
        part = _each_q(part)
    return _tiled(part, x, y, tiles)


def columns_beside(
    cells: Cells, which: Ints, tiles: tuple[int, int]
) -> tuple[Ints, Ints, Ints, Ints]:
    """Return the tiles that cells other than some touch; see `columns_of`.

    The cost goes with the blocks of the cells that are not meant.
    """
    x, y, plane = cells.x, cells.y, cells.plane
    part = _each_k(_columns(cells, which), np.ones(len(which), dtype=np.bool_))
    if y.residues > 1:
        part = _each_q(part)
    high, wide = (int(ends.max()) + 1 for ends in (plane.x1 // x.block, plane.y1 // y.block + 1))
    line = part["row"] * high + x.residues * part["k0"] + part["rx"]
    low, top = (y.residues * part[name] + part["ry"] for name in ("low0", "high0"))
    inside = runs_of([(line * wide + low, line * wide + top)])
    first = plane.x0 // x.block
    rows, step = _expanded({"row": np.arange(len(first))}, plane.x1 // x.block - first + 1)
    row = rows["row"]
    line = (row * high + first[row] + step) * wide
    whole = runs_of([(line + plane.y0[row] // y.block, line + plane.y1[row] // y.block)])
    left = gaps(whole, inside)
    row, number = np.divmod(left.first // wide, high)
    columns = [end % wide * y.block // tiles[1] for end in (left.first, left.last)]
    return row, number * x.block // tiles[0], columns[0], columns[1]


def _columns(cells: Cells, which: Ints) -> dict[str, Ints]:
    names = ("row", "rx", "ry", "k0", "k1", "low0", "high0", "low1", "high1")
    part = {name: getattr(cells, name)[which] for name in names}
    length = np.maximum(part["k1"] - part["k0"], 1)
    part["up"] = (part["low1"] - part["low0"]) // length
    part["over"] = (part["high1"] - part["high0"]) // length
    return part


def _expanded(part: dict[str, Ints], counts: Ints) -> tuple[dict[str, Ints], Ints]:
    if int(counts.sum()) > ENTRIES:
        raise BeyondError
    owner, number = ragged(counts)
    return {name: values[owner] for name, values in part.items()}, number


def _each_k(part: dict[str, Ints], which: NDArray[np.bool_]) -> dict[str, Ints]:
    """Cut some cells into single k."""
    if not which.any():
        return part
    many, step = _expanded(part, np.where(which, part["k1"] - part["k0"] + 1, 1))
    single = np.repeat(which, np.where(which, part["k1"] - part["k0"] + 1, 1))
    low, high = many["low0"] + many["up"] * step, many["high0"] + many["over"] * step
    k = many["k0"] + step
    for name, value in (("k0", k), ("k1", k), ("low0", low), ("low1", low)):
        many[name] = np.where(single, value, many[name])
    for name in ("high0", "high1"):
        many[name] = np.where(single, high, many[name])
    return many


def _each_q(part: dict[str, Ints]) -> dict[str, Ints]:
    """Cut cells of one k each into single points."""
    many, step = _expanded(part, part["high0"] - part["low0"] + 1)
    q = many["low0"] + step
    return {**many, "low0": q, "high0": q, "low1": q, "high1": q}


def _tiled(
    part: dict[str, Ints], x: Axis, y: Axis, tiles: tuple[int, int]
) -> tuple[Ints, Ints, Ints, Ints]:
    high, wide = tiles[0] // x.block, tiles[1] // y.block
    first = (x.residues * part["k0"] + part["rx"]) // high
    last = (x.residues * part["k1"] + part["rx"]) // high
    many, step = _expanded({**part, "first": first}, last - first + 1)
    row = many["first"] + step
    begin = np.maximum(many["k0"], -((many["rx"] - row * high) // x.residues))
    end = np.minimum(many["k1"], ((row + 1) * high - 1 - many["rx"]) // x.residues)
    from_, to = begin - many["k0"], end - many["k0"]
    low = np.minimum(many["low0"] + many["up"] * from_, many["low0"] + many["up"] * to)
    top = np.maximum(many["high0"] + many["over"] * from_, many["high0"] + many["over"] * to)
    columns = [(y.residues * each + many["ry"]) // wide for each in (low, top)]
    some = begin <= end
    return many["row"][some], row[some], columns[0][some], columns[1][some]


def blocks_of(
    steps: Mapping[str, int], names: tuple[str, str], tiles: tuple[int, int]
) -> tuple[int, int]:
    """Return the blocks along two variables, from what their divisors have in common.

    Args:
        steps: variable → greatest common divisor of what it is divided by; without it, none.
        names: of the variables.
        tiles: that blocks must divide.
    """
    shared = math.gcd(*(steps[name] for name in names if name in steps), 0)
    x, y = (
        math.gcd(steps.get(name, shared) or 1, tile)
        for name, tile in zip(names, tiles, strict=True)
    )
    return x, y

"""A condition made ready for `cells.py`: which two variables span planes, and what the others are.

Each combination of the other variables is a row of its own. A table that one of the two indexes is
constant on runs of coordinates: each pair of runs is a row. What divides or multiplies is put
into the condition, one value after another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.einsum_ir.nodes import (
    Access,
    Apply,
    Expr,
    Num,
    Var,
    rebuilt,
    substitute,
    variables,
    walk,
)
from penstock.einsum_ir.ops import OPERATORS
from penstock.einsum_ir.regions.bounds import box_status, may_be_absent
from penstock.einsum_ir.regions.cells import (
    Cells,
    Plane,
    blocks_of,
    cells_of,
    columns_beside,
    columns_of,
    rectangles,
)
from penstock.einsum_ir.regions.counting import values_of
from penstock.einsum_ir.regions.enumerated import Part, Space
from penstock.einsum_ir.regions.linear import linear
from penstock.einsum_ir.regions.lines import BeyondError
from penstock.einsum_ir.regions.runs import runs_of

__all__ = ["in_cells", "looped_in"]

Ints = NDArray[np.int64]

OTHERS = 1 << 18
"""Combinations of the variables that do not span the plane."""

PAIRS = 1 << 22
"""Rows of a plane before any is decided."""

CELLS = 1 << 16
"""Cells that are turned into tiles at a time."""

GROUPS = 4096
"""Values of what divides or multiplies."""


def in_cells(pred: Expr, space: Space) -> Part:
    """Count points and tiles by cells.

    Args:
        pred: a condition over the space's variables, numbers and its tables.
        space: extents and tiles.

    Raises:
        BeyondError: it has to be enumerated.
    """
    x, y = _main(pred, space)
    flat, plane, others = _plane(pred, space, x, y)
    tiles = (space.tiles.get(x, 1), space.tiles[y])
    points = 0
    some: list[tuple[Ints, Ints]] = []
    lack: list[tuple[Ints, Ints]] = []
    for cells, rows in _groups(flat, plane, (x, y), tiles):
        points += cells.points
        for listed, which in ((some, cells.held > 0), (lack, cells.held < cells.volume)):
            for row, *place in _touched(cells, which, tiles):
                listed.append(_numbers(space, others, rows[row], place))
    return Part(space, points, runs_of(some), runs_of(lack))


def _touched(
    cells: Cells, which: NDArray[np.bool_], tiles: tuple[int, int]
) -> list[tuple[Ints, Ints, Ints, Ints]]:
    """Return the tiles that cells touch: from these, or from all others if those are fewer."""
    chosen = np.flatnonzero(which)
    try:
        return [
            columns_of(cells, chosen[first : first + CELLS], tiles)
            for first in range(0, len(chosen), CELLS)
        ]
    except BeyondError:
        return [columns_beside(cells, np.flatnonzero(~which), tiles)]


def _main(pred: Expr, space: Space) -> tuple[str, str]:
    """Return the last two variables, the innermost last; "" where a plane is a single line."""
    if not space.names:
        raise BeyondError
    *rest, last = space.names
    looped = not rest or (rest[-1] in looped_in(pred) and space.extents[rest[-1]] <= GROUPS)
    return ("" if looped else rest[-1]), last


def _numbers(
    space: Space, others: Mapping[str, Ints], rows: Ints, place: list[Ints]
) -> tuple[Ints, Ints]:
    """Return row-major numbers of tiles, as runs along the last variable of the space."""
    row, first, last = place
    base = np.zeros(len(row), np.int64)
    for name, count in zip(space.names[:-1], space.grid[:-1], strict=True):
        at = others[name][rows] // space.tiles[name] if name in others else row
        base = base * count + at
    base = base * space.grid[-1]
    return base + first, base + last


# --- rows ---------------------------------------------------------------------------------------


def _plane(pred: Expr, space: Space, x: str, y: str) -> tuple[Expr, Plane, Mapping[str, Ints]]:
    """Return the condition without tables, all rows, and the values of the other variables."""
    rest = tuple(name for name in space.names if name not in (x, y))
    count = math.prod(space.extents[name] for name in rest)
    if count > OTHERS:
        raise BeyondError
    axes = np.meshgrid(*(np.arange(space.extents[name]) for name in rest), indexing="ij")
    grid = {name: axis.reshape(-1) for name, axis in zip(rest, axes, strict=True)}
    tables = _tables(pred, space, grid, (x, y), count)
    spans = {name: space.extents.get(name, 1) for name in (x, y)}
    starts = {
        name: _starts([t for n, t in tables.values() if n == name], spans[name]) for name in (x, y)
    }
    if count * len(starts[x]) * len(starts[y]) > PAIRS:
        raise BeyondError
    shape = (count, len(starts[x]), len(starts[y]))
    row, i, j = (each.reshape(-1) for each in np.indices(shape))
    others: dict[str, NDArray[Any]] = {name: values[row] for name, values in grid.items()}
    for each, (name, table) in tables.items():
        column = starts[x][i] if name == x else starts[y][j] if name == y else 0
        others[str(each)] = table[row, column]
    ends = {name: np.append(starts[name][1:], spans[name]) - 1 for name in (x, y)}
    flat = _looked_up(_replaced(pred, tables), others, space)
    plane = Plane(x, y, starts[x][i], ends[x][i], starts[y][j], ends[y][j], others)
    return flat, plane, {name: others[name] for name in rest}


def _known(expr: Expr, main: tuple[str, str]) -> Iterator[Access | Apply]:
    """Yield what each row has a value for: tables, and functions of the other variables."""
    match expr:
        case Access(_, indices):
            if set(main) <= set(variables(expr)):
                for index in indices:
                    yield from _known(index, main)
            else:
                yield expr
        case Apply(op, args):
            kind = OPERATORS[op].kind
            plain = kind in ("comparison", "logic") or op in ("+", "-", "neg")
            if not plain and variables(expr) and not set(main) & set(variables(expr)):
                yield expr
                return
            for arg in args:
                yield from _known(arg, main)
        case _:
            pass


def _tables(
    pred: Expr, space: Space, grid: Mapping[str, Ints], main: tuple[str, str], count: int
) -> dict[Expr, tuple[str | None, NDArray[Any]]]:
    """Return for each of `_known` the main variable it depends on and its values, row by row."""
    found: dict[Expr, tuple[str | None, NDArray[Any]]] = {}
    for each in _known(pred, main):
        along = [name for name in main if name in variables(each)]
        coordinates = {name: values[:, None] for name, values in grid.items()}
        steps = space.extents[along[0]] if along else 1
        if along:
            coordinates[along[0]] = np.arange(steps)[None]
        if count * steps > PAIRS:
            raise BeyondError
        values = _whole(each, coordinates, space)
        found[each] = (along[0] if along else None, np.broadcast_to(values, (count, steps)))
    return found


def _whole(expr: Expr, coordinates: Mapping[str, NDArray[Any]], space: Space) -> Ints:
    """Return the values of an expression if they are present and whole numbers."""
    data, present = values_of(expr, coordinates, space.tables)
    if (present is not None and not np.all(present)) or not np.all(data == np.floor(data)):
        raise BeyondError
    return np.asarray(data, dtype=np.int64)


def _looked_up(pred: Expr, others: dict[str, NDArray[Any]], space: Space) -> Expr:
    """Read the tables that other tables index, row by row; `others` gets what they hold."""
    found = [each for each in walk(pred) if isinstance(each, Access)]
    for each in found:
        if not set(variables(each)) <= set(others):
            raise BeyondError
        others[str(each)] = _whole(each, others, space)
    return _replaced(pred, dict.fromkeys(found))


def _starts(tables: list[NDArray[Any]], extent: int) -> Ints:
    """Return where a variable's tables change, 0 included."""
    changes = np.zeros(extent, dtype=np.bool_)
    changes[0] = True
    for table in tables:
        changes[1:] |= (table[:, 1:] != table[:, :-1]).any(axis=0)
    return np.flatnonzero(changes)


def _replaced(expr: Expr, known: Mapping[Expr, Any]) -> Expr:
    if isinstance(expr, Access | Apply) and expr in known:
        return Var(str(expr))
    return rebuilt(expr, lambda each: _replaced(each, known))


# --- groups -------------------------------------------------------------------------------------


def _groups(
    pred: Expr, plane: Plane, main: tuple[str, str], tiles: tuple[int, int]
) -> Iterator[tuple[Cells, Ints]]:
    """Yield cells, and which row of the plane each of their rows is."""
    names = sorted(looped_in(pred) - set(main))
    every = np.arange(len(plane.x0))
    if not names:
        yield from _solved(pred, plane, every, tiles)
        return
    keys = np.stack([plane.others[name] for name in names], axis=1)
    values, which = np.unique(keys, axis=0, return_inverse=True)
    if len(values) > GROUPS:
        raise BeyondError
    for number, value in enumerate(values.tolist()):
        mine = every[which.reshape(-1) == number]
        known: dict[str, Expr] = {n: Num(v) for n, v in zip(names, value, strict=True)}
        yield from _solved(substitute(pred, known), plane.take(mine), mine, tiles)


def looped_in(pred: Expr) -> set[str]:
    """Return the variables that divide, are exponents or factors of other variables."""
    found: set[str] = set()
    for node in walk(pred):
        match node:
            case Apply("//" | "%", (_, divisor)):
                found |= set(variables(divisor))
            case Apply("**", args):
                found |= set(variables(*args))
            case Apply("*", (left, right)) if variables(left) and variables(right):
                found |= set(variables(left, right))
            case _:
                pass
    return found


def _solved(
    pred: Expr, plane: Plane, rows: Ints, tiles: tuple[int, int]
) -> Iterator[tuple[Cells, Ints]]:
    """Yield the rows that are the same everywhere, then the others cut into cells."""
    if may_be_absent(pred, {}):
        raise BeyondError
    low = {**plane.others, plane.x: plane.x0, plane.y: plane.y0}
    high = {**plane.others, plane.x: plane.x1, plane.y: plane.y1}
    status = box_status(pred, low, high, {})
    if (status != 0).any():
        yield _rectangles(plane, status, rows)
    which = np.flatnonzero(status == 0)
    if not len(which):
        return
    part, mine = plane.take(which), rows[which]
    blocks = blocks_of(_steps(pred), (plane.x, plane.y), tiles)
    try:
        found = cells_of(pred, part, blocks)
    except BeyondError:
        if blocks == (1, 1):
            raise
        found = cells_of(pred, part, (1, 1))
    yield found, mine


def _rectangles(plane: Plane, status: NDArray[np.int8], rows: Ints) -> tuple[Cells, Ints]:
    """Return the rows that are decided; neighbours along y that are alike become one."""
    which = np.flatnonzero(status)
    state, part = status[which] > 0, plane.take(which)
    begins = np.ones(len(which), dtype=np.bool_)
    begins[1:] = (state[1:] != state[:-1]) | (part.x0[1:] != part.x0[:-1])
    begins[1:] |= part.y0[1:] != part.y1[:-1] + 1
    first = np.flatnonzero(begins)
    last = np.append(first[1:], len(which)) - 1
    joined = replace(part.take(first), y1=part.y1[last])
    return rectangles(joined, state[first]), rows[which[first]]


def _steps(pred: Expr) -> dict[str, int]:
    """Return for each variable the greatest common divisor of what it is divided by."""
    found: dict[str, int] = {}
    for node in walk(pred):
        match node:
            case Apply("//" | "%", (value, Num(divisor))) if float(divisor).is_integer():
                _collect(value, abs(int(divisor)), 1, found)
            case _:
                pass
    return found


def _collect(expr: Expr, divisor: int, factor: float, found: dict[str, int]) -> None:
    for atom, own in linear(expr, {}).terms:
        match atom:
            case Var(name):
                step = divisor // math.gcd(divisor, int(factor * own))
                found[name] = math.gcd(found.get(name, 0), step)
            case Apply(op, args) if op not in ("//", "%"):
                for arg in args:
                    _collect(arg, divisor, factor * own, found)
            case _:
                pass

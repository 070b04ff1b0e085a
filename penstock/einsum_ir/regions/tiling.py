"""Tiles of an iteration space, decided by a predicate: empty, full or partial, exactly.

`classify` cuts the space of a predicate into tiles and says for each whether the predicate holds at
none, all or some of its points; and it counts points and tiles. The predicate falls into parts that
share no variables (a 2-D neighbourhood is one of y, u and one of x, v). Each part is decided by
straight lines (`cells.py`), whose cost goes with the rows of tiles, or by intervals and enumeration
(`enumerated.py`); a small one is enumerated at once. Nothing is ever "partial" for want of a proof.
Excluded: machines, loops and what tiles cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.einsum_ir.frontend.notation import parse_expr
from penstock.einsum_ir.nodes import (
    Access,
    Apply,
    Expr,
    Num,
    Sym,
    rebuilt,
    substitute,
    variables,
    walk,
)
from penstock.einsum_ir.regions.bounds import may_be_absent
from penstock.einsum_ir.regions.counting import values_of
from penstock.einsum_ir.regions.enumerated import WHOLE, Part, Space, by_boxes, dense
from penstock.einsum_ir.regions.lines import BeyondError
from penstock.einsum_ir.regions.occupied import apart, conjuncts
from penstock.einsum_ir.regions.planes import in_cells, looped_in
from penstock.errors import CascadeError, DataError, UnknownNameError

__all__ = ["Heads", "Run", "Tile", "Tiling", "classify", "classify_heads", "shapes", "with_numbers"]

SMALL = 1 << 12
"""Points of a part of a predicate below which all are looked at."""

DENSE = 10**8
"""Tiles of an array of codes."""

Tables = Mapping[str, NDArray[Any]]


class Tile(IntEnum):
    """Where a predicate holds in a tile."""

    EMPTY = 0
    PARTIAL = 1
    FULL = 2


@dataclass(frozen=True, slots=True)
class Run:
    """The tiles `first` to `last` (included) of a row, all of one kind."""

    first: int
    last: int
    tile: Tile

    def __str__(self) -> str:
        return f"{self.first}..{self.last} {self.tile.name.lower()}"


@dataclass(frozen=True, eq=False)
class _Joint:
    """Parts that share no variables, joined by ``and`` or ``or``."""

    every: bool
    parts: tuple[_Node, ...]


_Node = Part | _Joint


@dataclass(frozen=True, slots=True)
class _Counts:
    volume: int
    points: int
    tiles: int
    some: int
    full: int


@dataclass(frozen=True)
class Tiling:
    """How a predicate fills the tiles of a space.

    Args:
        predicate: as it prints, without scalars.
        extents, tiles: (variable, number) pairs: coordinates of the space, and of a tile.
        volume: points of the space.
        points: those at which the predicate holds.
        empty, full, partial: numbers of tiles.
    """

    predicate: str
    extents: tuple[tuple[str, int], ...]
    tiles: tuple[tuple[str, int], ...]
    volume: int
    points: int
    empty: int
    full: int
    partial: int
    _node: _Node = field(repr=False, compare=False)

    @property
    def grid(self) -> tuple[int, ...]:
        """The number of tiles along each variable."""
        sizes = zip(self.extents, self.tiles, strict=True)
        return tuple(-(-extent // tile) for (_, extent), (_, tile) in sizes)

    def codes(self, window: Mapping[str, tuple[int, int]] | None = None) -> NDArray[np.int8]:
        """Return the kind of each tile (a `Tile`), with one axis for each variable.

        Args:
            window: variable → (start, stop) of its tiles; all of one that is left out.

        Raises:
            DataError: these are over 10^8 tiles.
        """
        spans = {name: (0, n) for (name, _), n in zip(self.extents, self.grid, strict=True)}
        for name, span in (window or {}).items():
            if name not in spans:
                raise UnknownNameError("variable", name, spans)
            spans[name] = (max(0, span[0]), min(spans[name][1], span[1]))
        shape = tuple(max(0, stop - start) for start, stop in spans.values())
        if math.prod(shape) > DENSE:
            raise DataError(
                f"{math.prod(shape)} tiles are too many for one array",
                fix="give a window, or ask row by row",
            )
        return np.array(np.broadcast_to(_codes(self._node, spans), shape), dtype=np.int8)

    def row(self, *place: int) -> tuple[Run, ...]:
        """Return the runs of tiles along the last variable.

        Args:
            place: the tile's number along each other variable.
        """
        if len(place) != len(self.extents) - 1:
            raise DataError(
                f"a row has {len(self.extents) - 1} tile numbers, {len(place)} given",
                fix="give one for each variable but the last",
            )
        names = [name for name, _ in self.extents]
        window = {name: (at, at + 1) for name, at in zip(names[:-1], place, strict=True)}
        line = self.codes(window).reshape(-1)
        starts = np.flatnonzero(np.diff(line, prepend=-1))
        ends = np.append(starts[1:], len(line)) - 1
        return tuple(
            Run(first, last, Tile(int(line[first])))
            for first, last in zip(starts.tolist(), ends.tolist(), strict=True)
        )

    def __str__(self) -> str:
        sizes = zip(self.extents, self.tiles, strict=True)
        space = " x ".join(f"{name}:{n}/{tile}" for (name, n), (_, tile) in sizes)
        total = self.empty + self.full + self.partial
        return (
            f"{self.predicate} over {space}: {self.points} of {self.volume} points;"
            f" {total} tiles: {self.empty} empty, {self.full} full, {self.partial} partial"
        )


@dataclass(frozen=True)
class Heads:
    """A predicate for each coordinate of one variable (a head); equal ones are one object."""

    variable: str
    tilings: tuple[Tiling, ...]

    @cached_property
    def points(self) -> tuple[int, ...]:
        """The present points of each head."""
        return tuple(each.points for each in self.tilings)

    def __str__(self) -> str:
        kinds = list(dict.fromkeys(self.tilings))
        lines = [f"{len(self.tilings)} coordinates of {self.variable}, {len(kinds)} kinds:"]
        for kind in kinds:
            at = [str(place) for place, each in enumerate(self.tilings) if each is kind]
            lines.append(f"  {self.variable} = {', '.join(at)}: {kind}")
        return "\n".join(lines)


# --- from a predicate ---------------------------------------------------------------------------


def classify(
    predicate: Expr | str | None,
    extents: Mapping[str, int],
    *,
    symbols: Mapping[str, float] | None = None,
    tiles: Mapping[str, int] | None = None,
    tables: Tables | None = None,
    small: int = SMALL,
) -> Tiling:
    """Decide all tiles of a space.

    Args:
        predicate: over rank variables, scalars and tables; None always holds.
        extents: variable → number of coordinates; the space, in the order of its axes.
        symbols: upper-case name → value. ``M`` is the extent of ``m`` if nothing else is said.
        tiles: variable → coordinates of a tile; all of one that is left out.
        tables: tensor → elements, of each that the predicate reads.
        small: points of a part of the predicate up to which all are looked at.

    Raises:
        UnknownNameError: a variable or a table of the predicate is not given.
        CascadeError: a scalar of the predicate has no value.
        DataError: an extent or a tile is not positive, a table has another number of axes, or over
            2^33 points would have to be looked at.

    Example:
        >>> mask = classify("m <= p and p - m < 4096", {"p": 1 << 20, "m": 1 << 20},
        ...                 tiles={"p": 128, "m": 128})
        >>> mask.points, mask.full, mask.partial
        (4286580736, 253456, 16352)
    """
    tables = {name: np.asarray(each) for name, each in (tables or {}).items()}
    pred = _closed(predicate, extents, symbols or {}, tables)
    cut = {name: min((tiles or {}).get(name, n), n) for name, n in extents.items()}
    _check_sizes(extents, cut, tiles or {})
    used = {access.tensor for access in walk(pred) if isinstance(access, Access)}
    space = Space(extents, cut, {name: tables[name] for name in sorted(used)})
    node = _node(pred, space, small)
    counts = _counted(node)
    idle = space.only(tuple(name for name in extents if name not in _names(node)))
    more, points = math.prod(idle.grid), idle.volume
    return Tiling(
        str(pred),
        tuple(extents.items()),
        tuple(cut.items()),
        space.volume,
        counts.points * points,
        (counts.tiles - counts.some) * more,
        counts.full * more,
        (counts.some - counts.full) * more,
        node,
    )


def classify_heads(
    predicate: Expr | str | None,
    by: str,
    extents: Mapping[str, int],
    *,
    symbols: Mapping[str, float] | None = None,
    tiles: Mapping[str, int] | None = None,
    tables: Tables | None = None,
    small: int = SMALL,
) -> Heads:
    """Decide the tiles for each coordinate of one variable; heads that are alike are done once.

    Args:
        predicate: as in `classify`.
        by: the variable; its coordinates and what tables hold there are put into the predicate.
        extents: as in `classify`, `by` among them.
        symbols: as in `classify`.
        tiles: as in `classify`.
        tables: as in `classify`.
        small: as in `classify`.

    Raises:
        UnknownNameError: as in `classify`.
        CascadeError: as in `classify`.
        DataError: as in `classify`.
    """
    if by not in extents:
        raise UnknownNameError("variable", by, extents)
    tables = {name: np.asarray(each) for name, each in (tables or {}).items()}
    pred = _closed(predicate, extents, symbols or {}, tables)
    inner = {name: extent for name, extent in extents.items() if name != by}
    cut = {name: size for name, size in (tiles or {}).items() if name != by}
    done: dict[Expr, Tiling] = {}
    found = []
    for at in range(extents[by]):
        mine = _folded(substitute(pred, {by: Num(at)}), tables)
        if mine not in done:
            done[mine] = classify(mine, inner, tiles=cut, tables=tables, small=small)
        found.append(done[mine])
    return Heads(by, tuple(found))


def _closed(
    predicate: Expr | str | None,
    extents: Mapping[str, int],
    symbols: Mapping[str, float],
    tables: Tables,
) -> Expr:
    """Return the predicate with numbers for scalars.

    Raises:
        UnknownNameError: a variable or a table is not known.
        CascadeError: a scalar is not known.
        DataError: a table has another number of axes.
    """
    pred = parse_expr(predicate) if isinstance(predicate, str) else predicate
    if pred is None:
        return Num(1)
    for name in variables(pred):
        if name not in extents:
            raise UnknownNameError("variable", name, extents)
    for node in walk(pred):
        if isinstance(node, Access):
            if node.tensor not in tables:
                raise UnknownNameError("table", node.tensor, tables, span=node.span)
            if tables[node.tensor].ndim != len(node.indices):
                raise DataError(
                    f"{node} has {len(node.indices)} indices,"
                    f" the table {tables[node.tensor].ndim} axes",
                    span=node.span,
                    fix="give a table with an axis for each index",
                )
    return with_numbers(pred, {**shapes(extents), **symbols})


def shapes(extents: Mapping[str, int]) -> dict[str, float]:
    """Return the scalars that stand for extents: ``M`` for that of ``m``."""
    return {name.upper(): extent for name, extent in extents.items()}


def with_numbers(expr: Expr, symbols: Mapping[str, float]) -> Expr:
    """Return an expression with numbers for scalars.

    Raises:
        CascadeError: one has no value.
    """
    if not isinstance(expr, Sym):
        return rebuilt(expr, lambda each: with_numbers(each, symbols))
    if expr.name not in symbols:
        raise CascadeError(
            f"the predicate reads {expr.name}, which has no value",
            span=expr.span,
            fix=f"give symbols={{'{expr.name}': ...}}",
        )
    return Num(symbols[expr.name])


def _folded(expr: Expr, tables: Tables) -> Expr:
    """Put in the elements of tables at places that are known and in range."""
    inner = rebuilt(expr, lambda each: _folded(each, tables))
    if not isinstance(inner, Access) or variables(inner):
        return inner
    data, present = values_of(inner, {}, tables)
    return Num(data.item()) if present is None or bool(np.all(present)) else inner


def _check_sizes(
    extents: Mapping[str, int], cut: Mapping[str, int], tiles: Mapping[str, int]
) -> None:
    for name in tiles:
        if name not in extents:
            raise UnknownNameError("variable", name, extents)
    for what, sizes in (("extent", extents), ("tile", cut)):
        for name, size in sizes.items():
            if size < 1:
                raise DataError(f"the {what} of {name} is {size}", fix="give a positive number")


# --- parts --------------------------------------------------------------------------------------


def _node(pred: Expr, space: Space, small: int) -> _Node:
    """Split a predicate into parts that share no variables, and decide each."""
    if not may_be_absent(pred, {}):
        pred = _positive(pred)
    for op in ("and", "or"):
        if op == "or" and may_be_absent(pred, {}):
            continue
        groups = apart(list(conjuncts(pred, op)), op)
        if len(groups) > 1:
            return _Joint(op == "and", tuple(_node(each, space, small) for each in groups))
    return _part(pred, space, small)


def _positive(pred: Expr, *, holds: bool = True) -> Expr:
    """Push ``not`` through ``and`` and ``or``; what is never absent."""
    match pred:
        case Apply("not", (inner,)):
            return _positive(inner, holds=not holds)
        case Apply("and" | "or", args):
            op = pred.op if holds else {"and": "or", "or": "and"}[pred.op]
            return Apply(op, tuple(_positive(arg, holds=holds) for arg in args))
        case _:
            return pred if holds else Apply("not", (pred,))


def _part(pred: Expr, space: Space, small: int) -> Part:
    looped = looped_in(pred)
    names = sorted(variables(pred), key=lambda name: (name not in looped, space.extents[name]))
    mine = space.only(tuple(names))
    if mine.volume <= small:
        return dense(pred, mine)
    try:
        return in_cells(pred, mine)
    except BeyondError:
        return dense(pred, mine) if mine.volume <= WHOLE else by_boxes(pred, mine)


# --- results ------------------------------------------------------------------------------------


def _names(node: _Node) -> frozenset[str]:
    if isinstance(node, Part):
        return frozenset(node.space.names)
    return frozenset().union(*(_names(each) for each in node.parts))


def _counted(node: _Node) -> _Counts:
    if isinstance(node, Part):
        tiles = math.prod(node.space.grid)
        return _Counts(
            node.space.volume, node.points, tiles, node.some.size, tiles - node.lack.size
        )
    parts = [_counted(each) for each in node.parts]
    volume, tiles = (math.prod(getattr(p, n) for p in parts) for n in ("volume", "tiles"))
    if node.every:
        kinds = (math.prod(getattr(p, n) for p in parts) for n in ("points", "some", "full"))
        points, some, full = kinds
    else:
        points = volume - math.prod(p.volume - p.points for p in parts)
        some, full = (
            tiles - math.prod(p.tiles - getattr(p, n) for p in parts) for n in ("some", "full")
        )
    return _Counts(volume, points, tiles, some, full)


def _codes(node: _Node, spans: Mapping[str, tuple[int, int]]) -> NDArray[np.int8]:
    """Return the kinds of the tiles of a window, with an axis of length 1 where they are equal."""
    if isinstance(node, _Joint):
        result = _codes(node.parts[0], spans)
        for each in node.parts[1:]:
            join = np.minimum if node.every else np.maximum
            result = join(result, _codes(each, spans))
        return result
    numbers: Any = np.zeros((1,) * len(spans), dtype=np.int64)
    axes = list(spans)
    for name, count in zip(node.space.names, node.space.grid, strict=True):
        shape = [-1 if each == name else 1 for each in axes]
        numbers = numbers * count + np.arange(*spans[name]).reshape(shape)
    some, lack = node.some.has(numbers), node.lack.has(numbers)
    return np.where(some, np.where(lack, Tile.PARTIAL, Tile.FULL), Tile.EMPTY).astype(np.int8)

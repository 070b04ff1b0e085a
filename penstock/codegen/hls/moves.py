"""Tokens and parts of arrays as C++: loops side by side that only move something are one call.

``PK_EACH(i, 8) PK_EACH(j, 32) K[r + i][j] = w[i * 32 + j]`` is ``pk::put_rows(w, K, r)``
(`penstock_loops.hpp`). Excluded on purpose: loops in time, statements that compute (`print.py`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Literal

from penstock.codegen.hls.cpp import Notes, Printer
from penstock.codegen.hls.loops import is_serial
from penstock.codegen.hls.split import Tasks
from penstock.codegen.loops.nodes import (
    Const,
    For,
    If,
    Load,
    LoopExpr,
    LoopStmt,
    Name,
    Op,
    Store,
    walk_statements,
)
from penstock.codegen.loops.walk import elements, names
from penstock.codegen.lower.index import atom, has_load, integer, range_of

__all__ = ["MovePrinter"]


class MovePrinter(Printer):
    """What a printer of tasks knows of tokens and arrays."""

    def __init__(self, tasks: Tasks, notes: Notes) -> None:
        self.tasks = tasks
        super().__init__(tasks.program, notes)
        written = Counter(each.buffer for each in elements(self.program.body) if each.written)
        self.rewritten = {name for name, count in written.items() if count > 1}
        self.shapes = {each.name: each.shape for each in self._all_buffers()}
        self.inlined: dict[str, str] = {}
        self.also: dict[int, Store] = {}
        self.beside = False
        self.ranges: dict[str, tuple[int, int]] = {}
        for each in walk_statements(self.program.body):
            if isinstance(each, For):
                _, high = range_of(atom(each.extent), self.ranges)
                self.ranges[each.variable] = (0, max(0, int(high) - 1))
        self.written_once: set[str] = set()

    def whole(self, stmt: LoopStmt) -> str:
        """Return one call for loops over all of an array, or rows of it; "" if they are not."""
        lanes: dict[str, int] = {}
        guards: list[LoopExpr] = []
        while isinstance(stmt, If) or (isinstance(stmt, For) and not is_serial(stmt)):
            if isinstance(stmt, If):
                guards.append(stmt.condition)
            else:
                assert isinstance(stmt.extent, Const), "a spatial loop has a constant extent"
                lanes[stmt.variable] = int(stmt.extent.value)
            stmt = stmt.body
        if not lanes or not isinstance(stmt, Store) or not self.shapes.get(stmt.buffer):
            return ""
        step = any(lanes.keys().isdisjoint(names(each)) or has_load(each) for each in guards)
        if id(stmt) in self.also or step:
            return ""
        guarded = bool(guards)
        if guarded and not self.free(stmt, lanes):
            return self.packed(stmt, lanes)
        if isinstance(stmt.value, Const) and not guarded:
            return self.filled(stmt, lanes)
        if isinstance(stmt.value, Load):
            if guarded and stmt.value.buffer not in self.tasks.words:
                return self.packed(stmt, lanes)
            row = self.row(stmt, stmt.value, *next(iter(lanes.items()))) if len(lanes) == 1 else ""
            return row or self.all_of(stmt, stmt.value, lanes) or self.packed(stmt, lanes)
        return ""

    def free(self, stmt: Store, lanes: dict[str, int]) -> bool:
        """Whether a store may be done for places that a condition leaves out.

        Nothing else writes the buffer, so that what it would hold there is not read; and there is
        room for all places.
        """
        ranges = self.ranges | {lane: (0, count - 1) for lane, count in lanes.items()}
        bounds = (range_of(atom(each), ranges) for each in stmt.indices)
        return stmt.buffer in self.written_once and all(
            low >= 0 and high < extent
            for (low, high), extent in zip(bounds, self.shapes[stmt.buffer], strict=True)
        )

    def packed(self, stmt: Store, lanes: dict[str, int]) -> str:
        """Return the call that makes a token of sums: elements that nobody takes go along."""
        match stmt.value:
            case Load(buffer, indices) if (
                stmt.buffer in self.tasks.words
                and stmt.indices == (flattened(lanes),)
                and self.kinds[buffer] == "acc"
                and indices == tuple(map(Name, lanes))
                and self.shapes[buffer] == tuple(lanes.values())
            ):
                kind, sums = self.types[stmt.buffer], self.names[buffer]
                return f"{self.names[stmt.buffer]} = pk::pack<{kind}>({sums});"
            case _:
                return ""

    def all_of(self, stmt: Store, load: Load, lanes: dict[str, int]) -> str:
        """Return the call that moves a token into all of an array's last dimensions, or back."""
        words, flat = self.tasks.words, flattened(lanes)
        if self.types[stmt.buffer] != self.types[load.buffer]:
            return ""
        if load.buffer in words and load.indices == (flat,):
            token = self.inlined.get(load.buffer, self.names[load.buffer])
            block = self.block_of(stmt.buffer, stmt.indices, lanes)
            if block:
                return f"pk::put({block}, {token});"
            part = self.part_of(stmt.buffer, stmt.indices, lanes)
            if not part and len(lanes) == 2:
                turned = dict(reversed(lanes.items()))
                part = self.part_of(stmt.buffer, stmt.indices, turned)
                part = part and ("turned", f"<{', '.join(map(str, turned.values()))}>", part[2])
                part = part if part and part[2].count(",") == 2 else ""
            return part and f"pk::put_{part[0]}{part[1]}({token}, {part[2]});"
        if stmt.buffer in words and stmt.indices == (flat,):
            block = self.block_of(load.buffer, load.indices, lanes)
            count = math.prod(lanes.values())
            if block:
                return f"{self.names[stmt.buffer]} = pk::take<{count}>({block});"
            part = self.part_of(load.buffer, load.indices, lanes)
            taken = part and f"pk::take_{part[0]}{part[1] or f'<{count}>'}({part[2]})"
            return taken and f"{self.names[stmt.buffer]} = {taken};"
        return ""

    def part_of(
        self, buffer: str, indices: tuple[LoopExpr, ...], lanes: dict[str, int]
    ) -> tuple[str, str, str] | Literal[""]:
        """Return what lanes run through, in order: whole rows, or a block.

        That is its name, its extents, and the array with the place where it begins.
        """
        rest, extents, starts = list(lanes.items()), list[int](), list[LoopExpr]()
        for index in indices:
            start = _start(index, rest[0][0]) if rest else None
            extents.append(1 if start is None else rest.pop(0)[1])
            starts.append(index if start is None else start)
        if rest or {*names(*starts)} & {*lanes} or self.kinds[buffer] == "mask":
            return ""
        outer = next(n for n, extent in enumerate(extents) if extent > 1)
        text = self.names[buffer] + "".join(f"[{self.index(each, 0)}]" for each in starts[:outer])
        if self.shapes[buffer][outer + 1 :] == tuple(extents[outer + 1 :]):
            return "rows", "", f"{text}, {self.index(starts[outer], 0)}"
        places = ", ".join(self.index(each, 0) for each in starts[outer:])
        return "block", f"<{', '.join(map(str, extents[outer:]))}>", f"{text}, {places}"

    def block_of(self, buffer: str, indices: tuple[LoopExpr, ...], lanes: dict[str, int]) -> str:
        """Return the text of an array's last dimensions, if lanes run through all of them."""
        outer, inner = indices[: -len(lanes)], indices[-len(lanes) :]
        whole = inner == tuple(Name(lane) for lane in lanes)
        full = self.shapes[buffer][-len(lanes) :] == tuple(lanes.values())
        if not outer and any(each.name == buffer for each in self._parameters()):
            return ""  # a parameter is a pointer: C++ does not know its first extent
        if not whole or not full or self.kinds[buffer] == "mask" or {*names(*outer)} & {*lanes}:
            return ""
        return self.names[buffer] + "".join(f"[{self.index(each, 0)}]" for each in outer)

    def filled(self, stmt: Store, lanes: dict[str, int]) -> str:
        """Return the call that gives all of an array, or of a token, one value."""
        extents = [lanes.get(each.name) for each in stmt.indices if isinstance(each, Name)]
        every = tuple(extents) == self.shapes[stmt.buffer]
        if stmt.buffer in self.tasks.words:  # its places are numbered through
            every = (math.prod(lanes.values()),) == self.shapes[stmt.buffer]
        if not every or stmt.buffer in self.given:
            return ""
        return f"pk::fill({self.names[stmt.buffer]}, {self.stored(stmt)});"

    def row(self, stmt: Store, load: Load, lane: str, count: int) -> str:
        """Return the call that moves a token into a row, or neighbours of a row into a token."""
        words, here = self.tasks.words, (Name(lane),)
        if self.types[stmt.buffer] != self.types[load.buffer]:
            return ""
        if load.buffer in words and load.indices == here and self.shapes[load.buffer] == (count,):
            place = self.place(stmt.buffer, stmt.indices, lane)
            token = self.inlined.get(load.buffer, self.names[load.buffer])
            return place and f"pk::put({place[0]}, {token}{place[1]});"
        if stmt.buffer in words and stmt.indices == here and self.shapes[stmt.buffer] == (count,):
            place = self.place(load.buffer, load.indices, lane)
            return place and f"{self.names[stmt.buffer]} = {_taken(place, count)};"
        return ""

    def place(
        self, buffer: str, indices: tuple[LoopExpr, ...], lane: str
    ) -> tuple[str, str] | Literal[""]:
        """Return a row, and where in it neighbours begin (as a further argument)."""
        *outer, last = indices
        if lane in names(*outer) or self.kinds[buffer] == "mask":
            return ""
        row = self.names[buffer] + "".join(f"[{self.index(each, 0)}]" for each in outer)
        match last:
            case Name(name) if name == lane:
                return row, ""
            case Op("+", (start, Name(name))) if name == lane and lane not in names(start):
                return row, f", {self.index(start, 0)}"
            case _:
                return ""


def flattened(lanes: Mapping[str, int]) -> LoopExpr:
    """Return the index of a place in a token."""
    (first, _), *rest = lanes.items()
    index: LoopExpr = Name(first)
    for lane, count in rest:
        index = Op("+", (Op("*", (index, integer(count))), Name(lane)))
    return index


def _start(index: LoopExpr, lane: str) -> LoopExpr | None:
    """Return what is added to a lane in an index, None if it is more than added to."""
    match index:
        case Name(name) if name == lane:
            return integer(0)
        case Op("+", (left, right)) if lane not in names(left):
            rest = _start(right, lane)
            return left if rest == integer(0) else rest and Op("+", (left, rest))
        case _:
            return None


def _taken(place: tuple[str, str], count: int) -> str:
    return f"pk::take<{count}>({place[0]}{place[1]})"

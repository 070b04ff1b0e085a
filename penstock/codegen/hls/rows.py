"""Outputs leave in rows: what places write far apart is collected in a tile first.

::

    for h:                                 for h:
      for f:                                 for f:
        for p in 0..64 side by side:   →       for p in 0..64 side by side: T[p, f] = ...
          O[h, p, f] = ...                   for p, f: O[h, p, f] = T[p, f]

A port takes a word of neighbours in a cycle, but 64 single elements in 64. The tile belongs to the
writer of the output (`hls/split.py`), so that it leaves while the computation goes on.

Excluded on purpose: outputs with more than one place that computes them, or that are read again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from penstock.codegen.hls.data import bits_of
from penstock.codegen.hls.direct import direct_tensors
from penstock.codegen.hls.loops import is_serial
from penstock.codegen.hls.words import PORT_BITS, word_lanes
from penstock.codegen.loops.nodes import (
    Alloc,
    Block,
    Buffer,
    Const,
    For,
    If,
    Load,
    LoopExpr,
    LoopStmt,
    Name,
    Op,
    Program,
    Store,
    walk_statements,
)
from penstock.codegen.lower.index import Lin, add, atom, integer, range_of, to_expr
from penstock.codegen.timing.dependence import Affine, affine
from penstock.codegen.timing.schedule import AXI_CYCLES

__all__ = ["TILE", "in_rows"]

TILE = "_rows"
"""What the name of an output's tile ends with."""

TILE_BITS = 2**20
"""The largest tile: some 30 blocks of RAM."""


def in_rows(program: Program) -> tuple[Program, dict[str, str]]:
    """Return the program with tiles where they make writing faster, and tile → its output."""
    tiles: dict[str, str] = {}
    direct = direct_tensors(program)
    for output in program.outputs:
        if output.name not in direct:
            program = _collected(program, output, tiles)
    return program, tiles


@dataclass(frozen=True)
class _Site:
    """The store of an output: the statements around it, outermost first."""

    path: tuple[LoopStmt, ...]
    store: Store

    @property
    def loops(self) -> tuple[For, ...]:
        return tuple(each for each in self.path if isinstance(each, For))

    @property
    def serial(self) -> tuple[For, ...]:
        return tuple(each for each in self.loops if is_serial(each))


def _sites(stmt: LoopStmt, name: str, path: tuple[LoopStmt, ...] = ()) -> Iterator[_Site]:
    match stmt:
        case Block(body):
            for each in body:
                yield from _sites(each, name, (*path, stmt))
        case For() | If() | Alloc():
            yield from _sites(stmt.body, name, (*path, stmt))
        case Store(buffer) if buffer == name and not isinstance(stmt.value, Const):
            yield _Site(path, stmt)
        case _:
            return


def _collected(program: Program, output: Buffer, tiles: dict[str, str]) -> Program:
    """Return the program with a tile of one output, if that helps."""
    sites = list(_sites(program.body, output.name))
    if len(sites) != 1 or not output.shape:
        return program
    (site,) = sites
    if not all(isinstance(each.extent, Const) for each in site.loops):
        return program
    forms = [affine(index) for index in site.store.indices]
    if any(form is None or min(form[0].values(), default=0) < 0 for form in forms):
        return program
    known = [form for form in forms if form is not None]
    bits = bits_of(output.kind, output.own, program.format)
    best, cost = None, _scattered(site, output, known, bits)
    for depth in reversed(range(len(site.serial))):
        sizes = _sizes(site, depth, known)
        if math.prod(sizes) * bits > TILE_BITS:
            break
        once = _words(sizes, bits) + AXI_CYCLES
        found = (
            _steps(site.serial) + (_steps(site.serial[:depth]) + 1) * once
        )  # the last: after all
        if found < cost and _dense(site, depth, known):
            best, cost = depth, found
    if best is None:
        return program
    program, tile = _tiled(program, output, site, best, known)
    tiles[tile] = output.name
    return program


def _steps(loops: tuple[For, ...]) -> int:
    return math.prod(int(each.extent.value) for each in loops if isinstance(each.extent, Const))


def _words(sizes: tuple[int, ...], bits: int) -> int:
    """Return the steps in which a tile is copied out (`words.py`)."""
    return math.prod(sizes) // word_lanes(sizes[-1], bits)


def _inner(site: _Site, depth: int) -> dict[str, int]:
    """Return the variables of the loops in a tile: all but the outermost serial ones."""
    around = {each.variable for each in site.serial[:depth]}
    return {
        each.variable: int(each.extent.value)
        for each in site.loops
        if each.variable not in around and isinstance(each.extent, Const)
    }


def _sizes(site: _Site, depth: int, forms: list[Affine]) -> tuple[int, ...]:
    inner = _inner(site, depth)
    return tuple(
        1 + sum(factor * (inner[name] - 1) for name, factor in form[0].items() if name in inner)
        for form in forms
    )


def _scattered(site: _Site, output: Buffer, forms: list[Affine], bits: int) -> int:
    """Return the words that leave without a tile."""
    lanes = [each for each in site.loops if not is_serial(each)]
    extents = [int(each.extent.value) for each in lanes if isinstance(each.extent, Const)]
    words = set[tuple[int, ...]]()
    for place in itertools.product(*map(range, extents)):
        at = dict(zip((each.variable for each in lanes), place, strict=True))
        here = [sum(c * at.get(name, 0) for name, c in form[0].items()) for form in forms]
        words.add((*here[:-1], here[-1] * bits // PORT_BITS))
    return _steps(site.serial) * len(words) + AXI_CYCLES


def _dense(site: _Site, depth: int, forms: list[Affine]) -> bool:
    """Return whether the loops in a tile reach each of its elements, by one index each."""
    inner = _inner(site, depth)
    used = [[name for name in form[0] if name in inner] for form in forms]
    once = len([name for each in used for name in each]) == len({n for e in used for n in e})
    sizes = _sizes(site, depth, forms)
    return once and all(
        math.prod(inner[name] for name in each) == size
        for each, size in zip(used, sizes, strict=True)
    )


def _tiled(
    program: Program, output: Buffer, site: _Site, depth: int, forms: list[Affine]
) -> tuple[Program, str]:
    """Return the program with a tile inside the outermost `depth` loops, and its name."""
    inner = _inner(site, depth)
    tile = Buffer(f"{output.name}{TILE}", _sizes(site, depth, forms), own=output.own)
    local = tuple(to_expr(_part(form, inner, inside=True)) for form in forms)
    bases = [_part(form, inner, inside=False) for form in forms]
    taken = {each.variable for each in walk_statements(program.body) if isinstance(each, For)}
    ranges = {each.variable: (0, _extent(each) - 1) for each in site.loops}
    clear = _over(tile, taken, "", lambda at: Store(tile.name, at, Const(0.0)))

    def leave(at: tuple[LoopExpr, ...]) -> LoopStmt:
        stmt: LoopStmt
        places = [add(base, atom(each)) for base, each in zip(bases, at, strict=True)]
        stmt = Store(output.name, tuple(map(to_expr, places)), Load(tile.name, at))
        for base, size, extent, index in zip(bases, tile.shape, output.shape, places, strict=True):
            if range_of(base, ranges)[1] + size > extent:
                stmt = If(Op("<", (to_expr(index), integer(extent))), stmt)
        return stmt

    parts = [_over(tile, taken, f"{output.name} leaves in rows", leave)]
    if any(isinstance(each, If) for each in site.path):
        parts = [clear, *parts]
    first = site.serial[depth]
    stored = replace(site.store, buffer=tile.name, indices=local)
    body = _replaced(program.body, {id(site.store): stored}, first, parts)
    return replace(program, body=Alloc(tile, body)), tile.name


def _extent(loop: For) -> int:
    assert isinstance(loop.extent, Const)
    return int(loop.extent.value)


def _part(form: Affine, inner: dict[str, int], *, inside: bool) -> Lin:
    terms = tuple((Name(n), c) for n, c in form[0].items() if (n in inner) == inside)
    return Lin(terms, 0 if inside else form[1])


def _over(
    tile: Buffer, taken: set[str], comment: str, make: Callable[[tuple[LoopExpr, ...]], LoopStmt]
) -> LoopStmt:
    """Return loops over the elements of a tile."""
    at: list[LoopExpr] = []
    loops: list[tuple[str, int]] = []
    for size in tile.shape:
        name = next(n for k in itertools.count() if (n := f"r{k}") not in taken)
        taken.add(name)
        at.append(Name(name) if size > 1 else integer(0))
        loops += [(name, size)] if size > 1 else []
    stmt = make(tuple(at))
    for number, (name, size) in reversed(list(enumerate(loops))):
        stmt = For(name, integer(size), stmt, comment=comment if number == 0 else "")
    return stmt


def _replaced(
    stmt: LoopStmt, stores: dict[int, Store], first: For, parts: list[LoopStmt]
) -> LoopStmt:
    """Return a statement with another store, and the tile's own statements around a loop."""
    match stmt:
        case Store():
            return stores.get(id(stmt), stmt)
        case Block(body):
            return replace(stmt, body=tuple(_replaced(e, stores, first, parts) for e in body))
        case For() | If() | Alloc():
            new = replace(stmt, body=_replaced(stmt.body, stores, first, parts))
            return Block((*parts[:-1], new, parts[-1])) if stmt is first else new

"""How a `Program` becomes CUDA kernels: what is a launch, what a block does, what a thread does.

* The outermost chain of ``block`` loops is a grid. What stands beside it, and has no such loop, is
  a kernel of one block. A serial loop around grids is a loop of launches on the host.
* Inside a kernel, a chain of ``thread`` loops is a *leaf*: its points go to the threads in order,
  32 neighbours to a warp. All other loops are run by every thread alike (*uniform*), and a
  statement outside all thread loops is run by thread 0; if it is a plain fill of a buffer, by all.
* A loop over which something is accumulated cannot be spread over threads or blocks without
  atomics, which would make results depend on timing: it runs in one thread, in order.
* Barriers stand between leaves that touch the same shared or global buffer, one of them writing.

Excluded on purpose: text (`tvm/cuda.py`), tensor cores, asynchronous copies, warp shuffles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from penstock.codegen.loops.nodes import (
    Alloc,
    Block,
    Buffer,
    Const,
    For,
    If,
    LoopStmt,
    Program,
    Store,
    walk_statements,
)
from penstock.codegen.loops.walk import expressions, loads
from penstock.codegen.tvm.ranges import Ranges, most, moves, names

__all__ = ["Host", "Kernel", "Leaf", "Repeat", "leaf_of", "plan", "race_free"]


FILL_THREADS = 256
"""Threads of a block that does nothing but fill buffers."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """Points that the threads of a block share: the loops, outermost first, and what each does."""

    loops: tuple[For, ...]
    body: LoopStmt

    @property
    def points(self) -> int:
        """Number of points."""
        return math.prod(extent_of(each) for each in self.loops)


@dataclass(frozen=True, slots=True)
class Kernel:
    """One launch.

    Args:
        name: of the function.
        grid: block loops, outermost first; () for one block.
        body: what a block does.
        threads: in a block.
        scalars: host loop variables that the body uses.
    """

    name: str
    grid: tuple[For, ...]
    body: LoopStmt
    threads: int
    scalars: tuple[str, ...] = ()

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return math.prod(extent_of(each) for each in self.grid)


@dataclass(frozen=True, slots=True)
class Repeat:
    """A loop of launches."""

    variable: str
    extent: int
    steps: tuple[Host, ...]


Host = Kernel | Repeat


def plan(program: Program) -> tuple[tuple[Host, ...], tuple[Buffer, ...]]:
    """Split a program into launches.

    Returns:
        The launches in order, and the buffers that live between them (global memory).
    """
    planner = _Planner(program.name)
    return planner.host(program.body, ()), tuple(planner.workspace)


class _Planner:
    def __init__(self, name: str) -> None:
        self.name = name
        self.workspace: list[Buffer] = []
        self.count = 0

    def host(self, stmt: LoopStmt, scalars: tuple[str, ...]) -> tuple[Host, ...]:
        match stmt:
            case Block(body) if _splits(stmt):
                return tuple(step for part in _runs(body) for step in self.host(part, scalars))
            case Alloc(buffer, body) if _splits(stmt):
                self.workspace.append(buffer)
                return self.host(body, scalars)
            case For(kind=""):
                if _splits(stmt) and isinstance(stmt.extent, Const):
                    inner = self.host(stmt.body, (*scalars, stmt.variable))
                    return (Repeat(stmt.variable, extent_of(stmt), inner),)
            case _:
                pass
        return (self.kernel(stmt, scalars),) if _acts(stmt) else ()

    def kernel(self, stmt: LoopStmt, scalars: tuple[str, ...]) -> Kernel:
        stmt = _spread_fill(stmt)
        grid, body = _chain(stmt, "block", {})
        used = {name for each in walk_statements(stmt) for name in _names_in(each)}
        kernel = Kernel(
            f"{self.name}_{self.count}",
            grid,
            body,
            threads=_threads(body),
            scalars=tuple(name for name in scalars if name in used),
        )
        self.count += 1
        return kernel


def _acts(stmt: LoopStmt) -> bool:
    return any(isinstance(each, Store) for each in walk_statements(stmt))


def _has_grid(stmt: LoopStmt) -> bool:
    return any(isinstance(each, For) and each.kind == "block" for each in walk_statements(stmt))


def _splits(stmt: LoopStmt) -> bool:
    """Whether the host must look inside: there are grids, and it is not one itself."""
    return _has_grid(stmt) or _fills(stmt)


def _fills(stmt: LoopStmt) -> bool:
    """Whether part of a block is a plain fill, which deserves a grid of its own."""
    return isinstance(stmt, Block) and any(_is_fill(each) for each in stmt.body)


def _runs(body: tuple[LoopStmt, ...]) -> Iterator[LoopStmt]:
    """Yield statements with grids one by one, those without in runs."""
    run: list[LoopStmt] = []
    for each in body:
        if not (_has_grid(each) or _is_fill(each)):
            run.append(each)
            continue
        if run:
            yield _joined(run)
        run = []
        yield each
    if run:
        yield _joined(run)


def _joined(run: list[LoopStmt]) -> LoopStmt:
    return run[0] if len(run) == 1 else Block(tuple(run))


def extent_of(loop: For) -> int:
    """Return the constant extent of a loop (spatial loops always have one)."""
    if not isinstance(loop.extent, Const):
        raise TypeError(f"loop {loop.variable} has no constant extent")
    return int(loop.extent.value)


def _names_in(stmt: LoopStmt) -> Iterator[str]:
    for expr in expressions(stmt):
        yield from names(expr)


def race_free(loop: For, inner: Ranges) -> bool:
    """Whether no two iterations of a loop write the same element of a buffer that both see.

    `inner` are the ranges of further variables that run while this one stands still.
    """
    own = {each.buffer.name for each in walk_statements(loop.body) if isinstance(each, Alloc)}
    bounds, unbounded = dict(inner), set[str]()
    for each in walk_statements(loop.body):
        if isinstance(each, For):
            largest = most(each.extent)
            if largest is None:
                unbounded.add(each.variable)
            else:
                bounds[each.variable] = (0, max(largest - 1, 0))
    return all(
        any(
            moves(index, loop.variable, bounds)
            for index in each.indices
            if not names(index) & unbounded
        )
        for each in walk_statements(loop.body)
        if isinstance(each, Store) and each.buffer not in own
    )


def _chain(stmt: LoopStmt, kind: str, inner: Ranges) -> tuple[tuple[For, ...], LoopStmt]:
    """Return the perfect nest of loops of a kind that stands outermost, and what it holds."""
    found: list[For] = []
    while isinstance(stmt, For) and stmt.kind == kind and race_free(stmt, inner):
        found.append(stmt)
        stmt = stmt.body
    return tuple(found), stmt


def leaf_of(stmt: LoopStmt) -> Leaf | None:
    """Return a statement as a leaf: thread loops, or a plain fill; None if it is uniform."""
    spread = _as_threads(stmt) if _is_fill(stmt) else stmt
    loops, body = _chain(spread, "thread", {})
    return Leaf(loops, body) if loops else None


def _threads(stmt: LoopStmt) -> int:
    """Return the threads that a block needs: those of its largest leaf; fills take any number."""
    most = fill = 0
    for each in _outermost_leaves(stmt):
        leaf = leaf_of(each)
        points = leaf.points if leaf is not None else 1
        if isinstance(each, For) and each.kind == "thread":
            most = max(most, points)
        else:
            fill = max(fill, min(points, FILL_THREADS))
    return most or fill or 1


def _outermost_leaves(stmt: LoopStmt) -> Iterator[LoopStmt]:
    if leaf_of(stmt) is not None:
        yield stmt
        return
    match stmt:
        case Block(body):
            for each in body:
                yield from _outermost_leaves(each)
        case For() | If() | Alloc():
            yield from _outermost_leaves(stmt.body)
        case Store():
            pass


def _is_fill(stmt: LoopStmt) -> bool:
    """Whether it is a nest of serial loops around one store that reads nothing it writes."""
    depth = 0
    inner = stmt
    while isinstance(inner, For) and inner.kind == "" and isinstance(inner.extent, Const):
        inner, depth = inner.body, depth + 1
    while isinstance(inner, Block) and len(inner.body) == 1:
        inner = inner.body[0]
    if not isinstance(inner, Store) or depth == 0:
        return False
    if any(load.buffer == inner.buffer for expr in expressions(inner) for load in loads(expr)):
        return False
    return all(race_free(each, {}) for each in walk_statements(stmt) if isinstance(each, For))


def _as_threads(stmt: LoopStmt) -> LoopStmt:
    if isinstance(stmt, For):
        return replace(stmt, kind="thread", body=_as_threads(stmt.body))
    return stmt


def _spread_fill(stmt: LoopStmt) -> LoopStmt:
    """Give a fill that is a launch of its own a grid: the outermost loop."""
    if _is_fill(stmt) and isinstance(stmt, For) and isinstance(stmt.body, For):
        return replace(stmt, kind="block")
    return stmt

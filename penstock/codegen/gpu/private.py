"""Values that a block keeps for itself, although the mapping has them in global memory.

The state of a part (split-K) leaves its launch, so that it is a buffer in global memory, and each
block has a region of it. `with_private` gives the block a buffer of its own with that region, and
writes it out once at the end, if anything else reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from penstock.codegen.gpu.unfit import Unfit
from penstock.codegen.loops.nodes import (
    Alloc,
    Block,
    Buffer,
    Const,
    For,
    Load,
    LoopExpr,
    LoopStmt,
    Name,
    Op,
    Program,
    Store,
    walk_statements,
)
from penstock.codegen.loops.rewrite import map_bodies, map_expressions, map_leaves
from penstock.codegen.loops.walk import elements, expressions, loads, touched
from penstock.codegen.tvm.kernels import Kernel, extent_of
from penstock.codegen.tvm.ranges import interval, names

__all__ = ["with_private"]


def with_private(kernel: Kernel, program: Program) -> Kernel:
    """Return a launch in which blocks keep what they read and write themselves.

    Args:
        kernel: a launch with all its block loops in the grid.
        program: that it is part of.

    Raises:
        Unfit: such a buffer of which no region is a block's own.
    """
    made = {each.buffer.name for each in walk_statements(kernel.body) if isinstance(each, Alloc)}
    read, written = touched(kernel.body)
    outside = [each for each in walk_statements(program.body) if isinstance(each, Alloc)]
    buffers = {each.name: each for each in (*(e.buffer for e in outside), *program.outputs)}
    body = kernel.body
    for name in sorted((read & written) - made):
        region = _Region(kernel, name)
        body = region.own(body, buffers[name], leaves=_leaves(name, kernel, program))
    return replace(kernel, body=body)


def _leaves(name: str, kernel: Kernel, program: Program) -> bool:
    """Whether a buffer is read anywhere else."""
    here, everywhere = (
        sum(load.buffer == name for load in _loads(body)) for body in (kernel.body, program.body)
    )
    return everywhere > here or any(each.name == name for each in program.outputs)


def _loads(body: LoopStmt) -> Iterator[Load]:
    for stmt in walk_statements(body):
        for expr in expressions(stmt):
            yield from loads(expr)


class _Region:
    """The region of a buffer that a block has: for each dimension where it starts, and its loop.

    ``loops`` has, by dimension, the first loop that goes along it, or None; ``extents`` its size.
    """

    def __init__(self, kernel: Kernel, name: str) -> None:
        self.name = name
        self.grid = {each.variable: (0, extent_of(each) - 1) for each in kernel.grid}
        self.inner = {e.variable: e for e in walk_statements(kernel.body) if isinstance(e, For)}
        found = [each for each in elements(kernel.body) if each.buffer == name]
        first = next(
            each
            for each in walk_statements(kernel.body)
            if isinstance(each, Store) and each.buffer == name
        )
        if not found[0].written or any(each.buffer == name for each in loads(first.value)):
            raise self._unfit()
        self.starts: list[LoopExpr] = []
        self.loops: list[For | None] = []
        self.extents: list[int] = []
        for along in zip(*(each.indices for each in found), strict=True):
            self._dimension([self._cut(index) for index in along])

    def _unfit(self) -> Unfit:
        return Unfit(f"{self.name} is kept in global memory from tile to tile")

    def _cut(self, index: LoopExpr) -> tuple[LoopExpr, For | None]:
        """Return an index as a start that the block has, and the loop over what is added."""
        match index:
            case Name(name) if name in self.inner:
                return Const(0, True), self.inner[name]
            case Op("+", (start, Name(name))) if name in self.inner and not (
                names(start) & self.inner.keys()
            ):
                return start, self.inner[name]
        if names(index) & self.inner.keys() or any(True for _ in loads(index)):
            raise self._unfit()
        return index, None

    def _dimension(self, cut: list[tuple[LoopExpr, For | None]]) -> None:
        loops = [loop for _, loop in cut if loop is not None]
        if len({start for start, _ in cut}) != 1 or len(loops) not in (0, len(cut)):
            raise self._unfit()
        bounds = [interval(each.extent, self.grid) for each in loops]
        if None in bounds:
            raise self._unfit()
        self.starts.append(cut[0][0])
        self.loops.append(loops[0] if loops else None)
        self.extents.append(max([1, *(each[1] for each in bounds if each is not None)]))

    def own(self, body: LoopStmt, buffer: Buffer, *, leaves: bool) -> LoopStmt:
        """Return the body with a buffer for the region, which is written out at the end."""
        own = f"{self.name}_own"

        def inside(indices: tuple[LoopExpr, ...]) -> tuple[LoopExpr, ...]:
            cut = (self._cut(index)[1] for index in indices)
            return tuple(Const(0, True) if each is None else Name(each.variable) for each in cut)

        def element(each: Name | Load) -> LoopExpr:
            if isinstance(each, Load) and each.buffer == self.name:
                return Load(own, inside(each.indices))
            return each

        def stores(stmt: LoopStmt) -> LoopStmt:
            if isinstance(stmt, Store) and stmt.buffer == self.name:
                return Store(own, inside(stmt.indices), stmt.value)
            return map_bodies(stmt, stores)

        made = stores(map_expressions(body, lambda expr: map_leaves(expr, element)))
        end = (self._written_out(own),) if leaves else ()
        mine = replace(buffer, name=own, shape=tuple(self.extents), memory="smem", copies=1)
        return Alloc(mine, Block((made, *end)))

    def _written_out(self, own: str) -> LoopStmt:
        to: list[LoopExpr] = []
        at: list[LoopExpr] = []
        over: list[For] = []
        for start, loop in zip(self.starts, self.loops, strict=True):
            if loop is None:
                to.append(start)
                at.append(Const(0, True))
                continue
            name = f"{loop.variable}_out_{self.name}"
            over.append(replace(loop, variable=name, kind="", axis="", comment=""))
            to.append(Name(name) if start == Const(0, True) else Op("+", (start, Name(name))))
            at.append(Name(name))
        stmt: LoopStmt = Store(self.name, tuple(to), Load(own, tuple(at)))
        for each in reversed(over):
            stmt = replace(each, body=stmt)
        return Block((stmt,), comment=f"{self.name} of this block")

"""One `Kernel` as a TVMScript function: thread numbering, shared memory, barriers.

Excluded on purpose: the split into kernels (`tvm/kernels.py`), compiling (`tvm/cuda.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from penstock.codegen.gpu.product import Call
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
from penstock.codegen.loops.walk import expressions, loads, touched
from penstock.codegen.tvm.expr import element_type
from penstock.codegen.tvm.kernels import Kernel, Leaf, extent_of, leaf_of
from penstock.codegen.tvm.ranges import Ranges
from penstock.codegen.tvm.script import ScriptPrinter, in_order, ranges_inside

__all__ = ["KernelText", "kernel_text"]

_ALIGN = 64


@dataclass(frozen=True, slots=True)
class KernelText:
    """A kernel's function, the bytes of its shared pool, and the scratch buffers it wants.

    ``scratch`` are buffers of a block that do not fit in shared memory; each is a parameter with
    one copy for each block.
    """

    lines: tuple[str, ...]
    shared_bytes: int
    scratch: tuple[Buffer, ...]


def kernel_text(
    program: Program,
    kernel: Kernel,
    given: Sequence[Buffer],
    limit: int,
    grid: Sequence[int],
    calls: Mapping[LoopStmt, Call],
) -> KernelText:
    """Print a kernel.

    Args:
        program: that the kernel is part of; it must hold every buffer of it.
        kernel: what to print.
        given: buffers of the program that are parameters: inputs, outputs, workspace.
        limit: most bytes of shared memory.
        grid: blocks along x, y, z; one for each block loop, innermost first, or all along x.
        calls: statements that are calls of a function.
    """
    pool = _Pool(limit, program)
    pool.place(kernel.body, 0)
    scratch = tuple(replace(each, shape=(kernel.blocks, *each.shape)) for each in pool.scratch)
    read, written = touched(kernel.body)
    used = [each for each in given if each.name in read | written]
    printer = _KernelPrinter(program, kernel, pool, calls)
    lines = tuple(printer.function([*used, *scratch], grid))
    return KernelText(lines, pool.size, scratch)


@dataclass
class _Pool:
    """Places the buffers of a block in one pool, those of nested scopes above each other."""

    limit: int
    program: Program
    size: int = 0
    offsets: dict[str, int] = field(default_factory=dict)
    buffers: dict[str, Buffer] = field(default_factory=dict)
    scratch: list[Buffer] = field(default_factory=list)

    def place(self, stmt: LoopStmt, top: int) -> None:
        if leaf_of(stmt) is not None:
            return
        match stmt:
            case Block(body):
                for each in body:
                    self.place(each, top)
            case For() | If():
                self.place(stmt.body, top)
            case Alloc(buffer, body):
                end = top + self.bytes(buffer)
                if end <= self.limit:
                    self.offsets[buffer.name], self.buffers[buffer.name] = top, buffer
                    self.size = max(self.size, end)
                    self.place(body, end)
                else:
                    self.scratch.append(buffer)
                    self.place(body, top)
            case Store():
                pass

    def bytes(self, buffer: Buffer) -> int:
        count = _bytes(element_type(buffer, self.program.format))
        for extent in buffer.shape:
            count *= extent
        return -(-count // _ALIGN) * _ALIGN

    def shares(self, name: str) -> frozenset[str]:
        """Return the buffers that lie, at any time, where this one does; itself included."""
        if name not in self.offsets:
            return frozenset((name,))
        low = self.offsets[name]
        high = low + self.bytes(self.buffers[name])
        return frozenset(
            other
            for other, start in self.offsets.items()
            if start < high and low < start + self.bytes(self.buffers[other])
        )


class _KernelPrinter:
    """Prints statements that all threads of a block pass, and the leaves between barriers."""

    def __init__(
        self, program: Program, kernel: Kernel, pool: _Pool, calls: Mapping[LoopStmt, Call]
    ) -> None:
        self.program, self.kernel, self.pool, self.calls = program, kernel, pool, calls
        self.scratch = {each.name for each in pool.scratch}
        self.text = ScriptPrinter(
            program, scope="local", prefix=dict.fromkeys(self.scratch, "p_block")
        )
        self.expr, self.names = self.text.expr, self.text.names
        own = {
            each.buffer.name
            for each in walk_statements(kernel.body)
            if isinstance(each, Alloc) and each.buffer.name not in pool.offsets
        }
        self.visible = set(self.expr.buffers) - (own - self.scratch)
        self.reads: set[str] = set()
        self.writes: set[str] = set()

    def function(self, given: Sequence[Buffer], grid: Sequence[int]) -> Iterator[str]:
        """Yield the lines of the function."""
        listed = [self.text.parameter(each) for each in given]
        listed += [f"{self.names[each]}: T.int32" for each in self.kernel.scalars]
        for each in self.kernel.scalars if self.expr.wide else ():
            self.names[each] = f'T.cast({self.names[each]}, "int64")'
        yield "    @T.prim_func"
        yield f"    def {self.kernel.name}({', '.join(listed)}):"
        yield from self._launch(grid)
        yield from self._shared()
        ranges = {each.variable: (0, extent_of(each) - 1) for each in self.kernel.grid}
        yield from self.lines(self.kernel.body, 2, ranges)

    def _launch(self, grid: Sequence[int]) -> Iterator[str]:
        pad, loops = " " * 8, self.kernel.grid
        axes = [f"p_block_{axis}" for axis in "xyz"[: len(grid)]]
        for axis, extent in zip(axes, grid, strict=True):
            yield f'{pad}{axis} = T.launch_thread("blockIdx.{axis[-1]}", {extent})'
        yield f'{pad}p_thread = T.launch_thread("threadIdx.x", {self.kernel.threads})'
        if len(grid) == len(loops):
            for axis, loop in zip(axes, reversed(loops), strict=True):
                yield self._defined(self.names[loop.variable], axis, pad)
        else:
            yield from self._decode("p_block_x", loops, pad)
        if self.scratch:
            parts = [f"{axis} * {below}" for axis, below in zip(axes, _below(grid), strict=True)]
            yield self._defined("p_block", " + ".join(parts), pad)

    def _defined(self, name: str, text: str, pad: str) -> str:
        """Return the definition of an index."""
        if self.expr.wide:
            return f'{pad}{name}: T.let[T.int64] = T.cast({text}, "int64")'
        return f"{pad}{name}: T.let[T.int32] = {text}"

    def _decode(self, flat: str, loops: Sequence[For], pad: str) -> Iterator[str]:
        """Yield the definitions of loop variables from a number that counts all their points."""
        below = 1
        for place, loop in enumerate(reversed(loops)):
            extent = extent_of(loop)
            text = flat if below == 1 else f"{flat} // {below}"
            if place < len(loops) - 1:
                text = f"{text} % {extent}"
            yield self._defined(self.names[loop.variable], text, pad)
            below *= extent

    def _shared(self) -> Iterator[str]:
        pad = " " * 8
        if self.pool.size:
            size = self.pool.size
            yield f'{pad}p_pool = T.alloc_buffer(({size},), "uint8", scope="shared.dyn")'
        for name, offset in self.pool.offsets.items():
            buffer = self.pool.buffers[name]
            kind = element_type(buffer, self.program.format)
            where = f"data=p_pool.data, elem_offset={offset // _bytes(kind)}"
            shape = self.text.shape(buffer)
            yield (
                f'{pad}{self.names[name]} = T.decl_buffer({shape}, "{kind}", {where}, '
                f'scope="shared.dyn")'
            )

    # What all threads pass.

    def lines(self, stmt: LoopStmt, depth: int, ranges: Ranges) -> Iterator[str]:
        """Yield the lines of a statement that every thread reaches."""
        pad = "    " * depth
        if stmt in self.calls:
            yield from self._ordered(stmt, pad)
            yield f"{pad}{self._called(self.calls[stmt], ranges)}"
            return
        leaf = leaf_of(stmt)
        if leaf is not None:
            yield from self._ordered(stmt, pad)
            yield from self._leaf(leaf, depth, ranges)
            return
        match stmt:
            case Store():
                yield from self._ordered(stmt, pad)
                yield f"{pad}if p_thread == 0:"
                yield from self.text.lines(stmt, depth + 1, ranges)
            case For():
                yield from self._uniform_loop(stmt, depth, ranges)
            case If(condition, body):
                yield from self._ordered_reads(stmt, pad)
                before = set(self.reads), set(self.writes)
                yield f"{pad}if {self.expr.condition(condition, ranges)}:"
                yield from self.lines(body, depth + 1, ranges)
                self.reads |= before[0]
                self.writes |= before[1]
            case Alloc(_, body):
                yield from self.lines(body, depth, ranges)
            case Block():
                yield from in_order(stmt, depth, lambda each: self.lines(each, depth, ranges))

    def _called(self, call: Call, ranges: Ranges) -> str:
        zero = Const(0, True)
        starts = (
            self.expr.element(each, (zero,) * len(self.expr.buffers[each].shape), ranges)
            for each in call.buffers
        )
        listed = [f'"{call.name}"', *(f"T.address_of({each})" for each in starts)]
        listed += [self.names[each] for each in call.scalars]
        return f'T.evaluate(T.call_extern("void", {", ".join(listed)}))'

    def _uniform_loop(self, loop: For, depth: int, ranges: Ranges) -> Iterator[str]:
        yield from self._ordered_reads(loop, "    " * depth)
        extent = self.text.extent(loop, ranges)
        said = "  # " + " ".join(loop.comment.split()) if loop.comment else ""
        yield f"{'    ' * depth}for {self.names[loop.variable]} in T.serial({extent}):{said}"
        before = set(self.reads), set(self.writes)
        read, written = self._seen(loop.body)
        if written & (read | written):  # an iteration may meet what the one before it did
            yield f'{"    " * (depth + 1)}T.tvm_storage_sync("shared")'
            self.reads, self.writes = set(), set()
        yield from self.lines(loop.body, depth + 1, ranges_inside(loop, ranges))
        self.reads |= before[0]
        self.writes |= before[1]

    def _seen(self, stmt: LoopStmt) -> tuple[set[str], set[str]]:
        read, written = touched(stmt)
        return (
            {other for each in read & self.visible for other in self.pool.shares(each)},
            {other for each in written & self.visible for other in self.pool.shares(each)},
        )

    def _ordered(self, stmt: LoopStmt, pad: str) -> Iterator[str]:
        """Yield a barrier if the statement meets what others did since the last one."""
        read, written = self._seen(stmt)
        if written & (self.reads | self.writes) or read & self.writes:
            yield f'{pad}T.tvm_storage_sync("shared")'
            self.reads, self.writes = set(), set()
        self.reads |= read
        self.writes |= written

    def _ordered_reads(self, stmt: LoopStmt, pad: str) -> Iterator[str]:
        read = {load.buffer for expr in expressions(stmt) for load in loads(expr)}
        found = {other for each in read & self.visible for other in self.pool.shares(each)}
        if found & self.writes:
            yield f'{pad}T.tvm_storage_sync("shared")'
            self.reads, self.writes = set(), set()
        self.reads |= found

    # What each thread does.

    def _leaf(self, leaf: Leaf, depth: int, ranges: Ranges) -> Iterator[str]:
        threads = self.kernel.threads
        rounds, flat = -(-leaf.points // threads), "p_thread"
        said = " ".join(each.comment for each in leaf.loops if each.comment)
        if said:
            yield f"{'    ' * depth}# {said}"
        if rounds > 1:
            name = f"p_{self.names[leaf.loops[0].variable]}"
            yield f"{'    ' * depth}for {name} in T.serial({rounds}):"
            depth += 1
            flat = f"({name} * {threads} + p_thread)"
        if leaf.points != rounds * threads:
            yield f"{'    ' * depth}if {flat} < {leaf.points}:"
            depth += 1
        yield from self._decode(flat, leaf.loops, "    " * depth)
        inner = {**ranges, **{each.variable: (0, extent_of(each) - 1) for each in leaf.loops}}
        yield from self.text.lines(leaf.body, depth, inner)


def _bytes(kind: str) -> int:
    """Return the bytes of a type, whose name ends in its bits."""
    return int(kind.lstrip("abcdefghijklmnopqrstuvwxyz")) // 8


def _below(extents: Sequence[int]) -> list[int]:
    found, product = [], 1
    for each in extents:
        found.append(product)
        product *= each
    return found

"""`Program` → TVMScript text that `tvm.script.from_source` of this apache-tvm parses.

What a TVM user finds in the text: one ``@T.prim_func`` in an ``@I.ir_module``, buffers with scopes,
and the schedule as *loop kinds* (``T.parallel``, ``T.vectorized``; on a GPU ``T.launch_thread``) in
the loops that the mapping decided, with the mapping's words as comments.

Why loop kinds, and not sblocks with a `tvm.s_tir.Schedule` trace: a cascade with iterative state
updates buffers in place inside a loop that several Einsums share. For such sblocks the Schedule
refuses ``parallel``, ``vectorize`` and ``bind`` (they are neither complete nor reduction blocks,
and the scope is no stage pipeline), and the mapping has made those decisions already. Plain loops
compile for llvm and for cuda, and say the same for every cascade.

Excluded on purpose: which loops are vectorised or parallel (`tvm/plan.py`), expressions
(`tvm/expr.py`), compiling (`tvm/cpu.py`, `tvm/cuda.py`), fixed-point formats.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from penstock.codegen.loops.nodes import (
    Alloc,
    Block,
    Buffer,
    Const,
    For,
    If,
    LoopStmt,
    Op,
    Program,
    Store,
    walk_statements,
)
from penstock.codegen.loops.walk import all_buffers
from penstock.codegen.tvm.env import require_tvm
from penstock.codegen.tvm.expr import ExprPrinter, check_format
from penstock.codegen.tvm.math import MATH_NAMES, functions
from penstock.codegen.tvm.ranges import Ranges, interval

__all__ = ["LoopKind", "ScriptPrinter", "from_source"]
__all__ += ["identifiers", "in_order", "is_wide", "ranges_inside", "script"]

LoopKind = Literal["serial", "parallel", "vectorized", "unroll"]

RESERVED = frozenset((
    *keyword.kwlist, *keyword.softkwlist,
    "T", "I", "R", "Tx", "Axis", "TypeVar", "Module", "tvm", "tir", "tirx", "ir", "relax", "main",
    "range", "float", "int", "bool", "str", "min", "max", "len", "print", "self",
))  # fmt: skip
"""What an identifier of the text cannot be; nor may it be that of one of our functions."""

CONVERSIONS = ("from_bf16", "to_bf16", "to_int", "to_fixed", "to_float", "pair", "half", "dot2")
OURS = frozenset(f"p_{name}" for name in (*MATH_NAMES, *CONVERSIONS))

ENDING = re.compile(r"(?:_(?:\d+|mask|[klot]))+$")
"""What the plan adds to a loop's variable to make it unique."""

INTERLEAVED = ("pragma_parallel_launch_point", "pragma_parallel_stride_pattern")
"""Makes thread t of n run iterations t, t + n, ..: tiles of a causal mask differ in work."""


def script(
    program: Program, kinds: Mapping[str, LoopKind] | None = None, *, name: str = "main"
) -> str:
    """Print a program as a TVM module with one function.

    Args:
        program: in any float format.
        kinds: loop variable → kind; a loop that is not named is serial.
        name: of the function.

    Returns:
        The text of the class ``Module``, without imports, as `from_source` wants it.

    Raises:
        DataError: a fixed-point format, or an operator that TVM lacks.
    """
    check_format(program.format)
    printer = _ShortNames(program, kinds or {}, bits=True)
    given = (*program.inputs, *program.outputs)
    parameters = ", ".join(printer.parameter(each) for each in given)
    head = ("@I.ir_module", "class Module:", "    @T.prim_func", f"    def {name}({parameters}):")
    lines = list(printer.lines(program.body, 2, {}))
    if any("p_dot2(" in each for each in lines):
        imported = '        with T.attr(0, "pragma_import_llvm", p_dot2_code):'
        lines = [imported, *(f"    {each}" for each in lines)]
    return "\n".join((*head, *lines)) + "\n"


def is_wide(program: Program) -> bool:
    """Whether 32-bit indices do not reach every element of every buffer."""
    return any(_size(each) >= 2**31 for each in all_buffers(program))


def _size(buffer: Buffer) -> int:
    size = 1
    for extent in buffer.shape:
        size *= extent
    return size


def identifiers(
    program: Program, private: Callable[[str], bool] = lambda name: name.startswith("p_")
) -> dict[str, str]:
    """Return the identifier in the text of every buffer and loop variable; none is private."""
    loops = (each.variable for each in walk_statements(program.body) if isinstance(each, For))
    listed = [*(each.name for each in all_buffers(program)), *loops]
    taken = set(listed)
    found: dict[str, str] = {}
    for each in listed:
        new = each
        while new in RESERVED or private(new) or (new != each and new in taken):
            new = f"v{new}" if private(new) else f"{new}_"
        taken.add(new)
        found[each] = new
    return found


@dataclass
class ScriptPrinter:
    """Prints the statements of one program; one method for each node.

    ``scope`` is where all allocations go; if "", TVM puts those below 1 KiB on the stack of a
    thread (registers, as far as its compiler can), and the others on the heap.
    """

    program: Program
    kinds: Mapping[str, LoopKind] = field(default_factory=dict)
    scope: str = ""
    prefix: Mapping[str, str] = field(default_factory=dict)
    bits: bool = False

    def __post_init__(self) -> None:
        buffers = {each.name: each for each in all_buffers(self.program)}
        self.names = identifiers(self.program)
        wide = is_wide(self.program)
        self.expr = ExprPrinter(
            buffers, self.names, self.program.format, wide, self.prefix, self.bits
        )
        self.cast = "T.int64({})" if wide else "{}"

    def parameter(self, buffer: Buffer) -> str:
        """Return a parameter of the function."""
        kind = self.expr.element_type(buffer)
        return f'{self.names[buffer.name]}: T.Buffer({self.shape(buffer)}, "{kind}", align=1)'

    def shape(self, buffer: Buffer) -> str:
        """Return the extents of a buffer; a scalar has one element."""
        extents = ", ".join(self.cast.format(extent) for extent in buffer.shape or (1,))
        return f"({extents},)" if len(buffer.shape) < 2 else f"({extents})"

    def lines(self, stmt: LoopStmt, depth: int, ranges: Ranges) -> Iterator[str]:
        """Yield the lines of a statement; never none."""
        pad = "    " * depth
        match stmt:
            case Block():
                yield from in_order(stmt, depth, lambda each: self.lines(each, depth, ranges))
            case For():
                yield from self.loop(stmt, depth, ranges)
            case If(condition, body):
                yield f"{pad}if {self.expr.condition(condition, ranges)}:"
                yield from self.lines(body, depth + 1, ranges)
            case Alloc(buffer, body):
                yield self.allocation(buffer, depth)
                yield from self.lines(body, depth, ranges)
            case Store(name, indices, value):
                target = self.expr.element(name, indices, ranges)
                yield f"{pad}{target} = {self.expr.stored(name, value, ranges)}"

    def loop(self, loop: For, depth: int, ranges: Ranges) -> Iterator[str]:
        """Yield the lines of a loop."""
        kind = self.kinds.get(loop.variable, "serial")
        value = loop.body.value if isinstance(loop.body, Store) else None
        if isinstance(value, Op) and value.op == "dot2":
            yield f"{'    ' * depth}{self.dotted(loop, value, ranges)}"
            return
        extent = self.extent(loop, ranges)
        said = "  # " + " ".join(loop.comment.split()) if loop.comment else ""
        header = f"for {self.names[loop.variable]} in T.{kind}({extent}):{said}"
        if kind == "parallel":
            for each in INTERLEAVED:
                yield f'{"    " * depth}with T.attr(0, "{each}", 1):'
                depth += 1
        yield f"{'    ' * depth}{header}"
        yield from self.lines(loop.body, depth + 1, ranges_inside(loop, ranges))

    def dotted(self, loop: For, value: Op, ranges: Ranges) -> str:
        """Return a vector loop around a ``dot2`` as one call: TVM would take it lane by lane."""
        self.names[loop.variable] = "0"
        inner = ranges_inside(loop, ranges)
        total, first, second = (self.expr.value(each, inner) for each in value.args)
        return f"p_dot2({total}, {first}, {second})"

    def extent(self, loop: For, ranges: Ranges) -> str:
        """Return the extent of a loop, in the type of indices."""
        text = self.expr.index(loop.extent, ranges)
        return self.cast.format(text) if isinstance(loop.extent, Const) else text

    def allocation(self, buffer: Buffer, depth: int) -> str:
        """Return the line that defines a buffer."""
        kind = self.expr.element_type(buffer)
        scoped = f', scope="{self.scope}"' if self.scope else ""
        text = f'T.alloc_buffer({self.shape(buffer)}, "{kind}"{scoped})'
        return f"{'    ' * depth}{self.names[buffer.name]} = {text}"


def in_order(block: Block, depth: int, lines: Callable[[LoopStmt], Iterator[str]]) -> Iterator[str]:
    """Yield the comment of a block, and the lines of its statements; never none."""
    pad = "    " * depth
    yield from (f"{pad}# {line}" for line in block.comment.splitlines())
    for each in block.body:
        yield from lines(each)
    if not block.body:
        yield f"{pad}T.evaluate(0)"


class _ShortNames(ScriptPrinter):
    """Calls a loop as the mapping does, where no loop around it has that name."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.names |= identifiers(self.program, OURS.__contains__)
        self.taken = {self.names[each.name] for each in all_buffers(self.program)}
        self.around: list[str] = []

    def loop(self, loop: For, depth: int, ranges: Ranges) -> Iterator[str]:
        stem = ENDING.sub("", loop.variable) or loop.variable
        name, number = stem, 0
        while name in self.taken | RESERVED | OURS or name in self.around:
            number += 1
            name = f"{stem}_{number}"
        self.names[loop.variable] = name
        self.around.append(name)
        yield from super().loop(loop, depth, ranges)
        self.around.pop()


def ranges_inside(loop: For, ranges: Ranges) -> Ranges:
    """Return the ranges of the variables inside a loop."""
    bounds = interval(loop.extent, ranges)
    return {**ranges, loop.variable: (0, max(bounds[1] - 1, 0))} if bounds else ranges


def from_source(text: str, math: str) -> Any:
    """Parse a module's text.

    Args:
        text: what `script` returned.
        math: the definitions of the ``p_`` functions that it calls (`tvm_math`).

    Returns:
        The `tvm.IRModule`.

    Raises:
        ToolError: TVM is missing or does not fit.
    """
    tvm = require_tvm()
    known = {"tvm": tvm, "I": tvm.script.ir, "T": tvm.script.tirx, "range": range}
    return tvm.script.from_source(text, extra_vars={**known, **functions(math)})

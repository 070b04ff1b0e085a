"""Tasks → C++: a function for each task, and the body of the top function that joins them.

Streams are references to ``hls::stream``; a token of several elements is a ``pk::word``. Loops
without a pragma need no braces around the loop inside, and comments stand at the end of the line
that they explain, so that a kernel stays short enough to be read.

Excluded on purpose: which pragma stands where (`hls/pragmas.py`), files (`hls.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import singledispatchmethod

from penstock.codegen.hls.cpp import WIDTH, Notes, Printer, comment_lines, wrapped
from penstock.codegen.hls.loops import is_serial
from penstock.codegen.hls.split import Stream, Task, Tasks
from penstock.codegen.hls.words import WORD
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
    Store,
)
from penstock.codegen.loops.walk import elements, walk_expression

__all__ = ["KernelText", "print_kernel", "token_type"]


@dataclass(frozen=True)
class KernelText:
    """A kernel as C++, in the parts that its files are made of.

    Args:
        constants: definitions at file scope, one line each.
        parameters: of the top function, in order: inputs, outputs, workspace.
        functions: lines of the tasks' functions.
        calls: of the tasks in the top function, in order.
        tasks: names of their functions, in order.
        unused: lines that name the parameters that no task uses.
        names: identifier of the program → identifier of the text.
    """

    constants: tuple[str, ...]
    parameters: tuple[str, ...]
    functions: tuple[str, ...]
    calls: tuple[str, ...]
    unused: tuple[str, ...]
    tasks: tuple[str, ...]
    names: dict[str, str]


def print_kernel(tasks: Tasks, notes: Notes) -> KernelText:
    """Print a pipeline of tasks."""
    printer = _TaskPrinter(tasks, notes)
    functions = [line for task in tasks.tasks for line in printer.function(task)]
    calls = tuple(printer.call(task) for task in tasks.tasks)
    return KernelText(
        printer.constants(),
        printer.parameters(),
        tuple(functions[:-1]),
        calls,
        tuple(line.strip() for line in printer.unused()),
        tuple(printer.task(task) for task in tasks.tasks),
        printer.names,
    )


def token_type(stream: Stream) -> str:
    """Return the C++ type of what goes through a stream."""
    if stream.lanes == 1:
        return f"{stream.kind}_t"
    return f"pk::word<{stream.kind}_t, {stream.lanes}>"


class _TaskPrinter(Printer):
    """Prints the tasks of one program under one set of names and constants."""

    def __init__(self, tasks: Tasks, notes: Notes) -> None:
        self.tasks = tasks
        super().__init__(tasks.program, notes)
        written = Counter(each.buffer for each in elements(self.program.body) if each.written)
        self.rewritten = {name for name, count in written.items() if count > 1}

    def function(self, task: Task) -> Iterator[str]:
        """Yield the lines of a task's function."""
        self.heading = ""
        inputs = {each.name for each in self.program.inputs}
        buffers = {each.name: each for each in self._parameters()}
        arguments = [self.pointer(buffers[p], constant=p in inputs) for p in task.ports]
        for name in task.streams:
            kind = token_type(self.tasks.streams[name])
            arguments.append(f"hls::stream<{kind}>& {self.names[name]}")
        head = f"void {self.task(task)}({', '.join(arguments)}) {{"
        if len(head) <= WIDTH:
            yield head
        else:
            yield f"void {self.task(task)}("
            yield from (f"    {each}," for each in arguments[:-1])
            yield f"    {arguments[-1]}) {{"
        yield from self.statement(task.body, 1)
        yield "}"
        yield ""

    def task(self, task: Task) -> str:
        """Return the name of a task's function."""
        role, _, tensor = task.name.partition("_")
        return f"{role}_{self.names.get(tensor, tensor)}" if tensor else role

    def call(self, task: Task) -> str:
        """Return the call of a task."""
        arguments = ", ".join(self.names[each] for each in (*task.ports, *task.streams))
        return f"{self.task(task)}({arguments})"

    # What is printed differently from a program of one function.

    @singledispatchmethod
    def statement(self, stmt: LoopStmt, depth: int) -> Iterator[str]:
        """Yield the lines of a statement."""
        yield from super().statement(stmt, depth)

    @statement.register
    def _(self, stmt: For, depth: int) -> Iterator[str]:
        pad, pragmas = "  " * depth, self.notes.loop(stmt)
        head = f"{pad}{self.head(stmt)}"
        alone = _is_one(stmt.body) and not pragmas
        head = head if alone else f"{head} {{"
        comment = stmt.comment
        if stmt.axis:  # its pragma says it, or that of the pipelined loop around
            where = (
                "the elements of a word" if stmt.axis == WORD else f"side by side on {stmt.axis}"
            )
            comment = "" if pragmas else "; ".join(filter(None, (comment, where)))
        if comment and len(head) + len(comment) + 4 > WIDTH:
            yield from comment_lines(comment, depth)
            comment = ""
        yield f"{head}  // {comment}" if comment else head
        yield from (f"{pad}  {line}" for line in pragmas)
        yield from self.statement(stmt.body, depth + 1)
        if not alone:
            yield f"{pad}}}"

    @statement.register
    def _(self, stmt: If, depth: int) -> Iterator[str]:
        if _is_one(stmt.body):
            yield from wrapped(f"if ({self.value(stmt.condition, 0)})", depth)
            yield from self.statement(stmt.body, depth + 1)
        else:
            yield from super().statement(stmt, depth)

    @statement.register
    def _(self, stmt: Alloc, depth: int) -> Iterator[str]:
        first, rest = _first(stmt.body)
        buffer = stmt.buffer
        if isinstance(first, Store) and _starts(first, buffer):
            const = "const " if buffer.name not in self.rewritten else ""
            name, kind = self.names[buffer.name], self.kind(buffer)
            yield from wrapped(f"{const}{kind} {name} = {self.stored(first)};", depth)
            yield from self.statement(rest, depth)
        elif (value := _filled(first, buffer)) is not None:
            fill = Store(buffer.name, (), value)
            yield from self.definition(buffer, depth)
            yield f"{'  ' * depth}pk::fill({self.names[buffer.name]}, {self.stored(fill)});"
            yield from self.statement(rest, depth)
        else:
            yield from super().statement(stmt, depth)

    @statement.register
    def _(self, stmt: Store, depth: int) -> Iterator[str]:
        if stmt.buffer in self.tasks.streams:
            yield f"{'  ' * depth}{self.names[stmt.buffer]}.write({self.stored(stmt)});"
        else:
            yield from super().statement(stmt, depth)

    def stored(self, stmt: Store) -> str:
        """Return the text of the value; what is only moved is not converted."""
        match stmt.value:
            case Load(buffer, indices) if self.kinds[buffer] == self.kinds[stmt.buffer]:
                return self.element(buffer, indices)
            case _:
                return super().stored(stmt)

    def kind(self, buffer: Buffer) -> str:
        """Return the C++ type of a register or a token."""
        if buffer.name in self.tasks.words:
            return f"pk::word<{buffer.kind}_t, {buffer.shape[0]}>"
        return f"{buffer.kind}_t"

    def definition(self, buffer: Buffer, depth: int) -> Iterator[str]:
        """Yield the definition of a local buffer; a token of several elements has its own type."""
        if buffer.name in self.tasks.words:
            yield f"{'  ' * depth}{self.kind(buffer)} {self.names[buffer.name]};"
        else:
            yield from super().definition(buffer, depth)

    def element(self, buffer: str, indices: tuple[LoopExpr, ...]) -> str:
        """Return the text of one element of a buffer, or of a token."""
        if buffer in self.tasks.streams:
            return f"{self.names[buffer]}.read()"
        if buffer in self.tasks.words and not indices:
            return self.names[buffer]
        return super().element(buffer, indices)


def _is_one(stmt: LoopStmt) -> bool:
    """Return whether a statement prints as one of C++, without definitions and comments."""
    return isinstance(stmt, For | If | Store)


def _first(stmt: LoopStmt) -> tuple[LoopStmt, LoopStmt]:
    """Return the first statement of a block, and the rest of it."""
    match stmt:
        case Block((first, *rest), comment) if not comment:
            return first, rest[0] if len(rest) == 1 else Block(tuple(rest))
        case _:
            return stmt, Block(())


def _starts(store: Store, buffer: Buffer) -> bool:
    """Return whether a store gives a register or a token its first value."""
    loads = (node for node in walk_expression(store.value) if isinstance(node, Load))
    whole = store.buffer == buffer.name and not store.indices
    return whole and all(node.buffer != buffer.name for node in loads)


def _filled(stmt: LoopStmt, buffer: Buffer) -> Const | None:
    """Return the constant that unrolled loops write into all of a new array.

    Places that a condition leaves out have no value yet, so that they may have this one.
    """
    lanes: dict[str, int] = {}
    while isinstance(stmt, For | If):
        if isinstance(stmt, For):
            if is_serial(stmt) or not isinstance(stmt.extent, Const):
                return None
            lanes[stmt.variable] = int(stmt.extent.value)
        stmt = stmt.body
    if not isinstance(stmt, Store) or stmt.buffer != buffer.name or not buffer.shape:
        return None
    extents = [lanes.get(each.name) for each in stmt.indices if isinstance(each, Name)]
    covered = tuple(extents) == buffer.shape
    return stmt.value if covered and isinstance(stmt.value, Const) else None

"""Tasks → C++: a function for each task, and the body of the top function that joins them.

One style for all loops (`penstock_loops.hpp`): heads that contain nothing but each other stand on
one line, a body of one statement goes with them if it fits, and the comment says which loops of
the mapping they are. So a kernel stays short enough to be read.

Excluded on purpose: which pragma stands where (`hls/pragmas.py`), files (`hls/generate.py`).
"""

from __future__ import annotations

import functools
import operator
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

from penstock.codegen.hls.cpp import WIDTH, Notes, comment_lines, dims, together, wrapped
from penstock.codegen.hls.data import type_name
from penstock.codegen.hls.loops import is_serial
from penstock.codegen.hls.moves import MovePrinter
from penstock.codegen.hls.nests import names_of_both
from penstock.codegen.hls.split import Stream, Task, Tasks
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
    Store,
    walk_statements,
)
from penstock.codegen.loops.rewrite import map_bodies
from penstock.codegen.loops.walk import elements, walk_expression

__all__ = ["KernelText", "print_kernel", "token_type"]


SHORT = 4
"""Lines of a function that needs no empty line around it: one loop."""


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
    functions = _apart([list(printer.function(task)) for task in tasks.tasks])
    calls = tuple(printer.call(task) for task in tasks.tasks)
    return KernelText(
        printer.constants(),
        printer.parameters(),
        tuple(functions),
        calls,
        tuple(line.strip() for line in printer.unused()),
        tuple(printer.task(task) for task in tasks.tasks),
        printer.names,
    )


def _apart(functions: list[list[str]]) -> Iterator[str]:
    """Yield the lines of functions, with an empty one between two if one of them is long."""
    for number, lines in enumerate(functions):
        if number and max(len(lines), len(functions[number - 1])) > SHORT:
            yield ""
        yield from lines


def _fifo(stream: Stream) -> str:
    """Return the C++ type of a stream."""
    kind = type_name(stream.kind, stream.own)
    return f"fifo<{stream.lanes}>" if kind == "data_t" else f"fifo<{stream.lanes}, {kind}>"


def token_type(stream: Stream) -> str:
    """Return the C++ type of what goes through a stream."""
    return _register_type(stream, stream.lanes)


def _register_type(of: Stream | Buffer, lanes: int) -> str:
    name = type_name(of.kind, of.own)
    return name if lanes == 1 else f"pk::word<{name}, {lanes}>"


class _TaskPrinter(MovePrinter):
    """Prints the tasks of one program under one set of names and constants."""

    def function(self, task: Task) -> Iterator[str]:
        """Yield the lines of a task's function."""
        inputs = {each.name for each in self.program.inputs}
        buffers = {each.name: each for each in self._parameters()}
        arguments = [self.pointer(buffers[p], constant=p in inputs) for p in task.ports]
        for name in task.streams:
            each = self.tasks.streams[name]
            arguments.append(f"{_fifo(each)}& {self.names[name]}")
        yield from wrapped(f"static void {self.task(task)}({', '.join(arguments)}) {{", 0)
        stored = Counter(each.buffer for each in elements(task.body) if each.written)
        self.written_once = {name for name, count in stored.items() if count == 1}
        yield from self.lines(self.chained(task.body), 1)
        yield "}"

    def task(self, task: Task) -> str:
        """Return the name of a task's function."""
        role, _, tensor = task.name.partition("_")
        return f"{role}_{self.names.get(tensor, tensor)}" if tensor else role

    def call(self, task: Task) -> str:
        """Return the call of a task."""
        arguments = ", ".join(self.names[each] for each in (*task.ports, *task.streams))
        return f"{self.task(task)}({arguments})"

    # -- statements ----------------------------------------------------------------------------

    def lines(self, stmt: LoopStmt, depth: int, said: tuple[str, ...] = ()) -> list[str]:
        """Return the lines of a statement.

        Args:
            stmt: the statement.
            depth: how far it is indented, in steps.
            said: comments that belong to its first line.
        """
        match stmt:
            case Block(body, comment):
                return self.block(body, (*said, comment) if comment else said, depth)
            case Alloc():
                return self.allocated(stmt, depth, said)
            case For() | If():
                whole = self.whole(stmt)
                if whole:
                    return _with_comment(wrapped(whole, depth), said, depth)
                if isinstance(stmt, For) and self.stands_alone(stmt):
                    return self.once(stmt, depth, said)
                return self.compound(stmt, depth, said)
            case Store():
                return _with_comment(wrapped(self.simple(stmt), depth), said, depth)

    def block(self, body: tuple[LoopStmt, ...], said: tuple[str, ...], depth: int) -> list[str]:
        """Return the lines of statements in order; of one alone, the comment is with its own."""
        if len(body) == 1:
            return self.lines(body[0], depth, said)
        result = list(comment_lines("; ".join(said), depth)) if said else []
        for before, each in zip((None, *body), body, strict=False):
            lines = self.lines(each, depth)
            sends = self.sends(each) and before is not None and self.sends(before)
            result = _beside_each_other(result, lines) if sends else [*result, *lines]
        return result

    def chained(self, stmt: LoopStmt) -> LoopStmt:
        """Return a statement in which what is stored and then copied is one statement."""
        stmt = map_bodies(stmt, self.chained)
        if not isinstance(stmt, Block):
            return stmt
        result: list[LoopStmt] = []
        for each in stmt.body:
            last = result[-1] if result else None
            if self.copies(last, each):
                assert isinstance(each, Store)
                self.also[id(last)] = each
            else:
                result.append(each)
        return replace(stmt, body=tuple(result))

    def copies(self, first: LoopStmt | None, second: LoopStmt) -> bool:
        """Whether a statement stores again what the one before it has just stored."""
        return (
            isinstance(first, Store)
            and isinstance(second, Store)
            and id(first) not in self.also
            and bool(first.indices)
            and second.buffer not in self.tasks.streams
            and second.value == Load(first.buffer, first.indices)
            and self.types[first.buffer] == self.types[second.buffer]
        )

    def sends(self, stmt: LoopStmt) -> bool:
        """Whether a statement puts a token into a stream."""
        return isinstance(stmt, Store) and stmt.buffer in self.tasks.streams

    def stands_alone(self, stmt: For) -> bool:
        """Whether a loop side by side is in no loop that is pipelined."""
        return not self.beside and not is_serial(stmt) and bool(self.notes.loop(stmt)[0])

    def once(self, stmt: For, depth: int, said: tuple[str, ...]) -> list[str]:
        """Return the lines of what is done in one step: a pipelined loop of one."""
        self.beside = True
        found = (each.comment for each in walk_statements(stmt) if isinstance(each, Block))
        comments = (*said, *filter(None, found)) or tuple(_beside(stmt))
        name = functools.reduce(names_of_both, comments) if comments else ""
        lines = self.opened("PK_ONCE", "PK_PIPELINE(1)", _plain(stmt), (name,), depth)
        self.beside = False
        return lines

    def compound(self, stmt: For | If, depth: int, said: tuple[str, ...]) -> list[str]:
        """Return the lines of loops and conditions that contain nothing but each other."""
        heads: list[str] = []
        comments = list(said)
        opening, reason, inner = "", "", cast(LoopStmt, stmt)
        while isinstance(inner, For | If) and not opening and not (heads and self.whole(inner)):
            if isinstance(inner, If):
                heads.append(f"if ({self.value(inner.condition, 0)})")
            else:
                heads.append(self.head(inner))
                opening, reason = ("", "") if self.beside else self.notes.loop(inner)
                comments += [inner.comment] if is_serial(inner) and inner.comment else []
            inner = inner.body
            while isinstance(inner, Block) and len(inner.body) == 1:
                comments += [inner.comment] if inner.comment else []
                (inner,) = inner.body
        if opening:
            comments += [each for each in _beside(stmt) if each not in comments]
        return self.opened(" ".join(heads), opening, inner, (*_heading(comments), reason), depth)

    def opened(
        self, head: str, opening: str, inner: LoopStmt, said: Sequence[str], depth: int
    ) -> list[str]:
        """Return the lines of a body under its heads; on one line with them if there is room."""
        body, pad = _without(self.lines(inner, depth + 1), said), "  " * depth
        if _short(body, depth + 1):
            text = " ".join(line.strip() for line in body)
            braces = opening or len(body) > 1
            line = f"{pad}{head} {{ {opening} {text} }}" if braces else f"{pad}{head} {text}"
            line = line.replace("{  ", "{ ")
            if len(line) <= WIDTH:
                return _with_comment([line], said, depth)
        bare = not opening and _is_one(inner)
        tail = "" if bare else f" {{ {opening}".rstrip()
        result = _with_comment(wrapped(head + tail, depth), said, depth)
        return [*result, *body, *([] if bare else [f"{pad}}}"])]

    def head(self, stmt: For) -> str:
        """Return the head of a loop."""
        kind = "FOR" if is_serial(stmt) else "EACH"
        return f"PK_{kind}({self.names[stmt.variable]}, {self.index(stmt.extent, 0)})"

    def simple(self, stmt: Store) -> str:
        """Return an assignment, or what is put into a stream."""
        if stmt.buffer in self.tasks.streams:
            return f"{self.names[stmt.buffer]}.write({self.stored(stmt)});"
        target = self.element(stmt.buffer, stmt.indices)
        if id(stmt) in self.also:
            copy = self.also[id(stmt)]
            target = f"{self.element(copy.buffer, copy.indices)} = {target}"
        match stmt.value:
            case Op("+", (own, other)) if own == Load(
                stmt.buffer, stmt.indices
            ) and not self.is_narrow(stmt.buffer):
                return f"{target} += {self.value(other, 0)};"
            case _:
                return f"{target} = {self.stored(stmt)};"

    # -- buffers and registers -----------------------------------------------------------------

    def allocated(self, stmt: Alloc, depth: int, said: tuple[str, ...]) -> list[str]:
        """Return the lines of a definition and of what uses it."""
        first, rest = _first(stmt.body)
        buffer, name = stmt.buffer, self.names[stmt.buffer.name]
        if isinstance(first, Store) and _starts(first, buffer):
            if self.passed_on(first, rest):
                self.inlined[buffer.name] = self.stored(first)
                return self.lines(rest, depth, said)
            start = _with_comment(wrapped(self.started(first, buffer), depth), said, depth)
            token = buffer.name in self.tasks.words
            join = _beside_each_other if token else operator.add
            return join(start, self.lines(rest, depth))
        sent = self.sent(first, rest)
        if sent:
            return _with_comment(wrapped(sent, depth), said, depth)
        value = _filled(first, buffer)
        if value is not None:
            fill = f"pk::fill({name}, {self.stored(Store(buffer.name, (), value))});"
            return [
                *self.definition(buffer, depth),
                f"{'  ' * depth}{fill}",
                *self.lines(rest, depth),
            ]
        if buffer.name in self.given:
            return self.lines(stmt.body, depth, said)
        if buffer.name in self.tasks.words:
            below = self.lines(stmt.body, depth, said)
            return _beside_each_other(self.definition(buffer, depth), below)
        made, inside = [buffer], stmt.body
        while isinstance(inside, Alloc) and self.alike(buffer, inside):
            made.append(inside.buffer)
            inside = inside.body
        return [*self.definitions(made, depth), *self.lines(inside, depth, said)]

    def alike(self, buffer: Buffer, inner: Alloc) -> bool:
        """Whether two arrays may be defined on one line: both wait for their first values."""
        first, _ = _first(inner.body)
        other = inner.buffer
        plain = buffer.shape and other.shape and not self.tasks.words & {buffer.name, other.name}
        begun = _filled(first, other) is not None or other.name in self.given
        return bool(plain) and buffer.memory == other.memory and not begun

    def started(self, first: Store, buffer: Buffer) -> str:
        """Return the definition of a register with its first value."""
        const = "const " if buffer.name not in self.rewritten else ""
        token = isinstance(first.value, Load) and first.value.buffer in self.tasks.streams
        kind = "auto" if token and const else self.kind(buffer)
        return f"{const}{kind} {self.names[buffer.name]} = {self.stored(first)};"

    def passed_on(self, first: Store, rest: LoopStmt) -> bool:
        """Whether a token is only put into a row: then it needs no name."""
        lanes = rest if isinstance(rest, For) else None
        token = isinstance(first.value, Load) and first.value.buffer in self.tasks.streams
        if not token or lanes is None or first.buffer not in self.tasks.words:
            return False
        return self.whole(lanes).startswith("pk::put")

    def sent(self, first: LoopStmt, rest: LoopStmt) -> str:
        """Return the statement that sends neighbours of a row, "" if that is not all."""
        stored = isinstance(rest, Store) and rest.buffer in self.tasks.streams
        if not stored or not isinstance(first, For) or not self.whole(first):
            return ""
        match first, rest:
            case For(), Store(stream, (), Load(token, ())):
                _, _, taken = self.whole(first).partition(f"{self.names[token]} = ")
                return f"{self.names[stream]}.write({taken.removesuffix(';')});" if taken else ""
            case _:
                return ""

    def stored(self, stmt: Store) -> str:
        """Return the text of the value; what is only moved is not converted."""
        match stmt.value:
            case Load(buffer, indices) if self.types[buffer] == self.types[stmt.buffer]:
                return self.element(buffer, indices)
            case _:
                return super().stored(stmt)

    def kind(self, buffer: Buffer) -> str:
        """Return the C++ type of a register or a token."""
        lanes = buffer.shape[0] if buffer.name in self.tasks.words else 1
        return _register_type(buffer, lanes)

    def definitions(self, buffers: list[Buffer], depth: int) -> list[str]:
        """Return the definitions of arrays in one memory, several to a line."""
        if len(buffers) == 1:
            return self.definition(buffers[0], depth)
        texts = [self.array(each) for each in buffers]
        said = f"  // in {buffers[0].memory}" if buffers[0].memory else ""
        lines = together(texts, WIDTH - 2 * depth - len(said))
        return [
            part
            for line in lines
            for part in _with_comment(wrapped(line, depth), (said.removeprefix("  // "),), depth)
        ]

    def array(self, buffer: Buffer) -> str:
        """Return the definition of an array with its banks."""
        name = self.names[buffer.name]
        unread = "" if buffer.name in self.read else f" (void){name};"
        banks, kept = self.notes.buffer(buffer)
        kind = type_name(buffer.kind, buffer.own)
        text = f"PK_TILE({', '.join((kind, name, dims(buffer), *banks))})"
        return f"{text}{unread} {kept}".rstrip()

    def definition(self, buffer: Buffer, depth: int) -> list[str]:
        """Return the definition of a local buffer: a token, an array, a register."""
        name = self.names[buffer.name]
        unread = "" if buffer.name in self.read else f" (void){name};"
        if buffer.name in self.tasks.words:
            return list(wrapped(f"{self.kind(buffer)} {name};{unread}", depth))
        if not buffer.shape:
            text = f"{type_name(buffer.kind, buffer.own)} {name} = 0;{unread}"
            return list(wrapped(text, depth))
        place = (f"in {buffer.memory}",) if buffer.memory else ()
        return _with_comment(wrapped(self.array(buffer), depth), place, depth)

    def element(self, buffer: str, indices: tuple[LoopExpr, ...]) -> str:
        """Return the text of one element of a buffer, or of a token."""
        if buffer in self.tasks.streams:
            return f"{self.names[buffer]}.read()"
        if buffer in self.tasks.words and not indices:
            return self.names[buffer]
        return super().element(buffer, indices)


def _beside(stmt: LoopStmt) -> list[str]:
    """Return the comments of the loops side by side in a statement."""
    loops = (each for each in walk_statements(stmt) if isinstance(each, For))
    comments = (each.comment for each in loops if not is_serial(each))
    return list(dict.fromkeys(each for each in comments if "@" in each and "for " not in each))


def _heading(comments: Sequence[str]) -> Sequence[str]:
    """Return the name of an Einsum and its loops, as a mapping writes them."""
    if len(comments) < 2:
        return comments
    return (f"{comments[0]}{':' if ' on ' in comments[0] else ','} {', '.join(comments[1:])}",)


def _with_comment(lines: Iterable[str], said: Sequence[str], depth: int) -> list[str]:
    """Put a comment at the end of the first line, or in front of it where there is no room.

    The loops that a mapping lists are left out if the rest fits then: the line itself has them.
    """
    result, text = list(lines), "; ".join(filter(None, said))
    if not text:
        return result
    short = "; ".join(each.split(": ")[0] if " on " in each else each for each in said if each)
    for each in (text, short):
        line = f"{result[0]}  // {each}"
        if len(result) == 1 and len(line) <= WIDTH:
            return [line]
    loops = "@" in short and " on " not in short and "for " not in short
    return result if loops else [*comment_lines(short, depth), *result]


def _beside_each_other(above: list[str], below: list[str]) -> list[str]:
    """Return lines with the last one of the first part and the first of the second in one."""
    if not above or not below or "//" in above[-1] or below[0].lstrip().startswith("//"):
        return above + below
    line = f"{above[-1]} {below[0].strip()}"
    if len(line) > WIDTH or not above[-1].endswith(";"):
        return above + below
    return [*above[:-1], line, *below[1:]]


def _without(body: list[str], said: Sequence[str]) -> list[str]:
    """Return a body of one line without a comment that stands beside its head already."""
    text, _, comment = body[0].partition("  // ")
    known = comment and any(each == comment or each.endswith(f" {comment}") for each in said)
    return [text] if len(body) == 1 and known else body


def _plain(stmt: LoopStmt) -> LoopStmt:
    """Return a statement without comments inside."""
    stmt = map_bodies(stmt, _plain)
    return replace(stmt, comment="") if isinstance(stmt, Block | For) else stmt


def _short(body: Sequence[str], depth: int) -> bool:
    """Return whether statements may stand on the line of their loop: one, or two simple ones."""
    if any("//" in line for line in body):
        return False
    pad = "  " * depth
    simple = all(line.startswith(pad) and line[len(pad)] != " " for line in body)
    return len(body) == 1 or (len(body) == 2 and simple and body[0].endswith(";"))


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

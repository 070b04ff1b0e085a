"""`Program` → pseudo-code to read: one line a statement, comments of the mapping on their loops.

Excluded: any language that runs (`tvm/script.py`, `cpp.py`, `loops/python.py`).
"""

from __future__ import annotations

from collections.abc import Iterator

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
)
from penstock.einsum_ir.nodes import format_number
from penstock.einsum_ir.ops import OPERATORS

__all__ = ["show", "show_expr"]


def show(program: Program) -> str:
    """Return the text of a program, ending in a line break."""
    head = ", ".join(_buffer(each) for each in program.inputs)
    tail = ", ".join(_buffer(each) for each in program.outputs)
    kind = str(program.format)
    if program.format.exact:
        width, whole = program.accumulator_bits
        kind += f", accumulators fixed<{width},{whole}>"
    lines = [f"program {program.name}({head}) -> {tail}  # {kind}"]
    return "\n".join([*lines, *_lines(program.body, 1)]) + "\n"


def _buffer(buffer: Buffer) -> str:
    shape = ", ".join(str(extent) for extent in buffer.shape)
    kind = "" if buffer.kind == "data" else f" {buffer.kind}"
    kind = kind if buffer.own is None else f"{kind} {buffer.own}"
    where = f" in {buffer.memory}" if buffer.memory else ""
    return f"{buffer.name}[{shape}]{kind}{where}"


def _lines(stmt: LoopStmt, depth: int) -> Iterator[str]:
    pad = "  " * depth
    match stmt:
        case Block(body, comment):
            if comment:
                yield f"{pad}# {comment}"
            if not body:
                yield f"{pad}pass"
            for each in body:
                yield from _lines(each, depth)
        case For():
            yield pad + _loop(stmt)
            yield from _lines(stmt.body, depth + 1)
        case If(condition, body):
            yield f"{pad}if {show_expr(condition)}:"
            yield from _lines(body, depth + 1)
        case Alloc(buffer, body):
            yield f"{pad}new {_buffer(buffer)}"
            yield from _lines(body, depth)
        case Store(name, indices, value):
            yield f"{pad}{_element(name, indices)} = {show_expr(value)}"


def _loop(stmt: For) -> str:
    notes = [stmt.comment] if stmt.comment else []
    notes += [f"{stmt.kind} {stmt.axis}".strip()] if stmt.kind else []
    notes += ["pipelined"] if stmt.pipelined else []
    text = f"for {stmt.variable} in 0..{show_expr(stmt.extent, 7)}:"
    return f"{text}  # {'; '.join(notes)}" if notes else text


def _element(name: str, indices: tuple[LoopExpr, ...]) -> str:
    return f"{name}[{', '.join(show_expr(each) for each in indices)}]"


def show_expr(expr: LoopExpr, at_least: int = 0) -> str:
    """Return the text of an expression, in parentheses if it binds less tightly than `at_least`."""
    match expr:
        case Const(value, integer):
            text = format_number(value)
            return text if integer or "inf" in text or "nan" in text or "." in text else f"{text}.0"
        case Name(name):
            return name
        case Load(name, indices):
            return _element(name, indices)
        case Op(op, args):
            return _operator(op, args, at_least)


def _operator(op: str, args: tuple[LoopExpr, ...], at_least: int) -> str:
    level = OPERATORS[op].precedence if op in OPERATORS else 0
    if not level:
        return f"{op}({', '.join(show_expr(arg) for arg in args)})"
    if len(args) == 1:
        text = f"{'-' if op == 'neg' else 'not '}{show_expr(args[0], level)}"
    else:
        left = show_expr(args[0], level + (op == "**" or OPERATORS[op].kind == "comparison"))
        text = f"{left} {op} {show_expr(args[1], level + (op != '**'))}"
    return f"({text})" if level < at_least else text

"""Expressions of the statement IR → C++, operators as functions of `penstock_math.hpp`.

The text uses five types that the including program defines: ``data_t`` (storage), ``acc_t``
(exact or wide sums), ``compute_t`` (what functions return), ``mask_t`` and ``index_t``. It is
C++14 and C++17 alike.

Excluded on purpose: statements (`hls/print.py`), the choice of pragmas (a `Notes` object), files.
"""

from __future__ import annotations

import itertools
import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import singledispatchmethod

import numpy as np

from penstock.codegen.hls.data import type_name
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
from penstock.codegen.loops.walk import elements
from penstock.codegen.lower.index import integer
from penstock.einsum_ir.formats import Format, parse_format
from penstock.einsum_ir.interpreter.rounding import limits, quantise, unsupported
from penstock.einsum_ir.ops import OPERATORS

__all__ = [
    "Notes",
    "Printer",
    "comment_lines",
    "dims",
    "identifiers",
    "literal",
    "together",
    "top_name",
    "workspace",
]

WIDTH = 100

WIDE = 2**15
"""Integer literals from here on are 64-bit ones, so that their products with indices are."""

_INFIX = {
    "or": ("||", 1),
    "and": ("&&", 2),
    "==": ("==", 3),
    "!=": ("!=", 3),
    "<": ("<", 4),
    "<=": ("<=", 4),
    ">": (">", 4),
    ">=": (">=", 4),
    "+": ("+", 5),
    "-": ("-", 5),
    "*": ("*", 6),
}
_UNARY, _ATOM = 7, 9

_FUNCTIONS = {"//": "floordiv", "%": "mod", "/": "div", "**": "pow", "float": "value"}
"""Operators whose function in `penstock_*.hpp` has another name."""

_DEDUCED = frozenset({"max", "min", "abs", "clamp"})
"""Functions whose result type follows from their arguments; others are told ``compute_t``."""

_ON_INDICES = frozenset(
    {"+", "-", "*", "neg", "//", "%", "max", "min", "abs", "clamp"}
    | {"sq", "relu", "step", "sign", "floor", "round"}  # the keys of _OF_INDEX
)
"""Operators that make an index of indices."""

_OF_INDEX = {op: f"index_{op}" for op in ("sq", "relu", "step", "sign", "floor", "round")}
"""Functions of indices that have a name of their own."""

_FLOAT_ONLY = frozenset({"sin", "cos", "erf", "gelu", "softplus"})
"""Operators that fixed point does not have."""

_NARROW = ("fp16", "bf16")
"""Formats that are stored in fewer bits than they are computed in."""

_KEYWORDS = frozenset(
    re.findall(
        r"\w+",
        """
        alignas alignof and and_eq asm auto bitand bitor bool break case catch char char16_t
        char32_t class compl const const_cast constexpr continue decltype default delete do double
        dynamic_cast else enum explicit export extern false float for friend goto if inline int
        long mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected
        public register reinterpret_cast return short signed sizeof static static_assert
        static_cast struct switch template this thread_local throw true try typedef typeid typename
        union unsigned using virtual void volatile wchar_t while xor xor_eq
        main std pk data half ap_int ap_uint ap_fixed ap_ufixed
        NULL INLINE EOF WEOF BIAS BUFSIZ NAN SNAN SNANF SNANL INFINITY MAXFLOAT errno assert alloca
        stdin stdout stderr data_t acc_t compute_t mask_t index_t hls compute
        """,
    )
)


@dataclass(frozen=True)
class Notes:
    """What stands beside the loops and buffers of the text; this base class adds nothing."""

    def loop(self, loop: For) -> tuple[str, str]:
        """Return what opens the body of a loop, and the reason; nothing if that is empty."""
        del loop
        return "", ""

    def buffer(self, buffer: Buffer) -> tuple[tuple[str, ...], str]:
        """Return the banks of a local buffer, and what follows its definition."""
        del buffer
        return (), ""


def workspace(program: Program) -> tuple[Buffer, ...]:
    """Return the intermediates that live in the outermost memory, in program order.

    They are parameters of the function, because on a card the host allocates them. Scalars are
    registers wherever the mapping keeps them.
    """
    outer = {each.memory for each in (*program.inputs, *program.outputs)} - {""}
    return tuple(
        each.buffer
        for each in walk_statements(program.body)
        if isinstance(each, Alloc) and each.buffer.shape and each.buffer.memory in outer
    )


def literal(value: float, fmt: Format) -> str:
    """Return the C++ literal of a number of the format, exactly.

    Args:
        value: a number that the format holds.
        fmt: decides between float and double.
    """
    single = fmt.kind == "float" and fmt.name != "fp64"
    if math.isinf(value) or math.isnan(value):
        name = "NAN" if math.isnan(value) else "INFINITY" if value > 0 else "-INFINITY"
        return name if single else f"double({name})"
    text = str(np.float32(value)) if single else repr(float(value))
    return f"{text}f" if single else text


def dims(buffer: Buffer) -> str:
    """Return the extents of an array as its declaration has them."""
    return "".join(f"[{extent}]" for extent in buffer.shape)


class Printer:
    """Prints the expressions of one program; collects the constants that it meets."""

    def __init__(self, program: Program, notes: Notes) -> None:
        self.program, self.notes = program, notes
        self.workspace = workspace(program)
        self.names = identifiers(program)
        self.scalars = {each.name for each in self._all_buffers() if not each.shape}
        self.given = {each.name for each in self._parameters()}
        self.kinds = {each.name: each.kind for each in self._all_buffers()}
        self.types = {each.name: type_name(each.kind, each.own) for each in self._all_buffers()}
        self.read = {each.buffer for each in elements(program.body) if not each.written}
        self.literals: dict[float, str] = {}

    def _parameters(self) -> tuple[Buffer, ...]:
        return (*self.program.inputs, *self.program.outputs, *self.workspace)

    def _all_buffers(self) -> Iterator[Buffer]:
        yield from (*self.program.inputs, *self.program.outputs)
        for each in walk_statements(self.program.body):
            if isinstance(each, Alloc):
                yield each.buffer

    def constants(self) -> tuple[str, ...]:
        """Return the definitions of the constants that the text uses."""
        return tuple(
            f"const compute_t {name} = {literal(value, self.program.format)};"
            for value, name in self.literals.items()
        )

    def parameters(self) -> tuple[str, ...]:
        """Return the declarations of the parameters, in order."""
        inputs = {each.name for each in self.program.inputs}
        return tuple(
            self.pointer(each, constant=each.name in inputs) for each in self._parameters()
        )

    def pointer(self, buffer: Buffer, *, constant: bool) -> str:
        """Return the declaration of an array that is a parameter."""
        name = f"{self.names[buffer.name]}{dims(buffer) or '[1]'}"
        return f"{'const ' if constant else ''}{type_name(buffer.kind, buffer.own)} {name}"

    def unused(self) -> Iterator[str]:
        """Yield a line for each parameter that nothing touches: compilers ask for it."""
        touched = {each.buffer for each in elements(self.program.body)}
        for buffer in self._parameters():
            if buffer.name not in touched:
                yield f"  (void){self.names[buffer.name]};"

    def stored(self, stmt: Store) -> str:
        """Return the text of the value; an infinity is the end of the buffer's own range."""
        kind = self.kinds[stmt.buffer]
        match stmt.value:
            case Const(value) if math.isinf(value) and kind == "acc":
                return f"pk::{'highest' if value > 0 else 'lowest'}<{kind}_t>()"
            case Const(0):
                return "0"
            case Op(op, (inner,)) if op.startswith("as ") and kind == "data":
                return self.value(inner, 0)  # storing rounds
            case Op(op, (inner,)) if op.startswith("as ") and kind == "index":
                low, high = limits(parse_format(op[3:]))
                text = self.index(inner, 0)
                return text if high >= 1 << 31 else f"pk::clamp({text}, {low}, {high})"
            case _:
                return self.value(stmt.value, 0)

    # Expressions: each returns its text and how tightly that binds.

    def value(self, expr: LoopExpr, at_least: int) -> str:
        """Return the text of a value, in parentheses if it binds less tightly than `at_least`."""
        text, binds = self.expression(expr)
        return f"({text})" if binds < at_least else text

    def index(self, expr: LoopExpr, at_least: int) -> str:
        """Return the text of an index; a value that stands for one becomes an integer."""
        if self.is_index(expr):
            return self.value(expr, at_least)
        if isinstance(expr, Op) and expr.op in _INFIX and any(map(self.is_index, expr.args)):
            sign, binds = _INFIX[expr.op]
            left, right = expr.args
            text = f"{self.index(left, binds)} {sign} {self.index(right, binds + 1)}"
            return f"({text})" if binds < at_least else text
        return f"pk::index({self.value(expr, 0)})"

    @singledispatchmethod
    def expression(self, expr: LoopExpr) -> tuple[str, int]:
        """Return the text of an expression and its precedence."""
        raise TypeError(f"cannot print {type(expr).__name__} as C++")

    @expression.register
    def _(self, expr: Const) -> tuple[str, int]:
        if expr.integer:
            wide = "LL" if abs(expr.value) >= WIDE else ""  # products of indices in 64 bits
            return f"{int(expr.value)}{wide}", _ATOM if expr.value >= 0 else _UNARY
        value = float(quantise(np.float64(expr.value), self.program.format))
        return self.literals.setdefault(value, f"const_{len(self.literals)}"), _ATOM

    @expression.register
    def _(self, expr: Name) -> tuple[str, int]:
        return self.names[expr.name], _ATOM

    @expression.register
    def _(self, expr: Load) -> tuple[str, int]:
        text = self.element(expr.buffer, expr.indices)
        return f"compute_t({text})" if self.is_narrow(expr.buffer) else text, _ATOM

    def is_narrow(self, buffer: str) -> bool:
        """Return whether elements are stored in another type than they are computed in."""
        own, fmt = self.types[buffer] != f"{self.kinds[buffer]}_t", self.program.format
        return self.kinds[buffer] == "data" and (not fmt.exact if own else fmt.name in _NARROW)

    def element(self, buffer: str, indices: tuple[LoopExpr, ...]) -> str:
        """Return the text of one element of a buffer."""
        if buffer in self.scalars:
            return self.names[buffer] + ("[0]" if buffer in self.given else "")
        return self.names[buffer] + "".join(f"[{self.index(each, 0)}]" for each in indices)

    @expression.register
    def _(self, expr: Op) -> tuple[str, int]:
        if expr.op in _INFIX:
            return self.infix(expr.op, *expr.args)
        if expr.op in ("neg", "not"):
            sign = "-" if expr.op == "neg" else "!"
            return f"{sign}{self.value(expr.args[0], _ATOM)}", _UNARY
        if expr.op == "where":
            return self.where(*expr.args)
        if expr.op.startswith("as "):
            name = type_name("data", parse_format(expr.op[3:]))
            text = f"{name}({self.value(expr.args[0], 0)})"
            return text if self.program.format.exact else f"compute_t({text})", _ATOM
        args = ", ".join(self.value(arg, 0) for arg in expr.args)
        name = _FUNCTIONS.get(expr.op, expr.op)
        if expr.op in _DEDUCED:
            return f"pk::{name}({args})", _ATOM
        if expr.op in ("//", "%") and all(map(_is_natural, expr.args)):
            return self.quotient(expr.op, *expr.args)
        if expr.op in _ON_INDICES and self.is_index(expr):
            return f"pk::{_OF_INDEX.get(expr.op, name)}({args})", _ATOM
        return f"pk::{name}<{self.parameter(expr)}>({self.operands(expr, args)})", _ATOM

    def quotient(self, op: str, left: LoopExpr, right: LoopExpr) -> tuple[str, int]:
        """Return the text of a division of indices that are not negative: C++'s own."""
        binds = _INFIX["*"][1]
        return f"{self.value(left, binds)} {op[0]} {self.value(right, binds + 1)}", binds

    def infix(self, op: str, left: LoopExpr, right: LoopExpr) -> tuple[str, int]:
        """Return the text of an infix operator; ``-Wall`` wants some parentheses more."""
        sign, binds = _INFIX[op]
        inner = binds + 2 if op == "or" else binds + (3 <= binds <= 4)
        outer = inner if op == "or" else binds + 1
        if 3 <= binds <= 4 and right == Const(0.0):
            right = integer(0)
        return f"{self.value(left, inner)} {sign} {self.value(right, outer)}", binds

    def where(self, test: LoopExpr, then: LoopExpr, otherwise: LoopExpr) -> tuple[str, int]:
        """Return the text of a choice; choices between truth values are ``&&`` and ``||``."""
        if self.is_truth(then) and self.is_truth(otherwise):
            if test == otherwise:
                return self.infix("and", test, then)
            if test == then:
                return self.infix("or", test, otherwise)
        sides = (self.value(each, 0) for each in (test, then, otherwise))
        return f"PK_WHERE({', '.join(sides)})", _ATOM

    def parameter(self, expr: Op) -> str:
        """Return the template argument of a function: its result type, or a whole exponent."""
        if not self.program.format.exact:
            return "compute_t"
        if expr.op in _FLOAT_ONLY:
            raise unsupported(expr.op, self.program.format)
        if expr.op != "**":
            return "compute_t"
        match expr.args[1]:
            case Const(exponent) if exponent >= 0 and float(exponent).is_integer():
                return str(int(exponent))
            case _:
                raise unsupported("**", self.program.format)

    def operands(self, expr: Op, args: str) -> str:
        """Return the arguments of a function; a whole exponent has become its parameter."""
        exact_power = expr.op == "**" and self.program.format.exact
        return self.value(expr.args[0], 0) if exact_power else args

    def is_truth(self, expr: LoopExpr) -> bool:
        """Return whether an expression is 0 or 1."""
        match expr:
            case Load(buffer):
                return self.kinds[buffer] == "mask"
            case Op("where", (_, then, otherwise)):
                return self.is_truth(then) and self.is_truth(otherwise)
            case Op(op):
                return op in OPERATORS and OPERATORS[op].kind in ("comparison", "logic")
            case _:
                return False

    def is_index(self, expr: LoopExpr) -> bool:
        """Return whether an expression is an integer."""
        match expr:
            case Const():
                return expr.integer
            case Name():
                return True
            case Load(buffer):
                return self.kinds[buffer] in ("mask", "index")
            case Op("where", (_, then, otherwise)):
                return self.is_index(then) and self.is_index(otherwise)
            case Op(op, args) if op in _ON_INDICES:
                return all(self.is_index(arg) for arg in args)
            case Op():
                return self.is_truth(expr)


def _is_natural(expr: LoopExpr) -> bool:
    """Return whether an expression is an index that cannot be negative."""
    match expr:
        case Const(value, integer):
            return integer and value >= 0
        case Name():
            return True
        case Op("+" | "*" | "//" | "%" | "min" | "max", args):
            return all(map(_is_natural, args))
        case _:
            return False


def comment_lines(text: str, depth: int) -> Iterator[str]:
    """Yield a comment in lines of at most `WIDTH` columns."""
    pad = "  " * depth + "// "
    for line in text.splitlines():
        yield from textwrap.wrap(
            line, WIDTH, initial_indent=pad, subsequent_indent=pad, break_on_hyphens=False
        )


def wrapped(text: str, depth: int) -> Iterator[str]:
    """Yield one statement in lines of at most `WIDTH` columns, where spaces allow."""
    pad = "  " * depth
    yield from textwrap.wrap(
        text,
        WIDTH,
        initial_indent=pad,
        subsequent_indent=pad + "    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def identifiers(program: Program) -> dict[str, str]:
    """Give every buffer and loop variable an identifier of its own that C++ accepts.

    Loops are called after their rank: ``p``, ``pa``, ``pb`` .. in time, each once because reports
    name them; ``px``, ``py``, ``pz`` .. side by side, as often as no other is in sight.
    """
    statements = tuple(walk_statements(program.body))
    buffers = [each.name for each in (*program.inputs, *program.outputs)]
    buffers += [each.buffer.name for each in statements if isinstance(each, Alloc)]
    loops = {each.variable: each for each in statements if isinstance(each, For)}
    taken, names = {top_name(program)}, dict[str, str]()
    for name in dict.fromkeys(buffers):
        base = _legal(name)
        choices = itertools.chain([base], (f"{base}_{n}" for n in itertools.count(2)))
        names[name] = next(each for each in choices if each not in taken)
        taken.add(names[name])
    for variable, loop in loops.items():
        if not loop.kind:
            names[variable] = _called(variable, "abcdefghijklmnopqrst", taken)
            taken.add(names[variable])
    around: dict[str, set[str]] = {}
    _places(program.body, (), around)
    for variable, others in around.items():
        near = {names[each] for each in others if each in names}
        names[variable] = _called(variable, "xyzuvw", taken | near, bare=False)
    return names


def _places(stmt: LoopStmt, outer: tuple[str, ...], around: dict[str, set[str]]) -> None:
    """Collect the loops side by side, each with those that it is in or has in it."""
    match stmt:
        case Block(body):
            for each in body:
                _places(each, outer, around)
        case For() if stmt.kind:
            around.setdefault(stmt.variable, set()).update(outer)
            for name in outer:
                around[name].add(stmt.variable)
            _places(stmt.body, (*outer, stmt.variable), around)
        case For() | If() | Alloc():
            _places(stmt.body, outer, around)
        case Store():
            pass


def _called(variable: str, letters: str, taken: set[str], *, bare: bool = True) -> str:
    """Return the shortest legal name that is free: the rank's, and letters."""
    base = _legal(re.sub("_.*", "", variable))
    for count in itertools.count(0 if bare else 1):
        for each in itertools.product(letters, repeat=count):
            name = base + "".join(each)
            if name not in taken and _legal(name) == name:
                return name
    raise AssertionError("there are names without end")


def top_name(program: Program) -> str:
    """Return the name of the function: no cascade's name can collide with a library function."""
    return f"{_legal(program.name)}_kernel"


def _legal(name: str) -> str:
    """Return the nearest identifier that is no keyword and no name of the header files."""
    text = re.sub(r"\W", "_", name, flags=re.ASCII).strip("_") or "x"
    if text[0].isdigit():
        text = f"x{text}"
    generated = text.startswith(
        ("AP_", "SC_", "PK_", "L_", "const_", "data_", "read_", "write_", "compute_")
    )
    return f"{text}_" if text in _KEYWORDS or generated else text


def together(parts: Sequence[str], width: int) -> Iterator[str]:
    """Yield the parts in lines of at most so many characters."""
    line = ""
    for part in parts:
        if line and len(line) + 1 + len(part) > width:
            yield line
            line = ""
        line += f" {part}" if line else part
    if line:
        yield line

"""`Program` → Python text, for `interp.run_program`.

Buffers are flat lists. An index that the ranges of the loops prove to be inside is not checked
again. Loops that are nested deeper than Python allows continue in a function of their own.
Excluded: what operators compute (`loops/values.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

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
from penstock.codegen.lower.index import atom, range_of
from penstock.einsum_ir.formats import Format, parse_format
from penstock.einsum_ir.interpreter.numerics import FIXED_FUNCTIONS
from penstock.einsum_ir.interpreter.rounding import stripped, to_fixed, unsupported

__all__ = ["translate"]

_DEEPEST = 15
"""Loops that are nested in one function; Python's limit is 20."""

_COMPARE = ("==", "!=", "<", "<=", ">", ">=")
_SIGNS = ("+", "-", "*")


@dataclass(frozen=True, slots=True)
class Code:
    """Text of an expression; ``whole`` for integers and truth values, else a value.

    ``fraction`` counts the fraction bits of a fixed-point value.
    """

    text: str
    whole: bool
    fraction: int = 0


def translate(program: Program, names: Mapping[str, str]) -> str:
    """Return a module that defines ``run``.

    Args:
        program: any.
        names: parameter → its list in the module's scope.

    Raises:
        DataError: an operator has no fixed-point form.
    """
    buffers = {each.name: each for each in (*program.inputs, *program.outputs)}
    writer = _Writer(program.format, program.accumulator_bits, dict(names), buffers)
    lines = ["def run():", *writer.lines(program.body, 1, 0)]
    return "\n".join(lines) + "\n"


@dataclass
class _Writer:
    """Writes statements; hands out names."""

    fmt: Format
    accumulator: tuple[int, int]
    names: dict[str, str]
    buffers: dict[str, Buffer]
    ranges: dict[str, tuple[int, int]] = field(default_factory=dict)
    count: int = 0

    def fresh(self, letter: str) -> str:
        self.count += 1
        return f"{letter}_{self.count}"

    def lines(self, stmt: LoopStmt, depth: int, loops: int) -> Iterator[str]:
        """Yield the lines of a statement, indented."""
        pad = " " * depth
        match stmt:
            case Block(body):
                if not body:
                    yield f"{pad}pass"
                for each in body:
                    yield from self.lines(each, depth, loops)
            case For():
                yield from self.loop(stmt, depth, loops)
            case If(condition, body):
                yield f"{pad}if {self.truth(condition)}:"
                yield from self.lines(body, depth + 1, loops)
            case Alloc(buffer, body):
                self.names[buffer.name] = self.fresh("a")
                self.buffers[buffer.name] = buffer
                size = math.prod(buffer.shape)
                yield f"{pad}{self.names[buffer.name]} = [{self.unset(buffer)}] * {size}"
                yield from self.lines(body, depth, loops)
            case Store(name, indices, value):
                yield from self.store(name, indices, value, pad)

    def unset(self, buffer: Buffer) -> str:
        if buffer.kind == "mask":
            return "Unset()"
        return "low" if self.fmt.exact else "nan"

    def loop(self, stmt: For, depth: int, loops: int) -> Iterator[str]:
        pad = " " * depth
        if loops >= _DEEPEST:
            function = self.fresh("f")
            yield f"{pad}def {function}():"
            yield from self.loop(stmt, depth + 1, 0)
            yield f"{pad}{function}()"
            return
        variable = self.fresh("v")
        extent = self.integer(stmt.extent)
        high = range_of(atom(stmt.extent), self.ranges)[1]
        self.names[stmt.variable] = variable
        if math.isfinite(high):
            self.ranges[stmt.variable] = (0, max(0, int(high) - 1))
        yield f"{pad}for {variable} in range({extent}):"
        yield from self.lines(stmt.body, depth + 1, loops + 1)

    def store(
        self, name: str, indices: tuple[LoopExpr, ...], value: LoopExpr, pad: str
    ) -> Iterator[str]:
        buffer, target = self.buffers[name], self.names[name]
        checks, place = self.place(name, indices)
        for check in checks:
            yield f"{pad}{check}"
        yield f"{pad}{target}[{place}] = {self.stored(buffer, value)}"

    def stored(self, buffer: Buffer, value: LoopExpr) -> str:
        """Return the text of a value as a buffer holds it."""
        if buffer.kind in ("mask", "index"):
            return self.expr(value).text
        code = self.value(value)
        if self.fmt.exact:
            if buffer.own is not None:
                return code.text
            if buffer.kind == "data":
                return f"rounded({code.text}, {code.fraction})"
            width, whole = self.accumulator
            if isinstance(value, Const) and math.isinf(value.value):  # an end of its own range
                return str((1 << width - 1) - 1 if value.value > 0 else -(1 << width - 1))
            return f"exactly({code.text}, {code.fraction}, {width - whole})"
        return f"rnd({code.text})" if buffer.kind == "data" and not buffer.own else code.text

    # -- places ----------------------------------------------------------------------------

    def place(self, name: str, indices: tuple[LoopExpr, ...]) -> tuple[list[str], str]:
        """Return checks that the ranges do not make needless, and the flat index."""
        shape = self.buffers[name].shape
        texts = [self.integer(each) for each in indices]
        unsure = [
            f"0 <= {text} < {extent}"
            for text, each, extent in zip(texts, indices, shape, strict=True)
            if not self.inside(each, extent)
        ]
        flat = ""
        for text, extent in zip(texts, shape, strict=True):
            flat = f"({flat}) * {extent} + {text}" if flat else text
        at = ", ".join(texts)
        checks = [f"check({' and '.join(unsure)}, {name!r}, ({at},), {shape})"] if unsure else []
        return checks, flat or "0"

    def inside(self, index: LoopExpr, extent: int) -> bool:
        low, high = range_of(atom(index), self.ranges)
        return low >= 0 and high < extent

    def load(self, expr: Load) -> Code:
        buffer = self.buffers[expr.buffer]
        checks, place = self.place(expr.buffer, expr.indices)
        text = f"{self.names[expr.buffer]}[{place}]"
        if checks:
            text = f"({checks[0]}, {text})[1]"
        if buffer.kind in ("mask", "index"):
            return Code(text, whole=True)
        fraction = (buffer.own or self.fmt).fraction_bits if self.fmt.exact else 0
        if self.fmt.exact and buffer.kind == "acc":
            fraction = self.accumulator[0] - self.accumulator[1]
        return Code(text, whole=False, fraction=fraction)

    # -- expressions -----------------------------------------------------------------------

    def integer(self, expr: LoopExpr) -> str:
        """Return the text of an integer; a value is one whose fraction is 0."""
        code = self.expr(expr)
        if code.whole:
            return code.text
        return f"({code.text} >> {code.fraction})" if self.fmt.exact else f"int({code.text})"

    def truth(self, expr: LoopExpr) -> str:
        code = self.expr(expr)
        return code.text if code.whole else f"({code.text} != 0)"

    def value(self, expr: LoopExpr) -> Code:
        """Return an expression as a value of the compute type."""
        code = self.expr(expr)
        if not code.whole:
            return code
        if not self.fmt.exact:
            return Code(f"real({code.text})", whole=False)
        if isinstance(expr, Load):
            return Code(f"whole({code.text})", whole=False, fraction=self.fmt.fraction_bits)
        return Code(f"int({code.text})", whole=False)

    def expr(self, expr: LoopExpr) -> Code:
        """Return the text of an expression, and what it is."""
        match expr:
            case Const(value, True):
                return Code(f"({int(value)})", whole=True)
            case Const(value):
                return self.literal(value)
            case Name(name):
                return Code(self.names[name], whole=True)
            case Load():
                return self.load(expr)
            case Op():
                return self.operator(expr)

    def operator(self, expr: Op) -> Code:
        match expr.op, expr.args:
            case "float", (inner,):
                return self.value(inner)
            case "where", (condition, then, otherwise):
                return self.choice(self.truth(condition), self.expr(then), self.expr(otherwise))
            case ("and" | "or") as op, (left, right):
                return Code(f"({self.truth(left)} {op} {self.truth(right)})", whole=True)
            case "not", (inner,):
                return Code(f"(not {self.truth(inner)})", whole=True)
            case op, (inner,) if op.startswith("as "):
                return self.rounded(op[3:], self.value(inner))
            case op, args:
                codes = [self.expr(arg) for arg in args]
                if all(code.whole for code in codes) and op != "/":
                    return self.whole(op, [code.text for code in codes])
                return self.real(op, expr, [self.value(arg) for arg in args])

    def rounded(self, name: str, value: Code) -> Code:
        """Return a value rounded to the format with this name."""
        if not self.fmt.exact:
            return Code(f"rounded_to({name!r}, {value.text})", whole=False)
        text = f"rounded_to({name!r}, {value.text}, {value.fraction})"
        return Code(text, whole=False, fraction=parse_format(name).fraction_bits)

    def literal(self, value: float) -> Code:
        if self.fmt.exact:
            integer, fraction = stripped(
                int(to_fixed(np.asarray(value), self.fmt)), self.fmt.fraction_bits
            )
            return Code(f"({integer})", whole=False, fraction=fraction)
        if math.isfinite(value):
            return Code(f"real({value!r})", whole=False)
        return Code("nan" if math.isnan(value) else "inf" if value > 0 else "(-inf)", whole=False)

    def choice(self, condition: str, then: Code, otherwise: Code) -> Code:
        if then.whole and otherwise.whole:
            return Code(f"({then.text} if {condition} else {otherwise.text})", whole=True)
        sides = [self.as_value(each) for each in (then, otherwise)]
        (first, second), fraction = self.aligned(sides)
        return Code(f"({first} if {condition} else {second})", whole=False, fraction=fraction)

    def as_value(self, code: Code) -> Code:
        if not code.whole:
            return code
        return replace(
            code, text=f"{'int' if self.fmt.exact else 'real'}({code.text})", whole=False
        )

    def aligned(self, codes: list[Code]) -> tuple[list[str], int]:
        """Return the texts at one number of fraction bits."""
        most = max(code.fraction for code in codes)
        texts = [
            code.text if code.fraction == most else f"({code.text} << {most - code.fraction})"
            for code in codes
        ]
        return texts, most

    def whole(self, op: str, args: list[str]) -> Code:
        """Return an operator on integers."""
        if op in (*_COMPARE, *_SIGNS, "//", "%"):
            return Code(f"({args[0]} {op} {args[1]})", whole=True)
        match op:
            case "neg":
                return Code(f"(-{args[0]})", whole=True)
            case "clamp":
                return Code(f"min(max({args[0]}, {args[1]}), {args[2]})", whole=True)
            case "**":
                return Code(f"ipow({args[0]}, {args[1]})", whole=True)
            case _:
                return Code(f"{op}({', '.join(args)})", whole=True)

    def real(self, op: str, expr: Op, args: list[Code]) -> Code:
        """Return an operator on values."""
        if self.fmt.exact:
            return self.fixed(op, expr, args)
        texts = [code.text for code in args]
        if op in _COMPARE:
            return Code(f"({texts[0]} {op} {texts[1]})", whole=True)
        if op in (*_SIGNS, "/"):
            return Code(f"({texts[0]} {op} {texts[1]})", whole=False)
        if op == "neg":
            return Code(f"(-{texts[0]})", whole=False)
        name = {"**": "pow", "//": "floordiv", "%": "mod"}.get(op, op)
        return Code(f"f_{name}({', '.join(texts)})", whole=False)

    # -- fixed point -----------------------------------------------------------------------

    def fixed(self, op: str, expr: Op, args: list[Code]) -> Code:
        """Return an operator on exact values."""
        places = self.fmt.fraction_bits
        first = args[0]
        if op in FIXED_FUNCTIONS:
            text = f"function({op!r}, {first.text}, {first.fraction})"
            return Code(text, whole=False, fraction=places)
        if op in ("/", "//"):
            name = "divide" if op == "/" else "floor_divide"
            listed = ", ".join(f"{code.text}, {code.fraction}" for code in args)
            return Code(f"{name}({listed})", whole=False, fraction=places)
        if op == "*":
            text = f"({first.text} * {args[1].text})"
            return Code(text, whole=False, fraction=first.fraction + args[1].fraction)
        if op == "**":
            return self.fixed_power(expr, first)
        return self.fixed_unary(op, first) if len(args) == 1 else self.fixed_same(op, args)

    def fixed_unary(self, op: str, first: Code) -> Code:
        text, fraction = first.text, first.fraction
        match op:
            case "sq":
                return Code(f"({text} ** 2)", whole=False, fraction=2 * fraction)
            case "neg" | "abs":
                return replace(first, text=f"{'-' if op == 'neg' else 'abs'}({text})")
            case "relu":
                return replace(first, text=f"max({text}, 0)")
            case "floor":
                return Code(f"({text} >> {fraction})", whole=False)
            case "round":
                return Code(f"(({text} + {1 << fraction >> 1}) >> {fraction})", whole=False)
            case "step":
                return Code(f"int({text} >= 0)", whole=False)
            case "sign":
                return Code(f"(({text} > 0) - ({text} < 0))", whole=False)
            case _:
                raise unsupported(op, self.fmt)

    def fixed_same(self, op: str, args: list[Code]) -> Code:
        """Return an operator that wants its operands at the same number of fraction bits."""
        texts, fraction = self.aligned(args)
        listed = ", ".join(texts)
        if op in _COMPARE:
            return Code(f"({texts[0]} {op} {texts[1]})", whole=True)
        match op:
            case "+" | "-":
                text = f"({texts[0]} {op} {texts[1]})"
            case "max" | "min":
                text = f"{op}({listed})"
            case "clamp":
                text = f"min(max({texts[0]}, {texts[1]}), {texts[2]})"
            case "%":
                text = f"modulo({listed})"
            case _:
                raise unsupported(op, self.fmt)
        return Code(text, whole=False, fraction=fraction)

    def fixed_power(self, expr: Op, base: Code) -> Code:
        match expr.args[1]:
            case Const(value) if value >= 0 and float(value).is_integer():
                times = int(value)
                text = f"({base.text} ** {times})"
                return Code(text, whole=False, fraction=base.fraction * times)
            case _:
                raise unsupported("**", self.fmt)

"""Expressions of the statement IR as TVMScript text with types.

Values are computed in the format's compute type (fp16 and bf16: float32) whatever they are stored
in; indices are int32, or int64 where a buffer has 2**31 elements or more; masks are stored as
int8. ``where`` becomes ``T.Select``, which evaluates both sides, only if both are safe to evaluate
at every point (no load that may lie outside its buffer, no division by an integer that may be 0);
else ``T.if_then_else``, which evaluates one.

Excluded on purpose: statements and loops (`tvm/script.py`), what ``p_exp`` and its like compute
(`tvm/math.py`), fixed-point formats.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from penstock.codegen.loops.nodes import Buffer, Const, Load, LoopExpr, Name, Op
from penstock.codegen.loops.walk import loads
from penstock.codegen.tvm.math import MATH_NAMES
from penstock.codegen.tvm.ranges import Ranges, interval
from penstock.einsum_ir.formats import Format, parse_format
from penstock.einsum_ir.interpreter.rounding import FLOAT_STEPS, limits
from penstock.errors import DataError

__all__ = ["ExprPrinter", "Typed", "check_format", "element_type", "memory_type", "safe"]

Kind = Literal["int", "bool", "value"]

_STORAGE = {"fp64": "float64", "fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_LEVEL = {"or": 1, "and": 2, "==": 4, "!=": 4, "<": 4, "<=": 4, ">": 4, ">=": 4}
_LEVEL |= {"+": 5, "-": 5, "*": 6, "//": 6, "%": 6, "/": 6}
_COMPARE = frozenset(("==", "!=", "<", "<=", ">", ">="))
_NOT, _UNARY, _ATOM = 3, 7, 9
_CALLS = {"sqrt": "T.sqrt", "erf": "T.erf", "floor": "T.floor"}
_CALLS |= {name: f"p_{name}" for name in MATH_NAMES}
_WHOLE = {"floor": "{0}", "round": "{0}", "sq": "{0} * {0}", "relu": "T.max({0}, 0)"}
_WHOLE |= {"step": 'T.cast({0} >= 0, "{1}")'}
_WHOLE |= {"sign": 'T.cast({0} > 0, "{1}") - T.cast({0} < 0, "{1}")'}
"""Functions that map whole numbers to whole numbers."""


def check_format(fmt: Format) -> None:
    """Refuse the formats that TVM has no type for.

    Raises:
        DataError: a fixed-point format.
    """
    if fmt.kind == "fixed":
        raise DataError(f"the TVM backends have no {fmt}", fix="use --backend hls")


def element_type(buffer: Buffer, fmt: Format) -> str:
    """Return TVM's name for the type of a buffer's elements."""
    match buffer.kind:
        case "mask":
            return "int8"
        case "index":
            own = buffer.own is not None and buffer.own.kind == "int"
            return _storage(buffer.own, fmt) if own and buffer.own else "int32"
        case "acc":
            return compute_type(fmt)
        case "pair":
            return "uint32"
        case "data":
            return _storage(buffer.own or fmt, fmt)


def _storage(own: Format, fmt: Format) -> str:
    """Return the type of a format's elements: the compute type of the run, if TVM has no other."""
    if own.kind == "int":
        bits = next(each for each in (8, 16, 32) if each >= own.bits)
        return f"{'' if own.signed else 'u'}int{bits}"
    return _STORAGE.get(own.name, compute_type(fmt))


def memory_type(buffer: Buffer, fmt: Format) -> str:
    """Return NumPy's name for the elements of a parameter; bf16 is held in uint16."""
    kind = element_type(buffer, fmt)
    return "uint16" if kind == "bfloat16" else kind


def compute_type(fmt: Format) -> str:
    """Return TVM's name for the type that values are computed in."""
    return "float64" if fmt.name == "fp64" else "float32"


@dataclass(frozen=True, slots=True)
class Typed:
    """Text, what it is, and how tightly its outermost operator binds."""

    text: str
    kind: Kind
    level: int = _ATOM

    def at(self, level: int) -> str:
        """Return the text, in parentheses if it binds less tightly than `level`."""
        return f"({self.text})" if self.level < level else self.text


def safe(expr: LoopExpr, buffers: Mapping[str, Buffer], ranges: Ranges) -> bool:
    """Whether an expression can be evaluated at every point of `ranges`, its value unused."""
    match expr:
        case Load(name, indices):
            shape = buffers[name].shape
            bounds = [interval(index, ranges) for index in indices]
            return all(
                each is not None and each[0] >= 0 and each[1] < extent
                for each, extent in zip(bounds, shape, strict=True)
            )
        case Op("//" | "%", (left, right)):
            return safe(left, buffers, ranges) and _not_zero(right, ranges)
        case Op(_, args):
            return all(safe(arg, buffers, ranges) for arg in args)
        case _:
            return True


def _flat(text: str) -> str:
    """Return a text without `p_select` beside other functions: TVM has no `Let` inside a `Let`.

    `T.if_then_else` does the same, one lane after the other.
    """
    nested = "p_select(" in text and len(re.findall(r"\bp_\w+\(", text)) > 1
    return text.replace("p_select(", "T.if_then_else(") if nested else text


def _held(expr: LoopExpr) -> bool:
    """Whether a load has an index that is kept inside its buffer."""
    return any(_limited(index) for load in loads(expr) for index in load.indices)


def _limited(index: LoopExpr) -> bool:
    match index:
        case Op("min" | "max" | "clamp", _):
            return True
        case Op(_, args):
            return any(_limited(arg) for arg in args)
        case _:
            return False


def _not_zero(expr: LoopExpr, ranges: Ranges) -> bool:
    bounds = interval(expr, ranges)
    return bounds is not None and not bounds[0] <= 0 <= bounds[1]


@dataclass(frozen=True)
class ExprPrinter:
    """Prints expressions.

    Args:
        buffers: every buffer by its name in the program.
        names: name in the program → name in the text.
        fmt: of the ``data`` buffers.
        wide: whether indices are int64.
        prefix: buffer → text of an index that comes before its own.
        bits: whether bf16 elements are held as uint16, with our own conversions (on a CPU, where
            TVM rewrites its bfloat16 into expressions that it then cannot vectorise).
    """

    buffers: Mapping[str, Buffer]
    names: Mapping[str, str]
    fmt: Format
    wide: bool = False
    prefix: Mapping[str, str] = field(default_factory=dict)
    bits: bool = False

    def element_type(self, buffer: Buffer) -> str:
        """Return TVM's name for the type of a buffer's elements in the text."""
        kind = element_type(buffer, self.fmt)
        return "uint16" if self.bits and kind == "bfloat16" else kind

    def value(self, expr: LoopExpr, ranges: Ranges) -> str:
        """Return the text of a value, in the compute type."""
        return self._as_value(self.typed(expr, ranges)).text

    def condition(self, expr: LoopExpr, ranges: Ranges) -> str:
        """Return the text of a condition."""
        return _flat(self._as_bool(self.typed(expr, ranges)).text)

    def index(self, expr: LoopExpr, ranges: Ranges) -> str:
        """Return the text of an index."""
        return self._as_int(self.typed(expr, ranges)).text

    def element(self, name: str, indices: tuple[LoopExpr, ...], ranges: Ranges) -> str:
        """Return the text of one element of a buffer."""
        before = (self.prefix[name],) if name in self.prefix else ()
        listed = ", ".join((*before, *(self.index(each, ranges) for each in indices)))
        return f"{self.names[name]}[{listed or '0'}]"

    def stored(self, name: str, expr: LoopExpr, ranges: Ranges) -> str:
        """Return the text of a value as it is stored in a buffer: rounded to its type."""
        return _flat(self._stored(name, expr, ranges))

    def _stored(self, name: str, expr: LoopExpr, ranges: Ranges) -> str:
        buffer = self.buffers[name]
        if buffer.kind == "mask":
            return f'T.cast({self.condition(expr, ranges)}, "int8")'
        if buffer.kind == "index":
            return f'T.cast({self.index(expr, ranges)}, "int32")'
        if buffer.kind == "pair":
            return self.value(expr, ranges)
        if isinstance(expr, Op) and expr.op == f"as {buffer.own}" and self._cast(buffer):
            expr = expr.args[0]  # storing rounds
        text, kept = self.value(expr, ranges), self.element_type(buffer)
        if self._bf16(buffer):
            single = compute_type(self.fmt) == "float32"
            return f"p_to_bf16({text})" if single else f'p_to_bf16(T.cast({text}, "float32"))'
        return text if kept == compute_type(self.fmt) else f'T.cast({text}, "{kept}")'

    def _bf16(self, buffer: Buffer) -> bool:
        """Whether a buffer holds bf16 as uint16."""
        return self.bits and element_type(buffer, self.fmt) == "bfloat16"

    def _cast(self, buffer: Buffer) -> bool:
        """Whether a change of type rounds to a buffer's own format once."""
        return buffer.own is not None and _narrowed(buffer.own, compute_type(self.fmt))

    def typed(self, expr: LoopExpr, ranges: Ranges) -> Typed:
        """Return the text of an expression and what it is."""
        match expr:
            case Const(value, True):
                return Typed(str(int(value)), "int", _ATOM if value >= 0 else _UNARY)
            case Const(value):
                return self._literal(value)
            case Name(name):
                return Typed(self.names[name], "int")
            case Load(name, indices):
                return self._load(name, indices, ranges)
            case Op():
                return self._op(expr, ranges)

    def _literal(self, value: float) -> Typed:
        text = repr(float(value)) if math.isfinite(value) else f'"{value}"'
        return Typed(f"T.{compute_type(self.fmt)}({text})", "value")

    def _load(self, name: str, indices: tuple[LoopExpr, ...], ranges: Ranges) -> Typed:
        text, buffer = self.element(name, indices, ranges), self.buffers[name]
        if buffer.kind == "mask":
            return Typed(f"{text} > T.int8(0)", "bool", _LEVEL[">"])
        if buffer.kind == "index":
            return Typed(f'T.cast({text}, "int64")' if self.wide else text, "int")
        if buffer.kind == "pair":
            return Typed(text, "value")
        wanted = compute_type(self.fmt)
        kept = self.element_type(buffer)
        if kept != wanted:
            bf16 = self._bf16(buffer)
            text = f"p_from_bf16({text})" if bf16 else f'T.cast({text}, "{wanted}")'
            text = f'T.cast({text}, "{wanted}")' if bf16 and wanted == "float64" else text
        return Typed(text, "value")

    def _op(self, expr: Op, ranges: Ranges) -> Typed:
        folded = interval(expr, {})
        if folded is not None and folded[0] == folded[1]:
            return self.typed(Const(folded[0], True), ranges)
        if expr.op == "pair":
            listed = ", ".join(self._bits(each, ranges) for each in expr.args)
            return Typed(f"p_pair({listed})", "value")
        args = [self.typed(arg, ranges) for arg in expr.args]
        if expr.op == "half":
            return Typed(f"p_half({args[0].text}, {args[1].text})", "value")
        return self._applied(expr, args, ranges)

    def _applied(self, expr: Op, args: list[Typed], ranges: Ranges) -> Typed:
        match expr.op:
            case "and" | "or" | "not":
                return self._logic(expr.op, [self._as_bool(arg) for arg in args])
            case "where":
                return self._where(expr, args, ranges)
            case "float":
                return self._as_value(args[0])
            case "**":
                return self._power(args)
            case op if op in _LEVEL or op in {"neg", "max", "min", "abs", "clamp"}:
                return self._arithmetic(op, args)
            case op if op in _WHOLE and args[0].kind == "int":
                return self._whole(op, args[0])
            case op if op.startswith("as "):
                text = self._rounded(parse_format(op[3:]), self._as_value(args[0]).text)
                return Typed(text, "value")
            case op if op in _CALLS:
                return Typed(f"{_CALLS[op]}({self._as_value(args[0]).text})", "value")
            case op:
                raise DataError(
                    f"operator '{op}' has no TVM form", fix="use --backend hls or --backend loops"
                )

    def _bits(self, expr: LoopExpr, ranges: Ranges) -> str:
        """Return the text of a value as the bits of a bf16 number."""
        if isinstance(expr, Load) and self._bf16(self.buffers[expr.buffer]):
            return self.element(expr.buffer, expr.indices, ranges)
        return f"p_to_bf16({self.value(expr, ranges)})"

    def _rounded(self, own: Format, text: str) -> str:
        """Return a value rounded to a format (`einsum_ir.interpreter.rounding.quantise`)."""
        wanted = compute_type(self.fmt)
        if own.kind != "float":
            low, high = limits(own)
            if own.kind == "int":
                return f"p_to_int({text}, {low}, {high})"
            return f"p_to_fixed({text}, {own.fraction_bits}, {low}, {high})"
        if own.name == "bf16" and self.bits and wanted == "float32":
            return f"p_from_bf16(p_to_bf16({text}))"
        if _narrowed(own, wanted):
            kept = _STORAGE[own.name]
            return text if kept == wanted else f'T.cast(T.cast({text}, "{kept}"), "{wanted}")'
        places, smallest, largest, beyond = FLOAT_STEPS[own.name]
        most = self._literal(beyond).text
        return f"p_to_float({text}, {places}, {smallest}, {largest}, {most})"

    def _logic(self, op: str, args: list[Typed]) -> Typed:
        if op == "not":
            return Typed(f"not {args[0].at(_NOT)}", "bool", _NOT)
        level = _LEVEL[op]
        return Typed(f" {op} ".join(arg.at(level) for arg in args), "bool", level)

    def _whole(self, op: str, arg: Typed) -> Typed:
        text = self._integer(arg.text) if _number(arg.text) else arg.at(_ATOM)
        level = {"sq": _LEVEL["*"], "sign": _LEVEL["-"]}.get(op, _ATOM)
        return Typed(_WHOLE[op].format(text, self.index_type), "int", level)

    def _where(self, expr: Op, args: list[Typed], ranges: Ranges) -> Typed:
        condition, sides = self._as_bool(args[0]), args[1:]
        kind: Kind = sides[0].kind if sides[0].kind == sides[1].kind else "value"
        then, other = (self._as(kind, each) for each in sides)
        if kind == "int" and _number(then.text):
            then = Typed(self._integer(then.text), "int")
        if kind == "int" and _number(other.text):
            other = Typed(self._integer(other.text), "int")
        eager = all(safe(arg, self.buffers, ranges) for arg in expr.args[1:])
        # TVM takes the condition of T.Select for known in a side: it drops what holds a load inside
        held = any(_held(arg) for arg in expr.args[1:])
        name = "T.Select" if eager and not held else "T.if_then_else"
        if eager and held and kind == "value":
            name = "p_select"
        return Typed(f"{name}({condition.text}, {then.text}, {other.text})", kind)

    def _power(self, args: list[Typed]) -> Typed:
        base, exponent = (self._as_value(arg) for arg in args)
        if args[1].text in {"2", self._literal(2.0).text}:
            return Typed(f"p_sq({base.text})", "value")
        return Typed(f"T.pow({base.text}, {exponent.text})", "value")

    def _arithmetic(self, op: str, args: list[Typed]) -> Typed:
        kinds = {arg.kind for arg in args}
        kind: Kind = "int" if kinds <= {"int", "bool"} and op != "/" else "value"
        args = [self._as(kind, arg) for arg in args]
        match op:
            case "neg":
                return Typed(f"-{args[0].at(_UNARY)}", kind, _UNARY)
            case "abs":
                return Typed(f"T.abs({args[0].text})", kind)
            case "max" | "min":
                return Typed(f"T.{op}({self._pair(args, kind)})", kind)
            case "clamp":
                inner = f"T.max({self._pair(args[:2], kind)})"
                return Typed(f"T.min({inner}, {args[2].text})", kind)
            case "//" | "%" if kind == "value":
                return self._floor_value(op, args)
        level = _LEVEL[op]
        left, right = args[0].at(level + (op in _COMPARE)), args[1].at(level + 1)
        if kind == "int" and all(_number(arg.text) for arg in args):
            left = self._integer(left)
        return Typed(f"{left} {op} {right}", "bool" if op in _COMPARE else kind, level)

    def _pair(self, args: list[Typed], kind: Kind) -> str:
        first, second = (arg.text for arg in args)
        if kind == "int" and _number(first):
            first = self._integer(first)
        return f"{first}, {second}"

    @property
    def index_type(self) -> str:
        """TVM's name for the type of indices."""
        return "int64" if self.wide else "int32"

    def _integer(self, text: str) -> str:
        return f"T.{self.index_type}({text})"

    def _floor_value(self, op: str, args: list[Typed]) -> Typed:
        left, right = args[0].at(6), args[1].at(7)
        whole = f"T.floor({left} / {right})"
        if op == "//":
            return Typed(whole, "value")
        return Typed(f"{args[0].at(5)} - {whole} * {right}", "value", 5)

    def _as(self, kind: Kind, arg: Typed) -> Typed:
        match kind:
            case "int":
                return self._as_int(arg)
            case "bool":
                return self._as_bool(arg)
            case "value":
                return self._as_value(arg)

    def _as_value(self, arg: Typed) -> Typed:
        if arg.kind == "value":
            return arg
        if _number(arg.text):
            return self._literal(float(arg.text))
        return Typed(f'T.cast({arg.text}, "{compute_type(self.fmt)}")', "value")

    def _as_int(self, arg: Typed) -> Typed:
        if arg.kind == "int":
            return arg
        return Typed(f'T.cast({arg.text}, "{self.index_type}")', "int")

    def _as_bool(self, arg: Typed) -> Typed:
        if arg.kind == "bool":
            return arg
        if _number(arg.text):
            return Typed(f"T.bool({float(arg.text) != 0})", "bool")
        zero = "0" if arg.kind == "int" else self._literal(0.0).text
        return Typed(f"{arg.at(5)} != {zero}", "bool", _LEVEL["!="])


def _narrowed(own: Format, wanted: str) -> bool:
    """Whether a change of type rounds the compute type to a format once, by one instruction."""
    return own.name in _STORAGE and (wanted == "float32" or own.bits >= 32)


def _number(text: str) -> bool:
    return text.lstrip("-").isdigit()

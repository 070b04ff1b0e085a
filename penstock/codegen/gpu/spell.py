"""Expressions of the statement IR in CUDA C++, with elements of a tile read from fragments.

Indices are `int`, values `float`. Where an element is, the caller's `Place` says: a fragment held
in registers, a parameter in global memory, a variable. Excluded: statements (`leaf.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from penstock.codegen.gpu.unfit import Unfit
from penstock.codegen.loops.nodes import Buffer, Const, Load, LoopExpr, Name, Op

__all__ = ["Speller", "Text", "flat", "variable"]

Kind = Literal["int", "value", "bool"]

_COMPARE = {"==", "!=", "<", "<=", ">", ">="}
_CALLS = frozenset((
    "abs", "exp", "exp2", "log", "log2", "sqrt", "rsqrt", "sq", "sin", "cos", "tanh", "erf",
    "sigmoid", "relu", "silu", "gelu", "softplus", "step", "sign", "floor", "round",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Text:
    """Text that binds tightly, and what it is."""

    text: str
    kind: Kind


def variable(name: str) -> str:
    """Return the C++ name of a loop variable."""
    return f"i_{name}"


def flat(buffer: Buffer, indices: list[str]) -> str:
    """Return the place of an element in a row-major buffer."""
    wide = math.prod(buffer.shape) >= 2**31
    text = "0"
    for index, extent in zip(indices, buffer.shape, strict=True):
        text = index if text == "0" else f"({text} * {extent}{'LL' if wide else ''} + {index})"
    return text


@dataclass(frozen=True)
class Speller:
    """Spells expressions.

    Args:
        buffers: every buffer by its name.
        element: text of an element that is no parameter's, or None if it is not at hand here.
        given: loads that have been read already, and where they are.
    """

    buffers: Mapping[str, Buffer]
    parameters: frozenset[str]
    element: Callable[[Load], str | None]
    given: Mapping[Load, str]

    def value(self, expr: LoopExpr) -> str:
        """Return a value as text."""
        return _as(self.typed(expr), "value")

    def index(self, expr: LoopExpr) -> str:
        """Return an index as text."""
        return _as(self.typed(expr), "int")

    def condition(self, expr: LoopExpr) -> str:
        """Return a condition as text."""
        return _as(self.typed(expr), "bool")

    def typed(self, expr: LoopExpr) -> Text:
        """Return an expression as text.

        Raises:
            Unfit: an operator without a CUDA form, or an element that is out of reach.
        """
        match expr:
            case Const(value, True):
                return Text(str(int(value)), "int")
            case Const(value):
                return Text(_literal(value), "value")
            case Name(name):
                return Text(variable(name), "int")
            case Load():
                return self._load(expr)
            case Op():
                return self._op(expr)

    def _load(self, load: Load) -> Text:
        buffer = self.buffers[load.buffer]
        kinds: dict[str, Kind] = {"mask": "bool", "index": "int"}
        kind = kinds.get(buffer.kind, "value")
        if load in self.given:
            return Text(self.given[load], kind)
        if load.buffer in self.parameters:
            place = flat(buffer, [self.index(each) for each in load.indices])
            text = f"x_{load.buffer}[{place}]"
            if buffer.kind == "mask":
                return Text(f"({text} != 0)", kind)
            return Text(f"ps_float({text})" if kind == "value" else text, kind)
        found = self.element(load)
        if found is None:
            raise Unfit(f"{load.buffer} is read where its fragment is not")
        return Text(found, kind)

    def _op(self, expr: Op) -> Text:
        op, args = expr.op, [self.typed(each) for each in expr.args]
        match op:
            case "and" | "or":
                sign = " && " if op == "and" else " || "
                return Text(f"({sign.join(_as(each, 'bool') for each in args)})", "bool")
            case "not":
                return Text(f"!{_as(args[0], 'bool')}", "bool")
            case "where":
                kind = args[1].kind if args[1].kind == args[2].kind else "value"
                then, other = (_as(each, kind) for each in args[1:])
                return Text(f"({_as(args[0], 'bool')} ? {then} : {other})", kind)
            case "float":
                return Text(_as(args[0], "value"), "value")
            case "exp" | "exp2" if _difference(expr.args[0]):
                first, second = (self.value(each) for each in _sides(expr.args[0]))
                return Text(f"ps_{op}_of({first}, {second})", "value")
            case "/" if isinstance(expr.args[1], Const) and expr.args[1].value:
                by = _literal(1.0 / expr.args[1].value)
                if expr.args[0] == Const(1.0):
                    return Text(by, "value")
                return Text(f"({_as(args[0], 'value')} * {by})", "value")
            case "/":
                return Text(
                    f"({_as(args[0], 'value')} * ps_inverse({_as(args[1], 'value')}))", "value"
                )
            case "**":
                return Text(f"powf({_as(args[0], 'value')}, {_as(args[1], 'value')})", "value")
            case _:
                return self._arithmetic(op, args)

    def _arithmetic(self, op: str, args: list[Text]) -> Text:
        whole = all(each.kind != "value" for each in args)
        kind: Kind = "int" if whole else "value"
        texts = [_as(each, kind) for each in args]
        if op in _COMPARE:
            return Text(f"({texts[0]} {op} {texts[1]})", "bool")
        match op:
            case "+" | "-" | "*":
                return Text(f"({texts[0]} {op} {texts[1]})", kind)
            case "neg":
                return Text(f"(-{texts[0]})", kind)
            case "//" | "%":
                name = {"//": "div", "%": "mod"}[op] + ("" if whole else "_value")
                return Text(f"ps_floor_{name}({texts[0]}, {texts[1]})", kind)
            case "max" | "min":
                return Text(f"ps_{op}({texts[0]}, {texts[1]})", kind)
            case "clamp":
                return Text(f"ps_min(ps_max({texts[0]}, {texts[1]}), {texts[2]})", kind)
            case "abs" | "sq" if whole:
                return Text(f"ps_{op}({texts[0]})", kind)
            case "floor" | "round" if whole:
                return Text(texts[0], kind)
            case _ if op in _CALLS:
                return Text(f"ps_{op}({_as(args[0], 'value')})", "value")
            case _:
                raise Unfit(f"operator '{op}' has no CUDA form here")


def _difference(expr: LoopExpr) -> bool:
    return isinstance(expr, Op) and expr.op == "-" and len(expr.args) == 2


def _sides(expr: LoopExpr) -> tuple[LoopExpr, ...]:
    return expr.args if isinstance(expr, Op) else ()


def _literal(value: float) -> str:
    if math.isinf(value):
        return "PS_INF" if value > 0 else "(-PS_INF)"
    if math.isnan(value):
        return "PS_NAN"
    text = f"{value!r}f"
    return text if value >= 0 else f"({text})"


def _as(text: Text, kind: Kind) -> str:
    if text.kind == kind:
        return text.text
    match kind:
        case "value":
            return f"(float)({text.text})"
        case "int":
            return f"(int)({text.text})"
        case "bool":
            return f"({text.text} != 0)"

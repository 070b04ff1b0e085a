"""The operators of flex_attention functions, by the names that torch, numpy and Python give them.

Each row of `HANDLERS` takes elements (and numbers) and returns the element that an Einsum computes.
Whether something is a boolean, a whole or a real number decides what ``& | ~ /`` mean, as in torch.
Excluded: how a call gets here (`flex_terms.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

from penstock.einsum_ir.frontend.terms import here
from penstock.einsum_ir.nodes import Apply, Expr, Num
from penstock.errors import CascadeError

__all__ = ["FUNCTIONS", "HANDLERS", "Element", "Kind", "element", "truth"]

Kind = Literal["bool", "int", "float"]


@dataclass(frozen=True, slots=True)
class Element:
    """One element: an expression, and whether it is a boolean, a whole number or a real one."""

    expr: Expr
    kind: Kind

    def __str__(self) -> str:
        return str(self.expr)


def element(value: Any) -> Element:
    """Return a number, or an array of one element, as an `Element`.

    Raises:
        CascadeError: an array of more elements, or something else.
    """
    if isinstance(value, Element):
        return value
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()
    if isinstance(value, bool):
        return Element(Num(int(value)), "bool")
    if isinstance(value, Integral):
        return Element(Num(int(value)), "int")
    if isinstance(value, Real):
        return Element(Num(float(value)), "float")
    what = f"an array of shape {tuple(value.shape)}" if hasattr(value, "shape") else f"'{value}'"
    raise CascadeError(
        f"{what} is used as one element",
        span=here(),
        fix="index it by b, h, q_idx or kv_idx, as in bias[h]; other values must be numbers",
    )


def truth(x: Element) -> Element:
    """Return a condition: what is no boolean is compared with 0."""
    if isinstance(x.expr, Num):
        return Element(Num(int(x.expr.value != 0)), "bool")
    return x if x.kind == "bool" else _make("!=", "bool", x, element(0))


def _make(op: str, kind: Kind, *args: Element) -> Element:
    return Element(Apply(op, tuple(each.expr for each in args), span=here()), kind)


Handler = Callable[..., Element]


def _wider(x: Element, y: Element) -> Kind:
    kinds = {x.kind, y.kind}
    return "float" if "float" in kinds else "int" if "int" in kinds else "bool"


def _arithmetic(op: str) -> Handler:
    def handler(x: Element, y: Any) -> Element:
        other = element(y)
        if x.kind == other.kind == "bool" and op != "*":
            raise CascadeError(
                f"'{x}' and '{other}' are both true or false: '{op}' is no operator for them",
                span=here(),
                fix="use & | ~, or x.to(int) to count with them",
            )
        return _make(op, "float" if op == "/" else _wider(x, other), x, other)

    return handler


def _comparison(op: str) -> Handler:
    def handler(x: Element, y: Any) -> Element:
        return _make(op, "bool", x, element(y))

    return handler


def _extreme(op: str) -> Handler:
    def handler(x: Element, y: Any) -> Element:
        other = element(y)
        return _make(op, _wider(x, other), x, other)

    return handler


def _logic(op: str) -> Handler:
    def handler(x: Element, y: Any) -> Element:
        first, second = _both_true(x), _both_true(element(y))
        for one, other in ((first, second), (second, first)):
            if isinstance(one.expr, Num) and op != "!=":
                return other if bool(one.expr.value) == (op == "and") else one
        return _make(op, "bool", first, second)

    return handler


def _both_true(x: Element) -> Element:
    if x.kind != "bool":
        raise CascadeError(
            f"'{x}' is a number: & | ^ ~ are for conditions here, not for bits",
            span=here(),
            fix="compare it (x != 0); take bits with // and %, as in x // 4 % 2 == 1",
        )
    return x


def _logical(op: str) -> Handler:
    bitwise = _logic(op)
    return lambda x, y: bitwise(truth(x), truth(element(y)))


def _real(op: str) -> Handler:
    return lambda x: _make(op, "float", x)


def _same(op: str) -> Handler:
    return lambda x: _make(op, x.kind, x)


def _divide(x: Element, y: Any, *, rounding_mode: str | None = None) -> Element:
    if rounding_mode == "trunc":
        return _truncate(_arithmetic("/")(x, y), _wider(x, element(y)))
    return _arithmetic("//" if rounding_mode == "floor" else "/")(x, y)


def _truncate(x: Element, kind: Kind = "float") -> Element:
    down, up = _make("floor", kind, x), _ceil(x)
    return _where(_make("<", "bool", x, element(0)), up, down)


def _ceil(x: Element) -> Element:
    return _make("neg", x.kind, _make("floor", x.kind, _make("neg", x.kind, x)))


def _where(condition: Element, x: Any, y: Any) -> Element:
    test = truth(condition)
    then, otherwise = element(x), element(y)
    if isinstance(test.expr, Num):
        return then if test.expr.value else otherwise
    return _make("where", _wider(then, otherwise), test, then, otherwise)


def _clamp(x: Element, min: Any = None, max: Any = None) -> Element:
    low = x if min is None else _extreme("max")(x, min)
    return low if max is None else _extreme("min")(low, max)


def _to(x: Element, dtype: Any = None, *others: Any, copy: bool = False) -> Element:
    """``x.to(torch.int64)``, ``x.astype(int)``; a device changes nothing."""
    kind = _kind(dtype)
    if kind is None or kind == x.kind:
        return x
    if kind == "bool":
        return truth(x)
    if kind == "int" and x.kind == "float":
        return _truncate(x, "int")
    return Element(x.expr, kind)


def _kind(dtype: Any) -> Kind | None:
    text = str(dtype)
    if "bool" in text:
        return "bool"
    return "int" if "int" in text else "float" if re.search("float|double|half", text) else None


def _filled(x: Element, size: Any, value: Any, dtype: Any = None) -> Element:
    shape = tuple(size) if isinstance(size, tuple | list) else (size,)
    if shape:
        raise CascadeError(
            f"an array of shape {shape} is made inside the function",
            span=here(),
            fix="make it before the def and index it, as in bias[h]",
        )
    return _to(element(value), x.kind if dtype is None else dtype)


def _new_ones(x: Element, size: Any = (), dtype: Any = None, device: Any = None) -> Element:
    return _filled(x, size, 1, dtype)


def _new_zeros(x: Element, size: Any = (), dtype: Any = None, device: Any = None) -> Element:
    return _filled(x, size, 0, dtype)


def _full_like(x: Element, fill_value: Any, dtype: Any = None, device: Any = None) -> Element:
    return _filled(x, (), fill_value, dtype)


def _new_full(
    x: Element, size: Any, fill_value: Any, dtype: Any = None, device: Any = None
) -> Element:
    return _filled(x, size, fill_value, dtype)


def _relu(x: Element, inplace: bool = False) -> Element:
    return _make("relu", x.kind, x)


def _silu(x: Element, inplace: bool = False) -> Element:
    return _make("silu", "float", x)


def _power(x: Element, y: Any) -> Element:
    other = element(y)
    return _make("**", _wider(x, other), x, other)


_REAL = ("exp", "exp2", "log", "log2", "sqrt", "rsqrt", "sin", "cos", "tanh", "erf")
_SPELLINGS: tuple[tuple[str, Handler], ...] = (
    ("add", _arithmetic("+")),
    ("sub subtract", _arithmetic("-")),
    ("mul multiply", _arithmetic("*")),
    ("truediv div divide true_divide", _divide),
    ("floordiv floor_divide", _arithmetic("//")),
    ("mod remainder", _arithmetic("%")),
    ("pow power", _power),
    ("lt less", _comparison("<")),
    ("le less_equal", _comparison("<=")),
    ("gt greater", _comparison(">")),
    ("ge greater_equal", _comparison(">=")),
    ("eq equal", _comparison("==")),
    ("ne not_equal", _comparison("!=")),
    ("and bitwise_and", _logic("and")),
    ("or bitwise_or", _logic("or")),
    ("xor bitwise_xor", _logic("!=")),
    ("logical_and", _logical("and")),
    ("logical_or", _logical("or")),
    ("logical_xor", _logical("!=")),
    ("invert bitwise_not", lambda x: _make("not", "bool", _both_true(x))),
    ("logical_not", lambda x: _make("not", "bool", truth(x))),
    ("neg negative", _same("neg")),
    ("abs absolute", _same("abs")),
    ("sign", _same("sign")),
    ("square", _same("sq")),
    ("floor", _same("floor")),
    ("ceil", _ceil),
    ("trunc fix", _truncate),
    ("relu", _relu),
    ("silu", _silu),
    ("sigmoid expit", _real("sigmoid")),
    *((name, _real(name)) for name in _REAL),
    ("gelu", _real("gelu")),
    ("softplus", _real("softplus")),
    ("maximum", _extreme("max")),
    ("minimum", _extreme("min")),
    ("clamp clip", _clamp),
    ("where", _where),
    ("masked_fill", lambda x, mask, value: _where(element(mask), value, x)),
    ("to astype type", _to),
    ("float double half bfloat16", lambda x: _to(x, "float")),
    ("int long", lambda x: _to(x, "int")),
    ("bool", lambda x: _to(x, "bool")),
    ("ones_like new_ones", _new_ones),
    ("zeros_like new_zeros", _new_zeros),
    ("full_like", _full_like),
    ("new_full", _new_full),
)
HANDLERS: dict[str, Handler] = {
    name: handler for names, handler in _SPELLINGS for name in names.split()
}
"""The operators by all their names."""

_INFIX = {"add", "sub", "mul", "truediv", "floordiv", "mod", "lt", "le", "gt", "ge", "eq", "ne"}
_INFIX |= {"and", "or", "xor", "invert", "neg", "pow"}
FUNCTIONS = tuple(sorted({names.split()[0] for names, _ in _SPELLINGS} - _INFIX))
"""One name for each operator that is written as a function."""

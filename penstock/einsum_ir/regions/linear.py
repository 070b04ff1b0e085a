"""Index expressions as sums of atoms, so that what two of them share cancels.

``p + 4 - (m//2 + p)`` is ``4 - m//2``. A rank variable is an atom, and so is whatever is no sum
(``m//2``, ``abs(p - m)``, an element of an index tensor), in a normal form of its own. Excluded:
ranges (`bounds.py`) and conditions (`conditions.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from penstock.einsum_ir.affine import evaluate_scalar
from penstock.einsum_ir.nodes import Access, Apply, Expr, Num, Sym, Var
from penstock.einsum_ir.ops import OPERATORS
from penstock.errors import CascadeError

__all__ = ["Form", "add", "is_integral", "linear", "scale", "to_expr"]

_INTEGRAL = {
    *("+", "-", "*", "//", "%", "neg", "abs", "max", "min", "clamp", "sq", "floor", "round"),
    *("fill", "bitlen"),
}
_WHOLE = {
    *("sign", "step"),
    *(name for name, row in OPERATORS.items() if row.kind in ("comparison", "logic")),
}


@dataclass(frozen=True, slots=True)
class Form:
    """``sum(factor * atom) + constant``: distinct atoms in a fixed order, no factor 0."""

    terms: tuple[tuple[Expr, float], ...]
    constant: float = 0

    @property
    def whole(self) -> bool:
        """Whether the value less the constant is an integer at every point."""
        return all(float(f).is_integer() and is_integral(atom) for atom, f in self.terms)


def is_integral(expr: Expr) -> bool:
    """Whether the value is certainly an integer: coordinates and what keeps them whole."""
    match expr:
        case Num(value):
            return float(value).is_integer()
        case Var():
            return True
        case Apply(op, args):
            if op == "where":
                return all(is_integral(arg) for arg in args[1:])
            if op == "**":
                return is_integral(args[0]) and _is_count(args[1])
            return op in _WHOLE or (op in _INTEGRAL and all(is_integral(arg) for arg in args))
        case Sym() | Access():
            return False


def _is_count(expr: Expr) -> bool:
    """Whether it is a whole number that is not negative, at sight."""
    match expr:
        case Num(value):
            return value >= 0 and float(value).is_integer()
        case Apply("bitlen", (value,)):
            return is_integral(value)
        case _:
            return isinstance(expr, Var)


def _number(value: float) -> float:
    return int(value) if float(value).is_integer() else value


def _form(total: Mapping[Expr, float], constant: float) -> Form:
    kept = [(atom, _number(factor)) for atom, factor in total.items() if factor]
    return Form(tuple(sorted(kept, key=lambda term: str(term[0]))), _number(constant))


def add(left: Form, right: Form) -> Form:
    """Return the sum."""
    total = dict(left.terms)
    for atom, factor in right.terms:
        total[atom] = total.get(atom, 0) + factor
    return _form(total, left.constant + right.constant)


def scale(form: Form, factor: float) -> Form:
    """Return ``form * factor``."""
    return _form({atom: each * factor for atom, each in form.terms}, form.constant * factor)


def to_expr(form: Form) -> Expr:
    """Return the expression: positive parts first, then negative ones."""
    ordered = sorted(form.terms, key=lambda term: term[1] < 0)
    result: Expr | None = None
    for atom, factor in ordered:
        part = atom if abs(factor) == 1 else Apply("*", (Num(abs(factor)), atom))
        if result is None:
            result = part if factor > 0 else Apply("neg", (part,))
        else:
            result = Apply("+" if factor > 0 else "-", (result, part))
    if result is None:
        return Num(form.constant)
    if form.constant == 0:
        return result
    sign = "+" if form.constant > 0 else "-"
    return Apply(sign, (result, Num(abs(form.constant))))


def linear(expr: Expr, symbols: Mapping[str, float]) -> Form:
    """Return the normal form of an expression.

    Args:
        expr: an integer (or real) expression over rank variables.
        symbols: values of the upper-case names; one without a value becomes an atom.
    """
    return _linear(expr, tuple(symbols.items()))


@lru_cache(maxsize=1 << 14)
def _linear(expr: Expr, symbols: tuple[tuple[str, float], ...]) -> Form:
    match expr:
        case Num(value):
            return Form((), _number(value))
        case Sym(name) if name in (values := dict(symbols)):
            return Form((), _number(values[name]))
        case Var() | Sym():
            return Form(((expr, 1),))
        case Access(tensor, indices):
            normal = tuple(to_expr(_linear(index, symbols)) for index in indices)
            return Form(((Access(tensor, normal), 1),))
        case Apply("neg", (arg,)):
            return scale(_linear(arg, symbols), -1)
        case Apply(op, args):
            return _apply(op, [_linear(arg, symbols) for arg in args])


def _apply(op: str, args: list[Form]) -> Form:
    match op:
        case "+":
            return add(args[0], args[1])
        case "-":
            return add(args[0], scale(args[1], -1))
        case "*" if not args[0].terms:
            return scale(args[1], args[0].constant)
        case "*" if not args[1].terms:
            return scale(args[0], args[1].constant)
        case "//" | "%" if not args[1].terms and args[1].constant < 0:
            other = _apply(op, [scale(each, -1) for each in args])
            return other if op == "//" else scale(other, -1)
        case "//" | "%" if _divides(args[0], args[1]):
            return _divide(op, args[0], int(args[1].constant))
        case _:
            return _atom(op, args)


def _divides(form: Form, divisor: Form) -> bool:
    positive = not divisor.terms and divisor.constant > 0
    numbers = (form.constant, divisor.constant)
    return positive and form.whole and all(float(each).is_integer() for each in numbers)


def _divide(op: str, form: Form, divisor: int) -> Form:
    """Return ``form // divisor`` or ``form % divisor`` with what divides taken out."""
    whole = {atom: f // divisor for atom, f in form.terms if f % divisor == 0}
    rest = _form({atom: f for atom, f in form.terms if f % divisor}, form.constant % divisor)
    quotient = _form(whole, form.constant // divisor)
    if not rest.terms or divisor == 1:
        return quotient if op == "//" else Form((), rest.constant)
    atom = Form(((Apply(op, (to_expr(rest), Num(divisor))), 1),))
    return add(quotient, atom) if op == "//" else atom


def _atom(op: str, args: list[Form]) -> Form:
    expr = Apply(op, tuple(to_expr(arg) for arg in args))
    if any(arg.terms for arg in args):
        return Form(((expr, 1),))
    try:
        value = evaluate_scalar(expr, {})
    except CascadeError:  # 1/0, log(0): absent, not a number
        value = None
    return Form(((expr, 1),)) if value is None else Form((), _number(value))

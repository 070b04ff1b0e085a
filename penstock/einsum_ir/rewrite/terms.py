"""Expression trees for the algebra of pass reduction: building, comparing, evaluating.

Trees are the author's `nodes`; nothing here reorders what will be computed. `key` is an exact
normal form (polynomials of atoms, with one exponential each) that only *compares*; the builders
fold what is exactly 0 or 1 and cancel ``x - x`` and ``x / x`` of equal trees. Excluded: arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

from penstock.einsum_ir.nodes import Access, Apply, Expr, Num, Sym, Var, walk

__all__ = [
    "ONE",
    "ZERO",
    "add",
    "divide",
    "evaluate",
    "key",
    "map_access",
    "multiply",
    "power",
    "rebuilt",
    "repeated",
    "replaced",
    "subtract",
    "summands",
    "uses",
]

ZERO, ONE = Num(0), Num(1)


def add(left: Expr, right: Expr) -> Expr:
    """Return ``left + right``; a 0 is left out."""
    if left == ZERO or right == ZERO:
        return right if left == ZERO else left
    match left, right:
        case _, Apply("neg", (inner,)):
            return subtract(left, inner)
        case Apply("neg", (inner,)), _:
            return subtract(right, inner)
        case _:
            return Apply("+", (left, right))


def subtract(left: Expr, right: Expr) -> Expr:
    """Return ``left - right``; equal trees cancel."""
    if right == ZERO or left == right:
        return left if right == ZERO else ZERO
    if left == ZERO:
        return negate(right)
    match left, right:
        case _, Apply("neg", (inner,)):
            return add(left, inner)
        case Apply("-", (a, b)), _ if b == ZERO or a == right:
            return negate(b)
        case _:
            return Apply("-", (left, right))


def negate(expr: Expr) -> Expr:
    """Return ``-expr``."""
    match expr:
        case Num(value):
            return Num(-value)
        case Apply("neg", (inner,)):
            return inner
        case Apply("-", (left, right)):
            return subtract(right, left)
        case _:
            return Apply("neg", (expr,))


def multiply(left: Expr, right: Expr) -> Expr:
    """Return ``left * right``; 0 and 1 are folded."""
    if ZERO in (left, right):
        return ZERO
    if left == ONE or right == ONE:
        return right if left == ONE else left
    match left, right:
        case Num(a), Num(b):
            return Num(a * b)
        case Num(-1), _:
            return negate(right)
        case _, Num(-1):
            return negate(left)
        case _:
            return Apply("*", (left, right))


def divide(left: Expr, right: Expr) -> Expr:
    """Return ``left / right``; equal trees cancel."""
    if right == ONE or left == ZERO:
        return left
    if left == right:
        return ONE
    return Apply("/", (left, right))


def power(base: Expr, exponent: Expr) -> Expr:
    """Return ``base ** exponent``; squares are written ``sq``."""
    if exponent in (ONE, ZERO) or base == ONE:
        return base if exponent == ONE else ONE
    if base == ZERO and isinstance(exponent, Num) and exponent.value > 0:
        return ZERO
    return Apply("sq", (base,)) if exponent == Num(2) else Apply("**", (base, exponent))


def rebuilt(op: str, args: tuple[Expr, ...]) -> Expr:
    """Return ``op`` of the operands, with what is exactly 0 or 1 folded."""
    if op in _BUILDERS:
        return _BUILDERS[op](*args)
    known = _AT.get(op, {})
    if len(args) == 1 and args[0] in known:
        return known[args[0]]
    return Apply(op, args)


_BUILDERS: dict[str, Callable[..., Expr]] = {
    "+": add,
    "-": subtract,
    "*": multiply,
    "/": divide,
    "**": power,
    "neg": negate,
}
_AT: dict[str, dict[Expr, Expr]] = {
    **{op: {ZERO: ONE} for op in ("exp", "exp2", "cos")},
    **{op: {ONE: ZERO} for op in ("log", "log2")},
    **{op: {ZERO: ZERO, ONE: ONE} for op in ("sq", "sqrt", "abs")},
    "rsqrt": {ONE: ONE},
    "sin": {ZERO: ZERO},
}


def replaced(expr: Expr, values: Mapping[Expr, Expr]) -> Expr:
    """Replace whole nodes (placeholders, accesses) and fold again."""
    if expr in values:
        return values[expr]
    if isinstance(expr, Apply):
        return rebuilt(expr.op, tuple(replaced(each, values) for each in expr.args))
    return expr


def map_access(expr: Expr, change: Callable[[Access], Expr]) -> Expr:
    """Replace every access outside of indices; nothing is folded."""
    match expr:
        case Access():
            return change(expr)
        case Apply(_, args):
            return replace(expr, args=tuple(map_access(each, change) for each in args))
        case Num() | Var() | Sym():
            return expr


def uses(expr: Expr, names: frozenset[str]) -> bool:
    """Whether a placeholder (`Sym`) or rank variable with one of these names occurs."""
    return any(isinstance(node, Sym | Var) and node.name in names for node in walk(expr))


def summands(expr: Expr, sign: int = 1) -> list[tuple[int, Expr]]:
    """Return what an expression adds and subtracts, each with its sign."""
    match expr:
        case Apply("+", (left, right)):
            return summands(left, sign) + summands(right, sign)
        case Apply("-", (left, right)):
            return summands(left, sign) + summands(right, -sign)
        case Apply("neg", (inner,)):
            return summands(inner, -sign)
        case _:
            return [(sign, expr)]


# --- normal form --------------------------------------------------------------------------------

Frozen = tuple[tuple[Any, Fraction], ...]
Poly = dict[Any, Fraction]
_EXPAND = 4


@lru_cache(maxsize=20000)
def key(expr: Expr) -> Frozen:
    """Return a normal form: equal for trees that are equal as polynomials of their atoms."""
    return _frozen(_poly(expr))


def _frozen(poly: Poly) -> Frozen:
    return tuple(sorted(((mono, value) for mono, value in poly.items() if value), key=repr))


def _poly(expr: Expr) -> Poly:
    match expr:
        case Num(value) if abs(value) < float("inf"):
            return {((), ()): Fraction(value)}
        case Apply("+" | "-", (left, right)):
            return _plus(_poly(left), _poly(right), 1 if expr.op == "+" else -1)
        case Apply("neg", (inner,)):
            return _plus({}, _poly(inner), -1)
        case Apply("*", (left, right)):
            return _times(_poly(left), _poly(right))
        case Apply("/", (left, right)):
            return _times(_poly(left), _raised(right, Fraction(-1)))
        case Apply("**", (base, Num(value))):
            return _raised(base, Fraction(value))
        case Apply("exp", (inner,)):
            return {((), key(inner)): Fraction(1)} if key(inner) else {((), ()): Fraction(1)}
        case Apply(op, args):
            if op in _POWERS:
                return _raised(args[0], _POWERS[op])
            return _atom(f"{op}{[key(each) for each in args]!r}")
        case _:
            return _atom(str(expr))


_POWERS = {"sq": Fraction(2), "sqrt": Fraction(1, 2), "rsqrt": Fraction(-1, 2)}


def _atom(name: str, exponent: Fraction = Fraction(1)) -> Poly:
    return {(((name, exponent),), ()): Fraction(1)}


def _plus(left: Poly, right: Poly, factor: int) -> Poly:
    total = dict(left)
    for mono, value in right.items():
        total[mono] = total.get(mono, Fraction(0)) + factor * value
    return {mono: value for mono, value in total.items() if value}


def _times(left: Poly, right: Poly) -> Poly:
    total: Poly = {}
    for (atoms_a, exp_a), a in left.items():
        for (atoms_b, exp_b), b in right.items():
            powers = dict(atoms_a)
            for name, exponent in atoms_b:
                powers[name] = powers.get(name, Fraction(0)) + exponent
            atoms = tuple(sorted((name, each) for name, each in powers.items() if each))
            mono = (atoms, _frozen(_plus(dict(exp_a), dict(exp_b), 1)))
            total[mono] = total.get(mono, Fraction(0)) + a * b
    return {mono: value for mono, value in total.items() if value}


def _raised(base: Expr, exponent: Fraction) -> Poly:
    poly = _poly(base)
    if exponent.denominator == 1 and 0 <= exponent <= _EXPAND:
        total: Poly = {((), ()): Fraction(1)}
        for _ in range(int(exponent)):
            total = _times(total, poly)
        return total
    whole = exponent.denominator == 1
    if len(poly) == 1:
        ((atoms, inner), value) = next(iter(poly.items()))
        if value == 1 and (whole or not atoms or len(atoms) == 1):
            scaled = tuple((mono, each * exponent) for mono, each in inner)
            return {(tuple((name, each * exponent) for name, each in atoms), scaled): Fraction(1)}
    return _atom(repr(_frozen(poly)), exponent)


# --- numbers ------------------------------------------------------------------------------------


def evaluate(expr: Expr, values: Mapping[Expr, Any], context: Any) -> Any:
    """Return the value of a tree in mpmath numbers.

    Args:
        expr: a tree.
        values: each access, placeholder and rank variable in it → its number.
        context: an mpmath context.

    Raises:
        OverflowError: a number on the way has millions of digits.
    """
    match expr:
        case Num(value):
            return context.mpf(value)
        case Apply(op, args):
            return _OPERATORS[op](context, *(evaluate(each, values, context) for each in args))
        case _:
            return values[expr]


_LARGEST_EXPONENT = 10**6


def _exp(c: Any, a: Any) -> Any:
    """Return ``exp(a)``; numbers of millions of digits are not computed."""
    if c.isfinite(a) and abs(a) > _LARGEST_EXPONENT:
        raise OverflowError(a)
    return c.exp(a)


def _power(c: Any, a: Any, b: Any) -> Any:
    if a and abs(b * c.log(abs(a))) > _LARGEST_EXPONENT:
        raise OverflowError(b)
    return a**b


def _half_up(c: Any, a: Any) -> Any:
    return c.floor(a + c.mpf(1) / 2)


_OPERATORS: dict[str, Callable[..., Any]] = {
    "+": lambda c, a, b: a + b,
    "-": lambda c, a, b: a - b,
    "*": lambda c, a, b: a * b,
    "/": lambda c, a, b: a / b,
    "//": lambda c, a, b: c.floor(a / b),
    "%": lambda c, a, b: a - b * c.floor(a / b),
    "**": _power,
    "neg": lambda c, a: -a,
    "==": lambda c, a, b: c.mpf(a == b),
    "!=": lambda c, a, b: c.mpf(a != b),
    "<": lambda c, a, b: c.mpf(a < b),
    "<=": lambda c, a, b: c.mpf(a <= b),
    ">": lambda c, a, b: c.mpf(a > b),
    ">=": lambda c, a, b: c.mpf(a >= b),
    "and": lambda c, a, b: c.mpf(bool(a) and bool(b)),
    "or": lambda c, a, b: c.mpf(bool(a) or bool(b)),
    "not": lambda c, a: c.mpf(not a),
    "abs": lambda c, a: abs(a),
    "exp": _exp,
    "exp2": lambda c, a: _power(c, c.mpf(2), a),
    "log": lambda c, a: c.log(a),
    "log2": lambda c, a: c.log(a) / c.log(2),
    "sqrt": lambda c, a: c.sqrt(a),
    "rsqrt": lambda c, a: 1 / c.sqrt(a),
    "sq": lambda c, a: a * a,
    "sin": lambda c, a: c.sin(a),
    "cos": lambda c, a: c.cos(a),
    "tanh": lambda c, a: c.tanh(a),
    "erf": lambda c, a: c.erf(a),
    "sigmoid": lambda c, a: 1 / (1 + _exp(c, -a)),
    "relu": lambda c, a: max(a, c.mpf(0)),
    "silu": lambda c, a: a / (1 + _exp(c, -a)),
    "gelu": lambda c, a: a * (1 + c.erf(a / c.sqrt(2))) / 2,
    "softplus": lambda c, a: c.log(1 + _exp(c, a)),
    "step": lambda c, a: c.mpf(a >= 0),
    "sign": lambda c, a: c.mpf((a > 0) - (a < 0)),
    "floor": lambda c, a: c.floor(a),
    "round": _half_up,
    "bitlen": lambda c, a: c.mpf(int(abs(a)).bit_length()),
    "max": lambda c, a, b: max(a, b),
    "min": lambda c, a, b: min(a, b),
    "clamp": lambda c, a, low, high: min(max(a, low), high),
    "where": lambda c, test, a, b: a if test else b,
    "fill": lambda c, a, b: a,
}


def repeated(op: str, body: Expr, times: Expr) -> Expr:
    """Return the reduction of as many equal values."""
    match op:
        case "sum":
            return multiply(body, times)
        case "prod":
            return Apply("**", (body, times))
        case _:
            return body

"""Conditions on coordinates in a form in which variables can be eliminated.

A `Condition` is a disjunction of cases, each a conjunction of linear inequalities of integers
(`AtMost`) and of what has no such form (`Opaque`). `exists` removes a variable: Fourier-Motzkin
elimination, exact over the integers where a unit factor or a wide enough gap makes it so (the
dark shadow of the Omega test). What cannot be kept is left out, which makes the condition weaker,
and ``exact`` false: a condition is always *necessary*, and sufficient if exact. What reads a
tensor is left out at once. Excluded: data, and what conditions are for (`guards.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from penstock.einsum_ir.nodes import Apply, Expr, Num, Var, accesses, substitute, variables
from penstock.einsum_ir.ops import OPERATORS
from penstock.einsum_ir.regions.bounds import box_status
from penstock.einsum_ir.regions.linear import Form, add, linear, scale, to_expr

__all__ = [
    "FALSE",
    "TRUE",
    "AtMost",
    "Case",
    "Condition",
    "Literal",
    "Opaque",
    "condition",
    "conjunction",
    "disjunction",
    "exists",
    "expression",
    "inexact",
    "pruned",
    "renamed",
    "simplified",
    "solved",
]

CASES = 32
LITERALS = 48
_NEGATED = {"<": ">=", ">=": "<", ">": "<=", "<=": ">", "==": "!=", "!=": "=="}


@dataclass(frozen=True, slots=True)
class AtMost:
    """``form <= 0``, of integers."""

    form: Form

    @property
    def variables(self) -> tuple[str, ...]:
        """The rank variables that occur."""
        return variables(*(atom for atom, _ in self.form.terms))

    @property
    def expr(self) -> Expr:
        """The inequality as an expression, without negative factors."""
        positive = tuple(term for term in self.form.terms if term[1] > 0)
        negative = tuple((atom, -factor) for atom, factor in self.form.terms if factor < 0)
        constant = self.form.constant
        left = Form(positive, max(constant, 0) if positive or constant > 0 else 0)
        right = Form(negative, max(-constant, 0))
        return Apply("<=", (to_expr(left), to_expr(right)))


@dataclass(frozen=True, slots=True)
class Opaque:
    """A condition that is no inequality of integers; it reads no tensor."""

    expr: Expr

    @property
    def variables(self) -> tuple[str, ...]:
        """The rank variables that occur."""
        return variables(self.expr)


Literal = AtMost | Opaque
Case = tuple[Literal, ...]


@dataclass(frozen=True, slots=True)
class Condition:
    """A disjunction of cases; none is false, an empty case is true."""

    cases: tuple[Case, ...]
    exact: bool = True

    @property
    def variables(self) -> tuple[str, ...]:
        """The rank variables that occur."""
        found = {name: None for case in self.cases for each in case for name in each.variables}
        return tuple(found)


TRUE = Condition(((),))
FALSE = Condition(())


def inexact(value: Condition) -> Condition:
    """Return the condition as one that is only necessary."""
    return Condition(value.cases, exact=False)


def _capped(cases: Iterable[Case], *, exact: bool) -> Condition:
    """Drop doubles, cases that others include, and, beyond the limits, what is most."""
    kept: list[tuple[frozenset[Literal], Case]] = []
    for case in cases:
        short = tuple(dict.fromkeys(case))
        if len(short) > LITERALS:
            short, exact = short[:LITERALS], False
        whole = frozenset(short)
        if any(other <= whole for other, _ in kept):
            continue
        kept = [pair for pair in kept if not whole <= pair[0]] + [(whole, short)]
    if len(kept) > CASES:
        return Condition(((),), exact=False)
    return Condition(tuple(case for _, case in kept), exact)


def conjunction(*values: Condition) -> Condition:
    """Return the condition that holds where all do."""
    result = TRUE
    for value in values:
        cases = [(*left, *right) for left in result.cases for right in value.cases]
        result = _capped(cases, exact=result.exact and value.exact)
    return result


def disjunction(*values: Condition) -> Condition:
    """Return the condition that holds where any does."""
    cases = [case for value in values for case in value.cases]
    return _capped(cases, exact=all(value.exact for value in values))


# --- from and to expressions --------------------------------------------------------------------


def condition(expr: Expr, symbols: Mapping[str, float], *, holds: bool = True) -> Condition:
    """Return where an expression holds (or, without `holds`, where it does not).

    Args:
        expr: a condition over rank variables.
        symbols: upper-case name → value.
        holds: which of the two.
    """
    match expr:
        case Num(value):
            return TRUE if bool(value) == holds else FALSE
        case Apply("not", (inner,)):
            return condition(inner, symbols, holds=not holds)
        case Apply("and" | "or", args):
            parts = [condition(arg, symbols, holds=holds) for arg in args]
            return conjunction(*parts) if (expr.op == "and") == holds else disjunction(*parts)
        case Apply("where", (test, then, otherwise)):
            yes, no = (condition(side, symbols, holds=holds) for side in (then, otherwise))
            return _chosen(test, yes, no, symbols)
        case Apply(op, (left, right)) if OPERATORS[op].kind == "comparison":
            return _compared(op if holds else _NEGATED[op], left, right, symbols)
        case _:
            return _compared("!=" if holds else "==", expr, Num(0), symbols)


def _chosen(test: Expr, yes: Condition, no: Condition, symbols: Mapping[str, float]) -> Condition:
    return disjunction(
        conjunction(condition(test, symbols), yes),
        conjunction(condition(test, symbols, holds=False), no),
    )


def _compared(op: str, left: Expr, right: Expr, symbols: Mapping[str, float]) -> Condition:
    form = _dyadic(linear(Apply("-", (left, right)), symbols))
    if accesses(*(atom for atom, _ in form.terms)):
        return inexact(TRUE)
    if not form.whole:
        sides = (to_expr(linear(left, symbols)), to_expr(linear(right, symbols)))
        return Condition(((Opaque(Apply(op, sides)),),))
    match op:
        case "<=" | "<":
            return _below(form, strict=op == "<")
        case ">=" | ">":
            return _below(scale(form, -1), strict=op == ">")
        case "==":
            return conjunction(_below(form), _below(scale(form, -1)))
        case _:
            return disjunction(_below(form, strict=True), _below(scale(form, -1), strict=True))


def _dyadic(form: Form) -> Form:
    """Multiply by the power of two that makes all factors whole, if one up to 2^20 does."""
    most = max((float(factor).as_integer_ratio()[1] for _, factor in form.terms), default=1)
    return scale(form, most) if 1 < most <= 1 << 20 else form


def _below(form: Form, *, strict: bool = False) -> Condition:
    """Return ``form <= 0`` (``< 0`` if strict) of integers but for the constant."""
    if math.isinf(form.constant):  # as in p - m < W with W = inf
        return TRUE if form.constant < 0 else FALSE
    constant = math.floor(form.constant) + 1 if strict else math.ceil(form.constant)
    return _expanded(Form(form.terms, constant))


def _expanded(form: Form) -> Condition:
    """Return ``form <= 0`` with absolute values, extrema and choices written out."""
    for atom, factor in form.terms:
        rest = Form(tuple(term for term in form.terms if term[0] != atom), form.constant)
        match atom:
            case Apply("clamp", (value, low, high)):
                inner = Apply("min", (Apply("max", (value, low)), high))
                return _expanded(add(rest, scale(linear(inner, {}), factor)))
            case Apply("abs", (value,)):
                sides = [scale(linear(value, {}), sign) for sign in (1, -1)]
                every = factor > 0
            case Apply("max" | "min", (left, right)):
                sides = [linear(left, {}), linear(right, {})]
                every = (factor > 0) == (atom.op == "max")
            case Apply("where", (test, then, otherwise)):
                yes, no = (add(rest, scale(linear(each, {}), factor)) for each in (then, otherwise))
                return _chosen(test, _expanded(yes), _expanded(no), {})
            case _:
                continue
        parts = [_expanded(add(rest, scale(side, factor))) for side in sides]
        return conjunction(*parts) if every else disjunction(*parts)
    if not form.terms:
        return TRUE if form.constant <= 0 else FALSE
    return Condition(((AtMost(_reduced(form)),),))


def _reduced(form: Form) -> Form:
    """Divide by the common factor; the constant is rounded to the tightest integer."""
    common = math.gcd(*(int(factor) for _, factor in form.terms))
    terms = tuple((atom, int(factor) // common) for atom, factor in form.terms)
    return Form(terms, -(-int(form.constant) // common))


def expression(value: Condition) -> Expr | None:
    """Return the condition as an expression; None if it is always true, 0 if never."""
    if any(not case for case in value.cases):
        return None
    result: Expr = Num(0)
    for number, case in enumerate(value.cases):
        joined = case[0].expr
        for literal in case[1:]:
            joined = Apply("and", (joined, literal.expr))
        result = Apply("or", (result, joined)) if number else joined
    return result


def renamed(value: Condition, names: Mapping[str, Expr], symbols: Mapping[str, float]) -> Condition:
    """Return the condition with variables replaced by expressions."""
    if not set(value.variables) & set(names):
        return value
    parts = [
        conjunction(*(condition(substitute(each.expr, dict(names)), symbols) for each in case))
        for case in value.cases
    ]
    found = disjunction(*parts)
    return found if value.exact else inexact(found)


# --- ranges -------------------------------------------------------------------------------------


def _decided(literal: Literal, extents: Mapping[str, int]) -> int:
    """Return 1 if a literal holds everywhere, -1 if nowhere, 0 if that is open."""
    if isinstance(literal, AtMost):
        ends = _plain_range(literal.form, extents)
        if ends is not None:
            return 1 if ends[1] <= 0 else -1 if ends[0] > 0 else 0
    names = [name for name in literal.variables if name in extents]
    low = {name: np.array(0) for name in names}
    high = {name: np.array(extents[name] - 1) for name in names}
    return int(box_status(literal.expr, low, high, {})[()])


def _plain_range(form: Form, extents: Mapping[str, int]) -> tuple[float, float] | None:
    """Return the range of a sum of bounded variables, None for anything else."""
    low = high = form.constant
    for atom, factor in form.terms:
        if not isinstance(atom, Var) or atom.name not in extents:
            return None
        reach = factor * (extents[atom.name] - 1)
        low, high = low + min(reach, 0), high + max(reach, 0)
    return low, high


def simplified(value: Condition, extents: Mapping[str, int]) -> Condition:
    """Return the condition without what holds everywhere and what holds nowhere.

    Args:
        value: a condition.
        extents: variable → number of coordinates, from 0; one that is left out is unbounded.
    """
    found = [pruned(case, extents) for case in value.cases]
    return _capped([case for case in found if case is not None], exact=value.exact)


def pruned(case: Case, extents: Mapping[str, int]) -> Case | None:
    """Return a case without what holds everywhere; None if a part of it holds nowhere."""
    states = [(literal, _decided(literal, extents)) for literal in case]
    if any(state < 0 for _, state in states):
        return None
    return _independent([literal for literal, state in states if state == 0], extents)


def _independent(case: list[Literal], extents: Mapping[str, int]) -> Case:
    """Leave out each inequality that another one implies."""
    kept: list[Literal] = []
    for literal in case:
        if any(_implies(other, literal, extents) for other in kept):
            continue
        kept = [other for other in kept if not _implies(literal, other, extents)] + [literal]
    return tuple(kept)


def _implies(given: Literal, literal: Literal, extents: Mapping[str, int]) -> bool:
    if isinstance(given, AtMost) and isinstance(literal, AtMost):
        gap = add(literal.form, scale(given.form, -1))
        return (gap.constant <= 0 or bool(gap.terms)) and _decided(AtMost(gap), extents) == 1
    return given == literal


# --- elimination --------------------------------------------------------------------------------


def exists(value: Condition, names: Iterable[str], extents: Mapping[str, int]) -> Condition:
    """Return where some coordinates of the variables make the condition hold.

    Args:
        value: a condition.
        names: variables to remove.
        extents: variable → number of coordinates, of these and of the others.
    """
    result = simplified(value, extents)
    for name in sorted(names, key=lambda each: _difficulty(result, each)):
        parts = [_without(case, name, extents) for case in result.cases]
        joined = disjunction(*parts)
        result = simplified(joined if value.exact else inexact(joined), extents)
    return result


def _difficulty(value: Condition, name: str) -> int:
    """Return how much a variable's factors get in the way of exact elimination."""
    factors = [
        abs(factor)
        for case in value.cases
        for literal in case
        if isinstance(literal, AtMost)
        for atom, factor in literal.form.terms
        if atom == Var(name)
    ]
    return int(max(factors, default=0))


def _without(case: Case, name: str, extents: Mapping[str, int]) -> Condition:
    """Return where some coordinate of one variable makes all of a case hold."""
    kept: list[Literal] = []
    lower: list[tuple[int, Form]] = [(1, Form(()))]  # factor * name >= form
    upper: list[tuple[int, Form]] = [(1, Form((), extents[name] - 1))]  # factor * name <= form
    exact = True
    for literal in case:
        if name not in literal.variables:
            kept.append(literal)
            continue
        found = solved(literal, name)
        if found is None:
            exact = False
            continue
        factor, rest = found
        if factor > 0:
            upper.append((factor, scale(rest, -1)))
        elif factor < 0:
            lower.append((-factor, rest))
        else:
            kept.append(AtMost(rest))
    shadows = [_shadow(low, high, extents) for low in lower for high in upper]
    return conjunction(Condition((tuple(kept),), exact), *shadows)


def _shadow(low: tuple[int, Form], high: tuple[int, Form], extents: Mapping[str, int]) -> Condition:
    """Return where an integer x has ``b*x >= low`` and ``a*x <= high``."""
    (b, least), (a, most) = low, high
    gap = add(scale(least, a), scale(most, -b))  # a*least <= a*b*x <= b*most
    real = _below(gap)
    if a == 1 or b == 1:
        return real
    dark = _below(add(gap, Form((), (a - 1) * (b - 1))))
    if simplified(dark, extents) == TRUE:
        return TRUE
    return inexact(real)


def solved(literal: Literal, name: str) -> tuple[int, Form] | None:
    """Return (factor, rest) with the literal ``factor * name + rest <= 0``, or None."""
    if isinstance(literal, Opaque):
        return None
    form = literal.form
    for _ in range(len(form.terms)):
        inside = [
            term for term in form.terms if term[0] != Var(name) and name in variables(term[0])
        ]
        if not inside:
            factor = dict(form.terms).get(Var(name), 0)
            return int(factor), add(form, Form(((Var(name), -factor),)))
        opened = _opened(form, *inside[0])
        if opened is None:
            return None
        form = opened
    return None


def _opened(form: Form, atom: Expr, factor: float) -> Form | None:
    """Return the form without a quotient of factor 1 or -1: ``x//c <= r`` is ``x <= r*c+c-1``."""
    match atom:
        case Apply("//", (value, Num(divisor))) if abs(factor) == 1 and divisor > 0:
            rest = add(form, Form(((atom, -factor),)))
            inner = scale(linear(value, {}), factor)
            slack = 1 - divisor if factor > 0 else 0
            return add(add(inner, scale(rest, divisor)), Form((), slack))
        case _:
            return None

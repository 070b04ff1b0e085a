"""The quasi-affine normal form of a predicate: cases of inequalities, equations and congruences.

The operands are sums of variables and of ``x // c`` and ``x % c``. All else becomes cases: ``abs``,
``min``, ``max`` and ``clamp`` by their sides, ``where`` by its test, ``bitlen`` by powers of two,
and what divides or multiplies variables by the values of a variable.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np

from penstock.einsum_ir.frontend.notation import parse_expr
from penstock.einsum_ir.nodes import (
    Apply,
    Expr,
    Num,
    Var,
    accesses,
    rebuilt,
    substitute,
    variables,
    walk,
)
from penstock.einsum_ir.ops import OPERATORS
from penstock.einsum_ir.regions.algebra import NumpyAlgebra
from penstock.einsum_ir.regions.bounds import interval
from penstock.einsum_ir.regions.conditions import AtMost, Case, Opaque, condition, pruned
from penstock.einsum_ir.regions.linear import Form, is_integral, linear, scale, to_expr
from penstock.einsum_ir.regions.tiling import shapes, with_numbers
from penstock.errors import CascadeError, UnknownNameError

__all__ = ["Congruent", "Equal", "NormalForm", "normal_form"]

CASES = 4096
"""Cases of a normal form."""

VALUES = 256
"""Values of a variable that divides or multiplies others."""

_NEGATED = {"<": ">=", ">=": "<", ">": "<=", "<=": ">", "==": "!=", "!=": "=="}

Split = list[tuple[Expr, Expr]]
"""(guard, value) pairs: what a node is worth where a condition holds."""


@dataclass(frozen=True, slots=True)
class Equal:
    """``form == 0``, of integers."""

    form: Form

    @property
    def expr(self) -> Expr:
        """The equation as an expression, without negative factors."""
        match AtMost(self.form).expr:
            case Apply(_, sides):
                return Apply("==", sides)
            case other:
                return other


@dataclass(frozen=True, slots=True)
class Congruent:
    """``form % modulus == residue``, of integers."""

    form: Form
    modulus: int
    residue: int

    @property
    def expr(self) -> Expr:
        """The congruence as an expression."""
        rest = Apply("%", (to_expr(self.form), Num(self.modulus)))
        return Apply("==", (rest, Num(self.residue)))


Term = AtMost | Equal | Congruent | Opaque


@dataclass(frozen=True, slots=True)
class NormalForm:
    """A disjunction of cases, each a conjunction; no case is false, one without terms is true."""

    cases: tuple[tuple[Term, ...], ...]

    @property
    def expr(self) -> Expr:
        """The normal form as an expression."""
        joined = [_joined("and", [term.expr for term in case], 1) for case in self.cases]
        return _joined("or", joined, 0)

    def __str__(self) -> str:
        if not self.cases:
            return "never"
        if any(not case for case in self.cases):
            return "always"
        shown = [" and ".join(str(term.expr) for term in case) for case in self.cases]
        return "\n or ".join(shown)


def _joined(op: str, exprs: list[Expr], empty: int) -> Expr:
    """Join expressions as a balanced tree, so that none gets too deep."""
    if len(exprs) < 2:
        return exprs[0] if exprs else Num(empty)
    half = len(exprs) // 2
    return Apply(op, (_joined(op, exprs[:half], empty), _joined(op, exprs[half:], empty)))


def normal_form(
    predicate: Expr | str,
    extents: Mapping[str, int],
    symbols: Mapping[str, float] | None = None,
) -> NormalForm:
    """Return the quasi-affine normal form of a predicate.

    Args:
        predicate: over rank variables and scalars.
        extents: variable → number of coordinates, from 0.
        symbols: upper-case name → value. ``M`` is the extent of ``m`` if nothing else is said.

    Raises:
        CascadeError: it reads a tensor or a scalar without a value, or has no normal form of a
            reasonable size.
        UnknownNameError: a variable has no extent.

    Example:
        >>> print(normal_form("abs(p - m) <= W or (p - m) % 4 == 0", {"p": 9, "m": 9}, {"W": 1}))
        p <= m + 1 and m <= p + 1
         or (p - m) % 4 == 0
    """
    pred = parse_expr(predicate) if isinstance(predicate, str) else predicate
    for name in variables(pred):
        if name not in extents:
            raise UnknownNameError("variable", name, extents, span=pred.span)
    pred = with_numbers(pred, {**shapes(extents), **(symbols or {})})
    cases = _Normal(extents).cases(pred, holds=True)
    found = [pruned(case, extents) for case in cases]
    kept = list(dict.fromkeys(case for case in found if case is not None))
    if () in kept:
        return NormalForm(((),))
    return NormalForm(tuple(_paired(case) for case in kept))


def _impossible(case: Case) -> bool:
    """Whether two of the inequalities exclude each other."""
    ends = {each.form.terms: each.form.constant for each in case if isinstance(each, AtMost)}
    opposite = (scale(Form(terms), -1).terms for terms in ends)
    return any(ends[a] + ends.get(b, -math.inf) > 0 for a, b in zip(ends, opposite, strict=True))


def _paired(case: Case) -> tuple[Term, ...]:
    """Write what is an equation or a congruence as one."""
    terms: list[Term] = []
    left = list(case)
    while left:
        first = left.pop(0)
        if not isinstance(first, AtMost):
            terms.append(first)
            continue
        other = AtMost(scale(first.form, -1))
        if other in left:
            left.remove(other)
        terms.append(_term(first, equal=other in case))
    return tuple(terms)


def _term(literal: AtMost, *, equal: bool) -> Term:
    form = literal.form
    match form.terms:
        case ((Apply("%", (value, Num(modulus))), factor),) if abs(factor) == 1:
            residue = int(-form.constant * factor)
            if equal or (modulus > 0 and residue == (0 if factor > 0 else modulus - 1)):
                return Congruent(linear(value, {}), int(modulus), residue)
    return Equal(form) if equal else literal


@dataclass(frozen=True, slots=True)
class _Normal:
    extents: Mapping[str, int]

    def cases(self, pred: Expr, *, holds: bool) -> list[Case]:
        """Return where a condition holds (or does not)."""
        if accesses(pred) or _absent(pred):
            return self._present(pred, holds=holds)
        match pred:
            case Num(value):
                return [()] if bool(value) == holds else []
            case Apply("not", (inner,)):
                return self.cases(inner, holds=not holds)
            case Apply("and" | "or", args):
                parts = [self.cases(arg, holds=holds) for arg in args]
                return self._all(*parts) if (pred.op == "and") == holds else self._any(*parts)
            case Apply(op, (left, right)) if OPERATORS[op].kind == "comparison":
                return self._compared(op if holds else _NEGATED[op], left, right)
            case _:
                return self._compared("!=" if holds else "==", pred, Num(0))

    def _present(self, pred: Expr, *, holds: bool) -> list[Case]:
        """Decide what may divide by zero: write the divisor out as cases until it is a number."""
        divisor = next(_zero_divisors(pred), None)
        if divisor is None:
            raise CascadeError(
                f"{pred} reads a tensor, so that it has no normal form",
                span=pred.span,
                fix="put the elements of the tensor in",
            )
        node: Apply | None
        if variables(divisor):
            node = self._node(divisor, nested=True)
            if node is None:
                return self._by_value(pred, divisor, holds=holds)
        else:
            node = next((each for each in walk(pred) if _torn(each)), None)
            if node is None:
                found = _resolved(pred)
                return [] if found is None else self.cases(found, holds=holds)
        parts = [
            self._all(
                self.cases(guard, holds=True),
                self.cases(_swapped(pred, node, value), holds=holds),
            )
            for guard, value in self._split(node)
        ]
        return self._any(*parts)

    def _by_value(self, pred: Expr, node: Expr, *, holds: bool) -> list[Case]:
        name = self._smallest(node)
        parts = []
        for value in range(self.extents[name]):
            at = self.cases(Apply("==", (Var(name), Num(value))), holds=True)
            parts.append(
                self._all(at, self.cases(substitute(pred, {name: Num(value)}), holds=holds))
            )
        return self._any(*parts)

    def _all(self, *parts: list[Case]) -> list[Case]:
        result: list[Case] = [()]
        for part in parts:
            result = self._sized((*left, *right) for left in result for right in part)
        return result

    def _any(self, *parts: list[Case]) -> list[Case]:
        return self._sized(case for part in parts for case in part)

    def _sized(self, cases: Iterable[Case]) -> list[Case]:
        kept: dict[Case, None] = {}
        for case in cases:
            short = pruned(tuple(dict.fromkeys(case)), self.extents)
            if short is not None and not _impossible(short):
                kept[short] = None
            if len(kept) > CASES:
                raise CascadeError(
                    f"the normal form has over {CASES} cases", fix="split the predicate up"
                )
        return list(kept)

    def _compared(self, op: str, left: Expr, right: Expr) -> list[Case]:
        form = linear(Apply("-", (left, right)), {})
        for atom, _ in form.terms:
            node = self._node(atom, nested=False)
            if node is None:
                continue
            parts = []
            for guard, value in self._split(node):
                inner = Apply(op, (_swapped(to_expr(form), node, value), Num(0)))
                parts.append(
                    self._all(self.cases(guard, holds=True), self.cases(inner, holds=True))
                )
            return self._any(*parts)
        found = condition(Apply(op, (to_expr(form), Num(0))), {})
        if not found.exact:
            raise CascadeError(f"{op} of {to_expr(form)} has too many cases", fix="split it up")
        return list(found.cases)

    def _node(self, expr: Expr, *, nested: bool) -> Apply | None:
        """Return the innermost node that is to be written out as cases, None if there is none."""
        match expr:
            case Num() | Var():
                return None
            case Apply("where", _):
                return expr
            case Apply(op, args):
                kind = OPERATORS[op].kind
                if kind not in ("comparison", "logic"):
                    below = nested or op not in ("+", "-", "neg", "abs", "min", "max", "clamp")
                    for arg in args:
                        found = self._node(arg, nested=below)
                        if found is not None:
                            return found
                return None if self._plain(expr, nested) else expr
            case _:
                return None

    def _plain(self, expr: Apply, nested: bool) -> bool:
        match expr:
            case Apply("+" | "-" | "neg", _):
                return True
            case Apply("*", (left, right)):
                return not (variables(left) and variables(right))
            case Apply("//" | "%", (_, divisor)):
                return not variables(divisor)
            case Apply("abs" | "min" | "max" | "clamp", _):
                return not nested
            case _:
                return not variables(expr)

    def _split(self, node: Apply) -> Split:
        match node:
            case Apply("where", (test, then, otherwise)):
                return [(test, then), (Apply("not", (test,)), otherwise)]
            case Apply("clamp", (value, low, high)):
                return [(Num(1), Apply("min", (Apply("max", (value, low)), high)))]
            case Apply("abs", (value,)):
                zero, below = Num(0), Apply("neg", (value,))
                return [(Apply(">=", (value, zero)), value), (Apply("<", (value, zero)), below)]
            case Apply("min" | "max", (left, right)):
                first, second = ("<=", ">") if node.op == "min" else (">=", "<")
                return [(Apply(first, (left, right)), left), (Apply(second, (left, right)), right)]
            case Apply("bitlen", (value,)):
                return list(self._bits(value))
            case Apply("sign" | "step" | "fill" | "floor" | "round" | "/", _):
                return list(self._simple(node))
            case Apply(op, _) if OPERATORS[op].kind in ("comparison", "logic"):
                return [(node, Num(1)), (Apply("not", (node,)), Num(0))]
            case _:
                return list(self._values(node))

    def _bits(self, value: Expr) -> Iterator[tuple[Expr, Expr]]:
        ranges = {name: (np.array(0), np.array(n - 1)) for name, n in self.extents.items()}
        ends = interval(value, ranges, NumpyAlgebra(), {})
        size = Apply("abs", (value,))
        most = 2**61 if ends is None else math.ceil(max(abs(float(end)) for end in ends))
        for bits in range(most.bit_length() + 1):
            low = Apply("<=", (Num(2 ** (bits - 1) if bits else 0), size))
            yield Apply("and", (low, Apply("<", (size, Num(2**bits))))), Num(bits)

    def _simple(self, node: Apply) -> Iterator[tuple[Expr, Expr]]:
        value = node.args[0]
        match node.op, node.args[-1]:
            case "sign", _:
                for op, number in (("<", -1), ("==", 0), (">", 1)):
                    yield Apply(op, (value, Num(0))), Num(number)
            case "step", _:
                yield Apply(">=", (value, Num(0))), Num(1)
                yield Apply("<", (value, Num(0))), Num(0)
            case "/", Num(by) if abs(math.frexp(by)[0]) == 0.5:
                yield Num(1), Apply("*", (value, Num(1 / by)))
            case "fill", _:
                yield Num(1), value
            case _ if node.op != "/" and is_integral(value):
                yield Num(1), value
            case _:
                yield from self._values(node)

    def _values(self, node: Apply) -> Iterator[tuple[Expr, Expr]]:
        name = self._smallest(node.args[1] if node.op in ("//", "%") else node)
        for value in range(self.extents[name]):
            known = substitute(node, {name: Num(value)})
            yield Apply("==", (Var(name), Num(value))), to_expr(linear(known, {}))

    def _smallest(self, expr: Expr) -> str:
        """Return the variable with the fewest values."""
        name = min(variables(expr), key=lambda each: self.extents[each])
        if self.extents[name] > VALUES:
            raise CascadeError(
                f"{expr} is not quasi-affine, and {name} has {self.extents[name]} values",
                span=expr.span,
                fix="multiply and divide by numbers only",
            )
        return name


def _zero_divisors(expr: Expr) -> Iterator[Expr]:
    """Yield the divisors that may be zero, the innermost first."""
    match expr:
        case Apply(op, args):
            for arg in args:
                yield from _zero_divisors(arg)
            if op in ("//", "%"):
                form = linear(args[1], {})
                if form.terms or not form.constant:
                    yield args[1]
        case _:
            pass


def _absent(expr: Expr) -> bool:
    """Whether something in an expression may divide by zero."""
    return next(_zero_divisors(expr), None) is not None


def _torn(expr: Expr) -> TypeGuard[Apply]:
    """Whether it is a choice of which only the sides may divide by zero."""
    if not isinstance(expr, Apply) or expr.op != "where":
        return False
    return any(_absent(side) for side in expr.args[1:]) and not _absent(expr.args[0])


def _resolved(expr: Expr) -> Expr | None:
    """Return an expression without what is absent everywhere; None if that is all of it."""
    match expr:
        case Apply("fill", (inner, instead)):
            found = _resolved(inner)
            return _resolved(instead) if found is None else found
        case Apply("//" | "%", (value, divisor)) if not linear(divisor, {}).terms:
            if not is_integral(value) or not is_integral(divisor):
                raise CascadeError(f"{expr} is no division of whole numbers", span=expr.span)
            if not linear(divisor, {}).constant:
                return None
    match expr:
        case Apply(op, args):
            parts = [_resolved(arg) for arg in args]
            known = [part for part in parts if part is not None]
            if len(known) == len(parts):
                return Apply(op, tuple(known))
            return None
        case _:
            return expr


def _swapped(expr: Expr, node: Expr, value: Expr) -> Expr:
    if expr == node:
        return value
    return rebuilt(expr, lambda each: _swapped(each, node, value))

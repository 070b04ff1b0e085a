"""Separation: an element's part and the whole rank's part of an expression, taken apart.

Before → after, with x along the rank and u a value of the whole rank that moves from u' to u::

    exp(x - u)      ->  exp(x - u') * exp(u' - u)                     tracked
    sq(x - u)       ->  sq(x - u') + 2 (x - u') (u' - u) + sq(u' - u)
    x / u           ->  x / u' * (u' / u)
    x / u           ->  x * (1 / u)                                   deferred: no u in x's part

in general ``f(x, u) = sum_k b_k(x, u') c_k(u', u)``. Each rule is an identity, and what it needs is
recorded as an obligation (``u' != 0``). The c_k are in difference form from the start, never as
``exp(u') / exp(u)``; the b_k keep the author's tree. What no rule takes apart is `NotSeparable`.

Excluded: which values move, and the closure of the b_k (`closure.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import comb

from penstock.einsum_ir.nodes import Apply, Expr, Num, Sym, walk
from penstock.einsum_ir.rewrite.signs import Signs, sign
from penstock.einsum_ir.rewrite.terms import (
    ONE,
    ZERO,
    add,
    divide,
    key,
    multiply,
    negate,
    power,
    rebuilt,
    replaced,
    subtract,
    summands,
    uses,
)

__all__ = ["Fact", "NotSeparableError", "Separator", "Term", "old"]

_MOST_TERMS = 24
_MOST_POWER = 8


class NotSeparableError(Exception):
    """No rule takes an expression apart; the message says which part and why."""


@dataclass(frozen=True, slots=True)
class Term:
    """``b(x, u') * c(u', u)``: u is written ``u`` in b, and as ``u'`` and ``u`` in c."""

    b: Expr
    c: Expr


@dataclass(frozen=True, slots=True)
class Fact:
    """``value <= bound`` (or >=) in every prefix of the rank; ``value`` is a `terms.key`."""

    bound: str
    value: object
    below: bool


def old(name: str) -> Sym:
    """Return the placeholder of a value before the step."""
    return Sym(f"{name}'")


@dataclass
class Separator:
    """Takes expressions apart.

    Args:
        element: rank variables and placeholders that vary along the rank.
        tracked: placeholders that b may read, as references.
        deferred: placeholders that b may not read.
        signs: of leaves.
        facts: bounds that hold in every prefix.
        obligations: what the rules that were used need, filled in.
    """

    element: frozenset[str]
    tracked: frozenset[str]
    deferred: frozenset[str]
    signs: Signs
    facts: tuple[Fact, ...] = ()
    obligations: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._whole = self.tracked | self.deferred
        self._before: dict[Expr, Expr] = {Sym(name): old(name) for name in self.tracked}

    def varies(self, expr: Expr) -> bool:
        """Whether an expression varies along the rank."""
        return uses(expr, self.element)

    def moves(self, expr: Expr) -> bool:
        """Whether an expression reads a value of the whole rank."""
        return uses(expr, self._whole)

    def before(self, expr: Expr) -> Expr:
        """Return the expression at the old references."""
        return replaced(expr, self._before)

    def need(self, what: str) -> None:
        """Record an obligation."""
        self.obligations[what] = None

    def terms(self, expr: Expr) -> list[Term]:
        """Take an expression apart.

        Raises:
            NotSeparableError: no rule does.
        """
        found = self._merged(self._terms(expr))
        if len(found) > _MOST_TERMS:
            raise NotSeparableError(f"'{expr}' falls into more than {_MOST_TERMS} parts")
        return found

    def _terms(self, expr: Expr) -> list[Term]:
        if not self.moves(expr):
            return [Term(expr, ONE)] if self.varies(expr) else [Term(ONE, expr)]
        if not self.varies(expr):
            return [Term(ONE, expr)]
        if not isinstance(expr, Apply):
            raise NotSeparableError(f"'{expr}' varies and moves")
        rule = _RULES.get(expr.op)
        if rule is None:
            raise NotSeparableError(f"no rule takes '{expr}' apart")
        return rule(self, expr)

    def _merged(self, found: list[Term]) -> list[Term]:
        """Join terms with equal b, then terms with equal c."""
        by_b: dict[object, Term] = {}
        for term in found:
            fixed = not self.varies(term.b) and not self.moves(term.b)
            each = Term(ONE, multiply(term.b, term.c)) if fixed else term
            at = key(each.b)
            have = by_b.get(at)
            by_b[at] = each if have is None else replace(have, c=add(have.c, each.c))
        kept = [each for each in by_b.values() if key(each.c)]
        by_c: dict[object, Term] = {}
        for each in kept:
            place = (each.b == ONE, key(each.c))
            have = by_c.get(place)
            by_c[place] = each if have is None else replace(have, b=add(have.b, each.b))
        return list(by_c.values())

    # --- sums -----------------------------------------------------------------------------------

    def _sum(self, expr: Apply) -> list[Term]:
        """Keep ``x - u`` together, as ``x - u'`` and the step ``u' - u``; the rest term by term."""
        kept: list[tuple[int, Expr]] = []
        steps: list[Term] = []
        apart: list[Term] = []
        parts = self._summands(expr)
        fixed = any(self.varies(each) and not self.moves(each) for _, each in parts)
        for factor, each in parts:
            if not self.moves(each) and (fixed or self.varies(each)):
                kept.append((factor, each))
            elif fixed and not uses(each, self.deferred) and self._is_linear(each):
                kept.append((factor, each))
                steps += [
                    Term(t.b, _signed(factor, subtract(t.c, self.before(t.c))))
                    for t in replace(self, tracked=frozenset(), deferred=self._whole)._terms(each)
                ]
            else:
                apart += [Term(t.b, _signed(factor, t.c)) for t in self._terms(each)]
        if not kept:
            return apart
        whole = len(kept) == len(parts) and not self._has_log(expr)
        return [Term(expr if whole else _total(kept), ONE), *steps, *apart]

    def _is_linear(self, expr: Expr) -> bool:
        """Whether an expression is a product of elements and whole values, or a whole value."""
        if not self.moves(expr) or not self.varies(expr):
            return True
        match expr:
            case Apply("*" | "/", (left, right)):
                return self._is_linear(left) and self._is_linear(right)
            case _:
                return False

    def _has_log(self, expr: Expr) -> bool:
        return any(
            isinstance(node, Apply)
            and node.op in ("log", "log2")
            and self.moves(node)
            and self.varies(node)
            for node in walk(expr)
        )

    def _summands(self, expr: Expr) -> list[tuple[int, Expr]]:
        found = []
        for factor, each in summands(expr):
            match each:
                case Apply("log" | "log2" as op, (inner,)) if self.moves(each):
                    opened = self._opened_log(op, inner)
                    same = isinstance(opened, Apply) and opened.op == op
                    found += [(factor, opened)] if same else summands(opened, factor)
                case Apply("*", (Num(value), inner)) if abs(value) != 1 and self._spreads(inner):
                    found += [(s * factor, multiply(Num(value), e)) for s, e in summands(inner)]
                case _:
                    found.append((factor, each))
        return found

    def _spreads(self, expr: Expr) -> bool:
        return self.moves(expr) and self.varies(expr) and len(summands(expr)) > 1

    # --- products and powers --------------------------------------------------------------------

    def _product(self, expr: Apply) -> list[Term]:
        left, right = expr.args
        if expr.op == "*":
            found = [
                Term(_times(a.b, b.b), multiply(a.c, b.c))
                for a in self._factor(left)
                for b in self._factor(right)
            ]
            return self._merged(found)
        lower = self._factor(right)
        if len(lower) != 1:
            raise NotSeparableError(f"'{right}' is a divisor with {len(lower)} independent parts")
        (below,) = lower
        if below.c != ONE:
            self.need(f"{below.c} != 0")
        return [Term(divide(a.b, below.b), _over(a.c, below.c)) for a in self._factor(left)]

    def _factor(self, expr: Expr) -> list[Term]:
        """Return the terms of a factor; a constant stays with the elements."""
        if not self.moves(expr):
            return [Term(expr, ONE)]
        if not self.varies(expr) and not uses(expr, self.deferred):
            earlier = self.before(expr)
            self.need(f"{expr} != 0")
            return [Term(expr, self._ratio(expr, earlier))]
        return self.terms(expr)

    def _ratio(self, now: Expr, earlier: Expr) -> Expr:
        match now, earlier:
            case Apply("exp" | "exp2" as op, (a,)), Apply(_, (b,)):
                return rebuilt(op, (subtract(a, b),))
            case _:
                return divide(now, earlier)

    def _power(self, expr: Apply) -> list[Term]:
        base = expr.args[0]
        exponent = expr.args[1] if expr.op == "**" else Num(_EXPONENTS[expr.op])
        if self.moves(exponent):
            raise NotSeparableError(f"'{expr}' has a moving exponent")
        found = self._factor(base)
        if len(found) == 1:
            (only,) = found
            integral = isinstance(exponent, Num) and isinstance(exponent.value, int)
            if not integral and only.c != ONE:
                self._not_negative(only.c, expr)
                self.need(f"{only.c} > 0")
            return [Term(_same(expr, only.b, exponent), self._raised(only.c, exponent))]
        if not (isinstance(exponent, Num) and isinstance(exponent.value, int)):
            raise NotSeparableError(f"'{expr}' is a broken power of a sum")
        if not 0 < exponent.value <= _MOST_POWER:
            raise NotSeparableError(f"'{expr}' is a high or negative power of a sum")
        return self._merged(_multinomial(found, exponent.value))

    def _raised(self, c: Expr, exponent: Expr) -> Expr:
        match c:
            case Apply("exp" | "exp2" as op, (inner,)):
                return rebuilt(op, (multiply(exponent, inner),))
            case _:
                return power(c, exponent)

    # --- functions ------------------------------------------------------------------------------

    def _exponential(self, expr: Apply) -> list[Term]:
        op, inner = expr.op, expr.args[0]
        inside: Expr = ZERO
        outside: Expr = ZERO
        for term in self.terms(inner):
            if term.b == ONE:
                outside = add(outside, term.c)
            elif self.moves(term.c) or uses(term.c, frozenset(f"{n}'" for n in self.tracked)):
                raise NotSeparableError(
                    f"'{op}({inner})' has a product of an element and a whole value"
                )
            else:
                inside = add(inside, multiply(term.c, term.b))
        return [Term(rebuilt(op, (inside,)), self._exp_of(op, outside))]

    def _exp_of(self, op: str, expr: Expr) -> Expr:
        """Return ``exp(expr)``, with ``exp(-log(d))`` written ``1 / d``."""
        above: Expr = ONE
        rest: Expr = ZERO
        for factor, each in summands(expr):
            match each:
                case Apply("log" | "log2", (inner,)) if (each.op == "log") == (op == "exp"):
                    above = multiply(above, inner) if factor > 0 else divide(above, inner)
                case _:
                    rest = add(rest, each) if factor > 0 else subtract(rest, each)
        return multiply(rebuilt(op, (rest,)), above) if rest != ZERO else above

    def _opened_log(self, op: str, inner: Expr) -> Expr:
        """Return ``log`` of a product as a sum of logarithms, ``log(exp(x))`` as x."""
        match inner:
            case Apply("*", (a, b)) if self._one_not_negative(a, b):
                return add(self._opened_log(op, a), self._opened_log(op, b))
            case Apply("/", (a, b)) if self._one_not_negative(a, b):
                return subtract(self._opened_log(op, a), self._opened_log(op, b))
            case Apply("exp", (a,)) if op == "log":
                return a
            case Apply("exp2", (a,)) if op == "log2":
                return a
            case _:
                return rebuilt(op, (inner,))

    def _logarithm(self, expr: Apply) -> list[Term]:
        op, inner = expr.op, expr.args[0]
        opened = self._opened_log(op, inner)
        if not (isinstance(opened, Apply) and opened.op == op):
            self.need(f"factors of {inner} > 0")
            return self._terms(opened)
        found = self.terms(inner)
        if len(found) != 1:
            raise NotSeparableError(f"'{op}({inner})' is a logarithm of a sum")
        (only,) = found
        self._not_negative(only.c, expr)
        self.need(f"{only.c} > 0")
        return [Term(rebuilt(op, (only.b,)), ONE), Term(ONE, rebuilt(op, (only.c,)))]

    def _one_not_negative(self, *factors: Expr) -> bool:
        return any(sign(each, self.signs).up for each in factors)

    def _not_negative(self, factor: Expr, expr: Apply) -> None:
        """Check the sign of a factor: two negative ones have a product with a logarithm."""
        if not sign(factor, self.signs).up:
            raise NotSeparableError(f"the sign of '{factor}' in '{expr}' is not known")

    def _half(self, expr: Apply) -> list[Term]:
        """``abs`` and ``relu``: of a product, or of what a fact gives a sign."""
        op, inner = expr.op, expr.args[0]
        known = self._by_fact(inner)
        if known:
            if op == "relu":
                return self._terms(inner) if known > 0 else [Term(ONE, ZERO)]
            return self._terms(inner if known > 0 else _flipped(inner))
        found = self.terms(inner)
        if len(found) != 1:
            raise NotSeparableError(f"'{op}({inner})' has a kink that moves")
        (only,) = found
        if sign(only.c, self.signs).up:
            return [Term(rebuilt(op, (only.b,)), only.c)]
        if op == "abs":
            return [Term(rebuilt(op, (only.b,)), rebuilt("abs", (only.c,)))]
        raise NotSeparableError(f"the sign of '{only.c}' in '{op}' is not known")

    def _by_fact(self, inner: Expr) -> int:
        """Return the sign of ``x - u`` or ``u - x`` that a fact gives, else 0."""
        for fact in self.facts:
            bound = Sym(fact.bound)
            for side, expr in ((1, subtract(inner, ZERO)), (-1, _flipped(inner))):
                rest = add(expr, bound)  # x - u + u
                if key(rest) == fact.value and uses(expr, frozenset([fact.bound])):
                    return -side if fact.below else side
        return 0

    def _wave(self, expr: Apply) -> list[Term]:
        op, inner = expr.op, expr.args[0]
        y: Expr = ZERO
        step: Expr = ZERO
        for term in self.terms(inner):
            if term.b == ONE:
                step = add(step, term.c)
            elif term.c == ONE:
                y = add(y, term.b)
            else:
                raise NotSeparableError(f"'{op}({inner})' has a moving frequency")
        sine, cosine = rebuilt("sin", (y,)), rebuilt("cos", (y,))
        up, along = rebuilt("sin", (step,)), rebuilt("cos", (step,))
        if op == "sin":
            return [Term(sine, along), Term(cosine, up)]
        return [Term(cosine, along), Term(sine, negate(up))]

    def _order(self, expr: Apply) -> list[Term]:
        """``max`` and ``min`` of two with a common factor above 0, or a common shift."""
        left, right = expr.args
        a, b = self.terms(left), self.terms(right)
        if len(a) == len(b) == 1 and ZERO in (left, right):
            shared = (b if left == ZERO else a)[0].c
            if sign(shared, self.signs).up:
                pair = (ZERO, b[0].b) if left == ZERO else (a[0].b, ZERO)
                return [Term(Apply(expr.op, pair), shared)]
        if len(a) == len(b) == 1 and key(a[0].c) == key(b[0].c) and sign(a[0].c, self.signs).up:
            return [Term(Apply(expr.op, (a[0].b, b[0].b)), a[0].c)]
        shifts = [[t for t in each if t.b == ONE] for each in (a, b)]
        bodies = [[t for t in each if t.b != ONE] for each in (a, b)]
        plain = all(len(each) == 1 and each[0].c == ONE for each in bodies)
        same = all(len(each) == 1 for each in shifts)
        if plain and same and key(shifts[0][0].c) == key(shifts[1][0].c):
            body = Apply(expr.op, (bodies[0][0].b, bodies[1][0].b))
            return [Term(body, ONE), shifts[0][0]]
        raise NotSeparableError(f"'{expr}' has a kink that moves")

    def _clamp(self, expr: Apply) -> list[Term]:
        inner, low, high = expr.args
        return self._terms(Apply("min", (Apply("max", (inner, low)), high)))

    def _choice(self, expr: Apply) -> list[Term]:
        test, then, otherwise = expr.args
        if self.moves(test) and self.varies(test):
            raise NotSeparableError(f"'{test}' compares an element with a whole value")
        a, b = self.terms(then), self.terms(otherwise)
        if self.moves(test):
            on, off = (Apply("where", (test, *each)) for each in ((ONE, ZERO), (ZERO, ONE)))
            found = [Term(t.b, multiply(t.c, on)) for t in a]
            return self._merged(found + [Term(t.b, multiply(t.c, off)) for t in b])
        if len(a) == len(b) == 1 and key(a[0].c) == key(b[0].c):
            return [Term(Apply("where", (test, a[0].b, b[0].b)), a[0].c)]
        found = [Term(Apply("where", (test, t.b, ZERO)), t.c) for t in a]
        return self._merged(found + [Term(Apply("where", (test, ZERO, t.b)), t.c) for t in b])


_EXPONENTS = {"sq": 2, "sqrt": 0.5, "rsqrt": -0.5}
_RULES: dict[str, Callable[[Separator, Apply], list[Term]]] = {
    **dict.fromkeys(("+", "-", "neg"), Separator._sum),
    **dict.fromkeys(("*", "/"), Separator._product),
    **dict.fromkeys(("sq", "sqrt", "rsqrt", "**"), Separator._power),
    **dict.fromkeys(("exp", "exp2"), Separator._exponential),
    **dict.fromkeys(("log", "log2"), Separator._logarithm),
    **dict.fromkeys(("abs", "relu"), Separator._half),
    **dict.fromkeys(("sin", "cos"), Separator._wave),
    **dict.fromkeys(("max", "min"), Separator._order),
    "clamp": Separator._clamp,
    "where": Separator._choice,
}


def _inverse(c: Expr) -> Expr | None:
    """Return ``1 / c`` of a ratio or an exponential, without a division by it."""
    match c:
        case Apply("/", (above, below)):
            return divide(below, above)
        case Apply("exp" | "exp2" as op, (inner,)):
            return rebuilt(op, (negate(inner),))
        case _:
            return None


def _over(c: Expr, below: Expr) -> Expr:
    inverse = _inverse(below)
    return divide(c, below) if inverse is None else multiply(c, inverse)


def _signed(factor: int, expr: Expr) -> Expr:
    return expr if factor > 0 else negate(expr)


def _flipped(expr: Expr) -> Expr:
    match expr:
        case Apply("-", (left, right)):
            return subtract(right, left)
        case _:
            return negate(expr)


def _total(parts: list[tuple[int, Expr]]) -> Expr:
    total: Expr = ZERO
    for factor, each in sorted(parts, key=lambda pair: -pair[0]):
        total = add(total, each) if factor > 0 else subtract(total, each)
    return total


def _times(left: Expr, right: Expr) -> Expr:
    match right:
        case Apply("/", (above, below)) if above == ONE:
            return divide(left, below)
        case _:
            return multiply(left, right)


def _same(expr: Expr, base: Expr, exponent: Expr) -> Expr:
    """Return the power of another base, spelled as the author spelled it."""
    if isinstance(expr, Apply) and len(expr.args) == 1:
        return rebuilt(expr.op, (base,))
    return rebuilt("**", (base, exponent))


def _multinomial(found: list[Term], exponent: int) -> list[Term]:
    """Return the terms of a power of a sum."""
    first, rest = found[0], found[1:]
    if not rest:
        return [Term(power(first.b, Num(exponent)), power(first.c, Num(exponent)))]
    result = []
    for k in range(exponent, -1, -1):
        b, c = power(first.b, Num(k)), power(first.c, Num(k))
        tails = _multinomial(rest, exponent - k) if exponent - k else [Term(ONE, ONE)]
        for tail in tails:
            factor = multiply(Num(comb(exponent, k)), multiply(c, tail.c))
            result.append(Term(_times(b, tail.b), factor))
    return result

"""Accumulators that can move to another reference: the closure of a separated body.

Before → after: ``sum sq(x - u)`` → ``Q = sum sq(x - u)``, ``S = sum (x - u)``, ``N = sum 1``::

    Q(u) = Q(u') + 2 (u' - u) S(u') + sq(u' - u) N        S(u) = S(u') + (u' - u) N

In general the parts ``b_k(x, u)`` of a body are separated in turn until no new one comes up: then
``B(x, u) = T(u', u) B(x, u')``, and sums follow the same T (linearity). T is a cocycle, so any
order of blocks, and any tree of partial states, gives the same. The identity is checked again at
40 digits on random numbers: a check, not the proof, which is that each rule is an identity.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from penstock.einsum_ir.nodes import Expr, Num, Sym, leaves
from penstock.einsum_ir.rewrite.separate import NotSeparableError, Separator, Term, old
from penstock.einsum_ir.rewrite.signs import Signs
from penstock.einsum_ir.rewrite.terms import ZERO, evaluate, key, replaced

__all__ = ["MOST", "Closed", "close", "identity_holds", "number", "quantities"]

MOST = 8
"""Accumulators of one reduction; more than the fifth moment needs."""

_DIGITS = 40
_NOTHING: Expr = ZERO
_TRIALS = 3


@dataclass(frozen=True, slots=True)
class Closed:
    """A body as moving accumulators.

    Args:
        basis: ``b_k``, at the reference ``u``.
        carry: ``T[j][k]``, of the references ``u'`` (before) and ``u`` (after).
        epilogue: ``e_k``, with the body = ``sum_k b_k(x, u) e_k(u)``.
        obligations: what the identities need.
        moved: the epilogue from another reference, ``c_k(u', u)``.
    """

    basis: tuple[Expr, ...]
    carry: tuple[tuple[Expr, ...], ...]
    epilogue: tuple[Expr, ...]
    obligations: tuple[str, ...]
    moved: tuple[Expr, ...] = ()


def close(body: Expr, separator: Separator) -> Closed:
    """Return the accumulators of a sum.

    Raises:
        NotSeparableError: the body cannot be taken apart, or needs more than `MOST` accumulators.
    """
    first = separator.terms(body)
    basis: dict[object, Expr] = {key(term.b): term.b for term in first}
    rows: dict[object, list[Term]] = {}
    while waiting := [at for at in basis if at not in rows]:
        for at in waiting:
            rows[at] = separator.terms(basis[at])
            basis |= {key(each.b): each.b for each in rows[at] if key(each.b) not in basis}
        if len(basis) > MOST:
            raise NotSeparableError(f"'{body}' needs more than {MOST} accumulators")
    places = list(basis)
    now: dict[Expr, Expr] = {old(name): Sym(name) for name in separator.tracked}
    ends: dict[object, Expr] = {key(term.b): replaced(term.c, now) for term in first}
    needed = _needed({at for at in places if key(ends.get(at, _NOTHING))}, rows)
    places = [at for at in places if at in needed]
    carry = tuple(tuple(_coefficient(rows[at], to) for to in places) for at in places)
    found = Closed(
        tuple(basis[at] for at in places),
        carry,
        tuple(ends.get(at, _NOTHING) for at in places),
        tuple(separator.obligations),
        tuple(_coefficient(first, at) for at in places),
    )
    if not identity_holds(body, found, separator):
        raise NotSeparableError(f"the parts of '{body}' do not add up to it")
    return found


def _needed(start: set[object], rows: dict[object, list[Term]]) -> set[object]:
    """Return what is needed itself or by the carry of what is."""
    found, waiting = set(start), list(start)
    while waiting:
        for term in rows[waiting.pop()]:
            if key(term.b) not in found:
                found.add(key(term.b))
                waiting.append(key(term.b))
    return found


def _coefficient(row: list[Term], to: object) -> Expr:
    return next((term.c for term in row if key(term.b) == to), ZERO)


def identity_holds(body: Expr, found: Closed, separator: Separator) -> bool:
    """Check ``B(u) = T(u', u) B(u')`` and the epilogue on random numbers, at 40 digits."""
    from mpmath import MPContext

    context = MPContext()
    context.dps = _DIGITS + 10
    generator = random.Random(7)
    moved: dict[Expr, Expr] = {Sym(name): old(name) for name in separator.tracked}
    earlier = [replaced(each, moved) for each in found.basis]
    read = quantities(body, *found.basis)
    bounded = {fact.bound for fact in separator.facts}
    checked = 0
    for _ in range(10 * _TRIALS):
        values = {leaf: _drawn(context, generator, leaf, separator, bounded) for leaf in read}
        values |= {
            old(name): _drawn(context, generator, Sym(name), separator, bounded)
            for name in separator.tracked
        }
        try:
            pairs = _both_sides(body, found, earlier, values, context)
        except (ValueError, ZeroDivisionError, TypeError, OverflowError):
            continue  # outside of a domain
        if any(isinstance(each, context.mpc) for pair in pairs for each in pair):
            continue
        tiny = context.mpf(10) ** -_DIGITS
        if any(abs(a - b) > tiny * (1 + abs(a) + abs(b)) for a, b in pairs):
            return False
        checked += 1
        if checked == _TRIALS:
            break
    return checked > 0


def _both_sides(
    body: Expr, found: Closed, earlier: list[Expr], values: dict[Expr, Any], context: Any
) -> list[tuple[Any, Any]]:
    values_now = [evaluate(each, values, context) for each in found.basis]
    before = [evaluate(each, values, context) for each in earlier]
    pairs = []
    for value, row in zip(values_now, found.carry, strict=True):
        coefficients = [evaluate(each, values, context) for each in row]
        pairs.append((value, context.fdot(zip(coefficients, before, strict=True))))
    ends = [evaluate(each, values, context) for each in found.epilogue]
    pairs.append(
        (evaluate(body, values, context), context.fdot(zip(ends, values_now, strict=True)))
    )
    return pairs


def quantities(*exprs: Expr) -> list[Expr]:
    """Return accesses, scalars and coordinates outside of indices, each once, in a fixed order."""
    return sorted({each for each in leaves(*exprs) if not isinstance(each, Num)}, key=str)


def _drawn(
    context: Any, generator: random.Random, leaf: Expr, separator: Separator, bounded: set[str]
) -> Any:
    """Return a random number for a leaf; bounds lie beyond what they bound."""
    if isinstance(leaf, Sym) and leaf.name in bounded:
        below = any(f.below for f in separator.facts if f.bound == leaf.name)
        return context.mpf(generator.uniform(20, 22) * (1 if below else -1))
    return number(context, generator, leaf, separator.signs)


def number(context: Any, generator: random.Random, leaf: Expr, signs: Signs) -> Any:
    """Return a random number of the sign that a leaf has."""
    value = context.mpf(generator.uniform(0.3, 1.7))
    known = signs(leaf)
    if known.up or known.down:
        return value if known.up else -value
    return value if generator.random() < 0.5 else -value

"""Means over a rank as sums: what a chain of reductions is made of.

Before → after: ``A = X :: mean[m]`` → ``A = X / M :: sum[m]``; where points may be absent,
``A_S = X :: sum[m]``, ``A_N = 1 :: sum[m] s.t. C`` and ``A = A_S / A_N``. C says which points are
present: in predicates as far as they say it, so that a mean of what reads another mean (a variance)
does not wait for values to be counted, and for an operand of which they do not, as ``X == X``.

Excluded: means in a ``loop``.
"""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.nodes import (
    Access,
    Apply,
    Einsum,
    Expr,
    Num,
    Reduce,
    Statement,
    Sym,
    Var,
    accesses,
    substitute,
    variables,
)

__all__ = ["without_means"]


def without_means(cascade: Cascade, rank: str) -> Cascade:
    """Write the means over a rank as sums (see the module)."""
    points = _Points(cascade)
    found: list[Statement] = []
    for each in cascade.statements:
        over = each.reduce.over if isinstance(each, Einsum) and each.reduce is not None else ()
        if isinstance(each, Einsum) and each.reduce == Reduce("mean", over) and rank in over:
            found += _sums(each, over, points)
        else:
            found.append(each)
    return replace(cascade, statements=tuple(found))


def _sums(einsum: Einsum, over: tuple[str, ...], points: _Points) -> list[Einsum]:
    decide = [each for each in points.of(einsum) if set(over) & set(variables(each))]
    hidden = [name for name in over if name.upper() in points.hidden]
    decide += [Apply("<=", (Num(0), Var(name))) for name in hidden]
    counted = tuple(name for name in over if name in variables(*decide))
    shapes: list[Expr] = [Sym(name.upper()) for name in over if name not in counted]
    total = replace(einsum, reduce=Reduce("sum", over))
    if not decide:
        return [replace(total, body=reduce(lambda a, b: Apply("/", (a, b)), shapes, einsum.body))]
    sums, count = (replace(einsum.output, tensor=f"{einsum.name}_{end}") for end in "SN")
    times = reduce(lambda a, b: Apply("*", (a, b)), shapes or [Num(1)])
    where = reduce(lambda a, b: Apply("and", (a, b)), decide)
    return [
        replace(total, output=sums),
        Einsum(count, times, Reduce("sum", counted), where),
        Einsum(einsum.output, Apply("/", (sums, count))),
    ]


class _Points:
    """Which points of an Einsum are present, as conditions that all hold there."""

    def __init__(self, cascade: Cascade) -> None:
        self.ranks = {each.tensor: each.ranks for each in cascade.inputs}
        self.hidden = {name for name, _ in cascade.constants}
        stepped = {each.name for each in cascade.einsums if each.init or each.iterative}
        self.made = {each.name: each for each in cascade.einsums if each.name not in stepped}

    def of(self, einsum: Einsum) -> list[Expr]:
        """Return the conditions on a point of an Einsum; none if all points are present."""
        own = [] if einsum.where is None else [einsum.where]
        return list(dict.fromkeys([*own, *self._value(einsum.body)]))

    def _value(self, expr: Expr) -> list[Expr]:
        """Return the conditions under which an expression has a value."""
        match expr:
            case Access():
                return self._access(expr)
            case Apply("fill", (inner, instead)):
                sure = not self._value(inner) or not self._value(instead)
                return [] if sure else [_same(expr)]
            case Apply("where", (test, then, other)):
                sides = self._value(then), self._value(other)
                return [*self._value(test), *sides[0]] if sides[0] == sides[1] else [_same(expr)]
            case Apply("//" | "%", (_, divisor)) if not isinstance(divisor, Num | Sym):
                return [_same(expr)]
            case Apply(_, args):
                return [each for arg in args for each in self._value(arg)]
            case _:
                return []

    def _access(self, access: Access) -> list[Expr]:
        made = self.made.get(access.tensor)
        names = self.ranks.get(access.tensor, ())
        if made is not None and all(isinstance(each, Var) for each in made.output.indices):
            names = variables(made.output)
        known = len(names) == len(access.indices) and not accesses(*access.indices)
        values: dict[str, Expr] = dict(zip(names, access.indices, strict=known))
        beyond = {name.upper() for name, index in values.items() if index != Var(name)}
        if not known or self.hidden & beyond:
            return [_same(access)]
        found = [each for name, index in values.items() for each in _within(index, name)]
        inner = [] if made is None else self.of(made)
        if set(variables(*inner)) - set(names) or (made is not None and made.places):
            return [_same(access)]  # some reduced point is present, or so many: not which
        return found + [substitute(each, values) for each in inner]


def _within(index: Expr, rank: str) -> list[Expr]:
    """Return the conditions under which an index is a coordinate of a rank."""
    if index == Var(rank):
        return []
    above = [] if isinstance(index, Var) else [Apply("<=", (Num(0), index))]
    return [*above, Apply("<", (index, Sym(rank.upper())))]


def _same(expr: Expr) -> Expr:
    return Apply("==", (expr, expr))

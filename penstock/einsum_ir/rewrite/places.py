"""Reductions over offsets from a place, as reductions over all places under a condition.

Before → after, for a window of I keys that is clamped at the borders (NATTEN)::

    S[p, i] = Q[p, e] * K[clamp(p - I // 2, 0, M - I) + i, e]
    A[p, i] = S[p, i] + B[clamp(p - I // 2, 0, M - I) + i - p + I - 1]
    →
    S[p, m] = Q[p, e] * K[m, e]
              s.t. clamp(p - I // 2, 0, M - I) <= m and m < clamp(p - I // 2, 0, M - I) + I
    A[p, m] = S[p, m] + B[m - p + I - 1]

Each place is an offset's (``m = start + i``), and the condition says of which, so that the same
points are there, under other names. Rows then share their keys, and tiles of keys that no row of a
block sees are left out as under any mask: a gather is a worse form on matrix units alone.
Excluded: offsets that are selected, written out, or step an iterative rank.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from penstock.einsum_ir.affine import evaluate_scalar
from penstock.einsum_ir.nodes import (
    Access,
    Apply,
    Einsum,
    Expr,
    Group,
    Num,
    Reduce,
    Sym,
    Var,
    substitute,
    variables,
    walk,
)
from penstock.einsum_ir.ops import SELECTIONS
from penstock.einsum_ir.rewrite.terms import add, subtract, summands
from penstock.einsum_ir.shapes import Bound, bind

__all__ = ["placed"]


@dataclass(frozen=True, slots=True)
class _Window:
    """Offsets of a variable from a start, the places' name, and how many offsets there are.

    ``carries`` are the tensors that are computed for each offset.
    """

    offset: str
    start: Expr
    place: str
    extent: int
    carries: frozenset[str]


def placed(bound: Bound) -> Bound:
    """Return the cascade with places instead of offsets, wherever they may be.

    Args:
        bound: any cascade with its extents.
    """
    for window in _windows(bound):
        if _fits(bound, window):
            return placed(_changed(bound, window))
    return bound


def _windows(bound: Bound) -> list[_Window]:
    given = {each.tensor: each.ranks for each in bound.cascade.inputs}
    found: dict[str, _Window] = {}
    for einsum in bound.cascade.einsums:
        for access in einsum.operands:
            for rank, index in zip(given.get(access.tensor, ()), access.indices, strict=False):
                terms = summands(index)
                own = [each for each in terms if each[0] == 1 and isinstance(each[1], Var)]
                for sign, offset in own:
                    rest = [each for each in terms if each != (sign, offset)]
                    start = _sum(rest)
                    if not variables(start) or not isinstance(offset, Var):
                        continue
                    if any(isinstance(each, Access) for each in walk(start)):
                        continue
                    if bound.extents[offset.name] >= bound.extents.get(rank, 0):
                        continue
                    place = _fresh(bound, rank)
                    extent = bound.extents[offset.name]
                    name = offset.name
                    carries = frozenset(
                        each.name
                        for each in bound.cascade.einsums
                        if Var(name) in each.output.indices
                    )
                    found.setdefault(name, _Window(name, start, place, extent, carries))
    return list(found.values())


def _sum(terms: list[tuple[int, Expr]]) -> Expr:
    found: Expr = Num(0)
    for sign, each in terms:
        found = add(found, each) if sign > 0 else subtract(found, each)
    return found


def _fresh(bound: Bound, rank: str) -> str:
    """Return a variable's name that says which rank it goes over, and that is free."""
    used = {name for each in bound.cascade.einsums for name in each.variables}
    used |= {name.lower() for name, _ in bound.cascade.constants}
    names = (rank, *(f"{rank}{n}" for n in range(2, 100)))
    return next(name for name in names if name not in used)


def _fits(bound: Bound, window: _Window) -> bool:
    """Whether the places can stand for the offsets in every Einsum."""
    grouped = {
        each
        for statement in bound.cascade.statements
        if isinstance(statement, Group)
        for each in statement.einsums
    }
    mine = [each for each in bound.cascade.einsums if window.offset in each.variables]
    outputs = {each.tensor for each in bound.cascade.outputs}
    return (
        not outputs & window.carries
        and not grouped.intersection(mine)
        and _overlap(bound, window)
        and all(_renames(each, bound, window) for each in mine)
    )


def _renames(einsum: Einsum, bound: Bound, window: _Window) -> bool:
    """Whether an Einsum can say the same with places: it knows where they start."""
    offset = Var(window.offset)
    given = {each.tensor for each in bound.cascade.inputs}
    read = [each for each in einsum.operands if each.tensor in given]
    made = [einsum.output, *(each for each in einsum.operands if each.tensor not in given)]
    indices = [index for access in made for index in access.indices]
    reduce = einsum.reduce
    selects = reduce is not None and reduce.op in SELECTIONS and window.offset in reduce.over
    return (
        not einsum.init
        and not selects
        and set(variables(window.start)) <= set(einsum.variables)
        and not any(offset in access.indices for access in read)
        and not any(window.offset in variables(e) and e != offset for e in indices)
    )


def _overlap(bound: Bound, window: _Window) -> bool:
    """Whether the windows of neighbours share places, whichever rank they are neighbours in."""
    names = variables(window.start)
    for name in names:
        others: dict[str, Expr] = {other: Num(0) for other in names if other != name}
        starts = [
            evaluate_scalar(substitute(window.start, {**others, name: Num(at)}), bound.symbols)
            for at in range(bound.extents[name])
        ]
        known = [each for each in starts if each is not None]
        if len(known) < len(starts):
            return False
        if any(abs(b - a) >= window.extent for a, b in itertools.pairwise(known)):
            return False
    return True


def _changed(bound: Bound, window: _Window) -> Bound:
    cascade, name = bound.cascade, window.offset
    statements = tuple(
        _einsum(each, window)
        if isinstance(each, Einsum)
        else replace(each, einsums=tuple(_einsum(inner, window) for inner in each.einsums))
        for each in cascade.statements
    )
    shapes = tuple((rank, n) for rank, n in cascade.shapes if rank != name)
    constants = tuple(
        (key, Num(bound.symbols[key]) if key in bound.symbols else _expr(value, window))
        for key, value in cascade.constants
    )
    changed = replace(cascade, statements=statements, shapes=shapes, constants=constants)
    ranks = {rank for each in changed.inputs for rank in each.ranks}
    ranks |= {each for einsum in changed.einsums for each in einsum.variables}
    kept = {rank: n for rank, n in bound.extents.items() if rank in ranks}
    return bind(changed, shapes=kept)


def _einsum(einsum: Einsum, window: _Window) -> Einsum:
    inside = window.offset in einsum.variables
    where = None if einsum.where is None else _expr(einsum.where, window)
    if inside and not any(e.tensor in window.carries for e in einsum.operands):
        place, size = Var(window.place), Num(window.extent)
        start = _expr(window.start, window)
        low = Apply("<=", (start, place))
        near = Apply("and", (low, Apply("<", (place, add(start, size)))))
        where = near if where is None else Apply("and", (where, near))
    reduce = einsum.reduce
    if reduce is not None and window.offset in reduce.over:
        over = tuple(window.place if n == window.offset else n for n in reduce.over)
        reduce = Reduce(reduce.op, over, reduce.into)
    output, body = _expr(einsum.output, window), _expr(einsum.body, window)
    assert isinstance(output, Access)
    return replace(einsum, output=output, body=body, reduce=reduce, where=where)


def _expr(expr: Expr, window: _Window) -> Expr:
    """Return an expression with ``place - start`` for the offset, and its extent as a number."""
    match expr:
        case Access(tensor, indices):
            own = tensor in window.carries
            offset, place = Var(window.offset), Var(window.place)
            changed = (place if own and each == offset else _expr(each, window) for each in indices)
            return replace(expr, indices=tuple(changed))
        case Sym(name) if name == window.offset.upper():
            return Num(window.extent)
        case Apply("+" | "-") if (1, Var(window.offset)) in summands(expr):
            return _placed_sum(summands(expr), window)
        case Apply(_, args):
            return replace(expr, args=tuple(_expr(each, window) for each in args))
        case Var(name) if name == window.offset:
            return subtract(Var(window.place), _expr(window.start, window))
        case _:
            return expr


def _placed_sum(terms: list[tuple[int, Expr]], window: _Window) -> Expr:
    terms.remove((1, Var(window.offset)))
    left = list(terms)
    start = summands(window.start)
    if all(each in left for each in start):
        for each in start:
            left.remove(each)
        start = []
    changed = [(sign, _expr(each, window)) for sign, each in left]
    changed += [(-sign, _expr(each, window)) for sign, each in start]
    return _sum([(1, Var(window.place)), *changed])

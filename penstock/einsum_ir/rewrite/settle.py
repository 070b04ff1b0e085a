"""Running values that begin at their identity, where that changes nothing.

Before → after, for the streaming softmax under a mask (see the zero rule of `emit.py`)::

    GM_R[p, m1 + 1] = max(fill(GM_R[p, m1], -inf), GM_T[p, m1])
    SD_R[p, m1 + 1] = fill(fill(SD_T[p, m1], 0) + SD_P[p, m1], SD_T[p, m1])
    O[p, f]         = O_R[p, f, M1] / SD_R[p, M1]
    →
    init GM_R[p, 0] = -inf
    init SD_R[p, 0] = 0
    GM_R[p, m1 + 1] = max(GM_R[p, m1], GM_T[p, m1])
    SD_R[p, m1 + 1] = SD_T[p, m1] + SD_P[p, m1]

An accumulator over no point yet is absent before, and holds the identity after; a step whose tile
has no point is absent in both and carries the value over. So which elements are there no longer
depends on what came before: generated code keeps no masks for them, and can skip a tile. Where the
mask leaves a final value absent, its readers say so with the condition on the coordinates.

It changes nothing if all running values of a loop are absent at the same steps, their correction
is ``exp`` of how far a maximum moved (or the larger of it and what stands still, as a sink, that
begins at the latter), and nothing else reads them where they were absent. If that
is not certain, the cascade stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from penstock.einsum_ir.nodes import (
    Access,
    Apply,
    Einsum,
    Expr,
    Group,
    Num,
    Reduce,
    Statement,
    Var,
    next_variable,
    substitute,
    variables,
)
from penstock.einsum_ir.regions.conditions import Condition, expression
from penstock.einsum_ir.regions.presence import PresenceAnalysis
from penstock.einsum_ir.shapes import Bound, bind

__all__ = ["settled"]

IDENTITIES = {"max": -math.inf, "min": math.inf, "+": 0.0}


@dataclass(frozen=True, slots=True)
class _State:
    """A running value: what it begins with, its step, the tile it adds, and its correction."""

    begin: float
    step: Einsum
    tile: Access
    carried: Access | None


@dataclass(frozen=True, slots=True)
class _Follower:
    """The larger (smaller) of a running maximum and what does not run: it begins at the latter."""

    step: Einsum
    state: str
    begin: Access


def settled(bound: Bound) -> Bound:
    """Return the cascade with running values that begin at their identity, or unchanged.

    Args:
        bound: any cascade with its extents.
    """
    statements: list[Statement] = []
    limits: dict[str, tuple[tuple[str, ...], Expr]] = {}
    for each in bound.cascade.statements:
        if not isinstance(each, Group):
            statements.append(_limited(each, limits))
            continue
        made = _group(each, bound)
        if made is None:
            return bound
        inits, group, absent = made
        statements += [*inits, group]
        limits |= absent
    cascade = replace(bound.cascade, statements=tuple(statements))
    return bound if cascade == bound.cascade else bind(cascade, shapes=bound.extents)


Limits = dict[str, tuple[tuple[str, ...], Expr]]
"""Tensor → (its variables, the condition under which its last value is there)."""


def _group(group: Group, bound: Bound) -> tuple[list[Einsum], Group, Limits] | None:
    """Return the beginnings, the loop, and which last values are absent; None if uncertain."""
    begun = {each.name for each in bound.cascade.einsums if each.init}
    stepped = [each for each in group.einsums if each.iterative and each.name not in begun]
    if not stepped:
        return [], group, {}
    found = [_state(each) for each in stepped]
    states = {each.step.name: each for each in found if each is not None}
    rest = [_follower(each, group, states) for each in stepped if each.name not in states]
    followers = {each.step.name: each for each in rest if each is not None}
    if len(followers) < len(rest) or not _corrected(group, states, followers):
        return None
    inits = [_beginning(each.step, Num(each.begin), group.variable) for each in states.values()]
    inits += [_beginning(each.step, each.begin, group.variable) for each in followers.values()]
    einsums = tuple(
        states[e.name].step if e.name in states and not e.init else e for e in group.einsums
    )
    new = replace(group, einsums=einsums)
    swapped = tuple(new if each == group else each for each in bound.cascade.statements)
    place = swapped.index(new)
    trial = (*swapped[:place], *inits, *swapped[place:])
    analysis = PresenceAnalysis(
        bind(replace(bound.cascade, statements=trial), shapes=bound.extents)
    )
    if not _alike(group, states, followers, analysis):
        return None
    limits: Limits = {}
    for name, state in states.items():
        last = _last(state, group.variable, analysis)
        if not last.exact:
            return None
        condition = expression(last)
        if condition is not None:
            kept = tuple(variables(*state.tile.indices))
            limits[name] = tuple(n for n in kept if n != group.variable), condition
    for each in followers.values():
        if each.state in limits:
            limits[each.step.name] = limits[each.state]
    return inits, new, limits


def _state(einsum: Einsum) -> _State | None:
    """Read the step of a running value, in one of the two forms that `emit` writes."""
    match einsum.body:
        case Apply("max" | "min" as op, (Apply("fill", (Access() as old, Num(value))), tile)):
            if isinstance(tile, Access) and value == IDENTITIES[op] and _is_old(old, einsum):
                step = replace(einsum, body=Apply(op, (old, tile)))
                return _State(value, step, tile, None)
        case Apply(
            "fill",
            (Apply("+", (Apply("fill", (Access() as tile, Num(0))), Access() as carried)), again),
        ) if again == tile:
            step = replace(einsum, body=Apply("+", (tile, carried)))
            return _State(0.0, step, tile, carried)
        case _:
            pass
    return None


def _follower(einsum: Einsum, group: Group, states: dict[str, _State]) -> _Follower | None:
    """Read a step as that of what follows a state."""
    if einsum.reduce or einsum.where:
        return None
    match einsum.body:
        case Apply("max" | "min" as op, (Access() as one, Access() as other)):
            new, fixed = (one, other) if one.tensor in states else (other, one)
            state = states.get(new.tensor)
            inside = {each.name for each in group.einsums}
            if state is None or fixed.tensor in inside or group.variable in variables(fixed):
                return None
            joins = isinstance(state.step.body, Apply) and state.step.body.op == op
            same = new.indices == state.step.output.indices == einsum.output.indices
            return _Follower(einsum, new.tensor, fixed) if joins and same else None
        case _:
            return None


def _is_old(access: Access, step: Einsum) -> bool:
    """Whether an access reads the element that a step replaces."""
    own = tuple(
        Var(variables(index)[0]) if next_variable(index) else index for index in step.output.indices
    )
    return access.tensor == step.name and access.indices == own


def _beginning(step: Einsum, begin: Expr, variable: str) -> Einsum:
    indices = tuple(
        Num(0) if next_variable(index) == variable else index for index in step.output.indices
    )
    return Einsum(replace(step.output, indices=indices), begin, init=True)


def _corrected(group: Group, states: dict[str, _State], followers: dict[str, _Follower]) -> bool:
    """Whether each carried value is the old one times ``exp`` of how far an extremum moved."""
    makers = {each.name: each for each in group.einsums}
    factors: set[str] = set()
    for state in states.values():
        if state.carried is None:
            continue
        product = makers.get(state.carried.tensor)
        if product is None or product.reduce or product.where:
            return False
        match product.body:
            case Apply("*", (Access() as old, Access() as factor)) if _is_old(old, state.step):
                factors.add(factor.tensor)
            case _:
                return False
    for name in factors:
        made = makers.get(name)
        if made is None or made.reduce or made.where or not _moves(made.body, states, followers):
            return False
    chain = factors | {each.carried.tensor for each in states.values() if each.carried}
    return all(
        each.name in chain or each.name in states
        for each in group.einsums
        if {access.tensor for access in each.operands} & chain
    )


def _moves(body: Expr, states: dict[str, _State], followers: dict[str, _Follower]) -> bool:
    """Whether an expression is 1 if a state stays, and at most 1 when it moves."""
    match body:
        case Apply("exp" | "exp2", (Apply("-", (Access() as left, Access() as right)),)):
            follower = followers.get(left.tensor)
            state = states.get(follower.state if follower else left.tensor)
            if state is None or right.tensor != left.tensor or not math.isinf(state.begin):
                return False
            step = follower.step if follower else state.step
            old, new = (left, right) if state.begin < 0 else (right, left)
            return _is_old(old, step) and new.indices == step.output.indices
        case _:
            return False


def _alike(
    group: Group,
    states: dict[str, _State],
    followers: dict[str, _Follower],
    analysis: PresenceAnalysis,
) -> bool:
    """Whether all states stay at the same steps, and are read only where they have moved."""
    makers = {each.name: each for each in group.einsums}
    tiles = [makers.get(each.tile.tensor) for each in states.values()]
    steps = [analysis.output(each.step) for each in states.values()]
    if any(each is None for each in tiles) or not all(each.exact for each in steps):
        return False
    if len({str(expression(each)) for each in steps}) != 1:
        return False
    points = {str(expression(analysis.point(each))) for each in tiles if each is not None}
    return all(
        analysis.point(each).exact and str(expression(analysis.point(each))) in points
        for each in _readers(group, states, followers)
    )


def _readers(
    group: Group, states: dict[str, _State], followers: dict[str, _Follower]
) -> Iterator[Einsum]:
    """Yield what reads states beside the states, what follows them, and their corrections."""
    chain = {each.carried.tensor for each in states.values() if each.carried}
    makers = {each.name: each for each in group.einsums}
    for name in tuple(chain):
        chain |= {a.tensor for a in makers[name].operands if a.tensor in makers}
    known = states.keys() | followers.keys()
    for each in group.einsums:
        read = {access.tensor for access in each.operands} & known
        if read and each.name not in known and each.name not in chain:
            yield each


def _last(state: _State, variable: str, analysis: PresenceAnalysis) -> Condition:
    """Return where any tile of a state has a point."""
    kept = tuple(Var(n) for n in variables(*state.tile.indices) if n != variable)
    over = Reduce("max", (variable,))
    return analysis.output(Einsum(Access("any tile", kept), state.tile, over))


def _limited(einsum: Einsum, limits: Limits) -> Einsum:
    """Add to an Einsum behind the loop where the last values that it reads are there."""
    where = einsum.where
    for access in einsum.operands:
        if access.tensor in limits:
            names, condition = limits[access.tensor]
            made = _condition(access, names, condition)
            where = made if where is None or where == made else Apply("and", (where, made))
    return einsum if where == einsum.where else replace(einsum, where=where)


def _condition(access: Access, names: tuple[str, ...], condition: Expr) -> Expr:
    plain = [index for index in access.indices if variables(index)]
    return substitute(condition, dict(zip(names, plain, strict=True)))

"""The reduction of one Einsum over a box of its iteration space.

`partial` evaluates the body over a box and folds away the reduced variables. Sums of products
are contractions (`contraction.py`) of the factors with zeros where points are absent; anything
else is evaluated point by point and folded. Where a box would need temporaries of more than
`LIMIT` elements, a reduced variable is halved and the parts are merged.

IEEE special values are kept: a contraction whose result is not finite is done again point by
point, unless it was a plain matrix product (an absent 0 may have met an inf, or a factor was
taken out of a sum).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from penstock.einsum_ir.interpreter.arithmetic import Number, integer_number, real
from penstock.einsum_ir.interpreter.contraction import contract, order
from penstock.einsum_ir.interpreter.evaluate import FLOAT64, Range, Scope, both, reads
from penstock.einsum_ir.interpreter.rounding import Array
from penstock.einsum_ir.nodes import Access, Apply, Einsum, Expr, Num, variables
from penstock.einsum_ir.ops import REDUCTIONS

__all__ = ["LIMIT", "Partial", "Plan", "merge", "partial", "plan", "split"]

LIMIT = 1 << 21
"""Elements of the largest temporary; an Einsum holds a handful of such at a time."""

Box = Mapping[str, Range]


@dataclass(frozen=True, slots=True)
class Partial:
    """A reduction over part of the points: reduced axes have size 1.

    Args:
        number: the fold so far; arbitrary where nothing is present.
        present: where a point was present (None: everywhere).
        count: how many points were present, for ``mean`` only.
    """

    number: Number
    present: Array | None
    count: Array | None = None


@dataclass(frozen=True)
class Plan:
    """What is known of an Einsum before its data.

    Args:
        einsum: the equation.
        kept: variables of the left side, in order.
        reduced: the others.
        factors: of the body, for a sum of products; else empty.
        divisors: by which a float sum may be divided once, at its end.
    """

    einsum: Einsum
    kept: tuple[str, ...]
    reduced: tuple[str, ...]
    factors: tuple[Expr, ...]
    divisors: tuple[Expr, ...]

    @property
    def op(self) -> str:
        """The reduction, ``""`` for none."""
        return self.einsum.reduce.op if self.einsum.reduce else ""

    def largest(self, box: Box) -> frozenset[str]:
        """Return the variables of the largest temporary over a box."""
        extents = {name: stop - start for name, (start, stop) in box.items()}
        sets = [frozenset(self.kept)]
        if self.factors:
            factors = [reads(each) for each in self.factors]
            if self.einsum.where is not None:
                sets.append(reads(self.einsum.where))
            sets += factors + order(factors, frozenset(self.reduced), extents)[1]
        else:
            sets.append(frozenset(box))
        return max(sets, key=lambda names: math.prod(extents[name] for name in names))


def plan(einsum: Einsum, *, exact: bool) -> Plan:
    """Return the plan of an Einsum; `exact` arithmetic divides where the user wrote it."""
    kept = variables(einsum.output)
    reduced = einsum.reduce.over if einsum.reduce else ()
    if einsum.reduce is None or einsum.reduce.op not in ("sum", "mean"):
        return Plan(einsum, kept, reduced, (), ())
    body, divisors = einsum.body, []
    while not exact and isinstance(body, Apply) and body.op == "/":
        if reads(body.args[1]) & set(reduced):
            break
        divisors.append(body.args[1])
        body = body.args[0]
    return Plan(einsum, kept, reduced, tuple(_factors(body)), tuple(divisors))


def _factors(expr: Expr) -> list[Expr]:
    match expr:
        case Apply("*", (left, right)):
            return _factors(left) + _factors(right)
        case Apply("neg", (inner,)):
            return [Num(-1), *_factors(inner)]
        case _:
            return [expr]


def split(box: Box, names: tuple[str, ...], largest: frozenset[str]) -> list[Box] | None:
    """Halve the first of the names that can be, and makes the largest temporary smaller."""
    for name in names:
        start, stop = box[name]
        if name in largest and stop - start > 1:
            middle = (start + stop) // 2
            return [{**box, name: (start, middle)}, {**box, name: (middle, stop)}]
    return None


def _points(box: Box, names: frozenset[str]) -> int:
    return math.prod(box[name][1] - box[name][0] for name in names)


def too_large(plan: Plan, box: Box) -> frozenset[str] | None:
    """Return the variables of the largest temporary if it exceeds the limit."""
    largest = plan.largest(box)
    return largest if _points(box, largest) > LIMIT else None


def partial(plan: Plan, scope: Callable[[Box], Scope], box: Box) -> Partial:
    """Evaluate an Einsum over a box and fold the reduced variables of that box.

    Args:
        plan: of the Einsum.
        scope: makes the scope of a box.
        box: variable → (start, stop) for every variable, none empty.
    """
    largest = too_large(plan, box)
    halves = split(box, plan.reduced, largest) if largest else None
    if halves is not None:
        first, second = (partial(plan, scope, half) for half in halves)
        return merge(plan, scope(box), first, second)
    if not plan.factors:
        return _pointwise(plan, scope, box)
    return _sum_of_products(plan, scope(box)) or _pointwise(plan, scope, box)


def merge(plan: Plan, scope: Scope, a: Partial, b: Partial) -> Partial:
    """Return the fold of two folds over different points."""
    arithmetic = scope.arithmetic
    number = arithmetic.apply(REDUCTIONS[plan.op].fold, [a.number, b.number])
    if a.present is not None:
        only_b = arithmetic.select(a.present, a.number, b.number)
        first = number if b.present is None else arithmetic.select(b.present, number, only_b)
        number = arithmetic.select(a.present, first, only_b)
    elif b.present is not None:
        number = arithmetic.select(b.present, number, a.number)
    present = None
    if a.present is not None and b.present is not None:
        present = np.asarray(a.present | b.present)
    if a.count is None or b.count is None:
        return Partial(number, present)
    return Partial(number, present, np.asarray(a.count + b.count))


# --- point by point ---------------------------------------------------------------------------


def _pointwise(plan: Plan, scope: Callable[[Box], Scope], box: Box) -> Partial:
    """Evaluate the body at every point, in parts where the box is too large, and fold."""
    if _points(box, frozenset(box)) > LIMIT:
        halves = split(box, (*plan.kept, *plan.reduced), frozenset(box))
        if halves is not None:
            parts = [_pointwise(plan, scope, half) for half in halves]
            name = next(each for each in box if halves[0][each] != box[each])
            if name in plan.reduced:
                return merge(plan, scope(box), *parts)
            numbers = scope(box).arithmetic.aligned([each.number for each in parts])
            parts = [replace(part, number=n) for part, n in zip(parts, numbers, strict=True)]
            return _joined(parts, halves, list(box).index(name), plan)
    return _folded(plan, scope(box))


def _joined(parts: list[Partial], boxes: list[Box], axis: int, plan: Plan) -> Partial:
    """Put the parts of a box, halved along a kept axis, side by side."""

    def join(arrays: list[Array]) -> Array:
        shapes = [_kept_shape(plan, box) for box in boxes]
        return np.concatenate(
            [np.broadcast_to(*pair) for pair in zip(arrays, shapes, strict=True)], axis=axis
        )

    number = replace(
        parts[0].number,
        data=join([each.number.data for each in parts]),
        bits=max(each.number.bits for each in parts),
    )
    masks = [each.present for each in parts]
    present = None
    if any(mask is not None for mask in masks):
        present = join([np.asarray(True) if mask is None else mask for mask in masks])
    counts = [each.count for each in parts if each.count is not None]
    return Partial(number, present, join(counts) if counts else None)


def _kept_shape(plan: Plan, box: Box) -> tuple[int, ...]:
    return tuple(stop - start if name in plan.kept else 1 for name, (start, stop) in box.items())


def _folded(plan: Plan, scope: Scope) -> Partial:
    value = scope.value(plan.einsum.body)
    number, present = scope.number(value), _ranked(value.present, scope)
    if plan.einsum.where is not None:
        present = both(present, scope.predicate(plan.einsum.where))
    if not plan.op:
        return Partial(number, present)
    axes = tuple(place for place, name in enumerate(scope.box) if name in plan.reduced)
    number = replace(number, data=_stretched(number.data, axes, scope))
    arithmetic = scope.arithmetic
    if present is not None:
        present = _stretched(present, axes, scope)
        number = arithmetic.select(present, number, arithmetic.neutral(plan.op, number))
    total = arithmetic.fold(REDUCTIONS[plan.op].fold, number, axes)
    return Partial(total, *_presence(plan, scope, present, axes))


def _ranked(mask: Array | None, scope: Scope) -> Array | None:
    """Give a mask one axis for each variable."""
    if mask is None or mask.ndim == len(scope.box):
        return mask
    return mask.reshape((1,) * len(scope.box))


def _stretched(array: Array, axes: tuple[int, ...], scope: Scope) -> Array:
    """Give an array the full length along the axes (without a copy)."""
    full = [stop - start for start, stop in scope.box.values()]
    shape = [full[axis] if axis in axes else size for axis, size in enumerate(array.shape)]
    return np.broadcast_to(array, shape)


def _presence(
    plan: Plan, scope: Scope, present: Array | None, axes: tuple[int, ...]
) -> tuple[Array | None, Array | None]:
    """Return where any point is present, and for ``mean`` how many are."""
    if plan.op != "mean":
        met = None if present is None else np.asarray(present.any(axis=axes, keepdims=True))
        return met, None
    points = _points(scope.box, frozenset(plan.reduced))
    if present is None:
        return None, np.full((1,) * len(scope.box), points, dtype=np.int64)
    count = _stretched(present, axes, scope).sum(axis=axes, keepdims=True, dtype=np.int64)
    return count > 0, count


# --- sums of products -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Product:
    """Operands of a contraction: zero where points are absent, and the masks that say where."""

    operands: list[Number]
    masks: list[Array]
    kept: Array | None


def _sum_of_products(plan: Plan, scope: Scope) -> Partial | None:
    """Return the contraction, or None where it would not give what IEEE says."""
    axes = tuple(place for place, name in enumerate(scope.box) if name in plan.reduced)
    product = _operands(plan, scope, axes)
    arithmetic = scope.arithmetic
    total = contract(arithmetic, product.operands, frozenset(axes))
    if not _finite(total) and _rearranged(product, axes):
        return None
    repeats = _repeats(scope, axes, product.operands)
    if repeats > 1:
        factor = real(arithmetic, integer_number(np.full((1,) * len(scope.box), repeats)))
        total = arithmetic.apply("*", [total, factor])
    present, count = _mask_presence(plan, scope, product.masks, axes)
    present = both(present, product.kept)
    for divisor in plan.divisors:
        value = scope.value(divisor)
        number = scope.number(value)
        if not _finite(number) or not np.all(number.data):
            return None
        total = arithmetic.apply("/", [total, number])
        present = both(present, _ranked(value.present, scope))
    if count is not None and present is not None:
        count = np.where(present, count, 0)
    return Partial(total, present, count)


def _operands(plan: Plan, scope: Scope, axes: tuple[int, ...]) -> _Product:
    operands: list[Number] = []
    masks: list[Array] = []
    kept: Array | None = None
    for factor in plan.factors:
        value = scope.value(factor)
        number, present = scope.number(value), _ranked(value.present, scope)
        if present is not None and any(present.shape[axis] > 1 for axis in axes):
            masks.append(present)
            if not isinstance(factor, Access):  # `load` gives 0 at absent points
                number = _zeroed(scope, number, present)
        else:
            kept = both(kept, present)
        operands.append(number)
    if plan.einsum.where is not None:
        holds = scope.predicate(plan.einsum.where)
        if any(holds.shape[axis] > 1 for axis in axes):
            masks.append(holds)
            operands = _masked(scope, operands, holds)
        else:
            kept = both(kept, holds)
    return _Product(operands, masks, kept)


def _zeroed(scope: Scope, number: Number, present: Array) -> Number:
    arithmetic = scope.arithmetic
    return arithmetic.select(present, number, arithmetic.neutral("sum", number))


def _masked(scope: Scope, operands: list[Number], mask: Array) -> list[Number]:
    """Put zeros where the mask is false into an operand with its axes, or add it as one."""
    for place, operand in enumerate(operands):
        if all(a == b or b == 1 for a, b in zip(operand.data.shape, mask.shape, strict=True)):
            zeroed = _zeroed(scope, operand, mask)
            return [*operands[:place], zeroed, *operands[place + 1 :]]
    return [*operands, real(scope.arithmetic, integer_number(mask))]


def _rearranged(product: _Product, axes: tuple[int, ...]) -> bool:
    """Whether the contraction does more than multiply at each point and then add."""
    operands = product.operands
    plain = not product.masks and len(operands) <= 2
    return len(operands) > 1 and not (
        plain and all(each.data.shape[axis] > 1 for each in operands for axis in axes)
    )


def _finite(number: Number) -> bool:
    return number.data.dtype.kind != "f" or bool(np.isfinite(number.data).all())


def _repeats(scope: Scope, axes: tuple[int, ...], operands: list[Number]) -> int:
    """Return how many points fall on each product: reduced variables that no operand has."""
    lengths = [stop - start for start, stop in scope.box.values()]
    free = [axis for axis in axes if all(each.data.shape[axis] == 1 for each in operands)]
    return math.prod(lengths[axis] for axis in free)


def _mask_presence(
    plan: Plan, scope: Scope, masks: list[Array], axes: tuple[int, ...]
) -> tuple[Array | None, Array | None]:
    """Return where any product is present, and for ``mean`` how many are."""
    if not masks:
        return _presence(plan, scope, None, axes)
    if len(masks) == 1 or plan.op == "mean":
        met = masks[0]
        for mask in masks[1:]:
            met = np.asarray(met & mask)
        return _presence(plan, scope, met, axes)
    unique = list({id(mask): mask for mask in masks}.values())
    counts = [Number(mask.astype(np.float32)) for mask in unique]
    found = contract(FLOAT64, counts, frozenset(axes))
    return np.asarray(found.data > 0), None

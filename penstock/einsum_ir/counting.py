"""How many points of a space satisfy a condition, exactly.

Where the condition is made of inequalities, one variable is counted in closed form. Otherwise a
box that interval arithmetic decides is counted at once, the others are halved, and small ones
are enumerated. So the cost goes with the border of the region, not with its volume. Excluded:
conditions that read tensors.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.einsum_ir.arithmetic import Number, integer_number, truth
from penstock.einsum_ir.bounds import box_status
from penstock.einsum_ir.conditions import Case, Condition, Literal, condition, renamed, solved
from penstock.einsum_ir.evaluate import FLOAT64, Scope, Value, both, whole
from penstock.einsum_ir.linear import Form, to_expr
from penstock.einsum_ir.nodes import Access, Apply, Expr, Num, Var, variables, walk

__all__ = [
    "components",
    "conjuncts",
    "count_true",
    "extremes",
    "holds_at",
    "values_at",
    "values_of",
]

LEAF = 1024
"""Points of a box below which it is enumerated."""

CHUNK = 1 << 20
"""Points that are enumerated at a time."""

BRUTE = 1 << 27
"""Points over which a count along one variable is summed."""

PERIOD = 64
"""Residues of a variable that meets ``//`` or ``%`` that are counted one by one."""

UNION = 4
"""Alternatives that are counted by inclusion and exclusion."""


@dataclass(frozen=True)
class _Points(Scope):
    """A scope in which each variable's coordinates are given, point by point."""

    coordinates: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    tables: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def _coordinates(self, name: str) -> NDArray[np.int64]:
        return self.coordinates[name]

    def _load(self, access: Access) -> Value:
        table, present = self.tables[access.tensor], None
        places = []
        for index, extent in zip(access.indices, table.shape, strict=True):
            place, valid = whole(self.value(index), extent)
            places.append(place)
            present = both(present, valid)
        data = np.asarray(table[tuple(places)])
        if data.dtype.kind == "f":
            return Value(Number(data.astype(np.float64)), present)
        return Value(integer_number(data.astype(np.int64)), present)


def holds_at(
    pred: Expr,
    coordinates: Mapping[str, NDArray[np.int64]],
    symbols: Mapping[str, float],
    tables: Mapping[str, NDArray[Any]] | None = None,
) -> NDArray[np.bool_]:
    """Evaluate a condition.

    Args:
        pred: over rank variables.
        coordinates: variable → coordinates; the arrays broadcast together.
        symbols: upper-case name → value.
        tables: tensor → its elements, of those that the condition reads.

    Returns:
        Whether it holds, in the shape that the coordinates broadcast to.
    """
    tables = {} if tables is None else tables
    scope = _Points({}, FLOAT64, symbols, {}, exact=True, coordinates=coordinates, tables=tables)
    value = scope.value(pred)
    holds = truth(value.number)
    if value.present is not None:
        holds = holds & value.present
    shape = np.broadcast_shapes(*(np.shape(each) for each in coordinates.values()))
    return np.broadcast_to(np.asarray(holds, dtype=np.bool_), shape)


def values_of(
    expr: Expr,
    coordinates: Mapping[str, NDArray[np.int64]],
    tables: Mapping[str, NDArray[Any]],
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Return the values of an expression, and where they are present (None: everywhere)."""
    scope = _Points({}, FLOAT64, {}, {}, exact=True, coordinates=coordinates, tables=tables)
    value = scope.value(expr)
    return value.number.data, value.present


def conjuncts(pred: Expr) -> Iterator[Expr]:
    """Yield the conditions of which a condition is the conjunction."""
    match pred:
        case Apply("and", (left, right)):
            yield from conjuncts(left)
            yield from conjuncts(right)
        case _:
            yield pred


def components(pred: Expr) -> list[tuple[tuple[str, ...], Expr]]:
    """Split a condition into factors that share no variables.

    Returns:
        (variables, condition) of each factor.
    """
    found: list[tuple[tuple[str, ...], Expr]] = []
    for each in conjuncts(pred):
        names: tuple[str, ...] = variables(each)
        apart = [other for other in found if not set(other[0]) & set(names)]
        joined = each
        for other_names, other in found:
            if set(other_names) & set(names):
                joined = Apply("and", (other, joined))
                names = tuple(dict.fromkeys((*other_names, *names)))
        found = [*apart, (names, joined)]
    return found


def count_true(pred: Expr | None, extents: Mapping[str, int], symbols: Mapping[str, float]) -> int:
    """Count the points of a space at which a condition holds.

    Args:
        pred: a condition that reads no tensor; None always holds.
        extents: variable → number of coordinates; the space. The condition has no others.
        symbols: upper-case name → value.

    Cost: with the number of points over all but one of the variables that the condition
    mentions; for what has no normal form, with the points near the border of the region.
    """
    if pred is None:
        return math.prod(extents.values())
    total, mentioned = 1, set[str]()
    for names, factor in components(pred):
        mentioned |= set(names)
        total *= _count(factor, {name: extents[name] for name in names}, symbols)
    return total * math.prod(n for name, n in extents.items() if name not in mentioned)


def _count(pred: Expr, extents: Mapping[str, int], symbols: Mapping[str, float]) -> int:
    if not extents:
        return int(holds_at(pred, {}, symbols)[()])
    found = condition(pred, symbols)
    if found.exact and len(found.cases) <= UNION:
        parts = [
            None if count is None else count * (-1) ** (size + 1)
            for size in range(1, len(found.cases) + 1)
            for some in itertools.combinations(found.cases, size)
            for count in [_count_case(tuple(itertools.chain(*some)), extents)]
        ]
        known = [part for part in parts if part is not None]
        if len(known) == len(parts):
            return sum(known)
    return _count_boxes(pred, extents, symbols)


# --- inequalities -------------------------------------------------------------------------------


def _count_case(case: Case, extents: Mapping[str, int]) -> int | None:
    """Count the points that satisfy all inequalities, along one variable in closed form."""
    for name in sorted(extents, key=lambda each: -extents[each]):
        period = _period(case, name)
        if period > PERIOD:
            continue
        parts = [
            _count_residue(case, name, period, rest, extents)
            for rest in range(min(period, extents[name]))
        ]
        known = [part for part in parts if part is not None]
        if len(known) == len(parts):
            return sum(known)
    return None


def _period(case: Case, name: str) -> int:
    """Return the least common multiple of the divisors that a variable meets."""
    divisors = [1]
    for literal in case:
        for node in walk(literal.expr):
            match node:
                case Apply("//" | "%", (value, Num(divisor))) if name in variables(value):
                    divisors.append(max(1, int(divisor)))
                case _:
                    pass
    return math.lcm(*divisors)


def _count_residue(
    case: Case, name: str, period: int, rest: int, extents: Mapping[str, int]
) -> int | None:
    """Count the points with ``name = period * q + rest``, in closed form along q."""
    inner = {**extents, name: -(-(extents[name] - rest) // period)}
    if period > 1:
        step = Apply("+", (Apply("*", (Num(period), Var(name))), Num(rest)))
        moved = renamed(Condition((case,)), {name: step}, {})
        if len(moved.cases) != 1:
            return 0 if moved.exact and not moved.cases else None
        case = moved.cases[0]
    bounds, others = [], []
    for literal in case:
        if name not in literal.variables:
            others.append(literal)
            continue
        found = solved(literal, name)
        if found is None:
            return None
        bounds.append(found)
    mentioned = {each for literal in case for each in literal.variables} - {name}
    space = {each: n for each, n in inner.items() if each in mentioned}
    if math.prod(space.values()) > BRUTE:
        return None
    free = math.prod(n for each, n in inner.items() if each not in space and each != name)
    return free * _count_along(bounds, others, inner[name], space)


def _count_along(
    bounds: list[tuple[int, Form]], others: list[Literal], steps: int, space: Mapping[str, int]
) -> int:
    """Sum, over a space, the number of q in ``0 .. steps - 1`` within linear bounds."""
    total = 0
    for box in _boxes(tuple(space), space, CHUNK):
        coordinates = _grid(tuple(space), box)
        shape = np.broadcast_shapes(*(each.shape for each in coordinates.values()))
        low = np.zeros(shape, dtype=np.int64)
        high = np.full(shape, steps - 1, dtype=np.int64)
        for factor, rest in bounds:  # factor * q + rest <= 0
            value = values_at(to_expr(rest), coordinates)
            if factor > 0:
                high = np.minimum(high, (-value) // factor)
            elif factor < 0:
                low = np.maximum(low, -((-value) // -factor))
            else:
                high = np.where(value <= 0, high, -1)
        for literal in others:
            high = np.where(holds_at(literal.expr, coordinates, {}), high, -1)
        total += int(np.maximum(high - low + 1, 0).sum())
    return total


def values_at(expr: Expr, coordinates: Mapping[str, NDArray[np.int64]]) -> NDArray[np.int64]:
    """Evaluate an integer expression that is present everywhere (see `holds_at`)."""
    scope = _Points({}, FLOAT64, {}, {}, exact=True, coordinates=coordinates)
    return np.asarray(scope.value(expr).number.data, dtype=np.int64)


def _grid(
    names: tuple[str, ...], box: Mapping[str, tuple[int, int]]
) -> dict[str, NDArray[np.int64]]:
    """Return the coordinates of a box's variables, one axis for each."""
    return {
        name: np.arange(*box[name]).reshape([-1 if each == name else 1 for each in names])
        for name in names
    }


# --- boxes --------------------------------------------------------------------------------------


Boxes = dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]


def _count_boxes(pred: Expr, extents: Mapping[str, int], symbols: Mapping[str, float]) -> int:
    start = {name: (np.zeros(1, np.int64), np.array([n - 1])) for name, n in extents.items()}
    waiting: list[Boxes] = [start]
    total = 0
    while waiting:
        boxes = waiting.pop()
        low = {name: ends[0] for name, ends in boxes.items()}
        high = {name: ends[1] for name, ends in boxes.items()}
        status = box_status(pred, low, high, symbols)
        volume = _volume(boxes)
        total += int(volume[status == 1].sum())
        small = (status == 0) & (volume <= LEAF)
        total += _enumerated(pred, _taken(boxes, small), symbols)
        large = _taken(boxes, (status == 0) & (volume > LEAF))
        waiting += [_taken(half, part) for half in _halved(large) for part in _parts(half)]
    return total


def _volume(boxes: Boxes) -> NDArray[np.int64]:
    volume: NDArray[np.int64] = np.array(1)
    for low, high in boxes.values():
        volume = volume * (high - low + 1)
    return volume


def _taken(boxes: Boxes, which: Any) -> Boxes:
    return {name: (low[which], high[which]) for name, (low, high) in boxes.items()}


def _parts(boxes: Boxes) -> list[slice]:
    """Return slices that cut many boxes into lists of at most CHUNK / 16."""
    number, step = len(next(iter(boxes.values()))[0]), CHUNK // 16
    return [slice(first, first + step) for first in range(0, number, step)]


def _halved(boxes: Boxes) -> list[Boxes]:
    """Cut each box in two along its longest side."""
    lengths = np.stack([high - low for low, high in boxes.values()])
    longest = lengths.argmax(axis=0)
    first, second = {}, {}
    for place, (name, (low, high)) in enumerate(boxes.items()):
        middle = (low + high) // 2
        cut = longest == place
        first[name] = (low, np.where(cut, middle, high))
        second[name] = (np.where(cut, middle + 1, low), high)
    return [first, second]


def _enumerated(pred: Expr, boxes: Boxes, symbols: Mapping[str, float]) -> int:
    """Count points one by one; the boxes have at most LEAF points each."""
    number = len(next(iter(boxes.values()))[0])
    step = CHUNK // LEAF
    return sum(
        _points_of(pred, _taken(boxes, slice(first, first + step)), symbols)
        for first in range(0, number, step)
    )


def _points_of(pred: Expr, boxes: Boxes, symbols: Mapping[str, float]) -> int:
    rank = len(boxes)
    coordinates: dict[str, NDArray[np.int64]] = {}
    inside: NDArray[np.bool_] = np.array(True)
    for place, (name, (low, high)) in enumerate(boxes.items()):
        shape = [1] * (rank + 1)
        shape[place + 1] = -1
        along = np.arange(int((high - low).max()) + 1).reshape(shape)
        ends = [end.reshape(-1, *[1] * rank) for end in (low, high)]
        coordinates[name] = ends[0] + along
        inside = inside & (coordinates[name] <= ends[1])
    return int((holds_at(pred, coordinates, symbols) & inside).sum())


def extremes(
    pred: Expr,
    kept: tuple[str, ...],
    reduced: tuple[str, ...],
    extents: Mapping[str, int],
    symbols: Mapping[str, float],
) -> tuple[bool, bool]:
    """Find out by enumeration whether a condition is met for every, and for any, kept point.

    Args:
        pred: a condition over the kept and the reduced variables.
        kept: variables of which each point is asked for.
        reduced: variables of which some coordinates are to meet it.
        extents: variable → number of coordinates.
        symbols: upper-case name → value.

    Returns:
        (whether at every kept point some reduced point meets it, whether at any).
    """
    inner_boxes = list(_boxes(reduced, extents, CHUNK))
    width = max(math.prod(high - low for low, high in box.values()) for box in inner_boxes)
    names = (*kept, *reduced)
    every, some = True, False
    for box in _boxes(kept, extents, max(1, CHUNK // width)):
        found: NDArray[np.bool_] = np.array(False)
        for inner in inner_boxes:
            held = holds_at(pred, _grid(names, {**box, **inner}), symbols)
            found = found | held.any(axis=tuple(range(len(kept), len(names))))
        every, some = every and bool(found.all()), some or bool(found.any())
    return every, some


def _boxes(
    names: tuple[str, ...], extents: Mapping[str, int], limit: int
) -> Iterator[dict[str, tuple[int, int]]]:
    """Yield boxes of at most `limit` points that cover the space of the variables."""
    size, cuts = 1, []
    for name in reversed(names):
        step = max(1, min(extents[name], limit // size))
        size *= step
        cuts.append([(a, min(a + step, extents[name])) for a in range(0, extents[name], step)])
    for parts in itertools.product(*reversed(cuts)):
        yield dict(zip(names, parts, strict=True))

"""Which block of a tensor some accesses touch while the variables run over what is left of them.

A `Region` is what a buffer holds: for each dimension the coordinate of its first element (an
expression of the loop variables) and how many there are. Excluded: buffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.codegen.lower.index import (
    Lin,
    Ranges,
    add,
    constant,
    floor_divide,
    maximum,
    minimum,
    modulo,
    multiply,
    range_of,
    scale,
    subtract,
)
from penstock.codegen.lower.tree import Env
from penstock.einsum_ir.nodes import Access, Apply, Expr, Num, Sym, Var
from penstock.einsum_ir.shapes import Bound

__all__ = ["Region", "Span", "contains", "region_of", "span_of", "whole_region"]


@dataclass(frozen=True, slots=True)
class Span:
    """Coordinates ``low .. low + width - 1``; an index stays inside."""

    low: Lin
    width: int


@dataclass(frozen=True, slots=True)
class Region:
    """A block: the first coordinate and the number of coordinates of each dimension."""

    starts: tuple[Lin, ...]
    shape: tuple[int, ...]


def whole_region(dims: Sequence[int]) -> Region:
    """Return all of a tensor."""
    return Region(tuple(constant(0) for _ in dims), tuple(dims))


def span_of(expr: Expr, env: Env, bound: Bound, ranges: Ranges) -> Span | None:
    """Return where an index lies while the variables run; None if nothing is known."""
    match expr:
        case Num(value):
            return Span(constant(int(value)), 1)
        case Sym(name):
            value = bound.symbols[name]
            return Span(constant(int(value)), 1) if float(value).is_integer() else None
        case Var(name):
            return Span(env[name].start, env[name].size)
        case Apply(op, args):
            spans = [span_of(arg, env, bound, ranges) for arg in args]
            known = [span for span in spans if span is not None]
            return _apply(op, known, ranges) if len(known) == len(spans) else None
        case Access():
            return None


def _apply(op: str, args: list[Span], ranges: Ranges) -> Span | None:
    match op, args:
        case "+", [a, b]:
            return Span(add(a.low, b.low), a.width + b.width - 1)
        case "-", [a, b]:
            low = subtract(a.low, add(b.low, constant(b.width - 1)))
            return Span(low, a.width + b.width - 1)
        case "neg", [a]:
            return Span(scale(add(a.low, constant(a.width - 1)), -1), a.width)
        case "*", [a, b]:
            return _product(a, b)
        case (("max" | "min"), [a, b]):
            choose = maximum if op == "max" else minimum
            low = choose(a.low, b.low, ranges)
            return Span(low, max(a.width, b.width))
        case "clamp", [x, low, high]:
            inner = _apply("max", [x, low], ranges)
            return _apply("min", [inner, high], ranges) if inner is not None else None
        case (("//" | "%"), [a, b]) if b.width == 1 and b.low.fixed and b.low.constant > 0:
            return _divided(op, a, b.low.constant, ranges)
        case _:
            return None


def _product(a: Span, b: Span) -> Span | None:
    if a.width == b.width == 1:
        return Span(multiply(a.low, b.low), 1)
    if a.width == 1 and a.low.fixed:
        a, b = b, a
    if b.width > 1 or not b.low.fixed:
        return None
    factor = b.low.constant
    last = add(a.low, constant(a.width - 1))
    return Span(scale(a.low if factor >= 0 else last, factor), abs(factor) * (a.width - 1) + 1)


def _divided(op: str, a: Span, divisor: int, ranges: Ranges) -> Span:
    if op == "//":
        low = floor_divide(a.low, constant(divisor), ranges)
        rest = range_of(modulo(a.low, constant(divisor), ranges), ranges)
        return Span(low, int(min(rest[1], divisor - 1) + a.width - 1) // divisor + 1)
    rest_low = modulo(a.low, constant(divisor), ranges)
    if range_of(rest_low, ranges)[1] + a.width - 1 < divisor:
        return Span(rest_low, a.width)
    return Span(constant(0), divisor)


def region_of(
    uses: Sequence[tuple[Access, Env]], dims: Sequence[int], bound: Bound, ranges: Ranges
) -> Region:
    """Return the block that holds every in-range element of all accesses.

    Args:
        uses: accesses of one tensor, one at least, each with what is left of its variables.
        dims: extents of the tensor.
        bound: for the symbols.
        ranges: of the loop variables.
    """
    starts: list[Lin] = []
    shape: list[int] = []
    for place, dim in enumerate(dims):
        spans = [span_of(access.indices[place], env, bound, ranges) for access, env in uses]
        start, width = _hull(spans, dim)
        starts.append(start)
        shape.append(width)
    return Region(tuple(starts), tuple(shape))


def _hull(spans: Sequence[Span | None], dim: int) -> tuple[Lin, int]:
    first = spans[0]
    if first is None:
        return constant(0), dim
    low = high = 0
    for span in spans:
        if span is None:
            return constant(0), dim
        offset = subtract(span.low, first.low)
        if not offset.fixed:
            return constant(0), dim
        low = min(low, offset.constant)
        high = max(high, offset.constant + span.width)
    if high - low >= dim:
        return constant(0), dim
    return add(first.low, constant(low)), high - low


def contains(
    outer: Region, inner: Region, dims: Sequence[int], ranges: Ranges, skip: int | None
) -> bool:
    """Whether one block provably holds the in-range part of another.

    Args:
        outer: the block that holds.
        inner: the block that is held.
        dims: extents of the tensor; what lies beyond them does not count.
        ranges: of the loop variables.
        skip: a dimension that does not count either, or None.
    """
    for place, (start, size) in enumerate(zip(outer.starts, outer.shape, strict=True)):
        if place == skip or (start == constant(0) and size >= dims[place]):
            continue
        low, high = range_of(subtract(inner.starts[place], start), ranges)
        if low < 0 or high + inner.shape[place] > size:
            return False
    return True

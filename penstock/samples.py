"""Random inputs for checking: large logits that fp32 still represents exactly, whole coordinates.

Values are multiples of 1/16 in [-8, 8]. A dot product of two such vectors is then a multiple of
1/256 that fp32 holds exactly up to 2**16, so that logits of several hundred (where a wrong
running maximum overflows) compare without the noise of a different summation order.

An input that indices read (a page table) holds coordinates of what it chooses; one that predicates
compare with coordinates (a length, a position) holds coordinates of those; one that is compared
with itself (numbers of documents) a few numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from penstock.einsum_ir.formats import Format, parse_format
from penstock.einsum_ir.interpreter.evaluate import coordinate_inputs
from penstock.einsum_ir.nodes import Access, Apply, Expr, Num, Sym, Var, accesses, walk
from penstock.einsum_ir.ops import OPERATORS
from penstock.einsum_ir.shapes import Bound

__all__ = ["random_inputs"]

STEPS = 128  # multiples of 1/16 up to 8
DOCUMENTS = 3
"""Different numbers in an input that is only compared with itself."""


def random_inputs(bound: Bound, fmt: Format, seed: int = 0) -> dict[str, NDArray[np.float64]]:
    """Return an array for each input of the cascade.

    Args:
        bound: the cascade with its extents.
        fmt: decides the dtype: float64 for fp64 and fixed formats, else float32 (values are
            exact in fp16 and bf16 too).
        seed: of the generator; the same seed gives the same arrays.

    Returns:
        Tensor → array of shape ``bound.dims[tensor]``.
    """
    generator = np.random.default_rng(seed)
    dtype = np.float64 if fmt.name == "fp64" or fmt.kind == "fixed" else np.float32
    whole = _coordinates(bound)

    def draw(tensor: str) -> NDArray[np.float64]:
        shape = bound.dims[tensor]
        if tensor in whole:
            return generator.integers(0, whole[tensor] + 1, shape).astype(dtype)
        return (generator.integers(-STEPS, STEPS + 1, shape) / 16.0).astype(dtype)

    return {each.tensor: draw(each.tensor) for each in bound.cascade.inputs}


def _coordinates(bound: Bound) -> dict[str, int]:
    """Return input that holds coordinates → the largest of them."""
    found: dict[str, list[int]] = {}
    compared: dict[str, list[int]] = {}
    inputs = {each.tensor for each in bound.cascade.inputs}
    counts = {name for name, fmt in bound.cascade.formats if parse_format(fmt).kind == "int"}
    candidates = coordinate_inputs(bound.cascade) | (counts & inputs)
    for einsum in bound.cascade.einsums:
        for access in einsum.operands:
            for index, extent in zip(access.indices, bound.dims[access.tensor], strict=True):
                for own in accesses(index):
                    if own.tensor in candidates:
                        limit = _largest(index, own.tensor, extent, bound)
                        if limit is not None:
                            found.setdefault(own.tensor, []).append(limit)
        if einsum.where is not None:
            for tensor, limit in _compared(einsum.where, candidates, bound):
                compared.setdefault(tensor, []).append(limit)
    limits = {tensor: max(each) for tensor, each in compared.items()}
    return limits | {tensor: min(each) for tensor, each in found.items()}


def _largest(index: Expr, tensor: str, extent: int, bound: Bound) -> int | None:
    """Return the largest value of a tensor with which an index stays below an extent, if any."""
    least = _range(index, tensor, 0, bound)
    if least is not None and least[1] >= extent:
        return None
    low, high = 0, max(extent, *bound.extents.values())
    while low < high:
        middle = (low + high + 1) // 2
        ends = _range(index, tensor, middle, bound)
        fits = ends[1] < extent if ends is not None else middle < extent
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def _compared(
    predicate: Expr, candidates: frozenset[str], bound: Bound
) -> Iterator[tuple[str, int]]:
    """Yield inputs that a predicate compares with coordinates or each other, and a limit."""
    for node in walk(predicate):
        if not isinstance(node, Apply) or OPERATORS[node.op].kind != "comparison":
            continue
        outer = [each for each in _outer(node) if isinstance(each, Access | Var)]
        tensors = [each.tensor for each in outer if isinstance(each, Access)]
        sides = [_range(each, "", 0, bound) for each in node.args]
        ends = [int(each[1]) + 1 for each in sides if each and isfinite(each[1])]
        if candidates.issuperset(tensors) and len(outer) > 1:
            for tensor in tensors:
                yield tensor, max(ends, default=DOCUMENTS - 1)


def _outer(expr: Expr) -> list[Expr]:
    """Return the nodes of an expression, without what stands in indices."""
    match expr:
        case Apply(_, args):
            return [node for arg in args for node in _outer(arg)]
        case _:
            return [expr]


Interval = tuple[float, float] | None


def _range(expr: Expr, tensor: str, value: int, bound: Bound) -> Interval:
    """Return the least and the largest value of an index with a tensor in 0 .. value."""
    match expr:
        case Num(number):
            return float(number), float(number)
        case Var(name):
            return 0.0, bound.extents[name] - 1.0
        case Sym(name):
            known: Mapping[str, float] = bound.symbols
            return (known[name], known[name]) if name in known else None
        case Access():
            return (0.0, float(value)) if expr.tensor == tensor else None
        case Apply(op, args):
            inner = [_range(arg, tensor, value, bound) for arg in args]
            ends = [each for each in inner if each is not None]
            return _applied(op, ends) if len(ends) == len(inner) else None


def _applied(op: str, args: list[tuple[float, float]]) -> Interval:
    match op, args:
        case "+", [(a, b), (c, d)]:
            return a + c, b + d
        case "-", [(a, b), (c, d)]:
            return a - d, b - c
        case "*", [(a, b), (c, d)]:
            ends = (a * c, a * d, b * c, b * d)
            return min(ends), max(ends)
        case "//", [(a, b), (c, d)] if c == d > 0:
            return a // c, b // c
        case "%", [_, (c, d)] if c == d > 0:
            return 0.0, c - 1
        case "min", [(a, b), (c, d)]:
            return min(a, c), min(b, d)
        case "max", [(a, b), (c, d)]:
            return max(a, c), max(b, d)
        case "clamp", [(a, b), (c, _), (_, f)]:
            return max(a, c), min(b, f)
        case _:
            return None

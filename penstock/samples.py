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
from math import inf, isfinite

import numpy as np
from numpy.typing import NDArray

from penstock.einsum_ir.formats import Format, parse_format
from penstock.einsum_ir.interpreter.evaluate import compared_inputs, coordinate_inputs
from penstock.einsum_ir.intervals import UNKNOWN, Interval, bounds_of
from penstock.einsum_ir.nodes import Access, Apply, Expr, Num, Sym, Var, accesses
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
    if extent <= _range(index, tensor, 0, bound)[1] < inf:
        return None
    low, high = 0, max(extent, *bound.extents.values())
    while low < high:
        middle = (low + high + 1) // 2
        most = _range(index, tensor, middle, bound)[1]
        fits = (most if most < inf else middle) < extent
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def _compared(
    predicate: Expr, candidates: frozenset[str], bound: Bound
) -> Iterator[tuple[str, int]]:
    """Yield inputs that a predicate compares with coordinates or each other, and a limit."""
    for node, tensors in compared_inputs(predicate, candidates):
        ends = [_range(each, "", 0, bound)[1] for each in node.args]
        limit = max((int(each) + 1 for each in ends if isfinite(each)), default=DOCUMENTS - 1)
        for tensor in tensors:
            yield tensor, limit


def _range(expr: Expr, tensor: str, value: int, bound: Bound) -> Interval:
    """Return the least and the greatest value of an index with a tensor in 0 .. value."""
    match expr:
        case Num(number):
            return float(number), float(number)
        case Var(name):
            return 0.0, bound.extents[name] - 1.0
        case Sym(name):
            known: Mapping[str, float] = bound.symbols
            return (known[name], known[name]) if name in known else UNKNOWN
        case Access():
            return (0.0, float(value)) if expr.tensor == tensor else UNKNOWN
        case Apply(op, args):
            return bounds_of(op, [_range(arg, tensor, value, bound) for arg in args])

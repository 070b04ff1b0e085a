"""Sums of products of arrays, by pairs, as stacked matrix products (BLAS).

Operands share one list of axes (the iteration space of an Einsum); an operand has size 1 along an
axis that it does not depend on. `order` decides from extents alone which pair to multiply next,
so that the same decision bounds the temporaries and does the work.

Excluded on purpose: presence and masks (`interp.py` puts zeros where points are absent).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from penstock.einsum_ir.interpreter.arithmetic import Arithmetic, Number

__all__ = ["contract", "order"]

Name = TypeVar("Name", int, str)
Axes = frozenset[Name]


def order(
    operands: Sequence[Axes[Name]], dropped: Axes[Name], extents: Mapping[Name, int]
) -> tuple[list[tuple[int, int]], list[Axes[Name]]]:
    """Choose which pair to multiply next, the cheapest first, until one operand is left.

    Args:
        operands: the axes of each operand.
        dropped: the axes that are summed.
        extents: axis → extent.

    Returns:
        Pairs of positions, each in the list of operands of its time (from which the two are
        removed, and to whose end the product is added), and the axes of each product.
    """
    work = list(operands)
    pairs: list[tuple[int, int]] = []
    products: list[Axes[Name]] = []
    while len(work) > 1:
        candidates = [(i, j) for j in range(len(work)) for i in range(j)]
        pair = min(
            candidates, key=lambda ij: math.prod(extents[n] for n in work[ij[0]] | work[ij[1]])
        )
        product = (work[pair[0]] | work[pair[1]]) - _last_use(work, pair, dropped)
        work = [each for place, each in enumerate(work) if place not in pair] + [product]
        pairs.append(pair)
        products.append(product)
    return pairs, products


def _last_use(work: Sequence[Axes[Name]], pair: tuple[int, int], dropped: Axes[Name]) -> Axes[Name]:
    """Return the summed axes that no operand but the pair has."""
    rest = [each for place, each in enumerate(work) if place not in pair]
    return dropped.difference(*rest)


def contract(arithmetic: Arithmetic, operands: Sequence[Number], dropped: Axes[int]) -> Number:
    """Return the sum over the axes `dropped`, which stay with size 1, of the product.

    Args:
        arithmetic: of the operands.
        operands: one or more, all with the same number of axes.
        dropped: positions of the axes; no operand may have size 1 where another has more and
            none may lack an axis that all lack (multiply by its extent instead).
    """
    work = [(each, _axes(each)) for each in operands]
    sizes = [dict(enumerate(each.data.shape)) for each in operands]
    extents = {axis: max(size[axis] for size in sizes) for axis in sizes[0]}
    pairs, _ = order([axes for _, axes in work], dropped, extents)
    for pair in pairs:
        (left, left_axes), (right, right_axes) = (work[place] for place in pair)
        last = _last_use([axes for _, axes in work], pair, dropped)
        product = _multiply(arithmetic, left, right, last)
        axes = (left_axes | right_axes) - last
        work = [each for place, each in enumerate(work) if place not in pair] + [(product, axes)]
    return _sum(arithmetic, work[0][0], dropped)


def _axes(number: Number) -> Axes[int]:
    return frozenset(axis for axis, size in enumerate(number.data.shape) if size > 1)


def _sum(arithmetic: Arithmetic, number: Number, axes: Axes[int]) -> Number:
    present = tuple(axis for axis in sorted(axes) if number.data.shape[axis] > 1)
    return arithmetic.fold("+", number, present) if present else number


def _multiply(arithmetic: Arithmetic, left: Number, right: Number, dropped: Axes[int]) -> Number:
    """Return the product of two operands, summed over `dropped`."""
    both = _axes(left) & _axes(right)
    left = _sum(arithmetic, left, dropped - both)
    right = _sum(arithmetic, right, dropped - both)
    shared = sorted(both & dropped)
    if not shared:
        return arithmetic.apply("*", [left, right])
    stack = sorted(both - dropped)
    rows, columns = sorted(_axes(left) - both), sorted(_axes(right) - both)
    product = arithmetic.matmul(
        _matrices(left, stack, rows, shared), _matrices(right, stack, shared, columns)
    )
    return _spread(product, left, right, [*stack, *rows, *columns])


def _matrices(number: Number, stack: list[int], rows: list[int], columns: list[int]) -> Number:
    """Return the operand as a stack of matrices."""
    data = number.data
    rest = [axis for axis in range(data.ndim) if axis not in (*stack, *rows, *columns)]
    moved = data.transpose(*stack, *rows, *columns, *rest)
    shape = [data.shape[axis] for axis in stack]
    height = math.prod(data.shape[axis] for axis in rows)
    width = math.prod(data.shape[axis] for axis in columns)
    return replace(number, data=moved.reshape(*shape, height, width))


def _spread(product: Number, left: Number, right: Number, axes: list[int]) -> Number:
    """Put the axes of a product back into their places."""
    sizes = np.maximum(left.data.shape, right.data.shape)
    data = product.data.reshape([int(sizes[axis]) for axis in axes])
    data = data.transpose(*np.argsort(axes)) if axes else data
    full = [int(size) if axis in axes else 1 for axis, size in enumerate(sizes)]
    return replace(product, data=data.reshape(full))

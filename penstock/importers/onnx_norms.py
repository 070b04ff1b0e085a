"""ONNX softmax and normalisations as Einsums; letters stand for the dimensions of the input.

::

    Softmax             Y[i, j] = softmax(X[i, j]; j)
    LogSoftmax          Y[i, j] = X[i, j] - G[i] - log(D[i])         G: maximum, D: sum of exp
    ReduceLogSumExp     Y[i]    = log(D[i]) + fill(G[i], 0)          G: largest finite element
    LayerNormalization  Y[i, j] = (X[i, j] - ME[i]) * IN[i] * SCALE[j] + B[j]
    RMSNormalization    Y[i, j] = X[i, j] / RM[i] * SCALE[j]

ReduceLogSumExp takes the finite elements for the maximum, so that infinities give what the formula
means; over nothing at all it is -inf. A dimension of 0 coordinates is one whose point is absent.
``stash_type`` is the type of the outputs Mean and InvStdDev; where it is given (not left to its
default, fp32), the mean and the deviation are rounded to it before they are used, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from operator import and_

from penstock.einsum_ir.frontend.terms import (
    Rank,
    RightSide,
    Term,
    absolute,
    exp,
    fill,
    log,
    log_softmax,
    reduce_max,
    reduce_mean,
    reduce_sum,
    softmax,
    sq,
    sqrt,
    such_that,
)
from penstock.importers.onnx_build import Importing, Source
from penstock.importers.onnx_graph import FORMATS, Edge, Node

__all__ = [
    "layer_normalization",
    "log_softmax_node",
    "reduce_log_sum_exp",
    "rms_normalization",
    "softmax_node",
]

_LETTERS = "ijkluvwqrst"


def _operand(node: Node, to: Importing) -> Edge:
    """Return the first input, which holds real numbers.

    Raises:
        ModelError: it does not, or it has more dimensions than there are letters.
    """
    edge = to.real(node.required(0, "X"), node)
    if len(edge.dims) > len(_LETTERS):
        raise node.wrong(
            f"has an input '{edge.name}' of {len(edge.dims)} dimensions",
            f"reshape it to at most {len(_LETTERS)}",
        )
    return edge


def _whole(node: Node, to: Importing) -> tuple[Source, tuple[Rank, ...]]:
    """Return the first input, at a rank for each of its dimensions."""
    edge = _operand(node, to)
    at = to.ranks(_LETTERS[: len(edge.dims)], edge.dims)
    return to.read(edge.name, node, at), at


def _softmax_axes(node: Node, at: Sequence[Rank]) -> tuple[Rank, ...]:
    """Return the ranks of a softmax: one since opset 13, before all from the axis on."""
    node.check_attributes({"axis"})
    if node.version >= 13:
        return (at[node.axis("axis", -1, len(at))],)
    return tuple(at[node.axis("axis", 1, len(at)) :])


def softmax_node(node: Node, to: Importing) -> None:
    """Add the Einsums of a ``Softmax`` node.

    Raises:
        ModelError: an attribute or a dimension that ONNX does not allow.
    """
    _normalise(node, to, softmax)


def log_softmax_node(node: Node, to: Importing) -> None:
    """Add the Einsums of a ``LogSoftmax`` node.

    Raises:
        ModelError: an attribute or a dimension that ONNX does not allow.
    """
    _normalise(node, to, log_softmax)


def _normalise(node: Node, to: Importing, word: Callable[..., RightSide]) -> None:
    source, at = _whole(node, to)
    right = word(source.at(*at), *_softmax_axes(node, at))
    to.define(node.result, at, source.edge.element, right)


# --- ReduceLogSumExp ----------------------------------------------------------------------------


def reduce_log_sum_exp(node: Node, to: Importing) -> None:
    """Add the Einsums of a ``ReduceLogSumExp`` node.

    Raises:
        ModelError: an attribute or a dimension that ONNX does not allow, or axes that come as an
            input of unknown value.
    """
    edge = _operand(node, to)
    axes = _reduced(node, to, len(edge.dims))
    dims = [dim or int(place in axes) for place, dim in enumerate(edge.dims)]
    at = to.ranks(_LETTERS[: len(dims)], dims)
    x = to.read(edge.name, node, at).at(*at)
    if not axes:
        to.define(node.result, at, edge.element, x)
        return
    over = tuple(at[place] for place in axes)
    kept = tuple(rank for place, rank in enumerate(at) if place not in axes)
    missing = [at[place] for place in axes if not edge.dims[place]]
    finite = reduce(and_, [absolute(x) < math.inf, *(rank < 0 for rank in missing)])
    largest = to.between("G", kept, such_that(reduce_max(x, *over), finite))
    shift = fill(largest[kept], 0)
    total = reduce_sum(exp(x - shift), *over)
    if missing:
        total = such_that(total, reduce(and_, [rank < 0 for rank in missing]))
    result = log(to.between("D", kept, total)[kept])
    shown = _reduced_ranks(node, to, at, axes)
    to.define(
        node.result,
        shown,
        edge.element,
        (fill(result, -math.inf) if missing else result) + shift,
    )


def _reduced_ranks(
    node: Node, to: Importing, at: Sequence[Rank], axes: Sequence[int]
) -> tuple[Rank, ...]:
    """Return the ranks of the result: those that are kept, and ones of extent 1 if asked for."""
    if not node.choice("keepdims", 1, (0, 1)):
        return tuple(rank for place, rank in enumerate(at) if place not in axes)
    return _with_ones(to, at, axes)


def _with_ones(to: Importing, at: Sequence[Rank], axes: Sequence[int]) -> tuple[Rank, ...]:
    return tuple(
        to.rank("o", 1, shared=False) if place in axes else rank for place, rank in enumerate(at)
    )


def _reduced(node: Node, to: Importing, dims: int) -> tuple[int, ...]:
    """Return the axes to reduce: an attribute before opset 18, then an input."""
    if node.version < 18:
        node.check_attributes({"axes", "keepdims"})
        axes = tuple(node.attributes.get("axes", ()))
    else:
        node.check_attributes({"keepdims", "noop_with_empty_axes"})
        axes = to.value(node.inputs[1], node) if node.input(1) else ()
    if axes:
        return tuple(sorted({node.place(each, "axes", dims) for each in axes}))
    noop = node.version >= 18 and node.flag("noop_with_empty_axes")
    return () if noop else tuple(range(dims))


# --- normalisations -----------------------------------------------------------------------------


def layer_normalization(node: Node, to: Importing) -> None:
    """Add the Einsums of a ``LayerNormalization`` node.

    Raises:
        ModelError: an attribute or a dimension that ONNX does not allow.
    """
    source, at = _whole(node, to)
    axis, rounding, epsilon = _normalised(node, to, len(at))
    x, kept, over = source.at(*at), at[:axis], at[axis:]
    mean = to.between("ME", kept, reduce_mean(x, *over), rounding)
    variance = to.between("VA", kept, reduce_mean(sq(x - mean[kept]), *over))
    inverse = to.between("IN", kept, 1 / sqrt(variance[kept] + epsilon), rounding)
    scale = to.broadcast(node.required(1, "Scale"), node, at)
    result = (x - mean[kept]) * inverse[kept] * scale
    if node.input(2):
        result = result + to.broadcast(node.input(2), node, at)
    to.define(node.result, at, source.edge.element, result)
    ones = _with_ones(to, at, range(axis, len(at)))
    for place, tensor in ((1, mean), (2, inverse)):
        if node.output(place):
            element = node.choice("stash_type", 1, FORMATS)
            to.define(node.output(place), ones, element, tensor[kept])


def rms_normalization(node: Node, to: Importing) -> None:
    """Add the Einsums of an ``RMSNormalization`` node.

    Raises:
        ModelError: an attribute or a dimension that ONNX does not allow.
    """
    source, at = _whole(node, to)
    axis, rounding, epsilon = _normalised(node, to, len(at))
    x, kept, over = source.at(*at), at[:axis], at[axis:]
    square = to.between("MS", kept, reduce_mean(sq(x), *over))
    root = to.between("RM", kept, sqrt(square[kept] + epsilon), rounding)
    scale = to.broadcast(node.required(1, "scale"), node, at)
    to.define(node.result, at, source.edge.element, x / root[kept] * scale)


def _normalised(node: Node, to: Importing, dims: int) -> tuple[int, str, Term]:
    """Return the first axis that is normalised, the format that is asked for, and epsilon."""
    node.check_attributes({"axis", "epsilon", "stash_type"})
    stash = FORMATS[node.choice("stash_type", 1, FORMATS)]
    epsilon = node.number("epsilon")
    return (
        node.axis("axis", -1, dims),
        stash if "stash_type" in node.attributes else "",
        to.constant("EPS", 1e-5 if epsilon is None else epsilon),
    )

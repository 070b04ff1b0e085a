"""ONNX ``RotaryEmbedding`` (opset 23) as one Einsum of three pieces.

::

    Y[b, h, p, e] = COS[b, p, e] * X[b, h, p, e] - SIN[b, p, e] * X[b, h, p, e + D]      s.t. e < D
    Y[b, h, p, e] = SIN[b, p, e-D] * X[b, h, p, e-D] + COS[b, p, e-D] * X[b, h, p, e]   s.t. e < 2*D
    Y[b, h, p, e] = X[b, h, p, e]

D is half of what is rotated. Interleaved, the partner of an even e is e + 1, and both use column
e // 2. With ``position_ids``, the tables are read at ``POS[b, p]``; a position they do not have
gives an absent element, that is 0. In a 3-D input, e is the channel modulo the head size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from penstock.einsum_ir.frontend.terms import Operand, Rank, Term
from penstock.importers.onnx_build import Importing, Source
from penstock.importers.onnx_graph import Node

__all__ = ["rotary_embedding"]


@dataclass(frozen=True, slots=True)
class _Input:
    """The input.

    Args:
        source: the tensor.
        at: its ranks; the last holds the channels of one head, or of all of them one by one.
        b: batch.
        p: position in the sequence.
        channel: within a head.
        size: number of channels of a head.
    """

    source: Source
    at: tuple[Rank, ...]
    b: Rank
    p: Rank
    channel: Term
    size: int

    def element(self, channel: Operand) -> Term:
        """Return the element at a channel, counted as the last rank does."""
        return self.source.at(*self.at[:-1], channel)


def rotary_embedding(node: Node, to: Importing) -> None:
    """Add the Einsum of a ``RotaryEmbedding`` node.

    Raises:
        ModelError: an attribute or a dimension that ONNX does not allow.
    """
    node.check_attributes({"interleaved", "num_heads", "rotary_embedding_dim"})
    x = _input(node, to)
    rotated = node.integer("rotary_embedding_dim") or x.size
    if rotated % 2 or not 0 < rotated <= x.size:
        raise node.wrong(
            f"rotates {rotated} channels of heads of {x.size}",
            f"set rotary_embedding_dim to an even number of at most {x.size}",
        )
    cosine, half = _table(node, to, x, 1, "cos_cache", rotated // 2)
    sine, _ = _table(node, to, x, 2, "sin_cache", rotated // 2)
    *_, e = x.at
    c = x.channel
    here, element, total = x.element(e), x.source.edge.element, 2 * half
    if node.flag("interleaved"):
        d = c // 2
        first = cosine(d) * here - sine(d) * x.element(e + 1)
        second = sine(d) * x.element(e - 1) + cosine(d) * here
        leading, trailing = (c < total) & (c % 2 == 0), c < total
    else:
        first = cosine(c) * here - sine(c) * x.element(e + half)
        second = sine(c - half) * x.element(e - half) + cosine(c - half) * here
        leading, trailing = c < half, c < total
    result = to.define(node.result, x.at, element, first.where(leading)).tensor
    if rotated == x.size:
        result[x.at] = second
    else:
        result[x.at] = second.where(trailing)
        result[x.at] = here


def _input(node: Node, to: Importing) -> _Input:
    edge = to.real(node.required(0, "X"), node)
    heads = node.integer("num_heads")
    if len(edge.dims) == 4:
        at = to.ranks("bhpe", edge.dims)
        b, _, p, e = at
        return _Input(to.read(edge.name, node, at), at, b, p, e, edge.dims[3])
    if len(edge.dims) != 3:
        raise node.wrong(f"has X with dimensions {edge.dims}", "give it 3 or 4 dimensions")
    if heads is None or heads < 1 or edge.dims[2] % heads:
        raise node.wrong(
            f"has a 3-D input of {edge.dims[2]} channels, but num_heads is {heads}",
            f"set num_heads to a divisor of {edge.dims[2]}",
        )
    at = to.ranks("bpu", edge.dims)
    b, p, u = at
    size = edge.dims[2] // heads
    return _Input(to.read(edge.name, node, at), at, b, p, u % size, size)


def _table(
    node: Node, to: Importing, x: _Input, place: int, formal: str, columns: int
) -> tuple[Callable[[Term], Term], Term]:
    """Return how to read a table of sines or cosines, and the number of its columns."""
    name = node.required(place, formal)
    d = to.rank("d", columns)
    if not node.input(3):
        whole = to.read(name, node, (x.b, x.p, d))
        return lambda column: whole.at(x.b, x.p, column), whole.ranks[2].shape
    dims = to.edge(name, node).dims
    if len(dims) != 2:
        raise node.wrong(
            f"has position_ids, but {formal} with dimensions {dims}",
            f"give {formal} 2 dimensions: positions and {columns} columns",
        )
    table = to.read(name, node, (to.rank("t", dims[0]), d))
    position = to.read(node.input(3), node, (x.b, x.p)).at(x.b, x.p)
    return lambda column: table.at(position, column), table.ranks[1].shape

"""What the operators share while a cascade is built: names, ranks, tensors, number formats.

A tensor of the model keeps its name in upper case (``attn_mask``: ``ATTN_MASK``); what an operator
needs in between is numbered where a name is taken (``QK``, ``QK1``). Ranks of equal letter and
extent are one rank, so that Einsums of different nodes can be fused. A graph input is declared at
the ranks of the node that first reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.frontend.dsl import Builder, Tensor
from penstock.einsum_ir.frontend.terms import Operand, Rank, Term
from penstock.errors import ModelError
from penstock.importers.onnx_graph import Edge, Graph, Node

__all__ = ["Importing", "Source"]

_SOFTMAX = ("IN", "MAX", "EXP", "SUM")


@dataclass(frozen=True, slots=True)
class Source:
    """A tensor of the model in the cascade.

    Args:
        edge: what the model says of it.
        tensor: what reads it.
        name: its name in the cascade.
        ranks: those it is declared or defined at.
    """

    edge: Edge
    tensor: Tensor
    name: str
    ranks: tuple[Rank, ...]

    def at(self, *indices: Operand) -> Term:
        """Return the element at a point."""
        return self.tensor[indices]


class Importing:
    """A cascade that is being built from a graph."""

    def __init__(self, graph: Graph) -> None:
        self._builder = Builder(graph.name)
        self._edges = {each.name: each for each in (*graph.inputs, *graph.constant_edges)}
        self._constants = graph.constants
        self._taken: set[str] = set()
        self._ranks: dict[str, int] = {}
        self._names: dict[str, str] = {}
        self._sources: dict[str, Source] = {}
        self._given = tuple(self._edges)
        self._formats: dict[str, str] = {}
        self._computed: set[str] = set()
        outputs = [name for node in graph.nodes for name in node.outputs if name]
        for name in (*self._edges, *outputs):
            self._names.setdefault(name, self.name(_upper(name)))

    # --- names and ranks ------------------------------------------------------------------------

    def name(self, wanted: str, suffixes: Iterable[str] = ()) -> str:
        """Return a new upper-case name: `wanted`, or that with a number."""
        number = 0
        while True:
            name = f"{wanted}{number or ''}"
            all_names = {name, *(f"{name}_{suffix}" for suffix in suffixes)}
            if not all_names & self._taken:
                self._taken |= all_names
                return name
            number += 1

    def rank(self, letter: str, extent: int, *, shared: bool = True) -> Rank:
        """Return a rank of some extent; if `shared`, perhaps one that another node has too.

        Raises:
            ModelError: the extent is 0.
        """
        if extent < 1:
            raise ModelError(
                f"a dimension (rank {letter}) has {extent} coordinates: nothing can be computed",
                fix="give every dimension at least 1 coordinate",
            )
        number = 0
        while True:
            name = f"{letter}{number or ''}"
            if shared and self._ranks.get(name) == extent:
                return Rank(name)
            if name not in self._ranks and name.upper() not in self._taken:
                self._ranks[name] = extent
                self._taken.add(name.upper())
                return Rank(name)
            number += 1

    def ranks(self, letters: str, extents: Sequence[int]) -> tuple[Rank, ...]:
        """Return a rank for each extent."""
        return tuple(self.rank(*each) for each in zip(letters, extents, strict=True))

    def extent(self, rank: Rank) -> int:
        """Return the number of coordinates of a rank."""
        return self._ranks[rank.name]

    # --- tensors --------------------------------------------------------------------------------

    def edge(self, name: str, node: Node) -> Edge:
        """Return the dimensions and the type of a tensor of the model.

        Raises:
            ModelError: nothing gives it.
        """
        if name not in self._edges:
            raise node.wrong(
                f"reads '{name}', which is no input of the model and comes from no node before",
                "put the nodes in topological order, or declare the input",
            )
        return self._edges[name]

    def real(self, name: str, node: Node) -> Edge:
        """Return the same of a tensor that must hold real numbers.

        Raises:
            ModelError: it does not, or nothing gives it.
        """
        edge = self.edge(name, node)
        if edge.format is None:
            raise node.wrong(
                f"has an input '{name}' of integers", "give it FLOAT, FLOAT16, BFLOAT16 or DOUBLE"
            )
        return edge

    def read(self, name: str, node: Node, ranks: Sequence[Rank]) -> Source:
        """Return a tensor of the model that has the extents of these ranks (0: a rank of 1).

        Raises:
            ModelError: its dimensions are others.
        """
        edge = self.edge(name, node)
        extents = tuple(self.extent(rank) for rank in ranks)
        if tuple(max(dim, 1) for dim in edge.dims) != extents:
            raise node.wrong(
                f"needs '{name}' with dimensions {extents}, but it has {edge.dims}",
                f"give an array of shape {extents}",
            )
        if name not in self._sources:
            self._sources[name] = self._source(edge, ranks)
        return self._sources[name]

    def broadcast(
        self, name: str, node: Node, ranks: Sequence[Rank], last: Rank | None = None
    ) -> Term:
        """Return an element of a tensor that is broadcast to these ranks, as ONNX does.

        Args:
            name: of the tensor in the model.
            node: who reads it.
            ranks: what it is broadcast to, from the last dimension on.
            last: read the last dimension at this rank instead; beyond its end there is nothing.

        Raises:
            ModelError: a dimension is neither 1 nor that of the rank.
        """
        dims = self.edge(name, node).dims
        kept = tuple(ranks)[len(ranks) - len(dims) :] if len(dims) <= len(ranks) else ()
        full = [dim == self.extent(rank) for dim, rank in zip(dims, kept, strict=False)]
        if len(kept) != len(dims) or any(
            dim != 1 for dim, fits in zip(dims, full, strict=True) if not fits
        ):
            extents = tuple(self.extent(rank) for rank in ranks)
            raise node.wrong(
                f"cannot broadcast '{name}' with dimensions {dims} to {extents}",
                f"give each of its dimensions, from the last on, 1 or that of {extents}",
            )
        own = [r if f else self.rank("o", 1, shared=False) for r, f in zip(kept, full, strict=True)]
        index: list[Operand] = [r if f else 0 for r, f in zip(kept, full, strict=True)]
        if last is not None:
            index[-1] = last
        return self.read(name, node, own).at(*index)

    def define(self, name: str, ranks: Sequence[Rank], element: int, right: Operand) -> Source:
        """Add the Einsum of a node's output, which is rounded to its element type."""
        edge = Edge(name, tuple(self.extent(rank) for rank in ranks), element)
        self._edges[name] = edge
        self._computed.add(name)
        self._sources[name] = source = self._source(edge, ranks)
        source.tensor[tuple(ranks)] = right
        return source

    def between(self, wanted: str, ranks: Sequence[Rank], right: Operand, fmt: str = "") -> Tensor:
        """Add the Einsum of a tensor that the model does not name.

        Args:
            wanted: its name, if that is free.
            ranks: of its left side.
            right: the right side.
            fmt: the number format; that of the run if empty.
        """
        name = self.name(wanted, _SOFTMAX)
        tensor = Tensor(self._builder, name)
        tensor[tuple(ranks)] = right
        if fmt:
            self._formats |= dict.fromkeys((name, *(f"{name}_{each}" for each in _SOFTMAX)), fmt)
        return tensor

    def constant(self, wanted: str, value: Operand) -> Term:
        """Add a named scalar."""
        name = self.name(wanted)
        self._builder.const(**{name: value})
        return Tensor(self._builder, name)

    def value(self, name: str, node: Node) -> tuple[int, ...]:
        """Return the integers of a tensor that decides which cascade it is.

        Raises:
            ModelError: its value is not known.
        """
        if name not in self._constants:
            raise node.wrong(
                f"reads '{name}', whose value decides what is computed",
                f"give it, as in from_onnx(model, values={{'{name}': [1]}})",
            )
        return tuple(int(each) for each in self._constants[name].reshape(-1))

    def _source(self, edge: Edge, ranks: Sequence[Rank]) -> Source:
        name = self._names[edge.name]
        if edge.format is not None:
            self._formats[name] = edge.format
        return Source(edge, Tensor(self._builder, name), name, tuple(ranks))

    # --- the end --------------------------------------------------------------------------------

    @property
    def run_format(self) -> str:
        """The format of the run: fp64 if a tensor is in it, else fp32."""
        return "fp64" if "fp64" in self._formats.values() else "fp32"

    def sources(self, names: Iterable[str]) -> tuple[Source, ...]:
        """Return the outputs of the model.

        Raises:
            ModelError: no node gives one of them.
        """
        for name in names:
            if name not in self._computed:
                raise ModelError(
                    f"no node gives the output '{name}' of the model",
                    fix="leave it out of graph.output",
                )
        return tuple(self._sources[name] for name in names)

    @property
    def inputs(self) -> tuple[Source, ...]:
        """The inputs that some node reads, constants among them, in the model's order."""
        return tuple(self._sources[name] for name in self._given if name in self._sources)

    def build(self, outputs: Iterable[str]) -> Cascade:
        """Return the cascade.

        Args:
            outputs: names of tensors of the model.

        Raises:
            ModelError: no node gives one of them.
        """
        builder = self._builder
        builder.inputs(*(each.at(*each.ranks) for each in self.inputs))
        builder.outputs(*(each.at(*each.ranks) for each in self.sources(outputs)))
        plain = builder.build()
        for name, kind in self._formats.items():
            if name in plain.arity and kind != self.run_format:
                builder.format(kind, Tensor(builder, name))
        used = {rank for each in plain.inputs for rank in each.ranks}
        used |= {name for each in plain.einsums for name in each.variables}
        builder.shape(**{name: self._ranks[name] for name in self._ranks if name in used})
        return builder.build()


def _upper(name: str) -> str:
    found = re.sub(r"[^A-Z0-9_]", "_", name.upper()).strip("_")
    return found if found[:1].isalpha() else f"T{found}"

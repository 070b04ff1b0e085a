"""What the counting needs to know of a cascade, computed once for each `Bound`.

Knows no machine and no mapping. An index is *plain* if it is one variable (plus a constant) that
cannot leave its dimension; only the others need positions to be counted.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from penstock.einsum_ir.affine import Affine, affine
from penstock.einsum_ir.formats import Format, tensor_formats
from penstock.einsum_ir.nodes import Access, Einsum, Expr, Var, accesses, variables
from penstock.einsum_ir.regions.guards import guards
from penstock.einsum_ir.shapes import Bound
from penstock.einsum_ir.work import output_ops, point_ops

__all__ = ["Dim", "Facts", "Step", "Use", "facts_of"]


@dataclass(frozen=True)
class Dim:
    """One index of an access.

    Args:
        index: the expression.
        extent: of the dimension, in coordinates.
        form: its affine form, None if it has none.
        variables: that it depends on; () if an index tensor decides, for then any coordinate
            may be meant.
        plain: the variable of a plain index, else "".
        text: the expression as text.
    """

    index: Expr
    extent: int
    form: Affine | None
    variables: tuple[str, ...]
    plain: str
    text: str


@dataclass(frozen=True)
class Use:
    """One access of a tensor by an Einsum."""

    tensor: str
    dims: tuple[Dim, ...]
    inside: int
    points: int

    @cached_property
    def relevant(self) -> frozenset[str]:
        """The variables on which it depends which elements are meant."""
        return frozenset(name for dim in self.dims for name in dim.variables)

    @cached_property
    def placed(self) -> frozenset[str]:
        """The variables whose positions matter for the number of elements."""
        return frozenset(name for dim in self.dims if not dim.plain for name in dim.variables)


@dataclass(frozen=True)
class Step:
    """One Einsum (not an ``init``).

    Args:
        einsum: itself.
        ops, output_ops: operators of a point, and of an output element.
        reads: its accesses, each different one once.
        write: its left side.
        guard: where its points can have an effect; None for everywhere.
        guarded: the variables of the guard.
        init: the ``init`` Einsum of its tensor, with its variables named as here.
        init_reads: the accesses of that.
    """

    einsum: Einsum
    ops: Mapping[str, int]
    output_ops: Mapping[str, int]
    reads: tuple[Use, ...]
    write: Use
    guard: Expr | None
    guarded: tuple[str, ...]
    init: Einsum | None
    init_reads: tuple[Use, ...]


class Facts:
    """What a bound cascade says of its Einsums and tensors."""

    def __init__(self, bound: Bound) -> None:
        cascade = bound.cascade
        self.extents, self.dims, self.symbols = bound.extents, bound.dims, bound.symbols
        self.inputs = {each.tensor for each in cascade.inputs}
        self.outputs = {each.tensor for each in cascade.outputs}
        self.iterative = cascade.iterative
        self.formats = tensor_formats(cascade.formats)
        conditions = guards(bound)
        inits = {each.name: each for each in cascade.einsums if each.init}
        self.steps = {
            each.name: self._step(each, conditions.get(each.name), inits.get(each.name))
            for each in cascade.einsums
            if not each.init
        }
        self.init_ops = {each.name: point_ops(each) for each in inits.values()}
        self.init_names = {name: self._init_names(name) for name in inits}
        self.rolling = {name: self._rolls(name) for name in self.iterative}
        self.visits: dict[Any, Any] = {}  # of `visits.visits_of`

    def _step(self, einsum: Einsum, guard: Expr | None, init: Einsum | None) -> Step:
        reads = {str(each): each for each in einsum.operands}
        first = {str(each): each for each in init.operands} if init else {}
        return Step(
            einsum,
            point_ops(einsum),
            output_ops(einsum),
            tuple(self.use(each) for each in reads.values()),
            self.use(einsum.output),
            guard,
            variables(guard) if guard is not None else (),
            init,
            tuple(self.use(each) for each in first.values()),
        )

    def _init_names(self, tensor: str) -> tuple[str, ...]:
        """Return the step's variables over which an ``init`` writes."""
        output = self.steps[tensor].einsum.output
        return tuple(index.name for index in output.indices if isinstance(index, Var))

    def element_bytes(self, tensor: str, fmt: Format) -> float:
        """Return the bytes of an element of a tensor in a run in `fmt`."""
        return self.formats.get(tensor, fmt).bytes

    def use(self, access: Access) -> Use:
        """Return the facts of one access."""
        extents = self.dims[access.tensor]
        pairs = zip(access.indices, extents, strict=True)
        dims = tuple(self._dim(index, extent) for index, extent in pairs)
        inside = points = 1
        for dim in dims:
            if dim.form is not None and not dim.plain and dim.form.coefficients:
                inside *= _in_range(dim.form, dim.extent, self.extents)
                points *= math.prod(self.extents[name] for name in dim.variables)
        return Use(access.tensor, dims, inside, points)

    def _dim(self, index: Expr, extent: int) -> Dim:
        if accesses(index):
            return Dim(index, extent, None, (), "", str(index))
        form = affine(index, self.symbols)
        plain = ""
        if form is not None and len(form.coefficients) == 1:
            name, factor = form.coefficients[0]
            fits = form.minimum(self.extents) >= 0 and form.maximum(self.extents) < extent
            plain = name if fits and abs(factor) == 1 else ""
        names = tuple(name for name, _ in form.coefficients) if form else variables(index)
        return Dim(index, extent, form, names, plain, str(index))

    def _rolls(self, tensor: str) -> int:
        """Return how many coordinates of an iterative rank are alive at a time; 0 = all.

        Only a window is alive if the group reads coordinates near its own and everything else
        the final one.
        """
        variable, place = self.iterative[tensor]
        last = self.dims[tensor][place] - 1
        window = 1
        for step in self.steps.values():
            for use in step.reads:
                if use.tensor != tensor:
                    continue
                form = use.dims[place].form
                if form == Affine((), last):
                    continue
                if form is None or form.coefficients != ((variable, 1),):
                    return 0
                window = max(window, 2 - form.constant)
        return 0 if tensor in self.outputs else window


def _in_range(form: Affine, extent: int, extents: Mapping[str, int]) -> int:
    """Count the points of an affine index that are coordinates of its dimension."""
    ordered = sorted(form.coefficients, key=lambda each: extents[each[0]])
    (name, factor), rest = ordered[-1], ordered[:-1]
    base = np.array([form.constant], dtype=np.int64)
    for other, by in rest:
        base = (base[:, None] + by * np.arange(extents[other], dtype=np.int64)).ravel()
    if factor < 0:
        base, factor = base + factor * (extents[name] - 1), -factor
    first = np.maximum(-(base // factor), 0)
    last = np.minimum((extent - 1 - base) // factor, extents[name] - 1)
    return int(np.maximum(last - first + 1, 0).sum())


_CACHE: dict[int, tuple[weakref.ref[Bound], Facts]] = {}


def facts_of(bound: Bound) -> Facts:
    """Return the facts of a bound cascade; computed once while the object lives."""
    known = _CACHE.get(id(bound))
    if known is not None and known[0]() is bound:
        return known[1]
    key = id(bound)
    facts = Facts(bound)
    _CACHE[key] = (weakref.ref(bound, lambda _: _CACHE.pop(key, None)), facts)
    return facts

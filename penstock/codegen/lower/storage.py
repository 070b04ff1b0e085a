"""Where the elements of tensors are at a place of the program: buffers and what part they hold.

Excluded: when buffers are made and filled (`lower/nest.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from penstock.codegen.loops.nodes import Buffer, Const, Load, LoopExpr, Op, Store
from penstock.codegen.lower.expr import Present, Translator
from penstock.codegen.lower.index import Cond, Lin, Ranges, constant, integer, subtract, to_expr
from penstock.codegen.lower.plan import Plan
from penstock.codegen.lower.regions import Region
from penstock.einsum_ir.regions.presence import Always, When

__all__ = ["Accumulator", "Context", "Site", "Storage"]


@dataclass(frozen=True)
class Storage:
    """A tensor's buffer.

    Args:
        buffer: the elements.
        region: the block of the tensor that it holds.
        position: the folded dimension, which the buffer lacks, or None.
        mask: where elements are present, if that is stored.
        ahead: the new state of a folded tensor, if it has a buffer of its own.
    """

    buffer: Buffer
    region: Region
    position: int | None = None
    mask: Buffer | None = None
    ahead: Storage | None = None

    def place(self, indices: tuple[Lin, ...]) -> tuple[LoopExpr, ...]:
        """Return where in the buffer the element at these coordinates is."""
        offsets = (subtract(i, s) for i, s in zip(indices, self.region.starts, strict=True))
        return tuple(to_expr(each) for n, each in enumerate(offsets) if n != self.position)

    def load(self, indices: tuple[Lin, ...]) -> Load:
        """Return the element at these coordinates."""
        return Load(self.buffer.name, self.place(indices))

    def store(self, indices: tuple[Lin, ...], value: LoopExpr) -> Store:
        """Write the element at these coordinates, rounded if the tensor has its own format."""
        if self.buffer.own is not None and value != Const(0.0):
            value = Op(f"as {self.buffer.own}", (value,))
        return Store(self.buffer.name, self.place(indices), value)

    def copy(self, indices: tuple[Lin, ...], source: Load) -> Store:
        """Write the element at these coordinates as it is in another buffer of the tensor."""
        return Store(self.buffer.name, self.place(indices), source)

    def mark(self, indices: tuple[Lin, ...], value: LoopExpr | None = None) -> Store | None:
        """Note that the element is present (or as `value` says), if that is stored."""
        if self.mask is None:
            return None
        return Store(self.mask.name, self.place(indices), value or integer(1))

    def holds(self, indices: tuple[Lin, ...]) -> Present:
        """Return when the element is present, as far as that is stored."""
        return () if self.mask is None else (Load(self.mask.name, self.place(indices)),)


@dataclass(frozen=True)
class Accumulator:
    """What a reduction is folded into.

    Args:
        total: the fold; a scalar, or a block of the output's elements.
        counted: how many points were present (for ``mean``), or None.
        hit: whether any was, for a state that else stays as it is, or None.
        direct: whether the total is the tensor itself.
    """

    total: Storage
    counted: Buffer | None = None
    hit: Buffer | None = None
    direct: bool = False

    def place(self, indices: tuple[Lin, ...]) -> tuple[LoopExpr, ...]:
        """Return where the element with these coordinates is in the buffers."""
        return () if not self.total.buffer.shape else self.total.place(indices)


@dataclass(frozen=True)
class Context:
    """What is known at a place of the program.

    Args:
        storage: tensor → where it is.
        accumulators: Einsum → what it is folded into.
        active: conditions that hold.
        steps: folded tensor → coordinate of the step that is being made.
    """

    storage: Mapping[str, Storage]
    accumulators: Mapping[str, Accumulator] = field(default_factory=dict)
    active: frozenset[Cond] = frozenset()
    steps: Mapping[str, Lin] = field(default_factory=dict)

    def with_storage(self, tensor: str, storage: Storage) -> Context:
        """Return the context with a tensor in another place."""
        return replace(self, storage={**self.storage, tensor: storage})


@dataclass(frozen=True)
class Site:
    """A place of the program as a `Reader`."""

    plan: Plan
    context: Context
    ranges: Ranges

    def dims(self, tensor: str) -> tuple[int, ...]:
        """Return the extents of a tensor."""
        return self.plan.bound.dims[tensor]

    def whole(self, tensor: str) -> bool:
        """Whether the elements are coordinates."""
        return tensor in self.plan.whole

    def storage(self, tensor: str, indices: tuple[Lin, ...]) -> Storage:
        """Return where an element is: of a state, the old or the new one."""
        storage = self.context.storage[tensor]
        step = self.context.steps.get(tensor)
        if storage.ahead is None or step is None or storage.position is None:
            return storage
        newer = subtract(indices[storage.position], step) == constant(1)
        return storage.ahead if newer else storage

    def load(self, tensor: str, indices: tuple[Lin, ...]) -> LoopExpr:
        """Return the element at indices that are in range."""
        return self.storage(tensor, indices).load(indices)

    def present(self, tensor: str, indices: tuple[Lin, ...]) -> Present:
        """Return when the element at indices that are in range is present."""
        state = self.plan.presence.get(tensor, Always())
        if isinstance(state, When):
            coordinates = dict(zip(state.variables, indices, strict=True))
            return self.translator(coordinates).predicate(state.condition)
        return self.storage(tensor, indices).holds(indices)

    def translator(self, coordinates: Mapping[str, Lin]) -> Translator:
        """Return what translates expressions at these coordinates."""
        bound = self.plan.bound
        return Translator(
            coordinates, self.ranges, bound.symbols, self, self.plan.fmt, self.plan.extents
        )

"""Cascade + mapping → `Program`: the one lowering that every generator prints from.

The stages, each in a module of its own: `tree` (the mapping's loops as one tree, with what
they leave of each rank), `plan` (what is folded, where tensors live), `nest` and `point`
(statements), on top of `expr` (expressions with presence), `index` and `ranges` (index
arithmetic), `regions` and `storage` (buffers). Buffers have the dimensions of their tensor, in
its order; the folded rank of a state is left out.

Excluded: legality (`mapper.check`; an illegal mapping gives a wrong program or an error), order
of stages of a pipelined loop (they work in sequence, which gives the same values).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from penstock.codegen.loops.nodes import Alloc, Block, Buffer, Const, LoopStmt, Program
from penstock.codegen.lower.expr import as_cond
from penstock.codegen.lower.guard import conjuncts
from penstock.codegen.lower.index import integer
from penstock.codegen.lower.nest import Coordinates, block, guarded
from penstock.codegen.lower.plan import Plan, make_plan
from penstock.codegen.lower.point import allocated
from penstock.codegen.lower.ranges import stays_inside, whole
from penstock.codegen.lower.regions import Region, region_of, whole_region
from penstock.codegen.lower.select import Selector
from penstock.codegen.lower.storage import Context, Storage
from penstock.codegen.lower.tree import Env, Hold, Leaf, Part, Step, build_tree
from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.formats import Format, tensor_formats
from penstock.einsum_ir.interpreter.rounding import check_formats
from penstock.einsum_ir.interpreter.widths import accumulator_bits
from penstock.einsum_ir.nodes import Einsum, variables
from penstock.einsum_ir.shapes import Bound
from penstock.errors import DataError
from penstock.mapper.check import check_lowered
from penstock.mapper.nodes import Mapping
from penstock.targets.base import Target

__all__ = ["lower"]


def lower(bound: Bound, mapping: Mapping, target: Target, fmt: Format) -> Program:
    """Turn a cascade and a legal mapping of it into loops.

    Args:
        bound: the cascade with its extents.
        mapping: legal for it (`mapper.check`).
        target: the machine, for the kinds of its axes and its outermost memory.
        fmt: number format of the tensors that have none of their own.

    Returns:
        The program: inputs and outputs in the order of the cascade's declaration.

    Raises:
        MappingError: a leaf whose loops leave more than one coordinate, or what only the model has.
        DataError: an operator or a comparison that the format cannot decide, or what generated
            code does not have: selections that are states, the formats fp8 and integers for all
            tensors, and formats of single tensors that are floats beside fixed point, or of
            selections.
    """
    check_lowered(mapping)
    _check_selections(bound.cascade)
    _check_formats(bound.cascade, fmt)
    tree = build_tree(bound, mapping, target)
    plan = make_plan(bound, tree, fmt)
    dims, cascade, memory = bound.dims, bound.cascade, target.dram.name
    inputs, outputs = (
        tuple(_parameter(plan, each.tensor, dims[each.tensor], memory) for each in declared)
        for declared in (cascade.inputs, cascade.outputs)
    )
    names = {each.name for each in (*inputs, *outputs)}
    emitter = _Emitter(plan, dict(tree.ranges), names | set(tree.ranges))
    body = emitter.program((*inputs, *outputs), memory)
    return Program(cascade.name, inputs, outputs, body, fmt, _accumulator_bits(bound, fmt))


def _check_selections(cascade: Cascade) -> None:
    for einsum in cascade.einsums:
        if einsum.selects and (einsum.init or einsum.iterative is not None):
            raise DataError(
                f"generated code has no selections that are states, and {einsum.name} is one",
                span=einsum.span,
                fix="select in an Einsum of its own, and keep what is read there as the state",
            )


def _check_formats(cascade: Cascade, fmt: Format) -> None:
    if fmt.kind == "int" or (fmt.bits < 16 and fmt.kind == "float"):
        raise DataError(
            f"generated code has no {fmt}", fix="use fp64, fp32, fp16, bf16 or a fixed<W,I>"
        )
    own = tensor_formats(cascade.formats)
    check_formats(own, fmt)
    selected = {each.name for each in cascade.einsums if each.selects}
    for tensor in own:
        beside = fmt.exact and own[tensor].kind == "float"
        if beside or tensor in selected:
            where = f"beside {fmt}" if beside else "of a selection"
            raise DataError(
                f"generated code has no {own[tensor]} {where}, and {tensor} is in it",
                fix=f"leave out 'format {tensor} = {own[tensor]}', or use penstock run, explore or "
                "simulate",
            )


def _parameter(plan: Plan, tensor: str, shape: tuple[int, ...], memory: str) -> Buffer:
    return Buffer(tensor, shape, _kind(plan, tensor), memory, own=plan.own(tensor))


def _kind(plan: Plan, tensor: str) -> Literal["data", "index"]:
    return "index" if tensor in plan.whole else "data"


def _accumulator_bits(bound: Bound, fmt: Format) -> tuple[int, int]:
    """Return the width that every accumulator of the program fits into."""
    if not fmt.exact:
        return 0, 0
    integer_bits = fraction_bits = 0
    for einsum in bound.cascade.einsums:
        width, whole = accumulator_bits(einsum, bound, fmt)
        if einsum.reduce is not None and einsum.reduce.op == "mean":
            whole, width = whole + 1, width + 1  # room for the number of points
        integer_bits = max(integer_bits, whole)
        fraction_bits = max(fraction_bits, width - whole)
    return integer_bits + fraction_bits, integer_bits


class _Emitter(Selector):
    """Walks the tree."""

    # -- buffers ---------------------------------------------------------------------------

    def program(self, parameters: tuple[Buffer, ...], memory: str) -> LoopStmt:
        """Return the body of the program."""
        plan = self.plan
        storage: dict[str, Storage] = {}
        for buffer in parameters:
            mask = self._mask(buffer.name, buffer.shape, memory)
            storage[buffer.name] = Storage(buffer, whole_region(buffer.shape), mask=mask)
        for tensor in plan.tree.paths:
            if tensor not in storage and plan.home(tensor) is None:
                region = whole_region(plan.bound.dims[tensor])
                storage[tensor] = self._new(tensor, tensor, region, memory)
        given = {each.name for each in parameters}
        zeros = [
            self.zeros(storage[each.tensor].buffer, each.tensor)
            for each in plan.bound.cascade.outputs
            if self.zeroed(each.tensor)
        ]
        env = {name: whole(extent) for name, extent in plan.bound.extents.items()}
        context = Context(storage)
        starts = [self._unlooped(tensor, env, context) for tensor in storage]
        body = block([*zeros, *starts, self.parts(plan.tree.body, context)])
        for tensor, each in reversed(storage.items()):
            body = self._scope(tensor, each, body, given=tensor in given)
        return body

    def _new(self, tensor: str, name: str, region: Region, memory: str) -> Storage:
        """Return new buffers for a block of a tensor."""
        fold = self.plan.folds.get(tensor)
        position = fold.position if fold is not None else None
        shape = tuple(size for n, size in enumerate(region.shape) if n != position)
        kind = _kind(self.plan, tensor)
        buffer = Buffer(self.fresh(name), shape, kind, memory, own=self.plan.own(tensor))
        mask = self._mask(buffer.name, shape, memory, tensor)
        ahead = None
        if fold is not None and fold.copy_at is not None and not fold.local:
            ahead = self._ahead(tensor, region, position, memory)
        return Storage(buffer, region, position, mask, ahead)

    def zeros(self, buffer: Buffer, name: str) -> LoopStmt | None:
        """Return what sets a buffer to 0."""
        zero = integer(0) if buffer.kind == "index" else Const(0.0)
        return self.fill(buffer, zero, f"zero {name}")

    def _ahead(self, tensor: str, region: Region, position: int | None, memory: str) -> Storage:
        """Return the buffers of the new state of a folded tensor."""
        shape = tuple(size for n, size in enumerate(region.shape) if n != position)
        name, own = self.fresh(f"{tensor}_next"), self.plan.own(tensor)
        buffer = Buffer(name, shape, "data", memory, own=own)
        mask = self._mask(buffer.name, shape, memory, tensor)
        return Storage(buffer, region, position, mask)

    def _mask(
        self, name: str, shape: tuple[int, ...], memory: str, tensor: str | None = None
    ) -> Buffer | None:
        if not self.plan.stored_mask(tensor or name):
            return None
        return Buffer(self.fresh(f"{name}_there"), shape, "mask", memory)

    def _scope(self, tensor: str, storage: Storage, body: LoopStmt, *, given: bool) -> LoopStmt:
        """Return a statement inside the scope of a tensor's buffers, masks cleared."""
        clear = self.fill(storage.mask, integer(0), f"nothing of {tensor} yet")
        body = block([clear, body])
        ahead = storage.ahead
        own = [] if given else [storage.buffer]
        more = [] if ahead is None else [ahead.buffer, ahead.mask]
        for buffer in (*own, storage.mask, *more):
            if buffer is not None:
                body = Alloc(buffer, body)
        return body

    def _unlooped(self, tensor: str, env: Env, context: Context) -> LoopStmt | None:
        """Return the start of a state whose rank has one coordinate and no loop."""
        if tensor not in self.plan.bound.cascade.iterative or self.plan.entry(tensor) is not None:
            return None
        return self.start(tensor, env, context)

    # -- parts -----------------------------------------------------------------------------

    def parts(self, body: tuple[Part, ...], context: Context) -> LoopStmt:
        """Return the statements of a body that leaves may share, in order."""
        return block(self.named(part, context) for part in body)

    def named(self, part: Part, context: Context) -> LoopStmt | None:
        """Return the statements of one part; those of a leaf with its name."""
        stmt = self.part(part, context)
        own = part.compute if isinstance(part, Leaf) else None
        if isinstance(part, Step):
            own = part.leaf
        if stmt is None or own is None:
            return stmt
        stage = f" stage {own.stage}" if own.stage else ""
        return Block(
            stmt.body if isinstance(stmt, Block) and not stmt.comment else (stmt,),
            f"{own.einsum} on {own.array}{stage}",
            own.stage,
        )

    def part(self, part: Part, context: Context) -> LoopStmt | None:
        """Return the statements of one part."""
        if self.selects(part):
            return self.selection(part, context)
        match part:
            case Hold():
                return self.hold(part, context)
            case Step():
                return self.step(part, context)
            case Leaf():
                return self.leaf(part, context)

    def hold(self, hold: Hold, context: Context) -> LoopStmt:
        """Return the rest of a body with tensors kept in a memory."""
        inner, made = context, list[tuple[str, Storage]]()
        before: list[LoopStmt | None] = []
        after: list[LoopStmt | None] = []
        for tensor in hold.keep.tensors:
            role = self.plan.roles.get((hold, tensor))
            if role is None:
                continue
            name = tensor if role == "home" else f"{tensor}_{hold.keep.memory}"
            new = self._new(tensor, name, self.plan.region(tensor, hold), hold.keep.memory)
            new = replace(new, buffer=replace(new.buffer, copies=hold.keep.buffers))
            inner = inner.with_storage(tensor, new)
            made.append((tensor, new))
            if role == "read":
                before.append(self.copy_in(tensor, context.storage[tensor], new))
            elif role == "write":
                if self.zeroed(tensor):
                    before.append(self.zeros(new.buffer, name))
                after.append(self.copy_out(tensor, hold.env, new, context.storage[tensor]))
        before += [self._unlooped(tensor, hold.env, inner) for tensor, _ in made]
        body = block([*before, self.parts(hold.body, inner), *after])
        for tensor, storage in reversed(made):
            body = self._scope(tensor, storage, body, given=False)
        return body

    def step(self, step: Step, context: Context) -> LoopStmt:
        """Return a loop, with what starts before it and ends after it."""
        outside = {**step.env, step.loop.variable: step.outside}
        reduced = [
            leaf.einsum
            for leaf in self.plan.tree.below(step)
            if self.plan.reduce_at(leaf.einsum.name) is step
        ]
        opened = {each.name: self.accumulator(each, step, context) for each in reduced}
        inner = replace(context, accumulators={**context.accumulators, **opened})
        starts = [
            self.start(tensor, outside, context)
            for tensor in self.plan.bound.cascade.iterative
            if self.plan.entry(tensor) is step
        ]
        opens = [self.open(each, opened[each.name], outside) for each in reduced]
        closes = [
            self.close(each, opened[each.name], outside, context, _newest(context, each))
            for each in reduced
        ]
        stmt = block([*starts, *opens, self.iteration(step, inner), *closes])
        for accumulator in reversed(opened.values()):
            stmt = allocated(accumulator, stmt)
        return stmt

    def iteration(self, step: Step, context: Context) -> LoopStmt:
        """Return a loop and its body: the test whether it has any effect, the parts, copies."""
        inside = stays_inside(step.outside, step.loop.tile, step.name, self.ranges)
        known = inside if step.kind is not None and step.count > 1 else True
        test = self.skip(step)
        active = context.active | set(conjuncts(known)) | set(conjuncts(test))
        steps = {
            tensor: step.env[step.loop.variable].start
            for tensor, fold in self.plan.folds.items()
            if fold.advance is step
        }
        inner = replace(context, active=active, steps={**context.steps, **steps})
        folds = [(t, f) for t, f in self.plan.folds.items() if f.copy_at is step]
        local: list[Storage] = []
        for tensor, fold in folds:
            if fold.local:
                current = inner.storage[tensor]
                written = self.plan.bound.cascade.einsum(tensor).output
                dims = self.plan.bound.dims[tensor]
                region = region_of([(written, step.env)], dims, self.plan.bound, self.ranges)
                memory = current.buffer.memory
                ahead = self._ahead(tensor, region, fold.position, memory)
                inner = inner.with_storage(tensor, replace(current, ahead=ahead))
                local.append(ahead)
        if step.leaf is None:
            body = self.parts(step.body, inner)
        else:
            body = block(self.part(part, inner) for part in step.body)
        copies = [self._advance(tensor, step.env, inner) for tensor, _ in folds]
        body = block([body, *copies])
        for ahead in reversed(local):
            body = self._scope(ahead.buffer.name, ahead, body, given=False)
        tested = guarded(conjuncts(test), context.active | set(conjuncts(known)), body)
        return self.loop(step, tested if tested is not None else Block(()), context)

    def _advance(self, tensor: str, env: Env, context: Context) -> LoopStmt | None:
        """Return the copy of a new state over the old one."""
        written = self.plan.bound.cascade.einsum(tensor).output
        storage = context.storage[tensor]
        ahead = storage.ahead
        assert ahead is not None

        def make(coordinates: Coordinates) -> LoopStmt:
            indices, _ = self.site(context).translator(coordinates).indices(written.indices)
            held = ahead.holds(indices)
            mark = storage.mark(indices, as_cond(held[0])) if held else None
            return block([storage.copy(indices, ahead.load(indices)), mark])

        return self.over(variables(written), env, make, f"next {tensor}")


def _newest(context: Context, einsum: Einsum) -> Storage:
    storage = context.storage[einsum.name]
    return storage.ahead or storage

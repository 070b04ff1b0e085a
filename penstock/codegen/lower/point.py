"""What happens at the points of one Einsum: its value, its reduction, the start of a state.

Excluded: the loops of the mapping (`lower/nest.py`).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

from penstock.codegen.loops.nodes import (
    Alloc,
    Buffer,
    Const,
    Load,
    LoopExpr,
    LoopStmt,
    Name,
    Op,
    Store,
)
from penstock.codegen.lower.expr import Present, Translator, as_cond, both, joined
from penstock.codegen.lower.index import Lin, atom, constant, integer, negation
from penstock.codegen.lower.nest import Coordinates, Nester, block, guarded
from penstock.codegen.lower.ranges import Range, whole
from penstock.codegen.lower.regions import Region, region_of
from penstock.codegen.lower.storage import Accumulator, Context, Storage
from penstock.codegen.lower.tree import Env, Leaf, Path, Step
from penstock.einsum_ir.nodes import Einsum, Var, variables
from penstock.einsum_ir.ops import REDUCTIONS
from penstock.einsum_ir.regions.presence import Always
from penstock.errors import MappingError

__all__ = ["Pointer"]

_ONE = integer(1)


class Pointer(Nester):
    """Makes the statements of points and reductions."""

    # -- what is known before --------------------------------------------------------------

    def certain(self, einsum: Einsum) -> bool:
        """Whether every point of an Einsum is present, whatever the data."""
        plan = self.plan
        if plan.guards.get(einsum.name) is not None and not einsum.init:
            return False
        inside = {name: self._full(name) for name in einsum.variables}
        coordinates: Coordinates = {}
        for name, left in inside.items():
            variable = f"any {name}"
            self.ranges[variable] = (0, left.size - 1)
            coordinates[name] = atom(Name(variable))
        everywhere = {
            name: Storage(
                Buffer(name, dims),
                Region(tuple(constant(0) for _ in dims), dims),
                mask=Buffer(f"{name} mask", dims, "mask") if plan.stored_mask(name) else None,
            )
            for name, dims in plan.bound.dims.items()
        }
        translator = self.site(Context(everywhere)).translator(coordinates)
        return not self._conditions(einsum, translator)

    def _full(self, name: str) -> Range:
        return whole(self.plan.bound.extents[name.removesuffix(" of init")])

    def zeroed(self, tensor: str) -> bool:
        """Whether elements of a tensor may be absent, so that nobody writes them."""
        plan = self.plan
        stepped = tensor in plan.bound.cascade.iterative
        return stepped or not isinstance(plan.presence.get(tensor, Always()), Always)

    # -- points ----------------------------------------------------------------------------

    def _conditions(self, einsum: Einsum, translator: Translator) -> Present:
        own: Present = () if einsum.where is None else translator.predicate(einsum.where)
        return both(own, translator.value(einsum.body).present)

    def leaf(self, leaf: Leaf, context: Context) -> LoopStmt | None:
        """Return what one point of a leaf does."""
        einsum = leaf.einsum
        coordinates: Coordinates = {}
        for name in einsum.variables:
            left = leaf.env[name]
            if left.size > 1:
                raise MappingError(
                    f"the loops of {einsum.name} leave {left.size} coordinates of {name} at once",
                    span=leaf.compute.span,
                    fix=f"add a loop over {name} to the line of {einsum.name}",
                )
            coordinates[name] = left.start
        storage = context.storage[einsum.name]
        return self.point(einsum, coordinates, context, storage.ahead or storage)

    def point(
        self, einsum: Einsum, coordinates: Coordinates, context: Context, target: Storage
    ) -> LoopStmt | None:
        """Return the statement that computes a point and stores or folds it."""
        translator = self.site(context).translator(coordinates)
        present = self._conditions(einsum, translator)
        value = translator.real(translator.value(einsum.body))
        indices, _ = translator.indices(einsum.output.indices)
        accumulator = context.accumulators.get(einsum.name)
        if accumulator is not None:
            body = self._fold(einsum, accumulator, indices, value, target)
            return guarded(present, context.active, body)
        body = block([target.store(indices, value), target.mark(indices)])
        stmt = guarded(present, context.active, body)
        return block([self._carry(einsum, coordinates, context, bool(present)), stmt])

    def _carry(
        self, einsum: Einsum, coordinates: Coordinates, context: Context, absent: bool
    ) -> LoopStmt | None:
        """Take a state over to the next coordinate, where a step that is absent leaves it."""
        name = einsum.name
        if einsum.iterative is None or einsum.init or name in self.plan.folds or not absent:
            return None
        translator = self.site(context).translator(coordinates)
        newer, _ = translator.indices(einsum.output.indices)
        older, _ = translator.indices(
            [Var(einsum.iterative) if not isinstance(i, Var) else i for i in einsum.output.indices]
        )
        storage = context.storage[name]
        mask = storage.holds(older)
        mark = storage.mark(newer, as_cond(mask[0])) if mask else None
        return block([storage.copy(newer, storage.load(older)), mark])

    def _fold(
        self,
        einsum: Einsum,
        accumulator: Accumulator,
        indices: tuple[Lin, ...],
        value: LoopExpr,
        target: Storage,
    ) -> LoopStmt:
        assert einsum.reduce is not None
        place = accumulator.place(indices)
        total = accumulator.total.buffer.name
        fold = REDUCTIONS[einsum.reduce.op].fold
        body: list[LoopStmt | None] = [Store(total, place, Op(fold, (Load(total, place), value)))]
        if accumulator.counted is not None:
            name = accumulator.counted.name
            one = Op("float", (_ONE,))
            body.append(Store(name, place, Op("+", (Load(name, place), one))))
        if accumulator.hit is not None:
            body.append(Store(accumulator.hit.name, place, _ONE))
        elif einsum.iterative is None and not einsum.init:
            body.append(target.mark(indices))
        return block(body)

    # -- reductions ------------------------------------------------------------------------

    def accumulator(self, einsum: Einsum, step: Step, context: Context) -> Accumulator:
        """Return what a reduction that starts around a loop is folded into."""
        path = self.plan.tree.paths[einsum.name]
        storage = context.storage[einsum.name]
        assert einsum.reduce is not None
        order_free = einsum.reduce.op in ("max", "min")
        scalar = _scalar(path, step, einsum)
        exact = self.plan.fmt.name in ("fp32", "fp64") or order_free
        exact = exact and self.plan.own(einsum.name) is None
        if exact and not scalar and einsum.iterative is None:
            total, direct = storage, True
        else:
            total, direct = self._total(einsum, step, storage, scalar=scalar), False
        return self._with_counts(einsum, total, direct=direct)

    def _total(self, einsum: Einsum, step: Step, storage: Storage, *, scalar: bool) -> Storage:
        env = {**step.env, step.loop.variable: step.outside}
        plan = self.plan
        region = region_of(
            [(einsum.output, env)], plan.bound.dims[einsum.name], plan.bound, self.ranges
        )
        kind = self._total_kind(einsum)
        shape = () if scalar else region.shape
        name = self.fresh(f"{einsum.name}_acc")
        return Storage(Buffer(name, shape, kind, storage.buffer.memory), region)

    def _total_kind(self, einsum: Einsum) -> Literal["data", "acc"]:
        """Return what a fold needs: an extremum of rounded values is the rounded extremum."""
        assert einsum.reduce is not None
        rounded = einsum.reduce.op in ("max", "min") and self.plan.own(einsum.name) is None
        return "data" if rounded else "acc"

    def _with_counts(self, einsum: Einsum, total: Storage, *, direct: bool) -> Accumulator:
        assert einsum.reduce is not None
        certain = self.certain(einsum)
        shape, memory = total.buffer.shape, total.buffer.memory
        counted = hit = None
        if einsum.reduce.op == "mean" and not certain:
            counted = Buffer(self.fresh(f"{einsum.name}_count"), shape, "acc", memory)
        if not certain and (einsum.iterative is not None or einsum.init):
            hit = Buffer(self.fresh(f"{einsum.name}_hit"), shape, "mask", memory)
        return Accumulator(total, counted, hit, direct)

    def open(self, einsum: Einsum, accumulator: Accumulator, env: Env) -> LoopStmt | None:
        """Return what runs before a reduction."""
        assert einsum.reduce is not None
        start = Const(REDUCTIONS[einsum.reduce.op].identity)

        def make(coordinates: Coordinates) -> LoopStmt:
            translator = self.site(Context({})).translator(coordinates)
            indices, _ = translator.indices(einsum.output.indices)
            place = accumulator.place(indices)
            body: list[LoopStmt | None] = [Store(accumulator.total.buffer.name, place, start)]
            if accumulator.counted is not None:
                body.append(Store(accumulator.counted.name, place, Const(0.0)))
            if accumulator.hit is not None:
                body.append(Store(accumulator.hit.name, place, integer(0)))
            return block(body)

        return self.over(variables(einsum.output), env, make, f"start {einsum.name}")

    def close(
        self,
        einsum: Einsum,
        accumulator: Accumulator,
        env: Env,
        context: Context,
        target: Storage,
    ) -> LoopStmt | None:
        """Return what runs after a reduction: divide, round, and store where it is present."""

        def make(coordinates: Coordinates) -> LoopStmt | None:
            return self._result(einsum, accumulator, coordinates, context, target)

        return self.over(variables(einsum.output), env, make, f"finish {einsum.name}")

    def _result(
        self,
        einsum: Einsum,
        accumulator: Accumulator,
        coordinates: Coordinates,
        context: Context,
        target: Storage,
    ) -> LoopStmt | None:
        translator = self.site(context).translator(coordinates)
        indices, _ = translator.indices(einsum.output.indices)
        place = accumulator.place(indices)
        value: LoopExpr = Load(accumulator.total.buffer.name, place)
        assert einsum.reduce is not None
        mean = einsum.reduce.op == "mean"
        if mean:
            value = Op("/", (value, self._count(einsum, accumulator, place)))
        present: Present = ()
        if accumulator.hit is not None:
            present = (Load(accumulator.hit.name, place),)
        elif accumulator.counted is not None:
            present = (Op(">", (Load(accumulator.counted.name, place), Const(0.0))),)
        elif self.plan.must_ask(einsum):
            present = self.site(context).present(einsum.name, indices)
        if accumulator.direct and not mean:
            absent = _none_of(present)
            zero = target.store(indices, Const(0.0))
            return None if absent is None else guarded((absent,), context.active, zero)
        mark = target.mark(indices) if einsum.iterative is not None or einsum.init else None
        stmt = guarded(present, context.active, block([target.store(indices, value), mark]))
        return block([self._carry(einsum, coordinates, context, bool(present)), stmt])

    def _count(
        self, einsum: Einsum, accumulator: Accumulator, place: tuple[LoopExpr, ...]
    ) -> LoopExpr:
        if accumulator.counted is not None:
            return Load(accumulator.counted.name, place)
        assert einsum.reduce is not None
        points = math.prod(self._full(name).size for name in einsum.reduce.over)
        return Op("float", (integer(points),))

    # -- states ----------------------------------------------------------------------------

    def start(self, tensor: str, env: Env, context: Context) -> LoopStmt | None:
        """Return what gives a state its first value."""
        step = self.plan.bound.cascade.einsum(tensor)
        init = self.plan.inits.get(tensor)
        storage = context.storage[tensor]
        local = tensor in self.plan.folds and self.plan.folds[tensor].local
        ahead = None if local else storage.ahead
        if init is None:
            return self._absent(step, env, context, storage, ahead)
        names = variables(init.output)
        own = {name: self._full(name) for name in init.variables if name not in names}

        def make(coordinates: Coordinates) -> LoopStmt:
            return self._first(init, {**env, **own}, coordinates, context, storage, ahead)

        return self.over(names, env, make, f"init {tensor}")

    def _absent(
        self, step: Einsum, env: Env, context: Context, storage: Storage, ahead: Storage | None
    ) -> LoopStmt | None:
        """Note that a state without a first value is absent."""
        if storage.mask is None:
            return None
        position = self.plan.bound.cascade.iterative[step.name][1]
        kept = [index for n, index in enumerate(step.output.indices) if n != position]

        def make(coordinates: Coordinates) -> LoopStmt:
            translator = self.site(context).translator(coordinates)
            given, _ = translator.indices(kept)
            indices = (*given[:position], constant(0), *given[position:])
            marks = [each.mark(indices, integer(0)) for each in (storage, ahead) if each]
            return block(marks)

        return self.over(variables(*kept), env, make, f"no init {step.name}")

    def _first(
        self,
        init: Einsum,
        env: Env,
        coordinates: Coordinates,
        context: Context,
        storage: Storage,
        ahead: Storage | None,
    ) -> LoopStmt:
        translator = self.site(context).translator(coordinates)
        indices, _ = translator.indices(init.output.indices)
        body = [storage.mark(indices, integer(0)), *self._value(init, env, coordinates, context)]
        if ahead is not None:
            body.append(ahead.copy(indices, storage.load(indices)))
            held = storage.holds(indices)
            body.append(ahead.mark(indices, as_cond(held[0])) if held else None)
        return block(body)

    def _value(
        self, init: Einsum, env: Env, coordinates: Coordinates, context: Context
    ) -> list[LoopStmt | None]:
        """Return the statements that compute one element of an ``init`` Einsum."""
        storage = replace(context.storage[init.name], ahead=None)
        if init.reduce is None:
            return [self.point(init, coordinates, context, storage)]
        region = Region(storage.region.starts, ())
        kind = self._total_kind(init)
        buffer = Buffer(self.fresh(f"{init.name}_acc"), (), kind, storage.buffer.memory)
        accumulator = self._with_counts(init, Storage(buffer, region), direct=False)
        inner = replace(context, accumulators={**context.accumulators, init.name: accumulator})
        around = {name: Range(at, 1, (), 1) for name, at in coordinates.items()}
        body = self.over(
            init.reduce.over,
            env,
            lambda own: self.point(init, {**coordinates, **own}, inner, storage),
        )
        stmts = [
            self.open(init, accumulator, around),
            body,
            self.close(init, accumulator, around, context, storage),
        ]
        return [allocated(accumulator, block(stmts))]


def allocated(accumulator: Accumulator, body: LoopStmt) -> LoopStmt:
    """Return a statement inside the scope of an accumulator's own buffers."""
    own = [] if accumulator.direct else [accumulator.total.buffer]
    for buffer in (*own, accumulator.counted, accumulator.hit):
        if buffer is not None:
            body = Alloc(buffer, body)
    return body


def _none_of(present: Present) -> LoopExpr | None:
    """Return the condition that not all conditions hold; None if they always do."""
    cond = negation(joined(present))
    return None if cond is False else as_cond(cond)


def _scalar(path: Path, step: Step, einsum: Einsum) -> bool:
    """Whether nothing but reduced variables is stepped from a loop inward."""
    assert einsum.reduce is not None
    inner = path[path.index(step) :]
    return all(
        part.loop.variable in einsum.reduce.over
        for part in inner
        if isinstance(part, Step) and part.count > 1
    )

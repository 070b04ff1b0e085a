"""Selections: the best candidates so far, in order, each new one put into its place.

Before → after, for ``SEL[p, j] = X[p, m] :: topk[m -> j]`` at one p::

    for m:
      if SEL_held < J or X[p, m] > SEL_best[J - 1]:
        for j from J - 1 down to 0, if SEL_best[j] is no number yet, or not as good as X[p, m]:
          SEL_best[j], SEL_place[j] = X[p, m], m     if SEL_best[j - 1] is as good or better, else
                                      those of j - 1
    for j < SEL_held: SEL[p, j] = SEL_place[j]

Candidates come in the order of their coordinates, so that equals stay in it; NaN comes after every
number. That takes J steps for a candidate at most, as the model counts; where the mapping has the
places side by side, each looks at itself and the one before it, all at once: one step. Excluded:
other reductions (`lower/point.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from penstock.codegen.loops.nodes import (
    Alloc,
    Buffer,
    Const,
    For,
    If,
    Load,
    LoopExpr,
    LoopStmt,
    Name,
    Op,
    Store,
)
from penstock.codegen.lower.index import Lin, add, constant, integer, scale, to_expr
from penstock.codegen.lower.nest import Coordinates, block, guarded
from penstock.codegen.lower.point import Pointer
from penstock.codegen.lower.storage import Context
from penstock.codegen.lower.tree import Env, Leaf, Part, Step
from penstock.einsum_ir.nodes import Einsum, variables
from penstock.einsum_ir.ops import SELECTIONS

__all__ = ["Selector"]


@dataclass(frozen=True, slots=True)
class _Best:
    """The candidates that are held, the best first.

    Args:
        count: how many there may be.
        values: theirs.
        places: their coordinates.
        held: how many there are.
        new: the candidate that is looked at.
        largest: whether large values are good.
        floating: whether a value may be NaN.
        side_by_side: the mapping's loop over the places, if they are on an axis.
    """

    count: int
    values: Buffer
    places: Buffer
    held: Buffer
    new: Buffer
    largest: bool
    floating: bool
    side_by_side: Step | None

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """All of them."""
        return (self.values, self.places, self.held, self.new)

    def before(self, at: LoopExpr) -> LoopExpr:
        """Return whether the new candidate comes before the one held at a place.

        A number is told from NaN by ``>= -inf``: compilers take ``x == x`` for true.
        """
        new, old = Load(self.new.name, ()), Load(self.values.name, (at,))
        found = Op(">" if self.largest else "<", (new, old))
        if not self.floating:
            return found
        new_there, old_there = (Op(">=", (each, Const(-math.inf))) for each in (new, old))
        return Op("where", (old_there, found, new_there))

    def stays(self, at: LoopExpr) -> LoopExpr:
        """Return whether something is held at a place, and the new candidate comes after it."""
        room = Op("<", (at, Load(self.held.name, ())))
        return Op("where", (room, Op("not", (self.before(at),)), room))


class Selector(Pointer):
    """Makes the statements of selections."""

    def selects(self, part: Part) -> bool:
        """Whether a part is all that a selection does at one point of its kept ranks."""
        match part:
            case Leaf(einsum):
                return einsum.selects
            case Step(leaf=None):
                return False
            case Step():
                einsum = self.plan.bound.cascade.einsum(
                    next(self.plan.tree.below(part)).einsum.name
                )
                return einsum.selects and part.loop.variable not in _kept(einsum)
            case _:
                return False

    def selection(self, part: Part, context: Context) -> LoopStmt:
        """Return the statements of such a part."""
        einsum = next(self.plan.tree.below(part)).einsum
        env = dict(part.env)
        if isinstance(part, Step):
            env[part.loop.variable] = part.outside
        kept = {name: env[name].start for name in _kept(einsum)}
        best = self._best(einsum, context)
        assert einsum.reduce is not None

        def candidate(coordinates: Coordinates) -> LoopStmt | None:
            return self._candidate(einsum, best, {**kept, **coordinates}, context)

        body = block(
            [
                Store(best.held.name, (), integer(0)),
                self.over(einsum.reduce.over, env, candidate, f"candidates of {einsum.name}"),
                self._chosen(einsum, best, kept, env, context),
            ]
        )
        for buffer in best.buffers:
            body = Alloc(buffer, body)
        return body

    def _best(self, einsum: Einsum, context: Context) -> _Best:
        assert einsum.reduce is not None
        name, memory = einsum.name, context.storage[einsum.name].buffer.memory
        count = self.plan.bound.extents[einsum.places] if einsum.places else 1
        path = self.plan.tree.paths[name]
        steps = [e for e in path if isinstance(e, Step) and e.loop.variable == einsum.places]
        return _Best(
            count,
            Buffer(self.fresh(f"{name}_best"), (count,), "acc", memory),
            Buffer(self.fresh(f"{name}_place"), (count,), "index", memory),
            Buffer(self.fresh(f"{name}_held"), (), "index", memory),
            Buffer(self.fresh(f"{name}_new"), (), "acc", memory),
            SELECTIONS[einsum.reduce.op].largest,
            not self.plan.fmt.exact,
            next((each for each in steps if each.kind is not None), None),
        )

    def _candidate(
        self, einsum: Einsum, best: _Best, coordinates: Coordinates, context: Context
    ) -> LoopStmt | None:
        translator = self.site(context).translator(coordinates)
        value = translator.real(translator.value(einsum.body))
        held = Load(best.held.name, ())
        room = Op("<", (held, integer(best.count)))
        more = If(room, Store(best.held.name, (), _plus(held, 1)))
        put: LoopStmt = block([self._put(einsum, best, coordinates), more])
        if best.side_by_side is None:  # most candidates are left out at once
            put = If(Op("where", (room, room, best.before(integer(best.count - 1)))), put)
        body = block([Store(best.new.name, (), value), put])
        return guarded(self._conditions(einsum, translator), context.active, body)

    def _put(self, einsum: Einsum, best: _Best, coordinates: Coordinates) -> LoopStmt:
        """Put the candidate where it belongs, and what is worse one place on, the last first."""
        flat = to_expr(self._flat(einsum, coordinates))
        if best.count == 1:
            return If(Op("not", (best.stays(integer(0)),)), self._stored(best, integer(0), flat))
        step = Name(self.fresh("k"))
        self.ranges[step.name] = (0, best.count - 1)
        at = Op("-", (integer(best.count - 1), step))
        first = Op("<=", (at, integer(0)))
        first = Op("where", (first, first, best.stays(Op("-", (at, integer(1))))))
        held = Op("<=", (at, Load(best.held.name, ())))
        changes = If(held, If(Op("not", (best.stays(at),)), self._stored(best, at, flat, first)))
        extent, comment = integer(best.count), f"places of {einsum.name}"
        beside = best.side_by_side
        if beside is None or beside.kind is None:
            return For(step.name, extent, changes, comment=comment)
        return For(step.name, extent, changes, beside.kind, beside.axis, str(beside.loop))

    def _stored(
        self, best: _Best, at: LoopExpr, flat: LoopExpr, first: LoopExpr | None = None
    ) -> LoopStmt:
        """Write the candidate, or unless it is `first` what is one place before, at a place."""
        found = []
        for buffer, new in ((best.values, Load(best.new.name, ())), (best.places, flat)):
            before = Load(buffer.name, (Op("-", (at, integer(1))),))
            value = new if first is None else Op("where", (first, new, before))
            found.append(Store(buffer.name, (at,), value))
        return block(found)

    def _flat(self, einsum: Einsum, coordinates: Coordinates) -> Lin:
        """Return the coordinate along all reduced ranks, the last one fastest."""
        assert einsum.reduce is not None
        found = constant(0)
        for name in einsum.reduce.over:
            found = add(scale(found, self.plan.bound.extents[name]), coordinates[name])
        return found

    def _chosen(
        self, einsum: Einsum, best: _Best, kept: Coordinates, env: Env, context: Context
    ) -> LoopStmt | None:
        storage = context.storage[einsum.name]

        def make(own: Coordinates) -> LoopStmt | None:
            translator = self.site(context).translator({**kept, **own})
            indices, _ = translator.indices(einsum.output.indices)
            at = to_expr(own[einsum.places]) if einsum.places else integer(0)
            chosen = storage.store(indices, Load(best.places.name, (at,)))
            there = Op("<", (at, Load(best.held.name, ())))
            return If(there, block([chosen, storage.mark(indices)]))

        names = [einsum.places] if einsum.places else []
        return self.over(names, env, make, f"finish {einsum.name}")


def _kept(einsum: Einsum) -> tuple[str, ...]:
    return tuple(name for name in variables(einsum.output) if name != einsum.places)


def _plus(value: LoopExpr, more: int) -> LoopExpr:
    return Op("+", (value, integer(more)))

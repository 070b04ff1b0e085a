"""Selections: the best candidates so far, in order, each new one put into its place.

Before → after, for ``SEL[p, j] = X[p, m] :: topk[m -> j]`` at one p::

    for m:
      if SEL_held < J or X[p, m] > SEL_best[J - 1]:
        spot = how many of SEL_best are not worse than X[p, m]
        move what follows on by one; SEL_best[spot], SEL_place[spot] = X[p, m], m
    for j < SEL_held: SEL[p, j] = SEL_place[j]

Candidates come in the order of their coordinates, so that equals stay in it; NaN comes after every
number. That takes J steps for a candidate at most, as the model counts. Excluded: other reductions
(`lower/point.py`).
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
        spot: where it belongs.
        largest: whether large values are good.
        floating: whether a value may be NaN.
    """

    count: int
    values: Buffer
    places: Buffer
    held: Buffer
    new: Buffer
    spot: Buffer
    largest: bool
    floating: bool

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """All of them."""
        return (self.values, self.places, self.held, self.new, self.spot)

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
        return _Best(
            count,
            Buffer(self.fresh(f"{name}_best"), (count,), "acc", memory),
            Buffer(self.fresh(f"{name}_place"), (count,), "index", memory),
            Buffer(self.fresh(f"{name}_held"), (), "index", memory),
            Buffer(self.fresh(f"{name}_new"), (), "acc", memory),
            Buffer(self.fresh(f"{name}_spot"), (), "index", memory),
            SELECTIONS[einsum.reduce.op].largest,
            not self.plan.fmt.exact,
        )

    def _candidate(
        self, einsum: Einsum, best: _Best, coordinates: Coordinates, context: Context
    ) -> LoopStmt | None:
        translator = self.site(context).translator(coordinates)
        value = translator.real(translator.value(einsum.body))
        held = Load(best.held.name, ())
        room = Op("<", (held, integer(best.count)))
        wanted = Op("where", (room, room, best.before(integer(best.count - 1))))
        put = block([self._spot(best), self._moved(best), self._put(einsum, best, coordinates)])
        body = block([Store(best.new.name, (), value), If(wanted, put)])
        return guarded(self._conditions(einsum, translator), context.active, body)

    def _spot(self, best: _Best) -> LoopStmt:
        """Count the held ones that are not worse: they come first."""
        at = Name(self._loop(best.count))
        held = Op("<", (at, Load(best.held.name, ())))
        spot = Op("where", (best.before(at), Load(best.spot.name, ()), _plus(at, 1)))
        after = Store(best.spot.name, (), spot)
        return block(
            [
                Store(best.spot.name, (), integer(0)),
                For(at.name, integer(best.count), If(held, after), comment="where it belongs"),
            ]
        )

    def _moved(self, best: _Best) -> LoopStmt | None:
        """Move the worse ones on by one, the last first."""
        if best.count == 1:
            return None
        step = Name(self._loop(best.count - 1))
        at = Op("-", (integer(best.count - 1), step))
        earlier = Op("-", (integer(best.count - 2), step))
        moves = [
            Store(each.name, (at,), Load(each.name, (earlier,)))
            for each in (best.values, best.places)
        ]
        worse = Op(">", (at, Load(best.spot.name, ())))
        held = Op("<=", (at, Load(best.held.name, ())))
        test = If(worse, If(held, block(moves)))
        return For(step.name, integer(best.count - 1), test, comment="move worse ones on")

    def _put(self, einsum: Einsum, best: _Best, coordinates: Coordinates) -> LoopStmt:
        spot, held = Load(best.spot.name, ()), Load(best.held.name, ())
        more = Store(best.held.name, (), _plus(held, 1))
        return block(
            [
                Store(best.values.name, (spot,), Load(best.new.name, ())),
                Store(best.places.name, (spot,), to_expr(self._flat(einsum, coordinates))),
                If(Op("<", (held, integer(best.count))), more),
            ]
        )

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

    def _loop(self, extent: int) -> str:
        variable = self.fresh("k")
        self.ranges[variable] = (0, extent - 1)
        return variable


def _kept(einsum: Einsum) -> tuple[str, ...]:
    return tuple(name for name in variables(einsum.output) if name != einsum.places)


def _plus(value: LoopExpr, more: int) -> LoopExpr:
    return Op("+", (value, integer(more)))

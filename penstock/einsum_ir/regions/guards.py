"""For each Einsum, where its points can have any effect: what a program may skip.

A guard is a *necessary* condition over the Einsum's own variables: where it is false, leaving the
points out changes no output. It joins the Einsum's predicate, index ranges that are not sure to
hold, the presence of its operands, and the demand of its consumers: an element that is read only
at points that have no effect has none either. What cannot be said without reading a tensor is
left out. Presence itself is in `presence.py`.

A step of an iterative tensor is always in demand, because what it leaves is carried over. Where
its guard is false it is absent, and the old state stays. ``init`` Einsums have no guards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from penstock.einsum_ir.nodes import Access, Apply, Einsum, Expr, Num, Var, substitute, variables
from penstock.einsum_ir.regions.conditions import (
    FALSE,
    TRUE,
    Condition,
    condition,
    conjunction,
    disjunction,
    exists,
    expression,
    renamed,
    simplified,
)
from penstock.einsum_ir.regions.presence import PresenceAnalysis, first_step, presence
from penstock.einsum_ir.shapes import Bound

__all__ = ["Demand", "guards", "presence"]


def guards(bound: Bound) -> dict[str, Expr | None]:
    """Return for each Einsum a condition that its points must meet to have any effect.

    Args:
        bound: a cascade with its extents.

    Returns:
        Tensor that the Einsum defines → a condition over the Einsum's variables, with shapes
        and constants as numbers; None where there is none, 0 where no point has any effect.
    """
    sizes = (tuple(bound.extents.items()), tuple(bound.symbols.items()))
    return dict(_guards(_Question(str(bound.cascade), sizes, bound)))


@dataclass(frozen=True)
class _Question:
    """A bound cascade that equals each other with the same text and sizes."""

    text: str
    sizes: tuple[tuple[tuple[str, float], ...], ...]
    bound: Bound = field(compare=False)


@lru_cache(maxsize=64)
def _guards(question: _Question) -> dict[str, Expr | None]:
    analysis = Demand(question.bound)
    return {
        each.name: expression(analysis.guard(each))
        for each in question.bound.cascade.einsums
        if not each.init
    }


class Demand:
    """Guards of all Einsums of a cascade, and who reads which elements; memoises."""

    def __init__(self, bound: Bound) -> None:
        self.bound = bound
        self.presence = PresenceAnalysis(bound)
        self.outputs = {each.tensor for each in bound.cascade.outputs}
        self.consumers: dict[str, list[tuple[Einsum, Access]]] = {}
        for einsum in map(first_step, bound.cascade.einsums):
            for access in einsum.operands:
                self.consumers.setdefault(access.tensor, []).append((einsum, access))
        self._known: dict[tuple[str, bool], Condition] = {}

    def guard(self, einsum: Einsum) -> Condition:
        """Return where points of an Einsum can have any effect, over its variables."""
        key = (einsum.name, einsum.init)
        if key not in self._known:
            own = self.presence.point(einsum)
            both = conjunction(own, self.demand(einsum))
            self._known[key] = simplified(both, self.bound.extents)
        return self._known[key]

    def demand(self, einsum: Einsum) -> Condition:
        """Return where elements are read at points with an effect, over the left side."""
        names = self.presence.names(einsum.name)
        always = einsum.name in self.outputs or einsum.iterative is not None or einsum.init
        if always or len(set(names)) < len(names):
            return TRUE
        extents = {name: self.bound.extents[name] for name in names}
        return self.read(einsum.name, extents)

    def read(self, tensor: str, extents: Mapping[str, int]) -> Condition:
        """Return which elements of a tensor are read at points that have an effect.

        Args:
            tensor: an input, or what an Einsum defines.
            extents: a name for each of its dimensions, in order → extent.
        """
        found = FALSE
        for consumer, access in self.consumers.get(tensor, []):
            found = disjunction(found, self.use(extents, consumer, access))
            if found.cases == TRUE.cases:
                break
        return found

    def use(self, extents: Mapping[str, int], consumer: Einsum, access: Access) -> Condition:
        """Return which elements one access of a consumer reads, at points that have an effect."""
        names = tuple(extents)
        apart: dict[str, Expr] = {name: Var(f"{name}'") for name in consumer.variables}
        symbols = self.bound.symbols
        met: list[Condition] = []
        for name, index in zip(names, access.indices, strict=True):
            if isinstance(index, Var) and apart.get(index.name) == Var(f"{index.name}'"):
                apart[index.name] = Var(name)
                inside = Apply("<", (Var(name), Num(self.bound.extents[index.name])))
                met.append(condition(inside, symbols))
        for name, index in zip(names, access.indices, strict=True):
            if apart.get(index.name if isinstance(index, Var) else "") != Var(name):
                met.append(condition(Apply("==", (Var(name), substitute(index, apart))), symbols))
        reads = renamed(self.guard(consumer), apart, symbols)
        return self._eliminated(conjunction(reads, *met), extents, apart)

    def _eliminated(
        self, reads: Condition, extents: Mapping[str, int], apart: Mapping[str, Expr]
    ) -> Condition:
        known, gone = dict(extents), []
        for name, now in apart.items():
            new = variables(now)[0]
            if new not in extents:
                known[new] = self.bound.extents[name]
                gone.append(new)
        return exists(reads, gone, known)

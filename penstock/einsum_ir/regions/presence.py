"""Where each tensor of a cascade is present, from predicates, index ranges and operands.

Excluded: data. What a tensor's values decide (``s.t. RD[p] > 0``, an index tensor) is not known
here; such a tensor's mask must be stored.

An iterative tensor: an absent step carries the old state over, so the tensor is present from the
coordinate on at which it first was. Where its ``init`` is present, it is present at every
coordinate. A step that reads the state at the element that it writes cannot begin without it, so
there the tensor is present exactly where its ``init`` is; any other step adds the elements for
which some earlier step was present.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from penstock.einsum_ir.nodes import (
    Access,
    Apply,
    Einsum,
    Expr,
    Num,
    Sym,
    Var,
    accesses,
    next_variable,
    substitute,
    variables,
)
from penstock.einsum_ir.regions.conditions import (
    FALSE,
    TRUE,
    Condition,
    condition,
    conjunction,
    disjunction,
    exists,
    expression,
    inexact,
    renamed,
    simplified,
)
from penstock.einsum_ir.regions.counting import extremes
from penstock.einsum_ir.regions.linear import is_integral, linear
from penstock.einsum_ir.shapes import Bound

__all__ = ["Always", "Presence", "PresenceAnalysis", "Stored", "When", "first_step", "presence"]

BRUTE = 1 << 24
"""Points over which it is decided by enumeration whether a reduction is always present."""


@dataclass(frozen=True, slots=True)
class Always:
    """Every element is present."""


@dataclass(frozen=True, slots=True)
class When:
    """An element is present exactly where a condition holds that reads no tensor.

    Args:
        variables: a name for the coordinate along each dimension: the variable that the left
            side has there. For the iterative rank of ``X[i + 1]`` it is ``i``, and stands for
            the coordinate itself: 0 for the ``init``.
        condition: over these; 0 if no element is present.
    """

    variables: tuple[str, ...]
    condition: Expr


@dataclass(frozen=True, slots=True)
class Stored:
    """Presence depends on data or has no short form: a mask must be stored with the tensor."""


Presence = Always | When | Stored


def presence(bound: Bound) -> dict[str, Presence]:
    """Return where each tensor is present, inputs included.

    Args:
        bound: a cascade with its extents.

    Returns:
        Tensor → `Always`, `When` or `Stored`, exactly.
    """
    analysis = PresenceAnalysis(bound)
    return {name: analysis.presence(name) for name in bound.dims}


def first_step(einsum: Einsum) -> Einsum:
    """Return an ``init`` Einsum that is written at ``i + 1`` (i is -1) as one at 0."""
    name = einsum.iterative
    if not einsum.init or name is None:
        return einsum
    before: dict[str, Expr] = {name: Num(-1)}
    indices = tuple(Num(0) if next_variable(i) else i for i in einsum.output.indices)
    return replace(
        einsum,
        output=replace(einsum.output, indices=indices),
        body=substitute(einsum.body, before),
        where=substitute(einsum.where, before) if einsum.where is not None else None,
    )


class PresenceAnalysis:
    """Necessary conditions for elements and points to be present; memoises while it is used."""

    def __init__(self, bound: Bound) -> None:
        self.bound = bound
        self.inputs = {each.tensor for each in bound.cascade.inputs}
        self.inits = {each.name: first_step(each) for each in bound.cascade.einsums if each.init}
        self.steps = {each.name: each for each in bound.cascade.einsums if not each.init}
        self._tensors: dict[str, Condition] = {}
        self._points: dict[tuple[str, bool], Condition] = {}

    def presence(self, name: str) -> Presence:
        """Return where a tensor is present."""
        found = self.tensor(name)
        if not found.exact:
            return Stored()
        condition = expression(found)
        return Always() if condition is None else When(self.names(name), condition)

    def names(self, tensor: str) -> tuple[str, ...]:
        """Return the names of a defined tensor's coordinates (see `When`)."""
        return tuple(variables(index)[0] for index in self.steps[tensor].output.indices)

    def tensor(self, name: str) -> Condition:
        """Return where a tensor is present, over `names`."""
        if name in self.inputs:
            return TRUE
        if name not in self._tensors:
            einsum = self.steps[name]
            names = self.names(name)
            if len(set(names)) < len(names):  # X[i, i]: the other elements are never written
                found = inexact(TRUE)
            elif einsum.iterative is None:
                found = self.output(einsum)
            else:
                found = self._iterative(einsum, einsum.iterative)
            self._tensors[name] = found
        return self._tensors[name]

    # --- points and elements ------------------------------------------------------------------

    def point(self, einsum: Einsum) -> Condition:
        """Return where a point of an Einsum is present, over its variables."""
        key = (einsum.name, einsum.init)
        if key not in self._points:
            parts = [self.value(einsum.body)]
            if einsum.where is not None:
                parts += [condition(einsum.where, self.bound.symbols), self.value(einsum.where)]
            self._points[key] = simplified(conjunction(*parts), self.bound.extents)
        return self._points[key]

    def output(self, einsum: Einsum) -> Condition:
        """Return where an Einsum gives a value, over the variables of its left side."""
        point = self.point(einsum)
        if einsum.reduce is None:
            return point
        found = exists(point, einsum.reduce.over, self.bound.extents)
        if einsum.selects:  # how many candidates there are, the condition does not say
            return inexact(found)
        if found.exact or not point.exact:
            return found
        return self._enumerated(point, einsum.reduce.over, found)

    def _enumerated(
        self, point: Condition, reduced: tuple[str, ...], found: Condition
    ) -> Condition:
        """Decide by enumeration whether some reduced point is present for all, or none."""
        pred = expression(point)
        if pred is None:
            return TRUE
        mentioned = variables(pred)
        kept = tuple(name for name in mentioned if name not in reduced)
        folded = tuple(name for name in mentioned if name in reduced)
        if math.prod(self.bound.extents[name] for name in mentioned) > BRUTE:
            return found
        every, some = extremes(pred, kept, folded, self.bound.extents, {})
        return TRUE if every else found if some else FALSE

    def value(self, expr: Expr) -> Condition:
        """Return where an expression has a value (not: where it is true)."""
        match expr:
            case Num() | Var() | Sym():
                return TRUE
            case Access():
                return self._access(expr)
            case Apply("fill", (inner, instead)):
                return disjunction(self.value(inner), self.value(instead))
            case Apply("where", (test, then, otherwise)):
                return self._chosen(test, then, otherwise)
            case Apply("//" | "%", (_, divisor)):
                found = conjunction(*(self.value(arg) for arg in expr.args))
                sure = condition(divisor, self.bound.symbols)
                if sure == TRUE or not accesses(expr):
                    return conjunction(found, sure)
                return inexact(found)  # only coordinates are absent when divided by zero
            case Apply(_, args):
                return conjunction(*(self.value(arg) for arg in args))

    def _chosen(self, test: Expr, then: Expr, otherwise: Expr) -> Condition:
        yes, no = self.value(then), self.value(otherwise)
        if yes == no:
            return conjunction(self.value(test), yes)
        symbols = self.bound.symbols
        sides = disjunction(
            conjunction(condition(test, symbols), yes),
            conjunction(condition(test, symbols, holds=False), no),
        )
        return conjunction(self.value(test), sides)

    def _access(self, access: Access) -> Condition:
        dims = self.bound.dims[access.tensor]
        parts = [self._index(i, n) for i, n in zip(access.indices, dims, strict=True)]
        own = self.tensor(access.tensor)
        if own.variables:
            names = dict(zip(self.names(access.tensor), access.indices, strict=True))
            own = renamed(own, names, self.bound.symbols)
        return simplified(conjunction(own, *parts), self.bound.extents)

    def _index(self, index: Expr, dim: int) -> Condition:
        """Return where an index is a coordinate of a dimension."""
        symbols = self.bound.symbols
        low = condition(Apply("<=", (Num(0), index)), symbols)
        high = condition(Apply("<", (index, Num(dim))), symbols)
        found = conjunction(low, high, self.value(index))
        form = linear(index, symbols)
        whole = form.whole and float(form.constant).is_integer()
        return found if whole or is_integral(index) else inexact(found)

    # --- iterative tensors --------------------------------------------------------------------

    def _iterative(self, step: Einsum, variable: str) -> Condition:
        names = self.names(step.name)
        extents = dict(zip(names, self.bound.dims[step.name], strict=True))
        start = simplified(self._start(step, names), extents)
        if start == TRUE or self._reads_itself(step.body, step):
            return start
        if step.name in self._needs(step):
            return inexact(TRUE)
        earlier = f"{variable}'"
        found = renamed(self.output(step), {variable: Var(earlier)}, self.bound.symbols)
        before = condition(Apply("<", (Var(earlier), Var(variable))), {})
        inner = {**self.bound.extents, **extents, earlier: self.bound.extents[variable]}
        some = exists(conjunction(found, before), [earlier], inner)
        return simplified(disjunction(start, some), extents)

    def _start(self, step: Einsum, names: tuple[str, ...]) -> Condition:
        init = self.inits.get(step.name)
        if init is None:
            return FALSE
        found = self.output(init)
        pairs = zip(init.output.indices, names, strict=True)
        changed: dict[str, Expr] = {
            index.name: Var(name) for index, name in pairs if isinstance(index, Var)
        }
        return renamed(found, changed, self.bound.symbols)

    def _reads_itself(self, expr: Expr, step: Einsum) -> bool:
        """Whether a step has no value where its own state, at the same element, is absent."""
        own = tuple(
            Var(variables(index)[0]) if next_variable(index) else index
            for index in step.output.indices
        )
        match expr:
            case Access(tensor, indices):
                inner = any(self._reads_itself(index, step) for index in indices)
                return inner or (tensor == step.name and indices == own)
            case Apply("fill", (inside, instead)):
                return self._reads_itself(inside, step) and self._reads_itself(instead, step)
            case Apply("where", (test, then, otherwise)):
                both = self._reads_itself(then, step) and self._reads_itself(otherwise, step)
                return both or self._reads_itself(test, step)
            case Apply(_, args):
                return any(self._reads_itself(arg, step) for arg in args)
            case Num() | Var() | Sym():
                return False

    def _needs(self, step: Einsum) -> set[str]:
        """Return the tensors on which an Einsum depends, through others too."""
        found: set[str] = set()
        waiting = [step]
        while waiting:
            for access in waiting.pop().operands:
                if access.tensor not in found:
                    found.add(access.tensor)
                    both = (self.steps.get(access.tensor), self.inits.get(access.tensor))
                    waiting += [einsum for einsum in both if einsum is not None]
        return found

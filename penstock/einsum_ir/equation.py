"""Einsums as a front end reads them, and how they become statements of a `Cascade`.

Both front ends (`notation.py` and `dsl.py`) end here, so that they build equal objects. Excluded:
everything that differs between them.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from penstock.einsum_ir.nodes import (
    Access,
    Einsum,
    Expr,
    Group,
    Reduce,
    Statement,
    resolve_scalars,
    variables,
)
from penstock.errors import Span

__all__ = ["Equation", "Loop", "equations", "statements"]


@dataclass(frozen=True, slots=True)
class Equation:
    """An Einsum before scalars are told from tensors without ranks.

    A reduction over no ranks stands for one over all that the left side lacks.
    """

    output: Access
    body: Expr
    reduce: Reduce | None
    where: Expr | None
    init: bool
    span: Span | None

    @property
    def exprs(self) -> tuple[Expr, ...]:
        """The right side: the body and the predicate, if there is one."""
        return (self.body,) if self.where is None else (self.body, self.where)


@dataclass(frozen=True, slots=True)
class Loop:
    """Equations that advance along one variable in lock step."""

    variable: str
    equations: tuple[Equation, ...]
    span: Span | None


def equations(found: Iterable[Equation | Loop]) -> tuple[Equation, ...]:
    """Return the equations, those of loops included, in order."""
    return tuple(
        equation
        for each in found
        for equation in (each.equations if isinstance(each, Loop) else (each,))
    )


def statements(
    found: Iterable[Equation | Loop], scalars: AbstractSet[str]
) -> tuple[Statement, ...]:
    """Return the statements of a cascade.

    Args:
        found: what the front end read.
        scalars: names of inputs without ranks; the equations without ranks are added.

    Raises:
        CascadeError: an Einsum that means nothing.
    """
    found = tuple(found)
    names = scalars | {e.output.tensor for e in equations(found) if not e.output.indices}
    built: list[Statement] = []
    for each in found:
        if isinstance(each, Loop):
            members = tuple(_einsum(equation, names) for equation in each.equations)
            built.append(Group(each.variable, members, span=each.span))
        else:
            built.append(_einsum(each, names))
    return tuple(built)


def _einsum(found: Equation, scalars: AbstractSet[str]) -> Einsum:
    where = None if found.where is None else resolve_scalars(found.where, scalars)
    body = resolve_scalars(found.body, scalars)
    reduce = found.reduce
    if reduce is not None and not reduce.over:
        kept = variables(found.output)
        missing = tuple(name for name in variables(*found.exprs) if name not in kept)
        reduce = Reduce(reduce.op, missing)
    return Einsum(found.output, body, reduce, where, found.init, span=found.span)

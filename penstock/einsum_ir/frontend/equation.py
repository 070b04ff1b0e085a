"""Einsums as a front end reads them, and how they become statements of a `Cascade`.

Both front ends (`notation.py` and `dsl.py`) end here, so that they build equal objects. Excluded:
everything that differs between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from itertools import groupby

from penstock.einsum_ir.frontend.sugar import Equation, plain
from penstock.einsum_ir.nodes import (
    Einsum,
    Group,
    Statement,
    resolve_scalars,
    variables,
)
from penstock.errors import Span

__all__ = ["Equation", "Loop", "equations", "statements", "tensors"]


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
    found: Iterable[Equation | Loop],
    scalars: AbstractSet[str],
    outputs: Mapping[str, Sequence[str]] | None = None,
) -> tuple[Statement, ...]:
    """Return the statements of a cascade, without the short forms of `sugar.py`.

    Args:
        found: what the front end read.
        scalars: names of inputs without ranks; the equations without ranks are added.
        outputs: output tensor → its declared ranks.

    Raises:
        CascadeError: an Einsum that means nothing.
    """
    found = tuple(found)
    names = scalars | {e.output.tensor for e in equations(found) if not e.output.indices}
    built: list[Statement] = []
    for is_loop, run in groupby(found, lambda each: isinstance(each, Loop)):
        for each in run if is_loop else [Loop("", equations(run), None)]:
            assert isinstance(each, Loop)
            members = tuple(_einsum(one, names) for one in plain(each.equations, outputs))
            built += [Group(each.variable, members, span=each.span)] if is_loop else members
    return tuple(built)


def tensors(built: Iterable[Statement]) -> set[str]:
    """Return the names of the tensors that statements define."""
    groups = ((each.einsums if isinstance(each, Group) else (each,)) for each in built)
    return {einsum.name for group in groups for einsum in group}


def _einsum(found: Equation, scalars: AbstractSet[str]) -> Einsum:
    where = None if found.where is None else resolve_scalars(found.where, scalars)
    body = resolve_scalars(found.body, scalars)
    reduce = found.reduce
    if reduce is not None and not reduce.over:
        kept = variables(found.output)
        missing = tuple(name for name in variables(*found.exprs) if name not in kept)
        reduce = replace(reduce, over=missing)
    return Einsum(found.output, body, reduce, where, found.init, span=found.span)

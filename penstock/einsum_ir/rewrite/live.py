"""Which statements outputs need: before a chain is looked at, and after it is emitted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from penstock.einsum_ir.nodes import Declaration, Einsum, Group, Statement

__all__ = ["einsums_of", "live", "names_of"]


def einsums_of(statements: Iterable[Statement]) -> list[Einsum]:
    """Return the Einsums of statements, those of groups included."""
    return [e for each in statements for e in (each.einsums if isinstance(each, Group) else [each])]


def names_of(statement: Statement) -> list[str]:
    """Return the tensors that a statement defines."""
    return [each.name for each in einsums_of([statement])]


def live(statements: Sequence[Statement], outputs: Iterable[Declaration]) -> tuple[Statement, ...]:
    """Return the statements without Einsums that no output needs."""
    wanted = {each.tensor for each in outputs}
    size = -1
    while size < len(wanted):
        size = len(wanted)
        for einsum in einsums_of(statements):
            if einsum.name in wanted:
                wanted |= {access.tensor for access in einsum.operands}
    found: list[Statement] = []
    for each in statements:
        if isinstance(each, Group):
            kept = tuple(inner for inner in each.einsums if inner.name in wanted)
            found += [replace(each, einsums=kept)] if kept else []
        elif each.name in wanted:
            found.append(each)
    return tuple(found)

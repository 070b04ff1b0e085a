"""Which derived form is taken: the first, in the order of cost, that the numerical gate passes.

Excluded: how forms are judged (`gate.py`), and what they cost (`fuse.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.formats import Format, parse_format
from penstock.einsum_ir.nodes import Access, Apply, Declaration, Einsum, Expr, Num, Var
from penstock.einsum_ir.rewrite import gate as gates
from penstock.einsum_ir.rewrite.plan import Fused, Variant

__all__ = ["by_order", "passing", "restricted"]


def passing(
    cascade: Cascade,
    rank: str,
    candidates: Iterator[Variant],
    tile: str,
    fmt: Format | None,
    most: int,
    signs: tuple[frozenset[str], frozenset[str]],
) -> tuple[list[Variant], str]:
    """Return the first variants that pass the gate, and why the first that did not was refused.

    Where no tree passes, the first whose streaming form does, without their trees.

    Args:
        cascade: the original.
        rank: over which passes are saved.
        candidates: derived forms, the preferred ones first.
        tile: the tile rank of the forms.
        fmt: the target's number format; None: fp32.
        most: how many to look for.
        signs: inputs that are positive, and that are negative.
    """
    asked = restricted(cascade, *signs)
    trial = gates.trial(asked, rank, fmt or parse_format("fp32"))
    chosen: list[Variant] = []
    without: list[Variant] = []
    refused = ""
    for each in candidates:
        if chosen and chosen[-1].reductions == each.reductions:
            continue  # the same, with more guards
        stream = gates.streamed(each.name, restricted(each.cascade, *signs), tile)
        verdict = trial.judge(stream)
        if verdict.passed and each.tree is not None:
            without.append(replace(each, tree=None))
            tree = gates.Form("parts", restricted(each.tree, *signs), ((tile, 16),))
            verdict = trial.judge(gates.Variant(each.name, (tree,)))
        refused = refused or verdict.refused
        if verdict.passed:
            chosen.append(each)
        if len(chosen) == most:
            break
    return chosen or without[:most], refused


def by_order(cascade: Cascade, forms: Mapping[str, Sequence[Fused]]) -> Cascade:
    """Let selections compare what orders elements, without the rounding of what was written.

    Before → after: ``SEL = exp(X - GM) / SD :: topk`` → ``SEL = X :: topk``, where exponentials
    that round to the same number are no ties.
    """
    bodies = {
        name: found[0].accumulators[0].body
        for name, found in forms.items()
        if found[0].accumulators[0].op == "topk"
    }
    statements = tuple(
        replace(each, body=bodies[each.name])
        if isinstance(each, Einsum) and each.name in bodies
        else each
        for each in cascade.statements
    )
    return replace(cascade, statements=statements)


def restricted(cascade: Cascade, positive: frozenset[str], negative: frozenset[str]) -> Cascade:
    """Make inputs of one sign out of any numbers.

    Before → after, X > 0: ``c(X[m])`` → ``c(X_ANY[m])`` and ``X[m] = abs(X_ANY[m])``, or 1 for 0.
    """
    declared = {each.tensor: each for each in cascade.inputs}
    changed = [declared[name] for name in sorted((positive | negative) & set(declared))]
    if not changed:
        return cascade
    renamed = {each.tensor: Declaration(f"{each.tensor}_ANY", each.ranks) for each in changed}
    made = []
    for each in changed:
        indices: tuple[Expr, ...] = tuple(Var(rank) for rank in each.ranks)
        given = Access(renamed[each.tensor].tensor, indices)
        zero = Apply("==", (given, Num(0)))
        size: Expr = Apply("abs", (given,))
        size = Apply("where", (zero, Num(1), size))
        body = Apply("neg", (size,)) if each.tensor in negative else size
        made.append(Einsum(Access(each.tensor, indices), body))
    return replace(
        cascade,
        inputs=tuple(renamed.get(each.tensor, each) for each in cascade.inputs),
        statements=(*made, *cascade.statements),
    )

"""Which derived form is taken: the first, in the order of cost, that the numerical gate passes.

Excluded: how forms are judged (`gate.py`), and what they cost (`fuse.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.nodes import Access, Apply, Declaration, Einsum, Expr, Num, Var, variables
from penstock.einsum_ir.rewrite import gate as gates
from penstock.einsum_ir.rewrite.plan import Fused, Tried, Variant
from penstock.einsum_ir.rewrite.tree import Tree
from penstock.einsum_ir.rewrite.variants import Candidate

__all__ = ["Question", "by_order", "passing", "restricted"]


@dataclass(frozen=True, slots=True)
class Question:
    """What the gate is asked of the forms of a cascade.

    Args:
        original: what was written.
        rank: over which passes are saved.
        tile: the tile rank of the forms.
        format: the target's number format.
        positive: inputs that have only numbers above 0.
        negative: inputs that have only numbers below 0.
        watched: reductions on the way to the outputs, by the same names in the forms.
    """

    original: Cascade
    rank: str
    tile: str
    format: Format
    positive: frozenset[str]
    negative: frozenset[str]
    watched: tuple[str, ...]

    def trial(self, *, one: bool = False) -> gates.Trial:
        """Run the original, on many elements or on one, where ``x - sum(x)`` is 0."""
        shown = [
            Declaration(name, variables(self.original.einsum(name).output)) for name in self.watched
        ]
        outputs = (*self.original.outputs, *shown)
        original = self._restricted(replace(self.original, outputs=outputs))
        extents = {self.rank: 1} if one else {}
        return gates.trial(
            original,
            self.rank,
            self.format,
            watched=self.watched,
            proves=not one,
            extents=extents,
        )

    def stream(self, candidate: Candidate) -> gates.Variant:
        """Return a streaming form as the gate takes it."""
        cascade = self._restricted(candidate.stream.watching(self.watched))
        return gates.streamed(candidate.variant.name, cascade, self.tile)

    def tree(self, candidate: Candidate, tree: Tree) -> gates.Variant:
        """Return a tree as the gate takes it."""
        cascade = self._restricted(tree.watching(self.watched))
        form = gates.Form("parts", cascade, ((self.tile, 16),))
        return gates.Variant(candidate.variant.name, (form,))

    def _restricted(self, cascade: Cascade) -> Cascade:
        return restricted(cascade, self.positive, self.negative)


def passing(
    question: Question, candidates: Iterator[Candidate], passes: int, most: int
) -> tuple[list[Variant], list[Tried]]:
    """Return the first variants that pass the gate, and all that it was asked for.

    Where no tree passes, the first whose streaming form does, without their trees.

    Args:
        question: what must hold.
        candidates: derived forms, the preferred ones first.
        passes: of the forms.
        most: how many to look for.
    """
    trial = question.trial()
    chosen: list[Variant] = []
    without: list[Tried] = []
    tried: list[Tried] = []
    for candidate in candidates:
        each = candidate.variant
        if chosen and chosen[-1].reductions == each.reductions:
            continue  # the same, with more guards
        form = question.stream(candidate)
        verdict = trial.judge(form)
        if verdict.passed and each.costs.hazards:
            verdict = _of_one(question, form, verdict)
        if verdict.passed and candidate.tree is not None:
            without.append(Tried(replace(each, tree=None), verdict, passes))
            verdict = verdict.joined(trial.judge(question.tree(candidate, candidate.tree)))
        tried.append(Tried(each, verdict, passes))
        if verdict.passed:
            chosen.append(each)
        if len(chosen) == most:
            break
    if chosen:
        return chosen, tried
    return [each.variant for each in without[:most]], [*tried, *without[:most]]


def _of_one(question: Question, form: gates.Variant, verdict: gates.Verdict) -> gates.Verdict:
    """Return the verdict on many elements, unless that on one (in one tile) is a refusal."""
    other = question.trial(one=True).judge(replace(form, forms=form.forms[:1]))
    if other.passed:
        return verdict
    return replace(other, refused=f"{other.refused}, for one element")


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

"""What a pass reduction finds: frozen records, and how they print.

Placeholders: `Sym` ``u0`` is the reference of that name, ``u0'`` the same before the step, and
``$SD`` the accumulator SD.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.nodes import Access, Expr, Sym
from penstock.einsum_ir.rewrite.gate import Verdict
from penstock.einsum_ir.rewrite.separate import old
from penstock.einsum_ir.rewrite.terms import ONE, multiply, replaced

__all__ = [
    "IDENTITY",
    "Accumulator",
    "Barrier",
    "Costs",
    "Fused",
    "PassPlan",
    "Reference",
    "Refusal",
    "Tried",
    "Variant",
    "accumulated",
    "spelled",
]

IDENTITY = {"sum": 0.0, "max": float("-inf"), "min": float("inf"), "prod": 1.0, "topk": 0.0}


def accumulated(name: str) -> Sym:
    """Return the placeholder of an accumulator."""
    return Sym(f"${name}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A value that bodies refer to and that moves while the rank is gone over.

    Args:
        name: the placeholder, as ``u0``.
        value: over links, outer tensors and scalars.
    """

    name: str
    value: Expr


def spelled(text: str, references: Iterable[Reference]) -> str:
    """Write values for placeholders: ``exp(X[m] - u1)`` → ``exp(X[m] - GM[p])``."""
    values = {each.name: each.value for each in references}

    def change(found: re.Match[str]) -> str:
        value = values.get(found[0])
        plain = value is None or isinstance(value, Access | Sym)
        return str(value or found[0]) if plain else f"({value})"

    return re.sub(r"\bu\d+\b", change, text)


@dataclass(frozen=True, slots=True)
class Accumulator:
    """One running value.

    Args:
        name: of its tensors.
        op: ``sum``, ``max``, ``min``, ``prod`` or ``topk`` (coordinates).
        body: over elements and the placeholders of references.
        link: the reduction whose points and predicate it has.
        ranks: those it keeps, in the order of the link's.
        references: placeholders that the body or the carry reads.
        carry: (accumulator, coefficient) pairs: what it is after a step of the references, before
            new elements are added: the sum of coefficient times accumulator. ``""`` stands for 1.
        identity: its value over nothing.
    """

    name: str
    op: str
    body: Expr
    link: str
    ranks: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    carry: tuple[tuple[str, Expr], ...] = ()
    identity: float = 0.0

    @property
    def moves(self) -> bool:
        """Whether a step of the references changes it."""
        return self.carry != ((self.name, ONE),)

    @property
    def merge(self) -> str:
        """How two partial states A and B become one, at the reference of both together."""
        parts = []
        for side in "AB":
            total = []
            for name, coefficient in self.carry:
                values: dict[Expr, Expr] = {
                    old(each): Sym(f"{each}_{side}") for each in self.references
                }
                term = replaced(coefficient, values)
                state: Expr = Sym(f"{name}_{side}") if name else ONE
                total.append(str(multiply(state, term)))
            parts.append(" + ".join(total))
        if self.op == "topk":
            return f"the best of {self.name}_A and {self.name}_B"
        join = {"sum": "{} + {}", "prod": "({}) * ({})"}.get(self.op, self.op + "({}, {})")
        return join.format(*parts)

    @property
    def carried(self) -> str:
        """What it is after a step of the references."""
        return " + ".join(
            str(multiply(Sym(name) if name else ONE, coefficient))
            for name, coefficient in self.carry
        )

    def __str__(self) -> str:
        return f"{self.name} = {self.body} :: {self.op}, carried as {self.carried}"


@dataclass(frozen=True, slots=True)
class Costs:
    """What a variant costs beyond the author's form, for a mapper to weigh.

    Args:
        accumulators: running values, references that are kept included.
        element_ops: operators evaluated for each element.
        tile_ops: operators evaluated for each tile (carries).
        final_ops: operators evaluated once.
        hazards: deferred values that are known to overflow or to cancel; orders the variants.
    """

    accumulators: int = 0
    element_ops: int = 0
    tile_ops: int = 0
    final_ops: int = 0
    hazards: int = 0

    def __add__(self, other: Costs) -> Costs:
        return Costs(
            self.accumulators + other.accumulators,
            self.element_ops + other.element_ops,
            self.tile_ops + other.tile_ops,
            self.final_ops + other.final_ops,
            self.hazards + other.hazards,
        )

    @property
    def order(self) -> tuple[int, int]:
        """Variants are tried from the lowest: hazards first, then a weighted count of operators."""
        weighted = 16 * self.accumulators + 4 * self.element_ops + 2 * self.tile_ops
        return self.hazards, weighted + self.final_ops


@dataclass(frozen=True, slots=True)
class Fused:
    """A reduction that shares the pass of what it reads.

    Args:
        link: the reduction.
        accumulators: what runs.
        epilogue: the reduction's value, over accumulators and references.
        tracked: references that the accumulators follow.
        deferred: values that only the epilogue reads.
        obligations: what the identities need of values, as text.
        dropped: moments that are zero at the reference and are not kept.
        costs: of this reduction.
        moved: the epilogue where the references stayed behind at ``u0'``; None: there is none.
    """

    link: str
    accumulators: tuple[Accumulator, ...]
    epilogue: Expr
    tracked: tuple[str, ...] = ()
    deferred: tuple[str, ...] = ()
    obligations: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    costs: Costs = field(default_factory=Costs)
    moved: Expr | None = None


@dataclass(frozen=True, slots=True)
class Barrier:
    """Why a reduction, or an output with the rank, needs a pass of its own.

    Args:
        tensor: what needs it.
        reads: the values that must be complete.
        reason: one sentence.
        certificate: the sampled rank of ``f(x, u)`` as a matrix, where it was found too large; a
            lower bound of the rank for all x and u. 0: none.
    """

    tensor: str
    reads: tuple[str, ...]
    reason: str
    certificate: int = 0

    def __str__(self) -> str:
        proof = f" (sampled rank {self.certificate})" if self.certificate else ""
        reads = ", ".join(self.reads)
        needs = f"must wait for {reads}" if reads else "needs a pass of its own"
        return f"{self.tensor} {needs}: {self.reason}{proof}"


@dataclass(frozen=True)
class Variant:
    """One derived form: the same passes, other accumulators.

    Args:
        name: its place in the order of cost, as ``v0``, or what it is.
        reductions: every link, in order.
        cascade: streaming, over an iterative rank and a tile rank.
        tree: over parts that are merged; None where there is no such form.
        costs: in total.
        threshold: how far the running maximum may grow before accumulators are rescaled; 0: always.
    """

    name: str
    reductions: tuple[Fused, ...]
    cascade: Cascade
    tree: Cascade | None
    costs: Costs
    threshold: float = 0.0


@dataclass(frozen=True)
class Tried:
    """A variant that the gate ran.

    Args:
        variant: the derived form.
        verdict: its errors, and why it is refused or that it is not.
        passes: of the form.
    """

    variant: Variant
    verdict: Verdict
    passes: int


@dataclass(frozen=True)
class PassPlan:
    """A cascade in fewer passes.

    Args:
        original: what was written.
        rank: over which passes were saved.
        before: passes as written.
        after: passes of `cascade`.
        pass_of: link → its pass, from 1.
        references: what accumulators refer to.
        barriers: why there are not fewer.
        variants: derived forms, the cheapest first.
        chosen: the one that the gate chose.
        tile: the tile rank of `cascade`.
        split: the rank of `tree` within a part.
        tried: what the gate ran, in that order; nothing without a gate.
    """

    original: Cascade
    rank: str
    before: int
    after: int
    pass_of: tuple[tuple[str, int], ...]
    references: tuple[Reference, ...]
    barriers: tuple[Barrier, ...]
    variants: tuple[Variant, ...]
    chosen: Variant
    tile: str
    split: str
    tried: tuple[Tried, ...] = ()

    @property
    def cascade(self) -> Cascade:
        """The chosen form: an ordinary cascade with an iterative rank."""
        return self.chosen.cascade

    @property
    def tree(self) -> Cascade | None:
        """The chosen form over parts that are merged (split-K)."""
        return self.chosen.tree

    @property
    def accumulators(self) -> tuple[Accumulator, ...]:
        """All running values of the chosen form, each once."""
        found = {a.name: a for each in self.chosen.reductions for a in each.accumulators}
        return tuple(found.values())

    @property
    def obligations(self) -> tuple[str, ...]:
        """What the identities of the chosen form need of values."""
        return tuple(dict.fromkeys(o for each in self.chosen.reductions for o in each.obligations))

    def __str__(self) -> str:
        lines = [f"{self.original.name} over {self.rank}: {self.before} -> {self.after} passes"]
        lines += [f"  reference {each.name} = {each.value}" for each in self.references]
        lines += [f"  {each}" for each in self.accumulators]
        lines += [f"  {each.link} = {each.epilogue}" for each in self.chosen.reductions]
        lines += [f"  needs {each}" for each in self.obligations]
        return "\n".join([*lines, *(f"  {each}" for each in self.barriers)])


@dataclass(frozen=True)
class Refusal:
    """No pass can be saved.

    Args:
        original: what was written.
        rank: over which passes were counted.
        before: passes as written.
        reason: one sentence.
        barriers: for each reduction that reads another one, why it must wait.
        certificate: the largest sampled rank among them; 0: none.
        tried: derived forms that the gate refused.
        references: what these refer to.
    """

    original: Cascade
    rank: str
    before: int
    reason: str
    barriers: tuple[Barrier, ...] = ()
    certificate: int = 0
    tried: tuple[Tried, ...] = ()
    references: tuple[Reference, ...] = ()

    @property
    def after(self) -> int:
        """Passes that remain: all of them."""
        return self.before

    def __str__(self) -> str:
        name = self.original.name
        passes = "1 pass" if self.before == 1 else f"{self.before} passes"
        lines = [f"{name} over {self.rank} stays at {passes}: {self.reason}"]
        return "\n".join([*lines, *(f"  {each}" for each in self.barriers)])

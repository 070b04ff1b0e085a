"""The tree form: parts side by side, then merged (the equations are in `emit.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from penstock.einsum_ir.nodes import (
    Access,
    Apply,
    Einsum,
    Expr,
    Num,
    Reduce,
    Sym,
    Var,
    accesses,
    variables,
    walk,
)
from penstock.einsum_ir.rewrite.chain import Link
from penstock.einsum_ir.rewrite.emit import DEAR, Derivation, Emitter
from penstock.einsum_ir.rewrite.select import select_merged
from penstock.einsum_ir.rewrite.separate import old
from penstock.einsum_ir.rewrite.terms import replaced

__all__ = ["Tree"]


class Tree(Emitter):
    """Parts side by side, then one merge for each accumulator (split-K)."""

    def __init__(self, derivation: Derivation) -> None:
        super().__init__(derivation)
        self.parts: dict[str, Access] = {}

    @property
    def sized(self) -> dict[str, int]:
        """Return the default extent of a part."""
        return {self.inner_var: self.d.part}

    def state(self, name: str, when: str, indices: Mapping[str, Expr]) -> Access:
        """Return a value of a part (``old``), or merged (``final``)."""
        kept = [indices.get(n, Var(n)) for n in self.ranks[name]]
        if when == "old":
            return Access(self.parts[name].tensor, (*kept, Var(self.outer_var)))
        return Access(self.states[name], tuple(kept))

    def counted(self, when: str) -> Expr:
        """Return the number of coordinates of a part, or of all."""
        whole, size = Sym(self.chain.rank.upper()), Sym(self.inner_var.upper())
        if when == "final":
            return whole
        rest = Apply("-", (whole, Apply("*", (Var(self.outer_var), size))))
        return Apply("clamp", (rest, Num(0), size))

    def coefficient_reference(self, name: str) -> Expr:
        """Return the total of a prefix sum up to the end of a part."""
        at = ("frame", name, self.number)
        if at not in self.made:
            value = self.d.references[name].value
            assert isinstance(value, Access)
            part = self.parts[self.d.fused[value.tensor].accumulators[0].name]
            before = Var(self.free(f"{self.outer_var}b"))
            source = Access(part.tensor, (*part.indices[:-1], before))
            where = Apply("<=", (before, Var(self.outer_var)))
            output = Access(self.fresh(f"{value.tensor}_F"), part.indices)
            self.body.append(Einsum(output, source, Reduce("sum", (before.name,)), where))
            self.made[at] = output
        return self.made[at]

    def value(self, expr: Expr, when: str, at: Mapping[str, Expr] | None = None) -> Expr:
        """Replace placeholders; in bodies (``new``) references are those of the part."""
        return super().value(expr, "old" if when == "new" else when, at)

    def moving_reference(self, name: str, when: str) -> Expr:
        """Emit a reference of each part."""
        at = ("reference", name, self.number)
        if at not in self.made:
            value = self.d.references[name].value
            body = self.running(value, "old")
            body = self.in_domain(name, body)
            label = value.tensor if isinstance(value, Access) else name.upper()
            ranks = [n for n in variables(body) if n != self.outer_var]
            output = Access(
                self.fresh(f"{label}_T"), tuple(Var(n) for n in [*ranks, self.outer_var])
            )
            self.body.append(Einsum(output, body))
            self.made[at] = output
        return self.made[at]

    def guard(self, body: Expr, where: Expr | None) -> Expr | None:
        """Add that references that a body reads itself are in their domain."""
        for name in sorted({n.name for n in walk(body) if isinstance(n, Sym)}):
            if name in self.d.guarded:
                where = self.both(where, self.finite(name, self.reference(name, "old")))
        return where

    def coefficient(self, c: Expr) -> Expr:
        """Return a merge's coefficient: from the part's references to the merged ones."""
        totals: dict[Expr, Expr] = {
            old(name): self.coefficient_reference(name) for name in sorted(self.d.framed)
        }
        for name in sorted(self.d.divisors - self.d.lacking):  # 0 of all parts too
            if Sym(name) in walk(c):
                totals[Sym(name)] = self.in_domain(name, self.reference(name, "final"))
        expr = replaced(super().value(replaced(c, totals), "final"), {})
        if not any(isinstance(n, Apply) and n.op in DEAR for n in walk(expr)):
            return expr
        at = ("carry", expr, self.number)
        if at not in self.made:
            ranks = [n for n in variables(expr) if n != self.outer_var]
            first = next(a.tensor for a in accesses(expr)).removesuffix("_R").removesuffix("_T")
            output = Access(
                self.fresh(f"{first}_C"), tuple(Var(n) for n in [*ranks, self.outer_var])
            )
            self.body.append(Einsum(output, expr))
            self.made[at] = output
        return self.made[at]

    def run(self, links: Sequence[Link]) -> None:
        """Emit the parts and the merges of a pass."""
        self.number = self.pass_of(links[0])
        self.body, self.tiles = self.statements, {}  # type: ignore[assignment]
        made = self.accumulators(links)
        self.share(made)
        for each in made:
            self.ranks[each.name] = each.ranks
            self.states[each.name] = self.fresh(f"{each.name}_R")
        for each in made:
            if each.op == "topk":
                select_merged(self, each)
            else:
                self.parts[each.name] = self.local(each)
        for each in (each for each in made if each.op != "topk"):
            output = Access(self.states[each.name], tuple(Var(n) for n in each.ranks))
            over = Reduce(each.op, (self.outer_var,))
            self.body.append(Einsum(output, self.carried(each), over))

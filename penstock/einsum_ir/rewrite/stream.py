"""The streaming form: one loop over tiles for each pass (the equations are in `emit.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from penstock.einsum_ir.nodes import (
    Access,
    Apply,
    Einsum,
    Expr,
    Group,
    Num,
    Reduce,
    Sym,
    Var,
    accesses,
    variables,
    walk,
)
from penstock.einsum_ir.rewrite.chain import Link
from penstock.einsum_ir.rewrite.emit import Emitter
from penstock.einsum_ir.rewrite.plan import Accumulator, Fused
from penstock.einsum_ir.rewrite.select import SIDE, select_running
from penstock.einsum_ir.rewrite.separate import old
from penstock.einsum_ir.rewrite.terms import ONE, evaluate, replaced

__all__ = ["Stream"]

_JOIN = {"sum": "+", "prod": "*", "max": "max", "min": "min"}


_FAR, _RANGE = 1e6, 1e300
"""Where references may be after the first tile, and what a carry must not reach there."""


class Stream(Emitter):
    """One loop over tiles for each pass."""

    @property
    def sized(self) -> dict[str, int]:
        """Return the default extent of a tile; two lists are merged by a selection."""
        selects = any(a.op == "topk" for f in self.d.fused.values() for a in f.accumulators)
        sides = {self.free(SIDE): 2} if selects else {}
        return {self.inner_var: self.d.tile, **sides}

    def state(self, name: str, when: str, indices: Mapping[str, Expr]) -> Access:
        """Return a running value ``old``, ``new`` (with the tile) or ``final``."""
        step: Expr = Var(self.outer_var)
        if when == "new":
            step = Apply("+", (step, ONE))
        elif when == "final":
            step = Sym(self.outer_var.upper())
        kept = [indices.get(n, Var(n)) for n in self.ranks[name]]
        return Access(self.states[name], (*kept, step))

    def counted(self, when: str) -> Expr:
        """Return the number of coordinates of the prefix."""
        if when == "final":
            return Sym(self.chain.rank.upper())
        tiles: Expr = Var(self.outer_var)
        tiles = Apply("+", (tiles, ONE)) if when == "new" else tiles
        seen = Apply("*", (tiles, Sym(self.inner_var.upper())))
        return Apply("min", (seen, Sym(self.chain.rank.upper())))

    def reference(self, name: str, when: str) -> Expr:
        """Return a reference old, new or final; in the tile's frame it starts at 0."""
        if name in self.d.framed and when != "final":
            return Num(0) if when == "old" else self.locals[self.total(name)]
        if name in self.lazy and when != "final":
            made = self._behind(name)
            step = made.indices[-1] if when == "new" else Var(self.outer_var)
            return Access(made.tensor, (*made.indices[:-1], step))
        return super().reference(name, when)

    @property
    def lazy(self) -> frozenset[str]:  # type: ignore[override]
        """Running maxima that references may stay behind of."""
        found: set[str] = set()
        for name, reference in self.d.references.items() if self.d.threshold else ():
            value = reference.value
            if isinstance(value, Access) and value.tensor in self.chain.links:
                plain = self._plain_state(value) is not None and name not in self.d.lacking
                found |= {name} if plain and self.chain.links[value.tensor].op == "max" else set()
        return frozenset(found)

    def epilogue(self, form: Fused) -> Expr:
        """Return a reduction's value; where references stayed behind, from there."""
        if not set(form.tracked) & self.lazy or form.moved is None:
            return form.epilogue
        reached: dict[Expr, Expr] = {}
        for name in form.tracked:
            reached[old(name)] = Sym(name)
            if name in self.lazy:
                made = self._behind(name)
                last = Sym(self.outer_var.upper())
                reached[old(name)] = Access(made.tensor, (*made.indices[:-1], last))
        return replaced(form.moved, reached)

    def _behind(self, name: str) -> Access:
        """Emit a reference that follows the maximum only when that is far ahead."""
        at = ("behind", name)
        if at not in self.made:
            now = super().reference(name, "new")
            assert isinstance(now, Access)
            output = Access(self.fresh(f"{now.tensor}L"), now.indices)
            before = Access(output.tensor, (*now.indices[:-1], Var(self.outer_var)))
            far = Apply(">", (Apply("-", (now, before)), Num(self.d.threshold)))
            body = Apply("fill", (Apply("where", (far, now, before)), now))
            self.body.append(Einsum(output, body))
            self.made[at] = output
        return self.made[at]

    def total(self, name: str) -> str:
        """Return the accumulator of a reference that is a total."""
        value = self.d.references[name].value
        assert isinstance(value, Access)
        return self.d.fused[value.tensor].accumulators[0].name

    def scanned(self, access: Access) -> Expr:
        """Return a prefix sum, from the start of the rank unless all is in the tile's frame."""
        local = super().scanned(access)
        if self.d.framed:
            return local
        place = self.chain.scans[access.tensor].place
        kept = (*access.indices[:place], *access.indices[place + 1 :])
        return Apply("+", (self._offset(access.tensor, kept), local))

    def _offset(self, tensor: str, kept: tuple[Expr, ...]) -> Expr:
        """Return a prefix sum at the start of the tile."""
        at = ("offset", tensor, self.number)
        if at not in self.made:
            steps = self.made["steps", tensor, self.number]
            name, own = self.fresh(f"{tensor}_R"), steps.indices[:-2]
            total = Access(self.fresh(f"{tensor}_T"), (*own, Var(self.outer_var)))
            self.body.append(Einsum(total, steps, Reduce("sum", (self.inner_var,))))
            before = Access(name, (*own, Var(self.outer_var)))
            after = Access(name, (*own, Apply("+", (Var(self.outer_var), ONE))))
            first = Access(name, (*own, Num(0)))
            self.inits.append(Einsum(first, Num(0), init=True))
            self.body.append(Einsum(after, Apply("+", (before, total))))
            self.made[at] = before
        return Access(self.made[at].tensor, (*kept, Var(self.outer_var)))

    def moving_reference(self, name: str, when: str) -> Expr:
        """Emit a reference as a state of its own."""
        at = ("reference", name, self.number)
        if at not in self.made:
            value = self.d.references[name].value
            body = self.running(value, "new")
            body = self.in_domain(name, body)
            label = value.tensor if isinstance(value, Access) else name.upper()
            ranks = [n for n in variables(body) if n != self.outer_var]
            kept = tuple(Var(n) for n in ranks)
            output = Access(
                self.fresh(f"{label}_R"), (*kept, Apply("+", (Var(self.outer_var), ONE)))
            )
            self.body.append(Einsum(output, body))
            self.made[at] = output
        made = self.made[at]
        step = made.indices[-1] if when == "new" else Var(self.outer_var)
        return Access(made.tensor, (*made.indices[:-1], step))

    def run(self, links: Sequence[Link]) -> None:
        """Emit one loop."""
        self.number = self.pass_of(links[0])
        self.body, self.inits, self.tiles = [], [], {}
        made = self.accumulators(links)
        self.share(made)
        for each in made:
            self.states[each.name] = self.fresh(f"{each.name}_R")
            self.ranks[each.name] = each.ranks
        for each in made:
            self._update(each)
        self.statements += [*self.inits, Group(self.outer_var, tuple(self.body))]

    def _update(self, each: Accumulator) -> None:
        link = self.chain.links[each.link]
        if each.op == "topk":
            select_running(self, each)
            return
        local = self.locals[each.name] = self.local(each)
        after, before = self.state(each.name, "new", {}), self.state(each.name, "old", {})
        join = _JOIN[each.op]
        start = self._start(each, link)
        carry: Expr = before
        if each.moves:
            carry = self.carried(each)
            if not isinstance(carry, Access):
                product = Access(self.fresh(f"{each.name}_P"), local.indices)
                self.body.append(Einsum(product, carry))
                carry = product
        self.starts[each.name] = start
        pair: tuple[Expr, Expr] = (local, carry) if join == "+" else (carry, local)
        if start is not None:
            state = replace(before, indices=(*before.indices[:-1], Num(0)))
            self.inits.append(Einsum(state, Num(start), init=True))
        else:
            filled = Apply("fill", (carry, Num(each.identity)))
            pair = (local, filled) if join == "+" else (filled, local)
        body: Expr = Apply(join, pair)
        if start is None and each.moves and not self._same_points(each, link):
            empty = Apply("fill", (local, Num(each.identity)))
            body = Apply("fill", (Apply(join, (empty, carry)), local))
        self.body.append(Einsum(after, body))

    def _start(self, each: Accumulator, link: Link) -> float | None:
        """Return the value to start from, or None: absent."""
        if link.masks or link.where is not None:
            return None
        starts: dict[Expr, float] = {}
        for name in each.references:
            plain = self._plain_state(self.d.references[name].value)
            begin = None if plain is None else self.starts.get(plain[0])
            if begin is None or name in self.d.divisors | self.lazy:
                return None
            starts[old(name)] = begin
        return each.identity if _keeps_identity(each, starts) else None

    def _same_points(self, each: Accumulator, link: Link) -> bool:
        """Whether the references move only where the link has points."""
        if self.d.count and link.masks and each.references:
            return False  # the length of the prefix moves them with every tile
        for name in each.references:
            value = self.d.references[name].value
            for tensor in {a.tensor for a in accesses(value)}:
                for above in self.chain.depends.get(tensor, ()):
                    other = self.chain.links[above]
                    if other.masks != link.masks or other.where != link.where:
                        return False
        return True


def _keeps_identity(each: Accumulator, starts: Mapping[Expr, float]) -> bool:
    """Whether the first carry, from where references start, leaves identities as they are."""
    from mpmath import MPContext

    context = MPContext()
    for first in (0.7, _FAR, -_FAR):
        total = context.mpf(0)
        for name, c in each.carry:
            values: dict[Expr, Any] = {
                n: context.mpf(first) for n in walk(c) if isinstance(n, Access | Sym | Var)
            }
            values |= {leaf: context.mpf(start) for leaf, start in starts.items()}
            try:
                factor = evaluate(c, values, context)
            except (ZeroDivisionError, ValueError, OverflowError):
                return False
            if context.isfinite(factor) and abs(factor) > _RANGE:
                return False  # an exponential: 0 times what overflows
            total += factor * (each.identity if name else 1)
        if total != each.identity:
            return False
    return True

"""From accumulators to a cascade: what streaming forms and trees share.

Before → after, for a sum SD that follows the maximum GM (rank m in tiles of M0)::

    stream:  SD_T[p, m1]     = exp(X[p, m1*M0 + m0] - GM_R[p, m1 + 1]) :: sum[m0]
             GM_C[p, m1]     = exp(GM_R[p, m1] - GM_R[p, m1 + 1])
             SD_P[p, m1]     = SD_R[p, m1] * GM_C[p, m1]
             SD_R[p, m1 + 1] = SD_T[p, m1] + SD_P[p, m1]
    tree:    SD_T[p, m1]     = exp(X[p, m1*M0 + m0] - GM_T[p, m1]) :: sum[m0]
             SD_R[p]         = SD_T[p, m1] * exp(GM_T[p, m1] - GM_R[p]) :: sum[m1]

Zero rule: an accumulator over no point yet is *absent* (no ``init``), and an absent carry counts as
the identity (``fill``), so that no 0 meets an infinity. Where nothing is masked and each carry is
finite at the start, ``init`` is used instead, as FuseMax does. Reference-in-domain rule: a divisor
that may be 0 is 1 there (``where``); a point whose reference is still -inf is absent (``s.t.``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.nodes import (
    Access,
    Apply,
    Declaration,
    Einsum,
    Expr,
    Group,
    Num,
    Reduce,
    Statement,
    Sym,
    Var,
    accesses,
    next_variable,
    substitute,
    variables,
    walk,
)
from penstock.einsum_ir.rewrite.chain import Chain, Link
from penstock.einsum_ir.rewrite.live import einsums_of, live, names_of
from penstock.einsum_ir.rewrite.plan import Accumulator, Fused, Reference, accumulated
from penstock.einsum_ir.rewrite.prepare import bounded
from penstock.einsum_ir.rewrite.terms import ONE, map_access, multiply, repeated, replaced

__all__ = ["DEAR", "Derivation", "Emitter"]

DEAR = {"exp", "exp2", "log", "log2", "sin", "cos", "/", "**", "sqrt", "rsqrt", "tanh", "sigmoid"}


@dataclass(frozen=True)
class Derivation:
    """What is emitted.

    Args:
        chain: the original.
        fused: link → its form.
        pass_of: link → its pass, from 1.
        references: placeholder → reference.
        count: the placeholder of the prefix' length, or ``""``.
        tile: coordinates of a tile, by default.
        part: coordinates of a part of a tree, by default.
        guarded: references whose -inf is met: points are absent there.
        divisors: references that may be 0 and divide.
        partial: references that a prefix may have no number for, as ``0 / 0``.
        framed: references that are totals of prefix sums, where all that reads them is the same
            if both are counted from the start of the tile (its own frame).
        threshold: how far a reference may stay behind what it follows; 0: not at all.
        lacking: references that are absent at points of a reduction that reads them.
        kept: elements that are computed once, before the passes, as several need the same numbers.
        always: whether links that share no pass are computed by accumulators as well.
    """

    chain: Chain
    fused: Mapping[str, Fused]
    pass_of: Mapping[str, int]
    references: Mapping[str, Reference]
    count: str
    names: tuple[str, str]
    tile: int
    part: int = 1024
    guarded: frozenset[str] = frozenset()
    divisors: frozenset[str] = frozenset()
    partial: frozenset[str] = frozenset()
    framed: frozenset[str] = frozenset()
    threshold: float = 0.0
    lacking: frozenset[str] = frozenset()
    kept: frozenset[str] = frozenset()
    always: bool = False


class Emitter:
    """What the two forms share: elements in tiles, final values, outer Einsums."""

    def __init__(self, derivation: Derivation) -> None:
        self.d, self.chain = derivation, derivation.chain
        self.outer_var, self.inner_var = derivation.names
        self.statements: list[Statement] = []
        self.body: list[Einsum] = []
        self.inits: list[Einsum] = []
        self.done: set[str] = set()
        self.tiles: dict[str, str] = {}
        self.tiled_once: set[str] = set()
        self.tile_formats: list[tuple[str, str]] = []
        self.elements_made: set[str] = set()
        self.made: dict[object, Access] = {}
        self.common: set[tuple[Expr, Expr | None]] = set()
        self.states: dict[str, str] = {}
        self.ranks: dict[str, tuple[str, ...]] = {}
        self.starts: dict[str, float | None] = {}
        self.locals: dict[str, Access] = {}
        self.taken = set(self.chain.cascade.arity) | {n for n, _ in self.chain.cascade.constants}
        place = (Var(self.outer_var), Sym(self.inner_var.upper()))
        self.position: Expr = Apply("+", (Apply("*", place), Var(self.inner_var)))

    # --- names and statements -------------------------------------------------------------------

    def fresh(self, name: str) -> str:
        """Return a name that no tensor has, and take it."""
        found, number = name, 1
        while found in self.taken:
            number += 1
            found = f"{name}{number}"
        self.taken.add(found)
        return found

    def cascade(self) -> Cascade:
        """Return the derived cascade."""
        cascade = self.chain.cascade
        for number in sorted(set(self.d.pass_of.values())):
            links = [each for each in self.chain.links.values() if self.pass_of(each) == number]
            if any(self.is_fused(each) for each in links):
                self.run(links)
            else:
                for link in links:
                    self.define(link.name)
        for output in cascade.outputs:
            self.define(output.tensor)
        return self._finished(cascade)

    def watching(self, names: Sequence[str]) -> Cascade:
        """Return the derived cascade with these links as further outputs; after `cascade`."""
        found: list[Declaration] = []
        for name in names:
            output = self.chain.links[name].einsum.output
            value = self.final(output)
            if value != output:
                self.statements.append(Einsum(output, value))
            found.append(Declaration(name, variables(output)))
        cascade = self.chain.cascade
        return self._finished(replace(cascade, outputs=(*cascade.outputs, *found)))

    def _finished(self, cascade: Cascade) -> Cascade:
        """Return a cascade with the statements that its outputs need."""
        statements = live(self.statements, cascade.outputs)
        used = {name for each in einsums_of(statements) for name in each.variables}
        used |= {rank for each in cascade.inputs for rank in each.ranks}
        shapes = {**dict(cascade.shapes), **self.sized}
        known = tuple((name, extent) for name, extent in shapes.items() if name in used)
        kept = {each.name for each in einsums_of(statements)} | {e.tensor for e in cascade.inputs}
        pairs = (*cascade.formats, *self.tile_formats)
        formats = tuple(pair for pair in pairs if pair[0] in kept)
        return replace(cascade, statements=statements, shapes=known, formats=formats)

    @property
    def sized(self) -> dict[str, int]:
        """Return the default extent of the new rank."""
        raise NotImplementedError

    def pass_of(self, link: Link) -> int:
        """Return the pass of a link."""
        return self.d.pass_of[link.name]

    def is_fused(self, link: Link) -> bool:
        """Whether a link shares the pass of what it reads."""
        form = self.d.fused.get(link.name)
        return form is not None and bool(form.tracked or form.deferred or self.d.always)

    def in_loop(self, name: str) -> bool:
        """Whether a link is computed by accumulators."""
        return name in self.chain.links and any(
            self.is_fused(each) and self.pass_of(each) == self.d.pass_of[name]
            for each in self.chain.links.values()
        )

    def run(self, links: Sequence[Link]) -> None:
        """Emit the pass of these links."""
        raise NotImplementedError

    def state(self, name: str, when: str, indices: Mapping[str, Expr]) -> Access:
        """Return a running value ``old``, ``new`` (with the tile) or ``final``."""
        raise NotImplementedError

    # --- whole values ---------------------------------------------------------------------------

    def define(self, tensor: str) -> None:
        """Emit what the author calls a tensor, outside of loops."""
        if tensor in self.done or tensor not in self.chain.cascade.arity:
            return
        if any(each.tensor == tensor for each in self.chain.cascade.inputs):
            return
        self.done.add(tensor)
        if self.in_loop(tensor):
            link = self.chain.links[tensor]
            form = self.d.fused[tensor]
            where: Expr | None = None
            for name in sorted(set(form.tracked) & self.d.lacking):
                there = map_access(self.d.references[name].value, self.final)
                same = (Apply("==", (there, there)), Apply("!=", (there, there)))
                where = self.both(where, Apply("or", same))  # false where it is absent
            body = self.value(self.epilogue(form), "final")
            self.statements.append(Einsum(link.einsum.output, body, where=where))
            return
        for each in [s for s in self.chain.cascade.statements if tensor in names_of(s)]:
            self.done |= set(names_of(each))
            self.statements.append(self._final_statement(each))

    def _final_statement(self, statement: Statement) -> Statement:
        if isinstance(statement, Group):
            names = set(names_of(statement))
            inner = tuple(self._final_einsum(each, names) for each in statement.einsums)
            return replace(statement, einsums=inner)
        return self._final_einsum(statement, {statement.name})

    def _final_einsum(self, einsum: Einsum, own: set[str]) -> Einsum:
        def change(access: Access) -> Expr:
            return access if access.tensor in own else self.final(access)

        where = None if einsum.where is None else map_access(einsum.where, change)
        body = map_access(einsum.body, change)
        for access in accesses(
            *einsum.output.indices, *(i for a in accesses(body) for i in a.indices)
        ):
            self.define(access.tensor)
        return replace(einsum, body=body, where=where)

    def final(self, access: Access) -> Expr:
        """Return the access of a tensor after all passes, and see that it is emitted."""
        outputs = {each.tensor for each in self.chain.cascade.outputs}
        form = self.d.fused.get(access.tensor)
        if self.in_loop(access.tensor) and form is not None and access.tensor not in outputs:
            only = form.accumulators[0]
            plain = len(form.accumulators) == 1 and form.epilogue == accumulated(only.name)
            if plain and not set(form.tracked) & (self.d.lacking | self.lazy):
                return self.state(only.name, "final", self._at(access))
        self.define(access.tensor)
        for inner in accesses(*access.indices):
            self.define(inner.tensor)
        return access

    def _at(self, access: Access) -> dict[str, Expr]:
        output = self.chain.links[access.tensor].einsum.output
        pairs = zip(output.indices, access.indices, strict=True)
        return {v.name: index for v, index in pairs if isinstance(v, Var)}

    def value(self, expr: Expr, when: str, at: Mapping[str, Expr] | None = None) -> Expr:
        """Replace placeholders and whole values by what they are ``old``, ``new`` or ``final``."""
        at = at or {}
        match expr:
            case Sym(name) if name.startswith("$"):
                return self.state(name[1:].rstrip("'"), "old" if name.endswith("'") else when, at)
            case Sym(name) if name.endswith("'") and name[:-1] in self.d.references:
                return substitute(self.reference(name[:-1], "old"), dict(at))
            case Sym(name) if name in self.d.references:
                return substitute(self.reference(name, when), dict(at))
            case Apply(_, args):
                return replace(expr, args=tuple(self.value(each, when, at) for each in args))
            case Access(tensor):
                placed = Access(tensor, tuple(substitute(i, dict(at)) for i in expr.indices))
                whole = tensor in self.chain.links or tensor in self.chain.outer
                return self.final(placed) if whole else placed
            case _:
                return expr

    def reference(self, name: str, when: str) -> Expr:
        """Return a reference old, new or final."""
        if name == self.d.count:
            return self.counted(when)
        if when == "final":
            return map_access(self.d.references[name].value, self.final)
        plain = self._plain_state(self.d.references[name].value)
        if plain is not None and name not in self.d.divisors | self.d.partial | self.d.lacking:
            accumulator, at = plain
            return self.state(accumulator, when, at)
        return self.moving_reference(name, when)

    def counted(self, when: str) -> Expr:
        """Return the number of coordinates of the prefix."""
        raise NotImplementedError

    def moving_reference(self, name: str, when: str) -> Expr:
        """Return a reference that is more than one accumulator."""
        raise NotImplementedError

    def _plain_state(self, value: Expr) -> tuple[str, dict[str, Expr]] | None:
        if not isinstance(value, Access) or value.tensor not in self.d.fused:
            return None
        form = self.d.fused[value.tensor]
        only = form.accumulators[0]
        if form.epilogue != accumulated(only.name) or not self.in_loop(value.tensor):
            return None
        return only.name, self._at(value)

    def running(self, expr: Expr, when: str) -> Expr:
        """Return a value of links and outer tensors over the prefix."""
        counted: dict[Expr, Expr] = {Sym(self.chain.rank.upper()): self.counted(when)}
        own = {each.value: name for name, each in self.d.references.items()}

        def change(access: Access) -> Expr:
            if access in own and access != expr:
                return self.reference(own[access], when)
            if self.in_loop(access.tensor) and self.d.pass_of[access.tensor] == self.number:
                return self.value(self.d.fused[access.tensor].epilogue, when, self._at(access))
            made = self.chain.outer.get(access.tensor)
            moves = any(
                self.in_loop(each) and self.d.pass_of[each] == self.number
                for each in self.chain.depends.get(access.tensor, ())
            )
            if made is None or not moves:
                return self.final(access)
            if made.reduce is not None or made.where is not None:
                return self.partial_outer(made, access, when)
            pairs = zip(made.output.indices, access.indices, strict=True)
            inside = {v.name: i for v, i in pairs if isinstance(v, Var)}
            return map_access(replaced(substitute(made.body, inside), counted), change)

        return map_access(replaced(expr, counted), change)

    def in_domain(self, name: str, body: Expr) -> Expr:
        """Return a reference, with a number where a prefix has none or one that cannot divide."""
        divides = name in self.d.divisors
        if divides and name not in self.d.partial:
            body = Apply("where", (Apply("!=", (body, Num(0))), body, ONE))
        if name in self.d.partial:
            known = Apply("<", (Apply("abs", (body,)), Num(math.inf)))
            if divides:
                known = Apply("and", (known, Apply("!=", (body, Num(0)))))
            body = Apply("where", (known, body, ONE if divides else Num(0)))
        if name in self.d.lacking:
            return Apply("fill", (body, ONE if divides else Num(0)))
        return body

    number = 0

    def partial_outer(self, made: Einsum, access: Access, when: str) -> Expr:
        """Return an outer Einsum that reduces, over the prefix."""
        at = (made.name, when)
        if at not in self.made:
            name = self.fresh(f"{made.name}_{when[0].upper()}")
            output = Access(name, (*made.output.indices, Var(self.outer_var)))
            where = None if made.where is None else self.running(made.where, when)
            new = replace(made, output=output, body=self.running(made.body, when), where=where)
            self.body.append(new)
            self.made[at] = output
        return Access(self.made[at].tensor, (*access.indices, Var(self.outer_var)))

    # --- elements in tiles ----------------------------------------------------------------------

    def tiled(self, expr: Expr) -> Expr:
        """Return an expression over elements at ``m1*M0 + m0``."""
        rank = self.chain.rank
        match expr:
            case Var(name):
                return self.position if name == rank else expr
            case Apply(_, args):
                return replace(expr, args=tuple(self.tiled(each) for each in args))
            case Access(tensor, indices):
                if tensor in self.chain.elements and not self.is_held(tensor):
                    return self._tile(expr)
                if tensor in self.chain.scans:
                    return self.scanned(expr)
                made = tensor in self.chain.elements or tensor in self.chain.moving
                if made or tensor in self.chain.outer or tensor in self.chain.links:
                    self.define(tensor)
                return replace(expr, indices=tuple(self.tiled(each) for each in indices))
            case _:
                return expr

    def scanned(self, access: Access) -> Expr:
        """Return a prefix sum in a tile, counted from the start of the tile."""
        scan = self.chain.scans[access.tensor]
        place = scan.place
        kept = [*access.indices[:place], *access.indices[place + 1 :]]
        names = [
            i.name
            for n, i in enumerate(scan.einsum.output.indices)
            if n != place and isinstance(i, Var)
        ]
        own = tuple(Var(n) for n in names)
        pair = (Var(self.outer_var), Var(self.inner_var))
        inclusive = next_variable(access.indices[place]) is not None
        at = ("scan", access.tensor, inclusive, self.number)
        if at not in self.made:
            steps = ("steps", access.tensor, self.number)
            if steps not in self.made:
                self.made[steps] = Access(self.fresh(f"{access.tensor}_S"), (*own, *pair))
                self.body.append(Einsum(self.made[steps], self.tiled(scan.step)))
            before = Var(self.free(f"{self.inner_var}b"))
            step = Access(self.made[steps].tensor, (*own, pair[0], before))
            where = Apply("<=" if inclusive else "<", (before, pair[1]))
            self.made[at] = Access(self.fresh(f"{access.tensor}_L"), (*own, *pair))
            self.body.append(Einsum(self.made[at], step, Reduce("sum", (before.name,)), where))
        local: Expr = Access(self.made[at].tensor, (*(self.tiled(each) for each in kept), *pair))
        return local if inclusive else Apply("fill", (local, Num(0)))

    def free(self, name: str) -> str:
        """Return a rank variable that the cascade does not have."""
        used = {each for e in self.chain.cascade.einsums for each in e.variables}
        while name in used:
            name += "b"
        return name

    def is_held(self, tensor: str) -> bool:
        """Whether an element tensor is computed before the passes."""
        return tensor in self.chain.held or tensor in self.d.kept

    @property
    def twice(self) -> frozenset[str]:
        """The elements with a reduction that are computed in tiles and as a whole as well."""
        reducing = {n for n, each in self.chain.elements.items() if each.reduce is not None}
        return frozenset(self.done & self.tiled_once & reducing)

    def _tile(self, access: Access) -> Access:
        self.tiled_once.add(access.tensor)
        made = self.chain.elements[access.tensor]
        place = made.output.indices.index(Var(self.chain.rank))
        if access.tensor not in self.tiles:
            name = self.tiles[access.tensor] = self.fresh(f"{access.tensor}_T")
            formats = self.chain.cascade.formats
            self.tile_formats += [(name, kind) for of, kind in formats if of == access.tensor]
            output = Access(name, self._split(made.output.indices, place))
            where = None if made.where is None else self.tiled(made.where)
            new = Einsum(output, self.tiled(made.body), made.reduce, self.inside(made.body, where))
            self.body.append(new)
        indices = tuple(self.tiled(each) for each in access.indices)
        return Access(self.tiles[access.tensor], self._split(indices, place))

    def _split(self, indices: Sequence[Expr], place: int) -> tuple[Expr, ...]:
        pair = (Var(self.outer_var), Var(self.inner_var))
        return (*indices[:place], *pair, *indices[place + 1 :])

    def inside(self, body: Expr, where: Expr | None) -> Expr | None:
        """Add that the coordinate is in range, if no operand says so."""
        if bounded(self.chain, body):
            return where
        return self.both(where, Apply("<", (self.position, Sym(self.chain.rank.upper()))))

    @staticmethod
    def both(left: Expr | None, right: Expr | None) -> Expr | None:
        """Return the conjunction of two predicates."""
        if left is None or right is None:
            return right if left is None else left
        return Apply("and", (left, right))

    # --- accumulators over a tile ---------------------------------------------------------------

    lazy: frozenset[str] = frozenset()

    def epilogue(self, form: Fused) -> Expr:
        """Return a reduction's value over accumulators and final references."""
        return form.epilogue

    def accumulators(self, links: Iterable[Link]) -> list[Accumulator]:
        """Return the accumulators of a pass, each once, in order."""
        found: dict[str, Accumulator] = {}
        for link in links:
            for each in self.d.fused[link.name].accumulators:
                found.setdefault(each.name, each)
        return [each for each in found.values() if each.name not in self.states]

    def share(self, made: Sequence[Accumulator]) -> None:
        """Find the dear parts of bodies that several accumulators have: one tensor for each."""
        found: dict[tuple[Expr, Expr | None], set[str]] = {}
        for each in made:
            where = self.chain.links[each.link].where
            for node in walk(each.body):
                if isinstance(node, Apply) and self._is_dear(node):
                    found.setdefault((node, where), set()).add(each.name)
        self.common = {at for at, users in found.items() if len(users) > 1}

    def _is_dear(self, node: Apply) -> bool:
        if not self._element(node):
            return False
        return any(isinstance(each, Apply) and each.op in DEAR for each in walk(node))

    def _element(self, node: Expr) -> bool:
        return self.chain.rank in variables(node)

    def elementwise(self, expr: Expr, where: Expr | None) -> Expr:
        """Return a body in tiles, at the new references, with what is shared taken out."""
        if (expr, where) in self.common:
            return self._shared(expr, where)
        if isinstance(expr, Apply):
            args = tuple(self.elementwise(each, where) for each in expr.args)
            return replace(expr, args=args)
        return (
            self.tiled(self.value(expr, "new")) if self._element(expr) else self.value(expr, "new")
        )

    def _shared(self, expr: Expr, where: Expr | None) -> Expr:
        at = (expr, where, self.number)
        if at not in self.made:
            assert isinstance(expr, Apply)
            args = tuple(self.elementwise(each, where) for each in expr.args)
            body = replace(expr, args=args)
            predicate = self.inside(expr, None if where is None else self.tiled(where))
            predicate = self.guard(expr, predicate)
            ranks = [n for n in variables(body) if n not in (self.outer_var, self.inner_var)]
            indices = tuple(Var(n) for n in [*ranks, self.outer_var, self.inner_var])
            output = Access(self.fresh(self._name_of(expr)), indices)
            self.body.append(Einsum(output, body, where=predicate))
            self.made[at] = output
            self.elements_made.add(output.tensor)
        return self.made[at]

    def _name_of(self, expr: Expr) -> str:
        """Return the author's name of a moving tensor with this body, or E."""
        values: dict[Expr, Expr] = {Sym(n): r.value for n, r in self.d.references.items()}
        written = replaced(expr, values)
        for name, made in self.chain.moving.items():
            if made.body == written:
                return f"{name}_T"
        return "E_T"

    def guard(self, body: Expr, where: Expr | None) -> Expr | None:
        """Add that references that a body reads itself are in their domain."""
        for name in sorted({n.name for n in walk(body) if isinstance(n, Sym)}):
            if name in self.d.guarded:
                where = self.both(where, self.finite(name, self.reference(name, "new")))
        return where

    def finite(self, name: str, place: Expr) -> Expr:
        """Return the test that a reference, read at a place, is a number."""
        value = self.d.references[name].value
        link = self.chain.links.get(value.tensor) if isinstance(value, Access) else None
        if link is None or link.op not in ("max", "min"):
            return Apply("<", (Apply("abs", (place,)), Num(math.inf)))
        low = link.op == "max"
        return Apply(">" if low else "<", (place, Num(-math.inf if low else math.inf)))

    def local(self, each: Accumulator) -> Access:
        """Emit an accumulator over one tile."""
        link = self.chain.links[each.link]
        body = self.elementwise(each.body, link.where)
        where = None if link.where is None else self.tiled(link.where)
        taken = {a.tensor for a in accesses(body)} & self.elements_made
        where = None if taken else where
        for access in link.partial:
            if access not in accesses(each.body):
                where = self.both(where, self.tiled(Apply("==", (access, access))))
        if not taken:
            where = self.inside(each.body, where)
            where = self.guard(each.body, where)
        indices = tuple(Var(n) for n in [*each.ranks, self.outer_var])
        output = Access(self.fresh(f"{each.name}_T"), indices)
        present = set(variables(body, *([where] if where else []))) - {self.chain.rank}
        reduced = link.einsum.reduce.over if link.einsum.reduce else ()
        over = (*(n for n in reduced if n in present), self.inner_var)
        for name in (n for n in reduced if n not in {*present, self.chain.rank}):
            body = repeated(each.op, body, Sym(name.upper()))
        self.body.append(Einsum(output, body, Reduce(each.op, over), where))
        return output

    def coefficient(self, c: Expr) -> Expr:
        """Return a carry's coefficient, as a tensor of its own if it is dear."""
        expr = replaced(self.value(c, "new"), {})
        if not any(isinstance(n, Apply) and n.op in DEAR for n in walk(expr)):
            return expr
        at = ("carry", expr, self.number)
        if at not in self.made:
            ranks = [n for n in variables(expr) if n != self.outer_var]
            indices = tuple(Var(n) for n in [*ranks, self.outer_var])
            first = next(a.tensor for a in accesses(expr)).removesuffix("_R").removesuffix("_T")
            output = Access(self.fresh(f"{first}_C"), indices)
            self.body.append(Einsum(output, expr))
            self.made[at] = output
        return self.made[at]

    def carried(self, each: Accumulator) -> Expr:
        """Return what an accumulator is at the new references."""
        total: Expr | None = None
        for name, c in each.carry:
            factor = self.coefficient(c)
            state = self.state(name, "old", {}) if name else ONE
            term = multiply(state, factor)
            total = term if total is None else Apply("+", (total, term))
        assert total is not None
        return total

"""One reduction at a time: from its body to the forms in which it can share a pass.

Before → after: the link ``O = exp(QK - GM) / SD * V :: sum[m]``, with GM and SD live, becomes the
forms {track GM, defer SD}, {track both}, ... each with accumulators, carries and an epilogue.

A value of the whole rank is taken as large as it stands in the body (``sqrt(VAR + EPS)``, not
VAR): that is the reference. The shape of the rank, where a reduction that others refer to reads it
(``X / M :: sum[m]``), is a value too: over a prefix it is the number of its coordinates, so that
the reference of a prefix is that of the prefix alone (the running mean).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations

from penstock.einsum_ir.nodes import (
    Access,
    Apply,
    Expr,
    Num,
    Sym,
    Var,
    accesses,
    substitute,
    variables,
    walk,
)
from penstock.einsum_ir.rewrite.chain import Chain, Link
from penstock.einsum_ir.rewrite.closure import Closed, close
from penstock.einsum_ir.rewrite.order import ordered, peel
from penstock.einsum_ir.rewrite.plan import (
    IDENTITY,
    Accumulator,
    Costs,
    Fused,
    Reference,
    accumulated,
    spelled,
)
from penstock.einsum_ir.rewrite.separate import Fact, NotSeparableError, Separator, old
from penstock.einsum_ir.rewrite.signs import Sign, sign
from penstock.einsum_ir.rewrite.terms import ONE, ZERO, add, key, multiply, replaced

__all__ = ["Workshop"]

_MOST_LIVE = 5
_DEAR = {
    "exp": 4,
    "exp2": 4,
    "log": 4,
    "log2": 4,
    "/": 3,
    "sqrt": 3,
    "rsqrt": 3,
    "sin": 4,
    "cos": 4,
}
_DEAR |= {"**": 6, "tanh": 5, "sigmoid": 5}


@dataclass
class Workshop:
    """What the links of a chain share: references, accumulators by body, signs and facts.

    Args:
        chain: the chain.
        counted: links in which the shape of the rank counts a prefix.
        positive: inputs above 0.
        negative: inputs below 0.
    """

    chain: Chain
    counted: frozenset[str] = frozenset()
    positive: frozenset[str] = frozenset()
    negative: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.references: dict[Expr, Reference] = {}
        self.names: dict[object, str] = {}
        self._signs: dict[str, Sign] = dict.fromkeys(self.positive, Sign.POSITIVE)
        self._signs |= dict.fromkeys(self.negative, Sign.NEGATIVE)

    # --- references -----------------------------------------------------------------------------

    def reference(self, value: Expr) -> Reference:
        """Return the reference with a value."""
        if value not in self.references:
            self.references[value] = Reference(f"u{len(self.references)}", value)
        return self.references[value]

    def placed(self, expr: Expr, live: frozenset[str]) -> Expr:
        """Replace the largest parts without the rank that read live tensors by placeholders."""
        if self.chain.rank not in variables(expr):
            if any(access.tensor in live for access in accesses(expr)):
                return Sym(self.reference(expr).name)
            return expr
        if isinstance(expr, Apply):
            return replace(expr, args=tuple(self.placed(each, live) for each in expr.args))
        return expr

    @property
    def shape(self) -> Sym:
        """The shape of the rank."""
        return Sym(self.chain.rank.upper())

    def _counting(self, link: Link, body: Expr) -> Expr:
        if link.name not in self.counted:
            return body
        return replaced(body, {self.shape: Sym(self.reference(self.shape).name)})

    # --- signs and facts ------------------------------------------------------------------------

    def sign(self, leaf: Expr) -> Sign:
        """Return what is known of the sign of an access, a scalar or a placeholder."""
        match leaf:
            case Access(tensor):
                return self._tensor_sign(tensor)
            case Sym(name):
                for value, reference in self.references.items():
                    if name in (reference.name, f"{reference.name}'"):
                        return sign(value, self.sign)
                constants = dict(self.chain.cascade.constants)
                if name in constants:
                    return sign(constants[name], self.sign)
                return Sign.POSITIVE if self._is_shape(name) else Sign.ANY
            case Var():
                return Sign.AT_LEAST_0
            case _:
                return Sign.ANY

    def _is_shape(self, name: str) -> bool:
        ranks = {rank for each in self.chain.cascade.inputs for rank in each.ranks}
        return name.lower() in ranks and name.isupper()

    def _tensor_sign(self, tensor: str) -> Sign:
        if tensor not in self._signs:
            self._signs[tensor] = Sign.ANY  # while it is looked at: loops know nothing
            chain = self.chain
            link = chain.links.get(tensor)
            made = chain.outer.get(tensor) or chain.elements.get(tensor)
            if link is not None and link.op in (*IDENTITY, "mean"):
                self._signs[tensor] = sign(link.body, self.sign)
            elif made is not None and not made.selects and made.iterative is None:
                self._signs[tensor] = sign(made.body, self.sign)
        return self._signs[tensor]

    def facts(self) -> tuple[Fact, ...]:
        """Return what running maxima and minima bound."""
        found = []
        for value, reference in self.references.items():
            link = self.chain.links.get(value.tensor) if isinstance(value, Access) else None
            if not isinstance(value, Access) or link is None or link.reads:
                continue
            if link.op in ("max", "min"):
                at = key(_at(link, value))
                found.append(Fact(reference.name, at, link.op == "max"))
        return tuple(found)

    # --- forms ----------------------------------------------------------------------------------

    def forms(self, link: Link, live: frozenset[str]) -> list[Fused]:
        """Return the forms in which a link can share the pass of what it reads, cheapest first.

        Raises:
            NotSeparableError: there is none.
        """
        body = self._counting(link, self.placed(link.body, live))
        moving = [n.name for n in walk(body) if isinstance(n, Sym) and self._is_reference(n.name)]
        names = list(dict.fromkeys(moving))
        if not names:
            return [self._plain(link, body)]
        count = self.references[self.shape].name if self.shape in self.references else ""
        free = [name for name in names if name != count]
        if len(free) > _MOST_LIVE:
            raise NotSeparableError(f"'{link.body}' reads {len(free)} live values")
        found: list[Fused] = []
        reasons: list[NotSeparableError] = []
        for tracked in _subsets(free):
            try:
                found.append(self._form(link, body, tracked, frozenset(names) - tracked))
            except NotSeparableError as error:
                reasons.append(error)
        if not found:
            raise reasons[0]
        return sorted(found, key=lambda each: each.costs.order)

    def _is_reference(self, name: str) -> bool:
        return any(each.name == name for each in self.references.values())

    def _plain(self, link: Link, body: Expr) -> Fused:
        if link.op not in IDENTITY:
            raise NotSeparableError(f"'{link.op}' has no accumulator")
        ranks = _kept(link) if link.op == "topk" else self._own_ranks(link, body)
        one = self._accumulator(link, link.op, body, ranks)
        return Fused(link.name, (one,), accumulated(one.name), costs=_costs((one,), ZERO, 0))

    def _form(
        self, link: Link, body: Expr, tracked: frozenset[str], deferred: frozenset[str]
    ) -> Fused:
        separator = Separator(
            frozenset([self.chain.rank]), tracked, deferred, self.sign, self.facts()
        )
        moved: Expr | None = None
        if link.op == "sum":
            accumulators, epilogue, moved = self._sum(link, body, separator)
        elif link.op in ("max", "min"):
            accumulators, epilogue = self._order(link, body, separator)
        elif link.op == "topk":
            one = self._accumulator(link, "topk", ordered(body, separator), _kept(link))
            accumulators, epilogue = (one,), accumulated(one.name)
        elif link.op == "prod":
            accumulators, epilogue = self._product(link, body, separator)
        else:
            raise NotSeparableError(f"'{link.op}' of what a whole value moves")
        used = {name for each in accumulators for name in each.references}
        if tracked - used:
            raise NotSeparableError(f"'{body}' does not follow {', '.join(sorted(tracked))}")
        hazards = self._hazards(body, deferred)
        return Fused(
            link.name,
            accumulators,
            epilogue,
            tuple(sorted(tracked)),
            tuple(sorted(deferred)),
            tuple(self.named(each) for each in separator.obligations),
            costs=_costs(accumulators, epilogue, hazards),
            moved=moved,
        )

    def named(self, text: str) -> str:
        """Return a text with the values of references."""
        return spelled(text, self.references.values())

    def _hazards(self, body: Expr, deferred: frozenset[str]) -> int:
        """Count deferred values that shift or exponentiate what is accumulated without them."""
        found = 0
        rank = frozenset([self.chain.rank])
        for name in deferred - self._counts():
            try:
                parts = Separator(rank, frozenset(), frozenset([name]), self.sign).terms(body)
            except NotSeparableError:
                parts = []
            found += not (len(parts) == 1 and _is_scale(parts[0].c, name))
        return found

    def _counts(self) -> set[str]:
        return {self.references[self.shape].name} if self.shape in self.references else set()

    # --- by reduction ---------------------------------------------------------------------------

    def _sum(
        self, link: Link, body: Expr, separator: Separator
    ) -> tuple[tuple[Accumulator, ...], Expr, Expr]:
        closed = close(body, separator)
        ranks = self._ranks(link, closed)
        names = [
            self._name(link, "sum", b, each) for b, each in zip(closed.basis, ranks, strict=True)
        ]
        made = []
        for place, each in enumerate(closed.basis):
            carry = tuple(
                (name, c) for name, c in zip(names, closed.carry[place], strict=True) if c != ZERO
            )
            kept = ranks[place]
            made.append(self._accumulator(link, "sum", each, kept, carry, separator.tracked))
        epilogue: Expr = ZERO
        moved: Expr = ZERO
        for name, c, other in zip(names, closed.epilogue, closed.moved, strict=True):
            epilogue = add(epilogue, _scaled(accumulated(name), c))
            moved = add(moved, _scaled(accumulated(name), other))
        return tuple(made), epilogue, moved

    def _order(
        self, link: Link, body: Expr, separator: Separator
    ) -> tuple[tuple[Accumulator, ...], Expr]:
        made: dict[str, Accumulator] = {}

        def leaf(op: str, expr: Expr) -> Expr:
            if not separator.moves(expr):
                one = self._accumulator(link, op, expr, self._own_ranks(link, expr))
                made[one.name] = one
                return accumulated(one.name)
            return self._affine(link, op, expr, separator, made)

        epilogue = peel(link.op, body, separator, leaf)
        return tuple(made.values()), epilogue

    def _affine(
        self, link: Link, op: str, expr: Expr, separator: Separator, made: dict[str, Accumulator]
    ) -> Expr:
        """Return an order reduction that is carried by a factor above 0 and a shift."""
        closed = close(expr, separator)
        bodies = [each for each in closed.basis if each != ONE]
        if len(bodies) != 1:
            raise NotSeparableError(f"'{op}' of '{expr}' is not monotone in one element")
        place = closed.basis.index(bodies[0])
        factor, end = closed.carry[place][place], closed.epilogue[place]
        if not (sign(factor, self.sign).up and sign(end, self.sign).up):
            raise NotSeparableError(f"'{op}' of '{expr}': the sign of '{factor}' is not known")
        ranks = self._ranks(link, closed)[place]
        name = self._name(link, op, bodies[0], ranks)
        carry: tuple[tuple[str, Expr], ...] = ((name, factor),)
        epilogue = _scaled(accumulated(name), end)
        if ONE in closed.basis:
            other = closed.basis.index(ONE)
            carry += (("", closed.carry[place][other]),)
            epilogue = add(epilogue, closed.epilogue[other])
        one = self._accumulator(link, op, bodies[0], ranks, carry, separator.tracked)
        made[one.name] = one
        return epilogue

    def _product(
        self, link: Link, body: Expr, separator: Separator
    ) -> tuple[tuple[Accumulator, ...], Expr]:
        """A product of ``b(x) h(u)``: the factors of u come out once for each element."""
        closed = close(body, separator)
        if len(closed.basis) != 1:
            raise NotSeparableError(f"'prod' of '{body}' has {len(closed.basis)} independent parts")
        b, c, end = closed.basis[0], closed.carry[0][0], closed.epilogue[0]
        count = self._accumulator(link, "sum", ONE, self._own_ranks(link, ONE))
        kept = self._own_ranks(link, b, c)
        name = self._name(link, "prod", b, kept)
        carry = ((name, _powered(c, old(f"${count.name}"))),) if c != ONE else ()
        one = self._accumulator(link, "prod", b, kept, carry, separator.tracked)
        factor = _powered(end, accumulated(count.name))
        return (count, one), multiply(accumulated(one.name), factor)

    # --- accumulators ---------------------------------------------------------------------------

    def _own_ranks(self, link: Link, *exprs: Expr) -> tuple[str, ...]:
        """Return the ranks of the link that expressions have; all of them under a mask."""
        kept = variables(link.einsum.output)
        found = set(variables(*exprs)) | self._reference_ranks(*exprs)
        return kept if link.masks else tuple(each for each in kept if each in found)

    def _ranks(self, link: Link, closed: Closed) -> list[tuple[str, ...]]:
        """Return the ranks of accumulators: of what each is made of, and is carried by."""
        own = [
            set(self._own_ranks(link, b, *row))
            for b, row in zip(closed.basis, closed.carry, strict=True)
        ]
        for _ in own:
            for mine, row in zip(own, closed.carry, strict=True):
                mine.update(*(each for each, c in zip(own, row, strict=True) if c != ZERO))
        kept = variables(link.einsum.output)
        return [tuple(each for each in kept if each in mine) for mine in own]

    def _reference_ranks(self, *exprs: Expr) -> set[str]:
        by_name = {each.name: value for value, each in self.references.items()}
        names = {n.name.rstrip("'") for e in exprs for n in walk(e) if isinstance(n, Sym)}
        return {v for name in names & set(by_name) for v in variables(by_name[name])}

    def _name(self, link: Link, op: str, body: Expr, ranks: tuple[str, ...]) -> str:
        """Return the name of the accumulator of a body: the same for the same points."""
        over = frozenset(link.einsum.reduce.over if link.einsum.reduce else ())
        at = (op, key(body), str(link.where), link.masks, over, ranks)
        if at not in self.names:
            taken = set(self.names.values())
            name, number = link.name, 1
            while name in taken:
                number += 1
                name = f"{link.name}{number}"
            self.names[at] = name
        return self.names[at]

    def _accumulator(
        self,
        link: Link,
        op: str,
        body: Expr,
        ranks: tuple[str, ...],
        carry: tuple[tuple[str, Expr], ...] = (),
        tracked: frozenset[str] = frozenset(),
    ) -> Accumulator:
        name = self._name(link, op, body, ranks)
        carry = carry or ((name, ONE),)
        read = {
            n.name for e in (body, *(c for _, c in carry)) for n in walk(e) if isinstance(n, Sym)
        }
        references = tuple(sorted(each for each in tracked if read & {each, f"{each}'"}))
        return Accumulator(name, op, body, link.name, ranks, references, carry, IDENTITY[op])


def _kept(link: Link) -> tuple[str, ...]:
    return variables(link.einsum.output)


def _powered(base: Expr, exponent: Expr) -> Expr:
    return ONE if base == ONE else Apply("**", (base, exponent))


def _at(link: Link, access: Access) -> Expr:
    """Return the body of a link at the point of an access."""
    pairs = zip(link.einsum.output.indices, access.indices, strict=True)
    return substitute(link.body, {v.name: i for v, i in pairs if isinstance(v, Var)})


def _subsets(names: list[str]) -> Iterator[frozenset[str]]:
    for size in range(len(names), -1, -1):
        for each in combinations(names, size):
            yield frozenset(each)


def _scaled(value: Expr, factor: Expr) -> Expr:
    match factor:
        case Apply("/", (above, below)):
            return Apply("/", (multiply(value, above), below))
        case _:
            return multiply(value, factor)


def _is_scale(c: Expr, name: str) -> bool:
    """Whether a deferred value only scales: to the power of 1 or -1, or of a half."""
    match c:
        case Sym(own):
            return own == name
        case Apply("/" | "*", (left, right)):
            sides = [each for each in (left, right) if Sym(name) in walk(each)]
            return len(sides) == 1 and _is_scale(sides[0], name)
        case Apply("neg" | "sqrt" | "rsqrt" | "sq", (inner,)):
            return _is_scale(inner, name)
        case Apply("**", (inner, Num())):
            return _is_scale(inner, name)
        case _:
            return False


def _ops(*exprs: Expr) -> int:
    return sum(
        _DEAR.get(node.op, 1) for expr in exprs for node in walk(expr) if isinstance(node, Apply)
    )


def _costs(accumulators: tuple[Accumulator, ...], epilogue: Expr, hazards: int) -> Costs:
    return Costs(
        len(accumulators),
        sum(_ops(each.body) + 1 for each in accumulators),
        sum(_ops(c) + 1 for each in accumulators for _, c in each.carry if c != ONE),
        _ops(epilogue),
        hazards,
    )

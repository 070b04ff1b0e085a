"""`reduce_passes`: a chain of reductions in the fewest passes over a rank.

Before → after: softmax attention in three passes over the keys becomes FuseMax's one-pass cascade;
LayerNorm with a linear layer, Welford's. No mechanism is known here: a reduction shares the pass of
what it reads if its body separates (`separate.py`, `order.py`), and else starts a new one, which is
the best there is, because a value that is there earlier never makes a later reduction harder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product

from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.nodes import Access, Apply, Expr, Num, Sym, accesses, variables, walk
from penstock.einsum_ir.passes import count_passes
from penstock.einsum_ir.rewrite.chain import Chain, ChainError, extract
from penstock.einsum_ir.rewrite.choose import by_order, passing
from penstock.einsum_ir.rewrite.emit import Derivation
from penstock.einsum_ir.rewrite.fuse import Workshop
from penstock.einsum_ir.rewrite.moments import without_zero_moments
from penstock.einsum_ir.rewrite.oracle import sampled_rank
from penstock.einsum_ir.rewrite.plan import (
    IDENTITY,
    Barrier,
    Costs,
    Fused,
    PassPlan,
    Refusal,
    Variant,
    accumulated,
)
from penstock.einsum_ir.rewrite.scan import framed
from penstock.einsum_ir.rewrite.separate import NotSeparableError
from penstock.einsum_ir.rewrite.signs import Sign, sign
from penstock.einsum_ir.rewrite.stream import Stream
from penstock.einsum_ir.rewrite.terms import map_access, replaced
from penstock.einsum_ir.rewrite.tree import Tree

__all__ = ["reduce_passes"]

_MOST_TRIED = 24


@dataclass(frozen=True)
class _Found:
    """Passes of links, the forms of those in a loop, and why others wait."""

    pass_of: Mapping[str, int]
    forms: Mapping[str, Sequence[Fused]]
    barriers: tuple[Barrier, ...]
    after: int


def reduce_passes(
    cascade: Cascade,
    rank: str,
    *,
    tile: str = "",
    size: int = 64,
    fmt: Format | None = None,
    gated: bool = True,
    most: int = 1,
    positive: frozenset[str] = frozenset(),
    negative: frozenset[str] = frozenset(),
) -> PassPlan | Refusal:
    """Derive the form of a cascade with the fewest passes over a rank.

    Args:
        cascade: any cascade.
        rank: a rank variable that is reduced.
        tile: the rank variable within a tile; ``""`` takes the rank with a 0, as ``m0``.
        size: coordinates of a tile, a default that shapes override.
        fmt: the target's number format, in which the numerical gate tries variants; None: fp32.
        gated: try variants in numbers. Without, the first in the order of cost is taken.
        most: how many variants to look for.
        positive: inputs that have only numbers above 0.
        negative: inputs that have only numbers below 0.

    Returns:
        A plan, or a refusal that says why no pass can be saved.

    Raises:
        UnknownNameError: no Einsum has the rank.
    """
    try:
        chain = extract(cascade, rank)
    except ChainError as error:
        counts = [count_passes(cascade, e.tensor, rank) for e in cascade.inputs if rank in e.ranks]
        return Refusal(cascade, rank, max([1, *counts]), str(error))
    workshop = Workshop(chain, _counted(chain), positive, negative)
    found = _passes(chain, workshop)
    if found.after >= chain.before:
        certificate = max((each.certificate for each in found.barriers), default=0)
        reason = found.barriers[0].reason if found.barriers else "it has only one"
        return Refusal(cascade, rank, chain.before, reason, found.barriers, certificate)
    names = _tile_names(cascade, rank, tile)
    candidates = _candidates(chain, workshop, found, names, size)
    if gated:
        asked, signs = by_order(cascade, found.forms), (positive, negative)
        chosen, refused = passing(asked, rank, candidates, names[1], fmt, most, signs)
    else:
        chosen, refused = list(islice(candidates, most)), ""
    if not chosen:
        reason = f"no form is as good in numbers: {refused}"
        return Refusal(cascade, rank, chain.before, reason, found.barriers)
    return PassPlan(
        original=cascade,
        rank=rank,
        before=chain.before,
        after=found.after,
        pass_of=tuple(found.pass_of.items()),
        references=tuple(workshop.references.values()),
        barriers=found.barriers,
        variants=tuple(chosen),
        chosen=chosen[0],
        tile=names[1],
        split=names[1],
    )


def _tile_names(cascade: Cascade, rank: str, tile: str) -> tuple[str, str]:
    """Return rank variables for the tile and in the tile that the cascade does not use."""
    used = {name for each in cascade.einsums for name in each.variables}
    used |= {each.lower() for each in cascade.arity} | {n.lower() for n, _ in cascade.constants}
    stem = rank
    while not tile and {f"{stem}0", f"{stem}1"} & used:
        stem += "t"
    inner = tile or f"{stem}0"
    outer = f"{inner.removesuffix('0')}1"
    return outer, inner


def _counted(chain: Chain) -> frozenset[str]:
    """Return the links whose running value others may refer to."""
    return frozenset(
        above
        for link in chain.links.values()
        for tensor in link.reads
        for above in chain.depends[tensor]
    )


# --- passes -------------------------------------------------------------------------------------


def _passes(chain: Chain, workshop: Workshop) -> _Found:
    """Give each link the earliest pass, in order."""
    pass_of: dict[str, int] = {}
    forms: dict[str, Sequence[Fused]] = {}
    barriers: list[Barrier] = []

    def ready(tensor: str) -> int:
        return max((pass_of[each] for each in chain.depends.get(tensor, ())), default=0)

    for name, link in chain.links.items():
        below = max((ready(each.tensor) for each in link.einsum.operands), default=0)
        live = frozenset(each for each in link.reads if ready(each) == below)
        try:
            if link.blocked and below:
                raise NotSeparableError(link.blocked)
            forms[name] = _both(workshop, workshop.forms(link, live))
            pass_of[name] = max(below, 1)
        except NotSeparableError as error:
            pass_of[name] = below + 1
            if below:
                rank = sampled_rank(workshop, link, live)
                barriers.append(Barrier(name, tuple(sorted(live)), str(error), rank))
            if link.op in IDENTITY:
                forms[name] = workshop.forms(link, frozenset())
    after = max(pass_of.values(), default=1)
    for name in chain.held & set(chain.moving):
        own = ready(name) + 1
        after = max(after, own)
        reads = tuple(sorted(chain.depends[name]))
        barriers.append(Barrier(name, reads, f"it has the rank '{chain.rank}' itself"))
    return _Found(pass_of, forms, tuple(barriers), after)


def _both(workshop: Workshop, forms: Sequence[Fused]) -> Sequence[Fused]:
    """Return forms with zero moments kept, and dropped."""
    fewer = (without_zero_moments(workshop, each) for each in forms)
    return [*forms, *(each for each in fewer if each is not None)]


# --- variants -----------------------------------------------------------------------------------


def _candidates(
    chain: Chain, workshop: Workshop, found: _Found, names: tuple[str, str], size: int
) -> Iterator[Variant]:
    """Yield derived cascades, the cheapest first."""
    links = [name for name in chain.links if name in found.forms]
    choices = sorted(
        product(*(found.forms[name] for name in links)), key=lambda each: _costs(each).order
    )
    count = workshop.references.get(workshop.shape)
    for number, choice in enumerate(choices[:_MOST_TRIED]):
        named = _named(choice)
        derivation = Derivation(
            chain,
            {each.link: each for each in named},
            found.pass_of,
            {each.name: each for each in workshop.references.values()},
            count.name if count else "",
            names,
            size,
            guarded=_guarded(chain, workshop),
            partial=_partial(chain, workshop),
            framed=framed(workshop, named),
            divisors=_divisors(workshop, named),
        )
        cascade, tree = _emitted(derivation)
        yield Variant(f"v{number}", named, cascade, tree, _costs(choice))


def _emitted(derivation: Derivation) -> tuple[Cascade, Cascade | None]:
    """Return the streaming form and the tree; what both a pass and the end need is kept."""
    stream = Stream(derivation)
    cascade = stream.cascade()
    if stream.twice:
        derivation = replace(derivation, kept=stream.twice)
        cascade = Stream(derivation).cascade()
    if derivation.chain.scans and not derivation.framed:
        return cascade, None  # a part does not know the prefix before it
    return cascade, Tree(derivation).cascade()


def _named(choice: Sequence[Fused]) -> tuple[Fused, ...]:
    """Name accumulators after the first reduction that has them."""
    names: dict[str, str] = {}
    links = {each.link for each in choice}
    for each in choice:
        for accumulator in each.accumulators:
            if accumulator.name not in names:
                taken = set(names.values()) | links - {each.link}
                options = [each.link, *(f"{each.link}_{number}" for number in range(2, 99))]
                names[accumulator.name] = next(name for name in options if name not in taken)
    values: dict[Expr, Expr] = {accumulated(a): accumulated(b) for a, b in names.items()}
    return tuple(
        replace(
            each,
            epilogue=replaced(each.epilogue, values),
            accumulators=tuple(
                replace(
                    a,
                    name=names[a.name],
                    carry=tuple((names.get(to, to), c) for to, c in a.carry),
                )
                for a in each.accumulators
            ),
        )
        for each in choice
    )


def _costs(choice: Sequence[Fused]) -> Costs:
    """Return the costs of a choice; an accumulator that several links share counts once."""
    total = Costs()
    seen: set[str] = set()
    for each in choice:
        fresh = [a for a in each.accumulators if a.name not in seen]
        seen |= {a.name for a in fresh}
        share = len(fresh) / max(1, len(each.accumulators))
        costs = each.costs
        total += Costs(
            len(fresh),
            round(costs.element_ops * share),
            round(costs.tile_ops * share),
            costs.final_ops,
            costs.hazards,
        )
    return total


def _guarded(chain: Chain, workshop: Workshop) -> frozenset[str]:
    """Return references that may be infinite in a prefix: extremes of what an input adds to."""
    found = set()
    for value, reference in workshop.references.items():
        for access in accesses(value):
            for name in chain.depends.get(access.tensor, ()):
                link = chain.links[name]
                if link.op in ("max", "min") and _may_be_infinite(chain, link.body):
                    found.add(reference.name)
    return frozenset(found)


def _may_be_infinite(chain: Chain, expr: Expr) -> bool:
    """Whether an input stands in a sum, or alone: a caller may mask with -inf there."""
    match expr:
        case Access(tensor):
            made = chain.elements.get(tensor)
            if made is None:
                return chain.rank in variables(expr)
            return made.reduce is None and _may_be_infinite(chain, made.body)
        case Apply("+" | "-" | "max" | "min" | "where" | "neg", args):
            return any(_may_be_infinite(chain, each) for each in args)
        case _:
            return False


def _partial(chain: Chain, workshop: Workshop) -> frozenset[str]:
    """Return references for which a prefix may divide by 0."""

    def written(expr: Expr) -> Expr:
        return map_access(expr, change)

    def change(access: Access) -> Expr:
        made = chain.outer.get(access.tensor)
        moves = made is not None and made.reduce is None and chain.depends.get(access.tensor)
        return written(made.body) if made is not None and moves else access

    return frozenset(
        reference.name
        for value, reference in workshop.references.items()
        if not all(sign(each, workshop.sign).strict for each in _divided(written(value), workshop))
    )


def _divided(expr: Expr, workshop: Workshop) -> Iterator[Expr]:
    """Yield what an expression divides by, or raises to less than 0."""
    for node in walk(expr):
        match node:
            case Apply("/", (_, below)):
                yield below
            case Apply("rsqrt", (base,)):
                yield base
            case Apply("**", (base, Num(value))) if value < 0:
                yield base
            case Access(tensor) if (link := workshop.chain.links.get(tensor)) is not None:
                for each in _divided(link.body, workshop):
                    if workshop.chain.rank not in variables(each):
                        yield each
            case _:
                pass


def _divisors(workshop: Workshop, choice: Sequence[Fused]) -> frozenset[str]:
    """Return references that divide and may be 0 in a prefix."""
    found = set()
    for each in choice:
        for accumulator in each.accumulators:
            for expr in (accumulator.body, *(c for _, c in accumulator.carry)):
                found |= _dividing(expr)
    return frozenset(
        name
        for name in found
        if any(r.name == name for r in workshop.references.values())
        and workshop.sign(Sym(name)) not in (Sign.POSITIVE, Sign.NEGATIVE)
    )


def _dividing(expr: Expr) -> set[str]:
    found: set[str] = set()
    for node in walk(expr):
        match node:
            case Apply("/", (_, below)):
                found |= {n.name.rstrip("'") for n in walk(below) if isinstance(n, Sym)}
            case Apply("rsqrt", (base,)):
                found |= {n.name.rstrip("'") for n in walk(base) if isinstance(n, Sym)}
            case Apply("**", (base, Num(value))) if value < 0:
                found |= {n.name.rstrip("'") for n in walk(base) if isinstance(n, Sym)}
            case _:
                pass
    return found

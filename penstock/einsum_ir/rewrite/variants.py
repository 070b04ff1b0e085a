"""The derived forms of a chain, the cheapest first, each as cascades.

A choice takes one form of each reduction. It is emitted with the guards against infinite references
that its inputs may call for, then with all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from penstock.einsum_ir.nodes import Access, Apply, Expr, Num, Sym, accesses, variables, walk
from penstock.einsum_ir.rewrite.chain import Chain, Link
from penstock.einsum_ir.rewrite.emit import Derivation
from penstock.einsum_ir.rewrite.fuse import Workshop
from penstock.einsum_ir.rewrite.plan import Costs, Fused, Variant, accumulated
from penstock.einsum_ir.rewrite.scan import framed
from penstock.einsum_ir.rewrite.separate import old
from penstock.einsum_ir.rewrite.signs import sign
from penstock.einsum_ir.rewrite.stream import Stream
from penstock.einsum_ir.rewrite.terms import map_access, replaced
from penstock.einsum_ir.rewrite.tree import Tree

__all__ = ["Candidate", "candidates"]

_MOST_TRIED = 24


@dataclass(frozen=True)
class Candidate:
    """A derived form, and what emitted it: that can show what is on the way to the outputs."""

    variant: Variant
    stream: Stream
    tree: Tree | None


def candidates(
    chain: Chain,
    workshop: Workshop,
    forms: Mapping[str, Sequence[Fused]],
    pass_of: Mapping[str, int],
    names: tuple[str, str],
    size: int,
    threshold: float = 0.0,
    always: bool = False,
) -> Iterator[Candidate]:
    """Yield derived cascades, the cheapest first."""
    links = [name for name in chain.links if name in forms]
    choices = sorted(product(*(forms[name] for name in links)), key=lambda each: _costs(each).order)
    count = workshop.references.get(workshop.shape)
    for number, choice in enumerate(choices[:_MOST_TRIED]):
        named = _named(choice)
        divisors = _divisors(chain, workshop, named)
        if _vanishes(named, divisors):
            continue
        likely, all_of_them = _guarded(chain, workshop), _extremes(chain, workshop)
        for guarded in dict.fromkeys((likely, all_of_them)):
            derivation = Derivation(
                chain,
                {each.link: each for each in named},
                pass_of,
                {each.name: each for each in workshop.references.values()},
                count.name if count else "",
                names,
                size,
                guarded=guarded,
                partial=_partial(chain, workshop),
                framed=framed(workshop, named),
                lacking=_lacking(chain, workshop, named),
                threshold=threshold if _may_lag(chain, workshop, named) else 0.0,
                divisors=divisors,
                always=always,
            )
            name = f"v{number}" if guarded == likely else f"v{number} guarded"
            yield _emitted(name, named, _costs(choice), derivation)


def _emitted(
    name: str, reductions: tuple[Fused, ...], costs: Costs, derivation: Derivation
) -> Candidate:
    """Return the streaming form and the tree; what both a pass and the end need is kept."""
    stream = Stream(derivation)
    cascade = stream.cascade()
    if stream.twice:
        derivation = replace(derivation, kept=stream.twice)
        stream = Stream(derivation)
        cascade = stream.cascade()
    # a part does not know the prefix before it
    tree = None if derivation.chain.scans and not derivation.framed else Tree(derivation)
    whole = tree.cascade() if tree else None
    variant = Variant(name, reductions, cascade, whole, costs, derivation.threshold)
    return Candidate(variant, stream, tree)


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
    counts: dict[Expr, Expr] = {old(f"${a}"): old(f"${b}") for a, b in names.items()}
    return tuple(
        replace(
            each,
            epilogue=replaced(each.epilogue, values),
            moved=None if each.moved is None else replaced(each.moved, values),
            accumulators=tuple(
                replace(
                    a,
                    name=names[a.name],
                    carry=tuple((names.get(to, to), replaced(c, counts)) for to, c in a.carry),
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
    return frozenset(
        name
        for name, links in _extreme_links(chain, workshop).items()
        if any(_may_be_infinite(chain, link.body) for link in links)
    )


def _extremes(chain: Chain, workshop: Workshop) -> frozenset[str]:
    """Return references that are infinite in a prefix if any element can be."""
    return frozenset(_extreme_links(chain, workshop))


def _extreme_links(chain: Chain, workshop: Workshop) -> dict[str, list[Link]]:
    found: dict[str, list[Link]] = {}
    for value, reference in workshop.references.items():
        links = [
            chain.links[name]
            for access in accesses(value)
            for name in chain.depends.get(access.tensor, ())
            if chain.links[name].op in ("max", "min")
        ]
        if links:
            found[reference.name] = links
    return found


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


def _vanishes(choice: Sequence[Fused], divisors: frozenset[str]) -> bool:
    """Whether a reference that is 0 at the end would be a factor: it is guarded, and lost."""
    return any(
        name in divisors and _places(accumulator.body, name) == {True}
        for each in choice
        for accumulator in each.accumulators
        for name in accumulator.references
    )


def _places(expr: Expr, name: str, above: bool = True) -> set[bool]:
    """Return whether a placeholder stands above and below a division."""
    match expr:
        case Sym(found) if found == name:
            return {above}
        case Apply("/", (numerator, denominator)):
            return _places(numerator, name, above) | _places(denominator, name, not above)
        case Apply("rsqrt", (inner,)):
            return _places(inner, name, not above)
        case Apply("**", (base, Num(power))):
            return _places(base, name, above == (power >= 0))
        case Apply(_, args):
            return set().union(*(_places(each, name, above) for each in args))
        case _:
            return set()


def _may_lag(chain: Chain, workshop: Workshop, choice: Sequence[Fused]) -> bool:
    """Whether references may stay behind: none is made of what follows another one."""
    moving = {each.link for each in choice if each.tracked}
    read = {name for each in choice for name in each.tracked}
    for value, reference in workshop.references.items():
        tensors = {access.tensor for access in accesses(value)}
        above = frozenset().union(*(chain.depends.get(n, frozenset()) for n in tensors))
        if reference.name in read and above & moving:
            return False
    return all(each.moved is not None for each in choice if each.tracked)


def _lacking(chain: Chain, workshop: Workshop, choice: Sequence[Fused]) -> frozenset[str]:
    """Return references that reductions with other masks than theirs follow."""
    by_name = {each.name: value for value, each in workshop.references.items()}
    found = set()
    for each in choice:
        own = chain.links[each.link].masks
        for name in each.tracked:
            tensors = {access.tensor for access in accesses(by_name[name])}
            above = frozenset().union(*(chain.depends.get(n, frozenset()) for n in tensors))
            if not all(chain.links[link].masks <= own for link in above):
                found.add(name)
    return frozenset(found)


def _divisors(chain: Chain, workshop: Workshop, choice: Sequence[Fused]) -> frozenset[str]:
    """Return references that divide and may be 0, or have no number, in a prefix."""
    unknown = _lacking(chain, workshop, choice) | _partial(chain, workshop)
    found = set()
    for each in choice:
        for accumulator in each.accumulators:
            for expr in (accumulator.body, *(c for _, c in accumulator.carry)):
                found |= _dividing(expr)
    return frozenset(
        name
        for name in found
        if any(r.name == name for r in workshop.references.values())
        and (name in unknown or not workshop.sign(Sym(name)).strict)
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

"""`reduce_passes`: a chain of reductions in the fewest passes over a rank.

Before → after: softmax attention in three passes over the keys becomes FuseMax's one-pass cascade;
LayerNorm with a linear layer, Welford's. No mechanism is known here: a reduction shares the pass of
what it reads if its body separates (`separate.py`, `order.py`), and else starts a new one, which is
the best there is, because a value that is there earlier never makes a later reduction harder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.formats import Format, parse_format
from penstock.einsum_ir.nodes import Var
from penstock.einsum_ir.rewrite.chain import Chain, ChainError, extract
from penstock.einsum_ir.rewrite.choose import Question, by_order, passing
from penstock.einsum_ir.rewrite.fuse import Workshop
from penstock.einsum_ir.rewrite.live import einsums_of, live
from penstock.einsum_ir.rewrite.moments import without_zero_moments
from penstock.einsum_ir.rewrite.oracle import sampled_rank
from penstock.einsum_ir.rewrite.plan import (
    IDENTITY,
    Barrier,
    Fused,
    PassPlan,
    Refusal,
    Tried,
    Variant,
)
from penstock.einsum_ir.rewrite.prepare import prepare
from penstock.einsum_ir.rewrite.ranks import passes_over
from penstock.einsum_ir.rewrite.separate import NotSeparableError
from penstock.einsum_ir.rewrite.variants import candidates

__all__ = ["reduce_passes"]


@dataclass(frozen=True)
class _Found:
    """Passes of links, the forms of those in a loop, and why others wait."""

    pass_of: Mapping[str, int]
    forms: Mapping[str, Sequence[Fused]]
    barriers: tuple[Barrier, ...]
    after: int

    @property
    def fused(self) -> tuple[str, ...]:
        """The links that share the pass of what they read."""
        return tuple(
            name
            for name, forms in self.forms.items()
            if any(each.tracked or each.deferred for each in forms)
        )


def reduce_passes(
    cascade: Cascade,
    rank: str,
    *,
    tile: str = "",
    size: int = 64,
    fmt: Format | None = None,
    gated: bool = True,
    most: int = 1,
    threshold: float = 0.0,
    positive: frozenset[str] = frozenset(),
    negative: frozenset[str] = frozenset(),
    always: bool = False,
) -> PassPlan | Refusal:
    """Derive the form of a cascade with the fewest passes over a rank.

    Args:
        cascade: any cascade.
        rank: a rank variable that is reduced.
        tile: the rank variable within a tile; ``""``: the rank with a 0, as ``m0``.
        size: coordinates of a tile, a default that shapes override.
        fmt: the target's number format, in which the numerical gate tries variants; None: fp32.
        gated: try variants in numbers. Without, the first in the order of cost is taken.
        most: how many variants to look for.
        threshold: how far a maximum may grow before rescaling (lazy, as in FlashAttention-4).
        positive: inputs that have only numbers above 0.
        negative: inputs that have only numbers below 0.
        always: also with one pass: its reductions become sums over tiles.

    Returns: a plan, or a refusal that says why no pass can be saved.

    Raises:
        UnknownNameError: no Einsum has the rank.
    """
    try:
        chain = prepare(extract(cascade, rank))
    except ChainError as error:
        return Refusal(cascade, rank, passes_over(cascade, rank), str(error))
    workshop = Workshop(chain, _counted(chain), positive, negative)
    names, single = _tile_names(cascade, rank, tile), always and chain.before == 1
    asked_for = (names, size, threshold, single)
    found = first = _passes(chain, workshop, {})
    tried: list[Tried] = []
    target, signs = fmt or parse_format("fp32"), (positive, negative)
    for blocked in ("", *reversed(first.fused)):
        found = _passes(chain, workshop, {blocked: _why(tried)}) if blocked else first
        again = blocked and found.pass_of == first.pass_of
        if (again or found.after >= chain.before or not found.fused) and not single:
            continue
        forms = candidates(chain, workshop, found.forms, found.pass_of, *asked_for)
        if gated:
            asked = by_order(cascade, found.forms)
            question = Question(asked, rank, names[1], target, *signs, _watched(chain, cascade))
            chosen, ran = passing(question, forms, found.after, most)
            tried += ran
        else:
            chosen = [each.variant for each in islice(forms, most)]
        if chosen:
            return _plan(cascade, chain, workshop, found, chosen, names[1], tuple(tried))
    return _refusal(cascade, chain, workshop, first, tuple(tried))


def _watched(chain: Chain, cascade: Cascade) -> tuple[str, ...]:
    """Return the reductions on the way to the outputs, where they are numbers at all points."""
    outputs = {each.tensor for each in cascade.outputs}
    needed = {each.name for each in einsums_of(live(cascade.statements, cascade.outputs))}
    return tuple(
        name
        for name, link in chain.links.items()
        if name in needed - outputs and link.op in ("sum", "max", "min", "prod")
        if all(isinstance(each, Var) for each in link.einsum.output.indices)
    )


def _plan(
    cascade: Cascade,
    chain: Chain,
    workshop: Workshop,
    found: _Found,
    chosen: list[Variant],
    tile: str,
    tried: tuple[Tried, ...],
) -> PassPlan:
    return PassPlan(
        original=cascade,
        rank=chain.rank,
        before=chain.before,
        after=found.after,
        pass_of=tuple(found.pass_of.items()),
        references=tuple(workshop.references.values()),
        barriers=found.barriers,
        variants=tuple(chosen),
        chosen=chosen[0],
        tile=tile,
        split=tile,
        tried=tried,
    )


def _refusal(
    cascade: Cascade,
    chain: Chain,
    workshop: Workshop,
    found: _Found,
    tried: tuple[Tried, ...],
) -> Refusal:
    """Return why no pass is saved: no algebra, or none that is as good in numbers."""
    barriers = found.barriers
    refused = _why(tried) if found.fused and found.after < chain.before else ""
    if refused:
        own = (Barrier(n, chain.links[n].reads, refused) for n in found.fused[-1:])
        barriers = (*barriers, *own)
    certificate = max((each.certificate for each in barriers), default=0)
    reason = refused or (barriers[0].reason if barriers else "there is none to save")
    references = tuple(workshop.references.values())
    return Refusal(
        cascade, chain.rank, chain.before, reason, barriers, certificate, tried, references
    )


def _why(tried: Sequence[Tried]) -> str:
    """Return why the first form that was tried is refused."""
    reasons = (each.verdict.refused for each in tried if not each.verdict.passed)
    return f"no form is as good in numbers: {next(reasons, 'each may lose a factor that is 0')}"


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


def _passes(chain: Chain, workshop: Workshop, blocked: Mapping[str, str]) -> _Found:
    """Give each link the earliest pass, in order; `blocked` ones wait, for a reason."""
    pass_of: dict[str, int] = {}
    forms: dict[str, Sequence[Fused]] = {}
    barriers: list[Barrier] = []

    def ready(tensor: str) -> int:
        return max((pass_of[each] for each in chain.depends.get(tensor, ())), default=0)

    for name, link in chain.links.items():
        below = max((ready(each.tensor) for each in link.einsum.operands), default=0)
        live = frozenset(each for each in link.reads if ready(each) == below)
        try:
            reason = link.blocked or blocked.get(name, "")
            if reason and below:
                raise NotSeparableError(reason)
            forms[name] = _both(workshop, workshop.forms(link, live))
            pass_of[name] = max(below, 1)
        except NotSeparableError as error:
            pass_of[name] = below + 1
            if below:
                rank = sampled_rank(workshop, link, live)
                reason = workshop.named(str(error))
                barriers.append(Barrier(name, tuple(sorted(live)), reason, rank))
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

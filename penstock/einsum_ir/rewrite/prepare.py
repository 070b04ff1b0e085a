"""What is rewritten before a chain is looked at: two steps that save no pass, and allow others to.

Before → after, for a sum over heads h and keys m of what is divided for each head::

    O[p, f]      = SN[h, p, m] / SD[h, p] * V[h, m, f]  :: sum[h, m]

    O_H[p, f, h] = SN[h, p, m] / SD[h, p] * V[h, m, f]  :: sum[m]
    O[p, f]      = O_H[p, f, h]                         :: sum[h]

and for a rank m that no tensor is read along, as it runs in a window: a tensor that has it, so that
tiles can be counted and end where the rank ends, ``K_W[w, m, e] = K[w*B + m, e]``.
"""

from __future__ import annotations

from dataclasses import replace

from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.nodes import (
    Access,
    Apply,
    Einsum,
    Expr,
    Reduce,
    Statement,
    Var,
    accesses,
    variables,
)
from penstock.einsum_ir.rewrite.chain import Chain, Link, extract
from penstock.einsum_ir.rewrite.live import einsums_of, live
from penstock.einsum_ir.rewrite.terms import map_access

__all__ = ["bounded", "prepare"]


def prepare(chain: Chain) -> Chain:
    """Split reductions that read whole values along other ranks; give the rank a tensor."""
    split = [each for each in chain.links.values() if _others(each)]
    if split:
        cascade = chain.cascade
        for link in split:
            cascade = _in_two(cascade, link)
        chain = extract(cascade, chain.rank)
    return _anchored(chain)


def _others(link: Link) -> tuple[str, ...]:
    """Return the ranks, reduced with the chain's, along which a link reads whole values."""
    reduce = link.einsum.reduce
    if not link.blocked or reduce is None or reduce.op not in ("sum", "max", "min", "prod"):
        return ()
    along = {
        name
        for access in accesses(link.body)
        if access.tensor in link.reads
        for name in variables(access)
    }
    return tuple(name for name in reduce.over if name in along)


def _in_two(cascade: Cascade, link: Link) -> Cascade:
    einsum, others = link.einsum, _others(link)
    reduce = einsum.reduce
    assert reduce is not None
    kept = tuple(Var(name) for name in others)
    inner = Access(_fresh(cascade, f"{einsum.name}_H"), (*einsum.output.indices, *kept))
    over = tuple(name for name in reduce.over if name not in others)
    first = replace(einsum, output=inner, reduce=Reduce(reduce.op, over))
    second = Einsum(einsum.output, inner, Reduce(reduce.op, others))
    return _replaced(cascade, einsum, (first, second))


def bounded(chain: Chain, expr: Expr, but: frozenset[str] = frozenset()) -> bool:
    """Whether an expression is absent beyond the end of the rank, as it reads a tensor along it.

    Args:
        chain: what the expression is from.
        expr: a body.
        but: tensors that do not count.
    """
    match expr:
        case Access(tensor, indices) if Var(chain.rank) in indices:
            ranks = {each.tensor: each.ranks for each in chain.cascade.inputs}.get(tensor)
            if tensor in chain.outer:
                ranks = chain.outer[tensor].variables
            own = ranks is None or chain.rank in ranks
            return tensor not in but and (own or chain.rank not in chain.cascade.shape)
        case Apply("fill", (_, other)):
            return bounded(chain, other, but)
        case Apply("where", (condition, yes, no)):
            chosen = bounded(chain, yes, but) and bounded(chain, no, but)
            return chosen or bounded(chain, condition, but)
        case Apply(_, args):
            return any(bounded(chain, each, but) for each in args)
        case _:
            return False


def _anchored(chain: Chain) -> Chain:
    """Compute the first element before the passes, if no other tensor is read along the rank."""
    along = frozenset({*chain.elements, *chain.moving, *chain.scans})
    needed = einsums_of(live(chain.cascade.statements, chain.cascade.outputs))
    using = [each for each in needed if chain.rank in each.variables]
    if any(bounded(chain, each.body, along) for each in using):
        return chain
    for einsum in using:
        for access in accesses(einsum.body):
            if access.tensor not in along and chain.rank in variables(access):
                return _held(chain, einsum, access)
    return chain


def _held(chain: Chain, einsum: Einsum, access: Access) -> Chain:
    """Hold an element that is no larger than what it reads, or what it reads along the rank."""
    names = variables(access)
    if einsum.name in chain.elements and set(variables(einsum.output)) <= set(names):
        return replace(chain, held=chain.held | {einsum.name})
    window = Access(_fresh(chain.cascade, f"{access.tensor}_W"), tuple(Var(n) for n in names))
    cascade = _replaced(chain.cascade, einsum, (Einsum(window, access), einsum))
    for reader in [each for each in cascade.einsums if access in each.operands]:
        if reader.output != window:
            body = map_access(reader.body, lambda each: window if each == access else each)
            cascade = _replaced(cascade, reader, (replace(reader, body=body),))
    found = extract(cascade, chain.rank)
    return replace(found, held=found.held | {window.tensor})


def _replaced(cascade: Cascade, old: Einsum, new: tuple[Einsum, ...]) -> Cascade:
    statements: list[Statement] = []
    for each in cascade.statements:
        statements += new if each == old else [each]
    return replace(cascade, statements=tuple(statements))


def _fresh(cascade: Cascade, name: str) -> str:
    taken = {*cascade.arity, *(each for each, _ in cascade.constants)}
    while name in taken:
        name += "2"
    return name

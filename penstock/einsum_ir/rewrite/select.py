"""Top-k along the rank: the best of each tile, merged with the best so far.

Before → after, for ``SEL[p, j] = X[p, m] :: topk[m -> j]``; B holds values, I coordinates, and of
equals the earlier come first, so that ties go to the lower coordinate as in the original::

    I_T[p, j, m1] = X_T[p, m1, m0] :: topk[m0 -> j]        the tile's best
    C[p, s, k, m1] = where(s == 0, B_R[p, k, m1], B_T[p, k, m1])
    W[p, j, m1] = C[p, s, k, m1] :: topk[s, k -> j]        the best of both
    B_R[p, j, m1 + 1] = C[p, W // J, W % J, m1]            and I_R alike

A tree merges the best of all parts by one selection over parts and places.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.einsum_ir.nodes import Access, Apply, Einsum, Expr, Num, Reduce, Sym, Var
from penstock.einsum_ir.rewrite.emit import Emitter
from penstock.einsum_ir.rewrite.plan import Accumulator
from penstock.einsum_ir.rewrite.terms import ONE

__all__ = ["SIDE", "select_merged", "select_running"]

SIDE = "side"
"""The rank variable of the two lists that are merged."""


@dataclass(frozen=True)
class _Best:
    """The best of each tile: coordinates along the whole rank, and values."""

    places: Access
    values: Access
    kept: tuple[Expr, ...]
    into: str


def _best(emitter: Emitter, each: Accumulator) -> _Best:
    link = emitter.chain.links[each.link]
    assert link.einsum.reduce is not None
    into = link.einsum.reduce.into
    assert into is not None
    kept = tuple(Var(name) for name in each.ranks if name != into)
    step = Var(emitter.outer_var)
    element = Access(emitter.fresh(f"{each.name}_X"), (*kept, step, Var(emitter.inner_var)))
    where = None if link.where is None else emitter.tiled(link.where)
    body = emitter.elementwise(each.body, link.where)
    emitter.body.append(Einsum(element, body, where=where))
    local = Access(emitter.fresh(f"{each.name}_L"), (*kept, Var(into), step))
    chosen = Reduce("topk", (emitter.inner_var,), into)
    emitter.body.append(Einsum(local, element, chosen))
    values = Access(emitter.fresh(f"{each.name}_B"), local.indices)
    emitter.body.append(Einsum(values, Access(element.tensor, (*kept, step, local))))
    first = Apply("*", (step, Sym(emitter.inner_var.upper())))
    places = Access(emitter.fresh(f"{each.name}_T"), local.indices)
    emitter.body.append(Einsum(places, Apply("+", (first, local))))
    return _Best(places, values, kept, into)


def _split(chosen: Expr, into: str) -> tuple[Expr, Expr]:
    size = Sym(into.upper())
    return Apply("//", (chosen, size)), Apply("%", (chosen, size))


def select_running(emitter: Emitter, each: Accumulator) -> None:
    """Emit the running selection of a loop."""
    best = _best(emitter, each)
    step, place = Var(emitter.outer_var), Var(emitter.free(f"{best.into}b"))
    side = Var(emitter.free(SIDE))
    after = Apply("+", (step, ONE))
    running = {"I": emitter.states[each.name], "B": emitter.fresh(f"{each.name}_V")}
    both: dict[str, Access] = {}
    for label, local in (("B", best.values), ("I", best.places)):
        both[label] = Access(emitter.fresh(f"{each.name}_C"), (*best.kept, side, place, step))
        earlier = Access(running[label], (*best.kept, place, step))
        now = Access(local.tensor, (*best.kept, place, step))
        test = Apply("==", (side, Num(0)))
        emitter.body.append(Einsum(both[label], Apply("where", (test, earlier, now))))
    chosen = Access(emitter.fresh(f"{each.name}_W"), (*best.kept, Var(best.into), step))
    over = Reduce("topk", (side.name, place.name), best.into)
    emitter.body.append(Einsum(chosen, both["B"], over))
    row, column = _split(chosen, best.into)
    for label, name in running.items():
        output = Access(name, (*best.kept, Var(best.into), after))
        source = Access(both[label].tensor, (*best.kept, row, column, step))
        emitter.body.append(Einsum(output, source))


def select_merged(emitter: Emitter, each: Accumulator) -> None:
    """Emit the selection of a tree."""
    best = _best(emitter, each)
    part, place = Var(emitter.outer_var), Var(emitter.free(f"{best.into}b"))
    values = Access(best.values.tensor, (*best.kept, place, part))
    chosen = Access(emitter.fresh(f"{each.name}_W"), (*best.kept, Var(best.into)))
    over = Reduce("topk", (part.name, place.name), best.into)
    emitter.body.append(Einsum(chosen, values, over))
    row, column = _split(chosen, best.into)
    output = Access(emitter.states[each.name], tuple(Var(name) for name in each.ranks))
    source = Access(best.places.tensor, (*best.kept, column, row))
    emitter.body.append(Einsum(output, source))

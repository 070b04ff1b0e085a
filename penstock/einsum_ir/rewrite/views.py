"""Tensors that only say again what another one has, read where it is.

Before → after, where a part of M0 = 512 coordinates is cut into whole tiles of M00 = 64::

    K_W[h, m1, m0, e]   = K[h//R, m1*M0 + m0, e]
    QK[h, m1, m01, m00] = Q[h, e] * K_W[h, m1, m01*M00 + m00, e]  :: sum[e]
    →
    QK[h, m1, m01, m00] = Q[h, e] * K[h//R, m1*M0 + (m01*M00 + m00), e]  :: sum[e]

Excluded: views that are read beyond their end, where they are absent and the other tensor may not
be.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from penstock.einsum_ir.nodes import Access, Apply, Einsum, Expr, Num, Sym, Var, substitute, walk
from penstock.einsum_ir.regions.algebra import Algebra, NumpyAlgebra
from penstock.einsum_ir.regions.bounds import interval
from penstock.einsum_ir.rewrite.live import einsums_of
from penstock.einsum_ir.rewrite.terms import map_access
from penstock.einsum_ir.shapes import Bound, bind

__all__ = ["inlined"]


def inlined(bound: Bound, *, scaled: bool = False) -> Bound:
    """Return the cascade without views that stay inside their ranks.

    Args:
        bound: any cascade with its extents.
        scaled: also without products of a view and constants.
    """
    for each in bound.cascade.statements:
        if isinstance(each, Einsum) and _is_view(each, bound, scaled) and _stays(each, bound):
            return inlined(_without(each, bound), scaled=scaled)
    return bound


def _is_view(einsum: Einsum, bound: Bound, scaled: bool) -> bool:
    body = einsum.body
    while scaled and isinstance(body, Apply) and body.op == "*":
        constant = isinstance(body.args[1], Num | Sym)
        if not constant and not isinstance(body.args[0], Num | Sym):
            break
        body = body.args[0] if constant else body.args[1]
    plain = isinstance(body, Access) and einsum.reduce is None and einsum.where is None
    names = [each.name for each in einsum.output.indices if isinstance(each, Var)]
    given = {each.tensor for each in bound.cascade.inputs}
    return (
        plain
        and isinstance(body, Access)
        and body.tensor in given
        and len(names) == len(set(names)) == len(einsum.output.indices)
        and einsum.name not in {each.tensor for each in bound.cascade.outputs}
        and einsum.name not in dict(bound.cascade.formats)
    )


def _stays(view: Einsum, bound: Bound) -> bool:
    """Whether all readers stay inside the ranks of a view."""
    algebra: Algebra[Any, Any] = NumpyAlgebra()
    for einsum in bound.cascade.einsums:
        ranges = {name: (0, bound.extents[name] - 1) for name in einsum.variables}
        for access in einsum.operands:
            if access.tensor != view.name:
                continue
            for index, extent in zip(access.indices, bound.dims[view.name], strict=True):
                found = interval(index, ranges, algebra, bound.symbols)
                if found is None or found[0] < 0 or found[1] >= extent:
                    return False
    return True


def _without(view: Einsum, bound: Bound) -> Bound:
    names = [each.name for each in view.output.indices if isinstance(each, Var)]

    def change(access: Access) -> Expr:
        if access.tensor != view.name:
            return access
        return substitute(view.body, dict(zip(names, access.indices, strict=True)))

    def changed(einsum: Einsum) -> Einsum:
        where = None if einsum.where is None else map_access(einsum.where, change)
        return replace(einsum, body=map_access(einsum.body, change), where=where)

    cascade = bound.cascade
    statements = tuple(
        changed(each)
        if isinstance(each, Einsum)
        else replace(each, einsums=tuple(changed(inner) for inner in each.einsums))
        for each in cascade.statements
        if each != view
    )
    kept = einsums_of(statements)
    left = {name for each in kept for name in each.variables}
    left |= {rank for each in cascade.inputs for rank in each.ranks}
    gone = [name for name in names if name not in left]
    used = {
        node.name
        for each in kept
        for expr in (each.output, each.body, *((each.where,) if each.where else ()))
        for node in walk(expr)
        if isinstance(node, Sym)
    }
    constants = [(n.upper(), Num(bound.extents[n])) for n in gone if n.upper() in used]
    made = replace(
        cascade,
        statements=statements,
        constants=(*constants, *cascade.constants),
        shapes=tuple(pair for pair in cascade.shapes if pair[0] not in gone),
    )
    return bind(made, shapes={name: n for name, n in bound.extents.items() if name in left})

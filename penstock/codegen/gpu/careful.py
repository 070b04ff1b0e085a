"""Products term by term, for tiles in which something that a mask takes out is no finite number.

A matrix instruction multiplies what a mask takes out by a weight of 0, which is NaN where the value
is Inf or NaN. The kernels find out after their loop, by looking at their sums once: if one is no
finite number, the loop runs again, with products that leave absent terms out. There an absent
weight is -0, and a weight that is 0 is +0.
"""

from __future__ import annotations

from collections.abc import Mapping

from penstock.codegen.gpu.fragment import Layout
from penstock.codegen.gpu.order import Parts, Sum
from penstock.codegen.gpu.tile import Step, TileKernel
from penstock.codegen.gpu.tiles import Source
from penstock.codegen.loops.nodes import (
    Buffer,
    LoopExpr,
    Name,
    Op,
    Store,
    walk_statements,
)
from penstock.codegen.loops.walk import loads

__all__ = ["needs_care", "shown_at_end", "strange_line", "terms_lines"]

_CARRIERS = frozenset(("+", "-", "*", "/", "neg"))
"""Operators whose result is no finite number where an operand is none."""


def needs_care(
    parts: Parts, sources: Mapping[str, Source], given: Mapping[str, Buffer], *, zeroed: bool
) -> bool:
    """Whether a sum may have terms that are absent, and whose right side is not zero.

    Args:
        parts: of a step.
        sources: the right sides, by the results of their products.
        given: parameters by name.
        zeroed: whether lines that no row needs are brought as zeros.
    """
    for each in parts.sums:
        product = each.product
        source = sources[product.result.buffer]
        known = source.zeros(given[source.tensor], lines=zeroed)
        rows = Op("<", (Name(product.rows.variable), product.rows.extent))
        if not known.union((rows,)).issuperset(product.guards):
            return True
    return False


def shown_at_end(added: Sum, made: TileKernel) -> bool:
    """Whether a sum that was no finite number is none at the end of the loop either."""
    if added.fresh:
        return False
    seen, before = {added.target}, 0
    while len(seen) > before:
        before = len(seen)
        for step in made.steps:
            for stmt in walk_statements(step.body) if isinstance(step, Step) else ():
                if isinstance(stmt, Store) and _reads(stmt.value, seen):
                    if not _carries(stmt.value, seen):
                        return False
                    seen.add(stmt.buffer)
    return True


def _reads(expr: LoopExpr, seen: set[str]) -> bool:
    return any(load.buffer in seen for load in loads(expr))


def _carries(expr: LoopExpr, seen: set[str]) -> bool:
    if not _reads(expr, seen):
        return True
    match expr:
        case Op("where", (condition, *sides)):
            return not _reads(condition, seen) and all(_carries(each, seen) for each in sides)
        case Op(op, args):
            return op in _CARRIERS and all(_carries(each, seen) for each in args)
        case _:
            return True


def strange_line(added: Sum) -> str:
    """Return the line that notes whether a sum is no finite number."""
    return f"ps_strange |= ps_not_finite(x_{added.target});"


def terms_lines(added: Sum, element: str, layout: Layout, depth: int) -> list[str]:
    """Return the product term by term.

    Args:
        added: the sum.
        element: the right side at ``ps_red``, ``ps_col``.
        layout: of the fragments.
        depth: of the product, padded.
    """
    name = added.product.result.buffer
    zeros = [f"ps_clear(x_{added.target});"] if added.fresh else []
    call = f"ps_add_terms(x_{added.target}, a_{name}, ps_lane, [&](int ps_red, int ps_col) {{"
    if layout.across > 1:
        first = 8 * layout.eights(layout.shapes[added.target].column)
        call = (
            f"ps_add_shared_terms<{layout.blocks}>(x_{added.target}, {depth}, ps_row, "
            f"{first} * ps_side, ps_quad, ps_at_{name}, [&](int ps_red, int ps_col) {{"
        )
    return [
        f"// {added.target} += {name}, without absent terms",
        *zeros,
        call,
        f"  return ps_float({element});",
        "});",
    ]

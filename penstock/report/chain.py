"""The passes over one tensor as a drawing: which Einsums each pass runs, and what it waits for.

An SVG with a band for each pass; in it the Einsums by depth, and an arrow where one reads another.
Excluded: how passes are counted (`einsum_ir.passes`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import networkx as nx

from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.nodes import Einsum, accesses
from penstock.einsum_ir.passes import PassRow

__all__ = ["chain_svg"]

WIDTH, HEIGHT, ACROSS, DOWN, TOP = 150, 46, 34, 16, 30
LETTERS = 21
"""Letters of an equation that fit into a box."""

STYLE = (
    ".chain{font:13px system-ui,sans-serif;max-width:none}"
    ".chain text{fill:currentColor}.chain .name{font-weight:650}"
    ".chain text.soft{fill:var(--soft,#6a6f78);font-size:12px}"
    ".chain .band{fill:none;stroke:var(--accent,#0b6e8f);stroke-dasharray:5 4}"
    ".chain .box{fill:var(--card,none);stroke:var(--line,#9aa0a8);stroke-width:1.5}"
    ".chain path{fill:none;stroke:var(--soft,#6a6f78);stroke-width:1.4}"
)
"""Colours are those of the page where it has some, so that a notebook shows the drawing too."""


def chain_svg(cascade: Cascade, row: PassRow) -> str:
    """Draw the chain of passes over a rank of a tensor.

    Args:
        cascade: the cascade.
        row: of its `pass_table`.

    Returns:
        An ``<svg>`` element, with its style.
    """
    einsums = {each.name: each for each in cascade.einsums if not each.init}
    graph = _graph(einsums, row)
    column = _columns(graph, row)
    place, sizes = {}, dict.fromkeys(range(max(column.values()) + 1), 0)
    for name in graph:
        place[name] = (column[name], sizes[column[name]])
        sizes[column[name]] += 1
    tall = TOP + max(sizes.values()) * (HEIGHT + DOWN) + 8
    parts = [_band(n, group, column, tall, row) for n, group in enumerate(row.groups)]
    parts += [_arrow(place[one], place[other]) for one, other in graph.edges]
    parts += [_box(einsums[name], *place[name]) for name in graph]
    wide = len(sizes) * (WIDTH + ACROSS)
    said = f"{cascade.name}: {row.passes} passes over {row.rank} of {row.tensor}: {row.chain}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chain" viewBox="0 0 {wide} {tall}" '
        f'width="{wide}" height="{tall}" role="img" aria-label="{escape(said)}">'
        f"<style>{STYLE}</style>"
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8"/></marker></defs>'
        f"{''.join(parts)}</svg>"
    )


def _graph(einsums: Mapping[str, Einsum], row: PassRow) -> nx.DiGraph:
    """Return the Einsums of the chain, with an edge from each to those after it that read it."""
    graph = nx.DiGraph()
    graph.add_nodes_from(name for group in row.groups for name in group)
    order = {name: number for number, name in enumerate(einsums)}
    for name in graph:
        for read in accesses(einsums[name].body):
            if read.tensor in graph and order[read.tensor] < order[name]:
                graph.add_edge(read.tensor, name)
    return graph


def _columns(graph: nx.DiGraph, row: PassRow) -> dict[str, int]:
    """Return for each Einsum its column: after what it reads, and no pass before its time."""
    found: dict[str, int] = {}
    first = 0
    for group in row.groups:
        for name in nx.topological_sort(graph.subgraph(group)):
            before = (found[each] + 1 for each in graph.predecessors(name) if each in found)
            found[name] = max([first, *before])
        first = max(found.values()) + 1
    return found


def _band(
    number: int, group: Sequence[str], column: Mapping[str, int], tall: int, row: PassRow
) -> str:
    left, right = min(column[n] for n in group), max(column[n] for n in group) + 1
    x, wide = left * (WIDTH + ACROSS) + 2, (right - left) * (WIDTH + ACROSS) - 8
    title = f"pass {number + 1} over {row.rank} of {row.tensor}"
    return (
        f'<rect class="band" x="{x}" y="2" width="{wide}" height="{tall - 6}" rx="8"/>'
        f'<text class="soft" x="{x + 12}" y="20">{escape(title)}</text>'
    )


def _corner(place: tuple[int, int]) -> tuple[int, int]:
    return place[0] * (WIDTH + ACROSS) + 16, TOP + place[1] * (HEIGHT + DOWN)


def _arrow(one: tuple[int, int], other: tuple[int, int]) -> str:
    (x, y), (u, v) = _corner(one), _corner(other)
    x, y, v = x + WIDTH, y + HEIGHT // 2, v + HEIGHT // 2
    if u <= x:  # in one column: down the right side
        return f'<path d="M{x} {y}C{x + 22} {y} {x + 22} {v} {x + 2} {v}" marker-end="url(#tip)"/>'
    middle = (x + u) // 2
    return f'<path d="M{x} {y}C{middle} {y} {middle} {v} {u - 2} {v}" marker-end="url(#tip)"/>'


def _box(einsum: Einsum, across: int, down: int) -> str:
    x, y = _corner((across, down))
    head, _, tail = str(einsum).partition(" = ")
    tail = tail if len(tail) <= LETTERS else tail[: LETTERS - 1] + "…"
    return (
        f'<g><title>{escape(str(einsum))}</title><rect class="box" x="{x}" y="{y}" '
        f'width="{WIDTH}" height="{HEIGHT}" rx="6"/><text class="name" x="{x + 10}" y="{y + 19}">'
        f'{escape(head)}</text><text class="soft" x="{x + 10}" '
        f'y="{y + 36}">{escape(tail)}</text></g>'
    )

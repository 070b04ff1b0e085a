"""Stacked bars as an SVG: for notebooks, where no script runs.

Excluded: the report's own figures (`figures`), which answer to the mouse.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from penstock.metrics import number, quantity

__all__ = ["bars_svg"]

LABEL, WIDTH, TOTAL, HEIGHT, GAP = 90, 520, 150, 18, 8
LETTER, SWATCH = 7.5, 10


def bars_svg(
    values: Mapping[str, Mapping[str, float]], unit: str, colours: Mapping[str, str], title: str
) -> str:
    """Draw a bar for each row: row → (part → value), parts in the order of `colours`.

    Args:
        values: not negative.
        unit: of the values; B, s and J get SI prefixes.
        colours: part → colour, of all parts.
        title: said above the bars.

    Returns:
        An ``<svg>`` element; the value of a part is its tooltip.
    """
    most = max((sum(row.values()) for row in values.values()), default=0.0) or 1.0
    parts = [part for part in colours if any(row.get(part) for row in values.values())]
    drawn = [f'<text y="14" font-weight="650">{escape(title)}</text>']
    y = 24
    for name, row in values.items():
        drawn.append(_row(name, [(p, row.get(p, 0.0)) for p in parts], y, most, unit, colours))
        y += HEIGHT + GAP
    legend, y = _legend(parts, y + 8, colours)
    wide = LABEL + WIDTH + TOTAL
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {y}" width="{wide}" '
        f'height="{y}" role="img" aria-label="{escape(title)}" '
        f'style="font:13px system-ui,sans-serif" fill="currentColor">'
        f"{''.join(drawn)}{legend}</svg>"
    )


def _row(
    name: str,
    row: list[tuple[str, float]],
    y: int,
    most: float,
    unit: str,
    colours: Mapping[str, str],
) -> str:
    x = float(LABEL)
    drawn = [f'<text x="{LABEL - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>']
    for part, value in row:
        wide = WIDTH * value / most
        said = f"{name}, {part}: {_said(value, unit)}"
        drawn.append(
            f'<rect x="{x:.1f}" y="{y}" width="{wide:.1f}" height="{HEIGHT}" '
            f'fill="{colours[part]}"><title>{escape(said)}</title></rect>'
        )
        x += wide
    total = _said(sum(value for _, value in row), unit)
    return "".join([*drawn, f'<text x="{x + 8:.1f}" y="{y + 14}">{escape(total)}</text>'])


def _said(value: float, unit: str) -> str:
    return quantity(value, unit) if unit in ("B", "s", "J") else f"{number(value)} {unit}"


def _legend(parts: list[str], y: int, colours: Mapping[str, str]) -> tuple[str, int]:
    """Return the names of parts beside their colours, and where the drawing ends."""
    x, drawn = float(LABEL), []
    for part in parts:
        wide = SWATCH + 6 + LETTER * len(part) + 12
        if x + wide > LABEL + WIDTH + TOTAL:
            x, y = float(LABEL), y + HEIGHT
        drawn.append(
            f'<rect x="{x:.1f}" y="{y}" width="{SWATCH}" height="{SWATCH}" '
            f'fill="{colours[part]}"/>'
            f'<text x="{x + SWATCH + 6:.1f}" y="{y + SWATCH}">{escape(part)}</text>'
        )
        x += wide
    return "".join(drawn), y + HEIGHT

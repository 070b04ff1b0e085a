"""From `Page`s to HTML, JSON and text. Decides what a reader sees first; computes no cost."""

from __future__ import annotations

import base64
import gzip
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

from penstock import __version__
from penstock.einsum_ir.passes import pass_table, taxonomy, telling_row, worth_showing
from penstock.mapper.model.roofline import roofline_point
from penstock.metrics import Check, Metric, number
from penstock.report.bars import bars_svg
from penstock.report.chain import chain_svg
from penstock.report.data import Page, Section
from penstock.report.figures import (
    Colours,
    Figure,
    bars,
    palette,
    roofline_figure,
    steady_state,
    waterfall,
)
from penstock.report.headline import Headline, headline
from penstock.report.sweeps import sweep_text, sweep_view
from penstock.sweep.result import Sweep

__all__ = ["fragment", "html", "markdown", "plain", "text"]


# -- JSON and text ---------------------------------------------------------------------------


def plain(
    pages: Sequence[Page],
    command: str,
    sweeps: Sequence[Sweep] = (),
    sections: Sequence[Section] = (),
) -> dict[str, Any]:
    """Return the report as a JSON object."""
    designs = {"penstock": __version__, "command": command, "designs": [_plain(p) for p in pages]}
    if sections:
        designs["sections"] = [{"title": each.title, **each.data} for each in sections]
    return {**designs, "sweeps": [each.to_json() for each in sweeps]} if sweeps else designs


def _plain(page: Page) -> dict[str, Any]:
    simulated = page.simulated
    return {
        "cascade": str(page.bound.cascade),
        "taxonomy": taxonomy(page.bound.cascade),
        "passes": [row.to_json() for row in pass_table(page.bound.cascade)],
        "shapes": dict(page.bound.extents),
        "mapping": str(page.mapping),
        "target": page.target.name,
        "format": str(page.format),
        "digest": page.digest,
        "metrics": [each.to_json() for each in page.evaluation.metrics()],
        "bounds": [each.to_json() for each in page.bounds],
        "published": [each.to_json() for each in page.published],
        "model": page.evaluation.to_json(),
        "simulation": (
            [each.to_json() for each in simulated.simulation.metrics()] if simulated else None
        ),
        "checks": [each.to_json() for each in page.checks],
        "commands": list(page.commands),
    }


def text(
    pages: Sequence[Page],
    command: str,
    sweeps: Sequence[Sweep] = (),
    sections: Sequence[Section] = (),
) -> str:
    """Return the report as plain text."""
    parts = [f"penstock {__version__}: {command}"]
    for section in sections:
        parts += ["", f"=== {section.title}", section.note]
        for table in section.tables:
            parts += ["", table.title, table.note, "\t".join(table.columns)]
            parts += ["\t".join(row) for row in table.rows]
    for sweep in sweeps:
        parts += ["", *sweep_text(sweep)]
    for page in pages:
        parts += ["", f"=== {_title(page)}", "", str(page.bound.cascade), "", str(page.mapping), ""]
        parts += [_line(metric) for metric in (*page.evaluation.metrics(), *page.bounds)]
        parts += [_line(metric) for metric in page.published]
        parts += [
            f"{check.verdict}: {check.subject} against {check.oracle}, "
            f"error {check.error:.2g}, {check.detail}"
            for check in page.checks
        ]
        parts += [f"$ {each}" for each in page.commands]
    return "\n".join(parts) + "\n"


def _line(metric: Metric) -> str:
    return f"{metric.name:28} {number(metric.value):>16} {metric.unit:14} {metric.evidence}"


def markdown(pages: Sequence[Page], command: str) -> str:
    """Return the designs as Markdown, for a pull request."""
    said = [headline(page) for page in pages]
    lines = [*_markdown_table(Headline.COLUMNS, [each.row() for each in said]), ""]
    for page, each in zip(pages, said, strict=True):
        lines += [f"### {each.design}", "", each.problem, "", "```", str(page.mapping), "```", ""]
        metrics = (*page.evaluation.metrics(), *page.bounds, *page.published)
        rows = [(m.name, number(m.value), m.unit, m.evidence) for m in metrics]
        lines += [*_markdown_table(("metric", "value", "unit", "evidence"), rows), ""]
        checks = [(c.verdict, c.subject, c.oracle, f"{c.error:.2g}", c.detail) for c in page.checks]
        if checks:
            columns = ("verdict", "what", "against", "error", "detail")
            lines += [*_markdown_table(columns, checks), ""]
    return "\n".join([*lines, f"Made by penstock {__version__}: `{command}`", ""])


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [columns, ["---"] * len(columns), *rows]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in cells]


# -- HTML ------------------------------------------------------------------------------------


def html(
    pages: Sequence[Page],
    command: str,
    sweeps: Sequence[Sweep] = (),
    sections: Sequence[Section] = (),
) -> str:
    """Return the report as one HTML file that needs no network."""
    from jinja2 import Environment, StrictUndefined
    from plotly.offline import get_plotlyjs

    source = files(__package__).joinpath("template.html.j2").read_text(encoding="utf-8")
    environment = Environment(undefined=StrictUndefined, autoescape=False)
    subjects = [each.plan.cascade for each in sweeps] + [each.bound.cascade.name for each in pages]
    names = ", ".join(dict.fromkeys(subjects or [each.title for each in sections]))
    counted = [(len(sections), "study"), (len(sweeps), "sweep"), (len(pages), "design")]
    said = ", ".join(f"{n} {word}{'s' if n > 1 else ''}" for n, word in counted if n)
    return environment.from_string(source).render(
        version=__version__,
        title=f"penstock: {escape(names)}",
        subtitle=f"{said}, made by <code>{escape(command)}</code>",
        command=escape(command),
        plotly=_packed(get_plotlyjs()),
        headlines=_headlines(pages),
        pages=[_view(page) for page in pages],
        sections=[_section(each) for each in sections],
        sweeps=[sweep_view(each, _table) for each in sweeps],
    )


def _packed(text: str) -> str:
    """Return a script as base64 of gzip: a third of its size, unpacked by the page itself."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def _headlines(pages: Sequence[Page]) -> str:
    """Return the table that a reader sees first: one row for each design."""
    rows = []
    for page in pages:
        said = headline(page)
        link = f'<a href="#{_anchor(page)}">{escape(said.design)}</a>'
        rows.append(
            [f"{link}<br><small>{escape(said.problem)}</small>", *map(escape, said.row()[1:])]
        )
    return _raw_table(Headline.COLUMNS, rows, numeric=set()) if rows else ""


def _anchor(page: Page) -> str:
    return re.sub(r"\W+", "-", f"{_title(page)}-{page.digest}")


def fragment(page: Page) -> str:
    """Return a design as HTML without scripts or styles, for a notebook."""
    said = headline(page)
    answers = _table(Headline.COLUMNS, [said.row()], numeric=set())
    mapping = f"<pre>{escape(str(page.mapping))}</pre>"
    colours = _colours(page)
    drawn = [
        bars_svg(_busy(page), "cycles", colours, "Cycles of each array, by Einsum (model)"),
        bars_svg(_traffic(page), "B", colours, "Bytes of each memory, by tensor (model)"),
    ]
    plots = "".join(f"<div>{each}</div>" for each in drawn)
    return f"{answers}<p>{escape(said.problem)}</p>{plots}{mapping}{_metrics(page)}"


def _colours(page: Page) -> Colours:
    """Return a colour for each tensor."""
    cascade = page.bound.cascade
    inputs, defined = (each.tensor for each in cascade.inputs), (e.name for e in cascade.einsums)
    return palette([*inputs, *defined])


def _section(section: Section) -> dict[str, Any]:
    return {
        "title": escape(section.title),
        "note": escape(section.note),
        "tables": [
            {
                "title": escape(each.title),
                "note": escape(each.note),
                "html": _table(each.columns, each.rows, _numeric(each.rows)),
            }
            for each in section.tables
        ],
    }


def _numeric(rows: Sequence[Sequence[str]]) -> set[int]:
    """Return the columns in which every cell looks like a number."""
    columns = range(len(rows[0]) if rows else 0)
    return {n for n in columns if all(row[n][:1].isdigit() or row[n][:1] in "-." for row in rows)}


def _title(page: Page) -> str:
    return f"{page.bound.cascade.name} on {page.target.name}"


def _view(page: Page) -> dict[str, Any]:
    cascade = page.bound.cascade
    extents = ", ".join(f"{name} = {extent:,}" for name, extent in page.bound.extents.items())
    inputs = [each.tensor for each in cascade.inputs]
    passes, telling = worth_showing(pass_table(cascade), inputs), telling_row(cascade)
    return {
        "anchor": _anchor(page),
        "title": escape(_title(page)),
        "subtitle": escape(f"{extents}; {page.format}; design {page.digest}"),
        "tiles": _tiles(page),
        "verdict": escape(_verdict(page)),
        "cascade": escape(str(cascade)),
        "mapping": escape(str(page.mapping)),
        "chain": chain_svg(cascade, telling) if telling and telling.chain else "",
        "passes": f"<p>{escape(cascade.name)} is a {taxonomy(cascade)} cascade.</p>"
        + _table(
            ["tensor", "rank", "passes", "chain"],
            [[row.tensor, row.rank, str(row.passes), row.chain] for row in passes],
            numeric={2},
        ),
        "metrics": _metrics(page),
        "figures": _figures(page),
        "stalls": _stalls(page),
        "checks": _checks(page.checks),
        "commands": [escape(each) for each in page.commands],
    }


def _tiles(page: Page) -> list[dict[str, str]]:
    named = {each.name: each for each in page.evaluation.metrics()}
    first = [
        metric
        for name, metric in named.items()
        if name in {"latency", "latency_s", "energy"}
        or name.startswith("util")
        or (metric.unit == "bytes" and "occupancy" not in name)
    ]
    return [_tile(metric) for metric in first]


def _tile(metric: Metric) -> dict[str, str]:
    value, note = metric.parts()
    name = metric.name.replace("_", " ").removesuffix(" s").removesuffix(" bytes")
    return {"name": name, "value": value, "evidence": metric.evidence, "note": escape(note)}


def _verdict(page: Page) -> str:
    """One sentence: how far from the bound, and how the mapping was found."""
    modelled = page.evaluation.latency_cycles
    bound = next(each.value for each in page.bounds if each.name == "latency")
    said = (
        f"The model's latency is {modelled / bound:.2f} times the lower bound of "
        f"{number(bound)} cycles that holds for every mapping of this cascade to this machine."
        if bound
        else ""
    )
    if not page.search:
        return said
    found = page.search.summary()
    return f"{said} {found[0].upper()}{found[1:]}."


def _metrics(page: Page) -> str:
    said = {each.name: each for each in page.published}
    rows = []
    for metric in page.evaluation.metrics():
        there = number(said[metric.name].value) if metric.name in said else ""
        rows.append([metric.name, number(metric.value), metric.unit, metric.evidence, there])
    rows += [[each.name, number(each.value), each.unit, each.evidence, ""] for each in page.bounds]
    columns = ["metric", "value", "unit", "evidence", "published"]
    if not said:
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return _table(columns, rows, numeric={1, 4})


def _figures(page: Page) -> list[Figure]:
    point = roofline_point(page.bound, page.target, page.format)
    clock = page.target.clock_hz
    seconds = page.evaluation.latency_cycles / clock
    tensors = _colours(page)
    energy = _energy(page)
    parts = palette([*tensors, *(part for row in energy.values() for part in row)])
    drawn = [
        roofline_figure(
            point.intensity_ops_per_byte,
            point.peak_ops_per_cycle * clock,
            point.bandwidth_bytes_per_cycle * clock,
            point.operations / seconds if seconds else 0.0,
            f"Roofline of {page.target.name} for this cascade's mix of operators (bound), and "
            "where the design lies (model).",
        ),
        bars(
            _traffic(page),
            "bytes",
            tensors,
            "Bytes read and written, by memory and tensor (model).",
        ),
        bars(
            _busy(page), "cycles", tensors, "Cycles in which each array works, by Einsum (model)."
        ),
    ]
    if page.evaluation.energy:
        caption = "Energy (model): of each array by operator, of each memory by tensor."
        joules = {at: {part: pj * 1e-12 for part, pj in row.items()} for at, row in energy.items()}
        drawn.insert(2, bars(joules, "J", parts, caption))
    arrays = [each.name for each in page.target.arrays]
    drawn += [
        steady_state(each, arrays, tensors)
        for each in page.evaluation.pipelines
        if each.iterations > 1 and len(each.tasks) > 1
    ]
    if page.simulated:
        drawn.append(_timeline(page, tensors))
    return drawn


def _traffic(page: Page) -> dict[str, dict[str, float]]:
    """Return memory → tensor → bytes, the outermost memory first."""
    found: dict[str, dict[str, float]] = {each.name: {} for each in page.target.memories}
    for row in page.evaluation.traffic:
        moved = (row.reads + row.writes) * page.evaluation.element_bytes[row.tensor]
        found[row.memory][row.tensor] = found[row.memory].get(row.tensor, 0.0) + moved
    return {memory: row for memory, row in found.items() if any(row.values())}


def _energy(page: Page) -> dict[str, dict[str, float]]:
    """Return array → operator → pJ, and memory → tensor → pJ."""
    found: dict[str, dict[str, float]] = {}
    arrays = {each.name for each in page.target.arrays}
    for row in page.evaluation.energy:
        if row.component in arrays:
            found.setdefault(row.component, {})[row.action] = row.pj
    for moved in page.evaluation.traffic:
        memory = page.target.memory(moved.memory)
        spent = moved.reads * memory.read_pj_per_byte + moved.writes * memory.write_pj_per_byte
        spent *= page.evaluation.element_bytes[moved.tensor]
        mine = found.setdefault(memory.name, {})
        mine[moved.tensor] = mine.get(moved.tensor, 0.0) + spent
    return {component: row for component, row in found.items() if any(row.values())}


def _busy(page: Page) -> dict[str, dict[str, float]]:
    """Return array → Einsum → cycles."""
    found: dict[str, dict[str, float]] = {each.name: {} for each in page.target.arrays}
    for leaf in page.evaluation.leaves:
        found[leaf.array][leaf.einsum] = leaf.cycles
    return {array: row for array, row in found.items() if row}


def _timeline(page: Page, colours: Colours) -> Figure:
    assert page.simulated is not None
    simulation = page.simulated.simulation
    extents = ", ".join(f"{n} = {x}" for n, x in page.simulated.bound.extents.items())
    return waterfall(
        simulation.events,
        [each.unit for each in simulation.units],
        colours,
        f"What each unit of {page.simulated.target.name} does in each cycle (simulation of a "
        f"small instance: {extents}; {simulation.cycles:,.0f} cycles).",
    )


def _stalls(page: Page) -> str:
    if page.simulated is None:
        return ""
    rows = []
    cycles = page.simulated.simulation.cycles
    for unit in page.simulated.simulation.units:
        rows.append([unit.unit, "busy", number(unit.busy_cycles), _share(unit.busy_cycles, cycles)])
        for cause, spent in sorted(unit.stalls.items(), key=lambda each: -each[1]):
            rows.append([unit.unit, f"waits: {cause}", number(spent), _share(spent, cycles)])
        rows.append([unit.unit, "done", number(unit.idle_cycles), _share(unit.idle_cycles, cycles)])
    return _table(["unit", "state", "cycles", "share"], rows, numeric={2, 3})


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


_CLASSES = {"ok": "ok", "FAILED": "failed", "not run": "notrun"}


def _checks(checks: Sequence[Check]) -> str:
    rows = [
        [
            f'<span class="{_CLASSES[each.verdict]}">{each.verdict}</span>',
            escape(each.subject),
            escape(each.oracle),
            f"{each.error:.2g}" if each.ran else "",
            f"{each.limit:.2g}" if each.limit else "exact",
            escape(each.evidence) if each.ran else "",
            escape(each.detail),
        ]
        for each in checks
    ]
    columns = ["verdict", "what", "against", "error", "limit", "evidence", "detail"]
    return _raw_table(columns, rows, numeric={3, 4}) if rows else ""


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: set[int]) -> str:
    return _raw_table(columns, [[escape(cell) for cell in row] for row in rows], numeric)


def _raw_table(columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: set[int]) -> str:
    def cells(row: Sequence[str], tag: str) -> str:
        marks = (' class="n"' if place in numeric else "" for place in range(len(row)))
        return "".join(
            f"<{tag}{mark}>{cell}</{tag}>" for mark, cell in zip(marks, row, strict=True)
        )

    head = f"<thead><tr>{cells(columns, 'th')}</tr></thead>"
    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'

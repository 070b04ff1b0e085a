"""``penstock compare``: several designs side by side."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from penstock.cli import output
from penstock.design import Design, page
from penstock.errors import PenstockError
from penstock.metrics import Metric
from penstock.report import save_report
from penstock.report.data import Page
from penstock.report.headline import headline

__all__ = ["compare"]


def compare(options: argparse.Namespace) -> None:
    """Print what the model says of each design, beside the first one; or write a report of all."""
    if len(options.files) < 2:
        raise PenstockError("there is nothing to compare", fix="give two design files or more")
    designs = [Design.load(name) for name in options.files]
    pages = [
        page(design, commands=(f"penstock report {name}",))
        for design, name in zip(designs, options.files, strict=True)
    ]
    if options.out:
        command = f"penstock compare {' '.join(options.files)}"
        paths = [str(path) for path in save_report(pages, options.out, command)]
    if options.json:
        shown = [_plain(name, each) for name, each in zip(options.files, pages, strict=True)]
        output.print_json({"designs": shown, "files": paths if options.out else []})
        return
    output.table(["", *map(_short, options.files)], _rows(pages))
    if options.out:
        print("\n".join(paths))


def _short(name: str) -> str:
    return Path(name).name.removesuffix(".json")


def _plain(name: str, each: Page) -> dict[str, object]:
    said = headline(each)
    answers = dict(zip(("design", "fast", "big", "limit", "known"), said.row(), strict=True))
    metrics = [metric.to_json() for metric in each.evaluation.metrics()]
    return {"file": name, "problem": said.problem, **answers, "metrics": metrics}


def _rows(pages: Sequence[Page]) -> list[list[str]]:
    """One row for each answer, then one for each number, with its ratio to the first design's."""
    said = [headline(each) for each in pages]
    rows = [
        ["design", *(each.design for each in said)],
        ["problem", *(each.problem for each in said)],
        ["limit", *(each.limit for each in said)],
    ]
    numbers = [{m.name: m for m in each.evaluation.metrics()} for each in pages]
    units = {name: each.parts()[1] for known in numbers for name, each in known.items()}
    for name, unit in units.items():
        cells = [_beside(known.get(name), numbers[0].get(name)) for known in numbers]
        rows.append([f"{name} ({unit})" if unit else name, *cells])
    return rows


def _beside(metric: Metric | None, first: Metric | None) -> str:
    if metric is None:
        return ""
    said = metric.parts()[0]
    if first is None or not first.value or metric.value == first.value:
        return said
    ratio = metric.value / first.value
    return f"{said} (x {ratio:,.0f})" if ratio >= 1000 else f"{said} (x {ratio:.3g})"

"""How results look on a terminal: tables within 100 columns, numbers with units, a progress bar."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from penstock.metrics import Check, Metric, number

__all__ = [
    "WIDTH",
    "number",
    "print_checks",
    "print_json",
    "print_metrics",
    "progress",
    "table",
    "width",
]

WIDTH = 100
"""Columns at most; a narrower terminal gets what fits, a file or a pipe all of them."""


def width() -> int:
    """Return the columns that a line may have."""
    if not sys.stdout.isatty():
        return WIDTH
    return min(WIDTH, shutil.get_terminal_size().columns)


def print_json(data: Any) -> None:
    """Print a JSON object to stdout; infinities and NaN, which JSON has not, as "inf" and "nan"."""
    json.dump(_strict(data), sys.stdout, indent=2, default=lambda each: _strict(float(each)))
    sys.stdout.write("\n")


def _strict(data: Any) -> Any:
    match data:
        case dict():
            return {key: _strict(value) for key, value in data.items()}
        case list() | tuple():
            return [_strict(each) for each in data]
        case float() if not math.isfinite(data):
            return str(float(data))
        case _:
            return data


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Print a table to stdout; columns whose cells all look like numbers are aligned right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for place, column in enumerate(columns):
        cells = [row[place] for row in rows]
        numeric = bool(cells) and all(cell[:1].isdigit() or cell[:1] in "-." for cell in cells)
        shown.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(_escaped(cell) for cell in row))
    Console(width=width(), highlight=False).print(shown)


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")


def print_metrics(metrics: Sequence[Metric]) -> None:
    """Print metrics with unit and evidence, as people write them; JSON has SI units."""
    rows = [(each.name, *each.parts(), each.evidence) for each in metrics]
    table(["metric", "value", "unit", "evidence"], rows)


def print_checks(checks: Sequence[Check]) -> None:
    """Print a verification table."""
    rows = [
        (
            each.verdict,
            each.subject,
            f"{each.error:.2g}" if each.ran else "",
            f"{each.limit:.2g}" if each.limit else "exact",
            each.evidence if each.ran else "",
            each.detail,
        )
        for each in checks
    ]
    table(["verdict", "what", "error", "limit", "evidence", "detail"], rows)


@contextmanager
def progress(title: str) -> Iterator[Callable[..., None]]:
    """Show a bar on stderr (only on a terminal); yields ``update(done, total, note="")``."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeElapsedColumn as Elapsed
    from rich.progress import TimeRemainingColumn as Remaining

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), Elapsed())
    rate, note = TextColumn("{task.fields[rate]}"), TextColumn("{task.fields[note]}")
    with Progress(
        *columns, Remaining(), rate, note, console=console, transient=True,
        disable=not console.is_terminal,
    ) as bar:  # fmt: skip
        job = bar.add_task(title, total=None, rate="", note="")

        def update(done: int, total: int, best: object = "") -> None:
            text = f"best {number(best)}" if isinstance(best, int | float) else ""
            speed = bar.tasks[0].speed
            rate = f"{speed:,.4g}/s" if speed else ""
            bar.update(job, completed=done, total=total, rate=rate, note=text)

        yield update

"""Reports: one self-contained HTML file, with JSON and text beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from penstock.errors import FileError
from penstock.files import write_together
from penstock.report.data import Page, Section
from penstock.sweep.result import Sweep

__all__ = ["fragment", "markdown", "save_report"]


def fragment(page: Page) -> str:
    """Return a design as HTML without scripts or styles, for a notebook."""
    from penstock.report import render

    return render.fragment(page)


def markdown(pages: Sequence[Page], command: str) -> str:
    """Return the designs as Markdown, for a pull request.

    Args:
        pages: one for each design.
        command: the command line that made it.
    """
    from penstock.report import render

    return render.markdown(pages, command)


def save_report(
    pages: Sequence[Page],
    path: str | Path,
    command: str,
    *,
    sweeps: Sequence[Sweep] = (),
    sections: Sequence[Section] = (),
) -> tuple[Path, ...]:
    """Write a report of several designs and sweeps: HTML at `path`, JSON and text beside it.

    Args:
        pages: one for each design.
        path: of the HTML file; the others have its name with ``.json`` and ``.txt``.
        command: the command line that made it.
        sweeps: one section for each, before the designs.
        sections: studies, before the sweeps.

    Returns:
        The three paths, HTML first.

    Raises:
        FileError: a file cannot be written, or one beside it is no report's: a design, say.
    """
    from penstock.report.render import html, plain, text

    place = Path(path)
    _check_spare(place)
    files = {
        place: html(pages, command, sweeps, sections),
        place.with_suffix(".json"): json.dumps(
            plain(pages, command, sweeps, sections), indent=2, default=float
        ),
        place.with_suffix(".txt"): text(pages, command, sweeps, sections),
    }
    write_together(files)
    return tuple(files)


def _check_spare(page: Path) -> None:
    """Check that the JSON beside a report's page may be written: nothing, or an older report's.

    Raises:
        FileError: it is something else, such as the design that the report is about.
    """
    beside = page.with_suffix(".json")
    if not beside.is_file():
        return
    try:
        found = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or not {"penstock", "designs"} <= found.keys():
        raise FileError(
            f"{beside} is there, and is no report: the numbers of {page.name} would overwrite it",
            fix=f"give the report another name, e.g. -o {page.stem}-report.html",
        )

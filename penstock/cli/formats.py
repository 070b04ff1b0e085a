"""``penstock explore ... --formats F,G``: word lengths side by side, as a table or JSON."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from penstock.cli import output
from penstock.cli.sources import machine_of, source_of
from penstock.einsum_ir.formats import parse_format
from penstock.errors import PenstockError
from penstock.metrics import quantity

if TYPE_CHECKING:
    from penstock.studies.precision import FormatRow

__all__ = ["explore_formats"]


def explore_formats(options: argparse.Namespace) -> None:
    """Find the best mapping in each of several formats; print what each loses and costs.

    Raises:
        PenstockError: an option goes with a single format only, or no machine is given.
    """
    from penstock.studies.precision import compare_formats

    for name in ("sweep", "mapping", "out", "variants", "report", "format"):
        if getattr(options, name):
            raise PenstockError(f"--{name} does not go with --formats", fix=f"leave out --{name}")
    source, machine = source_of(options), machine_of(options)
    if machine is None:
        raise PenstockError("no machine is given", fix="add --target T")
    formats = [parse_format(text) for text in re.split(r",(?![^<]*>)", options.formats)]
    rows = compare_formats(
        source.cascade, machine, formats, shapes=source.shapes, constants=source.constants
    )
    if options.json:
        output.print_json([row.to_json() for row in rows])
        return
    names = list(rows[0].parts)
    columns = [
        "format",
        "error",
        "hard inputs",
        "latency (cycles)",
        *names,
        "DRAM",
        "front",
    ]
    output.table(columns, [_cells(row) for row in rows])
    print("errors: largest difference from fp64 over the largest value (interpreter, measured on")
    print("random inputs, and on logits of several hundred); the rest: model. front: no other")
    print("format is as good in error, cycles and every resource.")
    for row in rows:
        if row.refused:
            print(f"{row.format}: {row.refused}")


def _cells(row: FormatRow) -> list[str]:
    numbers = (row.latency_cycles, *row.parts.values())
    shown = [*map(output.number, numbers), quantity(row.dram_bytes, "B")]
    shown = ["-" for _ in shown] if row.refused else shown
    errors = [f"{value:.2g}" for value in (row.error, row.hard_error)]
    return [row.format, *errors, *shown, "yes" if row.best else ""]

"""``penstock tune``: measure the tiles of a CPU kernel on this machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from penstock.cli import output
from penstock.cli.sources import source_of
from penstock.einsum_ir.formats import parse_format

__all__ = ["tune"]


def tune(options: argparse.Namespace) -> None:
    """Measure what the database lacks, and print the fastest mapping."""
    from penstock.runtime.tuned import Trial, database
    from penstock.runtime.tuning import tune as measure
    from penstock.targets import TARGETS

    source = source_of(options)

    def progress(trial: Trial, old: bool) -> None:
        known = "  (known)" if old else ""
        print(
            f"tile {trial.tile:4} block {trial.block:4} {trial.milliseconds:10.3f} ms{known}",
            file=sys.stderr,
        )

    best, mapping = measure(
        source.cascade,
        {**source.cascade.shape, **source.shapes},
        TARGETS.get("cpu"),
        parse_format(options.format),
        Path(options.database) if options.database else database(),
        constants=source.constants,
        progress=progress,
    )
    if options.json:
        found = {"tile": best.tile, "block": best.block, "milliseconds": best.milliseconds}
        output.print_json({**found, "mapping": str(mapping)})
        return
    print(f"# tile {best.tile}, block {best.block}: {best.milliseconds:.3f} ms on one thread")
    print(mapping)

"""``penstock tiles``: what the predicates of a cascade leave of its tiles."""

from __future__ import annotations

import argparse

from penstock.cli import output
from penstock.cli.files import read_arrays
from penstock.cli.sources import shapes_of, source_of
from penstock.einsum_ir.regions.masks import Mask, masks
from penstock.einsum_ir.shapes import bind

__all__ = ["tiles"]


def tiles(options: argparse.Namespace) -> None:
    """Count the tiles that predicates make empty, full or partial."""
    source = source_of(options)
    bound = bind(source.cascade, shapes=source.shapes, constants=source.constants)
    arrays = read_arrays(options.inputs) if options.inputs else {}
    found = masks(bound, shapes_of(options.tile, "--tile"), arrays)
    if options.json:
        output.print_json([each.to_json() for each in found])
        return
    if not found:
        print(f"{source.cascade.name} has no predicates: every tile is full")
        return
    columns = ["Einsums", "present", "tiles", "empty", "full", "partial", "predicate"]
    output.table(columns, [_row(each) for each in found])


def _row(mask: Mask) -> list[str]:
    names = ", ".join(mask.einsums)
    tiling = mask.tiling
    if tiling is None:
        return [names, "", "", "", "", "", f"{mask.predicate} (reads {', '.join(mask.reads)})"]
    total = tiling.empty + tiling.full + tiling.partial
    counts = [f"{each:,}" for each in (total, tiling.empty, tiling.full, tiling.partial)]
    return [names, f"{tiling.points / tiling.volume:.4%}", *counts, mask.predicate]

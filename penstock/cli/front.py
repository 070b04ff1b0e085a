"""``penstock explore ... --objective front``: the mappings from the fastest to the most frugal."""

from __future__ import annotations

import argparse

from penstock.cli import output
from penstock.cli.sources import format_of, machine_of, source_of
from penstock.errors import PenstockError
from penstock.mapper.search.front import Front
from penstock.metrics import quantity

__all__ = ["explore_front"]


def explore_front(options: argparse.Namespace) -> None:
    """Find the mappings of which none beats another in latency and energy; print each.

    Raises:
        PenstockError: an option goes with a single best design only, or nothing fits.
        KeyboardInterrupt: Ctrl-C was pressed; what was found has been printed.
    """
    from penstock import design

    for name in ("sweep", "mapping", "out", "variants", "report"):
        if getattr(options, name):
            raise PenstockError(
                f"--{name} does not go with --objective front", fix=f"leave out --{name}"
            )
    source, machine = source_of(options), machine_of(options)
    if machine is None:
        raise PenstockError("no machine is given", fix="add --target T")
    with output.progress("exploring") as update:
        front = design.explore_front(
            source.cascade,
            machine,
            shapes=source.shapes,
            constants=source.constants,
            fmt=format_of(options),
            progress=update,
        )
    if options.json:
        output.print_json(front.to_json())
    else:
        _print_front(front)
    if front.interrupted:
        raise KeyboardInterrupt


def _print_front(front: Front) -> None:
    rows = []
    for number, each in enumerate(front.members, 1):
        print(f"# {number}\n{each.mapping}\n")
        said = each.evaluation
        energy, moved = quantity(said.energy_pj * 1e-12, "J"), quantity(said.dram_bytes, "B")
        rows.append([str(number), output.number(said.latency_cycles), energy, moved])
    output.table(["mapping", "latency (cycles)", "energy", "DRAM"], rows)
    print(front.summary())

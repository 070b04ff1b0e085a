"""``penstock reproduce fusemax``: the study's tables on the terminal, as JSON, or as a report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict

from penstock.cli import output
from penstock.cli.output import number
from penstock.errors import UnknownNameError
from penstock.report.data import Section, Table
from penstock.reproduce import fusemax
from penstock.reproduce.fusemax import Correction, Row, Size
from penstock.reproduce.study import refusal

__all__ = ["reproduce"]


def reproduce(options: argparse.Namespace) -> None:
    """Count FuseMax's study; print it, and write the report if a place is given."""
    if options.simulate is not None:
        _clock(options)
        return
    counted = fusemax.rows(as_published=options.as_published)
    columns = [row.columns() for row in counted]
    if options.json and not options.out:
        output.print_json(columns)
        return
    section = _section(counted, as_published=options.as_published)
    paths: Sequence[object] = ()
    if options.out:
        from penstock.report import save_report

        flag = " --as-published" if options.as_published else ""
        paths = save_report(
            [], options.out, f"penstock reproduce fusemax{flag}", sections=[section]
        )
    if options.json:
        output.print_json(columns)
        return
    _print(section, paths)


def _print(section: Section, paths: Sequence[object]) -> None:
    for table in section.tables:
        output.table(table.columns, table.rows, f"{table.title}: {table.note}")
    for path in paths:
        print(path)


def _clock(options: argparse.Namespace) -> None:
    """Simulate the study instead of counting it."""
    from penstock.cli.clock import section
    from penstock.report import save_report

    unknown = [name for name in options.simulate if name not in fusemax.LENGTHS]
    if unknown:
        raise UnknownNameError("length", unknown[0], fusemax.LENGTHS)
    found = section(options.simulate)
    command = " ".join(["penstock reproduce fusemax --simulate", *options.simulate])
    paths = save_report([], options.out, command, sections=[found]) if options.out else ()
    if options.json:
        output.print_json(found.data)
        return
    _print(found, paths)


def _section(counted: Sequence[Row], *, as_published: bool) -> Section:
    """Return the study as tables, with all of its numbers as data."""
    ours = fusemax.averages(counted)
    changes = fusemax.corrections()
    sizes = fusemax.sizes()
    how = "with the errors of the published count" if as_published else "corrected"
    figures = tuple(
        (name, _ratio(name, fusemax.PAPER[name]), _ratio(name, ours[name])) for name in ours
    )
    note = f"published, and ours (model, {how})"
    tables = (
        Table(
            "Averages over all models and lengths", note, ("figure", "published", "ours"), figures
        ),
        _against_flat(counted, "Speed-up over FLAT", "latency", "{:.2f}", faster=True),
        _against_flat(counted, "Energy relative to FLAT", "energy", "{:.3f}", faster=False),
        _utilisation(counted),
        _corrections(changes),
        _sizes(sizes),
        _refused(counted),
    )
    data = {
        "as_published": as_published,
        "rows": [row.columns() for row in counted],
        "averages": ours,
        "paper": fusemax.PAPER,
        "corrections": [asdict(each) for each in changes],
        "sizes": [asdict(each) for each in sizes],
    }
    note = (
        "Five designs from mapping files, counted from their loop nests by the model; four models, "
        f"six lengths, batch {fusemax.BATCH}; {how}. "
        + " ".join(f"{each.name}: {each.says}." for each in changes[:-1])
    )
    return Section("FuseMax (MICRO 2024)", note, tables, data)


def _ratio(name: str, value: float) -> str:
    return f"{value:.2f}" if "speed-up" in name else f"{100 * value:.1f} %"


def _changes(ratios: dict[str, float]) -> str:
    changed = [f"{n} {value:.3f}" for n, value in ratios.items() if abs(value - 1) >= 5e-4]
    return ", ".join(changed) or "none"


def _by_case(counted: Sequence[Row]) -> dict[tuple[str, str], dict[str, dict[str, float]]]:
    found: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for row in counted:
        values = {k: v for k, v in row.columns().items() if isinstance(v, int | float)}
        found.setdefault((row.model, row.seq_len), {})[row.configuration] = values
    return found


def _corrections(changes: Sequence[Correction]) -> Table:
    columns = ("corrected", "latency changes", "energy changes")
    rows = (
        (
            each.name,
            _changes(each.latency),
            _changes(each.energy),
            *(_ratio(name, value) for name, value in each.figures.items()),
        )
        for each in changes
    )
    return Table(
        "What each correction changes",
        "means of corrected / published attention (model), and the averages above",
        (*columns, "speed-up", "energy", "end-to-end speed-up", "end-to-end energy"),
        tuple(rows),
    )


def _sizes(sizes: Sequence[Size]) -> Table:
    rows = (
        (
            f"{each.side} x {each.side}",
            number(each.area_um2 / 1e6),
            *(number(seconds) for seconds in each.latency_s.values()),
            "yes" if each.front else "no",
        )
        for each in sizes
    )
    return Table(
        "Array sizes",
        "+binding at 256K keys with a buffer of 16 MB (model); on the front if no other size has "
        "less area and less time",
        ("array", "area mm2", *(f"{name} s" for name in sizes[0].latency_s), "front"),
        tuple(rows),
    )


def _against_flat(
    counted: Sequence[Row], title: str, column: str, form: str, *, faster: bool
) -> Table:
    names = [each.name for each in fusemax.CONFIGURATIONS]
    rows = []
    for (model, length), by_name in _by_case(counted).items():

        def cell(name: str, which: str, found: dict[str, dict[str, float]] = by_name) -> str:
            ratio = found[name][which] / found["FLAT"][which]
            return form.format(1 / ratio if faster else ratio)

        rows.append(
            (
                model,
                length,
                *(cell(name, column) for name in names),
                cell("+binding", f"end2end_{column}"),
            )
        )
    columns = ("model", "length", *names, "+binding end to end")
    return Table(title, "attention, and with the linear layers (model)", columns, tuple(rows))


def _utilisation(counted: Sequence[Row]) -> Table:
    names = [each.name for each in fusemax.CONFIGURATIONS]
    rows = tuple(
        (
            model,
            length,
            *(f"{100 * v[n]['util_2d']:.1f} / {100 * v[n]['util_1d']:.1f}" for n in names),
        )
        for (model, length), v in _by_case(counted).items()
    )
    note = "percent of the 2D / 1D array's places' cycles in attention (model)"
    return Table("Utilisation", note, ("model", "length", *names), rows)


def _refused(counted: Sequence[Row]) -> Table:
    """Say which mappings the machine cannot run, by our own rules."""
    rows: dict[tuple[str, str], list[str]] = {}
    for row in counted:
        why = refusal(row.attention)
        if why:
            where = f"{row.model} {row.seq_len}"
            rows.setdefault((row.configuration, row.attention.case.mapping), []).append(
                f"{where}: {why}"
            )
    return Table(
        "Published mappings that do not fit",
        "by penstock's own check, which counts every copy that is in flight; one case of each",
        ("configuration", "mapping", "cases", "for example"),
        tuple((*key, f"{len(each)} of 24", each[0]) for key, each in rows.items()),
    )

"""``penstock reproduce fusemax``: the study's tables on the terminal, as JSON, or as a report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from penstock.cli import output
from penstock.cli.output import number
from penstock.errors import UnknownNameError
from penstock.metrics import quantity
from penstock.report.data import Section, Table
from penstock.reproduce import fusemax
from penstock.reproduce.found import Beside, beside
from penstock.reproduce.fusemax import Correction, Row, Size
from penstock.reproduce.study import refusal

__all__ = ["reproduce"]

SHOWN = 4
"""Einsums that a cell names."""


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
    with output.progress("searching") as update:
        found = beside(_lengths(options.search), progress=update)
    section = _section(counted, found, as_published=options.as_published)
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

    found = section(_lengths(options.simulate))
    command = " ".join(["penstock reproduce fusemax --simulate", *options.simulate])
    paths = save_report([], options.out, command, sections=[found]) if options.out else ()
    if options.json:
        output.print_json(found.data)
        return
    _print(found, paths)


def _lengths(wanted: Sequence[str] | None) -> Sequence[str]:
    """Return lengths that were asked for, all without any.

    Raises:
        UnknownNameError: the study has no such length.
    """
    for name in wanted or ():
        if name not in fusemax.LENGTHS:
            raise UnknownNameError("length", name, fusemax.LENGTHS)
    return tuple(fusemax.LENGTHS) if wanted is None else wanted


def _section(counted: Sequence[Row], found: Sequence[Beside], *, as_published: bool) -> Section:
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
        _found(found),
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
        "found": [each.to_json() for each in found],
        "refused": [asdict(each) for each in _refusals(counted)],
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
            *(quantity(seconds, "s") for seconds in each.latency_s.values()),
            "yes" if each.front else "no",
        )
        for each in sizes
    )
    return Table(
        "Array sizes",
        "+binding at 256K keys with a buffer of 16 MB (model); on the front if no other size has "
        "less area and less time",
        ("array", "area mm2", *sizes[0].latency_s, "front"),
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


def _found(found: Sequence[Beside]) -> Table:
    """Say what the search finds for each case, and what the busiest array does there."""
    rows = tuple(
        (
            each.model,
            each.seq_len,
            f"{each.published.latency_s * 1e3:,.3f}",
            f"{each.found.evaluation.latency_s * 1e3:,.3f}",
            f"{each.faster - 1:.2%}",
            f"{each.own_s:.1f}",
            each.form,
            _busiest(each.per_tile(each.published)),
            _busiest(each.per_tile(each.found.evaluation)),
        )
        for each in found
    )
    optimal = sum(each.found.optimal for each in found)
    return Table(
        "What the search finds",
        "given the machine, the 3-pass cascade and its form with the division deferred (section "
        "IV-D of the paper), against +binding; latency in ms (model), "
        f"seconds of one process for the search; {optimal} of {len(found)} optimal in their space. "
        "Then the cycles of the busiest array for 256 x 256 scores. +binding corrects its running "
        "sums once for 256 keys, a 1-pass form with larger tiles once for m0 keys, one of 2 passes "
        "never; the division (AV) weighs at short lengths",
        (
            *("model", "length", "+binding", "found", "faster", "search s", "cascade"),
            *("busiest array, +binding", "busiest array, found"),
        ),
        rows,
    )


def _busiest(cycles: dict[str, dict[str, float]]) -> str:
    """Write the array with most cycles, and the Einsums that take them."""
    array, mine = max(cycles.items(), key=lambda each: sum(each[1].values()))
    first = sorted(mine.items(), key=lambda each: -each[1])
    shown = ", ".join(f"{name} {value:.4g}" for name, value in first[:SHOWN])
    rest = sum(value for _, value in first[SHOWN:])
    more = f", others {rest:.4g}" if rest else ""
    return f"{array} {sum(mine.values()):.5g}: {shown}{more}"


@dataclass(frozen=True)
class _Refusal:
    """A published mapping that does not fit, with the fullest memory."""

    configuration: str
    model: str
    seq_len: str
    mapping: str
    reason: str
    memory: str
    needed_bytes: float
    available_bytes: float
    held: str


def _refusals(counted: Sequence[Row]) -> list[_Refusal]:
    found = []
    for row in counted:
        why = refusal(row.attention)
        if not why:
            continue
        each = max(row.attention.found.occupancy, key=lambda o: o.needed_bytes / o.capacity_bytes)
        held = ", ".join(f"{name} {_mb(size)}" for name, size in each.tensors if size >= 2**20)
        found.append(
            _Refusal(
                row.configuration,
                row.model,
                row.seq_len,
                row.attention.case.mapping,
                why,
                each.memory,
                each.needed_bytes,
                each.capacity_bytes,
                held,
            )
        )
    return found


def _mb(size: float) -> str:
    return f"{size / 2**20:,.5g}"


def _refused(counted: Sequence[Row]) -> Table:
    """Say which mappings the machine cannot run, by our own rules."""
    cases: dict[tuple[str, ...], list[str]] = {}
    total: dict[str, int] = {}
    for each in _refusals(counted):
        room = (each.memory, _mb(each.needed_bytes), _mb(each.available_bytes), each.held)
        cases.setdefault((each.configuration, each.mapping, *room), []).append(
            f"{each.model} {each.seq_len}"
        )
        total[each.configuration] = total.get(each.configuration, 0) + 1
    problems = len(counted) // len(fusemax.CONFIGURATIONS)
    numbers = ", ".join(f"{name} {count} of {problems}" for name, count in total.items())
    return Table(
        "Published mappings that do not fit",
        "by penstock's own check: a tensor takes its room from the Einsum that makes it to the "
        "last that reads it, once for each iteration in flight, where the published count lets "
        "scores, exponentials and weights follow each other in the same place; "
        f"{numbers}; in MB",
        ("configuration", "mapping", "memory", "needed", "available", "held together", "cases"),
        tuple((*key, ", ".join(names)) for key, names in cases.items()),
    )

"""``penstock explore ... --sweep NAME=VALUES``: options to a plan, what to print and to write."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from penstock.cli import output
from penstock.cli.sources import Source, format_of, machine_named, machine_of, source_of
from penstock.errors import FileError, PenstockError
from penstock.files import write_whole
from penstock.metrics import quantity
from penstock.sweep.grid import Axis, axis, shape_axis, target_axis
from penstock.sweep.journal import Journal
from penstock.sweep.points import Options, Plan, plan
from penstock.sweep.result import Problem, Sweep, sweep
from penstock.sweep.runners import Runner, on_cluster, on_processes, serially
from penstock.targets.base import Target

__all__ = ["run_sweep"]

ROWS = 40
"""Rows of the printed table at most; beyond, the front alone, and of it so many."""


def run_sweep(options: argparse.Namespace) -> None:
    """Find the best mapping for each point of --sweep; print and write the Pareto front.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; what was finished has been printed and written.
        PenstockError: an option is wrong, or workers fail.
    """
    if options.mapping:
        raise PenstockError("--mapping gives one mapping, --sweep searches many", fix="leave one")
    _check_files(options)
    made = plan_of(options)
    runner = _runner(options, len(made.points))
    path = _journal_path(options)
    title = f"{len(made.points):,} points"
    with _journal(path, resume=bool(options.resume)) as journal, output.progress(title) as update:
        result = sweep(made, runner, journal=journal, progress=update)
    if options.out:
        text = json.dumps(result.to_json(), indent=1) + "\n"
        write_whole(options.out, text.encode())
    if options.report:
        from penstock.report import save_report

        save_report([], options.report, _command(options), sweeps=[result])
    if options.json:
        output.print_json(result.to_json())
    else:
        print_sweep(result)
    if not result.complete:
        again = f"; go on with --resume {path}" if path else ""
        _say(f"{result.finished:,} of {len(made.points):,} points are finished{again}")
        raise KeyboardInterrupt
    if path and path == _beside(options):
        path.unlink()


def plan_of(options: argparse.Namespace) -> Plan:
    """Return the points that the options describe."""
    source, machine, fmt = source_of(options), machine_of(options), format_of(options)
    cascade = source.cascade
    if source.constants:
        cascade = cascade.with_constants(**source.constants)
    pairs = [_pair(text) for text in options.sweep]
    machines = _machines(options, machine, pairs)
    axes = [_axis(name, text, machines, source) for name, text in pairs]
    chosen = Options(str(fmt) if fmt else "", options.objective)
    return plan(cascade, machines, axes, shapes=source.shapes, options=chosen)


def _pair(text: str) -> tuple[str, str]:
    name, equals, values = (part.strip() for part in text.partition("="))
    if not (name and equals and values):
        raise PenstockError(
            f"--sweep {text} is not NAME=VALUES",
            fix="write it as in --sweep array=64..512 buffer=1MB..64MB",
        )
    return name, values


def _machines(
    options: argparse.Namespace, machine: Target | None, pairs: list[tuple[str, str]]
) -> dict[str, Target]:
    """Return the machines of the sweep by name: those of ``target=``, or the one of --target."""
    names = [name for name, _ in pairs]
    double = next((name for name in names if names.count(name) > 1), "")
    if double:
        raise PenstockError(f"--sweep has {double} twice", fix=f"write {double}=8,16")
    swept = dict(pairs).get("target")
    if swept is None:
        if machine is None:
            raise PenstockError("no machine is given", fix="add --target T")
        return {machine.name: machine}
    if machine is not None:
        raise PenstockError("--target and --sweep target= both name machines", fix="leave one")
    return {str(name): machine_named(str(name), options.set) for name in target_axis(swept).values}


def _axis(name: str, text: str, machines: dict[str, Target], source: Source) -> Axis:
    """Read one parameter: of every machine of the sweep, or a rank variable."""
    if name == "target":
        return target_axis(text)
    cascade = source.cascade
    ranks = {rank for each in cascade.inputs for rank in each.ranks}
    ranks |= {name for each in cascade.einsums for name in each.variables}
    if name in ranks:
        if name in source.shapes:
            raise PenstockError(f"--shape and --sweep both give {name}", fix="leave one")
        return shape_axis(name, text)
    others = ["target", *sorted(ranks)]
    found = [axis(name, text, machine, others) for machine in machines.values()]
    return found[0]


def _runner(options: argparse.Namespace, points: int) -> Runner:
    if options.cluster:
        if options.jobs is not None:
            raise PenstockError("--jobs and --cluster exclude each other", fix="leave one")
        return on_cluster(options.cluster)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    jobs = min(options.jobs if options.jobs is not None else cores or 1, points)
    if jobs < 1:
        raise PenstockError(f"--jobs is {options.jobs}", fix="give it a whole number above 0")
    return serially if jobs == 1 else on_processes(jobs)


def _check_files(options: argparse.Namespace) -> None:
    """The report writes .json and .txt beside its HTML, which must not be the file of -o."""
    if not options.out or not options.report:
        return
    report = Path(options.report)
    if Path(options.out) in {report, report.with_suffix(".json"), report.with_suffix(".txt")}:
        raise PenstockError(
            f"--report {report} would write over {options.out}", fix="give them different names"
        )


def _beside(options: argparse.Namespace) -> Path | None:
    """Return the journal that a sweep with -o keeps without being asked."""
    return Path(f"{options.out}.journal") if options.out else None


def _journal_path(options: argparse.Namespace) -> Path | None:
    return Path(options.resume) if options.resume else _beside(options)


@contextmanager
def _journal(path: Path | None, *, resume: bool) -> Iterator[Journal | None]:
    if path is None:
        yield None
        return
    if path.exists() and not resume:
        raise FileError(
            f"{path} is the journal of a sweep that was not finished",
            fix=f"add --resume {path}, or delete it",
        )
    if resume and not path.exists():
        _say(f"{path} is new: nothing to resume")
    with Journal(path, _say) as journal:
        if resume:
            _say(f"{len(journal.finished):,} finished points in {path}")
        yield journal


def _say(text: str) -> None:
    print(f"penstock: {text}", file=sys.stderr)


def _command(options: argparse.Namespace) -> str:
    return f"penstock explore {options.file} --sweep {' '.join(options.sweep)}"


# -- printing --------------------------------------------------------------------------------


def print_sweep(result: Sweep) -> None:
    """Print the points of a sweep, or only its fronts where there are many, within 100 columns."""
    shown = [
        (problem, number)
        for problem in result.problems
        for number in (problem.points if result.finished <= ROWS else problem.front)
    ]
    columns = [each.name for each in result.plan.axes]
    costs = ["latency", "energy", "area mm2"]
    rows = [_row(result, problem, number) for problem, number in shown[:ROWS]]
    output.table(["front", *columns, *costs, "mapping"], rows, title=_title(result))
    if len(shown) > ROWS:
        print(f"{len(shown) - ROWS:,} more points of the fronts are in --json and -o")
    fronts = sum(len(problem.front) for problem in result.problems)
    compared = {name: None for problem in result.problems for name in problem.compared}
    each = f" ({len(result.problems):,} problems)" if len(result.problems) > 1 else ""
    print(
        f"{result.finished:,} points, {sum(_fits(result)):,} with a mapping, {fronts:,} on the "
        f"Pareto front over {', '.join(name.split('_')[0] for name in compared)}{each}"
    )
    best = [problem.best for problem in result.problems if problem.best is not None]
    if len(best) == 1:
        _print_best(result, best[0])


def _title(result: Sweep) -> str:
    swept = {each.name for each in result.plan.axes}
    fixed = [f"{name} = {n:,}" for name, n in result.plan.points[0].shapes if name not in swept]
    return ", ".join([result.plan.cascade, *fixed])


def _fits(result: Sweep) -> list[bool]:
    return [each is not None and not each.failure for each in result.outcomes]


def _print_best(result: Sweep, number: int) -> None:
    outcome, point = result.outcomes[number], result.plan.points[number]
    assert outcome is not None
    shown = zip(result.plan.axes, result.plan.shown(point), strict=True)
    values = ", ".join(f"{each.name} = {text}" for each, text in shown)
    print(f"best {result.plan.options.objective}: {values}\n\n{outcome.mapping}\n")


def _row(result: Sweep, problem: Problem, number: int) -> list[str]:
    outcome, point = result.outcomes[number], result.plan.points[number]
    assert outcome is not None
    mark = "best" if number == problem.best else "*" if number in problem.front else ""
    area = point.area_um2
    sized = "" if area is None else output.number(area / 1e6)
    if outcome.failure:
        return [mark, *result.plan.shown(point), "nothing fits", "", sized, "none"]
    energy = "" if outcome.energy_pj is None else quantity(outcome.energy_pj * 1e-12, "J")
    found = "optimal" if outcome.optimal else "best seen"
    latency = quantity(outcome.latency_s, "s")
    return [mark, *result.plan.shown(point), latency, energy, sized, found]

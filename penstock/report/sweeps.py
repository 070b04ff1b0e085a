"""The report's section on a sweep: for each problem a scatter of its points and the front's table.

Excluded: what is on the front (`sweep.result`), how a page looks (the template).
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

from penstock.report.figures import Cloud, Figure, scatter
from penstock.sweep.result import Problem, Sweep

__all__ = ["sweep_text", "sweep_view"]

Number = Callable[[float], str]
Row = list[str]

UNITS = {"latency_s": ("latency", "s"), "energy_pj": ("energy", "pJ"), "area_um2": ("area", "um2")}
MAX_ROWS = 200
MAX_PROBLEMS = 12


def sweep_view(
    result: Sweep, number: Number, table: Callable[[list[str], list[Row], set[int]], str]
) -> dict[str, Any]:
    """Return what the template shows of a sweep.

    Args:
        result: the sweep.
        number: writes a number for people.
        table: writes (columns, rows, numeric columns) as HTML, escaped.
    """
    names = [each.name for each in result.plan.axes]
    left_out = len(result.problems) - MAX_PROBLEMS
    return {
        "title": escape(f"Sweep of {result.plan.cascade}: {', '.join(names)}"),
        "subtitle": escape(_summary(result)),
        "problems": [
            {
                "title": escape(_shapes(problem)),
                "figure": _figure(result, problem, number),
                "table": table(_columns(result), _rows(result, problem, number), set()),
                "note": _note(problem),
                "mappings": _mappings(result, problem, number),
            }
            for problem in result.problems[:MAX_PROBLEMS]
        ],
        "left_out": f"{left_out:,} more problems are in the JSON file." if left_out > 0 else "",
    }


def sweep_text(result: Sweep, number: Number) -> list[str]:
    """Return the sweep as lines of plain text."""
    lines = [f"=== Sweep of {result.plan.cascade}", _summary(result)]
    for problem in result.problems:
        lines += ["", _shapes(problem), "\t".join(_columns(result))]
        lines += ["\t".join(row) for row in _rows(result, problem, number)]
        lines += [_note(problem), _mapping(result, problem)]
    return lines


def _summary(result: Sweep) -> str:
    total, came = len(result.outcomes), result.finished
    state = "" if result.complete else f" ({came:,} finished: the sweep was interrupted)"
    objective = result.plan.options.objective
    return f"{total:,} points{state}; for each, the mapping with the best {objective} (model)"


def _shapes(problem: Problem) -> str:
    return ", ".join(f"{name} = {extent:,}" for name, extent in problem.shapes) or "all points"


def _columns(result: Sweep) -> list[str]:
    names = [each.name for each in result.plan.axes]
    return [*names, *(f"{name} ({unit})" for name, unit in UNITS.values())]


def _rows(result: Sweep, problem: Problem, number: Number) -> list[Row]:
    rows = []
    for place in problem.front[:MAX_ROWS]:
        costs = result.costs(place).values()
        numbers = ["" if value is None else number(value) for value in costs]
        rows.append([*result.plan.shown(result.plan.points[place]), *numbers])
    return rows


def _note(problem: Problem) -> str:
    compared = ", ".join(UNITS[name][0] for name in problem.compared)
    more = len(problem.front) - MAX_ROWS
    rest = f" The first {MAX_ROWS}; {more:,} more are in the JSON file." if more > 0 else ""
    return f"The Pareto front over {compared}: {len(problem.front):,} points.{rest}"


def _mappings(result: Sweep, problem: Problem, number: Number) -> list[dict[str, str]]:
    """Return the mappings of the front, each with an anchor that its point of the figure names."""
    rows = zip(problem.front, _rows(result, problem, number), strict=False)
    names = _columns(result)
    return [
        {
            "anchor": _anchor(place),
            "title": escape(
                "; ".join(f"{n} {cell}" for n, cell in zip(names, row, strict=True) if cell)
            ),
            "best": " (best)" if place == problem.best else "",
            "text": escape(outcome.mapping),
        }
        for place, row in rows
        if (outcome := result.outcomes[place])
    ]


def _anchor(place: int) -> str:
    return f"point-{place}"


def _mapping(result: Sweep, problem: Problem) -> str:
    outcome = None if problem.best is None else result.outcomes[problem.best]
    return outcome.mapping if outcome else ""


def _figure(result: Sweep, problem: Problem, number: Number) -> Figure | None:
    """Draw latency against energy, or against area where machines have no energies."""
    other = next((name for name in ("energy_pj", "area_um2") if name in problem.compared), None)
    if other is None or problem.best is None:
        return None
    fits = [place for place in problem.points if not _failed(result, place)]
    front = set(problem.front)
    clouds = (
        _cloud("not on the front", result, [n for n in fits if n not in front], other, number),
        _cloud("Pareto front", result, list(problem.front), other, number),
    )
    compared = ", ".join(UNITS[name][0] for name in problem.compared)
    axes = [f"{UNITS[name][0]}, {UNITS[name][1]}" for name in ("latency_s", other)]
    said = f"{_shapes(problem)}: each point is a machine with its best mapping (model)."
    return scatter(clouds, axes[0], axes[1], f"{said} The front is over {compared}.")


def _failed(result: Sweep, place: int) -> bool:
    outcome = result.outcomes[place]
    return outcome is None or bool(outcome.failure)


def _cloud(name: str, result: Sweep, places: list[int], other: str, number: Number) -> Cloud:
    costs = [result.costs(place) for place in places]
    return Cloud(
        name,
        [each["latency_s"] or 0.0 for each in costs],
        [each[other] or 0.0 for each in costs],
        [_hover(result, place, number, mapping=name == "Pareto front") for place in places],
        [_anchor(place) for place in places] if name == "Pareto front" else (),
    )


def _hover(result: Sweep, place: int, number: Number, *, mapping: bool) -> str:
    plan, outcome = result.plan, result.outcomes[place]
    shown = zip(plan.axes, plan.shown(plan.points[place]), strict=True)
    lines = [f"<b>{escape(each.name)} = {escape(text)}</b>" for each, text in shown]
    lines += [
        f"{UNITS[name][0]} {number(value)} {UNITS[name][1]}"
        for name, value in result.costs(place).items()
        if value is not None
    ]
    if mapping and outcome:
        text = escape(outcome.mapping).replace(" ", "\u00a0")
        lines += ["", *text.splitlines()]
    return "<br>".join(lines)

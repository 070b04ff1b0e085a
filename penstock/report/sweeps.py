"""The report's section on a sweep: for each problem a scatter of its points and the front's table.

Excluded: what is on the front (`sweep.result`), how a page looks (the template).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

from penstock.metrics import number, quantity
from penstock.report.figures import Cloud, Figure, scatter
from penstock.sweep.result import Problem, Sweep

__all__ = ["sweep_text", "sweep_view"]

Row = list[str]


@dataclass(frozen=True)
class Cost:
    """What a point costs, as people read it: its unit, and how many of it one stored unit is."""

    name: str
    unit: str
    scale: float

    def said(self, value: float) -> str:
        """Return a stored value for people: ``160 ns``, ``17.59 nJ``, ``1,303 mm²``."""
        mine = value * self.scale
        return f"{number(mine)} {self.unit}" if self.unit == "mm²" else quantity(mine, self.unit)


COSTS = {
    "latency_s": Cost("latency", "s", 1.0),
    "energy_pj": Cost("energy", "J", 1e-12),
    "area_um2": Cost("area", "mm²", 1e-6),
}
"""Names as in `Sweep.costs`."""

MAX_ROWS = 200
MAX_PROBLEMS = 12


def sweep_view(
    result: Sweep, table: Callable[[list[str], list[Row], set[int]], str]
) -> dict[str, Any]:
    """Return what the template shows of a sweep.

    Args:
        result: the sweep.
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
                "answer": escape(_answer(result, problem)),
                "figure": _figure(result, problem),
                "table": table(_columns(result, problem), _rows(result, problem), set()),
                "note": _note(problem),
                "mappings": _mappings(result, problem),
            }
            for problem in result.problems[:MAX_PROBLEMS]
        ],
        "left_out": f"{left_out:,} more problems are in the JSON file." if left_out > 0 else "",
    }


def sweep_text(result: Sweep) -> list[str]:
    """Return the sweep as lines of plain text."""
    lines = [f"=== Sweep of {result.plan.cascade}", _summary(result)]
    for problem in result.problems:
        lines += ["", _shapes(problem), _answer(result, problem)]
        lines += ["\t".join(_columns(result, problem))]
        lines += ["\t".join(row) for row in _rows(result, problem)]
        lines += [_note(problem), _mapping(result, problem)]
    return lines


def _summary(result: Sweep) -> str:
    total, came = len(result.outcomes), result.finished
    state = "" if result.complete else f" ({came:,} finished: the sweep was interrupted)"
    objective = result.plan.options.objective
    return f"{total:,} points{state}; for each, the mapping with the best {objective} (model)"


def _shapes(problem: Problem) -> str:
    return ", ".join(f"{name} = {extent:,}" for name, extent in problem.shapes) or "all points"


def _answer(result: Sweep, problem: Problem) -> str:
    """One sentence: the best point, and what it costs."""
    if problem.best is None:
        return "Nothing fits any of these machines."
    costs = ", ".join(f"{name} {said}" for name, said in _said(result, problem.best).items())
    values = result.plan.shown(result.plan.points[problem.best])
    place = ", ".join(
        f"{axis.name} = {value}" for axis, value in zip(result.plan.axes, values, strict=True)
    )
    return f"Best {result.plan.options.objective}: {place} ({costs}; model)."


def _said(result: Sweep, place: int) -> dict[str, str]:
    """Return cost → text, of those that are known of a point."""
    costs = result.costs(place).items()
    return {COSTS[name].name: COSTS[name].said(value) for name, value in costs if value is not None}


def _columns(result: Sweep, problem: Problem) -> list[str]:
    return [*(each.name for each in result.plan.axes), *_known(result, problem)]


def _known(result: Sweep, problem: Problem) -> list[str]:
    """Return the costs that are known of a point of the front."""
    there = {name for place in problem.front for name in _said(result, place)}
    return [each.name for each in COSTS.values() if each.name in there]


def _rows(result: Sweep, problem: Problem) -> list[Row]:
    known, plan = _known(result, problem), result.plan
    rows = []
    for place in problem.front[:MAX_ROWS]:
        said = _said(result, place)
        costs = [said.get(name, "") for name in known]
        rows.append([*plan.shown(plan.points[place]), *costs])
    return rows


def _compared(problem: Problem) -> str:
    return ", ".join(COSTS[name].name for name in problem.compared)


def _note(problem: Problem) -> str:
    more = len(problem.front) - MAX_ROWS
    rest = f" The first {MAX_ROWS}; {more:,} more are in the JSON file." if more > 0 else ""
    return f"The Pareto front over {_compared(problem)}: {len(problem.front):,} points.{rest}"


def _mappings(result: Sweep, problem: Problem) -> list[dict[str, str]]:
    """Return the mappings of the front, each with an anchor that its point of the figure names."""
    rows = zip(problem.front, _rows(result, problem), strict=False)
    names = _columns(result, problem)
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


def _figure(result: Sweep, problem: Problem) -> Figure | None:
    """Draw latency against energy, or against area where machines have no energies."""
    other = next((name for name in ("energy_pj", "area_um2") if name in problem.compared), None)
    if other is None or problem.best is None:
        return None
    fits = [place for place in problem.points if not _failed(result, place)]
    front = set(problem.front)
    clouds = (
        _cloud("not on the front", result, [n for n in fits if n not in front], other),
        _cloud("Pareto front", result, list(problem.front), other),
    )
    axes = [f"{COSTS[name].name}, {COSTS[name].unit}" for name in ("latency_s", other)]
    said = f"{_shapes(problem)}: each point is a machine with its best mapping (model)."
    return scatter(clouds, axes[0], axes[1], f"{said} The front is over {_compared(problem)}.")


def _failed(result: Sweep, place: int) -> bool:
    outcome = result.outcomes[place]
    return outcome is None or bool(outcome.failure)


def _cloud(name: str, result: Sweep, places: list[int], other: str) -> Cloud:
    costs = [result.costs(place) for place in places]
    scale = COSTS[other].scale
    return Cloud(
        name,
        [each["latency_s"] or 0.0 for each in costs],
        [(each[other] or 0.0) * scale for each in costs],
        [_hover(result, place, mapping=name == "Pareto front") for place in places],
        [_anchor(place) for place in places] if name == "Pareto front" else (),
    )


def _hover(result: Sweep, place: int, *, mapping: bool) -> str:
    plan, outcome = result.plan, result.outcomes[place]
    shown = zip(plan.axes, plan.shown(plan.points[place]), strict=True)
    lines = [f"<b>{escape(each.name)} = {escape(text)}</b>" for each, text in shown]
    lines += [f"{name} {said}" for name, said in _said(result, place).items()]
    if mapping and outcome:
        text = escape(outcome.mapping).replace(" ", "\u00a0")
        lines += ["", *text.splitlines()]
    return "<br>".join(lines)

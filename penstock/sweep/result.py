"""What a sweep found: an outcome for each point, the best, and the Pareto front.

Points with other extents are other problems and are not compared: each problem has its own best
and its own front, over latency in seconds, energy and area, as far as all its machines have them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Any

from penstock import __version__
from penstock.sweep.journal import Journal
from penstock.sweep.pareto import front
from penstock.sweep.points import Outcome, Plan
from penstock.sweep.runners import Runner

__all__ = ["Problem", "Sweep", "sweep"]

Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Problem:
    """The finished points of a sweep that have the same extents.

    Args:
        shapes: (rank variable, extent) pairs.
        points: their numbers.
        compared: names of what the front compares.
        front: numbers of the points on the front.
        best: number of the best point under the objective; None if nothing fits any machine.
    """

    shapes: tuple[tuple[str, int], ...]
    points: tuple[int, ...]
    compared: tuple[str, ...]
    front: tuple[int, ...]
    best: int | None


@dataclass(frozen=True)
class Sweep:
    """A sweep, whole or as far as it came.

    Args:
        plan: its points.
        outcomes: one for each point, in order; None where it was not finished.
        evaluated: points evaluated now: not those of the journal, and equal ones once.
        resumed: points taken from the journal.
    """

    plan: Plan
    outcomes: tuple[Outcome | None, ...]
    evaluated: int
    resumed: int

    @property
    def finished(self) -> int:
        """Points with an outcome."""
        return sum(each is not None for each in self.outcomes)

    @property
    def complete(self) -> bool:
        """Whether every point has an outcome."""
        return self.finished == len(self.outcomes)

    def costs(self, number: int) -> dict[str, float | None]:
        """Return latency, energy and area of a point that has an outcome."""
        outcome, point = self.outcomes[number], self.plan.points[number]
        assert outcome is not None
        return {
            "latency_s": outcome.latency_s,
            "energy_pj": outcome.energy_pj,
            "area_um2": point.area_um2,
        }

    def objective(self, number: int) -> float:
        """Return what a finished point is judged by: seconds, picojoules, their product, or um2."""
        outcome, area = self.outcomes[number], self.plan.points[number].area_um2
        assert outcome is not None
        if self.plan.options.objective == "area":
            return area or inf
        return judged(outcome, self.plan.options.objective)

    @cached_property
    def problems(self) -> tuple[Problem, ...]:
        """The finished points by extents, in the order of the points."""
        found: dict[tuple[tuple[str, int], ...], list[int]] = {}
        for number, outcome in enumerate(self.outcomes):
            if outcome is not None:
                found.setdefault(self.plan.points[number].shapes, []).append(number)
        return tuple(self._problem(shapes, tuple(each)) for shapes, each in found.items())

    def _problem(self, shapes: tuple[tuple[str, int], ...], points: tuple[int, ...]) -> Problem:
        fits = [number for number in points if not self._failure(number)]
        costs = [self.costs(number) for number in fits]
        names = ("latency_s", "energy_pj", "area_um2")
        compared = tuple(name for name in names if all(each[name] is not None for each in costs))
        rows = [[each[name] or 0.0 for name in compared] for each in costs]
        best = min(fits, key=lambda n: (self.objective(n), self._latency(n)), default=None)
        return Problem(shapes, points, compared, tuple(fits[n] for n in front(rows)), best)

    def _latency(self, number: int) -> float:
        outcome = self.outcomes[number]
        return outcome.latency_s if outcome else inf

    def _failure(self, number: int) -> str:
        outcome = self.outcomes[number]
        return outcome.failure if outcome else ""

    def to_json(self) -> dict[str, Any]:
        """Return the sweep as a JSON object: the same for the same points, however it was run."""
        fronts = {number for problem in self.problems for number in problem.front}
        best = {problem.best for problem in self.problems}
        plan = self.plan
        rows = [
            {
                "point": number,
                "values": dict(point.values),
                "target": point.machine,
                "shapes": dict(point.shapes),
                "area_um2": point.area_um2,
                **{key: each for key, each in outcome.to_json().items() if key != "sizing"},
                "set": dict((*point.overrides, *outcome.sizing)),
                "front": number in fronts,
                "best": number in best,
            }
            for number, (point, outcome) in enumerate(zip(plan.points, self.outcomes, strict=True))
            if outcome is not None
        ]
        return {
            "penstock": "sweep",
            "version": __version__,
            "cascade": plan.text,
            "format": plan.options.format or None,
            "objective": plan.options.objective,
            "swept": [each.name for each in plan.axes],
            "points_in_all": len(plan.points),
            "complete": self.complete,
            "compared": [list(each.compared) for each in self.problems],
            "points": rows,
        }


def judged(outcome: Outcome, objective: str) -> float:
    """Return the objective of an outcome, in seconds, picojoules or their product.

    An outcome has no area: for that objective its seconds.
    """
    if outcome.energy_pj is None or objective in ("latency", "area"):
        return outcome.latency_s
    energy = outcome.energy_pj
    return {"energy": energy, "edp": outcome.latency_s * energy}[objective]


def sweep(
    plan: Plan,
    runner: Runner,
    *,
    journal: Journal | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """Evaluate the points of a plan; on Ctrl-C return what is finished.

    Equal points are evaluated once, and those that the journal has not at all.

    Args:
        plan: the points.
        runner: who evaluates them.
        journal: where finished points are kept.
        progress: called with (points finished, points in all, best objective so far).

    Raises:
        PenstockError: a worker is of another version, or workers die again and again.
    """
    keys = [task.key for task in plan.tasks]
    equal = Counter(keys)
    kept = dict(journal.finished) if journal else {}
    found = {key: kept[key] for key in equal if key in kept}
    resumed = done = sum(equal[key] for key in found)
    first = dict(zip(reversed(keys), reversed(range(len(keys))), strict=True))
    tasks = [(first[key], plan.tasks[first[key]]) for key in equal if key not in found]
    best = min((judged(each, plan.options.objective) for each in found.values()), default=inf)
    report = progress or _silent
    report(done, len(keys), best)
    try:
        with closing(runner(tasks)) as results:
            for number, outcome in results:
                key = keys[number]
                if journal:
                    journal.add(key, outcome)
                found[key] = outcome
                done += equal[key]
                best = min(best, judged(outcome, plan.options.objective))
                report(done, len(keys), best)
    except KeyboardInterrupt:
        pass  # the result says that it is not complete
    evaluated = sum(key not in kept for key in found)
    return Sweep(plan, tuple(found.get(key) for key in keys), evaluated, resumed)


def _silent(done: int, total: int, best: float) -> None:
    """Report to nobody."""

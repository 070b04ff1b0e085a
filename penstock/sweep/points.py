"""One point of a sweep: a machine and extents, and the best mapping of the cascade for them.

A `Plan` holds every point with all that a worker needs; `evaluate` is what a worker does. It
depends on its argument alone, so that any worker gives the same outcome. Excluded: who does it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import Any, Literal

from penstock import __version__
from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.formats import parse_format, run_format
from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.shapes import Bound, bind
from penstock.errors import MappingError, PenstockError, TargetError
from penstock.mapper.search.explore import Objective, explore
from penstock.sweep.grid import MAX_VALUES, Axis, value_text
from penstock.sweep.machines import Override, area_um2, overrides
from penstock.targets.base import Target
from penstock.targets.serial import to_json as target_to_json

__all__ = ["Options", "Outcome", "Plan", "Point", "Task", "evaluate", "plan"]


@dataclass(frozen=True)
class Options:
    """What is the same for all points: number format ("" = each machine's own) and objective.

    The objective ``area`` is for the best point: each machine has its fastest mapping.
    """

    format: str = ""
    objective: Objective | Literal["area"] = "latency"


@dataclass(frozen=True)
class Task:
    """All that one evaluation depends on; small, and the same in every process.

    Args:
        cascade: text of the cascade, with its constants.
        target: the machine.
        shapes: (rank variable, extent) pairs, sorted.
        options: format and objective.
        version: of penstock; a worker of another version refuses.
    """

    cascade: str
    target: Target
    shapes: tuple[tuple[str, int], ...]
    options: Options
    version: str = __version__

    @property
    def key(self) -> str:
        """Hex digits that name the task: same task, same digits."""
        parts = [
            self.version,
            self.cascade,
            _target_text(self.target),
            self.shapes,
            self.options.format,
            self.options.objective,
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Point:
    """A point of a sweep: ``array = 64, m = 1024``.

    Args:
        values: (name, value) pairs, in the order of the sweep.
        machine: name of the machine that is changed.
        overrides: (path, number) pairs that change it, as ``--set`` takes them.
        shapes: (rank variable, extent) pairs, sorted.
        area_um2: of the machine; None if its parts have no areas.
    """

    values: tuple[tuple[str, float | str], ...]
    machine: str
    overrides: tuple[Override, ...]
    shapes: tuple[tuple[str, int], ...]
    area_um2: float | None


@dataclass(frozen=True)
class Outcome:
    """The best mapping of a point, or why there is none.

    Args:
        latency_cycles, latency_s: by the model.
        energy_pj: None if the machine has no energies.
        dram_bytes: that cross the outermost memory's port.
        mapping: text of the mapping.
        points, evaluated, optimal: how it was found, as in `SearchResult`.
        sizing: (path, number) pairs: the size chosen for a machine that is still to be built.
        failure: why nothing fits; then the numbers are infinite.
    """

    latency_cycles: float = math.inf
    latency_s: float = math.inf
    energy_pj: float | None = math.inf
    dram_bytes: float = math.inf
    mapping: str = ""
    points: int = 0
    evaluated: int = 0
    optimal: bool = False
    sizing: tuple[Override, ...] = ()
    failure: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as a JSON object; `from_json` reads it back."""
        return {"failure": self.failure} if self.failure else dict(vars(self))

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Outcome:
        """Read an outcome.

        Raises:
            TypeError: the object is none.
        """
        return Outcome(**{**data, "sizing": tuple(map(tuple, data.get("sizing", ())))})


@dataclass(frozen=True)
class Plan:
    """Every point of a sweep, in order, with its task.

    Args:
        cascade: name of the cascade.
        text: the cascade in notation, with its constants.
        options: format and objective.
        axes: what is swept.
        points, tasks: one of each for every point; the last axis changes fastest.
    """

    cascade: str
    text: str
    options: Options
    axes: tuple[Axis, ...]
    points: tuple[Point, ...]
    tasks: tuple[Task, ...]

    def shown(self, point: Point) -> tuple[str, ...]:
        """Return the values of a point as people write them."""
        pairs = zip(self.axes, point.values, strict=True)
        return tuple(value_text(each.kind, value) for each, (_, value) in pairs)


def plan(
    cascade: Cascade,
    machines: Mapping[str, Target],
    axes: Sequence[Axis],
    *,
    shapes: Mapping[str, int] | None = None,
    options: Options | None = None,
) -> Plan:
    """Lay out a sweep: every combination of values, the last axis changing fastest.

    Args:
        cascade: with its constants.
        machines: name → machine; a ``target`` axis chooses among them, else there is one.
        axes: what is swept.
        shapes: extents that all points share.
        options: format and objective.

    Raises:
        CascadeError: a shape is missing.
        PenstockError: two parameters contradict each other, or there are too many points.
        TargetError: a number cannot be one of a machine, or a machine lacks the areas or energies
            that the objective needs.
    """
    count = math.prod(len(each.values) for each in axes)
    if count > MAX_VALUES:
        raise PenstockError(
            f"the sweep has {count:,} points, more than {MAX_VALUES:,}", fix="sweep fewer values"
        )
    text, chosen = str(cascade), options or Options()
    points, tasks = list[Point](), list[Task]()
    changed = cache(partial(_changed, machines))
    for values in itertools.product(*(each.values for each in axes)):
        point, target = _point(tuple(zip(axes, values, strict=True)), changed, shapes or {})
        _bound(text, point.shapes)
        _check_objective(target, point, chosen)
        points.append(point)
        tasks.append(Task(text, target, point.shapes, chosen))
    return Plan(cascade.name, text, chosen, tuple(axes), tuple(points), tuple(tasks))


def _check_objective(target: Target, point: Point, options: Options) -> None:
    if options.objective != "area":
        target.check_energies(options.objective)
    elif point.area_um2 is None:
        raise TargetError(
            f"{target.name} has no areas, which the objective area needs",
            fix="take another objective, or a copy of the machine with area_um2",
        )


def _point(
    values: tuple[tuple[Axis, float | str], ...],
    changed: Callable[[str, tuple[Override, ...]], tuple[Target, tuple[Override, ...]]],
    shapes: Mapping[str, int],
) -> tuple[Point, Target]:
    name = next((str(value) for each, value in values if each.kind == "target"), "")
    extents = {each.name: int(value) for each, value in values if each.kind == "shape"}
    target, changes = changed(
        name,
        tuple(
            (each.name, float(value))
            for each, value in values
            if each.kind not in ("target", "shape")
        ),
    )
    point = Point(
        values=tuple((each.name, value) for each, value in values),
        machine=target.name,
        overrides=changes,
        shapes=tuple(sorted({**shapes, **extents}.items())),
        area_um2=area_um2(target),
    )
    return point, target


def _changed(
    machines: Mapping[str, Target], name: str, numbers: tuple[Override, ...]
) -> tuple[Target, tuple[Override, ...]]:
    """Return a machine with its parameters set, and the numbers that this changes."""
    target = machines[name] if name else next(iter(machines.values()))
    changes = overrides(target, numbers)
    for path, number in changes:
        target = target.override(path, number)
    return target, changes


def evaluate(task: Task) -> Outcome:
    """Find the best mapping of one point.

    Raises:
        PenstockError: this worker's penstock is another version, or the format is none. Of the
            base class, since others do not survive the way from one process to another.
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    if task.version != __version__:
        raise PenstockError(
            f"a worker has penstock {__version__}, the sweep needs {task.version}",
            fix=f"install penstock=={task.version} on every worker",
        )
    bound = _bound(task.cascade, task.shapes)
    try:
        fmt = run_format(parse_format(task.options.format or task.target.format))
        wanted = task.options.objective
        objective = "latency" if wanted == "area" else wanted
        found = explore(bound, task.target, fmt, objective=objective)
        if found.interrupted:
            raise KeyboardInterrupt
    except MappingError as error:
        return Outcome(failure=error.what)
    except PenstockError as error:
        raise PenstockError(error.what, span=error.span, fix=error.fix) from None
    model = found.evaluation
    return Outcome(
        latency_cycles=float(model.latency_cycles),
        latency_s=float(model.latency_s),
        energy_pj=float(model.energy_pj) if model.energy else None,
        dram_bytes=float(model.dram_bytes),
        mapping=str(found.mapping),
        points=found.points,
        evaluated=found.evaluated,
        optimal=found.optimal,
        sizing=task.target.in_format(fmt.name).sizing_of(found.target),
    )


@lru_cache(maxsize=256)
def _bound(text: str, shapes: tuple[tuple[str, int], ...]) -> Bound:
    """Bind the cascade once for all the machines that a process maps it to."""
    return bind(_parsed(text), shapes=dict(shapes))


@lru_cache(maxsize=16)
def _parsed(text: str) -> Cascade:
    return parse(text, file="cascade")


@lru_cache(maxsize=4096)
def _target_text(target: Target) -> str:
    return target_to_json(target)

"""Simulate a mapped design: cycles, stalls by cause, what each array did when, and the values.

This is *cycle-level*: each tile task takes the cycles that its loops and operators need, plus
pipeline depth, wavefront skew, buffer hazards and memory ports in use, which the analytical model
leaves out. It may not be called cycle-accurate before generated RTL was simulated to the same
count (DESIGN 6).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.shapes import Bound
from penstock.mapper.check import check_timed
from penstock.mapper.nodes import Mapping
from penstock.metrics import Metric
from penstock.sim.engine import Event, Progress
from penstock.sim.periods import EPSILON
from penstock.sim.plan import planned
from penstock.sim.steady import Known, Run, steady, whole
from penstock.sim.tasks import Traffic, collection_paused
from penstock.sim.values import values
from penstock.sim.walk import MAX_TASKS
from penstock.targets.base import Target

__all__ = ["MAX_TASKS", "Simulation", "UnitUse", "simulate"]


@dataclass(frozen=True)
class UnitUse:
    """How one array or memory port spent the run, in cycles.

    ``busy_cycles + sum of stalls + idle_cycles`` (nothing left to do) is the run's length.
    """

    unit: str
    busy_cycles: float
    stalls: MappingABC[str, float]
    idle_cycles: float
    busy_by_task: MappingABC[str, float]


@dataclass(frozen=True)
class Simulation:
    """The result of a simulation.

    Args:
        cycles: until the last result is ready.
        units: what each array and memory port did.
        events: every task in time, in order of start.
        outputs: tensor → values, as the simulated order computed them.
        skipped: tiles that predicates made empty.
        clock_hz: of the arrays.
        traffic: (memory, tensor, direction) → bytes through the memory's port.
        first_output, last_output: the cycles in which the first and the last tile of an output
            of the cascade is ready.
        simulated_cycles: those of them that were simulated; the others repeat these, and
            `events` does not have them.
    """

    cycles: float
    units: tuple[UnitUse, ...]
    events: tuple[Event, ...]
    outputs: MappingABC[str, NDArray[Any]]
    skipped: int
    clock_hz: float
    traffic: Traffic = field(default_factory=dict)
    first_output: float = 0.0
    last_output: float = 0.0
    simulated_cycles: float = 0.0

    def bytes_at(self, memory: str) -> float:
        """Return the bytes read from and written to a memory."""
        return sum(size for (name, _, _), size in self.traffic.items() if name == memory)

    def metrics(self) -> tuple[Metric, ...]:
        """Return latency and utilisations, with evidence ``simulation``."""
        rows = [
            Metric("latency", self.cycles, "cycles", "simulation"),
            Metric("latency_s", self.cycles / self.clock_hz, "s", "simulation"),
            Metric("first_output", self.first_output, "cycles", "simulation"),
            Metric("output_span", self.last_output - self.first_output, "cycles", "simulation"),
        ]
        rows += [
            Metric(f"busy_{each.unit}", each.busy_cycles / self.cycles, "of cycles", "simulation")
            for each in self.units
            if self.cycles
        ]
        return tuple(rows)


def simulate(
    mapping: Mapping,
    bound: Bound,
    target: Target,
    fmt: Format,
    inputs: MappingABC[str, NDArray[Any]] | None,
    progress: Progress | None = None,
    *,
    full: bool = False,
    known: Known | None = None,
) -> Simulation:
    """Run a design cycle by cycle and compute its values.

    Args:
        mapping: legal for `bound` on `target` (`mapper.check`).
        bound: the cascade with its extents; with values keep them small, each tile is one event.
        target: the machine.
        fmt: the number format of all tensors.
        inputs: tensor → array; None for time alone, where what repeats is simulated once.
        progress: called with (tasks done, tasks in all).
        full: simulate what repeats again and again all the same.
        known: shorter runs that were simulated before; is filled (`steady.Known`).

    Raises:
        MappingError: a mapping with shared spatial loops or with what only the model has, a
            deadlock, or more than `MAX_TASKS` tiles.
        DataError: the arrays do not fit the cascade.
    """
    check_timed(mapping)
    with collection_paused():
        plan = planned(mapping, bound, target, fmt)
        every = full or inputs is not None
        run = whole(plan, progress) if every else steady(plan, progress, known)
    events, skips = run.timed.events, run.trace.skips
    outputs = {} if inputs is None else values(bound, fmt, inputs, events, skips)
    first, last = _outputs(run, bound)
    return Simulation(
        run.cycles,
        _use(run),
        events,
        outputs,
        len(skips),
        target.clock_hz,
        run.traffic(),
        first,
        last,
        run.timed.cycles,
    )


def _outputs(run: Run, bound: Bound) -> tuple[float, float]:
    """Return when the first and the last tile of an output is ready."""
    names = {each.tensor for each in bound.cascade.outputs}
    ready = [each.ready for each in run.timed.events if each.task.name in names]
    return (run.at(min(ready)), run.at(max(ready))) if ready else (0.0, 0.0)


def _use(run: Run) -> tuple[UnitUse, ...]:
    by_unit: dict[str, list[tuple[Event, int]]] = defaultdict(list)
    events = run.timed.events
    for event, times in zip(events, run.times(), strict=True):
        by_unit[event.task.unit].append((event, times))
    return tuple(_unit(unit, mine, run) for unit, mine in by_unit.items())


def _unit(unit: str, events: list[tuple[Event, int]], run: Run) -> UnitUse:
    stalls: dict[str, float] = defaultdict(float)
    work: dict[str, float] = defaultdict(float)
    for event, times in events:
        work[event.task.name] += times * event.task.cycles
        stall = event.stall_cycles
        if stall:
            stalls[event.cause] += times * run.between(event.start - stall, event.start)
        late = event.end - event.start - event.task.cycles
        if event.task.computes and event.held:
            stalls[f"bandwidth of {event.held}"] += times * late
        elif not event.task.computes and late > EPSILON:
            stalls["refresh"] += times * late
    last = run.at(max(event.end for event, _ in events))
    return UnitUse(unit, sum(work.values()), dict(stalls), run.cycles - last, dict(work))

"""A simulation as a trace for Perfetto (ui.perfetto.dev) or chrome://tracing.

The format is the JSON of Chrome's trace events: one thread for each array and memory port, one
complete event ("X") for each task, a counter ("C") for the tiles in flight. A cycle is shown as a
microsecond. Excluded: running the design.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from penstock.sim.engine import Event
from penstock.sim.simulate import Simulation

__all__ = ["perfetto"]

PROCESS = 1


def perfetto(found: Simulation, name: str) -> dict[str, Any]:
    """Return the trace of a simulation.

    Args:
        found: what was simulated; what only repeats is not in it.
        name: of the design, for the viewer.
    """
    threads = {each.unit: number for number, each in enumerate(found.units, 1)}
    events = [_name("process_name", 0, name)]
    events += [_name("thread_name", number, unit) for unit, number in threads.items()]
    events += [_task(each, threads[each.task.unit]) for each in found.events]
    events += _in_flight(found)
    data = {"cycles": found.cycles, "simulated_cycles": found.simulated_cycles}
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": data}


def _name(what: str, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "pid": PROCESS, "tid": thread, "name": what, "args": {"name": name}}


def _task(event: Event, thread: int) -> dict[str, Any]:
    task = event.task
    args: dict[str, Any] = {name: f"{start}..{stop - 1}" for name, (start, stop) in task.box}
    args |= {"task": task.number, "ready": event.ready}
    if event.stall_cycles:
        args |= {"stall_cycles": event.stall_cycles, "stall_cause": event.cause}
    if event.held:
        args["held_by"] = event.held
    return {
        "ph": "X",
        "pid": PROCESS,
        "tid": thread,
        "name": task.name,
        "cat": task.kind,
        "ts": event.start,
        "dur": event.end - event.start,
        "args": args,
    }


def _in_flight(found: Simulation) -> Iterator[dict[str, Any]]:
    """Yield how many results of each Einsum are on their way through an array."""
    moments: list[tuple[float, str, int]] = []
    for event in found.events:
        if event.task.computes:
            moments += [(event.start, event.task.name, 1), (event.ready, event.task.name, -1)]
    now: Counter[str] = Counter()
    for at, name, change in sorted(moments):
        now[name] += change
        args = dict(sorted(now.items()))
        yield {"ph": "C", "pid": PROCESS, "name": "tiles in flight", "ts": at, "args": args}

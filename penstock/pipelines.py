"""The tasks of an HLS kernel in time: what `sim.pipeline` says of them, for files and reports.

`codegen` makes tasks and their schedules, `sim` runs them; they meet here. Excluded: both of these.
"""

from __future__ import annotations

from penstock.codegen.backends import Timing
from penstock.codegen.hls.generate import tasks_of
from penstock.codegen.hls.pragmas import HlsNotes
from penstock.codegen.loops.nodes import Program
from penstock.codegen.timing.timeline import Timeline, timeline
from penstock.sim.pipeline import Network, Process, minimal_depths, run_pipeline

__all__ = ["kernel_network", "kernel_timing"]


def kernel_network(program: Program, clock_hz: float) -> tuple[Network, dict[str, Timeline]]:
    """Return the tasks of a program as processes, and the schedule of each."""
    tasks = tasks_of(program)
    hardware = HlsNotes.of(tasks, clock_hz).hardware
    lines = {task.name: timeline(task.body, hardware) for task in tasks.tasks}
    found = (Process(n, max(1, each.steps), each.reads, each.writes) for n, each in lines.items())
    return Network(tuple(found)), lines


def kernel_timing(program: Program, clock_hz: float) -> Timing:
    """Return how the tasks of a program run, with the depths that its kernel gets.

    A stream is as deep as full speed needs (a power of two, or all that ever is in it), two tokens
    at least (one is written while one is read), or as the tile that the mapping keeps besides
    the one in use.
    """
    network, lines = kernel_network(program, clock_hz)
    streams = tasks_of(program).streams
    free, least = run_pipeline(network), minimal_depths(network)
    room = 2
    while True:
        wanted = {name: max(least[name], min(room, free.peaks[name])) for name in streams}
        depths = {name: max(each.depth, wanted[name]) for name, each in streams.items()}
        run = run_pipeline(network, depths)
        if run.cycles <= free.cycles or room >= max(free.peaks.values()):
            break
        room *= 2
    return Timing(
        run.cycles,
        depths,
        least,
        dict(run.ends),
        tuple(
            (task, stream, state, cycles)
            for task, waits in run.stalls.items()
            for (stream, state), cycles in waits.items()
        ),
        tuple(
            (task, each.loop, each.pipelined.interval, each.pipelined.cause, each.steps)
            for task, line in lines.items()
            for each in line.loops
        ),
    )

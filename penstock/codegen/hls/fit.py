"""Whether the HLS project of a program fits its part, and what a search should leave room for.

The mapper counts the operators of a mapping (`mapper/resources.py`), a project everything that is
printed (`resources.py`), both with the table of `targets/cores.py`. Where the second is too much
for a part, the search is repeated with so much less room for the first. Excluded: searching.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from penstock.codegen.hls.generate import tasks_of
from penstock.codegen.hls.pragmas import HlsNotes
from penstock.codegen.hls.resources import exceeded, kernel_constructs, uses
from penstock.codegen.loops.nodes import Program
from penstock.targets.base import Memory, Target

__all__ = ["excess", "with_less"]

SPARE = 0.95
"""What is left of a share of the room: counts do not shrink evenly."""

OPERATORS = 0.2
"""Where operators take no more than this share of a part, something else is too much."""


def excess(program: Program, target: Target) -> dict[str, float]:
    """Return how many times too much the project of a program takes, for what is too much.

    Raises:
        PenstockError: no project can be made of it; says why.
    """
    tasks = tasks_of(program)
    used = uses(kernel_constructs(tasks, HlsNotes.of(tasks, target.clock_hz)))
    has = dict(target.resources)
    return {name: count / max(1, has[name]) for name, count in exceeded(used, has).items()}


def with_less(
    target: Target,
    taken: Mapping[str, float],
    times: Mapping[str, float],
    has: Mapping[str, int],
) -> Target:
    """Return a part with room for less, so that what is found next is smaller.

    Args:
        target: as the last search saw it.
        taken: LUT, FF and DSP of what that found, as the mapper counts.
        times: what `excess` returned; not empty.
        has: of the part itself.
    """
    room, memories = dict(target.resources), target.memories
    operators = {name for name in times if taken.get(name, 0.0) > has[name] * OPERATORS}
    if operators != times.keys():  # banks, which follow the places and what is kept
        most = max(times.values())
        memories = tuple(_smaller(each, most) for each in memories)
        room["DSP"] = _share(min(room.get("DSP", math.inf), taken["DSP"]), most)
    for name in operators:
        room[name] = _share(min(room[name], taken[name]), times[name])
    return replace(target, resources=tuple(room.items()), memories=memories)


def _share(of: float, times: float) -> int:
    return max(1, int(of * SPARE / times))


def _smaller(memory: Memory, times: float) -> Memory:
    """Return a shared memory that is made of blocks with less capacity."""
    if memory.array or not memory.uses:
        return memory
    return replace(memory, capacity_bytes=memory.capacity_bytes * SPARE / times)

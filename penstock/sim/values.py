"""The values of a simulation: tiles computed in the order of simulated time.

Each tile is computed when its task starts, and only if its operands are there by then: for each
element is noted when it is ready. A task that was started too early leaves its tile undefined, so
agreement with the interpreter checks the schedule, independently of what the tasks waited for.
A tile that comes again, because a loop around it does not concern it, has the same values again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.interpreter.interp import Evaluator
from penstock.einsum_ir.nodes import Access, Einsum, variables
from penstock.einsum_ir.shapes import Bound
from penstock.sim.engine import Event
from penstock.sim.geometry import Reach
from penstock.sim.tasks import Box, Skip

__all__ = ["values"]


def values(
    bound: Bound,
    fmt: Format,
    inputs: Mapping[str, NDArray[Any]],
    events: Sequence[Event],
    skips: Sequence[Skip],
) -> dict[str, NDArray[Any]]:
    """Compute the outputs.

    Args:
        bound: the cascade with its extents.
        fmt: number format of all tensors.
        inputs: tensor → array.
        events: in order of start.
        skips: tiles without effect.

    Raises:
        DataError: the arrays do not fit the cascade.
    """
    machine = _Values(bound, fmt, inputs)
    after: dict[int, list[Skip]] = defaultdict(list)
    for skip in skips:
        after[skip.after].append(skip)
    for skip in after[-1]:
        machine.skip(skip)
    for event in events:
        if event.task.computes:
            machine.run(event)
            for skip in after.get(event.task.number, ()):
                machine.skip(skip)
    return machine.outputs()


class _Values:
    """An evaluator, and when each element is ready; lives only inside `values`."""

    def __init__(self, bound: Bound, fmt: Format, inputs: Mapping[str, NDArray[Any]]) -> None:
        self.evaluator = Evaluator(bound, inputs, fmt)
        self.iterative = bound.cascade.iterative
        self.einsums = {(each.name, each.init): each for each in bound.cascade.einsums}
        self.open: dict[str, dict[Box, None]] = defaultdict(dict)
        self.ready = {each.name: np.zeros(bound.dims[each.name]) for each in bound.cascade.einsums}
        self.reads = {
            key: tuple(Reach([access], bound) for access in _made(each, self.ready))
            for key, each in self.einsums.items()
        }
        self.writes = {key: Reach([each.output], bound) for key, each in self.einsums.items()}
        self.early: dict[int, tuple[str, float]] = {}  # how long before `ready` in its place
        self.seen: set[tuple[str, Box]] = set()

    def run(self, event: Event) -> None:
        """Compute the tile of a task, if its operands are there."""
        task = event.task
        self.early[task.number] = (task.name, task.latency - task.near_latency)
        if (task.name, task.box) in self.seen:
            return
        self.seen.add((task.name, task.box))
        key, box = (task.name, task.kind == "init"), dict(task.box)
        self.ready[task.name][self.writes[key].block(box).slices] = event.ready
        early: dict[str, float] = {}
        for number in set(task.near) & set(task.needs):
            tensor, cycles = self.early[number]
            early[tensor] = max(cycles, early.get(tensor, 0.0))
        starts = (event.start + early.get(each.tensor, 0.0) for each in self.reads[key])
        reads = zip(self.reads[key], starts, strict=True)
        if not all(self._there(each, box, start) for each, start in reads):
            return
        for each in self.reads[key]:
            self.finish(each.tensor)
        einsum = self.einsums[key]
        self.evaluator.compute(einsum, box)
        if einsum.reduce is not None and not einsum.init:
            kept = variables(einsum.output)
            self.open[task.name][tuple((name, box[name]) for name in kept)] = None

    def _there(self, read: Reach, box: dict[str, tuple[int, int]], start: float) -> bool:
        found = self.ready[read.tensor][read.block(box).slices]
        return float(found.max(initial=0.0)) <= start

    def finish(self, tensor: str) -> None:
        """Round the sums of a tensor so far, before somebody reads them."""
        boxes = self.open.get(tensor)
        if boxes:
            for box in boxes:
                self.evaluator.finish(self.einsums[tensor, False], dict(box))
            boxes.clear()

    def skip(self, skip: Skip) -> None:
        """Leave a tile absent, or a state as it was."""
        self.finish(skip.name)
        self.evaluator.skip(self.einsums[skip.name, False], dict(skip.box))
        if skip.name in self.iterative:
            self._carry(skip)

    def _carry(self, skip: Skip) -> None:
        variable, place = self.iterative[skip.name]
        ready, box = self.ready[skip.name], dict(skip.box)
        for step in range(*box[variable]):
            now = self.writes[skip.name, False].block({**box, variable: (step, step + 1)})
            before = list(now.slices)
            before[place] = slice(step, step + 1)
            ready[now.slices] = ready[tuple(before)]

    def outputs(self) -> dict[str, NDArray[Any]]:
        """Return the outputs of the cascade."""
        for tensor in list(self.open):
            self.finish(tensor)
        return self.evaluator.outputs()


def _made(einsum: Einsum, known: Mapping[str, NDArray[Any]]) -> tuple[Access, ...]:
    """Return the operands that Einsums define."""
    return tuple(access for access in einsum.operands if access.tensor in known)

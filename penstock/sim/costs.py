"""What one visit of a leaf takes: cycles, latency, and bytes through the ports of memories.

Steps in time and operands of a visit are defined once, in `mapper/model/leafcount.py`. What is
added here is what the model leaves out: the depth of the pipelines, the wavefront that passes
through a skewed array, and the tree that reduces along lanes. Excluded: which visits there are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from penstock.einsum_ir.nodes import Einsum, variables
from penstock.einsum_ir.ops import OPERATORS
from penstock.einsum_ir.work import output_ops, point_ops
from penstock.mapper.facts import Use
from penstock.mapper.model.leafcount import elements, steps_in_time
from penstock.mapper.model.tiles import Pace
from penstock.mapper.nodes import Compute
from penstock.targets.base import Array, Memory, Target

__all__ = ["Cost"]


@dataclass(frozen=True)
class Cost:
    """The costs of one leaf, by the sizes of its visits.

    Args:
        leaf: the leaf.
        einsum: what it computes.
        target: the machine.
        paces: its own loops as the counting sees them.
        every: cycles between two of its steps, at least (`mapper/model/recurrence.py`).
        late: cycles from its last step until its result is there, at least (the same).
        shares: operand → the share of its accesses in range, over all visits.
    """

    leaf: Compute
    einsum: Einsum
    target: Target
    paces: tuple[Pace, ...]
    every: int = 1
    shares: Mapping[Use, float] = field(default_factory=dict)
    late: float = 0.0

    @cached_property
    def array(self) -> Array:
        """Where it runs."""
        return self.target.array(self.leaf.array)

    def cycles(self, sizes: Mapping[str, int], *, opens: bool) -> float:
        """Return the cycles that a visit takes the array.

        Args:
            sizes: variable → coordinates.
            opens: whether its output elements are new; those have operators of their own.
        """
        steps = steps_in_time(self.paces, sizes, self.einsum.variables)
        each = self._of(point_ops(self.einsum), least=1.0) * self._waits(sizes)
        total = steps * max(each, self.every)
        if opens:
            kept = variables(self.einsum.output)
            whole = steps_in_time(self.paces, sizes, kept)
            total += whole * self._of(output_ops(self.einsum), least=0.0)
        return total

    def _waits(self, sizes: Mapping[str, int]) -> float:
        """Return how many times longer operations take that wait for the one before.

        A place takes up to as many independent results in turn as its visit has: all of its
        steps in time, or, if it adds up in time, those inside of the innermost such loop.
        """
        late = self.array.result_cycles
        if late == 1:
            return 1.0
        summed = self.einsum.reduce.over if self.einsum.reduce else ()
        independent = steps_in_time(self.paces, sizes, self.einsum.variables)
        for place, pace in reversed(list(enumerate(self.paces))):
            inner = {name: sizes[name] for name in sizes}
            for outer in self.paces[: place + 1]:
                inner[outer.variable] = min(inner[outer.variable], outer.tile)
            if not pace.side and pace.variable in summed and pace.tile < sizes[pace.variable]:
                names = self.einsum.variables
                independent = steps_in_time(self.paces[place + 1 :], inner, names)
                break
        return max(1.0, late / independent)

    def init_cycles(
        self, init: Einsum, names: Mapping[str, str], sizes: Mapping[str, int]
    ) -> float:
        """Return the cycles of the ``init`` Einsum; a constant or a copy is a reset and free.

        Args:
            init: the Einsum of the first coordinate.
            names: its output variables → those of the step, whose loops it uses.
            sizes: variable of the init → coordinates.
        """
        ops = point_ops(init)
        if not ops:
            return 0.0
        mine = {names[name]: sizes[name] for name in variables(init.output)}
        reduced = math.prod(sizes[name] for name in (init.reduce.over if init.reduce else ()))
        return steps_in_time(self.paces, mine, tuple(mine)) * reduced * self._of(ops, least=1.0)

    def init_latency(self, init: Einsum) -> int:
        """Return the cycles from the end of the ``init`` Einsum until it can be read."""
        return self.near_latency if point_ops(init) else 0

    def _of(self, ops: Mapping[str, int], least: float) -> float:
        costs, ports = dict(self.array.cycles), self.array.operand_ports
        times = {op: math.ceil(operands(op, costs[op]) / ports) if ports else 1 for op in ops}
        return sum(count * costs[op] * times[op] for op, count in ops.items()) if ops else least

    @property
    def near_latency(self) -> int:
        """Cycles from the end of a visit in a place until it can use the results there."""
        depth = max(0, self.array.depth_cycles - 1) + self.array.result_cycles - 1
        step = max(self.every, self._of(point_ops(self.einsum), least=1.0))
        return max(depth, math.ceil(self.late - step))

    def latency(self, sizes: Mapping[str, int]) -> int:
        """Return the cycles from the end of a visit until all its results can be read.

        The first result comes out ``depth_cycles`` after the first operand went in, which is
        within the visit's first cycle if that is 1. A wavefront reaches the last place along
        each axis as many cycles later as there are places before it, or as their operations take
        that add up along the axis. Lanes that are not skewed reduce in a tree, one operator for
        each doubling.
        """
        latency = self.near_latency
        reduced = self.einsum.reduce.over if self.einsum.reduce else ()
        for axis, names in self._along().items():
            places = places_side_by_side(self, names, sizes, axis)
            adds = any(name in reduced for name in names)
            if self.array.skewed:
                latency += (places - 1) * (self.array.result_cycles if adds else 1)
            elif adds:
                step = self.array.depth_cycles + self.array.result_cycles - 1
                latency += math.ceil(math.log2(places)) * step
        return latency

    def _along(self) -> dict[str, tuple[str, ...]]:
        """Return axis → variables that lie along it."""
        found: dict[str, tuple[str, ...]] = {}
        for loop in self.leaf.loops:
            if loop.spatial:
                found[loop.axis] = (*found.get(loop.axis, ()), loop.variable)
        return found

    def read(self, use: Use, memory: Memory, sizes: Mapping[str, int]) -> float:
        """Return the elements that a visit reads of an operand; a share of them if out of range."""
        count = elements(use, self.paces, sizes, self.apart(memory))
        return count * self.shares.get(use, 1.0)

    def written(self, use: Use, sizes: Mapping[str, int]) -> int:
        """Return the elements that a visit writes."""
        return elements(use, self.paces, sizes)

    def apart(self, memory: Memory) -> frozenset[int]:
        """Return the loops along which each place has its own instance of a memory."""
        axes = self.target.spread(memory) if memory.array == self.leaf.array else None
        names = {axis.name for axis in axes or ()}
        return frozenset(n for n, loop in enumerate(self.leaf.loops) if loop.axis in names)

    def replicas(self, memory: Memory, relevant: frozenset[str], sizes: Mapping[str, int]) -> int:
        """Return in how many places each element of an operand is kept.

        Args:
            memory: where it is kept.
            relevant: the variables that decide which element is meant.
            sizes: variable → coordinates of a full visit.
        """
        left, total, apart = dict(sizes), 1, self.apart(memory)
        for number, loop in enumerate(self.leaf.loops):
            if number in apart and loop.variable not in relevant:
                steps = -(-left[loop.variable] // loop.tile)
                total *= min(self.array.axis(loop.axis).size, steps)
            left[loop.variable] = min(left[loop.variable], loop.tile)
        return total


def operands(op: str, cycles: float) -> int:
    """Return the words that a place reads in each cycle of an operator.

    A multiply-add reads three, and so does each step of a function that is a chain of them.
    """
    arity = OPERATORS[op].arity if op in OPERATORS else 2
    return 3 if op == "mac" or (arity == 1 and cycles > 1) else arity


def places_side_by_side(
    cost: Cost, names: tuple[str, ...], sizes: Mapping[str, int], axis: str
) -> int:
    """Return how many places along an axis work in a visit."""
    left, total = dict(sizes), 1
    for loop in cost.leaf.loops:
        if loop.axis == axis and loop.variable in names:
            total *= max(1, -(-left[loop.variable] // loop.tile))
        left[loop.variable] = min(left[loop.variable], loop.tile)
    return min(total, cost.array.axis(axis).size)

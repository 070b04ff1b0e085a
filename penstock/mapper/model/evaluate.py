"""What a mapping costs, by counting its loop nest: cycles, traffic, occupancy, energy.

The rules, in words. A leaf takes its array, for each visit, (steps of its loops in time) x (cycles
of one point); a plain copy takes one cycle a point, a step on an FPGA that waits for an earlier
one as long as that takes (`recurrence.py`). Nodes of a body run one after another; a
pipelined loop takes its initiation interval for each iteration (`interval.py`). Latency is the
largest of the schedule and, for each memory, bytes moved / bandwidth; where the mapping has a loop
``alone``, that of each part by itself, added up. Kept tiles move when they
change (`moves.py`), operands are read when they change (`leafcount.py`), empty tiles are skipped
(`visits.py`). Excluded, and charged by the simulator only: filling and draining of pipelines and
wavefronts (but where a leaf is ``drained``), latency of operators, waits for buffers and for memory
phases.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from dataclasses import dataclass
from typing import Any

from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.shapes import Bound
from penstock.mapper.facts import Facts, facts_of
from penstock.mapper.model.counting import LeafCount, Traffic, count_leaves, count_traffic
from penstock.mapper.model.interval import (
    Interval,
    Task,
    Wait,
    initiation_interval,
    phased_interval,
    phased_starts,
    starts,
)
from penstock.mapper.model.occupancy import Occupancy, occupancies
from penstock.mapper.model.tiles import sizes
from penstock.mapper.model.visits import Visits
from penstock.mapper.nodes import Keep, Mapping, Nest
from penstock.mapper.nodes import leaves as leaves_of
from penstock.mapper.scopes import Leaf, Tree, tree_of
from penstock.metrics import Metric
from penstock.targets.base import Target

__all__ = ["EnergyRow", "Evaluation", "LeafCount", "Part", "Pipeline", "Traffic", "evaluate"]


@dataclass(frozen=True)
class Pipeline:
    """A pipelined loop: its iterations in the whole run, their interval, and what sets it."""

    loop: str
    iterations: float
    interval_cycles: float
    binding: str
    array_cycles: MappingABC[str, float]
    tasks: tuple[Task, ...] = ()
    waits: tuple[Wait, ...] = ()
    phases: int = 0

    @property
    def starts(self) -> tuple[float, ...]:
        """When each task starts in an interval, in cycles (`interval.starts`)."""
        if self.phases:
            return phased_starts(self.tasks, self.phases)
        return starts(self.tasks, self.waits, self.interval_cycles)

    @property
    def cycles(self) -> float:
        """Cycles that the loop takes in the whole run."""
        return self.iterations * self.interval_cycles


@dataclass(frozen=True)
class Part:
    """Part of a run that overlaps with nothing outside it: a loop that is ``alone``."""

    compute_cycles: float
    memory_cycles: MappingABC[str, float]

    @property
    def cycles(self) -> float:
        """Cycles that it takes."""
        return max(self.compute_cycles, *self.memory_cycles.values())


@dataclass(frozen=True, slots=True)
class EnergyRow:
    """Energy of one action of one component: ``EnergyRow("pe2d", "mac", 4096, 70305.8)``.

    ``count`` is in operations for arrays and in bytes for memories.
    """

    component: str
    action: str
    count: float
    pj: float


@dataclass(frozen=True)
class Evaluation:
    """What the model says of a mapping.

    Args:
        leaves: what each Einsum does.
        traffic: what each tensor moves at each memory, in elements.
        pipelines: the pipelined loops.
        occupancy: the fullest moment of each memory.
        energy: by component and action; empty if the machine does not have all energies.
        compute_cycles: of the schedule alone.
        memory_cycles: memory → cycles that its port needs.
        places: array → processing elements.
        clock_hz: of the arrays.
        element_bytes: tensor → bytes of one element.
        dram: name of the outermost memory.
        parts: what runs one after another without any overlap; () if all may overlap.
    """

    leaves: tuple[LeafCount, ...]
    traffic: tuple[Traffic, ...]
    pipelines: tuple[Pipeline, ...]
    occupancy: tuple[Occupancy, ...]
    energy: tuple[EnergyRow, ...]
    compute_cycles: float
    memory_cycles: MappingABC[str, float]
    places: MappingABC[str, int]
    clock_hz: float
    element_bytes: MappingABC[str, float]
    dram: str
    parts: tuple[Part, ...] = ()

    @property
    def latency_cycles(self) -> float:
        """Cycles from the first input to the last output."""
        if self.parts:
            return sum(part.cycles for part in self.parts)
        return max(self.compute_cycles, *self.memory_cycles.values())

    @property
    def latency_s(self) -> float:
        """The same in seconds."""
        return self.latency_cycles / self.clock_hz

    @property
    def binding(self) -> str:
        """What sets the latency: ``schedule`` or the name of a memory."""
        worst = max(self.memory_cycles, key=lambda name: self.memory_cycles[name])
        if self.memory_cycles[worst] > self.compute_cycles:
            return worst
        return "schedule"

    @property
    def energy_pj(self) -> float:
        """Energy of everything, in picojoules; 0 if the machine has no energies."""
        return sum(row.pj for row in self.energy)

    @property
    def dram_bytes(self) -> float:
        """Bytes that cross the port of the outermost memory."""
        return self.bytes_at(self.dram)

    def bytes_at(self, memory: str) -> float:
        """Return the bytes read from and written to a memory."""
        return sum(
            (row.reads + row.writes) * self.element_bytes[row.tensor]
            for row in self.traffic
            if row.memory == memory
        )

    def energy_by_component(self) -> dict[str, float]:
        """Return array or memory → picojoules."""
        found: dict[str, float] = {}
        for row in self.energy:
            found[row.component] = found.get(row.component, 0.0) + row.pj
        return found

    def busy(self) -> dict[str, float]:
        """Return array → share of the cycles in which it works."""
        found = dict.fromkeys(self.places, 0.0)
        for leaf in self.leaves:
            found[leaf.array] += (leaf.cycles + leaf.init_cycles) / self.latency_cycles
        return found

    def utilisation(self) -> dict[str, float]:
        """Return array → share of its places' cycles in which they work."""
        found = dict.fromkeys(self.places, 0.0)
        for leaf in self.leaves:
            work = leaf.place_cycles / self.places[leaf.array]
            found[leaf.array] += work / self.latency_cycles
        return found

    def metrics(self) -> tuple[Metric, ...]:
        """Return the numbers that sum it up, with evidence ``model``."""
        rows = [("latency", self.latency_cycles, "cycles"), ("latency_s", self.latency_s, "s")]
        rows.append(("dram_bytes", self.dram_bytes, "bytes"))
        if self.energy:
            rows.append(("energy", self.energy_pj, "pJ"))
        rows += [
            (f"utilisation_{name}", value, "of PEs") for name, value in self.utilisation().items()
        ]
        rows += [(f"busy_{name}", value, "of cycles") for name, value in self.busy().items()]
        for pipeline in self.pipelines:
            rows.append(("initiation_interval", pipeline.interval_cycles, "cycles"))
        for each in self.occupancy:
            rows.append((f"occupancy_{each.memory}", each.needed_bytes, "bytes"))
        return tuple(Metric(name, float(value), unit, "model") for name, value, unit in rows)

    def to_json(self) -> dict[str, Any]:
        """Return everything as a JSON object."""
        return {
            "metrics": [each.to_json() for each in self.metrics()],
            "binding": self.binding,
            "compute_cycles": self.compute_cycles,
            "memory_cycles": dict(self.memory_cycles),
            "leaves": [{**vars(each), "operators": dict(each.operators)} for each in self.leaves],
            "traffic": [{**vars(each)} for each in self.traffic],
            "pipelines": [
                {
                    "loop": each.loop,
                    "iterations": each.iterations,
                    "interval_cycles": each.interval_cycles,
                    "binding": each.binding,
                    "array_cycles": dict(each.array_cycles),
                    "tasks": [
                        {"einsum": task.name, "array": task.array, "stage": task.stage}
                        | {"start": start, "cycles": task.cycles}
                        for task, start in zip(each.tasks, each.starts, strict=True)
                    ],
                }
                for each in self.pipelines
            ],
            "occupancy": [
                {
                    "memory": each.memory,
                    "needed_bytes": each.needed_bytes,
                    "capacity_bytes": None
                    if each.capacity_bytes == float("inf")
                    else each.capacity_bytes,
                    "each": each.each,
                    "tensors": dict(each.tensors),
                }
                for each in self.occupancy
            ],
            "energy_pj": self.energy_by_component(),
        }


def evaluate(mapping: Mapping, bound: Bound, target: Target, fmt: Format) -> Evaluation:
    """Count what a mapping costs.

    Args:
        mapping: legal for `bound` on `target` (`check.check`).
        bound: the cascade with its extents.
        target: the machine.
        fmt: number format of the tensors without one of their own.

    Cost: 1 to 3 ms for a dozen Einsums without predicates; with predicates in proportion to the
    number of tiles of the variables that they mention.
    """
    facts, target = facts_of(bound), target.in_format(fmt.name)
    tree = tree_of(mapping, facts, target)
    counted = count_leaves(tree, facts, target, fmt)
    leaves = tuple(leaf for leaf, _ in counted)
    visits = tuple(each for _, each in counted)
    traffic = count_traffic(tree, visits, facts, target)
    pipelines, cycles = _schedule(tree, leaves, facts)
    size = {tensor: facts.element_bytes(tensor, fmt) for tensor in facts.dims}
    return Evaluation(
        leaves,
        traffic,
        pipelines,
        occupancies(tree, facts, target, fmt),
        _energy(leaves, traffic, target, size),
        cycles,
        _memory_cycles(traffic, target, size),
        {array.name: array.places for array in target.arrays},
        target.clock_hz,
        size,
        target.dram.name,
        _parts(mapping, tree, counted, facts, target, size),
    )


def _memory_cycles(
    traffic: tuple[Traffic, ...], target: Target, size: MappingABC[str, float]
) -> dict[str, float]:
    moved = {memory.name: 0.0 for memory in target.memories}
    for row in traffic:
        moved[row.memory] += (row.reads + row.writes) * size[row.tensor]
    return {
        memory.name: moved[memory.name] / (memory.bytes_per_cycle * memory.instances)
        for memory in target.memories
    }


def _parts(
    mapping: Mapping,
    tree: Tree,
    counted: tuple[tuple[LeafCount, Visits], ...],
    facts: Facts,
    target: Target,
    size: MappingABC[str, float],
) -> tuple[Part, ...]:
    """Return what runs one after another: each loop that is alone, and what is between them."""
    if not any(isinstance(node, Nest) and node.alone for node in mapping.body):
        return ()
    groups: list[set[str]] = []
    ended = True
    for node in mapping.body:
        if isinstance(node, Keep):
            continue
        alone = isinstance(node, Nest) and node.alone
        if alone or ended:
            groups.append(set())
        groups[-1] |= {leaf.einsum for _, leaf in leaves_of((node,))}
        ended = alone
    found = []
    for names in groups:
        mine = [n for n, leaf in enumerate(tree.leaves) if leaf.name in names]
        scopes = [scope for scope in tree.scopes if scope.leaves[0].name in names]
        part = Tree([tree.leaves[n] for n in mine], scopes, [])
        _, cycles = _schedule(part, tuple(counted[n][0] for n in mine), facts)
        traffic = count_traffic(part, tuple(counted[n][1] for n in mine), facts, target)
        found.append(Part(cycles, _memory_cycles(traffic, target, size)))
    return tuple(found)


def _schedule(
    tree: Tree, counts: tuple[LeafCount, ...], facts: Facts
) -> tuple[tuple[Pipeline, ...], float]:
    """Return the pipelined loops, and the cycles of the whole schedule."""
    total = sum(count.init_cycles for count in counts)
    groups: dict[int, list[int]] = {}
    for number, leaf in enumerate(tree.leaves):
        depth = leaf.pipelined()
        if depth:
            groups.setdefault(id(leaf.nests[depth - 1]), []).append(number)
        else:
            total += counts[number].cycles
    pipelines = [
        _pipeline([tree.leaves[n] for n in group], [counts[n] for n in group], facts)
        for group in groups.values()
    ]
    return tuple(pipelines), total + sum(each.cycles for each in pipelines)


def _pipeline(leaves: list[Leaf], counts: list[LeafCount], facts: Facts) -> Pipeline:
    depth = leaves[0].pipelined()
    nests = leaves[0].nests[:depth]
    iterations = max(
        _iterations(leaf, count, depth, facts) for leaf, count in zip(leaves, counts, strict=True)
    )
    if not iterations:
        return Pipeline(str(nests[-1].loop), 0.0, 0.0, "nothing to do", {})
    tasks = tuple(
        Task(
            leaf.name,
            leaf.array.name,
            leaf.compute.stage,
            count.cycles / iterations,
            _drain(leaf),
            count.late_cycles / iterations,
        )
        for leaf, count in zip(leaves, counts, strict=True)
    )
    waits, phases = _waits(leaves, nests, facts), nests[-1].phases
    found: Interval = (
        phased_interval(tasks, phases) if phases else initiation_interval(tasks, waits)
    )
    return Pipeline(
        str(nests[-1].loop),
        iterations,
        found.cycles,
        found.binding,
        found.array_cycles,
        tasks,
        waits,
        phases,
    )


def _drain(leaf: Leaf) -> float:
    """Return the cycles in which what is reduced along axes passes all their places.

    One step of the reduction for each place, from neighbour to neighbour.
    """
    reduce = leaf.step.einsum.reduce
    if not leaf.compute.drained or reduce is None:
        return 0.0
    costs = dict(leaf.array.cycles)
    step = sum(count * costs[op] for op, count in leaf.step.ops.items())
    axes = {loop.axis for loop in leaf.compute.loops if loop.axis and loop.variable in reduce.over}
    return sum(leaf.array.axis(axis).size for axis in axes) * step


def _iterations(leaf: Leaf, count: LeafCount, depth: int, facts: Facts) -> float:
    """Return the iterations of the pipelined loop in which a leaf works, in time."""
    paces = leaf.paces[:depth]
    total = 1.0
    for name in {pace.variable for pace in paces}:
        chain = tuple(pace for pace in paces if pace.variable == name)
        total *= sum(sizes(facts.extents[name], chain, in_time=True).values())
    every = count.visits + count.skipped
    return total * count.visits / every if every else 0.0


def _waits(leaves: list[Leaf], nests: tuple[Nest, ...], facts: Facts) -> tuple[Wait, ...]:
    """Return what the leaves directly inside a pipelined loop wait for."""
    depth = len(nests)
    own = {leaf.name: number for number, leaf in enumerate(leaves) if len(leaf.nests) == depth}
    stepped = nests[-1].loop.variable
    found = []
    for number, leaf in enumerate(leaves):
        if len(leaf.nests) != depth:
            continue
        for use in leaf.step.reads:
            maker = own.get(use.tensor)
            if maker is None:
                continue
            lag = _lag(use.tensor, use.dims, facts)
            if lag == 0:
                found.append(Wait(maker, number, 0))
            elif lag > 0 and facts.iterative[use.tensor][0] == stepped:
                found.append(Wait(maker, number, lag))
    return tuple(found)


def _lag(tensor: str, dims: tuple[Any, ...], facts: Facts) -> int:
    """Return how many steps of an iterative rank ago the element read was written; -1: unknown."""
    if tensor not in facts.iterative:
        return 0
    variable, place = facts.iterative[tensor]
    form = dims[place].form
    if form is None or form.coefficients != ((variable, 1),):
        return -1
    return 1 - int(form.constant)


def _energy(
    leaves: tuple[LeafCount, ...],
    traffic: tuple[Traffic, ...],
    target: Target,
    size: MappingABC[str, float],
) -> tuple[EnergyRow, ...]:
    """Return the energy of all operations and all accesses of all instances."""
    if not target.has_energies:
        return ()
    done: dict[tuple[str, str], float] = {}
    for leaf in leaves:
        for op, count in leaf.operators.items():
            done[leaf.array, op] = done.get((leaf.array, op), 0) + count
    rows = [
        EnergyRow(array, op, count, count * dict(target.array(array).energy_pj).get(op, 0.0))
        for (array, op), count in done.items()
    ]
    for memory in target.memories:
        mine = [row for row in traffic if row.memory == memory.name]
        read = sum(row.reads * size[row.tensor] for row in mine)
        written = sum(row.writes * size[row.tensor] for row in mine)
        rows.append(EnergyRow(memory.name, "read", read, read * memory.read_pj_per_byte))
        rows.append(EnergyRow(memory.name, "write", written, written * memory.write_pj_per_byte))
    return tuple(row for row in rows if row.count)

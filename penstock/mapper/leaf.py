"""The loops of one leaf: which variable lies along which axis of the array, and the order.

Excluded: which loops are shared (`forest.py`), where tensors live (`residency.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import product

from penstock.einsum_ir.nodes import Access, Einsum, Var, variables
from penstock.einsum_ir.shapes import Bound
from penstock.einsum_ir.work import output_ops, point_ops
from penstock.errors import MappingError
from penstock.mapper.facts import Step
from penstock.mapper.lanes import Assignment, tiled_loops
from penstock.mapper.nodes import Loop, Nest
from penstock.targets import TARGETS
from penstock.targets.base import Array, Axis, Memory, Target

__all__ = [
    "Assignment",
    "arrays_for",
    "assignments",
    "cycles_of_point",
    "layout_of",
    "leaf_loops",
    "operators",
    "ranked_assignments",
    "reads_back",
    "speedup",
    "threads_own",
]

SPATIAL_REDUCTIONS = frozenset({"sum", "max", "min"})


def operators(einsum: Einsum, bound: Bound) -> dict[str, int]:
    """Return what the array of an Einsum must be able to do, its ``init`` included."""
    found = dict(point_ops(einsum)) | output_ops(einsum)
    for each in bound.cascade.einsums:
        if each.init and each.name == einsum.name:
            found |= {op: found.get(op, 0) for op in point_ops(each)}
    return found


def arrays_for(einsum: Einsum, bound: Bound, target: Target) -> tuple[Array, ...]:
    """Return the arrays that have every operator of an Einsum.

    Raises:
        MappingError: there is none; names the operators that no array has.
    """
    needed = operators(einsum, bound)
    able = tuple(each for each in target.arrays if needed.keys() <= dict(each.cycles).keys())
    if able:
        return able
    offered = {op for each in target.arrays for op, _ in each.cycles}
    missing = sorted(needed.keys() - offered)
    listed = ", ".join(f"'{op}'" for op in missing or sorted(needed))
    where = "no array has" if missing else "no single array has all of"
    raise MappingError(
        f"{einsum.name} cannot run on {target.name}: {where} {listed}",
        span=einsum.span,
        fix=f"split the Einsum, or use a machine with these operators{_able(needed.keys())}",
    )


def _able(needed: Set[str]) -> str:
    """Return which machines have an array with all of these operators."""
    machines = (TARGETS.get(name) for name in TARGETS.names())
    able = [
        each.name for each in machines if any(needed <= dict(a.cycles).keys() for a in each.arrays)
    ]
    return f": {', '.join(able)}" if able else ""


def reads_back(einsum: Einsum, nests: Sequence[Nest]) -> bool:
    """Whether loops around an Einsum cut what it reduces: it reads its partial sums back."""
    reduce = einsum.reduce
    return reduce is not None and any(nest.loop.variable in reduce.over for nest in nests)


def cycles_of_point(einsum: Einsum, array: Array) -> float:
    """Return the cycles that one point takes a place of the array."""
    costs = dict(array.cycles)
    return sum(count * costs[op] for op, count in point_ops(einsum).items())


def _eligible(einsum: Einsum, axis: Axis, remaining: Mapping[str, int]) -> tuple[str, ...]:
    """Return the variables that may lie along an axis and are worth it.

    Reduced ones only in hardware PEs: cores and threads would have to meet, and lanes reduce
    slowly. So are the places of a selection, all of them: each looks at its neighbour.
    """
    if einsum.selects and axis.kind == "simd":  # its compare-and-swap is a branch
        return ()
    names = [
        index.name
        for index in einsum.output.indices
        if isinstance(index, Var) and remaining[index.name] > 1 and index.name != einsum.places
    ]
    if axis.kind == "simd" and names:  # lanes want neighbours: gathers are not in the model
        most = max(_contiguity(einsum, name) for name in names)
        names = [name for name in names if _contiguity(einsum, name) == most]
    if einsum.places and axis.kind == "pe" and 1 < remaining[einsum.places] <= axis.size:
        names.append(einsum.places)
    reduce = einsum.reduce
    if (
        axis.kind == "pe"
        and axis.reduces
        and reduce is not None
        and reduce.op in SPATIAL_REDUCTIONS
    ):
        names += [name for name in reduce.over if remaining[name] > 1]
    return tuple(names)


def assignments(
    einsum: Einsum, array: Array, remaining: Mapping[str, int], taken: Sequence[str] = ()
) -> Iterator[Assignment]:
    """Yield every way to lay variables along the array's free axes, the empty one included.

    Args:
        einsum: what is computed.
        array: where.
        remaining: variable → coordinates that the shared loops leave.
        taken: axes that shared spatial loops use already.
    """
    free = [axis for axis in array.axes if axis.name not in taken and axis.size > 1]
    kinds = {axis.kind for axis in array.axes if axis.name in taken}
    if kinds:  # inside a core or a block no other one is left, inside a thread only its own lanes
        inner = ("simd", "pe") if "thread" in kinds else ("simd", "pe", "thread")
        free = [axis for axis in free if axis.kind in inner]
    options = [("", *_eligible(einsum, axis, remaining)) for axis in free]
    for names in product(*options):
        used = [name for name in names if name]
        if len(used) == len(set(used)):
            yield tuple((axis.name, name) for axis, name in zip(free, names, strict=True) if name)


def speedup(
    assignment: Assignment, array: Array, remaining: Mapping[str, int], taken: Sequence[str] = ()
) -> float:
    """Return the points done per step: along each axis, steps / rounds."""
    steps: dict[str, float] = {}
    for axis, name in assignment:
        extent, size = remaining[name], array.axis(axis).size
        grid = _grid(array, axis, taken)
        if grid is not None and extent > size:
            blocks = math.ceil(extent / size)
            steps[grid.name] = steps.get(grid.name, 1.0) * blocks
            extent = math.ceil(extent / blocks)
        steps[axis] = steps.get(axis, 1.0) * extent
    return math.prod(
        count / math.ceil(count / array.axis(axis).size) for axis, count in steps.items()
    )


def _grid(array: Array, axis: str, taken: Sequence[str]) -> Axis | None:
    """Return the axis of thread blocks if `axis` is one of threads, and blocks are not taken."""
    if array.axis(axis).kind != "thread":
        return None
    return next((e for e in array.axes if e.kind == "block" and e.name not in taken), None)


def ranked_assignments(
    einsum: Einsum,
    array: Array,
    remaining: Mapping[str, int],
    taken: Sequence[str] = (),
    order: Sequence[str] = (),
) -> list[Assignment]:
    """Return all assignments, the fastest first, then those that suit the other Einsums.

    Among equally fast ones: reduced variables last; vector lanes along the last index of the
    operands; the first variables of `order` along axes that cannot reduce, and else along the
    last axes, so that all Einsums agree.
    """
    ranks = {name: place for place, name in enumerate(order)}

    def key(each: Assignment) -> tuple[int, int, int, int, tuple[int, ...]]:
        kinds = [(array.axis(axis), name) for axis, name in each]
        reduced = sum(name not in variables(einsum.output) for _, name in kinds)
        lanes = sum(_contiguity(einsum, name) for axis, name in kinds if axis.kind == "simd")
        blocked = sum(len(ranks) - ranks.get(name, 0) for axis, name in kinds if axis.reduces)
        alike = tuple(-ranks.get(name, 0) for _, name in kinds)
        points = speedup(each, array, remaining, taken)
        speed = round(4 * math.log2(points))  # within a fifth: the same
        return (-speed, reduced, -lanes, blocked, alike)

    return sorted(assignments(einsum, array, remaining, taken), key=key)


def _contiguity(einsum: Einsum, name: str) -> int:
    """Count the accesses whose last index is `name`, less those that have it further out."""
    score = 0
    for access in (einsum.output, *einsum.operands):
        if access.indices and access.indices[-1] == Var(name):
            score += 1
        score -= _strided(access, name)
    return score


def _strided(access: Access, name: str) -> int:
    return int(name in variables(*access.indices[:-1]))


def leaf_loops(
    einsum: Einsum,
    array: Array,
    remaining: Mapping[str, int],
    assignment: Assignment,
    taken: Sequence[str] = (),
    *,
    in_turn: bool = False,
) -> tuple[Loop, ...]:
    """Return the loops of a leaf: kept variables outside, reduced ones inside, lanes innermost.

    With `in_turn`, the kept ones are inside: output elements take turns, so that a step need not
    wait for the one before it. The places of a selection are innermost: each candidate finds its
    own.

    A variable with more coordinates than its axis has places is stepped in tiles of the axis
    first: over thread blocks for threads, one after another for PEs; other axes fold, up to the
    steps that they take at most. Reductions with lanes have a register tile, where there is one.
    `taken` are axes that shared spatial loops use.
    """
    tiled = tiled_loops(einsum, array, remaining, assignment)
    if tiled is not None:
        return tiled
    kept = tuple(name for name in variables(einsum.output) if name != einsum.places)
    along = {name: array.axis(axis) for axis, name in assignment}
    shared: list[Loop] = []
    outer: list[Loop] = []
    places: list[Loop] = []
    inner: list[Loop] = []
    tree: list[Loop] = []
    lanes: list[Loop] = []
    in_order = sorted(einsum.variables, key=lambda name: name == einsum.places)
    for name in in_order:
        axis, extent = along.get(name), remaining[name]
        where, side = (outer, places) if name in kept else (inner, tree)
        if axis is None:
            where += [Loop(name)] if extent > 1 else []
            continue
        grid = _grid(array, axis.name, taken)
        if extent > axis.size and grid is not None:
            shared.append(Loop(name, axis.size, grid.name))
        elif axis.most and extent > axis.most:
            where.append(Loop(name, axis.most))
        elif extent > axis.size and not axis.folds:
            where.append(Loop(name, axis.size))
        by_kind = {"block": shared, "core": shared, "simd": lanes}
        by_kind.get(axis.kind, side).append(Loop(name, 1, axis.name))
    if in_turn and not einsum.selects:
        return (*shared, *inner, *outer, *places, *tree, *lanes)
    return (*shared, *outer, *places, *inner, *tree, *lanes)


def threads_own(memory: Memory, target: Target) -> bool:
    """Whether single threads own a memory: no other thread reads what is there."""
    axes = target.spread(memory) or ()
    return any(axis.kind == "thread" for axis in axes)


def layout_of(
    loops: Sequence[Loop], step: Step, tensor: str, array: Array
) -> frozenset[tuple[str, int]]:
    """Return (axis, dimension) pairs: which index of a tensor a leaf lays along axes of threads."""
    threads = [axis.name for axis in array.axes if axis.kind == "thread"]
    uses = [use for use in (*step.reads, step.write) if use.tensor == tensor]
    return frozenset(
        (loop.axis, place)
        for loop in loops
        if loop.axis in threads
        for use in uses
        for place, dim in enumerate(use.dims)
        if loop.variable in dim.variables
    )

"""Which part of the computation each task does: one task for each stage of a pipelined loop.

A mapping lets the stages of one loop overlap: stage 1 works on an iteration while stage 0 works on
the next. Each stage becomes a task with the loops of all; what a later one reads is sent to it as
it is written. Copies of inputs are done by every task that reads them. What stands outside of the
loop goes with the stage that it reads from, or else with the first that reads from it. Stages that
need each other's results (a cycle) become one task, for a ``DATAFLOW`` region has none.

Excluded on purpose: programs with more than one pipelined loop, or in which a loop or a condition
around loops needs values: their computation is one task.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import networkx as nx

from penstock.codegen.hls.loops import has_serial, outermost, steps
from penstock.codegen.loops.nodes import Alloc, Block, For, If, LoopStmt, Program, walk_statements
from penstock.codegen.loops.walk import elements
from penstock.codegen.lower.index import has_load

__all__ = ["COMPUTE", "Stages", "stages_of"]

COMPUTE = "compute"

SHORT = 4
"""An Einsum moves to another stage if it is so many times shorter than that."""


@dataclass(frozen=True)
class Stages:
    """The tasks of a computation.

    Args:
        names: of the tasks, in an order in which they could run one after another.
        done_by: identity of a statement → the tasks that do it; for what is in it too.
        readers: buffer → the tasks that read it.
        mirrors: buffer → the tasks that read it and do not write it: they get a copy.
    """

    names: tuple[str, ...]
    done_by: dict[int, tuple[str, ...]] = field(default_factory=dict)
    readers: dict[str, frozenset[str]] = field(default_factory=dict)
    mirrors: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Unit:
    """A statement that is not divided: an Einsum's loops, or one without serial loops."""

    stmt: LoopStmt
    stage: int | None
    reads: frozenset[str]
    writes: frozenset[str]


def stages_of(program: Program, streamed: frozenset[str], shared: frozenset[str]) -> Stages:
    """Divide a computation.

    Args:
        program: any.
        streamed: its inputs that come through streams, its outputs that leave through streams.
        shared: buffers that only one task may use: ports of the computation.
    """
    whole = Stages((COMPUTE,), {id(program.body): (COMPUTE,)})
    loops = [e for e in walk_statements(program.body) if isinstance(e, For) and e.pipelined]
    if len(loops) != 1 or _needs_values(program.body):
        return whole
    units = list(_units(program.body, within=False))
    if len({each.stage for each in units} - {None}) < 2:
        return whole
    copies = _copies(units, streamed)
    graph = _groups([each for each in units if each not in copies], shared)
    if len(graph) < 2:
        return whole
    return _named(graph, units, copies, streamed | shared)


def _needs_values(body: LoopStmt) -> bool:
    return any(
        (isinstance(each, For) and has_load(each.extent))
        or (isinstance(each, If) and has_load(each.condition) and has_serial(each))
        for each in walk_statements(body)
    )


def _units(stmt: LoopStmt, *, within: bool) -> Iterator[_Unit]:
    match stmt:
        case Block(body) if stmt.stage is None:
            for each in body:
                yield from _units(each, within=within)
        case Alloc(_, body):
            yield from _units(body, within=within)
        case For() | If() if has_serial(stmt):
            inside = within or (isinstance(stmt, For) and stmt.pipelined)
            yield from _units(stmt.body, within=inside)
        case _:
            found = tuple(elements(stmt))
            yield _Unit(
                stmt,
                stmt.stage if isinstance(stmt, Block) and within else None,
                frozenset(each.buffer for each in found if not each.written),
                frozenset(each.buffer for each in found if each.written),
            )


def _copies(units: list[_Unit], streamed: frozenset[str]) -> frozenset[_Unit]:
    """Return the units that only bring inputs to buffers which nothing else writes."""
    plain = [each for each in units if not isinstance(each.stmt, Block)]
    found = {each for each in plain if each.reads and each.reads <= streamed}
    found = {each for each in found if streamed.isdisjoint(each.writes)}
    while True:
        others = {name for each in units if each not in found for name in each.writes}
        kept = {each for each in found if others.isdisjoint(each.writes)}
        if kept == found:
            return frozenset(found)
        found = kept


def _groups(units: list[_Unit], shared: frozenset[str]) -> nx.DiGraph[frozenset[_Unit]]:
    """Return the tasks as sets of units, with edges from who writes to who reads; no cycle."""
    graph: nx.Graph[_Unit] = nx.Graph()
    graph.add_nodes_from(units)
    for one in units:
        for two in units:
            ports = (one.reads | one.writes) & (two.reads | two.writes) & shared
            if ports or one.writes & two.writes:
                graph.add_edge(one, two)
    order = {unit: n for n, unit in enumerate(units)}
    found = _without_cycles([frozenset(each) for each in nx.connected_components(graph)])
    near = _nearer(found, order)
    found = _in_stages(found, order, near)
    while True:
        alone = next((each for each in _sorted(found, order) if _stage(each) < 0), None)
        neighbour = None if alone is None else _neighbour(alone, found, order, near)
        if alone is None or neighbour is None:
            return found
        found = _joined(found, alone, neighbour)


def _sorted(graph: nx.DiGraph[frozenset[_Unit]], order: dict[_Unit, int]) -> list[frozenset[_Unit]]:
    """Return groups in an order in which they could run one after another."""

    def first(group: frozenset[_Unit]) -> int:
        return min(order[each] for each in group)

    return list(nx.lexicographical_topological_sort(graph, key=first))


def _stage(group: frozenset[_Unit]) -> int:
    """Return the last stage of a group, -1 of one without."""
    return max((each.stage for each in group if each.stage is not None), default=-1)


def _joined(
    graph: nx.DiGraph[frozenset[_Unit]], one: frozenset[_Unit], two: frozenset[_Unit]
) -> nx.DiGraph[frozenset[_Unit]]:
    return _without_cycles([*(each for each in graph if each not in (one, two)), one | two])


def _nearer(graph: nx.DiGraph[frozenset[_Unit]], order: dict[_Unit, int]) -> dict[_Unit, int]:
    """Return the stages of units; a short one goes with what it reads, if less is sent then.

    What rescales a sum needs the old maximum and the new one, but sends a factor only.
    """
    stages = {unit: _stage(group) for group in graph for unit in group}
    for group in _sorted(graph, order):
        sources = list(graph.predecessors(group))
        before = {stages[unit] for each in sources for unit in each}
        if len(before) != 1 or not 0 <= max(before) < _stage(group):
            continue
        (stage,) = before
        near = [unit for unit in order if stages[unit] == stage]
        later = [unit for unit in order if stages[unit] != stage and unit not in group]
        given = frozenset[str]().union(*(unit.writes for each in sources for unit in each))
        taken = frozenset[str]().union(*(unit.reads for unit in group)) & given
        others = frozenset[str]().union(*(unit.reads for unit in later))
        made = frozenset[str]().union(*(unit.writes for unit in group)) & others
        short = SHORT * sum(map(_work, group)) <= sum(map(_work, near))
        if short and len(taken - others) > len(made):
            stages |= dict.fromkeys(group, stage)
    return stages


def _work(unit: _Unit) -> int:
    """Return about how many steps a unit takes."""
    return sum(steps(loop) for loop in outermost(unit.stmt))


def _in_stages(
    graph: nx.DiGraph[frozenset[_Unit]], order: dict[_Unit, int], stages: dict[_Unit, int]
) -> nx.DiGraph[frozenset[_Unit]]:
    """Join groups of one stage, but those that another stage stands between.

    What a running sum adds to is of an early stage in the mapping, and needs what a late one made
    in the iteration before: as a group of its own it goes with the late one, beside those between.
    """
    last: dict[int, frozenset[_Unit]] = {}
    for group in _sorted(graph, order):
        stage = max(stages[unit] for unit in group)
        if stage < 0:
            continue
        other = last.get(stage)
        trial = graph if other is None else _joined(graph, other, group)
        if other is not None and len(trial) == len(graph) - 1:
            graph, group = trial, other | group
        last[stage] = group
    return graph


def _without_cycles(groups: list[frozenset[_Unit]]) -> nx.DiGraph[frozenset[_Unit]]:
    """Join groups that need each other."""
    while True:
        graph: nx.DiGraph[frozenset[_Unit]] = nx.DiGraph()
        graph.add_nodes_from(groups)
        for one in groups:
            written = frozenset[str]().union(*(each.writes for each in one))
            for two in groups:
                if one != two and any(written & each.reads for each in two):
                    graph.add_edge(one, two)
        circles = nx.strongly_connected_components(graph)
        joined = [frozenset[_Unit]().union(*each) for each in circles]
        if len(joined) == len(groups):
            return graph
        groups = joined


def _neighbour(
    alone: frozenset[_Unit],
    graph: nx.DiGraph[frozenset[_Unit]],
    order: dict[_Unit, int],
    stages: dict[_Unit, int],
) -> frozenset[_Unit] | None:
    """Return the last stage that a group reads from, else the first that reads from it."""

    def stage(group: frozenset[_Unit]) -> int:
        return max(stages[unit] for unit in group)

    staged = [each for each in _sorted(graph, order) if stage(each) >= 0]
    before = [each for each in staged if each in nx.ancestors(graph, alone)]
    after = [each for each in staged if each in nx.descendants(graph, alone)]
    return max(before, key=stage, default=min(after, key=stage, default=None))


def _named(
    graph: nx.DiGraph[frozenset[_Unit]],
    units: list[_Unit],
    copies: frozenset[_Unit],
    outside: frozenset[str],
) -> Stages:
    order = {unit: n for n, unit in enumerate(units)}
    groups = _sorted(graph, order)
    names = tuple(f"{COMPUTE}_{n}" for n in range(len(groups)))
    task = {unit: name for name, group in zip(names, groups, strict=True) for unit in group}
    readers: dict[str, set[str]] = {}
    writers: dict[str, set[str]] = {}
    for unit, name in task.items():
        for buffer in unit.reads - outside:
            readers.setdefault(buffer, set()).add(name)
        for buffer in unit.writes - outside:
            writers.setdefault(buffer, set()).add(name)
    done_by: dict[int, tuple[str, ...]] = {id(unit.stmt): (name,) for unit, name in task.items()}
    for unit in copies:
        wanted = {name for buffer in unit.writes for name in readers.get(buffer, ())}
        done_by[id(unit.stmt)] = tuple(sorted(wanted, key=names.index)) or names[:1]
    mirrors = {
        buffer: tuple(sorted(readers.get(buffer, set()) - owners, key=names.index))
        for buffer, owners in writers.items()
    }
    return Stages(
        names,
        done_by,
        {buffer: frozenset(found) for buffer, found in readers.items()},
        {buffer: found for buffer, found in mirrors.items() if found},
    )

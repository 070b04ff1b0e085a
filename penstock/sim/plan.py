"""A mapping made ready to be walked: what each leaf and kept tile needs to know, looked up once.

Excluded: the walk itself (`walk.py`). Spatial loops that several Einsums share are not simulated.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Literal

import numpy as np

from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.nodes import Access, Einsum, Expr, Var, variables
from penstock.einsum_ir.regions.occupied import occupied
from penstock.einsum_ir.shapes import Bound
from penstock.errors import MappingError
from penstock.mapper.facts import Facts, Use, facts_of
from penstock.mapper.model.recurrence import result_cycles, step_interval
from penstock.mapper.model.visits import share_in_range
from penstock.mapper.nodes import Compute, Keep, Loop, Mapping, Nest, Node, leaves
from penstock.mapper.scopes import paces_of
from penstock.sim.costs import Cost
from penstock.sim.geometry import Boxes, Reach, Span, steps_of
from penstock.targets.base import Memory, Target

__all__ = ["Guard", "Hold", "Init", "Leaf", "Plan", "Read", "Shared", "planned"]

Role = Literal["fill", "drain", "local", "none"]
Chains = MappingABC[str, tuple[int, ...]]
"""Rank variable → tiles of the loops over it, outermost first."""


@dataclass(eq=False)
class Guard:
    """Which tiles of an Einsum are empty: a table, filled for all tiles of a depth at once."""

    expr: Expr | None
    bound: Bound
    names: tuple[str, ...]
    table: dict[tuple[Span, ...], bool] = field(default_factory=dict)

    def prepare(self, chains: Chains) -> None:
        """Decide all boxes that loops with these tiles give."""
        if self.expr is None:
            return
        steps = [steps_of(self.bound.extents[name], chains.get(name, ())) for name in self.names]
        boxes = [box for box in product(*steps) if box not in self.table]
        if not boxes:
            return
        ends = np.array(boxes, dtype=np.int64).reshape(len(boxes), len(self.names), 2)
        low = {name: ends[:, place, 0] for place, name in enumerate(self.names)}
        high = {name: ends[:, place, 1] - 1 for place, name in enumerate(self.names)}
        some = occupied(self.expr, low, high, self.bound.symbols).reshape(-1)
        some = np.broadcast_to(some, (len(boxes),))
        self.table.update(zip(boxes, (~some).tolist(), strict=True))

    def empty(self, box: Boxes) -> bool:
        """Whether no point of a box can have any effect; the box was prepared."""
        if self.expr is None:
            return False
        return self.table[tuple([box[name] for name in self.names])]


@dataclass(eq=False)
class Hold:
    """One tensor of one ``keep``.

    Args:
        tensor: its name.
        memory: where it lives.
        copies: tiles of it at a time: the buffers, or the stages between its first and last use.
        role: what moves: an input or what was made elsewhere is filled, an output that is made
            inside is drained, an intermediate just lives there.
        reach: what of it the leaves inside touch, for the role.
        guards: of the leaves that fill it; it is left alone where all are empty. () = never.
        again: variables of loops around it that its Einsum lacks: there it is made anew.
        outer: the hold of the same tensor around it.
        replicas: places in which each element is kept.
    """

    tensor: str
    memory: Memory
    copies: int
    role: Role
    reach: Reach
    guards: tuple[Guard, ...]
    again: tuple[str, ...]
    outer: Hold | None
    replicas: int = 1

    def used(self, box: Boxes) -> bool:
        """Whether a leaf inside has something to do with it over a box."""
        return not self.guards or not all(guard.empty(box) for guard in self.guards)


@dataclass(frozen=True, eq=False)
class Read:
    """One operand of a leaf: ``hold`` is where it is read, None for the outermost memory.

    ``near`` if each place of a chained array reads what it has made itself.
    """

    use: Use
    reach: Reach
    hold: Hold | None
    memory: Memory
    near: bool = False


@dataclass(frozen=True, eq=False)
class Init:
    """The first coordinate of an iterative tensor: `names` are its variables → the step's."""

    einsum: Einsum
    names: MappingABC[str, str]
    reads: tuple[Read, ...]
    write: Reach


@dataclass(frozen=True, eq=False)
class Leaf:
    """One Einsum on its array.

    ``holds`` are those of all that it reads and writes; ``accumulates`` says that the array itself
    holds partial sums between visits; ``stepped`` is (variable, dimension) of an iterative tensor.
    """

    compute: Compute
    einsum: Einsum
    names: tuple[str, ...]
    cost: Cost
    guard: Guard
    reads: tuple[Read, ...]
    write: Reach
    use: Use
    hold: Hold | None
    holds: tuple[Hold, ...]
    memory: Memory
    accumulates: bool
    stepped: tuple[str, int] | None
    init: Init | None
    enters: bool


@dataclass(frozen=True, eq=False)
class Shared:
    """A loop: `flows` if its iterations overlap, ``inits`` run before it.

    ``number`` counts the loops that no other over the same variable is around; others have -1.
    """

    loop: Loop
    pipelined: bool
    flows: bool
    holds: tuple[Hold, ...]
    body: tuple[Shared | Leaf, ...]
    inits: tuple[Leaf, ...]
    number: int = -1


@dataclass(frozen=True, eq=False)
class Plan:
    """The whole forest; `visits` is the number of tiles, empty ones included."""

    mapping: Mapping
    bound: Bound
    target: Target
    format: Format
    holds: tuple[Hold, ...]
    body: tuple[Shared | Leaf, ...]
    visits: int


def planned(mapping: Mapping, bound: Bound, target: Target, fmt: Format) -> Plan:
    """Look up everything that the walk needs.

    Raises:
        MappingError: a spatial loop is shared by several Einsums (GPU and CPU mappings).
    """
    planner = _Planner(bound, target, facts_of(bound), fmt)
    holds, body = planner.body(mapping.body, (), {})
    return Plan(mapping, bound, target, fmt, holds, body, planner.visits)


class _Planner:
    """Walks the mapping once; lives only inside `planned`."""

    def __init__(self, bound: Bound, target: Target, facts: Facts, fmt: Format) -> None:
        self.bound, self.target, self.facts, self.format = bound, target, facts, fmt
        self.inits = {each.name: each for each in bound.cascade.einsums if each.init}
        self.guards = {
            name: Guard(step.guard, bound, step.guarded) for name, step in facts.steps.items()
        }
        self.reaches: dict[tuple[str, ...], Reach] = {}
        self.visits = self.loops = 0
        self.made: dict[str, Compute] = {}

    def body(
        self, nodes: Sequence[Node], nests: tuple[Nest, ...], kept: MappingABC[str, Hold]
    ) -> tuple[tuple[Hold, ...], tuple[Shared | Leaf, ...]]:
        inside, holds = dict(kept), []
        for node in nodes:
            if isinstance(node, Keep):
                for tensor in node.tensors:
                    inside[tensor] = self.hold(node, tensor, tuple(nodes), nests, kept.get(tensor))
                    holds.append(inside[tensor])
        made: list[Shared | Leaf] = []
        for node in nodes:
            match node:
                case Nest():
                    made.append(self.nest(node, nests, inside))
                case Compute():
                    made.append(self.leaf(node, nests, inside))
                case Keep():
                    pass
        return tuple(holds), tuple(made)

    def nest(self, nest: Nest, nests: tuple[Nest, ...], kept: MappingABC[str, Hold]) -> Shared:
        if nest.loop.spatial:
            raise MappingError(
                f"the simulator runs spatial loops of leaves only, not the shared "
                f"'for {nest.loop}'",
                span=nest.span,
                fix="simulate a design of a spatial array or FPGA target",
            )
        holds, body = self.body(nest.body, (*nests, nest), kept)
        entered = all(nest.loop.variable != outer.loop.variable for outer in nests)
        inits = [
            leaf
            for leaf in _leaves(body)
            if entered and leaf.init and leaf.einsum.iterative == nest.loop.variable
        ]
        flows = nest.pipelined or _reaches_pipelined(nest)
        number = -1
        if entered:
            number, self.loops = self.loops, self.loops + 1
        return Shared(nest.loop, nest.pipelined, flows, holds, body, tuple(inits), number)

    # --- kept tiles -----------------------------------------------------------------------------

    def hold(
        self,
        keep: Keep,
        tensor: str,
        body: tuple[Node, ...],
        nests: tuple[Nest, ...],
        outer: Hold | None,
    ) -> Hold:
        """Return one kept tensor; as in the model, only inputs and outputs move."""
        users = [(above, leaf) for above, leaf in leaves(body) if self._touches(leaf, tensor)]
        makers = [leaf for _, leaf in users if leaf.einsum == tensor]
        moves = tensor in self.facts.inputs or tensor in self.facts.outputs
        memory = self.target.memory(keep.memory)
        stages = [leaf.stage for _, leaf in users] or [0]
        copies = max(keep.buffers, max(stages) - min(stages) + 1)
        if makers:
            einsum = self.facts.steps[tensor].einsum
            lacking = dict.fromkeys(nest.loop.variable for nest in nests)
            again = tuple(name for name in lacking if name not in einsum.variables)
            reach = self.reach([einsum.output])
            role: Role = "drain" if moves else "local"
            return Hold(tensor, memory, copies, role, reach, (), again, outer)
        reads = [access for _, leaf in users for access in self._reads(leaf, tensor)]
        role = "fill" if moves and reads else "none"
        reach = self.reach(reads or [_whole(tensor, self.bound)])
        guards = self._guards([leaf for _, leaf in users], nests)
        replicas = max((self._replicas(reach, each, nests, memory) for each in users), default=1)
        return Hold(tensor, memory, copies, role, reach, guards, (), outer, replicas)

    def _touches(self, leaf: Compute, tensor: str) -> bool:
        return leaf.einsum == tensor or bool(self._reads(leaf, tensor))

    def _reads(self, leaf: Compute, tensor: str) -> list[Access]:
        operands = self.facts.steps[leaf.einsum].einsum.operands
        return [access for access in operands if access.tensor == tensor]

    def _guards(self, users: list[Compute], nests: tuple[Nest, ...]) -> tuple[Guard, ...]:
        guards = tuple(self.guards[leaf.einsum] for leaf in users)
        if any(guard.expr is None for guard in guards):
            return ()
        for guard in guards:
            guard.prepare(_chains(nests))
        return guards

    def _replicas(
        self,
        reach: Reach,
        user: tuple[tuple[Nest, ...], Compute],
        nests: tuple[Nest, ...],
        memory: Memory,
    ) -> int:
        above, leaf = user
        cost = self._cost(leaf, (*nests, *above))
        sizes = dict(self.bound.extents)
        for nest in (*nests, *above):
            sizes[nest.loop.variable] = min(sizes[nest.loop.variable], nest.loop.tile)
        return cost.replicas(memory, frozenset(reach.names), sizes)

    # --- leaves ---------------------------------------------------------------------------------

    def leaf(self, node: Compute, nests: tuple[Nest, ...], kept: MappingABC[str, Hold]) -> Leaf:
        step = self.facts.steps[node.einsum]
        einsum = step.einsum
        self.guards[node.einsum].prepare(_chains(nests))
        self._count(einsum, nests)
        hold = kept.get(einsum.name)
        memory = hold.memory if hold else self.target.dram
        reads = tuple(self.read(access, kept, node) for access in _different(einsum))
        self.made[einsum.name] = node
        return Leaf(
            node,
            einsum,
            einsum.variables,
            self._cost(node, nests),
            self.guards[node.einsum],
            reads,
            self.reach([einsum.output]),
            step.write,
            hold,
            tuple({each: None for each in (*(read.hold for read in reads), hold) if each}),
            memory,
            memory.array == node.array,
            self.bound.cascade.iterative.get(einsum.name),
            self.init(einsum, kept),
            all(nest.loop.variable != einsum.iterative for nest in nests),
        )

    def _cost(self, leaf: Compute, nests: tuple[Nest, ...]) -> Cost:
        loops = [*(nest.loop for nest in nests), *leaf.loops]
        paces = paces_of(loops, self.target.array(leaf.array), self.bound.extents)
        step = self.facts.steps[leaf.einsum]
        einsum, around = step.einsum, paces[: len(nests)]
        shares = {use: share_in_range(step, use, around, self.facts) for use in step.reads}
        every = step_interval(leaf, einsum, nests, self.bound.extents, self.target, self.format)
        late = result_cycles(einsum, self.target, self.format)
        return Cost(leaf, einsum, self.target, paces[len(nests) :], every, shares, late)

    def _count(self, einsum: Einsum, nests: tuple[Nest, ...]) -> None:
        chains, total = _chains(nests), 1
        for name, tiles in chains.items():
            total *= len(steps_of(self.bound.extents[name], tiles))
        self.visits += total

    def reach(self, touched: Sequence[Access]) -> Reach:
        """Return what accesses touch; the same object for the same accesses."""
        key = tuple(sorted({str(access) for access in touched}))
        if key not in self.reaches:
            self.reaches[key] = Reach(touched, self.bound)
        return self.reaches[key]

    def read(
        self, access: Access, kept: MappingABC[str, Hold], leaf: Compute | None = None
    ) -> Read:
        hold = kept.get(access.tensor)
        memory = hold.memory if hold else self.target.dram
        near = leaf is not None and memory.array == leaf.array and self._near(access, leaf)
        return Read(self.facts.use(access), self.reach([access]), hold, memory, near)

    def _near(self, access: Access, leaf: Compute) -> bool:
        """Whether each place reads what it has made itself, and can do so at once."""
        maker = self.made.get(access.tensor)
        if maker is None or maker.array != leaf.array or not self.target.array(leaf.array).chained:
            return False
        made = self.facts.steps[access.tensor].einsum
        summed = made.reduce.over if made.reduce else ()
        here, there = _laid(leaf), _laid(maker)
        across = {loop.variable for loops in there.values() for loop in loops}
        return here == there and not across & set(summed) and access == made.output

    def init(self, step: Einsum, kept: MappingABC[str, Hold]) -> Init | None:
        einsum = self.inits.get(step.name)
        if einsum is None:
            return None
        names = {
            mine.name: theirs.name
            for mine, theirs in zip(einsum.output.indices, step.output.indices, strict=True)
            if isinstance(mine, Var) and isinstance(theirs, Var)
        }
        reads = tuple(self.read(access, kept) for access in _different(einsum))
        return Init(einsum, names, reads, self.reach([einsum.output]))


def _laid(leaf: Compute) -> dict[str, list[Loop]]:
    """Return axis → the loops of a leaf along it, outermost first."""
    found: dict[str, list[Loop]] = {}
    for loop in leaf.loops:
        if loop.spatial:
            found.setdefault(loop.axis, []).append(loop)
    return found


def _different(einsum: Einsum) -> tuple[Access, ...]:
    return tuple({str(access): access for access in einsum.operands}.values())


def _whole(tensor: str, bound: Bound) -> Access:
    """Return an access that stands for all of a tensor that nothing here reads."""
    for einsum in bound.cascade.einsums:
        for access in (einsum.output, *einsum.operands):
            if access.tensor == tensor:
                return access
    return Access(tensor, tuple(Var(name) for name in _ranks(tensor, bound)))


def _ranks(tensor: str, bound: Bound) -> tuple[str, ...]:
    return next(each.ranks for each in bound.cascade.inputs if each.tensor == tensor)


def _chains(nests: tuple[Nest, ...]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for nest in nests:
        found[nest.loop.variable] = (*found.get(nest.loop.variable, ()), nest.loop.tile)
    return found


def _leaves(body: Sequence[Shared | Leaf]) -> list[Leaf]:
    found: list[Leaf] = []
    for node in body:
        found += _leaves(node.body) if isinstance(node, Shared) else [node]
    return found


def _reaches_pipelined(nest: Nest) -> bool:
    """Whether the nest holds nothing but (nests of) one pipelined loop, so that it flows on."""
    inner = [node for node in nest.body if not isinstance(node, Keep)]
    return (
        len(inner) == 1
        and isinstance(inner[0], Nest)
        and (inner[0].pipelined or _reaches_pipelined(inner[0]))
    )


def init_box(init: Init, box: Boxes, extents: MappingABC[str, int]) -> dict[str, Span]:
    """Return the box of an ``init`` Einsum inside the box of its step."""
    found = {name: box[mine] for name, mine in init.names.items()}
    for name in (*variables(init.einsum.output), *init.einsum.variables):
        found.setdefault(name, (0, extents[name]))
    return found

"""What is decided before any statement is made: folded ranks, homes of tensors, reductions.

* An iterative rank is *folded* when its tensor is only read at the step that is being made: one
  buffer then holds the current state. It is updated in place when nothing reads an old
  element after it was replaced; else the new state goes to a second buffer and is copied back
  where the last reader is done (`Fold.copy_at`).
* The *home* of a tensor is the innermost ``keep`` that holds all of its definition and all its
  uses; a whole buffer in the outermost memory without one. Other ``keep``s of it are copies.
* A reduction starts around the outermost loop over a variable that it folds away.

Excluded: statements (`lower/nest.py`), buffers (`lower/storage.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from penstock.codegen.lower.ranges import whole
from penstock.codegen.lower.regions import Region, contains, region_of
from penstock.codegen.lower.tree import Env, Hold, Leaf, Part, Path, Step, Tree
from penstock.einsum_ir.affine import affine
from penstock.einsum_ir.formats import Format, tensor_formats
from penstock.einsum_ir.interpreter.whole import whole_inputs
from penstock.einsum_ir.nodes import (
    Access,
    Einsum,
    Expr,
    Var,
    next_variable,
    substitute,
    variables,
)
from penstock.einsum_ir.regions.guards import guards
from penstock.einsum_ir.regions.presence import Always, Presence, Stored, presence
from penstock.einsum_ir.shapes import Bound

__all__ = ["Fold", "Plan", "Role", "Use", "make_plan"]

Role = Literal["home", "read", "write"]
"""What a ``keep`` is for a tensor: where it lives, a copy to read, a copy to write back."""


@dataclass(frozen=True)
class Use:
    """One access of a tensor: below which parts, with what left of the variables it adds."""

    path: Path
    access: Access
    extra: Env
    writes: bool = False


@dataclass(frozen=True)
class Fold:
    """An iterative tensor of which only the current state is held.

    Args:
        position: of the rank.
        advance: the innermost loop over the rank.
        copy_at: the loop whose every iteration ends by copying the new state over the old
            one; None if the state is updated in place.
        local: whether the new state needs to live inside `copy_at` only.
    """

    position: int
    advance: Step
    copy_at: Step | None
    local: bool = False


@dataclass(frozen=True)
class Plan:
    """All decisions, by tensor or Einsum name.

    Args:
        bound: the cascade.
        tree: its loops.
        fmt: of the values.
        presence: when each tensor's elements are present.
        guards: when a point of an Einsum can have any effect.
        inits: the ``init`` Einsums, in the variables of their steps.
        uses: every access of every tensor.
        folds: the folded tensors.
        roles: what each ``keep`` is for each of its tensors; the others are not used.
        whole: tensors whose elements are coordinates: inputs, and selections.
    """

    bound: Bound
    tree: Tree
    fmt: Format
    presence: Mapping[str, Presence]
    guards: Mapping[str, Expr | None]
    inits: Mapping[str, Einsum]
    uses: Mapping[str, tuple[Use, ...]]
    folds: Mapping[str, Fold]
    roles: Mapping[tuple[Hold, str], Role]
    whole: frozenset[str]

    @property
    def extents(self) -> dict[str, int]:
        """The extents of all rank variables, those of ``init`` Einsums' own included."""
        own = {name for init in self.inits.values() for name in init.variables if " " in name}
        return {**self.bound.extents, **{name: _extent(name, self.bound) for name in own}}

    def entry(self, tensor: str) -> Step | None:
        """Return the outermost loop over the rank of an iterative tensor."""
        return entry(self.bound, self.tree.paths[tensor], tensor)

    def reduce_at(self, tensor: str) -> Step | None:
        """Return the loop around which the reduction of a tensor starts and ends, if any."""
        return reduce_at(self.tree.paths[tensor])

    def home(self, tensor: str) -> Hold | None:
        """Return the ``keep`` that a tensor lives in, or None: the outermost memory."""
        for (hold, name), role in self.roles.items():
            if name == tensor and role == "home":
                return hold
        return None

    def own(self, tensor: str) -> Format | None:
        """Return the format that a tensor has for itself."""
        return tensor_formats(self.bound.cascade.formats).get(tensor)

    def region(self, tensor: str, part: Hold | Step, *, written: bool = False) -> Region:
        """Return the block of a tensor that is used (or written) below a part."""
        mine = [
            (use.access, {**part.env, **use.extra})
            for use in self.uses[tensor]
            if part in use.path and (use.writes or not written)
        ]
        return region_of(mine, self.bound.dims[tensor], self.bound, self.tree.ranges)

    def needed(self, leaf: Leaf, step: Step) -> Expr | None:
        """Return the condition for a leaf to have any effect below a loop; None if it always may.

        A state is given its first value, or taken over from the step before, whatever follows.
        """
        name = leaf.einsum.name
        if name in self.bound.cascade.iterative:
            path = self.tree.paths[name]
            first = self.entry(name)
            if name not in self.folds or first is None or path.index(step) < path.index(first):
                return None
        return self.guards.get(name)

    def stored_mask(self, tensor: str) -> bool:
        """Whether the presence of the elements of a tensor is stored, because someone asks."""
        if not isinstance(self.presence.get(tensor, Always()), Stored):
            return False
        read = any(not use.writes for use in self.uses[tensor])
        return read or self.must_ask(self.bound.cascade.einsum(tensor))

    def must_ask(self, einsum: Einsum) -> bool:
        """Whether an absent result would leave an output something else than 0."""
        if einsum.reduce is None or einsum.reduce.op == "sum":
            return False
        output = any(each.tensor == einsum.name for each in self.bound.cascade.outputs)
        return output and not isinstance(self.presence[einsum.name], Always)


def entry(bound: Bound, path: Path, tensor: str) -> Step | None:
    """Return the outermost loop over the rank of an iterative tensor."""
    name, _ = bound.cascade.iterative.get(tensor, ("", 0))
    return next((p for p in path if isinstance(p, Step) and p.loop.variable == name), None)


def advance(path: Path) -> Step | None:
    """Return the innermost loop over the iterative rank of a leaf's Einsum."""
    name = _leaf(path).einsum.iterative
    mine = [part for part in path if isinstance(part, Step) and part.loop.variable == name]
    return mine[-1] if mine else None


def reduce_at(path: Path) -> Step | None:
    """Return the outermost loop over a reduced variable (inside the step of a recurrence)."""
    einsum = _leaf(path).einsum
    if einsum.reduce is None:
        return None
    stepping = advance(path)
    inside = path[path.index(stepping) + 1 :] if stepping is not None else path
    return next(
        (
            part
            for part in inside
            if isinstance(part, Step)
            and part.count > 1
            and part.loop.variable in einsum.reduce.over
        ),
        None,
    )


def _leaf(path: Path) -> Leaf:
    leaf = path[-1]
    assert isinstance(leaf, Leaf)
    return leaf


def make_plan(bound: Bound, tree: Tree, fmt: Format) -> Plan:
    """Decide everything that needs no statement."""
    there = presence(bound)
    inits = {each.name: _renamed(each, bound) for each in bound.cascade.einsums if each.init}
    uses = _all_uses(bound, tree, inits)
    needed = guards(bound)
    folds = {
        name: fold
        for name in bound.cascade.iterative
        if (fold := _fold(bound, tree, uses[name], there, needed, name)) is not None
    }
    kept = whole_inputs(bound.cascade)
    kept |= {each.name for each in bound.cascade.einsums if each.selects}
    plan = Plan(bound, tree, fmt, there, needed, inits, uses, folds, {}, kept)
    return Plan(bound, tree, fmt, there, needed, inits, uses, folds, _roles(plan), kept)


def _renamed(init: Einsum, bound: Bound) -> Einsum:
    """Return an ``init`` Einsum in its step's variables; its own have names of their own."""
    step = bound.cascade.einsum(init.name)
    names: dict[str, Expr] = {name: Var(f"{name} of init") for name in init.variables}
    names |= {
        mine.name: theirs
        for mine, theirs in zip(init.output.indices, step.output.indices, strict=True)
        if isinstance(mine, Var) and isinstance(theirs, Var)
    }
    where = None if init.where is None else substitute(init.where, names)
    output = substitute(init.output, names)
    assert isinstance(output, Access)
    reduce = init.reduce
    if reduce is not None:
        over = tuple(str(names[name]) for name in reduce.over)
        reduce = type(reduce)(reduce.op, over)
    return Einsum(output, substitute(init.body, names), reduce, where, init=True)


# --- uses -------------------------------------------------------------------------------------


def _all_uses(bound: Bound, tree: Tree, inits: Mapping[str, Einsum]) -> dict[str, tuple[Use, ...]]:
    found: dict[str, list[Use]] = {name: [] for name in bound.dims}
    for name, path in tree.paths.items():
        for use in _uses_of(bound, name, path, inits.get(name)):
            found[use.access.tensor].append(use)
    return {name: tuple(mine) for name, mine in found.items()}


def _uses_of(bound: Bound, name: str, path: Path, init: Einsum | None) -> Iterator[Use]:
    einsum = _leaf(path).einsum
    yield Use(path, einsum.output, {}, writes=True)
    for access in einsum.operands:
        yield Use(path, access, {})
    if init is None:
        return
    first = entry(bound, path, name)
    around = path[: path.index(first)] if first is not None else path[:-1]
    extra = {each: whole(_extent(each, bound)) for each in init.variables if " " in each}
    yield Use(around, init.output, extra, writes=True)
    for access in init.operands:
        yield Use(around, access, extra)


def _extent(name: str, bound: Bound) -> int:
    return bound.extents[name.removesuffix(" of init")]


# --- folded ranks -----------------------------------------------------------------------------


def _fold(
    bound: Bound,
    tree: Tree,
    uses: tuple[Use, ...],
    there: Mapping[str, Presence],
    needed: Mapping[str, Expr | None],
    tensor: str,
) -> Fold | None:
    """Return how the iterative rank of a tensor is folded away, or None if it cannot be."""
    if any(each.tensor == tensor for each in bound.cascade.outputs):
        return None
    path = tree.paths[tensor]
    variable, position = bound.cascade.iterative[tensor]
    loop, first = advance(path), entry(bound, path, tensor)
    if loop is None or first is None or loop.env[variable].size > 1:
        return None
    inside: list[Use] = []
    for use in uses:
        index = use.access.indices[position]
        if loop in use.path:
            if index != Var(variable) and next_variable(index) != variable:
                return None
            inside.append(use)
        elif not _outside(use, first, index, bound, variable):
            return None
    if _in_place(inside, path, loop, position):
        return Fold(position, loop, None)
    copy_at = _copy_at(inside, path, loop, position)
    writer = _leaf(path).einsum
    certain = isinstance(there[tensor], Always) and needed.get(tensor) is None
    alone = all(name in variables(writer.output) for name in writer.variables)
    return Fold(position, loop, copy_at, certain and alone and copy_at is not loop)


def _outside(use: Use, first: Step, index: Expr, bound: Bound, variable: str) -> bool:
    """Whether a use outside the loop is of the final state, after it, or of the first one."""
    if first in use.path:
        return False
    form = affine(index, bound.symbols)
    if form is None or form.coefficients:
        return False
    final = bound.extents[variable]
    return form.constant == (0 if use.writes or _is_init(use, first) else final)


def _is_init(use: Use, first: Step) -> bool:
    """Whether a use stands just around the loop: that of an ``init`` Einsum."""
    return bool(use.path) and not isinstance(use.path[-1], Leaf) and first in _body(use.path[-1])


def _body(part: Part) -> tuple[Part, ...]:
    return () if isinstance(part, Leaf) else part.body


def _dims_at(writer: Einsum, position: int) -> dict[str, int]:
    """Return the variable of each dimension of a state but the folded one."""
    return {
        index.name: place
        for place, index in enumerate(writer.output.indices)
        if place != position and isinstance(index, Var)
    }


def _pointwise(use: Use, shared: Path, dims: Mapping[str, int]) -> bool:
    """Whether a use stays at the writer's coordinate of every loop that both share."""
    return all(
        use.access.indices[dims[part.loop.variable]] == Var(part.loop.variable)
        for part in shared
        if isinstance(part, Step) and part.count > 1 and part.loop.variable in dims
    )


def _inner(path: Path, loop: Step) -> Path:
    return path[path.index(loop) + 1 :]


def _shared(first: Path, second: Path) -> Path:
    found: list[Part] = []
    for a, b in zip(first, second, strict=False):
        if a is not b:
            break
        found.append(a)
    return tuple(found)


def _in_place(inside: list[Use], path: Path, loop: Step, position: int) -> bool:
    """Whether every read of the old state comes before the element is replaced."""
    writer = _leaf(path).einsum
    dims = _dims_at(writer, position)
    mine = _inner(path, loop)
    for use in inside:
        old = isinstance(use.access.indices[position], Var)
        if use.writes or not old:
            continue
        theirs = _inner(use.path, loop)
        shared = _shared(theirs, mine)
        own = use.path == path
        if own and not all(use.access.indices[place] == Var(n) for n, place in dims.items()):
            return False
        if not own and not (_before(theirs, mine, loop, shared) and _pointwise(use, shared, dims)):
            return False
    return True


def _before(first: Path, second: Path, loop: Step, shared: Path) -> bool:
    """Whether one path comes before the other in program order, both inside a loop."""
    if len(first) == len(shared):
        return False
    body = _body(shared[-1] if shared else loop)
    return body.index(first[len(shared)]) < body.index(second[len(shared)])


def _copy_at(inside: list[Use], path: Path, loop: Step, position: int) -> Step:
    """Return the innermost loop after an iteration of which no one reads the tile's old state."""
    writer = _leaf(path).einsum
    dims = _dims_at(writer, position)
    chosen, shared = loop, list[Part]()
    ends = reduce_at(path)
    for part in _inner(path, loop):
        shared.append(part)
        if part is ends or any(part not in use.path for use in inside):
            break
        if isinstance(part, Step):
            if part.count > 1 and part.loop.variable not in dims:
                break
            if not all(_pointwise(use, tuple(shared), dims) for use in inside):
                break
            chosen = part
    return chosen


# --- where tensors live -----------------------------------------------------------------------


def _roles(plan: Plan) -> dict[tuple[Hold, str], Role]:
    roles: dict[tuple[Hold, str], Role] = {}
    holds = _holds(plan.tree.body)
    for tensor, uses in plan.uses.items():
        mine = [hold for hold in holds if tensor in hold.keep.tensors]
        used = [hold for hold in mine if any(hold in use.path for use in uses)]
        if tensor not in plan.tree.paths:
            roles |= {(hold, tensor): "read" for hold in used}
            continue
        home = _home(plan, tensor, used)
        inner = used[used.index(home) + 1 :] if home is not None else used
        if home is not None:
            roles[home, tensor] = "home"
        for hold in inner:
            role = _copy_role(plan, tensor, hold)
            if role is not None:
                roles[hold, tensor] = role
    return roles


def _holds(body: tuple[Part, ...]) -> list[Hold]:
    """Return every scope, outer ones before inner ones."""
    found: list[Hold] = []
    for part in body:
        if isinstance(part, Hold):
            found.append(part)
        found += _holds(_body(part))
    return found


def _defined_in(plan: Plan, tensor: str, hold: Hold) -> bool:
    """Whether the whole definition of what a scope uses happens inside it."""
    path = plan.tree.paths[tensor]
    if hold not in path:
        return False
    starts = plan.entry(tensor) or plan.reduce_at(tensor)
    return starts is None or path.index(hold) < path.index(starts)


def _closed(plan: Plan, tensor: str, hold: Hold) -> bool:
    """Whether what is read in a scope is written in it."""
    fold = plan.folds.get(tensor)
    used, written = plan.region(tensor, hold), plan.region(tensor, hold, written=True)
    skip = fold.position if fold is not None else None
    return contains(written, used, plan.bound.dims[tensor], plan.tree.ranges, skip)


def _home(plan: Plan, tensor: str, holds: list[Hold]) -> Hold | None:
    if any(each.tensor == tensor for each in plan.bound.cascade.outputs):
        return None
    found = [
        hold
        for hold in holds
        if all(hold in use.path for use in plan.uses[tensor])
        and _defined_in(plan, tensor, hold)
        and _closed(plan, tensor, hold)
    ]
    return found[-1] if found else None


def _copy_role(plan: Plan, tensor: str, hold: Hold) -> Role | None:
    if hold in plan.tree.paths[tensor]:
        whole_here = _defined_in(plan, tensor, hold) and _closed(plan, tensor, hold)
        stepped = tensor in plan.bound.cascade.iterative
        return "write" if whole_here and not stepped else None
    return None if tensor in plan.folds else "read"

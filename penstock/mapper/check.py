"""Whether a mapping is legal: `check` says which rule a bad one breaks, where, and by how much.

In this order: names and loops of every node (here), what depends on what (`order.py`), where
tensors are kept, room in the memories, operators of a part. What it costs is in `model/`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.shapes import Bound
from penstock.errors import MappingError, Span, UnknownNameError
from penstock.mapper.facts import Facts, facts_of
from penstock.mapper.leaf import layout_of, reads_back, threads_own
from penstock.mapper.model.occupancy import Occupancy, occupancies
from penstock.mapper.nodes import Compute, Keep, Loop, Mapping, Nest, Node, leaves, untimed
from penstock.mapper.order import check_order, check_stages
from penstock.mapper.resources import check_parts
from penstock.mapper.scopes import Leaf, Scope, Tree, tree_of
from penstock.targets.base import Array, Target

__all__ = ["check", "check_lowered", "check_timed"]


def check(mapping: Mapping, bound: Bound, target: Target, fmt: Format) -> None:
    """Check that a mapping runs a cascade on a machine and gives its values.

    Args:
        mapping: any mapping.
        bound: the cascade with its extents.
        target: the machine.
        fmt: number format of all tensors.

    Raises:
        MappingError: a rule is broken; says which, with the numbers that decided.
        UnknownNameError: an Einsum, tensor, variable, array, axis or memory that is not there.
    """
    facts, target = facts_of(bound), target.in_format(fmt.name)
    _check_blocks(target)
    _check_nodes(mapping.body, (), facts, target)
    _check_leaves(mapping, facts)
    tree = tree_of(mapping, facts, target)
    for leaf in tree.leaves:
        _check_leaf(leaf, facts)
        _check_taking(leaf, tree)
    check_order(tree, facts, bound.cascade)
    check_stages(tree, facts)
    for scope in tree.scopes:
        _check_scope(scope, tree, facts, target)
    for leaf in tree.leaves:
        _check_reach(leaf, facts, target)
        _check_threads(leaf, tree, target)
    for each in occupancies(tree, facts, target, fmt):
        _check_room(each, target)
    check_parts(tree.leaves, facts.extents, target, fmt)


def _check_blocks(target: Target) -> None:
    """Check that an FPGA part has the blocks of the memories that are to be built."""
    have = dict(target.resources)
    for name, count in target.needed().items():
        if name in have and count > have[name]:
            raise MappingError(
                f"the memories of {target.name} need {count:,.0f} {name}, the part has "
                f"{have[name]:,}",
                fix="make them smaller",
            )


def check_timed(mapping: Mapping) -> None:
    """Check that the simulator has all that a mapping asks for.

    Raises:
        MappingError: only the model has it.
    """
    _refuse(untimed(mapping.body), "leave out phases, alone, drained, last, spilling and copies")


def check_lowered(mapping: Mapping) -> None:
    """Check that generated code can have all that a mapping asks for.

    Raises:
        MappingError: an Einsum runs in the last step of a loop that it has no part in.
    """
    last = (leaf for _, leaf in leaves(mapping.body) if leaf.last)
    _refuse(next(last, None), "put the Einsum behind the loop")


def _refuse(node: Node | None, fix: str) -> None:
    if node is not None:
        first = str(node).splitlines()[0]
        raise MappingError(f"only the model has what '{first}' asks for", span=node.span, fix=fix)


# -- names and shape of the tree -----------------------------------------------------------


def _nodes(body: tuple[Node, ...]) -> Iterator[Node]:
    for node in body:
        yield node
        if isinstance(node, Nest):
            yield from _nodes(node.body)


def _check_nodes(
    body: tuple[Node, ...], around: tuple[Nest, ...], facts: Facts, target: Target
) -> None:
    """Check the nodes of a body one by one."""
    working = ""
    for node in body:
        match node:
            case Keep():
                _check_keep(node, working, facts, target)
            case Compute():
                working = node.einsum
                _check_compute(node, facts, target)
                _check_axis_names(node, around, target.array(node.array))
            case Nest():
                working = f"for {node.loop}"
                _check_nest(node, around, facts)
                _check_nodes(node.body, (*around, node), facts, target)


def _check_keep(keep: Keep, working: str, facts: Facts, target: Target) -> None:
    if working:
        raise MappingError(
            f"'{keep}' stands after '{working}' in its body",
            span=keep.span,
            fix="put it first: what it keeps lives there for the whole body",
        )
    for tensor in keep.tensors:
        if tensor not in facts.dims:
            raise UnknownNameError("tensor", tensor, facts.dims, span=keep.span)
    names = [memory.name for memory in target.memories]
    if keep.memory not in names:
        raise UnknownNameError(f"memory of {target.name}", keep.memory, names, span=keep.span)
    if keep.memory == target.dram.name:
        raise MappingError(
            f"'{keep}' keeps in the outermost memory, where every tensor lives anyway",
            span=keep.span,
            fix="leave the line out, or keep in a memory further in",
        )
    if keep.spill > 1:
        raise MappingError(
            f"'{keep}' spills more than there is", span=keep.span, fix="spill a share up to 1"
        )
    if keep.buffers < 1:
        raise MappingError(
            f"'{keep}' has {keep.buffers} buffers", span=keep.span, fix="give it at least 1"
        )


def _check_nest(nest: Nest, around: tuple[Nest, ...], facts: Facts) -> None:
    _check_loop(nest.loop, nest.span, facts)
    if not nest.body:
        raise MappingError(
            f"'for {nest.loop}' has no body", span=nest.span, fix="put an Einsum into it"
        )
    if nest.pipelined and nest.loop.spatial:
        raise MappingError(
            f"'for {nest.loop}' is pipelined, but its steps run side by side",
            span=nest.span,
            fix="pipeline a loop whose steps run one after another",
        )
    outer = [each for each in around if each.pipelined]
    if nest.pipelined and outer:
        raise MappingError(
            f"'for {nest.loop}' is pipelined inside 'for {outer[0].loop}', which is too",
            span=nest.span,
            fix="pipeline one of the two",
        )


def _check_loop(loop: Loop, span: Span | None, facts: Facts) -> None:
    if loop.variable not in facts.extents:
        raise UnknownNameError("rank variable", loop.variable, facts.extents, span=span)
    if loop.tile < 1:
        raise MappingError(
            f"the loop '{loop}' steps {loop.tile} coordinates at a time",
            span=span,
            fix="step at least 1",
        )


def _check_compute(compute: Compute, facts: Facts, target: Target) -> None:
    if compute.einsum not in facts.steps:
        raise UnknownNameError("Einsum", compute.einsum, facts.steps, span=compute.span)
    names = [array.name for array in target.arrays]
    if compute.array not in names:
        raise UnknownNameError(f"array of {target.name}", compute.array, names, span=compute.span)
    for loop in compute.loops:
        _check_loop(loop, compute.span, facts)


def _check_axis_names(compute: Compute, around: tuple[Nest, ...], array: Array) -> None:
    names = [axis.name for axis in array.axes]
    placed = [(nest.loop, nest.span) for nest in around]
    placed += [(loop, compute.span) for loop in compute.loops]
    for loop, span in placed:
        if loop.spatial and loop.axis not in names:
            raise UnknownNameError(f"axis of {array.name}", loop.axis, names, span=span)


def _check_leaves(mapping: Mapping, facts: Facts) -> None:
    """Each Einsum is there once."""
    seen: dict[str, Compute] = {}
    for node in _nodes(mapping.body):
        if isinstance(node, Compute):
            if node.einsum in seen:
                raise MappingError(
                    f"{node.einsum} is computed twice",
                    span=node.span,
                    fix="leave one of the two lines out",
                )
            seen[node.einsum] = node
    missing = [name for name in facts.steps if name not in seen]
    if missing:
        raise MappingError(
            f"the mapping computes no {', '.join(missing)}",
            fix=f"add a line '{missing[0]} on ARRAY: ...'",
        )


# -- one leaf ------------------------------------------------------------------------------


def _check_leaf(leaf: Leaf, facts: Facts) -> None:
    _check_operators(leaf, facts)
    mine = leaf.step.einsum.variables
    for nest in leaf.nests:
        if nest.loop.variable not in (*mine, leaf.compute.last):
            raise MappingError(
                f"{leaf.name} stands in 'for {nest.loop}', but has no '{nest.loop.variable}': it "
                f"would be computed again in each step",
                span=leaf.compute.span,
                fix="move it out of the loop",
            )
    for loop in leaf.compute.loops:
        if loop.variable not in mine:
            raise MappingError(
                f"{leaf.name} has no '{loop.variable}' to loop over (variables: {', '.join(mine)})",
                span=leaf.compute.span,
                fix=f"leave '{loop}' out",
            )
    _check_single(leaf, facts)
    _check_selection(leaf)
    _check_axes(leaf, facts)
    _check_manner(leaf)


def _check_manner(leaf: Leaf) -> None:
    """Check ``last`` and ``drained``."""
    compute, einsum = leaf.compute, leaf.step.einsum
    around = [nest.loop.variable for nest in leaf.nests]
    if compute.last and (compute.last not in around or compute.last in einsum.variables):
        raise MappingError(
            f"{leaf.name} runs in the last step of '{compute.last}', "
            + ("which is one of its own" if compute.last in around else "but in no loop over it"),
            span=compute.span,
            fix=f"leave 'last {compute.last}' out",
        )
    reduced = einsum.reduce.over if einsum.reduce else ()
    if compute.drained and not any(
        each.axis and each.variable in reduced for each in compute.loops
    ):
        raise MappingError(
            f"{leaf.name} is drained, but reduces nothing along an axis",
            span=compute.span,
            fix="leave 'drained' out",
        )


def _check_taking(leaf: Leaf, tree: Tree) -> None:
    """Check that what a leaf takes from places is computed beside it, in the same body."""
    beside = {each.name for each in tree.leaves if each.nests == leaf.nests}
    read = {use.tensor for use in leaf.step.reads}
    for tensor in leaf.compute.taking:
        if tensor not in beside or tensor not in read:
            why = "is not computed in its body" if tensor in read else "is not among its operands"
            raise MappingError(
                f"{leaf.name} takes {tensor} from the places that compute it, but {tensor} {why}",
                span=leaf.compute.span,
                fix=f"leave {tensor} out of 'taking'",
            )


def _check_operators(leaf: Leaf, facts: Facts) -> None:
    offered = dict(leaf.array.cycles)
    needed = {**leaf.step.ops, **leaf.step.output_ops, **facts.init_ops.get(leaf.name, {})}
    missing = sorted(op for op in needed if op not in offered)
    if missing:
        listed = ", ".join(f"'{op}'" for op in missing)
        raise MappingError(
            f"{leaf.name} needs {listed}, which {leaf.array.name} does not have "
            f"(it has {', '.join(sorted(offered))})",
            span=leaf.compute.span,
            fix="put it on another array",
        )


def _loops(leaf: Leaf) -> list[Loop]:
    return [*(nest.loop for nest in leaf.nests), *leaf.compute.loops]


def _check_single(leaf: Leaf, facts: Facts) -> None:
    """Its loops take every variable down to single coordinates."""
    left = {name: facts.extents[name] for name in leaf.step.einsum.variables}
    for loop in _loops(leaf):
        if loop.variable in left:
            left[loop.variable] = min(left[loop.variable], loop.tile)
    for name, count in left.items():
        if count > 1:
            raise MappingError(
                f"the loops of {leaf.name} leave {count} coordinates of '{name}'",
                span=leaf.compute.span,
                fix=f"add '{name}' to them",
            )


def _check_selection(leaf: Leaf) -> None:
    """A selection meets its candidates in order, in one place, and finds all places together."""
    einsum = leaf.step.einsum
    if einsum.reduce is None or not einsum.selects:
        return
    last = [*einsum.reduce.over, *([einsum.places] if einsum.places else [])]
    loops = _loops(leaf)
    wanted = [name for name in last if any(loop.variable == name for loop in loops)]
    plain = [Loop(name) for name in wanted]
    mine = [loop for loop in loops if loop.variable in wanted]
    if mine and einsum.places == mine[-1].variable and _beside(leaf, mine[-1]):
        plain[-1] = mine[-1]
    if mine != plain or plain != list(leaf.compute.loops)[len(leaf.compute.loops) - len(plain) :]:
        raise MappingError(
            f"{leaf.name} selects along {', '.join(last)} with the loops "
            f"{', '.join(str(loop) for loop in loops)}",
            span=leaf.compute.span,
            fix=f"end its own loops with {', '.join(wanted)}, in time and one by one"
            + (f" ({einsum.places} may lie along an axis of PEs)" if einsum.places else ""),
        )


def _beside(leaf: Leaf, loop: Loop) -> bool:
    """Whether a loop lies along an axis of PEs."""
    axis = next((each for each in leaf.array.axes if each.name == loop.axis), None)
    return axis is not None and axis.kind == "pe" and loop.tile == 1


def _check_axes(leaf: Leaf, facts: Facts) -> None:
    """Spatial loops find their axis, fit it, and reduce only where it can."""
    left = dict(facts.extents)
    used: dict[str, int] = {}
    for number, loop in enumerate(_loops(leaf)):
        steps = math.ceil(left[loop.variable] / loop.tile)
        left[loop.variable] = min(left[loop.variable], loop.tile)
        if not loop.spatial:
            continue
        inside = number >= len(leaf.nests)
        span = leaf.compute.span if inside else leaf.nests[number].span
        used[loop.axis] = used.get(loop.axis, 1) * steps
        _check_axis(leaf, loop, used[loop.axis], span, leaf.array)


def _check_axis(leaf: Leaf, loop: Loop, steps: int, span: Span | None, array: Array) -> None:
    axis, einsum = array.axis(loop.axis), leaf.step.einsum
    if steps > axis.size and not axis.folds:
        raise MappingError(
            f"{leaf.name} lays {steps} steps along axis {axis.name} of {array.name}, which has "
            f"{axis.size} places",
            span=span,
            fix=f"step '{loop.variable}' by {axis.size} coordinates in a loop around it",
        )
    if axis.most and steps > axis.most:
        raise MappingError(
            f"{leaf.name} lays {steps:,} steps along axis {axis.name} of {array.name}, which takes "
            f"{axis.most:,} at most",
            span=span,
            fix=f"step '{loop.variable}' by {axis.most} coordinates in a loop around it",
        )
    reduced = einsum.reduce.over if einsum.reduce else ()
    if loop.variable in reduced and not axis.reduces:
        raise MappingError(
            f"{leaf.name} reduces '{loop.variable}' along axis {axis.name} of {array.name}, which "
            f"cannot add up its places",
            span=span,
            fix=f"loop over '{loop.variable}' in time",
        )
    if loop.variable == einsum.iterative:
        raise MappingError(
            f"{leaf.name} advances along '{loop.variable}', whose steps need each other and "
            f"cannot run side by side",
            span=span,
            fix=f"loop over '{loop.variable}' in time",
        )


# -- kept tensors --------------------------------------------------------------------------


def _uses(leaf: Leaf, tensor: str) -> bool:
    return leaf.name == tensor or any(
        use.tensor == tensor for use in (*leaf.step.reads, *leaf.step.init_reads)
    )


def _check_scope(scope: Scope, tree: Tree, facts: Facts, target: Target) -> None:
    tensor, keep = scope.tensor, scope.keep
    _check_along(scope, target)
    if not any(_uses(leaf, tensor) for leaf in scope.leaves):
        raise MappingError(
            f"'{keep}' keeps {tensor}, which nothing in its body uses",
            span=keep.span,
            fix=f"leave {tensor} out",
        )
    if scope.outer is not None:
        _check_nested(scope, scope.outer, facts, target)
    made = any(leaf.name == tensor for leaf in scope.leaves)
    if tensor in facts.inputs or not (made or tensor in facts.iterative):
        return  # a copy of what lives further out
    if tensor in facts.iterative:
        _check_state(scope, facts)
    inside = {id(leaf) for leaf in scope.leaves}
    outside = [leaf for leaf in tree.leaves if _uses(leaf, tensor) and id(leaf) not in inside]
    if tensor in facts.outputs:  # what it holds is copied out
        outside = [leaf for leaf in outside if leaf.name == tensor]
    if outside:
        raise MappingError(
            f"'{keep}' ends before {outside[0].name} uses {tensor}",
            span=keep.span,
            fix=f"keep {tensor} further out, around all that uses it",
        )


def _check_along(scope: Scope, target: Target) -> None:
    """A memory of each place along an axis is not kept in around loops along that axis."""
    axis = target.memory(scope.memory).along
    for leaf in scope.leaves:
        inside = [nest.loop for nest in leaf.nests[len(scope.nests) :]]
        inside += leaf.compute.loops
        if axis and axis in [loop.axis for loop in inside]:
            raise MappingError(
                f"'{scope.keep}' stands around a loop along {axis}, where each place has its own "
                f"{scope.memory}",
                span=scope.keep.span,
                fix=f"keep {scope.tensor} inside all loops along {axis}",
            )


def _check_nested(scope: Scope, outer: Scope, facts: Facts, target: Target) -> None:
    tensor, keep = scope.tensor, scope.keep
    made = any(leaf.name == tensor for leaf in scope.leaves)
    if made and tensor not in facts.outputs:
        raise MappingError(
            f"{tensor} is kept in {scope.memory} inside a body that keeps it in {outer.memory}: "
            f"an intermediate lives in one place",
            span=keep.span,
            fix="leave one of the two out",
        )
    names = [memory.name for memory in target.memories]
    if names.index(scope.memory) <= names.index(outer.memory):
        raise MappingError(
            f"{tensor} is kept in {scope.memory} inside a body that keeps it in {outer.memory}, "
            f"which is no further out",
            span=keep.span,
            fix="leave one of the two out, or exchange the memories",
        )


def _check_state(scope: Scope, facts: Facts) -> None:
    variable, _ = facts.iterative[scope.tensor]
    if any(nest.loop.variable == variable for nest in scope.nests):
        raise MappingError(
            f"'{scope.keep}' lasts one step of '{variable}', but {scope.tensor} carries its state "
            f"from step to step",
            span=scope.keep.span,
            fix=f"keep {scope.tensor} outside the loop over '{variable}'",
        )


def _check_reach(leaf: Leaf, facts: Facts, target: Target) -> None:
    """An array reads only from memories that it reaches."""
    read = {use.tensor for use in leaf.step.reads if use.tensor not in leaf.compute.taking}
    read |= {leaf.name} if reads_back(leaf.step.einsum, leaf.nests) else set()
    for tensor in sorted(read):
        scope = leaf.kept.get(tensor)
        owner = target.memory(scope.memory).array if scope else ""
        if scope is not None and owner and owner != leaf.array.name:
            sums = "its partial sums back from" if tensor == leaf.name else f"{tensor} from"
            raise MappingError(
                f"{leaf.name} on {leaf.array.name} reads {sums} {scope.memory}, which belongs to "
                f"{owner}",
                span=leaf.compute.span,
                fix=f"keep {tensor} in a memory that both reach, or run {leaf.name} on {owner}",
            )


def _check_threads(leaf: Leaf, tree: Tree, target: Target) -> None:
    """A thread reads from registers only what it has itself: no other thread's elements."""
    for tensor in sorted({use.tensor for use in leaf.step.reads}):
        scope = leaf.kept.get(tensor)
        if scope is None or not threads_own(target.memory(scope.memory), target):
            continue
        mine = layout_of(leaf.compute.loops, leaf.step, tensor, leaf.array)
        for other in scope.leaves:
            if other.array is not leaf.array or not _uses(other, tensor):
                continue
            theirs = layout_of(other.compute.loops, other.step, tensor, other.array)
            if mine != theirs:
                raise MappingError(
                    f"{leaf.name} reads {tensor} from {scope.memory} of other threads: it and "
                    f"{other.name} lay different indices of {tensor} along threads",
                    span=leaf.compute.span,
                    fix=f"keep {tensor} in a memory that all threads reach",
                )


def _check_room(each: Occupancy, target: Target) -> None:
    if each.needed_bytes <= each.capacity_bytes:
        return
    unit, scale = _unit(each.needed_bytes)
    largest = ", ".join(f"{name} ({size / scale:.4g})" for name, size in each.tensors[:3])
    where = f" in each place ({each.each})" if each.each else ""
    raise MappingError(
        f"needs {each.needed_bytes / scale:.4g} {unit} of {each.memory}{where}, {target.name} has "
        f"{each.capacity_bytes / scale:.4g} {unit}; largest tensors: {largest}",
        fix="use smaller tiles, fewer buffers, or keep less",
    )


def _unit(size: float) -> tuple[str, float]:
    for unit, scale in (("GB", 2.0**30), ("MB", 2.0**20), ("KB", 2.0**10)):
        if size >= scale:
            return unit, scale
    return "B", 1.0

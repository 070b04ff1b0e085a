"""Whether a mapping's leaves find their operands complete: order, shared loops, lock step, stages.

A consumer stands after its producer. In a loop that both share it reads, in each step, only what
that step (or, of an iterative tensor, an earlier one) has completed. What an iterative tensor was
at an earlier step is complete inside the loop over its rank.
"""

from __future__ import annotations

from collections.abc import Iterator

from penstock.einsum_ir.affine import affine
from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.nodes import Access, Group
from penstock.einsum_ir.passes import pass_table
from penstock.errors import MappingError
from penstock.mapper.facts import Facts
from penstock.mapper.fusion import carried, pointwise
from penstock.mapper.nodes import Nest
from penstock.mapper.scopes import Leaf, Tree

__all__ = ["check_order", "check_stages"]


def check_order(tree: Tree, facts: Facts, cascade: Cascade) -> None:
    """Check every producer and consumer, and the groups that advance in lock step.

    Raises:
        MappingError: something would be read before it is complete.
    """
    _check_groups(tree, cascade, facts)
    for producer, consumer, access in _flows(tree, facts):
        lag = lag_of(producer, consumer, access, facts)
        shared = _shared(producer, consumer)
        if lag:
            _check_lagged(producer, consumer, access, shared)
            continue
        if producer.name == consumer.name:
            continue
        if tree.leaves.index(producer) > tree.leaves.index(consumer):
            raise MappingError(
                f"{consumer.name} stands before {producer.name}, which it reads",
                span=consumer.compute.span,
                fix=f"move {producer.name} above {consumer.name}",
            )
        for nest in shared:
            if nest.loop.variable == consumer.compute.last:
                continue
            if not pointwise(producer.step.einsum, access, nest.loop.variable):
                raise _incomplete(producer, consumer, access, nest, cascade)


def _flows(tree: Tree, facts: Facts) -> Iterator[tuple[Leaf, Leaf, Access]]:
    """Yield (producer, consumer, access) for every read of what an Einsum defines."""
    makers = {leaf.name: leaf for leaf in tree.leaves}
    for consumer in tree.leaves:
        for access in consumer.step.einsum.operands:
            if access.tensor in makers:
                yield makers[access.tensor], consumer, access


def lag_of(producer: Leaf, consumer: Leaf, access: Access, facts: Facts) -> int:
    """Return how many steps of a shared loop over an iterative rank ago the element was made.

    0 if it was made in this step, or if the two share no loop over the rank.
    """
    if producer.name not in facts.iterative:
        return 0
    variable, place = facts.iterative[producer.name]
    shared = any(nest.loop.variable == variable for nest in _shared(producer, consumer))
    if not shared and producer.name != consumer.name:
        return 0
    form = affine(access.indices[place], facts.symbols)
    if form is None or form.coefficients != ((variable, 1),):
        return 0
    return 1 - form.constant


def _shared(first: Leaf, second: Leaf) -> tuple[Nest, ...]:
    nests = []
    for one, other in zip(first.nests, second.nests, strict=False):
        if one is not other:
            break
        nests.append(one)
    return tuple(nests)


def _check_lagged(producer: Leaf, consumer: Leaf, access: Access, shared: tuple[Nest, ...]) -> None:
    """Check loops around the one over the iterative rank: in them the state is not complete."""
    variable = producer.step.einsum.iterative
    loops = [nest.loop for nest in shared]
    if producer.name == consumer.name:
        loops += producer.compute.loops
    for loop in loops:
        if loop.variable == variable:
            return
        if not pointwise(producer.step.einsum, access, loop.variable):
            raise MappingError(
                f"{consumer.name} reads {access} inside 'for {loop}', but the step of "
                f"'{variable}' before is complete only after all of '{loop.variable}'",
                span=consumer.compute.span,
                fix=f"put the loop over '{variable}' outside the one over '{loop.variable}'",
            )


def _incomplete(
    producer: Leaf, consumer: Leaf, access: Access, nest: Nest, cascade: Cascade
) -> MappingError:
    name, einsum = nest.loop.variable, producer.step.einsum
    head = f"{producer.name} and {consumer.name} share 'for {nest.loop}'"
    fix = f"end the loop over '{name}' after {producer.name}, and begin another for {consumer.name}"
    if carried(einsum, name) is None:
        passes = _passes(producer.name, consumer.name, cascade)
        return MappingError(
            f"{head}, but {consumer.name} needs {access.tensor} complete: it is reduced over "
            f"'{name}'{passes}",
            span=consumer.compute.span,
            fix=fix,
        )
    return MappingError(
        f"{head}, but {consumer.name} reads {access}, which other steps of '{name}' compute",
        span=consumer.compute.span,
        fix=fix,
    )


def _passes(first: str, second: str, cascade: Cascade) -> str:
    """Say to which passes two Einsums belong, if a pass lies between them."""
    for row in pass_table(cascade):
        parts = [part.replace(",", " ").split() for part in row.chain.split("|")]
        of = {name: number for number, part in enumerate(parts, 1) for name in part}
        if first in of and second in of and of[first] < of[second]:
            return (
                f" ({first} is in pass {of[first]} over rank {row.rank} of {row.tensor}, "
                f"{second} in pass {of[second]})"
            )
    return ""


def _check_groups(tree: Tree, cascade: Cascade, facts: Facts) -> None:
    """Check that the Einsums of a ``loop`` share the loop over its variable, step by step."""
    leaves = {leaf.name: leaf for leaf in tree.leaves}
    for statement in cascade.schedule:
        if not isinstance(statement, Group) or len(statement.einsums) < 2:
            continue
        members = [leaves[einsum.name] for einsum in statement.einsums]
        first = members[0]
        for other in members:
            shared = _shared(first, other)
            mine = [nest.loop for nest in shared if nest.loop.variable == statement.variable]
            steps = facts.extents[statement.variable]
            if min([steps, *(loop.tile for loop in mine)]) > 1:
                raise MappingError(
                    f"{first.name} and {other.name} advance along '{statement.variable}' in lock "
                    f"step, but share no loop over it that steps by 1",
                    span=other.compute.span,
                    fix=f"put both into one 'for {statement.variable}'",
                )


def check_stages(tree: Tree, facts: Facts) -> None:
    """Check the stages of pipelined loops.

    Raises:
        MappingError: a stage outside a pipelined loop, or an Einsum that works on an iteration
            before what it reads is there.
    """
    for leaf in tree.leaves:
        if leaf.compute.stage and not leaf.pipelined():
            raise MappingError(
                f"{leaf.name} has stage {leaf.compute.stage}, but no loop around it is pipelined",
                span=leaf.compute.span,
                fix="mark a loop with 'pipelined', or leave the stage out",
            )
    for producer, consumer, access in _flows(tree, facts):
        shared = _shared(producer, consumer)
        pipelined = [nest for nest in shared if nest.pipelined]
        if not pipelined or producer.name == consumer.name:
            continue
        lag = lag_of(producer, consumer, access, facts)
        own = facts.iterative.get(producer.name, ("", 0))[0] == pipelined[0].loop.variable
        if lag and not own:
            continue
        early = producer.compute.stage - consumer.compute.stage
        if early > lag:
            ago = f", {lag} iteration(s) ago," if lag else ""
            raise MappingError(
                f"{consumer.name} works in stage {consumer.compute.stage}, but reads {access}, "
                f"which {producer.name} computes{ago} in stage {producer.compute.stage}",
                span=consumer.compute.span,
                fix=f"put {consumer.name} into stage {producer.compute.stage - lag} or later",
            )

"""In which order to compute a cascade so that what is held at a time stays small.

Where the Einsums from some point on do not depend on each other across a rank (heads, query rows),
that rank is cut into blocks: everything is computed for one block, and then for the next, so that
intermediate tensors are held for one block only. Excluded: evaluation, and steps of loops
(`lockstep.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from penstock.einsum_ir.interpreter.evaluate import Range
from penstock.einsum_ir.interpreter.lockstep import held_steps
from penstock.einsum_ir.nodes import Einsum, Group, Statement, Var, variables
from penstock.einsum_ir.shapes import Bound

__all__ = ["HELD", "Cut", "Run", "cuts", "held_lengths", "runs"]

HELD = 1 << 26
"""Elements of intermediate tensors that are held at a time, as far as that is possible."""

Box = dict[str, Range]


@dataclass(frozen=True, slots=True)
class Cut:
    """A rank that is cut into blocks.

    Args:
        variable: the rank.
        size: coordinates of a block; the last one may have fewer.
        inside: tensor → its dimension of that rank, for what is computed block by block.
    """

    variable: str
    size: int
    inside: dict[str, int]


@dataclass(frozen=True, slots=True)
class Run:
    """A statement over one block; `fresh` tensors are forgotten before it is computed."""

    statement: Statement
    box: Box
    fresh: tuple[str, ...] = ()


def cuts(bound: Bound) -> list[Cut]:
    """Return the ranks to cut, the outermost first, each inside of the one before."""
    found: list[Cut] = []
    inside = list(bound.cascade.schedule)
    extents = dict(bound.extents)
    while _elements(bound, inside, extents) > HELD:
        options = [
            (name, part)
            for name in dict.fromkeys(v for e in _einsums(inside) for v in variables(e.output))
            if extents[name] > 1 and _elements(bound, part := _apart(bound, inside, name), extents)
        ]
        if not options:
            break
        name, part = max(options, key=lambda option: _elements(bound, option[1], extents))
        size = extents[name]
        while size > 1 and _elements(bound, part, {**extents, name: size}) > HELD:
            size = (size + 1) // 2
        places = {e.name: e.output.indices.index(Var(name)) for e in _einsums(part)}
        found.append(Cut(name, size, places))
        inside, extents[name] = part, size
    return found


def held_lengths(bound: Bound, levels: Sequence[Cut]) -> dict[str, dict[int, int]]:
    """Return how many coordinates of a tensor are held: tensor → dimension → number."""
    found = {name: {place: steps} for name, (place, steps) in held_steps(bound).items()}
    outputs = {each.tensor for each in bound.cascade.outputs}
    for cut in levels:
        for name, place in cut.inside.items():
            if name not in outputs:
                found.setdefault(name, {})[place] = cut.size
    return found


def runs(bound: Bound, levels: Sequence[Cut]) -> Iterator[Run]:
    """Yield the statements of a cascade, block by block."""
    yield from _runs(bound, list(bound.cascade.schedule), levels, {})


def _runs(
    bound: Bound, statements: list[Statement], levels: Sequence[Cut], box: Box
) -> Iterator[Run]:
    if not levels:
        yield from (Run(each, box) for each in statements)
        return
    cut = levels[0]
    inside = [each for each in statements if _names(each) <= cut.inside.keys()]
    yield from (Run(each, box) for each in statements if each not in inside)
    outputs = {each.tensor for each in bound.cascade.outputs}
    fresh = tuple(name for name in cut.inside if name not in outputs)
    for start in range(0, bound.extents[cut.variable], cut.size):
        stop = min(start + cut.size, bound.extents[cut.variable])
        block = _runs(bound, inside, levels[1:], {**box, cut.variable: (start, stop)})
        for number, run in enumerate(block):
            yield run if number else Run(run.statement, run.box, (*fresh, *run.fresh))


def _einsums(statements: Sequence[Statement]) -> list[Einsum]:
    return [e for s in statements for e in (s.einsums if isinstance(s, Group) else (s,))]


def _names(statement: Statement) -> set[str]:
    return {each.name for each in _einsums([statement])}


def _elements(bound: Bound, statements: Sequence[Statement], extents: dict[str, int]) -> int:
    """Return the elements of the intermediate tensors that statements define."""
    steps = held_steps(bound)
    outputs = {each.tensor for each in bound.cascade.outputs}
    total = 0
    for einsum in _einsums(statements):
        if einsum.init or einsum.name in outputs:
            continue
        lengths = [
            extents[index.name] if isinstance(index, Var) else bound.dims[einsum.name][place]
            for place, index in enumerate(einsum.output.indices)
        ]
        if einsum.name in steps:
            place, held = steps[einsum.name]
            lengths[place] = held
        total += math.prod(lengths)
    return total


def _apart(bound: Bound, statements: list[Statement], name: str) -> list[Statement]:
    """Return the statements that can be computed for one coordinate of a rank after the other.

    All of their tensors have the rank, and whatever reads one of those, at the same coordinate,
    is among them.
    """
    part = [each for each in statements if all(_has(e, name) for e in _einsums([each]))]
    while True:
        places = {e.name: e.output.indices.index(Var(name)) for e in _einsums(part)}
        kept = [each for each in part if not _names(each) & _crossed(bound, part, places, name)]
        if kept == part:
            return part
        part = kept


def _has(einsum: Einsum, name: str) -> bool:
    return Var(name) in einsum.output.indices


def _crossed(bound: Bound, part: list[Statement], places: dict[str, int], name: str) -> set[str]:
    """Return the tensors that something reads outside, or at another coordinate."""
    members = _einsums(part)
    return {
        access.tensor
        for einsum in bound.cascade.einsums
        for access in einsum.operands
        if access.tensor in places
        and (einsum not in members or access.indices[places[access.tensor]] != Var(name))
    }

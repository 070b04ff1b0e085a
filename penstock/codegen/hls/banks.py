"""How each buffer on the chip is split into banks, read off the loops side by side that index it.

Excluded: the pragmas that say so (`pragmas.py`), what a bank's ports allow (`timing/schedule.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from penstock.codegen.hls.loops import UNROLLED
from penstock.codegen.hls.words import WORD
from penstock.codegen.loops.nodes import (
    Alloc,
    Const,
    For,
    LoopExpr,
    Program,
    walk_statements,
)
from penstock.codegen.loops.walk import elements, names
from penstock.codegen.timing.dependence import affine

__all__ = ["Split", "in_registers", "partitions"]

COMPLETE_LIMIT = 1024
"""Vitis HLS splits an array into at most this many registers or banks along one dimension."""


@dataclass(frozen=True, slots=True)
class Split:
    """How a dimension of a buffer is split: ``word`` if only words of the port need it."""

    kind: str
    factor: int
    word: bool


def partitions(program: Program) -> dict[str, tuple[Split | None, ...]]:
    """Return buffer → for each dimension how it is split, None for not at all."""
    loops = [
        each
        for each in walk_statements(program.body)
        if isinstance(each, For) and each.kind in UNROLLED and isinstance(each.extent, Const)
    ]
    lanes = {e.variable: int(e.extent.value) for e in loops if isinstance(e.extent, Const)}
    words = frozenset(each.variable for each in loops if each.axis == WORD)
    buffers = {
        each.buffer.name: each.buffer
        for each in walk_statements(program.body)
        if isinstance(each, Alloc)
    }
    found: dict[str, list[Split | None]] = {}
    for element in elements(program.body):
        name, indices = element.buffer, element.indices
        if name in buffers and indices:
            kinds = found.setdefault(name, [None] * len(indices))
            for place, index in enumerate(indices):
                how = _partition(index, buffers[name].shape[place], lanes, words)
                kinds[place] = _both(kinds[place], how, buffers[name].shape[place])
    return {name: tuple(kinds) for name, kinds in found.items()}


def in_registers(splits: tuple[Split | None, ...], shape: tuple[int, ...]) -> bool:
    """Return whether all dimensions are split into single elements."""
    return bool(splits) and all(
        extent == 1 or (how is not None and how.kind == "complete" and not how.word)
        for how, extent in zip(splits, shape, strict=True)
    )


def _both(one: Split | None, two: Split | None, extent: int) -> Split | None:
    """Return a split that serves two accesses."""
    if one is None or two is None or one == two:
        return one or two
    word, factor = one.word and two.word, math.lcm(one.factor, two.factor)
    if (one.kind, one.factor) == (two.kind, two.factor):
        return Split(one.kind, one.factor, word)
    if one.kind == two.kind == "cyclic" and factor < min(extent, COMPLETE_LIMIT):
        return Split("cyclic", factor, word)
    return _complete(extent, factor, word=word)


def _complete(extent: int, lanes: int, *, word: bool) -> Split:
    if extent <= COMPLETE_LIMIT:
        return Split("complete", extent, word)
    return Split("cyclic", min(lanes, COMPLETE_LIMIT), word)


def _partition(
    index: LoopExpr, extent: int, lanes: dict[str, int], words: frozenset[str]
) -> Split | None:
    """Return how a dimension must be split so that all lanes reach their element at once."""
    used = [name for name in names(index) if name in lanes]
    if not used or extent == 1:
        return None
    word = words.issuperset(used)
    together = math.prod(lanes[name] for name in used)
    form = affine(index)
    if form is None or together >= extent:
        return _complete(extent, together, word=word)
    steps = sorted((abs(form[0].get(name, 0)), lanes[name]) for name in used)
    if _side_by_side(steps):
        return Split("cyclic", together, word)
    step = steps[0][0]
    if len(used) == 1 and step and step * together >= extent and extent % step == 0:
        return Split("block", extent // step, word)
    return _complete(extent, together, word=word)


def _side_by_side(steps: list[tuple[int, int]]) -> bool:
    """Return whether lanes with these (steps, places) reach neighbouring elements together."""
    reach = 1
    for step, places in steps:
        if step != reach:
            return False
        reach *= places
    return True

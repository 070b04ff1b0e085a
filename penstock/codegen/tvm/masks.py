"""Conditions that several nests of loops test for the same elements are tested once.

Before → after, where ``c`` tells lanes apart and is full of arithmetic::

    for m: for p@lanes: if c(m, p): X[p] = max(X[p], S[m, p])
    for f: for m: for p@lanes: if c(m, p): O[f, p] += S[m, p] * V[m, f]
    →  if not (c holds for all m and p): for m: for p@lanes: MASK[m, p] = c(m, p)
       for m: for p@lanes: if MASK[m, p]: ..      (and the same in the other nest)

A mask is computed in front of the statements that use it, in the outermost block in which what it
depends on is the loops of one nest; where it is full, nobody is expected to read it.
`Masks.meaning` keeps what each stands for, so that the planner still sees which tiles are full;
what may read a full one all the same is made `Masks.ready`.

Excluded on purpose: conditions that are the same for all lanes, or for all rows: they cost little.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from penstock.codegen.loops.nodes import (
    Alloc,
    Block,
    Buffer,
    Const,
    For,
    If,
    Load,
    LoopExpr,
    LoopStmt,
    Name,
    Op,
    Store,
)
from penstock.codegen.loops.rewrite import map_bodies, map_leaves, substituted
from penstock.codegen.loops.walk import loads, touched
from penstock.codegen.tvm.fuse import tile_of
from penstock.codegen.tvm.layout import LANE_KINDS
from penstock.codegen.tvm.ranges import Ranges, holds, names
from penstock.codegen.tvm.rewrite import clamped
from penstock.codegen.tvm.script import ranges_inside

__all__ = ["Masks"]

MASK_BYTES = 1 << 15
"""Most elements of a mask, a byte each: what stays in a first-level cache beside the tiles."""

USES = 3
"""How often an element is tested, at least, for a mask to be worth making."""


@dataclass(frozen=True, slots=True)
class _Use:
    """A condition in a nest: the loops of the nest that it depends on, and how often it is met."""

    condition: LoopExpr
    loops: tuple[For, ...]
    times: int

    @property
    def key(self) -> tuple[LoopExpr, tuple[LoopExpr, ...]]:
        """What is equal for uses that can share a mask: the condition up to names, and extents."""
        places = {each.variable: Name(f"#{n}") for n, each in enumerate(self.loops)}
        return substituted(self.condition, places), tuple(each.extent for each in self.loops)


@dataclass(frozen=True, slots=True)
class _Mask:
    """A mask: what it stands for, when that holds everywhere (None: unknown), and its loops."""

    name: str
    condition: LoopExpr
    every: LoopExpr | None
    loops: tuple[For, ...]

    @property
    def variables(self) -> tuple[str, ...]:
        return tuple(each.variable for each in self.loops)

    def filled(self, tag: str) -> LoopStmt | None:
        """Return what fills a full mask; None if it is never left out."""
        if self.every is None:
            return None
        at = tuple(Name(f"{each.variable}{tag}") for each in self.loops)
        made: LoopStmt = Store(self.name, at, Const(1, True))
        for each in reversed(self.loops):
            made = For(f"{each.variable}{tag}", each.extent, made)
        return If(self.every, made)


@dataclass
class Masks:
    """Introduces masks into a program.

    Args:
        buffers: every buffer by name; masks are added.
    """

    buffers: dict[str, Buffer]
    made: dict[str, _Mask] = field(default_factory=dict)

    def meaning(self, condition: LoopExpr) -> LoopExpr:
        """Return a condition with what its masks stand for."""

        def leaf(expr: Name | Load) -> LoopExpr:
            if not isinstance(expr, Load) or expr.buffer not in self.made:
                return expr
            mask = self.made[expr.buffer]
            at = dict(zip(mask.variables, expr.indices, strict=True))
            return substituted(mask.condition, at)

        return map_leaves(condition, leaf)

    def ready(self, stmt: LoopStmt, tag: str) -> LoopStmt:
        """Return a statement that may run where a mask that it reads is full.

        Args:
            stmt: any; its masks are in scope.
            tag: ending for new names.
        """
        used = sorted(touched(stmt)[0] & self.made.keys())
        fills = [self.made[name].filled(tag) for name in used]
        before = [each for each in fills if each is not None]
        return Block((*before, stmt)) if before else stmt

    def introduced(self, stmt: LoopStmt, ranges: Ranges) -> LoopStmt:
        """Return a statement with masks.

        Args:
            stmt: any.
            ranges: of the variables around it.
        """
        match stmt:
            case For() if stmt.kind in LANE_KINDS:
                return stmt
            case For():
                inner = ranges_inside(stmt, ranges)
                return replace(stmt, body=self.introduced(stmt.body, inner))
            case Block():
                made = self._block(stmt, ranges)
                return map_bodies(made, lambda each: self.introduced(each, ranges))
            case _:
                return map_bodies(stmt, lambda each: self.introduced(each, ranges))

    def _block(self, block: Block, ranges: Ranges) -> Block:
        if tile_of(block) is not None:
            return block  # a register tile tests its elements once, at its end
        written = touched(block)[1]
        shared: dict[object, list[_Use]] = {}
        for use in _uses(block, (), ()):
            if not any(load.buffer in written for load in loads(use.condition)):
                shared.setdefault(use.key, []).append(use)
        body = block.body
        for uses in shared.values():
            mask = self._mask(uses, ranges)
            if mask is None:
                continue
            buffer, fill = mask
            wanted = {use.condition: tuple(Name(e.variable) for e in use.loops) for use in uses}
            new = [_masked(each, wanted, buffer.name) for each in body]
            first = next(n for n, each in enumerate(body) if new[n] != each)
            body = (*body[:first], Alloc(buffer, Block((fill, *new[first:]))))
        return replace(block, body=body)

    def _mask(self, uses: list[_Use], ranges: Ranges) -> tuple[Buffer, LoopStmt] | None:
        """Return the mask of some uses and the loops that fill it; None if it is not worth it."""
        loops = uses[0].loops
        extents = [int(each.extent.value) for each in loops if isinstance(each.extent, Const)]
        if sum(use.times for use in uses) < USES or math.prod(extents) > MASK_BYTES:
            return None
        name = f"mask_{len(self.made)}"
        while name in self.buffers:
            name += "_"
        spelled = {each.variable: Name(f"{each.variable}_{name}") for each in loops}
        loops = tuple(replace(e, variable=spelled[e.variable].name) for e in loops)
        meant = substituted(uses[0].condition, spelled)
        box = {e.variable: (0, n - 1) for e, n in zip(loops, extents, strict=True)}
        tested = clamped(meant, self.buffers, {**ranges, **box})
        if tested is None:
            return None
        buffer = Buffer(name, tuple(extents), "mask")
        every = holds(meant, box, frozenset())
        self.buffers[name] = buffer
        self.made[name] = _Mask(name, meant, every, loops)
        fill: LoopStmt = Store(name, tuple(Name(each.variable) for each in loops), tested)
        for each in reversed(loops):
            fill = replace(each, body=fill)
        return buffer, fill if every is None else If(Op("not", (every,)), fill)


def _uses(stmt: LoopStmt, loops: tuple[For, ...], outer: tuple[For, ...]) -> Iterator[_Use]:
    """Yield the conditions inside a statement that could become masks in front of it.

    Args:
        stmt: any.
        loops: around it, innermost last, with nothing else beside them.
        outer: loops around those.
    """
    match stmt:
        case Block(body):
            alone = len(body) == 1
            for each in body:
                yield from _uses(each, loops if alone else (), outer if alone else outer + loops)
        case For():
            yield from _uses(stmt.body, (*loops, stmt), outer)
        case If(condition, body):
            yield from _candidate(condition, loops, outer)
            yield from _uses(body, loops, outer)
        case Alloc():
            yield from _uses(stmt.body, loops, outer)
        case Store():
            pass


def _candidate(
    condition: LoopExpr, loops: tuple[For, ...], outer: tuple[For, ...]
) -> Iterator[_Use]:
    used = names(condition)
    own = [each for each in loops if each.variable in used]
    other = [each for each in (*loops, *outer) if each.variable not in used]
    fixed = all(isinstance(each.extent, Const) for each in (*own, *other))
    simple = isinstance(condition, Load)
    if simple or not fixed or len(own) < 2 or not any(e.kind in LANE_KINDS for e in own):
        return
    if any(each.variable in used for each in outer):
        return
    own.sort(key=lambda each: each.kind in LANE_KINDS)  # lanes last: they are neighbours
    times = math.prod(int(e.extent.value) for e in other if isinstance(e.extent, Const))
    yield _Use(condition, tuple(own), times)


def _masked(stmt: LoopStmt, wanted: Mapping[LoopExpr, tuple[Name, ...]], mask: str) -> LoopStmt:
    if isinstance(stmt, If) and stmt.condition in wanted:
        return If(Load(mask, wanted[stmt.condition]), stmt.body)
    return map_bodies(stmt, lambda each: _masked(each, wanted, mask))

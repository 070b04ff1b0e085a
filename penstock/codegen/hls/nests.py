"""Loop nests that an HLS tool runs as one pipeline, without stopping between their parts.

::

    for m in 0..4:                            for m in 0..min(4, p + 1):
      if m <= p:                                for e in 0..8:            (one pipeline: m, e)
        acc = 0                         →         if e == 0: acc = 0
        for e in 0..8: acc += Q[e]*K[m, e]        acc += Q[e]*K[m, e]
        S[m] = acc                                if e == 7: S[m] = acc

    for m: T[m] = exp(S[m])             →     for m: T[m] = exp(S[m]); sum += T[m]
    for m: sum += T[m]

What runs once around a loop goes into its first and last step; a condition that only ends a loop
becomes its end; neighbours of equal length become one. Each is done only where the interval of the
pipeline (`timing/schedule.py`) stays what it was.

Excluded on purpose: sums of floats, whose interval Vitis HLS makes three times as long when they
are reset under a condition (docs/hls_timing.md); stages of different tasks; any change of order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from penstock.codegen.hls.loops import conjuncts, has_serial, is_serial, one_of
from penstock.codegen.hls.split import Tasks
from penstock.codegen.loops.nodes import (
    Alloc,
    Block,
    Const,
    For,
    If,
    Load,
    LoopExpr,
    LoopStmt,
    Name,
    Op,
    Program,
    Store,
    walk_statements,
)
from penstock.codegen.loops.rewrite import placed, substituted
from penstock.codegen.loops.walk import elements
from penstock.codegen.lower.index import (
    Lin,
    Ranges,
    add,
    atom,
    constant,
    floor_divide,
    integer,
    maximum,
    minimum,
    range_of,
    subtract,
    to_expr,
)
from penstock.codegen.timing.dependence import Affine, affine, below
from penstock.codegen.timing.schedule import Hardware, pipelined
from penstock.codegen.timing.timeline import perfect

__all__ = ["merged", "names_of_both", "received"]


@dataclass(frozen=True, slots=True)
class _Nest:
    """Loops that contain nothing but each other, and what is in the innermost one."""

    loops: tuple[For, ...]
    body: LoopStmt

    @property
    def extents(self) -> tuple[LoopExpr, ...]:
        return tuple(each.extent for each in self.loops)

    def with_body(self, body: LoopStmt) -> LoopStmt:
        for each in reversed(self.loops):
            body = replace(each, body=body)
        return body


def merged(program: Program, hardware: Hardware, *, copies: bool) -> Program:
    """Return the program with as few and as long pipelines as its intervals allow.

    Args:
        program: spatial loops inside serial ones, buffers declared first.
        hardware: what it runs on.
        copies: whether loops that belong to no Einsum may be joined.
    """
    return replace(program, body=_Merge(program, hardware, copies).statement(program.body, {}))


def received(tasks: Tasks, hardware: Hardware) -> Tasks:
    """Return tasks that work on what another one sends them as it comes, where they can.

    Each keeps its statements; a loop that takes tokens in and the one after it that uses them
    become one.
    """
    maker = _Merge(tasks.program, hardware, copies=True, across=True)
    found = tuple(replace(each, body=maker.statement(each.body, {})) for each in tasks.tasks)
    return tasks.with_tasks(found)


@dataclass
class _Merge:
    """Rebuilds one program."""

    program: Program
    hardware: Hardware
    copies: bool
    across: bool = False
    lanes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for each in walk_statements(self.program.body):
            if isinstance(each, For) and not is_serial(each) and isinstance(each.extent, Const):
                self.lanes[each.variable] = int(each.extent.value)

    def statement(self, stmt: LoopStmt, ranges: Ranges) -> LoopStmt:
        """Return a statement with its nests merged; `ranges` are those of the loops around."""
        match stmt:
            case Block(body):
                parts = [self.statement(each, ranges) for each in body]
                return self.pushed(replace(stmt, body=tuple(self.joined(parts))))
            case For() if has_serial(stmt.body) and is_serial(stmt):
                stmt = _ended(stmt, ranges)
                _, high = range_of(atom(stmt.extent), ranges)
                inside = {**ranges, stmt.variable: (0, max(0, int(high) - 1))}
                return replace(stmt, body=self.statement(stmt.body, inside))
            case For() if is_serial(stmt):
                return _ended(stmt, ranges)
            case If() | Alloc() if has_serial(stmt):
                return replace(stmt, body=self.statement(stmt.body, ranges))
            case _:
                return stmt

    # -- what runs once around a loop ----------------------------------------------------------

    def pushed(self, block: Block) -> Block:
        """Put what stands beside the only loop of a block into its first and last step."""
        places = [n for n, each in enumerate(block.body) if has_serial(each)]
        named = any(isinstance(each, Block) and each.comment for each in block.body)
        if len(places) != 1 or len(block.body) == 1 or (named and not self.copies):
            return block
        before, after = block.body[: places[0]], block.body[places[0] + 1 :]
        nest = _nest(block.body[places[0]])
        if nest is None or not all(isinstance(each, Const) and each.value for each in nest.extents):
            return block
        if not self.program.format.exact and _resets_a_sum(before, nest.body):
            return block
        first = [If(_at(nest, last=False), one_of([*before]))] if before else []
        last = [If(_at(nest, last=True), one_of([*after]))] if after else []
        body = Block((*first, *_parts(nest.body), *last))
        if self.interval(nest, body) > self.interval(nest, nest.body):
            return block
        inner, whole = block.body[places[0]], nest.with_body(body)
        if isinstance(inner, Block):
            whole = replace(inner, body=(whole,))
        return replace(block, body=(whole,))

    def interval(self, nest: _Nest, body: LoopStmt) -> int:
        extents = {
            each.variable: int(each.extent.value) if isinstance(each.extent, Const) else 2
            for each in nest.loops
        }
        return pipelined(body, extents, self.hardware).interval

    # -- neighbours ----------------------------------------------------------------------------

    def joined(self, parts: list[LoopStmt]) -> list[LoopStmt]:
        """Make one of neighbours that run equally long and do not need each other's other steps."""
        result: list[LoopStmt] = []
        for each in parts:
            both = self.both(result[-1], each) if result else None
            if both is None:
                result.append(each)
            else:
                result[-1] = both
        return result

    def both(self, one: LoopStmt, two: LoopStmt) -> LoopStmt | None:
        """Return two nests as one, None where that is not possible or makes them slower."""
        if isinstance(one, Block) and isinstance(two, Block):
            if one.stage != two.stage and not self.across:
                return None
        elif self.across:
            pass
        elif (
            isinstance(one, Block)
            or isinstance(two, Block)
            or not self.copies
            or self.leaves(one)
            or self.leaves(two)
        ):
            return None
        first, second = _nest(one), _nest(two)
        if first is None or second is None or len(first.loops) != len(second.loops):
            return None
        own = {b.variable: Name(a.variable) for a, b in zip(first.loops, second.loops, strict=True)}
        if first.extents != tuple(substituted(each, own) for each in second.extents):
            return None
        later = placed(second.body, own)
        if not self.apart(first, later):
            return None
        body = Block((*_parts(first.body), *_parts(later)))
        slowest = max(self.interval(first, first.body), self.interval(first, later))
        if self.interval(first, body) > slowest:
            return None
        loops = first.with_body(body)
        assert isinstance(loops, For)
        if isinstance(one, Block) and isinstance(two, Block):
            return Block((loops,), names_of_both(one.comment, two.comment), two.stage)
        return replace(loops, comment=names_of_both(loops.comment, second.loops[0].comment))

    def leaves(self, stmt: LoopStmt) -> bool:
        """Whether a statement writes an output: that is another task's."""
        outputs = {each.name for each in self.program.outputs}
        return any(each.written and each.buffer in outputs for each in elements(stmt))

    def apart(self, nest: _Nest, later: LoopStmt) -> bool:
        """Whether a step of a nest and a step of another meet in no element, but in the same step.

        Args:
            nest: the first one.
            later: the body of the second one, with the first one's loop variables.
        """
        mine, theirs = list(elements(nest.body)), list(elements(later))
        return all(
            self.pinned(nest, one.indices, two.indices)
            for one in mine
            for two in theirs
            if one.buffer == two.buffer and (one.written or two.written)
        )

    def pinned(self, nest: _Nest, one: tuple[LoopExpr, ...], two: tuple[LoopExpr, ...]) -> bool:
        """Whether two accesses meet in one step only: every loop is decided by some index."""
        free = {each.variable for each in nest.loops}
        changed = True
        while free and changed:
            changed = False
            for left, right in zip(one, two, strict=True):
                found = self.decided(left, right, free)
                if found is not None:
                    free.discard(found)
                    changed = True
        return not free

    def decided(self, left: LoopExpr, right: LoopExpr, free: set[str]) -> str | None:
        """Return the loop whose step is the same where two indices are equal, None if none is."""
        one, two = affine(left), affine(right)
        if one is None or two is None:
            return None
        low = high = one[1] - two[1]
        for name in {**one[0], **two[0]}:
            a, b = one[0].get(name, 0), two[0].get(name, 0)
            if name in self.lanes:
                ends = [0, a * (self.lanes[name] - 1)], [0, -b * (self.lanes[name] - 1)]
                low, high = low + sum(map(min, ends)), high + sum(map(max, ends))
            elif a != b:
                return None
        mine = [name for name in one[0] if name in free]
        if len(mine) != 1 or max(abs(low), abs(high)) >= abs(one[0][mine[0]]):
            return None
        return mine[0]


def _nest(stmt: LoopStmt) -> _Nest | None:
    """Return the nest that a statement is, None if it is more or less."""
    while isinstance(stmt, Block) and len(stmt.body) == 1:
        (stmt,) = stmt.body
    if not isinstance(stmt, For) or not is_serial(stmt):
        return None
    chain = perfect(stmt)
    if has_serial(chain[-1].body):
        return None
    return _Nest(tuple(chain), chain[-1].body)


def _parts(stmt: LoopStmt) -> tuple[LoopStmt, ...]:
    return stmt.body if isinstance(stmt, Block) and not stmt.comment else (stmt,)


def _at(nest: _Nest, *, last: bool) -> LoopExpr:
    """Return when a nest is in its first, or last, step."""
    result: LoopExpr | None = None
    for each in nest.loops:
        assert isinstance(each.extent, Const)
        if each.extent.value == 1:
            continue
        end = int(each.extent.value) - 1 if last else 0
        test = Op("==", (Name(each.variable), integer(end)))
        result = test if result is None else Op("and", (result, test))
    return integer(1) if result is None else result


def _resets_a_sum(before: tuple[LoopStmt, ...], body: LoopStmt) -> bool:
    started = {each.buffer for stmt in before for each in elements(stmt) if each.written}
    return any(
        isinstance(each, Store)
        and each.buffer in started
        and any(isinstance(arg, Load) and arg.buffer == each.buffer for arg in _arguments(each))
        for each in walk_statements(body)
    )


def _arguments(store: Store) -> tuple[LoopExpr, ...]:
    return store.value.args if isinstance(store.value, Op) else (store.value,)


def names_of_both(one: str, two: str) -> str:
    """``A on x`` and ``B on x`` are ``A, B on x``; ``copy A in`` likewise."""
    for pattern in (
        r"(?P<pre>)(?P<own>.+)(?P<post> on .+)",
        r"(?P<pre>copy )(?P<own>.+)(?P<post> in)",
    ):
        first, second = (re.fullmatch(pattern, each) for each in (one, two))
        if first and second and first["post"] == second["post"]:
            return f"{first['pre']}{first['own']}, {second['own']}{first['post']}"
    return ", ".join(filter(None, (one, two)))


# --- conditions that end a loop ---------------------------------------------------------------


def _ended(loop: For, ranges: Ranges) -> For:
    """Return a loop that stops where a condition on all of its body would fail from then on."""
    body = loop.body
    while isinstance(body, Block) and len(body.body) == 1 and not body.comment:
        (body,) = body.body
    if not isinstance(body, If) or not isinstance(loop.extent, Const):
        return loop
    if not has_serial(body.body):
        return loop
    extent = constant(int(loop.extent.value))
    rest: list[LoopExpr] = []
    for test in conjuncts(body.condition):
        steps = _steps_until(test, loop.variable, ranges)
        if steps is None:
            rest.append(test)
        else:
            extent = minimum(extent, steps, ranges)
    inner = body.body
    for test in reversed(rest):
        inner = If(test, inner)
    return replace(loop, extent=to_expr(extent), body=inner)


def _steps_until(test: LoopExpr, variable: str, ranges: Ranges) -> Lin | None:
    """Return the number of first steps in which a comparison holds, None if it is not that."""
    sides = below(test)
    if sides is None:
        return None
    left, right, strict = sides
    factor = left[0].get(variable, 0) - right[0].get(variable, 0)
    if factor <= 0:
        return None
    room = subtract(_without(right, variable), _without(left, variable))
    if strict:
        room = add(room, constant(-1))
    steps = add(floor_divide(room, constant(factor), ranges), constant(1))
    return maximum(steps, constant(0), ranges)


def _without(form: Affine, variable: str) -> Lin:
    terms = tuple((Name(name), factor) for name, factor in form[0].items() if name != variable)
    return Lin(terms, form[1])

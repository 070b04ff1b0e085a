"""What the loops of a `Program` become on a CPU: threads, vector lanes, plain loops.

* The outermost loop of kind ``core`` or ``block`` runs in parallel, interleaved.
* Of the other spatial loops, the one that best reads and writes neighbouring elements becomes
  vector lanes (several vectors, where it is long). Buffers that live inside it get one element for
  each lane; layouts follow it (`tvm/layout.py`); what it accumulates over the serial loop around
  it stays in registers (`tvm/lanes.py`). A condition that tells lanes apart is tested once for all
  of them: if it holds for all, the vector loop runs without it; else with a choice of values, or,
  where that would read outside a buffer, as a plain loop.
* A sum, maximum, minimum or product along contiguous elements is accumulated in one partial
  result for each lane, and the partial results are folded at the end.
* A value that is used once goes straight into what uses it (`tvm/fuse.py`), and a condition that
  several nests test is tested once (`tvm/masks.py`).
* What fits none of these, and any loop whose iterations write the same element, is a plain loop.

Each step keeps the meaning of the program, except for the order of floating-point reductions;
the planned program is a `Program` still, and tests run both with `loops/interp.py`.

Excluded on purpose: choosing tiles and spatial loops, which is the mapping's business; GPUs
(`tvm/kernels.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
    Program,
    Store,
    walk_statements,
)
from penstock.codegen.loops.rewrite import map_bodies, map_expressions, placed, substituted
from penstock.codegen.loops.walk import all_buffers, expressions, loads
from penstock.codegen.tvm.fuse import fused, read_counts, used
from penstock.codegen.tvm.kernels import extent_of, race_free
from penstock.codegen.tvm.lanes import (
    FOLDS,
    accumulated,
    in_register,
    lanes_outside,
    only,
    predicated,
)
from penstock.codegen.tvm.layout import LANE_KINDS, packed, relaid
from penstock.codegen.tvm.masks import Masks
from penstock.codegen.tvm.math import MATH_NAMES
from penstock.codegen.tvm.pairs import in_pairs
from penstock.codegen.tvm.ranges import Ranges, holds, interval, names, stride
from penstock.codegen.tvm.registers import emitted
from penstock.codegen.tvm.rewrite import (
    conditions,
    hoisted,
    joined,
    privatised,
    renamed,
    unnested,
    without_ifs,
)
from penstock.codegen.tvm.script import LoopKind, identifiers, ranges_inside
from penstock.codegen.tvm.tiles import (
    Start,
    Tile,
    divided,
    factored,
    filled,
    find_tile,
    finished,
    scaled,
)

__all__ = ["plan"]

PARALLEL = frozenset(("core", "block"))
SHORT = 16
"""Below as many vectors a sum has one partial result: other sums beside it hide its latency."""

LANES = {"fp64": 8}
"""Elements of a vector of 64 bytes in the compute type; 16 unless it is here."""


def plan(
    program: Program, *, lanes: int = 0, pairs: bool = False
) -> tuple[Program, dict[str, LoopKind]]:
    """Decide what each loop becomes.

    Args:
        program: any.
        lanes: elements of a vector, a power of 2; 0 = as many as 64 bytes hold.
        pairs: whether the machine adds two products of bf16 numbers at a time.

    Returns:
        The program as TVM shall run it, and the kinds of its loops (others are serial).
    """
    exact = frozenset(("acc",) if program.format.bits < 32 else ("acc", "data"))
    kept = ("fp32", "fp64")
    formats = {e.name: (e.own or program.format).name for e in all_buffers(program)}
    rounded = frozenset(name for name, fmt in formats.items() if fmt not in kept)
    body = unnested(program.body, MATH_NAMES, rounded, set(identifiers(program)))
    program = relaid(replace(program, body=body))
    program = replace(program, body=fused(program.body, exact))
    planner = _Planner(program, lanes or LANES.get(program.format.name, 16), exact, pairs)
    body = planner.masks.introduced(planner.parallel(program.body), {})
    body = used(hoisted(planner.visit(body, {}), planner.kinds))
    loops = {each.variable for each in walk_statements(body) if isinstance(each, For)}
    return replace(program, body=body), {n: k for n, k in planner.kinds.items() if n in loops}


@dataclass
class _Planner:
    program: Program
    lanes: int
    exact: frozenset[str]
    pairs: bool = False
    vectors: int = 31
    kinds: dict[str, LoopKind] = field(default_factory=dict)
    fresh: int = 0
    used: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.buffers = {each.name: each for each in all_buffers(self.program)}
        self.used = set(identifiers(self.program))
        self.masks = Masks(self.buffers)
        self.reads = read_counts(self.program.body)

    def parallel(self, stmt: LoopStmt) -> LoopStmt:
        """Make one parallel loop of the outermost loops over cores or blocks."""
        match stmt:
            case For() if stmt.kind in PARALLEL and extent_of(stmt) > 1 and race_free(stmt, {}):
                loop = _fused(stmt, self.name)
                self.kinds[loop.variable] = "parallel"
                return loop
            case For() if stmt.kind in LANE_KINDS:
                return stmt
            case _:
                return map_bodies(stmt, self.parallel)

    def visit(self, stmt: LoopStmt, ranges: Ranges) -> LoopStmt:
        match stmt:
            case Block(body):
                return replace(stmt, body=self.run(body, ranges))
            case If(condition, body):
                return If(self.masks.meaning(condition), self.visit(body, ranges))
            case Alloc(buffer, body):
                return Alloc(buffer, self.visit(body, ranges))
            case For():
                return self.loop(stmt, ranges)
            case Store():
                return stmt

    def run(self, body: tuple[LoopStmt, ...], ranges: Ranges) -> tuple[LoopStmt, ...]:
        """Visit statements in order; a fill, a reduction and its reader may become one tile."""
        done: list[LoopStmt] = []
        place = 0
        while place < len(body):
            group = self.group(body[place : place + 3], ranges)
            done.append(self.visit(body[place], ranges) if group is None else group[1])
            place += 1 if group is None else group[0]
        return tuple(done)

    def group(self, body: tuple[LoopStmt, ...], ranges: Ranges) -> tuple[int, LoopStmt] | None:
        """Return how many of the statements become one register tile, and that; or None."""
        tile = self.tile(body[1], ranges) if len(body) > 1 else None
        start = None if tile is None else filled(body[0], tile)
        if tile is None or start is None:
            return None
        unused = self.reads[tile.store.buffer] == 2
        whole = finished(tile, body[2], unused) if len(body) > 2 else None
        count = 2 if whole is None else 3
        whole = whole or tile
        whole = scaled(whole) if start.value.value == 0 else whole
        return count, self.registers(whole, start, ranges, Block(body[:count]))

    def tile(self, stmt: LoopStmt, ranges: Ranges) -> Tile | None:
        """Return a statement as a register tile, or None."""
        tile = find_tile(stmt, ranges, self.vectors, self.lanes)
        return tile if tile and self.buffers[tile.store.buffer].kind in self.exact else None

    def registers(
        self, tile: Tile, start: Start | None, ranges: Ranges, plain: LoopStmt
    ) -> LoopStmt:
        """Return a register tile; `plain` is what it is where that is not possible."""
        box = {**tile.box}
        known = dict(ranges)
        for each in tile.around:
            if isinstance(each, For):
                known = dict(ranges_inside(each, known))
                box |= {each.variable: known[each.variable]} if each.variable in known else {}
        inner = {each.variable for each in tile.around if isinstance(each, For)}
        unknown = frozenset(inner - box.keys())
        told = (*tile.telling, *tile.limits, *tile.provided, *(start.given if start else ()))
        tests = [self.full(c, box, unknown) for c in told]
        rows = [each.condition for each in tile.around if isinstance(each, If) and tests]
        sure = {c: test for c in rows if (test := self.full(c, box, unknown)) is not None}
        given = tile, start, ranges, self.buffers, self.lanes, self.name, frozenset(sure)
        made = emitted(*given, self.masks.meaning)
        other = self.copy(plain) if made.partial is None else made.partial
        every = joined([each for each in (*tests, *sure.values()) if each is not None])
        if None in tests:
            return self.masks.ready(other, self.tag())
        free = map_expressions(made.free, self.masks.meaning)
        if every is None:
            return free
        other = self.masks.ready(other, self.tag())
        return Block((If(every, free), If(Op("not", (every,)), other)))

    def full(self, condition: LoopExpr, box: Ranges, unknown: frozenset[str]) -> LoopExpr | None:
        """Return when a condition holds in all of a box; None if that cannot be told."""
        return holds(self.masks.meaning(condition), box, unknown)

    def name(self, base: str, kind: LoopKind) -> str:
        """Return a new name; a loop variable's is noted with the kind of its loop."""
        made = f"{base}{self.tag()}"
        self.used.add(made)
        if kind != "serial":
            self.kinds[made] = kind
        return made

    def loop(self, loop: For, ranges: Ranges) -> LoopStmt:
        if (tile := self.tile(loop, ranges)) is not None:
            return self.registers(tile, None, ranges, loop)
        if self.kinds.get(loop.variable) == "parallel":
            return self.inside(loop, ranges)
        if (made := self.side_by_side(loop, ranges)) is not None:
            return made
        new, fills, loop = self.copied(loop, ranges)
        if not new:
            return self.inside(loop, ranges)
        copied = [self.visit(each, ranges) for each in fills]
        inner: LoopStmt = Block((*copied, self.inside(loop, ranges)))
        for each in new:
            inner = Alloc(each, inner)
        return inner

    def copied(
        self, loop: For, ranges: Ranges
    ) -> tuple[tuple[Buffer, ...], tuple[LoopStmt, ...], For]:
        """Return copies of what a loop reads, in pairs and packed, their fills, and the loop."""
        pairs: tuple[Buffer, ...] = ()
        first: tuple[LoopStmt, ...] = ()
        if self.pairs:
            given = self.buffers, self.program.format, self.lanes, self.tile, self.tag()
            pairs, first, loop = in_pairs(loop, ranges, *given)
            self.buffers |= {each.name: each for each in pairs}
        new, fills, loop = packed(loop, ranges, self.buffers, self.tag())
        self.buffers |= {each.name: each for each in new}
        return (*pairs, *new), (*first, *fills), loop

    def inside(self, loop: For, ranges: Ranges) -> For:
        inner = ranges_inside(loop, ranges)
        return replace(loop, body=self.visit(loop.body, inner))

    def side_by_side(self, loop: For, ranges: Ranges) -> LoopStmt | None:
        """Return the loop with lanes, or None if it is a plain one."""
        made = self.reduction(loop, ranges)
        if made is None and (outside := lanes_outside(loop)) is not None:
            loop = outside
        if made is None and self.is_best(loop):
            made = self.vector(loop, ranges)
        return made

    # Vector lanes.

    def vector(self, loop: For, ranges: Ranges) -> LoopStmt | None:
        """Return the loop as vector lanes, or None if it cannot be."""
        if not race_free(loop, {}) or any(_tells(each, loop) for each in _extents(loop.body)):
            return None
        within = ranges_inside(loop, ranges)
        body = in_register(loop.body, within, self.buffers, self.exact, self.tag())
        loop = replace(loop, body=body)
        telling = [each for each in conditions(loop.body) if _tells(each, loop)]
        if not telling:
            return self.strips(replace(loop, body=map_expressions(body, self.masks.meaning)))
        box = _box(loop, ranges)
        inner = {each.variable for each in walk_statements(loop.body) if isinstance(each, For)}
        unknown = frozenset(inner - box.keys())
        tests = [self.full(each, box, unknown) for each in telling]
        known = [each for each in tests if each is not None]
        if len(known) != len(tests):
            return None
        free = without_ifs(loop.body, lambda each: each in telling)
        free = replace(loop, body=map_expressions(free, self.masks.meaning))
        every = known[0]
        for each in known[1:]:
            every = every if each == every else Op("and", (every, each))
        chosen = predicated(loop.body, within, self.buffers, tuple(telling))
        other = self.copy(replace(loop, kind=""))
        if chosen is not None:
            other = self.strips(replace(loop, body=chosen))
        other = self.masks.ready(other, self.tag())
        return Block((If(every, self.strips(free)), If(Op("not", (every,)), other)))

    def tag(self) -> str:
        """Return an ending that no name of the program has."""
        self.fresh += 1
        while any(each.endswith(f"_{self.fresh}") for each in self.used):
            self.fresh += 1
        return f"_{self.fresh}"

    def copy(self, stmt: LoopStmt) -> LoopStmt:
        """Return the statement again, with variables and buffers of its own."""
        return renamed(stmt, self.tag())

    def strips(self, loop: For) -> LoopStmt:
        """Cut a vector loop of any constant length: long vectors, then full ones, then the rest."""
        extent, wide = extent_of(loop), 4 * self.lanes
        long = extent // wide
        rest = extent - long * wide
        full = rest - rest % self.lanes
        cuts = [(0, long, wide), (long * wide, 1, full), (long * wide + full, 1, rest - full)]
        parts = [self.strip(loop, *cut) for cut in cuts if cut[1] and cut[2]]
        return parts[0] if len(parts) == 1 else Block(tuple(parts))

    def strip(self, loop: For, start: int, count: int, width: int) -> LoopStmt:
        """Return lanes ``start .. start + count * width - 1`` of a loop, `width` at a time."""
        copy = self.copy(loop)
        assert isinstance(copy, For)
        lane = copy.variable
        outer = f"{lane}_o"
        at: LoopExpr = Name(lane)
        if count > 1:
            at = Op("+", (Op("*", (Name(outer), Const(width, True))), at))
        if start:
            at = Op("+", (at, Const(start, True)))
        body = placed(copy.body, {lane: at})
        own, inner = privatised(replace(copy, extent=Const(width, True), body=body), width)
        self.kinds[lane] = "vectorized"
        made: LoopStmt = inner
        for each in reversed(own):
            self.buffers[each.name] = each
            made = Alloc(each, made)
        if count > 1:
            made = For(outer, Const(count, True), made)
        return made

    def is_best(self, loop: For) -> bool:
        """Whether lanes along this loop suit the accesses at least as well as along one inside."""
        if loop.kind in {"", *PARALLEL} or extent_of(loop) < 2:
            return False
        inside = [each for each in walk_statements(loop.body) if isinstance(each, For)]
        rivals = [_contiguity(each, each.variable) for each in inside if each.kind not in {""}]
        rivals += [0.95 for each in inside if self.accumulation(each) is not None]
        return _contiguity(loop, loop.variable) >= max(rivals, default=0.0)

    # Reductions along lanes.

    def accumulation(self, loop: For) -> _Accumulation | None:
        """Return the loop as an accumulation along contiguous elements, or None."""
        chain, stmt = [loop], loop.body
        while (inner := only(stmt)) is not None and isinstance(inner, For | If):
            if isinstance(inner, For):
                chain.append(inner)
            stmt = inner.body
        last = chain[-1]
        store = only(stmt)
        if not isinstance(store, Store) or last.kind in PARALLEL:
            return None
        rest = accumulated(store)
        moved = {each.variable for each in chain}
        if rest is None or any(names(index) & moved for index in store.indices):
            return None
        extent = interval(last.extent, {each.variable: (0, 1 << 30) for each in chain})
        if isinstance(last.extent, Const) and extent is not None and extent[1] < self.lanes:
            return None
        if not _along(rest[1], last.variable):
            return None
        return _Accumulation(store, rest[0], rest[1], last)

    def reduction(self, loop: For, ranges: Ranges) -> LoopStmt | None:
        """Return an accumulation with a partial result for each lane, or None."""
        found = self.accumulation(loop)
        if found is None:
            return None
        last, scale = found.loop, None
        if found.op == "+":
            rest, scale = factored(found.rest)
            found = replace(found, rest=rest)
        tag = self.tag()
        short = isinstance(last.extent, Const) and extent_of(last) < SHORT * self.lanes
        width = self.lanes if short else 4 * self.lanes
        part = Buffer(f"{found.store.buffer}_part{tag}", (width,), "acc")
        self.buffers[part.name] = part
        start = self.each_lane(f"i{tag}", width, part, lambda _: Const(FOLDS[found.op]))
        chain = _swapped(loop, last, self.partial(found, part, tag, ranges))
        chain = map_expressions(chain, self.masks.meaning)
        folds: list[LoopStmt] = []
        while width > 1:
            width //= 2
            folds.append(self.fold(found, part, width, tag))
        store = found.store
        made: LoopExpr = Load(part.name, (_ZERO,))
        made = made if scale is None else Op("*", (made, scale))
        total = Op(found.op, (Load(store.buffer, store.indices), made))
        end = Store(store.buffer, store.indices, total)
        return Alloc(part, Block((start, chain, *folds, end)))

    def each_lane(
        self, name: str, width: int, part: Buffer, value: Callable[[LoopExpr], LoopExpr]
    ) -> For:
        """Return a vector loop that stores a value in the first elements of a buffer."""
        self.kinds[name] = "vectorized"
        lane = Name(name)
        return For(name, Const(width, True), Store(part.name, (lane,), value(lane)))

    def fold(self, found: _Accumulation, part: Buffer, width: int, tag: str) -> For:
        def value(lane: LoopExpr) -> LoopExpr:
            high = Op("+", (lane, Const(width, True)))
            return Op(found.op, (Load(part.name, (lane,)), Load(part.name, (high,))))

        return self.each_lane(f"f{width}{tag}", width, part, value)

    def partial(self, found: _Accumulation, part: Buffer, tag: str, ranges: Ranges) -> LoopStmt:
        """Return the innermost loop, accumulating into one element for each lane."""
        last, width = found.loop, part.shape[0]
        by, name = Const(width, True), last.variable
        lane, outer, left = f"{name}_l{tag}", f"{name}_o{tag}", f"{name}_t{tag}"
        count, remainder = divided(last.extent, width)
        at = Op("+", (Op("*", (Name(outer), by)), Name(lane)))
        whole = For(lane, by, _accumulating(last.body, found, part, {name: at}, lane), "simd")
        inner = {**ranges, lane: (0, width - 1)}
        made = self.vector(whole, inner) or replace(whole, kind="")
        parts: list[LoopStmt] = [For(outer, count, made)] if count != _ZERO else []
        if remainder != _ZERO:
            after = Op("+", (Op("*", (count, by)), Name(left)))
            body = _accumulating(last.body, found, part, {name: after}, left)
            parts.append(For(left, remainder, body))
        return Block(tuple(parts))


def _fused(loop: For, fresh: Callable[[str, LoopKind], str]) -> For:
    """Make one loop of parallel loops that stand directly inside each other."""
    inner = only(loop.body)
    if not isinstance(inner, For) or inner.kind not in PARALLEL or not race_free(inner, {}):
        return loop
    if not isinstance(inner.extent, Const):
        return loop
    inner = _fused(inner, fresh)
    by, name = Const(extent_of(inner), True), fresh(f"{loop.variable}_{inner.variable}", "serial")
    values = {loop.variable: Op("//", (Name(name), by)), inner.variable: Op("%", (Name(name), by))}
    body = placed(inner.body, values)
    count = Const(extent_of(loop) * extent_of(inner), True)
    comment = f"{loop.comment} {inner.comment}"
    return replace(loop, variable=name, extent=count, body=body, comment=comment)


@dataclass(frozen=True, slots=True)
class _Accumulation:
    """``X[..] = op(X[..], rest)`` inside `loop`, the innermost of a chain that X is fixed in."""

    store: Store
    op: str
    rest: LoopExpr
    loop: For


_ZERO = Const(0, True)


def _accumulating(
    stmt: LoopStmt,
    found: _Accumulation,
    part: Buffer,
    values: Mapping[str, LoopExpr],
    lane: str,
) -> LoopStmt:
    """Return the body of the innermost loop with its store redirected to one lane's element."""
    match stmt:
        case If(condition, body):
            inner = _accumulating(body, found, part, values, lane)
            return If(substituted(condition, values), inner)
        case Block(body):
            return _accumulating(body[0], found, part, values, lane)
        case _:
            element = Load(part.name, (Name(lane),))
            value = Op(found.op, (element, substituted(found.rest, values)))
            return Store(part.name, element.indices, value)


def _swapped(stmt: LoopStmt, old: For, new: LoopStmt) -> LoopStmt:
    if stmt is old:
        return new
    match stmt:
        case Block(body):
            return replace(stmt, body=tuple(_swapped(each, old, new) for each in body))
        case For() | If():
            return replace(stmt, body=_swapped(stmt.body, old, new))
        case _:
            return stmt


def _along(expr: LoopExpr, variable: str) -> bool:
    """Whether all loads are of neighbours, or of one element, as the variable moves."""
    found = [_step(load.indices, variable) for load in loads(expr)]
    return 1 in found and all(each in (0, 1) for each in found)


def _step(indices: tuple[LoopExpr, ...], variable: str) -> int | None:
    """Return 1 if elements are neighbours, 0 if they are the same, None otherwise."""
    steps = [stride(index, variable) for index in indices]
    if any(steps[:-1]) or None in steps:
        return None
    last = steps[-1] if steps else 0
    return last if last in (0, 1) else None


def _contiguity(loop: For, variable: str) -> float:
    """Return the share of accesses inside a loop, inner ones weighing more, that suit lanes."""
    own = {each.buffer.name for each in walk_statements(loop.body) if isinstance(each, Alloc)}
    good = total = 0.0
    for weight, stmt in _weighted(loop.body, 1.0):
        found = [(each.buffer, each.indices) for e in expressions(stmt) for each in loads(e)]
        if isinstance(stmt, Store):
            found.append((stmt.buffer, stmt.indices))
        for buffer, indices in found:
            suits = buffer in own or _step(indices, variable) is not None
            good, total = good + weight * suits, total + weight
    return good / total if total else 0.0


def _weighted(stmt: LoopStmt, weight: float) -> Iterator[tuple[float, LoopStmt]]:
    yield weight, stmt
    match stmt:
        case Block(body):
            for each in body:
                yield from _weighted(each, weight)
        case For():
            yield from _weighted(stmt.body, weight * 8)
        case If() | Alloc():
            yield from _weighted(stmt.body, weight)
        case Store():
            pass


def _extents(stmt: LoopStmt) -> Iterator[LoopExpr]:
    for each in walk_statements(stmt):
        if isinstance(each, For):
            yield each.extent


def _tells(expr: LoopExpr, loop: For) -> bool:
    """Whether an expression inside a loop can differ between its iterations."""
    own = {each.buffer.name for each in walk_statements(loop.body) if isinstance(each, Alloc)}
    return loop.variable in names(expr) or any(load.buffer in own for load in loads(expr))


def _box(loop: For, ranges: Ranges) -> Ranges:
    """Return the ranges of a loop's variable and of those inside it that are known."""
    known = dict(ranges_inside(loop, ranges))
    for each in walk_statements(loop.body):
        if isinstance(each, For):
            known = dict(ranges_inside(each, known))
    inner = {each.variable for each in walk_statements(loop.body) if isinstance(each, For)}
    return {name: known[name] for name in (loop.variable, *inner) if name in known}

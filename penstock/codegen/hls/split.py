"""Loops → tasks joined by streams: memory readers, stages of the computation, memory writers.

Every task has the loops and conditions of the program and keeps only its own statements; what one
needs from the other goes through a stream, at the same place of both::

    for m:                          read_K:               compute:
      for e:                          for m:                for m:
        KB[e] = K[m, e]        →        for e:                for e:
      ... KB ...                          K_s = K[m, e]         KB[e] = K_s
                                                              ... KB ...

A token is what one step of the innermost serial loop needs: one element, or one for each place
side by side (a word). Writers are the mirror image; a store under a condition that the writer
cannot know sends that condition along. All tasks pass their streams in program order, so that one
token of room in each is enough where a step ends before the next begins; a pipelined task that
writes later than it reads may need more (`penstock.pipelines`).

What a later stage of the computation reads is sent in the same way by the one that writes it. A
tensor that cannot be streamed (`hls/direct.py`) stays with the computation, which has its port.

Excluded on purpose: which statement belongs to which stage (`hls/stages.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from penstock.codegen.hls.direct import direct_tensors
from penstock.codegen.hls.loops import conjuncts, has_serial, one_of
from penstock.codegen.hls.stages import Stages, stages_of
from penstock.codegen.loops.nodes import (
    Alloc,
    Block,
    Buffer,
    Const,
    For,
    If,
    Kind,
    Load,
    LoopExpr,
    LoopStmt,
    Name,
    Op,
    Program,
    Store,
    walk_statements,
)
from penstock.codegen.loops.rewrite import placed, unused
from penstock.codegen.loops.walk import elements, names, walk_expression
from penstock.codegen.lower.index import atom, has_load, integer, range_of
from penstock.einsum_ir.formats import Format

__all__ = ["Stream", "Task", "Tasks", "split", "stages_in"]


Parts = dict[str, list[LoopStmt]]
"""Task → its statements, in order."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A FIFO between two tasks.

    Args:
        name: unique in the program.
        tensor: whose elements go through it.
        reader: the task that takes them out.
        kind: of the elements, as in `Buffer.kind`.
        lanes: elements of one token.
        depth: tokens that it holds.
        memory: of the target that holds them, "" for registers.
        reason: the mapping decision behind the depth.
        own: the format of its elements, as in `Buffer.own`.
    """

    name: str
    tensor: str
    reader: str
    kind: Kind
    lanes: int
    depth: int = 2
    memory: str = ""
    reason: str = "one token is written while one is read"
    own: Format | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """A function of the pipeline.

    Args:
        name: e.g. ``read_K``.
        body: its statements; a stream is read and written like a buffer without dimensions.
        ports: the parameters of the program that it uses.
        streams: names of those that it uses, those that it reads first.
    """

    name: str
    body: LoopStmt
    ports: tuple[str, ...]
    streams: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tasks:
    """A program as tasks: readers, the computation, writers.

    Args:
        program: the program, its body that of all tasks one after another, with the streams as
            buffers without dimensions.
        tasks: in an order in which they could run one after another.
        streams: by name.
        words: names of the buffers that hold one token of several elements.
        direct: tensors that the computation itself reads or writes in the outer memory, with the
            reason.
    """

    program: Program
    tasks: tuple[Task, ...]
    streams: dict[str, Stream]
    words: frozenset[str]
    direct: dict[str, str]

    def with_tasks(self, tasks: tuple[Task, ...]) -> Tasks:
        """Return other tasks with the same streams."""
        joined: LoopStmt = Block(tuple(task.body for task in tasks))
        for each in self.streams.values():
            joined = Alloc(Buffer(each.name, (), each.kind, own=each.own), joined)
        return replace(self, program=replace(self.program, body=joined), tasks=tasks)

    def with_depths(self, depths: Mapping[str, int]) -> Tasks:
        """Return the tasks with other depths of their streams."""
        streams = {n: replace(each, depth=depths[n]) for n, each in self.streams.items()}
        return replace(self, streams=streams)


def stages_in(program: Program, workspace: frozenset[str]) -> tuple[dict[str, str], Stages]:
    """Return the tensors without tasks of their own (with the reason), and who computes what.

    Arguments as for `split`.
    """
    direct = direct_tensors(program)
    given = {each.name for each in (*program.inputs, *program.outputs)}
    return direct, stages_of(program, frozenset(given - direct.keys()), workspace | direct.keys())


def split(
    program: Program, workspace: frozenset[str], tiles: Mapping[str, str] | None = None
) -> Tasks:
    """Split a program into tasks.

    Args:
        program: any, spatial loops inside serial ones (`hls.loops.sink_spatial`).
        workspace: names of its intermediates that live in the outer memory.
        tiles: buffers that belong to the writer of an output → that output (`hls/rows.py`).
    """
    direct, stages = stages_in(program, workspace)
    splitter = _Split(program, direct, stages, tiles or {})
    parts = splitter.statement(program.body, (), ())
    ports = {each.name for each in (*program.inputs, *program.outputs)} | workspace
    order = [f"read_{each.name}" for each in program.inputs]
    order += [*stages.names, *(f"write_{each.name}" for each in program.outputs)]
    tasks = []
    for name in order:
        if name in parts:
            body = one_of(parts[name])
            tasks.append(_task(name, body, ports, splitter.streams))
    if not tasks:
        tasks.append(Task(stages.names[0], Block(()), (), ()))
    words = frozenset(splitter.words)
    return Tasks(program, (), splitter.streams, words, direct).with_tasks(tuple(tasks))


def _task(name: str, body: LoopStmt, ports: set[str], streams: dict[str, Stream]) -> Task:
    found = tuple(elements(body))
    used = tuple(dict.fromkeys(each.buffer for each in found if each.buffer in ports))
    read = [each.buffer for each in found if not each.written and each.buffer in streams]
    written = [each.buffer for each in found if each.written and each.buffer in streams]
    return Task(name, body, used, tuple(dict.fromkeys([*read, *written])))


@dataclass(frozen=True, slots=True)
class _Access:
    """A store, the unrolled loops around it, the conditions around it below the serial loops."""

    store: Store
    lanes: tuple[For, ...]
    guards: tuple[LoopExpr, ...]


def _accesses(
    stmt: LoopStmt, lanes: tuple[For, ...] = (), guards: tuple[LoopExpr, ...] = ()
) -> Iterator[_Access]:
    match stmt:
        case Block(body):
            for each in body:
                yield from _accesses(each, lanes, guards)
        case Alloc(_, body):
            yield from _accesses(body, lanes, guards)
        case If(condition, body):
            yield from _accesses(body, lanes, (*guards, condition))
        case For():
            yield from _accesses(stmt.body, (*lanes, stmt), guards)
        case Store():
            yield _Access(stmt, lanes, guards)


@dataclass
class _Site:
    """One step of the innermost serial loop, while it is split.

    ``received`` is what each of its tasks takes from readers; ``before`` and ``after`` are what the
    computation does besides its statement, ``registers``
    what it needs for that, ``above`` the conditions around all of it.
    """

    above: tuple[LoopExpr, ...]
    parts: Parts = field(default_factory=dict)
    received: dict[str, list[Store]] = field(default_factory=dict)
    before: list[LoopStmt] = field(default_factory=list)
    after: list[Store] = field(default_factory=list)
    registers: list[Buffer] = field(default_factory=list)

    def part(self, task: str) -> list[LoopStmt]:
        """Return the statements of another task, to be added to."""
        return self.parts.setdefault(task, [])


@dataclass
class _Split:
    """Splits one program; makes streams, words and loop variables."""

    program: Program
    direct: dict[str, str]
    stages: Stages
    tiles: Mapping[str, str]
    streams: dict[str, Stream] = field(default_factory=dict)
    words: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        program = self.program
        statements = tuple(walk_statements(program.body))
        locals_ = {each.buffer.name: each.buffer for each in statements if isinstance(each, Alloc)}
        given = {each.name: each for each in (*program.inputs, *program.outputs)}
        self.buffers = given | locals_
        self.inputs = {each.name for each in program.inputs} - self.direct.keys()
        self.outputs = {each.name for each in program.outputs} - self.direct.keys()
        self.taken = {*self.buffers}
        self.ranges: dict[str, tuple[int, int]] = {}
        for each in statements:
            if isinstance(each, For):
                self.taken.add(each.variable)
                _, high = range_of(atom(each.extent), self.ranges)
                self.ranges[each.variable] = (0, max(0, int(high) - 1))

    def fresh(self, base: str) -> str:
        """Return a name that nothing has."""
        return unused(base, self.taken, 2)

    # -- control ---------------------------------------------------------------------------

    def statement(
        self, stmt: LoopStmt, above: tuple[LoopExpr, ...], tasks: tuple[str, ...]
    ) -> Parts:
        """Return what each task does of a statement.

        Args:
            stmt: the statement.
            above: the conditions around it.
            tasks: those of the computation that do it.
        """
        tasks = self.stages.done_by.get(id(stmt), tasks)
        tile = self.leaving(stmt)
        if tile is not None:
            return {f"write_{self.tiles[tile]}": [stmt]}
        match stmt:
            case Block(body, comment):
                return self.block(body, comment, above, tasks)
            case Alloc(buffer, body):
                return self.allocated(buffer, self.statement(body, above, tasks))
            case For() if has_serial(stmt):
                parts = self.statement(stmt.body, above, tasks)
                return {t: [_needed(replace(stmt, body=one_of(b)))] for t, b in parts.items()}
            case If(condition, body) if not has_load(condition):
                parts = self.statement(body, (*above, condition), tasks)
                return {t: [If(condition, one_of(b))] for t, b in parts.items()}
            case If(condition, body) if has_serial(body):
                parts = self.statement(body, above, tasks)  # all of it is `direct`
                assert parts.keys() <= set(self.stages.names)
                return {t: [If(condition, one_of(b))] for t, b in parts.items()}
            case _:
                return self.leaf(stmt, above, tasks)

    def leaving(self, stmt: LoopStmt) -> str | None:
        """Return the tile whose elements a statement sends out, or starts, and nothing else."""
        if not self.tiles or isinstance(stmt, Alloc):
            return None
        found = list(elements(stmt))
        used = {each.buffer for each in found} & self.tiles.keys()
        if len(used) != 1:
            return None
        (tile,) = used
        own = {each.buffer for each in found} <= {tile, self.tiles[tile]}
        return tile if own and has_serial(stmt) else None

    def allocated(self, buffer: Buffer, parts: Parts) -> Parts:
        """Give every task of the computation that uses a buffer one of its own."""
        result = dict(parts)
        if buffer.name in self.tiles:
            task = f"write_{self.tiles[buffer.name]}"
            return {**parts, task: [Alloc(buffer, one_of(parts[task]))]}
        for task in self.stages.names:
            if task in parts and (
                len(self.stages.names) == 1
                or any(e.buffer == buffer.name for each in parts[task] for e in elements(each))
            ):
                result[task] = [Alloc(buffer, one_of(parts[task]))]
        return result

    def block(
        self,
        body: tuple[LoopStmt, ...],
        comment: str,
        above: tuple[LoopExpr, ...],
        tasks: tuple[str, ...],
    ) -> Parts:
        result: Parts = {}
        for each in body:
            for task, stmts in self.statement(each, above, tasks).items():
                result.setdefault(task, []).extend(stmts)
        if comment:
            return {task: [Block(tuple(stmts), comment)] for task, stmts in result.items()}
        return result

    # -- one step of the innermost serial loop ---------------------------------------------

    def leaf(self, stmt: LoopStmt, above: tuple[LoopExpr, ...], tasks: tuple[str, ...]) -> Parts:
        """Split a statement without serial loops."""
        site = _Site(above)
        accesses = tuple(_accesses(stmt))
        swaps = self.fetches(accesses, site, tasks)
        leaves = self.outputs | self.tiles.keys() | self.stages.mirrors.keys()
        if isinstance(stmt, Store) and stmt.value in swaps and stmt.buffer not in leaves:
            for task in tasks:
                (receive,) = site.received[task]
                site.parts[task] = [replace(stmt, value=receive.value)]
            return site.parts
        new = [self.store(each, swaps, site) for each in accesses]
        body = _mapped(stmt, iter(new))
        for task in tasks:
            before = [*site.received.get(task, ()), *site.before]
            stmts = [*before, *([] if body is None else [body]), *site.after]
            if stmts:
                whole = one_of(stmts)
                for buffer in reversed(site.registers):
                    whole = Alloc(buffer, whole)
                site.parts[task] = [whole]
        return site.parts

    def fetches(
        self, accesses: tuple[_Access, ...], site: _Site, tasks: tuple[str, ...]
    ) -> dict[Load, Load]:
        """Return load of a streamed input → load of what came through its stream."""
        wanted: dict[Load, tuple[tuple[For, ...], list[LoopExpr]]] = {}
        for access in accesses:
            for load in _loads(access.store.value, self.inputs):
                used = tuple(e for e in access.lanes if e.variable in names(*load.indices))
                hidden = {e.variable for e in access.lanes if e not in used}
                guards = [g for g in access.guards if hidden.isdisjoint(names(g))]
                guards = [g for g in guards if not has_load(g)]
                for task in tasks:
                    self.deepen(self.stream(load.buffer, _together(used), task), access, load)
                if load in wanted:
                    guards = [g for g in wanted[load][1] if g in guards]
                wanted[load] = (used, guards)
        swaps: dict[Load, Load] = {}
        for load, (used, guards) in wanted.items():
            lanes = _together(used)
            word = self.word(load.buffer, lanes, self.buffers[load.buffer].kind, site.registers)
            streams = {task: self.stream(load.buffer, lanes, task) for task in tasks}
            for task, stream in streams.items():
                receive = Store(word.name, (), Load(stream, ()))
                site.received.setdefault(task, []).append(receive)
            swaps[load] = Load(word.name, _flat(used))
            tests = [*guards, *self.inside(load, (*site.above, *guards))]
            reader = self.reader(load, used, tests, tuple(streams.values()))
            site.part(f"read_{load.buffer}").append(reader)
        return swaps

    def reader(
        self,
        load: Load,
        used: tuple[For, ...],
        tests: list[LoopExpr],
        streams: tuple[str, ...],
    ) -> LoopStmt:
        """Return what puts one token of an input into its streams."""
        if not used and not tests and len(streams) == 1:
            return Store(streams[0], (), load)
        made: list[Buffer] = []
        word = self.word(load.buffer, _together(used), self.buffers[load.buffer].kind, made)
        fill = _guarded(tests, Store(word.name, _flat(used), load))
        clear = [Store(word.name, (), Const(0.0))] if tests and not used else []
        sends = (Store(each, (), Load(word.name, ())) for each in streams)
        return Alloc(word, Block((*clear, self.renamed(fill, used), *sends)))

    def renamed(self, stmt: LoopStmt, lanes: tuple[For, ...]) -> LoopStmt:
        """Put a statement into unrolled loops of its own."""
        fresh = {each.variable: Name(self.fresh(each.variable)) for each in lanes}
        body = placed(stmt, fresh)
        for each in reversed(lanes):
            body = replace(each, variable=fresh[each.variable].name, body=body)
        return body

    def inside(self, load: Load, known: tuple[LoopExpr, ...]) -> Iterator[LoopExpr]:
        """Yield what must be tested so that an element exists."""
        facts = {part for each in known for part in conjuncts(each)}
        extents = self.buffers[load.buffer].shape
        for index, extent in zip(load.indices, extents, strict=True):
            low, high = range_of(atom(index), self.ranges)
            if low < 0:
                yield Op(">=", (index, integer(0)))
            above = Op("<", (index, integer(extent)))
            if high >= extent and above not in facts:
                yield above

    # -- what leaves a task ----------------------------------------------------------------

    def store(self, access: _Access, swaps: dict[Load, Load], site: _Site) -> LoopStmt | None:
        """Return what the computation does of a store; the other tasks' share goes to the site."""
        store = replace(access.store, value=_swapped(access.store.value, swaps))
        targets: tuple[str, ...] = self.stages.mirrors.get(store.buffer, ())
        if store.buffer in self.outputs or store.buffer in self.tiles:
            targets = (f"write_{self.tiles.get(store.buffer, store.buffer)}",)
        if not targets:
            return store
        readers = self.stages.readers.get(store.buffer, frozenset())
        own = store.buffer not in self.tiles and not readers <= {*targets}
        pure = [each for each in access.guards if not has_load(each)]
        if isinstance(store.value, Const) and len(pure) == len(access.guards):
            for task in targets:
                alone = self.renamed(_guarded(pure, store), access.lanes)
                site.part(task).append(alone)
            return store if own else None
        if not access.lanes and not access.guards and len(targets) == 1 and not own:
            stream = self.stream(store.buffer, 1, targets[0])
            site.part(targets[0]).append(replace(store, value=Load(stream, ())))
            return Store(stream, (), store.value)
        sent = self.sent(replace(access, store=store), pure, site, targets)
        if not own:
            return sent[0] if len(sent) == 1 else Block(sent)
        first = sent[0]
        assert isinstance(first, Store)
        return Block((*sent, replace(store, value=Load(first.buffer, first.indices))))

    def sent(
        self, access: _Access, pure: list[LoopExpr], site: _Site, targets: tuple[str, ...]
    ) -> tuple[LoopStmt, ...]:
        """Return the store into a word; the site gets what sends it and what the targets do."""
        tensor, lanes, place = access.store.buffer, _together(access.lanes), _flat(access.lanes)
        kind = self.buffers[tensor].kind
        word = self.word(tensor, lanes, kind, site.registers)
        result: tuple[LoopStmt, ...] = (Store(word.name, place, access.store.value),)
        on = None
        if len(pure) < len(access.guards):  # the others cannot know all conditions: send them
            on = self.word(f"{tensor}_on", lanes, "mask", site.registers)
            site.before.append(self.renamed(Store(on.name, place, integer(0)), access.lanes))
            result = (*result, Store(on.name, place, integer(1)))
        for task in targets:
            back = self.word(tensor, lanes, kind, [])
            stream = self.stream(tensor, lanes, task)
            site.after.append(Store(stream, (), Load(word.name, ())))
            taken = [(back, Store(back.name, (), Load(stream, ())))]
            body: LoopStmt = Store(tensor, access.store.indices, Load(back.name, place))
            if on is not None:
                on_back = self.word(f"{tensor}_on", lanes, "mask", [])
                flags = self.stream(tensor, lanes, task, "mask")
                site.after.append(Store(flags, (), Load(on.name, ())))
                taken.append((on_back, Store(on_back.name, (), Load(flags, ()))))
                body = If(Load(on_back.name, place), body)
            whole = self.renamed(_guarded(pure, body), access.lanes)
            for buffer, take in reversed(taken):
                whole = Alloc(buffer, Block((take, whole)))
            site.part(task).append(whole)
        return result

    def deepen(self, name: str, access: _Access, load: Load) -> None:
        """Give a stream room for the next tile, where the mapping keeps two of them."""
        kept, stream = self.buffers.get(access.store.buffer), self.streams[name]
        if kept is None or kept.copies < 2 or access.store.value != load:
            return
        tile = math.ceil(math.prod(kept.shape) / stream.lanes) * (kept.copies - 1)
        if tile > stream.depth:
            reason = f"keep {load.buffer} in {kept.memory} x{kept.copies}: the next tile waits here"
            self.streams[name] = replace(stream, depth=tile, memory=kept.memory, reason=reason)

    # -- names -----------------------------------------------------------------------------

    def stream(self, tensor: str, lanes: int, reader: str, kind: Kind | None = None) -> str:
        """Return the stream of a tensor to a task whose tokens have so many elements."""
        wanted = (tensor, lanes, reader, kind or self.buffers[tensor].kind)
        for each in self.streams.values():
            if (each.tensor, each.lanes, each.reader, each.kind) == wanted:
                return each.name
        name = self.fresh(f"{tensor}_on_s" if kind == "mask" else f"{tensor}_s")
        own = self.own(tensor, wanted[3])
        self.streams[name] = Stream(name, tensor, reader, wanted[3], lanes, own=own)
        return name

    def own(self, tensor: str, kind: Kind) -> Format | None:
        """Return the format that elements of this kind have for themselves."""
        return None if kind == "mask" else self.buffers[tensor].own

    def word(self, tensor: str, lanes: int, kind: Kind, made: list[Buffer]) -> Buffer:
        """Return a new register for one token, and add it to `made`."""
        name = self.fresh(f"{tensor}_w")
        shape = (lanes,) if lanes > 1 else ()
        buffer = Buffer(name, shape, kind, own=self.own(tensor, kind))
        if lanes > 1:
            self.words.add(name)
        made.append(buffer)
        return buffer


def _needed(loop: For) -> LoopStmt:
    """Return a loop, or the only step of it that does anything."""
    body = loop.body
    if not isinstance(body, If):
        return loop
    here = Name(loop.variable)
    tests = list(conjuncts(body.condition))
    for test in tests:
        match test:
            case Op("==", (one, Const(value, True))) if one == here:
                rest = [each for each in tests if each is not test]
                step = _guarded(rest, body.body)
                return placed(step, {loop.variable: integer(int(value))})
    return loop


def _loads(expr: LoopExpr, buffers: set[str]) -> Iterator[Load]:
    for node in walk_expression(expr):
        if isinstance(node, Load) and node.buffer in buffers:
            yield node


def _together(lanes: tuple[For, ...]) -> int:
    """Return how many places the unrolled loops have."""
    extents = [each.extent for each in lanes]
    assert all(isinstance(each, Const) for each in extents), "spatial loops have constant extents"
    return math.prod(int(each.value) for each in extents if isinstance(each, Const))


def _flat(lanes: tuple[For, ...]) -> tuple[LoopExpr, ...]:
    """Return the index of a place in a word, () in one of a single element."""
    if _together(lanes) == 1:
        return ()
    index: LoopExpr = Name(lanes[0].variable)
    for each in lanes[1:]:
        index = Op("+", (Op("*", (index, integer(_together((each,))))), Name(each.variable)))
    return (index,)


def _guarded(tests: list[LoopExpr], stmt: LoopStmt) -> LoopStmt:
    for test in reversed(tests):
        stmt = If(test, stmt)
    return stmt


def _swapped(expr: LoopExpr, swaps: dict[Load, Load]) -> LoopExpr:
    match expr:
        case Load() if expr in swaps:
            return swaps[expr]
        case Op(op, args):
            return Op(op, tuple(_swapped(arg, swaps) for arg in args))
        case _:
            return expr


def _mapped(stmt: LoopStmt, new: Iterator[LoopStmt | None]) -> LoopStmt | None:
    """Replace the stores, in order; what is left empty goes."""
    match stmt:
        case Store():
            return next(new)
        case Block(body, comment):
            parts = [part for each in body if (part := _mapped(each, new)) is not None]
            return Block(tuple(parts), comment) if parts else None
        case For() | If() | Alloc():
            inner = _mapped(stmt.body, new)
            return None if inner is None else replace(stmt, body=inner)

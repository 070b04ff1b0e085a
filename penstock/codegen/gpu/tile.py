"""What a block of a streaming kernel does, in terms of tiles: matrix products and the code between.

`recognise` reads a launch of a program whose leaves are plain (`plain.py`) and finds the loop
over key tiles, the products in it, which of their sides is a tile in shared memory and which a
fragment in registers, and which dimension of every buffer is the row, the column or the depth of
a product. Nothing is looked up by name, and nothing but products is given a meaning: all other
statements stay statements, and are printed over fragments (`leaf.py`).

Excluded on purpose: what has no loop over tiles with a product in it, sums that are carried from
tile to tile as a product's left side (linear attention's state), and products whose right side is
computed in the loop; `Unfit` says which, and such launches stay plain kernels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from penstock.codegen.gpu.empty import needed
from penstock.codegen.gpu.private import with_private
from penstock.codegen.gpu.single import with_row
from penstock.codegen.gpu.unfit import Unfit
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
from penstock.codegen.loops.rewrite import map_expressions, map_leaves, substituted
from penstock.codegen.loops.walk import all_buffers, loads
from penstock.codegen.tvm.kernels import Kernel, extent_of
from penstock.codegen.tvm.ranges import interval, moves, names

__all__ = ["Copy", "Product", "Step", "TileKernel", "factors", "peeled", "recognise"]


@dataclass(frozen=True, slots=True)
class Copy:
    """An input that the mapping copies into shared memory, and in how many buffers."""

    tensor: str
    buffers: int


@dataclass(frozen=True, slots=True)
class Product:
    """``result[row, col] = sum over red of left[row, red] * right[col, red] * scale``.

    Args:
        result: the buffer, and how it is indexed.
        rows, cols, reds: the loops over rows, columns and depth.
        left: factors that depend on the depth, and not on the column; one expression.
        right: an element of a parameter.
        scale: what does not depend on the depth; None for 1.
        guards: conditions inside the loops.
        masks: what is marked as there when any term is.
        stage: of the mapping's modulo schedule.
    """

    result: Load
    rows: For
    cols: For
    reds: For
    left: LoopExpr
    right: Load
    scale: LoopExpr | None
    guards: tuple[LoopExpr, ...]
    masks: tuple[Store, ...]
    stage: int


@dataclass(frozen=True, slots=True)
class Step:
    """A statement over fragments, with the comment and the stage of its Einsum."""

    body: LoopStmt
    comment: str
    stage: int


@dataclass(frozen=True, slots=True)
class TileKernel:
    """A launch as tiles.

    Args:
        kernel: where it comes from.
        program: that the kernel is part of.
        before, after: what is done once, before and after the loop.
        loop: over key tiles; its body is not to be read.
        present: when a tile is visited; None for always.
        steps: what is done for each tile, in order.
        local: buffers of the block.
        copies: inputs that are copied, by parameter.
        classes: loop variable or (buffer, dimension) → class of the rank; 0 is the row.
    """

    kernel: Kernel
    program: Program
    before: tuple[Step, ...]
    loop: For
    present: LoopExpr | None
    steps: tuple[Product | Step, ...]
    after: tuple[Step, ...]
    local: dict[str, Buffer]
    copies: tuple[Copy, ...]
    classes: dict[str | tuple[str, int], int] = field(repr=False)

    @property
    def products(self) -> tuple[Product, ...]:
        """The matrix products of a step, in order."""
        return tuple(each for each in self.steps if isinstance(each, Product))


def recognise(kernel: Kernel, program: Program) -> TileKernel:
    """Read a launch as tiles.

    Raises:
        Unfit: it is none, with the reason.
    """
    if program.format.name not in ("bf16", "fp16"):
        raise Unfit(f"tensor cores take bf16 and fp16 here, and this is {program.format}")
    if any(each.own for each in all_buffers(program)):
        raise Unfit("tensors have formats of their own")
    kernel = _gridded(kernel)
    if not kernel.grid:
        raise Unfit("it has no grid")
    kernel = with_private(kernel, program)
    try:
        return _recognised(kernel, program)
    except Unfit as unfit:
        with contextlib.suppress(Unfit):
            return _recognised(with_row(kernel), program)
        raise unfit


def _recognised(kernel: Kernel, program: Program) -> TileKernel:
    local = {
        each.buffer.name: each.buffer
        for each in walk_statements(kernel.body)
        if isinstance(each, Alloc)
    }
    aliases, copies, statements = _without_copies(list(_flat(kernel.body)), local)
    place = _main_loop(statements)
    loop = statements[place]
    assert isinstance(loop, For)
    present, inner = _visited(loop.body)
    if present is None:
        around = {each.variable: (0, extent_of(each) - 1) for each in kernel.grid}
        present = needed(loop, inner, around)
    more, inside, body = _without_copies(list(_flat(inner)), local)
    aliases |= more
    steps = tuple(_step(_resolved(each, aliases), local) for each in body)
    made = TileKernel(
        kernel,
        program,
        tuple(_plain_step(_resolved(each, aliases)) for each in statements[:place]),
        loop,
        present,
        steps,
        tuple(_plain_step(_resolved(each, aliases)) for each in statements[place + 1 :]),
        {name: each for name, each in local.items() if name not in aliases},
        (*copies, *inside),
        {},
    )
    if not made.products:
        raise Unfit("no step of its loop over tiles is a matrix product")
    return replace(made, classes=_classes(made))


def _gridded(kernel: Kernel) -> Kernel:
    """Return a launch with all its block loops in the grid, the last steps of tiles included."""
    grid, body = kernel.grid, kernel.body
    while isinstance(body, For) and body.kind == "block" and _independent(body, grid):
        grid, body = (*grid, body), body.body
    return replace(kernel, grid=grid, body=body)


def _independent(loop: For, grid: tuple[For, ...]) -> bool:
    """Whether no two steps of a block loop write the same element of a parameter."""
    ranges = {each.variable: (0, extent_of(each) - 1) for each in (*grid, loop)}
    inner: dict[str, tuple[int, int]] = {}
    own = set()
    for stmt in walk_statements(loop.body):
        if isinstance(stmt, For):
            most = interval(stmt.extent, {**ranges, **inner})
            if most is None:
                return False
            inner[stmt.variable] = (0, max(most[1] - 1, 0))
        if isinstance(stmt, Alloc):
            own.add(stmt.buffer.name)
    return all(
        any(moves(index, loop.variable, inner) for index in stmt.indices)
        for stmt in walk_statements(loop.body)
        if isinstance(stmt, Store) and stmt.buffer not in own
    )


# -- statements ------------------------------------------------------------------------------------


def _flat(stmt: LoopStmt) -> Iterator[LoopStmt]:
    """Yield the statements of a body, in order, without the scopes of buffers."""
    match stmt:
        case Alloc(_, body):
            yield from _flat(body)
        case Block(body, "", _):
            for each in body:
                yield from _flat(each)
        case _:
            yield stmt


def _main_loop(statements: Sequence[LoopStmt]) -> int:
    """Return the place of the one serial loop around leaves: that over key tiles."""
    found = [
        place
        for place, each in enumerate(statements)
        if isinstance(each, For)
        and any(isinstance(inner, Block) and inner.comment for inner in walk_statements(each.body))
    ]
    if len(found) != 1:
        said = "no loop" if not found else f"{len(found)} loops"
        raise Unfit(f"it has {said} over tiles inside its grid, and one is wanted")
    return found[0]


def _visited(body: LoopStmt) -> tuple[LoopExpr | None, LoopStmt]:
    match body:
        case If(condition, inner):
            more, rest = _visited(inner)
            return condition if more is None else Op("and", (condition, more)), rest
        case Block((only,), "", _):
            return _visited(only)
        case _:
            return None, body


_Alias = tuple[tuple[str, ...], Load]


def _without_copies(
    statements: Sequence[LoopStmt], local: dict[str, Buffer]
) -> tuple[dict[str, _Alias], tuple[Copy, ...], list[LoopStmt]]:
    """Return what each copy of an input stands for, the copies, and the other statements."""
    aliases: dict[str, _Alias] = {}
    copies: list[Copy] = []
    rest: list[LoopStmt] = []
    for each in statements:
        store = _innermost(each)
        if (
            isinstance(each, For)
            and each.comment.startswith("copy ")
            and store is not None
            and isinstance(store.value, Load)
            and store.value.buffer not in local
        ):
            where = tuple(i.name if isinstance(i, Name) else "" for i in store.indices)
            aliases[store.buffer] = (where, store.value)
            copies.append(Copy(store.value.buffer, local[store.buffer].copies))
        else:
            rest.append(each)
    return aliases, tuple(copies), rest


def _innermost(stmt: LoopStmt) -> Store | None:
    inner = peeled(stmt)[2]
    return inner if isinstance(inner, Store) else None


def _resolved(stmt: LoopStmt, aliases: dict[str, _Alias]) -> LoopStmt:
    """Read inputs where they are, not from their copies."""

    def change(each: Name | Load) -> LoopExpr:
        if isinstance(each, Load) and each.buffer in aliases:
            where, source = aliases[each.buffer]
            given = {n: i for n, i in zip(where, each.indices, strict=True) if n}
            return Load(source.buffer, tuple(substituted(i, given) for i in source.indices))
        return each

    return map_expressions(stmt, lambda expr: map_leaves(expr, change))


def _plain_step(stmt: LoopStmt) -> Step:
    if isinstance(stmt, Block):
        return Step(replace(stmt, comment=""), stmt.comment, stmt.stage or 0)
    return Step(stmt, stmt.comment if isinstance(stmt, For) else "", 0)


def _step(stmt: LoopStmt, local: dict[str, Buffer]) -> Product | Step:
    made = _plain_step(stmt)
    found = _product(made, local)
    return made if found is None else found


# -- products --------------------------------------------------------------------------------------


def peeled(stmt: LoopStmt) -> tuple[tuple[For, ...], tuple[LoopExpr, ...], LoopStmt]:
    """Return the loops and the conditions around a statement, and the statement.

    A loop of varying extent is a condition too.
    """
    loops: list[For] = []
    guards: list[LoopExpr] = []
    while True:
        match stmt:
            case For(variable, extent, body):
                loops.append(stmt)
                if not isinstance(extent, Const):
                    guards.append(Op("<", (Name(variable), extent)))
                stmt = body
            case If(condition, body):
                guards.append(condition)
                stmt = body
            case Block((only,), _, _):
                stmt = only
            case _:
                return tuple(loops), tuple(guards), stmt


def _product(step: Step, local: dict[str, Buffer]) -> Product | None:
    """Return a leaf as a product; None if it is none."""
    loops, guards, stmt = peeled(step.body)
    if not isinstance(stmt, Alloc):
        return None
    match stmt.body:
        case Block((Store(start, _, Const(0.0)), For() as reds, Store() as put)) if len(loops) == 2:
            pass
        case _:
            return None
    if start != stmt.buffer.name or put.value != Load(start, ()):
        return None
    terms, inner, masks = _terms(reds, start)
    if terms is None:
        return None
    rows, cols = loops
    return _split(step, (rows, cols, reds), put, terms, (*guards, *inner), masks, local)


def _terms(reds: For, name: str) -> tuple[LoopExpr | None, tuple[LoopExpr, ...], tuple[Store, ...]]:
    """Return what is summed into a register, under which conditions, and what is marked."""
    loops, guards, stmt = peeled(reds)
    if len(loops) != 1:
        return None, (), ()
    listed = stmt.body if isinstance(stmt, Block) else (stmt,)
    match listed:
        case (Store(target, (), Op("+", (Load(same, ()), terms))), *masks) if (
            target == same == name
        ):
            marked = tuple(each for each in masks if isinstance(each, Store))
            return (terms if len(marked) == len(masks) else None), guards, marked
        case _:
            return None, (), ()


def _split(
    step: Step,
    loops: tuple[For, For, For],
    put: Store,
    terms: LoopExpr,
    guards: tuple[LoopExpr, ...],
    masks: tuple[Store, ...],
    local: dict[str, Buffer],
) -> Product | None:
    rows, cols, reds = loops
    left: LoopExpr | None = None
    scale: LoopExpr | None = None
    right: Load | None = None
    for factor in factors(terms):
        used = names(factor)
        if reds.variable not in used:
            scale = factor if scale is None else Op("*", (scale, factor))
        elif cols.variable not in used:
            left = factor if left is None else Op("*", (left, factor))
        elif right is None and isinstance(factor, Load) and factor.buffer not in local:
            right = factor
        else:
            return None
    if left is None or right is None or rows.variable in names(right):
        return None
    result = Load(put.buffer, put.indices)
    return Product(result, rows, cols, reds, left, right, scale, guards, masks, step.stage)


def factors(expr: LoopExpr) -> Iterator[LoopExpr]:
    """Yield the factors of a product; what is divided by is its inverse."""
    match expr:
        case Op("*", (left, right)):
            yield from factors(left)
            yield from factors(right)
        case Op("/", (left, right)):
            yield from factors(left)
            yield Op("/", (Const(1.0), right))
        case _:
            yield expr


# -- which dimension is what -----------------------------------------------------------------------


class _Union:
    """Loop variables and dimensions of buffers that go over the same rank of a tile."""

    def __init__(self) -> None:
        self.parent: dict[str | tuple[str, int], str | tuple[str, int]] = {}

    def find(self, key: str | tuple[str, int]) -> str | tuple[str, int]:
        self.parent.setdefault(key, key)
        while self.parent[key] != key:
            key = self.parent[key]
        return key

    def join(self, one: str | tuple[str, int], other: str | tuple[str, int]) -> None:
        self.parent[self.find(one)] = self.find(other)


def _classes(made: TileKernel) -> dict[str | tuple[str, int], int]:
    """Return the class of every loop variable and dimension inside the block."""
    union = _Union()
    bodies = [each.body for each in (*made.before, *made.after)]
    bodies += [each.body for each in made.steps if isinstance(each, Step)]
    for body in bodies:
        for stmt in walk_statements(body):
            if isinstance(stmt, For):
                union.find(stmt.variable)
            _join_accesses(union, stmt, made.local)
    for each in made.products:
        union.join(each.rows.variable, made.products[0].rows.variable)
        for variable in (each.cols.variable, each.reds.variable):
            union.find(variable)
        for load in (each.result, *loads(each.left)):
            _join(union, load, made.local)
        for mask in each.masks:
            _join(union, Load(mask.buffer, mask.indices), made.local)
    row = union.find(made.products[0].rows.variable)
    roots = dict.fromkeys((row, *(union.find(key) for key in union.parent)))
    numbers = {root: number for number, root in enumerate(roots)}
    return {key: numbers[union.find(key)] for key in union.parent}


def _join_accesses(union: _Union, stmt: LoopStmt, local: dict[str, Buffer]) -> None:
    match stmt:
        case Store(name, indices, value):
            exprs: tuple[LoopExpr, ...] = (Load(name, indices), value)
        case If(condition, _):
            exprs = (condition,)
        case _:
            exprs = ()
    for expr in exprs:
        for load in loads(expr):
            _join(union, load, local)


def _join(union: _Union, load: Load, local: dict[str, Buffer]) -> None:
    if load.buffer not in local:
        return
    shape = local[load.buffer].shape
    for place, (index, extent) in enumerate(zip(load.indices, shape, strict=True)):
        if extent == 1 and not isinstance(index, Name):
            continue
        if not isinstance(index, Name):
            raise Unfit(f"{load.buffer} is read at a computed place of a tile")
        union.join((load.buffer, place), index.name)

"""Statements of a program, printed over the fragments of a thread.

A loop over rows goes over those that the thread has, and so does one over columns; what is folded
over columns is folded over the thread's own and then over the four lanes of the row. A condition
guards the stores below it; one that a whole tile meets is tested in the tiles where it is not known
to hold (``ps_full`` says where it is).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from penstock.codegen.gpu.fragment import Layout, named
from penstock.codegen.gpu.met import Met
from penstock.codegen.gpu.spell import Speller, flat, variable
from penstock.codegen.gpu.tile import Product, Step, TileKernel
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
    Store,
    walk_statements,
)
from penstock.codegen.loops.walk import expressions, loads
from penstock.codegen.tvm.ranges import holds, names

__all__ = ["LeafPrinter", "block_lines"]

_FOLDS = {
    "+": ("sum", 0.0),
    "max": ("max", float("-inf")),
    "min": ("min", float("inf")),
    "*": ("prod", 1.0),
}


def block_lines(lines: list[str], pad: str = "  ") -> list[str]:
    """Return lines one level further in."""
    return [pad + line for line in lines]


@dataclass
class LeafPrinter:
    """Prints statements.

    Args:
        made: the kernel.
        layout: its fragments.
        parameters: buffers in global memory, by name.
        full: conditions, without rows and columns, under which a tile needs no tests; found while
            printing.
    """

    made: TileKernel
    layout: Layout
    parameters: Mapping[str, Buffer]
    full: dict[str, None] = field(default_factory=dict)
    scalars: dict[str, Buffer] = field(default_factory=dict)
    inside: bool = False

    def __post_init__(self) -> None:
        self.buffers = {**self.made.local, **self.parameters}
        self.speller = Speller(self.buffers, frozenset(self.parameters), self._element, {})
        self.once = frozenset(_written_once(self.made))
        self.met = Met(self.layout, self.made.classes)

    # -- elements ------------------------------------------------------------------------------

    def _element(self, load: Load) -> str | None:
        name = load.buffer
        shape = self.layout.shapes[name]
        match shape.kind:
            case "scalar":
                return f"x_{name}" if name in self.scalars else f"x_{name}[0]"
            case "row":
                return f"x_{name}[r_{named(load, shape.row_at)}]"
            case "col":
                col = named(load, shape.col_at)
                return f"x_{name}[2 * j_{col} + c_{col}]"
            case "matrix":
                place = self._place(load)
                bits = self.buffers[name].kind == "mask"
                return f"ps_bit(x_{name}, {place})" if bits else f"x_{name}[{place}]"
            case _:
                return None

    def _place(self, load: Load) -> str:
        shape = self.layout.shapes[load.buffer]
        return self._at(named(load, shape.row_at), named(load, shape.col_at))

    def _at(self, row: str, col: str) -> str:
        """Return the place in its fragment of the element that two loops are at."""
        if self.layout.blocks == 1:
            return f"4 * j_{col} + 2 * r_{row} + c_{col}"
        eights = self.layout.eights(self.made.classes[col])
        return f"4 * ({eights} * (r_{row} >> 1) + j_{col}) + 2 * (r_{row} & 1) + c_{col}"

    # -- loops ---------------------------------------------------------------------------------

    def _head(self, loop: For) -> tuple[list[str], list[str], list[str]]:
        """Return the lines that open a loop, that define its variable, and the closing ones."""
        number, name = self.made.classes.get(loop.variable), loop.variable
        value = variable(name)
        if number == 0:
            rows = 2 * self.layout.blocks
            text = f"ps_row + 8 * r_{name}"
            if rows > 2:
                text = f"ps_row + 16 * (r_{name} >> 1) + 8 * (r_{name} & 1)"
            if self.inside:
                text = f"ps_opaque({text})"
            return (
                ["#pragma unroll", f"for (int r_{name} = 0; r_{name} < {rows}; ++r_{name}) {{"],
                [f"const int {value} = {text};"],
                ["}"],
            )
        if number is None or not self._is_column(number):
            raise Unfit(
                f"loop {name} goes over a rank that is neither row nor column of a fragment"
            )
        eights = self.layout.eights(number)
        return (
            [
                "#pragma unroll",
                f"for (int j_{name} = 0; j_{name} < {eights}; ++j_{name})",
                "#pragma unroll",
                f"for (int c_{name} = 0; c_{name} < 2; ++c_{name}) {{",
            ],
            [f"const int {value} = {self._column(name)} + c_{name};"],
            ["}"],
        )

    def _column(self, name: str) -> str:
        """Return the first of the two columns that a thread has of a block of 8."""
        text = f"8 * j_{name} + 2 * ps_quad"
        if self.layout.across > 1:
            text = f"{8 * self.layout.eights(self.made.classes[name])} * ps_side + {text}"
        return text

    def _is_column(self, number: int) -> bool:
        return any(self.made.classes[each.cols.variable] == number for each in self.made.products)

    def extent_guard(self, loop: For) -> str:
        """Return the test that a loop variable is inside its extent; "" if it always is."""
        number = self.made.classes[loop.variable]
        covered = self.layout.warps * self.layout.blocks * 16
        if number:
            covered = self.layout.covered(number)
        if isinstance(loop.extent, Const):
            if int(loop.extent.value) >= covered:
                return ""
            return f"{variable(loop.variable)} < {int(loop.extent.value)}"
        return self.guard(Op("<", (Name(loop.variable), loop.extent)))

    def guard(self, condition: LoopExpr) -> str:
        """Return a condition as text, and note when a whole tile meets it."""
        text = self.speller.condition(condition)
        if not self.inside:
            return text
        box = {
            name: (0, self._size(number) - 1)
            for name in names(condition)
            if (number := self.made.classes.get(name)) is not None
        }
        whole = holds(condition, box, frozenset())
        known = whole is not None and not any(True for _ in loads(whole))
        kept = self.met.bit(condition, whole=known)
        if kept is not None:
            found, row, col = kept
            text = f"ps_bit({found.bits}, {self._at(row, col)})"
        if whole is None or not known:
            return text
        self.full[self.speller.condition(whole)] = None
        return f"(ps_full || {text})"

    def met_lines(self) -> list[str]:
        """Return the lines that test the conditions which are kept, for one tile."""
        lines: list[str] = []
        for each in self.met.kept.values():
            number = self.made.classes[each.col]
            side = f"{8 * self.layout.eights(number)} * ps_side + "
            first = f"{side if self.layout.across > 1 else ''}2 * ps_quad"
            lines += self.met.lines(each, self.speller, first)
        return lines

    def _size(self, number: int) -> int:
        return self.layout.columns[number] if number else self.layout.rows

    # -- statements ----------------------------------------------------------------------------

    def step(self, step: Step, *, inside: bool) -> list[str]:
        """Return the lines of a statement; ``inside`` the loop whole tiles are told apart."""
        self.inside = inside
        lines = list(self._lines(step.body, (), ()))
        return [f"// {step.comment}", *lines] if step.comment else lines

    def _lines(
        self, stmt: LoopStmt, guards: tuple[str, ...], loops: tuple[For, ...]
    ) -> Iterator[str]:
        match stmt:
            case Block(body):
                for each in body:
                    yield from self._lines(each, guards, loops)
            case Alloc(buffer, body):
                if buffer.shape:
                    raise Unfit(f"{buffer.name} lives in a part of a leaf")
                yield "{"
                self.scalars[buffer.name] = buffer
                yield f"  {'bool' if buffer.kind == 'mask' else 'float'} x_{buffer.name};"
                yield from block_lines(list(self._lines(body, guards, loops)))
                yield "}"
            case If(condition, body):
                yield from self._lines(body, (*guards, self.guard(condition)), loops)
            case For():
                yield from self._loop(stmt, guards, loops)
            case Store():
                yield self._store(stmt, guards, loops)

    def _loop(self, loop: For, guards: tuple[str, ...], loops: tuple[For, ...]) -> Iterator[str]:
        if self._pairs(loop):
            yield from self._paired(loop, guards)
            return
        parts = self._marks_apart(loop)
        if len(parts) > 1:
            for part in parts:
                yield from self._loop(part, guards, loops)
            return
        opened, defined, closed = self._head(loop)
        own = self.extent_guard(loop)
        inner = (*guards, own) if own else guards
        yield from opened
        yield from block_lines(defined)
        yield from block_lines(list(self._lines(loop.body, inner, (*loops, loop))))
        yield from closed
        if self.made.classes[loop.variable]:
            yield from self._folded(loop, loops)

    def _folded(self, loop: For, around: tuple[For, ...]) -> Iterator[str]:
        """Yield the folds over lanes of what a loop over columns has folded."""
        for stmt in walk_statements(loop.body):
            if not isinstance(stmt, Store) or loop.variable in _names_of(stmt.indices):
                continue
            if self.buffers_of(stmt.buffer).kind == "mask":
                if self._same_everywhere(stmt.buffer, loop):
                    continue
                text = self._target(stmt)
                yield f"{text} = {self._across('any', f'ps_quad_any({text})', around)};"
                continue
            match stmt.value:
                case Op(op, (Load(same, indices), _)) if (
                    same == stmt.buffer and indices == stmt.indices and op in _FOLDS
                ):
                    text, name = self._target(stmt), _FOLDS[op][0]
                    yield f"{text} = {self._across(name, f'ps_quad_{name}({text})', around)};"
                case _:
                    raise Unfit(f"{stmt.buffer} is written in each step over {loop.variable}")

    def _across(self, name: str, text: str, around: tuple[For, ...]) -> str:
        """Return a fold over the lanes of a row as one over all warps with that row."""
        if self.layout.across == 1:
            return text
        rows = [each.variable for each in around if self.made.classes.get(each.variable) == 0]
        if not rows:
            raise Unfit("something is folded over columns without a row, and columns are cut")
        return f"ps_across({text}, {variable(rows[0])}, PsFold_{name}())"

    def _marks_apart(self, loop: For) -> tuple[For, ...]:
        """Return a loop over columns as two, if it reads and writes a mask that a row has once.

        All columns read what was there before the loop, or all what it writes.

        Raises:
            Unfit: some read the one and some the other.
        """
        if not self.made.classes.get(loop.variable):
            return (loop,)
        stores = [each for each in walk_statements(loop.body) if isinstance(each, Store)]
        marks = {
            each.buffer
            for each in stores
            if self.buffers_of(each.buffer).kind == "mask"
            and self._same_everywhere(each.buffer, loop)
        }
        values = [place for place, each in enumerate(stores) if each.buffer not in marks]
        if not marks & set(_read(loop.body)) or not values:
            return (loop,)
        writes = [place for place, each in enumerate(stores) if each.buffer in marks]
        others = replace(loop, body=_only(loop.body, lambda each: each.buffer not in marks))
        own = replace(loop, body=_only(loop.body, lambda each: each.buffer in marks))
        if max(values) < min(writes):
            return others, own
        if max(writes) < min(values):
            return own, others
        raise Unfit(f"{min(marks)} is read before and after it is written")

    def buffers_of(self, name: str) -> Buffer:
        """Return a buffer, local scalars included."""
        return self.scalars.get(name) or self.buffers[name]

    def _same_everywhere(self, name: str, loop: For) -> bool:
        """Whether a mask over columns is kept once for each row."""
        dims = [
            number
            for key, number in self.made.classes.items()
            if isinstance(key, tuple) and key[0] == name
        ]
        return self.made.classes[loop.variable] in dims

    def _target(self, stmt: Store) -> str:
        found = self._element(Load(stmt.buffer, stmt.indices))
        if found is None:
            raise Unfit(
                f"{stmt.buffer} is a tile in shared memory, and written in a fragment's loop"
            )
        return found

    def _store(self, stmt: Store, guards: tuple[str, ...], loops: tuple[For, ...]) -> str:
        buffer = self.buffers_of(stmt.buffer)
        test = f"if ({' && '.join(guards)}) " if guards else ""
        if stmt.buffer in self.parameters:
            place = flat(buffer, [self.speller.index(each) for each in stmt.indices])
            return f"{test}{self._written(buffer, f'x_{stmt.buffer}[{place}]', stmt.value)}"
        if not set(_names_of(stmt.indices)) and isinstance(stmt.value, Const) and loops:
            test = ""  # where a fold starts
        shape = self.layout.shapes[stmt.buffer]
        if buffer.kind == "mask":
            value = self.speller.condition(stmt.value)
            if shape.kind == "matrix":
                place = self._place(Load(stmt.buffer, stmt.indices))
                return f"{test}ps_put_bit(x_{stmt.buffer}, {place}, {value});"
        else:
            value = self.speller.value(stmt.value)
        if (
            guards and test and stmt.buffer in self.once
        ):  # so that nothing of the last tile lives on
            return f"{self._target(stmt)} = {' && '.join(guards)} ? {value} : 0.0f;"
        return f"{test}{self._target(stmt)} = {value};"

    def _written(self, buffer: Buffer, place: str, value: LoopExpr) -> str:
        if buffer.kind == "mask":
            return f"{place} = {self.speller.condition(value)};"
        if buffer.kind == "index":
            return f"{place} = {self.speller.index(value)};"
        return f"ps_round_to({place}, {self.speller.value(value)});"

    # -- results, two elements at a time -------------------------------------------------------

    def _pairs(self, loop: For) -> bool:
        """Whether a loop over columns does nothing but write neighbours to a parameter."""
        stmt = loop.body
        while isinstance(stmt, If | Block):
            if isinstance(stmt, If):
                stmt = stmt.body
            elif len(stmt.body) == 1:
                stmt = stmt.body[0]
            else:
                return False
        number = self.made.classes.get(loop.variable)
        if not number or not isinstance(stmt, Store) or stmt.buffer not in self.parameters:
            return False
        buffer = self.parameters[stmt.buffer]
        return (
            buffer.kind == "data"
            and buffer.shape[-1] % 2 == 0
            and stmt.indices[-1] == Name(loop.variable)
            and loop.variable not in _names_of(stmt.indices[:-1])
            and isinstance(loop.extent, Const)
            and int(loop.extent.value) % 2 == 0
        )

    def _paired(self, loop: For, guards: tuple[str, ...]) -> Iterator[str]:
        name, stmt = loop.variable, loop.body
        own = self.extent_guard(loop)
        tests = [*guards, own] if own else list(guards)
        single: list[str] = []
        while not isinstance(stmt, Store):
            if isinstance(stmt, If):
                text = self.guard(stmt.condition)
                (single if name in names(stmt.condition) else tests).append(text)
                stmt = stmt.body
            elif isinstance(stmt, Block):
                stmt = stmt.body[0]
        if single:  # neighbours that differ: one at a time
            opened, defined, closed = self._head(loop)
            yield from (*opened, *block_lines(defined))
            yield "  " + self._store(stmt, (*tests, *single), (loop,))
            yield from closed
            return
        place = flat(self.parameters[stmt.buffer], [self.speller.index(e) for e in stmt.indices])
        yield "#pragma unroll"
        eights = self.layout.eights(self.made.classes[name])
        yield f"for (int j_{name} = 0; j_{name} < {eights}; ++j_{name}) {{"
        yield "  float ps_pair[2];"
        yield "  #pragma unroll"
        yield f"  for (int c_{name} = 0; c_{name} < 2; ++c_{name}) {{"
        yield f"    const int {variable(name)} = {self._column(name)} + c_{name};"
        yield f"    ps_pair[c_{name}] = {self.speller.value(stmt.value)};"
        yield "  }"
        yield f"  const int {variable(name)} = {self._column(name)};"
        test = f"if ({' && '.join(tests)}) " if tests else ""
        yield f"  {test}*(uint32_t*)&x_{stmt.buffer}[{place}] = ps_pack(ps_pair[0], ps_pair[1]);"
        yield "}"

    # -- around products -----------------------------------------------------------------------

    def finished(self, product: Product) -> list[str]:
        """Return what is done with a product whose left side is a tile: its scale, its masks."""
        self.inside = True
        body: list[LoopStmt] = []
        if product.scale is not None:
            element = Load(product.result.buffer, product.result.indices)
            body.append(Store(element.buffer, element.indices, Op("*", (element, product.scale))))
        lines = list(self._around(product, tuple(body), ()))
        return lines + list(self._around(product, product.masks, product.guards))

    def _around(
        self, product: Product, body: tuple[LoopStmt, ...], conditions: tuple[LoopExpr, ...]
    ) -> Iterator[str]:
        stmt: LoopStmt = Block(body)
        for condition in reversed(conditions):
            stmt = If(condition, stmt)
        if body:
            row = For(product.rows.variable, Const(self.layout.rows, True), stmt)
            cols = For(product.cols.variable, product.cols.extent, row.body)
            yield from self._lines(For(row.variable, row.extent, cols), (), ())

    def between(self, step: Product | Step, scores: tuple[Product, ...]) -> list[str]:
        """Return what stands at the place of a step between products."""
        if isinstance(step, Step):
            return self.step(step, inside=True)
        return self.finished(step) if step in scores else self.marked(step)

    def packed(self, product: Product, *, careful: bool) -> list[str]:
        """Return the lines that pack the left side of a product from fragments.

        Args:
            product: its left side is no tile.
            careful: whether what is absent is told from 0 where ``ps_careful`` says so.
        """
        self.inside = True
        rows, reds = product.rows, product.reds
        row_open, row_def, row_close = self._head(
            For(rows.variable, Const(self.layout.rows, True), rows.body)
        )
        tests = [
            self.guard(each) for each in product.guards if product.cols.variable not in names(each)
        ]
        own = self.extent_guard(reds)
        tests += [own] if own else []
        left = product.left
        if product.scale is not None:
            if product.cols.variable in names(product.scale):
                raise Unfit(f"{product.result.buffer} has a factor for each of its columns")
            left = Op("*", (left, product.scale))
        red, value = reds.variable, self.speller.value(left)
        absent = "0.0f"
        if careful:
            value, absent = f"ps_careful ? {value} + 0.0f : {value}", "ps_careful ? -0.0f : 0.0f"
        chosen = f"{' && '.join(tests)} ? ({value}) : ({absent})" if tests else value
        eights, row = self.layout.eights(self.made.classes[red]), rows.variable
        to = f"a_{product.result.buffer}"
        to += f"[r_{row} >> 1][j_{red} >> 1][(r_{row} & 1) + 2 * (j_{red} & 1)]"
        if self.layout.across > 1:
            at = f"{variable(row)}, {self._column(red)}"
            to = f"*(uint32_t*)ps_at_{product.result.buffer}({at})"
        inner = [
            "#pragma unroll",
            f"for (int j_{red} = 0; j_{red} < {eights}; ++j_{red}) {{",
            "  float ps_pair[2];",
            "  #pragma unroll",
            f"  for (int c_{red} = 0; c_{red} < 2; ++c_{red}) {{",
            f"    const int {variable(red)} = {self._column(red)} + c_{red};",
            f"    ps_pair[c_{red}] = {chosen};",
            "  }",
            f"  {to} = ps_pack(ps_pair[0], ps_pair[1]);",
            "}",
        ]
        return [*row_open, *block_lines([*row_def, *inner]), *row_close]

    def marked(self, product: Product) -> list[str]:
        """Return what marks the rows of a sum that have a term."""
        if not product.masks:
            return []
        self.inside = True
        stmt: LoopStmt = Block(product.masks)
        conditions = [e for e in product.guards if product.cols.variable not in names(e)]
        for condition in reversed(conditions):
            stmt = If(condition, stmt)
        inner = For(product.reds.variable, product.reds.extent, stmt)
        rows = For(product.rows.variable, Const(self.layout.rows, True), inner)
        return list(self._lines(rows, (), ()))


def _written_once(made: TileKernel) -> Iterator[str]:
    """Yield the values that one statement of a step makes, and that no other step sees."""
    inner = {e.buffer.name for e in walk_statements(made.loop.body) if isinstance(e, Alloc)}
    stores = [
        stmt.buffer
        for step in made.steps
        if isinstance(step, Step)
        for stmt in walk_statements(step.body)
        if isinstance(stmt, Store)
    ]
    for name in dict.fromkeys(stores):
        buffer = made.local.get(name)
        if buffer is None or not buffer.shape or buffer.kind == "mask":
            continue
        if name in inner and stores.count(name) == 1:
            yield name


def _read(stmt: LoopStmt) -> Iterator[str]:
    for each in walk_statements(stmt):
        yield from (load.buffer for expr in expressions(each) for load in loads(expr))


def _only(stmt: LoopStmt, wanted: Callable[[Store], bool]) -> LoopStmt:
    """Return a statement with some of its stores, and all around them."""
    match stmt:
        case Store():
            return stmt if wanted(stmt) else Block(())
        case Block(body):
            kept = (_only(each, wanted) for each in body)
            return replace(stmt, body=tuple(each for each in kept if each != Block(())))
        case _:
            inner = _only(stmt.body, wanted)
            return Block(()) if inner == Block(()) else replace(stmt, body=inner)


def _names_of(indices: tuple[LoopExpr, ...]) -> tuple[str, ...]:
    return tuple(name for each in indices for name in names(each))

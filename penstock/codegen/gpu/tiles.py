"""Tiles in shared memory: which element of which tensor is where, and who brings it there.

The left side of a product that is no fragment is computed once, in front of the loop, by all
threads (`staged_of`). The right side comes from global memory for each key tile: `Source` says
which 16 bytes are which, so that cp.async can take them one by one, and whether a TMA box covers
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from penstock.codegen.gpu.fragment import Layout, padded
from penstock.codegen.gpu.leaf import LeafPrinter, block_lines
from penstock.codegen.gpu.spell import Speller, flat, variable
from penstock.codegen.gpu.tile import Product, Step, TileKernel, peeled
from penstock.codegen.gpu.unfit import Unfit
from penstock.codegen.loops.nodes import (
    Block,
    Buffer,
    Const,
    For,
    Load,
    LoopExpr,
    LoopStmt,
    Name,
    Op,
    Store,
)
from penstock.codegen.loops.rewrite import substituted
from penstock.codegen.loops.walk import loads
from penstock.codegen.tvm.ranges import names, stride

__all__ = ["Source", "Staged", "in_rings", "source_of", "staged_of"]


@dataclass(frozen=True, slots=True)
class Source:
    """The right side of a product as lines of neighbours in global memory.

    Args:
        product: that it belongs to.
        line, run: the loops over lines, and along a line.
        lines, width: extents of the two, padded to multiples of 16.
        deep: whether the depth of the product lies along a line.
        whole: whether every line starts at a multiple of 16 bytes.
        ring: the tiles that it is in, called by the result of the product that they are brought
            for: products that read the same lines share them.
        pitch: elements of a line of those, at least ``width``.
    """

    product: Product
    line: For
    run: For
    lines: int
    width: int
    deep: bool
    whole: bool
    ring: str = ""
    pitch: int = 0

    @property
    def brought(self) -> bool:
        """Whether its tiles are brought for it."""
        return self.ring == self.product.result.buffer

    @property
    def columns(self) -> int:
        """Columns of the product."""
        return self.lines if self.deep else self.width

    @property
    def tensor(self) -> str:
        """The parameter that is read."""
        return self.product.right.buffer

    def tests(self) -> tuple[LoopExpr, ...]:
        """Return the conditions of the product that tell lines apart."""
        other = {self.product.rows.variable, self.run.variable}
        return tuple(each for each in self.product.guards if not other & names(each))

    def zeros(self, buffer: Buffer, *, lines: bool) -> frozenset[LoopExpr]:
        """Return the conditions outside of which the tile has zeros.

        Args:
            buffer: the tensor.
            lines: whether conditions on a line are looked at when it is brought.
        """
        inside = {
            Op("<", (index, Const(extent, True)))
            for index, extent in zip(self.product.right.indices, buffer.shape, strict=True)
        }
        return frozenset(inside.union(self.tests() if lines else ()))

    def check(self, buffer: Buffer, loop: str, *, score: bool, lines: bool) -> None:
        """Check that every condition of the product is looked at somewhere.

        Args:
            buffer: the tensor.
            loop: the variable of the loop over tiles.
            score: whether the left side is a tile (else conditions on it are in its fragment).
            lines: see `zeros`.

        Raises:
            Unfit: one is on single elements of the right side, or on columns of the result.
        """
        product = self.product
        cols, red = product.cols.variable, product.reds.variable
        for each in set(product.guards) - self.zeros(buffer, lines=lines):
            used = names(each)
            if (red in used and used & {cols, loop}) if score else cols in used:
                raise Unfit(f"{product.result.buffer} has a condition on elements of {self.tensor}")


def source_of(product: Product, layout: Layout, made: TileKernel, buffer: Buffer) -> Source:
    """Return where the right side of a product comes from.

    Raises:
        Unfit: neither of its ranks lies along the last dimension of the tensor.
    """
    last = product.right.indices[-1]
    pairs = ((product.reds, product.cols), (product.cols, product.reds))
    for run, line in pairs:
        inner = any(run.variable in names(each) for each in product.right.indices[:-1])
        if last == Name(run.variable) and not inner:
            width, unit = _extent(run), 16 * layout.across
            return Source(
                product,
                line,
                run,
                padded(_extent(line), unit),
                padded(width, unit),
                run is product.reds,
                width % 8 == 0 and buffer.shape[-1] % 8 == 0,
            )
    raise Unfit(f"neither rank of {product.right.buffer} in its product is the last of the tensor")


def in_rings(sources: Mapping[str, Source]) -> dict[str, Source]:
    """Return right sides that share tiles: lines that one product reads to their end are all there.

    A latent vector is key and value: its first elements are what the second product reads.
    """
    found: dict[str, Source] = {}
    for name, source in sources.items():
        same = [other for other in sources.values() if _same_lines(source, other)]
        widest = max(same, key=lambda each: each.width)
        found[name] = replace(source, ring=widest.product.result.buffer, pitch=widest.width)
    return found


def _same_lines(one: Source, other: Source) -> bool:
    def told(source: Source) -> object:
        line = {source.line.variable: Name("ps_line")}
        indices = tuple(substituted(each, line) for each in source.product.right.indices[:-1])
        tests = frozenset(substituted(each, line) for each in source.tests())
        return source.tensor, source.lines, source.whole, indices, tests

    return told(one) == told(other)


def _extent(loop: For) -> int:
    if not isinstance(loop.extent, Const):
        raise Unfit(f"the extent of {loop.variable} varies from tile to tile")
    return int(loop.extent.value)


def line_test(source: Source, speller: Speller, buffer: Buffer) -> str:
    """Return the test that a line is inside its tile, the product's conditions, the tensor."""
    tests = [f"{variable(source.line.variable)} < {_extent(source.line)}"]
    if _extent(source.line) == source.lines:
        tests = []
    tests += [speller.condition(each) for each in source.tests()]
    for index, extent in zip(source.product.right.indices[:-1], buffer.shape[:-1], strict=True):
        if source.line.variable not in names(index):
            continue
        text = speller.index(index)
        tests.append(f"{text} < {extent}")
        if stride(index, source.line.variable) != 1 or _may_be_negative(index):
            tests.append(f"{text} >= 0")
    return " && ".join(dict.fromkeys(tests)) or "true"


def _may_be_negative(index: LoopExpr) -> bool:
    return any(True for _ in loads(index)) or "-" in {
        node.op for node in _nodes(index) if isinstance(node, Op)
    }


def _nodes(expr: LoopExpr) -> list[LoopExpr]:
    parts = expr.args if isinstance(expr, Op) else expr.indices if isinstance(expr, Load) else ()
    return [expr, *(node for part in parts for node in _nodes(part))]


# -- the left side -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Staged:
    """The left side of a product as a tile: its name, its depth, and what each element is.

    ``guards`` are the conditions under which an element is there; elsewhere it is 0.
    """

    name: str
    rows: str
    reds: str
    depth: int
    value: LoopExpr
    guards: tuple[LoopExpr, ...]

    @property
    def width(self) -> int:
        """The depth, padded."""
        return padded(self.depth)

    def lines(
        self, printer: LeafPrinter, parameters: Mapping[str, Buffer], threads: int
    ) -> list[str]:
        """Return the lines with which all threads fill the tile; ``ps_at`` says where 8 go."""
        row, red = variable(self.rows), variable(self.reds)
        given, before = self._vectors(printer, parameters)
        speller = Speller(printer.buffers, frozenset(parameters), lambda load: None, given)
        tests = [speller.condition(each) for each in self.guards]
        if self.depth != self.width:
            tests.append(f"{red} < {self.depth}")
        rows = padded(printer.layout.rows)
        if printer.layout.rows != rows:
            tests.append(f"{row} < {printer.layout.rows}")
        covered = printer.layout.warps * printer.layout.blocks * 16
        value = speller.value(self.value)
        inner = [
            f"const int {row} = ps_i / {self.width // 8}, ps_red = ps_i % {self.width // 8} * 8;",
            *before,
            "uint32_t ps_words[4];",
            "#pragma unroll",
            "for (int ps_k = 0; ps_k < 4; ++ps_k) {",
            "  float ps_pair[2] = {0.0f, 0.0f};",
            "  #pragma unroll",
            "  for (int ps_c = 0; ps_c < 2; ++ps_c) {",
            f"    const int {red} = ps_red + 2 * ps_k + ps_c;",
            f"    if ({' && '.join(tests) or 'true'}) ps_pair[ps_c] = {value};",
            "  }",
            "  ps_words[ps_k] = ps_pack(ps_pair[0], ps_pair[1]);",
            "}",
            f"*(uint4*)ps_at_{self.name}({row}, ps_red) = *(uint4*)ps_words;",
        ]
        count = covered * (self.width // 8)
        head = f"for (int ps_i = ps_tid; ps_i < {count}; ps_i += {threads}) {{"
        return [f"// the tile of {self.name}", head, *block_lines(inner), "}"]

    def _vectors(
        self, printer: LeafPrinter, parameters: Mapping[str, Buffer]
    ) -> tuple[dict[Load, str], list[str]]:
        """Return loads that are read 8 at a time, and the lines that read them."""
        given: dict[Load, str] = {}
        lines: list[str] = []
        speller = Speller(printer.buffers, frozenset(parameters), lambda load: None, {})
        row_tests = [e for e in self.guards if self.reds not in names(e)]
        if len(row_tests) != len(self.guards) or self.depth % 8:
            return {}, []
        for load in dict.fromkeys(loads(self.value)):
            buffer = parameters.get(load.buffer)
            if buffer is None or buffer.kind != "data" or buffer.shape[-1] % 8:
                continue
            if load.indices[-1] != Name(self.reds) or any(
                self.reds in names(index) for index in load.indices[:-1]
            ):
                continue
            place = flat(buffer, [*(speller.index(e) for e in load.indices[:-1]), "ps_red"])
            name = f"ps_vector{len(given)}"
            tests = [speller.condition(each) for each in row_tests]
            tests += [f"{variable(self.rows)} < {printer.layout.rows}"]
            tests += [f"ps_red < {self.depth}"]
            lines += [
                f"uint4 {name} = {{0, 0, 0, 0}};",
                f"if ({' && '.join(tests)}) {name} = *(const uint4*)&x_{load.buffer}[{place}];",
            ]
            given[load] = f"ps_float(((ps_element*)&{name})[2 * ps_k + ps_c])"
        return given, lines


def staged_of(made: TileKernel, layout: Layout, products: tuple[Product, ...]) -> dict[str, Staged]:
    """Return the tiles of the left sides, by the result of the product they belong to.

    Raises:
        Unfit: a tile that one Einsum alone does not give, or that changes in the loop.
    """
    found: dict[str, Staged] = {}
    for product in products:
        if made.loop.variable in names(product.left):
            raise Unfit(f"the left side of {product.result.buffer} changes from tile to tile")
        found[product.result.buffer] = _staged(product, made, layout)
    return found


def _staged(product: Product, made: TileKernel, layout: Layout) -> Staged:
    rows, reds = product.rows.variable, product.reds.variable
    depth = _extent(product.reds)
    guards = tuple(
        each
        for each in product.guards
        if not {product.cols.variable, made.loop.variable} & names(each)
    )
    extent = product.rows.extent
    if not isinstance(extent, Const):
        guards = (Op("<", (Name(rows), extent)), *guards)
    name = product.result.buffer
    local = [load for load in loads(product.left) if load.buffer in layout.shapes]
    if not local:
        return Staged(name, rows, reds, depth, product.left, tuple(dict.fromkeys(guards)))
    if len(local) != 1 or product.left != local[0]:
        raise Unfit(f"the left side of {name} is not one tile")
    writers = [each for each in made.before if _stores(each.body, local[0].buffer)]
    if len(writers) != 1:
        raise Unfit(f"{local[0].buffer} is computed by {len(writers)} statements, not by one")
    value, inner = _element_of(writers[0], local[0])
    if any(load.buffer in layout.shapes for load in loads(value)):
        raise Unfit(f"{local[0].buffer} depends on what fragments hold")
    return Staged(name, rows, reds, depth, value, tuple(dict.fromkeys((*guards, *inner))))


def _stores(stmt: LoopStmt, name: str) -> bool:
    match stmt:
        case Store(buffer, _, _):
            return buffer == name
        case Block(body):
            return any(_stores(each, name) for each in body)
        case _:
            return _stores(stmt.body, name)


def _element_of(step: Step, load: Load) -> tuple[LoopExpr, tuple[LoopExpr, ...]]:
    """Return what a step writes at an element, and under which conditions."""
    _, guards, stmt = peeled(step.body)
    if not isinstance(stmt, Store):
        raise Unfit(f"{load.buffer} is computed by more than one statement")
    values = {
        place.name: index
        for place, index in zip(stmt.indices, load.indices, strict=True)
        if isinstance(place, Name)
    }
    changed = tuple(substituted(each, values) for each in guards)
    return substituted(stmt.value, values), changed

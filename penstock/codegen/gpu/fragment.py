"""Where the elements of a block's tiles are: which thread holds which, and under which name.

A tile with rows and columns is held as the accumulators of m16n8 matrix instructions, and so are
those of wgmma: thread t of a warp has rows t / 4 and t / 4 + 8 of each 16, and columns 2 (t % 4)
and the next of each 8. What has rows only is held by all four lanes of a row, what has columns
only by all that share them. Presence of single elements is a bit each. Results that are wider than
the registers of a thread are cut into columns of several warps, which have the same rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from penstock.codegen.gpu.tile import Product, TileKernel
from penstock.codegen.gpu.unfit import Unfit
from penstock.codegen.loops.nodes import Buffer, Const, For, If, Load, Name, Store, walk_statements
from penstock.codegen.loops.walk import loads
from penstock.codegen.tvm.ranges import names

__all__ = ["Layout", "Shape", "layout_of", "padded"]

Kind = Literal["scalar", "row", "col", "matrix", "tile"]

_MOST_HELD = 208
"""Registers of a thread, of 255, that results of products may take before columns are cut."""

_WARPS = 8
"""Warps that may have so many registers each: 65536 in a multiprocessor."""


def padded(extent: int, unit: int = 16) -> int:
    """Return the next multiple of a unit."""
    return -(-extent // unit) * unit


@dataclass(frozen=True, slots=True)
class Shape:
    """A buffer of a block: what it is, its class of columns (or depth), and its dimensions.

    ``at`` are the places of its row and of its column among its dimensions; -1 for none.
    """

    kind: Kind
    column: int
    row_at: int
    col_at: int


@dataclass(frozen=True)
class Layout:
    """The fragments of a kernel.

    Args:
        rows: of the block's tile.
        warps: that share them.
        blocks: of 16 rows that a warp has.
        columns: class of a rank → its extent.
        shapes: buffer → what it is.
        across: parts into which columns are cut, each of other warps with the same rows.
    """

    rows: int
    warps: int
    blocks: int
    columns: dict[int, int]
    shapes: dict[str, Shape]
    across: int = 1

    def covered(self, column: int) -> int:
        """Return the columns of a class, padding included."""
        return padded(self.columns[column], 16 * self.across)

    def eights(self, column: int) -> int:
        """Return how many blocks of 8 columns of a class a warp has, padding included."""
        return self.covered(column) // self.across // 8

    def count(self, name: str) -> int:
        """Return how many elements of a buffer a thread holds."""
        shape = self.shapes[name]
        rows, cols = 2 * self.blocks, 2 * self.eights(shape.column) if shape.column >= 0 else 1
        return {"scalar": 1, "row": rows, "col": cols, "matrix": rows * cols, "tile": 0}[shape.kind]

    def declaration(self, buffer: Buffer) -> str:
        """Return the line that declares a buffer's fragment."""
        count, name = self.count(buffer.name), f"x_{buffer.name}"
        if buffer.kind == "mask" and self.shapes[buffer.name].kind == "matrix":
            return f"uint32_t {name}[{-(-count // 32)}] = {{}};"
        kind = {"mask": "bool", "index": "int"}.get(buffer.kind, "float")
        return f"{kind} {name}[{count}];"


def layout_of(made: TileKernel, warp_rows: int, together: int) -> Layout:
    """Lay out a kernel's buffers over its threads.

    Args:
        made: the kernel.
        warp_rows: rows of the tile that a warp has, a multiple of 16.
        together: warps that work on one instruction: their number is a multiple.

    Raises:
        Unfit: a buffer that is no fragment.
    """
    columns = dict(_extents(made))
    shapes = {
        each.name: _shape(each, made.classes, _classes(made, columns))
        for each in made.local.values()
    }
    shapes |= {
        name: Shape("row", -1, shape.row_at, -1)
        for name, shape in shapes.items()
        if shape.kind == "matrix" and _uniform(name, made, shapes)
    }
    tile = _row_extent(made)
    warps = padded(padded(tile, warp_rows) // warp_rows, together)
    layout = Layout(tile, warps, warp_rows // 16, columns, shapes)
    while _held(made, layout) > _MOST_HELD and layout.across * warps < _WARPS:
        layout = replace(layout, across=2 * layout.across)
    return layout


def _held(made: TileKernel, layout: Layout) -> int:
    """Return the registers of a thread that results of products take."""
    return sum(layout.count(each.result.buffer) for each in made.products)


def _row_extent(made: TileKernel) -> int:
    names_of_rows = [
        buffer.shape[place]
        for key, number in made.classes.items()
        if isinstance(key, tuple) and number == 0
        for buffer, place in [(made.local[key[0]], key[1])]
    ]
    return max(names_of_rows)


def _extents(made: TileKernel) -> Iterator[tuple[int, int]]:
    """Yield the extent of every class that is a column or the depth of a product."""
    for each in made.products:
        for loop in (each.cols, each.reds):
            if not isinstance(loop.extent, Const):
                raise Unfit(f"the extent of {loop.variable} varies from tile to tile")
            yield made.classes[loop.variable], int(loop.extent.value)


def _classes(made: TileKernel, columns: dict[int, int]) -> frozenset[int]:
    """Return the classes of ranks that lie along the columns of fragments."""
    found = {made.classes[each.cols.variable] for each in made.products}
    return frozenset(found & columns.keys())


def _shape(
    buffer: Buffer, classes: dict[str | tuple[str, int], int], columns: frozenset[int]
) -> Shape:
    dims = {
        classes[buffer.name, place]: place
        for place in range(len(buffer.shape))
        if (buffer.name, place) in classes
    }
    row = dims.pop(0, -1)
    if not dims:
        return Shape("row" if row >= 0 else "scalar", -1, row, -1)
    (column, place), *more = dims.items()
    if more:
        raise Unfit(f"{buffer.name} has {len(more) + 2} ranks in a tile")
    if column not in columns:
        return Shape("tile", column, row, place)
    return Shape("matrix" if row >= 0 else "col", column, row, place)


def _uniform(name: str, made: TileKernel, shapes: dict[str, Shape]) -> bool:
    """Whether a mask over columns of results is the same in all: nothing tells them apart."""
    if made.local[name].kind != "mask":
        return False
    results = {
        made.classes[each.cols.variable]
        for each in made.products
        if not _reads_tile(each, made, shapes)
    }
    if shapes[name].column not in results:
        return False
    for body in (
        each.body
        for each in (*made.before, *made.steps, *made.after)
        if not isinstance(each, Product)
    ):
        loops = [each for each in walk_statements(body) if isinstance(each, For)]
        own = {each.variable for each in loops if made.classes.get(each.variable) in results}
        stores = [each for each in walk_statements(body) if isinstance(each, Store)]
        if any(each.buffer == name and loads_of_values(each, made) for each in stores):
            return False
        if any(each.buffer == name for each in stores):
            for each in walk_statements(body):
                if isinstance(each, If) and not _only_masks(each, own, made):
                    return False
    return True


def loads_of_values(store: Store, made: TileKernel) -> bool:
    """Whether what is stored depends on values, not on masks alone."""
    return any(
        load.buffer not in made.local or made.local[load.buffer].kind != "mask"
        for load in loads(store.value)
    )


def _only_masks(stmt: If, own: set[str], made: TileKernel) -> bool:
    """Whether a condition sees columns only as places of masks."""
    inside = {
        name
        for load in loads(stmt.condition)
        if load.buffer in made.local and made.local[load.buffer].kind == "mask"
        for name in names(load)
    }
    outside = {
        name
        for load in loads(stmt.condition)
        if load.buffer not in made.local or made.local[load.buffer].kind != "mask"
        for name in names(load)
    }
    return not (own & outside) and (not own & names(stmt.condition) or bool(own & inside))


def _reads_tile(product: Product, made: TileKernel, shapes: dict[str, Shape]) -> bool:
    """Whether the left side of a product is a tile in shared memory."""
    read = [load.buffer for load in loads(product.left) if load.buffer in made.local]
    return all(shapes[name].kind == "tile" for name in read)


def named(load: Load, place: int) -> str:
    """Return the loop variable that indexes a dimension."""
    index = load.indices[place]
    if not isinstance(index, Name):
        raise Unfit(f"{load.buffer} is read at a computed place of a tile")
    return index.name

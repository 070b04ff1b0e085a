"""Products that the mapping puts on the matrix unit, in launches that are plain otherwise.

A leaf whose loops lie along a matrix unit's axes becomes one call of a function that all threads of
the block make: warps share its results, 16 rows by a few times 8 columns at a time, read both sides
where they are and multiply with mma.sync. Any loops will do, whatever their order and however they
are cut: those that move one side alone are its rows, those that move the other are its columns,
those that move both are gone through one by one. What is around the leaf, who copies what into
shared memory and where barriers stand, is as in the plain kernel.

A side that a condition takes out is 0 in its products; where a result then is no finite number it
is made again term by term, as the leaf says it. Excluded: products with marks of presence, and
conditions on both sides and the depth at once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from penstock.codegen.gpu.leaf import block_lines
from penstock.codegen.gpu.spell import Speller, flat, variable
from penstock.codegen.gpu.tile import factors, peeled
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
    Op,
    Store,
    walk_statements,
)
from penstock.codegen.loops.walk import loads, touched
from penstock.codegen.tvm.kernels import Kernel
from penstock.codegen.tvm.ranges import most, names

__all__ = ["Call", "calls_of"]

_LEAST = 64
"""Results of a product, at least: half of an instruction's."""

_WARPS = 8
"""Warps of a block that does nothing else, at most."""

_BLOCKS = 8
"""Blocks of 8 columns that a warp has at a time, at most."""


@dataclass(frozen=True, slots=True)
class Call:
    """A product as a function.

    Args:
        name: of the function.
        lines: its text.
        buffers: whose starts it is given.
        scalars: variables that it is given after them.
        threads: of the blocks that call it.
    """

    name: str
    lines: tuple[str, ...]
    buffers: tuple[str, ...]
    scalars: tuple[str, ...]
    threads: int


def calls_of(
    kernel: Kernel, buffers: Mapping[str, Buffer], arrays: frozenset[str]
) -> dict[LoopStmt, Call]:
    """Return the products of a launch that are calls.

    Args:
        kernel: a launch.
        buffers: every buffer of the program.
        arrays: the matrix units of the machine.
    """
    found: dict[LoopStmt, Call] = {}
    warps = -(-kernel.threads // 32)
    for stmt, product in _outermost(kernel.body):
        if stmt not in found and _on(stmt, arrays):
            alone = min(_WARPS, product.tiles) if _only(kernel.body) is stmt else warps
            name = f"ps_{kernel.name}_{len(found)}"
            found[stmt] = _call(name, product, touched(stmt), buffers, alone)
    return found


def _only(body: LoopStmt) -> LoopStmt:
    while isinstance(body, Block) and len(body.body) == 1:
        (body,) = body.body
    return body


def _on(stmt: LoopStmt, arrays: frozenset[str]) -> bool:
    loops = (each for each in walk_statements(stmt) if isinstance(each, For))
    return any(each.axis.partition(".")[0] in arrays for each in loops)


def _outermost(stmt: LoopStmt) -> Iterator[tuple[For, _Product]]:
    """Yield the nests of loops that are a product, with the loops that only repeat it."""
    match stmt:
        case Block(body):
            for each in body:
                yield from _outermost(each)
        case For() if (product := _product(stmt)) is not None:
            yield stmt, product
        case For() | If() | Alloc():
            yield from _outermost(stmt.body)
        case Store():
            pass


# -- what is a product -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Side:
    """A side: its loops, its value, and the conditions under which it is there."""

    loops: tuple[For, ...]
    value: LoopExpr
    guards: tuple[LoopExpr, ...]

    @property
    def extent(self) -> int:
        return math.prod(map(_extent, self.loops))


@dataclass(frozen=True, slots=True)
class _Product:
    """``put[rows, cols] = scale * sum over reds of left * right``, for each of ``batch``.

    ``guards`` are those of a result, ``inner`` those of a term.
    """

    batch: tuple[For, ...]
    left: _Side
    right: _Side
    reds: tuple[For, ...]
    put: Store
    scale: LoopExpr
    guards: tuple[LoopExpr, ...]
    inner: tuple[LoopExpr, ...]

    @property
    def tiles(self) -> int:
        """Instructions that share a step of the depth."""
        return -(-self.left.extent // 16) * -(-self.right.extent // 8)

    @property
    def terms(self) -> LoopExpr:
        """What is summed."""
        return Op("*", (self.left.value, self.right.value))


def _extent(loop: For) -> int:
    found = most(loop.extent)
    assert found is not None
    return max(found, 1)


def _product(stmt: LoopStmt) -> _Product | None:
    loops, guards, inner = peeled(stmt)
    match inner:
        case Alloc(
            buffer, Block((Store(start, (), Const(0.0)), For() as summed, Store() as put))
        ) if start == buffer.name and put.value == Load(start, ()):
            pass
        case _:
            return None
    reds, tests, last = peeled(summed)
    match last:
        case Store(target, (), Op("+", (Load(same, ()), terms))) if target == same == start:
            pass
        case _:
            return None
    if any(most(each.extent) is None for each in (*loops, *reds)):
        return None
    return _sides(loops, guards, reds, tests, put, terms)


def _sides(
    loops: tuple[For, ...],
    guards: tuple[LoopExpr, ...],
    reds: tuple[For, ...],
    tests: tuple[LoopExpr, ...],
    put: Store,
    terms: LoopExpr,
) -> _Product | None:
    deep = {each.variable for each in reds}
    own = {each.variable for each in loops}
    parts = list(factors(terms))
    scales = [each for each in parts if not names(each) & deep]
    moved = [(each, names(each) & own) for each in parts if names(each) & deep]
    shared = [each for each in loops if sum(each.variable in used for _, used in moved) > 1]
    for count in range(3):
        for batch in itertools.combinations(shared, count):
            gone = {each.variable for each in batch}
            groups = _groups([used - gone for _, used in moved])
            if len(groups) != 2:
                continue
            if any(_between(each, groups) for each in tests):
                return None
            made = [
                _side(
                    loops, mine, other, [f for f, used in moved if used & mine], (*guards, *tests)
                )
                for mine, other in (groups, reversed(groups))
            ]
            rest = tuple(each for each in loops if each.variable not in groups[0] | groups[1])
            spare = [f for f, used in moved if not used & (groups[0] | groups[1])]
            left, right = sorted(made, key=lambda each: _waste(each.extent))
            left = replace(left, value=_times([left.value, *spare]))
            if left.extent * right.extent < _LEAST or min(left.extent, right.extent) < 2:
                return None
            return _Product(rest, left, right, reds, put, _times(scales), guards, tests)
    return None


def _waste(extent: int) -> float:
    """Return how much of 16 rows is wasted: the side with more is the columns."""
    return -(-extent // 16) * 16 / extent


def _groups(used: Sequence[set[str] | frozenset[str]]) -> list[set[str]]:
    """Return the sets of variables that no factor joins."""
    groups: list[set[str]] = []
    for each in used:
        if not each:
            continue
        touching = [group for group in groups if group & each]
        groups = [group for group in groups if not group & each]
        groups.append(set(each).union(*touching))
    return groups


def _side(
    loops: tuple[For, ...],
    mine: set[str],
    other: set[str],
    parts: list[LoopExpr],
    tests: tuple[LoopExpr, ...],
) -> _Side:
    own = tuple(each for each in loops if each.variable in mine)
    return _Side(own, _times(parts), tuple(each for each in tests if not names(each) & other))


def _between(test: LoopExpr, groups: Sequence[set[str]]) -> bool:
    return all(names(test) & group for group in groups)


def _times(parts: Sequence[LoopExpr]) -> LoopExpr:
    found: LoopExpr | None = None
    for each in parts:
        found = each if found is None else Op("*", (found, each))
    return Const(1.0) if found is None else found


# -- its text --------------------------------------------------------------------------------------


def _call(
    name: str,
    product: _Product,
    both: tuple[frozenset[str], frozenset[str]],
    buffers: Mapping[str, Buffer],
    warps: int,
) -> Call:
    read, written = both
    used = tuple(
        sorted(each for each in read | written if each in buffers and _seen(each, product))
    )
    speller = Speller(buffers, frozenset(buffers), lambda load: None, {})
    loops = (*product.batch, *product.left.loops, *product.right.loops, *product.reds)
    own = {each.variable for each in loops}
    exprs = (
        *product.put.indices, product.scale, product.terms, *product.guards, *product.inner,
    )  # fmt: skip
    scalars = tuple(sorted({each for expr in exprs for each in names(expr)} - own))
    listed = [_parameter(buffers[each], each in written) for each in used]
    listed += [f"int {variable(each)}" for each in scalars]
    body = _body(product, speller, buffers, warps)
    lines = [f"PS_DEVICE void {name}({', '.join(listed)}) {{", *block_lines(body), "}"]
    return Call(name, tuple(lines), used, scalars, 32 * warps)


def _seen(name: str, product: _Product) -> bool:
    exprs = (product.terms, product.scale, *product.guards, *product.inner, *product.put.indices)
    read = {load.buffer for expr in exprs for load in loads(expr)}
    return name == product.put.buffer or name in read


def _parameter(buffer: Buffer, written: bool) -> str:
    kind = {"data": "ps_element", "acc": "float", "mask": "signed char", "index": "int"}
    return f"{'' if written else 'const '}{kind[buffer.kind]}* x_{buffer.name}"


def _body(
    product: _Product, speller: Speller, buffers: Mapping[str, Buffer], warps: int
) -> list[str]:
    left, right, reds = product.left, product.right, product.reds
    depth = math.prod(map(_extent, reds))
    together = max(1, min(_BLOCKS, -(-right.extent // 8), product.tiles // warps))
    sizes = f"{left.extent}, {right.extent}, {depth}, {together}"
    lines = [
        *_value("ps_left", "ps_row", left, reds, speller),
        *_value("ps_right", "ps_col", right, reds, speller),
        *_exact(product, speller),
        *_put(product, speller, buffers),
        f"ps_product<{sizes}>({warps}, ps_left, ps_right, ps_exact, ps_put);",
    ]
    for loop in reversed(product.batch):
        head = f"for (int {variable(loop.variable)} = 0; {variable(loop.variable)} < "
        head += f"{_extent(loop)}; ++{variable(loop.variable)}) {{"
        lines = [head, *block_lines(lines), "}"]
    return lines


def _decoded(flat_name: str, loops: Sequence[For]) -> list[str]:
    """Return the lines that take a number apart into the variables of loops."""
    lines, below = [], 1
    for place, loop in enumerate(reversed(loops)):
        text = flat_name if below == 1 else f"{flat_name} / {below}"
        if place < len(loops) - 1:
            text += f" % {_extent(loop)}"
        lines.append(f"const int {variable(loop.variable)} = {text};")
        below *= _extent(loop)
    return lines


def _tests(guards: Sequence[LoopExpr], speller: Speller) -> str:
    return " && ".join(speller.condition(each) for each in guards)


def _value(
    name: str, place: str, side: _Side, reds: tuple[For, ...], speller: Speller
) -> list[str]:
    value = speller.value(side.value)
    if side.guards:
        value = f"{_tests(side.guards, speller)} ? {value} : 0.0f"
    return [
        f"auto {name} = [&](int {place}, int ps_red) -> float {{",
        *block_lines([*_decoded(place, side.loops), *_decoded("ps_red", reds)]),
        f"  return {value};",
        "};",
    ]


def _exact(product: _Product, speller: Speller) -> list[str]:
    rows, cols = product.left.loops, product.right.loops
    inner = [f"ps_sum += {speller.value(product.terms)};"]
    if product.inner:
        inner = [f"if ({_tests(product.inner, speller)}) {inner[0]}"]
    for loop in reversed(product.reds):
        name = variable(loop.variable)
        inner = [
            f"for (int {name} = 0; {name} < {_extent(loop)}; ++{name}) {{",
            *block_lines(inner),
            "}",
        ]
    return [
        "auto ps_exact = [&](int ps_row, int ps_col) {",
        *block_lines([*_decoded("ps_row", rows), *_decoded("ps_col", cols)]),
        "  float ps_sum = 0.0f;",
        *block_lines(inner),
        "  return ps_sum;",
        "};",
    ]


def _put(product: _Product, speller: Speller, buffers: Mapping[str, Buffer]) -> list[str]:
    rows, cols = product.left.loops, product.right.loops
    buffer = buffers[product.put.buffer]
    place = flat(buffer, [speller.index(each) for each in product.put.indices])
    test = f"if ({_tests(product.guards, speller)}) " if product.guards else ""
    value = "ps_sum"
    if product.scale != Const(1.0):
        value = f"ps_sum * {speller.value(product.scale)}"
    return [
        "auto ps_put = [&](int ps_row, int ps_col, float ps_sum) {",
        *block_lines([*_decoded("ps_row", rows), *_decoded("ps_col", cols)]),
        f"  {test}ps_round_to(x_{buffer.name}[{place}], {value});",
        "};",
    ]

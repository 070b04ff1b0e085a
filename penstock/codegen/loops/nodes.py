"""The statement IR: what every generated program is before it is text in some language.

Nodes: expressions `Const Name Load Op`, statements `Block For If Store Alloc`, and `Buffer` and
`Program`. An interpreter (`loops/interp.py`) defines what they mean.

Excluded on purpose: pointers, function definitions, while loops, early exit, aliasing, strides,
types other than those of `Buffer.kind`. Indices are integers; a buffer is row-major.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from penstock.einsum_ir.formats import Format
from penstock.targets.base import AxisKind

__all__ = [
    "Alloc",
    "Block",
    "Buffer",
    "Const",
    "For",
    "If",
    "Kind",
    "Load",
    "LoopExpr",
    "LoopStmt",
    "Name",
    "Op",
    "Program",
    "Store",
    "inside",
    "walk_statements",
]


Kind = Literal["data", "acc", "mask", "index", "pair"]
"""What the elements of a `Buffer` are."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """A named array.

    Args:
        name: unique in its program.
        shape: extents, in elements; () for a scalar register.
        kind: ``data`` elements are in the program's format, ``acc`` in its accumulator type
            (wide enough that sums are exact in fixed point), ``mask`` is 0 or 1, ``index``
            elements are whole numbers of 32 bits (inputs that only indices and predicates read);
            a ``pair`` element holds two bf16 numbers (`codegen/tvm/pairs.py`).
        memory: the target's memory that holds it; the outermost one for parameters.
        copies: how many of them the mapping has, so that filling one overlaps with using another.
        own: the format of its elements, if that is not the program's; what is stored is rounded
            before (``as`` in `Op`).
    """

    name: str
    shape: tuple[int, ...]
    kind: Kind = "data"
    memory: str = ""
    copies: int = 1
    own: Format | None = None


@dataclass(frozen=True, slots=True)
class Const:
    """A literal; ``integer`` ones are indices and counts, the others values."""

    value: float
    integer: bool = False


@dataclass(frozen=True, slots=True)
class Name:
    """A loop variable."""

    name: str


@dataclass(frozen=True, slots=True)
class Load:
    """One element of a buffer."""

    buffer: str
    indices: tuple[LoopExpr, ...]


@dataclass(frozen=True, slots=True)
class Op:
    """A point-wise operator: the names of `einsum_ir.ops`, ``float``, ``as`` and a format.

    ``float`` makes a value of an index; ``as int8`` and its like round a value.
    ``where(c, a, b)`` evaluates only the chosen side; ``and`` and ``or`` may evaluate both.
    ``//`` and ``%`` floor, as in Python. An element of an ``index`` buffer is an integer, one of a
    ``mask`` a truth value. ``pair(a, b)`` is an element of a ``pair`` buffer, ``half(x, k)`` its
    first (k = 0) or second number, ``dot2(s, x, y)`` = s + x0 * y0 + x1 * y1. A value may stand
    where an integer is wanted (a computed index): a test around it has made sure that it is a
    whole number.
    """

    op: str
    args: tuple[LoopExpr, ...]


LoopExpr = Const | Name | Load | Op


@dataclass(frozen=True, slots=True)
class Store:
    """``buffer[indices] = value``; rounds to the program's format when the buffer is ``data``."""

    buffer: str
    indices: tuple[LoopExpr, ...]
    value: LoopExpr


@dataclass(frozen=True, slots=True)
class For:
    """``for variable in range(extent)``.

    Args:
        variable: unique in its program.
        extent: number of iterations; a `Const` unless ``kind`` is ``""``.
        body: what runs.
        kind: the kind of the array's axis for a spatial loop, ``""`` for a serial one.
        axis: ``array.axis`` of a spatial loop, for comments and thread numbering.
        comment: the mapping decision behind the loop, e.g. ``for p by 256``.
        pipelined: whether iterations start every initiation interval (HLS PIPELINE).
        places: of an axis that has fewer places than the loop has steps: they take turns.
    """

    variable: str
    extent: LoopExpr
    body: LoopStmt
    kind: AxisKind | Literal[""] = ""
    axis: str = ""
    comment: str = ""
    pipelined: bool = False
    places: int = 0


@dataclass(frozen=True, slots=True)
class If:
    """``if condition: body``."""

    condition: LoopExpr
    body: LoopStmt


@dataclass(frozen=True, slots=True)
class Alloc:
    """A buffer that lives for the duration of `body`; its first contents are undefined."""

    buffer: Buffer
    body: LoopStmt


@dataclass(frozen=True, slots=True)
class Block:
    """Statements in order.

    Args:
        body: the statements.
        comment: names the Einsum that they compute.
        stage: of that Einsum in a pipelined loop; None for what is no whole Einsum.
    """

    body: tuple[LoopStmt, ...]
    comment: str = ""
    stage: int | None = None


LoopStmt = Block | For | If | Alloc | Store


@dataclass(frozen=True, slots=True)
class Program:
    """One function: parameters in, parameters out.

    Args:
        name: an identifier.
        inputs: buffers that are read only, in the order of the cascade's declaration.
        outputs: buffers that are written; elements that no statement writes are 0, because the
            body begins by zeroing what it does not cover.
        body: what runs.
        format: of all ``data`` buffers.
        accumulator_bits: (width, integer bits) that an ``acc`` buffer needs in fixed point.
    """

    name: str
    inputs: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    body: LoopStmt
    format: Format
    accumulator_bits: tuple[int, int] = (0, 0)


def inside(stmt: LoopStmt) -> tuple[LoopStmt, ...]:
    """Return the statements directly inside a statement."""
    match stmt:
        case Block(body):
            return body
        case For() | If() | Alloc():
            return (stmt.body,)
        case Store():
            return ()


def walk_statements(stmt: LoopStmt) -> Iterator[LoopStmt]:
    """Yield `stmt` and every statement below it, outermost first."""
    yield stmt
    for each in inside(stmt):
        yield from walk_statements(each)

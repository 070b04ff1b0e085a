"""Programs as bits: the layout of every memory word, once for the RTL and for who loads it.

A core has three program memories: ops, shapes and micro-operations; a stream has ops and shapes.
`Layout` gives each field its place in a word; the templates of the RTL print the same places.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from penstock.machine.hardware import Hardware
from penstock.machine.program import Op, Program, Shape, Transfer, Uop

__all__ = [
    "COUNT_BITS",
    "FOLDS",
    "INDEX_BITS",
    "OPCODES",
    "Layout",
    "Words",
    "core_op",
    "core_result",
    "core_shape",
    "core_tail",
    "core_uop",
    "encoded",
    "stream_op",
    "stream_shape",
]

COUNT_BITS = 16
"""Of loop counters and of the numbers of ops that are done."""

INDEX_BITS = 24
"""Of conditions and coordinates."""

LANE_BITS = 6
SHIFT_BITS = 6

OPCODES = {
    name: number
    for number, name in enumerate(
        (
            *("mov", "add", "sub", "mul", "max", "min", "lt", "le", "eq", "ne"),
            *("and", "or", "fill", "where", "gate", "abs", "exp", "exp2", "div"),
        )
    )
}
FOLDS = {"sum": 0, "max": 1, "min": 2}


@dataclass(frozen=True)
class Layout:
    """The fields of one kind of word: name → (lowest bit, bits)."""

    fields: dict[str, tuple[int, int]]

    @property
    def bits(self) -> int:
        """Bits of a word."""
        return max(low + size for low, size in self.fields.values())

    def pack(self, values: dict[str, int]) -> int:
        """Return a word; fields that are not given are 0, negative numbers in two's complement."""
        word = 0
        for name, value in values.items():
            low, size = self.fields[name]
            assert -(1 << size) < value < 1 << size, (name, value, size)
            word |= (value & ((1 << size) - 1)) << low
        return word


def _laid_out(fields: Iterable[tuple[str, int]]) -> Layout:
    found, low = {}, 0
    for name, size in fields:
        found[name] = (low, size)
        low += size
    return Layout(found)


@cache
def core_op(hw: Hardware) -> Layout:
    """Return the word of a core's op."""
    fields = [("shape", (hw.templates - 1).bit_length())]
    fields += [(f"wait{unit}", COUNT_BITS) for unit in range(len(hw.units))]
    fields += [(f"o{k}_base", hw.address_bits) for k in range(hw.operands)]
    fields += [(f"c{k}_base", INDEX_BITS) for k in range(hw.conditions)]
    fields += [(f"i{k}_base", INDEX_BITS) for k in range(hw.indices)]
    return _laid_out([*fields, ("w_base", hw.address_bits)])


def _core_head(hw: Hardware) -> list[tuple[str, int]]:
    """Return the fields of a shape that only the fetch sequencer reads."""
    address, loops = hw.address_bits, range(hw.loops)
    fields = [(f"count{n}", COUNT_BITS) for n in loops]
    fields += [("reduced", 4)]
    for k in range(hw.operands):
        fields += [(f"o{k}_on", 1), (f"o{k}_part", 3), (f"o{k}_port", 1), (f"o{k}_mode", 2)]
        fields += [(f"o{k}_serial", 1), (f"o{k}_uses", hw.loops)]
        fields += [(f"o{k}_row", address), (f"o{k}_col", address)]
        fields += [(f"o{k}_inc{n}", address) for n in loops]
    for kind, count in (("c", hw.conditions), ("i", hw.indices)):
        fields += [(f"{kind}{k}_inc{n}", INDEX_BITS) for k in range(count) for n in loops]
    return [*fields, *((f"w_inc{n}", address) for n in loops)]


@cache
def core_result(hw: Hardware) -> Layout:
    """Return the part of a shape that goes on with results: what the drain does with them."""
    fields = [("rows", LANE_BITS), ("cols", LANE_BITS), ("w_fold", 2)]
    fields += [("w_over_rows", 1), ("w_over_cols", 1), ("w_partial", 1), ("w_serial", 1)]
    fields += [("w_left", SHIFT_BITS), ("w_right", SHIFT_BITS)]
    return _laid_out([*fields, ("w_row", hw.address_bits), ("w_col", hw.address_bits)])


@cache
def core_tail(hw: Hardware) -> Layout:
    """Return the part of a shape that goes on with operands: what is no loop and no address."""
    fields = [("uop", (hw.uops - 1).bit_length()), ("init_on", 1), ("init", 2)]
    for k in range(hw.conditions):
        fields += [(f"c{k}_mask", hw.operands + 1)]
        fields += [(f"c{k}_row", INDEX_BITS), (f"c{k}_col", INDEX_BITS)]
    for k in range(hw.indices):
        fields += [(f"i{k}_row", INDEX_BITS), (f"i{k}_col", INDEX_BITS)]
    rest = [(name, size) for name, (_, size) in core_result(hw).fields.items()]
    return _laid_out([*fields, *rest])


@cache
def core_shape(hw: Hardware) -> Layout:
    """Return the word of a core's shape: what fetches, then `core_tail`."""
    head = _core_head(hw)
    tail = [(name, size) for name, (_, size) in core_tail(hw).fields.items()]
    return _laid_out([*head, *tail])


@cache
def core_uop(hw: Hardware) -> Layout:
    """Return the word of a micro-operation."""
    return _laid_out(
        [
            *(("op", 5), ("dst", 2), ("a", 4), ("b", 4), ("c", 4)),
            *(("sha", SHIFT_BITS), ("shb", SHIFT_BITS), ("cycles", 8), ("gated", 1), ("last", 1)),
            ("imm", hw.acc_bits),
        ]
    )


@cache
def stream_op(hw: Hardware) -> Layout:
    """Return the word of a stream's op."""
    fields = [("shape", (hw.templates - 1).bit_length())]
    fields += [(f"wait{unit}", COUNT_BITS) for unit in range(len(hw.units))]
    return _laid_out([*fields, ("base", hw.address_bits)])


@cache
def stream_shape(hw: Hardware) -> Layout:
    """Return the word of a stream's shape."""
    fields = [(f"count{n}", COUNT_BITS) for n in range(hw.loops)]
    fields += [(f"inc{n}", hw.address_bits) for n in range(hw.loops)]
    return _laid_out([*fields, ("lanes", LANE_BITS), ("part", 3)])


SOURCES = 4
"""Registers, and the code of the first operand; then come coordinates and the constant."""


def source_code(name: str, hw: Hardware) -> int:
    """Return the code of a source of a micro-operation."""
    kind, number = name[0], name[1:]
    if name == "imm":
        return 15
    return {"r": 0, "x": SOURCES, "i": SOURCES + hw.operands}[kind] + int(number)


def increments(strides: tuple[int, ...], counts: tuple[int, ...], loops: int) -> list[int]:
    """Return, for each loop, what to add when it steps and those inside start again.

    Loops are aligned at the innermost place; those that are not there never step.
    """
    found = [
        stride
        - sum(
            (count - 1) * each
            for count, each in zip(counts[n + 1 :], strides[n + 1 :], strict=True)
        )
        for n, stride in enumerate(strides)
    ]
    return [0] * (loops - len(strides)) + found


def _counts(counts: tuple[int, ...], hw: Hardware) -> dict[str, int]:
    padded = (1,) * (hw.loops - len(counts)) + counts
    return {f"count{n}": count for n, count in enumerate(padded)}


def vector_mode(rows: bool, cols: bool) -> int:
    """Return how an operand spreads: 0 to all places, 1 by column, 2 by row, 3 to each its own."""
    return (2 if rows else 0) + (1 if cols else 0)


@dataclass(frozen=True)
class Words:
    """The memories of one unit."""

    ops: list[int]
    shapes: list[int]
    uops: list[int]


def encoded(program: Program) -> tuple[Words, ...]:
    """Return the program memories of all units."""
    hw = program.hardware
    found = []
    for number, queue in enumerate(program.queues):
        shapes = program.shapes[number]
        place = {shape: n for n, shape in enumerate(shapes)}
        if number < 2:
            words = [_stream_shape(shape, hw) for shape in shapes if isinstance(shape, Transfer)]
            ops = [_stream_op(op, place[op.shape], hw) for op in queue]
            found.append(Words(ops, words, []))
            continue
        mine = [shape for shape in shapes if isinstance(shape, Shape)]
        starts: dict[tuple[Uop, ...], int] = {}
        uops: list[int] = []
        for shape in mine:
            if shape.uops not in starts:
                starts[shape.uops] = len(uops)
                uops += [_uop(uop, uop is shape.uops[-1], hw) for uop in shape.uops]
        words = [_shape(shape, starts[shape.uops], hw, number - 2) for shape in mine]
        ops = [_core_op(op, place[op.shape], hw) for op in queue]
        found.append(Words(ops, words, uops))
    return tuple(found)


def _uop(uop: Uop, last: bool, hw: Hardware) -> int:
    return core_uop(hw).pack(
        {
            "op": OPCODES[uop.op],
            "dst": 0 if uop.dst == "out" else int(uop.dst[1:]),
            "a": source_code(uop.a, hw),
            "b": source_code(uop.b, hw),
            "c": source_code(uop.c, hw),
            "sha": uop.sha,
            "shb": uop.shb,
            "cycles": uop.cycles,
            "gated": uop.gated,
            "last": last,
            "imm": uop.imm,
        }
    )


def lanes_clash(stride: int, lanes: int) -> bool:
    """Whether words of a vector with this stride meet in a bank: even, and not one word."""
    return lanes > 1 and stride % 2 == 0


def _shape(shape: Shape, start: int, hw: Hardware, core: int) -> int:
    values = _counts(shape.counts, hw)
    values |= {"reduced": shape.reduced, "rows": shape.rows, "cols": shape.cols, "uop": start}
    for k, each in enumerate(shape.operands):
        rows, cols = spreads(each.row, each.col, shape)
        strides = [*each.strides]
        used = [
            int(stride != 0 and count > 1)
            for stride, count in zip(strides, shape.counts, strict=True)
        ]
        padded = [0] * (hw.loops - len(used)) + used
        stride, lanes = (each.col, shape.cols) if cols else (each.row, shape.rows)
        values |= {
            f"o{k}_on": 1,
            f"o{k}_part": each.part,
            f"o{k}_port": each.port,
            f"o{k}_mode": vector_mode(rows, cols),
            f"o{k}_serial": (rows or cols) and lanes_clash(stride, lanes),
            f"o{k}_uses": sum(bit << n for n, bit in enumerate(padded)),
            **_wrapped(f"o{k}_row", each.row, hw),
            **_wrapped(f"o{k}_col", each.col, hw),
            **_increments(f"o{k}_inc", each.strides, shape.counts, hw),
        }
    for k, test in enumerate(shape.conditions):
        mask = sum(1 << n for n in test.operands) | (int(test.point) << hw.operands)
        values |= {f"c{k}_mask": mask, f"c{k}_row": test.row, f"c{k}_col": test.col}
        steps = increments(test.strides, shape.counts, hw.loops)
        values |= {f"c{k}_inc{n}": step for n, step in enumerate(steps)}
    for k, index in enumerate(shape.indices):
        values |= {f"i{k}_row": index.row, f"i{k}_col": index.col}
        steps = increments(index.strides, shape.counts, hw.loops)
        values |= {f"i{k}_inc{n}": step for n, step in enumerate(steps)}
    write = shape.write
    values |= _wrapped("w_row", write.row, hw) | _wrapped("w_col", write.col, hw)
    values |= _increments("w_inc", write.strides, shape.counts, hw)
    values |= {
        "w_serial": not write.over_cols and lanes_clash(write.col, shape.cols),
        "w_fold": FOLDS[write.fold],
        "w_over_rows": write.over_rows,
        "w_over_cols": write.over_cols,
        "w_partial": write.partial,
        "w_left": write.left,
        "w_right": write.right,
        "init_on": shape.initial >= 0,
        "init": max(shape.initial, 0),
    }
    return core_shape(hw).pack(values)


def spreads(row: int, col: int, shape: Shape) -> tuple[bool, bool]:
    """Whether an operand differs from row to row, and from column to column."""
    return row != 0 and shape.rows > 1, col != 0 and shape.cols > 1


def _wrapped(name: str, value: int, hw: Hardware) -> dict[str, int]:
    return {name: value % (1 << hw.address_bits)}


def _increments(
    name: str, strides: tuple[int, ...], counts: tuple[int, ...], hw: Hardware
) -> dict[str, int]:
    steps = increments(strides, counts, hw.loops)
    return {f"{name}{n}": step % (1 << hw.address_bits) for n, step in enumerate(steps)}


def _waits(op: Op) -> dict[str, int]:
    return {f"wait{unit}": count for unit, count in enumerate(op.waits)}


def _core_op(op: Op, place: int, hw: Hardware) -> int:
    shape = op.shape
    assert isinstance(shape, Shape)
    names = [f"o{k}_base" for k in range(len(shape.operands))]
    names += [f"c{k}_base" for k in range(len(shape.conditions))]
    names += [f"i{k}_base" for k in range(len(shape.indices))]
    values = dict(zip([*names, "w_base"], op.bases, strict=True))
    return core_op(hw).pack({"shape": place, **_waits(op), **values})


def _stream_shape(shape: Transfer, hw: Hardware) -> int:
    return stream_shape(hw).pack(
        {
            **_counts(shape.counts, hw),
            **_increments("inc", shape.strides, shape.counts, hw),
            "lanes": shape.lanes,
            "part": shape.part,
        }
    )


def _stream_op(op: Op, place: int, hw: Hardware) -> int:
    return stream_op(hw).pack({"shape": place, **_waits(op), "base": op.bases[0]})

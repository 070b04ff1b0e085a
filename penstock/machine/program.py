"""`Program`: what each unit of a clocked machine does, as data.

An `Op` is one rectangular piece of work of one unit. Its shape (`Shape`: loop counts, strides,
micro-operations) is shared by many ops, which differ in their bases and in what they wait for.
``waits[u]`` is how many ops of unit u must be done before the op may begin: that is all the
synchronisation there is. Excluded: bits (`encode.py`) and time (`sim/clock/clocked.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from penstock.machine.hardware import Hardware

__all__ = ["Condition", "Index", "Op", "Operand", "Program", "Shape", "Transfer", "Uop", "Write"]


@dataclass(frozen=True, slots=True)
class Uop:
    """One operator on all places: ``dst = op(a << sha, b << shb)``.

    Sources: ``r0`` .. ``r3`` (registers), ``x0`` .. (operands), ``i0`` .. (coordinates), ``imm``.
    ``dst`` is a register or ``out``, what the point gives. ``gated``: absent unless the
    conditions of the point hold. For exponentials `sha` is the operand's fraction.
    """

    op: str
    dst: str
    a: str
    b: str = "imm"
    c: str = "imm"
    sha: int = 0
    shb: int = 0
    imm: int = 0
    cycles: int = 1
    gated: bool = False


@dataclass(frozen=True, slots=True)
class Operand:
    """One address generator: words of a partition of the buffer.

    The address of place (i, j) is base + sum(counter * stride) + i * row + j * col. ``port`` is
    the read port of the core that it uses.
    """

    part: int
    port: int
    strides: tuple[int, ...]
    row: int
    col: int


@dataclass(frozen=True, slots=True)
class Condition:
    """``base + sum(counter * stride) + i * row + j * col >= 0``.

    Where it fails, the operands of `operands` are absent, or (`point`) the point itself.
    """

    strides: tuple[int, ...]
    row: int
    col: int
    operands: tuple[int, ...]
    point: bool


@dataclass(frozen=True, slots=True)
class Index:
    """An integer that micro-operations use: affine in counters and place."""

    strides: tuple[int, ...]
    row: int
    col: int


@dataclass(frozen=True, slots=True)
class Write:
    """Where results go, and how.

    ``left`` and ``right`` are the shifts from the value's fraction to the format's; ``partial``
    writes the exact sum so far instead. ``over_rows``, ``over_cols``: reduced along the axis.
    """

    strides: tuple[int, ...]
    row: int
    col: int
    fold: str
    over_rows: bool
    over_cols: bool
    partial: bool
    left: int
    right: int


@dataclass(frozen=True, slots=True)
class Shape:
    """The work of a core's op, but for its bases.

    Args:
        counts: of the loops in time, outermost first; the last `reduced` fold into one result.
        rows, cols: places at work.
        initial: the operand that holds the sum so far, -1 for none.
        uops: of one point; the last one's ``dst`` is ``out``.
    """

    counts: tuple[int, ...]
    reduced: int
    rows: int
    cols: int
    operands: tuple[Operand, ...]
    conditions: tuple[Condition, ...]
    indices: tuple[Index, ...]
    write: Write
    initial: int
    uops: tuple[Uop, ...]

    @property
    def point_cycles(self) -> int:
        """Cycles of one step."""
        return sum(uop.cycles for uop in self.uops)


@dataclass(frozen=True, slots=True)
class Transfer:
    """The work of a stream's op: for each step of the loops, `lanes` words side by side."""

    counts: tuple[int, ...]
    lanes: int
    part: int
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Op:
    """One op: ``task`` is the task of the trace that it is part of; ``name`` its Einsum or tensor.

    ``bases`` are those of operands, conditions, indices and the write, in this order; of a stream,
    the address alone.
    """

    task: int
    name: str
    shape: Shape | Transfer
    waits: tuple[int, ...]
    bases: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """What all units do.

    Args:
        hardware: the machine.
        fraction_bits: of the format.
        queues: for each unit of ``hardware.units``, its ops in order.
        feeds: for each op of ``ld``: its tensor and the coordinates of its elements, one row for
            each beat.
        takes: the same for ``st``.
        fifo_in, fifo_out: entries of the streams' FIFOs that are used.
        words: of a bank of the buffer that are used, at most.
    """

    hardware: Hardware
    fraction_bits: int
    queues: tuple[tuple[Op, ...], ...]
    feeds: tuple[tuple[str, tuple[tuple[int, ...], ...]], ...]
    takes: tuple[tuple[str, tuple[tuple[int, ...], ...]], ...]
    fifo_in: int
    fifo_out: int
    words: int

    @cached_property
    def shapes(self) -> tuple[tuple[Shape | Transfer, ...], ...]:
        """The different shapes of each unit, in order of first use."""
        return tuple(tuple(dict.fromkeys(op.shape for op in queue)) for queue in self.queues)

    @property
    def uops(self) -> int:
        """Micro-operations of the unit that has most, as they lie in its memory."""
        return max(
            sum(len(each) for each in {s.uops for s in shapes if isinstance(s, Shape)})
            for shapes in self.shapes
        )

    def fitted(self) -> Hardware:
        """Return the same machine with memories as small as this program allows."""
        templates = _power(max(map(len, self.shapes)))
        uops = _power(self.uops)
        return replace(
            self.hardware,
            words=_power(self.words),
            tasks=max(_power(max(map(len, self.queues)) + 1), templates, uops),
            templates=templates,
            uops=uops,
        )


def _power(count: int) -> int:
    """Return the power of two, at least 2, that is not less."""
    return 1 << max(count - 1, 1).bit_length()

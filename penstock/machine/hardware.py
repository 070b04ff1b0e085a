"""`Hardware`: what a clocked machine is built of. A pure function of a Target and a few depths.

Everything here is fixed when the RTL is generated; what a design needs is in its `Program`. The
units are a stream reader (``ld``), a stream writer (``st``) and one core for each array of the
target. Excluded: timing (`sim/clock/clocked.py`, and the RTL itself).
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.einsum_ir.formats import Format
from penstock.errors import TargetError
from penstock.targets.base import Array, Target

__all__ = ["Core", "Hardware", "hardware_of"]

EXP_CYCLES = 6
"""One multiplication by log2(e), four of the polynomial, one by a root of two."""

LARGEST = 16
"""Places along an axis of an array that is generated."""

WIDEST = 22
"""Bits of a format whose exponentials fit into products of 64 bits."""


@dataclass(frozen=True, slots=True)
class Core:
    """One array: ``rows`` x ``cols`` places that work in lock step.

    ``cycles`` are (operator, cycles) pairs of the target; ``divides`` says that places have a
    divider, ``exponent`` that they have exponentials.
    """

    name: str
    rows: int
    cols: int
    axes: tuple[str, ...]
    cycles: tuple[tuple[str, int], ...]

    @property
    def divides(self) -> bool:
        """Whether its places divide."""
        return "/" in dict(self.cycles)

    @property
    def divide_cycles(self) -> int:
        """Cycles of a division; 1 if there is none."""
        return dict(self.cycles).get("/", 1)


@dataclass(frozen=True, slots=True)
class Hardware:
    """The parameters of one machine.

    Args:
        name: lower case; of the generated top module.
        cores: one for each array.
        bits: of an element; ``acc_bits`` of an exact value inside an Einsum.
        banks: of each partition of the buffer, a power of two.
        words: of each bank.
        fifo_depth: of the streams' FIFOs; a program may use less.
        tasks, templates, uops: entries of each unit's program memories.
    """

    name: str
    cores: tuple[Core, ...]
    bits: int
    banks: int
    words: int = 2048
    fifo_depth: int = 8
    tasks: int = 4096
    templates: int = 256
    uops: int = 256
    acc_bits: int = 64
    operands: int = 4
    conditions: int = 4
    indices: int = 2
    loops: int = 6

    @property
    def units(self) -> tuple[str, ...]:
        """Names of the units: the streams, then the cores."""
        return ("ld", "st", *(core.name for core in self.cores))

    @property
    def address_bits(self) -> int:
        """Bits of an address within a partition."""
        return (self.banks * self.words - 1).bit_length()

    @property
    def work_bits(self) -> int:
        """Fraction bits with which exponentials work (``G`` of `numerics.py`)."""
        return min(self.bits + 4, 32)

    def core(self, name: str) -> Core:
        """Return the core of an array."""
        return next(core for core in self.cores if core.name == name)


def hardware_of(target: Target, fmt: Format, *, fifo_depth: int = 8, words: int = 2048) -> Hardware:
    """Return the machine that is generated for a target.

    Raises:
        TargetError: the target is no spatial array, too large, or the format is not plain fixed
            point.
    """
    if target.family != "spatial":
        raise TargetError(
            f"RTL is generated for spatial arrays, and {target.name} is a {target.family} target",
            fix="map the design to mesh4x4",
        )
    if fmt.kind != "fixed" or fmt.bits > WIDEST:
        raise TargetError(
            f"the RTL computes in fixed point of at most {WIDEST} bits, not in {fmt}",
            fix="give --format 'fixed<16,6>'",
        )
    if fmt.algorithms:
        raise TargetError(
            f"the RTL has one algorithm for each function, and {fmt} chooses others",
            fix=f"give --format 'fixed<{fmt.bits},{fmt.integer_bits}>'",
        )
    cores = tuple(_core(array, target) for array in target.arrays)
    longest = max(max(core.rows, core.cols) for core in cores)
    banks = 1 << max(longest - 1, 1).bit_length()
    sizes = "_".join(f"{core.rows}x{core.cols}" for core in cores)
    name = f"machine_{sizes}_w{fmt.bits}"
    return Hardware(name, cores, fmt.bits, banks, words, fifo_depth)


def _core(array: Array, target: Target) -> Core:
    sizes = [axis.size for axis in array.axes]
    if len(sizes) > 2 or max(sizes) > LARGEST:
        raise TargetError(
            f"RTL is generated for arrays of one or two axes of at most {LARGEST} places, and "
            f"{array.name} of {target.name} is {' x '.join(str(size) for size in sizes)}",
            fix="take a smaller array, as in --set pe2d.rows=16",
        )
    cycles = tuple((op, max(1, int(cost))) for op, cost in array.cycles)
    short = [op for op, cost in cycles if op in ("exp", "exp2") and cost < EXP_CYCLES]
    if short:
        raise TargetError(
            f"{short[0]} takes {EXP_CYCLES} cycles in RTL, and {array.name} of {target.name} "
            "gives it fewer",
            fix=f"give it {EXP_CYCLES} cycles or more",
        )
    rows, cols = (1, sizes[0]) if len(sizes) == 1 else (sizes[0], sizes[1])
    return Core(array.name, rows, cols, tuple(axis.name for axis in array.axes), cycles)

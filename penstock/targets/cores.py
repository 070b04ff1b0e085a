"""What one operator, memory, stream or port of an FPGA costs: cycles, LUT, FF, DSP, BRAM, URAM.

Floating point is the table of Vitis HLS 2023.2 for an UltraScale+ part at 3.33 ns, read off the
synthesis reports in the public artifact of Stream-HLS (FPGA 2025, ``FPGA2025_Artificats``). Fixed
point follows the width: a multiplier is tiled by the 27 x 18 multiplier of a DSP48E2, an adder
takes a LUT a bit, a divider a row of LUTs for each bit of its quotient. A function is the sequence
of such operators that `hls_templates/penstock_fixed.hpp` writes down; in floating point one that
the table lacks is put together from those that it has.

All of it is evidence *model* until a project was synthesised. Excluded: programs and mappings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, reduce
from typing import Literal

from penstock.errors import UnknownNameError
from penstock.targets.operators import SELECTIONS

__all__ = [
    "Cost",
    "Number",
    "control",
    "core",
    "core_in_loop",
    "fifo",
    "memory",
    "port",
    "primitives",
    "storage",
    "usable_ns",
]


@dataclass(frozen=True, slots=True)
class Cost:
    """What something takes of a part, and for an operator when its result is there.

    Args:
        lut, ff, dsp, bram, uram: of the part; ``bram`` in blocks of 36 Kbit.
        latency: cycles from operands to result, through registers.
        delay_ns: of a result that no register holds up: in the same cycle, if it fits.
        loop_ns: the same without any register, as a recurrence wants it; 0 if it cannot be.
        loop_latency: cycles of the fastest version, which the tool takes in a recurrence; 0 if
            that is ``latency``.
    """

    lut: float = 0
    ff: float = 0
    dsp: float = 0
    bram: float = 0
    uram: float = 0
    latency: int = 0
    delay_ns: float = 0.0
    loop_ns: float = 0.0
    loop_latency: int = 0

    def __add__(self, other: Cost) -> Cost:
        """Return both, side by side for the part and one after the other in time."""
        return Cost(
            self.lut + other.lut,
            self.ff + other.ff,
            self.dsp + other.dsp,
            self.bram + other.bram,
            self.uram + other.uram,
            self.latency + other.latency,
            self.delay_ns + other.delay_ns,
            self.loop_ns + other.loop_ns if self.loop_ns and other.loop_ns else 0.0,
            (self.loop_latency or self.latency) + (other.loop_latency or other.latency),
        )

    def times(self, count: float) -> Cost:
        """Return `count` of them side by side."""
        return Cost(
            self.lut * count,
            self.ff * count,
            self.dsp * count,
            self.bram * count,
            self.uram * count,
            self.latency,
            self.delay_ns,
            self.loop_ns,
            self.loop_latency,
        )

    def in_loop(self, usable: float) -> tuple[int, float]:
        """Return what a recurrence takes: whole cycles, and a share of one more.

        Args:
            usable: nanoseconds of a cycle for logic.
        """
        if self.loop_ns:
            return 0, self.loop_ns / usable
        return self.loop_latency or self.latency, self.delay_ns / usable

    def of_part(self) -> dict[str, float]:
        """Return resource → count, by the names of `Target.resources`."""
        return {
            "LUT": self.lut,
            "FF": self.ff,
            "DSP": self.dsp,
            "BRAM": self.bram,
            "URAM": self.uram,
        }


@dataclass(frozen=True, slots=True)
class Number:
    """What an operator computes with: ``Number("fixed", 16, 10)``, ``Number("float", 32)``."""

    kind: Literal["float", "fixed"]
    bits: int
    fraction: int = 0
    algorithms: tuple[str, ...] = ()


def usable_ns(clock_hz: float) -> float:
    """Return what logic may take of a cycle: Vitis HLS keeps 27 % for what comes later (UG1399)."""
    return 0.73e9 / clock_hz


# Vitis HLS 2023.2, xcu280, 3.33 ns (Stream-HLS reports): name_latency+1, DSP, LUT, FF.
_SINGLE = {
    # fadd_32ns_32ns_32_7_full_dsp_1; in recurrences fadd_32ns_32ns_32_5_no_dsp_1
    "+": Cost(198, 318, 2, latency=6, loop_latency=4),
    "-": Cost(198, 318, 2, latency=6, loop_latency=4),  # fsub_32ns_32ns_32_7_full_dsp_1
    "*": Cost(78, 143, 3, latency=3),  # fmul_32ns_32ns_32_4_max_dsp_1
    "exp": Cost(748, 316, 7, latency=13),  # fexp_32ns_32ns_32_14_full_dsp_1
    "/": Cost(
        755, 748, 0, latency=11
    ),  # fdiv_32ns_32ns_32_12_no_dsp_1; LUT, FF: AMD PG060 (memory)
    "max": Cost(373, 0, 0, delay_ns=2.32, loop_ns=2.32),  # generic_fmax_float_s
    "sqrt": Cost(
        460, 640, 0, latency=15
    ),  # fsqrt_32ns_32ns_32_16_no_dsp_1; LUT, FF: PG060 (memory)
}
# The same tool; latencies from module names of public projects, LUT and FF from memory.
_DOUBLE = {
    "+": Cost(780, 700, 3, latency=6),  # dadd_64ns_64ns_64_7_full_dsp_1
    "-": Cost(780, 700, 3, latency=6),  # dsub_64ns_64ns_64_7_full_dsp_1
    "*": Cost(230, 400, 8, latency=6),  # dmul_64ns_64ns_64_7_max_dsp_1
    "exp": Cost(2200, 1600, 26, latency=17),  # dexp_64ns_64ns_64_18_full_dsp_1
    "/": Cost(3200, 6000, 0, latency=58),  # ddiv_64ns_64ns_64_59_no_dsp_1
    "max": Cost(750, 0, 0, delay_ns=2.42, loop_ns=2.42),  # generic_fmax_double_s
    "sqrt": Cost(1900, 3400, 0, latency=57),  # dsqrt_64ns_64ns_64_58_no_dsp_1
}

_SINGLE_IN_LOOP = Cost(338, 243, 0, latency=4)  # fadd_32ns_32ns_32_5_no_dsp_1

_LOGIC = ("<", "<=", ">", ">=", "==", "!=", "and", "or", "not", "fill", "where", "float")
"""Operators on single bits or that choose one of two numbers."""

# Functions as sequences of others: penstock_fixed.hpp, and for floats the usual definitions.
_BUILT = {
    "exp2": ("exp",),
    "sigmoid": ("exp", "+", "/"),
    "tanh": ("exp", "+", "/", "-"),
    "silu": ("exp", "+", "/", "*"),
    "erf": ("exp", "/", "*", "+", "*", "+", "*", "+", "*", "+", "*"),
    "gelu": ("erf", "*", "+", "*"),
    "softplus": ("exp", "+", "log"),
    "log2": ("log",),
    "rsqrt": ("sqrt", "/"),
    "**": ("log", "*", "exp"),
    "sq": ("*",),
    "sin": ("*", "*", "+", "*", "+", "*", "+", "*"),
    "cos": ("*", "*", "+", "*", "+", "*", "+", "*"),
    "clamp": ("max", "max"),
    "//": ("/", "floor"),
    "%": ("/", "floor", "*", "-"),
    # a place of a selection compares, and takes a value and its coordinate or that before it
    **dict.fromkeys(SELECTIONS, ("<", "where", "where")),
}
_FLOAT_BUILT = {
    **_BUILT,
    "log": ("exp",),  # a logarithm core is as large as an exponential one (flog, fexp)
    "mac": ("*", "+"),
}
_SIMPLE = ("min", "relu", "step", "sign", "abs", "neg", "floor", "round", "bitlen")
"""As large as a maximum, or smaller."""


def core_in_loop(op: str, number: Number) -> Cost:
    """Return what an operator costs in the version that the tool takes in a recurrence."""
    found = core(op, number)
    return _SINGLE_IN_LOOP if found.loop_latency == _SINGLE_IN_LOOP.latency else found


@cache
def core(op: str, number: Number) -> Cost:
    """Return what one operator costs, pipelined to take operands every cycle.

    Args:
        op: an operator of `einsum_ir.ops`, ``mac``, or ``as int8``: rounding to a format.
        number: what it computes with. Formats of fewer than 32 bits in floating point are computed
            in 32 bits (`hls_templates/penstock_half.hpp`).

    Raises:
        UnknownNameError: no FPGA core is known for it.
    """
    if op in _LOGIC:
        return Cost(number.bits / 2, delay_ns=0.4, loop_ns=0.4)
    if op in _SIMPLE or op.startswith("as "):
        return core("max", number)
    return _fixed(op, number) if number.kind == "fixed" else _float(op, number)


def primitives(op: str) -> frozenset[str]:
    """Return the operators that one is put together from: ``exp``, ``+`` and ``/`` of ``sigmoid``.

    Args:
        op: any operator.
    """
    built = _BUILT.get(op, ())
    return frozenset({op}.union(*(primitives(each) for each in built)))


def _float(op: str, number: Number) -> Cost:
    table = _DOUBLE if number.bits > 32 else _SINGLE
    if op in table:
        return table[op]
    return _sequence(op, _FLOAT_BUILT, number, table)


def _sequence(
    op: str, built: dict[str, tuple[str, ...]], number: Number, known: dict[str, Cost]
) -> Cost:
    if op not in built:
        raise UnknownNameError("operator with an FPGA core", op, {*built, *known, *_SIMPLE})
    return reduce(Cost.__add__, (core(each, number) for each in built[op]))


def _fixed(op: str, number: Number) -> Cost:
    bits = number.bits
    guard = min(bits + 4, 32)  # working precision of a function: penstock_fixed.hpp, format::G
    match op:
        case "+" | "-":
            return _adder(bits)
        case "max":
            # Bambu's table for xcu55c: 48 LUT, 1.02 ns at 32 bits
            return Cost(1.5 * bits, delay_ns=0.6 + 0.013 * bits, loop_ns=0.6 + 0.013 * bits)
        case "*":
            return _multiplier(bits, bits)
        case "mac":  # the sum in the DSP's own adder: UG579
            return _multiplier(bits, bits) + Cost(delay_ns=0.79, loop_ns=0.79)
        case "/" if "newton" in number.algorithms:  # two of each step, and two more; a shifter
            step = _multiplier(32, 32) + _adder(32)
            return reduce(Cost.__add__, [step] * 8) + _shifter(bits + 36)
        case "/":
            return _divider(bits + number.fraction + 3)
        case "exp":  # scale, 4 steps, table, or scale, 5 steps: 6 multiplications; one shifter
            step = _multiplier(guard + 2, guard + 2) + _adder(guard + 2)
            roots = Cost() if "poly" in number.algorithms else memory(16, guard + 2, "lutram")
            return reduce(Cost.__add__, [step] * 6) + roots + _shifter(guard + 5)
        case "log":  # one square for each bit of the result: penstock_fixed.hpp, binary_log
            return reduce(Cost.__add__, [_multiplier(32, 32)] * guard) + _shifter(64)
        case "sqrt":  # one comparison for each bit of the root
            return _divider((bits + number.fraction + 1) // 2)
        case _:
            known = dict.fromkeys(("+", "-", "max", "*", "mac", "/", "exp", "log", "sqrt"), Cost())
            return _sequence(op, _BUILT, number, known)


def _adder(bits: int) -> Cost:
    delay = 0.55 + 0.0075 * bits  # Bambu's table for xcu55c: 33 LUT, 0.79 ns at 32 bits
    return Cost(bits + 1, delay_ns=delay, loop_ns=delay)


def _multiplier(left: int, right: int) -> Cost:
    """Return a multiplier of DSP48E2 blocks, 27 x 18 bits signed (AMD UG579)."""
    wide, narrow = max(left, right), min(left, right)
    tiles = math.ceil((wide - 1) / 26) * math.ceil((narrow - 1) / 17)
    # UG579: a register before and one after the multiplier; one more for each block in the sum.
    # Bambu's table for xcu55c: 2.38 ns at 16 x 16, 3.39 ns at 32 x 32, without registers.
    return Cost(
        dsp=tiles,
        lut=0 if tiles == 1 else left + right,
        ff=0 if tiles == 1 else (left + right) * (tiles - 1),
        latency=1 + tiles,
        loop_ns=1.37 + 0.063 * wide,
    )


def _divider(rows: int) -> Cost:
    """Return a divider that finds one bit of the quotient a cycle: a subtractor for each."""
    return Cost(lut=rows * (rows + 1), ff=rows * 3 * rows, latency=rows)


def _shifter(bits: int) -> Cost:
    levels = max(1, math.ceil(math.log2(bits)))
    return Cost(lut=bits * levels / 2, delay_ns=0.4 * levels, loop_ns=0.4 * levels)


BRAM_SHAPES = ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1))
"""Words by bits of a RAMB18E2 with two ports (AMD UG573)."""

SMALLEST = 4
"""A bank of less than this part of a block is made of something smaller."""


def memory(words: int, bits: int, kind: str = "") -> Cost:
    """Return what one bank of a buffer takes.

    Args:
        words: of it.
        bits: of one word.
        kind: ``bram``, ``uram`` or ``lutram``; "" leaves the choice to the tool, which takes LUTs
            for up to 1,024 bits.
    """
    if not words:
        return Cost()
    if kind == "uram":
        return Cost(uram=math.ceil(words / 4096) * math.ceil(bits / 72))  # UG573: 4K x 72
    if kind == "lutram" or (not kind and words * bits <= 1024):
        return Cost(lut=math.ceil(words / 64) * bits)  # UG574: 64 x 1 in a LUT
    halves = min(math.ceil(words / deep) * math.ceil(bits / wide) for deep, wide in BRAM_SHAPES)
    return Cost(bram=halves / 2)


def storage(words: int, bits: int, kind: str) -> str:
    """Return what a bank that a mapping keeps in ``bram`` or ``uram`` is made of.

    A bank fills a quarter of a block at least, or it is made of the next smaller one.
    """
    if kind == "uram" and words * bits < 4096 * 72 / SMALLEST:
        kind = "bram"
    return "lutram" if kind == "bram" and words * bits < 18 * 1024 / SMALLEST else kind


def fifo(depth: int, bits: int, kind: str = "") -> Cost:
    """Return what a stream takes: shift registers up to 1,024 bits, else block memory (UG1399).

    Streams of two tokens are shift registers however wide: Vitis HLS names its modules
    ``fifo_w2048_d2_S`` there, and ``fifo_w1024_d4_A`` for memory (public projects). ``kind`` is the
    memory that a pragma asks for, "" without one.
    """
    control = Cost(lut=20 + 2 * max(depth, 2).bit_length(), ff=8 + 3 * max(depth, 2).bit_length())
    if not kind and (depth <= 2 or depth * bits <= 1024):
        return control + Cost(lut=math.ceil(depth / 32) * bits)  # UG574: SRL32, 32 x 1 in a LUT
    return control + memory(depth, bits, kind or "bram")


def port(bits: int) -> Cost:
    """Return what an m_axi port takes.

    Vitis HLS 2022 reports in public repositories: 566 FF, 766 LUT, 2 BRAM at 32 bits; 881 FF,
    1,052 LUT, 8 BRAM at 512 bits.
    """
    share = (min(max(bits, 32), 512) - 32) / 480
    return Cost(lut=766 + 286 * share, ff=566 + 315 * share, bram=2 + 6 * share)


def control(arguments: int) -> Cost:
    """Return what the s_axilite port takes, and the state machines that it starts.

    Vitis HLS 2022 reports: 290 FF and 490 LUT for three addresses of 64 bits.
    """
    return Cost(lut=163 * max(1, arguments), ff=97 * max(1, arguments))

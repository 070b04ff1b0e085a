"""AMD FPGAs: a part's resources, and the compute units that a design builds from them.

A compute unit is a 2-D array of multiply-adds and a row of lanes with every operator. How many
units, and how large, is a design's choice (`Target.sizings`) within the part's resources; the
default is a small one. What operators take is in `cores.py`, and `mapper/resources.py` adds it up.
Excluded: routing, dies of one part (SLRs), and that a larger design may not reach the clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from penstock.targets.base import Array, Axis, Memory, Target
from penstock.targets.operators import general

__all__ = ["Fpga", "fpga"]

# Initiation intervals of pipelined operators in 16-bit fixed point: 1 for DSP operators; the
# divider and the functions of penstock_fixed.hpp are pipelined too.
CYCLES = tuple(general(simple=1, divide=1, function=1).items())
BRAM_BYTES = 4096  # AMD UG573: 36 Kbit, of which 4 KB are data of 8, 16 or 32 bits
URAM_BYTES = 36 * 1024  # AMD UG573: 288 Kbit
USABLE = 0.8  # of each resource: what is left beside the platform's shell and for routing
LUTRAM_BYTES = 64  # of a place: its operands and partial sums
LANE_BRAMS = 1  # of a lane
LANE_DSPS = 8  # of a lane with exp: Vitis HLS 2023.2 reports 7 for fexp, and a multiply-add
SIDES = (8, 16, 32, 64)
UNITS = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Fpga:
    """The data sheet of a part on its board.

    Args:
        part: the vendor's name of the part.
        lut, ff, dsp, bram, uram: what it has; BRAM in blocks of 36 Kbit.
        clock_hz: that designs of this kind reach on it.
        dram: name of its memory: ``hbm`` or ``ddr``.
        dram_bytes, dram_bytes_per_s: of it.
        channels: that this bandwidth is divided into.
        source: where the numbers come from.
        bank: what the vendor's linker calls a channel, "" without a linker.
        notes: what is unchecked.
    """

    part: str
    lut: int
    ff: int
    dsp: int
    bram: int
    uram: int
    clock_hz: float
    dram: str
    dram_bytes: float
    dram_bytes_per_s: float
    channels: int
    source: str
    bank: str = ""
    notes: tuple[str, ...] = ()

    @property
    def resources(self) -> tuple[tuple[str, int], ...]:
        """(name, count) pairs."""
        names = ("LUT", "FF", "DSP", "BRAM", "URAM")
        return tuple(zip(names, (self.lut, self.ff, self.dsp, self.bram, self.uram), strict=True))


def fpga(name: str, sheet: Fpga, side: int) -> Target:
    """Return an FPGA as a target.

    Args:
        name: of the machine.
        sheet: its part.
        side: of the default compute unit: a square of so many rows, and as many lanes.
    """
    block, blocks, each = "URAM", int(USABLE * sheet.uram), URAM_BYTES
    if not blocks:  # half of them: the lanes need some as well
        block, blocks, each = "BRAM", int(USABLE * sheet.bram / 2), BRAM_BYTES
    return Target(
        name=name,
        family="fpga",
        clock_hz=sheet.clock_hz,
        memories=(
            Memory(
                sheet.dram,
                sheet.dram_bytes,
                bytes_per_cycle=sheet.dram_bytes_per_s / sheet.clock_hz,
                channels=sheet.channels,
                bank=sheet.bank,
            ),
            Memory(block.lower(), blocks * each, uses=((block, blocks),)),
            Memory("pe2d_regs", LUTRAM_BYTES, array="pe2d", instances=side * side),
            Memory(
                "pe1d_bram",
                LANE_BRAMS * BRAM_BYTES,
                array="pe1d",
                instances=side,
                uses=(("BRAM", LANE_BRAMS),),
            ),
        ),
        arrays=(
            Array(
                "pe2d",
                (
                    Axis("units", 1, "core", folds=True),
                    Axis("rows", side, "pe", reduces=True),
                    Axis("cols", side, "pe", reduces=True),
                ),
                CYCLES,
                depth_cycles=5,  # Vitis HLS 2023.2: 16-bit multiply-add on a DSP48E2, 3 to 5 stages
            ),
            Array(
                "pe1d",
                (Axis("units", 1, "core", folds=True), Axis("lanes", side, "pe")),
                CYCLES,
                depth_cycles=12,  # Vitis HLS 2023.2 reports: fdiv 11, fexp 13
            ),
        ),
        format="fixed<16,6>",
        source=f"{sheet.source}; compute units: penstock's, a design's choice",
        resources=sheet.resources,
        part=sheet.part,
        notes=sheet.notes,
        sizings=tuple(_sizings(sheet)),
    )


def _sizings(sheet: Fpga) -> Iterator[tuple[tuple[str, float], ...]]:
    """Yield for each number of compute units the largest squares that the part has room for.

    It has for two products (every Einsum has operators of its own) and for the lanes' functions.
    """
    for units in UNITS:
        for times in (1, 2):
            fits = (
                side
                for side in SIDES
                if units * side * (2 * side + LANE_DSPS * times) <= sheet.dsp
                and 2 * units * side * times * LANE_BRAMS <= USABLE * sheet.bram
            )
            side = max(fits, default=0)
            if side:
                yield (
                    ("pe2d.units", units),
                    ("pe2d.rows", side),
                    ("pe2d.cols", side),
                    ("pe1d.units", units),
                    ("pe1d.lanes", side * times),
                )

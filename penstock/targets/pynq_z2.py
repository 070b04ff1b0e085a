"""TUL PYNQ-Z2."""

from __future__ import annotations

from penstock.targets.fpga import Fpga, fpga

__all__ = ["TARGET"]

SHEET = Fpga(
    part="xc7z020clg400-1",
    lut=53_200,  # AMD DS190: Z-7020
    ff=106_400,  # same
    dsp=220,  # same
    bram=140,  # same
    uram=0,  # same
    clock_hz=100e6,  # assumption: the usual clock of designs on this board
    dram="ddr",
    dram_bytes=512 * 2**20,  # PYNQ-Z2 manual: 512 MB of DDR3
    dram_bytes_per_s=2.1e9,  # same: 16 bits at 1,050 MT/s
    channels=4,  # HP ports of the processing system
    source="AMD DS190 (Zynq-7000 overview); PYNQ-Z2 manual",
    notes=("the data sheet was not at hand: unchecked",),
)

TARGET = fpga("pynq_z2", SHEET, side=8)

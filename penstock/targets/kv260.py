"""AMD Kria KV260."""

from __future__ import annotations

from penstock.targets.fpga import Fpga, fpga

__all__ = ["TARGET"]

SHEET = Fpga(
    part="xck26-sfvc784-2LV-c",
    lut=117_120,  # AMD DS987: K26
    ff=234_240,  # same
    dsp=1_248,  # same
    bram=144,  # same
    uram=64,  # same
    clock_hz=250e6,  # assumption: a low-voltage part of speed grade 2
    dram="ddr",
    dram_bytes=4 * 2**30,  # AMD DS987: 4 GB of DDR4 at the processors
    dram_bytes_per_s=19.2e9,  # same: 64 bits at 2,400 MT/s
    channels=4,  # HP ports of the processing system
    source="AMD DS987 (Kria K26 data sheet)",
    notes=("the data sheet was not at hand: unchecked",),
)

TARGET = fpga("kv260", SHEET, side=16)

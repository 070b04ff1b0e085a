"""AMD Alveo U280."""

from __future__ import annotations

from penstock.targets.fpga import Fpga, fpga

__all__ = ["TARGET"]

SHEET = Fpga(
    part="xcu280-fsvh2892-2L-e",
    lut=1_303_680,  # AMD DS963; agrees with Vitis reports
    ff=2_607_360,  # same
    dsp=9_024,  # same
    bram=2_016,  # same
    uram=960,  # same
    clock_hz=300e6,  # the clock of AMD's U280 platforms and of Stream-HLS's designs (3.33 ns)
    dram="hbm",
    dram_bytes=8 * 2**30,  # AMD DS963: 8 GB of HBM2
    dram_bytes_per_s=460e9,  # same
    channels=32,  # same: pseudo-channels
    bank="HBM",
    source="AMD DS963 (Alveo U280 data sheet)",
)

TARGET = fpga("u280", SHEET, side=16)

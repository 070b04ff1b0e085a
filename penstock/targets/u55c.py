"""AMD Alveo U55C."""

from __future__ import annotations

from penstock.targets.fpga import Fpga, fpga

__all__ = ["TARGET"]

SHEET = Fpga(
    part="xcu55c-fsvh2892-2L-e",
    lut=1_303_680,  # AMD DS978
    ff=2_607_360,  # same
    dsp=9_024,  # same
    bram=2_016,  # same
    uram=960,  # same
    clock_hz=300e6,  # as U280: the same silicon
    dram="hbm",
    dram_bytes=16 * 2**30,  # AMD DS978: 16 GB of HBM2
    dram_bytes_per_s=460e9,  # same
    channels=32,  # same: pseudo-channels
    bank="HBM",
    source="AMD DS978 (Alveo U55C data sheet)",
    notes=("the data sheet was not at hand: unchecked",),
)

TARGET = fpga("u55c", SHEET, side=16)

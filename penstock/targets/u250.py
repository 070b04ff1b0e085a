"""AMD Alveo U250."""

from __future__ import annotations

from penstock.targets.fpga import Fpga, fpga

__all__ = ["TARGET"]

SHEET = Fpga(
    part="xcu250-figd2104-2L-e",
    lut=1_728_000,  # AMD DS962
    ff=3_456_000,  # same
    dsp=12_288,  # same
    bram=2_688,  # same
    uram=1_280,  # same
    clock_hz=300e6,  # the clock of AMD's U250 platforms
    dram="ddr",
    dram_bytes=64 * 2**30,  # AMD DS962: 4 x 16 GB of DDR4
    dram_bytes_per_s=77e9,  # same
    channels=4,  # same
    bank="DDR",
    source="AMD DS962 (Alveo U200/U250 data sheet)",
    notes=("the data sheet was not at hand: unchecked",),
)

TARGET = fpga("u250", SHEET, side=16)

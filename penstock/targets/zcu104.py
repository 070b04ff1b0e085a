"""AMD ZCU104."""

from __future__ import annotations

from penstock.targets.fpga import Fpga, fpga

__all__ = ["TARGET"]

SHEET = Fpga(
    part="xczu7ev-ffvc1156-2-e",
    lut=230_400,  # AMD DS891: XCZU7EV
    ff=460_800,  # same
    dsp=1_728,  # same
    bram=312,  # same
    uram=96,  # same
    clock_hz=300e6,  # as ZCU102: the same speed grade
    dram="ddr",
    dram_bytes=2 * 2**30,  # AMD UG1267: 2 GB of DDR4 at the processors
    dram_bytes_per_s=19.2e9,  # 64 bits at 2,400 MT/s
    channels=4,  # HP ports of the processing system
    source="AMD DS891 (Zynq UltraScale+ overview); UG1267",
    notes=("the data sheet was not at hand: unchecked",),
)

TARGET = fpga("zcu104", SHEET, side=16)

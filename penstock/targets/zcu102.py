"""AMD ZCU102."""

from __future__ import annotations

from penstock.targets.fpga import Fpga, fpga

__all__ = ["TARGET"]

SHEET = Fpga(
    part="xczu9eg-ffvb1156-2-e",
    lut=274_080,  # AMD DS891: XCZU9EG
    ff=548_160,  # same
    dsp=2_520,  # same
    bram=912,  # same
    uram=0,  # same
    clock_hz=300e6,  # Edge-MoE's design (ICCAD 2023)
    dram="ddr",
    dram_bytes=4 * 2**30,  # AMD UG1182: 4 GB of DDR4 at the processors
    dram_bytes_per_s=17e9,  # 64 bits at 2,133 MT/s
    channels=4,  # HP ports of the processing system
    source="AMD DS891 (Zynq UltraScale+ overview); UG1182",
    notes=("the data sheet was not at hand: unchecked", "the 512 MB beside the logic are left out"),
)

TARGET = fpga("zcu102", SHEET, side=16)

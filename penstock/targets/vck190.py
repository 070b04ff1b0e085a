"""AMD VCK190."""

from __future__ import annotations

from penstock.targets.fpga import Fpga, fpga

__all__ = ["TARGET"]

SHEET = Fpga(
    part="xcvc1902-vsva2197-2MP-e-S",
    lut=899_840,  # AMD DS950: XCVC1902
    ff=1_799_680,  # same
    dsp=1_968,  # same: DSP58
    bram=967,  # same
    uram=463,  # same
    clock_hz=300e6,  # assumption: as designs on UltraScale+
    dram="ddr",
    dram_bytes=8 * 2**30,  # AMD UG1366: 8 GB of DDR4
    dram_bytes_per_s=25.6e9,  # same: 64 bits at 3,200 MT/s
    channels=1,  # same
    source="AMD DS950 (Versal overview); UG1366",
    notes=(
        "the data sheet was not at hand: unchecked",
        "the 400 AI engines and the LPDDR4 are left out",
    ),
)

TARGET = fpga("vck190", SHEET, side=16)

"""AMD Alveo U280 with one default compute unit: a 16x16 array of DSPs and a 16-lane vector unit.

The part's resources are AMD's; the compute unit (how many processing elements, which buffers) is
penstock's default, to be changed with `Target.override`.
"""

from __future__ import annotations

from penstock.targets.base import Array, Axis, Memory, Target
from penstock.targets.operators import general

__all__ = ["TARGET"]

CLOCK_HZ = 300e6  # the clock of AMD's U280 platforms and of Stream-HLS's designs (3.33 ns)
HBM_BYTES_PER_S = 460e9  # AMD DS963: HBM2, 460 GB/s
URAM_BYTES = 960 * 36 * 1024  # AMD DS963: 960 UltraRAM blocks of 288 Kbit

# Initiation intervals of pipelined operators in 16-bit fixed point: 1 for DSP operators; the
# divider and the functions of penstock_fixed.hpp are pipelined too.
CYCLES = tuple(general(simple=1, divide=1, function=1).items())

TARGET = Target(
    name="u280",
    family="fpga",
    clock_hz=CLOCK_HZ,
    memories=(
        Memory(
            "hbm",
            capacity_bytes=8 * 2**30,  # AMD DS963: 8 GB
            bytes_per_cycle=HBM_BYTES_PER_S / CLOCK_HZ,
            read_pj_per_byte=3.9 * 8,  # HBM2 at 3.9 pJ/bit, as FuseMax's artifact
            write_pj_per_byte=3.9 * 8,
            channels=32,  # AMD DS963: 32 pseudo-channels, an AXI port each
            bank="HBM",
        ),
        Memory("uram", capacity_bytes=URAM_BYTES),
        Memory("pe2d_regs", 64, array="pe2d", instances=256),  # default: 64 B of LUTRAM per PE
        # default: 16 BRAM36 of 4 KB, one bank for each lane
        Memory("pe1d_bram", 16 * 4096, array="pe1d", instances=16),
    ),
    arrays=(
        Array(
            "pe2d",
            axes=(Axis("rows", 16, "pe", reduces=True), Axis("cols", 16, "pe", reduces=True)),
            cycles=CYCLES,
            depth_cycles=5,  # Vitis HLS 2023.2: 16-bit multiply-add on a DSP48E2, 3 to 5 stages
        ),
        Array(
            "pe1d",
            axes=(Axis("lanes", 16, "pe"),),
            cycles=CYCLES,
            depth_cycles=12,  # Vitis HLS 2023.2 reports: fdiv 11, fexp 13
        ),
    ),
    format="fixed<16,6>",
    source="AMD DS963 (Alveo U280 data sheet); compute unit: penstock's default",
    resources=(
        ("LUT", 1_303_680),  # AMD DS963
        ("FF", 2_607_360),  # same
        ("DSP", 9_024),  # same
        ("BRAM", 2_016),  # same
        ("URAM", 960),  # same
    ),
    part="xcu280-fsvh2892-2L-e",
)

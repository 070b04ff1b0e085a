"""FuseMax's accelerator (MICRO 2024): a 256x256 array with max, a 256-lane array with a divider.

Numbers from the paper's Fig. 2 and 3 and its public artifact
(A/ = inputs/yamls/area_energy/architecture/accel_fusemax).
"""

from __future__ import annotations

from penstock.targets.base import Array, Axis, Memory, Target
from penstock.targets.operators import COMPARE, ENERGY_PJ, spread

__all__ = ["TARGET"]

CLOCK_HZ = 940e6  # artifact, cascade.py:321-323
DRAM_BYTES_PER_S = 400 * 2**30  # artifact, cascade.py:315-319: 400 GiB/s
DRAM_PJ_PER_BYTE = 3.9 * 8  # artifact: HBM2 at 3.9 pJ/bit
GB_READ_PJ_PER_BYTE = 12512.7606 / 512  # artifact ERT: 512 B row of 16 MB (CACTI, 45 nm)
GB_WRITE_PJ_PER_BYTE = 15751.4606 / 512  # same
RF2D_READ_PJ_PER_BYTE = 2.1904 / 2  # artifact ERT: 16-bit word, depth 12-16
RF2D_WRITE_PJ_PER_BYTE = 1.9024 / 2  # same
RF1D_READ_PJ_PER_BYTE = 2.1945 / 2  # artifact ERT: 16-bit word, depth 32
RF1D_WRITE_PJ_PER_BYTE = 1.9065 / 2  # same

MAC_CYCLES = spread({"mac": 1, "*": 1, "sq": 1, "+": 1, "-": 1, "max": 1, "min": 1}, *COMPARE)
# exp is six multiply-adds, one after another, on the ordinary MAC (artifact, proposal.py:40,43)
CYCLES_2D = {**MAC_CYCLES, "exp": 6, "exp2": 6, "relu": 1, "clamp": 2}
CYCLES_1D = {**CYCLES_2D, "/": 1}  # pipelined divider (A/1d-path.yaml:29)
EXP_PJ = 6 * ENERGY_PJ["mac"]

TARGET = Target(
    name="fusemax",
    family="spatial",
    clock_hz=CLOCK_HZ,
    memories=(
        Memory(
            "dram",
            capacity_bytes=float("inf"),
            bytes_per_cycle=DRAM_BYTES_PER_S / CLOCK_HZ,
            read_pj_per_byte=DRAM_PJ_PER_BYTE,
            write_pj_per_byte=DRAM_PJ_PER_BYTE,
        ),
        Memory(
            "gb",
            capacity_bytes=16 * 2**20,  # paper Fig. 2: 16 MB
            read_pj_per_byte=GB_READ_PJ_PER_BYTE,
            write_pj_per_byte=GB_WRITE_PJ_PER_BYTE,
            area_um2=84.201e6,  # artifact: CACTI, 84.2 mm2
        ),
        Memory(
            "rf2d",
            capacity_bytes=12 * 2,  # A/2d-path.yaml:61: 12 entries of 16 bits
            read_pj_per_byte=RF2D_READ_PJ_PER_BYTE,
            write_pj_per_byte=RF2D_WRITE_PJ_PER_BYTE,
            array="pe2d",
            instances=256 * 256,
            area_um2=16837.6,  # artifact
        ),
        Memory(
            "rf1d",
            capacity_bytes=32 * 2,  # A/1d-path.yaml:29: 32 entries of 16 bits
            read_pj_per_byte=RF1D_READ_PJ_PER_BYTE,
            write_pj_per_byte=RF1D_WRITE_PJ_PER_BYTE,
            array="pe1d",
            instances=256,
            area_um2=16849.2,  # artifact
        ),
    ),
    arrays=(
        Array(
            "pe2d",
            axes=(
                Axis("rows", 256, "pe", reduces=True),  # paper Fig. 2: 256x256
                Axis("cols", 256, "pe", reduces=True),
            ),
            cycles=tuple(CYCLES_2D.items()),
            energy_pj=tuple({**ENERGY_PJ, "exp": EXP_PJ, "exp2": EXP_PJ}.items()),
            skewed=True,
            chained=True,  # a place hands on to itself what it has just computed
            area_um2=49.3 + 1545,  # artifact: max + MAC
        ),
        Array(
            "pe1d",
            axes=(Axis("lanes", 256, "pe"),),  # paper Fig. 2: 256 wide
            cycles=tuple(CYCLES_1D.items()),
            energy_pj=tuple({**ENERGY_PJ, "exp": EXP_PJ, "exp2": EXP_PJ}.items()),
            area_um2=49.3 + 1545 + 23740.9,  # artifact: max + MAC + divider
        ),
    ),
    format="fp16",  # 16-bit words throughout the artifact
    source="FuseMax, MICRO 2024, Fig. 2-3, and its public artifact",
)

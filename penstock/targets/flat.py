"""FLAT's accelerator as FuseMax's artifact models it: MAC-only 2D array, exp unit in the 1D array.

Numbers from A/ = inputs/yamls/area_energy/architecture/accel_flat of the artifact.
"""

from __future__ import annotations

from dataclasses import replace

from penstock.targets.base import Target
from penstock.targets.fusemax import TARGET as FUSEMAX
from penstock.targets.operators import COMPARE, ENERGY_PJ, FLAT_EXP_PJ, spread

__all__ = ["TARGET"]

CYCLES_2D = {"mac": 1, "*": 1, "+": 1}  # paper Fig. 3: FLAT's 2D PE has + and x only
CYCLES_1D = spread(
    {"mac": 1, "*": 1, "sq": 1, "+": 1, "-": 1, "max": 1, "min": 1, "relu": 1, "clamp": 2, "/": 1},
    *COMPARE,
)
CYCLES_1D |= {"exp": 1, "exp2": 1}  # dedicated pipelined unit (transformer-components.yaml:80-91)

_2D, _1D = FUSEMAX.arrays
_DRAM, _GB, _RF2D, _RF1D = FUSEMAX.memories

TARGET: Target = replace(
    FUSEMAX,
    name="flat",
    memories=(
        _DRAM,
        replace(
            _GB,
            capacity_bytes=32 * 2**20,  # A/2d-path.yaml:37: 32 MB
            read_pj_per_byte=23854.66 / 512,  # artifact ERT: 512 B row of 32 MB (CACTI)
            write_pj_per_byte=27097.56 / 512,  # same
            area_um2=175.717e6,  # artifact: CACTI
        ),
        replace(
            _RF2D,
            capacity_bytes=4 * 2,  # A/2d-path.yaml:66: 4 entries
            read_pj_per_byte=2.1824 / 2,  # artifact ERT, depth 4
            write_pj_per_byte=1.8944 / 2,  # same
            area_um2=16814.3,  # artifact
        ),
        replace(_RF1D, capacity_bytes=16 * 2, area_um2=16837.6),  # A/1d-path.yaml:29: 16 entries
    ),
    arrays=(
        replace(
            _2D,
            cycles=tuple(CYCLES_2D.items()),
            energy_pj=tuple(ENERGY_PJ.items()),
            area_um2=1545,  # artifact: MAC
        ),
        replace(
            _1D,
            cycles=tuple(CYCLES_1D.items()),
            energy_pj=tuple({**ENERGY_PJ, "exp": FLAT_EXP_PJ, "exp2": FLAT_EXP_PJ}.items()),
            area_um2=49.3 + 1545 + 8240 + 23740.9,  # artifact: max + MAC + exp + divider
        ),
    ),
    source="FuseMax, MICRO 2024, artifact: its model of FLAT (ASPLOS 2023)",
)

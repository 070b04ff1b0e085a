"""Small arrays with a vector unit and small buffers: made to be simulated, not to be fast.

Their numbers are chosen, not measured: small enough that a run of a few thousand cycles shows every
kind of stall.
"""

from __future__ import annotations

from penstock.targets.base import Array, Axis, Memory, Target
from penstock.targets.operators import COMPARE, ENERGY_PJ, spread

__all__ = ["mesh"]

CYCLES = spread(
    {"mac": 1, "*": 1, "sq": 1, "+": 1, "-": 1, "max": 1, "min": 1, "relu": 1, "clamp": 2},
    *COMPARE,
)
CYCLES |= {"exp": 6, "exp2": 6}  # base-2 split and a degree-5 polynomial: six multiply-adds
ENERGY = tuple({**ENERGY_PJ, "exp": 6 * ENERGY_PJ["mac"], "exp2": 6 * ENERGY_PJ["mac"]}.items())


def mesh(rows: int, cols: int) -> Target:
    """Return a 2-D array of so many rows and columns, and a vector unit with a lane per column."""
    return Target(
        name=f"mesh{rows}x{cols}",
        family="spatial",
        clock_hz=200e6,  # chosen
        memories=(
            Memory("dram", float("inf"), bytes_per_cycle=4 * cols, read_pj_per_byte=31.2),  # chosen
            Memory("gb", 64 * 2**10, read_pj_per_byte=1.0, write_pj_per_byte=1.2),  # chosen
            Memory(
                "rf2d", 32, float("inf"), 1.0952, 0.9512, array="pe2d", instances=rows * cols
            ),  # 16 words each
            Memory(
                "rf1d", 128, float("inf"), 1.0973, 0.9533, array="pe1d", instances=cols
            ),  # 64 words each
        ),
        arrays=(
            Array(
                "pe2d",
                axes=(
                    Axis("rows", rows, "pe", reduces=True),
                    Axis("cols", cols, "pe", reduces=True),
                ),
                cycles=tuple(CYCLES.items()),
                energy_pj=ENERGY,
                depth_cycles=2,
                skewed=True,
            ),
            Array(
                "pe1d",
                axes=(Axis("lanes", cols, "pe"),),
                cycles=tuple({**CYCLES, "/": 4, "sqrt": 4, "rsqrt": 8}.items()),
                energy_pj=ENERGY,
                depth_cycles=3,
            ),
        ),
        format="fixed<16,6>",
        source="made for simulation; numbers chosen",
    )

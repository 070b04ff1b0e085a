"""An array like that of Google's TPUv4i: four matrix units side by side, and a vector unit.

Jouppi et al., Ten Lessons From Three Generations Shaped Google's TPUv4i (ISCA 2021).
"""

from __future__ import annotations

from penstock.targets.base import Array, Axis, Memory, Target
from penstock.targets.operators import general

__all__ = ["TARGET"]

CLOCK_HZ = 1.05e9  # paper, Table 1
HBM_BYTES_PER_S = 614e9  # paper, Table 1
ALUS = 2  # of a place of the vector unit: as TPUv2 (Norrie et al., IEEE Micro 2021); unchecked

TARGET = Target(
    name="tpu_v4i",
    family="spatial",
    clock_hz=CLOCK_HZ,
    memories=(
        Memory("hbm", 8 * 2**30, HBM_BYTES_PER_S / CLOCK_HZ),  # paper, Table 1: 8 GB
        Memory("cmem", 128 * 2**20),  # paper, Table 1
        Memory("vmem", 16 * 2**20),  # paper, section 4
    ),
    arrays=(
        Array(
            "mxu",
            # paper, Table 1: 4 matrix units of 128x128; here four stand side by side as columns
            (Axis("rows", 128, "pe", reduces=True), Axis("cols", 4 * 128, "pe")),
            (("mac", 1), ("*", 1)),
            skewed=True,
        ),
        Array(
            "vpu",
            (Axis("lanes", 128, "pe"), Axis("sublanes", 8, "pe")),  # as TPUv2; unchecked
            # a function or a division takes about as many instructions as a polynomial has steps
            tuple(general(simple=1 / ALUS, divide=8 / ALUS, function=8 / ALUS).items()),
        ),
    ),
    format="bf16",
    source="Jouppi et al., ISCA 2021; vector unit: as TPUv2, unchecked",
    notes=("written down without the paper at hand: unchecked", "no energies are published"),
)

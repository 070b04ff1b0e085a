"""NVIDIA H200 (SXM): its CUDA cores only; tensor cores are not described yet.

Numbers from NVIDIA's H100/H200 data sheets and the Hopper whitepaper.
"""

from __future__ import annotations

from penstock.targets.base import Array, Axis, Memory, Target
from penstock.targets.operators import general

__all__ = ["TARGET"]

SMS = 132  # Hopper whitepaper: H100 SXM, and H200
CLOCK_HZ = 1.98e9  # H100/H200 SXM data sheet: maximum boost
HBM_BYTES_PER_S = 4.8e12  # H200 data sheet: HBM3e, 4.8 TB/s

TARGET = Target(
    name="h200",
    family="gpu",
    clock_hz=CLOCK_HZ,
    memories=(
        Memory(
            "hbm",
            capacity_bytes=141e9,  # H200 data sheet: 141 GB
            bytes_per_cycle=HBM_BYTES_PER_S / CLOCK_HZ,
        ),
        Memory("smem", capacity_bytes=227 * 1024, instances=SMS),  # CUDA guide: 227 KB a block
        # 64 K registers of 4 bytes an SM (whitepaper); a thread may use 255 (CUDA guide) and
        # spills the rest to local memory, which the caches hold
        Memory("regs", capacity_bytes=64 * 1024 * 4, array="sm", instances=SMS),
    ),
    arrays=(
        Array(
            "sm",
            axes=(
                Axis("blocks", SMS, "block", folds=True),
                # whitepaper: 128 fp32 lanes an SM; more threads take turns
                Axis("threads", 128, "thread", folds=True),
            ),
            # fp32: one multiply-add a lane and cycle; special functions at 16 a cycle and SM
            # (CUDA guide, arithmetic instructions), division about as much
            cycles=tuple(general(simple=1, divide=8, function=8).items()),
        ),
    ),
    format="fp32",
    source="NVIDIA H200 data sheet; Hopper whitepaper; CUDA C++ programming guide",
    part="sm_90a",
)

"""NVIDIA GeForce RTX 4090."""

from __future__ import annotations

from penstock.targets.gpu import Gpu, gpu

__all__ = ["SHEET", "TARGET"]

SHEET = Gpu(
    sms=128,  # Ada whitepaper: AD102 as in the RTX 4090
    lanes=128,  # same
    clock_hz=2.52e9,  # same: boost
    tensor_flops=165.2e12,  # same: dense fp16 with fp32 accumulation
    macs=256,  # 165.2 TFLOPS over 128 multiprocessors at 2.52 GHz
    rates=(("fp16", 1), ("bf16", 1), ("fp8_e4m3", 2), ("fp8_e5m2", 2), ("int8", 4)),  # same
    double=1 / 64,  # same: 2 fp64 cores
    smem_bytes=99 * 1024,  # CUDA guide, compute capability 8.9: a block, of 100 KB
    l2_bytes=72 * 2**20,  # Ada whitepaper
    l2_bytes_per_cycle=float("inf"),  # not published
    dram="gddr",
    dram_bytes=24e9,  # Ada whitepaper: GDDR6X
    dram_bytes_per_s=1.008e12,  # same
    part="sm_89",
    source="NVIDIA Ada whitepaper; CUDA C++ programming guide",
)

TARGET = gpu("rtx4090", SHEET)

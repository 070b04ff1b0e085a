"""NVIDIA L4."""

from __future__ import annotations

from penstock.targets.gpu import Gpu, gpu

__all__ = ["SHEET", "TARGET"]

SHEET = Gpu(
    sms=58,  # 7,424 fp32 cores (product brief) / 128
    lanes=128,  # Ada whitepaper
    clock_hz=2.04e9,  # L4 product brief: boost
    tensor_flops=121e12,  # L4 data sheet: 242 TFLOPS fp16 with sparsity; dense is half
    macs=512,  # Ada whitepaper: 4 tensor cores of 128
    rates=(("fp16", 1), ("bf16", 1), ("fp8_e4m3", 2), ("fp8_e5m2", 2), ("int8", 2)),  # data sheet
    double=1 / 64,  # Ada whitepaper: 2 fp64 cores
    smem_bytes=99 * 1024,  # CUDA guide, compute capability 8.9: a block, of 100 KB
    l2_bytes=48 * 2**20,  # L4 product brief
    l2_bytes_per_cycle=float("inf"),  # not published
    dram="gddr",
    dram_bytes=24e9,  # L4 data sheet: GDDR6
    dram_bytes_per_s=300e9,  # same
    part="sm_89",
    source="NVIDIA L4 data sheet and product brief; Ada whitepaper; CUDA C++ programming guide",
)

TARGET = gpu("l4", SHEET)

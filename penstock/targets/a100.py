"""NVIDIA A100 (SXM4, 80 GB)."""

from __future__ import annotations

from penstock.targets.gpu import Gpu, gpu

__all__ = ["SHEET", "TARGET"]

SHEET = Gpu(
    sms=108,  # A100 whitepaper
    lanes=64,  # same: fp32 cores of a multiprocessor
    clock_hz=1.41e9,  # same: boost
    tensor_flops=312e12,  # A100 data sheet: dense fp16
    macs=1024,  # A100 whitepaper: 4 tensor cores of 256
    rates=(("fp16", 1), ("bf16", 1), ("int8", 2), ("fp64", 1 / 16)),  # data sheet: 19.5 TFLOPS fp64
    double=0.5,  # A100 whitepaper: 32 fp64 cores
    smem_bytes=163 * 1024,  # CUDA guide, compute capability 8.0: a block, of 164 KB
    l2_bytes=40 * 2**20,  # A100 whitepaper
    l2_bytes_per_cycle=5120,  # A100 whitepaper: read bandwidth
    dram="hbm",
    dram_bytes=80e9,  # A100 80GB data sheet: HBM2e
    dram_bytes_per_s=2.039e12,  # same
    part="sm_80",
    source="NVIDIA A100 80GB data sheet; A100 whitepaper; CUDA C++ programming guide",
)

TARGET = gpu("a100", SHEET)

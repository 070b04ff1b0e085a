"""NVIDIA H100 (SXM5)."""

from __future__ import annotations

from penstock.targets.gpu import Gpu, gpu

__all__ = ["SHEET", "TARGET"]

SHEET = Gpu(
    sms=132,  # Hopper whitepaper: H100 SXM5
    lanes=128,  # same: fp32 cores of a multiprocessor
    clock_hz=1.98e9,  # H100 SXM data sheet: maximum boost
    tensor_flops=989.4e12,  # H100 data sheet: 1,979 TFLOPS with sparsity; dense is half
    macs=2048,  # Hopper whitepaper: 1,024 dense fp16 multiply-adds x 2 of A100's
    rates=(("fp16", 1), ("bf16", 1), ("fp8_e4m3", 2), ("fp8_e5m2", 2), ("int8", 2)),  # data sheet
    double=0.5,  # Hopper whitepaper: 64 fp64 cores
    smem_bytes=227 * 1024,  # CUDA guide, compute capability 9.0: a block, of 228 KB
    l2_bytes=50 * 2**20,  # Hopper whitepaper
    l2_bytes_per_cycle=5120,  # A100 whitepaper's number; none is published for Hopper
    dram="hbm",
    dram_bytes=80e9,  # H100 SXM data sheet: HBM3
    dram_bytes_per_s=3.35e12,  # same
    part="sm_90a",
    source="NVIDIA H100 data sheet; Hopper whitepaper; CUDA C++ programming guide",
)

TARGET = gpu("h100", SHEET)

"""An x86 server core complex with AVX-512: eight cores, numbers assumed."""

from __future__ import annotations

from penstock.targets.cpu import cpu

__all__ = ["TARGET"]

DDR_BYTES_PER_S = 76.8e9  # assumption: two channels of DDR5-4800

TARGET = cpu(
    8, 16, part="x86-64 avx512f", name="avx512", registers=32, dram_bytes_per_s=DDR_BYTES_PER_S
)

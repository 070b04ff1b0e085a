"""NVIDIA H200 (SXM): an H100 with more and faster memory."""

from __future__ import annotations

from dataclasses import replace

from penstock.targets.gpu import gpu
from penstock.targets.h100 import SHEET as H100

__all__ = ["TARGET"]

TARGET = gpu(
    "h200",
    replace(
        H100,
        dram_bytes=141e9,  # H200 data sheet: 141 GB of HBM3e
        dram_bytes_per_s=4.8e12,  # same
        source="NVIDIA H200 data sheet; Hopper whitepaper; CUDA C++ programming guide",
    ),
)

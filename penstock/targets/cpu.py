"""The machine penstock runs on: its cores and its vector width, found at run time.

What cannot be found out without measuring (bandwidth, clock) is a stated assumption; override it
with `Target.override` or ``--set``.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

from penstock.targets.base import Array, Axis, Memory, Target
from penstock.targets.operators import general

__all__ = ["adds_pairs", "cpu", "this_machine"]

CLOCK_HZ = 3e9  # assumption: a server core under load
DRAM_BYTES_PER_S = 20e9  # assumption: one channel of DDR5-4800 at half its peak
L2_BYTES = 1024 * 1024  # assumption: 1 MB of level-2 cache a core (Zen 4, Golden Cove: 1 to 2 MB)


def cpu(
    cores: int,
    lanes: int,
    *,
    part: str,
    registers: int = 16,
    name: str = "cpu",
    clock_hz: float = CLOCK_HZ,
    dram_bytes_per_s: float = DRAM_BYTES_PER_S,
) -> Target:
    """Return a CPU as a target.

    Args:
        cores: that may be used side by side.
        lanes: fp32 elements of a vector register (8 for AVX2, 16 for AVX-512, 4 for NEON).
        part: the instruction set, e.g. ``x86-64 avx512f``.
        registers: vector registers of a core (16 with AVX2, 32 with AVX-512 and NEON).
        name: of the machine.
        clock_hz: of the cores.
        dram_bytes_per_s: memory bandwidth of all cores together.
    """
    return Target(
        name=name,
        family="cpu",
        clock_hz=clock_hz,
        memories=(
            Memory("dram", float("inf"), bytes_per_cycle=dram_bytes_per_s / clock_hz),
            Memory("cache", L2_BYTES, instances=cores),
        ),
        arrays=(
            Array(
                "vector",
                axes=(
                    Axis("cores", cores, "core", folds=True),
                    Axis("lanes", lanes, "simd", folds=True, reduces=True),
                ),
                # one vector multiply-add a cycle; a vector division takes about 8 and a
                # polynomial exp about 12 instructions (Agner Fog's tables: Zen 4, Ice Lake)
                cycles=tuple(general(simple=1, divide=8, function=12).items()),
                registers=registers,
            ),
        ),
        format="fp32",
        source="cores and vector width as given; clock, cache and bandwidth assumed",
        part=part,
    )


def adds_pairs(target: Target, fmt: str) -> bool:
    """Whether one instruction adds two products of a format to each fp32 lane."""
    return fmt == "bf16" and "avx512_bf16" in target.part.split()


def this_machine() -> Target:
    """Return the machine that this runs on."""
    lanes, registers, part = _vectors(_cpu_flags(), platform.machine())
    return cpu(_cores(), lanes, part=part, registers=registers)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_flags() -> frozenset[str]:
    """Return the instruction-set flags that Linux reports; none elsewhere."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return frozenset()
    for line in info.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"flags", "Features"}:
            return frozenset(value.split())
    return frozenset()


def _vectors(flags: frozenset[str], machine: str) -> tuple[int, int, str]:
    """Return (fp32 lanes, registers, name) of the widest vectors that the flags promise."""
    if "avx512f" in flags:
        pairs = " avx512_bf16" if "avx512_bf16" in flags else ""
        return 16, 32, f"{machine} avx512f{pairs}"
    if "avx2" in flags and "fma" in flags:
        return 8, 16, f"{machine} avx2"
    arm = machine in ("aarch64", "arm64")
    return 4, 32 if arm else 16, f"{machine} 128-bit vectors"  # NEON and SSE2 are always there

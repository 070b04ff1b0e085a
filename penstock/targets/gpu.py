"""NVIDIA GPUs: multiprocessors with vector lanes and tensor cores, as one parametrised machine.

A *block* is what one multiprocessor works on at a time. Its threads are steps along ``threads``,
32 to a warp, which take turns on the vector lanes; its tensor cores are an array of their own, so
that both may work at once on different tiles of a pipelined loop. Shared memory belongs to the
block, registers to single threads. Excluded: several blocks on one multiprocessor, special function
units beside the lanes, what tensor cores read from shared memory, clusters, sparsity.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.targets.base import Array, Axis, Memory, Target
from penstock.targets.operators import general

__all__ = ["Gpu", "gpu"]

WARP_MACS = (16, 8)  # PTX ISA: mma.m16n8kK; K follows from the rate
MOST_THREADS = 1024  # CUDA C++ programming guide: threads of a block
MOST_REGISTERS = 255  # CUDA C++ programming guide: registers of 4 bytes of a thread
FUNCTIONS = 16  # CUDA C++ programming guide: special functions a cycle and multiprocessor
LEFT_OUT = (
    "one block on a multiprocessor at a time; tensor cores read shared memory for nothing",
    "a scale in a product (Q * K * SC) counts as one more multiply-add of the tensor cores",
    "data-sheet numbers written down without the sheets at hand: unchecked",
)


@dataclass(frozen=True, slots=True)
class Gpu:
    """The data sheet of a GPU.

    Args:
        sms: multiprocessors.
        lanes: fp32 lanes of one.
        clock_hz: maximum boost.
        tensor_flops: dense fp16 operations a second with fp32 accumulation, at the clock of the
            data sheet; a multiply-add is two.
        macs: fp16 multiply-adds of the tensor cores of one multiprocessor a cycle.
        rates: (number format, speed) pairs of the tensor cores, against fp16.
        double: speed of the lanes in fp64, against fp32.
        smem_bytes: shared memory of a block, at most.
        l2_bytes: of level-2 cache.
        l2_bytes_per_cycle: that it delivers; ``inf`` where nothing is published.
        dram: name of the memory: ``hbm`` or ``gddr``.
        dram_bytes, dram_bytes_per_s: of it.
        part: compute capability, e.g. ``sm_90a``.
        source: where the numbers come from.
    """

    sms: int
    lanes: int
    clock_hz: float
    tensor_flops: float
    macs: int
    rates: tuple[tuple[str, float], ...]
    double: float
    smem_bytes: int
    l2_bytes: float
    l2_bytes_per_cycle: float
    dram: str
    dram_bytes: float
    dram_bytes_per_s: float
    part: str
    source: str


def gpu(name: str, sheet: Gpu) -> Target:
    """Return a GPU as a target."""
    blocks = Axis("blocks", sheet.sms, "block", folds=True)
    rows, cols = WARP_MACS
    # the data sheet's rate may be that of a lower clock than the lanes' boost
    mac = sheet.macs * 2 * sheet.sms * sheet.clock_hz / sheet.tensor_flops
    return Target(
        name=name,
        family="gpu",
        clock_hz=sheet.clock_hz,
        memories=(
            Memory(sheet.dram, sheet.dram_bytes, sheet.dram_bytes_per_s / sheet.clock_hz),
            Memory("l2", sheet.l2_bytes, sheet.l2_bytes_per_cycle, cache=True),
            Memory("smem", sheet.smem_bytes, instances=sheet.sms, along="blocks"),
            Memory("regs", MOST_REGISTERS * 4, array="sm", instances=sheet.sms * sheet.lanes),
        ),
        arrays=(
            Array(
                "sm",
                (blocks, Axis("threads", sheet.lanes, "thread", folds=True, most=MOST_THREADS)),
                # one multiply-add a lane and cycle; a division takes about as long as a function
                tuple(general(1, sheet.lanes / FUNCTIONS, sheet.lanes / FUNCTIONS).items()),
                rates=(("fp64", sheet.double),),
            ),
            Array(
                "tensor",
                (
                    blocks,
                    Axis("mma_m", rows, "thread"),  # generators without tensor cores take threads
                    Axis("mma_n", cols, "thread"),
                    Axis("mma_k", sheet.macs // (rows * cols), "pe", reduces=True),
                ),
                (("mac", mac), ("*", mac)),
                rates=(*sheet.rates, ("", 0.0)),
            ),
        ),
        format="fp16",
        source=sheet.source,
        part=sheet.part,
        notes=LEFT_OUT,
    )

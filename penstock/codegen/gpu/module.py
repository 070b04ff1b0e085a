"""Launches of a program that are tensor-core kernels: which, how, and why the others are not.

`tensor_kernel` prints one launch, for wgmma where the machine has it and mma.sync elsewhere, or
says why it cannot. The text in front of the kernels (`prelude`) is one place for all PTX.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources

from penstock.codegen.gpu.mma import MmaKernel, TensorMap
from penstock.codegen.gpu.tile import TileKernel, recognise
from penstock.codegen.gpu.unfit import Unfit
from penstock.codegen.gpu.wgmma import WgmmaKernel
from penstock.codegen.loops.nodes import Buffer, Program
from penstock.codegen.loops.walk import touched
from penstock.codegen.tvm.kernels import Kernel, extent_of

__all__ = ["KERNELS", "PTX_END", "TensorKernel", "prelude", "tensor_kernel"]

HOPPER = ("sm_90a",)
"""Architectures with wgmma (PTX ISA: sm_90a alone; sm_100 has others)."""

PTX_END = "// -- end of PTX --\n"
"""What stands behind the part of the prelude that holds all PTX."""

KERNELS = "// -- kernels --\n"
"""What stands in front of the kernels."""


@dataclass(frozen=True, slots=True)
class TensorKernel:
    """One launch on tensor cores.

    Args:
        name: of the function.
        lines: the function.
        grid: along x, y, z.
        threads: of a block.
        shared_bytes: of dynamic shared memory.
        arguments: buffers, in order.
        kind: the matrix instruction.
        maps: TMA descriptors, arguments after ``arguments``.
        why: the reason for which a Hopper machine gets mma.sync.
    """

    name: str
    lines: tuple[str, ...]
    grid: tuple[int, int, int]
    threads: int
    shared_bytes: int
    arguments: tuple[str, ...]
    kind: str
    maps: tuple[TensorMap, ...] = ()
    why: str = ""


def prelude(program: Program, arch: str) -> str:
    """Return the text in front of a program's tensor-core kernels."""
    folder = resources.files("penstock.codegen.gpu")
    files = ("ptx.cuh", "hopper.cuh") if arch in HOPPER else ("ptx.cuh",)
    ptx = "".join((folder / name).read_text() for name in files)
    numbers = (folder / "numbers.cuh").read_text()
    return f"#define PS_BF16 {int(program.format.name == 'bf16')}\n{ptx}{PTX_END}{numbers}"


def tensor_kernel(
    kernel: Kernel, program: Program, given: Sequence[Buffer], arch: str, limit: int
) -> TensorKernel:
    """Print a launch for tensor cores.

    Args:
        kernel: one launch of a program with plain leaves.
        program: that it is part of.
        given: buffers in global memory: inputs, outputs, workspace.
        arch: e.g. ``sm_90a``.
        limit: most bytes of shared memory.

    Raises:
        Unfit: why it is none.
    """
    made = recognise(kernel, program)
    if made.kernel.scalars:
        raise Unfit("it is launched in a loop on the host")
    read, written = touched(made.kernel.body)
    used = tuple(each for each in given if each.name in read | written)
    why = ""
    if arch in HOPPER:
        try:
            return _printed(WgmmaKernel(made, used), made, limit, "wgmma")
        except Unfit as unfit:
            why = f"no wgmma: {unfit}"
    return replace(_printed(MmaKernel(made, used), made, limit, "mma.sync"), why=why)


def _printed(printed: MmaKernel, made: TileKernel, limit: int, kind: str) -> TensorKernel:
    lines = tuple(printed.lines())
    if printed.shared_bytes > limit:
        raise Unfit(f"its tiles take {printed.shared_bytes} bytes of shared memory, of {limit}")
    if printed.threads > 1024:
        raise Unfit(f"its tile of {printed.layout.rows} rows takes {printed.threads} threads")
    extents = [extent_of(each) for each in reversed(made.kernel.grid)]
    if len(extents) > 3:
        extents = [made.kernel.blocks]
    x, y, z = (*extents, 1, 1)[:3]
    return TensorKernel(
        f"{made.kernel.name}_kernel",
        lines,
        (x, y, z),
        printed.threads,
        printed.shared_bytes,
        tuple(each.name for each in printed.parameters),
        kind,
        printed.maps(),
    )

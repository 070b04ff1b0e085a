"""`Backend`: what a generator offers, and the table of those there are.

A backend turns the one `Program` that `lower` made into files, and where it can, compiles and
runs it. Adding one = a module, a line in the table below, a golden test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from penstock.codegen.base import Artifact
from penstock.codegen.loops.nodes import Program
from penstock.errors import ToolError
from penstock.metrics import Metric
from penstock.registry import Registry
from penstock.targets.base import Target

__all__ = ["BACKENDS", "Arrays", "Backend", "Golden", "Provenance", "Timing"]

Arrays = Mapping[str, NDArray[Any]]
Golden = tuple[Arrays, Arrays]
"""Inputs and expected outputs, for a testbench."""


@dataclass(frozen=True, slots=True)
class Timing:
    """What the model of task pipelines says of a program's tasks (`penstock.pipelines`).

    Args:
        cycles: of one run, with these depths.
        depths: stream → tokens that it holds: the least for full speed, or a tile where the
            mapping keeps two.
        minimal: stream → the least depth without a deadlock.
        ends: task → the cycle in which it ends.
        stalls: (task, stream, empty or full, cycles) for each wait.
        loops: (task, loop, interval in cycles, why, steps) for each pipelined loop.
    """

    cycles: int
    depths: Mapping[str, int]
    minimal: Mapping[str, int]
    ends: Mapping[str, int]
    stalls: tuple[tuple[str, str, str, int], ...]
    loops: tuple[tuple[str, str, int, str, int], ...]


@dataclass(frozen=True, slots=True)
class Provenance:
    """What every generated file names: the cascade, the design's digest, the command.

    ``metrics`` and ``timing`` are what models say of the design, for the files that describe it;
    ``mapping`` is the design's, as text. ``plain`` gives the program of the same mapping with plain
    leaves, for generators that lay a block's tiles out over threads themselves (`gpu/plain.py`);
    None if it has no streaming nest. ``oversize``: a project may be too large for its part.
    """

    name: str
    digest: str
    command: str = ""
    mapping: str = ""
    metrics: tuple[Metric, ...] = ()
    timing: Timing | None = None
    plain: Callable[[], Program | None] | None = None
    oversize: bool = False


class Backend(Protocol):
    """What a generator offers.

    ``title`` is how reports call its code; ``usual_target`` the machine that ``penstock run``
    maps to; ``wants_golden`` whether `generate` takes inputs and expected outputs.
    """

    title: str
    usual_target: str
    wants_golden: bool

    def generate(
        self, program: Program, target: Target, source: Provenance, golden: Golden | None
    ) -> Artifact:
        """Return the files; pure."""
        ...

    def execute(self, program: Program, target: Target, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Compile, run, and return the outputs.

        Raises:
            ToolError: a tool is missing or failed.
        """
        ...


class _Loops:
    title = "loops"
    usual_target = "cpu"
    wants_golden = False

    def generate(
        self, program: Program, target: Target, source: Provenance, golden: Golden | None
    ) -> Artifact:
        from penstock.codegen.loops.print import show

        head = f"# {source.name} on {target.name}, design {source.digest}\n# {source.command}\n"
        return Artifact({f"{source.name}.loops": head + show(program)})

    def execute(self, program: Program, target: Target, inputs: Arrays) -> dict[str, NDArray[Any]]:
        from penstock.codegen.loops.interp import run_program

        return run_program(program, inputs)


class _TvmCpu:
    title = "TVM CPU code"
    usual_target = "cpu"
    wants_golden = False

    def generate(
        self, program: Program, target: Target, source: Provenance, golden: Golden | None
    ) -> Artifact:
        from penstock.codegen.tvm import cpu as tvm_cpu

        return tvm_cpu.artifact(program, target, source)

    def execute(self, program: Program, target: Target, inputs: Arrays) -> dict[str, NDArray[Any]]:
        from penstock.codegen.tvm import cpu as tvm_cpu

        return tvm_cpu.execute(program, inputs)


class _TvmCuda:
    title = "TVM CUDA code"
    usual_target = "h200"
    wants_golden = False

    def generate(
        self, program: Program, target: Target, source: Provenance, golden: Golden | None
    ) -> Artifact:
        from penstock.codegen.tvm import cuda as tvm_cuda

        return tvm_cuda.artifact(program, target, source)

    def execute(self, program: Program, target: Target, inputs: Arrays) -> dict[str, NDArray[Any]]:
        raise ToolError(
            "CUDA code is generated and compiled here, running it needs a GPU",
            fix="run benchmarks/gpu on a machine with one, or use --backend tvm",
        )


class _Hls:
    title = "HLS C simulation"
    usual_target = "u280"
    wants_golden = True

    def generate(
        self, program: Program, target: Target, source: Provenance, golden: Golden | None
    ) -> Artifact:
        from penstock.codegen.hls import generate as hls

        return hls.generate(program, target, source, golden)

    def execute(self, program: Program, target: Target, inputs: Arrays) -> dict[str, NDArray[Any]]:
        from penstock.codegen.hls import csim

        return csim.execute(program, inputs)


BACKENDS: Registry[Backend] = Registry(
    "backend",
    {"loops": _Loops, "tvm": _TvmCpu, "cuda": _TvmCuda, "hls": _Hls},
    group="penstock.backends",
)

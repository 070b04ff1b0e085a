"""`Backend`: what a generator offers, and the table of those there are.

A backend turns the one `Program` that `lower` made into files, and where it can, compiles and
runs it. Adding one = a module, a line in the table below, a golden test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from penstock.codegen.base import Artifact
from penstock.codegen.loops import Program
from penstock.errors import ToolError
from penstock.registry import Registry
from penstock.targets.base import Target

__all__ = ["BACKENDS", "Arrays", "Backend", "Golden", "Provenance"]

Arrays = Mapping[str, NDArray[Any]]
Golden = tuple[Arrays, Arrays]
"""Inputs and expected outputs, for a testbench."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """What every generated file names: the cascade, the design's digest, the command."""

    name: str
    digest: str
    command: str = ""


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
        from penstock.codegen.loops_print import show

        head = f"# {source.name} on {target.name}, design {source.digest}\n# {source.command}\n"
        return Artifact({f"{source.name}.loops": head + show(program)})

    def execute(self, program: Program, target: Target, inputs: Arrays) -> dict[str, NDArray[Any]]:
        from penstock.codegen.loops_interp import run_program

        return run_program(program, inputs)


class _TvmCpu:
    title = "TVM CPU code"
    usual_target = "cpu"
    wants_golden = False

    def generate(
        self, program: Program, target: Target, source: Provenance, golden: Golden | None
    ) -> Artifact:
        from penstock.codegen import tvm_cpu

        return tvm_cpu.artifact(program, target, source)

    def execute(self, program: Program, target: Target, inputs: Arrays) -> dict[str, NDArray[Any]]:
        from penstock.codegen import tvm_cpu

        return tvm_cpu.execute(program, inputs)


class _TvmCuda:
    title = "TVM CUDA code"
    usual_target = "h200"
    wants_golden = False

    def generate(
        self, program: Program, target: Target, source: Provenance, golden: Golden | None
    ) -> Artifact:
        from penstock.codegen import tvm_cuda

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
        from penstock.codegen import hls

        return hls.generate(program, target, source, golden)

    def execute(self, program: Program, target: Target, inputs: Arrays) -> dict[str, NDArray[Any]]:
        from penstock.codegen import csim

        return csim.execute(program, inputs)


BACKENDS: Registry[Backend] = Registry(
    "backend",
    {"loops": _Loops, "tvm": _TvmCpu, "cuda": _TvmCuda, "hls": _Hls},
    group="penstock.backends",
)

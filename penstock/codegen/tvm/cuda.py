"""`Program` → CUDA source, by TVM's own CUDA generator and without a GPU; nvcc where there is one.

`cuda_module` gives the source and everything that a launcher needs (grid, block, dynamic shared
memory, order of arguments, workspace buffers); `cuda_source` only the source. All shared memory of
a kernel is one pool, in which buffers lie by their scopes (what lives at different times shares its
place), so that the size is known here and not read off generated text. TVM's pass that inserts
barriers is not used: it refuses loads in conditions, and may place a barrier under a condition
on the thread. The barriers of `tvm/kernels.py` stand where all threads pass.

Excluded on purpose: launching (this package has no GPU runtime), which loop is what
(`tvm/kernels.py`), the text of kernels for tensor cores (`codegen/gpu`).
"""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from penstock.codegen.backends import Provenance
from penstock.codegen.base import Artifact
from penstock.codegen.gpu.mma import TensorMap
from penstock.codegen.gpu.module import KERNELS, TensorKernel, prelude, tensor_kernel
from penstock.codegen.gpu.product import Call, calls_of
from penstock.codegen.gpu.unfit import Unfit
from penstock.codegen.loops.nodes import Buffer, LoopStmt, Program
from penstock.codegen.loops.walk import all_buffers, touched
from penstock.codegen.tvm.env import require_tvm
from penstock.codegen.tvm.expr import check_format, element_type
from penstock.codegen.tvm.kernel_text import KernelText, kernel_text
from penstock.codegen.tvm.kernels import Host, Kernel, Repeat, extent_of, plan
from penstock.codegen.tvm.math import CUDA_MATH
from penstock.codegen.tvm.script import from_source, identifiers, is_wide
from penstock.errors import MappingError, ToolError
from penstock.targets.base import Target

__all__ = ["CudaModule", "Launch", "LaunchLoop", "Workspace", "artifact", "compile_cubin"]
__all__ += ["cuda_module", "cuda_source"]

SHARED_BYTES = {"sm_75": 65536, "sm_80": 166912, "sm_86": 101376, "sm_87": 166912}
SHARED_BYTES |= {"sm_89": 101376, "sm_90": 232448, "sm_100": 232448, "sm_120": 101376}
"""Most shared memory of one block by compute capability: CUDA C++ Programming Guide, appendix
"Compute Capabilities", "maximum amount of shared memory per thread block"."""

PRODUCTS = "plain, products by mma.sync"
"""What multiplies in a launch with products on the matrix unit, in no pattern of `gpu/tile.py`."""

GRID_X, GRID_YZ, BLOCK_THREADS = 2**31 - 1, 65535, 1024
"""Limits of a launch: the same appendix, "maximum x-dimension of a grid" and so on."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel launch.

    Args:
        kernel: name of the function in the source.
        grid, block: extents along x, y, z.
        shared_bytes: of dynamic shared memory.
        arguments: names of buffers, in the kernel's order, then host loop variables (int).
        kind: what multiplies: ``plain`` threads, ``mma.sync``, ``wgmma``, or `PRODUCTS`.
        why: the reason for which a launch is plain, or has no wgmma.
        maps: TMA descriptors that are arguments after the others.
    """

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    arguments: tuple[str, ...]
    kind: str = "plain"
    why: str = ""
    maps: tuple[TensorMap, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the launch as a JSON object."""
        return {
            "kernel": self.kernel,
            "grid": list(self.grid),
            "block": list(self.block),
            "shared_bytes": self.shared_bytes,
            "arguments": list(self.arguments),
            "kind": self.kind,
            **({"why": self.why} if self.why else {}),
            **({"maps": [asdict(each) for each in self.maps]} if self.maps else {}),
        }


@dataclass(frozen=True, slots=True)
class LaunchLoop:
    """Launches that are repeated for each value of a variable from 0."""

    variable: str
    extent: int
    steps: tuple[Launch | LaunchLoop, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the loop as a JSON object."""
        steps = [each.to_json() for each in self.steps]
        return {"for": self.variable, "extent": self.extent, "steps": steps}


@dataclass(frozen=True, slots=True)
class Workspace:
    """An array that the host allocates for the kernels; contents undefined at first."""

    name: str
    shape: tuple[int, ...]
    type: str


@dataclass(frozen=True, slots=True)
class CudaModule:
    """Source, and how to run it: launches in order, on parameters and workspace."""

    source: str
    arch: str
    parameters: tuple[Workspace, ...]
    workspace: tuple[Workspace, ...]
    steps: tuple[Launch | LaunchLoop, ...]

    def to_json(self) -> dict[str, Any]:
        """Return everything but the source as a JSON object."""
        return {
            "arch": self.arch,
            "parameters": [_array_json(each) for each in self.parameters],
            "workspace": [_array_json(each) for each in self.workspace],
            "steps": [each.to_json() for each in self.steps],
        }


def _array_json(array: Workspace) -> dict[str, Any]:
    return {"name": array.name, "shape": list(array.shape), "type": array.type}


def cuda_source(program: Program, target: Target) -> str:
    """Return the CUDA source of a program; see `cuda_module`."""
    return cuda_module(program, target).source


def tensor_module(
    program: Program, target: Target, plain: Callable[[], Program | None] | None
) -> CudaModule:
    """Generate CUDA with tensor cores where the program with plain leaves has kernels for them.

    Args:
        program: as it is mapped.
        target: see `cuda_module`.
        plain: gives the same program with plain leaves (`gpu/plain.py`), or None if the mapping has
            no streaming nest.

    Raises:
        DataError, MappingError, ToolError: see `cuda_module`.
    """
    leaves = plain() if plain is not None else None
    if leaves is None:
        return cuda_module(program, target, "its mapping has no loop over tiles in its blocks")
    made = cuda_module(leaves, target)
    alone = [each.why for each in _launches(made.steps) if each.block[0] == 1 < max(each.grid)]
    return cuda_module(program, target, alone[0]) if alone else made


def _launches(steps: tuple[Launch | LaunchLoop, ...]) -> Iterator[Launch]:
    for step in steps:
        if isinstance(step, LaunchLoop):
            yield from _launches(step.steps)
        else:
            yield step


def cuda_module(program: Program, target: Target, why: str = "") -> CudaModule:
    """Generate CUDA for a program.

    Args:
        program: lowered for a GPU; loops of other kinds than block and thread run serially.
        target: its ``part`` is the architecture (``sm_90a``).
        why: the reason for which none of it runs on tensor cores, if that is known; else every
            launch is tried, and says its own.

    Raises:
        DataError: a fixed-point format, or an operator that TVM lacks.
        MappingError: more blocks or threads than CUDA launches.
        ToolError: TVM is missing or does not fit.
    """
    check_format(program.format)
    steps, workspace = plan(program)
    limit = shared_limit(target.part)
    kernels = tuple(_kernels(steps))
    calls = {each.name: _calls(each, program, target) for each in kernels}
    given = (*program.inputs, *program.outputs, *workspace)
    tensor, reasons = _tensor_kernels(kernels, program, given, target.part, why)
    workspace = _unrounded(workspace, [each for each in kernels if each.name in tensor])
    given = (*program.inputs, *program.outputs, *workspace)
    if tensor:
        tensor, reasons = _tensor_kernels(kernels, program, given, target.part, why)
    texts: dict[str, KernelText] = {}
    functions: list[str] = []
    for kernel in kernels:
        if kernel.name in reasons:
            mine = calls[kernel.name]
            kernel = _warped(kernel, mine) if mine else kernel
            _check_limits(kernel, target)
            texts[kernel.name] = kernel_text(program, kernel, given, limit, _grid(kernel), mine)
            functions += [line for each in mine.values() for line in (*each.lines, "")]
    source, orders = _plain_source(texts, reasons, program, target)
    if tensor or functions:
        parts = [line for each in tensor.values() for line in (*each.lines, "")]
        head = "\n".join((prelude(program, target.part), *functions, KERNELS))
        source = "\n".join((head + source, *parts))
    made = tuple(_host(step, texts, orders, tensor, reasons, calls) for step in steps)
    scratch = [each for text in texts.values() for each in text.scratch]
    return CudaModule(
        source,
        target.part,
        tuple(_array(each, program) for each in (*program.inputs, *program.outputs)),
        tuple(_array(each, program) for each in (*workspace, *scratch)),
        made,
    )


def _calls(kernel: Kernel, program: Program, target: Target) -> dict[LoopStmt, Call]:
    """Return the products of a plain launch that its mapping has on a matrix unit."""
    digits = target.part.removeprefix("sm_").rstrip("af")
    if program.format.name not in ("bf16", "fp16") or not digits.isdigit() or int(digits) < 80:
        return {}
    buffers = {each.name: each for each in all_buffers(program)}
    if is_wide(program) or any(each.own for each in buffers.values()):
        return {}
    units = (each for each in target.arrays if any(axis.kind == "pe" for axis in each.axes))
    return calls_of(kernel, buffers, frozenset(each.name for each in units))


def _warped(kernel: Kernel, calls: Mapping[LoopStmt, Call]) -> Kernel:
    """Return a launch with the warps that its products are shared by."""
    return replace(kernel, threads=next(each.threads for each in calls.values()))


def _tensor_kernels(
    kernels: Sequence[Kernel], program: Program, given: Sequence[Buffer], arch: str, why: str
) -> tuple[dict[str, TensorKernel], dict[str, str]]:
    """Return the launches on tensor cores, and for the others why they are none."""
    made: dict[str, TensorKernel] = {}
    reasons: dict[str, str] = {}
    for kernel in kernels:
        try:
            if why:
                raise Unfit(why)
            made[kernel.name] = tensor_kernel(kernel, program, given, arch, shared_limit(arch))
        except Unfit as unfit:
            reasons[kernel.name] = str(unfit)
    return made, reasons


def _unrounded(workspace: Sequence[Buffer], kernels: Sequence[Kernel]) -> tuple[Buffer, ...]:
    """Return workspace in which what tensor-core kernels leave for others keeps its fp32."""
    written = {name for each in kernels for name in touched(each.body)[1]}
    return tuple(
        replace(each, kind="acc") if each.kind == "data" and each.name in written else each
        for each in workspace
    )


def _plain_source(
    texts: Mapping[str, KernelText], reasons: Mapping[str, str], program: Program, target: Target
) -> tuple[str, dict[str, tuple[str, ...]]]:
    """Return the source of the plain kernels, and the order of each one's arguments."""
    if not texts:
        return "", {}
    lines = [line for each in texts.values() for line in each.lines]
    source, orders = _compile("\n".join(("@I.ir_module", "class Module:", *lines)), target)
    spelled = {text: name for name, text in identifiers(program).items()}
    found = {
        kernel: tuple(_named(each, spelled) for each in names) for kernel, names in orders.items()
    }
    said = "".join(f"// {name} is plain: {why}\n" for name, why in reasons.items())
    return said + source + "\n", found


def _array(buffer: Buffer, program: Program) -> Workspace:
    return Workspace(buffer.name, buffer.shape or (1,), element_type(buffer, program.format))


def _named(parameter: str, spelled: Mapping[str, str]) -> str:
    """Return the program's name of a kernel parameter: ``K_ptr`` for a buffer, ``i`` for an int."""
    return spelled[parameter if parameter in spelled else parameter.removesuffix("_ptr")]


def _kernels(steps: tuple[Host, ...]) -> Iterator[Kernel]:
    for step in steps:
        if isinstance(step, Repeat):
            yield from _kernels(step.steps)
        else:
            yield step


def shared_limit(arch: str) -> int:
    """Return the bytes of shared memory that a block can have; 48 KiB if the part is unknown."""
    return SHARED_BYTES.get(arch.rstrip("af"), 49152)


def _grid(kernel: Kernel) -> tuple[int, ...]:
    """Return the grid: the innermost block loop along x; all loops along x if they do not fit."""
    extents = tuple(extent_of(each) for each in reversed(kernel.grid)) or (1,)
    fits = len(extents) <= 3 and all(each <= GRID_YZ for each in extents[1:])
    return extents if fits and extents[0] <= GRID_X else (kernel.blocks,)


def _check_limits(kernel: Kernel, target: Target) -> None:
    if kernel.threads > BLOCK_THREADS:
        raise MappingError(
            f"{kernel.name} has {kernel.threads} threads in a block, {target.name} has at most "
            f"{BLOCK_THREADS}",
            fix="make the spatial tiles of its Einsums on thread axes smaller",
        )
    if kernel.blocks > GRID_X:
        raise MappingError(
            f"{kernel.name} has {kernel.blocks} blocks, {target.name} launches at most {GRID_X}",
            fix="make the tiles of its block loops larger",
        )


def _host(
    step: Host,
    texts: Mapping[str, KernelText],
    orders: Mapping[str, tuple[str, ...]],
    tensor: Mapping[str, TensorKernel],
    reasons: Mapping[str, str],
    calls: Mapping[str, Mapping[LoopStmt, Call]],
) -> Launch | LaunchLoop:
    if isinstance(step, Repeat):
        inner = tuple(_host(each, texts, orders, tensor, reasons, calls) for each in step.steps)
        return LaunchLoop(step.variable, step.extent, inner)
    found = tensor.get(step.name)
    if found is not None:
        block = (found.threads, 1, 1)
        shared, listed = found.shared_bytes, found.arguments
        return Launch(
            found.name, found.grid, block, shared, listed, found.kind, found.why, found.maps
        )
    x, y, z = (*_grid(step), 1, 1)[:3]
    shared, listed = texts[step.name].shared_bytes, orders[step.name]
    name, why = f"{step.name}_kernel", reasons[step.name]
    kind = "plain"
    if calls[step.name]:
        step, kind = _warped(step, calls[step.name]), PRODUCTS
    return Launch(name, (x, y, z), (step.threads, 1, 1), shared, listed, kind, why)


def _compile(text: str, target: Target) -> tuple[str, dict[str, tuple[str, ...]]]:
    """Return the source, and for each kernel the order in which it takes its arguments."""
    tvm = require_tvm()
    build = importlib.import_module("tvm.tirx.build")
    module = from_source(text, CUDA_MATH)
    described = {
        "kind": "cuda",
        "arch": target.part,
        "max_shared_memory_per_block": shared_limit(target.part),
        "max_threads_per_block": BLOCK_THREADS,
    }
    module = tvm.tirx.transform.BindTarget(tvm.target.Target(described, host="llvm"))(module)
    pipeline, _, finish = tvm.tirx.get_tir_pipeline("tirx")
    _, devices = build.split_host_device_mods(pipeline(module))
    (kind, device), *_ = devices.items()
    device = finish()(device)
    orders = {
        name.name_hint.removesuffix("_kernel"): tuple(each.name for each in function.params)
        for name, function in device.functions.items()
    }
    return _repaired(str(build.codegen_build(device, kind).inspect_source())), orders


def _repaired(source: str) -> str:
    """Spell an infinite bfloat16 as CUDA does: this TVM prints ``inff``, which nothing defines."""
    repaired, count = re.subn(r"\binff\b", "CUDART_INF_F", source)
    missing = count and "math_constants.h" not in source
    return "#include <math_constants.h>\n" + repaired if missing else repaired


def compile_cubin(source: str, arch: str) -> bytes:
    """Compile CUDA source to a cubin.

    Args:
        source: of `cuda_source`.
        arch: e.g. ``sm_90a``.

    Raises:
        ToolError: nvcc is missing or failed; with its command and what it said.
    """
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise ToolError(
            "nvcc is not on this machine, so CUDA code cannot be compiled here",
            fix="install the CUDA toolkit (12.4 or later) and put its bin folder on PATH",
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "kernels.cu").write_text(source)
        command = nvcc_command(arch)
        done = subprocess.run(
            [nvcc, *command[1:]], cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ToolError(
                f"{' '.join(command)} failed with exit code {done.returncode}:\n"
                f"{done.stderr.strip() or done.stdout.strip()}",
                fix="this is a defect of penstock: please report it with the design file",
            )
        return (folder / "kernels.cubin").read_bytes()


def nvcc_command(arch: str) -> tuple[str, ...]:
    """Return the command that compiles ``kernels.cu``."""
    number = arch.removeprefix("sm_")
    code = f"arch=compute_{number},code={arch}"
    quiet = ("-diag-suppress", "177")  # TVM leaves variables and helpers that nothing uses
    return ("nvcc", "-O3", "-gencode", code, *quiet, "-cubin", "-o", "kernels.cubin", "kernels.cu")


def artifact(program: Program, target: Target, source: Provenance) -> Artifact:
    """Return ``kernels.cu``, ``launch.json`` and a README that says how to compile and launch."""
    module = tensor_module(program, target, source.plain)
    head = f"{source.name} on {target.name}, design {source.digest}"
    lines = [f"// {head}", *([f"// made by: {source.command}"] if source.command else [])]
    text = "\n".join((*lines, "// compile: " + " ".join(nvcc_command(module.arch)), ""))
    described: dict[str, Any] = {
        "name": source.name,
        "target": target.name,
        "design": source.digest,
    }
    described |= {"command": source.command, "compile": list(nvcc_command(module.arch))}
    described |= module.to_json()
    return Artifact(
        {
            "kernels.cu": text + module.source,
            "launch.json": json.dumps(described, indent=2) + "\n",
            "launch.py": resources.files("penstock.codegen.gpu")
            .joinpath("standalone.py")
            .read_text(),
            "README.md": _README.format(
                head=head,
                made=f"\nMade by `{source.command}`.\n" if source.command else "",
                nvcc=" ".join(nvcc_command(module.arch)),
                inputs=", ".join(each.name for each in program.inputs),
                outputs=", ".join(each.name for each in program.outputs),
            ),
        }
    )


_README = """# {head}
{made}
* `kernels.cu`: the kernels, generated by TVM. Compile with

      {nvcc}

* `launch.json`: how to run them. `parameters` (inputs {inputs}; outputs {outputs}) and `workspace`
  are arrays in global memory, row-major, of the type and shape given there. Take `steps` in
  order: a step with `kernel` is a launch with that `grid`, `block` and `shared_bytes` of dynamic
  shared memory (above 49152 set CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES first) and, as
  `arguments`, pointers to the arrays named, or the int value of the loop variable named; a step
  with `for` repeats its `steps` with the variable going from 0 to `extent` - 1.
"""

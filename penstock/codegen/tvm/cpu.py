"""`Program` → LLVM code of this machine by TVM, and running it on NumPy arrays.

`build` compiles, a `Kernel` runs; `execute` does both. `artifact` is the schedule as a Python file
that needs only TVM and NumPy. Nothing is printed.

Excluded on purpose: which loop becomes what (`tvm/plan.py`), GPUs (`tvm/cuda.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.codegen.backends import Provenance
from penstock.codegen.base import Artifact
from penstock.codegen.loops.nodes import Buffer, Program
from penstock.codegen.tvm.entry import entry_source as library_source
from penstock.codegen.tvm.env import FFI_BELOW, FFI_FROM, SPINS, TVM_VERSION, cores, require_tvm
from penstock.codegen.tvm.expr import check_format, element_type, memory_type
from penstock.codegen.tvm.math import CPU_MATH, needed
from penstock.codegen.tvm.plan import plan
from penstock.codegen.tvm.script import from_source, script
from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.interpreter.rounding import quantise
from penstock.errors import DataError
from penstock.targets.base import Target
from penstock.targets.cpu import adds_pairs, this_machine

__all__ = ["Kernel", "artifact", "build", "compiled", "execute", "schedule", "stored_elements"]

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Kernel:
    """A compiled program: call it with arrays.

    Args:
        program: what it computes.
        function: TVM's compiled function; takes inputs, then outputs.
    """

    program: Program
    function: Any

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run on arrays.

        Args:
            inputs: one array for each input, of its shape; rounded to the program's format.

        Returns:
            The outputs by name, in the type that `quantise` returns for their format.

        Raises:
            DataError: an input is missing or has another shape.
        """
        tvm = require_tvm()
        given = [self._tensor(each, inputs) for each in self.program.inputs]
        made = [
            tvm.runtime.empty(each.shape or (1,), memory_type(each, self.program.format))
            for each in self.program.outputs
        ]
        self.function(*given, *made)
        return {
            each.name: _loaded(tensor.numpy(), each, self.program.format).reshape(each.shape)
            for each, tensor in zip(self.program.outputs, made, strict=True)
        }

    def _tensor(self, buffer: Buffer, inputs: Arrays) -> Any:
        name, shape = buffer.name, buffer.shape
        if name not in inputs:
            listed = ", ".join(inputs) if inputs else "none"
            raise DataError(f"input {name} is missing (given: {listed})", fix=f"give {name}")
        array = np.asarray(inputs[name])
        if array.shape != shape:
            raise DataError(
                f"input {name} has shape {array.shape}, the program wants {shape}",
                fix="lower the program again for these shapes",
            )
        stored = stored_elements(array.reshape(shape or (1,)), buffer, self.program.format)
        return require_tvm().runtime.tensor(stored)


def stored_elements(array: NDArray[Any], buffer: Buffer, fmt: Format) -> NDArray[Any]:
    """Return the array in the type that its buffer has in memory."""
    rounded = np.ascontiguousarray(quantise(array, buffer.own or fmt))
    if buffer.kind == "index":
        given = np.ascontiguousarray(array if buffer.own is None else rounded)
        whole = given.astype(np.int32)
        if not np.array_equal(whole, given):
            raise DataError(
                f"input {buffer.name} is used as an index and has elements that are no whole "
                "numbers of 32 bits",
                fix="give integers",
            )
        return whole.astype(memory_type(buffer, fmt))
    if element_type(buffer, fmt) != "bfloat16":
        return rounded.astype(memory_type(buffer, fmt))
    return (rounded.view(np.uint32) >> 16).astype(np.uint16)


def _loaded(array: NDArray[Any], buffer: Buffer, fmt: Format) -> NDArray[Any]:
    """Return an output as the interpreter does; a bf16 one comes as the upper halves of float32.

    Coordinates, 32 bits in programs, are 64 as everywhere in NumPy.
    """
    if buffer.kind == "index":
        return array.astype(np.int64)
    if element_type(buffer, fmt) != "bfloat16":
        return array.astype(quantise(np.zeros(()), buffer.own or fmt).dtype)
    return (array.astype(np.uint32) << 16).view(np.float32)


def schedule(program: Program, machine: Target | None = None) -> str:
    """Return the TVMScript of a program as it is compiled for a CPU, without imports.

    Args:
        program: any.
        machine: on which it shall run; None = this one.

    Raises:
        DataError: a fixed-point format, or an operator that TVM lacks.
    """
    check_format(program.format)
    planned, kinds = plan(program, pairs=adds_pairs(machine or this_machine(), "bf16"))
    return script(planned, kinds)


def build(program: Program) -> Kernel:
    """Compile a program for this machine, whatever machine it was mapped to.

    Args:
        program: any; loops of the kinds ``core`` and ``block`` run on the cores, those of other
            spatial kinds on vector lanes where that is possible.

    Raises:
        DataError: a fixed-point format, or an operator that TVM lacks.
        ToolError: TVM is missing or does not fit.
    """
    return Kernel(program, compiled(program)["main"])


def compiled(program: Program) -> Any:
    """Return TVM's executable of a program, for this machine; errors as for `build`."""
    text = schedule(program)
    tvm = require_tvm()
    module = from_source(text, CPU_MATH)
    return tvm.compile(module, target=tvm.target.Target(host_target()))


def host_target() -> dict[str, str | int]:
    """Return TVM's description of this machine."""
    tvm = require_tvm()
    name = tvm.get_global_func("target.llvm_get_system_cpu")()
    return {"kind": "llvm", "mcpu": str(name), "num-cores": cores()}


def execute(program: Program, inputs: Arrays) -> dict[str, NDArray[Any]]:
    """Compile and run; see `build` and `Kernel`."""
    return build(program)(inputs)


def artifact(program: Program, target: Target, source: Provenance) -> Artifact:
    """Return the schedule as a Python file that needs only TVM and NumPy.

    It defines ``Module`` (TVMScript with loop kinds), ``build()`` and ``run(function, inputs)``;
    run as a program it compiles itself and times one call on random inputs. With ``--library`` it
    compiles a shared library, together with the C file beside it; the third file calls that one
    without TVM.

    Raises:
        DataError: a fixed-point format, or an operator that TVM lacks.
    """
    text = schedule(program, target)
    listed = ", ".join(
        f"{each.name} {memory_type(each, program.format)}{list(each.shape)}"
        for each in (*program.inputs, *program.outputs)
    )
    filled = _FILE.format(
        name=source.name,
        target=target.name,
        digest=source.digest,
        made=f"\nMade by: {source.command}" if source.command else "",
        parameters=listed,
        tvm=TVM_VERSION,
        spins=SPINS,
        ffi=f">={FFI_FROM},<{FFI_BELOW}",
        math=needed(CPU_MATH, text),
        mapping=f"\n{source.mapping.strip()}\n" if source.mapping else "",
        module=text.strip("\n"),
        shapes=_table(program, program.inputs),
        made_shapes=_table(program, program.outputs),
    )
    kernel, name = library_source(program), source.name
    loader = _LOADER.format(
        name=name, digest=source.digest, shapes=_table(program, program.inputs),
        made_shapes=_table(program, program.outputs),
    )  # fmt: skip
    files = {f"{name}_tvm.py": filled, f"{name}_entry.c": kernel, f"{name}_load.py": loader}
    return Artifact(files)


def _table(program: Program, buffers: tuple[Buffer, ...]) -> str:
    rows = (
        f'    ("{each.name}", {each.shape or (1,)}, "{memory_type(each, program.format)}"),'
        for each in buffers
    )
    return "\n".join(rows)


_FILE = '''"""TVM schedule of {name} for {target}, design {digest}.
{made}
Parameters in order: {parameters}.
Needs apache-tvm {tvm} with apache-tvm-ffi {ffi}.
{mapping}
A loop is called as in the mapping, and the comment behind it says where it stands there: `@cores`
became T.parallel, `@lanes` T.vectorized. `X_tile_n` is a part of X that is accumulated in
registers, `X_packed` a copy of X in which lanes are neighbours, `mask` a condition that is tested
once. Where a tile is partly masked there are two versions: `if` it is full, and `if not`.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TVM_NUM_THREADS", str(os.cpu_count() or 1))
os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "{spins}")

import numpy as np
import tvm
from tvm import tirx
from tvm.script import ir as I
from tvm.script import tirx as T

INPUTS = [
{shapes}
]
OUTPUTS = [
{made_shapes}
]

{math}


{module}


def compiled():
    """Compile for this machine."""
    cpu = tvm.get_global_func("target.llvm_get_system_cpu")()
    target = tvm.target.Target({{"kind": "llvm", "mcpu": str(cpu)}})
    return tvm.compile(Module, target=target)


def build():
    """Return the function; it takes the inputs, then the outputs, as tensors."""
    return compiled()["main"]


def library():
    """Write {name}.so beside this file, for {name}_load.py and for C (see {name}_entry.c)."""
    here = Path(__file__).resolve().parent
    loops, made = here / "{name}.o", here / "{name}.so"
    compiled().mod.write_to_file(str(loops), "o")
    flags = ["-O2", "-fPIC", "-shared", "-fopenmp", "-fvisibility=hidden", "-Wl,-Bsymbolic"]
    sources = [str(here / "{name}_entry.c"), str(loops)]
    subprocess.run(["cc", *flags, *sources, "-lm", "-o", str(made)], check=True)
    return made


def stored(array, kind):
    """Return the array as the kernel wants it; uint16 holds bf16, the upper half of float32."""
    if kind != "uint16":
        return np.asarray(array, dtype=kind)
    bits = np.asarray(array, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def run(function, inputs):
    """Run on a dict of arrays; return a dict of arrays."""
    given = [
        tvm.runtime.tensor(stored(inputs[name], kind).reshape(shape))
        for name, shape, kind in INPUTS
    ]
    made = [tvm.runtime.empty(shape, kind) for _, shape, kind in OUTPUTS]
    function(*given, *made)
    return {{name: loaded(each.numpy()) for (name, *_), each in zip(OUTPUTS, made)}}


def loaded(array):
    """Return an output as floats."""
    wide = array.dtype == np.uint16
    return (array.astype(np.uint32) << 16).view(np.float32) if wide else array


if __name__ == "__main__":
    if sys.argv[1:] == ["--library"]:
        print(library())
        raise SystemExit
    generator = np.random.default_rng(0)
    arrays = {{name: generator.standard_normal(shape) for name, shape, _ in INPUTS}}
    function = build()
    run(function, arrays)
    start = time.perf_counter()
    results = run(function, arrays)
    seconds = time.perf_counter() - start
    for name, each in results.items():
        print(f"{{name}} {{each.shape}}: mean {{float(each.astype(np.float64).mean()):.6g}}")
    print(f"{{seconds * 1e3:.3f}} ms")
'''

_LOADER = '''"""{name} from a compiled library, design {digest}: needs NumPy, not TVM.

Make {name}.so with: python {name}_tvm.py --library
"""

import ctypes
import os
from pathlib import Path

import numpy as np

INPUTS = [
{shapes}
]
OUTPUTS = [
{made_shapes}
]


def load(path=Path(__file__).with_name("{name}.so"), threads=os.cpu_count() or 1):
    """Return a function from a dict of contiguous arrays to a dict of arrays."""
    library = ctypes.CDLL(str(path))
    library.penstock_error.restype = ctypes.c_char_p

    def run(inputs):
        given = [inputs[name] for name, _, _ in INPUTS]
        for array, (name, shape, kind) in zip(given, INPUTS, strict=True):
            if array.shape != shape or array.dtype != kind or not array.flags.c_contiguous:
                raise ValueError(f"{{name}} must be a contiguous {{kind}} array of shape {{shape}}")
        made = [np.empty(shape, kind) for _, shape, kind in OUTPUTS]
        data = (ctypes.c_void_p * (len(given) + len(made)))(*(a.ctypes.data for a in given + made))
        if library.penstock_run(data, threads):
            raise RuntimeError(library.penstock_error().decode())
        return {{name: array for (name, _, _), array in zip(OUTPUTS, made, strict=True)}}

    return run
'''

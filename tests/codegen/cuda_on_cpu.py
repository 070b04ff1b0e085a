"""Compile generated CUDA with g++ and run it, thread by thread; see cuda_on_cpu.hpp."""

import ctypes
import re
import subprocess
from pathlib import Path

import numpy as np

from penstock.codegen.tvm.cuda import Launch
from penstock.einsum_ir.interpreter.numerics import quantise

SHIM = Path(__file__).parent / "cuda_on_cpu.hpp"
DTYPES = {"float32": np.float32, "float64": np.float64, "float16": np.float16}
DTYPES |= {"int8": np.int8, "int32": np.int32}
SIGNATURE = re.compile(
    r'extern "C" __global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\(([^)]*)\) \{'
)
POOL = re.compile(r"extern __shared__ __align__\(\d+\) (\w+) (\w+)\[\];")


def compile_kernels(source, folder):
    """Return the shared library: for each kernel a function run_<kernel>(grid, block, ...)."""
    start = source.index('extern "C" __global__')
    text = POOL.sub(r"\1* \2 = (\1*)penstock_pool;", source[start:])
    text = re.sub(r"\bsigned char\b", "signed char", text)
    parts = ['#include "cuda_on_cpu.hpp"', "typedef unsigned char uchar;", text]
    for name, parameters in SIGNATURE.findall(source):
        taken = [each.rsplit(" ", 1) for each in parameters.split(", ")]
        kinds = [kind.replace("__restrict__", "").strip() for kind, _ in taken]
        statics = "".join(f"static {kind} {name}_{n};" for n, kind in enumerate(kinds))
        listed = ", ".join(f"{name}_{n}" for n in range(len(kinds)))
        given = "".join(f", {kind} a{n}" for n, kind in enumerate(kinds))
        sets = "".join(f"{name}_{n} = a{n};" for n in range(len(kinds)))
        parts.append(f"{statics}\nstatic void call_{name}() {{ {name}({listed}); }}")
        parts.append(
            f'extern "C" void run_{name}(const int* grid, int threads, int shared{given}) '
            f"{{ {sets} launch(grid, threads, shared, call_{name}); }}"
        )
    (folder / "kernels.cpp").write_text("\n".join(parts))
    command = ["g++", "-std=c++17", "-O1", "-fno-strict-aliasing", "-shared", "-fPIC", "-w"]
    command += [f"-I{SHIM.parent}", "-o", "kernels.so", "kernels.cpp"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:3000]
    return ctypes.CDLL(str(folder / "kernels.so"))


def run(module, program, inputs, folder):
    """Run a CudaModule as a launcher would, from its launch data alone; return the outputs."""
    library = compile_kernels(module.source, folder)
    arrays = {
        each.name: np.full(each.shape, 77, DTYPES[each.type])
        for each in (*module.parameters, *module.workspace)
    }
    for each in program.inputs:
        given = inputs[each.name]
        if each.kind != "index":
            given = quantise(given, program.format)
        arrays[each.name][...] = np.asarray(given).reshape(arrays[each.name].shape)
    _steps(library, module.steps, arrays, {})
    return {each.name: arrays[each.name].reshape(each.shape) for each in program.outputs}


def _steps(library, steps, arrays, values):
    for step in steps:
        if not isinstance(step, Launch):
            for value in range(step.extent):
                _steps(library, step.steps, arrays, {**values, step.variable: value})
            continue
        assert max(step.block) <= 1024
        arguments = [
            ctypes.c_int(values[name])
            if name in values
            else arrays[name].ctypes.data_as(ctypes.c_void_p)
            for name in step.arguments
        ]
        call = getattr(library, f"run_{step.kernel}")
        call((ctypes.c_int * 3)(*step.grid), step.block[0], step.shared_bytes, *arguments)

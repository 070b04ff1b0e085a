"""Compile generated CUDA with g++ and run it, thread by thread; see cuda_on_cpu.hpp."""

import ctypes
import re
import subprocess
from pathlib import Path

import numpy as np

from penstock.codegen.gpu.module import KERNELS, PTX_END
from penstock.codegen.tvm.cuda import Launch
from penstock.einsum_ir.interpreter.numerics import quantise

FIRST = 'extern "C" __global__'
SHIM = Path(__file__).parent / "cuda_on_cpu.hpp"
DTYPES = {"float32": np.float32, "float64": np.float64, "float16": np.float16}
DTYPES |= {"int8": np.int8, "int32": np.int32, "bfloat16": np.uint16}
SIGNATURE = re.compile(
    r'extern "C" __global__ void (?:__launch_bounds__\(\d+(?:, 1)?\) )?(\w+)\(([^)]*)\) \{'
)
WGMMA = re.compile(r"#if PS_BF16\n#define PS_TYPES.*?#undef PS_TYPES\n", re.DOTALL)
"""The functions of wgmma shapes, which ptx_on_cpu.hpp has for all shapes."""
POOL = re.compile(r"extern __shared__ __align__\(\d+\) (\w+) (\w+)\[\];")


def compile_kernels(source, folder):
    """Return the shared library: for each kernel a function run_<kernel>(grid, block, ...)."""
    head, mark, plain = source.partition(KERNELS)
    plain = plain if mark else head
    kernels = [WGMMA.sub("", plain[plain.index(FIRST) :])]
    parts = ['#include "cuda_on_cpu.hpp"', "typedef unsigned char uchar;"]
    if mark:
        bf16 = head.partition("#define PS_BF16 ")[2][0]
        parts += [f"#define PS_BF16 {bf16}", '#include "ptx_on_cpu.hpp"']
        kernels.insert(0, head.partition(PTX_END)[2])
    calls = re.compile(r"ps_wgmma_(ss|rs)_n(\d+)_t(\d)\(")
    kernels = [calls.sub(r"ps_wgmma_\1<\2, \3>(", each) for each in kernels]
    parts += [POOL.sub(r"\1* \2 = (\1*)penstock_pool;", each) for each in kernels]
    for name, parameters in SIGNATURE.findall(source):
        taken = [each.rsplit(" ", 1) for each in parameters.split(", ")]
        kinds = [
            re.sub("__restrict__|const __grid_constant__", "", kind).strip() for kind, _ in taken
        ]
        statics = "".join(f"static {kind} {name}_{n};" for n, kind in enumerate(kinds))
        listed = ", ".join(f"{name}_{n}" for n in range(len(kinds)))
        maps = [kind == "PsMap" for kind in kinds]
        given = "".join(
            f", {kind}{'*' * m} a{n}" for n, (kind, m) in enumerate(zip(kinds, maps, strict=True))
        )
        sets = "".join(f"{name}_{n} = {'*' * m}a{n};" for n, m in enumerate(maps))
        parts.append(f"{statics}\nstatic void call_{name}() {{ {name}({listed}); }}")
        parts.append(
            f'extern "C" void run_{name}(const int* grid, int threads, int shared{given}) '
            f"{{ {sets} launch(grid, threads, shared, call_{name}); }}"
        )
    (folder / "kernels.cpp").write_text("\n".join(parts))
    command = ["g++", "-std=c++17", "-O0", "-fno-strict-aliasing", "-shared", "-fPIC", "-w"]
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
    kinds = {each.name: each.type for each in module.parameters}
    for each in program.inputs:
        given = inputs[each.name]
        if each.kind != "index":
            given = quantise(given, program.format)
        given = np.asarray(given).reshape(arrays[each.name].shape)
        arrays[each.name][...] = as_bits(given) if kinds[each.name] == "bfloat16" else given
    _steps(library, module.steps, arrays, {})
    return {
        each.name: (
            from_bits(arrays[each.name]) if kinds[each.name] == "bfloat16" else arrays[each.name]
        ).reshape(each.shape)
        for each in program.outputs
    }


def as_bits(values):
    """The upper halves of fp32 numbers that bf16 holds exactly."""
    return (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def from_bits(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


class Map(ctypes.Structure):
    """PsMap of ptx_on_cpu.hpp."""

    _fields_ = (
        ("start", ctypes.c_void_p),
        ("rank", ctypes.c_int64),
        ("sizes", ctypes.c_int64 * 5),
        ("box", ctypes.c_int64 * 5),
        ("room", ctypes.c_int64 * 4),
    )

    @classmethod
    def of(cls, array, box):
        made = cls(array.ctypes.data, len(box))
        made.sizes[: len(box)] = array.shape[::-1]
        made.box[: len(box)] = box[::-1]
        return ctypes.pointer(made)


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
        arguments += [Map.of(arrays[each.tensor], each.box) for each in step.maps]
        call = getattr(library, f"run_{step.kernel}")
        call((ctypes.c_int * 3)(*step.grid), step.block[0], step.shared_bytes, *arguments)

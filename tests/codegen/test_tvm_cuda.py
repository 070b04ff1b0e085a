"""Generated CUDA: run thread by thread on the CPU, compiled by nvcc; launches and limits."""

import json
import shutil
import subprocess
from dataclasses import replace

import cuda_on_cpu
import numpy as np
import pytest
from stock import STOCK_CASCADES
from tvm_programs import (
    alloc,
    attention,
    causal_softmax,
    load,
    loop,
    num,
    op,
    program,
    store,
    val,
)

from penstock import zoo
from penstock.codegen.backends import Provenance
from penstock.codegen.loops.nodes import For, walk_statements
from penstock.codegen.lower.program import lower
from penstock.codegen.tvm import cuda as tvm_cuda
from penstock.codegen.tvm import script as tvm_script
from penstock.codegen.tvm.cuda import Launch, LaunchLoop
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.shapes import bind
from penstock.errors import DataError, MappingError, ToolError
from penstock.mapper.search.build import default_mapping
from penstock.samples import random_inputs
from penstock.targets import TARGETS

H200 = TARGETS.get("h200")
TOY = {"b": 2, "h": 4, "g": 2, "p": 37, "m": 45, "e": 16, "f": 20, "m0": 16}
TOY |= {"d": 12, "c": 10, "o": 9, "k": 33, "n": 29}

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
needs_gxx = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


def grid(shape, seed):
    return np.random.default_rng(seed).integers(-32, 33, shape) / 16.0


def given(made):
    return {each.name: grid(each.shape, n) for n, each in enumerate(made.inputs)}


def reference(inputs):
    logits = np.einsum("hpe,hme->hpm", inputs["Q"], inputs["K"])
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ inputs["V"]


def lowered(name, fmt="fp32", target=H200, **shapes):
    cascade = zoo.load(name)
    ranks = {rank for each in cascade.inputs for rank in each.ranks}
    ranks |= {each for einsum in cascade.einsums for each in einsum.variables} - {"m1"}
    sizes = {rank: size for rank, size in {**TOY, **shapes}.items() if rank in ranks}
    constants = {"W": 7.0} if name == "sliding_window" else {}
    bound, form = bind(cascade, shapes=sizes, constants=constants), parse_format(fmt)
    return bound, form, lower(bound, default_mapping(bound, target, form), target, form)


# --- values -----------------------------------------------------------------------------------


@needs_gxx
@pytest.mark.parametrize(("fmt", "limit"), [("fp32", 1e-6), ("fp64", 1e-14), ("fp16", 2e-3)])
def test_leaves_that_share_memory_give_the_right_values(tmp_path, fmt, limit):
    made = attention(2, 13, 9, 5, 6, fmt=fmt)
    inputs = given(made)
    found = cuda_on_cpu.run(tvm_cuda.cuda_module(made, H200), made, inputs, tmp_path)["O"]
    assert np.abs(found - reference(inputs)).max() < limit


@needs_gxx
def test_what_does_not_fit_in_shared_memory_goes_to_scratch(tmp_path, monkeypatch):
    made = attention(2, 13, 9, 5, 6)
    monkeypatch.setattr(tvm_cuda, "shared_limit", lambda arch: 64)
    module = tvm_cuda.cuda_module(made, H200)
    assert [(each.name, each.shape) for each in module.workspace] == [("L", (4, 8, 9))]
    assert all(each.shared_bytes <= 64 for each in module.steps)
    inputs = given(made)
    found = cuda_on_cpu.run(module, made, inputs, tmp_path)["O"]
    assert np.abs(found - reference(inputs)).max() < 1e-6


@needs_gxx
@pytest.mark.parametrize("name", STOCK_CASCADES)
def test_every_stock_cascade_agrees_with_the_interpreter(tmp_path, name):
    bound, fmt, made = lowered(name)
    inputs = random_inputs(bound, fmt)
    found = cuda_on_cpu.run(tvm_cuda.cuda_module(made, H200), made, inputs, tmp_path)
    for output, wanted in interpret(bound, inputs, fmt).items():
        assert np.abs(found[output] - wanted).max() <= 1e-5 * np.abs(wanted).max()


@needs_gxx
def test_64_bit_indices_give_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(tvm_script, "is_wide", lambda program: True)
    bound, fmt, made = lowered("causal_attention_1pass")
    inputs = random_inputs(bound, fmt)
    module = tvm_cuda.cuda_module(made, H200)
    found = cuda_on_cpu.run(module, made, inputs, tmp_path)
    for output, wanted in interpret(bound, inputs, fmt).items():
        assert np.abs(found[output] - wanted).max() <= 1e-5 * np.abs(wanted).max()


@needs_gxx
@pytest.mark.parametrize("wide", [False, True])
def test_launches_in_a_host_loop(tmp_path, monkeypatch, wide):
    """X[i + 1] = 2 X[i] + i over a grid, for i on the host; and a buffer between the launches."""
    monkeypatch.setattr(tvm_script, "is_wide", lambda program: wide)
    body = [
        loop("z", 6, store("Y", ("z",), load("X", "z"))),
        loop(
            "i",
            3,
            alloc(
                "D",
                (6,),
                [
                    loop("a", 6, store("D", ("a",), op("*", load("Y", "a"), val(2.0))), "block"),
                    loop(
                        "b",
                        6,
                        store("Y", ("b",), op("+", load("D", "b"), op("float", "i"))),
                        "block",
                    ),
                ],
            ),
        ),
    ]
    made = program("steps", {"X": (6,)}, {"Y": (6,)}, body)
    module = tvm_cuda.cuda_module(made, H200)
    first, again = module.steps
    assert isinstance(first, Launch)
    assert isinstance(again, LaunchLoop)
    assert (again.variable, again.extent) == ("i", 3)
    assert [set(each.arguments) for each in again.steps] == [{"D", "Y"}, {"D", "Y", "i"}]
    assert [each.name for each in module.workspace] == ["D"]
    x = grid((6,), 0)
    found = cuda_on_cpu.run(module, made, {"X": x}, tmp_path)["Y"]
    wanted = x
    for i in range(3):
        wanted = wanted * 2 + i
    assert np.array_equal(found, wanted)


@needs_gxx
def test_a_reduction_over_threads_is_no_race(tmp_path):
    total = op("+", load("S", num(0)), load("X", "b", "t"))
    body = loop(
        "b",
        3,
        alloc(
            "S",
            (1,),
            [
                store("S", (num(0),), val(0.0)),
                loop("t", 40, store("S", (num(0),), total), "thread"),
                loop("o", 5, store("Y", ("b", "o"), load("S", num(0))), "thread"),
            ],
            "acc",
        ),
        "block",
    )
    made = program("reduce", {"X": (3, 40)}, {"Y": (3, 5)}, body)
    inputs = given(made)
    found = cuda_on_cpu.run(tvm_cuda.cuda_module(made, H200), made, inputs, tmp_path)["Y"]
    assert np.array_equal(found, np.repeat(inputs["X"].sum(1)[:, None], 5, 1))


@needs_gxx
def test_the_barriers_are_needed_and_found(tmp_path):
    """Without its barriers the same source gives wrong values: the check can fail."""
    made = attention(1, 8, 9, 5, 6)
    inputs = given(made)
    module = tvm_cuda.cuda_module(made, H200)
    assert module.source.count("__syncthreads();") == 2
    racy = replace(module, source=module.source.replace("__syncthreads();", ""))
    found = cuda_on_cpu.run(racy, made, inputs, tmp_path)["O"]
    assert not np.allclose(found, reference(inputs), atol=1e-3)


# --- launches ---------------------------------------------------------------------------------


def wide(extents, threads=32):
    body = store("Y", (*(f"b{n}" for n in range(len(extents))), "t"), val(1.0))
    made = loop("t", threads, body, "thread")
    for n, extent in reversed(list(enumerate(extents))):
        made = loop(f"b{n}", extent, made, "block")
    return program("wide", {}, {"Y": (*extents, threads)}, made)


@pytest.mark.parametrize(
    ("extents", "launched"),
    [
        ((5,), (5, 1, 1)),
        ((3, 5), (5, 3, 1)),
        ((2, 3, 5), (5, 3, 2)),
        ((2, 3, 5, 7), (210, 1, 1)),
        ((70000, 2), (140000, 1, 1)),
        ((2, 70000), (70000, 2, 1)),
    ],
)
def test_block_loops_become_a_grid_within_cudas_limits(extents, launched):
    (step,) = tvm_cuda.cuda_module(wide(extents), H200).steps
    assert (step.grid, step.block, step.shared_bytes) == (launched, (32, 1, 1), 0)


def test_too_many_threads_or_blocks_are_refused():
    with pytest.raises(MappingError) as error:
        tvm_cuda.cuda_module(wide((2,), 2048), H200)
    assert str(error.value) == (
        "wide_0 has 2048 threads in a block, h200 has at most 1024\n"
        "fix: make the spatial tiles of its Einsums on thread axes smaller"
    )
    with pytest.raises(MappingError) as error:
        tvm_cuda.cuda_module(wide((1 << 16, 1 << 16)), H200)
    assert str(error.value) == (
        "wide_0 has 4294967296 blocks, h200 launches at most 2147483647\n"
        "fix: make the tiles of its block loops larger"
    )


def test_fixed_point_is_refused():
    with pytest.raises(DataError) as error:
        tvm_cuda.cuda_source(causal_softmax(4, 5, fmt="fixed<16,6>"), H200)
    assert str(error.value) == "the TVM backends have no fixed<16,6>\nfix: use --backend hls"


# --- text and tools ---------------------------------------------------------------------------


def test_the_source_is_the_same_every_time_and_nothing_is_printed(capfd):
    _, _, made = lowered("causal_attention_1pass")
    first = tvm_cuda.cuda_source(made, H200)
    assert first == tvm_cuda.cuda_source(lowered("causal_attention_1pass")[2], H200)
    assert "expf(" in first
    assert "__expf(" not in first
    assert capfd.readouterr() == ("", "")


@needs_nvcc
@pytest.mark.parametrize("name", ["matmul", "causal_attention_1pass", "sliding_window"])
@pytest.mark.parametrize("fmt", ["fp32", "fp16", "bf16", "fp64"])
@pytest.mark.slow
def test_nvcc_compiles_it_for_the_target(name, fmt):
    _, _, made = lowered(name, fmt)
    assert any(isinstance(e, For) and e.kind == "thread" for e in walk_statements(made.body))
    source = tvm_cuda.cuda_source(made, H200)
    assert tvm_cuda.compile_cubin(source, "sm_90a")[:4] == b"\x7fELF"


@needs_nvcc
def test_a_failing_nvcc_shows_its_command_and_what_it_said():
    with pytest.raises(ToolError) as error:
        tvm_cuda.compile_cubin("int broken = ;", "sm_90a")
    lines = str(error.value).splitlines()
    assert lines[0] == (
        "nvcc -O3 -gencode arch=compute_90a,code=sm_90a -diag-suppress 177 -cubin "
        "-o kernels.cubin kernels.cu failed with exit code 1:"
    )
    assert "error: expected an expression" in lines[1]
    assert lines[-1] == "fix: this is a defect of penstock: please report it with the design file"


def test_a_missing_nvcc_is_said(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ToolError) as error:
        tvm_cuda.compile_cubin("", "sm_90a")
    assert str(error.value) == (
        "nvcc is not on this machine, so CUDA code cannot be compiled here\n"
        "fix: install the CUDA toolkit (12.4 or later) and put its bin folder on PATH"
    )


def test_the_artifact_says_how_to_compile_and_launch(tmp_path):
    made = attention(2, 13, 9, 5, 6)
    source = Provenance("attn", "0123456789ab", "penstock generate attn.json --backend cuda")
    generated = tvm_cuda.artifact(made, H200, source)
    assert generated == tvm_cuda.artifact(made, H200, source)
    generated.save(tmp_path / "out")
    launch = json.loads((tmp_path / "out" / "launch.json").read_text())
    assert launch["design"] == "0123456789ab"
    assert launch["arch"] == "sm_90a"
    why = {"kind": "plain", "why": "its mapping has no loop over tiles in its blocks"}
    assert launch["steps"] == [
        {
            "kernel": "attn_0_kernel",
            "grid": [2, 1, 1],
            "block": [78, 1, 1],
            "shared_bytes": 0,
            "arguments": ["O"],
            **why,
        },
        {
            "kernel": "attn_1_kernel",
            "grid": [2, 2, 1],
            "block": [72, 1, 1],
            "shared_bytes": 384,
            "arguments": ["K", "O", "Q", "V"],
            **why,
        },
    ]
    text = (tmp_path / "out" / "kernels.cu").read_text()
    assert text.startswith("// attn on h200, design 0123456789ab\n// made by: penstock generate")
    assert "nvcc -O3" in (tmp_path / "out" / "README.md").read_text()


@needs_gxx
def test_the_shim_refuses_a_barrier_that_some_threads_miss(tmp_path):
    source = (
        'extern "C" __global__ void __launch_bounds__(8) bad_kernel(float* __restrict__ Y_ptr) {\n'
        "  if (((int)threadIdx.x) < 4) __syncthreads();\n}\n"
    )
    cuda_on_cpu.compile_kernels(source, tmp_path)
    code = "import ctypes; l = ctypes.CDLL('./kernels.so'); "
    code += "l.run_bad_kernel((ctypes.c_int * 3)(1, 1, 1), 8, 0, None)"
    done = subprocess.run(
        ["python3", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert done.stderr == "barrier under a condition on the thread\n"

"""The loader against the prototypes of cuda.h, and the benchmark with rivals that fail."""

import ctypes
import importlib.util
import json
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.shapes import bind

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "benchmarks" / "gpu"

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")


class Noted(ctypes.Structure):
    """Of fake_driver.c."""

    _fields_ = (
        *((name, ctypes.c_uint64 * 3) for name in ("grid", "block")),
        *((name, ctypes.c_uint64) for name in ("shared", "stream", "most_shared")),
        ("arguments", ctypes.c_uint64 * 16),
    )


class Tensor:
    """What the loader asks of a CUDA tensor."""

    is_cuda = True

    def __init__(self, shape, dtype):
        self.shape, self.dtype = tuple(shape), dtype
        self.array = np.zeros((*shape, 16), np.uint8)  # room for any type

    def dim(self):
        return len(self.shape)

    def element_size(self):
        return 2

    def stride(self):
        return tuple(int(np.prod(self.shape[n + 1 :])) for n in range(self.dim()))

    def is_contiguous(self):
        return True

    def data_ptr(self):
        return self.array.ctypes.data


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    """The loader on a driver that notes; a folder with two launches, one with a descriptor."""
    command = ["nvcc", "-shared", "-Xcompiler", "-fPIC", "-o", str(tmp_path / "driver.so")]
    subprocess.run([*command, str(Path(__file__).parent / "fake_driver.c")], check=True)
    driver = ctypes.CDLL(str(tmp_path / "driver.so"))
    torch = types.ModuleType("torch")
    torch.bfloat16, torch.float32, torch.int32 = "torch.bfloat16", "torch.float32", "torch.int32"
    torch.zeros = lambda *shape, device: None
    torch.empty = lambda shape, dtype, device: Tensor(shape, dtype)
    stream = types.SimpleNamespace(cuda_stream=77)
    torch.cuda = types.SimpleNamespace(init=lambda: None, current_stream=lambda: stream)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    shape = {"shape": [2, 40, 64], "type": "bfloat16"}
    steps = [
        {"kernel": "a_kernel", "grid": [4, 2, 1], "block": [384, 1, 1], "shared_bytes": 90000,
         "arguments": ["Q", "W", "O"], "maps": [{"name": "m", "tensor": "K", "box": [1, 32, 64]}]},
        {"for": "i", "extent": 2, "steps": [
            {"kernel": "b_kernel", "grid": [8, 1, 1], "block": [64, 1, 1], "shared_bytes": 0,
             "arguments": ["W", "i"]}]},
    ]  # fmt: skip
    told = {"parameters": [{"name": name, **shape} for name in "QKO"], "steps": steps}
    told["workspace"] = [{"name": "W", "shape": [2, 40], "type": "float32"}]
    (tmp_path / "launch.json").write_text(json.dumps(told))
    (tmp_path / "kernels.cubin").write_bytes(b"cubin")
    place = ROOT / "penstock" / "codegen" / "gpu" / "standalone.py"
    spec = importlib.util.spec_from_file_location("launch", place)
    launch = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(launch)
    (ctypes.c_int * 16).in_dll(driver, "arguments_of")[:3] = 4, 2, 2
    return launch.Kernels(tmp_path), torch, driver


@needs_nvcc
def test_the_loader_calls_the_driver_as_its_header_says(kernels):
    loaded, torch, driver = kernels
    q, k = (Tensor((2, 40, 64), torch.bfloat16) for _ in range(2))
    out = loaded(q, k)
    first, second, third = (Noted * 16).in_dll(driver, "noted")[:3]
    assert ctypes.c_int.in_dll(driver, "launches").value == 3
    assert (list(first.grid), list(first.block)) == ([4, 2, 1], [384, 1, 1])
    assert (first.shared, first.most_shared, first.stream) == (90000, 90000, 77)
    assert (second.shared, second.most_shared) == (0, 0)
    work = loaded.work["W"].data_ptr()
    assert list(first.arguments[:3]) == [q.data_ptr(), work, out.data_ptr()]
    assert [each.arguments[0] for each in (second, third)] == [work, work]
    assert [each.arguments[1] & 0xFFFFFFFF for each in (second, third)] == [0, 1]
    (made,) = loaded.maps.values()
    told = np.frombuffer(made, np.uint64)[:16]
    assert list(told[:3]) == [9, 3, k.data_ptr()]  # CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
    assert list(told[3:6]) == [64 | 64 << 32, 40 | 32 << 32, 2 | 1 << 32]
    assert list(told[8:10]) == [128, 40 * 128]
    assert list(told[12:16]) == [0, 3, 3, 0]  # SWIZZLE_128B, L2_256B, zeros outside
    with pytest.raises(ValueError, match="Q must be a contiguous CUDA tensor of bfloat16"):
        loaded(Tensor((2, 40, 64), torch.float32), k)


@pytest.fixture(scope="module")
def bench():
    """(bundle, rivals) of benchmarks/gpu, on the CPU."""
    sys.path.insert(0, str(BENCH))
    try:
        import bundle
        import rivals
    finally:
        sys.path.remove(str(BENCH))
    rivals.DEVICE = "cpu"
    return bundle, rivals


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(
    "name",
    [
        *("causal", "dense", "sliding_window", "decode", "gqa_causal", "soft_cap", "alibi"),
        *("attention_sink", "document_mask", "sigmoid", "neighborhood", "latent"),
        *("linear", "dense_wide"),
    ],
)
def test_exact_results_and_rivals_are_what_the_cascade_says(bench, name):
    """Against the interpreter, on 90 keys, in windows of 20."""
    import torch

    bundle, rivals = bench
    case = bundle.CASES[name]
    constants = {key: {"W": 20.0, "X": 9.0}[key] for key, _ in case.constants}
    constants |= {"W": 2.0} if "X" in constants else {}
    written = case.load().with_constants(**constants)
    sizes = {"h": 4, "g": 2, "p": 1 if case.decode else 90, "m": 90, "e": 16, "f": 16}
    used = {rank for each in written.inputs for rank in each.ranks}
    used |= {rank for each in written.einsums for rank in each.variables}
    sizes = {rank: n for rank, n in sizes.items() if rank in used}
    told = {"case": name, "format": "bf16", "shape": sizes, "constants": constants}
    told["inputs"] = {e.tensor: [sizes[rank] for rank in e.ranks] for e in written.inputs}
    given = rivals.inputs(torch, told)
    exact, rows = rivals.exact_rows(torch, told, given)
    bound = bind(written, shapes=sizes)
    arrays = {key: each.double().numpy() for key, each in given.items()}
    want = torch.tensor(interpret(bound, arrays, parse_format("fp64"))["O"])
    assert torch.allclose(exact, rivals.rows_of(want, rows), rtol=1e-9, atol=1e-12)
    makers = rivals.rivals(torch, told, given)
    for rival in [*rivals.names(name), *(["sdpa math"] if name in ("dense", "causal") else [])]:
        if rival in ("flex", "torch compiled", "sdpa math"):  # the others need a GPU
            found = rivals.rows_of(makers[rival]()(), rows).double()
            assert (found - exact).norm() < 3e-2 * exact.norm(), rival
        assert rival in makers


FAKE = """
import os, time, torch
class Kernels:
    def __init__(self, folder):
        self.name = folder.name
        kinds = [{"name": n, "shape": [2, 64, 16], "type": "bfloat16"} for n in "QKVO"]
        self.told = {"parameters": kinds}
    def __call__(self, q, k, v, out):
        match self.name:
            case "wrong": pass
            case "raises": raise RuntimeError("launch failed")
            case "dies": os._exit(11)
            case "hangs": time.sleep(60)
            case _: out[0][...] = torch.nn.functional.scaled_dot_product_attention(
                q[None], k[None], v[None], is_causal=self.name == "causal")[0]
"""


@pytest.mark.slow
def test_the_benchmark_survives_what_fails(tmp_path):
    """Kernels that are wrong, raise, hang or end the process are lines; others are measured."""
    for name in ("measure.py", "rivals.py"):
        shutil.copy(BENCH / name, tmp_path / name)
    (tmp_path / "launch.py").write_text(FAKE)
    names = ["wrong", "raises", "dies", "hangs", "dense"]
    shape = {"h": 2, "p": 64, "m": 64, "e": 16, "f": 16}
    told = {"format": "bf16", "shape": shape, "constants": {}, "flops": 1.0, "bytes": 1}
    told["inputs"] = {name: [2, 64, 16] for name in "QKV"}
    cases = [
        {"case": "dense", "label": "dense", "rivals": ["sdpa math", "triton"],
         "variants": [{"name": each, "folder": each} for each in names], **told},
        {"case": "causal", "label": "causal", "rivals": ["sdpa math"],
         "variants": [{"name": "ok", "folder": "causal"}], **told},
    ]  # fmt: skip
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    command = [sys.executable, str(tmp_path / "measure.py"), str(tmp_path), "--cpu"]
    command += ["--patience", "10", "--json", str(tmp_path / "out.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    dense, causal = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert set(dense["times_ms"]) == {"sdpa math", "penstock dense"}
    assert "error nan" in dense["refused"]["penstock wrong"]
    assert dense["refused"]["penstock raises"] == "RuntimeError: launch failed"
    assert dense["refused"]["penstock dies"] == "the process ended with 11"
    assert dense["refused"]["penstock hangs"] == "no answer in time"
    assert "triton" in dense["refused"]["triton"]
    assert set(causal["times_ms"]) == {"sdpa math", "penstock ok"}
    assert "penstock dense" in done.stdout

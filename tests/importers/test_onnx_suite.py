"""The node tests in the wheel of onnx 1.22.0, through the importer and the interpreter.

Each base case is run as it is, and once more in fp16 and in bf16, where the oracle is ONNX's
reference in float64 on the rounded inputs (its own narrow arithmetic rounds every step).
"""

from collections import Counter
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.reference import ReferenceEvaluator

from penstock.einsum_ir.frontend.notation import parse
from penstock.importers.onnx import from_onnx, run_onnx

COUNTS = {
    "Attention": 64,
    "LayerNormalization": 19,
    "LogSoftmax": 7,
    "RMSNormalization": 19,
    "ReduceLogSumExp": 9,
    "RotaryEmbedding": 8,
    "Softmax": 7,
}
NARROW = {TensorProto.FLOAT16: np.float16, TensorProto.BFLOAT16: ml_dtypes.bfloat16}
REALS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}


def base_cases():
    """(operator, name, folder) of every case of one such node; expanded ones have many nodes or
    the name of another function's body."""
    found = []
    for case in load_model_tests(kind="node"):
        graph = onnx.load(Path(case.model_dir) / "model.onnx").graph
        kinds = [node.op_type for node in graph.node]
        if len(kinds) == 1 and kinds[0] in COUNTS and "_expanded" not in case.name:
            found.append((kinds[0], case.name, Path(case.model_dir)))
    return sorted(found)


CASES = base_cases()
FOLDERS = pytest.mark.parametrize(
    "folder", [folder for *_, folder in CASES], ids=[name for _, name, _ in CASES]
)


def arrays(folder, kind, infos):
    data = folder / "test_data_set_0"
    assert len(list(data.glob(f"{kind}_*.pb"))) == len(infos)
    loaded = [onnx.load_tensor(data / f"{kind}_{place}.pb") for place in range(len(infos))]
    return {i.name: numpy_helper.to_array(each) for i, each in zip(infos, loaded, strict=True)}


def deciding(inputs):
    return {name: array for name, array in inputs.items() if name == "axes"}


def compare(got, want):
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    if want.dtype in (np.float16, ml_dtypes.bfloat16):
        assert ulps(got, want) <= 2
    else:
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-6)


def ulps(got, want):
    """The largest distance in units of the last place of `want`; infinities must be equal."""
    finite = np.isfinite(want)
    np.testing.assert_array_equal(np.where(finite, 0, got), np.where(finite, 0, want))
    unit = np.spacing(np.abs(np.where(finite, want, np.ones_like(want))))
    difference = np.where(finite, got, 0).astype(float) - np.where(finite, want, 0).astype(float)
    return np.max(np.abs(difference / unit.astype(float)))


def test_no_case_is_left_out():
    assert onnx.__version__ == "1.22.0"
    assert Counter(kind for kind, *_ in CASES) == COUNTS
    named = {
        case.name
        for case in load_model_tests(kind="node")
        if case.name.startswith("test_attention_") and "_expanded" not in case.name
    }
    assert named == {name for kind, name, _ in CASES if kind == "Attention"}
    assert all(len(list(folder.glob("test_data_set_*"))) == 1 for *_, folder in CASES)


@FOLDERS
def test_node(folder):
    graph = onnx.load(folder / "model.onnx").graph
    inputs = arrays(folder, "input", graph.input)
    imported = from_onnx(folder / "model.onnx", values=deciding(inputs))
    assert parse(str(imported.cascade)) == imported.cascade
    got = run_onnx(imported, inputs)
    wanted = arrays(folder, "output", graph.output)
    assert list(got) == list(wanted)
    for name, want in wanted.items():
        compare(got[name], want)


def retyped(model, element):
    """The model with another type for its real numbers."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for info in (*copy.graph.input, *copy.graph.output):
        if info.type.tensor_type.elem_type in REALS:
            info.type.tensor_type.elem_type = element
    return copy


@FOLDERS
@pytest.mark.parametrize("element", NARROW, ids=["fp16", "bf16"])
def test_node_in_a_narrow_format(folder, element):
    model = onnx.load(folder / "model.onnx")
    inputs = arrays(folder, "input", model.graph.input)
    real = {name for name, array in inputs.items() if array.dtype.kind == "f"}
    narrow = inputs | {name: inputs[name].astype(NARROW[element]) for name in real}
    got = run_onnx(from_onnx(retyped(model, element), values=deciding(inputs)), narrow)
    wide = narrow | {name: narrow[name].astype(np.float64) for name in real}
    reference = ReferenceEvaluator(retyped(model, TensorProto.DOUBLE))
    for (name, array), want in zip(got.items(), reference.run(None, wide), strict=True):
        compare(array, np.asarray(want).astype(array.dtype))
        if name not in {"Mean", "InvStdDev"}:  # stash_type: fp32
            assert array.dtype == NARROW[element]

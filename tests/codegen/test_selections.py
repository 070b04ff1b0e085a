"""Selections in generated code: order, ties, NaN, too few candidates, several ranks; and limits."""

import shutil
from dataclasses import replace

import cuda_on_cpu
import numpy as np
import pytest

from penstock import explore, parse, zoo
from penstock.codegen.hls import csim
from penstock.codegen.loops.interp import run_program
from penstock.codegen.lower.program import lower
from penstock.codegen.tvm import cpu as tvm_cpu
from penstock.codegen.tvm import cuda as tvm_cuda
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.shapes import bind
from penstock.errors import DataError, MappingError
from penstock.mapper.check import check
from penstock.mapper.notation import parse_mapping
from penstock.mapper.search.build import default_mapping
from penstock.targets import TARGETS

FP32 = parse_format("fp32")
H200 = TARGETS.get("h200")
CHOSEN = """
cascade chosen(X[p, r], K[r, e]) -> O[p, e]
  shape j = 3, p = 8, r = 16, e = 4
  SEL[p, j] = X[p, r] :: topk[r -> j]
  O[p, e] = K[SEL[p, j], e] :: sum[j]
"""
CASES = {
    "chosen": CHOSEN,
    "masked": """
cascade masked(X[p, r], V[r, e]) -> (S[p, j], O[p, e])
  shape j = 4, p = 9, r = 13, e = 3
  S[p, j] = X[p, r] :: topk[r -> j] s.t. r <= p and X[p, r] != 0.5
  O[p, e] = exp(X[p, S[p, j]]) * V[S[p, j], e] :: sum[j]
""",
    "two ranks": """
cascade two(X[p, a, b]) -> (S[p, j], T[p])
  shape j = 5, p = 6, a = 3, b = 7
  S[p, j] = 2 - X[p, a, b] :: topk[a, b -> j]
  T[p] = X[p, S[p, j] // B, S[p, j] % B] :: sum[j]
""",
    "one": """
cascade one(X[p, r], V[r]) -> (A[p], I[p], O[p])
  shape p = 5, r = 11
  A[p] = X[p, r] :: argmax[r]
  I[p] = X[p, r] :: argmin[r] s.t. r > p
  O[p] = V[A[p]] + V[I[p]]
""",
    "sorted": """
cascade sorted(X[p, r]) -> Y[p, j]
  shape p = 3, r = 9
  S[p, j] = X[p, r] :: argsort[r -> j]
  Y[p, j] = X[p, S[p, j]]
""",
}


def case(name):
    bound = bind(parse(CASES[name]))
    rng = np.random.default_rng(len(name))
    given = {
        each.tensor: np.round(2 * rng.normal(size=bound.dims[each.tensor])) / 2
        for each in bound.cascade.inputs
    }
    given["X"].flat[::17] = 1e30  # ties are common among halves; some are far out, one is NaN
    given["X"].flat[5] = np.nan if name in ("two ranks", "sorted") else -1e30
    return bound, given


def run_cuda(made, given, folder):
    return cuda_on_cpu.run(tvm_cuda.cuda_module(made, H200), made, given, folder)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", ["loops", "cpu", "cuda"])
def test_equal_to_the_interpreter(name, backend, tmp_path):
    if backend == "cuda" and shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    bound, given = case(name)
    target = H200 if backend == "cuda" else TARGETS.get("avx2")
    made = lower(bound, default_mapping(bound, target, FP32), target, FP32)
    match backend:
        case "loops":
            found = run_program(made, given)
        case "cpu":
            found = tvm_cpu.execute(made, given)
        case "cuda":
            found = run_cuda(made, given, tmp_path)
    for tensor, values in interpret(bound, given, FP32).items():
        if np.issubdtype(values.dtype, np.integer):
            np.testing.assert_array_equal(found[tensor], values, err_msg=tensor)
        else:
            np.testing.assert_allclose(found[tensor], values, rtol=1e-5, err_msg=tensor)


@pytest.mark.parametrize("target", ["avx2", "h200"])
def test_what_the_search_finds_is_lowered(target):
    cascade = zoo.load("topk_attention")
    shapes = {"h": 2, "p": 5, "m": 37, "e": 4, "f": 4}
    design, _ = explore(cascade, target, shapes=shapes, fmt=FP32)
    rng = np.random.default_rng(3)
    given = {
        each.tensor: rng.normal(size=design.bound.dims[each.tensor]) for each in cascade.inputs
    }
    found, wanted = run_program(design.program(), given), interpret(design.bound, given, FP32)
    np.testing.assert_allclose(found["O"], wanted["O"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "loops", ["p, r, j by 2, j", "r by 4, p, r, j", "p, j, r", "p, r by 4, r, j", "r, p, j"]
)
def test_candidates_are_met_in_order_in_one_place(loops):
    bound, target = bind(parse(CHOSEN)), TARGETS.get("avx2")
    text = f"mapping m for chosen on avx2\nSEL on vector: {loops}\nO on vector: p, e, j"
    with pytest.raises(MappingError, match="SEL selects along r, j with the loops") as error:
        check(parse_mapping(text), bound, target, FP32)
    assert error.value.fix == (
        "end its own loops with r, j, in time and one by one (j may lie along an axis of PEs)"
    )


@pytest.mark.parametrize(("name", "fmt"), [("two ranks", "fp32"), ("masked", "fixed<16,6>")])
def test_places_side_by_side_in_hardware(name, fmt):
    bound, given = case(name)
    chosen, part = parse_format(fmt), TARGETS.get("u280")
    mapping = default_mapping(bound, part, chosen)
    assert "j@rows" in str(mapping)
    made = lower(bound, mapping, part, chosen)
    found, wanted = csim.execute(made, given), interpret(bound, given, chosen)
    for tensor, values in wanted.items():
        np.testing.assert_allclose(found[tensor], values, rtol=1e-5, err_msg=tensor)


def test_a_machine_without_the_operator():
    with pytest.raises(MappingError, match="SEL cannot run on mesh4x4: no array has 'topk'"):
        default_mapping(bind(parse(CHOSEN)), TARGETS.get("mesh4x4"), FP32)


def test_a_state_is_no_selection():
    text = """
cascade walk(X[t, r]) -> O[t]
  shape t = 3, r = 4
  init S[0] = 0
  S[t + 1] = X[t, r] + S[t] :: argmax[r]
  O[t] = X[t, S[t]]
"""
    bound, mesh = bind(parse(text)), TARGETS.get("avx2")
    with pytest.raises(DataError, match="no selections that are states, and S is one"):
        lower(bound, default_mapping(bound, mesh, FP32), replace(mesh), FP32)

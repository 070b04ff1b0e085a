"""The caller's arrays: what they fix, and the exact text of every refusal."""

import numpy as np
import pytest

from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.interpreter.inputs import bind_arrays, check_inputs, default_format
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.shapes import bind
from penstock.errors import DataError

TEXT = """cascade scores(Q[p, e], K[m, e]) -> S[p, m]
  S[p, m] = Q[p, e] * K[m, e] * SC s.t. m < W"""
GOOD = {"Q": np.ones((2, 3)), "K": np.ones((4, 3)), "SC": np.array(0.5), "W": np.array(2)}


def message(call, *args, **kwargs):
    with pytest.raises(DataError) as caught:
        call(*args, **kwargs)
    return [line for line in str(caught.value).splitlines() if not line.startswith((" ", "<text>"))]


def test_extents_and_constants_come_from_arrays():
    bound = bind_arrays(parse(TEXT), GOOD)
    assert dict(bound.extents) == {"p": 2, "e": 3, "m": 4}
    assert bound.symbols["SC"] == 0.5
    want = [[1.5, 1.5, 0, 0]] * 2
    np.testing.assert_array_equal(interpret(bound, GOOD)["S"], want)


def test_arrays_win_over_the_shapes_of_the_cascade():
    assert bind_arrays(parse(TEXT).with_shapes(m=9), GOOD).extents["m"] == 4


def test_shapes_and_constants_may_be_given_apart():
    arrays = {name: GOOD[name] for name in ("Q", "K")}
    bound = bind_arrays(parse(TEXT), arrays, shapes={"p": 2}, constants={"SC": 1, "W": 4})
    np.testing.assert_array_equal(interpret(bound, arrays)["S"], np.full((2, 4), 3.0))


BIND = {
    "missing": (
        {"K": None},
        "input K[m, e] has no array (given: Q, SC, W)",
        "fix: add an array 'K'",
    ),
    "superfluous": (
        {"V": np.ones((4, 3))},
        "array V belongs to no input of scores (inputs: Q, K)",
        "fix: leave out V",
    ),
    "misspelt constant": (
        {"SCC": np.array(1.0)},
        "array SCC belongs to no input of scores (inputs: Q, K)",
        "fix: did you mean 'SC'?",
    ),
    "ranks": (
        {"K": np.ones((1, 4, 3))},
        "array K has 3 dimensions (1, 4, 3), input K[m, e] has 2 ranks",
        "fix: give an array with one dimension for each rank, in that order",
    ),
    "two arrays disagree": (
        {"K": np.ones((4, 5))},
        "array K[m, e] has size 5 along rank e, array Q says 3",
        "fix: make both sizes of e equal",
    ),
    "complex": (
        {"K": np.ones((4, 3), dtype=complex)},
        "array K has elements of type complex128",
        "fix: give floats, integers or booleans",
    ),
}


@pytest.mark.parametrize("name", BIND)
def test_bind_arrays_refuses(name):
    change, what, fix = BIND[name]
    arrays = {key: array for key, array in {**GOOD, **change}.items() if array is not None}
    assert message(bind_arrays, parse(TEXT), arrays) == [what, fix]


def test_shape_and_array_disagree():
    assert message(bind_arrays, parse(TEXT), GOOD, shapes={"m": 5}) == [
        "array K[m, e] has size 4 along rank m, --shape says 5",
        "fix: make both sizes of m equal",
    ]


def test_constant_given_twice():
    assert message(bind_arrays, parse(TEXT), GOOD, constants={"SC": 2.0}) == [
        "array SC is 0.5, --const SC says 2",
        "fix: give SC once",
    ]


def test_check_inputs():
    bound = bind(parse(TEXT), shapes={"p": 2, "e": 3, "m": 4}, constants={"SC": 0.5, "W": 2})
    check_inputs(bound, GOOD)
    check_inputs(bound, {name: GOOD[name] for name in ("Q", "K")})
    assert message(check_inputs, bound, GOOD | {"K": np.ones((7, 3))}) == [
        "array K[m, e] has size 7 along rank m, which has 4 coordinates",
        "fix: give an array with 4 along m, or --shape m=7",
    ]
    assert message(check_inputs, bound, GOOD | {"W": np.array(3)}) == [
        "array W is 3, but the cascade was bound with W = 2",
        "fix: leave out array W, or bind with it (bind_arrays)",
    ]
    assert message(check_inputs, bound, GOOD | {"K": np.ones(4)}) == [
        "array K has 1 dimensions (4,), input K[m, e] has 2 ranks",
        "fix: give an array with one dimension for each rank, in that order",
    ]


def test_nan_is_allowed_but_not_in_fixed():
    arrays = GOOD | {"Q": np.array([[np.nan, 1, 1], [1, 1, 1]])}
    bound = bind_arrays(parse(TEXT), arrays)
    assert np.isnan(interpret(bound, arrays)["S"][0, 0])
    assert message(interpret, bound, arrays, parse_format("fixed<16,6>")) == [
        "input Q[p, e]: 1 of 6 numbers are NaN, which fixed<16,6> cannot hold",
        "fix: replace them, or run it in fp32",
    ]


@pytest.mark.parametrize(
    ("dtypes", "want"),
    [
        (["f4", "f4"], "fp32"),
        (["f4", "f8"], "fp64"),
        (["f2", "f2"], "fp16"),
        (["f2", "f4"], "fp32"),
        (["f2", "i2"], "fp32"),
        (["f2", "bool"], "fp32"),
        (["f4", "i4"], "fp64"),
        (["u1"], "fp32"),
    ],
)
def test_default_format(dtypes, want):
    arrays = {f"X{place}": np.zeros(1, dtype=dtype) for place, dtype in enumerate(dtypes)}
    assert default_format(arrays).name == want


def test_default_format_of_constants():
    assert default_format({"X": np.zeros(1, "f2"), "W": np.array(3)}).name == "fp16"
    assert default_format({}).name == "fp32"


@pytest.mark.parametrize("fmt", ["fp16", "bf16", "fixed<16,6>"])
def test_lengths_that_come_as_floats_stay_whole(fmt):
    cascade = parse("""
cascade c(X[m], L[p]) -> (Y[p], Z[p])
  Y[p] = X[m] :: max[m] s.t. m < L[p]
  Z[p] = X[m] :: sum[m] s.t. m + 2000 == L[p]
""")
    found = [
        interpret(bind_arrays(cascade, given), given, parse_format(fmt))
        for kind in (float, int)
        for given in [{"X": np.arange(99) / 8, "L": np.array([1, 37, 90, 2049], kind)}]
    ]
    assert found[0]["Y"].tolist() == found[1]["Y"].tolist() == [0, 4.5, 11.125, 12.25]
    assert found[0]["Z"].tolist() == found[1]["Z"].tolist() == [0, 0, 0, 6.125]

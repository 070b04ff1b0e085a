"""Semantics of the interpreter, one case each, and attention with hard values."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.interpreter import reduce
from penstock.einsum_ir.interpreter.inputs import bind_arrays
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.shapes import bind
from penstock.errors import DataError

THREE_PASS = """cascade attention(Q[h, p, e], K[g, m, e], V[g, m, f]) -> O[h, p, f]
  const SC = 1 / sqrt(E)
  QK[h, p, m] = Q[h, p, e] * K[h//(H//G), m, e] * SC {where}
  GM[h, p]    = QK[h, p, m]                        :: max[m]
  SN[h, p, m] = exp(QK[h, p, m] - GM[h, p])
  SD[h, p]    = SN[h, p, m]                        :: sum[m]
  O[h, p, f]  = SN[h, p, m] / SD[h, p] * V[h//(H//G), m, f]  :: sum[m]
"""

ONE_PASS = """cascade streaming(Q[h, p, e], K[g, m, e], V[g, m, f]) -> O[h, p, f]
  const SC = 1 / sqrt(E)
  init RM[h, p, 0] = -inf
  init RD[h, p, 0] = 0
  init RN[h, p, f, 0] = 0
  loop n:
    QK[h, p, n, k]   = Q[h, p, e] * K[h//(H//G), n*K + k, e] * SC {where}
    LM[h, p, n]      = QK[h, p, n, k] :: max[k]
    RM[h, p, n + 1]  = max(RM[h, p, n], LM[h, p, n])
    PM[h, p, n]      = exp(RM[h, p, n] - RM[h, p, n + 1]) s.t. RM[h, p, n + 1] > -inf
    SN[h, p, n, k]   = exp(QK[h, p, n, k] - RM[h, p, n + 1])
    LD[h, p, n]      = SN[h, p, n, k] :: sum[k]
    RD[h, p, n + 1]  = PM[h, p, n] * RD[h, p, n] + LD[h, p, n]
    LN[h, p, f, n]   = SN[h, p, n, k] * V[h//(H//G), n*K + k, f]
    RN[h, p, f, n + 1] = PM[h, p, n] * RN[h, p, f, n] + LN[h, p, f, n]
  O[h, p, f] = RN[h, p, f, N] / RD[h, p, N] s.t. RD[h, p, N] > 0
"""

KEEP = {
    "all": ("", lambda p, m: p >= 0),
    "causal": ("s.t. {m} <= p", lambda p, m: m <= p),
    "window": ("s.t. {m} <= p and p - {m} < 9", lambda p, m: (m <= p) & (p - m < 9)),
    "rows without keys": ("s.t. {m} < p - 4", lambda p, m: m < p - 4),
}


def softmax_attention(q, k, v, keep):
    """Attention in float64; a row without keys is 0."""
    q, k, v = (np.asarray(each, dtype=np.float64) for each in (q, k, v))
    k, v = (np.repeat(each, len(q) // len(k), axis=0) for each in (k, v))
    p, m = np.ogrid[: q.shape[1], : k.shape[1]]
    mask = np.broadcast_to(keep(p, m), (q.shape[1], k.shape[1]))
    logits = np.where(mask, q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1]), -np.inf)
    top = logits.max(axis=-1, keepdims=True)
    weights = np.where(mask, np.exp(logits - np.where(np.isinf(top), 0, top)), 0)
    total = weights.sum(axis=-1, keepdims=True)
    return weights / np.where(total == 0, 1, total) @ v


@pytest.mark.parametrize("kind", KEEP)
@pytest.mark.parametrize("scale", [1, 1000])
@pytest.mark.parametrize(("p", "m"), [(1, 1), (37, 96), (71, 37), (1, 71), (96, 1)])
@pytest.mark.parametrize("text", [THREE_PASS, ONE_PASS], ids=["three", "one"])
def test_attention(text, p, m, scale, kind):
    rng = np.random.default_rng(p * 100 + m)
    inputs = {
        "Q": rng.standard_normal((4, p, 5)) * scale,
        "K": rng.standard_normal((2, m, 5)),
        "V": rng.standard_normal((2, m, 3)),
    }
    where, keep = KEEP[kind]
    one = text is ONE_PASS
    filled = text.format(where=where.format(m="(n*K + k)" if one else "m"))
    bound = bind_arrays(parse(filled), inputs, shapes={"k": 10} if one else None)
    want = softmax_attention(*inputs.values(), keep)
    for fmt, tolerance in (("fp64", 1e-11), ("fp32", 2e-4 if scale > 1 else 1e-5)):
        got = interpret(bound, inputs, parse_format(fmt))["O"]
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def test_minus_infinity_among_logits():
    """An additive mask of -inf, as frameworks write it, is not the same as absent."""
    text = """cascade added(B[p, m], V[m]) -> O[p]
      G[p] = B[p, m] :: max[m]
      S[p, m] = exp(B[p, m] - G[p])
      D[p] = S[p, m] :: sum[m]
      O[p] = S[p, m] * V[m] / D[p] :: sum[m]"""
    inputs = {"B": np.array([[0, -np.inf], [-np.inf, -np.inf]]), "V": np.array([2.0, 3.0])}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = interpret(bind_arrays(parse(text), inputs), inputs)["O"]
    np.testing.assert_array_equal(got, [2.0, np.nan])


def test_nan_stays():
    inputs = {"Q": np.ones((1, 2, 3)), "K": np.ones((1, 4, 3)), "V": np.ones((1, 4, 2))}
    inputs["Q"][0, 1, 0] = np.nan
    got = interpret(bind_arrays(parse(THREE_PASS.format(where="")), inputs), inputs)["O"]
    np.testing.assert_array_equal(got, [[[1, 1], [np.nan, np.nan]]])


@settings(max_examples=30, deadline=None)
@given(limit=st.integers(1, 400), fmt=st.sampled_from(["fixed<16,6>", "fixed<24,8>", "fp64"]))
def test_blocked_equals_unblocked(limit, fmt):
    rng = np.random.default_rng(1)
    inputs = {name: rng.integers(-32, 33, (2, 9, 4)) / 16 for name in "QKV"}
    inputs["K"], inputs["V"] = inputs["K"][:1], inputs["V"][:1]
    bound = bind_arrays(parse(THREE_PASS.format(where="s.t. m <= p")), inputs)
    want = interpret(bound, inputs, parse_format(fmt))["O"]
    before = reduce.LIMIT
    reduce.LIMIT = limit
    try:
        got = interpret(bound, inputs, parse_format(fmt))["O"]
    finally:
        reduce.LIMIT = before
    if fmt == "fp64":
        np.testing.assert_allclose(got, want, rtol=1e-14, atol=1e-15)
    else:
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("fmt", "dtype", "tolerance"),
    [
        ("fp16", np.float16, 4e-3),
        ("bf16", np.float32, 3e-2),
        ("fixed<16,6>", np.float64, 3e-2),
        ("fixed<24,8>", np.float64, 2e-4),
        ("fixed<32,12>", np.float64, 1e-4),
    ],
)
def test_attention_in_format(fmt, dtype, tolerance):
    rng = np.random.default_rng(0)
    inputs = {name: rng.standard_normal((1, 8, 4)).astype(np.float32) for name in "QKV"}
    bound = bind_arrays(parse(THREE_PASS.format(where="s.t. m <= p")), inputs)
    got = interpret(bound, inputs, parse_format(fmt))["O"]
    assert got.dtype == dtype
    want = softmax_attention(*inputs.values(), lambda p, m: m <= p)
    np.testing.assert_allclose(got.astype(np.float64), want, atol=tolerance)


def test_operator_without_fixed_point_form():
    bound = bind(parse("cascade f(X[a]) -> O[a]\n  O[a] = gelu(X[a])"), shapes={"a": 1})
    with pytest.raises(DataError) as caught:
        interpret(bound, {"X": np.zeros(1)}, parse_format("fixed<16,6>"))
    assert str(caught.value) == (
        "operator 'gelu' has no fixed-point form (fixed<16,6>)\nfix: run it in fp32"
    )


def test_negative_index_does_not_wrap_around():
    text = "cascade shift(X[a, b]) -> O[a, b]\n  O[a, b] = X[a, b - 1]"
    got = interpret(bind(parse(text), shapes={"a": 1, "b": 3}), {"X": np.array([[1.0, 2.0, 3.0]])})
    np.testing.assert_array_equal(got["O"], [[0.0, 1.0, 2.0]])


def test_index_that_is_no_whole_number_is_absent():
    text = "cascade gather(X[b], J[a]) -> O[a]\n  O[a] = fill(X[J[a]], -1)"
    inputs = {"X": np.array([5.0, 6.0]), "J": np.array([0.0, 0.5, np.nan, 1.0, np.inf])}
    got = interpret(bind(parse(text), shapes={"a": 5, "b": 2}), inputs)
    np.testing.assert_array_equal(got["O"], [5.0, -1.0, -1.0, 6.0, -1.0])


def test_absent_zero_never_meets_infinity():
    text = "cascade mask(X[p, m], Y[m, f]) -> O[p, f]\n  O[p, f] = X[p, m] * Y[m, f] s.t. m <= p"
    inputs = {"X": np.ones((2, 2)), "Y": np.array([[1.0], [np.inf]])}
    got = interpret(bind(parse(text), shapes={"p": 2, "m": 2, "f": 1}), inputs)
    np.testing.assert_array_equal(got["O"], [[1.0], [np.inf]])


def test_predicate_that_reads_an_absent_element_is_false():
    text = """cascade hole(X[a]) -> O[a]
      T[a] = X[a] s.t. a != 1
      O[a] = 1 s.t. T[a] > 0 or a >= 0"""
    got = interpret(bind(parse(text), shapes={"a": 3}), {"X": np.ones(3)})
    np.testing.assert_array_equal(got["O"], [1.0, 0.0, 1.0])


def test_coordinate_tensor_is_not_rounded():
    text = "cascade length(N[a], X[m]) -> O[a]\n  O[a] = X[m] s.t. m < N[a]"
    bound = bind(parse(text), shapes={"a": 1, "m": 100})
    inputs = {"N": np.array([90]), "X": np.full(100, 1 / 64)}
    for fmt, want in (("fixed<8,2>", 90 / 64), ("bf16", 90 / 64), ("fp16", 90 / 64)):
        assert interpret(bound, inputs, parse_format(fmt))["O"][0] == pytest.approx(want, abs=0.01)


FUNCTIONS = {
    "exp2": np.exp2,
    "log": np.log,
    "log2": np.log2,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: x**-0.5,
    "sq": np.square,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "softplus": lambda x: np.log(1 + np.exp(x)),
    "step": lambda x: np.where(x >= 0, 1.0, 0.0),
    "sign": np.sign,
    "floor": np.floor,
    "round": lambda x: np.floor(x + 0.5),
    "erf": lambda x: (
        2
        / np.sqrt(np.pi)
        * sum(
            (-1.0) ** n * x ** (2 * n + 1) / (float(np.prod(np.arange(1.0, n + 1))) * (2 * n + 1))
            for n in range(40)
        )
    ),
}


@pytest.mark.parametrize("op", FUNCTIONS)
@pytest.mark.parametrize("fmt", ["fp64", "fp32"])
def test_function(op, fmt):
    positive = op in ("log", "log2", "sqrt", "rsqrt")
    x = np.linspace(0.25 if positive else -2.5, 2.5, 11)
    bound = bind(parse(f"cascade f(X[a]) -> O[a]\n  O[a] = {op}(X[a])"), shapes={"a": 11})
    got = interpret(bound, {"X": x}, parse_format(fmt))["O"]
    assert got.dtype == (np.float64 if fmt == "fp64" else np.float32)
    np.testing.assert_allclose(got, FUNCTIONS[op](x), rtol=1e-12 if fmt == "fp64" else 3e-6)


def test_gelu_and_power():
    x = np.array([-1.5, 0.0, 2.0])
    text = "cascade f(X[a]) -> O[a]\n  G[a] = gelu(X[a])\n  O[a] = G[a] + abs(X[a]) ** 1.5"
    got = interpret(bind(parse(text), shapes={"a": 3}), {"X": x})["O"]
    gelu = np.array([-1.5 * 0.06680720126885806, 0.0, 2 * 0.9772498680518208])
    np.testing.assert_allclose(got, gelu + np.abs(x) ** 1.5, rtol=1e-12)


def test_fp32_is_computed_in_fp32():
    bound = bind(parse("cascade f(X[a]) -> O[a]\n  O[a] = (X[a] + 1) - X[a]"), shapes={"a": 1})
    got = interpret(bound, {"X": np.array([2.0**24])}, parse_format("fp32"))["O"]
    assert got[0] == 0
    assert got.dtype == np.float32
    assert interpret(bound, {"X": np.array([2.0**24])})["O"][0] == 1


def test_keep_returns_every_tensor():
    bound = bind(
        parse("cascade f(X[a]) -> O[a]\n  T[a] = X[a] + 1\n  O[a] = T[a]"), shapes={"a": 1}
    )
    assert list(interpret(bound, {"X": np.zeros(1)}, keep=True)) == ["T", "O"]
    assert list(interpret(bound, {"X": np.zeros(1)})) == ["O"]

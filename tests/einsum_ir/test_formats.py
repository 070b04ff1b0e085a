"""Number formats against ml_dtypes, exact rationals and loops; formats of single tensors."""

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.einsum_ir.formats import parse_format, run_format
from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.interpreter.inputs import bind_arrays, default_format
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.interpreter.rounding import quantise, round_half_even
from penstock.einsum_ir.interpreter.widths import accumulator_bits
from penstock.errors import DataError

FP8 = {"fp8_e4m3": ml_dtypes.float8_e4m3fn, "fp8_e5m2": ml_dtypes.float8_e5m2}
INTEGERS = {f"{sign}int{bits}": bits for sign in ("", "u") for bits in (4, 8, 16, 32)}
ALL_FP16 = np.arange(1 << 16, dtype=np.uint16).view(np.float16)


def by_ml_dtypes(values, kind):
    with np.errstate(invalid="ignore"):
        return values.astype(kind).astype(np.float32)


def rounded(values, fmt):
    return quantise(np.asarray(values), parse_format(fmt))


def run(text, fmt=None, keep=False, **inputs):
    bound = bind_arrays(parse(text), inputs)
    return interpret(bound, inputs, fmt and parse_format(fmt), keep=keep)


def codes(fmt):
    """The value of each of the 256 codes."""
    return np.arange(256, dtype=np.uint8).view(FP8[fmt]).astype(np.float64)


def nearest(x, fmt):
    """Round a rational by looking at every number of the format."""
    x = Fraction(x)
    if fmt not in FP8:
        low, high = limits(fmt)
        return min(max(round(x), low), high)  # Python rounds half to even
    top = {"fp8_e4m3": [], "fp8_e5m2": [(65536.0, 0)]}[fmt]
    finite = [(v, code) for code, v in enumerate(codes(fmt)) if np.isfinite(v)] + top
    finite += [(-v, code) for v, code in top]
    best, _ = min(finite, key=lambda each: (abs(Fraction(each[0]) - x), each[1] % 2))
    return best if abs(best) < 65536 else np.copysign(np.inf, best)


def limits(fmt):
    bits = INTEGERS[fmt]
    return (0, 2**bits - 1) if fmt[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


# --- rounding ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", FP8)
def test_each_code_of_fp8_is_its_own_rounding(fmt):
    got = rounded(codes(fmt), fmt)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, codes(fmt))
    np.testing.assert_array_equal(np.signbit(got), np.signbit(codes(fmt)))
    assert np.isnan(codes(fmt)).sum() == {"fp8_e4m3": 2, "fp8_e5m2": 6}[fmt]


def test_fp8_e4m3_of_every_fp16_is_that_of_ml_dtypes_but_saturated():
    want = by_ml_dtypes(ALL_FP16, ml_dtypes.float8_e4m3fn)
    beyond = np.isnan(want) & ~np.isnan(ALL_FP16)  # ml_dtypes does not saturate
    assert np.abs(ALL_FP16[beyond]).min() > 464
    want[beyond] = np.copysign(np.float32(448), ALL_FP16[beyond])
    np.testing.assert_array_equal(rounded(ALL_FP16, "fp8_e4m3"), want)
    np.testing.assert_array_equal(np.signbit(rounded(ALL_FP16, "fp8_e4m3")), np.signbit(want))


def test_fp8_e5m2_of_every_fp16_is_that_of_ml_dtypes():
    want = by_ml_dtypes(ALL_FP16, ml_dtypes.float8_e5m2)
    np.testing.assert_array_equal(rounded(ALL_FP16, "fp8_e5m2"), want)
    assert np.isinf(want[np.isfinite(ALL_FP16)]).any()


def test_bf16_of_every_fp16_is_that_of_ml_dtypes():
    want = by_ml_dtypes(ALL_FP16, ml_dtypes.bfloat16)
    np.testing.assert_array_equal(rounded(ALL_FP16, "bf16"), want)


@pytest.mark.parametrize("fmt", FP8)
def test_fp8_is_rounded_once_from_float64(fmt):
    numbers = np.unique(codes(fmt)[np.isfinite(codes(fmt))])
    middles = (numbers[1:] + numbers[:-1]) / 2
    close = np.concatenate([middles, middles * (1 + 2.0**-45), middles * (1 - 2.0**-45)])
    wanted = [nearest(x, fmt) for x in close]
    np.testing.assert_array_equal(rounded(close, fmt), wanted)
    through = close.astype(np.float32)  # where the small difference is lost
    assert (rounded(through, fmt) != wanted).any()


@pytest.mark.parametrize(
    ("fmt", "value", "want"),
    [
        ("fp8_e4m3", np.inf, 448),
        ("fp8_e4m3", -np.inf, -448),
        ("fp8_e4m3", 1e300, 448),
        ("fp8_e4m3", 464.0, 448),
        ("fp8_e4m3", np.nan, np.nan),
        ("fp8_e4m3", 2.0**-9, 2.0**-9),
        ("fp8_e4m3", 2.0**-10, 0),
        ("fp8_e5m2", 61439.0, 57344),
        ("fp8_e5m2", 61440.0, np.inf),
        ("fp8_e5m2", -1e300, -np.inf),
        ("fp8_e5m2", np.inf, np.inf),
        ("fp8_e5m2", np.nan, np.nan),
        ("fp8_e5m2", 3 * 2.0**-18, 2.0**-16),
        ("int8", 127.5, 127),
        ("int8", -128.5, -128),
        ("int8", np.inf, 127),
        ("int8", -np.inf, -128),
        ("int4", -1e30, -8),
        ("uint8", -0.6, 0),
        ("uint8", 1e30, 255),
        ("uint4", 15.5, 15),
        ("int24", 2.0**40, 2**23 - 1),
        ("int32", 2.0**40, 2**31 - 1),
        ("uint32", 2.0**32 - 0.5, 2**32 - 1),
    ],
)
def test_limits(fmt, value, want):
    np.testing.assert_array_equal(rounded(value, fmt), want)


@pytest.mark.parametrize("fmt", INTEGERS)
def test_integers_round_half_to_even_and_saturate(fmt):
    low, high = limits(fmt)
    edges = [low - 3, low - 1, low, low + 1, -3, 0, 4, high - 1, high, high + 1, high + 3]
    values = [edge + part for edge in edges for part in (-0.5, -0.25, 0, 0.25, 0.5)]
    got = rounded(values, fmt)
    assert got.tolist() == [nearest(x, fmt) for x in values]
    name = "u" * (fmt[0] == "u") + f"int{max(INTEGERS[fmt], 8)}"
    assert got.dtype == np.dtype(name)
    assert rounded(got, fmt).tolist() == got.tolist()


def test_integers_have_no_nan():
    with pytest.raises(DataError) as caught:
        rounded([1.0, np.nan], "int8")
    assert str(caught.value) == (
        "1 of 2 numbers are NaN, which int8 cannot hold\n"
        "fix: replace them, or give the tensor a float format"
    )


@given(st.integers(-(1 << 90), 1 << 90), st.integers(-3, 95))
def test_round_half_even_of_integers_of_any_width(n, shift):
    array = np.array([n], dtype=np.int64 if abs(n) < 1 << 62 else object)
    assert int(round_half_even(array, shift)[0]) == round(Fraction(n) / Fraction(2) ** shift)


def test_bits_in_memory():
    sizes = {"fp8_e4m3": 1, "fp8_e5m2": 1, "int8": 1, "uint4": 0.5, "int4": 0.5, "int32": 4}
    assert {name: parse_format(name).bytes for name in sizes} == sizes


# --- formats of single tensors ----------------------------------------------------------------

EACH = """
cascade each(X[n], C[n]) -> (T[n], Y[n])
  format {tensors} = {fmt}
  T[n] = X[n] * C[n]
  Y[n] = T[n] + X[n]
"""
RUNS = ("fp64", "fp32", "fp16", "bf16", "fp8_e5m2", "fixed<24,12>", "fixed<32,14>")
OWN = ("fp16", "fp8_e4m3", "fp8_e5m2", "int8", "uint8", "int4", "uint4", "int16", "fixed<8,5>")


@pytest.mark.parametrize("fmt", OWN)
@pytest.mark.parametrize("run_in", RUNS)
def test_inputs_intermediates_and_outputs_are_rounded(run_in, fmt):
    """Wherever the format stands, the element is the exact number of its left side, rounded."""
    numbers = np.random.default_rng(1).integers(-80, 80, (2, 64)) / 16.0
    x, c = rounded(rounded(numbers, "fp8_e5m2"), run_in).astype(np.float64)
    for tensors in ("X", "T", "Y", "X, T, Y"):
        own = dict.fromkeys(tensors.split(", "), fmt)
        got = run(EACH.format(tensors=tensors, fmt=fmt), run_in, X=x, C=c)
        xs = rounded(x, own.get("X", run_in)).astype(np.float64)
        ts = rounded(xs * c, own.get("T", run_in)).astype(np.float64)  # products are exact here
        np.testing.assert_array_equal(got["T"], ts)
        np.testing.assert_array_equal(got["Y"], rounded(ts + xs, own.get("Y", run_in)))
        for tensor in ("T", "Y"):
            assert got[tensor].dtype == rounded(0.0, own.get(tensor, run_in)).dtype


@given(st.lists(st.integers(-(2**23), 2**23 - 1), min_size=3, max_size=3), st.sampled_from([*FP8]))
def test_fixed_point_rounds_exact_numbers_to_fp8(numbers, fmt):
    """A product of three has 60 fraction bits: more than a float64 holds."""
    a, b, c = (np.array([n / 2.0**20]) for n in numbers)
    text = "cascade t(A[n], B[n], C[n]) -> Y[n]\n  format Y = {}\n  Y[n] = A[n] * B[n] * C[n]"
    exact = Fraction(numbers[0] * numbers[1] * numbers[2], 1 << 60)
    got = run(text.format(fmt), "fixed<24,4>", A=a, B=b, C=c)["Y"]
    assert got.tolist() == [nearest(exact, fmt)]


def test_fixed_point_does_not_round_to_float64_on_the_way():
    text = "cascade t(A, B) -> Y\n  format Y = fp8_e4m3\n  Y = A + B * B"
    tiny = {"A": np.array(1.0625), "B": np.array(2.0**-30)}  # 1.0625 is half way from 1 to 1.125
    assert run(text, "fixed<32,2>", **tiny)["Y"] == 1.125
    assert run(text, "fp64", **tiny)["Y"] == 1


def test_a_cascade_with_a_fixed_format_reads_back():
    cascade = parse(EACH.format(tensors="X, T", fmt="fixed<8, 5>"))
    assert cascade.formats == (("T", "fixed<8,5>"), ("X", "fixed<8,5>"))
    assert parse(str(cascade)) == cascade


def test_states_keep_the_format_of_their_tensor():
    text = """
cascade counter(X[i]) -> (S[i], T)
  format C = uint4
  init C[0] = 13.5
  C[i + 1] = C[i] + X[i] s.t. X[i] < 3
  S[i] = C[i + 1]
  T = C[I]
"""
    for fmt in ("fp32", "fixed<16,8>"):
        got = run(text, fmt, X=np.array([0.5, -2.5, 9.0, 2.5, 2.0]))
        assert got["S"].tolist() == [14, 12, 12, 14, 15]  # 11.5 and 14.5 are ties, 16 too much
        assert got["T"] == 15


def test_coordinates_are_rounded_only_if_told():
    text = "cascade g(X[n], T[j]) -> Y[j]\n{}  Y[j] = X[T[j]]"
    arrays = {"X": np.arange(20.0), "T": np.array([3.0, 17.0])}
    assert run(text.format(""), "fp32", **arrays)["Y"].tolist() == [3, 17]
    assert run(text.format("  format T = uint4\n"), "fp32", **arrays)["Y"].tolist() == [3, 15]
    selected = "cascade s(X[n]) -> SEL[j]\n{}  shape j = 2\n  SEL[j] = X[n] :: topk[n -> j]"
    got = run(selected.format("  format SEL = uint4\n"), X=np.arange(20.0))["SEL"]
    assert got.tolist() == [15, 15]
    assert got.dtype == np.uint8


def test_an_int8_tensor_does_not_decide_the_format_of_the_run():
    text = "cascade c(X[n], W[n]) -> Y[n]\n  format W = int8\n  Y[n] = X[n] * W[n]"
    arrays = {"X": np.ones(2, np.float16), "W": np.array([1, -3], np.int8)}
    assert run(text, **arrays)["Y"].dtype == np.float16
    assert default_format(arrays).name == "fp32"
    assert default_format(arrays, {"X": "fp16", "W": "int8"}).name == "fp32"


def test_widths_of_exact_values():
    text = """
cascade w(A[k], B[k], C[k]) -> (S, R)
  format A = int8
  format B = uint4
  format R = int32
  S = A[k] * B[k]
  R = A[k] * C[k]
"""
    bound = bind_arrays(parse(text), {name: np.zeros(16) for name in "ABC"})
    fmt = parse_format("fixed<8,4>")
    assert accumulator_bits(bound.cascade.einsum("S"), bound, fmt) == (8 + 5 + 4 + 4, 17)
    assert accumulator_bits(bound.cascade.einsum("R"), bound, fmt) == (36, 32)


# --- errors -----------------------------------------------------------------------------------

SCALE = """
cascade scale(K[m, e]) -> K8[m, e]
  format K8 = int8
  KS[m] = abs(K[m, e]) :: max[e]
  K8[m, e] = K[m, e] / KS[m] * 127{}
"""


def message(function, *args, **kwargs):
    with pytest.raises(DataError) as caught:
        function(*args, **kwargs)
    return f"{caught.value.what}\nfix: {caught.value.fix}"


def test_nan_in_an_integer_tensor_is_an_error_but_where_absent():
    k = np.array([[3.0, -1.5], [0.0, 0.0]])
    assert message(run, SCALE.format(""), K=k) == (
        "K8[m, e]: 2 of 4 numbers are NaN, which int8 cannot hold\n"
        "fix: replace them, or give the tensor a float format"
    )
    assert run(SCALE.format(" s.t. KS[m] > 0"), K=k)["K8"].tolist() == [[127, -64], [0, 0]]


WIDER = """\
tensor T has format {1}, and a run in {0} computes in fp32, which cannot hold all its numbers
fix: run it in fp64, or give T a format of fewer bits"""
NOT_FIXED = """\
tensor T has format {1}, and fixed point cannot hold all its numbers
fix: give T another of the formats, or run it in fp32"""
NO_RUN = """\
a run cannot be in {0}: it has no fractions to compute with
fix: write 'format X = {0}' for each tensor X in the cascade, and run it in fp32 or fixed<W,I>"""


@pytest.mark.parametrize(
    ("run_in", "fmt", "what"),
    [
        ("fp32", "fp64", WIDER),
        ("fp16", "int32", WIDER),
        ("fp8_e4m3", "uint32", WIDER),
        ("bf16", "fixed<26,4>", WIDER),
        ("fixed<16,8>", "bf16", NOT_FIXED),
        ("fixed<16,8>", "fp64", NOT_FIXED),
        ("int8", "fp16", NO_RUN),
    ],
)
def test_formats_that_do_not_go_together(run_in, fmt, what):
    text = EACH.format(tensors="T", fmt=fmt)
    found = message(run, text, run_in, X=np.ones(2), C=np.ones(2))
    assert found == what.format(run_in, fmt)


def test_the_widest_formats_that_go_together():
    for run_in, fmt in (("fp64", "int32"), ("fp64", "fixed<32,2>"), ("fp32", "fixed<25,4>")):
        x = np.array([rounded(1e9, fmt), rounded(-1e9, fmt)], dtype=np.float64)
        got = run(EACH.format(tensors="T", fmt=fmt), run_in, X=x, C=np.ones(2))
        assert got["T"].tolist() == x.tolist()


@pytest.mark.parametrize(("fmt", "value"), [("fp16", 300.0), ("fp8_e5m2", 250.0)])
def test_fixed_point_has_no_infinity(fmt, value):
    text = "cascade t(X[n]) -> Y[n]\n  format Y = {}\n  Y[n] = X[n] * X[n]"
    assert message(run, text.format(fmt), "fixed<24,12>", X=np.array([value, 1.0])) == (
        f"Y[n]: 1 of 2 numbers are NaN or infinite in {fmt}, and fixed point has no such numbers\n"
        "fix: replace or scale them, or run it in fp32"
    )
    assert run(text.format(fmt), "fp32", X=np.array([value]))["Y"].tolist() == [np.inf]
    given = text.replace("Y =", "X =").format("fp8_e4m3")
    assert message(run, given, "fixed<24,12>", X=np.array([np.nan])).startswith(
        "input X[n]: 1 of 1 numbers are NaN or infinite in fp8_e4m3"
    )


def test_every_format_but_integers_is_one_of_a_run():
    for name in ("fp64", "fp32", "fp16", "bf16", "fp8_e4m3", "fp8_e5m2", "fixed<8,4>"):
        assert run_format(parse_format(name)).name == name
    for name in INTEGERS:
        with pytest.raises(DataError, match=f"a run cannot be in {name}"):
            run_format(parse_format(name))


# --- attention with quantised keys and values -------------------------------------------------


def soft(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def attention_loops(q, k, v, visible=lambda p, m: True):
    """Attention in float64, row by row."""
    out = np.zeros((len(q), v.shape[1]))
    for p in range(len(q)):
        keys = [m for m in range(len(k)) if visible(p, m)]
        logits = np.array([sum(q[p] * k[m]) for m in keys]) / np.sqrt(k.shape[1])
        out[p] = sum(w * v[m] for w, m in zip(soft(logits), keys, strict=True))
    return out


INT8 = """
cascade int8_kv(Q[p, e], K[m, e], V[m, f]) -> (O[p, f], K8[m, e], V8[m, f])
  format K8, V8 = int8
  KS[m] = max(abs(K[m, e]), 1e-30) / 127 :: max[e]
  VS[m] = max(abs(V[m, f]), 1e-30) / 127 :: max[f]
  K8[m, e] = K[m, e] / KS[m]
  V8[m, f] = V[m, f] / VS[m]
  KD[m, e] = K8[m, e] * KS[m]
  VD[m, f] = V8[m, f] * VS[m]
  QK[p, m] = Q[p, e] * KD[m, e] / sqrt(E) s.t. m <= p + M - P
  A[p, m] = softmax(QK[p, m]; m)
  O[p, f] = A[p, m] * VD[m, f]
"""


def quantised_rows(x):
    """int8 with a scale for each row, element by element in float32."""
    scales = np.array([max(max(abs(np.float32(each)) for each in row), 1e-30) for row in x])
    scales = scales.astype(np.float32) / np.float32(127)
    codes = [
        [max(-128, min(127, round(float(np.float32(each) / scale)))) for each in row]
        for row, scale in zip(x, scales, strict=True)
    ]
    return np.array(codes), scales.astype(np.float64)


@pytest.mark.parametrize("size", [1.0, 30.0])
def test_int8_keys_and_values_with_a_scale_for_each_token(size):
    rng = np.random.default_rng(3)
    q, k, v = (
        (rng.standard_normal(shape) * size).astype(np.float32)
        for shape in ((5, 16), (9, 16), (9, 8))
    )
    k[4] = 0  # a token of zeros has a scale all the same
    got = run(INT8, Q=q, K=k, V=v)
    (k8, ks), (v8, vs) = quantised_rows(k), quantised_rows(v)
    assert got["K8"].dtype == np.int8
    np.testing.assert_array_equal(got["K8"], k8)
    np.testing.assert_array_equal(got["V8"], v8)
    want = attention_loops(q.astype(float), k8 * ks[:, None], v8 * vs[:, None],
                           lambda p, m: m <= p + 4)  # fmt: skip
    np.testing.assert_allclose(got["O"], want, rtol=1e-3, atol=2e-5 * size**2)
    unquantised = attention_loops(q.astype(float), k.astype(float), v.astype(float),
                                  lambda p, m: m <= p + 4)  # fmt: skip
    assert np.abs(got["O"] - unquantised).max() > 20 * np.abs(got["O"] - want).max()


INT4 = """
cascade int4_kv(Q[p, e], K4[m, e], KS[m, b], V4[m, f], VS[m, b]) -> O[p, f]
  format K4 = int4
  format V4 = uint4
  QK[p, m] = Q[p, e] * K4[m, e] * KS[m, e // 4] / sqrt(E)
  A[p, m] = softmax(QK[p, m]; m)
  O[p, f] = A[p, m] * (V4[m, f] - 8) * VS[m, f // 4]
"""


@pytest.mark.parametrize("fmt", ["fp64", "fixed<32,14>"])
def test_int4_keys_and_uint4_values_with_a_scale_for_each_block(fmt):
    rng = np.random.default_rng(4)
    q, ks, vs = (rng.integers(1, 64, shape) / 64 for shape in ((3, 8), (6, 2), (6, 2)))
    k4, v4 = rng.integers(-8, 8, (6, 8)), rng.integers(0, 16, (6, 8))
    got = run(INT4, fmt, Q=q, K4=k4, KS=ks, V4=v4, VS=vs)["O"]
    want = attention_loops(q, k4 * np.repeat(ks, 4, 1), (v4 - 8) * np.repeat(vs, 4, 1))
    np.testing.assert_allclose(got, want, atol=1e-12 if fmt == "fp64" else 1e-3)


EIGHT = """
cascade fp8(Q[p, e], K[m, e], V[m, f]) -> (O[p, f], K8[m, e])
  format Q8, K8, V8 = fp8_e4m3
  format A = fp8_e5m2
  QS = abs(Q[p, e]) / 448 :: max
  KS = abs(K[m, e]) / 448 :: max
  VS = abs(V[m, f]) / 448 :: max
  Q8[p, e] = Q[p, e] / QS
  K8[m, e] = K[m, e] / KS
  V8[m, f] = V[m, f] / VS
  QK[p, m] = Q8[p, e] * K8[m, e] * (QS * KS) / sqrt(E)
  A[p, m] = softmax(QK[p, m]; m)
  O[p, f] = A[p, m] * V8[m, f] * VS
"""


def test_fp8_attention_with_a_scale_for_each_tensor():
    rng = np.random.default_rng(5)
    q, k, v = (rng.standard_normal(shape) * 5 for shape in ((4, 8), (7, 8), (7, 6)))
    got = run(EIGHT, Q=q, K=k, V=v)
    scales = [np.abs(each).max() / 448 for each in (q, k, v)]
    q8, k8, v8 = (
        np.array([[nearest(float(y), "fp8_e4m3") for y in row] for row in x / scale])
        for x, scale in zip((q, k, v), scales, strict=True)
    )
    np.testing.assert_array_equal(got["K8"], k8)
    assert np.abs(k8).max() == 448
    want = np.zeros((4, 6))
    for p in range(4):
        logits = np.array([sum(q8[p] * k8[m]) for m in range(7)])
        weights = soft(logits * (scales[0] * scales[1] / np.sqrt(8)))
        want[p] = sum(nearest(w, "fp8_e5m2") * v8[m] * scales[2] for m, w in enumerate(weights))
    np.testing.assert_allclose(got["O"], want, rtol=1e-12)


APPEND = """
cascade append(KC[m, e], X[e], NP) -> KX[m, e]
  format KC, KX = int8
  state KC -> KX
  S = abs(X[e]) / 127 :: max
  KX[m, e] = KC[m, e] s.t. m < NP
  KX[m, e] = X[e] / S s.t. m == NP
"""


def test_an_int8_cache_goes_from_call_to_call():
    rng = np.random.default_rng(6)
    cache, want = np.zeros((4, 3), np.int8), np.zeros((4, 3))
    for place in range(3):
        x = rng.standard_normal(3).astype(np.float32)
        cache = run(APPEND, KC=cache, X=x, NP=np.array(place))["KX"]
        want[place] = quantised_rows([x])[0]
        assert cache.dtype == np.int8
        np.testing.assert_array_equal(cache, want)

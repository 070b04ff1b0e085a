"""Rounding to a format, and the fixed-point functions against exact arithmetic."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.interpreter import widths
from penstock.einsum_ir.interpreter.numerics import (
    FIXED_FUNCTIONS,
    accumulator_bits,
    divide_fixed,
    floor_divide_exact,
    quantise,
)
from penstock.einsum_ir.interpreter.rounding import limits, round_fixed, to_fixed
from penstock.einsum_ir.shapes import bind
from penstock.errors import DataError

fixed_formats = st.integers(2, 32).flatmap(
    lambda width: st.integers(1, width).map(lambda i: parse_format(f"fixed<{width},{i}>"))
)
finite = st.floats(allow_nan=False, allow_infinity=True)


def half_up(value, fmt):
    """Return the integer of a format that is nearest to a fraction."""
    low, high = limits(fmt)
    return max(low, min(high, math.floor(value * 2**fmt.fraction_bits + Fraction(1, 2))))


@given(finite, fixed_formats)
def test_fixed_rounds_half_up_and_saturates(value, fmt):
    low, high = limits(fmt)
    edge = high if value > 0 else low
    want = edge if math.isinf(value) else half_up(Fraction(value), fmt)
    assert int(to_fixed(np.array(value), fmt)) == want
    assert quantise(np.array(value), fmt) == want / 2**fmt.fraction_bits


@given(finite, fixed_formats)
def test_quantise_is_idempotent(value, fmt):
    once = quantise(np.array([value]), fmt)
    np.testing.assert_array_equal(quantise(once, fmt), once)


def test_fixed_ties():
    fmt = parse_format("fixed<8,6>")
    values = [0.125, -0.125, 0.375, -0.375, 0.49999999999999994 / 4, 100, -100]
    np.testing.assert_array_equal(
        quantise(np.array(values), fmt), [0.25, 0, 0.5, -0.25, 0, 31.75, -32]
    )


def test_nan_in_fixed():
    with pytest.raises(DataError) as caught:
        quantise(np.array([1.0, np.nan, np.nan]), parse_format("fixed<16,6>"))
    assert str(caught.value) == (
        "2 of 3 numbers are NaN, which fixed<16,6> cannot hold\n"
        "fix: replace them, or run it in fp32"
    )


@given(st.floats(width=64))
def test_bf16_is_the_nearest_even(value):
    got = float(quantise(np.array(value), parse_format("bf16")))
    if math.isnan(value):
        assert math.isnan(got)
        return
    largest = float(np.array(0x7F7F0000, dtype=np.uint32).view(np.float32))
    if math.isinf(value) or abs(value) >= largest + 2.0**119:
        assert got == math.copysign(math.inf, value)
        return
    exponent = max(math.frexp(value)[1] - 8, -133)
    steps = Fraction(value) / Fraction(2) ** exponent
    assert Fraction(got) == round(steps) * Fraction(2) ** exponent  # round: half to even


@pytest.mark.parametrize(
    ("fmt", "dtype"), [("fp64", np.float64), ("fp32", np.float32), ("fp16", np.float16)]
)
def test_floats(fmt, dtype):
    values = np.array([0.1, -1e30, 1e300, np.inf, np.nan, 65519.0])
    with np.errstate(over="ignore"):
        want = values.astype(dtype)
    got = quantise(values, parse_format(fmt))
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, want)


def test_integers_and_booleans():
    assert quantise(np.array([True, False]), parse_format("fp16")).tolist() == [1, 0]
    assert quantise(np.array([3, -500]), parse_format("fixed<8,8>")).tolist() == [3, -128]


EXACT = {
    "exp": math.exp,
    "exp2": lambda x: 2.0**x,
    "log": math.log,
    "log2": math.log2,
    "sqrt": math.sqrt,
    "rsqrt": lambda x: 1 / math.sqrt(x),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)) if x > -700 else 0.0,
    "silu": lambda x: x / (1 + math.exp(-x)) if x > -700 else 0.0,
    "tanh": math.tanh,
}


@pytest.mark.parametrize("op", EXACT)
@pytest.mark.parametrize("fmt", ["fixed<8,3>", "fixed<16,6>", "fixed<16,1>", "fixed<24,8>"])
@pytest.mark.parametrize("fraction", [0, 10, 30, 50])
def test_function_is_within_one_unit(op, fmt, fraction):
    chosen = parse_format(fmt)
    low, high = limits(chosen)
    rng = np.random.default_rng(fraction)
    edge = 40 << fraction
    n = np.concatenate(
        [
            rng.integers(-edge, edge, 150),
            rng.integers(-(1 << fraction), 1 << fraction, 50),
            [0, 1, -1],
        ]
    )
    if op in ("log", "log2", "sqrt", "rsqrt"):
        n = np.maximum(np.abs(n), 1)
    got = FIXED_FUNCTIONS[op](n, fraction, chosen)
    exact = [EXACT[op](math.ldexp(int(each), -fraction)) for each in n]
    scaled = np.clip(np.array(exact) * 2.0**chosen.fraction_bits, low, high)
    assert got.dtype == np.int64
    assert np.abs(got - scaled).max() <= 1


@pytest.mark.parametrize("op", FIXED_FUNCTIONS)
@given(n=st.integers(-(2**40), 2**40), fraction=st.integers(0, 40), fmt=fixed_formats)
@settings(max_examples=60, deadline=None)
def test_function_depends_on_the_value_alone(op, n, fraction, fmt):
    plain = FIXED_FUNCTIONS[op](np.array([n]), fraction, fmt)
    wide = FIXED_FUNCTIONS[op](np.array([n << 60], dtype=object), fraction + 60, fmt)
    low, high = limits(fmt)
    assert plain.tolist() == wide.tolist()
    assert low <= plain[0] <= high


def test_functions_at_their_edges():
    fmt = parse_format("fixed<16,6>")
    low, high = limits(fmt)
    one = 1 << 10
    at = {
        op: FIXED_FUNCTIONS[op](np.array([0, -one, 30000 * one]), 10, fmt).tolist()
        for op in FIXED_FUNCTIONS
    }
    assert at["exp"] == [one, 377, high]
    assert at["exp2"] == [one, one // 2, high]
    assert at["log"] == [*at["log2"][:2], round(math.log(30000) * one)]
    assert at["log2"][:2] == [low, low]
    assert at["sqrt"][:2] == [0, 0]
    assert at["rsqrt"][:2] == [high, high]
    assert at["sigmoid"] == [one // 2, 275, one]
    assert at["tanh"] == [0, -780, one]
    assert at["silu"] == [0, -275, high]


small = st.integers(-(2**70), 2**70)


@given(small, st.integers(0, 60), small, st.integers(0, 60), fixed_formats)
def test_division_is_the_exact_quotient(a, fa, b, fb, fmt):
    low, high = limits(fmt)
    got = int(
        divide_fixed(np.array([a], dtype=object), fa, np.array([b], dtype=object), fb, fmt)[0]
    )
    if b == 0:
        assert got == (high if a > 0 else low if a < 0 else 0)
    else:
        assert got == half_up(Fraction(a, 2**fa) / Fraction(b, 2**fb), fmt)


@given(st.integers(-(2**40), 2**40), st.integers(-(2**20), 2**20), st.integers(0, 30))
def test_floor_division(a, b, fraction):
    got = int(floor_divide_exact(np.array([a]), fraction, np.array([b]), 3)[0])
    assert got == (math.floor(Fraction(a, 2**fraction) / Fraction(b, 8)) if b else 0)


@given(st.integers(-(2**90), 2**90), st.integers(0, 90), fixed_formats)
def test_round_fixed(n, fraction, fmt):
    got = int(round_fixed(np.array([n], dtype=object), fraction, fmt)[0])
    assert got == half_up(Fraction(n, 2**fraction), fmt)


@given(st.integers(0, 2**62), st.integers(0, 40), fixed_formats)
def test_square_roots_are_rounded_exactly(n, fraction, fmt):
    value = Fraction(n, 2**fraction)
    got = int(FIXED_FUNCTIONS["sqrt"](np.array([n]), fraction, fmt)[0])
    scaled = value * 4**fmt.fraction_bits
    want = (math.isqrt(math.floor(4 * scaled)) + 1) // 2
    assert got == min(want, limits(fmt)[1])
    if 0 < got < limits(fmt)[1]:
        assert (got - Fraction(1, 2)) ** 2 <= scaled < (got + Fraction(1, 2)) ** 2


# --- widths -----------------------------------------------------------------------------------

WIDTHS = {
    "Q[p, e] * K[m, e] :: sum[e]": (38, 18),  # 32 bits and 6 more for 64 terms
    "Q[p, e] * K[m, e] * 0.125 :: sum[e]": (42, 19),  # one bit and the sign more, 3 of fraction
    "Q[p, e] * K[m, e] :: max[e]": (32, 12),
    "Q[p, e] + K[m, e] :: mean[e]": (23, 13),
    "exp(Q[p, e] - K[m, e]) :: sum[e]": (22, 12),
    "(p - m) * Q[p, e] * (K[m, e] > 0) :: sum[e]": (28, 18),
    "Q[p, e] / K[m, e] + abs(Q[p, e]) :: min[e]": (18, 8),
    "Q[p, 0] ** 2 * step(K[m, 1])": (34, 14),
    "where(m < p, Q[p, 0], floor(sq(K[m, 0])))": (23, 13),
    "Q[p, 2*e] :: prod[e]": (16 * 64, 6 * 64),
}


@pytest.mark.parametrize("body", WIDTHS)
def test_accumulator_bits(body):
    text = f"cascade w(Q[p, e], K[m, e]) -> S[p, m]\n  S[p, m] = {body}"
    bound = bind(parse(text), shapes={"p": 8, "m": 8, "e": 64})
    got = accumulator_bits(bound.cascade.einsum("S"), bound, parse_format("fixed<16,6>"))
    assert got == WIDTHS[body]


def test_widths_and_functions_agree():
    assert set(FIXED_FUNCTIONS) | {"/"} == widths.FUNCTIONS


def test_accumulator_of_a_float_format():
    bound = bind(parse("cascade f(X[a]) -> O[a]\n  O[a] = X[a]"), shapes={"a": 1})
    with pytest.raises(DataError) as caught:
        accumulator_bits(bound.cascade.einsum("O"), bound, parse_format("fp32"))
    assert str(caught.value) == (
        "O has no accumulator width in fp32\nfix: give a format fixed<W,I>"
    )


def test_accumulator_of_an_operator_without_fixed_point_form():
    bound = bind(parse("cascade f(X[a]) -> O[a]\n  O[a] = sin(X[a])"), shapes={"a": 1})
    with pytest.raises(DataError, match=r"operator 'sin' has no fixed-point form \(fixed<8,4>\)"):
        accumulator_bits(bound.cascade.einsum("O"), bound, parse_format("fixed<8,4>"))


ALGORITHMS = (
    ("fixed<8,4,poly>", "exp", 1.0),
    ("fixed<16,6,poly>", "exp", 1.0),
    ("fixed<24,8,poly>", "exp", 1.5),
    ("fixed<24,2,poly>", "exp2", 1.5),
    ("fixed<16,6,poly>", "sigmoid", 1.0),
    ("fixed<16,6,poly,newton>", "tanh", 1.0),
    ("fixed<8,4,newton>", "/", 0.51),
    ("fixed<24,8,newton>", "/", 0.51),
    ("fixed<32,2,newton>", "/", 4.0),
)


@pytest.mark.parametrize(("name", "op", "units"), ALGORITHMS)
def test_algorithms_that_a_format_chooses_keep_their_stated_error(name, op, units):
    """In units of the last place, of the exact result saturated."""
    fmt, rng = parse_format(name), np.random.default_rng(0)
    one, high = 2.0**fmt.fraction_bits, 2 ** (fmt.bits - 1)
    a = np.append(rng.integers(-high, high, 20_000), [-high, -1, 0, 1, high - 1])
    if op == "/":
        b = np.append(rng.integers(1, high, 20_000), [1, 2, 3, high - 1, high // 2])
        b *= rng.choice([-1, 1], b.shape)
        got, exact = divide_fixed(a, fmt.fraction_bits, b, fmt.fraction_bits, fmt), a / b * one
    else:
        got = FIXED_FUNCTIONS[op](a, fmt.fraction_bits, fmt)
        exact = np.array([EXACT[op](min(x, 30.0)) for x in a / one]) * one
    assert np.max(np.abs(got - np.clip(exact, -high, high - 1))) < units
    assert parse_format(str(fmt)) == fmt


def test_a_polynomial_of_too_few_bits_is_refused():
    with pytest.raises(DataError) as caught:
        parse_format("fixed<32,8,poly>")
    assert str(caught.value) == (
        "format 'fixed<32,8,poly>' has 32 bits, but 'poly' is right to 23 bits only\n"
        "fix: use at most 24 bits, or leave out 'poly': a table is right to 37"
    )

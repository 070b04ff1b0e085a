"""Rounding to a number format, and the integer algorithms of fixed point.

A number of a fixed format is an integer ``n`` (int64) with ``F = fraction_bits``; its value is
``n / 2^F``. Inside an Einsum a value is exact: an integer ``n`` of any width with any number
``f`` of fraction bits (`exact.py`). The functions below take such an ``n`` and ``f`` and return
integers of the format. They depend on the *value* ``n / 2^f`` only, never on ``f`` itself. The
same steps are written in C++ in ``penstock/hls_templates``; ``>>`` is an arithmetic shift (floor)
everywhere, and no intermediate is ever rounded unless a line says so.

Names: W bits, I integer bits (sign included), F = W - I; ``G = min(W + 4, 32)`` fraction bits of
the working precision; ``LOW = -2^(W-1)``, ``HIGH = 2^(W-1) - 1``.

* ``scale(c, s)`` takes a constant c of 40 fraction bits to s: ``(c + 2^(39-s)) >> (40-s)``, s < 40.
* ``round(n, f)``, AP_RND + AP_SAT: f > F: ``(n + 2^(f-F-1)) >> (f-F)``; else ``n << (F-f)``;
  then clamp to LOW .. HIGH.
* ``argument(n, f)``: clamp n to ``-32 * 2^f .. 32 * 2^f - 1``, then to G fraction bits:
  f > G: ``(n + 2^(f-G-1)) >> (f-G)``; else ``n << (G-f)``.
* ``power(y)`` = (m, k), ``2^(y / 2^G) = m / 2^G * 2^k``, ``1 <= m / 2^G < 2``:
  ``k = y >> G``; ``g = y & (2^G - 1)``; ``j = g >> (G-4)``; ``g = g & (2^(G-4) - 1)``;
  ``p = c[4]``; for i in 3, 2, 1, 0: ``p = c[i] + ((p * g) >> G)``; ``m = (t[j] * p) >> G``,
  with ``c[i] = scale(POLYNOMIAL[i], G)``, ``t[j] = scale(ROOTS[j], G)``.
* ``shifted(m, k)``: ``s = min(G - F - k, 62)``; k > I - 2: HIGH; else
  ``min((m + 2^(s-1)) >> s, HIGH)``. Here s >= 2 always.
* ``exp2``: ``shifted(power(argument(n, f)))``.
* ``exp``: ``t = argument(n, f)``; ``y = (t * scale(LOG2_E, G + 4)) >> (G + 4)``;
  ``shifted(power(y))``.
* ``decay(n, f)`` = E, about ``2^G * e^(n/2^f)`` for n <= 0: t, y, (m, k) as in ``exp``;
  ``E = m >> min(-k, 62)`` (k <= 0).
* ``sigmoid``: ``E = decay(-|n|, f)``; ``num = 2^G`` if n >= 0 else E; ``den = 2^G + E``;
  ``min((num * 2^(F+1) + den) // (2 * den), HIGH)``.
* ``silu``: num, den of sigmoid; the quotient ``n*num / (den * 2^f)`` as in ``/`` below.
* ``tanh``: ``E = decay(-2|n|, f)``; ``num = 2^G - E``; ``den = 2^G + E``; the magnitude as in
  sigmoid, then the sign of n.
* ``log2``: n <= 0: LOW. ``b`` = bit length of n; ``k = b - 1 - f``; ``m = n << (31-b)`` or
  ``n >> (b-31)`` (31 bits); ``v = k``; G times: ``m = (m*m) >> 30; bit = m >> 31;
  v = 2*v + bit; m = m >> bit``; ``round(v, G)``.
* ``log``: n <= 0: LOW; v as in log2; ``w = (v * scale(LN_2, G+4)) >> (G+4)``; ``round(w, G)``.
* ``/`` is the exact quotient rounded half up, then clamped: with ``s = F + fb - fa``,
  ``num = a << max(s,0)``, ``den = b << max(-s,0)``, both negated if den < 0:
  ``floor((2*num + den) / (2*den))``. x/0 is HIGH for x > 0, LOW for x < 0; 0/0 is 0.
* ``sqrt`` is exact, rounded half up: ``(isqrt(floor(n * 2^(2F-f+2))) + 1) >> 1``, clamped; 0 for
  n <= 0.
* ``rsqrt`` too: ``(isqrt(floor(2^(2F+f+2) / n)) + 1) >> 1``, clamped; HIGH for n <= 0.

With ``poly`` (W <= 24) ``power`` is ``p = d[5]``; for i in 4 .. 0:
``p = d[i] + ((p * g) >> G)``, g all G fraction bits of y, ``d[i] = scale(DEGREE_5[i], G)``;
``m = p``, which may lie outside of 1 .. 2 by 2^-23. With ``newton`` a quotient num / den is:
``L`` = bit length of den; d = den shifted to 30 bits; ``x = NEWTON[0] - ((NEWTON[1] * d) >> 30)``;
three times ``x = (x * (2^31 - ((d * x) >> 30))) >> 30``; ``(2*num*x + 2^(30+L)) >> (31+L)``.

Widths: all but ``/ sqrt rsqrt silu`` need at most 64 signed bits for W <= 24, and 80 for W = 32
(``t * scale(LOG2_E, G+4)``, here done in halves). Here Python integers take over where 62 bits do
not suffice, so that no result depends on the width of a machine word.

The error of exp, exp2, sigmoid, tanh is below 1 unit in the last place for W <= 24, and below 4
for W = 32; with ``poly`` below 1.5 units. A quotient with ``newton`` is off by less than 0.51 units
for W <= 24, and 4 for W = 32. `sin cos erf gelu softplus` and a general ``**`` have no fixed-point
form.

`quantise` (`rounding.py`) and `accumulator_bits` (`widths.py`) are to be had from here too.

Excluded on purpose: Einsums and tensors (`evaluate.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.interpreter.rounding import (
    WORD,
    Array,
    as_wide,
    clamped,
    limits,
    needs_bits,
    quantise,
    round_fixed,
    round_half_up,
    shifted_left,
)
from penstock.einsum_ir.interpreter.widths import accumulator_bits

__all__ = [
    "FIXED_FUNCTIONS",
    "accumulator_bits",
    "divide_fixed",
    "floor_divide_exact",
    "quantise",
    "working_bits",
]

POLYNOMIAL = (1099511627779, 762123382562, 264132122169, 61014690034, 10807023770)
"""2^g for 0 <= g < 1/16, by powers of g; 40 fraction bits; relative error 2^-38.5."""

ROOTS = (
    *(1099511627776, 1148191166361, 1199025932245, 1252111345494),
    *(1307547050779, 1365437104419, 1425890169699, 1489019720837),
    *(1554944255988, 1623787519664, 1695678735018, 1770752846399),
    *(1849150772653, 1931019671637, 2016513216442, 2105791883849),
)
"""2^(j/16) for j = 0 .. 15; 40 fraction bits."""

DEGREE_5 = (
    *(1099511545383, 762129863810, 264051694415),
    *(61381685769, 9883884035, 2064417354),
)
"""2^g for 0 <= g < 1, by powers of g; 40 fraction bits; relative error 2^-23.6 (minimax)."""

LOG2_E = 1586259972792
"""log2(e); 40 fraction bits."""

LN_2 = 762123384786
"""ln(2); 40 fraction bits."""


def floor_divide_exact(a: Array, a_fraction: int, b: Array, b_fraction: int) -> Array:
    """Return ``floor(a / b)`` of exact values, 0 where b is 0."""
    shift = b_fraction - a_fraction
    num, den = shifted_left(a, max(shift, 0)), shifted_left(b, max(-shift, 0))
    safe = np.where(den == 0, 1, den)
    return np.asarray(np.where(den == 0, 0, num // safe))


NEWTON = (3031741621, 2021161080)
"""48/17 and 32/17 with 30 fraction bits: 48/17 - 32/17 d is 1/d within 1/17 for 1/2 <= d < 1."""


def _newton_quotient(num: Array, den: Array) -> Array:
    """Return ``num / den`` for den > 0 by a reciprocal, rounded half up; see the docstring."""
    length = _bit_length(den)
    up, down = np.maximum(30 - length, 0), np.maximum(length - 30, 0)
    d = ((den << up) >> down).astype(np.int64)
    x = NEWTON[0] - ((NEWTON[1] * d) >> 30)
    for _ in range(3):
        x = (x * ((2 << 30) - ((d * x) >> 30))) >> 30
    bits = max(needs_bits(num) + 34, int(np.max(length, initial=0)) + 34)
    wide = as_wide(num, bits)
    if wide.dtype == object:
        x, length = x.astype(object), length.astype(object)
    return np.asarray((2 * wide * x + (1 << (30 + length))) >> (31 + length))


def _quotient(num: Array, den: Array, fmt: Format) -> Array:
    """Return ``floor(num / den + 1/2)`` for den > 0, or near it where the format says so."""
    if "newton" in fmt.algorithms:
        return _newton_quotient(num, den)
    bits = max(needs_bits(num), needs_bits(den)) + 2
    num, den = as_wide(num, bits), as_wide(den, bits)
    return np.asarray((2 * num + den) // (2 * den))


def divide_fixed(a: Array, a_fraction: int, b: Array, b_fraction: int, fmt: Format) -> Array:
    """Return ``a / b`` of exact values in the format; see ``/`` in the module docstring."""
    low, high = limits(fmt)
    shift = fmt.fraction_bits + b_fraction - a_fraction
    num, den = shifted_left(a, max(shift, 0)), shifted_left(b, max(-shift, 0))
    sign = np.where(den < 0, -1, 1)
    zero = den == 0
    result = clamped(_quotient(num * sign, np.where(zero, 1, den * sign), fmt), fmt)
    limit = np.where(num > 0, high, np.where(num < 0, low, 0))
    return np.where(zero, limit, result).astype(np.int64)


def _times(integers: Array, constant: int, shift: int) -> Array:
    """Return ``floor(n * constant / 2^shift)`` with int64 products, in two halves."""
    half = shift // 2
    upper, lower = constant >> half, constant & ((1 << half) - 1)
    return np.asarray((integers * upper + ((integers * lower) >> half)) >> (shift - half))


def _isqrt(integers: Array) -> Array:
    """Return floor(sqrt(n)) for n >= 0, exactly."""
    if integers.dtype == object or needs_bits(integers) > WORD - 2:
        roots = [math.isqrt(int(each)) for each in integers.ravel()]
        return np.array(roots, dtype=object).reshape(integers.shape)
    root = np.floor(np.sqrt(integers.astype(np.float64))).astype(np.int64)
    root -= root * root > integers
    root += (root + 1) * (root + 1) <= integers
    return np.asarray(root)


def _bit_length(integers: Array) -> Array:
    """Return the bit length of each integer >= 0."""
    if integers.dtype == object:
        lengths = [int(each).bit_length() for each in integers.ravel()]
        return np.array(lengths, dtype=np.int64).reshape(integers.shape)
    length = np.zeros(integers.shape, dtype=np.int64)
    rest = integers.copy()
    for step in (32, 16, 8, 4, 2, 1):
        large = rest >> step > 0
        length += np.where(large, step, 0)
        rest = np.where(large, rest >> step, rest)
    return np.asarray(length + (rest > 0))


# --- functions of fixed point -----------------------------------------------------------------


def working_bits(fmt: Format) -> int:
    """Return G, the fraction bits that the functions work with."""
    return min(fmt.bits + 4, 32)


def scale(constant: int, bits: int) -> int:
    """Take a constant of 40 fraction bits to fewer, rounded half up."""
    return (constant + (1 << (39 - bits))) >> (40 - bits)


def _argument(n: Array, fraction: int, bits: int) -> Array:
    bound = 32 << fraction
    inside = n.dtype != object and fraction + 5 > WORD  # int64 cannot exceed the bound
    clamped = n if inside else np.asarray(np.clip(n, -bound, bound - 1))
    return round_half_up(clamped, fraction - bits).astype(np.int64)


def _power(y: Array, fmt: Format) -> tuple[Array, Array]:
    """Return (m, k): 2^(y / 2^bits) is m / 2^bits * 2^k."""
    bits = working_bits(fmt)
    part = y & ((1 << bits) - 1)
    if "poly" in fmt.algorithms:
        p = np.full_like(part, scale(DEGREE_5[5], bits))
        for constant in reversed(DEGREE_5[:5]):
            p = scale(constant, bits) + ((p * part) >> bits)
        return p, y >> bits
    root = np.array([scale(each, bits) for each in ROOTS], dtype=np.int64)[part >> (bits - 4)]
    rest = part & ((1 << (bits - 4)) - 1)
    p = np.full_like(rest, scale(POLYNOMIAL[4], bits))
    for constant in reversed(POLYNOMIAL[:4]):
        p = scale(constant, bits) + ((p * rest) >> bits)
    # Both factors have up to 33 bits: split one, so that each product fits into 62.
    half = bits // 2
    product = root * (p >> half) + ((root * (p & ((1 << half) - 1))) >> half)
    return product >> (bits - half), y >> bits


def _natural_power(n: Array, fraction: int, fmt: Format) -> tuple[Array, Array]:
    bits = working_bits(fmt)
    y = _times(_argument(n, fraction, bits), scale(LOG2_E, bits + 4), bits + 4)
    return _power(y, fmt)


def _shifted(m: Array, k: Array, fmt: Format) -> Array:
    _, high = limits(fmt)
    shift = np.clip(working_bits(fmt) - fmt.fraction_bits - k, 1, WORD)
    rounded = (m + (np.int64(1) << (shift - 1))) >> shift
    return np.where(k > fmt.integer_bits - 2, high, np.minimum(rounded, high))


def _exp(n: Array, fraction: int, fmt: Format) -> Array:
    return _shifted(*_natural_power(n, fraction, fmt), fmt)


def _exp2(n: Array, fraction: int, fmt: Format) -> Array:
    bits = working_bits(fmt)
    return _shifted(*_power(_argument(n, fraction, bits), fmt), fmt)


def _decay(n: Array, fraction: int, fmt: Format) -> Array:
    m, k = _natural_power(n, fraction, fmt)
    return m >> np.minimum(-k, WORD)


def _logistic(n: Array, fraction: int, fmt: Format) -> tuple[Array, Array]:
    """Return numerator and denominator of sigmoid."""
    one = 1 << working_bits(fmt)
    decay = _decay(-np.abs(n), fraction, fmt)
    return np.where(n >= 0, one, decay), one + decay


def _sigmoid(n: Array, fraction: int, fmt: Format) -> Array:
    num, den = _logistic(n, fraction, fmt)
    return clamped(_quotient(shifted_left(num, fmt.fraction_bits), den, fmt), fmt)


def _silu(n: Array, fraction: int, fmt: Format) -> Array:
    num, den = _logistic(n, fraction, fmt)
    wide = needs_bits(n) + needs_bits(num)
    return divide_fixed(as_wide(n, wide) * num, fraction, den, 0, fmt)


def _tanh(n: Array, fraction: int, fmt: Format) -> Array:
    one = 1 << working_bits(fmt)
    decay = _decay(-np.abs(shifted_left(n, 1)), fraction, fmt)
    size = clamped(_quotient(shifted_left(one - decay, fmt.fraction_bits), one + decay, fmt), fmt)
    return np.where(n < 0, -size, size)


def _binary_log(n: Array, fraction: int, bits: int) -> Array:
    """Return log2(n / 2^fraction) with `bits` fraction bits; n > 0."""
    length = _bit_length(n)
    m = ((n << np.maximum(31 - length, 0)) >> np.maximum(length - 31, 0)).astype(np.int64)
    value = length - 1 - fraction
    for _ in range(bits):
        m = (m * m) >> 30
        bit = m >> 31
        value = 2 * value + bit
        m = m >> bit
    return value


def _log2(n: Array, fraction: int, fmt: Format) -> Array:
    bits = working_bits(fmt)
    value = _binary_log(np.where(n > 0, n, 1), fraction, bits)
    return np.where(n > 0, round_fixed(value, bits, fmt), limits(fmt)[0])


def _log(n: Array, fraction: int, fmt: Format) -> Array:
    bits = working_bits(fmt)
    value = _binary_log(np.where(n > 0, n, 1), fraction, bits)
    value = _times(value, scale(LN_2, bits + 4), bits + 4)
    return np.where(n > 0, round_fixed(value, bits, fmt), limits(fmt)[0])


def _sqrt(n: Array, fraction: int, fmt: Format) -> Array:
    shift = 2 * fmt.fraction_bits - fraction + 2
    positive = np.where(n > 0, n, 0)
    scaled = shifted_left(positive, shift) if shift >= 0 else positive >> -shift
    return clamped((_isqrt(scaled) + 1) >> 1, fmt)


def _rsqrt(n: Array, fraction: int, fmt: Format) -> Array:
    power = 2 * fmt.fraction_bits + fraction + 2
    positive = np.where(n > 0, n, 1)
    bits = max(power, needs_bits(positive))
    one = np.array(1 << power, dtype=np.int64 if bits <= WORD else object)
    root = clamped((_isqrt(np.asarray(one // as_wide(positive, bits))) + 1) >> 1, fmt)
    return np.where(n > 0, root, limits(fmt)[1])


FIXED_FUNCTIONS: dict[str, Callable[[Array, int, Format], Array]] = {
    "exp": _exp,
    "exp2": _exp2,
    "log": _log,
    "log2": _log2,
    "sqrt": _sqrt,
    "rsqrt": _rsqrt,
    "sigmoid": _sigmoid,
    "silu": _silu,
    "tanh": _tanh,
}
"""Operator → function of (n, fraction, format), elements n of any shape, to format integers."""

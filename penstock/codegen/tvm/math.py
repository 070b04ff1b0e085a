"""Functions that TVM lacks or does slowly, as Python functions that build TVM expressions.

They are kept as text, because a schedule file carries them (`cpu.artifact`) and the text that
runs here must be the text in the file. ``T`` is ``tvm.script.tirx``, ``tirx`` is ``tvm.tirx``.

``p_exp`` and ``p_exp2`` in float32 are a polynomial of degree 6 after reduction to
[-ln2/2, ln2/2]: within 1 ulp; results below 1.7e-38 are 0 (subnormals and a little above), -inf
gives 0, anything above 88.73 gives +inf, NaN stays NaN. It vectorises; a call of libm does not, and
is seven times slower.

Excluded on purpose: fp64 forms (libm's are used), operators that are one TVM call.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from penstock.codegen.tvm.env import require_tvm

__all__ = ["CPU_MATH", "CUDA_MATH", "MATH_NAMES", "functions", "needed"]

_COMMON = '''
def _let(value, body):
    """Return body(x) where x is the value, computed once."""
    name = tirx.Var("x", str(value.ty))
    return tirx.Let(name, value, body(name))


def _like(x, number):
    return tirx.const(number, str(x.ty))

'''

_CPU_EXP = '''
def _power(r, t):
    """e**r * 2**n for abs(r) < 0.35, where t holds n + 126 in its low bits: 0 if n is -126."""
    p = T.float32(2.7629081e-3)
    for c in (1.6737491e-2, 8.3336778e-2, 3.3333042e-1, 0.99999988, 2.0, 2.0):
        p = T.fma(p, r, T.float32(c))
    return p * T.reinterpret("float32", T.reinterpret("int32", t) << 23)


def _clamped(x, low, high):
    low, high = T.float32(low), T.float32(high)
    return T.Select(x < low, low, T.Select(high < x, high, x))


def p_exp(x):
    """exp; float32 by a polynomial, NaN and infinities as in libm."""
    if str(x.ty) != "float32":
        return T.exp(x)

    def reduced(x, t):
        n = t - T.float32(12583038)
        r = T.fma(n, T.float32(-1.42860677e-6), T.fma(n, T.float32(-0.693145752), x))
        return _let(r, lambda r: _power(r, t))

    def rounded(x):
        t = T.fma(x, T.float32(1.4426950408889634), T.float32(12583038))
        return _let(t, lambda t: reduced(x, t))

    return _let(x, lambda x: _let(_clamped(x, -87.6, 89), rounded))


def p_exp2(x):
    """2**x; float32 by the polynomial of p_exp."""
    if str(x.ty) != "float32":
        return T.exp2(x)

    def reduced(x, t):
        r = (x - (t - T.float32(12583038))) * T.float32(0.6931471805599453)
        return _let(r, lambda r: _power(r, t))

    def rounded(x):
        return _let(x + T.float32(12583038), lambda t: reduced(x, t))

    return _let(x, lambda x: _let(_clamped(x, -126, 128.4), rounded))


p_log, p_log2, p_sin, p_cos = T.log, T.log2, T.sin, T.cos


def p_from_bf16(bits):
    """The float32 whose upper half is `bits` (uint16)."""
    return T.reinterpret("float32", T.cast(bits, "uint32") << T.uint32(16))


def p_to_bf16(x):
    """The upper half of a float32, rounded to nearest even; NaN stays NaN."""

    def rounded(x, bits):
        up = bits + T.uint32(0x7FFF) + ((bits >> T.uint32(16)) & T.uint32(1))
        quiet = bits | T.uint32(0x400000)
        return T.cast(T.Select(x != x, quiet, up) >> T.uint32(16), "uint16")

    return _let(x, lambda x: _let(T.reinterpret("uint32", x), lambda bits: rounded(x, bits)))
'''

_PAIRS = '''
p_dot2_code = """
define i32 @penstock_dot2(ptr %at, ptr %first, i32 %word) alwaysinline {
  %s = load <16 x float>, ptr %at, align 4
  %a = load <32 x bfloat>, ptr %first, align 4
  %one = insertelement <16 x i32> poison, i32 %word, i32 0
  %all = shufflevector <16 x i32> %one, <16 x i32> poison, <16 x i32> zeroinitializer
  %b = bitcast <16 x i32> %all to <32 x bfloat>
  %r = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(
      <16 x float> %s, <32 x bfloat> %a, <32 x bfloat> %b)
  store <16 x float> %r, ptr %at, align 4
  ret i32 0
}
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
"""

def p_dot2(total, first, second):
    """Add to 16 numbers the products of 16 pairs of bf16 numbers and one: AVX-512's vdpbf16ps."""
    at = T.address_of(total), T.address_of(first)
    return T.evaluate(T.call_extern("int32", "penstock_dot2", *at, second))


def p_pair(first, second):
    """Two bf16 numbers (uint16) in one word."""
    return T.cast(first, "uint32") | (T.cast(second, "uint32") << T.uint32(16))


def p_half(pair, which):
    """The float32 that is the first (0) or second (1) number of a word."""
    kept = pair >> T.cast(which * 16, "uint32")
    return T.reinterpret("float32", kept << T.uint32(16))
'''

_CUDA_EXP = '''
def _precise(name):
    """TVM's own choice for float32 is the fast, inexact intrinsic."""

    def call(x):
        short = name + "f" if str(x.ty) == "float32" else name
        return T.call_pure_extern(str(x.ty), short, x)

    return call


p_exp, p_exp2, p_log, p_log2 = (_precise(each) for each in ("exp", "exp2", "log", "log2"))
p_sin, p_cos = _precise("sin"), _precise("cos")
'''

_DERIVED = '''

def p_select(condition, then, other):
    """Choose; sides are computed before, so that the condition says nothing of their indices."""
    return _let(then, lambda then: _let(other, lambda other: T.Select(condition, then, other)))


def p_sq(x):
    return _let(x, lambda x: x * x)


def p_rsqrt(x):
    return _like(x, 1) / T.sqrt(x)


def p_sigmoid(x):
    return _like(x, 1) / (_like(x, 1) + p_exp(-x))


def p_silu(x):
    return _let(x, lambda x: x * p_sigmoid(x))


def p_gelu(x):
    def body(x):
        return x * _like(x, 0.5) * (_like(x, 1) + T.erf(x * _like(x, 0.7071067811865476)))

    return _let(x, body)


def p_tanh(x):
    def large(t):
        return (_like(t, 1) - t) / (_like(t, 1) + t)

    def small(z, s):
        p = _like(z, -1382 / 155925)
        for c in (62 / 2835, -17 / 315, 2 / 15, -1 / 3, 1):
            p = _like(z, c) + s * p
        return z * p

    def magnitude(z):
        near = _let(z * z, lambda s: small(z, s))
        far = _let(p_exp(z * _like(z, -2)), large)
        return T.Select(z < _like(z, 0.25), near, far)

    def signed(x):
        size = _let(T.Select(x < _like(x, 0), -x, x), magnitude)
        return _let(size, lambda size: T.Select(x < _like(x, 0), -size, size))

    return T.tanh(x) if str(x.ty) == "float64" else _let(x, signed)


def p_softplus(x):
    """max(x, 0) + log(1 + exp(-abs(x))), exact where the sum rounds to 1."""

    def log1p(u, w):
        one = _like(u, 1)
        return T.Select(w == one, u, p_log(w) * (u / T.Select(w == one, one, w - one)))

    def tail(u):
        return _let(_like(u, 1) + u, lambda w: log1p(u, w))

    def body(x):
        return T.max(x, _like(x, 0)) + _let(p_exp(-T.abs(x)), tail)

    return _let(x, body)


def p_sign(x):
    def body(x):
        zero, one = _like(x, 0), _like(x, 1)
        return T.Select(zero < x, one, T.Select(x < zero, -one, x))

    return _let(x, body)


def p_step(x):
    return T.Select(x >= _like(x, 0), _like(x, 1), _like(x, 0))


def p_relu(x):
    return T.max(x, _like(x, 0))


def p_round(x):
    """Half up."""

    def body(x, low):
        return T.Select(x - low >= _like(x, 0.5), low + _like(x, 1), low)

    return _let(x, lambda x: _let(T.floor(x), lambda low: body(x, low)))
'''

_ROUNDING = '''

def p_to_int(x, low, high):
    """Half to even, saturated; NaN becomes `low`."""

    def body(x):
        inside = T.Select(x <= _like(x, high), x, _like(x, high))
        return T.nearbyint(T.Select(x >= _like(x, low), inside, _like(x, low)))

    return _let(x, body)


def p_to_fixed(x, places, low, high):
    """Half up to a multiple of 2**-places, saturated; NaN becomes the lowest."""

    def body(x):
        inside = T.Select(x < _like(x, high), p_round(x), _like(x, high))
        return T.Select(x >= _like(x, low), inside, _like(x, low)) * _like(x, 2.0**-places)

    return _let(x * _like(x, 2.0**places), body)


def p_to_float(x, places, smallest, largest, beyond):
    """Half to even, to a float of so many fraction bits, least exponent, and largest number."""
    bits, exponent = ("int64", 0x7FF << 52) if str(x.ty) == "float64" else ("int32", 0xFF << 23)

    def magnitude(size):
        power = T.reinterpret(str(x.ty), T.reinterpret(bits, size) & tirx.const(exponent, bits))
        step = T.max(power, _like(x, 2.0**smallest)) * _like(x, 2.0**-places)
        rounded = _let(step, lambda step: T.nearbyint(size / step) * step)
        return _let(rounded, lambda r: T.Select(r > _like(x, largest), beyond, r))

    def body(x):
        size, most = T.abs(x), _like(x, 2 * largest)
        made = _let(T.Select(size > most, most, size), magnitude)
        return _let(made, lambda made: T.Select(x < _like(x, 0), -made, made))

    return _let(x, body)
'''

CPU_MATH = _COMMON + _CPU_EXP + _PAIRS + _DERIVED + _ROUNDING
"""For LLVM: expressions that vectorise."""

CUDA_MATH = _COMMON + _CUDA_EXP + _DERIVED + _ROUNDING
"""For CUDA: the accurate functions of its library."""

MATH_NAMES = frozenset((
    "exp", "exp2", "log", "log2", "sin", "cos", "sq", "rsqrt", "sigmoid", "silu", "gelu", "tanh",
    "softplus", "sign", "step", "relu", "round",
))  # fmt: skip
"""Operators that are printed as ``p_<operator>``."""


def needed(source: str, text: str) -> str:
    """Return the functions of a source above that a schedule calls, and those that they call."""
    parts = re.split(r"\n{3,}", source.strip("\n"))
    used, wanted = _words(text), set[str]()
    while new := {each for each in parts if _defined(each) & used} - wanted:
        wanted |= new
        used |= set[str]().union(*(_words(each) for each in new))
    return "\n\n\n".join(each for each in parts if each in wanted)


def _defined(part: str) -> set[str]:
    """Return the names that a definition, or a line of assignments, defines."""
    head = part.split("(", 1)[0] if part.startswith("def ") else part.split("=", 1)[0]
    return _words(head) - {"def"}


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


@cache
def functions(source: str) -> dict[str, Any]:
    """Return the functions that a text above defines, by name."""
    tvm = require_tvm()
    names: dict[str, Any] = {"T": tvm.script.tirx, "tirx": tvm.tirx}
    exec(compile(source, "<penstock.codegen.tvm.math>", "exec"), names)
    return {name: each for name, each in names.items() if name.startswith("p_")}

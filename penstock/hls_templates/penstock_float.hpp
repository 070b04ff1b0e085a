// Floating point: the functions of the language on float and double.
// C++14; compiles with plain g++ and is synthesizable. No placeholders: this file is fixed.
#ifndef PENSTOCK_FLOAT_HPP
#define PENSTOCK_FLOAT_HPP

#include <cmath>
#include <cstdint>

#include "penstock_math.hpp"

namespace pk {

template <class R>
R value(R x) { return x; }
inline int index(float x) { return static_cast<int>(std::floor(x)); }
inline int index(double x) { return static_cast<int>(std::floor(x)); }

template <class R>
R highest() { return R(INFINITY); }
template <class R>
R lowest() { return -R(INFINITY); }

template <class R>
R div(R a, R b) { return a / b; }
// floor(a / b) and its remainder, with NumPy's treatment of rounding and of zero.
template <class R>
R mod(R a, R b) {
  const R rest = std::fmod(a, b);
  if (rest == 0) return std::copysign(R(0), b);
  return (b < 0) != (rest < 0) ? rest + b : rest;
}
template <class R>
R floordiv(R a, R b) {
  if (b == 0) return a / b;
  const R rest = std::fmod(a, b);
  const R quotient = (a - rest) / b - ((rest != 0 && (b < 0) != (rest < 0)) ? R(1) : R(0));
  if (quotient == 0) return std::copysign(R(0), a / b);
  const R whole = std::floor(quotient);
  return quotient - whole > R(0.5) ? whole + R(1) : whole;
}
template <class R>
R pow(R a, R b) { return std::pow(a, b); }

template <class R>
R exp(R x) { return std::exp(x); }
template <class R>
R exp2(R x) { return std::exp2(x); }
template <class R>
R log(R x) { return std::log(x); }
template <class R>
R log2(R x) { return std::log2(x); }
template <class R>
R sqrt(R x) { return std::sqrt(x); }
template <class R>
R rsqrt(R x) { return R(1) / std::sqrt(x); }
template <class R>
R sq(R x) { return x * x; }
template <class R>
R sin(R x) { return std::sin(x); }
template <class R>
R cos(R x) { return std::cos(x); }
template <class R>
R tanh(R x) { return std::tanh(x); }
template <class R>
R erf(R x) { return std::erf(x); }
template <class R>
R sigmoid(R x) {  // never overflows: the exponent is not positive
  const R tail = std::exp(x < 0 ? x : -x);
  return (x < 0 ? tail : R(1)) / (R(1) + tail);
}
template <class R>
R relu(R x) { return pk::max(x, R(0)); }
template <class R>
R silu(R x) { return x * sigmoid(x); }
template <class R>
R gelu(R x) { return x * R(0.5) * (R(1) + std::erf(x * R(0.70710678118654752440))); }
template <class R>
R softplus(R x) { return pk::max(x, R(0)) + std::log1p(std::exp(x < 0 ? x : -x)); }
template <class R>
R step(R x) { return x >= 0 ? R(1) : R(0); }
template <class R>
R sign(R x) { return x > 0 ? R(1) : x < 0 ? R(-1) : x; }
template <class R>
R floor(R x) { return std::floor(x); }
template <class R>
R round(R x) {  // half up
  const R whole = std::floor(x);
  return x - whole >= R(0.5) ? whole + R(1) : whole;
}

// --- numbers n / 2^F with n of W bits, held as n and computed with as C ---
// Rounded half up, or half to even; saturated; NaN becomes the lowest.

template <class C, class N, int W, int F, bool to_even>
struct scaled {
  N n;
  scaled() : n(0) {}
  scaled(C x) : n(rounded(x)) {}
  operator C() const { return C(n) * (C(1) / step()); }

 private:
  static C step() { return C(static_cast<unsigned long long>(1) << F); }
  static N rounded(C x) {
    const bool minus = N(-1) < N(0);
    const C end = C(static_cast<unsigned long long>(1) << (minus ? W - 1 : W));
    const C y = x * step();
    if (!(y > (minus ? -end : C(0)))) return minus ? N(-end) : N(0);
    if (y >= end - C(1)) return N(end - C(1));
    const C whole = to_even ? C(std::rint(y)) : pk::round<C>(y);
    return N(whole);
  }
};

// In a file: n, 32 bits.
template <class C, class N, int W, int F, bool to_even>
struct storage<scaled<C, N, W, F, to_even> > {
  typedef int raw;
  static raw get(const scaled<C, N, W, F, to_even>& x) { return raw(x.n); }
  static scaled<C, N, W, F, to_even> set(raw bits) {
    scaled<C, N, W, F, to_even> x;
    x.n = N(bits);
    return x;
  }
};

}  // namespace pk

#endif

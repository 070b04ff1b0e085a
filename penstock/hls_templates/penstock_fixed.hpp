// Fixed point: functions of exact ap_fixed values, as integer algorithms.
// C++14; compiles with plain g++ and is synthesizable. No placeholders: this file is fixed.
//
// `+ - *` of ap_fixed are exact (the result type grows). Every function below takes its argument
// exactly and returns R, a number of the format: rounded half up, saturated. The steps are those
// of penstock/einsum_ir/interpreter/numerics.py, bit for bit; the names are the same: W bits, I integer bits,
// F fraction bits, G fraction bits of the working precision.
#ifndef PENSTOCK_FIXED_HPP
#define PENSTOCK_FIXED_HPP

#ifndef AP_INT_MAX_W
#define AP_INT_MAX_W 4096  // bits; exact products can be wide
#endif
// The open vendor headers read members before they set them; g++ sees that after inlining.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <ap_fixed.h>
#include <ap_int.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#include "penstock_math.hpp"

namespace pk {

// An integer of at least N bits, sign included: exactly N in hardware, a machine word in a
// simulation where that suffices. (PK_EXACT_WIDTHS: exactly N in a simulation too, for tests.)
template <int N, bool word = (N <= 64)>
struct int_of {
  typedef int64 type;
};
template <int N>
struct int_of<N, false> {
  typedef ap_int<N> type;
};
#if defined(__SYNTHESIS__) || defined(PK_EXACT_WIDTHS)
template <int N>
using bits_t = ap_int<N>;
#else
template <int N>
using bits_t = typename int_of<N>::type;
#endif

constexpr int larger(int a, int b) { return a > b ? a : b; }
constexpr int smaller(int a, int b) { return a < b ? a : b; }

// --- every number as a fixed-point one ---

template <int W, int I, bool S, ap_q_mode Q, ap_o_mode O, int N>
ap_fixed<W + !S, I + !S> fixed_of(const ap_fixed_base<W, I, S, Q, O, N>& x) {
  return x;
}
inline ap_fixed<32, 32> fixed_of(int x) { return x; }
inline ap_fixed<64, 64> fixed_of(int64 x) { return x; }
inline ap_fixed<2, 2> fixed_of(bool x) { return x ? 1 : 0; }

template <class T>
using fixed_t = decltype(pk::fixed_of(std::declval<T>()));

template <class T>
struct is_fixed {
  template <int W, int I, bool S, ap_q_mode Q, ap_o_mode O, int N>
  static std::true_type test(const ap_fixed_base<W, I, S, Q, O, N>*);
  static std::false_type test(...);
  static const bool value = decltype(test(static_cast<T*>(nullptr)))::value;
};

template <class A, class B>
struct common<A, B, typename std::enable_if<is_fixed<A>::value || is_fixed<B>::value>::type> {
  typedef fixed_t<A> X;
  typedef fixed_t<B> Y;
  static const int integer = larger(X::iwidth, Y::iwidth);
  static const int fraction = larger(X::width - X::iwidth, Y::width - Y::iwidth);
  typedef ap_fixed<integer + fraction, integer> type;
};

// The integer n of a value n / 2^F, and back.
template <int W, int I, ap_q_mode Q, ap_o_mode O, int N>
bits_t<W> raw(const ap_fixed_base<W, I, true, Q, O, N>& x) {
  ap_int<W> n;
  n.range(W - 1, 0) = x.range(W - 1, 0);
  return n;
}
template <class R, class B>
R from_raw(const B& n) {
  const ap_int<R::width> bits = n;
  R x;
  x.range(R::width - 1, 0) = bits.range(R::width - 1, 0);
  return x;
}

template <int N>
inline bits_t<N> one_shifted(int by) {
  return bits_t<N>(bits_t<N>(1) << by);
}

// The ends of a format's range.
template <class R>
R highest() {
  return from_raw<R>(bits_t<R::width + 1>(one_shifted<R::width + 1>(R::width - 1) - 1));
}
template <class R>
R lowest() {
  return from_raw<R>(bits_t<R::width + 1>(-one_shifted<R::width + 1>(R::width - 1)));
}

// An integer as a number of the format: saturated.
template <class R, class B>
R saturated(const B& n) {
  typedef bits_t<R::width + 1> edge;
  const edge high = one_shifted<R::width + 1>(R::width - 1) - 1;
  const edge low = -one_shifted<R::width + 1>(R::width - 1);
  return n > high ? from_raw<R>(high) : n < low ? from_raw<R>(low) : from_raw<R>(n);
}

template <class B>
B floor_quotient(const B& num, const B& den) {  // den > 0
  const B q = num / den;
  const B r = num - q * den;
  return r < 0 ? B(q - 1) : q;
}

template <class R>
struct format {
  static const int W = R::width;
  static const int I = R::iwidth;
  static const int F = W - I;
  static const int G = smaller(W + 4, 32);
};

// A constant of 40 fraction bits with fewer, rounded half up.
constexpr int64 scale(int64 constant, int bits) {
  return (constant + (int64(1) << (39 - bits))) >> (40 - bits);
}

// floor(n * c / 2^S) for a constant c of 2^S's size, in two halves that fit a machine word.
template <int N, int S>
bits_t<N> times(const bits_t<N>& n, int64 c) {
  const int H = S / 2;
  typedef bits_t<smaller(N + S - H + 3, 64)> wide;
  const bits_t<S - H + 3> upper = c >> H;
  const bits_t<H + 1> lower = c & ((int64(1) << H) - 1);
  const wide low = wide(n * lower) >> H;
  return wide(n * upper + low) >> (S - H);
}

// --- powers of two: 2^(y / 2^G) = m / 2^G * 2^k, with 1 <= m / 2^G < 2 ---

template <int G>
struct power_of_two {
  bits_t<G + 3> m;
  int k;
};

#ifdef PK_POLYNOMIAL
// By a polynomial of degree 5: relative error 2^-23.
template <int G>
power_of_two<G> power(const bits_t<G + 8>& y) {
  const bits_t<G + 1> part = y & ((int64(1) << G) - 1);
  bits_t<G + 3> p = scale(2064417354, G);
  p = scale(9883884035, G) + (bits_t<2 * G + 3>(p * part) >> G);
  p = scale(61381685769, G) + (bits_t<2 * G + 3>(p * part) >> G);
  p = scale(264051694415, G) + (bits_t<2 * G + 3>(p * part) >> G);
  p = scale(762129863810, G) + (bits_t<2 * G + 3>(p * part) >> G);
  p = scale(1099511545383, G) + (bits_t<2 * G + 3>(p * part) >> G);
  power_of_two<G> result;
  result.m = p;
  result.k = int(y >> G);
  return result;
}
#else
// By a table of 16 roots and a polynomial of degree 4: relative error 2^-38.
template <int G>
power_of_two<G> power(const bits_t<G + 8>& y) {
  static const int64 root[16] = {
      scale(1099511627776, G), scale(1148191166361, G), scale(1199025932245, G),
      scale(1252111345494, G), scale(1307547050779, G), scale(1365437104419, G),
      scale(1425890169699, G), scale(1489019720837, G), scale(1554944255988, G),
      scale(1623787519664, G), scale(1695678735018, G), scale(1770752846399, G),
      scale(1849150772653, G), scale(1931019671637, G), scale(2016513216442, G),
      scale(2105791883849, G)};
  const bits_t<G + 2> part = y & ((int64(1) << G) - 1);
  const bits_t<G> rest = part & ((int64(1) << (G - 4)) - 1);
  const int j = int(part >> (G - 4));
  bits_t<G + 2> p = scale(10807023770, G);
  p = scale(61014690034, G) + (bits_t<2 * G + 1>(p * rest) >> G);
  p = scale(264132122169, G) + (bits_t<2 * G + 1>(p * rest) >> G);
  p = scale(762123382562, G) + (bits_t<2 * G + 1>(p * rest) >> G);
  p = scale(1099511627779, G) + (bits_t<2 * G + 1>(p * rest) >> G);
  power_of_two<G> result;
  result.m = times<G + 2, G>(p, root[j]);
  result.k = int(y >> G);
  return result;
}
#endif

template <class R, class X>
bits_t<format<R>::G + 6> argument(const X& x) {
  const ap_fixed<format<R>::G + 6, 6, AP_RND, AP_SAT> rounded = fixed_of(x);
  return raw(rounded);
}

template <class R, class X>
power_of_two<format<R>::G> natural_power(const X& x) {
  const int G = format<R>::G;
  return power<G>(times<G + 8, G + 4>(argument<R>(x), scale(1586259972792, G + 4)));
}

template <class R>
R shifted(const power_of_two<format<R>::G>& x) {
  typedef format<R> P;
  if (x.k > P::I - 2) return highest<R>();
  const int s = smaller(P::G - P::F - x.k, P::G + 3);  // what is further out rounds to 0
  const bits_t<P::G + 5> rounded = bits_t<P::G + 5>(x.m + one_shifted<P::G + 5>(s - 1)) >> s;
  return saturated<R>(rounded);
}

// About 2^G * e^x for x <= 0.
template <class R, class X>
bits_t<format<R>::G + 2> decay(const X& x) {
  const power_of_two<format<R>::G> power = natural_power<R>(x);
  return power.m >> smaller(-power.k, format<R>::G + 2);
}

// --- exact operators: the result type holds every result ---

template <class R, class X>
fixed_t<X> value(const X& x) {  // an index as a value
  return fixed_of(x);
}
template <int W, int I, ap_q_mode Q, ap_o_mode O, int N>
int index(const ap_fixed_base<W, I, true, Q, O, N>& x) {
  const ap_fixed<32, 32> whole = x;  // AP_TRN: floor
  return whole.to_int();
}

template <class R, class X>
auto sq(const X& x) -> decltype(x * x) {
  return x * x;
}
template <int E, class X>
struct whole_power_of {
  typedef decltype(std::declval<X>() * std::declval<typename whole_power_of<E - 1, X>::type>()) type;
  static type of(const X& x) { return x * whole_power_of<E - 1, X>::of(x); }
};
template <class X>
struct whole_power_of<0, X> {
  typedef ap_fixed<2, 2> type;
  static type of(const X&) { return 1; }
};
template <int E, class X>
typename whole_power_of<E, fixed_t<X> >::type pow(const X& x) {
  return whole_power_of<E, fixed_t<X> >::of(fixed_of(x));
}
template <class R, class X>
X relu(const X& x) {
  return x > 0 ? x : X(0);
}
template <class R, class X>
ap_fixed<2, 2> sign(const X& x) {
  return x > 0 ? 1 : x < 0 ? -1 : 0;
}
template <class R, class X>
ap_fixed<2, 2> step(const X& x) {
  return x < 0 ? 0 : 1;
}
template <class X>
struct whole {
  static const int I = larger(fixed_t<X>::iwidth, 1);
  typedef ap_fixed<I, I> down;                  // AP_TRN: floor
  typedef ap_fixed<I + 1, I + 1, AP_RND> near;  // half up
};
template <class R, class X>
typename whole<X>::down floor(const X& x) {
  return fixed_of(x);
}
template <class R, class X>
typename whole<X>::near round(const X& x) {
  return fixed_of(x);
}

// Both operands as integers with the same fraction bits.
template <class A, class B>
struct aligned {
  typedef common_t<A, B> X;
  typedef bits_t<X::width + 2> wide;
  wide a, b;
  aligned(const A& x, const B& y) : a(raw(X(fixed_of(x)))), b(raw(X(fixed_of(y)))) {}
};
template <class R, class A, class B>
common_t<A, B> mod(const A& x, const B& y) {  // 0 where y is 0
  typedef typename aligned<A, B>::wide wide;
  const aligned<A, B> of(x, y);
  if (of.b == 0) return common_t<A, B>(0);
  const wide rest = of.a % of.b;
  const bool other = rest != 0 && (rest < 0) != (of.b < 0);
  return from_raw<common_t<A, B> >(other ? wide(rest + of.b) : rest);
}

// --- the functions ---

template <class R, class X>
R exp(const X& x) {
  return shifted<R>(natural_power<R>(x));
}

template <class R, class X>
R exp2(const X& x) {
  return shifted<R>(power<format<R>::G>(argument<R>(x)));
}

#ifdef PK_NEWTON
// num / den for den > 0 by a reciprocal of three Newton steps, rounded half up; relative error 2^-29.
template <int N>
bits_t<N + 36> rounded_quotient(const bits_t<N>& num, const bits_t<N>& den) {
  int length = 0;
  for (int i = 0; i < N; ++i) {
#pragma HLS UNROLL
    if (bits_t<N>(den >> i) != 0) length = i + 1;
  }
  const int up = larger(30 - length, 0), down = larger(length - 30, 0);
  typedef bits_t<larger(N, 64)> room;
  const bits_t<64> d = bits_t<64>(room(room(den) << up) >> down);
  bits_t<64> x = 3031741621LL - bits_t<64>(bits_t<64>(2021161080LL * d) >> 30);
  for (int i = 0; i < 3; ++i) {
#pragma HLS UNROLL
    const bits_t<64> error = (2LL << 30) - bits_t<64>(bits_t<64>(d * x) >> 30);
    x = bits_t<64>(x * error) >> 30;
  }
  typedef bits_t<N + 36> wide;
  return wide(wide(wide(2 * wide(num)) * wide(x)) + one_shifted<N + 36>(30 + length)) >> (31 + length);
}
#else
// num / den for den > 0, rounded half up: exact, a bit a step.
template <int N>
bits_t<N> rounded_quotient(const bits_t<N>& num, const bits_t<N>& den) {
  typedef bits_t<N> wide;
  return floor_quotient<wide>(wide(2 * num + den), wide(2 * den));
}
#endif

// a / 2^FA / (b / 2^FB) rounded half up; x/0 is the end of the range, 0/0 is 0.
template <class R, int WA, int FA, int WB, int FB>
R quotient(const bits_t<WA>& a, const bits_t<WB>& b) {
  const int S = format<R>::F + FB - FA;
  const int N = larger(WA + larger(S, 0), WB + larger(-S, 0)) + 3;
  typedef bits_t<N> wide;
  const wide num = wide(a) * one_shifted<N>(larger(S, 0));
  const wide den = wide(b) * one_shifted<N>(larger(-S, 0));
  if (den == 0) return num > 0 ? highest<R>() : num < 0 ? lowest<R>() : R(0);
  const wide top = den < 0 ? wide(-num) : num;
  const wide bottom = den < 0 ? wide(-den) : den;
  return saturated<R>(rounded_quotient<N>(top, bottom));
}

template <class R, class A, class B>
R div(const A& a, const B& b) {
  typedef fixed_t<A> X;
  typedef fixed_t<B> Y;
  return quotient<R, X::width, X::width - X::iwidth, Y::width, Y::width - Y::iwidth>(
      raw(fixed_of(a)), raw(fixed_of(b)));
}

template <class R, class A, class B>
R floordiv(const A& a, const B& b) {
  typedef typename aligned<A, B>::wide wide;
  const aligned<A, B> of(a, b);
  if (of.b == 0) return div<R>(a, b);
  const wide floor = of.b < 0 ? floor_quotient<wide>(wide(-of.a), wide(-of.b))
                              : floor_quotient<wide>(of.a, of.b);
  const int N = common_t<A, B>::width + 2 + format<R>::F;
  return saturated<R>(bits_t<N>(bits_t<N>(floor) * one_shifted<N>(format<R>::F)));
}

template <class R>
struct logistic {  // numerator and denominator of 1 / (1 + e^-x)
  static const int N = format<R>::G + 3;
  bits_t<N> num, den;
  template <class X>
  explicit logistic(const X& x) {
    const bits_t<N> one = one_shifted<N>(format<R>::G);
    const bits_t<N> tail = decay<R>(-pk::abs(fixed_of(x)));
    num = x < 0 ? tail : one;
    den = one + tail;
  }
};

template <class R, class X>
R sigmoid(const X& x) {
  const int N = logistic<R>::N;
  const logistic<R> part(x);
  return quotient<R, N, 0, N, 0>(part.num, part.den);
}

template <class R, class X>
R silu(const X& x) {
  typedef fixed_t<X> Y;
  const int N = logistic<R>::N;
  const logistic<R> part(x);
  const bits_t<Y::width + N> product = bits_t<Y::width + N>(raw(fixed_of(x))) * part.num;
  return quotient<R, Y::width + N, Y::width - Y::iwidth, N, 0>(product, part.den);
}

template <class R, class X>
R tanh(const X& x) {
  const int N = format<R>::G + 3;
  const bits_t<N> one = one_shifted<N>(format<R>::G);
  const bits_t<N> tail = decay<R>(-pk::abs(fixed_of(x) + fixed_of(x)));
  const R size = quotient<R, N, 0, N, 0>(bits_t<N>(one - tail), bits_t<N>(one + tail));
  return x < 0 ? R(-size) : size;
}

// log2(n / 2^fraction) with G fraction bits; n > 0.
template <int G, int W>
bits_t<48> binary_log(const bits_t<W>& n, int fraction) {
  int length = 0;
  for (int i = 0; i < W; ++i) {
#pragma HLS UNROLL
    if (bits_t<W>(n >> i) != 0) length = i + 1;
  }
  const int up = larger(31 - length, 0), down = larger(length - 31, 0);
  bits_t<64> m = bits_t<64>(bits_t<larger(W, 32)>(bits_t<larger(W, 32)>(n) << up) >> down);
  bits_t<48> v = length - 1 - fraction;
  for (int i = 0; i < G; ++i) {
#pragma HLS UNROLL
    m = bits_t<64>(m * m) >> 30;
    const int bit = int(m >> 31);
    v = 2 * v + bit;
    m = m >> bit;
  }
  return v;
}

template <class R>
R rounded_log(const bits_t<48>& v) {
  return from_raw<ap_fixed<48, 48 - format<R>::G> >(v);
}

template <class R, class X>
R log2(const X& x) {
  typedef fixed_t<X> Y;
  if (!(x > 0)) return lowest<R>();
  return rounded_log<R>(
      binary_log<format<R>::G, Y::width>(raw(fixed_of(x)), Y::width - Y::iwidth));
}

template <class R, class X>
R log(const X& x) {
  typedef fixed_t<X> Y;
  const int G = format<R>::G;
  if (!(x > 0)) return lowest<R>();
  const bits_t<48> v = binary_log<G, Y::width>(raw(fixed_of(x)), Y::width - Y::iwidth);
  return rounded_log<R>(times<48, G + 4>(v, scale(762123384786, G + 4)));
}

// floor(sqrt(n)), one bit a step.
template <int N>
bits_t<N> integer_sqrt(const bits_t<N>& n) {
  bits_t<N + 2> root = 0;
  for (int i = (N - 1) / 2; i >= 0; --i) {
#pragma HLS UNROLL
    const bits_t<N + 2> next = root + one_shifted<N + 2>(i);
    if (next * next <= n) root = next;
  }
  return root;
}

template <class R, class X>
R sqrt(const X& x) {
  typedef fixed_t<X> Y;
  const int S = 2 * format<R>::F - (Y::width - Y::iwidth) + 2;
  const int N = larger(Y::width + S, Y::width) + 1;
  if (!(x > 0)) return R(0);
  const bits_t<N> n = raw(fixed_of(x));
  const bits_t<N> scaled = bits_t<N>(n * one_shifted<N>(larger(S, 0))) >> larger(-S, 0);
  return saturated<R>(bits_t<N>(integer_sqrt<N>(scaled) + 1) >> 1);
}

template <class R, class X>
R rsqrt(const X& x) {
  typedef fixed_t<X> Y;
  const int S = 2 * format<R>::F + (Y::width - Y::iwidth) + 2;
  const int N = larger(S + 2, Y::width + 1);
  if (!(x > 0)) return highest<R>();
  const bits_t<N> n = raw(fixed_of(x));
  const bits_t<N> inverse = one_shifted<N>(S) / n;
  return saturated<R>(bits_t<N>(integer_sqrt<N>(inverse) + 1) >> 1);
}

// --- how an element is stored in a file: the integer n, 32 bits ---

template <int W, int I, ap_q_mode Q, ap_o_mode O>
struct storage<ap_fixed<W, I, Q, O> > {
  typedef int raw;
  static raw get(const ap_fixed<W, I, Q, O>& x) { return raw(pk::raw(x)); }
  static ap_fixed<W, I, Q, O> set(raw bits) {
    return from_raw<ap_fixed<W, I, Q, O> >(bits);
  }
};
template <int W, int I, ap_q_mode Q, ap_o_mode O>
struct storage<ap_ufixed<W, I, Q, O> > {
  typedef int raw;
  static raw get(const ap_ufixed<W, I, Q, O>& x) { return raw(pk::raw(fixed_of(x))); }
  static ap_ufixed<W, I, Q, O> set(raw bits) {
    const ap_int<32> n = bits;
    ap_ufixed<W, I, Q, O> x;
    x.range(W - 1, 0) = n.range(W - 1, 0);
    return x;
  }
};

}  // namespace pk

#endif

// What the generated kernels use whatever their number type: indices, selection, common types.
// C++14; compiles with plain g++ and is synthesizable. No placeholders: this file is fixed.
#ifndef PENSTOCK_MATH_HPP
#define PENSTOCK_MATH_HPP

#include <type_traits>
#include <utility>

// where(c, a, b): only the chosen side is evaluated; the result has the type that holds both.
#define PK_WHERE(c, a, b)                              \
  ((c) ? pk::common_t<decltype(a), decltype(b)>(a)     \
       : pk::common_t<decltype(a), decltype(b)>(b))

namespace pk {

typedef long long int64;  // at least 64 bits in every C++ that has it

// The type that holds every value of A and of B; fixed point adds its own rule.
template <class A, class B, class = void>
struct common {
  typedef typename std::common_type<A, B>::type type;
};
template <class A, class B>
using common_t = typename common<typename std::decay<A>::type, typename std::decay<B>::type>::type;

// --- indices: // and % floor, as in Python ---

template <class A, class B>
using if_integers = typename std::enable_if<
    std::is_integral<A>::value && std::is_integral<B>::value, common_t<A, B> >::type;

template <class A, class B>
if_integers<A, B> floordiv(A a, B b) {
  const common_t<A, B> q = a / b;
  return (a % b != 0 && (a < 0) != (b < 0)) ? q - 1 : q;
}

template <class A, class B>
if_integers<A, B> mod(A a, B b) {
  const common_t<A, B> r = a % b;
  return (r != 0 && (r < 0) != (b < 0)) ? r + b : r;
}

template <class A>
using if_integer = typename std::enable_if<std::is_integral<A>::value, common_t<A, int> >::type;

template <class A>
if_integer<A> index_sq(A a) { return a * a; }
template <class A>
if_integer<A> index_relu(A a) { return a > 0 ? a : 0; }
template <class A>
if_integer<A> index_step(A a) { return a >= 0 ? 1 : 0; }
template <class A>
if_integer<A> index_sign(A a) { return a > 0 ? 1 : a < 0 ? -1 : 0; }
template <class A>
if_integer<A> index_floor(A a) { return a; }
template <class A>
if_integer<A> index_round(A a) { return a; }

// --- what indices and values share ---

template <class A, class B>
common_t<A, B> max(const A& a, const B& b) {
  typedef common_t<A, B> R;
  return (a > b || a != a) ? R(a) : R(b);  // a NaN wins, as in NumPy
}

template <class A, class B>
common_t<A, B> min(const A& a, const B& b) {
  typedef common_t<A, B> R;
  return (a < b || a != a) ? R(a) : R(b);
}

template <class X, class L, class H>
auto clamp(const X& x, const L& low, const H& high) -> decltype(pk::min(pk::max(x, low), high)) {
  return pk::min(pk::max(x, low), high);
}

template <class X>
auto abs(const X& x) -> decltype(-x) {
  typedef decltype(-x) R;
  return x < 0 ? R(-x) : R(x);
}

// --- how an element is stored in a file: as itself, unless a header says otherwise ---

template <class T>
struct storage {
  typedef T raw;
  static raw get(const T& x) { return x; }
  static T set(raw bits) { return bits; }
};

template <>
struct storage<bool> {
  typedef unsigned char raw;
  static raw get(bool x) { return x ? 1 : 0; }
  static bool set(raw bits) { return bits != 0; }
};

}  // namespace pk

#endif

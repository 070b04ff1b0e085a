// fp16 and bf16 as they are stored: 16 bits that convert to float and back, to nearest even.
// C++14; compiles with plain g++ and is synthesizable. No placeholders: this file is fixed.
//
// Where the vendor's half exists (hls_half.h of Vitis), fp16 is that type, so that its conversion
// cores are used. bf16 is always the one below.
#ifndef PENSTOCK_HALF_HPP
#define PENSTOCK_HALF_HPP

#include "penstock_float.hpp"

#if defined(__has_include)
#if __has_include(<hls_half.h>)
#include <hls_half.h>
#define PK_VENDOR_HALF
#endif
#endif

namespace pk {

typedef unsigned int uint32;
typedef unsigned short uint16;

inline uint32 float_bits(float x) {
  union {
    float value;
    uint32 bits;
  } both;
  both.value = x;
  return both.bits;
}
inline float bits_float(uint32 bits) {
  union {
    float value;
    uint32 bits;
  } both;
  both.bits = bits;
  return both.value;
}

inline uint16 to_fp16(float x) {
  const uint32 all = float_bits(x);
  const uint32 sign = (all >> 16) & 0x8000u;
  const uint32 size = all & 0x7fffffffu;
  if (size > 0x7f800000u) return uint16(sign | 0x7e00u);    // NaN
  if (size >= 0x477ff000u) return uint16(sign | 0x7c00u);   // 65520 and more: infinity
  if (size >= 0x38800000u)                                  // normal: 2^-14 and more
    return uint16(sign | ((size - 0x38000000u + 0xfffu + ((size >> 13) & 1u)) >> 13));
  const uint32 exponent = size >> 23;
  if (exponent < 102u) return uint16(sign);                 // below 2^-25: zero
  const uint32 down = 126u - exponent;                      // subnormal: units of 2^-24
  const uint32 mantissa = (size & 0x7fffffu) | 0x800000u;
  const uint32 half = (1u << (down - 1u)) - 1u;
  return uint16(sign | ((mantissa + half + ((mantissa >> down) & 1u)) >> down));
}

inline float from_fp16(uint16 bits) {
  const uint32 sign = uint32(bits & 0x8000u) << 16;
  const uint32 size = bits & 0x7fffu;
  if (size >= 0x7c00u) return bits_float(sign | 0x7f800000u | ((size & 0x3ffu) << 13));
  if (size >= 0x400u) return bits_float(sign | ((size << 13) + 0x38000000u));
  const float value = float(size) * 5.9604644775390625e-8f;  // 2^-24, exact
  return sign != 0 ? -value : value;
}

inline uint16 to_bf16(float x) {
  const uint32 bits = float_bits(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16((bits >> 16) | 0x40u);  // NaN
  return uint16((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

struct bfloat16 {
  uint16 bits;
  bfloat16() : bits(0) {}
  bfloat16(float x) : bits(to_bf16(x)) {}
  operator float() const { return bits_float(uint32(bits) << 16); }
};

#ifdef PK_VENDOR_HALF
typedef half float16;
#else
struct float16 {
  uint16 bits;
  float16() : bits(0) {}
  float16(float x) : bits(to_fp16(x)) {}
  operator float() const { return from_fp16(bits); }
};
#endif

// In a file: the 16 bits.
template <>
struct storage<bfloat16> {
  typedef uint16 raw;
  static raw get(const bfloat16& x) { return x.bits; }
  static bfloat16 set(raw bits) { return bits_float(uint32(bits) << 16); }
};
template <>
struct storage<float16> {
  typedef uint16 raw;
  static raw get(const float16& x) { return to_fp16(float(x)); }
  static float16 set(raw bits) { return float16(from_fp16(bits)); }
};

}  // namespace pk

#endif

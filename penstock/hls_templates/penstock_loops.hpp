// One line for each loop, buffer, stream and port of a kernel: what they become is below.
// C++14; compiles with plain g++ and is synthesizable. No placeholders: this file is fixed.
//
//   PK_FOR(m, 64)                        a loop in time, L_m in the reports of the HLS tool
//   PK_FOR(m, 64) { PK_PIPELINE(1) ..    that starts a step every cycle
//   PK_EACH(px, 16)                      a loop side by side: PIPELINE around it unrolls it,
//   PK_EACH(px, 16) { PK_UNROLL ..       or this does
//   PK_LOCAL data_t S[16][64]; PK_CYCLIC(S, 2, 8) PK_KEEP(S, uram)   a buffer, banks, memory
//   pk::fill, pk::take, pk::put          all of an array; a row of one as a token, and back
#ifndef PENSTOCK_LOOPS_HPP
#define PENSTOCK_LOOPS_HPP

#include "penstock_stream.hpp"

#ifdef __GNUC__
#pragma GCC diagnostic ignored "-Wunused-label"  // only reports name them
#endif

// NOLINTBEGIN(bugprone-macro-parentheses): names, and the text of pragmas
#define PK_PRAGMA(text) _Pragma(#text)

#define PK_FOR(v, steps) L_##v: for (int v = 0; v < (steps); ++v)
#define PK_EACH(v, places) for (int v = 0; v < (places); ++v)
#define PK_PIPELINE(interval) PK_PRAGMA(HLS PIPELINE II = interval)
#define PK_UNROLL PK_PRAGMA(HLS UNROLL)

// Large local arrays would overflow the stack of a C simulation; in hardware they are memories.
#ifdef __SYNTHESIS__
#define PK_LOCAL
#else
#define PK_LOCAL static
#endif

// Banks: single elements (of all dimensions; of one), every n-th element together, n neighbours.
#define PK_REGISTERS(a) PK_PRAGMA(HLS ARRAY_PARTITION variable = a type = complete dim = 0)
#define PK_COMPLETE(a, d) PK_PRAGMA(HLS ARRAY_PARTITION variable = a type = complete dim = d)
#define PK_CYCLIC(a, d, n) PK_PRAGMA(HLS ARRAY_PARTITION variable = a type = cyclic factor = n dim = d)
#define PK_BLOCK(a, d, n) PK_PRAGMA(HLS ARRAY_PARTITION variable = a type = block factor = n dim = d)
// The same, but as one wide word: only words of a port need it.
#define PK_WORDS(a, d) PK_PRAGMA(HLS ARRAY_RESHAPE variable = a type = complete dim = d)
#define PK_CYCLIC_WORDS(a, d, n) PK_PRAGMA(HLS ARRAY_RESHAPE variable = a type = cyclic factor = n dim = d)
// The kind of memory that the mapping keeps a buffer, or a stream, in.
#define PK_KEEP(a, kind) PK_PRAGMA(HLS BIND_STORAGE variable = a type = ram_2p impl = kind)
#define PK_KEEP_FIFO(s, kind) PK_PRAGMA(HLS BIND_STORAGE variable = s type = fifo impl = kind)

// A stream of N elements a token; a tensor's own AXI port, of `elements` elements.
#define PK_STREAM(s, room, T, N) \
  pk::fifo<T, N> s(#s);          \
  PK_PRAGMA(HLS STREAM variable = s depth = room)
#define PK_PORT(tensor, axi, elements)                                                    \
  PK_PRAGMA(HLS INTERFACE mode = m_axi port = tensor bundle = axi offset = slave depth =  \
                elements max_widen_bitwidth = 512)                                        \
  PK_PRAGMA(HLS INTERFACE mode = s_axilite port = tensor)
#define PK_CONTROL PK_PRAGMA(HLS INTERFACE mode = s_axilite port = return)
// NOLINTEND(bugprone-macro-parentheses)

namespace pk {

// Every element of an array of registers.
template <class T, class V>
typename std::enable_if<!std::is_array<T>::value>::type fill(T& element, const V& value) {
  element = value;
}
template <class T, std::size_t N, class V>
void fill(word<T, N>& token, const V& value) {
  for (std::size_t i = 0; i < N; ++i) {
#pragma HLS UNROLL
    token[i] = value;
  }
}
template <class T, std::size_t N, class V>
void fill(T (&array)[N], const V& value) {
  for (std::size_t i = 0; i < N; ++i) {
#pragma HLS UNROLL
    pk::fill(array[i], value);
  }
}

// N neighbours of a row, from place `at` on, as a token.
template <std::size_t N, class A>
auto take(const A& row, int at = 0) -> word<typename std::decay<decltype(row[0])>::type, N> {
#pragma HLS INLINE
  word<typename std::decay<decltype(row[0])>::type, N> token;
  for (std::size_t i = 0; i < N; ++i) {
#pragma HLS UNROLL
    token[i] = row[at + int(i)];
  }
  return token;
}

// A token into a row, from place `at` on.
template <class A, class T, std::size_t N>
void put(A& row, const word<T, N>& token, int at = 0) {
#pragma HLS INLINE
  for (std::size_t i = 0; i < N; ++i) {
#pragma HLS UNROLL
    row[at + int(i)] = token[i];
  }
}

// A token of all elements of an array of several dimensions, the last one running fastest.
template <class T>
struct places : std::integral_constant<std::size_t, 1> {};
template <class T, std::size_t N>
struct places<T[N]> : std::integral_constant<std::size_t, N * places<T>::value> {};

template <class T, std::size_t N, std::size_t R, std::size_t C>
void put(T (&array)[R][C], const word<typename std::remove_all_extents<T>::type, N>& token) {
#pragma HLS INLINE
  static_assert(N == places<T[R][C]>::value, "one token is all of the array");
  for (std::size_t i = 0; i < R; ++i) {
#pragma HLS UNROLL
    word<typename std::remove_all_extents<T>::type, N / R> part;
    for (std::size_t j = 0; j < N / R; ++j) {
#pragma HLS UNROLL
      part[j] = token[i * (N / R) + j];
    }
    pk::put(array[i], part);
  }
}
template <std::size_t N, class T, std::size_t R, std::size_t C>
auto take(const T (&array)[R][C]) -> word<typename std::remove_all_extents<T>::type, N> {
#pragma HLS INLINE
  word<typename std::remove_all_extents<T>::type, N> token;
  for (std::size_t i = 0; i < R; ++i) {
#pragma HLS UNROLL
    const word<typename std::remove_all_extents<T>::type, N / R> part = pk::take<N / R>(array[i]);
    for (std::size_t j = 0; j < N / R; ++j) {
#pragma HLS UNROLL
      token[i * (N / R) + j] = part[j];
    }
  }
  return token;
}

}  // namespace pk

#endif

// One line for each loop, buffer, stream and port of a kernel: what they become is below.
// C++14; compiles with plain g++ and is synthesizable. No placeholders: this file is fixed.
//
//   PK_FOR(m, 64)                        a loop in time, L_m in the reports of the HLS tool
//   PK_FOR(m, 64) { PK_PIPELINE(1) ..    that starts a step every cycle
//   PK_EACH(px, 16)                      a loop side by side: PIPELINE around it unrolls it,
//   PK_ONCE { PK_PIPELINE(1) ..          or this does: one step
//   PK_TILE(data_t, S, [16][64], 1, 8) PK_KEEP(S, uram)   a buffer, banks along them, memory
//   pk::fill, pk::take, pk::put          all of an array; a part of one as a token, and back
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
#define PK_ONCE for (int pk_once = 0; pk_once < 1; ++pk_once)
#define PK_PIPELINE(interval) PK_PRAGMA(HLS PIPELINE II = interval)

// Large local arrays would overflow the stack of a C simulation; in hardware they are memories.
#ifdef __SYNTHESIS__
#define PK_LOCAL
#else
#define PK_LOCAL static
#endif

// A buffer, and its banks: so many along each dimension, every n-th element together (1: not split,
// its extent: single elements).
#define PK_TILE(T, a, dims, ...) \
  PK_LOCAL T a dims;             \
  PK_BANKS_OF(a, __VA_ARGS__, 1, 1, 1, 1, 1, 1, 1, 1)
// Of n neighbours together.
#define PK_BLOCK(a, d, n) PK_PRAGMA(HLS ARRAY_PARTITION variable = a type = block factor = n dim = d)
#define PK_BANKS_OF(a, n1, n2, n3, n4, n5, n6, n7, n8, ...)                   \
  PK_SPLIT(a, 1, n1)                                                          \
  PK_SPLIT(a, 2, n2)                                                          \
  PK_SPLIT(a, 3, n3)                                                          \
  PK_SPLIT(a, 4, n4)                                                          \
  PK_SPLIT(a, 5, n5) PK_SPLIT(a, 6, n6) PK_SPLIT(a, 7, n7) PK_SPLIT(a, 8, n8)
#define PK_SPLIT(a, d, n) PK_SPLIT_IF(PK_SECOND(PK_ONE_##n, 0, 0), a, d, n)
#define PK_SPLIT_IF(one, a, d, n) PK_SPLIT_CAT(one, a, d, n)
#define PK_SPLIT_CAT(one, a, d, n) PK_SPLIT_##one(a, d, n)
#define PK_SPLIT_1(a, d, n)
#define PK_SPLIT_0(a, d, n) PK_PRAGMA(HLS ARRAY_PARTITION variable = a type = cyclic factor = n dim = d)
#define PK_ONE_1 , 1
#define PK_SECOND(...) PK_SECOND_OF(__VA_ARGS__)
#define PK_SECOND_OF(x, second, ...) second
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

// Whole rows of an array, from row `at` on, as a token, and back.
template <class A>
struct row_of {  // of an array of them, or of a pointer to the first
  typedef typename std::remove_reference<decltype(std::declval<A&>()[0])>::type type;
  typedef typename std::remove_cv<typename std::remove_all_extents<type>::type>::type element;
  static const std::size_t size = places<type>::value;
};

template <class A, std::size_t N>
void put_rows(const word<typename row_of<A>::element, N>& token, A& array, int at) {
#pragma HLS INLINE
  const std::size_t C = row_of<A>::size;
  static_assert(N % C == 0, "a token is whole rows");
  for (std::size_t i = 0; i < N / C; ++i) {
#pragma HLS UNROLL
    word<typename row_of<A>::element, C> part;
    for (std::size_t j = 0; j < C; ++j) {
#pragma HLS UNROLL
      part[j] = token[i * C + j];
    }
    pk::put(array[at + int(i)], part);
  }
}
template <std::size_t N, class A>
auto take_rows(const A& array, int at) -> word<typename row_of<const A>::element, N> {
#pragma HLS INLINE
  const std::size_t C = row_of<const A>::size;
  static_assert(N % C == 0, "a token is whole rows");
  word<typename row_of<const A>::element, N> token;
  for (std::size_t i = 0; i < N / C; ++i) {
#pragma HLS UNROLL
    const word<typename row_of<const A>::element, C> part = pk::take<C>(array[at + int(i)]);
    for (std::size_t j = 0; j < C; ++j) {
#pragma HLS UNROLL
      token[i * C + j] = part[j];
    }
  }
  return token;
}

// A block of an array, so many elements along each dimension from a place on, as a token, and back.
template <int... Sizes>
struct block;
template <int S>
struct block<S> {
  static const std::size_t size = S;
  template <class A, class T, std::size_t N>
  static void put(const word<T, N>& token, std::size_t from, A& array, int at) {
#pragma HLS INLINE
    for (int i = 0; i < S; ++i) {
#pragma HLS UNROLL
      array[at + i] = token[from + std::size_t(i)];
    }
  }
  template <class A, class T, std::size_t N>
  static void take(word<T, N>& token, std::size_t from, const A& array, int at) {
#pragma HLS INLINE
    for (int i = 0; i < S; ++i) {
#pragma HLS UNROLL
      token[from + std::size_t(i)] = array[at + i];
    }
  }
};
template <int S, int... Inner>
struct block<S, Inner...> {
  static const std::size_t size = S * block<Inner...>::size;
  template <class A, class T, std::size_t N, class... P>
  static void put(const word<T, N>& token, std::size_t from, A& array, int at, P... places) {
#pragma HLS INLINE
    for (int i = 0; i < S; ++i) {
#pragma HLS UNROLL
      const std::size_t here = from + std::size_t(i) * block<Inner...>::size;
      block<Inner...>::put(token, here, array[at + i], places...);
    }
  }
  template <class A, class T, std::size_t N, class... P>
  static void take(word<T, N>& token, std::size_t from, const A& array, int at, P... places) {
#pragma HLS INLINE
    for (int i = 0; i < S; ++i) {
#pragma HLS UNROLL
      const std::size_t here = from + std::size_t(i) * block<Inner...>::size;
      block<Inner...>::take(token, here, array[at + i], places...);
    }
  }
};

template <int... Sizes, class A, class T, std::size_t N, class... P>
void put_block(const word<T, N>& token, A& array, P... places) {
#pragma HLS INLINE
  static_assert(N == block<Sizes...>::size, "a token is all of the block");
  block<Sizes...>::put(token, 0, array, places...);
}
template <int... Sizes, class A, class... P>
auto take_block(const A& array, P... places)
    -> word<typename row_of<const A>::element, block<Sizes...>::size> {
#pragma HLS INLINE
  word<typename row_of<const A>::element, block<Sizes...>::size> token;
  block<Sizes...>::take(token, 0, array, places...);
  return token;
}

// The same of R x C elements, of a token with C rows of R.
template <int R, int C, class A, class T, std::size_t N>
void put_turned(const word<T, N>& token, A& array, int row, int column) {
#pragma HLS INLINE
  static_assert(N == std::size_t(R) * C, "a token is all of the block");
  for (int i = 0; i < R; ++i) {
#pragma HLS UNROLL
    for (int j = 0; j < C; ++j) {
#pragma HLS UNROLL
      array[row + i][column + j] = token[std::size_t(j) * R + std::size_t(i)];
    }
  }
}

// A token of all sums, each rounded to T.
template <class T, class A, std::size_t N>
word<T, N * places<A>::value> pack(const A (&sums)[N]) {
#pragma HLS INLINE
  typedef typename std::remove_all_extents<A>::type acc;
  const word<acc, N * places<A>::value> all = pk::take<N * places<A>::value>(sums);
  word<T, N * places<A>::value> token;
  for (std::size_t i = 0; i < N * places<A>::value; ++i) {
#pragma HLS UNROLL
    token[i] = all[i];
  }
  return token;
}

}  // namespace pk

#endif

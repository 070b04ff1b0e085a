// Testbench helpers: read and write tensors as raw little-endian files, and compare them.
// C++14, for simulation only. No placeholders: this file is fixed.
#ifndef PENSTOCK_TB_HPP
#define PENSTOCK_TB_HPP

#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "penstock_math.hpp"

namespace pk {

[[noreturn]] inline void stop(const std::string& what) {
  std::fprintf(stderr, "testbench: %s\n", what.c_str());
  std::exit(2);
}

// A row-major array of any number of dimensions: its element type, first element and size.
template <class A>
using element_t = typename std::remove_all_extents<A>::type;
template <class A>
element_t<A>* first(A& array) {
  return reinterpret_cast<element_t<A>*>(&array);
}
template <class A>
constexpr std::size_t count(const A&) {
  return sizeof(A) / sizeof(element_t<A>);
}

template <class T>
std::vector<T> read_file(const std::string& path, std::size_t elements) {
  typedef typename storage<T>::raw raw;
  std::vector<raw> bits(elements + 1);
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (file == nullptr) stop("cannot read " + path);
  const std::size_t found = std::fread(bits.data(), sizeof(raw), elements + 1, file);
  std::fclose(file);
  if (found != elements)
    stop(path + " does not hold " + std::to_string(elements) + " elements of " +
         std::to_string(sizeof(raw)) + " bytes");
  std::vector<T> values(elements);
  for (std::size_t i = 0; i < elements; ++i) values[i] = storage<T>::set(bits[i]);
  return values;
}

template <class A>
void read(const std::string& folder, const char* name, A& array) {
  typedef element_t<A> T;
  T* to = first(array);
  const std::vector<T> values = read_file<T>(folder + "/" + name + ".bin", count(array));
  for (std::size_t i = 0; i < values.size(); ++i) to[i] = values[i];
}

template <class A>
void write(const std::string& folder, const char* name, A& array) {
  typedef element_t<A> T;
  T* from = first(array);
  const std::string path = folder + "/" + name + ".bin";
  std::vector<typename storage<T>::raw> bits(count(array));
  for (std::size_t i = 0; i < bits.size(); ++i) bits[i] = storage<T>::get(from[i]);
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) stop("cannot write " + path);
  const std::size_t done = std::fwrite(bits.data(), sizeof(bits[0]), bits.size(), file);
  if (std::fclose(file) != 0 || done != bits.size()) stop("cannot write " + path);
}

// Compares with <folder>/<name>.bin; returns the number of elements that differ by more than
// `tolerance` times the largest expected magnitude (0: any difference counts).
template <class A>
std::size_t compare(const std::string& folder, const char* name, A& array, double tolerance) {
  typedef element_t<A> T;
  T* got = first(array);
  const std::vector<T> expected = read_file<T>(folder + "/" + name + ".bin", count(array));
  double largest = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double size = std::fabs(static_cast<double>(expected[i]));
    if (std::isfinite(size) && size > largest) largest = size;
  }
  std::size_t wrong = 0;
  double worst = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double a = static_cast<double>(got[i]), b = static_cast<double>(expected[i]);
    if (a == b || (std::isnan(a) && std::isnan(b))) continue;
    const double error = std::fabs(a - b);
    if (!(error <= worst)) worst = error;
    if (error <= tolerance * largest) continue;
    if (++wrong <= 5)
      std::printf("%s[%lu] is %.9g, expected %.9g\n", name, static_cast<unsigned long>(i), a, b);
  }
  std::printf("%s: %lu elements, %lu wrong, largest error %.3g\n", name,
              static_cast<unsigned long>(expected.size()), static_cast<unsigned long>(wrong), worst);
  return wrong;
}

}  // namespace pk

#endif

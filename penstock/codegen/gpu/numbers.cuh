// Functions of numbers. Exponentials are ex2.approx (2 ulp), so that they cost one multiply-add more.
#define PS_LOG2E 1.4426950408889634f
template <bool B, bool C = false> struct PsFlag { static constexpr bool full = B, careful = C; };
// The same number, of which the compiler does not know it: tests of it are made again where they are
// needed, not kept in a register for each element.
PS_DEVICE int ps_opaque(int x) {
#ifdef __CUDA_ARCH__
  asm volatile("" : "+r"(x));
#endif
  return x;
}
PS_DEVICE float ps_max(float a, float b) { return fmaxf(a, b); }
PS_DEVICE float ps_min(float a, float b) { return fminf(a, b); }
PS_DEVICE int ps_max(int a, int b) { return a > b ? a : b; }
PS_DEVICE int ps_min(int a, int b) { return a < b ? a : b; }
PS_DEVICE int ps_abs(int a) { return a < 0 ? -a : a; }
PS_DEVICE int ps_sq(int a) { return a * a; }
PS_DEVICE int ps_floor_div(int a, int b) { return a / b - ((a % b != 0) & ((a < 0) != (b < 0))); }
PS_DEVICE int ps_floor_mod(int a, int b) { return a - ps_floor_div(a, b) * b; }
PS_DEVICE float ps_floor_div_value(float a, float b) { return floorf(a / b); }
PS_DEVICE float ps_floor_mod_value(float a, float b) { return a - floorf(a / b) * b; }
PS_DEVICE float ps_inverse(float x) { return 1.0f / x; }
PS_DEVICE float ps_exp2(float x) { return ps_ex2(x); }
PS_DEVICE float ps_exp(float x) { return ps_ex2(x * PS_LOG2E); }
PS_DEVICE float ps_exp_of(float a, float b) { return ps_ex2(fmaf(a, PS_LOG2E, -b * PS_LOG2E)); }
PS_DEVICE float ps_exp2_of(float a, float b) { return ps_ex2(a - b); }
PS_DEVICE float ps_log(float x) { return logf(x); }
PS_DEVICE float ps_log2(float x) { return log2f(x); }
PS_DEVICE float ps_sqrt(float x) { return sqrtf(x); }
PS_DEVICE float ps_rsqrt(float x) { return 1.0f / sqrtf(x); }
PS_DEVICE float ps_sq(float x) { return x * x; }
PS_DEVICE float ps_sin(float x) { return sinf(x); }
PS_DEVICE float ps_cos(float x) { return cosf(x); }
PS_DEVICE float ps_tanh(float x) { return 1.0f - 2.0f * ps_rcp(1.0f + ps_exp(2.0f * x)); }
PS_DEVICE float ps_erf(float x) { return erff(x); }
PS_DEVICE float ps_sigmoid(float x) { return ps_rcp(1.0f + ps_exp(-x)); }
PS_DEVICE float ps_relu(float x) { return fmaxf(x, 0.0f); }
PS_DEVICE float ps_silu(float x) { return x * ps_sigmoid(x); }
PS_DEVICE float ps_gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); }
PS_DEVICE float ps_softplus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }
PS_DEVICE float ps_step(float x) { return x >= 0.0f ? 1.0f : 0.0f; }
PS_DEVICE float ps_sign(float x) { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x; }
PS_DEVICE float ps_abs(float x) { return fabsf(x); }
PS_DEVICE float ps_floor(float x) { return floorf(x); }
PS_DEVICE float ps_round(float x) { return floorf(x) + (x - floorf(x) >= 0.5f ? 1.0f : 0.0f); }
PS_DEVICE bool ps_bit(const uint32_t* words, int n) { return (words[n >> 5] >> (n & 31)) & 1; }
PS_DEVICE void ps_put_bit(uint32_t* words, int n, bool on) {
  words[n >> 5] = on ? words[n >> 5] | (1u << (n & 31)) : words[n >> 5] & ~(1u << (n & 31));
}
// Folds over the four lanes that share a row of a fragment.
PS_DEVICE float ps_quad_sum(float x) {
  x += ps_shuffle_xor(x, 1);
  return x + ps_shuffle_xor(x, 2);
}
PS_DEVICE float ps_quad_prod(float x) {
  x *= ps_shuffle_xor(x, 1);
  return x * ps_shuffle_xor(x, 2);
}
PS_DEVICE float ps_quad_max(float x) {
  x = fmaxf(x, ps_shuffle_xor(x, 1));
  return fmaxf(x, ps_shuffle_xor(x, 2));
}
PS_DEVICE float ps_quad_min(float x) {
  x = fminf(x, ps_shuffle_xor(x, 1));
  return fminf(x, ps_shuffle_xor(x, 2));
}
// The same folds between warps that have parts of a row.
struct PsFold_sum { PS_DEVICE_IN float operator()(float a, float b) const { return a + b; } };
struct PsFold_prod { PS_DEVICE_IN float operator()(float a, float b) const { return a * b; } };
struct PsFold_max { PS_DEVICE_IN float operator()(float a, float b) const { return fmaxf(a, b); } };
struct PsFold_min { PS_DEVICE_IN float operator()(float a, float b) const { return fminf(a, b); } };
typedef PsFold_max PsFold_any;
template <int N> PS_DEVICE void ps_clear(float (&x)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] = 0.0f;
}
template <int N> PS_DEVICE bool ps_not_finite(const float (&x)[N]) {
  bool any = false;
#pragma unroll
  for (int i = 0; i < N; ++i) any |= !(fabsf(x[i]) < PS_INF);
  return any;
}
// x += a right, term by term: fragments of 16 B rows, of 16 K weights, of which -0 is an absent one.
// It runs for tiles with Inf or NaN alone, so that arrays in local memory do.
template <int B, int K, int N, typename Right>
PS_DEVICE void ps_add_terms(float (&x)[N], const uint32_t (&a)[B][K][4], int lane, Right right) {
  uint32_t words[4 * B * K];
  float sums[N];
#pragma unroll
  for (int i = 0; i < 4 * B * K; ++i) words[i] = a[i / (4 * K)][i / 4 % K][i % 4];
#pragma unroll
  for (int i = 0; i < N; ++i) sums[i] = x[i];
#pragma unroll 1
  for (int m = 0; m < 16 * K; ++m)
#pragma unroll 1
    for (int r = 0; r < 2 * B; ++r) {
      uint32_t word = words[(r / 2 * K + m / 16) * 4 + r % 2 + m / 8 % 2 * 2];
      word = ps_shuffle(word, lane / 4 * 4 + m % 8 / 2);
      if (((m % 2 ? word >> 16 : word) & 0xffff) == 0x8000) continue;
      const float weight = ps_half_of(word, m % 2);
#pragma unroll 1
      for (int n = 0; n < N / (2 * B); ++n)
        sums[r / 2 * (N / B) + n / 2 * 4 + r % 2 * 2 + n % 2] +=
            weight * right(m, n / 2 * 8 + lane % 4 * 2 + n % 2);
    }
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] = sums[i];
}
// The same for weights in shared memory: B blocks of 16 rows, columns from `first` on.
template <int B, int N, typename Left, typename Right>
PS_DEVICE void ps_add_shared_terms(float (&x)[N], int depth, int row, int first, int quad, Left left,
                                   Right right) {
  float sums[N];
#pragma unroll
  for (int i = 0; i < N; ++i) sums[i] = x[i];
#pragma unroll 1
  for (int m = 0; m < depth; ++m)
#pragma unroll 1
    for (int r = 0; r < 2 * B; ++r) {
      const ps_element word = *left(row + r / 2 * 16 + r % 2 * 8, m);
      if (*(const uint16_t*)&word == 0x8000) continue;
      const float weight = ps_float(word);
#pragma unroll 1
      for (int n = 0; n < N / (2 * B); ++n)
        sums[r / 2 * (N / B) + n / 2 * 4 + r % 2 * 2 + n % 2] +=
            weight * right(m, first + n / 2 * 8 + quad * 2 + n % 2);
    }
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] = sums[i];
}
// R x C results of depth K, by warps: 16 rows and 8 N columns at a time; sides are read where they are.
// A result that is no finite number is made again term by term.
template <int R, int C, int K, int N, typename Left, typename Right, typename Exact, typename Put>
PS_DEVICE void ps_product(int warps, Left left, Right right, Exact exact, Put put) {
  const int line = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
  constexpr int across = (C + 8 * N - 1) / (8 * N), tiles = (R + 15) / 16 * across;
  for (int t = threadIdx.x / 32; t < tiles; t += warps) {
    const int row = t / across * 16 + line, col = t % across * 8 * N;
    float c[N][4] = {};
    auto a_at = [&](int r, int k) { return r < R && k < K ? left(r, k) : 0.0f; };
    auto b_at = [&](int n, int k) { return n < C && k < K ? right(n, k) : 0.0f; };
    for (int k = 2 * quad; k < K + 2 * quad; k += 16) {
      uint32_t a[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int r = row + i % 2 * 8, m = k + i / 2 * 8;
        a[i] = ps_pack(a_at(r, m), a_at(r, m + 1));
      }
#pragma unroll
      for (int n = 0; n < N; ++n) {
        const int q = col + 8 * n + line;
        ps_mma(c[n], a, ps_pack(b_at(q, k), b_at(q, k + 1)), ps_pack(b_at(q, k + 8), b_at(q, k + 9)));
      }
    }
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int r = row + i / 2 * 8, q = col + 8 * n + 2 * quad + i % 2;
        if (r < R && q < C) put(r, q, fabsf(c[n][i]) < PS_INF ? c[n][i] : exact(r, q));
      }
  }
}

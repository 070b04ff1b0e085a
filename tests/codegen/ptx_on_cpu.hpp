// The PTX operations of tensor-core kernels, on a CPU; see cuda_on_cpu.hpp for threads and barriers.
// What is asynchronous happens as late as it may, when something waits for it (or, with
// PENSTOCK_EAGER set, at once), so that a wait or a barrier too few gives wrong values.
#pragma once
#include "cuda_on_cpu.hpp"
#include <deque>

#define PS_INF INFINITY
#define PS_NAN NAN
#define PS_DEVICE static inline
#define PS_DEVICE_IN inline

struct alignas(16) uint4 { uint32_t x, y, z, w; };
typedef nv_bfloat16 __nv_bfloat16;
typedef half __half;
#if PS_BF16
typedef __nv_bfloat16 ps_element;
#else
typedef __half ps_element;
#endif

PS_DEVICE float ps_float(float x) { return x; }
PS_DEVICE void ps_round_to(ps_element& y, float x) { y = ps_element(x); }
PS_DEVICE void ps_round_to(float& y, float x) { y = x; }
PS_DEVICE uint32_t ps_pack(float low, float high) {
  ps_element pair[2];
  ps_round_to(pair[0], low);
  ps_round_to(pair[1], high);
  uint32_t d;
  memcpy(&d, pair, 4);
  return d;
}
PS_DEVICE float element_of(uint32_t word, int half) {
  ps_element pair[2];
  memcpy(pair, &word, 4);
  return ps_float(pair[half]);
}
PS_DEVICE float ps_ex2(float x) { return exp2f(x); }
PS_DEVICE float ps_rcp(float x) { return 1.0f / x; }

static const bool eager = getenv("PENSTOCK_EAGER") != nullptr;
static inline int thread() { return threadIdx.x; }

// -- cp.async ---------------------------------------------------------------------------------

struct Copy { void* to; const void* from; bool there; };
struct Copies { std::deque<std::vector<Copy>> groups; std::vector<Copy> open; };
static Copies copies[1024];
static void complete(const Copy& each) {
  if (each.there) memcpy(each.to, each.from, 16);
  else memset(each.to, 0, 16);
}
PS_DEVICE void ps_copy16(void* to, const void* from, bool there) {
  if ((uintptr_t)to % 16 || (there && (uintptr_t)from % 16)) { fprintf(stderr, "cp.async of 16 bytes is not aligned\n"); abort(); }
  Copy made = {to, from, there};
  if (eager) complete(made);
  else copies[thread()].open.push_back(made);
}
PS_DEVICE void ps_copy_commit() {
  Copies& mine = copies[thread()];
  mine.groups.push_back(std::move(mine.open));
  mine.open.clear();
}
template <int N> PS_DEVICE void ps_copy_wait() {
  Copies& mine = copies[thread()];
  while (mine.groups.size() > N) {
    for (const Copy& each : mine.groups.front()) complete(each);
    mine.groups.pop_front();
  }
}

// -- operations of a warp: the last lane to come does them for all ------------------------------

struct Warp {
  Barrier barrier;
  union Slot { uint32_t words[64]; float values[64]; const void* place; } in[2][32], out[2][32];
};
static Warp warps[32];
template <typename F, typename G, typename H>
static inline void together(F give, G compute, H take) {
  Warp& w = warps[thread() / 32];
  int lane = thread() % 32, turn = w.barrier.generation & 1;
  give(w.in[turn][lane]);
  if (w.barrier.arrived == 31) compute(w.in[turn], w.out[turn]);
  w.barrier.meet(32);
  take(w.out[turn][lane]);
}
PS_DEVICE float ps_shuffle_xor(float x, int lanes) {
  float y = 0;
  together([&](Warp::Slot& s) { s.values[0] = x; },
           [&](Warp::Slot* in, Warp::Slot* out) {
             for (int t = 0; t < 32; ++t) out[t].values[0] = in[t ^ lanes].values[0];
           },
           [&](Warp::Slot& s) { y = s.values[0]; });
  return y;
}
PS_DEVICE uint32_t ps_shuffle(uint32_t x, int lane) {
  uint32_t y = 0;
  together([&](Warp::Slot& s) { s.words[0] = x; s.words[1] = lane; },
           [&](Warp::Slot* in, Warp::Slot* out) {
             for (int t = 0; t < 32; ++t) out[t].words[0] = in[in[t].words[1]].words[0];
           },
           [&](Warp::Slot& s) { y = s.words[0]; });
  return y;
}
PS_DEVICE float ps_half_of(uint32_t word, int half) { return element_of(word, half); }
PS_DEVICE bool ps_block_any(bool x) {
  static int any[2];
  const int turn = all_threads.generation & 1;
  if (all_threads.arrived == 0) any[turn] = 0;
  any[turn] |= x;
  __syncthreads();
  return any[turn];
}
PS_DEVICE bool ps_quad_any(bool x) {
  uint32_t any = 0;
  together([&](Warp::Slot& s) { s.words[0] = x; },
           [&](Warp::Slot* in, Warp::Slot* out) {
             for (int t = 0; t < 32; ++t) {
               out[t].words[0] = 0;
               for (int q = 0; q < 4; ++q) out[t].words[0] |= in[t / 4 * 4 + q].words[0];
             }
           },
           [&](Warp::Slot& s) { any = s.words[0]; });
  return any;
}
static void matrices(uint32_t (&d)[4], const void* row, bool transposed) {
  together([&](Warp::Slot& s) { s.place = row; },
           [&](Warp::Slot* in, Warp::Slot* out) {
             for (int t = 0; t < 32; ++t)
               for (int i = 0; i < 4; ++i) {
                 uint16_t pair[2];
                 for (int k = 0; k < 2; ++k) {
                   int r = transposed ? 2 * (t % 4) + k : t / 4, c = transposed ? t / 4 : 2 * (t % 4) + k;
                   memcpy(&pair[k], (const char*)in[8 * i + r].place + 2 * c, 2);
                 }
                 memcpy(&out[t].words[i], pair, 4);
               }
           },
           [&](Warp::Slot& s) { memcpy(d, s.words, 16); });
}
PS_DEVICE void ps_ldmatrix(uint32_t (&d)[4], const void* row) { matrices(d, row, false); }
PS_DEVICE void ps_ldmatrix_t(uint32_t (&d)[4], const void* row) { matrices(d, row, true); }
// Element (row, k) of the left side of m16nXk16 as it lies in the registers of a warp.
static float left_of(const Warp::Slot* in, int row, int k) {
  int lane = row % 8 * 4 + k % 8 / 2;
  return element_of(in[lane].words[row / 8 + k / 8 * 2], k % 2);
}
PS_DEVICE void ps_mma(float* c, const uint32_t* a, uint32_t b0, uint32_t b1) {
  together([&](Warp::Slot& s) {
             memcpy(s.words, a, 16);
             s.words[4] = b0, s.words[5] = b1;
             memcpy(s.values + 6, c, 16);
           },
           [&](Warp::Slot* in, Warp::Slot* out) {
             float left[16][16], right[16][8];
             for (int k = 0; k < 16; ++k) {
               for (int r = 0; r < 16; ++r) left[r][k] = left_of(in, r, k);
               for (int n = 0; n < 8; ++n) right[k][n] = element_of(in[n * 4 + k % 8 / 2].words[4 + k / 8], k % 2);
             }
             for (int t = 0; t < 32; ++t)
               for (int i = 0; i < 4; ++i) {
                 int r = t / 4 + i / 2 * 8, n = 2 * (t % 4) + i % 2;
                 float sum = in[t].values[6 + i];
                 for (int k = 0; k < 16; ++k) sum += left[r][k] * right[k][n];
                 out[t].values[i] = sum;
               }
           },
           [&](Warp::Slot& s) { memcpy(c, s.values, 16); });
}

// -- Hopper: mbarriers, TMA, wgmma --------------------------------------------------------------

struct alignas(64) PsMap {  // what the host's descriptor says, as cuda_on_cpu.py fills it in
  char* start;
  int64_t rank, sizes[5], box[5];  // the last dimension first
};
static uint32_t shared_place(const void* place) { return (uint32_t)((const char*)place - (const char*)penstock_pool); }

struct Box { char* to; const PsMap* map; int at[5]; };
struct MBarrier { int wanted, pending, bytes, phase; std::vector<Box> boxes; };
static std::vector<std::pair<uint64_t*, MBarrier>> mbarriers;
static MBarrier& mbarrier(uint64_t* place) {
  for (auto& each : mbarriers) if (each.first == place) return each.second;
  fprintf(stderr, "an mbarrier is used before it is made\n");
  abort();
}
static void turn(MBarrier& b) {
  if (b.pending == 0 && b.bytes == 0) { b.pending = b.wanted; b.phase ^= 1; ++progress; }
}
static void bring(MBarrier& b) {  // the boxes under way arrive
  std::vector<Box> boxes;
  boxes.swap(b.boxes);
  for (const Box& each : boxes) {
    const PsMap& m = *each.map;
    if (shared_place(each.to) % 1024) { fprintf(stderr, "a swizzled box does not start at a multiple of 1024\n"); abort(); }
    int64_t count = 1;
    for (int d = 1; d < m.rank; ++d) count *= m.box[d];
    for (int64_t line = 0; line < count; ++line) {
      int64_t rest = line, offset = 0, pitch = m.sizes[0];
      bool inside = true;
      for (int d = 1; d < m.rank; ++d) {
        int64_t x = each.at[d] + rest % m.box[d];
        rest /= m.box[d];
        inside = inside && x >= 0 && x < m.sizes[d];
        offset += x * pitch;
        pitch *= m.sizes[d];
      }
      for (int64_t i = 0; i < m.box[0]; ++i) {
        int64_t x = each.at[0] + i, at = line * 128 + i * 2;
        at ^= (at >> 7 & 7) << 4;
        if (inside && x >= 0 && x < m.sizes[0]) memcpy(each.to + at, m.start + (offset + x) * 2, 2);
        else memset(each.to + at, 0, 2);
      }
    }
    b.bytes -= (int)(count * m.box[0] * 2);
  }
  turn(b);
}
PS_DEVICE void ps_barrier_init(uint64_t* b, int n) {
  if (mbarriers.size() > 64) mbarriers.clear();
  for (auto& each : mbarriers) if (each.first == b) { each.second = {n, n, 0, 0, {}}; return; }
  mbarriers.push_back({b, {n, n, 0, 0, {}}});
}
PS_DEVICE void ps_barriers_ready() {}
PS_DEVICE void ps_arrive(uint64_t* place) {
  MBarrier& b = mbarrier(place);
  --b.pending;
  turn(b);
}
PS_DEVICE void ps_arrive_after(uint64_t* place, float) { ps_arrive(place); }
PS_DEVICE void ps_expect(uint64_t* place, int bytes) {
  MBarrier& b = mbarrier(place);
  b.bytes += bytes;
  --b.pending;
  turn(b);
}
PS_DEVICE void ps_wait(uint64_t* place, int parity) {
  wait_until([&] {
    MBarrier& b = mbarrier(place);
    if (b.phase == parity) bring(b);
    return b.phase != parity;
  });
}
template <typename... At>
PS_DEVICE void ps_box(void* to, const PsMap& map, uint64_t* place, At... at) {
  Box made = {(char*)to, &map, {at...}};
  if (sizeof...(at) != (size_t)map.rank) { fprintf(stderr, "a box has another rank than its tensor\n"); abort(); }
  mbarrier(place).boxes.push_back(made);
  if (eager) bring(mbarrier(place));
}
PS_DEVICE void ps_stores_visible() {}
static Barrier named[16];
PS_DEVICE void ps_meet(int barrier, int threads) { named[barrier].meet(threads); }
template <int N> PS_DEVICE void ps_more_registers() {}
template <int N> PS_DEVICE void ps_fewer_registers() {}
template <int N> PS_DEVICE void ps_settle(float (&)[N]) {}
PS_DEVICE uint64_t ps_descriptor(const void* start, uint32_t leading, uint32_t stride) {
  return (uint64_t)((shared_place(start) & 0x3ffff) >> 4) | (uint64_t)(leading >> 4) << 16 |
         (uint64_t)(stride >> 4) << 32 | (uint64_t)1 << 62;
}
// Element (i, k) of a tile that a descriptor describes; `along` whether i lies along the lines.
static float described(uint64_t d, int i, int k, bool along) {
  if (d >> 62 != 1) { fprintf(stderr, "a descriptor without 128-byte swizzle\n"); abort(); }
  uint32_t start = (d & 0x3fff) << 4, leading = (d >> 16 & 0x3fff) << 4, stride = (d >> 32 & 0x3fff) << 4;
  uint32_t at = along ? start + i / 64 * leading + k / 8 * stride + k % 8 * 128 + i % 64 * 2
                      : start + i / 8 * stride + i % 8 * 128 + k * 2;
  at ^= (at >> 7 & 7) << 4;
  ps_element x;
  memcpy(&x, penstock_pool + at, 2);
  return ps_float(x);
}
PS_DEVICE ps_element ps_swizzled(const uint8_t* start, int lines, int line, int run) {
  uint32_t at = shared_place(start) + run / 64 * lines * 128 + line * 128 + run % 64 * 2;
  at ^= (at >> 7 & 7) << 4;
  ps_element x;
  memcpy(&x, penstock_pool + at, 2);
  return x;
}
struct Wgmma { float* d; const uint32_t* a; uint64_t left, right; int columns; bool along, keep; };
struct Queue { std::deque<std::vector<Wgmma>> groups; std::vector<Wgmma> open; };
static Queue queues[1024];
static void multiply(const Wgmma& mine) {  // one warp's 16 of 64 rows, when the last lane comes
  static Wgmma all[1024];
  all[thread()] = mine;
  together([&](Warp::Slot& s) { if (mine.a) memcpy(s.words, mine.a, 16); },
           [&](Warp::Slot* in, Warp::Slot*) {
             int first = thread() / 32 * 32, warp = thread() / 32 % 4;
             std::vector<float> right(16 * mine.columns);
             for (int k = 0; k < 16; ++k)
               for (int n = 0; n < mine.columns; ++n) right[k * mine.columns + n] = described(mine.right, n, k, mine.along);
             float left[16][16];
             for (int r = 0; r < 16; ++r)
               for (int k = 0; k < 16; ++k)
                 left[r][k] = mine.a ? left_of(in, r, k) : described(mine.left, warp * 16 + r, k, false);
             for (int t = 0; t < 32; ++t)
               for (int i = 0; i < mine.columns / 2; ++i) {
                 int r = t / 4 + i / 2 % 2 * 8, n = i / 4 * 8 + t % 4 * 2 + i % 2;
                 float sum = mine.keep ? all[first + t].d[i] : 0;
                 for (int k = 0; k < 16; ++k) sum += left[r][k] * right[k * mine.columns + n];
                 all[first + t].d[i] = sum;
               }
           },
           [](Warp::Slot&) {});
}
static void issue(const Wgmma& made) {
  if (eager) multiply(made);
  else queues[thread()].open.push_back(made);
}
template <int N, int T> PS_DEVICE void ps_wgmma_ss(float* d, uint64_t a, uint64_t b, int keep) {
  issue({d, nullptr, a, b, N, T != 0, keep != 0});
}
template <int N, int T> PS_DEVICE void ps_wgmma_rs(float* d, const uint32_t* a, uint64_t b, int keep) {
  issue({d, a, 0, b, N, T != 0, keep != 0});
}
PS_DEVICE void ps_wgmma_fence() {}
PS_DEVICE void ps_wgmma_commit() {
  Queue& mine = queues[thread()];
  mine.groups.push_back(std::move(mine.open));
  mine.open.clear();
}
template <int N> PS_DEVICE void ps_wgmma_wait() {
  Queue& mine = queues[thread()];
  while (mine.groups.size() > N) {
    std::vector<Wgmma> group = std::move(mine.groups.front());
    mine.groups.pop_front();
    for (const Wgmma& each : group) multiply(each);
  }
}

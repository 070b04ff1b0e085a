// Runs generated CUDA on a CPU: each thread of a block is a fibre that runs to the next barrier.
// A barrier that some threads of a block never reach ends the program (abort), as does a missing one
// by its wrong result: threads run in a shuffled order between barriers.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>
#include <algorithm>
#include <string.h>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__
#define __grid_constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define CUDART_INF_F INFINITY
#define CUDART_NAN_F NAN
#define CUDART_INF ((double)INFINITY)
#define CUDART_NAN ((double)NAN)

struct Place { int x, y, z; };
static Place blockIdx, threadIdx, blockDim, gridDim;
static unsigned char* penstock_pool;

using std::max;
using std::min;
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline float min(float a, float b) { return fminf(a, b); }

struct half {
  _Float16 v;
  half() = default;
  half(float x) : v((_Float16)x) {}
  operator float() const { return (float)v; }
};

struct nv_bfloat16 {
  uint16_t bits;
  nv_bfloat16() = default;
  nv_bfloat16(float x) {
    uint32_t word;
    memcpy(&word, &x, 4);
    bits = x != x ? 0x7fff : (word + 0x7fff + ((word >> 16) & 1)) >> 16;
  }
  operator float() const {
    uint32_t word = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &word, 4);
    return x;
  }
};
static inline nv_bfloat16 __float2bfloat16_rn(float x) { return nv_bfloat16(x); }
static inline float __bfloat162float(nv_bfloat16 x) { return (float)x; }

static inline half __float2half_rn(float x) { return half(x); }
static inline float __half2float(half x) { return (float)x; }

struct Fibre { ucontext_t context; std::vector<char> stack; bool done; };
static ucontext_t scheduler;
static Fibre* running;
static void (*body)();
static long progress;  // grows whenever a thread gets past a barrier, or ends
static int block_threads;
static void enter() { body(); running->done = true; ++progress; swapcontext(&running->context, &scheduler); }
template <typename F> static inline void wait_until(F reached) {
  while (!reached()) swapcontext(&running->context, &scheduler);
  ++progress;
}

struct Barrier {
  int arrived = 0;
  long generation = 0;
  void meet(int threads) {
    long mine = generation;
    if (++arrived == threads) { arrived = 0; ++generation; ++progress; }
    else wait_until([&] { return generation != mine; });
  }
};
static Barrier all_threads;
static inline void __syncthreads() { all_threads.meet(block_threads); }

static void run_block(int threads) {
  static std::vector<Fibre> fibres;
  fibres.resize(std::max<size_t>(fibres.size(), threads));
  block_threads = threads;
  all_threads = Barrier();
  for (int t = 0; t < threads; ++t) {
    Fibre& f = fibres[t];
    f.stack.resize(1 << 16);
    f.done = false;
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack.data();
    f.context.uc_stack.ss_size = f.stack.size();
    f.context.uc_link = nullptr;
    makecontext(&f.context, enter, 0);
  }
  for (int step = 1;; ++step) {
    int finished = 0;
    long before = progress;
    for (int n = 0; n < threads; ++n) {
      int t = step % 2 ? n : threads - 1 - n;
      finished += fibres[t].done;
      if (fibres[t].done) continue;
      running = &fibres[t];
      threadIdx = {t, 0, 0};
      swapcontext(&scheduler, &fibres[t].context);
    }
    if (finished == threads) return;
    if (progress == before) {
      fprintf(stderr, all_threads.arrived ? "barrier under a condition on the thread\n"
                                          : "the threads wait for each other\n");
      abort();
    }
  }
}

static void launch(const int* grid, int threads, int shared, void (*f)()) {
  body = f;
  gridDim = {grid[0], grid[1], grid[2]};
  blockDim = {threads, 1, 1};
  penstock_pool = (unsigned char*)aligned_alloc(1024, (shared / 1024 + 1) * 1024);
  for (int z = 0; z < grid[2]; ++z)
    for (int y = 0; y < grid[1]; ++y)
      for (int x = 0; x < grid[0]; ++x) {
        for (int i = 0; i < shared; ++i) penstock_pool[i] = 0xff;  // NaN: contents are undefined
        blockIdx = {x, y, z};
        run_block(threads);
      }
  free(penstock_pool);
}

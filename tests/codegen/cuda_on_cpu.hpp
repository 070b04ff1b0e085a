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
#define __forceinline__ inline
#define __launch_bounds__(n)
#define __align__(n) alignas(n)
#define CUDART_INF_F INFINITY
#define CUDART_NAN_F NAN
#define CUDART_INF ((double)INFINITY)
#define CUDART_NAN ((double)NAN)

struct Place { int x, y, z; };
static Place blockIdx, threadIdx, blockDim, gridDim;
alignas(64) static unsigned char* penstock_pool;

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

static inline half __float2half_rn(float x) { return half(x); }
static inline float __half2float(half x) { return (float)x; }

struct Fibre { ucontext_t context; std::vector<char> stack; bool done; };
static ucontext_t scheduler;
static Fibre* running;
static void (*body)();
static void enter() { body(); running->done = true; swapcontext(&running->context, &scheduler); }
static inline void __syncthreads() { swapcontext(&running->context, &scheduler); }

static void run_block(int threads) {
  static std::vector<Fibre> fibres;
  fibres.resize(std::max<size_t>(fibres.size(), threads));
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
  int step = 1;
  while (true) {
    int finished = 0;
    for (int n = 0; n < threads; ++n) {
      int t = step % 2 ? n : threads - 1 - n;
      running = &fibres[t];
      threadIdx = {t, 0, 0};
      swapcontext(&scheduler, &fibres[t].context);
      finished += fibres[t].done;
    }
    ++step;
    if (finished == threads) return;
    if (finished) { fprintf(stderr, "barrier under a condition on the thread\n"); abort(); }
  }
}

static void launch(const int* grid, int threads, int shared, void (*f)()) {
  body = f;
  gridDim = {grid[0], grid[1], grid[2]};
  blockDim = {threads, 1, 1};
  penstock_pool = (unsigned char*)aligned_alloc(64, shared + 64);
  for (int z = 0; z < grid[2]; ++z)
    for (int y = 0; y < grid[1]; ++y)
      for (int x = 0; x < grid[0]; ++x) {
        for (int i = 0; i < shared; ++i) penstock_pool[i] = 0xff;  // NaN: contents are undefined
        blockIdx = {x, y, z};
        run_block(threads);
      }
  free(penstock_pool);
}

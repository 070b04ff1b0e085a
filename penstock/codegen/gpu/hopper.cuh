// PTX operations of Hopper kernels (sm_90a): TMA, mbarrier, wgmma.
struct alignas(64) PsMap { uint64_t words[16]; };  // a CUtensorMap
PS_DEVICE void ps_barrier_init(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(ps_shared(barrier)), "r"(arrivals));
}
PS_DEVICE void ps_barriers_ready() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
PS_DEVICE void ps_expect(uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(ps_shared(barrier)),
               "r"(bytes) : "memory");
}
PS_DEVICE void ps_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(ps_shared(barrier)) : "memory");
}
// Until the phase of that parity is over.
PS_DEVICE void ps_wait(uint64_t* barrier, int parity) {
  uint32_t done;
  do {
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done) : "r"(ps_shared(barrier)), "r"(parity) : "memory");
  } while (!done);
}
// A box of a tensor into shared memory; the barrier counts its bytes. The last dimension comes first.
#define PS_TMA(n) \
  "cp.async.bulk.tensor." #n "d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, "
PS_DEVICE void ps_box(void* to, const PsMap& map, uint64_t* barrier, int a, int b) {
  asm volatile(PS_TMA(2) "{%3, %4}], [%2];" ::"r"(ps_shared(to)), "l"(&map), "r"(ps_shared(barrier)), "r"(a), "r"(b)
         : "memory");
}
PS_DEVICE void ps_box(void* to, const PsMap& map, uint64_t* barrier, int a, int b, int c) {
  asm volatile(PS_TMA(3) "{%3, %4, %5}], [%2];" ::"r"(ps_shared(to)), "l"(&map), "r"(ps_shared(barrier)), "r"(a),
         "r"(b), "r"(c) : "memory");
}
PS_DEVICE void ps_box(void* to, const PsMap& map, uint64_t* barrier, int a, int b, int c, int d) {
  asm volatile(PS_TMA(4) "{%3, %4, %5, %6}], [%2];" ::"r"(ps_shared(to)), "l"(&map), "r"(ps_shared(barrier)),
         "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}
PS_DEVICE void ps_box(void* to, const PsMap& map, uint64_t* barrier, int a, int b, int c, int d,
                      int e) {
  asm volatile(PS_TMA(5) "{%3, %4, %5, %6, %7}], [%2];" ::"r"(ps_shared(to)), "l"(&map),
         "r"(ps_shared(barrier)), "r"(a), "r"(b), "r"(c), "r"(d), "r"(e) : "memory");
}
// What ordinary stores wrote to shared memory, the tensor cores may read.
PS_DEVICE void ps_stores_visible() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
PS_DEVICE void ps_meet(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
template <int N> PS_DEVICE void ps_more_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N> PS_DEVICE void ps_fewer_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
PS_DEVICE void ps_wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
PS_DEVICE void ps_wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> PS_DEVICE void ps_wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
// Keeps a fragment where the instructions before have it.
template <int N> PS_DEVICE void ps_settle(float (&x)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(x[i])::"memory");
}
// A barrier arrival that cannot be moved in front of what gave x (no result has these bits).
PS_DEVICE void ps_arrive_after(uint64_t* barrier, float x) {
  if (__float_as_uint(x) != 0xffc0dead) ps_arrive(barrier);
}
// A tile in shared memory in 128-byte swizzle; see PTX ISA, "Matrix descriptor".
PS_DEVICE uint64_t ps_descriptor(const void* start, uint32_t leading, uint32_t stride) {
  return (uint64_t)((ps_shared(start) & 0x3ffff) >> 4) | (uint64_t)(leading >> 4) << 16 |
         (uint64_t)(stride >> 4) << 32 | (uint64_t)1 << 62;
}
// An element of lines of 64-element pieces that a box brought.
PS_DEVICE ps_element ps_swizzled(const uint8_t* start, int lines, int line, int run) {
  return *(const ps_element*)(start + (run / 64 * lines + line) * 128 +
                              (run % 64 * 2 ^ line % 8 * 16));
}

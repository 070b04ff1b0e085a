// PTX operations and number functions of tensor-core kernels (sm_80 and later).
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>
#define PS_INF __int_as_float(0x7f800000)
#define PS_NAN __int_as_float(0x7fc00000)
#if PS_BF16
typedef __nv_bfloat16 ps_element;
#else
typedef __half ps_element;
#endif
#define PS_DEVICE static __device__ __forceinline__
#define PS_DEVICE_IN __device__ __forceinline__

PS_DEVICE float ps_float(__nv_bfloat16 x) { return __bfloat162float(x); }
PS_DEVICE float ps_float(__half x) { return __half2float(x); }
PS_DEVICE float ps_float(float x) { return x; }
PS_DEVICE void ps_round_to(__nv_bfloat16& y, float x) { y = __float2bfloat16_rn(x); }
PS_DEVICE void ps_round_to(__half& y, float x) { y = __float2half_rn(x); }
PS_DEVICE void ps_round_to(float& y, float x) { y = x; }

// Two values, the first in the low half.
PS_DEVICE uint32_t ps_pack(float low, float high) {
  uint32_t d;
#if PS_BF16
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
#else
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
#endif
  return d;
}

PS_DEVICE float ps_ex2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
PS_DEVICE float ps_rcp(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

PS_DEVICE uint32_t ps_shared(const void* place) {
  return (uint32_t)__cvta_generic_to_shared(place);
}
// 16 bytes from global to shared memory, or zeros; complete at a wait of its group.
PS_DEVICE void ps_copy16(void* to, const void* from, bool there) {
  int bytes = there ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(ps_shared(to)), "l"(from),
               "r"(bytes) : "memory");
}
PS_DEVICE void ps_copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> PS_DEVICE void ps_copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Four 8x8 matrices: the lanes 8 i .. 8 i + 7 give the rows of matrix i.
PS_DEVICE void ps_ldmatrix(uint32_t (&d)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(ps_shared(row)) : "memory");
}
PS_DEVICE void ps_ldmatrix_t(uint32_t (&d)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(ps_shared(row)) : "memory");
}
// c[16, 8] += a[16, 16] b[16, 8]
#if PS_BF16
#define PS_MMA "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
#else
#define PS_MMA "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
#endif
PS_DEVICE void ps_mma(float* c, const uint32_t* a, uint32_t b0, uint32_t b1) {
  asm volatile(PS_MMA "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
PS_DEVICE float ps_shuffle_xor(float x, int lanes) { return __shfl_xor_sync(~0u, x, lanes); }
PS_DEVICE uint32_t ps_shuffle(uint32_t x, int lane) { return __shfl_sync(~0u, x, lane); }
PS_DEVICE float ps_half_of(uint32_t word, int half) {
  return ps_float(((const ps_element*)&word)[half]);
}
PS_DEVICE bool ps_block_any(bool x) {
  __syncwarp();
  return __syncthreads_or(x);
}
PS_DEVICE bool ps_quad_any(bool x) {
  return (__ballot_sync(~0u, x) >> (threadIdx.x & 28)) & 15;
}

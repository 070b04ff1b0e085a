/* A CUDA driver that notes what it is asked for. cuda.h has the prototypes: another signature does
 * not compile. A function's handle is its number; a descriptor holds what it was made of. */
#include <cuda.h>
#include <stdint.h>
#include <string.h>

struct Noted {
  uint64_t grid[3], block[3], shared, stream, most_shared, arguments[16];
};
struct Noted noted[16];
int launches, made, arguments_of[16];
static uint64_t most_shared[16];

struct Map {
  uint64_t type, rank, address, dims[5], strides[4], interleave, swizzle, promotion, fill;
};

CUresult CUDAAPI cuGetErrorString(CUresult error, const char **text) {
  *text = "refused";
  return CUDA_SUCCESS;
}
CUresult CUDAAPI cuModuleLoadData(CUmodule *module, const void *image) {
  *module = (CUmodule)image;
  return memcmp(image, "cubin", 5) ? CUDA_ERROR_INVALID_IMAGE : CUDA_SUCCESS;
}
CUresult CUDAAPI cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
  if (!strstr(name, "_kernel")) return CUDA_ERROR_NOT_FOUND;
  *function = (CUfunction)(intptr_t)++made;
  return CUDA_SUCCESS;
}
CUresult CUDAAPI cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
  if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_ERROR_INVALID_VALUE;
  most_shared[(intptr_t)function] = value;
  return CUDA_SUCCESS;
}
CUresult CUDAAPI cuTensorMapEncodeTiled(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank,
                                        void *address, const cuuint64_t *dims,
                                        const cuuint64_t *strides, const cuuint32_t *box,
                                        const cuuint32_t *steps, CUtensorMapInterleave interleave,
                                        CUtensorMapSwizzle swizzle,
                                        CUtensorMapL2promotion promotion,
                                        CUtensorMapFloatOOBfill fill) {
  struct Map m = {type, rank, (uint64_t)address};
  if ((uintptr_t)map % 64 || (uintptr_t)address % 16 || box[0] * 2 > 128 || sizeof m > sizeof *map)
    return CUDA_ERROR_INVALID_VALUE;
  for (unsigned i = 0; i < rank; ++i) {
    if (!box[i] || box[i] > 256 || steps[i] != 1) return CUDA_ERROR_INVALID_VALUE;
    if (i && strides[i - 1] % 16) return CUDA_ERROR_INVALID_VALUE;
    m.dims[i] = dims[i] | (uint64_t)box[i] << 32;
    if (i) m.strides[i - 1] = strides[i - 1];
  }
  m.interleave = interleave, m.swizzle = swizzle, m.promotion = promotion, m.fill = fill;
  memcpy(map, &m, sizeof m);
  return CUDA_SUCCESS;
}
CUresult CUDAAPI cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                                unsigned by, unsigned bz, unsigned shared, CUstream stream,
                                void **arguments, void **extra) {
  struct Noted *n = &noted[launches];
  if (extra) return CUDA_ERROR_INVALID_VALUE;
  *n = (struct Noted){{gx, gy, gz}, {bx, by, bz}, shared, (uint64_t)stream, most_shared[(intptr_t)f]};
  for (int i = 0; i < arguments_of[launches]; ++i) n->arguments[i] = *(uint64_t *)arguments[i];
  ++launches;
  return CUDA_SUCCESS;
}

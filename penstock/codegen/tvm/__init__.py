"""TVM kernels for CPUs and GPUs."""

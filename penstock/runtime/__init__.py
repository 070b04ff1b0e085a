"""Kernels in use: compiled on call, kept by digest, tuned by the clock."""

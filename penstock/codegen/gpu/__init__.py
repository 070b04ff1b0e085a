"""Kernels for tensor cores: tiles of a streaming design held in fragments of a warp."""

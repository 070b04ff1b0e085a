"""Random inputs for checking: large logits that fp32 still represents exactly.

Values are multiples of 1/16 in [-8, 8]. A dot product of two such vectors is then a multiple of
1/256 that fp32 holds exactly up to 2**16, so that logits of several hundred (where a wrong
running maximum overflows) compare without the noise of a different summation order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.shapes import Bound

__all__ = ["random_inputs"]

STEPS = 128  # multiples of 1/16 up to 8


def random_inputs(bound: Bound, fmt: Format, seed: int = 0) -> dict[str, NDArray[np.float64]]:
    """Return an array for each input of the cascade.

    Args:
        bound: the cascade with its extents.
        fmt: decides the dtype: float64 for fp64 and fixed formats, else float32 (values are
            exact in fp16 and bf16 too).
        seed: of the generator; the same seed gives the same arrays.

    Returns:
        Tensor → array of shape ``bound.dims[tensor]``.
    """
    generator = np.random.default_rng(seed)
    dtype = np.float64 if fmt.name == "fp64" or fmt.kind == "fixed" else np.float32
    return {
        each.tensor: (generator.integers(-STEPS, STEPS + 1, bound.dims[each.tensor]) / 16.0).astype(
            dtype
        )
        for each in bound.cascade.inputs
    }

"""A fused attention kernel in the style of Triton's tutorial, tuned by triton.autotune: a rival."""

from typing import Any

import triton
import triton.language as tl

CONFIGS = [
    triton.Config({"rows_of": bm, "keys_of": bn}, num_stages=stages, num_warps=warps)
    for bm, bn, stages, warps in (
        (128, 64, 3, 8), (128, 64, 3, 4), (128, 128, 2, 8), (128, 128, 3, 8), (64, 64, 3, 4),
    )
]  # fmt: skip
"""The ones that win for Hopper in Triton's own tutorial; each costs seconds to compile."""


@triton.jit
def _rows(
    acc,
    total,
    top,
    q,
    k_at,
    v_at,
    low,
    high,
    rows,
    scale,
    step,
    causal: tl.constexpr,
    keys_of: tl.constexpr,
):
    cols = tl.arange(0, keys_of)
    for start in range(low, high, keys_of):
        start = tl.multiple_of(start, keys_of)
        k = tl.load(k_at + start * step)
        s = tl.dot(q, k) * scale
        if causal:
            s = tl.where(rows[:, None] >= (start + cols)[None, :], s, -1.0e6)
        new = tl.maximum(top, tl.max(s, 1))
        p = tl.math.exp2(s - new[:, None])
        by = tl.math.exp2(top - new)
        total = total * by + tl.sum(p, 1)
        v = tl.load(v_at + start * step)
        acc = tl.dot(p.to(v.dtype), v, acc * by[:, None])
        top = new
    return acc, total, top


@triton.autotune(CONFIGS, key=["n", "d", "causal"])
@triton.jit
def _kernel(
    q_at,
    k_all,
    v_all,
    out_at,
    scale,
    n,
    d: tl.constexpr,
    causal: tl.constexpr,
    rows_of: tl.constexpr,
    keys_of: tl.constexpr,
):
    base = tl.program_id(1).to(tl.int64) * n * d
    block = tl.program_id(0)
    rows, cols, width = (
        block * rows_of + tl.arange(0, rows_of),
        tl.arange(0, keys_of),
        tl.arange(0, d),
    )
    q = tl.load(q_at + base + rows[:, None] * d + width[None, :])
    k_at = k_all + base + cols[None, :] * d + width[:, None]
    v_at = v_all + base + cols[:, None] * d + width[None, :]
    acc = tl.zeros([rows_of, d], tl.float32)
    total = tl.zeros([rows_of], tl.float32)
    top = tl.full([rows_of], float("-inf"), tl.float32)
    if causal:
        edge = block * rows_of // keys_of * keys_of
        acc, total, top = _rows(
            acc, total, top, q, k_at, v_at, 0, edge, rows, scale, d, False, keys_of
        )
        last = tl.minimum(n, (block + 1) * rows_of)
        acc, total, top = _rows(
            acc, total, top, q, k_at, v_at, edge, last, rows, scale, d, True, keys_of
        )
    else:
        acc, total, top = _rows(
            acc, total, top, q, k_at, v_at, 0, n, rows, scale, d, False, keys_of
        )
    tl.store(
        out_at + base + rows[:, None] * d + width[None, :],
        (acc / total[:, None]).to(out_at.dtype.element_ty),
    )


def attend(q: Any, k: Any, v: Any, out: Any, causal: bool) -> Any:
    """Attention of [1, h, n, d] tensors into ``out``."""
    _, heads, length, width = q.shape
    scale = 1.4426950408889634 / width**0.5
    grid = lambda chosen: (triton.cdiv(length, chosen["rows_of"]), heads)  # noqa: E731
    _kernel[grid](q, k, v, out, scale, length, width, causal)
    return out

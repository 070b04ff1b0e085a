"""PyTorch's attention and ours agree: imported flex_attention functions, and the stock notation.

Every case is computed by torch in float64 and in float32 on the same data. Ours in fp64 must be
as near to torch's float64 as ten times torch's own float32 error, and as a few rounding errors of
fp64; ours in fp32 as ten times torch's float32 error.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import flex_attention as flex
from torch.nn.attention.flex_attention import and_masks, create_mask, noop_mask, or_masks
from torch.nn.functional import scaled_dot_product_attention

import penstock
from penstock.einsum_ir.formats import parse_format
from penstock.importers.flex import from_flex

EPS = {torch.float32: 2.0**-23, torch.float64: 2.0**-52}


@pytest.fixture(autouse=True)
def _eager(monkeypatch):
    """Run flex_attention as it is written, without torch.compile."""
    monkeypatch.setattr(flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


def tensors(b, h, g, p, m, e, f, *, logits=1.0, seed=0):
    """Q, K, V in float64 with values of float32; `logits` is the usual size of the scores."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (b, h, p, e), (b, g, m, e), (b, g, m, f)
    q, k, v = (torch.randn(*each, generator=generator).double() for each in shapes)
    return (q * logits).float().double(), k, v


def in_torch(qkv, score_mod, mask_mod, dtype=torch.float64, **options):
    """The result of eager flex_attention, as float64.

    torch turns whole numbers into floats of its default type, which is therefore `dtype`.
    """
    q, k, v = (each.to(dtype) for each in qkv)
    mask = None
    if mask_mod is not None:
        b, h, p, m = (*q.shape[:3], k.shape[2])
        mask = flex.create_block_mask(mask_mod, b, h, p, m, device="cpu")
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return flex.flex_attention(q, k, v, score_mod, mask, **options).double()
    finally:
        torch.set_default_dtype(usual)


def ours(cascade, arrays, fmt):
    return torch.from_numpy(penstock.run(cascade, arrays, fmt=parse_format(fmt))["O"]).double()


def error(found, expected):
    assert found.shape == expected.shape
    assert torch.isfinite(found).all()
    return float((found - expected).abs().max())


def check(found64, found32, exact, single, scores, v):
    """Compare both formats; rounding errors grow with the scores that exp turns into weights.

    Args:
        found64: ours in fp64.
        found32: ours in fp32.
        exact: torch's in float64.
        single: torch's in float32.
        scores: the largest magnitude of a score.
        v: the values, which bound the result.
    """
    unit = 16 * (1 + scores) * float(v.abs().max())
    allowed = 10 * error(single, exact) + unit * EPS[torch.float64]
    assert error(found64, exact) <= allowed
    assert error(found64, exact) <= unit * EPS[torch.float64]
    assert error(found32, exact) <= 10 * error(single, exact) + unit * EPS[torch.float32] / 4


def agree(qkv, score_mod=None, mask_mod=None, *, bias=0.0, **options):
    """Check the imported form against flex_attention, and return both in float64.

    `bias` is what `score_mod` may add to a score, where that is more than the scores.
    """
    cascade, captured = from_flex(score_mod, mask_mod, **options)
    assert penstock.parse(str(cascade)) == cascade
    arrays = dict(zip("QKV", (each.numpy() for each in qkv), strict=True)) | captured
    exact = in_torch(qkv, score_mod, mask_mod, **options)
    single = in_torch(qkv, score_mod, mask_mod, torch.float32, **options)
    found = ours(cascade, arrays, "fp64")
    check(found, ours(cascade, arrays, "fp32"), exact, single, largest(qkv) + bias, qkv[2])
    return found, exact


def largest(qkv):
    """The largest magnitude that a score Q K / sqrt(E) can have."""
    q, k, _ = qkv
    return float(q.norm(dim=-1).max() * k.norm(dim=-1).max() / math.sqrt(q.shape[-1]))


# --- the functions that users write -------------------------------------------------------------

SIZES = [  # b, h, g, p, m, e, f
    (1, 2, 2, 1, 1, 8, 8),
    (2, 3, 3, 37, 37, 16, 5),
    (1, 71, 71, 37, 37, 96, 96),
    (1, 4, 4, 19, 37, 96, 8),
    pytest.param((1, 2, 2, 1000, 1000, 96, 96), marks=pytest.mark.slow),
]
N = 1000
BIAS = torch.linspace(-3, 3, 71)
RELATIVE = torch.sin(torch.arange(2 * N + 1) * 0.7) * 2
DOCUMENT = torch.arange(N) // 7
PREFIX = torch.tensor([5, 11])


def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


def window(b, h, q_idx, kv_idx):
    return (q_idx - kv_idx).abs() <= 6


def prefix(b, h, q_idx, kv_idx):
    return kv_idx < PREFIX[b]


def document(b, h, q_idx, kv_idx):
    return DOCUMENT[q_idx] == DOCUMENT[kv_idx]


def relative(score, b, h, q_idx, kv_idx):
    return score + RELATIVE[q_idx - kv_idx + N]


def alibi(score, b, h, q_idx, kv_idx):
    return score - torch.exp2(-8.0 * (h + 1) / 64) * (q_idx - kv_idx)


def head_bias(score, b, h, q_idx, kv_idx):
    return score * BIAS[h] + (q_idx % 3 - kv_idx // 4)


def soft_cap(score, b, h, q_idx, kv_idx):
    return torch.tanh(score / 20) * 20


def capped_relative(score, b, h, q_idx, kv_idx):
    return soft_cap(relative(score, b, h, q_idx, kv_idx), b, h, q_idx, kv_idx)


def infinite(score, b, h, q_idx, kv_idx):
    return torch.where(q_idx > kv_idx, score, -torch.inf)


SCORES = [None, relative, alibi, head_bias, soft_cap, capped_relative, infinite]
MASKS = [
    None,
    noop_mask,
    causal,
    and_masks(causal, window),
    or_masks(causal, prefix),
    and_masks(causal, document),
    and_masks(or_masks(causal, prefix), document, noop_mask),
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("score_mod", SCORES)
def test_score_functions(score_mod, sizes):
    agree(tensors(*sizes), score_mod, causal)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("mask_mod", MASKS)
def test_mask_functions(mask_mod, sizes):
    agree(tensors(*sizes), None, mask_mod)


@pytest.mark.parametrize("logits", [10, 100, 1000])
@pytest.mark.parametrize("score_mod", [None, relative, soft_cap])
def test_large_logits(score_mod, logits):
    qkv = tensors(1, 2, 2, 37, 41, 64, 16, logits=logits)
    assert largest(qkv) > logits
    agree(qkv, score_mod, and_masks(causal, window))


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_grouped_queries(groups):
    agree(tensors(2, 6, groups, 11, 13, 8, 4), head_bias, causal, enable_gqa=True)


def test_a_scale_of_ones_own():
    agree(tensors(1, 2, 2, 9, 9, 16, 16), relative, causal, scale=0.3)


@pytest.mark.parametrize(
    ("score_mod", "mask_mod"),
    [
        (None, lambda b, h, q_idx, kv_idx: q_idx > kv_idx + 4),
        (infinite, None),
        (lambda score, b, h, q_idx, kv_idx: score + HIDDEN[q_idx, kv_idx], None),
        (lambda score, b, h, q_idx, kv_idx: -torch.where(q_idx > 4, -score, torch.inf), None),
    ],
)
def test_a_row_without_keys_is_zero(score_mod, mask_mod):
    found, exact = agree(tensors(1, 2, 2, 9, 9, 8, 8), score_mod, mask_mod)
    empty = (exact == 0).all(-1)
    assert 0 < empty.sum() < empty.numel()
    assert (found[empty] == 0).all()


HIDDEN = torch.zeros(9, 9).masked_fill(torch.arange(9) % 2 == 0, -torch.inf)
HIDDEN[:3] = -torch.inf


def test_negative_indices_count_from_the_end():
    def wrapped(score, b, h, q_idx, kv_idx):
        return score + BIAS[q_idx - kv_idx] + BIAS[-1]

    agree(tensors(1, 2, 2, 9, 11, 8, 8), wrapped)


# --- SDPA, and the notation of the zoo -----------------------------------------------------------


def seen(mask_mod, b, h, p, m):
    return create_mask(mask_mod, b, h, p, m, device="cpu")


STOCK = [  # stock cascade, score_mod, mask_mod, constants
    ("attention", None, None, {}),
    ("causal_attention", None, causal, {}),
    ("sliding_window", None, and_masks(causal, lambda b, h, q, k: q - k < 9), {"W": 9.0}),
    ("alibi", lambda s, b, h, q, k: s - torch.exp2(-8.0 * (h + 1) / 4) * (q - k), causal, {}),
    ("soft_cap", lambda s, b, h, q, k: torch.tanh(s / 50) * 50, causal, {}),
    ("prefix_lm", None, or_masks(causal, prefix), {}),
    ("document_mask", None, and_masks(causal, document), {}),
    ("gqa_causal", None, causal, {}),
]


@pytest.mark.parametrize("logits", [1, 300])
@pytest.mark.parametrize(
    ("name", "score_mod", "mask_mod", "constants"), STOCK, ids=[each[0] for each in STOCK]
)
def test_stock_cascades(name, score_mod, mask_mod, constants, logits):
    gqa = name == "gqa_causal"
    qkv = tensors(1, 4, 2 if gqa else 4, 37, 37, 24, 10, logits=logits)
    cascade = penstock.zoo.load(name)
    arrays = {
        each.tensor: value.numpy() if len(each.ranks) == 4 else value[0].numpy()
        for each, value in zip(cascade.inputs, qkv, strict=False)
    }
    extra = {"prefix_lm": ("N", PREFIX[:1]), "document_mask": ("D", DOCUMENT[:37])}
    if name in extra:
        arrays |= {extra[name][0]: extra[name][1].numpy()}
    found = [
        torch.from_numpy(
            penstock.run(cascade, arrays, constants=constants, fmt=parse_format(fmt))["O"]
        ).double()
        for fmt in ("fp64", "fp32")
    ]
    shape = qkv[0].shape[:3] + qkv[2].shape[3:]
    exact, single = (
        in_torch(qkv, score_mod, mask_mod, dtype, enable_gqa=gqa)
        for dtype in (torch.float64, torch.float32)
    )
    check(*(each.reshape(shape) for each in found), exact, single, largest(qkv), qkv[2])


@pytest.mark.parametrize("mask_mod", [None, causal, and_masks(causal, window), document])
@pytest.mark.parametrize("logits", [1, 1000])
@pytest.mark.parametrize("groups", [2, 6])
def test_sdpa(mask_mod, logits, groups):
    qkv = tensors(2, 6, groups, 37, 41, 24, 10, logits=logits)
    cascade, captured = from_flex(None, mask_mod, enable_gqa=groups != 6)
    arrays = dict(zip("QKV", (each.numpy() for each in qkv), strict=True)) | captured
    mask = None if mask_mod is None else seen(mask_mod, 2, 6, 37, 41)
    exact, single = (
        scaled_dot_product_attention(
            *(each.to(dtype) for each in qkv), mask, enable_gqa=groups != 6
        ).double()
        for dtype in (torch.float64, torch.float32)
    )
    found = [ours(cascade, arrays, fmt) for fmt in ("fp64", "fp32")]
    check(*found, exact, single, largest(qkv), qkv[2])


# --- random masks and scores ---------------------------------------------------------------------

TABLE = torch.tensor([3, -1, 4, 1, -5, 9, 2, 6, -5, 3, 5])


def numbers(depth):
    """Whole numbers of the indices, as text."""
    leaf = st.sampled_from(["b", "h", "q", "k", "1", "3", "(q - k)", "TABLE[q]", "TABLE[k]"])
    if not depth:
        return leaf
    below = numbers(depth - 1)
    return st.one_of(
        leaf,
        st.tuples(below, st.sampled_from("+-*"), below).map("({0[0]} {0[1]} {0[2]})".format),
        st.tuples(below, st.sampled_from(["//", "%"]), st.sampled_from("235")).map(
            "({0[0]} {0[1]} {0[2]})".format
        ),
        below.map("abs({})".format),
        st.tuples(below, below).map("torch.where({0[0]} < q, {0[1]}, k)".format),
        below.map("torch.clamp(0 * q + {}, min=-2, max=3)".format),
    )


def conditions(depth):
    """Conditions on the indices, as text."""
    sides = st.tuples(numbers(1), st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), numbers(1))
    leaf = sides.map("(0 * q + {0[0]} {0[1]} {0[2]})".format)
    if not depth:
        return leaf
    below = conditions(depth - 1)
    return st.one_of(
        st.tuples(below, st.sampled_from("&|^"), below).map("({0[0]} {0[1]} {0[2]})".format),
        below.map("(~{})".format),
        st.tuples(below, below, below).map("torch.where({0[0]}, {0[1]}, {0[2]})".format),
    )


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(mask=conditions(2), bias=numbers(2), seed=st.integers(0, 2**31))
def test_random_functions(mask, bias, seed):
    names = {"torch": torch, "TABLE": TABLE}
    mask_mod = eval(f"lambda b, h, q, k: {mask}", names)
    score_mod = eval(f"lambda s, b, h, q, k: s + 0.01 * ({bias})", names)
    sizes = np.random.default_rng(seed).integers(1, 11, 2)
    agree(tensors(2, 2, 2, *sizes, 4, 3, seed=seed), score_mod, mask_mod, bias=0.01 * 9**4)

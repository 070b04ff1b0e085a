"""Importing flex_attention functions: what they become, what they capture, what they may not do.

numpy arrays of indices broadcast as flex_attention's do, so that the functions themselves, run on
numpy's arrays, are the reference here; torch's is in `test_torch.py`.
"""

import math
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import and_masks, noop_mask, or_masks

import penstock
from penstock.errors import CascadeError
from penstock.importers.flex import from_flex

BIAS = np.array([0.5, -1.0, 2.0, 0.25])
TABLE = np.arange(24.0).reshape(4, 6) / 7
ORDER = np.array([3, 1, 0, 2, 5, 4, 6, 8, 7])


def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


def reference(q, k, v, score_mod, mask_mod):
    """Attention by numpy, with the functions run on arrays of indices."""
    at = np.ogrid[tuple(slice(n) for n in (*q.shape[:3], k.shape[2]))]
    scores = np.einsum("bhpe,bhme->bhpm", q, k) / math.sqrt(q.shape[-1])
    scores = np.broadcast_to(score_mod(scores, *at) if score_mod else scores, scores.shape)
    seen = np.broadcast_to(mask_mod(*at) if mask_mod else True, scores.shape)
    weights = np.where(seen, np.exp(np.where(seen, scores, 0)), 0)
    total = weights.sum(-1, keepdims=True)
    return np.einsum("bhpm,bhmf->bhpf", weights / np.where(total > 0, total, 1), v)


def check(score_mod=None, mask_mod=None):
    """Compare the cascade with the reference, and return the cascade."""
    generator = np.random.default_rng(3)
    q = generator.normal(size=(2, 3, 6, 4))
    k, v = generator.normal(size=(2, 3, 9, 4)), generator.normal(size=(2, 3, 9, 5))
    cascade, captured = from_flex(score_mod, mask_mod)
    found = penstock.run(cascade, {"Q": q, "K": k, "V": v, **captured})["O"]
    expected = reference(q, k, v, score_mod, mask_mod)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)
    return cascade


def predicate(mask_mod, **options):
    return str(from_flex(None, mask_mod, **options).cascade.einsum("QK").where)


def score(score_mod, **options):
    return str(from_flex(score_mod, **options).cascade.einsum("S").body)


# --- what they become ----------------------------------------------------------------------------


def test_the_plain_cascade_is_the_stock_one():
    cascade, captured = from_flex()
    assert captured == {}
    stock = str(penstock.zoo.load("attention"))
    for tensor in ("Q", "K", "V", "QS", "QK", "GM", "SN", "SD", "A", "O"):
        stock = stock.replace(f" {tensor}[h,", f" {tensor}[b, h,").replace(
            f"({tensor}[h,", f"({tensor}[b, h,"
        )
    stock = stock.replace("cascade attention", "cascade flex_attention")
    assert str(cascade) == stock


def test_grouped_queries_and_a_scale():
    text = str(from_flex(enable_gqa=True, scale=0.25, name="grouped").cascade)
    assert text.startswith(
        "cascade grouped(Q[b, h, p, e], K[b, g, m, e], V[b, g, m, f]) -> O[b, h, p, f]\n"
        "  const SC = 0.25\n  const R = H // G\n"
    )
    assert "QK[b, h, p, m] = QS[b, h, p, e] * K[b, h // R, m, e] :: sum[e]\n" in text
    assert "O[b, h, p, f] = A[b, h, p, m] * V[b, h // R, m, f] :: sum[m]" in text


@pytest.mark.parametrize(
    ("mask_mod", "printed"),
    [
        (causal, "p >= m"),
        (
            lambda b, h, q, k: (q - k < 3) & (k <= q) | ~(k != 0),
            "p - m < 3 and m <= p or not m != 0",
        ),
        (
            lambda b, h, q, k: (q // 4 == k // 4) ^ (h % 2 == 0),
            "(p // 4 == m // 4) != (h % 2 == 0)",
        ),
        (lambda b, h, q, k: abs(q - k) % 2 == b, "abs(p - m) % 2 == b"),
        (lambda b, h, q, k: np.where(h == 0, k <= q, k < 5), "where(h == 0, m <= p, m < 5)"),
        (
            lambda b, h, q, k: np.logical_and(q - k, np.minimum(k, 3) > 1),
            "p - m != 0 and min(m, 3) > 1",
        ),
        (lambda b, h, q, k: ORDER[q] <= ORDER[k], "ORDER[p] <= ORDER[m]"),
        (lambda b, h, q, k: np.clip(k, 1, 7) == k, "min(max(m, 1), 7) == m"),
    ],
)
def test_masks_become_predicates(mask_mod, printed):
    assert str(check(None, mask_mod).einsum("QK").where) == printed


@pytest.mark.parametrize(
    ("score_mod", "printed"),
    [
        (lambda s, b, h, q, k: s * BIAS[h], "QK[b, h, p, m] * BIAS[h]"),
        (lambda s, b, h, q, k: 20 * np.tanh(s / 20), "20 * tanh(QK[b, h, p, m] / 20)"),
        (
            lambda s, b, h, q, k: s + TABLE[h, k // 2] - TABLE[h, -1] + TABLE[0, 0],
            "QK[b, h, p, m] + TABLE[h, m // 2] - TABLE[h, 5] + 0",
        ),
        (lambda s, b, h, q, k: s + np.exp(BIAS)[h], "QK[b, h, p, m] + T[h]"),
        (
            lambda s, b, h, q, k: -s / (1 + np.exp(-(q - k) * 0.5)),
            "-QK[b, h, p, m] / (1 + exp(-(p - m) * 0.5))",
        ),
        (lambda s, b, h, q, k: s - np.maximum(q, 2) ** 0.5, "QK[b, h, p, m] - max(p, 2) ** 0.5"),
        (lambda s, b, h, q, k: s + (q > k), "QK[b, h, p, m] + (p > m)"),
        (lambda s, b, h, q, k: s + BIAS[k % 4], "QK[b, h, p, m] + BIAS[m % 4]"),
        (
            lambda s, b, h, q, k: s + np.float64(0.5) * np.ceil(q / 2),
            "QK[b, h, p, m] + 0.5 * -floor(-(p / 2))",
        ),
    ],
)
def test_scores_become_operators(score_mod, printed):
    assert str(check(score_mod).einsum("S").body) == printed


def test_torchs_functions_and_methods():
    def mod(s, b, h, q, k):
        far = torch.where((q - k).abs().clamp(max=4).ge(3), s.new_zeros(()), torch.ones_like(s))
        return (
            s.sigmoid() * far
            + torch.add(s, torch.tensor(2))
            - torch.div(q, 2, rounding_mode="floor")
        )

    assert score(mod) == (
        "sigmoid(QK[b, h, p, m]) * where(min(abs(p - m), 4) >= 3, 0, 1) + (QK[b, h, p, m] + 2)"
        " - p // 2"
    )
    assert predicate(lambda b, h, q, k: torch.tensor(5) >= q.float() / 2) == "5 >= p / 2"
    assert predicate(lambda b, h, q, k: k.masked_fill(q < k, 3) == 3) == "where(p < m, 3, m) == 3"
    assert predicate(lambda b, h, q, k: k.where(q < k, 3).eq(3)) == "where(p < m, m, 3) == 3"
    assert predicate(lambda b, h, q, k: (k / 3).to(torch.int64) == h) == (
        "where(m / 3 < 0, -floor(-(m / 3)), floor(m / 3)) == h"
    )


def test_masks_of_torch_combine():
    window = partial(lambda width, b, h, q, k: q - k < width, 4)
    assert predicate(and_masks(causal, window)) == "p >= m and p - m < 4"
    assert predicate(or_masks(causal, window)) == "p >= m or p - m < 4"
    assert from_flex(None, noop_mask).cascade == from_flex().cascade
    assert from_flex(None, lambda b, h, q, k: True).cascade == from_flex().cascade


def test_a_score_of_minus_infinity_becomes_a_predicate():
    def masked(s, b, h, q, k):
        return np.where(q >= k, s, -np.inf)

    assert from_flex(masked).cascade == from_flex(None, causal).cascade

    def added(s, b, h, q, k):
        return s + np.where(q < k, -np.inf, 0) + BIAS[h]

    einsums = from_flex(added, lambda b, h, q, k: k > 0).cascade
    assert str(einsums.einsum("QK").where) == "m > 0 and not p < m"
    assert str(einsums.einsum("S").body) == "QK[b, h, p, m] + BIAS[h]"

    def by_value(s, b, h, q, k):
        return np.where(s > 0, s, -np.inf)

    assert str(from_flex(by_value).cascade.einsum("S")) == (
        "S[b, h, p, m] = QK[b, h, p, m] s.t. QK[b, h, p, m] > 0"
    )
    hidden = np.array([0.0, -np.inf])
    einsum = from_flex(lambda s, b, h, q, k: s + hidden[k % 2]).cascade.einsum("SN")
    assert str(einsum.where) == "S[b, h, p, m] > -inf"


# --- what they capture ---------------------------------------------------------------------------


def test_captured_arrays_become_inputs():
    document = torch.tensor([0, 0, 1, 1])
    blocks = torch.ones(2, 3, 4, dtype=torch.bool)

    def mask(b, h, q_idx, kv_idx):
        return (document[q_idx] == document[kv_idx]) & blocks[h, q_idx // 128][kv_idx // 128]

    cascade, captured = from_flex(lambda s, b, h, q, k: s * BIAS[h], mask)
    assert [str(each) for each in cascade.inputs[3:]] == [
        "DOCUMENT[document_0]",
        "BLOCKS[blocks_0, blocks_1, blocks_2]",
        "BIAS[bias_0]",
    ]
    assert str(cascade.einsum("QK").where) == (
        "DOCUMENT[p] == DOCUMENT[m] and BLOCKS[h, p // 128, m // 128]"
    )
    assert {name: (each.dtype, each.shape) for name, each in captured.items()} == {
        "DOCUMENT": (np.int16, (4,)),  # so that coordinates ask for no fp64
        "BLOCKS": (np.bool_, (2, 3, 4)),
        "BIAS": (np.float64, (4,)),
    }
    assert type(captured["BIAS"]) is np.ndarray
    assert captured["BIAS"] is not BIAS


def test_an_array_read_twice_is_one_input_and_names_stay_apart():
    q = np.array([1.0, 2.0])
    other = {"list": [np.array([3.0, 4.0])]}

    def mod(s, b, h, q_idx, kv_idx, e_0=q + 1):
        return s * q[h] + q[b] + other["list"][0][h] + e_0[h]

    cascade, captured = from_flex(mod, lambda b, h, p, m: q[m] > 0)
    assert list(captured) == ["Q1", "LIST", "E_0"]
    assert str(cascade.einsum("QK").where) == "Q1[m] > 0"


def test_the_users_function_and_arrays_are_left_alone():
    before = (causal.__closure__, BIAS, type(BIAS))

    def mod(s, b, h, q, k):
        return s + helper(h)

    def helper(h):
        return BIAS[h] if h is None else BIAS[h] * 2

    assert score(mod) == "QK[b, h, p, m] + BIAS[h] * 2"
    assert (causal.__closure__, BIAS, type(BIAS)) == before
    assert type(mod.__globals__["BIAS"]) is np.ndarray


def test_indices_that_may_be_negative_count_from_the_end():
    rel = np.arange(20.0)

    def mod(s, b, h, q, k):
        return s + rel[q - k + 9]

    assert score(mod) == "QK[b, h, p, m] + REL[(p - m + 9) % REL_0]"
    assert score(mod, shapes={"p": 10, "m": 10}) == "QK[b, h, p, m] + REL[p - m + 9]"
    assert score(mod, shapes={"p": 10, "m": 11}) == "QK[b, h, p, m] + REL[(p - m + 9) % REL_0]"
    start = np.array([0, 4])
    assert (
        score(lambda s, b, h, q, k: s + rel[start[b] + q]) == "QK[b, h, p, m] + REL[START[b] + p]"
    )
    check(lambda s, b, h, q, k: s + rel[q - k])


def test_torch_is_not_imported_for_functions_that_do_without():
    code = (
        "import sys; from penstock.importers.flex import from_flex; import numpy as np\n"
        "from_flex(lambda s, b, h, q, k: np.tanh(s), lambda b, h, q, k: q >= k)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# --- what they may not do ------------------------------------------------------------------------


ONCE = "the function runs once, for all points together"


def branch(s, b, h, q, k):
    return s if q >= k else 0


def chained(b, h, q, k):
    return 0 <= q - k < 4


def bits(b, h, q, k):
    return (q & 1) == 0


def unindexed(s, b, h, q, k):
    return s + BIAS


def half_indexed(s, b, h, q, k):
    return s + TABLE[h]


def halved(s, b, h, q, k):
    return s + BIAS[q / 2]


def sliced(s, b, h, q, k):
    return s + TABLE[h, 1:]


def too_far(s, b, h, q, k):
    return s + TABLE[h, 6]


def too_many(s, b, h, q, k):
    return s + BIAS[h, q]


def listed(s, b, h, q, k):
    return s + [1.0, 2.0][h]


def python_math(s, b, h, q, k):
    return math.tanh(s)


def summed(s, b, h, q, k):
    return torch.cumsum(s, 0)


def approximate(s, b, h, q, k):
    return torch.nn.functional.gelu(s, approximate="tanh")


def nothing(s, b, h, q, k):
    s + 1


def words(s, b, h, q, k):
    return s + "1"


def both_conditions(s, b, h, q, k):
    return s + ((q > k) + (q > 3))


def made_inside(s, b, h, q, k):
    return s + s.new_ones(3)


class Held:
    def __init__(self):
        self.bias = BIAS

    def mod(self, s, b, h, q, k):
        return s + self.bias[h]


@pytest.mark.parametrize(
    ("function", "what", "marked", "fix"),
    [
        (
            branch,
            f"'p >= m' has no truth value: {ONCE}",
            "q >= k",
            "torch.where(condition, a, b) for if",
        ),
        (
            chained,
            f"'p - m >= 0' has no truth value: {ONCE}",
            "0 <= q - k < 4",
            "(0 <= x) & (x < W) for 0 <= x < W",
        ),
        (
            bits,
            "'p' is a number: & | ^ ~ are for conditions here, not for bits",
            "q & 1",
            "take bits with // and %",
        ),
        (
            unindexed,
            "an array of shape (4,) is used as one element",
            "s + BIAS",
            "index it by b, h, q_idx or kv_idx, as in bias[h]",
        ),
        (
            half_indexed,
            "a captured array of 2 dimensions is indexed by [h] only",
            "s + TABLE[h]",
            "give one index for each dimension",
        ),
        (
            halved,
            "'p / 2' is no whole number, and indexes a captured array",
            "BIAS[q / 2]",
            "write a // b for a / b",
        ),
        (
            sliced,
            "'slice(1, None, None)' takes a part of a captured array",
            "TABLE[h, 1:]",
            "give one whole number for each dimension",
        ),
        (too_far, "index 6 is outside a captured array of size 6", "TABLE[h, 6]", "use 0 to 5"),
        (
            too_many,
            "2 indices into a captured array of 1 dimensions",
            "BIAS[h, q]",
            "give one index for each dimension",
        ),
        (
            listed,
            f"'h' is no number yet: {ONCE}",
            "[1.0, 2.0][h]",
            "a numpy array or a torch tensor for a list",
        ),
        (
            python_math,
            f"'QK[b, h, p, m]' is no number yet: {ONCE}",
            "math.tanh(s)",
            "use torch.tanh or np.tanh for math.tanh",
        ),
        (
            summed,
            "torch's cumsum is no operator of an Einsum",
            "torch.cumsum(s, 0)",
            "comparisons, and abs, ",
        ),
        (
            approximate,
            (
                "torch's gelu has arguments that an Einsum cannot take: got an unexpected keyword "
                "argument 'approximate'"
            ),
            'torch.nn.functional.gelu(s, approximate="tanh")',
            "leave them out",
        ),
        (words, "'1' is used as one element", 's + "1"', "other values must be numbers"),
        (
            both_conditions,
            "'p > m' and 'p > 3' are both true or false: '+' is no operator for them",
            "(q > k) + (q > 3)",
            "use & | ~",
        ),
        (
            made_inside,
            "an array of shape (3,) is made inside the function",
            "s.new_ones(3)",
            "make it before the def and index it",
        ),
        (
            Held().mod,
            f"'h' is no number yet: {ONCE}",
            "self.bias[h]",
            "give the numpy array to the function as a variable of its own",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_errors_name_the_line_and_the_fix(function, what, marked, fix):
    kinds = {"mask_mod": function} if function in {chained, bits} else {"score_mod": function}
    with pytest.raises(CascadeError) as caught:
        from_flex(**kinds)
    error = caught.value
    assert error.what == what
    assert error.span.file == __file__
    start = error.span.column
    assert error.span.text[start : start + error.span.length] == marked
    assert fix in error.fix


def test_errors_of_functions_that_do_not_fit():
    with pytest.raises(CascadeError) as caught:
        from_flex(causal)
    assert str(caught.value) == (
        "score_mod cannot be called with 5 arguments: too many positional arguments\n"
        "fix: write score_mod(score, b, h, q_idx, kv_idx)"
    )
    with pytest.raises(CascadeError) as caught:
        from_flex(None, nothing)
    assert str(caught.value) == (
        "mask_mod cannot be called with 4 arguments: missing a required argument: 'k'\n"
        "fix: write mask_mod(b, h, q_idx, kv_idx)"
    )
    with pytest.raises(CascadeError) as caught:
        from_flex(nothing)
    assert str(caught.value) == "score_mod nothing returns nothing\nfix: end it with 'return ...'"


def test_complex_arrays_are_refused():
    phase = np.array([1j])
    with pytest.raises(CascadeError, match="a captured array has elements of type complex128"):
        from_flex(lambda s, b, h, q, k: s * phase[h])


@pytest.mark.parametrize(
    ("score_mod", "printed"),
    [
        (lambda s, b, h, q, k: torch.nn.functional.relu(s), "relu(QK[b, h, p, m])"),
        (lambda s, b, h, q, k: torch.nn.functional.silu(s), "silu(QK[b, h, p, m])"),
        (lambda s, b, h, q, k: s.pow(2) + 2**q, "QK[b, h, p, m] ** 2 + 2 ** p"),
        (lambda s, b, h, q, k: torch.full_like(s, 3) - s, "3 - QK[b, h, p, m]"),
        (lambda s, b, h, q, k: s - s.new_full((), 3), "QK[b, h, p, m] - 3"),
        (lambda s, b, h, q, k: s + q.bool().float(), "QK[b, h, p, m] + (p != 0)"),
        (lambda s, b, h, q, k: s.to("cpu") + q.to(s.device), "QK[b, h, p, m] + p"),
        (
            lambda s, b, h, q, k: s + torch.div(q, k, rounding_mode="trunc"),
            "QK[b, h, p, m] + where(p / m < 0, -floor(-(p / m)), floor(p / m))",
        ),
        (
            lambda s, b, h, q, k: s.where(torch.tensor(True), k).where(torch.tensor(q is q), k) / 2,
            "QK[b, h, p, m] / 2",
        ),
    ],
)
def test_more_of_torch(score_mod, printed):
    assert score(score_mod) == printed


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (lambda s, b, h, q, k: s + [1.0] * int(h), "'h' is no number yet: " + ONCE),
        (lambda s, b, h, q, k: s + torch.tensor([[1.0]])[h].sum(), "indexed by [h] only"),
        (lambda s, b, h, q, k: torch.exp(torch.tensor([[1.0]])[h]) + s, "indexed by [h] only"),
        (lambda s, b, h, q, k: np.exp(TABLE[h]) + s, "indexed by [h] only"),
    ],
)
def test_more_that_is_no_element(function, what):
    with pytest.raises(CascadeError) as caught:
        from_flex(function)
    assert what in caught.value.what


def test_a_function_may_use_a_variable_that_is_set_later():
    def mod(s, b, h, q, k):
        if s is None:
            return later
        return s * slopes[h]

    slopes = np.array([1.0, 2.0])
    assert score(mod) == "QK[b, h, p, m] * SLOPES[h]"
    later = slopes
    assert mod(None, 0, 0, 0, 0) is later

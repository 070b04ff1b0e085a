"""Inputs, float64 results and rival kernels of `measure.py`; needs torch and triton alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

Make = Callable[[], Callable[[], Any]]


def inputs(torch: Any, case: dict[str, Any]) -> dict[str, Any]:
    """Return random inputs by name, in the order of the kernel's parameters."""
    torch.manual_seed(case.get("seed", 1))
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}[case["format"]]
    found = {}
    for name, shape in case["inputs"].items():
        if name == "D":  # documents of uneven lengths
            ends = torch.sort(torch.randperm(shape[0] - 1)[:7] + 1).values
            place = torch.arange(shape[0])
            found[name] = (place[:, None] >= ends).sum(1).to(torch.int32).cuda()
        else:
            found[name] = torch.randn(shape, device="cuda", dtype=torch.float32).to(kind)
    return found


def _scores(
    torch: Any, case: dict[str, Any], given: dict[str, Any], scores: Any, h: Any, rows: Any
) -> Any:
    """Return scores of a head's rows as the case changes them, absent ones -inf."""
    keys = torch.arange(case["shape"]["m"], device="cuda")
    p, m = rows[:, None], keys[None, :]
    kind = case["case"]
    if kind == "soft_cap":
        scores = 50 * torch.tanh(scores / 50)
    if kind == "alibi":
        scores = scores - 2.0 ** (-8 * (h + 1) / case["shape"]["h"]) * (p - m)
    there = torch.ones_like(scores, dtype=torch.bool)
    if kind != "dense":
        there = m <= p
    if kind == "sliding_window":
        there = there & (p - m < case["constants"]["W"])
    if kind == "document_mask":
        there = there & (given["D"][rows][:, None] == given["D"][None, :])
    return scores.masked_fill(~there, float("-inf"))


def exact_rows(torch: Any, case: dict[str, Any], given: dict[str, Any]) -> tuple[Any, Any]:
    """Return float64 results of some rows of some heads, and which."""
    shape = case["shape"]
    heads = [0, shape["h"] - 1]
    rows = torch.randperm(shape["p"])[:96].sort().values.cuda()
    rows[0], rows[-1] = 0, shape["p"] - 1
    outs = []
    for h in heads:
        g = h * given["K"].shape[0] // shape["h"]
        q, k, v = (given[name][at].double() for name, at in (("Q", h), ("K", g), ("V", g)))
        scores = q[rows] @ k.T / shape["e"] ** 0.5
        scores = _scores(torch, case, given, scores, h, rows)
        if case["case"] == "attention_sink":
            sink = given["S"][h].double().expand(len(rows), 1)
            weights = torch.softmax(torch.cat([scores, sink], 1), -1)[:, :-1]
        else:
            weights = torch.softmax(scores, -1)
        outs.append(weights @ v)
    return torch.stack(outs), (heads, rows)


def rows_of(out: Any, rows: tuple[list[int], Any]) -> Any:
    """Return the checked rows of a result of shape [h, p, f]."""
    heads, places = rows
    return out.reshape(-1, *out.shape[-2:])[heads][:, places]


def ours(torch: Any, folder: Path, given: dict[str, Any]) -> Make:
    """Return what loads a generated kernel."""

    def make() -> Callable[[], Any]:
        from launch import Kernels

        kernels = Kernels(folder)
        listed = [given[each["name"]] for each in kernels.told["parameters"][: len(given)]]
        told = kernels.told["parameters"][len(given)]
        out = torch.full(
            told["shape"], float("nan"), dtype=getattr(torch, told["type"]), device="cuda"
        )
        return lambda: kernels(*listed, out=(out,))

    return make


def rivals(torch: Any, case: dict[str, Any], given: dict[str, Any]) -> dict[str, Make]:
    """Return the rivals that can compute a case."""
    q, k, v = (given[name][None] for name in "QKV")
    found: dict[str, Make] = {}
    if case["case"] in ("dense", "causal", "gqa_causal"):
        from torch.nn.attention import SDPBackend, sdpa_kernel

        causal, grouped = case["case"] != "dense", k.shape[1] != q.shape[1]

        def sdpa(backend: Any) -> Callable[[], Any]:
            def run() -> Any:
                with sdpa_kernel(backend):
                    return torch.nn.functional.scaled_dot_product_attention(
                        q, k, v, is_causal=causal, enable_gqa=grouped
                    )

            return run

        found["sdpa flash"] = functools.partial(sdpa, SDPBackend.FLASH_ATTENTION)
        found["sdpa cudnn"] = functools.partial(sdpa, SDPBackend.CUDNN_ATTENTION)
        if not grouped:
            found["triton"] = functools.partial(_triton, torch, q, k, v, causal)
    if case["case"] != "attention_sink":
        found["flex"] = functools.partial(_flex, torch, case, given, q, k, v)
    else:
        found["flex"] = functools.partial(_flex_sink, torch, given, q, k, v)
    return found


def _mods(torch: Any, case: dict[str, Any], given: dict[str, Any]) -> tuple[Any, Any]:
    kind, heads = case["case"], case["shape"]["h"]
    window, documents = case["constants"].get("W"), given.get("D")

    def mask(b: Any, h: Any, p: Any, m: Any) -> Any:
        there = p >= m
        if kind == "sliding_window":
            there = there & (p - m < window)
        if kind == "document_mask":
            there = there & (documents[p] == documents[m])
        return there

    def score(s: Any, b: Any, h: Any, p: Any, m: Any) -> Any:
        if kind == "soft_cap":
            return 50 * torch.tanh(s / 50)
        return s - torch.exp2(-8.0 * (h + 1) / heads) * (p - m)

    return (mask if kind != "dense" else None), (score if kind in ("soft_cap", "alibi") else None)


def _flex(torch: Any, case: dict[str, Any], given: dict[str, Any], q: Any, k: Any, v: Any) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    mask, score = _mods(torch, case, given)
    shape = case["shape"]
    blocks = mask and create_block_mask(mask, None, None, shape["p"], shape["m"], device="cuda")
    call = torch.compile(flex_attention, dynamic=False)
    grouped = k.shape[1] != q.shape[1]
    return lambda: call(q, k, v, score_mod=score, block_mask=blocks, enable_gqa=grouped)


def _flex_sink(torch: Any, given: dict[str, Any], q: Any, k: Any, v: Any) -> Any:
    """Sinks with flex_attention: its log-sum-exp rescales the result afterwards."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    length = q.shape[-2]
    blocks = create_block_mask(lambda b, h, p, m: p >= m, None, None, length, length, device="cuda")
    sinks = given["S"].float()[None, :, None]

    def whole() -> Any:
        out, lse = flex_attention(q, k, v, block_mask=blocks, enable_gqa=True, return_lse=True)
        return (out * torch.sigmoid(lse - sinks)[..., None]).to(out.dtype)

    return torch.compile(whole, dynamic=False)


def _triton(torch: Any, q: Any, k: Any, v: Any, causal: bool) -> Any:
    from triton_attention import attend

    out = torch.empty_like(q)
    return lambda: attend(q, k, v, out, causal)

"""Inputs, float64 results and rival kernels of `measure.py`; needs torch and triton alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

Call = Callable[[], Any]
Make = Callable[[], Call]

DEVICE = "cuda"
"""Where tensors are; `measure.py --cpu` sets another."""

DECODE = ("decode", "latent")
ONE_PASS = ("sigmoid",)


def inputs(torch: Any, case: dict[str, Any]) -> dict[str, Any]:
    """Return random inputs by name, in the order of the kernel's parameters."""
    torch.manual_seed(case.get("seed", 1))
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}[case["format"]]
    found = {}
    for name, shape in case["inputs"].items():
        if name == "D":  # documents of uneven lengths
            ends = torch.sort(torch.randperm(shape[0] - 1)[:7] + 1).values
            place = torch.arange(shape[0])
            found[name] = (place[:, None] >= ends).sum(1).to(torch.int32).to(DEVICE)
        else:
            found[name] = torch.randn(shape, device=DEVICE, dtype=torch.float32).to(kind)
    return found


def _scores(
    torch: Any, case: dict[str, Any], given: dict[str, Any], scores: Any, h: Any, rows: Any
) -> Any:
    """Return scores of a head's rows as the case changes them, absent ones -inf."""
    shape, kind = case["shape"], case["case"]
    keys = torch.arange(shape["m"], device=DEVICE)
    p, m = rows[:, None] + shape["m"] - shape["p"], keys[None, :]
    if kind == "soft_cap":
        scores = 50 * torch.tanh(scores / 50)
    if kind == "alibi":
        scores = scores - 2.0 ** (-8 * (h + 1) / shape["h"]) * (p - m)
    there = torch.ones_like(scores, dtype=torch.bool)
    if kind not in ("dense", "dense_wide", "neighborhood"):
        there = m <= p
    if kind == "neighborhood":
        there = _near(case, p, m)
    if kind == "sliding_window":
        there = there & (p - m < case["constants"]["W"])
    if kind == "document_mask":
        there = there & (given["D"][rows][:, None] == given["D"][None, :])
    return scores.masked_fill(~there, float("-inf"))


def _near(case: dict[str, Any], p: Any, m: Any) -> Any:
    """Whether two places of a grid are near each other."""
    columns, window = (int(case["constants"][name]) for name in "XW")
    rows = (p // columns - m // columns).abs() <= window
    return rows & ((p % columns - m % columns).abs() <= window)


def exact_rows(torch: Any, case: dict[str, Any], given: dict[str, Any]) -> tuple[Any, Any]:
    """Return float64 results of some rows of some heads, and which."""
    shape = case["shape"]
    given = _with_values(case, given)
    heads = sorted({0, shape["h"] // 2, shape["h"] - 1})
    rows = torch.randperm(shape["p"])[:96].sort().values.to(DEVICE)
    rows[0], rows[-1] = 0, shape["p"] - 1
    outs = []
    for h in heads:
        g = h * given["K"].shape[0] // shape["h"]
        q, k, v = (given[name][at].double() for name, at in (("Q", h), ("K", g), ("V", g)))
        if case["case"] == "linear":
            state, total = _felt(torch, k).T @ v, _felt(torch, k).sum(0)
            some = _felt(torch, q[rows])
            outs.append(some @ state / (some @ total)[:, None])
            continue
        scores = q[rows] @ k.T / (192 if case["case"] == "latent" else shape["e"]) ** 0.5
        scores = _scores(torch, case, given, scores, h, rows)
        if case["case"] == "attention_sink":
            sink = given["S"][h].double().expand(len(rows), 1)
            weights = torch.softmax(torch.cat([scores, sink], 1), -1)[:, :-1]
        elif case["case"] in ONE_PASS:
            weights = torch.sigmoid(scores - math.log(shape["m"]))
        else:
            weights = torch.softmax(scores, -1)
        outs.append(weights @ v)
    return torch.stack(outs), (heads, rows)


def _with_values(case: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return inputs with K and V of groups of heads, where a latent is both."""
    if case["case"] != "latent":
        return given
    latent = given["K"][None]
    return {**given, "K": latent, "V": latent[..., : case["shape"]["f"]]}


def _felt(torch: Any, x: Any) -> Any:
    """Return the features of linear attention: elu + 1."""
    return torch.where(x > 0, x + 1, torch.exp(x))


def rows_of(out: Any, rows: tuple[list[int], Any]) -> Any:
    """Return the checked rows of a result of shape [h, p, f]."""
    heads, places = rows
    return out.reshape(-1, *out.shape[-2:])[heads][:, places]


def ours(torch: Any, folder: Path, given: dict[str, Any]) -> Call:
    """Return a generated kernel."""
    from launch import Kernels

    kernels = Kernels(folder)
    told = kernels.told["parameters"]
    listed = [given[each["name"]] for each in told[: len(given)]]
    out = tuple(
        torch.full(each["shape"], float("nan"), dtype=getattr(torch, each["type"]), device=DEVICE)
        for each in told[len(given) :]
    )

    def call() -> Any:
        kernels(*listed, out=out)
        return out[0]

    return call


def names(case: str) -> tuple[str, ...]:
    """Return the rivals that can compute a case, quick ones first."""
    if case in (*ONE_PASS, "linear", "latent"):
        return ("torch compiled",)
    if case in DECODE:
        return ("sdpa flash", "sdpa cudnn", "flex")
    if case == "gqa_causal":
        return ("sdpa flash", "sdpa cudnn", "flex")
    if case == "dense_wide":
        return ("sdpa flash", "sdpa cudnn", "flex")
    if case in ("dense", "causal"):
        return ("sdpa flash", "sdpa cudnn", "triton", "flex")
    return ("flex",)


def rivals(torch: Any, case: dict[str, Any], given: dict[str, Any]) -> dict[str, Make]:
    """Return the rivals by name; each is made when it is called."""
    q, k, v = (_with_values(case, given)[name][None] for name in "QKV")
    plain = functools.partial(_sdpa, torch, q, k, v, case["case"] in ("causal", "gqa_causal"))
    made: dict[str, Make] = {
        "sdpa flash": functools.partial(plain, "FLASH_ATTENTION"),
        "sdpa cudnn": functools.partial(plain, "CUDNN_ATTENTION"),
        "sdpa math": functools.partial(plain, "MATH"),
        "triton": functools.partial(_triton, torch, q, k, v, case["case"] == "causal"),
        "torch compiled": functools.partial(_one_pass, torch, case, q, k, v),
        "flex": functools.partial(_flex, torch, case, given, q, k, v),
    }
    if case["case"] == "attention_sink":
        made["flex"] = functools.partial(_flex_sink, torch, given, q, k, v)
    return made


def _sdpa(torch: Any, q: Any, k: Any, v: Any, causal: bool, backend: str) -> Call:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    grouped = k.shape[1] != q.shape[1]
    chosen = getattr(SDPBackend, backend)

    def run() -> Any:
        with sdpa_kernel(chosen):
            return torch.nn.functional.scaled_dot_product_attention(
                q, k, v, is_causal=causal, enable_gqa=grouped
            )

    return run


def _compiled(torch: Any, function: Any) -> Any:
    return torch.compile(function, dynamic=False) if DEVICE == "cuda" else function


def _one_pass(torch: Any, case: dict[str, Any], q: Any, k: Any, v: Any) -> Call:
    shape = case["shape"]
    rows, keys = (torch.arange(shape[name], device=DEVICE) for name in "pm")

    def linear() -> Any:
        state, total = _felt(torch, k).transpose(-1, -2) @ v, _felt(torch, k).sum(-2)
        some = _felt(torch, q)
        return some @ state / (some @ total[..., None])

    def latent() -> Any:
        scores = q[0, :, 0] @ k[0, 0].T / 192**0.5
        return (torch.softmax(scores.float(), -1).to(v.dtype) @ v[0, 0])[:, None]

    if case["case"] in ("linear", "latent"):
        return _compiled(torch, linear if case["case"] == "linear" else latent)
    there = keys[None, :] <= rows[:, None] + shape["m"] - shape["p"]

    def whole() -> Any:
        scores = q @ k.transpose(-1, -2) / shape["e"] ** 0.5
        return torch.where(there, torch.sigmoid(scores - math.log(shape["m"])), 0).to(v.dtype) @ v

    return _compiled(torch, whole)


def _mods(torch: Any, case: dict[str, Any], given: dict[str, Any]) -> tuple[Any, Any]:
    kind, heads = case["case"], case["shape"]["h"]
    window, documents = case["constants"].get("W"), given.get("D")

    def mask(b: Any, h: Any, p: Any, m: Any) -> Any:
        if kind == "neighborhood":
            return _near(case, p, m)
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

    masked = kind not in ("dense", "dense_wide", *DECODE)
    return (mask if masked else None), (score if kind in ("soft_cap", "alibi") else None)


def _flex(torch: Any, case: dict[str, Any], given: dict[str, Any], q: Any, k: Any, v: Any) -> Call:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    mask, score = _mods(torch, case, given)
    shape = case["shape"]
    blocks = mask and create_block_mask(mask, None, None, shape["p"], shape["m"], device=DEVICE)
    call = _compiled(torch, flex_attention)
    grouped = k.shape[1] != q.shape[1]
    return lambda: call(q, k, v, score_mod=score, block_mask=blocks, enable_gqa=grouped)


def _flex_sink(torch: Any, given: dict[str, Any], q: Any, k: Any, v: Any) -> Call:
    """Sinks with flex_attention: its log-sum-exp rescales the result afterwards."""
    from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention

    length = q.shape[-2]
    blocks = create_block_mask(lambda b, h, p, m: p >= m, None, None, length, length, device=DEVICE)
    sinks = given["S"].float()[None, :, None]

    def whole() -> Any:
        wanted = AuxRequest(lse=True)
        out, aux = flex_attention(q, k, v, block_mask=blocks, enable_gqa=True, return_aux=wanted)
        return (out * torch.sigmoid(aux.lse - sinks)[..., None]).to(out.dtype)

    return _compiled(torch, whole)


def _triton(torch: Any, q: Any, k: Any, v: Any, causal: bool) -> Call:
    from triton_attention import attend

    out = torch.empty_like(q)
    return lambda: attend(q, k, v, out, causal)

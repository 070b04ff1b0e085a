"""Attention on this CPU: penstock beside PyTorch's SDPA, compiled FlexAttention, and NumPy.

    python benchmarks/cpu/run.py [--threads N] [--heads 8] [--quick] [--case NAME ...]
                                 [--format fp32|bf16] [--json FILE]

fp32, or bf16, which NumPy has not. Every implementation is first checked against float64; then all
of a case run in turn, again and again, on the same number of threads, and NumPy after them: its
threads spin for a while after each call. A row gives medians and ratios. The last columns count the
multiply-adds of present points (2 operations each), and their share of what the same threads do in
a loop of nothing but multiply-adds, measured before each case; "at 100%" is the ratio to PyTorch's
best that a kernel with nothing but those multiply-adds at that peak would have: no kernel that
computes each present point once can be above it. With one thread the clock is the CPU time of that
thread, so that other work on the machine counts less; the columns called "least" are of each one's
fastest run, which it disturbs least. `taskset -c 1` keeps all on one core.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import penstock
from penstock import zoo

LIMITS = {"fp32": 1e-5, "bf16": 2**-7}
"""Largest difference from float64, relative to the largest value; of bf16, 2 units of its last."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

PAIRS = """
#include <immintrin.h>
float peak(long count) {
    __m512 a[12];
    __m512bh b = (__m512bh)_mm512_set1_epi16(0x3f7f), c = (__m512bh)_mm512_set1_epi16(0x3a83);
    for (int i = 0; i < 12; ++i) a[i] = _mm512_set1_ps(i);
    for (long n = 0; n < count; ++n) {
        _Pragma("GCC unroll 12") for (int i = 0; i < 12; ++i) a[i] = _mm512_dpbf16_ps(a[i], b, c);
        __asm__ volatile("" ::"v"(a[0]));
    }
    float s = 0;
    for (int i = 0; i < 12; ++i) s += a[i][0];
    return s;
}
"""

PEAK = """
typedef float V __attribute__((vector_size(BYTES)));
float peak(long count) {
    V a[12], b, c;
    for (int i = 0; i < 12; ++i) a[i] = (V){} + (float)i;
    b = (V){} + 0.999f, c = (V){} + 0.001f;
    for (long n = 0; n < count; ++n)
        _Pragma("GCC unroll 12") for (int i = 0; i < 12; ++i) a[i] = a[i] * b + c;
    float s = 0;
    for (int i = 0; i < 12; ++i) s += a[i][0];
    return s;
}
"""


@dataclass(frozen=True)
class Case:
    """What is computed: a stock cascade, and the same for PyTorch.

    Args:
        name: of the row.
        cascade: in `penstock.zoo`.
        present: of a query and a key (int64 arrays), whether they meet; None: all do.
        bias: of head, query and key; added to the logits.
        constants: of the cascade.
        square: whether queries lie on a square grid (``y`` and ``x`` instead of ``p`` and ``m``).
    """

    name: str
    cascade: str
    present: Callable[..., torch.Tensor] | None = None
    bias: Callable[..., torch.Tensor] | None = None
    constants: tuple[tuple[str, float], ...] = ()
    square: int = 0


def causal(i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    """A query sees itself and what is before it."""
    return i >= j


def window(i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    """A query sees the 256 keys up to itself."""
    return (i >= j) & (i - j < 256)


def near(side: int) -> Callable[..., torch.Tensor]:
    """A pixel sees the 7 x 7 pixels nearest to it."""

    def present(i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        row, column = ((n - 3).clamp(0, side - 7) for n in (i // side, i % side))
        y, x = j // side, j % side
        return (y >= row) & (y < row + 7) & (x >= column) & (x < column + 7)

    return present


def cases(heads: int, length: int) -> Iterator[Case]:
    """Yield the cases for a length; it is a square."""
    side = math.isqrt(length)

    def slope(h: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        return -torch.exp2(-8.0 * (h + 1) / heads) * (i - j)

    yield Case("dense", "attention")
    yield Case("causal", "causal_attention")
    yield Case("window 256", "sliding_window", window, constants=(("W", 256.0),))
    yield Case("neighbourhood 7x7", "neighborhood_2d", near(side), square=side)
    yield Case("ALiBi", "alibi", causal, slope)


def implementations(
    case: Case, heads: int, length: int, dim: int, threads: int, fmt: str
) -> tuple[dict[str, Callable[[], np.ndarray]], np.ndarray, int]:
    """Return what is timed by name, the float64 result of one head, and the present points."""
    generator = torch.Generator().manual_seed(0)
    shape, dtype = (heads, length, dim), DTYPES[fmt]
    q, k, v = (torch.randn(shape, generator=generator).to(dtype) for _ in range(3))
    i, j = torch.arange(length)[:, None], torch.arange(length)[None, :]
    rule = causal if case.name == "causal" else case.present
    mask = None if rule is None else rule(i, j)
    points = heads * (length**2 if mask is None else int(mask.sum()))
    bias = None
    if case.bias is not None and mask is not None:
        head = torch.arange(heads)[:, None, None]
        bias = torch.where(mask, case.bias(head, i, j).float(), -math.inf)
    extra = {} if mask is None else {"attn_mask": mask}
    extra = extra if bias is None else {"attn_mask": bias[None].to(dtype)}
    extra = {"is_causal": True} if case.name == "causal" else extra
    sdpa = torch.nn.functional.scaled_dot_product_attention
    last = [each[-1:].double() for each in (q, k, v)]
    exact = mask if bias is None else bias[-1:].double()
    reference = sdpa(*last, attn_mask=exact)[0].numpy()
    torch._dynamo.reset()
    compiled = torch.compile(flex_attention)
    block = (
        None
        if rule is None
        else create_block_mask(lambda b, h, i, j: rule(i, j), 1, 1, length, length, device="cpu")
    )
    score = None
    if case.bias is not None:
        made = case.bias
        score = lambda s, b, h, i, j: s + made(h, i, j)  # noqa: E731 - what FlexAttention traces
    ours = penstock.jit(zoo.load(case.cascade), constants=dict(case.constants), threads=threads)
    given = (q, k, v)
    if case.square:
        given = tuple(e.reshape(heads, case.square, case.square, dim) for e in given)
        given = (*given, torch.zeros(heads, 13, 13, dtype=dtype))
    runs = {
        "penstock": lambda: ours(*given).reshape(heads, length, dim),
        "SDPA": lambda: sdpa(q[None], k[None], v[None], **extra)[0],
        "flex": lambda: compiled(q[None], k[None], v[None], block_mask=block, score_mod=score)[0],
    }
    if fmt == "fp32":
        additive = None if mask is None else torch.where(mask, 0.0, -math.inf)
        runs["numpy"] = plain(q, k, v, additive if bias is None else bias)
    return runs, reference, points


def plain(*given: torch.Tensor | None) -> Callable[[], np.ndarray]:
    """Return attention in NumPy, of queries, keys, values and what is added to the logits."""
    q, k, v, additive = (None if each is None else each.numpy() for each in given)

    def run() -> np.ndarray:
        scores = q @ k.transpose(0, 2, 1) * np.float32(q.shape[-1] ** -0.5)
        if additive is not None:
            scores += additive
        scores -= scores.max(-1, keepdims=True)
        np.exp(scores, out=scores)
        return (scores @ v) / scores.sum(-1, keepdims=True)

    return run


def clock(threads: int) -> Callable[[], float]:
    """Return what tells the time in seconds."""
    return time.thread_time if threads == 1 else time.perf_counter


def peak(threads: int, fmt: str) -> float:
    """Return the multiply-adds a second that the threads reach, as 1e9 operations (2 each)."""
    flags = Path("/proc/cpuinfo").read_text()
    size = 64 if "avx512f" in flags else 32
    pairs = fmt == "bf16" and "avx512_bf16" in flags
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "peak.c", Path(folder) / "peak.so"
        source.write_text(PAIRS if pairs else PEAK.replace("BYTES", str(size)))
        command = ["gcc", "-O3", "-march=native", "-mprefer-vector-width=512", "-shared", "-fPIC"]
        subprocess.run([*command, str(source), "-o", str(library)], check=True)
        run = ctypes.CDLL(str(library)).peak
    run.argtypes, run.restype = [ctypes.c_long], ctypes.c_float
    count, best = 3_000_000, 0.0
    now = clock(threads)
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(8):
            start = now()
            if threads == 1:
                run(count)
            else:
                list(pool.map(run, [count] * threads))
            seconds = now() - start
            best = max(
                best, threads * count * 12 * (size // 4) * (4 if pairs else 2) / seconds / 1e9
            )
    return best


def measure(
    case: Case, heads: int, length: int, dim: int, threads: int, budget: float, fmt: str
) -> dict:
    """Check and time one case; a competitor that fails is left out, and said."""
    row: dict = {"case": case.name, "heads": heads, "length": length, "dim": dim, "format": fmt}
    top = peak(threads, fmt)
    runs, reference, points = implementations(case, heads, length, dim, threads, fmt)
    times: dict[str, list[float]] = {}
    now = clock(threads)
    scale = np.abs(reference).max()
    for name, run in runs.items():
        try:
            made = run()[-1]
            made = made if isinstance(made, np.ndarray) else made.float().numpy()
            error = float(np.abs(made - reference).max() / scale)
        except Exception as failure:
            if name == "penstock":
                raise
            print(f"  {name} failed: {str(failure).splitlines()[0][:100]}", file=sys.stderr)
            continue
        row[f"{name}_error"] = error
        if error > LIMITS[fmt]:
            if name == "penstock":
                raise SystemExit(f"{name} is wrong: {error:.2e} of the largest value")
            print(f"  {name} is off by {error:.2e} of the largest value", file=sys.stderr)
        times[name] = []
    alone = ("numpy",)  # its threads spin for 0.1 s after a call, on the cores of what comes next
    alone = tuple(name for name in alone if name in times)
    for names, seconds in (tuple(name for name in times if name not in alone), budget), (alone, 0):
        end = time.perf_counter() + seconds
        while names and (time.perf_counter() < end or len(times[names[0]]) < 3):
            for name in names:
                start = now()
                runs[name]()
                times[name].append(now() - start)
    row |= {f"{name}_ms": statistics.median(each) * 1e3 for name, each in times.items()}
    row |= {f"{name}_best_ms": min(each) * 1e3 for name, each in times.items()}
    row["runs"] = len(times["penstock"])
    row["gflops"] = 4 * points * dim / row["penstock_ms"] / 1e6
    row["best_gflops"] = 4 * points * dim / row["penstock_best_ms"] / 1e6
    row["peak_gflops"] = top
    return row


HEAD = (
    f"{'case':18}{'N':>6}{'d':>5}{'penstock':>11}{'SDPA':>10}{'flex':>10}{'numpy':>10} ms"
    f"{'SDPA/p':>8}{'flex/p':>8}{'best/p':>8}{'least':>8}{'at 100%':>9}{'GFLOP/s':>9}"
    f"{'of peak':>9}{'least':>7}{'runs':>6}"
)


def line(row: dict) -> str:
    """Return a row of the table."""
    ours = row["penstock_ms"]
    others = {name: row.get(f"{name}_ms", math.nan) for name in ("SDPA", "flex", "numpy")}
    best = min(each for name, each in others.items() if name != "numpy" and each == each)
    text = f"{row['case']:18}{row['length']:6}{row['dim']:5}{ours:11.2f}"
    text += "".join(f"{each:10.2f}" for each in others.values()) + "   "
    text += f"{others['SDPA'] / ours:8.2f}{others['flex'] / ours:8.2f}{best / ours:8.2f}"
    least = min(row.get(f"{name}_best_ms", math.inf) for name in ("SDPA", "flex"))
    top = row["peak_gflops"]
    bound = best / ours / (row["gflops"] / top)
    text += f"{least / row['penstock_best_ms']:8.2f}{bound:9.2f}{row['gflops']:9.1f}"
    return text + f"{row['gflops'] / top:9.0%}{row['best_gflops'] / top:7.0%}{row['runs']:6}"


def main() -> None:
    """Run all cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="1024 x 64 only")
    parser.add_argument("--case", action="append", help="only rows of this name")
    parser.add_argument("--format", choices=tuple(DTYPES), default="fp32")
    parser.add_argument("--length", type=int, action="append", help="only rows of this length")
    parser.add_argument("--seconds", type=float, default=6.0, help="of timing for each row")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    os.environ["TVM_NUM_THREADS"] = str(given.threads)
    sizes = [(1024, 64)] if given.quick else [(n, d) for n in (1024, 4096) for d in (64, 128)]
    print(
        f"{platform.processor() or platform.machine()}, {given.threads} threads, {given.format}, "
        f"{given.heads} heads, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}"
    )
    print(HEAD, flush=True)
    rows = []
    for length, dim in sizes:
        for case in cases(given.heads, length):
            if given.case and case.name not in given.case:
                continue
            if given.length and length not in given.length:
                continue
            row = measure(
                case, given.heads, length, dim, given.threads, given.seconds, given.format
            )
            row |= {"threads": given.threads, "load": os.getloadavg()[0]}
            rows.append(row)
            print(line(row), flush=True)
            if given.json:
                given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""How long it takes to classify the tiles of masks over a million by a million points.

Run it: ``python benchmarks/tiles.py``. Each line: best of 5 runs, and the result.
"""

import time

import numpy as np

from penstock.einsum_ir.regions.tiling import classify, classify_heads

N, TILE = 1 << 20, 128
TWO = {"p": N, "m": N}
NEAR = "({0} - {1}) % DL == 0 and 0 <= {1}//DL - clamp({0}//DL - WL, 0, LD - WIN) < WIN"
NATTEN = {"DL": 16, "WL": 6, "WIN": 13, "LD": N // 16}
SPARSE = "m <= p and (p//B - m//B < LB or (m//B) % ST == 0)"
DOCUMENTS = {"D": np.sort(np.random.default_rng(0).integers(0, 300, N))}
WINDOWS = {"W": np.array([128, 4096, 128, 1024, 256, 128, 4096, 1024])}

MASKS = [
    ("causal", "m <= p", TWO, {}, {}),
    ("sliding window", "m <= p and p - m < W", TWO, {"W": 4096}, {}),
    ("window shifted at the border", "0 <= m - clamp(p - 64, 0, M - 129) < 129", TWO, {}, {}),
    ("dilated window", "(p - m) % 4 == 0 and 0 <= p - m < 4096", TWO, {}, {}),
    ("dilated by 3", "(p - m) % 3 == 0 and 0 <= p - m < 4096", TWO, {}, {}),
    ("block-sparse", SPARSE, TWO, {"B": 64, "LB": 16, "ST": 16}, {}),
    (
        "2-D neighbourhood",
        f"{NEAR.format('y', 'u')} and {NEAR.format('x', 'v')}",
        dict.fromkeys("yxuv", N),
        NATTEN,
        {},
    ),
    ("rows of 1024", "abs(p//1024 - m//1024) <= 3 and abs(p%1024 - m%1024) <= 3", TWO, {}, {}),
    ("300 documents", "D[p] == D[m] and m <= p", TWO, {}, DOCUMENTS),
]


def best(call):
    """The least time in seconds of 5 calls, and the last result."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - start)
    return min(times), result


def main():
    for name, predicate, extents, symbols, tables in MASKS:
        tiles = dict.fromkeys(extents, TILE)
        seconds, found = best(
            lambda p=predicate, e=extents, s=symbols, t=tables, c=tiles: classify(
                p, e, symbols=s, tables=t, tiles=c
            )
        )
        kinds = f"{found.empty} empty, {found.full} full, {found.partial} partial"
        print(f"{seconds:7.3f} s  {name}: {found.points} points; {kinds}")
    seconds, heads = best(
        lambda: classify_heads(
            "m <= p and p - m < W[h]",
            "h",
            {"h": 8, **TWO},
            tables=WINDOWS,
            tiles=dict.fromkeys(TWO, TILE),
        )
    )
    print(f"{seconds:7.3f} s  a window for each of 8 heads: {sum(heads.points)} points")


if __name__ == "__main__":
    main()

"""Which boxes a condition leaves empty: against a look at every point."""

import numpy as np
import pytest

from penstock.einsum_ir.frontend.notation import parse_expr
from penstock.einsum_ir.regions.bounds import box_status
from penstock.einsum_ir.regions.counting import holds_at
from penstock.einsum_ir.regions.occupied import occupied

NAMES, SIZE = ("p", "m", "q"), 24
CONDITIONS = [
    "m <= p",
    "m <= p and p - m < 5",
    "m <= p and m >= 2 * p - 7",  # a wedge: each half plane alone is wider
    "(m <= p and p - m < 3) or m < 2",
    "m % 5 == p % 5 and q > 20",
    "m // 4 == p // 3 and p + m + q == 31",
    "abs(p - m) + abs(p - q) < 3",
    "2 * m == 2 * p + 1",
    "p * m == 35",
    "not (m <= p) and q * q < p",
    "0 < clamp(p - 3, 0, 9) - m and clamp(p - 3, 0, 9) - m <= 2",
]


def boxes(rng, count):
    low = {name: rng.integers(0, SIZE, count) for name in NAMES}
    width = rng.integers(0, 9, (3, count))  # 0: no points
    high = {
        name: np.minimum(low[name] + w - 1, SIZE - 1) for name, w in zip(NAMES, width, strict=True)
    }
    return low, high


@pytest.mark.parametrize("text", CONDITIONS)
def test_against_every_point(text):
    rng = np.random.default_rng(7)
    pred = parse_expr(text)
    low, high = boxes(rng, 400)
    axes = np.ix_(*[np.arange(SIZE)] * 3)
    held = np.broadcast_to(holds_at(pred, dict(zip(NAMES, axes, strict=True)), {}), (SIZE,) * 3)
    want = [held[tuple(slice(low[n][k], high[n][k] + 1) for n in NAMES)].any() for k in range(400)]
    assert occupied(pred, low, high, {}).tolist() == want
    wide = [{name: each[name].reshape(20, 20).T for name in NAMES} for each in (low, high)]
    assert occupied(pred, *wide, {}).T.reshape(-1).tolist() == want


def test_intervals_alone_leave_some_of_them_open():
    pred = parse_expr(CONDITIONS[2])
    low, high = boxes(np.random.default_rng(7), 400)
    exact, open_ = occupied(pred, low, high, {}), box_status(pred, low, high, {}) >= 0
    assert (exact <= open_).all()
    assert exact.sum() < open_.sum()


def test_large_boxes_and_grids():
    # a line with one point in a million by a million, found and not found, without looking at all
    pred = parse_expr("3 * m == 2 * p + X and m >= 999998")
    low, high = {"p": np.zeros(1, int), "m": np.zeros(1, int)}, {"p": 10**6, "m": 10**6}
    high = {name: np.array([end]) for name, end in high.items()}
    assert occupied(pred, low, high, {"X": 1_000_000}).tolist() == [True]
    assert occupied(pred, low, high, {"X": 999_990}).tolist() == [False]
    # parts without a common variable are decided each by itself: 64 x 64 x 64 x 64 boxes
    steps = np.arange(64) * 8
    shape = {name: [-1 if k == n else 1 for k in range(4)] for n, name in enumerate("yuxv")}
    low = {name: steps.reshape(shape[name]) for name in "yuxv"}
    high = {name: low[name] + 7 for name in "yuxv"}
    near = "0 <= {0} - clamp({1} - 3, 0, 505) and {0} - clamp({1} - 3, 0, 505) < 7"
    both = parse_expr(f"{near.format('u', 'y')} and {near.format('v', 'x')}")
    one = occupied(parse_expr(near.format("u", "y")), {k: low[k][..., 0, 0] for k in "yu"},
                   {k: high[k][..., 0, 0] for k in "yu"}, {})  # fmt: skip
    found = occupied(both, low, high, {})
    assert found.shape == (64,) * 4
    assert found[50, :, 7, :].sum() == one[50].sum() * one[7].sum() == 9

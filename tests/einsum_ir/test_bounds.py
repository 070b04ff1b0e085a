"""Bounds of conditions over boxes, elimination and counts, against enumeration."""

import itertools
import math

import numpy as np
import pytest

from penstock.einsum_ir.frontend.notation import parse_expr
from penstock.einsum_ir.nodes import Num, Var, variables
from penstock.einsum_ir.regions.algebra import ExprAlgebra
from penstock.einsum_ir.regions.bounds import box_status, interval, possible
from penstock.einsum_ir.regions.conditions import FALSE, TRUE, condition, exists, expression
from penstock.einsum_ir.regions.counting import extremes, holds_at
from penstock.einsum_ir.regions.tiling import classify

SYMBOLS = {"W": 3, "M0": 4, "B": 2, "H": 4, "G": 2, "D": 1.5}
EXTENTS = {"m": 9, "p": 7, "m1": 3, "m0": 4, "h": 4}

AFFINE = [
    "m <= p",
    "m < p - 1",
    "p - m < W",
    "m1*M0 + m0 <= p",
    "2*m > 3*p + 1",
    "m - p <= m - 4",
    "m - m <= 0",
    "m0 >= m1*M0 - p",
    "not m <= p",
]
OTHERS = [
    "m == p",
    "m != p",
    "2*m == 2*p + 1",
    "2*m != 2*p + 1",
    "m <= p and p - m < W",
    "m <= p or m < B",
    "not (m <= p and p - m < W)",
    "abs(m - p) <= W",
    "abs(m - p) > W",
    "m//B == p//B",
    "m//M0 <= p//M0 - 1",
    "(p - m) % B == 0 and m <= p",
    "(m*2 + p) % 3 != 1",
    "m <= max(p, 3)",
    "min(m, p) >= 2",
    "clamp(p - 1, 0, 4) <= m and m < clamp(p - 1, 0, 4) + W",
    "where(m < 4, p, 2*p) > m",
    "where(m < 4, p > 2, m == p)",
    "m <= D*p",
    "m - 0.5 < p/2",
    "m // (H//G) == p",
    "m*p <= 12",
    "sq(m - p) <= 9",
    "m - 4*(m//4) == p - 4*(p//4)",
    "m % 3",
    "1 < m",
    "0 <= m and m < 9",
    "m > 100",
    "h*M0 + m0 < 10 and m1 <= 1 or m0 == 3",
    "fill(m//(p - 3), 2) > 1",
    "m//(p - 3) > 1",
    "not m//(p - 3) > 1",
]


def boxes(names):
    generator = np.random.default_rng(0)
    ends = [generator.integers(0, EXTENTS[name], size=(60, 2)) for name in names]
    low = {name: each.min(axis=1) for name, each in zip(names, ends, strict=True)}
    high = {name: each.max(axis=1) for name, each in zip(names, ends, strict=True)}
    for each in (low, high):  # single points, too
        for name in names:
            each[name][:10] = low[name][:10]
    return low, high


def inside(pred, low, high, names):
    axes = [np.arange(low[name], high[name] + 1) for name in names]
    grid = np.meshgrid(*axes, indexing="ij") if names else []
    return holds_at(pred, dict(zip(names, grid, strict=True)), SYMBOLS)


@pytest.mark.parametrize("text", AFFINE + OTHERS)
def test_box_status_is_sound(text):
    pred = parse_expr(text)
    names = variables(pred)
    low, high = boxes(names)
    status = box_status(pred, low, high, SYMBOLS)
    assert status.dtype == np.int8
    for place, state in enumerate(status):
        held = inside(
            pred,
            {name: low[name][place] for name in names},
            {name: high[name][place] for name in names},
            names,
        )
        truth = 1 if held.all() else 0 if held.any() else -1
        assert state in (truth, 0)
        if text in AFFINE:
            assert state == truth


@pytest.mark.parametrize("text", AFFINE + OTHERS)
def test_possible_in_expressions_is_what_box_status_says(text):
    pred = parse_expr(text)
    names = variables(pred)
    low, high = boxes(names)
    ranges = {name: (Var(f"{name}_low"), Var(f"{name}_high")) for name in names}
    test = possible(pred, ranges, ExprAlgebra(), SYMBOLS)
    status = box_status(pred, low, high, SYMBOLS)
    coordinates = {f"{name}_low": low[name] for name in names}
    coordinates |= {f"{name}_high": high[name] for name in names}
    np.testing.assert_array_equal(holds_at(test, coordinates, SYMBOLS), status >= 0)


def test_possible_is_a_short_test():
    ranges = {name: (Var(f"{name}_low"), Var(f"{name}_high")) for name in ("m1", "m0", "p")}
    test = possible(parse_expr("m1*M0 + m0 <= p"), ranges, ExprAlgebra(), SYMBOLS)
    assert str(test) == "m0_low + 4 * m1_low <= p_high"
    tile = {"m1": (Var("t"), Var("t")), "m0": (Num(0), Num(3)), "p": (Num(0), Num(7))}
    assert str(possible(parse_expr("m1*M0 + m0 <= p"), tile, ExprAlgebra(), SYMBOLS)) == (
        "4 * t <= 7"
    )


def test_what_is_known_folds_to_a_number():
    ranges = {"m": (Num(0), Num(3)), "p": (Num(4), Num(6))}
    assert possible(parse_expr("m <= p"), ranges, ExprAlgebra(), {}) == Num(1)
    assert possible(parse_expr("m > p"), ranges, ExprAlgebra(), {}) == Num(0)
    assert interval(parse_expr("2*m - p + 1"), ranges, ExprAlgebra(), {}) == (Num(-5), Num(3))


@pytest.mark.parametrize(
    ("text", "truth"),
    [("p - m < W", True), ("p - m > W", False), ("-W <= m", True), ("m == W", False)],
)
def test_an_infinite_number_decides(text, truth):
    assert condition(parse_expr(text), {"W": math.inf}) == (TRUE if truth else FALSE)


def test_a_tensor_is_unknown_but_never_full():
    box = {"m": np.array([0, 5])}, {"m": np.array([3, 8])}
    assert box_status(parse_expr("SEG[m] == 1"), *box, {}).tolist() == [0, 0]
    assert box_status(parse_expr("SEG[m] == 1 and m < 4"), *box, {}).tolist() == [0, -1]
    assert box_status(parse_expr("SEG[m] == 1 or m < 4"), *box, {}).tolist() == [0, 0]
    assert possible(parse_expr("SEG[m] == 1"), {"m": (Num(0), Num(1))}, ExprAlgebra(), {}) == Num(1)


def test_unbounded_variables_and_empty_boxes():
    low, high = {"p": np.array([0, 4])}, {"p": np.array([3, 2])}
    assert box_status(parse_expr("m <= p"), low, high, {}).tolist() == [0, -1]
    assert box_status(Num(0), low, high, {}).tolist() == [-1, -1]
    assert box_status(Num(1), low, high, {}).tolist() == [1, -1]


@pytest.mark.parametrize("text", AFFINE + OTHERS)
def test_counts(text):
    pred = parse_expr(text)
    names = variables(pred)
    extents = {name: EXTENTS[name] for name in names}
    held = inside(pred, dict.fromkeys(names, 0), {n: e - 1 for n, e in extents.items()}, names)
    assert classify(pred, {**extents, "e": 5}, symbols=SYMBOLS, small=0).points == 5 * int(
        held.sum()
    )


@pytest.mark.parametrize("text", AFFINE + OTHERS)
def test_exists_is_necessary_and_where_it_says_so_exact(text):
    pred = parse_expr(text)
    names = variables(pred)
    grid = np.meshgrid(*(np.arange(EXTENTS[name]) for name in names), indexing="ij")
    held = holds_at(pred, dict(zip(names, grid, strict=True)), SYMBOLS)
    for gone in itertools.chain([()], itertools.combinations(names, 1), [names[1:]]):
        found = exists(condition(pred, SYMBOLS), gone, EXTENTS)
        axes = tuple(names.index(name) for name in gone)
        truth = held.any(axis=axes, keepdims=True)
        expr = expression(found)
        coordinates = dict(zip(names, grid, strict=True))
        said = np.array(True) if expr is None else holds_at(expr, coordinates, {})
        assert not set(variables(expr or Num(1))) & set(gone)
        assert not (truth & ~said).any()
        if found.exact:
            assert not (said & ~truth).any()


def test_exists_keeps_short_forms():
    gone = exists(condition(parse_expr("m1*M0 + m0 <= p"), SYMBOLS), ["m0"], EXTENTS)
    assert (str(expression(gone)), gone.exact) == ("4 * m1 <= p", True)
    window = parse_expr("m <= p and p - m < W")
    gone = exists(condition(window, SYMBOLS), ["m"], EXTENTS)
    assert (expression(gone), gone.exact) == (None, True)
    split = parse_expr("m == m1*M0 + m0")
    gone = exists(condition(split, SYMBOLS), ["m0", "m1"], {**EXTENTS, "m": 12})
    assert (expression(gone), gone.exact) == (None, True)  # every m is in some tile
    block = exists(condition(parse_expr("m//B == p//B"), SYMBOLS), ["m"], {"m": 8, "p": 8})
    assert (expression(block), block.exact) == (None, True)


def test_extremes():
    pred = parse_expr("(p - m) % B == 0 and m < p")
    assert extremes(pred, ("p",), ("m",), {"p": 6, "m": 6}, SYMBOLS) == (False, True)
    pred = parse_expr("(p - m) % B == 0 and m <= p")
    assert extremes(pred, ("p",), ("m",), {"p": 3000, "m": 3000}, SYMBOLS) == (True, True)
    assert extremes(parse_expr("m > 10"), (), ("m",), {"m": 6}, {}) == (False, False)


@pytest.mark.parametrize(
    ("text", "extent", "count"),
    [
        ("m <= p", 10**6, 500000500000),
        ("m <= p and p - m < 100", 10**6, 99995050),
        ("abs(m - p) <= 64 or m < 16", 10**6, 144994680),
        ("(p - m) % 4 == 0 and m <= p", 10**4, 12505000),
        ("m//64 == p//64", 10**4, 639232),
    ],
)
def test_counts_of_spaces_too_large_to_walk(text, extent, count):
    assert classify(text, {"m": extent, "p": extent}).points == count

"""Operation counts, points and bytes against enumeration and numbers from papers."""

import itertools

import numpy as np
import pytest
from stock import STOCK_CASCADES

from penstock import zoo
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.regions.counting import holds_at
from penstock.einsum_ir.regions.guards import guards
from penstock.einsum_ir.shapes import bind
from penstock.einsum_ir.work import (
    compulsory_bytes,
    effective_points,
    elements_read,
    intensity,
    op_counts,
    output_ops,
    output_points,
    point_ops,
    points,
    present_points,
)

FP16 = parse_format("fp16")


def einsum(right, left="Z[p]"):
    inputs = "Q[p, m], K[p, m], X[p], I[p]"
    return parse(f"cascade c({inputs}) -> {left}\n  {left} = {right}").einsum("Z")


@pytest.mark.parametrize(
    ("right", "operators"),
    [
        ("Q[p, m] * K[p, m]", {"mac": 1}),
        ("Q[p, m] * K[p, m] * SC", {"*": 1, "mac": 1}),
        ("Q[p, m] * K[p, m] :: mean[m]", {"mac": 1}),
        ("Q[p, m] * K[p, m] :: max[m]", {"*": 1, "max": 1}),
        ("Q[p, m] * K[p, m] :: prod[m]", {"*": 2}),
        ("Q[p, m] :: max[m]", {"max": 1}),
        ("Q[p, m] :: min[m]", {"min": 1}),
        ("Q[p, m]", {"+": 1}),
        ("exp(Q[p, m] - X[p])", {"exp": 1, "-": 1, "+": 1}),
        ("X[p] / 2", {"/": 1}),
        ("X[p]", {}),
        ("3", {}),
        ("X[p] * (1 / sqrt(SC))", {"*": 1}),  # a constant, computed once
        ("X[p] + SC*(p - 3)", {"+": 1}),  # coordinates alone
        ("X[p] * sin(p)", {"*": 1, "sin": 1}),
        ("where(p < 3, X[p], -X[p])", {"where": 1, "neg": 1}),
        ("where(X[p] > 0, X[p], 0)", {"where": 1, ">": 1}),
        ("fill(X[p - 1], 0) + 1", {"+": 1}),
        ("X[I[p] + 1]", {}),  # an index
        ("X[p] s.t. X[p] * 2 > 3", {}),  # a predicate
        ("m * SC * 2 + 0 * X[p] :: sum[m]", {"+": 2, "*": 1}),
    ],
)
def test_point_ops(right, operators):
    assert point_ops(einsum(right)) == operators


def test_output_ops():
    assert output_ops(einsum("Q[p, m] :: mean[m]")) == {"/": 1}
    assert output_ops(einsum("Q[p, m]")) == {}


def test_one_pass_attention_per_score_as_in_fusemax():
    """FuseMax's artifact: one MAC per (e, m, p), one max, one sub-exp, one add, F MACs a score."""
    bound = bind(zoo.load("attention_1pass"), shapes=dict(b=2, h=3, p=32, m=64, m0=16, e=8, f=4))
    scores, tiles = 2 * 3 * 32 * 64, 2 * 3 * 32 * 4
    assert op_counts(bound) == {
        "mac": scores * (8 + 4),
        "max": scores + tiles,
        "exp": scores + tiles,
        "-": scores + tiles,
        "+": scores + tiles * (1 + 4),
        "*": tiles * (1 + 4),
        "/": 2 * 3 * 32 * 4,
    }


def test_points_and_present_points():
    bound = bind(zoo.load("causal_attention_1pass"), shapes=dict(h=2, p=6, m=7, m0=3, e=2, f=2))
    scores, values = bound.cascade.einsum("BQK"), bound.cascade.einsum("SLNV")
    assert points(bound, scores) == 2 * 6 * 9 * 2
    inside = sum(m <= p + 1 for p in range(6) for m in range(7))
    assert present_points(bound, scores) == 2 * 2 * inside
    assert present_points(bound, values) == 2 * 2 * 6 * 7  # only the range of V is its own
    assert effective_points(bound)["SLNV"] == 2 * 2 * inside
    assert output_points(bound, values) == 2 * 6 * 3 * 2
    assert present_points(bound, bound.cascade.einsums[1]) == 2 * 6


@pytest.mark.parametrize("name", STOCK_CASCADES)
def test_effective_points_are_those_in_the_guards(name):
    cascade = zoo.load(name)
    ranks = {rank for each in cascade.inputs for rank in each.ranks}
    ranks |= {rank for each in cascade.einsums for rank in each.variables}
    sizes = dict(b=2, h=4, g=2, p=5, m=7, m0=3, e=2, f=2, d=2, c=2, o=2, k=3, n=3)
    sizes = {rank: sizes.get(rank, 3) for rank in ranks if rank != "m1"}
    bound = bind(
        cascade, shapes=sizes, constants={"W": 3} if "W" in dict(cascade.constants) else {}
    )
    found, counts = guards(bound), effective_points(bound)
    for each in cascade.einsums:
        if each.init:
            continue
        guard = found[each.name]
        grid = np.meshgrid(*(np.arange(bound.extents[v]) for v in each.variables), indexing="ij")
        coordinates = dict(zip(each.variables, grid, strict=True))
        held = points(bound, each) if guard is None else holds_at(guard, coordinates, {}).sum()
        assert counts[each.name] == held <= points(bound, each)


def test_mean_divides_once_for_each_element():
    cascade = parse("cascade c(X[p, m]) -> Y[p]\n  Y[p] = X[p, m] :: mean[m] s.t. m < p")
    assert op_counts(bind(cascade, shapes=dict(p=4, m=4))) == {"+": 6, "/": 3}


def test_only_what_is_read_comes_in():
    bound = bind(
        zoo.load("sliding_window"), shapes=dict(h=2, p=1, m=1000, e=4, f=4), constants={"W": 128}
    )
    assert elements_read(bound) == {"Q": 8, "K": 2 * 128 * 4, "V": 2 * 128 * 4}
    assert compulsory_bytes(bound, FP16) == 2 * (8 + 2 * 1024 + 8)


def test_elements_read_against_enumeration():
    text = """cascade c(X[m], Y[n, k]) -> Z[p]
  shape p = 4
  shape w = 3
  Z[p] = X[2*p + w - 1] * Y[w, p // 2] * X[p + 5] s.t. w <= p"""
    bound = bind(parse(text), shapes=dict(m=20, n=5, k=4))
    first, second = set(), set()
    for p, w in itertools.product(range(4), range(3)):
        if w <= p and 2 * p + w - 1 >= 0:
            first |= {2 * p + w - 1, p + 5}
            second.add((w, p // 2))
    assert elements_read(bound) == {"X": len(first), "Y": len(second)}


def test_a_gathered_rank_counts_as_one_coordinate():
    text = "cascade c(X[m, e], I[p]) -> Z[p, e]\n  Z[p, e] = X[I[p], e]"
    assert elements_read(bind(parse(text), shapes=dict(m=100, e=8, p=5))) == {"X": 8, "I": 5}


def test_intensity_of_a_matrix_product():
    bound = bind(zoo.load("matmul"), shapes=dict(m=64, n=64, k=64))
    assert intensity(bound, FP16) == pytest.approx(2 * 64**3 / (3 * 64**2 * 2))


def test_large_shapes_take_no_time():
    shapes = dict(h=32, p=2**20, m=2**20, m0=256, e=128, f=128)
    bound = bind(zoo.load("causal_attention_1pass"), shapes=shapes)
    assert effective_points(bound)["SLN"] == 32 * (2**20 * (2**20 + 1) // 2)
    assert intensity(bound, FP16) > 2**17

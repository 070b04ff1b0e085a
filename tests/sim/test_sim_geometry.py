"""What a box touches, against enumeration of its points."""

import itertools
import random

import pytest

from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.nodes import accesses
from penstock.einsum_ir.shapes import bind
from penstock.sim.geometry import Reach, steps_of

CASES = [
    ("X[a, b]", {}),
    ("X[a + 1, b]", {}),
    ("X[2*a - 1, b - 2]", {}),
    ("X[a*3 + b, b]", {}),
    ("X[5 - a, a + b]", {}),
]


@pytest.mark.parametrize(("text", "_"), CASES)
def test_blocks_hold_the_different_elements_in_range(text, _):
    cascade = parse(f"cascade c(X[r, s], Y[a, b]) -> Z[a, b]\n  Z[a,b] = {text} + Y[a,b]")
    bound = bind(cascade, shapes=dict(r=7, s=5, a=6, b=4))
    (access,) = [each for each in accesses(cascade.einsums[0].body) if each.tensor == "X"]
    reach, dice = Reach([access], bound), random.Random(1)
    for _ in range(40):
        box = {name: _span(dice, bound.extents[name]) for name in ("a", "b")}
        block = reach.block(box)
        columns = [set(), set()]
        for a, b in itertools.product(range(*box["a"]), range(*box["b"])):
            for place, index in enumerate(access.indices):
                coordinate = eval(str(index), {"a": a, "b": b})
                if 0 <= coordinate < (7, 5)[place]:
                    columns[place].add(coordinate)
        assert block.elements == len(columns[0]) * len(columns[1])
        for found, (start, stop) in zip(columns, block.bounds, strict=True):
            assert found <= set(range(start, stop))


def _span(dice, extent):
    start = dice.randrange(extent)
    return start, dice.randrange(start + 1, extent + 1)


def test_a_grouped_head_touches_one_head():
    cascade = parse("cascade c(K[g, m], Q[h, m]) -> Z[h, m]\n  Z[h,m] = K[h//2, m] + Q[h,m]")
    bound = bind(cascade, shapes=dict(h=6, g=3, m=4))
    (access,) = [each for each in accesses(cascade.einsums[0].body) if each.tensor == "K"]
    block = Reach([access], bound).block({"h": (3, 4), "m": (1, 3)})
    assert block.bounds == ((1, 2), (1, 3))
    assert block.elements == 2
    assert Reach([access], bound).block({"h": (1, 4), "m": (0, 4)}).elements == 8


def test_an_index_from_data_may_be_anything():
    cascade = parse("cascade c(X[r], I[a]) -> Z[a]\n  Z[a] = X[I[a]] + 1")
    bound = bind(cascade, shapes=dict(r=7, a=3))
    access = next(each for each in accesses(cascade.einsums[0].body) if each.tensor == "X")
    assert Reach([access], bound).block({"a": (0, 1)}).bounds == ((0, 7),)


def test_what_lies_between_two_accesses_counts():
    cascade = parse("cascade c(X[a]) -> Z[a]\n  Z[a] = X[a - 2] + X[a + 1]")
    bound = bind(cascade, shapes=dict(a=9))
    touched = [each for each in accesses(cascade.einsums[0].body) if each.tensor == "X"]
    block = Reach(touched, bound).block({"a": (4, 5)})
    assert (block.bounds, block.elements) == (((2, 6),), 4)


def test_loops_step_through_what_the_loops_around_leave():
    assert steps_of(7, ()) == [(0, 7)]
    assert steps_of(7, (4, 3)) == [(0, 3), (3, 4), (4, 7)]

"""Bounds of operators hold for every value between the bounds of the operands."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.einsum_ir.interpreter.arithmetic import apply_operator, integer_number
from penstock.einsum_ir.interpreter.evaluate import FLOAT64
from penstock.einsum_ir.intervals import UNKNOWN, bounds_of

ARITY = {
    "neg": 1,
    "abs": 1,
    "clamp": 3,
    **dict.fromkeys(("+", "-", "*", "max", "min", "//", "%"), 2),
}
BOUNDED = st.tuples(st.integers(-9, 9), st.integers(0, 9)).map(lambda p: (p[0], p[0] + p[1]))


@given(st.data(), st.sampled_from(sorted(ARITY)))
def test_values_are_between_the_bounds(data, op):
    sides = [data.draw(BOUNDED) for _ in range(ARITY[op])]
    values = [data.draw(st.integers(*side)) for side in sides]
    if op in ("//", "%"):
        values[1] = 1 + abs(values[1])
        sides[1] = (values[1], values[1])
    numbers = [integer_number(np.array(value)) for value in values]
    computed = int(apply_operator(FLOAT64, op, numbers).data)
    low, high = bounds_of(op, sides)
    assert low <= computed <= high
    points = bounds_of(op, [(value, value) for value in values])
    assert points == (computed, computed)


@pytest.mark.parametrize(
    ("op", "args", "said"),
    [
        ("*", [(0, math.inf), (0, 3)], (0, math.inf)),
        ("*", [UNKNOWN, (0, 0)], (0, 0)),
        ("+", [(1, math.inf), (2, 2)], (3, math.inf)),
        ("//", [(5, math.inf), (4, 4)], (1, math.inf)),
        ("%", [UNKNOWN, (4, 4)], (0, 3)),
        ("%", [(5, 7), (4, 4)], (1, 3)),
        ("%", [(3, 5), (4, 4)], (0, 3)),
        ("exp", [(0, 1)], UNKNOWN),
        ("//", [(5, 9), (2, 3)], UNKNOWN),
    ],
)
def test_edges(op, args, said):
    assert bounds_of(op, args) == said

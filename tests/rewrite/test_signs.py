"""What is said of a sign is so, for every number."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.einsum_ir.nodes import Access, Apply, Expr, Num
from penstock.einsum_ir.rewrite.signs import Sign, sign
from penstock.einsum_ir.rewrite.terms import evaluate

LEAVES = {kind: Access(kind.name, ()) for kind in Sign}
NUMBERS = {
    Sign.POSITIVE: st.floats(0.01, 8),
    Sign.AT_LEAST_0: st.just(0.0) | st.floats(0.01, 8),
    Sign.NEGATIVE: st.floats(-8, -0.01),
    Sign.AT_MOST_0: st.just(0.0) | st.floats(-8, -0.01),
    Sign.ANY: st.just(0.0) | st.floats(-8, 8),
}
HOLDS = {
    Sign.POSITIVE: lambda x: x > 0,
    Sign.AT_LEAST_0: lambda x: x >= 0,
    Sign.NEGATIVE: lambda x: x < 0,
    Sign.AT_MOST_0: lambda x: x <= 0,
    Sign.ANY: lambda x: True,
}
ONE = ("neg", "exp", "abs", "sq", "relu", "tanh")
TWO = ("+", "-", "*", "max", "min")


def kind_of(leaf):
    return next(kind for kind, each in LEAVES.items() if each == leaf)


def grown(inner):
    one = st.builds(lambda op, x: Apply(op, (x,)), st.sampled_from(ONE), inner)
    two = st.builds(lambda op, x, y: Apply(op, (x, y)), st.sampled_from(TWO), inner, inner)
    return one | two


EXPRESSIONS = st.recursive(
    st.sampled_from([*LEAVES.values(), Num(2), Num(-1), Num(0)]), grown, max_leaves=5
)


@given(EXPRESSIONS, st.fixed_dictionaries(NUMBERS))
def test_signs_hold(expr: Expr, numbers):
    from mpmath import MPContext

    context = MPContext()
    values = {LEAVES[kind]: context.mpf(number) for kind, number in numbers.items()}
    try:
        value = evaluate(expr, values, context)
    except OverflowError:
        return
    assert math.isnan(value) or HOLDS[sign(expr, kind_of)](value)


@pytest.mark.parametrize(
    ("op", "signs", "said"),
    [
        ("max", (Sign.ANY, Sign.POSITIVE), Sign.POSITIVE),
        ("max", (Sign.NEGATIVE, Sign.AT_MOST_0), Sign.AT_MOST_0),
        ("max", (Sign.NEGATIVE, Sign.NEGATIVE), Sign.NEGATIVE),
        ("min", (Sign.ANY, Sign.NEGATIVE), Sign.NEGATIVE),
        ("min", (Sign.POSITIVE, Sign.AT_LEAST_0), Sign.AT_LEAST_0),
        ("min", (Sign.ANY, Sign.POSITIVE), Sign.ANY),
    ],
)
def test_extrema(op, signs, said):
    assert sign(Apply(op, tuple(LEAVES[each] for each in signs)), kind_of) == said

"""The Python front end builds the same objects as the text, and points at lines of Python."""

import math
from pathlib import Path

import numpy as np
import pytest

from penstock import zoo
from penstock.einsum_ir.frontend import terms
from penstock.einsum_ir.frontend.dsl import Builder
from penstock.einsum_ir.frontend.notation import parse, parse_expr
from penstock.einsum_ir.frontend.terms import ranks, reduce_max, reduce_sum, such_that
from penstock.einsum_ir.ops import OPERATORS, REDUCTIONS
from penstock.einsum_ir.shapes import bind
from penstock.errors import CascadeError

b, h, g, p, m, e, f, m1, m0, i, k, n = ranks("b h g p m e f m1 m0 i k n")


def attention():
    c = Builder("attention")
    c.const(SC=1 / terms.sqrt(c.E))
    c.QS[h, p, e] = c.Q[h, p, e] * c.SC
    c.QK[h, p, m] = c.QS[h, p, e] * c.K[h, m, e]
    c.GM[h, p] = reduce_max(c.QK[h, p, m])
    c.SN[h, p, m] = terms.exp(c.QK[h, p, m] - c.GM[h, p])
    c.SD[h, p] = c.SN[h, p, m]
    c.A[h, p, m] = c.SN[h, p, m] / c.SD[h, p]
    c.O[h, p, f] = c.A[h, p, m] * c.V[h, m, f]
    return c.build()


def attention_1pass():
    c = Builder("attention_1pass", m0=64)
    c.inputs(c.Q[b, h, p, e], c.K[b, h, m, e], c.V[b, h, m, f])
    c.init.RM[b, h, 0, p] = -math.inf
    c.init.RD[b, h, 0, p] = 0
    c.init.RNV[b, h, f, 0, p] = 0
    with c.loop(m1):
        c.BQK[b, h, m1, m0, p] = c.Q[b, h, p, e] * c.K[b, h, m1 * m0.shape + m0, e]
        c.LM[b, h, m1, p] = reduce_max(c.BQK[b, h, m1, m0, p], m0)
        c.RM[b, h, m1 + 1, p] = terms.maximum(c.RM[b, h, m1, p], c.LM[b, h, m1, p])
        c.SLN[b, h, m1, m0, p] = terms.exp(c.BQK[b, h, m1, m0, p] - c.RM[b, h, m1 + 1, p])
        c.SLD[b, h, m1, p] = c.SLN[b, h, m1, m0, p]
        c.SLNV[b, h, f, m1, p] = c.SLN[b, h, m1, m0, p] * c.V[b, h, m1 * c.M0 + m0, f]
        c.PRM[b, h, m1, p] = terms.exp(c.RM[b, h, m1, p] - c.RM[b, h, m1 + 1, p])
        c.SPD[b, h, m1, p] = c.RD[b, h, m1, p] * c.PRM[b, h, m1, p]
        c.RD[b, h, m1 + 1, p] = c.SLD[b, h, m1, p] + c.SPD[b, h, m1, p]
        c.SPNV[b, h, f, m1, p] = c.RNV[b, h, f, m1, p] * c.PRM[b, h, m1, p]
        c.RNV[b, h, f, m1 + 1, p] = c.SLNV[b, h, f, m1, p] + c.SPNV[b, h, f, m1, p]
    c.AV[b, h, p, f] = c.RNV[b, h, f, c.M1, p] / c.RD[b, h, c.M1, p]
    return c.build()


def gqa_causal():
    c = Builder("gqa_causal")
    c.inputs(c.Q[h, p, e], c.K[g, m, e], c.V[g, m, f])
    c.const(SC=1 / terms.sqrt(e.shape), R=c.H // c.G)
    c.QS[h, p, e] = c.Q[h, p, e] * c.SC
    c.QK[h, p, m] = reduce_sum(c.QS[h, p, e] * c.K[h // c.R, m, e], e).where(m <= p + c.M - c.P)
    c.GM[h, p] = reduce_max(c.QK[h, p, m])
    c.SN[h, p, m] = terms.exp(c.QK[h, p, m] - c.GM[h, p])
    c.SD[h, p] = c.SN[h, p, m]
    c.A[h, p, m] = c.SN[h, p, m] / c.SD[h, p]
    c.O[h, p, f] = c.A[h, p, m] * c.V[h // c.R, m, f]
    return c.build()


def sliding_window():
    c = Builder("sliding_window")
    c.const(SC=1 / terms.sqrt(c.E), W=128)
    seen = (m <= p + c.M - c.P) & (p + c.M - c.P - m < c.W)
    c.QS[h, p, e] = c.Q[h, p, e] * c.SC
    c.QK[h, p, m] = such_that(c.QS[h, p, e] * c.K[h, m, e], seen)
    c.GM[h, p] = reduce_max(c.QK[h, p, m])
    c.SN[h, p, m] = terms.exp(c.QK[h, p, m] - c.GM[h, p])
    c.SD[h, p] = c.SN[h, p, m]
    c.A[h, p, m] = c.SN[h, p, m] / c.SD[h, p]
    c.O[h, p, f] = c.A[h, p, m] * c.V[h, m, f]
    return c.build()


def linear_attention():
    c = Builder("linear_attention")

    def feature(x):
        return terms.where(x > 0, x + 1, terms.exp(x))

    c.FQ[h, p, e] = feature(c.Q[h, p, e])
    c.FK[h, m, e] = feature(c.K[h, m, e])
    c.KV[h, e, f] = c.FK[h, m, e] * c.V[h, m, f]
    c.KZ[h, e] = c.FK[h, m, e]
    c.NU[h, p, f] = c.FQ[h, p, e] * c.KV[h, e, f]
    c.DE[h, p] = c.FQ[h, p, e] * c.KZ[h, e]
    c.O[h, p, f] = c.NU[h, p, f] / c.DE[h, p]
    return c.build()


def matmul():
    c = Builder("matmul")
    c.Z[m, n] = c.A[m, k] * c.B[k, n]
    return c.build()


MADE = (attention, attention_1pass, gqa_causal, sliding_window, linear_attention, matmul)


@pytest.mark.parametrize("make", MADE)
def test_both_front_ends_build_equal_objects(make):
    assert make() == zoo.load(make.__name__)


def test_the_quickstart():
    c = Builder("attention", p=128, m=128, e=64, f=64)
    c.QK[m, p] = c.Q[e, p] * c.K[e, m]
    c.GM[p] = terms.reduce_max(c.QK[m, p])
    c.SN[m, p] = terms.exp(c.QK[m, p] - c.GM[p])
    c.SD[p] = c.SN[m, p]
    c.AV[f, p] = c.SN[m, p] * c.V[f, m] / c.SD[p]
    text = (
        "cascade attention(Q[e, p], K[e, m], V[f, m]) -> AV[f, p]\n"
        "  shape e = 64\n  shape f = 64\n  shape m = 128\n  shape p = 128\n"
        "  QK[m, p] = Q[e, p] * K[e, m] :: sum[e]\n"
        "  GM[p] = QK[m, p] :: max[m]\n"
        "  SN[m, p] = exp(QK[m, p] - GM[p])\n"
        "  SD[p] = SN[m, p] :: sum[m]\n"
        "  AV[f, p] = SN[m, p] * V[f, m] / SD[p] :: sum[m]"
    )
    assert str(c.build()) == text
    assert c.build() == parse(text)


def test_scalars_tensors_without_ranks_and_several_outputs():
    c = Builder("s")
    c.shape(p=4)
    c.inputs(c.T)
    c.N = c.A[p] * c.SC[()]
    c.O[p] = c.A[p] / c.N + c.T - c.Z
    c.L = reduce_max(c.A[p])
    c.outputs(c.O[p], c.N, c.L[()])
    text = (
        "cascade s(T[], A[p], SC[]) -> O[p], N[], L[]\n  shape p = 4\n"
        "  N[] = A[p] * SC[] :: sum[p]\n  O[p] = A[p] / N[] + T[] - Z\n  L[] = A[p] :: max[p]"
    )
    assert str(c.build()) == text
    assert c.build() == parse(text)


def test_an_input_gets_the_ranks_of_its_first_plain_access():
    c = Builder("x")
    c.O[p] = c.A[p + 1] + c.B[p] + c.A[p]
    assert str(c.build()).startswith("cascade x(A[p], B[p]) -> O[p]\n")


def test_an_iterative_tensor_that_only_reads_itself_is_an_output():
    c = Builder("x")
    c.init.S[p, 0] = 0
    c.S[p, i + 1] = c.S[p, i] + c.A[p, i]
    assert str(c.build()).startswith("cascade x(A[p, i]) -> S[p, i]\n")


@pytest.mark.parametrize(
    ("term", "text"),
    [
        (lambda a, b: a + b - 1, "a + b - 1"),
        (lambda a, b: 1 + a - (2 - b), "1 + a - (2 - b)"),
        (lambda a, b: 2 * a * b / 3, "2 * a * b / 3"),
        (lambda a, b: 2 / a // b, "2 / a // b"),
        (lambda a, b: 7 // a % b, "7 // a % b"),
        (lambda a, b: 7 % (a // 2), "7 % (a // 2)"),
        (lambda a, b: a**2 + 2**b, "a ** 2 + 2 ** b"),
        (lambda a, b: -a * -b, "-a * -b"),
        (lambda a, b: abs(a), "abs(a)"),
        (lambda a, b: (a == b) & (a != 1), "a == b and a != 1"),
        (lambda a, b: (a < b) | ~(a <= b), "a < b or not a <= b"),
        (lambda a, b: (a > b) & ((a >= b) | (a < 1)), "a > b and (a >= b or a < 1)"),
        (lambda a, b: (a + b < a.shape) & (a < b + 1), "a + b < A and a < b + 1"),
        (lambda a, b: (3 < a) & (3 == b), "a > 3 and b == 3"),  # noqa: SIM300 (Python turns them round)
        (lambda a, b: True & (a < b), "1 and a < b"),
        (lambda a, b: False | (a < b), "0 or a < b"),
        (lambda a, b: terms.maximum(a, b, 3, 0.5), "max(a, b, 3, 0.5)"),
        (lambda a, b: terms.minimum(a, b), "min(a, b)"),
        (lambda a, b: terms.clamp(a, 0, b), "clamp(a, 0, b)"),
        (lambda a, b: terms.fill(a, -math.inf), "fill(a, -inf)"),
        (lambda a, b: a + np.float32(0.5) + np.int64(2), "a + 0.5 + 2"),
        (lambda a, b: a.shape - b.shape, "A - B"),
    ],
)
def test_operators(term, text):
    found = term(*ranks("a, b"))
    assert found.expr == parse_expr(text)
    assert str(found) == str(parse_expr(text))


NAMES = {"max": "maximum", "min": "minimum", "abs": "absolute", "round": "rounded"}


@pytest.mark.parametrize("op", [o for o, row in OPERATORS.items() if row.kind == "function"])
def test_every_function_of_the_language_is_there(op):
    arity = OPERATORS[op].arity
    found = getattr(terms, NAMES.get(op, op))(*[p] * arity)
    assert found.expr == parse_expr(f"{op}({', '.join('p' * arity)})")


@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize("over", [(), (m, e)])
def test_every_reduction_of_the_language_is_there(op, over):
    c = Builder("c")
    right = getattr(terms, f"reduce_{op}")(c.A[p, m, e], *over)
    ranks_text = "[m, e]" if over else ""
    assert str(right) == f"A[p, m, e] :: {op}{ranks_text}"
    c.O[p] = right
    text = f"cascade c(A[p, m, e]) -> O[p]\n  O[p] = A[p, m, e] :: {op}[m, e]"
    assert c.build() == parse(text)


def test_predicates_combine():
    c = Builder("c")
    value = reduce_max(c.A[p, m].where(m <= p)).where(p - m < c.W)
    assert str(value) == "A[p, m] :: max s.t. m <= p and p - m < W"
    assert repr(c.A[p]) == "<Value A[p]>"


def line(text):
    """Return the number of the one line of this file that ends with `text` as a comment."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return next(number for number, each in enumerate(lines, 1) if each.endswith(f"# {text}"))


def test_message_of_a_truth_value():
    with pytest.raises(CascadeError) as caught:
        _ = 3 if p < 2 else 4  # truth
    assert str(caught.value) == (
        "an Einsum expression has no truth value: it is built now and computed later\n"
        f"{__file__}:{line('truth')}:18\n"
        "  _ = 3 if p < 2 else 4  # truth\n"
        "           ^^^^^\n"
        "fix: write & | ~ for and, or, not, and (0 <= x) & (x < W) for 0 <= x < W; "
        "where(condition, a, b) and maximum(a, b) choose between values"
    )


def test_message_of_a_reduction_inside():
    c = Builder("c")
    with pytest.raises(CascadeError) as caught:
        c.O[p] = 1 + reduce_max(c.A[p, m])  # inside
    assert str(caught.value) == (
        "the reduction reduce_max stands inside a larger expression, but an Einsum ends with it\n"
        f"{__file__}:{line('inside')}:18\n"
        "  c.O[p] = 1 + reduce_max(c.A[p, m])  # inside\n"
        "           ^^^^^^^^^^^^^^^^^^^^^^^^^\n"
        "fix: give it a name of its own, as in c.GM[p] = reduce_max(...), and use that"
    )
    with pytest.raises(CascadeError, match="a predicate stands inside a larger expression"):
        c.A[p].where(p < 3) * 2
    with pytest.raises(CascadeError, match="the reduction reduce_max stands inside"):
        terms.reduce_sum(reduce_max(c.A[p, m]))


def test_message_of_ranks_that_cannot_be_told():
    c = Builder("c")
    c.O[p] = c.B[p] * c.A[p + 1]  # ranks
    with pytest.raises(CascadeError) as caught:
        c.build()
    assert str(caught.value) == (
        "the ranks of input A cannot be told from A[p + 1]\n"
        f"{__file__}:{line('ranks')}:23\n"
        "  c.O[p] = c.B[p] * c.A[p + 1]  # ranks\n"
        "                    ^^^^^^^^^^\n"
        "fix: declare it before build, as in c.inputs(c.A[m, e])"
    )


def test_messages_of_the_cascade_point_at_python():
    c = Builder("c")
    c.O[p] = reduce_max(c.A[p], p)  # kept
    with pytest.raises(CascadeError) as caught:
        c.build()
    assert str(caught.value) == (
        "O reduces over 'p', which its left side keeps\n"
        f"{__file__}:{line('kept')}:14\n"
        "  c.O[p] = reduce_max(c.A[p], p)  # kept\n"
        "           ^^^^^^^^^^^^^^^^^^^^^\n"
        "fix: leave 'p' out of O[p] or out of max[p]"
    )


def test_messages_of_shapes_point_at_python():
    c = Builder("c", p=3)
    c.O[p] = c.A[p] * (c.B[k, p] + 1)  # shape
    with pytest.raises(CascadeError) as caught:
        bind(c.build())
    assert str(caught.value) == (
        "rank variable 'k' of B[k, p] has no shape (known: p)\n"
        f"{__file__}:{line('shape')}:24\n"
        "  c.O[p] = c.A[p] * (c.B[k, p] + 1)  # shape\n"
        "                     ^^^^^^^^^\n"
        "fix: add a line 'shape k = 64', in Python c.shape(k=64), or give --shape k=64"
    )


def test_message_of_nested_loops():
    c = Builder("c")
    with pytest.raises(CascadeError) as caught, c.loop(i), c.loop(k):
        pass
    assert "loop(k) stands inside another loop\n" in str(caught.value)
    assert str(caught.value).endswith("fix: end the outer 'with' first: loops do not nest")
    with c.loop(i):
        c.O[p, i] = c.A[p, i]
    assert str(c.build().statements[0]) == "loop i:\n  O[p, i] = A[p, i]"


def test_message_of_a_declaration():
    c = Builder("c")
    with pytest.raises(CascadeError) as caught:
        c.inputs(c.A[p + 1])  # declares
    assert str(caught.value) == (
        "'A[p + 1]' declares no tensor\n"
        f"{__file__}:{line('declares')}:9\n"
        "  c.inputs(c.A[p + 1])  # declares\n"
        "  ^^^^^^^^^^^^^^^^^^^^\n"
        "fix: write it at rank variables, as in c.inputs(c.K[m, e])"
    )


def test_programming_mistakes():
    c = Builder("c")
    with pytest.raises(AttributeError) as caught:
        _ = c.qk
    assert str(caught.value) == (
        "'Builder' has no attribute 'qk' (tensors start with an upper-case letter)"
    )
    with pytest.raises(AttributeError, match="'init' has no attribute 'rm'"):
        _ = c.init.rm
    with pytest.raises(TypeError, match="an Einsum takes terms and numbers, not str"):
        c.O[p] = "A"
    with pytest.raises(TypeError, match="an Einsum takes terms and numbers, not str"):
        c.O = "A"
    with pytest.raises(TypeError, match="an Einsum takes terms and numbers, not list"):
        _ = c.A[p] + [1]

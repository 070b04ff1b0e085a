"""Softmax, pieces, scatter, functions, states and formats: both front ends, printing, values."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.einsum_ir.frontend.dsl import Builder
from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.frontend.terms import (
    exp,
    fill,
    maximum,
    ranks,
    reduce_max,
    reduce_sum,
    softmax,
)
from penstock.einsum_ir.interpreter.inputs import bind_arrays
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.errors import CascadeError, NotationError

h, p, m, e, f, i, j, k, n, r, s = ranks("h p m e f i j k n r s")
ABSENT = None


def same(text, builder):
    """The cascade of a text, which Python builds as well, and which prints as it reads."""
    found = parse(text)
    assert builder.build() == found
    assert parse(str(found)) == found
    return found


def run(cascade, shapes=None, **inputs):
    """The outputs in fp64; a cascade or its text."""
    cascade = parse(cascade) if isinstance(cascade, str) else cascade
    inputs = {name: np.array(value, np.float64) for name, value in inputs.items()}
    return interpret(bind_arrays(cascade, inputs, shapes=shapes), inputs)


def normal(*shape, seed=0, scale=1.0):
    return np.random.default_rng(seed).normal(size=shape) * scale


def soft(row):
    """The softmax of a list in which None is absent: plain loops."""
    present = [x for x in row if x is not ABSENT]
    if not present:
        return [0.0] * len(row)
    top = max(present)
    total = math.fsum(math.exp(x - top) for x in present)
    return [0.0 if x is ABSENT else math.exp(x - top) / total for x in row]


# --- softmax ------------------------------------------------------------------------------------


def test_softmax_of_a_tensor():
    c = Builder("c")
    c.A[p, m] = softmax(c.X[p, m], m)
    found = same("cascade c(X[p, m]) -> A[p, m]\n  A[p, m] = softmax(X[p, m]; m)", c)
    assert str(found).splitlines()[1:] == [
        "  A_MAX[p] = X[p, m] :: max[m]",
        "  A_EXP[p, m] = exp(X[p, m] - A_MAX[p])",
        "  A_SUM[p] = A_EXP[p, m] :: sum[m]",
        "  A[p, m] = A_EXP[p, m] / A_SUM[p]",
    ]
    x = normal(3, 5, scale=1000)
    np.testing.assert_allclose(run(found, X=x)["A"], [soft(row) for row in x], rtol=1e-12)


def test_softmax_of_an_expression_with_a_predicate():
    c = Builder("c")
    c.inputs(c.X[p, m], c.B[p])
    c.A[p, m] = softmax(c.X[p, m] + c.B[m], m).where(m < p)
    text = "cascade c(X[p, m], B[p]) -> A[p, m]\n  A[p, m] = softmax(X[p, m] + B[m]; m) s.t. m < p"
    found = same(text, c)
    x, b = normal(4, 4, scale=30), normal(4, seed=1)
    expected = [soft([x[q, m] + b[m] if m < q else ABSENT for m in range(4)]) for q in range(4)]
    result = run(found, X=x, B=b)["A"]
    np.testing.assert_allclose(result, expected, rtol=1e-12)
    assert not result[0].any()  # a row without a key is 0, never NaN


@pytest.mark.parametrize("reduction", [":: sum[e]", "", ":: max[e]"])
def test_softmax_of_a_reduction(reduction):
    c = Builder("c")
    body = c.Q[p, e] * c.K[m, e]
    reduced = {"": body, ":: sum[e]": reduce_sum(body, e), ":: max[e]": reduce_max(body, e)}
    c.A[p, m] = softmax(reduced[reduction], m).where(m <= p)
    text = "cascade c(Q[p, e], K[m, e]) -> A[p, m]\n  A[p, m] = softmax(Q[p, e] * K[m, e]; m)"
    found = same(f"{text} {reduction} s.t. m <= p", c)
    q, key = normal(3, 2), normal(4, 2, seed=1)
    fold = np.max if "max" in reduction else np.sum
    logits = fold(q[:, None] * key[None], axis=2)
    expected = [
        soft([x if m <= at else ABSENT for m, x in enumerate(logits[at])]) for at in (0, 1, 2)
    ]
    np.testing.assert_allclose(run(found, Q=q, K=key)["A"], expected, rtol=1e-12)


def test_softmax_over_several_ranks_and_with_ranks_in_any_place():
    c = Builder("c")
    c.A[m, p, n] = softmax(c.X[p, m, n], m, n)
    found = same("cascade c(X[p, m, n]) -> A[m, p, n]\n  A[m, p, n] = softmax(X[p, m, n]; m, n)", c)
    x = normal(2, 3, 4)
    expected = [np.reshape(soft(row.ravel()), (3, 4)) for row in x]
    np.testing.assert_allclose(run(found, X=x)["A"].transpose(1, 0, 2), expected, rtol=1e-12)


def test_softmax_in_a_loop():
    c = Builder("c")
    c.inputs(c.X[i, m])
    c.outputs(c.A[i, m], c.S[i])
    c.init.S[0] = 1
    with c.loop(i):
        c.A[i, m] = softmax(c.X[i, m] * c.S[i], m)
        c.S[i + 1] = reduce_max(c.A[i, m] + c.S[i])
    found = same(
        "cascade c(X[i, m]) -> A[i, m], S[i]\n  init S[0] = 1\n  loop i:\n"
        "    A[i, m] = softmax(X[i, m] * S[i]; m)\n    S[i + 1] = A[i, m] + S[i] :: max[m]",
        c,
    )
    x, state, expected = normal(4, 3), 1.0, []
    for row in x:
        expected.append(soft(row * state))
        state += max(expected[-1])
    result = run(found, X=x)
    np.testing.assert_allclose(result["A"], expected, rtol=1e-12)
    assert result["S"][-1] == pytest.approx(state, rel=1e-12)


@given(st.lists(st.lists(st.none() | st.integers(-900, 900), min_size=4, max_size=4), min_size=1))
@settings(deadline=None, max_examples=60)
def test_softmax_of_any_mask_equals_loops(rows):
    here = [[x is not None for x in row] for row in rows]
    x = [[x or 0 for x in row] for row in rows]
    text = "cascade c(X[p, m], W[p, m]) -> A[p, m]\n  A[p, m] = softmax(X[p, m]; m) s.t. W[p, m]"
    result = run(text, X=x, W=here)["A"]
    np.testing.assert_allclose(result, [soft(row) for row in rows], rtol=1e-12)


def test_softmax_has_its_name_only_as_a_call():
    text = "cascade c(X[p]) -> O[p]\n  def softmax(x) = exp(x)\n  O[p] = softmax(X[p])"
    with pytest.raises(NotationError, match="'softmax' is an operator of the notation already"):
        parse(text)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("A[m] = softmax(X[m]; e)", "A[m] is a softmax over 'e', which it has no index for"),
        ("A[i + 1] = softmax(X[i]; i)", "A[i + 1] is a softmax along an iterative rank"),
        ("init A[0] = softmax(X[m]; m)", "A[0] is a softmax over 'm', which it has no index for"),
    ],
)
def test_softmax_that_means_nothing(line, message):
    with pytest.raises(CascadeError) as caught:
        parse(f"cascade c(X[m]) -> A[m]\n  {line}")
    assert caught.value.what == message


# --- pieces -------------------------------------------------------------------------------------

CASES = [
    (
        "K[m] = X[m] s.t. m < 2\nK[m] = Y[m - 2] s.t. m >= 2",
        "K[m] = where(m < 2, X[m], Y[m - 2])",
        lambda x, y, m: x[m] if m < 2 else y[m - 2],
    ),
    (
        "K[m] = X[m] s.t. m < 2\nK[m] = Y[m - 2] s.t. m < 4\nK[m] = 9",
        "K[m] = where(m < 2, X[m], where(m < 4, Y[m - 2], 9))",
        lambda x, y, m: x[m] if m < 2 else y[m - 2] if m < 4 else 9,
    ),
    (
        "K[m] = X[m] s.t. m == 1\nK[m] = Y[m] s.t. m < 3\nK[m] = m s.t. m == 4",
        "K[m] = where(m == 1, X[m], where(m < 3, Y[m], m)) s.t. m == 1 or m < 3 or m == 4",
        lambda x, y, m: x[m] if m == 1 else y[m] if m < 3 else m if m == 4 else ABSENT,
    ),
    (
        "K[m] = X[k] :: max[k] s.t. m < 2\nK[m] = Y[k] * m s.t. m < 5",
        (
            "K_1[m] = X[k] :: max[k] s.t. m < 2\n  K_2[m] = Y[k] * m :: sum[k] s.t. m < 5\n"
            "  K[m] = where(m < 2, K_1[m], K_2[m]) s.t. m < 2 or m < 5"
        ),
        lambda x, y, m: max(x) if m < 2 else sum(y) * m if m < 5 else ABSENT,
    ),
]


@pytest.mark.parametrize(("lines", "joined", "value"), CASES)
def test_pieces(lines, joined, value):
    lines = lines.replace("\n", "\n  ")
    head = "cascade c(X[a], Y[b]) -> K[m]"
    found = parse(f"{head}\n  {lines}")
    assert str(found) == f"{head}\n  {joined}"
    assert parse(str(found)) == found
    x, y = normal(5), normal(5, seed=1)
    expected = [value(x.tolist(), y.tolist(), m) or 0 for m in range(6)]
    np.testing.assert_allclose(run(found, {"m": 6}, X=x, Y=y)["K"], expected, rtol=1e-14)


def test_pieces_from_python():
    c = Builder("c")
    c.inputs(c.X[n], c.Y[r])
    c.KX[m] = reduce_max(c.X[k], k).where(m < 2)
    c.KX[m] = c.Y[m - 2].where(m < 4)
    c.KX[m] = 1
    same(
        "cascade c(X[n], Y[r]) -> KX[m]\n  KX[m] = X[k] :: max[k] s.t. m < 2\n"
        "  KX[m] = Y[m - 2] s.t. m < 4\n  KX[m] = 1",
        c,
    )


flags = st.lists(st.sampled_from([0, 1, ABSENT]), min_size=5, max_size=5)


@given(flags, flags)
@settings(deadline=None, max_examples=60)
def test_the_first_piece_whose_predicate_holds_decides(first, second):
    """A predicate that reads an absent element does not hold: the next piece is asked."""
    text = """cascade c(A[m], B[m], HA[m], HB[m]) -> K[m], P[m]
      FA[m] = A[m] s.t. HA[m]
      FB[m] = B[m] s.t. HB[m]
      K[m] = 10 + m s.t. FA[m]
      K[m] = 20 + m s.t. FB[m] == 1
      P[m] = fill(K[m], -1)
    """
    given_ = {"A": first, "B": second}
    inputs = {name: [x or 0 for x in row] for name, row in given_.items()}
    inputs |= {f"H{name}": [x is not None for x in row] for name, row in given_.items()}
    expected = [
        10 + m if a == 1 else 20 + m if b == 1 else -1
        for m, (a, b) in enumerate(zip(first, second, strict=True))
    ]
    assert run(text, **inputs)["P"].tolist() == expected


def test_pieces_with_opposite_predicates_that_may_be_absent():
    text = """cascade c(W[m], H[m]) -> K[m], P[m]
      S[m] = W[m] s.t. H[m]
      K[m] = 1 s.t. S[m] < 2
      K[m] = 2 s.t. S[m] >= 2
      P[m] = fill(K[m], -1)
    """
    result = run(text, W=[1, 2, 1, 2], H=[1, 1, 0, 0])
    assert result["P"].tolist() == [1, 2, -1, -1]


def test_pieces_reset_a_state():
    c = Builder("c")
    c.inputs(c.X[i], c.D[i])
    c.init.S[0] = 0
    with c.loop(i):
        c.S[i + 1] = c.X[i].where(c.D[i] == 1)
        c.S[i + 1] = c.S[i] + c.X[i]
    found = same(
        "cascade c(X[i], D[i]) -> S[i]\n  init S[0] = 0\n  loop i:\n"
        "    S[i + 1] = X[i] s.t. D[i] == 1\n    S[i + 1] = S[i] + X[i]",
        c,
    )
    result = run(found, X=[1, 2, 3, 4], D=[0, 0, 1, 0])["S"]
    assert result.tolist() == [0, 1, 3, 3, 7]


def test_pieces_of_a_first_coordinate():
    text = """cascade c(X[p, i]) -> S[p, i]
      init S[p, 0] = 5 s.t. p == 1
      init S[p, 0] = -p
      S[p, i + 1] = S[p, i] + X[p, i]
    """
    assert run(text, X=[[1], [1], [1]])["S"].tolist() == [[0, 1], [5, 6], [-2, -1]]


def test_pieces_with_sums_in_a_loop():
    text = """cascade c(X[i, m]) -> S[i]
      init S[0] = 1
      loop i:
        S[i + 1] = X[i, m] :: max[m] s.t. i == 1
        S[i + 1] = S[i] * X[i, m]
    """
    found = parse(text)
    assert parse(str(found)) == found
    assert run(found, X=[[1, 2], [5, 3], [2, 2]])["S"].tolist() == [1, 3, 5, 20]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            "O[p] = 1 s.t. p < 2\nO[q] = 2",
            "the pieces O[p] and O[q] of one tensor have different indices",
        ),
        (
            "O[p] = 1 s.t. p < X[k]\nO[p] = 2",
            "the predicate of a piece of O[p] depends on 'k', which the left side lacks",
        ),
        ("O[p] = 1\nO[p] = 2 s.t. p < 2", "O is defined twice"),
        ("O[p] = 1 s.t. p < 2\nO[p] = 2\nO[p] = 3", "O is defined twice"),
    ],
)
def test_pieces_that_mean_nothing(lines, message):
    with pytest.raises(CascadeError) as caught:
        parse(f"cascade c(X[k]) -> O[p]\n{lines}")
    assert caught.value.what == message


# --- scatter ------------------------------------------------------------------------------------


def scattered(places, values, size, fold):
    """Plain loops: what lands at each place, folded; 0 where nothing does."""
    landed = [[v for t, v in zip(places, values, strict=True) if t == at] for at in range(size)]
    return [fold(each) if each else 0 for each in landed]


@pytest.mark.parametrize(("reduction", "fold"), [("", sum), (":: sum[n]", sum), (":: max[n]", max)])
def test_scatter_to_a_named_rank(reduction, fold):
    text = f"cascade c(X[n], T[n]) -> G[r]\n  G[r = T[n]] = X[n] {reduction}"
    c = Builder("c")
    c.inputs(c.X[n], c.T[n])
    value = {"": c.X[n], ":: sum[n]": reduce_sum(c.X[n], n), ":: max[n]": reduce_max(c.X[n], n)}
    c.G[r.at(c.T[n])] = value[reduction]
    found = same(text, c)
    over = "max[n]" if "max" in reduction else "sum[n]"
    assert str(found.einsum("G")) == f"G[r] = X[n] :: {over} s.t. r == T[n]"
    places, x = [3, 0, 3, 9, -1, 0.5], [1, -2, -4, 8, 16, 32]
    result = run(found, {"r": 5}, X=x, T=places)["G"]
    assert result.tolist() == scattered(places, x, 5, fold)


def test_scatter_to_the_declared_rank_of_an_output():
    c = Builder("c")
    c.inputs(c.X[n], c.T[n])
    c.outputs(c.G[s, r])
    c.G[c.T[n] % 2, c.T[n]] = c.X[n]
    found = same("cascade c(X[n], T[n]) -> G[s, r]\n  G[T[n] % 2, T[n]] = X[n]", c)
    assert str(found.einsum("G")) == "G[s, r] = X[n] :: sum[n] s.t. s == T[n] % 2 and r == T[n]"
    result = run(found, {"s": 2, "r": 4}, X=[1, 2, 4, 8], T=[3, 2, 3, 7])["G"]
    assert result.tolist() == [[0, 0, 2, 0], [0, 0, 0, 5]]


def test_scatter_drops_absent_places_and_values():
    text = """cascade c(X[n], T[n], W[n]) -> G[r], H[r]
      S[n] = T[n] s.t. W[n]
      G[r = S[n]] = X[n]
      H[r = T[n]] = X[n] s.t. W[n]
    """
    result = run(text, {"r": 3}, X=[1, 2, 4, 8], T=[0, 0, 2, 2], W=[0, 1, 1, 0])
    assert result["G"].tolist() == result["H"].tolist() == [2, 0, 4]


def test_scatter_reduces_the_body_as_well():
    text = """cascade c(X[n, e], T[n]) -> G[r], H[r, n]
      G[r = T[n]] = X[n, e] :: max[e]
      H[r = T[n], n] = X[n, e]
    """
    x = normal(4, 3)
    result = run(text, {"r": 2}, X=x, T=[1, 0, 1, 5])
    np.testing.assert_allclose(result["G"], [x[1].max(), x[[0, 2]].max()])
    expected = np.zeros((2, 4))
    expected[[1, 0, 1], [0, 1, 2]] = x.sum(axis=1)[:3]
    np.testing.assert_allclose(result["H"], expected)


@given(
    st.lists(st.tuples(st.integers(-2, 6), st.integers(-9, 9)), min_size=1, max_size=8),
    st.sampled_from([("sum", sum), ("max", max), ("min", min), ("prod", math.prod)]),
)
@settings(deadline=None, max_examples=60)
def test_scatter_equals_loops(points, reduction):
    places, x = zip(*points, strict=True)
    name, fold = reduction
    text = f"cascade c(X[n], T[n]) -> G[r]\n  G[r = T[n]] = X[n] :: {name}"
    result = run(text, {"r": 5}, X=x, T=places)["G"]
    assert result.tolist() == scattered(places, x, 5, fold)


# --- functions ----------------------------------------------------------------------------------


def test_functions_are_expanded_where_they_are_called():
    def lrelu(x):
        return maximum(x, 0.1 * x)

    c = Builder("c")
    c.O[p, m] = exp(lrelu(c.X[p] + c.Y[m])) + m
    found = same(
        "cascade c(X[p], Y[m]) -> O[p, m]\n  def lrelu(x) = max(x, 0.1 * x)\n"
        "  def two(m, x) = exp(lrelu(x)) + m\n  O[p, m] = two(m, X[p] + Y[m])",
        c,
    )
    x, y = normal(2), normal(3, seed=1)
    each = x[:, None] + y[None]
    expected = np.exp(np.maximum(each, 0.1 * each)) + np.arange(3)
    np.testing.assert_allclose(run(found, X=x, Y=y)["O"], expected, rtol=1e-14)


def test_a_parameter_hides_a_rank_and_nothing_else():
    """Operands are put in at once: `swap(m, p)` means m where it says p."""
    text = """cascade c(X[p, m]) -> O[p, m]
      def swap(p, m) = 10 * m + p
      def shifted(i) = X[i, i] - i
      O[p, m] = swap(m, p) + shifted(m + 0) + m
    """
    body = str(parse(text).einsum("O").body)
    assert body == "10 * p + m + (X[m + 0, m + 0] - (m + 0)) + m"


def test_a_function_without_parameters_and_one_of_constants():
    text = """cascade c(X[p]) -> O[p]
      def half() = 0.5
      def scaled(x) = x * SC * half()
      const SC = half() * 4
      O[p] = scaled(X[p])
    """
    assert run(text, X=[1, 2])["O"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("def g(x, y) = x + y\nO[p] = g(X[p])", "'g' takes 2 operand(s), 1 given"),
        ("def g(x) = x\nO[p] = g()", "'g' takes 1 operand(s), 0 given"),
        ("def g(x) = x\ndef g(y) = y\nO[p] = g(X[p])", "function g is given twice"),
        ("def g(x, x) = x\nO[p] = g(X[p])", "parameter x is given twice"),
        ("def exp(x) = x\nO[p] = exp(X[p])", "'exp' is an operator of the notation already"),
        ("def g(X) = X\nO[p] = g(X[p])", "parameter 'X' has an upper-case letter"),
    ],
)
def test_functions_that_mean_nothing(lines, message):
    with pytest.raises(NotationError) as caught:
        parse(f"cascade c(X[p]) -> O[p]\n{lines}")
    assert caught.value.what == message


# --- states and formats -------------------------------------------------------------------------


def test_states_print_and_name_what_comes_next():
    c = Builder("c")
    c.inputs(c.K[m, e], c.N, c.XN[e])
    c.KX[m, e] = c.XN[e].where(m == c.N)
    c.KX[m, e] = c.K[m, e]
    c.NX = c.N + 1
    c.state(c.K, c.KX)
    c.state(c.N, c.NX)
    found = same(
        "cascade c(K[m, e], N, XN[e]) -> KX[m, e], NX\n  state K -> KX, N -> NX\n"
        "  KX[m, e] = XN[e] s.t. m == N\n  KX[m, e] = K[m, e]\n  NX = N + 1",
        c,
    )
    assert found.states == (("K", "KX"), ("N", "NX"))
    given_ = {"K": np.zeros((3, 2)), "N": np.zeros(())}
    for step in range(3):
        result = run(found, XN=[step, -step], **given_)
        given_ = {before: result[after] for before, after in found.states}
    assert given_["K"].tolist() == [[0, 0], [1, -1], [2, -2]]
    assert given_["N"] == 3


def test_formats_print_and_round_their_tensors():
    c = Builder("c")
    c.T[p] = c.X[p] * 2
    c.O[p] = c.T[p] + c.X[p]
    c.format("int8", c.T)
    c.format("fixed<8, 4>", c.X)
    found = same(
        "cascade c(X[p]) -> O[p]\n  format T = int8\n  format X = fixed< 8,4 >\n"
        "  T[p] = X[p] * 2\n  O[p] = T[p] + X[p]",
        c,
    )
    assert "  format T = int8\n  format X = fixed<8,4>\n" in str(found)
    result = run(found, X=[1.3, 0.03, 7.99])["O"]
    x = np.array([1.3125, 0, 7.9375])  # the nearest 1/16, at most 8 - 1/16
    assert result.tolist() == (np.rint(2 * x) + x).tolist()


def test_absence_is_kept_by_all_short_forms():
    c = Builder("c")
    c.inputs(c.X[m])
    c.K[m] = c.X[m].where(m < 1)
    c.K[m] = c.X[m].where(m == 2)
    c.A[m] = softmax(c.K[m], m)
    c.G[r.at(m + 1)] = c.A[m]
    c.O[r] = fill(c.G[r], -1)
    found = same(
        "cascade c(X[m]) -> O[r]\n  K[m] = X[m] s.t. m < 1\n  K[m] = X[m] s.t. m == 2\n"
        "  A[m] = softmax(K[m]; m)\n  G[r = m + 1] = A[m]\n  O[r] = fill(G[r], -1)",
        c,
    )
    assert run(found, {"r": 5}, X=[3, 9, 3, 9])["O"].tolist() == [-1, 0.5, -1, 0.5, -1]


def test_log_softmax_is_the_logarithm_of_softmax():
    cascade = parse("""
cascade both(X[p, m]) -> (A[p, m], L[p, m])
  A[p, m] = softmax(X[p, m]; m) s.t. m <= p
  L[p, m] = log_softmax(X[p, m]; m) s.t. m <= p
""")
    given = {"X": np.random.default_rng(0).normal(size=(3, 4)) * 300}
    found = interpret(bind_arrays(cascade, given), given)
    rows = [given["X"][p, : p + 1] for p in range(3)]
    for p, row in enumerate(rows):
        expected = row - row.max() - np.log(np.exp(row - row.max()).sum())
        np.testing.assert_allclose(found["L"][p, : p + 1], expected, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(found["A"][p, : p + 1], np.exp(expected), rtol=1e-9)
    assert not found["L"][0, 1:].any()

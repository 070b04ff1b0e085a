"""Selections (topk, argsort, argmax, argmin) against Python's own sort."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.frontend import terms
from penstock.einsum_ir.frontend.dsl import Builder
from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.frontend.terms import ranks
from penstock.einsum_ir.interpreter import select
from penstock.einsum_ir.interpreter.inputs import bind_arrays
from penstock.einsum_ir.interpreter.interp import Evaluator, interpret
from penstock.einsum_ir.interpreter.rounding import quantise

p, m, j, u, v, i, k, e = ranks("p m j u v i k e")
FP64 = parse_format("fp64")
HARD = [0.0, -0.0, 1.0, 1.0, -2.5, math.inf, -math.inf, math.nan, None, None]
rows = st.integers(1, 7).flatmap(
    lambda n: st.lists(st.lists(st.sampled_from(HARD), min_size=n, max_size=n), min_size=1)
)


def ordered(row, largest):
    """The coordinates of what is not None, best first: ties by coordinate, NaN last."""
    keys = [(n, x) for n, x in enumerate(row) if x is not None and not math.isnan(x)]
    sign = -1 if largest else 1
    good = [n for n, _ in sorted(keys, key=lambda nx: (sign * nx[1], nx[0]))]
    return good + [n for n, x in enumerate(row) if x is not None and math.isnan(x)]


def run(text, shapes=None, fmt=FP64, **inputs):
    cascade = parse(text)
    assert parse(str(cascade)) == cascade
    inputs = {name: np.array(value, np.float64) for name, value in inputs.items()}
    return interpret(bind_arrays(cascade, inputs, shapes=shapes), inputs, fmt)


def masked(rows):
    """Arrays of values and of what is there, from rows with None."""
    x = [[0.0 if each is None else each for each in row] for row in rows]
    return {"X": x, "W": [[each is not None for each in row] for row in rows]}


SELECT = """cascade c(X[p, m], W[p, m]) -> S[p, j], F[p, j]
  S[p, j] = X[p, m] :: {op}[m -> j] s.t. W[p, m]
  F[p, j] = fill(S[p, j], -1)
"""
ONE = """cascade c(X[p, m], W[p, m]) -> S[p], F[p]
  S[p] = X[p, m] :: {op}[m] s.t. W[p, m]
  F[p] = fill(S[p], -1)
"""


@given(rows, st.integers(1, 8))
@settings(deadline=None, max_examples=120)
def test_selections_equal_a_sort(rows, places):
    for op, largest in (("topk", True), ("argsort", False)):
        result = run(SELECT.format(op=op), {"j": places}, **masked(rows))
        best = [ordered(row, largest)[:places] for row in rows]
        assert result["F"].tolist() == [row + [-1] * (places - len(row)) for row in best]
        assert result["S"].tolist() == [row + [0] * (places - len(row)) for row in best]
        assert result["S"].dtype == np.int64
    for op, largest in (("argmax", True), ("argmin", False)):
        result = run(ONE.format(op=op), **masked(rows))
        best = [ordered(row, largest)[:1] for row in rows]
        assert result["F"].tolist() == [(row or [-1])[0] for row in best]


def test_ties_absent_nan_and_infinities_by_hand():
    """What the test above relies on, written out."""
    row = [1.0, math.nan, -math.inf, 1.0, None, math.inf]
    result = run(SELECT.format(op="topk"), {"j": 6}, **masked([row]))
    assert result["F"].tolist() == [[5, 0, 3, 2, 1, -1]]
    result = run(SELECT.format(op="argsort"), {"j": 6}, **masked([row]))
    assert result["F"].tolist() == [[2, 0, 3, 5, 1, -1]]
    assert ordered(row, largest=True) == [5, 0, 3, 2, 1]
    assert run(ONE.format(op="argmax"), **masked([row]))["S"].tolist() == [5]
    assert run(ONE.format(op="argmin"), **masked([[math.nan, None]]))["S"].tolist() == [0]


@pytest.mark.parametrize("op", ["topk", "argsort", "argmax", "argmin"])
def test_both_front_ends_build_equal_selections(op):
    c = Builder("c")
    function = getattr(terms, op)
    if op in ("topk", "argsort"):
        c.S[p, j] = function(c.X[p, m] + p, m, into=j).where(m <= p)
        left, reduction = "S[p, j]", f"{op}[m -> j]"
    else:
        c.S[p] = function((c.X[p, m] + p).where(m <= p))
        left, reduction = "S[p]", op
    text = f"cascade c(X[p, m]) -> {left}\n  {left} = X[p, m] + p :: {reduction} s.t. m <= p"
    assert c.build() == parse(text)
    assert parse(str(c.build())) == c.build()


def test_argsort_gives_all_places_and_inverts_itself():
    text = """cascade c(X[m]) -> S[j], R[m], Y[j]
      S[j] = X[m] :: argsort[m -> j]
      R[m] = S[j] :: argsort[j -> m]
      Y[j] = X[S[j]]
    """
    x = np.random.default_rng(0).normal(size=9)
    result = run(text, X=x)
    assert result["S"].tolist() == np.argsort(x, kind="stable").tolist()
    assert result["S"][result["R"]].tolist() == list(range(9))
    assert result["Y"].tolist() == sorted(x)


def test_two_ranks_give_the_row_major_coordinate():
    text = """cascade c(X[p, u, v]) -> S[p, j], Y[p, j], A[p], T[p, j]
      S[p, j] = X[p, u, v] :: topk[u, v -> j]
      Y[p, j] = X[p, S[p, j] // V, S[p, j] % V]
      A[p] = X[p, u, v] :: argmin[u, v]
      T[p, j] = X[p, u, v] :: topk[v, u -> j]
      shape j = 5
    """
    x = np.random.default_rng(1).integers(0, 4, size=(2, 3, 4)).astype(float)
    result = run(text, X=x)
    for at in (0, 1):
        best = ordered(x[at].ravel().tolist(), largest=True)[:5]
        assert result["S"][at].tolist() == best
        assert result["Y"][at].tolist() == x[at].ravel()[best].tolist()
        assert result["A"][at] == np.argmin(x[at])
        turned = ordered(x[at].T.ravel().tolist(), largest=True)[:5]
        assert result["T"][at].tolist() == turned


def test_the_places_may_be_anywhere_on_the_left():
    text = "cascade c(X[p, m, e]) -> S[e, j, p]\n  S[e, j, p] = X[p, m, e] :: topk[m -> j]"
    x = np.random.default_rng(2).normal(size=(2, 5, 3))
    result = run(text, {"j": 4}, X=x)["S"]
    for at, to in itertools.product(range(2), range(3)):
        assert result[to, :, at].tolist() == ordered(x[at, :, to].tolist(), largest=True)[:4]


@pytest.mark.parametrize("fmt", ["fp16", "bf16", "fp8_e4m3", "fixed<8,4>", "fixed<16,6>"])
def test_what_is_compared_is_rounded_and_coordinates_are_not(fmt):
    """Values that the format does not tell apart are ties; fp8 does not hold 300 coordinates."""
    text = """cascade c(X[m]) -> S[j], Y[j], Z[j]
      S[j] = X[m] :: topk[m -> j]
      Y[j] = X[S[j]]
      Z[j] = S[j] * 2
    """
    kind = parse_format(fmt)
    x = np.random.default_rng(3).normal(size=300)
    stored = np.asarray(quantise(x, kind), np.float64)
    result = run(text, {"j": 300}, kind, X=x)
    best = ordered(stored.tolist(), largest=True)
    assert len(set(stored.tolist())) < 300
    assert result["S"].tolist() == best
    np.testing.assert_array_equal(np.asarray(result["Y"], np.float64), stored[best])
    expected = quantise(2.0 * quantise(np.array(best, np.float64), kind), kind)
    np.testing.assert_array_equal(
        np.asarray(result["Z"], np.float64), np.asarray(expected, np.float64)
    )


def test_an_expression_is_compared_in_the_compute_type():
    """x + 0.0001 is not rounded to fp16 before it is compared: in fp32 it is largest."""
    text = "cascade c(X[m]) -> S\n  S = X[m] + where(m == 1, 0.0001, 0) :: argmax[m]"
    assert run(text, fmt=parse_format("fp16"), X=[1, 1, 1])["S"] == 1


def test_a_gather_of_an_absent_place_is_absent():
    text = """cascade c(X[m], W[m], V[m, e]) -> G[j, e], C
      S[j] = X[m] :: topk[m -> j] s.t. W[m]
      G[j, e] = V[S[j], e]
      ONE[j] = G[j, e] * 0 + 1 :: max[e]
      C = ONE[j]
    """
    v = np.arange(8.0).reshape(4, 2) + 1
    result = run(text, {"j": 3}, X=[1, 3, 2, 4], W=[1, 1, 0, 0], V=v)
    assert result["G"].tolist() == [v[1].tolist(), v[0].tolist(), [0, 0]]
    assert result["C"] == 2


def test_a_selection_in_a_loop_reads_the_state_of_its_step():
    """Greedy: at each step the largest that was not taken yet, and never twice the same."""
    text = """cascade c(X[m]) -> S[i]
      init T[0, m] = 0
      loop i:
        S[i] = X[m] :: argmax[m] s.t. T[i, m] == 0
        T[i + 1, m] = max(T[i, m], m == S[i])
    """
    x = [3.0, 7.0, 7.0, -math.inf, 5.0]
    assert run(text, {"i": 5}, X=x)["S"].tolist() == ordered(x, largest=True)


def test_a_state_may_be_selected():
    """S[i + 1] is absent where no candidate is: it stays what it was."""
    text = """cascade c(X[i, m], W[i, m]) -> S[i]
      init S[0] = 9
      S[i + 1] = X[i, m] :: argmax[m] s.t. W[i, m]
    """
    result = run(text, X=[[1, 2], [3, 1], [5, 6]], W=[[1, 1], [0, 0], [1, 0]])
    assert result["S"].tolist() == [9, 1, 1, 0]


# --- box by box ---------------------------------------------------------------------------------

BOXES = """cascade c(X[p, m, k], W[p, m]) -> S[p, j], A[p], Y[p, j]
  S[p, j] = X[p, m, k] :: topk[m, k -> j] s.t. W[p, m]
  A[p] = X[p, m, k] :: argmin[m, k] s.t. W[p, m]
  Y[p, j] = X[p, S[p, j] // K, S[p, j] % K]
"""


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_boxes_equal_the_whole(data):
    """`compute`, `finish` and `skip` over boxes of the left side, in any order."""
    seed = data.draw(st.integers(0, 99))
    generator = np.random.default_rng(seed)
    x = generator.integers(-3, 4, size=(5, 4, 2)).astype(float)
    w = generator.random((5, 4)) < 0.6
    cascade = parse(BOXES)
    bound = bind_arrays(cascade, {"X": x, "W": w}, shapes={"j": 5})
    whole = interpret(bound, {"X": x, "W": w}, FP64)
    evaluator = Evaluator(bound, {"X": x, "W": w}, FP64)
    for einsum in cascade.einsums:
        cuts = [_cuts(data, name, bound.extents[name]) for name in _left(einsum)]
        for box in data.draw(st.permutations(list(itertools.product(*cuts)))):
            ranges = dict(zip(_left(einsum), box, strict=True))
            if "p" in ranges and not w[slice(*ranges["p"])].any():
                evaluator.skip(einsum, ranges)
            else:
                evaluator.compute(einsum, ranges)
            evaluator.finish(einsum, ranges)
    for name, expected in whole.items():
        np.testing.assert_array_equal(evaluator.tensor(name), expected)
        assert evaluator.tensor(name).dtype == expected.dtype


def test_boxes_of_steps_keep_the_state():
    """A selected state, two steps at once; a step that is skipped leaves it as it was."""
    text = """cascade c(X[p, i, m], W[i]) -> S[p, i]
      init S[p, 0] = 9
      S[p, i + 1] = X[p, i, m] :: argmax[m] s.t. W[i]
    """
    x = np.random.default_rng(5).normal(size=(3, 4, 5))
    arrays = {"X": x, "W": np.array([1, 1, 0, 1])}
    cascade = parse(text)
    bound = bind_arrays(cascade, arrays)
    evaluator = Evaluator(bound, arrays, FP64)
    start, step = cascade.einsums
    evaluator.compute(start, {})
    for rows in ((2, 3), (0, 2)):
        evaluator.compute(step, {"p": rows, "i": (0, 2)})
        evaluator.skip(step, {"p": rows, "i": (2, 3)})
        evaluator.compute(step, {"p": rows, "i": (3, 4)})
    found = evaluator.tensor("S")
    best = x.argmax(axis=2)
    assert found.tolist() == [[9, a, b, b, d] for a, b, _, d in best.tolist()]
    np.testing.assert_array_equal(found, interpret(bound, arrays, FP64)["S"])


def _left(einsum):
    return [str(index) for index in einsum.output.indices]


def _cuts(data, name, extent):
    cut = data.draw(st.integers(0, extent), label=name)
    return [(start, stop) for start, stop in ((0, cut), (cut, extent)) if start < stop]


def test_large_selections_are_computed_in_parts(monkeypatch):
    monkeypatch.setattr(select, "LIMIT", 16)
    x = np.random.default_rng(4).integers(0, 3, size=(7, 3, 6)).astype(float)
    text = "cascade c(X[p, k, m]) -> S[j, p, k]\n  S[j, p, k] = X[p, k, m] :: topk[m -> j]"
    result = run(text, {"j": 6}, X=x)["S"]
    expected = np.argsort(-x, axis=-1, kind="stable")
    np.testing.assert_array_equal(result.transpose(1, 2, 0), expected)

"""Pass counts against FuseMax (MICRO 2024) and small cascades with known answers."""

import pytest

from penstock import zoo
from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.passes import (
    Footprint,
    PassRow,
    count_passes,
    live_footprint,
    pass_table,
    taxonomy,
)
from penstock.einsum_ir.shapes import bind
from penstock.errors import UnknownNameError

STANDARD = """cascade c(A[k], B[k]) -> Z
  Y = A[k] * B[k]
  Z = Y * A[k]"""
DEFERRED = """cascade c(A[k], B[k]) -> Z
  Y = A[k] * B[k]
  X = A[k]
  Z = Y * X"""
ITERATIVE = """cascade c(A[k], B[k]) -> Z
  init RY[0] = 1
  init RZ[0] = 0
  loop k:
    RY[k+1] = RY[k] + A[k]*B[k]
    RZ[k+1] = RZ[k] * RY[k+1] / RY[k] + RY[k+1]*A[k]
  Z = RZ[K]"""
MEAN_VARIANCE = """cascade c(X[m]) -> S
  MU = X[m] :: mean[m]
  S = (X[n] - MU) * (X[n] - MU) :: mean[n]"""
WELFORD = """cascade c(X[m]) -> Q
  init N[0] = 0
  init MU[0] = 0
  init Q2[0] = 0
  loop m:
    N[m+1] = N[m] + 1
    MU[m+1] = MU[m] + (X[m] - MU[m]) / N[m+1]
    Q2[m+1] = Q2[m] + (X[m] - MU[m]) * (X[m] - MU[m+1])
  Q = Q2[M] / M"""
SELF = """cascade c(X[m, e]) -> O[p, e]
  QK[p, m] = X[p, e] * X[m, e]
  GM[p] = QK[p, m] :: max[m]
  SN[p, m] = exp(QK[p, m] - GM[p])
  SD[p] = SN[p, m]
  A[p, m] = SN[p, m] / SD[p]
  O[p, e] = A[p, m] * X[m, e]"""
WINDOW = """cascade c(Q[p, e], K[m, e], V[m, f]) -> O[p, f]
  shape w = 4
  QK[p, w] = Q[p, e] * K[p + w - W, e]
  GM[p] = QK[p, w] :: max[w]
  SN[p, w] = exp(QK[p, w] - GM[p])
  SD[p] = SN[p, w]
  A[p, w] = SN[p, w] / SD[p]
  O[p, f] = A[p, w] * V[p + w - W, f]"""
UNSTABLE = """cascade c(QK[p, m], V[m, f]) -> O[p, f]
  SN[p, m] = exp(QK[p, m])
  SD[p] = SN[p, m]
  A[p, m] = SN[p, m] / SD[p]
  O[p, f] = A[p, m] * V[m, f]"""
LOOP = """cascade c(X[m]) -> Z
  shape m0 = 4
  init R[0] = 0
  loop m1:
    LM[m1] = X[m1*M0 + m0] :: max[m0]
    R[m1+1] = max(R[m1], LM[m1])
    Y[m1, m0] = X[m1*M0 + m0] - {state}
    S[m1] = Y[m1, m0] :: sum[m0]
  Z = S[m1]"""
DOUBLE = """cascade c(X[p, m]) -> O[p]
  GM[p] = X[p, m] :: max[m]
  SN[p, m] = exp(X[p, m] - GM[p])
  SD[p] = SN[p, m]
  A[p, m] = SN[p, m] / SD[p]
  G2[p] = A[p, m] :: max[m]
  S2[p, m] = exp(A[p, m] - G2[p])
  D2[p] = S2[p, m]
  B[p, m] = S2[p, m] / D2[p]
  O[p] = B[p, m] * X[p, m]"""
RESUMED = """cascade c(X[m]) -> Z
  GM = X[m] :: max[m]
  init R[0] = GM
  loop m:
    R[m+1] = R[m] + X[m]
  Z = R[M]"""
HISTORY = """cascade c(X[m]) -> Z
  init R[0] = 0
  loop m:
    R[m+1] = R[m] + X[m]
  T = R[M]
  Y[n] = R[n] / T
  Z = Y[n] * X[n] :: sum[n]"""


@pytest.mark.parametrize(
    ("cascade", "tensor", "rank", "passes"),
    [
        ("attention", "K", "m", 3),  # FuseMax, Table I and Cascade 4
        ("attention", "V", "m", 1),
        ("attention", "Q", "p", 1),
        ("attention", "Q", "e", 1),
        ("attention", "QK", "m", 3),
        ("attention", "SN", "m", 2),
        ("attention", "A", "m", 1),
        ("attention_deferred", "K", "m", 2),  # section IV-D
        ("attention_2pass", "K", "m", 2),  # Table I
        ("attention_1pass", "K", "m", 1),  # Cascade 5
        ("attention_1pass", "V", "m", 1),
        ("attention_1pass", "K", "m1", 1),
        ("attention_1pass", "K", "m0", 2),  # section IV-D: the tile is the live footprint
        ("attention_1pass", "BQK", "m0", 2),
        ("attention_1pass", "RM", "m1", 1),
        ("causal_attention_1pass", "K", "m", 1),
        ("gqa_causal", "K", "m", 3),
        ("gqa_causal", "K", "g", 1),
        ("sliding_window", "K", "m", 3),
        ("cross", "Y", "m", 3),
        ("linear_attention", "K", "m", 1),
        ("matmul", "A", "k", 1),
    ],
)
def test_stock_cascades(cascade, tensor, rank, passes):
    assert count_passes(zoo.load(cascade), tensor, rank) == passes


@pytest.mark.parametrize(
    ("text", "tensor", "rank", "passes"),
    [
        (STANDARD, "A", "k", 2),  # FuseMax, Cascade 1
        (STANDARD, "B", "k", 1),
        (DEFERRED, "A", "k", 1),  # Cascade 2
        (ITERATIVE, "A", "k", 1),  # Cascade 3
        (MEAN_VARIANCE, "X", "m", 2),
        (WELFORD, "X", "m", 1),
        (SELF, "X", "m", 3),
        (WINDOW, "K", "m", 3),
        (WINDOW, "K", "w", 3),
        (WINDOW, "K", "p", 1),
        (WINDOW, "V", "m", 1),
        (UNSTABLE, "QK", "m", 2),
        (DOUBLE, "X", "m", 5),
        (RESUMED, "X", "m", 2),
        (HISTORY, "X", "m", 2),
    ],
)
def test_small_cascades(text, tensor, rank, passes):
    assert count_passes(parse(text), tensor, rank) == passes


def test_state_of_earlier_steps_is_no_barrier_along_another_rank():
    assert count_passes(parse(LOOP.format(state="R[m1]")), "X", "m0") == 1
    assert count_passes(parse(LOOP.format(state="R[m1+1]")), "X", "m0") == 2


@pytest.mark.parametrize(
    ("cascade", "kind"),
    [
        ("attention", "3-pass"),
        ("attention_deferred", "2-pass"),
        ("attention_2pass", "2-pass"),
        ("attention_1pass", "1-pass"),
        ("causal_attention", "3-pass"),
        ("linear_attention", "1-pass"),
        ("matmul", "1-pass"),
    ],
)
def test_taxonomy(cascade, kind):
    assert taxonomy(zoo.load(cascade)) == kind


def test_rows_say_which_einsum_forces_which_pass():
    rows = {(row.tensor, row.rank): row for row in pass_table(zoo.load("attention"))}
    row = rows["K", "m"]
    waits = ("pass 2 as SN needs all of GM", "pass 3 as A needs all of SD")
    assert row == PassRow("K", "m", 3, "QK -> GM | SN -> SD | A -> O", waits)
    assert row.to_json() == {
        "tensor": "K",
        "rank": "m",
        "passes": 3,
        "chain": "QK -> GM | SN -> SD | A -> O",
        "waits": list(waits),
    }
    assert ("O", "p") not in rows  # nothing reads it


def test_split_ranks_have_rows_of_their_own():
    rows = pass_table(zoo.load("attention_1pass"))
    assert [row.rank for row in rows if row.tensor == "K"] == ["b", "h", "m", "m1", "m0", "e"]


def test_a_tensor_that_nothing_reads_has_no_passes():
    cascade = parse("cascade c(A[k], B[k]) -> Z\n  Z = A[k]")
    assert count_passes(cascade, "B", "k") == 0
    assert PassRow("B", "k", 0, "") in pass_table(cascade)


def test_footprint_of_three_passes_is_the_key_fiber():
    found = {each.tensor: each.text for each in live_footprint(zoo.load("attention"))}
    assert {name: text for name, text in found.items() if text != "1"} == {"QK": "M", "SN": "M"}


def test_footprint_of_one_pass_is_a_tile():
    cascade = zoo.load("attention_1pass")
    bound = bind(cascade, shapes=dict(b=1, h=2, p=8, m=100, m0=16, e=4, f=4))
    found = [each for each in live_footprint(cascade, bound) if each.elements != 1]
    assert found == [Footprint("BQK", ("m0",), "M0", 16)]
    assert found[0].to_json() == {"tensor": "BQK", "ranks": ["m0"], "live": "M0", "elements": 16}


def test_footprint_of_an_input_that_is_read_twice():
    cascade = parse(MEAN_VARIANCE)
    assert live_footprint(cascade, bind(cascade, shapes=dict(m=10))) == (
        Footprint("X", ("m",), "M", 10),
        Footprint("MU", (), "1", 1),
    )


def test_unknown_names():
    cascade = parse(DEFERRED)
    with pytest.raises(UnknownNameError) as error:
        count_passes(cascade, "C", "k")
    assert str(error.value) == "unknown tensor 'C' (known: A, B, X, Y, Z)"
    with pytest.raises(UnknownNameError) as error:
        count_passes(cascade, "A", "q")
    assert str(error.value) == "unknown rank of A 'q' (known: k)"

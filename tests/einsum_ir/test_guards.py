"""Presence and guards against the interpreter: what is skipped never matters."""

import dataclasses

import numpy as np
import pytest
from stock import STOCK_CASCADES

from penstock import zoo
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.frontend.notation import parse, parse_expr
from penstock.einsum_ir.interpreter.interp import Evaluator, interpret
from penstock.einsum_ir.nodes import Apply, Group, Num
from penstock.einsum_ir.regions.counting import holds_at
from penstock.einsum_ir.regions.guards import guards, presence
from penstock.einsum_ir.regions.presence import Always, Stored, When
from penstock.einsum_ir.shapes import bind

FP64 = parse_format("fp64")

SOFTMAX = """
  GM[p] = QK[p, m] :: max[m]
  SN[p, m] = exp(QK[p, m] - GM[p])
  SD[p] = SN[p, m]
  A[p, m] = SN[p, m] / SD[p]
  O[p, f] = A[p, m] * V[m, f]"""
MASKED = "cascade c(Q[p, e], K[m, e], V[m, f]) -> O[p, f]\n  QK[p, m] = Q[p, e] * K[m, e] s.t. "

CUSTOM = {
    "band": MASKED + "abs(p - m) <= 2" + SOFTMAX,
    "block": MASKED + "m//3 == p//3" + SOFTMAX,
    "dilated": MASKED + "(p - m) % 2 == 0 and m <= p" + SOFTMAX,
    "prefix": MASKED + "m <= p or m < 3" + SOFTMAX,
    "sink": MASKED + "m <= p and (p - m < 3 or m < 2)" + SOFTMAX,
    "future": MASKED + "m > p" + SOFTMAX,
    "odd": MASKED + "(p + m) % 2 == 1 and m < p" + SOFTMAX,
    "slope": MASKED + "m <= 0.7*p" + SOFTMAX,
    "never": MASKED + "m < 0" + SOFTMAX,
    "data": """cascade c(Q[p, e], K[m, e], V[m, f], SEG[m]) -> O[p, f]
  QK[p, m] = Q[p, e] * K[m, e] s.t. SEG[m] > 0 and m <= p"""
    + SOFTMAX,
    "window": """cascade c(Q[p, e], K[m, e], V[m, f]) -> O[p, f]
  shape w = 3
  QK[p, w] = Q[p, e] * K[p + w - 1, e]
  GM[p] = QK[p, w] :: max[w]
  SN[p, w] = exp(QK[p, w] - GM[p])
  SD[p] = SN[p, w]
  O[p, f] = SN[p, w] * V[p + w - 1, f] / SD[p]""",
    "padded": """cascade c(X[m], T[w]) -> Y[p]
  shape w = 3
  shape p = 9
  F[m] = X[m] * 2
  Y[p] = fill(F[2*p + w - 3], 1) * T[w]""",
    "gather": """cascade c(X[m, f], IDX[p, s]) -> Y[p, f]
  F[m, f] = X[m, f] * X[m, f] s.t. m > 1
  Y[p, f] = F[IDX[p, s], f] :: max[s] s.t. s <= p""",
    "select": """cascade c(X[m], Y[m]) -> Z[p]
  shape p = 6
  B[m] = Y[m] * 2 s.t. m % 2 == 0
  A[m] = X[m] + 1 s.t. m < 5
  Z[p] = where(m < p, A[m], B[m]) :: sum[m]""",
    "mean": """cascade c(X[p, m]) -> Z[p]
  Y[p, m] = X[p, m] * X[p, m] s.t. m < p
  Z[p] = Y[p, m] :: mean[m]""",
    "half": """cascade square(X[m, n]) -> Z[p]
  T[n, m] = exp(X[m, n])
  S[p] = T[p, m] s.t. m >= 2
  W[p] = T[m, p] * T[m, p] s.t. m + p < 5
  Z[p] = S[p] - fill(W[p], 0) s.t. p < 4""",
    "late": """cascade c(X[i]) -> Y[p]
  loop i:
    S[i+1] = fill(S[i], 0) + X[i] s.t. i >= 2
  Y[p] = S[p] * 2""",
    "newest": """cascade c(X[i, p]) -> Y[p]
  loop i:
    S[p, i+1] = X[i, p] * 2 s.t. i >= p
  Y[p] = S[p, I]""",
    "scan": """cascade c(X[i, p]) -> Y[p], H[i, p]
  init S[0, p] = 0 s.t. p < 3
  loop i:
    F[i, p] = X[i, p] * X[i, p]
    S[i+1, p] = S[i, p] + F[i, p] s.t. i <= p
    H[i, p] = S[i+1, p] * F[i, p]
  Y[p] = S[I, p]""",
    "backward": """cascade c(X[i]) -> Y
  shape i = 6
  init i: S[i+1] = X[i+1] * 2
  loop i:
    S[i+1] = max(S[i], X[i+1])
  Y = S[I]""",
    "divided": """cascade c(X[m]) -> Y[p]
  shape p = 5
  Y[p] = X[6 // p] * (7 % p)""",
    "unused": """cascade c(X[m], Z[m]) -> Y[m]
  T[m] = exp(Z[m])
  U[m] = T[m] * 2
  Y[m] = X[m] + 1""",
}
SHAPES = [dict(p=6, m=7, m0=3), dict(p=8, m=5, m0=4), dict(p=5, m=5, m0=5)]
OTHERS = dict(b=2, h=4, g=2, e=2, f=2, d=3, c=2, o=3, k=3, n=4, i=5, s=2)


def bound_of(cascade, shapes, constants=None):
    ranks = {rank for each in cascade.inputs for rank in each.ranks}
    ranks |= {name for each in cascade.einsums for name in each.variables}
    fixed = {name: extent for name, extent in cascade.shape.items() if name != "m0"}
    known = {**OTHERS, **shapes, **fixed}
    if cascade.name == "square":
        known |= {"m": known["p"], "n": known["p"]}
    given = {name: known[name] for name in ranks if name != "m1"}
    return bind(cascade, shapes=given, constants=constants)


ALL = {name: zoo.load(name) for name in STOCK_CASCADES}
ALL |= {name: parse(text) for name, text in CUSTOM.items()}
CASES = [
    pytest.param(cascade, shapes, id=f"{name}-{shapes['p']}")
    for name, cascade in ALL.items()
    for shapes in SHAPES
]


def made(cascade, shapes):
    constants = {"W": 3} if "W" in dict(cascade.constants) else None
    bound = bound_of(cascade, shapes, constants)
    generator = np.random.default_rng(7)
    inputs = {}
    for each in cascade.inputs:
        dims = bound.dims[each.tensor]
        if each.tensor == "IDX":
            inputs[each.tensor] = generator.integers(-1, bound.extents["m"], size=dims)
        elif each.tensor == "SEG":
            inputs[each.tensor] = generator.integers(0, 2, size=dims)
        else:
            inputs[each.tensor] = generator.normal(size=dims) * 3
    return bound, inputs


def guarded(cascade, found):
    """Add each guard to its Einsum's predicate: what it excludes becomes absent."""

    def one(einsum):
        guard = None if einsum.init else found[einsum.name]
        if guard is None:
            return einsum
        where = guard if einsum.where is None else Apply("and", (einsum.where, guard))
        return dataclasses.replace(einsum, where=where)

    statements = tuple(
        dataclasses.replace(each, einsums=tuple(map(one, each.einsums)))
        if isinstance(each, Group)
        else one(each)
        for each in cascade.statements
    )
    return dataclasses.replace(cascade, statements=statements)


@pytest.mark.parametrize(("cascade", "shapes"), CASES)
def test_points_outside_a_guard_change_no_output(cascade, shapes):
    bound, inputs = made(cascade, shapes)
    found = guards(bound)
    assert set(found) == {each.name for each in cascade.einsums}
    for each in cascade.einsums:
        guard = found[each.name]
        if guard is not None and not each.init:
            assert "[" not in str(guard)
    skipped = dataclasses.replace(bound, cascade=guarded(bound.cascade, found))
    expected = interpret(bound, inputs, FP64)
    for name, values in interpret(skipped, inputs, FP64).items():
        np.testing.assert_array_equal(values, expected[name])


@pytest.mark.parametrize(("cascade", "shapes"), CASES)
def test_presence_is_what_the_interpreter_finds(cascade, shapes):
    bound, inputs = made(cascade, shapes)
    evaluator = Evaluator(bound, inputs, FP64)
    for statement in cascade.schedule:
        evaluator.run(statement)
    for name, found in presence(bound).items():
        present = evaluator.present(name)
        if isinstance(found, Always):
            assert present.all(), name
        elif isinstance(found, When):
            grid = np.meshgrid(*map(np.arange, present.shape), indexing="ij")
            coordinates = dict(zip(found.variables, grid, strict=True))
            np.testing.assert_array_equal(present, holds_at(found.condition, coordinates, {}))


def text_of(found):
    if isinstance(found, When):
        return str(found.condition)
    return type(found).__name__


def test_presence_in_causal_attention():
    bound = bound_of(zoo.load("causal_attention"), dict(p=6, m=8))
    found = {name: text_of(each) for name, each in presence(bound).items()}
    masked = {"QK": "m <= p + 2", "SN": "m <= p + 2", "A": "m <= p + 2"}
    assert found == dict.fromkeys(found, "Always") | masked


def test_presence_where_some_rows_are_fully_masked():
    bound = bound_of(zoo.load("causal_attention"), dict(p=8, m=6))
    found = presence(bound)
    assert text_of(found["QK"]) == "m + 2 <= p"
    assert found["GM"] == When(("h", "p"), parse_expr("2 <= p"))
    assert text_of(found["O"]) == "2 <= p"
    assert text_of(presence(made(parse(CUSTOM["odd"]), SHAPES[0])[0])["GM"]) == "Stored"


def test_presence_in_one_pass_with_a_remainder():
    bound = bound_of(zoo.load("attention_1pass"), dict(p=6, m=7, m0=3))
    found = {name: text_of(each) for name, each in presence(bound).items()}
    short = {"BQK": "m0 + 3 * m1 <= 6", "SLN": "m0 + 3 * m1 <= 6"}
    assert found == dict.fromkeys(found, "Always") | short


def test_presence_in_causal_one_pass_is_symbolic():
    bound = bound_of(zoo.load("causal_attention_1pass"), dict(p=8, m=8, m0=2))
    found = presence(bound)
    assert found["LM"] == When(("h", "p", "m1"), parse_expr("2 * m1 <= p"))
    assert found["RM"] == Always()
    assert found["O"] == Stored()  # its predicate reads RD


def test_an_enumerated_reduction_is_always_present():
    found = presence(made(parse(CUSTOM["dilated"]), SHAPES[0])[0])
    assert (text_of(found["QK"]), found["GM"]) == ("(p - m) % 2 <= 0 and m <= p", Always())


def test_state_that_begins_late():
    found = presence(made(parse(CUSTOM["newest"]), SHAPES[0])[0])
    assert found["S"] == When(("p", "i"), parse_expr("p + 1 <= i"))
    found = presence(made(parse(CUSTOM["late"]), SHAPES[0])[0])
    assert found["S"] == Stored()  # its step reads it, and does without


def test_guards_of_causal_one_pass_end_at_the_diagonal():
    bound = bound_of(zoo.load("causal_attention_1pass"), dict(p=8, m=8, m0=2))
    found = {name: None if each is None else str(each) for name, each in guards(bound).items()}
    point, tile = "m0 + 2 * m1 <= p", "2 * m1 <= p"
    assert found == {
        "QS": None,
        "BQK": point,
        "LM": point,
        "RM": tile,
        "SLN": point,
        "SLD": point,
        "SLNV": point,
        "PRM": tile,  # in demand where RD and RNV step
        "RD": tile,
        "RNV": tile,
        "O": None,
    }


def test_demand_goes_through_products_of_the_state():
    text = str(zoo.load("attention_1pass")).replace(":: sum[e]", ":: sum[e] s.t. m1*M0 + m0 <= p")
    bound = bound_of(parse(text), dict(p=8, m=8, m0=2))
    found = guards(bound)
    for name in ("PRM", "SPD", "SPNV", "RD", "RNV", "RM"):
        assert str(found[name]) == "2 * m1 <= p"
    assert found["AV"] is None


def test_guards_of_a_sliding_window():
    bound = bound_of(zoo.load("sliding_window"), dict(p=8, m=8), {"W": 3})
    found = {name: str(each) for name, each in guards(bound).items()}
    window = "m <= p and p <= m + 2"
    assert found == dict.fromkeys(found, window) | {"QS": "None"}


def test_only_the_keys_in_sight_are_in_demand():
    text = str(zoo.load("cross")).replace(":: sum[e]", ":: sum[e] s.t. m <= p")
    bound = bound_of(parse(text), dict(p=3, m=8))
    found = guards(bound)
    assert (str(found["K"]), str(found["V"])) == ("m <= 2", "m <= 2")


def test_what_nothing_reads_has_no_effect():
    found = guards(made(parse(CUSTOM["unused"]), SHAPES[0])[0])
    assert found == {"T": Num(0), "U": Num(0), "Y": None}

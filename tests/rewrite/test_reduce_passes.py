"""Derived cascades: masks, absent rows, infinities, ties, prefixes, and every backend.

The corpus, its pass counts and its speed are in `test_derived_corpus.py`.
"""

import numpy as np
import pytest
from corpus import cases, inputs

from penstock import parse, zoo
from penstock.codegen.hls import csim
from penstock.codegen.loops.interp import run_program
from penstock.codegen.lower.program import lower
from penstock.codegen.tvm import cpu as tvm_cpu
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.interpreter.inputs import bind_arrays
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.rewrite.plan import PassPlan, Refusal
from penstock.einsum_ir.rewrite.reduce import reduce_passes
from penstock.mapper.check import check
from penstock.mapper.search.build import default_mapping
from penstock.targets import TARGETS

LOGITS = """
cascade masked(X[p, m], V[m, f], L[p]) -> (O[p, f], S[p])
  Y[p, m]  = X[p, m]                 s.t. {mask}
  GM[p]    = Y[p, m]                 :: max[m]
  SN[p, m] = exp(Y[p, m] - GM[p])
  SD[p]    = SN[p, m]                :: sum[m]
  O[p, f]  = SN[p, m] / SD[p] * V[m, f] :: sum[m]
  S[p]     = fill(GM[p] + log(SD[p]), -inf)
"""


def plan_of(text, rank="m", **options):
    found = reduce_passes(parse(text), rank, **options)
    assert isinstance(found, PassPlan), str(found)
    return found


def forms(plan):
    """Each form of a plan with shapes: tiles and parts of one, of some, of more than all."""
    for size in (1, 3, 4, 64):
        yield plan.cascade, {plan.tile: size}
        if plan.tree is not None:
            yield plan.tree, {plan.split: size}


def agree(plan, given, tolerance=1e-12):
    wanted = interpret(bind_arrays(plan.original, given), given)
    for cascade, shapes in forms(plan):
        got = interpret(bind_arrays(cascade, given, shapes=shapes), given)
        for name, values in wanted.items():
            np.testing.assert_allclose(got[name], values, rtol=0, atol=tolerance, err_msg=name)
    return wanted


@pytest.mark.parametrize("mask", ["m < L[p]", "m >= L[p]", "m == L[p]", "(m + p) % 3 == 0"])
def test_masked_prefixes_and_rows(mask):
    plan = plan_of(LOGITS.format(mask=mask))
    rng = np.random.default_rng(0)
    given = {
        "X": 1000 * rng.normal(size=(5, 11)),
        "V": rng.normal(size=(11, 2)),
        "L": np.array([0, 11, 3, 10, 7.0]),
    }
    wanted = agree(plan, given, 1e-11)
    empty = ~np.any(_allowed(mask, given["L"]), axis=1)
    assert np.all(wanted["O"][empty] == 0)
    assert np.all(wanted["S"][empty] == -np.inf)


def _allowed(mask, lengths):
    p, m = np.ogrid[:5, :11]
    return {
        "m < L[p]": m < lengths[:, None],
        "m >= L[p]": m >= lengths[:, None],
        "m == L[p]": m == lengths[:, None],
        "(m + p) % 3 == 0": (m + p) % 3 == 0,
    }[mask]


def test_minus_infinity_before_the_first_number():
    plan = plan_of(LOGITS.format(mask="m < M"))
    rng = np.random.default_rng(1)
    x = rng.normal(size=(4, 11))
    x[0, :10], x[1, :5], x[2, 5:] = -np.inf, -np.inf, -np.inf
    given = {"X": x, "V": rng.normal(size=(11, 2)), "L": np.zeros(4)}
    assert np.all(np.isfinite(agree(plan, given)["O"]))


def test_a_sum_with_points_that_its_reference_lacks():
    """The maximum runs over a part of the rank, the sum over all of it."""
    plan = plan_of(
        """
cascade c(X[p, m]) -> S[p]
  G[p] = X[p, m]                :: max[m] s.t. m % 4 == 3
  S[p] = sq(X[p, m] - G[p])     :: sum[m]
""",
        gated=False,
    )
    assert (plan.before, plan.after) == (2, 1)
    for length in (2, 12):  # with two elements there is no maximum, and no sum
        agree(plan, {"X": np.random.default_rng(2).normal(size=(3, length))}, 1e-10)


def test_a_reference_that_moves_where_the_sum_has_no_points():
    plan = plan_of("""
cascade c(X[p, m]) -> S[p]
  G[p] = X[p, m]                :: max[m]
  S[p] = exp(X[p, m] - G[p])    :: sum[m] s.t. m < 2
""")
    agree(plan, {"X": np.arange(24.0).reshape(2, 12)})


def test_moments_count_present_points_only():
    plan = plan_of("""
cascade c(X[p, m]) -> V[p]
  Y[p, m] = X[p, m]           s.t. (m + p) % 2 == 0
  S[p]    = Y[p, m]           :: sum[m]
  V[p]    = sq(Y[p, m] - S[p]) :: sum[m]
""")
    agree(plan, {"X": np.random.default_rng(3).normal(size=(3, 10))}, 1e-10)


def test_ties_go_to_the_lower_coordinate():
    case = next(each for each in cases() if each.name == "top4_routing")
    plan = reduce_passes(case.cascade, case.rank)
    rng = np.random.default_rng(4)
    agree(plan, {"X": rng.integers(0, 3, (5, 13)).astype(float)}, 0)


def test_fewer_candidates_than_places_are_absent():
    plan = plan_of("""
cascade c(X[p, m], L[p]) -> T[p, j]
  shape j = 3
  S[p]    = abs(X[p, m])            :: sum[m]
  P[p, j] = X[p, m] / exp(S[p])     :: topk[m -> j] s.t. m < L[p]
  T[p, j] = fill(P[p, j], -1)
""")
    given = {"X": np.random.default_rng(5).normal(size=(4, 9)), "L": np.array([0, 1, 2, 9.0])}
    assert np.any(agree(plan, given, 0)["T"] == -1)


def test_over_the_places_of_a_selection():
    """The places are chosen before: the softmax over them takes one pass."""
    plan = plan_of(zoo.source("topk_attention"), "j")
    assert (plan.before, plan.after) == (3, 1)
    rng = np.random.default_rng(6)
    given = {name: 4 * rng.normal(size=(2, 37, 4)) for name in "QKV"}
    agree(plan, given)


def test_gates_are_counted_from_the_start_of_a_tile():
    case = next(each for each in cases() if each.name == "gated_linear")
    plan = reduce_passes(case.cascade, case.rank)
    text = str(plan.cascade)
    assert "exp(DT_T[m1])" in text  # the decay of one tile, not a difference of prefix sums
    given = inputs(case, np.random.default_rng(6), 40)
    given["G"] *= 1000
    agree(plan, given, 1e-9)


def test_a_divisor_that_is_0_where_no_point_is_divided():
    plan = plan_of(
        """
cascade c(X[p, m], MK[m], W[m]) -> R[p]
  Z[p, m] = X[p, m]                                       s.t. MK[m] > 0
  S[p]    = Z[p, m] * Z[p, m]                             :: sum[m]
  E[p]    = exp(Z[p, m] - S[p])                           :: min[m]
  R[p]    = where(m % 2 == 0, Z[p, m] / S[p] / E[p], Z[p, m]) * W[m] :: sum[m]
"""
    )
    assert plan.tree is not None
    given = {"X": np.array([[1.0, 0, 2], [3, 0, 1]]), "MK": np.array([0.0, 1, 0]), "W": np.ones(3)}
    agree(plan, given)


def test_reductions_that_no_output_needs_are_left_alone():
    """Of a window that only they run over, nothing would say how long it is."""
    plan = plan_of(
        """
cascade c(X[n], Y[p]) -> O[p]
  shape m = 4
  shape w = 2
  G[w] = X[w*4 + m]                :: max[m]
  S[w] = exp(X[w*4 + m] - G[w])    :: sum[m]
  O[p] = 2 * Y[p]
"""
    )
    assert str(plan.cascade).count("\n") < 4
    given = {"X": np.ones(8), "Y": np.ones(3)}
    np.testing.assert_array_equal(interpret(bind_arrays(plan.cascade, given), given)["O"], 2)


def test_rows_that_an_index_of_other_ranks_puts_out_of_range_are_absent():
    plan = plan_of("""
cascade c(Q[z, e], K[z, m, e]) -> O[i, y]
  shape y = 4
  X[i, y, m] = Q[i*Y + y, e] * K[i*Y + y, m, e]  :: sum[e]
  G[i, y]    = X[i, y, m]                        :: max[m]
  S[i, y]    = exp(X[i, y, m] - G[i, y])         :: sum[m]
  O[i, y]    = fill(G[i, y] + log(S[i, y]), -1)
""")
    assert not any(each.init for each in plan.cascade.einsums)
    rng = np.random.default_rng(12)
    given = {"Q": rng.normal(size=(6, 2)), "K": 500 * rng.normal(size=(6, 9, 2))}
    assert np.all(agree(plan, given, 1e-9)["O"][1, 2:] == -1)


def test_a_recurrence_is_refused():
    found = reduce_passes(zoo.load("deltanet"), "t")
    assert isinstance(found, Refusal)
    assert "no prefix sum" in found.reason


def test_certificates():
    by_name = {each.name: each for each in cases()}
    found = reduce_passes(by_name["centred_sigmoid"].cascade, "m")
    assert isinstance(found, Refusal)
    assert found.certificate > 8
    assert "sampled rank" in str(found)


def test_zero_moments_are_offered_and_the_gate_refuses_them():
    case = next(each for each in cases() if each.name == "variance")
    cheapest = reduce_passes(case.cascade, "m", gated=False)
    gated = reduce_passes(case.cascade, "m", most=3)
    assert any(each.dropped for each in cheapest.chosen.reductions)
    assert not any(each.dropped for v in gated.variants for each in v.reductions) or (
        gated.chosen.costs.order >= cheapest.chosen.costs.order
    )


def test_merge_and_carry_are_told():
    plan = reduce_passes(zoo.load("attention"), "m")
    total = next(each for each in plan.accumulators if each.name == "SD")
    assert total.merge == "SD_A * exp(u1_A - u1) + SD_B * exp(u1_B - u1)"
    assert plan.pass_of == (("GM", 1), ("SD", 1), ("O", 1))
    assert "3 -> 1 passes" in str(plan)


def test_variants_come_with_costs():
    plan = reduce_passes(zoo.load("attention"), "m", most=2)
    eager, deferred = (
        next(v for v in plan.variants if (v.reductions[-1].deferred == ("u2",)) == wanted)
        for wanted in (False, True)
    )
    assert deferred.costs.tile_ops < eager.costs.tile_ops
    rng = np.random.default_rng(7)
    given = {
        n: rng.normal(size=s) for n, s in {"Q": (1, 3, 4), "K": (1, 9, 4), "V": (1, 9, 2)}.items()
    }
    results = [interpret(bind_arrays(v.cascade, given), given)["O"] for v in (eager, deferred)]
    np.testing.assert_allclose(*results, rtol=1e-12)


BACKENDS = {
    "loops": ("cpu", run_program),
    "tvm": ("cpu", tvm_cpu.execute),
    "csim": ("u280", csim.execute),
}


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "name",
    ["safe_softmax", "softcap_bias_mask", "variance", "scaled_norm", "entropy", "gated_linear",
     "max_weighted_value", "normalised_product", "double_softmax", "layernorm_linear"],
)  # fmt: skip
def test_backends(name, backend):
    case = next(each for each in cases() if each.name == name)
    plan = reduce_passes(case.cascade, case.rank)
    given = inputs(case, np.random.default_rng(8), 13)
    wanted = interpret(bind_arrays(case.cascade, given), given)
    machine, execute = BACKENDS[backend]
    target, fmt = TARGETS.get(machine), parse_format("fp32")
    streamed = {"gated_linear", "layernorm_linear"}  # test_derived_backends.py
    for cascade in (plan.tree,) if name in streamed else (plan.cascade, plan.tree):
        bound = bind_arrays(cascade, given, shapes={plan.tile: 4})
        mapping = default_mapping(bound, target, fmt)
        check(mapping, bound, target, fmt)
        got = execute(lower(bound, mapping, target, fmt), given)
        for tensor, values in wanted.items():
            far = np.max(np.abs(np.asarray(got[tensor], float) - values))
            assert far <= 2e-6 * np.max(np.abs(values))


def test_lazy_rescaling():
    """Ascending logits: the reference moves rarely, and the result stays the same."""
    given = {
        "X": np.linspace(0, 64, 512)[None] + np.zeros((2, 1)),
        "V": np.random.default_rng(9).normal(size=(512, 3)),
        "L": np.array([512.0, 300.0]),
    }
    text = LOGITS.format(mask="m < L[p]")
    wanted = interpret(bind_arrays(parse(text), given), given)
    moves = {}
    for threshold in (0.0, 8.0):
        plan = plan_of(text, threshold=threshold)
        assert plan.chosen.threshold == threshold
        bound = bind_arrays(plan.cascade, given, shapes={plan.tile: 1})
        got = interpret(bound, given, keep=True)
        np.testing.assert_allclose(got["O"], wanted["O"], rtol=1e-12)
        np.testing.assert_allclose(got["S"], wanted["S"], rtol=1e-12)
        reference = got["GM_RL" if threshold else "GM_R"][0]
        moves[threshold] = np.count_nonzero(np.diff(reference[1:]))
    assert moves == {0.0: 511, 8.0: 7}


MEANS = {
    "all": ("X[p, m]", ""),
    "data": ("X[p, m]", "s.t. m < L[p]"),
    "coordinates": ("X[p, m]", "s.t. m <= p + 2"),
    "border": ("X[p, m + 2]", ""),
    "filled": ("fill(X[p, m - 1], 0)", ""),
    "operand": ("where(m < 5, X[p, m], X[p, m] / 2) + L[p]", ""),
}


@pytest.mark.parametrize(("ranks", "deviation"), [("m", "Y[p, m] - A[p]"), ("m, e", "D[p, m, e]")])
@pytest.mark.parametrize("points", MEANS)
def test_means(points, ranks, deviation):
    """How many points there are is told by predicates, not by values that are not complete."""
    value, mask = MEANS[points]
    plan = plan_of(f"""
cascade c(X[p, m], L[p], W[e]) -> V[p]
  Y[p, {ranks}] = ({value}) * {"W[e]" if "e" in ranks else "W[1]"} {mask}
  A[p] = Y[p, {ranks}] :: mean[{ranks}]
  D[p, {ranks}] = Y[p, {ranks}] - A[p]
  V[p] = sq({deviation}) :: mean[{ranks}]
""")
    assert (plan.before, plan.after) == (2, 1)
    rng = np.random.default_rng(10)
    agree(plan, {"X": rng.normal(size=(3, 9)), "L": np.array([9, 0, 4.0]), "W": rng.normal(size=2)})


def test_number_formats_of_single_tensors_stay():
    plan = plan_of("""
cascade c(X[p, m], V[m, f]) -> O[p, f]
  format X8 = int8
  X8[p, m] = X[p, m] * 4
  G[p]     = X8[p, m]                                :: max[m]
  D[p]     = exp((X8[p, m] - G[p]) / 4)              :: sum[m]
  O[p, f]  = exp((X8[p, m] - G[p]) / 4) / D[p] * V[m, f] :: sum[m]
""")
    assert ("X8_T", "int8") in plan.cascade.formats
    rng = np.random.default_rng(11)
    agree(plan, {"X": rng.normal(size=(3, 9)), "V": rng.normal(size=(9, 2))})


def test_what_is_rounded_to_a_format_of_its_own_is_not_written_out():
    found = reduce_passes(
        parse("""
cascade c(X[p, m], V[m, f]) -> O[p, f]
  format P8 = int8
  G[p]     = X[p, m]                :: max[m]
  P8[p, m] = exp(X[p, m] - G[p]) * 127
  O[p, f]  = P8[p, m] * V[m, f]     :: sum[m]
"""),
        "m",
    )
    assert isinstance(found, Refusal)
    assert "a number format of its own" in found.reason

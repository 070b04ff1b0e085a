"""The search: as good as brute force on tiny spaces, and as FuseMax's binding on its machine."""

import re
from dataclasses import replace

import numpy as np
import pytest
from stock import STOCK_CASCADES
from tiny_spaces import costs_of_all, tiny_target

from penstock import zoo
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.shapes import bind
from penstock.errors import MappingError
from penstock.mapper.check import check
from penstock.mapper.mappings import load_mapping
from penstock.mapper.model.evaluate import evaluate
from penstock.mapper.model.roofline import roofline
from penstock.mapper.nodes import leaves
from penstock.mapper.notation import parse_mapping
from penstock.mapper.search.build import default_mapping
from penstock.mapper.search.explore import explore, explore_variants
from penstock.mapper.search.space import Space
from penstock.metrics import number
from penstock.targets import TARGETS

FP16 = parse_format("fp16")
TINY = {
    "chain": """
cascade chain(X[a,b], Y[b]) -> O[a]
  T[a] = X[a,b] * Y[b]
  O[a] = exp(T[a])
""",
    "pair": """
cascade pair(X[a,b]) -> O[a,b]
  M[a] = X[a,b] :: max[b]
  O[a,b] = X[a,b] - M[a]
""",
    "masked": """
cascade masked(X[a,b]) -> O[a]
  T[a,b] = exp(X[a,b]) s.t. b <= a
  O[a] = T[a,b] :: sum[b]
""",
    "running": """
cascade running(X[a,t]) -> O[a]
  init S[a,0] = 0
  S[a,t+1] = S[a,t] * X[a,t] + X[a,t]
  O[a] = S[a,T] + S[a,T]
""",
    "feedback": """
cascade feedback(X[a,t]) -> O[a]
  init S[a,0] = 0
  loop t:
    U[a,t] = S[a,t] * X[a,t]
    S[a,t+1] = exp(U[a,t])
  O[a] = S[a,T] + S[a,T]
""",
    "three": """
cascade three(X[a]) -> O[a]
  S[a] = X[a] + X[a]
  T[a] = exp(S[a])
  O[a] = S[a] * T[a]
""",
}


def cost_of(found, objective):
    latency, energy = found.latency_cycles, found.energy_pj
    return {"latency": latency, "energy": energy, "edp": latency * energy}[objective]


@pytest.mark.parametrize("seed", range(30))
def test_brute_force_finds_nothing_better(seed):
    rng = np.random.default_rng(seed)
    target = tiny_target(rng)
    name = list(TINY)[seed % len(TINY)]
    shapes = {"a": int(rng.integers(2, 5)), "b": int(rng.integers(2, 4)), "t": 2}
    cascade = parse(TINY[name])
    if seed >= 18:
        kinds = rng.choice(["int4", "int8", "fp16", "fp64"], len(cascade.arity))
        cascade = replace(cascade, formats=tuple(zip(cascade.arity, kinds.tolist(), strict=True)))
    ranks = {rank for each in cascade.inputs for rank in each.ranks}
    bound = bind(cascade, shapes={each: shapes[each] for each in ranks})
    costs = costs_of_all(bound, target)
    cost = {"latency": min(costs)[0], "energy": min(energy for _, energy in costs)}
    cost["edp"] = min(latency * energy for latency, energy in costs)
    for objective, least in cost.items():
        found = explore(bound, target, FP16, objective=objective)
        assert cost_of(found.evaluation, objective) == pytest.approx(least, rel=1e-9)
        assert found.optimal
        space = Space(bound, target)
        sizes = [sum(each.size for each in part) for part in (space.usual(), space.further())]
        assert found.points in (1 + sizes[0], 1 + sum(sizes))
        assert 1 < len(costs) <= 1 + sum(sizes)
        assert found.evaluated + found.ruled_out == found.points


def one_pass(length, **shapes):
    extents = {"b": 2, "h": 12, "p": length, "m": length, "e": 64, "f": 64, "m0": 256}
    return bind(zoo.load("attention_1pass"), shapes={**extents, **shapes})


@pytest.mark.parametrize(
    "shapes",
    [
        {"p": 1},
        {"p": 64},
        {"p": 256},
        {"p": 300, "m": 1000},
        {"e": 128, "f": 128},
        {"e": 128},
        {"f": 256},
    ],
    ids=str,
)
def test_as_fast_as_the_published_binding_at_other_shapes(shapes):
    target, bound = TARGETS.get("fusemax"), one_pass(2048, **shapes)
    found = explore(bound, target, FP16)
    published = evaluate(load_mapping("fusemax_binding"), bound, target, FP16)
    assert found.evaluation.latency_cycles <= published.latency_cycles * (1 + 1e-12)
    assert found.optimal


def test_what_it_finds_for_fusemax_overlaps_as_published():
    bound, target = one_pass(4096), TARGETS.get("fusemax")
    found = explore(bound, target, FP16)
    (interval,) = found.evaluation.pipelines
    assert interval.interval_cycles == 138  # 2F + 10 at F = 64, fusemax.md 3.5
    assert "for p by 256 pipelined" in str(found.mapping)
    stages = {leaf.einsum: leaf.stage for _, leaf in leaves(found.mapping.body)}
    assert stages["BQK"] < stages["RM"] < stages["SLN"] < stages["RD"]


@pytest.mark.parametrize("name", ["gqa_causal_1pass", "attention_1pass"])
def test_the_steps_of_an_iterative_rank_overlap(name):
    """With few queries there is no loop over them to pipeline, but the steps over keys overlap."""
    target, cascade = TARGETS.get("fusemax"), zoo.load(name)
    usual = {"b": 1, "h": 2, "g": 1, "p": 128, "m": 256, "e": 64, "f": 64, "m0": 64}
    ranks = {rank for each in cascade.inputs for rank in each.ranks} | {"m0"}
    bound = bind(cascade, shapes={rank: usual[rank] for rank in ranks})
    found = explore(bound, target, FP16)
    assert "for m1 pipelined" in str(found.mapping)
    plain = str(found.mapping).replace(" pipelined", "")
    one_by_one = parse_mapping(re.sub(r" stage \d", "", plain))
    slower = evaluate(one_by_one, bound, target, FP16).latency_cycles
    assert found.evaluation.latency_cycles < 0.8 * slower


STOCK = ("cpu", "flat", "fusemax", "h200", "mesh4x4", "u280")


def shapes_of(cascade):
    usual = {"b": 2, "h": 4, "g": 2, "p": 100, "m": 100, "e": 32, "f": 32, "m0": 32}
    ranks = {rank for each in cascade.inputs for rank in each.ranks} | cascade.shape.keys()
    return {rank: usual.get(rank, 48) for rank in ranks}


@pytest.mark.parametrize("target", STOCK)
@pytest.mark.parametrize("name", STOCK_CASCADES)
def test_finds_something_legal_and_no_worse_than_the_default(name, target):
    machine = replace(TARGETS.get(target), sizings=())
    fmt = parse_format(machine.format)
    bound = bind(zoo.load(name), shapes=shapes_of(zoo.load(name)))
    found = explore(bound, machine, fmt)
    check(found.mapping, bound, found.target, fmt)
    default = evaluate(default_mapping(bound, machine, fmt), bound, machine, fmt)
    assert found.evaluation.latency_cycles <= default.latency_cycles
    least = roofline(bound, found.target, fmt)[0].value
    assert least <= found.evaluation.latency_cycles * (1 + 1e-9)


def test_each_objective_wins_at_its_own():
    bound, target = one_pass(1024, b=1, h=2), TARGETS.get("fusemax")
    names = ("latency", "energy", "edp")
    found = {each: explore(bound, target, FP16, objective=each).evaluation for each in names}
    for name in names:
        costs = {each: cost_of(found[each], name) for each in names}
        assert costs[name] == min(costs.values())
    assert found["energy"].energy_pj < found["latency"].energy_pj


VARIANTS = {
    "eager": """
cascade eager(X[a,b]) -> O[a,b]
  S[a] = X[a,b]
  O[a,b] = X[a,b] - S[a]
""",
    "slow": """
cascade slow(X[a,b]) -> O[a,b]
  S[a] = X[a,b]
  T[a,b] = exp(X[a,b])
  U[a,b] = T[a,b] - S[a]
  O[a,b] = U[a,b] + X[a,b]
""",
    "late": """
cascade late(X[a,b]) -> O[a,b]
  S[a] = X[a,b]
  N[a] = S[a] * 2
  O[a,b] = X[a,b] - N[a]
""",
}


@pytest.mark.parametrize("seed", range(12))
def test_variants_are_as_good_as_the_best_of_them_alone(seed):
    rng = np.random.default_rng(seed)
    target, objective = tiny_target(rng), ("latency", "energy", "edp")[seed % 3]
    shapes = {"a": int(rng.integers(2, 9)), "b": int(rng.integers(2, 9))}
    names = list(rng.permutation(list(VARIANTS)))
    bounds = [bind(parse(VARIANTS[name]), shapes=shapes) for name in names]
    alone = [explore(bound, target, FP16, objective=objective) for bound in bounds]
    costs = [cost_of(each.evaluation, objective) for each in alone]
    found = explore_variants(bounds, target, FP16, objective=objective)
    assert cost_of(found.evaluation, objective) == min(costs)
    winner = next(number for number, bound in enumerate(bounds) if bound is found.bound)
    assert found.mapping == alone[winner].mapping  # of several with these costs: fewest bytes
    usual = sum(1 + sum(each.size for each in Space(one, target).usual()) for one in bounds)
    assert usual <= found.points <= sum(each.points for each in alone)
    assert found.evaluated <= sum(each.evaluated for each in alone)
    assert found.optimal
    assert "mappings of 3 cascades, " in found.summary()


def test_a_variant_that_the_machine_cannot_run_does_not_win():
    bad = bind(parse("cascade s(X[p]) -> Y[p]\n  Y[p] = sin(X[p])"), shapes={"p": 4})
    good = bind(parse("cascade e(X[p]) -> Y[p]\n  Y[p] = exp(X[p])"), shapes={"p": 4})
    found = explore_variants([bad, good], TARGETS.get("fusemax"), FP16)
    assert found.bound is good
    with pytest.raises(MappingError, match="no array has 'sin'"):
        explore_variants([bad, bad], TARGETS.get("fusemax"), FP16)


def test_same_problem_same_mapping():
    bound, target = one_pass(1024, b=1, h=2), TARGETS.get("fusemax")
    first, second = explore(bound, target, FP16), explore(bound, target, FP16)
    assert first.mapping == second.mapping
    assert first.evaluated == second.evaluated


def test_progress_ends_with_all_points():
    calls = []
    bound, target = one_pass(1024, b=1, h=2), TARGETS.get("fusemax")
    found = explore(bound, target, FP16, progress=lambda *each: calls.append(each))
    done, total, best = (list(each) for each in zip(*calls, strict=True))
    assert done == sorted(done)
    assert done[-1] == found.points
    assert set(total) == {found.points}
    assert best == sorted(best, reverse=True)
    assert best[-1] == found.evaluation.latency_cycles


def test_a_limit_is_kept_and_admitted():
    bound, target = one_pass(1024, b=1, h=2), TARGETS.get("fusemax")
    full = explore(bound, target, FP16)
    found = explore(bound, target, FP16, limit=1)
    assert found.evaluated == 1
    assert not found.optimal
    assert found.evaluation.latency_cycles > full.evaluation.latency_cycles
    assert found.summary() == (
        f"the best of those evaluated: {number(found.points)} mappings, 1 evaluated, "
        f"{number(found.points - 1)} not"
    )
    assert full.summary() == (
        f"optimal in this space: {number(full.points)} mappings, {full.evaluated:,} evaluated, "
        f"{number(full.points - full.evaluated)} ruled out by bounds or capacity"
    )
    assert full.to_json() == {
        "points": full.points,
        "evaluated": full.evaluated,
        "ruled_out": full.points - full.evaluated,
        "optimal": True,
        "seconds": full.seconds,
        "points_per_s": full.points / full.seconds,
        "variants": 1,
        "format": "fp16",
        "interrupted": False,
    }


def test_nothing_fits():
    target = TARGETS.get("fusemax").override("dram.capacity_bytes", 1000)
    bound = bind(zoo.load("matmul"), shapes={"m": 100, "k": 100, "n": 100})
    with pytest.raises(MappingError) as caught:
        explore(bound, target, FP16)
    assert str(caught.value) == (
        "needs 58.59 KB of dram, fusemax has 0.9766 KB; largest tensors: A (19.53), B (19.53), "
        "Z (19.53)\nfix: use smaller tiles, fewer buffers, or keep less"
    )


def test_an_operator_that_no_array_has():
    bound = bind(parse("cascade s(X[p]) -> Y[p]\n  Y[p] = sin(X[p])"), shapes={"p": 4})
    with pytest.raises(MappingError, match=r"Y cannot run on fusemax: no array has 'sin'"):
        explore(bound, TARGETS.get("fusemax"), FP16)

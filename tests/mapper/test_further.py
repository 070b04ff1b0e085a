"""Loops over what the next Einsum reduces, and blocks of each Einsum inside shared loops."""

import random

import numpy as np
import pytest
from tiny_spaces import FP16, compare, tiny_target

from penstock.codegen.loops.interp import run_program
from penstock.codegen.lower.program import lower
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.shapes import bind
from penstock.errors import MappingError
from penstock.mapper.check import check
from penstock.mapper.model.evaluate import evaluate
from penstock.mapper.search.explore import explore
from penstock.mapper.search.space import Space, mapping_at
from penstock.sim.simulate import simulate
from penstock.targets import TARGETS

CHAIN = """
cascade chain(A[m,k], B[k,n], C[n,q]) -> Z[m,q]
  T[m,n] = A[m,k] * B[k,n]
  Z[m,q] = T[m,n] * C[n,q]
"""
KINDS = {
    "chain": CHAIN,
    "largest": CHAIN.replace("B[k,n]\n", "B[k,n] :: max[k]\n") + "  :: max[n]",
    "masked": CHAIN + "  :: sum[n] s.t. n <= m",
    "softmax": """
cascade softmax(Q[m,k], K[n,k], V[n,q]) -> Z[m,q]
  S[m,n] = Q[m,k] * K[n,k] :: sum[k] s.t. n <= m + 1
  G[m] = S[m,n] :: max[n]
  E[m,n] = exp(S[m,n] - G[m])
  D[m] = E[m,n] :: sum[n]
  P[m,n] = E[m,n] / D[m]
  Z[m,q] = P[m,n] * V[n,q]
""",
    "running": """
cascade running(X[t,m,k], B[k,n], C[n]) -> O[m]
  init S[0,m] = 0
  loop t:
    T[t,m,n] = X[t,m,k] * B[k,n]
    Z[t,m] = T[t,m,n] * C[n]
    S[t+1,m] = S[t,m] + Z[t,m]
  O[m] = S[T,m]
""",
}
FIXED = parse_format("fixed<16,6>")


def bound_of(text, low, high, dice):
    cascade = parse(text)
    ranks = sorted({rank for each in cascade.inputs for rank in each.ranks})
    return bind(cascade, shapes={rank: dice.randint(low, high) for rank in ranks})


def small_problem(seed):
    """Return two products and a machine with little room, with few mappings."""
    for attempt in range(100):
        dice = random.Random(1000 * seed + attempt)
        target = tiny_target(np.random.default_rng([5, seed, attempt]))
        target = target.override("gb.capacity_bytes", dice.choice([32, 48, 64]))
        bound = bound_of(CHAIN, 2, 5, dice)
        space = Space(bound, target, FP16)
        list(space.usual())
        if 50 < sum(each.size for each in space.further()) < 1500:
            return bound, target
    raise AssertionError("no small problem")


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_better(seed):
    compare(*small_problem(seed))


def test_the_middle_of_two_products_stays_inside():
    """Two 1024 x 1024 products and 1 MB: AccelForge 1.0.467 moves 9 matrices, we 8."""
    target = TARGETS.get("fusemax").override("gb.capacity_bytes", 2**20)
    found = explore(bind(parse(CHAIN), shapes=dict.fromkeys("mknq", 1024)), target, FP16)
    assert found.optimal
    assert found.evaluation.dram_bytes == 8 * 2**21
    assert found.evaluation.latency_cycles == pytest.approx(8 * 2**21 / target.dram.bytes_per_cycle)


def further_points(bound, target, dice, count):
    space = Space(bound, target, FIXED)
    list(space.usual())
    for skeleton in dice.sample(found := list(space.further()), min(count, len(found))):
        picks = [dice.randrange(len(site.options)) for site in skeleton.sites]
        kept = {}
        for each in skeleton.residents:
            place = dice.choice([p for p in each.places if p.memory in ("gb", target.dram.name)])
            if place.home is not None:
                kept[each.tensor] = (place, 1)
        yield skeleton.recipe, mapping_at(skeleton, picks, kept, bound, target)


@pytest.mark.parametrize("name", KINDS)
def test_values_are_those_of_the_interpreter(name):
    """Legal points at random: simulator and lowered loops give its bits; large values, masks."""
    dice = random.Random(name)
    folding = legal = 0
    for _ in range(6):
        target = TARGETS.get("mesh2x2").override("gb.capacity_bytes", dice.choice([96, 256, 2048]))
        bound = bound_of(KINDS[name], 1, 7, dice)
        rng = np.random.default_rng(dice.randrange(1000))
        inputs = {
            each.tensor: rng.choice([-31.0, 0.5, 1.25, 30.0], bound.dims[each.tensor])
            for each in bound.cascade.inputs
        }
        want = interpret(bound, inputs, FIXED)
        for recipe, mapping in further_points(bound, target, dice, 6):
            try:
                check(mapping, bound, target, FIXED)
            except MappingError:
                continue
            legal, folding = legal + 1, folding + (recipe.part is not None)
            found = simulate(mapping, bound, target, FIXED, inputs)
            assert evaluate(mapping, bound, target, FIXED).latency_cycles <= found.cycles * (
                1 + 1e-9
            )
            lowered = run_program(lower(bound, mapping, target, FIXED), inputs)
            for tensor, value in want.items():
                np.testing.assert_array_equal(found.outputs[tensor], value, err_msg=str(mapping))
                np.testing.assert_array_equal(lowered[tensor], value, err_msg=str(mapping))
    assert legal >= 6
    assert folding >= 2

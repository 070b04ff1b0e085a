"""On 200 random tiny spaces the search finds what evaluating every mapping finds."""

import numpy as np
import pytest
from tiny_spaces import FP16, costs_of_all, front_of, random_problem

from penstock.mapper.front import explore_front
from penstock.mapper.search import explore

COST = {
    "latency": lambda latency, energy: latency,
    "energy": lambda latency, energy: energy,
    "edp": lambda latency, energy: latency * energy,
}
SPACES, QUICK = 200, 40
SEEDS = [
    seed if seed < QUICK else pytest.param(seed, marks=pytest.mark.slow) for seed in range(200)
]


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_better(seed):
    bound, target = random_problem(np.random.default_rng([3, seed]), 1000 if seed < QUICK else 6000)
    costs = costs_of_all(bound, target)
    for objective, cost in COST.items():
        found = explore(bound, target, FP16, objective=objective)
        said = cost(found.evaluation.latency_cycles, found.evaluation.energy_pj)
        assert said == pytest.approx(min(cost(*each) for each in costs), rel=1e-9), objective
        assert found.optimal
    front = explore_front(bound, target, FP16)
    assert front.optimal
    got = [(e.evaluation.latency_cycles, e.evaluation.energy_pj) for e in front.members]
    want = front_of(costs)
    assert len(got) == len(want)
    np.testing.assert_allclose(got, want, rtol=1e-9)


def test_the_spaces_are_of_all_kinds():
    """Masks, iterative ranks with and without a loop, several Einsums, fronts of many points."""
    texts = [
        str(random_problem(np.random.default_rng([3, seed]), 6000)[0].cascade) for seed in range(QUICK, SPACES)
    ]
    for sign in (
        "s.t. b <= a",
        "S[a, t + 1] = S[a, t]",
        "loop t:",
        ":: max[b]",
        ":: sum[a]",
        "T2[",
    ):
        assert any(sign in text for text in texts), sign

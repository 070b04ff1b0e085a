"""On 200 random tiny spaces the search finds what evaluating every mapping finds."""

import numpy as np
import pytest
from tiny_spaces import FP16, compare, random_problem, tiny_target

from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.shapes import bind
from penstock.mapper.search.explore import explore
from penstock.mapper.search.space import skeletons
from penstock.targets import TARGETS

SPACES, QUICK = 200, 40
SEEDS = [
    seed if seed < QUICK else pytest.param(seed, marks=pytest.mark.slow) for seed in range(200)
]


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_better(seed):
    problem = random_problem(np.random.default_rng([3, seed]), 1000 if seed < QUICK else 6000)
    compare(*problem)


SINGLE = {
    "matmul": "cascade mm(A[m,k], B[k,n]) -> Z[m,n]\n  Z[m,n] = A[m,k] * B[k,n]",
    "batched": "cascade bm(A[b,m,k], B[b,k]) -> Z[b,m]\n  Z[b,m] = A[b,m,k] * B[b,k]",
    "masked": "cascade ma(A[m,k], B[k]) -> Z[m]\n  Z[m] = A[m,k] * B[k] :: sum[k] s.t. k <= m",
    "window": "cascade wi(A[m], B[k]) -> Z[m]\n  Z[m] = A[m+k] * B[k] :: sum[k]",
    "largest": "cascade la(A[m,k], B[k]) -> Z[m]\n  Z[m] = A[m,k] - B[k] :: max[k]",
}


def single_problem(seed):
    rng = np.random.default_rng([4, seed])
    cascade, target = parse(list(SINGLE.values())[seed % len(SINGLE)]), tiny_target(rng)
    target = target.override("gb.capacity_bytes", int(rng.choice([32, 64, 128])))
    extents = {"b": 2, "m": int(rng.integers(5, 13)), "k": int(rng.integers(5, 13)), "n": 5}
    names = {rank for each in cascade.inputs for rank in each.ranks}
    return bind(cascade, shapes={name: extents[name] for name in names}), target


@pytest.mark.parametrize("seed", range(30))
def test_nothing_is_better_than_the_best_blocks(seed):
    compare(*single_problem(seed))


def test_many_have_blocks():
    spaces = [skeletons(*single_problem(seed)) for seed in range(30)]
    assert sum(any(each.recipe.blocks for each in space) for space in spaces) >= 15


def test_the_spaces_are_of_all_kinds():
    """Masks, iterative ranks with and without a loop, several Einsums, fronts of many points."""
    texts = [
        str(random_problem(np.random.default_rng([3, seed]), 6000)[0].cascade)
        for seed in range(QUICK, SPACES)
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


def test_blocks_save_traffic_and_partial_sums_wait():
    """Of 64 x 4096 by 4096 x 64 too little fits; Z waits in the buffer while k goes on."""
    target = TARGETS.get("mesh4x4").override("gb.capacity_bytes", 24576)
    cascade = parse(SINGLE["matmul"])
    bound = bind(cascade, shapes={"m": 64, "k": 4096, "n": 64})
    found = explore(bound, target, FP16)
    assert found.optimal
    assert "keep Z in gb" in str(found.mapping)
    each_once = 2 * (64 * 4096 + 4096 * 64 + 64 * 64)
    assert found.evaluation.dram_bytes == each_once

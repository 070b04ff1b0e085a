"""Steady state: what is found in a short run and multiplied equals the whole run."""

import pytest
from sim_designs import FIXED, NAMES, design, machines, rolled

from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.shapes import bind
from penstock.mapper.mappings import load_mapping
from penstock.mapper.model.evaluate import evaluate
from penstock.reproduce import load_cascade
from penstock.sim.plan import planned
from penstock.sim.shorten import shortened, stretches
from penstock.sim.simulate import simulate
from penstock.sim.steady import INNERMOST
from penstock.targets import TARGETS

MACHINES = machines()
OPEN = [name for name in NAMES if not any(w in name for w in ("causal", "window", "cross"))]
SHORT, LONG = (1, 2, 4), (14, 23, 40)


def stretched(seed):
    """Return up to eight designs that differ in the length of a long rank."""
    dice = rolled(7000 + seed)
    target = MACHINES[dice.choice(sorted(MACHINES))]
    names = OPEN if seed % 8 else NAMES
    found = design(dice.choice(names), target, dice, lengths=(*SHORT, *[dice.choice(LONG)] * 2))
    if found is None:
        return []
    bound, mapping = found
    plan = planned(mapping, bound, target, FIXED)
    long = [each for each in stretches(plan) if each.spare > INNERMOST]
    if not long or plan.visits > 1200:
        return []
    return [
        planned(mapping, shortened(bound, {long[0]: less}), target, FIXED)
        for less in range(min(8, long[0].spare - INNERMOST))
    ]


def uses(run_or_simulation):
    return {
        each.unit: (
            each.busy_cycles,
            each.idle_cycles,
            dict(each.stalls),
            dict(each.busy_by_task),
        )
        for each in run_or_simulation.units
    }


def equal(plan):
    """Check a plan in full against its steady state; return whether anything was multiplied."""
    args = (plan.mapping, plan.bound, plan.target, plan.format)
    found = simulate(*args, None)
    if found.simulated_cycles == found.cycles:
        return False
    full = simulate(*args, None, full=True)
    assert found.simulated_cycles < full.cycles
    assert found.cycles == pytest.approx(full.cycles, rel=1e-9), plan.mapping
    assert found.traffic == pytest.approx(full.traffic)
    assert found.first_output == pytest.approx(full.first_output)
    assert found.last_output == pytest.approx(full.last_output)
    mine, theirs = uses(found), uses(full)
    assert set(mine) == set(theirs)
    for unit, (busy, idle, stalls, work) in mine.items():
        assert busy == pytest.approx(theirs[unit][0]), (unit, plan.mapping)
        assert idle == pytest.approx(theirs[unit][1], abs=1e-6), (unit, plan.mapping)
        assert stalls == pytest.approx(theirs[unit][2], abs=1e-6), (unit, plan.mapping)
        assert work == pytest.approx(theirs[unit][3])
    model = evaluate(*args)
    assert model.latency_cycles <= found.cycles + 1e-6
    return True


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 280, 70))
def test_what_repeats_in_100_random_designs_equals_the_whole_run(first):
    plans = [plan for seed in range(first, first + 70) for plan in stretched(seed)]
    assert sum(equal(plan) for plan in plans) >= 25


def published(length, batch):
    """Return FuseMax's own design for BERT."""
    mapping = load_mapping("fusemax_binding")
    shapes = dict(b=batch, h=12, p=length, m=length, e=64, f=64, m0=256)
    bound = bind(load_cascade(mapping.cascade), shapes=shapes)
    return mapping, bound, TARGETS.get("fusemax"), parse_format("fp16")


def test_loops_around_loops_repeat_too():
    found = simulate(*published(1024, 3), None)
    full = simulate(*published(1024, 3), None, full=True)
    assert found.cycles == pytest.approx(full.cycles, rel=1e-12)
    assert found.simulated_cycles < full.cycles / 5


def test_ten_times_the_heads_take_ten_times_as_long_in_the_middle():
    one, two, three = (simulate(*published(4096, batch), None).cycles for batch in (10, 20, 30))
    assert three - two == pytest.approx(two - one, rel=1e-12)
    assert two - one == pytest.approx(one, rel=0.05)

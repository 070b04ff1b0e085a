"""Random legal designs: values, bound <= model <= simulation, traffic, and where cycles go."""

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from sim_designs import FIXED, NAMES, cascade_of, design, ideal, machines, rolled

from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.shapes import bind
from penstock.mapper.facts import facts_of
from penstock.mapper.model.evaluate import evaluate
from penstock.mapper.model.roofline import roofline
from penstock.mapper.nodes import Keep, Nest, leaves
from penstock.mapper.search.build import default_mapping
from penstock.samples import random_inputs
from penstock.sim.engine import schedule
from penstock.sim.simulate import simulate
from penstock.sim.walk import trace

MACHINES = machines()
SEEDS = range(2 * len(NAMES))


def picked(seed, lengths=(1, 2, 4, 5, 7, 9)):
    """Return (bound, mapping, target) for a seed."""
    for attempt in range(20):
        dice = rolled(1000 * seed + attempt)
        target = MACHINES[dice.choice(sorted(MACHINES))]
        if dice.random() < 0.2:
            target = ideal(target)
        found = design(NAMES[seed % len(NAMES)], target, dice, lengths)
        if found is not None:
            return (*found, target)
    raise AssertionError("no legal design in 20 tries")


def rounding(bound):
    """The model takes a share of the accesses out of range away, rounded to whole elements."""
    uses = [use for step in facts_of(bound).steps.values() for use in step.reads]
    return 0.5 * FIXED.bytes * sum(use.inside < use.points for use in uses)


def with_formats(bound, dice):
    """Give half of the tensors formats of their own."""
    names = [name for name in bound.dims if dice.random() < 0.5]
    kinds = ("int8", "uint4", "fixed<12,6>", "fp16", "fp8_e4m3")
    return bind(replace(bound.cascade, formats=tuple((name, dice.choice(kinds)) for name in names)))


def holds(seed, lengths=(1, 2, 4, 5, 7, 9), *, formats=False):
    bound, mapping, target = picked(seed, lengths)
    bound = with_formats(bound, rolled(seed)) if formats else bound
    inputs = random_inputs(bound, FIXED, seed)
    found = simulate(mapping, bound, target, FIXED, inputs)
    model = evaluate(mapping, bound, target, FIXED)
    for tensor, want in interpret(bound, inputs, FIXED).items():
        np.testing.assert_array_equal(found.outputs[tensor], want, err_msg=str(mapping))
    bounds = {each.name: each.value for each in roofline(bound, target, FIXED)}
    assert bounds["latency"] <= model.latency_cycles + 1e-6, mapping
    assert model.latency_cycles <= found.cycles + 1e-6, mapping
    slack = rounding(bound) + 1e-6
    assert abs(model.dram_bytes - found.bytes_at(target.dram.name)) <= slack, mapping
    for memory in target.memories[1:]:
        assert model.bytes_at(memory.name) <= found.bytes_at(memory.name) + slack, mapping
    for each in found.units:
        total = each.busy_cycles + sum(each.stalls.values()) + each.idle_cycles
        assert total == pytest.approx(found.cycles), (each, mapping)
        assert sum(each.busy_by_task.values()) == pytest.approx(each.busy_cycles)
        assert each.idle_cycles >= 0


@pytest.mark.parametrize("seed", SEEDS)
def test_bound_model_simulation_and_values(seed):
    holds(seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_with_formats_of_single_tensors(seed):
    holds(seed, formats=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 400))
def test_bound_model_simulation_and_values_of_many_designs(seed):
    holds(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(500, 540))
def test_longer_ranks_with_remainders(seed):
    holds(seed, (1, 5, 7, 20, 37))


@pytest.mark.parametrize("seed", range(24))
def test_where_nothing_can_stall_the_model_is_the_simulation(seed):
    dice = rolled(seed)
    target = ideal(MACHINES[dice.choice(sorted(MACHINES))])
    found = design(dice.choice(NAMES), target, dice, pipelined=False)
    assert found is not None
    bound, mapping = found
    timed = schedule(trace(mapping, bound, target, FIXED))
    assert timed.cycles == evaluate(mapping, bound, target, FIXED).latency_cycles


@pytest.mark.parametrize("seed", range(0, 60, 5))
def test_no_unit_does_two_things_at_a_time_and_none_starts_too_early(seed):
    bound, mapping, target = picked(seed)
    traced = trace(mapping, bound, target, FIXED)
    timed = schedule(traced)
    by_unit, ready = defaultdict(list), {}
    for event in timed.events:
        by_unit[event.task.unit].append((event.start, event.end))
        if event.task.kind != "stream":
            ready[event.task.number] = event.ready
    for spans in by_unit.values():
        for (_, end), (start, _) in zip(sorted(spans), sorted(spans)[1:], strict=False):
            assert end <= start + 1e-9
    assert len(ready) == len(traced.tasks)
    for event in timed.events:
        for number in (*event.task.needs, *event.task.frees):
            assert ready[number] <= event.start


@pytest.mark.parametrize("seed", range(1, 60, 4))
def test_no_more_tiles_of_an_input_are_alive_than_there_are_buffers(seed):
    bound, mapping, target = picked(seed)
    inputs = {each.tensor for each in bound.cascade.inputs}
    keeps = [keep for keep in _keeps(mapping.body) for tensor in keep.tensors if tensor in inputs]
    timed = schedule(trace(mapping, bound, target, FIXED))
    lives = {}
    for event in timed.events:
        if event.task.kind == "load" and event.task.name in inputs:
            lives[event.task.number] = [event.task.name, event.start, event.ready]
    for event in timed.events:
        for number in event.task.needs:
            if number in lives and event.task.computes:
                lives[number][2] = max(lives[number][2], event.ready)
    for keep in keeps:
        for tensor in keep.tensors:
            if sum(tensor in each.tensors for each in keeps) > 1 or tensor not in inputs:
                continue
            limit = max(keep.buffers, 1 + max(leaf.stage for _, leaf in leaves(mapping.body)))
            mine = [(start, end) for name, start, end in lives.values() if name == tensor]
            for moment, _ in mine:
                assert sum(start <= moment < end for start, end in mine) <= limit, (tensor, mapping)


def _keeps(body):
    for node in body:
        if isinstance(node, Keep):
            yield node
        elif isinstance(node, Nest):
            yield from _keeps(node.body)


@pytest.mark.parametrize("fmt", ["fp32", "fp64"])
@pytest.mark.parametrize("name", ["causal_attention", "gqa_causal_1pass", "linear_attention"])
def test_floating_point_differs_by_rounding_only(name, fmt):
    number = parse_format(fmt)
    target = MACHINES["mesh4x4"]
    shapes = dict(h=2, p=7, e=5, m=9, f=3) | ({"g": 1, "m0": 4} if "gqa" in name else {})
    bound = bind(cascade_of(name), shapes=shapes)
    inputs = random_inputs(bound, number)
    mapping = default_mapping(bound, target, number)
    found = simulate(mapping, bound, target, number, inputs)
    for tensor, want in interpret(bound, inputs, number).items():
        limit = {"fp32": 1e-5, "fp64": 1e-12}[fmt]
        np.testing.assert_allclose(found.outputs[tensor], want, rtol=limit, atol=limit)


def test_the_same_design_gives_the_same_schedule():
    bound, mapping, target = picked(5)
    first = schedule(trace(mapping, bound, target, FIXED))
    second = schedule(trace(mapping, bound, target, FIXED))
    assert first == second

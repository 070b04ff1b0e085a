"""Parts of machines in the simulator, each counted by hand, and values under all of them."""

from dataclasses import replace

import numpy as np
import pytest
from sim_designs import FIXED, design, machines, rolled

from penstock import zoo
from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.shapes import bind
from penstock.errors import TargetError
from penstock.mapper.model.evaluate import evaluate
from penstock.mapper.notation import parse_mapping
from penstock.samples import random_inputs
from penstock.sim.simulate import simulate
from penstock.targets import TARGETS

TWICE = """
cascade twice(A[m,k], B[k,n]) -> Y[m,n]
  Z[m,n] = A[m,k] * B[k,n]
  Y[m,n] = Z[m,n] + 1
"""
BODY = "keep A, B in gb\nkeep Z in rf2d\nZ on pe2d: m@rows, n@cols, k\nY on pe2d: m@rows, n@cols"


def machine(**numbers):
    """Return a 4x4 array without pipeline depth, with memory that costs nothing."""
    target = TARGETS.get("mesh4x4")
    memories = tuple(replace(each, bytes_per_cycle=1e18) for each in target.memories)
    target = replace(target, memories=memories)
    target = target.override("pe2d.depth_cycles", 1)
    for path, number in numbers.items():
        target = target.override(path.replace("__", "."), number)
    return target


def chained(target):
    arrays = tuple(replace(each, chained=each.skewed) for each in target.arrays)
    return replace(target, arrays=arrays)


def cycles(target, body=BODY, text=TWICE, **shapes):
    cascade = parse(text) if isinstance(text, str) else text
    bound = bind(cascade, shapes=shapes)
    mapping = parse_mapping(f"mapping t for {cascade.name} on {target.name}\n{body}")
    inputs = random_inputs(bound, FIXED)
    found = simulate(mapping, bound, target, FIXED, inputs)
    for tensor, want in interpret(bound, inputs, FIXED).items():
        np.testing.assert_array_equal(found.outputs[tensor], want)
    assert evaluate(mapping, bound, target, FIXED).latency_cycles <= found.cycles + 1e-6
    return round(found.cycles, 6)


def test_a_tile_waits_for_the_whole_wavefront_or_follows_it():
    shapes = dict(m=4, n=4, k=8)
    # 8 steps, 3 + 3 until the last place has them, then 1 step and 3 + 3 again
    assert cycles(machine(), **shapes) == (8 + 6) + (1 + 6)
    pipelined = "keep A, B in gb\nfor m by 4 pipelined\n keep Z in rf2d\n" + "".join(
        f" {line}\n" for line in BODY.splitlines()[2:]
    )
    apart = cycles(machine(), pipelined, **shapes)
    follows = cycles(chained(machine()), pipelined, **shapes)
    assert (apart, follows) == (8 + 6 + 1 + 6, 8 + 1 + 6)


def test_sums_in_one_place_wait_for_each_other():
    shapes = dict(m=4, n=4, k=8)
    late = cycles(machine(pe2d__result_cycles=3), **shapes)
    assert late == (3 * 8 + 2 + 6) + (3 * 1 + 2 + 6)


def test_independent_sums_in_one_place_do_not():
    body = "keep A, B in gb\nZ on pe2d: k, m by 4, m@rows, n@cols"
    plain = cycles(machine(), body, zoo.load("matmul"), m=16, n=4, k=8)
    late = cycles(machine(pe2d__result_cycles=3), body, zoo.load("matmul"), m=16, n=4, k=8)
    assert (plain, late) == (32 + 6, 32 + 2 + 6)  # four rows take turns


@pytest.mark.parametrize(("ports", "times"), [(0, 1), (1, 3), (2, 2), (3, 1)])
def test_a_multiply_add_reads_three_words(ports, times):
    late = cycles(machine(pe2d__operand_ports=ports), m=4, n=4, k=8)
    assert late == 8 * times + 6 + (2 if ports == 1 else 1) + 6  # the second adds a constant


@pytest.mark.parametrize(("banks", "reading"), [(1, 64), (2, 32), (4, 32)])
def test_tiles_in_one_bank_wait_for_each_other(banks, reading):
    target = machine(gb__bytes_per_cycle=2.0 * banks, gb__banks=banks)
    # A and B are 64 bytes each, fetched one after the other, and read together
    assert cycles(target, m=4, n=4, k=8) == 32 + 32 + reading + 6 + 1 + 6


def test_a_transfer_takes_whole_bursts_and_its_latency():
    target = machine(dram__bytes_per_cycle=16)
    body = "keep A, B in gb\nZ on pe2d: m@rows, n@cols, k"
    shapes = dict(m=3, n=4, k=4)
    product = zoo.load("matmul")
    plain = cycles(target, body, product, **shapes)
    assert plain == 24 / 16 + 32 / 16 + 4 + 2 + 3
    bursts = cycles(target.override("dram.burst_bytes", 64), body, product, **shapes)
    assert bursts == 64 / 16 + 64 / 16 + 4 + 2 + 3
    late = cycles(target.override("dram.latency_cycles", 100), body, product, **shapes)
    assert late == plain + 100


def test_a_memory_stops_to_refresh():
    target = machine(dram__bytes_per_cycle=1, dram__refresh_every_cycles=20, dram__refresh_cycles=5)
    body = "keep A, B in gb\nZ on pe2d: m@rows, n@cols, k"
    # 20 bytes, then 15 of every 20 cycles: 64 of A and B are there in cycle 79, the 32 of the
    # result, which pass while it is computed, in cycle 126
    assert cycles(target, body, zoo.load("matmul"), m=4, n=4, k=4) == 126 + 6


def test_a_memory_that_only_refreshes_is_refused():
    target = TARGETS.get("mesh4x4").override("dram.refresh_cycles", 20)
    with pytest.raises(TargetError, match="refresh_every_cycles less refresh_cycles"):
        target.override("dram.refresh_every_cycles", 20)


@pytest.mark.parametrize("seed", range(30))
def test_values_and_time_on_machines_with_all_parts(seed):
    dice = rolled(9000 + seed)
    target = machines()[dice.choice(("mesh4x4", "fusemax"))]
    for path, choices in (
        ("pe2d.result_cycles", (1, 2, 4)),
        ("pe1d.result_cycles", (1, 3)),
        ("pe2d.operand_ports", (0, 1, 2)),
        ("gb.banks", (1, 2, 3)),
        ("dram.latency_cycles", (0, 17)),
        ("dram.burst_bytes", (0, 32)),
        ("dram.refresh_every_cycles", (0, 50)),
    ):
        if path == "dram.refresh_every_cycles":
            target = target.override("dram.refresh_cycles", 9)
        target = target.override(path, dice.choice(choices))
    target = chained(target) if dice.random() < 0.7 else target
    found = None
    while found is None:
        name = dice.choice(("attention", "attention_1pass", "attention_deferred", "matmul"))
        found = design(name, target, dice)
    bound, mapping = found
    inputs = random_inputs(bound, FIXED, seed)
    result = simulate(mapping, bound, target, FIXED, inputs)
    for tensor, want in interpret(bound, inputs, FIXED).items():
        np.testing.assert_array_equal(result.outputs[tensor], want, err_msg=str(mapping))
    assert evaluate(mapping, bound, target, FIXED).latency_cycles <= result.cycles + 1e-6
    for each in result.units:
        total = each.busy_cycles + sum(each.stalls.values()) + each.idle_cycles
        assert total == pytest.approx(result.cycles), (each, mapping)

"""Designs counted by hand, messages word for word, and schedules that are wrong on purpose."""

import re
from dataclasses import replace

import numpy as np
import pytest
from sim_designs import FIXED, ideal

from penstock import zoo
from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.shapes import bind
from penstock.errors import MappingError
from penstock.mapper.model.evaluate import evaluate
from penstock.mapper.notation import parse_mapping
from penstock.samples import random_inputs
from penstock.sim import walk
from penstock.sim.simulate import simulate
from penstock.targets import TARGETS

MESH = TARGETS.get("mesh4x4")  # with the numbers that are counted with here
for _path, _value in (
    ("dram.bytes_per_cycle", 16),
    ("gb.bytes_per_cycle", 64),
    ("pe2d.depth_cycles", 2),
    ("pe1d.depth_cycles", 4),
):
    MESH = MESH.override(_path, _value)
TWO = parse("""
cascade two(A[m,k], B[k,n]) -> Y[m,n]
  Z[m,n] = A[m,k] * B[k,n]
  Y[m,n] = Z[m,n] + 1
""")
ONE_TILE = "keep A, B in gb\nZ on pe2d: m@rows, n@cols, k"
PIPELINED = """
keep B in gb
for m by 4 pipelined
  keep A in gb x3
  keep Z in rf1d x3
  Z on pe2d stage 0: m@rows, n@cols, k
  Y on pe1d stage 1: m, n@lanes
"""


def run(cascade, body, target=MESH, seed=0, **shapes):
    bound = bind(cascade, shapes=shapes)
    mapping = parse_mapping(f"mapping t for {cascade.name} on {target.name}\n{body}")
    inputs = random_inputs(bound, FIXED, seed)
    found = simulate(mapping, bound, target, FIXED, inputs)
    return found, evaluate(mapping, bound, target, FIXED), interpret(bound, inputs, FIXED)


def ideal_ports(target):
    memories = tuple(replace(each, bytes_per_cycle=float("inf")) for each in target.memories)
    return replace(target, memories=memories)


def table(found, *kinds):
    return [
        (event.task.name, event.start, event.end, event.ready, event.stall_cycles, event.cause)
        for event in found.events
        if event.task.kind in (kinds or ("compute", "init", "load", "store"))
    ]


def unit(found, name):
    return next(each for each in found.units if each.unit == name)


# --- counted by hand --------------------------------------------------------------------------


def test_one_tile_of_a_matrix_product():
    found, model, want = run(zoo.load("matmul"), ONE_TILE, m=4, n=4, k=8)
    # A and B are 64 bytes each, 16 bytes a cycle; k = 8 steps; then one cycle more for a depth
    # of two, and the wavefront reaches the last of 4 x 4 places 3 + 3 cycles later
    assert table(found) == [
        ("A", 0, 4, 4, 0, ""),
        ("B", 4, 8, 8, 0, ""),
        ("Z", 8, 16, 16 + 1 + 3 + 3, 8, "load of B"),
    ]
    assert found.cycles == 23
    assert (model.compute_cycles, model.memory_cycles["dram"]) == (8, 160 / 16)
    np.testing.assert_array_equal(found.outputs["Z"], want["Z"])
    assert unit(found, "pe2d").busy_cycles == 8
    assert unit(found, "pe2d").stalls == {"load of B": 8}
    assert unit(found, "pe2d").idle_cycles == 7
    # 2 x 64 bytes in, and the 32 bytes of Z pass while pe2d computes
    assert unit(found, "dram").busy_by_task == {"A": 4, "B": 4, "Z": 2}


def test_a_tile_that_does_not_fill_the_array_has_a_shorter_wavefront():
    found, _, _ = run(zoo.load("matmul"), ONE_TILE, m=3, n=2, k=8)
    compute = table(found, "compute")[0]
    assert compute[3] - compute[2] == 1 + 2 + 1


def test_depth_one_and_no_skew_add_nothing():
    flat = replace(
        MESH,
        arrays=tuple(replace(each, depth_cycles=1, skewed=False) for each in MESH.arrays),
    )
    found, _, _ = run(zoo.load("matmul"), ONE_TILE, flat, m=4, n=4, k=8)
    assert found.cycles == 8 + 8


def test_lanes_reduce_in_a_tree():
    cascade = parse("cascade sums(A[m,k]) -> S[m]\n  S[m] = A[m,k] :: sum[k]")
    found, _, want = run(cascade, "keep A in gb\nS on pe1d: m, k@lanes", m=2, k=4)
    # 16 bytes arrive in 1 cycle, m = 2 steps, depth 4, and two more levels of adders
    assert table(found, "compute") == [("S", 1, 3, 3 + 3 + 2 * 4, 1, "load of A")]
    np.testing.assert_array_equal(found.outputs["S"], want["S"])


def test_operands_that_are_kept_nowhere_stream_and_hold_the_array_up():
    found, model, want = run(zoo.load("matmul"), "Z on pe2d: m@rows, n@cols, k", m=4, n=4, k=8)
    # 160 bytes through a port of 16 bytes a cycle take 10 cycles, the product alone takes 8
    (event,) = [each for each in found.events if each.task.kind == "compute"]
    assert (event.start, event.end, event.ready, event.held) == (0, 10, 17, "dram")
    assert unit(found, "pe2d").stalls == {"bandwidth of dram": 2}
    assert found.bytes_at("dram") == model.dram_bytes == 160
    np.testing.assert_array_equal(found.outputs["Z"], want["Z"])


def test_two_dependent_einsums_wait_for_the_result_not_for_the_array():
    body = "keep A, B, Z in gb\nZ on pe2d: m@rows, n@cols, k\nY on pe1d: m, n@lanes"
    found, model, want = run(TWO, body, m=4, n=4, k=4)
    assert table(found, "compute") == [
        ("Z", 4, 8, 15, 4, "load of B"),
        ("Y", 15, 19, 22, 15, "result of Z"),
    ]
    assert (model.latency_cycles, found.cycles) == (8, 22)
    np.testing.assert_array_equal(found.outputs["Y"], want["Y"])


def test_independent_einsums_in_one_body_run_one_after_another():
    cascade = parse("cascade pair(A[m]) -> Y[m], Z[m]\n  Y[m] = A[m] + 1\n  Z[m] = A[m] + 2")
    body = "keep A in gb\nY on pe1d: m@lanes\nZ on pe2d: m@cols"
    found, _, _ = run(cascade, body, m=4)
    first, second = table(found, "compute")
    assert (second[1], second[5]) == (first[3], "drain")


@pytest.mark.parametrize(
    ("buffers", "starts", "loads", "cause"),
    [
        # single: the next load waits until the last result of the tile is out (19, 38)
        (1, [4, 23, 42], [0, 19, 38], "load of A"),
        # double: it is there before the array has drained
        (2, [4, 19, 34], [0, 10, 25], "drain"),
    ],
)
def test_a_second_buffer_hides_the_load(buffers, starts, loads, cause):
    body = f"for m by 4\n  keep A in gb x{buffers}\n  Z on pe2d: m@rows, n@cols, k"
    found, _, want = run(zoo.load("matmul"), body, m=12, n=4, k=8)
    assert [row[1] for row in table(found, "compute")] == starts
    assert [row[1] for row in table(found, "load")] == loads
    assert table(found, "compute")[1][5] == cause
    if buffers == 1:
        assert table(found, "load")[1][5] == "buffer full"
    np.testing.assert_array_equal(found.outputs["Z"], want["Z"])


def test_a_pipelined_loop_runs_at_its_interval_after_the_ramp():
    found, model, want = run(TWO, PIPELINED, m=32, n=4, k=8)
    (pipeline,) = model.pipelines
    assert (pipeline.iterations, pipeline.interval_cycles) == (8, 8)
    starts = [row[1] for row in table(found, "compute") if row[0] == "Z"]
    # B (4 cycles), then the first A (4 cycles); from then on pe2d never waits
    assert starts == [8 + 8 * number for number in range(8)]
    # Y follows in stage 1, 4 steps and 3 cycles of depth after the wavefront of 7
    assert found.cycles == starts[-1] + 8 + 7 + 4 + 3
    assert unit(found, "pe2d").stalls == {"load of A": 8}
    np.testing.assert_array_equal(found.outputs["Y"], want["Y"])


def test_twice_the_iterations_take_twice_the_interval_more():
    some, model, _ = run(TWO, PIPELINED, m=32, n=4, k=8)
    more, _, _ = run(TWO, PIPELINED, m=64, n=4, k=8)
    assert more.cycles - some.cycles == 8 * model.pipelines[0].interval_cycles


@pytest.mark.parametrize(("stage", "order", "stalls"), [(1, "XYXYXYXY", 12), (3, "XXXYXYYY", 2)])
def test_older_iterations_go_first(stage, order, stalls):
    chain = parse("cascade chain(A[m]) -> Y[m]\n  X[m] = A[m] + 1\n  Y[m] = X[m] + 1")
    body = f"""
keep A in gb
for m by 4 pipelined
  keep X in rf1d
  X on pe1d stage 0: m@lanes
  Y on pe1d stage {stage}: m@lanes
"""
    found, _, _ = run(chain, body, ideal_ports(MESH), m=16)
    assert "".join(row[0] for row in table(found, "compute")) == order
    # a result is ready 4 cycles after its start: with one iteration in flight each Y waits for
    # 3, with three the first and the last wait for 1
    assert unit(found, "pe1d").stalls == {"result of X": stalls}


def test_without_anything_to_wait_for_the_model_is_the_simulation():
    body = "keep A, B, Z in gb\nZ on pe2d: m@rows, n@cols, k\nY on pe1d: m, n@lanes"
    found, model, _ = run(TWO, body, ideal(MESH), m=4, n=3, k=7)
    assert found.cycles == model.latency_cycles == 7 + 4


def test_a_state_is_carried_over_tiles_that_are_skipped():
    body = """
for h
  for p by 2
    keep QS, RM, RD, RNV in gb
    QS on pe2d: p@cols, e@rows
    for m1
      keep BQK, LM, SLD, SLNV, PRM, SLN in gb
      BQK on pe2d: p@cols, m0@rows, e
      LM on pe2d: p@cols, m0@rows
      RM on pe2d: p@cols
      SLN on pe2d: p@cols, m0@rows
      SLD on pe2d: p@cols, m0@rows
      SLNV on pe2d: p@cols, f@rows, m0
      PRM on pe2d: p@cols
      RD on pe2d: p@cols
      RNV on pe2d: p@cols, f@rows
    O on pe1d: p, f@lanes
"""
    shapes = dict(h=2, g=1, p=9, e=3, m=7, f=2, m0=2)
    found, _, want = run(zoo.load("gqa_causal_1pass"), body, **shapes)
    assert found.skipped > 0
    np.testing.assert_array_equal(found.outputs["O"], want["O"])
    assert not want["O"][:, :2].any()  # more queries than keys: the first two see none


def test_an_init_that_computes_takes_its_array():
    cascade = parse("""
cascade decay(X[t,c], A[c]) -> S[t,c]
  init S[0,c] = A[c] * A[c]
  S[t+1,c] = S[t,c] + X[t,c]
""")
    body = "for t\n  S on pe1d: c@lanes"
    found, model, want = run(cascade, body, t=3, c=4)
    assert [event.task.kind for event in found.events if event.task.computes] == [
        "init", "compute", "compute", "compute",
    ]  # fmt: skip
    assert model.leaves[0].init_cycles == 1
    assert unit(found, "pe1d").busy_cycles == 4
    np.testing.assert_array_equal(found.outputs["S"], want["S"])


# --- the simulator notices a wrong schedule -----------------------------------------------------


def test_a_lost_dependence_gives_wrong_values(monkeypatch):
    body = "Z on pe2d: m@rows, n@cols, k\n  Y on pe1d: m, n@lanes"
    pipelined = f"for m by 4 pipelined\n  keep A in gb\n  {body}"
    found, _, want = run(TWO, pipelined, m=8, n=4, k=4)
    np.testing.assert_array_equal(found.outputs["Y"], want["Y"])
    monkeypatch.setattr(walk._Walker, "needs", lambda *_: ((), ()))
    found, _, want = run(TWO, pipelined, m=8, n=4, k=4)
    assert not np.array_equal(found.outputs["Y"], want["Y"])


# --- messages -----------------------------------------------------------------------------------


def test_too_many_tiles(monkeypatch):
    monkeypatch.setattr(walk, "MAX_TASKS", 5)
    body = "for m\n  Z on pe2d: n@cols, k"
    message = (
        "the design has 6 tile tasks, the simulator takes 5\n"
        "fix: simulate a smaller instance, as in --shape p=16 --shape m=16"
    )
    with pytest.raises(MappingError, match=f"^{re.escape(message)}$"):
        run(zoo.load("matmul"), body, m=6, n=4, k=8)


def test_shared_spatial_loops_are_for_other_backends():
    message = (
        "the simulator runs spatial loops of leaves only, not the shared 'for m@rows'\n"
        "fix: simulate a design of a spatial array or FPGA target"
    )
    with pytest.raises(MappingError) as caught:
        run(zoo.load("matmul"), "for m@rows\n  Z on pe2d: n@cols, k", m=4, n=4, k=4)
    assert f"{caught.value.what}\nfix: {caught.value.fix}" == message


def test_progress_is_told():
    told = []
    bound = bind(zoo.load("matmul"), shapes=dict(m=40, n=40, k=2))
    mapping = parse_mapping("mapping t for matmul on mesh4x4\nfor m\n  for n\n    Z on pe2d: k")
    inputs = random_inputs(bound, FIXED)
    simulate(mapping, bound, MESH, FIXED, inputs, lambda done, every: told.append((done, every)))
    assert told
    assert all(0 < done <= every == 1600 for done, every in told)


def test_metrics_say_that_they_are_simulated():
    found, _, _ = run(zoo.load("matmul"), ONE_TILE, m=4, n=4, k=8)
    rows = {each.name: each for each in found.metrics()}
    assert {each.evidence for each in rows.values()} == {"simulation"}
    assert rows["latency"].value == 23
    assert rows["latency_s"].value == pytest.approx(23 / MESH.clock_hz)
    assert rows["busy_pe2d"].value == pytest.approx(8 / 23)

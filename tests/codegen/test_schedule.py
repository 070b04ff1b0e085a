"""Initiation intervals and latencies of loops, counted by hand and by brute force."""

import re
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from penstock.codegen.hls.constructs import operator_constructs
from penstock.codegen.loops.nodes import Alloc, Block, Buffer, Const, For, If, Load, Name, Op, Store
from penstock.codegen.timing.dependence import affine, below, distance
from penstock.codegen.timing.schedule import Hardware, pipelined
from penstock.codegen.timing.timeline import evaluate, timeline
from penstock.errors import MappingError
from penstock.sim.pipeline import Network, Process, run_pipeline
from penstock.targets.cores import Number, core, fifo, storage

FP32, FIXED = Number("float", 32), Number("fixed", 16, 10)
CLOCK = 300e6
J, K = Name("j"), Name("k")


def number(value):
    return Const(value, integer=True)


def hardware(kind, shapes, **more):
    return Hardware(kind, CLOCK, shapes, **more)


def serial(variable, extent, body):
    return For(variable, number(extent), body)


def lanes(variable, extent, body):
    return For(variable, number(extent), body, kind="pe", axis="a.x")


def plus(buffer, indices, value):
    return Store(buffer, indices, Op("+", (Load(buffer, indices), value)))


REGISTER = plus("acc", (), Op("*", (Load("a", (K,)), Load("b", (K,)))))
SHAPES = {"acc": (), "a": (64,), "b": (64,), "row": (4,), "bins": (64,), "out": (64,)}
HISTOGRAM = plus("bins", (Load("a", (K,)),), Const(1.0))
ROW = plus("row", (J,), Op("*", (Load("a", (K,)), Load("b", (J,)))))
RESCALE = Store("acc", (), Op("+", (Op("*", (Load("acc", ()), Load("a", (K,)))), Load("b", (K,)))))
DIVIDE = Store("out", (K,), Op("/", (Load("a", (K,)), Load("b", (K,)))))
DIVIDED = Store("acc", (), Op("/", (Load("acc", ()), Load("a", (K,)))))
TAPS = Store(
    "out",
    (K,),
    Op(
        "+",
        (
            Op("+", (Load("a", (K,)), Load("a", (Op("+", (K, number(1))),)))),
            Load("a", (Op("+", (K, number(2))),)),
        ),
    ),
)


def test_a_test_of_values_is_no_test_of_coordinates():
    assert below(Op("<", (Load("S", ()), Const(float("inf"))))) is None
    assert below(Op("<", (Name("i"), Const(0.5)))) is None


@pytest.mark.parametrize(
    ("body", "loops", "kind", "interval", "why"),
    [
        # A sum in a register: as long as the fastest adder; one cycle in fixed point.
        (REGISTER, {"k": 64}, FP32, 4, "recurrence of acc: 4 cycles in 1 steps"),
        (REGISTER, {"k": 64}, FIXED, 1, "a step each cycle"),
        # Rescaled in every step: multiplier and adder, 3 + 4; 2.38 + 0.67 ns of 2.43 in fixed.
        (RESCALE, {"k": 64}, FP32, 7, "recurrence of acc: 7 cycles in 1 steps"),
        (RESCALE, {"k": 64}, FIXED, 2, "recurrence of acc"),
        # Read, add, write of a memory at an address that is not known: 1 + 4 + 1, 1 + 1.
        (HISTOGRAM, {"k": 64}, FP32, 6, "recurrence of bins: 6 cycles in 1 steps"),
        (HISTOGRAM, {"k": 64}, FIXED, 2, "recurrence of bins: 2 cycles in 1 steps"),
        # Four rows in turn: every fourth step adds to the same; one by one in a register.
        (ROW, {"k": 16, "j": 4}, FP32, 2, "recurrence of row: 6 cycles in 4 steps"),
        (ROW, {"j": 4, "k": 16}, FP32, 4, "recurrence of row: 4 cycles in 1 steps"),
        # A divider is pipelined, unless it waits for itself.
        (DIVIDE, {"k": 64}, FP32, 1, "a step each cycle"),
        (DIVIDED, {"k": 64}, FP32, 11, "recurrence of acc: 11 cycles in 1 steps"),
        (DIVIDE, {"k": 64}, FIXED, 1, "a step each cycle"),
        # Three reads of one memory with two ports.
        (TAPS, {"k": 62}, FP32, 2, "bank of a: 3 reads and writes, 2 ports"),
    ],
)
def test_intervals_counted_by_hand(body, loops, kind, interval, why):
    found = pipelined(body, loops, hardware(kind, SHAPES))
    assert found.interval == interval
    assert why in found.cause


def test_a_split_memory_has_two_ports_for_each_bank():
    wide = lanes(
        "u",
        8,
        Store(
            "out",
            (Op("+", (Op("*", (K, number(8))), Name("u"))),),
            Load("a", (Op("+", (Op("*", (K, number(8))), Name("u"))),)),
        ),
    )
    found = {
        how: pipelined(wide, {"k": 8}, hardware(FP32, SHAPES, splits={"a": (how,), "out": (how,)}))
        for how in (None, ("cyclic", 2), ("cyclic", 8), ("block", 8), ("complete", 64))
    }
    assert [each.interval for each in found.values()] == [4, 2, 1, 4, 1]


def test_a_sum_of_floats_is_a_tree_only_if_its_order_does_not_matter():
    body = lanes("u", 8, plus("acc", (), Load("a", (Name("u"),))))
    kept = {"splits": {"a": (("complete", 64),)}}
    free = pipelined(body, {"k": 4}, hardware(FP32, SHAPES, reassociates=True, **kept))
    assert free.interval == 4  # one addition to the sum; the tree is outside of the recurrence
    assert free.latency == 4 * 7


def test_a_reduction_side_by_side_is_a_tree_where_sums_are_exact():
    body = lanes("u", 8, plus("acc", (), Load("a", (Name("u"),))))
    splits = {"a": (("complete", 64),)}
    one = {
        kind: pipelined(body, {"k": 4}, hardware(kind, SHAPES, splits=splits))
        for kind in (FP32, FIXED)
    }
    assert one[FP32].interval == 8 * 4
    assert one[FP32].latency == 8 * 7
    assert one[FIXED].interval == 1
    assert one[FIXED].latency == 2  # four additions of 0.67 ns, three to a cycle


@pytest.mark.parametrize(
    ("value", "latency"),
    [  # csynth reports of Stream-HLS: node25 (copy), node12 (fmul), node22 (fadd), node10 less 1
        (Load("a", (K,)), 3),
        (Op("*", (Load("a", (K,)), Const(0.25))), 7),
        (Op("+", (Load("a", (K,)), Load("b", (K,)))), 10),
        (Op("exp", (Op("-", (Load("a", (K,)), Load("b", (K,)))),)), 24),
        (Op("/", (Load("a", (K,)), Load("b", (K,)))), 15),
        (Op("max", (Load("a", (K,)), Load("b", (K,)))), 4),
    ],
)
def test_iteration_latencies_of_reported_loops(value, latency):
    found = pipelined(Store("out", (K,), value), {"k": 64}, hardware(FP32, SHAPES))
    assert found.latency == latency


def test_what_is_made_anew_in_each_step_carries_nothing():
    body = Alloc(
        Buffer("t", ()),
        Block(
            (
                Store("t", (), Const(0.0)),
                plus("t", (), Load("a", (K,))),
                Store("out", (K,), Load("t", ())),
            )
        ),
    )
    assert pipelined(body, {"k": 64}, hardware(FP32, {**SHAPES, "t": ()})).interval == 1
    outside = Block(
        (
            Store("acc", (), Const(0.0)),
            plus("acc", (), Load("a", (K,))),
            Store("out", (K,), Load("acc", ())),
        )
    )
    assert pipelined(outside, {"k": 64}, hardware(FP32, SHAPES)).interval == 1


def test_a_circle_through_two_buffers():
    """The streaming softmax with one state for all: maximum, then the sum that it rescales."""
    body = Block(
        (
            Store("new", (), Op("max", (Load("old", ()), Load("a", (K,))))),
            Store("scale", (), Op("exp", (Op("-", (Load("old", ()), Load("new", ()))),))),
            plus("acc", (), Load("scale", ())),
            Store("old", (), Load("new", ())),
        )
    )
    shapes = {**SHAPES, "new": (), "old": (), "scale": ()}
    found = pipelined(body, {"k": 64}, hardware(FP32, shapes))
    assert found.interval == 4  # the sum; the maximum comes round in one cycle
    assert "acc" in found.cause


def test_a_stream_takes_a_token_a_cycle():
    body = Block((Store("x", (), Load("s", ())), Store("y", (), Load("s", ()))))
    found = pipelined(body, {"k": 8}, hardware(FP32, {"x": (), "y": ()}, streams=frozenset({"s"})))
    assert (found.interval, found.cause) == (2, "stream s: 2 tokens, one a cycle")


def test_a_port_of_the_outer_memory_carries_neighbours_together():
    def copy(step):
        index = Op("+", (K, Op("*", (Name("u"), number(step)))))
        return lanes("u", 16, Store("x", (Name("u"),), Load("in", (index,))))

    shapes = {"x": (16,), "in": (4096,)}
    kept = {"splits": {"x": (("complete", 16),)}, "axi": frozenset({"in"}), "bits": {"in": 32}}
    found = [pipelined(copy(step), {"k": 8}, hardware(FP32, shapes, **kept)) for step in (1, 16)]
    assert [each.interval for each in found] == [1, 16]
    assert found[1].cause == "port of in: 16 words of 512 bits, one a cycle"


@st.composite
def accesses(draw):
    loops = {name: draw(st.integers(1, 4)) for name in "ijk"[: draw(st.integers(1, 3))]}
    places = {name: draw(st.integers(1, 3)) for name in ("u", "v")}

    def index(place):
        expr = number(draw(st.integers(-2, 3)))
        for name in (*loops, place):
            factor = draw(st.sampled_from([0, 0, 1, 1, 2, 3, -1]))
            if factor:
                expr = Op("+", (expr, Op("*", (number(factor), Name(name)))))
        return expr

    ranks = draw(st.integers(0, 2))
    return [index("u") for _ in range(ranks)], [index("v") for _ in range(ranks)], loops, places


@settings(deadline=None, max_examples=300)
@given(case=accesses(), same=st.booleans())
def test_distances_are_never_above_brute_force(case, same):
    stored, loaded, loops, places = case
    grid = [dict(zip(loops, at, strict=True)) for at in product(*map(range, loops.values()))]
    best = None
    for (m, one), (n, two) in product(enumerate(grid), repeat=2):
        if n - m < (0 if same else 1):
            continue
        for u, v in product(range(places["u"]), range(places["v"])):
            a = [evaluate(e, {**one, "u": u}) for e in stored]
            b = [evaluate(e, {**two, "v": v}) for e in loaded]
            if a == b:
                best = n - m if best is None else min(best, n - m)
    found = distance(stored, loaded, loops, places, same=same)
    if best is not None:
        assert found is not None
        assert found <= best
    alike = [affine(e)[0] for e in stored] == [affine(e)[0] for e in loaded]
    if alike and all(len(affine(e)[0]) <= 1 for e in stored):
        assume(len({n for e in stored for n in affine(e)[0]}) == len(stored))
        assert found == best


def task(name, body, shapes, streams, reads=(), writes=()):
    found = timeline(body, hardware(FP32, shapes, streams=frozenset(streams)))
    assert set(found.reads) == set(reads)
    assert set(found.writes) == set(writes)
    return Process(name, found.steps, found.reads, found.writes)


def test_a_pipeline_of_tasks_takes_what_its_schedules_say():
    """A reader, a task that adds up rows of 8, and a writer: the cycles counted by hand."""
    shapes = {"a": (64,), "acc": (), "out": (8,)}
    index = Op("+", (Op("*", (J, number(8))), K))
    reader = serial("j", 8, serial("k", 8, Store("s", (), Load("a", (index,)))))
    total = serial(
        "j",
        8,
        Block(
            (
                Store("acc", (), Const(0.0)),
                serial("k", 8, plus("acc", (), Load("s", ()))),
                Store("t", (), Load("acc", ())),
            )
        ),
    )
    writer = serial("j", 8, Store("out", (J,), Load("t", ())))
    read = task("read", reader, shapes, {"s"}, writes={"s"})
    add = task("add", total, shapes, {"s", "t"}, reads={"s"}, writes={"t"})
    write = task("write", writer, shapes, {"t"}, reads={"t"})
    assert read.steps == 63 + 3  # flattened: 64 steps, a load and a store each
    assert write.steps == 7 + 2  # a token is there a stage earlier than what a memory gives
    inner = 7 * 4 + 2 + 7  # seven intervals of the adder, and the last addition
    around = 1 + 1 + inner + 1 + 1 + 1  # reset, loop, send, and a cycle between them and back
    assert add.steps == 8 * around - 1
    assert add.reads["s"].tolist() == [2 + j * around + 4 * k for j in range(8) for k in range(8)]
    run = run_pipeline(Network((read, add, write)), {"s": 2, "t": 2})
    assert run.cycles == 1 + 2 + add.steps + 1  # token 0 is written at 3, read at 4, step 2
    assert run.stalls["add"] == {("s", "empty"): 1}


def test_empty_tiles_and_triangles_are_computed():
    triangle = serial(
        "i", 6, For("k", Op("+", (Name("i"), number(1))), Store("s", (), Load("a", (K,))))
    )
    found = timeline(triangle, hardware(FP32, SHAPES, streams=frozenset({"s"})))
    assert len(found.writes["s"]) == 21
    assert found.steps == sum(i + 3 for i in range(6)) + 5
    skipping = serial(
        "i", 6, If(Op("<", (Name("i"), number(2))), serial("k", 4, Store("s", (), Load("a", (K,)))))
    )
    assert (
        len(timeline(skipping, hardware(FP32, SHAPES, streams=frozenset({"s"}))).writes["s"]) == 8
    )


def test_a_stream_under_a_condition_on_data_is_refused():
    body = serial(
        "k", 4, If(Op("<", (Load("a", (K,)), number(2))), Store("s", (), Load("b", (K,))))
    )
    text = (
        "whether s is used depends on data, so that its schedule is not known\n"
        "fix: send the condition through the stream as well"
    )
    with pytest.raises(MappingError, match=f"^{re.escape(text)}$"):
        timeline(body, hardware(FP32, SHAPES, streams=frozenset({"s"})))


def test_operators_are_shared_between_the_steps_of_an_interval():
    """Stream-HLS's node2 in small: one product for each place, its sum in a recurrence."""
    body = serial(
        "k",
        16,
        lanes("u", 8, plus("row", (Name("u"),), Op("*", (Load("a", (K,)), Load("b", (K,)))))),
    )
    shapes = {**SHAPES, "row": (8,)}
    splits = {"row": (("complete", 8),)}
    rows = operator_constructs("t", body, hardware(FP32, shapes, splits=splits))
    found = {row.name: (row.count, row.cost.dsp) for row in rows if row.kind == "operator"}
    assert found == {"*": (2, 6), "+": (2, 0)}  # 8 places every 4 cycles; the adder of LUTs
    fixed = operator_constructs("t", body, hardware(FIXED, shapes, splits=splits))
    assert {row.name: row.count for row in fixed if row.kind == "operator"} == {"mac": 8}


def registers(body, loops, kind, shapes, **more):
    found = pipelined(body, loops, hardware(kind, shapes, **more)).registers
    return found.ff, found.lut


def test_values_that_wait_take_registers():
    """Two loads and a product, 32 bits each: what Vitis HLS lists for node17 of Stream-HLS."""
    product = Op("*", (Load("a", (K,)), Load("b", (K,))))
    assert registers(Store("out", (K,), product), {"k": 64}, FP32, SHAPES) == (3 * 32, 0)
    # b waits for the product of the others, 4 stages: in a shift register after the second one.
    late = Op("+", (product, Load("c", (K,))))
    shapes = {**SHAPES, "c": (64,)}
    assert registers(Store("out", (K,), late), {"k": 64}, FP32, shapes) == (6 * 32, 32)
    # Four places share what does not depend on the place; steps 8 apart share the register.
    body = lanes("j", 4, Store("row", (J,), product))
    split = {"row": (("complete", 4),)}
    assert registers(body, {"k": 64}, FP32, SHAPES, splits=split) == (2 * 32, 0)
    # One DSP block keeps its product to itself; a maximum over 4 places goes from place to place.
    assert registers(Store("out", (K,), product), {"k": 64}, FIXED, SHAPES) == (2 * 16, 0)
    chain = lanes("j", 4, Store("acc", (), Op("max", (Load("acc", ()), Load("bins", (J,))))))
    banks = {"bins": (("cyclic", 4),)}
    assert registers(chain, {"k": 64}, FIXED, SHAPES, splits=banks)[0] >= 4 * 16


def test_small_banks_and_short_streams_take_no_blocks():
    assert [storage(words, 16, "uram") for words in (4096, 512, 64)] == ["bram", "bram", "lutram"]
    assert storage(4608, 16, "uram") == "uram"
    assert storage(64, 16, "auto") == "auto"
    assert (fifo(2, 4096).bram, fifo(4, 4096).bram) == (0, 57)
    assert fifo(4096, 512, "uram").uram == 8


def test_cores_of_the_reports():
    assert [(core(op, FP32).dsp, core(op, FP32).latency) for op in ("+", "*", "exp", "/")] == [
        (2, 6),
        (3, 3),
        (7, 13),
        (0, 11),
    ]
    assert core("*", FIXED).dsp == 1
    assert core("*", Number("fixed", 32, 16)).dsp == 4
    assert np.isclose(core("+", Number("fixed", 32, 0)).delay_ns, 0.79)

"""Task pipelines in time: against a cycle-by-cycle stepper, by hand, and against AMD's tools."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import MappingError
from penstock.sim import pipeline
from penstock.sim.pipeline import Network, Process, minimal_depths, run_pipeline


def process(name, steps, reads=None, writes=None, after=()):
    sides = [
        {s: np.array(t, dtype=np.int64) for s, t in (e or {}).items()} for e in (reads, writes)
    ]
    return Process(name, steps, *sides, after)


def stepped(network, depths):
    """Every process in every cycle, token by token; None if nothing moves any more."""
    at = {each.name: 0 for each in network.processes}
    ends, written, read, cycle = {}, {}, {}, 0
    idle = 0
    while len(ends) < len(network.processes):
        cycle += 1
        idle += 1
        for each in network.processes:
            step = at[each.name]
            if each.name in ends or any(ends.get(o, np.inf) + 2 > cycle for o in each.after):
                continue
            taken = [(s, k) for s, t in each.reads.items() for k, x in enumerate(t) if x == step]
            given = [(s, k) for s, t in each.writes.items() for k, x in enumerate(t) if x == step]
            there = all(written.get(token, cycle) < cycle for token in taken)
            room = all(
                k < depths.get(s, k + 1) or read.get((s, k - depths[s]), cycle) < cycle
                for s, k in given
            )
            if there and room:
                idle = 0
                read |= dict.fromkeys(taken, cycle)
                written |= dict.fromkeys(given, cycle)
                at[each.name] += 1
                if at[each.name] == each.steps:
                    ends[each.name] = cycle + 1
        if idle > 3:
            return None
    return ends, written, read


@st.composite
def networks(draw):
    count = draw(st.integers(1, 4))
    lengths = [draw(st.integers(1, 9)) for _ in range(count)]
    sides = [({}, {}) for _ in range(count)]
    depths = {}
    for number in range(draw(st.integers(0, 5))):
        tokens = draw(st.integers(1, 5))
        for side in (1, 0):
            place = draw(st.integers(0, count - 1))
            step = st.integers(0, lengths[place] - 1)
            steps = draw(st.lists(step, min_size=tokens, max_size=tokens))
            sides[place][side][f"s{number}"] = sorted(steps)
        if draw(st.booleans()):
            depths[f"s{number}"] = draw(st.integers(1, 3))
    after = [
        tuple(f"p{o}" for o in range(place) if draw(st.integers(0, 4)) == 0)
        for place in range(count)
    ]
    parts = [process(f"p{n}", lengths[n], *sides[n], after[n]) for n in range(count)]
    return Network(tuple(draw(st.permutations(parts)))), depths


@pytest.mark.parametrize("sweeps", [0, 2, 32])
@settings(deadline=None)
@given(case=networks())
def test_every_token_in_the_stepped_cycle(case, sweeps):
    network, depths = case
    expected = stepped(network, depths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "SWEEPS", sweeps)
        if expected is None:
            with pytest.raises(MappingError, match=r"deadlocks: .*(is empty|is full|starts after)"):
                run_pipeline(network, depths)
            return
        run = run_pipeline(network, depths)
    ends, written, read = expected
    assert run.ends == ends
    for found, wanted in ((run.written, written), (run.read, read)):
        assert {(s, k): c for s, t in found.items() for k, c in enumerate(t.tolist())} == wanted
    for name, end in ends.items():  # every cycle that a process lost has a cause
        each = next(p for p in network.processes if p.name == name)
        start = max((ends[other] + 1 for other in each.after), default=0) + 1
        assert end - start - each.steps == sum(run.stalls[name].values())


@settings(deadline=None)
@given(case=networks())
def test_depths_of_the_peaks_change_nothing_and_minimal_ones_are(case):
    network, _ = case
    if stepped(network, {}) is None:
        return
    free = run_pipeline(network)
    assert run_pipeline(network, free.peaks).ends == free.ends
    for cycles in (None, free.cycles):
        least = minimal_depths(network, cycles=cycles)
        assert run_pipeline(network, least).cycles <= (cycles or np.inf)
        for stream, depth in least.items():
            if depth > 1:
                done = stepped(network, {**least, stream: depth - 1})
                assert done is None or (cycles and max(done[0].values()) > cycles)


def test_a_reader_that_is_slow_holds_its_writer_up():
    network = Network(
        (
            process("fast", 8, writes={"x": range(8)}),
            process("slow", 24, reads={"x": range(0, 24, 3)}),
        )
    )
    run = run_pipeline(network, {"x": 2})
    assert run.read["x"].tolist() == [2, 5, 8, 11, 14, 17, 20, 23]
    assert run.written["x"].tolist() == [1, 2, 3, 6, 9, 12, 15, 18]
    assert run.stalls == {"fast": {("x", "full"): 10}, "slow": {("x", "empty"): 1}}
    assert run.cycles == 26
    assert run_pipeline(network).peaks == {"x": 6}
    assert minimal_depths(network, cycles=26) == {"x": 1}


REORDER = (
    process("source", 8, writes={"k": range(4), "v": range(4, 8)}),
    process("sink", 8, reads={"v": range(4), "k": range(4, 8)}),
)


def test_a_reader_in_another_order_needs_the_whole_tile():
    assert minimal_depths(Network(REORDER)) == {"k": 4, "v": 1}
    text = (
        "the task pipeline deadlocks: source waits for sink: k is full (3); sink waits for source: "
        "v is empty\nfix: make a full one deeper"
    )
    with pytest.raises(MappingError, match=f"^{re.escape(text)}$"):
        run_pipeline(Network(REORDER), {"k": 3, "v": 1})


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (
            [process("a", 2, {"y": [0]}, {"x": [1]}), process("b", 2, {"x": [0]}, {"y": [1]})],
            (
                "the task pipeline deadlocks: a waits for b: y is empty; "
                "b waits for a: x is empty\n"
                "fix: let one of them write before it reads"
            ),
        ),
        (
            [process("a", 2, {"x": [0]}), process("b", 1, None, {"x": [0]}, ("a",))],
            (
                "the task pipeline deadlocks: a waits for b: x is empty; b starts after a\n"
                "fix: let one of them write before it reads"
            ),
        ),
        (
            [process("a", 2, {"x": [0]}), process("b", 2, {"x": [0]}, {"x": [1]})],
            "stream x is written by b and read by a, b\nfix: give it one process at each end",
        ),
        (
            [process("a", 2, {"x": [0]})],
            "stream x is written by nothing and read by a\nfix: give it one process at each end",
        ),
        (
            [process("a", 2, None, {"x": [0]}), process("b", 2, {"x": [0, 1]})],
            "a writes 1 tokens to x, b reads 2\nfix: make the two ends agree",
        ),
        (
            [process("a", 2, None, {"x": [2]}), process("b", 2, {"x": [0]})],
            (
                "process a uses stream x out of order or outside of its 2 steps\n"
                "fix: list the step of each token in order, from 0 on"
            ),
        ),
        (
            [process("a", 2, after=("b",))],
            (
                "process a starts after b, which there is not\n"
                "fix: give every process a name of its own, and wait for those"
            ),
        ),
        (
            [process("a", 2), process("a", 2)],
            (
                "there are 2 processes named a\n"
                "fix: give every process a name of its own, and wait for those"
            ),
        ),
    ],
)
def test_what_cannot_run_says_why(parts, text):
    with pytest.raises(MappingError, match=f"^{re.escape(text)}$"):
        run_pipeline(Network(tuple(parts)))


def test_no_minimal_depths_are_faster_than_unlimited_ones():
    text = "the pipeline takes 14 cycles with streams of any depth, not 9\nfix: allow 14"
    with pytest.raises(MappingError, match=f"^{re.escape(text)}$"):
        minimal_depths(Network(REORDER), cycles=9)


@pytest.fixture(scope="module")
def cosim():
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "hls" / "cosim.py"
    spec = importlib.util.spec_from_file_location("cosim", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_co_simulations_of_vitis_hls_within_one_percent(cosim):
    folder = cosim.reference()
    if folder is None:
        pytest.skip("no shared/reference/vitis_cosim beside this tree")
    found = list(cosim.rows(folder))
    errors = [abs(row.error) for row in found]
    assert len(found) == 49
    assert max(errors) < 1
    assert np.median(errors) < 0.1
    assert sum(abs(row.csynth_error) > 1 for row in found) == 22
    assert cosim.page(found) in cosim.PAGE.read_text()

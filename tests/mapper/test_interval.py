"""Starts in a pipelined loop: an array does one thing at a time, results are there when used."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import zoo
from penstock.design import explore
from penstock.einsum_ir.formats import parse_format
from penstock.mapper.model.interval import (
    Task,
    Wait,
    initiation_interval,
    phased_interval,
    phased_starts,
    starts,
)


@st.composite
def loops(draw):
    """Return tasks in program order, and waits that their stages allow."""
    count = draw(st.integers(1, 7))
    stages = sorted(draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)))
    tasks = [
        Task(f"T{n}", draw(st.sampled_from("ab")), stage, draw(st.integers(1, 9)), draw(small))
        for n, stage in enumerate(stages)
    ]
    waits = []
    for later in range(count):
        for earlier in range(count):
            least = 0 if earlier < later else max(1, stages[earlier] - stages[later])
            if draw(st.booleans()):
                waits.append(Wait(earlier, later, least + draw(st.integers(0, 1))))
    return tasks, waits


small = st.integers(0, 3)


def checked(tasks, waits, first, interval, ends):
    """Check the runs of eight iterations by the clock; `ends` is when the last one frees."""
    begin = {
        (n, turn): (turn + task.stage) * interval + first[n]
        for n, task in enumerate(tasks)
        for turn in range(8)
    }
    for array in {task.array for task in tasks}:
        runs = sorted(
            (at, at + tasks[n].cycles) for (n, _), at in begin.items() if tasks[n].array == array
        )
        for before, after in pairwise(runs):
            assert after[0] >= before[1] - 1e-6
    for wait in waits:
        maker = tasks[wait.earlier]
        for turn in range(8 - wait.iterations):
            there = begin[wait.earlier, turn] + maker.cycles + maker.drain
            assert begin[wait.later, turn + wait.iterations] >= there - 1e-6
    assert ends <= interval + 1e-6


@given(loops())
def test_modulo_schedules_hold_by_the_clock(loop):
    tasks, waits = loop
    interval = initiation_interval(tasks, waits)
    busiest = max(interval.array_cycles.values())
    checked(tasks, waits, starts(tasks, waits, interval.cycles), interval.cycles, busiest)


@given(loops(), st.integers(1, 4))
def test_phases_hold_by_the_clock(loop, phases):
    tasks = [Task(t.name, t.array, t.stage % phases, t.cycles, t.drain) for t in loop[0]]
    interval, first = phased_interval(tasks, phases).cycles, phased_starts(tasks, phases)
    ends = max(at + task.cycles for task, at in zip(tasks, first, strict=True))
    checked(tasks, [], first, interval, ends)


def test_what_the_search_finds_for_a_gpu_overlaps_products_with_the_code_between():
    shapes = {"h": 8, "p": 512, "m": 512, "m0": 64, "m1": 8, "e": 64, "f": 64, "b": 1}
    design, _ = explore(zoo.load("attention_1pass"), "h200", shapes=shapes, fmt=BF16)
    (loop,) = design.evaluate().pipelines
    runs = {
        task.name: (task.array, at + task.stage * loop.interval_cycles)
        for task, at in zip(loop.tasks, loop.starts, strict=True)
    }
    assert runs["BQK"][0] == runs["SLNV"][0] == "tensor"
    assert runs["SLN"][0] == "sm"
    assert runs["BQK"][1] < runs["SLN"][1] < runs["SLNV"][1]
    work = dict(loop.array_cycles)
    assert loop.interval_cycles == pytest.approx(max(work.values()))  # the other one is hidden
    assert sum(work.values()) > 1.2 * loop.interval_cycles


BF16 = parse_format("bf16")

"""The event engine on tasks written by hand: order, ports, stalls, deadlock."""

import re

import pytest

from penstock.errors import MappingError
from penstock.sim.engine import schedule
from penstock.sim.tasks import Task, Trace


def task(number, unit, name, cycles=1.0, kind="compute", **more):
    return Task(number, kind, unit, name, cycles=cycles, **{"phase": 1, **more})


def rows(*tasks):
    timed = schedule(Trace(tasks, ()))
    return [
        (event.task.name, event.start, event.end, event.stall_cycles, event.cause)
        for event in timed.events
    ]


def test_an_array_takes_its_tasks_in_order_of_phase_epoch_stage_and_number():
    found = rows(
        task(0, "pe", "late phase", phase=2),
        task(1, "pe", "epoch 1, new", epoch=1),
        task(2, "pe", "epoch 1, old", epoch=1, stage=1),
        task(3, "pe", "epoch 0"),
    )
    assert [name for name, *_ in found] == ["epoch 0", "epoch 1, old", "epoch 1, new", "late phase"]


def test_a_phase_waits_until_all_results_of_the_one_before_are_out():
    found = rows(task(0, "a", "A", 3, latency=4), task(1, "b", "B", phase=2))
    assert found == [("A", 0, 3, 0, ""), ("B", 7, 8, 7, "drain")]


def test_the_cause_of_a_stall_is_what_came_last():
    found = rows(
        task(0, "dram", "K", 5, "load"),
        task(1, "a", "A", 9),
        task(2, "b", "B", needs=(0, 1)),
        task(3, "c", "C", needs=(0,)),
        task(4, "c", "D", frees=(1,)),
    )
    causes = {name: (start, stall, cause) for name, start, _, stall, cause in found}
    assert causes["B"] == (9, 9, "result of A")
    assert causes["C"] == (5, 5, "load of K")
    assert causes["D"] == (9, 3, "buffer full")


def test_a_port_makes_the_first_transfer_that_can_start():
    found = rows(
        task(0, "a", "A", 10),
        task(1, "dram", "out", 4, "store", needs=(0,)),
        task(2, "dram", "in", 6, "load"),
        task(3, "dram", "next", 6, "load"),
    )
    assert [(name, start, end) for name, start, end, *_ in found] == [
        ("A", 0, 10),
        ("in", 0, 6),
        ("next", 6, 12),
        ("out", 12, 16),
    ]


def test_streams_share_a_port_and_hold_the_array_up():
    tasks = (
        task(0, "a", "A", 4, ports=(("gb", 3.0),)),
        task(1, "b", "B", 4, ports=(("gb", 3.0),)),
    )
    timed = schedule(Trace(tasks, ()))
    spans = {
        (event.task.kind, event.task.name): (event.start, event.end, event.held)
        for event in timed.events
    }
    assert spans == {
        ("compute", "A"): (0, 4, ""),
        ("stream", "A"): (0, 3, ""),
        ("compute", "B"): (0, 6, "gb"),
        ("stream", "B"): (3, 6, ""),
    }


def test_a_transfer_passes_the_ports_of_both_memories():
    tasks = (
        task(0, "dram", "K", 2, "load", ports=(("gb", 8.0),)),
        task(1, "dram", "V", 2, "load", ports=(("gb", 8.0),)),
    )
    timed = schedule(Trace(tasks, ()))
    assert timed.cycles == 16


def test_nothing_takes_no_time():
    assert schedule(Trace((), ())).cycles == 0


@pytest.mark.parametrize(
    ("more", "reason", "fix"),
    [
        (
            {"needs": (1,)},
            "result of B",
            "give what makes a tensor a stage that is not after what reads it",
        ),
        (
            {"frees": (1,)},
            "buffer full",
            "keep the tensors between them with more buffers, as in 'keep T in MEM x2'",
        ),
    ],
)
def test_deadlock(more, reason, fix):
    tasks = (task(0, "pe2d", "A", **more), task(1, "pe1d", "B", needs=(0,)))
    message = (
        f"the design deadlocks: pe2d cannot start A: {reason}; pe1d cannot start B: result of A\n"
        f"fix: {fix}"
    )
    with pytest.raises(MappingError, match=f"^{re.escape(message)}$"):
        schedule(Trace(tasks, ()))

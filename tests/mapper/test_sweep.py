"""Sweeps: what is swept, the front, and that every way of running one gives the same result."""

import json
import multiprocessing
import os
import signal
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.shapes import bind
from penstock.errors import FileError, PenstockError, TargetError, ToolError, UnknownNameError
from penstock.mapper.search.explore import explore
from penstock.sweep import (
    Journal,
    Options,
    on_cluster,
    on_processes,
    plan,
    resized,
    serially,
    sweep,
)
from penstock.sweep.grid import axis, shape_axis, target_axis, value_text
from penstock.sweep.machines import area_um2, overrides
from penstock.sweep.pareto import front
from penstock.sweep.points import evaluate
from penstock.targets import TARGETS

CASCADE = parse("cascade tiny(A[m, k], B[k]) -> C[m]\n  C[m] = A[m, k] * B[k] :: sum[k]\n")
FUSEMAX = TARGETS.get("fusemax")


def machine():
    """Return mesh4x4 with areas, so that all three costs are compared."""
    mesh = TARGETS.get("mesh4x4")
    dram, *inner = mesh.memories
    return replace(
        mesh,
        memories=(dram, *(replace(each, area_um2=10.0) for each in inner)),
        arrays=tuple(replace(each, area_um2=100.0) for each in mesh.arrays),
    )


def tiny(count, objective="latency"):
    """Return a plan of so many points (a multiple of 40), each of a few milliseconds."""
    mesh = machine()
    axes = (
        axis("array", "1,2,4,8", mesh),
        axis("gb", "1KB,64KB", mesh),
        axis("bandwidth", f"100MB/s..{count // 40 * 100}MB/s step 100MB/s", mesh),
        shape_axis("k", "3..7 step 1"),
    )
    return plan(CASCADE, {"mesh": mesh}, axes, shapes={"m": 8}, options=Options("", objective))


def silent(text):
    raise AssertionError(text)


# -- what is swept ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "values"),
    [
        ("array", "64..512", [64, 128, 256, 512]),
        ("array", "3..20", [3, 6, 12]),
        ("array", "8..64 step 24", [8, 32, 56]),
        ("array", "1K,16,64..128,16", [1024, 16, 64, 128]),
        ("buffer", "1MB..4MiB", [2**20, 2**21, 2**22]),
        ("bandwidth", "100GB/s,1GiB/s", [100e9, 2**30]),
        ("clock", "500MHz..1GHz", [5e8, 1e9]),
        ("pe1d.depth_cycles", "1,4", [1, 4]),
        ("gb.read_pj_per_byte", "0.5..2", [0.5, 1, 2]),
    ],
)
def test_ranges(name, text, values):
    assert list(axis(name, text, FUSEMAX).values) == values


def test_values_are_shown_as_people_write_them():
    assert value_text("bytes", 16 * 2**20) == "16 MB"
    assert value_text("bytes", 1025) == "1,025 B"
    assert value_text("bytes", 1536) == "1,536 B"
    assert value_text("rate", 4e11) == "400 GB/s"
    assert value_text("hertz", 94e7) == "940 MHz"
    assert value_text("count", 65536) == "65,536"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "array",
            "x",
            "array=x is no value of array\nfix: write it as in 16..512, 8..64 step 8 or 8,12,16",
        ),
        (
            "clock",
            "1..4GHz",
            """clock=1..4GHz has a unit at its end only
fix: write the unit twice, as in 500MHz..2GHz""",
        ),
        (
            "array",
            "9..3",
            "array=9..3 is an empty range\nfix: write the smaller number first, above 0",
        ),
        (
            "array",
            "1..9 step 0",
            "array=1..9 step 0 does not end within 1,000,000 values\nfix: make the step larger",
        ),
    ],
)
def test_ranges_that_are_none(name, text, message):
    with pytest.raises(PenstockError) as error:
        axis(name, text, FUSEMAX)
    assert str(error.value) == message


def test_an_unknown_parameter_lists_what_there_is():
    with pytest.raises(UnknownNameError) as error:
        axis("bufer", "1", FUSEMAX, ["target", "m"])
    assert str(error.value) == (
        "unknown parameter of fusemax 'bufer' (known: array, bandwidth, buffer, clock, dram, "
        "dram.bandwidth, gb, gb.bandwidth, m, pe1d, pe2d, rf1d, rf1d.bandwidth, rf2d, "
        "rf2d.bandwidth, target)\nfix: did you mean 'buffer'?"
    )


def test_an_array_takes_with_it_what_is_tied_to_it():
    half = resized(FUSEMAX, [("array", 128)])
    sizes = [[axis.size for axis in array.axes] for array in half.arrays]
    assert sizes == [[128, 128], [128]]
    assert half.memory("rf2d").instances == 128 * 128
    assert half.memory("rf1d").instances == 128
    assert half.memory("gb") == FUSEMAX.memory("gb")
    alone = resized(FUSEMAX, [("pe1d", 1024)])
    assert alone.array("pe2d") == FUSEMAX.array("pe2d")
    assert resized(FUSEMAX, [("pe1d.lanes", 512), ("array", 64)]).array("pe1d").places == 512
    wide = resized(FUSEMAX.override("pe2d.cols", 512), [("array", 128)])
    assert [axis.size for axis in wide.array("pe2d").axes] == [128, 256]
    with pytest.raises(TargetError):
        resized(FUSEMAX.override("pe2d.cols", 257), [("array", 128)])


def test_area_follows_capacity_and_instances():
    whole = area_um2(FUSEMAX)
    parts = {each.name: each.area_um2 * each.instances for each in FUSEMAX.memories}
    arrays = {each.name: each.area_um2 * each.places for each in FUSEMAX.arrays}
    assert whole == pytest.approx(sum(parts.values()) + sum(arrays.values()), rel=1e-12)
    double = resized(FUSEMAX, [("buffer", 32 * 2**20)])
    assert area_um2(double) == pytest.approx(whole + parts["gb"])
    assert double.memory("gb").read_pj_per_byte == FUSEMAX.memory("gb").read_pj_per_byte
    half = resized(FUSEMAX, [("array", 128)])
    by_place = (arrays["pe2d"] + parts["rf2d"]) / 4 + (arrays["pe1d"] + parts["rf1d"]) / 2
    assert area_um2(half) == pytest.approx(parts["gb"] + by_place)
    assert area_um2(TARGETS.get("mesh4x4")) is None


def test_the_clock_leaves_the_bytes_per_second_of_dram():
    fast = resized(FUSEMAX, [("clock", 1.88e9)])
    assert fast.dram.bytes_per_cycle * 1.88e9 == pytest.approx(400 * 2**30)
    both = resized(FUSEMAX, [("bandwidth", 1e12), ("clock", 1e9)])
    assert both.dram.bytes_per_cycle == 1000


def test_parameters_that_contradict_each_other():
    with pytest.raises(PenstockError, match=r"^array would be 4, not 8: another swept parameter"):
        resized(FUSEMAX, [("array", 8), ("pe2d.rows", 4)])


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    name=st.sampled_from(["fusemax", "flat", "u280", "mesh4x4", "h200"]),
    data=st.data(),
    scale=st.integers(1, 8),
)
def test_a_point_is_reproduced_by_its_overrides(name, data, scale):
    target = TARGETS.get(name)
    values = [("clock", scale * 1e8), ("bandwidth", scale * 1e9)]
    values += [(target.memories[1].name, scale * 4096.0)]
    array = target.arrays[-1]
    values += [(array.name, scale * array.axes[0].size)] if data.draw(st.booleans()) else []
    got = target
    for path, value in overrides(target, data.draw(st.permutations(values))):
        got = got.override(path, value)
    assert got == resized(target, values)


# -- points ----------------------------------------------------------------------------------


def test_a_point_is_what_explore_finds():
    made = tiny(40, "edp")
    assert len(made.points) == len(made.tasks) == 40
    assert dict(made.points[0].values) == {"array": 1, "gb": 1024, "bandwidth": 1e8, "k": 3}
    assert dict(made.points[1].values)["k"] == 4
    for number in (0, 7, 39):
        point, task = made.points[number], made.tasks[number]
        target = resized(machine(), [each for each in point.values if each[0] != "k"])
        bound = bind(CASCADE, shapes={"m": 8, "k": int(dict(point.values)["k"])})
        found = explore(bound, target, parse_format(target.format), objective="edp")
        got = evaluate(task)
        assert got.latency_s == found.evaluation.latency_s
        assert got.energy_pj == found.evaluation.energy_pj
        assert got.mapping == str(found.mapping)
        assert point.area_um2 == area_um2(target)


def test_machines_without_what_a_cascade_needs_are_points_too():
    mesh = TARGETS.get("mesh4x4")
    poor = tuple(
        replace(each, cycles=tuple(pair for pair in each.cycles if pair[0] != "exp"))
        for each in mesh.arrays
    )
    machines = {"mesh4x4": mesh, "noexp": replace(mesh, name="noexp", arrays=poor)}
    cascade = parse("cascade e(A[m]) -> C[m]\n  C[m] = exp(A[m])\n")
    made = plan(cascade, machines, [target_axis("mesh4x4,noexp")], shapes={"m": 4})
    result = sweep(made, serially)
    assert [bool(each.failure) for each in result.outcomes] == [False, True]
    assert "exp" in result.outcomes[1].failure
    assert result.problems[0].front == (0,)
    assert result.problems[0].best == 0
    assert json.loads(json.dumps(result.to_json()))["points"][1]["front"] is False


def test_a_worker_of_another_version_refuses():
    task = replace(tiny(40).tasks[0], version="0.0.0")
    with pytest.raises(PenstockError, match=r"^a worker has penstock .*, the sweep needs 0\.0\.0"):
        evaluate(task)


def test_too_many_points():
    many = shape_axis("k", "1..2000 step 1")
    with pytest.raises(PenstockError, match=r"^the sweep has 4,000,000 points, more than 1,000,00"):
        plan(CASCADE, {"m": machine()}, [many, replace(many, name="m")])


# -- the front -------------------------------------------------------------------------------


@settings(max_examples=300)
@given(
    st.integers(1, 3).flatmap(
        lambda width: st.lists(
            st.tuples(*[st.sampled_from([0.0, 1.0, 2.0, 3.0, 5.0, float("inf")])] * width),
            max_size=30,
        )
    )
)
def test_the_front_is_what_nothing_dominates(costs):
    def dominates(one, other):
        return all(a <= b for a, b in zip(one, other, strict=True)) and one != other

    finite = [n for n, row in enumerate(costs) if float("inf") not in row]
    want = [n for n in finite if not any(dominates(costs[m], costs[n]) for m in finite)]
    assert list(front(costs)) == want


def test_each_problem_has_its_own_front():
    result = sweep(tiny(40), serially)
    assert [dict(each.shapes) for each in result.problems] == [
        {"k": k, "m": 8} for k in range(3, 8)
    ]
    for problem in result.problems:
        assert len(problem.points) == 8
        assert problem.compared == ("latency_s", "energy_pj", "area_um2")
        costs = [tuple(result.costs(number).values()) for number in problem.points]
        assert set(problem.front) == {problem.points[n] for n in front(costs)}
        assert result.objective(problem.best) == min(map(result.objective, problem.points))


# -- running ---------------------------------------------------------------------------------


def test_equal_points_are_evaluated_once():
    mesh = machine()
    axes = [axis("array", "2,4", mesh), axis("pe2d.rows", "2", mesh)]
    made = plan(CASCADE, {"mesh": mesh}, axes[1:], shapes={"m": 8, "k": 4})
    doubled = replace(made, points=made.points * 3, tasks=made.tasks * 3)
    result = sweep(doubled, serially)
    assert result.evaluated == 1
    assert result.finished == 3


def test_processes_give_what_this_process_gives():
    made, seen = tiny(80), []
    want = sweep(made, serially)
    got = sweep(made, on_processes(2), progress=lambda *each: seen.append(each))
    assert got.to_json() == want.to_json()
    assert got.outcomes == want.outcomes
    best = min(each.latency_s for each in want.outcomes)
    assert [done for done, _, _ in seen] == list(range(81))
    assert seen[-1] == (80, 80, best)


@pytest.mark.slow
def test_a_killed_process_loses_nothing():
    made, killed = tiny(240), []

    def kill(done, total, best):
        if done >= 100 and not killed:
            worker = multiprocessing.active_children()[0]
            killed.append(worker.pid)
            os.kill(worker.pid, signal.SIGKILL)

    got = sweep(made, on_processes(2), progress=kill)
    assert killed
    assert got.to_json() == sweep(made, serially).to_json()


@pytest.mark.slow
def test_processes_that_always_die_are_an_error(monkeypatch):
    monkeypatch.setattr("penstock.sweep.runners._leave_with_parent", partial(os._exit, 1))
    with pytest.raises(ToolError, match=r"^workers die at the same points: 4 times in a row"):
        sweep(tiny(40), on_processes(1))


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_gives_what_this_process_gives():
    distributed = pytest.importorskip("dask.distributed")
    made, killed = tiny(400), []
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as cluster:
        with distributed.Client(cluster, set_as_default=False) as client:
            pids = list(client.run(os.getpid).values())

        def kill(done, total, best):
            if done >= total // 2 and not killed:
                killed.append(pids[0])
                os.kill(pids[0], signal.SIGKILL)

        got = sweep(made, on_cluster(cluster.scheduler_address), progress=kill)
    assert killed
    assert got.complete
    assert got.to_json() == sweep(made, serially).to_json()


@pytest.mark.slow
def test_a_cluster_that_cannot_do_it_is_an_error(monkeypatch):
    distributed = pytest.importorskip("dask.distributed")
    monkeypatch.setattr("penstock.sweep.runners._evaluate_all", lambda batch: os._exit(1))
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as cluster:
        with pytest.raises(ToolError, match=r"^workers die at the same points: "):
            sweep(tiny(40), on_cluster(cluster.scheduler_address))
        monkeypatch.setattr("penstock.sweep.runners.__version__", "9.9")
        with pytest.raises(
            ToolError, match=r"of the cluster answers '.*', not penstock 9\.9\nfix: "
        ):
            sweep(tiny(40), on_cluster(cluster.scheduler_address))


def test_a_cluster_that_is_not_there():
    pytest.importorskip("dask.distributed")
    with pytest.raises(ToolError, match=r"^no Dask scheduler answers at nonsense:"):
        sweep(tiny(40), on_cluster("nonsense"))


def test_a_cluster_without_dask(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "dask.distributed", None)
    with pytest.raises(ToolError) as error:
        on_cluster("tcp://127.0.0.1:1")
    assert str(error.value) == (
        "a cluster needs dask[distributed], which is not installed\n"
        "fix: pip install 'penstock[cluster]'"
    )


# -- the journal -----------------------------------------------------------------------------


def counting(runner, counted):
    def run(tasks):
        for number, outcome in runner(tasks):
            counted.append(number)
            yield number, outcome

    return run


@pytest.mark.parametrize("stop", [1, 17, 79])
def test_a_resumed_sweep_repeats_nothing(tmp_path, stop):
    made, counted = tiny(80), []

    def interrupt(done, total, best):
        if done == stop:
            raise KeyboardInterrupt

    with Journal(tmp_path / "j", silent) as journal:
        part = sweep(made, counting(serially, counted), journal=journal, progress=interrupt)
    assert part.finished == part.evaluated == stop
    assert not part.complete
    assert len(part.to_json()["points"]) == stop
    with Journal(tmp_path / "j", silent) as journal:
        whole = sweep(made, counting(serially, counted), journal=journal)
    assert (whole.resumed, whole.evaluated) == (stop, 80 - stop)
    assert sorted(counted) == list(range(80))
    assert whole.to_json() == sweep(made, serially).to_json()
    with Journal(tmp_path / "j", silent) as journal:
        assert sweep(made, serially, journal=journal).evaluated == 0
        other = sweep(tiny(80, "energy"), serially, journal=journal)
    assert other.evaluated == 80


@given(cut=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_a_journal_that_is_cut_off_anywhere_keeps_its_whole_lines(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("journal") / "j"
    outcomes = {f"{n:032x}": evaluate(tiny(40).tasks[0]) for n in range(3)}
    with Journal(path, silent) as journal:
        for key, outcome in outcomes.items():
            journal.add(key, outcome)
    content = path.read_bytes()
    kept = content[: cut % (len(content) + 1)]
    path.write_bytes(kept)
    said = []
    with Journal(path, said.append) as journal:
        count = max(kept.count(b"\n") - 1, 0)
        assert journal.finished == dict(list(outcomes.items())[:count])
        journal.add("f" * 32, outcomes[f"{0:032x}"])
    cut_off = bool(kept) and not kept.endswith(b"\n")
    assert said == [f"the last line of {path} was cut off: its point is evaluated again"] * cut_off
    with Journal(path, silent) as journal:
        assert len(journal.finished) == count + 1


def test_other_files_are_no_journals_and_stay_as_they_are(tmp_path):
    for text in (
        '{"penstock": "sweep"}\n',
        "hello",
        "{",
        '{"penstock": "journal"}\n{"key": 3}\n3\n',
    ):
        (tmp_path / "j").write_text(text)
        if text == "{":  # may be the beginning of the first line
            Journal(tmp_path / "j", str).__exit__(None, None, None)
            continue
        with pytest.raises(FileError):
            Journal(tmp_path / "j", silent)
        assert (tmp_path / "j").read_text() == text
    with pytest.raises(FileError, match=r"^cannot keep the journal"):
        Journal(tmp_path, silent)

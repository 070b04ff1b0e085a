"""The trace that a viewer opens: all that was simulated is in it, on the right line."""

import itertools
import json

import pytest

from penstock import cli

COMMAND = "simulate attention --target mesh4x4 --shape h=1 p=8 m=8 e=4 f=4"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("trace") / "trace.json"
    assert cli.main([*COMMAND.split(), "--trace", str(path)]) == 0
    return json.loads(path.read_text())


def test_each_unit_is_a_thread_and_does_one_thing_at_a_time(written):
    threads = {
        each["tid"]: each["args"]["name"]
        for each in written["traceEvents"]
        if each["name"] == "thread_name"
    }
    assert set(threads.values()) == {"dram", "pe2d", "pe1d"}
    tasks = [each for each in written["traceEvents"] if each["ph"] == "X"]
    assert {each["name"] for each in tasks if threads[each["tid"]] == "pe1d"} == {"A"}
    for thread in threads:
        mine = sorted((e["ts"], e["ts"] + e["dur"]) for e in tasks if e["tid"] == thread)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(mine))
    assert max(each["args"]["ready"] for each in tasks) == written["otherData"]["cycles"]


def test_what_is_in_flight_comes_back_to_nothing(written):
    counters = [each for each in written["traceEvents"] if each["ph"] == "C"]
    assert max(max(each["args"].values()) for each in counters) >= 1
    assert min(min(each["args"].values()) for each in counters) >= -0
    assert set(counters[-1]["args"].values()) == {0}


@pytest.mark.parametrize(
    ("flags", "cause"),
    [
        (["--timing", "--inputs", "x.npz"], "--timing computes no values"),
        (["--full"], "--full goes with --timing"),
    ],
)
def test_flags_that_do_not_go_together(flags, cause, capsys):
    assert cli.main([*COMMAND.split(), *flags]) == 1
    assert cause in capsys.readouterr().err


def test_time_alone_is_that_of_the_run_with_values(tmp_path, capsys):
    args = [*COMMAND.split(), "--json"]
    found = []
    for flags in ([], ["--timing"], ["--timing", "--full"]):
        assert cli.main([*args, *flags]) == 0
        found.append(json.loads(capsys.readouterr().out)["metrics"])
    assert found[0] == found[1] == found[2]

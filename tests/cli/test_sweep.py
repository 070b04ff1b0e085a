"""``penstock explore --sweep``: tables, files, messages, Ctrl-C, a kill, and going on after it."""

import json
import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from penstock.cli import main
from tests.printed import shown_on

SMALL = ["explore", "matmul", "--target", "mesh4x4", "--shape", "m=8", "n=8"]
FEW = [*SMALL, "--sweep", "array=2..4", "gb=1KB,64KB", "k=4..8", "--jobs", "1"]
MANY = [*SMALL, "--sweep", "bandwidth=1MB/s..40MB/s", "step", "1MB/s", "k=4..7", "step", "1"]
"""160 points of several milliseconds each: time enough to be interrupted."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys, *argv):
    assert main(argv) == 1
    return capsys.readouterr().err


def test_the_table_fits_and_says_the_front(folder, capsys):
    assert main([*FEW[:-3], "k=8", "--jobs", "1"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    assert "4 points, 4 with a mapping, " in text
    assert "Pareto front over latency, energy" in text
    assert "best latency: array = 4, gb = 1 KB, k = 8" in text
    assert "\nmapping " in text


def test_json_file_and_report_say_the_same(folder, capsys):
    assert main([*FEW, "--json", "-o", "s.json", "--report", "r.html", "--objective", "edp"]) == 0
    printed = capsys.readouterr().out
    found = json.loads(printed)
    assert json.loads((folder / "s.json").read_text()) == found
    assert (
        json.loads((folder / "s.json").read_text())
        == json.loads((folder / "r.html").with_suffix(".json").read_text())["sweeps"][0]
    )
    assert [each["values"] for each in found["points"]][:2] == [
        {"array": 2, "gb": 1024, "k": 4},
        {"array": 2, "gb": 1024, "k": 8},
    ]
    assert found["complete"] is True
    assert sum(each["best"] for each in found["points"]) == 2
    page = (folder / "r.html").read_text()
    assert page.count('class="plot"') == 2
    assert "Pareto front" in page
    assert "Mappings of the front" in page
    assert not list(folder.glob("*.journal"))


FPGA = ["explore", "matmul", "--shape", "m=64", "n=64", "k=64", "--jobs", "1", "--target", "u280"]


@pytest.mark.parametrize("command", [FEW, [*FPGA, "--sweep", "clock=200MHz,300MHz"]])
def test_a_point_is_reproduced_by_its_set(folder, capsys, command):
    """On an FPGA, which a point builds in its best size, with that size."""
    assert main([*command, "--json"]) == 0
    for point in json.loads(capsys.readouterr().out)["points"]:
        shapes = [f"{name}={extent}" for name, extent in point["shapes"].items()]
        numbers = [f"{path}={value!r}" for path, value in point["set"].items()]
        assert ("pe2d.units" in point["set"]) == (point["target"] == "u280")
        again = ["explore", "matmul", "--target", point["target"], "--shape", *shapes]
        assert main([*again, "--set", *numbers, "--json"]) == 0
        metrics = json.loads(capsys.readouterr().out)["metrics"]
        latency = next(each["value"] for each in metrics if each["name"] == "latency_s")
        assert latency == point["latency_s"]


def test_machines_can_be_swept(folder, capsys):
    command = [
        "explore",
        "matmul",
        "--shape",
        "m=8",
        "n=8",
        "k=8",
        "--sweep",
        "target=mesh4x4,flat",
    ]
    assert main([*command, "--jobs", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["target"] for each in found["points"]] == ["mesh4x4", "flat"]
    assert found["compared"] == [["latency_s", "energy_pj"]]  # mesh4x4 has no areas


CASES = {
    "no values": ([*SMALL, "--sweep", "array"], "--sweep array is not NAME=VALUES"),
    "twice": ([*SMALL, "--sweep", "k=2", "k=4"], "--sweep has k twice\nfix: write k=8,16"),
    "two machines": (
        [*SMALL, "--sweep", "target=flat"],
        "--target and --sweep target= both name machines",
    ),
    "shape": ([*SMALL, "--sweep", "m=4"], "--shape and --sweep both give m\nfix: leave one"),
    "mapping": (
        [*SMALL, "--sweep", "k=4", "--mapping", "x"],
        "--mapping gives one mapping, --sweep searches many",
    ),
    "jobs": ([*SMALL, "--sweep", "k=4", "--jobs", "0"], "--jobs is 0"),
    "both": (
        [*SMALL, "--sweep", "k=4", "--jobs", "2", "--cluster", "tcp://x:1"],
        "--jobs and --cluster exclude each other",
    ),
    "one name": (
        [*SMALL, "--sweep", "k=4", "-o", "s.json", "--report", "s.html"],
        "--report s.html would write over s.json\nfix: give them different names",
    ),
    "no sweep": ([*SMALL, "--jobs", "2"], "--jobs goes with a sweep\nfix: add --sweep NAME=VALUES"),
    "missing shape": ([*SMALL, "--sweep", "array=2"], "rank variable 'k' of A[m, k] has no shape"),
    "unknown": (
        [*SMALL, "--sweep", "arrya=2"],
        """unknown parameter of mesh4x4 'arrya' (known: array, bandwidth, buffer, clock, dram, \
dram.bandwidth, gb, gb.bandwidth, k, m, n, pe1d, pe2d, rf1d, rf1d.bandwidth, rf2d, \
rf2d.bandwidth, target)
fix: did you mean 'array'?""",
    ),
}


def test_no_machine_is_usage(capsys):
    with pytest.raises(SystemExit) as error:
        main(["explore", "matmul", "--sweep", "array=2"])
    assert error.value.code == 2
    assert "explore needs --target T, or --sweep target=T,..." in capsys.readouterr().err


@pytest.mark.parametrize("case", CASES)
def test_bad_sweeps_say_what_to_do(case, folder, capsys):
    command, message = CASES[case]
    assert refused(capsys, *command).startswith(f"penstock: {message}")
    assert not list(folder.iterdir())


def test_a_journal_left_behind_is_not_overwritten(folder, capsys):
    (folder / "s.json.journal").write_text('{"penstock": "journal"}\n')
    assert refused(capsys, *FEW, "-o", "s.json") == (
        "penstock: s.json.journal is the journal of a sweep that was not finished\n"
        "fix: add --resume s.json.journal, or delete it\n"
    )
    assert main([*FEW, "-o", "s.json", "--resume", "s.json.journal"]) == 0
    assert "0 finished points in s.json.journal" in capsys.readouterr().err
    assert main([*FEW, "--resume", "own"]) == 0
    assert "own is new: nothing to resume" in capsys.readouterr().err
    assert len((folder / "own").read_text().splitlines()) == 9
    assert "not the journal of a sweep" in refused(capsys, *FEW, "--resume", "s.json")


def test_the_smallest_machine(folder, capsys):
    command = ["explore", "matmul", "--target", "fusemax", "--shape", "m=8", "n=8", "k=8"]
    sizes = ["--sweep", "gb=4MB,2MB,16MB", "--jobs", "1", "--json", "--objective", "area"]
    assert main([*command, *sizes]) == 0
    rows = json.loads(capsys.readouterr().out)["points"]
    assert [row["best"] for row in rows] == [False, True, False]
    assert rows[1]["area_um2"] == min(row["area_um2"] for row in rows)
    assert "mesh4x4 has no areas" in refused(capsys, *FEW, "--objective", "area")
    assert "all mappings to one machine have its area" in refused(
        capsys, *command, "--objective", "area"
    )


def started(*argv, **streams):
    return subprocess.Popen(
        [sys.executable, "-m", "penstock", *argv], start_new_session=True, text=True, **streams
    )


def lines_of(path, count, process):
    """Wait until a journal has so many finished points."""
    while not path.exists() or path.read_bytes().count(b"\n") <= count:
        assert process.poll() is None, "it ended before it could be interrupted"
        time.sleep(0.01)


def uninterrupted(folder):
    assert main([*MANY, "--jobs", "1", "-o", "whole.json"]) == 0
    return (folder / "whole.json").read_text()


def keys(path):
    return [json.loads(line)["key"] for line in path.read_text().splitlines()[1:]]


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_keeps_what_is_finished(folder, capsys, jobs):
    command = [*MANY, "--jobs", jobs, "-o", "s.json", "--report", "r.html"]
    process = started(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    lines_of(folder / "s.json.journal", 30, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: workers get it too
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.endswith("go on with --resume s.json.journal\npenstock: interrupted\n")
    part = json.loads((folder / "s.json").read_text())
    assert part["complete"] is False
    assert 30 <= len(part["points"]) < part["points_in_all"] == 160
    assert f"{len(part['points']):,} points, " in out
    assert "the sweep was interrupted" in (folder / "r.html").read_text()
    before = keys(folder / "s.json.journal")
    assert len(before) == len(part["points"])
    again = started(*command, "--resume", "s.json.journal", stderr=subprocess.PIPE)
    _, err = again.communicate(timeout=120)
    assert again.returncode == 0
    assert err == f"penstock: {len(before):,} finished points in s.json.journal\n"
    assert (folder / "s.json").read_text() == uninterrupted(folder)
    assert not (folder / "s.json.journal").exists()


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_repeats_nothing(folder, capsys):
    command = [*MANY, "--jobs", "2", "-o", "s.json", "--resume", "j"]
    process = started(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lines_of(folder / "j", 50, process)
    process.kill()
    process.wait()
    assert not (folder / "s.json").exists()
    before = keys(folder / "j")
    with (folder / "j").open("a") as journal:
        journal.write('{"key": "12')  # as if it had been killed while it wrote
    again = started(*command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, err = again.communicate(timeout=120)
    assert again.returncode == 0
    assert err.splitlines() == [
        "penstock: the last line of j was cut off: its point is evaluated again",
        f"penstock: {len(before):,} finished points in j",
    ]
    after = keys(folder / "j")
    assert after[: len(before)] == before
    assert len(set(after)) == len(after) == 160
    assert (folder / "s.json").read_text() == uninterrupted(folder)


@pytest.mark.slow
def test_the_bar_shows_rate_time_left_and_best(folder):
    terminal, slave = pty.openpty()
    command = [*SMALL, "--sweep", "bandwidth=1MB/s..80MB/s", "step", "1MB/s", "k=4", "--jobs", "1"]
    process = started(*command, stdout=subprocess.DEVNULL, stderr=slave)
    os.close(slave)
    text = shown_on(terminal)
    assert process.wait() == 0
    assert "80 points" in text
    assert "/s" in text
    assert "best " in text
    assert "0:00:0" in text


@pytest.mark.slow
def test_a_sweep_on_a_cluster(folder, capsys):
    distributed = pytest.importorskip("dask.distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as cluster:
        command = [*FEW[:-2], "--cluster", cluster.scheduler_address, "-o", "cluster.json"]
        assert main(command) == 0
    assert main([*FEW, "-o", "here.json"]) == 0
    assert (folder / "cluster.json").read_text() == (folder / "here.json").read_text()

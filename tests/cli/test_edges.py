"""The command line in odd places: no argument, typos, a pipe, 60 columns, no right to write."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import numpy as np
import pytest

from penstock.cli import main
from tests.printed import shown_on

COMMAND = [sys.executable, "-m", "penstock"]


def usage(capsys, *argv):
    with pytest.raises(SystemExit) as error:
        main(argv)
    assert error.value.code == 2
    return capsys.readouterr().err.splitlines()[-1].partition("error: ")[2]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["exlpore"],
            "argument COMMAND: invalid choice: 'exlpore'; did you mean 'explore' or 'report'?",
        ),
        (
            ["explore", "attention", "--target", "cpu", "--objective", "latancy"],
            "argument --objective: invalid choice: 'latancy'; did you mean 'latency'?",
        ),
        (
            ["show", "attention", "--shapes", "m=8"],
            "unrecognized arguments: --shapes m=8; did you mean '--shape' or '--cases'?",
        ),
        (
            ["show", "attention", "--qqq"],
            "unrecognized arguments: --qqq",
        ),
    ],
)
def test_a_typo(argv, message, capsys):
    assert usage(capsys, *argv) == message


def test_no_argument_shows_the_commands(capsys):
    assert main([]) == 2
    assert "find the best mapping of a cascade to a machine" in capsys.readouterr().out


def test_a_pipe_that_is_closed():
    line = f"set -o pipefail; '{sys.executable}' -m penstock targets fusemax | true"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_terminal_of_60_columns():
    terminal, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    process = subprocess.Popen([*COMMAND, "passes", "attention"], stdout=slave, env=environment)
    os.close(slave)
    shown = shown_on(terminal)
    assert process.wait() == 0
    lines = re.sub(r"\x1b\[[\d;]*m", "", shown).splitlines()  # without colours
    assert max(map(len, lines)) <= 60
    assert any("QK -> GM | SN -> SD" in line for line in lines)


def test_where_nobody_may_write(capsys):
    command = ["explore", "matmul", "--target", "mesh4x4", "--shape", "m=4", "n=4", "k=4"]
    assert main([*command, "-o", "/proc/none/design.json"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("penstock: cannot write /proc/none/design.json: ")
    assert err.endswith("fix: choose a place you may write to\n")


def test_verbose_says_how_long_it_took(capsys):
    assert main(["show", "attention", "-v"]) == 0
    out, err = capsys.readouterr()
    assert "s of CPU" not in out
    assert err.startswith("penstock: show: ")
    assert err.endswith(" s of CPU\n")


def test_one_backend_that_refuses_does_not_keep_the_others_from_running(capsys):
    small = ["--shape", "h=1", "p=2", "m=3", "e=2", "f=2"]
    command = ["verify", "attention", "--target", "mesh4x4", *small, "--backend", "tvm", "loops"]
    assert main(command) == 1
    found = capsys.readouterr()
    assert re.search(r"^ ok +loops ", found.out, re.MULTILINE)
    assert found.err.startswith("penstock: the TVM backends have no fixed<16,6>\n")


def test_extents_beyond_the_memory_of_this_machine(capsys):
    huge = [f"{name}=100000000000000" for name in "pm"]
    command = ["explore", "causal_attention", "--target", "mesh4x4"]
    assert main([*command, "--shape", "h=1", "e=2", "f=2", *huge]) == 1
    found = capsys.readouterr().err
    assert found.startswith("penstock: out of memory: Unable to allocate")
    assert found.endswith("fix: make the extents smaller\n")


def test_errors_name_the_file_of_a_machine(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text("[]")
    assert main(["explore", "attention", "--target", "mine.json"]) == 1
    assert capsys.readouterr().err.startswith("penstock: mine.json is no object\n")


def test_json_has_no_infinities_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez("in.npz", X=np.array([0.0, 2.0], np.float32))
    (tmp_path / "a.einsum").write_text("cascade a(X[n]) -> Y[n]\n  Y[n] = log(X[n])\n")
    assert main(["run", "a.einsum", "--inputs", "in.npz", "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert found["outputs"][0]["min"] == "-inf"

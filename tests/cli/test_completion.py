"""The shell is told what may come next: commands, options, names of cascades and machines."""

import os
import subprocess
import sys

import pytest

from penstock.cli import main


def offered(line, tmp_path):
    """What argcomplete writes for a line, as bash asks for it."""
    answer = tmp_path / "answer"
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
        "IFS": "\n",
    }
    code = "from penstock.cli import main; main()"
    subprocess.run([sys.executable, "-c", code], env=os.environ | asked, check=True, cwd=tmp_path)
    return {each.strip() for each in answer.read_text().replace("\x0b", "\n").splitlines()}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("penstock exp", {"explore"}),
        ("penstock explore attention --obj", {"--objective"}),
        ("penstock explore attention --target fuse", {"fusemax"}),
        ("penstock show sliding_w", {"sliding_window"}),
        ("penstock show attention --model deep", {"deepseek-v3"}),
        ("penstock zoo kv_r", {"kv_ring"}),
    ],
)
def test_what_is_offered(line, expected, tmp_path):
    assert offered(line, tmp_path) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_code(shell, capsys):
    assert main(["completion", shell]) == 0
    assert "penstock" in capsys.readouterr().out

"""The README tells the truth: its console blocks run and print what they show."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"
BLOCKS = re.findall(r"```(console|python)\n(.*?)```", README.read_text(), flags=re.DOTALL)


def commands(block):
    """Split a console block into (command, expected lines); ``...`` stands for lines left out."""
    found = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif found:
            found[-1][1].append(line)
    return found


CONSOLE = [each for kind, text in BLOCKS if kind == "console" for each in commands(text)]
PYTHON = [text for kind, text in BLOCKS if kind == "python"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files that the README shows."""
    made = tmp_path_factory.mktemp("readme")
    for command, shown in CONSOLE:
        if command.startswith("cat "):
            (made / command.removeprefix("cat ")).write_text("\n".join(shown) + "\n")
    return made


@pytest.mark.slow
@pytest.mark.parametrize(("command", "expected"), CONSOLE, ids=[each[0][:40] for each in CONSOLE])
def test_console(command, expected, folder):
    words = shlex.split(command)
    if words[0] == "make":
        pytest.skip("CI itself is this command, or a test of its own (tests/cli/test_cli.py)")
    if words[0] == "cat":
        assert (folder / words[1]).exists()
        return
    assert words[0] == "penstock"
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    printed = [line.rstrip() for line in done.stdout.splitlines()]
    for line in expected:
        if line.strip() not in {"", "..."}:
            assert line.rstrip() in printed, f"'{command}' no longer prints: {line}"


@pytest.mark.slow
@pytest.mark.parametrize("code", PYTHON)
def test_python(code, folder):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

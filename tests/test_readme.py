"""README and tutorial tell the truth: their console blocks run and print what they show."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = {name: (ROOT / name).read_text() for name in ("README.md", "docs/tutorial.md")}


def blocks(page, kind):
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGES[page], flags=re.DOTALL | re.MULTILINE)


def commands(block):
    """Split a console block into (command, expected lines); ``...`` stands for lines left out."""
    found = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif found:
            found[-1][1].append(line)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_console(page, tmp_path):
    """The commands of a page, in order, in one folder with the files that it shows."""
    for command, expected in [each for text in blocks(page, "console") for each in commands(text)]:
        words = shlex.split(command)
        if words[0] == "cat":
            (tmp_path / words[1]).write_text("\n".join(expected) + "\n")
        elif words[0] != "make":  # CI itself is `make test`; test_cli.py has a test of the demo
            check(command, words, expected, tmp_path)


def check(command, words, expected, folder):
    assert words[0] == "penstock"
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"$ {command}\n{done.stderr}"
    printed = [line.rstrip() for line in done.stdout.splitlines()]
    for line in expected:
        if line.strip() not in {"", "..."}:
            assert line.rstrip() in printed, f"'{command}' no longer prints: {line}"


@pytest.mark.slow
@pytest.mark.parametrize("code", blocks("README.md", "python"))
def test_python(code, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

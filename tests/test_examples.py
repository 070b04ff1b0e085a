"""Every example runs in a fresh interpreter and an empty folder, and prints what it shows.

What an example prints is in its last lines, after ``#: `` (`tools/examples.py` writes it there).
``...`` stands for what varies. Words must agree exactly, numbers nearly: searches and models get
better, but what an example shows must stay true.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parent.parent / "examples").glob("*.py"))
NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?(?![\w.]*\w)")
NEARLY = 0.2


def shown(path):
    return [line[3:] for line in path.read_text().splitlines() if line.startswith("#:")]


def same(expected, line):
    """Whether a printed line has the words of the expected one, and nearly its numbers."""
    words = re.escape(NUMBER.sub("#", expected)).replace(r"\.\.\.", ".*")
    if not re.fullmatch(words, NUMBER.sub("#", line)):
        return False
    pairs = zip(NUMBER.findall(expected), NUMBER.findall(line), strict="..." not in expected)
    numbers = [[float(each.replace(",", "")) for each in pair] for pair in pairs]
    return all(one == pytest.approx(other, rel=NEARLY, abs=1e-9) for one, other in numbers)


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path, tmp_path):
    done = subprocess.run(
        [sys.executable, str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed, expected = done.stdout.rstrip().splitlines(), shown(path)
    wrong = [
        (want, got)
        for want, got in zip(expected, printed, strict=True)
        if not same(want.strip(), got.strip())
    ]
    assert not wrong, f"{path.name} no longer prints what it shows (tools/examples.py mends it)"


@pytest.mark.parametrize(
    ("expected", "line", "agrees"),
    [
        ("took 10.5 ms", "took 10.9 ms", True),
        ("took 10.5 ms", "took 21 ms", False),
        ("took 10.5 ms", "takes 10.5 ms", False),
        ("12 of 1,000 in u280", "13 of 1,001 in u280", True),
        ("on u280", "on u250", False),
        ("took ... ms", "took 7 ms", True),
        ("latency: ok", "latency: FAILED", False),
    ],
)
def test_lines_that_agree(expected, line, agrees):
    assert same(expected, line) is agrees


def test_there_are_examples():
    assert len(EXAMPLES) >= 10
    assert all(shown(path) for path in EXAMPLES)

"""Every example and notebook runs by itself, in an empty folder, and prints what it shows.

What an example prints is in its last lines, after ``#: `` (`tools/examples.py` writes it there);
what a notebook prints is stored in it.
"""

import os
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

from tests.printed import differences, same

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def shown(path):
    return [line[3:] for line in path.read_text().splitlines() if line.startswith("#:")]


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
    wrong = differences(shown(path), done.stdout.rstrip().splitlines())
    assert not wrong, f"{path.name} no longer prints what it shows (tools/examples.py mends it)"


def printed(cell):
    return "".join(each.text for each in cell.outputs if each.output_type == "stream").splitlines()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those of the kernel are not ours
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path):
    stored, run = nbformat.read(path, 4), nbformat.read(path, 4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(run, timeout=120, resources=resources).execute()
    for was, now in zip(stored.cells, run.cells, strict=True):
        if was.cell_type == "code":
            assert was.outputs or was.source.startswith("import"), was.source
            assert {*map(kinds, was.outputs)} == {*map(kinds, now.outputs)}, was.source
            assert not differences(printed(was), printed(now)), was.source


def kinds(output):
    return frozenset(output.get("data", {"text": ""}))


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


def test_there_are_examples_and_notebooks():
    assert len(EXAMPLES) >= 10
    assert len(NOTEBOOKS) == 5
    assert all(shown(path) for path in EXAMPLES)

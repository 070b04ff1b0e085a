"""Every example runs in a fresh interpreter and an empty folder, and prints what it shows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parent.parent / "examples").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
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
    assert done.stdout.strip()
    expected = [line[3:] for line in path.read_text().splitlines() if line.startswith("#: ")]
    for line in expected:
        assert line.strip() in done.stdout, f"{path.name} no longer prints: {line}"


def test_there_are_examples():
    assert len(EXAMPLES) >= 3

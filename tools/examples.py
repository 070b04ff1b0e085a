"""Run the examples and write what they print into their last lines, after ``#: ``.

A line with ``...`` stays as it is where there is still one; what is too long is cut with ``...``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from itertools import zip_longest
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

FOLDER = Path(__file__).resolve().parent.parent / "examples"
WIDTH = 100


def shortened(line: str, before: str) -> str:
    if "..." in before:
        return before
    return line if len(line) <= WIDTH else line[: WIDTH - 3] + "..."


def main(names: list[str]) -> None:
    for path in sorted(FOLDER.glob("*.py")):
        if names and path.stem not in names:
            continue
        started = getrusage(RUSAGE_CHILDREN).ru_utime
        with tempfile.TemporaryDirectory() as folder:
            printed = subprocess.run(
                [sys.executable, str(path)],
                cwd=folder,
                env={**os.environ, "COLUMNS": "100"},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        lines = path.read_text().splitlines()
        code = [line for line in lines if not line.startswith("#:")]
        old = [line for line in lines if line.startswith("#:")]
        new = [f"#: {line}".rstrip() for line in printed.rstrip().splitlines()]
        shown = [shortened(a, b) for a, b in zip_longest(new, old[: len(new)], fillvalue="")]
        path.write_text("\n".join([*code, *shown]).rstrip() + "\n")
        seconds = getrusage(RUSAGE_CHILDREN).ru_utime - started
        print(f"{path.name}: {len(shown)} lines, {seconds:.1f} s of CPU")


if __name__ == "__main__":
    main(sys.argv[1:])

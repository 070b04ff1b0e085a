"""Use the installed wheel from a folder that is not the project: the stock files must be in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import penstock
from penstock import zoo
from penstock.targets import TARGETS

PENSTOCK = [sys.executable, "-m", "penstock"]


def run(*words: str) -> None:
    done = subprocess.run([*PENSTOCK, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"penstock {' '.join(words)} failed:\n{done.stderr}")


def main() -> None:
    assert Path.cwd() not in Path(penstock.__file__).parents
    assert "site-packages" in penstock.__file__, penstock.__file__
    for name in zoo.names():
        zoo.load(name)
    for name in TARGETS.names():
        TARGETS.get(name)
    shapes = [f"{rank}={extent}" for rank, extent in dict(h=1, p=8, m=8, e=4, f=4).items()]
    run("passes", "attention", "--json")
    run("explore", "attention", "--target", "mesh4x4", "--shape", *shapes, "-o", "design.json")
    run("report", "design.json", "-o", "report.html")
    run("generate", "attention", "--backend", "hls", "--shape", *shapes, "-o", "hls")
    run("verify", "design.json", "--backend", "loops", "hls")
    print(f"the wheel works: {penstock.__file__}")


if __name__ == "__main__":
    main()

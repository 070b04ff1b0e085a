"""Run what CI checks: lint, types, the documentation, the built wheel elsewhere, and the tests.

With ``--coverage`` the tests also print what they do not reach, and take longer.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


def run(title: str, *command: str | Path, cwd: Path = ROOT) -> None:
    print(f"== {title}: {' '.join(Path(str(each)).name for each in command)}", flush=True)
    done = subprocess.run([str(each) for each in command], cwd=cwd, check=False)
    if done.returncode:
        sys.exit(f"{title} failed with exit code {done.returncode}")


def wheel() -> None:
    """Build the wheel, install it into a venv of its own, and use it from another folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run("wheel", BIN / "python", "-m", "build", "--wheel", "--outdir", folder, ROOT)
        built = next(folder.glob("*.whl"))
        venv.create(folder / "venv", with_pip=True, system_site_packages=False)
        python = folder / "venv" / "bin" / "python"
        # The dependencies come from the venv that runs this, so that nothing is fetched twice.
        run("wheel", python, "-m", "pip", "install", "--quiet", "--no-deps", built)
        site = next((folder / "venv" / "lib").glob("python*/site-packages"))
        ours = next((BIN.parent / "lib").glob("python*/site-packages"))
        (site / "dependencies.pth").write_text(f"{ours}\n")
        (folder / "elsewhere").mkdir()
        run("wheel", python, ROOT / "tools" / "wheel_smoke.py", cwd=folder / "elsewhere")


def main() -> None:
    folders = ("penstock", "tests", "examples", "benchmarks", "tools")
    run("lint", BIN / "ruff", "check", *folders)
    run("format", BIN / "ruff", "format", "--check", *folders)
    run("types", BIN / "mypy")
    run("docs", BIN / "mkdocs", "build", "--strict", "--quiet")
    wheel()
    workers = str(os.cpu_count() or 1)
    coverage = "--coverage" in sys.argv[1:]
    run(
        "tests",
        BIN / "python",
        *("-m", "pytest", "-n", workers, "--dist", "worksteal", "--durations=15"),
        *(("--cov=penstock", "--cov-report=term:skip-covered") if coverage else ()),
    )


if __name__ == "__main__":
    main()

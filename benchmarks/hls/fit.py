"""Explored designs on five boards: what their projects take, by the projects' own count.

    python benchmarks/hls/fit.py [BOARD ...]

Prints a table for docs/hls.md; exits with 1 if a project does not fit.
"""

import sys
import time

from penstock import zoo
from penstock.codegen.hls.generate import tasks_of
from penstock.codegen.hls.pragmas import HlsNotes
from penstock.codegen.hls.resources import NAMES, exceeded, kernel_constructs, uses
from penstock.design import explore

BOARDS = ("u280", "zcu102", "zcu104", "kv260", "pynq_z2")
HEADS = {"h": 8, "e": 64, "f": 64}
CASES = {
    "attention": HEADS | {"p": 128, "m": 128},
    "gqa_causal_1pass": HEADS | {"g": 2, "p": 128, "m": 128, "m0": 32},
    "flash_decoding": HEADS | {"b": 1, "g": 8, "m": 1024, "u": 64, "i": 16},
}


def row(board: str, name: str) -> bool:
    """Print a row; return whether the project fits."""
    began = time.perf_counter()
    made, _ = explore(zoo.load(name), board, shapes=CASES[name])
    seconds = time.perf_counter() - began
    tasks = tasks_of(made.program())
    used = uses(kernel_constructs(tasks, HlsNotes.of(tasks, made.target.clock_hz)))
    has = dict(made.target.resources)
    shares = (
        f"{100 * n / has[part]:.0f} %" if has[part] else "-"
        for part, n in zip(NAMES, used[-1].counts, strict=True)
    )
    cells = (
        board,
        name,
        str(made.format),
        f"{made.evaluate().latency_cycles:,.0f}",
        *shares,
        f"{seconds:.1f}",
    )
    print(f"| {' | '.join(cells)} |", flush=True)
    return not exceeded(used, has)


def main() -> None:
    print(f"| board | cascade | format | cycles | {' | '.join(NAMES)} | search, s |")
    print("|---|---|---|--:|" + "--:|" * (len(NAMES) + 1))
    fits = [row(board, name) for board in sys.argv[1:] or BOARDS for name in CASES]
    sys.exit(not all(fits))


if __name__ == "__main__":
    main()

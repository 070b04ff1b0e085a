"""How long the rewrite takes, and what it saves: ``python benchmarks/rewrite.py``.

Every cascade of tests/rewrite/corpus, and stock attention. Process time of one run each, after one
warm-up; the machine and its load are the reader's.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "rewrite"))

from corpus import cases

from penstock import zoo
from penstock.einsum_ir.rewrite.reduce import reduce_passes


def timed(cascade, rank: str):
    start = time.process_time()
    found = reduce_passes(cascade, rank)
    return time.process_time() - start, found


def main() -> None:
    named = [(each.name, each.cascade, each.rank) for each in cases()]
    named += [(name, zoo.load(name), "m") for name in ("attention", "causal_attention")]
    timed(zoo.load("attention"), "m")
    total = 0.0
    for name, cascade, rank in named:
        seconds, found = timed(cascade, rank)
        total += seconds
        print(f"{seconds:7.3f} s  {found.before} -> {found.after}  {name}")
    print(f"{total:7.3f} s  in all")


if __name__ == "__main__":
    main()

"""The search against FuseMax's +binding: ``python benchmarks/mapper/search.py [LENGTH ...]``.

Given are the machine and FuseMax's 3-pass cascade; `penstock.reproduce.found` says what the
variants are and what +binding is (``penstock reproduce fusemax`` shows the same in its report).
Latencies are the model's, for 64 sequences; seconds are wall time, and time of the one process, of
a search from text to mapping, derivation included; the machine and its load are the reader's.
"""

import sys

from penstock.reproduce.found import beside
from penstock.reproduce.fusemax import LENGTHS, MODELS


def main() -> None:
    head = f"{'case':<14}{'found':>20}{'+binding':>20}{'faster':>8}{'s':>7}{'own s':>7}"
    print(f"{head}  cascade, covered")
    slowest = 0.0
    for model in MODELS:
        for length in sys.argv[1:] or LENGTHS:
            (each,) = beside((length,), (model.name,))
            slowest = max(slowest, each.own_s)
            ours, bar = each.found.evaluation.latency_cycles, each.published.latency_cycles
            print(
                f"{each.model:<5}{length:>9}{ours:>20,.0f}{bar:>20,.0f}{each.faster - 1:>8.1%}"
                f"{each.seconds:>7.2f}{each.own_s:>7.2f}  {each.form}, "
                f"{each.found.points:.3g} mappings, "
                f"{'optimal' if each.found.optimal else 'not all'}",
                flush=True,
            )
    print(f"slowest: {slowest:.2f} s of its own")


if __name__ == "__main__":
    main()

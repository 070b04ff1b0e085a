"""The search against FuseMax's +binding: ``python benchmarks/mapper/search.py [LENGTH ...]``.

Given are the machine and FuseMax's 3-pass cascade (its Cascade 4, Q scaled in advance as there);
the variants are what penstock derives from it (`reduce_passes`, with every size of m0) and the
stock form with the division deferred. +binding is the published mapping of the 1-pass cascade with
m0 = 256. Latencies are the model's, for 64 sequences; seconds are wall time, and time of the one
process, of a search from text to mapping, derivation included; the machine and its load are the
reader's.
"""

import sys
import time

from penstock import parse, zoo
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.rewrite.reduce import reduce_passes
from penstock.einsum_ir.shapes import bind
from penstock.mapper.mappings import load_mapping
from penstock.mapper.model import evaluate
from penstock.mapper.search import explore_variants
from penstock.mapper.variants import bind_variants
from penstock.targets import TARGETS

HEADS = {"BERT": (12, 64), "TrXL": (16, 64), "T5": (8, 64), "XLM": (16, 128)}
LENGTHS = (1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20)
BATCH = 64
FP16, FUSEMAX = parse_format("fp16"), TARGETS.get("fusemax")
THREE_PASS = """
cascade attention(Q[h, p, e], K[h, m, e], V[h, m, f]) -> O[h, p, f]
  QK[h, p, m] = Q[h, p, e] * K[h, m, e]  :: sum[e]
  GM[h, p]    = QK[h, p, m]              :: max[m]
  SN[h, p, m] = exp(QK[h, p, m] - GM[h, p])
  SD[h, p]    = SN[h, p, m]              :: sum[m]
  A[h, p, m]  = SN[h, p, m] / SD[h, p]
  O[h, p, f]  = A[h, p, m] * V[h, m, f]  :: sum[m]
"""
DEFERRED = """
cascade deferred(Q[h, p, e], K[h, m, e], V[h, m, f]) -> O[h, p, f]
  QK[h, p, m]  = Q[h, p, e] * K[h, m, e]   :: sum[e]
  GM[h, p]     = QK[h, p, m]               :: max[m]
  SN[h, p, m]  = exp(QK[h, p, m] - GM[h, p])
  SD[h, p]     = SN[h, p, m]               :: sum[m]
  SNV[h, p, f] = SN[h, p, m] * V[h, m, f]  :: sum[m]
  O[h, p, f]   = SNV[h, p, f] / SD[h, p]
"""


def found_for(heads, length, size):
    """Return the best mapping of all variants, and the seconds, wall and own, that it took."""
    started, worked = time.perf_counter(), time.process_time()
    cascade = parse(THREE_PASS)
    plan = reduce_passes(cascade, "m")
    cascades = [cascade, parse(DEFERRED), plan.cascade]
    shapes = {"h": BATCH * heads, "p": length, "m": length, "e": size, "f": size}
    result = explore_variants(bind_variants(cascades, FUSEMAX, shapes=shapes), FUSEMAX, FP16)
    return result, time.perf_counter() - started, time.process_time() - worked


def published(heads, length, size):
    """Return the model's latency of +binding, in cycles."""
    shapes = {"b": BATCH, "h": heads, "p": length, "m": length, "e": size, "f": size, "m0": 256}
    bound = bind(zoo.load("attention_1pass"), shapes=shapes)
    return evaluate(load_mapping("fusemax_binding"), bound, FUSEMAX, FP16).latency_cycles


def main() -> None:
    lengths = [int(each) for each in sys.argv[1:]] or LENGTHS
    head = f"{'case':<14}{'found':>20}{'+binding':>20}{'faster':>8}{'s':>7}{'own s':>7}"
    print(f"{head}  variant, covered")
    slowest = 0.0
    for model, (heads, size) in HEADS.items():
        for length in lengths:
            result, seconds, own = found_for(heads, length, size)
            slowest = max(slowest, own)
            found, bar = result.evaluation.latency_cycles, published(heads, length, size)
            extents = result.bound.extents
            form = f"m0={extents['m0']}" if "m0" in extents else result.bound.cascade.name
            print(
                f"{model:<5}{length:>9,}{found:>20,.0f}{bar:>20,.0f}{bar / found - 1:>8.1%}"
                f"{seconds:>7.2f}{own:>7.2f}  {form}, {result.points:.3g} mappings, "
                f"{'optimal' if result.optimal else 'not all'}",
                flush=True,
            )
    print(f"slowest: {slowest:.2f} s of its own")


if __name__ == "__main__":
    main()

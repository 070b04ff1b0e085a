"""Radial attention of a video on an H200: what its mask leaves, and what streaming it saves."""

import penstock
from penstock.design import resized
from penstock.einsum_ir.rewrite.plan import PassPlan
from penstock.einsum_ir.shapes import bind
from penstock.einsum_ir.work import effective_points, points
from penstock.metrics import quantity

radial = penstock.zoo.load("radial").with_constants(BLK=8)  # windows of 8 tokens at least
video = {"h": 24, "i": 4, "j": 4, "s": 64, "n": 64, "e": 64, "f": 64}
bound = bind(radial, shapes=video)
kept = effective_points(bound)["QK"] / points(bound, radial.einsum("QK"))
print(f"4 frames of 64 tokens, 24 heads: {kept:.0%} of the scores are needed")

plan = penstock.reduce_passes(radial, "n", size=16)  # the form that streams, derived
assert isinstance(plan, PassPlan), plan
for title, cascade in (("as written", radial), ("streaming", plan.cascade)):
    passes = penstock.count_passes(cascade, "K", "n")
    design, _ = penstock.explore(cascade, "h200", shapes=video)
    made = design.evaluate()
    time, moved = quantity(made.latency_s, "s"), quantity(made.dram_bytes, "B")
    print(f"{title}: {passes} passes over the keys, {time}, {moved} of HBM (model)")

# The same mapping on a smaller video: its loops against what the cascade means.
small = resized(design, {"h": 2, "i": 2, "j": 2, "s": 12, "n": 12, "e": 4, "f": 4, "n0": 4})
print("its loops agree with the interpreter:", penstock.verify(small, "loops").verdict)
#: 4 frames of 64 tokens, 24 heads: 86% of the scores are needed
#: as written: 3 passes over the keys, 3.054 µs, 3.146 MB of HBM (model)
#: streaming: 1 passes over the keys, 1.832 µs, 3.146 MB of HBM (model)
#: its loops agree with the interpreter: ok

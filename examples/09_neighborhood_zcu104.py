"""Neighbourhood attention of an image on a ZCU104: two word lengths, and the C simulation."""

import penstock
from penstock.design import choices, resized
from penstock.einsum_ir.formats import parse_format
from penstock.metrics import quantity

cascade = penstock.zoo.load("neighborhood_2d")  # 7 x 7 pixels around each, shifted at the borders
shapes = {"h": 2, "y": 14, "x": 14, "e": 32, "f": 32, "r": 13, "c": 13}
print("format         latency     DSP     LUT    (model; 2 heads, 14 x 14 pixels)")
for name in ("fixed<12,5>", "fixed<16,6>"):
    design, _ = penstock.explore(cascade, "zcu104", shapes=shapes, fmt=parse_format(name))
    parts = {each.name: each.value for each in choices(design)}
    time = quantity(design.evaluate().latency_s, "s")
    print(f"{name:12} {time:>9} {parts['DSP']:7,.0f} {parts['LUT']:7,.0f}")

small = resized(design, {"h": 1, "y": 7, "x": 9, "e": 4, "f": 4, "r": 13, "c": 13})
print("C simulation of 7 x 9 pixels, bit for bit:", penstock.verify(small, "hls").verdict)
#: format         latency     DSP     LUT    (model; 2 heads, 14 x 14 pixels)
#: fixed<12,5>   13.72 µs   1,512  20,930
#: fixed<16,6>   13.72 µs   1,680  40,082
#: C simulation of 7 x 9 pixels, bit for bit: ok

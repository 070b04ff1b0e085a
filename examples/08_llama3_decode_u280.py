"""One token of Llama-3-8B on an Alveo U280 with 8,192 keys in HBM: time, what limits it, code."""

import penstock
from penstock.design import bounds, choices, resized
from penstock.metrics import quantity
from penstock.zoo import models

cascade = penstock.zoo.load("gqa_causal_1pass")  # a running maximum: the keys are read once
llama = models.get("llama3-8b")
shapes = {**llama.shapes(cascade), "p": 1, "m": 8192, "m0": 256}
design, _ = penstock.explore(cascade, "u280", shapes=shapes)
print(f"{llama.name}: {llama.heads} heads, {llama.kv_heads} of keys, in {design.format}")

made = design.evaluate()
bound = next(each.value for each in bounds(design) if each.name == "latency_s")
print(
    f"one layer: {quantity(made.latency_s, 's')} (model), at least {quantity(bound, 's')} (bound)"
)
print(f"HBM moves {quantity(made.dram_bytes, 'B')}, limited by: {made.binding}")
for metric in choices(design):
    if metric.unit.startswith("of ") and metric.name.isupper():
        print(f"  {metric.name:5}{metric.value:9,.0f} {metric.unit}")

# The same mapping on a small problem: HLS C++, compiled with g++ and compared bit for bit.
small = resized(design, {"h": 4, "g": 1, "m": 64, "e": 16, "f": 16, "m0": 16})
print("HLS C++ of a small one, bit for bit:", penstock.verify(small, "hls").verdict)
#: llama3-8b: 32 heads, 8 of keys, in fixed<16,6>
#: one layer: 76.27 µs (model), at least 72.98 µs (bound)
#: HBM moves 33.57 MB, limited by: schedule
#:   LUT    173,705 of 1,303,680
#:   FF     576,536 of 2,607,360
#:   DSP      9,006 of 9,024
#:   BRAM        64 of 2,016
#:   URAM       768 of 960
#: HLS C++ of a small one, bit for bit: ok

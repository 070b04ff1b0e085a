"""A full study: BERT on FuseMax as published, as searched, and against a clock, in one report."""

import penstock
from penstock.design import page, remap, resized, sample, verify_simulation
from penstock.einsum_ir.formats import parse_format
from penstock.mapper.mappings import load_mapping
from penstock.report import save_report

cascade = penstock.zoo.load("attention_1pass")
shapes = {"b": 64, "h": 12, "p": 1024, "m": 1024, "e": 64, "f": 64, "m0": 256}
published = remap(cascade, "fusemax", shapes=shapes, mapping=load_mapping("fusemax_binding"))
searched, search = penstock.explore(cascade, "fusemax", shapes=shapes)

print("FuseMax, MICRO 2024, BERT 1K: 2.013 ms (published)")
for title, design in (("its +binding", published), ("the search", searched)):
    made = design.evaluate()
    busy = made.utilisation()
    used = ", ".join(f"{name} {share:.1%}" for name, share in busy.items())
    print(f"{title:14} {made.latency_s * 1e3:.3f} ms, used: {used} (model)")

# One batch and head against a clock: fill, drain, waits and bandwidth in phases.
one = resized(published, {"b": 1, "h": 1})
timed = penstock.simulate(one, {}, timing=True)
ratio = timed.cycles / one.evaluate().latency_cycles
print(f"+binding of one head: {timed.cycles:,.0f} cycles simulated, {ratio:.1f} x the model")

# Values and timeline: the same cascade, small, in fixed point.
tiny = {"b": 1, "h": 1, "p": 16, "m": 16, "e": 8, "f": 8, "m0": 4}
small, _ = penstock.explore(cascade, "mesh4x4", shapes=tiny, fmt=parse_format("fixed<16,6>"))
inputs = sample(small)
simulation = penstock.simulate(small, inputs)
check = verify_simulation(small, simulation, inputs)
print(f"a small one, simulated with values, bit for bit: {check.verdict}")

pages = [
    page(searched, search=search, checks=(check,), simulated=(small, simulation)),
    page(published),
]
for path in save_report(pages, "bert_on_fusemax.html", "python examples/13_bert_on_fusemax.py"):
    print(path)
#: FuseMax, MICRO 2024, BERT 1K: 2.013 ms (published)
#: its +binding   2.013 ms, used: pe2d 89.0%, pe1d 100.0% (model)
#: the search     2.013 ms, used: pe2d 89.1%, pe1d 58.4% (model)
#: +binding of one head: 10,628 cycles simulated, 4.3 x the model
#: a small one, simulated with values, bit for bit: ok
#: bert_on_fusemax.html
#: bert_on_fusemax.json
#: bert_on_fusemax.txt

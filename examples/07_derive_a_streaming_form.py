"""Derive one-pass attention from the three-pass cascade, check it, and see what it costs."""

import numpy as np

import penstock
from penstock.einsum_ir.rewrite.plan import PassPlan

written = penstock.zoo.load("causal_attention")
plan = penstock.reduce_passes(written, "m", size=16)
assert isinstance(plan, PassPlan), plan  # else a refusal, which says why
assert plan.tree is not None
print(f"{plan.before} passes -> {plan.after}")
for kept in plan.accumulators:
    print(f"{kept.name}: {kept.carried}, two parts: {kept.merge}")

generator = np.random.default_rng(0)
inputs = {name: generator.standard_normal((2, 100, 8)) * 30 for name in "QKV"}
meaning = penstock.run(written, inputs)["O"]
print("stream agrees:", np.allclose(penstock.run(plan.cascade, inputs)["O"], meaning))
print("parts agree:", np.allclose(penstock.run(plan.tree, inputs)["O"], meaning))
kernel = penstock.run(plan.cascade, inputs, backend="tvm")["O"]
print("TVM kernel agrees:", np.allclose(kernel, meaning))

shapes = {"h": 2, "p": 256, "m": 256, "e": 64, "f": 64, "m0": 64}
design, _ = penstock.explore(plan.cascade, "fusemax", shapes=shapes)
print(f"on fusemax: {design.evaluate().metrics()[0].value:,.0f} cycles")

#: 3 passes -> 1
#: GM: GM, two parts: max(GM_A, GM_B)
#: SD: SD * exp(u1' - u1), two parts: SD_A * exp(u1_A - u1) + SD_B * exp(u1_B - u1)
#: O: O * exp(u1' - u1), two parts: O_A * exp(u1_A - u1) + O_B * exp(u1_B - u1)
#: stream agrees: True
#: parts agree: True
#: TVM kernel agrees: True
#: on fusemax: 1,230 cycles

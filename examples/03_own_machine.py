"""Change a machine and see what it does: smaller arrays, smaller buffer."""

import penstock
from penstock.targets import TARGETS

cascade = penstock.zoo.load("attention_1pass")
shapes = {"b": 1, "h": 16, "p": 4096, "m": 4096, "e": 64, "f": 64}

fusemax = TARGETS.get("fusemax")
for side in (64, 128, 256):
    machine = (
        fusemax.override("pe2d.rows", side)
        .override("pe2d.cols", side)
        .override("pe1d.lanes", side)
        .override("gb.capacity_bytes", 4 * 2**20)
    )
    design, _ = penstock.explore(cascade, machine, shapes={**shapes, "m0": side})
    metrics = {metric.name: metric.value for metric in design.evaluate().metrics()}
    print(f"{side:4} x {side:<4} {metrics['latency'] / 1e6:9.2f} million cycles")

#:   64 x 64        9.11 million cycles
#:  128 x 128       2.29 million cycles
#:  256 x 256       0.58 million cycles

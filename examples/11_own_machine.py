"""A machine of one's own, with its own energy table: fast or frugal, and where the energy goes."""

import penstock
from penstock.targets.base import Array, Axis, Memory, Target

# All numbers are made up, as for a first estimate; a real machine names the source of each.
CYCLES = {"mac": 1, "*": 1, "+": 1, "-": 1, "max": 1, "exp": 4, "/": 8, "<=": 1}
PICOJOULES = {"mac": 0.4, "*": 0.3, "+": 0.1, "-": 0.1, "max": 0.1, "exp": 1.9, "/": 3.0, "<=": 0.1}
vector = Array(
    "vector", (Axis("lanes", 64, "pe", reduces=True),),
    tuple(CYCLES.items()), tuple(PICOJOULES.items()),
)  # fmt: skip
matrix = Array(
    "matrix", (Axis("rows", 32, "pe", reduces=True), Axis("cols", 32, "pe")),
    (("mac", 1), ("*", 1), ("+", 1)), (("mac", 0.25), ("*", 0.2), ("+", 0.05)),
)  # fmt: skip
brook = Target(
    name="brook", family="spatial", clock_hz=800e6, format="fp16", source="made up",
    memories=(
        Memory("dram", float("inf"), 32, read_pj_per_byte=25, write_pj_per_byte=25),
        Memory("sram", 512 * 2**10, 256, read_pj_per_byte=0.8, write_pj_per_byte=0.9),
    ),
    arrays=(matrix, vector),
)  # fmt: skip

cascade = penstock.zoo.load("attention_1pass")
shapes = {"b": 1, "h": 8, "p": 512, "m": 512, "e": 64, "f": 64, "m0": 64}
for objective in ("latency", "energy"):
    design, _ = penstock.explore(cascade, brook, shapes=shapes, objective=objective)
    made = design.evaluate()
    best = {"latency": f"{made.latency_s * 1e3:.3f} ms", "energy": f"{made.energy_pj / 1e9:.3f} mJ"}
    print(f"best {objective}: {best[objective]} (model)")
    for component, spent in sorted(made.energy_by_component().items(), key=lambda each: -each[1]):
        print(f"  {component:8}{spent / made.energy_pj:7.1%}")
#: best latency: 0.389 ms (model)
#:   dram      64.8%
#:   matrix    17.6%
#:   sram      16.1%
#:   vector     1.5%
#: best energy: 0.194 mJ (model)
#:   sram      35.5%
#:   matrix    34.8%
#:   dram      27.0%
#:   vector     2.7%

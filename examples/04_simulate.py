"""Simulate a small design cycle by cycle: the values agree, and the stalls have names."""

import penstock
from penstock.design import sample, verify_simulation
from penstock.einsum_ir.formats import parse_format

shapes = {"b": 1, "h": 1, "p": 16, "m": 16, "e": 8, "f": 8, "m0": 4}
cascade = penstock.zoo.load("attention_1pass")
design, _ = penstock.explore(cascade, "mesh4x4", shapes=shapes, fmt=parse_format("fixed<16,6>"))

inputs = sample(design)
simulation = penstock.simulate(design, inputs)
modelled = design.evaluate().metrics()[0].value
print(f"model {modelled:,.0f} cycles, simulation {simulation.cycles:,.0f} cycles")
for unit in simulation.units:
    stalls = ", ".join(f"{cause} {cycles:,.0f}" for cause, cycles in sorted(unit.stalls.items()))
    print(f"{unit.unit:8} busy {unit.busy_cycles:,.0f}; stalls: {stalls or 'none'}")
check = verify_simulation(design, simulation, inputs)
print("values, bit for bit:", check.verdict)

#: values, bit for bit: ok

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
    cause = max(unit.stalls, key=lambda each: unit.stalls[each], default="nothing")
    print(f"{unit.unit:8} busy {unit.busy_cycles:,.0f}; waits most for: {cause}")
check = verify_simulation(design, simulation, inputs)
print("values, bit for bit:", check.verdict)

#: model 544 cycles, simulation 1,028 cycles
#: dram     busy 64; waits most for: no request
#: pe2d     busy 416; waits most for: result of BQK
#: pe1d     busy 528; waits most for: result of RM
#: values, bit for bit: ok

"""Formats of single tensors outside the interpreter: model, bounds, simulator, generators."""

import json
from dataclasses import replace

import numpy as np
import pytest

from penstock import zoo
from penstock.codegen.backends import BACKENDS
from penstock.design import Design, explore, remap, run
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.shapes import bind
from penstock.einsum_ir.work import compulsory_bytes
from penstock.errors import DataError
from penstock.mapper.model.evaluate import evaluate
from penstock.mapper.model.roofline import roofline
from penstock.mapper.search.build import default_mapping
from penstock.samples import random_inputs
from penstock.sim.simulate import simulate
from penstock.targets import TARGETS

SHAPES = {"h": 2, "p": 32, "m": 64, "e": 16, "f": 16}
FP16 = parse_format("fp16")
PLAIN = zoo.load("attention")
OWN = replace(PLAIN, formats=(("K", "int8"), ("V", "int4"), ("O", "fp32")))
BYTES = {"K": 1.0, "V": 0.5, "O": 4.0}
MACHINE = TARGETS.get("fusemax")


def sizes(cascade):
    dims = bind(cascade, shapes=SHAPES).dims
    return {name: int(np.prod(dims[name])) for name in dims}


def evaluated(cascade):
    """Model the default mapping of the plain cascade."""
    mapping = default_mapping(bind(PLAIN, shapes=SHAPES), MACHINE, FP16)
    return evaluate(mapping, bind(cascade, shapes=SHAPES), MACHINE, FP16)


def test_compulsory_bytes_are_those_of_each_tensor():
    count = sizes(PLAIN)
    plain = 2 * sum(count[name] for name in "QKVO")
    assert compulsory_bytes(bind(PLAIN, shapes=SHAPES), FP16) == plain
    want = 2 * count["Q"] + 1 * count["K"] + 0.5 * count["V"] + 4 * count["O"]
    assert compulsory_bytes(bind(OWN, shapes=SHAPES), FP16) == want


def test_the_model_counts_each_tensor_in_its_own_bits():
    plain, own = evaluated(PLAIN), evaluated(OWN)
    assert own.traffic == plain.traffic  # in elements
    assert own.leaves == plain.leaves
    for memory in plain.memory_cycles:
        rows = [row for row in plain.traffic if row.memory == memory]
        change = {row.tensor: BYTES.get(row.tensor, 2.0) - 2.0 for row in rows}
        reads = sum(row.reads * change[row.tensor] for row in rows)
        writes = sum(row.writes * change[row.tensor] for row in rows)
        assert own.bytes_at(memory) == pytest.approx(plain.bytes_at(memory) + reads + writes)
        part = MACHINE.memory(memory)
        spent = reads * part.read_pj_per_byte + writes * part.write_pj_per_byte
        found = own.energy_by_component().get(memory, 0.0)
        assert found == pytest.approx(plain.energy_by_component().get(memory, 0.0) + spent)
    assert own.dram_bytes == 2 * sizes(PLAIN)["Q"] + sum(
        BYTES[name] * sizes(PLAIN)[name] for name in "KVO"
    )


def test_occupancy_counts_each_tensor_in_its_own_bits():
    plain, own = evaluated(PLAIN), evaluated(OWN)
    seen = set()
    for before, after in zip(plain.occupancy, own.occupancy, strict=True):
        was, now = dict(before.tensors), dict(after.tensors)
        for tensor in was.keys() & now.keys() & BYTES.keys():
            assert now[tensor] == was[tensor] * BYTES[tensor] / 2
            seen.add(tensor)
    assert seen == set(BYTES)


def test_bounds_hold_and_fewer_bits_explore_better():
    slow = replace(MACHINE.override("dram.bytes_per_cycle", 0.5), format="fp16")
    found = {}
    for name, cascade in (("plain", PLAIN), ("own", OWN)):
        design, _ = explore(cascade, slow, shapes=SHAPES)
        bounds = {each.name: each.value for each in roofline(design.bound, slow, FP16)}
        assert bounds["latency"] <= design.evaluate().latency_cycles
        assert bounds["energy"] <= design.evaluate().energy_pj
        found[name] = bounds["dram"], design.evaluate().latency_cycles
    saved = (sizes(PLAIN)["K"] + 1.5 * sizes(PLAIN)["V"] - 2 * sizes(PLAIN)["O"]) / 0.5
    assert saved > 0
    assert found["own"][0] == found["plain"][0] - saved
    assert found["own"][1] < found["plain"][1]


@pytest.mark.parametrize("fmt", ["fp32", "fp8_e4m3", "fixed<16,6>"])
def test_the_simulator_has_the_values_and_bytes_of_each_format(fmt):
    chosen, count = parse_format(fmt), sizes(PLAIN)
    cascade = replace(PLAIN, formats=(("K", "int8"), ("V", "int4"), ("SN", "fp8_e4m3")))
    bound = bind(cascade, shapes=SHAPES)
    mapping = default_mapping(bound, MACHINE, chosen)
    inputs = random_inputs(bound, chosen)
    found = simulate(mapping, bound, MACHINE, chosen, inputs)
    np.testing.assert_allclose(
        found.outputs["O"], interpret(bound, inputs, chosen)["O"], rtol=1e-5, atol=1e-5
    )
    whole = chosen.bytes * (count["Q"] + count["O"]) + count["K"] + 0.5 * count["V"]
    assert found.bytes_at("dram") == whole


@pytest.mark.parametrize("backend", BACKENDS.names())
def test_generators_refuse_formats_of_single_tensors(backend):
    inputs = random_inputs(bind(OWN, shapes=SHAPES), FP16)
    with pytest.raises(DataError) as caught:
        run(OWN, inputs, backend=backend, fmt=parse_format("fp32"))
    assert str(caught.value) == (
        "generated code has one number format for all tensors, and K has its own: int8\n"
        "fix: leave out 'format K = int8', or use penstock run, explore or simulate"
    )


@pytest.mark.parametrize("fmt", ["fp8_e4m3", "fp8_e5m2", "int8", "int32", "uint4"])
@pytest.mark.parametrize("backend", BACKENDS.names())
def test_generators_refuse_the_formats_that_they_do_not_have(backend, fmt):
    inputs = random_inputs(bind(PLAIN, shapes=SHAPES), FP16)
    with pytest.raises(DataError) as caught:
        run(PLAIN, inputs, backend=backend, fmt=parse_format(fmt))
    assert str(caught.value) == (
        f"generated code has no {fmt}\nfix: use fp64, fp32, fp16, bf16 or a fixed<W,I>"
    )


def test_no_design_is_in_a_format_of_integers():
    made = remap(PLAIN, "fusemax", shapes=SHAPES, fmt=FP16)
    for make in (
        lambda: explore(PLAIN, "fusemax", shapes=SHAPES, fmt=parse_format("int8")),
        lambda: remap(PLAIN, "fusemax", shapes=SHAPES, fmt=parse_format("int8")),
        lambda: Design(made.cascade, made.mapping, made.target, parse_format("int8")),
    ):
        with pytest.raises(DataError, match="a run cannot be in int8"):
            make()


def test_a_design_keeps_the_formats():
    made = remap(OWN, "fusemax", shapes=SHAPES, fmt=FP16)
    again = Design.from_json(json.dumps(made.to_json()))
    assert again.cascade.formats == OWN.formats
    assert again.digest != remap(PLAIN, "fusemax", shapes=SHAPES, fmt=FP16).digest
    assert parse(str(OWN)) == OWN

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
WHOLE = replace(PLAIN, formats=(("K", "int8"),))
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


EVERY = ("fp16", "bf16", "fp8_e4m3", "fp8_e5m2", "int8", "uint4", "int24", "fixed<12,5>")


def spread_over(formats):
    count = range(len(formats))
    return parse(
        f"cascade spread(X[i]) -> ({', '.join(f'Y{n}[i]' for n in count)})\n"
        + "".join(f"  format Y{n} = {fmt}\n" for n, fmt in enumerate(formats))
        + "".join(f"  Y{n}[i] = X[i] * 1.5\n" for n in count)
    )


def hard_values(fmt):
    """Return halves of steps, both zeros, infinities, and numbers of all sizes."""
    ties = np.arange(-80, 81) / 48.0
    sizes = np.ldexp(1 + np.arange(40) / 32.0, np.arange(40) * 7 - 140)
    ends = np.array([np.inf, -np.inf, 0.0, -0.0, 448 / 1.5, 464 / 1.5, 57344 / 1.5, 1e300])
    with np.errstate(over="ignore"):
        return np.concatenate([ties, 16 * ties, sizes, -sizes, ends]).astype(
            np.float64 if fmt == "fp64" else np.float32
        )


WITHOUT_FP8 = spread_over([fmt for fmt in EVERY if not fmt.startswith("fp8")])
WHOLE_NUMBERS = ("int8", "uint4", "int24", "uint32", "fixed<12,5>", "fixed<30,9>")


@pytest.mark.parametrize(
    ("backend", "fmt", "cascade"),
    [
        *((b, fmt, spread_over(EVERY)) for b in ("loops", "tvm") for fmt in ("fp32", "fp64")),
        *(("hls", fmt, WITHOUT_FP8) for fmt in ("fp32", "fp64")),
        *((backend, "fixed<32,11>", spread_over(WHOLE_NUMBERS)) for backend in ("loops", "hls")),
    ],
)
def test_generated_code_rounds_each_tensor_as_the_interpreter(backend, fmt, cascade):
    inputs = {"X": hard_values(fmt)}
    found = run(cascade, inputs, backend=backend, fmt=parse_format(fmt))
    want = run(cascade, inputs, fmt=parse_format(fmt))
    assert {"Y0", "Y5"} <= want.keys()
    for name, kind in cascade.formats:
        np.testing.assert_array_equal(found[name], want[name], err_msg=kind)
        assert found[name].dtype == want[name].dtype


STORED = parse("""cascade stored(Q[p, e], K[m, e], V[m, f]) -> (O[p, f], GM[p], SD[p])
  format K, GM = int8
  format V = int4
  format S, SN = fp8_e4m3
  format SD = int16
  S[p, m] = Q[p, e] * K[m, e] :: sum[e]
  GM[p] = S[p, m] :: max[m] s.t. m < p
  SN[p, m] = exp(S[p, m] / 8 - GM[p] / 8) s.t. m < p
  SD[p] = SN[p, m] * 8 :: sum[m]
  O[p, f] = SN[p, m] * V[m, f] :: sum[m]
""")


FIXED = [each for each in STORED.formats if not each[1].startswith("fp8")]
FIXED = replace(STORED, formats=(*FIXED, ("S", "fixed<20,11>")))


@pytest.mark.parametrize(
    ("backend", "fmt", "cascade"),
    [
        *((backend, fmt, STORED) for backend in ("loops", "tvm") for fmt in ("fp32", "fp16")),
        *(("hls", fmt, FIXED) for fmt in ("fp16", "fixed<16,6>")),
        ("loops", "fixed<16,6>", FIXED),
    ],
)
def test_generated_code_stores_reductions_in_their_own_formats(backend, fmt, cascade):
    generator = np.random.default_rng(4)
    sizes = {"Q": (19, 8), "K": (37, 8), "V": (37, 5)}
    inputs = {
        name: generator.integers(-9, 10, size).astype(np.float32) for name, size in sizes.items()
    }
    found = run(cascade, inputs, backend=backend, fmt=parse_format(fmt))
    want = run(cascade, inputs, fmt=parse_format(fmt))
    assert np.abs(want["GM"]).max() == 127  # what is saturated
    for name in ("O", "GM", "SD"):
        np.testing.assert_array_equal(found[name], want[name], err_msg=name)


@pytest.mark.parametrize("backend", ["loops", "tvm"])
def test_generated_code_keeps_states_in_their_own_formats(backend):
    plain = zoo.load("causal_attention_1pass")
    cascade = replace(plain, formats=(("RM", "bf16"), ("RNV", "fp16")))
    shapes = {"h": 1, "p": 21, "m": 21, "m1": 3, "m0": 7, "e": 4, "f": 4}
    inputs = random_inputs(bind(plain, shapes=shapes), parse_format("fp32"))
    want = run(cascade, inputs, fmt=parse_format("fp32"))["O"]
    found = run(cascade, inputs, backend=backend, fmt=parse_format("fp32"))["O"]
    np.testing.assert_allclose(found, want, rtol=2e-3, atol=1e-5)
    rough = run(plain, inputs, backend=backend, fmt=parse_format("fp32"))["O"]
    assert np.abs(rough - want).max() > 10 * np.abs(found - want).max()


def test_what_generated_code_has_not_of_single_formats():
    inputs = random_inputs(bind(OWN, shapes=SHAPES), FP16)
    rows = (
        ("hls", "fp32", "HLS code has no fp8_e4m3"),
        ("hls", "fixed<16,6>", "generated code has no fp8_e4m3 beside fixed<16,6>, and K is in it"),
        (
            "loops",
            "fixed<16,6>",
            "generated code has no fp8_e4m3 beside fixed<16,6>, and K is in it",
        ),
    )
    cascade = replace(PLAIN, formats=(("K", "fp8_e4m3"),))
    for backend, fmt, said in rows:
        with pytest.raises(DataError) as caught:
            run(cascade, inputs, backend=backend, fmt=parse_format(fmt))
        assert caught.value.what == said


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

"""Products of bf16 numbers in pairs: the plan keeps the meaning; other machines have none."""

from dataclasses import replace

import numpy as np
import pytest
from test_tvm_tiles import TESTS, product

from penstock import run, zoo
from penstock.codegen.loops.interp import run_program
from penstock.codegen.tvm.cpu import build, execute, schedule
from penstock.codegen.tvm.env import require_tvm
from penstock.codegen.tvm.math import CPU_MATH
from penstock.codegen.tvm.plan import plan
from penstock.codegen.tvm.script import from_source
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.interpreter.rounding import quantise
from penstock.einsum_ir.shapes import bind
from penstock.runtime.halves import factors, unscaled
from penstock.runtime.jit import kernel_program
from penstock.runtime.streaming import streamed
from penstock.targets import TARGETS
from penstock.targets.cpu import adds_pairs, cpu

BF16 = parse_format("bf16")
EXTENTS = {"h": 2, "p": 96, "m": 133, "e": 24, "f": 32}


def halves(array):
    return quantise(array, BF16).astype(np.float64)


@pytest.mark.parametrize("depth", [1, 6, 7])
@pytest.mark.parametrize("tests", TESTS)
def test_a_tile_in_pairs_computes_what_the_loops_do(depth, tests):
    made = product(16, 8, depth, TESTS[tests], start=2.0)
    inputs = tuple(replace(each, own=BF16) for each in made.inputs)
    made = replace(made, inputs=inputs, format=parse_format("fp32"))
    generator = np.random.default_rng(0)
    arrays = {each.name: halves(generator.normal(size=each.shape)) for each in inputs}
    planned, _ = plan(made, lanes=4, pairs=True)
    assert "dot2" in str(planned.body)
    assert "dot2" not in str(plan(made, lanes=4)[0].body)
    wanted, found = run_program(made, arrays)["Z"], run_program(planned, arrays)["Z"]
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "constants", "changes"),
    [
        ("attention", {}, {}),
        ("causal_attention", {}, {"p": 133, "e": 71}),
        ("sliding_window", {"W": 50.0}, {"p": 133}),
    ],
)
def test_kernels_in_pairs_are_as_exact_as_bf16(name, constants, changes):
    cascade = zoo.load(name).with_constants(**constants)
    ranks = {rank for each in cascade.inputs for rank in each.ranks}
    extents = {name: n for name, n in {**EXTENTS, **changes}.items() if name in ranks}
    made = kernel_program(cascade, extents, TARGETS.get("cpu"), "bf16")
    generator = np.random.default_rng(1)
    arrays = {each.name: halves(generator.normal(size=each.shape)) for each in made.inputs}
    kernel = build(made)
    for scale in (1.0, 300.0):
        arrays["Q"] = halves(scale * arrays["Q"])
        wanted = run(cascade, arrays, fmt=parse_format("fp64"))["O"]
        found = kernel(arrays)["O"]
        assert np.abs(found - wanted).max() <= 2 * 2.0**-8 * np.abs(wanted).max()
    assert ("p_dot2" in schedule(made)) == adds_pairs(TARGETS.get("cpu"), "bf16")


def test_what_a_mask_excludes_is_never_multiplied():
    """NaN in keys that no query sees: whole pairs, and one of a pair."""
    extents = {**EXTENTS, "p": 133}
    made = kernel_program(zoo.load("causal_attention"), extents, TARGETS.get("cpu"), "bf16")
    arrays = {each.name: np.ones(each.shape) for each in made.inputs}
    for tensor in "KV":
        arrays[tensor][:, 51:] = np.nan
    found = execute(made, arrays)["O"]
    assert np.isfinite(found[:, :51]).all()
    assert np.isnan(found[:, 51:]).all()


def test_machines_without_the_instruction_do_without():
    machine = cpu(2, 8, part="x86-64 avx2")
    made = kernel_program(zoo.load("causal_attention"), EXTENTS, machine, "bf16")
    text = schedule(made, machine)
    assert "dot2" not in text
    tvm = require_tvm()
    target = tvm.target.Target({"kind": "llvm", "mcpu": "haswell"})
    library = tvm.compile(from_source(text, CPU_MATH), target=target).mod
    assert "vdpbf16ps" not in library.inspect_source("asm")
    assert "zmm" not in library.inspect_source("asm")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("attention", {"SN_T"}),
        ("causal_attention", {"SN_T"}),
        ("sigmoid_attention", {"A"}),
        ("linear_attention", {"FK"}),
        ("retention", set()),
    ],
)
def test_factors_are_what_outputs_are_linear_in(name, wanted):
    cascade = zoo.load(name)
    ranks = {rank for each in cascade.inputs for rank in each.ranks}
    bound = bind(cascade, shapes=dict.fromkeys(ranks, 256))
    form = unscaled(streamed(cascade, dict(bound.extents)))
    assert factors(form.cascade) == wanted


def test_an_input_times_a_constant_is_read_where_it_is():
    cascade = zoo.load("causal_attention")
    bound = bind(cascade, shapes=EXTENTS)
    form = unscaled(bound)
    assert "QS" in {each.name for each in cascade.einsums}
    assert "QS" not in {each.name for each in form.cascade.einsums}
    generator = np.random.default_rng(2)
    arrays = {
        each.tensor: generator.normal(size=[EXTENTS[rank] for rank in each.ranks])
        for each in cascade.inputs
    }
    wanted, found = (run(e, arrays, fmt=parse_format("fp64"))["O"] for e in (cascade, form.cascade))
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-14)

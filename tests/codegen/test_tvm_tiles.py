"""Register tiles keep the meaning of a program, and are found where the mapping says so."""

import numpy as np
import pytest
from tvm_programs import load, loop, num, op, program, store, val

from penstock import run, zoo
from penstock.codegen.loops.interp import run_program
from penstock.codegen.loops.nodes import For, If, walk_statements
from penstock.codegen.tvm.cpu import execute, schedule
from penstock.codegen.tvm.plan import plan
from penstock.codegen.tvm.ranges import interval
from penstock.codegen.tvm.rewrite import clamped
from penstock.einsum_ir.formats import parse_format
from penstock.mapper.lanes import register_tile
from penstock.runtime.jit import kernel_program
from penstock.targets.cpu import cpu


def product(rows, columns, depth, tests=(), start=0.0):
    """Z[m, n] = start + sum over k of A[m, k] B[k, n], m by 4, lanes along n, as the tests say."""
    m = op("+", op("*", "mo", num(4)), "m")
    rest = op("*", load("A", m, "k"), load("B", "k", "n"))
    left = op("-", num(rows), op("*", "mo", num(4)))
    extent = num(4) if rows % 4 == 0 else op("min", num(4), left)
    inner = store("Z", (m, "n"), op("+", load("Z", m, "n"), rest))
    for each in reversed(tests):
        inner = If(each, inner)
    fill = loop(
        "f",
        extent,
        loop("z", columns, store("Z", (op("+", op("*", "mo", num(4)), "f"), "z"), val(start))),
    )
    body = [fill, loop("k", depth, loop("m", extent, loop("n", columns, inner, "simd")))]
    shapes = {"A": (rows, depth), "B": (depth, columns)}
    return program(
        "product", shapes, {"Z": (rows, columns)}, loop("mo", -(-rows // 4), body), "fp64"
    )


M = op("+", op("*", "mo", num(4)), "m")
TESTS = {
    "none": (),
    "rows and lanes": (op("<=", "n", M),),
    "reduced": (op("<=", "k", M), op("<", "n", op("+", "k", num(3)))),
    "never": (op("<", "n", num(0)),),
    "either": (op("or", op("<=", "k", M), op("<", "n", num(3))), op("<", "n", num(5))),
}


@pytest.mark.parametrize("rows", [4, 8, 11])
@pytest.mark.parametrize("tests", TESTS)
def test_a_tile_computes_what_the_loops_do(rows, tests):
    made = product(rows, 6, 5, TESTS[tests], start=2.0)
    generator = np.random.default_rng(0)
    inputs = {each.name: generator.normal(size=each.shape) for each in made.inputs}
    planned, kinds = plan(made, lanes=4)
    wanted, found = run_program(made, inputs)["Z"], run_program(planned, inputs)["Z"]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert "unroll" in kinds.values()
    if tests == "none" and rows % 4 == 0:  # the fill is where the tile starts
        stores = [e for e in walk_statements(planned.body) if isinstance(e, For)]
        assert not any(each.variable == "z" for each in stores)


def test_what_does_not_fit_the_registers_stays_a_loop():
    made = product(4, 64 * 5, 3)
    assert "unroll" not in plan(made, lanes=16)[1].values()


@pytest.mark.parametrize("depth", [24, 96])
def test_odd_lengths_have_the_tiles_of_even_ones(depth):
    """100 queries in blocks of 64: products start at 0 in registers and end in what reads them."""
    machine = cpu(2, 16, part="x86-64 avx512f", registers=32)
    extents = {"h": 1, "p": 100, "m": 133, "e": depth, "f": depth}
    made = kernel_program(zoo.load("attention"), extents, machine, "fp32")
    text = schedule(made)
    assert "T.parallel(2)" in text
    for tensor in ("QK_T", "O_T"):
        assert f"{tensor}_tile" in text
        assert f"start {tensor}" not in text
    assert "O_T[" not in text
    generator = np.random.default_rng(1)
    inputs = {each.name: 4 * generator.normal(size=each.shape) for each in made.inputs}
    wanted = run(zoo.load("attention"), inputs, fmt=parse_format("fp64"))["O"]
    found = execute(made, inputs)["O"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_loads_in_vain_stay_inside():
    buffers = {each.name: each for each in product(4, 4, 4).inputs}
    safe = clamped(load("A", op("+", "i", num(2)), "j"), buffers, {"i": (0, 3), "j": (-1, 2)})
    assert [interval(each, {"i": (0, 3), "j": (-1, 2)}) for each in safe.indices] == [
        (2, 3),
        (0, 2),
    ]
    assert clamped(op("//", num(3), "i"), buffers, {"i": (0, 3)}) is None


@pytest.mark.parametrize("registers", [8, 16, 32])
@pytest.mark.parametrize(("rows", "vectors"), [(1, 1), (7, 2), (64, 4), (71, 4), (256, 1)])
def test_a_register_tile_fits(rows, vectors, registers):
    a, b = register_tile(rows, vectors, registers)
    assert a * b + b + 1 <= registers
    assert a <= rows
    assert vectors % b == 0
    assert a * b >= min(rows * vectors, registers // 4)

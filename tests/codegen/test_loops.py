"""The statement IR by itself: hand-built programs, run and printed."""

import math

import numpy as np
import pytest

from penstock.codegen.loops.interp import run_program
from penstock.codegen.loops.nodes import (
    Alloc,
    Block,
    Buffer,
    Const,
    For,
    If,
    Load,
    Name,
    Op,
    Program,
    Store,
    walk_statements,
)
from penstock.codegen.loops.print import show, show_expr
from penstock.codegen.loops.values import FLOAT_FUNCTIONS
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.interpreter.numerics import FIXED_FUNCTIONS
from penstock.einsum_ir.interpreter.rounding import from_fixed, quantise, to_fixed
from penstock.einsum_ir.ops import OPERATORS
from penstock.errors import DataError

FP32, FIXED = parse_format("fp32"), parse_format("fixed<16,8>")
X, Y, J = Buffer("X", (4,)), Buffer("Y", (4,)), Buffer("J", (4,), "index")


def number(value):
    return Const(value, integer=True)


def at(name, index):
    return Load(name, (index,))


def over(body, extent=4):
    return For("i", number(extent), body)


def program(body, fmt=FP32, inputs=(X,), bits=(0, 0)):
    return Program("prog", tuple(inputs), (Y,), body, fmt, bits)


def mapped(value, fmt=FP32, inputs=(X,), bits=(0, 0)):
    """Return Y[i] = value for every i."""
    return program(over(Store("Y", (Name("i"),), value)), fmt, inputs, bits)


def test_values_are_rounded_when_they_are_stored_and_not_before():
    fmt = parse_format("fp16")
    third = np.array([1 / 3, 1, 2, 3])
    body = mapped(Op("*", (at("X", Name("i")), Const(3.0001))), fmt)
    given = np.float32(np.float16(third))
    want = np.float16(given * np.float32(3.0001))
    got = run_program(body, {"X": third})["Y"]
    assert got.dtype == np.float16
    np.testing.assert_array_equal(got, want)


def test_bf16_rounds_to_eight_bits():
    fmt = parse_format("bf16")
    given = np.array([1.00390625, 1.01, -3.3, 1e-3])
    got = run_program(mapped(at("X", Name("i")), fmt), {"X": given})["Y"]
    np.testing.assert_array_equal(got, quantise(given, fmt))


@pytest.mark.parametrize("op", sorted(FIXED_FUNCTIONS))
def test_functions_in_fixed_point_are_those_of_numerics(op):
    given = np.array([0.5, 1.25, 2.75, 3.5])
    want = from_fixed(FIXED_FUNCTIONS[op](to_fixed(given, FIXED), 8, FIXED), FIXED)
    got = run_program(mapped(Op(op, (at("X", Name("i")),)), FIXED), {"X": given})["Y"]
    np.testing.assert_array_equal(got, want)


def test_fixed_point_is_exact_until_it_is_stored():
    fmt = parse_format("fixed<8,4>")
    given = np.array([0.0625, 0.3125, -0.0625, 7.9375])
    x = at("X", Name("i"))
    square = Op("*", (x, x))
    value = Op("-", (Op("*", (square, Const(7.5))), Op("neg", (square,))))
    want = quantise(given * given * 8.5, fmt)
    got = run_program(mapped(value, fmt), {"X": given})["Y"]
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("op", "want"),
    [
        ("/", [-2.0, 1.5, 127.99609375, 0.0]),
        ("//", [-2.0, 1.0, 127.99609375, 0.0]),
        ("%", [0.0, 0.5, 0.0, 0.0]),
        ("max", [1.0, 1.5, 3.0, 0.0]),
        ("min", [-2.0, 1.0, 0.0, 0.0]),
    ],
)
def test_two_fixed_point_numbers(op, want):
    divisor = Op("where", (Op("<", (Name("i"), number(2))), Const(1.0), Const(0.0)))
    got = run_program(
        mapped(Op(op, (at("X", Name("i")), divisor)), FIXED), {"X": np.array([-2, 1.5, 3, 0])}
    )
    np.testing.assert_array_equal(got["Y"], want)


@pytest.mark.parametrize("op", ["abs", "floor", "neg", "relu", "round", "sign", "sq", "step"])
def test_exact_functions_agree_in_fixed_and_floating_point(op):
    given = {"X": np.array([-1.5, -0.25, 0.0, 2.5])}
    body = Op(op, (at("X", Name("i")),))
    first = run_program(mapped(body, FIXED), given)["Y"]
    second = run_program(mapped(body, FP32), given)["Y"]
    np.testing.assert_array_equal(first, second)


def test_every_operator_has_a_meaning_in_floating_point():
    signs = {"or", "and", "not", "==", "!=", "<", "<=", ">", ">=", "+", "-", "*", "/", "neg"}
    lowered = {"fill", "bitlen"}  # `lower` leaves none of them
    assert OPERATORS.keys() - FLOAT_FUNCTIONS.keys() == signs | {"where"} | lowered
    x = at("X", Name("i"))
    for op, operator in OPERATORS.items():
        if op not in lowered:
            got = run_program(mapped(Op(op, (x,) * operator.arity)), {"X": np.full(4, 0.5)})["Y"]
            assert np.isfinite(got).all(), op


def test_softplus_and_gelu_do_not_overflow():
    given = {"X": np.array([-1000.0, -1.0, 1.0, 1000.0])}
    got = run_program(mapped(Op("softplus", (at("X", Name("i")),))), given)["Y"]
    want = [0, math.log1p(math.exp(-1)), 1 + math.log1p(math.exp(-1)), 1000]
    np.testing.assert_allclose(got, want, rtol=1e-6)
    got = run_program(mapped(Op("gelu", (at("X", Name("i")),))), given)["Y"]
    np.testing.assert_allclose(got, [0, -0.158655, 0.841345, 1000], rtol=1e-5)


def test_integers_floor_and_become_values_where_float_says_so():
    expr = Op("-", (Name("i"), number(3)))
    value = Op("+", (Op("//", (expr, number(2))), Op("%", (expr, number(2)))))
    got = run_program(mapped(Op("float", (value,))), {"X": np.zeros(4)})["Y"]
    np.testing.assert_array_equal(got, [-1, -1, 0, 0])
    got = run_program(mapped(Op("float", (expr,)), FIXED), {"X": np.zeros(4)})["Y"]
    np.testing.assert_array_equal(got, [-3, -2, -1, 0])


@pytest.mark.parametrize("op", ["abs", "neg", "max", "min", "clamp", "**"])
def test_functions_of_integers(op):
    args = {"abs": 1, "neg": 1, "clamp": 3}.get(op, 2)
    operands = (Op("-", (Name("i"), number(2))), number(1), number(2))[:args]
    got = run_program(mapped(Op("float", (Op(op, operands),))), {"X": np.zeros(4)})["Y"]
    want = {
        "abs": [2, 1, 0, 1],
        "neg": [2, 1, 0, -1],
        "max": [1, 1, 1, 1],
        "min": [-2, -1, 0, 1],
        "clamp": [1, 1, 1, 1],
        "**": [-2, -1, 0, 1],
    }
    np.testing.assert_array_equal(got, want[op])


def test_where_evaluates_the_chosen_side_only():
    inside = Op("<", (Name("i"), number(3)))
    beyond = at("X", Op("+", (Name("i"), number(1))))
    got = run_program(mapped(Op("where", (inside, beyond, Const(9.0)))), {"X": np.arange(4)})["Y"]
    np.testing.assert_array_equal(got, [1, 2, 3, 9])


@pytest.mark.parametrize("offset", [-1, 1])
def test_a_load_out_of_bounds_raises(offset):
    index = Op("+", (Name("i"), number(offset)))
    with pytest.raises(IndexError) as error:
        run_program(mapped(at("X", index)), {"X": np.zeros(4)})
    wrong = -1 if offset < 0 else 4
    assert str(error.value) == f"X[{wrong}] is outside its shape [4]"


def test_a_store_out_of_bounds_raises():
    body = over(Store("Y", (Name("i"),), Const(0.0)), extent=5)
    with pytest.raises(IndexError, match=r"Y\[4\] is outside its shape \[4\]"):
        run_program(program(body), {"X": np.zeros(4)})


def test_a_mask_that_is_read_before_it_is_set_raises():
    mask = Buffer("there", (4,), "mask")
    body = Alloc(mask, over(If(at("there", Name("i")), Store("Y", (Name("i"),), Const(1.0)))))
    with pytest.raises(ValueError, match="a mask is read before it is set"):
        run_program(program(body), {"X": np.zeros(4)})


def test_a_buffer_is_new_each_time_its_scope_is_entered():
    total = Buffer("total", (), "acc")
    first = If(Op("==", (Name("i"), number(0))), Store("total", (), Const(1.0)))
    body = over(Alloc(total, Block((first, Store("Y", (Name("i"),), Load("total", ()))))))
    got = run_program(program(body), {"X": np.zeros(4)})["Y"]
    assert got[0] == 1
    assert np.isnan(got[1:]).all()


def test_an_accumulator_in_fixed_point_has_its_own_width():
    total = Buffer("total", (), "acc")
    x = at("X", Name("i"))
    add = Store("total", (), Op("+", (Load("total", ()), Op("*", (x, x)))))
    body = Alloc(
        total,
        Block(
            (
                Store("total", (), Const(0.0)),
                over(add),
                Store("Y", (number(0),), Load("total", ())),
                For("j", number(3), Store("Y", (Op("+", (Name("j"), number(1))),), Const(0.0))),
            )
        ),
    )
    given = {"X": np.array([0.00390625, 0.03125, 0.0625, 1.5])}
    got = run_program(program(body, FIXED, bits=(34, 18)), given)["Y"]
    assert got[0] == quantise(np.sum(given["X"] ** 2), FIXED)
    with pytest.raises(ValueError, match="an accumulator of 8 fraction bits cannot hold 1/2"):
        run_program(program(body, FIXED, bits=(26, 18)), given)


def test_index_buffers_hold_whole_numbers_that_are_not_rounded():
    fmt = parse_format("fixed<8,2>")
    value = at("X", at("J", Name("i")))
    given = {"X": np.array([0.25, 0.5, 0.75, 1.0]), "J": np.array([3, 2, 1, 0])}
    got = run_program(mapped(value, fmt, (X, J)), given)["Y"]
    np.testing.assert_array_equal(got, [1, 0.75, 0.5, 0.25])
    many = {"X": np.zeros(4), "J": np.array([5000, -7, 2, 0.3])}
    big = mapped(Op("float", (Op(">", (at("J", Name("i")), number(4999))),)), fmt, (X, J))
    np.testing.assert_array_equal(run_program(big, many)["Y"], [1, 0, 0, 0])
    plain = mapped(Op("float", (at("J", Name("i")),)), fmt, (X, J))
    np.testing.assert_array_equal(run_program(plain, many)["Y"], [1.984375, -2, 1.984375, 0.296875])


def test_computed_indices_are_whole_numbers():
    for fmt in (FP32, FIXED):
        value = at("X", Op("+", (at("X", Name("i")), number(1))))
        got = run_program(mapped(value, fmt), {"X": np.array([2, 1, 0, -1])})["Y"]
        np.testing.assert_array_equal(got, [-1, 0, 1, 2])


def test_thirty_loops_deep():
    body = Store("Y", (Name("i0"),), Op("+", (at("Y", Name("i0")), Const(1.0))))
    for number_of in reversed(range(30)):
        body = For(f"i{number_of}", number(4 if number_of == 0 else 1 + number_of % 2), body)
    start = For("k", number(4), Store("Y", (Name("k"),), Const(0.0)))
    got = run_program(program(Block((start, body))), {"X": np.zeros(4)})["Y"]
    np.testing.assert_array_equal(got, np.full(4, 2.0**15))


def test_a_missing_input_is_an_error():
    with pytest.raises(DataError) as error:
        run_program(mapped(at("X", Name("i"))), {})
    assert str(error.value) == "input X is missing\nfix: give an array of shape (4,) for X"


def test_an_input_of_another_shape_is_an_error():
    with pytest.raises(DataError) as error:
        run_program(mapped(at("X", Name("i"))), {"X": np.zeros(5)})
    assert str(error.value) == (
        "input X has shape (5,), the program wants (4,)\n"
        "fix: give an array of that shape, or generate the program for the other one"
    )


@pytest.mark.parametrize("op", ["sin", "**", "gelu"])
def test_an_operator_without_a_fixed_point_form_is_an_error(op):
    args = (at("X", Name("i")),) * OPERATORS[op].arity
    with pytest.raises(DataError) as error:
        run_program(mapped(Op(op, args), FIXED), {"X": np.zeros(4)})
    assert error.value.what == f"operator '{op}' has no fixed-point form (fixed<16,8>)"


def test_a_whole_power_is_exact_in_fixed_point():
    value = Op("**", (at("X", Name("i")), Const(3.0)))
    got = run_program(mapped(value, FIXED), {"X": np.array([1.5, -2, 0.5, 0])})["Y"]
    np.testing.assert_array_equal(got, [3.375, -8, 0.125, 0])


def test_walk_yields_every_statement_outermost_first():
    inner = Store("Y", (Name("i"),), Const(1.0))
    tested = If(Op("<", (Name("i"), number(2))), inner)
    loop = over(Block((tested,)))
    scope = Alloc(Buffer("t", (2,)), loop)
    assert list(walk_statements(scope)) == [scope, loop, loop.body, tested, inner]


def test_the_text_of_a_program():
    acc = Buffer("acc", (), "acc", "rf")
    x = at("X", Name("i"))
    add = Store("acc", (), Op("+", (Load("acc", ()), Op("*", (x, Op("neg", (x,)))))))
    loop = For("i", number(4), add, "pe", "pe2d.rows", "m@rows", pipelined=True)
    both = Op("and", (Load("acc", ()), Const(1.0)))
    last = If(Op("not", (both,)), Store("Y", (), Const(-0.5)))
    body = Alloc(acc, Block((loop, last, Block(())), "S on pe2d"))
    fixed = Program("p", (X,), (Buffer("Y", (), memory="dram"),), body, FIXED, (34, 18))
    assert show(fixed) == (
        "program p(X[4]) -> Y[] in dram  # fixed<16,8>, accumulators fixed<34,18>\n"
        "  new acc[] acc in rf\n"
        "  # S on pe2d\n"
        "  for i in 0..4:  # m@rows; pe pe2d.rows; pipelined\n"
        "    acc[] = acc[] + X[i] * -X[i]\n"
        "  if not (acc[] and 1.0):\n"
        "    Y[] = -0.5\n"
        "  pass\n"
    )


@pytest.mark.parametrize(
    ("expr", "text"),
    [
        (Op("*", (Op("+", (Name("i"), number(1))), number(4))), "(i + 1) * 4"),
        (Op("-", (Name("i"), Op("-", (Name("j"), number(1))))), "i - (j - 1)"),
        (Op("**", (Op("**", (Name("i"), number(2))), number(2))), "(i ** 2) ** 2"),
        (Op("max", (Name("i"), Const(-math.inf))), "max(i, -inf)"),
        (Op("<", (Op("<", (Name("i"), number(2))), number(1))), "(i < 2) < 1"),
        (Op("float", (Op("//", (Name("i"), number(2))),)), "float(i // 2)"),
    ],
)
def test_the_text_of_expressions(expr, text):
    assert show_expr(expr) == text

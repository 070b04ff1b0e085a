"""C++ text of programs: compiled with g++ and run, against NumPy and the exact arithmetic."""

from dataclasses import replace

import numpy as np
import pytest

from penstock.codegen.hls import csim
from penstock.codegen.hls.cpp import Notes, Printer, identifiers, literal, top_name, workspace
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
)
from penstock.codegen.loops.nodes import Store as _Store
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.interpreter.arithmetic import FloatArithmetic, real
from penstock.einsum_ir.interpreter.exact import FixedArithmetic
from penstock.errors import DataError

POINTS = 24
UNARY = ["neg", "abs", "exp", "exp2", "log", "log2", "sqrt", "rsqrt", "sq", "tanh", "sigmoid"]
UNARY += ["relu", "silu", "step", "sign", "floor", "round"]
BINARY = ["+", "-", "*", "/", "//", "%", "max", "min"]
COMPARED = ["==", "!=", "<", "<=", ">", ">="]
FLOAT_ONLY = ["sin", "cos", "erf", "gelu", "softplus"]


def whole(value):
    return Const(value, integer=True)


def load(buffer, *indices):
    return Load(buffer, tuple(Name(i) if isinstance(i, str) else i for i in indices))


def store(buffer, value, *indices):
    return _Store(buffer, tuple(Name(i) if isinstance(i, str) else i for i in indices), value)


def loop(variable, extent, *body, **rest):
    extent = whole(extent) if isinstance(extent, int) else extent
    return For(variable, extent, Block(tuple(body)), **rest)


def program(inputs, outputs, body, fmt="fp32", bits=(0, 0), name="probe"):
    return Program(name, tuple(inputs), tuple(outputs), body, parse_format(fmt), bits)


def operators(fmt):
    """Return a program that applies every operator to X and Y, and what it should give."""
    extra = () if fmt.startswith("fixed") else (*FLOAT_ONLY, "**")
    x, y = load("X", "i"), load("Y", "i")
    unary = {op: Op(op, (x,)) for op in (*UNARY, *extra) if op != "**"}
    binary = {op: Op(op, (x, y)) for op in (*BINARY, *COMPARED)}
    shapes = {"clamp": Op("clamp", (x, Const(-0.75), y)), "cube": Op("**", (x, Const(3.0)))}
    values = {
        f"R{number}": (op, expr)
        for number, (op, expr) in enumerate({**unary, **binary, **shapes}.items())
    }
    body = loop("i", POINTS, *(store(name, expr, "i") for name, (_, expr) in values.items()))
    made = program(
        [Buffer("X", (POINTS,)), Buffer("Y", (POINTS,))],
        [Buffer(name, (POINTS,)) for name in values],
        body,
        fmt,
    )
    return made, values


def expected(values, fmt, inputs):
    kind = parse_format(fmt)
    arithmetic = FixedArithmetic(kind) if kind.exact else FloatArithmetic(kind)
    x, y = (arithmetic.load(arithmetic.encode(inputs[name])) for name in "XY")
    for name, (op, expr) in values.items():
        match op:
            case "clamp":
                args = [x, arithmetic.constant(-0.75), y]
            case "cube":
                op, args = "**", [x, arithmetic.constant(3.0)]
            case _:
                args = [x, y][: len(expr.args)]
        with np.errstate(all="ignore"):
            result = real(arithmetic, arithmetic.apply(op, args))
            yield name, op, arithmetic.decode(arithmetic.store(result))


@pytest.mark.parametrize("fmt", ["fixed<16,6>", "fp64", "fp32", "fp16", "bf16"])
def test_every_operator_gives_what_the_arithmetic_defines(fmt):
    made, values = operators(fmt)
    rng = np.random.default_rng(1)
    inputs = {name: rng.normal(size=POINTS).round(3) * 3 for name in "XY"}
    inputs["X"][:4], inputs["Y"][:4] = [2.5, -2.5, 0, 1.25], [1.25, 1.25, -1.5, 0]
    got = csim.execute(made, inputs)
    for name, op, wanted in expected(values, fmt, inputs):
        if fmt.startswith("fixed"):
            np.testing.assert_array_equal(got[name], wanted, err_msg=op)
        else:
            rounding = {"fp64": 1e-14, "fp32": 2e-6, "fp16": 2e-3, "bf16": 1e-2}[fmt]
            np.testing.assert_allclose(got[name], wanted, rtol=rounding, atol=1e-7, err_msg=op)


def test_indices_divide_as_in_python_and_stay_whole():
    i = Op("-", (Name("i"), whole(7)))
    exprs = {
        "A": Op("//", (i, whole(3))),
        "B": Op("%", (i, whole(3))),
        "C": Op("clamp", (Op("abs", (i,)), whole(2), whole(5))),
        "D": Op("where", (Op("<", (i, whole(0))), Op("neg", (i,)), Op("sq", (i,)))),
        "E": Op("%", (Op("*", (Name("i"), whole(2_000_000_011))), whole(97))),
        "F": Op("max", (Op("sign", (i,)), Op("step", (i,)))),
    }
    body = loop("i", 15, *(store(k, Op("float", (e,)), "i") for k, e in exprs.items()))
    for fmt in ("fp32", "fixed<24,12>"):
        got = csim.execute(program([], [Buffer(k, (15,)) for k in exprs], body, fmt), {})
        wanted = {
            "A": [(i - 7) // 3 for i in range(15)],
            "B": [(i - 7) % 3 for i in range(15)],
            "C": [min(max(abs(i - 7), 2), 5) for i in range(15)],
            "D": [7 - i if i < 7 else (i - 7) ** 2 for i in range(15)],
            "E": [i * 2_000_000_011 % 97 for i in range(15)],
            "F": [max(np.sign(i - 7), int(i >= 7)) for i in range(15)],
        }
        for name, values in wanted.items():
            np.testing.assert_array_equal(got[name], values, err_msg=f"{name} in {fmt}")


def test_the_side_that_is_not_chosen_is_not_evaluated():
    before = Op("-", (Name("i"), whole(1)))
    inside = Op(">=", (before, whole(0)))
    shifted = Op("where", (inside, Load("X", (before,)), Const(0.5)))
    guarded = Op("where", (inside, Op(">", (Load("X", (before,)), Const(1.0))), inside))
    body = loop("i", 4, store("Y", shifted, "i"), If(guarded, store("Y", Const(9.0), "i")))
    made = program([Buffer("X", (3,))], [Buffer("Y", (4,))], body, "fixed<16,6>")
    assert Printer(made, Notes()).value(guarded, 0) == "i - 1 >= 0 && X[i - 1] > const_0"
    inputs = {"X": np.array([0.25, 1.5, -3.0])}
    flags = ("-fsanitize=address,undefined", "-fno-sanitize=shift-base")
    for extra in ((), flags):
        got = csim.execute(made, inputs, flags=extra)
        np.testing.assert_array_equal(got["Y"], [0.5, 0.25, 9, -3])


def test_gather_mask_ragged_loops_and_registers():
    gathered = Load("X", (Load("T", (Name("i"),)),))
    by_value = Load("X", (Load("W", (Name("i"),)),))
    body = Alloc(
        Buffer("seen", (5,), "mask"),
        Alloc(
            Buffer("total", (), "acc"),
            Block(
                (
                    loop(
                        "i",
                        5,
                        store("seen", Op("==", (Op("%", (Name("i"), whole(2))), whole(0))), "i"),
                        store("total", Const(0.0)),
                        loop(
                            "j",
                            Op("+", (Name("i"), whole(1))),
                            store("total", Op("+", (load("total"), load("X", "j")))),
                        ),
                        store("Y", load("total"), "i"),
                        If(load("seen", "i"), store("Y", Op("+", (gathered, by_value)), "i")),
                    ),
                )
            ),
        ),
    )
    made = program(
        [Buffer("X", (5,)), Buffer("T", (5,), "index"), Buffer("W", (5,))],
        [Buffer("Y", (5,))],
        body,
        "fixed<16,8>",
        (24, 16),
    )
    x = np.array([1.0, 2.5, -3.25, 4.0, 100.0])
    table, weights = np.array([4, 0, 1, 0, 2]), np.array([0.0, 0, 2, 0, 1])
    got = csim.execute(made, {"X": x, "T": table, "W": weights})["Y"]
    np.testing.assert_array_equal(got, [101.0, 3.5, -0.75, 4.25, -0.75])
    with pytest.raises(DataError) as caught:
        csim.execute(made, {"X": x, "T": table + 0.5, "W": weights})
    assert str(caught.value) == (
        "input T holds 4.5, but its elements are used as indices\n"
        "fix: give whole numbers below 2**31"
    )


def test_extremes_start_a_fold_below_and_above_everything():
    parts = []
    for name, fold, start in (("top", "max", "-inf"), ("low", "min", "inf")):
        square = Op("*", (load("X", name), load("X", name)))
        value = square if fold == "min" else Op("neg", (square,))
        parts.append(
            Alloc(
                Buffer(f"acc_{name}", (), "acc"),
                Block(
                    (
                        store(f"acc_{name}", Const(float(start))),
                        loop(name, 3, store(f"acc_{name}", Op(fold, (load(f"acc_{name}"), value)))),
                        store("Y", load(f"acc_{name}"), whole(len(parts))),
                    )
                ),
            )
        )
    made = program(
        [Buffer("X", (3,))], [Buffer("Y", (2,))], Block(tuple(parts)), "fixed<16,8>", (40, 24)
    )
    got = csim.execute(made, {"X": np.array([100.0, -90, 95])})["Y"]
    np.testing.assert_array_equal(got, [-128.0, 128 - 2**-8])


def test_no_name_of_a_cascade_breaks_the_text():
    names = ["BIAS", "double", "1st", "x'", "x_", "exp", "index_t", "NULL"]
    variables = ["for", "int", "m", "probe_kernel", "m'"]
    body = Block(
        tuple(
            loop(v, 2, *(store(f"{n} out", load(n, v), v) for n in names[i :: len(variables)]))
            for i, v in enumerate(variables)
        )
    )
    made = program(
        [Buffer(n, (2,)) for n in names], [Buffer(f"{n} out", (2,)) for n in names], body
    )
    made = replace(made, name="exp")
    assert top_name(made) == "exp_kernel"
    texts = identifiers(made)
    assert len(set(texts.values())) == len(texts)
    assert texts["for"] == "for_"
    assert texts["BIAS"] == "BIAS_"
    assert texts["1st"] == "x1st"
    # Files are named after the tensors; these names are fine on a file system.
    inputs = {n: np.array([float(i), -float(i)]) for i, n in enumerate(names)}
    got = csim.execute(made, inputs)
    for name in names:
        np.testing.assert_array_equal(got[f"{name} out"], inputs[name])


def test_intermediates_of_the_outer_memory_are_parameters():
    body = Alloc(
        Buffer("S", (3,), memory="dram"),
        Alloc(
            Buffer("L", (3,), memory="bram"),
            Block(
                (
                    loop("i", 3, store("S", Op("*", (load("X", "i"), load("X", "i"))), "i")),
                    loop("j", 3, store("L", load("S", "j"), "j"), store("Y", load("L", "j"), "j")),
                )
            ),
        ),
    )
    made = program([Buffer("X", (3,), memory="dram")], [Buffer("Y", (3,), memory="dram")], body)
    assert [each.name for each in workspace(made)] == ["S"]
    parameters = Printer(made, Notes()).parameters()
    assert parameters == ("const data_t X[3]", "data_t Y[3]", "data_t S[3]")
    got = csim.execute(made, {"X": np.array([1.0, 2, 3])})
    np.testing.assert_array_equal(got["Y"], [1, 4, 9])


@pytest.mark.parametrize("value", [0.1, -1 / 3, 1e-30, 3.0e38, 2.0**-149, 0.0])
def test_float_literals_are_exact(value):
    text = literal(value, parse_format("fp32"))
    assert text.endswith("f")
    assert np.float32(float(text[:-1])) == np.float32(value)
    assert float(literal(value, parse_format("fp64"))) == value


def test_constants_are_rounded_to_the_format_first():
    body = store("Y", Op("*", (Const(0.3), Const(0.3))))
    got = csim.execute(program([], [Buffer("Y", ())], body, "fixed<8,4>"), {})
    assert got["Y"] == 0.125  # round(0.3) = 5/16; its square 25/256 rounds to 2/16


@pytest.mark.parametrize("op", FLOAT_ONLY)
def test_operators_without_a_fixed_form_are_refused(op):
    body = store("Y", Op(op, (load("X", "i"),)), "i")
    made = program([Buffer("X", (2,))], [Buffer("Y", (2,))], loop("i", 2, body), "fixed<16,6>")
    with pytest.raises(DataError) as caught:
        Printer(made, Notes()).value(body.value, 0)
    assert str(caught.value) == (
        f"operator '{op}' has no fixed-point form (fixed<16,6>)\nfix: run it in fp32"
    )


def test_a_general_power_is_refused_in_fixed_point():
    body = store("Y", Op("**", (Const(2.0), load("X", "i"))), "i")
    made = program([Buffer("X", (2,))], [Buffer("Y", (2,))], loop("i", 2, body), "fixed<16,6>")
    with pytest.raises(DataError, match=r"^operator '\*\*' has no fixed-point form"):
        Printer(made, Notes()).value(body.value, 0)


def test_precedence_keeps_the_order_of_float_operations():
    x, y, z = (load("X", whole(i)) for i in range(3))
    exprs = {
        "x - (y - z)": Op("-", (x, Op("-", (y, z)))),
        "x - y - z": Op("-", (Op("-", (x, y)), z)),
        "x * (y + z)": Op("*", (x, Op("+", (y, z)))),
        "-(x + y)": Op("neg", (Op("+", (x, y)),)),
    }
    for wanted, expr in exprs.items():
        made = program([Buffer("X", (3,))], [Buffer("Y", ())], store("Y", expr))
        text = Printer(made, Notes()).value(expr, 0)
        for name, place in zip("xyz", range(3), strict=True):
            text = text.replace(f"X[{place}]", name)
        assert text == wanted


def test_unknown_nodes_are_loud():
    made = program([], [Buffer("Y", ())], store("Y", Const(0.0)))
    with pytest.raises(TypeError, match=r"^cannot print str"):
        Printer(made, Notes()).value("nothing", 0)

"""TVM on this CPU against NumPy: operators, types, loop kinds, refusals, and the artifact."""

import subprocess
import sys

import numpy as np
import pytest
from tvm_programs import (
    alloc,
    attention,
    causal_softmax,
    load,
    loop,
    num,
    op,
    program,
    store,
    val,
)

from penstock import zoo
from penstock.codegen.backends import Provenance
from penstock.codegen.loops.interp import run_program
from penstock.codegen.loops.nodes import Block, Buffer, If, Name, Program
from penstock.codegen.lower.program import lower
from penstock.codegen.tvm import cpu as tvm_cpu
from penstock.codegen.tvm import script as tvm_script
from penstock.codegen.tvm.expr import _CALLS, _LEVEL
from penstock.codegen.tvm.plan import plan
from penstock.codegen.tvm.script import identifiers, script
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.interpreter.arithmetic import _FLOAT
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.ops import OPERATORS
from penstock.einsum_ir.shapes import bind
from penstock.errors import DataError
from penstock.mapper.notation import parse_mapping
from penstock.mapper.search.build import default_mapping
from penstock.samples import random_inputs
from penstock.targets import TARGETS


def close(found, wanted, limit=1e-5):
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    assert np.array_equal(np.isfinite(found), np.isfinite(wanted))
    assert np.array_equal(found[~np.isfinite(found)], wanted[~np.isfinite(wanted)], equal_nan=True)
    some = np.isfinite(wanted)
    scale = max(float(np.abs(wanted[some]).max(initial=0.0)), 1e-30)
    assert float(np.abs(found[some] - wanted[some]).max(initial=0.0)) <= limit * scale


def grid(shape, seed=0, limit=128):
    """Multiples of 1/16: dot products are exact in fp32, logits go to about 1e3."""
    return np.random.default_rng(seed).integers(-limit, limit + 1, shape) / 16.0


def softmax(logits, axis=-1):
    top = logits.max(axis, keepdims=True)
    weights = np.exp(logits - np.where(np.isfinite(top), top, 0))
    return weights / weights.sum(axis, keepdims=True)


# --- operators --------------------------------------------------------------------------------

UNARY = sorted(name for name, each in OPERATORS.items() if each.arity == 1 and name in _FLOAT)
UNARY.remove("bitlen")  # `lower` leaves none
BINARY = sorted(name for name, each in OPERATORS.items() if each.arity == 2 and name in _FLOAT)


@pytest.mark.parametrize("fmt", ["fp32", "fp64"])
def test_every_unary_operator_is_numpys(fmt):
    dtype = np.float32 if fmt == "fp32" else np.float64
    x = np.concatenate(
        [np.linspace(-9, 9, 140), [0.5, -0.5, 1.5, 2.5, 1e-3, -1e-3, 0, 88, -88, 20]]
    )
    outputs = {f"Y_{name}": x.shape for name in UNARY}
    body = [
        loop(f"i{n}", len(x), store(f"Y_{name}", (f"i{n}",), op(name, load("X", f"i{n}"))), "simd")
        for n, name in enumerate(UNARY)
    ]
    found = tvm_cpu.execute(program("unary", {"X": x.shape}, outputs, body, fmt), {"X": x})
    for name in UNARY:
        with np.errstate(all="ignore"):
            wanted = _FLOAT[name](x.astype(dtype)).astype(np.float64)
        assert found[f"Y_{name}"].dtype == dtype
        same = np.isclose(found[f"Y_{name}"], wanted, rtol=3e-6, atol=3e-7, equal_nan=True)
        assert same.all(), (name, x[~same], found[f"Y_{name}"][~same], wanted[~same])


def test_every_binary_operator_is_numpys():
    x, y = grid((64,), 1), grid((64,), 2) + 1 / 32
    x[:8] = np.abs(x[:8])
    outputs = {f"Y{n}": x.shape for n in range(len(BINARY))}
    body = [
        loop(
            f"i{n}",
            64,
            store(f"Y{n}", (f"i{n}",), op(name, load("A", f"i{n}"), load("B", f"i{n}"))),
        )
        for n, name in enumerate(BINARY)
    ]
    given = {"A": x, "B": y}
    found = tvm_cpu.execute(program("binary", {"A": x.shape, "B": x.shape}, outputs, body), given)
    for n, name in enumerate(BINARY):
        with np.errstate(all="ignore"):
            wanted = _FLOAT[name](x.astype(np.float32), y.astype(np.float32)).astype(np.float64)
        assert np.allclose(found[f"Y{n}"], wanted, rtol=1e-5, equal_nan=True), name


def test_the_tables_cover_every_operator():
    ours = {*_CALLS, *_LEVEL, "neg", "max", "min", "abs", "clamp", "not", "where", "**"}
    assert ours == OPERATORS.keys() - {"fill", "bitlen"}  # `lower` leaves none of these


def test_exp_is_within_an_ulp_and_exact_at_the_ends():
    x = np.linspace(-110, 95, 1 << 16).astype(np.float32)
    x[:9] = [-np.inf, np.inf, np.nan, 0, -0.0, 1e30, -1e30, -200, 88.72283]
    body = loop("i", len(x), store("Y", ("i",), op("exp", load("X", "i"))), "simd")
    y = tvm_cpu.execute(program("exps", {"X": x.shape}, {"Y": x.shape}, body), {"X": x})["Y"]
    assert y[:8].tolist()[:2] == [0, np.inf]
    assert np.isnan(y[2])
    assert y[3:8].tolist() == [1, 1, np.inf, 0, 0]
    with np.errstate(all="ignore"):
        wanted = np.exp(x.astype(np.float64))
        ulp = np.spacing(wanted.astype(np.float32))
    usual = (wanted > 1.7e-38) & (wanted < 3.4e38)
    assert (np.abs(y[usual] - wanted[usual]) / ulp[usual]).max() < 1
    assert not y[wanted < 8e-39].any()  # no subnormals


def test_integers_floor_and_fold_as_in_python():
    cases = {
        "A": op("//", op("-", "i", num(7)), num(3)),
        "B": op("%", op("-", "i", num(7)), num(3)),
        "C": op("max", num(3), op("min", "i", num(9))),
        "D": op(
            "where", op("and", op(">", "i", num(2)), op("not", op("==", "i", num(5)))), "i", num(-1)
        ),
        "E": op("clamp", op("*", "i", "i"), num(4), num(50)),
        "F": op("sq", op("-", "i", num(3))),
        "G": op("sign", op("-", "i", num(3))),
        "H": op("step", op("-", "i", num(3))),
        "I": op("relu", op("-", "i", num(3))),
        "J": op("//", num(-7), num(2)),
        "K": op("**", op("float", "i"), val(2.0)),
    }
    body = [loop(f"{n}_", 12, []) for n in ()]
    for n, expr in cases.items():
        i = f"i_{n}"

        def moved(each, i=i):
            if isinstance(each, Name):
                return Name(i)
            return op(each.op, *map(moved, each.args)) if hasattr(each, "args") else each

        body.append(loop(i, 12, store(n, (i,), op("float", moved(expr)))))
    found = tvm_cpu.execute(program("ints", {}, dict.fromkeys(cases, (12,)), body), {})
    i = np.arange(12)
    wanted = {
        "A": (i - 7) // 3,
        "B": (i - 7) % 3,
        "C": np.maximum(3, np.minimum(i, 9)),
        "D": np.where((i > 2) & (i != 5), i, -1),
        "E": np.clip(i * i, 4, 50),
        "F": (i - 3) ** 2,
        "G": np.sign(i - 3),
        "H": i >= 3,
        "I": np.maximum(i - 3, 0),
        "J": np.full(12, -4),
        "K": i**2,
    }
    for n, each in wanted.items():
        assert np.array_equal(found[n], each), n


def test_where_evaluates_only_the_chosen_side_of_what_may_lie_outside():
    shifted = load("X", op("-", "i", num(3)))
    body = loop(
        "i", 16, store("Y", ("i",), op("where", op(">=", "i", num(3)), shifted, val(9.0))), "simd"
    )
    shown = tvm_cpu.schedule(program("shift", {"X": (13,)}, {"Y": (16,)}, body))
    assert "T.if_then_else(" in shown
    x = grid((13,))
    y = tvm_cpu.execute(program("shift", {"X": (13,)}, {"Y": (16,)}, body), {"X": x})["Y"]
    assert y.tolist() == [9, 9, 9, *x]


# --- programs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", ["fp32", "fp64", "fp16", "bf16"])
@pytest.mark.parametrize(("rows", "columns"), [(5, 9), (40, 50), (130, 200)])
def test_masked_softmax_of_large_logits(rows, columns, fmt):
    made = causal_softmax(rows, columns, fmt=fmt)
    logits = grid((rows, columns), limit=16000)
    kept = np.arange(columns)[None] <= np.arange(rows)[:, None]
    given = np.float64(logits) if fmt == "fp64" else logits
    if fmt in {"fp16", "bf16"}:  # as the program sees them
        given = run_program(made, {"T": logits})["S"]
        close(tvm_cpu.execute(made, {"T": logits})["S"], given, 1e-2)
        return
    wanted = softmax(np.where(kept, given, -np.inf))
    close(tvm_cpu.execute(made, {"T": logits})["S"], wanted, 1e-5 if fmt == "fp32" else 1e-13)


@pytest.mark.parametrize("kinds", [("core", "simd"), ("block", "thread"), ("pe", "pe"), ("", "")])
@pytest.mark.parametrize("shape", [(2, 13, 9, 5, 6), (3, 50, 70, 40, 64), (1, 1, 1, 1, 1)])
def test_attention_with_any_kind_of_loops(shape, kinds):
    made = attention(*shape, kinds=kinds)
    given = {each.name: grid(each.shape, n) for n, each in enumerate(made.inputs)}
    logits = np.einsum("hpe,hme->hpm", given["Q"], given["K"])
    close(tvm_cpu.execute(made, given)["O"], softmax(logits) @ given["V"])


@pytest.mark.parametrize("reduction", ["+", "max", "min", "*"])
@pytest.mark.parametrize("extent", [1, 15, 16, 64, 100, 257])
@pytest.mark.parametrize("kind", ["", "simd"])
def test_reductions_over_lanes_keep_every_element(reduction, extent, kind):
    start = {"+": 0.0, "max": -np.inf, "min": np.inf, "*": 1.0}[reduction]
    term = (
        load("X", "r", "i")
        if reduction != "*"
        else op("+", val(1.0), op("/", load("X", "r", "i"), val(999.0)))
    )
    body = loop(
        "r",
        3,
        [
            store("Y", ("r",), val(start)),
            loop("i", extent, store("Y", ("r",), op(reduction, load("Y", "r"), term)), kind),
        ],
    )
    made = program("reduce", {"X": (3, extent)}, {"Y": (3,)}, body)
    x = grid((3, extent))
    fold = {
        "+": np.sum,
        "max": np.max,
        "min": np.min,
        "*": lambda a, axis: np.prod(1 + a / 999, axis),
    }
    close(tvm_cpu.execute(made, {"X": x})["Y"], fold[reduction](x, axis=1), 2e-6)


def test_a_spatial_reduction_is_never_a_race():
    body = [
        loop("z", 8, store("Y", ("z",), val(0.0))),
        loop(
            "p",
            64,
            loop("q", 8, store("Y", ("q",), op("+", load("Y", "q"), load("X", "p", "q"))), "simd"),
            "core",
        ),
    ]
    made = program("race", {"X": (64, 8)}, {"Y": (8,)}, body)
    assert "parallel" not in plan(made)[1].values()
    x = grid((64, 8))
    close(tvm_cpu.execute(made, {"X": x})["Y"], x.sum(0))


def test_lanes_that_a_condition_tells_apart():
    inside = op("<=", op("+", op("*", "o", num(32)), "i"), "p")
    value = op("*", load("X", "p", op("+", op("*", "o", num(32)), "i")), val(2.0))
    body = loop(
        "p",
        96,
        loop(
            "o",
            3,
            loop(
                "i",
                32,
                If(inside, store("Y", ("p", op("+", op("*", "o", num(32)), "i")), value)),
                "simd",
            ),
        ),
        "core",
    )
    zero = loop("zp", 96, loop("zi", 96, store("Y", ("zp", "zi"), val(0.0))))
    made = program("lanes", {"X": (96, 96)}, {"Y": (96, 96)}, [zero, body])
    x = grid((96, 96))
    assert np.array_equal(tvm_cpu.execute(made, {"X": x})["Y"], np.tril(x) * 2)
    text = tvm_cpu.schedule(made)
    assert "if o * 32 + 31 <= p:" in text
    assert "T.vectorized(32)" in text


def test_masks_and_private_buffers_in_lanes():
    flags = [
        loop("a", 40, store("F", ("a",), op("<", load("X", "a"), val(0.0))), "simd"),
        loop(
            "b",
            40,
            alloc(
                "t",
                (2,),
                [
                    store("t", (num(0),), op("abs", load("X", "b"))),
                    store("t", (num(1),), op("*", load("t", num(0)), val(3.0))),
                    store(
                        "Y", ("b",), op("where", load("F", "b"), load("t", num(1)), load("X", "b"))
                    ),
                ],
            ),
            "simd",
        ),
    ]
    made = program("flags", {"X": (40,)}, {"Y": (40,)}, alloc("F", (40,), flags, "mask"))
    x = grid((40,))
    assert np.array_equal(tvm_cpu.execute(made, {"X": x})["Y"], np.where(x < 0, 3 * np.abs(x), x))


def test_gather_by_an_index_buffer():
    body = loop("i", 20, store("Y", ("i",), load("X", load("J", "i"))), "simd")
    given = (Buffer("X", (7,)), Buffer("J", (20,), "index"))
    made = Program("gather", given, (Buffer("Y", (20,)),), body, parse_format("fp16"))
    j, x = np.arange(20) * 3 % 7, grid((7,))
    assert np.array_equal(tvm_cpu.execute(made, {"X": x, "J": j})["Y"], x[j])
    with pytest.raises(DataError) as error:
        tvm_cpu.execute(made, {"X": x, "J": j + 0.5})
    assert str(error.value) == (
        "input J is used as an index and has elements that are no whole numbers of 32 bits\n"
        "fix: give integers"
    )


def test_names_that_python_or_tvm_use_are_spelled_differently():
    body = loop("lambda", 3, store("I", ("lambda",), load("T", "lambda")))
    made = program("main", {"T": (3,)}, {"I": (3,)}, body)
    assert identifiers(made) == {"T": "T_", "I": "I_", "lambda": "lambda_"}
    assert tvm_cpu.execute(made, {"T": np.arange(3)})["I"].tolist() == [0, 1, 2]
    odd = program("odd", {"p_exp": (3,), "T_": (3,)}, {"T": (3,)}, Block(()))
    assert identifiers(odd) == {"p_exp": "vp_exp", "T_": "T_", "T": "T__"}


def test_a_serial_program_prints_the_mapping_and_reads_plainly():
    assert script(causal_softmax(4, 5), {"p": "parallel"}) == SOFTMAX


SOFTMAX = """\
@I.ir_module
class Module:
    @T.prim_func
    def main(T_: T.Buffer((4, 5), "float32", align=1), S: T.Buffer((4, 5), "float32", align=1)):
        with T.attr(0, "pragma_parallel_launch_point", 1):
            with T.attr(0, "pragma_parallel_stride_pattern", 1):
                for p in T.parallel(4):  # for p
                    g = T.alloc_buffer((1,), "float32")
                    d = T.alloc_buffer((1,), "float32")
                    g[0] = T.float32("-inf")
                    for m in T.serial(5):
                        if m <= p:
                            g[0] = T.max(g[0], T_[p, m])
                    d[0] = T.float32(0.0)
                    for m1 in T.serial(5):
                        if m1 <= p:
                            d[0] = d[0] + p_exp(T_[p, m1] - g[0])
                    for m2 in T.serial(5):
                        S[p, m2] = T.Select(m2 <= p, p_exp(T_[p, m2] - g[0]) / d[0], T.float32(0.0))
"""


def test_a_buffer_beyond_32_bits_gets_64_bit_indices():
    body = loop("i", 4, loop("j", 1 << 30, store("Y", ("i", "j"), val(0.0))))
    text = script(program("big", {}, {"Y": (4, 1 << 30)}, body))
    assert "T.Buffer((T.int64(4), T.int64(1073741824))" in text
    assert "for j in T.serial(T.int64(1073741824)):" in text


# --- cascades ---------------------------------------------------------------------------------

SMALL = [
    ("attention_1pass", {"b": 2, "h": 3, "p": 37, "m": 37, "e": 16, "f": 20, "m0": 16}),
    ("attention_1pass", {"b": 1, "h": 1, "p": 1, "m": 1, "e": 1, "f": 1, "m0": 16}),
    ("attention", {"h": 71, "p": 9, "m": 11, "e": 64, "f": 64}),
    ("causal_attention_1pass", {"h": 2, "p": 37, "m": 64, "e": 96, "f": 96, "m0": 16}),
    ("causal_attention", {"h": 1, "p": 130, "m": 67, "e": 16, "f": 33}),
    ("gqa_causal_1pass", {"h": 4, "g": 2, "p": 100, "m": 100, "e": 64, "f": 128, "m0": 64}),
    ("gqa_causal", {"h": 8, "g": 1, "p": 65, "m": 65, "e": 16, "f": 64}),
    ("sliding_window", {"h": 2, "p": 90, "m": 90, "e": 16, "f": 16}),
    ("attention_deferred", {"h": 3, "p": 37, "m": 1000, "e": 16, "f": 16}),
    ("linear_attention", {"h": 2, "p": 40, "m": 50, "e": 24, "f": 32}),
    ("cross", {"h": 2, "p": 20, "m": 30, "d": 12, "c": 18, "e": 16, "f": 16, "o": 40}),
    ("matmul", {"m": 70, "n": 90, "k": 110}),
]
LARGE = [
    ("attention_1pass", {"b": 1, "h": 12, "p": 1024, "m": 1024, "e": 64, "f": 64, "m0": 64}),
    ("gqa_causal_1pass", {"h": 8, "g": 2, "p": 1000, "m": 1000, "e": 128, "f": 128, "m0": 64}),
    ("gqa_causal", {"h": 4, "g": 1, "p": 1024, "m": 1024, "e": 64, "f": 64}),
]


def agree(name, shapes, fmt, machine="cpu"):
    """Logits go to about 1e3; with SC = 1/8 they are exact in fp32."""
    cascade, form, target = zoo.load(name), parse_format(fmt), TARGETS.get(machine)
    named = {each for each, _ in cascade.constants}
    constants = {"SC": 0.125, "W": 7.0}
    bound = bind(cascade, shapes=shapes, constants={n: constants[n] for n in named & {*constants}})
    made = lower(bound, default_mapping(bound, target, form), target, form)
    inputs = random_inputs(bound, form)
    wanted, found = interpret(bound, inputs, form), tvm_cpu.execute(made, inputs)
    for output, each in wanted.items():
        close(found[output], each, {"fp64": 1e-12, "fp32": 1e-5}.get(fmt, 2e-2))


@pytest.mark.parametrize(("name", "shapes"), SMALL)
def test_cascades_agree_with_the_interpreter(name, shapes):
    agree(name, shapes, "fp32")


def test_functions_of_coordinates_inside_functions():
    """TVM takes a binding in a binding for a conflict where a copy of the loop gives it a value."""
    text = """cascade nested(X[h, p]) -> O[h, p], R[h, p]
      O[h, p] = sq(sq(exp2(h))) * X[h, p]
      R[h, p] = silu(exp2(h - p)) + sigmoid(exp2(-h)) * X[h, p]
      format R = bf16"""
    bound, target = bind(parse(text), shapes={"h": 2, "p": 21}), TARGETS.get("cpu")
    form = parse_format("fp32")
    inputs = random_inputs(bound, form)
    made = lower(bound, default_mapping(bound, target, form), target, form)
    wanted, found = interpret(bound, inputs, form), tvm_cpu.execute(made, inputs)
    for output, each in wanted.items():
        close(found[output], each, {"O": 1e-5, "R": 2**-8}[output])


def test_windows_that_differ_are_summed_along_lanes():
    """Keys of a neighbourhood would be gathered: the lanes lie along what is contiguous."""
    shapes = {"h": 2, "y": 9, "x": 19, "i": 3, "j": 5, "e": 32, "f": 32, "r": 5, "c": 9}
    bound = bind(zoo.load("neighborhood_2d"), shapes=shapes)
    mapping = default_mapping(bound, TARGETS.get("cpu"), parse_format("fp32"))
    assert "QK on vector: x, i, j, e@lanes" in str(mapping)
    agree("neighborhood_2d", shapes, "fp32")


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["fusemax", "h200", "mesh4x4"])
@pytest.mark.parametrize(("name", "shapes"), SMALL[3:6])
def test_mappings_of_other_machines_run_too(name, shapes, machine):
    agree(name, shapes, "fp32", machine)


@pytest.mark.parametrize("fmt", ["fp64", "fp16", "bf16"])
@pytest.mark.parametrize(("name", "shapes"), SMALL[4:7])
def test_cascades_agree_in_other_formats(name, shapes, fmt):
    agree(name, shapes, fmt)


@pytest.mark.slow
@pytest.mark.parametrize("fmt", ["fp32", "fp64", "fp16"])
@pytest.mark.parametrize(("name", "shapes"), LARGE)
def test_full_size_cascades_agree_with_the_interpreter(name, shapes, fmt):
    agree(name, shapes, fmt)


@pytest.mark.parametrize("name", ["gqa_causal_1pass", "sliding_window", "matmul"])
def test_programs_with_64_bit_indices_give_the_same(monkeypatch, name):
    monkeypatch.setattr(tvm_script, "is_wide", lambda program: True)
    agree(*next(each for each in SMALL if each[0] == name), "fp32")


# --- what is refused --------------------------------------------------------------------------


def test_fixed_point_is_refused():
    made = causal_softmax(4, 5, fmt="fixed<16,6>")
    for refuse in (lambda: tvm_cpu.execute(made, {}), lambda: script(made)):
        with pytest.raises(DataError) as error:
            refuse()
        assert str(error.value) == ("the TVM backends have no fixed<16,6>\nfix: use --backend hls")


def test_wrong_inputs_are_refused():
    kernel = tvm_cpu.build(causal_softmax(4, 5))
    with pytest.raises(DataError) as error:
        kernel({"X": np.zeros(3)})
    assert str(error.value) == "input T is missing (given: X)\nfix: give T"
    with pytest.raises(DataError) as error:
        kernel({"T": np.zeros((5, 4))})
    assert str(error.value) == (
        "input T has shape (5, 4), the program wants (4, 5)\n"
        "fix: lower the program again for these shapes"
    )


# --- artifact and silence ---------------------------------------------------------------------


def test_the_schedule_file_runs_on_its_own(tmp_path):
    made = attention(2, 20, 30, 16, 16, kinds=("core", "simd"))
    source = Provenance("attn", "0123456789ab", "penstock generate attn.json --backend tvm")
    generated = tvm_cpu.artifact(made, TARGETS.get("cpu"), source)
    assert generated == tvm_cpu.artifact(made, TARGETS.get("cpu"), source)
    generated.save(tmp_path / "out")
    text = (tmp_path / "out" / "attn_tvm.py").read_text()
    assert "design 0123456789ab" in text
    assert "penstock generate attn.json --backend tvm" in text
    done = subprocess.run(
        [sys.executable, "-W", "error", "attn_tvm.py"],
        cwd=tmp_path / "out",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("O (2, 20, 16): mean ")
    assert done.stderr == ""
    run = [sys.executable, "attn_tvm.py", "--library"]
    subprocess.run(run, cwd=tmp_path / "out", check=True, capture_output=True)
    code = (
        "import sys; sys.modules['tvm'] = None\n"
        "import numpy as np, attn_load\n"
        "sizes = {name: shape for name, shape, _ in attn_load.INPUTS}\n"
        "given = {name: np.ones(shape, 'f4') for name, shape in sizes.items()}\n"
        "print(attn_load.load()(given)['O'].min(), attn_load.load(threads=1)(given)['O'].max())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "out", capture_output=True, text=True
    )
    assert done.stdout.split() == ["1.0", "1.0"], done.stderr[-2000:]


def test_nothing_is_printed(capfd):
    tvm_cpu.execute(causal_softmax(4, 5), {"T": grid((4, 5))})
    assert capfd.readouterr() == ("", "")


ONE_CORE = """mapping m for eca on cpu
keep GP, CV in cache
GP on vector: n, c@lanes
CV on vector: k, c@lanes
O on vector: n, c@lanes
"""


def test_what_a_condition_leaves_out_is_not_read_outside_either():
    """TVM took the bounds of an index from the condition of `T.Select` and read before a buffer."""
    bound, target = bind(zoo.load("eca"), shapes={"n": 8, "c": 4, "k": 3}), TARGETS.get("cpu")
    made = lower(bound, parse_mapping(ONE_CORE), target, parse_format("fp32"))
    assert "p_select(" in tvm_cpu.schedule(made)
    inputs = random_inputs(bound, parse_format("fp32"))
    wanted = interpret(bound, inputs, parse_format("fp32"))["O"]
    close(tvm_cpu.execute(made, inputs)["O"], wanted)

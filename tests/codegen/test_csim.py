"""C simulation: bit for bit the interpreter in fixed point; every function against `numerics`."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files

import numpy as np
import pytest

from penstock import zoo
from penstock.codegen.backends import Provenance
from penstock.codegen.hls import csim
from penstock.codegen.hls import generate as hls
from penstock.codegen.loops.nodes import Alloc, Buffer, Const, Program, Store
from penstock.codegen.lower.program import lower
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.interpreter.numerics import FIXED_FUNCTIONS, divide_fixed
from penstock.einsum_ir.shapes import bind
from penstock.errors import DataError, ToolError
from penstock.mapper.search.build import default_mapping
from penstock.targets import TARGETS

SANITIZERS = (
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
    "-fno-sanitize=shift-base",  # the vendor headers shift negative numbers left
)


SMALL = {"b": 1, "h": 2, "n": 4, "k": 5, "p": 5, "m": 7, "e": 4, "f": 3}


def case(name, fmt, target="u280", **shapes):
    cascade = zoo.load(name)
    known = {rank for each in cascade.inputs for rank in each.ranks}
    known |= {variable for each in cascade.einsums for variable in each.variables}
    sizes = {rank: size for rank, size in (SMALL | shapes).items() if rank in known}
    bound = bind(cascade, shapes=sizes)
    kind, machine = parse_format(fmt), TARGETS.get(target)
    return bound, lower(bound, default_mapping(bound, machine, kind), machine, kind), kind


def hard_inputs(bound, seed=0, size=8.0):
    """Multiples of 1/16 up to `size`: products of two rows give large logits."""
    rng = np.random.default_rng(seed)
    steps = int(size * 16)
    return {
        each.tensor: rng.integers(-steps, steps + 1, bound.dims[each.tensor]) / 16
        for each in bound.cascade.inputs
    }


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("attention", {}),
        ("attention", {"m": 1}),
        ("attention", {"p": 1, "m": 37}),
        ("attention_2pass", {"m0": 3}),
        ("attention_1pass", {"m0": 3}),
        ("attention_deferred", {}),
        ("causal_attention", {"m": 37, "p": 37, "h": 1}),
        ("causal_attention_1pass", {"m": 9, "p": 9, "m0": 4}),
        ("gqa_causal", {"h": 4, "p": 6, "m": 6, "g": 2}),
        ("sliding_window", {"p": 9, "m": 9}),
        ("linear_attention", {}),
        ("matmul", {}),
    ],
)
def test_fixed_point_equals_the_interpreter_bit_for_bit(name, shapes):
    bound, program, kind = case(name, "fixed<16,8>", **shapes)
    for seed, size in enumerate((8.0, 1.0)):
        inputs = hard_inputs(bound, seed, size)
        wanted, got = interpret(bound, inputs, kind), csim.execute(program, inputs)
        assert got.keys() == wanted.keys()
        for tensor, values in wanted.items():
            np.testing.assert_array_equal(got[tensor], values, err_msg=f"{tensor}, size {size}")
    if name.endswith("attention"):
        assert np.any(got["O"])


@pytest.mark.parametrize("fmt", ["fixed<16,6>", "fixed<24,10>"])
def test_other_fixed_formats_equal_the_interpreter(fmt):
    bound, program, kind = case("attention", fmt)
    for seed, size in enumerate((8.0, 0.5)):
        inputs = hard_inputs(bound, seed, size)
        got = csim.execute(program, inputs)
        np.testing.assert_array_equal(got["O"], interpret(bound, inputs, kind)["O"])


@pytest.mark.parametrize(
    ("fmt", "close"), [("fp32", 1e-5), ("fp64", 1e-12), ("fp16", 4e-3), ("bf16", 3e-2)]
)
def test_floats_are_close_to_the_interpreter(fmt, close):
    bound, program, kind = case("causal_attention", fmt, h=2, p=9, m=9, e=4, f=4)
    inputs = hard_inputs(bound)
    got = csim.execute(program, inputs)["O"]
    wanted = interpret(bound, inputs, kind)["O"].astype(np.float64)
    assert np.abs(got - wanted).max() <= close * np.abs(wanted).max()


@pytest.mark.slow
def test_nothing_is_read_or_written_out_of_bounds():
    bound, program, kind = case("sliding_window", "fixed<16,8>", h=1, p=5, m=5, e=2, f=2)
    inputs = hard_inputs(bound)
    got = csim.execute(program, inputs, flags=SANITIZERS)
    np.testing.assert_array_equal(got["O"], interpret(bound, inputs, kind)["O"])


def test_a_head_of_bert_takes_seconds():
    bound, program, kind = case("attention", "fixed<16,6>", h=1, p=256, m=256, e=64, f=64)
    inputs = hard_inputs(bound, size=0.5)
    got = csim.execute(program, inputs)["O"]
    np.testing.assert_array_equal(got, interpret(bound, inputs, kind)["O"])


# --- the functions of penstock_fixed.hpp ------------------------------------------------------

FORMATS = [(16, 6), (24, 10), (32, 12), (8, 3), (16, 1), (32, 32), (2, 1)]
ARGUMENTS = [(17, 7), (48, 28), (24, 24), (33, 1)]
QUOTIENTS = [((16, 6), (16, 6)), ((48, 28), (16, 8)), ((17, 1), (40, 30)), ((64, 32), (30, 20))]
CHOSEN = ("-DPK_POLYNOMIAL", "-DPK_NEWTON", "-DPK_EXACT_WIDTHS")
COUNT = 400


def calls(formats):
    """Yield (function, format, the types of its arguments)."""
    for fmt in formats:
        for function in FIXED_FUNCTIONS:
            yield from ((function, fmt, (argument,)) for argument in ARGUMENTS)
        yield from (("div", fmt, pair) for pair in QUOTIENTS)


def integers(rng, bits):
    """Integers of every magnitude that `bits` bits hold, the extremes first."""
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    down = rng.integers(max(0, 62 - bits), 62, COUNT)
    big = rng.integers(0, 1 << 62, COUNT)
    size = [int(n) >> int(shift) for n, shift in zip(big, down, strict=True)]
    values = [int(np.clip(each * (1 - 2 * (n % 2)), low, high)) for n, each in enumerate(size)]
    return np.array([low, high, 0, 1, -1, low + 1, *values[6:]], dtype=np.int64)


def harness(formats):
    lines = ['#include "penstock_fixed.hpp"', "#include <cstdio>", "using namespace pk;"]
    lines.append(f"static int64 a[{COUNT}], b[{COUNT}];")
    lines.append("template <class F> void each(int arguments, F function) {")
    lines.append(f"  if (std::fread(a, 8, {COUNT}, stdin) != {COUNT}) return;")
    lines.append(f"  if (arguments > 1 && std::fread(b, 8, {COUNT}, stdin) != {COUNT}) return;")
    lines.append(f"  for (int i = 0; i < {COUNT}; ++i) {{")
    lines.append("    const int64 n = function(i);")
    lines.append("    std::fwrite(&n, 8, 1, stdout);")
    lines.append("  }\n}\nint main() {")
    for function, (width, integer), types in calls(formats):
        values = (
            f"from_raw<ap_fixed<{w}, {i}> >({name}[i])"
            for name, (w, i) in zip("ab", types, strict=False)
        )
        kind = f"ap_fixed<{width}, {integer}, AP_RND, AP_SAT>"
        call = f"raw(pk::{function}<{kind} >({', '.join(values)}))"
        lines.append(f"  each({len(types)}, [](int i) -> int64 {{ return {call}; }});")
    return "\n".join([*lines, "}"])


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("-DPK_EXACT_WIDTHS", "-std=c++14"), SANITIZERS, CHOSEN])
def test_every_function_equals_the_integer_algorithm(tmp_path, flags):
    source = tmp_path / "harness.cpp"
    formats = FORMATS if not flags else FORMATS[1:3]  # templates of wide words take long to compile
    formats = formats if flags is not CHOSEN else FORMATS[:2]
    algorithms = ",poly,newton" if flags is CHOSEN else ""
    source.write_text(harness(formats))
    include = [f"-I{files('penstock.hls_templates')}", f"-isystem{csim.header_folder()}"]
    command = [
        "g++",
        *csim.FLAGS,
        "-O1",
        *flags,
        *include,
        str(source),
        "-o",
        str(tmp_path / "run"),
    ]
    subprocess.run(command, check=True)
    rng = np.random.default_rng(2)
    given = [[integers(rng, bits) for bits, _ in types] for _, _, types in calls(formats)]
    for each in given:
        if len(each) > 1:
            each[0][6:9], each[1][6:9] = (5, -5, 0), 0
    data = b"".join(array.tobytes() for each in given for array in each)
    said = subprocess.run([str(tmp_path / "run")], input=data, capture_output=True, check=True)
    got = np.frombuffer(said.stdout, dtype=np.int64).reshape(-1, COUNT)
    for (function, fmt, types), args, result in zip(calls(formats), given, got, strict=True):
        kind = parse_format(f"fixed<{fmt[0]},{fmt[1]}{algorithms}>")
        fractions = [bits - whole for bits, whole in types]
        if function == "div":
            wanted = divide_fixed(args[0], fractions[0], args[1], fractions[1], kind)
        else:
            wanted = FIXED_FUNCTIONS[function](args[0], fractions[0], kind)
        np.testing.assert_array_equal(result, wanted, err_msg=f"{function} {kind} of {types}")


# --- 16-bit floats ----------------------------------------------------------------------------

HALF = """
#include "penstock_half.hpp"
#include <cstdio>
int main() {
  float x;
  while (std::fread(&x, 4, 1, stdin) == 1) {
    const pk::uint16 bits[2] = {pk::to_fp16(x), pk::to_bf16(x)};
    const float back[2] = {pk::from_fp16(bits[0]), float(pk::storage<pk::bfloat16>::set(bits[1]))};
    std::fwrite(bits, 2, 2, stdout);
    std::fwrite(back, 4, 2, stdout);
  }
}
"""


def test_half_floats_round_to_nearest_even(tmp_path):
    source = tmp_path / "half.cpp"
    source.write_text(HALF)
    include = f"-I{files('penstock.hls_templates')}"
    command = ["g++", *csim.FLAGS, include, str(source), "-o", str(tmp_path / "run")]
    subprocess.run(command, check=True)
    rng = np.random.default_rng(3)
    halves = np.arange(0, 0x7C00, 7, dtype=np.uint16).view(np.float16).astype(np.float32)
    middles = (halves[1:] + halves[:-1]) / 2
    special = np.array(
        [0.0, -0.0, np.inf, -np.inf, 65519.9, 65520, 65504, 2.0**-25, 2.0**-24, 1e-40]
    )
    x = np.concatenate([halves, middles, -middles, special, rng.normal(size=2000)]).astype("<f4")
    said = subprocess.run(
        [str(tmp_path / "run")], input=x.tobytes(), capture_output=True, check=True
    )
    got = np.frombuffer(said.stdout, dtype=[("bits", "<u2", 2), ("back", "<f4", 2)])
    with np.errstate(over="ignore"):
        fp16 = x.astype(np.float16)
    np.testing.assert_array_equal(got["bits"][:, 0], fp16.view(np.uint16))
    np.testing.assert_array_equal(got["back"][:, 0], fp16.astype(np.float32))
    kind, buffer = parse_format("bf16"), Buffer("X", x.shape)
    brain = np.frombuffer(hls.encode(x, buffer, kind), "<u2")
    np.testing.assert_array_equal(got["bits"][:, 1], brain)
    np.testing.assert_array_equal(got["back"][:, 1], hls.decode(brain.tobytes(), buffer, kind))


# --- tools, caches, errors --------------------------------------------------------------------


def constant(value=1.5, fmt="fp32", extra=()):
    buffers = (Buffer("X", (2, 3)),)
    body = Store("Y", (), Const(value))
    for each in extra:
        body = Alloc(each, body)
    return Program("constant", buffers, (Buffer("Y", ()),), body, parse_format(fmt))


X = {"X": np.zeros((2, 3))}


def test_a_compiled_program_is_kept_and_shared(tmp_path):
    program = constant(2.5)
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: csim.build(program, cache=tmp_path), range(4)))
    assert len(set(paths)) == 1
    assert [each.name for each in tmp_path.iterdir()] == [paths[0].name]
    before = paths[0].stat().st_mtime_ns
    assert csim.execute(program, X, cache=tmp_path)["Y"] == 2.5
    assert paths[0].stat().st_mtime_ns == before
    assert csim.build(constant(3.5), cache=tmp_path) != paths[0]


def test_missing_and_misshapen_inputs_are_named():
    with pytest.raises(DataError) as caught:
        csim.execute(constant(), {})
    assert str(caught.value) == (
        "input X is missing; constant needs (2, 3)\nfix: give X as an array of shape (2, 3)"
    )
    with pytest.raises(DataError) as caught:
        csim.execute(constant(), {"X": np.zeros(3)})
    assert str(caught.value) == (
        "input X has shape (3,); constant needs (2, 3)\nfix: give X as an array of shape (2, 3)"
    )


def test_a_missing_compiler_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError) as caught:
        csim.execute(constant(), X, cache=tmp_path)
    assert str(caught.value) == (
        "g++ is not installed: it compiles the C simulation\n"
        "fix: install it, e.g. apt-get install g++"
    )


def test_missing_headers_are_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ToolError) as caught:
        csim.header_folder()
    assert str(caught.value) == (
        "the headers ap_fixed.h and ap_int.h are missing: they come with the hls4ml wheel\n"
        "fix: pip install 'hls4ml>=1.3,<2'"
    )


def test_the_headers_are_found_without_importing_hls4ml():
    code = "import sys; from penstock.codegen.hls import csim; csim.header_folder()"
    code += "; assert 'hls4ml' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_warning_of_a_stream_is_a_failure(tmp_path):
    tool = tmp_path / "tool"
    for state, script in {
        "warned": "echo \"WARNING: Hls::stream 's' is read while empty\"",
        "exited with 3": "echo no; exit 3",
    }.items():
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
        with pytest.raises(ToolError) as caught:
            csim.run_checked([str(tool)], "the C simulation")
        lines = str(caught.value).splitlines()
        assert lines[0] == f"the C simulation {state}: {tool}"
        assert lines[2] == (
            "fix: this is a defect of the generated code: please report it with the design"
        )


def test_sources_are_the_same_each_time_and_compile_as_cpp14():
    program = constant(0.25, "fixed<16,6>", (Buffer("L", (2,)), Buffer("r", (), "acc")))
    source = Provenance("constant", "0")
    assert hls.sources(program, source) == hls.sources(program, source)
    assert csim.execute(program, X, flags=("-std=c++14",))["Y"] == 0.25

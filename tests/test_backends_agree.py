"""Cascades unlike the stock ones through every backend, compared with the interpreter.

Loops on every machine that has the operators, TVM on the CPU, C simulation. Floats agree to 1e-5
(fp32) or 1e-12 (fp64) of the largest value, fixed point bit for bit. Five cascades are computed by
plain NumPy too. Excluded: searched mappings (here all are `default_mapping`), and GPUs.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from penstock.codegen.hls import csim
from penstock.codegen.loops.interp import run_program
from penstock.codegen.lower.program import lower
from penstock.codegen.tvm import cpu as tvm_cpu
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.shapes import bind
from penstock.errors import DataError, MappingError
from penstock.mapper.check import check
from penstock.mapper.search.build import default_mapping
from penstock.targets import TARGETS

FOLDER = Path(__file__).resolve().parent / "cascades"
TOLERANCE = {"fp32": 1e-5, "fp64": 1e-12, "fixed<16,8>": 0.0}
GENERAL = ("cpu", "u280", "h200")
ATTENTION_ONLY = ("mesh4x4", "fusemax", "flat")
LACKING = {"capped": "tanh", "sigmoids": "sigmoid", "spikes": "step", "features": "cos"}
"""Cascade → an operator that the machines made for attention do not have."""
FLOAT_ONLY = {"features": "gelu"}
"""Cascade → an operator without a fixed-point form."""


@dataclass(frozen=True)
class Case:
    """A cascade of the folder, three sets of extents, and what its inputs hold.

    Values are multiples of 1/16 up to `size`, so that a product of two rows gives large logits
    that fp32 holds exactly. ``whole`` maps an input to the number below which its integers lie;
    ``gates`` are inputs between 0 and 1.
    """

    name: str
    shapes: tuple[dict[str, int], ...]
    size: float = 8.0
    whole: dict[str, int] = field(default_factory=dict)
    gates: tuple[str, ...] = ()

    def bound(self, number):
        text = (FOLDER / f"{self.name}.einsum").read_text()
        return bind(parse(text, file=self.name), shapes=self.shapes[number])

    def inputs(self, bound, seed, size=None):
        rng = np.random.default_rng(seed)
        return {
            each.tensor: self.array(rng, each.tensor, bound.dims[each.tensor], size or self.size)
            for each in bound.cascade.inputs
        }

    def array(self, rng, tensor, shape, size):
        if tensor in self.whole:
            return rng.integers(0, self.whole[tensor], shape).astype(float)
        if tensor in self.gates:
            return rng.integers(0, 17, shape) / 16
        steps = int(size * 16)
        return rng.integers(-steps, steps + 1, shape) / 16


CASES = (
    Case(
        "neighbourhood",
        (
            {"h": 2, "p": 5, "m": 5, "e": 4, "f": 3},
            {"h": 1, "p": 37, "m": 37, "e": 1, "f": 1},
            {"h": 1, "p": 1, "m": 1, "e": 4, "f": 5},
        ),
    ),
    Case(
        "dilated",
        (
            {"h": 2, "p": 10, "m": 10, "e": 4, "f": 3},
            {"h": 1, "p": 5, "m": 37, "e": 1, "f": 1},
            {"h": 1, "p": 5, "m": 1, "e": 2, "f": 5},
        ),
    ),
    Case(
        "documents",
        (
            {"h": 2, "p": 5, "m": 7, "e": 4, "f": 3},
            {"h": 1, "p": 37, "m": 5, "e": 1, "f": 1},
            {"h": 3, "p": 1, "m": 1, "e": 4, "f": 5},
        ),
        whole={"DQ": 3, "DK": 3},
        gates=("SL",),
    ),
    Case(
        "visibility",
        (
            {"p": 7, "m": 5, "e": 4, "f": 3, "a": 3, "z": 2},
            {"p": 5, "m": 37, "e": 1, "f": 1, "a": 2, "z": 3},
            {"p": 1, "m": 1, "e": 4, "f": 5, "a": 1, "z": 1},
        ),
        whole={"SP": 4, "SM": 3, "MT": 2},
    ),
    Case(
        "agents",
        (
            {"h": 2, "p": 5, "m": 4, "e": 4, "f": 3, "a": 2},
            {"h": 1, "p": 37, "m": 5, "e": 1, "f": 1, "a": 13},
            {"h": 1, "p": 1, "m": 1, "e": 4, "f": 5, "a": 1},
        ),
    ),
    Case(
        "lightning",
        (
            {"h": 2, "t": 5, "i": 2, "e": 4, "f": 3},
            {"h": 1, "t": 37, "i": 10, "e": 1, "f": 1},
            {"h": 1, "t": 1, "i": 1, "e": 2, "f": 5},
        ),
        size=2.0,
        gates=("SL",),
    ),
    Case(
        "retention",
        (
            {"h": 2, "t": 5, "e": 4, "f": 3},
            {"h": 1, "t": 37, "e": 1, "f": 1},
            {"h": 3, "t": 1, "e": 2, "f": 5},
        ),
        size=2.0,
        gates=("G",),
    ),
    Case(
        "titans",
        ({"t": 5, "d": 4, "f": 3}, {"t": 37, "d": 1, "f": 1}, {"t": 1, "d": 2, "f": 5}),
        size=0.5,
        gates=(
            "ETA",
            "TH",
            "AL",
        ),
    ),
    Case(
        "delta",
        ({"t": 5, "d": 4, "f": 3}, {"t": 37, "d": 1, "f": 1}, {"t": 1, "d": 2, "f": 5}),
        size=0.5,
        whole={"ON": 2},
        gates=(
            "BE",
            "GA",
        ),
    ),
    Case(
        "convolution",
        (
            {"n": 10, "c": 4, "d": 3, "y": 5, "i": 3},
            {"n": 37, "c": 1, "d": 1, "y": 19, "i": 10},
            {"n": 1, "c": 5, "d": 1, "y": 1, "i": 1},
        ),
    ),
    Case(
        "capped",
        (
            {"h": 4, "g": 2, "p": 3, "m": 7, "e": 4, "f": 3},
            {"h": 5, "g": 1, "p": 37, "m": 5, "e": 1, "f": 1},
            {"h": 1, "g": 1, "p": 5, "m": 1, "e": 4, "f": 5},
        ),
    ),
    Case(
        "sigmoids",
        (
            {"h": 2, "p": 5, "m": 7, "e": 4, "f": 3},
            {"h": 1, "p": 37, "m": 5, "e": 1, "f": 1},
            {"h": 1, "p": 1, "m": 1, "e": 4, "f": 5},
        ),
    ),
    Case("statistics", ({"n": 5, "c": 5}, {"n": 37, "c": 1}, {"n": 1, "c": 1}), size=6.0),
    Case(
        "streaming",
        (
            {"p": 5, "m": 7, "e": 4, "f": 3, "c": 2},
            {"p": 37, "m": 37, "e": 1, "f": 1, "c": 1},
            {"p": 1, "m": 5, "e": 4, "f": 5, "c": 1},
        ),
        whole={"SINK": 3, "W": 4},
    ),
    Case(
        "online",
        (
            {"p": 5, "m": 7, "e": 4, "f": 3},
            {"p": 37, "m": 5, "e": 1, "f": 1},
            {"p": 5, "m": 1, "e": 4, "f": 1},
        ),
    ),
    Case(
        "spikes",
        (
            {"t": 3, "n": 5, "e": 4, "f": 3},
            {"t": 5, "n": 37, "e": 1, "f": 1},
            {"t": 1, "n": 1, "e": 5, "f": 2},
        ),
        size=2.0,
    ),
    Case(
        "shifted",
        (
            {"n": 8, "e": 4, "f": 3, "w": 2},
            {"n": 37, "e": 1, "f": 1, "w": 10},
            {"n": 1, "e": 4, "f": 5, "w": 1},
        ),
    ),
    Case(
        "elastic",
        (
            {"h": 3, "p": 9, "m": 9, "e": 2, "f": 1},
            {"h": 1, "p": 37, "m": 37, "e": 1, "f": 1},
            {"h": 5, "p": 1, "m": 1, "e": 4, "f": 5},
        ),
        whole={"AH": 4},
    ),
    Case(
        "slots",
        (
            {"p": 5, "m": 7, "e": 4, "f": 3},
            {"p": 5, "m": 37, "e": 1, "f": 1},
            {"p": 1, "m": 1, "e": 4, "f": 5},
        ),
    ),
    Case(
        "joined",
        (
            {"p": 5, "m": 5, "g": 3, "n": 8, "e": 4, "f": 3},
            {"p": 37, "m": 37, "g": 1, "n": 38, "e": 1, "f": 1},
            {"p": 1, "m": 1, "g": 1, "n": 2, "e": 4, "f": 5},
        ),
    ),
    Case(
        "oscillator",
        ({"t": 5, "c": 3}, {"t": 37, "c": 1}, {"t": 1, "c": 5}),
        size=2.0,
        gates=("A",),
    ),
    Case(
        "hybrid",
        (
            {"h": 2, "t": 5, "m": 5, "e": 2, "f": 3},
            {"h": 1, "t": 37, "m": 5, "e": 1, "f": 1},
            {"h": 1, "t": 1, "m": 1, "e": 2, "f": 5},
        ),
        size=2.0,
        gates=("SL",),
    ),
    Case("features", ({"p": 5, "c": 3}, {"p": 37, "c": 1}, {"p": 1, "c": 5})),
)
BY_NAME = {case.name: case for case in CASES}
FIXED = [case for case in CASES if case.name not in FLOAT_ONLY]
named = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def compile_for(case, number, fmt, machine):
    bound, kind, target = case.bound(number), parse_format(fmt), TARGETS.get(machine)
    mapping = default_mapping(bound, target, kind)
    check(mapping, bound, target, kind)
    return bound, lower(bound, mapping, target, kind)


def agree(run, bound, program, inputs):
    """Compare what a backend computes with the interpreter."""
    fmt = program.format
    wanted, got = interpret(bound, inputs, fmt), run(program, inputs)
    assert set(got) == set(wanted) == {each.tensor for each in bound.cascade.outputs}
    for name, values in wanted.items():
        mine, true = np.asarray(got[name], float), np.asarray(values, float)
        assert mine.shape == true.shape == bound.dims[name]
        assert np.all(np.isfinite(true))
        far = np.max(np.abs(mine - true))  # NaN if anything is
        assert far <= TOLERANCE[fmt.name] * np.max(np.abs(true)), f"{name} is off by {far}"


def test_the_folder_holds_these_cascades():
    assert sorted(path.stem for path in FOLDER.glob("*.einsum")) == sorted(BY_NAME)


def test_some_value_is_not_zero():
    """An all-zero result would agree with anything."""
    for case in CASES:
        bound = case.bound(0)
        for name, values in interpret(bound, case.inputs(bound, 0)).items():
            assert np.any(values) or name == "NONE", f"{name} of {case.name}"


@named
@pytest.mark.parametrize("fmt", TOLERANCE)
def test_loops(case, fmt):
    for number in range(len(case.shapes)):
        if fmt == "fixed<16,8>" and case.name in FLOAT_ONLY:
            with pytest.raises(DataError, match=f"'{FLOAT_ONLY[case.name]}'"):
                agree(run_program, *compiled_with_inputs(case, number, fmt, "cpu"))
        else:
            agree(run_program, *compiled_with_inputs(case, number, fmt, "cpu"))


def compiled_with_inputs(case, number, fmt, machine, seed=0):
    bound, program = compile_for(case, number, fmt, machine)
    return bound, program, case.inputs(bound, seed + number)


@named
@pytest.mark.parametrize("machine", [*GENERAL[1:], *ATTENTION_ONLY])
def test_loops_of_other_machines(case, machine):
    for number in range(len(case.shapes)):
        if machine in ATTENTION_ONLY and case.name in LACKING:
            with pytest.raises(MappingError, match=f"no array has .*'{LACKING[case.name]}'"):
                compile_for(case, number, "fp32", machine)
        else:
            agree(run_program, *compiled_with_inputs(case, number, "fp32", machine, seed=3))


@pytest.mark.slow
@named
@pytest.mark.parametrize(("fmt", "number"), [("fp32", 0), ("fp64", 1)])
def test_tvm(case, fmt, number):
    bound, program, inputs = compiled_with_inputs(case, number, fmt, "cpu")
    agree(tvm_cpu.execute, bound, program, inputs)


@pytest.mark.slow
@named
def test_c_simulation(case):
    bound, program, inputs = compiled_with_inputs(case, 1, "fp32", "u280")
    agree(csim.execute, bound, program, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("case", FIXED, ids=lambda case: case.name)
def test_c_simulation_in_fixed_point(case):
    """Both where values saturate and where they do not."""
    bound, program = compile_for(case, 0, "fixed<16,8>", "u280")
    for seed, size in enumerate((8.0, 1.0)):
        inputs = case.inputs(bound, seed, size)
        agree(lambda *args: csim.execute(*args, flags=("-O0",)), bound, program, inputs)


# -- the interpreter itself, by NumPy ----------------------------------------------------------


def interpreted(name, number, seed=5):
    case = BY_NAME[name]
    bound = case.bound(number)
    inputs = case.inputs(bound, seed)
    return inputs, interpret(bound, inputs, parse_format("fp64"))


def close(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-12 * max(1, np.abs(wanted).max()))


@pytest.mark.parametrize("number", [0, 1])
def test_neighbourhood_by_numpy(number):
    x, got = interpreted("neighbourhood", number)
    heads, length, _ = x["Q"].shape
    for h in range(heads):
        for p in range(length):
            start = min(max(p - 2, 0), length - 5)
            seen = np.arange(start, start + 5)
            logits = x["K"][h, seen] @ x["Q"][h, p] * 0.5 + x["B"][h, seen - p + 4]
            weights = np.exp(logits - logits.max())
            close(got["O"][h, p], weights / weights.sum() @ x["V"][h, seen])


@pytest.mark.parametrize("number", [0, 1, 2])
def test_capped_by_numpy(number):
    x, got = interpreted("capped", number)
    ratio = x["Q"].shape[0] // x["K"].shape[0]
    keys, values = (np.repeat(x[name], ratio, axis=0) for name in "KV")
    queries, rows = x["Q"].shape[1], x["K"].shape[1]
    logits = 16 * np.tanh(np.einsum("hpe,hme->hpm", x["Q"], keys) / 16)
    late = np.arange(rows) > np.arange(queries)[:, None] + rows - queries
    weights = np.where(late, 0.0, np.exp(logits))  # |logits| <= 16: no maximum is needed
    total = weights.sum(-1)
    seen = total > 0
    close(
        got["O"], np.einsum("hpm,hmf->hpf", weights, values) / np.where(seen, total, 1)[..., None]
    )
    close(got["LSE"], np.log(np.where(seen, total, 1)))
    assert np.all(seen) == (queries <= rows)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_retention_by_numpy(number):
    x, got = interpreted("retention", number)
    steps = np.arange(x["Q"].shape[1])
    age = steps[:, None] - steps
    decay = np.where(age >= 0, x["G"][:, None, None] ** np.maximum(age, 0), 0.0)
    scores = np.einsum("hte,hse->hts", x["Q"], x["K"]) * decay
    close(got["O"], scores @ x["V"])


@pytest.mark.parametrize("number", [0, 1, 2])
def test_convolution_by_numpy(number):
    x, got = interpreted("convolution", number)
    length = x["X"].shape[0]
    padded = np.pad(x["X"], ((1, 1), (0, 0)))
    rows = [np.tensordot(padded[n : n + 3], x["W"], 2) for n in range(0, length, 2)]
    z = np.maximum(rows, 0)
    for n in range(length):
        pooled = z[n // 4 * 2 : n // 4 * 2 + 2].max(0)
        close(got["O"][n], pooled - 0.25 * z[n // 2])


@pytest.mark.parametrize("number", [0, 1, 2])
def test_delta_by_numpy(number):
    x, got = interpreted("delta", number)
    state = np.zeros((x["K"].shape[1], x["V"].shape[1]))
    for t, on in enumerate(x["ON"]):
        if on:
            key, step = x["K"][t], x["BE"][t]
            forget = np.eye(len(key)) - step * np.outer(key, key)
            state = x["GA"][t] * forget @ state + step * np.outer(key, x["V"][t])
        close(got["O"][t], x["Q"][t] @ state)
    close(got["L"], state)


# -- single operators in which backends differ from the interpreter ---------------------------

HARD = np.array([1.5, -2.25, np.inf, -np.inf, np.nan, 0.0, 100.0, -0.5])
PLAIN = np.array([1.5, -2.25, 3.0, -0.5, 0.0, 100.0, 2.5, 0.25])
ALGEBRA = "TVM simplifies floats as if they were real numbers"
NAN = "TVM's max, min and comparisons lose NaN"


def known(body, backend, fmt, values, reason):
    mark = pytest.mark.xfail(strict=True, reason=reason)
    return pytest.param(body, backend, fmt, values, marks=mark, id=f"{body}-{backend}-{fmt}")


AGREE = ["0 / X[n]", "X[n] / 0", "X[n] - X[n]", "X[n] == X[n]", "clamp(X[n], 0, 1)", "not X[n] < 1"]
SINGLE = [
    *((body, "loops", "fp32", HARD) for body in AGREE),
    ("max(X[n], 0) + 0 * X[n] + (X[n] or 0) + X[n] // 2", "csim", "fp32", HARD),
    ("X[n] + n ** 2 // 3", "loops", "fixed<16,8>", PLAIN),
    known("2 ** n", "loops", "fixed<16,8>", PLAIN, "lowering lacks ** of coordinates as a value"),
    known("0 / X[n]", "tvm", "fp32", PLAIN, ALGEBRA),
    known("X[n] / 0", "tvm", "fp32", PLAIN, "TVM refuses a division by the literal 0"),
    known("(X[n] + 16777216) - 16777216", "tvm", "fp32", PLAIN, ALGEBRA),
    known("X[n] - X[n]", "tvm", "fp32", HARD, ALGEBRA),
    known("0 * X[n]", "tvm", "fp32", HARD, ALGEBRA),
    known("X[n] == X[n]", "tvm", "fp32", HARD, ALGEBRA),
    known("max(X[n], 0)", "tvm", "fp32", HARD, NAN),
    known("clamp(X[n], 0, 1)", "tvm", "fp32", HARD, NAN),
    known("not X[n] < 1", "tvm", "fp32", HARD, NAN),
    known("X[n] or 0", "tvm", "fp32", HARD, NAN),
    known("X[n] // 2", "tvm", "fp32", HARD, "TVM's // of infinity is infinity, not NaN"),
    known("X[n] ** 0.5", "tvm", "fp32", HARD, "NumPy's ** 0.5 is sqrt: NaN at -inf"),
    known("X[n] ** 0.5", "csim", "fp32", HARD, "NumPy's ** 0.5 is sqrt: NaN at -inf"),
]
RUN = {"loops": run_program, "tvm": tvm_cpu.execute, "csim": csim.execute}


@pytest.mark.parametrize(("body", "backend", "fmt", "values"), SINGLE)
def test_single_operators(body, backend, fmt, values):
    bound = bind(parse(f"cascade c(X[n]) -> Z[n]\n  Z[n] = {body}"), shapes={"n": len(values)})
    kind, target = parse_format(fmt), TARGETS.get("cpu")
    program = lower(bound, default_mapping(bound, target, kind), target, kind)
    wanted = interpret(bound, {"X": values}, kind)["Z"]
    np.testing.assert_allclose(RUN[backend](program, {"X": values})["Z"], wanted, rtol=1e-6)

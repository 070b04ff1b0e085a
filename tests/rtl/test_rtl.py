"""Clocked machines: RTL in Verilator, the simulator and the interpreter agree, and must."""

import json
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import rtl_faults as faults
from rtl_designs import array, random_case, random_design
from rtl_faults import FIXED, MAPPED, RTL, SIMULATOR, faulty, faulty_clock

from penstock import cli, parse, zoo
from penstock.codegen.rtl.generate import machine_files
from penstock.codegen.rtl.run import build, run_jobs
from penstock.design import remap
from penstock.einsum_ir.formats import parse_format
from penstock.errors import DataError, MappingError, TargetError
from penstock.machine.hardware import hardware_of
from penstock.mapper.model.evaluate import evaluate
from penstock.mapper.model.roofline import roofline
from penstock.sim.clock.assemble import housed
from penstock.sim.clock.clocked import run_clocked
from penstock.studies.cosim import (
    case_of,
    compared,
    cosimulate,
    generate_rtl,
    patterns,
    program_of,
)

needs_verilator = pytest.mark.skipif(shutil.which("verilator") is None, reason="no verilator")


def design(name, target="4x4", fmt=FIXED, **shapes):
    return remap(zoo.load(name), array(target), shapes=shapes, fmt=fmt)


def agree(cases, **options):
    found = compared(cases, **options)
    return [
        (each.case.design.cascade.name, dict(each.case.design.bound.extents), each.differences)
        for each in found
        if each.differences
    ]


@needs_verilator
@pytest.mark.slow
def test_random_designs_are_equal_in_every_cycle_and_bit():
    cases = [random_case(seed, array("4x4"), largest=13) for seed in range(20)]
    assert agree(cases) == []


@needs_verilator
@pytest.mark.slow
def test_hard_data_and_odd_lengths():
    cases = []
    for name, shapes in (
        ("attention", dict(h=1, p=1, m=37, e=5, f=3)),
        ("attention", dict(h=1, p=37, m=1, e=3, f=2)),
        ("causal_attention", dict(h=1, p=9, m=4, e=4, f=4)),  # rows that see no key
        ("causal_attention_1pass", dict(h=1, p=7, m=5, e=4, f=4, m0=2)),
        ("attention_1pass", dict(b=1, h=1, p=5, m=37, e=4, f=4, m0=4)),
    ):
        for fmt in (FIXED, parse_format("fixed<16,12>")):
            made = design(name, fmt=fmt, **shapes)
            rng = np.random.default_rng(len(cases))
            inputs = {
                each.tensor: rng.normal(0, 1000, made.bound.dims[each.tensor])
                for each in made.cascade.inputs
            }
            offers, takes = patterns(len(cases))
            cases.append(case_of(made, inputs=inputs, offers=offers, takes=takes, fifo_in=1))
    assert agree(cases) == []


@needs_verilator
@pytest.mark.slow
def test_other_cascades():
    text = """
cascade soft(X[p, e], Y[m, e]) -> (Z[p, m], R[p], C[p])
  A[p, m] = clamp(X[p, e] * Y[m, e], -4, 4)      :: sum[e]
  Z[p, m] = where(A[p, m] > 1, relu(A[p, m]) + (p - m), abs(A[p, m]) * 0.5) s.t. (p + m) != 3
  R[p] = Z[p, m]                                  :: max[m]
  init S[p, 0] = 1
  S[p, i + 1] = S[p, i] + X[p, i] * X[p, i] s.t. X[p, i] > 0
  C[p] = S[p, E]
"""
    shapes = dict(p=6, m=5, e=7, i=7)
    cases = [case_of(remap(parse(text), array("4x4"), shapes=shapes, fmt=FIXED))]
    cases += [
        case_of(design(name, **shapes))
        for name, shapes in (
            ("linear_attention", dict(h=1, p=6, m=5, e=3, f=4)),
            ("sliding_window", dict(h=1, p=9, m=9, e=3, f=2)),
        )
    ]
    assert agree(cases) == []


@needs_verilator
def test_sources_pass_the_strictest_lint(tmp_path):
    hw = hardware_of(array("2x2"), FIXED)
    for file, text in machine_files(hw, "// a test").items():
        (tmp_path / file).write_text(text)
    sources = sorted(each.name for each in tmp_path.glob("*.sv"))
    command = ["verilator", "--lint-only", "-Wall", "-sv", "--top-module", hw.name, *sources]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- faults (all of them: mutants.py) ----------------------------------------------------------


@pytest.fixture(scope="module")
def small_cases():
    return faults.small_cases()


@pytest.fixture(scope="module")
def faulty_machine(small_cases):
    hw = small_cases[0].job.program.hardware
    return build(hw, edit=faulty(hw))


@needs_verilator
@pytest.mark.slow
def test_the_machine_with_no_fault_on_agrees(small_cases, faulty_machine):
    assert agree(small_cases, binary=faulty_machine, arguments=["+fault=0"]) == []


@needs_verilator
@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, len(RTL) + 1, 4), ids=lambda n: RTL[n - 1][1])
def test_a_fault_of_the_rtl_is_noticed(number, small_cases, faulty_machine):
    assert agree(small_cases, binary=faulty_machine, arguments=[f"+fault={number}"])


@needs_verilator
@pytest.mark.slow
@pytest.mark.parametrize(("old", "new"), SIMULATOR[::4])
def test_a_fault_of_the_simulator_is_noticed(old, new, small_cases, faulty_machine):
    clock = faulty_clock(old, new)
    jobs = [replace(case.job, limit=100_000) for case in small_cases]
    outcomes = run_jobs(faulty_machine, jobs, arguments=["+fault=0"])
    assert any(
        clock(case.job.program, case.job.offers, case.job.takes).done != outcome.done
        for case, outcome in zip(small_cases, outcomes, strict=True)
    )


def number_of(text):
    """Return the number of a fault by its text."""
    return 1 + next(n for n, fault in enumerate(RTL) if fault[1] == text)


@needs_verilator
@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        pytest.param(None, id="no fault"),
        pytest.param("used < limit", id="a FIFO of another depth"),
        pytest.param("addr + step", id="off by one in a sequencer"),
        pytest.param("old + value", id="a dropped carry"),
    ],
)
def test_the_command_notices_a_fault_in_edited_rtl(
    text, tmp_path, monkeypatch, capsys, faulty_machine
):
    made = design("causal_attention", "2x2", h=1, p=5, m=6, e=3, f=3)
    hw = hardware_of(array("2x2"), FIXED)
    for name, source in faulty(hw)(machine_files(hw, "// made by penstock")).items():
        (tmp_path / name).write_text(source)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "design.json").write_text(json.dumps(made.to_json()))
    (tmp_path / "fault").write_text(str(number_of(text) if text else 0))
    command = ["verify", "design.json", "--rtl-dir", ".", "--cases", "6"]
    assert cli.main(command) == (1 if text else 0)
    said = capsys.readouterr()
    assert ("RTL in Verilator does not agree" in said.err) == bool(text)


def test_rtl_that_is_not_whole_is_refused(tmp_path, capsys):
    made = design("causal_attention", "2x2", h=1, p=2, m=2, e=2, f=2)
    (tmp_path / "design.json").write_text(json.dumps(made.to_json()))
    (tmp_path / "other.sv").write_text("module other; endmodule")
    folder = str(tmp_path)
    assert cli.main(["verify", str(tmp_path / "design.json"), "--rtl-dir", folder]) == 1
    assert "the RTL has no machine_2x2_1x2_w16_place.sv" in capsys.readouterr().err


@needs_verilator
@pytest.mark.slow
def test_a_wrong_fifo_depth_is_noticed(small_cases, faulty_machine):
    case = small_cases[-1 - len(MAPPED)]
    job = replace(case.job, limit=100_000)
    (outcome,) = run_jobs(faulty_machine, [job], arguments=["+fault=0"])
    clock = run_clocked(replace(case.job.program, fifo_out=1), case.job.offers, case.job.takes)
    assert clock.done != outcome.done


# --- without Verilator ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("Z[p] = tanh(X[p])", "no array has 'tanh'"),
        ("Z = X[p] :: prod[p]", "Z needs 'prod'"),
        ("Z[p] = X[p * 2 // 3]", "no address for"),
        ("Z[p] = X[p] * 2\n  format X = int8", "X has its own: int8"),
    ],
)
def test_what_the_machine_lacks_is_refused_by_name(text, cause):
    output = text.split(" =")[0]
    cascade = parse(f"cascade c(X[p]) -> {output}\n  {text}")
    with pytest.raises((MappingError, DataError)) as caught:
        case_of(remap(cascade, array("4x4"), shapes={"p": 6}, fmt=FIXED))
    assert cause in str(caught.value)


@pytest.mark.parametrize("name", ["2x2", "4x4", "8x4"])
@pytest.mark.parametrize("seed", range(8))
def test_bound_model_clock(seed, name):
    made = random_design(seed, array(name), largest=13)
    program = program_of(made)
    run = run_clocked(program)
    mapping = housed(made.mapping, made.bound, made.target)
    model = evaluate(mapping, made.bound, made.target, made.format)
    bounds = roofline(made.bound, made.target, made.format)
    least = next(each.value for each in bounds if each.name == "latency")
    assert least <= model.latency_cycles <= run.cycles


def test_the_clock_from_the_command_line(capsys):
    shapes = ["--shape", "h=1", "p=5", "m=6", "e=4", "f=4", "--format", "fixed<16,6>"]
    assert cli.main(["simulate", "attention", "--clocked", "--json", *shapes]) == 0
    found = json.loads(capsys.readouterr().out)["metrics"]
    made = design("attention", h=1, p=5, m=6, e=4, f=4)
    assert found[0]["value"] == run_clocked(program_of(made)).cycles
    assert {each["evidence"] for each in found} == {"simulation"}
    assert cli.main(["simulate", "attention", "--clocked", "--timing", *shapes]) == 1
    assert "leave out --timing" in capsys.readouterr().err


def test_only_fixed_point_on_small_arrays():
    with pytest.raises(TargetError, match="fixed point"):
        hardware_of(array("4x4"), parse_format("fp32"))
    with pytest.raises(TargetError, match="one algorithm for each function"):
        hardware_of(array("4x4"), parse_format("fixed<16,6,poly>"))
    with pytest.raises(TargetError, match="at most 16 places"):
        hardware_of(array("4x4").override("pe2d.rows", 32), FIXED)


def test_generating_is_pure():
    made = design("attention", h=1, p=4, m=4, e=4, f=4)
    files = generate_rtl(made, "a test").files
    assert files == generate_rtl(made, "a test").files
    assert all(made.digest in text for text in files.values())


@needs_verilator
@pytest.mark.slow
def test_verifying_a_design_runs_both_sides():
    # on a machine whose memories are made for the design
    found = cosimulate(design("attention", "2x2", h=1, p=5, m=6, e=4, f=4), cases=4, fit=True)
    assert [each.differences for each in found] == [()] * 4
    assert len({each.rtl.cycles for each in found}) > 1

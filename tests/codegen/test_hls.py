"""The HLS project: what is in it, where each pragma stands, and that it works."""

import json
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from penstock.codegen.backends import Provenance
from penstock.codegen.hls import csim
from penstock.codegen.hls import generate as hls
from penstock.codegen.hls.pragmas import HlsNotes
from penstock.codegen.loops.nodes import (
    Alloc,
    Block,
    Buffer,
    Const,
    For,
    Load,
    Name,
    Op,
    Program,
    Store,
)
from penstock.einsum_ir.formats import parse_format
from penstock.errors import DataError, TargetError
from penstock.targets.base import Array, Axis, Memory, Target

CARD = Target(
    name="card",
    family="fpga",
    clock_hz=300e6,
    memories=(Memory("hbm", float("inf"), 1024), Memory("bram", 4e6)),
    arrays=(Array("grid", (Axis("lanes", 4, "pe"),), (("mac", 1),)),),
    format="fixed<16,6>",
    source="made up for tests",
    part="xcu280-fsvh2892-2L-e",
)
SOURCE = Provenance(
    "weighted sum", "0123456789ab", "penstock generate weighted.einsum --target card"
)


def whole(value):
    return Const(value, integer=True)


def at(buffer, *indices):
    return Load(buffer, tuple(Name(i) if isinstance(i, str) else i for i in indices))


def weighted_sum(fmt="fixed<16,6>", divide=False):
    """Y[p] = sum over m of X[p, m] * W[m]: p in 2 tiles of 4 lanes, W copied on chip."""
    p = Op("+", (Op("*", (Name("p1"), whole(4))), Name("p0")))
    term = Op("*", (at("X", p, "m"), at("WB", "m", "p0")))
    total = Op("+", (at("sum", "p0"), term))
    step = Store("sum", (Name("p0"),), Op("/", (total, Const(1.5))) if divide else total)
    zero = Store("sum", (Name("z0"),), Const(0.0))
    store = Store("Y", (Op("+", (Op("*", (Name("p1"), whole(4))), Name("q0"))),), at("sum", "q0"))
    lanes = {"kind": "pe", "axis": "grid.lanes"}
    body = Block(
        (
            For(
                "c",
                whole(64),
                For("k", whole(4), Store("WB", (Name("c"), Name("k")), at("W", "c"))),
                comment="copy W",
            ),
            For(
                "p1",
                whole(2),
                Block(
                    (
                        For("z0", whole(4), zero, **lanes),
                        For("m", whole(64), For("p0", whole(4), step, **lanes), comment="for m"),
                        For("q0", whole(4), store, **lanes),
                    ),
                    "Y on grid",
                ),
                comment="for p by 4",
                pipelined=True,
            ),
        )
    )
    for buffer in (
        Buffer("sum", (4,), "acc", "bram"),
        Buffer("WB", (64, 4), memory="bram"),
    ):
        body = Alloc(buffer, body)
    return Program(
        "weighted",
        (Buffer("X", (8, 64), memory="hbm"), Buffer("W", (64,), memory="hbm")),
        (Buffer("Y", (8,), memory="hbm"),),
        body,
        parse_format(fmt),
        (38, 18) if fmt.startswith("fixed") else (0, 0),
    )


def arrays(fmt="fixed<16,6>"):
    rng = np.random.default_rng(0)
    inputs = {"X": rng.integers(-16, 17, (8, 64)) / 16, "W": rng.integers(-8, 9, 64) / 16}
    return inputs, csim.execute(weighted_sum(fmt), inputs)


def test_the_program_computes_what_it_says():
    inputs, outputs = arrays()
    wanted = np.floor(inputs["X"] @ inputs["W"] * 1024 + 0.5) / 1024
    np.testing.assert_array_equal(outputs["Y"], wanted)


def test_the_project_has_every_file_and_names_its_origin():
    made = hls.generate(weighted_sum(), CARD, SOURCE, arrays())
    assert sorted(made.files) == [
        "Makefile",
        "README.md",
        "config.hpp",
        "golden/W.bin",
        "golden/X.bin",
        "golden/Y.bin",
        "hls_config.cfg",
        "host.cpp",
        "host.py",
        "kernel.cpp",
        "kernel.h",
        "link.cfg",
        *(f"penstock_{each}.hpp" for each in ("fixed", "loops", "math", "stream", "tb")),
        "report.json",
        "run_hls.tcl",
        "tb.cpp",
    ]
    for name, content in made.files.items():
        if not name.startswith(("golden/", "penstock_")):
            assert SOURCE.digest in content, name
            assert SOURCE.command in content, name
            assert "{{" not in content, name
    assert made.files == hls.generate(weighted_sum(), CARD, SOURCE, arrays()).files
    assert len(made.files["golden/X.bin"]) == 8 * 64 * 4
    assert "/work" not in "".join(c for c in made.files.values() if isinstance(c, str))


def test_the_scripts_name_part_clock_and_top():
    files = hls.generate(weighted_sum(), CARD, SOURCE, arrays()).files
    for line in (
        "set_top weighted_kernel",
        "set_part xcu280-fsvh2892-2L-e",
        "create_clock -period 3.333ns -name default",
        "add_files -tb golden",
    ):
        assert line in files["run_hls.tcl"].splitlines()
    for line in (
        "part=xcu280-fsvh2892-2L-e",
        "clock=3.333ns",
        "syn.top=weighted_kernel",
        "tb.file=golden",
    ):
        assert line in files["hls_config.cfg"].splitlines()


KERNEL = """\
static void read_X(const data_t X[8][64], fifo<4>& X_s) {
  // for p by 4, Y on grid, for m; port of X: 4 words of 512 bits, one a cycle
  PK_FOR(p1, 2) PK_FOR(m, 64) { PK_PIPELINE(4) X_s.write(pk::take_block<4, 1>(X, p1 * 4, m)); }
}
static void read_W(const data_t W[64], fifo<1>& W_s) {
  PK_FOR(c, 64) PK_FOR(k, 4) { PK_PIPELINE(1) W_s.write(W[c]); }  // copy W
}

static void compute(fifo<1>& W_s, fifo<4>& X_s, fifo<4>& Y_s) {
  PK_TILE(data_t, WB, [64][4], 1, 4) PK_KEEP(WB, lutram) PK_TILE(acc_t, sum, [4], 4)  // in bram
  PK_FOR(c, 64) PK_FOR(k, 4) { PK_PIPELINE(1) WB[c][k] = W_s.read(); }  // copy W
  PK_FOR(p1, 2) PK_FOR(m, 64) { PK_PIPELINE(1)  // for p by 4, Y on grid, for m
    if (m == 0) pk::fill(sum, 0);
    const auto X_w = X_s.read(); PK_EACH(p0x, 4) sum[p0x] += X_w[p0x] * WB[m][p0x];
    if (m == 63) Y_s.write(pk::pack<data_t>(sum));
  }
}

static void write_Y(data_t Y[8], fifo<4>& Y_s) {
  PK_FOR(p1, 2) { PK_PIPELINE(1) pk::put(Y, Y_s.read(), p1 * 4); }  // for p by 4, Y on grid
}

extern "C" void weighted_kernel(const data_t X[8][64], const data_t W[64], data_t Y[8]) {
  PK_PORT(X, gmem0, 512) PK_PORT(W, gmem1, 64) PK_PORT(Y, gmem2, 8)
  PK_CONTROL  // each tensor has a port; link.cfg says which channel it goes to
  // one token is written while one is read
  PK_STREAM(W_s, 2, data_t, 1) PK_STREAM(X_s, 2, data_t, 4) PK_STREAM(Y_s, 2, data_t, 4)
  PK_DATAFLOW
  PK_TASK(read_X(X, X_s)) PK_TASK(read_W(W, W_s)) PK_TASK(compute(W_s, X_s, Y_s))
  PK_TASK(write_Y(Y, Y_s))
}
"""


def test_each_pragma_stands_where_the_mapping_says():
    text = hls.generate(weighted_sum(), CARD, SOURCE).files["kernel.cpp"]
    assert text[text.index("static") :] == KERNEL


def partition(index, extent, lanes):
    body = Alloc(
        Buffer("A", (extent,), memory="bram"),
        For(
            "t",
            whole(3),
            For("v", whole(lanes), Store("A", (index,), Const(1.0)), kind="pe", axis="g.a"),
        ),
    )
    program = Program("x", (), (Buffer("Y", (1,)),), body, parse_format("fp32"))
    return HlsNotes(program).buffer(body.buffer)


def test_partitions_follow_the_index_of_the_unrolled_loop():
    v, t = Name("v"), Name("t")

    def times(name, factor):
        return Op("*", (name, whole(factor)))

    small = (("1",), "PK_KEEP(A, lutram)")  # a quarter of a block, or no block at all
    assert partition(t, 64, 4) == small
    assert partition(t, 256, 4) == (("1",), "PK_KEEP(A, bram)")
    assert partition(v, 4, 4) == (("4",), "")
    assert partition(Op("+", (times(t, 4), v)), 64, 4) == (("4",), "")
    assert partition(Op("+", (times(v, 16), t)), 64, 4) == (("1",), "PK_BLOCK(A, 1, 4)")
    assert partition(Op("//", (v, whole(2))), 64, 4) == (("64",), "")
    assert partition(Op("//", (v, whole(2))), 5000, 4) == (("4",), "PK_KEEP(A, bram)")


def test_what_does_not_fit_is_refused_with_its_numbers_or_said():
    small = replace(CARD, resources=(("LUT", 100), ("DSP", 5_000)))
    files = hls.generate(weighted_sum(), small, replace(SOURCE, oversize=True)).files
    (line,) = [each for each in files["README.md"].splitlines() if "Does not fit" in each]
    tasks = json.loads(files["report.json"])["resources"]["tasks"]
    needed = tasks["all"]["LUT"]
    assert line.startswith(f"**Does not fit, by this count**: {needed:,} LUT of 100. Take fewer")
    assert "Does not fit" not in hls.generate(weighted_sum(), CARD, SOURCE).files["README.md"]
    text = (
        f"the project needs {needed:,} LUT of 100 that card has; of LUT most take ports "
        f"{tasks['ports']['LUT']:,}, streams {tasks['streams']['LUT']:,}, compute "
        f"{tasks['compute']['LUT']:,}\nfix: let 'penstock explore' find a design that fits, take "
        "a larger part, or write it all the same with --oversize"
    )
    with pytest.raises(TargetError, match=f"^{re.escape(text)}$"):
        hls.generate(weighted_sum(), small, SOURCE)


def test_floats_bring_their_own_headers_and_tolerance():
    files = hls.generate(weighted_sum("fp16"), CARD, SOURCE).files
    assert "penstock_half.hpp" in files
    assert "penstock_fixed.hpp" not in files
    assert "typedef pk::float16 data_t;" in files["config.hpp"]
    assert "const double tolerance = 0.004;" in files["tb.cpp"]
    assert "AP_TYPES" not in files["Makefile"]
    assert "without golden vectors" in files["README.md"]


@pytest.mark.parametrize("fmt", ["fixed<16,6>", "bf16"])
def test_make_csim_passes_and_a_wrong_output_fails(tmp_path, fmt):
    inputs, outputs = arrays(fmt)
    project = tmp_path / "project"
    hls.generate(weighted_sum(fmt), CARD, SOURCE, (inputs, outputs)).save(project)
    command = ["make", "-s", "csim", "CXXFLAGS=-O1 -std=c++14 -Wall -Wextra -Werror"]
    command[-1] += " -Wno-unknown-pragmas"
    command += [f"AP_TYPES={csim.header_folder()}"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("PASS\n")
    wrong = dict(outputs) | {"Y": outputs["Y"] + np.array([0, 0.5, 0, 0, 0, 0, 0, 0])}
    buffer = weighted_sum(fmt).outputs[0]
    (project / "golden/Y.bin").write_bytes(hls.encode(wrong["Y"], buffer, parse_format(fmt)))
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Y[1] is " in done.stdout
    assert done.stdout.endswith("FAIL\n")
    (project / "golden/Y.bin").write_bytes(b"1234")
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert "golden/Y.bin does not hold 8 elements of" in done.stderr


@pytest.mark.skipif(shutil.which("tclsh") is None, reason="needs tclsh")
def test_the_tcl_script_runs_the_steps_it_is_given(tmp_path):
    script = hls.generate(weighted_sum(), CARD, SOURCE, arrays()).files["run_hls.tcl"]
    commands = "open_project set_top add_files open_solution set_part create_clock"
    commands += " config_interface csim_design csynth_design cosim_design export_design"
    stubs = "".join(
        f"proc {each} args {{ puts [list {each} $args] }}\n" for each in commands.split()
    )
    (tmp_path / "run.tcl").write_text(stubs + script)
    done = subprocess.run(
        ["tclsh", "run.tcl", "csynth", "cosim"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-2:] == ["csynth_design {}", "cosim_design {}"]


@pytest.mark.parametrize("fmt", ["fixed<16,6>", "fixed<32,32>", "fp64", "fp32", "fp16", "bf16"])
def test_files_hold_every_number_exactly(fmt):
    kind = parse_format(fmt)
    numbers = np.array([[0, 1, -1], [0.3, -7.125, 1e6]])
    buffer = Buffer("X", (2, 3))
    rounded = hls.decode(hls.encode(numbers, buffer, kind), buffer, kind)
    again = hls.decode(hls.encode(rounded, buffer, kind), buffer, kind)
    np.testing.assert_array_equal(rounded, again)
    assert abs(rounded[1, 1] + 7.125) <= (0.5 if kind.fraction_bits == 0 else 0)
    mask = Buffer("M", (2,), "mask")
    assert list(hls.decode(hls.encode([True, False], mask, kind), mask, kind)) == [True, False]


def test_templates_are_filled_strictly():
    good = {"banner": "", "signature": ()}
    hls.fill("kernel.h", **good)
    with pytest.raises(
        ValueError, match=r"no value for \['signature'\], no place for \['signatures'\]$"
    ):
        hls.fill("kernel.h", banner="", signatures=())


def test_a_machine_that_is_no_fpga_is_refused():
    with pytest.raises(TargetError) as caught:
        hls.generate(weighted_sum(), replace(CARD, family="spatial"), SOURCE)
    assert str(caught.value) == (
        "target card (spatial) is no FPGA with a part name\n"
        "fix: map the design to an FPGA, e.g. --target u280"
    )


def test_index_files_refuse_fractions():
    with pytest.raises(DataError):
        hls.encode([0.5], Buffer("T", (1,), "index"), parse_format("fp32"))

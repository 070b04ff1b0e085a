"""Tasks and streams: what is streamed, how deep, and that nothing starves or sticks."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
from test_hls import CARD, SOURCE, arrays, at, weighted_sum, whole

from penstock import generate, zoo
from penstock.codegen.hls import csim
from penstock.codegen.hls import generate as hls
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
)
from penstock.design import explore, remap, sample
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.errors import TargetError
from penstock.pipelines import kernel_network, kernel_timing
from penstock.sim.pipeline import run_pipeline
from penstock.targets.base import Memory

LANES = {"kind": "pe", "axis": "grid.lanes"}


def program(body, inputs, outputs, fmt="fp32", bits=(0, 0)):
    return Program("made", tuple(inputs), tuple(outputs), body, parse_format(fmt), bits)


def hbm(name, *shape, kind="data"):
    return Buffer(name, shape, kind, "hbm")


def same(made, inputs):
    """The tasks compute what the loops do, with a compiled kernel and strict streams."""
    got, wanted = csim.execute(made, inputs, flags=("-O0",)), run_program(made, inputs)
    for name, values in wanted.items():
        np.testing.assert_array_equal(got[name], np.asarray(values, got[name].dtype))
    return hls.tasks_of(made)


# --- what is streamed -------------------------------------------------------------------------


def test_conditions_that_only_values_decide_are_sent_along():
    """Y[p] = -X[p] where X[p] > 0, else what it was: 7."""
    seven = For("z", whole(6), Store("Y", (Name("z"),), Const(7.0)))
    take = Store(
        "T", (Name("l"),), Load("X", (Op("+", (Op("*", (Name("p"), whole(3))), Name("l"))),))
    )
    index = Op("+", (Op("*", (Name("p"), whole(3))), Name("k")))
    put = If(Op(">", (at("T", "k"), Const(0.0))), Store("Y", (index,), Op("neg", (at("T", "k"),))))
    step = Block((For("l", whole(3), take, **LANES), For("k", whole(3), put, **LANES)))
    body = Alloc(Buffer("T", (3,)), Block((seven, For("p", whole(2), step))))
    made = program(body, [hbm("X", 6)], [hbm("Y", 6)])
    tasks = same(made, {"X": np.array([1.0, -2, 3, -4, -5, 6])})
    assert [task.name for task in tasks.tasks] == ["read_X", "compute", "write_Y"]
    assert {(s.tensor, s.kind, s.lanes) for s in tasks.streams.values()} == {
        ("X", "data", 3),
        ("Y", "data", 3),
        ("Y", "mask", 3),
    }


def test_elements_that_do_not_exist_are_not_read():
    """The reader tests the index itself where the program's own test needs values."""
    inside = Op("and", (Op(">=", (Name("p"), whole(2))), Op(">", (at("X", "p"), Const(0.0)))))
    late = Load("W", (Op("-", (Name("p"), whole(2))),))
    step = Store("Y", (Name("p"),), Op("where", (inside, late, Const(0.5))))
    made = program(For("p", whole(5), step), [hbm("X", 5), hbm("W", 3)], [hbm("Y", 5)])
    same(made, {"X": np.array([1.0, 1, -1, 1, 1]), "W": np.array([4.0, 5, 6])})


def test_what_needs_values_stays_with_the_computation():
    gather = Store("Y", (Name("p"),), Load("X", (at("T", "p"),)))
    made = program(
        For("p", whole(3), gather), [hbm("X", 4), hbm("T", 3, kind="index")], [hbm("Y", 3)]
    )
    tasks = same(made, {"X": np.array([4.0, 5, 6, 7]), "T": np.array([2, 0, 3])})
    assert tasks.direct == {"X": "its addresses need values", "T": "an address needs its values"}
    assert [task.name for task in tasks.tasks] == ["compute", "write_Y"]
    again = Store("Y", (Name("p"),), Op("+", (at("Y", "p"), at("X", "p"))))
    first = For("q", whole(3), Store("Y", (Name("q"),), Const(1.0)))
    made = program(Block((first, For("p", whole(3), again))), [hbm("X", 3)], [hbm("Y", 3)])
    tasks = same(made, {"X": np.array([4.0, 5, 6])})
    assert tasks.direct == {"Y": "it is read again"}


def test_rows_are_copied_in_words_of_the_port():
    def copy(row):
        inner = For("e", whole(row), Store("L", (Name("e"),), at("X", "m", "e")))
        back = For("f", whole(row), Store("Y", (Name("m"), Name("f")), at("L", "f")))
        body = For("m", whole(3), Alloc(Buffer("L", (row,)), Block((inner, back))))
        return program(body, [hbm("X", 3, row)], [hbm("Y", 3, row)])

    for row, lanes in ((16, 16), (40, 10), (71, 1), (32, 16)):
        tasks = hls.tasks_of(copy(row))
        assert {each.lanes for each in tasks.streams.values()} == {lanes}, row
    same(copy(40), {"X": np.arange(120.0).reshape(3, 40)})


def test_a_second_tile_of_the_mapping_waits_in_the_stream():
    design = remap(zoo.load("attention"), "u280", shapes={"h": 2, "p": 5, "m": 6, "e": 4, "f": 4})
    assert "keep Q, K, V in uram x2" in str(design.mapping)
    streams = hls.tasks_of(design.program()).streams
    depths = {each.tensor: (each.depth, each.memory) for each in streams.values()}
    assert depths == {"Q": (5, "uram"), "K": (3, "uram"), "V": (3, "uram"), "O": (2, "")}
    assert {each.tensor: each.lanes for each in streams.values()}["K"] == 2 * 4  # two rows a token
    assert streams["K_s"].reason == "keep K in uram x2: the next tile waits here"


@pytest.mark.slow
def test_stages_of_a_pipelined_loop_are_tasks_of_their_own():
    """Stage 1 gets what it reads as it is written; both together take less time."""
    shapes = {"h": 4, "g": 2, "p": 37, "m": 37, "e": 8, "f": 8, "m0": 8}
    design, _ = explore(
        zoo.load("gqa_causal_1pass"), "u280", shapes=shapes, fmt=parse_format("fixed<16,6>")
    )
    stages = {0, *(int(each) for each in re.findall(r" stage (\d+)[: ]", str(design.mapping)))}
    assert len(stages) > 1
    made = design.program()
    tasks = hls.tasks_of(made)
    computing = [f"compute_{stage}" for stage in sorted(stages)]
    names = [task.name for task in tasks.tasks]
    assert names == ["read_Q", "read_K", "read_V", *computing, "write_O"]
    for task in computing[1:]:
        read = {each.tensor for each in tasks.streams.values() if each.reader == task}
        assert read - {"Q", "K", "V"}, task
    inputs = sample(design)
    got = csim.execute(made, inputs, flags=("-O0",))["O"]
    np.testing.assert_array_equal(got, interpret(design.bound, inputs, design.format)["O"])
    flat = strip_stages(made)
    assert [task.name for task in hls.tasks_of(flat).tasks][3:] == ["compute", "write_O"]
    assert kernel_timing(made, 300e6).cycles < kernel_timing(flat, 300e6).cycles


def strip_stages(made):
    def one(stmt):
        match stmt:
            case For():
                return replace(stmt, pipelined=False, body=one(stmt.body))
            case If() | Alloc():
                return replace(stmt, body=one(stmt.body))
            case Block(body):
                return replace(stmt, body=tuple(map(one, body)))
            case _:
                return stmt

    return replace(made, body=one(made.body))


# --- deadlock ---------------------------------------------------------------------------------


def run_bounded(binary, folder, out, depths):
    text = ",".join(f"{name}={depth}" for name, depth in depths.items())
    return subprocess.run(
        [str(binary), str(folder), str(out)],
        env={"PK_DEPTHS": text},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_least_depths_run_and_one_less_deadlocks(tmp_path):
    shapes = {"h": 2, "p": 7, "m": 7, "e": 4, "f": 3, "g": 1, "m0": 3}
    design = remap(zoo.load("gqa_causal_1pass"), "u280", shapes=shapes, fmt=parse_format("fp32"))
    made = design.program()
    timing = kernel_timing(made, 300e6)
    assert all(timing.depths[name] >= least for name, least in timing.minimal.items())
    generate(design, "hls").save(tmp_path)
    binary = csim.build(made, flags=("-DPK_BOUNDED", "-O0"))
    wanted = csim.execute(made, {e.name: np.zeros(e.shape) for e in made.inputs}, flags=("-O0",))
    assert wanted.keys() == {"O"}
    results = []
    for depths in (timing.depths, timing.minimal):
        done = run_bounded(binary, tmp_path / "golden", tmp_path, depths)
        assert done.returncode == 0, done.stderr
        results.append((tmp_path / "O.bin").read_bytes())
        run_pipeline(kernel_network(made, 300e6)[0], depths)
    assert results[0] == results[1]
    for name in timing.minimal:
        depths = {**timing.minimal, name: timing.minimal[name] - 1}
        done = run_bounded(binary, tmp_path / "golden", tmp_path, depths)
        assert done.returncode == 4, name
        assert f"room in {name}" in done.stderr


def test_the_model_takes_the_cycles_that_a_hand_count_gives():
    """Two tiles of 64 steps; X arrives a word of 4 columns in 4 cycles, so that it decides."""
    timing = kernel_timing(weighted_sum(), 300e6)
    found = {(task, loop): (cycles, steps) for task, loop, cycles, _, steps in timing.loops}
    assert found["read_X", "p1, m"] == (4, 128)
    assert found["compute", "p1, m"] == (1, 128)
    assert 2 * 64 * 4 < timing.cycles < 2 * 64 * 4 + 64 * 4 + 30
    assert timing.depths["X_s"] >= timing.minimal["X_s"] == 1


STREAM = """
#include "penstock_stream.hpp"
int main(int argc, char**) {
  hls::stream<int> s("s");
  if (argc == 1) return s.read();
  s.write(1);
  return argc == 2 ? 0 : s.read() - 1;
}
"""


def test_streams_are_strict(tmp_path):
    (tmp_path / "s.cpp").write_text(STREAM)
    command = ["g++", *csim.FLAGS, f"-I{files('penstock.hls_templates')}", "s.cpp", "-o", "s"]
    subprocess.run(command, cwd=tmp_path, check=True)

    def said(*args):
        run = [str(tmp_path / "s"), *args]
        done = subprocess.run(run, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    assert said() == (3, "stream s is read while empty\n")
    assert said("x") == (3, "stream s still holds 1 tokens at the end\n")
    assert said("x", "y") == (0, "")


@pytest.mark.slow
def test_the_vendors_stream_gives_the_same():
    inputs, outputs = arrays()
    flags = ("-O0", "-DPK_VENDOR_STREAM")
    np.testing.assert_array_equal(
        csim.execute(weighted_sum(), inputs, flags=flags)["Y"], outputs["Y"]
    )


# --- the project's other files ----------------------------------------------------------------


def test_every_port_has_a_channel_and_too_many_are_refused():
    def card(bank, channels):
        memory = Memory("hbm", float("inf"), 1024, channels=channels, bank=bank)
        return replace(CARD, memories=(memory, *CARD.memories[1:]))

    link = hls.generate(weighted_sum(), card("HBM", 3), SOURCE).files["link.cfg"]
    assert [line for line in link.splitlines() if line.startswith("sp=")] == [
        f"sp=weighted_kernel_1.{port}:HBM[{n}]" for n, port in enumerate("XWY")
    ]
    link = hls.generate(weighted_sum(), card("DDR", 2), SOURCE).files["link.cfg"]
    assert "sp=weighted_kernel_1.Y:DDR[0]" in link
    with pytest.raises(TargetError) as caught:
        hls.generate(weighted_sum(), card("HBM", 2), SOURCE)
    assert str(caught.value) == (
        "the kernel has 3 ports to hbm, but card has 2 channels of 1 port each\n"
        "fix: keep intermediate tensors in a memory on the chip, or choose a machine with more"
    )


XRT = """
#include <cstddef>
#include <string>
#include <vector>
enum { XCL_BO_SYNC_BO_TO_DEVICE, XCL_BO_SYNC_BO_FROM_DEVICE };
namespace xrt {
struct uuid {};
struct device { explicit device(int) {} uuid load_xclbin(const std::string&) { return {}; } };
struct run { void wait() {} };
struct bo {
  std::vector<char> bytes;
  bo(const device&, std::size_t size, int) : bytes(size) {}
  template <class T> T map() { return reinterpret_cast<T>(bytes.data()); }
  void sync(int) {}
};
struct kernel {
  kernel(const device&, const uuid&, const std::string&) {}
  int group_id(int) const { return 0; }
  run operator()(bo& x, bo& w, bo& y) {
    const short* a = x.map<const short*>();
    const short* b = w.map<const short*>();
    for (int p = 0; p < 8; ++p) {
      long sum = 1 << 9;
      for (int m = 0; m < 64; ++m) sum += long(a[p * 64 + m]) * b[m];
      y.map<short*>()[p] = short(sum >> 10);
    }
    return {};
  }
};
}
"""

PYNQ = """
import numpy as np
class _Buffer(np.ndarray):
    def sync_to_device(self): pass
    def sync_from_device(self): pass
def allocate(shape, dtype): return np.zeros(shape, dtype).view(_Buffer)
class _Kernel:
    def call(self, x, w, y):
        y[:] = (x.astype(int) @ w.astype(int) + 512) >> 10
class Overlay:
    def __init__(self, image): self.weighted_kernel_1 = _Kernel()
"""


def test_both_hosts_run_against_a_card_of_the_tests(tmp_path):
    """A stand-in for the card computes with 16-bit elements, as the kernel's memory has them."""
    hls.generate(weighted_sum(), CARD, SOURCE, arrays()).save(tmp_path)
    (tmp_path / "xrt").mkdir()
    (tmp_path / "xrt/xrt_bo.h").write_text(f"#pragma once\n{XRT}")
    for name in ("device", "kernel"):
        (tmp_path / f"xrt/xrt_{name}.h").write_text('#include "xrt_bo.h"\n')
    (tmp_path / "pynq.py").write_text(PYNQ)
    subprocess.run(["g++", *csim.FLAGS, "-I.", "host.cpp", "-o", "host"], cwd=tmp_path, check=True)
    for command in (["./host"], ["python", "host.py"]):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.stdout.splitlines()[1:] == ["golden/Y.bin: 0 of 8 elements differ", "PASS"] or (
            done.stdout.splitlines()[1:] == ["Y: 0 of 8 elements differ", "PASS"]
        ), done.stdout + done.stderr


TIDY = (("causal_attention_1pass", "fixed<16,6>"), ("gqa_causal", "bf16"), ("gla", "fp32"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("clang-tidy") is None, reason="clang-tidy is not installed")
@pytest.mark.parametrize(("name", "fmt"), TIDY)
def test_clang_tidy_finds_nothing(tmp_path, name, fmt):
    shapes = {"h": 2, "g": 1, "p": 7, "m": 7, "t": 7, "e": 4, "f": 3, "m0": 3}
    cascade = zoo.load(name)
    known = {each for e in (*cascade.inputs, *cascade.einsums) for each in variables_of(e)}
    sizes = {rank: size for rank, size in shapes.items() if rank in known}
    design = remap(cascade, "u280", shapes=sizes, fmt=parse_format(fmt))
    generate(design, "hls").save(tmp_path)
    command = ["make", "-s", "tidy", f"AP_TYPES={csim.header_folder()}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def variables_of(part):
    return part.ranks if hasattr(part, "ranks") else part.variables


def test_the_report_says_what_the_readme_says():
    design = remap(zoo.load("attention"), "u280", shapes={"h": 2, "p": 5, "m": 6, "e": 4, "f": 4})
    made = generate(design, "hls").files
    report, timing = json.loads(made["report.json"]), kernel_timing(design.program(), 300e6)
    assert report["design"] == design.digest
    assert report["pipeline"]["cycles"] == timing.cycles
    assert f"| cycles of the task pipeline below | {timing.cycles:,} | model |" in made["README.md"]
    assert {row["name"]: row["depth"] for row in report["streams"]} == dict(timing.depths)
    assert made == generate(design, "hls").files

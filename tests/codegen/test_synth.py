"""Synthesis by yosys: what is counted, and what is refused."""

import json
import shutil

import pytest

from penstock import cli, zoo
from penstock.codegen.rtl import synth
from penstock.codegen.rtl.synth import Synthesis, counted, synthesize
from penstock.design import remap
from penstock.einsum_ir.formats import parse_format
from penstock.errors import ToolError, UnknownNameError
from penstock.studies.synthesis import section
from penstock.targets import TARGETS

MAC = """
module mac #(parameter int W = 8) (
  input  logic clk, input logic clear,
  input  logic signed [W-1:0] a, b,
  output logic signed [3*W-1:0] sum
);
  always_ff @(posedge clk)
    if (clear) sum <= '0;
    else sum <= sum + a * b;
endmodule
"""


ROWS = ((0, 8), (1, 8), (2, 4))  # number, bits: equal modules are mapped once


def test_cells_are_counted_by_kind():
    cells = {"LUT2": 3, "LUT6": 4, "INV": 1, "FDRE": 5, "FDPE_1": 1, "DSP48E2": 2, "BUFG": 1}
    cells |= {"RAMB18E2": 1, "RAMB36E2": 2, "RAM32M": 7, "CARRY4": 6, "SRL16E": 1}
    want = {"LUT": 8, "FF": 6, "DSP": 2, "BRAM": 3, "LUT RAM": 8, "carry": 6}
    assert counted(cells) == want
    assert counted({"TRELLIS_FF": 24, "MULT18X18D": 1, "CCU2C": 12, "DP16KD": 1, "LUT4": 2}) == {
        "LUT": 2,
        "FF": 24,
        "DSP": 1,
        "BRAM": 1,
        "LUT RAM": 0,
        "carry": 12,
    }


@pytest.mark.parametrize("row", [24, {"num_cells": 24}, {"count": 24}])
def test_statistics_of_several_versions_of_yosys(row):
    assert synth._cells({"design": {"num_cells_by_type": {"FDRE": row}}}) == {"FDRE": 24}


def test_what_cannot_be():
    with pytest.raises(UnknownNameError, match="unknown FPGA family 'xcvu' "):
        synthesize({"mac.sv": MAC}, "mac", "xcvu")
    with pytest.raises(ToolError, match="no open tool places and routes on xc7"):
        synthesize({"mac.sv": MAC}, "mac", "xc7", route=True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["d.json", "--top", "m"], "is synthesised alone"),
        (["m.sv"], "need --top MODULE"),
        (["m.sv", "--top", "m", "--fit"], "have no memories to --fit"),
    ],
)
def test_what_does_not_go_together(words, says, capsys):
    assert cli.main(["synth", *words]) == 1
    assert says in capsys.readouterr().err


def test_a_missing_tool(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(synth.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ToolError, match="yosys is not installed"):
        synthesize({"mac.sv": MAC}, "mac")


@pytest.mark.skipif(shutil.which("yosys") is None, reason="yosys is not on the path")
def test_a_multiply_add_is_one_dsp_block_and_its_sum(tmp_path, capsys):
    path = tmp_path / "mac.sv"
    path.write_text(MAC)
    assert cli.main(["synth", str(path), "--top", "mac", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    values = {each["name"]: each["value"] for each in found["metrics"]}
    assert (values["DSP"], values["FF"], values["BRAM"]) == (1, 24, 0)
    assert {each["evidence"] for each in found["metrics"]} == {"synthesis"}
    rows = "\n".join(f"mac #(.W({w})) m{n}(.clk, .clear, .a, .b, .sum(s{n}));" for n, w in ROWS)
    sums = ", ".join(f"output logic signed [{3 * w - 1}:0] s{n}" for n, w in ROWS)
    ports = "input logic clk, clear, input logic signed [7:0] a, b"
    path.write_text(f"{MAC}\nmodule top({ports}, {sums});\n{rows}\nendmodule")
    assert cli.main(["synth", str(path), "--top", "top", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    values = {each["name"]: each["value"] for each in found["metrics"]}
    assert (values["DSP"], values["FF"]) == (2, 24 + 24 + 12)  # 4 bits need no DSP block
    path.write_text("module mac(input x);\n  wibble")
    assert cli.main(["synth", str(path), "--top", "mac"]) == 1
    assert "yosys refuses the design" in capsys.readouterr().err


def test_the_section_of_a_report_says_which_machine_it_is():
    target, shapes = TARGETS.get("mesh4x4"), dict(h=1, p=4, m=4, e=4, f=4)
    made = remap(zoo.load("attention"), target, shapes=shapes, fmt=parse_format("fixed<16,6>"))
    found = section(made, Synthesis("yosys", "xcup", {"LUT6": 40, "DSP48E2": 2}))
    assert "machine_4x4_1x4_w16" in found.note
    assert ("LUT", "40", "cells") in found.tables[0].rows
    assert "synthesis" in found.tables[0].note

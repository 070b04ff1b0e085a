"""The section for an FPGA person: sums that agree, and the cycles of the pipeline model."""

import json
from dataclasses import replace

import pytest

from penstock import zoo
from penstock.cli import main
from penstock.design import remap
from penstock.pipelines import kernel_timing
from penstock.studies.fpga import fpga_section
from penstock.targets import TARGETS

SHAPES = {"b": 1, "h": 1, "p": 16, "m": 16, "e": 8, "f": 8, "m0": 8}


@pytest.fixture(scope="module")
def design():
    target = TARGETS.get("u280").override("pe2d.rows", 4).override("pe2d.cols", 4)
    return remap(zoo.load("attention_1pass"), target, shapes=SHAPES)


def number(text):
    return float(text.replace(",", ""))


def test_tables_agree_with_each_other_and_with_the_model(design):
    section = fpga_section(design)
    tables = {table.title: table for table in section.tables}
    by_task = {
        row[0]: [number(cell) for cell in row[1:]] for row in tables["Resources by task"].rows[:-1]
    }
    by_construct = [
        [number(cell) for cell in row[2:]] for row in tables["Resources by construct"].rows
    ]
    total = by_task.pop("all")
    for column, whole in enumerate(total):
        rounding = len(by_construct) + len(by_task)
        assert sum(row[column] for row in by_task.values()) == pytest.approx(whole, abs=rounding)
        assert sum(row[column] for row in by_construct) == pytest.approx(whole, abs=rounding)
    assert total[2] > 0
    timing = kernel_timing(design.program(), design.target.clock_hz)
    assert section.data["cycles"] == timing.cycles
    tasks = tables["Cycles by task"].rows
    assert {row[0]: number(row[3]) for row in tasks} == timing.ends
    slowest = max(tasks, key=lambda row: number(row[1]))
    assert section.data["bottleneck"].startswith(
        f"The bottleneck is task {slowest[0]}: {slowest[1]} "
    )
    moved = {row[0]: number(row[2]) for row in tables["Bandwidth by port"].rows}
    assert moved["all"] == design.evaluate().dram_bytes


def test_the_report_of_an_fpga_design_has_it(design, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.json").write_text(json.dumps(design.to_json()))
    assert main(["report", "d.json", "-o", "r.html"]) == 0
    page = (tmp_path / "r.html").read_text()
    for text in (
        "HLS project of attention_1pass on u280",
        "Resources by task",
        "The bottleneck is",
    ):
        assert text in page
    assert json.loads((tmp_path / "r.json").read_text())["sections"][0]["evidence"] == "model"


def test_a_design_without_a_project_says_why(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    u280 = TARGETS.get("u280")
    few = replace(u280, memories=(replace(u280.dram, channels=2), *u280.memories[1:]))
    text = json.dumps(remap(zoo.load("attention_1pass"), few, shapes=SHAPES).to_json())
    (tmp_path / "d.json").write_text(text)
    assert main(["report", "d.json", "-o", "r.html"]) == 0
    refused = json.loads((tmp_path / "r.json").read_text())["sections"][0]["refused"]
    assert refused.startswith("the kernel has 4 ports to hbm, but u280 has 2 channels of 1 port")

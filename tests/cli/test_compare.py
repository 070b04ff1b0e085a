"""``penstock compare``: designs side by side, with ratios to the first."""

import json

import pytest

from penstock import zoo
from penstock.cli import main
from penstock.design import remap

SHAPES = {"h": 1, "p": 8, "m": 8, "e": 4, "f": 4}


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, shapes in (("a", SHAPES), ("b", SHAPES | {"m": 16})):
        design = remap(zoo.load("attention"), "mesh4x4", shapes=shapes)
        (tmp_path / f"{name}.json").write_text(json.dumps(design.to_json()))
    return tmp_path


def test_table(files, capsys):
    assert main(["compare", "a.json", "b.json"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    latency = next(row for row in rows if row[:2] == ["latency", "(cycles)"])
    first, second, ratio = float(latency[2]), float(latency[3]), float(latency[5].strip(")"))
    assert ratio == pytest.approx(second / first, rel=1e-2)
    assert second > first


def test_json_and_report(files, capsys):
    assert main(["compare", "a.json", "b.json", "--json", "-o", "both.html"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [each["file"] for each in said["designs"]] == ["a.json", "b.json"]
    assert {m["evidence"] for each in said["designs"] for m in each["metrics"]} == {"model"}
    assert said["files"][0] == "both.html"
    assert "2 designs" in (files / "both.html").read_text()


def test_one_design_is_nothing_to_compare(files, capsys):
    assert main(["compare", "a.json"]) == 1
    expected = "penstock: there is nothing to compare\nfix: give two design files or more\n"
    assert capsys.readouterr().err == expected

"""The report: one file, no network, no console errors, numbers with their evidence."""

import json
import re
from xml.etree import ElementTree

import pytest

from penstock import zoo
from penstock.design import page, remap, resized, sample, simulate, verify, verify_simulation
from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.passes import telling_row
from penstock.errors import FileError
from penstock.mapper.model.evaluate import Pipeline
from penstock.mapper.model.interval import Task, Wait
from penstock.metrics import quantity
from penstock.report import markdown, save_report
from penstock.report.chain import chain_svg
from penstock.report.figures import steady_state

SHAPES = {"h": 1, "p": 8, "m": 8, "e": 4, "f": 4}
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    design = remap(zoo.load("attention"), "mesh4x4", shapes=SHAPES)
    small = resized(design, {"p": 4})
    inputs = sample(small)
    simulation = simulate(small, inputs)
    checks = (verify(design, "loops"), verify_simulation(small, simulation, inputs))
    made = page(design, checks=checks, simulated=(small, simulation), commands=("penstock x",))
    folder = tmp_path_factory.mktemp("report")
    return save_report([made], folder / "report.html", "penstock <test>"), design


def test_three_files(report):
    paths, design = report
    assert [path.name for path in paths] == ["report.html", "report.json", "report.txt"]
    data = json.loads(paths[1].read_text())
    assert data["designs"][0]["digest"] == design.digest
    assert {each["evidence"] for each in data["designs"][0]["metrics"]} == {"model"}
    assert {each["verdict"] for each in data["designs"][0]["checks"]} == {"ok"}
    assert str(design.mapping) in paths[2].read_text()


def test_html_is_self_contained_and_escaped(report):
    text = report[0][0].read_text()
    assert "penstock &lt;test&gt;" in text
    assert len(text) < 3_000_000
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", text)
    for word in ("Cascade", "Mapping", "Roofline", "What each unit", "GM | SN -&gt; SD | A"):
        assert word in text


def test_the_first_screen_answers(report):
    paths, design = report
    evaluation = design.evaluate()
    text = paths[0].read_text()
    head = text[text.index("<main>") : text.index("<section")]
    cells = re.findall(r"<td>(.*?)</td>", head)
    assert len(cells) == 5
    _, fast, big, limit, known = cells
    assert f"{evaluation.latency_cycles:,.0f} cycles (model)" in fast
    fullest = max(evaluation.occupancy, key=lambda each: each.needed_bytes / each.capacity_bytes)
    assert big.startswith(fullest.memory)
    busy = evaluation.busy()
    assert limit.startswith(max(busy, key=busy.get))
    assert known == "2 ok: loops, simulated values"


@pytest.mark.parametrize(
    ("value", "said"),
    [(2.013e-3, "2.013 ms"), (0, "0 s"), (999, "999 s"), (4e15, "4000 Ts"), (1e-15, "0.001 ps")],
)
def test_quantity(value, said):
    assert quantity(value, "s") == said


def test_the_chain_is_drawn_in_the_order_of_its_passes():
    cascade = zoo.load("attention")
    row = telling_row(cascade)
    drawn = ElementTree.fromstring(chain_svg(cascade, row))
    bands = [
        float(each.get("x")) for each in drawn.iter(f"{SVG}rect") if each.get("class") == "band"
    ]
    boxes = {
        group.find(f"{SVG}title").text.partition("[")[0]: float(group.find(f"{SVG}rect").get("x"))
        for group in drawn.iter(f"{SVG}g")
    }
    assert len(bands) == row.passes == 3
    assert bands == sorted(bands)
    for left, right, group in zip(bands, [*bands[1:], float("inf")], row.groups, strict=True):
        assert all(left < boxes[name] < right for name in group)
    assert len(list(drawn.iter(f"{SVG}path"))) - 1 == 7  # the arrow head, and what reads what


@pytest.mark.parametrize(
    "cascade",
    [parse("cascade c(A[m]) -> B[m]\n  B[m] = A[m] * 2"), zoo.load("attention_1pass")],
    ids=lambda each: each.name,
)
def test_what_reads_its_input_once_has_one_band(cascade):
    drawn = chain_svg(cascade, telling_row(cascade))
    assert drawn.count('class="band"') == 1


def test_in_a_notebook(report):
    shown = ElementTree.fromstring(f"<div>{report[1]._repr_html_()}</div>")
    assert shown.find("pre").text == str(report[1].mapping)
    assert {"latency", "134", "cycles", "model"} <= {cell.text for cell in shown.iter("td")}
    cascade = report[1].cascade
    assert ElementTree.fromstring(cascade._repr_html_()).text == str(cascade)


def test_markdown(report):
    text = markdown([page(report[1])], "penstock report x")
    assert (
        text.splitlines()[0] == "| design | how fast | how big | what limits it | how do we know |"
    )
    assert "| latency | 134 | cycles | model |" in text
    assert str(report[1].mapping) in text


def test_energy_adds_up(report):
    from penstock.report.render import _energy

    made = page(report[1])
    total = sum(pj for row in _energy(made).values() for pj in row.values())
    assert total == pytest.approx(made.evaluation.energy_pj)


def test_two_intervals_of_a_pipelined_loop_are_drawn():
    tasks = (Task("S", "tensor", 0, 6.0), Task("E", "sm", 1, 5.0), Task("O", "tensor", 2, 4.0))
    waits = (Wait(0, 1, 0), Wait(1, 2, 0))
    loop = Pipeline("m1", 8, 10.0, "array tensor", {}, tasks, waits)
    figure = steady_state(loop, ["sm", "tensor", "idle"], {"S": "#111111", "E": "#222222"})
    bars = {each["name"]: each for each in json.loads(figure.spec)["data"]}
    assert bars["S"]["text"] == ["S of n", "S of n+1"]
    assert bars["E"]["text"] == ["E of n-1", "E of n"]
    assert bars["O"]["text"] == ["O of n-2", "O of n-1"]
    assert bars["O"]["base"] == [0, 10]
    assert bars["S"]["base"] == [4, 14]
    assert "two intervals of 10 cycles" in figure.caption


def test_a_design_beside_the_report_is_spared(report, tmp_path):
    design = report[1]
    design.save(tmp_path / "mine.json")
    with pytest.raises(FileError, match=r"(?s)mine.json is there, and is no report.*mine-report"):
        save_report([page(design)], tmp_path / "mine.html", "x")
    assert [each.name for each in tmp_path.iterdir()] == ["mine.json"]
    for _ in range(2):  # an older report is written over
        assert len(save_report([page(design)], tmp_path / "other.html", "x")) == 3


def test_nothing_is_written_where_it_may_not(report, tmp_path):
    design = report[1]
    (tmp_path / "file").write_text("")
    with pytest.raises(
        FileError,
        match=r"^cannot write .*: a part of the path is a file, not a folder\nfix: choose a place",
    ):
        save_report([page(design)], tmp_path / "file" / "report.html", "x")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]

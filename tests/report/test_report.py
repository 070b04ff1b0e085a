"""The report: one file, no network, no console errors, numbers with their evidence."""

import json
import re
import shutil
import subprocess

import pytest

from penstock import zoo
from penstock.design import page, remap, resized, sample, simulate, verify, verify_simulation
from penstock.errors import FileError
from penstock.report import save_report

SHAPES = {"h": 1, "p": 8, "m": 8, "e": 4, "f": 4}
CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)


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
    body = text[text.index("</script>") :]  # after plotly itself
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", body)
    for word in ("Cascade", "Mapping", "Roofline", "What each unit", "GM | SN -&gt; SD | A"):
        assert word in body


def test_energy_adds_up(report):
    from penstock.report.render import _energy

    made = page(report[1])
    total = sum(pj for row in _energy(made).values() for pj in row.values())
    assert total == pytest.approx(made.evaluation.energy_pj)


def test_nothing_is_written_where_it_may_not(report, tmp_path):
    design = report[1]
    (tmp_path / "file").write_text("")
    with pytest.raises(
        FileError,
        match=r"^cannot write .*: a part of the path is a file, not a folder\nfix: choose a place",
    ):
        save_report([page(design)], tmp_path / "file" / "report.html", "x")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_opens_in_a_browser_without_errors(report, tmp_path):
    path = report[0][0]
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
            *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
            *("--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1200,3000"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr"),
            *("--virtual-time-budget=4000", "--dump-dom", path.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not console, console
    assert done.stdout.count('class="main-svg"') >= 2 * 5  # five figures, each drawn
    assert "ERR_" not in done.stderr

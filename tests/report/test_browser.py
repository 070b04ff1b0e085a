"""Reports in a browser: six kinds of designs, nothing on the console, no request, every figure."""

import base64
import shutil
from dataclasses import dataclass, field
from functools import cache

import pytest
from playwright.sync_api import Page, sync_playwright

from penstock import zoo
from penstock.cli import main
from penstock.design import explore, page, remap, resized, sample, simulate, verify_simulation
from penstock.report import save_report
from penstock.studies.fpga import fpga_section
from penstock.studies.gpu import gpu_section

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
TINY = {"p": 8, "m": 8, "e": 4, "f": 4}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


def spatial(path):
    made = remap(zoo.load("attention"), "mesh4x4", shapes={"h": 1, **TINY})
    inputs = sample(made)
    simulation = simulate(made, inputs)
    checks = (verify_simulation(made, simulation, inputs),)
    pages = [page(made, checks=checks, simulated=(made, simulation), commands=("penstock x",))]
    save_report(pages, path, "penstock <spatial>")


def fpga(path):
    made = remap(zoo.load("matmul"), "pynq_z2", shapes={"m": 8, "n": 8, "k": 8})
    save_report([page(made)], path, "x", sections=[fpga_section(made)])


def gpu(path):
    cascade = zoo.load("attention_1pass")
    shapes = {"b": 1, "h": 8, "p": 256, "m": 256, "e": 64, "f": 64, "m0": 64}
    made, search = explore(cascade, "h200", shapes=shapes)
    save_report([page(made, search=search)], path, "x", sections=[gpu_section(made)])


def causal(path):
    made = remap(zoo.load("causal_attention_1pass"), "fusemax", shapes={"h": 2, **TINY, "m0": 4})
    save_report([page(made), page(resized(made, {"p": 4, "m": 4}))], path, "x")


def sweep(path):
    command = ["explore", "matmul", "--target", "mesh4x4", "--shape", "m=8", "n=8", "k=8"]
    sizes = ["--sweep", "array=2..4", "gb=1KB,64KB", "--jobs", "1", "--report", str(path)]
    assert main([*command, *sizes]) == 0


def decode(path):
    shapes = {"h": 32, "g": 8, "p": 1, "m": 1024, "e": 128, "f": 128, "m0": 64}
    made, search = explore(zoo.load("gqa_causal_1pass"), "fusemax", shapes=shapes)
    save_report([page(made, search=search)], path, "x")


KINDS = (spatial, fpga, gpu, causal, sweep, decode)


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Opened:
    """A report in a tab of 1280 x 900, drawn, with what it said and what it asked for."""

    tab: Page
    address: str
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def tabs(chromium, tmp_path_factory):
    @cache
    def opened(make):
        path = tmp_path_factory.mktemp(make.__name__) / "report.html"
        make(path)
        assert path.stat().st_size < 3_000_000
        tab = chromium.new_page(viewport={"width": 1280, "height": 900})
        found = Opened(tab, path.as_uri())
        tab.on("console", lambda message: found.said.append(message.text))
        tab.on("pageerror", lambda error: found.said.append(str(error)))
        tab.on("request", lambda request: found.asked.append(request.url))
        tab.goto(found.address)
        tab.wait_for_function("document.documentElement.dataset.drawn === 'yes'")
        return found

    return opened


@pytest.fixture
def tab(request, tabs):
    """The tab of a report; in the end nothing was said, and nothing asked for but the file."""
    found = tabs(request.param)
    yield found.tab
    assert not found.said
    assert [each for each in found.asked if not each.startswith(("data:", "blob:"))] == [
        found.address
    ]


COLOURED = """async (image) => {
  const bitmap = await createImageBitmap(await (await fetch(image)).blob());
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
  canvas.drawImage(bitmap, 0, 0);
  const { data } = canvas.getImageData(0, 0, bitmap.width, bitmap.height);
  let count = 0;
  for (let n = 0; n < data.length; n += 4)
    count += Math.max(...data.slice(n, n + 3)) - Math.min(...data.slice(n, n + 3)) > 40;
  return count;
}"""


def coloured(tab, element):
    """Pixels of an element that are neither grey, nor white, nor black: bars, points, roofs."""
    image = base64.b64encode(element.screenshot()).decode()
    return tab.evaluate(COLOURED, f"data:image/png;base64,{image}")


def background(tab):
    return tab.evaluate("getComputedStyle(document.body).backgroundColor")


def of(*makes):
    return pytest.mark.parametrize("tab", makes, ids=lambda make: make.__name__, indirect=True)


@of(*KINDS)
def test_every_figure_shows_something(tab):
    plots = tab.query_selector_all("figure .plot")
    assert plots
    light = background(tab)
    assert all(coloured(tab, plot) > 50 for plot in plots)
    tab.emulate_media(color_scheme="dark")
    assert background(tab) != light
    assert coloured(tab, plots[0]) > 50
    tab.emulate_media(color_scheme="light", media="print")
    assert background(tab) == "rgb(255, 255, 255)"
    assert coloured(tab, plots[0]) > 50
    tab.emulate_media(media="screen")
    tab.set_viewport_size({"width": 600, "height": 900})
    tab.wait_for_function("document.documentElement.scrollWidth <= 600")  # figures follow
    tab.set_viewport_size({"width": 1280, "height": 900})
    tab.wait_for_function("document.querySelector('.plot .main-svg').clientWidth > 1000")


@of(sweep)
def test_a_point_of_the_front_says_its_mapping(tab):
    plot = tab.query_selector(".plot")
    place = tab.query_selector_all(".plot .scatterlayer .trace")[-1].query_selector("path.point")
    box = place.bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.mouse.move(*middle)
    tab.wait_for_selector(".hoverlayer .hovertext")
    assert "mapping" in plot.query_selector(".hoverlayer").text_content()
    assert not tab.query_selector("details[open]")
    tab.mouse.click(*middle)
    tab.wait_for_selector("details[open] pre")
    assert tab.query_selector("details[open] pre").text_content().startswith("mapping ")
    tab.keyboard.press("Enter")  # the summary has the focus: the keyboard closes it again
    assert not tab.query_selector("details[open]")


@of(spatial)
def test_a_bar_says_what_it_is_and_can_be_zoomed(tab):
    plot = tab.query_selector_all(".plot")[-1]  # the waterfall
    plot.scroll_into_view_if_needed()
    box = plot.query_selector(".barlayer path").bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.wait_for_selector(".hoverlayer .hovertext")
    assert "cycles" in plot.query_selector(".hoverlayer").text_content()
    area = plot.query_selector(".nsewdrag").bounding_box()
    before = plot.evaluate("plot => plot.layout.xaxis.range[1]")
    middle = area["y"] + area["height"] / 2
    tab.mouse.move(area["x"] + 100, middle)
    tab.mouse.down()
    tab.mouse.move(area["x"] + 300, middle, steps=8)
    tab.mouse.up()
    tab.wait_for_function(
        "before => [...document.querySelectorAll('.plot')].at(-1).layout.xaxis.range[1] < before",
        arg=before,
    )

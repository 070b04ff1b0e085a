"""The pages in docs/ tell the truth: cascades and mappings parse, Python runs, paths exist."""

import re
from pathlib import Path

import pytest

from penstock import zoo
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.shapes import bind
from penstock.mapper.check import check
from penstock.mapper.notation import parse_mapping
from penstock.mapper.search.build import default_mapping
from penstock.targets.serial import from_json, to_json

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))


def blocks(page, kind):
    """The fenced blocks of a kind with the number of their first line."""
    text = page.read_text()
    found = re.finditer(rf"^```{kind}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    return [(text.count("\n", 0, each.start(1)) + 1, each[1]) for each in found]


TEXTS = [
    pytest.param(code, f"{page.name}:{line}", id=f"{page.stem}-{line}")
    for page in PAGES
    for line, code in blocks(page, "text")
]
PYTHON = [page for page in PAGES if blocks(page, "python")]


@pytest.mark.parametrize(("code", "place"), TEXTS)
def test_texts_are_in_their_notation(code, place):
    if code.startswith("cascade"):
        cascade = parse(code, file=place)
        assert parse(str(cascade)) == cascade
    elif code.startswith("mapping"):
        mapping = parse_mapping(code, file=place)
        assert parse_mapping(str(mapping)) == mapping


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: page.stem)
def test_python_runs(page):
    """The blocks of a page run in order, and share their names."""
    names = {"__name__": page.stem}
    for line, code in blocks(page, "python"):
        exec(compile("\n" * (line - 1) + code, str(page), "exec"), names)


def test_the_machine_of_the_page_is_one():
    """The file that add-a-target.md adds is a machine that can be mapped to."""
    page = ROOT / "docs" / "add-a-target.md"
    _, added = blocks(page, "diff")[0]
    file = "".join(line[1:] for line in added.splitlines(True) if not line.startswith("+++"))
    names = {}
    exec(compile(file, str(page), "exec"), names)
    target = names["TARGET"]
    assert from_json(to_json(target)) == target
    assert all(target.spread(memory) for memory in target.memories if memory.array)
    bound = bind(zoo.load("attention"), shapes={"h": 2, "p": 20, "m": 20, "e": 8, "f": 8})
    fmt = parse_format(target.format)
    check(default_mapping(bound, target, fmt), bound, target, fmt)


def test_the_lines_that_the_page_changes_are_there():
    page = ROOT / "docs" / "add-a-target.md"
    for (_, diff), file in zip(
        blocks(page, "diff")[1:],
        ("penstock/targets/__init__.py", "tests/targets/test_targets.py"),
        strict=True,
    ):
        now = (ROOT / file).read_text().splitlines()
        old = [line[1:] for line in diff.splitlines() if line[0] in " -" and line[:3] != "---"]
        assert old
        assert not [line for line in old if line not in now]


def test_every_construct_has_a_page():
    assert {"notation", "mapping", "add-a-target", "glossary"} <= {page.stem for page in PAGES}
    assert {page.stem for page in PYTHON} >= {"notation", "mapping", "add-a-target"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_and_paths_lead_somewhere(page):
    text = page.read_text()
    links = [each for each in re.findall(r"\]\(([^)#]+)", text) if not each.startswith("http")]
    missing = [each for each in links if not (page.parent / each).exists()]
    folders = r"`((?:mapper|einsum_ir|targets|codegen|sim|zoo|tests|docs|examples)/[\w/.-]+)`"
    roots = (ROOT, ROOT / "penstock")
    named = re.findall(folders, text)
    missing += [each for each in named if not any((root / each).exists() for root in roots)]
    assert not missing

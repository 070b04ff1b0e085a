"""Mapping notation: what is printed reads back; what is not a mapping is shown underlined."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import NotationError
from penstock.mapper.mappings import load_mapping, mapping_names
from penstock.mapper.nodes import Compute, Keep, Loop, Mapping, Nest
from penstock.mapper.notation import parse_mapping

HEAD = "mapping t for c on toy\n"

variables = st.sampled_from(("p", "m0", "m1", "e", "for_", "by1"))
tensors = st.sampled_from(("Q", "K", "RNV", "S_1", "X2"))
places = st.sampled_from(("gb", "rf2d", "pe1d", "cols"))
temporal = st.builds(Loop, variables, st.integers(1, 4096))
loops = st.builds(Loop, variables, st.integers(1, 4096), st.sampled_from(("", "rows", "lanes")))
leaves = st.builds(
    Compute, tensors, places, st.lists(loops, max_size=4).map(tuple), st.integers(0, 9)
)
keeps = st.builds(
    Keep, st.lists(tensors, min_size=1, max_size=3).map(tuple), places, st.integers(1, 4)
)


def nests(inner):
    bodies = st.lists(st.one_of(inner, keeps), min_size=1, max_size=3).map(tuple)
    return st.builds(Nest, loops, bodies, st.booleans())


nodes = st.recursive(leaves, nests, max_leaves=6)
mappings = st.builds(
    Mapping,
    st.just("t"),
    st.just("attention_1pass"),
    st.just("mesh4x4"),
    st.lists(st.one_of(nodes, keeps), min_size=1, max_size=4).map(tuple),
)


@settings(max_examples=150, deadline=None)
@given(mappings)
def test_what_is_printed_reads_back(mapping):
    assert parse_mapping(str(mapping)) == mapping
    assert str(parse_mapping(str(mapping))) == str(mapping)


def test_every_part():
    text = """
# a comment
mapping binding for attention_1pass on fusemax   # with another

for h
  for p by 64@rows
    keep Q, RM in gb x2
    for m1 pipelined
      BQK on pe2d stage 2: p@cols, m0 by 4@rows, e
  AV on pe1d
"""
    leaf = Compute("BQK", "pe2d", (Loop("p", 1, "cols"), Loop("m0", 4, "rows"), Loop("e")), 2)
    inner = Nest(Loop("m1"), (leaf,), pipelined=True)
    tiles = Nest(Loop("p", 64, "rows"), (Keep(("Q", "RM"), "gb", 2), inner))
    want = Nest(Loop("h"), (tiles, Compute("AV", "pe1d")))
    assert parse_mapping(text) == Mapping("binding", "attention_1pass", "fusemax", (want,))


def test_nodes_know_where_they_stand():
    mapping = parse_mapping(f"{HEAD}for p\n  keep Q in gb\n  Y on pe1d: m\n", file="my.mapping")
    (nest,) = mapping.body
    keep, leaf = nest.body
    spans = [(node.span.file, node.span.line, node.span.column) for node in (nest, keep, leaf)]
    assert spans == [("my.mapping", 2, 0), ("my.mapping", 3, 2), ("my.mapping", 4, 2)]
    assert leaf.span.show().endswith("Y on pe1d: m\n  ^^^^^^^^^^^^")


@pytest.mark.parametrize("name", mapping_names())
def test_mappings_in_files_read_back(name):
    mapping = load_mapping(name)
    assert mapping.name == name
    assert parse_mapping(str(mapping)) == mapping


def test_unknown_mapping_file():
    from penstock.errors import UnknownNameError

    with pytest.raises(UnknownNameError) as caught:
        load_mapping("fusemax_bindin")
    assert str(caught.value) == (
        f"unknown mapping 'fusemax_bindin' (known: {', '.join(mapping_names())})\n"
        "fix: did you mean 'fusemax_binding' or 'fusemax_drained'?"
    )


BAD = {
    "": "my.mapping holds no mapping\nfix: begin with 'mapping NAME for CASCADE on TARGET'",
    "mapping t on toy\n": (
        "'mapping t on toy' is no header of a mapping\nmy.mapping:1:1\n  mapping t on toy\n"
        "  ^^^^^^^^^^^^^^^^\nfix: begin with 'mapping NAME for CASCADE on TARGET'"
    ),
    f"{HEAD}for p\n": (
        "nothing stands inside 'for p'\nmy.mapping:2:1\n  for p\n  ^^^^^\n"
        "fix: indent what the loop repeats below it"
    ),
    f"{HEAD}for p\n    Y on a\n  Z on a\n": (
        "'Z on a' is indented unlike the lines around it\nmy.mapping:4:3\n  Z on a\n  ^^^^^^\n"
        "fix: indent the lines of one loop alike, two spaces deeper than the loop"
    ),
    f"{HEAD}Y on a\n  Z on a\n": (
        "'Z on a' is indented unlike the lines around it\nmy.mapping:3:3\n  Z on a\n  ^^^^^^\n"
        "fix: indent the lines of one loop alike, two spaces deeper than the loop"
    ),
    f"{HEAD}keep q in gb\n": (
        "'keep q in gb' is no residency\nmy.mapping:2:1\n  keep q in gb\n  ^^^^^^^^^^^^\n"
        "fix: write it as in 'keep Q, RM in gb' or 'keep K in gb x2'"
    ),
    f"{HEAD}keep Q, in gb\n": (
        "'keep Q, in gb' is no residency\nmy.mapping:2:1\n  keep Q, in gb\n  ^^^^^^^^^^^^^\n"
        "fix: write it as in 'keep Q, RM in gb' or 'keep K in gb x2'"
    ),
    f"{HEAD}Y at a\n": (
        "'Y at a' is neither a loop, a residency nor an Einsum\nmy.mapping:2:1\n  Y at a\n"
        "  ^^^^^^\nfix: write 'for p by 256', 'keep K in gb' or 'QK on pe2d: p@cols, m@rows, e'"
    ),
    f"{HEAD}Y on a: p by\n": (
        "'p by' is no loop\nmy.mapping:2:9\n  Y on a: p by\n          ^^^^\n"
        "fix: write it as in 'p', 'p by 256', 'p@cols' or 'p by 4@lanes'"
    ),
    f"{HEAD}Y on a: p by 0\n": (
        "'p by 0' is no loop\nmy.mapping:2:9\n  Y on a: p by 0\n          ^^^^^^\n"
        "fix: write it as in 'p', 'p by 256', 'p@cols' or 'p by 4@lanes'"
    ),
    f"{HEAD}for p by x\n  Y on a\n": (
        "'p by x' is no loop\nmy.mapping:2:5\n  for p by x\n      ^^^^^^\n"
        "fix: write it as in 'p', 'p by 256', 'p@cols' or 'p by 4@lanes'"
    ),
}


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_what_is_no_mapping(text):
    with pytest.raises(NotationError) as caught:
        parse_mapping(text, file="my.mapping")
    assert str(caught.value) == BAD[text]


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="mapping for on keepin x2:@,\n #ZQ139", max_size=80))
def test_any_text_is_a_mapping_or_a_notation_error(text):
    with contextlib.suppress(NotationError):
        parse_mapping(HEAD + text)

"""Operators of a mapping on a part: counted, refused where they do not fit, and searched within."""

import re
from dataclasses import replace

import numpy as np
import pytest
from tiny_spaces import FP16, compare, every_mapping, random_problem

from penstock import zoo
from penstock.design import remap
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.shapes import bind
from penstock.errors import MappingError
from penstock.mapper.check import check
from penstock.mapper.facts import facts_of
from penstock.mapper.resources import operators_of, parts_of
from penstock.mapper.scopes import tree_of
from penstock.mapper.search.build import default_mapping
from penstock.mapper.search.explore import explore
from penstock.targets import TARGETS

SHAPES = {"b": 1, "h": 1, "p": 64, "m": 64, "e": 16, "f": 16, "m0": 16}
U280 = TARGETS.get("u280")


def on_part(target, **parts):
    return replace(target, resources=tuple(parts.items()), sizings=())


def rows_of(design):
    facts = facts_of(design.bound)
    leaves = tree_of(design.mapping, facts, design.target).leaves
    return {leaf.name: operators_of(leaf, facts.extents, design.format) for leaf in leaves}


def test_operators_are_counted_by_places():
    rows = rows_of(remap(zoo.load("attention_1pass"), "u280", shapes=SHAPES))
    assert str(rows["BQK"]) == "BQK on pe2d: 256 mac"
    assert rows["BQK"].cost.dsp == 256  # one DSP48E2 for 16 x 16 bits
    # Six multiplications of 22 x 22 bits, two blocks each, for every exponential.
    assert rows["SLN"].cost.dsp == 256 * 12
    assert rows["SPD"].places == 16


def test_what_a_part_has_not_is_refused_with_numbers():
    design = remap(zoo.load("attention_1pass"), "u280", shapes=SHAPES)
    small = on_part(U280, LUT=1_303_680, DSP=3_000)
    text = (
        "the operators need 4,048 DSP, u280 has 3,000; most take SLN on pe2d: 256 exp, 256 - "
        "(3,072); BQK on pe2d: 256 mac (256); SLNV on pe2d: 256 mac (256)\n"
        "fix: lay fewer steps side by side, or use fewer bits"
    )
    with pytest.raises(MappingError, match=f"^{re.escape(text)}$"):
        check(design.mapping, design.bound, small, design.format)


@pytest.mark.parametrize("fmt", ["fixed<16,6>", "fp32"])
def test_mappings_to_a_small_part_fit(fmt):
    small = on_part(U280, LUT=53_200, FF=106_400, DSP=220)
    cascade, chosen = zoo.load("attention_1pass"), parse_format(fmt)
    default = remap(cascade, small, shapes=SHAPES, fmt=chosen)  # a Design is checked
    bound = bind(cascade, shapes=SHAPES)
    search = explore(bound, small, chosen)
    found = remap(cascade, small, shapes=SHAPES, fmt=chosen, mapping=search.mapping)
    assert sum(row.cost.dsp for row in rows_of(found).values()) <= 220
    assert search.evaluation.latency_cycles <= default.evaluate().latency_cycles
    free = explore(bound, U280, chosen)
    assert search.evaluation.latency_cycles > free.evaluation.latency_cycles
    assert not search.optimal


@pytest.mark.parametrize("seed", range(10))
def test_nothing_that_fits_is_better(seed):
    """The search on a random part against every mapping that fits it."""
    bound, target = random_problem(np.random.default_rng([9, seed]), 1500)
    facts = facts_of(bound)
    needs = [
        np.sum(
            [parts_of(leaf, facts.extents, FP16) for leaf in tree_of(m, facts, target).leaves], 0
        )
        for m in every_mapping(bound, target)
    ]
    middle = np.quantile([need[0] for need in needs], 0.3)
    part = on_part(target, LUT=int(middle))
    assert any(need[0] > int(middle) for need in needs) or len({need[0] for need in needs}) == 1
    compare(bound, part)


def test_the_default_mapping_uses_half_of_an_array_where_all_is_too_much():
    bound = bind(zoo.load("attention_1pass"), shapes=SHAPES)
    fmt = parse_format("fixed<16,6>")
    small = on_part(U280, DSP=1_000)
    default_mapping(bound, U280, fmt)
    mapping = default_mapping(bound, small, fmt)
    check(mapping, bound, small, fmt)
    with pytest.raises(MappingError, match="the operators need"):
        default_mapping(bound, on_part(U280, DSP=1), fmt)

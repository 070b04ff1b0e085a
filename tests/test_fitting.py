"""Designs that the search finds for FPGAs have projects that fit, by the projects' own count."""

from dataclasses import replace

import pytest

from penstock import parse, zoo
from penstock.codegen.hls import generate as hls
from penstock.codegen.hls.pragmas import HlsNotes
from penstock.codegen.hls.resources import exceeded, kernel_constructs, uses
from penstock.design import Design, explore
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.shapes import bind
from penstock.errors import MappingError
from penstock.fitting import fitting
from penstock.mapper.search.explore import explore_variants
from penstock.targets import TARGETS

ROWS = """
cascade rows(X[p, m]) -> Y[p, m]
  S[p]    = X[p, m]      :: sum[m]
  Y[p, m] = X[p, m] / S[p]
"""
SHAPES = {
    "attention": {"h": 2, "p": 64, "m": 64, "e": 32, "f": 32},
    "gqa_causal": {"h": 4, "g": 2, "p": 48, "m": 48, "e": 32, "f": 32},
    "flash_decoding": {"b": 1, "h": 4, "g": 2, "m": 256, "u": 32, "i": 8, "e": 32, "f": 32},
}


def used(found):
    tasks = hls.tasks_of(found.program())
    return uses(kernel_constructs(tasks, HlsNotes.of(tasks, found.target.clock_hz)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "part"),
    [("attention", "zcu102"), ("gqa_causal", "kv260"), ("flash_decoding", "pynq_z2")],
)
def test_what_the_search_finds_fits(name, part):
    found, search = explore(zoo.load(name), part, shapes=SHAPES[name])
    assert not exceeded(used(found), dict(found.target.resources))
    assert found.target in TARGETS.get(part).sized()  # with all that the part has
    assert search.evaluation.latency_cycles == found.evaluate().latency_cycles


def test_a_smaller_design_is_taken_where_the_best_one_has_no_room():
    cascade, fmt = zoo.load("attention"), parse_format("fixed<16,6>")
    bound = bind(cascade, shapes={"h": 2, "p": 16, "m": 16, "e": 16, "f": 16})
    card = replace(TARGETS.get("pynq_z2"), sizings=())
    best = fitting((bound,), card, fmt)
    need = used(Design(best.bound.cascade, best.mapping, card, fmt))[-1].counts[0]
    part = replace(card, resources=(("LUT", int(0.8 * need)), *card.resources[1:]))
    assert explore_variants((bound,), part, fmt).mapping == best.mapping  # operators have room
    found = fitting((bound,), part, fmt)
    assert found.evaluation.latency_cycles > best.evaluation.latency_cycles
    assert not found.optimal
    assert found.target.resources == part.resources


def test_a_part_without_room_for_the_ports_is_refused():
    bound = bind(zoo.load("matmul"), shapes={"m": 8, "n": 8, "k": 8})
    resources = (("LUT", 3_000), ("DSP", 100), ("FF", 10**6))
    tiny = replace(TARGETS.get("u280"), sizings=(), resources=resources)
    with pytest.raises(
        MappingError, match=r"^no mapping was found whose project fits u280: .* LUT"
    ):
        fitting((bound,), tiny, parse_format("fixed<16,6>"))


def test_the_mapper_takes_the_algorithm_that_leaves_more_places():
    """Quotients bit by bit take flip-flops, Newton steps multipliers: of which are there more?"""
    card = replace(TARGETS.get("u280"), sizings=())
    cascade, shapes = parse(ROWS), {"p": 64, "m": 64}
    few = replace(card, resources=(("LUT", 10**6), ("FF", 500_000), ("DSP", 9_000)))
    made, search = explore(cascade, few, shapes=shapes)
    assert made.format.algorithms == ("newton",)
    assert search.summary().endswith("; fixed<16,6,newton> is best")
    bit_by_bit, _ = explore(cascade, few, shapes=shapes, others=())
    assert made.evaluate().latency_cycles < bit_by_bit.evaluate().latency_cycles
    enough = replace(card, resources=(("LUT", 10**6), ("FF", 10**7), ("DSP", 5_000)))
    assert explore(cascade, enough, shapes=shapes)[0].format.algorithms == ()
    said = parse_format("fixed<16,6,poly>")  # who names one has chosen
    assert explore(cascade, few, shapes=shapes, fmt=said)[0].format == said

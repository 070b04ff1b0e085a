"""The search, given only FuseMax's cascade and machine, against FuseMax's own +binding."""

import pytest

from penstock import zoo
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.shapes import bind
from penstock.mapper.mappings import load_mapping
from penstock.mapper.model.evaluate import evaluate
from penstock.mapper.search.explore import explore
from penstock.targets import TARGETS


@pytest.mark.parametrize("length", [1024, 4096, 16384, 65536, 262144, 1048576])
def test_as_fast_as_the_published_mapping(length):
    shapes = {"b": 64, "h": 12, "p": length, "m": length, "e": 64, "f": 64, "m0": 256}
    bound, target = bind(zoo.load("attention_1pass"), shapes=shapes), TARGETS.get("fusemax")
    fmt = parse_format("fp16")
    published = evaluate(load_mapping("fusemax_binding"), bound, target, fmt)
    found = explore(bound, target, fmt)
    assert found.evaluation.latency_cycles <= published.latency_cycles * (1 + 1e-12)
    assert found.evaluation.dram_bytes <= published.dram_bytes

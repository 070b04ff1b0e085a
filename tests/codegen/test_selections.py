"""Selections: machines without the operator, and generators, say so."""

from dataclasses import replace

import pytest

from penstock import parse
from penstock.codegen.lower.program import lower
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.shapes import bind
from penstock.errors import DataError, MappingError
from penstock.mapper.search.build import default_mapping
from penstock.targets import TARGETS

FP32 = parse_format("fp32")
BOUND = bind(
    parse("""
cascade chosen(X[p, r], K[r, e]) -> O[p, e]
  shape j = 3, p = 8, r = 16, e = 4
  SEL[p, j] = X[p, r] :: topk[r -> j]
  O[p, e] = K[SEL[p, j], e] :: sum[j]
""")
)


def test_a_machine_without_the_operator():
    with pytest.raises(MappingError, match="SEL cannot run on mesh4x4: no array has 'topk'"):
        default_mapping(BOUND, TARGETS.get("mesh4x4"), FP32)


def test_generated_code_has_none():
    mesh = TARGETS.get("mesh4x4")
    arrays = tuple(replace(each, cycles=(*each.cycles, ("topk", 1))) for each in mesh.arrays)
    target = replace(mesh, arrays=arrays)
    with pytest.raises(DataError, match=r"no selections, and SEL is one: topk\[r -> j\]"):
        lower(BOUND, default_mapping(BOUND, target, FP32), target, FP32)

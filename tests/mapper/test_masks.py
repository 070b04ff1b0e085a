"""Masks on all families of machines: the tiles that the model visits are those that are not empty.

For each mechanism and machine the best mapping is found, and for each Einsum whose points a
predicate thins out the tiles of its loops are classified: exactly those with a point at which the
guard holds are visited, and the others skipped.
"""

import math
from dataclasses import replace
from itertools import pairwise

import pytest

from penstock import parse, zoo
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.nodes import variables
from penstock.einsum_ir.regions.guards import guards
from penstock.einsum_ir.regions.tiling import classify
from penstock.einsum_ir.shapes import bind
from penstock.mapper.nodes import leaves
from penstock.mapper.search.explore import explore
from penstock.targets import TARGETS

HEADS = {"h": 2, "e": 16, "f": 16}
NEIGHBOURHOOD = """
cascade neighbourhood(Q[h, y, x, e], K[h, u, v, e], V[h, u, v, f]) -> O[h, y, x, f]
  QK[h, y, x, u, v] = Q[h, y, x, e] * K[h, u, v, e] :: sum[e]
                      s.t. abs(y - u) <= 2 and abs(x - v) <= 2
  A[h, y, x, u, v]  = softmax(QK[h, y, x, u, v]; u, v)
  O[h, y, x, f]     = A[h, y, x, u, v] * V[h, u, v, f]    :: sum[u, v]
"""
MLA = """
cascade latent(QL[h, p, c], QR[h, p, r], C[m, c], KR[m, r]) -> OL[h, p, c]
  SE[h, p, m] = QL[h, p, c] * C[m, c]  :: sum[c]
  SR[h, p, m] = QR[h, p, r] * KR[m, r] :: sum[r]
  A[h, p, m]  = softmax(SE[h, p, m] + SR[h, p, m]; m)  s.t. m <= p + M - P
  OL[h, p, c] = A[h, p, m] * C[m, c]   :: sum[m]
"""  # as `mla_absorbed` of the stock, queries and keys rotated before: no machine of all has cos
MECHANISMS = {
    "causal": (zoo.source("causal_attention_1pass"), {**HEADS, "p": 256, "m": 256, "m0": 16}),
    "sliding window": (zoo.source("sliding_window"), {**HEADS, "p": 512, "m": 512}),
    "neighbourhood 2-D": (NEIGHBOURHOOD, {**HEADS, "y": 16, "x": 16, "u": 16, "v": 16}),
    "GQA decode": (
        zoo.source("gqa_causal_1pass"),
        {"h": 8, "g": 2, "p": 1, "m": 100_000, "e": 128, "f": 128, "m0": 64},
    ),
    "MLA": (MLA, {"h": 2, "p": 64, "m": 128, "c": 32, "r": 8}),
    "cross, P != M": (zoo.source("causal_cross"), {**HEADS, "p": 96, "m": 256}),
}
FAMILIES = ("fusemax", "u280", "h200")


def uniform(nests, name, extent):
    """Return the tile of the innermost loop over a variable; outer ones must be multiples of it."""
    chain = [nest.loop.tile for nest in nests if nest.loop.variable == name]
    assert all(outer % inner == 0 for outer, inner in pairwise(chain))
    return chain[-1] if chain else extent


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_visited_tiles_are_those_with_points(mechanism, family):
    text, shapes = MECHANISMS[mechanism]
    target = replace(TARGETS.get(family), sizings=())
    bound = bind(parse(text), shapes=shapes)
    found = explore(bound, target, parse_format(target.format))
    counts = {each.einsum: each for each in found.evaluation.leaves}
    conditions = guards(bound)
    seen = 0
    for nests, leaf in leaves(found.mapping.body):
        guard, count = conditions[leaf.einsum], counts[leaf.einsum]
        einsum = next(e for e in bound.cascade.einsums if e.name == leaf.einsum and not e.init)
        names = variables(guard) if guard is not None else ()
        others = math.prod(
            -(-bound.extents[v] // uniform(nests, v, bound.extents[v]))
            for v in einsum.variables
            if v not in names
        )
        if guard is None:
            assert (count.visits, count.skipped) == (others, 0)
            continue
        extents = {v: bound.extents[v] for v in names}
        tiles = {v: uniform(nests, v, bound.extents[v]) for v in names}
        tiling = classify(guard, extents, tiles=tiles, symbols=bound.symbols)
        assert count.visits == (tiling.full + tiling.partial) * others
        assert count.skipped == tiling.empty * others
        seen += 1
    assert seen or mechanism == "GQA decode"  # every key of a cache is seen by the last query

"""Equivalent cascades as part of the space: shapes, constants and the sizes of tiles."""

import pytest

from penstock import explore, parse
from penstock.errors import CascadeError
from penstock.mapper.search.variants import bind_variants, open_tiles, tile_sizes
from penstock.targets import TARGETS

WHOLE = parse("""
cascade whole(X[p, m]) -> Y[p]
  const SC = 2
  GM[p] = X[p, m] :: max[m]
  E[p, m] = exp(X[p, m] - GM[p])
  S[p] = E[p, m] :: sum[m]
  Y[p] = S[p] * SC
""")
TILED = parse("""
cascade tiled(X[p, m]) -> Y[p]
  shape m0 = 64
  init RM[0, p] = -inf
  init RS[0, p] = 0
  loop m1:
    LM[m1, p] = X[p, m1*M0 + m0] :: max[m0]
    RM[m1 + 1, p] = max(RM[m1, p], LM[m1, p])
    E[m1, m0, p] = exp(X[p, m1*M0 + m0] - RM[m1 + 1, p])
    S[m1, p] = E[m1, m0, p] :: sum[m0]
    C[m1, p] = exp(RM[m1, p] - RM[m1 + 1, p])
    RS[m1 + 1, p] = RS[m1, p] * C[m1, p] + S[m1, p]
  Y[p] = RS[M1, p] * 2
""")
MESH = TARGETS.get("mesh4x4")


def sizes_of(bounds):
    return [bound.extents["m0"] for bound in bounds if bound.cascade.name == "tiled"]


@pytest.mark.parametrize(
    ("extent", "target", "sizes"),
    [
        (16, "mesh4x4", (4, 8, 16)),
        (24, "mesh4x4", (4, 8, 12, 16, 24)),
        (37, "mesh4x4", (4, 8, 16, 32)),
        (1, "mesh4x4", (1,)),
        (7, "mesh4x4", (1, 2, 4, 7)),
        (128, "fusemax", (32, 64, 128)),
        (1000, "fusemax", (256, 512, 1000)),
        (1 << 20, "fusemax", (256, 512, 1024, 2048)),
    ],
)
def test_sizes_of_tiles(extent, target, sizes):
    assert tile_sizes(extent, TARGETS.get(target)) == sizes


def test_a_tile_without_an_extent_is_open():
    assert open_tiles(TILED, {"p": 8, "m": 24}) == {"m0": "m"}
    assert open_tiles(TILED, {"p": 8, "m": 24, "m0": 4}) == {}
    assert open_tiles(WHOLE.with_shapes(m=24), {}) == {}
    shapes = {"p": 8, "m": 24}
    assert sizes_of(bind_variants([WHOLE, TILED], MESH, shapes=shapes)) == [4, 8, 12, 16, 24]
    assert sizes_of(bind_variants([WHOLE, TILED], MESH, shapes={**shapes, "m0": 3})) == [3]


def test_constants_go_to_those_that_have_them():
    whole, tiled = bind_variants(
        [WHOLE, TILED], MESH, shapes={"p": 8, "m": 24, "m0": 4}, constants={"SC": 3}
    )
    assert whole.symbols["SC"] == 3
    assert "SC" not in tiled.symbols
    with pytest.raises(CascadeError, match="constant XX=1 is no constant of whole"):
        bind_variants([WHOLE, TILED], MESH, shapes={"p": 8, "m": 24}, constants={"XX": 1})


def test_the_best_size_wins():
    shapes = {"p": 16, "m": 24}
    design, found = explore(WHOLE, "mesh4x4", shapes=shapes, variants=[TILED])
    alone = {("whole", 0): explore(WHOLE, "mesh4x4", shapes=shapes)[0]}
    for size in tile_sizes(24, MESH):
        alone["tiled", size] = explore(TILED, "mesh4x4", shapes={**shapes, "m0": size})[0]
    costs = {name: each.evaluate().latency_cycles for name, each in alone.items()}
    assert found.variants == len(alone)
    assert found.optimal
    assert found.evaluation.latency_cycles == min(costs.values())
    name = (design.cascade.name, design.bound.extents.get("m0", 0))
    assert costs[name] == min(costs.values()) < max(costs.values())


def test_without_other_cascades_only_sizes_are_open():
    design, found = explore(TILED, "mesh4x4", shapes={"p": 16, "m": 24}, variants=())
    assert found.variants == 5
    assert design.bound.extents["m0"] == found.bound.extents["m0"]
    assert explore(TILED, "mesh4x4", shapes={"p": 16, "m": 24})[0].bound.extents["m0"] == 64


def test_what_is_no_variant():
    other = parse("cascade other(X[p, k]) -> Y[p]\n  Y[p] = X[p, k]")
    with pytest.raises(CascadeError) as caught:
        bind_variants([WHOLE, other], MESH, shapes={"p": 8, "m": 24})
    assert str(caught.value) == (
        "other is no variant of whole: its inputs or outputs have other ranks "
        "(X[p, k] against X[p, m])\n"
        "fix: give cascades that compute the same of the same inputs"
    )
    with pytest.raises(CascadeError) as caught:
        bind_variants([WHOLE, TILED], MESH, shapes={"p": 8, "m": 24, "m2": 4})
    assert str(caught.value) == ("shape m2=4 names no rank of whole, tiled\nfix: did you mean 'm'?")

"""The space of the search: tiles, options, stages, places; every point is legal but for room."""

import numpy as np
import pytest
from stock import STOCK_CASCADES

from penstock import zoo
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.shapes import bind
from penstock.errors import MappingError
from penstock.mapper.check import check
from penstock.mapper.leaf import reads_back
from penstock.mapper.nodes import leaves
from penstock.mapper.notation import parse_mapping
from penstock.mapper.search.blocks import tiles
from penstock.mapper.search.space import in_time, mapping_at, skeletons, stages_of
from penstock.targets import TARGETS

STOCK = ("cpu", "flat", "fusemax", "h200", "mesh4x4", "u280")


@pytest.mark.parametrize(
    ("extent", "axis", "expected"),
    [
        (1024, 256, (256, 512, 1024)),
        (3 * 256, 256, (256, 512, 768)),
        (1000, 256, (256, 512, 1000)),
        (15 * 4, 4, (4, 8, 12, 16, 20, 32, 60)),
        (7, 16, (7,)),
        (1, 1, (1,)),
    ],
)
def test_tiles_are_multiples_of_the_axis(extent, axis, expected):
    assert tiles(extent, axis) == expected


def one_pass(**shapes):
    extents = {"b": 2, "h": 3, "p": 1024, "m": 1024, "e": 64, "f": 64, "m0": 256}
    return bind(zoo.load("attention_1pass"), shapes={**extents, **shapes})


def skeleton_of(bound, outer, inner):
    return next(
        each
        for each in skeletons(bound, TARGETS.get("fusemax"))
        if (each.recipe.outer, each.recipe.inner) == (outer, inner) and each.recipe.pipelined
    )


FUSEMAX = {
    **dict.fromkeys(("BQK", "LM", "SLN", "SLD", "SLNV"), "pe2d"),
    **dict.fromkeys(("RM", "PRM", "SPD", "RD", "SPNV", "RNV", "AV"), "pe1d"),
}
HOMES = {
    **dict.fromkeys(("Q", "RM", "RD", "RNV", "K", "V", "SLNV", "SPNV"), "gb"),
    **dict.fromkeys(("BQK", "SLN"), "rf2d"),
    **dict.fromkeys(("LM", "SLD", "PRM", "SPD"), "rf1d"),
}


def test_the_published_binding_is_a_point():
    bound, target = one_pass(p=65536), TARGETS.get("fusemax")
    skeleton = skeleton_of(bound, 32768, 256)
    picks = []
    for site in skeleton.sites:
        array = FUSEMAX[site.einsum]
        spatial = {"pe2d": {"p@cols", "m0@rows"}, "pe1d": {"p@lanes"}}[array]
        picks.append(
            next(
                number
                for number, option in enumerate(site.options)
                if option.array == array
                and {str(loop) for loop in option.loops if loop.spatial} == spatial
            )
        )
    kept = {
        each.tensor: (next(p for p in each.places if p.memory == HOMES[each.tensor]), 1)
        for each in skeleton.residents
    }
    mapping = mapping_at(skeleton, picks, kept, bound, target)
    check(mapping, bound, target, parse_format("fp16"))
    stages = {leaf.einsum: leaf.stage for _, leaf in leaves(mapping.body)}
    assert stages == {
        **dict.fromkeys(("BQK", "LM", "AV"), 0),
        **dict.fromkeys(("RM", "PRM", "SPD", "SPNV"), 1),
        **dict.fromkeys(("SLN", "SLD", "SLNV"), 2),
        **dict.fromkeys(("RD", "RNV"), 3),
    }


def numbered(skeleton, second):
    """Numbers of arrays: 1 for the Einsums of `second`, else 0."""
    return [np.array([int(site.einsum in second)]) for site in skeleton.sites]


def staged(skeleton, second=()):
    found = stages_of(skeleton.sites, numbered(skeleton, second))
    return {site.einsum: int(each[0]) for site, each in zip(skeleton.sites, found, strict=True)}


def test_stages_follow_from_the_arrays():
    skeleton = skeleton_of(one_pass(), 1024, 256)
    assert set(staged(skeleton).values()) == {0}
    found = staged(skeleton, {"RM"})
    assert (found["LM"], found["RM"], found["SLN"], found["RD"]) == (0, 1, 2, 2)


@pytest.mark.parametrize(("queries", "met"), [(256 * 1 + 1, True), (512, True), (1024, True)])
def test_states_are_there_in_time(queries, met):
    """RD of stage 3 is read by SPD of stage 1, one step of m1, so two or more tiles, later."""
    skeleton = skeleton_of(one_pass(p=queries), queries, 256)
    arrays = numbered(skeleton, {name for name, array in FUSEMAX.items() if array == "pe1d"})
    stages = stages_of(skeleton.sites, arrays)
    assert bool(in_time(skeleton.sites, arrays, stages).all()) is met


def test_states_that_come_too_late_are_no_points():
    """512 queries and then 256 alone: in the last block one tile is a whole step of m1."""
    skeleton = skeleton_of(one_pass(p=768), 512, 256)
    arrays = numbered(skeleton, {name for name, array in FUSEMAX.items() if array == "pe1d"})
    stages = stages_of(skeleton.sites, arrays)
    assert not in_time(skeleton.sites, arrays, stages).any()


def test_stages_of_a_recurrence_that_two_arrays_share():
    """S needs V, V needs U, U the S of the step before: one change of array, there and back."""
    cascade = parse("""
cascade feedback(X[a,t]) -> O[a]
  init S[a,0] = 0
  loop t:
    U[a,t] = S[a,t] * X[a,t]
    V[a,t] = U[a,t] + X[a,t]
    S[a,t+1] = V[a,t] * V[a,t]
  O[a] = S[a,T] + S[a,T]
""")
    bound, target = bind(cascade, shapes={"a": 4, "t": 3}), TARGETS.get("mesh4x4")
    skeleton = next(each for each in skeletons(bound, target) if each.recurrent)
    assert staged(skeleton) == {"U": 0, "V": 0, "S": 0, "O": 0}
    assert staged(skeleton, {"S"}) == {"U": 0, "V": 0, "S": 1, "O": 0}
    assert staged(skeleton, {"V"}) == {"U": 0, "V": 0, "S": 0, "O": 0}  # 2 stages, 1 step: none


def readers_of(bound, tensor, skeleton, arrays):
    makers = {einsum.name: einsum for einsum in bound.cascade.einsums if not einsum.init}
    return {
        arrays[site.einsum]
        for site in skeleton.sites
        if any(access.tensor == tensor for access in makers[site.einsum].operands)
        or (site.einsum == tensor and reads_back(makers[tensor], site.nests))
    }


def random_points(bound, target, rng, count):
    space = list(skeletons(bound, target))
    for _ in range(count):
        skeleton = space[rng.integers(len(space))]
        picks = [int(rng.integers(len(site.options))) for site in skeleton.sites]
        arrays = {
            site.einsum: site.options[pick].array
            for site, pick in zip(skeleton.sites, picks, strict=True)
        }
        kept = {}
        for each in skeleton.residents:
            readers = readers_of(bound, each.tensor, skeleton, arrays)
            places = [
                place
                for place in each.places
                for owner in [target.memory(place.memory).array]
                if not owner or (readers == {owner} and rng.random() < 0.2)
            ]
            place = places[rng.integers(len(places))]
            if place.home is not None:
                kept[each.tensor] = (place, 1)
        yield mapping_at(skeleton, picks, kept, bound, target)


def shapes_of(cascade):
    usual = {"b": 2, "h": 4, "g": 2, "p": 37, "m": 20, "e": 8, "f": 8, "m0": 8}
    ranks = {rank for each in cascade.inputs for rank in each.ranks} | cascade.shape.keys()
    return {rank: usual.get(rank, 6) for rank in ranks}


def verdict(mapping, bound, machine):
    try:
        check(mapping, bound, machine, parse_format(machine.format))
    except MappingError as error:
        return error.what
    return ""


@pytest.mark.parametrize("target", STOCK)
@pytest.mark.parametrize("name", STOCK_CASCADES)
def test_a_point_breaks_no_rule_but_room(name, target):
    machine = TARGETS.get(target)
    bound = bind(zoo.load(name), shapes=shapes_of(zoo.load(name)))
    rng = np.random.default_rng(0)
    legal = 0
    for mapping in random_points(bound, machine, rng, 12):
        said = verdict(mapping, bound, machine)
        room = said.startswith("needs ") and f", {machine.name} has " in said
        assert not said or room or " of other threads: " in said
        assert parse_mapping(str(mapping)) == mapping
        legal += not said
    assert legal


def test_no_skeleton_twice():
    bodies = [each.body for each in skeletons(one_pass(), TARGETS.get("fusemax"))]
    assert len(bodies) == len(set(bodies)) > 10


def test_size_counts_the_points():
    bound = bind(zoo.load("matmul"), shapes={"m": 8, "k": 8, "n": 8})
    (skeleton,) = skeletons(bound, TARGETS.get("mesh4x4"))
    # pe2d: rows and cols of {-, m, n, k}, never the same twice: 1 + 3 + 3 + 6; pe1d: {-, m, n}
    assert len(skeleton.sites[0].options) == 13 + 3
    # A, B whole in the buffer or not at all
    assert [len(each.places) for each in skeleton.residents] == [2, 2]
    assert skeleton.size == 16 * 2 * 2

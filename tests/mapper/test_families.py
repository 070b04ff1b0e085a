"""What machines of a family limit, and what the search finds under it."""

import math
from dataclasses import replace

import pytest

from penstock import parse, zoo
from penstock.design import choices, explore, remap
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.rewrite.reduce import reduce_passes
from penstock.einsum_ir.shapes import bind
from penstock.einsum_ir.work import compulsory_bytes, effective_points
from penstock.errors import MappingError, TargetError
from penstock.mapper.check import check
from penstock.mapper.facts import facts_of
from penstock.mapper.model.evaluate import evaluate
from penstock.mapper.model.roofline import roofline
from penstock.mapper.notation import parse_mapping
from penstock.mapper.search.explore import explore as explore_bound
from penstock.targets import TARGETS

FP16 = parse_format("fp16")
TILED = """
mapping tiled for attention on h200
for h@blocks
  keep K in l2
  for p by 64@blocks
    keep QK in regs
    keep Q, K in smem x2
    keep GM in smem
    QK on tensor: p by 16, m by 8, p@mma_m, m@mma_n, e by 16, e@mma_k
    GM on sm: p@threads, m
"""
CASCADE = """
cascade attention(Q[h, p, e], K[h, m, e]) -> GM[h, p]
  QK[h, p, m] = Q[h, p, e] * K[h, m, e] :: sum[e]
  GM[h, p]    = QK[h, p, m]             :: max[m]
"""


def bound_of(**shapes):
    return bind(parse(CASCADE), shapes={"h": 2, "p": 128, "m": 128, "e": 32, **shapes})


def test_a_tiled_mapping_on_a_gpu_by_hand():
    """128x128x32 points of two heads in 2 x 2 blocks of 64 queries, side by side on 132."""
    bound, target = bound_of(), TARGETS.get("h200")
    mapping = parse_mapping(TILED)
    check(mapping, bound, target, FP16)
    found = evaluate(mapping, bound, target, FP16)
    mac = dict(target.array("tensor").cycles)["mac"]
    cycles = {each.einsum: each.cycles for each in found.leaves}
    assert cycles["QK"] == pytest.approx(64 // 16 * (128 // 8) * (32 // 16) * mac)
    assert cycles["GM"] == 128  # 64 of 128 lanes, each the keys one after another
    moved = {(row.tensor, row.memory): (row.reads, row.writes) for row in found.traffic}
    assert moved["K", "hbm"] == (2 * 128 * 32, 0)  # once for each head
    assert moved["K", "l2"] == (4 * 128 * 32, 2 * 128 * 32)  # for each block
    held = {each.memory: each.needed_bytes for each in found.occupancy}
    assert held["smem"] == 2 * (64 + 128) * 32 * 2 + 64 * 2
    assert held["regs"] == 128 * 2  # of one thread: a row of QK


CAUSAL = """
mapping causal for scores on h200
for p by 16@blocks
  for m by 16
    S on sm: p@threads, m, e
"""


def test_the_busiest_block_counts_once():
    """Queries 0..15, 16..31 and 32..39 side by side: 1, 2 and 3 visits, of 256, 512, 320 points."""
    text = "cascade scores(Q[p,e], K[m,e]) -> S[p,m]\n"
    text += "  S[p,m] = Q[p,e] * K[m,e] :: sum[e] s.t. m <= p"
    bound, target = bind(parse(text), shapes={"p": 40, "m": 40, "e": 4}), TARGETS.get("h200")
    (leaf,) = evaluate(parse_mapping(CAUSAL), bound, target, FP16).leaves
    assert (leaf.visits, leaf.skipped, leaf.points) == (6, 3, (256 + 512 + 320) * 4)
    mac = dict(target.in_format("fp16").array("sm").cycles)["mac"]
    assert leaf.cycles == 2 * 16 * 4 * mac


REFUSED = {
    "no tree": (
        ("GM on sm: p@threads, m", "GM on sm: p, m@threads"),
        {},
        "GM reduces 'm' along axis threads of sm, which cannot add up its places",
    ),
    "more threads": (
        ("for p by 64@blocks", "for p by 2048@blocks"),
        {"p": 4096, "m": 16},
        "GM lays 2,048 steps along axis threads of sm, which takes 1,024 at most",
    ),
    "shared memory": (
        ("keep Q, K in smem x2", "keep Q, K in smem x20"),
        {},
        "needs 240.1 KB of smem in each place (blocks), h200 has",
    ),
    "registers": (
        ("GM on", "GM on"),
        {"m": 1024},
        "needs 2 KB of regs in each place (blocks x threads), h200 has 1020 B",
    ),
    "shared by blocks": (
        ("  keep K in l2", "  keep K in smem"),
        {},
        "'keep K in smem' stands around a loop along blocks, where each place has its own smem",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_limits_of_a_gpu(name):
    (old, new), shapes, cause = REFUSED[name]
    assert old in TILED
    with pytest.raises(MappingError) as caught:
        check(parse_mapping(TILED.replace(old, new)), bound_of(**shapes), TARGETS.get("h200"), FP16)
    assert cause.partition(", h200 has")[0] in str(caught.value)


def test_threads_read_their_own_registers_only():
    text = CASCADE.replace("-> GM[h, p]", "-> (GM[h, p], CM[h, m])")
    text += "  SN[h, p, m] = exp(QK[h, p, m])\n  CM[h, m] = SN[h, p, m] :: max[p]\n"
    mapping = """
mapping columns for attention on h200
for h@blocks
  keep SN in regs
  QK on tensor: p by 16, m by 8, p@mma_m, m@mma_n, e by 16, e@mma_k
  GM on sm: p@threads, m
  SN on sm: p@threads, m
  CM on sm: m@threads, p
"""
    bound = bind(parse(text), shapes={"h": 2, "p": 64, "m": 64, "e": 32})
    with pytest.raises(MappingError, match="CM reads SN from regs of other threads: it and SN lay"):
        check(parse_mapping(mapping), bound, TARGETS.get("h200"), FP16)
    check(parse_mapping(mapping.replace("regs", "smem")), bound, TARGETS.get("h200"), FP16)


def test_rates_of_formats():
    target = TARGETS.get("h200")
    half, byte = (dict(target.in_format(f).array("tensor").cycles) for f in ("fp16", "int8"))
    assert byte["mac"] == half["mac"] / 2
    assert [array.name for array in target.in_format("fp32").arrays] == ["sm"]
    double = dict(target.in_format("fp64").array("sm").cycles)
    assert double["+"] == 2 * dict(target.array("sm").cycles)["+"]
    once = target.in_format("fp16")
    assert once.in_format("fp16") == once
    only = replace(target, arrays=target.arrays[1:], memories=target.memories[:3])
    with pytest.raises(TargetError, match="no array of h200 works in fp64"):
        only.in_format("fp64")


def said(design):
    return {each.name: each.value for each in choices(design)}


@pytest.mark.slow
def test_attention_on_a_gpu_is_tiled_and_overlapped():
    shapes = {"h": 8, "g": 2, "p": 2048, "m": 2048, "e": 128, "f": 128}
    design, found = explore(zoo.load("gqa_causal_1pass"), "h200", shapes=shapes)
    chosen = said(design)
    assert chosen["blocks"] >= 128
    assert chosen["block_tile_p"] in (64, 128, 256)
    assert (chosen["warps"], chosen["split_k"]) == (chosen["block_tile_p"] // 32, 1)
    assert chosen["stages"] == 2
    assert "pipelined" in str(design.mapping)  # tensor cores beside the lanes
    assert found.evaluation.dram_bytes < 4 * 2 * 2048 * 128 * (8 + 8 + 2 + 2)


def split(design):
    return max(each.value for each in choices(design) if each.name.endswith("split_k"))


@pytest.mark.slow
def test_decode_splits_the_keys():
    """One query: only parts of the keys can keep 132 multiprocessors busy."""
    shapes = {"h": 8, "g": 2, "p": 1, "m": 8192, "e": 64, "f": 64}
    cascade = zoo.load("gqa_causal")
    whole, one = explore(cascade, "h200", shapes=shapes)
    plan = reduce_passes(cascade, "m", gated=False)
    shapes["m0"] = 256
    design, found = explore(cascade, "h200", shapes=shapes, variants=(plan.cascade, plan.tree))
    assert split(whole) == 1
    assert split(design) == 8192 // 256
    assert found.evaluation.latency_cycles < one.evaluation.latency_cycles / 2


@pytest.mark.slow
def test_an_fpga_is_built_as_large_as_its_part():
    shapes = {"h": 8, "g": 2, "p": 256, "m": 256, "e": 32, "f": 32, "m0": 32}
    cascade = zoo.load("gqa_causal_1pass")
    design, found = explore(cascade, "u280", shapes=shapes)
    usual = remap(cascade, replace(TARGETS.get("u280"), sizings=()), shapes=shapes)
    assert found.evaluation.latency_cycles < usual.evaluate().latency_cycles / 4
    chosen, has = said(design), dict(design.target.resources)
    assert not design.target.sizings
    assert all(chosen[name] <= has[name] for name in ("LUT", "FF", "DSP", "BRAM", "URAM"))
    assert chosen["DSP"] > has["DSP"] / 2
    assert 1 <= chosen["hbm_channels"] <= 32
    assert chosen["unroll_BQK"] == math.prod(chosen[f"pe2d_{axis}"] for axis in ("rows", "cols"))


def test_memories_beyond_the_part():
    target = replace(TARGETS.get("pynq_z2"), sizings=())
    large = target.override("bram.capacity_bytes", 2**20)
    with pytest.raises(MappingError, match=r"memories of pynq_z2 need 264 BRAM, the part has 140"):
        remap(parse(CASCADE), large, shapes={"h": 2, "p": 8, "m": 8, "e": 8})


ODD = {
    "one": {"h": 71, "p": 1, "m": 1, "e": 96},
    "odd": {"h": 71, "p": 37, "m": 37, "e": 96},
    "thousand": {"h": 3, "p": 1000, "m": 1000, "e": 96},
    "thousands": {"h": 1, "p": 37, "m": 3000, "e": 96},
}
FORMS = ("attention", "attention_1pass", "causal_attention", "causal_attention_1pass")


@pytest.mark.parametrize("family", ["fusemax", "u280", "h200"])
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("odd", ODD)
def test_remainders_are_counted(family, name, odd):
    """Of whole attention every point once and all work in time: nothing is rounded down."""
    target, cascade = replace(TARGETS.get(family), sizings=()), zoo.load(name)
    fmt = parse_format(target.format)
    given = {"b": 1, **ODD[odd], "f": 96, "m0": 64}
    ranks = {rank for each in cascade.inputs for rank in each.ranks} | cascade.shape.keys()
    bound = bind(cascade, shapes={rank: given[rank] for rank in ranks})
    found = explore_bound(bound, target, fmt)
    least = effective_points(bound)
    places = {array.name: array for array in found.target.arrays}
    for each in found.evaluation.leaves:
        array, steps = places[each.array], facts_of(bound).steps[each.einsum]
        extents = [bound.extents[v] for v in steps.einsum.variables]
        assert least[each.einsum] <= each.points <= math.prod(extents)
        assert each.points == math.prod(extents) or steps.guard is not None
        point = sum(count * dict(array.cycles)[op] for op, count in steps.ops.items())
        assert each.cycles >= each.points * point / array.places * (1 - 1e-9)
    bounds = {each.name: each.value for each in roofline(bound, target, fmt, least)}
    assert bounds["latency"] <= found.evaluation.latency_cycles * (1 + 1e-9)
    assert found.evaluation.dram_bytes >= compulsory_bytes(bound, fmt)


@pytest.mark.parametrize(("family", "cycles"), [("fusemax", 1), ("h200", 1), ("u280", 1)])
def test_a_single_score_by_hand(family, cycles):
    """One query, one key, one head of dimension 1: one multiply-add and one maximum."""
    target = TARGETS.get(family)
    bound = bind(parse(CASCADE), shapes={"h": 1, "p": 1, "m": 1, "e": 1})
    found = explore_bound(bound, target, parse_format(target.format)).evaluation
    assert {each.einsum: each.cycles for each in found.leaves} == {"QK": cycles, "GM": cycles}
    assert found.compute_cycles == 2


@pytest.mark.parametrize("objective", ["energy", "edp"])
@pytest.mark.parametrize("family", ["u280", "h200", "avx2"])
def test_no_objective_without_energies(family, objective):
    target = TARGETS.get(family)
    with pytest.raises(TargetError) as caught:
        explore_bound(bound_of(), target, parse_format(target.format), objective=objective)
    lacking = ", ".join(array.name for array in target.in_format(target.format).arrays)
    assert str(caught.value) == (
        f"{family} has no energies of {lacking}, which the objective {objective} needs\n"
        "fix: take the objective latency, or a copy of the machine with energy_pj and "
        "read_pj_per_byte"
    )

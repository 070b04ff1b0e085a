"""Phases, loops alone, drains, forwarding, last steps, spills, named numbers: counted by hand."""

from fractions import Fraction

import pytest

from penstock import parse
from penstock.codegen.lower.program import lower
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.shapes import bind
from penstock.errors import MappingError, NotationError, UnknownNameError
from penstock.mapper.check import check
from penstock.mapper.model.accounts import Accounting, Drain, Wrap, charge
from penstock.mapper.model.evaluate import evaluate
from penstock.mapper.model.registers import register_traffic
from penstock.mapper.notation import parse_mapping
from penstock.sim.simulate import simulate
from penstock.targets import TARGETS

FP16, MESH = parse_format("fp16"), TARGETS.get("mesh4x4")
BOUND = bind(
    parse("""
cascade scores(Q[p, e], K[m, e]) -> GM[p]
  QK[p, m] = Q[p, e] * K[m, e]
  GM[p] = QK[p, m] :: max[m]
"""),
    shapes={"p": 8, "m": 8, "e": 4},
)
BASE = """
mapping t for scores on mesh4x4
for p by 4 {p}
  keep Q in gb
  keep QK in gb {spill}
  QK on pe2d {qk}: m by 4, p@cols, m@rows, e
  GM on pe1d {gm}: p@lanes, m
"""


def text(p="", spill="", qk="", gm=""):
    return BASE.format(p=p, spill=spill, qk=qk, gm=gm)


def found(**manner):
    mapping = parse_mapping(text(**manner))
    assert parse_mapping(str(mapping)) == mapping
    check(mapping, BOUND, MESH, FP16)
    return evaluate(mapping, BOUND, MESH, FP16)


def moved(result):
    return {(row.tensor, row.memory): (row.reads, row.writes) for row in result.traffic}


def test_phases():
    # QK 2 x 4 cycles, GM 8, in each of 2 iterations
    assert found().compute_cycles == 2 * (8 + 8)
    assert found(p="in 2 phases", gm="stage 1").compute_cycles == 2 * (8 + 8)
    assert found(p="in 1 phases", gm="stage 1").compute_cycles == 2 * 8  # both in phase 0
    # stage 2 of 2 phases is phase 0 again, one iteration later
    assert found(p="in 2 phases", gm="stage 2").compute_cycles == 2 * 8
    (pipeline,) = found(p="in 2 phases", gm="stage 1").pipelines
    assert pipeline.binding == "phases pe2d -> pe1d"


def test_drained_waits_for_all_places_of_the_axis():
    cascade = parse("""
cascade c(A[p, m]) -> Y[p]
  X[p] = A[p, m] :: sum[m]
  Y[p] = X[p] + X[p]
""")
    bound = bind(cascade, shapes={"p": 8, "m": 4})
    body = """
mapping t for c on mesh4x4
for p by 4 in 2 phases
  X on pe2d drained: p@cols, m@rows
  Y on pe1d stage 1: p@lanes
"""
    # X 1 cycle and 4 rows of one addition each, then Y 1
    mapping = parse_mapping(body)
    check(mapping, bound, MESH, FP16)
    assert evaluate(mapping, bound, MESH, FP16).compute_cycles == 2 * (1 + 4 + 1)
    plain = parse_mapping(body.replace(" drained", ""))
    assert evaluate(plain, bound, MESH, FP16).compute_cycles == 2 * (1 + 1)
    wrong = parse_mapping(body.replace("stage 1", "stage 1 drained"))
    with pytest.raises(MappingError, match="Y is drained, but reduces nothing along an axis"):
        check(wrong, bound, MESH, FP16)


def test_alone_adds_each_parts_own_time():
    body = """
mapping t for scores on mesh4x4
for p by 4 alone
  QK on pe2d: m by 4, p@cols, m@rows, e
for p by 4 alone
  GM on pe1d: p@lanes, m
"""
    mapping = parse_mapping(body)
    check(mapping, BOUND, MESH, FP16)
    result = evaluate(mapping, BOUND, MESH, FP16)
    both = evaluate(parse_mapping(body.replace(" alone", "")), BOUND, MESH, FP16)
    # 2 x 8 cycles each; at 16 bytes a cycle: Q 2 x 2 x 16, K 2 x 32 and QK 64; then QK 64 and GM 8
    first, second = result.parts
    assert (first.compute_cycles, second.compute_cycles) == (16, 16)
    assert first.memory_cycles["dram"] == (64 + 64 + 64) * 2 / 16
    assert second.memory_cycles["dram"] == (64 + 8) * 2 / 16
    assert result.latency_cycles == 24 + 16
    assert both.latency_cycles == max(32, (192 + 72) * 2 / 16)


def test_taking_reads_no_memory():
    assert moved(found())["QK", "gb"] == (64, 64)
    assert moved(found(gm="taking QK"))["QK", "gb"] == (0, 64)
    with pytest.raises(MappingError, match=r"GM takes K .* but K is not among its operands"):
        found(gm="taking K")
    with pytest.raises(MappingError, match=r"QK takes Q .* but Q is not computed in its body"):
        found(qk="taking Q")


def test_spilled_share_passes_through():
    plain, spilled = found(), found(spill="spilling 1/4")
    assert moved(spilled)["QK", "gb"] == moved(plain)["QK", "gb"] == (64, 64)
    assert moved(spilled)["QK", "dram"] == (16, 16)
    assert spilled.dram_bytes == plain.dram_bytes + 2 * 16 * 2
    held = [{each.memory: dict(each.tensors) for each in r.occupancy} for r in (plain, spilled)]
    assert held[1]["gb"]["QK"] == held[0]["gb"]["QK"] * 3 / 4
    with pytest.raises(MappingError, match="spills more than there is"):
        found(spill="spilling 5/4")


def test_copies_of_intermediates_are_filled():
    body = """
mapping t for scores on mesh4x4
QK on pe2d: p by 4, m by 4, p@cols, m@rows, e
for p by 4
  keep QK in gb
  GM on pe1d: p@lanes, m
"""
    mapping = parse_mapping(body)
    check(mapping, BOUND, MESH, FP16)
    rows = moved(evaluate(mapping, BOUND, MESH, FP16))
    assert rows["QK", "dram"] == (64, 64)
    assert rows["QK", "gb"] == (64, 64)


def test_last_step():
    cascade = parse("""
cascade c(A[p, m]) -> Y[p]
  init S[0, p] = 0
  loop m:
    S[m + 1, p] = S[m, p] + A[p, m]
  Y[p] = S[M, p] + S[M, p]
""")
    bound = bind(cascade, shapes={"p": 8, "m": 3})
    body = """
mapping t for c on mesh4x4
keep S in gb
for m
  for p by 4 in 1 phases
    S on pe2d: p@cols
    Y on pe1d last m: p@lanes
"""
    mapping = parse_mapping(body)
    assert parse_mapping(str(mapping)) == mapping
    check(mapping, bound, MESH, FP16)
    result = evaluate(mapping, bound, MESH, FP16)
    leaves = {each.einsum: each for each in result.leaves}
    assert (leaves["Y"].points, leaves["Y"].cycles) == (8, 2)  # not once for each m
    assert result.compute_cycles == 3 * 2 * 1  # beside S
    with pytest.raises(MappingError, match="in no loop over it"):
        found(gm="last m")
    with pytest.raises(MappingError, match="which is one of its own"):
        check(parse_mapping(body.replace("pe2d:", "pe2d last m:")), bound, MESH, FP16)
    with pytest.raises(MappingError, match="has no 'm'"):
        check(parse_mapping(body.replace(" last m", "")), bound, MESH, FP16)


def test_named_numbers():
    body = text(spill="spilling SHARE").replace("by 4 \n", "by ROWS\n")
    body = body.replace("on mesh4x4\n", "on mesh4x4\nlet ROWS = 2\nlet SHARE = 1/3\n")
    numbers = {"ROWS": 4, "SHARE": Fraction(1, 4)}
    assert parse_mapping(body, numbers=numbers) == parse_mapping(text(spill="spilling 1/4"))
    with pytest.raises(UnknownNameError, match="unknown number of the mapping 'COLUMNS'"):
        parse_mapping(body, numbers={"COLUMNS": 4})
    with pytest.raises(NotationError, match="names no number"):
        parse_mapping(body.replace("ROWS = 2", "ROWS = two"))
    with pytest.raises(NotationError, match="is no loop"):
        parse_mapping(body.replace("let ROWS = 2\n", ""))


@pytest.mark.parametrize(
    "manner", [{"p": "alone"}, {"p": "in 2 phases"}, {"spill": "spilling 1/4"}]
)
def test_simulator_refuses_what_only_the_model_has(manner):
    with pytest.raises(MappingError, match="only the model has what"):
        simulate(parse_mapping(text(**manner)), BOUND, MESH, FP16, {})


def test_generators_refuse_a_last_step():
    with pytest.raises(MappingError, match="only the model has what 'GM on pe1d last m"):
        lower(BOUND, parse_mapping(text(gm="last m")), MESH, FP16)


def test_registers():
    rows = {row.einsum: row for row in register_traffic(parse_mapping(text()), BOUND, MESH, FP16)}
    # QK: 256 multiply-adds read Q, K and the sum, but for the first of 64; Q, K and the sum come in
    assert rows["QK"].reads == 2 * (256 + 256 + 256 - 64)
    assert rows["QK"].writes == 2 * (256 + 256 + 256)
    assert (rows["QK"].busy, rows["QK"].fresh) == (16, 2 * 64)


def test_accounts_charge_all_places_or_one():
    target = TARGETS.get("fusemax")
    bound = bind(BOUND.cascade, shapes={"p": 256, "m": 256, "e": 4})
    mapping = parse_mapping("""
mapping t for scores on fusemax
keep Q in gb
keep QK in rf2d
keep GM in rf1d
QK on pe2d: p@cols, m@rows, e
GM on pe2d: p@cols, m@rows
""")
    result = evaluate(mapping, bound, target, FP16)
    registers = register_traffic(mapping, bound, target, FP16)

    def energy(**accounting):
        rows = charge(result, registers, bound, target, Accounting(**accounting), {})
        return {(row.component, row.action): row.count for row in rows}

    points = 256 * 256
    reads = 4 * points * 2 + 3 * points + points  # Q, K, the sum but once; QK by GM
    assert energy()["rf2d", "read"] == 2 * reads
    assert energy(all_places=False)["rf2d", "read"] == 2 * reads / points
    assert energy()["rf1d", "write"] == 2 * 256  # GM drains there
    assert ("rf1d", "write") not in energy(drains=())
    each = energy(drains=(Drain("GM", "each"),))
    assert each["rf1d", "read"] == each["rf1d", "write"] == 2 * 256
    again = energy(drains=(Drain("GM", "again", "m"),))
    assert again["rf1d", "read"] == pytest.approx(2 * 256 * 255 / 256)
    # a counter of 4 bits: 65536 written, tile of 4: all is lost, and every first addition read back
    wrapped = energy(wraps=(Wrap("QK", ("e",), 4),))
    assert wrapped["rf2d", "read"] == 2 * (reads + points)
    assert energy(wraps=(Wrap("QK", ("e",)),)) == energy()

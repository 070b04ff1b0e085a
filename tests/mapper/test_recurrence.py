"""What steps that need each other's results cost on an FPGA, counted by hand."""

import pytest

from penstock import zoo
from penstock.design import explore, remap
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.frontend.notation import parse
from penstock.mapper.notation import parse_mapping
from penstock.mapper.resources import number_of
from penstock.pipelines import kernel_timing
from penstock.targets import TARGETS
from penstock.targets.cores import core

PRODUCT = parse("cascade mm(A[m,k], B[k,n]) -> Z[m,n]\n  Z[m,n] = A[m,k] * B[k,n]")
SHAPES = {"m": 32, "k": 50, "n": 16}
FIXED, FP32 = parse_format("fixed<16,6>"), parse_format("fp32")


def product(loops, fmt, target="u280"):
    text = f"mapping one for mm on {target}\nZ on pe2d: {loops}\n"
    design = remap(PRODUCT, target, shapes=SHAPES, fmt=fmt, mapping=parse_mapping(text))
    return design.evaluate().leaves[0].cycles


@pytest.mark.parametrize(
    ("loops", "fmt", "cycles"),
    [
        ("m by 16, m@rows, n@cols, k", FIXED, 2 * 50),  # exact sums: a step a cycle
        ("m by 16, m@rows, n@cols, k", FP32, 2 * 50 * 4),  # the fastest adder: 4 cycles
        ("k, m by 16, m@rows, n@cols", FP32, 2 * 50 * 3),  # two in turn: (4 + 2) / 2
        ("k, m by 4, m@rows, n@cols", FP32, 8 * 50),  # eight in turn
        ("m, n, k by 16, k@rows", FP32, 32 * 16 * 4 * 4),
        ("k by 16, m, n, k@rows", FP32, 32 * 16 * 4),
        ("m, n by 16, n@cols, k", parse_format("fp64"), 32 * 50 * 6),
    ],
)
def test_sums_counted_by_hand(loops, fmt, cycles):
    assert product(loops, fmt) == cycles


def test_other_machines_say_it_in_their_descriptions():
    assert product("m by 256, m@rows, n@cols, k", FP32, "fusemax") == 50


STATE = """cascade state(X[p,t], G[p,t]) -> Z[p]
  init S[p,0] = 0
  S[p,t+1] = S[p,t] * G[p,t] + X[p,t]
  Z[p] = S[p,T] + S[p,T]
"""


@pytest.mark.parametrize(
    ("loops", "fmt", "cycles"),
    [
        ("p by 16, p@lanes, t", FIXED, 4 * 40 * 2),  # 1.37 + 0.063 * 16 + 0.67 ns, 2.43 a cycle
        ("t, p by 16, p@lanes", FIXED, 4 * 40 * 2),  # four in turn: ops of a point already take 2
        ("p by 16, p@lanes, t", FP32, 4 * 40 * 7),  # fmul and fadd: 3 + 4
        ("t, p by 16, p@lanes", FP32, 4 * 40 * 3),  # (7 + 2) / 4
    ],
)
def test_a_state_rescaled_in_every_step(loops, fmt, cycles):
    text = f"mapping one for state on u280\nS on pe1d: {loops}\nZ on pe1d: p by 16, p@lanes\n"
    mapping, shapes = parse_mapping(text), {"p": 64, "t": 40}
    design = remap(parse(STATE), "u280", shapes=shapes, fmt=fmt, mapping=mapping)
    assert design.evaluate().leaves[0].cycles == cycles


CIRCLE = """cascade circle(X[p,t], G[p,t]) -> Z[p]
  init S[p,0] = 0
  loop t:
    D[p,t] = S[p,t] * G[p,t]
    S[p,t+1] = D[p,t] + X[p,t]
  Z[p] = S[p,T] + S[p,T]
"""


@pytest.mark.parametrize(
    ("fmt", "rows", "cycles"),
    [
        ("fixed<16,6>", 16, 3),  # 1.37 + 0.063 * 16 + 0.67 ns: 2 cycles of logic, and the memory's
        ("fp32", 16, 3 + 4 + 2),  # fmul and fadd, the state's memory
        ("bf16", 16, 3 + 4 + 2),
        ("fp64", 16, 6 + 6 + 2),
        ("fp32", 256, 2 * 15 + 9),  # 16 rows in turn, by one array: latencies are nearly hidden
    ],
)
def test_a_circle_through_two_einsums_takes_its_latency(fmt, rows, cycles):
    """What is rescaled in one and added to in another, as the streaming form's sums are."""
    text = (
        "mapping one for circle on u280\nkeep S, D, X, G, Z in uram\nfor t pipelined\n"
        "  D on pe1d: p by 16, p@lanes\n  S on pe1d: p by 16, p@lanes\n"
        "Z on pe1d: p by 16, p@lanes\n"
    )
    shapes, mapping = {"p": rows, "t": 40}, parse_mapping(text)
    design = remap(parse(CIRCLE), "u280", shapes=shapes, fmt=parse_format(fmt), mapping=mapping)
    (pipeline,) = design.evaluate().pipelines
    assert pipeline.interval_cycles == pytest.approx(cycles)
    if rows == 16:  # the generated loop over keys has the same interval
        loops = kernel_timing(design.program(), 300e6).loops
        assert {interval for _, loop, interval, _, _ in loops if loop == "t"} == {cycles}


@pytest.mark.parametrize("fmt", [FIXED, FP32])
def test_a_state_rescaled_for_every_key_takes_longer_than_for_every_tile(fmt):
    """The streaming form of attention: the circle of its states, once a key or once in 16."""
    cycles = {}
    for tile in (1, 16):
        shapes = {"b": 1, "h": 1, "p": 16, "m": 64, "m0": tile, "e": 16, "f": 16}
        found, _ = explore(zoo.load("attention_1pass"), "kv260", shapes=shapes, fmt=fmt, others=())
        cycles[tile] = found.evaluate().latency_cycles
    assert cycles[1] > 2 * cycles[16]


def test_the_search_lets_elements_take_turns():
    """In fp32 the best mapping adds up along an axis, or lets rows take turns; no sum waits."""
    slow = remap(
        PRODUCT,
        "u280",
        shapes=SHAPES,
        fmt=FP32,
        mapping=parse_mapping(
            "mapping one for mm on u280\nZ on pe2d: m by 16, m@rows, n@cols, k\n"
        ),
    )
    best, found = explore(PRODUCT, "u280", shapes=SHAPES, fmt=FP32)
    assert found.optimal
    assert best.evaluate().latency_cycles < slow.evaluate().latency_cycles / 3


@pytest.mark.parametrize("fmt", [FIXED, FP32, parse_format("bf16"), parse_format("fp64")])
def test_every_operator_of_an_fpga_has_a_core(fmt):
    for array in TARGETS.get("u280").arrays:
        for op, _ in array.cycles:
            found = core(op, number_of(fmt))
            assert found.lut or found.dsp, op
            assert found.latency or found.delay_ns, op

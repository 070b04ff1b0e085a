"""Derived cascades through generated code: loops, TVM on the CPU in fp32, HLS C simulation.

In fp32 they are compared with what was written, evaluated in fp64; in fixed point with themselves.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import penstock
from penstock import parse, zoo
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.rewrite.plan import PassPlan

CORPUS = Path(__file__).parent / "corpus"

CAPPED_SINKS = """cascade capped_sinks(Q[h, p, e], K[h, m, e], V[h, m, f], S[h]) -> O[h, p, f]
  QK[h, p, m] = tanh(Q[h, p, e] * K[h, m, e] / 8) * 8
  GM[h, p]    = QK[h, p, m]               :: max[m]
  GS[h, p]    = max(GM[h, p], S[h])
  SN[h, p, m] = exp(QK[h, p, m] - GS[h, p])
  SD[h, p]    = SN[h, p, m]               :: sum[m]
  A[h, p, m]  = SN[h, p, m] / (SD[h, p] + exp(S[h] - GS[h, p]))
  O[h, p, f]  = A[h, p, m] * V[h, m, f]   :: sum[m]
"""


LENGTHS = [pytest.param(1, marks=pytest.mark.slow), 37]
"""Less than a tile of 16, and two with a part; each is a build."""


@dataclass(frozen=True)
class Case:
    """A cascade, its extents but that of m, inputs that are negative, and a machine for it."""

    text: str
    kept: dict[str, int]
    target: str = "fusemax"
    negative: tuple[str, ...] = ()


def stock(name):
    return str(zoo.load(name))


def corpus(name):
    return (CORPUS / f"{name}.einsum").read_text()


HEADS = {"h": 2, "p": 5, "e": 4, "f": 3}
CASES = {
    "attention": Case(stock("attention"), HEADS),
    "gqa_causal": Case(stock("gqa_causal"), {**HEADS, "h": 4, "g": 2}),
    "capped_sinks": Case(CAPPED_SINKS, HEADS, "cpu"),
    "differential": Case(corpus("differential"), {}),
    "rmsnorm_linear": Case(corpus("rmsnorm_linear"), {}, "cpu"),
    "layernorm_linear": Case(corpus("layernorm_linear"), {}, "cpu"),
    "gated_linear": Case(corpus("gated_linear"), {}, "cpu", ("G",)),
}


@cache
def derived(name) -> PassPlan:
    plan = penstock.reduce_passes(parse(CASES[name].text), "m", size=16)
    assert isinstance(plan, PassPlan), str(plan)
    assert plan.after == 1
    return plan


def arrays(name, length, dtype=np.float32, size=2.0):
    case, rng = CASES[name], np.random.default_rng(length)
    given = {}
    for each in parse(case.text).inputs:
        shape = [length if rank == "m" else case.kept.get(rank, 3) for rank in each.ranks]
        values = np.round(rng.uniform(-size, size, shape) * 16) / 16
        given[each.tensor] = (-np.abs(values) if each.tensor in case.negative else values).astype(
            dtype
        )
    return given


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("backend", ["loops", "tvm"])
@pytest.mark.parametrize("name", CASES)
def test_in_fp32(name, backend, length):
    plan, given = derived(name), arrays(name, length)
    found = penstock.run(plan.cascade, given, backend=backend)
    wanted = penstock.run(plan.original, {k: v.astype(np.float64) for k, v in given.items()})
    for output, values in wanted.items():
        largest = np.abs(values).max()
        np.testing.assert_allclose(found[output], values, atol=2e-5 * max(largest, 1e-3))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", CASES)
def test_in_fixed_point_bit_for_bit(name, length):
    plan, given = derived(name), arrays(name, length, np.float64, 1.0)
    fmt = parse_format("fixed<24,10>")
    found = penstock.run(plan.cascade, given, backend="hls", fmt=fmt)
    wanted = penstock.run(plan.cascade, given, fmt=fmt)
    for output, values in wanted.items():
        np.testing.assert_array_equal(found[output], values)
        assert length == 1 or np.abs(values).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_search_finds_a_mapping(name):
    plan = derived(name)
    shapes = {rank: 4 for each in plan.cascade.inputs for rank in each.ranks}
    shapes |= {**CASES[name].kept, "m": 64, "m0": 16}
    design, search = penstock.explore(plan.cascade, CASES[name].target, shapes=shapes)
    latency = design.evaluate().metrics()[0]
    assert latency.name == "latency"
    assert latency.value > 0
    assert search.summary()

"""Running values that begin at their identity: same values, and no stored masks."""

import numpy as np
import pytest

from penstock import parse, reduce_passes, zoo
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.regions.presence import Stored, presence
from penstock.einsum_ir.rewrite.settle import settled
from penstock.einsum_ir.shapes import bind
from penstock.samples import random_inputs

FP64 = parse_format("fp64")
SIZES = {"h": 2, "g": 2, "p": 11, "m": 13, "e": 3, "f": 4}

AHEAD = """cascade ahead(Q[p, e], K[m, e], V[m, f]) -> O[p, f]
  QK[p, m] = Q[p, e] * K[m, e]          :: sum[e] s.t. m > p + 2
  GM[p]    = QK[p, m]                   :: max[m]
  SN[p, m] = exp(QK[p, m] - GM[p])
  SD[p]    = SN[p, m]                   :: sum[m]
  O[p, f]  = SN[p, m] / SD[p] * V[m, f] :: sum[m]
"""

OTHER_POINTS = AHEAD.replace(
    "SD[p]    = SN[p, m]                   :: sum[m]",
    "SD[p]    = SN[p, m]                   :: sum[m] s.t. m % 2 == 0",
)


def derived(cascade, size=4):
    cascade = reduce_passes(cascade, "m", size=size).cascade
    used = {r for each in cascade.inputs for r in each.ranks}
    return bind(cascade, shapes={name: n for name, n in SIZES.items() if name in used})


@pytest.mark.parametrize(
    "name", ["sliding_window", "causal_attention", "alibi", "attention", "attention_sink"]
)
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_a_settled_cascade_computes_the_same(name, scale):
    bound = derived(zoo.load(name))
    made = settled(bound)
    inputs = {n: a * scale for n, a in random_inputs(bound, FP64).items()}
    want, found = (interpret(each, inputs, FP64) for each in (bound, made))
    for tensor, each in want.items():
        np.testing.assert_allclose(found[tensor], each, rtol=1e-12, atol=1e-300)
    assert not any(isinstance(each, Stored) for each in presence(made).values())
    assert all(each.name in made.cascade.iterative for each in made.cascade.einsums if each.init)


@pytest.mark.parametrize("scale", [1.0, 300.0])
@pytest.mark.parametrize("sink", [0.0, 40.0, -np.inf])
@pytest.mark.parametrize(("op", "settles"), [("max", True), ("min", False)])
def test_what_follows_a_maximum_begins_at_what_stands_still(op, settles, sink, scale):
    """A sink per row, of which row 10 has no key: the larger of both begins at the sink."""
    text = AHEAD.replace("V[m, f])", "V[m, f], S[p])", 1).replace("- GM[p]", "- SM[p]")
    text = text.replace("  SN[p, m]", f"  SM[p]    = {op}(GM[p], S[p])\n  SN[p, m]", 1)
    bound = derived(parse(text))
    made = settled(bound)
    assert (made.cascade != bound.cascade) == settles
    inputs = {n: a * scale for n, a in random_inputs(bound, FP64).items()}
    inputs["S"] = np.full(11, sink)
    with np.errstate(all="ignore"):
        want, found = (interpret(each, inputs, FP64)["O"] for each in (bound, made))
    np.testing.assert_allclose(found, want, rtol=1e-12)
    assert not np.any(found[10])


def test_rows_without_a_point_stay_absent():
    """Query 10 of 11 sees no key of 13 behind the second next one: its row is 0."""
    bound = derived(parse(AHEAD))
    made = settled(bound)
    assert made.cascade != bound.cascade
    inputs = random_inputs(bound, FP64)
    want, found = (interpret(each, inputs, FP64)["O"] for each in (bound, made))
    np.testing.assert_allclose(found, want, rtol=1e-12)
    assert not np.any(found[10])
    assert np.all(np.any(found[:10], axis=1))


def test_sums_over_other_points_than_their_maximum_stay_as_they_are():
    """A tile may move the maximum and add nothing: the sum must be corrected there."""
    bound = derived(parse(OTHER_POINTS), size=1)
    assert settled(bound) == bound

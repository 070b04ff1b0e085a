"""Windows that are gathered, as all places under a condition."""

import numpy as np
import pytest

from penstock import parse, zoo
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.rewrite.places import placed
from penstock.einsum_ir.shapes import bind
from penstock.samples import random_inputs

FP64 = parse_format("fp64")
DILATED = """
cascade dilated(Q[p, e], K[m, e], V[m, f], W[i]) -> O[p, f]
  shape i = 5
  S[p, i] = Q[p, e] * K[p + 3 - i, e] * W[i] :: sum[e] s.t. i != 1 or p > 4
  G[p]    = S[p, i] :: max[i]
  N[p, i] = exp(S[p, i] - G[p]) * (1 + i)
  O[p, f] = N[p, i] * V[p + 3 - i, f] :: sum[i]
"""
MOVED = DILATED.replace("3 - i", "i - 3").replace(" * W[i]", "").replace(", W[i]", "")
"""Windows that reach out of the keys, where they are absent; the offset as a number."""


@pytest.mark.parametrize(
    ("cascade", "sizes"),
    [
        (zoo.load("neighborhood"), {"h": 2, "m": 23, "p": 23, "e": 4, "f": 3, "r": 13}),
        (zoo.load("neighborhood_2d"), {"h": 1, "y": 8, "x": 9, "e": 3, "f": 2, "r": 13, "c": 13}),
        (parse(MOVED), {"p": 19, "m": 17, "e": 3, "f": 2}),
    ],
)
def test_the_same_points_are_there_under_other_names(cascade, sizes):
    bound = bind(cascade, shapes=sizes)
    changed = placed(bound)
    assert changed is not bound
    assert not any("clamp" in str(e) for each in changed.cascade.einsums for e in each.operands)
    inputs = random_inputs(bound, FP64)
    want, found = interpret(bound, inputs, FP64), interpret(changed, inputs, FP64)
    for name in want:
        assert np.abs(found[name] - want[name]).max() <= 1e-12 * np.abs(want[name]).max()


@pytest.mark.parametrize(
    "text",
    [
        DILATED,  # counted down, and weights that belong to offsets
        "O[p] = K[p * I + i] :: sum[i]",  # windows that share nothing
        "O[p, i] = K[p + i] * 2",
        "O[p] = K[p + i] :: argmax[i]",
    ],
)
def test_other_offsets_stay(text):
    if "cascade" not in text:
        left = text.partition(" =")[0]
        text = f"cascade some(K[m]) -> {left}\n  shape i = 4\n  shape p = 5\n  {text}"
    sizes = {"m": 20} | ({"p": 9, "e": 2, "f": 2} if "V" in text else {})
    bound = bind(parse(text), shapes=sizes)
    assert placed(bound) is bound

"""Derived attention on hard logits: within 4x of the best form that is not streamed.

The reference is a softmax of the rounded inputs in extended precision. The best form is the better
of the 3-pass cascade and that with deferred division, run in the same format by the interpreter.
Where tiles have one key, so that sums run over all keys one after the other, it adds in that order.
"""

import numpy as np
import pytest
from derived import forms

from penstock import parse, zoo
from penstock.einsum_ir.formats import EXTENDED, parse_format
from penstock.einsum_ir.interpreter.inputs import bind_arrays
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.interpreter.rounding import quantise
from penstock.einsum_ir.rewrite.gate import accumulating

KEYS, QUERIES, VALUES = 67, 24, 4

THREE_PASS = """
cascade three_pass(X[p, m], V[m, f]) -> O[p, f]
  GM[p]    = X[p, m]               :: max[m]
  SN[p, m] = exp(X[p, m] - GM[p])
  SD[p]    = SN[p, m]              :: sum[m]
  A[p, m]  = SN[p, m] / SD[p]
  O[p, f]  = A[p, m] * V[m, f]     :: sum[m]
"""
DEFERRED = """
cascade deferred(X[p, m], V[m, f]) -> O[p, f]
  GM[p]     = X[p, m]               :: max[m]
  SN[p, m]  = exp(X[p, m] - GM[p])
  SD[p]     = SN[p, m]              :: sum[m]
  SNV[p, f] = SN[p, m] * V[m, f]    :: sum[m]
  O[p, f]   = SNV[p, f] / SD[p]
"""
SEQUENTIAL = """
cascade sequential(X[p, m], V[m, f]) -> O[p, f]
  GM[p]             = X[p, m]               :: max[m]
  SN[p, m]          = exp(X[p, m] - GM[p])
  init SD[p, 0]     = 0
  init SNV[p, 0, f] = 0
  SD[p, m + 1]      = SD[p, m] + SN[p, m]
  SNV[p, m + 1, f]  = SNV[p, m, f] + SN[p, m] * V[m, f]
  OX[p, f]          = SNV[p, M, f] / SD[p, M]
  O[p, f]           = OX[p, f]              s.t. SD[p, M] > 0
"""
FORMATS = {"fp64": -53, "fp32": -24, "fp16": -11}
"""Format → the power of two that rounding one number may change it by."""


def masked(text: str) -> str:
    """The same with a mask under which the first queries of many see no key."""
    head, _, rest = text.strip().partition("\n")
    rest = rest.replace("X[p, m]", "Y[p, m]")
    return f"{head}\n  Y[p, m] = X[p, m] s.t. m <= p + M - P\n{rest}"


def logits(kind: str) -> np.ndarray:
    rng = np.random.default_rng(5)
    x = 2 * rng.normal(size=(QUERIES if kind != "fully masked" else KEYS + 2, KEYS))
    match kind:
        case "times 2000":
            return 1000 * x
        case "offset 3e4":
            return x + 3e4
        case "offset -3e4":
            return x - 3e4
        case "ascending":
            return np.sort(10 * x, axis=1)
        case "descending":
            return -np.sort(10 * x, axis=1)
        case "-inf prefix":
            x[:, :40] = -np.inf
            x[1, :-1] = -np.inf
    return x


KINDS = ("plain", "times 2000", "offset 3e4", "offset -3e4", "ascending", "descending")
KINDS += ("-inf prefix", "fully masked")


def softmax(x: np.ndarray, v: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Attention in extended precision; 0 for a row without a key."""
    x = np.where(visible, x.astype(np.longdouble), -np.inf)
    largest = x.max(axis=1, keepdims=True)
    weights = np.exp(x - np.where(np.isfinite(largest), largest, 0))
    total = weights.sum(axis=1, keepdims=True)
    return weights @ v.astype(np.longdouble) / np.where(total > 0, total, 1)


def run(cascade, arrays, fmt: str, **shapes):
    """Outputs in a format; in fp16 all that is neither input nor output is fp32."""
    if fmt == "fp16":
        cascade = accumulating(cascade, parse_format("fp32"))
    bound = bind_arrays(cascade, arrays, shapes=shapes)
    return interpret(bound, arrays, parse_format(fmt))["O"]


@pytest.mark.parametrize("original", [THREE_PASS, DEFERRED], ids=["3-pass", "deferred"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fmt", FORMATS)
def test_derived_attention_is_as_good_as_the_best_form(original, kind, fmt):
    change = masked if kind == "fully masked" else str
    x = quantise(logits(kind), parse_format(fmt))
    v = quantise(np.random.default_rng(6).normal(size=(KEYS, VALUES)), parse_format(fmt))
    visible = np.ones(x.shape, bool)
    if kind == "fully masked":
        visible = np.tri(len(x), KEYS, KEYS - len(x), dtype=bool)
        assert not visible[:2].any()
        assert visible[2:].any(axis=1).all()
    expected, arrays = softmax(x, v, visible), {"X": x, "V": v}

    def error(cascade, **shapes):
        found = run(cascade, arrays, fmt, **shapes)
        assert np.isfinite(found).all()
        assert not found[~visible.any(axis=1)].any()
        return np.abs(found - expected).max() / np.abs(expected).max()

    def limit(*texts: str) -> float:
        best = min(error(parse(change(text))) for text in texts)
        return 4 * max(best, 2.0 ** FORMATS[fmt])

    usual, in_order = limit(THREE_PASS, DEFERRED), limit(SEQUENTIAL)
    for label, cascade, shapes in forms(parse(change(original)), "m", (1, 7, 32, 256)):
        assert error(cascade, **shapes) <= (in_order if 1 in shapes.values() else usual), label


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("factor", [1, 40])
def test_derived_stock_attention_from_queries_and_keys(fmt, factor):
    rng = np.random.default_rng(7)
    arrays = {
        "Q": factor * rng.normal(size=(1, 9, 8)),
        "K": factor * rng.normal(size=(1, 7, 8)),
        "V": rng.normal(size=(1, 7, 4)),
    }
    arrays = {name: quantise(array, parse_format(fmt)) for name, array in arrays.items()}
    original = zoo.load("causal_attention")
    expected = interpret(bind_arrays(original, arrays), arrays, EXTENDED)["O"]
    best = np.abs(run(original, arrays, fmt) - expected).max()
    limit = 4 * max(best, 2.0 ** FORMATS[fmt] * np.abs(expected).max())
    for label, cascade, shapes in forms(original, "m", (1, 3, 8)):
        found = run(cascade, arrays, fmt, **shapes)
        assert not found[:, :2].any()
        assert np.abs(found - expected).max() <= limit, label

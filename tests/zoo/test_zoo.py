"""The stock cascades: they read, print, bind, and compute what their names say."""

import math
from pathlib import Path

import numpy as np
import pytest
from stock import STOCK_CASCADES

from penstock import zoo
from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.shapes import bind
from penstock.errors import UnknownNameError


def run(name, arrays, shapes=None, constants=None):
    """Interpret a stock cascade in float64 on arrays; return its one output."""
    cascade = zoo.load(name)
    extents = dict(shapes or {})
    for declaration in cascade.inputs:
        extents |= dict(zip(declaration.ranks, arrays[declaration.tensor].shape, strict=True))
    bound = bind(cascade, shapes=extents, constants=constants)
    return interpret(bound, arrays)[cascade.outputs[0].tensor]


def arrays(h=3, g=3, p=5, m=7, e=4, f=6, scale=1.0):
    """Random Q[h,p,e], K[g,m,e], V[g,m,f]; `scale` makes large logits."""
    random = np.random.default_rng(7)
    return {
        "Q": random.normal(size=(h, p, e)) * scale,
        "K": random.normal(size=(g, m, e)) * scale,
        "V": random.normal(size=(g, m, f)),
    }


def softmax_attention(given, mask=None, scale=None):
    """Attention by numpy: a row without keys gives 0. `mask` is [p, m], true where seen."""
    q, k, v = given["Q"], given["K"], given["V"]
    group = q.shape[0] // k.shape[0]
    k, v = np.repeat(k, group, axis=0), np.repeat(v, group, axis=0)
    scores = np.einsum("hpe,hme->hpm", q, k) * (scale or 1 / math.sqrt(q.shape[2]))
    seen = np.ones(scores.shape[1:], bool) if mask is None else mask
    scores = np.where(seen, scores, -np.inf)
    top = scores.max(axis=2, keepdims=True)
    weights = np.exp(scores - np.where(np.isinf(top), 0, top))
    total = weights.sum(axis=2, keepdims=True)
    return np.einsum("hpm,hmf->hpf", weights / np.where(total > 0, total, 1), v)


def positions(p, m):
    """Return key position of each query (right-aligned) and of each key, as [p, 1] and [1, m]."""
    return np.arange(p)[:, None] + m - p, np.arange(m)[None, :]


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_names():
    assert set(STOCK_CASCADES) <= set(zoo.names())
    assert list(zoo.names()) == sorted(zoo.names())


def test_unknown_name():
    with pytest.raises(UnknownNameError) as caught:
        zoo.load("matmull")
    assert str(caught.value) == (
        f"unknown stock cascade 'matmull' (known: {', '.join(zoo.names())})\n"
        "fix: did you mean 'matmul'?"
    )


@pytest.mark.parametrize("name", zoo.names())
def test_each_reads_and_prints(name):
    cascade = zoo.load(name)
    assert cascade.name == name
    assert parse(str(cascade)) == cascade
    text = zoo.source(name)
    assert text.startswith("# ")
    assert text.endswith("\n")
    assert all(len(line) <= 100 for line in text.splitlines())
    assert zoo.summary(name).endswith(".")


@pytest.mark.parametrize("name", STOCK_CASCADES)
def test_each_binds(name):
    cascade = zoo.load(name)
    shapes = {rank: 4 for each in cascade.inputs for rank in each.ranks} | {"m": 70}
    bound = bind(cascade, shapes=shapes)
    if "1pass" in name or "2pass" in name:
        assert (bound.extents["m1"], bound.extents["m0"]) == (2, 64)


@pytest.mark.parametrize("scale", [1.0, 20.0])
@pytest.mark.parametrize("name", ["attention", "attention_deferred", "attention_2pass"])
def test_attention(name, scale):
    given = arrays(scale=scale)
    shapes = {"m0": 3} if name == "attention_2pass" else {}
    close(run(name, given, shapes), softmax_attention(given))


@pytest.mark.parametrize("m0", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_attention_1pass(m0, scale):
    given = arrays(scale=scale)
    batched = {name: array[None] for name, array in given.items()}
    found = run("attention_1pass", batched, {"m0": m0})
    close(found[0], softmax_attention(given, scale=1.0))


@pytest.mark.parametrize(("p", "m"), [(5, 5), (3, 7), (7, 3), (1, 4)])
@pytest.mark.parametrize("scale", [1.0, 20.0])
@pytest.mark.parametrize("name", ["causal_attention", "causal_attention_1pass"])
def test_causal_attention(name, p, m, scale):
    given = arrays(p=p, m=m, scale=scale)
    query, key = positions(p, m)
    shapes = {"m0": 2} if name.endswith("1pass") else {}
    close(run(name, given, shapes), softmax_attention(given, key <= query))


@pytest.mark.parametrize(("h", "g"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize(("p", "m"), [(4, 4), (2, 9), (6, 3)])
@pytest.mark.parametrize("name", ["gqa_causal", "gqa_causal_1pass"])
def test_gqa_causal(name, h, g, p, m):
    given = arrays(h=h, g=g, p=p, m=m, scale=5.0)
    query, key = positions(p, m)
    shapes = {"m0": 2} if name.endswith("1pass") else {}
    close(run(name, given, shapes), softmax_attention(given, key <= query))


@pytest.mark.parametrize("w", [1, 3, 100])
def test_sliding_window(w):
    given = arrays(p=6, m=8)
    query, key = positions(6, 8)
    mask = (key <= query) & (query - key < w)
    close(run("sliding_window", given, constants={"W": w}), softmax_attention(given, mask))


def test_linear_attention():
    given = arrays()
    fq, fk = (np.where(x > 0, x + 1, np.exp(x)) for x in (given["Q"], given["K"]))
    weights = np.einsum("hpe,hme->hpm", fq, fk)
    weights /= weights.sum(axis=2, keepdims=True)
    close(run("linear_attention", given), np.einsum("hpm,hmf->hpf", weights, given["V"]))


def test_matmul():
    random = np.random.default_rng(3)
    given = {"A": random.normal(size=(3, 5)), "B": random.normal(size=(5, 2))}
    close(run("matmul", given), given["A"] @ given["B"])


def test_cross():
    random = np.random.default_rng(5)
    shapes = {"X": (4, 6), "Y": (7, 5), "WQ": (2, 6, 3), "WK": (2, 5, 3), "WV": (2, 5, 4)}
    given = {name: random.normal(size=shape) for name, shape in shapes.items()}
    given["WO"] = random.normal(size=(2, 4, 6))
    heads = {
        "Q": np.einsum("pd,hde->hpe", given["X"], given["WQ"]),
        "K": np.einsum("mc,hce->hme", given["Y"], given["WK"]),
        "V": np.einsum("mc,hcf->hmf", given["Y"], given["WV"]),
    }
    expected = np.einsum("hpf,hfo->po", softmax_attention(heads), given["WO"])
    close(run("cross", given), expected)


def test_each_stock_cascade_is_named_by_a_test():
    tests = Path(__file__).parents[1]
    texts = [path.read_text() for path in tests.rglob("*.py")]
    missing = [name for name in zoo.names() if not any(f'"{name}"' in text for text in texts)]
    assert not missing

"""What is computed block by block is what is computed at once."""

from pathlib import Path

import numpy as np
import pytest

from penstock import parse, zoo
from penstock.einsum_ir.interpreter import blocking
from penstock.einsum_ir.interpreter.blocking import Cut, cuts, runs
from penstock.einsum_ir.interpreter.inputs import bind_arrays
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.shapes import bind
from tests.stock import STOCK_CASCADES

SIZES = {"b": 2, "h": 4, "g": 2, "p": 7, "m": 10, "e": 4, "f": 3, "m0": 3, "n": 10}
SHAPES = {"joined": {"n": 15}, "shifted": {"w": 3}}
CASCADES = {name: zoo.source(name) for name in STOCK_CASCADES}
CASCADES |= {
    path.stem: path.read_text()
    for name in ("joined", "lightning", "retention", "shifted", "streaming", "titans")
    for path in [Path(__file__).parents[1] / "cascades" / f"{name}.einsum"]
}


def arrays(cascade):
    rng = np.random.default_rng(0)
    sizes = SIZES | dict(cascade.shapes)
    return {
        each.tensor: rng.normal(size=[sizes.get(rank, 5) for rank in each.ranks])
        for each in cascade.inputs
    }


@pytest.mark.parametrize("held", [1, 40, 300])
@pytest.mark.parametrize("name", CASCADES)
def test_blocks_change_nothing(name, held, monkeypatch):
    cascade = parse(CASCADES[name])
    inputs = arrays(cascade)
    bound = bind_arrays(cascade, inputs, shapes=SHAPES.get(name))
    expected = interpret(bound, inputs)
    monkeypatch.setattr(blocking, "HELD", held)
    found = interpret(bound, inputs)
    for tensor, value in expected.items():
        np.testing.assert_allclose(found[tensor], value, rtol=1e-12, atol=1e-13)


def test_most_of_the_cascades_are_cut(monkeypatch):
    monkeypatch.setattr(blocking, "HELD", 1)
    bounds = [
        bind_arrays(cascade, arrays(cascade), shapes=SHAPES.get(name))
        for name, text in CASCADES.items()
        for cascade in [parse(text)]
    ]
    assert sum(bool(cuts(bound)) for bound in bounds) > len(bounds) / 2


def test_heads_then_queries():
    bound = bind(
        zoo.load("attention"), shapes={"h": 4, "p": 1 << 13, "m": 1 << 16, "e": 64, "f": 64}
    )
    heads, queries = cuts(bound)
    places = {"QS": 1, "QK": 1, "GM": 1, "SN": 1, "SD": 1, "A": 1, "O": 1}
    assert heads == Cut("h", 1, dict.fromkeys(places, 0))
    assert queries == Cut("p", 256, places)
    order = list(runs(bound, [heads, queries]))
    assert len(order) == 7 * 4 * 32
    assert order[7].box == {"h": (0, 1), "p": (256, 512)}
    assert order[7].fresh == ("QS", "QK", "GM", "SN", "SD", "A")


def test_what_is_read_across_a_rank_is_not_cut_along_it():
    cascade = parse("""
cascade c(X[n, c]) -> O[n]
  Y[n, c] = X[n, c] * 2
  S[n, c] = Y[n, c] + Y[n + 1, c]
  G[c] = S[n, c] :: max[n]
  O[n] = S[n, c] * G[c]
""")
    bound = bind(cascade, shapes={"n": 1 << 14, "c": 1 << 13})
    assert cuts(bound) == []

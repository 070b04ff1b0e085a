"""Parts that are streamed over, sums over tiles, and views of inputs: the same values."""

import numpy as np
import pytest

from penstock import parse, reduce_passes, zoo
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.rewrite.views import inlined
from penstock.einsum_ir.shapes import bind
from penstock.errors import MappingError
from penstock.runtime.streaming import parted, streamed
from penstock.runtime.tiles import Tiles
from penstock.samples import random_inputs

FP64 = parse_format("fp64")
SIZES = {"h": 4, "g": 2, "p": 3, "m": 37, "e": 3, "f": 4}


def same(written, made, sizes):
    exact = bind(written, shapes=sizes)
    inputs = random_inputs(exact, FP64)
    want, found = (interpret(each, inputs, FP64) for each in (exact, made))
    for name, each in want.items():
        np.testing.assert_allclose(found[name], each, rtol=1e-11)


@pytest.mark.parametrize("keys", [37, 64])
def test_parts_that_are_streamed_over_compute_the_same(keys):
    written, sizes = zoo.load("gqa_causal"), {**SIZES, "m": keys}
    made = parted(written, sizes, tiles=Tiles(4, 4, 4), part=16)
    assert "K_W" not in made.cascade.arity  # a part is cut into whole tiles
    assert len(made.cascade.iterative) > 0
    same(written, made, sizes)


def test_a_view_that_ends_before_its_tensor_is_kept():
    made = parted(zoo.load("gqa_causal"), SIZES, tiles=Tiles(5, 5, 5), part=16)
    assert "K_W" in made.cascade.arity  # the fourth tile of 5 ends beyond a part of 16
    same(zoo.load("gqa_causal"), made, SIZES)


def test_views_are_read_where_they_are():
    written = parse("""
    cascade shifted(X[i], Y[j]) -> Z[i]
      V[k] = X[k + 1]
      W[i] = X[i] * Y[i] s.t. i < 3
      Z[i] = V[i // 2] + W[i]
    """)
    sizes = {"i": 8, "j": 8, "k": 7}
    made = inlined(bind(written, shapes=sizes))
    assert "X[i // 2 + 1]" in str(made.cascade)
    assert "W[i] =" in str(made.cascade)
    same(written, made, sizes)


@pytest.mark.parametrize("name", ["sigmoid_attention", "linear_attention"])
def test_one_pass_becomes_sums_over_tiles(name):
    written = zoo.load(name)
    used = {rank for each in written.inputs for rank in each.ranks}
    sizes = {rank: n for rank, n in SIZES.items() if rank in used}
    made = streamed(written, sizes, tiles=Tiles(4, 4, 4), always=True)
    assert made.cascade.iterative
    assert not streamed(written, sizes, tiles=Tiles(4, 4, 4)).cascade.iterative
    same(written, made, sizes)


def test_what_has_no_parts_says_so():
    with pytest.raises(MappingError, match="linear_attention has no rank whose parts"):
        parted(zoo.load("linear_attention"), {"h": 1, "p": 2, "m": 8, "e": 2, "f": 2}, part=4)
    assert reduce_passes(zoo.load("matmul"), "k", always=True).after == 1

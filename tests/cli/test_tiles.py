"""``penstock tiles``."""

import json

import numpy as np
import pytest

from penstock.cli import main
from penstock.einsum_ir.regions.masks import masks
from penstock.einsum_ir.shapes import bind
from penstock.errors import UnknownNameError
from penstock.zoo import load

SHAPE = ["--shape", "h=1", "p=16", "m=16", "e=4", "f=4"]


def printed(capsys, *options):
    assert main(["tiles", *options]) == 0
    return capsys.readouterr().out


def test_a_table(capsys):
    out = printed(capsys, "causal_attention", *SHAPE, "--tile", "p=4", "m=4")
    row = out.splitlines()[3].split()
    assert row == ["QK", "53.1250%", "16", "6", "6", "4", "m", "<=", "p", "+", "M", "-", "P"]


def test_json(capsys):
    out = printed(capsys, "causal_attention", *SHAPE, "--tile", "p=4", "m=8", "--json")
    (found,) = json.loads(out)
    assert found == {
        "einsums": ["QK"],
        "predicate": "m <= p + M - P",
        "reads": [],
        "volume": 256,
        "points": 136,
        "empty": 2,
        "full": 2,
        "partial": 4,
        "extents": {"m": 16, "p": 16},
        "tiles": {"m": 8, "p": 4},
    }


def test_a_cascade_without_predicates(capsys):
    assert printed(capsys, "attention", *SHAPE) == (
        "attention has no predicates: every tile is full\n"
    )


def test_a_predicate_that_reads_arrays(capsys, tmp_path):
    documents = np.repeat([0, 1], 8)
    np.savez(tmp_path / "d.npz", D=documents)
    tile = ["--tile", "p=8", "m=8"]
    assert "(reads D)" in " ".join(printed(capsys, "document_mask", *SHAPE, *tile).split())
    out = printed(
        capsys, "document_mask", *SHAPE, *tile, "--inputs", str(tmp_path / "d.npz"), "--json"
    )
    (found,) = json.loads(out)
    assert (found["empty"], found["full"], found["partial"]) == (2, 0, 2)
    assert found["points"] == 2 * 36


def test_a_tile_of_no_rank():
    bound = bind(load("causal_attention"), shapes={"h": 1, "p": 4, "m": 4, "e": 2, "f": 2})
    with pytest.raises(UnknownNameError, match="rank variable 'q'"):
        masks(bound, {"q": 4})

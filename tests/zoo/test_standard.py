"""The standard mechanisms equal plain loops, where every guard acts and logits are large."""

from types import SimpleNamespace

import numpy as np
import pytest
import references
import references_sparse
from cases import Case, between

from penstock import count_passes, zoo

CASES = (
    Case("mha", "b=2 p=5 d=6 h=3 e=4 f=5 o=7", big="X"),
    Case("mqa", "h=3 p=5 m=7 e=4 f=3"),
    Case("mqa", "h=2 p=6 m=3 e=4 f=3"),
    Case("mla", "h=3 p=5 m=7 e=3 r=4 c=6 f=5", big="QC QR KR"),
    Case("mla", "h=2 p=5 m=3 e=3 r=2 c=4 f=5", big="QC QR KR"),
    Case("mla_absorbed", "h=3 p=5 m=7 e=3 r=4 c=6 f=5", big="QC QR KR"),
    Case("rope", "h=2 p=5 m=7 e=6 f=3"),
    Case("rope", "h=2 p=5 m=3 e=4 f=3"),
    Case("prefix_lm", "b=3 h=2 p=7 m=7 e=4 f=3", given={"N": [0, 3, 9]}),
    Case("document_mask", "h=2 p=9 m=9 e=4 f=3", given={"D": [1, 1, 0, 0, -1, 1, 0, -1, 2]}),
    Case("ragged", "b=3 h=2 p=4 m=6 e=4 f=3", given={"LQ": [4, 1, 3], "LK": [5, 6, 0]}),
    Case("alibi", "h=4 p=5 m=7 e=4 f=3"),
    Case("alibi", "h=3 p=6 m=4 e=4 f=3"),
    Case("soft_cap", "h=2 p=5 m=7 e=4 f=3", {"CAP": 50}),
    Case("soft_cap", "h=2 p=5 m=4 e=4 f=3", {"CAP": 3}),
    Case("attention_sink", "h=4 g=2 p=5 m=7 e=4 f=3", {"W": 3}),
    Case("attention_sink", "h=2 g=2 p=6 m=4 e=4 f=3", {}, {"S": [900, -900]}),
    Case("streaming_llm", "h=2 p=9 m=11 e=4 f=3", {"S": 2, "W": 3}),
    Case("streaming_llm", "h=2 p=6 m=4 e=4 f=3", {"S": 0, "W": 2}),
    Case("differential", "h=3 s=2 p=5 m=7 e=4 f=6", {"LAYER": 3}),
    Case("differential", "h=1 s=2 p=5 m=3 e=4 f=6", {"LAYER": 1}),
    Case("sigmoid_attention", "h=2 p=5 m=7 e=4 f=3"),
    Case("sigmoid_attention", "h=2 p=5 m=3 e=4 f=3"),
    Case("qk_norm", "h=2 p=5 m=7 e=4 f=3", big="GQ GK"),
    Case("cosine_attention", "w=3 h=2 p=5 m=5 e=4 f=3", given={"T": [1e-3, 0.7]}, big="Q B"),
    Case("talking_heads", "g=2 h=3 o=4 p=5 m=7 e=4 f=3"),
)
SPARSE = (
    Case("neighborhood", "h=2 m=11 i=5 r=9 e=4 f=3"),
    Case("neighborhood", "h=2 m=3 i=3 r=5 e=4 f=3"),
    Case("neighborhood_2d", "h=2 y=5 x=6 i=3 j=5 r=5 c=9 e=4 f=3"),
    Case("neighborhood_2d", "h=2 y=3 x=7 i=3 j=1 r=5 c=1 e=4 f=3"),
    Case("dilated_window", "h=2 p=13 m=13 e=4 f=3", {"D": 3, "W": 2}),
    Case("sparse_strided", "h=2 p=13 m=13 e=4 f=3", {"L": 4}),
    Case("sparse_fixed", "h=2 p=13 m=13 e=4 f=3", {"L": 4, "C": 1}),
    Case("block_sparse", "h=2 p=7 m=10 i=3 j=4 e=4 f=3", {"B": 3}),
    Case("block_sparse", "h=1 p=4 m=5 i=2 j=2 e=4 f=3", {"B": 3}, {"L": [[[0, 0], [0, 1]]]}),
    Case("longformer", "h=2 p=9 m=9 e=4 f=3", {"W": 2}, {"G": [0, 1, 0, 0, 0, 0, 0, 1, 0]}),
    Case("longformer", "h=2 p=9 m=9 e=4 f=3", {"W": 0}, {"G": [0] * 9}),
    Case(
        "bigbird",
        "h=2 p=14 m=14 i=5 r=2 e=4 f=3",
        {"B": 3, "G": 1},
        {"R": [[0, 0], [1, 1], [4, 4], [1, 2], [2, 0]]},
    ),
    Case("local_global", "h=2 p=7 m=9 e=4 f=3", {"LAYER": 4, "EVERY": 6, "W": 3}),
    Case("local_global", "h=2 p=7 m=5 e=4 f=3", {"LAYER": 11, "EVERY": 6, "W": 3}),
    Case("relative_bias", "h=3 p=31 m=37 c=16 e=4 f=3", {"D": 20}),
    Case("transformer_xl", "h=2 p=4 m=7 d=7 e=4 f=3"),
    Case("transformer_xl", "h=2 p=6 m=4 d=4 e=4 f=3"),
    Case("deberta", "h=2 p=9 m=7 d=6 e=4 f=3"),
    Case("shifted_window", "h=2 y=6 x=9 r=5 c=5 e=4 f=3", {"W": 3, "S": 1}),
    Case("shifted_window", "h=2 y=4 x=4 r=3 c=3 e=4 f=3", {"W": 2, "S": 0}),
    Case("tree_mask", "h=2 p=7 m=11 i=4 e=4 f=3", given={"PA": [-1, 0, 0, 1, -1, 3, 4]}),
    Case("forgetting", "h=2 m=9 e=4 f=3", given={"F": between(0.01, 1, 2, 9)}),
    Case("stick_breaking", "h=2 p=4 i=7 e=4 f=3"),
    Case("stick_breaking", "h=2 p=6 i=4 e=4 f=3"),
    Case("cope", "h=2 m=9 d=4 e=4 f=3"),
    Case("multi_token", "h=2 p=5 m=8 i=2 j=3 e=4 f=3"),
    Case("multi_token", "h=2 p=5 m=3 i=3 j=2 e=4 f=3"),
    Case("attention_lse", "h=2 p=5 m=7 e=4 f=3"),
    Case("attention_lse", "h=2 p=5 m=3 e=4 f=3"),
)
PASSES = {
    "attention_lse": ("K", "m", 2),
    "shifted_window": ("K", "x", 3),
    "stick_breaking": ("K", "i", 1),
    "cope": ("K", "m", 4),
    "neighborhood_2d": ("K", "x", 3),
    "mla": ("C", "m", 3),
    "mla_absorbed": ("C", "m", 3),
    "mha": ("K", "m", 3),
    "sigmoid_attention": ("K", "m", 1),
}


@pytest.mark.parametrize("scale", [1.0, 25.0])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_loops(case, scale):
    case.check(scale, references)


@pytest.mark.parametrize("scale", [1.0, 25.0])
@pytest.mark.parametrize("case", SPARSE, ids=str)
def test_sparse_ones_equal_the_loops(case, scale):
    case.check(scale, references_sparse)


@pytest.mark.parametrize("name", sorted({case.name for case in (*CASES, *SPARSE)}))
def test_passes(name):
    tensor, rank, passes = PASSES.get(name, ("K", "m", 3))
    assert count_passes(zoo.load(name), tensor, rank) == passes


def test_the_large_logits_are_large():
    g = SimpleNamespace(**Case("mqa", "h=3 p=5 m=7 e=4 f=3").inputs(25.0))
    logits = [references.scaled(q, k) for head in g.Q for q in head for k in g.K]
    assert min(logits) < -900
    assert max(logits) > 900


def test_the_absorbed_form_is_the_expanded_one():
    expanded, _ = Case("mla", "h=3 p=5 m=7 e=3 r=4 c=6 f=5").run(1.0)
    absorbed, _ = Case("mla_absorbed", "h=3 p=5 m=7 e=3 r=4 c=6 f=5").run(1.0)
    np.testing.assert_allclose(absorbed["O"], expanded["O"], rtol=1e-12)


def test_the_log_sum_exp_of_a_row_without_keys():
    found, g = Case("attention_lse", "h=2 p=5 m=3 e=4 f=3").run(25.0)
    np.testing.assert_allclose(found["LSE"], references_sparse.log_sum_exp(g), rtol=1e-12)
    assert np.isneginf(found["LSE"][:, :2]).all()
    assert not found["O"][:, :2].any()

"""What the Einsums of a cascade have to do with a rank."""

import pytest

from penstock import parse, zoo
from penstock.einsum_ir.rewrite.chain import ChainError, extract
from penstock.errors import UnknownNameError


def test_attention_is_elements_moving_tensors_and_links():
    chain = extract(zoo.load("attention"), "m")
    assert set(chain.elements) == {"QK"}
    assert set(chain.moving) == {"SN", "A"}
    assert list(chain.links) == ["GM", "SD", "O"]
    assert set(chain.outer) == {"QS"}
    assert chain.before == 3
    assert str(chain.links["O"].body) == "exp(QK[h, p, m] - GM[h, p]) / SD[h, p] * V[h, m, f]"
    assert chain.links["O"].reads == ("GM", "SD")


def test_a_mask_is_the_same_for_what_reads_the_same_scores():
    chain = extract(zoo.load("causal_attention"), "m")
    masks = {link.masks for link in chain.links.values()}
    assert len(masks) == 1
    assert masks.pop()


def test_predicates_of_what_is_written_out_go_along():
    chain = extract(
        parse("""
cascade c(X[p, m]) -> S[p]
  G[p] = X[p, m] :: max[m]
  E[p, m] = exp(X[p, m] - G[p]) s.t. m <= p
  S[p] = E[p, m] :: sum[m] s.t. m != 0
"""),
        "m",
    )
    assert str(chain.links["S"].where) == "m != 0 and m <= p"


def test_one_rank_has_one_name():
    chain = extract(
        parse("""
cascade c(X[p, m]) -> S[p]
  E[p, m] = exp(X[p, m])
  S[p] = E[p, n] :: sum[n]
"""),
        "m",
    )
    assert str(chain.links["S"].einsum) == "S[p] = E[p, m] :: sum[m]"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("S[p] = E[p, (m + 1) % M] :: sum[m]", "not read point by point"),
        ("S[p] = X[p, m] :: sum[m] s.t. X[p, m] == G[p]", "its predicate"),
        ("S[p] = X[p, m] - G[m] :: sum[m]", "a whole value for each m"),
    ],
)
def test_what_cannot_share_a_pass_says_why(line, reason):
    chain = extract(
        parse(f"""
cascade c(X[p, m]) -> S[p]
  G[p] = X[p, m] :: max[m]
  E[p, m] = exp(X[p, m] - G[p])
  {line}
"""),
        "m",
    )
    assert reason in chain.links["S"].blocked


def test_prefix_sums_are_scans_and_other_steps_are_refused():
    text = """
cascade c(G[m], X[m]) -> S
  init C[0] = 0
  C[m + 1] = C[m] {step}
  S = exp(C[m + 1]) * X[m] :: sum[m]
"""
    assert set(extract(parse(text.format(step="+ G[m]")), "m").scans) == {"C"}
    with pytest.raises(ChainError, match="C steps along 'm' and is no prefix sum from 0"):
        extract(parse(text.format(step="* G[m]")), "m")


def test_an_unknown_rank_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match=r"rank variable 'x' .*e, f, h, m, p"):
        extract(zoo.load("attention"), "x")

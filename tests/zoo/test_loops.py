"""The mechanisms of the literature equal loop references, with small logits and with +-1e3."""

import numpy as np
import pytest
from looped import cases, check, check_passes, computed, drawn
from table_first import MECHANISMS as FIRST
from table_more import MECHANISMS as MORE
from table_multimodal import MECHANISMS as MULTIMODAL

MECHANISMS = FIRST | MORE | MULTIMODAL


def test_25_come_first():
    assert len(FIRST) == len({each.key for each in FIRST.values()}) == 25


@pytest.mark.parametrize("hot", [False, True], ids=["small", "1e3"])
@pytest.mark.parametrize(("name", "case"), cases(MECHANISMS))
def test_equals_its_loops(name, case, hot):
    check(name, MECHANISMS[name], case, hot)


@pytest.mark.parametrize(
    ("name", "tensor"), [("biformer", "Q"), ("dynamic_mask", "WD"), ("mixture_of_heads", "WG")]
)
def test_equal_scores_take_the_lower_coordinates(name, tensor):
    case = MECHANISMS[name].cases[1]
    arrays = drawn(name, MECHANISMS[name], case)
    constant = arrays | {tensor: np.zeros_like(arrays[tensor])}
    expected = MECHANISMS[name].reference(constant, case, case)
    np.testing.assert_allclose(computed(name, case, constant)["O"], expected["O"], rtol=1e-12)


@pytest.mark.parametrize("name", MECHANISMS)
def test_passes(name):
    check_passes(name, MECHANISMS[name])

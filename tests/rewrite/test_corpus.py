"""The corpus says what it claims, and the interpreter agrees with 50 digits on it."""

import numpy as np
import pytest
from corpus import cases, inputs, passes
from precise import distance, precise

from penstock import zoo
from penstock.einsum_ir.interpreter.inputs import bind_arrays
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.passes import taxonomy

CASES = pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)


def test_the_lists_of_the_reference_are_complete():
    assert len(cases()) == 56
    assert sum(case.after == 1 for case in cases()) == 37
    assert sum(bool(case.refused) for case in cases()) == 14


@CASES
def test_passes_as_written(case):
    assert passes(case.cascade, case.rank) == case.before
    assert taxonomy(case.cascade) == f"{case.before}-pass"
    assert case.after <= case.before
    assert case.after < case.before or case.refused


@CASES
def test_interpreter_agrees_with_50_digits(case):
    arrays = inputs(case, np.random.default_rng(1))
    expected = precise(case.cascade, arrays)
    found = interpret(bind_arrays(case.cascade, arrays), arrays)
    for name, reference in expected.items():
        if case.refused != "identically zero":
            assert any(reference.ravel()), name
        assert distance(found[name], reference) < 1e-13 or case.refused == "identically zero"


@pytest.mark.parametrize(
    "name",
    [
        "attention_1pass",
        "attention_lse",
        "causal_attention_1pass",
        "forgetting",
        "gla",
        "retention",
    ],
)
def test_50_digits_agree_on_loops_masks_and_absent_rows(name):
    cascade = zoo.load(name)
    rng = np.random.default_rng(2)
    extents = dict(b=2, h=2, p=6, m=5, t=5, e=2, f=3, j=5)
    arrays = {
        each.tensor: rng.uniform(0.2, 1, [extents[rank] for rank in each.ranks])
        for each in cascade.inputs
    }
    shapes = {"m0": 2} if "m0" in cascade.shape else {"p": 5} if name == "forgetting" else {}
    expected = precise(cascade, arrays, **shapes)
    found = interpret(bind_arrays(cascade, arrays, shapes=shapes), arrays)
    for output, reference in expected.items():
        assert distance(found[output], reference) < 1e-13

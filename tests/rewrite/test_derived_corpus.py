"""Every cascade of the corpus comes out with the passes that are stated, and computes the same."""

from functools import cache

import fuzz
import numpy as np
import pytest
from corpus import cases, inputs, passes
from derived import of_plan
from precise import precise

from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.interpreter.inputs import bind_arrays
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.rewrite.plan import PassPlan, Refusal
from penstock.einsum_ir.rewrite.reduce import reduce_passes

FP32 = parse_format("fp32")
CASES = cases()
ACCEPTED = [each for each in CASES if each.after < each.before]
UNCERTIFIED = {"clipped_exponential"}
"""Of full rank only on a set that samples miss: no certificate (pass_reduction.md 1.6.3)."""


@cache
def derived(name: str) -> PassPlan | Refusal:
    case = next(each for each in CASES if each.name == name)
    return reduce_passes(case.cascade, case.rank)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_passes(case):
    found = derived(case.name)
    assert (found.before, found.after) == (case.before, case.after), str(found)
    assert isinstance(found, PassPlan) == (case.after < case.before)


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case.name)
def test_the_derived_cascade_goes_over_its_inputs_as_often_as_it_says(case):
    plan = derived(case.name)
    counts = [
        max(passes(form, case.rank), 1)
        for form in [plan.cascade, *([plan.tree] if plan.tree else [])]
    ]
    assert set(counts) == {case.after}


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case.name)
def test_values(case):
    rng = np.random.default_rng(4)
    for length in (1, 3, 13):
        given = inputs(case, rng, length)
        reference = precise(case.cascade, given)
        written = fuzz.Chain(str(case.cascade), False)
        for label, form, shapes in of_plan(derived(case.name), (1, 4, 32), (1, 3)):
            wrong = fuzz.disagreement(written, form, given, shapes, reference)
            assert not wrong, f"{label}, length {length}: {wrong}\n{form}"


@pytest.mark.parametrize("case", [each for each in CASES if each.refused], ids=lambda c: c.name)
def test_refusals_say_why(case):
    found = derived(case.name)
    match case.refused:
        case "no finite rank":
            certificates = [each.certificate for each in found.barriers]
            assert (min(certificates) > 6) == (case.name not in UNCERTIFIED)
        case "not monotone":
            assert "is not monotone" in found.reason
        case "identically zero":
            assert "0 families of " in found.reason


@pytest.mark.parametrize(
    ("name", "scale"),
    [("scaled_norm", 1e-25), ("scaled_norm", 1e25), ("p_norm", 1e25), ("normalised_product", 1e25)],
)
def test_the_gate_keeps_the_range_of_what_was_written(name, scale):
    case = next(each for each in CASES if each.name == name)
    given = {"X": scale * inputs(case, np.random.default_rng(8))["X"]}
    reference = precise(case.cascade, given)

    def error(plan: PassPlan) -> float:
        bound = bind_arrays(plan.cascade, given, shapes={plan.tile: 4})
        return fuzz.off(interpret(bound, given, FP32), reference, unit=1e-60)

    assert error(derived(name)) < 1e-5
    assert error(reduce_passes(case.cascade, case.rank, gated=False)) > 0.5

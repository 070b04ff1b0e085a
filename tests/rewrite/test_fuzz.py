"""Random chains of reductions: no accepted form, streamed or merged, computes something else."""

import random

import fuzz
import pytest

from penstock import parse

SEED = 20261121
"""The same in each run; ``python tests/rewrite/fuzz.py 500`` takes a fresh one and prints it."""


@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
def test_no_accepted_form_is_wrong(part):
    for number in range(10 * part, 10 * part + 10):
        rng = random.Random(f"{SEED}.{number}")
        case = fuzz.chain(rng)
        try:
            fuzz.outcome(case, rng)
        except Exception as error:
            error.add_note(f"case {number} of seed {SEED}:\n{case.text}")
            raise


def test_a_wrong_carry_is_found():
    text = """
cascade fuzz(X[p, m]) -> R1[p]
  R0[p] = X[p, m]                :: max[m]
  R1[p] = exp(X[p, m] - R0[p])   :: sum[m]
"""
    streaming = """
cascade fuzz(X[p, m]) -> R1[p]
  shape m0 = 2
  init RM[p, 0] = -inf
  init RS[p, 0] = 0
  loop m1:
    L[p, m1]      = X[p, m1*M0 + m0]                            :: max[m0]
    RM[p, m1 + 1] = max(RM[p, m1], L[p, m1])
    S[p, m1]      = exp(X[p, m1*M0 + m0] - RM[p, m1 + 1])       :: sum[m0]
    RS[p, m1 + 1] = RS[p, m1] * exp(RM[p, m1] - RM[p, m1 + 1]) + S[p, m1]
  R1[p] = RS[p, M1]
"""
    case = fuzz.Chain(text, False)
    given = fuzz.arrays(case, random.Random(3), 7)
    reference = fuzz.precise(case.cascade, given)
    right = parse(streaming)
    assert fuzz.disagreement(case, right, given, {"m0": 2}, reference) == ""
    wrong = parse(streaming.replace(" * exp(RM[p, m1] - RM[p, m1 + 1])", ""))
    assert "in 50 digits" in fuzz.disagreement(case, wrong, given, {"m0": 2}, reference)
    inexact = parse(streaming.replace("+ S[p, m1]", "+ S[p, m1] + 1e9 - 1e9"))
    assert "in fp64" in fuzz.disagreement(case, inexact, given, {"m0": 2}, reference)


def test_chains_are_various_and_valid():
    chains = [fuzz.chain(random.Random(number)) for number in range(100)]
    assert len({each.text for each in chains}) > 95
    text = " ".join(each.text for each in chains)
    for word in ("max[", "min[", "sum[", "prod[", "exp(", "log(", "abs(", "**", "s.t.", "W[m, f]"):
        assert word in text
    for each in chains:
        assert len(each.cascade.einsums) >= 2


ZERO_FACTOR = """
cascade fuzz(X[p, m], W[m, f]) -> R3[p, f]
  R0[p] = X[p, m]                   :: prod[m]
  R1[p] = exp(X[p, m] - R0[p])      :: sum[m]
  R2[p] = R1[p] - X[p, m] / R0[p]   :: sum[m]
  R3[p, f] = where(m % 2 == 0, X[p, m] * R2[p] / R1[p] * X[p, m], X[p, m]) * W[m, f] :: sum[m]
"""
NEGATIVE_FACTORS = """
cascade fuzz(X[p, m]) -> R1[p]
  R0[p] = log(X[p, m])            :: sum[m]
  R1[p] = log(X[p, m] * R0[p])    :: sum[m]
"""
ROOT_OF_A_SUM = """
cascade fuzz(X[p, m]) -> R2[p]
  R0[p] = X[p, m]                        :: max[m]
  R1[p] = X[p, m] + R0[p]                :: sum[m]
  D1[p] = sqrt(abs(R1[p]))
  R2[p] = sq(X[p, m] * D1[p] - R0[p])    :: sum[m]
"""

LOST_FACTOR = """
cascade fuzz(X[p, m], Y[m], MK[m]) -> R2[p]
  Z[p, m] = X[p, m] * Y[m]               s.t. MK[m] > 0
  R0[p]   = Z[p, m]                      :: prod[m]
  R1[p]   = exp(Z[p, m] - R0[p])         :: prod[m]
  R2[p]   = (Z[p, m] - R0[p]) ** 3 - R1[p] :: min[m]
"""
ZERO_OF_ONE = """
cascade fuzz(X[p, m]) -> R1[p]
  R0[p] = 2 * X[p, m]                    :: sum[m]
  R1[p] = (2 * X[p, m] - R0[p]) ** 3     :: sum[m]
"""


@pytest.mark.parametrize(
    ("text", "positive"),
    [
        (ZERO_FACTOR, True),
        (NEGATIVE_FACTORS, True),
        (ROOT_OF_A_SUM, True),
        (LOST_FACTOR, False),
        (ZERO_OF_ONE, False),
    ],
)
def test_what_was_wrong_once(text, positive):
    for seed in range(2):
        fuzz.outcome(fuzz.Chain(text, positive), random.Random(seed))

"""States go from call to call."""

import numpy as np
import pytest

import penstock
from penstock import parse, run_calls
from penstock.errors import DataError

RUNNING = parse("""
cascade running(X[n], S[n], T) -> (Y[n], SX[n], TX)
  state S -> SX, T -> TX
  SX[n] = S[n] + X[n]
  TX = T + 1
  Y[n] = SX[n] / TX
""")


@pytest.mark.parametrize("backend", ["interpreter", "loops"])
def test_a_running_mean(backend):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(5, 3))
    calls = ({"X": row} for row in rows)
    states = {"S": np.zeros(3), "T": np.zeros(())}
    found = list(run_calls(RUNNING, calls, states, backend=backend))
    assert len(found) == 5
    for number, outputs in enumerate(found, 1):
        np.testing.assert_allclose(outputs["Y"], rows[:number].mean(axis=0))
    assert found[-1]["TX"] == 5


def test_calls_are_computed_when_they_are_asked_for():
    asked = []

    def endless():
        while True:
            asked.append(len(asked))
            yield {"X": np.ones(2)}

    found = run_calls(RUNNING, endless(), {"S": np.zeros(2), "T": np.zeros(())})
    assert asked == []
    next(found)
    assert asked == [0]


def test_a_missing_state():
    with pytest.raises(DataError) as caught:
        next(run_calls(RUNNING, [{"X": np.ones(2)}], {"S": np.zeros(2)}))
    assert str(caught.value) == (
        "running needs the first value of each of its states (states: S, T), and T is missing\n"
        "fix: give T an array, as in states={'T': np.zeros(...)}"
    )


def test_a_state_too_many():
    with pytest.raises(DataError, match=r"states: none.*and S is none"):
        next(run_calls(penstock.zoo.load("matmul"), [{}], {"S": np.zeros(2)}))

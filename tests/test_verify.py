"""What counts as agreement: infinities, NaN, and cascades that overflow by themselves."""

import math

import numpy as np
import pytest

import penstock
from penstock.agreement import relative_error
from penstock.codegen.hls import csim
from penstock.design import remap

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("got", "want", "error"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0),
        ([1.0, 2.5], [1.0, 2.0], 0.25),
        ([1.0, NAN], [1.0, 2.0], INF),
        ([1.0, INF], [1.0, 2.0], INF),
        ([1.0, INF], [1.0, INF], 0),
        ([1.0, -INF], [1.0, INF], INF),
        ([1.5, 9.0], [1.0, INF], INF),
        ([1.5, 9.0], [1.0, NAN], 0.5),
        ([0.0, 1e-3], [0.0, 0.0], 1e-3),
        (3.0, 2.0, 0.5),
    ],
)
def test_relative_error(got, want, error):
    assert relative_error({"O": np.array(got)}, {"O": np.array(want)}) == error


def checked(body):
    cascade = penstock.parse(f"cascade c(X[p, m]) -> O[p]\n  S[p] = X[p, m]\n  O[p] = {body}")
    return penstock.verify(remap(cascade, "cpu", shapes={"p": 40, "m": 16}), "loops")


def test_what_overflows_by_itself_is_not_compared():
    found = checked("exp(S[p] * 9) - exp(S[p] * 8)")  # inf - inf for large sums
    assert found.verdict == "ok"
    assert "values are NaN in the interpreter: not compared" in found.detail


def test_nothing_to_compare_is_not_ok():
    found = checked("sqrt(0 - 1 - S[p] * S[p])")
    assert found.verdict == "not run"
    assert "40 of 40 values are NaN" in found.detail


def test_generated_code_that_does_not_compile_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(csim, "sources", lambda *_: {"kernel.cpp": "int main() { return }"})
    monkeypatch.setattr(csim, "_own_folder", lambda: tmp_path)
    cascade = penstock.parse("cascade c(X[p]) -> O[p]\n  O[p] = X[p] + 1")
    found = penstock.verify(remap(cascade, "u280", shapes={"p": 4}), "hls")
    assert (found.verdict, found.error) == ("FAILED", INF)
    assert found.detail.startswith("g++ exited with 1")

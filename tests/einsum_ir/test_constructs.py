"""Which constructs a cascade is said to need."""

import pytest

from penstock import parse
from penstock.einsum_ir.constructs import CONSTRUCTS, constructs

CASES = {
    "Y[n] = exp(X[n]) :: sum": (),
    "Y[n] = X[n] s.t. n < 3": ("predicate",),
    "Y[n] = X[n] s.t. n < 3 and T[n] > 0": ("predicate", "data predicate"),
    "Y[n] = X[n // 2]": ("split",),
    "Y[n] = X[n*2 + 1]": ("split",),
    "Y[n] = X[n + 1]": ("offset",),
    "Y[n] = X[T[n]]": ("gather",),
    "Y[n = T[k]] = X[k]": ("scatter",),
    "Y[n = (k + 1) % 5] = X[k]": ("scatter",),
    "Y[n] = X[n] s.t. n == 2": ("predicate",),
    "Y[n] = where(n < 2, X[n], T[n - 2])": ("offset", "choice"),
    "Y[n] = where(T[n] < 2, X[n], 0)": (),
    "Y[n] = X[k] :: topk[k -> n]": ("selection",),
    "Y[n + 1] = Y[n] + X[n]": ("iteration",),
    "Y[n] = X[n] + T[n]\n  state X -> Y": ("state",),
    "Y[n] = X[n]\n  format Y = int8": ("format",),
}


@pytest.mark.parametrize("text", CASES)
def test_constructs(text):
    cascade = parse(f"cascade c(X[n], T[n]) -> Y[n]\n  {text}")
    assert constructs(cascade) == CASES[text]


def test_each_construct_occurs():
    assert {name for found in CASES.values() for name in found} == set(CONSTRUCTS)

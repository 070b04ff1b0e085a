"""The extent of a rank that runs through one tensor after the other."""

import pytest

from penstock import parse
from penstock.einsum_ir.shapes import bind
from penstock.errors import CascadeError


def extents(body, **shapes):
    cascade = parse(f"cascade c(X[a], Y[b], Z[c]) -> J[n]\n{body}")
    return bind(cascade, shapes={"a": 3, "b": 5, "c": 2} | shapes).extents


def test_two_ranks():
    assert extents("J[n] = X[n] s.t. n < A\nJ[n] = Y[n - A]\n")["n"] == 8


def test_three_ranks_and_a_gap():
    pieces = "J[n] = X[n] s.t. n < A\nJ[n] = Y[n - A] s.t. n < A + B\nJ[n] = Z[n - A - B - 1]\n"
    assert extents(pieces)["n"] == 3 + 5 + 1 + 2


def test_written_as_a_choice():
    assert extents("J[n] = where(n < 4, Y[n], Z[n - 4])")["n"] == 6


def test_a_shape_that_is_given_wins():
    assert extents("J[n] = X[n] s.t. n < A\nJ[n] = Y[n - A]\n", n=4)["n"] == 4


def test_an_index_that_may_go_anywhere_tells_nothing():
    with pytest.raises(CascadeError, match=r"'n' of .* has no shape"):
        extents("J[n] = X[n] s.t. n < A\nJ[n] = Y[(n - A) % B]\n")

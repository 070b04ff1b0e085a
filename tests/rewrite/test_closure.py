"""Accumulators: which there are, how they move, and that a wrong carry is noticed."""

from dataclasses import replace

import pytest
from test_separate import body, separator

from penstock.einsum_ir.nodes import Num
from penstock.einsum_ir.rewrite.closure import close, identity_holds
from penstock.einsum_ir.rewrite.separate import NotSeparableError


@pytest.mark.parametrize(
    ("text", "basis"),
    [
        ("exp(X[m] - U)", ["exp(X[m] - u)"]),
        ("sq(X[m] - U)", ["sq(X[m] - u)", "X[m] - u", "1"]),
        (
            "(X[m] - U) ** 4",
            ["(X[m] - u) ** 4", "(X[m] - u) ** 3", "sq(X[m] - u)", "X[m] - u", "1"],
        ),
        ("(X[m] - U) * Y[m]", ["(X[m] - u) * Y[m]", "Y[m]"]),
        ("exp(X[m] - U) * (X[m] - U)", ["exp(X[m] - u) * (X[m] - u)", "exp(X[m] - u)"]),
        ("X[m] / U", ["X[m] / u"]),
    ],
)
def test_basis(text, basis):
    found = close(body(text), separator(tracked="u"))
    assert [str(each) for each in found.basis] == basis
    assert [str(each) for each in found.epilogue] == ["1", *["0"] * (len(basis) - 1)]


def test_welford():
    found = close(body("sq(X[m] - U)"), separator(tracked="u"))
    assert [[str(c) for c in row] for row in found.carry] == [
        ["1", "2 * (u' - u)", "sq(u' - u)"],
        ["0", "1", "u' - u"],
        ["0", "0", "1"],
    ]


def test_a_wrong_carry_is_noticed():
    kind = separator(tracked="u")
    found = close(body("sq(X[m] - U)"), kind)
    assert identity_holds(body("sq(X[m] - U)"), found, kind)
    wrong = ((Num(1), Num(0), Num(0)), *found.carry[1:])
    assert not identity_holds(body("sq(X[m] - U)"), replace(found, carry=wrong), kind)
    assert not identity_holds(body("X[m] - U"), found, kind)


def test_deferred_values_are_in_the_epilogue():
    found = close(body("exp(X[m] - U) * Y[m] / D"), separator(tracked="u", deferred="d"))
    assert [str(each) for each in found.epilogue] == ["1 / d"]
    raw = close(body("exp(X[m] - U)"), separator(deferred="u"))
    assert [str(each) for each in raw.basis] == ["exp(X[m])"]
    assert raw.carry == ((Num(1),),)


def test_too_many_moments_are_refused():
    with pytest.raises(NotSeparableError):
        close(body("(X[m] - U) ** 9"), separator(tracked="u"))

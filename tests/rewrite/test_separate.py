"""Each rule of separation: an identity, in difference form, or a refusal."""

import pytest

from penstock import parse
from penstock.einsum_ir.nodes import Sym, Var, walk
from penstock.einsum_ir.rewrite.order import ordered, peel
from penstock.einsum_ir.rewrite.separate import Fact, NotSeparableError, Separator
from penstock.einsum_ir.rewrite.signs import Sign
from penstock.einsum_ir.rewrite.terms import key, replaced


def body(text):
    """An expression over X[m], Y[m], with u and d as the placeholders U and D."""
    einsum = parse(f"cascade c(X[m], Y[m]) -> S\n  S = {text} :: sum[m]").einsum("S")
    return replaced(einsum.body, {Sym("U"): Sym("u"), Sym("D"): Sym("d")})


def separator(tracked="", deferred="", facts=()):
    def signs(leaf):
        return Sign.POSITIVE if leaf in (Sym("d"), Sym("d'")) else Sign.ANY

    return Separator(frozenset("m"), frozenset(tracked), frozenset(deferred), signs, facts)


def parts(text, **kinds):
    return {(str(term.b), str(term.c)) for term in separator(**kinds).terms(body(text))}


@pytest.mark.parametrize(
    ("text", "tracked", "found"),
    [
        ("exp(X[m] - U)", "u", {("exp(X[m] - u)", "exp(u' - u)")}),
        ("exp(X[m] - U) / D", "u", {("exp(X[m] - u)", "exp(u' - u) / d")}),
        ("X[m] / U", "u", {("X[m] / u", "u' / u")}),
        ("sq(X[m] / U)", "u", {("sq(X[m] / u)", "sq(u' / u)")}),
        ("X[m] - U", "u", {("X[m] - u", "1"), ("1", "u' - u")}),
        (
            "sq(X[m] - U)",
            "u",
            {("sq(X[m] - u)", "1"), ("X[m] - u", "2 * (u' - u)"), ("1", "sq(u' - u)")},
        ),
        ("abs(X[m] * U)", "u", {("abs(X[m] * u)", "abs(u / u')")}),
        ("log(X[m] / D)", "", {("log(X[m])", "1"), ("1", "-log(d)")}),
        ("X[m] * log(exp(X[m]) / D)", "", {("X[m] * X[m]", "1"), ("X[m]", "-log(d)")}),
        ("where(m == 0, X[m], Y[m]) * D", "", {("where(m == 0, X[m], Y[m])", "d")}),
        ("max(X[m] * D, Y[m] * D)", "", {("max(X[m], Y[m])", "d")}),
        ("max(X[m] - U, Y[m] - U)", "u", {("max(X[m] - u, Y[m] - u)", "1"), ("1", "u' - u")}),
        (
            "sin(X[m] - U)",
            "u",
            {("sin(X[m] - u)", "cos(u' - u)"), ("cos(X[m] - u)", "sin(u' - u)")},
        ),
    ],
)
def test_rules(text, tracked, found):
    assert (
        parts(text, tracked=tracked, deferred="ud".translate({ord(c): None for c in tracked}))
        == found
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sigmoid(X[m] - U)", "no rule takes"),
        ("exp(X[m] * U)", "a product of an element and a whole value"),
        ("1 / (X[m] - U)", "is a divisor with 2 independent parts"),
        ("log(X[m] - U)", "a logarithm of a sum"),
        ("X[m] ** U", "a moving exponent"),
        ("sqrt(X[m] - U)", "a broken power of a sum"),
        ("abs(X[m] - U)", "a kink that moves"),
        ("where(X[m] > U, X[m], 0)", "compares an element with a whole value"),
        ("round(X[m] / U)", "no rule takes"),
    ],
)
@pytest.mark.parametrize("kinds", [{"tracked": "u"}, {"deferred": "u"}])
def test_refusals(text, reason, kinds):
    with pytest.raises(NotSeparableError, match=reason):
        separator(**kinds).terms(body(text))


def test_a_running_maximum_bounds_its_elements():
    facts = (Fact("u", key(body("X[m]")), below=True),)
    found = separator(tracked="u", facts=facts).terms(body("abs(X[m] - U)"))
    assert {(str(t.b), str(t.c)) for t in found} == {("u - X[m]", "1"), ("1", "u - u'")}
    assert not [
        t for t in separator(tracked="u", facts=facts).terms(body("relu(X[m] - U)")) if key(t.c)
    ]


def test_divisions_record_what_they_need():
    kind = separator(tracked="u")
    kind.terms(body("X[m] / U"))
    assert any("!= 0" in each for each in kind.obligations)


@pytest.mark.parametrize(
    ("op", "text", "left"),
    [
        ("max", "exp(X[m] - U) / D", "exp(max[X[m]] - u) / d"),
        ("max", "U - X[m]", "u - min[X[m]]"),
        ("max", "abs(X[m] - U)", "max(max[X[m]] - u, -(min[X[m]] - u))"),
        ("min", "-(X[m] - U) * D", "(u - max[X[m]]) * d"),
        ("max", "X[m] - U + Y[m]", "max[X[m] - u + Y[m]]"),
    ],
)
def test_maxima_are_peeled(op, text, left):
    kind = separator(tracked="u", deferred="d")
    found = peel(op, body(text), kind, lambda op, expr: Sym(f"{op}[{expr}]"))
    assert str(found) == left


def test_selections_compare_elements():
    kind = separator(deferred="ud")
    assert str(ordered(body("exp(X[m] - U) / D"), kind)) == "X[m]"
    assert str(ordered(body("U - X[m]"), kind)) == "-X[m]"
    for text in ("round(X[m] / D)", "abs(X[m] - U)", "X[m] * U"):
        with pytest.raises(NotSeparableError):
            ordered(body(text), kind)


def test_the_key_knows_polynomials():
    assert key(body("sq(X[m] - Y[m])")) == key(body("X[m]*X[m] - 2*X[m]*Y[m] + Y[m]**2"))
    assert key(body("exp(X[m]) * exp(-X[m])")) == key(body("1 + 0 * X[m]"))
    assert key(body("exp(X[m])")) != key(body("exp(Y[m])"))
    assert Var("m") in set(walk(body("X[m]")))

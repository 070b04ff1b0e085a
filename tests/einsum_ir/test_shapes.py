"""Extents: given, inferred from accesses, or a clear error; scalars and affine forms."""

import math

import pytest

from penstock.einsum_ir.affine import Affine, affine, evaluate_scalar
from penstock.einsum_ir.frontend.notation import parse, parse_expr
from penstock.einsum_ir.shapes import bind
from penstock.errors import CascadeError


def extents(body, shapes, inputs="K[m], A[x]", output="O[p]", head=""):
    cascade = parse(f"cascade c({inputs}) -> {output}\n{head}\n  {output} = {body}")
    return dict(bind(cascade, shapes=shapes).extents)


def test_given_shapes_win_over_the_cascade():
    cascade = parse("cascade c(A[p]) -> O[p]\n shape p = 3\n O[p] = A[p]")
    assert bind(cascade).extents == {"p": 3}
    bound = bind(cascade, shapes={"p": 5})
    assert bound.extents == {"p": 5}
    assert bound.dims == {"A": (5,), "O": (5,)}
    assert bound.symbols == {"P": 5}
    assert bound.cascade.shape == {"p": 5}


@pytest.mark.parametrize(("m", "m0", "m1"), [(100, 64, 2), (128, 64, 2), (129, 64, 3), (5, 64, 1)])
def test_tiles_cover_everything(m, m0, m1):
    found = extents("K[m1*M0 + m0]", {"m": m, "m0": m0}, output="O[m1, m0]", inputs="K[m]")
    assert found == {"m": m, "m1": m1, "m0": m0}


@pytest.mark.parametrize(
    ("index", "known", "expected"),
    [
        ("x", {}, 10),
        ("x + 2", {}, 8),
        ("x * 2", {}, 5),
        ("x * 3", {}, 4),
        ("x + k", {"k": 3}, 8),  # every window inside
        ("x * 2 + k", {"k": 4}, 4),
        ("x * 4 + k", {"k": 2}, 3),  # gaps; no window starts outside
        ("x + k - 2 + 2", {"k": 3}, 8),
    ],
)
def test_one_unknown_variable_follows(index, known, expected):
    text = f"cascade c(A[n]{', B[k]' if known else ''}) -> O[x]\n O[x] = A[{index}]"
    text += " * B[k]" if known else ""
    assert bind(parse(text), shapes={"n": 10, **known}).extents["x"] == expected


def test_plain_accesses_come_first_in_any_order():
    text = "cascade c(A[n], B[r], K[k]) -> O[x]\n O[x] = A[x + k] * K[k] * B[x]"
    assert bind(parse(text), shapes={"n": 10, "r": 4, "k": 3}).extents["x"] == 4


def test_the_largest_of_several_plain_accesses_counts():
    text = "cascade c(A[n], B[r]) -> O[x]\n O[x] = A[x] * B[x]"
    assert bind(parse(text), shapes={"n": 10, "r": 14}).extents["x"] == 14


def test_an_iterative_tensor_has_one_coordinate_more():
    text = """
    cascade c(A[p, i]) -> S[p, i], Z[p, j]
      init S[p, 0] = 0
      S[p, i + 1] = S[p, i] + A[p, i]
      Z[p, j] = S[p, j]
    """
    bound = bind(parse(text), shapes={"p": 2, "i": 5})
    assert bound.dims["S"] == (2, 6)
    assert bound.dims["Z"] == (2, 6)


def test_extents_follow_through_intermediates():
    text = "cascade c(A[n]) -> O[x]\n B[p] = A[p]\n O[x] = B[x] * C[x]\n C[y] = B[2 * y]"
    assert bind(parse(text), shapes={"n": 9}).extents == {"n": 9, "p": 9, "x": 9, "y": 5}


def test_constants_of_shapes_and_of_each_other():
    text = (
        "cascade c(A[h], K[g]) -> O[h]\n const S = R * 2\n const R = H // G\n O[h]=A[h]*K[h//R]*S"
    )
    bound = bind(parse(text), shapes={"h": 8, "g": 2})
    assert bound.symbols == {"H": 8, "G": 2, "R": 4, "S": 8}
    assert isinstance(bound.symbols["R"], int)
    assert bind(parse(text), shapes={"h": 8, "g": 2}, constants={"R": 1}).symbols["S"] == 2


def test_a_constant_hides_the_shape_of_the_same_name():
    text = "cascade c(A[p]) -> O[p]\n const P = 3\n O[p] = A[p] * P"
    assert bind(parse(text), shapes={"p": 8}).symbols["P"] == 3


@pytest.mark.parametrize(
    ("shapes", "constants", "expected"),
    [
        (
            {"p": 4, "mm": 3},
            {},
            "shape mm=3 names no rank of c (ranks: p, m)\nfix: did you mean 'm'?",
        ),
        (
            {"p": 4, "zz": 3},
            {},
            "shape zz=3 names no rank of c (ranks: p, m)\nfix: leave out zz",
        ),
        ({"p": 0}, {}, "rank p has extent 0\nfix: give p at least 1 coordinate"),
        (
            {"p": 4},
            {},
            (
                "rank variable 'm' of O[p] has no shape (known: p)\n"
                "<text>:2:23\n"
                "  O[p] = A[p] * SC * (m + 1)\n"
                "                      ^\n"
                "fix: add a line 'shape m = 64', in Python c.shape(m=64), or give --shape m=64; "
                "for a constant, write M"
            ),
        ),
        (
            {},
            {},
            (
                "rank variable 'p' of A[p] has no shape (known: none)\n"
                "<text>:1:11\n"
                "  cascade c(A[p]) -> O[p]\n"
                "            ^^^^\n"
                "fix: add a line 'shape p = 64', in Python c.shape(p=64), or give --shape p=64"
            ),
        ),
        (
            {"p": 4, "m": 2},
            {},
            (
                "constant SC of O has no value\n"
                "<text>:2:17\n"
                "  O[p] = A[p] * SC * (m + 1)\n"
                "                ^^\n"
                "fix: add a line 'const SC = 1', in Python c.const(SC=1), or give --const SC=1"
            ),
        ),
        (
            {"p": 4, "m": 2},
            {"CS": 1, "SC": 2},
            "constant CS=1 is no constant of c (constants: SC)\nfix: leave out CS",
        ),
        (
            {"p": 4, "m": 2},
            {"M": 1, "SC": 2},
            (
                "constant M=1 is no constant of c (constants: SC)\n"
                "fix: M is the shape of a rank: give shape m=1"
            ),
        ),
    ],
)
def test_messages(shapes, constants, expected):
    cascade = parse("cascade c(A[p]) -> O[p]\n  O[p] = A[p] * SC * (m + 1)")
    with pytest.raises(CascadeError) as caught:
        bind(cascade, shapes=shapes, constants=constants)
    assert str(caught.value) == expected


def test_an_index_that_may_be_negative_tells_nothing():
    cascade = parse("cascade c(A[n], K[k]) -> O[x]\n O[x] = A[x + k - 1] * K[k]")
    with pytest.raises(CascadeError, match="rank variable 'x' of A"):
        bind(cascade, shapes={"n": 8, "k": 3})
    assert bind(cascade, shapes={"n": 8, "k": 3, "x": 8}).extents["x"] == 8


def test_a_constant_without_a_value():
    cascade = parse("cascade c(A[p]) -> O[p]\n  const S = 1 / (P - 4)\n  O[p] = A[p] * S")
    with pytest.raises(CascadeError) as caught:
        bind(cascade, shapes={"p": 4})
    assert str(caught.value) == (
        "'1 / (P - 4)' has no value: / of 1, 0\n"
        "<text>:2:13\n"
        "  const S = 1 / (P - 4)\n"
        "            ^^^^^^^^^^^\n"
        "fix: change the constants or shapes that it is made of"
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7 // 2 + 7 % 2", 4),
        ("2 ** 10", 1024),
        ("2 ** -1", 0.5),
        ("1 / sqrt(64)", 0.125),
        ("rsqrt(64)", 0.125),
        ("max(1, 2, min(3, 4))", 3),
        ("clamp(9, 0, 5)", 5),
        ("where(1 < 2 and not 2 == 3, 10, 20)", 10),
        ("where(1 > 2 or 1 >= 3, 10, 20)", 20),
        ("(1 <= 1) + (1 != 1) + abs(-3) + sign(-2) + step(0)", 4),
        ("floor(2.7) + round(2.5) + sq(3)", 14),
        ("log2(8) + exp2(3)", 11),
        ("exp(0) + log(1) + sin(0) + cos(0) + tanh(0) + erf(0)", 2),
        ("-N", -6),
        ("-inf", -math.inf),
    ],
)
def test_scalars(text, value):
    assert evaluate_scalar(parse_expr(text), {"N": 6}) == value


@pytest.mark.parametrize("text", ["X + 1", "p", "A[p]", "relu(1)", "fill(1, 2)"])
def test_scalars_that_are_not_known(text):
    assert evaluate_scalar(parse_expr(text), {"N": 6}) is None


@pytest.mark.parametrize(
    "text", ["1 % 0", "sqrt(0 - 1)", "log(0)", "exp(1e6)", "(-8) ** 0.5", "inf - inf", "10**10**10"]
)
def test_scalars_without_a_value(text):
    with pytest.raises(CascadeError, match="has no value"):
        evaluate_scalar(parse_expr(text), {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("m1 * M0 + m0 - 3", Affine((("m1", 4), ("m0", 1)), -3)),
        ("2 * (p - m) - p", Affine((("p", 1), ("m", -2)), 0)),
        ("p - p + 0 * m", Affine((), 0)),
        ("-(p + 1)", Affine((("p", -1),), -1)),
        ("p * m", None),
        ("p + M0 // 2 - max(M0, 3)", Affine((("p", 1),), -2)),
        ("p + M0 // 3 * (7 % M0)", Affine((("p", 1),), 3)),
        ("p // 2", None),
        ("p + 0.5", None),
        ("p + X", None),
    ],
)
def test_affine(text, expected):
    assert affine(parse_expr(text), {"M0": 4}) == expected


def test_affine_bounds():
    form = Affine((("p", 2), ("m", -1)), 3)
    assert form.minimum({"p": 4, "m": 6}) == -2
    assert form.maximum({"p": 4, "m": 6}) == 9


def test_a_missing_shape_is_shown_where_it_is_read():
    cascade = parse("cascade c(A[n]) -> O[p]\n  O[p] = A[p + q]")
    with pytest.raises(CascadeError) as caught:
        bind(cascade, shapes={"n": 4})
    assert str(caught.value) == (
        "rank variable 'p' of A[p + q] has no shape (known: n)\n"
        "<text>:2:12\n"
        "  O[p] = A[p + q]\n"
        "           ^\n"
        "fix: add a line 'shape p = 64', in Python c.shape(p=64), or give --shape p=64"
    )

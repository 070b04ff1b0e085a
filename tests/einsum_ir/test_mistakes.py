"""The likeliest mistakes of a first cascade: what the error says, where, and that its fix works.

Those in text are in messages_mistakes.txt, those in Python in messages_mistakes_python.txt: what it
is, what is wrong, the exact message, and the same with the fix applied, which has to run. Those in
the arrays are below. What looks like a mistake and is none comes last.
"""

import linecache
from pathlib import Path

import numpy as np
import pytest

from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.frontend import terms
from penstock.einsum_ir.frontend.dsl import Builder
from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.interpreter.inputs import bind_arrays
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.ops import NORMALISATIONS, OPERATORS
from penstock.errors import PenstockError


def cases(name):
    text = Path(__file__).with_name(name).read_text(encoding="utf-8").rstrip("\n")
    return [tuple(case.split("\n----\n")) for case in text.split("\n====\n")[1:]]


CASES, PYTHON = cases("messages_mistakes.txt"), cases("messages_mistakes_python.txt")
FUNCTIONS = [name for name, row in OPERATORS.items() if row.kind == "function"]
FUNCTIONS = ", ".join(sorted([*FUNCTIONS, *NORMALISATIONS]))
SIZES = {"p": 4, "m": 5, "e": 3, "n": 4}

RANKS = terms.ranks("p m e n j i k r")


def run(cascade):
    """Compute a cascade on small whole numbers."""
    generator = np.random.default_rng(0)
    arrays = {
        each.tensor: generator.integers(0, 3, [SIZES[rank] for rank in each.ranks]).astype(float)
        for each in cascade.inputs
    }
    return interpret(bind_arrays(cascade, arrays), arrays)


def message(caught):
    return f"{type(caught.value).__name__}: {caught.value}"


# --- in text ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected", "right"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_mistakes_in_text(text, expected, right):
    with pytest.raises(PenstockError) as caught:
        run(parse(text))
    assert message(caught) == expected.replace("{FUNCTIONS}", FUNCTIONS)
    assert caught.value.what
    assert caught.value.fix
    assert caught.value.span is not None
    values = run(parse(right)).values()
    assert values
    assert all(np.isfinite(value).all() for value in values)


def test_no_mistake_is_there_twice():
    assert len({case[1] for case in CASES}) == len(CASES) > 40
    assert len({case[1] for case in PYTHON}) == len(PYTHON) > 20


# --- in Python ----------------------------------------------------------------------------------


def built(code):
    """Run lines of Python with a Builder `c` and the functions of `terms`; errors can show them."""
    linecache.cache["<python>"] = (len(code), None, code.splitlines(keepends=True), "<python>")
    names = {name: getattr(terms, name) for name in terms.__all__}
    names |= {rank.name: rank for rank in RANKS} | {"c": Builder("c"), "__name__": "user"}
    exec(compile(code, "<python>", "exec"), names)
    return names["c"].build()


@pytest.mark.parametrize(
    ("code", "expected", "right"), [case[1:] for case in PYTHON], ids=[case[0] for case in PYTHON]
)
def test_mistakes_in_python(code, expected, right):
    with pytest.raises(PenstockError) as caught:
        run(built(code))
    assert message(caught) == expected
    assert caught.value.what
    assert caught.value.fix
    assert caught.value.span is not None
    values = run(built(right)).values()
    assert values
    assert all(np.isfinite(value).all() for value in values)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (
            "c.O[p] = c.q[p, e]",
            "'Builder' has no attribute 'q' (tensors start with an upper-case letter)",
        ),
        ("c.O[p] = c.Q[p, e] * 'K'", "an Einsum takes terms and numbers, not str"),
        ("c.O[p] = c.Q[p, ...]", "an Einsum takes terms and numbers, not ellipsis"),
        ("c.O[p] = c.Q[p, None]", "an Einsum takes terms and numbers, not NoneType"),
    ],
)
def test_mistakes_that_python_itself_reports(code, error):
    with pytest.raises((AttributeError, TypeError)) as caught:
        built(code)
    assert str(caught.value) == error


# --- in the arrays ------------------------------------------------------------------------------

ARRAYS = """cascade c(Q[p, e], K[m, e], T[n]) -> O[p, m], G[n]
  O[p, m] = Q[p, e] * K[m, e] * SC
  G[n] = Q[T[n], 0]
  const SC = 2
"""
GOOD = {"Q": np.ones((4, 3)), "K": np.ones((5, 3)), "T": np.array([0, 3])}
DECLARED = "\n<text>:1:{}\n  cascade c(Q[p, e], K[m, e], T[n]) -> O[p, m], G[n]\n  "


def declared(column, length):
    return DECLARED.format(column) + " " * (column - 1) + "^" * length


@pytest.mark.parametrize(
    ("change", "shapes", "expected"),
    [
        (
            {"Q": np.ones(4)},
            {},
            "array Q has 1 dimensions (4,), input Q[p, e] has 2 ranks"
            + declared(11, 7)
            + "\nfix: give an array with one dimension for each rank, in that order",
        ),
        (
            {"K": np.ones((3, 5))},
            {},
            "array K[m, e] has size 5 along rank e, array Q says 3"
            + declared(20, 7)
            + "\nfix: make both sizes of e equal",
        ),
        (
            {},
            {"p": 8},
            "array Q[p, e] has size 4 along rank p, --shape says 8"
            + declared(11, 7)
            + "\nfix: make both sizes of p equal",
        ),
        (
            {"T": None},
            {},
            "input T[n] has no array (given: K, Q)" + declared(29, 4) + "\nfix: add an array 'T'",
        ),
        (
            {"V": np.ones((5, 3))},
            {},
            "array V belongs to no input of c (inputs: Q, K, T)\nfix: leave out V",
        ),
        (
            {"q": np.ones((4, 3))},
            {},
            "array q belongs to no input of c (inputs: Q, K, T)\nfix: did you mean 'Q'?",
        ),
        (
            {"Q": np.ones((4, 3), complex)},
            {},
            "array Q has elements of type complex128\nfix: give floats, integers or booleans",
        ),
        (
            {"Q": np.full((4, 3), "1.0")},
            {},
            "array Q has elements of type <U3\nfix: give floats, integers or booleans",
        ),
        (
            {"SC": np.ones(2)},
            {},
            (
                "array SC has 1 dimensions (2,), but SC is a constant of c\n"
                "fix: give one number, or declare SC among the inputs, with its ranks"
            ),
        ),
        (
            {},
            {"q": 4},
            "shape q=4 names no rank of c (ranks: p, e, m, n)\nfix: leave out q",
        ),
    ],
)
def test_mistakes_in_arrays(change, shapes, expected):
    arrays = {name: array for name, array in (GOOD | change).items() if array is not None}
    cascade = parse(ARRAYS)
    with pytest.raises(PenstockError) as caught:
        interpret(bind_arrays(cascade, arrays, shapes=shapes), arrays)
    assert str(caught.value) == expected
    assert interpret(bind_arrays(cascade, GOOD), GOOD)["O"].shape == (4, 5)


def test_nan_in_a_fixed_format_names_the_input():
    arrays = GOOD | {"Q": np.full((4, 3), np.nan)}
    bound = bind_arrays(parse(ARRAYS), arrays)
    with pytest.raises(PenstockError) as caught:
        interpret(bound, arrays, parse_format("fixed<16,6>"))
    assert str(caught.value) == (
        "input Q[p, e]: 12 of 12 numbers are NaN, which fixed<16,6> cannot hold"
        + declared(11, 7)
        + "\nfix: replace them, or run it in fp32"
    )


# --- what looks like a mistake and is none ------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("-> O[p], L[p]\nO[p] = Q[p, e]\nL[p] = 1", "O[p] = Q[p, e] :: sum[e]"),
        ("-> (O[p], L[p],\n  A)\nO[p] = Q[p, e]\nL[p] = 1\nA = 2", None),
        ("-> O[p]\nO[p] = Q[p, e]**2", "O[p] = Q[p, e] ** 2 :: sum[e]"),
        (
            "-> O[p]\nO[p] = Q[p, e]   # of which\n  # there are\n  * 2",
            "O[p] = Q[p, e] * 2 :: sum[e]",
        ),
        ("-> O[p]\nO[p] = where(p > 1, Q[p, 0], -inf)", "O[p] = where(p > 1, Q[p, 0], -inf)"),
        ("-> O[p]\nO[p] = where(p > 1, Q[p, 0], -1e9)", None),
        ("-> O[p]\nO[p] = exp(P)", "O[p] = exp(P)"),
        ("-> O[p]\nO[p] = Q[p, E - 1] + Q[p, 0]", "O[p] = Q[p, E - 1] + Q[p, 0]"),
        ("-> O[p]\nSC = 1 / sqrt(E)\nO[p] = Q[p, e] * SC", "SC[] = 1 / sqrt(E)"),
        ("-> O[p]\nO[p] = max(Q[p, e], 0)", "O[p] = max(Q[p, e], 0) :: sum[e]"),
    ],
)
def test_no_mistake(text, printed):
    cascade = parse(f"cascade c(Q[p, e]) {text}")
    assert printed is None or printed in str(cascade).replace("\n  ", "\n").splitlines()
    assert run(cascade)


def test_a_constant_named_like_a_shape_may_be_an_index():
    """E is 1 here, not the size of e."""
    text = "cascade c(Q[p, e]) -> O[p]\n  const E = 1\n  O[p] = Q[p, E]"
    arrays = {"Q": np.arange(6.0).reshape(2, 3)}
    cascade = parse(text)
    assert interpret(bind_arrays(cascade, arrays), arrays)["O"].tolist() == [1, 4]


def test_coordinates_that_are_none_read_nothing():
    """NaN, fractions, negative and large ones: the element is absent, here filled with -1."""
    text = "cascade c(Q[p], T[n]) -> G[n]\n  G[n] = fill(Q[T[n]], -1)"
    arrays = {"Q": np.array([5.0, 6.0]), "T": np.array([0, np.nan, 0.5, -1, 2, 1e300, np.inf, 1])}
    result = interpret(bind_arrays(parse(text), arrays), arrays)["G"]
    assert result.tolist() == [5, -1, -1, -1, -1, -1, -1, 6]

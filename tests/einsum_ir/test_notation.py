"""The text notation: what it accepts, that printing reads back, and every message."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock import zoo
from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.frontend.notation import parse, parse_expr
from penstock.einsum_ir.nodes import (
    Access,
    Apply,
    Declaration,
    Einsum,
    Group,
    Num,
    Reduce,
    Sym,
    Var,
    variables,
)
from penstock.einsum_ir.ops import NORMALISATIONS, OPERATORS, REDUCTIONS, SELECTIONS
from penstock.errors import PenstockError

ATTENTION = """
cascade attention(Q[p, e], K[m, e], V[m, f]) -> O[p, f]
  QK[p, m] = Q[p, e] * K[m, e] * SC :: sum[e] s.t. m <= p
  GM[p] = QK[p, m] :: max[m]
  SN[p, m] = exp(QK[p, m] - GM[p])
  SD[p] = SN[p, m] :: sum[m]
  O[p, f] = SN[p, m] / SD[p] * V[m, f] :: sum[m]
""".strip()

LOOP = """
cascade running(A[p, i], B[p, i]) -> S[p, i], R[p]
  init S[p, 0] = -inf
  loop i:
    L[p, i] = A[p, i] * B[p, i]
    S[p, i + 1] = max(S[p, i], L[p, i])
  R[p] = S[p, I]
""".strip()


def same(text: str, expected: str) -> None:
    found = parse(text)
    assert str(found) == expected
    assert parse(str(found)) == found


def test_printing_is_the_notation():
    same(ATTENTION, ATTENTION)
    same(LOOP, LOOP)


def test_free_layout_reads_the_same():
    same(
        "\ufeff# a comment\r\n\r\n"
        "cascade attention(Q[p,e],   # queries\r\n"
        "                  K[m,e],\r\n"
        "   V[m,f])\r\n"
        "     -> (O[p,f])\r\n"
        "QK[p,m]=Q[p,e]*K[m,e] *\r\n"
        "   SC\r\n"
        "      :: sum[e]\r\n"
        "  # between\r\n"
        "      s.t. m<=p\r\n"
        "\tGM[p] = QK[p,\r\n m] :: max\r\n"
        "\xa0 SN[p,m] = exp(QK[p,m]\r\n - GM[p])\r\n"
        "SD[p] = SN[p,m]\r"
        "O[p,f] = (SN[p,m]/SD[p]) * V[m,f]   :: sum [m]",
        ATTENTION,
    )


def test_predicate_before_reduction():
    before = "QK[p, m] = Q[p, e] * K[m, e] * SC s.t. m <= p :: sum[e]"
    after = "QK[p, m] = Q[p, e] * K[m, e] * SC :: sum[e] s.t. m <= p"
    same(ATTENTION.replace(after, before), ATTENTION)


def test_loop_ends_with_its_indentation():
    deep = LOOP.replace("\n  ", "\n\t\t").replace("\n\t\t  ", "\n\t\t\t")
    same(deep, LOOP)


def test_init_with_a_variable_means_coordinate_zero():
    for body in ("-inf", "- inf"):
        same(LOOP.replace("init S[p, 0] = -inf", f"init i: S[p,i+1] = {body}"), LOOP)
    found = parse(LOOP.replace("init S[p, 0] = -inf", "init i: S[p,i+1] = A[p,i+1]*i s.t. p>i"))
    assert str(found.statements[0]) == "init S[p, 0] = A[p, 0] * (-1) s.t. p > -1"


def test_scalar_inputs_and_scalar_tensors_print_with_empty_brackets():
    text = "cascade s(A[p], SC, T[]) -> O[p], N\n  N = A[p]*SC\n  O[p] = A[p] / N + T - Z * N[]"
    same(
        text,
        "cascade s(A[p], SC[], T[]) -> O[p], N[]\n"
        "  N[] = A[p] * SC[] :: sum[p]\n"
        "  O[p] = A[p] / N[] + T[] - Z * N[]",
    )


def test_constants_and_shapes():
    text = (
        "cascade c(A[m]) -> O[p]\n  shape m = 8, p = 2*4\n  shape I = 3\n"
        "  const SC = 1/sqrt(M), N = -2\n  O[p] = A[i] * SC * N + p"
    )
    same(
        text,
        "cascade c(A[m]) -> O[p]\n  shape i = 3\n  shape m = 8\n  shape p = 8\n"
        "  const SC = 1 / sqrt(M)\n  const N = -2\n  O[p] = A[i] * SC * N + p :: sum[i]",
    )


def test_no_inputs():
    same("cascade iota() -> O[p]\n O[p]=p", "cascade iota() -> O[p]\n  O[p] = p")


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("0<=x<W", "0 <= x and x < W"),
        ("a<b<=c==d and e", "a < b and b <= c and c == d and e"),
        ("-3", "-3"),
        ("-(3)", "-(3)"),
        ("--3", "-(-3)"),
        ("-x**2", "-x ** 2"),
        ("-3**2", "-(3 ** 2)"),
        ("(-3)**2", "(-3) ** 2"),
        ("2**-x", "2 ** (-x)"),
        ("a**b**c", "a ** b ** c"),
        ("(a**b)**c", "(a ** b) ** c"),
        ("a-(b-c)-d", "a - (b - c) - d"),
        ("a-(-3)", "a - (-3)"),
        ("a*-b", "a * -b"),
        ("not a==b and c", "not a == b and c"),
        ("not (a and b) or c", "not (a and b) or c"),
        ("(a or b) and c", "(a or b) and c"),
        ("(a<b)==(c<d)", "(a < b) == (c < d)"),
        ("a//b%c/d", "a // b % c / d"),
        ("max2(a,b)+min2(a,b)", "max(a, b) + min(a, b)"),
        ("max(a,b,c,d)", "max(max(max(a, b), c), d)"),
        ("1e-30 + .5 + 2. + 1E3", "1e-30 + 0.5 + 2 + 1000"),
        ("1e16", "1e+16"),
        ("-inf", "-inf"),
        ("-(inf)", "-(inf)"),
        ("inf - -inf", "inf - (-inf)"),
        ("K[h//R, m1*M0+m0]", "K[h // R, m1 * M0 + m0]"),
        ("T[S[p], q]", "T[S[p], q]"),
        ("where(x>0, clamp(x,0,1), fill(X[p],0))", "where(x > 0, clamp(x, 0, 1), fill(X[p], 0))"),
        ("X[]", "X[]"),
        ("a\n + # comment\n b", "a + b"),
    ],
)
def test_expressions(text, printed):
    found = parse_expr(text)
    assert str(found) == printed
    assert parse_expr(printed) == found


def test_whole_literals_are_ints():
    assert isinstance(parse_expr("2.0").value, int)
    assert isinstance(parse_expr("2e3").value, int)
    assert isinstance(parse_expr("0.5").value, float)


def test_spans_cover_what_was_written():
    cascade = parse(ATTENTION.replace("QK[p, m] =", "QK[p, m]  ="), file="a.einsum")
    einsum = cascade.einsums[0]
    texts = [
        (span.line, span.text[span.column : span.column + span.length])
        for span in (
            einsum.span,
            einsum.output.span,
            einsum.body.span,
            einsum.operands[1].span,
            einsum.operands[1].indices[1].span,
            einsum.where.span,
            cascade.inputs[2].span,
            cascade.outputs[0].span,
        )
    ]
    assert texts == [
        (2, "QK[p, m]  = Q[p, e] * K[m, e] * SC :: sum[e] s.t. m <= p"),
        (2, "QK[p, m]"),
        (2, "Q[p, e] * K[m, e] * SC"),
        (2, "K[m, e]"),
        (2, "e"),
        (2, "m <= p"),
        (1, "V[m, f]"),
        (1, "O[p, f]"),
    ]
    assert einsum.span.file == "a.einsum"


# --- random expressions and cascades

RANKS = ("p", "m", "e", "m1", "m0")
INPUTS = {"Q": 2, "K": 3, "SC": 0, "TAB": 1}


def expressions(tensors, levels=4):
    leaves = st.one_of(
        st.integers(-20, 20).map(Num),
        st.floats(allow_nan=False, width=64).map(Num),
        st.sampled_from(RANKS).map(Var),
        st.sampled_from(["M0", "W", "N1"]).map(Sym),
        st.sampled_from(sorted(tensors)).flatmap(lambda name: indexed(name, tensors[name])),
    )

    def larger(inner):
        def apply(op):
            operands = st.tuples(*[inner] * OPERATORS[op].arity)
            return operands.map(lambda args: Apply(op, args))

        return st.sampled_from(sorted(OPERATORS)).flatmap(apply)

    return st.recursive(leaves, larger, max_leaves=2**levels)


def indexed(name, order):
    variable = st.sampled_from(RANKS).map(Var)
    shifted = st.builds(
        lambda op, left, right: Apply(op, (left, Num(right))),
        st.sampled_from(["+", "-", "*", "//", "%"]),
        variable,
        st.integers(1, 5),
    )
    tiled = st.just(parse_expr("m1 * M0 + m0"))
    return st.tuples(*[st.one_of(variable, shifted, tiled)] * order).map(
        lambda indices: Access(name, indices)
    )


@given(expressions(INPUTS))
def test_printed_expressions_read_back(expr):
    scalars = str(expr)
    assert parse_expr(scalars) == expr


@st.composite
def cascades(draw):
    tensors = dict(INPUTS)
    statements = []
    for number in range(draw(st.integers(1, 4))):
        statements.append(draw(einsums(f"T{number}", tensors)))
        tensors[f"T{number}"] = len(statements[-1].output.indices)
    if draw(st.booleans()):
        body = draw(expressions(tensors, 2))
        start = Einsum(Access("R", (Num(0),)), draw(st.integers(-3, 3).map(Num)), init=True)
        local = Einsum(Access("L", (Var("i"),)), body)
        step = Apply("max", (Access("R", (Var("i"),)), Access("L", (Var("i"),))))
        steps = Einsum(Access("R", (Apply("+", (Var("i"), Num(1))),)), step)
        statements += [start, Group("i", (local, steps))]
        tensors["R"] = 1
    names = [each for each in tensors if each not in INPUTS]
    lefts = {e.name: e.output for e in statements if isinstance(e, Einsum) and not e.init}
    lefts |= {"R": Access("R", (Var("i"),))} if "R" in tensors else {}
    outputs = tuple(Declaration(name, variables(lefts[name])) for name in names)
    inputs = tuple(Declaration(name, RANKS[:order]) for name, order in INPUTS.items())
    constants = (("W", draw(st.integers(1, 9).map(Num))), ("X", parse_expr("1 / sqrt(M0)")))
    shapes = tuple(draw(st.dictionaries(st.sampled_from(RANKS), st.integers(1, 9))).items())
    return Cascade("c", inputs, outputs, tuple(statements), constants, shapes)


@st.composite
def einsums(draw, name, tensors):
    body = draw(expressions(tensors, 3))
    where = draw(st.none() | expressions(tensors, 2))
    found = variables(*([body] if where is None else [body, where]))
    kept = draw(st.permutations(found)) if found else []
    kept = kept[: draw(st.integers(0, len(kept)))]
    reduce = None
    if len(kept) < len(found):
        op = draw(st.none() | st.sampled_from(sorted({**REDUCTIONS, **SELECTIONS})))
        over = draw(st.permutations([each for each in found if each not in kept]))
        into = "places" if op in SELECTIONS and SELECTIONS[op].many else None
        reduce = op and Reduce(op, tuple(over), into)
        kept = [*kept, into] if into else kept
    return Einsum(Access(name, tuple(Var(each) for each in kept)), body, reduce, where)


@given(cascades())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_printed_cascades_read_back(cascade):
    assert parse(str(cascade)) == cascade


@given(st.text())
@settings(deadline=None)
def test_any_text_gives_a_cascade_or_a_clear_error(text):
    for head in ("", "cascade c(A[p]) -> O[p]\n", "cascade c(A[p]) -> O[p]\nO[p] = "):
        check_only_clear_errors(head + text)


SHORT = """
cascade short(Q[p, e], K[m, e], W[m], T[n], V[n]) -> O[p, m], KX[m, e], S[p, j], G[r]
  state K -> KX
  format Q, T = int8
  def lrelu(x, y) = max(x, y * x)
  A[p, m] = softmax(lrelu(Q[p, e] * K[m, e], 0.1); m) :: sum[e] s.t. m <= p
  O[p, m] = A[p, m] s.t. W[m] > 0
  O[p, m] = -inf
  KX[m, e] = K[m + 1, e]
  S[p, j] = O[p, m] :: topk[m -> j]
  G[r = T[n] // 2] = V[n] :: max[n]
  shape j = 2, r = 3
""".strip()
SOURCES = [
    ATTENTION,
    LOOP,
    SHORT,
    SHORT,
    zoo.source("gqa_causal_1pass"),
    zoo.source("sliding_window"),
]
PIECES = ["(", ")", "[", "]", ",", "::", "s.t.", "->", "=", "init ", "loop ", "i", "M", "\n", "  "]
PIECES += [
    "-",
    "**",
    "not ",
    "and ",
    "inf",
    "1e999",
    "9" * 400,
    "10**10**10",
    "max",
    "const A=1/0\n",
    "softmax(",
    "; m",
    ":: topk[m -> j]",
    ":: argmax",
    "def f(x) = ",
    "f(",
    "state ",
    "format ",
    "fixed<8,4>",
    "O[p, m] = 1 s.t. ",
    ":",
    ".",
    "&&",
    "//",
    "p = ",
    "-1",
    "M",
]


@given(st.sampled_from(SOURCES), st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_text_gives_a_cascade_or_a_clear_error(text, data):
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        stop = min(len(text), start + data.draw(st.integers(0, 5)))
        text = text[:start] + data.draw(st.sampled_from(PIECES)) + text[stop:]
    check_only_clear_errors(text)


def check_only_clear_errors(text):
    try:
        cascade = parse(text)
    except PenstockError:
        return
    assert parse(str(cascade)) == cascade


@pytest.mark.parametrize(
    "text", ["(" * 5000, "-" * 5000 + "x", "not " * 5000 + "x", "x" + "+x" * 5000]
)
def test_deep_text_gives_a_clear_error(text):
    with pytest.raises(PenstockError):
        parse_expr(text)
    check_only_clear_errors(f"cascade c() -> O[x]\nO[x] = {text}")


def test_spans_take_no_part_in_equality():
    found = parse(ATTENTION)
    assert replace(found.einsums[0], span=None) == found.einsums[0]


HEADER = "cascade c(Q[p, e], K[m, e]) -> O[p]\n"
FUNCTIONS = [name for name, row in OPERATORS.items() if row.kind == "function"]
FUNCTIONS = ", ".join(sorted([*FUNCTIONS, *NORMALISATIONS]))
CASES = Path(__file__).with_name("messages_notation.txt").read_text(encoding="utf-8")
CASES = [case.split("\n----\n") for case in CASES.split("\n====\n")[1:]]


def message(text):
    with pytest.raises(PenstockError) as caught:
        parse(text)
    return f"{type(caught.value).__name__}: {caught.value}"


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_messages(text, expected):
    whole = text if "cascade" in text.split("\n", maxsplit=1)[0] else HEADER + text
    assert message(whole) == expected.replace("{FUNCTIONS}", FUNCTIONS)


@pytest.mark.parametrize("text", ["", "\n \n", "# only a comment"])
def test_message_of_an_empty_text(text):
    assert message(text) == (
        "NotationError: a cascade starts with a line that names its inputs and outputs\n"
        "fix: put a first line like 'cascade attention(Q[p, e], K[m, e]) -> O[p, f]'"
    )


def test_message_of_a_missing_first_line():
    assert message("O[p] = Q[p]") == (
        "NotationError: a cascade starts with a line that names its inputs and outputs\n"
        "<text>:1:1\n"
        "  O[p] = Q[p]\n"
        "  ^^^^^^^^^^^\n"
        "fix: put a first line like 'cascade attention(Q[p, e], K[m, e]) -> O[p, f]'"
    )


def test_messages_of_depth():
    assert message(HEADER + "O[p] = " + "(" * 101).startswith(
        "NotationError: brackets nest deeper than 100 levels\n<text>:2:108\n"
    )
    assert message(HEADER + "O[p] = " + "+".join("p" * 102)).startswith(
        "CascadeError: an expression has more than 100 levels\n<text>:2:8\n"
    )


def test_message_of_a_character_that_cannot_be_shown():
    assert message(HEADER + "O[p] = Q[p, e]\x0b").startswith(
        "NotationError: unexpected character '\\x0b'\n<text>:2:15\n"
    )

"""What a cascade must satisfy, with exact messages, and the order it is evaluated in."""

from pathlib import Path

import pytest

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
    check_depth,
    next_variable,
    substitute,
    variables,
    walk,
)
from penstock.errors import CascadeError, PenstockError, UnknownNameError

CASES = Path(__file__).with_name("messages_cascade.txt").read_text(encoding="utf-8")
CASES = [case.split("\n----\n") for case in CASES.split("\n====\n")[1:]]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_messages(text, expected):
    with pytest.raises(PenstockError) as caught:
        parse(text)
    assert f"{type(caught.value).__name__}: {caught.value}" == expected


def small(name="c", output=None, body=None, **fields):
    output = output or Access("O", (Var("p"),))
    einsum = Einsum(output, body or Access("A", (Var("p"),)))
    return Cascade(
        name,
        fields.pop("inputs", (Declaration("A", ("p",)),)),
        fields.pop("outputs", (Declaration("O", ("p",)),)),
        (einsum,),
        **fields,
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            {"name": "2d"},
            "'2d' cannot name a cascade\nfix: use letters, digits and '_', and start with a letter",
        ),
        (
            {"inputs": (Declaration("a", ("p",)),)},
            (
                "'a' cannot name a tensor\n"
                "fix: start with an upper-case letter; go on with letters, digits and '_'"
            ),
        ),
        (
            {"inputs": (Declaration("A", ("P",)),)},
            (
                "'P' cannot name a rank variable\n"
                "fix: use lower-case letters, digits and '_', but not a word of the notation"
            ),
        ),
        (
            {"body": Var("not")},
            (
                "'not' cannot name a rank variable\n"
                "fix: use lower-case letters, digits and '_', but not a word of the notation"
            ),
        ),
        (
            {"body": Sym("sc")},
            (
                "'sc' cannot name a scalar\n"
                "fix: start with an upper-case letter; go on with letters, digits and '_'"
            ),
        ),
        (
            {"body": Access("A'", (Var("p"),))},
            (
                "'A'' cannot name a tensor\n"
                "fix: start with an upper-case letter; go on with letters, digits and '_'"
            ),
        ),
        (
            {"constants": (("sc", Num(1)),)},
            (
                "'sc' cannot name a constant\n"
                "fix: start with an upper-case letter; go on with letters, digits and '_'"
            ),
        ),
        (
            {"constants": (("N", Num(1)), ("N", Num(2)))},
            "constant N is given twice\nfix: leave one of the two out",
        ),
        (
            {"shapes": (("M0", 4),)},
            (
                "'M0' cannot name a rank variable\n"
                "fix: use lower-case letters, digits and '_', but not a word of the notation"
            ),
        ),
        (
            {"outputs": ()},
            (
                "cascade c has no output: each tensor is read by another\n"
                "fix: name it: end the first line with '-> O[p, f]', in Python c.outputs(c.O[p, f])"
            ),
        ),
        (
            {
                "inputs": (Declaration("A", ("p",)), Declaration("SC", ())),
                "body": Apply("*", (Access("A", (Var("p"),)), Sym("SC"))),
            },
            "SC is a tensor without ranks, but is used as a constant\nfix: write SC[]",
        ),
        (
            {"constants": (("SC", Sym("T")),), "inputs": (Declaration("T", ()),), "body": Var("p")},
            (
                "constant SC = T depends on T\n"
                "fix: use numbers, other constants and shapes, or make it an Einsum: SC[] = ..."
            ),
        ),
    ],
)
def test_messages_without_text(arguments, expected):
    with pytest.raises(CascadeError) as caught:
        small(**arguments)
    assert str(caught.value) == expected


def test_messages_of_nodes():
    with pytest.raises(UnknownNameError) as caught:
        Apply("softmix", (Num(1),))
    assert str(caught.value).startswith("unknown operator 'softmix' (known: abs, bitlen, clamp, ")
    with pytest.raises(CascadeError) as caught:
        Apply("exp", (Num(1), Num(2)))
    assert str(caught.value) == ("operator 'exp' takes 1 operand(s), 2 given\nfix: write exp(x)")
    with pytest.raises(UnknownNameError) as caught:
        Einsum(Access("O", ()), Access("A", (Var("p"),)), Reduce("total", ("p",)))
    assert str(caught.value) == (
        "unknown reduction 'total' "
        "(known: argmax, argmin, argsort, max, mean, min, prod, sum, topk)"
    )
    with pytest.raises(CascadeError) as caught:
        Num(float("nan"))
    assert str(caught.value) == (
        "nan is not a number that an Einsum can hold\n"
        "fix: use a predicate (s.t.) for points that do not exist"
    )
    with pytest.raises(CascadeError) as caught:
        Num(10**400)
    assert str(caught.value) == ("a number of 401 digits is too large\nfix: write inf for infinity")


def test_depth():
    deep = Num(1)
    for _ in range(99):
        deep = Apply("neg", (deep,))
    check_depth(deep)
    with pytest.raises(CascadeError, match="an expression has more than 100 levels"):
        Einsum(Access("O", ()), Apply("neg", (deep,)))


def test_numbers():
    assert isinstance(Num(2.0).value, int)
    assert isinstance(Num(1e16).value, float)
    assert Num(2.0) == Num(2)
    texts = [str(Num(value)) for value in (2, -0.5, 1e15, 1e16, float("-inf"), 1e-30, 0.1)]
    assert texts == ["2", "-0.5", "1000000000000000.0", "1e+16", "-inf", "1e-30", "0.1"]


def test_an_absent_reduction_is_the_sum_of_what_is_missing():
    output, body = Access("O", (Var("p"),)), parse_expr("A[p, m] * B[m, e]")
    assert Einsum(output, body) == Einsum(output, body, Reduce("sum", ("e", "m")))
    assert str(Einsum(output, body)) == "O[p] = A[p, m] * B[m, e] :: sum[m, e]"
    assert Einsum(output, Var("p"), Reduce("max", ())) == Einsum(output, Var("p"))
    masked = Einsum(output, Access("A", (Var("p"),)), where=parse_expr("m <= p"))
    assert masked.reduce == Reduce("sum", ("m",))
    assert masked.variables == ("p", "m")


def test_expression_helpers():
    expr = parse_expr("A[p + 1, T[m]] * e")
    assert variables(expr) == ("p", "m", "e")
    assert [str(node) for node in walk(expr)][:3] == [str(expr), "A[p + 1, T[m]]", "p + 1"]
    replaced = substitute(expr, {"p": Num(3), "m": parse_expr("a + b")})
    assert str(replaced) == "A[3 + 1, T[a + b]] * e"
    assert next_variable(parse_expr("i + 1")) == "i"
    assert next_variable(parse_expr("i + 2")) is None
    assert next_variable(parse_expr("1 + i")) is None


LOOP = """
cascade c(A[p, i]) -> O[p]
  O[p] = R[p, I] * F[p]
  init R[p, 0] = F[p]
  loop i:
    L[p, i] = A[p, i] * R[p, i]
    R[p, i + 1] = R[p, i] + L[p, i]
  S[p, i + 1] = S[p, i] + R[p, i + 1]
  F[p] = 2 * p
  Z[p] = S[p, I]
""".strip()


def test_schedule_finds_each_operand_ready():
    schedule = parse(LOOP).schedule
    assert [str(each).splitlines()[0] for each in schedule] == [
        "F[p] = 2 * p",
        "init R[p, 0] = F[p]",
        "loop i:",
        "O[p] = R[p, I] * F[p]",
        "loop i:",
        "Z[p] = S[p, I]",
    ]
    alone = schedule[4]
    assert isinstance(alone, Group)
    assert [each.name for each in alone.einsums] == ["S"]


def test_properties():
    cascade = parse(LOOP)
    assert cascade.iterative == {"R": ("i", 1), "S": ("i", 1)}
    assert cascade.arity == {"A": 2, "O": 1, "R": 2, "L": 2, "S": 2, "F": 1, "Z": 1}
    assert cascade.scalars == frozenset()
    assert str(cascade.einsum("R").output) == "R[p, i + 1]"
    assert [each.name for each in cascade.einsums] == ["O", "R", "L", "R", "S", "F", "Z"]
    with pytest.raises(UnknownNameError) as caught:
        cascade.einsum("RR")
    assert str(caught.value).startswith("unknown tensor 'RR' (known: ")


def test_earlier_steps_may_be_read_in_a_loop():
    text = """
    cascade c(A[i], K[k]) -> R[i], L[i]
      init R[0] = 1
      loop i:
        L[i] = A[i] + R[i - 1] + L[i - 1] + N[i - 2]
        R[i + 1] = R[i] * L[i] + R[i - k - 1] * K[k]
        N[i] = R[i + 1] + R[i]
    """
    assert parse(text).schedule


def test_shapes_and_constants_can_be_changed():
    cascade = parse("cascade c(A[p]) -> O[p]\n const W = 3\n O[p] = A[p] * W + SC")
    changed = cascade.with_shapes(p=4).with_constants(W=5, SC=0.5)
    assert str(changed) == (
        "cascade c(A[p]) -> O[p]\n  shape p = 4\n  const W = 5\n  const SC = 0.5\n"
        "  O[p] = A[p] * W + SC"
    )
    assert changed.shape == {"p": 4}
    with pytest.raises(CascadeError) as caught:
        cascade.with_constants(WW=3)
    assert str(caught.value) == (
        "constant WW=3 is no constant of c (constants: SC, W)\nfix: did you mean 'W'?"
    )
    with pytest.raises(CascadeError) as caught:
        cascade.with_constants(P=3)
    assert str(caught.value) == (
        "constant P=3 is no constant of c (constants: SC, W)\n"
        "fix: P is the shape of a rank: give shape p=3"
    )


def test_a_constant_may_have_the_name_of_a_shape_or_a_tensor():
    text = "cascade c(K[k], A[p]) -> O[p]\n  const K = 3\n  O[p] = A[p] * K[k] * K :: sum[k]"
    assert str(parse(text)) == text


def test_pieces_are_joined_by_the_front_ends_not_by_the_cascade():
    text = "cascade c(A[p]) -> O[p]\nO[p] = A[p] s.t. p < 2"
    piece = parse(text).statements[0]
    with pytest.raises(CascadeError, match="O is defined twice"):
        Cascade("c", (Declaration("A", ("p",)),), (Declaration("O", ("p",)),), (piece, piece))
    assert len(parse(f"{text}\nO[p] = p s.t. p >= 2").statements) == 1

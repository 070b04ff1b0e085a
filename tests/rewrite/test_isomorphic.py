"""The derived one-pass attention is FuseMax's published cascade, up to names and rank order."""

from itertools import permutations

import pytest

from penstock import parse, zoo
from penstock.einsum_ir.nodes import Access, Apply, Group, Num, Sym, Var, next_variable
from penstock.einsum_ir.rewrite.reduce import reduce_passes

COMMUTES = {"+", "*", "max", "min"}


def equations(cascade):
    """(output, init, body, reduction, predicate, whether in the loop) of each Einsum but scales."""
    found = []
    for statement in cascade.statements:
        inside = isinstance(statement, Group)
        found += [
            (each.output, each.init, each.body, each.reduce, each.where, inside)
            for each in (statement.einsums if inside else (statement,))
        ]
    return found


def without_scale(cascade):
    """The equations without QS = Q * SC, whose result counts as Q."""
    scales = {
        out.tensor: body.args[0].tensor
        for out, _, body, _, _, _ in equations(cascade)
        if isinstance(body, Apply) and body.op == "*" and isinstance(body.args[1], Sym)
    }

    def renamed(expr):
        match expr:
            case Access(tensor, indices):
                return Access(scales.get(tensor, tensor), tuple(map(renamed, indices)))
            case Apply(op, args):
                return Apply(op, tuple(map(renamed, args)))
            case _:
                return expr

    return [
        (out, init, renamed(body), reduce, where, inside)
        for out, init, body, reduce, where, inside in equations(cascade)
        if out.tensor not in scales
    ]


def mark(index):
    """An index as a hashable thing whose variables are renamed later."""
    match index:
        case Var(name):
            return ("var", name)
        case Num(value):
            return ("num", value)
        case Sym(name):
            return ("shape", name.lower())
        case Apply(op, args):
            if next_variable(index):
                return ("next", next_variable(index))
            return (op, *sorted(map(mark, args), key=repr))
        case Access():
            raise AssertionError(index)


def renamed_mark(found, ranks):
    head, *rest = found
    if head in ("var", "shape", "next"):
        return (head, ranks.get(rest[0], rest[0]))
    if head == "num":
        return found
    return (head, *sorted((renamed_mark(each, ranks) for each in rest), key=repr))


def same(a, b, names, ranks):
    """Extend the bijection `names` so that two expressions agree: yield each way."""
    match a, b:
        case Access(), Access():
            if names.get(a.tensor, b.tensor) != b.tensor:
                return
            if a.tensor not in names and b.tensor in names.values():
                return
            left = sorted((renamed_mark(mark(each), ranks) for each in a.indices), key=repr)
            right = sorted((mark(each) for each in b.indices), key=repr)
            if left == right:
                yield {**names, a.tensor: b.tensor}
        case Apply(), Apply() if a.op == b.op and len(a.args) == len(b.args):
            orders = permutations(b.args) if a.op in COMMUTES else [b.args]
            for order in orders:
                yield from all_same(list(zip(a.args, order, strict=True)), names, ranks)
        case Num(), Num() if a == b:
            yield names


def all_same(pairs, names, ranks):
    if not pairs:
        yield names
        return
    for found in same(*pairs[0], names, ranks):
        yield from all_same(pairs[1:], found, ranks)


def one(a, b, names, ranks):
    """Ways in which two equations are the same."""
    if (a[1], a[5], a[4] is None) != (b[1], b[5], b[4] is None):
        return
    if (a[3] is None) != (b[3] is None):
        return
    if a[3] is not None:
        over = {ranks.get(name, name) for name in a[3].over}
        if a[3].op != b[3].op or over != set(b[3].over):
            return
    yield from all_same([(a[0], b[0]), (a[2], b[2])], names, ranks)


def bijection(left, right, ranks):
    """Return tensor names of `left` → of `right` under which the equations agree, or None."""
    if len(left) != len(right):
        return None

    def search(rest, free, names):
        if not rest:
            return names
        for place, candidate in enumerate(free):
            for found in one(rest[0], candidate, names, ranks):
                result = search(rest[1:], [*free[:place], *free[place + 1 :]], found)
                if result is not None:
                    return result
        return None

    return search(left, right, {})


def published():
    """FuseMax, MICRO 2024, Cascade 5 (equations 39-55), without the batch rank."""
    text = str(zoo.load("attention_1pass"))
    return parse(text.replace("b, ", ""))


def derived(name):
    return reduce_passes(zoo.load(name), "m").cascade


@pytest.mark.parametrize("name", ["attention", "attention_deferred"])
def test_derived_attention_is_published(name):
    found = bijection(without_scale(derived(name)), equations(published()), {})
    assert found is not None
    assert found["GM_R"] == "RM"
    assert found["SD_R"] == "RD"
    assert len(set(found.values())) == len(found)


def test_both_authors_forms_come_out_alike():
    left, right = (without_scale(derived(name)) for name in ("attention", "attention_deferred"))
    assert bijection(left, right, {}) is not None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("max(GM_R[h, p, m1], GM_T[h, p, m1])", "max(GM_R[h, p, m1], GM_R[h, p, m1])"),
        ("exp(GM_R[h, p, m1] - GM_R[h, p, m1 + 1])", "exp(GM_R[h, p, m1 + 1] - GM_R[h, p, m1])"),
        (":: sum[m0]", ":: max[m0]"),
        ("init SD_R[h, p, 0] = 0", "init SD_R[h, p, 0] = 1"),
        ("O_R[h, p, f, M1] / SD_R[h, p, M1]", "O_R[h, p, f, M1] / GM_R[h, p, M1]"),
    ],
)
def test_the_search_tells_cascades_apart(old, new):
    text = str(derived("attention"))
    assert old in text
    changed = parse(text.replace(old, new))
    assert bijection(without_scale(changed), equations(published()), {}) is None

"""Tiles and counts of predicates against brute force, with an evaluator of its own."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.einsum_ir.frontend.notation import parse_expr
from penstock.einsum_ir.nodes import Access, Apply, Num, Var
from penstock.einsum_ir.regions.bounds import box_status
from penstock.einsum_ir.regions.normal import Congruent, normal_form
from penstock.einsum_ir.regions.tiling import Run, Tile, classify, classify_heads
from penstock.errors import CascadeError, DataError, UnknownNameError

MILLION = 1 << 20

# --- an oracle ----------------------------------------------------------------------------------

OPERATORS = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "neg": np.negative,
    "abs": np.abs,
    "sq": np.square,
    "min": np.minimum,
    "max": np.maximum,
    "clamp": lambda x, low, high: np.minimum(np.maximum(x, low), high),
    "sign": np.sign,
    "step": lambda x: x >= 0,
    "**": lambda a, b: a**b,
    "bitlen": np.vectorize(lambda x: abs(int(x)).bit_length(), otypes=[np.int64]),
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
    "and": lambda a, b: (a != 0) & (b != 0),
    "or": lambda a, b: (a != 0) | (b != 0),
    "not": lambda a: a == 0,
}


def worth(expr, at, tables):
    """The value and the presence of an expression at points."""
    match expr:
        case Num(value):
            return np.asarray(value), np.asarray(True)
        case Var(name):
            return at[name], np.asarray(True)
        case Access(tensor, indices):
            parts = [worth(index, at, tables) for index in indices]
            present, places = np.asarray(True), []
            for (place, there), extent in zip(parts, tables[tensor].shape, strict=True):
                present = present & there & (place >= 0) & (place < extent)
                places.append(np.clip(place, 0, extent - 1))
            return tables[tensor][tuple(places)], present
        case Apply("where", args):
            (test, a), (yes, b), (no, c) = (worth(arg, at, tables) for arg in args)
            return np.where(test != 0, yes, no), a & np.where(test != 0, b, c)
        case Apply("fill", args):
            (inner, a), (instead, b) = (worth(arg, at, tables) for arg in args)
            return np.where(a, inner, instead), a | b
        case Apply("//" | "%", args):
            (value, a), (divisor, b) = (worth(arg, at, tables) for arg in args)
            safe = np.where(divisor == 0, 1, divisor)
            result = value // safe if expr.op == "//" else value % safe
            return result, a & b & (divisor != 0)
        case Apply(op, args):
            parts = [worth(arg, at, tables) for arg in args]
            present = np.asarray(True)
            for _, there in parts:
                present = present & there
            value = OPERATORS[op](*(value for value, _ in parts))
            return value.astype(np.int64) if value.dtype == bool else value, present
    raise AssertionError(expr)


def held_at(pred, extents, tables=None, start=None):
    """Where a predicate holds in a box that starts at some coordinates."""
    names, start = list(extents), start or {}
    at = {
        name: start.get(name, 0)
        + np.arange(extents[name]).reshape([-1 if each == name else 1 for each in names])
        for name in names
    }
    value, present = worth(pred, at, tables or {})
    return np.broadcast_to((value != 0) & present, tuple(extents.values()))


def codes_of(held, tiles):
    some, every = held, held
    for axis, tile in enumerate(tiles):
        starts = np.arange(0, held.shape[axis], tile)
        some = np.logical_or.reduceat(some, starts, axis=axis)
        every = np.logical_and.reduceat(every, starts, axis=axis)
    return np.where(every, Tile.FULL, np.where(some, Tile.PARTIAL, Tile.EMPTY))


def check(pred, extents, tiles, tables=None, small=0):
    """Compare a whole tiling with brute force."""
    if isinstance(pred, str):
        pred = parse_expr(pred)
    found = classify(pred, extents, tiles=tiles, tables=tables, small=small)
    held = held_at(pred, extents, tables)
    codes = codes_of(held, [tiles.get(name, extents[name]) for name in extents])
    np.testing.assert_array_equal(found.codes(), codes, err_msg=str(pred))
    numbers = (found.volume, found.points, found.empty, found.partial, found.full)
    expected = (held.size, held.sum(), *((codes == kind).sum() for kind in Tile))
    assert numbers == expected, f"{pred} over {extents}"
    return found


# --- random predicates --------------------------------------------------------------------------

NAMES = ("h", "p", "m", "q")


def number(draw, names, depth):
    """A random whole number of coordinates; `draw` is a `random.Random`."""
    kind = draw.randrange(14 if depth else 3)
    if kind < 2:
        return Var(draw.choice(names))
    if kind == 2:
        return Num(draw.randint(-3, 9))
    first, second = (number(draw, names, depth - 1) for _ in range(2))
    match kind:
        case 3 | 4 | 8:
            return Apply(draw.choice(["+", "-", "min", "max"]), (first, second))
        case 5:
            return Apply("*", (Num(draw.randint(-2, 3)), first))
        case 6 | 7:
            divisor = draw.choice([Num(2), Num(3), Num(4), Num(6), Num(-2), second])
            return Apply(draw.choice(["//", "%"]), (first, divisor))
        case 9:
            return Apply("abs", (first,))
        case 10:
            low = draw.randint(0, 3)
            return Apply("clamp", (first, Num(low), Num(low + draw.randint(0, 6))))
        case 11:
            return Apply("where", (predicate(draw, names, depth - 1), first, second))
        case 12:
            return Apply("bitlen", (first,))
    power = Apply("**", (Num(2), Apply("bitlen", (first,))))
    return draw.choice([power, Apply("sq", (first,)), Apply("fill", (first, second))])


def predicate(draw, names, depth):
    """A random predicate."""
    kind = draw.randrange(6) if depth > 0 else 5
    if kind < 2:
        parts = predicate(draw, names, depth - 1), predicate(draw, names, depth - 1)
        return Apply(("and", "or")[kind], parts)
    if kind == 2:
        return Apply("not", (predicate(draw, names, depth - 1),))
    left, right = number(draw, names, min(depth, 2)), number(draw, names, min(depth, 1))
    return Apply(draw.choice(["<", "<=", ">", ">=", "==", "!="]), (left, right))


@st.composite
def spaces(draw):
    """Variables with extents and tiles, and 20 predicates over them.

    The predicates come from a seed: drawing each node by hypothesis takes longer than the test.
    """
    names = NAMES[: draw(st.sampled_from([2, 2, 3, 4]))]
    most = {2: 40, 3: 12, 4: 6}[len(names)]
    extents = {name: draw(st.integers(1, most)) for name in names}
    tiles = {name: draw(st.sampled_from([1, 2, 3, 4, 8, 40])) for name in names}
    tiles = {name: min(tile, extents[name]) for name, tile in tiles.items()}
    seeded = random.Random(draw(st.integers(0, 1 << 32)))
    return extents, tiles, [predicate(seeded, names, 3) for _ in range(20)]


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(spaces())
def test_10_000_random_predicates(space):
    extents, tiles, preds = space
    for pred in preds:
        check(pred, extents, tiles)


@settings(max_examples=40, deadline=None)
@given(spaces())
def test_small_parts_are_looked_at_with_the_same_result(space):
    extents, tiles, preds = space
    for pred in preds:
        check(pred, extents, tiles, small=1 << 12)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(spaces())
def test_the_normal_form_means_the_same(space):
    extents, _, preds = space
    extents = {name: min(extent, 8) for name, extent in extents.items()}
    for pred in preds:
        try:
            form = normal_form(pred, extents)
        except CascadeError as refused:  # rare, and not wrong
            if "has too many cases" not in refused.what:
                raise
            continue
        for case in form.cases:
            assert case or len(form.cases) == 1
        np.testing.assert_array_equal(
            held_at(form.expr, extents), held_at(pred, extents), err_msg=f"{pred}\n{form}"
        )


# --- large spaces -------------------------------------------------------------------------------

LARGE = [
    ("m <= p", MILLION * (MILLION + 1) // 2),
    ("m <= p and p - m < 4096", 4096 * MILLION - 4096 * 4095 // 2),
    ("0 <= m - clamp(p - 64, 0, M - 129) < 129", 129 * MILLION),
    ("0 <= m//16 - clamp(p//16 - 6, 0, M//16 - 13) < 13 and (p - m) % 16 == 0", 13 * MILLION),
    ("p//64 == m//64", 64 * MILLION),
    ("abs(p//1024 - m//1024) <= 3 and abs(p%1024 - m%1024) <= 3", (7 * 1024 - 12) ** 2),
    ("m <= p and (p - m) % 3 == 0 or m < 0", None),
    ("m <= p and (p//64 - m//64 < 16 or (m//64) % 16 == 3)", None),
    ("m <= p and (p//48 - m//48 < 16 or (m//48) % 16 == 3)", None),
    ("abs(2*p - 3*m) <= 500", None),
]


@pytest.mark.parametrize(("text", "points"), LARGE)
def test_a_million_by_a_million(text, points):
    extents, tile = {"p": MILLION, "m": MILLION}, 128
    found = classify(text, extents, tiles={"p": tile, "m": tile})
    assert found.empty + found.full + found.partial == 8192**2
    if points is not None:
        assert found.points == points
    places = np.random.default_rng(0).integers(0, 8190, size=(6, 2)).tolist()
    pred = parse_expr(text.replace("M", str(MILLION)))
    for p, m in [(0, 0), (8190, 8190), (4000, 3970), (4000, 4000), *places]:
        codes = found.codes({"p": (p, p + 2), "m": (m, m + 2)})
        box = {"p": 2 * tile, "m": 2 * tile}
        held = held_at(pred, box, start={"p": p * tile, "m": m * tile})
        np.testing.assert_array_equal(codes, codes_of(held, [tile, tile]), err_msg=f"{p}, {m}")


def test_neighbourhoods_are_products():
    one = "(y - u) % 16 == 0 and 0 <= u//16 - clamp(y//16 - 6, 0, LD - 13) < 13"
    other = one.replace("y", "x").replace("u", "v")
    tiles = dict.fromkeys("yuxv", 128)
    single = classify(
        one,
        dict.fromkeys("yu", MILLION),
        symbols={"LD": MILLION // 16},
        tiles=tiles_of(tiles, "yu"),
    )
    both = classify(
        f"{one} and {other}",
        dict.fromkeys("yxuv", MILLION),
        symbols={"LD": MILLION // 16},
        tiles=tiles,
    )
    assert both.points == single.points**2 == (13 * MILLION) ** 2
    assert both.partial + both.full == (single.partial + single.full) ** 2
    either = classify(
        "m <= p or u <= y", dict.fromkeys("pmyu", 64), tiles=dict.fromkeys("pmyu", 8), small=0
    )
    half = classify("m <= p", dict.fromkeys("pm", 64), tiles=dict.fromkeys("pm", 8))
    assert either.volume - either.points == (half.volume - half.points) ** 2
    assert either.empty == half.empty**2


def tiles_of(tiles, names):
    return {name: tiles[name] for name in names}


# --- tables and heads ---------------------------------------------------------------------------

TABLES = {
    "D": np.repeat(np.arange(7), [5, 1, 9, 12, 3, 20, 14]),
    "W": np.array([3, 0, 17, 3]),
    "F": np.array([0.5, 2.25, 40.0, 1.0]),
    "SP": np.arange(64) % 5,
    "MT": np.random.default_rng(1).integers(0, 2, size=(5, 5)),
    "DB": np.sort(np.random.default_rng(2).integers(0, 6, size=(4, 64)), axis=1),
}


@pytest.mark.parametrize("small", [0, 1 << 20])
@pytest.mark.parametrize(
    "text",
    [
        "D[p] == D[m] and m <= p",
        "D[p] == D[m] or m < 4",
        "not D[p] == D[m]",
        "D[p] == D[m - 1]",  # the first m has no predecessor
        "fill(D[m - 1], -1) != D[m] and p >= m",
        "D[p//2] <= m",
        "MT[SP[p], SP[m]] > 0",
        "MT[SP[p], D[m]] > 0",  # the documents 5 and 6 are out of range
        "m <= p and p - m < W[h]",
        "(p - m) % W[h] == 0",  # W[1] is 0: absent
        "(p - m) % max(W[h], 1) == 0 and h < 3",
        "(p - m) % 2**h == 0",
        "p - m < F[h] * 2",
        "DB[h, p] == DB[h, m]",
        "h*p <= m",
        "p*m <= 100",
        "W[h] + m // (p - 3) > 4",
    ],
)
def test_tables(text, small):
    names = [name for name in ("h", "p", "m") if name in text]
    extents = {"h": 4, "p": 64, "m": 64}
    check(
        text,
        {name: extents[name] for name in names},
        {name: {"h": 1, "p": 16, "m": 12}[name] for name in names},
        TABLES,
        small,
    )


def test_heads_that_are_alike_are_one_tiling():
    tables = {"W": np.array([128, 4096, 128, 0])}
    sizes = {"h": 4, "p": MILLION, "m": MILLION}
    text, tiles = "m <= p and p - m < W[h]", {"p": 128, "m": 128}
    heads = classify_heads(text, "h", sizes, tables=tables, tiles=tiles)
    expected = [w * MILLION - w * (w - 1) // 2 for w in tables["W"].tolist()]
    assert list(heads.points) == expected
    assert heads.tilings[0] is heads.tilings[2]
    assert str(heads).splitlines()[0] == "4 coordinates of h, 3 kinds:"
    assert str(heads).splitlines()[1].startswith("  h = 0, 2: m <= p and p - m < 128 over p:")
    together = classify(text, sizes, tables=tables, tiles={**tiles, "h": 1})
    assert together.points == sum(expected)
    assert together.partial == sum(each.partial for each in heads.tilings)


def test_documents_of_a_million_tokens():
    ends = np.sort(np.random.default_rng(0).choice(MILLION, 300, replace=False))
    lengths = np.diff([0, *ends, MILLION])
    tables = {"D": np.repeat(np.arange(301), lengths)}
    text = "D[p] == D[m] and m <= p"
    found = classify(text, {"p": MILLION, "m": MILLION}, tables=tables, tiles={"p": 128, "m": 128})
    assert found.points == int((lengths * (lengths + 1) // 2).sum())


# --- what comes out -----------------------------------------------------------------------------


def test_a_row_is_read_without_the_rest():
    found = classify(
        "m <= p and p - m < 512", {"p": MILLION, "m": MILLION}, tiles={"p": 128, "m": 128}
    )
    assert found.row(100) == (
        Run(0, 95, Tile.EMPTY),
        Run(96, 96, Tile.PARTIAL),
        Run(97, 99, Tile.FULL),
        Run(100, 100, Tile.PARTIAL),
        Run(101, 8191, Tile.EMPTY),
    )
    assert str(found.row(100)[2]) == "97..99 full"
    assert str(found) == (
        "m <= p and p - m < 512 over p:1048576/128 x m:1048576/128: 536740096 of 1099511627776"
        " points; 67108864 tiles: 67067914 empty, 24570 full, 16380 partial"
    )


def test_without_tiles_the_space_is_one_tile():
    found = classify(None, {"p": 3, "m": 5})
    assert (found.points, found.full, found.grid) == (15, 1, (1, 1))
    assert classify("m < 2", {"m": 5, "p": 3}).codes().tolist() == [[Tile.PARTIAL]]
    assert classify("0 > 1", {"m": 5}, tiles={"m": 2}).empty == 3


def normal(text, **extents):
    return str(normal_form(text, extents))


def test_the_normal_form_prints():
    assert normal("m <= p and p - m < 4096", m=9999, p=9999) == "m <= p and p <= m + 4095"
    assert normal("abs(p - m) <= 3 or m < 2", m=99, p=99) == (
        "p <= m + 3 and m <= p + 3\n or m <= 1"
    )
    form = normal_form("(p - m) % 4 == 1 and p//8 == m//B", {"p": 99, "m": 99}, {"B": 8})
    assert str(form) == "(p - m) % 4 == 1 and p // 8 == m // 8"
    assert isinstance(form.cases[0][0], Congruent)
    assert (form.cases[0][0].modulus, form.cases[0][0].residue) == (4, 1)
    assert normal("bitlen(m) == 3", m=99) == "4 <= m and m <= 7"
    assert normal("m*p <= 12", m=99, p=3) == "p <= 0\n or p == 1 and m <= 12\n or 2 <= p and m <= 6"
    assert normal("m <= 1.5*p", m=9, p=9) == "2 * m <= 3 * p"
    assert normal("where(m < 4, p, 2*p) > 2", m=9, p=9) == (
        "m <= 3 and 3 <= p\n or 4 <= m and 2 <= p"
    )
    assert normal("m >= 0", m=9) == "always"
    assert normal("m > 9", m=9) == "never"


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: classify("n < 2", {"m": 4}), UnknownNameError, "unknown variable 'n' (known: m)"),
        (
            lambda: classify("m < B", {"m": 4}),
            CascadeError,
            "the predicate reads B, which has no value",
        ),
        (
            lambda: classify("D[m] < 2", {"m": 4}),
            UnknownNameError,
            "unknown table 'D' (known: none)",
        ),
        (
            lambda: classify("D[m] < 2", {"m": 4}, tables={"D": np.zeros((4, 4))}),
            DataError,
            "D[m] has 1 indices, the table 2 axes",
        ),
        (lambda: classify("m < 2", {"m": 0}), DataError, "the extent of m is 0"),
        (lambda: classify("m < 2", {"m": 4}, tiles={"m": 0}), DataError, "the tile of m is 0"),
        (lambda: classify("m < 2", {"m": 4}, tiles={"n": 2}), UnknownNameError, "variable 'n'"),
        (
            lambda: classify("m < 2", {"m": MILLION}, tiles={"m": 1}).row(3),
            DataError,
            "a row has 0 tile numbers, 1 given",
        ),
        (
            lambda: classify("m < 2", {"m": 10**9}, tiles={"m": 1}).codes(),
            DataError,
            "1000000000 tiles are too many for one array",
        ),
        (lambda: classify_heads("m < 2", "h", {"m": 4}), UnknownNameError, "variable 'h'"),
        (
            lambda: normal_form("D[m] < 2", {"m": 4}),
            CascadeError,
            "D[m] < 2 reads a tensor, so that it has no normal form",
        ),
        (
            lambda: normal_form("m*p < 2", {"m": 999, "p": 999}),
            CascadeError,
            "m * p is not quasi-affine, and m has 999 values",
        ),
    ],
)
def test_errors(call, error, text):
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)


@pytest.mark.parametrize("tile", [8, 16, 32])
@pytest.mark.parametrize(
    "text",
    [
        "m <= p",
        "m <= p and p - m < 100",
        "(p - m) % 4 == 0 and m <= p",
        "(p - m) % 48 == 0 and m <= p",
        "0 <= m - clamp(p - 10, 0, M - 21) < 21",
        "m <= p and (p//16 - m//16 < 3 or (m//16) % 4 == 0)",
        "(p - m) % 4 == 0 and 0 <= m//4 - clamp(p//4 - 6, 0, M//4 - 13) < 13",
        "abs(p//32 - m//32) <= 3 and abs(p%32 - m%32) <= 3",
        "m <= p and (m < 16 or p - m < 64)",
    ],
)
def test_the_bounds_that_programs_test_miss_no_empty_tile_of_these(text, tile):
    extents = {"p": 256, "m": 256}
    codes = classify(text, extents, tiles={"p": tile, "m": tile}).codes()
    first = np.arange(0, 256, tile)
    low = {"p": first[:, None], "m": first[None]}
    high = {name: start + tile - 1 for name, start in low.items()}
    status = box_status(parse_expr(text), low, high, {"M": 256})
    np.testing.assert_array_equal(status < 0, codes == Tile.EMPTY)

"""Small programs of the statement IR, written by hand, for the tests of the TVM backends."""

from penstock.codegen.loops.nodes import (
    Alloc,
    Block,
    Buffer,
    Const,
    For,
    If,
    Load,
    Name,
    Op,
    Program,
    Store,
)
from penstock.einsum_ir.formats import parse_format


def num(value):
    return Const(value, True)


def val(value):
    return Const(value)


def _index(each):
    return Name(each) if isinstance(each, str) else each


def load(buffer, *indices):
    return Load(buffer, tuple(_index(each) for each in indices))


def store(buffer, indices, value):
    return Store(buffer, tuple(_index(each) for each in indices), value)


def op(name, *args):
    return Op(name, tuple(_index(each) for each in args))


def loop(variable, extent, body, kind="", **more):
    body = body if not isinstance(body, list) else Block(tuple(body))
    extent = num(extent) if isinstance(extent, int) else extent
    return For(variable, extent, body, kind, **more)


def alloc(name, shape, body, kind="data"):
    return Alloc(Buffer(name, shape, kind), Block(tuple(body)) if isinstance(body, list) else body)


def program(name, inputs, outputs, body, fmt="fp32"):
    """Inputs and outputs: name → shape; the body may be a list."""
    body = Block(tuple(body)) if isinstance(body, list) else body
    return Program(
        name,
        tuple(Buffer(each, shape) for each, shape in inputs.items()),
        tuple(Buffer(each, shape) for each, shape in outputs.items()),
        body,
        parse_format(fmt),
    )


def causal_softmax(rows, columns, *, fmt="fp32", kind="core", lanes=""):
    """S[p, m] = softmax over m <= p of T[p, m]; named T, as TVMScript's own T."""

    def present(name):
        return op("<=", name, "p")

    body = [
        store("g", (), val(float("-inf"))),
        loop(
            "m",
            columns,
            If(present("m"), store("g", (), op("max", load("g"), load("T", "p", "m")))),
        ),
        store("d", (), val(0.0)),
        loop(
            "m1",
            columns,
            If(
                present("m1"),
                store(
                    "d", (), op("+", load("d"), op("exp", op("-", load("T", "p", "m1"), load("g"))))
                ),
            ),
        ),
        loop(
            "m2",
            columns,
            store(
                "S",
                ("p", "m2"),
                op(
                    "where",
                    present("m2"),
                    op("/", op("exp", op("-", load("T", "p", "m2"), load("g"))), load("d")),
                    val(0.0),
                ),
            ),
            lanes,
        ),
    ]
    inner = alloc("g", (), alloc("d", (), body, "acc"), "acc")
    shape = (rows, columns)
    return program(
        "softmax", {"T": shape}, {"S": shape}, loop("p", rows, inner, kind, comment="for p"), fmt
    )


def attention(
    heads, queries, keys, width, values, *, tile=8, fmt="fp32", kinds=("block", "thread")
):
    """Three leaves that share a tile of logits: what is parallel differs between them."""
    outer, inner = kinds

    def row(name):
        return op("+", op("*", "pb", num(tile)), name)

    def there(name):
        return op("<", row(name), num(queries))

    dot = op(
        "+", load("L", "p", "m"), op("*", load("Q", "h", row("p"), "e"), load("K", "h", "m", "e"))
    )
    logits = loop(
        "p",
        tile,
        loop(
            "m",
            keys,
            [
                store("L", ("p", "m"), val(0.0)),
                If(there("p"), loop("e", width, store("L", ("p", "m"), dot))),
            ],
            inner,
        ),
        inner,
        comment="logits",
    )
    greatest = loop(
        "p2",
        tile,
        [
            store("G", ("p2",), val(float("-inf"))),
            loop(
                "m2", keys, store("G", ("p2",), op("max", load("G", "p2"), load("L", "p2", "m2")))
            ),
        ],
        inner,
    )
    term = op("exp", op("-", load("L", "p3", "m3"), load("G", "p3")))
    update = [
        store("s", (), term),
        store("n", (), op("+", load("n"), op("*", load("s"), load("V", "h", "m3", "f")))),
        store("d", (), op("+", load("d"), load("s"))),
    ]
    point = [
        store("n", (), val(0.0)),
        store("d", (), val(0.0)),
        loop("m3", keys, alloc("s", (), update)),
        store("O", ("h", row("p3"), "f"), op("/", load("n"), load("d"))),
    ]
    weighted = loop(
        "p3",
        tile,
        If(there("p3"), loop("f", values, alloc("n", (), alloc("d", (), point, "acc"), "acc"))),
        inner,
    )
    tiles = loop(
        "h",
        heads,
        loop(
            "pb",
            -(-queries // tile),
            alloc(
                "L", (tile, keys), alloc("G", (tile,), [logits, greatest, weighted], "acc"), "acc"
            ),
            outer,
        ),
        outer,
    )
    zero = loop(
        "zh",
        heads,
        loop("zp", queries, loop("zf", values, store("O", ("zh", "zp", "zf"), val(0.0)))),
    )
    return program(
        "attn",
        {"Q": (heads, queries, width), "K": (heads, keys, width), "V": (heads, keys, values)},
        {"O": (heads, queries, values)},
        [zero, tiles],
        fmt,
    )

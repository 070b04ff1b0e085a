"""Sinking spatial loops: the same values, and a serial loop in no spatial one."""

import numpy as np

from penstock.codegen.hls.loops import UNROLLED, is_serial, sink_spatial
from penstock.codegen.loops.interp import run_program
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
    walk_statements,
)
from penstock.einsum_ir.formats import parse_format

PLACES = 4


def whole(value):
    return Const(value, integer=True)


def at(buffer, *indices):
    return Load(buffer, tuple(map(Name, indices)))


def put(buffer, value, *indices):
    return Store(buffer, tuple(map(Name, indices)), value)


def rows(inner, extent=None, guard=None):
    """Y[p] = sum over m of X[p, m]: one row a place, each with a register of its own."""
    step = For("m", extent or whole(6), inner)
    body = Block((put("acc", Const(0.0)), step, put("Y", at("acc"), "p")))
    local = Alloc(Buffer("acc", (), "acc"), body)
    guarded = If(guard, local) if guard else local
    places = For("p", whole(PLACES), guarded, kind="pe", axis="grid.lanes")
    zero = For("z", whole(PLACES), put("Y", Const(7.0), "z"))
    buffers = (Buffer("X", (PLACES, 6)),), (Buffer("Y", (PLACES,)),)
    return Program("rows", *buffers, Block((zero, places)), parse_format("fp64"))


ADD = put("acc", Op("+", (at("acc"), at("X", "p", "m"))))
X = np.arange(24.0).reshape(4, 6) / 8


def contained(program):
    """Serial loops that stand in a spatial one."""
    return [
        inner.variable
        for outer in walk_statements(program.body)
        if isinstance(outer, For) and outer.kind in UNROLLED
        for inner in walk_statements(outer.body)
        if is_serial(inner)
    ]


def same_after_sinking(program):
    sunk = sink_spatial(program)
    variables = [s.variable for s in walk_statements(sunk.body) if isinstance(s, For)]
    assert len(set(variables)) == len(variables)
    before, after = (run_program(each, {"X": X})["Y"] for each in (program, sunk))
    np.testing.assert_array_equal(before, after)
    return sunk, after


def test_a_serial_loop_comes_out_and_registers_become_an_array():
    assert contained(rows(ADD)) == ["m"]
    sunk, values = same_after_sinking(rows(ADD))
    assert contained(sunk) == []
    np.testing.assert_array_equal(values, X.sum(axis=1))
    shapes = [s.buffer.shape for s in walk_statements(sunk.body) if isinstance(s, Alloc)]
    assert shapes == [(PLACES,)]


def test_conditions_go_along_with_their_places():
    guard = Op("<", (Name("p"), whole(3)))
    inner = If(Op("!=", (Name("m"), Name("p"))), ADD)
    sunk, values = same_after_sinking(rows(inner, guard=guard))
    assert contained(sunk) == []
    wanted = (X * (1 - np.eye(4, 6))).sum(axis=1)
    np.testing.assert_array_equal(values, [*wanted[:3], 7])


def test_a_loop_whose_length_depends_on_the_place_stays():
    program = rows(ADD, extent=Op("+", (Name("p"), whole(1))))
    sunk, values = same_after_sinking(program)
    assert contained(sunk) == ["m"]
    np.testing.assert_array_equal(values, [X[p, : p + 1].sum() for p in range(4)])


def test_a_condition_that_its_own_body_changes_stays():
    again = put("acc", Op("-", (at("acc"), at("X", "p", "m"))))
    loop = For("m", whole(6), again)
    test = If(Op(">=", (at("acc"), Const(0.0))), loop)
    body = Block((put("acc", Const(1.0)), test, put("Y", at("acc"), "p")))
    local = Alloc(Buffer("acc", (), "acc"), body)
    places = For("p", whole(PLACES), local, kind="pe", axis="grid.lanes")
    buffers = (Buffer("X", (PLACES, 6)),), (Buffer("Y", (PLACES,)),)
    program = Program("once", *buffers, places, parse_format("fp64"))
    sunk, values = same_after_sinking(program)
    assert contained(sunk) == ["m"]
    np.testing.assert_array_equal(values, 1 - X.sum(axis=1))


def test_nested_places_get_one_index_each():
    step = For("m", whole(6), put("acc", Op("+", (at("acc"), at("X", "p", "m")))))
    own = Alloc(
        Buffer("acc", (), "acc"),
        Block((put("acc", Const(0.0)), step, put("Z", at("acc"), "p", "q"))),
    )
    lanes = {"kind": "pe", "axis": "grid.lanes"}
    body = For("p", whole(PLACES), For("q", whole(2), own, **lanes), **lanes)
    out = For("o", whole(PLACES), put("Y", Load("Z", (Name("o"), whole(1))), "o"))
    buffers = (Buffer("X", (PLACES, 6)),), (Buffer("Y", (PLACES,)),)
    whole_body = Alloc(Buffer("Z", (PLACES, 2)), Block((body, out)))
    program = Program("nested", *buffers, whole_body, parse_format("fp64"))
    sunk, _ = same_after_sinking(program)
    assert contained(sunk) == []
    shapes = [s.buffer.shape for s in walk_statements(sunk.body) if isinstance(s, Alloc)]
    assert shapes == [(PLACES, 2), (PLACES, 2)]


def test_a_program_without_places_is_left_alone():
    body = For("i", whole(4), put("Y", Const(1.0), "i"))
    program = Program("plain", (), (Buffer("Y", (4,)),), body, parse_format("fp64"))
    assert sink_spatial(program) == program

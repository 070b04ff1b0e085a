"""Nests of loops that hardware pipelines: the same values, fewer cycles, fewer lines."""

import numpy as np
import pytest
from test_hls import at, whole

from penstock import generate, zoo
from penstock.codegen.hls import generate as hls
from penstock.codegen.hls.loops import has_serial, is_serial
from penstock.codegen.hls.pragmas import HlsNotes
from penstock.codegen.loops.interp import run_program
from penstock.codegen.loops.nodes import (
    Alloc,
    Block,
    Buffer,
    Const,
    For,
    If,
    Name,
    Op,
    Program,
    Store,
    walk_statements,
)
from penstock.design import explore, remap, sample
from penstock.einsum_ir.formats import parse_format
from penstock.mapper.notation import parse_mapping
from penstock.pipelines import kernel_timing

LANES = {"kind": "pe", "axis": "grid.lanes"}
FIXED = parse_format("fixed<16,6>")


def program(body, inputs, outputs, fmt="fixed<16,6>"):
    bits = (38, 18) if fmt.startswith("fixed") else (0, 0)
    return Program("made", tuple(inputs), tuple(outputs), body, parse_format(fmt), bits)


def hbm(name, *shape):
    return Buffer(name, shape, "data", "hbm")


def plus(*parts):
    total = parts[0]
    for each in parts[1:]:
        total = Op("+", (total, each))
    return total


def times(name, factor):
    return Op("*", (Name(name), whole(factor)))


def same(made):
    """Return the shaped program, which computes what the program does."""
    shaped, _ = hls.shaped(made)
    rng = np.random.default_rng(0)
    inputs = {each.name: rng.integers(-64, 65, each.shape) / 16 for each in made.inputs}
    wanted, got = run_program(made, inputs), run_program(shaped, inputs)
    for name, values in wanted.items():
        np.testing.assert_array_equal(got[name], values)
    return shaped


def nests(made):
    """Return the innermost loops in time, each with those that are one with it, by extent."""
    serial = [each for each in walk_statements(made.body) if is_serial(each)]
    return [each for each in serial if not has_serial(each.body)]


CASES = (
    ("gqa_causal_1pass", {"h": 4, "g": 2, "p": 7, "m": 7, "e": 5, "f": 3, "m0": 3}),
    ("sliding_window", {"h": 2, "p": 9, "m": 9, "e": 5, "f": 3}),
    ("attention_1pass", {"b": 1, "h": 3, "p": 6, "m": 8, "e": 4, "f": 4, "m0": 4}),
    ("gla", {"h": 2, "t": 7, "e": 5, "f": 3}),
)


@pytest.mark.parametrize(("name", "shapes"), CASES)
def test_designs_compute_the_same(name, shapes):
    searched, _ = explore(zoo.load(name), "u280", shapes=shapes, fmt=FIXED)
    plain = remap(zoo.load(name), "u280", shapes=shapes, fmt=parse_format("fp32"))
    for design in (searched, plain):
        inputs = sample(design)
        shaped, _ = hls.shaped(design.program())
        got, wanted = run_program(shaped, inputs), run_program(design.program(), inputs)
        for output, values in wanted.items():
            np.testing.assert_array_equal(got[output], values, err_msg=str(design.mapping))


def test_units_take_turns_side_by_side():
    """12 heads on 8 units: two turns of 6; 7 on 4: two turns of 4, the last place idle."""
    for heads, units, turns, beside in ((12, 8, 2, 6), (7, 4, 2, 4), (3, 8, None, 3)):
        body = For(
            "h", whole(heads), Store("Y", (Name("h"),), at("X", "h")), "core", "a.u", places=units
        )
        loops = list(
            walk_statements(same(program(body, [hbm("X", heads)], [hbm("Y", heads)])).body)
        )
        found = [(e.kind, int(e.extent.value)) for e in loops if isinstance(e, For)]
        assert found == [*([("", turns)] if turns else []), ("pe", beside)]


def row_sums(guard=None, fmt="fixed<16,6>"):
    """Y[m] = sum over e of X[m, e], for m up to p; in registers."""
    add = Store("acc", (), plus(at("acc"), at("XL", "m", "e")))
    step = Block(
        (
            Store("acc", (), Const(0.0)),
            For("e", whole(8), add),
            Store("S", (Name("m"),), at("acc")),
        )
    )
    local = Alloc(Buffer("acc", (), "acc"), step)
    rows = For("m", whole(4), local if guard is None else If(guard, local))
    load = For(
        "i", whole(4), For("j", whole(8), Store("XL", (Name("i"), Name("j")), at("X", "i", "j")))
    )
    leave = For("o", whole(4), Store("Y", (Name("p"), Name("o")), at("S", "o")))
    zero = For("z", whole(4), Store("S", (Name("z"),), Const(0.0)))
    body = Block((load, For("p", whole(3), Block((zero, rows, leave)))))
    for buffer in (Buffer("XL", (4, 8), memory="bram"), Buffer("S", (4,), memory="bram")):
        body = Alloc(buffer, body)
    return program(body, [hbm("X", 4, 8)], [hbm("Y", 3, 4)], fmt)


def test_what_runs_once_around_a_loop_goes_into_its_first_and_last_step():
    made = row_sums()
    (inner,) = [each for each in nests(same(made)) if each.variable == "e"]
    tests = [each.condition for each in walk_statements(inner.body) if isinstance(each, If)]
    assert tests[1:3] == [Op("==", (Name("e"), whole(0))), Op("==", (Name("e"), whole(7)))]
    begins = (Op("==", (Name("m"), whole(0))), Op("==", (Name("e"), whole(0))))
    assert tests[0] == Op("and", begins)  # what runs once around both loops
    timing = kernel_timing(made, 300e6)
    assert ("compute", "p, m, e", 1, "a step each cycle", 3 * 32) in timing.loops


def test_a_sum_of_floats_is_not_reset_inside():
    (inner,) = [each for each in nests(same(row_sums(fmt="fp32"))) if each.variable == "e"]
    assert isinstance(inner.body, Store)


def loop_of(made, variable):
    loops = (each for each in walk_statements(made.body) if isinstance(each, For))
    return next(each for each in loops if each.variable == variable)


def test_a_condition_that_only_ends_a_loop_becomes_its_end():
    made = row_sums(Op("<=", (times("m", 2), Name("p"))))
    (rows,) = [
        e for e in walk_statements(same(made).body) if isinstance(e, For) and e.variable == "m"
    ]
    assert rows.extent == plus(Op("//", (Name("p"), whole(2))), whole(1))
    assert not any(isinstance(each, If) for each in (rows.body, rows.body.body))
    begins = row_sums(Op(">=", (times("m", 2), Name("p"))))
    (rows,) = [
        e for e in walk_statements(same(begins).body) if isinstance(e, For) and e.variable == "m"
    ]
    assert rows.extent == whole(4)


def test_conditions_that_hold_anyway_are_left_out():
    inside = If(Op("<=", (times("m", 2), Name("p"))), Store("Y", (Name("m"),), Const(1.0)))
    body = For("p", whole(3), For("m", Op("min", (whole(4), plus(Name("p"), whole(1)))), inside))
    made = same(program(body, [], [hbm("Y", 4)]))
    assert any(isinstance(each, If) for each in walk_statements(made.body))  # p is no end of 2 m
    loose = If(Op("<=", (times("m", 2), plus(times("p", 2), whole(1)))), inside.body)
    body = For("p", whole(3), For("m", Op("min", (whole(4), plus(Name("p"), whole(1)))), loose))
    made = same(program(body, [], [hbm("Y", 4)]))
    assert not any(isinstance(each, If) for each in walk_statements(made.body))


def chain(read):
    """T = 2 X, then Y = T at an index."""
    first = For("a", whole(8), Store("T", (Name("a"),), Op("*", (at("XL", "a"), Const(2.0)))))
    second = For("b", whole(8), Store("U", (Name("b"),), at("T", read)))
    load = For("i", whole(8), Store("XL", (Name("i"),), at("X", "i")))
    leave = For("o", whole(8), Store("Y", (Name("o"),), at("U", "o")))
    body = Block((load, Block((first,), "T on grid"), Block((second,), "U on grid"), leave))
    for name in ("XL", "T", "U"):
        body = Alloc(Buffer(name, (8,), memory="bram"), body)
    return program(body, [hbm("X", 8)], [hbm("Y", 8)])


def test_neighbours_become_one_where_each_needs_its_own_step_only():
    def headings(made):
        blocks = (each for each in walk_statements(made.body) if isinstance(each, Block))
        return [each.comment for each in blocks if each.comment]

    assert headings(same(chain("b"))) == ["T, U on grid"]
    apart = chain(Op("-", (whole(7), Name("b"))))
    assert headings(same(apart)) == ["T on grid", "U on grid"]


def test_columns_are_collected_and_leave_in_rows():
    """Y[p, f] for 16 p side by side: 16 words a step, or a tile of 16 rows of one word."""
    value = Op("*", (at("XL", "f"), Const(2.0)))
    store = Store("Y", (plus(times("t", 16), Name("p")), Name("f")), value)
    step = For("f", whole(32), For("p", whole(16), store, **LANES))
    load = For("i", whole(32), Store("XL", (Name("i"),), at("X", "i")))
    body = Alloc(Buffer("XL", (32,), memory="bram"), Block((load, For("t", whole(2), step))))
    made = program(body, [hbm("X", 32)], [hbm("Y", 32, 32)])
    same(made)
    tasks = hls.tasks_of(made)
    assert [each.name for each in tasks.tasks] == ["read_X", "compute", "write_Y"]
    assert {s.tensor: s.lanes for s in tasks.streams.values()} == {"X": 32, "Y_rows": 16}
    loops = {(t, loop): interval for t, loop, interval, _, _ in kernel_timing(made, 300e6).loops}
    assert all(interval == 1 for interval in loops.values()), loops


def test_strides_of_places_become_dimensions():
    """Places 16 apart and side by side: one dimension would need a bank for each element."""

    def index(*terms):
        return plus(*(times(name, factor) if factor > 1 else Name(name) for name, factor in terms))

    element = index(("o", 64), ("i", 16), ("t", 4), ("j", 1))
    place = tuple(Name(name) for name in "otij")
    store = Store("Y", place, at("S", element, whole(1)))
    body = For("i", whole(4), For("j", whole(4), store, **LANES), **LANES)
    copy = Store("S", (Name("n"), Name("e")), at("X", "n", "e"))
    made = Alloc(
        Buffer("S", (128, 3), memory="bram"),
        Block(
            (
                For("n", whole(128), For("e", whole(3), copy)),
                For("o", whole(2), For("t", whole(4), body)),
            )
        ),
    )
    shaped = same(program(made, [hbm("X", 128, 3)], [hbm("Y", 2, 4, 4, 4)]))
    (buffer,) = [
        each.buffer
        for each in walk_statements(shaped.body)
        if isinstance(each, Alloc) and each.buffer.name == "S"
    ]
    assert buffer.shape == (8, 16, 3)
    assert HlsNotes(shaped).buffer(buffer)[0] == ("4", "4", "1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "groups", "ratio"),
    [("attention", {}, 2), ("gqa_causal_1pass", {"g": 2}, 4)],
)
def test_a_kernel_is_short_enough_to_be_read(name, groups, ratio):
    """Of 8 tiles at most, so that filling the tasks counts; larger ones: docs/hls_timing.md."""
    shapes = {"h": 4, **groups, "p": 64, "m": 64, "e": 32, "f": 32}
    design, _ = explore(zoo.load(name), "u280", shapes=shapes, fmt=FIXED)
    text = generate(design, "hls").files["kernel.cpp"]
    assert len(text.splitlines()) < 150
    assert max(map(len, text.splitlines())) <= 100
    assert kernel_timing(design.program(), 300e6).cycles < ratio * design.evaluate().latency_cycles


@pytest.mark.slow
def test_fills_of_tiles_are_short_beside_what_uses_them():
    """8 heads of 128 x 64: a project overlaps as much as its mapping's model."""
    shapes = {"h": 8, "p": 128, "m": 128, "e": 64, "f": 64}
    design, _ = explore(zoo.load("attention"), "u280", shapes=shapes, fmt=FIXED)
    timing = kernel_timing(design.program(), 300e6)
    assert timing.cycles <= 1.2 * design.evaluate().latency_cycles
    steps = {(task, loop): steps for task, loop, _, _, steps in timing.loops}
    assert steps["read_K", "h, i"] == 8 * 128 * 64 // (8 * 32)  # eight words of the port a token


def test_a_sum_that_is_rescaled_goes_with_what_is_added_to_it():
    """The rescaled sum is of stage 1 and the new one of stage 3: a task with the new one."""
    shapes = {"b": 1, "h": 2, "p": 8, "m": 16, "e": 4, "f": 4, "m0": 4}
    text = """mapping one for attention_1pass on u280
keep RM, RD, RNV in uram
for m1
  for p by 4 pipelined
    keep BQK, LM, SLD, SLNV, PRM, SPD, SPNV, SLN in uram
    BQK on pe2d: h, m0, p, e
    LM on pe1d stage 1: h, p, m0
    RM on pe1d stage 1: h, p
    SLN on pe1d stage 1: h, m0, p
    SLD on pe1d stage 1: h, p, m0
    PRM on pe1d stage 1: h, p
    SPD on pe1d stage 1: h, p
    RD on pe1d stage 1: h, p
    SPNV on pe1d stage 1: h, f, p
    SLNV on pe2d stage 2: h, f, p, m0
    RNV on pe1d stage 3: h, f, p
AV on pe1d: h, p, f
"""
    cascade = zoo.load("attention_1pass")
    design = remap(cascade, "u280", shapes=shapes, fmt=FIXED, mapping=parse_mapping(text))
    tasks = {task.name: str(task.body) for task in hls.tasks_of(design.program()).tasks}
    computing = [name for name in tasks if name.startswith("compute")]
    assert computing == [f"compute_{n}" for n in range(4)]
    assert "'SPNV'" in tasks["compute_3"]
    assert "'SPNV'" not in tasks["compute_1"]
    assert "'SPD'" in tasks["compute_1"]

"""The plan for a CPU keeps the meaning of a program: both are run with the loops interpreter."""

from dataclasses import replace

import numpy as np
import pytest
from stock import STOCK_CASCADES
from tvm_programs import attention, causal_softmax, load, loop, num, op, program, store, val

from penstock import zoo
from penstock.codegen.loops.interp import run_program
from penstock.codegen.loops.nodes import Alloc, For, Name, walk_statements
from penstock.codegen.lower.program import lower
from penstock.codegen.tvm.fuse import fused
from penstock.codegen.tvm.plan import holds, plan
from penstock.codegen.tvm.ranges import interval, moves, stride, upper
from penstock.codegen.tvm.ranges import lower as least
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.shapes import bind
from penstock.mapper.search.build import default_mapping
from penstock.runtime.streaming import streamed
from penstock.runtime.tiles import Tiles
from penstock.samples import random_inputs
from penstock.targets import TARGETS

FP64 = parse_format("fp64")
TINY = {"b": 1, "h": 2, "g": 1, "p": 13, "m": 19, "e": 3, "f": 10, "d": 5, "c": 4, "o": 3}
TINY |= {"m0": 8, "k": 9, "n": 14}


def same(made, inputs, lanes):
    planned, kinds = plan(made, lanes=lanes)
    wanted, found = run_program(made, inputs), run_program(planned, inputs)
    for name, each in wanted.items():
        assert np.abs(found[name] - each).max() <= 1e-12 * max(np.abs(each).max(), 1e-30), name
    loops = [e.variable for e in walk_statements(planned.body) if isinstance(e, For)]
    assert kinds.keys() <= set(loops)
    lanes_of = [each for each in loops if kinds.get(each) == "vectorized"]
    assert len(lanes_of) == len(set(lanes_of))
    return planned, kinds


def lowered(name, machine):
    cascade, target = zoo.load(name), TARGETS.get(machine)
    used = {rank for each in cascade.inputs for rank in each.ranks}
    used |= {each for einsum in cascade.einsums for each in einsum.variables} - {"m1"}
    constants = {"W": 5.0} if any(each == "W" for each, _ in cascade.constants) else {}
    sizes = {rank: size for rank, size in TINY.items() if rank in used}
    bound = bind(cascade, shapes=sizes, constants=constants)
    mapping = default_mapping(bound, target, FP64)
    return bound, lower(bound, mapping, target, FP64)


@pytest.mark.parametrize("lanes", [1, 2, 4])
@pytest.mark.parametrize("machine", ["cpu", "h200", "mesh4x4"])
@pytest.mark.parametrize("name", STOCK_CASCADES)
def test_a_plan_computes_what_the_program_does(name, machine, lanes):
    bound, made = lowered(name, machine)
    same(made, random_inputs(bound, FP64), lanes)


@pytest.mark.parametrize("kinds", [("core", "simd"), ("block", "thread"), ("", "")])
def test_hand_written_programs_too(kinds):
    made = attention(2, 11, 9, 5, 6, fmt="fp64", kinds=kinds)
    inputs = {each.name: np.random.default_rng(0).normal(size=each.shape) for each in made.inputs}
    _, found = same(made, inputs, 2)
    assert ("parallel" in found.values()) == (kinds[0] != "")
    made = causal_softmax(7, 12, fmt="fp64", lanes=kinds[1])
    same(made, {"T": np.random.default_rng(0).normal(size=(7, 12))}, 2)


def test_what_lanes_accumulate_stays_in_a_scalar_of_each_lane():
    """Z[m, n] += A[m, k] B[k, n] with lanes along n inside k: k goes inside the lanes."""
    product = op("*", load("A", "m", "k"), load("B", "k", "n"))
    body = loop(
        "m",
        3,
        [
            loop("z", 8, store("Z", ("m", "z"), val(0.0)), "simd"),
            loop(
                "k",
                5,
                loop("n", 8, store("Z", ("m", "n"), op("+", load("Z", "m", "n"), product)), "simd"),
            ),
        ],
    )
    made = program("matmul", {"A": (3, 5), "B": (5, 8)}, {"Z": (3, 8)}, body, "fp64")
    generator = np.random.default_rng(0)
    inputs = {each.name: generator.normal(size=each.shape) for each in made.inputs}
    planned, _ = same(made, inputs, 8)
    (sums,) = [e.buffer for e in walk_statements(planned.body) if isinstance(e, Alloc)]
    assert (sums.kind, sums.shape) == ("acc", (8,))


def test_lanes_that_would_gather_read_a_packed_copy():
    """S[p, m] = sum over e of Q[p, e] K[m, e] with lanes along m: K is transposed once."""
    term = op("*", load("Q", "p", "e"), load("K", "m", "e"))
    body = loop(
        "p",
        6,
        [
            loop("z", 8, store("S", ("p", "z"), val(0.0)), "simd"),
            loop(
                "e",
                5,
                loop("m", 8, store("S", ("p", "m"), op("+", load("S", "p", "m"), term)), "simd"),
            ),
        ],
    )
    made = program("logits", {"Q": (6, 5), "K": (8, 5)}, {"S": (6, 8)}, body, "fp64")
    generator = np.random.default_rng(0)
    inputs = {each.name: generator.normal(size=each.shape) for each in made.inputs}
    planned, _ = same(made, inputs, 8)
    shapes = {e.buffer.shape for e in walk_statements(planned.body) if isinstance(e, Alloc)}
    assert (5, 8) in shapes


STREAMED = {"h": 1, "p": 16, "m": 32, "e": 2, "f": 8}


def streaming(name, **constants):
    """A cascade in its streaming form, with tiles that its mask leaves partial."""
    target = TARGETS.get("cpu")
    bound = streamed(zoo.load(name), STREAMED, constants, Tiles(8, 8, 8))
    return bound, lower(bound, default_mapping(bound, target, FP64), target, FP64)


def allocated(planned):
    return {e.buffer.name for e in walk_statements(planned.body) if isinstance(e, Alloc)}


@pytest.mark.parametrize(("name", "constants"), [("sliding_window", {"W": 11.0}), ("alibi", {})])
def test_masks_are_tested_once_and_what_is_used_once_is_not_stored(name, constants):
    bound, made = streaming(name, **constants)
    inputs = {name: 30 * each for name, each in random_inputs(bound, FP64).items()}
    planned, _ = same(made, inputs, 16)
    assert {"O_T", "O_P"} <= allocated(made)
    assert not {"O_T", "O_P"} & allocated(planned)
    masks = [each for each in allocated(planned) if each.startswith("mask_")]
    (filled,) = (
        e for e in walk_statements(planned.body) if isinstance(e, Alloc) and e.buffer.name in masks
    )
    assert filled.buffer.shape[0] == 8  # a row for each key of a tile


def test_a_value_that_is_read_twice_or_rounded_is_stored():
    _, made = streaming("sliding_window", W=11.0)
    assert fused(made.body, frozenset(("acc",))) == made.body
    kept = allocated(replace(made, body=fused(made.body, frozenset(("acc", "data")))))
    assert {"SN_T", "QK_T", "GM_C"} <= kept


def test_what_is_read_at_clamped_places_is_copied_with_lanes_as_neighbours():
    cascade, target = zoo.load("neighborhood_2d"), TARGETS.get("cpu")
    sizes = {"h": 1, "y": 7, "x": 32, "e": 2, "f": 2, "r": 13, "c": 13}
    bound = bind(cascade, shapes=sizes)
    made = lower(bound, default_mapping(bound, target, FP64), target, FP64)
    planned, _ = same(made, random_inputs(bound, FP64), 8)
    (copy,) = (
        e.buffer
        for e in walk_statements(planned.body)
        if isinstance(e, Alloc) and "K_packed" in e.buffer.name
    )
    assert copy.shape[-1] == 32 + 1  # 7 lanes are read as 8


def test_intervals_strides_and_extremes():
    expr = op("-", op("*", num(4), "i"), op("//", "j", num(2)))
    ranges = {"i": (0, 3), "j": (0, 5)}
    assert interval(expr, ranges) == (-2, 12)
    assert interval(load("X", "i"), ranges) is None
    assert interval(op("%", "j", num(4)), ranges) == (0, 3)
    assert (stride(expr, "i"), stride(expr, "j"), stride(expr, "k")) == (4, None, 0)
    assert moves(op("+", op("*", num(4), "i"), "j"), "i", {"j": (0, 3)})
    assert not moves(op("+", op("*", num(4), "i"), "j"), "i", {"j": (0, 4)})
    assert upper(expr, {"i": (0, 3)}) == op("-", num(12), op("//", "j", num(2)))
    assert least(expr, ranges) == num(-2)


def test_when_a_condition_holds_for_all_lanes():
    condition = op("and", op("<=", "v", "p"), op("not", op("<", op("+", "v", "o"), num(3))))
    assert holds(condition, {"v": (0, 7)}, frozenset()) == op(
        "and", op("<=", num(7), "p"), op(">=", Name("o"), num(3))
    )
    assert holds(op("==", "v", "p"), {"v": (0, 7)}, frozenset()) is None
    assert holds(op("<", load("X", "v"), val(0.0)), {"v": (0, 7)}, frozenset()) is None

"""How a stock cascade is held against a loop reference: what to draw, to scale, to compare."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from mechanisms import ENTRIES

from penstock import count_passes, zoo
from penstock.einsum_ir.interpreter.inputs import bind_arrays
from penstock.einsum_ir.interpreter.interp import interpret

QKV = dict(h=2, e=4, f=4)
ODD = dict(h=2, e=3, f=5)
K3 = (("K", "m", 3),)


@dataclass(frozen=True)
class Mechanism:
    """A stock cascade, what it is checked with, and its passes.

    Args:
        key: its name in the collection of mechanisms.
        reference: plain loops.
        cases: extents of ranks (lower case) and constants (upper case).
        passes: (tensor, rank, how many); the most of them are what the collection says, or `naive`.
        hot: two tensors and the rank over which their product gives logits.
        draw: how to draw inputs that are not normally distributed.
        grown: an input that is `times` as large in the second run, if no two give logits.
        times: how much larger.
        naive: what the collection says, where it is something else.
    """

    key: str
    reference: object
    cases: tuple
    passes: tuple
    hot: tuple = (("Q", "K", "e"),)
    draw: dict = field(default_factory=dict)
    grown: str = ""
    times: float = 1e3
    naive: int | None = None


def drawn(name, each, case):
    """Random inputs of a stock cascade."""
    random = np.random.default_rng(11)
    arrays = {}
    for declared in zoo.load(name).inputs:
        shape = tuple(case[rank] for rank in declared.ranks)
        draw = each.draw.get(declared.tensor, lambda r, s: r.normal(size=s))
        arrays[declared.tensor] = draw(random, shape)
    return arrays


def heat(name, each, arrays):
    """Scale the first tensor of each pair, so that the largest of its logits is +-1e3."""
    ranks = {declared.tensor: declared.ranks for declared in zoo.load(name).inputs}
    for left, right, rank in each.hot:
        axes = ranks[left].index(rank), ranks[right].index(rank)
        logits = np.tensordot(arrays[left], arrays[right], axes=axes)
        scale = 1 if name == "attention_1pass" else math.sqrt(arrays[left].shape[-1])
        arrays[left] = arrays[left] * (1e3 * scale / np.abs(logits).max())
    if each.grown:
        arrays[each.grown] = arrays[each.grown] * each.times


def computed(name, case, arrays):
    """What penstock's interpreter gives in float64."""
    cascade = zoo.load(name)
    used = {variable for einsum in cascade.einsums for variable in einsum.variables}
    shapes = {key: value for key, value in case.items() if key in used}
    constants = {key: value for key, value in case.items() if key.isupper()}
    return interpret(bind_arrays(cascade, arrays, shapes=shapes, constants=constants), arrays)


def cases(mechanisms):
    """Name and sizes of every case, as parameters of a test."""
    return [
        pytest.param(name, case, id=f"{name}-{number}")
        for name, each in mechanisms.items()
        for number, case in enumerate(each.cases)
    ]


def check_passes(name, each):
    """Compare the number of passes, and the largest with that of the collection if it is here."""
    for tensor, rank, count in each.passes:
        assert count_passes(zoo.load(name), tensor, rank) == count, (tensor, rank)
    naive = {entry["key"]: entry["passes_naive"] for entry in ENTRIES}
    ours = max(count for _, _, count in each.passes) if each.naive is None else each.naive
    assert naive.get(each.key, ours) == ours


def check(name, each, case, hot):
    """Compare the interpreter with the loops."""
    arrays = drawn(name, each, case)
    if hot:
        heat(name, each, arrays)
    found = computed(name, case, arrays)
    expected = each.reference(arrays, case, case)
    assert set(found) == set(expected)
    for tensor, array in expected.items():
        size = np.abs(array).max()
        assert size > 0
        np.testing.assert_allclose(found[tensor], array, rtol=1e-9, atol=1e-12 * max(size, 1))


def gates(random, shape):
    return random.uniform(0.02, 0.3, shape)


def bits(random, shape):
    return np.arange(math.prod(shape)).reshape(shape) % 2.0


def uniform(random, shape):
    return random.uniform(size=shape)


def below(limit):
    return lambda random, shape: random.integers(0, limit, shape).astype(float)


def given(*values):
    return lambda random, shape: np.array(values, float).reshape(shape)

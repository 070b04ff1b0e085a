"""Loop groups in blocks and with few steps held, against plain Evaluators with everything."""

import random
import tracemalloc

import numpy as np
import pytest

from penstock import zoo
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.interpreter import interp, lockstep
from penstock.einsum_ir.interpreter.interp import Evaluator, interpret
from penstock.einsum_ir.interpreter.lockstep import blocks, held_steps
from penstock.einsum_ir.nodes import Group
from penstock.einsum_ir.shapes import bind


@pytest.fixture
def nothing_small(monkeypatch):
    """Look for what can be left out in the smallest cascades too."""
    monkeypatch.setattr(lockstep, "SMALL", 0)


EXTENTS = {"a": 5, "b": 4, "i": 3}
HEAD = "cascade steps(X[a, i], Y[a, b]) -> {}\n"


def bound_of(body, output="F[a]"):
    return bind(parse(HEAD.format(output) + body), shapes=EXTENTS)


def group_of(bound):
    return next(each for each in bound.cascade.schedule if isinstance(each, Group))


def in_group(line, after="  F[a] = S[a, I]"):
    return f"""
  init S[a, 0] = 0
  loop i:
    T[a, i] = X[a, i] * 2
    S[a, i + 1] = S[a, i] + T[a, i]
    {line}
{after}"""


@pytest.mark.parametrize(
    ("body", "held"),
    [
        (in_group("U[a, i] = T[a, i]"), {"T": (1, 1), "S": (1, 1), "U": (1, 1)}),
        (in_group("U[a, i] = S[a, i + 1]"), {"T": (1, 1), "S": (1, 1), "U": (1, 1)}),
        (in_group("U[a, i] = S[a, i]"), {"T": (1, 1), "S": (1, 2), "U": (1, 1)}),
        (in_group("U[a, i] = T[a, i - 1]"), {"S": (1, 1), "U": (1, 1)}),
        (in_group("U[a, i] = T[a, i] + S[a, i - 1]"), {"T": (1, 1), "U": (1, 1)}),
        (in_group("U[a, i] = X[a, i]", "  F[a] = U[a, I - 1]"), {"T": (1, 1), "S": (1, 1)}),
        (in_group("U[a, i] = X[a, i]", "  F[a] = U[a, 1] + S[a, I]"), {"T": (1, 1), "S": (1, 1)}),
        (in_group("U[a, i] = T[a, i]", "  F[a] = S[a, i] :: sum[i]"), {"T": (1, 1), "U": (1, 1)}),
        (in_group("R[a, i + 1] = S[a - 1, i + 1]"), {"T": (1, 1), "S": (1, 1), "R": (1, 1)}),
        (in_group("R[a, i + 1] = fill(R[a - 1, i], 0)"), {"T": (1, 1), "S": (1, 1), "R": (1, 2)}),
    ],
)
@pytest.mark.usefixtures("nothing_small")
def test_held_steps(body, held):
    if "U[a, I - 1]" in body:
        held = {**held, "U": (1, 1)}
    assert held_steps(bound_of(body)) == held


def test_small_tensors_are_held_whole():
    assert held_steps(bound_of(in_group("U[a, i] = S[a, i]"))) == {}


@pytest.mark.usefixtures("nothing_small")
def test_outputs_are_held_whole():
    body = in_group("U[a, i] = T[a, i]", "  F[a] = S[a, I]")
    text = HEAD.format("F[a], S[a, i], U[a, i]") + body
    assert held_steps(bind(parse(text), shapes=EXTENTS)) == {"T": (1, 1)}


def test_blocks_are_cut_along_ranks_that_are_apart(monkeypatch):
    monkeypatch.setattr(lockstep, "BLOCK", 2)
    bound = bound_of(in_group("U[a, i] = T[a, i]"))
    cuts = [{"a": (0, 2)}, {"a": (2, 4)}, {"a": (4, 5)}]
    assert blocks(bound, group_of(bound)) == cuts
    across = bound_of(in_group("U[a, i] = T[a - 1, i]"))
    assert blocks(across, group_of(across)) == [{}]
    summed = bound_of(in_group("U[i] = T[a, i]"))
    assert blocks(summed, group_of(summed)) == [{}]


def test_small_groups_are_not_cut():
    bound = bound_of(in_group("U[a, i] = T[a, i]"))
    assert blocks(bound, group_of(bound)) == [{}]


def test_blocks_follow_predicates_first(monkeypatch):
    monkeypatch.setattr(lockstep, "BLOCK", 8)
    monkeypatch.setattr(lockstep, "ROWS", 2)
    body = """
  init S[a, b, 0] = 0
  S[a, b, i + 1] = S[a, b, i] + X[a, i] * Y[a, b] s.t. b <= i
  F[a, b] = S[a, b, I]"""
    bound = bound_of(body, "F[a, b]")
    sizes = [
        {v: stop - start for v, (start, stop) in e.items()} for e in blocks(bound, group_of(bound))
    ]
    assert sizes == [{"a": 3, "b": 2}] * 2 + [{"a": 2, "b": 2}] * 2


class Maker:
    """Makes random groups over i, of tensors of a, or of a and b."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def read(self, name, step, spread):
        a = self.random.choice(["a", "a", "a", "a - 1", "4 - a"] if spread else ["a"])
        return f"{name}[{a}, b, {step}]"

    def operand(self, done, states, own, spread):
        step = self.random.choice(["i", "i", "i", "i - 1"] if spread else ["i"])
        new = [self.read(name, step, spread) for name in done]
        new += [self.read(name, "i + 1", spread) for name in done if name in states]
        old = [self.read(name, step, spread) for name in states if name in done or name == own]
        return self.random.choice([*new, *old, "X[a, i]", "Y[a, b]", "X[a, i]"])

    def cascade(self):
        names = [f"T{number}" for number in range(5)]
        states = set(self.random.sample(names, 2))
        spread, lines, done = self.random.random() < 0.6, [], []
        started = [name for name in names if name in states and self.random.random() < 0.8]
        lines += [f"  init {name}[a, b, 0] = Y[a, b]" for name in started]
        lines.append("  loop i:")
        for name in names:
            parts = [self.operand(done, states, name, spread) for _ in range(2)]
            parts[0] = self.random.choice([parts[0], parts[0], f"fill({parts[0]}, 1)"])
            op = self.random.choice(["{} + {}", "max({}, {})", "{} * {}"])
            where = self.random.choice(
                ["", "", " s.t. b <= i", " s.t. a > 2*i", " s.t. X[a, i] > 0"]
            )
            step = "i + 1" if name in states else "i"
            lines.append(f"    {name}[a, b, {step}] = {op.format(*parts)}{where}")
            done.append(name)
        final = [f"fill({name}[a, b, {'I' if name in states else 'I - 1'}], 0)" for name in names]
        if self.random.random() < 0.3:
            final[0] = "fill(T0[a, b, 1], 0)"
        lines.append(f"  F[a, b] = {' + '.join(final)}")
        return "\n".join(lines)


@pytest.mark.usefixtures("nothing_small")
@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("seed", range(150))
def test_random_groups(seed, cut, monkeypatch):
    """Few steps held, blocks, and absent boxes left out change no bit."""
    bound = bound_of(Maker(seed).cascade(), "F[a, b]")
    generator = np.random.default_rng(seed)
    inputs = {"X": generator.normal(size=(5, 3)), "Y": generator.normal(size=(5, 4))}
    plain = Evaluator(bound, inputs, parse_format("fp64"))
    monkeypatch.setattr(Evaluator, "_absent", lambda *_: False)
    for statement in bound.cascade.schedule:
        plain.run(statement)
    monkeypatch.undo()
    monkeypatch.setattr(lockstep, "SMALL", 0)
    if cut:
        monkeypatch.setattr(lockstep, "BLOCK", 2)
        monkeypatch.setattr(lockstep, "ROWS", 1)
    kept = interpret(bound, inputs, keep=True)
    for name, array in kept.items():
        np.testing.assert_array_equal(array, plain.tensor(name), err_msg=name)
    np.testing.assert_array_equal(interpret(bound, inputs)["F"], kept["F"])


@pytest.mark.usefixtures("nothing_small")
def test_random_groups_hold_few_steps_often():
    held = [held_steps(bound_of(Maker(seed).cascade(), "F[a, b]")) for seed in range(150)]
    counts = [count for each in held for _, count in each.values()]
    assert counts.count(1) > 100
    assert counts.count(2) > 20


def attention(heads, queries, keys):
    bound = bind(
        zoo.load("gqa_causal_1pass"),
        shapes={"h": heads, "g": heads // 2, "p": queries, "m": keys, "e": 8, "f": 8, "m0": 16},
    )
    generator = np.random.default_rng(0)
    arrays = {n: generator.normal(size=bound.dims[n]).astype(np.float32) for n in ("Q", "K", "V")}
    return bound, arrays


def test_memory_does_not_grow_with_the_steps():
    peaks = []
    for keys in (1024, 1024, 4096):  # once to warm up
        bound, arrays = attention(2, 256, keys)
        tracemalloc.start()
        interpret(bound, arrays)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    added = 2 * 3072 * 8 * 4  # bytes of K and V, copied; the added steps of BQK are 6 MiB
    assert peaks[2] < peaks[1] + added + (1 << 17)


def test_absent_blocks_are_not_computed(monkeypatch):
    bound, arrays = attention(2, 256, 256)
    monkeypatch.setattr(lockstep, "SMALL", 0)
    monkeypatch.setattr(lockstep, "BLOCK", 1 << 10)
    monkeypatch.setattr(lockstep, "ROWS", 32)
    computed = []
    before = interp.partial
    monkeypatch.setattr(
        interp,
        "partial",
        lambda plan, *rest: computed.append(str(plan.einsum.output)) or before(plan, *rest),
    )
    interpret(bound, arrays)
    boxes = len(blocks(bound, group_of(bound)))
    steps = bound.extents["m1"]
    assert (boxes, steps) == (8, 16)
    reached = sum(2 * (block + 1) for block in range(boxes))
    for name in ("BQK[h, p, m1, m0]", "SLN[h, p, m1, m0]", "RNV[h, p, m1 + 1, f]"):
        assert computed.count(name) == reached
    assert computed.count("PRM[h, p, m1]") == boxes * steps  # exp(-inf - -inf) is there

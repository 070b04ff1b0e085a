"""Tiny search problems: machines, cascades, and every mapping of a space, one by one."""

import math
from itertools import product

import numpy as np
import pytest

from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.shapes import bind
from penstock.errors import MappingError
from penstock.mapper.check import check
from penstock.mapper.model.evaluate import evaluate
from penstock.mapper.search.build import default_mapping
from penstock.mapper.search.explore import explore
from penstock.mapper.search.front import explore_front
from penstock.mapper.search.space import arrays_of, in_time, mapping_at, skeletons, stages_of
from penstock.targets.base import Array, Axis, Memory, Target

FP16 = parse_format("fp16")
COST = {
    "latency": lambda latency, energy: latency,
    "energy": lambda latency, energy: energy,
    "edp": lambda latency, energy: latency * energy,
}
OPS = ("mac", "+", "-", "*", "max", "exp")


def tiny_target(rng):
    """Two arrays with memories of their own and a shared one, all small, some slow."""
    costs = {name: tuple((op, float(rng.integers(1, 5))) for op in OPS) for name in "ab"}
    energy = tuple((op, float(rng.integers(1, 9))) for op in OPS)
    sizes = {name: int(rng.integers(2, 5)) for name in "ab"}
    narrow = float(rng.choice([1.0, 4.0, 64.0]))
    inner = float(rng.choice([0.5, 8.0, math.inf]))

    def memory(name, room, speed, array="", instances=1):
        pj = [float(each) for each in rng.integers(1, 30, 2)]
        return Memory(name, room, speed, pj[0], pj[1], array, instances)

    return Target(
        "tiny",
        "spatial",
        1e9,
        (
            memory("dram", 1e6, narrow),
            memory("gb", float(rng.choice([8, 16, 64, 1024])), inner),
            memory("ra", float(rng.choice([2, 4, 32])), math.inf, "a", sizes["a"]),
        ),
        (
            Array("a", (Axis("x", sizes["a"], "pe", reduces=True),), costs["a"], energy),
            Array("b", (Axis("y", sizes["b"], "pe"),), costs["b"], energy),
        ),
        "fp16",
        "made up",
    )


def random_cascade(rng):
    """Return the text of a cascade: one to three Einsums, some with masks or an iterative rank."""
    inputs = ["X[a,b]", *(each for each in ("Y[b]", "W[a]") if rng.random() < 0.4)]
    ranks = {each[0]: tuple(each[2:-1].split(",")) for each in inputs}
    lines, read = [], set()
    if rng.random() < 0.4:
        inputs.append("Z[a,t]")
        lines += ["init S[a,0] = 0", *recurrence(rng)]
        ranks["R"] = ("a",)
    for number in range(int(rng.integers(1, 3 if lines else 4))):
        name = f"T{number}"
        source = str(rng.choice(list(ranks)))
        ranks[name], line = random_einsum(rng, name, source, ranks, read)
        lines.append(line)
    outputs = [name for name in ranks if name[0] in "TR" and name not in read]
    unread = {name for name in ranks if name[0] in "XYW" and name not in read}
    inputs = [each for each in inputs if each[0] not in unread]
    given = ", ".join(inputs)
    made = ", ".join(f"{name}[{','.join(ranks[name])}]" for name in outputs)
    return "\n  ".join([f"cascade tiny({given}) -> ({made})", *lines])


def recurrence(rng):
    """Return a running sum or product, alone or of two Einsums that feed each other."""
    last = "R[a] = S[a,T] + S[a,T]"
    op = str(rng.choice(["+", "*"]))
    if rng.random() < 0.5:
        return [f"S[a,t+1] = S[a,t] {op} Z[a,t]", last]
    return ["loop t:", f"  U[a,t] = S[a,t] {op} Z[a,t]", "  S[a,t+1] = exp(U[a,t])", last]


def random_einsum(rng, name, source, ranks, read):
    """Return the ranks and the text of one Einsum over a tensor, and perhaps another one."""
    mine = ranks[source]
    read.add(source)
    body = f"{source}[{','.join(mine)}]"
    others = [each for each in ranks if set(ranks[each]) <= set(mine) and each != source]
    if others and rng.random() < 0.6:
        other = str(rng.choice(others))
        read.add(other)
        body = f"{body} {rng.choice(['+', '*', '-'])} {other}[{','.join(ranks[other])}]"
    elif rng.random() < 0.5:
        body = f"exp({body})"
    masked = " s.t. b <= a" if len(mine) == 2 and rng.random() < 0.3 else ""
    if len(mine) == 2 and rng.random() < 0.6:
        kept = str(rng.choice(["a", "b"]))
        over = "b" if kept == "a" else "a"
        op = rng.choice(["sum", "max"])
        return (kept,), f"{name}[{kept}] = {body} :: {op}[{over}]{masked}"
    return mine, f"{name}[{','.join(mine)}] = {body}{masked}"


def random_problem(rng, most):
    """Return a cascade with extents and a machine, with at most so many mappings."""
    while True:
        target = tiny_target(rng)
        cascade = parse(random_cascade(rng))
        names = {rank for each in cascade.inputs for rank in each.ranks}
        shapes = {name: int(rng.integers(1, 6)) for name in sorted(names)}
        bound = bind(cascade, shapes=shapes)
        if most // 50 <= sum(each.size for each in skeletons(bound, target)) <= most:
            return bound, target


def every_mapping(bound, target):
    """Build every point of the space, one by one."""
    for skeleton in skeletons(bound, target):
        for picks in product(*(range(len(site.options)) for site in skeleton.sites)):
            arrays = arrays_of(skeleton, picks, target)
            stages = stages_of(skeleton.sites, arrays)
            if not in_time(skeleton.sites, arrays, stages).all():
                continue
            for places in product(*(each.places for each in skeleton.residents)):
                pairs = zip(skeleton.residents, places, strict=True)
                kept = {each.tensor: (place, 1) for each, place in pairs if place.home}
                yield mapping_at(skeleton, picks, kept, bound, target)


def costs_of_all(bound, target):
    """Evaluate every legal mapping of the space, and the default one: (latency, energy) pairs."""
    found = []
    for mapping in (default_mapping(bound, target, FP16), *every_mapping(bound, target)):
        try:
            check(mapping, bound, target, FP16)
        except MappingError:
            continue
        said = evaluate(mapping, bound, target, FP16)
        found.append((said.latency_cycles, said.energy_pj))
    return found


def front_of(costs):
    """Return the pairs than which no other one is as small in both, by the first."""
    found = []
    for latency, energy in sorted(costs):
        if not found or energy < found[-1][1] * (1 - 1e-9):
            found.append((latency, energy))
    return found


def compare(bound, target):
    """Hold the search for each objective, and for the front, against every mapping."""
    costs = costs_of_all(bound, target)
    for objective, cost in COST.items():
        found = explore(bound, target, FP16, objective=objective)
        said = cost(found.evaluation.latency_cycles, found.evaluation.energy_pj)
        assert said == pytest.approx(min(cost(*each) for each in costs), rel=1e-9), objective
        assert found.optimal
    front = explore_front(bound, target, FP16)
    assert front.optimal
    got = [(e.evaluation.latency_cycles, e.evaluation.energy_pj) for e in front.members]
    want = front_of(costs)
    assert len(got) == len(want)
    np.testing.assert_allclose(got, want, rtol=1e-9)

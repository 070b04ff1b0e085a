"""The zoo's mechanisms with a one-pass form, and what `reduce_passes` makes of each."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from penstock import parse
from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.interpreter.inputs import bind_arrays
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.rewrite.plan import PassPlan, Refusal
from penstock.einsum_ir.rewrite.ranks import passes_over, slow_ranks
from penstock.einsum_ir.rewrite.reduce import reduce_passes
from penstock.einsum_ir.shapes import rank_variables
from tests.zoo.mechanisms import ENTRIES, inputs, notation

LISTED = [each for each in ENTRIES if each["one_pass_exists"] and each["passes_naive"] > 1]


@dataclass(frozen=True)
class Derived:
    """What was found for one of the ranks with the most passes; ``ranks`` are reduced together."""

    ranks: tuple[str, ...]
    found: PassPlan | Refusal

    @property
    def done(self) -> bool:
        return self.found.after == 1 < self.found.before


def cascade_of(entry) -> Cascade:
    cascade = parse(notation(entry))
    used = {rank for each in cascade.inputs for rank in each.ranks}
    used |= {name for einsum in cascade.einsums for name in einsum.variables}
    return cascade.with_shapes(**{n: e for n, e in entry["ranks"].items() if n in used})


def _ranks(entry, cascade: Cascade) -> list[str]:
    """Ranks with as many passes as the survey counts, and those with the most."""
    reduced = {name for each in cascade.einsums if each.reduce for name in each.reduce.over}
    slow = slow_ranks(cascade)
    return [
        name
        for name in sorted(reduced)
        if name in slow or passes_over(cascade, name) >= entry["passes_naive"]
    ]


def derived(entry, cascade: Cascade) -> list[Derived]:
    """One plan for each softmax: ranks that are reduced together count once, the best counts."""
    groups: list[tuple[str, ...]] = []
    for rank in _ranks(entry, cascade):
        together = {
            name
            for each in cascade.einsums
            if each.reduce and rank in each.reduce.over
            for name in each.reduce.over
        }
        own = next((group for group in groups if set(group) & together), ())
        groups = [*(group for group in groups if group != own), (*own, rank)]
    return [_best(cascade, group) for group in groups]


def _best(cascade: Cascade, ranks: tuple[str, ...]) -> Derived:
    found = [reduce_passes(cascade, rank) for rank in ranks]
    return Derived(ranks, min(found, key=lambda each: each.after))


def disagreements(entry, cascade: Cascade, plan: PassPlan) -> Iterator[str]:
    """Where a derived form differs from the original, on random inputs and on large logits."""
    extents = dict(cascade.shapes)
    for scale in (1, 300):
        arrays = inputs(entry, np.random.default_rng(2), scale)
        wanted = _run(cascade, arrays, extents, entry)
        for size in (3, 64):
            yield from _differs(plan.cascade, arrays, {**extents, plan.tile: size}, entry, wanted)
        if plan.tree is not None:
            yield from _differs(plan.tree, arrays, {**extents, plan.split: 3}, entry, wanted)


def _run(cascade, arrays, extents, entry):
    own = rank_variables(cascade)  # a derived form has no ranks that the output does not need
    extents = {name: extent for name, extent in extents.items() if name in own}
    return interpret(bind_arrays(cascade, arrays, shapes=extents), arrays)[entry["output"]]


def _differs(cascade, arrays, extents, entry, wanted) -> Iterator[str]:
    found = _run(cascade, arrays, extents, entry)
    error = np.abs(found - wanted).max() / np.abs(wanted).max()
    if not error < 1e-9:
        yield f"{entry['key']}: error {error:.1e} with {extents}\n{cascade}"

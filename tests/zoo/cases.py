"""Runs of stock cascades on random arrays, and their comparison with references."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

from penstock import zoo
from penstock.einsum_ir.interpreter.inputs import bind_arrays
from penstock.einsum_ir.interpreter.interp import interpret


def between(low, high, *dims):
    """Random numbers in a range: gates, decays, step sizes."""
    return np.random.default_rng(5).uniform(low, high, size=dims)


@dataclass(frozen=True)
class Case:
    """One run of a stock cascade: extents by rank, constants, and inputs that are not random.

    `big` names the inputs that are scaled up, so that logits reach some +-1e3.
    """

    name: str
    sizes: str
    constants: dict = field(default_factory=dict)
    given: dict = field(default_factory=dict)
    big: str = "Q K"

    def __str__(self):
        return f"{self.name}-{self.sizes.replace(' ', ',')}"

    @property
    def extents(self):
        pairs = (each.split("=") for each in self.sizes.split())
        return {rank: int(extent) for rank, extent in pairs}

    def inputs(self, scale):
        """Random arrays for the inputs of the cascade."""
        random = np.random.default_rng(11)
        made = {}
        for each in zoo.load(self.name).inputs:
            dims = [self.extents[rank] for rank in each.ranks]
            made[each.tensor] = random.normal(size=dims) * (
                scale if each.tensor in self.big.split() else 1
            )
        return made | {name: np.array(value, float) for name, value in self.given.items()}

    def run(self, scale):
        """The outputs by name, and what the references need."""
        arrays, cascade = self.inputs(scale), zoo.load(self.name)
        bound = bind_arrays(cascade, arrays, shapes=self.shapes, constants=self.constants)
        return interpret(bound, arrays), SimpleNamespace(**self.shapes, **arrays, **self.constants)

    @property
    def shapes(self):
        """The extents that no input has."""
        ranks = {rank for each in zoo.load(self.name).inputs for rank in each.ranks}
        return {rank: n for rank, n in self.extents.items() if rank not in ranks}

    def check(self, scale, references):
        """Compare the first output with the function of the cascade's name in a module."""
        found, g = self.run(scale)
        expected = getattr(references, self.name)(g)
        first = found[zoo.load(self.name).outputs[0].tensor]
        np.testing.assert_allclose(first, expected, rtol=1e-8, atol=1e-10)

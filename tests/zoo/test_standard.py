"""The standard mechanisms equal plain loops, where every guard acts and logits are large."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import references

from penstock import count_passes, zoo
from penstock.einsum_ir.inputs import bind_arrays
from penstock.einsum_ir.interp import interpret


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
        return interpret(bound, arrays), SimpleNamespace(**arrays, **self.constants)

    @property
    def shapes(self):
        """The extents that no input has."""
        ranks = {rank for each in zoo.load(self.name).inputs for rank in each.ranks}
        return {rank: n for rank, n in self.extents.items() if rank not in ranks}


CASES = (
    Case("mha", "b=2 p=5 d=6 h=3 e=4 f=5 o=7", big="X"),
    Case("mqa", "h=3 p=5 m=7 e=4 f=3"),
    Case("mqa", "h=2 p=6 m=3 e=4 f=3"),
    Case("mla", "h=3 p=5 m=7 e=3 r=4 c=6 f=5", big="QC QR KR"),
    Case("mla", "h=2 p=5 m=3 e=3 r=2 c=4 f=5", big="QC QR KR"),
    Case("mla_absorbed", "h=3 p=5 m=7 e=3 r=4 c=6 f=5", big="QC QR KR"),
    Case("rope", "h=2 p=5 m=7 e=6 f=3"),
    Case("rope", "h=2 p=5 m=3 e=4 f=3"),
    Case("prefix_lm", "b=3 h=2 p=7 m=7 e=4 f=3", given={"N": [0, 3, 9]}),
    Case("document_mask", "h=2 p=9 m=9 e=4 f=3", given={"D": [1, 1, 0, 0, -1, 1, 0, -1, 2]}),
    Case("ragged", "b=3 h=2 p=4 m=6 e=4 f=3", given={"LQ": [4, 1, 3], "LK": [5, 6, 0]}),
    Case("alibi", "h=4 p=5 m=7 e=4 f=3"),
    Case("alibi", "h=3 p=6 m=4 e=4 f=3"),
    Case("soft_cap", "h=2 p=5 m=7 e=4 f=3", {"CAP": 50}),
    Case("soft_cap", "h=2 p=5 m=4 e=4 f=3", {"CAP": 3}),
    Case("attention_sink", "h=4 g=2 p=5 m=7 e=4 f=3", {"W": 3}),
    Case("attention_sink", "h=2 g=2 p=6 m=4 e=4 f=3", {"W": np.inf}, {"S": [900, -900]}),
    Case("streaming_llm", "h=2 p=9 m=11 e=4 f=3", {"S": 2, "W": 3}),
    Case("streaming_llm", "h=2 p=6 m=4 e=4 f=3", {"S": 0, "W": 2}),
    Case("differential", "h=3 s=2 p=5 m=7 e=4 f=6", {"LAYER": 3}),
    Case("differential", "h=1 s=2 p=5 m=3 e=4 f=6", {"LAYER": 1}),
    Case("sigmoid_attention", "h=2 p=5 m=7 e=4 f=3"),
    Case("sigmoid_attention", "h=2 p=5 m=3 e=4 f=3"),
    Case("qk_norm", "h=2 p=5 m=7 e=4 f=3", big="GQ GK"),
    Case("cosine_attention", "w=3 h=2 p=5 m=5 e=4 f=3", given={"T": [1e-3, 0.7]}, big="Q B"),
    Case("talking_heads", "g=2 h=3 o=4 p=5 m=7 e=4 f=3"),
)
PASSES = {
    "mla": ("C", "m", 3),
    "mla_absorbed": ("C", "m", 3),
    "mha": ("K", "m", 3),
    "sigmoid_attention": ("K", "m", 1),
}


@pytest.mark.parametrize("scale", [1.0, 25.0])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_loops(case, scale):
    found, g = case.run(scale)
    expected = getattr(references, case.name)(g)
    np.testing.assert_allclose(next(iter(found.values())), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", sorted({case.name for case in CASES}))
def test_passes(name):
    tensor, rank, passes = PASSES.get(name, ("K", "m", 3))
    assert count_passes(zoo.load(name), tensor, rank) == passes


def test_the_large_logits_are_large():
    g = SimpleNamespace(**Case("mqa", "h=3 p=5 m=7 e=4 f=3").inputs(25.0))
    logits = [references.scaled(q, k) for head in g.Q for q in head for k in g.K]
    assert min(logits) < -900
    assert max(logits) > 900


def test_the_absorbed_form_is_the_expanded_one():
    expanded, _ = Case("mla", "h=3 p=5 m=7 e=3 r=4 c=6 f=5").run(1.0)
    absorbed, _ = Case("mla_absorbed", "h=3 p=5 m=7 e=3 r=4 c=6 f=5").run(1.0)
    np.testing.assert_allclose(absorbed["O"], expanded["O"], rtol=1e-12)

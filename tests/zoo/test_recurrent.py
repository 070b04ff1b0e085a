"""The recurrent and linear mechanisms equal their sums, and their other forms equal them."""

import numpy as np
import pytest
import references_linear
from cases import Case, between

from penstock import count_passes, zoo
from penstock.einsum_ir.interpreter.inputs import bind_arrays
from penstock.einsum_ir.interpreter.interp import interpret

SSM = {"DT": between(0.01, 2, 11, 2), "A": [-0.3, -1.5]}
DELTA = {"BE": between(0, 1, 2, 11), "K": between(-0.5, 0.5, 2, 11, 4)}
KIMI = {**DELTA, "AL": between(0, 1, 2, 11, 4)}
RWKV7 = {"KH": between(-0.5, 0.5, 2, 11, 4), "A": between(0, 1, 2, 11, 4)}
CASES = (
    Case("linear_causal", "h=2 t=11 e=4 f=3"),
    Case("performer", "h=2 p=5 m=7 e=4 f=3 r=6", big="K"),
    Case("performer", "h=2 p=5 m=7 e=4 f=3 r=6", given={"Q": between(-900, 900, 2, 5, 4)}, big=""),
    Case("gla", "h=2 t=11 e=4 f=3", given={"G": between(0.2, 1, 2, 11, 4)}),
    Case("retention", "h=3 t=11 e=4 f=3"),
    Case("retention_parallel", "h=3 p=11 m=11 e=4 f=3"),
    Case("retention_chunked", "h=3 t=11 u=4 s=4 e=4 f=3"),
    Case("retention_chunked", "h=3 t=11 u=64 s=64 e=4 f=3"),
    Case("retention_chunked", "h=3 t=12 u=3 s=3 e=4 f=3"),
    Case("deltanet", "h=2 t=11 e=4 f=3", given=DELTA, big="Q V"),
    Case("gated_deltanet", "h=2 t=11 e=4 f=3", given={**DELTA, "AL": between(0, 1, 2, 11)}),
    Case("kimi_delta", "h=2 t=11 e=4 f=3", given=KIMI, big="Q V"),
    Case("rwkv7", "h=2 t=11 e=4 f=3", given={**RWKV7, "W": between(0, 1, 2, 11, 4)}, big="K V"),
    Case("mlstm", "h=2 t=9 e=4 f=3", big="I F Q"),
    Case("mlstm", "h=2 t=9 e=4 f=3", given={"I": between(-900, -1, 2, 9)}),
    Case("hyena", "t=9 c=4 s=9"),
    Case("mamba2", "t=11 h=2 f=3 n=4", given=SSM, big="X B"),
    Case("mamba2_dual", "m=11 h=2 f=3 n=4", given=SSM, big="X B"),
    Case("rwkv", "m=9 p=9 c=5", given={"W": [0.1, 2, 50, 300, 0]}, big="K U R"),
    Case("aft", "p=5 m=7 c=4", big="K W Q"),
    Case("linformer", "h=2 p=5 m=9 e=4 f=3 r=4"),
)
PASSES = {
    "performer": ("K", "m", 2),
    "hyena": ("V", "t", 1),
    "linformer": ("K", "m", 1),
    "retention_parallel": ("K", "m", 1),
    "mamba2": ("X", "t", 1),
    "mamba2_dual": ("B", "m", 1),
    "rwkv": ("K", "m", 3),
    "aft": ("K", "m", 3),
}


@pytest.mark.parametrize("scale", [1.0, 25.0])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_loops(case, scale):
    case.check(scale, references_linear)


@pytest.mark.parametrize("name", sorted({case.name for case in CASES}))
def test_passes(name):
    tensor, rank, passes = PASSES.get(name, ("K", "t", 1))
    assert count_passes(zoo.load(name), tensor, rank) == passes


@pytest.mark.parametrize("u", [1, 2, 5, 11])
def test_the_forms_of_retention_agree(u):
    recurrent, _ = Case("retention", "h=3 t=11 e=4 f=3").run(1.0)
    chunked, _ = Case("retention_chunked", f"h=3 t=11 u={u} s={u} e=4 f=3").run(1.0)
    np.testing.assert_allclose(chunked["O"], recurrent["O"], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", [c for c in CASES if zoo.load(c.name).states], ids=str)
def test_the_state_carries_over(case):
    """Two calls on the halves of a sequence give what one call gives."""
    cascade = zoo.load(case.name)
    arrays = case.inputs(1.0)
    ((state, following),) = cascade.states
    output = cascade.outputs[0]
    axes = {each.tensor: each.ranks.index("t") for each in cascade.inputs if "t" in each.ranks}
    parts, last = [], arrays[state]
    for steps in (slice(0, 4), slice(4, None)):
        cut = {state: last}
        for name, array in arrays.items():
            if name in axes:
                cut[name] = array[(slice(None),) * axes[name] + (steps,)]
            elif name != state:
                cut[name] = array
        found = interpret(bind_arrays(cascade, cut), cut)
        parts.append(found[output.tensor])
        last = found[following]
    whole, _ = case.run(1.0)
    joined = np.concatenate(parts, axis=output.ranks.index("t"))
    np.testing.assert_allclose(joined, whole[output.tensor], rtol=1e-12)
    np.testing.assert_allclose(last, whole[following], rtol=1e-12)

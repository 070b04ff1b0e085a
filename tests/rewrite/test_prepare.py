"""Sums over heads are split, and ranks in windows get a tensor, before passes are saved."""

import numpy as np
import pytest

from penstock import parse, zoo
from penstock.einsum_ir.interpreter.inputs import bind_arrays
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.rewrite.plan import PassPlan
from penstock.einsum_ir.rewrite.reduce import reduce_passes

HEADS = """cascade heads(X[h, m], V[h, m, f]) -> O[f]
  A[h, m] = softmax(X[h, m]; m)
  O[f] = A[h, m] * V[h, m, f] :: sum[h, m]
"""

WINDOW = """cascade window(X[n], V[n, f]) -> O[w, f]
  const B = 4
  A[w, m] = softmax(X[w * B + m]; m)
  O[w, f] = A[w, m] * V[w * B + m, f] :: sum[m]
"""

PIECES = """cascade pieces(K[n], L[n], V[j, f]) -> O[f]
  const S = 5
  KC[m] = K[m]     s.t. m < S
  KC[m] = L[m - S] s.t. m >= S
  A[m] = softmax(KC[m]; m)
  O[f] = A[m] * V[m // 2, f] :: sum[m]
"""

PREFIX = """cascade prefix(X[n], V[n, f]) -> O[f]
  A[m] = softmax(X[m]; m)
  O[f] = A[m] * V[m, f] :: sum[m]
"""

CASES = {
    "heads": (HEADS, {"X": (3, 10), "V": (3, 10, 2)}, {}),
    "window": (WINDOW, {"X": (12,), "V": (12, 2)}, {"w": 3, "m": 4}),
    "overlapping window": (WINDOW, {"X": (15,), "V": (15, 2)}, {"w": 3, "m": 6}),
    "pieces": (PIECES, {"K": (6,), "L": (6,), "V": (6, 2)}, {"m": 11}),
    "the first of more coordinates": (PREFIX, {"X": (12,), "V": (12, 2)}, {"m": 7}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_one_pass_with_the_same_values(case):
    text, dims, shapes = case
    cascade = parse(text).with_shapes(**shapes)
    plan = reduce_passes(cascade, "m")
    assert isinstance(plan, PassPlan), str(plan)
    assert (plan.before, plan.after) == (3, 1)
    random = np.random.default_rng(0).standard_normal
    arrays = {name: random(shape) for name, shape in dims.items()}
    wanted = interpret(bind_arrays(cascade, arrays), arrays)["O"]
    for form, sizes in ((plan.cascade, (1, 3, 64)), (plan.tree, (3,))):
        for size in sizes:
            found = interpret(bind_arrays(form, arrays, shapes={"m0": size}), arrays)["O"]
            np.testing.assert_allclose(found, wanted, rtol=1e-12, err_msg=f"{size}\n{form}")


def test_attention_needs_nothing_of_it():
    plan = reduce_passes(zoo.load("attention"), "m")
    names = {each.name for each in plan.cascade.einsums}
    assert not [each for each in names if each.endswith(("_H", "_W"))]

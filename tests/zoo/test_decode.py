"""Selection, caches and quantised scores equal plain loops, call after call if there is a state."""

from itertools import pairwise

import numpy as np
import pytest
import references_select
from cases import Case
from references import dot, mixed, scaled, weights

from penstock import count_passes, zoo
from penstock.einsum_ir.interpreter.inputs import bind_arrays
from penstock.einsum_ir.interpreter.interp import interpret

TIED = np.repeat(np.random.default_rng(2).normal(size=(1, 2, 2)), 5, axis=1)
CASES = (
    Case("topk_attention", "h=2 p=6 m=9 e=4 f=3 j=4"),
    Case("topk_attention", "h=2 p=6 m=4 e=4 f=3 j=7"),
    Case("topk_attention", "h=1 p=10 m=10 e=2 f=3 j=3", given={"K": TIED}),
    Case("quest", "h=4 m=23 e=4 f=3 u=4 j=2"),
    Case("quest", "h=2 m=7 e=4 f=3 u=3 j=3"),
    Case("moba", "h=3 m=19 e=4 f=3 u=2 j=3"),
    Case("moba", "h=2 m=5 e=4 f=3 u=8 j=1"),
    Case("nsa", "h=4 g=2 m=14 e=4 f=3 u=3 c=3 j=3", {"W": 4}, big="Q KC KS KW"),
    Case("nsa", "h=2 g=2 m=9 e=4 f=3 u=2 c=3 j=2", {"W": 1}, big="Q KC KS KW"),
    Case("flash_decoding", "b=3 h=4 g=2 m=11 e=4 f=3 u=4", given={"N": [11, 6, 0]}),
    Case("flash_decoding", "b=2 h=2 g=2 m=12 e=4 f=3 u=3", given={"N": [1, 12]}),
    Case("deepseek_sparse", "h=3 p=6 m=9 i=2 d=3 e=4 f=3 j=3", big="Q K QI"),
    Case("deepseek_sparse", "h=2 p=6 m=4 i=3 d=2 e=4 f=3 j=2", big="Q K KI"),
    Case("sparsemax", "h=3 p=6 m=9 e=4 f=3"),
    Case("sparsemax", "h=2 p=6 m=4 e=4 f=3"),
    Case("sage_attention", "h=2 p=5 m=7 e=6 f=3"),
)
PASSES = {
    "deepseek_sparse": ("KI", "m", 1),
    "sparsemax": ("K", "m", 3),
    "topk_attention": ("K", "m", 4),
    "quest": ("K", "m", 4),
    "moba": ("K", "m", 4),
    "nsa": ("KW", "m", 3),
    "flash_decoding": ("K", "m", 1),
    "sage_attention": ("K", "m", 4),
    "paged_decode": ("KP", "x", 3),
}


@pytest.mark.parametrize("scale", [1.0, 25.0])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_loops(case, scale):
    case.check(scale, references_select)


@pytest.mark.parametrize("name", [*PASSES, "kv_append", "kv_ring", "heavy_hitters", "int8_decode"])
def test_passes(name):
    tensor, rank, passes = PASSES.get(name, ("K8" if name == "int8_decode" else "K", "m", 3))
    assert count_passes(zoo.load(name), tensor, rank) == passes


def test_a_split_has_two_passes_over_itself():
    assert count_passes(zoo.load("flash_decoding"), "K", "u") == 2


def called(name, steps, state, constants=None):
    """Call a stock cascade with state again and again; yield its outputs."""
    cascade = zoo.load(name)
    for given in steps:
        arrays = {**given, **state}
        found = interpret(bind_arrays(cascade, arrays, constants=constants), arrays)
        state = {old: found[new] for old, new in cascade.states}
        yield found


def tokens(heads, shared, length, scale):
    """Random queries, keys and values of a text, as Q[h, t, e], K[g, t, e], V[g, t, f]."""
    random = np.random.default_rng(9)
    return (
        random.normal(size=(heads, length, 4)) * scale,
        random.normal(size=(shared, length, 4)) * scale,
        random.normal(size=(shared, length, 3)),
    )


def attended(q, k, v, seen):
    """What the token at the end of `seen` gets, as [h, f]."""
    share = len(q) // len(k)
    rows = []
    for h, head in enumerate(q):
        logits = {m: scaled(head[seen[-1]], k[h // share, m]) for m in seen}
        rows.append(mixed(weights(logits), v[h // share], v.shape[2]))
    return np.array(rows)


def garbage(*dims):
    """What a cache holds where nothing was written: numbers that would show."""
    return np.full(dims, 1e3)


@pytest.mark.parametrize("scale", [1.0, 25.0])
@pytest.mark.parametrize("lengths", [(3, 1, 4), (1, 1, 1, 5), (9,)])
def test_append(lengths, scale):
    q, k, v = tokens(4, 2, 9, scale)
    cuts = np.cumsum((0, *lengths))
    pieces = [slice(a, b) for a, b in pairwise(cuts)]
    steps = [{"Q": q[:, s], "KN": k[:, s], "VN": v[:, s]} for s in pieces]
    state = {"K": garbage(2, 11, 4), "V": garbage(2, 11, 3), "T": np.array(0.0)}
    for piece, found in zip(pieces, called("kv_append", steps, state), strict=True):
        for p, t in enumerate(range(piece.start, piece.stop)):
            expected = attended(q, k, v, range(t + 1))
            np.testing.assert_allclose(found["O"][:, p], expected, rtol=1e-9, atol=1e-12)
    assert found["TX"] == sum(lengths)
    np.testing.assert_array_equal(found["KX"][:, : sum(lengths)], k[:, : sum(lengths)])


@pytest.mark.parametrize("scale", [1.0, 25.0])
@pytest.mark.parametrize("room", [1, 3, 8, 20])
def test_ring(room, scale):
    q, k, v = tokens(4, 2, 10, scale)
    steps = [{"Q": q[:, t], "KN": k[:, t], "VN": v[:, t]} for t in range(10)]
    state = {"K": garbage(2, room, 4), "V": garbage(2, room, 3), "T": np.array(0.0)}
    for t, found in enumerate(called("kv_ring", steps, state)):
        expected = attended(q, k, v, range(max(0, t - room + 1), t + 1))
        np.testing.assert_allclose(found["O"], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 25.0])
def test_pages(scale):
    """Two sequences of 3 and 0 tokens, and then 6 more each, in scattered pages of 2."""
    texts = [tokens(4, 2, 9, scale), tokens(4, 2, 9, -scale)]
    table, start = np.array([[5, 0, 7, 2, 9], [3, 8, 1, -1, -1]]), np.array([3, 0])
    pools = {"KP": garbage(10, 2, 2, 4), "VP": garbage(10, 2, 2, 3)}
    for t in range(3):
        for pool, text in zip(pools.values(), texts[0][1:], strict=True):
            pool[table[0, t // 2], t % 2] = text[:, t]
    steps = []
    for n in range(6):
        now = [
            [array[:, first + n] for array in text]
            for text, first in zip(texts, start, strict=True)
        ]
        q, k, v = (np.array(each) for each in zip(*now, strict=True))
        steps.append({"Q": q, "KN": k, "VN": v, "PT": table})
    for n, found in enumerate(called("paged_decode", steps, {**pools, "N": start.astype(float)})):
        for b, first in enumerate(start):
            expected = attended(*texts[b], range(first + n + 1))
            np.testing.assert_allclose(found["O"][b], expected, rtol=1e-9, atol=1e-12)
    assert found["NX"].tolist() == [9, 6]
    assert (found["KX"][[4, 6]] == 1e3).all()


@pytest.mark.parametrize("scale", [1.0, 25.0])
def test_int8(scale):
    q, k, v = tokens(4, 2, 7, scale)
    v[0, 2] = 0
    steps = [{"Q": q[:, t], "KN": k[:, t], "VN": v[:, t]} for t in range(7)]
    state = {"K8": garbage(2, 9, 4), "V8": garbage(2, 9, 3), "T": np.array(0.0)}
    state |= {"KS": garbage(2, 9), "VS": garbage(2, 9)}
    stored = [[restored(row) for row in head] for head in (*k, *v)]
    for t, found in enumerate(called("int8_decode", steps, state)):
        for h in range(4):
            keys, values = stored[h // 2], stored[2 + h // 2]
            logits = {m: dot(q[h, t], keys[m]) / 2 for m in range(t + 1)}
            expected = mixed(weights(logits), values, 3)
            np.testing.assert_allclose(found["O"][h], expected, rtol=1e-8, atol=1e-12)
    assert np.abs(found["KX"]).max() == 127
    np.testing.assert_array_equal(found["KX"], np.round(found["KX"]))


def restored(x):
    """A vector after int8 storage."""
    if not any(x):
        return np.zeros(len(x))
    numbers, unit = references_select.quantised(x)
    return np.array(numbers) * unit


@pytest.mark.parametrize("scale", [0.5, 1.0, 25.0])
def test_heavy_hitters(scale):
    """Room for 5 keys, of which the last 2 are safe."""
    q, k, v = tokens(2, 2, 14, scale)
    steps = [{"Q": q[:, t], "KN": k[:, t], "VN": v[:, t]} for t in range(14)]
    state = {"K": garbage(2, 5, 4), "V": garbage(2, 5, 3), "T": np.array(0.0)}
    state |= {"AC": np.zeros((2, 5)), "PO": garbage(2, 5)}
    kept, evicted = [{}, {}], 0
    for t, found in enumerate(called("heavy_hitters", steps, state, {"W": 2})):
        for h, had in enumerate(kept):
            if len(had) == 5:
                old = [m for m in had if m <= t - 2]
                del had[min(old, key=lambda m: (had[m], m))]
                evicted += 1
            had[t] = 0.0
            row = weights({m: scaled(q[h, t], k[h, m]) for m in had})
            for m, weight in row.items():
                had[m] += weight
            np.testing.assert_allclose(found["O"][h], mixed(row, v[h], 3), rtol=1e-9, atol=1e-12)
            assert set(found["PX"][h, : t + 1]) == set(had)
    assert evicted == 18

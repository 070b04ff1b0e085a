"""Random legal designs: cascades, shapes, machines and mappings of many kinds."""

import random
from dataclasses import replace

from penstock import zoo
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.shapes import bind
from penstock.errors import PenstockError
from penstock.mapper.check import check
from penstock.mapper.nodes import Compute, Keep, Loop, Nest
from penstock.mapper.search.build import default_mapping
from penstock.targets import TARGETS

FIXED = parse_format("fixed<16,6>")

CONVOLUTION = """
cascade convolution(X[x,c], W[u,c,k]) -> Y[y,k]
  shape y = 5
  Z[y,k] = X[2*y+u-1,c]*W[u,c,k] :: sum[u,c]
  Y[y,k] = relu(Z[y,k])
"""
SMOOTHED = """
cascade smoothed(X[t,c], A[c]) -> Y[t,c], S[t,c]
  init S[0,c] = X[0,c] * A[c]
  S[t+1,c] = S[t,c] + X[t,c] * A[c]
  Y[t,c] = max(S[t+1,c], S[t,c])
"""
MEANS = """
cascade means(X[b,t,c]) -> Y[b,t,c]
  M[b,t] = X[b,t,c] :: mean[c]
  D[b,t,c] = X[b,t,c] - M[b,t]
  V[b,t] = sq(D[b,t,c]) :: mean[c]
  Y[b,t,c] = D[b,t,c] / (V[b,t] + 0.5)
"""
STEPWISE = """
cascade stepwise(X[t,c], W[c,d]) -> Y[t,d]
  init S[0,d] = 0
  loop t:
    Z[t,d] = S[t,c]*W[c,d] :: sum[c]
    S[t+1,d] = Z[t,d] + X[t,d] s.t. t < 3 or t > 4
  Y[t,d] = S[t+1,d]
"""
LENGTHS = (1, 2, 4, 5, 7, 9)
ODD = {
    name: parse(text)
    for name, text in (
        ("convolution", CONVOLUTION),
        ("means", MEANS),
        ("stepwise", STEPWISE),
    )
}
NAMES = (
    "matmul",
    "attention",
    "attention_1pass",
    "attention_2pass",
    "attention_deferred",
    "causal_attention",
    "causal_attention_1pass",
    "gqa_causal",
    "gqa_causal_1pass",
    "sliding_window",
    "linear_attention",
    "cross",
    *ODD,
)


def cascade_of(name):
    return ODD[name] if name in ODD else zoo.load(name)


def bound_of(name, dice, lengths=LENGTHS):
    """Bind a cascade to random lengths (g divides h; windows are short)."""
    cascade = cascade_of(name)
    ranks = dict.fromkeys(rank for each in cascade.inputs for rank in each.ranks)
    shapes = {rank: dice.choice(lengths) for rank in ranks}
    if "g" in shapes:
        shapes["g"] = dice.choice((1, 2))
        shapes["h"] = shapes["g"] * dice.choice((1, 2))
    elif "h" in shapes:
        shapes["h"] = dice.choice((1, 2))
    if "b" in shapes:
        shapes["b"] = dice.choice((1, 2))
    if "m0" in cascade.shape:
        shapes["m0"] = dice.choice((1, 2, 3, 4))
    if "c" in shapes and "d" in shapes:
        shapes["d"] = shapes["c"]
    constants = {"W": dice.choice((1, 3, 6))} if name == "sliding_window" else None
    return bind(cascade, shapes=shapes, constants=constants)


def small_fusemax():
    """Return FuseMax with arrays of 4 x 4 and 4 places, and bandwidth that binds now and then."""
    target = TARGETS.get("fusemax")
    for path, value in (
        ("pe2d.rows", 4),
        ("pe2d.cols", 4),
        ("pe1d.lanes", 4),
        ("dram.bytes_per_cycle", 4.0),
        ("rf2d.capacity_bytes", 64),
        ("rf1d.capacity_bytes", 256),
    ):
        target = target.override(path, value)
    return replace(target, format="fixed<16,6>")


def ideal(target):
    """Return the machine without latency, skew, and with unlimited bandwidth."""
    arrays = tuple(replace(each, depth_cycles=0, skewed=False) for each in target.arrays)
    memories = tuple(replace(each, bytes_per_cycle=float("inf")) for each in target.memories)
    return replace(target, arrays=arrays, memories=memories)


def roomy(target):
    """Return the machine with memories in which everything fits."""
    memories = tuple(
        replace(each, capacity_bytes=max(each.capacity_bytes, 1 << 20)) for each in target.memories
    )
    return replace(target, memories=memories)


def design(name, target, dice, lengths=LENGTHS, pipelined=None):
    """Return (bound, mapping), or None if nothing legal was found in a few tries."""
    bound = bound_of(name, dice, lengths)
    for _ in range(6):
        mapping = default_mapping(bound, target, FIXED)
        body = mapping.body
        for change in (_tiled, _split, _dropped, _buffered):
            if dice.random() < 0.5:
                body = change(body, dice)
        if pipelined if pipelined is not None else dice.random() < 0.6:
            body = _pipelined(body, dice)
        changed = replace(mapping, body=body)
        try:
            check(changed, bound, target, FIXED)
        except PenstockError:
            continue
        return bound, changed
    return None


def _everywhere(body, change):
    """Apply a change to every node, bodies first."""
    return tuple(
        found
        for node in body
        for found in change(
            replace(node, body=_everywhere(node.body, change)) if isinstance(node, Nest) else node
        )
    )


def _tiled(body, dice):
    """Change the tiles of shared loops."""

    def change(node):
        if isinstance(node, Nest) and node.loop.tile > 1:
            return [replace(node, loop=replace(node.loop, tile=dice.choice((1, 2, 3, 4))))]
        return [node]

    return _everywhere(body, change)


def _split(body, dice):
    """Step some shared loops in two levels, and take loops out of leaves."""

    def change(node):
        if isinstance(node, Nest) and node.loop.tile == 1 and dice.random() < 0.3:
            return [Nest(Loop(node.loop.variable, dice.choice((2, 3))), (node,))]
        if isinstance(node, Compute) and node.loops and dice.random() < 0.4:
            first, *rest = node.loops
            if not first.spatial:
                return [Nest(first, (replace(node, loops=tuple(rest)),))]
        return [node]

    return _everywhere(body, change)


def _dropped(body, dice):
    """Keep some tensors, or all, nowhere."""
    share = dice.choice((0.0, 0.6, 0.9))

    def change(node):
        if isinstance(node, Keep):
            left = tuple(tensor for tensor in node.tensors if dice.random() < share)
            return [replace(node, tensors=left)] if left else []
        return [node]

    return _everywhere(body, change)


def _buffered(body, dice):
    def change(node):
        if isinstance(node, Keep):
            return [replace(node, buffers=dice.choice((1, 2, 3)))]
        return [node]

    return _everywhere(body, change)


def _pipelined(body, dice):
    """Pipeline the innermost shared loops, with stages that grow in program order."""

    def change(node):
        if not isinstance(node, Nest) or _holds_pipelined(node.body):
            return [node]
        stage, made = 0, []
        for each in node.body:
            if isinstance(each, Compute):
                stage += dice.random() < 0.3
                made.append(replace(each, stage=stage))
            else:
                made.append(each)
        return [replace(node, body=tuple(made), pipelined=True)]

    return _everywhere(body, change)


def _holds_pipelined(body):
    return any(
        isinstance(node, Nest) and (node.pipelined or _holds_pipelined(node.body)) for node in body
    )


def machines():
    mesh = TARGETS.get("mesh4x4")
    return {"mesh4x4": roomy(mesh), "fusemax": roomy(small_fusemax())}


def rolled(seed):
    return random.Random(seed)

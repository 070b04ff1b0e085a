"""ONNX ``Attention`` (opset 23 and 24) as Einsums.

::

    QK[b, h, p, m] = Q[b, h, p, e] * K[b, h//G, m, e] * SC
    QC[b, h, p, m] = CAP * tanh(QK[b, h, p, m] / CAP)                           softcap > 0
    S[b, h, p, m]  = QC[b, h, p, m] + ATTN_MASK[p, m] s.t. m <= p + N           masks
    A[b, h, p, m]  = softmax(S[b, h, p, m]; m)
    Y[b, h, p, f]  = A[b, h, p, m] * V[b, h//G, m, f]

b: batch, h: query heads, g: key heads, p: queries, m: keys (n past ones first), e and f: head
sizes. In a 3-D tensor, head h lies at ``h*E + e``.

Masks. What ``is_causal``, a boolean ``attn_mask``, its missing columns (ONNX: "padded with
negative infinity") and ``nonpad_kv_seqlen`` exclude is absent, so that a query without a key has
Y = 0. Version 1.22.0 of ONNX's reference gives NaN there, which its erratum (onnx/onnx pull
request 8068) makes 0. A float mask is added: -inf in it behaves as IEEE 754 says, and a row of
nothing but -inf gives NaN, as the reference. ``qk_matmul_output`` of mode 2 has -inf at absent
points. As in 1.22.0, causal is aligned to the upper left after the past keys (``m <= p + N``), with
``nonpad_kv_seqlen`` too. A last dimension of the mask that is shorter than the keys is padded, even
if it is 1 (as the reference does; a 1 elsewhere is broadcast).

Scale: Q and K are multiplied by it once; ONNX's two square roots guard fp16 products against
overflow, but inside an Einsum fp16 is computed in fp32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import and_

from penstock.einsum_ir.frontend.dsl import Tensor
from penstock.einsum_ir.frontend.terms import Operand, Rank, Term, fill, softmax, sqrt, tanh
from penstock.importers.onnx_build import Importing
from penstock.importers.onnx_graph import BOOL, FORMATS, Node

__all__ = ["attention"]

_ATTRIBUTES = {
    "is_causal",
    "kv_num_heads",
    "q_num_heads",
    "qk_matmul_output_mode",
    "scale",
    "softcap",
    "softmax_precision",
}

Reader = Callable[[Operand, Operand, Operand, Operand], Term]
"""(batch, key head, key, channel of the head) → the element."""


@dataclass(frozen=True, slots=True)
class _Call:
    """One node and its ranks (see above).

    ``flat`` says that Q, K and V are 3-D, ``group`` query heads share a key head, and ``new`` of
    the keys are this call's own.
    """

    node: Node
    to: Importing
    flat: bool
    b: Rank
    h: Rank
    g: Rank
    p: Rank
    m: Rank
    e: Rank
    f: Rank
    group: int
    new: int

    @property
    def logits(self) -> tuple[Rank, ...]:
        """The ranks of the logits."""
        return self.b, self.h, self.p, self.m

    @property
    def shared(self) -> Term:
        """The key head of a query head."""
        return self.h if self.group == 1 else self.h // self.group

    @property
    def old(self) -> int:
        """The number of past keys."""
        return self.to.extent(self.m) - self.new


def attention(node: Node, to: Importing) -> None:
    """Add the Einsums of an ``Attention`` node.

    Raises:
        ModelError: an attribute or a dimension that ONNX does not allow.
    """
    node.check_attributes(_ATTRIBUTES)
    call = _call(node, to)
    mode = node.choice("qk_matmul_output_mode", 0, (0, 1, 2, 3))
    keys = _cache(call, ("K", 1), ("past_key", 4), 1, call.e)
    values = _cache(call, ("V", 2), ("past_value", 5), 2, call.f)
    at = call.logits
    raw = to.between(
        "QK", at, _query(call) * keys(call.b, call.shared, call.m, call.e) * _scale(call)
    )
    capped = _capped(call, raw)
    masked = _masked(call, capped)
    weights = _softmax(call, masked)
    _result(call, weights[at] * values(call.b, call.shared, call.m, call.f))
    if node.output(3):
        tensor = (raw, capped, masked, weights)[mode]
        shown = fill(tensor[at], -math.inf) if mode == 2 else tensor[at]
        to.define(node.output(3), at, to.edge(node.inputs[0], node).element, shown)


# --- dimensions ---------------------------------------------------------------------------------


def _call(node: Node, to: Importing) -> _Call:
    query, key, value = (
        to.real(node.required(place, formal), node) for place, formal in enumerate("QKV")
    )
    dims = {len(query.dims), len(key.dims), len(value.dims)}
    if dims not in ({3}, {4}):
        raise node.wrong(
            f"has Q{query.dims}, K{key.dims}, V{value.dims}", "give all three 3 or 4 dimensions"
        )
    flat = dims == {3}
    heads, queries, size = _heads(node, query.dims, "q_num_heads", flat)
    shared, new, _ = _heads(node, key.dims, "kv_num_heads", flat)
    _, _, value_size = _heads(node, value.dims, "kv_num_heads", flat)
    if heads % shared:
        raise node.wrong(
            f"has {heads} query heads, which {shared} key heads do not divide",
            "make q_num_heads a multiple of kv_num_heads",
        )
    past = _past(node, to)
    return _Call(
        node,
        to,
        flat,
        to.rank("b", query.dims[0]),
        to.rank("h", heads),
        to.rank("h" if shared == heads else "g", shared),
        to.rank("p", queries),
        to.rank("m", past + new),
        to.rank("e", size),
        to.rank("f", value_size),
        heads // shared,
        new,
    )


def _heads(node: Node, dims: tuple[int, ...], name: str, flat: bool) -> tuple[int, int, int]:
    """Return the number of heads, the length of the sequence and the size of a head."""
    heads = node.integer(name)
    if flat and (heads is None or heads < 1):
        raise node.wrong(
            f"has 3-D inputs, but {name} is {heads}", f"set {name} to the number of heads"
        )
    if not flat:
        if heads is not None and heads != dims[1]:
            raise node.wrong(
                f"has {name} = {heads}, but 4-D inputs with {dims[1]} heads",
                f"leave {name} out: it is for 3-D inputs",
            )
        return dims[1], dims[2], dims[3]
    assert heads is not None
    if dims[2] % heads:
        raise node.wrong(
            f"has {name} = {heads}, which does not divide the {dims[2]} channels of an input",
            f"set {name} to a divisor of {dims[2]}",
        )
    return heads, dims[1], dims[2] // heads


def _past(node: Node, to: Importing) -> int:
    """Return the number of past keys."""
    if bool(node.input(4)) != bool(node.input(5)):
        raise node.wrong("has one of past_key and past_value", "give both of them, or neither")
    if not node.input(4):
        return 0
    if node.input(6):
        raise node.wrong(
            "has nonpad_kv_seqlen and past_key", "leave one out: ONNX does not allow both"
        )
    keys, values = (to.real(node.input(place), node).dims for place in (4, 5))
    if len(keys) != 4 or len(values) != 4 or keys[2] != values[2]:
        raise node.wrong(
            f"has past_key{keys} and past_value{values}",
            "give both 4 dimensions: batch, heads, past keys, head size",
        )
    return keys[2]


# --- operands -----------------------------------------------------------------------------------


def _query(call: _Call) -> Term:
    to, node = call.to, call.node
    if not call.flat:
        at = (call.b, call.h, call.p, call.e)
        return to.read(node.inputs[0], node, at).at(*at)
    u = to.rank("u", to.extent(call.h) * to.extent(call.e))
    source = to.read(node.inputs[0], node, (call.b, call.p, u))
    return source.at(call.b, call.p, call.h * call.e.shape + call.e)


def _fresh(call: _Call, name: str, channel: Rank, sequence: Rank) -> Reader:
    """Return how to read K or V, as this call gives it."""
    to, node = call.to, call.node
    if not call.flat:
        source = to.read(name, node, (call.b, call.g, sequence, channel))
        return source.at
    u = to.rank("u", to.extent(call.g) * to.extent(channel))
    flat = to.read(name, node, (call.b, sequence, u))
    return lambda b, g, m, e: flat.at(b, m, g * channel.shape + e)


def _cache(
    call: _Call, new: tuple[str, int], past: tuple[str, int], present: int, channel: Rank
) -> Reader:
    """Return how to read all keys or values: those of the past first, then those of this call.

    Args:
        call: the node.
        new: formal name and place of the input of this call.
        past: formal name and place of the input of earlier calls.
        present: place of the output that holds both.
        channel: rank of the head's channels.
    """
    to, node = call.to, call.node
    name = node.required(new[1], new[0])
    element = to.edge(name, node).element
    at = (call.b, call.g, call.m, channel)
    output = node.output(present)
    if not call.old:
        read = _fresh(call, name, channel, call.m)
        if output:
            to.define(output, at, element, read(*at))
        return read
    n = to.rank("n", call.old)
    before = to.read(node.input(past[1]), node, (call.b, call.g, n, channel))
    read = _fresh(call, name, channel, to.rank("l", call.new))
    count = before.ranks[2].shape
    first = before.at(*at).where(call.m < count)
    rest = read(call.b, call.g, call.m - count, channel)
    if output:
        whole = to.define(output, at, element, first).tensor
    else:
        whole = to.between(f"{new[0]}X", at, first, FORMATS[element])
    whole[at] = rest
    return lambda *place: whole[place]


def _scale(call: _Call) -> Term:
    scale = call.node.number("scale")
    return call.to.constant("SC", 1 / sqrt(call.e.shape) if scale is None else scale)


# --- from the logits to the result --------------------------------------------------------------


def _capped(call: _Call, raw: Tensor) -> Tensor:
    cap = call.node.number("softcap") or 0.0
    if cap < 0:
        raise call.node.wrong(
            f"has softcap = {cap:g}", "set it to a positive number, or 0 for none"
        )
    if not cap:
        return raw
    limit = call.to.constant("CAP", cap)
    return call.to.between("QC", call.logits, limit * tanh(raw[call.logits] / limit))


def _masked(call: _Call, logits: Tensor) -> Tensor:
    """Return the logits with masks: a float one is added, the others make points absent."""
    node, to = call.node, call.to
    allowed: list[Term] = []
    value: Term = logits[call.logits]
    if node.input(3):
        mask = _mask(call)
        if to.edge(node.input(3), node).element == BOOL:
            allowed.append(mask)
        else:
            value = value + mask
    if node.flag("is_causal"):
        allowed.append(call.m <= _last_key(call))
    if node.input(6):
        lengths = to.read(node.input(6), node, (call.b,))
        allowed.append(call.m < lengths.at(call.b))
    if not allowed:
        return to.between("S", call.logits, value) if node.input(3) else logits
    return to.between("S", call.logits, value.where(reduce(and_, allowed)))


def _last_key(call: _Call) -> Term:
    """Return the last key of a query, if attention is causal."""
    node, to = call.node, call.to
    if not call.old:
        return call.p
    at = (call.b, call.g, to.rank("n", call.old), call.e)
    return call.p + to.read(node.input(4), node, at).ranks[2].shape


def _mask(call: _Call) -> Term:
    """Return the element of ``attn_mask`` at a logit; absent where its last dimension ends."""
    node, to = call.node, call.to
    name = node.input(3)
    dims = to.edge(name, node).dims
    keys = to.extent(call.m)
    if not dims or dims[-1] >= keys:
        return to.broadcast(name, node, call.logits)
    short = to.rank("t", dims[-1])
    return to.broadcast(name, node, (*call.logits[:3], short), last=call.m)


def _softmax(call: _Call, logits: Tensor) -> Tensor:
    """Return the weights; ``softmax_precision`` rounds each tensor of the softmax to its format."""
    node, to = call.node, call.to
    at = call.logits
    if "softmax_precision" not in node.attributes:
        return to.between("A", at, softmax(logits[at], call.m))
    precision = FORMATS[node.choice("softmax_precision", 1, FORMATS)]
    cast = to.between("SP", at, logits[at], precision)
    return to.between("A", at, softmax(cast[at], call.m), precision)


def _result(call: _Call, right: Term) -> None:
    node, to = call.node, call.to
    element = to.edge(node.inputs[0], node).element
    at = (call.b, call.h, call.p, call.f)
    if not call.flat:
        to.define(node.result, at, element, right)
        return
    heads = to.between("O", at, right)
    size = call.f.shape
    w = to.rank("u", to.extent(call.h) * to.extent(call.f))
    joined = heads[call.b, w // size, call.p, w % size]
    to.define(node.result, (call.b, call.p, w), element, joined)

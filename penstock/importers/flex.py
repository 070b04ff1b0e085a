"""PyTorch ``flex_attention`` functions as cascades: ``score_mod`` and ``mask_mod``, run once.

The functions are those of ``torch.nn.attention.flex_attention`` (Dong et al., "Flex Attention",
arXiv:2412.05496, section 3): ``score_mod(score, b, h, q_idx, kv_idx)`` gives the new score and
``mask_mod(b, h, q_idx, kv_idx)`` whether the point exists. They run on `Traced` values and become
operators and an ``s.t.`` predicate of::

    QK[b, h, p, m] = SC * Q[b, h, p, e] * K[b, h // R, m, e]    s.t. mask_mod
    S[b, h, p, m] = score_mod(QK[b, h, p, m], b, h, p, m)
    O[b, h, p, f] = softmax over m of S, times V[b, h // R, m, f]

Positions are as written: ``q_idx >= kv_idx`` is left-aligned where the lengths differ. Excluded:
gradients, block masks (they follow from the predicate) and kernel options.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.frontend.dsl import Builder, Tensor
from penstock.einsum_ir.frontend.terms import (
    Rank,
    Term,
    Value,
    exp,
    ranks,
    reduce_max,
    reduce_sum,
    sqrt,
    such_that,
)
from penstock.einsum_ir.nodes import Access, Apply, Expr, Num, Var, walk
from penstock.errors import CascadeError
from penstock.importers.flex_capture import Capture
from penstock.importers.flex_operators import Element, truth
from penstock.importers.flex_terms import Store, Traced, traced

__all__ = ["Imported", "from_flex"]

Function = Callable[..., Any]

_TAKEN = frozenset({*"ABEFGHKMOPQRSV", "GM", "QK", "QS", "SC", "SD", "SN"})
_SCORE = Access("QK", (Var("b"), Var("h"), Var("p"), Var("m")))
_NEVER = Num(-math.inf)
_SIGNATURES = {
    "mask_mod": "mask_mod(b, h, q_idx, kv_idx)",
    "score_mod": "score_mod(score, b, h, q_idx, kv_idx)",
}


class Imported(NamedTuple):
    """A cascade, and the arrays that its functions captured, by the names of its inputs."""

    cascade: Cascade
    arrays: dict[str, NDArray[Any]]


def from_flex(
    score_mod: Function | None = None,
    mask_mod: Function | None = None,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    shapes: Mapping[str, int] | None = None,
    name: str = "flex_attention",
) -> Imported:
    """Return the cascade of ``flex_attention(q, k, v, score_mod, block_mask)``.

    Args:
        score_mod: ``(score, b, h, q_idx, kv_idx) -> score``; the identity if left out.
        mask_mod: ``(b, h, q_idx, kv_idx) -> bool``; every point exists if left out.
        scale: factor of the scores; ``1 / sqrt(E)`` if left out.
        enable_gqa: whether K and V have G heads (a divisor of H); query head h reads ``h // R``.
        shapes: rank variable (``b h g p m e f``) → extent, in coordinates, where it is known:
            indices that are then never negative are taken as they are, others modulo the array's
            size, as negative indices count from the end in Python.
        name: of the cascade.

    Returns:
        A cascade of ``Q[b, h, p, e], K[b, h, m, e], V[b, h, m, f]`` (``g`` for the heads of K and V
        with `enable_gqa`) and an input for each captured array; and these arrays. A row without a
        key has O = 0. An index beyond a captured array is absent (torch raises an error).

    Raises:
        CascadeError: a function does what no Einsum can: a Python ``if`` on an index, an unknown
            function, an array that is not indexed to one element.
    """
    store = Store(dict(shapes or {}), set(_TAKEN))
    capture = Capture(store)
    indices = [Traced(Element(Var(rank), "int"), store) for rank in "bhpm"]
    score = Traced(Element(_SCORE, "float"), store)
    mask = _traced(capture, store, "mask_mod", mask_mod, indices)
    new = _traced(capture, store, "score_mod", score_mod, [score, *indices])
    visible = None if mask is None or truth(mask).expr == Num(1) else truth(mask).expr
    body, seen = _apart(_SCORE if new is None else new.expr)
    tables = tuple(store.tables.values())
    infinite = any(isinstance(node, Num) and math.isinf(node.value) for node in walk(body))
    infinite |= any(
        each.values.dtype.kind == "f" and np.isinf(each.values).any() for each in tables
    )
    c = Builder(name, **dict(shapes or {}))
    c.const(SC=1 / sqrt(c.E) if scale is None else float(scale))
    heads: str = "h"
    head: Term = Rank("h")
    if enable_gqa:
        c.const(R=c.H // c.G)
        heads, head = "g", Rank("h") // c.R
    c.inputs(
        *(
            _tensor(c, tensor, rank)
            for tensor, rank in (("Q", "bhpe"), ("K", f"b{heads}me"), ("V", f"b{heads}mf"))
        ),
        *(_tensor(c, each.name, each.ranks) for each in tables),
    )
    _define(c, head, visible, body, seen, finite=not infinite)
    return Imported(c.build(), {each.name: each.values for each in tables})


def _tensor(c: Builder, name: str, names: Iterable[str]) -> Term:
    tensor: Tensor = getattr(c, name)
    return tensor[tuple(Rank(each) for each in names)]


def _define(
    c: Builder, head: Term, visible: Expr | None, body: Expr, seen: Expr | None, *, finite: bool
) -> None:
    """Add the Einsums of a softmax attention.

    Args:
        c: has the inputs and constants.
        head: of K and V, for query head h.
        visible: where a point exists.
        body: the new score.
        seen: where it is not -inf.
        finite: whether the new score is never -inf at these points.
    """
    b, h, p, m, e, f = ranks("b h p m e f")
    if seen is not None and _SCORE not in walk(seen):
        visible, seen = _both(visible, seen), None
    c.QS[b, h, p, e] = c.Q[b, h, p, e] * c.SC
    c.QK[b, h, p, m] = _such_that(reduce_sum(c.QS[b, h, p, e] * c.K[b, head, m, e], e), visible)
    scores = c.QK
    if body != _SCORE or seen is not None:
        c.S[b, h, p, m] = _such_that(Value(body), seen)
        scores = c.S
    c.GM[b, h, p] = reduce_max(scores[b, h, p, m])
    weight = exp(scores[b, h, p, m] - c.GM[b, h, p])
    c.SN[b, h, p, m] = weight if finite else such_that(weight, scores[b, h, p, m] > -math.inf)
    c.SD[b, h, p] = c.SN[b, h, p, m]
    c.A[b, h, p, m] = c.SN[b, h, p, m] / c.SD[b, h, p]
    c.O[b, h, p, f] = c.A[b, h, p, m] * c.V[b, head, m, f]


def _traced(
    capture: Capture, store: Store, kind: str, function: Function | None, args: list[Traced]
) -> Element | None:
    """Run a function on its arguments, if there is one."""
    if function is None:
        return None
    try:
        inspect.signature(function).bind(*args)
    except TypeError as error:
        what = f"{kind} cannot be called with {len(args)} arguments: {error}"
        raise CascadeError(what, fix=f"write {_SIGNATURES[kind]}") from None
    result = capture.prepared(function)(*args)
    if result is None:
        name = getattr(function, "__name__", str(function))
        raise CascadeError(f"{kind} {name} returns nothing", fix="end it with 'return ...'")
    return traced(result, store).element


def _such_that(value: Term, predicate: Expr | None) -> Term:
    return value if predicate is None else such_that(value, Value(predicate))


def _both(first: Expr | None, second: Expr | None) -> Expr | None:
    if first is None or second is None:
        return first if second is None else second
    return Apply("and", (first, second))


def _apart(score: Expr) -> tuple[Expr, Expr | None]:
    """Return a score and where it is not -inf, as far as that can be read off.

    before: ``where(c, x, -inf) + where(d, 0, -inf)``; after: ``x`` and ``c and d``.
    """
    match score:
        case Apply("where", (condition, x, never)) if never == _NEVER:
            body, seen = _apart(x)
            return body, _both(condition, seen)
        case Apply("where", (condition, never, x)) if never == _NEVER:
            body, seen = _apart(x)
            return body, _both(Apply("not", (condition,)), seen)
        case Apply("+", (x, y)):
            (left, first), (right, second) = _apart(x), _apart(y)
            if first is None and second is None:
                return score, None
            kept = [each for each in (left, right) if each != Num(0)]
            body = Apply("+", (left, right)) if len(kept) == 2 else (kept or [left])[0]
            return body, _both(first, second)
        case _:
            return score, None

"""Which intermediates are bf16 too where inputs and outputs are, so that products are of pairs.

A machine that adds two products of bf16 numbers at a time (`targets.cpu.adds_pairs`) wants both
factors of a sum of products in bf16. Inputs are. An intermediate may be where its rounding, half a
unit in its last place, stays that small: what is computed from it is linear in it. A softmax's
exponentials are such a factor; scores that go into an exponential are not, for that would make of
a rounded score of 1000 a wrong weight.

    Q * SC first, then its products with K  →  Q's products with K, in which SC is a factor

keeps Q itself the factor (`codegen/tvm/tiles.py` takes SC out of the sum again).

Excluded: running values, which would be rounded in each step; how products are added in pairs
(`codegen/tvm/pairs.py`).
"""

from __future__ import annotations

from collections.abc import Iterator

from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.nodes import Access, Apply, Einsum, Expr, Num, Sym, walk
from penstock.einsum_ir.rewrite.views import inlined
from penstock.einsum_ir.shapes import Bound

__all__ = ["factors", "unscaled"]

LINEAR = frozenset(("+", "-", "*", "/", "neg", "where", "fill"))


def unscaled(bound: Bound) -> Bound:
    """Return the form in which inputs times constants are read where they are."""
    return inlined(bound, scaled=True)


def factors(cascade: Cascade) -> frozenset[str]:
    """Return the intermediates that may be rounded as the inputs are, for the sake of products."""
    made = {each.name: each for each in cascade.einsums if not each.init}
    inputs = {each.tensor for each in cascade.inputs}
    fixed = {name for name, _ in cascade.formats} | {each.tensor for each in cascade.outputs}
    free = {
        name
        for name, einsum in made.items()
        if name not in fixed
        and einsum.reduce is None
        and einsum.iterative is None
        and not einsum.selects
        and _stays_linear(name, cascade)
    }
    found: set[str] = set()
    for each in made.values():
        pair = _product(each)
        if pair is not None and set(pair) <= free | inputs:
            found |= set(pair) & free
    return frozenset(found)


def _product(einsum: Einsum) -> tuple[str, ...] | None:
    """Return the two tensors whose products an Einsum sums; None if it does not."""
    if einsum.reduce is None or einsum.reduce.op != "sum":
        return None
    terms = list(_terms(einsum.body))
    tensors = tuple(each.tensor for each in terms if isinstance(each, Access))
    plain = all(isinstance(each, Access | Num | Sym) for each in terms)
    return tensors if plain and len(tensors) == 2 else None


def _terms(expr: Expr) -> Iterator[Expr]:
    match expr:
        case Apply("*", (left, right)):
            yield from (*_terms(left), *_terms(right))
        case _:
            yield expr


def _stays_linear(name: str, cascade: Cascade) -> bool:
    """Whether all that is computed from a tensor is linear in it, up to the outputs."""
    reached, wanted = {name}, [name]
    for each in wanted:
        for einsum in cascade.einsums:
            if all(access.tensor != each for access in einsum.operands):
                continue
            ops = {node.op for node in walk(einsum.body) if isinstance(node, Apply)}
            told = einsum.where is not None and any(
                isinstance(node, Access) and node.tensor == each for node in walk(einsum.where)
            )
            if told or not ops <= LINEAR or (einsum.reduce and einsum.reduce.op != "sum"):
                return False
            if einsum.name not in reached:
                reached.add(einsum.name)
                wanted.append(einsum.name)
    return True

"""Inputs on which a rewritten cascade may go wrong though its algebra is right.

Each family fills every input of a cascade; all of them lie side by side along one rank in front, so
that one run of `batched` serves them all. A family that the original cascade cannot compute itself
asks nothing (`gate.py`), so families may be as hard as they like.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from string import ascii_lowercase

import numpy as np

from penstock.einsum_ir.affine import affine
from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.interpreter.evaluate import coordinate_inputs
from penstock.einsum_ir.interpreter.rounding import Array
from penstock.einsum_ir.nodes import (
    Access,
    Apply,
    Declaration,
    Einsum,
    Expr,
    Group,
    Num,
    Statement,
    Sym,
    Var,
    accesses,
    leaves,
    variables,
    walk,
)
from penstock.einsum_ir.shapes import bind

__all__ = ["Families", "affordable", "batched", "families", "free_variable", "sizes"]

LENGTH = 35
"""Elements along the rank that is reduced: one full tile of 32 and one that is not."""

_MOST_POINTS = 2**20

Draw = Callable[[np.random.Generator, tuple[int, ...], int], Array]
"""(random numbers, shape, axis of the rank) → an input."""


@dataclass(frozen=True)
class Families:
    """Named inputs: ``arrays[tensor][i]`` is the tensor in family ``names[i]``."""

    names: tuple[str, ...]
    arrays: Mapping[str, Array]


def free_variable(cascade: Cascade) -> str:
    """Return a rank variable that the cascade does not use."""
    used = {name.lower() for name in _names(cascade)}
    return next(name for name in [*reversed(ascii_lowercase), "zz"] if name not in used)


def _names(cascade: Cascade) -> set[str]:
    ranks = {rank for each in cascade.inputs for rank in each.ranks}
    ranks |= {name for each in cascade.einsums for name in each.variables}
    return ranks | set(cascade.arity) | {name for name, _ in cascade.constants}


def batched(cascade: Cascade, rank: str, extent: int) -> Cascade:
    """Give every tensor one more rank in front.

    Before → after, with rank z: ``S[p] = X[p, m] :: sum[m]`` → ``S[z, p] = X[z, p, m] :: sum[m]``.
    """

    def statement(each: Statement) -> Statement:
        if isinstance(each, Group):
            return replace(each, einsums=tuple(einsum(inner) for inner in each.einsums))
        return einsum(each)

    def einsum(each: Einsum) -> Einsum:
        output = replace(each.output, indices=(Var(rank), *each.output.indices))
        where = None if each.where is None else _with_rank(each.where, rank)
        return replace(each, output=output, body=_with_rank(each.body, rank), where=where)

    def declaration(each: Declaration) -> Declaration:
        return replace(each, ranks=(rank, *each.ranks))

    return replace(
        cascade,
        inputs=tuple(declaration(each) for each in cascade.inputs),
        outputs=tuple(declaration(each) for each in cascade.outputs),
        statements=tuple(statement(each) for each in cascade.statements),
        shapes=(*cascade.shapes, (rank, extent)),
        states=(),
    )


def _with_rank(expr: Expr, rank: str) -> Expr:
    match expr:
        case Access(_, indices):
            inner = tuple(_with_rank(each, rank) for each in indices)
            return replace(expr, indices=(Var(rank), *inner))
        case Apply(_, args):
            return replace(expr, args=tuple(_with_rank(each, rank) for each in args))
        case Num() | Var() | Sym():
            return expr


def sizes(cascade: Cascade, rank: str) -> dict[str, int]:
    """Return small extents for the ranks of the inputs.

    Some that the cascade declares are kept (`_kept`), so that a real model's need not be computed.
    A rank that a predicate or an index compares with `rank` is a little longer than it, so that a
    right-aligned causal mask has rows without keys; what is read at a computed place, as
    ``B[p - m + M - 1]``, holds all differences of `rank` and of ranks with an extent; the others
    have 2 coordinates, or 3 where more than two ranks are compared.
    """
    found = {name: 2 for each in cascade.inputs for name in each.ranks}
    declared = {each.tensor: each.ranks for each in cascade.inputs}
    kept = _kept(cascade)
    given = {**kept, rank: LENGTH}
    for einsum in cascade.einsums:
        compared = [] if einsum.where is None else [einsum.where]
        for access in einsum.operands:
            for place, index in enumerate(access.indices):
                if isinstance(index, Var):
                    continue
                reach = max((given.get(name, 0) for name in variables(index)), default=0)
                if reach and access.tensor in declared:
                    name = declared[access.tensor][place]
                    found[name] = max(found[name], 2 * (reach + 3))
                if rank in _deciding(index):
                    compared.append(index)
        names = _deciding(*(each for each in compared if rank in _deciding(each)))
        extent = LENGTH + 3 if len(names) <= 2 else 3
        found |= {name: max(extent, found[name]) for name in names if name in found}
    found |= {name: extent for name, extent in kept.items() if name in found}
    found[rank] = LENGTH
    return found | {n: found[other] for n, other in _same(cascade).items() if n != rank}


def _kept(cascade: Cascade) -> dict[str, int]:
    """Return the declared extents that are of no input, that count blocks, or are small and meet.

    ``w * P + p`` counts blocks; a rank meets others where they are compared, or an index has both.
    """
    inputs = {name for each in cascade.inputs for name in each.ranks}
    reads = [access for each in cascade.einsums for access in (each.output, *each.operands)]
    computed = [i for access in reads for i in access.indices if not isinstance(i, Var)]
    places = [node for index in computed for node in walk(index)]
    blocks = [each for each in places if isinstance(each, Apply) and each.op in ("*", "//", "%")]
    counting = _symbols(cascade, blocks)
    wheres = [each.where for each in cascade.einsums if each.where is not None]
    meeting = _deciding(*computed, *wheres)
    return {
        name: extent
        for name, extent in cascade.shapes
        if name not in inputs or name in counting or (extent <= LENGTH + 3 and name in meeting)
    }


def _same(cascade: Cascade) -> dict[str, str]:
    """Return ranks of no input that are declared to be as long as one of an input that they read.

    As s of ``X[p, c] - X[s, c]``.
    """
    ranks = {each.tensor: each.ranks for each in cascade.inputs}
    shapes = dict(cascade.shapes)
    pairs = [
        (index.name, name)
        for einsum in cascade.einsums
        for access in einsum.operands
        for name, index in zip(ranks.get(access.tensor, ()), access.indices, strict=False)
        if isinstance(index, Var)
    ]
    inputs = {name for each in ranks.values() for name in each}
    return {
        read: name
        for read, name in pairs
        if read not in inputs and read in shapes and shapes[read] == shapes.get(name)
    }


def _symbols(cascade: Cascade, exprs: Sequence[Expr]) -> set[str]:
    """Return the ranks that expressions and the constants in them name, small or as a shape."""
    found = {n.name for each in exprs for n in walk(each) if isinstance(n, Var | Sym)}
    for name, value in reversed(cascade.constants):
        if name in found:
            found |= {node.name for node in walk(value) if isinstance(node, Sym)}
    return {each.lower() for each in found}


def affordable(
    cascade: Cascade,
    rank: str,
    free: Mapping[str, int],
    given: Mapping[str, int],
    constants: Mapping[str, float],
) -> dict[str, int]:
    """Return extents with the free ones halved, the largest first, until each Einsum is small.

    Two tables that are read at computed places would have 76 by 76 elements for each of 35.

    Args:
        cascade: whose Einsums are counted.
        rank: that is reduced: it keeps its extent.
        free: extents that may be smaller, but for those that are kept as declared.
        given: extents that may not.
        constants: for named scalars that the cascade leaves open.
    """
    found = {**free, **given}
    symbols = bind(cascade, shapes=found, constants=constants).symbols
    same = _same(cascade)
    fixed = {rank, *given, *_kept(cascade), *same, *same.values()}
    for name, extent in _reached(cascade, rank, symbols).items():
        if name not in fixed:
            found[name] = max(found[name], min(extent, 2 * (LENGTH + 3)))
    while True:
        extents = bind(cascade, shapes=found, constants=constants).extents
        points = max(prod(extents[name] for name in each.variables) for each in cascade.einsums)
        largest = max(
            (name for name in found if name not in fixed), key=found.__getitem__, default=rank
        )
        if points <= _MOST_POINTS or largest == rank or found[largest] <= 2:
            return found
        found[largest] = max(2, found[largest] // 2)


def _reached(cascade: Cascade, rank: str, symbols: Mapping[str, float]) -> dict[str, int]:
    """Return extents of input ranks that indices reach within one block, as x of ``j*X + x``."""
    declared = {each.tensor: each.ranks for each in cascade.inputs}
    known = {name: extent for name, extent in cascade.shapes if name != rank}
    found: dict[str, int] = {}
    for access in accesses(*(each.body for each in cascade.einsums)):
        for name, index in zip(declared.get(access.tensor, ()), access.indices, strict=False):
            form = None if isinstance(index, Var) else affine(index, symbols)
            if form is not None:
                inside = {each: known.get(each, 1) for each, _ in form.coefficients}
                found[name] = max(found.get(name, 0), 1 + form.maximum(inside))
    return found


def _deciding(*exprs: Expr) -> set[str]:
    """Return the variables whose coordinates decide, not those that choose an element."""
    return {each.name for each in leaves(*exprs) if isinstance(each, Var)}


def families(
    cascade: Cascade,
    rank: str,
    dims: Mapping[str, tuple[int, ...]],
    fmt: Format,
    *,
    finite: bool,
    seed: int,
) -> Families:
    """Return the inputs of all families.

    Args:
        cascade: the original.
        rank: what its reductions are over.
        dims: input → extents.
        fmt: limits how large and small numbers get.
        finite: leave infinities out; else they are in inputs that are no factors.
        seed: of the random numbers; the same seed, the same numbers.
    """
    own = {each.tensor: each.ranks for each in cascade.inputs}
    coordinates = coordinate_inputs(cascade)
    along = [name for name, ranks in own.items() if rank in ranks]
    values = [name for name in along if name not in coordinates]
    plans: dict[str, Mapping[str, Draw]] = {
        name: dict.fromkeys(values, draw) for name, draw in _everywhere(fmt).items()
    }
    for tensor in values:
        for name, draw in _alone(finite=finite or tensor in _factors(cascade)).items():
            rest = dict.fromkeys(set(own) - coordinates, _positive if "prefix" in name else _normal)
            plans[f"{tensor} {name}"] = rest | {tensor: draw}
    if masks := [name for name in along if name in coordinates]:
        plans["masked prefix"] = dict.fromkeys(masks, _prefix_mask)
        plans["fully masked"] = dict.fromkeys(masks, _zeros)
    parts: dict[str, list[Array]] = {name: [] for name in own}
    for name, plan in plans.items():
        rng = np.random.default_rng([seed, *name.encode()])
        for tensor, ranks in own.items():
            draw = plan.get(tensor, _coordinates if tensor in coordinates else _normal)
            parts[tensor].append(
                draw(rng, dims[tensor], ranks.index(rank) if rank in ranks else -1)
            )
    return Families(tuple(plans), {name: np.stack(each) for name, each in parts.items()})


def _factors(cascade: Cascade) -> set[str]:
    """Return the tensors that are multiplied or divided: nobody masks with an infinity there."""
    products = [
        node
        for einsum in cascade.einsums
        for node in walk(einsum.body)
        if isinstance(node, Apply) and node.op in ("*", "/")
    ]
    return {each.tensor for each in accesses(*products)}


def _everywhere(fmt: Format) -> dict[str, Draw]:
    """Families of all inputs with the rank; absolute ones for what takes logarithms and roots."""
    power = {"fp64": 200, "fp32": 25, "bf16": 25, "fp16": 3, "fp8_e5m2": 3}.get(fmt.name, 1)
    signed = _signed() | {
        "tiny": lambda rng, shape, axis: 10.0**-power * _normal(rng, shape, axis),
        "huge": lambda rng, shape, axis: 10.0**power * _normal(rng, shape, axis),
    }
    absolute: dict[str, Draw] = {
        "normal, positive": _absolute(_normal),
        "big, positive": _absolute(signed["big"]),
        "ascending, positive": lambda rng, *at: np.sort(_absolute(_normal)(rng, *at) * 10, at[1]),
        "descending, positive": lambda rng, *at: (
            -np.sort(_absolute(_normal)(rng, *at) * -10, at[1])
        ),
        "tiny, positive": _absolute(signed["tiny"]),
        "huge, positive": _absolute(signed["huge"]),
    }
    constant: dict[str, Draw] = {"constant": lambda _rng, shape, _axis: np.full(shape, 0.75)}
    return signed | absolute | constant | {"zero": _zeros}


def _alone(*, finite: bool) -> dict[str, Draw]:
    """Families of one input with the rank at a time."""
    kept = ("big", "offset 3e4", "offset -3e4", "ascending", "descending")
    draws = {name: draw for name, draw in _signed().items() if name in kept}
    draws["0 prefix"] = _prefix(0.0)
    return draws if finite else draws | {"-inf prefix": _prefix(-np.inf)}


def _signed() -> dict[str, Draw]:
    return {
        "normal": _normal,
        "big": lambda rng, shape, axis: 2000 * _normal(rng, shape, axis),
        "ascending": lambda rng, shape, axis: np.sort(10 * _normal(rng, shape, axis), axis),
        "descending": lambda rng, shape, axis: -np.sort(10 * _normal(rng, shape, axis), axis),
        "offset 1e4": lambda rng, shape, axis: 1e4 + _normal(rng, shape, axis),
        "offset 3e4": lambda rng, shape, axis: 3e4 + _normal(rng, shape, axis),
        "offset -3e4": lambda rng, shape, axis: -3e4 + _normal(rng, shape, axis),
    }


def _normal(rng: np.random.Generator, shape: tuple[int, ...], _axis: int) -> Array:
    return rng.normal(size=shape)


def _positive(rng: np.random.Generator, shape: tuple[int, ...], axis: int) -> Array:
    return np.abs(_normal(rng, shape, axis)) + 0.1


def _absolute(draw: Draw) -> Draw:
    return lambda rng, shape, axis: np.abs(draw(rng, shape, axis))


def _zeros(_rng: np.random.Generator, shape: tuple[int, ...], _axis: int) -> Array:
    return np.zeros(shape)


def _prefix(value: float) -> Draw:
    """Return positive numbers after a third of the rank that has this value."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...], axis: int) -> Array:
        numbers = _positive(rng, shape, axis)
        np.moveaxis(numbers, axis, 0)[: shape[axis] // 3] = value
        return numbers

    return draw


def _prefix_mask(rng: np.random.Generator, shape: tuple[int, ...], axis: int) -> Array:
    return np.minimum(np.ceil(_prefix(0.0)(rng, shape, axis)), 1)


def _coordinates(rng: np.random.Generator, shape: tuple[int, ...], axis: int) -> Array:
    """Return flags or numbers of documents along the rank, else coordinates such as lengths."""
    return rng.integers(0, 2 if axis >= 0 else LENGTH, size=shape).astype(np.float64)

"""From a cascade and some shapes to the extent of every rank and the size of every tensor.

`bind` is the one place where extents are inferred; the interpreter, the model, the simulator
and the generators all work on the `Bound` that it returns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock.einsum_ir.affine import Affine, affine, evaluate_scalar
from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.nodes import (
    Access,
    Apply,
    Einsum,
    Expr,
    Sym,
    Var,
    next_variable,
    variables,
    walk,
)
from penstock.errors import CascadeError, Span, nearest

__all__ = ["Bound", "bind", "rank_variables"]


@dataclass(frozen=True)
class Bound:
    """A cascade of which every extent is known.

    Args:
        cascade: the cascade, with the shapes that were given (not those that were inferred).
        extents: rank variable → number of coordinates.
        dims: tensor → its extents, in coordinates; an iterative rank of ``n`` steps has ``n+1``.
        symbols: upper-case name → value, for shapes (``M0``) and constants (``SC``).
    """

    cascade: Cascade
    extents: Mapping[str, int]
    dims: Mapping[str, tuple[int, ...]]
    symbols: Mapping[str, float] = field(default_factory=dict)


def bind(
    cascade: Cascade,
    *,
    shapes: Mapping[str, int] | None = None,
    constants: Mapping[str, float] | None = None,
) -> Bound:
    """Find the extent of every rank.

    Extents come from `shapes`, then the cascade's own, then from accesses: in ``K[m1*M0+m0]``
    the last unknown variable gets the extent that covers all of K (rounded up; what lies beyond
    K is absent). A constant wins over a shape of the same name.

    Args:
        cascade: any cascade.
        shapes: rank variable → extent, in coordinates; wins over the cascade's own.
        constants: upper-case name → value; wins over the cascade's own.

    Raises:
        CascadeError: an extent cannot be found or is not positive; a constant has no value, or
            is given but unknown.
    """
    given = {**cascade.shape, **(shapes or {})}
    known = dict(given)
    values = dict(constants or {})
    _check_extents(cascade, known)
    cascade.check_constants(values)
    symbols = _symbols(cascade, known, values)
    while new := _inferred(cascade, known, symbols):
        known |= new
        symbols = _symbols(cascade, known, values)
    _check_complete(cascade, known, symbols)
    used = {name: known[name] for name in rank_variables(cascade) if name in known}
    dims = {each.tensor: tuple(known[rank] for rank in each.ranks) for each in cascade.inputs}
    dims |= _defined_dims(cascade, known)
    named = cascade.with_shapes(**given)  # not the inferred ones: they follow from these
    return Bound(named, used, dims, symbols)


def _check_extents(cascade: Cascade, known: Mapping[str, int]) -> None:
    names = rank_variables(cascade)
    for name, extent in known.items():
        if name not in names:
            near = nearest(name, names)
            raise CascadeError(
                f"shape {name}={extent} names no rank of {cascade.name} (ranks: "
                f"{', '.join(names)})",
                fix=f"did you mean {near}?" if near else f"leave out {name}",
            )
        if extent < 1:
            raise CascadeError(
                f"rank {name} has extent {extent}", fix=f"give {name} at least 1 coordinate"
            )


def rank_variables(cascade: Cascade) -> tuple[str, ...]:
    """Return every rank of the inputs and every rank variable of the Einsums."""
    found = {rank: None for each in cascade.inputs for rank in each.ranks}
    found |= {name: None for einsum in cascade.einsums for name in einsum.variables}
    return tuple(found)


def _symbols(
    cascade: Cascade, known: Mapping[str, int], values: Mapping[str, float]
) -> dict[str, float]:
    """Return the named scalars that have a value: a constant hides a shape of the same name."""
    symbols: dict[str, float] = {name.upper(): extent for name, extent in known.items()}
    own = [(name, expr) for name, expr in cascade.constants if name not in values]
    for name, _ in own:
        symbols.pop(name, None)
    symbols |= values
    while own:
        found = {name: evaluate_scalar(expr, symbols) for name, expr in own}
        symbols |= {name: value for name, value in found.items() if value is not None}
        rest = [(name, expr) for name, expr in own if name not in symbols]
        if len(rest) == len(own):
            break
        own = rest
    return symbols


def _inferred(
    cascade: Cascade, known: Mapping[str, int], symbols: Mapping[str, float]
) -> dict[str, int]:
    """Return extents that follow from accesses with one unknown variable, plain ones first."""
    reads = [each for einsum in cascade.einsums for each in _reads(einsum)]
    for plain in (True, False):
        found: dict[str, int] = {}
        for access, chosen in reads:
            dims = _known_dims(cascade, access.tensor, known)
            for index, dim in zip(access.indices, dims, strict=True):
                form = affine(index, symbols)
                if form is None or dim is None or isinstance(index, Var) != plain:
                    continue
                for name, extent in _implied(form, dim, known).items():
                    if name not in chosen:
                        found[name] = max(found.get(name, 0), extent)
        if found:
            return found
    return _sorted(cascade, known) or _joined(cascade, known, symbols)


def _reads(einsum: Einsum) -> list[tuple[Access, frozenset[str]]]:
    """Return the operands, each with the variables that choose whether it is read.

    In ``where(n < G, X[n], Y[n - G])`` neither X nor Y tells the extent of n.
    """
    exprs = (einsum.body, *((einsum.where,) if einsum.where else ()), *einsum.output.indices)
    return [each for expr in exprs for each in _chosen(expr, frozenset())]


def _chosen(expr: Expr, by: frozenset[str]) -> list[tuple[Access, frozenset[str]]]:
    match expr:
        case Access(_, indices):
            return [(expr, by), *(each for index in indices for each in _chosen(index, by))]
        case Apply("where", (condition, *sides)):
            inner = by | set(variables(condition))
            found = [each for side in sides for each in _chosen(side, inner)]
            return [*_chosen(condition, by), *found]
        case Apply(_, args):
            return [each for arg in args for each in _chosen(arg, by)]
        case _:
            return []


def _joined(
    cascade: Cascade, known: Mapping[str, int], symbols: Mapping[str, float]
) -> dict[str, int]:
    """Return the extents of ranks that choose between tensors: they reach the end of each.

    In ``where(n < G, X[n], Y[n - G])`` the last n reads the last element of Y.
    """
    found: dict[str, int] = {}
    unsure: set[str] = set()
    for einsum in cascade.einsums:
        for access, chosen in _reads(einsum):
            dims = _known_dims(cascade, access.tensor, known)
            for index, dim in zip(access.indices, dims, strict=True):
                for name in chosen.intersection(variables(index)) - known.keys():
                    form = affine(index, symbols)
                    extent = form and dim and _reaching(form, dim, name, known)
                    if extent:
                        found[name] = max(found.get(name, 1), extent)
                    else:
                        unsure.add(name)
    return {name: extent for name, extent in found.items() if name not in unsure}


def _sorted(cascade: Cascade, known: Mapping[str, int]) -> dict[str, int]:
    """Return the extents of the ranks along which whole ranks are sorted (``argsort[m -> j]``)."""
    found: dict[str, int] = {}
    for reduce in (each.reduce for each in cascade.einsums):
        if reduce is None or reduce.op != "argsort" or reduce.into is None:
            continue
        if reduce.into not in known and all(name in known for name in reduce.over):
            found[reduce.into] = math.prod(known[name] for name in reduce.over)
    return found


def _implied(form: Affine, dim: int, known: Mapping[str, int]) -> dict[str, int]:
    """Return the extent of the one unknown variable of an index into `dim` coordinates.

    It is the smallest that reaches the last coordinate, but no step starts beyond that.
    Nothing follows if the index may be negative: there is more than one convention for halos.
    """
    unknown = [(name, factor) for name, factor in form.coefficients if name not in known]
    for name, factor in unknown:
        reaching = _reaching(form, dim, name, known)
        lowest = form.minimum({**known, name: 1}) if reaching else -1
        if reaching and lowest >= 0:
            return {name: max(1, min(reaching, (dim - 1 - lowest) // factor + 1))}
    return {}


def _reaching(form: Affine, dim: int, name: str, known: Mapping[str, int]) -> int | None:
    """Return the least extent of a variable for which an index reaches the last coordinate.

    None if it is not the only unknown one, or steps back.
    """
    factors = {each: factor for each, factor in form.coefficients if each not in known}
    if list(factors) != [name] or factors[name] < 1:
        return None
    return -((form.maximum({**known, name: 1}) - dim + 1) // factors[name]) + 1


def _known_dims(cascade: Cascade, tensor: str, known: Mapping[str, int]) -> tuple[int | None, ...]:
    for declaration in cascade.inputs:
        if declaration.tensor == tensor:
            return tuple(known.get(rank) for rank in declaration.ranks)
    output = next(e.output for e in cascade.einsums if e.name == tensor and not e.init)
    return tuple(_extent(index, known) for index in output.indices)


def _extent(index: Expr, known: Mapping[str, int]) -> int | None:
    """Return the extent of the dimension that a left side writes with this index."""
    if isinstance(index, Var):
        return known.get(index.name)
    name = next_variable(index)
    return known[name] + 1 if name is not None and name in known else None


def _defined_dims(cascade: Cascade, known: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    dims: dict[str, tuple[int, ...]] = {}
    for einsum in cascade.einsums:
        if not einsum.init:
            extents = [_extent(index, known) for index in einsum.output.indices]
            dims[einsum.name] = tuple(extent for extent in extents if extent is not None)
    return dims


def _check_complete(
    cascade: Cascade, known: Mapping[str, int], symbols: Mapping[str, float]
) -> None:
    for declaration in cascade.inputs:
        for rank in declaration.ranks:
            if rank not in known:
                raise _no_shape(rank, str(declaration), known, declaration.span)
    for einsum in cascade.einsums:
        for name in einsum.variables:
            if name not in known:
                place = _place(einsum, name)
                where = _where(einsum, place, name)
                raise _no_shape(name, str(place), known, where, value=_is_value(einsum, name))
        for expr in (einsum.body, *((einsum.where,) if einsum.where else ())):
            for node in walk(expr):
                if isinstance(node, Sym) and node.name not in symbols:
                    raise CascadeError(
                        f"constant {node.name} of {einsum.name} has no value",
                        span=node.span,
                        fix=f"add a line 'const {node.name} = 1', in Python "
                        f"c.const({node.name}=1), or give --const {node.name}=1",
                    )


def _no_shape(
    rank: str,
    place: str,
    known: Mapping[str, int],
    span: Span | None,
    *,
    value: bool = False,
) -> CascadeError:
    listed = ", ".join(sorted(known)) if known else "none"
    fix = f"add a line 'shape {rank} = 64', in Python c.shape({rank}=64), or give --shape {rank}=64"
    if value:
        fix += f"; for a constant, write {rank.upper()}"
    return CascadeError(
        f"rank variable '{rank}' of {place} has no shape (known: {listed})", span=span, fix=fix
    )


def _is_value(einsum: Einsum, name: str) -> bool:
    """Whether a variable is no index of the Einsum: perhaps a constant was meant."""
    return all(name not in variables(each) for each in (einsum.output, *einsum.operands))


def _place(einsum: Einsum, name: str) -> Access:
    """Return the first operand that is read at a variable, or the output if there is none."""
    return next((each for each in einsum.operands if name in variables(each)), einsum.output)


def _where(einsum: Einsum, place: Access, name: str) -> Span | None:
    """Return where the user wrote a variable, or else the access or Einsum that it is part of."""
    exprs = (place, einsum.output, einsum.body, *((einsum.where,) if einsum.where else ()))
    spans = (n.span for e in exprs for n in walk(e) if isinstance(n, Var) and n.name == name)
    found = next((span for span in spans if span is not None), None)
    return found or (place.span if name in variables(place) else einsum.span)

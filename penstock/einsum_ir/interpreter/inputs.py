"""The caller's arrays: do they fit the cascade, what format do they ask for, what do they fix.

Excluded on purpose: computing. Every mismatch is a `DataError` that names the tensor, the rank and
both sizes. NaN and infinities are allowed, but NaN not in a fixed format, which has none.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

import numpy as np
import numpy.typing as npt

from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.formats import Format, parse_format
from penstock.einsum_ir.interpreter.arithmetic import Arithmetic
from penstock.einsum_ir.interpreter.evaluate import Tensor
from penstock.einsum_ir.interpreter.rounding import Array, quantise
from penstock.einsum_ir.nodes import Declaration, Sym, walk
from penstock.einsum_ir.shapes import Bound, bind
from penstock.errors import DataError, nearest

__all__ = ["as_stored", "bind_arrays", "check_inputs", "default_format"]

Arrays = Mapping[str, npt.ArrayLike]


def default_format(inputs: Arrays, formats: Container[str] = ()) -> Format:
    """Return the widest float format among the arrays.

    float64 asks for fp64, float32 for fp32, float16 for fp16; integers and booleans of at most 16
    bits for fp32, wider ones for fp64. All other formats are used on request only.

    Args:
        inputs: tensor → array.
        formats: the tensors that have their own format, which do not count; fp32 if all have.

    Raises:
        DataError: an array that holds no real numbers.
    """
    ranks = [
        _format_rank(name, np.asarray(each)) for name, each in inputs.items() if name not in formats
    ]
    return parse_format(("fp16", "fp32", "fp64")[max(ranks, default=1)])


def _format_rank(name: str, array: Array) -> int:
    _check_type(name, array)
    if array.ndim == 0 and array.dtype.kind != "f":
        return 0  # a constant, as in --const W=4
    if array.dtype.kind == "f":
        return {2: 0, 4: 1}.get(array.dtype.itemsize, 2)
    return 1 if array.dtype.itemsize <= 2 else 2


def _check_type(name: str, array: Array) -> None:
    if array.dtype.kind not in "fiub":
        raise DataError(
            f"array {name} has elements of type {array.dtype}",
            fix="give floats, integers or booleans",
        )


def check_inputs(bound: Bound, inputs: Arrays) -> None:
    """Check that the arrays are those that the cascade declares, with its shapes.

    A 0-d array named like a constant of the cascade may be among them if it has its value.

    Raises:
        DataError: an array is missing, superfluous, of the wrong shape, or no array of numbers.
    """
    _check_names(bound.cascade, inputs, bound.symbols)
    for declaration in bound.cascade.inputs:
        array = np.asarray(inputs[declaration.tensor])
        _check_type(declaration.tensor, array)
        _check_dimensions(declaration, array)
        dims = bound.dims[declaration.tensor]
        for rank, size, extent in zip(declaration.ranks, array.shape, dims, strict=True):
            if size != extent:
                raise DataError(
                    f"array {declaration} has size {size} along rank {rank}, which has "
                    f"{extent} coordinates",
                    span=declaration.span,
                    fix=f"give an array with {extent} along {rank}, or --shape {rank}={size}",
                )
    for name, value in _scalars(bound.cascade, inputs).items():
        if name in bound.symbols and bound.symbols[name] != value:
            raise DataError(
                f"array {name} is {value:g}, but the cascade was bound with {name} = "
                f"{bound.symbols[name]:g}",
                fix=f"leave out array {name}, or bind with it (bind_arrays)",
            )


def _check_dimensions(declaration: Declaration, array: Array) -> None:
    if array.ndim != len(declaration.ranks):
        raise DataError(
            f"array {declaration.tensor} has {array.ndim} dimensions {array.shape}, input "
            f"{declaration} has {len(declaration.ranks)} ranks",
            span=declaration.span,
            fix="give an array with one dimension for each rank, in that order",
        )


def _check_names(cascade: Cascade, inputs: Arrays, symbols: Iterable[str]) -> None:
    declared = {each.tensor: each for each in cascade.inputs}
    given = ", ".join(sorted(inputs)) if inputs else "none"
    for name, declaration in declared.items():
        if name not in inputs:
            raise DataError(
                f"input {declaration} has no array (given: {given})",
                span=declaration.span,
                fix=f"add an array '{name}'",
            )
    known = set(symbols)
    for name, array in inputs.items():
        if name in declared or (name in known and np.ndim(array) == 0):
            continue
        if name in known:
            raise DataError(
                f"array {name} has {np.ndim(array)} dimensions {np.shape(array)}, but {name} is a "
                f"constant of {cascade.name}",
                fix=f"give one number, or declare {name} among the inputs, with its ranks",
            )
        near = nearest(name, [*declared, *known])
        raise DataError(
            f"array {name} belongs to no input of {cascade.name} (inputs: "
            f"{', '.join(declared) or 'none'})",
            fix=f"did you mean {near}?" if near else f"leave out {name}",
        )


def _scalars(cascade: Cascade, inputs: Arrays) -> dict[str, float]:
    """Return the values of the 0-d arrays that are no inputs of the cascade."""
    declared = {each.tensor for each in cascade.inputs}
    values: dict[str, float] = {}
    for name, given in inputs.items():
        array = np.asarray(given)
        if name not in declared and array.ndim == 0:
            _check_type(name, array)
            values[name] = float(array)
    return values


def bind_arrays(
    cascade: Cascade,
    inputs: Arrays,
    *,
    shapes: Mapping[str, int] | None = None,
    constants: Mapping[str, float] | None = None,
) -> Bound:
    """Bind a cascade to the shapes of arrays.

    Args:
        cascade: any cascade; its own shapes give way to those of the arrays.
        inputs: tensor → array. 0-d arrays named like a constant of the cascade are constants.
        shapes: rank variable → extent, for ranks that no array has.
        constants: upper-case name → value.

    Raises:
        DataError: an array is missing, superfluous, or of the wrong number of dimensions; or two
            of arrays, `shapes` and `constants` disagree.
        CascadeError: an extent or a constant is still unknown.
    """
    _check_names(cascade, inputs, _constant_names(cascade) | set(constants or {}))
    sizes = _sizes(cascade, inputs, shapes or {})
    values = dict(constants or {})
    for name, value in _scalars(cascade, inputs).items():
        if values.setdefault(name, value) != value:
            raise DataError(
                f"array {name} is {value:g}, --const {name} says {values[name]:g}",
                fix=f"give {name} once",
            )
    return bind(cascade, shapes=sizes, constants=values)


def _sizes(cascade: Cascade, inputs: Arrays, shapes: Mapping[str, int]) -> dict[str, int]:
    """Return the extents that arrays and `shapes` give, which must agree."""
    extents = {name: (extent, "--shape") for name, extent in shapes.items()}
    for declaration in cascade.inputs:
        array = np.asarray(inputs[declaration.tensor])
        _check_type(declaration.tensor, array)
        _check_dimensions(declaration, array)
        for rank, size in zip(declaration.ranks, array.shape, strict=True):
            extent, source = extents.setdefault(rank, (size, f"array {declaration.tensor}"))
            if extent != size:
                raise DataError(
                    f"array {declaration} has size {size} along rank {rank}, {source} says "
                    f"{extent}",
                    span=declaration.span,
                    fix=f"make both sizes of {rank} equal",
                )
    return {name: extent for name, (extent, _) in extents.items()}


def _constant_names(cascade: Cascade) -> set[str]:
    """Return the upper-case names that the cascade defines or uses."""
    names = {name for name, _ in cascade.constants}
    exprs = [expr for _, expr in cascade.constants]
    for einsum in cascade.einsums:
        exprs += [einsum.body, einsum.output, *([einsum.where] if einsum.where else [])]
    return names | {node.name for expr in exprs for node in walk(expr) if isinstance(node, Sym)}


def as_stored(
    declaration: Declaration,
    array: Array,
    arithmetic: Arithmetic,
    fmt: Format | None = None,
    *,
    raw: bool,
    counted: bool = False,
) -> Tensor:
    """Return an input as the interpreter holds it: rounded to the format, or as it is.

    Args:
        declaration: of the input, for messages.
        array: what the caller gave.
        arithmetic: of the format of the run.
        fmt: the input's own format.
        raw: whether only indices and predicates read it, so that only a format of its own rounds.
        counted: whether its elements, if they are whole, are coordinates (`whole.py`).

    Raises:
        DataError: NaN, and the format has none.
    """
    try:
        if counted and fmt is None and array.dtype.kind == "f" and _is_whole(array):
            return Tensor(array.astype(np.int64), raw=True)
        if raw:
            return Tensor(array if fmt is None else quantise(array, fmt), raw=True, format=fmt)
        return Tensor(arithmetic.encode(array, fmt), format=fmt)
    except DataError as error:
        raise DataError(
            f"input {declaration}: {error.what}", span=declaration.span, fix=error.fix
        ) from None


def _is_whole(array: Array) -> bool:
    return bool(np.all(np.isfinite(array) & (array == np.floor(array)) & (np.abs(array) < 2**53)))

"""What a `Program` means: it is translated to Python once, which is then run.

Every index that the ranges of the loops do not prove is checked, and so is the state of every mask
before it is read. In floating point values are NumPy scalars of the compute type. In fixed point
they are Python integers, exact, with fraction bits that are known when the text is made
(`loops/python.py`). First contents of a buffer are NaN, or the lowest number of a fixed format.

Excluded on purpose: speed beyond toy sizes (about a million points a second... of one operator).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.codegen.loops.nodes import Buffer, Program
from penstock.codegen.loops.python import translate
from penstock.codegen.loops.values import Unset, runtime
from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.interpreter.rounding import (
    Array,
    compute_type,
    from_fixed,
    quantise,
    to_fixed,
)
from penstock.errors import DataError

__all__ = ["run_program"]


def run_program(program: Program, inputs: Mapping[str, npt.ArrayLike]) -> dict[str, Array]:
    """Run a program.

    Args:
        program: any.
        inputs: parameter → array of the parameter's shape, any real type.

    Returns:
        Output → array, in the type that `quantise` returns for its format.

    Raises:
        DataError: an input is missing or has another shape, or an operator has no fixed-point form.
        IndexError: the program reads or writes outside a buffer (which no lowered program does).
    """
    fmt = program.format
    names = {each.name: f"b{number}" for number, each in enumerate(_parameters(program))}
    memory: dict[str, Any] = {}
    for each in program.inputs:
        memory[names[each.name]] = _elements(each, inputs, fmt)
    for each in program.outputs:
        memory[names[each.name]] = [Unset.value(each.kind, fmt)] * int(np.prod(each.shape))
    scope = {**runtime(program), **memory}
    exec(compile(translate(program, names), f"<{program.name}>", "exec"), scope)
    with np.errstate(all="ignore"):
        scope["run"]()
    return {each.name: _array(memory[names[each.name]], each, fmt) for each in program.outputs}


def _parameters(program: Program) -> tuple[Buffer, ...]:
    return (*program.inputs, *program.outputs)


def _elements(buffer: Buffer, inputs: Mapping[str, npt.ArrayLike], fmt: Format) -> list[Any]:
    """Return the elements of an input in the form in which the program computes."""
    if buffer.name not in inputs:
        raise DataError(
            f"input {buffer.name} is missing",
            fix=f"give an array of shape {buffer.shape} for {buffer.name}",
        )
    given = np.asarray(inputs[buffer.name])
    if given.shape != buffer.shape:
        raise DataError(
            f"input {buffer.name} has shape {given.shape}, the program wants {buffer.shape}",
            fix="give an array of that shape, or generate the program for the other one",
        )
    if buffer.kind == "index":
        given = given if buffer.own is None else quantise(given, buffer.own)
        return [_coordinate(each, fmt) for each in given.ravel().tolist()]
    if fmt.exact:
        integers: list[Any] = to_fixed(given, buffer.own or fmt).ravel().tolist()
        return integers
    return list(quantise(given, buffer.own or fmt).astype(compute_type(fmt)).ravel())


def _coordinate(value: float, fmt: Format) -> float:
    """Return a whole number as it is, any other rounded to the format."""
    if value == np.floor(value):
        return int(value) if np.isfinite(value) else value
    return float(quantise(np.asarray(value), fmt))


def _array(elements: list[Any], buffer: Buffer, fmt: Format) -> Array:
    if buffer.kind == "index":
        return np.array(elements, dtype=np.int64).reshape(buffer.shape)
    if fmt.exact:
        integers = np.array(elements, dtype=np.int64).reshape(buffer.shape)
        return from_fixed(integers, buffer.own or fmt)
    computed = np.array(elements, dtype=compute_type(fmt)).reshape(buffer.shape)
    return quantise(computed, buffer.own or fmt)

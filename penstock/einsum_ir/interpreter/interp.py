"""The NumPy interpreter: what a cascade means, for the whole of it or box by box.

Semantics (what an expression is at a point: `evaluate.py`; sums: `reduce.py`):

* The value of an Einsum at a point of its left side is the body, folded over the other variables.
* A point is **absent** if its predicate is false, an index is out of range, or an operand is
  absent. A reduction skips absent points; over none at all it is absent. An absent element is 0 in
  the arrays that come out. Presence is a mask, never a special value: -inf, inf and NaN behave
  as IEEE 754 says, and absent points never meet them.
* ``X[i+1] = f`` is computed for i = 0, 1, ...; where f is absent, X[i+1] is X[i], present or not.
  ``init X[0] = f`` (or ``init X[i+1]``, with i = -1) gives coordinate 0, which is absent without.
  In a ``loop i:`` group each step computes all Einsums in order, at i.
* An element is rounded when it is written (an input: when it enters) to the number format of the
  run, or of its tensor if that has one. In between, fp8, fp16 and bf16 runs are computed in fp32,
  fp32 and fp64 in themselves, fixed exactly (`exact.py`), so that there the order of summation, and
  how boxes are cut, does not change a bit.

Memory: tensors are whole arrays, dropped after their last use, but `interpret` holds only one or
two steps of what nobody reads later (`lockstep.py`); temporaries hold a few times `reduce.LIMIT`
elements. What is absent all over a box is not computed, where that is quickly seen.

Excluded on purpose: machines and mappings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from penstock.einsum_ir.formats import Format, run_format, tensor_formats
from penstock.einsum_ir.interpreter import lockstep
from penstock.einsum_ir.interpreter.arithmetic import Arithmetic, FloatArithmetic, Number
from penstock.einsum_ir.interpreter.blocking import Run, cuts, held_lengths, runs
from penstock.einsum_ir.interpreter.evaluate import Range, Scope, Tensor, coordinate_inputs
from penstock.einsum_ir.interpreter.exact import FixedArithmetic
from penstock.einsum_ir.interpreter.inputs import as_stored, check_inputs, default_format
from penstock.einsum_ir.interpreter.lockstep import blocks
from penstock.einsum_ir.interpreter.reduce import (
    Partial,
    Plan,
    merge,
    partial,
    plan,
    split,
    too_large,
)
from penstock.einsum_ir.interpreter.rounding import Array, check_formats, quantise
from penstock.einsum_ir.interpreter.select import selected
from penstock.einsum_ir.interpreter.whole import whole_inputs
from penstock.einsum_ir.nodes import Einsum, Group, Statement, Var, next_variable
from penstock.einsum_ir.regions.bounds import box_status
from penstock.einsum_ir.shapes import Bound
from penstock.errors import DataError, UnknownNameError

__all__ = ["Evaluator", "check_inputs", "default_format", "interpret"]

Box = Mapping[str, Range]
Region = tuple[slice, ...]


def interpret(
    bound: Bound,
    inputs: Mapping[str, npt.ArrayLike],
    fmt: Format | None = None,
    *,
    keep: bool = False,
) -> dict[str, Array]:
    """Compute a cascade.

    Args:
        bound: the cascade with its extents.
        inputs: tensor → array of shape ``bound.dims[tensor]``, any real type.
        fmt: the number format of the run; None takes `default_format`.
        keep: return every tensor that an Einsum defines, not the outputs alone.

    Returns:
        Tensor → array of the type that `quantise` returns for its format, int64 for the
        coordinates of a selection; 0 where absent.

    Raises:
        DataError: arrays that do not fit, NaN in a fixed or integer format, an operator that the
            format does not have, or a tensor's format that does not go with the run's.
    """
    chosen = fmt or default_format(inputs, dict(bound.cascade.formats))
    levels = [] if keep else cuts(bound)
    held = None if keep else held_lengths(bound, levels)
    evaluator = Evaluator(bound, inputs, chosen, held=held)
    schedule = tuple(runs(bound, levels))
    last = {} if keep else _last_uses(bound, schedule)
    for number, each in enumerate(schedule):
        for tensor in each.fresh:
            evaluator.drop(tensor)
        evaluator.run(each.statement, each.box)
        for tensor in [name for name, place in last.items() if place == number]:
            evaluator.drop(tensor)
    names = dict.fromkeys(each.name for each in bound.cascade.einsums)
    return {name: evaluator.tensor(name) for name in names} if keep else evaluator.outputs()


def _last_uses(bound: Bound, schedule: Sequence[Run]) -> dict[str, int]:
    """Return the place in the schedule of each tensor's last use, outputs left out."""
    last: dict[str, int] = {}
    for number, run in enumerate(schedule):
        statement = run.statement
        for einsum in statement.einsums if isinstance(statement, Group) else (statement,):
            last |= {access.tensor: number for access in einsum.operands}
            last[einsum.name] = number
    outputs = {each.tensor for each in bound.cascade.outputs}
    return {name: number for name, number in last.items() if name not in outputs}


@dataclass(slots=True)
class _Sums:
    """A reduction in progress, over the whole left side.

    ``first`` is the number of the reduced box that came first at each element (0: none yet). The
    same box coming again means that the element is computed anew.
    """

    total: Partial
    first: Array
    boxes: dict[tuple[Range, ...], int]


class Evaluator:
    """Computes Einsums box by box, in the order in which it is asked.

    Tensors begin absent nowhere and 0; who reads an element before it is computed gets 0. Inputs
    are checked and rounded to the format on the way in.

    Args:
        bound: the cascade with its extents.
        inputs: tensor → array.
        fmt: the number format of the run.
        held: tensor → dimension → how many coordinates are held of it, the latest ones; the others
            are whole. Where there are such tensors only `run` may be called, in the order of
            `blocking.runs`, and `tensor` gives no more than outputs.

    Raises:
        DataError: as `check_inputs`, NaN in a fixed or integer format, or a tensor's format that
            does not go with the run's.
    """

    def __init__(
        self,
        bound: Bound,
        inputs: Mapping[str, npt.ArrayLike],
        fmt: Format,
        *,
        held: Mapping[str, Mapping[int, int]] | None = None,
    ) -> None:
        check_inputs(bound, inputs)
        self._bound = bound
        self._held = held or {}
        self._formats = tensor_formats(bound.cascade.formats)
        check_formats(self._formats, run_format(fmt))
        self._arithmetic: Arithmetic = FixedArithmetic(fmt) if fmt.exact else FloatArithmetic(fmt)
        exact, counted = coordinate_inputs(bound.cascade), whole_inputs(bound.cascade)
        self._tensors: dict[str, Tensor] = {}
        with np.errstate(all="ignore"):
            for declaration in bound.cascade.inputs:
                name = declaration.tensor
                self._tensors[name] = as_stored(
                    declaration,
                    np.asarray(inputs[name]),
                    self._arithmetic,
                    self._formats.get(name),
                    raw=name in exact,
                    counted=name in counted,
                )
        self._plans = {
            (einsum.name, einsum.init): plan(einsum, exact=fmt.exact)
            for einsum in bound.cascade.einsums
        }
        self._sums: dict[str, _Sums] = {}

    # --- what is asked --------------------------------------------------------------------------

    def run(self, statement: Statement, box: Box | None = None) -> None:
        """Compute an Einsum or a ``loop`` group, all of it or over a box without its steps."""
        with np.errstate(all="ignore"):
            if isinstance(statement, Group):
                self._run_group(statement, box or {})
            else:
                self._run(self._plan(statement), self._box(statement, box or {}))

    def compute(self, einsum: Einsum, box: Box) -> None:
        """Compute the points of a box; sums over part of a rank are added up over calls.

        Args:
            einsum: of the cascade.
            box: variable → (start, stop); a variable left out means its whole range, and what
                exceeds its range is left out. Coming again with the same range of the reduced
                variables starts the sums there anew.

        An Einsum without reduction, and an ``init`` one, is written at once; others by `finish`.
        """
        full = self._box(einsum, box)
        if any(stop <= start for start, stop in full.values()):
            return
        with np.errstate(all="ignore"):
            each = self._plan(einsum)
            for part in self._steps(einsum, full):
                if einsum.reduce is None or einsum.init or einsum.selects:
                    self._run(each, part)
                else:
                    self._accumulate(each, part)

    def finish(self, einsum: Einsum, box: Box) -> None:
        """Round the sums of a box to the format and write them; may be repeated."""
        if einsum.name not in self._sums or einsum.init:
            return
        full = self._box(einsum, box)
        if any(stop <= start for start, stop in full.values()):
            return
        with np.errstate(all="ignore"):
            each = self._plan(einsum)
            for part in self._steps(einsum, full):
                self._write(each, part, self._slice(each, part))

    def skip(self, einsum: Einsum, box: Box) -> None:
        """Note that no point of a box has any effect: without any other, elements are absent.

        A state goes on with its coordinate before. Sums that have begun are left alone.
        """
        full = self._box(einsum, box)
        if any(stop <= start for start, stop in full.values()):
            return
        each = self._plan(einsum)
        for part in self._steps(einsum, full):
            sums = self._sums.get(einsum.name)
            if sums is None or not sums.first[_places(each, part)].any():
                one = np.zeros((1,) * len(einsum.variables), dtype=np.bool_)
                self._write(each, part, Partial(self._arithmetic.constant(0.0), one))

    def tensor(self, name: str) -> Array:
        """Return a tensor's values so far, rounded, 0 where absent, as `interpret` does.

        Raises:
            UnknownNameError: the cascade has no such tensor.
        """
        if name in self._tensors and self._tensors[name].raw:
            return np.array(self._tensors[name].data)
        with np.errstate(all="ignore"):
            tensor = self._known(name)
            return np.array(self._arithmetic.decode(tensor.data, tensor.format))

    def present(self, name: str) -> npt.NDArray[np.bool_]:
        """Return where a tensor is present, as an array of its shape.

        Raises:
            UnknownNameError: the cascade has no such tensor.
        """
        tensor = self._known(name)
        if tensor.present is None:
            return np.ones(tensor.data.shape, dtype=np.bool_)
        return tensor.present.copy()

    def outputs(self) -> dict[str, Array]:
        """Return the outputs of the cascade: tensor → array."""
        return {each.tensor: self.tensor(each.tensor) for each in self._bound.cascade.outputs}

    def drop(self, name: str) -> None:
        """Forget a tensor that is not read any more."""
        self._tensors.pop(name, None)
        self._sums.pop(name, None)

    # --- boxes and plans ------------------------------------------------------------------------

    def _plan(self, einsum: Einsum) -> Plan:
        for access in einsum.operands:
            self._known(access.tensor)  # perhaps not written yet
        return self._plans[einsum.name, einsum.init]

    def _box(self, einsum: Einsum, box: Box) -> dict[str, Range]:
        """Return a range for every variable, inside its extent."""
        full: dict[str, Range] = {}
        for name in einsum.variables:
            extent = self._bound.extents[name]
            start, stop = box.get(name, (0, extent))
            full[name] = max(start, 0), min(stop, extent)
        if einsum.init and einsum.iterative is not None:
            full[einsum.iterative] = (-1, 0)
        return full

    def _steps(self, einsum: Einsum, box: Box) -> Sequence[Box]:
        """Cut a box into the steps of the Einsum's iterative rank."""
        name = None if einsum.init else einsum.iterative
        if name is None:
            return [box]
        return [{**box, name: (step, step + 1)} for step in range(*box[name])]

    def _scope(self, box: Box) -> Scope:
        return Scope(self._tensors, self._arithmetic, self._bound.symbols, box)

    def _run(self, each: Plan, box: Box) -> None:
        """Compute and write a box, in parts where temporaries would be too large."""
        if self._absent(each.einsum, box):
            self._write_absent(each.einsum, box)
            return
        if each.einsum.selects:
            self._write(each, box, selected(each.einsum, self._scope, box))
            return
        largest = too_large(each, box)
        halves = split(box, each.kept, largest) if largest else None
        if halves is None:
            self._write(each, box, partial(each, self._scope, box))
            return
        for half in halves:
            self._run(each, half)

    def _run_group(self, group: Group, outer: Box) -> None:
        for block in blocks(self._bound, group, outer):
            for step in range(self._bound.extents[group.variable]):
                for einsum in group.einsums:
                    box = self._box(einsum, {**block, group.variable: (step, step + 1)})
                    self._run(self._plan(einsum), box)

    def _absent(self, einsum: Einsum, box: Box) -> bool:
        """Whether all of a box is seen to be absent; what is not seen is computed."""
        symbols = self._bound.symbols
        if math.prod(stop - start for start, stop in box.values()) <= lockstep.SMALL:
            return False
        if einsum.where is not None:
            low = {name: np.asarray(start) for name, (start, _) in box.items()}
            high = {name: np.asarray(stop - 1) for name, (_, stop) in box.items()}
            if box_status(einsum.where, low, high, symbols) < 0:
                return True
        return self._scope(box).absent(einsum.body)

    # --- writing --------------------------------------------------------------------------------

    def _known(self, name: str) -> Tensor:
        if name not in self._tensors:
            if name not in self._bound.dims:
                raise UnknownNameError("tensor", name, self._bound.dims)
            dims = self._bound.dims[name]
            raw, own = self._bound.cascade.einsum(name).selects, self._formats.get(name)
            zero = np.zeros((), dtype=np.int64)
            kind = _coordinates(zero, own).dtype if raw else self._arithmetic.encode(zero).dtype
            lengths = self._held.get(name, {})
            held = tuple(min(n, lengths.get(place, n)) for place, n in enumerate(dims))
            tensor = Tensor(np.zeros(held, dtype=kind), raw=raw, dims=dims, format=own)
            self._tensors[name] = tensor
            if name in self._bound.cascade.iterative and dims:
                _, position = self._bound.cascade.iterative[name]
                tensor.present = np.ones(held, dtype=np.bool_)
                tensor.present[_at(len(dims), position, slice(0, 1))] = False
        return self._tensors[name]

    def _write(self, each: Plan, box: Box, done: Partial) -> None:
        """Round to the format and write; where absent, 0, or the coordinate before."""
        einsum, number, present = each.einsum, done.number, done.present
        if done.count is not None:
            number = self._arithmetic.mean(number, np.maximum(done.count, 1))
        shape = tuple(box[name][1] - box[name][0] for name in each.kept)
        tensor = self._known(einsum.name)
        region = self._region(einsum, box)
        stored = _kept(self._rounded(einsum, tensor, number, present), shape)
        mask = None if present is None or bool(present.all()) else _kept(present, shape)
        if mask is not None:
            before = np.zeros((), dtype=tensor.data.dtype)
            if einsum.iterative is not None and not einsum.init:
                earlier = self._region(einsum, box, lag=1)
                before = _as_written(tensor.data[earlier], shape)
                if tensor.present is not None:
                    mask_before = _as_written(tensor.present[earlier], shape)
                    stored, mask = np.where(mask, stored, before), mask | mask_before
            stored = np.where(mask, stored, before)
            if tensor.present is None:
                tensor.present = np.ones(tensor.data.shape, dtype=np.bool_)
        tensor.data[region] = stored.reshape(tensor.data[region].shape)
        if tensor.present is not None:
            here = True if mask is None else mask.reshape(tensor.data[region].shape)
            tensor.present[region] = here

    def _rounded(
        self, einsum: Einsum, tensor: Tensor, number: Number, present: Array | None
    ) -> Array:
        """Round to the format of the tensor or of the run; absent numbers are arbitrary."""
        if tensor.raw:
            return _coordinates(number.data, tensor.format)
        if tensor.format is None:
            return self._arithmetic.store(number)
        if present is not None:
            number = self._arithmetic.select(present, number, self._arithmetic.constant(0.0))
        try:
            return self._arithmetic.store(number, tensor.format)
        except DataError as error:
            raise DataError(
                f"{einsum.output}: {error.what}", span=einsum.output.span, fix=error.fix
            ) from None

    def _write_absent(self, einsum: Einsum, box: Box) -> None:
        """Write a box that is absent all over: 0, or the coordinate before."""
        tensor, region = self._known(einsum.name), self._region(einsum, box)
        if einsum.iterative is not None and not einsum.init:
            earlier = self._region(einsum, box, lag=1)
            if earlier != region:
                tensor.data[region] = tensor.data[earlier]
                if tensor.present is not None:
                    tensor.present[region] = tensor.present[earlier]
            return
        if tensor.present is None:
            tensor.present = np.ones(tensor.data.shape, dtype=np.bool_)
        tensor.data[region] = 0
        tensor.present[region] = False

    def _region(self, einsum: Einsum, box: Box, lag: int = 0) -> Region:
        """Return where the left side of an Einsum is written over a box."""
        tensor, region = self._known(einsum.name), []
        for place, index in enumerate(einsum.output.indices):
            step = next_variable(index)
            if isinstance(index, Var):
                region.append(tensor.held(place, box[index.name]))
            elif step is not None:
                start, stop = box[step]
                region.append(tensor.held(place, (start + 1 - lag, stop + 1 - lag)))
            else:
                region.append(slice(0, 1))  # an init: cascades allow nothing else
        return tuple(region)

    # --- sums in progress -----------------------------------------------------------------------

    def _accumulate(self, each: Plan, box: Box) -> None:
        """Add the points of a box to the sums of the Einsum."""
        done = partial(each, self._scope, box)
        sums = self._sums.get(each.einsum.name)
        if sums is None:
            sums = self._sums[each.einsum.name] = self._no_sums(each, done)
        key = tuple(box[name] for name in each.reduced)
        number = sums.boxes.setdefault(key, len(sums.boxes) + 1)
        where = _places(each, box)
        fresh = (sums.first[where] == 0) | (sums.first[where] == number)
        before = self._slice(each, box)
        present = np.asarray(~fresh if before.present is None else before.present & ~fresh)
        count = None if before.count is None else np.where(fresh, 0, before.count)
        total = merge(each, self._scope(box), replace(before, present=present, count=count), done)
        self._put(sums, where, total)
        sums.first[where] = np.where(fresh, number, sums.first[where])

    def _no_sums(self, each: Plan, like: Partial) -> _Sums:
        extents = self._bound.extents
        shape = tuple(extents[name] if name in each.kept else 1 for name in each.einsum.variables)
        data = np.zeros(shape, dtype=like.number.data.dtype)
        count = None if like.count is None else np.zeros(shape, dtype=np.int64)
        present = np.zeros(shape, dtype=np.bool_)
        total = Partial(replace(like.number, data=data), present, count)
        return _Sums(total, np.zeros(shape, dtype=np.int64), {})

    def _slice(self, each: Plan, box: Box) -> Partial:
        """Return the sums so far over a box."""
        total, where = self._sums[each.einsum.name].total, _places(each, box)
        return Partial(
            replace(total.number, data=total.number.data[where]),
            None if total.present is None else total.present[where],
            None if total.count is None else total.count[where],
        )

    def _put(self, sums: _Sums, where: Region, part: Partial) -> None:
        whole, number = self._arithmetic.aligned([sums.total.number, part.number])
        data = whole.data
        if number.data.dtype == object and data.dtype != object:
            data = data.astype(object)
        data[where] = number.data
        bits = max(number.bits, whole.bits)
        sums.total = replace(sums.total, number=replace(number, data=data, bits=bits))
        if sums.total.present is not None:
            sums.total.present[where] = True if part.present is None else part.present
        if sums.total.count is not None and part.count is not None:
            sums.total.count[where] = part.count


def _coordinates(data: Array, fmt: Format | None) -> Array:
    """Return selected coordinates, which only a format of their own rounds."""
    return data if fmt is None else quantise(data, fmt)


def _places(each: Plan, box: Box) -> Region:
    """Return where a box lies in arrays over the whole left side."""
    return tuple(
        slice(*box[name]) if name in each.kept else slice(0, 1) for name in each.einsum.variables
    )


def _kept(array: Array, shape: tuple[int, ...]) -> Array:
    """Drop the reduced axes (of size 1) and give the others their full length."""
    return np.broadcast_to(array.reshape(array.shape[: len(shape)]), shape)


def _as_written(array: Array, shape: tuple[int, ...]) -> Array:
    return array.reshape(shape)


def _at(dims: int, position: int, where: slice) -> Region:
    return tuple(where if place == position else slice(None) for place in range(dims))

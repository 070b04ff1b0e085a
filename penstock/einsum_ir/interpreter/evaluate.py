"""The value of an expression at every point of a box, with presence.

A `Scope` is a box of an Einsum's iteration space: for each rank variable a half-open range. Every
array in it has one axis for each variable, in order, of the range's length or 1 where the value
does not depend on the variable.

* A rank variable is its coordinate, an exact integer, and so are ``+ - * // % abs max min clamp
  ...`` of coordinates and whole constants: ``m1*M0+m0``, ``p-m``, ``h//R`` are never rounded.
* A constant (`Num`, `Sym`) that meets a value is one of the compute type; in a fixed format it is
  rounded to the format first.
* A comparison that reads no tensor (``m <= p``, ``abs(s-n) <= D*T``) is decided in exact integers
  and float64, whatever the format. So is every index.
* An index that is out of range, absent or no whole number makes the point absent; negative indices
  do not wrap around. So does ``//`` or ``%`` of coordinates by zero.
* Tensors that only indices and predicates read hold coordinates: they are never rounded
  (`coordinate_inputs`).
* Any operator is absent where an operand is, but for ``fill(x, v)``, v where x is absent (absent
  where both are), and ``where(c, a, b)``, absent where c or the chosen side is. Presence is a mask
  beside the array (None: present everywhere); data at absent points is arbitrary, save in
  what `load` returns: 0 (tensors store 0 there).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from penstock.einsum_ir.affine import affine
from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.interpreter.arithmetic import (
    Arithmetic,
    FloatArithmetic,
    Number,
    apply_operator,
    integer_number,
    literal_number,
    real,
    truth,
)
from penstock.einsum_ir.interpreter.rounding import Array
from penstock.einsum_ir.nodes import (
    Access,
    Apply,
    Expr,
    Num,
    Sym,
    Var,
    accesses,
    leaves,
    walk,
)
from penstock.einsum_ir.ops import OPERATORS

__all__ = [
    "FLOAT64",
    "Range",
    "Scope",
    "Tensor",
    "Value",
    "both",
    "compared_inputs",
    "coordinate_inputs",
    "reads",
    "whole",
]

FLOAT64 = FloatArithmetic(Format("fp64", "float", 64))

Range = tuple[int, int]


@dataclass(slots=True)
class Tensor:
    """A tensor's elements as they are stored, and where they are present (None: everywhere).

    Args:
        data: the elements. Where an axis is shorter than in `dims`, only the latest coordinates
            are held: coordinate c at place c modulo the axis' length.
        present: a mask of the shape of `data`.
        raw: the elements are coordinates, kept as the caller gave them.
        dims: extents; those of `data` if left out.
        format: its own number format; None: that of the run.
    """

    data: Array
    present: Array | None = None
    raw: bool = False
    dims: tuple[int, ...] | None = None
    format: Format | None = None

    @property
    def extents(self) -> tuple[int, ...]:
        """The tensor's shape, whatever is held of it."""
        return self.data.shape if self.dims is None else self.dims

    def held(self, place: int, coordinates: Range) -> slice:
        """Return where coordinates are along an axis: as many as it holds, or a single one."""
        start, stop = coordinates
        at = start % self.data.shape[place]
        return slice(at, at + stop - start)


@dataclass(frozen=True, slots=True)
class Value:
    """Numbers over a box, and where they are present (None: everywhere)."""

    number: Number
    present: Array | None = None


def both(a: Array | None, b: Array | None) -> Array | None:
    """Return where both are present."""
    if a is None or b is None:
        return b if a is None else a
    return np.asarray(a & b)


def coordinate_inputs(cascade: Cascade) -> frozenset[str]:
    """Return the inputs that only indices and predicates read: they hold coordinates."""
    names = {each.tensor for each in cascade.inputs}
    read: set[str] = set()
    valued: set[str] = set()
    for einsum in cascade.einsums:
        read |= {each.tensor for each in einsum.operands}
        valued |= {each.tensor for each in leaves(einsum.body) if isinstance(each, Access)}
    return frozenset((names & read) - valued)


def compared_inputs(
    predicate: Expr, candidates: AbstractSet[str]
) -> Iterator[tuple[Apply, set[str]]]:
    """Yield comparisons of candidates with coordinates or each other, and the tensors in each."""
    for node in walk(predicate):
        if isinstance(node, Apply) and OPERATORS[node.op].kind == "comparison":
            read = [each for each in leaves(node) if isinstance(each, Access | Var)]
            tensors = {each.tensor for each in read if isinstance(each, Access)}
            if tensors <= candidates and len(read) > 1:
                yield node, tensors


@dataclass(frozen=True, slots=True)
class _Pick:
    """How an access takes one dimension.

    ``where`` is an integer, a slice along the axis ``axis``, or (``axis`` -1) an index array.
    """

    where: Any
    axis: int = -1


@dataclass(frozen=True)
class Scope:
    """A box of an iteration space in which expressions are evaluated.

    Args:
        tensors: name → what is known of it so far.
        arithmetic: of the format.
        symbols: upper-case name → value.
        box: variable → (start, stop), in the order of the axes.
        exact: evaluate in exact integers and float64, as indices are.
    """

    tensors: Mapping[str, Tensor]
    arithmetic: Arithmetic
    symbols: Mapping[str, float]
    box: Mapping[str, Range]
    exact: bool = False

    @property
    def _active(self) -> Arithmetic:
        return FLOAT64 if self.exact else self.arithmetic

    @property
    def _precise(self) -> Scope:
        return self if self.exact else replace(self, exact=True)

    def number(self, value: Value) -> Number:
        """Return the value as real numbers of the arithmetic, with all axes."""
        number = real(self._active, value.number)
        if number.data.ndim == len(self.box):
            return number
        return replace(number, data=number.data.reshape((1,) * len(self.box)))

    def predicate(self, expr: Expr) -> Array:
        """Return where a predicate holds; one that reads an absent element does not."""
        value = self.value(expr)
        holds = truth(value.number)
        met = holds if value.present is None else np.asarray(holds & value.present)
        return met if met.ndim == len(self.box) else met.reshape((1,) * len(self.box))

    def absent(self, expr: Expr) -> bool:
        """Whether an expression is surely absent at every point; cheap, and often unsure."""
        match expr:
            case Access(tensor):
                return self._absent(expr, self.tensors[tensor])
            case Apply("where", (condition, _, _)):
                return self.absent(condition)
            case Apply("fill", args):
                return all(self.absent(arg) for arg in args)
            case Apply(_, args):
                return any(self.absent(arg) for arg in args)
            case Num() | Var() | Sym():
                return False

    def _absent(self, access: Access, tensor: Tensor) -> bool:
        if tensor.present is None:
            return False
        picks = self._picks(access, tensor)
        where = tuple(pick.where if isinstance(pick, _Pick) else slice(None) for pick in picks)
        return not tensor.present[where].any()

    def value(self, expr: Expr) -> Value:
        """Evaluate an expression at every point of the box."""
        match expr:
            case Num(constant):
                return Value(self._constant(constant))
            case Sym(name):
                return Value(self._constant(self.symbols[name]))
            case Var(name):
                return Value(integer_number(self._coordinates(name)))
            case Access():
                return self._load(expr)
            case Apply("where", (condition, then, otherwise)):
                return self._where(condition, then, otherwise)
            case Apply("fill", (inner, instead)):
                return self._fill(inner, instead)
            case Apply(op, args):
                precise = OPERATORS[op].kind == "comparison" and not accesses(expr)
                scope = self._precise if precise else self
                return scope._apply(op, [scope.value(arg) for arg in args])

    def _constant(self, value: float) -> Number:
        if float(value).is_integer() and abs(value) < 2**62:
            return literal_number(int(value))
        return self._active.constant(value)

    def _coordinates(self, name: str) -> Array:
        start, stop = self.box[name]
        shape = [stop - start if each == name else 1 for each in self.box]
        return np.arange(start, stop, dtype=np.int64).reshape(shape)

    def _apply(self, op: str, args: list[Value]) -> Value:
        present = None
        for arg in args:
            present = both(present, arg.present)
        numbers = [arg.number for arg in args]
        if op in ("//", "%") and all(each.kind != "real" for each in numbers):
            divisor = np.asarray(numbers[1].data != 0)
            if not divisor.all():
                present = both(present, divisor)
                numbers[1] = integer_number(np.where(divisor, numbers[1].data, 1))
        return Value(apply_operator(self._active, op, numbers), present)

    def _select(self, condition: Array, then: Number, otherwise: Number) -> Number:
        if then.kind != "real" and otherwise.kind != "real":
            return integer_number(np.where(condition, then.data, otherwise.data))
        active = self._active
        return active.select(condition, real(active, then), real(active, otherwise))

    def _where(self, condition: Expr, then: Expr, otherwise: Expr) -> Value:
        test, yes, no = self.value(condition), self.value(then), self.value(otherwise)
        chosen = truth(test.number)
        present = test.present
        if yes.present is not None or no.present is not None:
            sides = [True if each.present is None else each.present for each in (yes, no)]
            present = both(present, np.where(chosen, *sides))
        return Value(self._select(chosen, yes.number, no.number), present)

    def _fill(self, inner: Expr, instead: Expr) -> Value:
        value, default = self.value(inner), self.value(instead)
        if value.present is None:
            return value
        number = self._select(value.present, value.number, default.number)
        if default.present is None:
            return Value(number)
        return Value(number, np.asarray(value.present | default.present))

    # --- accesses -----------------------------------------------------------------------------

    def _load(self, access: Access) -> Value:
        tensor = self.tensors[access.tensor]
        picks = self._picks(access, tensor)
        present: Array | None = None
        gathered: list[Array] = []
        for place, pick in enumerate(picks):
            if isinstance(pick, Value):
                index, valid = whole(pick, tensor.extents[place])
                present = both(present, valid)
                gathered.append(index)
        slots = [pick if isinstance(pick, _Pick) else _Pick(None) for pick in picks]
        slots, gathered = self._unshared(slots, gathered)
        data = self._take(tensor.data, slots, gathered)
        if present is not None:
            data = np.where(present, data, np.zeros((), dtype=data.dtype))
        if tensor.present is not None:
            mask = self._take(tensor.present, slots, gathered)
            present = present if mask.all() else both(present, mask)
        return Value(self._loaded(tensor, data), present)

    def _picks(self, access: Access, tensor: Tensor) -> list[_Pick | Value]:
        """Return for each dimension which of the coordinates that are held an access takes."""
        picks: list[_Pick | Value] = []
        for place, (index, dim) in enumerate(zip(access.indices, tensor.extents, strict=True)):
            pick = self._pick(index, dim)
            if tensor.data.shape[place] != dim and isinstance(pick, _Pick):
                if isinstance(pick.where, int):
                    pick = _Pick(tensor.held(place, (pick.where, pick.where + 1)).start)
                else:
                    held = tensor.held(place, (pick.where.start, pick.where.stop))
                    pick = _Pick(held, pick.axis)
            picks.append(pick)
        return picks

    def _loaded(self, tensor: Tensor, data: Array) -> Number:
        if tensor.raw and data.dtype.kind in "iub":
            return integer_number(data if data.dtype == np.bool_ else data.astype(np.int64))
        if tensor.raw:
            wide = data.astype(np.float64)
            if self.exact:
                return Number(wide)
            return self._active.load(self._active.encode(wide, tensor.format), tensor.format)
        if self.exact:
            return Number(self.arithmetic.decode(data, tensor.format).astype(np.float64))
        return self.arithmetic.load(data, tensor.format)

    def _pick(self, index: Expr, dim: int) -> _Pick | Value:
        """Return an integer or a slice where the whole range is inside, else index numbers."""
        form = affine(index, self.symbols)
        if form is None:
            return self._precise.value(index)
        constant, rest = form.constant, []
        for name, factor in form.coefficients:
            start, stop = self.box[name]
            constant += factor * start
            if stop - start != 1:
                rest.append((name, factor, stop - start))
        if not rest and 0 <= constant < dim:
            return _Pick(constant)
        if len(rest) == 1:
            name, factor, steps = rest[0]
            end = constant + factor * (steps - 1)
            if factor > 0 and constant >= 0 and end < dim:
                return _Pick(slice(constant, end + 1, factor), list(self.box).index(name))
        return self._precise.value(index)

    def _unshared(
        self, slots: list[_Pick], gathered: list[Array]
    ) -> tuple[list[_Pick], list[Array]]:
        """Turn slices into index arrays where another dimension varies along the same axis."""
        nd = len(self.box)
        used = [axis for each in gathered for axis in range(nd) if _size(each, axis, nd) > 1]
        used += [slot.axis for slot in slots if slot.axis >= 0]
        arrays = iter(gathered)
        found: list[Array] = []
        result: list[_Pick] = []
        for slot in slots:
            if slot.where is None:
                found.append(next(arrays))
                result.append(slot)
            elif slot.axis >= 0 and used.count(slot.axis) > 1:
                shape = [-1 if axis == slot.axis else 1 for axis in range(nd)]
                steps = np.arange(slot.where.start, slot.where.stop, slot.where.step)
                found.append(steps.reshape(shape))
                result.append(_Pick(None))
            else:
                result.append(slot)
        return result, found

    def _take(self, data: Array, slots: list[_Pick], gathered: list[Array]) -> Array:
        """Take the elements and give the result one axis for each variable."""
        nd = len(self.box)
        basic = tuple(slice(None) if slot.where is None else slot.where for slot in slots)
        part = data[basic]
        kept = [slot for slot in slots if not isinstance(slot.where, int)]
        sliced = [slot.axis for slot in kept if slot.where is not None]
        free = [place for place, slot in enumerate(kept) if slot.where is None]
        shape = np.broadcast_shapes(*(each.shape for each in gathered))
        axes = [axis for axis, size in enumerate(shape) if size > 1]
        if free:
            others = [place for place, slot in enumerate(kept) if slot.where is not None]
            part = part.transpose(*free, *others)
            flat = [each.reshape([_size(each, axis, nd) for axis in axes]) for each in gathered]
            part = part[tuple(flat)]
        axes += sliced
        part = part.transpose(*np.argsort(axes)) if axes else part
        full = [1] * nd
        for axis, size in zip(sorted(axes), part.shape, strict=True):
            full[axis] = size
        return part.reshape(full)


def _size(array: Array, axis: int, nd: int) -> int:
    return array.shape[axis] if array.ndim == nd else 1


def whole(value: Value, dim: int) -> tuple[Array, Array | None]:
    """Return indices inside ``0 .. dim - 1`` and where they are what the expression says."""
    data = value.number.data
    if data.dtype.kind == "f":
        whole = np.isfinite(data) & (data == np.floor(data)) & (np.abs(data) < 2.0**62)
        data = np.where(whole, data, -1).astype(np.int64)
    data = data.astype(np.int64)
    inside = (data >= 0) & (data < dim)
    if inside.all():
        return data, value.present
    return np.clip(data, 0, dim - 1), both(value.present, inside)


def reads(expr: Expr) -> frozenset[str]:
    """Return the variables of an expression, indices included."""
    return frozenset(node.name for node in walk(expr) if isinstance(node, Var))

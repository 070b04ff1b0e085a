"""The numerical gate: which rewritten forms are as good in a number format as what was written.

Equal algebra is not equal arithmetic: ``sum x^2 - (sum x)^2 / n`` is the variance, and has no
correct digit left at an offset of 1e4 in fp32. So each form is run on families of hard inputs
(`families.py`) in the format, by the interpreter, and passes if its error stays within a factor of
the original's own, plus a floor. The reference is the original in fp64 (in extended precision for
fp64).

* Where the original itself fails, nothing is asked of a form; nor where the reference is NaN or
  has overflown. An infinity that is due to a mask (-inf as log of nothing) must be the same one.
* If that leaves no family with an output other than 0, every form is refused: nothing would show
  that it is right.
* What is *on the way* to an output (other reductions) must be there wherever the original has it:
  an output may overflow in each family that would show that a form has lost a factor of it.
* An error is the largest of an output in a family, relative to the largest magnitude there.
  Of coordinates, it is the share that differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.formats import EXTENDED, Format, parse_format
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.interpreter.rounding import Array
from penstock.einsum_ir.rewrite.families import (
    Families,
    affordable,
    batched,
    families,
    free_variable,
    sizes,
)
from penstock.einsum_ir.shapes import bind, rank_variables
from penstock.errors import DataError

__all__ = [
    "Form",
    "Row",
    "Trial",
    "Variant",
    "Verdict",
    "accumulating",
    "streamed",
    "trial",
]

FACTOR = 16.0
"""How much larger than the original's an error may be."""

_LARGEST = 0.5
_STEP = {"fp64": -52, "fp32": -23, "fp16": -10, "bf16": -7, "fp8_e4m3": -3, "fp8_e5m2": -2}


@dataclass(frozen=True, slots=True)
class Form:
    """One way to run a variant: ``shapes`` are extents of ranks that the rewrite added."""

    label: str
    cascade: Cascade
    shapes: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Variant:
    """A rewritten cascade with all the ways in which it must be right."""

    name: str
    forms: tuple[Form, ...]


def streamed(
    name: str,
    cascade: Cascade,
    tile: str,
    *,
    tree: Cascade | None = None,
    split: str = "",
    sizes: Sequence[int] = (32, 1),
    splits: int = 16,
) -> Variant:
    """Return a streaming cascade as a variant, with the tree that merges its parts if it has one.

    Args:
        name: of the variant.
        cascade: over an iterative rank and a tile rank.
        tile: the tile rank, as ``m0``.
        tree: the same algebra over parts that are merged.
        split: the rank of `tree` that counts parts.
        sizes: of the tiles to try.
        splits: how many parts to try.
    """
    forms = [Form(f"tiles of {size}", cascade, ((tile, size),)) for size in sizes]
    if tree is not None:
        forms.append(Form(f"{splits} parts", tree, ((split, splits),)))
    return Variant(name, tuple(forms))


@dataclass(frozen=True, slots=True)
class Row:
    """What a family asks of an output.

    Args:
        family: its name.
        output: the tensor.
        own: error of the original in the format.
        limit: the largest error allowed; None: nothing is asked, as the original fails.
        shows: whether the output is other than 0.
    """

    family: str
    output: str
    own: float
    limit: float | None
    shows: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """The errors of a variant, one for each row: the worst of the forms that were run."""

    variant: str
    rows: tuple[Row, ...]
    errors: tuple[float, ...]
    refused: str = ""

    @property
    def passed(self) -> bool:
        """Whether the variant may be used."""
        return not self.refused

    @property
    def worst(self) -> tuple[Row, float] | None:
        """What comes nearest to its limit, or goes farthest beyond, and its error there."""
        asked = [
            (row, error, error / row.limit)
            for row, error in zip(self.rows, self.errors, strict=False)  # none where nothing ran
            if row.limit is not None
        ]
        return max(asked, key=lambda each: each[2])[:2] if asked else None

    def joined(self, other: Verdict) -> Verdict:
        """Return what both say of one variant, in other forms."""
        errors = tuple(map(max, self.errors, other.errors))
        return replace(self, errors=errors, refused=self.refused or other.refused)


@dataclass(frozen=True)
class Trial:
    """Inputs, references and limits, made once; `judge` runs a variant on them."""

    original: Cascade
    rank: str
    format: Format
    accumulators: Format | None
    extents: Mapping[str, int]
    constants: Mapping[str, float]
    families: Families
    reference: Mapping[str, Array]
    asked: Mapping[str, Array]
    rows: tuple[Row, ...]
    proves: bool = True

    def judge(self, variant: Variant) -> Verdict:
        """Run a variant in all its forms, until one has an error beyond its limit."""
        found: dict[str, list[float]] = {}
        refused = self._refusal(found)
        for form in variant.forms:
            found[form.label] = self._errors(form)
            refused = refused or self._refusal(found)
            if refused:
                break
        worst = tuple(max(each) for each in zip(*found.values(), strict=True))
        return Verdict(variant.name, self.rows, worst, refused)

    def _errors(self, form: Form) -> list[float]:
        own = {*rank_variables(form.cascade)}  # an original may have ranks that no output needs
        known = {**self.extents, **dict(form.shapes)}
        extents = {name: extent for name, extent in known.items() if name in own}
        values = _computed(
            form.cascade, self.families, extents, self.constants, self.format, self.accumulators
        )
        errors = {
            name: _differences(values[name], reference, self.asked[name])
            for name, reference in self.reference.items()
        }
        places = {name: place for place, name in enumerate(self.families.names)}
        return [float(errors[row.output][places[row.family]]) for row in self.rows]

    def _refusal(self, found: Mapping[str, Sequence[float]]) -> str:
        if self.proves and not any(row.limit is not None and row.shows for row in self.rows):
            count = len(self.families.names)
            return f"0 families of {count} show a right result: zero, or the original fails in all"
        over = [
            (error / row.limit, label, row, error)
            for label, errors in found.items()
            for row, error in zip(self.rows, errors, strict=True)
            if row.limit is not None and error > row.limit
        ]
        if not over:
            return ""
        _, label, row, error = max(over, key=lambda each: each[0])
        return (
            f"{row.output} has error {error:.1e} in family '{row.family}' ({label}); the original "
            f"has {row.own:.1e}, and {row.limit:.1e} is allowed"
        )


def trial(
    original: Cascade,
    rank: str,
    fmt: Format,
    *,
    finite: bool = False,
    watched: Sequence[str] = (),
    proves: bool = True,
    accumulators: Format | None = None,
    extents: Mapping[str, int] | None = None,
    constants: Mapping[str, float] | None = None,
    factor: float = FACTOR,
    seed: int = 0,
) -> Trial:
    """Run the original on all families, in the format and for reference.

    Args:
        original: what was written.
        rank: of the inputs, over which passes were saved.
        fmt: the target's number format.
        finite: inputs hold no infinities.
        watched: outputs that are only on the way to what is asked for: they must not be lost.
        proves: refuse all forms where every result is 0.
        accumulators: format of all that is neither input nor output; None: `fmt`.
        extents: for ranks other than the default ones of `families.sizes`.
        constants: for named scalars that the cascade leaves open.
        factor: how much larger than the original's an error may be.
        seed: of the random numbers.
    """
    scalars = dict(constants or {})
    known = affordable(original, rank, sizes(original, rank), extents or {}, scalars)
    dims = bind(original, shapes=known, constants=scalars).dims
    inputs = families(original, rank, dims, fmt, finite=finite, seed=seed)
    exact = EXTENDED if fmt.name == "fp64" else parse_format("fp64")
    reference = _computed(original, inputs, known, scalars, exact, None)
    own = _computed(original, inputs, known, scalars, fmt, accumulators)
    asked = {name: _comparable(own[name], each, inputs) for name, each in reference.items()}
    rows = tuple(
        replace(row, limit=row.limit and _LARGEST, shows=False) if name in watched else row
        for name, each in reference.items()
        for row in _rows(inputs.names, name, own[name], each, asked[name], factor, fmt)
    )
    return Trial(
        original, rank, fmt, accumulators, known, scalars, inputs, reference, asked, rows, proves
    )


def _floor(fmt: Format) -> float:
    """Return the error that is always allowed: a few roundings, 256 where there are many bits."""
    if fmt.name in ("fp64", "fp32"):
        return 256 * 2.0 ** _STEP[fmt.name]
    return 4 * 2.0 ** _STEP.get(fmt.name, -fmt.fraction_bits)


def _failing(fmt: Format) -> float:
    """Return the error from which on the original's result is wrong, and asks nothing."""
    return min(max(0.02, 16 * 2.0 ** _STEP.get(fmt.name, -fmt.fraction_bits)), _LARGEST / 2)


def _computed(
    cascade: Cascade,
    inputs: Families,
    extents: Mapping[str, int],
    constants: Mapping[str, float],
    fmt: Format,
    accumulators: Format | None,
) -> dict[str, Array]:
    """Return the outputs of all families: NaN for one with NaN where a format has none."""
    if accumulators is not None:
        cascade = accumulating(cascade, accumulators)

    def halves(start: int, stop: int) -> list[tuple[int, dict[str, Array]]]:
        """Run families at once; where one of them cannot be, each half of them."""
        arrays = {name: each[start:stop] for name, each in inputs.arrays.items()}
        try:
            return [(stop - start, _run(cascade, arrays, stop - start, extents, constants, fmt))]
        except DataError:
            if stop - start == 1:
                return [(1, {})]
            middle = (start + stop) // 2
            return halves(start, middle) + halves(middle, stop)

    parts = halves(0, len(inputs.names))
    shapes = {name: each.shape[1:] for _, part in parts for name, each in part.items()}
    return {
        name: np.concatenate(
            [part.get(name, np.full((count, *shape), np.nan)) for count, part in parts]
        )
        for name, shape in shapes.items()
    }


def _run(
    cascade: Cascade,
    arrays: Mapping[str, Array],
    count: int,
    extents: Mapping[str, int],
    constants: Mapping[str, float],
    fmt: Format,
) -> dict[str, Array]:
    name = free_variable(cascade)
    bound = bind(batched(cascade, name, count), shapes=extents, constants=constants)
    return interpret(bound, arrays, fmt)


def accumulating(cascade: Cascade, fmt: Format) -> Cascade:
    """Give the format to all that is neither input nor output, nor has a format of its own."""
    ends = {each.tensor for each in (*cascade.inputs, *cascade.outputs)}
    inner = {each.name for each in cascade.einsums if not each.selects} - ends
    formats = {**dict.fromkeys(inner, fmt.name), **dict(cascade.formats)}
    return replace(cascade, formats=tuple(formats.items()))


def _comparable(own: Array, reference: Array, inputs: Families) -> Array:
    """Return where the original has a number, or an infinity that numbers have no part in."""
    masked = np.array(["masked" in name for name in inputs.names])
    masked = masked.reshape(-1, *(1 for _ in reference.shape[1:]))
    plain = reference[inputs.names.index("normal")]
    same = np.isinf(reference) & (own == reference) & (masked | (reference == plain))
    return np.asarray((np.isfinite(own) & np.isfinite(reference)) | same)


def _differences(values: Array, reference: Array, asked: Array) -> Array:
    """Return the error of each family; 0 where nothing can be compared."""
    if reference.dtype.kind == "i":
        return np.asarray(_flat(values != reference).mean(axis=1))
    with np.errstate(all="ignore"):
        off = np.abs(values.astype(reference.dtype) - reference)
        off = np.where(values == reference, 0, np.where(np.isnan(off), np.inf, off))
    largest = _largest(reference, asked)
    return np.asarray(_flat(np.where(asked, off, 0)).max(axis=1) / np.where(largest, largest, 1))


def _largest(reference: Array, asked: Array) -> Array:
    """Return the largest magnitude in each family."""
    return np.asarray(
        _flat(np.where(asked & np.isfinite(reference), np.abs(reference), 0)).max(axis=1)
    )


def _flat(array: Array) -> Array:
    return array.reshape(array.shape[0], -1)


def _rows(
    names: Sequence[str],
    output: str,
    own: Array,
    reference: Array,
    asked: Array,
    factor: float,
    fmt: Format,
) -> list[Row]:
    errors, largest = _differences(own, reference, asked), _largest(reference, asked)
    floor = _floor(fmt)
    rows = []
    for place, name in enumerate(names):
        error = float(errors[place])
        asks = bool(asked[place].any()) and error <= _failing(fmt)
        limit = min(factor * error + floor, _LARGEST) if asks else None
        rows.append(Row(name, output, error, limit, bool(largest[place] > 0)))
    return rows

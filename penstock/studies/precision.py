"""Word lengths compared: what each number format loses, and what it costs on a machine.

For each format the best mapping is searched, its operators and cycles are counted, and the cascade
is interpreted in it and in fp64 on the same inputs: normal ones, and hard ones with logits of
several hundred (`samples.py`). Excluded: formats of single tensors (`format K8 = int8`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.design import Design, as_target, explore
from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.formats import Format, parse_format, run_format
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.shapes import Bound, bind
from penstock.errors import MappingError
from penstock.mapper.facts import facts_of
from penstock.mapper.resources import operators_of
from penstock.mapper.scopes import tree_of
from penstock.samples import random_inputs
from penstock.sweep.pareto import front
from penstock.targets.base import Target

__all__ = ["FormatRow", "compare_formats", "format_error"]

FP64 = parse_format("fp64")


@dataclass(frozen=True)
class FormatRow:
    """One number format.

    Args:
        format: its name.
        error: on normal inputs: largest difference from fp64 over the largest value.
        hard_error: the same on hard inputs.
        latency_cycles: of the best mapping (model); NaN if none fits the part.
        parts: LUT, FF and DSP of its operators (model).
        dram_bytes: that it moves (model).
        design: the best mapping as a design.
        refused: why no mapping fits, "" if one does.
        best: whether no other row is as good in the normal error, in every resource and in cycles.
    """

    format: str
    error: float
    hard_error: float
    latency_cycles: float
    parts: Mapping[str, float]
    dram_bytes: float
    design: Design | None
    refused: str = ""
    best: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the row as a JSON object; numbers that there are none of are null."""
        row = {**asdict(self), "design": self.design.digest if self.design else None}
        row["parts"] = dict(self.parts)
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in row.items()
        }


def compare_formats(
    cascade: Cascade,
    target: Target | str,
    formats: Sequence[Format],
    *,
    shapes: Mapping[str, int] | None = None,
    constants: Mapping[str, float] | None = None,
) -> tuple[FormatRow, ...]:
    """Return a row for each format, in their order.

    Args:
        cascade: any cascade.
        target: the machine.
        formats: of all tensors, one after the other.
        shapes: rank variable → extent, in coordinates; errors are measured at this size.
        constants: upper-case name → value.

    Raises:
        PenstockError: a shape is missing.
    """
    machine = as_target(target)
    named = cascade.with_constants(**constants) if constants else cascade
    bound = bind(named, shapes=shapes)
    rows = tuple(_row(bound, machine, run_format(fmt)) for fmt in formats)
    costs = [(row.error, *row.parts.values(), row.latency_cycles) for row in rows]
    finite = [[math.inf if math.isnan(x) else x for x in each] for each in costs]
    winners = front(finite)
    return tuple(_marked(row, n in winners) for n, row in enumerate(rows))


def _marked(row: FormatRow, best: bool) -> FormatRow:
    return FormatRow(**{**vars(row), "best": best})


def _row(bound: Bound, target: Target, fmt: Format) -> FormatRow:
    errors = (format_error(bound, fmt, hard=False), format_error(bound, fmt, hard=True))
    try:
        design, _ = explore(bound.cascade, target, shapes=bound.extents, fmt=fmt, others=())
    except MappingError as error:
        nothing = dict.fromkeys(("LUT", "FF", "DSP"), math.nan)
        return FormatRow(str(fmt), *errors, math.nan, nothing, math.nan, None, error.what)
    facts = facts_of(design.bound)
    leaves = tree_of(design.mapping, facts, target).leaves
    costs = [operators_of(leaf, facts.extents, fmt).cost.of_part() for leaf in leaves]
    parts = {name: sum(each[name] for each in costs) for name in ("LUT", "FF", "DSP")}
    said = design.evaluate()
    return FormatRow(str(fmt), *errors, said.latency_cycles, parts, said.dram_bytes, design)


def format_error(bound: Bound, fmt: Format, *, hard: bool, seed: int = 0) -> float:
    """Return how far a cascade in a format is from fp64: largest difference over largest value.

    Args:
        bound: the cascade with its extents.
        fmt: of all tensors; inputs are rounded to it as well.
        hard: logits of several hundred instead of normal inputs.
        seed: of the inputs.
    """
    inputs = random_inputs(bound, FP64, seed) if hard else _normal(bound, seed)
    exact = interpret(bound, inputs, FP64)
    rounded = interpret(bound, inputs, fmt)
    worst = max(float(np.abs(exact[name] - rounded[name]).max(initial=0.0)) for name in exact)
    scale = max(float(np.abs(each).max(initial=0.0)) for each in exact.values())
    return worst / scale if scale else worst


def _normal(bound: Bound, seed: int) -> dict[str, NDArray[np.float64]]:
    """Return standard normal inputs."""
    generator = np.random.default_rng(seed)
    return {
        each.tensor: generator.standard_normal(bound.dims[each.tensor])
        for each in bound.cascade.inputs
    }

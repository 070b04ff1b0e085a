"""Lower bounds on latency and energy that hold for every mapping, and the data of a roofline plot.

Computed from the cascade and the machine alone: operations at points that can have an effect,
and bytes that must cross the port of the outermost memory. Excluded: mappings, and everything
inside the machine but its arrays' peak.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.shapes import Bound
from penstock.einsum_ir.work import (
    bytes_read,
    compulsory_bytes,
    effective_points,
    op_counts,
    point_ops,
)
from penstock.mapper.leaf import arrays_for
from penstock.metrics import Metric
from penstock.targets.base import Target

__all__ = ["RooflinePoint", "compute_bound", "in_turn_bound", "roofline", "roofline_point"]

REFINEMENTS = 200


@dataclass(frozen=True, slots=True)
class RooflinePoint:
    """Where a cascade lies under a machine's roofline.

    Args:
        operations: arithmetic operations, a ``mac`` counted as two.
        dram_bytes: that must cross the outermost memory's port.
        peak_ops_per_cycle: operations over the compute bound: what the arrays could do at best
            on this cascade's mix of operators.
        bandwidth_bytes_per_cycle: of the outermost memory.
    """

    operations: float
    dram_bytes: float
    peak_ops_per_cycle: float
    bandwidth_bytes_per_cycle: float

    @property
    def intensity_ops_per_byte(self) -> float:
        """Operations per byte that must move."""
        return self.operations / self.dram_bytes


def roofline(
    bound: Bound, target: Target, fmt: Format, effective: Mapping[str, float] | None = None
) -> tuple[Metric, ...]:
    """Return bounds that no mapping of the cascade to the machine can beat.

    Latency is at least what the arrays need for the operations if they were shared out without
    loss, and what the outermost memory needs for the bytes. Energy is at least that of the
    operations on the cheapest arrays and of those bytes; left out if the machine has no energies.

    Args:
        bound: the cascade with its extents.
        target: the machine.
        fmt: number format of all tensors.
        effective: points of each Einsum that have an effect, if they are known already.

    Raises:
        MappingError: an Einsum has an operator that no array of the machine has.
    """
    target = target.in_format(fmt.name)
    effective = effective_points(bound) if effective is None else effective
    compute = compute_bound(bound, target, effective)
    memory = compulsory_bytes(bound, fmt) / target.dram.bytes_per_cycle
    latency = max(compute, memory)
    found = (
        Metric("latency", latency, "cycles", "bound"),
        Metric("latency_s", latency / target.clock_hz, "s", "bound"),
        Metric("compute", compute, "cycles", "bound"),
        Metric("dram", memory, "cycles", "bound"),
    )
    if not target.has_energies:
        return found
    return (*found, Metric("energy", energy_bound(bound, target, fmt, effective), "pJ", "bound"))


def roofline_point(bound: Bound, target: Target, fmt: Format) -> RooflinePoint:
    """Return the cascade's place under the roofline of the machine."""
    target = target.in_format(fmt.name)
    counts = op_counts(bound)
    operations = float(sum(counts.values()) + counts.get("mac", 0))
    compute = compute_bound(bound, target)
    return RooflinePoint(
        operations,
        compulsory_bytes(bound, fmt),
        operations / compute if compute else math.inf,
        target.dram.bytes_per_cycle,
    )


def compute_bound(
    bound: Bound, target: Target, effective: Mapping[str, float] | None = None
) -> float:
    """Return the least cycles in which the arrays can do all operations, side by side.

    Each Einsum may be shared out over all arrays that have its operators: the least makespan of
    a linear program. Any weights ``w`` of the arrays with sum 1 bound it from below by
    ``sum over Einsums of min over arrays of w * cycles``; the largest such bound found is
    returned, the exact one for one or two arrays.
    """
    work = _work(bound, target, effective_points(bound) if effective is None else effective)
    if not len(work):
        return 0.0
    return float(max(_lower(work, weights) for weights in _weights(work)))


def in_turn_bound(bound: Bound, target: Target, effective: Mapping[str, float]) -> float:
    """Return the least cycles in which one Einsum after the other is computed, on one array each.

    Args:
        bound: the cascade with its extents.
        target: the machine.
        effective: points of each Einsum that have an effect.
    """
    return float(sum(min(row) for row in _work(bound, target, effective)))


def _work(bound: Bound, target: Target, effective: Mapping[str, float]) -> NDArray[np.float64]:
    """Return cycles of each Einsum (rows) on each array alone (columns); inf where it cannot."""
    rows: list[list[float]] = []
    for einsum in bound.cascade.einsums:
        if einsum.init:
            continue
        able = {array.name for array in arrays_for(einsum, bound, target)}
        ops = point_ops(einsum)
        row = []
        for array in target.arrays:
            costs = dict(array.cycles)
            one = sum(count * costs[op] for op, count in ops.items()) if array.name in able else 0
            row.append(
                effective[einsum.name] * one / array.places if array.name in able else math.inf
            )
        rows.append(row)
    return np.array(rows, dtype=np.float64)


def _lower(work: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    with np.errstate(invalid="ignore"):
        weighted = np.where(np.isinf(work), np.inf, work * weights)
    return float(weighted.min(axis=1).sum())


def _weights(work: NDArray[np.float64]) -> Sequence[NDArray[np.float64]]:
    """Return weights of the arrays worth trying: each is a valid bound."""
    arrays = work.shape[1]
    if arrays == 1:
        return [np.ones(1)]
    tried: list[NDArray[np.float64]] = [*np.eye(arrays), np.full(arrays, 1 / arrays)]
    if arrays == 2:  # the bound is concave and bends where an Einsum costs both arrays the same
        both = work[np.isfinite(work).all(axis=1) & (work.sum(axis=1) > 0)]
        return tried + [np.array([row[1], row[0]]) / row.sum() for row in both]
    weights = np.full(arrays, 1 / arrays)
    for step in range(1, REFINEMENTS):  # towards the arrays that have more to do
        share = np.where(np.isinf(work), np.inf, work * weights).argmin(axis=1)
        load = np.bincount(share, np.take_along_axis(work, share[:, None], 1)[:, 0], arrays)
        weights = weights * np.exp(load / max(load.max(), 1.0) / math.sqrt(step))
        weights = weights / weights.sum()
        tried.append(weights)
    return tried


def energy_bound(
    bound: Bound, target: Target, fmt: Format, effective: Mapping[str, float]
) -> float:
    """Return the least energy of any mapping, in pJ: operations and compulsory DRAM traffic."""
    total = 0.0
    for einsum in bound.cascade.einsums:
        if not einsum.init:
            ops = point_ops(einsum)
            total += effective[einsum.name] * min(
                sum(count * dict(array.energy_pj).get(op, 0.0) for op, count in ops.items())
                for array in arrays_for(einsum, bound, target)
            )
    read = bytes_read(bound, fmt)
    written = compulsory_bytes(bound, fmt) - read
    dram = target.dram
    return total + read * dram.read_pj_per_byte + written * dram.write_pj_per_byte

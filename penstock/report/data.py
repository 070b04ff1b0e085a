"""What a report says, as data: one `Page` for each design. Computes and draws nothing."""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from dataclasses import dataclass
from typing import Any

from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.shapes import Bound
from penstock.mapper.model.evaluate import Evaluation
from penstock.mapper.nodes import Mapping
from penstock.mapper.search.explore import SearchResult
from penstock.metrics import Check, Metric
from penstock.sim.simulate import Simulation
from penstock.targets.base import Target

__all__ = ["Page", "Section", "Simulated", "Table"]


@dataclass(frozen=True)
class Simulated:
    """A small design that was simulated cycle by cycle, for the timeline of the arrays."""

    bound: Bound
    mapping: Mapping
    target: Target
    simulation: Simulation


@dataclass(frozen=True)
class Page:
    """All that is known of one design.

    Args:
        bound: the cascade with its extents.
        mapping, target, format: the design.
        digest: names the design.
        evaluation: what the analytical model says.
        bounds: lower bounds that hold for every mapping.
        search: how the mapping was found; None if it was given.
        checks: the verification table.
        simulated: a small instance, simulated; None if there is none.
        published: numbers of others for the same design, to stand beside the model's.
        commands: command lines that reproduce it.
    """

    bound: Bound
    mapping: Mapping
    target: Target
    format: Format
    digest: str
    evaluation: Evaluation
    bounds: tuple[Metric, ...]
    search: SearchResult | None
    checks: tuple[Check, ...]
    simulated: Simulated | None
    published: tuple[Metric, ...]
    commands: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table of a section: cells are text; `note` says what it shows."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """A section that is no design and no sweep: a study's tables, and its numbers as JSON."""

    title: str
    note: str
    tables: tuple[Table, ...]
    data: MappingABC[str, Any]

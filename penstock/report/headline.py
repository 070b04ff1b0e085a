"""What a reader decides on: how fast, how big, what limits it, how do we know. One row a design.

Excluded: how it looks. Cells are text; each number carries its evidence.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.metrics import Check, number, quantity
from penstock.report.data import Page
from penstock.sweep.machines import area_um2

__all__ = ["Headline", "headline"]


@dataclass(frozen=True)
class Headline:
    """One design in five answers.

    Args:
        design: the cascade and the machine.
        problem: extents and format.
        fast: latency, and how far it is from the bound.
        big: the fullest memory, and the area where the machine has one.
        limit: what sets the latency.
        known: what was checked, and how.
    """

    design: str
    problem: str
    fast: str
    big: str
    limit: str
    known: str

    COLUMNS = ("design", "how fast", "how big", "what limits it", "how do we know")

    def row(self) -> tuple[str, ...]:
        """Return the answers in the order of `COLUMNS`."""
        return self.design, self.fast, self.big, self.limit, self.known


def headline(page: Page) -> Headline:
    """Answer the five questions for a design."""
    extents = ", ".join(f"{name} = {extent:,}" for name, extent in page.bound.extents.items())
    return Headline(
        design=f"{page.bound.cascade.name} on {page.target.name}",
        problem=f"{extents}; {page.format}",
        fast=_fast(page),
        big=_big(page),
        limit=_limit(page),
        known=_known(page.checks),
    )


def _fast(page: Page) -> str:
    made = page.evaluation
    said = f"{quantity(made.latency_s, 's')}, {number(made.latency_cycles)} cycles (model)"
    bound = next((each.value for each in page.bounds if each.name == "latency"), 0.0)
    return f"{said}; {made.latency_cycles / bound:.2f} x the bound" if bound else said


def _big(page: Page) -> str:
    finite = [each for each in page.evaluation.occupancy if each.capacity_bytes < math.inf]
    parts = []
    if finite:
        fullest = max(finite, key=lambda each: each.needed_bytes / each.capacity_bytes)
        share = 100 * fullest.needed_bytes / fullest.capacity_bytes
        need = quantity(fullest.needed_bytes, "B")
        parts.append(f"{fullest.memory} {share:.0f} % full ({need})")
    area = area_um2(page.target)
    if area:
        parts.append(f"{number(area / 1e6)} mm² in all")
    return f"{'; '.join(parts)} (model)" if parts else "not known"


def _limit(page: Page) -> str:
    made = page.evaluation
    if made.binding != "schedule":
        share = made.memory_cycles[made.binding] / made.latency_cycles
        return f"{made.binding}: its port is busy {100 * share:.0f} % of the cycles"
    busy = made.busy()
    if not busy:
        return "the schedule"
    name = max(busy, key=lambda each: busy[each])
    return f"{name}: busy {100 * busy[name]:.0f} % of the cycles"


def _known(checks: Sequence[Check]) -> str:
    if not checks:
        return "model only: nothing was compiled or simulated"
    counts = Counter(each.verdict for each in checks)
    said = ", ".join(
        f"{counts[word]} {word}" for word in ("ok", "FAILED", "not run") if counts[word]
    )
    subjects = ", ".join(dict.fromkeys(each.subject for each in checks if each.ran))
    return f"{said}: {subjects}" if subjects else said

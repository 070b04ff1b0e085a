"""`Metric`, a number that says what it is; `Check`, a comparison; how numbers are written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

__all__ = ["Check", "Evidence", "Metric", "number", "quantity"]

Evidence = Literal["bound", "model", "simulation", "synthesis", "measurement", "published"]

_PREFIXES = {12: "T", 9: "G", 6: "M", 3: "k", 0: "", -3: "m", -6: "µ", -9: "n", -12: "p"}
_SCALES = {"s": (1.0, "s"), "pJ": (1e-12, "J"), "bytes": (1.0, "B")}
"""Units that get SI prefixes: by what a value is multiplied, and the unit then."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One number: ``Metric("latency", 4096, "cycles", "model")``.

    ``evidence`` says how it is known, so that a model never passes for a measurement.
    """

    name: str
    value: float
    unit: str
    evidence: Evidence

    def __str__(self) -> str:
        return f"{self.name} {' '.join(self.parts()).rstrip()} ({self.evidence})"

    def parts(self) -> tuple[str, str]:
        """Return number and unit for people: ``("52.29 µs", "")``, ``("27.1 %", "of PEs")``."""
        if self.unit.startswith("of "):
            return f"{100 * self.value:.1f} %", self.unit
        if self.unit in _SCALES:
            scale, unit = _SCALES[self.unit]
            return quantity(self.value * scale, unit), ""
        return number(self.value), self.unit

    def to_json(self) -> dict[str, str | float]:
        """Return the metric as a JSON object."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "evidence": self.evidence,
        }


@dataclass(frozen=True, slots=True)
class Check:
    """One row of a verification table: what was compared with what, and how well it agreed.

    Args:
        subject: what was checked, e.g. ``TVM CPU code``.
        oracle: what it was compared with.
        error: largest relative error (largest difference over largest value), or the number of
            differing elements for bit comparisons; NaN if it could not be run.
        limit: what the error may be at most.
        evidence: how the subject's values came about.
        detail: shape, format, seconds; or why it was not run.
        ran: False if a tool was missing.
    """

    subject: str
    oracle: str
    error: float
    limit: float
    evidence: Evidence
    detail: str = ""
    ran: bool = True

    @property
    def passed(self) -> bool:
        """Whether it ran and agreed."""
        return self.ran and self.error <= self.limit

    @property
    def verdict(self) -> str:
        """``ok``, ``FAILED`` or ``not run``."""
        if not self.ran:
            return "not run"
        return "ok" if self.passed else "FAILED"

    def to_json(self) -> dict[str, str | float | bool | None]:
        """Return the row as a JSON object; an error that is not known is null."""
        return {
            "subject": self.subject,
            "oracle": self.oracle,
            "error": self.error if self.ran else None,
            "limit": self.limit,
            "evidence": self.evidence,
            "detail": self.detail,
            "verdict": self.verdict,
        }


def number(value: float) -> str:
    """Return a number for people: thousands apart, four digits, powers of ten when far out."""
    if isinstance(value, int) and abs(value) >= 10**15:
        return f"{Decimal(value):.3e}"  # there are more mappings than floats
    if not math.isfinite(value):
        return str(value)
    if (float(value).is_integer() and abs(value) < 1e15) or 1e4 <= abs(value) < 1e9:
        return f"{value:,.0f}"
    return f"{value:,.4g}" if 1e-3 <= abs(value) < 1e4 else f"{value:.4g}"


def quantity(value: float, unit: str) -> str:
    """Return a number with an SI prefix: ``2.013 ms``, ``402.7 MB``."""
    power = 3 * math.floor(math.log10(value) / 3) if 0 < value < math.inf else 0
    power = min(max(power, min(_PREFIXES)), max(_PREFIXES))
    return f"{value / 10**power:.4g} {_PREFIXES[power]}{unit}"

"""How far two sets of results are apart, and what is allowed.

Excluded: where they come from (`design.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from penstock.metrics import Check

__all__ = ["LIMITS", "judged", "not_compared", "relative_error"]

LIMITS = {"fp64": 1e-12, "fp32": 1e-5, "fp16": 2e-2, "bf16": 2e-2}
"""Largest relative error by format; formats that are not listed must agree exactly."""


def relative_error(got: Mapping[str, Any], want: Mapping[str, Any]) -> float:
    """Return the worst tensor's largest difference over largest finite value.

    Infinities must be the same; a NaN where a number is wanted counts as an infinite error. Where
    a NaN is wanted, nothing is (`not_compared` counts these).
    """
    worst = 0.0
    for tensor, expected in want.items():
        reference = np.asarray(expected, dtype=np.float64)
        value = np.asarray(got[tensor], dtype=np.float64)
        with np.errstate(invalid="ignore"):
            difference = np.asarray(np.abs(value - reference))  # a scalar too is an array
        difference[(value == reference) | np.isnan(reference)] = 0.0
        finite = np.abs(reference[np.isfinite(reference)])
        scale = float(np.max(finite, initial=0.0)) or 1.0
        error = float(np.max(difference, initial=0.0)) / scale
        worst = max(worst, math.inf if math.isnan(error) else error)
    return worst


def not_compared(want: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many values are NaN, as the cascade itself overflows, and of how many."""
    arrays = [np.asarray(each, dtype=np.float64) for each in want.values()]
    return sum(int(np.isnan(each).sum()) for each in arrays), sum(each.size for each in arrays)


def judged(row: Check, got: Mapping[str, Any], want: Mapping[str, Any]) -> Check:
    """Return the row with its error; a row that says so where the cascade itself overflows."""
    undefined, values = not_compared(want)
    if undefined:
        said = f"{undefined:,} of {values:,} values are NaN in the interpreter: not compared"
        row = replace(row, detail=f"{row.detail}; {said}", ran=undefined < values)
    return replace(row, error=relative_error(got, want)) if row.ran else row

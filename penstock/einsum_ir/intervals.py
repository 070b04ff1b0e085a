"""Bounds of a value from bounds of the operands: interval arithmetic, for indices.

Excluded: bounds as formulas of shapes (`regions.bounds`). Answers are safe, not sharp.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import add

__all__ = ["UNKNOWN", "Interval", "bounds_of"]

Interval = tuple[float, float]
"""Least and greatest value, both included; whole numbers stay `int`."""

UNKNOWN: Interval = (-math.inf, math.inf)

RISING: dict[str, Callable[..., float]] = {
    "+": add,
    "max": max,
    "min": min,
    "clamp": lambda value, low, high: min(max(value, low), high),
}
"""Operators that fall with no operand: their bounds are those of the bounds."""


def bounds_of(op: str, args: Sequence[Interval]) -> Interval:
    """Return bounds of an operator's value from those of its operands; `UNKNOWN` if none are known.

    Args:
        op: a name of `ops.OPERATORS`.
        args: bounds of the operands, in order.
    """
    if op in RISING:
        lows, highs = zip(*args, strict=True)
        return RISING[op](*lows), RISING[op](*highs)
    match op, args:
        case "neg", [(a, b)]:
            return -b, -a
        case "-", [(a, b), (c, d)]:
            return a - d, b - c
        case "*", [(a, b), (c, d)]:
            corners = [x * y if x and y else 0 for x in (a, b) for y in (c, d)]  # 0 * inf is 0
            return min(corners), max(corners)
        case "abs", [(a, b)]:
            return (0 if a <= 0 <= b else min(abs(a), abs(b))), max(abs(a), abs(b))
        case "//" | "%", [(a, b), (c, d)] if c == d and 0 < c < math.inf:
            low, high = (each // c if math.isfinite(each) else each for each in (a, b))
            if op == "//":
                return low, high
            same = low == high and math.isfinite(low)
            return (a - low * c, b - low * c) if same else (0, c - 1)
        case _:
            return UNKNOWN

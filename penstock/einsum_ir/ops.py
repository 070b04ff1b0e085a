"""The operators of the language, as one table: name, arity, kind, and how they print.

The table says what exists. What an operator computes is the interpreter's business
(`interp.py`), what it costs is the target's, how it is spelled in C++ or TVM the printer's.
Adding an operator = one row here, one row in each of those tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "NORMALISATIONS",
    "OPERATORS",
    "REDUCTIONS",
    "SELECTIONS",
    "Operator",
    "Reduction",
    "Selection",
]

Kind = Literal["arithmetic", "comparison", "logic", "function"]


@dataclass(frozen=True, slots=True)
class Operator:
    """One point-wise operator.

    ``precedence`` orders infix operators when printing and parsing (higher binds tighter);
    it is 0 for functions, which print as ``name(a, b)``.
    """

    name: str
    arity: int
    kind: Kind
    precedence: int = 0


@dataclass(frozen=True, slots=True)
class Reduction:
    """One reduction: the name it has after ``::`` and the binary operator it folds with.

    ``identity`` is the value of the fold over nothing. ``mean`` folds with ``+`` and divides
    by the number of present points at the end.
    """

    name: str
    fold: str
    identity: float


@dataclass(frozen=True, slots=True)
class Selection:
    """One reduction to coordinates: of the largest or smallest present values, best first.

    Among equals the lower coordinate comes first; NaN comes after every number. ``many`` selections
    have a new rank for the places (``topk[m -> j]``); the places without a candidate are absent.
    """

    name: str
    largest: bool
    many: bool


def _table(*rows: Operator) -> dict[str, Operator]:
    return {row.name: row for row in rows}


OPERATORS: dict[str, Operator] = _table(
    Operator("or", 2, "logic", 1),
    Operator("and", 2, "logic", 2),
    Operator("not", 1, "logic", 3),
    Operator("==", 2, "comparison", 4),
    Operator("!=", 2, "comparison", 4),
    Operator("<", 2, "comparison", 4),
    Operator("<=", 2, "comparison", 4),
    Operator(">", 2, "comparison", 4),
    Operator(">=", 2, "comparison", 4),
    Operator("+", 2, "arithmetic", 5),
    Operator("-", 2, "arithmetic", 5),
    Operator("*", 2, "arithmetic", 6),
    Operator("/", 2, "arithmetic", 6),
    Operator("//", 2, "arithmetic", 6),
    Operator("%", 2, "arithmetic", 6),
    Operator("neg", 1, "arithmetic", 7),
    Operator("**", 2, "arithmetic", 8),
    *(
        Operator(name, 1, "function")
        for name in (
            "abs",
            "exp",
            "exp2",
            "log",
            "log2",
            "sqrt",
            "rsqrt",
            "sq",
            "sin",
            "cos",
            "tanh",
            "erf",
            "sigmoid",
            "relu",
            "silu",
            "gelu",
            "softplus",
            "step",
            "sign",
            "floor",
            "round",
            "bitlen",  # bits of a whole number without its sign: 0 for 0, 3 for 4 ... 7
        )
    ),
    Operator("max", 2, "function"),
    Operator("min", 2, "function"),
    Operator("clamp", 3, "function"),  # clamp(x, low, high)
    Operator("where", 3, "function"),  # where(condition, then, otherwise)
    Operator("fill", 2, "function"),  # fill(x, v): v at the points where x is absent
)
"""Every operator by name. ``max2`` and ``min2`` are accepted spellings of ``max`` and ``min``."""

REDUCTIONS: dict[str, Reduction] = {
    "sum": Reduction("sum", "+", 0.0),
    "max": Reduction("max", "max", float("-inf")),
    "min": Reduction("min", "min", float("inf")),
    "prod": Reduction("prod", "*", 1.0),
    "mean": Reduction("mean", "+", 0.0),
}

NORMALISATIONS = ("softmax", "log_softmax")
"""Words that stand alone on a right side, with the ranks they go over: ``softmax(x; m)``.

They are short forms (`sugar.py`): no Einsum of a cascade has one.
"""

SELECTIONS: dict[str, Selection] = {
    "topk": Selection("topk", largest=True, many=True),
    "argsort": Selection("argsort", largest=False, many=True),
    "argmax": Selection("argmax", largest=True, many=False),
    "argmin": Selection("argmin", largest=False, many=False),
}

"""Cycles and energies of operators that several machines share, each with its source.

Excluded: machines. The energies are those of FuseMax's artifact (45 nm, 16 bit): its Accelergy
table (ERT) gives mac 17.1645, add 8.3395, max 0.028036 and divide 36.251153 pJ, and FLAT's exp
unit is five fused multiply-adds and a multiplier.
"""

from __future__ import annotations

__all__ = ["COMPARE", "ENERGY_PJ", "FUNCTIONS", "general", "spread"]

MAC_PJ = 17.1645  # FuseMax artifact, ERT.yaml (45 nm, 16 bit)
ADD_PJ = 8.3395  # same
MAX_PJ = 0.028036  # same
DIVIDE_PJ = 36.251153  # same: 550.24 pJ at 90 nm, 32 bit, scaled
FLAT_EXP_PJ = 94.6475  # FuseMax artifact, ERT.yaml of FLAT: 5 * 17.1645 + 8.825

COMPARE = ("<", "<=", ">", ">=", "==", "!=", "and", "or", "not", "where", "fill", "neg", "abs")
"""What a comparator with a multiplexer does in one cycle beside max; counted as a max."""

ENERGY_PJ: dict[str, float] = {
    "mac": MAC_PJ,
    "*": MAC_PJ,  # the artifact has no multiplier of its own: done on the MAC
    "sq": MAC_PJ,
    "+": ADD_PJ,
    "-": ADD_PJ,
    "max": MAX_PJ,
    "min": MAX_PJ,
    "relu": MAX_PJ,
    "clamp": 2 * MAX_PJ,
    "/": DIVIDE_PJ,
    **dict.fromkeys(COMPARE, MAX_PJ),
}


SIMPLE = (
    *("mac", "*", "sq", "+", "-", "max", "min"),
    *("relu", "step", "sign", "floor", "round", "bitlen"),
)
"""One instruction, or one pipelined operator, each."""

SELECTIONS = ("topk", "argsort", "argmax", "argmin")
"""Compare and swap, for each candidate and place."""

FUNCTIONS = (
    "exp",
    "exp2",
    "log",
    "log2",
    "sqrt",
    "rsqrt",
    "sin",
    "cos",
    "tanh",
    "erf",
    "sigmoid",
    "silu",
    "gelu",
    "softplus",
    "**",
)
"""Transcendental functions: several instructions, or a deep pipeline."""


def general(simple: float, divide: float, function: float) -> dict[str, float]:
    """Return the cycles of a machine that has every operator of the language.

    Args:
        simple: of a multiply-add, comparison or selection of one element.
        divide: of a division (``//`` and ``%`` too) of one element.
        function: of a transcendental function of one element.
    """
    cycles = spread({}, *SIMPLE, *COMPARE, each=simple)
    cycles = spread(cycles, "/", "//", "%", each=divide)
    cycles = spread(cycles, *SELECTIONS, each=simple)
    return spread({**cycles, "clamp": 2 * simple}, *FUNCTIONS, each=function)


def spread(cycles: dict[str, float], *names: str, each: float = 1.0) -> dict[str, float]:
    """Return `cycles` with the operators `names` added at `each` cycles."""
    return {**cycles, **dict.fromkeys(names, each)}

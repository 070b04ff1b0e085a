"""Which algorithms compute a cascade's functions in fixed point, where its format leaves it open.

Powers of two by a table or a polynomial, quotients bit by bit or by Newton steps: each takes other
parts of an FPGA (`targets/cores.py`) and has its own largest error (docs/hls.md). Excluded: what
they are (`einsum_ir/interpreter/numerics.py`).
"""

from __future__ import annotations

from itertools import product

from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.formats import POLYNOMIAL_BITS, Format, parse_format
from penstock.einsum_ir.work import output_ops, point_ops
from penstock.targets.cores import primitives

__all__ = ["alternatives"]


def alternatives(cascade: Cascade, fmt: Format) -> tuple[Format, ...]:
    """Return the formats that differ in the algorithms of functions only, without `fmt` itself.

    Args:
        cascade: whose functions.
        fmt: if it names an algorithm, nothing is left open.
    """
    if not fmt.exact or fmt.algorithms:
        return ()
    used = {op for each in cascade.einsums for op in (*point_ops(each), *output_ops(each))}
    basic = frozenset[str]().union(*(primitives(op) for op in used))
    powers = ("", ",poly") if "exp" in basic and fmt.bits <= POLYNOMIAL_BITS else ("",)
    quotients = ("", ",newton") if "/" in basic else ("",)
    ways = ("".join(way) for way in product(powers, quotients))
    return tuple(parse_format(f"fixed<{fmt.bits},{fmt.integer_bits}{way}>") for way in ways if way)

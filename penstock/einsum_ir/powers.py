"""Small whole powers of elements as products: ``X[m] ** 3`` is ``X[m] * sq(X[m])`` in hardware.

The interpreter raises to the power; in fixed point that is the same product, exact.
"""

from __future__ import annotations

from penstock.einsum_ir.nodes import Apply, Expr, Num, accesses

__all__ = ["MOST", "as_products", "multiplications"]

MOST = 8
"""The largest exponent that is multiplied out: three squares."""


def as_products(expr: Expr) -> Expr | None:
    """Return a power with a written exponent of 2 .. `MOST` as products, None for other things."""
    exponent = _exponent(expr)
    return _product(expr.args[0], exponent) if isinstance(expr, Apply) and exponent else None


def multiplications(expr: Expr) -> int:
    """Return how many products `as_products` has; 0 if it has none."""
    exponent = _exponent(expr)
    return exponent.bit_length() + exponent.bit_count() - 2 if exponent else 0


def _exponent(expr: Expr) -> int:
    match expr:
        case Apply("**", (base, Num(value))) if value in range(2, MOST + 1):
            return int(value) if accesses(base) else 0  # else it is a table of constants
        case _:
            return 0


def _product(base: Expr, exponent: int) -> Expr:
    if exponent == 1:
        return base
    square = Apply("sq", (_product(base, exponent // 2),))
    return Apply("*", (base, square)) if exponent % 2 else square

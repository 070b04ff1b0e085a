"""The straight lines at which a condition over two variables may change.

A `Lattice` writes two variables as blocks, ``x = bx*(lx*k + r) + i`` with ``0 <= i < bx``, and y
with q, s and j. Every expression then is one of a few `Piece`s, linear in k and q, and a condition
depends on (k, q) only through the signs of such pieces: on the cells between `Lines` it is the
same function of the places (i, j) inside a block. Excluded: which cells hold (`cells.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.einsum_ir.affine import evaluate_scalar
from penstock.einsum_ir.nodes import Apply, Expr, Num, Var
from penstock.einsum_ir.ops import OPERATORS
from penstock.einsum_ir.regions.linear import Form, linear

__all__ = ["BeyondError", "Lattice", "Lines", "Piece", "RefineError", "lines_of"]

Array = NDArray[Any]

PIECES = 96
"""Linear pieces that one expression may have."""

LINES = 64
"""Lines that one comparison may need."""

_DENOMINATORS = (1, 2, 4, 8, 16, 64, 256, 1024)


class BeyondError(Exception):
    """A condition that is not cut by a few straight lines; it has to be enumerated."""


class RefineError(Exception):
    """The lattice must be `x` times coarser along x and `y` times along y."""

    def __init__(self, x: int = 1, y: int = 1) -> None:
        super().__init__(f"refine by {x}, {y}")
        self.x, self.y = x, y


@dataclass(frozen=True, slots=True)
class Piece:
    """``a*k + b*q + c`` with `low` <= c <= `high`, where c does not depend on k and q.

    `low` and `high` are numbers or have one element for each row of a problem.
    """

    a: float
    b: float
    low: Any
    high: Any

    @property
    def flat(self) -> bool:
        """Whether the value does not depend on k and q."""
        return not self.a and not self.b

    @property
    def known(self) -> bool:
        """Whether the value is the same all over a block as well."""
        return self.flat and bool(np.all(self.low == self.high))


@dataclass(frozen=True, eq=False)
class Lattice:
    """The blocks and what is known of each row of a problem.

    Args:
        pieces: variable → its value.
        reach: (largest k, largest q), for bounds.
    """

    pieces: Mapping[str, Piece]
    reach: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Lines:
    """Where a condition may change.

    Args:
        slopes, offsets: of lines ``q = slope*k + offset``: it may change between q and q + 1.
        breaks: values k: it may change between k and k + 1.
    """

    slopes: tuple[int, ...]
    offsets: tuple[Array, ...]
    breaks: tuple[Array, ...]


def lines_of(pred: Expr, lattice: Lattice) -> Lines:
    """Return the lines of a condition over variables and numbers.

    Raises:
        BeyondError: there are none, or too many.
        RefineError: the lattice is too fine.
    """
    walker = _Walker(lattice)
    walker.truth(pred)
    slopes: dict[tuple[int, bytes], Array] = {}
    breaks: dict[bytes, Array] = {}
    for piece in walker.signs:
        for a, b, at_most in _thresholds(piece):
            if b == 0:
                last = at_most if a > 0 else -at_most - 1
                breaks[last.tobytes()] = last
            elif abs(b) > 1:
                raise RefineError(x=abs(b))
            else:
                offset = at_most if b > 0 else -at_most - 1
                slopes[-a * b, offset.tobytes()] = offset
    if len(slopes) > LINES or len(breaks) > LINES:
        raise BeyondError
    return Lines(
        tuple(slope for slope, _ in slopes), tuple(slopes.values()), tuple(breaks.values())
    )


def _thresholds(piece: Piece) -> Iterable[tuple[int, int, Array]]:
    """Yield (a, b, t): whether ``a*k + b*q <= t``, of all that decide the sign of a piece.

    The signs are those of ``value <= 0`` and ``value < 0`` (which is ``value + 1 <= 0``).
    """
    for factor in _DENOMINATORS:
        if float(piece.a * factor).is_integer() and float(piece.b * factor).is_integer():
            break
    else:
        raise BeyondError
    a, b = int(piece.a * factor), int(piece.b * factor)
    common = math.gcd(a, b)
    low = np.floor(np.asarray(piece.low) * factor).astype(np.int64)
    high = np.ceil(np.asarray(piece.high) * factor).astype(np.int64) + 1
    first, last = -high // common, -low // common
    count = int((last - first).max()) + 1
    if count > LINES:
        raise BeyondError
    for step in range(count):
        yield a // common, b // common, np.asarray(np.minimum(first + step, last))


@dataclass(eq=False)
class _Walker:
    """Collects the pieces whose signs decide, while it goes through an expression."""

    lattice: Lattice
    signs: list[Piece] = field(default_factory=list)
    memo: dict[Expr, list[Piece]] = field(default_factory=dict)

    def truth(self, expr: Expr) -> None:
        """Note all that a condition depends on."""
        match expr:
            case Apply("and" | "or" | "not", args):
                for arg in args:
                    self.truth(arg)
            case Apply("where", (test, then, otherwise)):
                for each in (test, then, otherwise):
                    self.truth(each)
            case Apply(op, (left, right)) if OPERATORS[op].kind == "comparison":
                self.sign(self.form(linear(Apply("-", (left, right)), {})))
            case Num():
                pass
            case _:
                self.sign(self.value(expr))

    def sign(self, pieces: Iterable[Piece]) -> None:
        self.signs += [piece for piece in pieces if not piece.flat]

    def value(self, expr: Expr) -> list[Piece]:
        if expr not in self.memo:
            found = self.form(linear(expr, {}))
            if len(found) > PIECES:
                raise BeyondError
            self.memo[expr] = found
        return self.memo[expr]

    def form(self, form: Form) -> list[Piece]:
        total = [Piece(0, 0, form.constant, form.constant)]
        for atom, factor in form.terms:
            scaled = [_scaled(piece, factor) for piece in self.atom(atom)]
            total = [_sum(left, right) for left in total for right in scaled]
            if len(total) > PIECES:
                raise BeyondError
        return total

    def atom(self, atom: Expr) -> list[Piece]:
        match atom:
            case Var(name):
                return [self.lattice.pieces[name]]
            case Apply("//" | "%", (value, divisor)):
                pairs = product(self.value(value), self.value(divisor))
                return [_divided(atom.op, left, right) for left, right in pairs]
            case Apply("clamp", (value, low, high)):
                return self.value(Apply("min", (Apply("max", (value, low)), high)))
            case Apply("max" | "min", (left, right)):
                return self.either(Apply("-", (left, right)), left, right)
            case Apply("abs", (value,)):
                return self.either(value, value, Apply("neg", (value,)))
            case Apply("where", (test, then, otherwise)):
                self.truth(test)
                return [*self.value(then), *self.value(otherwise)]
            case Apply("bitlen", (value,)):
                return [each for piece in self.value(value) for each in self.bits(piece)]
            case Apply("sign" | "step", (value,)):
                self.sign(self.value(value))
                return [Piece(0, 0, number, number) for number in (-1, 0, 1)]
            case Apply(op, args):
                return self.applied(op, args, atom)
            case _:
                raise BeyondError

    def either(self, decides: Expr, left: Expr, right: Expr) -> list[Piece]:
        self.sign(self.value(decides))
        return [*self.value(left), *self.value(right)]

    def bits(self, piece: Piece) -> list[Piece]:
        """Return the lengths in bits that a piece may have; it changes them at powers of two."""
        if piece.known:
            number = np.frexp(np.abs(np.floor(piece.low)).astype(float))[1].astype(np.int64)
            return [Piece(0, 0, number, number)]
        k, q = self.lattice.reach
        ends = max(np.abs(piece.low).max(), np.abs(piece.high).max())
        most = int(abs(piece.a) * k + abs(piece.b) * q + ends).bit_length()
        for power in range(most + 1):
            for edge in (-(1 << power), 1 << power):
                self.sign([_sum(piece, Piece(0, 0, edge, edge))])
        return [Piece(0, 0, number, number) for number in range(most + 1)]

    def applied(self, op: str, args: tuple[Expr, ...], atom: Expr) -> list[Piece]:
        """Return the values of an operator whose operands do not depend on k and q."""
        kind = OPERATORS[op].kind
        if kind in ("comparison", "logic"):
            self.truth(atom)
            return [Piece(0, 0, 0, 0), Piece(0, 0, 1, 1)]
        if op not in ("*", "**", "sq", "floor", "round"):
            raise BeyondError
        choices = [self.value(arg) for arg in args]
        found = []
        for pieces in product(*choices):
            if not all(piece.known for piece in pieces):
                raise BeyondError
            value = _computed(op, [piece.low for piece in pieces])
            found.append(Piece(0, 0, value, value))
        return found


_KNOWN: dict[str, Callable[..., Any]] = {
    "*": lambda a, b: a * b,
    "sq": lambda a: a * a,
    "floor": np.floor,
    "round": lambda a: np.floor(a + 0.5),
}


def _computed(op: str, args: list[Any]) -> Any:
    if op != "**":
        return _KNOWN[op](*args)
    if any(np.ndim(each) for each in args):
        raise BeyondError
    value = evaluate_scalar(Apply(op, tuple(Num(int(each)) for each in args)), {})
    if value is None:
        raise BeyondError
    return value


def _scaled(piece: Piece, factor: float) -> Piece:
    ends = (piece.low * factor, piece.high * factor)
    low, high = ends if factor > 0 else (ends[1], ends[0])
    return Piece(piece.a * factor, piece.b * factor, low, high)


def _sum(left: Piece, right: Piece) -> Piece:
    return Piece(left.a + right.a, left.b + right.b, left.low + right.low, left.high + right.high)


def _divided(op: str, value: Piece, by: Piece) -> Piece:
    divisors = np.unique(by.low)
    whole = all(
        np.all(np.asarray(each) == np.floor(each))
        for each in (value.a, value.b, value.low, value.high, by.low)
    )
    if not by.known or len(divisors) != 1 or not divisors[0] or not whole:
        raise BeyondError
    divisor = int(divisors[0])
    x, y = (abs(divisor) // math.gcd(divisor, int(each)) for each in (value.a, value.b))
    if x > 1 or y > 1:
        raise RefineError(x, y)
    first, last = value.low // divisor, value.high // divisor
    if op == "//":
        low, high = np.minimum(first, last), np.maximum(first, last)
        return Piece(value.a // divisor, value.b // divisor, low, high)
    same = np.asarray(first == last)
    low, high = value.low % divisor, value.high % divisor
    return Piece(
        0, 0, np.where(same, low, min(0, divisor + 1)), np.where(same, high, max(0, divisor - 1))
    )

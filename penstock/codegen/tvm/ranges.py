"""What is known of an index before anything runs: its interval, and how it moves with a variable.

Excluded on purpose: values (floats), data-dependent indices (their interval is unknown), and any
use of the conditions around a statement; all answers are safe, not sharp.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

from penstock.codegen.loops.nodes import Const, Load, LoopExpr, Name, Op
from penstock.codegen.loops.walk import loads
from penstock.einsum_ir.intervals import UNKNOWN, bounds_of

__all__ = ["Interval", "Ranges", "holds", "interval", "lower", "moves", "names", "stride"]
__all__ += ["most", "never", "upper"]

NEGATED = {"<": ">=", "<=": ">", ">": "<=", ">=": "<"}

Interval = tuple[int, int]
"""Lowest and highest value, both included."""

Ranges = Mapping[str, Interval]


def names(expr: LoopExpr) -> frozenset[str]:
    """Return the loop variables in an expression."""
    match expr:
        case Name(name):
            return frozenset((name,))
        case Load(_, args) | Op(_, args):
            return frozenset().union(*(names(arg) for arg in args))
        case Const():
            return frozenset()


def interval(expr: LoopExpr, ranges: Ranges) -> Interval | None:
    """Return bounds of an index expression over all values of its variables; None if unknown."""
    match expr:
        case Const(value, True):
            return int(value), int(value)
        case Name(name):
            return ranges.get(name)
        case Op(op, args):
            low, high = bounds_of(op, [interval(arg, ranges) or UNKNOWN for arg in args])
            return (int(low), int(high)) if isfinite(low) and isfinite(high) else None
        case _:
            return None


def most(extent: LoopExpr) -> int | None:
    """Return a number that an extent never exceeds, whatever its variables are; None if unknown."""
    match extent:
        case Const(value, True):
            return int(value)
        case Op("min", sides):
            return min((n for n in map(most, sides) if n is not None), default=None)
        case _:
            return None


def stride(expr: LoopExpr, name: str) -> int | None:
    """Return how far an index moves when a variable moves by one; None if that varies."""
    match expr:
        case Const():
            return 0
        case Name(other):
            return int(other == name)
        case Load() | Op() if name not in names(expr):
            return 0
        case Op("neg", (arg,)):
            step = stride(arg, name)
            return None if step is None else -step
        case Op("+" | "-" as op, (left, right)):
            first, second = stride(left, name), stride(right, name)
            if first is None or second is None:
                return None
            return first + second if op == "+" else first - second
        case Op("*", (Const(factor, True), other)) | Op("*", (other, Const(factor, True))):
            step = stride(other, name)
            return None if step is None else step * int(factor)
        case _:
            return None


def moves(expr: LoopExpr, name: str, inner: Ranges) -> bool:
    """Whether two values of `name` can never give the same index.

    `inner` are the ranges of the variables that run while `name` stands still; every other
    variable is the same for both.
    """
    step = stride(expr, name)
    if not step:
        return False
    span = 0
    for other in names(expr) & inner.keys():
        per = stride(expr, other)
        if per is None:
            return False
        low, high = inner[other]
        span += abs(per) * (high - low)
    return span < abs(step)


def lower(expr: LoopExpr, box: Ranges) -> LoopExpr | None:
    """Return an expression without the variables of `box` that is the least value over the box.

    Exact for sums, differences, min, max and multiples; None for what is neither.
    """
    return _extreme(expr, box, -1)


def upper(expr: LoopExpr, box: Ranges) -> LoopExpr | None:
    """Return the greatest value over the box, as `lower` does the least.

    A variable that stands twice in the expression makes the answer safe rather than exact.
    """
    return _extreme(expr, box, 1)


def _extreme(expr: LoopExpr, box: Ranges, sign: int) -> LoopExpr | None:
    if not names(expr) & box.keys():
        return expr
    match expr:
        case Name(name):
            return Const(box[name][sign > 0], True)
        case Op("neg", (arg,)):
            return _rebuilt("neg", _extreme(arg, box, -sign))
        case Op("+" | "min" | "max" as op, (left, right)):
            return _rebuilt(op, _extreme(left, box, sign), _extreme(right, box, sign))
        case Op("-", (left, right)):
            return _rebuilt("-", _extreme(left, box, sign), _extreme(right, box, -sign))
        case Op("*", (Const(factor, True) as by, other)) | Op(
            "*", (other, Const(factor, True) as by)
        ):
            return _rebuilt("*", _extreme(other, box, sign if factor >= 0 else -sign), by)
        case Op("//", (left, Const(factor, True) as by)) if factor > 0:
            return _rebuilt("//", _extreme(left, box, sign), by)
        case _:
            return None


def _rebuilt(op: str, *args: LoopExpr | None) -> LoopExpr | None:
    given = tuple(arg for arg in args if arg is not None)
    if len(given) != len(args):
        return None
    constants = [int(arg.value) for arg in given if isinstance(arg, Const) and arg.integer]
    if len(constants) == len(given):
        folded = bounds_of(op, [(each, each) for each in constants])
        if isfinite(folded[0]):
            return Const(int(folded[0]), True)
    if op == "+" and Const(0, True) in given:
        return given[given[0] == Const(0, True)]
    return Op(op, given)


def holds(condition: LoopExpr, box: Ranges, unknown: frozenset[str]) -> LoopExpr | None:
    """Return when a condition holds in all of a box, without the variables of the box.

    None if there is no such simple condition: it reads a buffer, or needs a variable in `unknown`.
    """
    if next(loads(condition), None) is not None or names(condition) & unknown:
        return None
    match condition:
        case Op("and" | "or" as op, (left, right)):
            first, second = holds(left, box, unknown), holds(right, box, unknown)
            return None if first is None or second is None else Op(op, (first, second))
        case Op("not", (Op(op, sides),)) if op in NEGATED:
            return holds(Op(NEGATED[op], sides), box, unknown)
        case Op("<" | "<=" as op, (left, right)):
            return _compared(op, upper(left, box), lower(right, box))
        case Op(">" | ">=" as op, (left, right)):
            return _compared(op, lower(left, box), upper(right, box))
        case _:
            return None if names(condition) & box.keys() else condition


def never(condition: LoopExpr, box: Ranges) -> LoopExpr | None:
    """Return a simple condition under which another holds nowhere in a box; None if none is known.

    It is sufficient, not necessary, and has no variables of the box.
    """
    match condition:
        case Op("and" | "or" as op, (left, right)):
            known = [e for e in (never(left, box), never(right, box)) if e is not None]
            if len(known) == 2:
                return Op("or" if op == "and" else "and", tuple(known))
            return known[0] if known and op == "and" else None
        case Op(op, sides) if op in NEGATED:
            return holds(Op(NEGATED[op], sides), box, frozenset())
        case _:
            return None


def _compared(op: str, left: LoopExpr | None, right: LoopExpr | None) -> LoopExpr | None:
    return None if left is None or right is None else Op(op, (left, right))

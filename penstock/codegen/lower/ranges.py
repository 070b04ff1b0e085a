"""What loops leave of a rank: where it starts, how much is left, and how often to step.

Tiles need not divide. `Range.limits` says by how much the last step may be shorter; a serial loop
then runs ``min(tile, rest)`` times, a spatial one (whose extent is a constant) has a condition.
Excluded: which loops there are (`lower/tree.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from penstock.codegen.loops.nodes import LoopExpr, Name, Op
from penstock.codegen.lower.index import (
    Cond,
    Lin,
    Ranges,
    add,
    atom,
    compare,
    conjunction,
    constant,
    floor_divide,
    integer,
    range_of,
    scale,
    subtract,
    to_expr,
)

__all__ = ["Range", "iterations", "open_loop", "stays_inside", "whole"]


@dataclass(frozen=True, slots=True)
class Range:
    """Coordinates ``start .. start + length - 1`` of a rank variable.

    Args:
        start: the first coordinate.
        size: the largest possible length.
        limits: the length is the smallest of `size` and these.
        unit: what every length is a multiple of.
    """

    start: Lin
    size: int
    limits: tuple[Lin, ...] = ()
    unit: int = 1

    @property
    def length(self) -> LoopExpr:
        """The number of coordinates, as an expression."""
        result: LoopExpr = integer(self.size)
        for limit in self.limits:
            result = Op("min", (result, to_expr(limit)))
        return result


def whole(extent: int) -> Range:
    """Return all coordinates of a rank."""
    return Range(constant(0), extent, (), extent)


def iterations(outer: Range, tile: int, ranges: Ranges) -> tuple[int, LoopExpr]:
    """Return how many steps of `tile` coordinates a range takes: at most, and exactly."""
    steps = -(-outer.size // tile)
    result: LoopExpr = integer(steps)
    for limit in outer.limits:
        rounded = floor_divide(add(limit, constant(tile - 1)), constant(tile), ranges)
        if range_of(rounded, ranges)[0] < steps:
            result = Op("min", (result, to_expr(rounded)))
    return steps, result


def open_loop(outer: Range, tile: int, variable: str, ranges: Ranges) -> Range:
    """Return what one step leaves of a range.

    Args:
        outer: what is stepped through.
        tile: coordinates in one step.
        variable: the loop variable.
        ranges: of all loop variables, this one included.
    """
    if tile >= outer.size:
        return outer
    done = scale(atom(Name(variable)), tile)
    start = add(outer.start, done)
    unit = math.gcd(outer.unit, tile)
    if outer.unit % tile == 0:
        return Range(start, tile, (), unit)
    limits = [subtract(limit, done) for limit in outer.limits]
    if outer.size % tile:
        limits.append(subtract(constant(outer.size), done))
    kept = tuple(limit for limit in limits if range_of(limit, ranges)[0] < tile)
    return Range(start, tile, kept, unit)


def stays_inside(outer: Range, tile: int, variable: str, ranges: Ranges) -> Cond:
    """Return the condition under which a step of a loop of constant extent has any coordinate."""
    done = scale(atom(Name(variable)), tile)
    return conjunction(*(compare("<", done, limit, ranges) for limit in outer.limits))

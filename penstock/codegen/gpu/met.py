"""Conditions on elements that cost more than a bit: tested once for a tile, and kept.

What a neighbourhood on a grid needs (``p // X``, ``m % X``) stands in front of every statement over
a tile's elements. `Met` gives each such condition a bit for each element of a fragment, however its
loops are called, and the statements test the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock.codegen.gpu.fragment import Layout
from penstock.codegen.gpu.spell import Speller, variable
from penstock.codegen.loops.nodes import LoopExpr, Name, Op
from penstock.codegen.loops.rewrite import substituted
from penstock.codegen.loops.walk import loads
from penstock.codegen.tvm.ranges import names

__all__ = ["Kept", "Met"]

_DEAR = 12
"""What a condition costs from which on it is kept, in plain operators."""

_COSTS = {"//": 6, "%": 6}


@dataclass(frozen=True, slots=True)
class Kept:
    """A condition that is kept: its bits, its loops, and whether whole tiles meet it."""

    bits: str
    condition: LoopExpr
    row: str
    col: str
    whole: bool


@dataclass
class Met:
    """Finds the conditions that are worth it.

    Args:
        layout: of the fragments.
        classes: loop variable → class; 0 is the row.
    """

    layout: Layout
    classes: Mapping[str | tuple[str, int], int]
    kept: dict[LoopExpr, Kept] = field(default_factory=dict)

    def bit(self, condition: LoopExpr, *, whole: bool) -> tuple[Kept, str, str] | None:
        """Return where a condition is kept, and its loops over rows and columns; None if nowhere.

        Args:
            condition: on elements.
            whole: whether it is met wherever ``ps_full`` is set.
        """
        ranked = {name: self.classes[name] for name in names(condition) if name in self.classes}
        rows = [name for name, number in ranked.items() if number == 0]
        cols = [name for name, number in ranked.items() if number]
        if len(rows) != 1 or len(cols) != 1 or _cost(condition) < _DEAR:
            return None
        if any(True for _ in loads(condition)):
            return None  # what is read may lie outside where other conditions do not hold
        (row,), (col,) = rows, cols
        class_name = f"ps_col{ranked[col]}"
        key = substituted(condition, {row: Name("ps_row"), col: Name(class_name)})
        if key not in self.kept:
            self.kept[key] = Kept(f"ps_met{len(self.kept)}", condition, row, col, whole)
        return self.kept[key], row, col

    def declarations(self) -> list[str]:
        """Return the lines that declare the bits."""
        return [
            f"uint32_t {each.bits}[{-(-self.count(each) // 32)}] = {{}};"
            for each in self.kept.values()
        ]

    def count(self, kept: Kept) -> int:
        """Return the elements of a thread."""
        return 4 * self.layout.blocks * self.layout.eights(self.classes[kept.col])

    def lines(self, kept: Kept, speller: Speller, first: str) -> list[str]:
        """Return the lines that test a condition, a few elements at a time, for few registers.

        Args:
            kept: the condition.
            speller: of expressions.
            first: the first column of a thread.
        """
        condition = speller.condition(kept.condition)
        count, eights = self.count(kept), self.layout.eights(self.classes[kept.col])
        row, col = "ps_row + 8 * (ps_at / 2 % 2)", f"{first} + 8 * (ps_at / 4) + ps_at % 2"
        if self.layout.blocks > 1:
            row = f"ps_row + 16 * (ps_at / {4 * eights}) + 8 * (ps_at / 2 % 2)"
            col = f"{first} + 8 * (ps_at / 4 % {eights}) + ps_at % 2"
        inner = [
            f"const int {variable(kept.row)} = {row}, {variable(kept.col)} = {col};",
            f"ps_bits |= (uint32_t){condition} << ps_at % 32;",
        ]
        lines = [
            "#pragma unroll",
            f"for (int ps_first = 0; ps_first < {count}; ps_first += 32) {{",
            "  uint32_t ps_bits = 0;",
            "  #pragma unroll 4",
            f"  for (int ps_at = ps_first; ps_at < ps_min(ps_first + 32, {count}); ++ps_at) {{",
            *("    " + line for line in inner),
            "  }",
            f"  {kept.bits}[ps_first / 32] = ps_bits;",
            "}",
        ]
        if kept.whole:
            return ["if constexpr (!ps_full) {", *("  " + line for line in lines), "}"]
        return lines


def _cost(expr: LoopExpr) -> int:
    if isinstance(expr, Op):
        return _COSTS.get(expr.op, 1) + sum(map(_cost, expr.args))
    return 0

"""One point of an Einsum as micro-operations: exact integers, fractions known beforehand.

The value of every sub-expression is ``n / 2^f`` with f static, as in `interpreter/exact.py`;
shifts that bring operands to one fraction are part of the micro-operation. Each operator of the
expression is one micro-operation (`clamp` two) and takes the target's cycles. Excluded: where
operands come from (`sim/clock/assemble.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from penstock.einsum_ir.affine import Affine, affine
from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.interpreter.rounding import stripped, to_fixed
from penstock.einsum_ir.interpreter.widths import value_width
from penstock.einsum_ir.nodes import Access, Apply, Einsum, Expr, Num, Sym, Var, accesses
from penstock.einsum_ir.ops import OPERATORS, REDUCTIONS
from penstock.einsum_ir.powers import as_products
from penstock.einsum_ir.shapes import Bound
from penstock.errors import MappingError
from penstock.machine.hardware import Core, Hardware
from penstock.machine.program import Uop

__all__ = ["FACTOR_BITS", "Point", "point"]

FACTOR_BITS = 33
"""Bits of the narrower factor of a product."""

_REGISTERS = ("r0", "r1", "r2", "r3")
_SIMPLE = {"+": "add", "-": "sub", "max": "max", "min": "min", "and": "and", "or": "or"}
_SIMPLE["fill"] = "fill"
_COMPARE = {
    "<": ("lt", False),
    ">": ("lt", True),
    "<=": ("le", False),
    ">=": ("le", True),
    "==": ("eq", False),
    "!=": ("ne", False),
}


@dataclass(frozen=True, slots=True)
class Point:
    """The micro-operations of a point.

    Args:
        uops: in order; the last gives ``out``.
        fraction: of the result.
        accesses: what operands x0, x1, .. read.
        indices: what i0, i1, .. are.
    """

    uops: tuple[Uop, ...]
    fraction: int
    accesses: tuple[Access, ...]
    indices: tuple[Affine, ...]


@dataclass(frozen=True, slots=True)
class _Value:
    """Where a value is: a source, or a constant `imm` if the source is "imm"."""

    source: str
    fraction: int
    imm: int = 0


def point(
    einsum: Einsum,
    tests: tuple[Expr, ...],
    carried: Access | None,
    initial: Access | None,
    bound: Bound,
    fmt: Format,
    core: Core,
    hardware: Hardware,
) -> Point:
    """Return the micro-operations of one point of an Einsum.

    Args:
        einsum: with its body.
        tests: predicates that are no affine conditions; the point is absent where one fails.
        carried: the state's element before, which a step that is absent leaves as it is.
        initial: the sum so far, read as one more operand.
        bound: the cascade.
        fmt: the fixed format of all tensors.
        core: where it runs.
        hardware: the machine.

    Raises:
        MappingError: an operator that the places do not have, or a value that is too wide.
    """
    writer = _Writer(einsum, bound, fmt, core, hardware)
    return writer.run(tests, carried, initial)


@dataclass
class _Writer:
    einsum: Einsum
    bound: Bound
    fmt: Format
    core: Core
    hardware: Hardware
    uops: list[Uop] = field(default_factory=list)
    reads: dict[str, Access] = field(default_factory=dict)
    indices: list[Affine] = field(default_factory=list)
    free: list[str] = field(default_factory=lambda: list(_REGISTERS))

    def run(self, tests: tuple[Expr, ...], carried: Access | None, initial: Access | None) -> Point:
        value = self.value(self.einsum.body)
        for test in tests:
            held = self.value(test)
            value = self.emit("gate", "and", value, held, fraction=value.fraction)
        if not self._fused(value):
            value = self.emit("mov", "+", value, fraction=value.fraction)
        self.uops[-1] = replace(self.uops[-1], gated=True, cycles=self._last_cycles())
        if carried is not None:
            value = self.aligned("fill", "fill", value, self.value(carried))
        self.uops[-1] = replace(self.uops[-1], dst="out")
        if initial is not None:
            self.operand(initial)
        self._check_fold(value)
        return Point(
            tuple(self.uops), value.fraction, tuple(self.reads.values()), tuple(self.indices)
        )

    def _last_cycles(self) -> int:
        """Return the cycles of the last micro-operation, with the fold that it does."""
        last, reduce, costs = self.uops[-1], self.einsum.reduce, dict(self.core.cycles)
        if reduce is None:
            return last.cycles
        if last.op == "mul":
            return costs.get("mac", last.cycles)
        return costs.get(REDUCTIONS[reduce.op].fold, 1)

    def _fused(self, value: _Value) -> bool:
        """Whether the last micro-operation can fold its result as it makes it."""
        if not self.uops or self.uops[-1].dst != value.source:
            return False
        reduce = self.einsum.reduce
        if reduce is None:
            return True
        return self.uops[-1].op == "mul" and REDUCTIONS[reduce.op].fold == "+"

    def _check_fold(self, value: _Value) -> None:
        reduce = self.einsum.reduce
        if reduce is None:
            return
        if reduce.op not in ("sum", "max", "min"):
            raise self._lacks(reduce.op)
        fold = REDUCTIONS[reduce.op].fold
        if fold not in dict(self.core.cycles) and "mac" not in dict(self.core.cycles):
            raise self._lacks(fold)
        points = 1
        for name in reduce.over:
            points *= self.bound.extents[name]
        width = value_width(self.einsum.body, self.bound, self.fmt)
        grown = (points - 1).bit_length() if reduce.op == "sum" else 0
        self._check_width(width.integer + value.fraction + grown, str(self.einsum))

    # --- expressions ----------------------------------------------------------------------------

    def value(self, expr: Expr) -> _Value:
        """Write what computes an expression; return where its value is."""
        expr = as_products(expr) or expr
        form = None if accesses(expr) else affine(expr, self.bound.symbols)
        if form is not None and form.coefficients:
            return self._index(form)
        constant = self._constant(expr if form is None else Num(form.constant))
        if constant is not None:
            return constant
        match expr:
            case Access():
                return self.operand(expr)
            case Apply(op, args):
                result = self._applied(op, args, expr)
                width = value_width(expr, self.bound, self.fmt)
                self._check_width(width.integer + result.fraction, str(expr))
                return result
            case Num() | Sym() | Var():
                raise AssertionError(str(expr))

    def _constant(self, expr: Expr) -> _Value | None:
        match expr:
            case Num(number):
                value = float(number)
            case Sym(name):
                value = float(self.bound.symbols[name])
            case Apply("neg", (Num(number),)):
                value = -float(number)
            case _:
                return None
        whole, fraction = stripped(int(to_fixed(np.asarray(value), self.fmt)), self._fraction)
        return _Value("imm", fraction, whole)

    @property
    def _fraction(self) -> int:
        return self.fmt.fraction_bits

    def _index(self, form: Affine) -> _Value:
        if form not in self.indices:
            self.indices.append(form)
        if len(self.indices) > self.hardware.indices:
            raise self._too_much("different coordinates as values", self.hardware.indices)
        return _Value(f"i{self.indices.index(form)}", 0)

    def operand(self, access: Access) -> _Value:
        """Return the operand that an access is."""
        names = list(self.reads)
        if str(access) not in names:
            self.reads[str(access)] = access
            names.append(str(access))
        if len(names) > self.hardware.operands:
            raise self._too_much("operands", self.hardware.operands)
        return _Value(f"x{names.index(str(access))}", self._fraction)

    def _applied(self, op: str, args: tuple[Expr, ...], expr: Expr) -> _Value:
        if op not in dict(self.core.cycles) and op != "fill":
            raise self._lacks(op)
        values = [self.value(arg) for arg in args]
        if op in _SIMPLE:
            found = self.aligned(_SIMPLE[op], op, *values)
            return replace(found, fraction=0) if op in ("and", "or") else found
        if op in _COMPARE:
            name, swapped = _COMPARE[op]
            found = self.aligned(name, op, *(reversed(values) if swapped else values))
            return replace(found, fraction=0)
        if len(values) == 1:
            return self._unary(op, values[0], args[0])
        match op:
            case "*":
                return self._product(values[0], values[1], args)
            case "/":
                return self._quotient(values[0], values[1], args)
            case "where":
                return self._where(values)
            case "clamp":
                return self.aligned(
                    "min", "min", self.aligned("max", "max", *values[:2]), values[2]
                )
            case _:
                raise self._lacks(op)

    def _unary(self, op: str, value: _Value, arg: Expr) -> _Value:
        zero = _Value("imm", 0)
        match op:
            case "sq":
                return self._product(value, value, (arg, arg))
            case "exp" | "exp2":
                return self.emit(op, op, value, sha=value.fraction, fraction=self._fraction)
            case "not":
                return self.emit("eq", op, value, zero, fraction=0)
            case "neg":
                return self.emit("sub", op, zero, value, fraction=value.fraction)
            case "abs":
                return self.emit("abs", op, value, fraction=value.fraction)
            case "relu":
                return self.emit("max", op, value, zero, fraction=value.fraction)
            case _:
                raise self._lacks(op)

    def _product(self, a: _Value, b: _Value, args: tuple[Expr, ...]) -> _Value:
        widths = [value_width(arg, self.bound, self.fmt).bits for arg in args]
        if widths[0] < widths[1]:
            a, b, widths = b, a, widths[::-1]
        if widths[1] > FACTOR_BITS:
            raise MappingError(
                f"{self.einsum.name} multiplies values of {widths[0]} and {widths[1]} bits, and "
                f"one factor of {self.core.name} has at most {FACTOR_BITS}",
                span=self.einsum.span,
                fix="give an Einsum of its own to one of the factors, which rounds it",
            )
        return self.emit("mul", "*", a, b, fraction=a.fraction + b.fraction)

    def _quotient(self, a: _Value, b: _Value, args: tuple[Expr, ...]) -> _Value:
        shift = self._fraction + b.fraction - a.fraction
        left, right = max(shift, 0), max(-shift, 0)
        widths = [value_width(arg, self.bound, self.fmt).bits for arg in args]
        self._check_width(widths[0] + left + 2, str(self.einsum))
        self._check_width(widths[1] + right + self.fmt.bits + 2, str(self.einsum))
        return self.emit("div", "/", a, b, sha=left, shb=right, fraction=self._fraction)

    def _where(self, values: list[_Value]) -> _Value:
        test, then, other = values
        fraction = max(then.fraction, other.fraction)
        return self.emit(
            "where",
            "where",
            then,
            other,
            test,
            sha=fraction - then.fraction,
            shb=fraction - other.fraction,
            fraction=fraction,
        )

    def aligned(self, name: str, op: str, a: _Value, b: _Value) -> _Value:
        """Write an operator on two values at the larger of their fractions."""
        fraction = max(a.fraction, b.fraction)
        shifts = (fraction - a.fraction, fraction - b.fraction)
        return self.emit(name, op, a, b, sha=shifts[0], shb=shifts[1], fraction=fraction)

    def emit(
        self,
        name: str,
        op: str,
        a: _Value,
        b: _Value | None = None,
        c: _Value | None = None,
        *,
        sha: int = 0,
        shb: int = 0,
        fraction: int,
    ) -> _Value:
        """Write one micro-operation; return its result."""
        if b is not None and a.source == b.source == "imm" and a.imm != b.imm:
            a = self.emit("mov", op, a, fraction=a.fraction)
        second, third = b or _Value("imm", 0, a.imm), c or _Value("imm", 0)
        used = [each for each in (a, b, c) if each is not None]
        for each in used:
            if each.source in _REGISTERS and each.source not in self.free:
                self.free.insert(0, each.source)
        if not self.free:
            raise self._too_much("intermediate values", len(_REGISTERS))
        target = self.free.pop(0)
        imm = next((each.imm for each in used if each.source == "imm"), 0)
        costs = dict(self.core.cycles)
        cycles = costs.get(op, 1) if name not in ("mov", "gate", "fill") else 1
        self.uops.append(
            Uop(name, target, a.source, second.source, third.source, sha, shb, imm, cycles)
        )
        return _Value(target, fraction)

    # --- refusals -------------------------------------------------------------------------------

    def _check_width(self, bits: int, text: str) -> None:
        if bits > self.hardware.acc_bits:
            raise MappingError(
                f"{self.einsum.name} needs {bits} bits for '{text}', and the RTL computes in "
                f"{self.hardware.acc_bits}",
                span=self.einsum.span,
                fix="split the Einsum, which rounds in between, or take a narrower format",
            )

    def _lacks(self, op: str) -> MappingError:
        known = sorted(name for name in dict(self.core.cycles) if name in OPERATORS)
        return MappingError(
            f"{self.einsum.name} needs '{op}', which the RTL of {self.core.name} does not have",
            span=self.einsum.span,
            fix=f"use {', '.join(known)}; sum, max or min",
        )

    def _too_much(self, what: str, limit: int) -> MappingError:
        return MappingError(
            f"{self.einsum.name} has more than {limit} {what}, which the RTL of "
            f"{self.core.name} holds",
            span=self.einsum.span,
            fix="split it into several Einsums",
        )

"""The immutable nodes of a cascade, what each must satisfy, and how each prints.

Excluded on purpose: loops, machines, arrays of data. What cannot mean anything cannot be
built: the checks run in ``__post_init__`` and raise `CascadeError`. A `Cascade` of these
nodes, and the checks between Einsums, are in `cascade.py`.

Printing is ``str``; `notation.parse` reads it back (``parse(str(c)) == c``). Spans (where the
user wrote something) take no part in equality, so text and Python build equal objects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import cached_property

from penstock.einsum_ir.ops import OPERATORS, REDUCTIONS, SELECTIONS
from penstock.errors import CascadeError, Span, UnknownNameError

__all__ = [
    "MAX_DEPTH",
    "Access",
    "Apply",
    "Declaration",
    "Einsum",
    "Expr",
    "Group",
    "Num",
    "Reduce",
    "Statement",
    "Sym",
    "Var",
    "accesses",
    "check_depth",
    "leaves",
    "next_variable",
    "rebuilt",
    "resolve_scalars",
    "substitute",
    "variables",
    "walk",
]

MAX_DEPTH = 100
"""Levels that an expression may have, so that no recursion over one can run out of stack."""

_CALLS = {"clamp": "clamp(x, low, high)", "where": "where(condition, a, b)", "fill": "fill(x, v)"}
_CALLS |= {"max": "max(a, b)", "min": "min(a, b)"}
_WHOLE = 10**15
_LARGEST = 10**300


@dataclass(frozen=True, slots=True)
class Num:
    """A literal number; ``-inf`` prints as ``-inf``. A whole one is kept as an int (to 1e15)."""

    value: float
    span: Span | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.value, int) and abs(self.value) > _LARGEST:
            raise CascadeError(
                f"a number of {len(str(abs(self.value)))} digits is too large",
                span=self.span,
                fix="write inf for infinity",
            )
        if math.isnan(self.value):
            raise CascadeError(
                "nan is not a number that an Einsum can hold",
                span=self.span,
                fix="use a predicate (s.t.) for points that do not exist",
            )
        if abs(self.value) < _WHOLE and self.value == int(self.value):
            object.__setattr__(self, "value", int(self.value))

    def __str__(self) -> str:
        return format_number(self.value)


@dataclass(frozen=True, slots=True)
class Var:
    """A rank variable, lower case: as an index, or as a value (its coordinate)."""

    name: str
    span: Span | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Sym:
    """A named scalar, upper case: the shape of a rank (``M0``) or a constant (``SC``)."""

    name: str
    span: Span | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Access:
    """A tensor at a point: ``K[h//G, m1*M0+m0, e]``. Each index is an integer expression."""

    tensor: str
    indices: tuple[Expr, ...]
    span: Span | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.tensor}[{', '.join(str(index) for index in self.indices)}]"


@dataclass(frozen=True, slots=True)
class Apply:
    """A point-wise operator (a key of `ops.OPERATORS`) on its operands."""

    op: str
    args: tuple[Expr, ...]
    span: Span | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.op not in OPERATORS:
            functions = [name for name, row in OPERATORS.items() if row.kind == "function"]
            raise UnknownNameError("operator", self.op, functions, span=self.span)
        arity = OPERATORS[self.op].arity
        if len(self.args) != arity:
            raise CascadeError(
                f"operator '{self.op}' takes {arity} operand(s), {len(self.args)} given",
                span=self.span,
                fix=f"write {_CALLS.get(self.op, f'{self.op}(x)')}",
            )

    def __str__(self) -> str:
        return _print_apply(self)


Expr = Num | Var | Sym | Access | Apply


def format_number(value: float) -> str:
    """Return the shortest text that reads back as the same number."""
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if float(value).is_integer() and abs(value) < _WHOLE:
        return str(int(value))
    return repr(float(value))


def _print_apply(expr: Apply) -> str:
    operator = OPERATORS[expr.op]
    if not operator.precedence:
        return f"{expr.op}({', '.join(str(arg) for arg in expr.args)})"
    if operator.arity == 1:
        operand = _wrapped(expr.args[0], operator.precedence)
        if expr.op == "not":
            return f"not {operand}"
        # -3 is a literal, -(3) the negation of one
        return f"-({operand})" if operand[0].isdigit() or operand == "inf" else f"-{operand}"
    left = _wrapped(expr.args[0], operator.precedence + (expr.op == "**"))
    right = _wrapped(expr.args[1], operator.precedence + (expr.op != "**"))
    if operator.kind == "comparison":  # comparisons do not associate
        left = _wrapped(expr.args[0], operator.precedence + 1)
    return f"{left} {expr.op} {right}"


def _wrapped(expr: Expr, at_least: int) -> str:
    """Print `expr`, in parentheses if it binds less tightly than `at_least`."""
    text = str(expr)
    if isinstance(expr, Apply):
        precedence = OPERATORS[expr.op].precedence
        return f"({text})" if precedence and precedence < at_least else text
    return f"({text})" if isinstance(expr, Num) and expr.value < 0 and at_least > 5 else text


def walk(expr: Expr) -> Iterator[Expr]:
    """Yield `expr` and everything below it, indices included, outermost first."""
    waiting = [expr]
    while waiting:  # not a generator for each level: this is called everywhere
        node = waiting.pop()
        yield node
        if isinstance(node, Access):
            waiting += reversed(node.indices)
        elif isinstance(node, Apply):
            waiting += reversed(node.args)


def variables(*exprs: Expr) -> tuple[str, ...]:
    """Return the rank variables of the expressions, in order of first appearance."""
    found = {node.name: None for expr in exprs for node in walk(expr) if isinstance(node, Var)}
    return tuple(found)


def accesses(*exprs: Expr) -> tuple[Access, ...]:
    """Return every access in the expressions (nested ones too), in order of appearance."""
    return tuple(node for expr in exprs for node in walk(expr) if isinstance(node, Access))


def leaves(*exprs: Expr) -> tuple[Expr, ...]:
    """Return what expressions are made of, in order of appearance: no operators, no indices."""
    found: list[Expr] = []
    for expr in exprs:
        found += leaves(*expr.args) if isinstance(expr, Apply) else [expr]
    return tuple(found)


def rebuilt(expr: Expr, part: Callable[[Expr], Expr]) -> Expr:
    """Return the same node over what `part` makes of each of its operands; spans are kept."""
    match expr:
        case Access(_, indices):
            return replace(expr, indices=tuple(part(each) for each in indices))
        case Apply(_, args):
            return replace(expr, args=tuple(part(each) for each in args))
        case Num() | Var() | Sym():
            return expr


def substitute(expr: Expr, values: dict[str, Expr]) -> Expr:
    """Replace rank variables by expressions; spans are kept."""
    if isinstance(expr, Var):
        return values.get(expr.name, expr)
    return rebuilt(expr, lambda each: substitute(each, values))


def resolve_scalars(expr: Expr, scalars: AbstractSet[str]) -> Expr:
    """Replace a scalar by the tensor of no ranks with its name, if there is one."""
    if isinstance(expr, Sym):
        return Access(expr.name, (), span=expr.span) if expr.name in scalars else expr
    return rebuilt(expr, lambda each: resolve_scalars(each, scalars))


def check_depth(expr: Expr, span: Span | None = None) -> None:
    """Check that an expression has at most `MAX_DEPTH` levels.

    Raises:
        CascadeError: it has more.
    """
    level, depth = [expr], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise CascadeError(
                f"an expression has more than {MAX_DEPTH} levels",
                span=span,
                fix="split it into several Einsums",
            )
        level = [child for node in level for child in _children(node)]


def _children(expr: Expr) -> tuple[Expr, ...]:
    match expr:
        case Access(_, children) | Apply(_, children):
            return children
        case Num() | Var() | Sym():
            return ()


def next_variable(index: Expr) -> str | None:
    """Return ``i`` if the index is ``i + 1`` (the next step of an iterative rank), else None."""
    match index:
        case Apply("+", (Var(name), Num(1))):
            return name
        case _:
            return None


@dataclass(frozen=True, slots=True)
class Reduce:
    """``:: max[m0]``: fold over the variables that the left side lacks.

    A selection (a key of `ops.SELECTIONS`) gives coordinates, row-major if `over` has several
    variables; ``topk[m -> j]`` writes them along the variable `into` of the left side.
    """

    op: str
    over: tuple[str, ...]
    into: str | None = None
    span: Span | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        arrow = "" if self.into is None else f" -> {self.into}"
        return f"{self.op}[{', '.join(self.over)}{arrow}]"


@dataclass(frozen=True)
class Einsum:
    """One equation: map (the body), then reduce, then populate the output.

    ``reduce`` may be left out: an absent one means a sum over every variable of the body (and
    of the predicate) that the output lacks; it is filled in here, so that two spellings of the
    same Einsum are equal. ``init`` marks the equation of an iterative tensor's first coordinate.
    """

    output: Access
    body: Expr
    reduce: Reduce | None = None
    where: Expr | None = None
    init: bool = False
    span: Span | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        for expr in (self.output, self.body, *((self.where,) if self.where else ())):
            check_depth(expr, self.span)
        kept = variables(self.output)
        missing = tuple(name for name in variables(*self._right) if name not in kept)
        if self.reduce is None:
            if missing:
                object.__setattr__(self, "reduce", Reduce("sum", missing))
            return
        known = {**REDUCTIONS, **SELECTIONS}
        if self.reduce.op not in known:
            raise UnknownNameError("reduction", self.reduce.op, known, span=self.reduce.span)
        self._check_reduced(self.reduce, kept, missing)
        self._check_selection(self.reduce, missing)
        over = missing
        if self.reduce.op in SELECTIONS and self.reduce.over:  # the order says what is row-major
            over = tuple(dict.fromkeys(self.reduce.over))
        filled = replace(self.reduce, over=over) if missing else None
        object.__setattr__(self, "reduce", filled)

    def _check_reduced(
        self, reduce: Reduce, kept: tuple[str, ...], missing: tuple[str, ...]
    ) -> None:
        for name in reduce.over:
            if name in kept:
                raise CascadeError(
                    f"{self.name} reduces over '{name}', which its left side keeps",
                    span=reduce.span or self.span,
                    fix=f"leave '{name}' out of {self.output} or out of {reduce}",
                )
            if name not in missing:
                raise CascadeError(
                    f"{self.name} reduces over '{name}', which does not occur on its right side",
                    span=reduce.span or self.span,
                    fix=f"leave '{name}' out of {reduce}",
                )
        for name in missing:
            if name not in reduce.over:
                raise CascadeError(
                    f"{self.name} says {reduce}, but '{name}' is missing on its left side too",
                    span=reduce.span or self.span,
                    fix=f"add '{name}' to {self.output} or to {reduce}",
                )

    def _check_selection(self, reduce: Reduce, missing: tuple[str, ...]) -> None:
        selection = SELECTIONS.get(reduce.op)
        ranks = ", ".join(reduce.over or missing) or "m"
        fix = ""
        if (selection is not None and selection.many) and reduce.into is None:
            what = f"{reduce.op} gives several coordinates, but {reduce} names no rank for them"
            fix = f"write :: {reduce.op}[{ranks} -> j], with j on the left side"
        elif reduce.into is not None and not (selection is not None and selection.many):
            what = f"{reduce.op} gives one value, so that {reduce} has no use for '{reduce.into}'"
            fix = f"write :: {reduce.op}[{ranks}], without '{reduce.into}' on the left side"
        elif selection is not None and not missing:
            what = f"{self.name} selects over no rank"
            fix = "leave a rank of the right side out on the left"
        elif reduce.into is not None and Var(reduce.into) not in self.output.indices:
            what = f"{reduce} writes along '{reduce.into}', which {self.output} lacks"
            fix = f"add '{reduce.into}' to {self.output}"
        elif reduce.into is not None and reduce.into in variables(*self._right):
            what = f"{reduce} writes along '{reduce.into}', which occurs on the right side"
            fix = "use a rank variable of its own for the places"
        if fix:
            raise CascadeError(what, span=reduce.span or self.span, fix=fix)

    @property
    def _right(self) -> tuple[Expr, ...]:
        return (self.body,) if self.where is None else (self.body, self.where)

    @property
    def places(self) -> str:
        """The variable along which a selection writes (``j`` of ``topk[m -> j]``), or ""."""
        return (self.reduce.into or "") if self.reduce is not None else ""

    @property
    def selects(self) -> bool:
        """Whether it gives coordinates (``topk``, ``argmax`` and so on)."""
        return self.reduce is not None and self.reduce.op in SELECTIONS

    @property
    def name(self) -> str:
        """The tensor that the Einsum defines."""
        return self.output.tensor

    @cached_property
    def variables(self) -> tuple[str, ...]:
        """The iteration space: output variables in order, then the reduced ones."""
        return (*variables(self.output), *(self.reduce.over if self.reduce else ()))

    @cached_property
    def operands(self) -> tuple[Access, ...]:
        """Every access on the right side, in order of appearance (predicate last)."""
        return accesses(*self._right, *self.output.indices)

    @cached_property
    def iterative(self) -> str | None:
        """The variable ``i`` if the output is written at ``i + 1``, else None."""
        for index in self.output.indices:
            name = next_variable(index)
            if name is not None:
                return name
        return None

    def __str__(self) -> str:
        text = f"{'init ' if self.init else ''}{self.output} = {self.body}"
        if self.reduce is not None:
            text += f" :: {self.reduce}"
        if self.where is not None:
            text += f" s.t. {self.where}"
        return text


@dataclass(frozen=True, slots=True)
class Group:
    """``loop m1:``: Einsums that advance along one iterative rank in lock step."""

    variable: str
    einsums: tuple[Einsum, ...]
    span: Span | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return "\n".join([f"loop {self.variable}:", *(f"  {einsum}" for einsum in self.einsums)])


Statement = Einsum | Group


@dataclass(frozen=True, slots=True)
class Declaration:
    """An input or output with a rank for each of its dimensions: ``K[h, m, e]``."""

    tensor: str
    ranks: tuple[str, ...]
    span: Span | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.tensor}[{', '.join(self.ranks)}]"

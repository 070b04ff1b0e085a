"""Expressions as Python values: operators and functions make larger ones of them.

The functions are the operators of `ops.OPERATORS`; those whose names Python uses are called
`maximum`, `minimum`, `absolute` and `rounded`. Excluded: tensors and Einsums (`dsl.py`).
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from numbers import Integral, Real
from types import FrameType
from typing import Any

from penstock.einsum_ir.frontend.sugar import Normalise
from penstock.einsum_ir.nodes import Apply, Expr, Num, Reduce, Sym, Var
from penstock.einsum_ir.ops import SELECTIONS
from penstock.errors import CascadeError, Span

__all__ = [
    "Operand",
    "Rank",
    "RightSide",
    "Term",
    "Value",
    "absolute",
    "argmax",
    "argmin",
    "argsort",
    "bitlen",
    "clamp",
    "cos",
    "erf",
    "exp",
    "exp2",
    "expression",
    "fill",
    "floor",
    "gelu",
    "here",
    "log",
    "log2",
    "log_softmax",
    "maximum",
    "minimum",
    "ranks",
    "reduce_max",
    "reduce_mean",
    "reduce_min",
    "reduce_prod",
    "reduce_sum",
    "relu",
    "rounded",
    "rsqrt",
    "sigmoid",
    "sign",
    "silu",
    "sin",
    "softmax",
    "softplus",
    "sq",
    "sqrt",
    "step",
    "such_that",
    "tanh",
    "topk",
    "where",
]

_OURS = ("penstock.einsum_ir.", "penstock.importers.", "torch.", "numpy.", "contextlib")


class Term:
    """An expression that is being built; Python's operators make larger ones of it.

    ``==`` and the other comparisons make predicates, ``&``, ``|`` and ``~`` combine them. All
    terms are of a subclass, and none of these has subclasses: else Python would turn ``a < b``
    into ``b > a`` where the class of ``b`` is one of ``a``'s.
    """

    __slots__ = ("_expr",)
    __hash__ = object.__hash__

    def __init__(self, expr: Expr) -> None:
        self._expr = expr

    @property
    def expr(self) -> Expr:
        """The expression."""
        return self._expr

    def where(self, predicate: Operand) -> RightSide:
        """Return the right side that is absent where `predicate` is false (``s.t.``)."""
        return such_that(self, predicate)

    def __bool__(self) -> bool:
        raise CascadeError(
            "an Einsum expression has no truth value: it is built now and computed later",
            span=here(),
            fix="write & | ~ for and, or, not, and (0 <= x) & (x < W) for 0 <= x < W; "
            "where(condition, a, b) and maximum(a, b) choose between values",
        )

    def __iter__(self) -> Iterator[Term]:
        raise CascadeError(
            "an Einsum expression is no list: Python cannot go through it",
            span=here(),
            fix="for sum(x) and max(x) write reduce_sum(x, m) and reduce_max(x, m)",
        )

    def __getitem__(self, index: Any) -> Term:
        raise CascadeError(
            f"{self} has its indices already",
            span=here(),
            fix="put all indices into one pair of brackets, as in c.Q[p, e]",
        )

    def __matmul__(self, other: object) -> Term:
        raise CascadeError(
            "'@' is not in the notation: it does not say what is summed",
            span=here(),
            fix="write '*' and the indices: c.Q[p, e] * c.K[m, e] is summed over e",
        )

    def __str__(self) -> str:
        return str(self.expr)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"

    def __add__(self, other: Operand) -> Term:
        return _apply("+", self, other)

    def __radd__(self, other: Operand) -> Term:
        return _apply("+", other, self)

    def __sub__(self, other: Operand) -> Term:
        return _apply("-", self, other)

    def __rsub__(self, other: Operand) -> Term:
        return _apply("-", other, self)

    def __mul__(self, other: Operand) -> Term:
        return _apply("*", self, other)

    def __rmul__(self, other: Operand) -> Term:
        return _apply("*", other, self)

    def __truediv__(self, other: Operand) -> Term:
        return _apply("/", self, other)

    def __rtruediv__(self, other: Operand) -> Term:
        return _apply("/", other, self)

    def __floordiv__(self, other: Operand) -> Term:
        return _apply("//", self, other)

    def __rfloordiv__(self, other: Operand) -> Term:
        return _apply("//", other, self)

    def __mod__(self, other: Operand) -> Term:
        return _apply("%", self, other)

    def __rmod__(self, other: Operand) -> Term:
        return _apply("%", other, self)

    def __pow__(self, other: Operand) -> Term:
        return _apply("**", self, other)

    def __rpow__(self, other: Operand) -> Term:
        return _apply("**", other, self)

    def __neg__(self) -> Term:
        return _apply("neg", self)

    def __abs__(self) -> Term:
        return _apply("abs", self)

    def __invert__(self) -> Term:
        return _apply("not", self)

    def __and__(self, other: Operand) -> Term:
        return _apply("and", self, other)

    def __rand__(self, other: Operand) -> Term:
        return _apply("and", other, self)

    def __or__(self, other: Operand) -> Term:
        return _apply("or", self, other)

    def __ror__(self, other: Operand) -> Term:
        return _apply("or", other, self)

    def __eq__(self, other: Operand) -> Term:  # type: ignore[override]
        return _apply("==", self, other)

    def __ne__(self, other: Operand) -> Term:  # type: ignore[override]
        return _apply("!=", self, other)

    def __lt__(self, other: Operand) -> Term:
        return _apply("<", self, other)

    def __le__(self, other: Operand) -> Term:
        return _apply("<=", self, other)

    def __gt__(self, other: Operand) -> Term:
        return _apply(">", self, other)

    def __ge__(self, other: Operand) -> Term:
        return _apply(">=", self, other)


Operand = Term | float


class Value(Term):
    """A term that is made of others."""

    __slots__ = ()


class Rank(Term):
    """A rank variable: an index, or a coordinate in an expression; ``m.shape`` is its extent."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        super().__init__(Var(name))
        self.name = name

    @property
    def shape(self) -> Term:
        """The extent of the rank, as a scalar: ``M0`` for ``m0``."""
        return Value(Sym(self.name.upper()))

    def at(self, place: Operand) -> Term:
        """Return the index of a left side that writes at the coordinate `place` of the rank."""
        return Value(Apply("==", (self.expr, expression(place)), span=here()))


class RightSide(Term):
    """An expression with a reduction or a predicate: complete, so that it can only be assigned."""

    __slots__ = ("body", "normalise", "predicate", "reduce")

    def __init__(
        self,
        body: Expr,
        reduce: Reduce | None = None,
        predicate: Expr | None = None,
        normalise: Normalise | None = None,
    ) -> None:
        super().__init__(body)
        self.body = body
        self.reduce = reduce
        self.predicate = predicate
        self.normalise = normalise

    @property
    def expr(self) -> Expr:
        """Never there: a reduction or a predicate stands last in an Einsum.

        Raises:
            CascadeError: always.
        """
        what, example = "a predicate", "c.B[p, m] = c.A[p, m].where(...)"
        if self.normalise is not None:
            what = self.normalise.word
            example = f"c.A[p, m] = {what}(...)"
        elif self.reduce is not None:
            name = _function(self.reduce.op)
            what, example = f"the reduction {name}", f"c.GM[p] = {name}(...)"
        raise CascadeError(
            f"{what} stands inside a larger expression, but an Einsum ends with it",
            span=here(),
            fix=f"give it a name of its own, as in {example}, and use that",
        )

    def __str__(self) -> str:
        text = str(self.body)
        if self.normalise is not None:
            text = f"{self.normalise.word}({text}; {', '.join(self.normalise.over)})"
        if self.reduce is not None:
            text += f" :: {self.reduce}" if self.reduce.over else f" :: {self.reduce.op}"
        return text if self.predicate is None else f"{text} s.t. {self.predicate}"


def ranks(names: str) -> tuple[Rank, ...]:
    """Return rank variables: ``p, m, e = ranks("p m e")``."""
    return tuple(Rank(name) for name in names.replace(",", " ").split())


def expression(value: object) -> Expr:
    """Return the expression of a term or a number.

    Raises:
        CascadeError: a reduction or a predicate.
        TypeError: neither a term nor a number.
    """
    if isinstance(value, Term):
        return value.expr
    if isinstance(value, Integral):
        return Num(int(value))
    if isinstance(value, Real):
        return Num(float(value))
    if isinstance(value, slice):
        raise CascadeError(
            "a slice is no index",
            span=here(),
            fix="write a rank variable for a whole rank, and a predicate for a part: "
            "c.Q[p, e].where(e < 4)",
        )
    raise TypeError(f"an Einsum takes terms and numbers, not {type(value).__name__}")


def _apply(op: str, *args: Operand) -> Term:
    return Value(Apply(op, tuple(expression(each) for each in args), span=here()))


def _unary(op: str) -> Callable[[Operand], Term]:
    def function(x: Operand) -> Term:
        return _apply(op, x)

    function.__doc__ = f"Return the operator ``{op}`` of a term."
    return function


absolute = _unary("abs")
bitlen = _unary("bitlen")
cos = _unary("cos")
erf = _unary("erf")
exp = _unary("exp")
exp2 = _unary("exp2")
floor = _unary("floor")
gelu = _unary("gelu")
log = _unary("log")
log2 = _unary("log2")
relu = _unary("relu")
rounded = _unary("round")
rsqrt = _unary("rsqrt")
sigmoid = _unary("sigmoid")
sign = _unary("sign")
silu = _unary("silu")
sin = _unary("sin")
softplus = _unary("softplus")
sq = _unary("sq")
sqrt = _unary("sqrt")
step = _unary("step")
tanh = _unary("tanh")


def maximum(first: Operand, second: Operand, *others: Operand) -> Term:
    """Return the largest of two or more terms at each point (``max``)."""
    return _folded("max", first, second, *others)


def minimum(first: Operand, second: Operand, *others: Operand) -> Term:
    """Return the smallest of two or more terms at each point (``min``)."""
    return _folded("min", first, second, *others)


def _folded(op: str, first: Operand, *others: Operand) -> Term:
    result = first
    for each in others:
        result = _apply(op, result, each)
    return Value(expression(result))


def clamp(x: Operand, low: Operand, high: Operand) -> Term:
    """Return `x`, limited to ``low .. high``."""
    return _apply("clamp", x, low, high)


def where(condition: Operand, then: Operand, otherwise: Operand) -> Term:
    """Return `then` at the points where the condition holds, else `otherwise`."""
    return _apply("where", condition, then, otherwise)


def fill(x: Operand, value: Operand) -> Term:
    """Return `x`, or `value` at the points where `x` is absent."""
    return _apply("fill", x, value)


def such_that(value: Operand, predicate: Operand) -> RightSide:
    """Return the right side that is absent where `predicate` is false (``s.t.``)."""
    right = value if isinstance(value, RightSide) else RightSide(expression(value))
    new = expression(predicate)
    if right.predicate is not None:
        new = Apply("and", (right.predicate, new), span=here())
    return RightSide(right.body, right.reduce, new, right.normalise)


def reduce_max(value: Operand, *over: Rank) -> RightSide:
    """Return the maximum over `over`, or over all ranks that the left side lacks."""
    return _reduce("max", value, over)


def reduce_mean(value: Operand, *over: Rank) -> RightSide:
    """Return the mean of the present points; ranks as in `reduce_max`."""
    return _reduce("mean", value, over)


def reduce_min(value: Operand, *over: Rank) -> RightSide:
    """Return the minimum; ranks as in `reduce_max`."""
    return _reduce("min", value, over)


def reduce_prod(value: Operand, *over: Rank) -> RightSide:
    """Return the product; ranks as in `reduce_max`."""
    return _reduce("prod", value, over)


def reduce_sum(value: Operand, *over: Rank) -> RightSide:
    """Return the sum; ranks as in `reduce_max`. Without any reduction it is the sum as well."""
    return _reduce("sum", value, over)


def topk(value: Operand, *over: Rank, into: Rank) -> RightSide:
    """Return the coordinates of the largest present values along `over`, largest first.

    They lie along `into`, a rank of the left side; places without a candidate are absent.
    Among equals the lower coordinate comes first, NaN after every number. Several ranks give the
    row-major flat coordinate.
    """
    return _reduce("topk", value, over, into)


def argsort(value: Operand, *over: Rank, into: Rank) -> RightSide:
    """Return the coordinates of the present values along `over`, smallest first; see `topk`."""
    return _reduce("argsort", value, over, into)


def argmax(value: Operand, *over: Rank) -> RightSide:
    """Return the coordinate of the largest present value, the lowest of several; see `topk`."""
    return _reduce("argmax", value, over)


def argmin(value: Operand, *over: Rank) -> RightSide:
    """Return the coordinate of the smallest present value, the lowest of several; see `topk`."""
    return _reduce("argmin", value, over)


def softmax(value: Operand, *over: Rank) -> RightSide:
    """Return the softmax over `over`: ``c.A[p, m] = softmax(c.QK[p, m], m)``.

    Raises:
        CascadeError: no ranks are given.
    """
    return _normalise("softmax", value, over)


def log_softmax(value: Operand, *over: Rank) -> RightSide:
    """Return the logarithm of the softmax over `over`.

    Raises:
        CascadeError: no ranks are given.
    """
    return _normalise("log_softmax", value, over)


def _normalise(word: str, value: Operand, over: tuple[Rank, ...]) -> RightSide:
    if not over:
        raise CascadeError(
            f"{word} goes over no rank",
            span=here(),
            fix=f"name the ranks to normalise over, as in {word}(c.QK[p, m], m)",
        )
    right = value if isinstance(value, RightSide) else RightSide(expression(value))
    names = _names(word, over)
    return RightSide(right.body, right.reduce, right.predicate, Normalise(word, names))


def _reduce(op: str, value: Operand, over: tuple[Rank, ...], into: Rank | None = None) -> RightSide:
    names = _names(_function(op), over)
    places = None if into is None else _names(_function(op), (into,), "writes along")[0]
    fold = Reduce(op, names, places, span=here())
    if isinstance(value, RightSide) and value.reduce is None and value.normalise is None:
        return RightSide(value.body, fold, value.predicate)
    return RightSide(expression(value), fold)


def _names(function: str, over: tuple[Rank, ...], does: str = "goes over") -> tuple[str, ...]:
    for each in over:
        if not isinstance(each, Rank):
            raise CascadeError(
                f"{function} {does} {each!r}, which is no rank variable",
                span=here(),
                fix='give rank variables, as m of m, e = ranks("m e")',
            )
    return tuple(each.name for each in over)


def _function(reduction: str) -> str:
    return reduction if reduction in SELECTIONS else f"reduce_{reduction}"


def here() -> Span | None:
    """Return the part of the user's line that is running now, or None if there is no user."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_OURS):
        frame = frame.f_back
    if frame is None:
        return None
    code = frame.f_code
    positions = next(islice(code.co_positions(), frame.f_lasti // 2, None), None)
    line, last, start, stop = positions or (None, None, None, None)
    number = line or frame.f_lineno
    text = linecache.getline(code.co_filename, number, frame.f_globals).rstrip("\n")
    indent = len(text) - len(text.lstrip())
    if start is None or stop is None or not text:
        return Span(code.co_filename, number, indent, max(1, len(text.strip())), text)
    column = len(text.encode()[:start].decode(errors="ignore"))
    end = len(text.encode()[:stop].decode(errors="ignore")) if last == number else len(text)
    return Span(code.co_filename, number, column, max(1, end - column), text)

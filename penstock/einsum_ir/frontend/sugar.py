"""Short forms of Einsums, and the plain Einsums that they stand for.

Front ends give `Equation`s; `plain` returns equations of which each is one Einsum::

    A[p, m] = softmax(x; m) s.t. c   ->  A_IN[p, m] = x s.t. c, A_MAX[p] = A_IN[p, m] :: max[m],
                                         A_EXP = exp(A_IN - A_MAX), A_SUM = A_EXP, A = A_EXP / A_SUM
    G[p, r = S[p, j]] = x            ->  G[p, r] = x :: sum[j] s.t. r == S[p, j]
    K[m] = x s.t. c                  ->  K[m] = where(c, x, y) s.t. c or d
    K[m] = y s.t. d

So what a cascade holds, prints and hands to the mapper knows none of them. Excluded: functions
(``def``), which are expanded where they are called (`expressions.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from penstock.einsum_ir.nodes import (
    Access,
    Apply,
    Expr,
    Num,
    Reduce,
    Sym,
    Var,
    accesses,
    next_variable,
    variables,
)
from penstock.einsum_ir.ops import NORMALISATIONS
from penstock.errors import CascadeError, Span

__all__ = ["Equation", "Normalise", "plain"]

_NEGATED = {"<": ">=", ">=": "<", ">": "<=", "<=": ">", "==": "!=", "!=": "=="}


@dataclass(frozen=True, slots=True)
class Normalise:
    """``softmax(.. ; m)``: a word of `ops.NORMALISATIONS` and the variables it goes over."""

    word: str
    over: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Equation:
    """An Einsum as a front end reads it.

    Scalars are not told from tensors without ranks yet. A reduction over no ranks stands for one
    over all that the left side lacks. An index ``r == x`` of the output writes at the computed
    coordinate x of the rank r. With `normalise`, the right side is that of the
    body.
    """

    output: Access
    body: Expr
    reduce: Reduce | None
    where: Expr | None
    init: bool
    span: Span | None
    normalise: Normalise | None = None

    @property
    def exprs(self) -> tuple[Expr, ...]:
        """The right side: the body and the predicate, if there is one."""
        return (self.body,) if self.where is None else (self.body, self.where)


def plain(
    found: Iterable[Equation], outputs: Mapping[str, Sequence[str]] | None = None
) -> tuple[Equation, ...]:
    """Return the equations without short forms, in order.

    Args:
        found: equations of one group, or those outside of groups.
        outputs: output tensor → its declared ranks, which name the places that are computed.

    Raises:
        CascadeError: a short form that means nothing.
    """
    found = tuple(found)
    single: list[Equation] = []
    for each in found:
        _check_alone(each, found)
        single += _normalised(_scattered(each, outputs or {}))
    names = dict.fromkeys((each.output.tensor, each.init) for each in single)
    result: list[Equation] = []
    for name in names:
        result += _joined([e for e in single if (e.output.tensor, e.init) == name])
    return tuple(result)


# --- writing at computed places -----------------------------------------------------------------


def _scattered(found: Equation, outputs: Mapping[str, Sequence[str]]) -> Equation:
    """Turn computed places on the left into predicates."""
    indices: list[Expr] = []
    places: list[Expr] = []
    declared = outputs.get(found.output.tensor, ())
    for number, index in enumerate(found.output.indices):
        if isinstance(index, Var | Num) or next_variable(index) is not None:
            indices.append(index)
            continue
        if not (isinstance(index, Apply) and index.op == "==" and isinstance(index.args[0], Var)):
            if len(declared) != len(found.output.indices) or isinstance(index, Sym):
                return found  # the check of left sides says what is wrong
            index = Apply("==", (Var(declared[number]), index), span=index.span)
        indices.append(index.args[0])
        places.append(index)
    if not places:
        return found
    if found.init:
        raise CascadeError(
            f"init {found.output} is written at a computed place",
            span=found.output.span,
            fix="write it at rank variables, and use a predicate",
        )
    output = replace(found.output, indices=tuple(indices))
    where = _all([*places, *(() if found.where is None else (found.where,))])
    reduce = found.reduce
    if reduce is not None and reduce.over:  # what meets at one place is reduced in the same way
        moved = [name for name in variables(*places) if name not in variables(output)]
        reduce = replace(reduce, over=tuple(dict.fromkeys((*reduce.over, *moved))))
    return replace(found, output=output, reduce=reduce, where=where)


def _all(conditions: Sequence[Expr], op: str = "and") -> Expr:
    result = conditions[0]
    for each in conditions[1:]:
        result = Apply(op, (result, each), span=each.span)
    return result


# --- normalisations -----------------------------------------------------------------------------


def _softmax(logit: Access, largest: Access, power: Access, total: Access) -> Expr:
    return Apply("/", (power, total))


def _log_softmax(logit: Access, largest: Access, power: Access, total: Access) -> Expr:
    return Apply("-", (Apply("-", (logit, largest)), Apply("log", (total,))))


_LAST = dict(zip(NORMALISATIONS, (_softmax, _log_softmax), strict=True))
"""What each normalisation makes of the logit, its maximum, the powers and their sum."""


def _normalised(found: Equation) -> list[Equation]:
    """Return the equations of a normalisation, or the equation itself."""
    if found.normalise is None:
        return [found]
    word, over = found.normalise.word, found.normalise.over
    _check_ranks(found, found.normalise)
    name = found.output.tensor
    kept = tuple(each for each in found.output.indices if not set(variables(each)) & set(over))

    def named(suffix: str, indices: tuple[Expr, ...] = found.output.indices) -> Access:
        return Access(f"{name}_{suffix}", indices, span=found.output.span)

    def equation(output: Access, body: Expr, reduce: str = "") -> Equation:
        fold = Reduce(reduce, over) if reduce else None
        return Equation(output, body, fold, None, found.init, found.span)

    steps: list[Equation] = []
    logit = named("IN")
    if isinstance(found.body, Access) and _is_plain(found):
        logit = found.body
    else:
        steps.append(replace(found, output=logit, normalise=None))
    largest, power, total = named("MAX", kept), named("EXP"), named("SUM", kept)
    return [
        *steps,
        equation(largest, logit, "max"),
        equation(power, Apply("exp", (Apply("-", (logit, largest)),))),
        equation(total, power, "sum"),
        equation(found.output, _LAST[word](logit, largest, power, total)),
    ]


def _is_plain(found: Equation) -> bool:
    """Whether the operand is a tensor at the very points of the left side."""
    body = found.body
    at_point = isinstance(body, Access) and set(variables(body)) == set(variables(found.output))
    return at_point and found.where is None and found.reduce is None


def _check_alone(equation: Equation, found: Sequence[Equation]) -> None:
    """Check that a normalisation is no piece of a tensor."""
    own = (equation.output.tensor, equation.init)
    alone = sum((each.output.tensor, each.init) == own for each in found) == 1
    if equation.normalise is not None and not alone:
        word = equation.normalise.word
        raise CascadeError(
            f"the {word} {equation.output} is one of several lines that define {own[0]}",
            span=equation.span,
            fix=f"give the {word} a tensor of its own, and read that in the piece",
        )


def _check_ranks(found: Equation, normalise: Normalise) -> None:
    word, kept = normalise.word, variables(found.output)
    for name in normalise.over:
        if name not in kept:
            raise CascadeError(
                f"{found.output} is a {word} over '{name}', which it has no index for",
                span=found.span,
                fix=f"add '{name}' to {found.output}",
            )
        if found.init or name in {next_variable(index) for index in found.output.indices}:
            raise CascadeError(
                f"{found.output} is a {word} along an iterative rank",
                span=found.span,
                fix=f"give the {word} a tensor of its own, and read that in the step",
            )


# --- pieces -------------------------------------------------------------------------------------


def _joined(pieces: Sequence[Equation]) -> list[Equation]:
    """Return one equation for the pieces of a tensor, after those that its sums need."""
    if len(pieces) == 1 or any(each.where is None for each in pieces[:-1]):
        return list(pieces)  # a tensor that is defined twice is an error of the cascade
    last = pieces[-1]
    helpers: list[Equation] = []
    bodies: list[Expr] = []
    for number, each in enumerate(pieces, 1):
        _check_piece(each, pieces[0])
        body = each.body
        if each.reduce is not None or set(variables(body)) - set(variables(each.output)):
            indices = tuple(Var(name) for name in variables(each.output))
            body = Access(f"{each.output.tensor}_{number}", indices, span=each.output.span)
            helpers.append(replace(each, output=body, where=each.where, init=False))
        bodies.append(body)
    result = bodies[-1]
    conditions = [each.where for each in pieces if each.where is not None]
    for condition, body in zip(
        reversed(conditions[: len(pieces) - 1]), bodies[-2::-1], strict=True
    ):
        result = Apply("where", (_decided(condition), body, result), span=last.span)
    where = None
    if last.where is not None and not _cover(conditions):
        where = _all([_decided(each) for each in conditions], "or")
    return [*helpers, replace(pieces[0], body=result, reduce=None, where=where)]


def _decided(condition: Expr) -> Expr:
    """Return the condition, false where it reads an absent element."""
    if not accesses(condition):
        return condition
    return Apply("fill", (condition, Num(0)), span=condition.span)


def _check_piece(piece: Equation, first: Equation) -> None:
    if piece.output != first.output:
        raise CascadeError(
            f"the pieces {first.output} and {piece.output} of one tensor have different indices",
            span=piece.output.span,
            fix=f"write {first.output} in each of its lines",
        )
    extra = set(variables(*piece.exprs[1:])) - set(variables(piece.output))
    if extra:
        raise CascadeError(
            f"the predicate of a piece of {piece.output} depends on '{min(extra)}', which the left "
            "side lacks",
            span=(piece.where and piece.where.span) or piece.span,
            fix="give that piece a tensor of its own, and read it here",
        )


def _cover(conditions: Sequence[Expr]) -> bool:
    """Whether two conditions are a comparison and its opposite, of nothing that may be absent."""
    match tuple(conditions):
        case (Apply(a, left), Apply(b, right)) if not accesses(*left):
            return left == right and _NEGATED.get(a) == b
        case _:
            return False

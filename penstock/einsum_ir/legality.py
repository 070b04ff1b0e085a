"""What must hold inside one cascade, beyond each node on its own, as functions that raise.

`Cascade` calls all of them when it is built. Excluded: extents (`shapes.py`) and the
order of evaluation (`cascade.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from penstock.einsum_ir.affine import affine
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.nodes import (
    Access,
    Apply,
    Declaration,
    Einsum,
    Expr,
    Group,
    Num,
    Statement,
    Sym,
    Var,
    next_variable,
    variables,
    walk,
)
from penstock.errors import CascadeError, DataError, Span, UnknownNameError

__all__ = [
    "check_constants",
    "check_einsum_names",
    "check_extents",
    "check_formats",
    "check_groups",
    "check_indices",
    "check_left_sides",
    "check_names",
    "check_states",
]

_UPPER = re.compile(r"[A-Z][A-Za-z0-9_]*")
_LOWER = re.compile(r"[a-z][a-z0-9_]*")
_ANY = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_WORDS = {"and", "or", "not", "inf"}
_INTEGER = {"+", "-", "*", "//", "%", "**", "neg", "max", "min", "abs", "clamp", "where", "sign"}
_INTEGER |= {
    "bitlen",
    "fill",
    "sq",
    "step",
    "floor",
    "round",
    "==",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    "and",
    "or",
    "not",
}


def check_names(name: str, declarations: Iterable[Declaration], shapes: Iterable[str]) -> None:
    """Check that the names of a cascade and of its ranks can be written in the notation.

    Raises:
        CascadeError: a name has the wrong case or a character that is no letter, digit or ``_``.
    """
    if not _ANY.fullmatch(name):
        raise CascadeError(
            f"'{name}' cannot name a cascade",
            fix="use letters, digits and '_', and start with a letter",
        )
    for declaration in declarations:
        _check_upper("tensor", declaration.tensor, declaration.span)
        for rank in declaration.ranks:
            _check_lower(rank, declaration.span)
    for rank in shapes:
        _check_lower(rank, None)


def check_einsum_names(einsums: Iterable[Einsum]) -> None:
    """Check that the names in the Einsums can be written in the notation.

    Raises:
        CascadeError: as `check_names`.
    """
    for einsum in einsums:
        for node in (node for expr in expressions(einsum) for node in walk(expr)):
            match node:
                case Access(tensor, _, span):
                    _check_upper("tensor", tensor, span)
                case Sym(symbol, span):
                    _check_upper("scalar", symbol, span)
                case Var(variable, span):
                    _check_lower(variable, span)
                case Num() | Apply():
                    pass


def expressions(einsum: Einsum) -> tuple[Expr, ...]:
    """Return the output, the body and the predicate of an Einsum."""
    return (einsum.output, einsum.body, *(() if einsum.where is None else (einsum.where,)))


def _check_upper(kind: str, name: str, span: Span | None) -> None:
    if not _UPPER.fullmatch(name):
        raise CascadeError(
            f"'{name}' cannot name a {kind}",
            span=span,
            fix="start with an upper-case letter; go on with letters, digits and '_'",
        )


def _check_lower(name: str, span: Span | None) -> None:
    if not _LOWER.fullmatch(name) or name in _WORDS:
        raise CascadeError(
            f"'{name}' cannot name a rank variable",
            span=span,
            fix="use lower-case letters, digits and '_', but not a word of the notation",
        )


def check_constants(
    constants: tuple[tuple[str, Expr], ...],
    einsums: Iterable[Einsum],
    scalars: AbstractSet[str],
) -> None:
    """Check that constants are scalars of their own, known before any data.

    Args:
        constants: the cascade's constants.
        einsums: the cascade's Einsums.
        scalars: names of the tensors without ranks.

    Raises:
        CascadeError: a constant that is defined twice, has the name of a tensor without ranks, or
            depends on a tensor or a rank variable.
    """
    seen: set[str] = set()
    for name, expr in constants:
        if name in seen:
            raise CascadeError(f"constant {name} is given twice", fix="leave one of the two out")
        seen.add(name)
        _check_upper("constant", name, expr.span)
        if name in scalars:
            raise CascadeError(
                f"{name} is a constant and also a tensor without ranks",
                span=expr.span,
                fix="rename one of the two",
            )
        for node in walk(expr):
            if isinstance(node, Access | Var) or (isinstance(node, Sym) and node.name in scalars):
                raise CascadeError(
                    f"constant {name} = {expr} depends on {node}",
                    span=node.span,
                    fix="use numbers, other constants and shapes, or make it an Einsum: "
                    f"{name}[] = ...",
                )
    for node in (n for each in einsums for e in expressions(each) for n in walk(e)):
        if isinstance(node, Sym) and node.name in scalars:
            raise CascadeError(
                f"{node.name} is a tensor without ranks, but is used as a constant",
                span=node.span,
                fix=f"write {node.name}[]",
            )


def check_states(
    states: Iterable[tuple[str, str]],
    inputs: Iterable[Declaration],
    outputs: Iterable[Declaration],
    spans: Mapping[str, Span | None] | None = None,
) -> None:
    """Check that each state is an input that an output of as many ranks follows.

    Args:
        states: (input, output) pairs.
        inputs: of the cascade.
        outputs: of the cascade.
        spans: state → where the user wrote it.

    Raises:
        CascadeError: it is not, or an output follows two inputs.
    """
    given = {each.tensor: each for each in inputs}
    made = {each.tensor: each for each in outputs}
    seen: set[str] = set()
    for name, following in states:
        span = (spans or {}).get(name)
        if name not in given:
            turned = name in made and following in given
            raise UnknownNameError(
                "state (an input)",
                name,
                given,
                span=span,
                fix=f"write it the other way round: state {following} -> {name}" if turned else "",
                otherwise="write an input before the '->'",
            )
        if following not in made:
            fix = f"add {following} to the outputs in the first line"
            raise UnknownNameError(
                "next state (an output)", following, made, span=span, otherwise=fix
            )
        if len(given[name].ranks) != len(made[following].ranks):
            raise CascadeError(
                f"state {given[name]} -> {made[following]} changes the number of ranks",
                span=span or made[following].span,
                fix="give both the same ranks",
            )
        if following in seen:
            raise CascadeError(
                f"output {following} is the next value of two states",
                span=span or made[following].span,
                fix="define an output for each state",
            )
        seen.add(following)


def check_formats(
    formats: Iterable[tuple[str, str]],
    tensors: Iterable[str],
    spans: Mapping[str, Span | None] | None = None,
) -> None:
    """Check that formats are known, and given to tensors of the cascade.

    Args:
        formats: (tensor, format) pairs.
        tensors: those of the cascade.
        spans: tensor → where the user wrote its format.

    Raises:
        UnknownNameError: there is no such tensor.
        DataError: there is no such format.
    """
    known = set(tensors)
    for name, kind in formats:
        span = (spans or {}).get(name)
        if name not in known:
            fix = "give a format to a tensor of the cascade"
            raise UnknownNameError("tensor", name, known, span=span, otherwise=fix)
        try:
            parse_format(kind)
        except DataError as error:
            raise DataError(error.what, span=span, fix=error.fix) from None


def check_left_sides(einsums: Iterable[Einsum]) -> None:
    """Check that every Einsum is written at rank variables, one of them perhaps plus 1.

    Raises:
        CascadeError: another index on the left, a variable twice there, or an ``init`` that
            does not give coordinate 0 of the rank along which the tensor steps.
    """
    steps = {each.name: each for each in einsums if not each.init}
    for einsum in einsums:
        _check_left_side(einsum)
        found = variables(einsum.output)
        if len(found) + einsum.init < len(einsum.output.indices):
            twice = next(name for name in found if _count(einsum.output, name) > 1)
            raise CascadeError(
                f"{einsum.output} is written at '{twice}' twice",
                span=einsum.output.span,
                fix=f"use two variables and a predicate, as in s.t. {twice} == {twice}2",
            )
        if einsum.init and einsum.name in steps:
            _check_start(einsum, steps[einsum.name])


def _count(access: Access, name: str) -> int:
    return sum(name in variables(index) for index in access.indices)


def _check_left_side(einsum: Einsum) -> None:
    stepping = 0
    for index in einsum.output.indices:
        plain = isinstance(index, Var)
        steps = not einsum.init and next_variable(index) is not None
        starts = einsum.init and index == Num(0)
        stepping += steps or starts
        if not (plain or steps or starts):
            fix = (
                f"name the rank of a computed place: {einsum.name}[r = {index}], in Python "
                f"c.{einsum.name}[r.at(...)]; an iterative rank is written at i+1"
            )
            if isinstance(index, Sym):
                fix = f"write {index.name.lower()}: rank variables are lower case"
            elif index == Num(0):
                fix = f"for the first coordinate of an iterative rank, write 'init {einsum.output}'"
            elif einsum.init:
                fix = "write it at rank variables, and at 0 for the iterative rank"
            raise CascadeError(
                f"{einsum.output} is written at '{index}'",
                span=index.span or einsum.output.span,
                fix=fix,
            )
    if stepping > 1:
        raise CascadeError(
            f"{einsum.output} steps along {stepping} ranks",
            span=einsum.output.span,
            fix="step along one rank, and make the other an ordinary one",
        )
    if einsum.init and not stepping:
        raise CascadeError(
            f"init {einsum.output} gives no first coordinate",
            span=einsum.output.span,
            fix="write 0 in the place of the iterative rank, as in init RM[p, 0] = -inf",
        )


def _check_start(start: Einsum, step: Einsum) -> None:
    if len(start.output.indices) != len(step.output.indices):
        return  # said by the check of accesses
    for first, later in zip(start.output.indices, step.output.indices, strict=True):
        if (first == Num(0)) != (next_variable(later) is not None):
            raise CascadeError(
                f"init {start.output} and {step.output} step along different ranks",
                span=start.output.span,
                fix=f"write 0 where {step.output} has its + 1",
            )


def check_indices(einsums: Iterable[Einsum]) -> None:
    """Check that every index is a whole number.

    Raises:
        CascadeError: an index with a fraction, a division ``/`` or a real-valued function.
    """
    for einsum in einsums:
        for access in (n for e in expressions(einsum) for n in walk(e) if isinstance(n, Access)):
            for index in access.indices:
                _check_index(access, index)
                if isinstance(index, Num) and index.value < 0 and not einsum.init:
                    raise CascadeError(
                        f"{access} has the index {index}, but indices count from 0",
                        span=index.span or access.span,
                        fix="for the last coordinate of a rank e, write E - 1",
                    )


def check_extents(
    einsums: Iterable[Einsum], inputs: Iterable[Declaration], constants: AbstractSet[str]
) -> None:
    """Check that no index is the shape of the very rank: it is always beyond the last coordinate.

    Args:
        einsums: the cascade's Einsums.
        inputs: the cascade's inputs.
        constants: names that are no shapes.

    Raises:
        CascadeError: such an index, as in ``K[m, E]``.
    """
    einsums = tuple(einsums)
    ranks: dict[str, tuple[str | None, ...]] = {each.tensor: each.ranks for each in inputs}
    for each in (each for each in einsums if not each.init):
        found = (index.name if isinstance(index, Var) else None for index in each.output.indices)
        ranks[each.name] = tuple(found)
    for access in (access for each in einsums for access in each.operands):
        for rank, index in zip(ranks[access.tensor], access.indices, strict=True):
            name = index.name if isinstance(index, Sym) else ""
            if rank is not None and name == rank.upper() and name not in constants:
                raise CascadeError(
                    f"{access} is read at {name}, the number of coordinates of {rank}",
                    span=index.span or access.span,
                    fix=f"write {rank} for each coordinate, or {name} - 1 for the last one",
                )


def _check_index(access: Access, index: Expr) -> None:
    match index:
        case Num(value) if not float(value).is_integer():
            fix = "use a whole number"
        case Apply("/", args):
            fix = f"divide with '//', as in {Apply('//', args)}"
        case Apply(op, _) if op not in _INTEGER:
            fix = "use + - * // % and functions of whole numbers"
        case Apply(_, args):
            for arg in args:
                _check_index(access, arg)
            return
        case _:
            return
    raise CascadeError(
        f"'{index}' in {access} is not a whole number", span=index.span or access.span, fix=fix
    )


def check_groups(statements: Iterable[Statement]) -> None:
    """Check that what advances step by step reads only what is there at that step.

    Raises:
        CascadeError: an Einsum in a ``loop`` that has no index for it, starts or steps along
            another rank, or a read of a step that is not computed yet.
    """
    for statement in statements:
        if isinstance(statement, Group):
            _check_group(statement.variable, statement.einsums)
        elif statement.iterative is not None:
            _check_group(statement.iterative, (statement,))


def _check_group(variable: str, einsums: tuple[Einsum, ...]) -> None:
    for einsum in einsums:
        _check_member(variable, einsum)
    places = {each.name: _place(each, variable) for each in einsums}
    steps = {each.name for each in einsums if each.iterative is not None}
    done: set[str] = set()
    for einsum in einsums:
        for access in einsum.operands:
            name = access.tensor
            if name in places and len(access.indices) > places[name]:
                newest = (name in done) - (name not in steps)
                later = name != einsum.name and name not in done
                index = access.indices[places[name]]
                if not _reads_computed(index, variable, newest):
                    raise _too_early(einsum, access, variable, newest, later=later)
        done.add(einsum.name)


def _check_member(variable: str, einsum: Einsum) -> None:
    if einsum.init:
        what, fix = f"init {einsum.name} stands inside 'loop {variable}:'", "move it above the loop"
    elif variable not in variables(einsum.output):
        what = f"{einsum.output} stands inside 'loop {variable}:' but has no index {variable}"
        fix = f"add {variable} to its indices, or move it out of the loop"
    elif einsum.iterative not in {None, variable}:
        what = f"{einsum.output} steps along {einsum.iterative} inside 'loop {variable}:'"
        fix = "move it out of the loop"
    else:
        return
    raise CascadeError(what, span=einsum.output.span or einsum.span, fix=fix)


def _place(einsum: Einsum, variable: str) -> int:
    indices = einsum.output.indices
    return next(n for n, index in enumerate(indices) if variable in variables(index))


def _reads_computed(index: Expr, variable: str, newest: int) -> bool:
    """Whether an index is ``variable + newest`` or an earlier step, whatever the shapes are."""
    form = affine(index, {})
    if form is None:
        return False
    factors = dict(form.coefficients)
    own = factors.pop(variable, 0)
    return own == 1 and form.constant <= newest and all(each <= 0 for each in factors.values())


def _too_early(
    einsum: Einsum, access: Access, variable: str, newest: int, *, later: bool
) -> CascadeError:
    limit = f"{variable}{newest:+d}" if newest else variable
    above = f"define {access.tensor} above {einsum.name}, or " if later else ""
    return CascadeError(
        f"{einsum.name} reads {access} before it is computed: at step {variable} only {limit} "
        "and earlier ones are there",
        span=access.span or einsum.span,
        fix=f"{above}read it at {limit}",
    )

"""The text notation of cascades: `parse` reads what ``str(cascade)`` prints, and more freely.

::

    cascade attention(Q[p, e], K[m, e], V[m, f]) -> O[p, f]
      const SC = 1 / sqrt(E)              # a named scalar
      shape m0 = 64                       # the extent of a rank
      init RM[p, 0] = -inf                # first coordinate of an iterative rank
      loop i:                             # these advance together
        RM[p, i + 1] = max(RM[p, i], LM[p, i])
      QK[p, m] = Q[p, e] * K[m, e] * SC :: sum[e] s.t. m <= p

Also read: the short forms of `sugar.py` and functions (``def lrelu(x) = max(x, 0.1 * x)``),
comments, several lines for one statement, ``init i: RM[p, i + 1] = ...`` (``i`` is
-1 there), ``max2`` and ``min2``, ``max`` of three or more, ``0 <= x < W``, a reduction without
ranks (``:: max``: all that the left side lacks). A name without brackets is a scalar; if it is
declared or defined as a tensor of no ranks, it is that tensor (printed ``SC[]``).

Excluded: whether the cascade makes sense, which is checked when a `Cascade` is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from penstock.einsum_ir.affine import evaluate_scalar
from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.frontend import habits
from penstock.einsum_ir.frontend.equation import Equation, Loop, statements, tensors
from penstock.einsum_ir.frontend.expressions import FUNCTIONS, WORDS, Cursor, Function
from penstock.einsum_ir.frontend.sugar import Normalise
from penstock.einsum_ir.frontend.tokens import Line, Source, Token, logical_lines, tokens_of
from penstock.einsum_ir.legality import check_formats, check_states
from penstock.einsum_ir.nodes import (
    Access,
    Apply,
    Declaration,
    Expr,
    Num,
    Reduce,
    Var,
    next_variable,
    rebuilt,
    variables,
)
from penstock.einsum_ir.ops import NORMALISATIONS, REDUCTIONS, SELECTIONS
from penstock.errors import DataError, NotationError, Span, UnknownNameError, nearest

__all__ = ["parse", "parse_expr"]

_KEYWORDS = ("cascade", "const", "def", "format", "init", "loop", "shape", "state")
_OUTSIDE = tuple(word for word in _KEYWORDS if word != "init")


@dataclass(slots=True)
class _Body:
    """What has been read below the first line."""

    statements: list[Equation | Loop] = field(default_factory=list)
    constants: dict[str, Expr] = field(default_factory=dict)
    shapes: dict[str, int] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    formats: dict[str, str] = field(default_factory=dict)
    state_spans: dict[str, Span | None] = field(default_factory=dict)
    format_spans: dict[str, Span | None] = field(default_factory=dict)


def parse(text: str, *, file: str = "<text>") -> Cascade:
    """Read a cascade.

    Args:
        text: the notation; see the module's docstring.
        file: what error messages call it.

    Raises:
        NotationError: the text is not in the notation.
        UnknownNameError: it names an operator, a reduction or a tensor that does not exist.
        CascadeError: it is in the notation, but means nothing.
    """
    source = Source.of(text, file)
    lines = logical_lines(source)
    if not lines or lines[0].tokens[0].text != "cascade":
        raise NotationError(
            "a cascade starts with a line that names its inputs and outputs",
            span=source.span(lines[0].tokens[0], lines[0].tokens[-1]) if lines else None,
            fix="put a first line like 'cascade attention(Q[p, e], K[m, e]) -> O[p, f]'",
        )
    name, inputs, outputs = _header(Cursor(source, lines[0].tokens))
    body = _body(source, lines[1:])
    return _build(name, inputs, outputs, body)


def parse_expr(text: str) -> Expr:
    """Read one expression, as in ``"m <= p and p - m < W"``.

    Raises:
        NotationError: the text is not one expression.
        UnknownNameError: it calls an operator that does not exist.
        CascadeError: it has too many levels.
    """
    source = Source.of(text, "<expression>")
    found = [t for number in range(1, len(source.lines) + 1) for t in tokens_of(source, number)]
    stop = found[-1] if found else Token("end", "", 1, 0)
    cursor = Cursor(source, (*found, Token("end", "", stop.line, stop.stop)))
    expr = cursor.whole()
    cursor.expect_end()
    return expr


def _header(cursor: Cursor) -> tuple[str, tuple[Declaration, ...], tuple[Declaration, ...]]:
    """Read ``cascade name(Q[p, e], SC) -> O[p, f]``."""
    cursor.take()
    if cursor.now.kind != "name":
        raise cursor.unexpected("a name", fix="name the cascade, as in 'cascade attention(...)'")
    name = cursor.take().text
    bracket = cursor.expect("(", "before the inputs", "list the inputs: (Q[p, e], K[m, e])")
    inputs = () if cursor.at(")") else _declarations(cursor)
    cursor.closing(bracket)
    cursor.expect("->", "before the outputs", "end the line with '-> O[p, f]'")
    outer = cursor.take() if cursor.at("(") else None
    outputs = _declarations(cursor)
    if outer is not None:
        cursor.closing(outer)
    cursor.expect_end()
    return name, inputs, outputs


def _declarations(cursor: Cursor) -> tuple[Declaration, ...]:
    found = [_declaration(cursor)]
    while cursor.accept(","):
        found.append(_declaration(cursor))
    return tuple(found)


def _declaration(cursor: Cursor) -> Declaration:
    """Read ``K[m, e]``, or ``SC`` or ``SC[]`` for a scalar."""
    token = cursor.name("tensor", upper=True)
    if not cursor.at("["):
        return Declaration(token.text, (), span=cursor.span(token))
    bracket = cursor.take()
    ranks: list[str] = []
    if not cursor.at("]"):
        ranks.append(cursor.name("rank variable", upper=False).text)
        while cursor.accept(","):
            ranks.append(cursor.name("rank variable", upper=False).text)
    cursor.closing(bracket)
    return Declaration(token.text, tuple(ranks), span=cursor.span(token))


def _body(source: Source, lines: list[Line]) -> _Body:
    body = _Body()
    position = 0
    while position < len(lines):
        cursor = Cursor(source, lines[position].tokens, body.functions)
        if cursor.at("loop"):
            stop = _group_end(source, lines, position)
            body.statements.append(_loop(source, lines[position:stop], body.functions))
            position = stop
        else:
            _statement(cursor, body)
            position += 1
    return body


def _statement(cursor: Cursor, body: _Body) -> None:
    readers = {
        "const": _constants,
        "def": _function,
        "format": _formats,
        "shape": _shapes,
        "state": _states,
    }
    first = cursor.now
    if first.text in readers:
        cursor.take()
        readers[first.text](cursor, body)
    elif cursor.at("cascade"):
        raise NotationError(
            "a second cascade starts here",
            span=cursor.source.span(first, cursor.tokens[-1]),
            fix="put each cascade in a file of its own",
        )
    else:
        body.statements.append(_equation(cursor))


def _constants(cursor: Cursor, body: _Body) -> None:
    """Read ``NAME = expression``, one or more with commas between them."""
    while True:
        token = cursor.name("constant", upper=True)
        if token.text in body.constants:
            raise _twice(cursor, f"constant {token.text}", token)
        cursor.expect("=", f"after '{token.text}'")
        body.constants[token.text] = cursor.whole()
        if not cursor.accept(","):
            return cursor.expect_end()


def _shapes(cursor: Cursor, body: _Body) -> None:
    """Read ``m0 = 64``, one or more with commas between them; ``M0`` is read as ``m0``."""
    while True:
        if cursor.now.kind != "name" or cursor.now.text in WORDS:
            raise cursor.unexpected("a rank variable", fix="write it as in 'shape m0 = 64'")
        token = cursor.take()
        name = token.text.lower()
        if name in body.shapes:
            raise _twice(cursor, f"the shape of {name}", token)
        cursor.expect("=", f"after '{token.text}'")
        first = cursor.now
        expr = cursor.whole()
        value = evaluate_scalar(expr, {})
        if value is None or not float(value).is_integer():
            raise NotationError(
                f"the shape of {name} is '{expr}', which is not a whole number",
                span=cursor.span(first),
                fix=f"give the number of coordinates, as in 'shape {name} = 64'",
            )
        body.shapes[name] = int(value)
        if not cursor.accept(","):
            return cursor.expect_end()


def _function(cursor: Cursor, body: _Body) -> None:
    """Read ``lrelu(x) = max(x, 0.1 * x)``; calls in the body are expanded at once."""
    token = cursor.name("function", upper=False)
    if token.text in FUNCTIONS or token.text in NORMALISATIONS:
        raise NotationError(
            f"'{token.text}' is an operator of the notation already",
            span=cursor.source.span(token),
            fix="give the function a name of its own",
        )
    if token.text in body.functions:
        raise _twice(cursor, f"function {token.text}", token)
    bracket = cursor.expect("(", f"after '{token.text}'", "list its parameters, as in (x, y)")
    parameters: list[str] = []
    while not cursor.at(")") or parameters:
        name = cursor.name("parameter", upper=False)
        if name.text in parameters:
            raise _twice(cursor, f"parameter {name.text}", name)
        parameters.append(name.text)
        if not cursor.accept(","):
            break
    cursor.closing(bracket)
    head = f"{token.text}({', '.join(parameters)})"
    cursor.expect("=", f"after '{head}'", f"write 'def {head} = ...' on one line")
    body.functions[token.text] = Function(token.text, tuple(parameters), cursor.whole())
    cursor.expect_end()


def _states(cursor: Cursor, body: _Body) -> None:
    """Read ``K -> KX``, one or more with commas between them."""
    while True:
        token = cursor.name("input", upper=True)
        if token.text in body.states:
            raise _twice(cursor, f"the state of {token.text}", token)
        cursor.expect("->", f"after '{token.text}'", f"write it as in 'state {token.text} -> KX'")
        body.states[token.text] = cursor.name("output", upper=True).text
        body.state_spans[token.text] = cursor.span(token)
        if not cursor.accept(","):
            return cursor.expect_end()


def _formats(cursor: Cursor, body: _Body) -> None:
    """Read ``K8, V8 = int8``."""
    tokens = [cursor.name("tensor", upper=True)]
    while cursor.accept(","):
        tokens.append(cursor.name("tensor", upper=True))
    cursor.expect("=", "after the tensors", "write it as in 'format K8, V8 = int8'")
    first = cursor.now
    while cursor.now.kind != "end":
        cursor.take()
    text = "".join(each.text for each in cursor.tokens[cursor.tokens.index(first) : -1])
    try:
        name = parse_format(text).name
    except DataError as error:
        raise NotationError(error.what, span=cursor.span(first), fix=error.fix) from None
    for token in tokens:
        if token.text in body.formats:
            raise _twice(cursor, f"the format of {token.text}", token)
        body.formats[token.text] = name
        body.format_spans[token.text] = cursor.source.span(token)


def _twice(cursor: Cursor, what: str, token: Token) -> NotationError:
    span = cursor.source.span(token)
    return NotationError(f"{what} is given twice", span=span, fix="leave one of the two out")


def _group_end(source: Source, lines: list[Line], start: int) -> int:
    """Return the number of the first line after the group: not indented deeper than its head."""
    outer = lines[start].indent
    for position in range(start + 1, len(lines)):
        indent = lines[position].indent
        if outer.startswith(indent):
            return position
        if not indent.startswith(outer):
            raise NotationError(
                "this line is indented with other characters than the 'loop' above it",
                span=source.span(lines[position].tokens[0]),
                fix="indent both with spaces, or both with tabs",
            )
    return len(lines)


def _loop(source: Source, lines: list[Line], functions: Mapping[str, Function]) -> Loop:
    cursor = Cursor(source, lines[0].tokens)
    first = cursor.take()
    variable = cursor.name("rank variable", upper=False).text
    cursor.expect(":", f"after 'loop {variable}'")
    cursor.expect_end("put the Einsums of the loop on lines of their own, indented deeper")
    if len(lines) == 1:
        raise NotationError(
            f"'loop {variable}:' has no Einsums",
            span=cursor.span(first),
            fix="indent the Einsums of the loop deeper than the loop",
        )
    members = tuple(_in_loop(Cursor(source, line.tokens, functions)) for line in lines[1:])
    return Loop(variable, members, cursor.span(first))


def _in_loop(cursor: Cursor) -> Equation:
    for word in _OUTSIDE:
        if cursor.at(word):
            raise NotationError(
                f"'{word}' stands inside a loop",
                span=cursor.source.span(cursor.now),
                fix="a loop holds Einsums only: indent this line like the 'loop' line",
            )
    return _equation(cursor)


def _equation(cursor: Cursor) -> Equation:
    """Read ``[init [i:]] output = body [:: reduction] [s.t. predicate]``."""
    first = cursor.now
    init = cursor.accept("init")
    step = None
    if init and cursor.at(":", 1):
        step = cursor.name("rank variable", upper=False)
        cursor.take()
    _check_start(cursor)
    output = cursor.left()
    fix = "write one '=' between the tensor and its expression"
    if cursor.at("+") and cursor.at("=", 1):
        fix = "write '=': what the left side lacks is summed, and each tensor is defined once"
    cursor.expect("=", f"after {output}", fix)
    body, normalise = _right(cursor)
    reduce: Reduce | None = None
    where: Expr | None = None
    while cursor.at("::") or cursor.at("s.t."):
        sign = cursor.now
        if (where if cursor.take().text == "s.t." else reduce) is not None:
            raise _twice(cursor, f"'{sign.text}'", sign)
        if sign.text == "s.t.":
            where = cursor.whole()
        else:
            reduce = _reduction(cursor)
    cursor.expect_end()
    found = Equation(output, body, reduce, where, init, cursor.span(first), normalise)
    return found if step is None else _first_step(cursor, found, step)


def _right(cursor: Cursor) -> tuple[Expr, Normalise | None]:
    """Read an expression, or ``softmax(expression; m)`` with the variables it goes over."""
    word = cursor.now.text
    if word not in NORMALISATIONS or not cursor.at("(", 1):
        return cursor.whole(), None
    cursor.take()
    bracket = cursor.take()
    body = cursor.whole()
    cursor.expect(";", f"in '{word}'", _named(word, body))
    over = _ranks(cursor)
    cursor.closing(bracket)
    if cursor.now.kind != "end" and not (cursor.at("::") or cursor.at("s.t.")):
        raise cursor.unexpected(
            f"the end of the right side after '{word}(...)'",
            fix=f"give the {word} a tensor of its own, and use that in the next line",
        )
    return body, Normalise(word, over)


def _named(word: str, body: Expr) -> str:
    """Return the fix for a normalisation without ranks: likely those of the last index."""
    operand = str(body) if isinstance(body, Access) else "..."
    last = variables(body)[-1:] or ("m",)
    return f"name the ranks to normalise over after ';', as in {word}({operand}; {last[0]})"


def _ranks(cursor: Cursor) -> tuple[str, ...]:
    found = [cursor.name("rank variable", upper=False).text]
    while cursor.accept(","):
        found.append(cursor.name("rank variable", upper=False).text)
    return tuple(found)


def _check_start(cursor: Cursor) -> None:
    """Check that a statement can start here.

    Raises:
        NotationError: it starts with a lower-case word, or with no name at all.
    """
    token = cursor.now
    if token.kind != "name":
        raise cursor.unexpected(
            "a tensor", fix="start an Einsum with its output, as in 'QK[p, m] = ...'"
        )
    if token.text[0].islower() and not (cursor.at("[", 1) or cursor.at("=", 1)):
        near = nearest(token.text, _KEYWORDS)
        other = f"statements start with a tensor, or with one of {', '.join(_KEYWORDS[1:])}"
        following = cursor.tokens[min(cursor.position + 1, len(cursor.tokens) - 1)].text
        habit = habits.statement(token.text, following)
        raise NotationError(
            f"unknown statement '{token.text}'",
            span=cursor.source.span(token),
            fix=habit or (f"did you mean {near}?" if near else other),
        )


def _reduction(cursor: Cursor) -> Reduce:
    """Read ``max[m]``, ``topk[m -> j]``, or ``max`` for all that the left side lacks (no ranks)."""
    token = cursor.now
    if token.kind != "name":
        sums = ":: sum[m]" if token.text == "+" else ":: prod[m]" if token.text == "*" else ""
        raise cursor.unexpected("a reduction", fix=f"write it as in '{sums or ':: max[m]'}'")
    known = {**REDUCTIONS, **SELECTIONS}
    if token.text not in known:
        span = cursor.source.span(token)
        raise UnknownNameError(
            "reduction",
            token.text,
            known,
            span=span,
            fix=habits.reduction(token.text),
            otherwise="use one of those, or compute it in several Einsums",
        )
    cursor.take()
    if cursor.at("(") or cursor.now.kind == "name":
        raise cursor.unexpected(
            f"'[' after '{token.text}'",
            fix=f"write '{habits.example(token.text)}', in square brackets",
        )
    if not cursor.at("["):
        return Reduce(token.text, (), span=cursor.span(token))
    bracket = cursor.take()
    over = _ranks(cursor)
    if cursor.at("=") and cursor.at(">", 1):
        raise cursor.unexpected("'->'", fix=f"write '{habits.example(token.text)}'")
    into = cursor.name("rank variable", upper=False).text if cursor.accept("->") else None
    cursor.closing(bracket)
    return Reduce(token.text, over, into, span=cursor.span(token))


def _first_step(cursor: Cursor, found: Equation, step: Token) -> Equation:
    """Turn ``init i: X[i + 1] = body`` into ``init X[0] = body``; ``i`` is -1 in the body."""
    name = step.text
    if all(next_variable(index) != name for index in found.output.indices):
        raise NotationError(
            f"'init {name}:' defines {found.output}, which has no index {name} + 1",
            span=found.output.span,
            fix=f"write it as in 'init {name}: RM[{name} + 1] = 0'",
        )
    indices = tuple(_before(index, name) for index in found.output.indices)
    output = replace(found.output, indices=indices)
    where = None if found.where is None else _before(found.where, name)
    return replace(found, output=output, body=_before(found.body, name), where=where)


def _before(expr: Expr, name: str) -> Expr:
    """Replace a variable by -1, and the variable + 1 by 0."""
    match expr:
        case Var(found) if found == name:
            return Num(-1, span=expr.span)
        case Apply("+", (Var(found), Num(1))) if found == name:
            return Num(0, span=expr.span)
        case _:
            return rebuilt(expr, lambda each: _before(each, name))


def _build(
    name: str,
    inputs: tuple[Declaration, ...],
    outputs: tuple[Declaration, ...],
    body: _Body,
) -> Cascade:
    scalars = {each.tensor for each in inputs if not each.ranks}
    built = statements(body.statements, scalars, {each.tensor: each.ranks for each in outputs})
    check_states(body.states.items(), inputs, outputs, body.state_spans)
    known = {each.tensor for each in inputs} | tensors(built)
    check_formats(body.formats.items(), known, body.format_spans)
    return Cascade(
        name,
        inputs,
        outputs,
        built,
        tuple(body.constants.items()),
        tuple(body.shapes.items()),
        tuple(body.states.items()),
        tuple(body.formats.items()),
    )

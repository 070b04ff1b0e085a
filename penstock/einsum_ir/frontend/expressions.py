"""The cursor over tokens, and the expression part of the cascade notation.

Recursive descent with precedences from `ops.OPERATORS`. Excluded: statements and headers
(`notation.py`), and what names mean beyond their case: lower case is a rank variable, upper
case with brackets a tensor, without a scalar.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.einsum_ir.frontend import habits
from penstock.einsum_ir.frontend.tokens import Source, Token
from penstock.einsum_ir.nodes import (
    MAX_DEPTH,
    Access,
    Apply,
    Expr,
    Num,
    Sym,
    Var,
    check_depth,
    substitute,
)
from penstock.einsum_ir.ops import NORMALISATIONS, OPERATORS, REDUCTIONS, SELECTIONS
from penstock.errors import NotationError, Span, UnknownNameError

__all__ = ["FUNCTIONS", "WORDS", "Cursor", "Function"]

FUNCTIONS = tuple(name for name, row in OPERATORS.items() if row.kind == "function")
_INFIX = {name: row.precedence for name, row in OPERATORS.items() if row.arity == 2}
_INFIX = {name: precedence for name, precedence in _INFIX.items() if precedence}
_COMPARISON, _NOT, _NEG = (OPERATORS[name].precedence for name in ("<", "not", "neg"))
_SPELLINGS = {"max2": "max", "min2": "min"}
WORDS = {"and", "or", "not", "inf"}
_CALLED = {*FUNCTIONS, *REDUCTIONS, *SELECTIONS, *NORMALISATIONS}


@dataclass(frozen=True, slots=True)
class Function:
    """``def lrelu(x) = max(x, 0.1 * x)``: a call stands for the body with its operands put in."""

    name: str
    parameters: tuple[str, ...]
    body: Expr


class Cursor:
    """Reads the tokens of one logical line from left to right."""

    def __init__(
        self,
        source: Source,
        tokens: tuple[Token, ...],
        functions: Mapping[str, Function] | None = None,
    ) -> None:
        self.source = source
        self.tokens = tokens
        self.functions = functions or {}
        self.position = 0
        self._nesting = 0

    @property
    def now(self) -> Token:
        """The token to read next."""
        return self.tokens[self.position]

    @property
    def last(self) -> Token:
        """The token read last."""
        return self.tokens[max(self.position - 1, 0)]

    def take(self) -> Token:
        """Read one token; the end of the line is never passed."""
        token = self.now
        if token.kind != "end":
            self.position += 1
        return token

    def at(self, text: str, ahead: int = 0) -> bool:
        """Whether the token `ahead` of the next one reads `text`."""
        place = min(self.position + ahead, len(self.tokens) - 1)
        return self.tokens[place].text == text and self.tokens[place].kind != "end"

    def accept(self, text: str) -> bool:
        """Read the token if it is `text`."""
        found = self.at(text)
        if found:
            self.take()
        return found

    def expect(self, text: str, place: str, fix: str = "") -> Token:
        """Read the token `text`.

        Raises:
            NotationError: something else stands there.
        """
        if not self.at(text):
            raise self.unexpected(f"'{text}' {place}", fix=fix or f"write '{text}' here")
        return self.take()

    def expect_end(self, fix: str = "") -> None:
        """Check that the statement ends here.

        Args:
            fix: what to do about what follows, if that is known.

        Raises:
            NotationError: something follows.
        """
        if self.now.kind == "end":
            return
        first, found = self.tokens[0], self.now
        before = self.tokens[: next(n for n, t in enumerate(self.tokens) if t.line == found.line)]
        if found.line > first.line and before[-1].text in {",", ";"}:
            raise NotationError(
                f"the statement goes on after this '{before[-1].text}'",
                span=self.source.span(before[-1]),
                fix=f"leave the '{before[-1].text}' out at the end of the line",
            )
        raise self.unexpected("the end of the statement", fix=fix or self._hint())

    def span(self, first: Token) -> Span:
        """Return where the tokens from `first` to the last one read stand."""
        return self.source.span(first, self.last)

    def unexpected(self, expected: str, *, fix: str) -> NotationError:
        """Return the error that something else stands where `expected` should."""
        found = "the line ends" if self.now.kind == "end" else f"found '{self.now.text}'"
        return NotationError(
            f"expected {expected}, but {found}", span=self.source.span(self.now), fix=fix
        )

    def name(self, kind: str, *, upper: bool) -> Token:
        """Read a name of the given case.

        Args:
            kind: what the name is for, as in ``"rank variable"``, for the message.
            upper: whether it must start with an upper-case letter; a lower-case one must have
                no capital at all.

        Raises:
            NotationError: there is no name, or it has the wrong case.
        """
        token = self.now
        if token.kind != "name" or token.text in WORDS:
            fix = f"write the name of a {kind}"
            if self.last.text == ",":
                fix += ", or leave out the ',' before it"
            elif token.kind == "number" and kind == "rank variable":
                fix = f"name a rank, and give its size on a line 'shape r = {token.text}'"
            raise self.unexpected(f"a {kind}", fix=fix)
        check_case(self.source, token, kind, upper=upper)
        return self.take()

    def closing(self, bracket: Token) -> None:
        """Read the bracket that closes `bracket`.

        Raises:
            NotationError: something else stands there.
        """
        wanted = "]" if bracket.text == "[" else ")"
        if self.accept(wanted):
            return
        if self.now.kind == "end" or self.now.line != bracket.line:
            raise NotationError(
                f"'{bracket.text}' is never closed",
                span=self.source.span(bracket),
                fix=f"add the '{wanted}' that belongs to it",
            )
        raise self.unexpected(f"',' or '{wanted}'", fix=self._hint_inside(bracket, wanted))

    def expression(self, least: int = 1) -> Expr:
        """Read an expression of operators that bind at least as tightly as `least`.

        Raises:
            NotationError: there is none, or it nests too deeply.
            UnknownNameError: it calls an operator that does not exist.
        """
        self._nesting += 1
        if self._nesting > MAX_DEPTH:
            raise NotationError(
                f"brackets nest deeper than {MAX_DEPTH} levels",
                span=self.source.span(self.now),
                fix="split the expression into several Einsums",
            )
        first = self.now
        left = self._operand(least)
        while _INFIX.get(self.now.text, 0) >= least:
            if _INFIX[self.now.text] == _COMPARISON:
                left = self._comparisons(left, first)
                continue
            op = self.take().text
            right = self.expression(_INFIX[op] + (op != "**"))
            left = Apply(op, (left, right), span=self.span(first))
        self._nesting -= 1
        return left

    def whole(self) -> Expr:
        """Read an expression and check its depth.

        Raises:
            NotationError: as `expression`.
            CascadeError: it has more than `MAX_DEPTH` levels.
        """
        first = self.now
        expr = self.expression()
        check_depth(expr, self.span(first))
        return expr

    def _comparisons(self, left: Expr, first: Token) -> Expr:
        """Read ``a < b``, or a chain ``a < b < c``, which means ``a < b and b < c``."""
        result: Expr | None = None
        start = first
        while _INFIX.get(self.now.text) == _COMPARISON:
            op, following = self.take().text, self.now
            right = self.expression(_COMPARISON + 1)
            one = Apply(op, (left, right), span=self.span(start))
            result = Apply("and", (result, one), span=self.span(first)) if result else one
            left, start = right, following
        assert result is not None
        return result

    def _operand(self, least: int) -> Expr:
        if self.at("-"):
            return self._negative()
        if not self.at("not"):
            return self._primary()
        first = self.take()
        if least > _NOT:
            raise NotationError(
                "'not' binds less tightly than the operator before it",
                span=self.source.span(first),
                fix="put 'not ...' in parentheses",
            )
        operand = self.expression(_NOT)
        return Apply("not", (operand,), span=self.span(first))

    def _negative(self) -> Expr:
        first = self.take()
        literal = self.now.kind == "number" or self.at("inf")
        operand = self.expression(_NEG)
        if literal and isinstance(operand, Num):
            return Num(-operand.value, span=self.span(first))
        return Apply("neg", (operand,), span=self.span(first))

    def _primary(self) -> Expr:
        token = self.now
        if token.kind == "number":
            return self._number()
        if self.accept("inf"):
            return Num(float("inf"), span=self.span(token))
        if self.accept("("):
            inner = self.expression()
            self.closing(token)
            return inner
        if token.kind != "name" or token.text in WORDS:
            raise self.unexpected("a number, a name or '('", fix=self._hint_operand())
        if self.at("(", 1):
            return self._call()
        if self.at("[", 1):
            if token.text in _CALLED:
                raise self._no_tensor(token)
            return self.access("tensor")
        self.take()
        if token.text[0].isupper():
            return Sym(token.text, span=self.span(token))
        check_case(self.source, token, "rank variable", upper=False)
        return Var(token.text, span=self.span(token))

    def _number(self) -> Num:
        token = self.take()
        value = float(token.text)
        if value == float("inf"):
            raise NotationError(
                f"{token.text} is too large for a number",
                span=self.span(token),
                fix="write inf for infinity",
            )
        return Num(value, span=self.span(token))

    def access(self, kind: str) -> Access:
        """Read a tensor with its indices; without brackets it has none.

        Raises:
            NotationError: a lower-case name, or brackets that do not match.
        """
        token = self.name(kind, upper=True)
        indices = self._list() if self.at("[") else ()
        if indices and self.at("["):
            found = (*indices, *self._list())
            raise NotationError(
                f"{token.text} has two pairs of brackets",
                span=self.span(token),
                fix=f"put the indices into one: {Access(token.text, found)}",
            )
        return Access(token.text, indices, span=self.span(token))

    def left(self) -> Access:
        """Read a left side: an access of which an index may be ``r = x``, a computed place.

        Raises:
            NotationError: as `access`.
        """
        token = self.name("tensor", upper=True)
        if not self.at("["):
            return Access(token.text, (), span=self.span(token))
        bracket = self.take()
        found: list[Expr] = []
        while not self.at("]") or found:
            found.append(self._place())
            if not self.accept(","):
                break
        self.closing(bracket)
        return Access(token.text, tuple(found), span=self.span(token))

    def _place(self) -> Expr:
        first = self.now
        if not self.at("=", 1):
            return self.expression()
        rank = Var(self.name("rank variable", upper=False).text, span=self.span(first))
        self.take()
        return Apply("==", (rank, self.expression()), span=self.span(first))

    def _list(self) -> tuple[Expr, ...]:
        """Read a bracket, expressions with commas between them, and the closing bracket."""
        bracket = self.take()
        found: list[Expr] = []
        if not self.at("]" if bracket.text == "[" else ")"):
            found.append(self.expression())
            while self.accept(","):
                found.append(self.expression())
        self.closing(bracket)
        return tuple(found)

    def _call(self) -> Expr:
        token = self.take()
        name = _SPELLINGS.get(token.text, token.text)
        if name in self.functions:
            return self._expanded(self.functions[name], token)
        if name not in FUNCTIONS:
            raise self._no_function(token)
        args = self._list()
        if name not in {"max", "min"} or len(args) == 2:
            return Apply(name, args, span=self.span(token))
        if len(args) < 2:
            raise NotationError(
                f"'{name}' compares two or more operands, {len(args)} given",
                span=self.span(token),
                fix=f"to reduce over a rank, write ':: {name}[m]' after the expression",
            )
        nested = args[0]
        for arg in args[1:]:
            nested = Apply(name, (nested, arg), span=self.span(token))
        return nested

    def _expanded(self, function: Function, token: Token) -> Expr:
        args = self._list()
        if len(args) != len(function.parameters):
            raise NotationError(
                f"'{function.name}' takes {len(function.parameters)} operand(s), {len(args)} given",
                span=self.span(token),
                fix=f"write {function.name}({', '.join(function.parameters)})",
            )
        return substitute(function.body, dict(zip(function.parameters, args, strict=True)))

    def _no_function(self, token: Token) -> NotationError | UnknownNameError:
        name, span = token.text, self.source.span(token)
        if name in NORMALISATIONS:
            return NotationError(
                f"'{name}' stands inside a larger expression",
                span=span,
                fix=f"give it a line of its own, as in A[p, m] = {name}(QK[p, m]; m), and use A",
            )
        if name in REDUCTIONS or name in SELECTIONS:
            return NotationError(
                f"'{name}' is a reduction, not an operator",
                span=span,
                fix=f"write '{habits.example(name)}' after the expression, with your ranks",
            )
        if name[0].isupper() and name.lower() not in (*FUNCTIONS, *NORMALISATIONS):
            return NotationError(
                f"'{name}(' is neither an operator nor a tensor",
                span=span,
                fix=f"operators are lower case; a tensor takes square brackets: {name}[...]",
            )
        known = (*FUNCTIONS, *self.functions, *NORMALISATIONS)
        fix, otherwise = habits.function(name), f"define it above, as in 'def {name}(x) = ...'"
        return UnknownNameError("operator", name, known, span=span, fix=fix, otherwise=otherwise)

    def _no_tensor(self, token: Token) -> NotationError:
        """Return the error that an operator or a reduction has square brackets."""
        name = token.text
        if name in NORMALISATIONS:
            fix = f"write {name}(QK[p, m]; m)"
        elif name in FUNCTIONS or name in self.functions:
            fix = f"write {name}(...), in parentheses"
        else:
            fix = f"write '{habits.example(name)}' after the expression, with your ranks"
        return NotationError(
            f"'{name}' is no tensor, so that it has no indices",
            span=self.source.span(token),
            fix=fix,
        )

    def _habit(self, inside: str = "") -> str:
        before = [token.text for token in self.tokens[: self.position]]
        following = self.tokens[min(self.position + 1, len(self.tokens) - 1)].text
        return habits.trailing(before, self.now.text, following, inside)

    def _hint(self) -> str:
        token = self.now
        if fix := "" if self.at("=") and token.line > self.last.line else self._habit():
            return fix
        if token.text in REDUCTIONS or token.text in SELECTIONS:
            return f"put '::' before the reduction: '{habits.example(token.text)}'"
        if token.line > self.last.line:
            return (
                f"a line that starts with '{token.text}' goes on the one above: start with a tensor"
            )
        if token.text in {")", "]"}:
            return f"leave the '{token.text}' out, or open it before"
        if token.kind in {"name", "number"} or token.text in {"(", "["}:
            return "write an operator before it, or start a new line"
        return "start a new line for a new statement"

    def _hint_inside(self, bracket: Token, wanted: str) -> str:
        token = self.now
        if token.text == "(" and self.last.kind == "name":
            return f"write {self.last.text}[...], in square brackets"
        if token.text in {")", "]"}:
            before = [each.text for each in self.tokens[: self.position]]
            other = "(" if token.text == ")" else "["
            if before.count(other) == before.count(token.text):
                return f"write '{wanted}' in its place, as it closes '{bracket.text}'"
        elif fix := self._habit(bracket.text):
            return fix
        elif token.kind in {"name", "number"}:
            return "write ',' or an operator before it"
        elif token.text == "::" and bracket.text == "(" and self._closes_later():
            return "give what is reduced an Einsum of its own, and read that tensor here"
        return f"close the '{bracket.text}' with '{wanted}' before this"

    def _closes_later(self) -> bool:
        """Whether the rest of the line closes a parenthesis that is open here."""
        line = [each for each in self.tokens[self.position :] if each.line == self.now.line]
        texts = [each.text for each in line]
        return texts.count(")") > texts.count("(")

    def _hint_operand(self) -> str:
        if self.at(":") and self.last.text in {"[", ","}:
            return self._habit("[")
        if self.at(":"):
            return "leave the ':' out"
        if self.last.text == "/" and self.at("*"):
            return "write '#' before a comment, to the end of the line"
        if self.last.text == "<" and self.at(">"):
            return "write '!='"
        if self.last.text == ",":
            return "write an operand here, or leave out the ',' before it"
        return "write an operand here, or leave the operator out"


def check_case(source: Source, token: Token, kind: str, *, upper: bool) -> None:
    """Check the case of a name (see `Cursor.name`).

    Raises:
        NotationError: it has the wrong case.
    """
    name = token.text
    if name[0].isupper() if upper else name.islower():
        return
    if upper:
        what, fix = f"{kind} '{name}' starts with a lower-case letter", name[0].upper() + name[1:]
    else:
        what, fix = f"{kind} '{name}' has an upper-case letter", name.lower()
    raise NotationError(
        what,
        span=source.span(token),
        fix=f"write {fix}: rank variables are lower case, tensors and scalars upper case",
    )

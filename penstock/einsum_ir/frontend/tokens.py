"""From notation text to logical lines of tokens, each of which knows where it stands.

Excluded: any meaning. What a line says is read by `notation.py`. A logical line may span
several lines of text: it goes on while a bracket is open, after a trailing operator, and when
the next line starts with something that cannot start a statement (``::``, ``s.t.``, ``->`` ...).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from penstock.einsum_ir.frontend import habits
from penstock.errors import NotationError, Span

__all__ = ["Line", "Source", "Token", "logical_lines", "tokens_of"]

_TOKEN = re.compile(
    r"(?P<space>[ \t\xa0]+)"
    r"|(?P<comment>\#.*)"
    r"|(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<op>s\.t\.|::|->|//|\*\*|<=|>=|==|!=|[-+*/%<>=()\[\],:;])"
    r"|(?P<name>[A-Za-z][A-Za-z0-9_]*)"
)
_INFIX = {"+", "-", "*", "/", "//", "%", "**", "<", "<=", ">", ">=", "==", "!=", "and", "or"}
_ENDS_OPEN = _INFIX | {",", ";", "=", "::", "s.t.", "->", "not"}
_STARTS_INSIDE = _INFIX | {",", ";", "=", "::", "s.t.", "->", ")", "]"}


@dataclass(frozen=True, slots=True)
class Token:
    """A word, a number, a sign, or the end of a logical line.

    ``line`` counts from 1 and ``column`` from 0.
    """

    kind: Literal["name", "number", "op", "end"]
    text: str
    line: int
    column: int

    @property
    def stop(self) -> int:
        """The column after the last character."""
        return self.column + len(self.text)


@dataclass(frozen=True, slots=True)
class Source:
    """The text being read, by lines."""

    file: str
    lines: tuple[str, ...]

    @staticmethod
    def of(text: str, file: str) -> Source:
        """Split a text into lines, whatever its line ends are."""
        plain = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
        return Source(file, tuple(plain.split("\n")))

    def span(self, first: Token, last: Token | None = None) -> Span:
        """Return the part from `first` to `last`, or to the end of the line if that is earlier."""
        text = self.lines[first.line - 1]
        last = last or first
        stop = last.stop if last.line == first.line else len(text.rstrip())
        return Span(self.file, first.line, first.column, max(1, stop - first.column), text)


@dataclass(frozen=True, slots=True)
class Line:
    """One logical line: its indentation as written, and its tokens, the last of kind ``end``."""

    indent: str
    tokens: tuple[Token, ...]


def logical_lines(source: Source) -> list[Line]:
    """Split a text into logical lines; blank lines and comments are dropped.

    Raises:
        NotationError: a character that is not part of the notation.
    """
    lines: list[Line] = []
    current: list[Token] = []
    for number in range(1, len(source.lines) + 1):
        found = tokens_of(source, number)
        if not found:
            continue
        if current and not (_goes_on(current) or found[0].text in _STARTS_INSIDE):
            lines.append(_line(source, current))
            current = []
        current += found
    return [*lines, _line(source, current)] if current else lines


def tokens_of(source: Source, number: int) -> list[Token]:
    """Return the tokens of one line of text (counted from 1), without an end token.

    Raises:
        NotationError: a character that is not part of the notation.
    """
    return list(_tokens(source, number))


def _tokens(source: Source, number: int) -> Iterator[Token]:
    text, position = source.lines[number - 1], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise _bad_character(source, number, position)
        position = match.end()
        match match.lastgroup:
            case "number":
                yield Token("number", match[0], number, match.start())
            case "name":
                yield Token("name", match[0], number, match.start())
            case "op":
                yield Token("op", match[0], number, match.start())
            case _:
                pass


def _bad_character(source: Source, number: int, position: int) -> NotationError:
    text = source.lines[number - 1]
    column, length, fix = habits.character(text, position)
    found = text[column : column + length]
    return NotationError(
        f"unexpected '{found}'" if length > 1 else f"unexpected character {_shown(found)}",
        span=Span(source.file, number, column, length, text),
        fix=fix,
    )


def _shown(character: str) -> str:
    return f"'{character}'" if character.isprintable() else ascii(character)


def _goes_on(tokens: list[Token]) -> bool:
    """Whether a logical line with these tokens must continue on the next line."""
    if tokens[0].text == "format" and tokens[-1].text == ">":
        return False  # format K = fixed<8,5>
    opened = sum(token.text in {"(", "["} for token in tokens)
    closed = sum(token.text in {")", "]"} for token in tokens)
    return opened > closed or tokens[-1].text in _ENDS_OPEN


def _line(source: Source, tokens: list[Token]) -> Line:
    first, last = tokens[0], tokens[-1]
    text = source.lines[first.line - 1]
    end = Token("end", "", last.line, last.stop)
    return Line(text[: len(text) - len(text.lstrip(" \t\xa0"))], (*tokens, end))

"""Text → `Mapping`. The notation is described in `nodes.py`; printing is ``str``.

Excluded: whether a mapping is legal for a cascade and a machine (`check.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass, replace
from fractions import Fraction

from penstock.errors import NotationError, Span, UnknownNameError
from penstock.mapper.nodes import Compute, Keep, Loop, Mapping, Nest, Node

__all__ = ["parse_mapping"]

_HEAD = re.compile(r"mapping\s+(\S+)\s+for\s+(\S+)\s+on\s+(\S+)")
_LOOP = re.compile(r"([a-z]\w*)(?:\s+by\s+(\d+))?(?:\s*@\s*([a-z]\w*))?")
_FOR = re.compile(r"for\s+(.*?)(\s+pipelined|\s+in\s+([1-9]\d*)\s+phases)?(\s+alone)?")
_KEEP = re.compile(
    r"keep\s+(.+?)\s+in\s+([a-z]\w*)(?:\s+x(\d+))?(?:\s+spilling\s+(\d+(?:/[1-9]\d*)?))?"
)
_LEAF = re.compile(
    r"([A-Z]\w*)\s+on\s+([a-z]\w*)(?:\s+stage\s+(\d+))?(\s+drained)?"
    r"(?:\s+taking\s+([A-Z]\w*(?:\s*,\s*[A-Z]\w*)*))?(?:\s+last\s+([a-z]\w*))?(?:\s*:\s*(.*))?"
)
_LET = re.compile(r"let\s+([A-Z]\w*)\s*=\s*(\d+(?:/[1-9]\d*)?)")


@dataclass(frozen=True)
class _Line:
    """One line that is not blank: its indentation, its text without comment, and its place."""

    indent: int
    text: str
    number: int
    file: str
    source: str

    def span(self, part: str = "") -> Span:
        column = self.source.find(part) if part else self.indent
        return Span(self.file, self.number, max(column, 0), len(part or self.text), self.source)


def parse_mapping(
    text: str, *, file: str = "<text>", numbers: MappingABC[str, int | Fraction] | None = None
) -> Mapping:
    """Read a mapping.

    Args:
        text: a header line ``mapping NAME for CASCADE on TARGET``, then numbers with a name
            (``let ROWS = 256``, to be used as in ``for p by ROWS``), then the loop nest.
        file: the name that messages show.
        numbers: what other values some of the named numbers have.

    Raises:
        NotationError: the text is no mapping; the line is underlined.
        UnknownNameError: the mapping names no such number.
    """
    lines = _lines(text, file)
    if not lines:
        raise NotationError(f"{file} holds no mapping", fix=_HEAD_FIX)
    head = _HEAD.fullmatch(lines[0].text)
    if head is None:
        raise NotationError(
            f"'{lines[0].text}' is no header of a mapping", span=lines[0].span(), fix=_HEAD_FIX
        )
    lines = [lines[0], *_named(lines[1:], numbers or {})]
    body, rest = _body(lines[1:], lines[1].indent if len(lines) > 1 else 0)
    if rest:
        raise _indentation(rest[0])
    return Mapping(head[1], head[2], head[3], body)


def _named(lines: list[_Line], numbers: MappingABC[str, int | Fraction]) -> list[_Line]:
    """Take the ``let`` lines away, and put their numbers where the others name them."""
    count = next((n for n, each in enumerate(lines) if not each.text.startswith("let ")), 0)
    values: dict[str, str] = {}
    for line in lines[:count]:
        match = _LET.fullmatch(line.text)
        if match is None:
            raise NotationError(
                f"'{line.text}' names no number", span=line.span(), fix="write 'let ROWS = 256'"
            )
        values[match[1]] = match[2]
    for name, value in numbers.items():
        if name not in values:
            raise UnknownNameError("number of the mapping", name, values)
        values[name] = str(value)
    used = re.compile(r"\b(by|spilling)\s+([A-Z]\w*)")
    return [
        replace(line, text=used.sub(lambda m: f"{m[1]} {values.get(m[2], m[2])}", line.text))
        for line in lines[count:]
    ]


_HEAD_FIX = "begin with 'mapping NAME for CASCADE on TARGET'"


def _lines(text: str, file: str) -> list[_Line]:
    lines = []
    for number, source in enumerate(text.splitlines(), 1):
        kept = source.split("#", 1)[0].rstrip().expandtabs(4)
        if kept.strip():
            indent = len(kept) - len(kept.lstrip())
            lines.append(_Line(indent, kept.strip(), number, file, source.expandtabs(4)))
    return lines


def _body(lines: list[_Line], indent: int) -> tuple[tuple[Node, ...], list[_Line]]:
    """Read the nodes of one indentation; return them with the lines that are left."""
    nodes: list[Node] = []
    while lines and lines[0].indent == indent:
        line, lines = lines[0], lines[1:]
        if not line.text.startswith("for "):
            nodes.append(_keep(line) if line.text.startswith("keep ") else _leaf(line))
            continue
        if not lines or lines[0].indent <= indent:
            raise NotationError(
                f"nothing stands inside '{line.text}'",
                span=line.span(),
                fix="indent what the loop repeats below it",
            )
        inner, lines = _body(lines, lines[0].indent)
        match = _FOR.fullmatch(line.text)
        assert match is not None
        loop = _loop(match[1], line)
        nodes.append(
            Nest(loop, inner, bool(match[2]), int(match[3] or 0), bool(match[4]), line.span())
        )
    if lines and lines[0].indent > indent:
        raise _indentation(lines[0])
    return tuple(nodes), lines


def _indentation(line: _Line) -> NotationError:
    return NotationError(
        f"'{line.text}' is indented unlike the lines around it",
        span=line.span(),
        fix="indent the lines of one loop alike, two spaces deeper than the loop",
    )


def _keep(line: _Line) -> Keep:
    match = _KEEP.fullmatch(line.text)
    tensors = tuple(name.strip() for name in match[1].split(",")) if match else ()
    if match is None or not all(re.fullmatch(r"[A-Z]\w*", name) for name in tensors):
        raise NotationError(
            f"'{line.text}' is no residency",
            span=line.span(),
            fix="write it as in 'keep Q, RM in gb' or 'keep K in gb x2'",
        )
    return Keep(tensors, match[2], int(match[3] or 1), Fraction(match[4] or 0), line.span())


def _leaf(line: _Line) -> Compute:
    match = _LEAF.fullmatch(line.text)
    if match is None:
        raise NotationError(
            f"'{line.text}' is neither a loop, a residency nor an Einsum",
            span=line.span(),
            fix="write 'for p by 256', 'keep K in gb' or 'QK on pe2d: p@cols, m@rows, e'",
        )
    texts = [each.strip() for each in match[7].split(",")] if match[7] else []
    loops = tuple(_loop(each, line) for each in texts)
    taking = tuple(each.strip() for each in match[5].split(",")) if match[5] else ()
    stage, drained, last = int(match[3] or 0), bool(match[4]), match[6] or ""
    return Compute(match[1], match[2], loops, stage, drained, taking, last, line.span())


def _loop(text: str, line: _Line) -> Loop:
    match = _LOOP.fullmatch(text)
    if match is None or (match[2] is not None and int(match[2]) < 1):
        raise NotationError(
            f"'{text}' is no loop",
            span=line.span(text),
            fix="write it as in 'p', 'p by 256', 'p@cols' or 'p by 4@lanes'",
        )
    return Loop(match[1], int(match[2] or 1), match[3] or "")

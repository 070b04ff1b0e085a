"""What penstock raises on purpose: each message says what, where and how to fix it.

Subclasses are by *who must act*, not by place. Nothing here imports anything of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = [
    "CascadeError",
    "DataError",
    "FileError",
    "GeneratedCodeError",
    "MappingError",
    "ModelError",
    "NotationError",
    "PenstockError",
    "Span",
    "TargetError",
    "ToolError",
    "UnknownNameError",
    "nearest",
    "os_reason",
]


@dataclass(frozen=True, slots=True)
class Span:
    """Where the user wrote something: one line of source and the part of it that is meant.

    ``line`` counts from 1 and ``column`` from 0; ``length`` is in characters.
    """

    file: str
    line: int
    column: int
    length: int
    text: str

    def show(self) -> str:
        """Return the source line with the part that is meant underlined."""
        indent = len(self.text) - len(self.text.lstrip())
        shown = self.text.strip()
        start = max(self.column - indent, 0)
        width = max(1, min(self.length, len(shown) - start))
        where = f"{self.file}:{self.line}:{self.column + 1}"
        return f"{where}\n  {shown}\n  {' ' * start}{'^' * width}"


class PenstockError(Exception):
    """Base class: catch this to catch everything the package raises on purpose.

    Args:
        what: one sentence with every value that decided.
        span: the user's own text, where there is one.
        fix: what to do about it, as an instruction.
    """

    def __init__(self, what: str, *, span: Span | None = None, fix: str = "") -> None:
        parts = [what, span.show() if span else "", f"fix: {fix}" if fix else ""]
        super().__init__("\n".join(part for part in parts if part))
        self.what, self.span, self.fix = what, span, fix


class NotationError(PenstockError):
    """Text that is not penstock notation (cascade, mapping or expression)."""


class CascadeError(PenstockError):
    """A cascade that means nothing: unknown rank, cyclic or doubly defined tensor, no shape."""


class DataError(PenstockError):
    """Arrays or number formats that do not fit the cascade."""


class MappingError(PenstockError):
    """A mapping that is not legal, or does not fit the machine."""


class ModelError(PenstockError):
    """A model from elsewhere that an importer does not take: names the node and the attribute."""


class TargetError(PenstockError):
    """A machine description that is not one."""


class ToolError(PenstockError):
    """An external tool that is missing or failed; shows the command."""


class GeneratedCodeError(ToolError):
    """Generated code that a compiler refuses, or that fails when it runs: a defect of penstock."""


class FileError(PenstockError):
    """A file or folder that cannot be read or written."""


class UnknownNameError(PenstockError):
    """A name that is in no table; lists the nearest and the known ones.

    Args:
        kind: what was looked for.
        name: what was not found.
        known: the names that there are.
        span: the user's own text, where there is one.
        fix: what to do about it, if that is better known than by the nearest name.
        otherwise: what to do about it if no name is near.
    """

    def __init__(
        self,
        kind: str,
        name: str,
        known: Iterable[str],
        *,
        span: Span | None = None,
        fix: str = "",
        otherwise: str = "",
    ) -> None:
        names = sorted(known)
        near = nearest(name, names)
        fix = fix or (f"did you mean {near}?" if near else otherwise)
        listed = ", ".join(names) if names else "none"
        super().__init__(f"unknown {kind} '{name}' (known: {listed})", span=span, fix=fix)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known names that look like `name`, as ``'a' or 'b'``; empty if none does."""
    lowered = {each.lower(): each for each in known}
    if name.lower() in lowered:
        return f"'{lowered[name.lower()]}'"
    close = difflib.get_close_matches(name.lower(), lowered, n=2, cutoff=0.6)
    return " or ".join(f"'{lowered[each]}'" for each in close)


def os_reason(error: OSError) -> str:
    """Return why the system refused, in words that fit after ``cannot write PATH:``."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        return "a part of the path is a file, not a folder"
    return error.strerror or str(error)

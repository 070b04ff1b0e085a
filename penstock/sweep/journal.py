"""The journal of a sweep: a line of JSON for each finished point, only ever appended to.

A line is written whole, as soon as its point is finished, so that whatever ends the sweep loses
nothing. Points are known by the key of their task: a sweep with other values takes what it can use.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from penstock.errors import FileError, os_reason
from penstock.sweep.points import Outcome

__all__ = ["Journal"]

_HEAD_LINE = b'{"penstock": "journal"}\n'


class Journal:
    """Finished points in a file; a context manager.

    Args:
        path: of the file; made if it is not there.
        say: told, in one sentence, that the last line was cut off and what that means.

    Raises:
        FileError: the file cannot be read or written, or is no journal.
    """

    def __init__(self, path: str | Path, say: Callable[[str], None]) -> None:
        self.path = Path(path)
        self.finished: dict[str, Outcome] = {}
        try:
            content = self.path.read_bytes() if self.path.exists() else b""
            whole = content[: content.rfind(b"\n") + 1]
            self._read(whole, content)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            if len(whole) < len(content):
                os.truncate(self._handle, len(whole))
                say(f"the last line of {path} was cut off: its point is evaluated again")
            if not whole:
                self._write(_HEAD_LINE)
        except OSError as error:
            raise FileError(
                f"cannot keep the journal {path}: {os_reason(error)}",
                fix="choose a place you may write to",
            ) from None

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._handle)

    def add(self, key: str, outcome: Outcome) -> None:
        """Append a finished point.

        Raises:
            OSError: the disk is full, or the file was taken away.
        """
        self._write((json.dumps({"key": key, **outcome.to_json()}) + "\n").encode())
        self.finished[key] = outcome

    def _write(self, line: bytes) -> None:
        while line:
            line = line[os.write(self._handle, line) :]

    def _read(self, whole: bytes, content: bytes) -> None:
        head, *lines = whole.splitlines(keepends=True) or [content]
        if not (head == _HEAD_LINE or (not whole and _HEAD_LINE.startswith(content))):
            raise FileError(
                f"{self.path} is not the journal of a sweep",
                fix="give the .journal file beside the file of -o",
            )
        for number, line in enumerate(lines, start=2):
            try:
                data = json.loads(line)
                key = data.pop("key")
                self.finished[key] = Outcome.from_json(data)
            except (ValueError, KeyError, TypeError, AttributeError):
                raise FileError(
                    f"line {number} of {self.path} is no finished point",
                    fix="delete the line; its point is evaluated again",
                ) from None

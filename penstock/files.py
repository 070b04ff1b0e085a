"""Files: every failure is a `FileError`, every write is whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from penstock.errors import FileError, os_reason

__all__ = ["read_text", "write_together", "write_whole"]


def read_text(path: str | Path) -> str:
    """Return the text of a file.

    Raises:
        FileError: it is missing, a folder, unreadable or no text.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise FileError(
            f"cannot read {path}: {error.strerror}", fix="check the name of the file"
        ) from None
    except UnicodeDecodeError:
        raise FileError(f"{path} is not a text file", fix="give a text file") from None


def write_whole(path: str | Path, content: str | bytes) -> Path:
    """Write a file whole or not at all, and the folders that it needs.

    Raises:
        FileError: it cannot be written.
    """
    (place,) = write_together({Path(path): content})
    return place


def write_together(files: Mapping[Path, str | bytes]) -> tuple[Path, ...]:
    """Write files: first all of them beside their places, then into place.

    Raises:
        FileError: one cannot be written; none is, and nothing is left behind.
    """
    umask = os.umask(0)
    os.umask(umask)
    staged: list[tuple[Path, Path]] = []
    place = Path()
    try:
        for place, content in files.items():
            place.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{place.name}-", dir=place.parent)
            staged.append((Path(name), place))
            with os.fdopen(handle, "wb") as stream:
                stream.write(content.encode() if isinstance(content, str) else content)
            Path(name).chmod(0o666 & ~umask)
        for temporary, place in staged:
            temporary.replace(place)
    except OSError as error:
        for temporary, _ in staged:
            temporary.unlink(missing_ok=True)
        raise FileError(
            f"cannot write {place}: {os_reason(error)}", fix="choose a place you may write to"
        ) from None
    return tuple(files)

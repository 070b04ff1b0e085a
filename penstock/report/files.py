"""Writing the files of a report: each whole, and none if one cannot be written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from penstock.errors import FileError, os_reason

__all__ = ["write_together"]


def write_together(files: Mapping[Path, str]) -> None:
    """Write texts to paths; first all of them beside their places, then into place.

    Raises:
        FileError: a file cannot be written; nothing is left behind.
    """
    staged: list[tuple[Path, Path]] = []
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
            staged.append((Path(name), path))
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(content)
            Path(name).chmod(0o644)
        for temporary, path in staged:
            temporary.replace(path)
    except OSError as error:
        for temporary, _ in staged:
            temporary.unlink(missing_ok=True)
        raise FileError(
            f"cannot write {error.filename or 'the report'}: {os_reason(error)}",
            fix="choose a place you may write to",
        ) from None

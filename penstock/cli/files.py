"""Files of the command line: every failure is a `FileError`, every write is whole."""

from __future__ import annotations

import io
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import FileError, PenstockError, os_reason

__all__ = ["pairs", "read_arrays", "read_text", "write_arrays", "write_bytes"]


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


def read_arrays(path: str | Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an .npz file by name.

    Raises:
        FileError: it is missing or no .npz file of plain arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            if not hasattr(stored, "files"):
                raise FileError(f"{path} holds one array without a name", fix="use numpy.savez")
            return {name: stored[name] for name in stored.files}
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(
            f"cannot read {path}: {reason}", fix="make it with numpy.savez(path, Q=..., K=...)"
        ) from None
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise FileError(
            f"{path} is not an .npz file of plain arrays: {error}",
            fix="make it with numpy.savez(path, Q=..., K=...)",
        ) from None


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write a file whole or not at all.

    Raises:
        FileError: it cannot be written.
    """
    place = Path(path)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{place.name}-", dir=place.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
            umask = os.umask(0)
            os.umask(umask)
            Path(name).chmod(0o666 & ~umask)
            Path(name).replace(place)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise FileError(
            f"cannot write {path}: {os_reason(error)}", fix="choose a place you may write to"
        ) from None
    return place


def write_arrays(path: str | Path, arrays: Mapping[str, NDArray[Any]]) -> Path:
    """Write arrays as .npz, whole or not at all."""
    stream = io.BytesIO()
    np.savez(stream, **dict(arrays))  # type: ignore[arg-type]
    return write_bytes(path, stream.getvalue())


def pairs(texts: list[str], option: str) -> dict[str, float]:
    """Read ``name=number`` pairs.

    Raises:
        PenstockError: one of them is none.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not name or not equals or number != number:
            raise PenstockError(
                f"{option} {text} is not NAME=NUMBER", fix=f"write it as in {option} m=1024"
            )
        found[name.strip()] = number
    return found

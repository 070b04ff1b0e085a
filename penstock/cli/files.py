"""What the command line reads and writes beside text: arrays, ``name=number`` pairs."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import FileError, PenstockError
from penstock.files import write_whole

__all__ = ["pairs", "read_arrays", "write_arrays"]


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


def write_arrays(path: str | Path, arrays: Mapping[str, NDArray[Any]]) -> Path:
    """Write arrays as .npz, whole or not at all."""
    stream = io.BytesIO()
    np.savez(stream, **dict(arrays))  # type: ignore[arg-type]
    return write_whole(path, stream.getvalue())


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

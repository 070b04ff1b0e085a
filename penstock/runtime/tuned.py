"""Which tiles were fastest when they were measured: the file that `penstock tune` writes.

A line is a `Trial`. `penstock.jit` looks for one with the same kernel (cascade, format, machine):
with the same extents, else with extents of the same *shape class* (each has the same next power of
2), those nearest by their logarithms. Excluded: measuring (`runtime/tuning.py`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from penstock.codegen.base import digest
from penstock.einsum_ir.cascade import Cascade
from penstock.errors import FileError

__all__ = ["Trial", "cache_folder", "database", "fastest", "kernel_digits", "trials"]


@dataclass(frozen=True, slots=True)
class Trial:
    """A measured choice.

    Args:
        kernel: digits that name cascade, format and machine.
        extents: of the ranks.
        tile: coordinates of a tile of the streamed rank.
        block: coordinates of the longest shared rank in a core's block.
        milliseconds: best of some calls on one thread.
    """

    kernel: str
    extents: dict[str, int]
    tile: int
    block: int
    milliseconds: float


def cache_folder() -> Path:
    """Return where compiled kernels are kept: ``$PENSTOCK_CACHE``, or the user's cache folder."""
    given = os.environ.get("PENSTOCK_CACHE")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "penstock"


def database() -> Path:
    """Return the file of trials that `penstock.jit` reads."""
    return cache_folder() / "tuned.jsonl"


def kernel_digits(cascade: Cascade, fmt: str, machine: str) -> str:
    """Return the digits of a kernel.

    Args:
        cascade: with its constants.
        fmt: name of the number format.
        machine: as JSON.
    """
    return digest(str(cascade), fmt, machine)


def trials(path: Path) -> Iterator[Trial]:
    """Yield the trials of a file; none if it does not exist.

    Raises:
        FileError: a line is no trial.
    """
    if not path.exists():
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            yield Trial(**json.loads(line))
        except (json.JSONDecodeError, TypeError):
            raise FileError(
                f"line {number} of {path} is no trial: {line[:60]}",
                fix=f"remove that line, or give another file than {path}",
            ) from None


def fastest(path: Path, kernel: str, extents: Mapping[str, int]) -> Trial | None:
    """Return the fastest trial of a kernel for these extents, or the nearest of their class.

    Args:
        path: the file.
        kernel: its digits.
        extents: of the ranks of the inputs.
    """
    found = [
        each
        for each in trials(path)
        if each.kernel == kernel
        and all(_class(each.extents.get(rank, 0)) == _class(n) for rank, n in extents.items())
    ]
    return min(found, key=lambda e: (_apart(e.extents, extents), e.milliseconds), default=None)


def _class(extent: int) -> int:
    return (extent - 1).bit_length() if extent else -1


def _apart(measured: Mapping[str, int], wanted: Mapping[str, int]) -> float:
    return sum(abs(math.log(measured[rank] / n)) for rank, n in wanted.items() if n)

"""Measure the tiles of a CPU kernel on this machine: what the model cannot know, the clock says.

A trial is a choice of two numbers of the mapping: coordinates of a tile of the streamed rank
(``m0``), and of the block of the longest shared rank that a core works on (``p by 64@cores``). Each
is lowered, compiled and run; its best time goes into a file of JSON lines as soon as it is known,
so that a stopped search goes on where it was. Excluded: choosing loops and lanes (`mapper`).
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from penstock.codegen.base import digest
from penstock.codegen.lower.program import lower
from penstock.codegen.tvm.expr import memory_type
from penstock.codegen.tvm.library import build_library, load_library
from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.shapes import Bound
from penstock.errors import DataError, FileError, MappingError
from penstock.mapper.check import check
from penstock.mapper.fusion import Flow
from penstock.mapper.lanes import lane_axis
from penstock.mapper.nodes import Mapping as LoopForest
from penstock.mapper.search.build import build
from penstock.mapper.search.plan import Recipe
from penstock.runtime.streaming import streamed
from penstock.runtime.tiles import Tiles
from penstock.samples import random_inputs
from penstock.targets.base import Target
from penstock.targets.serial import to_json

__all__ = ["Trial", "tune"]

STREAMED = (32, 64, 128, 256)
VECTORS = (1, 2, 4, 8)
RUNS = 5


@dataclass(frozen=True, slots=True)
class Trial:
    """A measured choice.

    Args:
        kernel: digits that name cascade, extents, format and machine.
        tile: coordinates of a tile of the streamed rank.
        block: coordinates of the longest shared rank in a core's block.
        milliseconds: best of `RUNS` calls on one thread.
    """

    kernel: str
    tile: int
    block: int
    milliseconds: float


def tune(
    cascade: Cascade,
    shapes: Mapping[str, int],
    target: Target,
    fmt: Format,
    database: Path,
    *,
    constants: Mapping[str, float] | None = None,
    progress: Callable[[Trial, bool], None] | None = None,
) -> tuple[Trial, LoopForest]:
    """Measure all choices that are not in the database yet.

    Args:
        cascade: any that the mapper maps to a CPU.
        shapes: rank variable → extent.
        target: of the family ``cpu``; the clock is this machine's.
        fmt: a float format.
        database: a file of JSON lines; made if it is not there.
        constants: upper-case name → value.
        progress: called with each trial, and whether it was in the database.

    Returns:
        The fastest, and its mapping.

    Raises:
        DataError: the target is no CPU.
        FileError: the database is no file of trials.
        MappingError: no choice has a legal mapping.
    """
    if target.family != "cpu":
        raise DataError(
            f"{target.name} is no CPU: only this machine can be measured", fix="give --target cpu"
        )
    kernel = digest(str(cascade), str(sorted(shapes.items())), str(constants), str(fmt))
    kernel = digest(kernel, to_json(target))
    known = {(each.tile, each.block): each for each in _read(database) if each.kernel == kernel}
    found: list[tuple[Trial, LoopForest]] = []
    for tile, block, bound, mapping in _choices(cascade, shapes, target, fmt, constants or {}):
        trial, old = known.get((tile, block)), (tile, block) in known
        if trial is None:
            trial = Trial(kernel, tile, block, _measured(bound, mapping, target, fmt))
            database.parent.mkdir(parents=True, exist_ok=True)
            with database.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(asdict(trial)) + "\n")
        if progress is not None:
            progress(trial, old)
        found.append((trial, mapping))
    if not found:
        raise MappingError(
            f"{cascade.name} has no mapping with tiles on {target.name}", fix="use penstock explore"
        )
    return min(found, key=lambda each: each[0].milliseconds)


def _choices(
    cascade: Cascade,
    shapes: Mapping[str, int],
    target: Target,
    fmt: Format,
    constants: Mapping[str, float],
) -> Iterator[tuple[int, int, Bound, LoopForest]]:
    """Yield the different legal mappings, each with its two numbers."""
    seen: set[tuple[str, str]] = set()
    axes = [lane_axis(array) for array in target.arrays]
    lanes = max((axis.size for axis in axes if axis is not None), default=1)
    for tile in STREAMED:
        bound = streamed(cascade, shapes, constants, Tiles(tile, tile, tile))
        flow = Flow(bound.cascade)
        for vectors in VECTORS:
            block = vectors * lanes
            mapping, _ = build(bound, target, fmt, flow, Recipe(outer=block))
            texts = str(bound.cascade), str(mapping)
            if texts in seen:
                continue
            seen.add(texts)
            try:
                check(mapping, bound, target, fmt)
            except MappingError:
                continue  # its tensors do not fit: not among the choices
            yield tile, block, bound, mapping


def _measured(bound: Bound, mapping: LoopForest, target: Target, fmt: Format) -> float:
    """Return the milliseconds of the best of some calls on one thread."""
    program = lower(bound, mapping, target, fmt)
    inputs = random_inputs(bound, fmt)
    with tempfile.TemporaryDirectory(prefix="penstock-") as folder:
        path = Path(folder) / "kernel.so"
        build_library(program, path)
        entry = load_library(path)
        arrays = [
            np.ascontiguousarray(inputs[each.name]).astype(memory_type(each, fmt))
            for each in program.inputs
        ]
        arrays += [np.empty(each.shape or 1, memory_type(each, fmt)) for each in program.outputs]
        addresses = [each.ctypes.data for each in arrays]
        entry(addresses, 1)
        times = []
        for _ in range(RUNS):
            start = time.thread_time()
            entry(addresses, 1)
            times.append(time.thread_time() - start)
    return min(times) * 1e3


def _read(database: Path) -> Iterator[Trial]:
    if not database.exists():
        return
    for number, line in enumerate(database.read_text(encoding="utf-8").splitlines(), 1):
        try:
            yield Trial(**json.loads(line))
        except (json.JSONDecodeError, TypeError):
            raise FileError(
                f"line {number} of {database} is no trial: {line[:60]}",
                fix=f"remove that line, or give another file than {database}",
            ) from None

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
from dataclasses import asdict
from pathlib import Path

import numpy as np

from penstock.codegen.lower.program import lower
from penstock.codegen.tvm.cpu import stored_elements
from penstock.codegen.tvm.expr import memory_type
from penstock.codegen.tvm.library import build_library, load_library
from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.shapes import Bound, bind
from penstock.errors import DataError, MappingError
from penstock.mapper.check import check
from penstock.mapper.lanes import lane_axis
from penstock.mapper.nodes import Mapping as LoopForest
from penstock.runtime.streaming import blocked_mapping, stored_in, streamed
from penstock.runtime.tiles import Tiles
from penstock.runtime.tuned import Trial, kernel_digits, trials
from penstock.samples import random_inputs
from penstock.targets.base import Target
from penstock.targets.serial import to_json

__all__ = ["tune"]

STREAMED = (32, 64, 128, 256)
VECTORS = (1, 2, 4, 8)
RUNS = 5


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
    cascade = cascade.with_constants(**constants) if constants else cascade
    kernel = kernel_digits(cascade, fmt.name, to_json(target))
    extents = dict(bind(cascade, shapes=shapes).extents)
    known = {
        (each.tile, each.block): each
        for each in trials(database)
        if each.kernel == kernel and each.extents == extents
    }
    found: list[tuple[Trial, LoopForest]] = []
    for tile, block, (bound, inner), mapping in _choices(cascade, shapes, target, fmt):
        trial, old = known.get((tile, block)), (tile, block) in known
        if trial is None:
            trial = Trial(kernel, extents, tile, block, _measured(bound, mapping, target, inner))
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
    cascade: Cascade, shapes: Mapping[str, int], target: Target, fmt: Format
) -> Iterator[tuple[int, int, tuple[Bound, Format], LoopForest]]:
    """Yield the different legal mappings, each with its two numbers, its form and its format."""
    seen: set[tuple[str, str]] = set()
    axes = [lane_axis(array) for array in target.arrays]
    lanes = max((axis.size for axis in axes if axis is not None), default=1)
    for tile in STREAMED:
        form = stored_in(streamed(cascade, shapes, tiles=Tiles(tile, tile, tile)), fmt, target)
        bound, inner = form
        for vectors in VECTORS:
            block = vectors * lanes
            mapping = blocked_mapping(bound, target, inner, block)
            texts = str(bound.cascade), str(mapping)
            if texts in seen:
                continue
            seen.add(texts)
            try:
                check(mapping, bound, target, inner)
            except MappingError:
                continue  # its tensors do not fit: not among the choices
            yield tile, block, form, mapping


def _measured(bound: Bound, mapping: LoopForest, target: Target, fmt: Format) -> float:
    """Return the milliseconds of the best of some calls on one thread."""
    program = lower(bound, mapping, target, fmt)
    inputs = random_inputs(bound, fmt)
    with tempfile.TemporaryDirectory(prefix="penstock-") as folder:
        path = Path(folder) / "kernel.so"
        build_library(program, path)
        entry = load_library(path)
        arrays = [stored_elements(inputs[each.name], each, fmt) for each in program.inputs]
        arrays += [np.empty(each.shape or 1, memory_type(each, fmt)) for each in program.outputs]
        addresses = [each.ctypes.data for each in arrays]
        entry(addresses, 1)
        times = []
        for _ in range(RUNS):
            start = time.thread_time()
            entry(addresses, 1)
            times.append(time.thread_time() - start)
    return min(times) * 1e3

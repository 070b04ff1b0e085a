"""Generate CUDA for every stock cascade in bf16 and compile it with nvcc for sm_90a and sm_80.

    python tools/zoo_cuda.py [NAME ...] [--json FILE] [--jobs N]

With --json it goes on where the file ends: what it says compiled or was refused is not done again.
Each cascade, on the inputs of its tests, is brought into its streaming form, mapped to an H200
and an A100, and generated as `penstock generate --backend cuda` does. A line says what multiplies
(wgmma, mma.sync, or plain threads with the reason), or why there is no code. Nothing is run.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import json
import time
from collections import Counter
from pathlib import Path

from zoo_tvm import prepared, ranks_of

from penstock import zoo
from penstock.codegen.gpu.plain import plain
from penstock.codegen.lower.program import lower
from penstock.codegen.tvm.cuda import CudaModule, LaunchLoop, compile_cubin, tensor_module
from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.interpreter.inputs import bind_arrays
from penstock.einsum_ir.rewrite.ranks import slow_ranks
from penstock.einsum_ir.shapes import Bound, bind
from penstock.errors import MappingError, PenstockError
from penstock.mapper.fusion import Flow
from penstock.mapper.nodes import Mapping
from penstock.mapper.search.build import build, default_mapping
from penstock.mapper.search.plan import Recipe
from penstock.runtime.streaming import streamed
from penstock.runtime.tiles import Tiles
from penstock.targets import TARGETS
from penstock.targets.base import Target

MACHINES = ("h200", "a100")
FMT = parse_format("bf16")
KEYS = 48
"""Coordinates of a streamed rank, at least: three tiles of 16."""


def generated(name: str, machine: str) -> CudaModule:
    """Return the code of a cascade."""
    arrays, shapes, constants = prepared(name)
    target, cascade = TARGETS.get(machine), zoo.load(name)
    bound = bind_arrays(cascade, arrays, shapes=shapes, constants=constants)
    kept = enlarged(cascade, constants, bound)
    bound = streamed(cascade, kept, constants, Tiles(16, 16, 16), always=True)
    mapping = mapped(bound, target)
    leaves = plain(mapping, bound, target)
    program = lower(bound, mapping, target, FMT)
    return tensor_module(
        program, target, lambda: None if leaves is None else lower(bound, leaves, target, FMT)
    )


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
            module = generated(name, machine)
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
    given = parser.parse_args()
    names = given.names or list(zoo.names())
    rows: list[dict[str, str]] = []
    if given.json and given.json.exists():
        rows = [each for each in json.loads(given.json.read_text()) if each["result"] != "FAILED"]
    names = [name for name in names if name not in {each["cascade"] for each in rows}]
    with concurrent.futures.ProcessPoolExecutor(given.jobs) as pool:
        for done in concurrent.futures.as_completed([pool.submit(checked, name) for name in names]):
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
            if row["machine"] == machine and row["result"] == "compiled"
        )
        listed = ", ".join(f"{count} {said}" for said, count in sorted(counts.items()))
        print(f"{machine}: {listed}; {tensor} with tensor cores")
    if any(row["result"] == "FAILED" for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

"""Every cascade family as an HLS project: compiled, run under sanitizers, starved of stream room.

    python benchmarks/hls/grid.py [-j PROCESSES] [CASCADE ...]

For each cascade and format: the kernel of the default mapping, under AddressSanitizer and
UndefinedBehaviorSanitizer, on large logits and on small ones, against the interpreter (fixed point:
bit for bit; floats: within the project's tolerance). For each cascade besides: the mapping that the
search finds, through the project's own ``make csim``, and its tasks side by side with the emitted
and with the least stream depths (fp32), and with one token less in each stream, which must
deadlock. Prints a table for docs/hls.md; exits with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from penstock import generate, zoo
from penstock.codegen.hls import csim
from penstock.codegen.hls.data import encode, tolerance
from penstock.codegen.loops.nodes import Program
from penstock.design import Design, explore, remap
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.errors import PenstockError
from penstock.pipelines import kernel_timing

FORMATS = ("fixed<18,8>", "bf16", "fp32")
SANITIZERS = (
    "-O0",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
    "-fno-sanitize=shift-base",  # the vendor headers shift negative numbers left
)


@dataclass(frozen=True)
class Case:
    """A cascade of the zoo, two odd shapes, and the size of its inputs (gates stay below 1)."""

    name: str
    first: dict[str, int]
    second: dict[str, int]
    size: float = 8.0


def attention(**shapes: int) -> tuple[dict[str, int], dict[str, int]]:
    """Odd shapes: a prime head dimension, more keys than queries; one query, many keys."""
    first = {"h": 2, "p": 7, "m": 13, "e": 71, "f": 5} | shapes
    second = {"h": 1, "p": 1, "m": 37, "e": 96, "f": 7} | {
        name: size for name, size in shapes.items() if name not in ("p", "h")
    }
    return first, second


CASES = (
    Case("attention", *attention()),
    Case("attention_2pass", *attention(m0=4)),
    Case("attention_1pass", *attention(m0=4, b=1)),
    Case("attention_deferred", *attention()),
    Case("causal_attention", *attention()),
    Case("causal_attention_1pass", *attention(m0=4)),
    Case(
        "sliding_window",
        {"h": 1, "p": 37, "m": 37, "e": 5, "f": 3},
        {"h": 3, "p": 1, "m": 1, "e": 4, "f": 3},
    ),
    Case("gqa_causal", *attention(h=4, g=2)),
    Case("gqa_causal_1pass", *attention(h=4, g=2, m0=4)),
    Case(
        "flash_decoding",
        {"b": 2, "h": 4, "g": 2, "m": 37, "e": 5, "f": 3, "u": 8},
        {"b": 1, "h": 1, "g": 1, "m": 100, "e": 96, "f": 7, "u": 16},
    ),
    Case(
        "relative_bias",
        {"h": 2, "p": 7, "m": 13, "e": 5, "f": 3, "c": 8},
        {"h": 1, "p": 37, "m": 37, "e": 4, "f": 3, "c": 32},
    ),
    Case("soft_cap", *attention()),
    Case("alibi", *attention()),
    Case(
        "transformer_xl",
        {"h": 2, "p": 7, "m": 13, "e": 5, "f": 3, "d": 13},
        {"h": 1, "p": 1, "m": 37, "e": 4, "f": 3, "d": 37},
    ),
    Case("linear_attention", *attention(), 1.0),
    Case(
        "linear_causal", {"h": 2, "t": 13, "e": 7, "f": 5}, {"h": 1, "t": 37, "e": 4, "f": 3}, 1.0
    ),
    Case("gla", {"h": 2, "t": 13, "e": 7, "f": 5}, {"h": 1, "t": 37, "e": 4, "f": 3}, 1.0),
    Case(
        "danet",
        {"p": 7, "m": 13, "e": 5, "c": 9, "n": 7, "d": 9},
        {"p": 37, "m": 37, "e": 4, "c": 3, "n": 37, "d": 3},
    ),
)


def shaped(case: Case, second: bool) -> dict[str, int]:
    """Return the shapes that the cascade has ranks for."""
    cascade = zoo.load(case.name)
    known = {rank for each in cascade.inputs for rank in each.ranks}
    known |= {variable for each in cascade.einsums for variable in each.variables}
    shapes = case.second if second else case.first
    return {rank: size for rank, size in shapes.items() if rank in known}


def inputs(program: Program, seed: int, size: float) -> dict[str, np.ndarray]:
    """Multiples of 1/16 up to `size`; whole numbers for coordinates and lengths."""
    rng = np.random.default_rng(seed)
    steps = max(1, int(size * 16))
    found = {}
    for each in program.inputs:
        if each.kind == "index":
            found[each.name] = rng.integers(0, 1 + max(program.inputs[1].shape), each.shape)
        else:
            found[each.name] = rng.integers(-steps, steps + 1, each.shape) / 16
    return found


def compare(design: Design, program: Program, size: float) -> float:
    """Run the kernel under sanitizers; return by how much it is off, in tolerances."""
    worst = 0.0
    for seed, scale in enumerate((size, size / 8)):
        given = inputs(program, seed, scale)
        wanted = interpret(design.bound, given, design.format)
        got = csim.execute(program, given, flags=SANITIZERS)
        for name, values in wanted.items():
            mine, true = np.asarray(got[name], float), np.asarray(values, float)
            if design.format.exact:
                worst = max(worst, float(np.count_nonzero(mine != true)))
            else:
                off = np.max(np.abs(mine - true), initial=0.0) / max(np.max(np.abs(true)), 1e-30)
                worst = max(worst, float(off) / tolerance(design.format))
    return worst


def project(design: Design) -> str:
    """Return what ``make csim`` of the generated project ends with."""
    with tempfile.TemporaryDirectory() as name:
        generate(design, "hls", "benchmarks/hls/grid.py").save(name)
        flags = " ".join(("-O0", *csim.FLAGS[1:]))  # as the project's, but faster to compile
        command = ["make", "-s", "csim", f"AP_TYPES={csim.header_folder()}", f"CXXFLAGS={flags}"]
        done = subprocess.run(command, cwd=name, capture_output=True, text=True, check=False)
        lines = (done.stdout + done.stderr).splitlines()
        return lines[-1] if done.returncode == 0 else "\n".join(lines[:8])


def starved(program: Program) -> str:
    """Return how the tasks do with the emitted depths, the least ones, and one token less."""
    timing = kernel_timing(program, 300e6)
    binary = csim.build(program, flags=("-DPK_BOUNDED", "-O0"))
    with tempfile.TemporaryDirectory() as name:
        given = inputs(program, 0, 1.0)
        for each in program.inputs:
            content = encode(given[each.name], each, program.format)
            (Path(name) / f"{each.name}.bin").write_bytes(content)

        def run(depths: dict[str, int]) -> int:
            text = ",".join(f"{stream}={depth}" for stream, depth in depths.items())
            command = [str(binary), name, name]
            return subprocess.run(
                command, env={"PK_DEPTHS": text}, capture_output=True, check=False
            ).returncode

        if run(dict(timing.depths)) or run(dict(timing.minimal)):
            return "stuck"
        fewer = [{**timing.minimal, name: least - 1} for name, least in timing.minimal.items()]
        return "ok" if all(run(depths) == 4 for depths in fewer) else "one less runs"


def check(job: tuple[Case, str]) -> tuple[str, str, str, float]:
    """Do one cell of the table."""
    case, what = job
    start = time.perf_counter()
    try:
        if what in FORMATS:
            design = remap(
                zoo.load(case.name), "u280", shapes=shaped(case, False), fmt=parse_format(what)
            )
            off = compare(design, design.program(), case.size)
            said = "ok" if off <= (0 if design.format.exact else 1) else f"off by {off:.3g}"
        elif what == "make csim":
            design, _ = explore(
                zoo.load(case.name), "u280", shapes=shaped(case, True), fmt=parse_format(FORMATS[0])
            )
            said = "ok" if (ended := project(design)) == "PASS" else ended
        else:
            design = remap(
                zoo.load(case.name), "u280", shapes=shaped(case, False), fmt=parse_format("fp32")
            )
            said = starved(design.program())
    except (PenstockError, AssertionError, ValueError, KeyError) as error:  # goes into the table
        said = f"{type(error).__name__}: {re.sub(chr(10), ' ', str(error))[:300]}"
    return case.name, what, said, time.perf_counter() - start


def main() -> None:
    """Fill the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-j", type=int, default=1, metavar="PROCESSES")
    parser.add_argument("cascades", nargs="*")
    options = parser.parse_args()
    columns = [*FORMATS, "make csim", "depths"]
    chosen = [case for case in CASES if not options.cascades or case.name in options.cascades]
    jobs = [(case, what) for case in chosen for what in columns]
    cells: dict[tuple[str, str], str] = {}
    with ProcessPoolExecutor(options.j) as pool:
        for name, what, said, seconds in pool.map(check, jobs):
            cells[name, what] = said
            print(f"{name} {what}: {said} ({seconds:.1f} s)", file=sys.stderr, flush=True)
    print("| cascade |", " | ".join(columns), "|")
    print("|---" * (1 + len(columns)) + "|")
    for case in chosen:
        print("|", case.name, "|", " | ".join(cells[case.name, what] for what in columns), "|")
    bad = [said for said in cells.values() if said != "ok"]
    print(f"\n{len(cells) - len(bad)} of {len(cells)} cells are ok")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()

"""Run every stock cascade through TVM on this CPU and compare it with the interpreter.

    python tools/zoo_tvm.py [NAME ...] [--format bf16] [--json FILE]

Each cascade is mapped to the machine it runs on, as it is written and, where it makes several
passes over a rank, in its streaming form; compiled; and run in fp32 on the inputs of the tests of
the stock cascades. A line gives the largest difference over the largest value (limit 1e-5), or
the reason for which there is no code. In bf16 and fp16, which inputs and outputs are in (fp32
between them, as in `penstock.jit`), 2 units in the last place of the output are left out of it; for
each factor that is bf16 for the sake of pairs of products (`runtime/halves.py`) 2**-8 is allowed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "zoo")]

import table_first  # noqa: E402 - lies beside the tests
import table_more  # noqa: E402
import table_multimodal  # noqa: E402
import test_decode  # noqa: E402
import test_loops  # noqa: E402
import test_recurrent  # noqa: E402
import test_standard  # noqa: E402
from cases import Case  # noqa: E402
from looped import drawn  # noqa: E402

from penstock import zoo  # noqa: E402
from penstock.agreement import relative_error  # noqa: E402
from penstock.codegen.lower.program import lower  # noqa: E402
from penstock.codegen.tvm.cpu import execute  # noqa: E402
from penstock.einsum_ir.formats import Format, parse_format, tensor_formats  # noqa: E402
from penstock.einsum_ir.interpreter.inputs import bind_arrays  # noqa: E402
from penstock.einsum_ir.interpreter.interp import interpret  # noqa: E402
from penstock.einsum_ir.interpreter.rounding import quantise  # noqa: E402
from penstock.einsum_ir.shapes import bind  # noqa: E402
from penstock.errors import PenstockError  # noqa: E402
from penstock.mapper.search.build import default_mapping  # noqa: E402
from penstock.runtime.streaming import stored_in, streamed  # noqa: E402
from penstock.runtime.tiles import Tiles  # noqa: E402
from penstock.samples import random_inputs  # noqa: E402
from penstock.targets import TARGETS  # noqa: E402

LIMIT = 1e-5
USUAL = {"b": 2, "h": 2, "g": 1, "p": 37, "m": 41, "e": 8, "f": 8, "d": 8, "n": 12, "k": 9}
USUAL |= {"y": 9, "x": 9, "r": 13, "c": 13, "s": 6, "t": 12, "i": 5, "j": 5, "m0": 8}
FMT = parse_format("fp32")
FACTOR = 2**-8
"""What rounding one factor of a sum of products to bf16 may add: a unit in its last place."""

Given = tuple[dict[str, np.ndarray], dict[str, int], dict[str, float]]


def prepared(name: str) -> Given:
    """Return inputs, extents and constants of a cascade, from its test where it has one."""
    for table in (table_first, table_more, table_multimodal):
        found = getattr(table, "MECHANISMS", {}).get(name)
        if found is not None:
            case = found.cases[0]
            arrays = drawn(name, found, case)
            return arrays, *_kinds(name, case)
    for module in (test_decode, test_loops, test_recurrent, test_standard):
        for each in _cases(module):
            if each.name == name:
                return each.inputs(1.0), each.shapes, dict(each.constants)
    cascade = zoo.load(name)
    sizes = {rank: USUAL.get(rank, 6) for each in cascade.inputs for rank in each.ranks}
    random = np.random.default_rng(3)
    counts = random_inputs(bind(cascade, shapes=sizes), FMT)
    counts |= {each.tensor: np.full((), 5.0) for each in cascade.inputs if not each.ranks}
    own = tensor_formats(cascade.formats)
    arrays = {
        each.tensor: counts[each.tensor]
        if each.tensor in own or not each.ranks
        else random.normal(size=[sizes[rank] for rank in each.ranks])
        for each in cascade.inputs
    }
    return arrays, {}, {}


def _cases(module: object) -> Iterator[Case]:
    for value in vars(module).values():
        for each in value if isinstance(value, list | tuple) else ():
            if isinstance(each, Case):
                yield each


def _kinds(name: str, case: dict[str, float]) -> tuple[dict[str, int], dict[str, float]]:
    used = {v for einsum in zoo.load(name).einsums for v in einsum.variables}
    shapes = {key: int(value) for key, value in case.items() if key in used}
    return shapes, {key: value for key, value in case.items() if key.isupper()}


def checked(name: str, stream: bool, fmt: Format = FMT) -> tuple[str, float | None]:
    """Return what happened, and the error if the code ran."""
    arrays, shapes, constants = prepared(name)
    target = TARGETS.get("cpu")
    bound = bind_arrays(zoo.load(name), arrays, shapes=shapes, constants=constants)
    used = bound
    if stream:
        cascade = zoo.load(name)
        kept = {rank: n for rank, n in bound.extents.items() if rank in ranks_of(cascade)}
        used = streamed(cascade, kept, constants, Tiles(2, 4, 4))
        if used.cascade == bound.cascade:
            return "one form", None
    inputs = {
        each.tensor: quantise(arrays[each.tensor], fmt).astype(np.float32)
        for each in used.cascade.inputs
    }
    stored, _ = stored_in(used, fmt, target)
    program = lower(stored, default_mapping(stored, target, FMT), target, FMT)
    for each in program.inputs:
        if each.kind == "index":  # those of cascades without a table are drawn as fractions
            inputs[each.name] = np.abs(np.rint(arrays[each.name]))
    exact = {tensor: each.astype(np.float64) for tensor, each in inputs.items()}
    want = interpret(bound, exact, parse_format("fp64"))
    found = execute(program, inputs)
    if fmt != FMT:
        found = {tensor: nearer(each, want[tensor], fmt) for tensor, each in found.items()}
    error = relative_error(found, want)
    own, given = dict(stored.cascade.formats), dict(used.cascade.formats)
    ends = {each.tensor for each in (*used.cascade.inputs, *used.cascade.outputs)}
    rounded = own.keys() - given.keys() - ends
    return ("ok" if error <= LIMIT + FACTOR * len(rounded) else "WRONG"), error


def nearer(found: np.ndarray, want: np.ndarray, fmt: Format) -> np.ndarray:
    """Return what was found, moved towards what is wanted by 2 units in its last place."""
    exact = want.astype(np.float64)
    unit = np.ldexp(1.0, np.frexp(exact)[1] - {"bf16": 8, "fp16": 11}[fmt.name])
    off = found.astype(np.float64) - exact
    return exact + np.sign(off) * np.maximum(np.abs(off) - 2 * unit, 0)


def ranks_of(cascade: object) -> set[str]:
    """Return the ranks of a cascade: those of its inputs and of its Einsums."""
    inputs = {rank for each in cascade.inputs for rank in each.ranks}  # type: ignore[attr-defined]
    return inputs | {v for each in cascade.einsums for v in each.variables}  # type: ignore[attr-defined]


def all_checked(
    names: Sequence[str], check: Callable[[str, bool], tuple[str, float | None]], path: Path | None
) -> None:
    """Print a line for each form of each cascade, then the counts; exit with 1 if one is wrong.

    Args:
        names: of stock cascades; all if empty.
        check: name, whether in its streaming form → what happened, and the error.
        path: of a JSON file with the rows.
    """
    rows = []
    for name in names or zoo.names():
        for stream in (False, True):
            try:
                said, error = check(name, stream)
            except PenstockError as refused:
                said, error = f"refused: {refused.what}", None
            if said == "one form":
                continue
            form = "streamed" if stream else "written"
            rows.append({"cascade": name, "form": form, "result": said, "error": error})
            shown = "" if error is None else f"{error:.1e}"
            print(f"{name:24}{form:10}{shown:10}{said}", flush=True)
            if path:
                path.write_text(json.dumps(rows, indent=1) + "\n")
    counts = dict.fromkeys(("ok", "WRONG", "refused"), 0)
    for row in rows:
        counts[str(row["result"]).split(":")[0]] += 1
    print(", ".join(f"{count} {said}" for said, count in counts.items()))
    if counts["WRONG"]:
        raise SystemExit(1)


def main() -> None:
    """Check the cascades that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--format", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    fmt = parse_format(given.format)
    all_checked(given.names, lambda name, stream: checked(name, stream, fmt), given.json)


if __name__ == "__main__":
    main()

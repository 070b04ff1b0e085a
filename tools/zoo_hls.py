"""Run every stock cascade through HLS C++ and compare it with the interpreter.

    python tools/zoo_hls.py [NAME ...] [--format 'fixed<24,10>'] [--target u280] [--json FILE]

Each cascade is mapped to the FPGA, as it is written and, where it makes several passes over a rank,
in its streaming form; its kernel and testbench are compiled with g++ and run on the inputs of the
tests of the stock cascades. A line gives the largest difference over the largest value (limit 1e-5
in fp32, of the interpreter in fp64; none in fixed point, of the interpreter in that format), or the
reason for which there is no code.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from zoo_tvm import LIMIT, all_checked, prepared, ranks_of

from penstock import zoo
from penstock.agreement import relative_error
from penstock.codegen.hls.csim import execute
from penstock.codegen.lower.program import lower
from penstock.einsum_ir.formats import Format, parse_format
from penstock.einsum_ir.interpreter.inputs import bind_arrays
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.interpreter.rounding import quantise
from penstock.mapper.search.build import default_mapping
from penstock.runtime.streaming import streamed
from penstock.runtime.tiles import Tiles
from penstock.targets import TARGETS
from penstock.targets.base import Target


def checked(name: str, stream: bool, fmt: Format, part: Target) -> tuple[str, float | None]:
    """Return what happened, and the error if the code ran."""
    arrays, shapes, constants = prepared(name)
    cascade = zoo.load(name)
    bound = bind_arrays(cascade, arrays, shapes=shapes, constants=constants)
    used = bound
    if stream:
        kept = {rank: n for rank, n in bound.extents.items() if rank in ranks_of(cascade)}
        used = streamed(cascade, kept, constants, Tiles(2, 4, 4))
        if used.cascade == bound.cascade:
            return "one form", None
    program = lower(used, default_mapping(used, part, fmt), part, fmt)
    inputs = {each.tensor: quantise(arrays[each.tensor], fmt) for each in cascade.inputs}
    for each in program.inputs:
        if each.kind == "index":  # those of cascades without a table are drawn as fractions
            inputs[each.name] = np.abs(np.rint(arrays[each.name]))
    exact = {tensor: each.astype(np.float64) for tensor, each in inputs.items()}
    want = interpret(*((used, exact, fmt) if fmt.exact else (bound, exact, parse_format("fp64"))))
    error = relative_error(execute(program, inputs), want)
    return ("ok" if error <= (0.0 if fmt.exact else LIMIT) else "WRONG"), error


def main() -> None:
    """Check the cascades that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--format", default="fp32", help="fp32 or fixed<W,I>")
    parser.add_argument("--target", default="u280")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    fmt, part = parse_format(given.format), TARGETS.get(given.target)
    all_checked(given.names, lambda name, stream: checked(name, stream, fmt, part), given.json)


if __name__ == "__main__":
    main()

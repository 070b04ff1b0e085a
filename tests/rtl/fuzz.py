"""Random designs on clocked machines: the simulator against Verilator, cycle for cycle.

    python tests/rtl/fuzz.py 200 [--seed 1] [--arrays 2x2,4x4,8x4,16x16]

Builds each machine once (minutes for 16x16), runs `count` designs spread over them, and prints
each that differs. Designs: attention in one, two and three passes, causal or not, with shapes that
leave remainders, default and searched mappings, FIFO depths 1 to 8, random stalls, and formats in
which logits saturate.
"""

import argparse
import sys
import time

from rtl_designs import ARRAYS, array, random_case

from penstock.errors import MappingError
from penstock.studies.cosim import compared


def say(*parts: object) -> None:
    sys.stdout.write(" ".join(map(str, parts)) + "\n")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--arrays", default=",".join(ARRAYS))
    options = parser.parse_args()
    names = options.arrays.split(",")
    bad = total = cycles = refused = 0
    for number, name in enumerate(names):
        target = array(name)
        share = len(range(number, options.count, len(names)))
        started, cases = time.perf_counter(), []
        for n in range(share):
            try:
                cases.append(random_case(options.seed * 100_000 + number * 10_000 + n, target))
            except MappingError as error:
                refused += 1
                say(f"refused: {error.what}")
        made = time.perf_counter() - started
        found = compared(cases)
        for each in found:
            cycles += each.clock.cycles
            total += 1
            if each.differences:
                bad += 1
                made_design = each.case.design
                say(f"{name} {dict(made_design.bound.extents)}: {each.differences}")
                say(made_design.mapping)
        both = time.perf_counter() - started - made
        say(f"{name}: {len(cases)} designs, {made:.0f} s to make, {both:.0f} s to build and run")
    say(f"{total} designs, {cycles:,} cycles, {refused} refused, {bad} differ")
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())

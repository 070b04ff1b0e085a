"""Mutants of the pair: each fault of the RTL and of the simulator, alone, must be noticed.

    python tests/rtl/mutants.py

Builds one 2x2 machine that has every fault of `rtl_faults.py`, none of them on, runs 22 designs
on it with one fault at a time, and prints each mutant with how many of them differ.
"""

import sys
from dataclasses import replace

from rtl_faults import RTL, SIMULATOR, faulty, faulty_clock, small_cases

from penstock.codegen.rtl.run import build, run_jobs
from penstock.studies.cosim import compared


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


def main() -> int:
    """Run all mutants; return whether one lives, or the machine without any is wrong."""
    cases = small_cases()
    hardware = cases[0].job.program.hardware
    binary = build(hardware, edit=faulty(hardware))

    def differing(number: int) -> int:
        found = compared(cases, binary=binary, arguments=[f"+fault={number}"])
        return sum(bool(each.differences) for each in found)

    wrong = differing(0)
    say(f"no fault: {wrong} of {len(cases)} designs differ")
    living = 0
    for number, (part, old, new) in enumerate(RTL, 1):
        count = differing(number)
        living += not count
        say(f"{count:3} differ: RTL, {part or 'top'}: {old}  ->  {new}")
    jobs = [replace(case.job, limit=100_000) for case in cases]
    outcomes = run_jobs(binary, jobs, arguments=["+fault=0"])
    for old, new in SIMULATOR:
        clock = faulty_clock(old, new)
        count = sum(
            clock(job.program, job.offers, job.takes).done != outcome.done
            for job, outcome in zip(jobs, outcomes, strict=True)
        )
        living += not count
        say(f"{count:3} differ: simulator: {old}  ->  {new}")
    say(f"{len(RTL) + len(SIMULATOR)} mutants, {living} live")
    return bool(living or wrong)


if __name__ == "__main__":
    sys.exit(main())

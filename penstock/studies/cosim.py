"""RTL against the clock: one program on the machine in Verilator and in `sim/clock/clocked.py`.

`compared` runs many cases on one build and says where the two sides differ: in cycles, in busy
cycles of each unit, in when each op was done, in any bit of an output. Excluded: both sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.codegen.backends import Provenance
from penstock.codegen.base import Artifact
from penstock.codegen.rtl.generate import artifact
from penstock.codegen.rtl.run import Job, Outcome, build, outputs_of, run_jobs
from penstock.design import Design
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.errors import DataError
from penstock.machine.hardware import Hardware
from penstock.machine.program import Program
from penstock.metrics import Check
from penstock.samples import random_inputs
from penstock.sim.clock.assemble import assemble, housed
from penstock.sim.clock.clocked import Clocked, run_clocked

__all__ = [
    "Case",
    "Comparison",
    "case_of",
    "check_of",
    "compared",
    "cosimulate",
    "generate_rtl",
    "patterns",
    "program_of",
    "stalls",
]

PERIOD = 211
"""Cycles after which a stall pattern begins anew; a prime, so that it meets no loop's length."""


@dataclass(frozen=True)
class Case:
    """A design, data for it, and its job."""

    design: Design
    job: Job


@dataclass(frozen=True)
class Comparison:
    """Both sides of one case.

    Args:
        case: what was run.
        clock: what the simulator says.
        rtl: what Verilator says.
        wrong: output → elements that differ from the interpreter's.
    """

    case: Case
    clock: Clocked
    rtl: Outcome
    wrong: Mapping[str, int]

    @property
    def differences(self) -> tuple[str, ...]:
        """What differs, in words; () if nothing does."""
        units, clock, rtl = self.case.job.program.hardware.units, self.clock, self.rtl
        if not rtl.finished:
            return (f"the RTL has not ended after {rtl.cycles} cycles",)
        found = []
        if clock.cycles != rtl.cycles:
            found.append(f"cycles: simulated {clock.cycles}, RTL {rtl.cycles}")
        for what, ours, theirs in (
            ("busy", clock.busy, rtl.busy),
            ("drain", clock.drained, rtl.drained),
        ):
            found += [
                f"{what} cycles of {unit}: simulated {a}, RTL {b}"
                for unit, a, b in zip(units, ours, theirs, strict=True)
                if a != b
            ]
        for unit, ours, theirs in zip(units, clock.done, rtl.done, strict=True):
            if ours != theirs:
                first = next(
                    (n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), 0
                )
                found.append(f"{unit}: op {first} is done at another cycle")
        return (*found, *(f"{name}: {count} elements" for name, count in self.wrong.items()))

    def to_json(self) -> dict[str, Any]:
        """Return both sides as a JSON object."""
        units = self.case.job.program.hardware.units

        def side(made: Clocked | Outcome) -> dict[str, Any]:
            return {
                "cycles": made.cycles,
                "busy_cycles": dict(zip(units, made.busy, strict=True)),
                "drain_cycles": dict(zip(units, made.drained, strict=True)),
                "ops_done": dict(zip(units, map(len, made.done), strict=True)),
            }

        return {
            "simulator": side(self.clock),
            "rtl": side(self.rtl),
            "differences": list(self.differences),
            "wrong_elements": dict(self.wrong),
        }


def program_of(
    design: Design, *, hardware: Hardware | None = None, fifo_in: int = 0, fifo_out: int = 0
) -> Program:
    """Return the program of a design; arguments as `assemble` takes them.

    Raises:
        MappingError: the machine cannot run the design; the message says what it lacks.
        TargetError: no machine is generated for the target.
    """
    bound, target = design.bound, design.target
    mapping = housed(design.mapping, bound, target)
    fifos = {"fifo_in": fifo_in, "fifo_out": fifo_out}
    return assemble(mapping, bound, target, design.format, hardware=hardware, **fifos)


def stalls(seed: int, rate: float) -> tuple[bool, ...]:
    """Return a pattern in which a stream moves in about `rate` of the cycles, at least in one."""
    moves = np.random.default_rng(seed).random(PERIOD) < rate
    moves[seed % PERIOD] = True
    return tuple(bool(each) for each in moves)


def case_of(
    design: Design,
    *,
    seed: int = 0,
    inputs: Mapping[str, NDArray[Any]] | None = None,
    hardware: Hardware | None = None,
    fifo_in: int = 0,
    fifo_out: int = 0,
    offers: tuple[bool, ...] = (True,),
    takes: tuple[bool, ...] = (True,),
) -> Case:
    """Return a case of a design: its program, with random inputs if none are given.

    Raises:
        MappingError: the machine cannot run the design; the message says what it lacks.
        TargetError: no machine is generated for the target.
    """
    program = program_of(design, hardware=hardware, fifo_in=fifo_in, fifo_out=fifo_out)
    arrays = inputs or random_inputs(design.bound, design.format, seed)
    return Case(design, Job(program, arrays, design.format, offers, takes))


def compared(
    cases: Sequence[Case], *, binary: Path | None = None, arguments: Sequence[str] = ()
) -> list[Comparison]:
    """Run cases of one machine on both sides.

    Args:
        cases: all for the same hardware.
        binary: of `codegen.rtl.run.build`; made if left out.
        arguments: for the simulation.

    Raises:
        ToolError: Verilator is missing, or the simulation failed.
    """
    clocks = [run_clocked(c.job.program, c.job.offers, c.job.takes) for c in cases]
    limited = [
        replace(case.job, limit=2 * clock.cycles + 1000)
        for case, clock in zip(cases, clocks, strict=True)
    ]
    used = binary or build(cases[0].job.program.hardware)
    outcomes = run_jobs(used, limited, arguments=arguments)
    return [
        Comparison(case, clock, outcome, _wrong(case, outcome))
        for case, clock, outcome in zip(cases, clocks, outcomes, strict=True)
    ]


def _wrong(case: Case, outcome: Outcome) -> dict[str, int]:
    bound, job = case.design.bound, case.job
    wanted = interpret(bound, job.inputs, job.format)
    beats = sum(len(rows) for _, rows in job.program.takes)
    if len(outcome.beats) != beats:
        return {name: array.size for name, array in wanted.items()}
    got = outputs_of(job, outcome.beats, bound.dims)
    counts = {
        name: int(np.count_nonzero(np.asarray(got[name]) != np.asarray(array)))
        for name, array in wanted.items()
    }
    return {name: count for name, count in counts.items() if count}


def patterns(seed: int) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
    """Return random stall patterns for the stream in and the stream out."""
    rates = np.random.default_rng(seed).choice([1.0, 0.9, 0.5, 0.1], 2)
    return stalls(2 * seed, float(rates[0])), stalls(2 * seed + 1, float(rates[1]))


def check_of(comparisons: Sequence[Comparison]) -> Check:
    """Return the row of a verification table: how many cases differ."""
    bad = [each for each in comparisons if each.differences]
    cycles = sum(each.clock.cycles for each in comparisons)
    detail = f"{len(comparisons)} cases, {cycles:,} cycles, equal in every cycle and bit"
    if bad:
        detail = "; ".join(bad[0].differences)
    return Check("RTL in Verilator", "simulator, interpreter", len(bad), 0, "simulation", detail)


def cosimulate(
    design: Design,
    *,
    cases: int = 8,
    seed: int = 0,
    fit: bool = False,
    sources: Mapping[str, str] | None = None,
) -> list[Comparison]:
    """Run a design on both sides, with random data and stalls; the first case without stalls.

    Args:
        design: on a small spatial array, in fixed point.
        cases: how many.
        seed: of data, FIFO depths and stalls.
        fit: on the machine whose memories are as small as the design allows.
        sources: SystemVerilog, name → text, instead of what is generated under that name.

    Raises:
        DataError: a file of the machine is not among `sources`.
        MappingError: the machine cannot run the design.
        TargetError: no machine is generated for the target.
        ToolError: Verilator is missing.
    """
    made = [case_of(design, seed=seed)]
    hardware = made[0].job.program.hardware
    if fit:
        hardware = made[0].job.program.fitted()
        made = [case_of(design, seed=seed, hardware=hardware)]
    for number in range(seed + 1, seed + cases):
        depths = np.random.default_rng(number).integers(1, 9, 2)
        offers, takes = patterns(number)
        made.append(
            case_of(
                design,
                seed=number,
                hardware=hardware,
                fifo_in=int(depths[0]),
                fifo_out=int(depths[1]),
                offers=offers,
                takes=takes,
            )
        )
    binary = None
    if sources is not None:
        binary = build(hardware, edit=lambda files: _edited(files, sources))
    return compared(made, binary=binary)


def _edited(files: Mapping[str, str], sources: Mapping[str, str]) -> dict[str, str]:
    """Return the user's sources and our harness; all files of the machine must be there."""
    missing = [name for name in files if name.endswith(".sv") and name not in sources]
    if missing:
        raise DataError(
            f"the RTL has no {missing[0]}, which the design's machine consists of",
            fix="write all of it with 'penstock generate design.json --backend rtl -o FOLDER'",
        )
    more = {name: text for name, text in sources.items() if name not in files}
    return {**more, **files, **sources}  # packages first


def generate_rtl(design: Design, command: str = "") -> Artifact:
    """Return the SystemVerilog of a design's machine and its program; pure.

    Raises:
        MappingError: the machine cannot run the design.
        TargetError: no machine is generated for the target.
    """
    source = Provenance(design.cascade.name, design.digest, command)
    return artifact(program_of(design), source)

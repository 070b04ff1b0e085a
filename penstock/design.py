"""`Design` = cascade + mapping + target + format, and the functions that take it through the pipe.

Each function is one stage: explore (cascade → design), run (cascade and arrays → arrays),
simulate, generate, verify. They contain no algorithm of their own; they put the layers together,
and know no single machine or cascade. Excluded: printing (`cli`).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.agreement import LIMITS, judged
from penstock.codegen.backends import BACKENDS, Provenance
from penstock.codegen.base import Artifact, digest
from penstock.codegen.gpu.plain import plain
from penstock.codegen.loops.nodes import Program
from penstock.codegen.lower.program import lower
from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.formats import Format, parse_format, run_format
from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.interpreter.inputs import bind_arrays, default_format
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.shapes import Bound, bind
from penstock.errors import DataError, FileError, GeneratedCodeError, ToolError
from penstock.files import read_text, write_whole
from penstock.fitting import fitting
from penstock.mapper.check import check
from penstock.mapper.launch import launch
from penstock.mapper.model.evaluate import Evaluation, evaluate
from penstock.mapper.model.roofline import roofline
from penstock.mapper.nodes import Mapping
from penstock.mapper.notation import parse_mapping
from penstock.mapper.search.build import default_mapping
from penstock.mapper.search.explore import Objective, SearchResult
from penstock.mapper.search.front import Front
from penstock.mapper.search.front import explore_front as search_front
from penstock.mapper.search.variants import bind_variants, derived
from penstock.metrics import Check, Metric
from penstock.report.data import Page, Simulated
from penstock.runtime.streaming import tiled
from penstock.samples import random_inputs
from penstock.sim.simulate import Simulation
from penstock.sim.simulate import simulate as run_simulation
from penstock.targets import TARGETS
from penstock.targets.base import Target
from penstock.targets.serial import from_json as target_from_json
from penstock.targets.serial import to_json as target_to_json

__all__ = [
    "Design",
    "as_target",
    "bounds",
    "explore",
    "explore_front",
    "generate",
    "page",
    "remap",
    "resized",
    "run",
    "run_calls",
    "sample",
    "simulate",
    "verify",
    "verify_simulation",
]

Arrays = dict[str, NDArray[Any]]
Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Design:
    """A cascade with all its shapes, mapped to a machine, in a number format.

    It is what every command of the pipe takes and gives (``design.json``). The mapping is
    checked when the design is built.

    Raises:
        CascadeError: a shape is missing.
        MappingError: the mapping is not legal for the cascade, or does not fit the machine.
    """

    cascade: Cascade
    mapping: Mapping
    target: Target
    format: Format

    def __post_init__(self) -> None:
        bound = bind(self.cascade)
        object.__setattr__(self, "cascade", bound.cascade)
        check(self.mapping, bound, self.target, run_format(self.format))

    @property
    def bound(self) -> Bound:
        """The cascade with every extent."""
        return bind(self.cascade)

    @property
    def digest(self) -> str:
        """Twelve hex digits that name the design: same design, same digits."""
        return digest(*self._texts())

    def _repr_html_(self) -> str:
        """Show the design in a notebook: what the model says, and the loop nest."""
        from penstock.report import fragment

        return fragment(page(self))

    def evaluate(self) -> Evaluation:
        """Return what the analytical model says of the design."""
        return evaluate(self.mapping, self.bound, self.target, self.format)

    def program(self) -> Program:
        """Return the loops that every generator prints."""
        return lower(self.bound, self.mapping, self.target, self.format)

    def plain_program(self) -> Program | None:
        """Return the loops of a GPU's streaming mapping without its leaves' own loops, or None."""
        if self.target.family != "gpu":
            return None
        mapping = plain(self.mapping, self.bound, self.target)
        if mapping is None:
            return None
        return lower(self.bound, mapping, self.target, self.format)

    def to_json(self) -> dict[str, Any]:
        """Return the design as a JSON object; `from_json` reads it back."""
        cascade, mapping, target, fmt = self._texts()
        return {
            "penstock": "design",
            "digest": self.digest,
            "cascade": cascade,
            "mapping": mapping,
            "format": fmt,
            "target": json.loads(target),
        }

    def save(self, path: str | Path) -> Path:
        """Write the design as JSON, whole or not at all; `load` and every command read it.

        Raises:
            FileError: it cannot be written.
        """
        return write_whole(path, json.dumps(self.to_json(), indent=1) + "\n")

    @staticmethod
    def load(path: str | Path) -> Design:
        """Read a design that `save` or ``penstock explore -o`` wrote.

        Raises:
            FileError: the file cannot be read, or is no design.
            PenstockError: a part of it is wrong; the part's own message says where.
        """
        return Design.from_json(read_text(path), str(path))

    @staticmethod
    def from_json(text: str, file: str = "design.json") -> Design:
        """Read a design.

        Raises:
            FileError: the text is no design.
            PenstockError: a part of it is wrong; the part's own message says where.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise FileError(
                f"{file} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}",
                fix="make it again with 'penstock explore ... -o design.json'",
            ) from None
        _check_fields(data, file)
        design = Design(
            parse(data["cascade"], file=f"{file}:cascade"),
            parse_mapping(data["mapping"], file=f"{file}:mapping"),
            target_from_json(json.dumps(data["target"])),
            parse_format(data["format"]),
        )
        if design.digest != data["digest"]:
            raise FileError(
                f"{file} was changed by hand: its digest is {data['digest']}, "
                f"its content has {design.digest}",
                fix="set the digest to the new value if the change is meant",
            )
        return design

    def _texts(self) -> tuple[str, str, str, str]:
        target = target_to_json(self.target)
        return str(self.cascade), str(self.mapping), target, str(self.format)


_FIELDS = {"cascade": str, "mapping": str, "format": str, "target": dict, "digest": str}


def _check_fields(data: object, file: str) -> None:
    if not isinstance(data, dict) or data.get("penstock") != "design":
        raise FileError(
            f"{file} is not a penstock design",
            fix="make one with 'penstock explore ... -o design.json'",
        )
    for name, kind in _FIELDS.items():
        if not isinstance(data.get(name), kind):
            state = "has no" if name not in data else "has a wrong"
            raise FileError(
                f"{file} {state} field '{name}'",
                fix="make it again with 'penstock explore ... -o design.json'",
            )


def as_target(target: Target | str) -> Target:
    """Return the machine itself, or the registered one of that name."""
    return target if isinstance(target, Target) else TARGETS.get(target)


def explore(
    cascade: Cascade,
    target: Target | str,
    *,
    shapes: MappingABC[str, int] | None = None,
    constants: MappingABC[str, float] | None = None,
    fmt: Format | None = None,
    objective: Objective = "latency",
    progress: Callable[..., None] | None = None,
    variants: Sequence[Cascade] | None = None,
    tile: int = 0,
    part: int = 0,
    others: Sequence[Format] | None = None,
) -> tuple[Design, SearchResult]:
    """Find the best mapping of a cascade to a machine.

    Args:
        cascade: any cascade.
        target: a machine, or the name of one.
        shapes: rank variable → extent, in coordinates.
        constants: upper-case name → value.
        fmt: number format; the machine's own if left out.
        objective: ``latency``, ``energy`` or ``edp``.
        progress: called with (points done, points in all, best so far).
        variants: cascades that compute the same: the design is that of the best; with ``()`` those
            that the rewrites derive (fewer passes, trees of parts). With either, tiles whose
            extent `shapes` leaves out (``m0``) are searched as well.
        tile: stream over tiles of that many coordinates of the rank with the most passes, or of the
            longest one that is reduced if all have one pass; 0: the cascade as it is.
        part: with `tile`, parts of that many coordinates side by side, merged at the end (split-K).
        others: formats that will do as well, if they are faster; see `penstock.fitting`.

    Returns:
        The design, and how the search came to it.

    Raises:
        PenstockError: a shape is missing, or nothing fits the machine.
    """
    machine = as_target(target)
    chosen = run_format(fmt or parse_format(machine.format))
    if variants is None:
        bounds: Sequence[Bound] = (tiled(cascade, shapes or {}, constants, machine, tile, part),)
    else:
        same = tuple(variants) or derived(cascade, chosen)
        bounds = bind_variants((cascade, *same), machine, shapes=shapes, constants=constants)
    found = fitting(bounds, machine, chosen, objective=objective, progress=progress, others=others)
    return Design(found.bound.cascade, found.mapping, found.target, found.format), found


def explore_front(
    cascade: Cascade,
    target: Target | str,
    *,
    shapes: MappingABC[str, int] | None = None,
    constants: MappingABC[str, float] | None = None,
    fmt: Format | None = None,
    progress: Callable[..., None] | None = None,
) -> Front:
    """Find the mappings of which none is better than another in both latency and energy.

    Arguments and errors as for `explore`.
    """
    machine = as_target(target)
    bound = bind(cascade.with_constants(**(constants or {})), shapes=shapes)
    chosen = run_format(fmt or parse_format(machine.format))
    return search_front(bound, machine, chosen, progress=progress)


def remap(
    cascade: Cascade,
    target: Target | str,
    *,
    shapes: MappingABC[str, int] | None = None,
    constants: MappingABC[str, float] | None = None,
    fmt: Format | None = None,
    mapping: Mapping | None = None,
) -> Design:
    """Return the design with a given mapping, or with the default one, without a search."""
    machine = as_target(target)
    bound = bind(cascade.with_constants(**(constants or {})), shapes=shapes)
    chosen = fmt or parse_format(machine.format)
    used = mapping or default_mapping(bound, machine, chosen)
    return Design(bound.cascade, used, machine, chosen)


def resized(design: Design, shapes: MappingABC[str, int]) -> Design:
    """Return the same mapping on other extents; its tiles are clipped to them."""
    return remap(
        design.cascade, design.target, shapes=shapes, fmt=design.format, mapping=design.mapping
    )


def run(
    cascade: Cascade,
    inputs: MappingABC[str, NDArray[Any]],
    *,
    backend: str = "interpreter",
    shapes: MappingABC[str, int] | None = None,
    constants: MappingABC[str, float] | None = None,
    fmt: Format | None = None,
    target: Target | str | None = None,
    mapping: Mapping | None = None,
) -> Arrays:
    """Evaluate a cascade on arrays.

    Args:
        cascade: any cascade.
        inputs: tensor → array; extents are read off them.
        backend: ``interpreter``, or the name of a generator, whose code is compiled and run.
        shapes: extents that the arrays do not give.
        constants: upper-case name → value.
        fmt: number format; from the arrays' dtype if left out.
        target: the machine to map to for a generator; the generator's usual one if left out.
        mapping: the mapping for a generator; the default one of `target` if left out.

    Returns:
        Output tensor → array; absent elements are 0.

    Raises:
        PenstockError: arrays, shapes or format do not fit, or a tool is missing.
    """
    bound = bind_arrays(cascade, inputs, shapes=shapes, constants=constants)
    chosen = fmt or default_format(inputs, dict(cascade.formats))
    if backend == "interpreter":
        return interpret(bound, inputs, chosen)
    generator = BACKENDS.get(backend)
    machine = as_target(target or generator.usual_target)
    used = mapping or default_mapping(bound, machine, chosen)
    check(used, bound, machine, chosen)
    program = lower(bound, used, machine, chosen)
    return generator.execute(program, machine, _declared(bound, inputs))


def run_calls(
    cascade: Cascade,
    calls: Iterable[MappingABC[str, NDArray[Any]]],
    states: MappingABC[str, NDArray[Any]],
    *,
    backend: str = "interpreter",
    shapes: MappingABC[str, int] | None = None,
    fmt: Format | None = None,
) -> Iterator[Arrays]:
    """Evaluate a cascade call after call: its states go from each to the next.

    Args:
        cascade: one with states (``state K -> KX``).
        calls: for each call, tensor → array, for the inputs that are no states.
        states: tensor → array, for the states of the first call.
        backend: as in `run`.
        shapes: extents that the arrays do not give.
        fmt: number format; from the first call's arrays if left out.

    Yields:
        Output tensor → array, for each call; the new states are among the outputs.

    Raises:
        DataError: a state is missing or too many, or what `run` raises.
    """
    names = [before for before, _ in cascade.states]
    for name in sorted(set(names) ^ set(states)):
        known = ", ".join(names) or "none"
        raise DataError(
            f"{cascade.name} needs the first value of each of its states (states: {known}), and "
            f"{name} is {'missing' if name in names else 'none'}",
            fix=f"give {name} an array, as in states={{'{name}': np.zeros(...)}}"
            if name in names
            else f"leave out {name}, or add a line 'state {name} -> ...'",
        )
    held = dict(states)
    for inputs in calls:
        given = {**inputs, **held}
        fmt = fmt or default_format(given, dict(cascade.formats))
        found = run(cascade, given, backend=backend, shapes=shapes, fmt=fmt)
        yield found
        held = {before: found[after] for before, after in cascade.states}


def _declared(bound: Bound, inputs: MappingABC[str, NDArray[Any]]) -> Arrays:
    """Drop the arrays that were only values of constants."""
    return {each.tensor: inputs[each.tensor] for each in bound.cascade.inputs}


def simulate(
    design: Design,
    inputs: MappingABC[str, NDArray[Any]] | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    timing: bool = False,
    full: bool = False,
) -> Simulation:
    """Simulate a design cycle by cycle, with values; random inputs if none are given.

    Args:
        design: keep its extents small if values are computed.
        inputs: tensor → array.
        progress: called with (tasks done, tasks in all).
        timing: no values; what repeats is simulated once, and multiplied.
        full: without values too, simulate what repeats again and again.
    """
    arrays = None if timing else inputs or random_inputs(design.bound, design.format)
    return run_simulation(
        design.mapping, design.bound, design.target, design.format, arrays, progress, full=full
    )


def generate(
    design: Design, backend: str, command: str = "", *, oversize: bool = False
) -> Artifact:
    """Generate the project or kernel of a design. Pure: same design, same bytes.

    Args:
        design: what to generate.
        backend: ``tvm``, ``cuda`` or ``hls``.
        command: the command line that made it, for the files' first lines.
        oversize: whether an HLS project may take more than the part has.

    Raises:
        PenstockError: the backend cannot express the design, or it does not fit the part.
    """
    generator, program = BACKENDS.get(backend), design.program()
    source = Provenance(
        design.cascade.name,
        design.digest,
        command,
        mapping=str(design.mapping),
        plain=design.plain_program,
        oversize=oversize,
    )
    golden = None
    if generator.wants_golden:  # a project that describes itself
        from penstock.pipelines import kernel_timing

        golden = _golden(design, program)
        timing = kernel_timing(program, design.target.clock_hz)
        source = replace(source, metrics=design.evaluate().metrics(), timing=timing)
    return generator.generate(program, design.target, source, golden)


def _golden(design: Design, program: Program) -> tuple[Arrays, Arrays]:
    inputs = random_inputs(design.bound, design.format)
    for buffer in program.inputs:
        if buffer.kind == "index":  # lengths, coordinates: small whole numbers
            inputs[buffer.name] = np.floor(np.abs(inputs[buffer.name]))
    return inputs, interpret(design.bound, inputs, design.format)


def sample(design: Design, seed: int = 0) -> Arrays:
    """Return random inputs for a design, with large logits."""
    return dict(random_inputs(design.bound, design.format, seed))


def choices(design: Design) -> tuple[Metric, ...]:
    """Return what the mapping chose in the machine's words: warps, split-K, units, channels."""
    return launch(design.mapping, design.bound, design.target, design.format, design.evaluate())


def bounds(design: Design) -> tuple[Metric, ...]:
    """Return the lower bounds that hold for every mapping of the design's cascade."""
    return roofline(design.bound, design.target, design.format)


def page(
    design: Design,
    *,
    search: SearchResult | None = None,
    checks: tuple[Check, ...] = (),
    simulated: tuple[Design, Simulation] | None = None,
    published: tuple[Metric, ...] = (),
    commands: tuple[str, ...] = (),
) -> Page:
    """Put together what the report says of one design.

    Args:
        design: the design.
        search: how it was found.
        checks: rows of the verification table.
        simulated: a small design of the same cascade and its simulation, for the timeline.
        published: numbers from elsewhere to stand beside the model's.
        commands: command lines that reproduce it.
    """
    small = (
        Simulated(simulated[0].bound, simulated[0].mapping, simulated[0].target, simulated[1])
        if simulated
        else None
    )
    return Page(
        bound=design.bound,
        mapping=design.mapping,
        target=design.target,
        format=design.format,
        digest=design.digest,
        evaluation=design.evaluate(),
        bounds=bounds(design),
        search=search,
        checks=checks,
        simulated=small,
        published=published,
        commands=commands,
    )


def verify(design: Design, backend: str, seed: int = 0) -> Check:
    """Run the code of a design on random inputs with large logits against the interpreter.

    Fixed-point code must agree in every bit; fp32 code within 1e-5, fp64 within 1e-12 and fp16
    and bf16 within 2e-2, all relative to the largest value.

    Returns:
        A row for the verification table; ``ran`` is False if a tool is missing, and then the
        detail says which. Code that does not compile has an infinite error.

    Raises:
        PenstockError: the backend cannot express the design.
    """
    inputs = random_inputs(design.bound, design.format, seed)
    want = interpret(design.bound, inputs, design.format)
    limit = LIMITS.get(design.format.name, 0.0)
    generator = BACKENDS.get(backend)
    row = Check(generator.title, "interpreter", math.nan, limit, "measurement")
    shape = " ".join(f"{name}={extent}" for name, extent in design.bound.cascade.shapes)
    started = time.perf_counter()
    try:
        got = generator.execute(design.program(), design.target, inputs)
    except GeneratedCodeError as error:
        return replace(row, error=math.inf, detail=error.what)
    except ToolError as error:
        return replace(row, ran=False, detail=error.what)
    seconds = time.perf_counter() - started
    detail = f"{design.format}, {shape}, {seconds:.1f} s in all"
    return judged(replace(row, detail=detail), got, want)


def verify_simulation(design: Design, simulation: Simulation, inputs: Arrays) -> Check:
    """Compare the values of a simulation with the interpreter's."""
    want = interpret(design.bound, inputs, design.format)
    limit = LIMITS.get(design.format.name, 0.0)
    shape = " ".join(f"{name}={extent}" for name, extent in design.bound.cascade.shapes)
    detail = f"{design.format}, {shape}, {simulation.cycles:,.0f} cycles"
    row = Check("simulated values", "interpreter", math.nan, limit, "simulation", detail)
    return judged(row, simulation.outputs, want)

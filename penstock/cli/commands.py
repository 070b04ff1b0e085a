"""One function for each command: call the library, print what it returns. No logic of its own."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from textwrap import fill, shorten
from typing import Any

from penstock.cli import output
from penstock.cli.compare import compare
from penstock.cli.files import read_arrays, write_arrays
from penstock.cli.formats import explore_formats
from penstock.cli.front import explore_front
from penstock.cli.sources import (
    design_of,
    format_of,
    machine_of,
    mapping_of,
    shapes_of,
    source_of,
    variants_of,
)
from penstock.cli.tiles import tiles
from penstock.cli.tune import tune
from penstock.design import Design
from penstock.einsum_ir.hints import hints
from penstock.errors import PenstockError, UnknownNameError
from penstock.files import write_whole
from penstock.mapper.search.explore import SearchResult
from penstock.metrics import Check
from penstock.report.data import Section
from penstock.sim.perfetto import perfetto

__all__ = ["COMMANDS"]


def show(options: argparse.Namespace) -> None:
    """Print a cascade, or a design with its mapping and what the model says."""
    source = source_of(options)
    cascade = source.cascade.with_shapes(**source.shapes)
    if source.constants:
        cascade = cascade.with_constants(**source.constants)
    design = source.design
    if options.json:
        shown: dict[str, Any] = {"cascade": str(cascade), "shapes": cascade.shape}
        output.print_json(design.to_json() if design else shown)
        return
    print(cascade)
    for hint in hints(cascade):
        print(fill(f"note: {hint}", output.width()), file=sys.stderr)
    if design:
        print(f"\n{design.mapping}\n")
        output.print_metrics(design.evaluate().metrics())


def run(options: argparse.Namespace) -> None:
    """Evaluate a cascade on arrays."""
    from penstock import design

    source = source_of(options)
    mapping = mapping_of(options)
    machine = machine_of(options)
    if source.design is not None and options.backend != "interpreter":
        machine = machine or source.design.target
        mapping = mapping or source.design.mapping
    outputs = design.run(
        source.cascade,
        read_arrays(options.inputs),
        backend=options.backend,
        shapes=source.shapes,
        constants=source.constants,
        fmt=format_of(options),
        target=machine,
        mapping=mapping,
    )
    if options.out:
        write_arrays(options.out, outputs)
    facts = [
        {
            "tensor": name,
            "shape": list(array.shape),
            "dtype": str(array.dtype),
            "min": float(array.min()) if array.size else None,
            "max": float(array.max()) if array.size else None,
        }
        for name, array in outputs.items()
    ]
    if options.json:
        output.print_json({"backend": options.backend, "outputs": facts, "file": options.out})
        return
    columns = ["tensor", "shape", "dtype", "min", "max"]
    rows = [[_cell(fact[column]) for column in columns] for fact in facts]
    output.table(columns, rows, title=f"written to {options.out}" if options.out else "")


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " x ".join(str(each) for each in value) or "scalar"
    return output.number(value) if isinstance(value, int | float) else str(value)


def passes(options: argparse.Namespace) -> None:
    """Count the passes over each rank of each tensor."""
    from penstock.einsum_ir.passes import live_footprint, pass_table, taxonomy, worth_showing

    cascade = source_of(options).cascade
    rows = pass_table(cascade)
    footprints = live_footprint(cascade)
    if options.json:
        output.print_json(
            {
                "cascade": cascade.name,
                "taxonomy": taxonomy(cascade),
                "passes": [row.to_json() for row in rows],
                "footprint": [each.to_json() for each in footprints],
            }
        )
        return
    print(f"{cascade.name} is a {taxonomy(cascade)} cascade\n")
    inputs = [each.tensor for each in cascade.inputs]
    telling = worth_showing(rows, inputs)
    shown = [[row.tensor, row.rank, str(row.passes), row.chain] for row in telling]
    output.table(["tensor", "rank", "passes", "chain"], shown)
    for row in telling:
        if row.tensor in inputs and row.waits:
            text = f"{row.tensor} over {row.rank}: {'; '.join(row.waits)}"
            print(fill(text, output.width(), subsequent_indent="  "))
    if len(rows) > len(telling):
        print(f"{len(rows) - len(telling)} more rows, of intermediates, have one pass (--json)\n")
    live = [[each.tensor, each.text] for each in footprints if each.ranks]
    if live:
        output.table(["tensor", "live at a time, at least (elements)"], live)


def explore(options: argparse.Namespace) -> None:
    """Find the best mapping, or evaluate a given one; with --sweep, for many machines."""
    if options.formats or options.objective == "front":
        several = explore_formats if options.formats else explore_front
        several(options)
        return
    _check_forms(options)
    if options.sweep:
        from penstock.cli.sweep import run_sweep

        run_sweep(options)
        return
    from penstock import design

    _only_with_sweep(options)
    made, found = _explored(options)
    if options.out:
        made.save(options.out)
    if options.report:
        from penstock.report import save_report

        command = f"penstock explore {options.file} --target {options.target}"
        page = design.page(made, search=found, commands=(command,))
        save_report([page], options.report, command)
    bounds = design.bounds(made)
    metrics = (*made.evaluate().metrics(), *design.choices(made))
    if options.json:
        search = found.to_json() if found else None
        numbers = {"metrics": metrics, "bounds": bounds}
        rows = {name: [each.to_json() for each in some] for name, some in numbers.items()}
        said = {"objective": options.objective, **rows, "mapping": str(made.mapping)}
        output.print_json({**_named(made), **said, "search": search, "digest": made.digest})
    else:
        print(made.mapping, end="\n\n")
        output.print_metrics((*metrics, *bounds))
        if found:
            print(found.summary())
    if found and found.interrupted:
        raise KeyboardInterrupt


def _check_forms(options: argparse.Namespace) -> None:
    """Check that what says which cascades are mapped goes together."""
    for name, others in (
        ("variants", ("sweep", "mapping", "tile")),
        ("tile", ("sweep", "mapping")),
    ):
        given = getattr(options, name) not in (None, 0)
        for other in others:
            if given and getattr(options, other):
                raise PenstockError(f"--{name} does not go with --{other}", fix="leave one out")
    if options.part and not options.tile:
        raise PenstockError("--part is for what is streamed over", fix="add --tile N")


def _explored(options: argparse.Namespace) -> tuple[Design, SearchResult | None]:
    """Return the best design, and how it was found; without a search if a mapping is given."""
    from penstock import design

    source = source_of(options)
    machine = machine_of(options)
    if machine is None:
        raise PenstockError("no machine is given", fix="add --target T")
    mapping, fmt = mapping_of(options), format_of(options)
    if mapping is not None:
        return design.remap(
            source.cascade,
            machine,
            shapes=source.shapes,
            constants=source.constants,
            fmt=fmt,
            mapping=mapping,
        ), None
    with output.progress("exploring") as update:
        return design.explore(
            source.cascade,
            machine,
            shapes=source.shapes,
            constants=source.constants,
            fmt=fmt,
            objective=options.objective,
            progress=update,
            variants=variants_of(options),
            tile=options.tile,
            part=options.part,
        )


def _named(made: Design) -> dict[str, Any]:
    return {
        "cascade": made.cascade.name,
        "target": made.target.name,
        "format": str(made.format),
        "shapes": dict(made.bound.extents),
    }


def _only_with_sweep(options: argparse.Namespace) -> None:
    for name in ("jobs", "cluster", "resume"):
        if getattr(options, name) is not None:
            raise PenstockError(f"--{name} goes with a sweep", fix="add --sweep NAME=VALUES")
    if options.objective == "area":
        raise PenstockError(
            "all mappings to one machine have its area", fix="add --sweep NAME=VALUES"
        )


def synth(options: argparse.Namespace) -> None:
    """Map SystemVerilog, or the machine of a design, to an FPGA, and count its cells."""
    from penstock.cli.rtl import synth as counted

    counted(options)


def reproduce(options: argparse.Namespace) -> None:
    """Count a published study again."""
    from penstock.cli.reproduce import reproduce as counted

    counted(options)


def rewrite(options: argparse.Namespace) -> None:
    """Derive the form with the fewest passes."""
    from penstock.cli.rewrite import rewrite as derive

    derive(options)


def simulate(options: argparse.Namespace) -> None:
    """Simulate a design, and compare its values with the interpreter's."""
    from penstock import design

    if options.clocked:
        from penstock.cli.rtl import clocked

        clocked(options)
        return
    made = design_of(options)
    if options.timing and options.inputs:
        raise PenstockError("--timing computes no values", fix="leave out --inputs, or --timing")
    if options.full and not options.timing:
        raise PenstockError("--full goes with --timing", fix="leave it out: values take all of it")
    inputs = read_arrays(options.inputs) if options.inputs else design.sample(made)
    with output.progress("simulating") as update:
        result = design.simulate(made, inputs, update, timing=options.timing, full=options.full)
    checks = [] if options.timing else [design.verify_simulation(made, result, inputs)]
    if options.trace:
        trace = perfetto(result, f"{made.cascade.name} on {made.target.name} ({made.digest})")
        write_whole(options.trace, json.dumps(trace).encode())
    if options.json:
        units = [
            {
                "unit": each.unit,
                "busy_cycles": each.busy_cycles,
                "idle_cycles": each.idle_cycles,
                "stalls": dict(each.stalls),
                "busy_by_task": dict(each.busy_by_task),
            }
            for each in result.units
        ]
        metrics = [each.to_json() for each in result.metrics()]
        found = {"metrics": metrics, "units": units}
        output.print_json(found | ({"check": checks[0].to_json()} if checks else {}))
    else:
        output.print_metrics((*result.metrics(), *made.evaluate().metrics()[:1]))
        rows = [
            [each.unit, cause, output.number(cycles)]
            for each in result.units
            for cause, cycles in (
                *((f"works on {name}", cycles) for name, cycles in each.busy_by_task.items()),
                *sorted(each.stalls.items()),
                ("has nothing to do", each.idle_cycles),
            )
        ]
        output.table(["unit", "state", "cycles"], rows)
        if checks:
            output.print_checks(checks)
    _exit_on_failure(checks)


def _exit_on_failure(checks: list[Any]) -> None:
    failed = [each for each in checks if each.verdict == "FAILED"]
    if failed:
        each = failed[0]
        raise PenstockError(
            f"{each.subject} does not agree with the {each.oracle}: error {each.error:.3g}, "
            f"limit {each.limit:.3g} ({each.detail})"
        )


def generate(options: argparse.Namespace) -> None:
    """Write the code of a design."""
    from penstock import design
    from penstock.codegen.backends import BACKENDS

    command = f"penstock generate --backend {options.backend}"
    if options.backend == "rtl":
        from penstock.studies.cosim import generate_rtl

        artifact = generate_rtl(design_of(options, "mesh4x4"), command)
    else:
        made = design_of(options, BACKENDS.get(options.backend).usual_target)
        artifact = design.generate(made, options.backend, command, oversize=options.oversize)
    if options.out:
        paths = artifact.save(options.out)
        if options.json:
            output.print_json({"folder": options.out, "files": sorted(artifact.files)})
        else:
            for path in paths:
                print(path)
        return
    if options.json:
        texts = {name: each for name, each in artifact.files.items() if isinstance(each, str)}
        output.print_json({"files": texts})
        return
    for name, content in artifact.files.items():
        size = f"{len(content):,} bytes"
        print(f"==> {name} <==\n{content if isinstance(content, str) else size}")


def verify(options: argparse.Namespace) -> None:
    """Run the code of a design against the interpreter."""
    from penstock.codegen.backends import BACKENDS

    if options.rtl or options.rtl_dir:
        from penstock.cli.rtl import verify_rtl

        _exit_on_failure([verify_rtl(options)])
        return
    known = [*BACKENDS.names(), "sim"]
    for name in options.backend:
        if name not in known:
            raise UnknownNameError("backend", name, known)
    checks, refused = [], []
    for name in options.backend:
        try:
            checks.append(_verified(options, name))
        except PenstockError as error:  # the others run all the same
            refused.append(error)
    if options.json:
        output.print_json({"checks": [each.to_json() for each in checks]})
    elif checks:
        output.print_checks(checks)
    _exit_on_failure(checks)
    if refused:
        raise refused[0]


def _verified(options: argparse.Namespace, backend: str) -> Check:
    from penstock import design
    from penstock.codegen.backends import BACKENDS

    if backend != "sim":
        made = design_of(options, BACKENDS.get(backend).usual_target)
        return design.verify(made, backend, options.seed)
    made = design_of(options, "mesh4x4")
    inputs = design.sample(made, options.seed)
    return design.verify_simulation(made, design.simulate(made, inputs), inputs)


def report(options: argparse.Namespace) -> None:
    """Write the report of a design: HTML, with JSON and text beside it."""
    from penstock import design
    from penstock.report import markdown, save_report

    made = design_of(options)
    checks = [design.verify(made, name) for name in options.verify]
    small = None
    if options.small:
        tiny = design.resized(made, shapes_of(options.small, "--small"))
        inputs = design.sample(tiny)
        result = design.simulate(tiny, inputs)
        checks.append(design.verify_simulation(tiny, result, inputs))
        small = (tiny, result)
    command = f"penstock report {options.file}"
    page = design.page(made, checks=tuple(checks), simulated=small, commands=(command,))
    if options.markdown:
        print(markdown([page], command), end="")
        return
    sections = _sections(made)
    if options.synth:
        from penstock.studies.synthesis import section, synthesized

        sections.append(section(made, synthesized(made, options.synth)))
    paths = save_report([page], options.out, command, sections=sections)
    if options.json:
        output.print_json({"files": [str(path) for path in paths]})
    else:
        for path in paths:
            print(path)


def _sections(made: Design) -> list[Section]:
    """Return the page of a design's family; of an FPGA the HLS project, or why there is none."""
    from penstock.studies.fpga import fpga_section
    from penstock.studies.gpu import gpu_section

    if made.target.family == "gpu":
        return [gpu_section(made)]
    if made.target.family != "fpga":
        return []
    try:
        return [fpga_section(made)]
    except PenstockError as error:
        why = f"There is none: {error.what}"
        return [Section("HLS project", why, (), {"refused": error.what})]


def targets(options: argparse.Namespace) -> None:
    """List the machines, or print one as JSON that --target reads back."""
    from penstock.targets import TARGETS
    from penstock.targets.serial import to_json

    if options.name:
        print(to_json(TARGETS.get(options.name)))
        return
    machines = [TARGETS.get(name) for name in TARGETS.names()]
    if options.json:
        output.print_json([json.loads(to_json(machine)) for machine in machines])
        return
    rows = [
        [
            machine.name,
            machine.family,
            f"{machine.clock_hz / 1e6:,.0f} MHz",
            ", ".join(
                f"{array.name} {'x'.join(str(axis.size) for axis in array.axes)}"
                for array in machine.arrays
            ),
            ", ".join(memory.name for memory in machine.memories),
            machine.format,
        ]
        for machine in machines
    ]
    output.table(["name", "family", "clock", "arrays", "memories", "format"], rows)


def completion(options: argparse.Namespace) -> None:
    """Print the lines that make a shell complete penstock's commands, options and names."""
    from penstock.cli.completion import shell_code

    code = shell_code(options.shell)
    if options.json:
        output.print_json({"shell": options.shell, "code": code})
    else:
        print(code)


def models(options: argparse.Namespace) -> None:
    """List the models whose sizes --model gives."""
    from penstock.zoo.models import MODELS

    if options.json:
        output.print_json([vars(each) for each in MODELS.values()])
        return
    columns = ["model", "heads", "kv heads", "width", "also", "source"]
    rows = []
    for each in MODELS.values():
        also: dict[str, float] = {
            "values": each.value_dim,
            "rotated": each.rope_dim,
            "latent": each.latent_dim,
        }
        also |= {"window": each.window, "cap": each.soft_cap}
        told = ", ".join(f"{name} {value:g}" for name, value in also.items() if value)
        sizes = (each.heads, each.kv_heads, each.head_dim)
        rows.append([each.name, *map(str, sizes), told, each.source])
    output.table(columns, rows)


def zoo(options: argparse.Namespace) -> None:
    """List the stock cascades, or print one."""
    from penstock import zoo as stock
    from penstock.einsum_ir.constructs import constructs
    from penstock.einsum_ir.passes import taxonomy

    if options.name:
        print(stock.source(options.name), end="")
        return
    cascades = [(name, stock.load(name)) for name in stock.names()]
    if options.json:
        rows = [
            {
                "name": name,
                "summary": stock.summary(name),
                "passes": taxonomy(cascade),
                "constructs": list(constructs(cascade)),
                "cascade": str(cascade),
            }
            for name, cascade in cascades
        ]
        output.print_json(rows)
        return
    table = [
        [
            name,
            taxonomy(each),
            shorten(stock.summary(name), 30, placeholder=" …"),
            ", ".join(constructs(each)),
        ]
        for name, each in cascades
    ]
    output.table(["name", "passes", "what it is", "constructs"], table)


def demo(options: argparse.Namespace) -> None:
    """Run the main job."""
    from penstock.cli.demo import run_demo

    checks = run_demo(options.out, as_json=options.json)
    sys.stdout.flush()
    _exit_on_failure(checks)


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "show": show,
    "run": run,
    "passes": passes,
    "explore": explore,
    "simulate": simulate,
    "synth": synth,
    "generate": generate,
    "verify": verify,
    "report": report,
    "compare": compare,
    "rewrite": rewrite,
    "reproduce": reproduce,
    "tiles": tiles,
    "tune": tune,
    "targets": targets,
    "zoo": zoo,
    "models": models,
    "completion": completion,
    "demo": demo,
}

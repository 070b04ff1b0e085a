"""The main job: two attention algorithms from cascade to checked code and a report.

Two workloads, each through the whole pipe: BERT-Base attention as FuseMax's 1-pass cascade, and
Llama-3-8B's causal grouped-query attention. The workloads are data; the steps know neither.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from penstock import design, zoo
from penstock.cli import output
from penstock.codegen.backends import BACKENDS
from penstock.codegen.base import Artifact
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.passes import taxonomy
from penstock.errors import ToolError
from penstock.mapper.mappings import load_mapping
from penstock.metrics import Check, Metric
from penstock.report import save_report
from penstock.report.data import Page
from penstock.sim.simulate import Simulation

__all__ = ["WORKLOADS", "Workload", "run_demo"]

FIXED = parse_format("fixed<16,6>")


@dataclass(frozen=True)
class Workload:
    """What the demo does with one cascade.

    Args:
        title: for people.
        cascade: name of a stock cascade.
        shapes: extents of the accelerator study, rank variable → coordinates.
        kernel_shapes: what differs when it runs on this machine.
        gpu_shapes: what differs in the kernel for a GPU.
        small_shapes: what differs in the C simulation of the HLS project.
        tiny_shapes: what differs in the cycle-level simulation.
        published: numbers of the literature for the same thing.
        reference_mapping: name of a mapping file to compare with, or "".
    """

    title: str
    cascade: str
    shapes: dict[str, int]
    kernel_shapes: dict[str, int]
    gpu_shapes: dict[str, int]
    small_shapes: dict[str, int]
    tiny_shapes: dict[str, int]
    published: tuple[Metric, ...] = ()
    reference_mapping: str = ""


# FuseMax artifact (MICRO'24), attn-binding.csv, row BERT 1K: batch 64, 12 heads, +binding.
BERT_PUBLISHED = (
    Metric("latency_s", 0.002013140425531915, "s", "published"),
    Metric("dram_bytes", 402653184, "bytes", "published"),
    Metric("utilisation_pe2d", 0.8896103896103895, "of PEs", "published"),
    Metric("utilisation_pe1d", 1.0, "of PEs", "published"),
)

WORKLOADS = (
    Workload(
        title="BERT-Base, 12 heads of 64, length 1024 (batch 64 on the accelerator)",
        cascade="attention_1pass",
        shapes={"b": 64, "h": 12, "p": 1024, "m": 1024, "e": 64, "f": 64, "m0": 256},
        kernel_shapes={"b": 1, "m0": 64},
        gpu_shapes={"m0": 128},
        small_shapes={"b": 1, "h": 1, "p": 64, "m": 128, "m0": 32},
        tiny_shapes={"b": 1, "h": 1, "p": 16, "m": 16, "e": 8, "f": 8, "m0": 4},
        published=BERT_PUBLISHED,
        reference_mapping="fusemax_binding",
    ),
    Workload(
        title="Llama-3-8B, 32 query and 8 key heads of 128, causal, length 2048",
        cascade="gqa_causal_1pass",
        shapes={"h": 32, "g": 8, "p": 2048, "m": 2048, "e": 128, "f": 128, "m0": 256},
        kernel_shapes={"m0": 64},
        gpu_shapes={"m0": 128},
        small_shapes={"h": 4, "g": 1, "p": 32, "m": 64, "m0": 16},
        tiny_shapes={"h": 2, "g": 1, "p": 16, "m": 16, "e": 8, "f": 8, "m0": 4},
    ),
)


@contextmanager
def _step(title: str, *, quiet: bool) -> Iterator[None]:
    started = time.perf_counter()
    if not quiet:
        print(f"\n--- {title}", flush=True)
    yield
    if not quiet:
        print(f"    ({time.perf_counter() - started:.1f} s)", flush=True)


def run_demo(folder: str | Path, *, as_json: bool = False) -> list[Check]:
    """Take every workload through the pipe and write `folder`/report.html.

    Args:
        folder: where code and report go; made if missing.
        as_json: print one JSON object at the end instead of text.

    Returns:
        The verification table, to be checked by the caller.

    Raises:
        FileError: the folder cannot be written.
        PenstockError: a stage failed.
    """
    root = Path(folder)
    started = time.perf_counter()
    pages = [page for each in WORKLOADS for page in _workload(each, root, quiet=as_json)]
    paths = save_report(pages, root / "report.html", "penstock demo")
    checks = [check for page in pages for check in page.checks]
    seconds = time.perf_counter() - started
    if as_json:
        output.print_json(
            {
                "seconds": seconds,
                "report": str(paths[0]),
                "checks": [check.to_json() for check in checks],
                "designs": [_page_json(page) for page in pages],
            }
        )
        return checks
    print("\n=== What was checked")
    output.print_checks(checks)
    print(f"report: {paths[0]} (written after {seconds:.0f} s; open it in a browser)")
    return checks


def _page_json(page: Page) -> dict[str, object]:
    return {
        "cascade": page.bound.cascade.name,
        "target": page.target.name,
        "digest": page.digest,
        "metrics": [each.to_json() for each in page.evaluation.metrics()],
        "published": [each.to_json() for each in page.published],
    }


def _workload(work: Workload, root: Path, *, quiet: bool) -> list[Page]:
    cascade = zoo.load(work.cascade)
    if not quiet:
        print(f"\n=== {work.title}\n\n{cascade}\n\n{cascade.name} is a {taxonomy(cascade)} cascade")
    simulated, check = _simulated(work, quiet=quiet)
    accelerator = _accelerator(work, check, simulated, quiet=quiet)
    cpu = _cpu(work, root, quiet=quiet)
    gpu = _gpu(work, root, quiet=quiet)
    fpga = _fpga(work, root, quiet=quiet)
    return [accelerator, cpu, gpu, fpga]


def _accelerator(
    work: Workload,
    check: Check,
    simulated: tuple[design.Design, Simulation],
    *,
    quiet: bool,
) -> Page:
    cascade = zoo.load(work.cascade)
    with _step("explore on fusemax, a 256x256 spatial array", quiet=quiet):
        with output.progress("exploring") as update:
            made, found = design.explore(cascade, "fusemax", shapes=work.shapes, progress=update)
        if not quiet:
            print(made.mapping, end="\n\n")
            _compare(work, made)
            print(found.summary())
    command = f"penstock explore {work.cascade} --target fusemax {_shape_options(work.shapes)}"
    return design.page(
        made,
        search=found,
        checks=(check,),
        simulated=simulated,
        published=work.published,
        commands=(command,),
    )


def _compare(work: Workload, made: design.Design) -> None:
    """Print the search's design beside the published mapping and the published numbers."""
    columns = ["metric", "unit", "ours (model)"]
    ours = {each.name: each for each in made.evaluate().metrics()}
    theirs: dict[str, Metric] = {}
    if work.reference_mapping:
        mapping = load_mapping(work.reference_mapping)
        same = design.remap(made.cascade, made.target, mapping=mapping)
        theirs = {each.name: each for each in same.evaluate().metrics()}
        columns.append(f"{work.reference_mapping} (model)")
    said = {each.name: each for each in work.published}
    if said:
        columns.append("published")
    rows = []
    for name, metric in ours.items():
        row = [name, metric.parts()[1], metric.parts()[0]]
        if theirs:
            row.append(theirs[name].parts()[0] if name in theirs else "")
        if said:
            row.append(said[name].parts()[0] if name in said else "")
        rows.append(row)
    output.table(columns, rows)


def _cpu(work: Workload, root: Path, *, quiet: bool) -> Page:
    cascade = zoo.load(work.cascade)
    shapes = {**work.shapes, **work.kernel_shapes}
    with _step("TVM kernel for this CPU: generate, compile, run, compare", quiet=quiet):
        made, found = design.explore(cascade, "cpu", shapes=shapes, fmt=parse_format("fp32"))
        _generate(made, "tvm", root / f"{work.cascade}_cpu", quiet=quiet)
        check = design.verify(made, "tvm")
        _say([check], quiet=quiet)
    command = f"penstock verify {work.cascade} --backend tvm {_shape_options(shapes)}"
    return design.page(made, search=found, checks=(check,), commands=(command,))


def _gpu(work: Workload, root: Path, *, quiet: bool) -> Page:
    cascade, shapes = zoo.load(work.cascade), {**work.shapes, **work.gpu_shapes}
    with _step("CUDA kernel in bf16 for an H200 (sm_90a); compiled where nvcc is", quiet=quiet):
        made, found = design.explore(cascade, "h200", shapes=shapes, fmt=parse_format("bf16"))
        artifact = _generate(made, "cuda", root / f"{work.cascade}_cuda", quiet=quiet)
        check = _compiled(str(artifact.files["kernels.cu"]), made.target.part)
        _say([check], quiet=quiet)
    command = (
        f"penstock explore {work.cascade} --target h200 --format bf16 {_shape_options(shapes)}"
    )
    return design.page(made, search=found, checks=(check,), commands=(command,))


def _compiled(source: str, part: str) -> Check:
    """Compile CUDA source with nvcc, where it is on the machine."""
    from penstock.codegen.tvm.cuda import compile_cubin

    row = ("CUDA source", f"nvcc accepts it for {part}")
    try:
        cubin = compile_cubin(source, part)
    except ToolError as error:
        if shutil.which("nvcc"):
            raise
        return Check(*row, float("nan"), 0.0, "measurement", error.what, ran=False)
    return Check(*row, 0.0, 0.0, "measurement", f"{len(cubin):,} bytes; not run: no GPU here")


def _fpga(work: Workload, root: Path, *, quiet: bool) -> Page:
    cascade = zoo.load(work.cascade)
    with _step(f"HLS project for a U280 in {FIXED}; C simulation of a smaller length", quiet=quiet):
        made = design.remap(cascade, "u280", shapes=work.shapes, fmt=FIXED)
        shapes = {**work.shapes, **work.small_shapes}
        small = design.remap(cascade, "u280", shapes=shapes, fmt=FIXED)
        _generate(small, "hls", root / f"{work.cascade}_hls", quiet=quiet)
        check = design.verify(small, "hls")
        _say([check], quiet=quiet)
    command = (
        f"penstock generate {work.cascade} --backend hls --format '{FIXED}' "
        f"{_shape_options(shapes)} -o hls"
    )
    return design.page(made, checks=(check,), commands=(command,))


def _simulated(work: Workload, *, quiet: bool) -> tuple[tuple[design.Design, Simulation], Check]:
    cascade = zoo.load(work.cascade)
    shapes = {**work.shapes, **work.tiny_shapes}
    with _step(f"simulate a small instance on a 4x4 array in {FIXED}", quiet=quiet):
        made, _ = design.explore(cascade, "mesh4x4", shapes=shapes, fmt=FIXED)
        inputs = design.sample(made)
        result = design.simulate(made, inputs)
        check = design.verify_simulation(made, result, inputs)
        if not quiet:
            output.print_metrics((*result.metrics(), *made.evaluate().metrics()[:1]))
        _say([check], quiet=quiet)
    return (made, result), check


def _generate(made: design.Design, backend: str, folder: Path, *, quiet: bool) -> Artifact:
    artifact = design.generate(made, backend, "penstock demo")
    artifact.save(folder)
    if not quiet:
        print(f"{BACKENDS.get(backend).title}: {len(artifact.files)} files in {folder}")
    return artifact


def _say(checks: list[Check], *, quiet: bool) -> None:
    if not quiet:
        output.print_checks(checks)


def _shape_options(shapes: dict[str, int]) -> str:
    return "--shape " + " ".join(f"{name}={extent}" for name, extent in shapes.items())

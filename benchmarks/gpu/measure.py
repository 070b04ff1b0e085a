"""Measure generated kernels beside PyTorch's and Triton's on the GPU of this machine.

    python measure.py FOLDER [--json FILE] [--seconds 420] [--cases dense,causal] [--dry-run]

FOLDER is what `python benchmarks/gpu/bundle.py FOLDER` wrote: sources and launch data, and a copy
of this file. Needs torch, triton, nvcc and a GPU, neither TVM nor penstock. Each kernel is
compiled, checked against float64 on rows drawn at random (outputs poisoned first), and only then
timed; a competitor that fails is reported and left out. Times are medians of CUDA events. It
stops starting new rows when the time is up, and says what it left out.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LIMIT = {"bf16": 1.5e-2, "fp16": 4e-3}  # ||out - exact|| / ||exact||; bf16 has 2^-8, P is rounded


def said(*words: object) -> None:
    print(*words, flush=True)


def main() -> None:
    """Run, print a row for each case, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=420.0)
    parser.add_argument("--cases", default="")
    parser.add_argument("--ours", action="store_true", help="no competitors")
    parser.add_argument("--dry-run", action="store_true", help="compile, do not measure")
    given = parser.parse_args()
    began = time.monotonic()
    cases = json.loads((given.folder / "cases.json").read_text())
    wanted = [each for each in given.cases.split(",") if each]
    cases = [each for each in cases if not wanted or each["case"] in wanted]
    compiled = compile_all(given.folder, cases)
    if given.dry_run or not has_gpu():
        said("not measured:", "--dry-run" if given.dry_run else "there is no GPU here")
        raise SystemExit(0 if all(compiled.values()) else 1)
    import torch

    name = torch.cuda.get_device_name()
    peak = matmul_peak(torch)
    said(f"{name}, torch {torch.__version__}; 8192^3 bf16 matmul {peak:.0f} TFLOP/s")
    report: dict[str, Any] = {"device": name, "torch": torch.__version__, "matmul_tflops": peak}
    report["rows"], report["left_out"] = [], []
    sys.path.insert(0, str(given.folder))
    for case in cases:
        if time.monotonic() - began > given.seconds:
            report["left_out"].append(case["label"])
            continue
        row = measured(torch, given.folder, case, compiled, peak, given.ours)
        report["rows"].append(row)
        said(shown(row))
        if given.json:
            given.json.write_text(json.dumps(report, indent=1) + "\n")
    if report["left_out"]:
        said("not measured, time is up:", ", ".join(report["left_out"]))


def has_gpu() -> bool:
    """Whether torch is here and sees a GPU."""
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


def compile_all(folder: Path, cases: list[dict[str, Any]]) -> dict[str, bool]:
    """Compile every variant with nvcc, several at a time; say registers (at entry) and spills."""
    names = list(dict.fromkeys(each["folder"] for case in cases for each in case["variants"]))

    def one(name: str) -> bool:
        place = folder / name
        if (place / "kernels.cubin").exists():
            return True
        command = json.loads((place / "launch.json").read_text())["compile"]
        done = subprocess.run(
            [*command, "-Xptxas", "-v"], cwd=place, capture_output=True, text=True, check=False
        )
        used = [int(each) for each in re.findall(r"Used (\d+) registers", done.stderr)]
        spilt = [int(each) for each in re.findall(r"(\d+) bytes spill stores", done.stderr)]
        if done.returncode:
            said(name, "FAILED", *done.stderr.splitlines()[:5])
        else:
            said(f"{name:40}{max(used):4} registers {max(spilt):5} bytes spilt")
        return not done.returncode

    with concurrent.futures.ThreadPoolExecutor() as pool:
        found = dict(zip(names, pool.map(one, names), strict=True))
    said(f"{sum(found.values())} of {len(found)} variants compiled")
    return found


def median_ms(torch: Any, run: Any, budget_ms: float = 120.0) -> float:
    """Return the median time of a call, by events, after a warm-up."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    once = max((time.perf_counter() - start) * 1e3, 0.02)
    count = int(min(max(budget_ms / once, 7), 200))
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
    for first, last in pairs:
        first.record()
        run()
        last.record()
    torch.cuda.synchronize()
    return statistics.median(first.elapsed_time(last) for first, last in pairs)


def matmul_peak(torch: Any) -> float:
    """Return TFLOP/s of an 8192^3 bf16 product of random numbers."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / median_ms(torch, lambda: a @ b, 300) / 1e9


def measured(
    torch: Any,
    folder: Path,
    case: dict[str, Any],
    compiled: dict[str, bool],
    peak: float,
    ours: bool,
) -> dict[str, Any]:
    """Return one row: times, errors and ratios."""
    import rivals

    inputs = rivals.inputs(torch, case)
    exact, rows = rivals.exact_rows(torch, case, inputs)
    row: dict[str, Any] = {
        "case": case["label"],
        "shape": case["shape"],
        "times_ms": {},
        "errors": {},
    }
    row["refused"] = {}
    runs: dict[str, Any] = {}
    for variant in case["variants"]:
        if compiled[variant["folder"]]:
            runs[f"penstock {variant['name']}"] = rivals.ours(
                torch, folder / variant["folder"], inputs
            )
    if not ours:
        runs |= rivals.rivals(torch, case, inputs)
    for name, make in runs.items():
        try:
            run = make()
            out = run()
            torch.cuda.synchronize()
            found = rivals.rows_of(out, rows).double()
            error = float((found - exact).norm() / exact.norm())
            row["errors"][name] = error
            if not error <= LIMIT[case["format"]]:
                row["refused"][name] = f"wrong: error {error:.1e}"
                continue
            row["times_ms"][name] = median_ms(torch, run)
        except Exception as failed:  # noqa: BLE001 - a rival that fails is a line of the result
            row["refused"][name] = f"{type(failed).__name__}: {str(failed)[:160]}"
    mine = {k: v for k, v in row["times_ms"].items() if k.startswith("penstock")}
    other = {k: v for k, v in row["times_ms"].items() if not k.startswith("penstock")}
    if mine:
        best = min(mine, key=mine.__getitem__)
        row["best"] = best
        row["tflops"] = case["flops"] / mine[best] / 1e9
        row["of_peak"] = row["tflops"] / peak
        row["ratios"] = {name: value / mine[best] for name, value in other.items()}
    return row


def shown(row: dict[str, Any]) -> str:
    """Return the lines of a row."""
    head = f"{row['case']:34}"
    if "best" in row:
        head += f"{row['best']:28}{row['tflops']:7.0f} TFLOP/s {row['of_peak']:5.0%} of matmul"
    times = "  ".join(f"{name} {ms:.3f}" for name, ms in row["times_ms"].items())
    ratios = "  ".join(f"{name} {value:.2f}x" for name, value in row.get("ratios", {}).items())
    lines = [head, f"    ms: {times}"]
    lines += [f"    rival / penstock: {ratios}"] if ratios else []
    lines += [f"    {name}: {why}" for name, why in row["refused"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

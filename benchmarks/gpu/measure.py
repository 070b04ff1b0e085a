"""Measure generated kernels beside PyTorch's and Triton's on the GPU of this machine.

    python measure.py FOLDER [--json FILE] [--seconds 420] [--cases dense,causal] [--dry-run]

FOLDER is what `python benchmarks/gpu/bundle.py FOLDER` wrote: sources and launch data, and a copy
of this file. Needs torch, triton, nvcc and a GPU, neither TVM nor penstock. Sources are compiled
unless ``--dry-run`` on another machine has left their cubins in FOLDER.

Every kernel is checked against float64 on rows drawn at random (outputs poisoned first), and only
then timed. That happens in a worker process: one that crashes, hangs for longer than ``--patience``
seconds, or leaves the GPU in an error is replaced, and its kernel is reported and left out. Times
are medians of replayed CUDA graphs, or, where a kernel cannot be captured, of single calls. It
stops starting new ones when the time is up, and says what it left out. ``--cpu`` tries all but
kernels out on a machine without a GPU.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import json
import os
import queue
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIMIT = {"bf16": 1.5e-2, "fp16": 4e-3}  # ||out - exact|| / ||exact||; bf16 has 2^-8, P is rounded
OURS = "penstock "


def said(*words: object) -> None:
    print(*words, flush=True)


def main() -> None:
    """Run, print a row for each case, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=420.0)
    parser.add_argument("--patience", type=float, default=60.0, help="seconds for one kernel")
    parser.add_argument("--cases", default="")
    parser.add_argument("--ours", action="store_true", help="no competitors")
    parser.add_argument("--cpu", action="store_true", help="try it out on the CPU")
    parser.add_argument("--dry-run", action="store_true", help="compile, do not measure")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    cases = json.loads((given.folder / "cases.json").read_text())
    if given.worker:
        work(given.folder, cases, "cpu" if given.cpu else "cuda")
        return
    end = time.monotonic() + given.seconds
    wanted = [each for each in given.cases.split(",") if each]
    cases = [each for each in cases if not wanted or each["case"] in wanted]
    compiled = {} if given.cpu else compile_all(given.folder, cases)
    if given.dry_run:
        said("not measured: --dry-run")
        raise SystemExit(0 if all(compiled.values()) else 1)
    command = [sys.executable, "-u", __file__, str(given.folder), "--worker"]
    boss = Boss([*command, "--cpu"] if given.cpu else command, given.patience)
    report: dict[str, Any] = {"rows": [], "left_out": []}
    report |= boss.do({"do": "device"})
    if "refused" in report:
        raise SystemExit(f"not measured: {report['refused']}")
    said(f"{report['device']}, torch {report['torch']}; 8192^3 bf16 {report['matmul_tflops']:.0f}")
    for case in cases:
        if time.monotonic() > end:
            report["left_out"].append(case["label"])
            continue
        row = measured(boss, case, compiled, report["matmul_tflops"], given.ours, end)
        report["rows"].append(row)
        said(shown(row))
        if given.json:
            given.json.write_text(json.dumps(report, indent=1) + "\n")
    boss.stop()
    if report["left_out"]:
        said("not measured, time is up:", ", ".join(report["left_out"]))


# -- compiling -------------------------------------------------------------------------------------


def compile_all(folder: Path, cases: list[dict[str, Any]]) -> dict[str, bool]:
    """Compile every variant with nvcc, several at a time; say registers (at entry) and spills."""
    names = list(dict.fromkeys(each["folder"] for case in cases for each in case["variants"]))

    def one(name: str) -> bool:
        place = folder / name
        if (place / "kernels.cubin").exists():
            return True
        command = json.loads((place / "launch.json").read_text())["compile"]
        try:
            done = subprocess.run(
                [*command, "-Xptxas", "-v"],
                cwd=place, capture_output=True, text=True, check=False, timeout=120,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as failed:
            said(name, "FAILED", failed)
            return False
        used = [int(each) for each in re.findall(r"Used (\d+) registers", done.stderr)]
        spilt = [int(each) for each in re.findall(r"(\d+) bytes spill stores", done.stderr)]
        if done.returncode:
            said(name, "FAILED", *done.stderr.splitlines()[:5])
        else:
            said(f"{name:40}{max(used):4} registers {max(spilt):5} bytes spilt")
        return not done.returncode

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = dict(zip(names, pool.map(one, names), strict=True))
    said(f"{sum(found.values())} of {len(found)} variants are compiled")
    return found


# -- the process that measures, and the one that watches it ----------------------------------------


class Boss:
    """Gives jobs to a worker process, and takes a new one when it dies or does not answer."""

    def __init__(self, command: list[str], patience: float) -> None:
        self.command, self.patience = command, patience
        self.worker: subprocess.Popen[str] | None = None
        self.answers: queue.Queue[str] = queue.Queue()

    def do(self, job: dict[str, Any], most: float = 1e9) -> dict[str, Any]:
        """Return the answer to a job, or why there is none."""
        if self.worker is None:
            pipe = subprocess.PIPE
            self.worker = subprocess.Popen(self.command, stdin=pipe, stdout=pipe, text=True)
            self.answers = queue.Queue()
            threading.Thread(target=self._read, args=(self.worker, self.answers)).start()
        assert self.worker.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.worker.stdin.write(json.dumps(job) + "\n")
            self.worker.stdin.flush()
        try:
            line = self.answers.get(timeout=min(self.patience, max(most, 5.0)))
        except queue.Empty:
            self.stop()
            return {"refused": "no answer in time"}
        if not line:
            code = self.worker.wait()
            self.worker = None
            return {"refused": f"the process ended with {code}"}
        answer: dict[str, Any] = json.loads(line)
        if answer.get("broken"):
            self.stop()
        return answer

    @staticmethod
    def _read(worker: subprocess.Popen[str], answers: queue.Queue[str]) -> None:
        assert worker.stdout is not None
        for line in worker.stdout:
            answers.put(line)
        answers.put("")

    def stop(self) -> None:
        """End the worker."""
        if self.worker is not None:
            self.worker.kill()
            self.worker.wait()
            self.worker = None


def work(folder: Path, cases: list[dict[str, Any]], device: str) -> None:
    """Answer jobs, one JSON line for each; whatever libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.path.insert(0, str(folder))
    bench: Bench | None = None
    for line in sys.stdin:
        job = json.loads(line)
        try:
            bench = bench or Bench(folder, device)
            case = next((each for each in cases if each["label"] == job.get("case")), None)
            answer = bench.device() if case is None else bench.run(case, job["name"])
        except Exception as failed:  # noqa: BLE001 - a kernel that fails is a line of the result
            text = f"{type(failed).__name__}: {' '.join(str(failed).split())[:160]}"
            answer = {"refused": text, "broken": bench is None or bench.broken()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class Bench:
    """What a worker has: torch, and inputs and exact results of the case at hand."""

    def __init__(self, folder: Path, device: str) -> None:
        import rivals
        import torch

        self.torch: Any = torch
        self.rivals, self.folder, self.on = rivals, folder, device
        rivals.DEVICE = device
        if device == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("there is no GPU here")
        self.label, self.given, self.exact, self.rows = "", {}, None, None

    def device(self) -> dict[str, Any]:
        """Return what is measured on, and its peak."""
        torch, size = self.torch, 8192 if self.on == "cuda" else 256
        a, b = (torch.randn(size, size, device=self.on, dtype=torch.bfloat16) for _ in range(2))
        peak = 2 * size**3 / self.median_ms(lambda: a @ b, 300) / 1e9
        name = torch.cuda.get_device_name() if self.on == "cuda" else "CPU"
        return {"device": name, "torch": torch.__version__, "matmul_tflops": peak}

    def broken(self) -> bool:
        """Whether the GPU answers no more in this process."""
        if self.on != "cuda":
            return False
        try:
            self.torch.cuda.synchronize()
        except Exception:  # noqa: BLE001 - whatever it is, the context is lost
            return True
        return False

    def run(self, case: dict[str, Any], name: str) -> dict[str, Any]:
        """Return the error and the time of one kernel."""
        rivals = self.rivals
        if self.label != case["label"]:
            self.given = rivals.inputs(self.torch, case)
            self.exact, self.rows = rivals.exact_rows(self.torch, case, self.given)
            self.label = case["label"]
        if name.startswith(OURS):
            folders = {OURS + each["name"]: each["folder"] for each in case["variants"]}
            call = rivals.ours(self.torch, self.folder / folders[name], self.given)
        else:
            call = rivals.rivals(self.torch, case, self.given)[name]()
        out = call()
        self._wait()
        found = rivals.rows_of(out, self.rows).double()
        error = float((found - self.exact).norm() / self.exact.norm())
        limit = LIMIT[case["format"]] * (1 if name.startswith(OURS) else 2)  # rounded scores
        if not error <= limit:
            return {"refused": f"wrong: error {error:.1e}", "error": str(error)}
        return {"error": error, "ms": self.median_ms(call)}

    def _wait(self) -> None:
        if self.on == "cuda":
            self.torch.cuda.synchronize()

    def median_ms(self, run: Callable[[], Any], budget_ms: float = 120.0) -> float:
        """Return the median time of a call: of graphs of several, after a warm-up."""
        for _ in range(2):
            run()
        self._wait()
        start = time.perf_counter()
        run()
        self._wait()
        once = max((time.perf_counter() - start) * 1e3, 0.02)
        if self.on != "cuda":
            return once
        count = int(min(max(budget_ms / once, 10), 200))
        try:
            graph = self.torch.cuda.CUDAGraph()
            with self.torch.cuda.graph(graph):
                for _ in range(count // 5):
                    run()
            return self._timed(graph.replay, 7) / (count // 5)
        except Exception:
            if self.broken():
                raise
            return self._timed(run, count)

    def _timed(self, run: Callable[[], Any], count: int) -> float:
        event = self.torch.cuda.Event
        pairs = [[event(enable_timing=True) for _ in range(2)] for _ in range(count)]
        run()
        for first, last in pairs:
            first.record()
            run()
            last.record()
        self.torch.cuda.synchronize()
        return statistics.median(first.elapsed_time(last) for first, last in pairs)


# -- rows ------------------------------------------------------------------------------------------


def measured(
    boss: Boss,
    case: dict[str, Any],
    compiled: dict[str, bool],
    peak: float,
    ours: bool,
    end: float,
) -> dict[str, Any]:
    """Return one row: times, errors and ratios."""
    row: dict[str, Any] = {"case": case["label"], "shape": case["shape"]}
    row |= {"times_ms": {}, "errors": {}, "refused": {}}
    names = [OURS + v["name"] for v in case["variants"] if compiled.get(v["folder"], True)]
    for name in [*([] if ours else case["rivals"]), *names]:
        answer = boss.do({"case": case["label"], "name": name}, end + 60 - time.monotonic())
        if "error" in answer:
            row["errors"][name] = answer["error"]
        if "refused" in answer:
            row["refused"][name] = answer["refused"]
        else:
            row["times_ms"][name] = answer["ms"]
    mine = {k: v for k, v in row["times_ms"].items() if k.startswith(OURS)}
    other = {k: v for k, v in row["times_ms"].items() if not k.startswith(OURS)}
    if mine:
        best = min(mine, key=mine.__getitem__)
        row["best"] = best
        row["tflops"] = case["flops"] / mine[best] / 1e9
        row["of_peak"] = row["tflops"] / peak
        row["tbytes_per_s"] = case["bytes"] / mine[best] / 1e9
        row["ratios"] = {name: value / mine[best] for name, value in other.items()}
    return row


def shown(row: dict[str, Any]) -> str:
    """Return the lines of a row."""
    head = f"{row['case']:34}"
    if "best" in row:
        head += f"{row['best']:28}{row['tflops']:7.0f} TFLOP/s {row['of_peak']:5.0%} of matmul"
        head += f" {row['tbytes_per_s']:6.2f} TB/s"
    times = "  ".join(f"{name} {ms:.4f}" for name, ms in row["times_ms"].items())
    ratios = "  ".join(f"{name} {value:.2f}x" for name, value in row.get("ratios", {}).items())
    lines = [head, f"    ms: {times}"]
    lines += [f"    rival / penstock: {ratios}"] if ratios else []
    lines += [f"    {name}: {why}" for name, why in row["refused"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""How long a sweep of 10,000 points takes, and that its file is the same however it is run.

Run ``python benchmarks/sweep.py [POINTS] [WORKERS]``. Serially, on local processes of which one
is killed half-way, and on a local Dask cluster of which one worker is killed half-way. Each line
gives seconds and points a second; it stops with an error if the three results differ in one byte.
Needs ``penstock[cluster]``.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable

from penstock import zoo
from penstock.sweep import Sweep, axis, on_cluster, on_processes, plan, serially, shape_axis, sweep
from penstock.sweep.points import Plan
from penstock.sweep.runners import Runner
from penstock.targets import TARGETS


def points(count: int) -> Plan:
    """Return a plan of a matrix product on a small array; `count` in steps of 100."""
    mesh = TARGETS.get("mesh4x4")
    axes = (
        axis("array", "2..16 step 2,32,64", mesh),  # 10
        axis("gb", "512B..8KB", mesh),  # 5
        axis("bandwidth", f"10MB/s..{count // 100 * 10}MB/s step 10MB/s", mesh),
        shape_axis("k", "8,16"),  # 2
    )
    return plan(zoo.load("matmul"), {mesh.name: mesh}, axes, shapes={"m": 8, "n": 8})


def timed(made: Plan, runner: Runner, victim: Callable[[], int] | None) -> tuple[Sweep, float]:
    """Run a sweep; half-way, kill the process that `victim` names."""
    killed: list[int] = []

    def progress(done: int, total: int, best: float) -> None:
        if victim and done >= total // 2 and not killed:
            killed.append(victim())
            os.kill(killed[0], signal.SIGKILL)

    started = time.perf_counter()
    result = sweep(made, runner, progress=progress)
    seconds = time.perf_counter() - started
    assert bool(killed) == bool(victim), "nobody was killed"
    return result, seconds


def main() -> None:
    from dask.distributed import Client, LocalCluster

    count, workers = (int(each) for each in [*sys.argv[1:], "10000", "2"][:2])
    started = time.perf_counter()
    made = points(count)
    print(f"{len(made.points):,} points laid out in {time.perf_counter() - started:.1f} s")
    files = {}

    def show(name: str, result: Sweep, seconds: float) -> None:
        files[name] = json.dumps(result.to_json()).encode()
        rate = len(made.points) / seconds
        print(f"{name:40} {seconds:8.1f} s {rate:8.0f} points/s {len(files[name]):12,} bytes")

    show("serial", *timed(made, serially, None))

    def child() -> int:
        return multiprocessing.active_children()[0].pid or 0

    show(f"{workers} processes, one killed", *timed(made, on_processes(workers), child))
    with LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as cluster:
        with Client(cluster, set_as_default=False) as client:
            pid = next(iter(client.run(os.getpid).values()))
        runner = on_cluster(cluster.scheduler_address)
        show(f"Dask, {workers} workers, one killed", *timed(made, runner, lambda: pid))
    assert len(set(files.values())) == 1, "the results differ"
    print("the three results are the same, byte for byte")


if __name__ == "__main__":
    main()

"""AccelForge's part of `peers.py`: map a spec (YAML on stdin), print what came out as JSON.

Runs under a Python >= 3.12 that has ``pip install accelforge`` and Graphviz's ``dot``; knows
nothing of penstock. AccelForge's defaults are left as they are, but that it works in one process,
as penstock does.
"""

import json
import os
import resource
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path


def main() -> None:
    text, out = sys.stdin.read(), sys.stdout
    sys.stdout = sys.stderr  # the mapper prints its progress
    import accelforge  # after the line above: it prints when it is loaded

    accelforge.set_n_parallel_jobs(1)  # one process: its time and memory are all there is
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # it writes pictures where it runs
        Path("spec.yaml").write_text(text, encoding="utf-8")
        started = time.perf_counter()
        spec = accelforge.Spec.from_yaml("spec.yaml")
        spec.mapper.metrics = accelforge.Metrics.LATENCY
        found = spec.map_workload_to_arch()
        seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_SELF)
    moved = found.actions(per_component=True, per_einsum=True)
    said = {
        "latency_s": float(found.latency()),
        "per_einsum_s": {
            name: float(each) for name, each in found.latency(per_einsum=True).items()
        },
        "dram_bytes": sum(float(n) for key, n in moved.items() if "dram" in key) / 8,
        "seconds": seconds,
        "cpu_s": used.ru_utime + used.ru_stime,
        "memory_mb": used.ru_maxrss / 1024,
        "version": metadata.version("accelforge"),
    }
    print(json.dumps(said), file=out)


main()

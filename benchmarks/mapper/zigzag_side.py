"""ZigZag's part of `peers.py`: map products of matrices, layer by layer (JSON on stdin).

Runs under a Python with ``pip install zigzag-dse six``, in an environment of its own; knows nothing
of penstock. Prints as JSON what came out. ZigZag's defaults are left as they are.
"""

import json
import logging
import os
import resource
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path


def main() -> None:
    given, out = json.loads(sys.stdin.read()), sys.stdout
    sys.stdout = sys.stderr
    import yaml
    from zigzag import api

    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name, content in given.items():
            Path(f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        started = time.perf_counter()
        _, cycles, details = api.get_hardware_performance_zigzag(
            "workload.yaml", "hardware.yaml", "mapping.yaml", opt="latency", dump_folder=folder
        )
        seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_SELF)
    layers = [cme for cme, _ in details[0][1]]
    said = {
        "cycles": float(cycles),
        "computing_cycles": sum(float(each.latency_total0) for each in layers),
        "temporal": [str(each.temporal_mapping) for each in layers],
        "seconds": seconds,
        "cpu_s": used.ru_utime + used.ru_stime,
        "memory_mb": used.ru_maxrss / 1024,
        "version": metadata.version("zigzag-dse"),
    }
    print(json.dumps(said), file=out)


main()

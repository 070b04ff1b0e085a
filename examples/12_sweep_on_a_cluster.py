"""An architecture sweep on a Dask cluster of this machine: arrays and buffers, and what is best."""

from dask.distributed import LocalCluster

import penstock
from penstock.sweep import axis, on_cluster, plan, sweep
from penstock.targets import TARGETS


def main() -> None:
    cascade = penstock.zoo.load("attention_1pass")
    machine = TARGETS.get("fusemax")
    axes = (axis("array", "64..256", machine), axis("buffer", "2MB,8MB", machine))
    shapes = {"b": 8, "h": 12, "p": 1024, "m": 1024, "e": 64, "f": 64, "m0": 64}
    planned = plan(cascade, {"fusemax": machine}, axes, shapes=shapes)
    # Two workers here; with --cluster tcp://... or this address, as many as there are.
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        found = sweep(planned, on_cluster(cluster.scheduler_address))
    print(f"{found.finished} of {len(planned.points)} machines, each with its best mapping (model)")
    (problem,) = found.problems
    print(
        " ".join(f"{name:>9}" for name in ("array", "buffer", "ms", "mJ", "mm2")), " Pareto front"
    )
    for place in problem.front:
        cost = found.costs(place)
        numbers = (cost["latency_s"], cost["energy_pj"], cost["area_um2"])
        scaled = [n * scale for n, scale in zip(numbers, (1e3, 1e-9, 1e-6), strict=True) if n]
        shown = [*planned.shown(planned.points[place]), *(f"{each:.2f}" for each in scaled)]
        print(" ".join(f"{each:>9}" for each in shown))


if __name__ == "__main__":  # the workers import this file
    main()
#: 6 of 6 machines, each with its best mapping (model)
#:     array    buffer        ms        mJ       mm2  Pareto front
#:        64      2 MB      3.71    278.76     88.72
#:       128      2 MB      1.86    273.84    317.91
#:       256      2 MB      0.93    271.38   1229.28

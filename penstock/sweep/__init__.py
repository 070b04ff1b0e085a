"""Many machines and shapes, the best mapping for each: what to sweep, how to run it, the front.

`grid` reads ranges, `machines` changes a machine, `points` is one evaluation, `runners` are the
processes and the cluster that do them, `journal` keeps what is finished, `result` is the table and
its Pareto front. Excluded: the search of one mapping (`mapper.search`); printing (`cli`).
"""

from __future__ import annotations

from penstock.sweep.grid import Axis, axis, shape_axis, target_axis
from penstock.sweep.journal import Journal
from penstock.sweep.machines import area_um2, resized
from penstock.sweep.points import Options, Plan, Point, plan
from penstock.sweep.result import Sweep, sweep
from penstock.sweep.runners import on_cluster, on_processes, serially

__all__ = [
    "Axis",
    "Journal",
    "Options",
    "Plan",
    "Point",
    "Sweep",
    "area_um2",
    "axis",
    "on_cluster",
    "on_processes",
    "plan",
    "resized",
    "serially",
    "shape_axis",
    "sweep",
    "target_axis",
]

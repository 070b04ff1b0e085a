"""The task-pipeline model against RTL co-simulations of Vitis HLS 2023.2, as a Markdown table.

    python benchmarks/hls/cosim.py [FOLDER]

FOLDER holds the schedules and cycle counts of 49 designs of the public artifact of Stream-HLS
(FPGA 2025), one .npz each; it is no part of this project. ``--write`` puts the table into
docs/hls_timing.md.
"""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from penstock.sim.pipeline import Network, Process, run_pipeline

HERE = Path(__file__).resolve()
PAGE = HERE.parents[2] / "docs" / "hls_timing.md"
BEGIN, END = "<!-- cosim: begin -->", "<!-- cosim: end -->"


class Row(NamedTuple):
    design: str
    rtl: int
    model: int
    csynth: int

    @property
    def error(self) -> float:
        """In percent."""
        return 100 * (self.model - self.rtl) / self.rtl

    @property
    def csynth_error(self) -> float:
        return 100 * (self.csynth - self.rtl) / self.rtl


def reference() -> Path | None:
    """Return the folder beside this checkout or one of its parents, if there is one."""
    places = (each / "shared" / "reference" / "vitis_cosim" for each in HERE.parents)
    return next((each for each in places if each.is_dir()), None)


def load(path: Path) -> tuple[dict, Network]:
    with np.load(path) as data:
        meta = json.loads(str(data["meta"]))

        def steps(name: str, kind: str, streams: list[int]) -> dict[str, np.ndarray]:
            arrays = {str(n): data[f"{name}_{kind}_{n}"] for n in streams}
            return {n: np.cumsum(each, dtype=np.int64) for n, each in arrays.items()}

        processes = tuple(
            Process(
                each["name"],
                each["steps"],
                steps(each["name"], "reads", each["reads"]),
                steps(each["name"], "writes", each["writes"]),
                tuple(each["starts_after"]),
            )
            for each in meta["processes"]
        )
    return meta, Network(processes)


def rows(folder: Path) -> Iterator[Row]:
    for path in sorted(folder.glob("*.npz")):
        meta, network = load(path)
        cycles = run_pipeline(network, meta["fifo_depth"]).cycles
        yield Row(meta["design"], meta["rtl_cycles"], cycles, int(meta["csynth_cycles"]))


def page(found: list[Row]) -> str:
    errors = [abs(row.error) for row in found]
    missed = sum(abs(row.csynth_error) > 1 for row in found)
    summary = (
        f"{len(found)} designs: the model is off by {median(errors):.3f} % in the median and "
        f"{max(errors):.2f} % at worst; csynth's estimate by more than 1 % in {missed}."
    )
    lines = [
        summary,
        "",
        "| design | RTL co-simulation | model | off | csynth | off |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row.design} | {row.rtl:,} | {row.model:,} | {row.error:+.3f} % "
        f"| {row.csynth:,} | {row.csynth_error:+.2f} % |"
        for row in found
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=reference())
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.name}")
    options = parser.parse_args()
    if options.folder is None:
        parser.error("give the folder with the .npz files: none lies beside this checkout")
    table = page(list(rows(options.folder)))
    if options.write:
        text = PAGE.read_text()
        between = re.compile(f"(?<={BEGIN}\n).*(?=\n{END})", re.DOTALL)
        PAGE.write_text(between.sub(lambda _: table, text))
    else:
        print(table)


if __name__ == "__main__":
    main()

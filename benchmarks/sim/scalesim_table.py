"""Run SCALE-Sim v3 on matrix products and write down what it says of each fold.

SCALE-Sim (scalesim on PyPI) wants numpy < 2, so it has an environment of its own:

    python -m venv build/scalesim
    build/scalesim/bin/pip install "numpy<2" "scalesim==3.0.0"
    build/scalesim/bin/python benchmarks/sim/scalesim_table.py tests/sim/scalesim.csv

tests/sim/test_scalesim.py compares the table with penstock's simulator, without SCALE-Sim.
"""

import csv
import itertools
import sys
import tempfile
from pathlib import Path

CONFIG = """[general]
run_name = run
[architecture_presets]
ArrayHeight : {size}
ArrayWidth : {size}
IfmapSramSzkB : 65536
FilterSramSzkB : 65536
OfmapSramSzkB : 65536
IfmapOffset : 0
FilterOffset : 100000000
OfmapOffset : 200000000
Bandwidth : 1000000
Dataflow : {dataflow}
MemoryBanks : 1
ReadRequestBuffer : 1000000
WriteRequestBuffer : 1000000
[layout]
IfmapCustomLayout : False
IfmapSRAMBankBandwidth : 10
IfmapSRAMBankNum : 10
IfmapSRAMBankPort : 2
FilterCustomLayout : False
FilterSRAMBankBandwidth : 10
FilterSRAMBankNum : 10
FilterSRAMBankPort : 2
[sparsity]
SparsitySupport : false
SparseRep : ellpack_block
OptimizedMapping : false
BlockSize : 8
RandomNumberGeneratorSeed : 40
[run_presets]
InterfaceBandwidth : CALC
UseRamulatorTrace : False
"""
SHAPES = {  # M, N, K of the product
    32: ((32, 32, 64), (64, 96, 64), (128, 32, 32), (96, 64, 160), (40, 50, 30)),
    128: ((128, 128, 64), (256, 384, 128), (128, 256, 256), (300, 130, 140)),
}
COLUMNS = ("array", "dataflow", "m", "n", "k", "compute_cycles")


def run(size, dataflow, m, n, k):
    """Return SCALE-Sim's compute report of one product."""
    from scalesim.scale_sim import scalesim

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "c.cfg").write_text(CONFIG.format(size=size, dataflow=dataflow))
        (root / "t.csv").write_text(f"Layer, M, N, K,\nproduct, {m}, {n}, {k},\n")
        (root / "l.csv").write_text(LAYOUT)
        found = scalesim(
            save_disk_space=True,
            verbose=False,
            config=str(root / "c.cfg"),
            topology=str(root / "t.csv"),
            layout=str(root / "l.csv"),
            input_type_gemm=True,
        )
        found.run_scale(top_path=str(root))
        (report,) = root.glob("**/COMPUTE_REPORT.csv")
        with report.open() as rows:
            row = next(csv.DictReader(rows, skipinitialspace=True))
        return {name.strip(): value.strip() for name, value in row.items() if name}


LAYOUT = "Layer name,\n" + "product," + "1," * 20 + "\n"


def main():
    """Write the table."""
    with Path(sys.argv[1]).open("w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(COLUMNS)
        for size, dataflow in itertools.product(SHAPES, ("os", "ws")):
            for shape in SHAPES[size]:
                row = run(size, dataflow, *shape)
                cycles = row["Total Cycles"]  # without the first fill of its buffers
                found = (size, dataflow, *shape, cycles)
                out.writerow(found)


if __name__ == "__main__":
    main()

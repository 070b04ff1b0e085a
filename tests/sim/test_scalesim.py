"""A matrix product on systolic arrays takes the cycles that SCALE-Sim v3 says, fold by fold.

The table was recorded by benchmarks/sim/scalesim_table.py (its docstring has the commands). Three
differences, all exact: SCALE-Sim numbers cycles from 0 and gives the number of the last one; it
passes the places of a fold that have no work, which we leave out; and its total is without the
first fill of the weights' buffer, which ours has, through the port that feeds the array.
"""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from penstock import zoo
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.shapes import bind
from penstock.mapper.check import check
from penstock.mapper.notation import parse_mapping
from penstock.sim.simulate import simulate
from penstock.targets import TARGETS
from penstock.targets.base import Memory

TABLE = Path(__file__).with_name("scalesim.csv")
FP16 = parse_format("fp16")
BODIES = {
    "os": "for m by {size}\n  for n by {size}\n    Z on pe2d: m@rows, n@cols, k",
    # a row of weights enters the array in each cycle, then all of A streams past
    "ws": "keep B in weights\nfor n by {size}\n  for k by {size}\n    keep B in rf2d\n"
    "    Z on pe2d: m, k@rows, n@cols",
}


def array(size):
    """Return a systolic array with memories that never make it wait but for its weights."""
    target = TARGETS.get("mesh4x4")
    for path in ("pe2d.rows", "pe2d.cols"):
        target = target.override(path, size)
    free = [replace(each, bytes_per_cycle=1e18, capacity_bytes=1e18) for each in target.memories]
    weights = Memory("weights", 1e18, bytes_per_cycle=2 * size)
    rf2d = next(each for each in free if each.name == "rf2d")
    target = replace(target, memories=(free[0], weights, rf2d))
    return target.override("pe2d.depth_cycles", 1)


def folds(extent, size):
    """Return the places that have work, fold by fold."""
    return [min(size, extent - low) for low in range(0, extent, size)]


def idle(dataflow, size, m, n, k):
    """Return the cycles that go with places that have no work."""
    along = folds(m if dataflow == "os" else k, size)
    places = [(rows, cols) for rows in along for cols in folds(n, size)]
    passed = sum(2 * size - rows - cols for rows, cols in places)
    filled = sum(size - rows * cols / size for rows, cols in places)  # with weights
    return passed + (filled if dataflow == "ws" else 0)


with TABLE.open() as _file:
    ROWS = [(row.pop("dataflow"), *map(int, row.values())) for row in csv.DictReader(_file)]


@pytest.mark.parametrize(("dataflow", "size", "m", "n", "k", "cycles"), ROWS)
def test_a_matrix_product_takes_the_cycles_of_scalesim(dataflow, size, m, n, k, cycles):
    product = zoo.load("matmul")
    bound = bind(product, shapes=dict(m=m, n=n, k=k))
    text = f"mapping t for {product.name} on mesh4x4\n{BODIES[dataflow].format(size=size)}"
    mapping, target = parse_mapping(text), array(size)
    check(mapping, bound, target, FP16)
    found = simulate(mapping, bound, target, FP16, None)
    fill = k * n / size if dataflow == "ws" else 0
    want = cycles + 1 - idle(dataflow, size, m, n, k) + fill
    assert found.cycles == pytest.approx(want, abs=1e-6)


def test_the_table_has_both_dataflows_and_full_folds():
    kinds = {(dataflow, size) for dataflow, size, *_ in ROWS}
    assert kinds == {("os", 32), ("os", 128), ("ws", 32), ("ws", 128)}
    assert sum(idle(*row[:-1]) == 0 for row in ROWS) >= 8

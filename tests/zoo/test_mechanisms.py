"""Each mechanism of zoo.json: its text means in penstock what it means point by point."""

from pathlib import Path

import numpy as np
import pytest

from penstock import parse
from penstock.einsum_ir.interpreter.inputs import bind_arrays
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.passes import taxonomy
from tests.zoo.mechanisms import ENTRIES, inputs, notation
from tests.zoo.points import Points

pytestmark = pytest.mark.skipif(not ENTRIES, reason="../shared/reference/zoo.json is not here")


def test_there_are_a_hundred():
    assert len(ENTRIES) == 100


@pytest.mark.parametrize("scale", [1, 300])
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["key"])
def test_means_the_same_point_by_point(entry, scale):
    text = notation(entry)
    cascade = parse(text)
    assert parse(str(cascade)) == cascade
    arrays = inputs(entry, np.random.default_rng(1), scale)
    used = {rank for each in cascade.inputs for rank in each.ranks}
    used |= {name for einsum in cascade.einsums for name in einsum.variables}
    shapes = {name: extent for name, extent in entry["ranks"].items() if name in used}
    bound = bind_arrays(cascade, arrays, shapes=shapes)
    found = interpret(bound, arrays)[entry["output"]]
    points = Points(entry, arrays)
    points.run(entry["cascade"])
    expected = np.zeros(found.shape)
    for key, value in points.scope[entry["output"]].values.items():
        expected[key] = value
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12 * scale)


def test_passes_are_those_of_the_survey_or_explained():
    text = (Path(__file__).parents[2] / "docs" / "zoo.md").read_text()
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in text.splitlines()]
    table = {row[0]: (row[1], row[2], row[3]) for row in rows if len(row) == 4 and row[1].isdigit()}
    found = {}
    for entry in ENTRIES:
        passes = taxonomy(parse(notation(entry))).removesuffix("-pass")
        if passes != str(entry["passes_naive"]):
            found[entry["key"]] = (passes, str(entry["passes_naive"]))
    assert {key: row[:2] for key, row in table.items()} == found
    assert f"agree on {100 - len(table)} of 100" in text
    reasons = {row[2].split(":")[0] for row in table.values()}
    assert reasons == {"self", "chain", "window", "other"}

"""The zoo's mechanisms with a one-pass form are derived, or docs/passes.md says what is missing."""

import re
from pathlib import Path

import pytest
import zoo_derived

PAGE = Path(__file__).parents[2] / "docs" / "passes.md"


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not zoo_derived.LISTED, reason="../shared/reference/zoo.json is not here"),
]


def test_each_is_derived_or_listed_and_computes_the_same():
    left, wrong = {}, []
    for entry in zoo_derived.LISTED:
        cascade = zoo_derived.cascade_of(entry)
        for each in zoo_derived.derived(entry, cascade):
            if each.done:
                wrong += zoo_derived.disagreements(entry, cascade, each.found)
            else:
                passes = f"{each.found.before} -> {each.found.after}"
                left[entry["key"]] = (", ".join(each.ranks), passes)
    assert not wrong
    text = PAGE.read_text()
    rows = re.findall(r"^\| (\w+) \| ([\w, ]+) \| (\d -> \d) \| .{20,} \|$", text, re.MULTILINE)
    assert {key: (rank, passes) for key, rank, passes in rows} == left
    done = len(zoo_derived.LISTED) - len(left)
    assert f"{done} of {len(zoo_derived.LISTED)}" in text

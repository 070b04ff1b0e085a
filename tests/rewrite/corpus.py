"""The corpus: cascades with the passes that are known before and after a rewrite, and inputs.

Every file in `corpus/` is a cascade as an author would write it, with header comments
``# passes: 3 -> 1`` (over ``# rank: m``), ``# refused: reason`` where a reduction must stay where
it is, and ``# domain: X > 0`` for inputs that are no free numbers.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from penstock import count_passes, parse
from penstock.einsum_ir.cascade import Cascade

FOLDER = Path(__file__).parent / "corpus"


@dataclass(frozen=True)
class Case:
    """A cascade of the corpus; ``positive`` and ``negative`` name inputs of one sign."""

    name: str
    cascade: Cascade
    rank: str
    before: int
    after: int
    refused: str
    positive: frozenset[str]
    negative: frozenset[str]


def _header(text: str, key: str) -> str:
    found = re.search(rf"^# {key}: (.*)$", text, re.MULTILINE)
    return found[1] if found else ""


def load(path: Path) -> Case:
    text = path.read_text()
    before, after = _header(text, "passes").split(" -> ")
    signs = re.findall(r"(\w+) ([<>]) 0", _header(text, "domain"))
    return Case(
        path.stem,
        parse(text),
        _header(text, "rank"),
        int(before),
        int(after),
        _header(text, "refused"),
        frozenset(name for name, sign in signs if sign == ">"),
        frozenset(name for name, sign in signs if sign == "<"),
    )


@cache
def cases() -> tuple[Case, ...]:
    return tuple(load(path) for path in sorted(FOLDER.glob("*.einsum")))


def passes(cascade: Cascade, rank: str) -> int:
    """The most passes over a rank of any input."""
    return max(count_passes(cascade, each.tensor, rank) for each in reading(cascade, rank))


def reading(cascade: Cascade, rank: str):
    return [each for each in cascade.inputs if rank in each.ranks]


def inputs(case: Case, rng: np.random.Generator, length: int = 13, kept: int = 3):
    """Arrays of the right domain; `kept` coordinates of each rank but the case's own."""
    arrays = {}
    for each in case.cascade.inputs:
        shape = [length if rank == case.rank else kept for rank in each.ranks]
        values = rng.normal(size=shape)
        if each.tensor in case.positive:
            values = np.abs(values) + 0.05
        if each.tensor in case.negative:
            values = -np.abs(values) - 0.05
        arrays[each.tensor] = values
    return arrays

"""Small arrays, and random designs, FIFOs, stalls and inputs for them."""

import numpy as np

from penstock import zoo
from penstock.design import Design, explore, remap
from penstock.einsum_ir.formats import parse_format
from penstock.studies.cosim import Case, case_of, patterns
from penstock.targets import TARGETS
from penstock.targets.base import Target

ARRAYS = {"2x2": (2, 2, 2), "4x4": (4, 4, 4), "8x4": (8, 4, 4), "16x16": (16, 16, 16)}
CASCADES = (
    *("attention", "attention_1pass", "causal_attention", "causal_attention_1pass"),
    *("attention_2pass", "linear_attention", "sliding_window"),
)
FORMATS = ("fixed<16,6>", "fixed<16,4>", "fixed<16,12>")


def array(name: str) -> Target:
    """Return a small array with as many lanes as its name says."""
    rows, cols, lanes = ARRAYS[name]
    target = TARGETS.get("mesh4x4")
    for path, size in (("pe2d.rows", rows), ("pe2d.cols", cols), ("pe1d.lanes", lanes)):
        target = target.override(path, size)
    return target


def random_design(seed: int, target: Target, largest: int = 24) -> Design:
    """Return a random design on a machine."""
    rng = np.random.default_rng(seed)
    cascade = zoo.load(CASCADES[rng.integers(len(CASCADES))])
    lengths = [1, 2, 3, 5, 7, 8, 13, 16, 21, 24, 37]
    lengths = [each for each in lengths if each <= largest]
    shapes = {}
    for rank in sorted({rank for each in cascade.inputs for rank in each.ranks}):
        small = rank in ("b", "h", "g")
        shapes[rank] = int(rng.integers(1, 3)) if small else int(rng.choice(lengths))
    known = {name for name, _ in cascade.shapes}
    if "m0" in known:
        shapes["m0"] = int(rng.choice([1, 3, 4, 8]))
    fmt = parse_format(FORMATS[rng.integers(len(FORMATS))])
    if rng.random() < 0.3:
        return explore(cascade, target, shapes=shapes, fmt=fmt)[0]
    return remap(cascade, target, shapes=shapes, fmt=fmt)


def random_case(seed: int, target: Target, largest: int = 24) -> Case:
    """Return a random design with random FIFOs, stalls and inputs."""
    rng = np.random.default_rng(seed + 10_000)
    offers, takes = patterns(seed)
    made = random_design(seed, target, largest)
    return case_of(
        made,
        seed=seed,
        fifo_in=int(rng.integers(1, 9)),
        fifo_out=int(rng.integers(1, 9)),
        offers=offers,
        takes=takes,
    )

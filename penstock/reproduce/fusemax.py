"""FuseMax (MICRO 2024) and its baselines: five designs, four models, six lengths.

Which mapping runs which case, and where the published count went wrong, is data here; the
sources are the paper and its public artifact (``A/`` = its ``workspace/``). `rows` counts them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import fmean
from typing import Any

from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.shapes import bind
from penstock.mapper.check import check
from penstock.mapper.mappings import load_mapping
from penstock.mapper.model.accounts import Drain, Wrap
from penstock.mapper.model.evaluate import evaluate
from penstock.reproduce import load_cascade
from penstock.reproduce.study import Case, Configuration, Counted, Model, Slip, count, problems
from penstock.targets import TARGETS
from penstock.targets.base import Target

__all__ = [
    "ARRAYS",
    "CONFIGURATIONS",
    "LENGTHS",
    "MODELS",
    "PAPER",
    "Correction",
    "Row",
    "Size",
    "averages",
    "corrections",
    "rows",
    "sizes",
]

BATCH = 64
LENGTHS = {"1K": 2**10, "4K": 2**12, "16K": 2**14, "64K": 2**16, "256K": 2**18, "1M": 2**20}


def _model(name: str, heads: int, head: int, embedding: int, hidden: int) -> Model:
    return Model(
        name, {"h": heads, "e": head, "f": head, "d": embedding, "n": embedding, "s": hidden}
    )


MODELS = (  # A/outputs/pregenerated/results/flat_validation.csv
    _model("BERT", 12, 64, 768, 3072),
    _model("TrXL", 16, 64, 1024, 4096),
    _model("T5", 8, 64, 512, 2048),
    _model("XLM", 16, 128, 2048, 8192),
)
FIXED = {"b": BATCH, "m0": 256}

# The paper's abstract and section VI, and what the artifact's numbers average to.
PAPER = {
    "attention speed-up over FLAT": 6.72,
    "attention energy of FLAT": 0.787,
    "end-to-end speed-up over FLAT": 5.30,
    "end-to-end energy of FLAT": 0.833,
}

SHORT = tuple(LENGTHS.values())[:4]

# -- where the published count differs -----------------------------------------------------

ONE_PLACE = Slip(
    "register files of one place",
    "a count for one place is charged once for each array (A/src/accel/cascade.py:120-187); right: "
    "every place reads its operands and writes its results",
    one_place=True,
)
UNCOUNTED = Slip(
    "first values and copies out",
    "what the statistics begin with, and reading the buffer when a tile leaves it, cost nothing; "
    "right: both are accesses",
    no_initial=True,
    no_copies_out=True,
    drains=(),
)
DRAINED = Slip(
    "drained statistics",
    "SLNV is added up over m1, which its problem file leaves out (problems/slnv.yaml), and LM not "
    "read where it is drained to; right: each is an operand of the 1D array once",
    drains=(Drain("LM", "none"), Drain("SLD", "each"), Drain("SLNV", "again", "m1")),
)
DRAINED_FREE = Slip(
    "drained statistics",
    "SLNV is added up over m1, which its problem file leaves out; writing it into the 1D register "
    "files is free; right: it is written there once",
    drains=(Drain("SLNV", "again", "m1", charged=False),),
)
FREE_SUBTRACTION = Slip(
    "exp with its subtraction in one cycle",
    "SN takes 1 cycle (A/src/accel/stable_softmax.py:36,125), but SLN on the same machine 2 "
    "(flat_pe_proposal.py:17); right: 2 for both",
    cycles=(("pe1d", "-", 0.0),),
)
FREE_EXP = Slip(
    "exp without energy",
    "the table has no 'exponential' (flat_pe_proposal.py:14,17; cascade.py:73); right: 94.6 pJ",
    energy_pj=(("pe1d", "exp", 0.0),),
)


READ_ONCE = Slip(
    "scores read once",
    "SLN takes the scores that LM has just read, 256 for each lane, from a register file of 16 "
    "words; right: it reads them from the buffer",
    taking=(("SLN", "BQK"),),
)


def _overflow(*wraps: Wrap) -> Slip:
    return Slip(
        "overflow of a counter",
        "Timeloop's 64-bit product of partition and tile wraps (tiling.cpp:589-592), so that first "
        "additions read back; right: they do not",
        wraps=wraps,
    )


SOFTMAX = (Wrap("SN", ("m",)), Wrap("A", ("m",)))

# -- the five designs ------------------------------------------------------------------------


def _flat(mapping: str, length: int, rows: int, share: Fraction | int, *heads: int) -> Case:
    """FLAT's own result for a length: rows of scores at a time, the share that finds no room."""
    where = (("m", (length,)), ("e", heads or (64,)))
    return Case(mapping, (("ROWS", rows), ("SHARE", share)), where)


# A/outputs/pregenerated/results/flat_validation.csv: P1, what is on chip, proportion_spilled
FLAT_CASES = (
    _flat("flat", LENGTHS["1K"], 1024, 0),
    _flat("flat", LENGTHS["4K"], 4096, Fraction(1, 129)),
    _flat("flat", LENGTHS["16K"], 1024, Fraction(1, 129)),
    _flat("flat_outputs", LENGTHS["64K"], 256, Fraction(1, 129)),
    _flat("flat_heads", LENGTHS["1K"], 1024, 0, 128),
    _flat("flat_heads", LENGTHS["4K"], 4096, Fraction(19, 275), 128),
    _flat("flat_queries", LENGTHS["16K"], 1024, Fraction(7, 263), 128),
    _flat("flat_blocks", LENGTHS["64K"], 256, Fraction(1, 65), 128),
    Case("flat_long", (("ROWS", 1024),)),
)

CONFIGURATIONS = (
    Configuration(
        "unfused",
        (
            Case("unfused", (("BLOCK", "p"),), (("m", SHORT),)),
            Case("unfused", (("BLOCK", "p/8"),), (("e", (64,)),)),
            Case("unfused", (("BLOCK", "p/16"),)),
        ),
        (FREE_SUBTRACTION, ONE_PLACE, UNCOUNTED, _overflow(*SOFTMAX)),
    ),
    Configuration(
        "FLAT",
        FLAT_CASES,
        (FREE_SUBTRACTION, ONE_PLACE, UNCOUNTED, _overflow(*SOFTMAX, Wrap("QK", ("ROWS", "m")))),
    ),
    Configuration(
        "+cascade",
        (Case("fusemax_cascade", (("BLOCK", 8192),)),),  # A/src/accel/flat_pe_proposal.py:25-42
        (
            FREE_EXP,
            ONE_PLACE,
            UNCOUNTED,
            DRAINED_FREE,
            READ_ONCE,
            _overflow(
                Wrap("BQK", ("BLOCK", "m0")),
                Wrap("SLN", ("BLOCK", "m0")),
                Wrap("RNV", ("BLOCK", "f")),
            ),
        ),
    ),
    *(
        Configuration(
            name,
            (  # A/src/accel/proposal.py:12-29: a power of two of tiles that fits
                Case(mapping, (("BLOCK", 32768),), (("e", (64,)),)),
                Case(mapping, (("BLOCK", 16384),)),
            ),
            (ONE_PLACE, UNCOUNTED, DRAINED, _overflow(Wrap("RNV", ("BLOCK", "f")))),
        )
        for name, mapping in (
            ("+architecture", "fusemax_architecture"),
            ("+binding", "fusemax_drained"),
        )
    ),
)


def _linear(mapping: str, wide: tuple[tuple[str, int], ...]) -> Configuration:
    """Return the linear layers on a machine; `wide` where weights of XLM do not fit whole."""
    return Configuration(
        mapping, (Case(mapping, wide, (("d", (2048,)),)), Case(mapping)), (ONE_PLACE, UNCOUNTED)
    )


# The rows and columns that move the fewest bytes, of those that fit (A/src/accel, linear layers).
LINEAR_FLAT = _linear(
    "linear_flat",
    (("UP", 4096), ("UP_COLUMNS", 4096), ("DOWN", 1024), ("DOWN_COLUMNS", 1024)),
)
LINEAR_FUSEMAX = _linear(
    "linear_fusemax",
    (("UP", 2048), ("UP_COLUMNS", 2048), ("DOWN", 512), ("DOWN_COLUMNS", 512)),
)
LINEAR = {
    "unfused": LINEAR_FLAT,
    "FLAT": LINEAR_FLAT,
    "+cascade": LINEAR_FLAT,
    "+architecture": LINEAR_FUSEMAX,
    "+binding": LINEAR_FUSEMAX,
}


# -- rows and what they come to --------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One configuration, model and length: attention, and the linear layers after it."""

    configuration: str
    model: str
    seq_len: str
    attention: Counted
    linear: Counted

    def columns(self) -> dict[str, str | float]:
        """Return the artifact's columns of attention, and those of the whole layer."""
        mine, other = self.attention.columns(), self.linear.columns()
        whole = {
            f"end2end_{name}": mine[name] + other[name] for name in ("traffic", "latency", "energy")
        }
        names = {"configuration": self.configuration, "model": self.model, "seq_len": self.seq_len}
        return {**names, "length": LENGTHS[self.seq_len], **mine, **whole}


def rows(
    *, as_published: bool, without: str = "", models: Sequence[Model] = MODELS
) -> tuple[Row, ...]:
    """Count every configuration, model and length.

    Args:
        as_published: with the slips of the published count.
        without: name of a slip that is corrected all the same.
        models: which ones.
    """

    def made(configuration: Configuration) -> tuple[Slip, ...]:
        return tuple(each for each in configuration.slips if as_published and each.name != without)

    linear: dict[tuple[str, str, str], Counted] = {}
    found = []
    for configuration in CONFIGURATIONS:
        other = LINEAR[configuration.name]
        for model, length, extents in problems(models, LENGTHS, FIXED):
            key = (other.name, model, length)
            if key not in linear:
                linear[key] = count(other, extents, made(other))
            mine = count(configuration, extents, made(configuration))
            found.append(Row(configuration.name, model, length, mine, linear[key]))
    return tuple(found)


def averages(counted: Sequence[Row]) -> dict[str, float]:
    """Return the paper's figures: means over all models and lengths of +binding against FLAT."""
    by_name: dict[str, list[dict[str, str | float]]] = {}
    for row in counted:
        by_name.setdefault(row.configuration, []).append(row.columns())

    def mean(column: str, of: str, to: str) -> float:
        pairs = zip(by_name[of], by_name[to], strict=True)
        return fmean(float(one[column]) / float(other[column]) for one, other in pairs)

    return {
        "attention speed-up over FLAT": mean("latency", "FLAT", "+binding"),
        "attention energy of FLAT": mean("energy", "+binding", "FLAT"),
        "end-to-end speed-up over FLAT": mean("end2end_latency", "FLAT", "+binding"),
        "end-to-end energy of FLAT": mean("end2end_energy", "+binding", "FLAT"),
    }


@dataclass(frozen=True)
class Correction:
    """What one slip, corrected alone, changes.

    Args:
        name, says: of the slip; the last of `corrections` is all of them.
        figures: as of `averages`.
        latency, energy: configuration → mean over all rows of corrected / published attention.
    """

    name: str
    says: str
    figures: dict[str, float]
    latency: dict[str, float]
    energy: dict[str, float]


def corrections() -> tuple[Correction, ...]:
    """Return what each slip changes, corrected alone, and what all change together."""
    published = rows(as_published=True)
    uses: dict[str, dict[str, list[str]]] = {}
    for each in CONFIGURATIONS:
        for slip in each.slips:
            uses.setdefault(slip.name, {}).setdefault(slip.says, []).append(each.name)
    found = []
    for name, said in uses.items():
        says = "; ".join(f"{', '.join(names)}: {text}" for text, names in said.items())
        found.append(_correction(name, says, rows(as_published=True, without=name), published))
    last = _correction("all", "all of these", rows(as_published=False), published)
    return (*found, last)


def _correction(
    name: str, says: str, corrected: Sequence[Row], published: Sequence[Row]
) -> Correction:
    def ratio(column: str) -> dict[str, float]:
        found: dict[str, list[float]] = {}
        for one, other in zip(corrected, published, strict=True):
            mine, theirs = one.attention.columns()[column], other.attention.columns()[column]
            found.setdefault(one.configuration, []).append(mine / theirs)
        return {configuration: fmean(each) for configuration, each in found.items()}

    return Correction(name, says, averages(corrected), ratio("latency"), ratio("energy"))


# -- array sizes -----------------------------------------------------------------------------

ARRAYS = (16, 32, 64, 128, 256, 512)


@dataclass(frozen=True)
class Size:
    """+binding on `side` x `side` places and as many lanes: area, and latency by model."""

    side: int
    area_um2: float
    latency_s: dict[str, float]
    front: bool


def sizes(length: str = "256K") -> tuple[Size, ...]:
    """Return +binding on arrays of several sizes with the buffer as it is.

    The latency of each model's attention, and the area of all places and memories. On the front is
    a size that no other beats in area and in the sum over the models.
    """
    base = TARGETS.get("fusemax")
    found = []
    for side in ARRAYS:
        target = base
        for path in ("pe2d.rows", "pe2d.cols", "pe1d.lanes"):
            target = target.override(path, side)
        latency = {}
        for model in MODELS:
            tokens = LENGTHS[length]
            extents = {**FIXED, **model.extents, "p": tokens, "m": tokens, "m0": side}
            extents = {name: extents[name] for name in ("b", "h", "p", "m", "e", "f", "m0")}
            block = 2**21 // model.extents["f"]
            nest = load_mapping("fusemax_drained", BLOCK=block, SIDE=side)
            bound = bind(load_cascade(nest.cascade), shapes=extents)
            fmt = parse_format(target.format)
            check(nest, bound, target, fmt)
            latency[model.name] = evaluate(nest, bound, target, fmt).latency_s
        found.append((side, _area(target), latency))
    return tuple(
        Size(side, area, latency, not any(_beats(other, (area, latency)) for _, *other in found))
        for side, area, latency in found
    )


def _area(target: Target) -> float:
    memories = sum(each.area_um2 * each.instances for each in target.memories)
    return memories + sum(each.area_um2 * each.places for each in target.arrays)


def _beats(one: Sequence[Any], other: tuple[float, dict[str, float]]) -> bool:
    area, time = one[0] <= other[0], sum(one[1].values()) <= sum(other[1].values())
    same = one[0] == other[0] and sum(one[1].values()) == sum(other[1].values())
    return area and time and not same

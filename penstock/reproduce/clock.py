"""FuseMax's designs against a clock: what of the published utilisation the simulator confirms.

The published count has arrays that fill, drain and multiply in no time, and a buffer with room for
any number of accesses (docs/fusemax.md). `effects` switches these on one after another, by numbers
of the machine, and says what each costs. Excluded: the count itself (`fusemax.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.shapes import Bound, bind
from penstock.mapper.mappings import load_mapping
from penstock.mapper.model.evaluate import evaluate
from penstock.mapper.model.roofline import roofline
from penstock.mapper.nodes import Compute, Keep, Mapping, Nest, Node
from penstock.reproduce import load_cascade
from penstock.reproduce.fusemax import FIXED, LENGTHS, MODELS
from penstock.reproduce.study import Model
from penstock.sim.simulate import Simulation, simulate
from penstock.sim.steady import Known
from penstock.targets import TARGETS
from penstock.targets.base import Target

__all__ = ["APART", "EFFECTS", "Clocked", "Effect", "Repair", "clocked", "repaired"]

MAPPING = "fusemax_binding"
ROW_BYTES = 512  # artifact: a row of the global buffer
WORD_BYTES = 2
DRAM = TARGETS.get("fusemax").dram.bytes_per_cycle
SHORT = ("1K", "4K")


@dataclass(frozen=True)
class Effect:
    """Something that the published count leaves out.

    Args:
        name: what tables call it.
        says: which numbers of the machine it is.
        change: machine → machine that has it.
        buffers: (tensor, number) pairs: it, and what is kept with it, in so many buffers.
        blocks: parts into which a block of queries is cut.
        wide: number format of every tensor that is reduced or a state; "" for the machine's.
        lengths: at which it is simulated: those at which a run repeats soon enough.
    """

    name: str
    says: str
    change: Callable[[Target], Target] = replace  # unchanged
    buffers: tuple[tuple[str, int], ...] = ()
    blocks: int = 1
    wide: str = ""
    lengths: tuple[str, ...] = tuple(LENGTHS)


def _set(**numbers: float) -> Callable[[Target], Target]:
    def change(target: Target) -> Target:
        for path, value in numbers.items():
            target = target.override(path.replace("__", "."), value)
        return target

    return change


def _waves(*, chained: bool) -> Callable[[Target], Target]:
    def change(target: Target) -> Target:
        skewed = {each.name: each.skewed for each in TARGETS.get("fusemax").arrays}
        arrays = tuple(
            replace(each, skewed=skewed[each.name], chained=chained and skewed[each.name])
            for each in target.arrays
        )
        return replace(target, arrays=arrays)

    return change


def _exp(cycles: float) -> Callable[[Target], Target]:
    def change(target: Target) -> Target:
        arrays = tuple(
            replace(each, cycles=tuple({**dict(each.cycles), "exp": cycles}.items()))
            for each in target.arrays
        )
        return replace(target, arrays=arrays)

    return change


EFFECTS = (
    Effect(
        "DRAM",
        "400 GB/s, K and V in two buffers, Q and AV in one",
        _set(dram__bytes_per_cycle=DRAM),
    ),
    Effect(
        "DRAM latency, bursts, refresh",
        "94 cycles (100 ns), bursts of 64 bytes, 350 ns of every 3.9 us as their average share",
        _set(
            dram__latency_cycles=94,
            dram__burst_bytes=64,
            dram__bytes_per_cycle=(1 - 350 / 3900) * DRAM,
        ),
    ),
    Effect(
        "wavefronts",
        "operands enter place by place; tiles follow each other in a place",
        _waves(chained=True),
    ),
    Effect(
        "wavefronts that end",
        "a tile waits until the wave of the one that it reads has passed all places",
        _waves(chained=False),
    ),
    *(
        Effect(
            f"results after {late} cycles",
            f"an operation uses the result of another {late} cycles later",
            _set(pe2d__result_cycles=late, pe1d__result_cycles=late),
        )
        for late in (2, 3, 4)
    ),
    *(
        Effect(
            f"registers with {ports} read port{'s' * (ports > 1)}",
            f"a place reads {ports} word{'s' * (ports > 1)} a cycle; a multiply-add needs 3",
            _set(pe2d__operand_ports=ports, pe1d__operand_ports=ports),
        )
        for ports in (2, 1)
    ),
    Effect(
        "range of exp",
        "2 operations more: the exponent is split off, and put back",
        _exp(8),
    ),
    Effect("buffer with 1 port", "512 bytes a cycle", _set(gb__bytes_per_cycle=ROW_BYTES)),
    *(
        Effect(
            f"buffer of {banks} banks",
            f"{banks} x 512 bytes a cycle; tiles in one bank wait for each other",
            _set(gb__bytes_per_cycle=banks * ROW_BYTES, gb__banks=banks),
            lengths=SHORT,
        )
        for banks in (4, 16)
    ),
    Effect(
        "sums of 32 bits, 1 port",
        "sums, maxima and running statistics take 4 bytes each of the port's 512",
        _set(gb__bytes_per_cycle=ROW_BYTES),
        wide="fp32",
    ),
    Effect(
        "K and V in one buffer", "no keys are fetched while others are used", buffers=(("K", 1),)
    ),
    Effect(
        "blocks in two buffers",
        "of half the size, in the same room: the next Q is fetched, the last AV written, meanwhile",
        buffers=(("Q", 2),),
        blocks=2,
        lengths=SHORT,
    ),
)
REAL = ("DRAM", "wavefronts")
"""The machine that the others are compared on."""


def ideal(target: Target) -> Target:
    """Return the machine as it is counted: nothing fills, drains, waits or runs out of ports."""
    arrays = tuple(
        replace(each, depth_cycles=0, skewed=False, chained=False) for each in target.arrays
    )
    memories = tuple(replace(each, bytes_per_cycle=float("inf")) for each in target.memories)
    return replace(target, arrays=arrays, memories=memories)


def machine(names: Sequence[str]) -> Target:
    """Return FuseMax's machine with some effects."""
    target = ideal(TARGETS.get("fusemax"))
    for each in EFFECTS:
        if each.name in names:
            target = each.change(target)
    return target


def designed(effects: Sequence[Effect], model: Model, length: str) -> tuple[Mapping, Bound]:
    """Return +binding and its problem for a case, as some effects have them."""
    block = 2**21 // model.extents["f"]
    for each in effects:
        block //= each.blocks
    mapping = load_mapping(MAPPING, BLOCK=block)
    buffers = dict(pair for each in effects for pair in each.buffers)
    bound = problem(model, length, mapping)
    for wide in [each.wide for each in effects if each.wide]:
        einsums = [each for each in bound.cascade.einsums if each.reduce or each.iterative]
        formats = tuple((name, wide) for name in dict.fromkeys(each.name for each in einsums))
        bound = bind(replace(bound.cascade, formats=formats), shapes=bound.extents)
    return replace(mapping, body=_buffered(mapping.body, buffers)), bound


def _buffered(body: tuple[Node, ...], copies: dict[str, int]) -> tuple[Node, ...]:
    made: list[Node] = []
    for node in body:
        if isinstance(node, Nest):
            made.append(replace(node, body=_buffered(node.body, copies)))
        elif isinstance(node, Keep):
            number = next((copies[each] for each in node.tensors if each in copies), node.buffers)
            made.append(replace(node, buffers=number))
        else:
            made.append(node)
    return tuple(made)


@dataclass(frozen=True)
class Clocked:
    """One case.

    Args:
        model, seq_len: of the network.
        counted: cycles by the published count.
        util_2d, util_1d: by the published count.
        cycles: effect → cycles; "ordered" has none of them, "all" those of `REAL`; others are
            `REAL` and the effect; only models that differ by more than heads have those, and
            only for the effect's lengths.
        floor: the least cycles of any mapping (bound), and the model's of this one, on the
            machine with `REAL`.
        simulated: of `REAL`.
    """

    model: str
    seq_len: str
    counted: float
    util_2d: float
    util_1d: float
    cycles: dict[str, float]
    floor: tuple[float, float]
    simulated: Simulation

    def busy(self) -> dict[str, float]:
        """Return the utilisation of each array in the simulation."""
        arrays = {each.name for each in TARGETS.get("fusemax").arrays}
        run = self.simulated
        return {e.unit: e.busy_cycles / run.cycles for e in run.units if e.unit in arrays}

    def columns(self) -> dict[str, Any]:
        """Return the case as one row of numbers."""
        return {
            "model": self.model,
            "seq_len": self.seq_len,
            "counted_cycles": self.counted,
            "published_util_2d": self.util_2d,
            "published_util_1d": self.util_1d,
            **{f"simulated_util_{n.removeprefix('pe')}": x for n, x in self.busy().items()},
            "cycles": self.cycles,
            "bound_and_model_cycles": self.floor,
            "stalls": {each.unit: dict(each.stalls) for each in self.simulated.units},
        }


def problem(model: Model, length: str, mapping: Mapping) -> Bound:
    """Return the attention of a network at a length."""
    cascade = load_cascade(mapping.cascade)
    extents = {**FIXED, **model.extents, "p": LENGTHS[length], "m": LENGTHS[length]}
    return bind(cascade, shapes={n: extents[n] for n in ("b", "h", "p", "m", "e", "f", "m0")})


def clocked(
    models: Sequence[Model] = MODELS,
    lengths: Sequence[str] = tuple(LENGTHS),
    effects: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Clocked, ...]:
    """Simulate +binding for each case, with what the count leaves out.

    Args:
        models: networks.
        lengths: names of the lengths.
        effects: names of those that are tried one by one on the machine with `REAL`; all if None.
        progress: called with (simulations done, simulations in all).
    """
    names_of = [each.name for each in EFFECTS] if effects is None else effects
    labels: dict[str, tuple[str, ...]] = {"ordered": (), "DRAM": REAL[:1], "all": REAL}
    labels |= {name: (*REAL, name) for name in names_of if name not in REAL}
    few = {(each.extents["e"], each.extents["f"]): each.name for each in reversed(models)}
    by_name = {each.name: each for each in EFFECTS}
    plan = [
        (label, length, model)
        for label in labels
        for length in lengths
        for model in models
        if label in ("ordered", "DRAM", "all")
        or (model.name in few.values() and length in by_name[label].lengths)
    ]
    found: dict[tuple[str, str], dict[str, Simulation]] = {}
    known: dict[str, Known] = {label: {} for label in labels}
    for done, (label, length, model) in enumerate(plan, 1):
        chosen = [by_name[name] for name in labels[label]]
        target = machine(labels[label])
        mapping, bound = designed(chosen, model, length)
        fmt = parse_format(target.format)
        run = simulate(mapping, bound, target, fmt, None, known=known[label])
        found.setdefault((model.name, length), {})[label] = replace(run, events=())
        if progress is not None:
            progress(done, len(plan))
    return tuple(
        _case(model, length, found[model.name, length]) for model in models for length in lengths
    )


def _case(model: Model, length: str, runs: dict[str, Simulation]) -> Clocked:
    mapping = load_mapping("fusemax_drained", BLOCK=2**21 // model.extents["f"])
    fusemax = TARGETS.get("fusemax")
    bound = problem(model, length, mapping)
    counted = evaluate(mapping, bound, fusemax, parse_format(fusemax.format))
    shares = counted.utilisation()
    cycles = {label: run.cycles for label, run in runs.items()}
    published = counted.latency_cycles, shares["pe2d"], shares["pe1d"]
    real, fmt = machine(REAL), parse_format(fusemax.format)
    least = next(each for each in roofline(bound, real, fmt) if each.name == "latency")
    binding, _ = designed((), model, length)
    floor = least.value, evaluate(binding, bound, real, fmt).latency_cycles
    return Clocked(model.name, length, *published, cycles, floor, runs["all"])


# -- repair ------------------------------------------------------------------------------------


APART = (1, 2, 3, 4, 5, 6)


@dataclass(frozen=True)
class Repair:
    """+binding with its stages further apart.

    Args:
        model: of the case.
        seq_len: of the case.
        apart: intervals between an Einsum and one that waits for a wavefront.
        cycles: simulated.
        util_2d: simulated.
        util_1d: simulated.
        entries: words that a place of the 2D and of the 1D array has to keep.
        area_um2: of the machine with register files of so many words, by their area for a word.
    """

    model: str
    seq_len: str
    apart: int
    cycles: float
    util_2d: float
    util_1d: float
    entries: tuple[int, int]
    area_um2: float


def spread(body: tuple[Node, ...], apart: int) -> tuple[Node, ...]:
    """Set the stages of +binding: each wait for a wavefront takes `apart` intervals."""
    stages = (0, apart, apart + 1, 2 * apart + 1)
    made: list[Node] = []
    for node in body:
        if isinstance(node, Nest):
            made.append(replace(node, body=spread(node.body, apart)))
        elif isinstance(node, Compute):
            made.append(replace(node, stage=stages[node.stage]))
        else:
            made.append(node)
    return tuple(made)


def repaired(model: Model, length: str, distances: Sequence[int] = APART) -> tuple[Repair, ...]:
    """Simulate one case with stages further apart, and say what registers that needs."""
    fusemax = TARGETS.get("fusemax")
    fmt = parse_format(fusemax.format)
    base = load_mapping(MAPPING, BLOCK=2**21 // model.extents["f"])
    bound = problem(model, length, base)
    found = []
    for apart in distances:
        mapping = replace(base, body=spread(base.body, apart))
        run = simulate(mapping, bound, machine(REAL), fmt, None)
        held = evaluate(mapping, bound, fusemax, fmt).occupancy
        words = {each.memory: -(-each.needed_bytes // WORD_BYTES) for each in held if each.each}
        entries = (int(words.get("rf2d", 0)), int(words.get("rf1d", 0)))
        busy = {each.unit: each.busy_cycles / run.cycles for each in run.units}
        shares = busy["pe2d"], busy["pe1d"]
        area = _area(fusemax, entries)
        found.append(Repair(model.name, length, apart, run.cycles, *shares, entries, area))
    return tuple(found)


def _area(target: Target, entries: tuple[int, int]) -> float:
    total = sum(each.area_um2 * each.places for each in target.arrays)
    for memory in target.memories:
        size = memory.area_um2 * memory.instances
        if memory.name in ("rf2d", "rf1d"):
            words = entries[memory.name == "rf1d"]
            size *= max(1.0, words * WORD_BYTES / memory.capacity_bytes)
        total += size
    return total

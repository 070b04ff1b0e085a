"""``penstock reproduce fusemax --simulate``: the study's utilisation against a clock, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from penstock.cli import output
from penstock.report.data import Section, Table
from penstock.reproduce import clock
from penstock.reproduce.clock import Clocked, Repair
from penstock.reproduce.fusemax import LENGTHS, MODELS

__all__ = ["section"]


def section(lengths: Sequence[str] | None) -> Section:
    """Simulate the cases of some lengths, all if None, and return tables and numbers."""
    chosen = tuple(lengths or LENGTHS)
    with output.progress("simulating") as update:
        cases = clock.clocked(lengths=chosen, progress=update)
    few = [length for length in ("1K", "4K") if length in chosen] or chosen[:1]
    repairs = [
        each
        for model in (MODELS[0], MODELS[-1])
        for length in few
        for each in clock.repaired(model, length)
    ]
    return made(cases, repairs)


def made(cases: Sequence[Clocked], repairs: Sequence[Repair]) -> Section:
    """Return what was simulated as a section of a report."""
    says = "; ".join(f"{each.name}: {each.says}" for each in clock.EFFECTS)
    note = (
        "FuseMax's +binding (mapping fusemax_binding), cycle by cycle on the machine that it is "
        f"published for, with what the published count leaves out. {says}."
    )
    data = {
        "cases": [each.columns() for each in cases],
        "repairs": [asdict(each) for each in repairs],
    }
    return Section(
        "FuseMax against a clock",
        note,
        (
            *(_utilisation(cases), _sizes(cases), _causes(cases)),
            *(_ordered(cases), _repairs(repairs)),
        ),
        data,
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _utilisation(cases: Sequence[Clocked]) -> Table:
    rows = []
    for case in cases:
        busy = case.busy()
        published = f"{_percent(case.util_2d)} / {_percent(case.util_1d)}"
        ours = f"{_percent(busy['pe2d'])} / {_percent(busy['pe1d'])}"
        longer = f"{case.simulated.cycles / case.counted:.3f}"
        rows.append((case.model, case.seq_len, published, ours, longer))
    return Table(
        "Utilisation",
        "percent of the 2D / 1D array's cycles: published (model), and simulated with DRAM and "
        "wavefronts (simulation); cycles relative to the published ones",
        ("model", "length", "published", "simulated", "cycles"),
        tuple(rows),
    )


def _sizes(cases: Sequence[Clocked]) -> Table:
    known = dict.fromkeys(name for case in cases for name in case.cycles)
    others = [name for name in known if name not in ("ordered", "DRAM", "all")]
    rows = []
    for case in [each for each in cases if len(each.cycles) > len(clock.REAL) + 1]:
        ordered, dram, whole = (case.cycles[name] for name in ("ordered", "DRAM", "all"))
        steps = (ordered - case.counted, dram - ordered, whole - dram)
        alone = (case.cycles[name] - whole if name in case.cycles else None for name in others)
        added = (
            "" if each is None else f"{100 * each / case.counted:+.1f}" for each in (*steps, *alone)
        )
        rows.append((case.model, case.seq_len, *added))
    return Table(
        "What each effect costs",
        "percent of the published cycles (simulation). The first three one after another: tiles in "
        "order with their dependences, DRAM, wavefronts; the others each alone, on top of these, "
        "where such a run repeats soon enough",
        ("model", "length", "order", "DRAM", "wavefronts", *others),
        tuple(rows),
    )


def _causes(cases: Sequence[Clocked]) -> Table:
    rows = []
    for case in cases:
        for unit in case.simulated.units:
            if unit.unit not in case.busy():
                continue
            lost = sorted(unit.stalls.items(), key=lambda each: -each[1])
            shares = (
                f"{cause} {_percent(cycles / case.simulated.cycles)}" for cause, cycles in lost
            )
            rows.append((case.model, case.seq_len, unit.unit, ", ".join(shares)))
    return Table(
        "Why the arrays wait",
        "percent of all cycles, by what came last (simulation with DRAM and wavefronts)",
        ("model", "length", "array", "causes"),
        tuple(rows),
    )


def _ordered(cases: Sequence[Clocked]) -> Table:
    rows = []
    for case in cases:
        counts = (*case.floor, case.simulated.cycles)
        holds = "yes" if list(counts) == sorted(counts) else "NO"
        rows.append((case.model, case.seq_len, *map(output.number, counts), holds))
    return Table(
        "Bound, model, simulation",
        "cycles of the least of any mapping (bound), of +binding counted (model), and of +binding "
        "with DRAM and wavefronts (simulation): each at least the one before",
        ("model", "length", "bound", "model's", "simulated", "in order"),
        tuple(rows),
    )


def _repairs(repairs: Sequence[Repair]) -> Table:
    rows = tuple(
        (
            each.model,
            each.seq_len,
            str(each.apart),
            str(2 * each.apart + 2),
            f"{_percent(each.util_2d)} / {_percent(each.util_1d)}",
            f"{each.entries[0]} / {each.entries[1]}",
            f"{each.area_um2 / 1e6:.1f}",
        )
        for each in repairs
    )
    return Table(
        "More tiles in flight",
        "+binding with each wait for a wavefront so many intervals long (simulation); the words "
        "that a place of the 2D / 1D array keeps (it has 12 / 32), and the area with register "
        "files that grow with them (model)",
        ("model", "length", "intervals", "tiles", "utilisation", "entries", "area mm2"),
        rows,
    )

"""A published study as data, and its rows counted by the model.

A `Study` has models and lengths, and configurations: a machine, the mapping file of each case, and
the `Slip`s: where the published count differs from ours. A slip changes a number of the machine or
of the accounting. Excluded: any particular study (`fusemax.py`), and what is printed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any

from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.shapes import Bound, bind, rank_variables
from penstock.errors import MappingError
from penstock.mapper.check import check
from penstock.mapper.mappings import load_mapping
from penstock.mapper.model.accounts import Accounting, Drain, Wrap, charge
from penstock.mapper.model.evaluate import EnergyRow, Evaluation, evaluate
from penstock.mapper.model.registers import Registers, register_traffic
from penstock.mapper.nodes import Compute, Keep, Nest, Node
from penstock.mapper.nodes import Mapping as LoopNest
from penstock.reproduce import load_cascade
from penstock.targets import TARGETS
from penstock.targets.base import Target

__all__ = ["Case", "Configuration", "Counted", "Model", "Slip", "count", "refusal"]

Number = int | Fraction | str
"""A mapping's number: itself, or a share of an extent: ``p``, ``p/8``."""


@dataclass(frozen=True)
class Model:
    """A network: its name and the extents that it has at every length."""

    name: str
    extents: Mapping[str, int]


@dataclass(frozen=True)
class Case:
    """Which mapping file runs a problem, with which numbers.

    Args:
        mapping: of the file.
        numbers: (name, value) pairs; see `Number`.
        where: variable → extents for which it is taken; all others for one that is not listed.
    """

    mapping: str
    numbers: tuple[tuple[str, Number], ...] = ()
    where: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def takes(self, extents: Mapping[str, int]) -> bool:
        """Whether a problem is this case's."""
        return all(extents[name] in allowed for name, allowed in self.where)

    def values(self, extents: Mapping[str, int]) -> dict[str, int | Fraction]:
        """Return the numbers for a problem."""
        return {name: _value(number, extents) for name, number in self.numbers}


@dataclass(frozen=True)
class Slip:
    """Something that a published count does otherwise, under a name that explains it.

    Args:
        name: what tables call it.
        says: what is published, and what is right.
        cycles, energy_pj: (array, operator, published value) of the machine.
        one_place, no_initial, no_copies_out: see `accounts.Accounting`.
        drains, wraps: likewise.
        taking: (Einsum, operand) that the published count takes from places that do not have it.
    """

    name: str
    says: str
    cycles: tuple[tuple[str, str, float], ...] = ()
    energy_pj: tuple[tuple[str, str, float], ...] = ()
    one_place: bool = False
    no_initial: bool = False
    no_copies_out: bool = False
    drains: tuple[Drain, ...] | None = None
    wraps: tuple[Wrap, ...] = ()
    taking: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Configuration:
    """One design of a study: its cases, in the order in which they are asked, and its slips."""

    name: str
    cases: tuple[Case, ...]
    slips: tuple[Slip, ...] = ()

    def case(self, extents: Mapping[str, int]) -> Case:
        """Return the first case that takes a problem."""
        return next(each for each in self.cases if each.takes(extents))


@dataclass(frozen=True)
class Counted:
    """One row: a configuration, a problem and what the model says of it."""

    configuration: str
    case: Case
    mapping: LoopNest
    bound: Bound
    target: Target
    found: Evaluation
    energy: tuple[EnergyRow, ...]

    @property
    def energy_pj(self) -> float:
        """Energy of everything, in picojoules."""
        return sum(row.pj for row in self.energy)

    def columns(self) -> dict[str, Any]:
        """Return latency in s, traffic in bytes, energy in pJ and the utilisations."""
        shares = self.found.utilisation()
        return {
            "traffic": self.found.dram_bytes,
            "latency": self.found.latency_s,
            "energy": self.energy_pj,
            **{f"util_{array.removeprefix('pe')}": share for array, share in shares.items()},
        }


def count(
    configuration: Configuration, extents: Mapping[str, int], slips: Sequence[Slip]
) -> Counted:
    """Count one problem on one configuration.

    Args:
        configuration: of a study.
        extents: rank variable → coordinates; those that the cascade does not have are left out.
        slips: those of the configuration that are made.
    """
    case = configuration.case(extents)
    numbers = case.values(extents)
    mapping = load_mapping(case.mapping, **numbers)
    taken = tuple(each for slip in slips for each in slip.taking)
    mapping = replace(mapping, body=_taking(mapping.body, taken))
    used = rank_variables(_cascade(mapping.cascade))
    shapes = tuple((name, size) for name, size in extents.items() if name in used)
    target = _machine(TARGETS.get(mapping.target), slips)
    bound, found, registers = _counted(mapping, shapes, target)
    whole = {name: int(value) for name, value in numbers.items() if value == int(value)}
    energy = charge(found, registers, bound, target, _accounting(slips), whole)
    return Counted(configuration.name, case, mapping, bound, target, found, energy)


@cache
def _counted(
    mapping: LoopNest, shapes: tuple[tuple[str, int], ...], target: Target
) -> tuple[Bound, Evaluation, tuple[Registers, ...]]:
    bound = bind(_cascade(mapping.cascade), shapes=dict(shapes))
    fmt = parse_format(target.format)
    found = evaluate(mapping, bound, target, fmt)
    return bound, found, register_traffic(mapping, bound, target, fmt)


def refusal(row: Counted) -> str:
    """Return why the machine cannot run the mapping, "" if it can."""
    try:
        check(row.mapping, row.bound, row.target, parse_format(row.target.format))
    except MappingError as error:
        return str(error).splitlines()[0]
    return ""


@cache
def _cascade(name: str) -> Cascade:
    return load_cascade(name)


def _value(number: Number, extents: Mapping[str, int]) -> int | Fraction:
    if not isinstance(number, str):
        return number
    match = re.fullmatch(r"([a-z]\w*)(?:/(\d+))?", number)
    assert match is not None, number
    return -(-extents[match[1]] // int(match[2] or 1))


def _taking(body: tuple[Node, ...], taken: Sequence[tuple[str, str]]) -> tuple[Node, ...]:
    """Add operands that leaves take from places."""
    made: list[Node] = []
    for node in body:
        match node:
            case Nest():
                made.append(replace(node, body=_taking(node.body, taken)))
            case Compute():
                more = tuple(tensor for name, tensor in taken if name == node.einsum)
                made.append(replace(node, taking=(*node.taking, *more)))
            case Keep():
                made.append(node)
    return tuple(made)


def _machine(target: Target, slips: Sequence[Slip]) -> Target:
    arrays = []
    for array in target.arrays:
        cycles, energy = dict(array.cycles), dict(array.energy_pj)
        for slip in slips:
            cycles |= {op: value for name, op, value in slip.cycles if name == array.name}
            energy |= {op: value for name, op, value in slip.energy_pj if name == array.name}
        arrays.append(replace(array, cycles=tuple(cycles.items()), energy_pj=tuple(energy.items())))
    return replace(target, arrays=tuple(arrays))


def _accounting(slips: Sequence[Slip]) -> Accounting:
    drains = [each.drains for each in slips if each.drains is not None]
    return Accounting(
        all_places=not any(each.one_place for each in slips),
        initial=not any(each.no_initial for each in slips),
        copies_out=not any(each.no_copies_out for each in slips),
        drains=tuple(drain for group in drains for drain in group) if drains else None,
        wraps=tuple(wrap for each in slips for wrap in each.wraps),
    )


def problems(
    models: Sequence[Model], lengths: Mapping[str, int], fixed: Mapping[str, int]
) -> Iterator[tuple[str, str, dict[str, int]]]:
    """Yield (model, length by name, extents) of every problem."""
    for model in models:
        for name, length in lengths.items():
            extents = {**fixed, **model.extents, "p": length, "m": length}
            yield model.name, name, {**extents, "r": extents["b"] * length}

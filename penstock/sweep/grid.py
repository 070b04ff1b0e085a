"""What a parameter takes in a sweep: ``64..512``, ``1MB..64MB``, ``8..64 step 8``, ``1,2,4``.

A range doubles from its first value as long as it is not above its last; with ``step`` it adds.
Items of a list may be ranges. Units: KB, MB, GB, TB are powers of 1024 for capacities and of 1000
for bandwidths, KiB, MiB, GiB, TiB always of 1024; kHz, MHz, GHz of 1000; K, M, G of 1024 for counts
and extents.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.errors import PenstockError
from penstock.sweep.machines import Kind, kind_of
from penstock.targets.base import Target

__all__ = ["Axis", "axis", "shape_axis", "target_axis", "value_text"]

MAX_VALUES = 1_000_000
"""Values of one parameter, and points of one sweep, at most."""

_NUMBER = re.compile(r"(?P<number>\d+(?:\.\d*)?(?:e[+-]?\d+)?)\s*(?P<unit>[A-Za-z]*(?:/s)?)", re.I)
_RANGE = re.compile(r"(?P<first>.+?)\.\.(?P<last>.+?)(?:\s+step\s+(?P<step>.+))?")


def _powers(letters: str, base: int, unit: str) -> dict[str, float]:
    return {f"{letter}{unit}": float(base**n) for n, letter in enumerate(letters, start=1)}


_BYTES = {"": 1.0, "B": 1.0, **_powers("KMGT", 1024, "iB")}
_UNITS: dict[Kind, dict[str, float]] = {
    "count": {"": 1.0, **_powers("KMG", 1024, "")},
    "bytes": {**_BYTES, **_powers("KMGT", 1024, "B")},
    "rate": {**_BYTES, **_powers("KMGT", 1000, "B")},
    "hertz": {"": 1.0, "Hz": 1.0, **_powers("kMG", 1000, "Hz")},
    "number": {"": 1.0},
}


@dataclass(frozen=True)
class Axis:
    """One parameter of a sweep and the values that it takes, in order.

    Args:
        name: a parameter of the machine, a rank variable, or ``target``.
        kind: what it is measured in; ``shape`` for extents, ``target`` for machines.
        values: numbers, or names of machines.
    """

    name: str
    kind: Kind | str
    values: tuple[float | str, ...]


def axis(name: str, text: str, target: Target, others: Sequence[str] = ()) -> Axis:
    """Read the values of a parameter of a machine.

    Raises:
        PenstockError: the text is no list of values.
        UnknownNameError: the machine has no such parameter; lists what can be swept.
    """
    kind = kind_of(target, name, others)
    return Axis(name, kind, _values(name, text, kind))


def shape_axis(name: str, text: str) -> Axis:
    """Read the extents of a rank variable.

    Raises:
        PenstockError: the text is no list of positive whole numbers.
    """
    values = _values(name, text, "count")
    for value in values:
        if value != int(value) or value < 1:
            raise PenstockError(
                f"{name} would be {value:g}, not a positive whole number",
                fix=f"write it as in {name}=1024..65536",
            )
    return Axis(name, "shape", tuple(int(value) for value in values))


def target_axis(text: str) -> Axis:
    """Read the names of machines: ``fusemax,flat``."""
    names = [each.strip() for each in text.split(",")]
    if not all(names):
        raise PenstockError(f"target={text} names no machine", fix="write target=fusemax,flat")
    return Axis("target", "target", tuple(dict.fromkeys(names)))


def value_text(kind: Kind | str, value: float | str) -> str:
    """Return a value as people write it: ``16 MB``, ``940 MHz``, ``256``."""
    if isinstance(value, str):
        return value
    if kind not in ("bytes", "rate", "hertz"):
        return f"{value:,.10g}"
    named = {unit: scale for unit, scale in _UNITS[kind].items() if unit and "i" not in unit}
    if kind == "bytes":  # capacities are shown exactly
        named = {unit: scale for unit, scale in named.items() if value % scale == 0}
    unit = max((u for u in named if value >= named[u]), key=lambda u: named[u], default="")
    shown = f"{value / named.get(unit, 1.0):,.6g} {unit}".rstrip()
    return f"{shown}/s" if kind == "rate" else shown


def _values(name: str, text: str, kind: Kind) -> tuple[float, ...]:
    found: list[float] = []
    for item in text.split(","):
        spanned = _RANGE.fullmatch(item.strip())
        found += (
            _range(name, item.strip(), spanned, kind) if spanned else [_number(name, item, kind)]
        )
    return tuple(dict.fromkeys(found))


def _range(name: str, item: str, spanned: re.Match[str], kind: Kind) -> list[float]:
    first, last = (_number(name, spanned[end], kind) for end in ("first", "last"))
    if spanned["last"].strip()[-1].isalpha() and spanned["first"].strip()[-1].isdigit():
        raise PenstockError(
            f"{name}={item} has a unit at its end only",
            fix=f"write the unit twice, as in {_example(kind)}",
        )
    if not 0 < first <= last:
        raise PenstockError(
            f"{name}={item} is an empty range", fix="write the smaller number first, above 0"
        )
    if spanned["step"] is None:
        count = math.floor(math.log2(last / first) + 1e-9) + 1
        return [first * 2**n for n in range(count)]
    step = _number(name, spanned["step"], kind)
    if step <= 0 or (last - first) / step >= MAX_VALUES:
        raise PenstockError(
            f"{name}={item} does not end within {MAX_VALUES:,} values", fix="make the step larger"
        )
    return [first + n * step for n in range(math.floor((last - first) / step + 1e-9) + 1)]


def _number(name: str, text: str, kind: Kind) -> float:
    found = _NUMBER.fullmatch(text.strip())
    units = {unit.lower(): scale for unit, scale in _UNITS[kind].items()}
    unit = found["unit"].lower() if found else ""
    unit = unit.removesuffix("/s") if kind == "rate" else unit
    if found is None or unit not in units:
        raise PenstockError(
            f"{name}={text.strip()} is no value of {name}", fix=f"write it as in {_example(kind)}"
        )
    return float(found["number"]) * units[unit]


def _example(kind: Kind) -> str:
    return {
        "count": "16..512, 8..64 step 8 or 8,12,16",
        "bytes": "1MB..64MB or 96KB,160KB",
        "rate": "100GB/s..800GB/s",
        "hertz": "500MHz..2GHz",
        "number": "0.5,1,2",
    }[kind]

"""What of a machine can be swept, and the machine with other numbers. Pure; knows no machine.

Beside the paths that `Target.override` takes there are short names, found in the machine's data:

* ``array``: the first axis of the largest array of processing elements with two or more axes. Its
  other axes change in proportion, and so do the arrays beside it that are as wide as one of its
  axes (FuseMax's 256 lanes under 256 columns). What the places own changes in number with them.
* an array's name: the same for that array alone.
* ``buffer``: the outermost memory inside DRAM that all arrays reach; a memory's name: that memory.
  Its area changes in proportion to the capacity, its energy per byte not at all.
* ``bandwidth``: of the outermost memory, in bytes/s; ``NAME.bandwidth``: of that memory.
* ``clock``: of the arrays, in Hz. The outermost memory keeps its bytes per second, memories on the
  chip keep their bytes per cycle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Literal

from penstock.errors import PenstockError, UnknownNameError, nearest
from penstock.targets.base import Array, Target

__all__ = ["Kind", "Override", "area_um2", "overrides", "parameters", "resized"]

Kind = Literal["count", "bytes", "rate", "hertz", "number"]
Override = tuple[str, float]

_FIRST = ("array", "clock")
"""Applied before all others: what they tie can then be set by a parameter of its own."""


def parameters(target: Target) -> dict[str, Kind]:
    """Return the short names of what can be swept, and what each is measured in."""
    found: dict[str, Kind] = {"clock": "hertz"}
    if _grid(target):
        found["array"] = "count"
    if target.buffer is not None:
        found["buffer"] = "bytes"
    if math.isfinite(target.dram.bytes_per_cycle):
        found["bandwidth"] = "rate"
    for array in target.arrays:
        found[array.name] = "count"
    for memory in target.memories:
        found[memory.name] = "bytes"
        found[f"{memory.name}.bandwidth"] = "rate"
    return found


def paths(target: Target) -> dict[str, Kind]:
    """Return the paths that `Target.override` takes, and what each is measured in."""
    found: dict[str, Kind] = {"clock_hz": "hertz"}
    for array in target.arrays:
        found |= {f"{array.name}.{axis.name}": "count" for axis in array.axes}
        found |= {f"{array.name}.{name}": kind for name, kind in _numbers(array).items()}
    for memory in target.memories:
        found |= {f"{memory.name}.{name}": kind for name, kind in _numbers(memory).items()}
    return found


def _numbers(owner: object) -> dict[str, Kind]:
    found: dict[str, Kind] = {}
    for field in fields(owner):  # type: ignore[arg-type]
        value = getattr(owner, field.name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            kinds: dict[str, Kind] = {"capacity_bytes": "bytes"}
            found[field.name] = kinds.get(field.name, "count" if field.type == "int" else "number")
    return found


def kind_of(target: Target, name: str, others: Sequence[str] = ()) -> Kind:
    """Return what a parameter is measured in.

    Args:
        target: the machine.
        name: a short name or a path.
        others: names of what is no part of a machine but can be swept too, for the message.

    Raises:
        UnknownNameError: the machine has no such parameter; lists what can be swept.
    """
    short = parameters(target)
    if name in short:
        return short[name]
    long = paths(target)
    if name in long:
        return long[name]
    near = nearest(name, [*others, *short, *long])
    raise UnknownNameError(
        f"parameter of {target.name}",
        name,
        [*others, *short],
        fix=f"did you mean {near}?" if near else "any path of --set can be swept too",
    )


def resized(target: Target, values: Sequence[tuple[str, float]]) -> Target:
    """Return the machine with its parameters set, and everything tied to them.

    Raises:
        PenstockError: two parameters contradict each other.
        TargetError: a number cannot be one of a machine.
        UnknownNameError: a parameter that the machine does not have.
    """
    for path, value in overrides(target, values):
        target = target.override(path, value)
    return target


def overrides(target: Target, values: Sequence[tuple[str, float]]) -> tuple[Override, ...]:
    """Return the single numbers that the parameters change, for `Target.override` in this order.

    Raises:
        PenstockError: two parameters contradict each other.
        TargetError: a number cannot be one of a machine.
        UnknownNameError: a parameter that the machine does not have.
    """
    changed, found = target, list[Override]()
    order = sorted(values, key=lambda each: each[0] not in _FIRST)
    for name, value in order:
        kind_of(changed, name)
        for path, number in _single(changed, name, value):
            changed = changed.override(path, number)
            found.append((path, number))
    for name, value in values:
        got = _read(changed, name)
        if not math.isclose(got, value, rel_tol=1e-12):
            raise PenstockError(
                f"{name} would be {got:g}, not {value:g}: another swept parameter sets it too",
                fix="sweep one of the two",
            )
    return tuple(found)


def area_um2(target: Target) -> float | None:
    """Return the area of all memories and arrays, in square micrometres; None if none is given."""
    memories = sum(each.area_um2 * each.instances for each in target.memories)
    return memories + sum(each.area_um2 * each.places for each in target.arrays) or None


def _grid(target: Target) -> Array | None:
    """Return the largest array of processing elements with two or more axes."""
    grids = [
        array
        for array in target.arrays
        if len(array.axes) > 1 and all(axis.kind == "pe" for axis in array.axes)
    ]
    return max(grids, key=lambda array: array.places, default=None)


def _single(target: Target, name: str, value: float) -> list[Override]:
    """Return what one parameter changes."""
    grid = _grid(target)
    if name == "array" and grid is not None:
        widths = {axis.size for axis in grid.axes}
        tied = [
            array
            for array in target.arrays
            if array is not grid and all(axis.size in widths for axis in array.axes)
        ]
        factor = value / grid.axes[0].size
        return [change for array in (grid, *tied) for change in _scaled(array, factor)]
    if name in [array.name for array in target.arrays]:
        array = target.array(name)
        return _scaled(array, value / array.axes[0].size)
    if name in {"clock", "clock_hz"}:
        dram = target.dram
        same = dram.bytes_per_cycle * target.clock_hz / value
        kept = [(f"{dram.name}.bytes_per_cycle", same)] if math.isfinite(same) else []
        return [("clock_hz", value), *kept]
    owner, _, part = _full(target, name).rpartition(".")
    if part == "bandwidth":
        return [(f"{owner}.bytes_per_cycle", value / target.clock_hz)]
    if part == "capacity_bytes":
        return _capacity(target, owner, value)
    return [(name, value)]


def _full(target: Target, name: str) -> str:
    """Return a memory's short name as ``MEMORY.capacity_bytes`` or ``MEMORY.bandwidth``."""
    if name == "bandwidth":
        return f"{target.dram.name}.bandwidth"
    if name == "buffer" and target.buffer is not None:
        return f"{target.buffer.name}.capacity_bytes"
    return f"{name}.capacity_bytes" if name in [each.name for each in target.memories] else name


def _scaled(array: Array, factor: float) -> list[Override]:
    return [(f"{array.name}.{axis.name}", axis.size * factor) for axis in array.axes]


def _capacity(target: Target, name: str, value: float) -> list[Override]:
    memory = target.memory(name)
    found = [(f"{name}.capacity_bytes", value)]
    if memory.area_um2 and math.isfinite(memory.capacity_bytes):
        found.append((f"{name}.area_um2", memory.area_um2 * value / memory.capacity_bytes))
    return found


def _read(target: Target, name: str) -> float:
    """Return what a parameter is now."""
    grid = _grid(target)
    if name == "array" and grid is not None:
        return grid.axes[0].size
    if name in [array.name for array in target.arrays]:
        return target.array(name).axes[0].size
    if name in {"clock", "clock_hz"}:
        return target.clock_hz
    owner, _, part = _full(target, name).rpartition(".")
    if part == "bandwidth":
        return target.memory(owner).bytes_per_cycle * target.clock_hz
    if owner in [memory.name for memory in target.memories]:
        return float(getattr(target.memory(owner), part))
    array = target.array(owner)
    sizes = {axis.name: axis.size for axis in array.axes}
    return float(sizes[part] if part in sizes else getattr(array, part))

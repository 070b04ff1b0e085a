"""`Target`, `Memory`, `Array`, `Axis`: machines as data. No behaviour beyond look-up and checks.

Every number of a machine stands in a file of its own beside this one, with its source in the
same line. Memories are listed from the outermost inward; the outermost one holds every tensor
that a mapping keeps nowhere else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from penstock.errors import TargetError, UnknownNameError

__all__ = ["Array", "Axis", "AxisKind", "Family", "Memory", "Target"]

AxisKind = Literal["pe", "core", "simd", "block", "thread"]
Family = Literal["spatial", "fpga", "gpu", "cpu"]


@dataclass(frozen=True, slots=True)
class Axis:
    """One direction of an array, along which a loop can be spatial.

    Args:
        name: e.g. ``rows``; a mapping writes ``m0@rows``.
        size: places side by side.
        kind: what a generator makes of it: ``pe`` (unrolled hardware), ``core`` (a parallel
            loop), ``simd`` (vector lanes), ``block`` and ``thread`` (CUDA).
        folds: whether a spatial loop may have more steps than places; the steps then take
            ``ceil(steps / size)`` rounds (cores and thread blocks do, hardware PEs do not).
        reduces: whether values can be reduced along the axis (neighbour links, lane tree).
        most: of an axis that folds, steps that it takes at all (1024 threads of a CUDA block); 0
            = any number.
    """

    name: str
    size: int
    kind: AxisKind
    folds: bool = False
    reduces: bool = False
    most: int = 0


@dataclass(frozen=True, slots=True)
class Memory:
    """A level of storage.

    Args:
        name: e.g. ``gb``.
        capacity_bytes: of one instance; ``math.inf`` for none.
        bytes_per_cycle: bandwidth of one instance; ``math.inf`` where it never binds.
        read_pj_per_byte, write_pj_per_byte: energy.
        array: the array whose processing elements own it, or "" if all arrays reach it. Other
            arrays may write (drain) into an owned memory but not read it.
        instances: how many there are (register files: one for each processing element).
        area_um2: area of one instance.
        channels: parts with a port of their own that share its bandwidth (banks of a DRAM).
        bank: what the vendor's linker calls such a part, e.g. ``HBM``.
        latency_cycles: from the end of a transfer until what it brought can be used.
        burst_bytes: a transfer takes whole bursts of so many bytes; 0 for any size.
        refresh_every_cycles: so often the memory stops, 0 for never,
        refresh_cycles: and for so long.
        along: name of an axis of all arrays that reach it: it has one instance for each place
            along that axis (the shared memory of a multiprocessor), which holds what its place
            needs; "" for none.
        cache: whether hardware decides what is in it: a mapping may count on inputs staying
            there, generated code copies nothing.
        uses: (resource, count) pairs of an FPGA part that one instance takes.
        banks: parts of an instance with a port each, which has a share of its bandwidth. A kept
            tile lies in one of them, the next in the next; what is used at once and lies in one
            bank waits.

    Latency, bursts, refresh and banks are charged by the simulator, not by the model.
    """

    name: str
    capacity_bytes: float
    bytes_per_cycle: float = math.inf
    read_pj_per_byte: float = 0.0
    write_pj_per_byte: float = 0.0
    array: str = ""
    instances: int = 1
    area_um2: float = 0.0
    channels: int = 1
    bank: str = ""
    latency_cycles: int = 0
    burst_bytes: int = 0
    refresh_every_cycles: int = 0
    refresh_cycles: int = 0
    along: str = ""
    cache: bool = False
    uses: tuple[tuple[str, float], ...] = ()
    banks: int = 1

    @property
    def total_bytes(self) -> float:
        """Capacity of all instances together, in bytes."""
        return self.capacity_bytes * self.instances


@dataclass(frozen=True, slots=True)
class Array:
    """A grid of processing elements, each of which does one operation at a time.

    Args:
        name: e.g. ``pe2d``.
        axes: its directions; places = the product of their sizes.
        cycles: (operator, cycles for one element) pairs; an operator that is not listed does
            not exist on the array; 0 for one that is part of the operator before it. ``mac`` is
            a multiplication feeding a sum, done as one.
        energy_pj: (operator, picojoules for one element) pairs.
        depth_cycles: cycles from the first operand in to the first result out of one place
            (pipeline depth); the simulator charges it, the model does not.
        skewed: whether operands enter as a systolic wavefront, one place later for each step
            along each axis; the simulator charges the fill, the model does not.
        area_um2: area of one place.
        registers: vector registers of a core, in which a reduction keeps a tile; 0 for none.
        chained: whether what a place has computed can be used in that place at once, while the
            wavefront goes on; otherwise a tile that needs another waits until the last place has
            it. The simulator charges the difference.
        result_cycles: cycles until an operation of a place can use the result of the one before;
            operations that do not need each other start one after another all the same. The
            simulator charges it, the model does not.
        operand_ports: words that a place can read from its registers in a cycle; operations with
            more operands (a multiply-add has 3, each cycle of an exponential too) take more
            cycles. 0 for any number. The simulator charges it, the model does not.
        rates: (number format, speed) pairs: how many times as fast as `cycles` says it works in a
            format; 0 for not at all. "" stands for all formats that are not listed, which
            otherwise have speed 1.
    """

    name: str
    axes: tuple[Axis, ...]
    cycles: tuple[tuple[str, float], ...]
    energy_pj: tuple[tuple[str, float], ...] = ()
    depth_cycles: int = 1
    skewed: bool = False
    area_um2: float = 0.0
    registers: int = 0
    chained: bool = False
    result_cycles: int = 1
    operand_ports: int = 0
    rates: tuple[tuple[str, float], ...] = ()

    @property
    def places(self) -> int:
        """Processing elements in all."""
        return math.prod(axis.size for axis in self.axes)

    def axis(self, name: str) -> Axis:
        """Return the axis with this name.

        Raises:
            UnknownNameError: there is none.
        """
        for axis in self.axes:
            if axis.name == name:
                return axis
        raise UnknownNameError(f"axis of {self.name}", name, [axis.name for axis in self.axes])


@dataclass(frozen=True, slots=True)
class Target:
    """A machine to map to.

    Args:
        name: lower case.
        family: decides which generators apply.
        clock_hz: of the arrays.
        memories: from the outermost (DRAM) inward.
        arrays: what computes.
        format: the number format the machine is described for, e.g. ``fp16``.
        source: where the numbers come from; single numbers have theirs in the machine's file.
        resources: (name, count) pairs of an FPGA part: LUT, FF, DSP, BRAM, URAM.
        part: the vendor's part or architecture name (``sm_90a``, ``xcu280-fsvh2892-2L-e``).
        notes: what is left out, assumed or unchecked.
        sizings: for a machine that is still to be built (FPGAs), what a design may choose: each
            a tuple of (path, number) pairs for `override`.
    """

    name: str
    family: Family
    clock_hz: float
    memories: tuple[Memory, ...]
    arrays: tuple[Array, ...]
    format: str
    source: str
    resources: tuple[tuple[str, int], ...] = ()
    part: str = ""
    notes: tuple[str, ...] = field(default=())
    sizings: tuple[tuple[tuple[str, float], ...], ...] = ()

    def __post_init__(self) -> None:
        names = [each.name for each in self.memories] + [each.name for each in self.arrays]
        double = sorted({name for name in names if names.count(name) > 1})
        if double:
            raise TargetError(f"target {self.name} names {double[0]} twice", fix="rename one")
        if not self.memories or not self.arrays:
            raise TargetError(f"target {self.name} has no memory or no array", fix="add one")
        arrays = [array.name for array in self.arrays]
        for memory in self.memories:
            if memory.array and memory.array not in arrays:
                raise UnknownNameError("array", memory.array, arrays)
        _check_numbers(self)

    @property
    def dram(self) -> Memory:
        """The outermost memory."""
        return self.memories[0]

    @property
    def buffer(self) -> Memory | None:
        """The outermost memory inside that which all arrays reach, None without one."""
        return next((each for each in self.memories[1:] if not each.array), None)

    @property
    def has_energies(self) -> bool:
        """Whether energies are known: of every array's operations, and of the outermost memory."""
        return self.dram.read_pj_per_byte > 0 and all(array.energy_pj for array in self.arrays)

    def check_energies(self, objective: str) -> None:
        """Check that an objective can be had.

        Raises:
            TargetError: it needs energies, which the machine does not have.
        """
        if objective != "latency" and not self.has_energies:
            lacking = [each.name for each in self.arrays if not each.energy_pj]
            raise TargetError(
                f"{self.name} has no energies of {', '.join(lacking) or self.dram.name}, "
                f"which the objective {objective} needs",
                fix="take the objective latency, or a copy of the machine with energy_pj and "
                "read_pj_per_byte",
            )

    def without_energies(self) -> Target:
        """Return the machine with no energies at all: a sum of some of them would say nothing."""
        memories = tuple(
            replace(each, read_pj_per_byte=0.0, write_pj_per_byte=0.0) for each in self.memories
        )
        return replace(
            self,
            memories=memories,
            arrays=tuple(replace(each, energy_pj=()) for each in self.arrays),
        )

    def memory(self, name: str) -> Memory:
        """Return the memory with this name.

        Raises:
            UnknownNameError: there is none.
        """
        for memory in self.memories:
            if memory.name == name:
                return memory
        raise UnknownNameError(f"memory of {self.name}", name, [m.name for m in self.memories])

    def array(self, name: str) -> Array:
        """Return the array with this name.

        Raises:
            UnknownNameError: there is none.
        """
        for array in self.arrays:
            if array.name == name:
                return array
        raise UnknownNameError(f"array of {self.name}", name, [a.name for a in self.arrays])

    def override(self, path: str, value: float) -> Target:
        """Return the machine with one number changed.

        Args:
            path: ``clock_hz``, ``gb.capacity_bytes``, ``pe2d.rows`` (size of an axis) or
                ``pe2d.depth_cycles``.
            value: the new number, in the unit that the field's name says.

        Memories that an array's places own are as many as before for each place when the size
        of an axis changes; blocks of an FPGA that a memory takes change with its capacity. If it
        is a number that ``sizings`` choose, there is nothing left to choose.

        Raises:
            TargetError: the number cannot be one of a machine.
            UnknownNameError: nothing has that path.
        """
        chosen = any(each == path for sizing in self.sizings for each, _ in sizing)
        sizings = () if chosen else self.sizings
        owner, _, name = path.rpartition(".")
        if not owner:
            changed_target: Target = _set(self, name, value)
            return changed_target
        if owner in [memory.name for memory in self.memories]:
            old = self.memory(owner)
            new = _set(old, name, value)
            times = new.capacity_bytes / old.capacity_bytes if name == "capacity_bytes" else 1.0
            new = replace(new, uses=tuple((each, n * times) for each, n in old.uses))
            swapped = tuple(new if each.name == owner else each for each in self.memories)
            return replace(self, memories=swapped)
        array = self.array(owner)
        memories = self.memories
        if name in [axis.name for axis in array.axes]:
            axes = tuple(
                replace(axis, size=_whole(path, value)) if axis.name == name else axis
                for axis in array.axes
            )
            changed = replace(array, axes=axes)
            memories = tuple(_as_many(each, array, changed) for each in memories)
        else:
            changed = _set(array, name, value)
        arrays = tuple(changed if each.name == owner else each for each in self.arrays)
        return replace(self, arrays=arrays, memories=memories, sizings=sizings)

    def in_format(self, fmt: str) -> Target:
        """Return the machine as it works in a number format: cycles by rate, no idle array.

        Args:
            fmt: name of a number format.

        Raises:
            TargetError: no array works in it.
        """
        if not any(array.rates for array in self.arrays):
            return self
        speeds = {a.name: dict(a.rates).get(fmt, dict(a.rates).get("", 1.0)) for a in self.arrays}
        arrays = tuple(
            replace(
                array,
                cycles=tuple((op, cost / speeds[array.name]) for op, cost in array.cycles),
                rates=((fmt, 1.0), ("", 0.0)) if array.rates else (),
            )
            for array in self.arrays
            if speeds[array.name]
        )
        if not arrays:
            raise TargetError(f"no array of {self.name} works in {fmt}", fix="take another format")
        names = ("", *(array.name for array in arrays))
        memories = tuple(memory for memory in self.memories if memory.array in names)
        return replace(self, arrays=arrays, memories=memories, format=fmt)

    def sized(self) -> tuple[Target, ...]:
        """Return the machines that a design may choose from: itself if there is no choice."""
        return tuple(dict.fromkeys(self._built(each) for each in ((), *self.sizings)))

    def sizing_of(self, built: Target) -> tuple[tuple[str, float], ...]:
        """Return the choice of ``sizings`` that makes one of the machines; () without any."""
        return next((each for each in self.sizings if self._built(each) == built), ())

    def _built(self, sizing: tuple[tuple[str, float], ...]) -> Target:
        built = replace(self, sizings=())
        for path, number in sizing:
            built = built.override(path, number)
        return built

    def needed(self) -> dict[str, float]:
        """Return resource → how much of it all memories take together."""
        total: dict[str, float] = {}
        for memory in self.memories:
            for name, each in memory.uses:
                total[name] = total.get(name, 0.0) + each * memory.instances
        return total

    def spread(self, memory: Memory) -> tuple[Axis, ...] | None:
        """Return the axes over which the instances of an array's own memory are spread.

        A register file of a 2D array has an instance at each place (both axes), the scratchpad
        of a processor core one for each core (the first axis). None if the instances are no such
        product, or no array owns the memory: then they are one pool.
        """
        if not memory.array:
            return None
        return _spread(memory, self.array(memory.array))


def _spread(memory: Memory, array: Array) -> tuple[Axis, ...] | None:
    for count in range(len(array.axes), -1, -1):
        if math.prod(axis.size for axis in array.axes[:count]) == memory.instances:
            return array.axes[:count]
    return None


def _as_many(memory: Memory, old: Array, new: Array) -> Memory:
    axes = _spread(memory, old) if memory.array == old.name else None
    if axes is None:
        return memory
    names = [axis.name for axis in axes]
    sizes = [axis.size for axis in new.axes if axis.name in names]
    return replace(memory, instances=math.prod(sizes))


def _whole(path: str, value: float) -> int:
    if value != int(value):
        raise TargetError(f"{path} is {value:g}", fix="give it a whole number")
    return int(value)


def _check_numbers(target: Target) -> None:
    """Sizes, clock and costs are positive."""
    numbers = {"clock_hz": target.clock_hz}
    for array in target.arrays:
        numbers |= {f"{array.name}.{axis.name}": axis.size for axis in array.axes}
        numbers[f"{array.name}.result_cycles"] = array.result_cycles
        if array.operand_ports:
            numbers[f"{array.name}.operand_ports"] = array.operand_ports
        numbers |= {f"{array.name}.cycles.{name}": cost for name, cost in array.cycles if cost}
    for memory in target.memories:
        numbers[f"{memory.name}.capacity_bytes"] = memory.capacity_bytes
        numbers[f"{memory.name}.bytes_per_cycle"] = memory.bytes_per_cycle
        numbers[f"{memory.name}.instances"] = memory.instances
        numbers[f"{memory.name}.banks"] = memory.banks
        if memory.refresh_every_cycles:  # it works between two stops
            room = memory.refresh_every_cycles - memory.refresh_cycles
            numbers[f"{memory.name}.refresh_every_cycles less refresh_cycles"] = room
    for path, value in numbers.items():
        if not value > 0:
            raise TargetError(
                f"{path} of {target.name} is {value:g}", fix="give it a number above 0"
            )


def _set(owner: Any, name: str, value: float) -> Any:
    """Replace one numeric field of a frozen dataclass."""
    numeric = {
        field.name: field.type
        for field in fields(owner)
        if isinstance(getattr(owner, field.name), int | float) and field.type != "bool"
    }
    if name not in numeric:
        raise UnknownNameError(f"number of {owner.name}", name, numeric)
    if numeric[name] == "int":
        return replace(owner, **{name: _whole(f"{owner.name}.{name}", value)})
    kind = type(getattr(owner, name))  # a machine may give 16 where a float is declared
    return replace(owner, **{name: kind(value) if kind(value) == value else float(value)})

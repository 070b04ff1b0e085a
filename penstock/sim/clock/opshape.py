"""One op of a core: where its words lie, which addresses and conditions its places have.

`Site` knows where each kept tile lies and the micro-operations of each Einsum; a `Builder` makes
the shape of one op out of a rectangle of an iteration space. Excluded: which ops there are, what
they wait for (`assemble.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from penstock.einsum_ir.affine import Affine, affine
from penstock.einsum_ir.formats import Format
from penstock.einsum_ir.nodes import Access, Apply, Einsum, Expr, Num, accesses, substitute
from penstock.einsum_ir.regions.conditions import TRUE
from penstock.einsum_ir.regions.presence import PresenceAnalysis
from penstock.einsum_ir.shapes import Bound
from penstock.errors import MappingError
from penstock.machine.body import Point, point
from penstock.machine.encode import lanes_clash
from penstock.machine.hardware import Hardware
from penstock.machine.program import Condition, Index, Operand, Shape, Write
from penstock.sim.clock.record import Level, Move, Piece, Place, Recorder, Visit, earlier
from penstock.sim.plan import Hold

__all__ = ["Builder", "Room", "Site"]


@dataclass(frozen=True, slots=True)
class Room:
    """Where the tiles of a hold lie: words `base` + copy * size of partition `part`."""

    part: int
    base: int
    size: int
    strides: tuple[int, ...]

    def start(self, place: Place) -> int:
        """Return the address of coordinate 0, ..: of the tile's words, if it reached that far."""
        copy = (place.turn - 1) % place.hold.copies
        inside = sum(
            low * stride for (low, _), stride in zip(place.block.bounds, self.strides, strict=True)
        )
        return self.base + copy * self.size - inside


class Site:
    """Where tiles lie, and the micro-operations of points; lives while a program is made."""

    def __init__(self, recorder: Recorder, bound: Bound, fmt: Format, hw: Hardware) -> None:
        self.bound, self.fmt, self.hw = bound, fmt, hw
        self.presence = PresenceAnalysis(bound)
        self.points: dict[tuple[object, ...], Point] = {}
        self.rooms, self.words = _rooms(recorder, hw)

    def point(self, visit: Visit, einsum: Einsum, tests: tuple[Expr, ...], initial: bool) -> Point:
        """Return the micro-operations of a point; made once for equal ones."""
        key = (einsum, visit.array, tests, initial)
        if key not in self.points:
            carried = earlier(einsum) if self._carries(visit, einsum) else None
            self.points[key] = point(
                einsum,
                tests,
                carried,
                einsum.output if initial else None,
                self.bound,
                self.fmt,
                self.hw.core(visit.array),
                self.hw,
            )
        return self.points[key]

    def _carries(self, visit: Visit, einsum: Einsum) -> bool:
        """Whether a step may be absent, so that the state goes on."""
        if einsum.iterative is None or visit.how != "compute" or einsum.init:
            return False
        held = self.presence.point(einsum)
        if held.exact and str(held) == str(TRUE):
            return False
        if einsum.reduce is not None:
            raise MappingError(
                f"{einsum.name} is a state whose steps reduce and may be absent, which the RTL "
                "does not have",
                span=einsum.span,
                fix="reduce in an Einsum of its own",
            )
        return True

    def wrap(self, address: int) -> int:
        """Return an address within a partition."""
        return address % (1 << self.hw.address_bits)

    def too_many(self, name: str, what: str) -> MappingError:
        """Return the error for more than the RTL has counters for."""
        return MappingError(
            f"{name} needs more than {self.hw.loops} {what}, which the RTL has counters for",
            fix="put loops outside the leaf, or merge ranks",
        )


def _rooms(recorder: Recorder, hw: Hardware) -> tuple[dict[Hold, Room], int]:
    """Give each hold its words; return how many of a bank that takes at most, too."""
    sizes: dict[Hold, list[int]] = {}
    parts: dict[str, int] = defaultdict(int)
    names = {name: n for n, name in enumerate(hw.units)}

    def note(place: Place) -> None:
        found = [stop - start for start, stop in place.block.bounds]
        known = sizes.setdefault(place.hold, found)
        sizes[place.hold] = [max(pair) for pair in zip(known, found, strict=True)]

    for record in recorder.records:
        if isinstance(record, Move):
            note(record.place)
        else:
            parts[record.write.hold.tensor] = names[record.array] - 1
            for place in (*record.reads.values(), record.write):
                note(place)
    rooms, used = {}, [0] * (len(hw.units) - 1)
    for hold, dims in sizes.items():
        strides, size = [], 1
        for extent in reversed(dims):
            strides.append(size)
            size *= extent | 1
        part = parts[hold.tensor]
        rooms[hold] = Room(part, used[part], size, tuple(reversed(strides)))
        used[part] += size * hold.copies
    for part, words in enumerate(used):
        if words > hw.banks * hw.words:
            raise MappingError(
                f"the tensors that {hw.units[part + 1 if part else 0]} writes need {words} words, "
                f"and its part of the buffer has {hw.banks * hw.words}",
                fix="take smaller tiles or shapes, or a machine with a larger buffer",
            )
    return rooms, -(-max(used) // hw.banks)


class Builder:
    """One op of a core: strides and bases over the levels of a rectangle."""

    def __init__(self, owner: Site, visit: Visit, einsum: Einsum, piece: Piece) -> None:
        self.owner, self.visit, self.einsum, self.piece = owner, visit, einsum, piece
        rect = piece.rect
        self.starts = dict(rect.starts)
        self.spans = rect.spans()
        reduced = set(einsum.reduce.over) if einsum.reduce else set()
        levels = [level for level in rect.levels if level.count > 1]
        levels = [level for level in levels if level.variable in einsum.variables]
        time = [level for level in levels if not level.axis]
        self.outer = [level for level in time if level.variable not in reduced]
        self.inner = [level for level in time if level.variable in reduced]
        self.time = [*self.outer, *self.inner]
        if len(self.time) > owner.hw.loops:
            raise owner.too_many(einsum.name, "loops in time")
        core = owner.hw.core(visit.array)
        self.rows = self._axis(levels, core.axes[0] if len(core.axes) == 2 else "", core.name)
        self.cols = self._axis(levels, core.axes[-1], core.name)
        self.over_rows = self.rows is not None and self.rows.variable in reduced
        self.over_cols = self.cols is not None and self.cols.variable in reduced

    def _axis(self, levels: Sequence[Level], axis: str, core: str) -> Level | None:
        along = [level for level in levels if axis and level.axis == axis]
        if len(along) > 1:
            names = ", ".join(level.variable for level in along)
            raise MappingError(
                f"{self.einsum.name} lays {names} along axis {axis} of {core} together, and the "
                "RTL lays one variable along an axis",
                fix=f"take one of {names} off the axis",
            )
        places = self.owner.hw.core(core)
        size = places.cols if axis == places.axes[-1] else places.rows
        assert not along or along[0].count <= size, (self.einsum.name, along, size)
        return along[0] if along else None

    def build(self, tests: tuple[Expr, ...], *, clear: bool) -> tuple[Shape, list[int]]:
        """Return the op's shape and its bases."""
        tested, conditions, bases = self._split(tests)
        initial = self.piece.before is not None
        made = self.owner.point(self.visit, self.einsum, tested, initial)
        operands, addresses = self._operands(made)
        for k, access in enumerate(made.accesses):
            self._ranges(k, access, conditions, bases)
        if clear:
            conditions.append(Condition((0,) * len(self.time), 0, 0, (), point=True))
            bases.append(-1)
        if len(conditions) > self.owner.hw.conditions:
            raise MappingError(
                f"{self.einsum.name} has {len(conditions)} conditions in one tile (predicates and "
                f"ranges of indices), and the RTL tests {self.owner.hw.conditions}",
                span=self.einsum.span,
                fix="split the predicate over several Einsums",
            )
        lines = [self._line(form) for form in made.indices]
        indices = tuple(Index(strides, row, col) for _, strides, row, col in lines)
        write, target = self._write(made)
        shape = Shape(
            tuple(level.count for level in self.time),
            len(self.inner),
            self.rows.count if self.rows else 1,
            self.cols.count if self.cols else 1,
            operands,
            tuple(conditions),
            indices,
            write,
            made.accesses.index(self.einsum.output) if initial else -1,
            made.uops,
        )
        return shape, [*addresses, *bases, *(base for base, *_ in lines), target]

    def _line(self, form: Affine) -> tuple[int, tuple[int, ...], int, int]:
        """Return base, strides in time, and steps by row and column of an affine form."""
        factors = dict(form.coefficients)
        base = form.constant + sum(factor * self.starts[n] for n, factor in factors.items())
        steps = [factors.get(level.variable, 0) * level.stride for level in self.time]
        row = factors.get(self.rows.variable, 0) * self.rows.stride if self.rows else 0
        col = factors.get(self.cols.variable, 0) * self.cols.stride if self.cols else 0
        return base, tuple(steps), row, col

    def _form(self, index: Expr) -> Affine | None:
        """Return the affine form of an index in this rectangle."""
        single: dict[str, Expr] = {
            name: Num(start) for name, (start, stop) in self.spans.items() if stop - start == 1
        }
        return affine(substitute(index, single), self.owner.bound.symbols)

    def _address(self, access: Access, place: Place) -> tuple[int, tuple[int, ...], int, int]:
        room = self.owner.rooms[place.hold]
        total, strides = room.start(place), [0] * len(self.time)
        row = col = 0
        for index, factor in zip(access.indices, room.strides, strict=True):
            form = None if accesses(index) else self._form(index)
            if form is None:
                raise MappingError(
                    f"{self.einsum.name} reads {access}, and the RTL has no address for '{index}': "
                    "it is no sum of multiples of rank variables",
                    span=self.einsum.span,
                    fix="step through its variables in loops around the leaf",
                )
            base, steps, down, right = self._line(form)
            total += base * factor
            strides = [a + b * factor for a, b in zip(strides, steps, strict=True)]
            row, col = row + down * factor, col + right * factor
        return self.owner.wrap(total), tuple(strides), row, col

    def _operands(self, made: Point) -> tuple[tuple[Operand, ...], list[int]]:
        found, bases, loads = [], [], [0, 0]
        for access in made.accesses:
            place = self.visit.reads.get(access.tensor, self.visit.write)
            base, strides, row, col = self._address(access, place)
            beats = self._beats(row, col)
            changing = bool(self.time) and strides[-1] != 0
            port = 0 if loads[0] <= loads[1] else 1
            loads[port] += beats * (4 if changing else 1)
            part = self.owner.rooms[place.hold].part
            found.append(Operand(part, port, strides, row, col))
            bases.append(base)
        return tuple(found), bases

    def _beats(self, row: int, col: int) -> int:
        rows = self.rows.count if self.rows and row else 1
        cols = self.cols.count if self.cols and col else 1
        if cols > 1:
            return rows * (cols if lanes_clash(col, cols) else 1)
        return rows if lanes_clash(row, rows) else 1

    def _ranges(
        self, k: int, access: Access, conditions: list[Condition], bases: list[int]
    ) -> None:
        """Add conditions where an index may leave its dimension."""
        for index, extent in zip(access.indices, self.owner.bound.dims[access.tensor], strict=True):
            form = self._form(index)
            assert form is not None
            low = high = form.constant
            for name, factor in form.coefficients:
                start, stop = self.spans[name]
                ends = (factor * start, factor * (stop - 1))
                low, high = low + min(ends), high + max(ends)
            below = Affine(tuple((n, -f) for n, f in form.coefficients), extent - 1 - form.constant)
            for needed, test in ((low < 0, form), (high >= extent, below)):
                if needed:
                    base, strides, row, col = self._line(test)
                    conditions.append(Condition(strides, row, col, (k,), point=False))
                    bases.append(base)

    def _split(
        self, tests: tuple[Expr, ...]
    ) -> tuple[tuple[Expr, ...], list[Condition], list[int]]:
        """Return the tests that are no affine conditions, and those that are."""
        rest, conditions, bases = [], [], []
        for test in tests:
            forms = None if accesses(test) else self._forms(test)
            if forms is None:
                rest.append(test)
                continue
            for form in forms:
                base, strides, row, col = self._line(form)
                conditions.append(Condition(strides, row, col, (), point=True))
                bases.append(base)
        return tuple(rest), conditions, bases

    def _forms(self, test: Expr) -> list[Affine] | None:
        """Return forms that are at least 0 just where a comparison holds."""
        match test:
            case Apply("<=" | "<" | ">=" | ">" | "==" as op, (left, right)):
                a, b = self._form(left), self._form(right)
            case _:
                return None
        if a is None or b is None:
            return None
        up, down = _difference(b, a), _difference(a, b)  # b - a, a - b
        match op:
            case "<=":
                return [up]
            case "<":
                return [replace(up, constant=up.constant - 1)]
            case ">=":
                return [down]
            case ">":
                return [replace(down, constant=down.constant - 1)]
            case _:
                return [up, down]

    def _write(self, made: Point) -> tuple[Write, int]:
        base, strides, row, col = self._address(self.einsum.output, self.visit.write)
        shift = made.fraction - self.owner.fmt.fraction_bits
        reduce = self.einsum.reduce
        write = Write(
            strides,
            row,
            col,
            reduce.op if reduce else "sum",
            self.over_rows,
            self.over_cols,
            not self.piece.final,
            max(-shift, 0),
            max(shift, 0),
        )
        return write, base


def _difference(a: Affine, b: Affine) -> Affine:
    factors = dict(a.coefficients)
    for name, factor in b.coefficients:
        factors[name] = factors.get(name, 0) - factor
    kept = tuple((name, factor) for name, factor in factors.items() if factor)
    return Affine(kept, a.constant - b.constant)

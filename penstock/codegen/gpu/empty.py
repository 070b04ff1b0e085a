"""Key tiles that nothing of a block needs, where the program itself does not leave them out.

A program whose values have stored masks resets the masks in every tile, and so visits every tile.
Where no condition of any statement can hold in a tile, and all else waits for masks that such
statements set, nothing changes that lives longer than the tile: it is skipped. States that a
correction multiplies by ``exp(x - x)`` have not changed; what is computed again from other states
is the same again, once it has been computed in the first tile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from penstock.codegen.loops.nodes import (
    Alloc,
    Block,
    Buffer,
    Const,
    For,
    If,
    Load,
    LoopExpr,
    LoopStmt,
    Name,
    Op,
    Store,
    walk_statements,
)
from penstock.codegen.loops.walk import loads
from penstock.codegen.tvm.ranges import NEGATED, Interval, holds, interval, names

__all__ = ["needed"]


@dataclass(frozen=True, slots=True)
class _Guarded:
    """A store and the conditions around it."""

    store: Store
    conditions: tuple[LoopExpr, ...]


def needed(loop: For, body: LoopStmt, grid: Mapping[str, Interval]) -> LoopExpr | None:
    """Return a condition of the tile without which its body changes nothing; None for none.

    Args:
        loop: over tiles.
        body: of that loop.
        grid: ranges of the variables around the loop that have constant ones.
    """
    box = {
        each.variable: (0, bounds[1] - 1)
        for each in walk_statements(body)
        if isinstance(each, For) and (bounds := interval(each.extent, grid)) is not None
    }
    tile = _Tile(body, loop.variable)
    roots: dict[LoopExpr, None] = {}
    again = False
    for each in tile.stores:
        if tile.idle(each):
            continue
        found = _all_possible(each, box)
        if found is None and tile.repeats(each):
            again = True
        elif found is None:
            return None
        else:
            roots[found] = None
    whole: LoopExpr | None = None
    for root in roots:
        whole = root if whole is None else Op("or", (whole, root))
    if whole is None or not again:
        return whole
    first = Op(
        "==", (Name(loop.variable), Const(0, True))
    )  # what is repeated is there from then on
    return Op("or", (first, whole))


def _all_possible(each: _Guarded, box: Mapping[str, Interval]) -> LoopExpr | None:
    """Return what must hold if all conditions of a store do at one point of a box."""
    found: LoopExpr | None = None
    for condition in each.conditions:
        may = _possible(condition, box)
        if may is not None:
            found = may if found is None else Op("and", (found, may))
    return found


class _Tile:
    """What the stores of a tile do if no condition of coordinates holds in it.

    ``unset`` are the masks that then stay cleared.
    """

    def __init__(self, body: LoopStmt, loop: str) -> None:
        self.loop = loop
        inner = [each.buffer for each in walk_statements(body) if isinstance(each, Alloc)]
        self.own = {each.name for each in inner}
        self.stores = list(_guarded(body, ()))
        self.unset = {each.name for each in inner if each.kind == "mask" and self._cleared(each)}
        before = -1
        while before != len(self.unset):
            before = len(self.unset)
            self.unset -= {
                each.store.buffer
                for each in self.stores
                if each.store.value != Const(0, True)
                and not any(_waits(condition, self.unset) for condition in each.conditions)
                and _all_possible(each, {}) is None
            }

    def _cleared(self, mask: Buffer) -> bool:
        """Whether a mask is cleared before anything else is done with it."""
        first = next((each for each in self.stores if each.store.buffer == mask.name), None)
        return first is not None and not first.conditions and first.store.value == Const(0, True)

    def _only(self, name: str) -> _Guarded | None:
        found = [each for each in self.stores if each.store.buffer == name]
        return found[0] if len(found) == 1 else None

    def idle(self, each: _Guarded) -> bool:
        """Whether a store changes nothing that is read in another tile."""
        store = each.store
        if store.buffer in self.own and store.buffer not in self.unset:
            return True
        if store.buffer in self.unset and store.value == Const(0, True):
            return True
        waits = any(_waits(condition, self.unset) for condition in each.conditions)
        return waits or self._copies(store) or self._carries(each)

    def _copies(self, store: Store) -> bool:
        """Whether it says again what another buffer has, and is the only one of its own."""
        match store.value:
            case Load(name, indices) if indices == store.indices and name not in self.own:
                return self._stays(store) and self._only(store.buffer) is not None
            case _:
                return False

    def _stays(self, store: Store) -> bool:
        """Whether an element lives from tile to tile."""
        moved = any(self.loop in names(index) for index in store.indices)
        return store.buffer not in self.own and not moved

    def _carries(self, each: _Guarded) -> bool:
        """Whether it gives a state that has not moved: times 1, plus nothing; or its own mask."""
        name, at = each.store.buffer, _order(each.store.indices)
        if not self._stays(each.store):
            return False
        conditions = [_reduced(condition, self.unset) for condition in each.conditions]
        value = _reduced(each.store.value, self.unset)
        match value:
            case Op("where", (condition, then, _)) if condition in conditions:
                value = then
        if isinstance(value, Load):
            return _order(value.indices) == at and self._is_carried(value.buffer, name)
        if value != Const(1, True):
            return False
        marks = {each.buffer for each in conditions if isinstance(each, Load)}
        setters = [
            other
            for other in self.stores
            if other.store.buffer in marks and other.store.value != Const(0, True)
        ]
        return bool(setters) and all(
            any(isinstance(c, Load) and c.buffer == name for c in other.conditions)
            for other in setters
        )

    def _is_carried(self, name: str, state: str) -> bool:
        """Whether a value of the tile is a state times a factor that is 1."""
        made = self._only(name)
        if made is None:
            return False
        match made.store.value:
            case Op("*", (Load(old, at), Load(factor, _))):
                same = old == state and _order(at) == _order(made.store.indices)
                return same and self._is_one(factor)
            case _:
                return False

    def _is_one(self, name: str) -> bool:
        """Whether a factor is ``exp`` of how far a value moves that is copied at the end."""
        made = self._only(name)
        if made is None:
            return False
        match made.store.value:
            case Op("exp" | "exp2", (Op("-", (Load(one, at), Load(other, same))),)) if at == same:
                pair = {one, other}
            case _:
                return False
        return any(
            isinstance(each.store.value, Load)
            and {each.store.buffer, each.store.value.buffer} == pair
            and self._copies(each.store)
            for each in self.stores
        )

    def repeats(self, each: _Guarded) -> bool:
        """Whether a store computes the same again from what no tile before it has moved."""
        store, read = each.store, {load.buffer for load in loads(each.store.value)}
        return (
            not each.conditions
            and self._stays(store)
            and not read & (self.own | {store.buffer})
            and self.loop not in names(store.value)
            and self._only(store.buffer) is not None
        )


def _order(indices: tuple[LoopExpr, ...]) -> tuple[LoopExpr, ...]:
    """Return the indices that are not constant, numbered in their order."""
    seen: dict[LoopExpr, LoopExpr] = {}
    for each in indices:
        if not isinstance(each, Const):
            seen.setdefault(each, Const(len(seen), True) if isinstance(each, Name) else each)
    return tuple(seen[each] for each in indices if each in seen)


def _reduced(expr: LoopExpr, unset: set[str]) -> LoopExpr:
    """Return an expression where masks are not set, and nothing is added."""
    match expr:
        case Op("where", (Load(mask, _), _, other)) if mask in unset:
            return _reduced(other, unset)
        case Op("where", (condition, then, Load(mask, _))) if mask in unset and condition == then:
            return _reduced(condition, unset)
        case Op("+", (left, right)):
            sides = _reduced(left, unset), _reduced(right, unset)
            return sides[1] if sides[0] == Const(0.0) else Op("+", sides)
        case Op(op, args):
            return Op(op, tuple(_reduced(each, unset) for each in args))
        case _:
            return expr


def _guarded(stmt: LoopStmt, conditions: tuple[LoopExpr, ...]) -> Iterator[_Guarded]:
    match stmt:
        case Store():
            yield _Guarded(stmt, conditions)
        case Block(body):
            for each in body:
                yield from _guarded(each, conditions)
        case If(condition, body):
            yield from _guarded(body, (*conditions, condition))
        case For() | Alloc():
            yield from _guarded(stmt.body, conditions)


def _waits(condition: LoopExpr, masks: set[str]) -> bool:
    """Whether a condition is false while none of the masks is set."""
    match condition:
        case Load(name, _):
            return name in masks
        case Op("and", sides):
            return any(_waits(each, masks) for each in sides)
        case Op("where", (mask, then, other)):
            return _waits(other, masks) and (_waits(mask, masks) or _waits(then, masks))
        case _:
            return False


def _possible(condition: LoopExpr, box: Mapping[str, Interval]) -> LoopExpr | None:
    """Return what must hold if a condition holds anywhere in a box; None if nothing is known."""
    match condition:
        case Op("and", (left, right)):
            found = [each for side in (left, right) if (each := _possible(side, box)) is not None]
            return Op("and", (found[0], found[1])) if len(found) == 2 else next(iter(found), None)
        case Op("or", (left, right)):
            first, second = _possible(left, box), _possible(right, box)
            if first is None or second is None or first == second:
                return first if first == second else None
            return Op("or", (first, second))
        case Op(op, sides) if op in NEGATED and not any(True for _ in loads(condition)):
            never = holds(Op(NEGATED[op], sides), box, frozenset())
            match never:
                case Op(other, ends) if other in NEGATED:
                    return Op(NEGATED[other], ends)
            return None
        case _:
            return None

"""The parts of one step over key tiles, and what may overlap with what.

``scores`` are products whose left side waits in shared memory; ``soft`` is what stands between;
``sums`` are products whose left side `soft` has left in registers; ``post`` needs their results.
A sum ``X = T + Y`` after a product T becomes ``X = Y`` in ``soft`` and a product that adds to X,
so that no second fragment is needed. ``soft`` is further cut into what must wait for the sums of
the step before (it writes what they write) and what may run beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from penstock.codegen.gpu.fragment import Layout
from penstock.codegen.gpu.tile import Product, Step, TileKernel
from penstock.codegen.gpu.unfit import Unfit
from penstock.codegen.loops.nodes import (
    Block,
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
from penstock.codegen.loops.rewrite import map_bodies, substituted
from penstock.codegen.loops.walk import loads, touched

__all__ = ["Parts", "Sum", "parts_of"]


@dataclass(frozen=True, slots=True)
class Sum:
    """A product that adds to a fragment, or (``fresh``) starts from 0."""

    product: Product
    target: str
    fresh: bool


@dataclass(frozen=True, slots=True)
class Parts:
    """One step; see the module.

    ``early`` of ``soft`` may run while the sums of the step before do, ``late`` may not.
    """

    scores: tuple[Product, ...]
    early: tuple[Product | Step, ...]
    late: tuple[Step, ...]
    sums: tuple[Sum, ...]
    post: tuple[Step, ...]


def parts_of(made: TileKernel, layout: Layout) -> Parts:
    """Cut a step into its parts.

    Raises:
        Unfit: products that need each other in a way that no part has room for.
    """
    scores = tuple(each for each in made.products if _of_tile(each, layout))
    soft: list[Product | Step] = []
    sums: list[Sum] = []
    post: list[Step] = []
    for place, each in enumerate(made.steps):
        if isinstance(each, Product):
            if each in scores:
                _check_score(each, made.steps[:place])
                soft.append(each)
            elif post and _conflict(_of_product(each), _all(post)):
                raise Unfit(f"{each.result.buffer} needs another product of its step")
            else:
                sums.append(Sum(each, each.result.buffer, True))
                soft.append(each)
            continue
        fused = _fused(each, sums, made, place)
        if fused is not None:
            at, changed, step = fused
            sums[at] = changed
            soft.append(step)
            continue
        written = frozenset(one.target for one in sums)
        mine = touched(each.body)
        if (mine[0] | mine[1]) & written or _conflict(mine, _all(post)):
            post.append(each)
        else:
            soft.append(each)
    if not scores or not sums:
        raise Unfit("its products are not a pair with code between them")
    early, late = _cut(soft, frozenset(one.target for one in sums))
    return Parts(scores, early, late, tuple(sums), tuple(post))


_Touched = tuple[frozenset[str], frozenset[str]]


def _of_tile(product: Product, layout: Layout) -> bool:
    read = [load.buffer for load in loads(product.left) if load.buffer in layout.shapes]
    return all(layout.shapes[name].kind == "tile" for name in read)


def _of_product(product: Product) -> _Touched:
    read = {load.buffer for load in loads(product.left)}
    read |= {load.buffer for guard in product.guards for load in loads(guard)}
    return frozenset(read), frozenset((product.result.buffer,))


def _all(steps: Sequence[Step]) -> _Touched:
    found = [touched(each.body) for each in steps]
    read = frozenset().union(*(each[0] for each in found))
    return read, frozenset().union(*(each[1] for each in found))


def _conflict(one: _Touched, other: _Touched) -> bool:
    return bool(one[0] & other[1] or one[1] & (other[0] | other[1]))


def _check_score(product: Product, before: Sequence[Product | Step]) -> None:
    for each in before:
        if isinstance(each, Step) and product.result.buffer in touched(each.body)[1]:
            raise Unfit(f"{product.result.buffer} has a value before its product")


# -- sums that go into a product ---------------------------------------------------------------


def _fused(
    step: Step, sums: Sequence[Sum], made: TileKernel, place: int
) -> tuple[int, Sum, Step] | None:
    """Return which sum a step takes up, how, and what is left of the step."""
    stores = [each for each in walk_statements(step.body) if isinstance(each, Store)]
    values = [
        each
        for each in stores
        if made.local.get(each.buffer) and made.local[each.buffer].kind != "mask"
    ]
    if len(values) != 1:
        return None
    (store,) = values
    for at, each in enumerate(sums):
        name = each.product.result.buffer
        if not each.fresh or not any(load.buffer == name for load in loads(store.value)):
            continue
        rest = _without(store.value, name, {mask.buffer for mask in each.product.masks})
        readers = [
            other
            for other in made.steps
            if other is not step
            and not isinstance(other, Product)
            and name in touched(other.body)[0]
        ]
        if rest is None or readers or store.buffer not in made.local:
            return None
        if not _implied(_conditions(step.body, store), each.product, step.body):
            return None
        body = _replaced(step.body, store, replace(store, value=rest))
        return at, replace(each, target=store.buffer, fresh=False), replace(step, body=body)
    return None


def _without(expr: LoopExpr, name: str, marks: set[str]) -> LoopExpr | None:
    """Return ``expr - T`` if it is T plus something wherever T is there, else None."""
    match expr:
        case Load(buffer, _) if buffer == name:
            return Const(0.0)
        case Op("+", (left, right)):
            if not _reads(right, name):
                return _plus(_without(left, name, marks), right)
            if not _reads(left, name):
                return _plus(_without(right, name, marks), left)
            return None
        case Op("where", (Load(mask, _), Load(buffer, _), Const(0.0))) if (
            buffer == name and mask in marks
        ):
            return Const(0.0)  # where T is absent its product is 0
        case Op("where", (condition, then, other)) if not _reads(condition, name):
            first, second = _without(then, name, marks), _without(other, name, marks)
            if first is None or second is None:
                return None
            return Op("where", (condition, first, second))
        case _:
            return None


def _plus(left: LoopExpr | None, right: LoopExpr) -> LoopExpr | None:
    if left is None:
        return None
    return right if left == Const(0.0) else Op("+", (left, right))


def _reads(expr: LoopExpr, name: str) -> bool:
    return any(load.buffer == name for load in loads(expr))


def _conditions(stmt: LoopStmt, store: Store) -> tuple[LoopExpr, ...]:
    match stmt:
        case If(condition, body):
            return (condition, *_conditions(body, store))
        case For():
            return _conditions(stmt.body, store)
        case Block(body):
            for each in body:
                if any(inner is store for inner in walk_statements(each)):
                    return _conditions(each, store)
        case _:
            pass
    return ()


def _implied(conditions: tuple[LoopExpr, ...], product: Product, step: LoopStmt) -> bool:
    """Whether a sum is made wherever its product has a term, so that adding to it is right."""
    loops = [each.variable for each in walk_statements(step) if isinstance(each, For)]
    marks = {each.buffer for each in product.masks}
    for condition in conditions:
        renamed = [substituted(condition, {name: Name(product.rows.variable)}) for name in loops]
        if _marked(condition, marks) or any(each in product.guards for each in renamed):
            continue
        return False
    return True


def _marked(condition: LoopExpr, marks: set[str]) -> bool:
    """Whether a condition holds wherever a mark is set: the mark, or something else or the mark."""
    match condition:
        case Op("where", (first, second, last)):
            return first == second and _marked(last, marks)
        case Load(mask, _):
            return mask in marks
        case _:
            return False


def _replaced(stmt: LoopStmt, old: Store, new: Store) -> LoopStmt:
    if stmt is old:
        return new
    return map_bodies(stmt, lambda each: _replaced(each, old, new))


# -- what runs beside the sums of the step before ------------------------------------------------


def _cut(
    soft: Sequence[Product | Step], targets: frozenset[str]
) -> tuple[tuple[Product | Step, ...], tuple[Step, ...]]:
    early: list[Product | Step] = []
    late: list[Step] = []
    for each in soft:
        if isinstance(each, Product):
            early.append(each)
            continue
        mine = touched(each.body)
        if (mine[0] | mine[1]) & targets or _conflict(mine, _all(late)):
            late.append(each)
        else:
            early.append(each)
    return tuple(early), tuple(late)

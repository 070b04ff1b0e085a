"""The chain of reductions over a rank: which Einsum needs which, and what each one reads.

Before → after, for attention over m: ``QK`` is an *element* (it has the rank and needs no value of
the whole rank), ``GM``, ``SD`` and ``O`` are *links*, ``SN`` and ``A`` are *moving* (they have the
rank and read links) and are written out in the links' bodies, and whatever has no m is *outer*::

    O[h,p,f] = A[h,p,m] * V[h,m,f]  ->  body exp(QK[h,p,m] - GM[h,p]) / SD[h,p] * V[h,m,f]

Excluded: what can be saved (`plan.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.nodes import (
    Access,
    Apply,
    Einsum,
    Expr,
    Group,
    Num,
    Statement,
    Sym,
    Var,
    accesses,
    next_variable,
    substitute,
    variables,
    walk,
)
from penstock.einsum_ir.rewrite.means import without_means
from penstock.einsum_ir.rewrite.terms import map_access
from penstock.errors import UnknownNameError

__all__ = ["Chain", "ChainError", "Link", "Scan", "extract"]


class ChainError(Exception):
    """A cascade is no chain of reductions over the rank; the message says why."""


@dataclass(frozen=True, slots=True)
class Scan:
    """A prefix sum along the rank: ``C[m + 1] = C[m] + G[m]``, from 0.

    Args:
        einsum: as the author wrote it.
        step: what is added at each coordinate.
    """

    einsum: Einsum
    step: Expr

    @property
    def place(self) -> int:
        """The dimension that steps."""
        return next(n for n, i in enumerate(self.einsum.output.indices) if next_variable(i))


@dataclass(frozen=True, slots=True)
class Link:
    """A reduction over the rank, its moving operands written out.

    Args:
        einsum: as the author wrote it.
        body: over elements and whole values.
        where: its predicate, with those of the operands that are written out; None if always true.
        reads: outer tensors and links that the body reads, in order.
        masks: what decides which points are present; equal sets, equal points.
        partial: element operands that may be absent.
        blocked: why it cannot share the pass of what it reads; empty if it may.
    """

    einsum: Einsum
    body: Expr
    where: Expr | None
    reads: tuple[str, ...]
    masks: frozenset[str]
    partial: tuple[Access, ...] = ()
    blocked: str = ""

    @property
    def name(self) -> str:
        """The tensor that it defines."""
        return self.einsum.name

    @property
    def op(self) -> str:
        """Its reduction, as ``sum``."""
        return "sum" if self.einsum.reduce is None else self.einsum.reduce.op


@dataclass(frozen=True)
class Chain:
    """A cascade sorted by what its Einsums have to do with a rank.

    Args:
        cascade: the cascade, in which the rank has one name.
        rank: the rank variable.
        elements: tensors with the rank that need no whole value.
        moving: tensors with the rank that do.
        scans: prefix sums along the rank.
        links: reductions over the rank, in order.
        outer: other Einsums by tensor; ``init`` ones are left out.
        held: tensors with the rank that are outputs, or are read other than point by point.
        depends: tensor → the links that it needs.
        ready: tensor → passes over the rank that are complete before it exists, as written.
        before: passes as written.
    """

    cascade: Cascade
    rank: str
    elements: Mapping[str, Einsum]
    moving: Mapping[str, Einsum]
    scans: Mapping[str, Scan]
    links: Mapping[str, Link]
    outer: Mapping[str, Einsum]
    held: frozenset[str]
    depends: Mapping[str, frozenset[str]]
    ready: Mapping[str, int]
    before: int


def extract(cascade: Cascade, rank: str) -> Chain:
    """Sort the Einsums of a cascade.

    Args:
        cascade: any cascade.
        rank: a rank variable, over which some Einsum reduces.

    Raises:
        UnknownNameError: no Einsum has the rank.
        ChainError: the rank is stepped along other than by prefix sums.
    """
    used = {name for each in cascade.einsums for name in each.variables}
    if rank not in used:
        raise UnknownNameError("rank variable", rank, sorted(used))
    return _Sorting(_one_name(without_means(cascade, rank), rank), rank).chain()


def _one_name(cascade: Cascade, rank: str) -> Cascade:
    """Rename the variable of an Einsum that runs along the rank of an intermediate tensor."""
    along: dict[str, int] = {}

    def change(einsum: Einsum) -> Einsum:
        if rank not in einsum.variables:
            names = {
                index.name
                for access in einsum.operands
                if access.tensor in along and access.tensor != einsum.name
                for index in (access.indices[along[access.tensor]],)
                if isinstance(index, Var)
            }
            reduced = set(einsum.reduce.over if einsum.reduce else ())
            if len(names & reduced) == 1 and einsum.iterative is None:
                einsum = _renamed(einsum, (names & reduced).pop(), rank)
        if Var(rank) in einsum.output.indices:
            along[einsum.name] = einsum.output.indices.index(Var(rank))
        return einsum

    def statement(each: Statement) -> Statement:
        return each if isinstance(each, Group) else change(each)

    return replace(cascade, statements=tuple(statement(each) for each in cascade.statements))


def _renamed(einsum: Einsum, name: str, rank: str) -> Einsum:
    values: dict[str, Expr] = {name: Var(rank)}
    reduce = einsum.reduce
    if reduce is not None:
        reduce = replace(reduce, over=tuple(rank if each == name else each for each in reduce.over))
    where = None if einsum.where is None else substitute(einsum.where, values)
    return replace(einsum, body=substitute(einsum.body, values), reduce=reduce, where=where)


class _Sorting:
    """Goes over the Einsums in an order in which operands come first."""

    def __init__(self, cascade: Cascade, rank: str) -> None:
        self.cascade, self.rank = cascade, rank
        self.elements: dict[str, Einsum] = {}
        self.moving: dict[str, Einsum] = {}
        self.scans: dict[str, Scan] = {}
        self.links: dict[str, Link] = {}
        self.outer: dict[str, Einsum] = {}
        self.depends: dict[str, frozenset[str]] = {}
        self.ready: dict[str, int] = {}
        self.masks: dict[str, frozenset[str]] = {}
        outputs = {each.tensor for each in cascade.outputs}
        self.held = {name for name in outputs if Var(rank) in cascade.einsum(name).output.indices}
        self.last = 0

    def chain(self) -> Chain:
        for statement in self.cascade.schedule:
            if isinstance(statement, Group):
                self._group(statement)
            elif not statement.init:
                self._einsum(statement)
        return Chain(
            self.cascade,
            self.rank,
            self.elements,
            self.moving,
            self.scans,
            self.links,
            self.outer,
            frozenset(self.held),
            self.depends,
            self.ready,
            max([self.last, *self.ready.values()]),
        )

    def _group(self, group: Group) -> None:
        """A loop over another rank is outer as a whole, if it does not meet the rank."""
        for einsum in group.einsums:
            if self.rank in einsum.variables:
                if group.variable != self.rank:
                    why = f"{einsum.name} has '{self.rank}' in a loop over '{group.variable}'"
                    raise ChainError(why)
                self.scans[einsum.name] = self._scan(einsum)
                continue
            self.outer[einsum.name] = einsum
        names = {each.name for each in group.einsums} - set(self.scans)
        reads = {a.tensor for each in group.einsums for a in each.operands} - names
        for name in names:
            self.depends[name] = self._needs(reads)
            self.ready[name] = max((self.ready.get(each, 0) for each in reads), default=0)
            self.masks[name] = frozenset([f"{name}?"])

    def _scan(self, einsum: Einsum) -> Scan:
        """Read a prefix sum.

        Raises:
            ChainError: it is none.
        """
        name, rank = einsum.name, self.rank
        starts = [each for each in self.cascade.einsums if each.init and each.name == name]
        zero = len(starts) == 1 and starts[0].body == Num(0)
        plain = einsum.reduce is None and einsum.where is None and einsum.iterative == rank
        match einsum.body:
            case Apply("+", (Access(tensor), step)) if tensor == name and plain and zero:
                found = Scan(einsum, step)
            case Apply("+", (step, Access(tensor))) if tensor == name and plain and zero:
                found = Scan(einsum, step)
            case _:
                raise ChainError(f"{name} steps along '{rank}' and is no prefix sum from 0")
        earlier = einsum.output.indices[found.place]
        reads = {access.tensor for access in accesses(found.step)}
        if name in reads or self._needs(reads) or reads & (set(self.elements) | set(self.scans)):
            raise ChainError(f"{name} adds up along '{rank}' what is no input")
        for each in self.cascade.einsums:
            for access in each.operands:
                at = access.indices[found.place] if access.tensor == name else Var(rank)
                if at not in (Var(rank), earlier) and not each.init:
                    raise ChainError(f"{each.name} reads {access}, a prefix of another coordinate")
        return found

    def _needs(self, tensors: set[str]) -> frozenset[str]:
        return frozenset().union(*(self.depends.get(each, frozenset()) for each in tensors))

    def _einsum(self, einsum: Einsum) -> None:
        reads = {access.tensor for access in einsum.operands}
        self._hold(einsum)
        if einsum.reduce is not None and einsum.reduce.into == self.rank:
            self.held.add(einsum.name)  # places of the best: there is no best of a part of them
        needs = self._needs(reads)
        ready = max((self.ready.get(each, 0) for each in reads), default=0)
        self.depends[einsum.name] = needs
        self.ready[einsum.name] = ready
        if self.rank not in einsum.variables:
            self.outer[einsum.name] = einsum
        elif self.rank in variables(einsum.output):
            (self.moving if needs else self.elements)[einsum.name] = einsum
            if needs and einsum.name in self.held:
                self.last = max(self.last, ready + 1)
        else:
            self.links[einsum.name] = self._link(einsum)
            self.depends[einsum.name] = needs | {einsum.name}
            self.ready[einsum.name] = ready + 1
        self.masks[einsum.name] = self._masks(einsum.body, einsum.where)

    def _hold(self, einsum: Einsum) -> None:
        """Note the operands with the rank that are not read point by point."""
        for access in einsum.operands:
            made = self.elements.get(access.tensor) or self.moving.get(access.tensor)
            if made is None:
                continue
            place = made.output.indices.index(Var(self.rank))
            if access.indices[place] != Var(self.rank) or self.rank not in einsum.variables:
                self.held.add(access.tensor)

    # --- bodies ---------------------------------------------------------------------------------

    def _link(self, einsum: Einsum) -> Link:
        conditions: list[Expr] = []
        blocked: list[str] = []
        body = self._written(einsum.body, conditions, blocked)
        if einsum.where is not None:
            conditions.insert(0, self._written(einsum.where, conditions, blocked))
        where: Expr | None = None
        for each in dict.fromkeys(conditions):
            where = each if where is None else Apply("and", (where, each))
        if where is not None and self._whole(where):
            blocked.append(f"its predicate '{where}' reads a whole value")
        reads = self._whole(body)
        reduced = set(einsum.reduce.over if einsum.reduce else ()) - {self.rank}
        blocked += [
            f"{name} is rounded to a number format of its own"
            for name in reads
            if name in dict(self.cascade.formats)
        ]
        blocked += [
            f"{access} is a whole value for each {', '.join(sorted(reduced))}"
            for access in accesses(body)
            if access.tensor in reads and set(variables(access)) & reduced
        ]
        masks = self._masks(body, where)
        partial = tuple(
            access
            for access in dict.fromkeys(_values(body))
            if self.rank in variables(access) and self._masks(access, None)
        )
        return Link(einsum, body, where, reads, masks, partial, "; ".join(blocked[:1]))

    def _written(self, expr: Expr, conditions: list[Expr], blocked: list[str]) -> Expr:
        """Write moving tensors out; add their predicates, and what cannot be written out."""

        def change(access: Access) -> Expr:
            made = self.moving.get(access.tensor)
            if made is None:
                along = any(self.rank in variables(index) for index in access.indices)
                if along and self.depends.get(access.tensor):
                    blocked.append(f"{access} is a whole value for each {self.rank}")
                return access
            place = made.output.indices.index(Var(self.rank))
            if access.tensor in dict(self.cascade.formats):
                blocked.append(f"{access} is rounded to a number format of its own")
                return access
            if made.reduce is not None or access.indices[place] != Var(self.rank):
                blocked.append(f"{access} is not read point by point")
                return access
            pairs = zip(made.output.indices, access.indices, strict=True)
            values: dict[str, Expr] = {v.name: i for v, i in pairs if isinstance(v, Var)}
            if made.where is not None:
                conditions.append(map_access(substitute(made.where, values), change))
            return map_access(substitute(made.body, values), change)

        return map_access(expr, change)

    def _whole(self, expr: Expr) -> tuple[str, ...]:
        """Return the tensors without the rank that need some link, in order."""
        names = dict.fromkeys(access.tensor for access in accesses(expr))
        plain = (name for name in names if self.depends.get(name) and name not in self.moving)
        return tuple(plain)

    def _masks(self, body: Expr, where: Expr | None) -> frozenset[str]:
        """Return what decides which points of an expression are present."""
        found: set[str] = set() if where is None else {str(where)}
        for node in walk(body):
            if isinstance(node, Apply) and node.op in ("fill", "where"):
                found.add(str(node))
            if not isinstance(node, Access):
                continue
            if self.rank in variables(node) or not self.depends.get(node.tensor):
                found |= self.masks.get(node.tensor, frozenset())
            for index in node.indices:
                if node.tensor not in self.scans and _may_miss(index, self.rank):
                    found.add(str(node))
        return frozenset(found)


def _may_miss(index: Expr, rank: str) -> bool:
    """Whether an index may be out of range: not of groups, as ``h // R``."""
    match index:
        case Var() | Num() | Sym():
            return False
        case Apply("//" | "%", (inner, Num() | Sym())) if rank not in variables(inner):
            return _may_miss(inner, rank)
        case _:
            return True


def _values(expr: Expr) -> list[Access]:
    """Return the accesses of an expression outside of indices."""
    match expr:
        case Access():
            return [expr]
        case Apply(_, args):
            return [access for arg in args for access in _values(arg)]
        case _:
            return []

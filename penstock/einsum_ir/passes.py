"""How often a cascade must go over the elements of a tensor along a rank, whatever the mapping.

FuseMax (MICRO 2024), III-A: a pass over a fiber is a traversal of every element; each time an
element must be revisited after every other element of that fiber, there is one more. Inferred from
dependences alone. For a root tensor and one of its ranks, ``first(T)`` and ``last(T)`` are the
passes over the root that must be complete before the first, and the last, element of T exists:

* A *thread* of an Einsum is a set of its variables that runs along the rank: those in the index of
  the root, and in the indices of whatever was derived from the root point by point. An operand that
  runs along the thread is needed element by element (its ``first``), any other one must be complete
  (its ``last``). ``first`` of the Einsum is the highest of these.
* An Einsum that reads the root, or something derived from it along all of the rank, *touches* it:
  its last element exists one pass after its first. Otherwise, when those of its operands do.
* ``X[i+1]`` mentions i as ``X[i]`` does; the final coordinate ``X[I]`` does not. The state that an
  earlier step left is there already, unless the thread runs along i.

Passes = 1 + the highest ``first`` of the Einsums that touch. Ranks are dimensions of tensors, not
names: ``K[n]`` and ``K[m1*M0 + m0]`` go along the same rank. Where only some variables of an index
are ever reduced (``K[p + w]`` with w), those are the thread; of a convolution over a rank that is
reduced later, the rank is.

Excluded: predicates (a mask hides points but orders nothing), shapes, and rewriting. A tensor that
does not have the iterative rank of a loop in which it is read is gone over anew in each step; what
is counted is one step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from penstock.einsum_ir.affine import affine
from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.nodes import Access, Einsum, Expr, Group, Sym, Var, variables, walk
from penstock.einsum_ir.shapes import Bound
from penstock.errors import UnknownNameError

__all__ = [
    "Footprint",
    "PassRow",
    "count_passes",
    "live_footprint",
    "pass_table",
    "taxonomy",
    "telling_row",
    "worth_showing",
]


_ANY = 1009
"""What stands for a shape or a constant where only factors of 1 matter."""


@dataclass(frozen=True, slots=True)
class PassRow:
    """Passes over one rank of one tensor.

    ``chain`` names the Einsums that touch the tensor, in order, with ``|`` between passes;
    ``waits`` says for each pass but the first who waits for what.
    """

    tensor: str
    rank: str
    passes: int
    chain: str
    waits: tuple[str, ...] = ()

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The Einsums of each pass, in the order of the chain."""
        return tuple(tuple(each.split(" -> ")) for each in self.chain.split(" | ") if each)

    def to_json(self) -> dict[str, str | int | list[str]]:
        """Return the row as JSON values."""
        return {
            "tensor": self.tensor,
            "rank": self.rank,
            "passes": self.passes,
            "chain": self.chain,
            "waits": list(self.waits),
        }


@dataclass(frozen=True, slots=True)
class Footprint:
    """How much of a tensor must be held at a time, in the best mapping.

    Args:
        tensor: its name.
        ranks: the ranks along which it must be held whole (or written out and read again).
        text: elements as a product of shapes, ``M1*M0``; ``1`` if no rank is held whole.
        elements: the same as a number, where extents are known.
    """

    tensor: str
    ranks: tuple[str, ...]
    text: str
    elements: int | None = None

    def to_json(self) -> dict[str, str | int | list[str] | None]:
        """Return the footprint as JSON values."""
        return {
            "tensor": self.tensor,
            "ranks": list(self.ranks),
            "live": self.text,
            "elements": self.elements,
        }


def count_passes(cascade: Cascade, tensor: str, rank: str) -> int:
    """Count the passes over a rank of a tensor.

    Args:
        cascade: any cascade.
        tensor: an input, or what an Einsum defines (which is then taken as given).
        rank: a rank of the tensor as it is declared, or a rank variable in an index of it
            (``m1`` or ``m0`` alone, in ``K[m1*M0 + m0]``).

    Returns:
        The number of passes; 0 if nothing reads the tensor.

    Raises:
        UnknownNameError: there is no such tensor, or no such rank of it.

    Example:
        Attention in three passes goes three times over the keys: ``count_passes(c, "K", "m")``.
    """
    return _Facts(cascade).trace(tensor, rank).count


def pass_table(cascade: Cascade) -> tuple[PassRow, ...]:
    """Count the passes over every rank of every tensor that is read, inputs first."""
    facts = _Facts(cascade)
    return tuple(
        facts.row(tensor, rank) for tensor in facts.tensors for rank in facts.ranks(tensor)
    )


def worth_showing(rows: Sequence[PassRow], inputs: Sequence[str]) -> list[PassRow]:
    """Return the rows of the inputs, and those of intermediates with more than one pass."""
    return [row for row in rows if row.tensor in inputs or row.passes > 1]


def taxonomy(cascade: Cascade) -> str:
    """Return ``"3-pass"``, ``"1-pass"``, ...: the most passes over a reduced rank of an input."""
    row = telling_row(cascade)
    return f"{max(1, row.passes) if row else 1}-pass"


def telling_row(cascade: Cascade) -> PassRow | None:
    """Return the row that decides the taxonomy: most passes over a reduced rank of an input.

    Of several, the one with the most Einsums in its chain. Where nothing is reduced, of all ranks
    of inputs; None where there is none.
    """
    facts = _Facts(cascade)
    places = [(each.tensor, n) for each in cascade.inputs for n in range(len(each.ranks))]
    reduced = [place for place in places if facts.reduced(*place)]
    rows = [facts.row(tensor, facts.names[tensor][n]) for tensor, n in reduced or places]
    return max(rows, key=lambda row: (row.passes, sum(map(len, row.groups))), default=None)


def live_footprint(cascade: Cascade, bound: Bound | None = None) -> tuple[Footprint, ...]:
    """Return how much of each tensor that is read must be held at a time, at least.

    A tensor must be held along a rank if it is there in one pass and is read in a later one, when
    everything is computed as early as it can be. Each rank that is not named takes one
    coordinate at a time.

    Args:
        cascade: any cascade.
        bound: the same with extents, for numbers.
    """
    facts = _Facts(cascade)
    held: dict[str, dict[tuple[int, str], None]] = {tensor: {} for tensor in facts.tensors}
    for tensor in facts.tensors:
        for rank in facts.ranks(tensor):
            for name, place, part in facts.trace(tensor, rank).held():
                held[name][place, part] = None
    return tuple(_footprint(facts, name, set(parts), bound) for name, parts in held.items())


def _footprint(
    facts: _Facts, tensor: str, parts: set[tuple[int, str]], bound: Bound | None
) -> Footprint:
    """Return the footprint of a tensor of which these (dimension, rank) are held whole."""
    ranks, elements = [], 1
    for place, whole in enumerate(facts.names[tensor]):
        if (place, whole) in parts:
            ranks.append(whole)
            elements *= bound.dims[tensor][place] if bound else 1
            continue
        inner = [name for name in facts.ranks(tensor) if (place, name) in parts]
        ranks += inner
        elements *= math.prod(bound.extents[name] for name in inner) if bound else 1
    text = "*".join(rank.upper() for rank in ranks) or "1"
    return Footprint(tensor, tuple(ranks), text, elements if bound else None)


@dataclass(frozen=True, slots=True)
class _Thread:
    """Dimensions of a tensor that run along the rank; ``full``: along all of it."""

    places: frozenset[int]
    full: bool


@dataclass(frozen=True, slots=True)
class _State:
    """What is known of a tensor while passes are counted."""

    first: int = 0
    last: int = 0
    threads: frozenset[_Thread] = frozenset()

    def joined(self, other: _State) -> _State:
        """Return the state of what both an ``init`` and a step define, or two rounds found."""
        first, last = max(self.first, other.first), max(self.last, other.last)
        return _State(first, last, self.threads | other.threads)


class _Facts:
    """What pass counting needs to know of a cascade: who reads what, and what is reduced."""

    def __init__(self, cascade: Cascade) -> None:
        self.names: dict[str, tuple[str, ...]] = {
            each.tensor: each.ranks for each in cascade.inputs
        }
        self.order: list[Einsum] = []
        self.loops: dict[str, tuple[int, str]] = {}  # tensor → (statement, variable)
        for number, statement in enumerate(cascade.schedule):
            inner = statement.einsums if isinstance(statement, Group) else (statement,)
            self.order += inner
            if isinstance(statement, Group):
                self.loops |= {each.name: (number, statement.variable) for each in inner}
        for einsum in self.order:
            if not einsum.init:
                parts = [variables(index) for index in einsum.output.indices]
                self.names[einsum.name] = tuple(part[0] for part in parts)
        self.steps = cascade.iterative
        self.reads: dict[str, list[tuple[Einsum, Access]]] = {name: [] for name in self.names}
        for einsum in self.order:
            for access in dict.fromkeys(einsum.operands):
                self.reads[access.tensor].append((einsum, access))
        inputs = {each.tensor for each in cascade.inputs}
        self.tensors = [name for name in self.names if name in inputs or self.reads[name]]
        self._folded: set[tuple[str, int]] = set()
        self._fold()

    def trace(self, tensor: str, rank: str) -> _Trace:
        """Follow a tensor through the cascade along one of its ranks."""
        return _Trace(self, tensor, rank)

    def row(self, tensor: str, rank: str) -> PassRow:
        """Return the passes over a rank of a tensor."""
        trace = self.trace(tensor, rank)
        return PassRow(tensor, rank, trace.count, trace.chain, tuple(trace.waits()))

    def lagged(self, einsum: Einsum, access: Access, thread: frozenset[str]) -> bool:
        """Whether an operand is there before a thread starts: state of the step before."""
        loop = self.loops.get(einsum.name)
        if einsum.init or loop is None or self.loops.get(access.tensor) != loop:
            return False
        if loop[1] in thread:
            return False
        if access.tensor not in self.steps:
            return False
        _, position = self.steps[access.tensor]
        return access.indices[position] == Var(loop[1])

    def ranks(self, tensor: str) -> tuple[str, ...]:
        """Return the ranks of a tensor, each followed by the variables into which it is split."""
        found: dict[str, None] = {}
        for place, name in enumerate(self.names[tensor]):
            found[name] = None
            for _, access in self.reads[tensor]:
                parts = variables(access.indices[place])
                if len(parts) > 1:
                    found |= dict.fromkeys(parts)
        return tuple(found)

    def place(self, tensor: str, rank: str) -> int:
        """Return the dimension that a rank or a variable names.

        Raises:
            UnknownNameError: there is none.
        """
        if tensor not in self.names:
            raise UnknownNameError("tensor", tensor, self.names)
        if rank in self.names[tensor]:
            return self.names[tensor].index(rank)
        for _, access in self.reads[tensor]:
            for place, index in enumerate(access.indices):
                if rank in variables(index):
                    return place
        raise UnknownNameError(f"rank of {tensor}", rank, self.ranks(tensor))

    def reduced(self, tensor: str, place: int) -> bool:
        """Whether a dimension of a tensor is folded away by some Einsum that depends on it."""
        return any(
            self.folded(einsum, name)
            for einsum, access in self.reads[tensor]
            for name in variables(access.indices[place])
        )

    def folded(self, einsum: Einsum, name: str) -> bool:
        """Whether a variable of an Einsum is reduced, there or by what reads the result."""
        places = [
            place for place, index in enumerate(einsum.output.indices) if name in variables(index)
        ]
        if not places:
            return True
        return any((einsum.name, place) in self._folded for place in places)

    def _fold(self) -> None:
        """Find the dimensions that are reduced, also around loops: until no more are found."""
        size = -1
        while size < len(self._folded):
            size = len(self._folded)
            for tensor, reads in self.reads.items():
                for einsum, access in reads:
                    for place, index in enumerate(access.indices):
                        names = variables(index)
                        if not names or any(self.folded(einsum, name) for name in names):
                            self._folded.add((tensor, place))


_Threads = dict[frozenset[str], bool]
"""Variables of an Einsum that run along the rank → whether along all of it."""


class _Trace:
    """Passes over one root tensor along one of its dimensions."""

    def __init__(self, facts: _Facts, root: str, rank: str) -> None:
        self.facts, self.root, self.rank = facts, root, rank
        self.place = facts.place(root, rank)
        self.states = {name: _State() for name in facts.names}
        self.touched: dict[str, int] = {}
        for _ in range(len(facts.order) + 1):  # states only grow, and settle
            before = dict(self.states)
            for einsum in facts.order:
                self._visit(einsum)
            if before == self.states:
                break

    @property
    def count(self) -> int:
        """Number of passes; 0 if nothing reads the root."""
        return 1 + max(self.touched.values(), default=-1)

    @property
    def chain(self) -> str:
        """The Einsums that touch the root, pass by pass."""
        order = dict.fromkeys(each.name for each in self.facts.order)
        parts = [
            " -> ".join(name for name in order if self.touched.get(name) == number)
            for number in range(self.count)
        ]
        return " | ".join(parts)

    def waits(self) -> Iterator[str]:
        """Say for each pass but the first which Einsum cannot start before, and for what."""
        for number in range(1, self.count):
            for einsum in self.facts.order:
                if self.touched.get(einsum.name) != number:
                    continue
                late = [
                    access.tensor
                    for access in dict.fromkeys(einsum.operands)
                    for names in self._threads(einsum)
                    if self._need(einsum, access, names) == number
                ]
                if late:
                    needs = " and ".join(dict.fromkeys(late))
                    yield f"pass {number + 1} as {einsum.name} needs all of {needs}"
                    break

    def held(self) -> Iterator[tuple[str, int, str]]:
        """Yield (tensor, dimension, rank) where elements of one pass are read in a later one."""
        for einsum in self.facts.order:
            for access in einsum.operands:
                for thread, names in self._runs(einsum, access):
                    there = 0 if access.tensor == self.root else self.states[access.tensor].first
                    if not thread.full or self._first(einsum, names) <= there:
                        continue
                    for place in thread.places:
                        own = access.tensor == self.root
                        name = self.rank if own else self.facts.names[access.tensor][place]
                        yield access.tensor, place, name

    def _visit(self, einsum: Einsum) -> None:
        threads = self._threads(einsum)
        first = max((self._first(einsum, names) for names in threads), default=0)
        if not threads:
            first = self._first(einsum, frozenset())
        touches = any(threads.values())
        last = first + 1 if touches else max(first, self._first(einsum, frozenset()))
        reads_root = any(access.tensor == self.root for access in einsum.operands)
        if touches and (einsum.name != self.root or reads_root):
            self.touched[einsum.name] = max(self.touched.get(einsum.name, 0), first)
        if einsum.name != self.root:
            old = self.states[einsum.name]
            new = _State(first, last, _kept(einsum, threads))
            self.states[einsum.name] = old.joined(new)

    def _threads(self, einsum: Einsum) -> _Threads:
        threads: _Threads = {}
        for access in einsum.operands:
            for thread, names in self._runs(einsum, access):
                threads[names] = threads.get(names, False) or thread.full
        return threads

    def _runs(self, einsum: Einsum, access: Access) -> Iterator[tuple[_Thread, frozenset[str]]]:
        """Yield the threads of an operand with the variables of the Einsum that they have."""
        if access.tensor == self.root:
            names = self._seed(einsum, access)
            if names:
                yield _Thread(frozenset([self.place]), full=True), names
            return
        for thread in self.states[access.tensor].threads:
            indices = [access.indices[place] for place in thread.places]
            parts = [variables(index) for index in indices]
            names = self._running(einsum, indices)
            if names:
                yield _Thread(thread.places, full=thread.full and all(parts)), names

    def _seed(self, einsum: Einsum, access: Access) -> frozenset[str]:
        index = access.indices[self.place]
        declared = self.rank in self.facts.names[self.root]
        if self.rank in variables(index) and not declared:
            return frozenset([self.rank])
        return self._running(einsum, [index])

    def _running(self, einsum: Einsum, indices: Sequence[Expr]) -> frozenset[str]:
        """Return the variables of indices that run along the rank: those that are ever reduced.

        If none is, all do. The tap k of a convolution is left out if the y of its ``y + k - 1``
        runs along the rank: what is computed at y is near y then.
        """
        names = variables(*indices)
        reduced = [name for name in names if self.facts.folded(einsum, name)]
        taps = {tap for index in indices for tap in _taps(index, einsum, reduced)}
        return frozenset([name for name in reduced if name not in taps] or names)

    def _first(self, einsum: Einsum, thread: frozenset[str]) -> int:
        """Return the passes that must be complete before an Einsum's first element exists."""
        return max((self._need(einsum, each, thread) for each in einsum.operands), default=0)

    def _need(self, einsum: Einsum, access: Access, thread: frozenset[str]) -> int:
        state = self.states[access.tensor]
        if access.tensor == self.root or self.facts.lagged(einsum, access, thread):
            return 0
        places = {place for each in state.threads for place in each.places}
        along = any(thread & set(variables(access.indices[place])) for place in places)
        return state.first if along else state.last


def _taps(index: Expr, einsum: Einsum, running: Sequence[str]) -> frozenset[str]:
    """Return the variables that an Einsum reduces in an index beside one that it keeps."""
    symbols = {node.name: _ANY for node in walk(index) if isinstance(node, Sym)}
    form = affine(index, symbols)
    if form is None:
        return frozenset()
    steps = {name for name, factor in form.coefficients if abs(factor) == 1 and name in running}
    kept = steps & set(variables(einsum.output))
    return frozenset(steps - kept) if kept else frozenset()


def _kept(einsum: Einsum, threads: _Threads) -> frozenset[_Thread]:
    """Return the threads that the output of an Einsum has."""
    found = set()
    for names, full in threads.items():
        inside = [set(variables(index)) & names for index in einsum.output.indices]
        places = frozenset(place for place, some in enumerate(inside) if some)
        if places:
            found.add(_Thread(places, full=full and names <= set().union(*inside)))
    return frozenset(found)

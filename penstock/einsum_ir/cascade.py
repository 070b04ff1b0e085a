"""`Cascade`: Einsums in definition order, and the checks that hold between them.

Evaluates nothing and knows no data. The order in which statements can be evaluated
(`Cascade.schedule`) is decided here, once, for the interpreter, the model and the generators.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from html import escape

from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.legality import (
    check_constants,
    check_einsum_names,
    check_extents,
    check_formats,
    check_groups,
    check_indices,
    check_left_sides,
    check_names,
    check_states,
)
from penstock.einsum_ir.nodes import (
    Access,
    Declaration,
    Einsum,
    Expr,
    Group,
    Num,
    Statement,
    Sym,
    next_variable,
    variables,
    walk,
)
from penstock.errors import CascadeError, UnknownNameError, nearest

__all__ = ["Cascade"]


@dataclass(frozen=True)
class Cascade:
    """Einsums in definition order, connected by tensors.

    Args:
        name: an identifier.
        inputs: what the caller gives, with a rank for each dimension.
        outputs: what the caller gets.
        statements: Einsums and ``loop`` groups. Einsums with ``init`` come before the group.
        constants: named scalars, each an expression of numbers, other constants and shapes
            (``("SC", 1/sqrt(E))``). A `Sym` that is neither a shape nor a constant is a
            parameter: it must be given when the cascade is run.
        shapes: (rank variable, extent) pairs that are known so far; the others come from the
            arrays, the command line, or follow from an access (``K[m1*M0+m0]``).
        states: (input, output) pairs: the next call's input is this call's output.
        formats: (tensor, number format) pairs, for tensors that are not in the format of the run.

    Raises:
        CascadeError: a tensor that is defined twice, never, or in a cycle; an output that
            nothing defines; an access with the wrong number of indices; whatever `legality.py`
            forbids.
    """

    name: str
    inputs: tuple[Declaration, ...]
    outputs: tuple[Declaration, ...]
    statements: tuple[Statement, ...]
    constants: tuple[tuple[str, Expr], ...] = ()
    shapes: tuple[tuple[str, int], ...] = ()
    states: tuple[tuple[str, str], ...] = ()
    formats: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "shapes", tuple(sorted(dict(self.shapes).items())))
        check_names(self.name, (*self.inputs, *self.outputs), self.shape)
        check_einsum_names(self.einsums)
        _check_definitions(self)
        check_constants(self.constants, self.einsums, self.scalars)
        _check_accesses(self)
        _check_scalars(self)
        check_left_sides(self.einsums)
        check_indices(self.einsums)
        check_extents(self.einsums, self.inputs, {name for name, _ in self.constants})
        _check_ranks(self)
        check_groups(self.statements)
        check_states(self.states, self.inputs, self.outputs)
        check_formats(self.formats, self.arity)
        formats = {name: parse_format(kind).name for name, kind in self.formats}
        object.__setattr__(self, "formats", tuple(sorted(formats.items())))
        _ordered(self)

    @cached_property
    def einsums(self) -> tuple[Einsum, ...]:
        """Every Einsum in definition order, those of groups and ``init`` ones included."""
        return tuple(
            einsum
            for statement in self.statements
            for einsum in (statement.einsums if isinstance(statement, Group) else (statement,))
        )

    def _repr_html_(self) -> str:
        """Show the cascade in a notebook as it prints."""
        return f"<pre>{escape(str(self))}</pre>"

    def einsum(self, tensor: str) -> Einsum:
        """Return the (not ``init``) Einsum that defines `tensor`.

        Raises:
            UnknownNameError: nothing defines it.
        """
        for each in self.einsums:
            if each.name == tensor and not each.init:
                return each
        raise UnknownNameError("tensor", tensor, [each.name for each in self.einsums])

    @cached_property
    def schedule(self) -> tuple[Statement, ...]:
        """The statements in an order in which each finds its operands ready.

        Definition order, as far as the dependences allow. An iterative Einsum that stands
        outside a ``loop`` comes as a group of its own.
        """
        return tuple(_as_group(each) for each in _ordered(self))

    @cached_property
    def arity(self) -> Mapping[str, int]:
        """The number of dimensions of every tensor, inputs included."""
        declared = {each.tensor: len(each.ranks) for each in self.inputs}
        return declared | {each.name: len(each.output.indices) for each in self.einsums}

    @cached_property
    def scalars(self) -> frozenset[str]:
        """The tensors without ranks."""
        return frozenset(name for name, order in self.arity.items() if not order)

    @cached_property
    def iterative(self) -> Mapping[str, tuple[str, int]]:
        """Tensor → (rank variable, position) for every tensor with an iterative rank."""
        return {
            einsum.name: (variable, position)
            for einsum in self.einsums
            for position, index in enumerate(einsum.output.indices)
            if (variable := next_variable(index)) is not None
        }

    @property
    def shape(self) -> dict[str, int]:
        """The known extents by rank variable, as a new dict."""
        return dict(self.shapes)

    def with_shapes(self, **extents: int) -> Cascade:
        """Return the cascade with these extents (rank variable → coordinates) added or changed."""
        return replace(self, shapes=tuple({**dict(self.shapes), **extents}.items()))

    def with_constants(self, **values: float) -> Cascade:
        """Return the cascade with these named scalars added or changed.

        Raises:
            CascadeError: nothing in the cascade uses one of them.
        """
        self.check_constants(values)
        new: dict[str, Expr] = {name: Num(value) for name, value in values.items()}
        return replace(self, constants=tuple({**dict(self.constants), **new}.items()))

    def check_constants(self, values: Mapping[str, float]) -> None:
        """Check that named scalars that are given are used.

        Raises:
            CascadeError: one is no constant of the cascade.
        """
        exprs = [expr for each in self.einsums for expr in (each.body, each.where) if expr]
        exprs += [expr for _, expr in self.constants]
        ranks = {rank.upper() for each in self.inputs for rank in each.ranks}
        ranks |= {name.upper() for each in self.einsums for name in each.variables}
        known = {node.name for expr in exprs for node in walk(expr) if isinstance(node, Sym)}
        known = known - ranks | {name for name, _ in self.constants}
        for name, value in values.items():
            if name not in known:
                near = nearest(name, known)
                fix = f"did you mean {near}?" if near else f"leave out {name}"
                if name in ranks:
                    fix = f"{name} is the shape of a rank: give shape {name.lower()}={value:g}"
                raise CascadeError(
                    f"constant {name}={value:g} is no constant of {self.name} (constants: "
                    f"{', '.join(sorted(known)) or 'none'})",
                    fix=fix,
                )

    def __str__(self) -> str:
        inputs = ", ".join(str(each) for each in self.inputs)
        outputs = ", ".join(str(each) for each in self.outputs)
        lines = [f"cascade {self.name}({inputs}) -> {outputs}"]
        lines += [f"  shape {name} = {extent}" for name, extent in self.shapes]
        lines += [f"  const {name} = {value}" for name, value in self.constants]
        lines += [f"  state {name} -> {following}" for name, following in self.states]
        lines += [f"  format {name} = {kind}" for name, kind in self.formats]
        for statement in self.statements:
            lines += [f"  {line}" for line in str(statement).splitlines()]
        return "\n".join(lines)


def _as_group(statement: Statement) -> Statement:
    if isinstance(statement, Einsum) and statement.iterative is not None and not statement.init:
        return Group(statement.iterative, (statement,), span=statement.span)
    return statement


def _check_definitions(cascade: Cascade) -> None:
    """Each tensor is defined once, is no input, and every output is defined."""
    inputs = Counter(each.tensor for each in cascade.inputs)
    for declaration in cascade.inputs:
        if inputs[declaration.tensor] > 1:
            raise CascadeError(
                f"input {declaration.tensor} is declared twice",
                span=declaration.span,
                fix="leave one of the two out",
            )
    seen: set[tuple[str, bool]] = set()
    for einsum in cascade.einsums:
        if einsum.name in inputs:
            raise CascadeError(
                f"{einsum.name} is an input and is also defined by an Einsum",
                span=einsum.output.span,
                fix="rename one of the two",
            )
        if (einsum.name, einsum.init) in seen:
            raise _twice(cascade, einsum)
        seen.add((einsum.name, einsum.init))
    _check_outputs(cascade)


def _twice(cascade: Cascade, einsum: Einsum) -> CascadeError:
    first = next(e for e in cascade.einsums if (e.name, e.init) == (einsum.name, einsum.init))
    starts = next((e for e in (first, einsum) if Num(0) in e.output.indices), None)
    if starts is not None and not einsum.init:
        span, fix = starts.output.span, f"write 'init {starts.output}' for the first coordinate"
    else:
        span = einsum.output.span
        fix = f"give one of the two a name of its own, as {einsum.name}2"
    if first.where is None and einsum.where is not None:
        fix = "write the piece with the predicate (s.t.) first: the first that holds decides"
    return CascadeError(f"{einsum.name} is defined twice", span=span, fix=fix)


def _check_outputs(cascade: Cascade) -> None:
    if not cascade.outputs:
        raise CascadeError(
            f"cascade {cascade.name} has no output: each tensor is read by another",
            span=cascade.einsums[-1].span if cascade.einsums else None,
            fix="name it: end the first line with '-> O[p, f]', in Python c.outputs(c.O[p, f])",
        )
    defined = {each.name: each.output for each in cascade.einsums if not each.init}
    for declaration in cascade.outputs:
        if declaration.tensor not in defined:
            near = nearest(declaration.tensor, defined)
            raise CascadeError(
                f"no Einsum defines the output {declaration}",
                span=declaration.span,
                fix=f"did you mean {near}?" if near else f"add a line '{declaration} = ...'",
            )
        output = defined[declaration.tensor]
        if len(declaration.ranks) != len(output.indices):
            raise CascadeError(
                f"output {declaration} has {_count(len(declaration.ranks), 'rank')}, but is "
                f"defined as {output}",
                span=declaration.span,
                fix=f"write {declaration.tensor}[{', '.join(variables(output))}] in the first "
                "line, or change its Einsum",
            )


def _count(number: int, word: str) -> str:
    plural = "indices" if word == "index" else f"{word}s"
    return f"{number} {word if number == 1 else plural}"


def _check_ranks(cascade: Cascade) -> None:
    """Outputs are declared with the variables that their Einsums have, in the same order."""
    for declaration in cascade.outputs:
        output = cascade.einsum(declaration.tensor).output
        if variables(output) != declaration.ranks:
            raise CascadeError(
                f"output {declaration} is defined as {output}",
                span=declaration.span,
                fix=f"write {declaration.tensor}[{', '.join(variables(output))}] in the first "
                f"line, or {declaration} in its Einsum",
            )


def _check_scalars(cascade: Cascade) -> None:
    """A tensor with ranks is not used as a scalar, unless that is a constant or a shape."""
    named = {name for name, _ in cascade.constants}
    named |= {rank.upper() for each in cascade.inputs for rank in each.ranks}
    named |= {name.upper() for each in cascade.einsums for name in each.variables}
    tensors = {name: order for name, order in cascade.arity.items() if order and name not in named}
    for einsum in cascade.einsums:
        for expr in (einsum.body, einsum.where or einsum.body):
            for node in walk(expr):
                if isinstance(node, Sym) and node.name in tensors:
                    raise CascadeError(
                        f"{node.name} is a tensor with {_count(tensors[node.name], 'rank')}, used "
                        f"in {einsum.name} without an index",
                        span=node.span or einsum.span,
                        fix=f"give one index for each rank, as in {_example(cascade, node.name)}",
                    )


def _check_accesses(cascade: Cascade) -> None:
    """Each operand exists and has one index for each dimension; ``init`` has its step."""
    arity = cascade.arity
    stepped = {each.name for each in cascade.einsums if each.iterative and not each.init}
    for einsum in cascade.einsums:
        for access in (einsum.output, *einsum.operands):
            if access.tensor not in arity:
                fix = f"add {access.tensor} to the inputs in the first line, or define it"
                raise UnknownNameError(
                    "tensor", access.tensor, arity, span=access.span, otherwise=fix
                )
            if len(access.indices) != arity[access.tensor]:
                raise _misfit(cascade, access)
        if einsum.init and einsum.name not in stepped:
            raise CascadeError(
                f"init {einsum.name} has no step: nothing defines {einsum.name} at i+1",
                span=einsum.span,
                fix=f"define its next coordinate, as in {einsum.name}[i+1] = ..., or drop 'init'",
            )


def _misfit(cascade: Cascade, access: Access) -> CascadeError:
    order, given = cascade.arity[access.tensor], len(access.indices)
    ranks = _count(order, "rank") if order else "no ranks"
    fix = f"give one index for each rank, as in {_example(cascade, access.tensor)}"
    first = [e for e in cascade.einsums if e.init and e.output is access]
    if first:
        fix = "give one index for each rank, 0 for the one that steps, as in RM[p, 0]"
    if not order:
        fix = f"declare {access.tensor} with its ranks, as in {access}, or leave the indices out"
    what = f"{access} has {_count(given, 'index')}, but {access.tensor} has {ranks}"
    return CascadeError(what, span=access.span, fix=fix)


def _example(cascade: Cascade, tensor: str) -> str:
    """Return the tensor with its indices, as it is declared or defined."""
    declared = [str(each) for each in cascade.inputs if each.tensor == tensor]
    defined = [each.output for each in cascade.einsums if each.name == tensor]
    return [*declared, *(f"{tensor}[{', '.join(variables(each))}]" for each in defined[-1:])][0]


def _ordered(cascade: Cascade) -> tuple[Statement, ...]:
    """Sort the statements so that definitions come before uses, stably.

    Raises:
        CascadeError: the tensors depend on each other in a cycle.
    """
    makers = {
        (each.name, each.init): number
        for number, statement in enumerate(cascade.statements)
        for each in (statement.einsums if isinstance(statement, Group) else (statement,))
    }
    sorter: TopologicalSorter[int] = TopologicalSorter()
    for number, statement in enumerate(cascade.statements):
        sorter.add(number, *_needs(statement, number, makers))
    try:
        sorter.prepare()
    except CycleError as error:
        raise _cycle(cascade, error.args[1]) from None
    order: list[int] = []
    ready: set[int] = set(sorter.get_ready())
    while ready:
        first = min(ready)
        ready.remove(first)
        order.append(first)
        sorter.done(first)
        ready |= set(sorter.get_ready())
    return tuple(cascade.statements[number] for number in order)


def _needs(statement: Statement, number: int, makers: dict[tuple[str, bool], int]) -> set[int]:
    einsums = statement.einsums if isinstance(statement, Group) else (statement,)
    needed = {
        makers[access.tensor, init]
        for each in einsums
        for access in each.operands
        for init in (False, True)
        if (access.tensor, init) in makers and not (each.iterative and access.tensor == each.name)
    }
    steps = [each for each in einsums if not each.init]
    needed |= {makers[each.name, True] for each in steps if (each.name, True) in makers}
    alone = isinstance(statement, Einsum) and statement.iterative is None
    return needed if alone else needed - {number}


def _cycle(cascade: Cascade, numbers: list[int]) -> CascadeError:
    names = [_label(cascade.statements[number]) for number in numbers]
    first = cascade.statements[numbers[0]]
    steps = {each.iterative for each in cascade.einsums if each.iterative}
    hint = f", or put them in 'loop {min(steps)}:'" if steps else ""
    if len(set(names)) == 1 and isinstance(first, Einsum):
        step = (*first.output.indices[:-1], f"{first.output.indices[-1]} + 1")
        fix = "give the new value a name of its own"
        if first.output.indices:
            fix += f"; if it advances step by step, write {names[0]}[{', '.join(map(str, step))}]"
        return CascadeError(f"{first.output} depends on itself", span=first.span, fix=fix)
    return CascadeError(
        f"tensors depend on each other in a cycle: {' -> '.join(names)}",
        span=first.span,
        fix=f"break the cycle with a rank that steps, as in {names[0]}[i+1] = ...{hint}",
    )


def _label(statement: Statement) -> str:
    if isinstance(statement, Group):
        return f"loop {statement.variable}"
    return statement.name

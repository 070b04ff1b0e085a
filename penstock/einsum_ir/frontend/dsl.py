"""Cascades from Python: operators build the same objects as the text notation does.

::

    p, m, e = ranks("p m e")
    c = Builder("scores", e=64)
    c.QK[p, m] = (c.Q[p, e] * c.K[m, e]).where(m <= p)
    c.GM[p] = reduce_max(c.QK[p, m])
    cascade = c.build()

Python's own ``if`` and ``for`` run while the cascade is built. Excluded: what a cascade must
satisfy; that is checked when `Builder.build` makes it, and errors show the line of Python.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import replace

from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.frontend.equation import Equation, Loop, equations, statements
from penstock.einsum_ir.frontend.equation import tensors as defined
from penstock.einsum_ir.frontend.terms import (
    Operand,
    Rank,
    RightSide,
    Term,
    Value,
    expression,
    here,
)
from penstock.einsum_ir.legality import check_formats, check_states
from penstock.einsum_ir.nodes import (
    Access,
    Declaration,
    Expr,
    Group,
    Statement,
    Sym,
    Var,
    accesses,
    resolve_scalars,
    variables,
)
from penstock.errors import CascadeError, Span

__all__ = ["Builder", "Tensor"]

Index = Operand | tuple[Operand, ...]


class Tensor(Term):
    """A tensor of a `Builder`: ``c.Q[p, e]`` reads it, ``c.Q[p, e] = ...`` defines it.

    Without brackets it is the scalar of that name: a constant, a shape such as ``c.M0``, or a
    tensor without ranks.
    """

    __slots__ = ("_builder", "_init", "_name")

    def __init__(self, builder: Builder, name: str, *, init: bool = False) -> None:
        super().__init__(Sym(name, span=here()))
        self._builder, self._name, self._init = builder, name, init

    def __getitem__(self, index: Index) -> Term:
        return Value(_access(self._name, index))

    def __setitem__(self, index: Index, value: Operand) -> None:
        self._builder.define(_access(self._name, index), value, init=self._init)


def _access(name: str, index: Index) -> Access:
    indices = index if isinstance(index, tuple) else (index,)
    return Access(name, tuple(expression(each) for each in indices), span=here())


class Builder:
    """Collects Einsums: ``c.QK[p, m] = c.Q[p, e] * c.K[m, e]``.

    What is read and never defined is an input, what is defined and never read an output, unless
    `inputs` or `outputs` say otherwise. ``c.SC`` without brackets is a scalar.

    Args:
        name: the name of the cascade.
        shapes: rank variable → extent, in coordinates; those that are missing are given later.
    """

    def __init__(self, name: str, **shapes: int) -> None:
        self._name = name
        self._shapes = shapes
        self._constants: dict[str, Expr] = {}
        self._found: list[Equation | Loop] = []
        self._members: list[Equation] | None = None
        self._inputs: tuple[Declaration, ...] = ()
        self._outputs: tuple[Declaration, ...] = ()
        self._states: dict[str, str] = {}
        self._formats: dict[str, str] = {}
        self._state_spans: dict[str, Span | None] = {}
        self._format_spans: dict[str, Span | None] = {}

    def __getattr__(self, name: str) -> Tensor:
        _check_attribute("Builder", name)
        return Tensor(self, name)

    def __setattr__(self, name: str, value: object) -> None:
        if not name[0].isupper():
            super().__setattr__(name, value)
        elif isinstance(value, Term | int | float):
            self.define(Access(name, (), span=here()), value)
        else:
            raise TypeError(f"an Einsum takes terms and numbers, not {type(value).__name__}")

    @property
    def init(self) -> Initial:
        """First coordinates of iterative ranks: ``c.init.RM[p, 0] = -math.inf``."""
        return Initial(self)

    @contextmanager
    def loop(self, rank: Rank) -> Iterator[None]:
        """Let the Einsums of a ``with`` block advance along `rank` in lock step.

        Raises:
            CascadeError: there is such a block around it already.
        """
        span = _whole_line(here())
        if self._members is not None:
            raise CascadeError(
                f"loop({rank}) stands inside another loop",
                span=span,
                fix="end the outer 'with' first: loops do not nest",
            )
        self._members = []
        try:
            yield
            self._found.append(Loop(rank.name, tuple(self._members), span))
        finally:
            self._members = None

    def const(self, **values: Operand) -> None:
        """Define named scalars: ``c.const(SC=1 / sqrt(e.shape))``."""
        self._constants |= {name: expression(value) for name, value in values.items()}

    def shape(self, **extents: int) -> None:
        """Set extents of ranks, in coordinates: ``c.shape(m0=64)``."""
        self._shapes |= extents

    def state(self, before: Term, after: Term) -> None:
        """Let an output be the next call's input: ``c.state(c.K, c.KX)``."""
        self._states[_name(before)] = _name(after)
        self._state_spans[_name(before)] = here()

    def format(self, name: str, *tensors: Term) -> None:
        """Set the number format of tensors: ``c.format("int8", c.K8, c.V8)``."""
        self._formats |= {_name(each): name for each in tensors}
        self._format_spans |= {_name(each): here() for each in tensors}

    def inputs(self, *tensors: Term) -> None:
        """Declare inputs, in this order: ``c.inputs(c.K[m, e], c.SC)``; inferred ones follow.

        Raises:
            CascadeError: one is not written at rank variables.
        """
        self._inputs = tuple(_declaration(each) for each in tensors)

    def outputs(self, *tensors: Term) -> None:
        """Declare the outputs, in this order: ``c.outputs(c.O[p, f])``.

        Raises:
            CascadeError: one is not written at rank variables.
        """
        self._outputs = tuple(_declaration(each) for each in tensors)

    def define(self, output: Access, value: Operand, *, init: bool = False) -> None:
        """Add an Einsum; ``c.QK[p, m] = value`` calls this.

        Args:
            output: the left side.
            value: the right side.
            init: whether it gives the first coordinate of an iterative rank.
        """
        right = value if isinstance(value, RightSide) else RightSide(expression(value))
        span = _whole_line(here())
        found = Equation(
            output, right.body, right.reduce, right.predicate, init, span, right.normalise
        )
        (self._found if self._members is None else self._members).append(found)

    def build(self) -> Cascade:
        """Return the cascade.

        Raises:
            CascadeError: it means nothing, or the ranks of an input cannot be told.
        """
        found = equations(self._found)
        scalars = {each.tensor for each in self._inputs if not each.ranks}
        scalars |= {each.tensor for each in _reads(found) if not each.indices}
        outputs = {each.tensor: each.ranks for each in self._outputs}
        built = statements(self._found, scalars, outputs)
        scalars |= {each.output.tensor for each in found if not each.output.indices}
        constants = ((name, resolve_scalars(e, scalars)) for name, e in self._constants.items())
        declared = {each.tensor for each in self._inputs}
        inputs = (*self._inputs, *_inferred_inputs(found, declared))
        final = self._outputs or _inferred_outputs(built, set(self._states.values()))
        check_states(self._states.items(), inputs, final, self._state_spans)
        known = {each.tensor for each in inputs} | defined(built)
        check_formats(self._formats.items(), known, self._format_spans)
        return Cascade(
            self._name,
            inputs,
            final,
            built,
            tuple(constants),
            tuple(self._shapes.items()),
            tuple(self._states.items()),
            tuple(self._formats.items()),
        )


class Initial:
    """Where first coordinates are given: ``c.init.RM[p, 0] = -math.inf``."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder

    def __getattr__(self, name: str) -> Tensor:
        _check_attribute("init", name)
        return Tensor(self._builder, name, init=True)


def _check_attribute(owner: str, name: str) -> None:
    if not name[0].isupper():
        raise AttributeError(
            f"'{owner}' has no attribute '{name}' (tensors start with an upper-case letter)"
        )


def _declaration(term: Term) -> Declaration:
    match term.expr:
        case Sym(name, span):
            return Declaration(name, (), span=span)
        case Access(name, indices, span) if all(isinstance(each, Var) for each in indices):
            return Declaration(name, variables(*indices), span=span)
        case _:
            raise CascadeError(
                f"'{term}' declares no tensor",
                span=here(),
                fix="write it at rank variables, as in c.inputs(c.K[m, e])",
            )


def _reads(found: Iterable[Equation]) -> tuple[Access, ...]:
    return tuple(access for each in found for access in accesses(*each.exprs))


def _inferred_inputs(
    found: tuple[Equation, ...], declared: AbstractSet[str]
) -> tuple[Declaration, ...]:
    """Return what is read and never defined, with the ranks of its first plain access."""
    defined = {each.output.tensor for each in found} | declared
    inputs: dict[str, Declaration] = {}
    odd: dict[str, Access] = {}
    for access in _reads(found):
        name = access.tensor
        if name in defined:
            continue
        plain = all(isinstance(index, Var) for index in access.indices)
        ranks_found = tuple(str(index) for index in access.indices)
        declaration = Declaration(name, ranks_found if plain else (), span=access.span)
        if plain and name in odd:
            del odd[name]
            inputs[name] = declaration
        elif name not in inputs:
            inputs[name] = declaration
            if not plain:
                odd[name] = access
    for access in odd.values():
        raise CascadeError(
            f"the ranks of input {access.tensor} cannot be told from {access}",
            span=access.span,
            fix=f"declare it before build, as in c.inputs(c.{access.tensor}[m, e])",
        )
    return tuple(inputs.values())


def _inferred_outputs(
    built: tuple[Statement, ...], states: AbstractSet[str]
) -> tuple[Declaration, ...]:
    """Return what is defined and read by no other Einsum, or a next state, in that order."""
    found = [e for each in built for e in (each.einsums if isinstance(each, Group) else (each,))]
    read = {access.tensor for e in found for access in e.operands if access.tensor != e.name}
    return tuple(
        Declaration(each.name, variables(each.output), span=each.output.span)
        for each in found
        if (each.name not in read or each.name in states) and not each.init
    )


def _name(term: Term) -> str:
    match term.expr:
        case Sym(name) | Access(name, _):
            return name
        case _:
            raise CascadeError(
                f"'{term}' names no tensor", span=here(), fix="write it as in c.K or c.K[m, e]"
            )


def _whole_line(span: Span | None) -> Span | None:
    if span is None:
        return None
    column = len(span.text) - len(span.text.lstrip())
    return replace(span, column=column, length=max(1, len(span.text.strip())))

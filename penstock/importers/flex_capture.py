"""The arrays that a Python function captures, made fit to be indexed by `Traced` values.

numpy does not ask an unknown index what it wants, so that captured arrays are replaced by views of
a class that does: in closures, in globals of the same module, in defaults, in ``functools.partial``
and inside tuples, lists and dicts of these. Nothing of the user's is changed: a function that
captures an array is copied. torch tensors ask the index, so that only their names are noted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import CellType, CodeType, FunctionType
from typing import Any

import numpy as np

from penstock.importers.flex_terms import Indexed, Store

__all__ = ["Capture"]


class Capture:
    """Makes copies of functions; an array is replaced by the same view in all of them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._made: dict[int, Any] = {}

    def prepared(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its arrays replaced, or itself if it has none."""
        prepared: Callable[..., Any] = self._value(function, "")
        return prepared

    def _value(self, value: Any, name: str) -> Any:
        if id(value) in self._made:
            return self._made[id(value)]
        made = value
        self._made[id(value)] = value  # for functions that call themselves
        match value:
            case np.ndarray() if value.ndim:
                made = value.view(Indexed)
                self._store.call(made, name)
            case FunctionType():
                made = self._function(value)
            case partial():
                made = partial(
                    self._value(value.func, name),
                    *self._value(value.args, name),
                    **self._value(value.keywords, name),
                )
            case tuple() | list() if type(value) in {tuple, list}:
                new = [self._value(each, name) for each in value]
                same = all(a is b for a, b in zip(new, value, strict=True))
                made = value if same else type(value)(new)
            case dict() if type(value) is dict:
                made = {key: self._value(each, str(key)) for key, each in value.items()}
            case _ if hasattr(value, "detach"):
                self._store.call(value, name)
        self._store.kept.append(value)
        self._made[id(value)] = made
        return made

    def _function(self, function: FunctionType) -> FunctionType:
        code = function.__code__
        cells = function.__closure__ or ()
        new_cells = tuple(
            self._cell(cell, name) for name, cell in zip(code.co_freevars, cells, strict=True)
        )
        replaced = {
            name: new
            for name in _names(code)
            if name in function.__globals__ and _here(function.__globals__[name], function)
            if (new := self._value(function.__globals__[name], name))
            is not function.__globals__[name]
        }
        given = function.__defaults__ or ()
        first = code.co_argcount - len(given)
        named = zip(given, code.co_varnames[first : code.co_argcount], strict=True)
        defaults = tuple(self._value(each, name) for each, name in named)
        keywords = self._value(dict(function.__kwdefaults__ or {}), "")
        made = FunctionType(
            code, {**function.__globals__, **replaced}, function.__name__, defaults, new_cells
        )
        made.__kwdefaults__ = keywords
        return made

    def _cell(self, cell: CellType, name: str) -> CellType:
        try:
            value = cell.cell_contents
        except ValueError:  # a variable that is set after the def
            return cell
        new = self._value(value, name)
        return cell if new is value else CellType(new)


def _here(value: Any, function: FunctionType) -> bool:
    """Whether a global value is looked into: functions of other modules are left alone."""
    return not isinstance(value, FunctionType) or value.__globals__ is function.__globals__


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names that a function and those inside it read."""
    yield from code.co_names
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _names(each)

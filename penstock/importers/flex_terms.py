"""What a flex_attention function is run on: values that write down what is done with them.

A `Traced` value stands for one element, as in ``torch.vmap``. It knows Python's operators, numpy's
functions (``__array_ufunc__``, ``__array_function__``), torch's (``__torch_function__``, so that
torch is never imported here) and the methods of a tensor. An array that is indexed by one becomes
an input of the cascade (`Store`). Excluded: what the operators are (`flex_operators.py`), finding
the arrays that a function captures (`flex_capture.py`), and the cascade (`flex.py`).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.einsum_ir.frontend.terms import here
from penstock.einsum_ir.nodes import Access, Apply, Expr, Num, Sym, Var, rebuilt
from penstock.einsum_ir.regions.algebra import NumpyAlgebra
from penstock.einsum_ir.regions.bounds import interval
from penstock.errors import CascadeError
from penstock.importers.flex_operators import FUNCTIONS, HANDLERS, Element, Kind, element

__all__ = ["Indexed", "Store", "Table", "Traced", "traced"]

_FAR = 2**40
"""The extent that a rank is taken to have where none is given: no sequence is longer."""


@dataclass(frozen=True)
class Table:
    """An array that the functions index: its name in the cascade, and its values."""

    name: str
    values: NDArray[Any]

    @property
    def ranks(self) -> tuple[str, ...]:
        """A rank of its own for each axis: an array may be longer than what indexes it."""
        return tuple(f"{self.name.lower()}_{axis}" for axis in range(self.values.ndim))


@dataclass
class Store:
    """The arrays that the functions index, and how the user calls them.

    Args:
        extents: rank variable → extent, where it is known.
        taken: names that the cascade uses itself.
    """

    extents: Mapping[str, int]
    taken: set[str]
    names: dict[int, str] = field(default_factory=dict)
    tables: dict[int, Table] = field(default_factory=dict)
    kept: list[object] = field(default_factory=list)

    def call(self, array: object, name: str) -> None:
        """Note what the user calls an array; the first name stays."""
        self.names.setdefault(id(array), name)
        self.kept.append(array)  # while it lives, nothing else has its id

    def table(self, array: Any) -> Table:
        """Return the input that an array has become."""
        if id(array) not in self.tables:
            values = _values(array)
            name = self._unique(self.names.get(id(array), "t"), values.ndim)
            self.tables[id(array)] = Table(name, values)
            self.kept.append(array)
        return self.tables[id(array)]

    def _unique(self, name: str, ndim: int) -> str:
        base = re.sub(r"[^A-Z0-9_]", "", name.upper()).lstrip("_0123456789") or "T"
        number, unique = 0, base
        while {unique, *(f"{unique}_{axis}" for axis in range(ndim))} & self.taken:
            number += 1
            unique = f"{base}{number}"
        self.taken |= {unique, *(f"{unique}_{axis}" for axis in range(ndim))}
        return unique


def _values(array: Any) -> NDArray[Any]:
    """Return the elements of a numpy array or a torch tensor; small integers in 16 bits.

    A wider type would ask for fp64 (`inputs.default_format`), which coordinates do not mean.
    """
    if not isinstance(array, np.ndarray):
        array = array.detach().cpu()
        array = (array.float() if str(array.dtype) == "torch.bfloat16" else array).numpy()
    values = np.array(array, subok=False)
    if values.dtype.kind not in "fiub":
        raise CascadeError(
            f"a captured array has elements of type {values.dtype}",
            span=here(),
            fix="give floats, integers or booleans",
        )
    if values.dtype.kind in "iu" and values.size and int(abs(values).max()) < 2**15:
        return values.astype(np.int16)
    return values


class Indexed(np.ndarray[Any, Any]):
    """A captured numpy array: it can be indexed by `Traced` values too."""

    def __getitem__(self, index: Any) -> Any:
        first = next((each for each in _tuple(index) if isinstance(each, Traced)), None)
        return super().__getitem__(index) if first is None else _gather(self, index, first.store)


class Traced:
    """An element that knows the arrays of its function; see the module."""

    __slots__ = ("element", "store")
    __hash__ = object.__hash__

    def __init__(self, element: Element, store: Store) -> None:
        self.element, self.store = element, store

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one element."""
        return ()

    @property
    def device(self) -> None:
        """None, which torch takes for the usual device."""
        return

    def __str__(self) -> str:
        return str(self.element)

    def __repr__(self) -> str:
        return f"<traced {self}>"

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Traced | Rows:
        name = getattr(func, "__name__", str(func))
        if name == "__getitem__":
            array, index = args
            first = next(each for each in _tuple(index) if isinstance(each, Traced))
            return _gather(array, index, first.store)
        return _call(name, args, kwargs or {}, f"torch's {name}")

    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **kwargs: Any) -> Traced:
        what = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
        return _call(what, args, kwargs, f"numpy's {what}")

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Traced:
        return _call(func.__name__, args, kwargs, f"numpy's {func.__name__}")

    def __getattr__(self, name: str) -> Callable[..., Traced]:
        if name.startswith("_"):
            raise AttributeError(f"'Traced' object has no attribute '{name}'")

        def method(*args: Any, **kwargs: Any) -> Traced:
            given = (args[0], self, *args[1:]) if name == "where" else (self, *args)
            return _call(name, given, kwargs, f"method {name}")

        if name not in HANDLERS:
            raise _unsupported(f"'{name}' of an element")
        return method

    def __bool__(self) -> bool:
        raise CascadeError(
            f"'{self}' has no truth value: the function runs once, for all points together",
            span=here(),
            fix="write & | ~ for and, or, not, and (0 <= x) & (x < W) for 0 <= x < W; "
            "torch.where(condition, a, b) for if, torch.maximum and torch.minimum for max and min",
        )

    def __float__(self) -> float:
        raise self._no_number("torch.tanh or np.tanh for math.tanh, and so on")

    def __int__(self) -> int:
        raise self._no_number("x.to(int) to drop the fraction")

    def __index__(self) -> int:
        raise self._no_number("a numpy array or a torch tensor for a list, and a number in a slice")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise self._no_number(
            "a torch tensor, or give the numpy array to the function as a variable of its own "
            "(bias = self.bias before the def)"
        )

    def _no_number(self, instead: str) -> CascadeError:
        return CascadeError(
            f"'{self}' is no number yet: the function runs once, for all points together",
            span=here(),
            fix=f"use {instead}",
        )


class Rows:
    """An array with fewer indices than dimensions so far: ``bias[h]`` of ``bias[h][q_idx]``."""

    def __init__(self, array: Any, index: tuple[Any, ...], store: Store) -> None:
        self._array, self._index, self._store = array, index, store

    def __getitem__(self, index: Any) -> Traced | Rows:
        return _gather(self._array, (*self._index, *_tuple(index)), self._store)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"'Rows' object has no attribute '{name}'")
        raise self.incomplete()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise next(each for each in args if isinstance(each, Rows)).incomplete()

    def __array_ufunc__(self, *args: Any, **kwargs: Any) -> Any:
        raise self.incomplete()

    def incomplete(self) -> CascadeError:
        """Return the error for something that is used as one element."""
        shown = ", ".join(str(each) for each in self._index)
        return CascadeError(
            f"a captured array of {len(self._array.shape)} dimensions is indexed by [{shown}] only",
            span=here(),
            fix="give one index for each dimension",
        )


def _tuple(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


def _gather(array: Any, index: Any, store: Store) -> Traced | Rows:
    """Return the element of an array at an index, or what lacks some more indices."""
    given = _tuple(index)
    if len(given) > len(array.shape):
        raise CascadeError(
            f"{len(given)} indices into a captured array of {len(array.shape)} dimensions",
            span=here(),
            fix="give one index for each dimension",
        )
    if len(given) < len(array.shape):
        return Rows(array, given, store)
    table = store.table(array)
    indices = tuple(_index(table, axis, each, store) for axis, each in enumerate(given))
    kind: Kind = {"b": "bool", "f": "float"}.get(table.values.dtype.kind, "int")  # type: ignore[assignment]
    return Traced(Element(Access(table.name, indices, span=here()), kind), store)


def _index(table: Table, axis: int, index: Any, store: Store) -> Expr:
    """Return the index as an expression; a negative one counts from the end, as in Python."""
    size = table.values.shape[axis]
    if not isinstance(index, Traced) and isinstance(index, slice | list | None):
        raise CascadeError(
            f"'{index}' takes a part of a captured array",
            span=here(),
            fix="give one whole number for each dimension",
        )
    place = traced(index, store).element
    if place.kind != "int":
        raise CascadeError(
            f"'{place}' is no whole number, and indexes a captured array",
            span=here(),
            fix="write a // b for a / b, or x.to(int) to drop the fraction",
        )
    if isinstance(place.expr, Num):
        number = int(place.expr.value)
        if not -size <= number < size:
            raise CascadeError(
                f"index {number} is outside a captured array of size {size}",
                span=here(),
                fix=f"use 0 to {size - 1}",
            )
        return Num(number % size)
    if _at_least_zero(place.expr, store):
        return place.expr
    return Apply("%", (place.expr, Sym(f"{table.name}_{axis}")), span=here())


def _at_least_zero(expr: Expr, store: Store) -> bool:
    """Whether an index is never negative; elements of tables are within those that are there."""
    ranges = {name: (0, store.extents.get(name, _FAR) - 1) for name in "bhpm"}
    for table in store.tables.values():
        if table.values.size and table.values.dtype.kind in "iu":
            ranges[table.name.lower()] = int(table.values.min()), int(table.values.max())
    found = interval(_without_accesses(expr), ranges, NumpyAlgebra(), {})
    return found is not None and bool(found[0] >= 0)


def _without_accesses(expr: Expr) -> Expr:
    if isinstance(expr, Access):
        return Var(expr.tensor.lower())
    return rebuilt(expr, _without_accesses)


# --- calls --------------------------------------------------------------------------------------


def traced(value: Any, store: Store) -> Traced:
    """Return an element, or what stands for one, as a `Traced` value.

    Raises:
        CascadeError: an array of more elements, or something else.
    """
    return value if isinstance(value, Traced) else Traced(element(value), store)


def _call(name: str, args: Iterable[Any], kwargs: Mapping[str, Any], what: str) -> Traced:
    """Apply a function of torch, numpy or Python by its name."""
    handler = HANDLERS.get(name.strip("_").removeprefix("special_"))
    if handler is None:
        raise _unsupported(what)
    given, named = list(args), dict(kwargs)
    for each in (*given, *named.values()):
        if isinstance(each, Rows):
            raise each.incomplete()
    store = next(each.store for each in (*given, *named.values()) if isinstance(each, Traced))
    plain = [each.element if isinstance(each, Traced) else each for each in given]
    keys = {k: each.element if isinstance(each, Traced) else each for k, each in named.items()}
    plain[:1] = [element(each) for each in plain[:1]]
    try:
        inspect.signature(handler).bind(*plain, **keys)
    except TypeError as error:
        raise CascadeError(
            f"{what} has arguments that an Einsum cannot take: {error}",
            span=here(),
            fix="leave them out, or write the same with + - * / and torch.where",
        ) from None
    return Traced(handler(*plain, **keys), store)


def _unsupported(what: str) -> CascadeError:
    return CascadeError(
        f"{what} is no operator of an Einsum",
        span=here(),
        fix=f"use + - * / // % ** & | ~, comparisons, and {', '.join(FUNCTIONS)}",
    )


_REFLECTED = {"add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor"}
_REFLECTED |= {"matmul", "lshift", "rshift"}
_DUNDERS = _REFLECTED | {"lt", "le", "gt", "ge", "eq", "ne", "invert", "neg", "abs"}
_DUNDERS |= {"divmod", "round"}


def _operator(name: str, *, reflected: bool = False) -> Callable[..., Traced]:
    def operator(self: Traced, *others: Any) -> Traced:
        args = (*others, self) if reflected else (self, *others)
        return _call(name, args, {}, f"Python's operator {name}")

    return operator


for _name in _DUNDERS:
    setattr(Traced, f"__{_name}__", _operator(_name))
for _name in _REFLECTED:
    setattr(Traced, f"__r{_name}__", _operator(_name, reflected=True))

"""What a cascade means, point by point in mpmath: dictionaries and loops, 50 digits.

Independent of the interpreter but for the extents (`bind_arrays`): a tensor is a dict from
coordinates to a number, an absent element is missing. Coordinates are Python integers.
"""

import itertools
from collections.abc import Callable, Mapping

import mpmath
import numpy as np

from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.interpreter.inputs import bind_arrays
from penstock.einsum_ir.nodes import Access, Apply, Einsum, Expr, Group, Num, Sym, Var
from penstock.einsum_ir.shapes import Bound

MP = mpmath.MPContext()
MP.dps = 50

ABSENT = object()
"""The value of an expression at a point where it is absent."""

Point = dict[str, int]


def _real(function: Callable) -> Callable:
    """NaN where mpmath gives a complex number, and where IEEE 754 has an infinity or NaN."""

    def wrapped(x):
        value = function(MP.mpf(x)) if not MP.isnan(x) else MP.nan
        return value if isinstance(value, MP.mpf) else MP.nan

    return wrapped


def _divide(x, y):
    if y == 0:
        return MP.nan if x == 0 or MP.isnan(x) else MP.inf * MP.sign(x)
    return MP.mpf(x) / y


def _power(x, y):
    if isinstance(x, int) and isinstance(y, int) and y >= 0:
        return x**y
    if x == 0 and y != 0:
        return MP.mpf(0) if y > 0 else MP.inf
    value = MP.mpf(x) ** y
    return value if isinstance(value, MP.mpf) else MP.nan


def _log(x):
    if x == 0:
        return -MP.inf
    return MP.log(x) if x > 0 else MP.nan


def _sqrt(x):
    return MP.sqrt(x) if x >= 0 else MP.nan


def _exp(x):
    if abs(x) > 1e30 and MP.isfinite(x):  # a rounding of x is too many digits of exp(x)
        raise OverflowError(f"exp({MP.nstr(x, 3)}) is out of reach")
    return MP.exp(x)


def _add(x, y):
    return MP.nan if MP.isinf(x) and MP.isinf(y) and x != y else x + y


def _multiply(x, y):
    infinite = (MP.isinf(x) and y == 0) or (MP.isinf(y) and x == 0)
    return MP.nan if infinite else x * y


def _largest(x, y):
    return MP.nan if MP.isnan(x) or MP.isnan(y) else max(x, y)


def _smallest(x, y):
    return MP.nan if MP.isnan(x) or MP.isnan(y) else min(x, y)


def _sigmoid(x):
    return 1 / (1 + MP.exp(-x))


def _tanh(x):
    return MP.sign(x) if MP.isinf(x) else MP.tanh(x)


OPERATORS: dict[str, Callable] = {
    "or": lambda x, y: int(x != 0 or y != 0),
    "and": lambda x, y: int(x != 0 and y != 0),
    "not": lambda x: int(x == 0),
    "==": lambda x, y: int(x == y),
    "!=": lambda x, y: int(x != y),
    "<": lambda x, y: int(x < y),
    "<=": lambda x, y: int(x <= y),
    ">": lambda x, y: int(x > y),
    ">=": lambda x, y: int(x >= y),
    "+": _add,
    "-": lambda x, y: _add(x, -y),
    "*": _multiply,
    "/": _divide,
    "//": lambda x, y: ABSENT if y == 0 else x // y,
    "%": lambda x, y: ABSENT if y == 0 else x % y,
    "neg": lambda x: -x,
    "**": _power,
    "abs": abs,
    "exp": _real(_exp),
    "exp2": _real(lambda x: MP.mpf(2) ** x),
    "log": _real(_log),
    "log2": _real(lambda x: _log(x) / MP.log(2)),
    "sqrt": _real(_sqrt),
    "rsqrt": _real(lambda x: _divide(1, _sqrt(x))),
    "sq": lambda x: x * x,
    "sin": _real(MP.sin),
    "cos": _real(MP.cos),
    "tanh": _real(_tanh),
    "sigmoid": _real(_sigmoid),
    "silu": _real(lambda x: x * _sigmoid(x)),
    "softplus": _real(lambda x: max(x, 0) + MP.log(1 + MP.exp(-abs(x)))),
    "relu": lambda x: _largest(x, 0),
    "step": lambda x: int(x >= 0),
    "sign": lambda x: (x > 0) - (x < 0),
    "floor": lambda x: x if isinstance(x, int) else MP.floor(x),
    "round": lambda x: x if isinstance(x, int) else MP.floor(x + MP.mpf(0.5)),
    "max": _largest,
    "min": _smallest,
    "clamp": lambda x, low, high: _smallest(_largest(x, low), high),
}

_FOLDS: dict[str, Callable] = {
    "sum": lambda values: _folded(_add, values),
    "prod": lambda values: _folded(_multiply, values),
    "max": lambda values: _folded(_largest, values),
    "min": lambda values: _folded(_smallest, values),
    "mean": lambda values: _divide(_folded(_add, values), len(values)),
}


def _folded(fold: Callable, values: list):
    total = values[0]
    for each in values[1:]:
        total = fold(total, each)
    return total


class Points:
    """Runs a bound cascade at every point."""

    def __init__(self, bound: Bound, arrays: Mapping[str, np.ndarray]) -> None:
        self.bound = bound
        self.iterative = bound.cascade.iterative
        self.tensors: dict[str, dict] = {each.name: {} for each in bound.cascade.einsums}
        for each in bound.cascade.inputs:
            array = np.asarray(arrays[each.tensor])
            self.tensors[each.tensor] = {
                key: MP.mpf(float(array[key])) for key in np.ndindex(array.shape)
            }

    def run(self) -> None:
        for statement in self.bound.cascade.schedule:
            if isinstance(statement, Group):
                for step in range(self.bound.extents[statement.variable]):
                    for einsum in statement.einsums:
                        self.einsum(einsum, {statement.variable: step})
            else:
                start = {statement.iterative: -1} if statement.init and statement.iterative else {}
                self.einsum(statement, start)

    def einsum(self, einsum: Einsum, fixed: Point) -> None:
        body = self.compiled(einsum.body)
        where = self.compiled(einsum.where) if einsum.where is not None else None
        places = [self.compiled(index) for index in einsum.output.indices]
        reduced = einsum.reduce.over if einsum.reduce else ()
        kept = [name for name in einsum.variables if name not in reduced]
        if einsum.selects and einsum.reduce.into:
            kept.remove(einsum.reduce.into)
        for point in self.points(kept, fixed):
            found = []
            for coordinate, inner in enumerate(self.points(reduced, point)):
                value = self.value(body, where, inner)
                if value is not ABSENT:
                    found.append((coordinate, value))
            if einsum.selects:
                self.select(einsum, places, point, found)
                continue
            key = tuple(place(point) for place in places)
            if found:
                values = [value for _, value in found]
                total = _FOLDS[einsum.reduce.op](values) if einsum.reduce else values[0]
                self.tensors[einsum.name][key] = total
            elif einsum.iterative and not einsum.init:
                self.carry(einsum.name, key)

    def carry(self, name: str, key: tuple[int, ...]) -> None:
        """An absent step leaves the state as it was."""
        _, position = self.iterative[name]
        before = (*key[:position], key[position] - 1, *key[position + 1 :])
        if before in self.tensors[name]:
            self.tensors[name][key] = self.tensors[name][before]

    def select(self, einsum: Einsum, places: list, point: Point, found: list) -> None:
        sign = -1 if einsum.reduce.op in ("topk", "argmax") else 1
        ordered = [coordinate for coordinate, _ in sorted(found, key=lambda e: (sign * e[1], e[0]))]
        into = einsum.reduce.into
        count = self.bound.extents[into] if into else 1
        for number, coordinate in zip(range(count), ordered, strict=False):
            at = {**point, into: number} if into else point
            self.tensors[einsum.name][tuple(place(at) for place in places)] = coordinate

    def points(self, names, fixed: Point):
        names = [name for name in names if name not in fixed]
        ranges = (range(self.bound.extents[name]) for name in names)
        for point in itertools.product(*ranges):
            yield {**fixed, **dict(zip(names, point, strict=True))}

    def value(self, body: Callable, where: Callable | None, point: Point):
        if where is not None:
            holds = where(point)
            if holds is ABSENT or holds == 0:
                return ABSENT
        return body(point)

    def compiled(self, expr: Expr) -> Callable[[Point], object]:
        match expr:
            case Num(value):
                number = value if isinstance(value, int) else MP.mpf(value)
                return lambda _: number
            case Var(name):
                return lambda point: point[name]
            case Sym(name):
                value = self.bound.symbols[name]
                number = int(value) if float(value).is_integer() else MP.mpf(value)
                return lambda _: number
            case Access(tensor, indices):
                return self._access(self.tensors[tensor], [self.compiled(i) for i in indices])
            case Apply("fill", args):
                x, instead = (self.compiled(arg) for arg in args)
                return lambda point: v if (v := x(point)) is not ABSENT else instead(point)
            case Apply("where", args):
                return self._where(*(self.compiled(arg) for arg in args))
            case Apply(op, args):
                return self._apply(OPERATORS[op], [self.compiled(arg) for arg in args])

    def _where(self, condition: Callable, then: Callable, otherwise: Callable) -> Callable:
        def value(point: Point):
            chosen = condition(point)
            if chosen is ABSENT:
                return ABSENT
            return then(point) if chosen != 0 else otherwise(point)

        return value

    def _apply(self, function: Callable, args: list[Callable]) -> Callable:
        def value(point: Point):
            values = [arg(point) for arg in args]
            return ABSENT if any(each is ABSENT for each in values) else function(*values)

        return value

    def _access(self, tensor: dict, indices: list[Callable]) -> Callable:
        def value(point: Point):
            key = tuple(index(point) for index in indices)
            if any(each is ABSENT for each in key):
                return ABSENT
            return tensor.get(key, ABSENT)  # a whole mpf equals, and hashes as, its int

        return value


def points(cascade: Cascade, arrays: Mapping[str, np.ndarray], **shapes: int):
    """Return tensor → {coordinates: value} for the outputs, absent elements left out."""
    runner = Points(bind_arrays(cascade, arrays, shapes=shapes), arrays)
    runner.run()
    return {each.tensor: runner.tensors[each.tensor] for each in cascade.outputs}


def precise(cascade: Cascade, arrays: Mapping[str, np.ndarray], **shapes: int):
    """Return the outputs as object arrays of 50 digits, 0 where absent."""
    runner = Points(bind_arrays(cascade, arrays, shapes=shapes), arrays)
    runner.run()
    found = {}
    for each in cascade.outputs:
        array = np.full(runner.bound.dims[each.tensor], MP.mpf(0), dtype=object)
        for key, value in runner.tensors[each.tensor].items():
            array[key] = MP.mpf(value)
        found[each.tensor] = array
    return found


def distance(values, reference) -> float:
    """The largest difference relative to the largest magnitude; inf where NaN or inf differ."""
    pairs = list(zip(np.ravel(values), np.ravel(reference), strict=True))
    finite = [abs(ref) for _, ref in pairs if MP.isfinite(ref)]
    scale = max(finite, default=0) or 1
    worst = MP.mpf(0)
    for value, ref in pairs:
        number = value if isinstance(value, MP.mpf) else MP.mpf(float(value))
        if number == ref or (MP.isnan(ref) and MP.isnan(number)):
            continue
        if not (MP.isfinite(number) and MP.isfinite(ref)):
            return float("inf")
        worst = max(worst, abs(number - ref) / scale)
    return float(worst)

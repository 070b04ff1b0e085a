"""What a cascade of zoo.json means, point by point: dictionaries, loops and Python's own parser.

Independent of penstock: a tensor is a dict from coordinates to a value, an absent element is
missing, and a right side is a Python expression that is evaluated at every point.
"""

import ast
import itertools
import math
import re
from dataclasses import dataclass

_EQUATION = re.compile(r"(?P<left>.*?)(?<![=!<>])=(?!=)(?P<right>.*)")
_REDUCTIONS = {"sum": math.fsum, "max": max, "min": min, "prod": math.prod}
_REDUCTIONS["mean"] = lambda values: math.fsum(values) / len(values)


class AbsentError(Exception):
    """An operand is absent."""


@dataclass
class Tensor:
    values: dict

    def __getitem__(self, key):
        key = key if isinstance(key, tuple) else (key,)
        try:
            return self.values[key]
        except KeyError:
            raise AbsentError from None


def fill(value, instead):
    try:
        return value()
    except AbsentError:
        return instead


def exp(x):
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


FUNCTIONS = {
    "abs": abs,
    "sqrt": math.sqrt,
    "tanh": math.tanh,
    "sin": math.sin,
    "log": math.log,
    "exp": exp,
    "sq": lambda x: x * x,
    "clamp": lambda x, low, high: min(max(x, low), high),
    "gelu": lambda x: x / 2 * math.erfc(-x / math.sqrt(2)),
    "relu": lambda x: max(x, 0),
    "sigmoid": lambda x: 1 / (1 + exp(-x)),
    "softplus": lambda x: max(x, 0) + math.log1p(math.exp(-abs(x))),
    "step": lambda x: int(x >= 0),
    "min2": min,
    "max2": max,
    "bitlen": lambda x: int(x).bit_length(),
    "fill": fill,
    "all_of": lambda *args: all(args),
    "any_of": lambda *args: any(args),
}


class _Lazy(ast.NodeTransformer):
    """``where`` looks at one side, ``fill`` at absence, ``and`` and ``or`` at all operands."""

    def visit_Call(self, node):
        self.generic_visit(node)
        if node.func.id == "where":
            return ast.IfExp(*node.args)
        if node.func.id == "fill":
            nothing = ast.arguments([], [], None, [], [], None, [])
            node.args[0] = ast.Lambda(nothing, node.args[0])
        return node

    def visit_BoolOp(self, node):
        self.generic_visit(node)
        name = "all_of" if isinstance(node.op, ast.And) else "any_of"
        return ast.Call(ast.Name(name, ast.Load()), node.values, [])


@dataclass
class Right:
    """A right side, or an index: its code and its rank variables."""

    code: object
    names: frozenset


def compiled(text, ranks):
    tree = _Lazy().visit(ast.parse(text.strip(), mode="eval"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return Right(compile(ast.fix_missing_locations(tree), text, "eval"), frozenset(names & ranks))


def split(text, sign):
    """Split at the last top-level sign; the second part is None without one."""
    head, found, tail = text.rpartition(f" {sign} ")
    return (head, tail) if found else (text, None)


class Points:
    """Runs a cascade of zoo.json."""

    def __init__(self, entry, inputs):
        self.extents = entry["ranks"]
        self.ranks = frozenset(self.extents)
        shapes = {name.upper(): extent for name, extent in self.extents.items()}
        self.scope = {**FUNCTIONS, **shapes, **entry["consts"]}
        for name, array in inputs.items():
            self.scope[name] = Tensor({key: array[key].item() for key in _keys(array.shape)})
        self.starts = {}

    def run(self, lines):
        number = 0
        while number < len(lines):
            line = lines[number]
            number += 1
            if line.startswith("init "):
                name, _, rest = line.removeprefix("init ").partition(":")
                self.equation(rest, {name: -1})
            elif line.startswith("loop "):
                stop = next(
                    (n for n in range(number, len(lines)) if not lines[n].startswith(" ")),
                    len(lines),
                )
                self.loop(line.removeprefix("loop ").rstrip(":"), lines[number:stop])
                number = stop
            elif found := re.match(r"\w+\[[^]]*?\b([a-z])\+1\b[^]]*\] ?=", line):
                self.loop(found[1], [line])
            else:
                self.equation(line, {})

    def loop(self, name, lines):
        for step in range(self.extents[name]):
            for line in lines:
                self.equation(line, {name: step})

    def equation(self, line, fixed):
        found = _EQUATION.match(line.strip())
        left = ast.parse(found["left"].strip(), mode="eval").body
        name = left.id if isinstance(left, ast.Name) else left.value.id
        places = []
        if isinstance(left, ast.Subscript):
            key = left.slice
            parts = key.elts if isinstance(key, ast.Tuple) else [key]
            places = [compiled(ast.unparse(part), self.ranks) for part in parts]
        body, where = split(found["right"], "s.t.")
        body, reduction = split(body, "::")
        where = compiled(where, self.ranks) if where else None
        if not isinstance(self.scope.get(name), Tensor):  # a shape may have its name
            self.scope[name] = Tensor({})
        tensor = self.scope[name]
        macro = re.fullmatch(r"\s*(SOFTMAX|TOPK)\((.*)\)\s*", body)
        if macro is None:
            op = reduction.split("[")[0].strip() if reduction else "sum"
            right = compiled(body, self.ranks)
            self.write(name, tensor, places, right, where, _REDUCTIONS[op], fixed)
            return
        parts = [part.strip() for part in macro[2].split(";")]
        inner = compiled(parts[0], self.ranks)
        over = [each.strip() for each in parts[1].split(",")]
        if macro[1] == "SOFTMAX":
            self.softmax(tensor, places, inner, where, over, fixed)
        else:
            self.topk(tensor, places, inner, where, (over[0], parts[2]), fixed)

    def points(self, names, fixed):
        names = sorted(names - set(fixed))
        for point in itertools.product(*(range(self.extents[name]) for name in names)):
            yield {**fixed, **dict(zip(names, point, strict=True))}

    def at(self, right, point):
        self.scope.update(point)
        return eval(right.code, self.scope)

    def value(self, right, where, point):
        """Return the value at a point, or None if it is absent."""
        try:
            if where is None or self.at(where, point):
                return self.at(right, point)
        except AbsentError:
            pass
        return None

    def write(self, name, tensor, places, right, where, fold, fixed):
        found = {}
        names = right.names.union(*(p.names for p in places), where.names if where else ())
        for point in self.points(names, fixed):
            value = self.value(right, where, point)
            if value is not None:
                try:
                    key = tuple(self.at(place, point) for place in places)
                except AbsentError:
                    continue
                found.setdefault(key, []).append(value)
        for key, values in found.items():
            tensor.values[key] = fold(values)
        if not places:  # read without brackets
            self.scope[name] = tensor.values[()]
        if fixed and -1 not in fixed.values():
            self.carry(tensor, places, fixed, found)

    def carry(self, tensor, places, fixed, found):
        """An absent step leaves the state as it was."""
        ((name, step),) = fixed.items()
        here = [self.at(place, dict.fromkeys(place.names, 0) | fixed) for place in places]
        axis = next((n for n, place in enumerate(here) if place == step + 1), None)
        if axis is None or not all(p.names <= {name} or len(p.names) == 1 for p in places):
            return
        for key in [key for key in tensor.values if key[axis] == step]:
            after = (*key[:axis], step + 1, *key[axis + 1 :])
            if after not in found:
                tensor.values[after] = tensor.values[key]

    def softmax(self, tensor, places, right, where, over, fixed):
        groups = {}
        for point in self.points(frozenset().union(*(p.names for p in places)), fixed):
            value = self.value(right, where, point)
            if value is not None:
                group = tuple(c for name, c in sorted(point.items()) if name not in over)
                key = tuple(self.at(place, point) for place in places)
                groups.setdefault(group, {})[key] = value
        for values in groups.values():
            largest = max(values.values())
            total = math.fsum(math.exp(each - largest) for each in values.values())
            for key, each in values.items():
                tensor.values[key] = math.exp(each - largest) / total

    def topk(self, tensor, places, right, where, ranks, fixed):
        (over, into) = ranks
        names = frozenset().union(*(p.names for p in places)) - {into}
        for outer in self.points(names, fixed):
            candidates = []
            for m in range(self.extents[over]):
                value = self.value(right, where, {**outer, over: m})
                if value is not None:
                    candidates.append((-value, m))
            for j, (_, m) in zip(range(self.extents[into]), sorted(candidates), strict=False):
                key = tuple(self.at(place, {**outer, into: j}) for place in places)
                tensor.values[key] = m


def _keys(shape):
    return itertools.product(*(range(n) for n in shape))

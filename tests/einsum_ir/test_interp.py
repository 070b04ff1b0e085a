"""The interpreter against plain Python loops over every point, on random cascades."""

import itertools
import math
import random
import re
from fractions import Fraction

import numpy as np
import pytest

from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.frontend.notation import parse
from penstock.einsum_ir.interpreter import reduce
from penstock.einsum_ir.interpreter.interp import Evaluator, interpret
from penstock.einsum_ir.interpreter.numerics import FIXED_FUNCTIONS, quantise
from penstock.einsum_ir.nodes import Access, Apply, Group, Num, Sym, Var, next_variable
from penstock.einsum_ir.shapes import bind
from penstock.errors import UnknownNameError

FP64 = parse_format("fp64")
FOLD = {"sum": np.add, "mean": np.add, "max": np.maximum, "min": np.minimum, "prod": np.multiply}
OPS = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.true_divide,
    "max": np.maximum,
    "min": np.minimum,
    "neg": np.negative,
    "abs": np.abs,
    "exp": np.exp,
    "relu": lambda x: np.maximum(x, 0),
    "clamp": lambda x, a, b: np.minimum(np.maximum(x, a), b),
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
    "and": lambda a, b: bool(a) and bool(b),
    "or": lambda a, b: bool(a) or bool(b),
    "not": lambda a: not a,
}


class Oracle:
    """A cascade by plain loops: a dict of the present elements of each tensor."""

    def __init__(self, bound, inputs):
        self.bound = bound
        self.dims = bound.dims
        self.known = {
            name: {at: array[at].item() for at in np.ndindex(array.shape)}
            for name, array in inputs.items()
        }
        for statement in bound.cascade.schedule:
            if isinstance(statement, Group):
                for step in range(bound.extents[statement.variable]):
                    for einsum in statement.einsums:
                        self.einsum(einsum, {statement.variable: step})
            else:
                self.einsum(statement, {})

    def einsum(self, einsum, fixed):
        """Compute an Einsum; None stands for absent."""
        result = self.known.setdefault(einsum.name, {})
        kept = [name for name in einsum.variables if self.keeps(einsum, name)]
        over = [name for name in einsum.variables if name not in kept]
        ranges = {name: range(self.bound.extents[name]) for name in einsum.variables}
        ranges |= {name: [step] for name, step in fixed.items() if name in ranges}
        if einsum.init and einsum.iterative:
            ranges[einsum.iterative] = [-1]
        for point in itertools.product(*(ranges[name] for name in kept)):
            env = dict(zip(kept, point, strict=True))
            values = []
            for rest in itertools.product(*(ranges[name] for name in over)):
                here = env | dict(zip(over, rest, strict=True))
                values.append(self.point(einsum, here))
            value = self.fold(einsum, [each for each in values if each is not None])
            at = tuple(self.value(index, env) for index in einsum.output.indices)
            if value is None and einsum.iterative and not einsum.init:
                before = [
                    place - 1 if next_variable(index) else place
                    for place, index in zip(at, einsum.output.indices, strict=True)
                ]
                value = result.get(tuple(before))
            if value is not None:
                result[at] = value

    @staticmethod
    def keeps(einsum, name):
        return einsum.reduce is None or name not in einsum.reduce.over

    def point(self, einsum, env):
        if einsum.where is not None and not self.value(einsum.where, env):
            return None
        return self.value(einsum.body, env)

    def fold(self, einsum, values):
        if einsum.reduce is None or not values:
            return values[0] if values else None
        total = np.float64(values[0])
        for each in values[1:]:
            total = FOLD[einsum.reduce.op](total, np.float64(each))
        return total / len(values) if einsum.reduce.op == "mean" else total

    def value(self, expr, env):
        match expr:
            case Num(value):
                return int(value) if float(value).is_integer() else np.float64(value)
            case Sym(name):
                return self.value(Num(self.bound.symbols[name]), env)
            case Var(name):
                return env[name]
            case Access(tensor, indices):
                return self.element(tensor, [self.value(index, env) for index in indices])
            case Apply("where", (condition, then, otherwise)):
                chosen = self.value(condition, env)
                return None if chosen is None else self.value(then if chosen else otherwise, env)
            case Apply("fill", (inner, instead)):
                value = self.value(inner, env)
                return self.value(instead, env) if value is None else value
            case Apply(op, args):
                values = [self.value(arg, env) for arg in args]
                return None if any(each is None for each in values) else self.apply(op, values)

    def element(self, tensor, at):
        if any(each is None or each != int(each) for each in at):
            return None
        inside = all(0 <= i < n for i, n in zip(at, self.dims[tensor], strict=True))
        return self.known[tensor].get(tuple(int(i) for i in at)) if inside else None

    def apply(self, op, values):
        if op in ("//", "%"):
            a, b = values
            return None if b == 0 else a // b if op == "//" else a % b
        return OPS[op](*(np.float64(each) if op == "/" else each for each in values))

    def array(self, name):
        array = np.zeros(self.dims[name])
        for at, value in self.known[name].items():
            array[at] = value
        return array


class FixedOracle(Oracle):
    """The same in a fixed format: fractions, rounded when written."""

    def __init__(self, bound, inputs, fmt):
        self.fmt = fmt
        exact = {name: each for name, each in inputs.items() if name in ("J", "L")}
        rounded = {name: quantise(inputs[name], fmt) for name in inputs if name not in exact}
        super().__init__(bound, rounded | exact)

    def round(self, value):
        """Round half up and saturate."""
        scaled = math.floor(Fraction(value) * 2**self.fmt.fraction_bits + Fraction(1, 2))
        edge = 2 ** (self.fmt.bits - 1)
        return Fraction(max(-edge, min(edge - 1, scaled)), 2**self.fmt.fraction_bits)

    def point(self, einsum, env):
        value = super().point(einsum, env)
        return value if value is None or einsum.reduce else self.round(value)

    def fold(self, einsum, values):
        if not values or einsum.reduce is None:
            return values[0] if values else None
        total = Fraction(values[0])
        for each in values[1:]:
            total = FOLD[einsum.reduce.op](total, Fraction(each))
        return self.round(total / len(values) if einsum.reduce.op == "mean" else total)

    def element(self, tensor, at):
        value = super().element(tensor, at)
        exact = value is None or tensor in ("J", "L")
        return value if exact else Fraction(value)

    def value(self, expr, env):
        if isinstance(expr, Num) and not float(expr.value).is_integer():
            low, high = -(2 ** (self.fmt.integer_bits - 1)), 2 ** (self.fmt.integer_bits - 1)
            return self.round(min(max(expr.value, low), high))
        return super().value(expr, env)

    def apply(self, op, values):
        if op == "/":
            a, b = values
            edge = Fraction(2**self.fmt.integer_bits)
            return self.round(Fraction(a) / b if b else edge if a > 0 else -edge if a else 0)
        if op == "exp":
            x = Fraction(values[0])
            f = x.denominator.bit_length() - 1
            n = FIXED_FUNCTIONS["exp"](np.array(x.numerator), f, self.fmt)
            return Fraction(int(n), 2**self.fmt.fraction_bits)
        return super().apply(op, values)


def assert_equals_oracle(text, inputs, shapes=None):
    bound = bind(parse(text), shapes=shapes or {})
    with np.errstate(all="ignore"):
        oracle = Oracle(bound, inputs)
    got = interpret(bound, inputs, FP64, keep=True)
    evaluator = Evaluator(bound, inputs, FP64)
    for statement in bound.cascade.schedule:
        evaluator.run(statement)
    for name in got:
        np.testing.assert_allclose(
            got[name], oracle.array(name), rtol=1e-12, err_msg=f"{name}\n{text}"
        )
        present = {tuple(at) for at in np.argwhere(evaluator.present(name)).tolist()}
        assert present == set(oracle.known[name]), f"{name}\n{text}"
    for name, array in interpret(bound, inputs, FP64).items():  # few steps are held
        np.testing.assert_array_equal(array, got[name], err_msg=f"{name}\n{text}")


EXTENTS = {"a": 3, "b": 4, "c": 2}


class Maker:
    """Makes random cascades over ranks a, b, c."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.ranks = {"X": "ab", "Y": "bc", "Z": "c", "J": "a", "L": "b"}

    def index(self, names):
        v, w = self.random.choice(names), self.random.choice(names)
        forms = [v, v, v, f"{v} - 1", f"2*{v}", f"{v}*2 + {w} - 1", f"{v}//2", f"({v} + {w}) % 2"]
        forms += [f"clamp({v} - 1, 0, 1)", f"min({v}, {w})", "1", f"2 - {v}"]
        if "a" in names:
            forms += ["J[a]", "J[a] + 1"]
        return self.random.choice(forms)

    def access(self, names):
        tensor = self.random.choice([name for name in self.ranks if name != "J"])
        plain = self.random.random() < 0.5
        ranks = self.ranks[tensor]
        indices = [r if plain and r in names else self.index(names) for r in ranks]
        return f"{tensor}[{', '.join(indices)}]"

    def expr(self, names, depth):
        if depth == 0:
            return self.access(names)
        inner = [self.expr(names, depth - 1) for _ in range(3)]
        v = self.random.choice(names)
        forms = [
            f"({inner[0]} * {inner[1]})",
            f"({inner[0]} * {inner[1]})",
            f"({inner[0]} + {inner[1]})",
            f"({inner[0]} - {v})",
            f"(0.5 * {inner[0]})",
            f"({inner[0]} / {inner[1]})",
            f"max({inner[0]}, {inner[1]})",
            f"fill({inner[0]}, {self.random.choice(['0', '-inf', inner[1]])})",
            f"where({self.predicate(names)}, {inner[1]}, {inner[2]})",
            f"(-{inner[0]})",
            f"exp({inner[0]})",
            f"relu({inner[0]})",
        ]
        return self.random.choice(forms)

    def predicate(self, names):
        v, w = self.random.choice(names), self.random.choice(names)
        forms = [f"{v} <= {w}", f"{v} - {w} < 1", f"({v} + {w}) % 2 == 0", f"{v} > 0 or {w} > 1"]
        forms += [f"not {v} == 1", f"{self.access(names)} > 0", f"abs({v} - {w}) <= 0.5*2"]
        if "b" in names:
            forms.append(f"{v} < L[b]")
        return self.random.choice(forms)

    def statement(self, name):
        names = self.random.sample("abc", self.random.randint(1, 3))
        kept = self.random.sample(names, self.random.randint(0, len(names)))
        body = self.expr(names, self.random.randint(0, 2))
        where = f" s.t. {self.predicate(names)}" if self.random.random() < 0.4 else ""
        used = set(re.findall(r"\b[abc]\b", body + where))
        reduced = [each for each in names if each in used and each not in kept]
        op = self.random.choice(["sum", "sum", "sum", "max", "min", "prod", "mean"])
        reduction = f" :: {op}[{', '.join(reduced)}]" if reduced else ""
        self.ranks[name] = "".join(kept)
        return f"  {name}[{', '.join(kept)}] = {body}{reduction}{where}"

    def cascade(self):
        lines = ["cascade random(X[a, b], Y[b, c], Z[c], J[a], L[b]) -> T3[]"]
        lines += [f"  shape {name} = {extent}" for name, extent in EXTENTS.items()]
        lines += [self.statement(f"T{number}") for number in range(4)]
        last = f"T3[{', '.join(self.ranks['T3'])}]"
        return "\n".join([lines[0].replace("T3[]", last), *lines[1:]])


def random_arrays(seed, special):
    generator = np.random.default_rng(seed)
    arrays = {
        "X": generator.integers(-8, 9, (3, 4)) / 4,
        "Y": generator.integers(-8, 9, (4, 2)) / 4,
        "Z": generator.integers(-8, 9, 2) / 4,
        "J": generator.integers(-1, 5, 3),
        "L": generator.integers(0, 4, 4),
    }
    if special:
        for name in ("X", "Y"):
            places = generator.random(arrays[name].shape) < 0.2
            arrays[name][places] = generator.choice([np.inf, -np.inf, np.nan], places.sum())
    return arrays


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("seed", range(120))
def test_random_cascade_equals_plain_loops(seed, special):
    assert_equals_oracle(Maker(seed).cascade(), random_arrays(seed, special))


@pytest.mark.parametrize("seed", range(30))
def test_blocked_equals_plain_loops(seed, monkeypatch):
    monkeypatch.setattr(reduce, "LIMIT", 3)
    assert_equals_oracle(Maker(seed).cascade(), random_arrays(seed, special=seed % 2 == 1))


def random_boxes(einsum, bound, generator):
    """Cut an iteration space into boxes: variable -> (start, stop), steps of a loop in order."""
    cuts = {}
    for name in einsum.variables:
        extent = bound.extents[name]
        inner = generator.sample(range(1, extent), generator.randint(0, extent - 1))
        edges = [0, *sorted(inner), extent]
        cuts[name] = list(itertools.pairwise(edges))
    boxes = [dict(zip(cuts, each, strict=True)) for each in itertools.product(*cuts.values())]
    generator.shuffle(boxes)
    if einsum.iterative:
        boxes.sort(key=lambda box: box[einsum.iterative])
    return boxes


@pytest.mark.parametrize("fmt", ["fixed<16,6>", "fixed<8,4>", "fixed<32,8>"])
@pytest.mark.parametrize("seed", range(40))
def test_fixed_equals_fractions_and_random_boxes(seed, fmt):
    bound = bind(parse(Maker(seed).cascade()))
    inputs, chosen = random_arrays(seed, special=False), parse_format(fmt)
    inputs = {
        name: each * 1.7 if each.dtype == np.float64 else each for name, each in inputs.items()
    }
    oracle = FixedOracle(bound, inputs, chosen)
    got = interpret(bound, inputs, chosen, keep=True)
    evaluator, generator = Evaluator(bound, inputs, chosen), random.Random(seed)
    for einsum in bound.cascade.schedule:
        for box in random_boxes(einsum, bound, generator):
            evaluator.compute(einsum, box)
        for box in random_boxes(einsum, bound, generator):
            evaluator.finish(einsum, box)
    for name in got:
        np.testing.assert_array_equal(got[name], oracle.array(name), err_msg=name)
        np.testing.assert_array_equal(evaluator.tensor(name), got[name], err_msg=name)


def test_box_that_comes_again_starts_its_sums_anew():
    bound = bind(parse("cascade dot(X[m]) -> O[]\n  O[] = X[m] :: sum[m]"), shapes={"m": 6})
    evaluator = Evaluator(bound, {"X": np.arange(6.0)}, FP64)
    einsum = bound.cascade.einsum("O")
    for _ in range(2):
        for start in (0, 2, 4):
            evaluator.compute(einsum, {"m": (start, start + 2)})
    evaluator.finish(einsum, {})
    evaluator.finish(einsum, {"m": (0, 2)})
    assert evaluator.tensor("O") == 15.0


def test_box_beyond_the_extents():
    bound = bind(parse("cascade copy(X[m]) -> O[m]\n  O[m] = X[m] + 1"), shapes={"m": 3})
    evaluator = Evaluator(bound, {"X": np.zeros(3)}, FP64)
    evaluator.compute(bound.cascade.einsum("O"), {"m": (2, 4)})
    evaluator.compute(bound.cascade.einsum("O"), {"m": (4, 8)})
    np.testing.assert_array_equal(evaluator.tensor("O"), [0, 0, 1])


def test_sums_are_written_by_finish():
    bound = bind(parse("cascade dot(X[m]) -> O[]\n  O[] = X[m] :: sum[m]"), shapes={"m": 3})
    evaluator = Evaluator(bound, {"X": np.ones(3)}, FP64)
    einsum = bound.cascade.einsum("O")
    evaluator.finish(einsum, {})
    evaluator.compute(einsum, {})
    assert evaluator.outputs()["O"] == 0
    evaluator.finish(einsum, {})
    assert evaluator.outputs()["O"] == 3


def test_unknown_tensor():
    bound = bind(parse("cascade copy(X[m]) -> O[m]\n  O[m] = X[m]"), shapes={"m": 3})
    with pytest.raises(UnknownNameError) as caught:
        Evaluator(bound, {"X": np.zeros(3)}, FP64).tensor("P")
    assert str(caught.value) == "unknown tensor 'P' (known: O, X)"


ITERATIVE = {
    "no init: coordinate 0 is absent": """
      S[a, b + 1] = fill(S[a, b], 0) + X[a, b]""",
    "never present": """
      S[a, b + 1] = S[a, b] + X[a, b]""",
    "carry over where the predicate is false": """
      init S[a, 0] = 1
      S[a, b + 1] = S[a, b] * 2 + X[a, b] s.t. (a + b) % 2 == 0""",
    "init at i + 1 where i is -1": """
      init b: S[a, b + 1] = a + b
      S[a, b + 1] = S[a, b] * X[a, b]""",
    "reduction in a step, nothing present": """
      init S[a, 0] = 3
      S[a, b + 1] = S[a, b] + Y[b, c] :: sum[c] s.t. b > a""",
    "group in lock step": """
      init S[a, 0] = -inf
      init N[a, 0] = 0
      loop b:
        S[a, b + 1] = max(S[a, b], X[a, b])
        E[a, b] = exp(X[a, b] - S[a, b + 1])
        N[a, b + 1] = N[a, b] * exp(S[a, b] - S[a, b + 1]) + E[a, b]
        R[a, b] = E[a, b] * S[a, b] * Y[b, c] s.t. c < b
      F[a] = N[a, B] * R[a, b]""",
    "read at the final and at every coordinate": """
      init S[a, 0] = 0
      S[a, b + 1] = S[a, b] + X[a, b]
      F[a] = S[a, B] - S[a, b] :: sum[b]""",
}


@pytest.mark.parametrize("name", ITERATIVE)
def test_iterative(name):
    body = ITERATIVE[name]
    output = "F[a]" if "F[a]" in body else "S[a, b]"
    text = f"cascade steps(X[a, b], Y[b, c]) -> {output}{body}"
    arrays = random_arrays(1, special=False)
    assert_equals_oracle(text, {name: arrays[name] for name in ("X", "Y")}, EXTENTS)

"""Random chains of reductions, and what a rewrite of one must satisfy.

``python tests/rewrite/fuzz.py 500`` prints a fresh seed, and counts what was accepted and what was
refused, by reason; the first form that computes something else stops it with the cascade.
"""

import random
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
from derived import of_plan
from precise import MP, precise

from penstock import parse
from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.interpreter.inputs import bind_arrays
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.rewrite.plan import Refusal
from penstock.einsum_ir.rewrite.reduce import reduce_passes

FP64 = parse_format("fp64")
EXACT = 1e-15
"""Of 50 digits, 35 may cancel (exponentials of large sums); wrong algebra leaves none."""


@dataclass(frozen=True)
class Chain:
    """A random cascade over m; ``positive``: its inputs must be."""

    text: str
    positive: bool

    @property
    def cascade(self) -> Cascade:
        return parse(self.text)


class Writer:
    """Writes one random chain."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.positive = rng.random() < 0.5
        self.mask = rng.choice(["", "", *_MASKS])
        self.kept = rng.random() < 0.4

    def chain(self) -> Chain:
        element, lines = self.element()
        known: list[str] = []
        count = self.rng.randint(2, 4)
        for number in range(count):
            op = self.rng.choice(["sum", "sum", "sum", "max", "min", "prod"])
            body = self.body(element, known, op)
            left = f"R{number}[p]"
            if number == count - 1 and self.kept:
                left = f"R{number}[p, f]"
                body = f"({body}) {self.rng.choice('*+-') if op != 'prod' else '+'} W[m, f]"
            lines.append(f"  {left} = {body} :: {op}[m]")
            known.append(self.whole(left, op, lines) if left.endswith("[p]") else left)
        out = known[-1]
        used = "\n".join(lines)
        declared = ["X[p, m]", *(name for name in ("Y[m]", "W[m, f]", "MK[m]") if name in used)]
        head = f"cascade fuzz({', '.join(declared)}) -> {out}"
        return Chain(f"{head}\n{used}\n", self.positive)

    def element(self) -> tuple[str, list[str]]:
        """A tensor along the rank, masked or not."""
        body = self.rng.choice(["X[p, m]", "X[p, m] + Y[m]", "X[p, m] * Y[m]", "2 * X[p, m]"])
        if body == "X[p, m]" and not self.mask:
            return "X[p, m]", []
        where = f" s.t. {self.mask}" if self.mask else ""
        return "Z[p, m]", [f"  Z[p, m] = {body}{where}"]

    def whole(self, left: str, op: str, lines: list[str]) -> str:
        """Sometimes a map of what was reduced, as a mean or a norm is."""
        name = left.removesuffix("[p]")
        choices = [left, left, left]
        if op == "sum":
            choices += [f"{left} / M", f"sqrt(abs({left}))"]
        body = self.rng.choice(choices)
        if body == left:
            return left
        lines.append(f"  D{name}[p] = {body}")
        return f"D{name}[p]"

    def body(self, element: str, known: list[str], op: str) -> str:
        text = element
        for value in self.rng.sample(known, self.rng.randint(min(1, len(known)), len(known))):
            text = self.joined(text, value)
            if self.rng.random() < 0.35:
                text = self.mapped(text)
        if not known and self.rng.random() < 0.4:
            text = self.mapped(text)
        if op == "sum" and self.rng.random() < 0.3:
            text = f"({text}) * {element}"
        if self.mask and self.rng.random() < 0.2:
            text = f"where(m % 2 == 0, {text}, {element})"
        return text

    def joined(self, text: str, value: str) -> str:
        forms = ["({t}) - {v}", "exp(({t}) - {v})", "({t}) / {v}", "({t}) * {v}", "({t}) + {v}"]
        forms += ["exp({t}) / exp({v})", "max({t}, {v})", "min({t}, {v})", "(({t}) - {v}) ** 2"]
        forms += ["abs(({t}) - {v})", "(({t}) - {v}) ** 3", "exp(({t}) / {v})", "{v} - ({t})"]
        weights = [4, 4, 4, 3, 2, 1, 1, 1, 3, 1, 1, 1, 1]
        return self.rng.choices(forms, weights)[0].format(t=text, v=value)

    def mapped(self, text: str) -> str:
        forms = ["exp({t})", "abs({t})", "({t}) ** 2", "-({t})", "0.5 * ({t})", "({t}) + 1"]
        if self.positive:
            forms += ["log({t})", "({t}) ** 1.5", "sqrt({t})"]
        return self.rng.choice(forms).format(t=text)


_MASKS = ("m <= p + M - P", "m >= p", "(m + p) % 3 != 0", "MK[m] > 0", "m < p")


def chain(rng: random.Random) -> Chain:
    """A random chain of 2 to 4 reductions over m."""
    return Writer(rng).chain()


def arrays(case: Chain, rng: random.Random, length: int) -> dict[str, np.ndarray]:
    """Inputs of one of several kinds: plain, far from 0, spread, or with equal elements."""
    numbers = np.random.default_rng(rng.randrange(2**32))
    kind = rng.choice(["plain", "plain", "offset", "spread", "ties"])
    extents = {"p": 3, "m": length, "f": 2}
    found = {}
    for each in case.cascade.inputs:
        values = numbers.normal(size=[extents[rank] for rank in each.ranks])
        if kind == "offset":
            values += 20
        if kind == "spread":
            values *= 10
        if kind == "ties":
            values = np.round(2 * values) / 2
        if case.positive:
            values = np.abs(values) + 0.25
        if each.tensor == "MK":
            values = np.asarray(numbers.integers(0, 2, values.shape), float)
        found[each.tensor] = values
    return found


def off(found, reference, unit: float = 1e-20) -> float:
    """The largest error where the reference is finite, relative to the largest number there."""
    worst = 0.0
    for name, expected in reference.items():
        pairs = zip(np.ravel(found[name]), expected.ravel(), strict=True)
        pairs = [(value, ref) for value, ref in pairs if MP.isfinite(ref)]
        scale = max([MP.mpf(unit), *(abs(ref) for _, ref in pairs)])
        for value, ref in pairs:
            number = value if isinstance(value, MP.mpf) else MP.mpf(float(value))
            error = abs(number - ref) / scale if MP.isfinite(number) else MP.inf
            worst = max(worst, float(error))
    return worst


def conditioning(cascade: Cascade, given, reference) -> float:
    """How much larger the relative change of a result is than that of the inputs."""
    step = 1e-9
    numbers = np.random.default_rng(0)
    moved = {
        name: array if name == "MK" else array * (1 + step * numbers.choice([-1, 1], array.shape))
        for name, array in given.items()
    }
    return off(precise(cascade, moved), reference) / step


def disagreement(case: Chain, form: Cascade, given, shapes, reference) -> str:
    """How a form differs from what was written; empty if it does not."""
    exact = off(precise(form, given, **shapes), reference)
    if exact > EXACT:
        return f"{shapes}: error {exact:.1e} in 50 digits"
    with np.errstate(all="ignore"):
        own = off(interpret(bind_arrays(case.cascade, given), given, FP64), reference)
        found = interpret(bind_arrays(form, given, shapes=shapes), given, FP64)
    error = off(found, reference)
    limit = 1e-11 * (1 + conditioning(case.cascade, given, reference)) + 100 * own
    return f"{shapes}: error {error:.1e} in fp64, {limit:.1e} allowed" if error > limit else ""


def outcome(case: Chain, rng: random.Random) -> str:
    """Rewrite a chain and check every form; return what came of it.

    Raises:
        AssertionError: a form computes something else.
    """
    cascade = case.cascade
    found = reduce_passes(cascade, "m")
    if isinstance(found, Refusal):
        return "refused: " + kind(found.reason)
    compared = 0
    for length in (1, rng.choice([2, 3]), rng.choice([7, 11])):
        given = arrays(case, rng, length)
        try:
            reference = precise(cascade, given)
            for label, form, shapes in of_plan(found, (1, 3, 8), (2, 3)):
                wrong = disagreement(case, form, given, shapes, reference)
                assert not wrong, f"{label}, length {length}: {wrong}\n{case.text}\n{found}\n{form}"
                compared += 1
        except OverflowError:
            continue  # exponentials of exponentials: beyond 50 digits too
    reached = "" if compared else ", never compared"
    return f"accepted: {found.before} -> {found.after}{reached}"


def kind(reason: str) -> str:
    """A reason without names and numbers."""
    return re.sub(r"'[^']*'|\b[A-Z]\w*\b|[\d.]+(e[-+]\d+)?", "_", reason)[:90]


def main(count: int, seed: int) -> None:
    say(f"seed {seed}, {count} cases")
    found: Counter[str] = Counter()
    start = time.perf_counter()
    for number in range(count):
        rng = random.Random(f"{seed}.{number}")
        case = chain(rng)
        try:
            found[outcome(case, rng)] += 1
        except Exception as error:
            error.add_note(f"case {number} of seed {seed}:\n{case.text}")
            raise
    for text, times in found.most_common():
        say(f"{times:5}  {text}")
    say(f"{time.perf_counter() - start:.0f} s")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    given_count = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    given_seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(10**9)
    main(given_count, given_seed)

"""Small whole powers are products: same numbers, and machines without powers have them."""

import numpy as np
import pytest

import penstock
from penstock.design import remap
from penstock.einsum_ir.formats import parse_format
from penstock.einsum_ir.nodes import Access, Apply, Num, Var
from penstock.einsum_ir.powers import MOST, as_products, multiplications
from penstock.einsum_ir.rewrite.terms import evaluate
from penstock.einsum_ir.work import point_ops

X = Access("X", ())


@pytest.mark.parametrize("exponent", range(2, MOST + 1))
def test_the_product_is_the_power(exponent):
    expr = Apply("**", (X, Num(exponent)))
    product = as_products(expr)
    assert evaluate(product, {X: 3}, None) == 3**exponent
    assert str(product).count("*") + str(product).count("sq") == multiplications(expr)


@pytest.mark.parametrize(
    ("base", "exponent"), [*((X, each) for each in (0, 1, 0.5, -2, MOST + 1)), (Var("m"), 3)]
)
def test_other_powers_stay(base, exponent):
    expr = Apply("**", (base, Num(exponent)))
    assert as_products(expr) is None
    assert multiplications(expr) == 0


def cubed():
    return penstock.parse("cascade c(X[p, m]) -> O[p]\n  O[p] = (X[p, m] + 1) ** 3")


def test_the_model_counts_multiplications():
    assert point_ops(cubed().einsums[0]) == {"*": 2, "+": 2}


@pytest.mark.parametrize(
    ("target", "fmt", "backend"),
    [("mesh4x4", "fixed<16,6>", "loops"), ("cpu", "fp32", "loops"), ("cpu", "fp32", "tvm")],
)
def test_code_agrees(target, fmt, backend):
    design = remap(cubed(), target, fmt=parse_format(fmt), shapes={"p": 5, "m": 7})
    assert penstock.verify(design, backend).verdict == "ok"


def test_the_interpreter_agrees():
    values = np.linspace(-2, 2, 35).reshape(5, 7)
    found = penstock.run(cubed(), {"X": values})["O"]
    assert found == pytest.approx(((values + 1) ** 3).sum(axis=1))

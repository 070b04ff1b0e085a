"""bitlen of coordinates in generated code is that of the interpreter."""

import numpy as np
import pytest

from penstock import parse, run
from penstock.errors import DataError

WINDOWS = parse("""
cascade windows(X[m]) -> (Y[p], Z[p])
  Y[p] = X[m] :: sum[m] s.t. abs(p - m) <= 8 // 2 ** bitlen(abs(p - m))
  Z[p] = X[p] * bitlen(p - 3)
""")


@pytest.mark.parametrize("backend", ["loops", "tvm", "hls"])
def test_as_interpreted(backend):
    inputs = {"X": np.random.default_rng(0).integers(-8, 8, 20) / 4}
    expected = run(WINDOWS, inputs, shapes={"p": 20})
    assert expected["Z"][19] == inputs["X"][19] * 5
    found = run(WINDOWS, inputs, shapes={"p": 20}, backend=backend)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6)


def test_of_a_value_is_refused():
    cascade = parse("cascade c(X[n]) -> Y[n]\n  Y[n] = bitlen(X[n])\n")
    assert run(cascade, {"X": np.array([0, 3.7, -8])})["Y"].tolist() == [0, 2, 4]
    with pytest.raises(DataError, match="takes the bits of a value that is computed"):
        run(cascade, {"X": np.array([0, 3.7, -8])}, backend="loops")

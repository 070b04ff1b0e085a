"""Run a causal cascade on arrays: the interpreter, the generated CPU kernel, and plain NumPy."""

import numpy as np

import penstock

generator = np.random.default_rng(0)
heads, length, width = 4, 100, 32
inputs = {
    name: generator.standard_normal((heads, length, width)).astype(np.float32) for name in "QKV"
}

cascade = penstock.zoo.load("causal_attention")
meaning = penstock.run(cascade, inputs)["O"]
kernel = penstock.run(cascade, inputs, backend="tvm")["O"]

scores = inputs["Q"] @ inputs["K"].transpose(0, 2, 1) / np.sqrt(width)
scores = np.where(np.tril(np.ones((length, length), dtype=bool)), scores, -np.inf)
weights = np.exp(scores - scores.max(-1, keepdims=True))
expected = weights / weights.sum(-1, keepdims=True) @ inputs["V"]

print("interpreter agrees with NumPy:", np.allclose(meaning, expected, atol=1e-5))
print("TVM kernel agrees with the interpreter:", np.allclose(kernel, meaning, atol=1e-5))

#: interpreter agrees with NumPy: True
#: TVM kernel agrees with the interpreter: True

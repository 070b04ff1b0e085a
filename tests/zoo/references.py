"""What the standard mechanisms compute, as loops over queries and keys: no einsum, no mask of -inf.

Each function has the name of a stock cascade and takes its inputs and constants as attributes, and
returns its first output. A logit of None is a key that the query does not see.
"""

import math
from functools import partial

import numpy as np


def dot(a, b):
    """The scalar product of two vectors."""
    return math.fsum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def product(x, w):
    """The row x times the matrix w[i][j]."""
    return np.array([dot(x, w[:, j]) for j in range(w.shape[1])])


def scaled(a, b):
    """A scaled dot product."""
    return dot(a, b) / math.sqrt(len(a))


def weights(logits):
    """The softmax of a dict of logits, without those that are None."""
    seen = {key: x for key, x in logits.items() if x is not None}
    if not seen:
        return {}
    top = max(seen.values())
    total = math.fsum(math.exp(x - top) for x in seen.values())
    return {key: math.exp(x - top) / total for key, x in seen.items()}


def mixed(found, values, width):
    """The sum of values[key] by weight."""
    out = np.zeros(width)
    for key, weight in found.items():
        out += weight * values[key]
    return out


def attend(queries, keys, logit, values):
    """Softmax attention: logit(p, m), and a row of `values` for each key."""
    rows = [weights({m: logit(p, m) for m in range(keys)}) for p in range(queries)]
    return np.array([mixed(row, values, values.shape[1]) for row in rows])


def each_head(g, logit):
    """Attention of Q[h, p, e], K[h, m, e], V[h, m, f] with logit(h, p, m)."""
    queries, keys = g.Q.shape[1], g.K.shape[1]
    return np.array([attend(queries, keys, partial(logit, h), v) for h, v in enumerate(g.V)])


def each_sequence(g, logit):
    """Attention with a batch before the heads, and logit(b, h, p, m)."""
    queries, keys = g.Q.shape[2], g.K.shape[2]
    return np.array(
        [
            [attend(queries, keys, partial(logit, b, h), v) for h, v in enumerate(heads)]
            for b, heads in enumerate(g.V)
        ]
    )


def place(g, p):
    """The key position at which query p stands, aligned at the right."""
    return p + g.K.shape[-2] - g.Q.shape[-2]


def masked(g, seen):
    """Attention per head with seen(h, position, m)."""

    def logit(h, p, m):
        return scaled(g.Q[h, p], g.K[h, m]) if seen(h, place(g, p), m) else None

    return each_head(g, logit)


def mha(g):
    out = np.zeros((*g.X.shape[:2], g.WO.shape[2]))
    for b, x in enumerate(g.X):
        for h in range(len(g.WQ)):
            q, k, v = (np.array([product(row, w[h]) for row in x]) for w in (g.WQ, g.WK, g.WV))
            head = attend(len(x), len(x), lambda p, m, q=q, k=k: scaled(q[p], k[m]), v)
            for p, row in enumerate(head):
                out[b, p] += product(row, g.WO[h])
    return out


def mqa(g):
    def logit(h, p, m):
        return scaled(g.Q[h, p], g.K[m]) if m <= place(g, p) else None

    queries, keys = g.Q.shape[1], len(g.K)
    return np.array([attend(queries, keys, partial(logit, h), g.V) for h in range(len(g.Q))])


def turned(x, position, base=10000.0):
    """RoPE by complex numbers: neighbours are the real and the imaginary part."""
    out = np.zeros(len(x))
    for i in range(len(x) // 2):
        angle = position / base ** (2 * i / len(x))
        z = complex(x[2 * i], x[2 * i + 1]) * complex(math.cos(angle), math.sin(angle))
        out[2 * i], out[2 * i + 1] = z.real, z.imag
    return out


def rope(g):
    def logit(h, p, m):
        at = place(g, p)
        return None if m > at else scaled(turned(g.Q[h, p], at), turned(g.K[h, m], m))

    return each_head(g, logit)


def mla(g):
    queries, keys = g.QC.shape[1], len(g.C)
    result = []
    for h in range(len(g.QC)):
        k = np.array([[dot(w, c) for w in g.WK[h]] for c in g.C])
        v = np.array([[dot(w, c) for w in g.WV[h]] for c in g.C])

        def logit(p, m, h=h, k=k):
            at = p + keys - queries
            if m > at:
                return None
            q = np.concatenate([g.QC[h, p], turned(g.QR[h, p], at)])
            return scaled(q, np.concatenate([k[m], turned(g.KR[m], m)]))

        result.append(attend(queries, keys, logit, v))
    return np.array(result)


mla_absorbed = mla


def prefix_lm(g):
    def logit(b, h, p, m):
        return scaled(g.Q[b, h, p], g.K[b, h, m]) if m <= p or m < g.N[b] else None

    return each_sequence(g, logit)


def document_mask(g):
    return masked(g, lambda h, p, m: g.D[p] == g.D[m] and g.D[p] >= 0 and m <= p)


def ragged(g):
    def logit(b, h, p, m):
        inside = p < g.LQ[b] and m < g.LK[b]
        return scaled(g.Q[b, h, p], g.K[b, h, m]) if inside else None

    return each_sequence(g, logit)


def alibi(g):
    slopes = [2.0 ** (-8.0 * (h + 1) / len(g.Q)) for h in range(len(g.Q))]

    def logit(h, p, m):
        at = place(g, p)
        return None if m > at else scaled(g.Q[h, p], g.K[h, m]) - slopes[h] * (at - m)

    return each_head(g, logit)


def soft_cap(g):
    def logit(h, p, m):
        x = scaled(g.Q[h, p], g.K[h, m])
        return None if m > place(g, p) else g.CAP * math.tanh(x / g.CAP)

    return each_head(g, logit)


def attention_sink(g):
    out = np.zeros((*g.Q.shape[:2], g.V.shape[2]))
    for h in range(len(g.Q)):
        k, v = (x[h // (len(g.Q) // len(g.K))] for x in (g.K, g.V))
        for p in range(g.Q.shape[1]):
            logits = {"sink": float(g.S[h])}
            for m in range(len(k)):
                if 0 <= place(g, p) - m < getattr(g, "W", math.inf):
                    logits[m] = scaled(g.Q[h, p], k[m])
            found = weights(logits)
            del found["sink"]
            out[h, p] = mixed(found, v, v.shape[1])
    return out


def streaming_llm(g):
    return masked(g, lambda h, p, m: m <= p and (m < g.S or p - m < g.W))


def differential(g):
    first = 0.8 - 0.6 * math.exp(-0.3 * (g.LAYER - 1))
    strength = math.exp(dot(g.LQ[0], g.LK[0])) - math.exp(dot(g.LQ[1], g.LK[1])) + first

    def logit(h, s, p, m):
        at = p + g.K.shape[2] - g.Q.shape[2]
        return scaled(g.Q[h, s, p], g.K[h, s, m]) if m <= at else None

    out = []
    for h, v in enumerate(g.V):
        one, two = (attend(g.Q.shape[2], g.K.shape[2], partial(logit, h, s), v) for s in range(2))
        raw = one - strength * two
        root = [math.sqrt(dot(row, row) / len(row) + 1e-5) for row in raw]
        out.append([(1 - first) * g.G * row / r for row, r in zip(raw, root, strict=True)])
    return np.array(out)


def sigmoid_attention(g):
    out = np.zeros((*g.Q.shape[:2], g.V.shape[2]))
    for h in range(len(g.Q)):
        for p in range(g.Q.shape[1]):
            for m in range(g.K.shape[1]):
                if m <= place(g, p):
                    x = scaled(g.Q[h, p], g.K[h, m]) - math.log(g.K.shape[1])
                    weight = 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))
                    out[h, p] += weight * g.V[h, m]
    return out


def rms_normed(x, gain):
    return x / math.sqrt(dot(x, x) / len(x) + 1e-6) * gain


def qk_norm(g):
    def logit(h, p, m):
        q, k = rms_normed(g.Q[h, p], g.GQ), rms_normed(g.K[h, m], g.GK)
        return scaled(q, k) if m <= place(g, p) else None

    return each_head(g, logit)


def cosine_attention(g):
    def logit(w, h, p, m):
        q, k = g.Q[w, h, p], g.K[w, h, m]
        cosine = dot(q, k) / math.sqrt(dot(q, q) * dot(k, k))
        return cosine / max(g.T[h], 0.01) + g.B[h, p, m]

    return each_sequence(g, logit)


def talking_heads(g):
    out = np.zeros((len(g.V), g.Q.shape[1], g.V.shape[2]))
    for p in range(g.Q.shape[1]):
        raw = [[scaled(q[p], key) for key in k] for q, k in zip(g.Q, g.K, strict=True)]
        for h in range(g.WL.shape[1]):
            logits = {m: dot([row[m] for row in raw], g.WL[:, h]) for m in range(g.K.shape[1])}
            for m, weight in weights(logits).items():
                for o in range(len(g.V)):
                    out[o, p] += weight * g.WW[h, o] * g.V[o, m]
    return out

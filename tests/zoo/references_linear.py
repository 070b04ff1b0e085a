"""What the recurrent mechanisms compute: loops over tokens, or the sums that they stand for.

As in `references.py`, each function has the name of a stock cascade.
"""

import math

import numpy as np
from references import dot, mixed, scaled, weights


def phi(x):
    return np.array([v + 1 if v > 0 else math.exp(v) for v in x])


def linear_causal(g):
    out = np.zeros(g.V.shape)
    for h, p in np.ndindex(*g.Q.shape[:2]):
        similar = [dot(phi(g.Q[h, p]), phi(g.K[h, m])) for m in range(p + 1)]
        total = math.fsum(similar)
        out[h, p] = mixed({m: s / total for m, s in enumerate(similar)}, g.V[h], g.V.shape[2])
    return out


def performer(g):
    root = g.Q.shape[2] ** 0.25

    def logs(x):
        return [dot(x / root, w) - dot(x / root, x / root) / 2 for w in g.W]

    def features(found, top):
        return [math.exp(x - top) + 1e-4 for x in found]

    out = np.zeros((*g.Q.shape[:2], g.V.shape[2]))
    for h in range(len(g.Q)):
        keys = [logs(k) for k in g.K[h]]
        keys = [features(row, max(map(max, keys))) for row in keys]
        for p, q in enumerate(g.Q[h]):
            asked = features(logs(q), max(logs(q)))
            similar = [dot(asked, key) for key in keys]
            total = math.fsum(similar)
            found = {m: s / total for m, s in enumerate(similar)}
            out[h, p] = mixed(found, g.V[h], g.V.shape[2])
    return out


def gla(g):
    """Each value arrives faded by all gates after it."""
    out = np.zeros(g.V.shape)
    for h, p in np.ndindex(*g.Q.shape[:2]):
        for m in range(p + 1):
            gate = np.prod(g.G[h, m + 1 : p + 1], axis=0)
            out[h, p] += dot(g.Q[h, p] * gate, g.K[h, m]) * g.V[h, m]
        start = g.Q[h, p] * np.prod(g.G[h, : p + 1], axis=0)
        for e, x in enumerate(start):
            out[h, p] += x * g.S0[h, e]
    return out


def retention(g):
    out = np.zeros(g.V.shape)
    for h, p in np.ndindex(*g.Q.shape[:2]):
        gamma = 1 - 2.0 ** (-5 - h)
        for m in range(p + 1):
            out[h, p] += dot(g.Q[h, p], g.K[h, m]) * gamma ** (p - m) * g.V[h, m]
    return out


retention_parallel = retention
retention_chunked = retention


def delta_rule(q, k, v, alpha, beta, state):
    """The gated delta rule by matrices: S (alpha (I - beta k k^T)) + beta v k^T, with S[f, e]."""
    out = []
    for t in range(len(q)):
        keep = [
            [alpha[t] * ((i == j) - beta[t] * k[t][i] * k[t][j]) for j in range(len(k[t]))]
            for i in range(len(k[t]))
        ]
        state = [
            [
                math.fsum(row[i] * keep[i][j] for i in range(len(row))) + beta[t] * x * k[t][j]
                for j in range(len(row))
            ]
            for row, x in zip(state, v[t], strict=True)
        ]
        out.append([dot(row, q[t]) for row in state])
    return out, state


def deltanet(g):
    empty = np.zeros((g.V.shape[2], g.K.shape[2]))
    ones = np.ones(g.Q.shape[1])
    rows = zip(g.Q, g.K, g.V, g.BE, strict=True)
    return np.array([delta_rule(q, k, v, ones, beta, empty)[0] for q, k, v, beta in rows])


def gated_deltanet(g):
    def normed(rows):
        return [x / math.sqrt(dot(x, x) + 1e-6) for x in rows]

    rows = zip(g.Q, g.K, g.V, g.AL, g.BE, g.S0, strict=True)
    return np.array(
        [
            delta_rule(normed(q), normed(k), v, alpha, beta, start.T)[0]
            for q, k, v, alpha, beta, start in rows
        ]
    )


def mamba2(g):
    """The recurrence, state by state and channel by channel."""
    out = np.zeros(g.X.shape)
    for h, f in np.ndindex(*g.X.shape[1:]):
        state = list(g.S0[h, :, f]) if hasattr(g, "S0") else [0.0] * g.B.shape[1]
        for t, x in enumerate(g.X[:, h, f]):
            fade = math.exp(g.DT[t, h] * g.A[h])
            state = [fade * s + g.DT[t, h] * b * x for s, b in zip(state, g.B[t], strict=True)]
            out[t, h, f] = dot(g.C[t], state) + g.D[h] * x
    return out


mamba2_dual = mamba2


def rwkv(g):
    """Equation 16 of the paper, with the sums as they stand but for a common factor."""
    out = np.zeros(g.K.shape)
    for t, c in np.ndindex(*g.K.shape):
        logits = {i: g.K[i, c] - (t - 1 - i) * g.W[c] for i in range(t)}
        logits[t] = g.U[c] + g.K[t, c]
        mean = math.fsum(weight * g.V[i, c] for i, weight in weights(logits).items())
        out[t, c] = mean / (1 + math.exp(-g.R[t, c]))
    return out


def aft(g):
    out = np.zeros(g.Q.shape)
    for t, c in np.ndindex(*g.Q.shape):
        found = weights({m: g.K[m, c] + g.W[t, m] for m in range(len(g.K))})
        mean = math.fsum(weight * g.V[m, c] for m, weight in found.items())
        out[t, c] = mean / (1 + math.exp(-g.Q[t, c]))
    return out


def linformer(g):
    out = np.zeros((*g.Q.shape[:2], g.V.shape[2]))
    for h, p in np.ndindex(*g.Q.shape[:2]):
        keys = [sum(x * k for x, k in zip(row, g.K[h], strict=True)) for row in g.WE]
        values = [sum(x * v for x, v in zip(row, g.V[h], strict=True)) for row in g.WF]
        found = weights({r: scaled(g.Q[h, p], k) for r, k in enumerate(keys)})
        out[h, p] = mixed(found, values, g.V.shape[2])
    return out


def kimi_delta(g):
    """The paper's matrices: (I - beta k k^T) Diag(alpha) S + beta k v^T."""
    out = np.zeros(g.V.shape)
    for h in range(len(g.Q)):
        state = g.S0[h]
        for t, k in enumerate(g.K[h]):
            turn = np.eye(len(k)) - g.BE[h, t] * np.outer(k, k)
            state = turn @ np.diag(g.AL[h, t]) @ state + g.BE[h, t] * np.outer(k, g.V[h, t])
            out[h, t] = state.T @ g.Q[h, t]
    return out


def rwkv7(g):
    out = np.zeros(g.V.shape)
    for h in range(len(g.R)):
        state = g.S0[h]
        for t, key in enumerate(g.KH[h]):
            change = np.diag(g.W[h, t]) - np.outer(key, g.A[h, t] * key)
            state = state @ change + np.outer(g.V[h, t], g.K[h, t])
            out[h, t] = state @ g.R[h, t]
    return out


def mlstm(g):
    """The memory as a sum over its past, each step with a common factor taken out."""
    out = np.zeros(g.V.shape)
    for h, t in np.ndindex(*g.Q.shape[:2]):
        faded = [min(f, 0) - math.log1p(math.exp(-abs(f))) for f in g.F[h]]
        inputs = [g.I[h, s] + math.fsum(faded[s + 1 : t + 1]) for s in range(t + 1)]
        top = max(inputs)
        similar = [math.exp(x - top) * scaled(g.Q[h, t], g.K[h, s]) for s, x in enumerate(inputs)]
        total = max(abs(math.fsum(similar)), math.exp(-top))
        found = {s: x / total for s, x in enumerate(similar)}
        out[h, t] = g.G[h, t] * mixed(found, g.V[h], g.V.shape[2])
    return out


def hyena(g):
    out = np.zeros(g.V.shape)
    for t, c in np.ndindex(*out.shape):
        past = (g.H[c, t - n] * g.X2[n, c] * g.V[n, c] for n in range(t + 1))
        out[t, c] = g.X1[t, c] * math.fsum(past)
    return out

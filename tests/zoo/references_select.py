"""What the mechanisms with caches, selection and quantisation compute, as loops.

As in `references.py`, each function has the name of a stock cascade.
"""

import math

import numpy as np
from references import dot, mixed, place, scaled, weights


def best(scores, count):
    """The keys of the largest values, of equal ones the first."""
    order = sorted(scores, key=lambda key: (-scores[key], key))
    return order[:count]


def one_row(q, k, v, seen):
    """One query on the keys at the places `seen`."""
    return mixed(weights({m: scaled(q, k[m]) for m in seen}), v, v.shape[1])


def topk_attention(g):
    out = np.zeros((*g.Q.shape[:2], g.V.shape[2]))
    for h, p in np.ndindex(*g.Q.shape[:2]):
        seen = [m for m in range(g.K.shape[1]) if m <= place(g, p)]
        logits = {m: scaled(g.Q[h, p], g.K[h, m]) for m in seen}
        out[h, p] = one_row(g.Q[h, p], g.K[h], g.V[h], best(logits, g.j))
    return out


def blocks(length, size):
    """The places of each block; the last may be shorter."""
    return [range(low, min(low + size, length)) for low in range(0, length, size)]


def quest(g):
    out = np.zeros((len(g.Q), g.V.shape[2]))
    pages = blocks(g.K.shape[1], g.u)
    for h, q in enumerate(g.Q):
        bounds = {}
        for i, page in enumerate(pages):
            channels = zip(q, zip(*(g.K[h, m] for m in page), strict=True), strict=True)
            bounds[i] = math.fsum(max(x * max(k), x * min(k)) for x, k in channels)
        seen = [m for i in best(bounds, g.j) for m in pages[i]]
        out[h] = one_row(q, g.K[h], g.V[h], seen)
    return out


def moba(g):
    out = np.zeros(g.V.shape)
    parts = blocks(g.K.shape[1], g.u)
    for h, p in np.ndindex(*g.Q.shape[:2]):
        own = p // g.u
        scores = {i: dot(g.Q[h, p], np.mean(g.K[h, list(parts[i])], axis=0)) for i in range(own)}
        picked = [own, *best(scores, g.j - 1)]
        seen = [m for i in picked for m in parts[i] if m <= p]
        out[h, p] = one_row(g.Q[h, p], g.K[h], g.V[h], seen)
    return out


def nsa(g):
    heads, length, _ = g.Q.shape
    shared, size = heads // len(g.KC), len(g.WC)
    parts = blocks(length, size)
    out = np.zeros((heads, length, g.VC.shape[2]))
    for k, p in np.ndindex(len(g.KC), length):
        full = [i for i, part in enumerate(parts) if i * size + size <= p + 1]
        keys = {i: sum(w * g.KC[k, m] for w, m in zip(g.WC, parts[i], strict=True)) for i in full}
        rows = {i: sum(w * g.VC[k, m] for w, m in zip(g.WC, parts[i], strict=True)) for i in full}
        group = range(k * shared, (k + 1) * shared)
        coarse = {h: weights({i: scaled(g.Q[h, p], keys[i]) for i in full}) for h in group}
        own = p // size
        chosen = {i: math.fsum(coarse[h][i] for h in group) for i in full if i != own}
        picked = [own, *best(chosen, g.j - 1)]
        fine = [m for i in picked for m in parts[i] if m <= p]
        near = range(max(0, p - g.W + 1), p + 1)
        for h in group:
            out[h, p] += g.GA[0, h, p] * mixed(coarse[h], rows, g.VC.shape[2])
            out[h, p] += g.GA[1, h, p] * one_row(g.Q[h, p], g.KS[k], g.VS[k], fine)
            out[h, p] += g.GA[2, h, p] * one_row(g.Q[h, p], g.KW[k], g.VW[k], near)
    return out


def flash_decoding(g):
    out = np.zeros((*g.Q.shape[:2], g.V.shape[3]))
    for b, h in np.ndindex(*out.shape[:2]):
        k, v = (x[b, h // (g.Q.shape[1] // g.K.shape[1])] for x in (g.K, g.V))
        out[b, h] = one_row(g.Q[b, h], k, v, range(int(g.N[b])))
    return out


def quantised(x):
    """The whole numbers of a vector, and their scale."""
    scale = max(abs(float(v)) for v in x) / 127
    return [round(float(v) / scale) for v in x], scale


def sage_attention(g):
    out = np.zeros((*g.Q.shape[:2], g.V.shape[2]))
    for h, p in np.ndindex(*g.Q.shape[:2]):
        mean = sum(g.K[h]) / len(g.K[h])
        q, left = quantised(g.Q[h, p])
        logits = {}
        for m, key in enumerate(g.K[h]):
            k, right = quantised(key - mean)
            logits[m] = sum(a * b for a, b in zip(q, k, strict=True)) * left * right
            logits[m] /= math.sqrt(g.Q.shape[2])
        out[h, p] = mixed(weights(logits), g.V[h], g.V.shape[2])
    return out


def deepseek_sparse(g):
    out = np.zeros((*g.Q.shape[:2], g.V.shape[1]))
    for p in range(g.Q.shape[1]):
        scores = {
            m: math.fsum(w[p] * max(0.0, dot(q[p], key)) for w, q in zip(g.WI, g.QI, strict=True))
            for m, key in enumerate(g.KI)
            if m <= place(g, p)
        }
        for h in range(len(g.Q)):
            out[h, p] = one_row(g.Q[h, p], g.K, g.V, best(scores, g.j))
    return out


def sparsemax(g):
    """The threshold by bisection, not by sorting: the weights then add up to 1."""
    out = np.zeros((*g.Q.shape[:2], g.V.shape[2]))
    for h, p in np.ndindex(*g.Q.shape[:2]):
        seen = range(min(g.K.shape[1], place(g, p) + 1))
        logits = [scaled(g.Q[h, p], g.K[h, m]) for m in seen]
        if not logits:
            continue
        low, high = max(logits) - 1, max(logits)
        for _ in range(80):
            middle = (low + high) / 2
            total = math.fsum(max(0.0, x - middle) for x in logits)
            low, high = (middle, high) if total > 1 else (low, middle)
        out[h, p] = mixed({m: max(0.0, logits[m] - low) for m in seen}, g.V[h], g.V.shape[2])
    return out

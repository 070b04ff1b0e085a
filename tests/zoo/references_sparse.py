"""What the mechanisms with windows, blocks and relative positions compute, as loops.

As in `references.py`, each function has the name of a stock cascade.
"""

import math

import numpy as np
from references import dot, each_head, masked, mixed, place, scaled, weights


def window(centre, width, length):
    """The `width` places nearest to `centre`, all of them inside."""
    places = sorted(range(length), key=lambda x: (abs(x - centre), x))[:width]
    low = min(places)
    return range(low, low + width)


def neighborhood(g):
    h, n, _ = g.Q.shape
    width = (g.B.shape[1] + 1) // 2
    out = np.zeros((h, n, g.V.shape[2]))
    for h, q in enumerate(g.Q):
        for p in range(n):
            logits = {
                m: scaled(q[p], g.K[h, m]) + g.B[h, m - p + width - 1] for m in window(p, width, n)
            }
            out[h, p] = mixed(weights(logits), g.V[h], g.V.shape[2])
    return out


def neighborhood_2d(g):
    heads, rows, columns, _ = g.Q.shape
    high, wide = (g.B.shape[1] + 1) // 2, (g.B.shape[2] + 1) // 2
    out = np.zeros((heads, rows, columns, g.V.shape[3]))
    for h, y, x in np.ndindex(heads, rows, columns):
        logits = {
            (v, u): scaled(g.Q[h, y, x], g.K[h, v, u]) + g.B[h, v - y + high - 1, u - x + wide - 1]
            for v in window(y, high, rows)
            for u in window(x, wide, columns)
        }
        out[h, y, x] = mixed(weights(logits), g.V[h], g.V.shape[3])
    return out


def dilated_window(g):
    steps = [g.D * k for k in range(-g.W, g.W + 1)]
    return masked(g, lambda h, p, m: m in [p + step for step in steps])


def sparse_strided(g):
    return masked(g, lambda h, p, m: m in range(p - g.L + 1, p + 1) or m in range(p, -1, -g.L))


def sparse_fixed(g):
    def seen(h, p, m):
        summary = m % g.L in range(g.L - g.C, g.L)
        return m <= p and (math.floor(p / g.L) == math.floor(m / g.L) or summary)

    return masked(g, seen)


def block_sparse(g):
    def logit(h, p, m):
        return scaled(g.Q[h, p], g.K[h, m]) if g.L[h, p // g.B, m // g.B] > 0 else None

    return each_head(g, logit)


def longformer(g):
    out = np.zeros((*g.Q.shape[:2], g.V.shape[2]))
    for h, p in np.ndindex(*g.Q.shape[:2]):
        if g.G[p]:
            logits = {m: scaled(g.QG[h, p], k) for m, k in enumerate(g.KG[h])}
            out[h, p] = mixed(weights(logits), g.VG[h], g.V.shape[2])
            continue
        near = [m for m in range(p - g.W, p + g.W + 1) if 0 <= m < len(g.G)]
        seen = set(near) | {m for m, flag in enumerate(g.G) if flag}
        logits = {m: scaled(g.Q[h, p], g.K[h, m]) for m in seen}
        out[h, p] = mixed(weights(logits), g.V[h], g.V.shape[2])
    return out


def bigbird(g):
    def seen(h, p, m):
        i, j = p // g.B, m // g.B
        return i < g.G or j < g.G or j in (i - 1, i, i + 1) or j in [int(r) for r in g.R[i]]

    return masked(g, seen)


def local_global(g):
    everywhere = (g.LAYER + 1) % g.EVERY == 0
    return masked(g, lambda h, p, m: m <= p and (everywhere or m > p - g.W))


def bucket(distance, buckets, farthest):
    """The bucket of a key at this distance after the query, as T5's code finds it."""
    half = buckets // 2
    start = half if distance > 0 else 0
    distance = abs(distance)
    if distance < half // 2:
        return start + distance
    part = math.log(distance / (half // 2)) / math.log(farthest / (half // 2))
    return start + min(half - 1, half // 2 + int(part * (half - half // 2)))


def relative_bias(g):
    def logit(h, p, m):
        return dot(g.Q[h, p], g.K[h, m]) + g.B[bucket(m - p, len(g.B), g.D), h]

    return each_head(g, logit)


def transformer_xl(g):
    def logit(h, p, m):
        at = place(g, p)
        if m > at:
            return None
        content = dot(g.Q[h, p], g.K[h, m]) + dot(g.U[h], g.K[h, m])
        distance = dot(g.Q[h, p], g.R[h, at - m]) + dot(g.W[h], g.R[h, at - m])
        return (content + distance) / math.sqrt(g.Q.shape[2])

    return each_head(g, logit)


def deberta(g):
    count = g.KR.shape[1]

    def delta(distance):
        if distance <= -(count // 2):
            return 0
        return count - 1 if distance >= count // 2 else distance + count // 2

    def logit(h, p, m):
        q, k = g.Q[h, p], g.K[h, m]
        to_place = dot(q, g.KR[h, delta(p - m)]) + dot(k, g.QR[h, delta(m - p)])
        return (dot(q, k) + to_place) / math.sqrt(3 * len(q))

    return each_head(g, logit)


def attention_lse(g):
    return masked(g, lambda h, p, m: m <= p)


def log_sum_exp(g):
    """The logarithm of the denominators of `attention_lse`, -inf where there is no key."""
    out = np.full(g.Q.shape[:2], -math.inf)
    for h, p in np.ndindex(*out.shape):
        seen = [scaled(g.Q[h, p], g.K[h, m]) for m in range(g.K.shape[1]) if m <= place(g, p)]
        if seen:
            out[h, p] = max(seen) + math.log(math.fsum(math.exp(x - max(seen)) for x in seen))
    return out


def shifted_window(g):
    """Swin as its code does it: whole windows of the rolled image, less what was far apart."""
    heads, rows, columns, _ = g.Q.shape
    out = np.zeros((heads, rows, columns, g.V.shape[3]))

    def label(x, length):  # the window after the roll, and whether the pixel came from the far side
        return ((x - g.S) % length) // g.W, x < g.S

    for h, y, x in np.ndindex(heads, rows, columns):
        logits = {
            (v, u): scaled(g.Q[h, y, x], g.K[h, v, u]) + g.B[h, v - y + g.W - 1, u - x + g.W - 1]
            for v, u in np.ndindex(rows, columns)
            if label(v, rows) == label(y, rows) and label(u, columns) == label(x, columns)
        }
        out[h, y, x] = mixed(weights(logits), g.V[h], g.V.shape[3])
    return out


def tree_mask(g):
    text = g.K.shape[1] - g.Q.shape[1]

    def ancestors(p):
        return [] if p < 0 else [p, *ancestors(int(g.PA[p]))]

    def logit(h, p, m):
        seen = m < text or m - text in ancestors(p)
        return scaled(g.Q[h, p], g.K[h, m]) if seen else None

    return each_head(g, logit)


def forgetting(g):
    def logit(h, p, m):
        if m > p:
            return None
        return scaled(g.Q[h, p], g.K[h, m]) + math.fsum(map(math.log, g.F[h, m + 1 : p + 1]))

    return each_head(g, logit)


def share(x):
    """The sigmoid of a logit."""
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


def stick_breaking(g):
    out = np.zeros((*g.Q.shape[:2], g.V.shape[2]))
    for h, p in np.ndindex(*out.shape[:2]):
        left = 1.0
        for m in range(place(g, p) - 1, -1, -1):
            x = scaled(g.Q[h, p], g.K[h, m])
            out[h, p] += share(x) * left * g.V[h, m]
            left *= share(-x)
    return out


def cope(g):
    def logit(h, p, m):
        if m > p:
            return None
        gates = [share(scaled(g.Q[h, p], g.K[h, n])) for n in range(m, p + 1)]
        position = min(math.fsum(gates), len(g.PE) - 1)
        low = math.floor(position)
        high = math.ceil(position)
        part = position - low
        encoding = (1 - part) * g.PE[low] + part * g.PE[high]
        return scaled(g.Q[h, p], g.K[h, m]) + dot(g.Q[h, p], encoding)

    return each_head(g, logit)


def multi_token(g):
    steps, width = g.T.shape[1:]

    def raw(h, p, m):
        inside = p >= 0 and 0 <= m < g.K.shape[1] and m <= place(g, p)
        return scaled(g.Q[h, p], g.K[h, m]) if inside else 0.0

    def logit(h, p, m):
        if m > place(g, p):
            return None
        return math.fsum(
            g.T[h, i, j] * raw(h, p - i, m + width // 2 - j) for i, j in np.ndindex(steps, width)
        )

    return each_head(g, logit)

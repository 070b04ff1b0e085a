"""Loop references of mechanisms on sequences, written from what the papers say.

Each takes the arrays, the extents of the ranks and the constants, and returns the outputs. Loops
over queries and keys, an explicit set of keys for each query; not one Einsum.
"""

import math

import numpy as np


def attend(logits, values, width):
    """The mean of `values`, weighted by the softmax of `logits`; zeros without any."""
    if not logits:
        return np.zeros(width)
    top = max(logits)
    weights = [math.exp(logit - top) for logit in logits]
    total = math.fsum(weights)
    return sum((w / total) * v for w, v in zip(weights, values, strict=True))


def attention(q, k, v, seen=lambda query, key: True, bias=lambda query, key: 0.0, scale=None):
    """Softmax attention of q[.., e] over k[.., e], v[.., f] at any number of coordinates.

    `seen` and `bias` take two tuples of coordinates. A query that sees no key gives 0.
    """
    scale = scale or 1 / math.sqrt(q.shape[-1])
    result = np.zeros((*q.shape[:-1], v.shape[-1]))
    for query in np.ndindex(q.shape[:-1]):
        keys = [key for key in np.ndindex(k.shape[:-1]) if seen(query, key)]
        logits = [float(q[query] @ k[key]) * scale + bias(query, key) for key in keys]
        result[query] = attend(logits, [v[key] for key in keys], v.shape[-1])
    return result


def largest(scores, count):
    """The coordinates of the largest scores, the lower coordinate first where they are equal."""
    return sorted(range(len(scores)), key=lambda at: (-scores[at], at))[:count]


def heads(given, size, seen, bias=lambda head, query, key: 0.0):
    """Attention of every query head; heads of keys are shared by H // G neighbouring ones."""
    q, k, v = given["Q"], given["K"], given["V"]
    shared = len(q) // len(k)

    def one(h):
        return attention(
            q[h],
            k[h // shared],
            v[h // shared],
            lambda query, key: seen(h // shared, h, query[0] + size["m"] - size["p"], key[0]),
            lambda query, key: bias(h, query[0], key[0]),
        )

    return np.array([one(h) for h in range(len(q))])


def blocks(rows, length):
    """[n, ..] as [block, place, ..], zeros where the last block is not full."""
    result = np.zeros((-(-len(rows) // length), length, *rows.shape[1:]))
    for at, row in enumerate(rows):
        result[at // length, at % length] = row
    return result


def radial(given, size, const):
    tokens = size["s"]

    def seen(query, key):
        (i, s), (j, n) = query, key
        far = abs(i - j)
        if j == 0 or far <= 1:
            return True
        decay = 2 ** tokens.bit_length() / 2 ** far.bit_length()
        window = decay * const["DF"] if decay * const["DF"] >= const["BLK"] else const["BLK"]
        kept = decay >= const["BLK"] or far % int(const["BLK"] / decay) == 0
        return kept and abs(s - n) <= window

    triples = zip(given["Q"], given["K"], given["V"], strict=True)
    return {"O": np.array([attention(q, k, v, seen) for q, k, v in triples])}


def duo_attention(given, size, const):
    def seen(g, h, p, m):
        everything = given["RT"][g] > 0
        return m in range(p + 1) and (everything or m < const["SINK"] or m > p - const["REC"])

    return {"O": heads(given, size, seen)}


def gated_attention(given, size, const):
    attended = heads(given, size, lambda g, h, p, m: m <= p)
    result = np.zeros((size["p"], size["o"]))
    for p in range(size["p"]):
        for h in range(size["h"]):
            gates = [math.tanh(t / 2) / 2 + 0.5 for t in given["X"][p] @ given["WG"][:, h]]
            result[p] += (attended[h, p] * gates) @ given["WO"][h]
    return {"O": result}


def flashbias(given, size, const):
    def bias(h, p, m):
        return float(given["QB"][h, p] @ given["KB"][h, m])

    return {"O": heads(given, size, lambda g, h, p, m: m <= p, bias)}


def causal_cross(given, size, const):
    """The position of query p is p + M - P; OFF counts from p itself."""
    moved = const.get("OFF", size["m"] - size["p"]) - (size["m"] - size["p"])
    return {"O": heads(given, size, lambda g, h, p, m: m <= p + moved)}


def s2_attention(given, size, const):
    width, stride = const["B"], const["ST"]

    def seen(g, h, p, m):
        block = m // width
        recent = block in range(p // width - const["LB"] + 1, p // width + 1)
        own = block % stride == (-h * const["HS"] - const["OF"]) % stride
        return m <= p and (recent or own)

    return {"O": heads(given, size, seen)}


def attention_1pass(given, size, const):
    """Q comes scaled, so that the scale of the reference is 1."""
    result = np.zeros((size["b"], size["h"], size["p"], size["f"]))
    for at in np.ndindex(size["b"], size["h"]):
        result[at] = attention(given["Q"][at], given["K"][at], given["V"][at], scale=1.0)
    return {"AV": result}


def edge_moe(given, size, const):
    return {"O": heads(given, size, lambda g, h, p, m: True)}


def landmark(given, size, const):
    """Each earlier block takes part with its last token, whose weight the others share."""
    length, scale = size["s"], 1 / math.sqrt(size["e"])
    result = np.zeros((size["h"], size["p"], size["f"]))
    for h, p in np.ndindex(size["h"], size["p"]):
        logit = [float(given["Q"][h, p] @ key) * scale for key in given["K"][h]]
        value = given["V"][h]
        border = p - p % length
        logits = [logit[m] for m in range(border, p + 1)]
        means = [value[m] for m in range(border, p + 1)]
        for start in range(0, border, length):
            inside = range(start, start + length - 1)
            means.append(attend([logit[m] for m in inside], value[inside], size["f"]))
            logits.append(logit[start + length - 1])
        result[h, p] = attend(logits, means, size["f"])
    return {"O": result}


def core_context(given, size, const):
    length, scale = size["s"], 1 / math.sqrt(size["e"])
    q, k, v, x = (given[name] for name in ("Q", "K", "V", "X"))
    core = []
    for start in range(0, size["m"] - length + 1, length):
        group = range(start, start + length)
        logits = [float(q[start + length - 1] @ k[m]) * scale for m in group]
        pooled = attend(logits, [x[m] for m in group], size["c"])
        core.append((pooled @ given["WK"], pooled @ given["WV"]))
    result = np.zeros((size["p"], size["f"]))
    for p in range(size["p"]):
        far = max(p - const["LS"], 0) // length  # groups that end LS tokens back, or earlier
        near = range(far * length, p + 1)
        keys = [key for key, _ in core[:far]] + [k[m] for m in near]
        values = [value for _, value in core[:far]] + [v[m] for m in near]
        result[p] = attend([float(q[p] @ key) * scale for key in keys], values, size["f"])
    return {"O": result}


def dynamic_mask(given, size, const):
    """The bias of a key is its score; only the J best keys up to the query are read."""
    q, k, v = given["Q"], given["K"], given["V"]
    shared, scale = size["h"] // size["g"], 1 / math.sqrt(size["e"])
    result = np.zeros((size["h"], size["p"], size["f"]))
    for h, p in np.ndindex(size["h"], size["p"]):
        g = h // shared
        amounts = [float(value @ given["WD"][:, g]) for value in v[g]]
        scores = [given["AH"][g] * (math.log1p(math.exp(-abs(t))) + max(t, 0)) for t in amounts]
        known = max(0, p + 1 + size["m"] - size["p"])
        keys = largest(scores[:known], size["j"])
        logits = [float(q[h, p] @ k[g, m]) * scale + scores[m] for m in keys]
        result[h, p] = attend(logits, [v[g, m] for m in keys], size["f"])
    return {"O": result}


def mixture_of_heads(given, size, const):
    result = np.zeros((size["p"], size["o"]))
    for p in range(size["p"]):
        logits = given["X"][p] @ given["WG"]
        odds = [math.exp(logit - max(logits)) for logit in logits]
        chosen = largest(odds, size["j"])
        total = math.fsum(odds[r] for r in chosen)
        for r in chosen:
            attended = attention(given["Q"][r, p : p + 1], given["K"][r], given["V"][r])[0]
            result[p] += size["j"] * odds[r] / total * (attended @ given["WO"][r])
    return {"O": result}


def lightning(given, size, const):
    """Every pair of tokens, with a decay for each token between them."""
    result = np.zeros((size["h"], size["t"], size["f"]))
    for h, t in np.ndindex(size["h"], size["t"]):
        for m in range(t + 1):
            decay = math.exp(-given["SL"][h]) ** (t - m)
            result[h, t] += decay * float(given["Q"][h, t] @ given["K"][h, m]) * given["V"][h, m]
    return {"O": np.array([blocks(head, size["p"]) for head in result])}


def titans(given, size, const):
    """The gradient is the difference of two errors: exact, since the error is quadratic."""

    def error(memory, key, value):
        return math.fsum((key @ memory - value) ** 2)

    memory = np.zeros((size["d"], size["f"]))
    surprise = np.zeros_like(memory)
    result = np.zeros((size["t"], size["f"]))
    for t in range(size["t"]):
        key, value = given["K"][t], given["V"][t]
        gradient = np.zeros_like(memory)
        for at in np.ndindex(memory.shape):
            step = np.zeros_like(memory)
            step[at] = 1.0
            up, down = (error(memory + sign * step, key, value) for sign in (1, -1))
            gradient[at] = (up - down) / 2
        surprise = given["ETA"][t] * surprise - given["TH"][t] * gradient
        memory = (1 - given["AL"][t]) * memory + surprise
        result[t] = given["Q"][t] @ memory
    return {"O": result}


def inline_attention(given, size, const):
    """With the weights written out: those of each query sum to 1."""
    scale = 1 / math.sqrt(size["e"])
    result = np.zeros((size["h"], size["p"], size["f"]))
    for h, p in np.ndindex(size["h"], size["p"]):
        scores = [float(given["Q"][h, p] @ key) * scale for key in given["K"][h]]
        mean = math.fsum(scores) / len(scores)
        weights = [(score - mean + 1) / len(scores) for score in scores]
        result[h, p] = sum(w * v for w, v in zip(weights, given["V"][h], strict=True))
        kernel = np.tensordot(given["X"][h].mean(axis=0), given["WR"][h], axes=1)
        for k, at in enumerate((p - 1, p, p + 1)):
            if 0 <= at < size["m"]:
                result[h, p] += kernel[:, k] * given["V"][h, at]
    return {"O": result}


def agent_attention(given, size, const):
    """Pools as `torch.nn.AdaptiveAvgPool1d`: from floor(a P / A) to ceil((a + 1) P / A)."""
    count, length = size["a"], size["p"]
    result = np.zeros((size["h"], length, size["f"]))
    for h in range(size["h"]):
        q, k, v = given["Q"][h], given["K"][h], given["V"][h]
        ends = [
            (math.floor(a * length / count), math.ceil((a + 1) * length / count))
            for a in range(count)
        ]
        agents = np.array([sum(q[start:stop]) / (stop - start) for start, stop in ends])
        b1, b2 = given["B1"][h], given["B2"][h]
        gathered = attention(agents, k, v, bias=lambda a, m, b=b1: b[*a, *m])
        result[h] = attention(q, agents, gathered, bias=lambda p, a, b=b2: b[*p, *a])
        for p in range(length):
            for tap, at in enumerate((p - 1, p, p + 1)):
                if 0 <= at < length:
                    result[h, p] += given["WD"][tap, h] * v[at]
    return {"O": result}

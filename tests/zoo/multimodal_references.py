"""Loop references of mechanisms for several modalities, and of pooling and gating ones."""

import math

import numpy as np
from first_references import attend, attention, blocks, heads, largest


def _heads(given, *names):
    return zip(*(given[name] for name in names), strict=True)


def _sigmoid(x):
    return math.tanh(x / 2) / 2 + 0.5


def rg_attn(given, size, const):
    result = []
    for queries, seen in _heads(given, "Q", "TAB"):
        keys = [int(n) for n in seen]
        result.append(attention(queries, given["K"][keys], given["V"][keys]))
    return {"O": np.array(result)}


def csa_action(given, size, const):
    mean = sum(given["S"]) / size["n"]
    hidden = [max(0.0, float(mean @ given["W1"][:, r])) for r in range(size["r"])]
    gates = [_sigmoid(float(hidden @ given["W2"][:, c])) for c in range(size["c"])]
    return {"O": given["X"] * np.array(gates)}


def minimal_transformer(given, size, const):
    x = given["X"]
    return {"O": np.array([attention(x @ wq, x @ wq, x) for wq in given["WQ"]])}


def _looked_back(tokens, taps):
    """Causal convolution of [t, e] with [k, e]: tap k reads k tokens before."""
    result = np.zeros_like(tokens)
    for t in range(len(tokens)):
        for k in range(min(t + 1, len(taps))):
            result[t] += taps[k] * tokens[t - k]
    return result


def rcmha(given, size, const):
    result = []
    for h in range(size["h"]):
        q, k, v = (_looked_back(given[name][h], given["W" + name][:, h]) for name in "QKV")
        scale = 1 / math.sqrt(size["e"])
        found = np.zeros((size["p"], size["f"]))
        for p in range(size["p"]):
            logits = []
            for m in range(p + 1):
                content = (q[p] + given["BU"][h]) @ k[m]
                place = (q[p] + given["BV"][h]) @ given["RE"][h, p - m]
                logits.append(float(content + place) * scale)
            found[p] = attend(logits, v[: p + 1], size["f"])
        result.append(found)
    return {"O": np.array(result)}


def video_infinity(given, size, const):
    start = int(given["START"])
    near = range(max(start - const["PD"], 0), min(start + size["p"] + const["PD"], size["n"]))
    frames = [*near, *range(0, size["n"], const["GS"])]
    result = []
    for q, k, v in _heads(given, "Q", "K", "V"):

        def bias(query, key):
            return const["BL"] if key[0] < len(near) else const["BG"]

        result.append(attention(q, k[frames], v[frames], bias=bias))
    return {"O": np.array(result)}


def dcal(given, size, const):
    chosen = largest(list(given["RO"]), size["j"])
    triples = list(_heads(given, "Q", "K", "V"))
    both = (np.concatenate([given[a], given[a + "2"]], axis=1) for a in "KV")
    return {
        "OG": np.array([attention(q[chosen], k, v) for q, k, v in triples]),
        "OP": np.array([attention(*each) for each in zip(given["Q"], *both, strict=True)]),
    }


def visual_boost(given, size, const):
    """The weights of an ordinary softmax are raised, then normalised again."""
    raised = np.zeros((size["h"], size["p"], size["f"]))
    plain = {**given, "V": np.broadcast_to(np.eye(size["m"]), (size["h"], size["m"], size["m"]))}
    maps = heads(plain, size, lambda g, h, p, m: m <= p)
    for h, p in np.ndindex(size["h"], size["p"]):
        row = maps[h, p] * (1 + const["AL"] * given["HS"][h] * given["TK"])
        total = math.fsum(row)
        if total:
            raised[h, p] = (row / total) @ given["V"][h]
    return {"O": raised}


def mocha(given, size, const):
    def seen(query, key):
        own = range(const["R"] * query[0], const["R"] * (query[0] + 1))
        return any(abs(key[0] - audio) <= const["W"] for audio in own)

    return {"O": np.array([attention(*each, seen) for each in _heads(given, "Q", "K", "V")])}


def lovecon(given, size, const):
    frames = [0, int(given["PV"]), int(given["CU"])]
    keys, values = (np.concatenate(given[name][frames]) for name in "KV")
    return {"O": attention(given["Q"], keys, values)}


def hbformer(given, size, const):
    high, wide, step = size["y"], size["x"], const["DI"]
    channel = given["X"].reshape(-1, size["c"]).mean(axis=0) @ given["WC"]
    result = np.zeros((high, wide, size["d"]))
    for y, x in np.ndindex(high, wide):
        total = 0.0
        for at, to in np.ndindex(high, wide):
            (down, rest), (right, other) = divmod(at - y, step), divmod(to - x, step)
            row, column = down + size["k"] // 2, right + size["l"] // 2
            if rest == other == 0 and 0 <= row < size["k"] and 0 <= column < size["l"]:
                total += float(given["WS"][row, column] @ given["X"][at, to])
        gates = [_sigmoid(each) * _sigmoid(total) for each in channel]
        result[y, x] = given["X"][y, x] * gates
    return {"O": result}


def swap_attention(given, size, const):
    def windowed(*names):
        def seen(query, key):
            return query[0] // size["p"] == key[0] // size["p"]

        found = [attention(*each, seen) for each in _heads(given, *names)]
        return np.array([blocks(each, size["p"]) for each in found])

    return {"OS": windowed("QS", "KT", "VT"), "OT": windowed("QT", "KS", "VS")}


def multi_layer_pooling(given, size, const):
    layers = given["HS"]
    found = [attention(q, layers @ k, layers @ v) for q, k, v in _heads(given, "QL", "WK", "WV")]
    return {"O": np.array(found)}


def dyvte(given, size, const):
    left = given["EX"] > 0
    return {"O": heads(given, size, lambda g, h, p, m: m <= p and not (left and m < const["NV"]))}


def attention_routing(given, size, const):
    logits = given["X"] @ given["WR"]
    scores = sum(weight * attention(q, k, logits) for weight, q, k in _heads(given, "HW", "Q", "K"))
    chosen = [largest(list(row), size["j"]) for row in scores]
    weights = [row[experts] for row, experts in zip(scores, chosen, strict=True)]
    return {"SEL": np.array(chosen, float), "RW": np.array(weights)}


def ee_mllm(given, size, const):
    images, moved = size["i"], size["n"] - size["p"]

    def seen(query, key):
        return key[0] < images or key[0] - images <= query[0] + moved

    result = []
    for q, k, v, ki, vi in _heads(given, "Q", "K", "V", "KI", "VI"):
        result.append(attention(q, np.concatenate([ki, k]), np.concatenate([vi, v]), seen))
    return {"O": np.array(result)}


def lama(given, size, const):
    result = []
    for one, other in _heads(given, "WP", "WQ"):
        query = given["C"] @ one @ other.T
        result.append(attention(query[None], given["H"], given["H"], scale=1.0)[0])
    return {"O": np.array(result)}


def mqsa(given, size, const):
    latest = np.zeros_like(given["X"])
    for p in range(size["p"]):
        latest[p] = sum(given["X"][max(0, p - const["LL"] + 1) : p + 1]) / const["LL"]
    one, other = (
        attention(q, given["K"], given["V"], lambda p, m: m <= p)
        for q in (latest @ given["WQ"], given["Q"])
    )
    return {"O": const["AL"] * one + (1 - const["AL"]) * other}


def crosslmm(given, size, const):
    starts = range(0, size["n"], size["s"])
    pooled = np.array([given["X"][s : s + size["s"]].mean(axis=0) for s in starts])
    return {
        "OV": attention(pooled, given["K"], given["V"]),
        "OT": attention(given["T"], given["K"], given["V"]),
    }


def apem(given, size, const):
    gathered = attention(given["IN"], given["K"], given["V"])
    asked = attention(given["Q"], gathered, gathered)
    return {"O": asked * [_sigmoid(math.fsum(column) / size["p"]) for column in asked.T]}


def wings(given, size, const):
    image = given["VI"]
    learner = attention(given["X"] @ given["WA"], image @ given["WB"], image @ given["WV"])
    own = heads(given, size, lambda g, h, p, m: m <= p)
    return {"O": own + given["RW"][:, None] * learner}


def adsc(given, size, const):
    kept = given["X"][:: const["ST"]]
    return {"O": attention(given["Q"], kept @ given["WK"], kept @ given["WV"])}


def vlanet(given, size, const):
    moments = given["K"]
    looked = attention(given["Q"], moments, moments)
    return {"O": attention(moments, looked, looked)}

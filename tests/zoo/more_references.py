"""Loop references of further mechanisms, written from what the papers say."""

import math

import numpy as np
from first_references import attend, attention, blocks, heads, largest


def _heads(given, *names):
    return zip(*(given[name] for name in names), strict=True)


def swin(given, size, const):
    """As released: roll by SH, attend in windows, mask what is of another region of the image."""
    length, shift = const["B"], const["SH"]

    def part(at, extent):
        rolled = (at - shift) % extent
        region = 0 if rolled < extent - length else 1 if rolled < extent - shift else 2
        return rolled // length, region if shift else 0

    def seen(query, key):
        return all(part(query[axis], n) == part(key[axis], n) for axis, n in enumerate(extents))

    extents = size["z"], size["w"]
    result = []
    for table, q, k, v in _heads(given, "RB", "Q", "K", "V"):

        def bias(query, key, table=table):
            return table[key[0] - query[0] + length - 1, key[1] - query[1] + length - 1]

        result.append(attention(q, k, v, seen, bias))
    return {"O": np.array(result)}


def hidiffusion(given, size, const):
    length, back = const["B"], (-const["SH"], -const["SH"])

    def seen(query, key):
        return all(a // length == b // length for a, b in zip(query, key, strict=True))

    result = []
    for arrays in _heads(given, "Q", "K", "V"):
        rolled = (np.roll(each, back, axis=(0, 1)) for each in arrays)
        result.append(np.roll(attention(*rolled, seen), (const["SH"], const["SH"]), axis=(0, 1)))
    return {"O": np.array(result)}


def shifted_groups(given, size, const):
    def seen(query, key):
        return query[0] // const["B"] == key[0] // const["B"] and key[0] <= query[0]

    result = []
    for shift, *arrays in _heads(given, "SH", "Q", "K", "V"):
        rolled = (np.roll(each, -int(shift), axis=0) for each in arrays)
        result.append(np.roll(attention(*rolled, seen), int(shift), axis=0))
    return {"O": np.array(result)}


def sparsifiner(given, size, const):
    scale = 1 / math.sqrt(size["e"])
    result = np.zeros((size["h"], size["p"], size["f"]))
    for h in range(size["h"]):
        q, k, v = given["Q"][h], given["K"][h], given["V"][h]
        pooled = given["PN"].T @ (k @ given["WB"])
        for p in range(size["p"]):
            logits = [float((q[p] @ given["WA"]) @ each) * scale for each in pooled]
            guess = attend(logits, given["BS"], size["m"])
            chosen = largest(list(guess), size["j"])
            logits = [float(q[p] @ k[m]) * scale for m in chosen]
            result[h, p] = attend(logits, v[chosen], size["f"])
    return {"O": result}


def _convolved(image, weights, pad):
    """Cross-correlation of [y, x] with [k, l], with this many zeros around the image."""
    image = np.pad(image, pad)
    shape = tuple(a - b + 1 for a, b in zip(image.shape, weights.shape, strict=True))
    result = np.zeros(shape)
    for y, x in np.ndindex(shape):
        part = image[y : y + weights.shape[0], x : x + weights.shape[1]]
        result[y, x] = math.fsum((part * weights).ravel())
    return result


def medusa(given, size, const):
    channels = range(size["c"])
    image = sum(_convolved(given["X"][:, :, c], given["W"][:, :, c], 1) for c in channels)
    high, wide = (-(-extent // 2) for extent in image.shape)
    pooled = np.array(
        [
            [image[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max() for j in range(wide)]
            for i in range(high)
        ]
    )
    gate = _convolved(pooled, given["W2"], 1)
    result = np.zeros_like(given["X"])
    for y, x, c in np.ndindex(result.shape):
        logit = gate[y // 2, x // 2] * given["WS"][c]
        result[y, x, c] = given["X"][y, x, c] * _sigmoid(logit)
    return {"O": result}


def _sigmoid(x):
    return math.tanh(x / 2) / 2 + 0.5


def l2vit(given, size, const):
    result = np.zeros((size["h"], size["p"], size["f"]))
    for h in range(size["h"]):
        q, k, v = given["Q"][h], given["K"][h], given["V"][h]
        rows = np.zeros((size["p"], size["f"]))
        for p in range(size["p"]):
            weights = [float(np.maximum(q[p], 0) @ np.maximum(each, 0)) for each in k]
            total = math.fsum(weights) + const.get("EPS", 1e-6)
            rows[p] = sum(weight / total * each for weight, each in zip(weights, v, strict=True))
        for f in range(size["f"]):
            kernel = given["WC"][:, h, f, None]
            result[h, :, f] = rows[:, f] + _convolved(rows[:, f, None], kernel, ((1, 1), (0, 0))).T
    return {"O": result}


def hyperzzw(given, size, const):
    """As a true convolution: the kernel is turned round, and centred."""
    high, wide = size["u"], size["v"]
    result = np.zeros((size["y"], size["x"], size["c"]))
    for c in range(size["c"]):
        image = given["Z"][:, :, c]
        kernel = np.zeros((high, wide))
        for u, v in np.ndindex(high, wide):
            kernel[u, v] = (np.sin(given["PE"][u, v]) @ given["WM"][:, c]) * image[u, v]
        turned = kernel[::-1, ::-1]
        after, before = (high // 2, wide // 2), (high - 1 - high // 2, wide - 1 - wide // 2)
        padded = np.pad(image, ((before[0], after[0]), (before[1], after[1])))
        result[:, :, c] = _convolved(padded, turned, 0)
    return {"O": result}


def rswa(given, size, const):
    """Every window on its own; its results are added where they belong."""
    result = np.zeros((size["n"], size["f"]))
    for centre in range(size["n"]):
        window = slice(max(centre - 1, 0), centre + 2)
        result[window] += attention(*(given[name][window] for name in "QKV"))
    return {"O": result}


def convsharevit(given, size, const):
    def convolved(name):
        images = np.array([_convolved(image, given[name], 0) for image in given["X"]])
        return images.reshape(size["p"], -1)

    found = attention(*(convolved(name) for name in ("WQ", "WK", "WV")))
    return {"O": found.reshape(size["p"], size["y"], size["x"])}


def flux_attention(given, size, const):
    means = [math.fsum(column) / len(column) for column in given["X"].T]
    full = math.fsum(m * w for m, w in zip(means, given["WR"], strict=True)) > 0

    def seen(g, h, p, m):
        return m <= p and (full or m < const["SINK"] or m > p - const["W"])

    return {"O": heads(given, size, seen)}


def bam(given, size, const):
    result = np.zeros((size["p"], size["o"]))
    experts = range(size["a"])
    for p in range(size["p"]):
        x, known = given["X"][p], max(0, p + 1 + size["m"] - size["p"])
        found = []
        for a in experts:
            query = x @ given["WQ"][a]
            logits = [float(query @ key) / math.sqrt(size["e"]) for key in given["K"][:known]]
            found.append(attend(logits, given["V"][:known], size["f"]) @ given["WO"][a])
        result[p] = attend([float(x @ given["WR"][:, a]) for a in experts], found, size["o"])
    return {"O": result}


def eca(given, size, const):
    means = np.pad(given["X"].mean(axis=0), size["k"] // 2)
    gates = [_sigmoid(float(means[c : c + size["k"]] @ given["W"])) for c in range(size["c"])]
    return {"O": given["X"] * np.array(gates)}


def rekv(given, size, const):
    q, k, v, length = given["Q"], given["K"], given["V"], size["s"]
    starts = range(0, size["n"], length)
    mean = sum(q) / len(q)
    scores = [float((sum(k[s : s + length]) / len(k[s : s + length])) @ mean) for s in starts]
    kept = list(range(const["NI"]))
    for block in largest(scores, size["j"]):
        kept += range(block * length, min((block + 1) * length, size["n"]))
    return {"O": attention(q, k[kept], v[kept])}


def lazy_eviction(given, size, const):
    scores = []
    for weights in given["A"].T:
        uses = [t for t, weight in enumerate(weights) if weight >= const["AL"]]
        gaps = [b - a for a, b in zip([0, *uses], uses, strict=False)]
        last = uses[-1] if uses else 0
        scores.append(max([0, *gaps]) - (size["t"] - last))
    kept = largest(scores, size["j"])
    return {"KEEP": np.array(kept, float), "KS": given["K"][kept]}


def favit(given, size, const):
    length, taps = size["s"], size["k"]
    step = const["DI"] * (taps - 1) + 1
    merged = []
    for start in range(0, size["n"], length):
        part = given["X"][start : start + length]
        merged.append(sum(w * x for w, x in zip(given["WS"], part, strict=False)))
    starts = range(0, size["n"] - step + 1, step)
    local = [
        sum(given["Y"][start + tap * const["DI"]] for start in starts) / len(starts)
        for tap in range(taps)
    ]
    found = [
        attention(given[q], np.array(k), np.array(k)) for q, k in (("Q", merged), ("Q2", local))
    ]
    return {"OG": found[0], "OL": found[1]}


def spikmamba(given, size, const):
    result = np.zeros((size["t"], size["n"], size["f"]))
    charge = np.zeros((size["n"], size["e"]))
    for t in range(size["t"]):
        fired = np.zeros_like(charge)
        for at in np.ndindex(charge.shape):
            charge[at] += (given["X"][t][at] - charge[at]) / const["TAU"]
            if charge[at] >= const["TH"]:
                fired[at], charge[at] = 1, 0
        for n in range(size["n"]):
            common = [float(fired[n] @ fired[m]) for m in range(size["n"])]
            total = math.fsum(common) + const.get("EPS", 1e-6)
            result[t, n] = sum(c / total * v for c, v in zip(common, given["V"][t], strict=True))
    return {"O": result}


def contrast(given, size, const):
    state = np.zeros((size["d"], size["s"]))
    scanned = np.zeros((size["t"], size["d"]))
    for t in range(size["t"]):
        for d, s in np.ndindex(state.shape):
            step = given["DT"][t, d]
            state[d, s] *= math.exp(step * given["AA"][d, s])
            state[d, s] += step * given["BB"][t, s] * given["X"][t, d]
        scanned[t] = state @ given["CC"][t]
    found = attention(
        scanned, scanned, given["X"], lambda p, m: p[0] // size["p"] == m[0] // size["p"]
    )
    return {"O": blocks(found, size["p"])}


def gaussian_attention(given, size, const):
    x = given["X"]
    mean = math.fsum(x) / len(x)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in x) / len(x) + 1e-8)
    density = []
    for value in x:
        product = 1.0
        for moved, width in zip(given["DO"], given["CS"], strict=True):
            z = (value - mean - moved) / deviation / width
            product *= math.exp(-z * z / 2) / (width * math.sqrt(2 * math.pi))
        density.append(product)
    return {"O": x * np.array(density) / math.fsum(density)}


def longlive(given, size, const):
    def seen(g, h, p, m):
        now, then = p // const["T"], m // const["T"]
        return (then in range(const["SINK"]) and then <= now) or 0 <= now - then < const["W"]

    return {"O": heads(given, size, seen)}


def moa(given, size, const):
    length = const["B"]

    def seen(g, h, p, m):
        span = given["AH"][h] + given["BH"][h] * (size["m"] // length)
        return m <= p and (m < length or p // length - m // length < span)

    return {"O": heads(given, size, seen)}


def diffqkv(given, size, const):
    result = np.zeros((size["h"], size["p"], size["f"]))
    for h, p in np.ndindex(size["h"], size["p"]):
        query = given["X"][p] @ given["WA"][:, h]
        known = max(0, p + 1 + size["m"] - size["p"])
        keys = given["K"][h // (size["h"] // size["g"]), :known]
        logits = [float(query @ key) / math.sqrt(size["e"]) for key in keys]
        weights = attend(logits, np.eye(known), known)
        for m in largest(list(weights), size["j"]):
            result[h, p] += weights[m] * given["V"][h // (size["h"] // size["w"]), m]
    return {"O": result}


def acmil(given, size, const):
    found = []
    for b in range(size["b"]):
        logits = []
        for x in given["X"]:
            gates = [_sigmoid(t) for t in x @ given["WU"]]
            logits.append(float((np.tanh(x @ given["WV"]) * gates) @ given["WW"][:, b]))
        found.append(attend(logits, given["X"], size["d"]))
    return {"O": sum(found) / size["b"]}


def motionclr(given, size, const):
    """The weights themselves are multiplied, then normalised."""
    result = np.zeros((size["h"], size["p"], size["f"]))
    for h, p in np.ndindex(size["h"], size["p"]):
        logits = [float(given["Q"][h, p] @ key) / math.sqrt(size["e"]) for key in given["K"][h]]
        weights = attend(logits, np.eye(size["m"]), size["m"]) * given["RW"]
        result[h, p] = (weights / math.fsum(weights)) @ given["V"][h]
    return {"O": result}


def danet(given, size, const):
    x = given["X"]
    positions = attention(given["Q"], given["K"], given["V"], scale=1.0)
    return {"O": positions + attention(x.T, -x.T, x.T, scale=1.0).T}


def token_prompts(given, size, const):
    result = np.zeros((size["p"], size["f"]))
    for p in range(size["p"]):
        chosen = sorted(largest([float(given["X"][p] @ key) for key in given["KP"]], size["j"]))
        keys = [*given["PK"][chosen], *given["K"]]
        logits = [float(given["Q"][p] @ key) / math.sqrt(size["e"]) for key in keys]
        result[p] = attend(logits, [*given["PV"][chosen], *given["V"]], size["f"])
    return {"O": result}


def efficient_probing(given, size, const):
    result = np.zeros((size["q"], size["f"]))
    for q in range(size["q"]):
        values = given["X"] @ given["WV"][:, q]
        result[q] = attention(given["QL"][q : q + 1], given["X"], values)[0]
    return {"O": result}


def modality_mutual(given, size, const):
    image = range(int(given["IS"]), int(given["TS"]))
    text = range(int(given["TS"]), int(given["TE"]))
    return {"O": heads(given, size, lambda g, h, p, m: m <= p or (p in image and m in text))}


def proxy_tokens(given, size, const):
    length = size["p"] // size["w"]
    x = given["X"]
    proxies = np.array([x[w * length + int(at)] for w, at in enumerate(given["RI"])])

    def summed(queries, tokens):
        return sum(
            attention(queries @ wq, tokens @ wk, tokens @ wv)
            for wq, wk, wv in _heads(given, "WQ", "WK", "WV")
        )

    return {"O": summed(x, summed(proxies, proxies))}


def ultragen(given, size, const):
    length = size["s"]
    result = []
    for gate, q, k, v in _heads(given, "GW", "Q", "K", "V"):
        merged = [
            np.array([given["WC"][: len(part)] @ part for part in np.split(x, cuts)])
            for x in (k, v)
            for cuts in [range(length, size["m"], length)]
        ]
        local = attention(q, k, v, lambda p, m: p[0] // const["B"] == m[0] // const["B"])
        result.append(local + _sigmoid(gate) * attention(q, *merged))
    return {"O": np.array(result)}


def lscenellm(given, size, const):
    unit = np.eye(size["m"])
    maps = [attention(q, k, unit) for q, k in _heads(given, "Q", "K")]
    chosen = largest(
        [math.fsum(one[:, m].sum() for one in maps) for m in range(size["m"])], size["j"]
    )
    result = []
    for q, k, v in _heads(given, "Q", "KF", "VF"):
        result.append(attention(q, np.concatenate(k[chosen]), np.concatenate(v[chosen])))
    return {"O": np.array(result)}


def maniqa(given, size, const):
    x = given["X"]
    found = attention(*(x @ given[name] for name in ("WQ", "WK", "WV")), scale=size["n"] ** -0.5)
    return {"O": found + x}


def ulsam(given, size, const):
    result = np.zeros_like(given["X"])
    pixels = list(np.ndindex(size["y"], size["x"]))
    for g in range(size["g"]):
        image = np.maximum(given["X"][g] * given["WD"][g], 0)
        logits = []
        for y, x in pixels:
            part = image[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
            logits.append(max(0.0, float(part.max(axis=(0, 1)) @ given["WP"][g])))
        weights = attend(logits, np.eye(len(pixels)), len(pixels))
        result[g] = given["X"][g] * (1 + weights.reshape(size["y"], size["x"], 1))
    return {"O": result}


def transrefer3d(given, size, const):
    result = np.full((size["p"], size["f"]), -np.inf)
    for p, s in np.ndindex(size["p"], size["p"]):
        query = (given["X"][p] - given["X"][s]) @ given["WR"]
        result[p] = np.maximum(result[p], attention(query[None], given["K"], given["V"])[0])
    return {"O": result}


def lamic(given, size, const):
    segments = [[int(at) for at in given[name]] for name in ("SP", "SM")]

    def seen(query, key):
        return given["MT"][segments[0][query[0]], segments[1][key[0]]] > 0

    return {"O": np.array([attention(q, k, v, seen) for q, k, v in _heads(given, "Q", "K", "V")])}


def tlob(given, size, const):
    x, result = given["X"], []
    for wq, wk in _heads(given, "WQ", "WK"):
        y = attention(x @ wq, x @ wk, x)
        result.append(attention(y.T, y.T, y.T).T)
    return {"O": np.array(result)}


def soft_perturbed(given, size, const):
    """A gate mixes the map with the identity."""
    result = []
    for gate, q, k, v in _heads(given, "GH", "Q", "K", "V"):
        weights = attention(q, k, np.eye(size["m"]))
        result.append(((1 - gate) * weights + gate * np.eye(size["m"])) @ v)
    return {"O": np.array(result)}

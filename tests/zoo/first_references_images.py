"""Loop references of mechanisms on images and in windows, written from what the papers say.

All of them attend between pixels at their places in the image; the blocked layouts of the
cascades are made from that at the end.
"""

import math

import numpy as np
from first_references import attention, blocks, largest


def tiles(image, high, wide):
    """[z, w, f] as [i, j, y, x, f], zeros where the last tiles are not full."""
    rows = blocks(image, high)
    columns = np.moveaxis(rows, 2, 0)
    return np.moveaxis(blocks(columns, wide), (0, 1, 2, 3), (1, 3, 0, 2))


def by_head(given, names, one):
    """The results of every head, of tensors whose first rank are the heads."""
    return np.array([one(h, *arrays) for h, arrays in _heads(given, names)])


def _heads(given, names):
    return enumerate(zip(*(given[name] for name in names), strict=True))


def halonet(given, size, const):
    """A key is seen from every pixel of a block that it is within the halo of."""
    high, wide = size["y"], size["x"]
    halo = (size["u"] - high) // 2, (size["v"] - wide) // 2

    def near(at, key, length, reach):
        start = at // length * length
        return start - reach <= key < start + length + reach

    def seen(query, key):
        return near(query[0], key[0], high, halo[0]) and near(query[1], key[1], wide, halo[1])

    def one(h, q, k, v):
        def bias(query, key):
            row = key[0] - query[0] + halo[0] + high - 1
            column = key[1] - query[1] + halo[1] + wide - 1
            return float(q[query] @ given["RE"][row, column])

        return tiles(attention(q, k, v, seen, bias), high, wide)

    return {"O": by_head(given, "QKV", one)}


def maxvit(given, size, const):
    """Grid attention is the mask (y - u) % (Z / Y) == 0."""
    high, wide = size["y"], size["x"]
    far = size["z"] // high, size["w"] // wide

    def together(query, key):
        return query[0] // high == key[0] // high and query[1] // wide == key[1] // wide

    def apart(query, key):
        return (query[0] - key[0]) % far[0] == 0 and (query[1] - key[1]) % far[1] == 0

    def window(h, q, k, v):
        def bias(query, key):
            return given["RB"][h, key[0] - query[0] + high - 1, key[1] - query[1] + wide - 1]

        return tiles(attention(q, k, v, together, bias), high, wide)

    def grid(h, q, k, v):
        def bias(query, key):
            row, column = (key[0] - query[0]) // far[0], (key[1] - query[1]) // far[1]
            return given["RG"][h, row + high - 1, column + wide - 1]

        found = attention(q, k, v, apart, bias)
        return np.moveaxis(tiles(found, *far), (0, 1, 2, 3), (2, 3, 0, 1))

    return {"OB": by_head(given, "QKV", window), "OG": by_head(given, "QKV", grid)}


def davit(given, size, const):
    """A channel is a vector over all tokens, and attends to the channels of its group."""
    length, scale = size["p"], 1 / math.sqrt(size["c"])

    def window(h, q, k, v):
        found = attention(q, k, v, lambda p, m: p[0] // length == m[0] // length)
        return blocks(found, length)

    def channels(h, q, k, v):
        return attention(k.T, v.T, q.T, scale=scale).T

    found = by_head(given, ("Q2", "K2", "V2"), channels)
    return {"OS": by_head(given, "QKV", window), "OC": found}


def _natten(at, size, window, dilation, stride):
    """The keys of one axis, by the reference mask of NATTEN: leader, start, shift at the end."""
    line = range(at % dilation, size, dilation)
    left, right = window // 2, window // 2 + window % 2 - 1
    leader = min(line.index(at) // stride * stride + stride // 2, len(line) - 1)
    start = max(leader - left, 0)
    if leader + right >= len(line):
        start += len(line) - right - leader - 1
    return line[start : start + window]


def generalized_neighborhood(given, size, const):
    rule = const["WIN"], const["DL"], const["ST"]
    rows = [_natten(at, size["y"], *rule) for at in range(size["y"])]
    columns = [_natten(at, size["x"], *rule) for at in range(size["x"])]

    def seen(query, key):
        return key[0] in rows[query[0]] and key[1] in columns[query[1]]

    return {"O": by_head(given, "QKV", lambda h, q, k, v: attention(q, k, v, seen))}


def dilated_neighborhood(given, size, const):
    """The WIN nearest pixels of the query's own group, on each axis."""
    window, step = const["WIN"], const["DL"]

    def nearest(at, length):
        line = range(at % step, length, step)
        return sorted(line, key=lambda other: abs(other - at))[:window]

    def seen(query, key):
        return key[0] in nearest(query[0], size["y"]) and key[1] in nearest(query[1], size["x"])

    def one(h, q, k, v):
        def bias(query, key):
            row, column = ((key[axis] - query[axis]) // step + window - 1 for axis in (0, 1))
            return given["RB"][h, row, column]

        return attention(q, k, v, seen, bias)

    return {"O": by_head(given, "QKV", one)}


def _stripes(q, k, v, weights, width, axis):
    """Attention inside stripes across an axis, plus a 3x3 convolution that stays in the stripe."""

    def seen(query, key):
        return query[axis] // width == key[axis] // width

    result = attention(q, k, v, seen)
    for query in np.ndindex(result.shape[:2]):
        for key in np.ndindex(result.shape[:2]):
            down, right = key[0] - query[0], key[1] - query[1]
            if abs(down) <= 1 and abs(right) <= 1 and seen(query, key):
                result[query] += weights[down + 1, right + 1] * v[key]
    return result


def cswin(given, size, const):
    def rows(h, q, k, v, weights):
        return blocks(_stripes(q, k, v, weights, size["y"], 0), size["y"])

    def columns(h, q, k, v, weights):
        found = _stripes(q, k, v, weights, size["y"], 1)
        return np.moveaxis(blocks(np.moveaxis(found, 1, 0), size["y"]), 2, 1)

    return {
        "OR": by_head(given, ("Q", "K", "V", "WL"), rows),
        "OC": by_head(given, ("Q2", "K2", "V2", "WM"), columns),
    }


def hilo(given, size, const):
    length = size["p"]

    def high(h, q, k, v):
        found = attention(q, k, v, lambda p, m: p[0] // length == m[0] // length)
        return blocks(found, length)

    def low(h, q, k, v):
        starts = range(0, size["n"], length)
        keys, values = (np.array([x[s : s + length].mean(axis=0) for s in starts]) for x in (k, v))
        return attention(q, keys, values)

    found = by_head(given, ("Q2", "K2", "V2"), low)
    return {"OH": by_head(given, "QKV", high), "OL": found}


def biformer(given, size, const):
    """Every token attends to all tokens whose region its own region chose."""
    q, k, v, length = given["Q"], given["K"], given["V"], size["p"]
    starts = range(0, size["n"], length)
    queries, keys = (np.array([x[s : s + length].mean(axis=0) for s in starts]) for x in (q, k))
    chosen = [largest([float(one @ other) for other in keys], size["j"]) for one in queries]
    found = attention(q, k, v, lambda p, m: m[0] // length in chosen[p[0] // length])
    for p in range(size["n"]):
        for tap, at in enumerate((p - 1, p, p + 1)):
            if 0 <= at < size["n"]:
                found[p] += given["WL"][tap] * v[at]
    return {"O": blocks(found, length)}


def _gelu(x):
    return x / 2 * (1 + math.erf(x / math.sqrt(2)))


def focalnet(given, size, const):
    high, wide, levels = size["y"], size["x"], size["l"]
    centre = size["u"] // 2, size["v"] // 2
    level, gathered = given["X0"], np.zeros((high, wide, size["c"]))
    for number in range(levels):
        wider = np.zeros_like(level)
        reach = number + const["F0"]
        for y, x, c in np.ndindex(level.shape):
            total = 0.0
            for at, to in np.ndindex(high, wide):
                if abs(at - y) <= reach and abs(to - x) <= reach:
                    weight = given["WL"][number, at - y + centre[0], to - x + centre[1], c]
                    total += weight * level[at, to, c]
            wider[y, x, c] = _gelu(total)
        level = wider
        gathered += level * given["GA"][:, :, number, None]
    result = np.zeros((high, wide, size["d"]))
    overall = [_gelu(mean) for mean in level.reshape(-1, size["c"]).mean(axis=0)]
    for y, x in np.ndindex(high, wide):
        context = gathered[y, x] + np.array(overall) * given["GG"][y, x]
        result[y, x] = given["Q"][y, x] * (context @ given["WH"])
    return {"O": result}

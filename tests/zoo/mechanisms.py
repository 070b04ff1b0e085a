"""The entries of zoo.json as penstock's notation, and inputs for them."""

import json
import re
from pathlib import Path

PATH = Path(__file__).resolve().parents[3] / "shared" / "reference" / "zoo.json"
ENTRIES = json.loads(PATH.read_text())["mechanisms"] if PATH.exists() else []


def notation(entry):
    """Return an entry as a cascade file: a first line, its constants, and its equations."""
    inputs = ", ".join(f"{name}[{_ranks(kind)}]" for name, kind in entry["inputs"].items())
    lines = [f"  {line}" for line in _merged(entry, [_line(each) for each in entry["cascade"]])]
    text = "\n".join(lines)
    used = {
        name: value for name, value in entry["consts"].items() if re.search(rf"\b{name}\b", text)
    }
    consts = [f"  const {name} = {value}" for name, value in used.items()]
    output = entry["output"]
    ranks = entry["scatter_shapes"].get(output) or _left_ranks(entry, output)
    return "\n".join([f"cascade {entry['key']}({inputs}) -> {output}[{ranks}]", *consts, text])


def _ranks(kind):
    return kind.split("|")[0]


def _line(line):
    line = line.replace("SOFTMAX(", "softmax(")
    return re.sub(r"TOPK\((.*); *(\w+); *(\w+)\)", r"\1 :: topk[\2 -> \3]", line)


def _left_ranks(entry, name):
    for line in entry["cascade"]:
        found = re.match(rf"\s*{name}\[(.*?)\] =", line)
        if found:
            return found[1]
    raise ValueError(f"nothing defines {name}")


def _merged(entry, lines):
    """Name the ranks that are scattered to; give a loop's own tensors the index of the loop."""
    for name, ranks in entry["scatter_shapes"].items():
        if name == entry["output"]:
            continue
        for number, line in enumerate(lines):
            found = re.match(rf"{name}\[(.*)\] =", line)
            if found:
                places = _split(found[1])
                named = [
                    place if place == rank else f"{rank}={place}"
                    for rank, place in zip(ranks.split(","), places, strict=True)
                ]
                lines[number] = f"{name}[{','.join(named)}]" + line[found.end() - 2 :]
    return _with_loop_index(lines)


def _split(text):
    """Split at commas outside of brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _with_loop_index(lines):
    variable, result = "", []
    local = set()
    for line in lines:
        if line.startswith("loop "):
            variable = line.removeprefix("loop ").rstrip(":")
        elif not line.startswith(" "):
            variable = ""
        elif variable:
            left = re.match(r"\s*(\w+)\[(.*?)\]", line)
            if variable not in re.findall(r"\w+", left[2]):
                local.add(left[1])
        for name in local:
            line = re.sub(rf"\b{name}\[", f"{name}[{variable},", line)
        result.append(line)
    return result


def inputs(entry, rng, scale=1.0):
    """Return random arrays for an entry; `scale` multiplies those that are plain values."""
    arrays = {}
    for name, kind in entry["inputs"].items():
        ranks, _, sort = kind.partition("|")
        shape = tuple(entry["ranks"][rank] for rank in ranks.split(",") if rank)
        kind, _, limit = sort.partition(":")
        match kind:
            case "":
                array = rng.normal(size=shape) * scale
            case "int":
                array = rng.integers(0, entry["ranks"][limit], shape)
            case "gate":
                array = rng.uniform(0.05, 0.95, shape)
            case "gate1":
                array = rng.uniform(0.5, 1.5, shape)
            case "neg":
                array = -rng.uniform(0.1, 1, shape)
            case "bit":
                array = rng.integers(0, 2, shape).astype(float)
            case "one":
                array = rng.integers(0, 2, shape).astype(float)
                array.flat[:1] = 1
            case _:
                raise ValueError(f"{entry['key']}: input {name} is of an unknown kind '{kind}'")
        arrays[name] = array
    return arrays

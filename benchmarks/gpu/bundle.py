"""Write everything that a GPU machine needs to measure: `python benchmarks/gpu/bundle.py FOLDER`.

The folder holds, for each case and for several block tiles of its mapping, the generated source
with its launch data, and copies of `measure.py`, `rivals.py`, `triton_attention.py` and the
loader. On the GPU machine: `python FOLDER/measure.py FOLDER`. Where there is a GPU here,
`--measure` does both.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from penstock import zoo
from penstock.codegen.backends import Provenance
from penstock.codegen.base import digest
from penstock.codegen.gpu.plain import plain
from penstock.codegen.gpu.standalone import __file__ as loader
from penstock.codegen.lower.program import lower
from penstock.codegen.tvm.cuda import artifact
from penstock.einsum_ir.formats import parse_format
from penstock.mapper.nodes import Keep, Mapping, Nest, Node
from penstock.mapper.search.explore import explore
from penstock.runtime.streaming import streamed
from penstock.runtime.tiles import Tiles
from penstock.targets import TARGETS

HERE = Path(__file__).resolve().parent

CASES = {
    "dense": "attention",
    "causal": "causal_attention",
    "gqa_causal": "gqa_causal",
    "sliding_window": "sliding_window",
    "soft_cap": "soft_cap",
    "alibi": "alibi",
    "attention_sink": "attention_sink",
    "document_mask": "document_mask",
}
"""Case → stock cascade."""

CONSTANTS = {"sliding_window": {"W": 256.0}}
TILES = {
    64: ((128, 128, 2), (192, 128, 2), (128, 128, 3), (192, 96, 3)),
    128: ((128, 128, 2), (128, 176, 2), (128, 96, 2), (192, 80, 2)),
}
"""Width → (rows of a block, keys of a tile, buffers) to measure."""


def tiled(body: tuple[Node, ...], rows: int, buffers: int) -> tuple[Node, ...]:
    """Return a mapping's body with another block tile and other numbers of buffers."""
    found: list[Node] = []
    for node in body:
        if isinstance(node, Nest):
            loop = node.loop
            if loop.variable == "p" and loop.axis:
                loop = replace(loop, tile=rows)
            found.append(replace(node, loop=loop, body=tiled(node.body, rows, buffers)))
        elif isinstance(node, Keep) and {"K", "V"} & set(node.tensors):
            found.append(replace(node, buffers=buffers))
        else:
            found.append(node)
    return tuple(found)


def made(
    cascade: str, case: str, width: int, length: int, tile: tuple[int, int, int], machine: str
) -> Any:
    """Return a variant: (artifact, launch data, mapping)."""
    target, fmt = TARGETS.get(machine), parse_format("bf16")
    heads = 16
    sizes = {"h": heads, "g": 4, "p": length, "m": length, "e": width, "f": width}
    whole = zoo.load(cascade)
    used = {v for each in whole.einsums for v in each.variables}
    used |= {rank for each in whole.inputs for rank in each.ranks}
    sizes = {name: size for name, size in sizes.items() if name in used}
    rows, keys, buffers = tile
    bound = streamed(whole, sizes, CONSTANTS.get(case, {}), Tiles(keys, keys, keys))
    mapping: Mapping = explore(bound, target, fmt).mapping
    mapping = replace(mapping, body=tiled(mapping.body, rows, buffers))
    mapping = plain(mapping, bound, target) or mapping
    program = lower(bound, mapping, target, fmt)
    name, digits = whole.name, digest(str(bound.cascade), str(mapping))
    command = "python benchmarks/gpu/bundle.py"
    source = Provenance(name, digits, command, plain=lambda: program)
    return artifact(program, target, source), bound, sizes, mapping


def points(case: str, length: int) -> float:
    """Return the pairs of row and key that are present in a head."""
    rows = range(length)
    if case == "dense":
        return float(length) ** 2
    if case == "sliding_window":
        return float(sum(min(p + 1, 256) for p in rows))
    return float(length * (length + 1) // 2)


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--target", default="h200")
    parser.add_argument("--lengths", default="4096,16384")
    parser.add_argument("--widths", default="64,128")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--measure", action="store_true")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    widths, lengths = ([int(n) for n in each.split(",")] for each in (given.widths, given.lengths))
    told = [
        written(given.folder, case, width, length, given.target)
        for case in given.cases.split(",")
        for width in widths
        for length in lengths
    ]
    (given.folder / "cases.json").write_text(json.dumps(told, indent=1) + "\n")
    for name in ("measure.py", "rivals.py", "triton_attention.py"):
        shutil.copy(HERE / name, given.folder / name)
    shutil.copy(loader, given.folder / "launch.py")
    if given.measure:
        command = [sys.executable, str(given.folder / "measure.py"), str(given.folder)]
        raise SystemExit(subprocess.run(command, check=False).returncode)


def written(folder: Path, case: str, width: int, length: int, machine: str) -> dict[str, Any]:
    """Write the variants of a case; return what `measure.py` needs to know."""
    variants, shape, inputs = [], {}, {}
    for tile in TILES[width]:
        artifact_, bound, shape, _ = made(CASES[case], case, width, length, tile, machine)
        name = "x".join(str(each) for each in tile)
        place = f"{case}_{width}_{length}_{name}"
        artifact_.save(folder / place)
        launch = json.loads(str(artifact_.files["launch.json"]))
        kinds = sorted({each.get("kind", "loop") for each in launch["steps"]} - {"plain"})
        label = f"{name} {'+'.join(kinds) or 'plain'}"
        print(
            place,
            label,
            *[each["why"] for each in launch["steps"] if each.get("why") and not kinds],
        )
        variants.append({"name": label, "folder": place})
        inputs = {
            each["name"]: each["shape"]
            for each in launch["parameters"][: len(bound.cascade.inputs)]
        }
    return {
        "case": case,
        "label": f"{case} d={width} n={length}",
        "format": "bf16",
        "shape": shape,
        "constants": CONSTANTS.get(case, {}),
        "inputs": inputs,
        "variants": variants,
        "flops": 4.0 * shape["h"] * width * points(case, length),
    }


if __name__ == "__main__":
    main()
